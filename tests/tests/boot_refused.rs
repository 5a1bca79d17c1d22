//! Machines that cannot boot say what is wrong and follow the policy.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{REFUSAL, host, image, image_with_config};
use qemu_harness::bundle::Run;
use qemu_harness::gpt;
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::VmConfig;

#[test]
fn an_unreachable_root_is_named_and_the_machine_resets() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::default())?;
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
        let mut vm = run.boot(&VmConfig::default())?;
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

#[test]
fn a_broken_config_stops_the_image_build() -> Result<()> {
    let host = host()?;
    let error = image_with_config(&host, "broken", "[service.helper]\ncolour = \"blue\"\n")
        .err()
        .context("an image with an unknown key in its configuration was built")?;
    let text = format!("{error:#}");
    ensure!(
        text.contains("init.toml:") && text.contains("colour"),
        "it does not name the file, the line and the key: {text}"
    );
    Ok(())
}
