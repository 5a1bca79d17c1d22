//! A client of the server, for its tests.

use super::protocol::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

pub struct Client {
    pub stream: UnixStream,
    pub size: u64,
    pub flags: u16,
}

impl Client {
    /// Reads the server's greeting and answers with these flags.
    pub fn greet(stream: UnixStream, flags: u32) -> Self {
        let (size, export) = (0, 0);
        let mut client = Self {
            stream,
            size,
            flags: export,
        };
        assert_eq!(client.take(18), b"NBDMAGICIHAVEOPT\0\x03");
        client.stream.write_all(&flags.to_be_bytes()).expect("sent");
        client
    }

    /// The same up to the first request.
    pub fn go(stream: UnixStream) -> Self {
        let mut client = Self::greet(stream, 3);
        let replies = client.option(OPT_GO, &[0; 6]);
        let (_, export) = replies.first().expect("an export");
        client.size = u64::from_be_bytes(export[2..10].try_into().expect("a size"));
        client.flags = u16::from_be_bytes(export[10..].try_into().expect("flags"));
        client
    }

    pub fn send_option(&mut self, option: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).expect("short");
        let header = [
            &OPTION_MAGIC[..],
            &option.to_be_bytes(),
            &len.to_be_bytes(),
            data,
        ];
        self.stream.write_all(&header.concat()).expect("sent");
    }

    /// All replies to an option, up to the one that is no information.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data);
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.take(8), OPTION_REPLY_MAGIC.to_be_bytes());
            assert_eq!(self.number(), option);
            let kind = self.number();
            let len = usize::try_from(self.number()).expect("short");
            replies.push((kind, self.take(len)));
            if kind != REP_INFO {
                return replies;
            }
        }
    }

    pub fn request(command: u16, flags: u16, offset: u64, len: u32) -> Vec<u8> {
        [
            &REQUEST_MAGIC.to_be_bytes()[..],
            &flags.to_be_bytes(),
            &command.to_be_bytes(),
            b"a cookie",
            &offset.to_be_bytes(),
            &len.to_be_bytes(),
        ]
        .concat()
    }

    /// A request without payload, and the error it is answered with.
    pub fn call(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> u32 {
        let request = Self::request(command, flags, offset, len);
        self.stream.write_all(&request).expect("sent");
        self.answer()
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8], flags: u16) -> u32 {
        let len = u32::try_from(bytes.len()).expect("short");
        let mut request = Self::request(CMD_WRITE, flags, offset, len);
        request.extend(bytes);
        self.stream.write_all(&request).expect("sent");
        self.answer()
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        match self.call(CMD_READ, 0, offset, len) {
            0 => Ok(self.take(usize::try_from(len).expect("short"))),
            error => Err(error),
        }
    }

    pub fn answer(&mut self) -> u32 {
        assert_eq!(self.number(), REPLY_MAGIC);
        let error = self.number();
        assert_eq!(self.take(8), b"a cookie");
        error
    }

    pub fn leave(mut self) {
        let request = Self::request(CMD_DISC, 0, 0, 0);
        self.stream.write_all(&request).expect("sent");
        assert_eq!(self.stream.read(&mut [0]).expect("closed"), 0);
    }

    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("so many bytes");
        bytes
    }

    fn number(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }
}
