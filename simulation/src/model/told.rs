//! What an event, or a call of the machine, has to say: its fields as `docs/interfaces.md` has them.

use std::fmt::{self, Display};
use std::time::Duration;
use supervisor::core::{Action, ExitStatus};

/// One value.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    /// Whole milliseconds of a time that is drawn at random between both.
    Between(Duration, Duration),
}

/// All fields, and no other.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Display) -> Self {
        self.0.push((key, Value::Text(value.to_string())));
        self
    }

    /// A field that is there only if there is something to say.
    #[must_use]
    pub fn with_some(self, key: &'static str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    #[must_use]
    pub fn with_ms(self, key: &'static str, time: Duration) -> Self {
        self.with(key, time.as_millis())
    }

    #[must_use]
    pub fn between(mut self, key: &'static str, (low, high): (Duration, Duration)) -> Self {
        self.0.push((key, Value::Between(low, high)));
        self
    }

    /// Whether an action says this, and nothing else.
    pub fn fit(&self, action: &Action) -> bool {
        match action {
            // No service of this world is a role of init, so every step of each is shown.
            Action::Emit(event) => {
                let says = |(key, value): &(&str, Value)| match (event.field(key), value) {
                    (Some(said), Value::Text(text)) => said == text,
                    (Some(said), Value::Between(low, high)) => {
                        let range = low.as_millis()..=high.as_millis();
                        said.parse().is_ok_and(|ms| range.contains(&ms))
                    }
                    (None, _) => false,
                };
                !event.is_routine()
                    && event.fields().count() == self.0.len()
                    && self.0.iter().all(says)
            }
            Action::Reboot { why, .. } | Action::Degraded { why, .. } => {
                matches!(self.0.as_slice(), [(_, Value::Text(text))] if text == why)
            }
            _ => true,
        }
    }
}

impl Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.0 {
            match value {
                Value::Text(text) => write!(f, " {key}={text:?}")?,
                Value::Between(low, high) => {
                    write!(f, " {key}={}..{}", low.as_millis(), high.as_millis())?;
                }
            }
        }
        Ok(())
    }
}

/// The delay that an action tells, in milliseconds.
pub fn delay_told(action: &Action) -> Option<u128> {
    match action {
        Action::Emit(event) => event.field("delay_ms")?.parse().ok(),
        _ => None,
    }
}

/// How a process ended, as a cause has it.
pub fn ended(status: &ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit status {code}"),
        ExitStatus::Signal(signal, core) => {
            let core = if *core { ", core dumped" } else { "" };
            format!("signal {signal}{core}")
        }
        ExitStatus::NotExecuted(failure) => failure.why.clone(),
        ExitStatus::Unknown => "ended, nobody saw how".to_owned(),
    }
}
