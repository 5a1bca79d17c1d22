//! Files that are whole or not there, whatever happens while they are written.
//!
//! The new bytes go into a file beside the old one, to the disk, and then over it by a rename, which
//! file systems do as one (rename(2)); the folder goes to the disk last.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a file whole or not at all; it is on the disk when this returns.
///
/// # Errors
/// Of the file system; the old file is still there then, or the new one already.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = beside(path);
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = std::env::temp_dir().join(format!("init-durable-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.json");
        // What a cut has left is no hindrance.
        std::fs::write(folder.join("a.json.new"), "torn and longer than the rest").unwrap();
        for text in ["first", "second", ""] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(write(&path, b"x").is_err());
    }
}
