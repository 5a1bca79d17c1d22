//! The reporter of the counted benchmark, the same program in each machine that is measured.
//!
//! Without an argument it asks the runtime `GET /v1/health` once that has said that it is ready, stops the machine at the
//! first 200 by a write to the port of QEMU's pvpanic device, and writes after that, when nothing is counted any
//! more, what the processes have used so far into the kernel's log, whose console is the serial line. Whoever starts it waits for the
//! runtime's readiness; with `--notify` it waits itself, on the notify socket that it gets as its standard input.
//!
//! `mark NAME` writes `counted: NAME` and nothing else: the beginning of a phase.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The port of the runtime.
const PORT: u16 = 8000;
/// QEMU's pvpanic device (QEMU: `docs/specs/pvpanic.rst`), and the bit that says that the guest has panicked. The harness has QEMU stop
/// the machine for that, which takes effect with the instruction that writes.
const PVPANIC: u16 = 0x505;
const PANICKED: u8 = 1;
/// A runtime that was ready answers at once; it gets a minute.
const TRIES: u32 = 1200;
const PAUSE: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let result = match words[..] {
        [] => report(),
        ["--notify"] => wait_ready().and_then(|()| report()),
        ["mark", name] => kmsg().and_then(|mut log| say(&mut log, name)),
        _ => Err(io::Error::other("usage: counted [--notify | mark NAME]")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("counted: {e}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
}

fn kmsg() -> io::Result<File> {
    OpenOptions::new().write(true).open("/dev/kmsg")
}

/// One record a write (kernel: `Documentation/ABI/testing/dev-kmsg`), as an error, so that a quiet console has it.
fn say(log: &mut File, text: &str) -> io::Result<()> {
    log.write_all(format!("<3>counted: {text}\n").as_bytes())
}

/// Waits for the runtime's `READY=1` (systemd: `sd_notify(3)`).
fn wait_ready() -> io::Result<()> {
    let socket = UnixDatagram::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut message = [0; 4096];
    loop {
        let length = socket.recv(&mut message)?;
        let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
        if text.lines().any(|line| line == "READY=1") {
            return Ok(());
        }
    }
}

fn report() -> io::Result<()> {
    let mut log = kmsg()?;
    sys::allow(PVPANIC)?;
    let mut tries = 0;
    while !is_healthy()? {
        tries += 1;
        if tries == TRIES {
            return Err(io::Error::other("the runtime is not healthy"));
        }
        std::thread::sleep(PAUSE);
    }
    sys::write(PVPANIC, PANICKED);

    let ran = ran(&read("/proc/schedstat")?)
        .ok_or_else(|| io::Error::other("/proc/schedstat has another form"))?;
    say(&mut log, &format!("ran ns={ran}"))?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok())
            && let Ok((ns, comm)) = process(&entry.path())
        {
            say(&mut log, &format!("process pid={pid} ns={ns} comm={comm}"))?;
        }
    }
    let status = read("/proc/1/status")?;
    let rollup = read("/proc/1/smaps_rollup")?;
    let kib = |text: &str, key: &str| field(text, key).unwrap_or(0);
    say(
        &mut log,
        &format!(
            "pid1 rss={} anon={} private={}",
            kib(&status, "VmRSS"),
            kib(&status, "RssAnon"),
            kib(&rollup, "Private_Clean") + kib(&rollup, "Private_Dirty"),
        ),
    )?;
    say(&mut log, "end")
}

fn is_healthy() -> io::Result<bool> {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)) else {
        return Ok(false);
    };
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.split(' ').nth(1) == Some("200"))
}

/// How long all processes together have run: the seventh figure of the first processor, the only one
/// (kernel: `Documentation/scheduler/sched-stats.rst`).
fn ran(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu0 "))?;
    line.split(' ').nth(6)?.parse().ok()
}

/// How long all threads of a process have run, and what it is called.
fn process(folder: &Path) -> io::Result<(u64, String)> {
    let mut total = 0;
    for task in fs::read_dir(folder.join("task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let ns = text
            .split(' ')
            .next()
            .and_then(|word| word.parse::<u64>().ok());
        total += ns.ok_or_else(|| io::Error::other("schedstat has another form"))?;
    }
    let comm = fs::read_to_string(folder.join("comm"))?;
    Ok((total, comm.trim_end().replace(' ', "_")))
}

/// A field of proc_pid_status(5) or proc_pid_smaps(5), in KiB.
fn field(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Ports of the processor; the kernel has no `/dev/port`.
mod sys {
    use std::arch::asm;
    use std::io;

    /// Asks the kernel for a port (ioperm(2)).
    pub fn allow(port: u16) -> io::Result<()> {
        // SAFETY: the call takes three numbers and no memory.
        match unsafe { libc::ioperm(port.into(), 1, 1) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Writes a byte to a port that was allowed.
    pub fn write(port: u16, byte: u8) {
        // SAFETY: the instruction touches no memory and no stack, and no flag. Where the port was not allowed it ends the process.
        unsafe {
            asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags));
        }
    }
}
