//! Where a line goes: into memory, to the console, into the files, and to those who follow.
//!
//! None of them lets a line wait. What one of them does not take is counted, and what was
//! counted is told as a line of the logger's own among the events. That line is the only one whose
//! loss at the files is not counted again, or a full disk would never be done telling.

use super::clients::{Clients, Follow, Past, refuse};
use super::console::Console;
use super::exits::{self, Exits, ended};
use super::files::Files;
use super::losses::{Losses, Reason};
use super::protocol::{Request, WallTime};
use super::ring::{Ring, merged};
use super::{EVENTS, Line};
use crate::Time;
use crate::event::Event;
use rustix::fd::OwnedFd;

/// See the module.
#[derive(Debug)]
pub struct Outlets {
    /// Of the sources; the events are the first.
    pub names: Vec<String>,
    /// What stands before a line on the console.
    prefixes: Vec<String>,
    rings: Vec<Ring>,
    pub console: Console,
    pub files: Files,
    pub clients: Clients,
    pub losses: Losses,
    exits: Exits,
    /// Of the next line.
    number: u64,
}

impl Outlets {
    /// For sources of these names.
    #[must_use]
    pub fn new(names: Vec<String>, console: Console, files: Files, boot: String) -> Self {
        let prefix = |(source, name): (usize, &String)| {
            if source == EVENTS {
                String::new()
            } else {
                format!("{name}: ")
            }
        };
        Self {
            prefixes: names.iter().enumerate().map(prefix).collect(),
            rings: names.iter().map(|_| Ring::default()).collect(),
            losses: Losses::new(names.iter().map(String::as_str)),
            console,
            files,
            clients: Clients::default(),
            exits: Exits::new(boot),
            number: 0,
            names,
        }
    }

    /// A line of a source, read at this time.
    pub fn line(&mut self, source: usize, at: Time, text: &str) {
        let prefix = self.prefixes.get(source).map_or("", String::as_str);
        if !self.console.offer(Some(source), [prefix, text]) {
            self.losses.add(source, Reason::Console, 1);
        }
        self.unshown_line(source, at, text);
    }

    /// The same for a line that is not for the console.
    pub fn unshown_line(&mut self, source: usize, at: Time, text: &str) {
        if !self.keep(source, at, text) {
            self.losses.add(source, Reason::File, 1);
        }
    }

    /// Everywhere but the console. `false`: the files did not take it.
    fn keep(&mut self, source: usize, at: Time, text: &str) -> bool {
        let line = Line {
            number: self.number,
            at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            source,
            text: text.into(),
        };
        self.number += 1;
        self.clients.show(&line);
        if let Some(ring) = self.rings.get_mut(source) {
            ring.push(line);
        }
        let (seconds, millis) = (at.as_secs(), at.subsec_millis());
        self.files
            .offer(source, || format!("{seconds}.{millis:03} {text}"))
    }

    /// A service ended, as this event says: makes the record.
    pub fn record_exit(&mut self, event: &str) {
        let source = ended(event).and_then(|service| self.source(service));
        let ring = source.and_then(|source| self.rings.get(source));
        let lines = ring.map_or_else(Vec::new, |ring| {
            // What earlier instances wrote is in their records.
            let started = exits::started_ms(event).unwrap_or(0);
            let own = ring.last(exits::LINES).filter(|line| line.at_ms >= started);
            own.map(|line| line.text.to_string()).collect()
        });
        let owner = source.unwrap_or(EVENTS);
        if let Some(record) = self.exits.add(event, WallTime::now(), lines)
            && !self.files.offer_exit(owner, &record)
        {
            self.losses.add(owner, Reason::File, 1);
        }
    }

    /// The place of a source, by name.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// Answers a client.
    pub fn answer(&mut self, request: Option<Request>, client: OwnedFd) {
        let (past, follow) = match request {
            None => return refuse(&client, "the logger does not understand this request"),
            Some(Request::Exits { service }) => {
                let records: Vec<_> = self.exits.of(service.as_deref()).cloned().collect();
                match service {
                    Some(name) if records.is_empty() && self.source(&name).is_none() => {
                        return refuse(&client, &format!("there is no service `{name}`"));
                    }
                    _ => (Past::Records(records), Follow::Nothing),
                }
            }
            Some(Request::Logs {
                service,
                lines,
                follow,
            }) => {
                let source = service.as_deref().map(|name| (name, self.source(name)));
                let (one, rings) = match source {
                    Some((name, None)) => {
                        return refuse(&client, &format!("there is no service `{name}`"));
                    }
                    Some((_, Some(source))) => (Some(source), self.rings.get(source..=source)),
                    None => (None, Some(self.rings.as_slice())),
                };
                let count = usize::try_from(lines).unwrap_or(usize::MAX);
                let past = merged(rings.unwrap_or_default().iter(), count);
                let follow = match (follow, one) {
                    (false, _) => Follow::Nothing,
                    (true, Some(source)) => Follow::One(source),
                    (true, None) => Follow::All,
                };
                (Past::Lines(past), follow)
            }
        };
        self.clients.admit(client, past, follow);
    }

    /// Takes what the thread of the files has to say.
    pub fn hear_files(&mut self, now: Time) {
        let news = self.files.news();
        if let Some(problem) = news.problem {
            let event = Event::new("log.warning")
                .with("what", "files")
                .with("error", problem)
                .with(
                    "then",
                    "no log files are written until the logger starts again",
                );
            self.console.open();
            self.line(EVENTS, now, &event.line(now));
        }
        for moved in news.moved {
            let event = Event::new("log.warning")
                .with("what", "files")
                .with("error", moved)
                .with("then", "log files are written as usual");
            self.line(EVENTS, now, &event.line(now));
        }
        if let Some(written) = news.exits {
            self.exits.load(&written);
        }
        for (source, lines) in news.lost.into_iter().enumerate() {
            self.losses.add(source, Reason::File, lines);
        }
    }

    /// Writes to the console.
    pub fn write_console(&mut self) {
        let losses = &mut self.losses;
        self.console
            .write(|source| losses.add(source, Reason::Console, 1));
    }

    /// Called while much is read at once: gives what waits to those who would take it, before
    /// their queues are full and lines are lost without need.
    pub fn relieve(&mut self) {
        if !self.console.has_room() {
            self.write_console();
        }
        self.clients.relieve(&self.names);
    }

    /// Tells what was lost, as far as the console has room to say so.
    pub fn confess(&mut self, now: Time) {
        while self.console.has_room() {
            let Some(event) = self.losses.confession(now) else {
                break;
            };
            let text = event.line(now);
            // It may have hung up just now, which is what is told.
            self.console.open();
            self.console.offer(None, ["", &text]);
            self.keep(EVENTS, now, &text);
        }
    }
}
