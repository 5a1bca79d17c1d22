//! The whole core in a simulated machine: whatever fails there, and whoever meddles, in the end the
//! kernel has what it should have, and what is told is true at the moment it is told.

mod kernel;

use std::time::Duration;

use kernel::{Faults, Machine};
use netcfg::Config;
use netcfg::core::Command;
use proptest::prelude::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many cases, unless `PROPTEST_CASES` says otherwise.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Each thing goes wrong now and then, or not at all.
fn faults() -> impl Strategy<Value = Faults> {
    let often = || prop_oneof![Just(0), 0u8..100];
    (
        often(),
        often(),
        often(),
        often(),
        often(),
        often(),
        often(),
    )
        .prop_map(
            |(asking, applying, writing, opening, preparing, sending, loss)| Faults {
                asking,
                applying,
                writing,
                opening,
                preparing,
                sending,
                loss,
                ..Faults::default()
            },
        )
}

/// What images say of their network.
fn configs() -> impl Strategy<Value = Config> {
    proptest::sample::select(vec![
        "",
        "[[link]]\nrole = \"local\"",
        "[[link]]\nipv6 = \"off\"\ndhcp = { conflict-detection = \"strict\" }",
        "[[link]]\ndhcp = { conflict-detection = \"off\", broadcast = true, rapid-commit = false }",
        "[[link]]\naddress = [\"203.0.113.9/24\"]",
        "[[link]]\ndhcp4 = false\naddress = [\"203.0.113.9/24\"]\ngateway = \"203.0.113.1\"",
    ])
    .prop_map(|text| toml::from_str(text).expect("a configuration"))
}

/// What happens to the machine.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Plug(u32, bool),
    Carrier(u32, bool),
    Rob(u32),
    Restart,
    Serving(bool),
    Nothing,
}

fn happenings() -> impl Strategy<Value = Vec<(Happening, u64)>> {
    let one = prop_oneof![
        2 => (2u32..4, any::<bool>()).prop_map(|(link, there)| Happening::Plug(link, there)),
        4 => (2u32..4, any::<bool>()).prop_map(|(link, on)| Happening::Carrier(link, on)),
        2 => (2u32..4).prop_map(Happening::Rob),
        2 => Just(Happening::Restart),
        2 => any::<bool>().prop_map(Happening::Serving),
        1 => Just(Happening::Nothing),
    ];
    let gap = prop_oneof![0u64..10, 0u64..3000, 0u64..400_000];
    proptest::collection::vec((one, gap), 0..25)
}

fn run(seed: u64, config: Config, faults: Faults, happenings: &[(Happening, u64)]) -> Machine {
    let mut machine = Machine::new(seed, config, faults);
    machine.plug(2, true);
    machine.intrude(2);
    for (happening, gap) in happenings {
        match *happening {
            Happening::Plug(link, there) => machine.plug(link, there),
            Happening::Carrier(link, on) => machine.carrier(link, on),
            Happening::Rob(link) => machine.rob(link),
            Happening::Restart => machine.restart(),
            Happening::Serving(serving) => machine.serving = serving,
            Happening::Nothing => {}
        }
        let end = machine.now + Duration::from_millis(*gap);
        machine.run_until(end);
    }
    machine
}

proptest! {
    #![proptest_config(config(300))]

    /// Properties 4, 5, 11 and 14 for the whole: after all faults, with the server there, both
    /// links are configured, and nothing foreign was touched on the way.
    #[test]
    fn in_the_end_everything_is_as_it_should_be(
        seed: u64, config in configs(), faults in faults(), happenings in happenings(),
    ) {
        let mut machine = run(seed, config, faults, &happenings);
        machine.faults = Faults::default();
        machine.serving = true;
        for link in [2, 3] {
            machine.plug(link, true);
            machine.carrier(link, true);
        }
        let end = machine.now + s(1800);
        machine.run_until(end);
        for link in [2, 3] {
            prop_assert!(machine.is_configured(link), "link {link}: {:#?}\n{:?}", machine.core, machine.seen);
        }
        // While its card stays, what somebody else put there stays.
        let unplugged = happenings.iter().any(|(h, _)| matches!(h, Happening::Plug(2, false)));
        let foreign = machine.seen.addresses.iter().filter(|seen| !seen.ours).count()
            + machine.seen.routes.iter().filter(|seen| !seen.ours).count();
        prop_assert_eq!(foreign, if unplugged { 0 } else { 2 });
    }

    /// Property 15 for the whole: the same seed and inputs give the same commands.
    #[test]
    fn runs_can_be_repeated(
        seed: u64, config in configs(), faults in faults(), happenings in happenings(),
    ) {
        let first = run(seed, config.clone(), faults, &happenings);
        let second = run(seed, config, faults, &happenings);
        prop_assert_eq!(first.log, second.log);
    }
}

