//! What the reporter in the guest (`init/examples/counted.rs`) tells after the machine was stopped.

use anyhow::{Context, Result};

/// What a process has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, with `_` for spaces.
    pub name: String,
    /// Instructions of all its threads that live.
    pub instructions: u64,
}

/// PID 1's memory in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// `VmRSS` of `/proc/1/status`.
    pub rss: u64,
    /// `RssAnon` of it.
    pub anon: u64,
    /// `Private_Clean` and `Private_Dirty` of `/proc/1/smaps_rollup`.
    pub private: u64,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Instructions of all processes, those that have ended included.
    pub ran: u64,
    /// Those that live, the largest first.
    pub processes: Vec<Process>,
    /// Of PID 1.
    pub memory: Memory,
}

/// What a line of the serial port says after `counted: `, behind the kernel's stamp.
pub fn word(line: &str) -> Option<&str> {
    line.split_once("counted: ").map(|(_, text)| text.trim())
}

impl Told {
    /// Reads the words of the report, up to `end`.
    ///
    /// # Errors
    /// Names the line that is missing or has another form.
    pub fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let (mut ran, mut memory, mut processes) = (None, None, Vec::new());
        for text in words {
            let wrong = || format!("the reporter said `{text}`");
            match text.split_once(' ').map_or(text, |(first, _)| first) {
                "ran" => ran = Some(value(text, "ns").with_context(wrong)?),
                "process" => processes.push(process(text).with_context(wrong)?),
                "pid1" => memory = Some(self::memory(text).with_context(wrong)?),
                _ => {}
            }
        }
        processes.sort_by_key(|process: &Process| std::cmp::Reverse(process.instructions));
        Ok(Self {
            ran: ran.context("the reporter did not say how long processes ran")?,
            processes,
            memory: memory.context("the reporter did not say what memory PID 1 has")?,
        })
    }

    /// Instructions of processes that have ended.
    pub fn ended(&self) -> u64 {
        let living: u64 = self
            .processes
            .iter()
            .map(|process| process.instructions)
            .sum();
        self.ran.saturating_sub(living)
    }
}

fn process(text: &str) -> Option<Process> {
    Some(Process {
        pid: value(text, "pid")?.try_into().ok()?,
        name: field(text, "comm")?.to_owned(),
        instructions: value(text, "ns")?,
    })
}

fn memory(text: &str) -> Option<Memory> {
    Some(Memory {
        rss: value(text, "rss")?,
        anon: value(text, "anon")?,
        private: value(text, "private")?,
    })
}

fn value(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.parse().ok()
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split(' ')
        .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: [&str; 5] = [
        "ran ns=1000",
        "process pid=1 ns=200 comm=init",
        "process pid=150 ns=600 comm=astromeshd",
        "pid1 rss=3600 anon=180 private=224",
        "end",
    ];

    #[test]
    fn a_report_is_read() {
        let told = Told::read(REPORT).expect("a report");
        assert_eq!(told.processes[0].name, "astromeshd");
        assert_eq!(told.ended(), 200);
        let memory = Memory {
            rss: 3600,
            anon: 180,
            private: 224,
        };
        assert_eq!(told.memory, memory);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = Told::read(["ran ns=1"]).expect_err("no memory");
        assert!(error.to_string().contains("memory"), "{error}");
        let error = Told::read(REPORT[1..].iter().copied()).expect_err("no sum");
        assert!(error.to_string().contains("processes ran"), "{error}");
        let error = Told::read(["process pid=1 ns=x comm=init"]).expect_err("no figure");
        assert!(error.to_string().contains("ns=x"), "{error}");
    }

    #[test]
    fn words_stand_behind_the_kernels_stamp() {
        assert_eq!(word("[   12.345678] counted: root\r"), Some("root"));
        assert_eq!(word("init: 1.0 boot.start"), None);
    }
}
