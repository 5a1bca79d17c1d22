//! The initramfs: a cpio archive with init, three device nodes, and kernel modules.
//!
//! The nodes matter: the kernel opens `/dev/console` for PID 1 before anything is mounted, and
//! a Rust program whose descriptors 0 to 2 are closed and cannot be opened aborts before `main`.
//!
//! The format is `newc` (kernel documentation, "initramfs buffer format"): a header of 13
//! numbers in hex, the name, the data, each padded to 4 bytes. Inode numbers count up and all
//! times are zero, so the same files give the same bytes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::tools::{Tools, run};
use crate::tree;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Folders that init mounts on or writes to.
const FOLDERS: [&str; 6] = ["dev", "proc", "run", "sys", "sysroot", "usr"];
/// Name, major, minor, mode; numbers of the kernel's devices.txt.
const NODES: [(&str, u32, u32, u32); 3] = [
    ("dev/console", 5, 1, 0o600),
    ("dev/kmsg", 1, 11, 0o600),
    ("dev/null", 1, 3, 0o666),
];
/// `/lib/modules` is what modules call their home.
const LINKS: [(&str, &str); 1] = [("lib", "usr/lib")];

/// Writes the initramfs of `init` and the modules in `modules` to `output`, compressed.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(tools: &Tools, init: &Path, modules: &Path, output: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for name in FOLDERS {
        archive.add(name, DIRECTORY | 0o755, (0, 0), &[])?;
    }
    for (name, major, minor, mode) in NODES {
        archive.add(name, CHARACTER | mode, (major, minor), &[])?;
    }
    for (name, target) in LINKS {
        archive.add(name, SYMLINK | 0o777, (0, 0), target.as_bytes())?;
    }
    let program =
        fs::read(init).with_context(|| format!("cannot read init at {}", init.display()))?;
    archive.add("init", REGULAR | 0o755, (0, 0), &program)?;
    let mut paths = Vec::new();
    tree::walk(modules, &mut |path, kind| {
        paths.push((path.to_path_buf(), kind.is_dir()));
        Ok(())
    })?;
    for (path, is_folder) in paths {
        let name = path
            .strip_prefix(modules)
            .context("a path left its tree")?
            .to_string_lossy()
            .into_owned();
        if is_folder {
            if !FOLDERS.contains(&name.as_str()) {
                archive.add(&name, DIRECTORY | 0o755, (0, 0), &[])?;
            }
        } else {
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            archive.add(&name, REGULAR | mode, (0, 0), &fs::read(&path)?)?;
        }
    }
    let plain = output.with_extension("cpio");
    fs::File::create(&plain)
        .and_then(|mut file| file.write_all(&archive.finish()?))
        .with_context(|| format!("cannot write {}", plain.display()))?;
    // RD_ZSTD is built into the kernel, and no decoder is quicker at this size.
    let mut zstd = tools.command("zstd");
    run(zstd
        .args(["-q", "-f", "-15", "-T1", "-o"])
        .arg(output)
        .arg(&plain))
    .with_context(|| format!("cannot compress {}", plain.display()))?;
    fs::remove_file(&plain)?;
    Ok(())
}

/// A cpio archive being written.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        data: &[u8],
    ) -> std::io::Result<()> {
        self.inode += 1;
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        let size = u32::try_from(data.len()).map_err(std::io::Error::other)?;
        let length = u32::try_from(name.len() + 1).map_err(std::io::Error::other)?;
        // magic, ino, mode, uid, gid, nlink, mtime, filesize, dev, rdev, namesize, check
        write!(
            self.bytes,
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}",
            self.inode, 0, 0, 0
        )?;
        write!(
            self.bytes,
            "{:08x}{:08x}{:08x}{:08x}{length:08x}{:08x}",
            0, 0, device.0, device.1, 0
        )?;
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(mut self) -> std::io::Result<Vec<u8>> {
        self.inode = 0;
        self.add("TRAILER!!!", 0, (0, 0), &[])?;
        while !self.bytes.len().is_multiple_of(512) {
            self.bytes.push(0);
        }
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_end_with_the_trailer() {
        let mut archive = Archive::default();
        archive
            .add("init", REGULAR | 0o755, (0, 0), b"abcde")
            .unwrap();
        archive
            .add("dev/null", CHARACTER | 0o666, (1, 3), b"")
            .unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000081ed"));
        assert_eq!(text.matches("070701").count(), 3);
        // header 110, name and NUL 5, padded to 116: the data.
        assert_eq!(&bytes[116..121], b"abcde");
        assert_eq!(bytes[121..124], [0, 0, 0]);
        assert!(text[124..].starts_with("070701"));
        assert!(text.contains("TRAILER!!!"));
    }
}
