//! dnsmasq: rapid commit, and options forced upon who did not ask. Its shortest lease is of two
//! minutes.

use super::{Host, Process, Server};

/// In its source, and not to be configured.
const SHORTEST: u32 = 120;

/// The same: it takes a T1 or T2 of less for a mistake, and its own instead.
const SHORTEST_T1: u32 = 3;

pub fn cannot(server: &Server) -> Option<&'static str> {
    if server.lease < SHORTEST {
        return Some("dnsmasq gives no lease of less than two minutes");
    }
    (server.t1 < SHORTEST_T1).then_some("dnsmasq has no T1 of less than three seconds")
}

pub fn start(host: &Host, server: &Server) -> Process {
    let leases = host.folder.join("dnsmasq.leases");
    let dns = server.dns.map(|dns| dns.to_string()).join(",");
    let mut arguments = vec![
        format!("--dhcp-leasefile={}", leases.display()),
        format!("--dhcp-option=option:T1,{}", server.t1),
        format!("--dhcp-option=option:T2,{}", server.t2),
        format!("--dhcp-option=3,{}", server.router),
        format!("--dhcp-option=6,{dns}"),
        format!("--domain={}", server.domain),
    ];
    if server.lone {
        arguments.push(format!("--dhcp-option-force=1,{}", server.mask()));
    }
    arguments.extend(server.mtu.map(|mtu| format!("--dhcp-option=26,{mtu}")));
    if !server.routes.is_empty() {
        let pairs: Vec<String> = server
            .routes
            .iter()
            .map(|(to, via)| format!("{to},{via}"))
            .collect();
        arguments.push(format!("--dhcp-option=121,{}", pairs.join(",")));
    }
    let switches = [
        (server.rapid_commit, "--dhcp-rapid-commit"),
        (server.authoritative, "--dhcp-authoritative"),
        (server.broadcast_only, "--dhcp-broadcast"),
        (!server.ping_check, "--no-ping"),
    ];
    for (on, switch) in switches {
        arguments.extend(on.then(|| switch.to_owned()));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    start_with(host, server.net, server.pool, server.lease, &arguments)
}

pub fn start_with(
    host: &Host,
    net: u8,
    (first, last): (u8, u8),
    lease: u32,
    arguments: &[&str],
) -> Process {
    let mut command = host.command("dnsmasq");
    command
        .args(["--no-daemon", "--conf-file=/dev/null", "--user=root"])
        .args(["--port=0", "--interface=srv"])
        .args(["--bind-dynamic", "--log-dhcp"])
        .arg(format!(
            "--dhcp-range=10.{net}.0.{first},10.{net}.0.{last},{lease}"
        ));
    if !arguments
        .iter()
        .any(|argument| argument.starts_with("--dhcp-leasefile"))
    {
        command.arg("--dhcp-leasefile=/dev/null");
    }
    command.args(arguments);
    let mut process = Process::start("dnsmasq", &mut command);
    process.wait_line("that it serves", |line| {
        line.contains("IP range").then_some(())
    });
    process
}
