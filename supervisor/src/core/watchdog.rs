//! The watchdog of one service: how long it may be silent (systemd: `WatchdogSec=`).
//!
//! Armed when the service is ready, put forward by each `WATCHDOG=1`, disarmed when the instance
//! is taken away. The service may change its interval (`WATCHDOG_USEC=`), also from none; zero switches
//! it off until it sets another.

use crate::Time;
use crate::status::WatchdogStatus;

/// See the module.
#[derive(Debug, Default)]
pub struct Watchdog {
    interval: Option<Time>,
    armed: bool,
    ends: Option<Time>,
    least_margin: Option<Time>,
}

impl Watchdog {
    /// A watchdog that is not armed, with the configured interval.
    #[must_use]
    pub fn new(interval: Option<Time>) -> Self {
        Self {
            interval,
            ..Self::default()
        }
    }

    /// A new instance begins, with the configured interval again.
    pub fn reset(&mut self, interval: Option<Time>) {
        self.interval = interval;
        self.disarm();
    }

    /// From now on silence counts.
    pub fn arm(&mut self, now: Time) {
        self.armed = true;
        self.ends = self.interval.map(|interval| now + interval);
    }

    /// Silence counts no more.
    pub fn disarm(&mut self) {
        self.armed = false;
        self.ends = None;
    }

    /// The service pinged.
    pub fn ping(&mut self, now: Time) {
        if let (Some(ends), Some(interval)) = (self.ends, self.interval) {
            let margin = ends.saturating_sub(now);
            self.least_margin = Some(self.least_margin.map_or(margin, |least| least.min(margin)));
            self.ends = Some(now + interval);
        }
    }

    /// The service wants another interval.
    pub fn set(&mut self, now: Time, interval: Time) {
        self.interval = (!interval.is_zero()).then_some(interval);
        if self.armed {
            self.arm(now);
        }
    }

    /// The machine stood still for so long.
    pub fn forgive(&mut self, gap: Time) {
        self.ends = self.ends.map(|ends| ends + gap);
    }

    /// When silence becomes a fault.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.ends
    }

    /// To be shown, if there is one.
    #[must_use]
    pub fn status(&self, now: Time) -> Option<WatchdogStatus> {
        let ms = crate::millis;
        Some(WatchdogStatus {
            interval_ms: ms(self.interval?),
            margin_ms: self.ends.map(|ends| ms(ends.saturating_sub(now))),
            least_margin_ms: self.least_margin.map(ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(watchdog: &Watchdog, now: u64) -> Option<(u64, Option<u64>, Option<u64>)> {
        let status = watchdog.status(Time::from_secs(now))?;
        Some((status.interval_ms, status.margin_ms, status.least_margin_ms))
    }

    #[test]
    fn what_is_left_is_shown_and_the_least_that_ever_was() {
        let at = Time::from_secs;
        assert_eq!(shown(&Watchdog::new(None), 0), None);
        let mut watchdog = Watchdog::new(Some(at(10)));
        assert_eq!(shown(&watchdog, 0), Some((10_000, None, None)));
        watchdog.arm(at(1));
        assert_eq!(shown(&watchdog, 3), Some((10_000, Some(8_000), None)));
        watchdog.ping(at(8));
        watchdog.ping(at(12));
        assert_eq!(
            shown(&watchdog, 13),
            Some((10_000, Some(9_000), Some(3_000)))
        );
        watchdog.disarm();
        assert_eq!(shown(&watchdog, 14), Some((10_000, None, Some(3_000))));
    }
}
