//! What every whole-boot test begins with: a host that can run VMs and the image.

use anyhow::{Context, Result, anyhow, bail};
use qemu_harness::accel::Choice;
use qemu_harness::event::Event;
use qemu_harness::host::Host;
use qemu_harness::image::{self, Image, ImageOptions};
use qemu_harness::setup;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// A boot takes half a minute under TCG on two processors; this is the end of all patience.
pub const BOOT: Duration = Duration::from_secs(240);
/// The stop timeout of the runtime and some.
pub const POWER_OFF: Duration = Duration::from_secs(90);
/// A refusal comes within seconds of the kernel's start; `panic=10` adds ten.
pub const REFUSAL: Duration = Duration::from_secs(180);

/// A host ready to run VMs, prepared once per process.
///
/// # Errors
/// What the host lacks.
pub fn host() -> Result<Host> {
    static HOST: OnceLock<Result<Host, String>> = OnceLock::new();
    HOST.get_or_init(|| {
        setup::prepare()
            .and_then(|()| Host::prepare(Choice::Auto))
            .map_err(|error| format!("{error:#}"))
    })
    .clone()
    .map_err(|error| anyhow!(error))
}

/// The image with these options, built at most once; an unchanged one is found, not built.
///
/// # Errors
/// When it cannot be built.
pub fn image(host: &Host, options: &ImageOptions) -> Result<Image> {
    // Tests are threads of one process: the second finds what the first built.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    image::build(&host.paths, &host.tools, options)
}

/// Options for an image whose configuration is the shipped one with `extra` at its end. The file
/// keeps its name, because errors are to name the file that is at fault.
///
/// # Errors
/// When the configuration cannot be written.
pub fn with_config(host: &Host, name: &str, extra: &str) -> Result<ImageOptions> {
    let shipped = host.paths.image_definition().join("init.toml");
    let text = std::fs::read_to_string(&shipped)
        .with_context(|| format!("cannot read {}", shipped.display()))?;
    let config = keep(host, name, "init.toml", &format!("{text}\n{extra}"))?;
    Ok(ImageOptions {
        config: Some(config),
        ..ImageOptions::default()
    })
}

/// Options for an image whose configuration is the shipped one with `text` laid over it.
///
/// # Errors
/// When the drop-in cannot be written.
pub fn with_drop_in(host: &Host, name: &str, text: &str) -> Result<ImageOptions> {
    Ok(ImageOptions {
        drop_in: Some(keep(host, name, "drop-in.toml", text)?),
        ..ImageOptions::default()
    })
}

/// Writes a configuration for the image of test `name`.
fn keep(host: &Host, name: &str, file: &str, text: &str) -> Result<PathBuf> {
    let folder = host.paths.out.join("test-config").join(name);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(file);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// That an address took longer than ten seconds. On an emulated machine it says how busy the host is; a test that wants an
/// address waits for it.
const SLOW_NETWORK: [(&str, &str); 2] = [("what", "net"), ("seen", "no address yet")];

/// Checks that nothing was told that somebody should look into.
///
/// # Errors
/// Names the first warning.
pub fn without_warnings(events: &[Event]) -> Result<()> {
    let mut warnings = events
        .iter()
        .filter(|event| event.name.ends_with(".warning"));
    match warnings.find(|event| !event.is("boot.warning", &SLOW_NETWORK)) {
        Some(event) => bail!("an ordinary boot has a warning: {event}"),
        None => Ok(()),
    }
}

/// Checks that `events` has these, in this order; others may come between.
///
/// # Errors
/// Names the first that is missing or too early.
pub fn in_order(events: &[Event], wanted: &[(&str, &[(&str, &str)])]) -> Result<()> {
    let mut rest = events.iter();
    for (name, fields) in wanted {
        rest.find(|event| event.is(name, fields)).with_context(|| {
            let told: Vec<String> = events.iter().map(ToString::to_string).collect();
            format!(
                "{name} {fields:?} is missing or out of order in:\n{}",
                told.join("\n")
            )
        })?;
    }
    Ok(())
}

/// The version of the runtime that `image/runtime.pin` names.
///
/// # Errors
/// When the pin has another form.
pub fn pinned_version(workspace: &Path) -> Result<String> {
    let path = workspace.join("image/runtime.pin");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("ASTROMESH_REF=v"))
        .map(str::to_owned)
        .with_context(|| format!("no ASTROMESH_REF=v... in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slow_network_is_no_warning() {
        let told = |line: &str| without_warnings(&[Event::parse(line).expect("an event")]);
        let slow = "init: 35.564 boot.warning what=net seen=\"no address yet\" waited_ms=10000";
        assert!(told(slow).is_ok());
        assert!(told("init: 1.000 boot.warning what=net seen=\"no link\"").is_err());
        assert!(told("init: 1.000 slot.warning what=net seen=\"no address yet\"").is_err());
    }

    #[test]
    fn order_is_checked() {
        let events: Vec<Event> = [
            "init: 1.000 a.b x=1",
            "init: 2.000 c.d",
            "init: 3.000 a.b x=2",
        ]
        .iter()
        .map(|line| Event::parse(line).expect("an event"))
        .collect();
        assert!(in_order(&events, &[("a.b", &[("x", "1")]), ("a.b", &[("x", "2")])]).is_ok());
        assert!(in_order(&events, &[("c.d", &[]), ("a.b", &[("x", "1")])]).is_err());
    }
}
