//! `initctl`: the client of the control socket.
//!
//! It is for a person at a console and for scripts, with one exit status for each kind of end: 0 it is as
//! asked, 1 init refused or the service did not become what was asked for, 2 the call was wrong, 3
//! there is no talking to init.
//!
//! [`arguments`] reads the call ([`verbs`] has what can be called), [`client`] talks to the socket, [`wait`] waits until a service has
//! settled. What is shown is made by pure functions: [`tree`] and [`service`] of the status, [`lines`]
//! of events, output and exits, [`timeline`] of the boot. [`net`] is all of this for the network, and
//! [`slots`] for the versions of the system, which have sockets of their own. Everything they show passes [`text`],
//! because a service decides what its output and its status text are, and a terminal obeys.

mod arguments;
mod client;
mod lines;
mod net;
mod service;
mod slots;
mod text;
mod timeline;
mod tree;
mod verbs;
mod wait;

use crate::control::protocol::{
    EventLine, ExitRecord, LogLine, Missed, Reply, Request, SystemStatus,
};
use arguments::{Call, Order, View};
use client::{Client, Failure, INIT};
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use supervisor::status::ServiceStatus;

/// Runs a call; `arguments` without the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_on(
        arguments,
        &mut std::io::stdout().lock(),
        &mut std::io::stderr(),
    )
}

/// Runs a call, with these in place of the standard streams.
pub fn run_on(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut impl Write,
    errors: &mut impl Write,
) -> ExitCode {
    let order = match arguments::parse(arguments) {
        Ok(order) => order,
        Err(problem) => {
            let usage = verbs::usage();
            let _ = writeln!(errors, "initctl: {}\n{usage}", text::clean(&problem));
            return ExitCode::from(2);
        }
    };
    let answered = match &order {
        Order::Tell(text) => say(out, &format!("{text}\n")),
        Order::Init(call) => answer(call, out),
        Order::Net(call) => net::answer(call).and_then(|shown| say(out, &shown)),
        Order::Slots(call) => slots::answer(call, |text| say(out, text)),
    };
    let (problem, status) = match answered {
        // Whoever reads what we show has seen enough, as `head` does.
        Ok(()) | Err(Failure::Unheard) => return ExitCode::SUCCESS,
        Err(Failure::Refused(why)) => (why, 1),
        Err(Failure::Lost(why)) => (why, 3),
    };
    let _ = writeln!(errors, "initctl: {}", text::clean(&problem));
    ExitCode::from(status)
}

fn answer(call: &Call, out: &mut impl Write) -> Result<(), Failure> {
    let mut client = Client::connect(&call.runtime_dir, INIT)?;
    if let Some(name) = call.waits_for() {
        let line = wait::until_settled(&mut client, call, name)?;
        return show_change(call, out, &line);
    }
    let line = client.ask(&call.request)?;
    if let Some(show) = stream(&call.request) {
        if follows(&call.request) {
            client.be_patient()?;
        }
        while let Some(line) = client.line()? {
            say(out, &if call.json { line } else { show(&line)? + "\n" })?;
        }
        return Ok(());
    }
    if call.json {
        return say(out, &line);
    }
    let reply: Reply = read(&line)?;
    let shown = match &call.request {
        Request::Status { service: None } => tree::render(&system(reply)?),
        Request::Status {
            service: Some(name),
        } => {
            let system = system(reply)?;
            let status = one(&system, name)?;
            match call.view {
                View::Explain => service::explain(&whole(&call.runtime_dir)?, status),
                View::Plain => {
                    let last = last_exit(&call.runtime_dir, name);
                    service::render(&system, status, last.as_ref())
                }
            }
        }
        Request::Metrics {} => reply.metrics.unwrap_or_default(),
        Request::Boot {} => timeline::render(&reply.boot.unwrap_or_default()),
        Request::Reboot {} => "init reboots the machine\n".into(),
        Request::Poweroff {} => "init switches the machine off\n".into(),
        _ => return show_change(call, out, &line),
    };
    say(out, &shown)
}

/// Shows one line of a stream.
type Show = fn(&str) -> Result<String, Failure>;

/// What is shown of each line that follows the reply, for requests that have such.
fn stream(request: &Request) -> Option<Show> {
    fn shown<T: DeserializeOwned>(line: &str, render: fn(&T) -> String) -> Result<String, Failure> {
        match serde_json::from_str::<Missed>(line) {
            Ok(gap) => Ok(lines::gap(&gap)),
            Err(_) => Ok(render(&read(line)?)),
        }
    }
    match request {
        Request::Events { .. } => Some(|line| shown::<EventLine>(line, lines::event)),
        Request::Logs { .. } => Some(|line| shown::<LogLine>(line, lines::log)),
        Request::Exits { .. } => Some(|line| shown::<ExitRecord>(line, lines::exit)),
        _ => None,
    }
}

fn follows(request: &Request) -> bool {
    matches!(
        request,
        Request::Events { follow: true, .. } | Request::Logs { follow: true, .. }
    )
}

/// After a change of a service: the line, or what the service is now.
fn show_change(call: &Call, out: &mut impl Write, line: &str) -> Result<(), Failure> {
    if call.json {
        return say(out, line);
    }
    let system = system(read(line)?)?;
    for status in &system.services {
        say(out, &format!("{}\n", service::sentence(&system, status)))?;
    }
    Ok(())
}

/// All services, asked for anew.
fn whole(runtime_dir: &std::path::Path) -> Result<SystemStatus, Failure> {
    let line = Client::connect(runtime_dir, INIT)?.ask(&Request::Status { service: None })?;
    system(read(&line)?)
}

/// The last exit of a service, if it may be seen.
fn last_exit(runtime_dir: &std::path::Path, name: &str) -> Option<ExitRecord> {
    let mut client = Client::connect(runtime_dir, INIT).ok()?;
    let service = Some(name.to_owned());
    client.ask(&Request::Exits { service }).ok()?;
    let mut last = None;
    while let Ok(Some(line)) = client.line() {
        last = serde_json::from_str(&line).ok().or(last);
    }
    last
}

fn system(reply: Reply) -> Result<SystemStatus, Failure> {
    reply
        .system
        .ok_or_else(|| Failure::Lost("init answered without a status".into()))
}

fn one<'a>(system: &'a SystemStatus, name: &str) -> Result<&'a ServiceStatus, Failure> {
    let found = system.services.iter().find(|s| s.name == name);
    found.ok_or_else(|| Failure::Lost(format!("init answered without {name}")))
}

fn read<T: DeserializeOwned>(line: &str) -> Result<T, Failure> {
    INIT.read(line)
}

fn say(out: &mut impl Write, text: &str) -> Result<(), Failure> {
    let write = out.write_all(text.as_bytes());
    write
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::Unheard,
            _ => Failure::Lost(format!("the standard output: {e}")),
        })
}
