//! A bad cable: frames between two links are lost, doubled, late and out of order, by a seed.
//!
//! The kernels at hand have no netem. A thread in the namespace between the two reads a frame
//! at one link and writes it to the other, or not. Which frame meets which fate is drawn from
//! the seed, so that a run can be repeated as far as the order of the frames can.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netcfg::rng::Rng;

use super::sys::{self, Prefix};

/// How bad the cable is.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    pub seed: u64,
    /// Of a hundred frames, so many are lost.
    pub lost: u32,
    /// Of a hundred frames, so many arrive twice.
    pub twice: u32,
    /// The longest delay. Each frame has its own, so that later ones overtake earlier ones.
    pub late: Duration,
}

/// The thread, which ends with this.
pub struct Relay {
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Between the links `a` and `b` of a namespace. It works when this returns.
    pub fn start(netns: &str, a: &str, b: &str, faults: Faults) -> Relay {
        let stop = Arc::new(AtomicBool::new(false));
        let lost = Arc::new(AtomicU32::new(0));
        let (ready, started) = channel();
        let (netns, links) = (netns.to_owned(), [a.to_owned(), b.to_owned()]);
        let thread = {
            let (stop, lost) = (Arc::clone(&stop), Arc::clone(&lost));
            thread::spawn(move || {
                sys::enter(&netns).expect("root");
                let open = |link: &String| {
                    sys::packet_socket(link, Prefix::Offload).expect("a link of ours")
                };
                let ends = [open(&links[0]), open(&links[1])];
                ready.send(()).expect("somebody waits");
                forward(&ends, faults, &stop, &lost);
            })
        };
        started.recv().expect("the relay starts");
        Relay {
            stop,
            lost,
            thread: Some(thread),
        }
    }

    /// Frames lost so far.
    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When it is due, its number, to which end, and the frame.
type Late = (Instant, u64, usize, Vec<u8>);

fn forward(ends: &[File; 2], faults: Faults, stop: &AtomicBool, lost: &AtomicU32) {
    let mut rng = Rng::new(faults.seed);
    let mut queue = BinaryHeap::<Reverse<Late>>::new();
    let mut number = 0_u64;
    let mut buffer = vec![0; 1 << 17];
    while !stop.load(Ordering::Relaxed) {
        let next = queue.peek().map(|Reverse((due, ..))| *due);
        let patience = next.map_or(Duration::from_millis(50), |due| {
            due.saturating_duration_since(Instant::now())
        });
        let ready = sys::readable([&ends[0], &ends[1]], patience).expect("poll");
        for from in [0, 1] {
            if !ready[from] {
                continue;
            }
            let mut end = &ends[from];
            let length = match end.read(&mut buffer) {
                Ok(length) => length,
                // The link went down, and will be back.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("the relay cannot read: {error}"),
            };
            if rng.next_u32() % 100 < faults.lost {
                lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let copies = if rng.next_u32() % 100 < faults.twice {
                2
            } else {
                1
            };
            for _ in 0..copies {
                number += 1;
                let due = Instant::now() + rng.up_to(faults.late);
                queue.push(Reverse((due, number, 1 - from, buffer[..length].to_vec())));
            }
        }
        while let Some(Reverse((due, ..))) = queue.peek() {
            if *due > Instant::now() {
                break;
            }
            if let Some(Reverse((_, _, to, frame))) = queue.pop() {
                // A link that is down takes nothing, as a cable that is out.
                let _ = (&ends[to]).write(&frame);
            }
        }
    }
}
