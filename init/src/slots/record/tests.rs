//! The record on the disk and in memory.

use super::*;
use crate::slots::name::EntryName;
use crate::slots::uki::Uki;
use std::path::PathBuf;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("record-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("state")).unwrap();
        Self(folder)
    }

    fn open(&self) -> StateDir {
        let owner = rustix::process::geteuid().as_raw();
        StateDir::open_below(&self.0, "state", owner).unwrap()
    }

    fn path(&self, file: StateFile) -> PathBuf {
        self.0.join("state").join(file.name)
    }

    fn load(&self) -> Result<Record, Unreadable> {
        Record::load(&self.open()).map(|loaded| loaded.record)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A record that knows something.
fn known() -> Record {
    let mut record = Record::default();
    record.blessed("7", &[1; 32]);
    record.bad("7", &[1; 32], "rolled back");
    record
}

const DAMAGE: [&str; 9] = [
    "",
    "{",
    "\"floor\"",
    "{\"floor\": 3}",
    "{\"trials\": [{\"verdict\": \"odd\"}]}",
    "{\"floor\": \"a b\"}",
    "{\"trials\": [{\"version\": \"\"}]}",
    "{\"trials\": [{\"version\": \"1\", \"roothash\": \"00\"}]}",
    "\0",
];

fn found(file: &str, image: &str, version: &str) -> Found {
    Found {
        name: EntryName::parse(file).unwrap(),
        bytes: 1,
        uki: Ok(Uki {
            image: image.into(),
            version: version.into(),
            roothash: [0; 32],
        }),
    }
}

#[test]
fn what_is_written_is_read() {
    let folder = Folder::new("write");
    assert_eq!(folder.load(), Ok(Record::default()));
    let mut record = Record::default();
    record.blessed("1", &[1; 32]);
    record.installed("2", &[2; 32]);
    record.armed("2", &[2; 32]);
    record.started("2", &[2; 32]);
    record.bad("2", &[2; 32], "astromeshd was not healthy");
    record.save(&folder.open()).unwrap();
    assert_eq!(folder.load(), Ok(record));
    let text = std::fs::read_to_string(folder.path(SLOTS)).unwrap();
    assert!(text.contains("\"verdict\": \"bad\"") && text.contains(&"02".repeat(32)));
}

#[test]
fn of_two_files_one_may_be_damaged_and_nothing_is_forgotten() {
    for (file, told) in [(SLOTS, true), (SLOTS_COPY, false)] {
        for text in DAMAGE {
            let folder = Folder::new("copy");
            known().save(&folder.open()).unwrap();
            std::fs::write(folder.path(file), text).unwrap();
            let loaded = Record::load(&folder.open()).unwrap();
            assert_eq!(loaded.record, known(), "{text:?} in {}", file.name);
            assert_eq!(loaded.damage.is_some(), told);
            // The next write mends it.
            loaded.record.save(&folder.open()).unwrap();
            assert_eq!(Record::load(&folder.open()).unwrap().damage, None);
        }
    }
    // A stranger has removed it.
    let folder = Folder::new("removed");
    known().save(&folder.open()).unwrap();
    std::fs::remove_file(folder.path(SLOTS)).unwrap();
    assert_eq!(folder.load(), Ok(known()));
}

#[test]
fn a_record_that_is_damaged_is_not_an_empty_one() {
    for text in DAMAGE {
        let folder = Folder::new("damaged");
        known().save(&folder.open()).unwrap();
        for file in [SLOTS, SLOTS_COPY] {
            std::fs::write(folder.path(file), text).unwrap();
        }
        let Err(Unreadable::Damaged(why)) = folder.load() else {
            panic!("{text:?} is taken for a record");
        };
        assert!(why.contains("slots"), "{why}");
        // What an operator puts in its place keeps what was there.
        Record::start_anew(&folder.open(), "7").unwrap();
        assert_eq!(folder.load().unwrap().floor.as_deref(), Some("7"));
        let kept = std::fs::read_dir(folder.0.join("state")).unwrap();
        let aside = |name: &str| name.starts_with("slots") && name.contains("obstructed");
        let kept = kept.filter(|file| aside(&file.as_ref().unwrap().file_name().to_string_lossy()));
        assert_eq!(kept.count(), 2);
    }
}

/// A new record would be started in place of one that is damaged.
#[test]
fn a_record_that_another_process_has_is_not_damaged() {
    let locked = StateError {
        path: SLOTS.path(),
        problem: Problem::Locked,
    };
    assert!(matches!(locked.into(), Unreadable::Passing(why) if why.contains("slots.json")));
}

#[test]
fn a_record_that_is_read_has_room_for_what_comes() {
    let folder = Folder::new("room");
    let mut record = known();
    record.floor = Some("9".repeat(SLOTS.capacity - 1000));
    record.save(&folder.open()).unwrap();
    // Either it is none of ours, or what follows can be written down.
    if let Ok(mut record) = folder.load() {
        record.bad("8", &[8; 32], &"\u{1}".repeat(512));
        record.save(&folder.open()).unwrap();
    }
}

#[test]
fn a_newer_versions_fields_are_passed_over() {
    let folder = Folder::new("newer");
    std::fs::write(
        folder.path(SLOTS),
        "{\"floor\": \"3\", \"new\": {}, \"trials\": [{\"version\": \"4\", \"new\": 1}]}",
    )
    .unwrap();
    let record = folder.load().unwrap();
    assert_eq!(record.floor.as_deref(), Some("3"));
    assert_eq!(record.trial("4").unwrap().verdict, Verdict::Installed);
}

#[test]
fn the_life_of_a_version() {
    let mut record = Record::default();
    let hash = [2; 32];
    record.installed("2", &hash);
    record.armed("2", &hash);
    let trial = |record: &Record| record.trial("2").cloned().unwrap();
    assert_eq!(
        (
            trial(&record).verdict,
            trial(&record).armed,
            trial(&record).boots
        ),
        (Verdict::Installed, 1, 0)
    );
    record.started("2", &hash);
    record.started("2", &hash);
    assert_eq!(
        (trial(&record).verdict, trial(&record).boots),
        (Verdict::Running, 2)
    );
    record.bad("2", &hash, "why");
    assert_eq!(record.is_bad("2"), Some("why"));
    record.started("2", &hash);
    assert_eq!(
        record.is_bad("2"),
        Some("why"),
        "a boot does not take a verdict back"
    );
    record.blessed("2", &hash);
    assert_eq!(
        (record.is_bad("2"), trial(&record).reason.as_str()),
        (None, "")
    );
    assert_eq!(record.trials.len(), 1);
    // Another build of it is another thing.
    record.started("2", &[3; 32]);
    assert_eq!(
        (trial(&record).verdict, trial(&record).boots),
        (Verdict::Running, 1)
    );
    record.installed("2", &[3; 32]);
    assert_eq!((trial(&record).boots, record.trials.len()), (0, 1));
}

#[test]
fn a_version_is_found_in_any_spelling() {
    let mut record = Record::default();
    record.bad("1.02", &[1; 32], "why");
    assert_eq!(record.is_bad("1.2"), Some("why"));
    assert_eq!(record.is_bad("1.20"), None);
}

#[test]
fn the_newest_are_kept_and_reasons_are_bounded() {
    let mut record = Record::default();
    for version in 0..40 {
        record.bad(&version.to_string(), &[1; 32], &"\u{e4}".repeat(400));
    }
    let versions: Vec<&str> = record.trials.iter().map(|t| t.version.as_str()).collect();
    assert_eq!(
        (versions.len(), versions.first(), versions.last()),
        (16, Some(&"24"), Some(&"39"))
    );
    assert!(record.trials.iter().all(|t| t.reason.len() == 512));
    assert!(serde_json::to_vec_pretty(&record).unwrap().len() <= SLOTS.capacity);
}

#[test]
fn the_floor_rises_and_never_falls() {
    let mut record = Record::default();
    for (version, floor) in [("9", "9"), ("10", "10"), ("2", "10"), ("10~rc1", "10")] {
        record.blessed(version, &[1; 32]);
        assert_eq!(record.floor.as_deref(), Some(floor));
    }
    record.bad("10", &[1; 32], "why");
    assert_eq!(record.floor("2", &[]), "10");
}

#[test]
fn a_floor_that_nothing_else_tells_of_is_told_and_ends_with_an_operators_word() {
    let mut record = known();
    let esp = [found("os_7.efi", "os", "7"), found("os_6.efi", "os", "6")];
    assert_eq!(record.unfounded_floor("6", &esp), None);
    assert_eq!(Record::default().unfounded_floor("6", &esp), None);
    // As whoever writes the disk leaves it.
    record.floor = Some("99999999".into());
    assert_eq!(record.unfounded_floor("6", &esp), Some("99999999"));
    assert_eq!(record.floor("6", &esp), "99999999");
    record.kept("8", &[8; 32]);
    assert_eq!(record.floor.as_deref(), Some("8"));
    assert_eq!(record.unfounded_floor("8", &esp), None);
    // After a rollback the operator keeps the older one: the newer one stays bad.
    record.kept("6", &[6; 32]);
    assert_eq!(record.floor("6", &[]), "6");
    assert!(record.is_bad("7").is_some());
}

#[test]
fn a_lost_floor_is_found_on_the_esp() {
    let esp = [
        found("os_2.efi", "os", "2"),
        found("os_3.efi", "os", "3"),
        found("os_4+0-0.efi", "os", "4"),
        found("x_9.efi", "x", "9"),
        Found {
            uki: Err("torn".into()),
            ..found("os_8.efi", "os", "8")
        },
    ];
    let mut record = Record::default();
    assert_eq!(record.floor("2", &esp), "3");
    assert_eq!(record.floor("4", &esp), "4");
    assert_eq!(record.floor("7", &[]), "7");
    record.floor = Some("1".into());
    assert_eq!(
        record.floor("2", &esp),
        "3",
        "a cut came between a blessing and its record"
    );
    assert_eq!(
        record.floor("4", &esp),
        "3",
        "the running version is on trial"
    );
    record.floor = Some("5".into());
    assert_eq!(record.floor("2", &esp), "5");
}
