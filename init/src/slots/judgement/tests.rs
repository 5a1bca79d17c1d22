//! Facts, and what they come to.

mod properties;

use super::*;
use crate::slots::layout;
use crate::slots::layout::tests::{disk, hash};

/// All that the facts refer to. Version 1 runs from slot a, with the halves 1 and 2; slot b has 3 and 4.
#[derive(Debug)]
struct Machine {
    running: Uki,
    found: Vec<Found>,
    layout: Layout,
    variables: BootVariables,
    record: Record,
    tries: u32,
    armed_in_this_boot: bool,
    forgotten: bool,
}

const RUNNING: [u8; 2] = [1, 2];
const OTHER: [u8; 2] = [3, 4];
const HALF: [u8; 2] = [3, 9];
const GONE: [u8; 2] = [8, 9];

fn uki(image: &str, version: &str, halves: [u8; 2]) -> Uki {
    let [data, tree] = halves;
    Uki {
        image: image.into(),
        version: version.into(),
        roothash: hash(data, tree),
    }
}

fn name(file: &str) -> EntryName {
    EntryName::parse(file).unwrap()
}

fn entry(file: &str, version: &str, halves: [u8; 2]) -> Found {
    Found {
        name: name(file),
        bytes: 1,
        uki: Ok(uki("os", version, halves)),
    }
}

impl Machine {
    /// It was started by the entry of this name as it is after counting.
    fn started(by: &str, found: Vec<Found>) -> Self {
        let counted = name(by).tries.is_some();
        Self {
            running: uki("os", "1", RUNNING),
            found,
            layout: layout::find(&disk("vda", [1, 2, 3, 4]), &hash(1, 2), None).unwrap(),
            variables: BootVariables {
                count_path: counted.then(|| by.to_owned()),
                stub_image: Some(by.to_owned()),
                ..BootVariables::default()
            },
            record: Record::default(),
            tries: 2,
            armed_in_this_boot: false,
            forgotten: false,
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            running: &self.running,
            found: &self.found,
            layout: &self.layout,
            variables: &self.variables,
            record: &self.record,
            tries: self.tries,
            forgotten: self.forgotten,
            armed_in_this_boot: self.armed_in_this_boot,
        }
    }

    fn view(&self) -> View {
        judge(&self.facts())
    }
}

/// Version 1 is good, and this is the other slot's entry.
fn beside(file: &str) -> Machine {
    let found = vec![entry("os_1.efi", "1", RUNNING), entry(file, "2", OTHER)];
    Machine::started("os_1.efi", found)
}

#[test]
fn a_new_machine_has_one_version_on_trial() {
    let mut machine = Machine::started("os_1+2-1.efi", vec![entry("os_1+2-1.efi", "1", RUNNING)]);
    machine.variables.selected = Some("os_1+3-0.efi".into());
    let view = machine.view();
    assert_eq!((view.running.slot, view.running.state), ('a', State::Trial));
    assert_eq!((view.other.slot, view.other.state), ('b', State::Empty));
    assert_eq!(view.trial.unwrap().before.file(), "os_1+3-0.efi");
    assert_eq!((view.next, view.fallback), (Next::Trial, None));
    assert!(
        before_install(&machine.facts())
            .unwrap_err()
            .contains("is on trial")
    );
}

#[test]
fn a_blessed_version_is_known_by_what_it_was_called() {
    let machine = Machine::started("os_1+2-1.efi", vec![entry("os_1.efi", "1", RUNNING)]);
    let view = machine.view();
    assert_eq!(view.running.state, State::Running);
    assert_eq!(view.running.entry, Some(name("os_1.efi")));
    assert_eq!((view.trial, view.next), (None, Next::Nothing));
    assert_eq!(before_install(&machine.facts()), Ok(vec![]));
}

