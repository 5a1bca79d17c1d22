//! The text of `resolv.conf`.
//!
//! It is made of numbers we format ourselves and of names that pass a strict filter, so no byte
//! in it is a stranger's choice beyond letters, digits, hyphens, underscores and dots.

use std::fmt::Write as _;

use crate::desired::NameServer;
use crate::dhcp4::walk::is_name;

/// resolv.conf(5): MAXNS.
const MAX_SERVERS: usize = 3;
/// resolv.conf(5): the search list is limited to 256 characters by old resolvers.
const MAX_SEARCH: usize = 256;

/// The file for these servers and search domains, best first.
pub fn resolv_conf<'a>(
    servers: impl IntoIterator<Item = &'a NameServer>,
    domains: impl IntoIterator<Item = &'a String>,
) -> String {
    let mut text = String::from("# Written by netcfg; changes are lost.\n");
    let mut listed: Vec<&NameServer> = Vec::new();
    for server in servers {
        let known = listed.contains(&server);
        if listed.len() < MAX_SERVERS && !known && server.link.as_deref().is_none_or(is_link) {
            listed.push(server);
        }
    }
    for server in listed {
        let _ = writeln!(text, "nameserver {server}");
    }
    let mut search = String::from("search");
    let mut seen: Vec<&str> = Vec::new();
    for domain in domains {
        let domain = domain.trim_end_matches('.');
        if is_name(domain.as_bytes())
            && !seen.contains(&domain)
            && search.len() + 1 + domain.len() <= MAX_SEARCH
        {
            seen.push(domain);
            search.push(' ');
            search.push_str(domain);
        }
    }
    if !seen.is_empty() {
        text.push_str(&search);
        text.push('\n');
    }
    text
}

/// Whether the name of a link can stand behind an address.
fn is_link(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn body(servers: &[IpAddr], domains: &[&str]) -> String {
        let domains: Vec<String> = domains.iter().map(|domain| (*domain).to_owned()).collect();
        let servers: Vec<NameServer> = servers
            .iter()
            .map(|address| NameServer {
                address: *address,
                link: None,
            })
            .collect();
        let text = resolv_conf(&servers, &domains);
        let (_, body) = text.split_once('\n').expect("has a first line");
        body.to_owned()
    }

    #[test]
    fn servers_and_domains() {
        let v4 = |last| IpAddr::from([10, 0, 0, last]);
        let v6: IpAddr = "2001:db8::53".parse().expect("address");
        assert_eq!(
            body(&[v4(1), v6, v4(1)], &["example.net.", "example.net"]),
            "nameserver 10.0.0.1\nnameserver 2001:db8::53\nsearch example.net\n"
        );
        assert_eq!(body(&[v4(1), v4(2), v4(3), v4(4)], &[]).lines().count(), 3);
        assert_eq!(body(&[], &[]), "");
    }

    #[test]
    fn a_server_of_a_link_names_it() {
        let near = |link: &str| NameServer {
            address: "fe80::1".parse().expect("address"),
            link: Some(link.to_owned()),
        };
        let text = resolv_conf(&[near("e;th0"), near("eth0")], &[]);
        assert!(text.ends_with("changes are lost.\nnameserver fe80::1%eth0\n"));
    }

    #[test]
    fn nothing_but_names_gets_in() {
        assert_eq!(
            body(&[], &["a\nnameserver 6.6.6.6", "b c", "-x", "ok.example"]),
            "search ok.example\n"
        );
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join(".");
        let text = body(&[], &[&long, "tail.example", &format!("x.{long}")]);
        assert_eq!(text, format!("search {long} tail.example\n"));
    }
}
