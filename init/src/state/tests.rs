//! The files against crashes, full disks and strangers who were at `/var`.

use super::*;
use rustix::fs::IFlags;
use std::os::unix::fs::{PermissionsExt, symlink};

/// Rounds in which two processes race.
const WRITES: u32 = 300;

/// A root with the folder in it, taken away at the end.
struct Rig(PathBuf);

impl Rig {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("init-state-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("lib/state")).unwrap();
        Self(root)
    }

    fn open(&self) -> StateDir {
        let owner = rustix::process::geteuid().as_raw();
        StateDir::open_below(&self.0, "lib/state", owner).unwrap()
    }

    fn refused(&self) -> String {
        let owner = rustix::process::geteuid().as_raw();
        let opened = StateDir::open_below(&self.0, "lib/state", owner);
        opened.unwrap_err().to_string()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join("lib/state").join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.at("")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fifo(path: &Path) {
    let kind = FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::from_raw_mode(0o644), 0).unwrap();
}

/// What can lie where a file belongs, and the words for it.
fn obstruct(path: &Path, how: &str) {
    match how {
        "a symbolic link" => symlink("/dev/zero", path).unwrap(),
        "a FIFO" => fifo(path),
        "a directory" => std::fs::create_dir(path).unwrap(),
        "at most 4096" => File::create(path).unwrap().set_len(1 << 30).unwrap(),
        "an empty file" => drop(File::create(path).unwrap()),
        "2 names" => {
            let other = path.with_extension("other");
            std::fs::write(&other, "theirs").unwrap();
            std::fs::hard_link(other, path).unwrap();
        }
        "others than its owner" => {
            std::fs::write(path, "theirs").unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap();
        }
        _ => panic!("{how}"),
    }
}

const OBSTRUCTIONS: [&str; 7] = [
    "a symbolic link",
    "a FIFO",
    "a directory",
    "at most 4096",
    "an empty file",
    "2 names",
    "others than its owner",
];

#[test]
fn what_was_written_is_read_and_what_was_reserved_is_not_there() {
    let rig = Rig::new("plain");
    let dir = rig.open();
    assert_eq!(dir.read(REBOOTS).unwrap(), None);
    assert!(dir.reserve().is_empty());
    assert_eq!(dir.read(REBOOTS).unwrap(), None);
    for text in ["1", "2", "two\nlines"] {
        dir.write(REBOOTS, text.as_bytes()).unwrap();
        assert_eq!(dir.read(REBOOTS).unwrap().unwrap(), text.as_bytes());
        // A person reads it, and so does an older version of this program.
        let seen = std::fs::read_to_string(rig.at("reboots")).unwrap();
        assert_eq!((seen.trim(), seen.len()), (text, REBOOTS.capacity));
    }
    dir.write(REBOOTS, b"").unwrap();
    assert_eq!(dir.read(REBOOTS).unwrap(), None);
    assert!(dir.reserve().is_empty());
    let names: Vec<String> = ALL
        .iter()
        .flat_map(|file| [file.name.to_owned(), file.spare()])
        .collect();
    let mut expected = names;
    expected.sort();
    assert_eq!(rig.names(), expected);
}

#[test]
fn a_write_allocates_and_frees_nothing() {
    let rig = Rig::new("blocks");
    let dir = rig.open();
    assert!(dir.reserve().is_empty());
    let inodes = || {
        let ino = |name: &str| std::fs::metadata(rig.at(name)).unwrap().ino();
        let mut both = [ino("slots.json"), ino("slots.json.spare")];
        both.sort_unstable();
        both
    };
    let before = inodes();
    for round in 0..5 {
        let text = "x".repeat(SLOTS.capacity - round);
        dir.write(SLOTS, text.as_bytes()).unwrap();
        assert_eq!(dir.read(SLOTS).unwrap().unwrap(), text.as_bytes());
        assert_eq!(inodes(), before);
        for name in ["slots.json", "slots.json.spare"] {
            let file = File::open(rig.at(name)).unwrap();
            assert!(has_blocks(&file, SLOTS.capacity), "{name}");
        }
    }
    let long = dir
        .write(SLOTS, &vec![b'x'; SLOTS.capacity + 1])
        .unwrap_err();
    assert!(matches!(long.problem, Problem::TooLarge(..)), "{long}");
}

/// A file system in memory, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: &Path, options: &std::ffi::CStr) -> Self {
        let flags = rustix::mount::MountFlags::NODEV;
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(options)).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_var_hinders_no_write() {
    for (options, full) in [
        (c"size=512k", "blocks"),
        (c"size=64m,nr_inodes=64", "inodes"),
    ] {
        let rig = Rig::new(&format!("full-{full}"));
        let _mounted = Mounted::new(&rig.0, options);
        std::fs::create_dir_all(rig.at("")).unwrap();
        let dir = rig.open();
        assert!(dir.reserve().is_empty());
        dir.write(SLOTS, b"{}").unwrap();
        // What a service does to `/var` at worst: until not one more byte or name is taken.
        let another = |number: usize| {
            let path = rig.0.join(format!("theirs-{number}"));
            let bytes = if full == "blocks" { 4096 } else { 0 };
            std::fs::write(path, vec![0; bytes])
        };
        let refused = (0..100_000).find_map(|number| another(number).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::StorageFull);
        assert!(std::fs::write(rig.at("another"), b"1").is_err());
        for round in 0..3 {
            let text = format!("{round}").repeat(60_000);
            dir.prove_writable(SLOTS).unwrap();
            dir.write(SLOTS, text.as_bytes()).unwrap();
            assert_eq!(dir.read(SLOTS).unwrap().unwrap(), text.as_bytes());
            dir.write(REBOOTS, &text.as_bytes()[..9]).unwrap();
            // As the next boot does.
            assert!(rig.open().reserve().is_empty());
        }
    }
}

