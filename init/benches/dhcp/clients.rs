//! The clients: how each is started, what it keeps, and where it comes from.
//!
//! Each does the usual with what its Debian package brings: address, router, `resolv.conf`.
//! systemd-networkd leaves the last to another program, so it does less than the others.

use super::bed::{Bed, UID, tools};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Netcfg,
    Udhcpc,
    Dhclient,
    Dhcpcd,
    /// Without its random delay and its ARP probes, both of which it has by default.
    DhcpcdQuick,
    Networkd,
}

use Client::{Dhclient, Dhcpcd, DhcpcdQuick, Netcfg, Networkd, Udhcpc};

impl Client {
    pub const ALL: [Client; 6] = [Netcfg, Udhcpc, Dhclient, Dhcpcd, DhcpcdQuick, Networkd];

    pub fn name(self) -> &'static str {
        match self {
            Netcfg => "netcfg",
            Udhcpc => "udhcpc",
            Dhclient => "dhclient",
            Dhcpcd => "dhcpcd",
            DhcpcdQuick => "dhcpcd --nodelay --noarp",
            Networkd => "systemd-networkd",
        }
    }

    /// A MAC address of its own: to the server each client is another machine, whether it sends
    /// a client identifier or not.
    pub fn mac(self) -> String {
        format!("02:00:00:00:00:{:02x}", 0x10 + self as u8)
    }

    /// Where it keeps its lease, made if it is not there.
    pub fn state(self, bed: &Bed) -> PathBuf {
        let path = bed.folder.join(format!("state-{}", self as u8));
        std::fs::create_dir_all(&path).unwrap();
        if self == Netcfg {
            std::os::unix::fs::chown(&path, Some(UID), Some(UID)).unwrap();
        }
        path
    }

    /// Whether there is a lease in its folder.
    pub fn has_lease(self, bed: &Bed) -> bool {
        let entries = std::fs::read_dir(self.state(bed)).unwrap().flatten();
        entries.into_iter().any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let full = entry.metadata().is_ok_and(|meta| meta.len() > 0);
            full && name.contains("lease")
        })
    }

    /// Its program and arguments, in the foreground.
    pub fn command(self, bed: &Bed, programs: &Programs) -> Command {
        let state = self.state(bed);
        match self {
            Netcfg => {
                let mut command = Command::new(bed.program(Path::new(env!("CARGO_BIN_EXE_init"))));
                command
                    .args(["netcfg", "--runtime-dir", "/run/netcfg", "--config"])
                    .arg(bed.folder.join("config.toml"))
                    .arg("--state-dir")
                    .arg(state);
                command
            }
            Udhcpc => command("udhcpc", &["-f", "-i", "eth0"]),
            Dhclient => {
                let mut command = command("dhclient", &["-4", "-d", "-pf", "/run/dhclient.pid"]);
                command
                    .arg("-lf")
                    .arg(state.join("dhclient.leases"))
                    .arg("eth0");
                command
            }
            Dhcpcd => command("dhcpcd", &["-B", "eth0"]),
            DhcpcdQuick => command("dhcpcd", &["-B", "--nodelay", "--noarp", "eth0"]),
            Networkd => {
                let mut command = Command::new(&programs.networkd);
                if let Some(libraries) = &programs.libraries {
                    command.env("LD_LIBRARY_PATH", libraries);
                }
                command
            }
        }
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// What is not where it is looked for by itself.
#[derive(Debug)]
pub struct Programs {
    networkd: PathBuf,
    /// Of systemd alone.
    libraries: Option<PathBuf>,
}

const NETWORKD: &str = "lib/systemd/systemd-networkd";

impl Programs {
    /// Installs the clients. Of systemd only the files are taken, into `folder`: its package
    /// would be the machine's init.
    pub fn get(folder: &Path) -> Programs {
        tools::need(&[
            ("udhcpc", "udhcpc"),
            ("dhclient", "isc-dhcp-client"),
            ("dhcpcd", "dhcpcd-base"),
        ]);
        let installed = Path::new("/").join(NETWORKD);
        if installed.exists() {
            return Programs {
                networkd: installed,
                libraries: None,
            };
        }
        std::fs::create_dir_all(folder).unwrap();
        tools::run(
            command(
                "apt-get",
                &["download", "--quiet", "systemd", "libsystemd-shared"],
            )
            .current_dir(folder),
        );
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().extension().is_some_and(|e| e == "deb") {
                tools::run(Command::new("dpkg").arg("-x").arg(entry.path()).arg(folder));
            }
        }
        // In a folder named for the machine's architecture.
        let found = tools::run(
            Command::new("find")
                .arg(folder)
                .args(["-name", "libsystemd-shared-*.so"]),
        );
        Programs {
            networkd: folder.join(NETWORKD),
            libraries: Path::new(found.trim()).parent().map(Path::to_owned),
        }
    }
}

/// Packages and versions, as dpkg knows them.
pub fn versions() -> String {
    let packages = [
        "udhcpc",
        "isc-dhcp-client",
        "dhcpcd-base",
        "systemd",
        "kea-dhcp4-server",
        "dnsmasq-base",
    ];
    let mut query = command("dpkg-query", &["-W", "-f", "${Package} ${Version}, "]);
    let output = query.args(packages).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim_end_matches(", ").to_owned()
}
