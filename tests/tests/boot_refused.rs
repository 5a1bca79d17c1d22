//! Machines that cannot boot say what is wrong and follow the policy.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{REFUSAL, host, image, with_config};
use qemu_harness::bundle::Run;
use qemu_harness::gpt;
use qemu_harness::host::Host;
use qemu_harness::image::{ImageOptions, Runtime};
use qemu_harness::vm::VmConfig;

#[test]
fn an_unreachable_root_is_named_and_the_machine_resets() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    Run::scoped(&host, "no-root", &image.raw, |run| {
        let tools = &host.tools;
        let partitions = gpt::partitions(tools, &run.disk())?;
        let root = partitions
            .iter()
            .find(|p| p.kind == gpt::ROOT)
            .context("no root partition")?;
        tools.output(
            "sfdisk",
            &[
                "--part-uuid",
                &run.disk().display().to_string(),
                &root.number.to_string(),
                "01234567-89AB-CDEF-0123-456789ABCDEF",
            ],
        )?;
        // The partition will never come; a minute of hoping for it proves no more than five seconds.
        let config = VmConfig::default().kernel_argument("astromesh.root-timeout=5");
        let mut vm = run.boot(&config)?;
        let failed = vm.wait(0, "boot.failed", &[], REFUSAL)?.event;
        let looked_for = failed.get("looked_for").unwrap_or_default();
        ensure!(
            looked_for.to_uppercase().contains(&root.uuid),
            "it does not name the partition {} it looked for: {failed}",
            root.uuid
        );
        let seen = failed.get("seen").unwrap_or_default();
        ensure!(!seen.is_empty(), "it does not say what it saw: {failed}");
        ensure!(
            failed.get("then") == Some("reboot"),
            "the policy is a reboot: {failed}"
        );
        let ended = vm.wait_end(REFUSAL)?;
        ensure!(
            ended.reason == "guest-reset",
            "it ended by {}",
            ended.reason
        );
        Ok(())
    })
}

/// A key that does not exist, in a service that is otherwise fine.
const BROKEN: &str = "[service.helper]\nexec = [\"/usr/bin/astromeshd\"]\ncolour = \"blue\"\n";

/// Options for an image with this key.
fn small_with(host: &Host, name: &str) -> Result<ImageOptions> {
    Ok(ImageOptions {
        runtime: Runtime::Small,
        ..with_config(host, name, BROKEN)?
    })
}

#[test]
fn a_broken_config_stops_the_image_build() -> Result<()> {
    let host = host()?;
    let options = small_with(&host, "broken")?;
    let error = image(&host, &options)
        .err()
        .context("an image with an unknown key in its configuration was built")?;
    let text = format!("{error:#}");
    ensure!(
        text.contains(&format!("init.toml:{}:1: ", line_of_colour(&options)?))
            && text.contains("colour"),
        "it does not name the file, the line and the key: {text}"
    );
    Ok(())
}

#[test]
fn a_broken_config_that_got_through_is_named_and_the_machine_resets() -> Result<()> {
    let host = host()?;
    let options = ImageOptions {
        unchecked: true,
        ..small_with(&host, "broken-boot")?
    };
    let image = image(&host, &options)?;
    Run::scoped(&host, "broken-config", &image.raw, |run| {
        let mut vm = run.boot(&VmConfig::default())?;
        let failed = vm.wait(0, "boot.failed", &[], REFUSAL)?.event;
        let seen = failed.get("seen").unwrap_or_default();
        ensure!(
            seen.contains(&format!("init.toml:{}:1: ", line_of_colour(&options)?))
                && seen.contains("colour"),
            "it does not name the file, the line and the key: {failed}"
        );
        ensure!(
            failed.get("then") == Some("reboot"),
            "the policy is a reboot: {failed}"
        );
        let ended = vm.wait_end(REFUSAL)?;
        ensure!(
            ended.reason == "guest-reset",
            "it ended by {}",
            ended.reason
        );
        Ok(())
    })
}

fn line_of_colour(options: &ImageOptions) -> Result<usize> {
    let config = options.config.as_ref().context("no configuration")?;
    let text = std::fs::read_to_string(config)?;
    let before = text.lines().take_while(|line| !line.starts_with("colour"));
    Ok(before.count() + 1)
}
