//! Is `/var` whole after the cut: as the kernel's mount would find it.
//!
//! The partition is copied to a sparse file, and e2fsprogs do to the copy what the mount does: the journal is
//! replayed, inodes that were deleted while open are freed. After that nothing may be left to mend, because
//! nobody mends it on the machine. Then the files that somebody expects are taken out.
//!
//! Entering the tools root and a full check take a fifth of a second. States with equal bytes here, and that
//! is most of them, are checked once.

use super::disk::{CHUNK, Part, chunks, length, number, write_sparse};
use super::lock;
use crate::tools::{Tools, run};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Where the ext4 superblock is, and in it the state and the features (kernel documentation, ext4, The Super
/// Block).
const SUPERBLOCK: u64 = 1024;
const MAGIC: usize = 0x38;
const STATE: usize = 0x3a;
const INCOMPATIBLE: usize = 0x60;
const CHECKSUM: usize = 0x3fc;
/// Features: the journal is to be replayed.
const NEEDS_RECOVERY: u64 = 4;
/// States: cleanly unmounted or journalled; errors were seen.
const VALID: u64 = 1;
const ERRORS: u64 = 2;
/// CRC-32C, reflected.
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// Arguments: the copy, a folder for answers, paths of files to take out. The first two checks do only what a
/// mount does: without `-f`, and the state being valid, `-p` frees what is on the orphan list and stops.
/// `journal_only` alone would ask at a terminal.
const SCRIPT: &str = r#"
disk=$1 answers=$2
shift 2
step() {
    name=$1
    shift
    "$@" >"$answers/$name" 2>&1 </dev/null
    echo $? >"$answers/$name.status"
}
step replay e2fsck -p -E journal_only "$disk"
dd if="$disk" of="$answers/superblock" bs=1024 skip=1 count=1 status=none
step orphans e2fsck -p "$disk"
step check e2fsck -f -n "$disk"
number=0
for path; do
    debugfs -R "dump \"$path\" \"$answers/file.$number\"" "$disk" >/dev/null 2>&1 </dev/null
    number=$((number + 1))
done
"#;

/// Says what is wrong with a file's content, or with its being missing.
pub type Predicate<'a> = dyn Fn(Option<&[u8]>) -> Result<(), String> + 'a;

/// What a file of `/var` must be.
#[derive(Clone, Copy)]
pub struct Expect<'a> {
    /// Its path below `/var`, such as `lib/astromesh-init/slots.json`.
    pub path: &'a str,
    /// What must hold of it.
    pub holds: &'a Predicate<'a>,
}

impl std::fmt::Debug for Expect<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Expect").field(&self.path).finish()
    }
}

/// What became of one content of `/var`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What keeps it from being whole.
    pub complaints: Vec<String>,
    /// What the mount had to do.
    pub notes: Vec<String>,
    /// The files asked for, those that are there.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A chunk with its digest.
type Chunk = (Arc<Vec<u8>>, [u8; 32]);
/// The chunks that are not zeros.
type Content = BTreeMap<u64, Chunk>;

/// What was read and found before.
#[derive(Debug, Default)]
pub struct Memory {
    /// Of the base, by the chunk's place on the disk; `None` are zeros.
    chunks: Mutex<HashMap<u64, Option<Chunk>>>,
    found: Mutex<HashMap<[u8; 32], Found>>,
}

impl Memory {
    /// Checks the file system in `part`, and takes out the files at `paths`.
    ///
    /// # Errors
    /// When it cannot be read, or not copied to `scratch`, or a tool not run; a bad file system is no error.
    pub fn check(
        &self,
        part: &Part<'_>,
        tools: &Tools,
        scratch: &Path,
        paths: &[&str],
    ) -> Result<Found> {
        let content = self.content(part)?;
        let key = key(&content, paths);
        let known = lock(&self.found).get(&key).cloned();
        if let Some(found) = known {
            return Ok(found);
        }
        // Not locked meanwhile: the tools take their time.
        let found = look(&content, part.size(), tools, scratch, paths)?;
        lock(&self.found).insert(key, found.clone());
        Ok(found)
    }