#[test]
fn the_name_before_this_boot() {
    let before = |now: &str, selected: Option<&str>| {
        let mut machine = Machine::started(now, vec![entry(now, "1", RUNNING)]);
        machine.variables.selected = selected.map(str::to_owned);
        machine.view().trial.unwrap().before.file()
    };
    assert_eq!(before("Os_1+0-1.efi", Some("os_1+1-0.efi")), "Os_1+1-0.efi");
    assert_eq!(before("os_1+0-1.efi", Some("os_1+0-0.efi")), "os_1+0-0.efi");
    assert_eq!(before("os_1+0-1.efi", None), "os_1+0-0.efi");
    assert_eq!(before("os_1+1-1.efi", None), "os_1+2-0.efi");
    // The loader could not rename it.
    assert_eq!(before("os_1+0-0.efi", Some("os_1+0-0.efi")), "os_1+0-0.efi");
    // Nothing that the loader's counting would have made this name of.
    for strange in ["os_1+5-0.efi", "os_2+0-0.efi", "os_1.efi", "reboot"] {
        assert_eq!(before("os_1+0-1.efi", Some(strange)), "os_1+0-0.efi");
    }
}

#[test]
fn a_trial_that_got_its_former_name_is_one_still() {
    let mut machine = Machine::started("os_1+0-2.efi", vec![entry("os_1+0-1.efi", "1", RUNNING)]);
    for selected in [None, Some("os_1+0-1.efi".to_owned())] {
        machine.variables.selected = selected;
        let trial = machine.view().trial.unwrap();
        assert_eq!(
            (trial.before.file(), trial.now.file()),
            ("os_1+0-1.efi".into(), "os_1+0-1.efi".into())
        );
    }
}

#[test]
fn a_version_that_was_rolled_back_by_hand_is_no_trial() {
    let file = marked_bad(&name("os_1.efi"), 2).file();
    assert_eq!(file, "os_1+0-2.efi");
    assert_eq!(marked_bad(&name("os_1+0-7.efi"), 2).file(), "os_1+0-7.efi");
    let found = vec![entry(&file, "1", RUNNING), entry("os_2.efi", "2", OTHER)];
    let mut machine = Machine::started("os_1.efi", found);
    assert_eq!(machine.view().trial, None);
    machine.record.bad("1", &hash(1, 2), "by hand");
    let view = machine.view();
    assert_eq!((view.running.state, view.trial), (State::Bad, None));
    assert_eq!(view.running.reason.as_deref(), Some("by hand"));
    assert_eq!(view.fallback, Some(name("os_2.efi")));
    let refused = before_install(&machine.facts()).unwrap_err();
    assert!(refused.contains("marked bad (by hand)"), "{refused}");
}

#[test]
fn another_way_to_start_is_no_trial() {
    // By kexec: the variables are of the firmware's boot, which was of the other slot.
    let found = vec![
        entry("os_1+0-1.efi", "1", RUNNING),
        entry("os_2+0-1.efi", "2", OTHER),
    ];
    let mut machine = Machine::started("os_2+0-1.efi", found);
    for _ in 0..2 {
        let view = machine.view();
        assert_eq!((view.running.entry, view.trial), (None, None));
        assert_eq!(view.next, Next::Nothing);
        let refused = before_install(&machine.facts()).unwrap_err();
        assert!(
            refused.contains("no entry on the ESP is known"),
            "{refused}"
        );
        // Without a loader.
        machine.variables = BootVariables::default();
    }
}

#[test]
fn the_other_slot() {
    let other = |machine: &Machine| {
        let view = machine.view().other;
        (view.state, view.version, view.reason)
    };
    let two = || Some("2".to_owned());
    assert_eq!(other(&beside("os_2.efi")), (State::Good, two(), None));
    assert_eq!(other(&beside("os_2+0-0.efi")), (State::Trial, two(), None));
    assert_eq!(other(&beside("os_2+3-0.efi")), (State::Trial, two(), None));
    let mut machine = beside("os_2+0-1.efi");
    machine.record.bad("2", &hash(3, 4), "it hung");
    assert_eq!(other(&machine), (State::Bad, two(), Some("it hung".into())));
    assert_eq!(machine.view().next, Next::Nothing);
    let mut machine = beside("os_2+0-1.efi");
    machine.record.blessed("2", &hash(3, 4));
    assert_eq!(other(&machine).0, State::Bad);
    for (file, state) in [("os_2.efi", State::Good), ("os_2+1-1.efi", State::Trial)] {
        machine.found[1] = entry(file, "2", OTHER);
        assert_eq!(other(&machine), (state, two(), None), "{file}");
    }
    machine.found[1] = entry("os_2+0-0.efi", "2", HALF);
    let (state, version, reason) = other(&machine);
    assert_eq!((state, version), (State::Incomplete, two()));
    assert!(reason.unwrap().contains("one of its two partitions"));
    machine.found[1] = entry("os_2+0-0.efi", "2", GONE);
    assert_eq!(other(&machine), (State::Empty, None, None));
    machine.found[1].uki = Err("torn".into());
    assert_eq!(other(&machine), (State::Empty, None, None));
}

