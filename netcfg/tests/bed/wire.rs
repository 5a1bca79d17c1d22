//! The server's end of the cable for servers of our own: DHCP messages in, frames out.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::frame::Dhcp;
use super::server::Host;
use super::sys::{self, Prefix};

/// An open end.
pub struct Wire {
    socket: File,
}

impl Wire {
    /// On `srv` of this host.
    pub fn open(host: &Host) -> Wire {
        let netns = host.netns.clone();
        // A socket stays in the namespace in which it was made; this thread stays in its own.
        let socket = thread::spawn(move || {
            sys::enter(&netns).expect("root");
            sys::packet_socket("srv", Prefix::None).expect("a link of ours")
        });
        Wire {
            socket: socket.join().expect("a socket"),
        }
    }

    /// The next message of a client, unless `patience` ends before.
    pub fn next_within(&self, patience: Duration) -> Option<Dhcp> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let [ready] = sys::readable([&self.socket], left).expect("poll");
            if ready {
                let length = (&self.socket).read(&mut buffer).expect("the link is up");
                let message = Dhcp::of(&buffer[..length]);
                if let Some(message) = message.filter(Dhcp::is_request) {
                    return Some(message);
                }
            }
        }
    }

    /// The next message of a client that `wanted` takes.
    pub fn next(&self, what: &str, wanted: impl Fn(&Dhcp) -> bool) -> Dhcp {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.next_within(left);
            let message = message.unwrap_or_else(|| panic!("the client never sent {what}"));
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        (&self.socket).write_all(frame).expect("the link is up");
    }
}

/// A thread that answers each message of a client with some frames, until it is dropped.
pub struct Answering {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    /// Starts it at this end.
    pub fn start(wire: Wire, answer: impl Fn(&Dhcp) -> Vec<Vec<u8>> + Send + 'static) -> Answering {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(question) = wire.next_within(Duration::from_millis(50)) {
                    for frame in answer(&question) {
                        wire.send(&frame);
                    }
                }
            }
        });
        Answering {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
