//! The newest events, in memory that never grows.
//!
//! PID 1 runs for years. Events kept one by one, each with its names and values, would wear holes into its
//! heap (seen: a third more of it after a hundred thousand restarts of a service). So they are bytes in
//! one ring that is allocated once; the oldest make room.
//!
//! An entry is its length, its time in nanoseconds, and the name, keys and values, each ended by a NUL.

use std::collections::VecDeque;
use supervisor::Time;
use supervisor::event::Event;

/// Bytes of the ring: some six hundred events.
const SIZE: usize = 64 * 1024;

/// Length and time in front of each entry.
const HEADER: usize = 4 + 8;

/// See the module.
#[derive(Debug)]
pub struct Record {
    ring: VecDeque<u8>,
    count: usize,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            ring: VecDeque::with_capacity(SIZE),
            count: 0,
        }
    }
}

impl Record {
    /// How many events are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing has happened yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Keeps an event; false if it is longer than the whole ring.
    pub fn push(&mut self, at: Time, event: &Event) -> bool {
        let fields = || event.fields().flat_map(|(k, v)| [k, v]);
        let parts = || std::iter::once(event.name()).chain(fields());
        // A NUL inside of a value would end it; no event line shows one as it is anyway.
        let nuls = |part: &str| part.bytes().filter(|b| *b == 0).count();
        let length: usize = parts().map(|part| part.len() - nuls(part) + 1).sum();
        let Some(written) = u32::try_from(length)
            .ok()
            .filter(|_| HEADER + length <= SIZE)
        else {
            return false;
        };
        while self.ring.len() + HEADER + length > SIZE {
            self.pop();
        }
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        self.ring.extend(written.to_ne_bytes());
        self.ring.extend(nanos.to_ne_bytes());
        for part in parts() {
            for piece in part.split('\0') {
                self.ring.extend(piece.as_bytes());
            }
            self.ring.push_back(0);
        }
        self.count += 1;
        true
    }

    fn pop(&mut self) {
        let length = self.number::<4>(0).map_or(0, u32::from_ne_bytes) as usize;
        let end = (HEADER + length).min(self.ring.len());
        self.ring.drain(..end);
        self.count = self.count.saturating_sub(1);
    }

    /// The events from this place on, oldest first.
    pub fn from(&self, first: usize) -> impl Iterator<Item = (Time, Event)> {
        let mut place = 0;
        std::iter::from_fn(move || {
            let length = u32::from_ne_bytes(self.number(place)?) as usize;
            let at = Time::from_nanos(u64::from_ne_bytes(self.number(place + 4)?));
            let start = place + HEADER;
            place = start + length;
            Some((at, start..place))
        })
        .skip(first)
        .filter_map(|(at, range)| {
            let bytes: Vec<u8> = self.ring.range(range).copied().collect();
            Some((at, decode(&bytes)?))
        })
    }

    fn number<const N: usize>(&self, place: usize) -> Option<[u8; N]> {
        let mut number = [0; N];
        for (offset, byte) in number.iter_mut().enumerate() {
            *byte = *self.ring.get(place + offset)?;
        }
        Some(number)
    }
}

fn decode(bytes: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut parts = text.split_terminator('\0').map(str::to_owned);
    let mut event = Event::new(parts.next()?);
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        event = event.with(key, value);
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_oldest_make_room_and_memory_does_not_grow() {
        let mut record = Record::default();
        let capacity = record.ring.capacity();
        for number in 0..10_000u64 {
            let event = Event::new("a.b").with("number", number).with("empty", "");
            record.push(Time::from_millis(number), &event);
        }
        assert_eq!(record.ring.capacity(), capacity);
        let kept: Vec<_> = record.from(0).collect();
        assert_eq!(kept.len(), record.len());
        assert!(kept.len() > 1_000);
        let (at, last) = kept.last().unwrap();
        assert_eq!(*at, Time::from_millis(9_999));
        assert_eq!(last.line(*at), "init: 9.999 a.b number=9999 empty=\"\"");
        assert_eq!(record.from(record.len() - 2).count(), 2);
    }

    #[test]
    fn an_event_that_is_too_long_is_left_out() {
        let mut record = Record::default();
        assert!(record.push(Time::ZERO, &Event::new("a.b")));
        let long = Event::new("c.d").with("k", "x".repeat(SIZE));
        assert!(!record.push(Time::ZERO, &long));
        assert_eq!(record.from(0).count(), 1);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_was_told(values in proptest::collection::vec("[^\0]*", 0..40)) {
            let mut record = Record::default();
            let event = values.iter().fold(Event::new("a.b"), |e, v| e.with("key", v));
            record.push(Time::from_millis(5), &event);
            let kept: Vec<_> = record.from(0).collect();
            prop_assert_eq!(kept, vec![(Time::from_millis(5), event)]);
        }
    }
}
