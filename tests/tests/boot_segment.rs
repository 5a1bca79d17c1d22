//! Two machines and a DHCP server on one segment: both boot to health with addresses of their own,
//! and survive what happens to cables and cards while they run.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image};
use appliance_tests::dhcp::Kea;
use qemu_harness::api::Api;
use qemu_harness::bundle::Run;
use qemu_harness::event::Event;
use qemu_harness::image::ImageOptions;
use qemu_harness::segment::{Cable, Segment};
use qemu_harness::vm::{GUEST_PORT, Network, Vm, VmConfig};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// The network of the segment is `NET.0/24`, the server `NET.1`.
const NET: &str = "10.11.0";

#[test]
fn two_machines_on_a_segment_keep_their_addresses_when_cables_and_cards_come_and_go() -> Result<()>
{
    let host = host()?;
    let image = image(&host, &ImageOptions::default())?;
    let segment = Segment::new(&host, &format!("{NET}.1/24"))?;
    let folder = host
        .paths
        .out
        .join(format!("segment-kea-{}", std::process::id()));
    let _kea = Kea::start(&segment, NET, &folder)?;
    Run::scoped(&host, "segment-a", &image.raw, |first| {
        Run::scoped(&host, "segment-b", &image.raw, |second| {
            let mut a = first.boot(&machine(segment.cable(1)?))?;
            let mut b = second.boot(&machine(segment.cable(2)?))?;
            let of_a = healthy(&segment, &a)?;
            let of_b = healthy(&segment, &b)?;
            ensure!(of_a != of_b, "both machines have {of_a}");
            cable_out_and_in(&segment, &a, of_a)?;
            cable_out_for_long(&segment, &a, of_a)?;
            card_out_and_in(&segment, &b, of_b)?;
            // Whatever happened to the one is nothing to the other.
            answers(&segment, of_a)?;
            a.power_button()?;
            b.power_down(POWER_OFF)?;
            a.wait_end(POWER_OFF)?;
            Ok(())
        })
    })
}

fn machine(cable: Cable) -> VmConfig {
    VmConfig {
        network: Network::Segment { cable, card: true },
        ..VmConfig::default()
    }
}

/// Waits until the machine is healthy by its own account and by that of its neighbour.
fn healthy(segment: &Segment, vm: &Vm) -> Result<Ipv4Addr> {
    vm.wait(0, "boot.healthy", &[], BOOT)?;
    let address = address(&vm.wait(0, "net.address", &[], BOOT)?.event)?;
    answers(segment, address)?;
    Ok(address)
}

/// A cable that is out for a moment: the address stays, and the lease is confirmed.
fn cable_out_and_in(segment: &Segment, vm: &Vm, before: Ipv4Addr) -> Result<()> {
    for _ in 0..3 {
        let mark = vm.serial().mark();
        vm.set_link(false)?;
        let down = vm.wait(mark, "net.link", &[("state", "down")], BOOT)?;
        vm.set_link(true)?;
        let got = plugged(vm, down.index, "link_up_to_address_ms")?;
        ensure!(got == before, "{before} became {got}");
        answers(segment, got)?;
    }
    Ok(())
}

/// A cable that is out for longer than connections can hold: the address goes and comes again.
fn cable_out_for_long(segment: &Segment, vm: &Vm, before: Ipv4Addr) -> Result<()> {
    let mark = vm.serial().mark();
    vm.set_link(false)?;
    let lost = vm.wait(mark, "net.lost", &[("reason", "carrier")], BOOT)?;
    ensure!(
        address(&lost.event)? == before,
        "another address: {}",
        lost.event
    );
    vm.set_link(true)?;
    let got = plugged(vm, lost.index, "link_up_after_loss_to_address_ms")?;
    ensure!(got == before, "the server gave {got} after {before}");
    answers(segment, got)
}

/// A card that is pulled out of the running machine and put in again.
fn card_out_and_in(segment: &Segment, vm: &Vm, before: Ipv4Addr) -> Result<()> {
    let mark = vm.serial().mark();
    vm.remove_card(BOOT)?;
    let lost = vm.wait(mark, "net.lost", &[("reason", "gone")], BOOT)?;
    vm.add_card()?;
    let got = plugged(vm, lost.index, "card_link_up_to_address_ms")?;
    ensure!(got == before, "the server gave {got} after {before}");
    answers(segment, got)
}

/// Waits for the carrier and the address after it, and prints the time between them by the clock of
/// the machine under the name `figure`.
fn plugged(vm: &Vm, from: usize, figure: &str) -> Result<Ipv4Addr> {
    let up = vm.wait(from, "net.link", &[("state", "up")], BOOT)?;
    let got = vm.wait(up.index, "net.address", &[], BOOT)?;
    eprintln!("{figure}={:.0}", (got.event.at - up.event.at) * 1000.0);
    address(&got.event)
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
fn answers(segment: &Segment, address: Ipv4Addr) -> Result<()> {
    let body = segment.inside(|| {
        let step = Duration::from_millis(50);
        let patience = Duration::from_secs(5);
        Api::at((address, GUEST_PORT).into()).wait_healthy(Instant::now() + BOOT, step, patience)
    })?;
    ensure!(body["status"] == "ok", "{address} answers {body}");
    Ok(())
}
