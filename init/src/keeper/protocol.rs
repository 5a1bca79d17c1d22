//! The words of the slots' control socket, `/run/slots/control`: one JSON object a line.
//!
//! A client sends one [`Request`] and gets a line with `"ok"`: a [`Reply`], or a refusal as init's own
//! socket gives it. After the reply to `update` the events of that update follow, one a line
//! ([`crate::control::protocol::EventLine`]), until it has ended.

use crate::slots::judgement::View;
use crate::slots::record::Trial;
use serde::{Deserialize, Serialize};

/// The longest request that is read.
pub const REQUEST_MAX: usize = 4096;

/// What a client may ask. All of it is for root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What the slots hold.
    Slots {},
    /// Keep the running version now, without the rest of its probation.
    Bless {},
    /// Back to the other version.
    Rollback {},
    /// Put a version into the other slot and try it.
    Update {
        /// Path or URL of the manifest; that of the configuration if not given.
        #[serde(default)]
        source: Option<String>,
        /// Leave the reboot into the trial to somebody else.
        #[serde(default)]
        no_reboot: bool,
    },
}

/// A good answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// `true`.
    pub ok: bool,
    /// To `slots`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<Report>,
}

/// What the slots hold, and what became of earlier versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Both slots.
    pub view: View,
    /// Versions up to this one are not installed any more.
    pub floor: String,
    /// The versions that were installed here, the newest last.
    pub trials: Vec<Trial>,
    /// Whether an update is being installed now.
    pub updating: bool,
}

/// Reads a request.
///
/// # Errors
/// What is wrong with it, for the client.
pub fn parse(line: &[u8]) -> Result<Request, String> {
    serde_json::from_slice(line).map_err(|e| {
        format!("the request is not understood ({e}); is initctl of the same version?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let update = parse(br#"{"verb":"update","source":"https://a/update.json"}"#).unwrap();
        let source = Some("https://a/update.json".to_owned());
        let no_reboot = false;
        assert_eq!(update, Request::Update { source, no_reboot });
        assert_eq!(parse(br#"{"verb":"slots"}"#), Ok(Request::Slots {}));
        for bad in [&b"{}"[..], b"", br#"{"verb":"bless","x":1}"#, b"\xff"] {
            assert!(parse(bad).unwrap_err().contains("not understood"));
        }
    }
}
