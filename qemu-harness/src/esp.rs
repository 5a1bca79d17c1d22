//! The ESP of a disk image, from outside and between boots.
//!
//! mtools read and write the file system where it lies on the disk; nothing is mounted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::gpt::{self, Partition};
use crate::tools::{Tools, run};

/// Type of the ESP (UEFI specification).
pub const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
/// Where systemd-boot looks for UKIs.
const ENTRIES: &str = "::/EFI/Linux";

/// The ESP of a machine that is off.
#[derive(Debug)]
pub struct Esp<'a> {
    tools: &'a Tools,
    /// mtools' name of it: the disk and the offset.
    image: String,
    /// Where files are on their way in and out.
    work: PathBuf,
}

impl<'a> Esp<'a> {
    /// The ESP of `disk`; files on their way lie beside the disk.
    ///
    /// # Errors
    /// When the disk has not exactly one.
    pub fn of(tools: &'a Tools, disk: &Path) -> Result<Self> {
        let partitions = gpt::partitions(tools, disk)?;
        let Partition { start, .. } = gpt::only(&partitions, "the ESP", |p| p.kind == ESP)?;
        Ok(Self {
            tools,
            image: format!("{}@@{start}", disk.display()),
            work: disk.with_extension("esp-file"),
        })
    }

    fn mtool(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.tools.command(program);
        command.args(["-i", &self.image]);
        run(command.args(arguments))
    }

    /// The names of the UKIs, sorted.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn entries(&self) -> Result<Vec<String>> {
        let text = self.mtool("mdir", &["-b", ENTRIES])?;
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| Some(line.trim().rsplit_once('/')?.1.to_owned()))
            .filter(|name| !name.is_empty())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The only UKI of a version.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn entry_of(&self, version: &str) -> Result<String> {
        let of_version = |name: &&String| {
            let stem = name.strip_suffix(".efi").unwrap_or(name);
            let stem = stem.split('+').next().unwrap_or(stem);
            stem.rsplit_once('_').is_some_and(|(_, it)| it == version)
        };
        let names = self.entries()?;
        let mut found = names.iter().filter(of_version);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.clone()),
            _ => anyhow::bail!("not one UKI of version {version} on the ESP, but {names:?}"),
        }
    }

    /// The contents of a UKI.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let place = format!("{ENTRIES}/{name}");
        let work = self.work.display().to_string();
        self.mtool("mcopy", &["-n", "-o", &place, &work])?;
        let bytes = fs::read(&self.work).with_context(|| format!("cannot read {work}"));
        let _ = fs::remove_file(&self.work);
        bytes
    }

    /// Writes a UKI, over one of the same name.
    ///
    /// # Errors
    /// When the ESP is full.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let place = format!("{ENTRIES}/{name}");
        let work = self.work.display().to_string();
        fs::write(&self.work, bytes).with_context(|| format!("cannot write {work}"))?;
        let written = self.mtool("mcopy", &["-n", "-o", &work, &place]);
        let _ = fs::remove_file(&self.work);
        written.map(drop)
    }

    /// Gives a UKI another name, such as one with another counter.
    ///
    /// # Errors
    /// When it is not there, or the name is taken.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let place = format!("{ENTRIES}/{from}");
        self.mtool("mren", &[&place, to]).map(drop)
    }

    /// Removes a UKI.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let place = format!("{ENTRIES}/{name}");
        self.mtool("mdel", &[&place]).map(drop)
    }
}
