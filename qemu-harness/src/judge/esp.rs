//! What the loader finds on the ESP: itself, its configuration, and the UKIs, each with what it says of itself.

use super::disk::Part;
use super::fat::{Node, Volume};
use super::loader::{self, Entry, Rule};
use crate::pe;
use anyhow::{Context, Result, bail, ensure};

/// Where the firmware looks when no variable tells it (UEFI 2.10, section 3.5.1.1), and where systemd-boot
/// has its own copy.
const LOADERS: [&str; 2] = ["EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"];
/// The section by which a loader is known as systemd-boot, and how its content begins.
const MAGIC: (&str, &[u8]) = (".sdmagic", b"#### LoaderInfo: systemd-boot ");
const CONFIG: &str = "loader/loader.conf";
/// Where entries of the other kind would be. The image has none.
const OTHER_ENTRIES: &str = "loader/entries";
const UKIS: &str = "EFI/Linux";
/// Sections without which a UKI does not start.
const SECTIONS: [&str; 4] = [".osrel", ".cmdline", ".linux", ".initrd"];

/// What is there.
#[derive(Debug, Default)]
pub struct Esp {
    /// Files in `EFI/Linux` whose names are those of UKIs, in the order of the loader's menu; after them those
    /// that it does not list.
    pub files: Vec<File>,
    /// The name of the file that starts.
    pub chosen: Option<(String, Rule)>,
    pub complaints: Vec<String>,
    pub notes: Vec<String>,
}

/// A file with the name of a UKI.
#[derive(Debug)]
pub struct File {
    pub name: String,
    /// What is in it, or why it cannot start.
    pub content: Result<Uki, String>,
}

/// A UKI that can be read.
#[derive(Debug)]
pub struct Uki {
    pub bytes: Vec<u8>,
    /// The first `roothash=` of its command line.
    pub roothash: Result<String, String>,
}

/// Reads the ESP as the loader does.
///
/// # Errors
/// When there is no volume.
pub fn read(part: Part<'_>, one_shot: Option<&str>) -> Result<Esp> {
    let volume = Volume::open(part)?;
    let mut esp = Esp {
        complaints: volume.faults.clone(),
        notes: volume.notes.clone(),
        ..Esp::default()
    };
    esp.loaders(&volume);
    let default = esp.config(&volume);
    esp.damage(&volume);

    let mut listed = Vec::new();
    let mut unlisted = Vec::new();
    for (name, node) in volume.files(UKIS) {
        if !name.to_ascii_lowercase().ends_with(".efi") {
            continue;
        }
        // The loader reads only what it shows: a file that breaks off further on is listed, and chosen.
        let bytes = volume.beginning(node)?;
        let os_release = pe::section(&bytes, ".osrel").ok();
        let entry = os_release.and_then(|text| Entry::new(name, text));
        let whole = volume.whole(node).map_err(|error| format!("{error:#}"));
        let content = whole.and_then(|_| uki(bytes));
        let file = File {
            name: name.to_owned(),
            content,
        };
        match entry {
            Some(entry) => listed.push((entry, file)),
            None => unlisted.push(file),
        }
    }
    listed.sort_by(|(a, _), (b, _)| loader::order(a, b));
    let (entries, files): (Vec<Entry>, Vec<File>) = listed.into_iter().unzip();
    if let Some((entry, rule)) = loader::choose(&entries, one_shot, default.as_deref()) {
        if entry.is_bad() && rule != Rule::OneShot {
            esp.notes
                .push(format!("{} starts and has no tries left", entry.file));
        }
        esp.chosen = Some((entry.file.clone(), rule));
    }
    if let Some(id) = one_shot
        && esp
            .chosen
            .as_ref()
            .is_none_or(|(_, rule)| *rule != Rule::OneShot)
    {
        esp.notes
            .push(format!("LoaderEntryOneShot names {id}, which is not there"));
    }
    esp.files = files;
    for file in unlisted {
        let why = match file.content {
            Ok(_) => "the loader does not list it".to_owned(),
            Err(why) => format!("the loader does not list it: {why}"),
        };
        esp.files.push(File {
            name: file.name,
            content: Err(why),
        });
    }
    Ok(esp)
}

