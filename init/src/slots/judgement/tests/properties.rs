//! What holds for any facts: each "never" of the modules.

use super::*;
use crate::slots::judgement::boot::is;
use proptest::prelude::*;

fn file() -> impl Strategy<Value = String> {
    let counters = prop_oneof![Just(String::new()), "\\+[0-2]-[0-3]"];
    ("os_[1-3]|x_9", counters).prop_map(|(stem, counters)| format!("{stem}{counters}.efi"))
}

fn found() -> impl Strategy<Value = Found> {
    let halves = prop_oneof![
        Just(RUNNING),
        Just(OTHER),
        Just(HALF),
        Just(GONE),
        Just([1, 9])
    ];
    let uki = ("os|x", "[1-3]", halves).prop_map(|(image, version, h)| uki(&image, &version, h));
    let uki = prop_oneof![9 => uki.prop_map(Ok), 1 => Just(Err("torn".to_owned()))];
    (file(), uki).prop_map(|(file, uki)| Found {
        name: name(&file),
        bytes: 1,
        uki,
    })
}

fn record() -> impl Strategy<Value = Record> {
    let step = ("[1-3]", 0..4u8);
    proptest::collection::vec(step, 0..6).prop_map(|steps| {
        let mut record = Record::default();
        for (version, step) in steps {
            match step {
                0 => record.armed(&version, &hash(3, 4)),
                1 => record.started(&version, &hash(3, 4)),
                2 => record.blessed(&version, &hash(3, 4)),
                _ => record.bad(&version, &hash(3, 4), "bad"),
            }
        }
        record
    })
}

prop_compose! {
    fn machine()(
        found in proptest::collection::vec(found(), 0..6),
        start in file(),
        count_path in proptest::option::of(file()),
        selected in proptest::option::of(file()),
        at in proptest::option::of(0usize..6),
        record in record(),
        tries in 0..4u32,
    ) -> Machine {
        // Mostly the loader names an entry that is there.
        let named = at.and_then(|at| found.get(at)).map(|found| found.name.file());
        let mut machine = Machine::started(&named.unwrap_or(start), found);
        machine.variables.count_path = count_path.or(machine.variables.count_path);
        machine.variables.selected = selected;
        machine.record = record;
        machine.tries = tries;
        machine
    }
}

/// The names that are left after a removal.
fn left(machine: &Machine, removed: &[EntryName]) -> Vec<Found> {
    let stays = |found: &&Found| !removed.contains(&found.name);
    machine.found.iter().filter(stays).cloned().collect()
}

fn has_good(found: &[Found]) -> bool {
    found.iter().any(|f| f.name.is_good() && f.uki.is_ok())
}

