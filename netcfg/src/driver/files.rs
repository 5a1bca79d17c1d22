//! Files written whole or not at all: the new text beside the old one, then a rename.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base::beneath;

use crate::core::Setting;
use crate::link::{self, Device};
use crate::mac::Mac;

/// Replaces `path`: a reader sees the old text or the new one, never a part. Survives the end of
/// this process, but a power cut only after [`sync`]. A directory that lies in the way is moved aside, and that is told.
pub fn replace(path: &Path, text: &str) -> io::Result<Option<String>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new"));
    // What lies there is torn, or not ours: a FIFO would be waited for, a link followed.
    let moved = remove(&fresh)?;
    let also = beneath::make_way(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&fresh)?;
    // Whatever the umask: everybody's resolver reads `resolv.conf`.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    fs::rename(&fresh, path)?;
    Ok(also.or(moved))
}

/// Makes what was written to `path` last over a power cut.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

/// A regular file that is expected to be small; no more than 64 KiB of it. Nobody is waited for.
pub fn read_small(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    io::Read::read_to_string(&mut io::Read::take(file, 1 << 16), &mut text).ok()?;
    Some(text)
}

/// Where the lease of a card is kept: by its address, for names may change from boot to boot.
pub fn lease_path(state_dir: &Path, mac: Mac) -> PathBuf {
    state_dir.join(format!("lease-{}", mac.to_string().replace(':', "")))
}

/// Removes a file that may not be there. A directory in its place is moved aside, and that is told.
pub fn remove(path: &Path) -> io::Result<Option<String>> {
    let moved = beneath::make_way(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(moved),
    }
}

/// Sets `net.FAMILY.conf.LINK.KEY`. A kernel without that family has nothing to set.
pub fn set(link: &str, setting: &Setting) -> io::Result<()> {
    let Setting { family, key, value } = setting;
    let path = format!("/proc/sys/net/{family}/conf/{link}/{key}");
    let file = OpenOptions::new().write(true).open(&path);
    match file.and_then(|mut file| file.write_all(value.as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{path} = {value}: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

/// The device behind a link, as far as sysfs tells.
pub fn device(link: &str) -> Device {
    let folder = Path::new("/sys/class/net").join(link).join("device");
    let driver = fs::read_link(folder.join("driver")).ok();
    let device = fs::canonicalize(&folder).ok();
    let name = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    Device {
        driver: driver.and_then(name),
        path: device.and_then(|device| link::path_of(&device.to_string_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    #[test]
    fn what_is_no_file_is_neither_waited_for_nor_followed() {
        let folder = std::env::temp_dir().join(format!("netcfg-files-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let (lease, fresh) = (folder.join("lease"), folder.join(".lease.new"));
        let mode = Mode::from_raw_mode(0o644);
        for path in [&lease, &fresh] {
            mknodat(CWD, path, FileType::Fifo, mode, 0).expect("a FIFO");
        }
        assert_eq!(read_small(&lease), None);
        assert_eq!(replace(&lease, "text").expect("a file"), None);
        assert_eq!(read_small(&lease).as_deref(), Some("text"));
        let other = folder.join("other");
        std::os::unix::fs::symlink(&other, &fresh).expect("a link");
        replace(&lease, "more").expect("a file");
        assert_eq!(read_small(&lease).as_deref(), Some("more"));
        assert!(!other.exists());
        std::os::unix::fs::symlink(&lease, &other).expect("a link");
        assert_eq!(read_small(&other), None);
        fs::remove_dir_all(&folder).expect("the folder");
    }

    #[test]
    fn a_directory_in_the_way_of_a_file_is_moved_aside_and_told() {
        let folder = std::env::temp_dir().join(format!("netcfg-way-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let (lease, fresh) = (folder.join("lease"), folder.join(".lease.new"));
        for (path, number) in [(&lease, 1), (&fresh, 1), (&lease, 2)] {
            let _ = fs::remove_file(path);
            fs::create_dir_all(path.join("full")).expect("a directory");
            assert_eq!(read_small(path), None);
            let told = replace(&lease, "text").expect("a file").expect("told");
            let aside = format!("{}.obstructed-{number}", path.display());
            assert!(told.ends_with(&aside), "{told}");
            assert!(Path::new(&aside).join("full").is_dir());
            assert_eq!(read_small(&lease).as_deref(), Some("text"));
        }
        fs::remove_file(&lease).expect("the file");
        fs::create_dir_all(lease.join("full")).expect("a directory");
        assert!(remove(&lease).expect("moved").is_some() && !lease.exists());
        assert_eq!(remove(&lease).expect("nothing there"), None);
        fs::remove_dir_all(&folder).expect("the folder");
    }
}
