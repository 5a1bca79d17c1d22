//! A virtual appliance: what the machine is made of, and what can be done to it while it runs.
//!
//! The machine is QEMU's q35 with UEFI firmware, one virtio disk, one virtio network card and a
//! serial port. The card is behind QEMU's user-mode network with the API port forwarded, or on a
//! [segment](crate::segment) with other machines. Nothing else is plugged in unless asked for: each
//! device costs the firmware time and the guest a driver.

use crate::accel::{Accel, FIRMWARE};
use crate::api::Api;
use crate::disk::{Disk, option_value};
use crate::host::{Host, Place};
use crate::qemu::{PROGRAM, Qemu};
use crate::qmp::{Qmp, QmpEvent};
use crate::replay;
use crate::segment::Cable;
use crate::serial::{Seen, Serial};
use crate::trace::{self, Read};
use crate::usernet;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The port of the runtime inside the guest.
pub const GUEST_PORT: u16 = 8000;

/// QEMU's names of the near end of the network, the card, and the slot for a card.
const NETDEV: &str = "net0";
const CARD: &str = "nic0";
const SLOT: &str = "slot0";

/// How the machine is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// No network card.
    None,
    /// QEMU's user-mode network, the API on this port of the host's loopback; a free one if `None`.
    User(Option<u16>),
    /// A segment that other machines and servers are on.
    Segment {
        /// The connection to it, which belongs to this machine alone.
        cable: Cable,
        /// Whether the card is in the machine at power-on; it can also come later, see
        /// [`Vm::add_card`].
        card: bool,
    },
}

/// What the machine is made of.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors; `None` is what suits the accelerator, see [`VmConfig::processors`].
    pub cpus: Option<u32>,
    /// What is behind its disk.
    pub disk: Disk,
    /// How it is connected.
    pub network: Network,
    /// Whether it has a serial port.
    pub serial: bool,
    /// Whether a reset of the guest boots again; otherwise it ends QEMU.
    pub reboots: bool,
    /// Whether it has an i6300ESB watchdog that resets it.
    pub watchdog: bool,
    /// What its battery clock shows at power-on, such as `2020-01-01T00:00:00`; the host's time if `None`.
    pub battery_clock: Option<String>,
    /// Whether its clock counts instructions and jumps over sleep, see [`Accel::counted_arguments`]: for
    /// what takes minutes of the guest's time.
    pub counted_time: bool,
    /// Whether its instructions are to be counted, see [`VmConfig::measured`].
    pub measured: bool,
    /// Whether QEMU keeps a trace of what is read from the disk.
    pub trace_reads: bool,
    /// SMBIOS type 11 strings.
    pub oem_strings: Vec<String>,
    /// fw_cfg files: name and content.
    pub fw_cfg: Vec<(String, String)>,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            memory_mib: 1024,
            cpus: None,
            disk: Disk::File,
            network: Network::User(None),
            serial: true,
            reboots: false,
            watchdog: false,
            battery_clock: None,
            counted_time: false,
            measured: false,
            trace_reads: false,
            oem_strings: Vec::new(),
            fw_cfg: Vec::new(),
        }
    }
}

impl VmConfig {
    /// A machine whose instructions are counted: what would make two boots differ is fixed. Its random numbers come from a
    /// seed, the kernel and programs lie where they always lie, and its clock begins at one time. A guest that writes to
    /// the pvpanic device stops it, and `query-replay` then tells the count of that instruction. The words of `append` go to the
    /// kernel command line, too: systemd-stub takes one such string.
    #[must_use]
    pub fn measured(append: &[&str]) -> Self {
        let words = [&["nokaslr", "norandmaps"][..], append].concat();
        Self {
            disk: Disk::Forgetful,
            battery_clock: Some("2027-01-01T00:00:00".into()),
            counted_time: true,
            measured: true,
            ..Self::default()
        }
        .kernel_argument(&words.join(" "))
    }

    /// Appends to the kernel command line of the UKI, as a VM host can (systemd-stub(7)).
    #[must_use]
    pub fn kernel_argument(mut self, argument: &str) -> Self {
        self.oem_strings
            .push(format!("io.systemd.stub.kernel-cmdline-extra={argument}"));
        self
    }

    /// Hands a credential in through SMBIOS.
    #[must_use]
    pub fn credential(mut self, name: &str, value: &str) -> Self {
        self.oem_strings
            .push(format!("io.systemd.credential:{name}={value}"));
        self
    }

