//! A DHCP server for the machines of a segment: Kea, the program of Debian's `kea-dhcp4-server`.

use anyhow::{Context, Result, bail};
use qemu_harness::journal::{Journal, Waited};
use qemu_harness::segment::{SERVER, Segment};
use qemu_harness::setup;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kea reads its configuration and opens its sockets in a second or two.
const START: Duration = Duration::from_secs(60);

/// What it says when it acknowledges a lease, a new one or one that the client has already (Kea Messages
/// Manual).
const GRANTS: [&str; 2] = ["DHCP4_LEASE_ALLOC", "DHCP4_LEASE_REUSE"];
/// How much of the end of its log an error quotes.
const QUOTED_LINES: usize = 15;

/// A running server. Dropping it ends it at once.
#[derive(Debug)]
pub struct Kea {
    child: Child,
    said: Arc<Journal<String>>,
    folder: PathBuf,
}

impl Kea {
    /// Serves `NET.50` to `NET.99` on the segment, on which the host is `NET.1`, for example with
    /// `10.11.0` as `net`. `folder` is made for its files and removed with it.
    ///
    /// # Errors
    /// When it is not there and cannot be installed, or does not start; the message has its words.
    pub fn start(segment: &Segment, net: &str, folder: &Path) -> Result<Self> {
        setup::install(&[("kea-dhcp4", "kea-dhcp4-server")])?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let config = folder.join("kea.json");
        fs::write(&config, configuration(net))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut child = segment
            .command("kea-dhcp4")
            .arg("-c")
            .arg(&config)
            .env("KEA_PIDFILE_DIR", folder)
            .env("KEA_LOCKFILE_DIR", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Its complaints about itself go where the test's own go.
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start kea-dhcp4")?;
        let output = child.stdout.take().context("its output is not piped")?;
        let said = Arc::new(Journal::default());
        let journal = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                journal.push(line);
            }
            journal.close();
        });
        let kea = Self {
            child,
            said,
            folder: folder.to_owned(),
        };
        let started = |line: &String| line.contains("DHCP4_STARTED").then_some(());
        match kea.said.wait(0, Instant::now() + START, started) {
            Waited::Found(..) => Ok(kea),
            Waited::Closed | Waited::TimedOut => {
                bail!("kea-dhcp4 does not serve\n{}", kea.quote_end())
            }
        }
    }

    /// The number of lines it has said so far.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.said.len()
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
        let grant = |line: &String| {
            let granted = GRANTS.iter().any(|id| line.contains(id));
            (granted && line.contains(mac) && line.contains(&lease)).then_some(())
        };
        match self.said.wait(from, Instant::now() + within, grant) {
            Waited::Found(..) => Ok(()),
            Waited::Closed | Waited::TimedOut => {
                bail!("the server did not give {address} to {mac}")
            }
        }
    }

    /// Its last lines, for an error message.
    #[must_use]
    pub fn quote_end(&self) -> String {
        let from = self.said.len().saturating_sub(QUOTED_LINES);
        format!("kea-dhcp4 said last:\n{}", self.said.since(from).join("\n"))
    }
}

impl Drop for Kea {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn configuration(net: &str) -> String {
    serde_json::json!({ "Dhcp4": {
        "interfaces-config": { "interfaces": [SERVER] },
        "lease-database": { "type": "memfile", "persist": false },
        "authoritative": true,
        "valid-lifetime": 3600,
        "subnet4": [{
            "id": 1,
            "subnet": format!("{net}.0/24"),
            "pools": [{ "pool": format!("{net}.50 - {net}.99") }],
            "option-data": [
                { "name": "routers", "data": format!("{net}.1") },
                { "name": "domain-name-servers", "data": format!("{net}.1") },
            ],
        }],
        "loggers": [{
            "name": "kea-dhcp4",
            "severity": "INFO",
            "output_options": [{ "output": "stdout", "flush": true }],
        }],
    }})
    .to_string()
}
