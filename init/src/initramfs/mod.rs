//! The first stage: from the kernel's start to the verified root.
//!
//! PID 1 on the kernel's rootfs, with nothing but the initramfs of the UKI. In order: the kernel's
//! file systems; the command line; the watchdog; drivers for what is there; both halves of the root, data and
//! hash, by the partition GUIDs that the roothash spells (Discoverable Partitions Specification:
//! the first and the last 128 bits of it); the verity mapping; the mount; and the
//! handover to `/sbin/init` on it.
//!
//! Waiting is done on the kernel's announcements, never by looking again and again, and is bounded
//! by `astromesh.root-timeout`. Each failure says what was looked for and what was seen.

pub mod root;
pub mod switch_root;
pub mod verity;

use crate::cmdline::Cmdline;
use crate::devices::modules::Modules;
use crate::devices::uevent::Uevents;
use crate::devices::watchdog::Watchdog;
use crate::devices::{self, disks, dm};
use crate::emit::Emitter;
use crate::failure::{self, Failure};
use crate::mounts;
use root::{Choice, Root};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, mount};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use supervisor::Time;
use supervisor::event::{Event, EventSink};
use supervisor::logger::now;

/// Modules that no device asks for: the mapping, the root's file system, the firmware's
/// variables, and the fast forms of the hash, which the kernel would ask a `modprobe` for.
const MODULES: [&str; 3] = ["dm-verity", "erofs", "efivarfs"];
const OPTIONAL_MODULES: [&str; 1] = ["sha256-ssse3"];

/// Where the root is mounted before it becomes `/`.
const SYSROOT: &str = "/sysroot";

/// The name of the mapping.
const MAPPING: &str = "root";

/// Where the events of this stage are left for the report of the boot.
pub const RECORD: &str = "/run/init/initramfs.events";

/// Runs the stage. Returns only into the next one.
pub fn run() -> ! {
    // Before anything else, so that even `/proc` failing can be told.
    let mut emitter = Emitter::direct();
    emitter.emit(
        Event::new("boot.start")
            .with("stage", "initramfs")
            .with("version", env!("CARGO_PKG_VERSION")),
    );
    let mut cmdline = Cmdline::parse("");
    let mut watchdog = Watchdog::default();
    let result = stage(&mut emitter, &mut cmdline, &mut watchdog);
    let Err(failure) = result;
    failure::end(&mut emitter, &failure, cmdline.on_failure, &mut watchdog)
}

fn stage(
    emitter: &mut Emitter,
    cmdline: &mut Cmdline,
    watchdog: &mut Watchdog,
) -> Result<std::convert::Infallible, Failure> {
    mounts::early().map_err(|e| Failure::new("mounts", "the kernel's file systems", e))?;
    let text = std::fs::read_to_string("/proc/cmdline")
        .map_err(|e| Failure::new("cmdline", "/proc/cmdline", e))?;
    *cmdline = Cmdline::parse(&text);
    for warning in &cmdline.warnings {
        warn(emitter, "cmdline", warning);
    }
    let modules = Modules::of_running_kernel().map_err(|e| {
        Failure::new(
            "modules",
            "the tables of the running kernel in the initramfs",
            e,
        )
    })?;
    *watchdog = Watchdog::arm_early(&modules, cmdline.watchdog, emitter);
    if let Some(problem) = cmdline.problems.first() {
        return Err(Failure::new(
            "cmdline",
            "one well-formed roothash=",
            problem,
        ));
    }
    let roothash = cmdline
        .roothash
        .ok_or_else(|| Failure::new("cmdline", "roothash=", "none on the kernel command line"))?;
    let uevents = Uevents::open().map_err(|e| Failure::new("uevents", "a netlink socket", e))?;
    load_modules(&modules, emitter);
    let wanted = Root::of(&roothash, loader_partition());
    let end = now() + cmdline.root_timeout;
    let (data, hash) = find(emitter, &wanted, &uevents, &modules, end, watchdog)?;
    watchdog.step();
    map(&data, &hash, &roothash)?;
    emitter.emit(
        Event::new("boot.root")
            .with("device", &data.name)
            .with("hash_device", &hash.name)
            .with("disk", &data.disk)
            .with("roothash", verity::hex(&roothash)),
    );
    leave_record(emitter);
    watchdog.step();
    watchdog.pass_on();
    let seen = switch_root::enter(SYSROOT, "/sbin/init");
    Err(Failure::new("handover", "/sbin/init on the root", seen))
}

fn load_modules(modules: &Modules, emitter: &mut Emitter) {
    for name in MODULES {
        if let Err(e) = modules.load(name) {
            warn(emitter, "module", e);
        }
    }
    for name in OPTIONAL_MODULES {
        let _ = modules.load(name);
    }
}

/// The partition that the firmware started us from, as systemd-boot and -stub say (Boot Loader
/// Interface): 4 bytes of attributes, then UTF-16.
fn loader_partition() -> Option<devices::gpt::Guid> {
    mounts::efivarfs().ok()?;
    let path =
        "/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let bytes = std::fs::read(path).ok()?;
    let text: String = bytes
        .get(4..)?
        .chunks_exact(2)
        .map(|pair| char::from(pair[0]))
        .take_while(|c| *c != '\0')
        .collect();
    devices::gpt::Guid::parse(&text)
}

