//! A file server on the host's loopback, for machines that fetch something.
//!
//! HTTP/1.1, one thread per connection, one request per connection. It serves the files of one
//! folder with `GET` and `HEAD`, ranges and entity tags, counts what it is asked for, and can be told
//! to serve a file badly ([`Fault`]). QEMU's user-mode network shows the host's loopback to a machine
//! as 10.0.2.2. With TLS it has a certificate for both addresses, of an authority made for it.
//!
//! Dropping it closes all connections and ends all threads.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificate;
use crate::http_request::{Range, Request};

/// The host's loopback, seen from a machine in QEMU's user-mode network.
const SEEN_FROM_GUEST: &str = "10.0.2.2";
/// A client that neither sends nor reads for this long is let go.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much is sent at once.
const CHUNK: usize = 64 << 10;
/// How often a slow file goes on.
const TICK: Duration = Duration::from_millis(100);

/// What is wrong with how a file is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after this many bytes of the body, once.
    CutOnce(u64),
    /// Ranges are not known: the whole file comes with 200.
    NoRanges,
    /// This status in place of the file.
    Status(u16),
    /// The same, once.
    StatusOnce(u16),
    /// A body without a length that never ends.
    Endless,
    /// So many bytes a second.
    Slow(u32),
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET`, `HEAD` or something else.
    pub method: String,
    /// First byte asked for, if a range was.
    pub from: Option<u64>,
    /// Status of the answer.
    pub status: u16,
}

/// A running server.
#[derive(Debug)]
pub struct FileServer {
    state: Arc<State>,
    address: SocketAddr,
    authority: Option<String>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    folder: PathBuf,
    tls: Option<Arc<ServerConfig>>,
    inner: Mutex<Inner>,
    /// Told when the server ends.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    faults: BTreeMap<String, Fault>,
    seen: BTreeMap<String, Vec<Seen>>,
    clients: Vec<(TcpStream, JoinHandle<()>)>,
    over: bool,
}

impl State {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, and says whether the server is still there after it.
    fn pause(&self, time: Duration) -> bool {
        let inner = self
            .ended
            .wait_timeout_while(self.inner(), time, |inner| !inner.over)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        !inner.over
    }
}

impl FileServer {
    /// Serves the files of `folder` at a free port.
    ///
    /// # Errors
    /// When there is no port.
    pub fn http(folder: &Path) -> Result<Self> {
        Self::start(folder, None)
    }

    /// The same with TLS.
    ///
    /// # Errors
    /// When there is no port, or no certificate can be made.
    pub fn https(folder: &Path) -> Result<Self> {
        let (config, authority) = certificate::server(&["127.0.0.1", SEEN_FROM_GUEST])?;
        Self::start(folder, Some((Arc::new(config), authority)))
    }

    fn start(folder: &Path, tls: Option<(Arc<ServerConfig>, String)>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let address = listener.local_addr()?;
        let (config, authority) = tls.unzip();
        let state = Arc::new(State {
            folder: folder.to_path_buf(),
            tls: config,
            inner: Mutex::default(),
            ended: Condvar::new(),
        });
        let shared = Arc::clone(&state);
        Ok(Self {
            state,
            address,
            authority,
            listener: Some(thread::spawn(move || accept(&listener, &shared))),
        })
    }

    /// The address of a file for this host.
    #[must_use]
    pub fn url(&self, file: &str) -> String {
        self.url_at("127.0.0.1", file)
    }

    /// The address of a file for a machine in QEMU's user-mode network.
    #[must_use]
    pub fn guest_url(&self, file: &str) -> String {
        self.url_at(SEEN_FROM_GUEST, file)
    }

    fn url_at(&self, host: &str, file: &str) -> String {
        let scheme = if self.authority.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{host}:{}/{file}", self.address.port())
    }

    /// The certificate of the authority, PEM, if it speaks TLS.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// From now on serves a file badly; `None` for well again.
    pub fn fault(&self, file: &str, fault: impl Into<Option<Fault>>) {
        let mut inner = self.state.inner();
        match fault.into() {
            Some(fault) => inner.faults.insert(file.to_owned(), fault),
            None => inner.faults.remove(file),
        };
    }

    /// The requests for a file that were answered so far; one is counted when its answer begins.
    #[must_use]
    pub fn seen(&self, file: &str) -> Vec<Seen> {
        self.state
            .inner()
            .seen
            .get(file)
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.state.inner().over = true;
        self.state.ended.notify_all();
        // The listener looks up when somebody comes.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
        let clients = std::mem::take(&mut self.state.inner().clients);
        for (stream, thread) in clients {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.inner().over {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(handle) = stream.try_clone() else {
            continue;
        };
        let shared = Arc::clone(state);
        let thread = thread::spawn(move || {
            // A client that goes away is no news.
            let _ = talk(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
        });
        let mut inner = state.inner();
        inner.clients.retain(|(_, thread)| !thread.is_finished());
        inner.clients.push((handle, thread));
    }
}

fn talk(stream: &TcpStream, state: &State) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match &state.tls {
        None => answer(&mut &*stream, state).map(drop),
        Some(config) => {
            let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
            let mut tls = StreamOwned::new(session, stream);
            // A connection that is cut does not say that it was the end.
            if answer(&mut tls, state)? == Ending::Whole {
                tls.conn.send_close_notify();
                tls.flush()?;
            }
            Ok(())
        }
    }
}

/// Whether the body was sent as promised.
#[derive(PartialEq, Eq)]
enum Ending {
    Whole,
    Cut,
}

/// One request and its answer.
fn answer(stream: &mut (impl Read + Write), state: &State) -> io::Result<Ending> {
    let request = Request::read(stream)?;
    let fault = {
        let mut inner = state.inner();
        let fault = inner.faults.get(&request.file).copied();
        // There is nothing to cut in the answer to `HEAD`.
        let once = match fault {
            Some(Fault::StatusOnce(_)) => true,
            Some(Fault::CutOnce(_)) => request.method == "GET",
            _ => false,
        };
        if once {
            inner.faults.remove(&request.file);
        }
        fault
    };
    let tell = |status| {
        state
            .inner()
            .seen
            .entry(request.file.clone())
            .or_default()
            .push(Seen {
                method: request.method.clone(),
                from: request.range.map(|range| range.first),
                status,
            });
    };
    let mut plain = |status: u16| {
        tell(status);
        let head = format!("HTTP/1.1 {status} \r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.flush().map(|()| Ending::Whole)
    };
    if let Some(Fault::Status(status) | Fault::StatusOnce(status)) = fault {
        return plain(status);
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return plain(405);
    }
    // One folder deep: nothing outside of it has a name.
    if request.file.contains(['/', '\0']) || matches!(request.file.as_str(), "" | "." | "..") {
        return plain(404);
    }
    let path = state.folder.join(&request.file);
    let Ok(mut file) = File::open(&path) else {
        return plain(404);
    };
    let (size, tag) = size_and_tag(&path)?;
    let ranges = !matches!(fault, Some(Fault::NoRanges));
    let range = request
        .range
        .filter(|_| ranges && request.if_range.as_ref().is_none_or(|known| *known == tag));
    let (first, end) = match range {
        None => (0, size),
        Some(Range { first, .. }) if first >= size => return plain(416),
        Some(Range { first, last }) => (
            first,
            last.map_or(size, |last| size.min(last.saturating_add(1))),
        ),
    };
    let status = if range.is_some() { 206 } else { 200 };
    tell(status);
    let mut head = format!("HTTP/1.1 {status} \r\nconnection: close\r\netag: {tag}\r\n");
    if ranges {
        head.push_str("accept-ranges: bytes\r\n");
    }
    if range.is_some() {
        let last = end.saturating_sub(1);
        head.push_str(&format!("content-range: bytes {first}-{last}/{size}\r\n"));
    }
    if fault != Some(Fault::Endless) {
        head.push_str(&format!("content-length: {}\r\n", end - first));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    if request.method == "HEAD" {
        return Ok(Ending::Whole);
    }
    file.seek(SeekFrom::Start(first))?;
    send(stream, &mut file.take(end - first), fault, state)
}

/// The body, as well or as badly as is asked for.
fn send(
    stream: &mut impl Write,
    body: &mut impl Read,
    fault: Option<Fault>,
    state: &State,
) -> io::Result<Ending> {
    let mut left = match fault {
        Some(Fault::CutOnce(bytes)) => bytes,
        _ => u64::MAX,
    };
    let chunk = match fault {
        Some(Fault::Slow(rate)) => {
            let ticks = u32::try_from(Duration::from_secs(1).as_millis() / TICK.as_millis())
                .unwrap_or(u32::MAX);
            usize::try_from(rate / ticks)
                .unwrap_or(CHUNK)
                .clamp(1, CHUNK)
        }
        _ => CHUNK,
    };
    let mut buffer = vec![0; chunk];
    loop {
        if state.inner().over {
            return Ok(Ending::Cut);
        }
        let mut count = body.read(&mut buffer)?;
        if count == 0 && fault == Some(Fault::Endless) {
            buffer.fill(0);
            count = buffer.len();
        }
        if count == 0 {
            stream.flush()?;
            return Ok(Ending::Whole);
        }
        let now = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&buffer[..now])?;
        left -= u64::try_from(now).unwrap_or(left);
        if now < count {
            stream.flush()?;
            return Ok(Ending::Cut);
        }
        if matches!(fault, Some(Fault::Slow(_))) {
            stream.flush()?;
            if !state.pause(TICK) {
                return Ok(Ending::Cut);
            }
        }
    }
}

/// The tag is another one when the file was written anew.
fn size_and_tag(path: &Path) -> io::Result<(u64, String)> {
    let meta = fs::metadata(path)?;
    let age = meta
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok((
        meta.len(),
        format!("\"{:x}-{:x}\"", meta.len(), age.as_nanos()),
    ))
}

#[cfg(test)]
mod tests;
