//! A sample of the power-cut campaign (`cargo run --package appliance-tests --bin powercut`): every flush of
//! a machine's life, and some seeded states between, judged; the worst are booted.

use anyhow::Result;
use appliance_tests::cuts;
use appliance_tests::fleet::Fleet;
use qemu_harness::bundle::Run;
use qemu_harness::image_options::Runtime;

/// States between flushes.
const STATES: usize = 300;
/// States that are booted.
const BOOTS: usize = 3;
/// A campaign takes another.
const SEED: u64 = 5;

#[test]
fn a_power_cut_at_any_moment_leaves_a_whole_machine() -> Result<()> {
    let fleet = Fleet::new("cuts-sample", Runtime::Small)?;
    let versions = [fleet.version("1")?, fleet.version("2")?];
    let first = versions[0].raw.clone();
    Run::scoped(&fleet.host, "cuts-sample", &first, |run| {
        let life = cuts::record(&fleet, run, versions)?;
        let states = life.states(SEED, STATES)?;
        let tally = cuts::judge(&fleet, &life, &states, run.dir())?;
        eprintln!("{} states, they boot {:?}", states.len(), tally.boots);
        cuts::all_good(&tally)?;
        for state in life.worst(&states, BOOTS)? {
            let healthy = cuts::boot(&fleet, &life, &state)?;
            eprintln!("{state}: healthy {healthy:?} after power-on");
        }
        Ok(())
    })
}
