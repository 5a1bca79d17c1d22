//! A daemon that stands for the agent runtime where many images are built and booted.
//!
//! It keeps the runtime's contract with init: `READY=1`, `WATCHDOG=1`, `GET /v1/health` on port 8000,
//! an end at `SIGTERM` (whose default action is just that). It ignores its arguments. The variable
//! `SMALL_DAEMON`, set by a drop-in of the image, has it misbehave:
//!
//! - `dead`: runs and says that it is ready, but answers 500 from the start;
//! - `fill`: is no daemon, but fills `/var` to its last inode and its last block, and ends;
//! - `locks`: is no daemon either, but takes every lock on files that it can open, and holds them;
//! - `flapping`: answers 200 for [`GOOD`], then 500 for [`BAD`], again and again;
//! - `ends=SECONDS,SECONDS,...`: is well, and fails at each of these times since the kernel's start: an
//!   instance ends with status 1 at the first of them that is still to come.
//!
//! It needs nothing but the standard library, so that it is quick to build and to start.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The port of the runtime.
const PORT: u16 = 8000;

/// How long it is well when it flaps: shorter than any probation worth the name.
const GOOD: Duration = Duration::from_secs(4);

/// How long it then is not.
const BAD: Duration = Duration::from_secs(4);

/// How long an instance lives at least: the kernel tells its time in hundredths of a second.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// A client that says nothing does not hold a thread for longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longer requests are cut off.
const REQUEST_MAX: u64 = 8192;

/// What it answers about its health.
#[derive(Clone, Copy)]
enum Health {
    Good,
    Dead,
    Flapping,
}

/// How it behaves.
struct Conduct {
    health: Health,
    /// When it fails, since the kernel's start.
    ends: Vec<Duration>,
}

impl Conduct {
    fn of_environment() -> Result<Self, String> {
        let word = std::env::var("SMALL_DAEMON").unwrap_or_default();
        let unknown = || format!("SMALL_DAEMON={word} is not known");
        let ends = match word.strip_prefix("ends=") {
            Some(list) => list
                .split(',')
                .map(|time| time.parse().map(Duration::from_secs))
                .collect::<Result<_, _>>()
                .map_err(|_| unknown())?,
            None => Vec::new(),
        };
        let health = match word.as_str() {
            "dead" => Health::Dead,
            "flapping" => Health::Flapping,
            _ if word.is_empty() || !ends.is_empty() => Health::Good,
            _ => return Err(unknown()),
        };
        Ok(Self { health, ends })
    }

    /// How long from `uptime` to the next failure, if there is one.
    fn rest_of_life(&self, uptime: Duration) -> Option<Duration> {
        // What is due by now was the end of the instance before.
        let rest = self.ends.iter().filter_map(|end| end.checked_sub(uptime));
        rest.filter(|rest| *rest >= SHORTEST_LIFE).min()
    }
}

/// How long ago the kernel started (proc_uptime(5)).
fn uptime() -> Result<Duration, String> {
    let text = std::fs::read_to_string("/proc/uptime").map_err(|e| format!("/proc/uptime: {e}"))?;
    let seconds = text.split(' ').next().and_then(|word| word.parse().ok());
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("/proc/uptime is `{text}`"))
}

impl Health {
    fn is_good(self, age: Duration) -> bool {
        match self {
            Self::Good => true,
            Self::Dead => false,
            Self::Flapping => age.as_millis() % (GOOD + BAD).as_millis() < GOOD.as_millis(),
        }
    }
}

