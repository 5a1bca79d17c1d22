//! What the network tells a machine about itself: its name, the time, and what it is to make of its card.

use anyhow::{Context, Result, bail, ensure};
use appliance_tests::appliance::{
    BOOT, POWER_OFF, host, image, in_order, with_drop_in, without_warnings,
};
use appliance_tests::background::Background;
use appliance_tests::dhcp::Kea;
use appliance_tests::ntp::chronyd;
use qemu_harness::api::Api;
use qemu_harness::bundle::Run;
use qemu_harness::image::{ImageOptions, Runtime};
use qemu_harness::segment::Segment;
use qemu_harness::setup;
use qemu_harness::vm::{GUEST_PORT, Network, Vm, VmConfig};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The network of the segment is `NET.0/24`, the host `NET.1`.
const NET: &str = "10.12.0";
const VLAN: &str = include_str!("data/vlan.toml");
/// The time of every file of the image, and so the earliest that the machine believes: 2025-01-01.
const BUILT: u64 = 1_735_689_600;
/// How far two clocks that agree may seem to be apart: what they show is told in whole seconds, and a line waits for a
/// processor. A wrong one is off by years.
const TOLERANCE: u64 = 5;
/// Within this comes what follows from being on the network.
const SOON: Duration = Duration::from_secs(90);

#[test]
fn a_machine_learns_its_name_and_the_time_and_makes_a_vlan() -> Result<()> {
    let host = host()?;
    let options = ImageOptions {
        runtime: Runtime::Small,
        ..with_drop_in(&host, "vlan", VLAN)?
    };
    let image = image(&host, &options)?;
    let server = format!("{NET}.1");
    let segment = Segment::new(&host, &format!("{server}/24"))?;
    let folder = format!("network-kea-{}", std::process::id());
    let folder = host.paths.out.join(folder);
    let options = [
        ("host-name", "node-7"),
        ("domain-name", "example.org"),
        ("ntp-servers", &*server),
    ];
    let kea = Kea::start(&segment, NET, &options, &folder)?;
    let chronyd = chronyd(&segment, &folder)?;
    setup::install(&[("tcpdump", "tcpdump")])?;
    // With the addresses of the frames, line by line.
    let capture = ["-l", "-n", "-e", "-i", "bridge", "vlan", "7"];
    let tagged = Background::start(&segment, "tcpdump", &capture, &[], "listening on")?;
    Run::scoped(&host, "network", &image.raw, |run| {
        let cable = segment.cable(1)?;
        let mac = cable.mac().to_owned();
        let config = VmConfig {
            network: Network::Segment { cable, card: true },
            battery_clock: Some("2020-01-01T00:00:00".to_owned()),
            ..VmConfig::default()
        };
        let mut vm = run.boot(&config)?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        let address = named(&vm)?;
        vlan(&vm, &tagged, &mac)?;
        time(&vm, &segment, address)?;
        without_warnings(&vm.serial().events(0))?;
        vm.power_down(POWER_OFF)
    })
    .with_context(|| {
        [&kea.quote_end(), &chronyd.quote_end(), &tagged.quote_end()]
            .map(String::as_str)
            .join("\n")
    })
}

/// The server's word makes the hostname.
fn named(vm: &Vm) -> Result<Ipv4Addr> {
    let got = vm.wait(0, "net.address", &[("link", "eth0")], SOON)?;
    let fields = [("domain", "example.org"), ("hostname", "node-7")];
    ensure!(got.event.is("net.address", &fields), "{}", got.event);
    let fields = [("hostname", "node-7"), ("source", "dhcp")];
    vm.wait(got.index, "system.hostname", &fields, SOON)?;
    let address = got.event.get("address").context("no address")?;
    let (address, _) = address.split_once('/').context("no prefix")?;
    Ok(address.parse()?)
}

/// The VLAN is there, has its address, and what it sends is tagged.
fn vlan(vm: &Vm, tagged: &Background, mac: &str) -> Result<()> {
    let link = ("link", "eth0.7");
    let up = vm.wait(0, "net.link", &[link, ("state", "up")], SOON)?;
    let fields = [link, ("address", "192.0.2.7/24")];
    let address = vm.wait(up.index, "net.address", &fields, SOON)?;
    eprintln!(
        "vlan_up_to_address_ms={:.0}",
        (address.event.at - up.event.at) * 1000.0
    );
    let ours = format!("{mac} > ");
    tagged
        .wait(0, SOON, |line| {
            line.contains(&ours) && line.contains("vlan 7,")
        })
        .map(drop)
        .context("no frame of the VLAN crossed the segment")
}

/// A battery clock that is years behind is set twice: to what cannot be wrong, and then right.
fn time(vm: &Vm, segment: &Segment, address: Ipv4Addr) -> Result<()> {
    let set = vm.wait(0, "clock.set", &[("reason", "ntp")], SOON)?;
    let server = format!("{NET}.1");
    let built = BUILT.to_string();
    in_order(
        &vm.serial().events(0),
        &[
            ("clock.set", &[("reason", "build time"), ("to", &built)]),
            ("net.address", &[("link", "eth0")]),
            ("net.time", &[("server", &server), ("stratum", "8")]),
            ("clock.set", &[("reason", "ntp"), ("server", &server)]),
        ],
    )?;
    let to: u64 = set.event.get("to").context("no to")?.parse()?;
    let then = now()?.saturating_sub(vm.elapsed().saturating_sub(set.at).as_secs());
    ensure!(
        to.abs_diff(then) <= TOLERANCE,
        "it was {then}, and the clock was set to {to}"
    );
    // What the machine's programs see is what the event says.
    let deadline = Instant::now() + SOON;
    loop {
        let answer =
            segment.inside(|| Api::at((address, GUEST_PORT).into()).get("/v1/health", SOON))?;
        let shown = seconds(&answer.date.context("the API tells no time")?)?;
        let now = now()?;
        if shown.abs_diff(now) <= TOLERANCE {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("it is {now}, and the machine's clock shows {shown}");
        }
    }
}

/// The host's clock, in seconds since 1970.
fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// Reads the date of an HTTP answer (RFC 9110, section 5.6.7) with date(1).
fn seconds(date: &str) -> Result<u64> {
    let output = Command::new("date")
        .args(["--utc", "--date", date, "+%s"])
        .output()
        .context("cannot run date")?;
    let text = String::from_utf8(output.stdout)?;
    text.trim()
        .parse()
        .with_context(|| format!("`{date}` is no date"))
}
