//! Whether the kernel could execute a program of the image: execve(2) says "No such file or directory" of a
//! file that is there if what would load it is not.

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What is looked at of a file: the kernel reads as much of a `#!` line (`BINPRM_BUF_SIZE`), elf(5) headers are shorter.
const HEAD: usize = 256;

/// A script whose interpreter is a script, and so on: the kernel gives up after four (execve(2): `ELOOP`).
const INTERPRETERS_MAX: u32 = 4;

/// elf(5): `PT_INTERP`.
const PT_INTERP: u32 = 3;

/// elf(5): a program has a dozen headers, and `PN_XNUM` bounds their number.
const HEADERS_MAX: u64 = 1024;

/// Looks at the program with this path in `root`.
pub(super) fn check(root: &Path, program: &str) -> Result<(), String> {
    look(root, program, INTERPRETERS_MAX)
}

fn look(root: &Path, program: &str, left: u32) -> Result<(), String> {
    let shown = root.join(program.trim_start_matches('/'));
    let shown = shown.display();
    let Some(file) = open_below(root, program).map_err(|why| format!("{shown} {why}"))? else {
        return Ok(());
    };
    let status = fstat(&file).map_err(|e| format!("{shown}: {e}"))?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile if status.st_mode & 0o111 == 0 => {
            return Err(format!("{shown} is not executable"));
        }
        FileType::RegularFile => {}
        FileType::Directory => return Err(format!("{shown} is a folder")),
        _ => return Err(format!("{shown} is not a file")),
    }
    let mut head = Vec::new();
    let read = (&file).take(HEAD as u64).read_to_end(&mut head);
    read.map_err(|e| format!("{shown}: {e}"))?;
    let interpreter = match head.as_slice() {
        [] => return Err(format!("{shown} is empty")),
        [b'#', b'!', line @ ..] => script(line),
        [0x7f, b'E', b'L', b'F', ..] => elf(&file, &head).map_err(|e| format!("{shown} {e}"))?,
        _ => {
            return Err(format!(
                "{shown} is neither an ELF program nor a script that starts with #!"
            ));
        }
    };
    match interpreter {
        None => Ok(()),
        Some(_) if left == 0 => Err(format!("{shown} has too many interpreters of interpreters")),
        Some(interpreter) => look(root, &interpreter, left - 1)
            .map_err(|e| format!("{shown} needs {interpreter} to run, and {e}")),
    }
}

/// The file, with links followed as they would be on the machine; nothing if a link leads to where only the
/// running machine has something.
fn open_below(root: &Path, program: &str) -> Result<Option<File>, String> {
    let folder = open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| {
        format!(
            "cannot be looked at: {}: {}",
            root.display(),
            std::io::Error::from(e)
        )
    })?;
    // A FIFO must not hold us up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match openat2(
        &folder,
        program,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    ) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(Errno::NOENT) => {
            let link = root.join(program.trim_start_matches('/')).read_link();
            match link {
                Ok(target)
                    if ["/var", "/run"]
                        .iter()
                        .any(|at_run_time| target.starts_with(at_run_time)) =>
                {
                    Ok(None)
                }
                Ok(target) => Err(format!(
                    "is a link to {}, which is not there",
                    target.display()
                )),
                Err(_) => Err("is not there".into()),
            }
        }
        Err(e) => Err(format!("cannot be opened: {}", std::io::Error::from(e))),
    }
}

/// The interpreter of a `#!` line.
fn script(line: &[u8]) -> Option<String> {
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    Some(
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned(),
    )
}

/// The loader that an ELF program names; none if it is static.
fn elf(file: &File, head: &[u8]) -> Result<Option<String>, String> {
    let cut = || "is cut off within its ELF headers".to_owned();
    // elf(5): `EI_CLASS` and `EI_DATA`.
    let (wide, little) = match (head.get(4), head.get(5)) {
        (Some(class @ (1 | 2)), Some(data @ (1 | 2))) => (*class == 2, *data == 1),
        _ => return Err("has a broken ELF header".into()),
    };
    let number = |bytes: &[u8], at: usize, length: usize| -> Option<u64> {
        let field = bytes.get(at..at + length)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(match little {
            true => field.iter().rev().fold(0, add),
            false => field.iter().fold(0, add),
        })
    };
    let (offset, size, count) = match wide {
        true => (
            number(head, 32, 8),
            number(head, 54, 2),
            number(head, 56, 2),
        ),
        false => (
            number(head, 28, 4),
            number(head, 42, 2),
            number(head, 44, 2),
        ),
    };
    let (offset, size, count) = offset
        .zip(size)
        .zip(count)
        .map(|((o, s), c)| (o, s, c))
        .ok_or_else(cut)?;
    for index in 0..count.min(HEADERS_MAX) {
        let mut header = [0u8; 56];
        let header = header
            .get_mut(..if wide { 56 } else { 32 })
            .unwrap_or_default();
        let at = index
            .checked_mul(size)
            .and_then(|at| at.checked_add(offset));
        file.read_exact_at(header, at.ok_or_else(cut)?)
            .map_err(|_| cut())?;
        if number(header, 0, 4) != Some(u64::from(PT_INTERP)) {
            continue;
        }
        let (at, length) = match wide {
            true => (number(header, 8, 8), number(header, 32, 8)),
            false => (number(header, 4, 4), number(header, 16, 4)),
        };
        // limits.h: `PATH_MAX`.
        let length = length
            .and_then(|l| usize::try_from(l).ok())
            .filter(|l| *l <= 4096);
        let (at, length) = at.zip(length).ok_or_else(cut)?;
        let mut path = vec![0; length];
        file.read_exact_at(&mut path, at).map_err(|_| cut())?;
        let path = path.split(|b| *b == 0).next().unwrap_or_default();
        return Ok(Some(String::from_utf8_lossy(path).into_owned()));
    }
    Ok(None)
}
