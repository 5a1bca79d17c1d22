//! `/var`: the one writable place that outlives a reboot.
//!
//! It is the partition of the type `var` (Discoverable Partitions Specification) on the disk that
//! holds the root. One that does not mount is never formatted: it may hold what somebody needs. The
//! machine then runs `degraded` on a `/var` in memory and says so. One fault is mended, since it is what a
//! power cut leaves: see [`super::ext4`].
//!
//! What an ext4 is mounted with if nobody says otherwise stands in its superblock, which whoever wrote to the disk may
//! have changed: `errors=panic` and one damaged inode, or a `min_batch_time` of an hour, which every synchronous write
//! then takes, are a machine that never boots again. So [`OPTIONS`] says it all.

use super::ext4;
use crate::devices::disks::{self, Partition};
use crate::devices::gpt::Guid;
use crate::mounts;
use rustix::mount::mount;
use std::ffi::CStr;
use std::path::Path;
use supervisor::event::Event;

/// Discoverable Partitions Specification.
const VAR_TYPE: &str = "4d21b016-b534-45c2-a9fb-5c16e091fd2d";

/// The options of ext4(5) by which a superblock could stop the machine or lose what was synced; the values are the
/// kernel's own. An error is told in the kernel's log, and the rest of `/var` can be used: read-only, no service runs.
const OPTIONS: &CStr = c"errors=continue,barrier=1,commit=5,min_batch_time=0,max_batch_time=15000";

/// Mounts `/var` and says what became of it.
#[must_use]
pub fn mount_var() -> Event {
    let partitions = disks::partitions(&mut |_, _| {});
    let result = find(&partitions, root_disk().as_deref()).and_then(|partition| {
        let node = partition.path();
        let mounted = || mount_ext4(&node, Path::new("/var"));
        let result = match mounted() {
            Err(_) if mended(&node) => mounted().map(|()| (partition, true)),
            other => other.map(|()| (partition, false)),
        };
        result.map_err(|e| {
            format!(
                "mount {} on /var as ext4: {}",
                node.display(),
                std::io::Error::from(e)
            )
        })
    });
    match result {
        Ok((partition, mended)) => {
            let event = Event::new("boot.var")
                .with("device", &partition.name)
                .with("disk", &partition.disk)
                .with("bytes", partition.size);
            match mended {
                true => event.with("mended", "superblock"),
                false => event,
            }
        }
        Err(why) => {
            let fallback = mount(
                "tmpfs",
                "/var",
                "tmpfs",
                mounts::DATA,
                Some(c"mode=0755,size=20%"),
            );
            let event = Event::new("boot.degraded")
                .with("reason", "var")
                .with("seen", why);
            match fallback {
                Ok(()) => event.with("then", "/var in memory, the partition is left untouched"),
                Err(e) => event.with(
                    "then",
                    format!("no /var at all: {}", std::io::Error::from(e)),
                ),
            }
        }
    }
}

/// Mounts an ext4 such that its superblock has no say in it.
fn mount_ext4(node: &Path, target: &Path) -> rustix::io::Result<()> {
    mount(node, target, "ext4", mounts::DATA, Some(OPTIONS))
}

/// Whether the superblock was torn, and is whole now.
fn mended(node: &Path) -> bool {
    let device = std::fs::File::options().read(true).write(true).open(node);
    device.is_ok_and(|device| ext4::mend(&device).unwrap_or(false) && device.sync_all().is_ok())
}

/// The partition for `/var`: of its type, on the root's disk. Two of them are a riddle, not a choice.
pub(super) fn find(partitions: &[Partition], disk: Option<&str>) -> Result<Partition, String> {
    let disk = disk.ok_or("the root is on no disk that sysfs tells")?;
    let mut fitting = partitions
        .iter()
        .filter(|p| p.disk == disk && Some(p.type_guid) == Guid::parse(VAR_TYPE));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.clone()),
        (None, _) => Err(format!("no partition of type {VAR_TYPE} on {disk}")),
        (Some(one), Some(other)) => Err(format!(
            "two partitions of type {VAR_TYPE} on {disk}: {} and {}",
            one.name, other.name
        )),
    }
}

/// The disk below the root's mapping, from sysfs: the device of `/`, what it is made of, and the
/// disk that those are parts of.
pub(super) fn root_disk() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata("/").ok()?.dev();
    let block = format!(
        "/sys/dev/block/{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let below = std::fs::read_dir(Path::new(&block).join("slaves"))
        .ok()?
        .flatten()
        .next()?;
    let partition = std::fs::canonicalize(below.path()).ok()?;
    let holder = if partition.join("partition").exists() {
        partition.parent()?
    } else {
        &partition
    };
    Some(holder.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(disk: &str, number: u32, kind: &str) -> Partition {
        Partition {
            name: format!("{disk}{number}"),
            disk: disk.into(),
            number: format!("254:{number}"),
            size: 1,
            type_guid: Guid::parse(kind).unwrap(),
            guid: Guid([1; 16]),
        }
    }

    /// Runs a program that has to succeed, and gives what it says.
    fn run(program: &str, arguments: &[&str]) -> String {
        let output = std::process::Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn a_superblock_cannot_ask_for_a_panic_or_for_an_hour_at_each_write() {
        let folder = std::env::temp_dir().join(format!("init-var-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let image = folder.join("image");
        let name = image.to_str().unwrap();
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(8 << 20))
            .unwrap();
        run("mkfs.ext4", &["-q", "-e", "panic", name]);
        let asked = "ssv mount_opts min_batch_time=3600000000,max_batch_time=3600000000,nobarrier";
        run("debugfs", &["-w", "-R", asked, name]);
        let node = run("losetup", &["--find", "--show", name]);
        let mounted = mount_ext4(Path::new(&node), &folder);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let _ = rustix::mount::unmount(&folder, rustix::mount::UnmountFlags::DETACH);
        run("losetup", &["--detach", &node]);
        std::fs::remove_dir_all(&folder).unwrap();
        mounted.unwrap();
        let target = folder.to_str().unwrap();
        let line = mounts.lines().find(|line| line.contains(target)).unwrap();
        assert!(line.contains("errors=continue"), "{line}");
        assert!(!line.contains("batch_time"), "{line}");
        assert!(!line.contains("nobarrier"), "{line}");
    }

    #[test]
    fn only_the_one_on_the_roots_disk() {
        let other = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
        let seen = [
            partition("vda", 1, other),
            partition("vda", 6, VAR_TYPE),
            partition("vdb", 1, VAR_TYPE),
        ];
        assert_eq!(find(&seen, Some("vda")).map(|p| p.name), Ok("vda6".into()));
        assert!(
            find(&seen, Some("vdc"))
                .unwrap_err()
                .contains("no partition of type")
        );
        assert!(find(&seen, None).is_err());
        let twice = [partition("vda", 6, VAR_TYPE), partition("vda", 7, VAR_TYPE)];
        assert!(
            find(&twice, Some("vda"))
                .unwrap_err()
                .contains("vda6 and vda7")
        );
    }
}
