//! An Ethernet address.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Six bytes, written `52:54:00:12:34:56`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `None` unless there are exactly six bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Mac> {
        bytes.try_into().ok().map(Mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an Ethernet address, such as \"52:54:00:12:34:56\"")]
pub struct ParseMacError(String);

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Mac, ParseMacError> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| {
                let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
                u8::from_str_radix(part, 16).ok().filter(|_| digits)
            })
            .collect();
        bytes
            .and_then(|bytes| Mac::from_slice(&bytes))
            .ok_or_else(|| ParseMacError(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0xff]);
        assert_eq!(mac.to_string(), "52:54:00:12:34:ff");
        assert_eq!("52:54:00:12:34:FF".parse(), Ok(mac));
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5:54:00:12:34:56",
            "+5:54:00:12:34:56",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
