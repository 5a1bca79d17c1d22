//! The network block device protocol, as much of it as QEMU needs, from the server's side.
//!
//! The document is `doc/proto.md` of the nbd project: the fixed newstyle handshake with `NBD_OPT_GO`, `INFO`,
//! `EXPORT_NAME` and `ABORT`, then requests with simple replies. There is one export, the default one
//! without a name. Structured replies, TLS and block status are not offered, so a client does without.
//! Requests of a connection are done one after the other in the order of their arrival. Whatever a
//! client asks, it is answered with an error or disconnected.

use super::SECTOR;
use super::device::Device;
use super::protocol::*;
use super::wire::Wire;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Serves one client until it is gone.
///
/// # Errors
/// When it ends in the middle of something, or does not speak the protocol.
pub fn serve(stream: UnixStream, device: &Arc<Device>) -> io::Result<()> {
    let mut session = Session {
        wire: Wire::new(stream, Arc::clone(device)),
        device: Arc::clone(device),
    };
    let result = session.run();
    // Whoever else has the socket does not keep the client waiting for its end.
    session.wire.close();
    result
}

struct Session {
    wire: Wire,
    device: Arc<Device>,
}

impl Session {
    fn run(&mut self) -> io::Result<()> {
        if self.handshake()? {
            while self.request()? {}
        }
        Ok(())
    }

    /// True when requests follow.
    fn handshake(&mut self) -> io::Result<bool> {
        let flags = u16::try_from(HANDSHAKE_FLAGS).unwrap_or_default();
        let greeting = [&SERVER_MAGIC[..], OPTION_MAGIC, &flags.to_be_bytes()];
        self.wire.send(&greeting.concat())?;
        let flags = u32::from_be_bytes(self.wire.array()?);
        if flags & !HANDSHAKE_FLAGS != 0 {
            return Err(violation("flags of the handshake"));
        }
        loop {
            if self.wire.array()? != *OPTION_MAGIC {
                return Err(violation("magic of an option"));
            }
            let option = u32::from_be_bytes(self.wire.array()?);
            let len = u32::from_be_bytes(self.wire.array()?);
            if len > OPTION_MAX {
                self.reply(option, REP_ERR_TOO_BIG, &[])?;
                return Ok(false);
            }
            let data = self.wire.take(usize::try_from(len).unwrap_or(0))?.to_vec();
            match option {
                OPT_EXPORT_NAME if data.is_empty() => {
                    let zeroes = if flags & NO_ZEROES == 0 { ZEROES } else { 0 };
                    self.wire.send(&[self.export(), vec![0; zeroes]].concat())?;
                    return Ok(true);
                }
                // This option has no way to tell an error.
                OPT_EXPORT_NAME => return Ok(false),
                OPT_ABORT => {
                    self.reply(option, REP_ACK, &[])?;
                    return Ok(false);
                }
                OPT_GO | OPT_INFO => match export_of(&data) {
                    None => self.reply(option, REP_ERR_INVALID, &[])?,
                    Some(b"") => {
                        self.tell(option)?;
                        if option == OPT_GO {
                            return Ok(true);
                        }
                    }
                    Some(_) => self.reply(option, REP_ERR_UNKNOWN, &[])?,
                },
                _ => self.reply(option, REP_ERR_UNSUP, &[])?,
            }
        }
    }

    /// Size and flags of the export.
    fn export(&self) -> Vec<u8> {
        let size = self.device.size().to_be_bytes();
        [&size[..], &EXPORT_FLAGS.to_be_bytes()].concat()
    }

