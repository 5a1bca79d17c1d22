//! The server of ISC DHCP, `dhcpd`: not developed any more, and everywhere.

use std::fs::{self, OpenOptions};

use super::{Host, Process, Server};

pub fn cannot(server: &Server) -> Option<&'static str> {
    server
        .rapid_commit
        .then_some("ISC dhcpd has rapid commit for DHCPv6 only")
}

pub fn start(host: &Host, server: &Server) -> Process {
    let config = host.folder.join("dhcpd.conf");
    let leases = host.folder.join("dhcpd.leases");
    let mut options = vec![
        format!("routers {}", server.router),
        format!(
            "domain-name-servers {}",
            server.dns.map(|dns| dns.to_string()).join(", ")
        ),
        format!("domain-name \"{}\"", server.domain),
        format!("subnet-mask {}", server.mask()),
        format!("dhcp-renewal-time {}", server.t1),
        format!("dhcp-rebinding-time {}", server.t2),
    ];
    options.extend(server.mtu.map(|mtu| format!("interface-mtu {mtu}")));
    if !server.routes.is_empty() {
        let bytes: Vec<String> = server.route_bytes().iter().map(u8::to_string).collect();
        options.push(format!("classless-routes {}", bytes.join(", ")));
    }
    let options: String = options
        .iter()
        .map(|option| format!("    option {option};\n"))
        .collect();
    let text = format!(
        "option classless-routes code 121 = array of unsigned integer 8;\n\
         {authoritative} authoritative;\n\
         always-broadcast {broadcast};\n\
         ping-check false;\n\
         ddns-update-style none;\n\
         # Or a lease that is renewed early keeps the end it has.\n\
         dhcp-cache-threshold 0;\n\
         min-lease-time {lease};\ndefault-lease-time {lease};\nmax-lease-time {lease};\n\
         subnet 10.{net}.0.0 netmask 255.255.255.0 {{\n    range {first} {last};\n{options}}}\n",
        authoritative = if server.authoritative { "" } else { "not" },
        broadcast = server.broadcast_only,
        lease = server.lease,
        net = server.net,
        first = server.address(server.pool.0),
        last = server.address(server.pool.1),
    );
    fs::write(&config, text).expect("own folder");
    // It wants the file to exist.
    let exists = OpenOptions::new().create(true).append(true).open(&leases);
    exists.expect("own folder");
    let mut command = host.command("dhcpd");
    command
        .args(["-4", "-f", "-d", "--no-pid", "-cf"])
        .arg(config)
        .arg("-lf")
        .arg(leases)
        .arg("srv");
    let mut process = Process::start("dhcpd", &mut command);
    process.wait_line("that it serves", |line| {
        line.contains("Server starting service").then_some(())
    });
    process
}
