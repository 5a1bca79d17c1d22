//! A web server: HTTP/1.1 over TCP or TLS, one request to a connection.
//!
//! A client of our own: ureq with rustls does not fit the binary's budget (300 kB more), and minreq cannot be
//! given certificate authorities. Little is needed: `GET` and `HEAD`, ranges (RFC 9110, section 14), redirections.
//! [`super::head`], [`super::body`] and [`super::answer`] do the thinking; this connects them with a line.

use super::answer::{Answer, Known, judge};
use super::body::Body;
use super::head::{self, Head};
use super::url::Url;
use super::wire::{self, Paced, Reached, Wire};
use super::{Opened, Source, SourceError, tls};
use rustls::ClientConfig;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Redirections that are followed for one request.
const REDIRECTIONS_MAX: usize = 5;

/// Interim answers (RFC 9110, section 15.2) that are passed over.
const INTERIM_MAX: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Http {
    manifest: Url,
    tls: Arc<ClientConfig>,
    /// Which file each name was when it was first seen.
    known: BTreeMap<String, Known>,
}

impl Http {
    /// The server of this manifest, and the manifest's name.
    pub(super) fn new(url: &str, ca: Option<&Path>) -> Result<(Self, String), SourceError> {
        let manifest = Url::parse(url).map_err(SourceError::lasting)?;
        if manifest.path.contains('?') {
            return Err(SourceError::lasting(format!(
                "{url}: a query is not possible: the other files are beside the manifest"
            )));
        }
        let name = manifest.file().to_owned();
        // The name is encoded anew whenever it is asked for.
        if name.is_empty() || name.contains('%') {
            return Err(SourceError::lasting(format!(
                "{url}: no plain file name at the end; a source is the URL of a manifest"
            )));
        }
        let source = Self {
            manifest,
            tls: tls::client(ca).map_err(SourceError::lasting)?,
            known: BTreeMap::new(),
        };
        Ok((source, name))
    }

    /// Asks until there is no redirection any more.
    fn ask(
        &self,
        method: &str,
        name: &str,
        offset: u64,
    ) -> Result<(Answer, Head, BufReader<Wire>), SourceError> {
        let known = self.known.get(name);
        let mut url = self.manifest.beside(name);
        let mut reached = Reached::Anywhere;
        for _ in 0..=REDIRECTIONS_MAX {
            let place = url.to_string();
            let request = request(method, &url, offset, known);
            let (head, wire, near) = self
                .exchange(&url, &request, reached)
                .map_err(|e| SourceError::io(&place, &e))?;
            match judge(&head, offset, known, &place)? {
                Answer::Elsewhere(location) => {
                    if !near {
                        reached = Reached::Elsewhere;
                    }
                    url = url
                        .follow(&location)
                        .map_err(|e| SourceError::lasting(format!("{place}: redirected to {e}")))?;
                }
                answer => return Ok((answer, head, wire)),
            }
        }
        Err(SourceError::lasting(format!(
            "{}: more than {REDIRECTIONS_MAX} redirections",
            self.place(name)
        )))
    }

    /// Sends a request; the head of the final answer, the line with the rest, and whether the peer is near.
    fn exchange(
        &self,
        url: &Url,
        request: &str,
        reached: Reached,
    ) -> io::Result<(Head, BufReader<Wire>, bool)> {
        let tls = url.secure.then_some(&self.tls);
        let (mut wire, near) = wire::connect(url.bare_host(), url.port, tls, reached)?;
        wire.write_all(request.as_bytes())?;
        wire.flush()?;
        let mut wire = BufReader::with_capacity(32 * 1024, wire);
        for _ in 0..INTERIM_MAX {
            let head = Head::parse(&read_head(&mut wire)?)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if head.status >= 200 {
                return Ok((head, wire, near));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "interim answers without end",
        ))
    }
}

impl Source for Http {
    fn open(&mut self, name: &str, offset: u64) -> Result<Opened, SourceError> {
        let place = self.place(name);
        let (answer, head, wire) = self.ask("GET", name, offset)?;
        let Answer::Body { skip, known } = answer else {
            return Err(SourceError::lasting(format!(
                "{place}: the server says {} {}",
                head.status, head.reason
            )));
        };
        let total = known.total;
        self.known.insert(name.to_owned(), known);
        let mut body = Paced::new(Body::new(&head, wire));
        let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink())
            .map_err(|e| SourceError::io(&place, &e))?;
        if skipped < skip {
            return Err(SourceError::lasting(format!(
                "{place}: it has {skipped} bytes only, and had more before"
            )));
        }
        Ok(Opened {
            reader: Box::new(body),
            total,
            skipped,
        })
    }

    fn size(&mut self, name: &str) -> Result<Option<u64>, SourceError> {
        let (answer, _, _) = self.ask("HEAD", name, 0)?;
        Ok(match answer {
            Answer::Body { known, .. } => {
                let total = known.total;
                self.known.insert(name.to_owned(), known);
                total
            }
            Answer::Elsewhere(_) | Answer::Unable => None,
        })
    }

    fn place(&self, name: &str) -> String {
        self.manifest.beside(name).to_string()
    }
}

/// The bytes up to the empty line.
fn read_head(wire: &mut impl io::BufRead) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let fresh = wire.fill_buf()?;
        if fresh.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the line was closed before an answer came",
            ));
        }
        let before = bytes.len();
        bytes.extend_from_slice(fresh);
        if let Some(end) = head::end(&bytes) {
            wire.consume(end.saturating_sub(before));
            bytes.truncate(end);
            return Ok(bytes);
        }
        if bytes.len() > head::SIZE_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "an answer whose head is longer than {} bytes",
                    head::SIZE_MAX
                ),
            ));
        }
        let all = bytes.len() - before;
        wire.consume(all);
    }
}

fn request(method: &str, url: &Url, offset: u64, known: Option<&Known>) -> String {
    let mut text = format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: astromesh-init\r\nAccept: */*\r\n\
         Accept-Encoding: identity\r\nConnection: close\r\n",
        url.path,
        url.authority()
    );
    if offset > 0 {
        text.push_str(&format!("Range: bytes={offset}-\r\n"));
        if let Some(tag) = known.and_then(|known| known.strong(&url.to_string())) {
            text.push_str(&format!("If-Range: {tag}\r\n"));
        }
    }
    text.push_str("\r\n");
    text
}

#[cfg(test)]
mod tests;
