//! A sample of the power-cut campaign (`cargo run --package appliance-tests --bin powercut`): every flush of
//! a machine's life, and some seeded states between, judged; the worst are booted.

use anyhow::{Result, bail, ensure};
use appliance_tests::cuts;
use appliance_tests::fleet::Fleet;
use appliance_tests::seed::seed;
use qemu_harness::bundle::Run;
use qemu_harness::image_options::Runtime;
use qemu_harness::powercut::Kind;

/// States between flushes.
const STATES: usize = 300;
/// States that are booted.
const BOOTS: usize = 3;
/// A life has some ninety flushes that guarantee something new: of growth, two blessings, an update and a trial. A
/// recording with far fewer is not of such a life.
const FLUSHES: usize = 60;

#[test]
fn a_power_cut_at_any_moment_leaves_a_whole_machine() -> Result<()> {
    let fleet = Fleet::new("cuts-sample", Runtime::Small)?;
    let versions = [fleet.version("1")?, fleet.version("2")?];
    let first = versions[0].raw.clone();
    Run::scoped(&fleet.host, "cuts-sample", &first, |run| {
        let life = cuts::record(&fleet, run, versions)?;
        let states = life.states(seed()?, STATES)?;
        let flushes = states.iter().filter(|s| s.kind == Kind::Flushed).count();
        let tally = cuts::judge(&fleet, &life, &states, run.dir())?;
        eprintln!(
            "{} states, {flushes} at flushes, they boot {:?}",
            states.len(),
            tally.boots
        );
        cuts::all_good(&tally)?;
        ensure!(
            flushes >= FLUSHES && states.len() >= flushes + STATES,
            "only {} states, {flushes} at flushes",
            states.len()
        );
        // A judge that sees one version wherever it looks sees no mixture either.
        let counts = ["1", "2"].map(|version| tally.boots.get(version).copied());
        let [Some(of_first), Some(of_second)] = counts else {
            bail!("not both versions start: {:?}", tally.boots);
        };
        ensure!(
            of_first + of_second == states.len(),
            "a version that nobody made starts: {:?}",
            tally.boots
        );
        let end = life.recording.journal.whole();
        let at_end = cuts::judge(&fleet, &life, &[end], run.dir())?;
        ensure!(
            at_end.boots.keys().eq(["2"]),
            "version 2 was blessed, and at the end of the life {:?} starts",
            at_end.boots
        );
        for state in life.worst(&states, BOOTS)? {
            let healthy = cuts::boot(&fleet, &life, &state)?;
            eprintln!("{state}: healthy {healthy:?} after power-on");
        }
        Ok(())
    })
}
