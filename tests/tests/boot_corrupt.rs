//! One flipped bit in a block of the root that the boot reads: the machine never serves, the
//! kernel says why, and the policy (a panic, then a reset) is carried out.
//!
//! Which blocks a boot reads is not guessed: a good boot is traced, and the blocks to damage are
//! picked from its trace. The damaged boot is traced as well, because read-ahead differs a little
//! from boot to boot: one that served without having read the block has proved nothing, and
//! another block takes its place.

use anyhow::{Context, Result, bail, ensure};
use appliance_tests::appliance::{BOOT, REFUSAL, host, image};
use appliance_tests::seed::{number, seed};
use qemu_harness::bundle::Run;
use qemu_harness::gpt::{self, Partition};
use qemu_harness::host::Host;
use qemu_harness::image::{Image, ImageOptions};
use qemu_harness::random::Random;
use qemu_harness::vm::{Vm, VmConfig};
use std::time::{Duration, Instant};

/// Damaged boots that must have read their damage, the superblock's included. A campaign sets
/// more with `ASTROMESH_CASES`.
const CASES: u64 = 3;
/// Blocks that may turn out not to be read before the test gives up.
const SPARE: u64 = 6;

#[test]
fn a_flipped_bit_never_serves() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    let cases = number("ASTROMESH_CASES")?.unwrap_or(CASES);
    let seed = seed()?;
    let (root, candidates) = what_a_boot_reads(&host, &image)?;
    let mut random = Random::new(seed);
    // The superblock of erofs lies 1024 bytes into the file system.
    let mut damage = vec![root.start + 1024 + random.below(128)];
    let mut proved = 0;
    for _ in 0..cases + SPARE {
        let byte = damage
            .pop()
            .unwrap_or_else(|| candidates[random.index(candidates.len())] + random.below(4096));
        let refused = Run::scoped(&host, "corrupt", &image.raw, |run| {
            refuses_to_serve(run, byte)
        })
        .with_context(|| {
            format!(
                "byte {} of the root flipped, seed {seed}",
                byte - root.start
            )
        })?;
        proved += u64::from(refused);
        if proved == cases {
            return Ok(());
        }
    }
    bail!("only {proved} damaged boots read their damage, seed {seed}")
}

fn traced() -> VmConfig {
    VmConfig {
        trace_reads: true,
        ..VmConfig::default()
    }
}

/// The root partition and the disk offsets of its blocks that a good boot reads.
fn what_a_boot_reads(host: &Host, image: &Image) -> Result<(Partition, Vec<u64>)> {
    Run::scoped(host, "trace", &image.raw, |run| {
        let root = gpt::partitions(&host.tools, &run.disk())?
            .into_iter()
            .find(|p| p.kind == gpt::ROOT)
            .context("no root partition")?;
        let mut vm = run.boot(&traced())?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        vm.wait_healthy(BOOT)?;
        vm.kill();
        let end = root.start + std::fs::metadata(&image.root)?.len();
        let mut blocks: Vec<u64> = vm
            .reads()?
            .into_iter()
            .flat_map(|read| (read.start..read.start + read.len).step_by(4096))
            .filter(|block| (root.start..end).contains(block))
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        eprintln!("a good boot reads {} blocks of the root", blocks.len());
        ensure!(blocks.len() > 100, "that cannot be a whole boot");
        Ok((root, blocks))
    })
}

/// True when the machine refused; false when it served without having read the damage.
fn refuses_to_serve(run: &mut Run, byte: u64) -> Result<bool> {
    run.flip(byte)?;
    let mut vm = run.boot(&traced())?;
    let deadline = Instant::now() + REFUSAL;
    while vm.is_on()? {
        if let Ok(body) = vm.api()?.health(Duration::from_secs(2)) {
            ensure!(!has_read(&vm, byte)?, "a corrupt root serves: {body}");
            return Ok(false);
        }
        ensure!(
            Instant::now() < deadline,
            "the machine neither serves nor resets\n{}",
            vm.serial().quote_end(0)
        );
    }
    let ended = vm.wait_end(Duration::from_secs(10))?;
    ensure!(
        ended.reason == "guest-reset",
        "it ended by {} instead of a reset",
        ended.reason
    );
    ensure!(
        has_read(&vm, byte)?,
        "it reset without having read the damage"
    );
    // A block that is first read after a boot was healthy resets the machine then: it was not healthy with it.
    let lines = vm.serial().lines(0);
    let reported = lines.iter().position(|line| {
        line.text.contains("device-mapper: verity") && line.text.contains("corrupted")
    });
    let reported = reported.with_context(|| {
        format!(
            "the kernel did not report corruption\n{}",
            vm.serial().quote_end(0)
        )
    })?;
    ensure!(
        lines
            .iter()
            .skip(reported)
            .filter_map(|line| line.event.as_ref())
            .all(|event| event.name != "boot.healthy"),
        "a machine that read a corrupt block calls itself healthy"
    );
    Ok(true)
}

fn has_read(vm: &Vm, byte: u64) -> Result<bool> {
    Ok(vm.reads()?.iter().any(|read| read.covers(byte)))
}