impl Esp {
    /// The two copies of the loader, which must be one program.
    fn loaders(&mut self, volume: &Volume<'_>) {
        let read = |path: &str| -> Result<Vec<u8>> {
            let node = volume
                .find(path)
                .with_context(|| format!("{path} is missing"))?;
            let bytes = volume.read(node)?;
            let magic = pe::section(&bytes, MAGIC.0).with_context(|| path.to_owned())?;
            ensure!(magic.starts_with(MAGIC.1), "{path} is not systemd-boot");
            Ok(bytes)
        };
        match LOADERS.map(read) {
            [Ok(first), Ok(second)] if first != second => self
                .complaints
                .push(format!("{} and {} differ", LOADERS[0], LOADERS[1])),
            both => {
                let errors = both.into_iter().filter_map(Result::err);
                self.complaints
                    .extend(errors.map(|error| format!("{error:#}")));
            }
        }
    }

    /// `default` of the configuration.
    fn config(&mut self, volume: &Volume<'_>) -> Option<String> {
        let mut others = volume.files(OTHER_ENTRIES).map(|(name, _)| name);
        if let Some(name) = others.find(|name| name.to_lowercase().ends_with(".conf")) {
            self.complaints
                .push(format!("{OTHER_ENTRIES} has {name}, which no image has"));
        }
        let node = volume
            .find(CONFIG)
            .with_context(|| format!("{CONFIG} is missing"));
        match node.and_then(|node| volume.read(node)) {
            Ok(bytes) => loader::default(&String::from_utf8_lossy(&bytes)),
            Err(error) => {
                self.complaints.push(format!("{error:#}"));
                None
            }
        }
    }

    /// What chains of clusters tell: of files that are needed it is a complaint.
    fn damage(&mut self, volume: &Volume<'_>) {
        for (a, b) in volume.crossed() {
            let told = format!("{a} and {b} have clusters of the ESP in common");
            if needed(a) || needed(b) {
                self.complaints.push(told);
            } else {
                self.notes.push(told);
            }
        }
        for (a, b) in volume.shared() {
            self.notes.push(format!("{a} and {b} are one file"));
        }
        let broken = |node: &&Node| !node.directory && !needed(&node.path);
        for node in volume.nodes.iter().filter(broken) {
            if let Err(error) = volume.whole(node) {
                self.notes.push(format!("{error:#}"));
            }
        }
        let lost = volume.lost();
        if lost > 0 {
            self.notes.push(format!(
                "{lost} clusters of the ESP are taken and of no file"
            ));
        }
    }
}

/// Something without which the machine does not start, or that may be started: the loader's files, UKIs,
/// and any folder.
fn needed(path: &str) -> bool {
    let path = path.to_lowercase();
    let file = path.rsplit('/').next().unwrap_or_default();
    !file.contains('.') || file.ends_with(".efi") || path == CONFIG
}

/// Checks that a UKI is whole in itself.
fn uki(bytes: Vec<u8>) -> Result<Uki, String> {
    for name in SECTIONS {
        pe::section(&bytes, name).map_err(|error| format!("the UKI: {error:#}"))?;
    }
    let roothash = roothash(&bytes).map_err(|error| format!("the UKI: {error:#}"));
    Ok(Uki { bytes, roothash })
}

fn roothash(bytes: &[u8]) -> Result<String> {
    let line = pe::command_line(bytes)?;
    let mut words = line.split_ascii_whitespace();
    let Some(hash) = words.find_map(|word| word.strip_prefix("roothash=")) else {
        bail!("its command line has no root hash");
    };
    ensure!(
        hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "its root hash {hash:?} is none"
    );
    Ok(hash.to_owned())
}
