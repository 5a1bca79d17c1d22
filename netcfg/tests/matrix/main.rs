//! netcfg against four DHCP servers, through everything that can happen to a lease.
//!
//! The matrix is the product of [`Kind::ALL`] and [`CELLS`]. Each cell is a test with a name like
//! `kea::renew`, in namespaces of its own; what they do most is wait, so that many run at a time
//! whatever the number of cores. For that, and to have one run of tshark judge the frames of all
//! of them, this program has its own `main`, which takes filters as other tests do:
//!
//! ```text
//! cargo test -p netcfg --test matrix -- isc::renew lossy
//! ```
//!
//! No cell is left out. Where a server has no word for what a cell is about, it runs as it is, and the
//! cell says what it is to answer then: three know no rapid commit, and Kea broadcasts only to who asks for it.

#![deny(unsafe_code)]

#[path = "../bed/mod.rs"]
mod bed;
mod cells;
mod lab;

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Instant;

use bed::capture::{Captured, judge};
use bed::server::Kind;
use lab::{Cable, Lab};

/// A row: its name, what is between client and server, and what happens.
type Cell = (&'static str, Cable, fn(&mut Lab));

/// The rows. Those that wait longest come first.
const CELLS: [Cell; 19] = [
    ("expiry", Cable::Plain, cells::expiry),
    ("lossy_relay", Cable::Lossy, cells::lossy_relay),
    ("duplicate_address", Cable::Switch, cells::duplicate_address),
    ("rebind", Cable::Plain, cells::rebind),
    ("server_restart", Cable::Plain, cells::server_restart),
    ("renew", Cable::Plain, cells::renew),
    ("two_servers_offer", Cable::Switch, cells::two_servers_offer),
    (
        "one_of_two_says_no",
        Cable::Switch,
        cells::one_of_two_says_no,
    ),
    ("fresh", Cable::Plain, cells::fresh),
    ("saved_lease", Cable::Plain, cells::saved_lease),
    ("stale_lease", Cable::Plain, cells::stale_lease),
    ("nak", Cable::Plain, cells::nak),
    ("carrier_flap", Cable::Plain, cells::carrier_flap),
    ("moved", Cable::Plain, cells::moved),
    ("off_link_gateway", Cable::Plain, cells::off_link_gateway),
    ("option_121", Cable::Plain, cells::option_121),
    ("mtu", Cable::Plain, cells::mtu),
    ("rapid_commit", Cable::Plain, cells::rapid_commit),
    ("broadcast_only", Cable::Plain, cells::broadcast_only),
];

/// Cells at a time. They wait for seconds and compute for milliseconds.
const AT_A_TIME: usize = 20;

/// One cell of one server.
#[derive(Clone)]
struct Trial {
    name: String,
    kind: Kind,
    cell: Cell,
}

struct Outcome {
    name: String,
    result: Result<Captured, String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let wanted = |name: &str| {
        let fits = |filter: &&&String| {
            if exact {
                name == filter.as_str()
            } else {
                name.contains(filter.as_str())
            }
        };
        filters.is_empty() || filters.iter().any(|filter| fits(&filter))
    };
    let trials: VecDeque<Trial> = product()
        .into_iter()
        .filter(|trial| wanted(&trial.name))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for trial in trials {
            println!("{}: test", trial.name);
        }
        return ExitCode::SUCCESS;
    }
    if trials.is_empty() {
        return ExitCode::SUCCESS;
    }
    bed::tools::install();
    let failed = report(run_all(trials));
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("\nfailed: {}", failed.join(" "));
    ExitCode::FAILURE
}

/// All cells of all servers.
fn product() -> Vec<Trial> {
    let mut trials = vec![];
    for cell in CELLS {
        for kind in Kind::ALL {
            trials.push(Trial {
                name: format!("{kind}::{}", cell.0),
                kind,
                cell,
            });
        }
    }
    // dnsmasq's two minutes, above all.
    trials.sort_by_key(|trial| trial.name != "dnsmasq::expiry");
    trials
}

fn run_all(trials: VecDeque<Trial>) -> Vec<Outcome> {
    let queue = Mutex::new(trials);
    let (sender, outcomes) = channel();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            let sender = sender.clone();
            let queue = &queue;
            scope.spawn(move || work(queue, &sender));
        }
    });
    drop(sender);
    outcomes.into_iter().collect()
}

fn work(queue: &Mutex<VecDeque<Trial>>, outcomes: &Sender<Outcome>) {
    loop {
        let next = queue.lock().expect("no panic with it").pop_front();
        let Some(trial) = next else { return };
        let started = Instant::now();
        // A thread of its own, whose name is on what it says when it fails.
        let thread = thread::Builder::new().name(trial.name.clone());
        let run = {
            let trial = trial.clone();
            thread.spawn(move || panic::catch_unwind(AssertUnwindSafe(|| run(&trial))))
        };
        let result = run.expect("a thread").join().expect("caught");
        let result = result.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default()
        });
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        let seconds = started.elapsed().as_secs();
        println!("test {} ... {word} ({seconds} s)", trial.name);
        let outcome = Outcome {
            name: trial.name,
            result,
        };
        outcomes.send(outcome).expect("somebody collects");
    }
}

fn run(trial: &Trial) -> Captured {
    let (_, cable, happens) = trial.cell;
    let mut lab = Lab::new(trial.kind, cable);
    happens(&mut lab);
    lab.captured()
}

/// Has tshark judge the frames of all cells, and tells what failed and why.
fn report(outcomes: Vec<Outcome>) -> Vec<String> {
    let mut failed = vec![];
    let (mut names, mut captures) = (vec![], vec![]);
    for Outcome { name, result } in outcomes {
        match result {
            Ok(captured) => {
                names.push(name);
                captures.push(captured);
            }
            Err(why) => {
                eprintln!("\n---- {name}\n{why}");
                failed.push(name);
            }
        }
    }
    let folder = std::env::temp_dir().join(format!("nc{}-judged", std::process::id()));
    // One that is there already may be a stranger's, or a leftover of a test that was killed.
    std::fs::create_dir(&folder).expect("a folder that nobody has made before");
    let faults = judge(&captures, &folder);
    std::fs::remove_dir_all(&folder).expect("own folder");
    for (cell, fault) in faults {
        eprintln!("\n---- {}\ntshark: {fault}", names[cell]);
        failed.push(names[cell].clone());
    }
    failed
}