    fn content(&self, part: &Part<'_>) -> Result<Content> {
        let mut content = Content::new();
        for (index, range) in (0..).zip(chunks(part.size())) {
            let place = part.start() + range.start;
            let unchanged = part.unchanged(range.clone());
            let kept = unchanged.then(|| lock(&self.chunks).get(&place).cloned());
            let chunk = match kept.flatten() {
                Some(chunk) => chunk,
                None => {
                    let bytes = part.read(range.start, length(&range))?;
                    let chunk = (!is_zero(&bytes)).then(|| {
                        let digest = Sha256::digest(&bytes).into();
                        (Arc::new(bytes), digest)
                    });
                    if unchanged {
                        lock(&self.chunks).insert(place, chunk.clone());
                    }
                    chunk
                }
            };
            content.extend(chunk.map(|chunk| (index, chunk)));
        }
        Ok(content)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // All bytes are the first, and the first is zero: a comparison of memory, quick in any build.
    bytes.first().is_none_or(|first| *first == 0)
        && bytes.get(1..).unwrap_or_default() == &bytes[..bytes.len().saturating_sub(1)]
}

fn key(content: &Content, paths: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (index, (_, digest)) in content {
        hash.update(index.to_le_bytes());
        hash.update(digest);
    }
    hash.update([0]);
    for path in paths {
        hash.update(path);
        hash.update([0]);
    }
    hash.finalize().into()
}

/// A folder for one check, removed with what is in it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only disk space is lost if it stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn look(
    content: &Content,
    size: u64,
    tools: &Tools,
    scratch: &Path,
    paths: &[&str],
) -> Result<Found> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let serial = NUMBER.fetch_add(1, Ordering::Relaxed);
    let place = Scratch(scratch.join(format!("var-{}-{serial}", std::process::id())));
    let folder = &place.0;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let disk = folder.join("var.raw");
    let file = File::create(&disk).with_context(|| format!("cannot make {}", disk.display()))?;
    file.set_len(size)?;
    for (index, (bytes, _)) in content {
        write_sparse(&file, index * CHUNK, bytes)
            .with_context(|| format!("cannot write {}", disk.display()))?;
    }
    drop(file);
    let mut found = Found {
        complaints: Vec::new(),
        notes: Vec::new(),
        files: BTreeMap::new(),
    };
    let mut superblock = [0; 1024];
    Part::new(&File::open(&disk)?, &(0..size))?.fill(SUPERBLOCK, &mut superblock)?;
    if number::<2>(&superblock, MAGIC) != 0xef53 {
        found.complaints.push("/var is no ext4".to_owned());
        return Ok(found);
    }
    if let Some(sum) = torn(&superblock) {
        // Init mends it; what it is good for, the tools say.
        File::options()
            .write(true)
            .open(&disk)?
            .write_all_at(&sum.to_le_bytes(), SUPERBLOCK + CHECKSUM as u64)?;
        superblock[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
        found
            .notes
            .push("/var's superblock is torn between its two sectors".to_owned());
    }
    // Later than any clock a machine was given: times are not what is checked.
    run(tools
        .command("sh")
        .env("E2FSCK_TIME", "4102444800")
        .args(["-c", SCRIPT, "sh"])
        .arg(&disk)
        .arg(folder)
        .args(paths))
    .context("cannot check /var")?;
    judge_answers(folder, &superblock, &mut found)?;
    for (index, path) in paths.iter().enumerate() {
        if let Ok(bytes) = fs::read(folder.join(format!("file.{index}"))) {
            found.files.insert((*path).to_owned(), bytes);
        }
    }
    Ok(found)
}

/// The checksum that a superblock should have, if it has another: of its two sectors only one was
/// written, and what a mount changes is all in the first but for the checksum.
fn torn(superblock: &[u8; 1024]) -> Option<u32> {
    let crc = superblock[..CHECKSUM].iter().fold(!0u32, |crc, &byte| {
        let mut crc = crc ^ u32::from(byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= CASTAGNOLI;
            }
        }
        crc
    });
    let stored: u32 = number::<4>(superblock, CHECKSUM).try_into().ok()?;
    (stored != crc).then_some(crc)
}

