//! Two machines and a DHCP server on one segment: both boot to health with addresses of their own,
//! and survive what happens to cables and cards while they run.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image, without_warnings};
use appliance_tests::dhcp::Kea;
use qemu_harness::api::Api;
use qemu_harness::bundle::Run;
use qemu_harness::event::Event;
use qemu_harness::image::ImageOptions;
use qemu_harness::segment::{Cable, Segment};
use qemu_harness::vm::{GUEST_PORT, Network, Vm, VmConfig};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// What both machines see.
struct World {
    kea: Kea,
    segment: Segment,
}

/// The network of the segment is `NET.0/24`, the server `NET.1`.
const NET: &str = "10.11.0";

#[test]
fn two_machines_on_a_segment_keep_their_addresses_when_cables_and_cards_come_and_go() -> Result<()>
{
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    let segment = Segment::new(&host, &format!("{NET}.1/24"))?;
    let folder = host
        .paths
        .out
        .join(format!("segment-kea-{}", std::process::id()));
    let kea = Kea::start(&segment, NET, &[], &folder)?;
    let world = World { kea, segment };
    Run::scoped(&host, "segment-a", &image.raw, |first| {
        Run::scoped(&host, "segment-b", &image.raw, |second| {
            let (cable_a, cable_b) = (world.segment.cable(1)?, world.segment.cable(2)?);
            let mut a = first.boot(&machine(&cable_a, true))?;
            let mut b = second.boot(&machine(&cable_b, true))?;
            let of_a = healthy(&world, &a, "52:54:00:00:00:01")?;
            let of_b = healthy(&world, &b, "52:54:00:00:00:02")?;
            ensure!(of_a != of_b, "both machines have {of_a}");
            card_out_and_in(&world, &b, of_b)?;
            b.power_down(POWER_OFF)?;

            // A boot is a processor's work, cables are mostly waiting.
            let mut b = second.boot(&machine(&cable_b, false))?;
            cable_out_and_in(&world, &a, of_a)?;
            cable_out_for_long(&world, &a, of_a)?;
            card_that_comes_late(&world, &b, of_b)?;
            // Whatever happened to the one is nothing to the other.
            answers(&world, of_a)?;
            b.power_button()?;
            a.power_down(POWER_OFF)?;
            b.wait_end(POWER_OFF)?;
            Ok(())
        })
    })
    .with_context(|| world.kea.quote_end())
}

fn machine(cable: &Cable, card: bool) -> VmConfig {
    let cable = cable.clone();
    VmConfig {
        network: Network::Segment { cable, card },
        ..VmConfig::default()
    }
}

/// Waits until the machine is healthy by its own account and by that of its neighbours, which know it
/// by a card of its own.
fn healthy(world: &World, vm: &Vm, mac: &str) -> Result<Ipv4Addr> {
    vm.wait(0, "boot.healthy", &[], BOOT)?;
    let address = address(&vm.wait(0, "net.address", &[], BOOT)?.event)?;
    without_warnings(&vm.serial().events(0))?;
    world.kea.granted(0, mac, address, BOOT)?;
    answers(world, address)?;
    Ok(address)
}

/// A cable that is out for a moment: the address stays, and the lease is confirmed.
fn cable_out_and_in(world: &World, vm: &Vm, before: Ipv4Addr) -> Result<()> {
    for _ in 0..3 {
        let mark = vm.serial().mark();
        vm.set_link(false)?;
        let down = vm.wait(mark, "net.link", &[("state", "down")], BOOT)?;
        let got = plugged(world, vm, "link", down.index, |vm| vm.set_link(true))?;
        ensure!(got == before, "{before} became {got}");
        answers(world, got)?;
    }
    Ok(())
}

/// A cable that is out for longer than connections can hold: the address goes and comes again.
fn cable_out_for_long(world: &World, vm: &Vm, before: Ipv4Addr) -> Result<()> {
    let mark = vm.serial().mark();
    vm.set_link(false)?;
    let lost = vm.wait(mark, "net.lost", &[("reason", "carrier")], BOOT)?;
    ensure!(
        address(&lost.event)? == before,
        "another address: {}",
        lost.event
    );
    let got = plugged(world, vm, "link_after_loss", lost.index, |vm| {
        vm.set_link(true)
    })?;
    ensure!(got == before, "the server gave {got} after {before}");
    answers(world, got)
}

/// A card that is pulled out of the running machine and put in again.
fn card_out_and_in(world: &World, vm: &Vm, before: Ipv4Addr) -> Result<()> {
    let mark = vm.serial().mark();
    vm.remove_card(BOOT)?;
    let lost = vm.wait(mark, "net.lost", &[("reason", "gone")], BOOT)?;
    let got = plugged(world, vm, "card", lost.index, Vm::add_card)?;
    ensure!(got == before, "the server gave {got} after {before}");
    answers(world, got)
}

/// A machine that was healthy without any card gets its first one, for which the driver is not loaded.
fn card_that_comes_late(world: &World, vm: &Vm, before: Ipv4Addr) -> Result<()> {
    let healthy = vm.wait(0, "boot.healthy", &[], BOOT)?;
    let early = vm.serial().events(0).into_iter();
    let early: Vec<Event> = early.filter(|e| e.name.starts_with("net.")).collect();
    ensure!(early.is_empty(), "there was a network: {early:?}");
    let got = plugged(world, vm, "late_card", healthy.index, Vm::add_card)?;
    ensure!(got == before, "after the reboot {before} became {got}");
    answers(world, got)
}

/// Plugs something in and waits for the carrier and the address after it. Prints two times: from the
/// carrier to the address, both told by the machine with its own clock, and from the plugging
/// until the line with the address was here. The second has in it what the guest's drivers take.
fn plugged(
    world: &World,
    vm: &Vm,
    what: &str,
    from: usize,
    plug: impl FnOnce(&Vm) -> Result<()>,
) -> Result<Ipv4Addr> {
    let mark = world.kea.mark();
    let started = vm.elapsed();
    plug(vm)?;
    let up = vm.wait(from, "net.link", &[("state", "up")], BOOT)?;
    let got = vm.wait(up.index, "net.address", &[], BOOT)?;
    let by_guest = (got.event.at - up.event.at) * 1000.0;
    eprintln!("{what}_up_to_address_ms={by_guest:.0}");
    eprintln!(
        "{what}_plugged_to_address_ms={}",
        got.at.saturating_sub(started).as_millis()
    );
    let address = address(&got.event)?;
    // It is not only believed to be good: the server was asked.
    let mac = up.event.get("mac").context("no mac")?;
    world.kea.granted(mark, mac, address, BOOT)?;
    Ok(address)
}

/// The address of an event, which is one of the server's pool.
fn address(event: &Event) -> Result<Ipv4Addr> {
    let cidr = event.get("address").context("no address")?;
    let (address, prefix) = cidr.split_once('/').context("no prefix")?;
    let address: Ipv4Addr = address.parse()?;
    ensure!(
        prefix == "24" && cidr.starts_with(NET) && (50..=99).contains(&address.octets()[3]),
        "not of the pool: {event}"
    );
    Ok(address)
}

/// Asks the machine for its health from the segment.
fn answers(world: &World, address: Ipv4Addr) -> Result<()> {
    let body = world.segment.inside(|| {
        let step = Duration::from_millis(50);
        let patience = Duration::from_secs(5);
        Api::at((address, GUEST_PORT).into()).wait_healthy(Instant::now() + BOOT, step, patience)
    })?;
    ensure!(body["status"] == "ok", "{address} answers {body}");
    Ok(())
}