fn counted_name(machine: &Machine) -> Option<EntryName> {
    machine
        .variables
        .count_path
        .as_deref()
        .and_then(EntryName::parse)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn what_is_stale_is_never_needed(machine in machine()) {
        let removed = stale(&machine.facts());
        let view = machine.view();
        prop_assert!(!view.running.entry.is_some_and(|entry| removed.contains(&entry)));
        prop_assert!(!view.fallback.is_some_and(|entry| removed.contains(&entry)));
        prop_assert!(!counted_name(&machine).is_some_and(|entry| removed.contains(&entry)));
        prop_assert_eq!(has_good(&left(&machine, &removed)), has_good(&machine.found));
        for found in machine.found.iter().filter(|found| removed.contains(&found.name)) {
            let roothash = found.uki.as_ref().unwrap().roothash;
            prop_assert_eq!(roothash, hash(8, 9));
        }
    }

    #[test]
    fn an_installation_never_takes_the_last_way_back(machine in machine()) {
        let entry = machine.view().running.entry;
        match before_install(&machine.facts()) {
            Ok(removed) => {
                let entry = entry.unwrap();
                prop_assert!(entry.is_good() && !removed.contains(&entry));
                prop_assert!(!counted_name(&machine).is_some_and(|entry| removed.contains(&entry)));
                prop_assert!(machine.record.is_bad("1").is_none());
                let left = left(&machine, &removed);
                prop_assert!(left.iter().any(|found| found.name == entry));
                for found in left.iter().filter(|found| found.name != entry) {
                    let other = &machine.layout.other;
                    prop_assert!(!found.uki.as_ref().is_ok_and(|uki| other.touches(&uki.roothash)));
                }
            }
            Err(why) => prop_assert!(why.contains("first") || why.contains("wait"), "{}", why),
        }
    }

    #[test]
    fn a_trial_is_what_the_loader_started_with_a_counter(machine in machine()) {
        let view = machine.view();
        prop_assert_eq!(view.trial.is_some(), view.next == Next::Trial);
        prop_assert_eq!(view.trial.is_some(), view.running.state == State::Trial);
        if let Some(trial) = view.trial {
            prop_assert_eq!(Some(&trial.now), view.running.entry.as_ref());
            let (before, now) = (trial.before.tries, trial.now.tries.unwrap());
            prop_assert_eq!(&trial.before.stem, &trial.now.stem);
            // It may have been given its former name already.
            prop_assert!(before.is_some() && now.left <= 2);
            prop_assert!(machine.record.is_bad("1").is_none());
        }
        if let Some(entry) = view.running.entry {
            let same = |found: &Found| found.name == entry && is(found, &hash(1, 2));
            prop_assert!(machine.found.iter().any(same));
        }
    }

    #[test]
    fn only_the_other_slots_trial_is_tried_again_and_not_for_ever(machine in machine()) {
        let view = machine.view();
        let of_other = |name: &EntryName| {
            machine.found.iter().any(|found| found.name == *name && is(found, &hash(3, 4)))
        };
        match &view.next {
            Next::Retry(entry) => {
                prop_assert!(of_other(entry) && !entry.is_good());
                prop_assert!(entry.tries.unwrap().done < machine.tries);
                prop_assert!(view.running.entry.as_ref().is_some_and(EntryName::is_good));
                prop_assert!(machine.record.is_bad(view.other.version.as_ref().unwrap()).is_none());
            }
            Next::FellBack { version, reason } if reason.contains("damaged") => {
                let named = |found: &Found| found.name.stem == format!("os_{version}");
                let unreadable = machine.found.iter().find(|f| named(f) && f.uki.is_err());
                prop_assert!(unreadable.is_some());
                prop_assert!(machine.record.is_bad(version).is_none());
            }
            Next::FellBack { version, reason } => {
                prop_assert_eq!(Some(version), view.other.version.as_ref());
                prop_assert!(!reason.is_empty() && view.other.state == State::Trial);
            }
            Next::Armed(_) => prop_assert!(machine.armed_in_this_boot),
            Next::Nothing | Next::Trial => {}
        }
        if let Some(fallback) = &view.fallback {
            prop_assert!(of_other(fallback) && !fallback.is_bad());
        }
    }

    /// Attempts are bounded, whatever becomes of each.
    #[test]
    fn a_trial_ends(tries in 0..4u32, counts in proptest::collection::vec(any::<bool>(), 8), starts in any::<bool>()) {
        let mut machine = beside("os_2+0-0.efi");
        machine.tries = tries;
        let mut attempts = 0;
        for counts in counts {
            let Next::Retry(entry) = machine.view().next else { break };
            attempts += 1;
            machine.record.armed("2", &hash(3, 4));
            if counts {
                let done = entry.tries.unwrap().done + 1;
                machine.found[1] = Found { name: entry.with(0, done), ..machine.found[1].clone() };
                if starts {
                    machine.record.started("2", &hash(3, 4));
                }
            }
        }
        prop_assert_eq!(attempts, tries);
        let fell_back = matches!(machine.view().next, Next::FellBack { .. });
        prop_assert!(fell_back);
    }
}
