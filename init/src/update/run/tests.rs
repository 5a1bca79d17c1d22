//! Whole updates of a machine that is made of files, cut, broken and refused.

mod rig;

use super::*;
use crate::slots::record::Verdict;
use crate::update::fetch::tests::Shelf;
use crate::update::hash::Digest;
use crate::update::keys::tests::pair;
use rig::{Bundle, OLD, RUNNING, Rig, SLOT_SIZE, uki};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Why the manifest was refused; nothing was changed, and nothing of the version was fetched.
fn refused(rig: &Rig, shelf: &mut Shelf) -> String {
    let (end, reason) = unchanged(rig, shelf);
    assert!(matches!(end, End::Refused(_)), "{end:?}");
    reason
}

/// Why the version was refused after something of it had been fetched; nothing was changed.
fn rejected(rig: &Rig, shelf: &mut Shelf) -> String {
    let (end, reason) = unchanged(rig, shelf);
    assert!(matches!(end, End::Rejected(_)), "{end:?}");
    reason
}

fn unchanged(rig: &Rig, shelf: &mut Shelf) -> (End, String) {
    let before = rig.state();
    let (result, heard) = rig.install(shelf);
    assert!(before == rig.state(), "something was changed: {result:?}");
    let (name, fields) = heard.last();
    assert_eq!(name, "update.refused", "{fields:?}");
    (result.unwrap_err(), fields["reason"].to_owned())
}

fn failed(rig: &Rig, shelf: &mut Shelf) -> String {
    let (result, heard) = rig.install(shelf);
    assert!(matches!(result, Err(End::Failed { .. })), "{result:?}");
    let (name, fields) = heard.last();
    assert_eq!((name, fields["version"]), ("update.failed", "2"));
    fields["reason"].to_owned()
}

#[test]
fn a_version_is_installed_and_armed() {
    let (rig, bundle) = (Rig::new("good"), Bundle::new("2"));
    let (result, heard) = rig.install(&mut bundle.shelf());
    assert_eq!(result, Ok(()));
    rig.assert_safe(&bundle, "installed");
    let files: Vec<String> = rig
        .machine()
        .esp
        .list()
        .unwrap()
        .found
        .iter()
        .map(|f| f.name.file())
        .collect();
    assert_eq!(files, ["astromesh-os_1.efi", "astromesh-os_2+0-0.efi"]);
    assert_eq!(
        fs::read(rig.linux().join("astromesh-os_2+0-0.efi")).unwrap(),
        bundle.uki
    );
    let one_shot = efivar::read(&rig.path("efivars")).one_shot;
    assert_eq!(one_shot.as_deref(), Some("astromesh-os_2.efi"));
    let record = Record::load(&rig.var()).unwrap().record;
    let trial = record.trial("2").unwrap();
    assert_eq!((trial.verdict, trial.armed), (Verdict::Installed, 1));

    let names: Vec<&str> = heard.0.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        (names[0], names[names.len() - 1]),
        ("update.manifest", "update.installed")
    );
    for file in ["os.efi", "root.raw", "verity.raw"] {
        let mine = |(_, fields): &&(String, Vec<(String, String)>)| {
            fields[0] == ("file".into(), file.into())
        };
        let reports: Vec<&str> = heard
            .0
            .iter()
            .filter(mine)
            .map(|(_, f)| f[1].1.as_str())
            .collect();
        assert!(
            (1..=20).contains(&reports.len()) && reports.last() == Some(&"100"),
            "{reports:?}"
        );
    }
    let (_, fields) = heard.last();
    assert_eq!((fields["version"], fields["slot"]), ("2", "b"));
    assert_eq!(fields["entry"], "astromesh-os_2+0-0.efi");
    let parts = bundle.root.len() + bundle.verity.len() + bundle.uki.len();
    let written: usize = fields["bytes_written"].parse().unwrap();
    assert!(written > parts && written < parts + 200_000, "{written}");

    let why = refused(&rig, &mut bundle.shelf());
    assert!(why.contains("the next boot tries it"), "{why}");
}

