//! The campaign of reboots: runtimes that do not get well, as whole boots of many minutes.
//!
//! A runtime that dies slowly is healthy most of the time, at any given moment too. Its restarts are used
//! up all the same, and the machine has to come to the end that its law names: three reboots in a row, or four
//! after starts that lasted, then `boot.degraded`. The machines' clocks count instructions, so that minutes of sleep
//! cost nothing; a course of some boots takes minutes of the host all the same, so this is a program and not a test.
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

/// How one runtime fails, and what the machine does about it.
struct Course {
    name: &'static str,
    /// When its instances end, in seconds since the kernel's start.
    ends: &'static str,
    /// The reboots that are granted.
    granted: usize,
    /// Why no more are, as the machine tells it.
    bound: &'static str,
}

/// The runtime's restarts are five in ten minutes. In the first course the sixth end is within ten minutes of the
/// first restart; in the second nine minutes of health are followed by failures that go on past minute ten. In
/// the third they begin after that, when the start has lasted.
const COURSES: [Course; 3] = [
    Course {
        name: "dies-slowly",
        ends: "110,220,330,440,550,660",
        granted: 3,
        bound: "3 starts in a row ",
    },
    Course {
        name: "dies-late",
        ends: "560,580,600,630,660,720",
        granted: 3,
        bound: "3 starts in a row ",
    },
    Course {
        name: "dies-after-lasting",
        ends: "640,660,680,710,750,800",
        granted: 4,
        bound: "4 recent starts ",
    },
];

/// A boot of eleven minutes takes one or two of the host's; this is the end of all patience.
const PATIENCE: Duration = Duration::from_secs(600);

/// Boots a machine whose runtime fails at the same times of each boot, and follows it to its end.
fn reboots_and_is_degraded(course: &Course) -> Result<()> {
    let Course {
        name,
        ends,
        granted,
        bound,
    } = course;
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
        for _ in 0..*granted {
            vm.wait(from, "boot.healthy", &[], PATIENCE)?;
            let failed = [("service", "astromeshd"), ("then", "reboot")];
            let failed = vm.wait(from, "service.failed", &failed, PATIENCE)?;
            let stopped = vm.wait(failed.index, "shutdown.start", &[], PATIENCE)?;
            from = vm
                .wait(stopped.index, "shutdown.done", &[], PATIENCE)?
                .index;
        }
        let reason = [("reason", "service"), ("service", "astromeshd")];
        let degraded = vm.wait(from, "boot.degraded", &reason, PATIENCE)?;
        let seen = degraded.event.get("seen").context("no `seen`")?;
        ensure!(
            seen.starts_with(bound) && degraded.event.get("then") == Some("staying up as it is"),
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
        .try_for_each(|course| reboots_and_is_degraded(course).context(course.name));
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
