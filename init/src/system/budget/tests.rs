use super::*;

const NOW: Time = Time::from_secs(5);

fn starts(in_a_row: u32, recent: u32) -> Starts {
    Starts { in_a_row, recent }
}

fn known(in_a_row: u32, recent: u32) -> Count {
    Count::Known(starts(in_a_row, recent))
}

/// Runs a start of the machine until it has written what is to be true if it ends.
fn begin(count: Count) -> Budget {
    let mut budget = Budget::new(count);
    settle(&mut budget);
    budget
}

fn settle(budget: &mut Budget) {
    while budget.write(NOW, false).is_some() {
        budget.answered(NOW, true);
    }
}

#[test]
fn so_many_reboots_are_granted_and_no_more() {
    for count in 0..STARTS_MAX {
        let budget = begin(known(count, count));
        assert_eq!(budget.ask(), Verdict::Granted(count + 1));
        assert_eq!(budget.on_disk, starts(count + 1, count + 1));
    }
    for count in [STARTS_MAX, STARTS_MAX + 1, u32::MAX] {
        let budget = begin(known(count, 0));
        assert!(matches!(budget.ask(), Verdict::Refused(why) if why.contains("in a row")));
        assert_eq!(budget.on_disk, starts(STARTS_MAX, 1));
    }
}

#[test]
fn starts_that_lasted_are_recent_until_they_are_forgotten() {
    for recent in 0..RECENT_MAX {
        let mut budget = begin(known(2, recent));
        budget.lasted();
        settle(&mut budget);
        assert_eq!(budget.on_disk, starts(1, recent + 1));
        assert_eq!(budget.ask(), Verdict::Granted(1));
    }
    for recent in [RECENT_MAX, RECENT_MAX + 1, u32::MAX] {
        let mut budget = begin(known(0, recent));
        budget.lasted();
        settle(&mut budget);
        assert_eq!(budget.on_disk, starts(1, RECENT_MAX));
        let Verdict::Refused(why) = budget.ask() else {
            panic!("{budget:?}");
        };
        assert!(why.starts_with("4 recent") && why.contains("8 h"), "{why}");
        budget.forget_one();
        assert_eq!(budget.write(NOW, false), None, "the file has it");
        assert_eq!(budget.ask(), Verdict::Granted(1));
        budget.forget_one();
        assert_eq!(budget.write(NOW, false), Some(starts(1, RECENT_MAX - 1)));
    }
    let mut budget = begin(known(0, 1));
    assert!(budget.has_recent());
    budget.forget_one();
    assert!(!budget.has_recent());
    budget.forget_one();
    settle(&mut budget);
    assert_eq!(budget.on_disk, starts(1, 1));
}

#[test]
fn lasting_health_and_an_end_on_request_are_not_counted() {
    let mut budget = begin(known(2, 3));
    budget.ends_on_request();
    assert_eq!(budget.write(NOW, false), Some(starts(2, 3)));
    budget.answered(NOW, true);
    let mut budget = begin(known(2, 2));
    budget.lasted();
    assert_eq!(budget.write(NOW, false), Some(starts(1, 3)));
    budget.answered(NOW, true);
    assert_eq!(budget.ask(), Verdict::Granted(1));
    budget.ends_on_request();
    assert_eq!(budget.write(NOW, false), Some(starts(0, 2)));
    let mut budget = begin(known(0, 0));
    budget.lasted();
    assert_eq!(budget.write(NOW, false), None, "the file has 1 already");
}

#[test]
fn nothing_is_granted_that_is_not_on_the_disk() {
    let mut budget = Budget::new(known(0, 1));
    assert_eq!(budget.ask(), Verdict::NotWritten);
    assert_eq!(budget.write(NOW, false), Some(starts(1, 2)));
    assert_eq!(budget.due(), Some(NOW + WRITE_MAX));
    assert_eq!(budget.write(NOW, true), None, "one at a time");
    assert_eq!(budget.ask(), Verdict::NotWritten);
    budget.answered(NOW, false);
    assert_eq!(budget.ask(), Verdict::NotWritten);
    assert_eq!(budget.write(NOW, false), None, "it was tried");
    assert_eq!(budget.write(NOW, true), Some(starts(1, 2)));
    budget.answered(NOW, true);
    assert_eq!(budget.ask(), Verdict::Granted(1));
}