    /// The number of processors the machine gets. Under TCG a second one does not pay: keeping the
    /// translated guests' memory accesses in order costs half as much again in processor time
    /// (measured: 15 s instead of 22 s from power-on to health on a host with two processors).
    #[must_use]
    pub fn processors(&self, accel: Accel) -> u32 {
        self.cpus.unwrap_or(match accel {
            Accel::Kvm if !self.counted_time => 2,
            Accel::Kvm | Accel::Tcg => 1,
        })
    }

    /// The same machine where its segment and the server of its disk are no more.
    fn alone(&self) -> Self {
        let network = match &self.network {
            Network::Segment { .. } => Network::User(None),
            other => other.clone(),
        };
        Self {
            network,
            disk: self.disk.alone(),
            ..self.clone()
        }
    }

    fn arguments(&self, host: &Host, disk: &Path, variables: &Path) -> Vec<String> {
        let mut words = if self.counted_time {
            Accel::counted_arguments()
        } else {
            host.accel.arguments()
        };
        let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
        add("-machine", "q35,smm=off,vmport=off,hpet=off".into());
        add("-m", self.memory_mib.to_string());
        add("-smp", self.processors(host.accel).to_string());
        let firmware = "if=pflash,format=raw,unit=0,readonly=on";
        add("-drive", format!("{firmware},file={FIRMWARE}"));
        let store = "if=pflash,format=raw,unit=1";
        add(
            "-drive",
            format!("{store},file={}", option_value(variables)),
        );
        words.extend(self.disk.arguments(disk));
        let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
        match &self.network {
            Network::None => {}
            Network::User(port) => {
                add("-netdev", usernet::netdev(NETDEV, *port, GUEST_PORT));
                // No boot ROM: the firmware would try to boot from the network first.
                add(
                    "-device",
                    format!("virtio-net-pci,netdev={NETDEV},id={CARD},romfile="),
                );
            }
            Network::Segment { cable, card } => {
                add("-netdev", cable.netdev(NETDEV));
                // Cards can only come and go behind a port; those on the root bus stay.
                add("-device", format!("pcie-root-port,id={SLOT},chassis=1"));
                if *card {
                    add("-device", segment_card(cable).to_string());
                }
            }
        }
        if self.watchdog {
            add("-device", "i6300esb,id=watchdog0".into());
            add("-action", "watchdog=reset".into());
        }
        if self.measured {
            add("-seed", "1".into());
            add("-device", "pvpanic".into());
            add("-action", "panic=pause".into());
        }
        let mut battery = Vec::new();
        battery.extend(
            self.battery_clock
                .as_ref()
                .map(|time| format!("base={time}")),
        );
        if self.counted_time {
            battery.push("clock=vm".to_owned());
        }
        if !battery.is_empty() {
            add("-rtc", battery.join(","));
        }
        for text in &self.oem_strings {
            add(
                "-smbios",
                format!("type=11,value={}", text.replace(',', ",,")),
            );
        }
        for (name, text) in &self.fw_cfg {
            add(
                "-fw_cfg",
                format!("name={name},string={}", text.replace(',', ",,")),
            );
        }
        if !self.reboots {
            words.push("-no-reboot".into());
        }
        words
    }
}

/// The card of a machine on a segment: QEMU takes the same object at power-on and while it runs.
fn segment_card(cable: &Cable) -> Value {
    json!({
        "driver": "virtio-net-pci",
        "id": CARD,
        "netdev": NETDEV,
        "bus": SLOT,
        "mac": cable.mac(),
        "romfile": "",
    })
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// QEMU's reason: `guest-shutdown`, `guest-reset`, `host-qmp-quit`, ...
    pub reason: String,
}

/// A machine that is switched on. Dropping it pulls the plug.
#[derive(Debug)]
pub struct Vm {
    qemu: Qemu,
    api: Option<Api>,
    cable: Option<Cable>,
    reads: PathBuf,
    /// Held while the machine is on; on a segment, the segment has it.
    place: Option<Place>,
}

