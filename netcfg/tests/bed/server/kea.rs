//! Kea: the strictest parser of the four, and leases of any length.

use std::fs;
use std::path::PathBuf;

use super::{Host, Process, Server};

pub fn cannot(server: &Server) -> Option<&'static str> {
    if server.rapid_commit {
        return Some("Kea has rapid commit for DHCPv6 only");
    }
    // Its other kind of socket, which cannot unicast, hears relays alone.
    server
        .broadcast_only
        .then_some("Kea broadcasts to clients that ask for it, and to no others")
}

/// Kea takes no interface that is not running when it starts.
pub fn start(host: &Host, server: &Server) -> Process {
    let config = host.folder.join("kea.json");
    let leases = host.folder.join("kea.leases");
    let option = |name: &str, data: &str| format!(r#"{{ "name": "{name}", "data": "{data}" }}"#);
    let mut options = vec![
        option("routers", &server.router.to_string()),
        option(
            "domain-name-servers",
            &server.dns.map(|dns| dns.to_string()).join(", "),
        ),
        option("domain-name", server.domain),
    ];
    options.extend(
        server
            .mtu
            .map(|mtu| option("interface-mtu", &mtu.to_string())),
    );
    if !server.routes.is_empty() {
        // This release has no name for it.
        let hex: String = server
            .route_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        options.push(format!(
            r#"{{ "code": 121, "csv-format": false, "data": "{hex}" }}"#
        ));
    }
    // The mask is that of the subnet, whatever the options say, unless this hook changes it.
    let hook = format!(
        r#"{{ "library": "{}", "parameters": {{ "options": [
            {{ "code": 1, "supersede": "0xffffffff" }} ] }} }}"#,
        flex_option().display()
    );
    let hooks = if server.lone { &hook } else { "" };
    let text = format!(
        r#"{{ "Dhcp4": {{
            "interfaces-config": {{ "interfaces": ["srv"] }},
            "hooks-libraries": [ {hooks} ],
            "lease-database": {{ "type": "memfile", "persist": true, "name": "{leases}" }},
            "authoritative": {authoritative},
            "valid-lifetime": {lease}, "renew-timer": {t1}, "rebind-timer": {t2},
            "subnet4": [ {{ "id": 1, "subnet": "10.{net}.0.0/24",
                "pools": [ {{ "pool": "{first} - {last}" }} ],
                "option-data": [ {options} ] }} ],
            "loggers": [ {{ "name": "kea-dhcp4", "severity": "INFO",
                "output_options": [ {{ "output": "stdout", "flush": true }} ] }} ] }} }}"#,
        leases = leases.display(),
        authoritative = server.authoritative,
        lease = server.lease,
        t1 = server.t1,
        t2 = server.t2,
        net = server.net,
        first = server.address(server.pool.0),
        last = server.address(server.pool.1),
        options = options.join(", "),
    );
    fs::write(&config, text).expect("own folder");
    let mut command = host.command("kea-dhcp4");
    command
        .arg("-c")
        .arg(config)
        .env("KEA_PIDFILE_DIR", &host.folder)
        .env("KEA_LOCKFILE_DIR", &host.folder);
    let mut process = Process::start("kea-dhcp4", &mut command);
    process.wait_line("that it serves", |line| {
        line.contains("DHCP4_STARTED").then_some(())
    });
    process
}

/// The hook library that comes with the package, in the folder of the machine's architecture.
fn flex_option() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("it is there");
    let name = "kea/hooks/libdhcp_flex_option.so";
    let mut paths = folders.flatten().map(|folder| folder.path().join(name));
    paths
        .find(|path| path.exists())
        .expect("kea-dhcp4-server has it")
}
