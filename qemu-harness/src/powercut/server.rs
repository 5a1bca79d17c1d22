//! Listens on a socket and gives each client a thread.

use super::device::Device;
use super::nbd;
use crate::qemu::Sockets;
use anyhow::{Context, Result};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// The name of the socket in its folder.
const SOCKET: &str = "disk";

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    _sockets: Sockets,
}

/// A client and the thread that serves it.
struct Client {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl Server {
    /// Serves `device`.
    ///
    /// # Errors
    /// When there can be no socket or no thread.
    pub fn start(device: Arc<Device>) -> Result<Self> {
        let sockets = Sockets::new()?;
        let listener = sockets.listen(SOCKET)?;
        listener.set_nonblocking(false)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("disk".into())
            .spawn(move || accept(&listener, &device, &stopped))
            .context("cannot start the server of the disk")?;
        Ok(Self {
            stop,
            thread: Some(thread),
            path: sockets.path(SOCKET),
            _sockets: sockets,
        })
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends all connections after what has arrived on them, and waits for that.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Wakes the accept; whoever it is sees the flag.
            let woken = UnixStream::connect(&self.path);
            if woken.is_ok() {
                // It has no state that a panic could spoil.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &UnixListener, device: &Arc<Device>, stop: &AtomicBool) {
    let mut clients: Vec<Client> = Vec::new();
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        clients.retain(|client| !client.thread.is_finished());
        // A client that could not be taken notices by itself.
        if let Ok(client) = stream.and_then(|stream| take(stream, device)) {
            clients.push(client);
        }
    }
    for client in clients {
        // Reading ends behind what has arrived. It fails when the client is gone already.
        let _ = client.stream.shutdown(Shutdown::Read);
        let _ = client.thread.join();
    }
}

fn take(stream: UnixStream, device: &Arc<Device>) -> std::io::Result<Client> {
    let ours = stream.try_clone()?;
    let device = Arc::clone(device);
    let thread = thread::Builder::new()
        .name("disk-client".into())
        .spawn(move || {
            // A client that leaves in the middle of a request is a machine without power.
            let _ = nbd::serve(ours, &device);
        })?;
    Ok(Client { stream, thread })
}