#[test]
fn cut_anywhere_it_is_safe_and_starts_over_to_the_same_end() {
    let bundle = Bundle::new("2");
    let whole = Rig::new("whole");
    whole.install(&mut bundle.shelf()).0.unwrap();
    let strip = |rig: &Rig| -> BTreeMap<PathBuf, Vec<u8>> {
        let files = rig.state().into_iter();
        // A spare holds what was there before, and has been written more often where it was begun twice.
        let is_spare = |path: &PathBuf| path.extension().is_some_and(|end| end == "spare");
        files
            .filter(|(path, _)| !is_spare(path))
            .map(|(path, bytes)| (path.strip_prefix(&rig.0).unwrap().to_owned(), bytes))
            .collect()
    };
    let expected = strip(&whole);
    let mut cuts = Vec::new();
    for cut in 0.. {
        let rig = Rig::new("cut");
        let mut count = 0;
        let mut stop = |step: &Step| {
            count += 1;
            if count > cut {
                cuts.push(step.clone());
                return Err(End::failed("cut"));
            }
            Ok(())
        };
        let (result, _) = rig.update(&mut bundle.shelf(), &mut stop);
        rig.assert_safe(&bundle, &format!("cut {cut}"));
        if result.is_ok() {
            break;
        }
        rig.install(&mut bundle.shelf()).0.unwrap();
        rig.assert_safe(&bundle, &format!("again after cut {cut}"));
        assert!(strip(&rig) == expected, "another end after cut {cut}");
    }
    assert_eq!(cuts.len(), 11, "{cuts:?}");
    assert_eq!(cuts[0], Step::ProveRecord);
    assert!(matches!(cuts[1], Step::Remove(_)));
    assert_eq!(cuts.last(), Some(&Step::Arm));
}

#[test]
fn a_line_that_stays_broken_costs_the_other_slot_only() {
    let bundle = Bundle::new("2");
    // In the manifest, the signature, the UKI; the root, the tree.
    for opening in 0..5 {
        let rig = Rig::new("line");
        let before = rig.state();
        let mut shelf = bundle.shelf();
        shelf.breaks = (0..opening).map(|_| None).chain([Some(5); 20]).collect();
        let (result, _) = rig.install(&mut shelf);
        assert!(
            matches!(
                result,
                Err(End::Failed {
                    transient: true,
                    ..
                })
            ),
            "{result:?}"
        );
        rig.assert_safe(&bundle, &format!("opening {opening}"));
        assert_eq!(before == rig.state(), opening < 3, "opening {opening}");
        rig.install(&mut bundle.shelf()).0.unwrap();
        rig.assert_safe(&bundle, "again");
    }
}

#[test]
fn a_refused_manifest_is_told_with_its_version() {
    let (rig, mut bundle) = (Rig::new("oversized"), Bundle::new("2"));
    bundle.manifest["uki"]["size"] = (manifest::UKI_MAX + 1).into();
    let (_, heard) = rig.install(&mut bundle.shelf());
    let (name, fields) = heard.last();
    assert_eq!((name, fields["version"]), ("update.refused", "2"));
    assert!(fields["reason"].contains("16777216 bytes is the most"));
    // Nothing is believed of what nobody signed.
    let mut shelf = bundle.shelf();
    shelf.files[1].1[5] ^= 1;
    let (_, heard) = rig.install(&mut shelf);
    assert_eq!(heard.last().1["version"], "");
}

#[test]
fn what_is_not_signed_or_not_for_us_changes_nothing() {
    let (rig, good) = (Rig::new("refused"), Bundle::new("2"));
    let change = |file: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut shelf = good.shelf();
        change(&mut shelf.files[file].1);
        refused(&rig, &mut shelf)
    };
    assert!(change(0, &|bytes| bytes[30] ^= 1).contains("update.json: not signed"));
    assert!(change(0, &|bytes| bytes.truncate(100)).contains("not signed"));
    assert!(change(1, &|bytes| bytes[5] ^= 1).contains("not signed"));
    assert!(change(1, &|bytes| bytes.truncate(63)).contains("63 bytes"));
    assert!(
        change(1, &|bytes| *bytes = pair(2)
            .0
            .sign(good.manifest.to_string().as_bytes())
            .as_ref()
            .to_vec())
        .contains("not signed")
    );

    let with = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        refused(&rig, &mut bundle.shelf())
    };
    let manifest =
        |key: &'static str, value: &'static str| with(&move |b| b.manifest[key] = value.into());
    assert!(manifest("image", "other").contains("the image is other"));
    assert!(manifest("architecture", "vax").contains("vax"));
    assert!(manifest("version", "0.9").contains("older than 1"));
    assert!(manifest("format", "x").contains("update.json"));
    assert!(
        with(&|b| b.manifest["root"]["size"] = (SLOT_SIZE + 1).into())
            .contains("the slot on this disk")
    );
    assert!(
        with(&|b| b.manifest["verity"]["size"] = (SLOT_SIZE + 1).into())
            .contains("the hash tree has")
    );

    let mut record = Record::default();
    record.bad("2", &good.roothash, "it hung");
    record.save(&rig.var()).unwrap();
    assert!(refused(&rig, &mut good.shelf()).contains("is bad: it hung"));
    Record {
        floor: Some("2".into()),
        ..Record::default()
    }
    .save(&rig.var())
    .unwrap();
    assert!(refused(&rig, &mut good.shelf()).contains("not newer than 2"));
    fs::remove_file(rig.path("keys/one.pem")).unwrap();
    assert!(refused(&rig, &mut good.shelf()).contains("no key NAME.pem"));
}

