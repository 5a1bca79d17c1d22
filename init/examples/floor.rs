//! The floor of the benchmark: the least that brings the runtime up on the same root.
//!
//! It knows what it will find (virtio disk and network, the partitions by number, the address that
//! QEMU's user network hands out) and decides nothing: modules by name, the verity mapping, the
//! mounts, and the runtime in place of itself. No supervision, no DHCP, no logs, no shutdown. What an
//! init adds to a boot is what it takes above this. With `floor.verity=no` on the kernel command line, which a host can
//! add, it does without the mapping and mounts the partition as it is.
//!
//! In an image for the counted benchmark it says where a phase begins, and starts the reporter (`counted.rs`), which waits for
//! the runtime's readiness on a socket made here.

use astromesh_init::cmdline::Cmdline;
use astromesh_init::devices::dm;
use astromesh_init::devices::modules::Modules;
use astromesh_init::initramfs::{switch_root, verity};
use astromesh_init::{mounts, sys};
use rustix::fd::AsRawFd;
use rustix::mount::{MountFlags, mount};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, chown};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The partitions of the shipped layout.
const DATA: &str = "/dev/vda2";
const HASH: &str = "/dev/vda3";
const VAR: &str = "/dev/vda6";

/// The word of the kernel command line for a root without verity.
const PLAIN: &str = "floor.verity=no";

/// The reporter of the counted benchmark, and the socket that the runtime tells its readiness on.
const REPORTER: &str = "/usr/bin/counted";
const NOTIFY: &str = "/run/counted";

/// The user `astromesh`.
const USER: u32 = 800;

fn main() {
    let rootfs = Path::new("/sysroot").exists();
    let Err(e) = if rootfs { reach_root() } else { run() };
    // PID 1 ends here, and `panic=` does the rest.
    eprintln!("floor: {e}");
}

fn reach_root() -> Result<std::convert::Infallible, Box<dyn Error>> {
    mounts::early()?;
    mark("initramfs")?;
    let modules = Modules::of_running_kernel()?;
    let text = std::fs::read_to_string("/proc/cmdline")?;
    let device = if text.split_whitespace().any(|word| word == PLAIN) {
        for name in ["virtio_blk", "erofs"] {
            modules.load(name)?;
        }
        DATA.to_owned()
    } else {
        for name in ["virtio_blk", "dm-verity", "sha256-ssse3", "erofs"] {
            modules.load(name)?;
        }
        mapped(&Cmdline::parse(&text).roothash.ok_or("no roothash=")?)?
    };
    mount(device, "/sysroot", "erofs", MountFlags::RDONLY, None)?;
    mark("root")?;
    Err(switch_root::enter("/sysroot", "/sbin/init").into())
}

/// Maps the root through dm-verity and gives the device.
fn mapped(roothash: &[u8; 32]) -> Result<String, Box<dyn Error>> {
    let mut superblock = [0u8; verity::SUPERBLOCK_LEN];
    File::open(HASH)?.read_exact_at(&mut superblock, 0)?;
    let superblock = verity::Superblock::parse(&superblock, u64::MAX)?;
    let parameters = superblock.table(DATA, HASH, roothash);
    let target = dm::Target {
        kind: "verity",
        sectors: superblock.sectors(),
        parameters: &parameters,
    };
    let device = dm::create_read_only("root", &superblock.dm_uuid("root"), &target)?;
    Ok(format!("/dev/{device}"))
}

/// Writes where a phase begins into the kernel's log, as an error, so that a quiet console has it.
fn mark(phase: &str) -> std::io::Result<()> {
    let mut log = OpenOptions::new().write(true).open("/dev/kmsg")?;
    log.write_all(format!("<3>counted: {phase}\n").as_bytes())
}

fn run() -> Result<std::convert::Infallible, Box<dyn Error>> {
    mounts::late()?;
    mount(VAR, "/var", "ext4", mounts::DATA, None)?;
    for folder in ["/var/lib/astromesh", "/var/log/astromesh"] {
        std::fs::create_dir_all(folder)?;
        chown(folder, Some(USER), Some(USER))?;
    }
    Modules::of_running_kernel()?.load("virtio_net")?;
    sys::loopback_up()?;
    configure("eth0", [10, 0, 2, 15], [255, 255, 255, 0])?;
    let mut runtime = Command::new("/usr/bin/astromeshd");
    runtime
        .args(["--config", "/etc/astromesh"])
        .env_clear()
        .envs([
            ("PATH", "/usr/bin:/usr/sbin"),
            ("LANG", "C.UTF-8"),
            ("HOME", "/var/lib/astromesh"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("PYTHONUNBUFFERED", "1"),
            ("PYDANTIC_DISABLE_PLUGINS", "__all__"),
            ("ASTROMESH_PERSIST_AGENTS", "0"),
        ])
        .uid(USER)
        .gid(USER);
    if Path::new(REPORTER).exists() {
        let socket = UnixDatagram::bind(NOTIFY)?;
        chown(NOTIFY, Some(USER), Some(USER))?;
        Command::new(REPORTER)
            .arg("--notify")
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .spawn()?;
        runtime.env("NOTIFY_SOCKET", NOTIFY);
    }
    mark("runtime")?;
    Err(runtime.exec().into())
}

/// Sets an interface's address and mask and brings it up (netdevice(7)).
fn configure(name: &str, address: [u8; 4], mask: [u8; 4]) -> std::io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let call = |request: libc::c_ulong, value: [u8; 16]| {
        // `struct ifreq`: a name of 16 bytes, then a union of 24.
        let mut ifreq = [0u8; 40];
        ifreq[..name.len()].copy_from_slice(name.as_bytes());
        ifreq[16..32].copy_from_slice(&value);
        // SAFETY: the kernel reads one `ifreq`, which the array is as large as.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), request as _, ifreq.as_ptr()) };
        if result < 0 {
            Err(std::io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // `struct sockaddr_in`: family, port, address.
    let inet = |[a, b, c, d]: [u8; 4]| {
        let family = u16::to_ne_bytes(2);
        let mut value = [0u8; 16];
        value[..8].copy_from_slice(&[family[0], family[1], 0, 0, a, b, c, d]);
        value
    };
    call(libc::SIOCSIFADDR, inet(address))?;
    call(libc::SIOCSIFNETMASK, inet(mask))?;
    let mut up = [0u8; 16];
    up[0] = 0x41;
    call(libc::SIOCSIFFLAGS, up)
}
