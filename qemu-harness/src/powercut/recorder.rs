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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::client::Client;
    use crate::powercut::protocol::{CMD_FLUSH, CMD_WRITE};
    use crate::powercut::testing::Scratch;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn connect(recorder: &Recorder) -> Client {
        Client::go(UnixStream::connect(recorder.socket()).expect("the server listens"))
    }

    fn lines(recording: &Recording) -> Vec<String> {
        let entries = recording.journal.entries();
        entries.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn clients_come_and_go_and_all_of_it_is_recorded() {
        let scratch = Scratch::new("recorder");
        let base = scratch.image(8);
        let recorder = Recorder::start(&base, scratch.path()).expect("a server");
        let (mut first, mut second) = (connect(&recorder), connect(&recorder));
        assert_eq!(first.write(0, &[1; 512], 0), 0);
        recorder.mark("both are here").expect("marked");
        assert_eq!(second.read(0, 512), Ok(vec![1; 512]));
        assert_eq!(second.call(CMD_FLUSH, 0, 0, 0), 0);
        first.leave();
        drop(second);
        assert_eq!(connect(&recorder).read(0, 512), Ok(vec![1; 512]));
        let socket = recorder.socket().to_owned();
        let recording = recorder.finish().expect("complete");
        let expected = ["write 0 512 0", "mark both are here", "flush 2"];
        assert_eq!(lines(&recording), expected);
        assert!(UnixStream::connect(socket).is_err(), "it still listens");
    }

    #[test]
    fn what_a_machine_sent_last_is_recorded_and_then_its_disk_is_gone() {
        let scratch = Scratch::new("last");
        let recorder = Recorder::start(&scratch.image(8), scratch.path()).expect("a server");
        let mut client = connect(&recorder);
        let mut requests = Vec::new();
        for sector in 0..4 {
            requests.extend(Client::request(CMD_WRITE, 0, sector * 512, 512));
            requests.extend([7; 512]);
        }
        // Nobody waits for the answers.
        client.stream.write_all(&requests).expect("sent");
        let recording = recorder.finish().expect("complete");
        assert_eq!(recording.journal.entries().len(), 4);
        let mut answers = Vec::new();
        client
            .stream
            .read_to_end(&mut answers)
            .expect("closed in order");
        assert_eq!(answers.len(), 4 * 16);
    }
}
