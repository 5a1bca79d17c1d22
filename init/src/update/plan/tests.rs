use super::*;
use crate::update::manifest::tests::sample;
use proptest::prelude::*;

fn manifest(version: &str) -> Manifest {
    let mut json = sample();
    json["version"] = version.into();
    Manifest::parse(json.to_string().as_bytes()).unwrap()
}

fn uki(version: &str, hash: u8) -> Uki {
    Uki {
        image: "astromesh-os".into(),
        version: version.into(),
        roothash: [hash; 32],
    }
}

fn found(file: &str, uki: Uki) -> Found {
    Found {
        name: EntryName::parse(file).unwrap(),
        bytes: 500_000,
        uki: Ok(uki),
    }
}

fn facts<'a>(running: &'a Uki, found: &'a [Found]) -> Facts<'a> {
    Facts {
        running,
        architecture: "x86-64",
        floor: "1".into(),
        bad: None,
        root_size: 1 << 20,
        verity_size: 1 << 20,
        labelled: false,
        esp_free: 1 << 20,
        leftovers: false,
        found,
        surplus: None,
        removals: Ok(Vec::new()),
        one_shot: None,
        loader: Some("systemd-boot 257.9-1".into()),
    }
}

fn refusal(manifest: &Manifest, facts: &Facts<'_>) -> String {
    match decide(manifest, facts) {
        Err(End::Refused(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_stale_entry_goes_first_and_the_arm_comes_last() {
    let running = uki("1", 1);
    let entries = [
        found("astromesh-os_1.efi", uki("1", 1)),
        found("astromesh-os_0.efi", uki("0", 2)),
    ];
    let stale = entries[1].name.clone();
    let facts = Facts {
        removals: Ok(vec![stale.clone()]),
        leftovers: true,
        one_shot: Some("astromesh-os_0.efi".into()),
        ..facts(&running, &entries)
    };
    let plan = decide(&manifest("2"), &facts).unwrap();
    assert_eq!(plan.entry.file(), "astromesh-os_2+0-0.efi");
    let order = [
        Step::ProveRecord,
        Step::Disarm,
        Step::Sweep,
        Step::Remove(stale),
        Step::WriteRoot,
        Step::WriteVerity,
        Step::Prove,
        Step::Label,
        Step::Stage,
        Step::ReadBack,
        Step::Publish,
        Step::Record,
        Step::Arm,
    ];
    assert_eq!(plan.steps, order);
}

#[test]
fn what_is_not_for_this_machine_or_not_newer_is_refused() {
    let running = uki("1.5", 1);
    let entries = [];
    let base = facts(&running, &entries);
    let offer = |version: &str, change: fn(&mut Manifest)| {
        let mut manifest = manifest(version);
        change(&mut manifest);
        refusal(&manifest, &base)
    };
    assert!(offer("2", |m| m.image = "other".into()).contains("the image is other"));
    assert!(offer("2", |m| m.architecture = "arm64".into()).contains("arm64"));
    assert!(offer("1.4", |_| ()).contains("older than 1.5"));
    assert!(offer("1.5~rc1", |_| ()).contains("older than 1.5"));
    assert!(offer("1.5", |_| ()).contains("another root"));
    assert!(offer("2", |m| m.roothash = [1; 32]).contains("the root that runs"));
    assert!(offer("2", |m| m.root.size = (1 << 20) + 1).contains("the root has 1048577 bytes"));
    assert!(offer("2", |m| m.verity.size = 1 << 21).contains("the hash tree has"));
    assert!(offer("2", |m| m.uki.size = 1 << 20).contains("the ESP has room for"));
    let mut same = manifest("1.5");
    same.roothash = [1; 32];
    assert!(matches!(decide(&same, &base), Err(End::Nothing(why)) if why.contains("runs already")));

    let with = |change: fn(&mut Facts<'_>)| {
        let mut facts = base.clone();
        change(&mut facts);
        refusal(&manifest("2"), &facts)
    };
    assert!(with(|f| f.floor = "2".into()).contains("not newer than 2"));
    assert!(with(|f| f.floor = "3".into()).contains("not newer than 3"));
    assert!(with(|f| f.bad = Some("it hung".into())).contains("is bad: it hung"));
    assert!(with(|f| f.removals = Err("on trial".into())).contains("on trial"));
    assert!(with(|f| f.surplus = Some("74 more".into())).contains("74 more"));
}

#[test]
fn a_loader_that_would_never_start_the_trial_is_told_before_anything_is_changed() {
    let running = uki("1", 1);
    let entries = [found("astromesh-os_1.efi", running.clone())];
    let with = |loader: Option<&str>| Facts {
        loader: loader.map(str::to_owned),
        ..facts(&running, &entries)
    };
    let why = refusal(&manifest("2"), &with(Some("systemd-boot 252.39-1~deb12u1")));
    assert!(
        why.contains("systemd-boot 252.39") && why.contains("257 or newer"),
        "{why}"
    );
    for loader in [
        None,
        Some("systemd-boot 257"),
        Some("systemd-boot 300-rc1"),
        Some("another 1"),
    ] {
        assert!(decide(&manifest("2"), &with(loader)).is_ok(), "{loader:?}");
    }
}

#[test]
fn what_waits_for_a_reboot_is_not_installed_again_and_what_does_not_is() {
    let running = uki("1", 1);
    let manifest = manifest("2");
    let entries = [found("astromesh-os_2+0-0.efi", uki("2", 0xcd))];
    let waiting = Facts {
        removals: Ok(vec![entries[0].name.clone()]),
        labelled: true,
        one_shot: Some("astromesh-os_2.efi".into()),
        ..facts(&running, &entries)
    };
    assert!(refusal(&manifest, &waiting).contains("the next boot tries it"));
    // Interrupted before it was armed, or its slot was overwritten since: it starts over.
    for again in [
        Facts {
            one_shot: None,
            ..waiting.clone()
        },
        Facts {
            labelled: false,
            ..waiting.clone()
        },
    ] {
        assert!(
            decide(&manifest, &again)
                .unwrap()
                .steps
                .contains(&Step::WriteRoot)
        );
    }
    let kept = Facts {
        removals: Ok(Vec::new()),
        one_shot: None,
        ..waiting
    };
    assert!(refusal(&manifest, &kept).contains("must not be removed"));
}

#[test]
fn a_uki_of_another_build_is_refused() {
    let manifest = manifest("2");
    assert_eq!(agrees(&manifest, &uki("2", 0xcd)), Ok(()));
    for (uki, what) in [
        (uki("3", 0xcd), "version"),
        (uki("2", 1), "roothash"),
        (
            Uki {
                image: "x".into(),
                ..uki("2", 0xcd)
            },
            "image",
        ),
    ] {
        let Err(End::Refused(why)) = agrees(&manifest, &uki) else {
            panic!("{what}");
        };
        assert!(why.contains(what), "{why}");
    }
}

proptest! {
    /// Whatever the machine is like: no plan removes an entry after the first write, publishes before the proof
    /// or arms before all else.
    #[test]
    fn every_plan_has_the_one_order(
        offered in "[0-9]{1,2}", floor in "[0-9]{1,2}", stale in 0usize..3, leftovers: bool, armed in 0usize..4,
        free in 0u64..2_000_000,
    ) {
        let running = uki("5", 1);
        let entries: Vec<Found> = (0..stale).map(|i| found(&format!("astromesh-os_{i}.efi"), uki("0", 9))).collect();
        let facts = Facts {
            floor,
            leftovers,
            esp_free: free,
            removals: Ok(entries.iter().map(|f| f.name.clone()).collect()),
            one_shot: (armed < 3).then(|| format!("astromesh-os_{armed}.efi")),
            ..facts(&running, &entries)
        };
        if let Ok(plan) = decide(&manifest(&offered), &facts) {
            let rank = |step: &Step| match step {
                Step::ProveRecord => 0,
                Step::Disarm => 1,
                Step::Sweep => 2,
                Step::Remove(_) => 3,
                Step::WriteRoot => 4,
                Step::WriteVerity => 5,
                Step::Prove => 6,
                Step::Label => 7,
                Step::Stage => 8,
                Step::ReadBack => 9,
                Step::Publish => 10,
                Step::Record => 11,
                Step::Arm => 12,
            };
            let ranks: Vec<u8> = plan.steps.iter().map(rank).collect();
            prop_assert!(ranks.is_sorted());
            prop_assert_eq!(&ranks[ranks.len() - 9..], &[4, 5, 6, 7, 8, 9, 10, 11, 12]);
            prop_assert_eq!(ranks[0], 0);
            prop_assert_eq!(ranks.iter().filter(|rank| **rank == 3).count(), stale);
            prop_assert!(offered.parse::<u32>().unwrap() > 5);
        }
    }
}
