//! Exit records: how a service ended, and the last it said.
//!
//! PID 1 tells an end as an event, `service.exit`; its line says status or signal and what else is
//! known. The logger adds the last lines of the service. The last records are kept in memory and
//! each is appended to a file, so that they can be asked for after the reboot that they led to.

use super::protocol::{ExitRecord, WallTime, encode};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Lines in a record: a stack trace, and a little of what led to it.
pub const LINES: usize = 20;

/// Records of one service in memory: the restarts that its restart law gives it, and a few more.
const RECORDS: usize = 8;

/// A record in memory.
#[derive(Debug)]
struct Kept {
    service: String,
    json: Rc<str>,
}

/// See the module.
#[derive(Debug)]
pub struct Exits {
    boot: String,
    /// Oldest first.
    records: VecDeque<Kept>,
}

impl Exits {
    /// Knows of none. `boot` is the id of the present boot.
    #[must_use]
    pub fn new(boot: String) -> Self {
        Self {
            boot,
            records: VecDeque::new(),
        }
    }

    /// Takes what earlier boots wrote, of which the begin may be cut off. What is no record is
    /// skipped.
    pub fn load(&mut self, written: &[u8]) {
        let mut earlier: VecDeque<Kept> = written
            .split(|b| *b == b'\n')
            .filter_map(|line| {
                let record: ExitRecord = serde_json::from_slice(line).ok()?;
                kept(&record)
            })
            .collect();
        earlier.append(&mut self.records);
        self.records = earlier;
        self.forget();
    }

    /// Makes a record of the end that this event tells; returns it as it is written.
    pub fn add(
        &mut self,
        event: &str,
        time: Option<WallTime>,
        lines: Vec<String>,
    ) -> Option<Rc<str>> {
        let record = ExitRecord {
            boot: self.boot.clone(),
            time,
            event: event.to_owned(),
            lines,
        };
        let kept = kept(&record)?;
        let json = kept.json.clone();
        self.records.push_back(kept);
        self.forget();
        Some(json)
    }

    /// The records of a service, or of all, oldest first.
    pub fn of<'a>(&'a self, service: Option<&'a str>) -> impl Iterator<Item = &'a Rc<str>> {
        self.records
            .iter()
            .filter(move |k| service.is_none_or(|s| s == k.service))
            .map(|k| &k.json)
    }

    /// Drops what is too old.
    fn forget(&mut self) {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for kept in &self.records {
            *counts.entry(&kept.service).or_default() += 1;
        }
        let mut over: HashMap<String, usize> = counts
            .into_iter()
            .filter_map(|(name, count)| Some((name.to_owned(), count.checked_sub(RECORDS)?)))
            .collect();
        self.records
            .retain(|kept| match over.get_mut(&kept.service) {
                Some(count @ 1..) => {
                    *count -= 1;
                    false
                }
                _ => true,
            });
    }
}

fn kept(record: &ExitRecord) -> Option<Kept> {
    Some(Kept {
        service: ended(&record.event)?.to_owned(),
        json: String::from_utf8(encode(record)).ok()?.into(),
    })
}

/// Which service ended, if an event line tells that: `init: S.MMM service.exit service=NAME ...`.
#[must_use]
pub fn ended(event: &str) -> Option<&str> {
    let mut words = event.split(' ');
    let (init, _time, name) = (words.next()?, words.next()?, words.next()?);
    if (init, name) != ("init:", "service.exit") {
        return None;
    }
    // A name of a service needs no quotes in an event.
    words.find_map(|w| w.strip_prefix("service="))
}

/// When the instance that ended, as this event says, was started: milliseconds since the kernel started.
#[must_use]
pub fn started_ms(event: &str) -> Option<u64> {
    let mut words = event.split(' ');
    let (seconds, millis) = words.nth(1)?.split_once('.')?;
    let (seconds, millis): (u64, u64) = (seconds.parse().ok()?, millis.parse().ok()?);
    let at = seconds.checked_mul(1000)?.checked_add(millis)?;
    let uptime = words.find_map(|w| w.strip_prefix("uptime_ms="))?;
    Some(at.saturating_sub(uptime.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Time;
    use crate::event::Event;
    use proptest::prelude::*;

    fn exit(service: &str, status: usize) -> String {
        Event::new("service.exit")
            .with("service", service)
            .with("status", status)
            .line(Time::from_millis(3412))
    }

    #[test]
    fn only_the_event_of_an_end_is_one() {
        assert_eq!(ended(&exit("web-1", 1)), Some("web-1"));
        for other in [
            "",
            "init: 3.412 service.exit",
            "init: 3.412 service.start service=web",
            "web: 3.412 service.exit service=web",
            "init: 3.412 x why=service.exit service=web",
        ] {
            assert_eq!(ended(other), None, "{other}");
        }
    }

    #[test]
    fn the_start_of_an_instance_follows_from_its_end() {
        let told = |event: &str| started_ms(event);
        assert_eq!(
            told("init: 3.412 service.exit service=a status=1 uptime_ms=400"),
            Some(3012)
        );
        assert_eq!(
            told("init: 0.100 service.exit service=a uptime_ms=400"),
            Some(0)
        );
        for other in [
            "",
            "init: x.1 service.exit uptime_ms=1",
            "init: 3.412 service.exit service=a",
        ] {
            assert_eq!(told(other), None, "{other}");
        }
    }

    #[test]
    fn a_record_has_the_written_form_and_is_read_again() {
        let mut exits = Exits::new("b00t".into());
        let time = WallTime {
            unix: 86_400,
            synchronised: true,
        };
        let json = exits.add(&exit("a", 3), Some(time), vec!["last \"words\"".into()]);
        let expected = r#"{"boot":"b00t","time":{"unix":86400,"synchronised":true},"event":"init: 3.412 service.exit service=a status=3","lines":["last \"words\""]}"#;
        assert_eq!(&*json.unwrap(), expected);

        let mut next = Exits::new("next".into());
        next.add(&exit("b", 0), None, Vec::new());
        let cut = format!("ds\"]}}\n\n{{\"boot\":1}}\n{expected}\n\u{0}\n{{\"boot");
        next.load(cut.as_bytes());
        let all: Vec<&str> = next.of(None).map(|r| &**r).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], expected, "earlier ones come first");
        assert_eq!(next.of(Some("a")).count(), 1);
        assert_eq!(next.of(Some("c")).count(), 0);
    }

    #[test]
    fn a_record_of_an_earlier_version_has_no_time() {
        let mut exits = Exits::new("next".into());
        let earlier =
            r#"{"boot":"b","event":"init: 3.412 service.exit service=a status=3","lines":[]}"#;
        exits.load(earlier.as_bytes());
        assert_eq!(&**exits.of(None).next().unwrap(), earlier);
    }

    #[test]
    fn the_last_ones_of_each_service_are_kept() {
        let mut exits = Exits::new(String::new());
        exits.add(&exit("rare", 0), None, Vec::new());
        for status in 0..30 {
            exits.add(&exit("a", status), None, Vec::new());
        }
        assert_eq!(exits.of(Some("rare")).count(), 1);
        let of_a: Vec<&Rc<str>> = exits.of(Some("a")).collect();
        assert_eq!(of_a.len(), RECORDS);
        assert!(of_a[0].contains("status=22") && of_a[7].contains("status=29"));
    }

    proptest! {
        #[test]
        fn any_file_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), event in ".{0,80}") {
            let _ = ended(&event);
            let mut exits = Exits::new(String::new());
            exits.load(&bytes);
            prop_assert_eq!(exits.of(None).count(), 0);
        }
    }
}
