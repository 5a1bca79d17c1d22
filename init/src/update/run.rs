//! One update from its source to its end.

use super::fetch::{self, Wait};
use super::install::{self, Job, Machine};
use super::manifest::{self, Manifest};
use super::plan::{self, Facts, Plan, Step};
use super::progress::Progress;
use super::source::Source;
use super::{End, Outlet, keys};
use crate::slots::judgement::{self, Facts as Slots};
use crate::slots::record::Unreadable;
use crate::slots::{Record, Uki, efivar, uki};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The processors that this program is for, as systemd names them.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "x86-64"
};

/// Suffix of the signature's name.
const SIGNATURE: &str = ".sig";

/// Bytes of a signature that are read; how many are right is said with what is wrong then.
const SIGNATURE_MAX: usize = 1024;

/// Where an update comes from.
pub struct Origin<'a> {
    /// The source.
    pub source: &'a mut dyn Source,
    /// The manifest's name there.
    pub manifest: &'a str,
    /// The folder of keys.
    pub keys: &'a Path,
    /// Called when the manifest is there and known to be signed: all before has a deadline of its own.
    pub trusted: &'a mut dyn FnMut(),
}

/// Updates the machine, and tells all about it but its start. `before` is called before each step and can
/// stop it.
///
/// # Errors
/// Why nothing was installed.
pub fn update(
    origin: Origin<'_>,
    machine: impl FnOnce() -> Result<Machine, String>,
    wait: Wait<'_>,
    outlet: &mut dyn Outlet,
    before: &mut dyn FnMut(&Step) -> Result<(), End>,
) -> Result<(), End> {
    let mut version = None;
    let result = attempt(origin, machine, wait, outlet, before, &mut version);
    if let Err(end) = &result {
        conclude(end, &version.unwrap_or_default(), outlet);
    }
    result
}

/// Tells why nothing was installed; the version if it is known already.
pub fn conclude(end: &End, version: &str, outlet: &mut dyn Outlet) {
    let version = ("version", version.to_owned());
    match end {
        End::Refused(reason) | End::Rejected(reason) => {
            outlet.event("update.refused", &[version, ("reason", reason.clone())]);
        }
        End::Nothing(reason) => {
            outlet.event("update.current", &[version, ("reason", reason.clone())]);
        }
        End::Failed { reason, transient } => {
            let transient = if *transient { "yes" } else { "no" };
            let fields = [
                version,
                ("reason", reason.clone()),
                ("transient", transient.to_owned()),
            ];
            outlet.event("update.failed", &fields);
        }
    }
}

fn attempt(
    origin: Origin<'_>,
    machine: impl FnOnce() -> Result<Machine, String>,
    wait: Wait<'_>,
    outlet: &mut dyn Outlet,
    before: &mut dyn FnMut(&Step) -> Result<(), End>,
    version: &mut Option<String>,
) -> Result<(), End> {
    let Origin {
        source,
        manifest: name,
        keys,
        trusted,
    } = origin;
    let manifest = signed(source, name, keys, wait, version)?;
    trusted();
    let total = [&manifest.root, &manifest.verity, &manifest.uki]
        .iter()
        .fold(0u64, |sum, part| sum.saturating_add(part.size));
    outlet.event(
        "update.manifest",
        &[
            ("version", manifest.version.clone()),
            ("bytes", total.to_string()),
        ],
    );
    let machine = machine().map_err(End::failed)?;
    let plan = plan(&machine, &manifest)?;
    // Whatever ends it from here on has cost the bytes of a version, and would do so again.
    let written = install(source, &manifest, &machine, &plan, wait, outlet, before)
        .map_err(End::after_fetching)?;
    outlet.event(
        "update.installed",
        &[
            ("version", manifest.version.clone()),
            ("slot", machine.layout.other.letter.to_string()),
            ("entry", plan.entry.file()),
            ("bytes_written", written.to_string()),
        ],
    );
    Ok(())
}

/// Fetches the files of the version and installs it; how many bytes were written.
fn install(
    source: &mut dyn Source,
    manifest: &Manifest,
    machine: &Machine,
    plan: &Plan,
    wait: Wait<'_>,
    outlet: &mut dyn Outlet,
    before: &mut dyn FnMut(&Step) -> Result<(), End>,
) -> Result<u64, End> {
    let uki = fetch_uki(source, manifest, wait, outlet)?;
    check_sizes(source, manifest, wait)?;
    let mut job = Job {
        manifest,
        source,
        uki: &uki,
        machine,
        wait,
        outlet,
        written: 0,
    };
    job.run(plan, before)?;
    Ok(job.written)
}

