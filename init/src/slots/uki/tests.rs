//! A small UKI made by hand, whole and damaged in every way.

use super::*;
use proptest::prelude::*;
use std::io;

struct Bytes<'a>(&'a [u8]);

impl FileExt for Bytes<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|o| self.0.get(o..))
            .unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        unreachable!("the reader writes nothing")
    }
}

fn judge(bytes: &[u8]) -> Result<Uki, String> {
    read(&Bytes(bytes), u64::try_from(bytes.len()).unwrap())
}

fn u32_of(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap().to_le_bytes()
}

/// A PE32+ program of these sections, each padded to 512 bytes, and a signature of 8 bytes after them.
fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const PE: usize = 0x80;
    const OPTIONAL: usize = 112 + 8 * 16;
    let mut file = vec![0; 1024];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c..0x40].copy_from_slice(&u32_of(PE));
    file[PE..PE + 4].copy_from_slice(b"PE\0\0");
    file[PE + 6] = u8::try_from(sections.len()).unwrap();
    file[PE + 20] = u8::try_from(OPTIONAL).unwrap();
    file[PE + 24..PE + 26].copy_from_slice(&[0x0b, 0x02]);
    file[PE + 24 + 108] = 16;
    for (number, (name, bytes)) in sections.iter().enumerate() {
        let (at, padded) = (file.len(), bytes.len().next_multiple_of(512));
        let header = PE + 24 + OPTIONAL + 40 * number;
        file[header..header + name.len()].copy_from_slice(name.as_bytes());
        file[header + 8..header + 12].copy_from_slice(&u32_of(bytes.len()));
        file[header + 16..header + 20].copy_from_slice(&u32_of(padded));
        file[header + 20..header + 24].copy_from_slice(&u32_of(at));
        file.extend(*bytes);
        file.resize(at + padded, 0);
    }
    let at = u32_of(file.len());
    file[PE + 24 + 144..PE + 24 + 148].copy_from_slice(&at);
    file[PE + 24 + 148] = 8;
    file.extend([0xcc; 8]);
    file
}

/// A whole UKI of the image `os` that says this.
pub fn uki(version: &str, roothash: &[u8; 32]) -> Vec<u8> {
    let osrel = format!("ID=x\nIMAGE_ID=os\nIMAGE_VERSION=\"{version}\"\n");
    let roothash = crate::initramfs::verity::hex(roothash);
    let cmdline = format!("quiet roothash={roothash} panic=5\0");
    pe(&[
        (".text", b"stub"),
        (".osrel", osrel.as_bytes()),
        (".cmdline", cmdline.as_bytes()),
        (".linux", b"kernel"),
    ])
}

fn with(osrel: &str, cmdline: &str) -> Result<Uki, String> {
    judge(&pe(&[
        (".osrel", osrel.as_bytes()),
        (".cmdline", cmdline.as_bytes()),
        (".linux", b"kernel"),
    ]))
}

#[test]
fn a_whole_uki_is_read() {
    let expected = Uki {
        image: "os".into(),
        version: "1.2~rc1".into(),
        roothash: [0xab; 32],
    };
    assert_eq!(judge(&uki("1.2~rc1", &[0xab; 32])), Ok(expected));
}

#[test]
fn what_is_missing_or_there_twice_is_named() {
    let [osrel, cmdline, linux]: [(&str, &[u8]); 3] = [
        (".osrel", b"IMAGE_ID=os\nIMAGE_VERSION=1\n"),
        (".cmdline", b"roothash="),
        (".linux", b"kernel"),
    ];
    let say = |sections: &[(&str, &[u8])]| judge(&pe(sections)).unwrap_err();
    assert_eq!(say(&[linux, cmdline]), "section .osrel: missing: not a UKI");
    assert_eq!(say(&[linux, osrel]), "section .cmdline: missing: not a UKI");
    assert_eq!(say(&[osrel, cmdline]), "section .linux: missing: not a UKI");
    assert_eq!(
        say(&[linux, cmdline, osrel, osrel]),
        "section .osrel: there twice"
    );
    assert_eq!(
        say(&[(".linux", b""), cmdline, osrel]),
        "section .linux: empty"
    );
    let long = vec![b'x'; 64 * 1024 + 1];
    assert_eq!(
        say(&[linux, cmdline, (".osrel", &long)]),
        "section .osrel: 65537 bytes; 65536 is the most"
    );
    assert_eq!(
        say(&[linux, cmdline, (".osrel", &[0xff])]),
        "section .osrel: not UTF-8"
    );
}