/// The file has more than it must have, whichever of the writes reached the disk.
#[test]
fn a_write_that_is_not_answered_takes_nothing_away_that_is_on_the_disk() {
    let mut budget = begin(known(2, 2));
    budget.lasted();
    budget.forget_one();
    assert_eq!(budget.write(NOW, false), Some(starts(1, 2)));
    assert_eq!(budget.ask(), Verdict::Granted(1));
    budget.answered(NOW, false);
    assert_eq!(budget.ask(), Verdict::Granted(1));
    // It may have reached the disk all the same, so it is written again before it has more.
    assert_eq!(budget.write(NOW, true), Some(starts(1, 2)));
    budget.answered(NOW, false);
    budget.ends_on_request();
    assert_eq!(budget.write(NOW, false), Some(starts(0, 1)));
    budget.answered(NOW, false);
    assert_eq!(budget.on_disk, starts(0, 1));
    assert_eq!(budget.ask(), Verdict::NotWritten);
}

#[test]
fn a_write_that_failed_is_tried_again_ever_more_seldom() {
    let mut budget = Budget::new(known(0, 0));
    assert!(budget.write(NOW, false).is_some());
    let mut delays = Vec::new();
    for failures in 1..9 {
        assert_eq!(budget.answered(NOW, false), failures);
        delays.extend(budget.retry().map(|retry| (retry - NOW).as_secs()));
        assert!(budget.write(NOW, true).is_some());
        assert_eq!(budget.retry(), None, "it is being written");
    }
    assert_eq!(delays, [30, 60, 120, 240, 480, 600, 600, 600]);
    assert_eq!(retry_delay(u32::MAX), RETRY.1);
    assert_eq!(budget.answered(NOW, true), 0);
    assert_eq!(budget.retry(), None);
}

#[test]
fn what_cannot_be_read_is_taken_for_used_up_until_health_lasts() {
    let mut budget = begin(Count::Unreadable("a directory".into()));
    assert!(matches!(budget.ask(), Verdict::Refused(why) if why.contains("a directory")));
    budget.lasted();
    assert_eq!(budget.write(NOW, false), Some(starts(1, RECENT_MAX)));
    budget.answered(NOW, true);
    assert!(matches!(budget.ask(), Verdict::Refused(why) if why.contains("recent")));
    budget.forget_one();
    assert_eq!(budget.ask(), Verdict::Granted(1));
    let mut budget = begin(Count::Nowhere);
    budget.lasted();
    budget.forget_one();
    assert!(matches!(budget.ask(), Verdict::Refused(why) if why.contains("outlives")));
    assert_eq!(budget.write(NOW, true), None);
}

#[test]
fn the_file_holds_two_numbers_or_the_one_of_earlier_versions() {
    let folder = std::env::temp_dir().join(format!("init-budget-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("state")).unwrap();
    let owner = rustix::process::geteuid().as_raw();
    let open = || StateDir::open_below(&folder, "state", owner);
    assert_eq!(read(open()), known(0, 0));
    for (text, count) in [
        ("2", known(2, 2)),
        ("3\n", known(3, 3)),
        (" 1 \n", known(1, 1)),
        ("1 4", known(1, 4)),
        (starts(2, 3).to_string().as_str(), known(2, 3)),
    ] {
        open().unwrap().write(REBOOTS, text.as_bytes()).unwrap();
        assert_eq!(read(open()), count);
    }
    for text in ["nonsense", "-1", "1 2 3", "1 x", "1 4294967296"] {
        open().unwrap().write(REBOOTS, text.as_bytes()).unwrap();
        assert!(matches!(read(open()), Count::Unreadable(why) if why.contains("reboots")));
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(read(open()), Count::Unreadable(_)));
    assert_eq!(load(false), Count::Nowhere);
}
