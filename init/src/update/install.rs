//! Carrying out a plan. Each step is over only when what it wrote is on the disk.
//!
//! Writing goes to the device in pieces that are flushed and dropped from the page cache as it goes on: a
//! machine that serves meanwhile keeps its memory, and its disk is not flooded at the end.

use super::fetch::{self, Wait};
use super::manifest::{Manifest, Part};
use super::plan::{Plan, Step};
use super::progress::Progress;
use super::source::Source;
use super::verity::{self, Pair};
use super::{End, Outlet, direct};
use crate::devices::gpt_edit::{self, Table};
use crate::slots::marks::{Mark, Marks};
use crate::slots::{Esp, Layout, Record, Uki, efivar, layout};
use crate::state::StateDir;
use rustix::fs::Advice;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes that may wait in the page cache.
const FLUSH: u64 = 8 << 20;

/// End of a temporary name on the ESP: the loader takes only `*.efi` for entries.
const TEMPORARY: &str = ".new";

/// Ends of names that [`Esp::sweep`] removes.
const LEFT: [&str; 2] = [TEMPORARY, ".twin"];

/// Characters of a partition's name (UEFI specification 2.10, section 5.3.3).
const LABEL_MAX: usize = 36;

/// The machine that is updated.
#[derive(Debug)]
pub struct Machine {
    /// What runs.
    pub running: Uki,
    /// Its slots.
    pub layout: Layout,
    /// The whole disk.
    pub disk: Disk,
    /// The other slot's root.
    pub root: Place,
    /// Its hash tree.
    pub verity: Place,
    /// The ESP.
    pub esp: Esp,
    /// Where the firmware's variables are.
    pub efivars: PathBuf,
    /// Where the record is.
    pub state: StateDir,
    /// Where it is marked, for the rest of this boot, that a version was armed.
    pub marks: Marks,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its device.
    pub path: PathBuf,
    /// How many blocks it has.
    pub blocks: u64,
    /// Their size.
    pub block: u64,
}

/// A partition that is written.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its device.
    pub path: PathBuf,
    /// Its number in the table.
    pub number: u32,
}

/// What is needed to carry out a plan.
pub struct Job<'a> {
    /// Of what.
    pub manifest: &'a Manifest,
    /// Where from.
    pub source: &'a mut dyn Source,
    /// The UKI, whole and checked.
    pub uki: &'a [u8],
    /// Where to.
    pub machine: &'a Machine,
    /// How to wait between tries.
    pub wait: Wait<'a>,
    /// Who hears of it.
    pub outlet: &'a mut dyn Outlet,
    /// Bytes that were written.
    pub written: u64,
}

