//! The judge of disks against the real image: it finds it good, and for each kind of damage it says what a
//! machine would make of it. No machine is started.

mod damage;
mod esp;
mod root;
mod table;
mod update;
mod var;

use anyhow::{Context, Result, anyhow, ensure};
use damage::Damaged;
use qemu_harness::image::{self, Image, ImageOptions};
use qemu_harness::judge::{Judge, Known, Rule, VarCheck, Verdict};
use qemu_harness::paths::Paths;
use qemu_harness::setup;
use qemu_harness::tools::Tools;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

/// What all tests of this program share: one judge, as in a campaign.
pub struct Bench {
    /// The programs that make the damage.
    pub tools: Tools,
    /// The image that the disks are copies of.
    pub image: Image,
    /// Who is on trial.
    pub judge: Judge,
    /// A folder for copies, in memory when the host has one there.
    pub scratch: PathBuf,
}

/// The bench, made once.
pub fn bench() -> Result<&'static Bench> {
    static BENCH: OnceLock<Result<Bench, String>> = OnceLock::new();
    BENCH
        .get_or_init(|| Bench::make().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

impl Bench {
    fn make() -> Result<Self> {
        setup::prepare()?;
        let paths = Paths::discover()?;
        let tools = Tools::prepare(&paths)?;
        let image = image::build(&paths, &tools, &ImageOptions::default())?;
        let judge = Judge::new(&[Known::of(&image)?])?;
        let memory = PathBuf::from("/dev/shm");
        let scratch = if memory.is_dir() { memory } else { paths.out };
        Ok(Self {
            tools,
            image,
            judge,
            scratch,
        })
    }

    /// Judges everything but `/var`.
    pub fn judge(&self, disk: &Damaged, one_shot: Option<&str>) -> Result<Verdict> {
        self.judge
            .judge(disk, one_shot, &self.tools, VarCheck::Skip)
    }

    /// The name of the image's UKI on the ESP.
    pub fn uki(&self) -> String {
        format!("astromesh-os_{}+3-0.efi", self.image.version)
    }
}

/// Checks that the only complaint, or each of several, has one of these words in it.
pub fn complains(verdict: &Verdict, words: &[&str]) -> Result<()> {
    let told = &verdict.complaints;
    ensure!(
        told.len() == words.len()
            && told
                .iter()
                .zip(words)
                .all(|(told, word)| told.contains(word)),
        "expected {words:?}: {verdict:#?}"
    );
    Ok(())
}

/// Checks that it boots the image's version from slot A without a complaint, and that the only notes have these words.
pub fn good(bench: &Bench, verdict: &Verdict, notes: &[&str]) -> Result<()> {
    complains(verdict, &[])?;
    let slot = verdict.slot.context("no slot")?;
    ensure!(
        verdict.boots.as_ref() == Some(&bench.image.version)
            && (slot.letter, slot.root, slot.verity) == ('a', 2, 3)
            && verdict.rule.is_some()
            && verdict.notes.len() == notes.len()
            && verdict
                .notes
                .iter()
                .zip(notes)
                .all(|(told, word)| told.contains(word)),
        "expected the notes {notes:?}: {verdict:#?}"
    );
    Ok(())
}

#[test]
fn the_image_is_good() -> Result<()> {
    let bench = bench()?;
    let disk = Damaged::new(bench)?;
    let verdict = bench.judge(&disk, None)?;
    good(bench, &verdict, &[])?;
    ensure!(verdict.entry == Some(bench.uki()), "{verdict:#?}");
    ensure!(verdict.rule == Some(Rule::First), "{verdict:#?}");
    ensure!(verdict.alternatives.is_empty(), "{verdict:#?}");
    Ok(())
}

#[test]
fn a_judge_of_one_disk_says_the_same() -> Result<()> {
    let bench = bench()?;
    let file = std::fs::File::open(&bench.image.raw)?;
    let known = [Known::of(&bench.image)?];
    let verdict = qemu_harness::judge::judge(&file, &known, None, &bench.tools, VarCheck::Skip)?;
    good(bench, &verdict, &[])
}

#[test]
fn files_of_two_images_are_no_version() -> Result<()> {
    let bench = bench()?;
    let mut known = Known::of(&bench.image)?;
    known.verity.clone_from(&known.root);
    let error = Judge::new(&[known]).err().context("it was taken")?;
    ensure!(format!("{error:#}").contains("not one image"), "{error:#}");
    Ok(())
}

/// Each state differs from the one before, as those of a cut do: first in a slot that is not used, then in `/var`.
#[test]
fn many_states_are_judged_with_what_is_known_of_the_base() -> Result<()> {
    const STATES: u64 = 20;
    // Blocks that no file has: what is in them is no matter, and must be looked at all the same.
    const FREE: u64 = 300 << 20;
    let bench = bench()?;
    let var = VarCheck::Replay {
        scratch: &bench.scratch,
        expect: &[],
    };
    let mut disk = Damaged::new(bench)?;
    for (number, first) in [(4, 0), (6, FREE)] {
        let place = bench.partition(number)?.start + first;
        let started = Instant::now();
        for state in 0..STATES {
            disk.flip(place + state * 5_000_000)?;
            let verdict = bench.judge.judge(&disk, None, &bench.tools, var)?;
            good(bench, &verdict, &[])?;
        }
        let millis = started.elapsed().as_millis() / u128::from(STATES);
        eprintln!("partition {number} changed: {millis} ms a state");
    }
    Ok(())
}