/// Loads drivers, and waits, until both partitions of the root are there, or `end`.
///
/// One driver at a time, with a look after each, those of a virtual machine's own devices first: what
/// the root does not need is left to the running system, which loads it beside everything else.
fn find(
    emitter: &mut Emitter,
    wanted: &Root,
    uevents: &Uevents,
    modules: &Modules,
    end: Time,
    watchdog: &mut Watchdog,
) -> Result<(disks::Partition, disks::Partition), Failure> {
    let mut waiting: VecDeque<String> = devices::own_modaliases().into_iter().collect();
    let mut looked_everywhere = false;
    loop {
        watchdog.turn(now(), Some(end));
        let mut unreadable = Vec::new();
        let partitions = disks::partitions(&mut |disk, e| unreadable.push(format!("{disk}: {e}")));
        let left = end.saturating_sub(now());
        match wanted.choose(&partitions, left.is_zero()) {
            Choice::Found {
                data,
                hash,
                elsewhere,
            } => {
                if elsewhere {
                    warn(emitter, "root", "not on the disk the loader came from");
                }
                return Ok((data, hash));
            }
            Choice::Missing(missing) if left.is_zero() => {
                let seen: Vec<String> = partitions
                    .iter()
                    .map(|p| format!("{}={}", p.name, p.guid))
                    .chain(unreadable)
                    .collect();
                let seen = if seen.is_empty() {
                    "no partition at all".to_owned()
                } else {
                    seen.join(" ")
                };
                return Err(Failure::new("root", missing, seen));
            }
            Choice::Missing(_) => {}
        }
        if load_next(&mut waiting, modules, emitter) {
            continue;
        }
        if looked_everywhere {
            let limit = watchdog.interval().map_or(left, |i| i.min(left));
            wait(uevents, &mut waiting, limit);
        } else {
            waiting.extend(devices::modaliases());
            looked_everywhere = true;
        }
    }
}

/// Loads the next driver; false if there is none to load.
fn load_next(waiting: &mut VecDeque<String>, modules: &Modules, emitter: &mut Emitter) -> bool {
    let mut failed = |name: &str, e| warn(emitter, "module", format!("{name}: {e}"));
    while let Some(modalias) = waiting.pop_front() {
        if modules.load_for(&modalias, &mut failed) > 0 {
            return true;
        }
    }
    false
}

/// Waits for announcements of devices, and notes the drivers that these ask for.
fn wait(uevents: &Uevents, waiting: &mut VecDeque<String>, limit: std::time::Duration) {
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(1),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    let mut fds = [PollFd::from_borrowed_fd(uevents.fd(), PollFlags::IN)];
    let _ = poll(&mut fds, Some(&limit));
    while let Some(uevent) = uevents.next() {
        if uevent.action.is_empty() {
            // Some were lost: whatever is there now counts.
            waiting.extend(devices::modaliases());
        } else if !uevent.modalias.is_empty() && uevent.action == "add" {
            waiting.push_back(uevent.modalias);
        }
    }
}

fn warn(emitter: &mut Emitter, what: &'static str, seen: impl std::fmt::Display) {
    let event = Event::new("boot.warning").with("what", what);
    emitter.emit(event.with("seen", seen));
}

/// The root holds no device and no setuid file (the image build sees to that), and would get no use of one.
const ROOT: MountFlags = MountFlags::RDONLY.union(mounts::DATA);

/// Makes the verity mapping and mounts it.
fn map(
    data: &disks::Partition,
    hash: &disks::Partition,
    roothash: &[u8; 32],
) -> Result<(), Failure> {
    let looked_for = || {
        format!(
            "a verity superblock on {} (PARTUUID {})",
            hash.name, hash.guid
        )
    };
    let mut superblock = [0u8; verity::SUPERBLOCK_LEN];
    File::open(hash.path())
        .and_then(|device| device.read_exact_at(&mut superblock, 0))
        .map_err(|e| Failure::new("verity", looked_for(), e))?;
    let superblock = verity::Superblock::parse(&superblock, data.size)
        .map_err(|e| Failure::new("verity", looked_for(), e))?;
    let table = superblock.table(&data.number, &hash.number, roothash);
    let target = dm::Target {
        kind: "verity",
        sectors: superblock.sectors(),
        parameters: &table,
    };
    let device =
        dm::create_read_only(MAPPING, &superblock.dm_uuid(MAPPING), &target).map_err(|e| {
            Failure::new(
                "verity",
                format!("a mapping of {} and {}", data.name, hash.name),
                e,
            )
        })?;
    let node = format!("/dev/{device}");
    // The initramfs of another builder may not have it, and a mount would only say that something is missing.
    std::fs::create_dir_all(SYSROOT)
        .map_err(|e| Failure::new("root", format!("a folder {SYSROOT} in the initramfs"), e))?;
    mount(&node, SYSROOT, "erofs", ROOT, None).map_err(|e| {
        Failure::new(
            "root",
            format!("an erofs on {node}"),
            std::io::Error::from(e),
        )
    })
}

/// Leaves this stage's events for the report of the boot. A boot goes on without it.
fn leave_record(emitter: &Emitter) {
    let lines: String = emitter
        .newest(usize::MAX)
        .map(|(at, event)| format!("{}\n", event.line(at)))
        .collect();
    let _ = std::fs::create_dir_all("/run/init");
    let _ = std::fs::write(RECORD, lines);
}