impl Job<'_> {
    /// Carries out the plan; `before` is called before each step and can stop it, as a power cut would.
    ///
    /// # Errors
    /// Of the first step that fails. The running version is untouched and boots.
    pub fn run(
        &mut self,
        plan: &Plan,
        before: &mut dyn FnMut(&Step) -> Result<(), End>,
    ) -> Result<(), End> {
        for step in &plan.steps {
            before(step)?;
            self.step(plan, step)?;
        }
        Ok(())
    }

    fn step(&mut self, plan: &Plan, step: &Step) -> Result<(), End> {
        let machine = self.machine;
        let esp = &machine.esp;
        match step {
            // Nothing was changed yet.
            Step::ProveRecord => Record::prove_writable(&machine.state).map_err(|e| {
                End::Refused(format!(
                    "what becomes of the version could not be written down: {e}"
                ))
            }),
            Step::Disarm => efivar::clear_one_shot(&machine.efivars).map_err(End::failed),
            Step::Sweep => esp.sweep().map_err(End::failed),
            Step::Remove(name) => esp.remove(name).map_err(End::failed),
            Step::WriteRoot => self.write(&self.manifest.root, &machine.root.path),
            Step::WriteVerity => self.write(&self.manifest.verity, &machine.verity.path),
            Step::Prove => prove(machine, self.manifest),
            Step::Label => self.label(),
            Step::Stage => self.stage(plan),
            Step::ReadBack => read_back(&esp.folder().join(temporary(plan)), self.manifest),
            Step::Publish => esp
                .place(&temporary(plan), &plan.entry)
                .map_err(End::failed),
            Step::Record => self.record(),
            Step::Arm => {
                efivar::set_one_shot(&machine.efivars, &plan.entry.id()).map_err(End::failed)
            }
        }
    }

    /// Fetches a part into a partition.
    fn write(&mut self, part: &Part, path: &Path) -> Result<(), End> {
        let failed = |e: io::Error| End::failed(at(path, &e));
        // Exclusive: the kernel refuses a partition that is in use (open(2)), as the running root's are.
        let mut target = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(path)
            .map_err(failed)?;
        let mut flushed = 0u64;
        let mut here = 0u64;
        let mut sink = |bytes: &[u8]| {
            target.write_all(bytes).map_err(failed)?;
            here = here.saturating_add(bytes.len() as u64);
            if here - flushed >= FLUSH {
                target.sync_data().map_err(failed)?;
                let _ = rustix::fs::fadvise(&target, 0, None, Advice::DontNeed);
                flushed = here;
            }
            Ok(())
        };
        let outlet = &mut *self.outlet;
        let mut pace = Progress::new(&part.name);
        let mut progress = |percent: u64| pace.tell(outlet, percent);
        let fetched = fetch::part(self.source, part, self.wait, &mut sink, &mut progress);
        self.written = self.written.saturating_add(here);
        fetched?;
        target.sync_all().map_err(failed)
    }

    /// Gives the partitions their GUIDs and names, in both copies of the table.
    fn label(&mut self) -> Result<(), End> {
        let Machine {
            disk, root, verity, ..
        } = self.machine;
        let (data, hash) = layout::halves(&self.manifest.roothash);
        let name = format!("{}_{}", self.manifest.image, self.manifest.version);
        let change = || -> io::Result<u64> {
            let device = OpenOptions::new().read(true).write(true).open(&disk.path)?;
            gpt_edit::lock(&device)?;
            let mut table = Table::read(&device, disk.blocks, disk.block)?;
            for (place, guid, name) in [
                (root, data, label(&name)),
                (verity, hash, label(&format!("{name}_verity"))),
            ] {
                table
                    .relabel(place.number, guid, &name)
                    .map_err(io::Error::other)?;
            }
            table.write(&device)?;
            device.sync_all()?;
            let written = table.steps().into_iter().map(|step| match step {
                gpt_edit::Step::Write { bytes, .. } => bytes.len() as u64,
                gpt_edit::Step::Flush => 0,
            });
            Ok(written.sum())
        };
        let written = change().map_err(|e| End::failed(at(&disk.path, &e)))?;
        self.written = self.written.saturating_add(written);
        Ok(())
    }

    /// Writes the UKI to the ESP under a name that is no entry's.
    fn stage(&mut self, plan: &Plan) -> Result<(), End> {
        let esp = &self.machine.esp;
        let path = esp.folder().join(temporary(plan));
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&path)?;
            file.write_all(self.uki)?;
            file.sync_all()
        };
        for name in [temporary(plan), plan.entry.file()] {
            if let Some(seen) = esp.make_way(&name).map_err(End::failed)? {
                self.outlet.event("update.warning", &[("seen", seen)]);
            }
        }
        esp.sweep().map_err(End::failed)?;
        write().map_err(|e| End::failed(at(&path, &e)))?;
        esp.flush().map_err(End::failed)?;
        self.written = self.written.saturating_add(self.uki.len() as u64);
        Ok(())
    }

    fn record(&mut self) -> Result<(), End> {
        let state = &self.machine.state;
        let mut record = Record::load(state).map_err(End::failed)?.record;
        record.installed(&self.manifest.version, &self.manifest.roothash);
        record.armed(&self.manifest.version, &self.manifest.roothash);
        record.save(state).map_err(End::failed)?;
        self.machine.marks.set(Mark::Armed).map_err(End::failed)
    }
}

/// Proves what the partitions hold, as the device gives it back.
fn prove(machine: &Machine, manifest: &Manifest) -> Result<(), End> {
    let (root, verity) = (&machine.root.path, &machine.verity.path);
    let (data, tree) = (direct::open(root)?, direct::open(verity)?);
    let pair = Pair {
        data: &data,
        data_name: &root.display().to_string(),
        data_size: manifest.root.size,
        tree: &tree,
        tree_name: &verity.display().to_string(),
    };
    verity::verify(&pair, &manifest.roothash).map_err(End::failed)
}

/// Compares the staged UKI with the manifest, as the device gives it back.
fn read_back(path: &Path, manifest: &Manifest) -> Result<(), End> {
    let file = direct::open(path)?;
    let hash = direct::hash(&file, manifest.uki.size).map_err(|e| End::failed(at(path, &e)))?;
    if hash == manifest.uki.sha256 {
        Ok(())
    } else {
        Err(End::failed(format!(
            "{}: the ESP gives back other bytes than were written: its device is broken",
            path.display()
        )))
    }
}

/// The staged UKI's name: what the ESP takes for a file on its way, and the loader for no entry.
fn temporary(plan: &Plan) -> String {
    format!("{}{TEMPORARY}", plan.entry.file())
}

/// Bytes on the ESP that interrupted updates left there; none if they left nothing.
///
/// # Errors
/// Names the folder.
pub fn leftovers(esp: &Esp) -> Result<Option<u64>, End> {
    let list = || -> io::Result<Option<u64>> {
        let mut bytes = None;
        for entry in std::fs::read_dir(esp.folder())? {
            let entry = entry?;
            let name = entry.file_name();
            if LEFT.iter().any(|end| name.to_string_lossy().ends_with(end)) {
                bytes = Some(
                    bytes
                        .unwrap_or(0u64)
                        .saturating_add(entry.metadata()?.len()),
                );
            }
        }
        Ok(bytes)
    };
    list().map_err(|e| End::failed(at(esp.folder(), &e)))
}

/// A name for a partition, cut to what the table has room for.
fn label(name: &str) -> String {
    name.chars().take(LABEL_MAX).collect()
}

fn at(path: &Path, e: &io::Error) -> String {
    format!("{}: {e}", path.display())
}
