//! The trial of a version: whether it is to be kept.
//!
//! A boot whose UKI carries a boot counter in its name is a trial (systemd-boot's boot counting). It
//! ends in one of two ways: the version is **blessed**, or it is **condemned** with a reason, and the
//! machine goes back to the other slot. Health must last: the runtime of a broken version may well
//! answer once. The states:
//!
//! ```text
//!             well                  for `probation`, nothing restarted
//! Waiting -----------> Probation -----------------------------------> Decided(bless)
//!    ^                     |
//!    |   not well, or a    |           too many setbacks, or `timeout` has passed,
//!    +--- service was -----+           or a service asks for a reboot
//!         restarted -------------------------------------------------> Decided(condemn)
//! ```
//!
//! A **setback** is health that ended with the restart of a service. Health that was lost and came back by itself is none:
//! whoever can slow the answers of a service could condemn any version with three moments of it. The probation begins anew
//! then, until the timeout.
//!
//! Every service counts, those of init's own, too: a machine whose netcfg dies over and over answers
//! on the loopback and is of no use to anybody. Pure: the loop hands in the observed time
//! ([`supervisor::core::ObservedTime`]) and what it sees, so a machine that stands still is neither blessed
//! for it nor condemned.

use super::sustained::{Look, SustainedHealth};
use supervisor::Time;

/// When a trial is decided how. From `[update]` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long the machine must be well, with no service restarted.
    pub probation: Time,
    /// When a trial that is not blessed is given up, since the kernel's start.
    pub timeout: Time,
}

/// Setbacks that a trial may have, see the module. One can be bad luck, three are a pattern.
const SETBACKS_MAX: u32 = 2;

/// What is seen of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its restarts since boot.
    pub restarts: u64,
}

/// How a trial ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The version is kept.
    Bless,
    /// It is not, and why.
    Condemn(String),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Trial {
    policy: Policy,
    /// Whether it waits for health, or how much of the probation is left.
    probation: SustainedHealth,
    /// Restarts that the last look has seen.
    restarts: u64,
    /// Whether health has ended, has not come back since, and no service was restarted yet.
    lost: bool,
    setbacks: u32,
    decided: bool,
}

