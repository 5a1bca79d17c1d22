//! Values that have a small language of their own: signals, sockets, probe targets.

use super::{ListenSocket, ProbeTarget};
use std::path::PathBuf;

/// A signal by name, with or without `SIG` (signal(7)); those that make sense to send.
pub(super) fn signal(name: &str) -> Result<i32, String> {
    Ok(match name.strip_prefix("SIG").unwrap_or(name) {
        "TERM" => libc::SIGTERM,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "HUP" => libc::SIGHUP,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "WINCH" => libc::SIGWINCH,
        "KILL" => libc::SIGKILL,
        _ => {
            return Err(format!(
                "{name:?} is not a signal; write TERM, INT, QUIT, HUP, USR1, USR2, WINCH or KILL"
            ));
        }
    })
}

/// `tcp:ADDRESS:PORT`, `udp:ADDRESS:PORT` or `unix:/PATH`.
pub(super) fn socket(text: &str) -> Result<ListenSocket, String> {
    let help = || {
        format!(
            "{text:?} is not tcp:ADDRESS:PORT, udp:ADDRESS:PORT or unix:/PATH, as in \"tcp:0.0.0.0:8000\""
        )
    };
    match text.split_once(':').ok_or_else(help)? {
        ("tcp", address) => Ok(ListenSocket::Tcp(address.parse().map_err(|_| help())?)),
        ("udp", address) => Ok(ListenSocket::Udp(address.parse().map_err(|_| help())?)),
        // unix(7): `sun_path` has 108 bytes, the last of which is a NUL.
        ("unix", path) if path.starts_with('/') && path.len() < 108 && !path.contains('\0') => {
            Ok(ListenSocket::Unix(PathBuf::from(path)))
        }
        _ => Err(help()),
    }
}

/// `http://ADDRESS:PORT/PATH` with a literal address.
pub(super) fn url(url: &str) -> Result<ProbeTarget, String> {
    let help = || {
        format!(
            "http = {url:?} is not http://ADDRESS:PORT/PATH with a literal address, as in \"http://127.0.0.1:8000/health\""
        )
    };
    let rest = url.strip_prefix("http://").ok_or_else(help)?;
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    let address = authority.parse().map_err(|_| help())?;
    // What goes on the request line must not be able to end it (RFC 9112 section 3).
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(help());
    }
    let path = if path.is_empty() {
        "/".to_owned()
    } else {
        path.to_owned()
    };
    Ok(ProbeTarget::Http { address, path })
}

/// A program by absolute path and its arguments.
pub(super) fn command(words: &[String]) -> Result<(), String> {
    match words.first() {
        Some(program) if program.starts_with('/') => {}
        Some(program) => return Err(format!("the program {program:?} is not an absolute path")),
        None => return Err("is empty; name the program and its arguments".into()),
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err("an argument holds a NUL byte".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets() {
        assert_eq!(
            socket("tcp:[::1]:80"),
            Ok(ListenSocket::Tcp("[::1]:80".parse().unwrap()))
        );
        assert!(matches!(socket("unix:/run/x"), Ok(ListenSocket::Unix(_))));
        for bad in [
            "tcp:80",
            "tcp:localhost:80",
            "unix:x",
            "sctp:1.2.3.4:5",
            "80",
            "",
        ] {
            assert!(socket(bad).unwrap_err().contains("0.0.0.0:8000"), "{bad}");
        }
    }

    #[test]
    fn signals() {
        assert_eq!(signal("SIGTERM"), signal("TERM"));
        assert!(signal("TREM").unwrap_err().contains("USR1"));
    }
}