#[test]
fn the_fallback_is_what_the_loader_would_start() {
    let fallback = |file: &str| beside(file).view().fallback.map(|name| name.file());
    assert_eq!(fallback("os_2.efi").as_deref(), Some("os_2.efi"));
    assert_eq!(fallback("os_2+1-2.efi").as_deref(), Some("os_2+1-2.efi"));
    assert_eq!(fallback("os_2+0-0.efi"), None);
    let mut machine = beside("os_2.efi");
    machine.record.bad("2", &hash(3, 4), "it hung");
    assert_eq!(machine.view().fallback, None);
}

#[test]
fn a_trial_without_a_verdict_is_tried_again_and_then_given_up() {
    let retry = |file: &str| Next::Retry(name(file));
    let mut machine = beside("os_2+0-1.efi");
    assert_eq!(machine.view().next, retry("os_2+0-1.efi"));
    machine.found[1] = entry("os_2+0-2.efi", "2", OTHER);
    let reason = |machine: &Machine| match machine.view().next {
        Next::FellBack { version, reason } if version == "2" => reason,
        next => panic!("{next:?}"),
    };
    assert!(reason(&machine).contains("never reached the system stage"));
    machine.record.started("2", &hash(3, 4));
    assert!(reason(&machine).contains("after reaching the system stage once"));
}

#[test]
fn a_trial_that_is_never_counted_ends_too() {
    let mut machine = beside("os_2+0-0.efi");
    for _ in 0..2 {
        assert_eq!(machine.view().next, Next::Retry(name("os_2+0-0.efi")));
        machine.record.armed("2", &hash(3, 4));
    }
    let next = machine.view().next;
    assert!(matches!(next, Next::FellBack { reason, .. } if reason.contains("did not start")));
}

#[test]
fn nothing_is_tried_without_a_way_back() {
    let mut machine = beside("os_2+0-0.efi");
    machine.found[0].uki = Err("damaged".into());
    assert_eq!(machine.view().next, Next::Nothing);
    let mut machine = beside("os_2+0-0.efi");
    machine.found[0] = entry("os_1+0-1.efi", "1", RUNNING);
    assert_eq!(machine.view().next, Next::Nothing);
}

#[test]
fn of_twins_the_one_that_the_loader_named_runs() {
    let twins = || {
        vec![
            entry("os_1.efi", "1", RUNNING),
            entry("os_1+0-1.efi", "1", RUNNING),
        ]
    };
    for started in ["os_1.efi", "os_1+0-1.efi"] {
        let view = Machine::started(started, twins()).view();
        assert_eq!(view.running.entry, Some(name(started)));
        assert_eq!(view.trial.is_some(), started.contains('+'));
    }
    let view = Machine::started("os_1+0-2.efi", twins()).view();
    assert_eq!(view.running.entry, Some(name("os_1.efi")));
}

#[test]
fn what_goes_before_an_installation() {
    let mut machine = beside("os_2.efi");
    machine.found.push(entry("os_2+0-1.efi", "2", OTHER));
    machine.found.push(entry("os_3+0-0.efi", "3", HALF));
    machine.found.push(entry("os_4.efi", "4", GONE));
    for (file, why) in [("os_5+0-0.efi", "torn"), ("shell.efi", "not a UKI")] {
        machine.found.push(Found {
            uki: Err(why.into()),
            ..entry(file, "5", GONE)
        });
    }
    let files: Vec<String> = before_install(&machine.facts())
        .unwrap()
        .iter()
        .map(EntryName::file)
        .collect();
    assert_eq!(
        files,
        ["os_2.efi", "os_2+0-1.efi", "os_3+0-0.efi", "os_5+0-0.efi"]
    );
    assert_eq!(stale(&machine.facts()), [name("os_4.efi")]);
}

