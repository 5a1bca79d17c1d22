//! The server of BusyBox, `udhcpd`: what small routers have.

use std::fs::{self, OpenOptions};

use super::{Host, Process, Server};

pub fn cannot(server: &Server) -> Option<&'static str> {
    if server.rapid_commit {
        return Some("udhcpd has no rapid commit");
    }
    // Or rather, it always does where there is something to say no to.
    (!server.authoritative).then_some("udhcpd says no to every address that it does not know")
}

pub fn start(host: &Host, server: &Server) -> Process {
    let config = host.folder.join("udhcpd.conf");
    let leases = host.folder.join("udhcpd.leases");
    let mut options = vec![
        format!("router {}", server.router),
        format!("dns {} {}", server.dns[0], server.dns[1]),
        format!("domain {}", server.domain),
        format!("subnet {}", server.mask()),
        format!("lease {}", server.lease),
        format!("0x3a {:08x}", server.t1),
        format!("0x3b {:08x}", server.t2),
    ];
    options.extend(server.mtu.map(|mtu| format!("mtu {mtu}")));
    if !server.routes.is_empty() {
        let pairs: Vec<String> = server
            .routes
            .iter()
            .map(|(to, via)| format!("{to} {via}"))
            .collect();
        options.push(format!("staticroutes {}", pairs.join(", ")));
    }
    let options: String = options
        .iter()
        .map(|option| format!("option {option}\n"))
        .collect();
    let text = format!(
        "start {first}\nend {last}\ninterface srv\nmin_lease 10\n\
         lease_file {leases}\npidfile {pid}\n{options}",
        first = server.address(server.pool.0),
        last = server.address(server.pool.1),
        leases = leases.display(),
        pid = host.folder.join("udhcpd.pid").display(),
    );
    fs::write(&config, text).expect("own folder");
    let exists = OpenOptions::new().create(true).append(true).open(&leases);
    exists.expect("own folder");
    let mut command = host.command("udhcpd");
    // No ARP probe of an address before it is offered.
    command.args(["-f", "-a", "0"]).arg(config);
    let mut process = Process::start("udhcpd", &mut command);
    process.wait_udp_67();
    process
}
