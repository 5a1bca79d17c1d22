//! How much is taken from one source of the event loop before the others have their turn.
//!
//! A socket wakes the loop when something arrives, and only if the last look at it found nothing. So
//! whoever stops before that has to have the loop called again, or what is left waits until
//! something else happens. [`take`] is the one place that stops early, and sees to it.

use std::ops::ControlFlow;
use std::task::{Context, Poll};

/// So many are taken at once. Several sources that are flooded stay below the 128 operations after which
/// tokio calls a task a hog and lets its sockets pretend that they are empty.
pub const AT_ONCE: usize = 16;

/// Gives `took` what `poll` finds: until it finds nothing, until `took` breaks, or [`AT_ONCE`] times.
/// Whatever is left after that is found when the loop is called again, which is at once.
pub fn take<T>(
    cx: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    mut took: impl FnMut(T) -> ControlFlow<()>,
) {
    for _ in 0..AT_ONCE {
        let Poll::Ready(found) = poll(cx) else { return };
        if took(found).is_break() {
            break;
        }
    }
    cx.waker().wake_by_ref();
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Calls(AtomicU32);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A source as a socket is: it wakes for what comes after it was found empty, and for nothing else.
    struct Source {
        waiting: VecDeque<usize>,
        armed: bool,
    }

    impl Source {
        fn poll(&mut self) -> Poll<usize> {
            match self.waiting.pop_front() {
                Some(number) => Poll::Ready(number),
                None => {
                    self.armed = true;
                    Poll::Pending
                }
            }
        }
    }

    /// Takes from a source of so many, breaking at one of them; how many came, and whether the loop is
    /// called at once, and whether the source would call it later.
    fn taken(waiting: usize, last: Option<usize>) -> (usize, bool, bool) {
        let calls = Arc::new(Calls::default());
        let waker = Waker::from(Arc::clone(&calls));
        let mut source = Source {
            waiting: (0..waiting).collect(),
            armed: false,
        };
        let mut count = 0;
        let took = |number| {
            count += 1;
            match last {
                Some(last) if last == number => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        take(&mut Context::from_waker(&waker), |_| source.poll(), took);
        (count, calls.0.load(Ordering::Relaxed) > 0, source.armed)
    }

    #[test]
    fn whoever_stops_before_the_end_is_called_again() {
        for (waiting, last, expected) in [
            (0, None, (0, false, true)),
            (AT_ONCE - 1, None, (AT_ONCE - 1, false, true)),
            (AT_ONCE, None, (AT_ONCE, true, false)),
            (AT_ONCE + 1, None, (AT_ONCE, true, false)),
            (5, Some(2), (3, true, false)),
        ] {
            assert_eq!(taken(waiting, last), expected, "{waiting} {last:?}");
        }
    }
}
