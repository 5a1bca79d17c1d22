//! What a unified kernel image (UAPI.5) is: read from its PE sections, bounded.
//!
//! A UKI is a PE32+ program whose sections are the kernel, its command line, os-release and so on. Only the
//! headers and two small sections are read; the rest must merely lie within the file. So a file that was
//! cut short is told from a whole one without reading all of it; that each byte is right is for whoever
//! has its hash.
//!
//! `.osrel` says the image and its version, which are what the loader sorts by; `.cmdline` has the
//! roothash, and with it which slot this is. A UKI of several profiles has these sections
//! more than once; ours has one, and a second one is refused since it could say something else.

use crate::cmdline::Cmdline;
use std::os::unix::fs::FileExt;

/// The headers of any UKI fit: the DOS stub and PE headers take a few hundred bytes, a section header 40.
const HEADERS_MAX: usize = 8 * 1024;

/// The most sections that Windows' loader takes (PE format specification, "COFF File Header"); a UKI has ten.
const SECTIONS_MAX: u16 = 96;

/// The most of `.osrel` and of `.cmdline`.
const TEXT_MAX: u64 = 64 * 1024;

/// No file name of an entry could hold more.
const NAME_MAX: usize = 64;

/// What a UKI says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uki {
    /// `IMAGE_ID` of its os-release.
    pub image: String,
    /// `IMAGE_VERSION` of its os-release.
    pub version: String,
    /// `roothash=` of its command line.
    pub roothash: [u8; 32],
}

/// A section: its name and where its bytes are in the file.
struct Section {
    name: [u8; 8],
    at: u64,
    len: u64,
}

/// Reads a UKI of `len` bytes.
///
/// # Errors
/// What is wrong with it, and in which part.
pub fn read(file: &impl FileExt, len: u64) -> Result<Uki, String> {
    let sections = sections(file, len)?;
    one(&sections, ".linux")?;
    let osrel = text(file, one(&sections, ".osrel")?, ".osrel")?;
    let cmdline = text(file, one(&sections, ".cmdline")?, ".cmdline")?;
    let name = |key: &str| {
        let value = os_release(&osrel, key).ok_or_else(|| format!(".osrel: no {key}="))?;
        if is_name(&value) {
            Ok(value)
        } else {
            Err(format!(
                ".osrel: {key}={value:?} must be 1 to {NAME_MAX} of the characters a-z A-Z 0-9 . _ ~ ^ -"
            ))
        }
    };
    let line = Cmdline::parse(&cmdline);
    if let Some(problem) = line.problems.first() {
        return Err(format!(".cmdline: {problem}"));
    }
    Ok(Uki {
        image: name("IMAGE_ID")?,
        version: name("IMAGE_VERSION")?,
        roothash: line.roothash.ok_or(".cmdline: no roothash=")?,
    })
}

/// Whether a name or version may be part of an entry's file name: what UAPI.10 lets a version have and
/// `_`, and no `+`, which is the loader's.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._~^-".contains(&b))
}

/// The value of a key in the text of an os-release file (os-release(5)): the last assignment counts,
/// quotes and backslashes are the shell's.
#[must_use]
pub fn os_release(text: &str, key: &str) -> Option<String> {
    let assigned = |line: &str| Some(line.trim().strip_prefix(key)?.strip_prefix('=')?.to_owned());
    let raw = text.lines().filter_map(assigned).next_back()?;
    let mut value = String::with_capacity(raw.len());
    let mut quote = None;
    let mut characters = raw.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => value.extend(characters.next()),
            ('"' | '\'', None) => quote = Some(c),
            (_, Some(open)) if c == open => quote = None,
            _ => value.push(c),
        }
    }
    quote.is_none().then_some(value)
}

