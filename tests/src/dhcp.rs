//! A DHCP server for the machines of a segment: Kea, the program of Debian's `kea-dhcp4-server`.

use crate::background::Background;
use anyhow::{Context, Result};
use qemu_harness::segment::{SERVER, Segment};
use qemu_harness::setup;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What it says when it acknowledges a lease, a new one or one that the client has already (Kea Messages
/// Manual).
const GRANTS: [&str; 2] = ["DHCP4_LEASE_ALLOC", "DHCP4_LEASE_REUSE"];

/// A running server. Dropping it ends it at once.
#[derive(Debug)]
pub struct Kea {
    program: Background,
    folder: PathBuf,
}

impl Kea {
    /// Serves `NET.50` to `NET.99` on the segment, on which the host is `NET.1`, for example with
    /// `10.11.0` as `net`. The clients are told of a router and a name server there, and of
    /// `options`, by Kea's names for them. `folder` is made for its files and removed with it.
    ///
    /// # Errors
    /// When it is not there and cannot be installed, or does not start; the message has its words.
    pub fn start(
        segment: &Segment,
        net: &str,
        options: &[(&str, &str)],
        folder: &Path,
    ) -> Result<Self> {
        setup::install(&[("kea-dhcp4", "kea-dhcp4-server")])?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let config = folder.join("kea.json");
        fs::write(&config, configuration(net, options))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let [place, config] = [folder, &config].map(|path| path.display().to_string());
        let program = Background::start(
            segment,
            "kea-dhcp4",
            &["-c", &config],
            &[("KEA_PIDFILE_DIR", &place), ("KEA_LOCKFILE_DIR", &place)],
            "DHCP4_STARTED",
        )?;
        Ok(Self {
            program,
            folder: folder.to_owned(),
        })
    }

    /// The number of lines it has said so far.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.program.mark()
    }

    /// Waits until it has said, at line `from` or later, that the card `mac` has `address`.
    ///
    /// # Errors
    /// When it does not within `within`.
    pub fn granted(
        &self,
        from: usize,
        mac: &str,
        address: Ipv4Addr,
        within: Duration,
    ) -> Result<()> {
        let lease = format!("lease {address} has been");
        let grant = |line: &str| {
            let granted = GRANTS.iter().any(|id| line.contains(id));
            granted && line.contains(mac) && line.contains(&lease)
        };
        self.program
            .wait(from, within, grant)
            .map(drop)
            .with_context(|| format!("the server did not give {address} to {mac}"))
    }

    /// Its last lines, for an error message.
    #[must_use]
    pub fn quote_end(&self) -> String {
        self.program.quote_end()
    }
}

impl Drop for Kea {
    fn drop(&mut self) {
        // It writes nothing any more that matters: its leases are in its memory.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn configuration(net: &str, options: &[(&str, &str)]) -> String {
    let host = format!("{net}.1");
    let all: Vec<_> = [("routers", &*host), ("domain-name-servers", &host)]
        .iter()
        .chain(options)
        .map(|(name, data)| serde_json::json!({ "name": name, "data": data }))
        .collect();
    serde_json::json!({ "Dhcp4": {
        "interfaces-config": { "interfaces": [SERVER] },
        "lease-database": { "type": "memfile", "persist": false },
        "authoritative": true,
        "valid-lifetime": 3600,
        "subnet4": [{
            "id": 1,
            "subnet": format!("{net}.0/24"),
            "pools": [{ "pool": format!("{net}.50 - {net}.99") }],
            "option-data": all,
        }],
        "loggers": [{
            "name": "kea-dhcp4",
            "severity": "INFO",
            "output_options": [{ "output": "stdout", "flush": true }],
        }],
    }})
    .to_string()
}
