//! What is right in each part of a configuration and wrong together.

use super::{Findings, of_service};
use crate::config::{Config, DirectoryConfig, directory_mode};
use crate::manager::STOP_MAX;
use crate::system::prepare;
use std::net::SocketAddr;
use std::path::Path;
use supervisor::driver::Users;
use supervisor::spec::{ListenSocket, Spec};

/// `users` are those of the image, if it is known.
pub(super) fn check(config: &Config, users: Option<&Users>, findings: &mut Findings<'_>) {
    services(&config.services, findings);
    sockets(&config.services, findings);
    directories(&config.directories, users, findings);
}

fn services(services: &[Spec], findings: &mut Findings<'_>) {
    if services.is_empty() {
        let message =
            "no service is configured, so the machine does nothing; add [service.NAME] with `exec`";
        findings.error(&["service"], message.into());
    } else if !services.iter().any(|spec| spec.required) {
        let message =
            "no service has `required = true`, so nothing says when the machine is healthy";
        findings.warning(&["service"], message.into());
    }
    for spec in services.iter().filter(|spec| spec.stop_timeout > STOP_MAX) {
        let name = &spec.name;
        let message = format!(
            "service.{name}.stop.timeout: {} s is longer than the {} s that a shutdown waits for all services",
            spec.stop_timeout.as_secs(),
            STOP_MAX.as_secs()
        );
        findings.warning(&of_service(name, "stop.timeout"), message);
    }
}

/// Two sockets on one address: the second service would never start.
fn sockets(services: &[Spec], findings: &mut Findings<'_>) {
    let all = services
        .iter()
        .flat_map(|spec| spec.sockets.iter().map(move |s| (spec, s)));
    let all: Vec<(&Spec, &ListenSocket)> = all.collect();
    for (number, (spec, socket)) in all.iter().enumerate() {
        let earlier = all
            .iter()
            .take(number)
            .find(|(_, earlier)| collide(earlier, socket));
        if let Some((other, taken)) = earlier {
            let message = format!(
                "{socket} cannot be opened beside {taken} of service {}",
                other.name
            );
            findings.service(&spec.name, "sockets", &message);
        }
    }
}

/// ip(7): an address that is bound is taken, and the unspecified one stands for all of its family; ipv6(7): `::`
/// stands for those of IPv4 too.
fn collide(a: &ListenSocket, b: &ListenSocket) -> bool {
    match (a, b) {
        (ListenSocket::Tcp(a), ListenSocket::Tcp(b)) => addresses_collide(a, b),
        // `SO_REUSEADDR`, which init sets, lets datagram sockets share one; the datagrams go to the last.
        (ListenSocket::Udp(a), ListenSocket::Udp(b)) => addresses_collide(a, b),
        (ListenSocket::Unix(a), ListenSocket::Unix(b)) => a == b,
        _ => false,
    }
}

fn addresses_collide(a: &SocketAddr, b: &SocketAddr) -> bool {
    let any = |x: &SocketAddr, y: &SocketAddr| {
        x.ip().is_unspecified() && (x.is_ipv6() || x.is_ipv4() == y.is_ipv4())
    };
    // Port 0 is a free one.
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || any(a, b) || any(b, a))
}

/// A directory below one that somebody else may write to: at each boot root gives it away by its path, and
/// whoever may write to the upper one decides what is at that path.
fn directories(entries: &[DirectoryConfig], users: Option<&Users>, findings: &mut Findings<'_>) {
    let own = prepare::own_directories();
    for (number, entry) in entries.iter().enumerate() {
        if let Some(own) = own.iter().find(|own| parts(own) == parts(entry)) {
            let message = format!(
                "directory {:?} is init's own; leave the entry out",
                own.path
            );
            findings.directory(number, "path", message);
            continue;
        }
        for upper in entries
            .iter()
            .chain(&own)
            .filter(|upper| is_below(entry, upper))
        {
            if let Some(why) = not_safe_below(entry, upper, users) {
                let message = format!("directory {:?}: {why}", entry.path);
                findings.directory(number, "user", message);
            }
        }
        for lower in own.iter().filter(|lower| is_below(lower, entry)) {
            if not_safe_below(lower, entry, users).is_some() {
                let message = format!(
                    "directory {:?}: {:?} below it is init's own, so nobody but root may write here",
                    entry.path, lower.path
                );
                findings.directory(number, "user", message);
            }
        }
    }
}

fn parts(entry: &DirectoryConfig) -> Vec<std::path::Component<'_>> {
    Path::new(&entry.path).components().collect()
}

fn is_below(lower: &DirectoryConfig, upper: &DirectoryConfig) -> bool {
    parts(lower) != parts(upper) && parts(lower).starts_with(&parts(upper))
}

fn not_safe_below(
    lower: &DirectoryConfig,
    upper: &DirectoryConfig,
    users: Option<&Users>,
) -> Option<String> {
    let owner = |entry: &DirectoryConfig| id(entry.user.as_deref(), users, Users::user);
    let name = |entry: &DirectoryConfig| entry.user.clone().unwrap_or_else(|| "root".into());
    if owner(upper) != "0" && owner(lower) != owner(upper) {
        return Some(format!(
            "it belongs to {}, but {:?} above it to {}, who could put a link in its place",
            name(lower),
            upper.path,
            name(upper)
        ));
    }
    let mode = directory_mode(upper).unwrap_or_default();
    let group = id(upper.group.as_deref(), users, Users::group);
    // inode(7): in a directory with the sticky bit only the owner of an entry can replace it.
    let others = mode & 0o1002 == 0o002 || mode & 0o1020 == 0o020 && group != "0";
    others.then(|| {
        format!(
            "{:?} above it has the mode {mode:04o}, so others than its owner could put a link in its place",
            upper.path
        )
    })
}

/// A user or a group by number, as far as that is known.
fn id(
    name: Option<&str>,
    users: Option<&Users>,
    look_up: fn(&Users, &str) -> Result<u32, String>,
) -> String {
    match name {
        None | Some("root") => "0".into(),
        Some(name) => users
            .and_then(|users| look_up(users, name).ok())
            .map_or_else(|| name.to_owned(), |id| id.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_exclude_each_other() {
        for (a, b, expected) in [
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "0.0.0.0:81", false),
            ("0.0.0.0:0", "0.0.0.0:0", false),
        ] {
            let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(addresses_collide(&a, &b), expected, "{a} {b}");
            assert_eq!(addresses_collide(&b, &a), expected, "{b} {a}");
        }
    }
}
