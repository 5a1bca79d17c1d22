//! The campaign of reboots: runtimes that do not get well, as whole boots of many minutes.
//!
//! A runtime that dies slowly is healthy most of the time, at any given moment too. Its restarts are used
//! up all the same, and the machine has to come to the end that its law names: three reboots, then
//! `boot.degraded`. The machines' clocks count instructions, so that minutes of sleep cost nothing; a course
//! of four boots takes some minutes of the host all the same, so this is a program and not a test.
//!
//! The exit status is 1 if a machine came to another end.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{host, image, with_drop_in};
use qemu_harness::bundle::Run;
use qemu_harness::disk::Disk;
use qemu_harness::image::ImageOptions;
use qemu_harness::image_options::Runtime;
use qemu_harness::vm::{Network, VmConfig};
use std::process::ExitCode;
use std::time::Duration;

/// The names of the courses, and when their runtime fails, in seconds since the kernel's start.
///
/// Its restarts are five in ten minutes. In the first course the sixth end is within ten minutes of the first
/// restart; in the second nine minutes of health are followed by failures that go on past minute ten.
const COURSES: [(&str, &str); 2] = [
    ("dies-slowly", "110,220,330,440,550,660"),
    ("dies-late", "560,580,600,630,660,720"),
];

/// A boot of eleven minutes takes one or two of the host's; this is the end of all patience.
const PATIENCE: Duration = Duration::from_secs(600);

/// The reboots that are granted.
const GRANTED: usize = 3;

/// Boots a machine whose runtime fails at these times of each boot, and follows it to its end.
fn reboots_and_is_degraded(name: &str, ends: &str) -> Result<()> {
    let host = host()?;
    // The first version is on trial, which three ends in its probation would decide.
    let drop_in = format!(
        "[update]\nprobation = \"60s\"\n\
         [service.astromeshd.environment]\nSMALL_DAEMON = \"ends={ends}\"\n"
    );
    let options = ImageOptions {
        runtime: Runtime::Small,
        ..with_drop_in(&host, name, &drop_in)?
    };
    let image = image(&host, &options)?;
    Run::scoped(&host, name, &image.raw, |run| {
        let machine = VmConfig {
            reboots: true,
            counted_time: true,
            network: Network::None,
            // Nothing waits for a disk of the host, whose time is not the machine's.
            disk: Disk::Forgetful,
            ..VmConfig::default()
        };
        let mut vm = run.boot(&machine)?;
        let mut from = 0;
        for count in 1..=GRANTED {
            vm.wait(from, "boot.healthy", &[], PATIENCE)?;
            let failed = [("service", "astromeshd"), ("then", "reboot")];
            let failed = vm.wait(from, "service.failed", &failed, PATIENCE)?;
            let stopped = vm.wait(failed.index, "shutdown.start", &[], PATIENCE)?;
            let reason = stopped.event.get("reason").context("no reason")?;
            ensure!(
                reason.ends_with(&format!(", reboot {count}")),
                "reboot {count} is told as: {}",
                stopped.event
            );
            from = vm
                .wait(stopped.index, "shutdown.done", &[], PATIENCE)?
                .index;
        }
        let reason = [("reason", "service"), ("service", "astromeshd")];
        let degraded = vm.wait(from, "boot.degraded", &reason, PATIENCE)?;
        ensure!(
            degraded.event.get("then") == Some("staying up as it is"),
            "{}",
            degraded.event
        );
        vm.kill();
        Ok(())
    })
}

fn main() -> ExitCode {
    let done = COURSES
        .iter()
        .try_for_each(|(name, ends)| reboots_and_is_degraded(name, ends).context(*name));
    match done {
        Ok(()) => {
            println!("courses={} degraded={}", COURSES.len(), COURSES.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("reboots: {error:#}");
            ExitCode::FAILURE
        }
    }
}
