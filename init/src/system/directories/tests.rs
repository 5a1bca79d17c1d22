//! Directories against what a stranger can have left at `/var`.

use super::*;
use rustix::fs::{CWD, FileType, IFlags};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;

const APP: u32 = 800;
const OTHER: u32 = 801;

/// A root, and beside it what must stay as it is.
struct Rig(PathBuf);

impl Rig {
    fn new(name: &str) -> Self {
        let base = std::env::temp_dir().join(format!("init-dirs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&base);
        std::fs::create_dir_all(base.join("var")).unwrap();
        std::fs::create_dir_all(base.join("outside")).unwrap();
        std::fs::set_permissions(base.join("outside"), PermissionsExt::from_mode(0o700)).unwrap();
        Self(base)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join("var").join(path)
    }

    fn make(&self, path: &str, uid: u32) -> (Result<(), String>, Vec<Mended>) {
        let wanted = Directory {
            path: path.to_owned(),
            uid,
            gid: uid,
            mode: 0o750,
        };
        let mut told = Vec::new();
        let result = make_below(&self.at(""), path, &wanted, &mut |m| told.push(m));
        (result, told)
    }

    fn owner_and_mode(&self, path: &str) -> (u32, u32, u32) {
        let stat = std::fs::symlink_metadata(self.at(path)).unwrap();
        assert!(stat.is_dir());
        (stat.uid(), stat.gid(), stat.mode() & 0o7777)
    }

    fn outside_is_untouched(&self) {
        let stat = std::fs::metadata(self.0.join("outside")).unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777), (0, 0o700));
        assert_eq!(
            std::fs::read_dir(self.0.join("outside")).unwrap().count(),
            0
        );
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn obstruct(path: &Path, how: &str) {
    let node = |kind, device| {
        rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), device).unwrap();
    };
    match how {
        "a symbolic link" => symlink("../../outside", path).unwrap(),
        "a FIFO" => node(FileType::Fifo, 0),
        "a device" => node(FileType::CharacterDevice, rustix::fs::makedev(1, 5)),
        "a socket" => node(FileType::Socket, 0),
        "a file" => std::fs::write(path, "theirs").unwrap(),
        _ => panic!("{how}"),
    }
}

const OBSTRUCTIONS: [&str; 5] = [
    "a symbolic link",
    "a FIFO",
    "a device",
    "a socket",
    "a file",
];

