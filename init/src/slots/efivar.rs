//! The loader's variables (Boot Loader Interface): what the firmware did in this boot, and what it
//! is to do in the next one.
//!
//! In efivarfs a variable is a file `NAME-VENDOR`: 4 bytes of attributes, then the value (kernel:
//! `Documentation/filesystems/efivarfs.rst`). Texts are UTF-16LE and end with a NUL. Files of variables
//! that the kernel does not know to be harmless are immutable, so that no stray `rm -r` makes a brick of a
//! machine; the flag is taken off before one is written or removed. A write is the whole variable or
//! nothing: one write(2).
//!
//! Without this firmware there is nothing to read, which is no error: the machine was started in another way.

use crate::devices::gpt::Guid;
use base::beneath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where the kernel has the variables.
pub const DIRECTORY: &str = "/sys/firmware/efi/efivars";

/// Vendor of the Boot Loader Interface.
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The entry that the next boot starts, once.
const ONE_SHOT: &str = "LoaderEntryOneShot";

/// Non-volatile, for boot services and for the running system (UEFI specification 2.10, section 8.2.1).
const ATTRIBUTES: [u8; 4] = 7u32.to_le_bytes();

/// Bytes of a variable that are read: attributes and a path of 1022 characters.
const SIZE_MAX: u64 = 2048;

/// What the loader and the stub said about this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootVariables {
    /// `LoaderBootCountPath`: the file name of the entry as it is after the loader counted this boot; none
    /// if it did not count.
    pub count_path: Option<String>,
    /// `LoaderEntryOneShot`: the entry that the next boot starts, once.
    pub one_shot: Option<String>,
    /// `LoaderEntrySelected`: the id of the entry, as it was before the loader counted.
    pub selected: Option<String>,
    /// `LoaderDevicePartUUID`: the partition that the loader came from.
    pub device: Option<Guid>,
    /// `StubImageIdentifier`: the file name of the UKI that was started.
    pub stub_image: Option<String>,
    /// `LoaderInfo`: the loader and its version, as `systemd-boot 257.9-1`.
    pub loader: Option<String>,
}

/// Reads the variables below `dir`, each if it is there and makes sense.
#[must_use]
pub fn read(dir: &Path) -> BootVariables {
    let value = |name: &str| text(&bytes(dir, name).ok()?);
    // Paths of the firmware have backslashes (UEFI specification 2.10, section 3.1.3).
    let file = |path: String| path.rsplit(['\\', '/']).next().map(str::to_owned);
    BootVariables {
        count_path: value("LoaderBootCountPath").and_then(file),
        one_shot: value(ONE_SHOT),
        selected: value("LoaderEntrySelected"),
        device: value("LoaderDevicePartUUID").and_then(|text| Guid::parse(&text)),
        stub_image: value("StubImageIdentifier").and_then(file),
        loader: value("LoaderInfo"),
    }
}

/// Has the next boot start this entry, and only that one; read back once it is written.
///
/// # Errors
/// Names the variable. The next boot may then start either.
pub fn set_one_shot(dir: &Path, id: &str) -> io::Result<()> {
    let path = path(dir, ONE_SHOT);
    let mut wanted = ATTRIBUTES.to_vec();
    wanted.extend(id.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
    let set = || {
        if id.is_empty() || id.contains('\0') || wanted.len() as u64 > SIZE_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        thaw(&path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
        let written = rustix::io::write(&file, &wanted)?;
        if written == wanted.len() && bytes(dir, ONE_SHOT)? == wanted {
            Ok(())
        } else {
            Err(io::Error::other(
                "what is read back is not what was written",
            ))
        }
    };
    set().map_err(|e| at(&path, &e))
}

/// Has the next boot start what the loader chooses by itself.
///
/// # Errors
/// Names the variable. One that is not there is no error.
pub fn clear_one_shot(dir: &Path) -> io::Result<()> {
    let path = path(dir, ONE_SHOT);
    let cleared = thaw(&path).and_then(|()| match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    });
    cleared.map_err(|e| at(&path, &e))
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}-{VENDOR}"))
}