/// Reads the headers and checks that all they point to is in the file.
///
/// Offsets are those of the PE format specification ("MS-DOS Stub", "COFF File Header", "Optional
/// Header", "Section Table").
fn sections(file: &impl FileExt, len: u64) -> Result<Vec<Section>, String> {
    let mut headers = vec![0; usize::try_from(len).map_or(HEADERS_MAX, |l| l.min(HEADERS_MAX))];
    file.read_exact_at(&mut headers, 0)
        .map_err(|e| format!("PE headers: {e}"))?;
    let short = || format!("PE headers: cut short, or longer than {HEADERS_MAX} bytes");
    if !headers.starts_with(b"MZ") {
        return Err("PE headers: no MZ at the start: not a PE program".into());
    }
    let pe = usize::try_from(u32_at(&headers, 0x3c).ok_or_else(short)?).map_err(|_| short())?;
    let headers = headers.get(pe..).ok_or_else(short)?;
    if headers.get(..4).ok_or_else(short)? != b"PE\0\0" {
        return Err(format!("PE headers: no PE signature at {pe:#x}"));
    }
    let count = u16_at(headers, 6).ok_or_else(short)?;
    let optional = usize::from(u16_at(headers, 20).ok_or_else(short)?);
    if count == 0 || count > SECTIONS_MAX {
        return Err(format!(
            "PE headers: {count} sections; 1 to {SECTIONS_MAX} are known"
        ));
    }
    let (optional, table) = headers
        .get(24..)
        .and_then(|rest| rest.split_at_checked(optional))
        .ok_or_else(short)?;
    signature(optional, len)?;
    let table = table.get(..usize::from(count) * 40).ok_or_else(short)?;
    table
        .chunks_exact(40)
        .map(|header| section(header, len).ok_or_else(short)?)
        .collect()
}

/// An embedded signature is no section, but the firmware reads it where the headers say it is
/// (data directory 4, "Certificate Table": here an address is a place in the file).
fn signature(optional: &[u8], len: u64) -> Result<(), String> {
    if u16_at(optional, 0) != Some(0x20b) {
        return Err("PE headers: not PE32+, the format of 64-bit programs".into());
    }
    let directories = u32_at(optional, 108).unwrap_or(0);
    let (Some(at), Some(size)) = (u32_at(optional, 144), u32_at(optional, 148)) else {
        return Ok(());
    };
    if directories > 4 && size > 0 && u64::from(at) + u64::from(size) > len {
        return Err(format!(
            "PE headers: the signature ends at byte {}, the file at {len}: it was cut short",
            u64::from(at) + u64::from(size)
        ));
    }
    Ok(())
}

fn section(header: &[u8], len: u64) -> Option<Result<Section, String>> {
    let name = *header.first_chunk::<8>()?;
    let virtual_size = u64::from(u32_at(header, 8)?);
    let raw_size = u64::from(u32_at(header, 16)?);
    let at = u64::from(u32_at(header, 20)?);
    if raw_size > 0 && at + raw_size > len {
        return Some(Err(format!(
            "section {}: ends at byte {}, the file at {len}: it was cut short",
            show(&name),
            at + raw_size
        )));
    }
    // In the file a section is padded to the alignment; its own length is the virtual one.
    let len = raw_size.min(virtual_size);
    Some(Ok(Section { name, at, len }))
}

fn show(name: &[u8; 8]) -> String {
    let text = name.split(|b| *b == 0).next().unwrap_or_default();
    text.escape_ascii().to_string()
}

fn one<'a>(sections: &'a [Section], name: &str) -> Result<&'a Section, String> {
    let mut padded = [0; 8];
    padded
        .iter_mut()
        .zip(name.bytes())
        .for_each(|(to, from)| *to = from);
    let mut fitting = sections.iter().filter(|s| s.name == padded);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) if one.len > 0 => Ok(one),
        (Some(_), None) => Err(format!("section {name}: empty")),
        (None, _) => Err(format!("section {name}: missing: not a UKI")),
        (Some(_), Some(_)) => Err(format!("section {name}: there twice")),
    }
}

fn text(file: &impl FileExt, section: &Section, name: &str) -> Result<String, String> {
    if section.len > TEXT_MAX {
        return Err(format!(
            "section {name}: {} bytes; {TEXT_MAX} is the most",
            section.len
        ));
    }
    let mut bytes = vec![0; usize::try_from(section.len).unwrap_or(0)];
    file.read_exact_at(&mut bytes, section.at)
        .map_err(|e| format!("section {name}: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("section {name}: not UTF-8"))?;
    Ok(text.trim_end_matches('\0').to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
pub(super) mod tests;
