//! The directories below `/var` and `/run` that roles and services need: `[[directory]]` and init's own.
//!
//! `/var` is not verified: what lies there may be what a stranger left while the machine was off, or what a service
//! left where it may write. So the way to a directory is walked with openat2(2), one name at a time, from
//! `/var` or `/run` (see [`beneath`]), and owner and mode are set on the descriptor that the walk ends with: nothing
//! outside can be given away.
//!
//! * What is missing is made.
//! * A link, FIFO, device, socket or file in the way is renamed to `NAME.obstructed-N` and the directory is
//!   made in its place: the machine has to become healthy, and nothing of somebody's is deleted.
//! * A directory on the way must be root's or belong to the owner of the directory that is wanted. Otherwise a third
//!   user decides what becomes of it (as in CVE-2018-6954 of systemd-tmpfiles), and it is refused.
//! * The attributes "immutable" and "append only" (chattr(1)) are taken off: the image has no program that could.
//! * Another file system on the way is refused.
//!
//! Links further down are followed: `/var` is not mounted with `MS_NOSYMFOLLOW`, because services keep links
//! among their own data (a cache of models is made of them). No role of init opens anything there by way of a link.

use base::beneath;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use std::io;
use std::path::Path;

/// The roots that a walk can start from.
const ROOTS: [&str; 2] = ["/var", "/run"];

/// Of a directory on the way (and of every one before its owner and mode are set).
const ON_THE_WAY: u32 = 0o755;

/// A directory as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Its absolute path, below one of [`ROOTS`].
    pub path: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The lower bits of its mode.
    pub mode: u32,
}

/// Something that was not as it should be, and was mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// Where.
    pub path: String,
    /// What was seen.
    pub seen: String,
    /// What was done.
    pub then: String,
}

/// Makes a directory, or gives one that is there the owner and mode it should have.
///
/// # Errors
/// Says what is in the way. Nothing was changed by then but what `mended` was told.
pub fn make(wanted: &Directory, mended: &mut dyn FnMut(Mended)) -> Result<(), String> {
    let split = |root: &'static str| Some((root, wanted.path.strip_prefix(root)?));
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    let (root, rest) = ROOTS
        .into_iter()
        .find_map(split)
        .filter(|(_, rest)| below(rest))
        .ok_or("it is not below /var or /run")?;
    make_below(Path::new(root), rest, wanted, mended)
}

fn make_below(
    root: &Path,
    rest: &str,
    wanted: &Directory,
    mended: &mut dyn FnMut(Mended),
) -> Result<(), String> {
    let mut path = root.display().to_string();
    let mut folder = beneath::root(root).map_err(|e| format!("{path}: {}", io::Error::from(e)))?;
    let mut names = rest
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .peekable();
    while let Some(name) = names.next() {
        path = format!("{path}/{name}");
        folder = enter(&folder, name, &path, mended).map_err(|e| format!("{path}: {e}"))?;
        if names.peek().is_some() {
            may_lead(&folder, wanted).map_err(|e| format!("{path}: {e}"))?;
        }
        thaw(&folder, &path, mended).map_err(|e| format!("{path}: {}", io::Error::from(e)))?;
    }
    settle(&folder, wanted, mended).map_err(|e| format!("{path}: {}", io::Error::from(e)))
}

/// Opens a directory of this name, making it and room for it.
fn enter(
    parent: &OwnedFd,
    name: &str,
    path: &str,
    mended: &mut dyn FnMut(Mended),
) -> Result<OwnedFd, String> {
    // A bound, should somebody put things there as fast as they are renamed: room, making, opening.
    for _ in 0..4 {
        match beneath::folder(parent, name) {
            Ok(folder) => return Ok(folder),
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(ON_THE_WAY)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(io::Error::from(e).to_string()),
                }
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let seen = beneath::kind(parent, name).unwrap_or("something");
                let aside = beneath::move_aside(parent, name)
                    .map_err(|e| format!("{seen} is there and stays: {}", io::Error::from(e)))?;
                mended(Mended {
                    path: path.to_owned(),
                    seen: seen.to_owned(),
                    then: format!("renamed to {aside}, a directory made"),
                });
            }
            Err(Errno::XDEV) => return Err("another file system is mounted there".to_owned()),
            Err(e) => return Err(io::Error::from(e).to_string()),
        }
    }
    Err("something else is put there again and again".to_owned())
}

/// Whether a directory on the way leads nobody astray.
fn may_lead(folder: impl AsFd, wanted: &Directory) -> Result<(), String> {
    let stat = rustix::fs::fstat(folder).map_err(|e| io::Error::from(e).to_string())?;
    let owner = stat.st_uid;
    if owner == 0 || owner == wanted.uid {
        return Ok(());
    }
    let uid = wanted.uid;
    Err(format!(
        "it belongs to the user {owner}, who could put anything in the place of what belongs to {uid}"
    ))
}

/// Takes off an attribute with which nothing can be made in the directory.
fn thaw(folder: impl AsFd, path: &str, mended: &mut dyn FnMut(Mended)) -> rustix::io::Result<()> {
    if beneath::make_changeable(folder)? {
        mended(Mended {
            path: path.to_owned(),
            seen: "the attribute immutable or append only".to_owned(),
            then: "taken off".to_owned(),
        });
    }
    Ok(())
}

/// Sets owner and mode, and tells what others could have used.
fn settle(
    folder: impl AsFd,
    wanted: &Directory,
    mended: &mut dyn FnMut(Mended),
) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(&folder)?;
    let Directory { uid, gid, mode, .. } = *wanted;
    let seen_mode = stat.st_mode & 0o7777;
    if (stat.st_uid, stat.st_gid, seen_mode) == (uid, gid, mode) {
        return Ok(());
    }
    // chown(2) may clear bits of the mode, so that comes second.
    rustix::fs::fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?;
    // One that `enter` has just made is root's.
    let foreign = ![0, uid].contains(&stat.st_uid);
    if foreign || seen_mode & !mode & 0o022 != 0 {
        mended(Mended {
            path: wanted.path.clone(),
            seen: format!("owner {}:{} mode {seen_mode:04o}", stat.st_uid, stat.st_gid),
            then: format!("owner {uid}:{gid} mode {mode:04o}"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