fn main() -> ExitCode {
    let result = match std::env::var("SMALL_DAEMON").as_deref() {
        Ok("fill") => fill(Path::new("/var/full")).map_err(|e| format!("cannot fill /var: {e}")),
        Ok("locks") => hold_locks(),
        _ => run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Fills the file system of this folder: inodes first, because folders need blocks, too.
fn fill(folder: &Path) -> io::Result<()> {
    let is_full = |e: &io::Error| e.kind() == io::ErrorKind::StorageFull;
    fs::create_dir_all(folder)?;
    let mut file = File::create(folder.join("blocks"))?;
    let mut files = 0u64;
    loop {
        match File::create_new(folder.join(files.to_string())) {
            Ok(_) => files += 1,
            Err(e) if is_full(&e) => break,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => files += 1,
            Err(e) => return Err(e),
        }
    }
    let mut bytes = 0u64;
    for piece in [1 << 20, 4096, 1] {
        let piece = vec![0xff; piece];
        loop {
            match file.write(&piece) {
                Ok(count) => bytes += count as u64,
                Err(e) if is_full(&e) => break,
                Err(e) => return Err(e),
            }
        }
    }
    file.sync_all()?;
    eprintln!("/var is full: {files} files more, {bytes} bytes");
    Ok(())
}

/// Locks all that can be opened for reading, which is all that flock(2) asks for, and never ends.
fn hold_locks() -> Result<(), String> {
    let mut held = Vec::new();
    let mut folders = vec![
        PathBuf::from("/var"),
        "/etc".into(),
        "/dev".into(),
        "/run".into(),
    ];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                folders.push(entry.path());
            }
            // What blocks or acts when it is opened is no file with a lock.
            if !(kind.is_file() || kind.is_dir()) {
                continue;
            }
            if let Ok(file) = File::open(entry.path())
                && file.try_lock().is_ok()
            {
                held.push(file);
            }
        }
    }
    eprintln!("{} locks are held", held.len());
    notify("READY=1").map_err(|e| format!("cannot tell that it is ready: {e}"))?;
    loop {
        thread::park();
    }
}

fn run() -> Result<(), String> {
    let conduct = Conduct::of_environment()?;
    let health = conduct.health;
    if let Some(rest) = conduct.rest_of_life(uptime()?) {
        thread::spawn(move || {
            thread::sleep(rest);
            eprintln!("failing as told");
            std::process::exit(1);
        });
    }
    let started = Instant::now();
    // One socket for both families (ipv6(7): bindv6only is 0 unless somebody set it).
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))
        .map_err(|e| format!("cannot listen on port {PORT}: {e}"))?;
    notify("READY=1").map_err(|e| format!("cannot tell that it is ready: {e}"))?;
    if let Some(interval) = watchdog() {
        thread::spawn(move || {
            loop {
                // Should it fail, the watchdog will say so.
                let _ = notify("WATCHDOG=1");
                thread::sleep(interval);
            }
        });
    }
    eprintln!("listening on port {PORT}");
    for client in listener.incoming().flatten() {
        thread::spawn(move || {
            // A client that went away is none of our business.
            let _ = serve(&client, health.is_good(started.elapsed()));
        });
    }
    Ok(())
}

/// Half of what init allows, as sd_watchdog_enabled(3) advises.
fn watchdog() -> Option<Duration> {
    let limit = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(limit) / 2)
}

/// sd_notify(3); without a socket there is nobody to tell.
fn notify(text: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(text.as_bytes(), &address)
        .map(drop)
}

/// One request, one answer.
fn serve(mut client: &TcpStream, good: bool) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(client.take(REQUEST_MAX));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    // Up to the empty line, which is `\r\n`, or the end.
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match (path, good) {
        ("/v1/health", true) => ("200 OK", r#"{"status":"ok","version":"small"}"#),
        ("/v1/health", false) => ("500 Internal Server Error", r#"{"status":"dead"}"#),
        _ => ("404 Not Found", r#"{"detail":"Not Found"}"#),
    };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = seconds.map_or(0, |since| since.as_secs());
    write!(
        client,
        "HTTP/1.1 {status}\r\ndate: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        date(seconds),
        body.len()
    )
}

/// So many seconds since 1970 as a date of HTTP (RFC 9110, section 5.6.7).
fn date(seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // 1970 began on a Thursday.
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let weekday = DAYS[usize::try_from(days % 7).unwrap_or(0)];
    format!(
        "{weekday}, {:02} {} {year} {:02}:{:02}:{:02} GMT",
        day + 1,
        MONTHS[month],
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}
