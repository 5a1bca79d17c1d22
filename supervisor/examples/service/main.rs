//! A service for tests, as difficult as it is told to be.
//!
//! Its arguments are steps, done in order; most are `NAME=VALUE`. After the last step it ends with 0.
//! Nothing in it is part of init; it stands for what strangers run under it.

mod hostile;

use rustix::fd::{AsFd, FromRawFd, OwnedFd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};
use std::io::{self, IoSlice, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, exit};
use std::time::{Duration, Instant};

fn main() {
    for step in std::env::args().skip(1) {
        let (name, value) = step.split_once('=').unwrap_or((&step, ""));
        if let Err(e) = perform(name, value) {
            eprintln!("{step}: {e}");
            exit(99);
        }
    }
}

fn perform(name: &str, value: &str) -> io::Result<()> {
    let number = || value.parse::<u64>().map_err(io::Error::other);
    match name {
        "print" => say(value),
        "exit" => exit(value.parse().map_err(io::Error::other)?),
        "abort" => std::process::abort(),
        "forever" => forever(),
        "pause" => pause(Duration::from_millis(number()?)),
        "notify" => notify(value, None)?,
        "ignore" => block(value)?,
        // A daemon that hides: two generations away, in a session of its own.
        "hide" => hide()?,
        "setsid" => drop(rustix::process::setsid()),
        // Spoken by a process that is gone before anybody listens, its parent having reaped it.
        "child-notify" => drop(again(&[&format!("notify={value}")]).status()?),
        "orphans" => orphans(number()?)?,
        "move-main" => move_main(value)?,
        "adopted-main" => adopted_main()?,
        "store" => store(value)?,
        "show-fds" => show_fds()?,
        "serve" => serve(value)?,
        "reload" => reload()?,
        "flood" => flood(number()?)?,
        "bytes" => bytes()?,
        "ping" => ping(number()?)?,
        "show-self" => show_self()?,
        "linger-notify" => hostile::notify(value)?,
        "linger-notify-now" => hostile::notify_now(value)?,
        "flood-notify" => hostile::flood(number()?)?,
        "linger-control" => hostile::control(value)?,
        other => {
            return Err(io::Error::other(format!("no step {other:?}")));
        }
    }
    Ok(())
}

fn say(text: &str) {
    let line = format!("{text}\n");
    let _ = io::stdout().write_all(line.as_bytes());
    let _ = io::stdout().flush();
}

fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

fn forever() -> ! {
    loop {
        pause(Duration::from_secs(3600));
    }
}

/// This program with other steps.
fn again(steps: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(steps);
    command
}

/// Blocks a signal: it stays pending for ever, which is what ignoring is to a supervisor.
fn block(signal: &str) -> io::Result<()> {
    let signal: nix::sys::signal::Signal = signal.parse().map_err(io::Error::other)?;
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(signal);
    Ok(set.thread_block()?)
}

fn notify(text: &str, passed: Option<&OwnedFd>) -> io::Result<()> {
    let path = std::env::var("NOTIFY_SOCKET").map_err(io::Error::other)?;
    let kind = SocketType::DGRAM;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let text = text.replace(';', "\n");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = passed.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let address = SocketAddrUnix::new(path)?;
    let parts = [IoSlice::new(text.as_bytes())];
    sendmsg_addr(&socket, &address, &parts, &mut control, SendFlags::empty())?;
    Ok(())
}

/// By way of a shell's `&`: the shell ends, and its child is an orphan.
fn hide() -> io::Result<()> {
    let hidden = ["setsid", "ignore=SIGTERM", "print=hidden", "forever"];
    let exe = std::env::current_exe()?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#""$0" "$@" &"#]).arg(exe).args(hidden);
    shell.status().map(drop)
}

/// So many processes that lose their parent and end, all at the same time.
fn orphans(count: u64) -> io::Result<()> {
    let (read, write) = rustix::pipe::pipe()?;
    let (done_read, done_write) = rustix::pipe::pipe()?;
    if fork()? == 0 {
        for _ in 0..count {
            if fork()? == 0 {
                drop((write, done_read));
                // Until the last writer is gone.
                let _ = rustix::io::read(&read, &mut [0u8; 1]);
                exit(0);
            }
        }
        exit(0);
    }
    // Nobody writes there; it ends when the last of them has ended.
    drop(done_write);
    // The middle process has made them all when it is gone.
    let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
    say(&format!("orphans {count}"));
    drop(write);
    let _ = rustix::io::read(&done_read, &mut [0u8; 1]);
    Ok(())
}

fn fork() -> io::Result<i32> {
    // SAFETY: this program has one thread.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(pid)
}

/// A child becomes the main process, and this one ends.
fn move_main(value: &str) -> io::Result<()> {
    let pid = fork()?;
    if pid == 0 {
        return Ok(());
    }
    notify(&format!("MAINPID={pid};{value}"), None)?;
    exit(0);
}