    /// The answer to `NBD_OPT_INFO` and `NBD_OPT_GO`.
    fn tell(&mut self, option: u32) -> io::Result<()> {
        let export = [&INFO_EXPORT.to_be_bytes()[..], &self.export()].concat();
        self.reply(option, REP_INFO, &export)?;
        let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        let least = u32::try_from(SECTOR).unwrap_or(PREFERRED);
        for size in [least, PREFERRED, PAYLOAD_MAX] {
            sizes.extend(size.to_be_bytes());
        }
        self.reply(option, REP_INFO, &sizes)?;
        self.reply(option, REP_ACK, &[])
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).unwrap_or_default();
        let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        for number in [option, kind, len] {
            reply.extend(number.to_be_bytes());
        }
        reply.extend(data);
        self.wire.send(&reply)
    }

    /// Does one request; false when the client has taken its leave.
    fn request(&mut self) -> io::Result<bool> {
        if !self.wire.more()? {
            return Ok(false);
        }
        let settled = self.wire.arrival();
        let header = self.wire.array()?;
        let request = Request::parse(header).ok_or_else(|| violation("magic of a request"))?;
        if request.command == CMD_DISC {
            return Ok(false);
        }
        if let Err(error) = request.check(self.device.size()) {
            // The payload comes whatever we think of it.
            if request.command == CMD_WRITE {
                self.wire.skip(request.len.into())?;
            }
            self.answer(request.cookie, error, &[])?;
            return Ok(true);
        }
        let len = usize::try_from(request.len).unwrap_or(0);
        match request.command {
            CMD_READ => {
                let mut bytes = vec![0; len];
                let read = self.device.read(request.offset, &mut bytes);
                let sent = read.as_ref().map_or(&[][..], |()| &bytes);
                self.answer(request.cookie, code(&read), sent)?;
            }
            CMD_FLUSH => {
                let flushed = self.device.flush(settled);
                self.answer(request.cookie, code(&flushed), &[])?;
            }
            CMD_WRITE => {
                let bytes = self.wire.take(len)?;
                let written = self.device.write(request.offset, bytes, request.has_fua());
                self.changed(request.cookie, &written)?;
            }
            _ => {
                let trim = request.command == CMD_TRIM;
                let (offset, len) = (request.offset, request.len.into());
                let zeroed = self.device.zero(offset, len, trim, request.has_fua());
                self.changed(request.cookie, &zeroed)?;
            }
        }
        Ok(true)
    }

    /// Answers a request that changed the disk.
    fn changed(&mut self, cookie: u64, result: &io::Result<usize>) -> io::Result<()> {
        let drained = self.wire.drain();
        // Before the answer, not after it: once it is out, a flush may come on any connection. And
        // when the client is gone, nobody waits for it.
        if let Ok(index) = result {
            self.device.answered(*index);
        }
        drained.and_then(|()| self.answer(cookie, code(result), &[]))
    }

    fn answer(&mut self, cookie: u64, error: u32, data: &[u8]) -> io::Result<()> {
        let mut reply = Vec::with_capacity(16 + data.len());
        reply.extend(REPLY_MAGIC.to_be_bytes());
        reply.extend(error.to_be_bytes());
        reply.extend(cookie.to_be_bytes());
        reply.extend(data);
        self.wire.send(&reply)
    }
}

fn code<T>(result: &io::Result<T>) -> u32 {
    if result.is_ok() { 0 } else { EIO }
}

