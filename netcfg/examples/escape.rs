//! Tries to do what netcfg never does: `escape FOLDER ATTEMPT [free]`.
//!
//! FOLDER has `state` and `run`, and beside them what is not netcfg's. The process enters the sandbox
//! exactly as netcfg does, unless it is `free`, then makes one attempt and prints what came of it:
//! `allowed`, or the error. An attempt that is not on the list of system calls prints nothing more.
//! `tests/sandbox.rs` runs it.

use std::fs;
use std::future::poll_fn;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::task::Poll;
use std::time::Duration;

use netcfg::control::protocol::Reply;
use netcfg::control::server::Server;
use netcfg::status::Status;

mod sys {
    //! Raw system calls, to try those that no library makes.
    #![expect(unsafe_code, reason = "that is the attempt")]

    /// Calls with numbers only, or with null pointers.
    pub fn call(number: libc::c_long, arguments: [libc::c_long; 4]) -> std::io::Result<()> {
        let [a, b, c, d] = arguments;
        // SAFETY: the callers pass numbers and null pointers, which the kernel checks.
        let result = unsafe { libc::syscall(number, a, b, c, d) };
        if result < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// Maps a page with this protection.
    pub fn map(protection: i32) -> std::io::Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    }
}

fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<()> {
    let arguments = [domain.into(), kind.into(), protocol.into(), 0];
    sys::call(libc::SYS_socket, arguments)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, attempt, free) = match arguments.as_slice() {
        [folder, attempt] => (Path::new(folder), attempt.as_str(), false),
        [folder, attempt, free] if free == "free" => (Path::new(folder), attempt.as_str(), true),
        _ => {
            eprintln!("usage: escape FOLDER ATTEMPT [free]");
            return ExitCode::from(2);
        }
    };
    let program = Command::new("/bin/true");
    // Made before, as an inherited one would be: only Landlock is between it and the network.
    let early = EarlyTcp::new();
    let served = Served::new(&folder.join("run"));
    let sandbox =
        (!free).then(|| netcfg::sandbox::enter(&folder.join("state"), &folder.join("run")));
    if let Some(gap) = sandbox.as_ref().and_then(netcfg::sandbox::Sandbox::gap) {
        println!("gap {gap}");
    }
    match try_to(attempt, folder, program, &early, served) {
        Ok(()) => println!("allowed"),
        Err(error) => println!("{:?}", error.kind()),
    }
    ExitCode::SUCCESS
}

/// A TCP socket that is not bound.
struct EarlyTcp(rustix::fd::OwnedFd);

impl EarlyTcp {
    fn new() -> EarlyTcp {
        let made = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        );
        EarlyTcp(made.expect("a socket"))
    }

    fn bind(&self) -> io::Result<()> {
        let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 4242);
        Ok(rustix::net::bind(&self.0, &any)?)
    }
}

/// The control socket, which netcfg makes before, and a client that has asked.
struct Served {
    runtime: tokio::runtime::Runtime,
    server: Server,
    client: UnixStream,
}

impl Served {
    fn new(runtime_dir: &Path) -> Served {
        let path = runtime_dir.join("control");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        let server = runtime
            .block_on(async { Server::bind(&path) })
            .expect("a socket");
        let mut client = UnixStream::connect(&path).expect("it listens");
        client
            .write_all(b"{\"verb\":\"net\"}\n")
            .expect("connected");
        Served {
            runtime,
            server,
            client,
        }
    }

