//! What there is: the slots, the ESP, the firmware's variables and the record, looked at together.
//!
//! The ESP is mounted for as long as this look is held, and no longer: a file system that is not
//! mounted is not left dirty by a power cut.

use super::steps::Situation;
use crate::cmdline::Cmdline;
use crate::devices::disks;
use crate::slots::efivar::{self, BootVariables};
use crate::slots::esp::{Esp, Found};
use crate::slots::judgement::{self, Facts, View};
use crate::slots::layout::{self, Layout};
use crate::slots::marks::{Mark, Marks};
use crate::slots::name::EntryName;
use crate::slots::record::{Record, Unreadable};
use crate::slots::uki::{self, Uki};
use crate::state::StateDir;
use std::path::Path;

/// One look.
#[derive(Debug)]
pub struct Look {
    /// The partitions.
    pub layout: Layout,
    /// The entries.
    pub found: Vec<Found>,
    /// What is to be said if there are more than these.
    pub surplus: Option<String>,
    /// What the loader said.
    pub variables: BootVariables,
    /// The running version.
    pub running: Uki,
    /// What is known of earlier trials; empty if it cannot be read.
    pub record: Record,
    /// Why it cannot.
    pub unreadable: Option<Unreadable>,
    /// What is wrong with it, if this is the copy.
    pub damage: Option<String>,
    /// Whether the other version was armed in this boot.
    pub armed_in_this_boot: bool,
    /// The mounted ESP.
    pub esp: Esp,
}

/// Whether what is written down is there after a reboot: `/var` is a disk (statfs(2),
/// `EXT4_SUPER_MAGIC`) and not the one in memory of a degraded machine.
#[must_use]
pub fn remembers() -> bool {
    rustix::fs::statfs("/var").is_ok_and(|fs| fs.f_type == 0xef53)
}

/// Looks at everything.
///
/// # Errors
/// What is missing for slots: a machine that was not started by this layout has none.
pub fn look(marks: &Marks) -> Result<Look, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
    let roothash = Cmdline::parse(&read("/proc/cmdline")?)
        .roothash
        .ok_or("the kernel command line has no roothash=")?;
    let release = read("/usr/lib/os-release")?;
    let field = |key: &str| {
        uki::os_release(&release, key)
            .filter(|value| uki::is_name(value))
            .ok_or_else(|| format!("/usr/lib/os-release has no {key}= that can be in a file name"))
    };
    let running = Uki {
        image: field("IMAGE_ID")?,
        version: field("IMAGE_VERSION")?,
        roothash,
    };
    let variables = efivar::read(Path::new(efivar::DIRECTORY));
    let partitions = disks::partitions(&mut |_, _| {});
    let layout = layout::find(&partitions, &roothash, variables.device)?;
    let device = layout.esp.path();
    let fail = |e| format!("the ESP {}: {e}", device.display());
    let esp = Esp::mount(&device, &running.image).map_err(fail)?;
    let entries = esp.list().map_err(fail)?;
    let (surplus, found) = (entries.surplus(), entries.found);
    let loaded = StateDir::open()
        .map_err(Unreadable::from)
        .and_then(|state| Record::load(&state));
    let (record, damage) = match loaded {
        Ok(loaded) => (Ok(loaded.record), loaded.damage),
        Err(e) => (Err(e), None),
    };
    let (record, unreadable) = match record {
        Ok(record) => (record, None),
        Err(e) => (Record::default(), Some(e)),
    };
    Ok(Look {
        layout,
        found,
        surplus,
        variables,
        running,
        record,
        unreadable,
        damage,
        armed_in_this_boot: marks.has(Mark::Armed),
        esp,
    })
}

impl Look {
    /// What is known; a trial is given up after so many tries without a verdict.
    #[must_use]
    pub fn facts(&self, tries: u32) -> Facts<'_> {
        Facts {
            running: &self.running,
            found: &self.found,
            layout: &self.layout,
            variables: &self.variables,
            record: &self.record,
            tries,
            forgotten: self.unreadable.is_some(),
            armed_in_this_boot: self.armed_in_this_boot,
        }
    }

    /// What it comes to.
    #[must_use]
    pub fn view(&self, tries: u32) -> View {
        judgement::judge(&self.facts(tries))
    }

    /// The root hash of an entry that was found.
    #[must_use]
    pub fn roothash_of(&self, entry: &EntryName) -> Option<[u8; 32]> {
        let found = self.found.iter().find(|found| found.name == *entry)?;
        Some(found.uki.as_ref().ok()?.roothash)
    }

    /// Where things stand for the steps.
    ///
    /// # Errors
    /// If no entry on the ESP is the one that this boot came from.
    pub fn situation(&self, view: &View, tries: u32) -> Result<Situation, String> {
        Situation::of(&self.running, view, tries).ok_or_else(|| {
            format!(
                "no entry on the ESP {} is that of the running version {}",
                self.layout.esp.path().display(),
                self.running.version
            )
        })
    }
}