impl Trial {
    /// The trial of this boot.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            probation: SustainedHealth::new(policy.probation),
            restarts: 0,
            lost: false,
            setbacks: 0,
            decided: false,
        }
    }

    /// Whether it has no verdict yet.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        !self.decided
    }

    /// When it is to be looked at next, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let blessing = self.probation.due().unwrap_or(self.policy.timeout);
        self.is_undecided()
            .then(|| blessing.min(self.policy.timeout))
    }

    /// Looks at the machine as it is `now`. A verdict is given once.
    pub fn look<'a>(
        &mut self,
        now: Time,
        well: bool,
        services: impl Iterator<Item = Seen<'a>>,
    ) -> Option<Verdict> {
        if !self.is_undecided() {
            return None;
        }
        let (mut restarts, mut most) = (0, None::<Seen>);
        for seen in services {
            restarts += seen.restarts;
            if most.is_none_or(|m| seen.restarts > m.restarts) {
                most = Some(seen);
            }
        }
        let look = self.probation.look(now, well, restarts);
        self.count_setback(look == Look::Interrupted, well, restarts);
        let culprit = most.filter(|m| m.restarts > 0).map_or_else(
            || "no service was restarted".to_owned(),
            |m| format!("service {} was restarted {} times", m.name, m.restarts),
        );
        if self.setbacks > SETBACKS_MAX {
            let setbacks = self.setbacks;
            return self.decide(Verdict::Condemn(format!(
                "health did not last: {setbacks} setbacks in the probation; {culprit}"
            )));
        }
        // Blessing comes first: at the moment of both, it has proved itself.
        if look == Look::Reached {
            return self.decide(Verdict::Bless);
        }
        if now < self.policy.timeout {
            return None;
        }
        let state = if well { "not for long enough" } else { "not" };
        let seconds = self.policy.timeout.as_secs();
        self.decide(Verdict::Condemn(format!(
            "{state} healthy within {seconds} s of the boot; {culprit}"
        )))
    }

    /// Counts one setback for all restarts with which health ends, be they seen together with its loss or later.
    fn count_setback(&mut self, interrupted: bool, well: bool, restarts: u64) {
        let restarted = restarts > self.restarts;
        self.restarts = restarts;
        self.lost |= interrupted;
        if self.lost && restarted {
            self.setbacks = self.setbacks.saturating_add(1);
        }
        self.lost &= !(well || restarted);
    }

    /// A service does not come back by itself, for this reason: what it asks for, a reboot, is the end of
    /// the trial.
    pub fn escalated(&mut self, reason: &str) -> Option<Verdict> {
        self.is_undecided().then_some(())?;
        self.decide(Verdict::Condemn(reason.to_owned()))
    }

    /// Somebody else gave the verdict: an operator, by `initctl bless` or `initctl rollback`.
    pub fn decided(&mut self) {
        self.decided = true;
    }

    fn decide(&mut self, verdict: Verdict) -> Option<Verdict> {
        self.decided = true;
        Some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: Policy = Policy {
        probation: Time::from_secs(60),
        timeout: Time::from_secs(600),
    };

    fn seen(restarts: u64) -> std::array::IntoIter<Seen<'static>, 2> {
        let quiet = Seen {
            name: "logger",
            restarts: 0,
        };
        let other = Seen {
            name: "netcfg",
            restarts,
        };
        [quiet, other].into_iter()
    }

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn health_that_lasts_is_blessed_once() {
        let mut trial = Trial::new(POLICY);
        assert_eq!(trial.look(at(5), false, seen(0)), None);
        assert_eq!(trial.look(at(10), true, seen(0)), None);
        assert_eq!(trial.deadline(), Some(at(70)));
        assert_eq!(trial.look(at(69), true, seen(0)), None);
        assert_eq!(trial.look(at(70), true, seen(0)), Some(Verdict::Bless));
        assert_eq!(trial.look(at(700), false, seen(9)), None);
        assert_eq!(trial.deadline(), None);
    }

    #[test]
    fn restarts_before_the_first_health_are_no_setback() {
        let mut trial = Trial::new(POLICY);
        assert_eq!(trial.look(at(5), false, seen(4)), None);
        assert_eq!(trial.look(at(6), true, seen(5)), None);
        assert_eq!(trial.look(at(66), true, seen(5)), Some(Verdict::Bless));
    }

    #[test]
    fn the_reason_names_the_first_of_those_restarted_most_or_nobody() {
        let why = |restarts: [u64; 2]| {
            let [first, second] = restarts;
            let services = [("logger", first), ("netcfg", second)];
            let seen = services.map(|(name, restarts)| Seen { name, restarts });
            match Trial::new(POLICY).look(at(600), false, seen.into_iter()) {
                Some(Verdict::Condemn(why)) => why,
                other => panic!("{other:?}"),
            }
        };
        for (restarts, named) in [
            ([0, 0], "no service was restarted"),
            ([2, 2], "service logger was restarted 2 times"),
            ([1, 2], "service netcfg was restarted 2 times"),
        ] {
            let why = why(restarts);
            assert!(why.ends_with(named), "{why}");
        }
    }

    #[test]
    fn a_service_that_dies_over_and_over_is_named() {
        let mut trial = Trial::new(POLICY);
        assert_eq!(trial.look(at(1), true, seen(0)), None);
        assert_eq!(trial.look(at(2), true, seen(1)), None);
        assert_eq!(trial.look(at(3), true, seen(2)), None);
        let Some(Verdict::Condemn(why)) = trial.look(at(4), true, seen(3)) else {
            panic!("no verdict");
        };
        assert!(
            why.contains("3 setbacks") && why.contains("netcfg was restarted 3"),
            "{why}"
        );
    }

    #[test]
    fn a_restart_is_a_setback_also_when_it_is_seen_after_the_loss_of_health() {
        let mut trial = Trial::new(POLICY);
        for round in 0..3 {
            let start = 10 * round;
            assert_eq!(trial.look(at(start + 1), true, seen(round)), None);
            assert_eq!(trial.look(at(start + 2), false, seen(round)), None);
            let verdict = trial.look(at(start + 3), false, seen(round + 1));
            assert_eq!(verdict.is_some(), round == 2, "{verdict:?}");
        }
        // A service that ends over and over before it was healthy again has lost health once.
        let mut trial = Trial::new(POLICY);
        assert_eq!(trial.look(at(1), true, seen(0)), None);
        for restarts in 1..=5 {
            assert_eq!(trial.look(at(1 + restarts), false, seen(restarts)), None);
        }
    }

    #[test]
    fn health_that_comes_back_by_itself_is_no_setback_and_begins_the_probation_anew() {
        let mut trial = Trial::new(POLICY);
        for round in 0..10 {
            assert_eq!(trial.look(at(40 * round + 1), true, seen(0)), None);
            assert_eq!(trial.look(at(40 * round + 39), false, seen(0)), None);
        }
        assert_eq!(trial.look(at(401), true, seen(0)), None);
        assert_eq!(trial.look(at(461), true, seen(0)), Some(Verdict::Bless));
        // One that never lasts ends with the timeout.
        let mut trial = Trial::new(POLICY);
        for round in 0..15 {
            assert_eq!(trial.look(at(40 * round + 1), true, seen(0)), None);
            assert_eq!(trial.look(at(40 * round + 39), false, seen(0)), None);
        }
        let verdict = trial.look(at(601), true, seen(0));
        assert!(
            matches!(&verdict, Some(Verdict::Condemn(why)) if why.contains("not for long enough healthy")),
            "{verdict:?}"
        );
    }

    #[test]
    fn the_timeout_ends_it_well_or_not() {
        for well in [false, true] {
            let mut trial = Trial::new(POLICY);
            assert_eq!(trial.look(at(559), false, seen(0)), None);
            assert_eq!(trial.look(at(560), well, seen(0)), None);
            let verdict = trial.look(at(600), well, seen(0));
            assert!(
                matches!(verdict, Some(Verdict::Condemn(why)) if why.contains("within 600 s")),
                "well: {well}"
            );
        }
    }

    #[test]
    fn used_up_restarts_end_it_and_an_operator_may_come_first() {
        let mut trial = Trial::new(POLICY);
        let verdict = trial.escalated("service astromeshd used up its restarts");
        assert!(matches!(verdict, Some(Verdict::Condemn(why)) if why.contains("astromeshd")));
        assert_eq!(trial.escalated("again"), None);
        let mut trial = Trial::new(POLICY);
        trial.decided();
        assert_eq!(trial.escalated("again"), None);
        assert_eq!(trial.look(at(9999), true, seen(0)), None);
    }

    proptest! {
        /// No loss of health condemns a version before its timeout, as long as nothing was restarted.
        #[test]
        fn without_a_restart_nothing_is_condemned_before_the_timeout(
            course in proptest::collection::vec((1u64..40, any::<bool>()), 1..60),
        ) {
            let mut trial = Trial::new(POLICY);
            let mut now = 0;
            for (wait, well) in course {
                now += wait;
                let verdict = trial.look(at(now), well, seen(0));
                prop_assert!(now >= 600 || !matches!(verdict, Some(Verdict::Condemn(_))), "{:?}", verdict);
            }
        }

        /// Whatever happens, there is exactly one verdict, by the timeout at the latest, and it is a
        /// blessing only after a whole probation without a blemish.
        #[test]
        fn one_verdict_and_only_a_clean_probation_is_blessed(
            course in proptest::collection::vec((1u64..40, any::<bool>(), 0u64..2), 1..60),
        ) {
            let mut trial = Trial::new(POLICY);
            let (mut now, mut restarts, mut clean) = (0, 0, None::<u64>);
            let mut verdicts = Vec::new();
            for (wait, well, more) in course {
                now += wait;
                let begun = clean;
                restarts += more;
                clean = if !well { None } else if more > 0 { Some(now) } else { clean.or(Some(now)) };
                if let Some(verdict) = trial.look(at(now), well, seen(restarts)) {
                    if verdict == Verdict::Bless {
                        prop_assert!(well && more == 0);
                        prop_assert!(begun.is_some_and(|since| now - since >= 60));
                    }
                    verdicts.push(verdict);
                }
                prop_assert_eq!(trial.is_undecided(), verdicts.is_empty());
                prop_assert!(now < 600 || !trial.is_undecided());
            }
            prop_assert!(verdicts.len() <= 1);
        }
    }
}