    fn answer(mut self) -> io::Result<()> {
        let server = &mut self.server;
        self.runtime.block_on(async {
            let now = Duration::ZERO;
            let request = poll_fn(|cx| server.poll_request(cx, now)).await;
            server.reply(&request.client, &Reply::net(Status::default()), now);
            poll_fn(|cx| Poll::Ready(server.poll_request(cx, now).is_ready())).await;
        });
        drop(self.server);
        let mut answer = String::new();
        self.client.read_to_string(&mut answer)?;
        answer
            .starts_with("{\"ok\":true")
            .then_some(())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn try_to(
    attempt: &str,
    folder: &Path,
    mut program: Command,
    tcp: &EarlyTcp,
    served: Served,
) -> io::Result<()> {
    match attempt {
        // What netcfg does.
        "control" => served.answer(),
        "replace" => {
            for of in ["state", "run"] {
                let (fresh, path) = (folder.join(of).join(".a.new"), folder.join(of).join("a"));
                fs::write(&fresh, "text")?;
                fs::rename(&fresh, &path)?;
                fs::rename(&path, folder.join(of).join("b"))?;
                fs::File::open(folder.join(of))?.sync_all()?;
                fs::read_dir(folder.join(of))?.try_for_each(|entry| entry.map(|_| ()))?;
                fs::remove_file(folder.join(of).join("b"))?;
                let directory = folder.join(of).join("directory");
                fs::rename(&directory, folder.join(of).join("aside"))?;
            }
            Ok(())
        }
        "boot-id" => fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|_| ()),
        "sys" => {
            fs::read_link("/sys/class/net/lo")?;
            fs::read_to_string("/sys/class/net/lo/mtu").map(|_| ())
        }
        "clock" => {
            let _ = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            let _ = std::time::SystemTime::now();
            Ok(())
        }
        "sysctl" => set_sysctl(),
        "sysctl-later" => {
            println!("entered");
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line)?;
            set_sysctl()
        }
        "sockets" => {
            socket(libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_ROUTE)?;
            socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
            socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)?;
            socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
            socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)
        }
        "memory" => {
            // Large, grown, and given back: every path of an allocator.
            let mut bytes: Vec<u8> = vec![1; 1 << 20];
            bytes.resize(64 << 20, 2);
            bytes.truncate(10);
            bytes.shrink_to_fit();
            let small: Vec<Vec<u8>> = (0..10_000).map(|n| vec![0; n % 5000]).collect();
            drop((bytes, small));
            Ok(())
        }
        "abort" => std::process::abort(),
        "panic" => panic!("on purpose"),

        // What Landlock forbids.
        "read-passwd" => fs::read("/etc/passwd").map(|_| ()),
        "read-self" => fs::read("/proc/self/environ").map(|_| ()),
        "read-outside" => fs::read(folder.join("outside/there")).map(|_| ()),
        "list-outside" => fs::read_dir(folder.join("outside")).map(|_| ()),
        "write-outside" => fs::write(folder.join("outside/new"), "text"),
        "leave-by-dots" => fs::write(folder.join("run/../outside/new"), "text"),
        "rename-out" => {
            fs::write(folder.join("run/c"), "text")?;
            fs::rename(folder.join("run/c"), folder.join("outside/c"))
        }
        "write-random" => fs::write("/proc/self/comm", "text"),
        "device" => fs::File::open("/dev/zero")?.read_exact(&mut [0; 4]),
        "tcp-bind" => tcp.bind(),

        // What ends the process.
        "execute" => Err(program.exec()),
        "fork" => sys::call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
        "thread" => std::thread::Builder::new().spawn(|| {}).map(|_| ()),
        "trace" => sys::call(libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0, 0]),
        "signal" => sys::call(libc::SYS_kill, [0, 0, 0, 0]),
        "signal-thread" => {
            let parent = i64::from(std::os::unix::process::parent_id());
            sys::call(libc::SYS_tgkill, [parent, parent, 0, 0])
        }
        "handle" => sys::call(libc::SYS_open_by_handle_at, [0; 4]),
        "memfd" => sys::call(libc::SYS_memfd_create, [0; 4]),
        "mount" => sys::call(libc::SYS_mount, [0; 4]),
        "unshare" => sys::call(libc::SYS_unshare, [0; 4]),
        "bpf" => sys::call(libc::SYS_bpf, [0; 4]),
        "io-uring" => sys::call(libc::SYS_io_uring_setup, [0; 4]),
        "peek" => sys::call(libc::SYS_process_vm_readv, [0; 4]),
        "module" => sys::call(libc::SYS_finit_module, [0; 4]),
        "setuid" => sys::call(libc::SYS_setuid, [801, 0, 0, 0]),
        "link" => fs::hard_link(folder.join("outside/there"), folder.join("run/there")),
        "symlink" => std::os::unix::fs::symlink("/etc/passwd", folder.join("run/link")),
        "code" => sys::map(libc::PROT_READ | libc::PROT_EXEC),
        "write-and-run" => sys::map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC),
        "vsock" => socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        "unix" => socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0),
        "tcp" => TcpListener::bind("127.0.0.1:0").map(|_| ()),
        "raw" => socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        "netfilter" => socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
        "terminal" => sys::call(libc::SYS_ioctl, [0, 0x5412, 0, 0]),
        other => {
            eprintln!("escape: `{other}` is no attempt");
            std::process::exit(2)
        }
    }
}

fn set_sysctl() -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open("/proc/sys/net/ipv4/conf/lo/promote_secondaries")
        .and_then(|mut file| file.write_all(b"1"))
}
