//! Records the disk of a running machine.

use super::device::Device;
use super::journal::Recording;
use super::server::Server;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A disk that is served and recorded. It outlives the machine: what the machine wrote last may
/// still be on its way when QEMU has ended.
#[derive(Debug)]
pub struct Recorder {
    device: Arc<Device>,
    server: Server,
    base: PathBuf,
    folder: PathBuf,
}

impl Recorder {
    /// Serves a disk that begins as the file `base`, which is only read and must stay as it is, and
    /// records it in `folder`.
    ///
    /// # Errors
    /// When `base` is no disk, `folder` has a recording, or there can be no socket.
    pub fn start(base: &Path, folder: &Path) -> Result<Self> {
        let device = Arc::new(Device::create(base, folder)?);
        Ok(Self {
            server: Server::start(Arc::clone(&device))?,
            device,
            base: base.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// The socket QEMU connects to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.server.path()
    }

    /// Puts a mark into the journal, for example when the machine told an event.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn mark(&self, text: &str) -> Result<()> {
        self.device
            .mark(text)
            .with_context(|| format!("cannot record the mark `{text}`"))
    }

    /// Ends the recording and gives it. The machine should be off: it has no disk from now on.
    ///
    /// # Errors
    /// When not everything could be recorded.
    pub fn finish(mut self) -> Result<Recording> {
        self.server.stop();
        if let Some(fault) = self.device.fault() {
            bail!("{}: {fault}", self.folder.display());
        }
        Recording::open(&self.base, &self.folder)
    }
}