/// The manifest is signed and the files are not what it says: nothing is changed, and the slot daemon waits longer before
/// it fetches them again.
#[test]
fn a_version_that_is_refused_after_it_was_fetched_counts_as_a_failure() {
    let (rig, good) = (Rig::new("rejected"), Bundle::new("2"));
    let change = |file: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut shelf = good.shelf();
        change(&mut shelf.files[file].1);
        rejected(&rig, &mut shelf)
    };
    assert!(change(2, &|bytes| bytes.push(0)).contains("root.raw: it has 524289 bytes"));
    assert!(change(3, &|bytes| bytes.truncate(9)).contains("verity.raw: it has 9 bytes"));
    assert!(change(4, &|bytes| bytes[900] ^= 1).contains("os.efi: its SHA-256"));
    assert!(change(4, &|bytes| bytes.truncate(9)).contains("ends after 9 bytes"));
    let with = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        rejected(&rig, &mut bundle.shelf())
    };
    assert!(
        with(&|b| b.manifest["version"] = "3".into()).contains("another version than the manifest")
    );
    assert!(
        with(&|b| {
            b.uki = uki("2", OLD);
            b.describe();
        })
        .contains("another roothash")
    );
    assert!(
        with(&|b| {
            b.uki = vec![b'M'; 5000];
            b.describe();
        })
        .contains("not a whole UKI")
    );
}

#[test]
fn without_a_proven_entry_to_fall_back_to_nothing_is_changed() {
    let bundle = Bundle::new("2");
    let rig = Rig::new("trial");
    fs::rename(
        rig.linux().join("astromesh-os_1.efi"),
        rig.linux().join("astromesh-os_1+2-1.efi"),
    )
    .unwrap();
    rig.variable(
        "StubImageIdentifier",
        "\\EFI\\Linux\\astromesh-os_1+2-1.efi",
    );
    assert!(refused(&rig, &mut bundle.shelf()).contains("on trial"));
    let rig = Rig::new("direct");
    fs::remove_dir_all(rig.path("efivars")).unwrap();
    fs::create_dir(rig.path("efivars")).unwrap();
    assert!(refused(&rig, &mut bundle.shelf()).contains("boot it through the boot loader"));
    let mut same = Bundle::new("1");
    same.manifest["roothash"] = Digest(RUNNING).to_string().into();
    let rig = Rig::new("same");
    let (result, heard) = rig.install(&mut same.shelf());
    assert!(matches!(result, Err(End::Nothing(_))), "{result:?}");
    let (name, fields) = heard.last();
    assert_eq!((name, fields["version"]), ("update.current", "1"));
}

#[test]
fn what_only_the_device_can_show_fails_without_an_entry() {
    // The sizes cannot be told before, or the content is wrong though the sizes are right.
    let bundle = Bundle::new("2");
    let flip = |bytes: &mut Vec<u8>| bytes[4200] ^= 1;
    for (file, change, say) in [
        (2, &flip as &dyn Fn(&mut Vec<u8>), "root.raw: its SHA-256"),
        (
            2,
            &|bytes: &mut Vec<u8>| bytes.push(0),
            "root.raw: longer than",
        ),
        (
            2,
            &|bytes: &mut Vec<u8>| bytes.truncate(1000),
            "root.raw: it ends after 1000",
        ),
        (3, &flip, "verity.raw: its SHA-256"),
    ] {
        let rig = Rig::new("stream");
        let mut shelf = bundle.shelf();
        shelf.tells = false;
        change(&mut shelf.files[file].1);
        let why = failed(&rig, &mut shelf);
        assert!(why.contains(say), "{why}");
        rig.assert_safe(&bundle, say);
        assert_eq!(rig.machine().esp.list().unwrap().found.len(), 1);
    }
    // Signed, but the tree is not that of the roothash.
    let mut wrong = bundle.clone();
    wrong.root[4096 * 3] ^= 1;
    wrong.describe();
    let rig = Rig::new("proof");
    let why = failed(&rig, &mut wrong.shelf());
    assert!(
        why.contains("/root: block 3 is not what the roothash stands for"),
        "{why}"
    );
    rig.assert_safe(&wrong, "proof");
    assert_eq!(rig.machine().esp.list().unwrap().found.len(), 1);
}