/// The manifest, once it is known that its bytes were signed; and its version, also if the rest is refused.
fn signed(
    source: &mut dyn Source,
    name: &str,
    folder: &Path,
    wait: Wait<'_>,
    version: &mut Option<String>,
) -> Result<Manifest, End> {
    let keys = keys::load(folder).map_err(End::Refused)?;
    let bytes = fetch::small(source, name, manifest::SIZE_MAX, wait)?;
    let signature = format!("{name}{SIGNATURE}");
    let signed = fetch::small(source, &signature, SIGNATURE_MAX, wait)?;
    let place = source.place(name);
    let refused = |e: String| End::Refused(format!("{place}: {e}"));
    keys::verify(&keys, &bytes, &signed).map_err(refused)?;
    *version = manifest::version(&bytes);
    Manifest::parse(&bytes).map_err(refused)
}

/// What is to be done on this machine.
fn plan(machine: &Machine, manifest: &Manifest) -> Result<Plan, End> {
    let entries = machine.esp.list().map_err(End::failed)?;
    let surplus = entries.surplus();
    let found = entries.found;
    let variables = efivar::read(&machine.efivars);
    let record = Record::load(&machine.state).map_err(|e| match e {
        Unreadable::Passing(reason) => End::Failed {
            reason,
            transient: true,
        },
        Unreadable::Damaged(_) => End::Refused(e.to_string()),
    })?;
    let record = record.record;
    let slots = Slots {
        running: &machine.running,
        found: &found,
        layout: &machine.layout,
        variables: &variables,
        record: &record,
        tries: 0,
        forgotten: false,
        armed_in_this_boot: false,
    };
    let removals = judgement::before_install(&slots).map(|mut names| {
        for name in judgement::stale(&slots) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    });
    let left = install::leftovers(&machine.esp)?;
    let free = machine.esp.free().map_err(End::failed)?;
    let other = &machine.layout.other;
    let facts = Facts {
        running: &machine.running,
        architecture: ARCHITECTURE,
        floor: record.floor(&machine.running.version, &found),
        bad: record.is_bad(&manifest.version).map(str::to_owned),
        root_size: other.root.size,
        verity_size: other.verity.size,
        labelled: other.holds(&manifest.roothash),
        esp_free: free.saturating_add(left.unwrap_or(0)),
        leftovers: left.is_some(),
        found: &found,
        surplus,
        removals,
        one_shot: variables.one_shot.clone(),
        loader: variables.loader.clone(),
    };
    plan::decide(manifest, &facts)
}

/// The UKI, which is small enough to be checked before anything is changed.
fn fetch_uki(
    source: &mut dyn Source,
    manifest: &Manifest,
    wait: Wait<'_>,
    outlet: &mut dyn Outlet,
) -> Result<Vec<u8>, End> {
    let part = &manifest.uki;
    let mut bytes = Vec::with_capacity(usize::try_from(part.size).unwrap_or_default());
    let mut sink = |more: &[u8]| {
        bytes.extend_from_slice(more);
        Ok(())
    };
    let mut pace = Progress::new(&part.name);
    let mut progress = |percent| pace.tell(outlet, percent);
    let fetched = fetch::part(source, part, wait, &mut sink, &mut progress);
    // Nothing was changed: what is wrong with it is a refusal, unless it was only the line.
    fetched.map_err(|end| match end {
        End::Failed {
            reason,
            transient: false,
        } => End::Refused(reason),
        other => other,
    })?;
    let said = read_uki(&bytes).map_err(|e| {
        End::Refused(format!(
            "{}: not a whole UKI: {e}",
            source.place(&part.name)
        ))
    })?;
    plan::agrees(manifest, &said)?;
    Ok(bytes)
}

/// What is too long or too short is refused before it costs the other slot its content, if the source can
/// tell the sizes.
fn check_sizes(source: &mut dyn Source, manifest: &Manifest, wait: Wait<'_>) -> Result<(), End> {
    for part in [&manifest.root, &manifest.verity] {
        let size = fetch::size(source, &part.name, wait)?;
        if let Some(size) = size.filter(|size| *size != part.size) {
            return Err(End::Refused(format!(
                "{}: it has {size} bytes; the manifest says {}",
                source.place(&part.name),
                part.size
            )));
        }
    }
    Ok(())
}

fn read_uki(bytes: &[u8]) -> Result<Uki, String> {
    uki::read(&InMemory(bytes), bytes.len() as u64)
}

struct InMemory<'a>(&'a [u8]);

impl FileExt for InMemory<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.0.get(offset..))
            .unwrap_or_default();
        let mut count = 0;
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
            count += 1;
        }
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

#[cfg(test)]
mod tests;
