//! Where the files of a version come from: a folder, a web server, and later perhaps a registry.
//!
//! A source gives a file from an offset on, so that whoever reads can go on after a broken line; it does not try
//! again by itself ([`super::fetch`] does). Its errors say whether trying again may help: a line breaks, a
//! server is busy; but a file that is not there, or another one than a minute ago, is so the next time too.

mod answer;
mod body;
mod file;
mod head;
mod http;
mod tls;
mod url;
mod wire;

use std::io::{self, Read};
use std::path::Path;

/// What went wrong, with the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// Whether the same may go well at another time.
    pub transient: bool,
    /// What and where.
    pub message: String,
}

impl SourceError {
    /// One that stays.
    #[must_use]
    pub fn lasting(message: impl Into<String>) -> Self {
        Self {
            transient: false,
            message: message.into(),
        }
    }

    /// One that may pass.
    #[must_use]
    pub fn passing(message: impl Into<String>) -> Self {
        Self {
            transient: true,
            message: message.into(),
        }
    }

    /// Of reading or connecting, at this place: lines break and peers go away, all else stays.
    #[must_use]
    pub fn io(place: &str, e: &io::Error) -> Self {
        use io::ErrorKind as K;
        let transient = matches!(
            e.kind(),
            K::TimedOut
                | K::WouldBlock
                | K::Interrupted
                | K::UnexpectedEof
                | K::BrokenPipe
                | K::NotConnected
                | K::ConnectionRefused
                | K::ConnectionReset
                | K::ConnectionAborted
                | K::HostUnreachable
                | K::NetworkUnreachable
                | K::NetworkDown
                | K::AddrNotAvailable
        );
        // What a socket with a timeout says when it is over (socket(7), `SO_RCVTIMEO`).
        let what = match e.kind() {
            K::WouldBlock => "timed out".to_owned(),
            _ => e.to_string(),
        };
        Self {
            transient,
            message: format!("{place}: {what}"),
        }
    }
}

/// A file that is being read.
pub struct Opened {
    /// Its bytes, from the offset on.
    pub reader: Box<dyn Read>,
    /// The size of the whole file, if it is known.
    pub total: Option<u64>,
    /// Bytes before the offset that came all the same and were passed over.
    pub skipped: u64,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({:?})", self.total)
    }
}

/// Files by their plain names.
pub trait Source {
    /// A file from an offset on; the same file at every call, or an error.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn open(&mut self, name: &str, offset: u64) -> Result<Opened, SourceError>;

    /// The size of a file, if it can be told without reading it.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn size(&mut self, name: &str) -> Result<Option<u64>, SourceError>;

    /// A file's full name, for people.
    fn place(&self, name: &str) -> String;
}

/// The source that a person means, and the manifest's name there: a path, or an http or https URL.
/// `ca` is a file of PEM certificates, the only authorities that a server's certificate may then come from.
///
/// # Errors
/// What is wrong with it.
pub fn of(text: &str, ca: Option<&Path>) -> Result<(Box<dyn Source>, String), SourceError> {
    if let Some((scheme, _)) = text.split_once("://") {
        if !matches!(scheme, "http" | "https") {
            return Err(SourceError::lasting(format!(
                "{text}: a source is a path, or an http or https URL"
            )));
        }
        let (source, name) = http::Http::new(text, ca)?;
        return Ok((Box::new(source), name));
    }
    let (source, name) = file::Folder::new(Path::new(text))?;
    Ok((Box::new(source), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_by_its_form() {
        let of = |text| {
            of(text, None)
                .map(|(s, n)| s.place(&n))
                .map_err(|e| e.message)
        };
        assert_eq!(of("/a/b/update.json"), Ok("/a/b/update.json".into()));
        assert_eq!(of("update.json"), Ok("update.json".into()));
        assert_eq!(of("http://h/x/u.json"), Ok("http://h/x/u.json".into()));
        assert!(of("ftp://h/u.json").unwrap_err().contains("http or https"));
        assert!(of("http://").unwrap_err().contains("no host"));
        assert!(of("/").unwrap_err().contains("no file"));
    }
}
