//! How far a file is, told no more often than a person reads: a fast source would fill the console with it.

use super::Outlet;
use std::time::{Duration, Instant};

/// Between two lines about one file.
const EVERY: Duration = Duration::from_secs(1);

/// One file.
pub(super) struct Progress<'a> {
    file: &'a str,
    told: Option<Instant>,
}

impl<'a> Progress<'a> {
    /// Of the file with this name.
    pub fn new(file: &'a str) -> Self {
        Self { file, told: None }
    }

    /// Tells so many percent, if it is time; the end always.
    pub fn tell(&mut self, outlet: &mut dyn Outlet, percent: u64) {
        self.tell_at(Instant::now(), outlet, percent);
    }

    fn tell_at(&mut self, now: Instant, outlet: &mut dyn Outlet, percent: u64) {
        let waited = self
            .told
            .is_none_or(|told| now.duration_since(told) >= EVERY);
        if !waited && percent < 100 {
            return;
        }
        self.told = Some(now);
        let fields = [
            ("file", self.file.to_owned()),
            ("percent", percent.to_string()),
        ];
        outlet.event("update.progress", &fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Told(Vec<String>);

    impl Outlet for Told {
        fn event(&mut self, _: &str, fields: &[(&str, String)]) {
            self.0.extend(
                fields
                    .iter()
                    .filter(|(key, _)| *key == "percent")
                    .map(|(_, value)| value.clone()),
            );
        }
    }

    #[test]
    fn one_line_a_second_and_the_end() {
        let (mut told, mut progress) = (Told::default(), Progress::new("root"));
        let start = Instant::now();
        for percent in (5..=100).step_by(5) {
            let at = start + Duration::from_millis(100 * percent / 5);
            progress.tell_at(at, &mut told, percent);
        }
        assert_eq!(told.0, ["5", "55", "100"]);
    }
}
