//! Health that lasts: the machine was well for a whole stretch of time, without a break.
//!
//! Three laws rest on it: a version on trial is kept ([`super::trial`]), the count of starts in a row begins anew, and a
//! recent start is forgotten ([`super::budget`]). All ask for a stretch, not for a moment: a runtime that dies every two
//! minutes is healthy at nearly every moment that somebody looks.
//!
//! The stretch begins anew whenever the machine is not well, and whenever a service was restarted: a
//! restart can be over before anybody looks. Pure; the times are observed ones
//! ([`supervisor::core::ObservedTime`]), so a stretch has no gaps in which nobody looked.

use supervisor::Time;

/// See the module.
#[derive(Clone, Debug)]
pub struct SustainedHealth {
    needed: Time,
    since: Option<Time>,
    restarts: u64,
    reached: bool,
}

/// What a look at the machine showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is not well, as before.
    Unwell,
    /// It was well, and a stretch ended too early: by a restart, or because it is not well any more.
    Interrupted,
    /// It is well, not for long enough yet, or was found to be long ago.
    Well,
    /// It has been well for long enough. Shown once in each stretch.
    Reached,
}

impl SustainedHealth {
    /// Health that has to last for so long.
    #[must_use]
    pub fn new(needed: Time) -> Self {
        Self {
            needed,
            since: None,
            restarts: 0,
            reached: false,
        }
    }

    /// Looks at the machine as it is `now`, with the number of restarts since its boot.
    pub fn look(&mut self, now: Time, well: bool, restarts: u64) -> Look {
        let restarted = restarts > self.restarts;
        self.restarts = restarts;
        let before = self.since.filter(|_| well && !restarted);
        let interrupted = self.since.is_some() && before.is_none();
        self.since = well.then(|| before.unwrap_or(now));
        if before.is_none() {
            self.reached = false;
        }
        if interrupted {
            return Look::Interrupted;
        }
        match self.due() {
            None if !well => Look::Unwell,
            Some(due) if due <= now => {
                self.reached = true;
                Look::Reached
            }
            _ => Look::Well,
        }
    }

    /// Has another stretch begin where one that was long enough ended.
    pub fn begin_next(&mut self) {
        if self.reached {
            self.since = self.since.map(|since| since.saturating_add(self.needed));
            self.reached = false;
        }
    }

    /// When the present stretch will be long enough, unless it was found to be.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        let since = self.since.filter(|_| !self.reached)?;
        Some(since.saturating_add(self.needed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEEDED: Time = Time::from_secs(600);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn a_stretch_is_long_enough_at_its_last_moment_and_not_before() {
        let mut health = SustainedHealth::new(NEEDED);
        assert_eq!(health.look(at(1_000), false, 2), Look::Unwell);
        assert_eq!(health.due(), None);
        assert_eq!(health.look(at(3_000), true, 3), Look::Well);
        assert_eq!(health.due(), Some(at(603_000)));
        assert_eq!(health.look(at(602_999), true, 3), Look::Well);
        assert_eq!(health.look(at(603_000), true, 3), Look::Reached);
        assert_eq!(health.look(at(603_001), true, 3), Look::Well, "shown once");
        assert_eq!(health.due(), None);
        assert_eq!(health.look(at(900_000), true, 4), Look::Interrupted);
        assert_eq!(health.due(), Some(at(1_500_000)));
        assert_eq!(health.look(at(1_500_000), true, 4), Look::Reached);
    }

    #[test]
    fn one_stretch_can_follow_another() {
        let mut health = SustainedHealth::new(NEEDED);
        assert_eq!(health.look(at(1_000), true, 0), Look::Well);
        health.begin_next();
        assert_eq!(health.due(), Some(at(601_000)), "it is not over");
        for count in 1..4 {
            // Nobody looked at its last moment.
            let look = health.look(at(600_000 * count + 2_000), true, 0);
            assert_eq!(look, Look::Reached);
            health.begin_next();
            assert_eq!(health.due(), Some(at(600_000 * (count + 1) + 1_000)));
        }
        assert_eq!(health.look(at(1_900_000), true, 1), Look::Interrupted);
        health.begin_next();
        assert_eq!(health.due(), Some(at(2_500_000)));
    }

    #[test]
    fn one_that_is_well_at_the_last_moment_has_to_have_been_well_before() {
        for (well, restarts, due) in [(false, 0, None), (true, 1, Some(at(1_199_999)))] {
            let mut health = SustainedHealth::new(NEEDED);
            assert_eq!(health.look(at(0), true, 0), Look::Well);
            assert_eq!(health.look(at(599_999), well, restarts), Look::Interrupted);
            assert_eq!(health.due(), due);
            assert_eq!(health.look(at(600_000), true, restarts), Look::Well);
        }
    }

    #[test]
    fn a_runtime_that_dies_every_two_minutes_never_has_lasting_health() {
        for period in 100..=120 {
            let mut health = SustainedHealth::new(NEEDED);
            for second in 0..7_200 {
                let restarts = second / period;
                let look = health.look(at(second * 1000), true, restarts);
                assert_ne!(look, Look::Reached, "period {period}, second {second}");
            }
        }
    }

    proptest! {
        /// It is reached exactly when every look of a whole stretch was good.
        #[test]
        fn it_is_reached_after_a_clean_stretch_only(
            course in proptest::collection::vec((1u64..200_000, any::<bool>(), 0u64..2), 1..80),
        ) {
            let mut health = SustainedHealth::new(NEEDED);
            let (mut now, mut restarts) = (0, 0);
            let mut clean = None::<u64>;
            let mut reached = false;
            for (wait, good, more) in course {
                now += wait;
                let good = good || more == 0;
                restarts += more;
                if !good || more > 0 {
                    clean = None;
                    reached = false;
                }
                if good {
                    clean = clean.or(Some(now));
                }
                let long = clean.is_some_and(|since| now - since >= 600_000);
                let look = health.look(at(now), good, restarts);
                prop_assert_eq!(look == Look::Reached, long && !reached);
                reached |= look == Look::Reached;
            }
        }
    }
}
