//! QEMU's user-mode network, as far as it is asked where the API of a machine is.
//!
//! QEMU listens on the host's loopback itself, at a port that the kernel picks when none is asked for,
//! and is asked for its number. A port that somebody else found free before QEMU starts can be
//! another machine's by the time QEMU listens.

use anyhow::{Context, Result};
use serde_json::json;

use crate::qmp::Qmp;

/// The value of `-netdev` for a network `id` that forwards a port of the loopback to `guest_port`; any
/// free one when `port` is `None`.
#[must_use]
pub fn netdev(id: &str, port: Option<u16>, guest_port: u16) -> String {
    let port = port.unwrap_or(0);
    format!("user,id={id},hostfwd=tcp:127.0.0.1:{port}-:{guest_port}")
}

/// The port of the loopback that QEMU forwards to `guest_port`.
///
/// # Errors
/// When QEMU is gone, or forwards none.
pub fn forwarded_port(qmp: &Qmp, guest_port: u16) -> Result<u16> {
    // There is no command of QMP itself for it.
    let command = json!({"command-line": "info usernet"});
    let answer = qmp.execute("human-monitor-command", command)?;
    let text = answer.as_str().unwrap_or_default();
    host_port(text, guest_port)
        .with_context(|| format!("QEMU forwards no port to {guest_port}: {text}"))
}

/// The answer has a table: protocol and state, descriptor, source address and port, destination
/// address and port, and the lengths of two queues.
fn host_port(text: &str, guest_port: u16) -> Option<u16> {
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [protocol, _, _, port, _, to, ..] = words[..] else {
            return None;
        };
        let forwards = protocol == "TCP[HOST_FORWARD]" && to.parse() == Ok(guest_port);
        port.parse().ok().filter(|port| forwards && *port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_out_of_the_table() {
        let text = "Hub -1 (net0):\r\n\
            \x20 Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n\
            \x20 TCP[ESTABLISHED]   5       127.0.0.1 40000       10.0.2.15  8000     0     0\r\n\
            \x20 TCP[HOST_FORWARD]   3       127.0.0.1 35452       10.0.2.15    22     0     0\r\n\
            \x20 TCP[HOST_FORWARD]   3       127.0.0.1 35453       10.0.2.15  8000     0     0\r\n";
        assert_eq!(host_port(text, 8000), Some(35453));
        assert_eq!(host_port(text, 80), None);
        assert_eq!(host_port("Hub -1 (net0):\r\n", 8000), None);
    }
}
