//! A file server on the host's loopback, for machines that fetch something.
//!
//! HTTP/1.1, one thread per connection, one request per connection. It serves the files of one
//! folder with `GET` and `HEAD`, ranges and entity tags, counts what it is asked for, and can be told
//! to serve a file badly ([`Fault`]). QEMU's user-mode network shows the host's loopback to a machine
//! as 10.0.2.2. With TLS it has a certificate for both addresses, of an authority made for it.
//!
//! Dropping it closes all connections and ends all threads.

mod answer;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificate;
use answer::{Ending, answer};

/// The host's loopback, seen from a machine in QEMU's user-mode network.
const SEEN_FROM_GUEST: &str = "10.0.2.2";
/// A client that neither sends nor reads for this long is let go.
const PATIENCE: Duration = Duration::from_secs(60);

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

#[cfg(test)]
mod tests;
