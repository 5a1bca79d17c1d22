//! Asks the appliance for its health beside whatever else the harness does.
//!
//! A question that is asked before the machine has an address is lost, and the user-mode network repeats it with growing
//! pauses. So a question gets little time until the machine has told its address, or the first answer would be
//! seen too late by the rest of a long one; and the asking is done by a thread, so that nobody waits for it.

use crate::api::Api;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// Time for an answer while the machine may have no address yet.
const BEFORE_ADDRESS: Duration = Duration::from_millis(250);
/// Time for an answer after that: a busy runtime needs some.
const AFTER_ADDRESS: Duration = Duration::from_secs(2);
/// Between two questions.
const STEP: Duration = Duration::from_millis(25);

/// The thread that asks; it ends with the first good answer, or soon after this is dropped.
#[derive(Debug)]
pub struct HealthWatch {
    answers: Receiver<(Value, Instant)>,
    has_address: Arc<AtomicBool>,
    unwanted: Arc<AtomicBool>,
}

impl HealthWatch {
    /// Begins to ask.
    #[must_use]
    pub fn start(api: Api) -> Self {
        let (sender, answers) = channel();
        let has_address = Arc::new(AtomicBool::new(false));
        let unwanted = Arc::new(AtomicBool::new(false));
        let (addressed, stop) = (Arc::clone(&has_address), Arc::clone(&unwanted));
        spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let patience = if addressed.load(Ordering::Relaxed) {
                    AFTER_ADDRESS
                } else {
                    BEFORE_ADDRESS
                };
                if let Ok(body) = api.health(patience) {
                    // Nobody may be there to hear it any more.
                    let _ = sender.send((body, Instant::now()));
                    return;
                }
                sleep(STEP);
            }
        });
        Self {
            answers,
            has_address,
            unwanted,
        }
    }

    /// The machine has told its address.
    pub fn machine_has_address(&self) {
        self.has_address.store(true, Ordering::Relaxed);
    }

    /// The body of the first good answer and when it came, once; waits for nothing.
    #[must_use]
    pub fn answer(&self) -> Option<(Value, Instant)> {
        self.answers.try_recv().ok()
    }
}

impl Drop for HealthWatch {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn nobody_waits_for_an_answer_that_does_not_come() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let watch = HealthWatch::start(Api::new(port));
        watch.machine_has_address();
        let (mut asked, _) = listener.accept().expect("a question");
        assert_eq!(asked.read(&mut [0; 8]).expect("its first bytes"), 8);
        // The question is out, and stays so for as long as nothing is written.
        assert!(watch.answer().is_none());
        spawn(move || {
            let good = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{\"status\":\"ok\"}";
            for mut asked in std::iter::once(asked).chain(listener.incoming().flatten()) {
                // The one who asked may have given up and asked anew.
                let _ = asked.write_all(good);
            }
        });
        let (body, _) = watch.answers.recv().expect("an answer");
        assert_eq!(body["status"], "ok");
    }
}
