//! Descriptors that init holds for a service over its restarts: its listening sockets, and what
//! it stored (systemd: `sd_listen_fds(3)`, `FDSTORE=1` of `sd_notify(3)`).
//!
//! A listening socket is made before the first start and lives as long as init does, so a client that
//! connects while the service is being restarted waits in the socket's queue and is not refused. It is bound
//! before the machine has its addresses (ip(7), `IP_FREEBIND`; systemd: `FreeBind=`). A socket that could not
//! be made (its address is taken) is tried again at each start, and the start fails until it can.
//!
//! What a service stored is given to its next instance, and closed when the service is to be down, or, if
//! it is a socket or a pipe, when its other end has hung up. Stored descriptors are a stranger's: see
//! [`crate::received`] for what may be done with them.

use super::unix_socket::{Access, bound_to};
use crate::core::SpawnFailure;
use crate::received::ReceivedFd;
use crate::spec::ListenSocket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use std::io;
use std::net::SocketAddr;

/// Connections that wait for the service: as many as the kernel allows (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// See the module.
#[derive(Debug)]
pub struct Held {
    sockets: Vec<(ListenSocket, Option<OwnedFd>)>,
    stored: Vec<(String, ReceivedFd)>,
    stored_max: usize,
    access: Access,
}

impl Held {
    /// For these sockets, and so many stored descriptors. `access` is of sockets in the file system.
    #[must_use]
    pub fn new(sockets: &[ListenSocket], stored_max: usize, access: Access) -> Self {
        Self {
            sockets: sockets.iter().map(|s| (s.clone(), None)).collect(),
            stored: Vec::new(),
            stored_max,
            access,
        }
    }

    /// Makes every socket that is not there yet.
    ///
    /// # Errors
    /// Names the first socket that could not be made.
    pub fn open(&mut self) -> Result<(), SpawnFailure> {
        let mut result = Ok(());
        for (socket, fd) in self.sockets.iter_mut().filter(|(_, fd)| fd.is_none()) {
            match make(socket, self.access) {
                Ok(made) => *fd = Some(made),
                Err(e) => {
                    let failure = SpawnFailure::of_a_socket(format_args!("sockets: {socket}"), &e);
                    result = result.and(Err(failure));
                }
            }
        }
        result
    }

    /// Everything to pass, in the order of `LISTEN_FDS`, each with its name.
    pub fn all(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let sockets = self.sockets.iter().filter_map(|(socket, fd)| {
            let name = socket.to_string().replace(':', "-");
            Some((name, fd.as_ref()?.as_fd()))
        });
        let stored = self.stored.iter();
        sockets.chain(stored.map(|(name, fd)| (name.clone(), fd.as_fd())))
    }

    /// How many descriptors the service stored.
    #[must_use]
    pub fn stored(&self) -> usize {
        self.stored.len()
    }

    /// Keeps descriptors for the service.
    ///
    /// # Errors
    /// Says how many did not fit; they are closed.
    pub fn store(&mut self, name: &str, descriptors: Vec<ReceivedFd>) -> Result<(), String> {
        let all = descriptors.len();
        if !descriptors.iter().all(ReceivedFd::may_be_kept) {
            return Err(format!(
                "{all} descriptors refused: init is near its own limit (RLIMIT_NOFILE); \
                 lower fd-store-max, or raise the limit that init is started with"
            ));
        }
        let room = self.stored_max.saturating_sub(self.stored.len());
        let kept = descriptors.into_iter().take(room);
        self.stored.extend(kept.map(|fd| (name.to_owned(), fd)));
        if all > room {
            return Err(format!(
                "{} descriptors refused, fd-store-max is {}",
                all - room,
                self.stored_max
            ));
        }
        Ok(())
    }

    /// Closes those of one name.
    pub fn remove(&mut self, name: &str) {
        self.stored.retain(|(n, _)| n != name);
    }

    /// Closes everything that was stored.
    pub fn drop_stored(&mut self) {
        self.stored.clear();
    }