#[test]
fn a_file_of_the_time_before_the_spares_is_kept_and_gets_its_blocks() {
    let rig = Rig::new("older");
    std::fs::write(rig.at("reboots"), "2\n").unwrap();
    let dir = rig.open();
    assert_eq!(dir.read(REBOOTS).unwrap().unwrap(), b"2");
    assert!(dir.reserve().is_empty());
    assert_eq!(dir.read(REBOOTS).unwrap().unwrap(), b"2");
    assert!(dir.is_reserved("reboots", REBOOTS.capacity));
    assert!(dir.is_reserved("reboots.spare", REBOOTS.capacity));
}

#[test]
fn what_obstructs_a_file_is_named_and_a_write_replaces_it() {
    for how in OBSTRUCTIONS {
        let rig = Rig::new("file");
        obstruct(&rig.at("reboots"), how);
        let dir = rig.open();
        let seen = dir.read(REBOOTS).unwrap_err().to_string();
        assert!(
            seen.contains(how) && seen.contains("lib/state/reboots: "),
            "{seen}"
        );
        assert!(dir.prove_writable(REBOOTS).is_err(), "{how}");
        // It is left for its reader to judge.
        let told = dir.reserve();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(dir.read(REBOOTS).unwrap_err().to_string(), seen);
        dir.write(REBOOTS, b"3").unwrap();
        assert_eq!(dir.read(REBOOTS).unwrap().unwrap(), b"3");
        assert!(dir.reserve().is_empty(), "{how}");
        dir.prove_writable(REBOOTS).unwrap();
    }
}

#[test]
fn what_obstructs_a_spare_gives_way_and_is_not_written_to() {
    for how in OBSTRUCTIONS {
        let rig = Rig::new("spare");
        let dir = rig.open();
        assert!(dir.reserve().is_empty());
        std::fs::remove_file(rig.at("reboots.spare")).unwrap();
        obstruct(&rig.at("reboots.spare"), how);
        dir.write(REBOOTS, b"3").unwrap();
        assert_eq!(dir.read(REBOOTS).unwrap().unwrap(), b"3");
        assert!(dir.is_reserved("reboots.spare", REBOOTS.capacity), "{how}");
        if how == "2 names" {
            let theirs = std::fs::read(rig.at("reboots.other")).unwrap();
            assert_eq!(theirs, b"theirs");
        }
        let aside = rig.names().contains(&"reboots.spare.obstructed-1".into());
        assert_eq!(aside, how == "a directory");
    }
}

