//! The control channel of a VM: QEMU's machine protocol, one JSON object a line.
//!
//! QEMU connects to a Unix socket of ours and greets; we answer `qmp_capabilities` and are in
//! command mode (QEMU's qmp-spec, section "Capabilities Negotiation"). One thread reads: answers
//! and events go into two journals, so an event never gets lost between two commands. Everything
//! said in either direction is kept in a transcript beside the serial log.

use crate::clock::PowerClock;
use crate::journal::{Journal, Waited};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long QEMU may take to answer a command. Commands of this protocol do not wait for the guest.
const ANSWER: Duration = Duration::from_secs(30);

/// An event that QEMU told on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct QmpEvent {
    /// Host time since power-on.
    pub at: Duration,
    /// For example `SHUTDOWN`.
    pub name: String,
    /// Its `data`, or null.
    pub data: Value,
}

/// An open control channel.
#[derive(Debug)]
pub struct Qmp {
    writer: Mutex<Writer>,
    answers: Arc<Journal<Value>>,
    events: Arc<Journal<QmpEvent>>,
    transcript: Transcript,
}

#[derive(Debug)]
struct Writer {
    stream: UnixStream,
    next_id: u64,
}

#[derive(Debug, Clone)]
struct Transcript {
    file: Arc<Mutex<File>>,
    clock: PowerClock,
}

impl Transcript {
    fn note(&self, direction: &str, text: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.clock.elapsed().as_secs_f64();
        // The transcript is evidence for people; losing it must not fail a run.
        let _ = writeln!(file, "{at:9.3} {direction} {text}");
    }
}

impl Qmp {
    /// Does the handshake on a connected socket and keeps the transcript in `log`.
    ///
    /// # Errors
    /// When the log cannot be made or QEMU does not greet.
    pub fn open(stream: UnixStream, log: &Path, clock: &PowerClock) -> Result<Self> {
        let file = File::create(log)
            .with_context(|| format!("cannot write the QMP log {}", log.display()))?;
        let transcript = Transcript {
            file: Arc::new(Mutex::new(file)),
            clock: clock.clone(),
        };
        let reader = stream.try_clone().context("cannot share the QMP socket")?;
        let answers = Arc::new(Journal::default());
        let events = Arc::new(Journal::default());
        let qmp = Self {
            writer: Mutex::new(Writer { stream, next_id: 0 }),
            answers: Arc::clone(&answers),
            events: Arc::clone(&events),
            transcript: transcript.clone(),
        };
        std::thread::Builder::new()
            .name("qmp".into())
            .spawn(move || {
                listen(BufReader::new(reader), &answers, &events, &transcript);
                answers.close();
                events.close();
            })
            .context("cannot start the QMP reader")?;
        let greeting = qmp.answers.wait(0, Instant::now() + ANSWER, |answer| {
            answer.get("QMP").map(|_| ())
        });
        if !matches!(greeting, Waited::Found(..)) {
            bail!("QEMU did not greet on its control channel");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and gives what it returned.
    ///
    /// # Errors
    /// QEMU's own error text, or that it is gone.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass json!() literals"
    )]
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let from = self.answers.len();
        let id = {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let id = writer.next_id;
            writer.next_id += 1;
            let line =
                json!({"execute": command, "arguments": arguments, "id": id}).to_string() + "\n";
            self.transcript.note("->", line.trim_end());
            writer
                .stream
                .write_all(line.as_bytes())
                .with_context(|| format!("QEMU is gone: cannot send {command}"))?;
            id
        };
        let answer = self.answers.wait(from, Instant::now() + ANSWER, |answer| {
            (answer.get("id").and_then(Value::as_u64) == Some(id)).then(|| answer.clone())
        });
        match answer {
            Waited::Found(_, answer) => match (answer.get("return"), answer.get("error")) {
                (Some(value), _) => Ok(value.clone()),
                (None, error) => bail!(
                    "QEMU refused {command}: {}",
                    error
                        .and_then(|e| e.get("desc"))
                        .and_then(Value::as_str)
                        .unwrap_or("no reason given")
                ),
            },
            Waited::Closed => bail!("QEMU ended before it answered {command}"),
            Waited::TimedOut => bail!("QEMU did not answer {command} within {ANSWER:?}"),
        }
    }

    /// The number of events so far.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.events.len()
    }

    /// All events from number `from` on.
    #[must_use]
    pub fn events(&self, from: usize) -> Vec<QmpEvent> {
        self.events.since(from)
    }

    /// Waits for an event called `name`; `None` when the deadline passes or QEMU ends first.
    #[must_use]
    pub fn wait_event(&self, from: usize, deadline: Instant, name: &str) -> Option<QmpEvent> {
        self.wait_for(from, deadline, |event| event.name == name)
    }

    /// The same for an event that `wanted` takes.
    #[must_use]
    pub fn wait_for(
        &self,
        from: usize,
        deadline: Instant,
        mut wanted: impl FnMut(&QmpEvent) -> bool,
    ) -> Option<QmpEvent> {
        match self
            .events
            .wait(from, deadline, |event| wanted(event).then(|| event.clone()))
        {
            Waited::Found(_, event) => Some(event),
            Waited::Closed | Waited::TimedOut => None,
        }
    }
}