    /// Closes what has hung up.
    pub fn sift(&mut self) {
        self.stored.retain(|(_, fd)| {
            if !is_socket_or_pipe(fd.as_fd()) {
                return true;
            }
            let mut state = [PollFd::new(fd, PollFlags::empty())];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let asked = poll(&mut state, Some(&now));
            let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
            asked.is_err() || !state.iter().any(|s| s.revents().intersects(gone))
        });
    }
}

/// Whether the kernel itself answers a poll of it: that of a file would be a question to whoever serves
/// its file system (FUSE). So would be the question for its type, unless the kernel is to answer by
/// what it knows (statx(2), `AT_STATX_DONT_SYNC`).
fn is_socket_or_pipe(fd: BorrowedFd<'_>) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(fd, c"", flags, StatxFlags::TYPE).is_ok_and(|stat| {
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        matches!(kind, FileType::Socket | FileType::Fifo)
    })
}

fn make(socket: &ListenSocket, access: Access) -> io::Result<OwnedFd> {
    let internet = |address: &SocketAddr, kind| -> io::Result<OwnedFd> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let fd = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        // An address of one interface may come later than the service, from DHCP for example. The kernel
        // accepts connections to it from the moment it is there.
        match address {
            SocketAddr::V4(_) => sockopt::set_ip_freebind(&fd, true)?,
            SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&fd, true)?,
        }
        bind(&fd, address)?;
        Ok(fd)
    };
    match socket {
        ListenSocket::Udp(address) => internet(address, SocketType::DGRAM),
        ListenSocket::Tcp(address) => {
            let fd = internet(address, SocketType::STREAM)?;
            listen(&fd, BACKLOG)?;
            Ok(fd)
        }
        ListenSocket::Unix(path) => {
            let fd = bound_to(path, access)?;
            listen(&fd, BACKLOG)?;
            Ok(fd)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::received::Closer;
    use rustix::net::{SocketFlags, socketpair};

    const ROOT: Access = Access {
        uid: 0,
        gid: 0,
        mode: 0o666,
    };

    fn pair() -> (OwnedFd, OwnedFd) {
        let kind = SocketType::STREAM;
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_full_store_refuses_and_a_dead_descriptor_is_sifted_out() {
        let mut held = Held::new(&[], 2, ROOT);
        let closer = Closer::new(usize::MAX).unwrap();
        let source = closer.source();
        let (a, a_end) = pair();
        let (b, _b_end) = pair();
        let (c, _c_end) = pair();
        let [a, b, c] = [a, b, c].map(|fd| source.received(fd));
        let refused = held.store("x", vec![a, b, c]).unwrap_err();
        assert!(refused.starts_with("1 descriptors refused"), "{refused}");
        drop(a_end);
        held.sift();
        assert_eq!(held.stored(), 1);
        held.remove("y");
        assert_eq!(held.stored(), 1);
        held.remove("x");
        assert_eq!(held.stored(), 0);
    }

    #[test]
    fn a_predecessor_s_socket_is_replaced_and_a_file_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("init-held-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let open = || Held::new(&[ListenSocket::Unix(path.clone())], 0, ROOT).open();
        open().unwrap();
        open().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(open().unwrap_err().why.contains("/socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_address_that_is_not_there_yet_is_bound() {
        // RFC 5737, RFC 3849: addresses that nobody has.
        for address in ["192.0.2.1:0", "[2001:db8::1]:0"].map(|text| text.parse().unwrap()) {
            for socket in [ListenSocket::Tcp(address), ListenSocket::Udp(address)] {
                let mut held = Held::new(std::slice::from_ref(&socket), 0, ROOT);
                assert_eq!(held.open(), Ok(()), "{socket}");
            }
        }
    }

    #[test]
    fn an_address_that_is_taken_is_named_and_tried_again() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut held = Held::new(&[ListenSocket::Tcp(address)], 0, ROOT);
        let error = held.open().unwrap_err();
        assert!(error.why.contains(&address.to_string()), "{error}");
        assert_eq!(held.all().count(), 0);
        drop(taken);
        held.open().unwrap();
        assert_eq!(held.all().count(), 1);
    }
}
