//! An append-only list that threads can wait on.
//!
//! The serial reader and the QMP reader push what they read; whoever waits looks from an index of
//! its own choosing. Nothing is consumed by looking, so an entry that came before the wait began,
//! or while two waiters were looking for different things, is never lost.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Entries in the order of their arrival, and whether more can come.
#[derive(Debug)]
pub struct Journal<T> {
    state: Mutex<State<T>>,
    grown: Condvar,
}

#[derive(Debug)]
struct State<T> {
    entries: Vec<T>,
    closed: bool,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited<R> {
    /// Entry number `.0` satisfied the caller, who made `.1` of it.
    Found(usize, R),
    /// The source ended and nothing in the journal matches.
    Closed,
    /// The deadline passed first.
    TimedOut,
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                entries: Vec::new(),
                closed: false,
            }),
            grown: Condvar::new(),
        }
    }
}

impl<T> Journal<T> {
    /// Appends one entry and wakes the waiters.
    pub fn push(&self, entry: T) {
        self.lock().entries.push(entry);
        self.grown.notify_all();
    }

    /// Says that nothing more will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.grown.notify_all();
    }

    /// The number of entries so far: the index from which a wait sees only what is new.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether nothing has arrived yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the source has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until an entry at `from` or later makes `pick` return something.
    pub fn wait<R>(
        &self,
        from: usize,
        deadline: Instant,
        mut pick: impl FnMut(&T) -> Option<R>,
    ) -> Waited<R> {
        let mut state = self.lock();
        let mut seen = from;
        loop {
            while let Some(entry) = state.entries.get(seen) {
                if let Some(picked) = pick(entry) {
                    return Waited::Found(seen, picked);
                }
                seen += 1;
            }
            if state.closed {
                return Waited::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::TimedOut;
            }
            state = self
                .grown
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    // A waiter's closure that panicked leaves the list itself intact.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Journal<T> {
    /// A copy of the entries at `from` and later.
    #[must_use]
    pub fn since(&self, from: usize) -> Vec<T> {
        self.lock().entries.iter().skip(from).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn what_came_before_the_wait_is_found() {
        let journal = Journal::default();
        journal.push(1);
        journal.push(2);
        let two = |n: &i32| (*n == 2).then_some(());
        assert_eq!(journal.wait(0, soon(), two), Waited::Found(1, ()));
        assert_eq!(journal.wait(0, soon(), two), Waited::Found(1, ()));
    }

    #[test]
    fn an_index_hides_what_is_older() {
        let journal = Journal::default();
        journal.push(1);
        let mark = journal.len();
        journal.close();
        assert_eq!(journal.wait(mark, soon(), |_| Some(())), Waited::Closed);
    }

    #[test]
    fn a_passed_deadline_still_looks_once() {
        let journal = Journal::default();
        journal.push(7);
        let past = Instant::now();
        assert_eq!(journal.wait(0, past, |n| Some(*n)), Waited::Found(0, 7));
        assert_eq!(journal.wait(1, past, |n| Some(*n)), Waited::TimedOut);
    }

    #[test]
    fn a_waiter_is_woken_by_another_thread() {
        let journal = Arc::new(Journal::default());
        let writer = Arc::clone(&journal);
        let thread = std::thread::spawn(move || {
            for n in 0..1000 {
                writer.push(n);
            }
            writer.close();
        });
        let last = journal.wait(0, soon(), |n| (*n == 999).then_some(*n));
        assert_eq!(last, Waited::Found(999, 999));
        thread.join().expect("the writer does not panic");
    }
}