impl Vm {
    /// Starts a machine from a disk and firmware variables that belong to it alone.
    ///
    /// # Errors
    /// When something is missing or in use; the message names it.
    pub fn start(
        host: &Host,
        config: &VmConfig,
        disk: &Path,
        variables: &Path,
        logs: &Path,
    ) -> Result<Self> {
        for file in [disk, variables, &host.tools.file(FIRMWARE)] {
            ensure!(file.is_file(), "{} is missing", file.display());
        }
        let cable = match &config.network {
            Network::None | Network::User(_) => None,
            Network::Segment { cable, .. } => Some(cable.clone()),
        };
        let alone = config.alone();
        let again = alone.arguments(host, disk, variables);
        replay::write(host, alone.serial, &again, logs)?;
        let reads = logs.join("reads.log");
        let mut arguments = config.arguments(host, disk, variables);
        if config.trace_reads {
            let file = reads.display().to_string();
            arguments.extend(["-trace", trace::EVENT, "-D", &file].map(str::to_owned));
        }
        let (command, place) = match &cable {
            None => (host.tools.command(PROGRAM), Some(host.place()?)),
            Some(cable) => (cable.attach(&host.tools.command(PROGRAM)), None),
        };
        let qemu = Qemu::start(command, &arguments, logs, config.serial)
            .map_err(|error| explain(error, &config.network))?;
        let api = match &config.network {
            Network::User(None) => {
                let port = usernet::forwarded_port(qemu.qmp()?, GUEST_PORT)?;
                Some(Api::new(port))
            }
            Network::User(Some(port)) => Some(Api::new(*port)),
            Network::None | Network::Segment { .. } => None,
        };
        qemu.power_on()?;
        Ok(Self {
            qemu,
            api,
            cable,
            reads,
            place,
        })
    }

