//! Processes whose lines are read as they come, and the events of netcfg among them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::PATIENCE;

/// One event of netcfg.
#[derive(Debug, Clone)]
pub struct Event {
    pub name: String,
    pub fields: BTreeMap<String, String>,
}

impl Event {
    /// Reads a line `name key=value ...`. Values with spaces in them are cut: none is waited for.
    pub fn parse(line: &str) -> Event {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default().to_owned();
        let pairs = words.filter_map(|word| word.split_once('='));
        let fields = pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Event { name, fields }
    }

    /// The value of a field, empty when it is not there.
    pub fn get(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }
}

/// A process whose lines are read as they come. It is killed when this is dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    pub seen: Vec<String>,
    name: String,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (sender, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped")),
            Box::new(child.stderr.take().expect("piped")),
        ];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Process {
            child,
            lines,
            seen: vec![],
            name: name.to_owned(),
        }
    }

    /// Waits for a line that `wanted` takes.
    pub fn wait_line<T>(&mut self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if let Some(found) = wanted(&line) {
                        return found;
                    }
                }
                Err(why) => {
                    panic!(
                        "{} never said {what} ({why}); it said:\n{}",
                        self.name,
                        self.seen.join("\n")
                    )
                }
            }
        }
    }

    /// Waits for an event of this name with these fields.
    pub fn event(&mut self, name: &str, fields: &[(&str, &str)]) -> Event {
        self.wait_line(&format!("{name} {fields:?}"), |line| {
            let event = Event::parse(line);
            let fits = fields.iter().all(|(key, value)| event.get(key) == *value);
            (event.name == name && fits).then_some(event)
        })
    }

    /// Whether a line comes within `patience`.
    pub fn says_something(&self, patience: Duration) -> bool {
        self.lines.recv_timeout(patience).is_ok()
    }

    /// Whether a line containing `text` was read so far.
    pub fn said(&self, text: &str) -> bool {
        self.seen.iter().any(|line| line.contains(text))
    }

    /// Waits until it has a UDP socket on port 67, for servers that do not say when they have.
    pub fn wait_udp_67(&mut self) {
        // proc(5): /proc/PID/net is that of the namespace of the process.
        let table = format!("/proc/{}/net/udp", self.child.id());
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&table).is_ok_and(|table| table.contains(":0043 ")) {
            let alive = self.is_alive();
            assert!(
                alive && Instant::now() < deadline,
                "{} has no socket",
                self.name
            );
            thread::yield_now();
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) -> Vec<String> {
        self.stop();
        // What it still had to say.
        while let Ok(line) = self.lines.recv() {
            self.seen.push(line);
        }
        std::mem::take(&mut self.seen)
    }

    /// Stops it in the middle of what it does: what comes meanwhile waits in its sockets.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        // proc_pid_stat(5): the state follows the name, which is in parentheses.
        let stat = format!("/proc/{}/stat", self.pid());
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")) {
            let alive = self.is_alive() && Instant::now() < deadline;
            assert!(alive, "{} does not stop", self.name);
            thread::yield_now();
        }
    }

    /// Lets it go on after [`Process::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("our child");
    }

    /// Asks it to end, and waits for that.
    pub fn terminate(mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.is_alive() {
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            thread::yield_now();
        }
    }

    /// Ends it at once; nothing that it ever said contains any of `words`.
    pub fn never_said(self, words: &[&str]) {
        let name = self.name.clone();
        let said = self.kill();
        let line = said
            .iter()
            .find(|line| words.iter().any(|word| line.contains(word)));
        assert_eq!(line, None, "{name} said:\n{}", said.join("\n"));
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
