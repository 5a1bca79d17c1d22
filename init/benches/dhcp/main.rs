//! From exec to an address, netcfg against the DHCP clients of others: the figures of
//! `docs/dhcp-benchmark.md`.
//!
//! `cargo bench --package astromesh-init --bench dhcp --target x86_64-unknown-linux-musl`, as root;
//! after `--`: `--rounds N`, `--json FILE`. The binary that ships and the clients of Debian, in
//! turn, in a network namespace with a cable to a server in another. Nothing is judged here.
//!
//! | scenario | server | lease on disk | link |
//! | --- | --- | --- | --- |
//! | fresh | Kea | none | up |
//! | down | Kea | none | down, the client switches it on |
//! | first | as saved, the lease that is saved | none | up |
//! | saved | dnsmasq, which pings before it offers | good | up |
//! | stale | dnsmasq, not authoritative: silent on addresses it does not know | of another network | up |
//!
//! A round starts each client once, and each round begins with another one. Before each start the
//! client's lease is put to what the scenario says, and the link has no address. The server runs
//! through all rounds, but for `stale`, where each start meets one that knows nobody. A client that takes seconds is started in every fourth round only.

#[path = "../../../netcfg/tests/bed/mod.rs"]
mod bed;
mod clients;
mod start;

use bed::server::{Kind, Server};
use bed::{Bed, Process, tools};
use clients::{Client, Programs};
use lexopt::ValueExt as _;
use serde_json::{Value, json};
use start::Times;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Longer than any of them takes with a server that answers in the end.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Fresh,
    Down,
    Saved,
    Stale,
}

use Scenario::{Down, Fresh, Saved, Stale};

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Fresh => "fresh",
            Down => "down",
            Saved => "saved",
            Stale => "stale",
        }
    }

    /// Who takes part. What keeps no lease over a restart has none that is good or stale.
    fn clients(self) -> Vec<Client> {
        let keeps = |client: &Client| !matches!(client, Client::Udhcpc | Client::Networkd);
        let quick = |client: &Client| *client != Client::Dhcpcd;
        let all = Client::ALL.into_iter();
        match self {
            Fresh => all.collect(),
            Down => all.filter(quick).collect(),
            Saved | Stale => all.filter(keeps).filter(quick).collect(),
        }
    }

    /// Who takes seconds here, by what it is made to do.
    fn is_slow(self, client: Client) -> bool {
        match self {
            Fresh | Down => client == Client::Dhcpcd,
            Saved => false,
            Stale => client != Client::Netcfg,
        }
    }

    fn serve(self, bed: &Bed) -> Process {
        bed.switch_on();
        let net = Server::new(7);
        match self {
            Fresh | Down => Kind::Kea.start(&bed.server, &net),
            Saved => Kind::Dnsmasq.start(
                &bed.server,
                &Server {
                    ping_check: true,
                    authoritative: false,
                    ..net
                },
            ),
            Stale => {
                // It says no to whom it knows, and nothing to strangers.
                let _ = std::fs::remove_file(bed.server.folder.join("dnsmasq.leases"));
                let silent = Server {
                    authoritative: false,
                    ..net
                };
                Kind::Dnsmasq.start(&bed.server, &silent)
            }
        }
    }
}

/// What was measured of one client in one scenario.
struct Row {
    scenario: &'static str,
    client: Client,
    times: Vec<Times>,
    /// Starts without an address.
    failed: usize,
}