#[test]
fn a_restart_changes_nothing_that_works() {
    let happenings = [(Happening::Nothing, 5000)];
    let mut machine = run(1, Config::default(), Faults::default(), &happenings);
    assert!(machine.is_configured(2));
    let before = machine.seen.clone();
    let told = machine.events.len();
    let done = machine.log.len();
    machine.restart();
    let end = machine.now + s(5);
    machine.run_until(end);
    assert_eq!(before.routes, machine.seen.routes);
    assert!(machine.is_configured(2));
    let names: Vec<&str> = machine.events[told..].iter().map(|e| e.name).collect();
    assert_eq!(names, ["net.link", "net.address"]);
    // Until it knows better, what an earlier run wrote and set stands.
    let touched = |command: &Command| {
        matches!(
            command,
            Command::WriteResolvConf(_) | Command::RemoveLease { .. }
        )
    };
    let since = &machine.log[done..];
    assert!(
        !since.iter().any(|(_, command)| touched(command)),
        "{since:?}"
    );
}

#[test]
fn what_failed_is_tried_again_without_being_asked() {
    let mut machine = Machine::new(5, Config::default(), Faults::default());
    machine.faults.applying = 255;
    machine.plug(2, true);
    machine.carrier(2, true);
    machine.run_until(s(10));
    assert!(!machine.is_configured(2));
    machine.faults = Faults::default();
    // Long before the lease has to be renewed, and nothing else happens.
    machine.run_until(s(100));
    assert!(machine.is_configured(2), "{:?}", machine.core);
}

#[test]
fn dumps_that_fail_for_good_are_asked_for_later_and_later() {
    let mut machine = Machine::new(7, Config::default(), Faults::default());
    machine.plug(2, true);
    machine.carrier(2, true);
    machine.run_until(s(10));
    assert!(machine.is_configured(2));
    machine.faults.asking = Faults::ALWAYS;
    let before = machine.log.len();
    machine.rob(2);
    // `Machine` fails at a command that leads to the next without end, and at a deadline that is over.
    machine.run_until(s(1000));
    let asked = machine.log[before..]
        .iter()
        .filter(|(_, command)| matches!(command, Command::Look | Command::See))
        .count();
    // Two notifications; then two dumps a try, and the tries end up 63 to 65 s apart.
    assert!((20..60).contains(&asked), "{asked} dumps");
    machine.faults = Faults::default();
    let end = machine.now + s(70);
    machine.run_until(end);
    assert!(machine.is_configured(2), "{:?}", machine.core);
}

#[test]
fn the_loopback_link_is_switched_on_until_it_is_on() {
    let mut machine = Machine::new(9, Config::default(), Faults::default());
    let loopback = |command: &&Command| **command == Command::LoopbackUp;
    let tries = |machine: &Machine| {
        let commands = machine.log.iter().map(|(_, command)| command);
        commands.filter(loopback).count()
    };
    assert_eq!(tries(&machine), 1);
    machine.faults.loopback = Faults::ALWAYS;
    machine.restart();
    machine.run_until(s(20));
    let told = machine.events.iter().find(|event| {
        event.name == "net.warning" && event.fields.contains(&("link", "lo".to_owned()))
    });
    assert!(told.is_some(), "{:?}", machine.events);
    let failed = tries(&machine);
    assert!(failed > 3, "{failed}");
    machine.faults = Faults::default();
    machine.run_until(s(40));
    assert_eq!(tries(&machine), failed + 1, "once more, and then it is on");
}

#[test]
fn one_broken_link_does_not_hold_up_the_other() {
    let mut machine = Machine::new(3, Config::default(), Faults::default());
    machine.plug(2, true);
    machine.run_until(s(4));
    // From now on nothing can be set, and much fails.
    machine.faults.applying = 255;
    machine.rob(2);
    machine.run_until(s(200));
    machine.faults = Faults::default();
    let before = machine.now;
    machine.plug(3, true);
    machine.carrier(3, true);
    machine.run_until(before + s(1));
    assert!(machine.is_configured(3), "{:?}", machine.core);
}
