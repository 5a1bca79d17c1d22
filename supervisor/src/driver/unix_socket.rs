//! Listening sockets in the file system (unix(7)), in folders that a service may own.
//!
//! A socket in a folder of the service's user is made by root where that user can rename everything. So
//!
//! * the folder is opened without following a link;
//! * what is in the way is removed only if it is a socket of root or of that user, as a predecessor is;
//! * the new socket gets its owner and mode through a handle that the kernel gives of the very file it has made
//!   (`SIOCUNIXFILE`), after that was found in the folder; until then nobody may connect to it.
//!
//! It is bound by its whole path, as that is what its service and its clients see of it (getsockname(2)). Whoever renames
//! a folder at that moment gets a socket of mode 0 somewhere, which belongs to root, and the start fails.

use crate::sys;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, chownat, fchmod, fstat, openat, openat2,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{Gid, Uid};
use std::ffi::OsStr;
use std::io;
use std::path::Path;

/// Who owns the file of a socket, and who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

/// A stream socket that is bound to this path and does not listen yet.
///
/// # Errors
/// `ELOOP` if a folder on the way is a link, `EADDRINUSE` if something is there that is no predecessor.
pub fn bound_to(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::ISDIR.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let folder = openat2(CWD, folder, flags, Mode::empty(), resolve)?;
    remove_predecessor(&folder, name, access.uid)?;
    let kind = SocketType::STREAM;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    // The kernel makes the file with the mode of the socket (`net/unix/af_unix.c`, `unix_bind_bsd`).
    fchmod(&socket, Mode::empty())?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let file = made(&socket, &folder, name)?;
    let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
    chownat(&file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(access.mode);
    // The same file (proc(5)): a handle cannot be given to fchmod(2).
    std::fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)?;
    Ok(socket)
}

fn remove_predecessor(folder: impl AsFd, name: &OsStr, uid: u32) -> io::Result<()> {
    let stat = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Socket || ![0, uid].contains(&stat.st_uid) {
        return Err(Errno::ADDRINUSE.into());
    }
    Ok(unlinkat(folder, name, AtFlags::empty())?)
}

/// A handle of the file that `bind` has made, which is in that folder.
fn made(socket: impl AsFd, folder: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let file = match sys::bound_file(socket.as_fd()) {
        // A container may be without `CAP_NET_ADMIN`, which the kernel wants for this. Then the name has to do.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&folder, name, look, Mode::empty())?
        }
        file => file?,
    };
    let (is, named) = (
        fstat(&file)?,
        statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?,
    );
    let same = (is.st_dev, is.st_ino) == (named.st_dev, named.st_ino);
    if !same || FileType::from_raw_mode(is.st_mode) != FileType::Socket {
        return Err(io::Error::other("was replaced while it was made"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = format!("init-unix-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(path);
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const ACCESS: Access = Access {
        uid: 54321,
        gid: 54322,
        mode: 0o660,
    };

    fn errno(result: io::Result<OwnedFd>) -> Option<i32> {
        result.unwrap_err().raw_os_error()
    }

    #[test]
    fn the_file_has_the_owner_and_the_mode_that_it_should_have() {
        let folder = Folder::new("access");
        let path = folder.at("socket");
        for mode in [0o660, 0o666, 0o600] {
            let socket = bound_to(&path, Access { mode, ..ACCESS }).unwrap();
            let file = path.symlink_metadata().unwrap();
            assert_eq!((file.uid(), file.gid()), (54321, 54322));
            assert_eq!(file.mode() & 0o7777, mode);
            // What its service sees of it.
            let name = rustix::net::getsockname(&socket).unwrap();
            let name = SocketAddrUnix::try_from(name).unwrap();
            assert_eq!(name, SocketAddrUnix::new(&path).unwrap());
        }
    }

    #[test]
    fn what_is_not_a_predecessor_s_stays_where_it_is() {
        let folder = Folder::new("foreign");
        std::fs::write(folder.at("file"), "precious").unwrap();
        symlink(folder.at("file"), folder.at("link")).unwrap();
        let _foreign = UnixListener::bind(folder.at("foreign")).unwrap();
        chown(folder.at("foreign"), Some(12345), None).unwrap();
        for name in ["file", "link", "foreign"] {
            let before = folder.at(name).symlink_metadata().unwrap();
            let refused = errno(bound_to(&folder.at(name), ACCESS));
            assert_eq!(refused, Some(libc::EADDRINUSE), "{name}");
            let after = folder.at(name).symlink_metadata().unwrap();
            let seen = |m: &std::fs::Metadata| (m.ino(), m.uid(), m.permissions().mode());
            assert_eq!(seen(&before), seen(&after), "{name}");
        }
        for owner in [0, ACCESS.uid] {
            let path = folder.at("ours");
            drop(UnixListener::bind(&path).unwrap());
            chown(&path, Some(owner), None).unwrap();
            bound_to(&path, ACCESS).unwrap();
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn no_link_leads_to_another_folder() {
        let folder = Folder::new("link");
        std::fs::create_dir(folder.at("victim")).unwrap();
        symlink(folder.at("victim"), folder.at("theirs")).unwrap();
        let refused = errno(bound_to(&folder.at("theirs/socket"), ACCESS));
        assert_eq!(refused, Some(libc::ELOOP));
        assert_eq!(std::fs::read_dir(folder.at("victim")).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_that_another_takes_the_place_of_is_given_to_nobody() {
        let folder = Folder::new("replaced");
        let path = folder.at("socket");
        let kind = SocketType::STREAM;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        std::fs::rename(&path, folder.at("moved")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        let look = OFlags::PATH | OFlags::CLOEXEC;
        let handle = openat(CWD, &folder.0, look, Mode::empty()).unwrap();
        let error = made(&socket, &handle, OsStr::new("socket")).unwrap_err();
        assert_eq!(error.to_string(), "was replaced while it was made");
    }
}