    /// The serial line.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        self.qemu.serial()
    }

    /// The control channel.
    ///
    /// # Errors
    /// Never for a started machine.
    pub fn qmp(&self) -> Result<&Qmp> {
        self.qemu.qmp()
    }

    /// The runtime's API, where it is forwarded to the host.
    ///
    /// # Errors
    /// When the machine has no user-mode network.
    pub fn api(&self) -> Result<&Api> {
        self.api.as_ref().context(
            "the API of this machine is not forwarded; on a segment, ask it at its own address",
        )
    }

    /// Host time since power-on.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.qemu.clock().elapsed()
    }

    /// The moment `at` after power-on.
    #[must_use]
    pub fn instant(&self, at: Duration) -> Instant {
        self.qemu.clock().instant(at)
    }

    /// Waits for an event from serial line `from` on, at most `within`.
    ///
    /// # Errors
    /// When it does not come; the message quotes the end of the serial log.
    pub fn wait(
        &self,
        from: usize,
        name: &str,
        fields: &[(&str, &str)],
        within: Duration,
    ) -> Result<Seen> {
        self.serial()
            .wait_for(from, Instant::now() + within, name, fields)
    }

    /// Waits for health over the API, and gives its body.
    ///
    /// # Errors
    /// When it does not come within `within`.
    pub fn wait_healthy(&self, within: Duration) -> Result<Value> {
        let deadline = Instant::now() + within;
        let step = Duration::from_millis(50);
        let patience = Duration::from_secs(5);
        self.api()?
            .wait_healthy(deadline, step, patience)
            .with_context(|| self.serial().quote_end(0))
    }

    /// Presses the power button (ACPI).
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn power_button(&self) -> Result<()> {
        self.qmp()?.execute("system_powerdown", json!({}))?;
        Ok(())
    }

    /// Presses the power button and waits for the guest to switch itself off. The first press may come
    /// before the kernel has shown the button to init, so it is pressed again every few seconds; a machine that
    /// is stopping takes no notice of that.
    ///
    /// # Errors
    /// When it does not within `within`, or ends otherwise.
    pub fn power_down(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        self.power_button()?;
        while self
            .qemu
            .wait_end((Instant::now() + PRESS_AGAIN).min(deadline))?
            .is_none()
        {
            ensure!(
                Instant::now() < deadline,
                "the machine still runs {} s after its power button was pressed\n{}",
                within.as_secs(),
                self.serial().quote_end(0)
            );
            // It may have ended meanwhile.
            let _ = self.power_button();
        }
        let ended = self.wait_end(within)?;
        ensure!(
            ended.reason == "guest-shutdown",
            "the machine did not power off but ended by {}\n{}",
            ended.reason,
            self.serial().quote_end(0)
        );
        Ok(())
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn reset(&self) -> Result<()> {
        self.qmp()?.execute("system_reset", json!({}))?;
        Ok(())
    }

    /// Plugs the network cable in or out.
    ///
    /// # Errors
    /// When the machine has no network card.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.qmp()?
            .execute("set_link", json!({"name": CARD, "up": up}))?;
        Ok(())
    }

    /// Puts the card for its segment into the running machine.
    ///
    /// # Errors
    /// When the machine is not on a segment, or has the card.
    pub fn add_card(&self) -> Result<()> {
        let cable = self
            .cable
            .as_ref()
            .context("only a machine on a segment has a slot for a card")?;
        self.qmp()?.execute("device_add", segment_card(cable))?;
        Ok(())
    }

    /// Asks the guest to give its card up and waits until it did.
    ///
    /// # Errors
    /// When there is no such card, or the guest keeps it for longer than `within`.
    pub fn remove_card(&self, within: Duration) -> Result<()> {
        let qmp = self.qmp()?;
        let mark = qmp.mark();
        qmp.execute("device_del", json!({"id": CARD}))?;
        // The card's virtio half is told to be deleted first, without a name of its own.
        let card = |event: &QmpEvent| {
            event.name == "DEVICE_DELETED"
                && event.data.get("device").and_then(Value::as_str) == Some(CARD)
        };
        qmp.wait_for(mark, Instant::now() + within, card)
            .map(drop)
            .with_context(|| format!("the guest keeps its card\n{}", self.serial().quote_end(0)))
    }

    /// Processor time the machine has cost the host so far.
    ///
    /// # Errors
    /// When it is off.
    pub fn processor_time(&self) -> Result<Duration> {
        self.qemu.processor_time()
    }

    /// What was read from the disk so far, if `trace_reads` was set.
    ///
    /// # Errors
    /// When there is no trace.
    pub fn reads(&self) -> Result<Vec<Read>> {
        trace::reads(&self.reads)
    }

    /// Pulls the plug.
    pub fn kill(&mut self) {
        self.qemu.kill();
        self.place = None;
    }

    /// Whether QEMU still runs.
    ///
    /// # Errors
    /// When the process cannot be looked at.
    pub fn is_on(&mut self) -> Result<bool> {
        Ok(self.qemu.ended()?.is_none())
    }

    /// Waits for the machine to end by itself: power-off, or a reset when it may not reboot.
    ///
    /// # Errors
    /// When it still runs after `within`.
    pub fn wait_end(&mut self, within: Duration) -> Result<Ended> {
        let deadline = Instant::now() + within;
        if self.qemu.wait_end(deadline)?.is_none() {
            bail!(
                "the machine still runs after {} s\n{}",
                within.as_secs(),
                self.serial().quote_end(0)
            );
        }
        self.place = None;
        // The control channel is read to its end by now, or will be in a moment.
        let reason = self
            .qmp()?
            .wait_event(0, Instant::now() + Duration::from_secs(5), "SHUTDOWN")
            .and_then(|event| Some(event.data.get("reason")?.as_str()?.to_owned()))
            .unwrap_or_else(|| format!("QEMU's end: {}", self.qemu.complaints()));
        Ok(Ended { reason })
    }
}

/// Between two presses of the power button.
const PRESS_AGAIN: Duration = Duration::from_secs(3);

/// Whether this port of the loopback can be listened on now.
///
/// # Errors
/// Names the port when it is in use.
pub fn check_port(port: u16) -> Result<()> {
    TcpListener::bind(("127.0.0.1", port)).map_err(|error| {
        anyhow::Error::new(error).context(format!(
            "port {port} of 127.0.0.1 cannot be used for the API; stop what listens there \
             (`ss -ltnp sport = :{port}` names it) or choose another with --port"
        ))
    })?;
    Ok(())
}

/// QEMU does not name the port that it could not listen on.
fn explain(error: anyhow::Error, network: &Network) -> anyhow::Error {
    match network {
        Network::User(Some(port)) if format!("{error:#}").contains("host forwarding") => {
            error.context(format!("port {port} of 127.0.0.1 is in use"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let error = check_port(port).expect_err("it is taken");
        assert!(
            format!("{error:#}").contains(&format!("port {port} ")),
            "{error:#}"
        );
        drop(taken);
        check_port(port).expect("it is free");
    }

    #[test]
    fn kernel_arguments_go_through_the_stub() {
        let config = VmConfig::default().kernel_argument("astromesh.x=1");
        assert_eq!(
            config.oem_strings,
            ["io.systemd.stub.kernel-cmdline-extra=astromesh.x=1"]
        );
    }
}