#[test]
fn a_device_that_changes_what_it_was_given_is_found_out() {
    let bundle = Bundle::new("2");
    for (at, file, say) in [
        (Step::Prove, "root", "root: block 1 is not"),
        (Step::Prove, "verity", "verity: block 1 is not"),
        (
            Step::ReadBack,
            "esp/EFI/Linux/astromesh-os_2+0-0.efi.new",
            "gives back other bytes",
        ),
    ] {
        let rig = Rig::new("device");
        let path = rig.path(file);
        let (result, _) = rig.update(&mut bundle.shelf(), &mut |step| {
            if *step == at {
                let mut bytes = fs::read(&path).unwrap();
                let place = bytes.len().min(4196) - 100;
                bytes[place] ^= 1;
                fs::write(&path, bytes).unwrap();
                fs::File::open(&path).unwrap().sync_all().unwrap();
            }
            Ok(())
        });
        let Err(End::Failed { reason, .. }) = result else {
            panic!("{file}: {result:?}");
        };
        assert!(reason.contains(say), "{reason}");
        rig.assert_safe(&bundle, file);
        assert_eq!(rig.machine().esp.list().unwrap().found.len(), 1);
    }
}

#[test]
fn directories_in_the_way_on_the_esp_are_renamed_and_told() {
    let (rig, bundle) = (Rig::new("way"), Bundle::new("2"));
    let names = ["astromesh-os_2+0-0.efi.new", "astromesh-os_2+0-0.efi"];
    for name in names {
        fs::create_dir_all(rig.linux().join(name).join("full")).unwrap();
    }
    let (result, heard) = rig.install(&mut bundle.shelf());
    assert_eq!(result, Ok(()));
    rig.assert_safe(&bundle, "installed");
    let told = heard.0.iter().filter(|(name, _)| name == "update.warning");
    let told: Vec<&str> = told.map(|(_, fields)| fields[0].1.as_str()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for (told, name) in told.iter().zip(names) {
        let aside = format!("{name}.obstructed-1");
        assert!(told.ends_with(&aside), "{told}");
        assert!(rig.linux().join(aside).join("full").is_dir());
    }
}

#[test]
fn leftovers_are_swept_and_a_newer_version_replaces_a_waiting_one() {
    let rig = Rig::new("leftovers");
    rig.entry("astromesh-os_2+0-0.efi.new", b"torn");
    rig.install(&mut Bundle::new("2").shelf()).0.unwrap();
    let names = |rig: &Rig| -> Vec<String> {
        let entries = fs::read_dir(rig.linux()).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(&rig),
        ["astromesh-os_1.efi", "astromesh-os_2+0-0.efi"]
    );
    let mut steps = Vec::new();
    let three = Bundle::new("3");
    let (result, _) = rig.update(&mut three.shelf(), &mut |step| {
        steps.push(step.clone());
        Ok(())
    });
    result.unwrap();
    assert_eq!(steps[..2], [Step::ProveRecord, Step::Disarm]);
    assert_eq!(
        names(&rig),
        ["astromesh-os_1.efi", "astromesh-os_3+0-0.efi"]
    );
    let one_shot = efivar::read(&rig.path("efivars")).one_shot;
    assert_eq!(one_shot.as_deref(), Some("astromesh-os_3.efi"));
}

#[test]
fn a_version_that_could_not_be_recorded_is_refused_before_anything_is_changed() {
    let (rig, bundle) = (Rig::new("unwritable"), Bundle::new("2"));
    let before = rig.state();
    let (result, heard) = rig.update(&mut bundle.shelf(), &mut |step| {
        // The folder is gone, as no file can be made on a full disk.
        if *step == Step::ProveRecord {
            fs::remove_dir_all(rig.path("var")).unwrap();
        }
        Ok(())
    });
    let Err(End::Rejected(reason)) = result else {
        panic!("{result:?}");
    };
    assert!(reason.contains("could not be written down"), "{reason}");
    assert_eq!(heard.last().0, "update.refused");
    assert!(before == rig.state(), "something was changed");
}

#[test]
fn a_record_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let (rig, bundle) = (Rig::new("damaged"), Bundle::new("2"));
    let mut record = Record::default();
    record.bad("2", &bundle.roothash, "it hung");
    record.save(&rig.var()).unwrap();
    // One is damaged: the copy is as good.
    fs::write(rig.path("var/slots.json"), "{").unwrap();
    assert!(refused(&rig, &mut bundle.shelf()).contains("is bad: it hung"));
    fs::write(rig.path("var/slots.copy.json"), "{").unwrap();
    let why = refused(&rig, &mut bundle.shelf());
    assert!(
        why.contains("slots.json") && why.contains("initctl bless"),
        "{why}"
    );
    // An operator keeps what runs.
    Record::start_anew(&rig.var(), "1").unwrap();
    rig.install(&mut bundle.shelf()).0.unwrap();
}
