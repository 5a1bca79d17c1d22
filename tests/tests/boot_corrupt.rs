//! One flipped bit in a block of the root that the boot reads: the machine never serves, the
//! kernel says why, and the policy (a panic, then a reset) is carried out.

use anyhow::{Context, Result, bail, ensure};
use appliance_tests::appliance::{REFUSAL, host, image};
use qemu_harness::bundle::Run;
use qemu_harness::gpt;
use qemu_harness::image::{Image, ImageOptions};
use qemu_harness::tools::Tools;
use qemu_harness::vm::VmConfig;
use std::time::{Duration, Instant};

/// Block size of the root's verity mapping.
const BLOCK: u64 = 4096;
/// Blocks of the interpreter that are tried besides the superblock.
const BLOCKS: u64 = 2;

#[test]
fn a_flipped_bit_never_serves() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::default())?;
    let seed = seed()?;
    eprintln!("seed {seed} (ASTROMESH_SEED={seed} repeats this run)");
    let interpreter = blocks_of(&host.tools, &image, "/usr/bin/python3.13")?;
    let mut random = seed;
    // The superblock of erofs lies 1024 bytes into the file system.
    let mut offsets = vec![1024 + next(&mut random) % 128];
    for _ in 0..BLOCKS {
        let (start, end) = interpreter[pick(&mut random, interpreter.len())];
        offsets.push(start + next(&mut random) % (end - start));
    }
    for offset in offsets {
        Run::scoped(&host, "corrupt", &image.raw, |run| {
            refuses_to_serve(run, offset)
        })
        .with_context(|| format!("byte {offset} of the root flipped, seed {seed}"))?;
    }
    Ok(())
}

fn refuses_to_serve(run: &mut Run, offset: u64) -> Result<()> {
    let partitions = gpt::partitions(&run.host().tools, &run.disk())?;
    let root = partitions
        .iter()
        .find(|p| p.kind == gpt::ROOT)
        .context("no root partition")?;
    ensure!(offset < root.size, "byte {offset} is outside of the root");
    run.flip(root.start + offset)?;
    let mut vm = run.boot(&VmConfig::default())?;
    let deadline = Instant::now() + REFUSAL;
    while vm.is_on()? {
        if let Ok(body) = vm.api()?.health(Duration::from_secs(2)) {
            bail!("a corrupt root serves: {body}");
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
    let lines = vm.serial().lines(0);
    ensure!(
        lines
            .iter()
            .any(|line| line.text.contains("device-mapper: verity")
                && line.text.contains("corrupted")),
        "the kernel did not report corruption\n{}",
        vm.serial().quote_end(0)
    );
    ensure!(
        lines
            .iter()
            .filter_map(|line| line.event.as_ref())
            .all(|event| event.name != "boot.healthy"),
        "a corrupt root calls itself healthy"
    );
    Ok(())
}

/// Where the data of a file of the root lies, as byte ranges of the partition.
fn blocks_of(tools: &Tools, image: &Image, path: &str) -> Result<Vec<(u64, u64)>> {
    let root = image.root.display().to_string();
    let text = tools.output("dump.erofs", &["-e", &format!("--path={path}"), &root])?;
    // ` 0:        0..   65536 |   65536 :     12288..     28672 |   16384`
    let ranges: Vec<(u64, u64)> = text
        .lines()
        .filter_map(|line| {
            let physical = line.split('|').nth(1)?.split_once(':')?.1;
            let (start, end) = physical.split_once("..")?;
            Some((start.trim().parse().ok()?, end.trim().parse().ok()?))
        })
        .filter(|(start, end)| end > start && *start >= BLOCK)
        .collect();
    ensure!(!ranges.is_empty(), "no extents of {path} in:\n{text}");
    Ok(ranges)
}

fn seed() -> Result<u64> {
    if let Ok(text) = std::env::var("ASTROMESH_SEED") {
        return text
            .parse()
            .with_context(|| format!("ASTROMESH_SEED={text} is not a number"));
    }
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(u64::from_str_radix(&uuid[..8], 16)?)
}

/// splitmix64: small, and the same everywhere.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn pick(state: &mut u64, len: usize) -> usize {
    usize::try_from(next(state) % len as u64).unwrap_or(0)
}
