//! What an ELF file asks for: its interpreter and its shared libraries.
//!
//! The image holds only libraries that something in it needs, and the build fails when one is
//! missing. That is decided from the files themselves, not from package dependencies. Only
//! 64-bit little-endian files are read, the only kind the image can run.

use anyhow::{Context, Result, ensure};

/// Values of the ELF specification (gABI, "Program Header" and "Dynamic Section").
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// The links of one ELF file to others.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Links {
    /// The program interpreter, such as `/lib64/ld-linux-x86-64.so.2`.
    pub interpreter: Option<String>,
    /// The names of the shared libraries it is linked to.
    pub needed: Vec<String>,
}

/// Whether these bytes begin an ELF file.
#[must_use]
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Reads the links of an ELF file.
///
/// # Errors
/// When the file is not a 64-bit little-endian ELF file or its tables lead out of it.
pub fn links(bytes: &[u8]) -> Result<Links> {
    ensure!(is_elf(bytes), "not an ELF file");
    ensure!(
        bytes.get(4..6) == Some(&[2, 1]),
        "not a 64-bit little-endian ELF file"
    );
    let table = number(bytes, 32, 8)?;
    let entry = number(bytes, 54, 2)?;
    let count = number(bytes, 56, 2)?;
    let mut loads = Vec::new();
    let mut dynamic = None;
    let mut links = Links::default();
    for index in 0..count {
        let at = table
            .checked_add(index * entry)
            .context("program header out of range")?;
        let kind = u32::try_from(number(bytes, at, 4)?)?;
        let (offset, address, size) = (
            number(bytes, at + 8, 8)?,
            number(bytes, at + 16, 8)?,
            number(bytes, at + 32, 8)?,
        );
        match kind {
            PT_LOAD => loads.push((offset, address, size)),
            PT_DYNAMIC => dynamic = Some((offset, size)),
            PT_INTERP => links.interpreter = Some(string(bytes, offset)?),
            _ => {}
        }
    }
    let Some((offset, size)) = dynamic else {
        return Ok(links);
    };
    let mut names = Vec::new();
    let mut strings = None;
    for index in 0..size / 16 {
        let at = offset + index * 16;
        let (tag, value) = (number(bytes, at, 8)?, number(bytes, at + 8, 8)?);
        match tag {
            0 => break,
            DT_NEEDED => names.push(value),
            DT_STRTAB => strings = Some(value),
            _ => {}
        }
    }
    if names.is_empty() {
        return Ok(links);
    }
    // The string table is given by its address in memory.
    let address = strings.context("the dynamic section has no string table")?;
    let base = loads
        .iter()
        .find(|(_, start, size)| address >= *start && address - start < *size)
        .map(|(offset, start, _)| offset + (address - start))
        .context("the string table is in no segment")?;
    for name in names {
        links.needed.push(string(
            bytes,
            base.checked_add(name).context("name out of range")?,
        )?);
    }
    Ok(links)
}

fn number(bytes: &[u8], at: u64, width: usize) -> Result<u64> {
    let start = usize::try_from(at)?;
    let end = start.checked_add(width).context("offset out of range")?;
    let field = bytes
        .get(start..end)
        .context("the file ends inside a table")?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn string(bytes: &[u8], at: u64) -> Result<String> {
    let rest = bytes
        .get(usize::try_from(at)?..)
        .context("the file ends before a string")?;
    let end = rest
        .iter()
        .position(|byte| *byte == 0)
        .context("a string has no end")?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_names_its_libraries() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let links = links(&bytes).unwrap();
        assert!(
            links
                .interpreter
                .is_some_and(|path| path.contains("ld-linux"))
        );
        assert!(
            links.needed.iter().any(|name| name.starts_with("libc.so")),
            "{:?}",
            links.needed
        );
    }

    #[test]
    fn any_truncation_is_an_error_or_a_shorter_answer_never_a_panic() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let head = &bytes[..4096.min(bytes.len())];
        for length in 0..head.len() {
            let _ = links(&head[..length]);
        }
        let mut broken = head.to_vec();
        for at in 0..1024 {
            broken[at] ^= 0xff;
            let _ = links(&broken);
            broken[at] ^= 0xff;
        }
    }
}