#[test]
fn a_folder_that_is_not_roots_is_refused() {
    let rig = Rig::new("folder");
    std::fs::set_permissions(rig.at(""), PermissionsExt::from_mode(0o777)).unwrap();
    assert!(rig.refused().contains("others than its owner may write"));
    let foreign = StateDir::open_below(&rig.0, "lib/state", 4711).unwrap_err();
    assert!(foreign.to_string().contains("not to 4711"), "{foreign}");
    std::fs::remove_dir(rig.at("")).unwrap();
    assert!(rig.refused().contains("No such file"));
    for (how, make) in [
        (
            "a symbolic link",
            (|p| symlink("/etc", p).unwrap()) as fn(&Path),
        ),
        ("a FIFO", |p| fifo(p)),
        ("a file", |p| drop(File::create(p).unwrap())),
    ] {
        let path = rig.0.join("lib/state");
        make(&path);
        assert!(rig.refused().contains(how), "{}", rig.refused());
        std::fs::remove_file(&path).unwrap();
    }
    // A link on the way is one as well.
    std::fs::rename(rig.0.join("lib"), rig.0.join("other")).unwrap();
    symlink("other", rig.0.join("lib")).unwrap();
    std::fs::create_dir(rig.0.join("other/state")).unwrap();
    let seen = rig.refused();
    assert!(
        seen.contains("symbolic link") || seen.contains("Too many"),
        "{seen}"
    );
}

#[test]
fn a_file_that_not_even_root_may_change_is_changed() {
    for flag in [IFlags::IMMUTABLE, IFlags::APPEND] {
        let rig = Rig::new("fixed");
        let state = rig.open();
        assert!(state.reserve().is_empty());
        state.write(REBOOTS, b"1").unwrap();
        for name in ["reboots", "reboots.spare"] {
            let file = File::open(rig.at(name)).unwrap();
            let flags = rustix::fs::ioctl_getflags(&file).unwrap();
            rustix::fs::ioctl_setflags(&file, flags | flag).unwrap();
        }
        assert_eq!(state.read(REBOOTS).unwrap(), Some(b"1".to_vec()));
        state.write(REBOOTS, b"2").unwrap();
        assert_eq!(state.read(REBOOTS).unwrap(), Some(b"2".to_vec()));
    }
}

/// The slot daemon records what the update, which proves meanwhile that the record can be written, must not undo.
#[test]
fn two_processes_that_write_take_turns() {
    let rig = Rig::new("turns");
    let first = rig.open();
    let round = std::sync::Barrier::new(2);
    let undone = std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = rig.open();
            for _ in 0..WRITES {
                round.wait();
                other.prove_writable(SLOTS).unwrap();
                round.wait();
            }
        });
        let mut undone = None;
        for number in 0..WRITES {
            let written = number.to_string().into_bytes();
            round.wait();
            first.write(SLOTS, &written).unwrap();
            round.wait();
            if first.read(SLOTS).unwrap() != Some(written) {
                undone = Some(number);
            }
        }
        undone
    });
    assert_eq!(undone, None, "a write that was undone");
}

#[test]
fn a_lock_that_is_not_let_go_is_an_error_of_every_operation() {
    let rig = Rig::new("locked");
    let holder = rig.open();
    holder.write(REBOOTS, b"1 2").unwrap();
    let before = rig.names();
    let mut waiting = rig.open();
    waiting.lock_tries = 2;
    let turn = holder
        .lock(FlockOperation::NonBlockingLockExclusive)
        .unwrap();
    let refused = [
        waiting.read(REBOOTS).unwrap_err(),
        waiting.write(REBOOTS, b"3 4").unwrap_err(),
        waiting.prove_writable(REBOOTS).unwrap_err(),
        waiting.set_aside(REBOOTS).unwrap_err(),
        waiting.reserve().remove(0),
    ];
    for error in refused {
        assert!(matches!(error.problem, Problem::Locked), "{error}");
        let text = format!("{}: another process holds the lock", waiting.path.display());
        assert!(error.to_string().starts_with(&text), "{error}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    }
    assert_eq!(rig.names(), before);
    drop(turn);
    assert_eq!(waiting.read(REBOOTS).unwrap().unwrap(), b"1 2");
    // Readers do not wait for each other.
    let turn = holder.lock(FlockOperation::NonBlockingLockShared).unwrap();
    assert!(waiting.read(REBOOTS).is_ok() && waiting.write(REBOOTS, b"3 4").is_err());
    drop(turn);
    assert!(waiting.set_aside(REBOOTS).unwrap().is_some());
    assert!(waiting.reserve().is_empty());
}