fn main() {
    let (rounds, json) = arguments();
    let packages = std::env::temp_dir().join(format!("dhcp-bench-{}", std::process::id()));
    let programs = Programs::get(&packages);
    println!("{}", clients::versions());
    println!("load before: {}", load());
    let mut rows = Vec::new();
    for scenario in [Fresh, Down, Saved, Stale] {
        let measured = measure(scenario, rounds, &programs);
        for row in &measured {
            print(row);
        }
        rows.extend(measured);
    }
    println!("load after: {}", load());
    if let Some(path) = json {
        let values: Vec<Value> = rows.iter().map(value).collect();
        let text = serde_json::to_string_pretty(&values).unwrap();
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let _ = std::fs::remove_dir_all(packages);
}

fn arguments() -> (usize, Option<PathBuf>) {
    let (mut rounds, mut json) = (20, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next().unwrap() {
        match argument {
            lexopt::Arg::Long("rounds") => {
                rounds = parser.value().unwrap().string().unwrap().parse().unwrap();
            }
            lexopt::Arg::Long("json") => json = Some(parser.value().unwrap().into()),
            // What cargo passes to every benchmark.
            lexopt::Arg::Long("bench") => {}
            other => panic!("{}: --rounds N, --json FILE", other.unexpected()),
        }
    }
    (rounds, json)
}

fn measure(scenario: Scenario, rounds: usize, programs: &Programs) -> Vec<Row> {
    let bed = Bed::new();
    let clients = scenario.clients();
    if scenario == Stale {
        bed.server.renumber("10.9.0.1/24");
        bed.switch_on();
        let _other = Kind::Dnsmasq.start(&bed.server, &Server::new(9));
        keep(&bed, &clients, programs);
        bed.server.renumber("10.7.0.1/24");
    }
    let mut server = scenario.serve(&bed);
    let first = match scenario {
        Saved => keep(&bed, &clients, programs),
        Fresh | Down | Stale => Vec::new(),
    };
    let mut rows: Vec<Row> = clients
        .iter()
        .map(|client| Row {
            scenario: scenario.name(),
            client: *client,
            times: Vec::new(),
            failed: 0,
        })
        .collect();
    for round in 0..rounds {
        for turn in 0..rows.len() {
            let at = (round + turn) % rows.len();
            let row = &mut rows[at];
            if scenario.is_slow(row.client) && round % 4 != 0 {
                continue;
            }
            prepare(&bed, row.client, scenario);
            if scenario == Stale {
                server.terminate();
                server = scenario.serve(&bed);
            }
            match start::timed(&bed, row.client, programs, PATIENCE) {
                Some(times) => row.times.push(Times {
                    // A link that is up is told of as well, for other changes.
                    carrier: times.carrier.filter(|_| scenario == Down),
                    ..times
                }),
                None => row.failed += 1,
            }
        }
    }
    first.into_iter().chain(rows).collect()
}

/// Lets each client get a lease, which is then the one on its disk.
fn keep(bed: &Bed, clients: &[Client], programs: &Programs) -> Vec<Row> {
    let first = |client: &Client| {
        prepare(bed, *client, Fresh);
        let times = start::timed(bed, *client, programs, PATIENCE);
        assert!(client.has_lease(bed), "{} keeps no lease", client.name());
        copy(client.state(bed), kept(bed, *client));
        Row {
            scenario: "first",
            client: *client,
            times: times
                .into_iter()
                .map(|t| Times { carrier: None, ..t })
                .collect(),
            failed: 0,
        }
    };
    clients.iter().map(first).collect()
}

fn kept(bed: &Bed, client: Client) -> PathBuf {
    bed.folder.join(format!("kept-{}", client as u8))
}

/// Makes a folder the copy of another.
fn copy(from: PathBuf, to: PathBuf) {
    let _ = std::fs::remove_dir_all(&to);
    tools::run(Command::new("cp").arg("-a").args([from, to]));
}

/// The link and the disk as the scenario has them.
fn prepare(bed: &Bed, client: Client, scenario: Scenario) {
    let state = client.state(bed);
    if matches!(scenario, Saved | Stale) {
        copy(kept(bed, client), state);
    } else {
        std::fs::remove_dir_all(state).unwrap();
        client.state(bed);
    }
    bed.forget_network();
    bed.client_ip(&["-4", "route", "flush", "dev", "eth0"]);
    bed.client_ip(&["neigh", "flush", "dev", "eth0"]);
    bed.client_ip(&["link", "set", "eth0", "down"]);
    bed.client_ip(&["link", "set", "eth0", "address", &client.mac()]);
    if scenario != Down {
        bed.switch_on();
    }
    // What the one before left to the kernel to clean up.
    std::thread::sleep(Duration::from_millis(100));
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Least, median and most.
fn spread(times: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut sorted: Vec<f64> = times.collect();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (sorted.first()?, sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    };
    Some([*first, median, *last])
}

fn print(row: &Row) {
    let figures = |spread: Option<[f64; 3]>| {
        spread.map_or_else(
            || "-".to_owned(),
            |s| s.map(|ms| format!("{ms:.1}")).join(" / "),
        )
    };
    println!(
        "| {} | {} | {} | {} | {} | {} |",
        row.scenario,
        row.client.name(),
        row.times.len(),
        figures(spread(row.times.iter().map(|t| t.exec))),
        figures(spread(row.times.iter().filter_map(|t| t.carrier))),
        row.failed,
    );
}

fn value(row: &Row) -> Value {
    json!({
        "scenario": row.scenario,
        "client": row.client.name(),
        "exec_to_address_ms": row.times.iter().map(|t| t.exec).collect::<Vec<_>>(),
        "carrier_to_address_ms": row.times.iter().filter_map(|t| t.carrier).collect::<Vec<_>>(),
        "failed": row.failed,
    })
}
