//! The floor of the benchmark: the least that brings the runtime up on the same root.
//!
//! It knows what it will find (virtio disk and network, the partitions by number, the address that
//! QEMU's user network hands out) and decides nothing: modules by name, the verity mapping, the
//! mounts, and the runtime in place of itself. No supervision, no DHCP, no logs, no shutdown. What an
//! init adds to a boot is the time above this.

use astromesh_init::cmdline::Cmdline;
use astromesh_init::devices::dm;
use astromesh_init::devices::modules::Modules;
use astromesh_init::initramfs::{switch_root, verity};
use astromesh_init::{mounts, sys};
use rustix::fd::AsRawFd;
use rustix::mount::{MountFlags, mount};
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::{FileExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The partitions of the shipped layout.
const DATA: &str = "/dev/vda2";
const HASH: &str = "/dev/vda3";
const VAR: &str = "/dev/vda6";

/// The user `astromesh`.
const USER: u32 = 800;

fn main() {
    let rootfs = std::path::Path::new("/sysroot").exists();
    let Err(e) = if rootfs { reach_root() } else { run() };
    // PID 1 ends here, and `panic=` does the rest.
    eprintln!("floor: {e}");
}

fn reach_root() -> Result<std::convert::Infallible, Box<dyn Error>> {
    mounts::early()?;
    let modules = Modules::of_running_kernel()?;
    for name in ["virtio_blk", "dm-verity", "sha256-ssse3", "erofs"] {
        modules.load(name)?;
    }
    let cmdline = Cmdline::parse(&std::fs::read_to_string("/proc/cmdline")?);
    let roothash = cmdline.roothash.ok_or("no roothash=")?;
    let mut superblock = [0u8; verity::SUPERBLOCK_LEN];
    File::open(HASH)?.read_exact_at(&mut superblock, 0)?;
    let superblock = verity::Superblock::parse(&superblock, u64::MAX)?;
    let parameters = superblock.table(DATA, HASH, &roothash);
    let target = dm::Target {
        kind: "verity",
        sectors: superblock.sectors(),
        parameters: &parameters,
    };
    let device = dm::create_read_only("root", &superblock.dm_uuid("root"), &target)?;
    mount(
        format!("/dev/{device}"),
        "/sysroot",
        "erofs",
        MountFlags::RDONLY,
        None,
    )?;
    Err(switch_root::enter("/sysroot", "/sbin/init").into())
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