/// A grandchild becomes the main process, while its parent lives: nobody tells init how it ends.
fn adopted_main() -> io::Result<()> {
    if fork()? == 0 {
        let child = fork()?;
        if child == 0 {
            pause(Duration::from_millis(300));
            exit(7);
        }
        notify(&format!("MAINPID={child};READY=1"), None)?;
        forever();
    }
    forever();
}

/// Leaves a descriptor with init, which counts the lives of the service.
fn store(name: &str) -> io::Result<()> {
    let file = rustix::fs::memfd_create("lives", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    file.write_all(b"stored")?;
    notify(&format!("FDSTORE=1;FDNAME={name}"), Some(&file.into()))
}

fn show_fds() -> io::Result<()> {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| "none".into());
    let own = std::process::id().to_string() == variable("LISTEN_PID");
    say(&format!(
        "fds {} names {} own {own}",
        variable("LISTEN_FDS"),
        variable("LISTEN_FDNAMES")
    ));
    let count: i32 = variable("LISTEN_FDS").parse().unwrap_or(0);
    for number in 3..3 + count {
        // SAFETY: init passed it, and nobody else here owns it.
        let mut file = unsafe { std::fs::File::from_raw_fd(number) };
        let mut text = String::new();
        if file.rewind().is_ok() && file.read_to_string(&mut text).is_ok() {
            say(&format!("fd {number} holds {text}"));
        }
        std::mem::forget(file);
    }
    Ok(())
}

/// Serves HTTP, on the first descriptor that was passed or on an address: `HOW[@ADDRESS]`.
fn serve(value: &str) -> io::Result<()> {
    let (how, address) = value.split_once('@').unwrap_or((value, ""));
    let listener = if address.is_empty() {
        // SAFETY: init passed it as LISTEN_FDS, and nobody else here owns it.
        unsafe { TcpListener::from_raw_fd(3) }
    } else {
        TcpListener::bind(address)?
    };
    let mut held = Vec::new();
    for (count, stream) in listener.incoming().enumerate() {
        let stream = stream?;
        match how {
            // Accepts, and never answers; after two good answers, so that it was healthy once.
            "silent" if count >= 2 => held.push(stream),
            "ok" | "silent" => respond(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?,
            // A crash after each so many requests.
            "ok-then-die" => {
                respond(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
                if count >= 40 {
                    exit(1);
                }
            }
            "slow" => {
                pause(Duration::from_millis(300));
                respond(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            }
            "garbage" => respond(stream, &[0xff; 300])?,
            "redirect" => respond(
                stream,
                b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
            )?,
            "huge" => drop(huge(stream)),
            "drip" => {
                std::thread::spawn(move || drip(stream));
            }
            other => return Err(io::Error::other(format!("serve={other}"))),
        }
    }
    Ok(())
}

fn respond(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0u8; 512];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&part[..count]),
        }
    }
    match stream.write_all(answer) {
        Err(e) if e.kind() != io::ErrorKind::ConnectionReset => Err(e),
        _ => Ok(()),
    }
}

/// A gigabyte, for whoever reads it.
fn huge(mut stream: TcpStream) -> io::Result<()> {
    let block = [b'x'; 65_536];
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    for _ in 0..16_384 {
        stream.write_all(&block)?;
    }
    Ok(())
}

/// Three bytes a second.
fn drip(mut stream: TcpStream) {
    for byte in b"HTTP/1.1 200 OK\r\n\r\n" {
        pause(Duration::from_millis(300));
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
    }
}

/// Reloads at each HUP, and says so as systemd wants it (`Type=notify-reload`).
fn reload() -> io::Result<()> {
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGHUP);
    set.thread_block()?;
    notify("READY=1", None)?;
    loop {
        set.wait()?;
        notify("RELOADING=1", None)?;
        say("reloading");
        notify("READY=1", None)?;
    }
}

fn flood(lines: u64) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout());
    for number in 0..lines {
        writeln!(out, "line {number}")?;
    }
    out.flush()
}

/// What no terminal should get: NUL, broken UTF-8, an escape, and no line end.
fn bytes() -> io::Result<()> {
    io::stdout().write_all(b"a\0b\xff\xfec\x1b[2J\nlast words")?;
    io::stdout().flush()
}

/// Pings the watchdog for so many milliseconds, then falls silent.
fn ping(millis: u64) -> io::Result<()> {
    let end = Instant::now() + Duration::from_millis(millis);
    while Instant::now() < end {
        notify("WATCHDOG=1", None)?;
        pause(Duration::from_millis(20));
    }
    Ok(())
}

/// What a clean child has to show: its descriptors and its signals.
fn show_self() -> io::Result<()> {
    let open = (0..1024).filter(|fd| {
        // SAFETY: a query about a number, which fails for those that are not open.
        unsafe { libc::fcntl(*fd, libc::F_GETFD) >= 0 }
    });
    let open: Vec<String> = open.map(|fd| fd.to_string()).collect();
    say(&format!("open {}", open.join(" ")));
    let status = std::fs::read_to_string("/proc/self/status")?;
    for line in status.lines().filter(|l| l.starts_with("Sig")) {
        say(&line.replace('\t', " "));
    }
    Ok(())
}