fn at(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

/// Takes the flag "immutable" off a variable that is there.
fn thaw(path: &Path) -> io::Result<()> {
    let file = match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    beneath::make_changeable(&file)?;
    Ok(())
}

/// Attributes and value.
fn bytes(dir: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path(dir, name))?;
    file.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// The text before the NUL; none if there is no NUL, or it is no text.
fn text(variable: &[u8]) -> Option<String> {
    let (units, _) = variable.get(4..)?.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let end = units.iter().position(|unit| *unit == 0)?;
    String::from_utf16(units.get(..end)?)
        .ok()
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("efivar-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn put(&self, name: &str, value: &str) {
            let value = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
            let bytes: Vec<u8> = [6, 0, 0, 0].into_iter().chain(value).collect();
            std::fs::write(path(&self.0, name), bytes).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn what_the_loader_said() {
        let folder = Folder::new("read");
        assert_eq!(read(&folder.0), BootVariables::default());
        folder.put("LoaderBootCountPath", "\\EFI\\Linux\\os_2+0-1.efi");
        folder.put("StubImageIdentifier", "\\EFI\\Linux\\os_2+0-1.efi");
        folder.put("LoaderEntrySelected", "os_2+0-0.efi");
        folder.put(
            "LoaderDevicePartUUID",
            "01020304-0506-0708-090A-0B0C0D0E0F10",
        );
        let seen = read(&folder.0);
        assert_eq!(seen.count_path.as_deref(), Some("os_2+0-1.efi"));
        assert_eq!(seen.stub_image.as_deref(), Some("os_2+0-1.efi"));
        assert_eq!(seen.selected.as_deref(), Some("os_2+0-0.efi"));
        assert_eq!(seen.one_shot, None);
        let device = "01020304-0506-0708-090a-0b0c0d0e0f10";
        assert_eq!(seen.device.unwrap().to_string(), device);
        assert_eq!(read(&folder.0.join("none")), BootVariables::default());
    }

    #[test]
    fn one_shot_is_set_and_cleared() {
        let folder = Folder::new("set");
        for id in ["os_2+0-0.efi", "os_3+0-1.efi"] {
            set_one_shot(&folder.0, id).unwrap();
            assert_eq!(read(&folder.0).one_shot.as_deref(), Some(id));
        }
        let file = path(&folder.0, ONE_SHOT);
        assert!(file.ends_with("LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"));
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(bytes.get(..8), Some(b"\x07\0\0\0o\0s\0".as_slice()));
        assert_eq!(bytes.len(), 4 + 2 * 13);
        clear_one_shot(&folder.0).unwrap();
        clear_one_shot(&folder.0).unwrap();
        assert_eq!(read(&folder.0).one_shot, None);
    }

    #[test]
    fn a_write_that_did_not_come_through_is_an_error() {
        let folder = Folder::new("back");
        // An ordinary file keeps the tail of a longer value, which a variable does not.
        folder.put(ONE_SHOT, &"x".repeat(40));
        let error = set_one_shot(&folder.0, "os.efi").unwrap_err().to_string();
        assert!(
            error.contains("LoaderEntryOneShot-") && error.contains("read back"),
            "{error}"
        );
        for id in ["", "a\0b", &"x".repeat(2048)] {
            assert!(set_one_shot(&folder.0, id).is_err());
        }
        let error = set_one_shot(&folder.0.join("none"), "os.efi").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn nonsense_is_nothing() {
        assert_eq!(text(b""), None);
        assert_eq!(text(b"\x06\0\0"), None);
        assert_eq!(text(b"\x06\0\0\0"), None);
        assert_eq!(text(b"\x06\0\0\0\0\0"), None);
        assert_eq!(text(b"\x06\0\0\0a\0"), None, "no NUL");
        assert_eq!(text(b"\x06\0\0\0a\0\0"), None, "half a NUL");
        assert_eq!(text(b"\x06\0\0\0\x00\xd8\0\0"), None, "half a pair");
        assert_eq!(text(b"\x06\0\0\0a\0\0\0b\0"), Some("a".into()));
        let folder = Folder::new("long");
        std::fs::write(path(&folder.0, ONE_SHOT), vec![1; 4096]).unwrap();
        assert_eq!(read(&folder.0).one_shot, None);
    }

    proptest! {
        #[test]
        fn any_value_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = text(&bytes);
        }
    }
}
