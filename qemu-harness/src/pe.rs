//! Reading a section out of a UKI, which is a PE file: its command line, for one.
//!
//! The roothash that counts is the one in the signed file, so that is where it is read from,
//! not from the log of the tool that wrote it.

use anyhow::{Context, Result, bail};

/// Where the PE header's offset stands, and the sizes of what follows (PE/COFF specification).
const LFANEW: usize = 0x3c;
const COFF_HEADER: usize = 24;
const SECTION_HEADER: usize = 40;

/// The contents of the section called `name`, without padding.
///
/// # Errors
/// When `bytes` is no PE file or has no such section.
pub fn section<'a>(bytes: &'a [u8], name: &str) -> Result<&'a [u8]> {
    let header = number(bytes, LFANEW, 4)?;
    if bytes.get(header..header + 4) != Some(b"PE\0\0") {
        bail!("not a PE file");
    }
    let count = number(bytes, header + 6, 2)?;
    let optional = number(bytes, header + 20, 2)?;
    let table = header + COFF_HEADER + optional;
    for index in 0..count {
        let at = table + index * SECTION_HEADER;
        let label = bytes
            .get(at..at + 8)
            .context("the section table is cut off")?;
        if label.split(|byte| *byte == 0).next() != Some(name.as_bytes()) {
            continue;
        }
        let (virtual_size, raw_size, start) = (
            number(bytes, at + 8, 4)?,
            number(bytes, at + 16, 4)?,
            number(bytes, at + 20, 4)?,
        );
        let size = virtual_size.min(raw_size);
        return bytes
            .get(start..start + size)
            .with_context(|| format!("section {name} is cut off"));
    }
    bail!("no section {name}")
}

/// The kernel command line embedded in a UKI.
///
/// # Errors
/// As [`section`].
pub fn command_line(bytes: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(section(bytes, ".cmdline")?);
    Ok(text.trim_end_matches(['\0', '\n', ' ']).to_owned())
}

fn number(bytes: &[u8], at: usize, width: usize) -> Result<usize> {
    let field = bytes
        .get(at..at.checked_add(width).context("offset out of range")?)
        .context("the file is cut off")?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[LFANEW] = 0x40;
        bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
        bytes[0x46] = 1;
        let at = 0x40 + COFF_HEADER;
        bytes[at..at + 8].copy_from_slice(b".cmdline");
        bytes[at + 8] = 5;
        bytes[at + 16] = 64;
        bytes[at + 21] = 1;
        bytes[256..262].copy_from_slice(b"a=b\n\0x");
        bytes
    }

    #[test]
    fn the_command_line_is_found_without_padding() {
        assert_eq!(command_line(&sample()).unwrap(), "a=b");
    }

    #[test]
    fn broken_files_are_errors() {
        let good = sample();
        for length in 0..256 {
            assert!(command_line(&good[..length]).is_err(), "{length}");
        }
        assert!(section(&good, ".linux").is_err());
        assert!(section(b"MZ", ".cmdline").is_err());
    }
}
