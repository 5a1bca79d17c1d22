//! The daemon's core, alone and against PID 1's part ([`world`]).

mod world;

use super::*;

fn at(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

fn settings(check: Option<u64>) -> Settings {
    Settings {
        check: check.map(Duration::from_secs),
        command_line: false,
        deadline: Duration::from_secs(7200),
    }
}

fn good() -> Seen {
    Seen {
        standing: Some(Standing::Good),
        unrecorded: false,
        try_returned: false,
        other: Other::Nothing,
        remembers: true,
    }
}

/// One that has looked, and has told all that it had to tell.
fn daemon(settings: Settings, seen: Seen) -> Core {
    let mut core = Core::new(settings);
    assert_eq!(core.next(at(1)), Some(Action::Report(Report::Started)));
    assert_eq!(core.next(at(1)), Some(Action::Look));
    core.looked(at(1), Ok(seen));
    if let Some(standing) = seen.standing {
        let report = Report::Running(standing);
        assert_eq!(core.next(at(1)), Some(Action::Report(report)));
    }
    core
}

fn healthy() -> Order {
    Order {
        healthy: true,
        ..Order::default()
    }
}

#[test]
fn a_look_that_fails_is_tried_again_and_told_once() {
    let mut core = Core::new(settings(None));
    core.next(at(0));
    let mut looks = Vec::new();
    let mut warnings = 0;
    for second in 0..10_000 {
        while let Some(action) = core.next(at(second)) {
            match action {
                Action::Look => {
                    looks.push(second);
                    core.looked(at(second), Err("the ESP is busy".into()));
                }
                Action::Warn { .. } => warnings += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(looks, [0, 30, 90, 210, 450, 930, 1890, 3810, 7410]);
    assert_eq!(warnings, 1);
    core.looked(at(11_010), Ok(good()));
    assert_eq!(
        core.next(at(11_010)),
        Some(Action::Report(Report::Running(Standing::Good)))
    );
}

#[test]
fn a_source_whose_updates_fail_is_looked_at_ever_less_often() {
    let mut core = daemon(settings(Some(3600)), good());
    core.order(healthy());
    let mut starts = Vec::new();
    let mut now = at(1);
    for _ in 0..9 {
        while let Some(action) = core.next(now) {
            match action {
                Action::Look => core.looked(now, Ok(good())),
                Action::Update(origin) => {
                    starts.push(now.as_secs() / 3600);
                    core.update_started(now, Some(origin), Ok(()));
                    core.update_ended(now, Ended::Failed);
                }
                other => panic!("{other:?}"),
            }
        }
        now = core.deadline(now).unwrap();
    }
    assert_eq!(starts, [0, 2, 6, 14, 30, 54, 78, 102, 126]);
    assert_eq!(core.next(now), Some(Action::Update(Origin::Configured)));
    core.update_started(now, Some(Origin::Configured), Ok(()));
    core.update_ended(now, Ended::Unchanged);
    core.looked(now, Ok(good()));
    assert_eq!(core.next(now), None);
    assert_eq!(core.deadline(now), Some(now + at(3600)));
}

#[test]
fn an_update_that_takes_too_long_is_killed_once() {
    let mut core = daemon(settings(Some(600)), good());
    core.order(healthy());
    assert_eq!(core.next(at(1)), Some(Action::Update(Origin::Configured)));
    core.update_started(at(1), Some(Origin::Configured), Ok(()));
    assert_eq!(core.next(at(7200)), None);
    assert_eq!(core.deadline(at(7200)), Some(at(7201)));
    assert_eq!(core.next(at(7201)), Some(Action::KillUpdate));
    assert_eq!(core.next(at(7202)), None);
    core.update_ended(at(7202), Ended::Failed);
    core.looked(at(7202), Ok(good()));
    assert_eq!(core.next(at(7203)), None);
    assert_eq!(core.deadline(at(7203)), Some(at(7202 + 1200)));
}

#[test]
fn while_an_update_runs_nobody_else_changes_the_slots() {
    let waiting = Seen {
        other: Other::Retry,
        ..good()
    };
    let mut core = daemon(settings(None), waiting);
    for asked in [Asked::Bless, Asked::Rollback, Asked::Update] {
        assert_eq!(core.may(asked), Ok(()));
    }
    core.update_started(at(2), None, Ok(()));
    core.order(healthy());
    assert_eq!(core.next(at(2)), None);
    for asked in [Asked::Bless, Asked::Rollback, Asked::Update] {
        assert!(core.may(asked).unwrap_err().contains("is being installed"));
    }
    core.update_ended(at(3), Ended::Unchanged);
    core.looked(at(3), Ok(waiting));
    assert_eq!(core.may(Asked::Rollback), Ok(()));
    assert_eq!(core.next(at(3)), Some(Action::Do(Task::Retry)));
}

#[test]
fn a_version_that_cannot_be_armed_does_not_keep_a_newer_one_away() {
    let waiting = Seen {
        other: Other::Retry,
        ..good()
    };
    let mut core = daemon(settings(Some(600)), waiting);
    core.order(healthy());
    assert_eq!(core.next(at(2)), Some(Action::Do(Task::Retry)));
    core.did(at(2), &Task::Retry, Err("no space".into()));
    assert!(matches!(
        core.next(at(2)),
        Some(Action::Warn { what: "retry", .. })
    ));
    assert_eq!(core.next(at(2)), Some(Action::Look));
    core.looked(at(2), Ok(waiting));
    assert_eq!(core.next(at(2)), Some(Action::Update(Origin::Configured)));
    core.update_started(at(2), Some(Origin::Configured), Ok(()));
    core.update_ended(at(3), Ended::Failed);
    core.looked(at(3), Ok(waiting));
    assert_eq!(core.next(at(3)), None);
    assert_eq!(core.next(at(32)), Some(Action::Do(Task::Retry)));
}

#[test]
fn a_machine_that_forgets_does_nothing_by_itself_and_says_so_once() {
    let forgets = Seen {
        remembers: false,
        ..good()
    };
    let mut core = daemon(settings(Some(600)), forgets);
    core.order(healthy());
    assert!(matches!(
        core.next(at(2)),
        Some(Action::Warn { what: "record", .. })
    ));
    for second in 3..2000 {
        assert_eq!(core.next(at(second)), None);
    }
}

#[test]
fn the_command_lines_source_is_looked_at_once_and_before_the_configured_one() {
    let both = Settings {
        command_line: true,
        ..settings(Some(600))
    };
    let mut core = daemon(both, good());
    core.order(healthy());
    for origin in [Origin::CommandLine, Origin::Configured] {
        assert_eq!(core.next(at(2)), Some(Action::Update(origin)));
        core.update_started(at(2), Some(origin), Ok(()));
        assert_eq!(core.update_origin(), Some(origin));
        core.update_ended(at(2), Ended::Failed);
        core.looked(at(2), Ok(good()));
    }
    assert_eq!(core.next(at(2)), None);
}

#[test]
fn an_order_that_changes_has_a_failed_task_done_again_at_once() {
    let trial = Seen {
        standing: Some(Standing::Trial),
        ..good()
    };
    let bless = Order {
        verdict: Verdict::Bless,
        ..Order::default()
    };
    let mut core = daemon(settings(None), trial);
    core.order(bless.clone());
    assert_eq!(core.next(at(2)), Some(Action::Do(Task::Bless)));
    core.did(at(2), &Task::Bless, Err("no space".into()));
    assert!(matches!(core.next(at(2)), Some(Action::Warn { .. })));
    assert_eq!(core.next(at(2)), Some(Action::Look));
    core.looked(at(2), Ok(trial));
    core.order(bless.clone());
    assert_eq!(
        (core.next(at(31)), core.deadline(at(31))),
        (None, Some(at(32)))
    );
    assert_eq!(core.next(at(32)), Some(Action::Do(Task::Bless)));
    assert_eq!(core.deadline(at(32)), None);
    core.order(Order {
        healthy: true,
        ..bless
    });
    assert_eq!(core.next(at(3)), Some(Action::Do(Task::Bless)));
}

#[test]
fn a_version_on_trial_is_blessed_or_left_but_not_replaced() {
    let trial = Seen {
        standing: Some(Standing::Trial),
        ..good()
    };
    let core = daemon(settings(None), trial);
    assert_eq!(core.may(Asked::Bless), Ok(()));
    assert_eq!(core.may(Asked::Rollback), Ok(()));
    let refused = core.may(Asked::Update).unwrap_err();
    assert!(refused.contains("is on trial"), "{refused}");
}

#[test]
fn neither_a_trial_nor_a_machine_that_stops_fetches_by_itself() {
    for (standing, return_try) in [(Standing::Trial, false), (Standing::Good, true)] {
        let seen = Seen {
            standing: Some(standing),
            ..good()
        };
        let mut core = daemon(settings(Some(600)), seen);
        core.order(Order {
            return_try,
            ..healthy()
        });
        assert_eq!(core.next(at(700)), None, "{standing:?}");
    }
}