fn violation(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no NBD: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::client::Client;
    use crate::powercut::entry::Entry;
    use crate::powercut::journal::Recording;
    use crate::powercut::testing::Scratch;
    use std::io::{Read, Write};
    use std::path::PathBuf;
    use std::thread::JoinHandle;

    /// A disk of 16 sectors and a client of it.
    struct Rig {
        scratch: Scratch,
        base: PathBuf,
        thread: JoinHandle<io::Result<()>>,
    }

    impl Rig {
        fn new() -> (Self, UnixStream) {
            let scratch = Scratch::new("nbd");
            let base = scratch.image(16);
            let device = Device::create(&base, scratch.path()).expect("a disk");
            let (client, server) = UnixStream::pair().expect("a socket pair");
            let thread = std::thread::spawn(move || serve(server, &Arc::new(device)));
            (
                Self {
                    scratch,
                    base,
                    thread,
                },
                client,
            )
        }

        /// What the session ended with, and what was recorded.
        fn end(self) -> (io::Result<()>, Vec<Entry>) {
            let result = self.thread.join().expect("no panic");
            let recording = Recording::open(&self.base, self.scratch.path()).expect("a recording");
            (result, recording.journal.entries().to_vec())
        }
    }

    #[test]
    fn requests_are_done_answered_and_recorded() {
        let (rig, stream) = Rig::new();
        let mut client = Client::go(stream);
        assert_eq!((client.size, client.flags), (8192, 0b110_1101));
        assert_eq!(client.read(512, 512), Ok(vec![101; 512]));
        assert_eq!(client.write(0, &[1; 1024], 0), 0);
        assert_eq!(client.write(512, &[2; 512], FLAG_FUA), 0);
        assert_eq!(client.call(CMD_FLUSH, 0, 0, 0), 0);
        assert_eq!(client.call(CMD_TRIM, 0, 0, 512), 0);
        assert_eq!(
            client.call(CMD_WRITE_ZEROES, FLAG_NO_HOLE | FLAG_FUA, 1024, 1024),
            0
        );
        let read = client.read(0, 2048).expect("on the disk");
        let sectors: Vec<u8> = read.into_iter().step_by(512).collect();
        assert_eq!(sectors, [0, 2, 0, 0]);
        client.leave();
        let (result, entries) = rig.end();
        result.expect("left in order");
        let lines: Vec<String> = entries.iter().map(ToString::to_string).collect();
        let expected = [
            "write 0 1024 0",
            "write 512 512 1024 fua",
            "flush 2",
            "trim 0 512",
            "zero 1024 1024 fua",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn bad_requests_are_answered_and_leave_no_trace() {
        let (rig, stream) = Rig::new();
        let mut client = Client::go(stream);
        assert_eq!(client.write(1, &[1; 512], 0), EINVAL);
        assert_eq!(client.write(0, &[1; 100], 0), EINVAL);
        assert_eq!(client.write(8192, &[1; 512], 0), ENOSPC);
        assert_eq!(client.write(u64::MAX, &[1; 512], FLAG_NO_HOLE), EINVAL);
        assert_eq!(client.read(8192, 512), Err(EINVAL));
        for command in [4, 5, 7, 8, 99] {
            assert_eq!(client.call(command, 0, 3, 9), EINVAL);
        }
        // More than a payload may have, drained nevertheless.
        assert_eq!(client.write(0, &vec![1; (32 << 20) + 512], 0), EINVAL);
        assert_eq!(client.read(0, 512), Ok(vec![100; 512]));
        client.leave();
        let (result, entries) = rig.end();
        result.expect("left in order");
        assert_eq!(entries, []);
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it_was_sent() {
        let (rig, stream) = Rig::new();
        let mut client = Client::go(stream);
        assert_eq!(client.write(0, &[1; 512], 0), 0);
        // One packet: the flush is asked for before the second write is answered.
        let mut both = Client::request(CMD_WRITE, 0, 512, 512);
        both.extend([2; 512]);
        both.extend(Client::request(CMD_FLUSH, 0, 0, 0));
        client.stream.write_all(&both).expect("sent");
        assert_eq!((client.answer(), client.answer()), (0, 0));
        assert_eq!(client.call(CMD_FLUSH, 0, 0, 0), 0);
        client.leave();
        let covers: Vec<usize> = rig
            .end()
            .1
            .iter()
            .filter_map(|entry| match entry {
                Entry::Flush { covers } => Some(*covers),
                _ => None,
            })
            .collect();
        assert_eq!(covers, [1, 3]);
    }

    #[test]
    fn options_are_negotiated() {
        let (rig, stream) = Rig::new();
        let mut client = Client::greet(stream, 3);
        let named = |name: &[u8], infos: u16| {
            let len = u32::try_from(name.len()).expect("short");
            let mut data = [&len.to_be_bytes()[..], name, &infos.to_be_bytes()].concat();
            data.extend(vec![0; usize::from(infos) * 2]);
            data
        };
        // Structured replies, TLS, a list, and one nobody knows.
        for option in [8, 5, 3, 77] {
            assert_eq!(client.option(option, b"x"), [(REP_ERR_UNSUP, vec![])]);
        }
        let other = client.option(OPT_GO, &named(b"other", 0));
        assert_eq!(other, [(REP_ERR_UNKNOWN, vec![])]);
        for bad in [&b""[..], &[0; 5], &[255; 10], &[0, 0, 0, 0, 0, 2, 0, 3]] {
            assert_eq!(client.option(OPT_INFO, bad), [(REP_ERR_INVALID, vec![])]);
        }
        let info = client.option(OPT_INFO, &named(b"", 3));
        let mut sizes = vec![0, 3];
        sizes.extend([0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0]);
        let export = vec![0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0b110_1101];
        let expected = [(REP_INFO, export), (REP_INFO, sizes), (REP_ACK, vec![])];
        assert_eq!(info, expected);
        assert_eq!(client.option(OPT_ABORT, b""), [(REP_ACK, vec![])]);
        rig.end().0.expect("ended in order");
    }

    #[test]
    fn the_old_option_gives_the_export_too() {
        for (flags, zeroes) in [(3_u32, 0), (1, 124)] {
            let (rig, stream) = Rig::new();
            let mut client = Client::greet(stream, flags);
            client.send_option(OPT_EXPORT_NAME, b"");
            let export: Vec<u8> = client.take(10 + zeroes);
            assert_eq!(export[..10], [0, 0, 0, 0, 0, 0, 32, 0, 0, 0b110_1101]);
            assert_eq!(client.read(0, 512), Ok(vec![100; 512]));
            drop(client);
            rig.end().0.expect("ended in order");
        }
    }

    #[test]
    fn what_is_no_nbd_is_disconnected() {
        let hello = [&3_u32.to_be_bytes()[..], OPTION_MAGIC].concat();
        let go = [&hello, &OPT_GO.to_be_bytes()[..], &[0, 0, 0, 6], &[0; 6]].concat();
        let name = [&hello, &OPT_EXPORT_NAME.to_be_bytes()[..], b"\0\0\0\x01x"].concat();
        let big = [&hello, &OPT_GO.to_be_bytes()[..], &[255; 4]].concat();
        for (sent, in_order) in [
            (&b""[..], false),
            (&[255; 4], false),
            (b"\0\0\0\x03GET / HTTP/1.1", false),
            (&name, true),
            (&big, true),
            (&[&go[..], &[7; 28]].concat(), false),
            (&[&go[..], &[7; 20]].concat(), false),
            (&go, true),
        ] {
            let (rig, mut client) = Rig::new();
            client.write_all(sent).expect("sent");
            client
                .shutdown(std::net::Shutdown::Write)
                .expect("connected");
            // Until it has closed as well.
            let mut answers = Vec::new();
            let _ = client.read_to_end(&mut answers);
            let (result, entries) = rig.end();
            assert_eq!(result.is_ok(), in_order, "{sent:?}: {result:?}");
            assert_eq!(entries, []);
        }
    }
}