#[test]
fn what_the_loader_counted_stays_until_the_next_boot() {
    let found = vec![
        entry("os_1.efi", "1", RUNNING),
        entry("os_1+0-1.efi", "2", OTHER),
    ];
    let mut machine = Machine::started("os_1+0-1.efi", found);
    assert_eq!(machine.view().running.entry, Some(name("os_1.efi")));
    let refused = before_install(&machine.facts()).unwrap_err();
    assert!(
        refused.contains("for os_1+0-1.efi, which would have to go"),
        "{refused}"
    );
    machine.found[1] = entry("os_1+0-1.efi", "1", GONE);
    assert_eq!(stale(&machine.facts()), []);
    machine.variables = Machine::started("os_1.efi", vec![]).variables;
    assert_eq!(stale(&machine.facts()), [name("os_1+0-1.efi")]);
}

#[test]
fn the_view_as_json() {
    let mut machine = beside("os_2+0-2.efi");
    machine.record.started("2", &hash(3, 4));
    let json = serde_json::to_value(machine.view()).unwrap();
    let expected = serde_json::json!({
        "running": {"slot": "a", "state": "running", "version": "1", "entry": "os_1.efi", "reason": null},
        "other": {"slot": "b", "state": "trial", "version": "2", "entry": "os_2+0-2.efi", "reason": null},
        "trial": null,
        "fallback": null,
        "next": {"fell-back": {"version": "2", "reason": "ended without a verdict after reaching the system stage once"}},
    });
    assert_eq!(json, expected);
}

#[test]
fn a_trial_whose_uki_is_damaged_is_over() {
    let mut broken = entry("os_2+0-1.efi", "2", OTHER);
    broken.uki = Err("it is cut off".into());
    let mut machine = Machine::started("os_1.efi", vec![entry("os_1.efi", "1", RUNNING), broken]);
    assert_eq!(machine.view().next, Next::Nothing);
    machine.record.installed("2", &hash(3, 4));
    let Next::FellBack { version, reason } = machine.view().next else {
        panic!("it goes on");
    };
    assert_eq!(version, "2");
    assert!(reason.contains("damaged") && reason.contains("it is cut off"));
    // Nobody knows which entry runs, so nothing is said of another one.
    let loader = std::mem::take(&mut machine.variables);
    assert_eq!(machine.view().next, Next::Nothing);
    machine.variables = loader;
    machine.record.bad("2", &hash(3, 4), &reason);
    assert_eq!(machine.view().next, Next::Nothing);
}

#[test]
fn a_version_that_was_armed_in_this_boot_waits_for_its_start() {
    let mut machine = beside("os_2+0-0.efi");
    machine.record.installed("2", &hash(3, 4));
    machine.record.armed("2", &hash(3, 4));
    machine.tries = 1;
    // Its only try is still to come, and no slot daemon that starts anew may give it up.
    machine.armed_in_this_boot = true;
    machine.variables.one_shot = Some("os_2.efi".into());
    assert_eq!(machine.view().next, Next::Armed(name("os_2+0-0.efi")));
    // The variable was lost, or not written yet: it is armed again without being counted again.
    machine.variables.one_shot = None;
    assert_eq!(machine.view().next, Next::Retry(name("os_2+0-0.efi")));
    // In the next boot its try is used up.
    machine.armed_in_this_boot = false;
    assert!(matches!(machine.view().next, Next::FellBack { .. }));
}

#[test]
fn a_record_that_cannot_be_read_is_not_one_that_is_empty() {
    let mut machine = beside("os_2+0-1.efi");
    assert!(before_install(&machine.facts()).is_ok());
    assert!(matches!(machine.view().next, Next::Retry(_)));
    machine.forgotten = true;
    let why = before_install(&machine.facts()).unwrap_err();
    assert!(
        why.contains("record") && why.contains("initctl bless"),
        "{why}"
    );
    assert_eq!(machine.view().next, Next::Nothing);
}