#[test]
fn what_is_missing_is_made_and_what_is_there_is_kept() {
    let rig = Rig::new("plain");
    for _ in 0..2 {
        assert_eq!(rig.make("/lib/.//app", APP), (Ok(()), vec![]));
        assert_eq!(rig.owner_and_mode("lib"), (0, 0, 0o755));
        assert_eq!(rig.owner_and_mode("lib/app"), (APP, APP, 0o750));
    }
    std::fs::write(rig.at("lib/app/data"), "kept").unwrap();
    std::fs::set_permissions(rig.at("lib/app"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(rig.make("/lib/app", APP), (Ok(()), vec![]));
    assert_eq!(rig.owner_and_mode("lib/app"), (APP, APP, 0o750));
    assert_eq!(
        std::fs::read_to_string(rig.at("lib/app/data")).unwrap(),
        "kept"
    );
    let (result, _) = rig.make("", 0);
    assert_eq!((result, rig.owner_and_mode("")), (Ok(()), (0, 0, 0o750)));
    let nowhere = Directory {
        path: "/variable/x".into(),
        uid: 0,
        gid: 0,
        mode: 0o755,
    };
    assert!(
        make(&nowhere, &mut |_| ())
            .unwrap_err()
            .contains("not below")
    );
}

#[test]
fn what_is_in_the_way_is_renamed_and_nothing_outside_changes() {
    for how in OBSTRUCTIONS {
        for place in ["lib", "lib/app"] {
            let rig = Rig::new("obstructed");
            std::fs::create_dir_all(rig.at(place).parent().unwrap()).unwrap();
            obstruct(&rig.at(place), how);
            let (result, told) = rig.make("/lib/app", APP);
            assert_eq!(result, Ok(()), "{how} at {place}");
            assert_eq!(rig.owner_and_mode("lib/app"), (APP, APP, 0o750));
            let aside = std::fs::symlink_metadata(rig.at(&format!("{place}.obstructed-1")));
            assert!(!aside.unwrap().is_dir());
            assert_eq!(told.len(), 1);
            assert_eq!(told[0].seen, how);
            assert!(told[0].path.ends_with(&format!("/{place}")), "{told:?}");
            assert!(told[0].then.contains(".obstructed-1"), "{told:?}");
            rig.outside_is_untouched();
        }
    }
}

#[test]
fn a_directory_below_another_users_is_refused() {
    let rig = Rig::new("nested");
    assert_eq!(rig.make("/lib/app", APP).0, Ok(()));
    for user in [0, OTHER] {
        let refused = rig.make("/lib/app/cache", user).0.unwrap_err();
        assert!(refused.contains("belongs to the user 800"), "{refused}");
        assert!(!rig.at("lib/app/cache").exists());
    }
    // What is the user's own all the way is.
    assert_eq!(rig.make("/lib/app/own/deep", APP).0, Ok(()));
    // The user swaps his folder for a link: the second boot must not follow it.
    std::fs::remove_dir_all(rig.at("lib/app/own")).unwrap();
    symlink("../../../outside", rig.at("lib/app/own")).unwrap();
    let (result, told) = rig.make("/lib/app/own", APP);
    assert_eq!((result, told.len()), (Ok(()), 1));
    rig.outside_is_untouched();
}

#[test]
fn an_owner_or_mode_that_others_could_have_used_is_told() {
    let rig = Rig::new("owner");
    std::fs::create_dir(rig.at("lib")).unwrap();
    chown(rig.at("lib"), Some(OTHER), Some(OTHER)).unwrap();
    let (result, told) = rig.make("/lib", 0);
    assert_eq!((result, rig.owner_and_mode("lib")), (Ok(()), (0, 0, 0o750)));
    assert_eq!(told[0].seen, "owner 801:801 mode 0755");
    assert_eq!(told[0].then, "owner 0:0 mode 0750");
    std::fs::set_permissions(rig.at("lib"), PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(rig.make("/lib", 0).1[0].seen, "owner 0:0 mode 0777");
    assert_eq!(rig.owner_and_mode("lib"), (0, 0, 0o750));
}

#[test]
fn another_file_system_is_not_entered() {
    let rig = Rig::new("mount");
    std::fs::create_dir_all(rig.at("lib/app")).unwrap();
    let flags = rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("tmpfs", rig.at("lib/app"), "tmpfs", flags, None).unwrap();
    let (result, _) = rig.make("/lib/app", APP);
    let owner = std::fs::metadata(rig.at("lib/app")).unwrap().uid();
    rustix::mount::unmount(rig.at("lib/app"), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(result.unwrap_err().contains("another file system"));
    assert_eq!(owner, 0);
}

#[test]
fn a_directory_that_not_even_root_may_change_is_mended() {
    let rig = Rig::new("fixed");
    for path in ["a", "a/b"] {
        std::fs::create_dir_all(rig.at(path)).unwrap();
    }
    for path in ["a/b", "a"] {
        let folder = std::fs::File::open(rig.at(path)).unwrap();
        let flags = rustix::fs::ioctl_getflags(&folder).unwrap();
        rustix::fs::ioctl_setflags(&folder, flags | IFlags::IMMUTABLE).unwrap();
    }
    let (made, told) = rig.make("a/b/c", 0);
    made.unwrap();
    let seen: Vec<&str> = told.iter().map(|mended| mended.seen.as_str()).collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(
        seen.iter().all(|seen| seen.contains("immutable")),
        "{seen:?}"
    );
    assert_eq!(rig.make("a/b/c", 0), (Ok(()), vec![]));
}
