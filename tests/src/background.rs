//! A program of the host that runs on a segment beside the machines: a server, or a capture.

use anyhow::{Context, Result, anyhow, bail};
use qemu_harness::journal::{Journal, Waited};
use qemu_harness::segment::Segment;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reading a configuration and opening sockets takes a second or two.
const START: Duration = Duration::from_secs(60);
/// How much of the end of its log an error quotes.
const QUOTED_LINES: usize = 15;

/// A running program. Dropping it ends it at once.
#[derive(Debug)]
pub struct Background {
    name: String,
    child: Child,
    said: Arc<Journal<String>>,
}

impl Background {
    /// Runs `program` on the segment until it says `ready`; what it says on either output is kept.
    ///
    /// # Errors
    /// When it cannot be run or ends before; the message has its words.
    pub fn start(
        segment: &Segment,
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        ready: &str,
    ) -> Result<Self> {
        let (output, words) = std::io::pipe().context("cannot make a pipe")?;
        // The command has the writing end until it goes: nothing is read to its end before.
        let child = segment
            .command(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(words.try_clone().context("cannot share a pipe")?)
            .stderr(words)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let said = Arc::new(Journal::default());
        let journal = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                journal.push(line);
            }
            journal.close();
        });
        let program = Self {
            name: program.to_owned(),
            child,
            said,
        };
        program
            .wait(0, START, |line| line.contains(ready))
            .map_err(|_| anyhow!("{} does not start\n{}", program.name, program.quote_end()))?;
        Ok(program)
    }

    /// The number of lines it has said so far.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.said.len()
    }

    /// Waits until it has said a line like this, at line `from` or later.
    ///
    /// # Errors
    /// When it does not within `within`, or has ended.
    pub fn wait(
        &self,
        from: usize,
        within: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let pick = |line: &String| wanted(line).then(|| line.clone());
        match self.said.wait(from, Instant::now() + within, pick) {
            Waited::Found(_, line) => Ok(line),
            Waited::Closed => bail!("{} has ended", self.name),
            Waited::TimedOut => bail!("{} did not say it", self.name),
        }
    }

    /// Its last lines, for an error message.
    #[must_use]
    pub fn quote_end(&self) -> String {
        let from = self.said.len().saturating_sub(QUOTED_LINES);
        let lines = self.said.since(from).join("\n");
        format!("{} said last:\n{lines}", self.name)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