fn judge_answers(folder: &Path, before: &[u8], found: &mut Found) -> Result<()> {
    let answer = |name: &str| -> Result<(i32, String)> {
        let read = |file: &str| {
            let path = folder.join(file);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let status = String::from_utf8_lossy(&read(&format!("{name}.status"))?).into_owned();
        let said = String::from_utf8_lossy(&read(name)?).trim().to_owned();
        let status = status.trim().parse();
        Ok((status.context("a status is a number")?, said))
    };
    if number::<4>(before, INCOMPATIBLE) & NEEDS_RECOVERY != 0 {
        found.notes.push("/var's journal was replayed".to_owned());
    }
    // 1 is: errors were there and are mended (e2fsck(8)).
    let (status, said) = answer("replay")?;
    if !matches!(status, 0 | 1) {
        found
            .complaints
            .push(format!("/var's journal cannot be replayed: {said}"));
        return Ok(());
    }
    let after = fs::read(folder.join("superblock")).context("cannot read /var's superblock")?;
    if number::<4>(&after, INCOMPATIBLE) & NEEDS_RECOVERY != 0 {
        let why = "/var's journal is still to be replayed after its replay";
        found.complaints.push(format!("{why}: {said}"));
    }
    if number::<2>(&after, STATE) & (VALID | ERRORS) != VALID {
        let state = number::<2>(&after, STATE);
        found.complaints.push(format!(
            "/var's superblock says that errors were seen (state {state})"
        ));
        return Ok(());
    }
    let (status, mount) = answer("orphans")?;
    if !matches!(status, 0 | 1) {
        let told = format!("/var cannot be mounted: {mount}");
        found.complaints.push(told);
    }
    // The replay frees orphans as well.
    let freed = said.lines().chain(mount.lines());
    let freed = freed.filter(|line| line.contains("orphan"));
    found.notes.extend(freed.map(|line| format!("/{line}")));
    let (status, said) = answer("check")?;
    if status != 0 {
        found
            .complaints
            .push(format!("/var has errors (e2fsck: {status}): {said}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_told_from_others() {
        assert!(is_zero(&[]));
        assert!(is_zero(&[0; 100]));
        assert!(!is_zero(&[1; 100]));
        assert!(!is_zero(&[0, 0, 0, 1]));
        assert!(!is_zero(&[0, 1, 0, 0]));
    }

    /// Answers of the tools as they are written.
    fn judged(status: [u8; 3], feature: u8, state: u8) -> Found {
        let folder = std::env::temp_dir().join(format!(
            "judge-var-{}-{status:?}-{feature}-{state}",
            std::process::id()
        ));
        let place = Scratch(folder);
        fs::create_dir_all(&place.0).unwrap();
        for (name, status) in ["replay", "orphans", "check"].iter().zip(status) {
            fs::write(place.0.join(name), "words\n").unwrap();
            fs::write(
                place.0.join(format!("{name}.status")),
                format!("{status}\n"),
            )
            .unwrap();
        }
        let mut superblock = [0; 1024];
        superblock[STATE] = state;
        superblock[INCOMPATIBLE] = feature;
        fs::write(place.0.join("superblock"), superblock).unwrap();
        let mut found = Found {
            complaints: vec![],
            notes: vec![],
            files: BTreeMap::new(),
        };
        judge_answers(&place.0, &superblock, &mut found).unwrap();
        found
    }

    #[test]
    fn only_what_a_mount_does_may_be_done() {
        assert_eq!(judged([0, 0, 0], 0, 1).complaints, Vec::<String>::new());
        assert_eq!(judged([1, 1, 0], 0, 1).complaints, Vec::<String>::new());
        for (status, feature, state, word) in [
            ([8, 0, 0], 0, 1, "cannot be replayed"),
            ([0, 4, 0], 0, 1, "cannot be mounted"),
            ([0, 0, 4], 0, 1, "has errors"),
            ([0, 0, 0], 4, 1, "still to be replayed"),
            ([0, 0, 0], 0, 3, "errors were seen"),
            ([0, 0, 0], 0, 0, "errors were seen"),
        ] {
            let complaints = judged(status, feature, state).complaints;
            assert!(complaints[0].contains(word), "{complaints:?}");
        }
    }
}
