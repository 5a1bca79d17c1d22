//! The numbers and the messages of the network block device protocol.

use super::SECTOR;

pub const SERVER_MAGIC: &[u8; 8] = b"NBDMAGIC";
pub const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const REPLY_MAGIC: u32 = 0x6744_6698;

/// `NBD_FLAG_FIXED_NEWSTYLE` and `NBD_FLAG_NO_ZEROES`, the same bits in both directions.
pub const NO_ZEROES: u32 = 1 << 1;
pub const HANDSHAKE_FLAGS: u32 = 1 | NO_ZEROES;
/// Zeros after the answer to `NBD_OPT_EXPORT_NAME` for a client that wants them.
pub const ZEROES: usize = 124;

pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_ABORT: u32 = 2;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;

pub const REP_ACK: u32 = 1;
pub const REP_INFO: u32 = 3;
pub const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
pub const REP_ERR_INVALID: u32 = (1 << 31) + 3;
pub const REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;
pub const REP_ERR_TOO_BIG: u32 = (1 << 31) + 9;
pub const INFO_EXPORT: u16 = 0;
pub const INFO_BLOCK_SIZE: u16 = 3;

/// `HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES`.
pub const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6;

pub const CMD_READ: u16 = 0;
pub const CMD_WRITE: u16 = 1;
pub const CMD_DISC: u16 = 2;
pub const CMD_FLUSH: u16 = 3;
pub const CMD_TRIM: u16 = 4;
pub const CMD_WRITE_ZEROES: u16 = 6;
pub const FLAG_FUA: u16 = 1;
pub const FLAG_NO_HOLE: u16 = 1 << 1;

pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;

/// No option has more data: names are at most 4096 bytes.
pub const OPTION_MAX: u32 = 64 * 1024;
/// The largest payload of a request, which is also what the document has clients assume.
pub const PAYLOAD_MAX: u32 = 32 * 1024 * 1024;
/// The preferred block size told: a page of the guest's file systems.
pub const PREFERRED: u32 = 4096;

/// A request without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl Request {
    pub fn parse(header: [u8; 28]) -> Option<Self> {
        let (magic, rest) = header.split_first_chunk()?;
        let (flags, rest) = rest.split_first_chunk()?;
        let (command, rest) = rest.split_first_chunk()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let request = Self {
            flags: u16::from_be_bytes(*flags),
            command: u16::from_be_bytes(*command),
            cookie: u64::from_be_bytes(*cookie),
            offset: u64::from_be_bytes(*offset),
            len: u32::from_be_bytes(*rest.first_chunk()?),
        };
        (u32::from_be_bytes(*magic) == REQUEST_MAGIC).then_some(request)
    }

    /// Whether it can be done on a disk of `size` bytes, and else which error says why not. A write beyond the
    /// end has an error of its own in the document.
    pub fn check(&self, size: u64) -> Result<(), u32> {
        let flags = match self.command {
            CMD_READ | CMD_WRITE | CMD_TRIM | CMD_FLUSH => FLAG_FUA,
            CMD_WRITE_ZEROES => FLAG_FUA | FLAG_NO_HOLE,
            _ => return Err(EINVAL),
        };
        if self.flags & !flags != 0 {
            return Err(EINVAL);
        }
        if self.command == CMD_FLUSH {
            let reserved = self.offset == 0 && self.len == 0;
            return if reserved { Ok(()) } else { Err(EINVAL) };
        }
        let len = u64::from(self.len);
        let payload = matches!(self.command, CMD_READ | CMD_WRITE);
        if len == 0 || !len.is_multiple_of(SECTOR) || !self.offset.is_multiple_of(SECTOR) {
            return Err(EINVAL);
        }
        if payload && self.len > PAYLOAD_MAX {
            return Err(EINVAL);
        }
        if self.offset.checked_add(len).is_none_or(|end| end > size) {
            let writes = matches!(self.command, CMD_WRITE | CMD_WRITE_ZEROES);
            return Err(if writes { ENOSPC } else { EINVAL });
        }
        Ok(())
    }

    pub fn has_fua(&self) -> bool {
        self.flags & FLAG_FUA != 0
    }
}

/// The name in the data of `NBD_OPT_GO`: its length, itself, a count, and so many numbers of infos.
pub fn export_of(data: &[u8]) -> Option<&[u8]> {
    let (len, rest) = data.split_first_chunk()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    let (name, rest) = rest.split_at_checked(len)?;
    let (count, infos) = rest.split_first_chunk()?;
    let count = usize::from(u16::from_be_bytes(*count));
    (infos.len() == count * 2).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 1 << 20;

    fn request(command: u16, offset: u64, len: u32) -> Request {
        let (flags, cookie) = (0, 0);
        Request {
            flags,
            command,
            cookie,
            offset,
            len,
        }
    }

    #[test]
    fn what_cannot_be_done_has_its_error() {
        for (request, expected) in [
            (request(CMD_READ, SIZE - 512, 512), Ok(())),
            (request(CMD_READ, SIZE - 512, 1024), Err(EINVAL)),
            (request(CMD_READ, u64::MAX - 511, 512), Err(EINVAL)),
            (request(CMD_READ, 0, 0), Err(EINVAL)),
            (request(CMD_READ, 1, 512), Err(EINVAL)),
            (request(CMD_READ, 0, 511), Err(EINVAL)),
            (request(CMD_WRITE, SIZE, 512), Err(ENOSPC)),
            (request(CMD_WRITE, 0, 33 << 20), Err(EINVAL)),
            (request(CMD_WRITE_ZEROES, SIZE, 512), Err(ENOSPC)),
            (request(CMD_TRIM, SIZE, 512), Err(EINVAL)),
            (request(CMD_FLUSH, 0, 0), Ok(())),
            (request(CMD_FLUSH, 512, 0), Err(EINVAL)),
            (request(7, 0, 512), Err(EINVAL)),
            (request(u16::MAX, 0, 512), Err(EINVAL)),
        ] {
            assert_eq!(request.check(SIZE), expected, "{request:?}");
        }
        // `NO_HOLE` only says something about zeroes, `FAST_ZERO` is not offered.
        let with = |flags, command| Request {
            flags,
            ..request(command, 0, 512)
        };
        assert_eq!(
            with(FLAG_NO_HOLE | FLAG_FUA, CMD_WRITE_ZEROES).check(SIZE),
            Ok(())
        );
        assert_eq!(with(FLAG_NO_HOLE, CMD_WRITE).check(SIZE), Err(EINVAL));
        assert_eq!(with(1 << 4, CMD_WRITE_ZEROES).check(SIZE), Err(EINVAL));
    }

    proptest! {
        #[test]
        fn what_is_done_is_on_the_disk(
            flags in 0..4_u16, command in 0..9_u16, offset in prop_oneof![0..2 * SIZE, any::<u64>()],
            len in prop_oneof![0..4_u32 << 20, any::<u32>()],
        ) {
            let request = Request { flags, command, cookie: 0, offset, len };
            if request.check(SIZE).is_ok() && command != CMD_FLUSH {
                prop_assert!(len > 0 && offset + u64::from(len) <= SIZE);
                prop_assert!(offset % 512 == 0 && len % 512 == 0);
            }
        }

        #[test]
        fn any_header_and_any_option_can_be_read(header: [u8; 28], data: Vec<u8>) {
            prop_assert!(Request::parse(header).is_none() || header.starts_with(&REQUEST_MAGIC.to_be_bytes()));
            let name = export_of(&data);
            prop_assert!(name.is_none_or(|name| name.len() + 6 <= data.len()));
        }
    }
}
