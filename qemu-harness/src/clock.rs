//! Host time since power-on, shared by everything that stamps what a VM does.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Zero until [`PowerClock::start`], then the time since.
#[derive(Debug, Clone, Default)]
pub struct PowerClock {
    on: Arc<OnceLock<Instant>>,
}

impl PowerClock {
    /// The machine is switched on now. Only the first call counts.
    pub fn start(&self) {
        let _ = self.on.set(Instant::now());
    }

    /// Time since power-on.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.on.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// The moment that lies `at` after power-on, on the host's clock.
    #[must_use]
    pub fn instant(&self, at: Duration) -> Instant {
        self.on.get().copied().unwrap_or_else(Instant::now) + at
    }
}