fn listen(
    reader: BufReader<UnixStream>,
    answers: &Journal<Value>,
    events: &Journal<QmpEvent>,
    transcript: &Transcript,
) {
    for line in reader.lines() {
        // An error here is QEMU's end.
        let Ok(line) = line else { return };
        transcript.note("<-", &line);
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        match message.get("event").and_then(Value::as_str) {
            Some(name) => events.push(QmpEvent {
                at: transcript.clock.elapsed(),
                name: name.to_owned(),
                data: message.get("data").cloned().unwrap_or(Value::Null),
            }),
            None => answers.push(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU of a few lines: greets, then answers each line with what `answer` makes of it.
    fn peer(
        stream: UnixStream,
        mut answer: impl FnMut(&Value) -> Vec<Value> + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let mut out = stream.try_clone().expect("a clone");
            writeln!(out, "{}", json!({"QMP": {"version": {}}})).expect("a listener");
            for line in BufReader::new(stream).lines() {
                let request = serde_json::from_str(&line.expect("a line")).expect("JSON");
                for reply in answer(&request) {
                    writeln!(out, "{reply}").expect("a listener");
                }
            }
        })
    }

    fn open(
        name: &str,
        answer: impl FnMut(&Value) -> Vec<Value> + Send + 'static,
    ) -> (Result<Qmp>, std::path::PathBuf) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        peer(theirs, answer);
        let log = std::env::temp_dir().join(format!("qmp-{name}-{}.log", std::process::id()));
        (Qmp::open(ours, &log, &PowerClock::default()), log)
    }

    #[test]
    fn events_between_answers_are_kept() {
        let (qmp, log) = open("events", |request| {
            vec![
                json!({"event": "RESET", "data": {"guest": true}}),
                json!({"return": {"seen": request["execute"]}, "id": request["id"]}),
            ]
        });
        let qmp = qmp.expect("a channel");
        let answer = qmp.execute("query-status", json!({})).expect("an answer");
        assert_eq!(answer["seen"], "query-status");
        let event = qmp
            .wait_event(0, Instant::now(), "RESET")
            .expect("the event");
        assert_eq!(event.data["guest"], true);
        assert_eq!(qmp.events(0).len(), 2);
        let transcript = std::fs::read_to_string(&log).expect("the transcript");
        assert!(transcript.contains("-> {\"arguments\":{},\"execute\":\"query-status\""));
        std::fs::remove_file(log).expect("our file");
    }

    #[test]
    fn a_refusal_carries_the_reason() {
        let (qmp, log) = open("refusal", |request| {
            vec![if request["execute"] == "qmp_capabilities" {
                json!({"return": {}, "id": request["id"]})
            } else {
                json!({"error": {"class": "GenericError", "desc": "no such device"},
                       "id": request["id"]})
            }]
        });
        let error = qmp
            .expect("a channel")
            .execute("set_link", json!({}))
            .expect_err("refused");
        assert_eq!(error.to_string(), "QEMU refused set_link: no such device");
        std::fs::remove_file(log).expect("our file");
    }

    #[test]
    fn a_peer_that_hangs_up_is_an_error() {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        drop(theirs);
        let log = std::env::temp_dir().join(format!("qmp-gone-{}.log", std::process::id()));
        let error = Qmp::open(ours, &log, &PowerClock::default()).expect_err("no greeting");
        assert!(error.to_string().contains("did not greet"), "{error}");
        std::fs::remove_file(log).expect("our file");
    }
}