#[test]
fn os_release_is_read_like_the_shell_does() {
    let a = "ab".repeat(32);
    let line = format!("roothash={a}");
    let version = |osrel: &str| with(osrel, &line).map(|uki| uki.version);
    assert_eq!(
        version("IMAGE_ID=os\nIMAGE_VERSION=1\n#IMAGE_VERSION=2\nXIMAGE_VERSION=3\n"),
        Ok("1".into())
    );
    assert_eq!(
        version("IMAGE_VERSION=1\nIMAGE_VERSION='2'\nIMAGE_ID=\"o\\s\""),
        Ok("2".into())
    );
    assert_eq!(
        version("IMAGE_ID=os"),
        Err(".osrel: no IMAGE_VERSION=".into())
    );
    assert_eq!(
        version("IMAGE_VERSION=1"),
        Err(".osrel: no IMAGE_ID=".into())
    );
    for bad in ["", "a+1", "a b", "\"1", "../1", &"9".repeat(65)] {
        let error = version(&format!("IMAGE_ID=os\nIMAGE_VERSION={bad}")).unwrap_err();
        assert!(error.contains("IMAGE_VERSION"), "{error}");
    }
    assert_eq!(os_release("A='it'\\''s'", "A"), Some("it's".into()));
    assert_eq!(os_release("A=\"a'b\\\"c\"", "A"), Some("a'b\"c".into()));
}

#[test]
fn the_roothash_is_that_of_the_boot() {
    let osrel = "IMAGE_ID=os\nIMAGE_VERSION=1\n";
    let (a, b) = ("ab".repeat(32), "cd".repeat(32));
    let hash = |line: &str| with(osrel, line).map(|uki| uki.roothash);
    assert_eq!(hash(&format!("x roothash={a}\n\0\0")), Ok([0xab; 32]));
    assert_eq!(hash("quiet"), Err(".cmdline: no roothash=".into()));
    assert!(
        hash(&format!("roothash={a} roothash={b}"))
            .unwrap_err()
            .contains("different")
    );
    assert!(hash("roothash=ab").unwrap_err().contains("64 hexadecimal"));
}

#[test]
fn what_is_no_pe_is_told() {
    let whole = uki("1", &[1; 32]);
    let say = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        judge(&bytes).unwrap_err()
    };
    assert!(say(0, 0).contains("no MZ"));
    assert!(say(0x80, 0).contains("no PE signature at 0x80"));
    assert!(say(0x86, 0).contains("0 sections"));
    assert!(say(0x86, 97).contains("97 sections"));
    assert!(say(0x98, 0).contains("not PE32+"));
    assert!(say(0x3d, 0xff).contains("cut short, or longer"));
    assert!(say(0x95, 0x7f).contains("cut short, or longer"));
    assert!(judge(b"").is_err());
}

proptest! {
    #[test]
    fn a_uki_that_was_cut_is_an_error(cut in 1usize..4_000) {
        let whole = uki("1", &[1; 32]);
        let left = whole.len().saturating_sub(cut);
        prop_assert!(judge(&whole[..left]).is_err());
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(judge(&bytes).is_err());
    }

    /// Damage of the headers, which is where the reader could be led astray.
    #[test]
    fn any_damage_is_survived(damage in proptest::collection::vec((0usize..1024, any::<u8>()), 1..8)) {
        let mut bytes = uki("1", &[1; 32]);
        for (at, value) in damage {
            bytes[at] = value;
        }
        if let Ok(uki) = judge(&bytes) {
            prop_assert!(is_name(&uki.version) && is_name(&uki.image));
        }
    }
}
