//! Waiting until a service is what was asked for.
//!
//! Init answers a change at once; what becomes of it is seen by asking again. A service that was in trouble
//! before is judged only once it was started anew, and so is one that is restarted.

use super::arguments::Call;
use super::client::{Client, Failure};
use super::{one, read, service, system};
use crate::control::protocol::{Reply, Request};
use std::time::{Duration, Instant};
use supervisor::status::ServiceStatus;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// What is to be thought of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Settled,
    Failed,
    Pending,
}

/// Asks for the change and waits; the last answer.
pub(super) fn until_settled(
    client: &mut Client,
    call: &Call,
    name: &str,
) -> Result<String, Failure> {
    let ask = Request::Status {
        service: Some(name.to_owned()),
    };
    let before = system(read::<Reply>(&client.ask(&ask)?)?)?;
    let before = one(&before, name)?;
    let start = Instant::now();
    let mut line = client.ask(&call.request)?;
    loop {
        let all = system(read::<Reply>(&line)?)?;
        let now = one(&all, name)?;
        match judge(&call.request, before, now) {
            Verdict::Settled => return Ok(line),
            Verdict::Failed => return Err(Failure::Refused(service::sentence(&all, now))),
            Verdict::Pending if start.elapsed() >= call.timeout => {
                return Err(Failure::Refused(format!(
                    "not settled after {} s, which --timeout can change: {}",
                    call.timeout.as_secs(),
                    service::sentence(&all, now)
                )));
            }
            Verdict::Pending => {
                std::thread::sleep(PAUSE);
                line = client.ask(&ask)?;
            }
        }
    }
}

fn judge(request: &Request, before: &ServiceStatus, now: &ServiceStatus) -> Verdict {
    let state = now.state.as_str();
    let in_trouble = |s: &ServiceStatus| ["failed", "backoff"].contains(&s.state.as_str());
    let lives = now.probes.iter().any(|p| p.kind == "liveness");
    let up = state == "healthy" || state == "ready" && !lives;
    let anew = now.starts > before.starts;
    match request {
        Request::Stop { .. } if ["stopped", "failed"].contains(&state) => Verdict::Settled,
        Request::Stop { .. } => Verdict::Pending,
        Request::Restart { .. } if !anew => Verdict::Pending,
        _ if in_trouble(now) && (anew || !in_trouble(before)) => Verdict::Failed,
        Request::Reload { .. } if now.reloading => Verdict::Pending,
        _ if up => Verdict::Settled,
        _ => Verdict::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supervisor::status::ProbeStatus;

    fn at(state: &str, starts: u64) -> ServiceStatus {
        ServiceStatus {
            state: state.into(),
            starts,
            ..ServiceStatus::default()
        }
    }

    fn probed(state: &str) -> ServiceStatus {
        let kind = "liveness".into();
        ServiceStatus {
            probes: vec![ProbeStatus {
                kind,
                ..ProbeStatus::default()
            }],
            ..at(state, 1)
        }
    }

    #[test]
    fn verdicts() {
        use Verdict::{Failed, Pending, Settled};
        let service = String::from("a");
        let start = Request::Start {
            service: service.clone(),
        };
        let stop = Request::Stop {
            service: service.clone(),
        };
        let restart = Request::Restart {
            service: service.clone(),
        };
        let reload = Request::Reload { service };
        let reloading = ServiceStatus {
            reloading: true,
            ..at("healthy", 1)
        };
        for (request, before, now, expected) in [
            (&start, at("stopped", 0), at("starting", 1), Pending),
            (&start, at("stopped", 0), at("ready", 1), Settled),
            (&start, at("stopped", 0), probed("ready"), Pending),
            (&start, at("stopped", 0), probed("healthy"), Settled),
            (&start, at("stopped", 0), at("backoff", 1), Failed),
            (&start, at("stopped", 0), at("failed", 0), Failed),
            (&start, at("healthy", 1), at("healthy", 1), Settled),
            (&start, at("failed", 5), at("failed", 5), Pending),
            (&start, at("failed", 5), at("failed", 6), Failed),
            (&start, at("stopped", 0), at("unhealthy", 1), Pending),
            (&stop, at("healthy", 1), at("stopping", 1), Pending),
            (&stop, at("healthy", 1), at("stopped", 1), Settled),
            (&stop, at("failed", 1), at("failed", 1), Settled),
            (&restart, at("healthy", 1), at("healthy", 1), Pending),
            (&restart, at("healthy", 1), at("stopped", 1), Pending),
            (&restart, at("healthy", 1), at("healthy", 2), Settled),
            (&restart, at("failed", 1), at("backoff", 2), Failed),
            (&reload, at("healthy", 1), reloading, Pending),
            (&reload, at("healthy", 1), at("healthy", 1), Settled),
            (&reload, at("healthy", 1), at("backoff", 1), Failed),
        ] {
            let verdict = judge(request, &before, &now);
            assert_eq!(verdict, expected, "{request:?} {before:?} {now:?}");
        }
    }
}
