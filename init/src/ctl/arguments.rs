//! The call of `initctl`.

use super::net::{self, NetCall};
use super::slots::{self, SlotsCall};
use super::verbs;
use crate::config::similar::similar;
use crate::control::protocol::Request;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Where init has its socket, on the machine.
const RUNTIME_DIR: &str = "/run/init";

/// Lines of output that are shown if none are wished.
const LOG_LINES: usize = 50;

/// How long a service may take to settle if nothing is wished.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How the status of one service is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Plain,
    Explain,
}

/// What is called for, and of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Only this is to be told.
    Tell(String),
    Init(Call),
    Net(NetCall),
    Slots(SlotsCall),
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub runtime_dir: PathBuf,
    pub json: bool,
    pub request: Request,
    pub view: View,
    pub wait: bool,
    pub timeout: Duration,
}

impl Call {
    /// The service that is to settle, if it is to be waited for.
    pub fn waits_for(&self) -> Option<&str> {
        match &self.request {
            Request::Start { service }
            | Request::Stop { service }
            | Request::Restart { service }
            | Request::Reload { service }
                if self.wait =>
            {
                Some(service)
            }
            _ => None,
        }
    }
}

/// Options in which verbs differ.
#[derive(Default)]
struct Options {
    follow: bool,
    lines: Option<usize>,
    no_wait: bool,
    timeout: Option<Duration>,
    no_reboot: bool,
}

/// Reads a call.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Order, String> {
    use lexopt::Arg::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut runtime_dir, mut json) = (None, false);
    let (mut words, mut options): (Vec<String>, _) = (Vec::new(), Options::default());
    let mut help = false;
    let say = |e: lexopt::Error| e.to_string();
    while let Some(argument) = parser.next().map_err(say)? {
        match argument {
            Long("runtime-dir") => runtime_dir = Some(PathBuf::from(parser.value().map_err(say)?)),
            Long("json") => json = true,
            Long("help") | Short('h') => help = true,
            Long("version") | Short('V') => {
                let version = format!("initctl {}", env!("CARGO_PKG_VERSION"));
                return Ok(Order::Tell(version));
            }
            Long("follow") | Short('f') => options.follow = true,
            Long("lines") | Short('n') => {
                options.lines = Some(number("-n", &parser.value().map_err(say)?)?);
            }
            Long("no-wait") => options.no_wait = true,
            Long("no-reboot") => options.no_reboot = true,
            Long("timeout") => {
                let seconds = number("--timeout", &parser.value().map_err(say)?)?;
                options.timeout = Some(Duration::from_secs(seconds));
            }
            Value(word) => words.push(
                word.into_string()
                    .map_err(|w| format!("{w:?} is no text"))?,
            ),
            other => return Err(say(other.unexpected())),
        }
    }
    let mut words = words.into_iter();
    let verb = words.next();
    if help {
        return match verb.as_deref() {
            None | Some("help") => Ok(Order::Tell(verbs::usage())),
            Some(verb) => verbs::help(verb)
                .map(Order::Tell)
                .ok_or_else(|| no_verb(verb)),
        };
    }
    let verb = verb.ok_or("a verb is missing")?;
    if verb == "help" {
        return Ok(Order::Tell(match words.next() {
            None => verbs::usage(),
            Some(verb) => verbs::help(&verb).ok_or_else(|| no_verb(&verb))?,
        }));
    }
    if verb == "net" {
        let (verb, link) = net::parse(&mut words)?;
        nothing_after(&mut words)?;
        check_options("net", None, &options)?;
        return Ok(Order::Net(NetCall {
            runtime_dir: runtime_dir.unwrap_or_else(|| net::RUNTIME_DIR.into()),
            json,
            verb,
            link,
        }));
    }
    if let Some(request) = slots::parse(&verb, &mut words, options.no_reboot) {
        nothing_after(&mut words)?;
        check_options(&verb, None, &options)?;
        return Ok(Order::Slots(SlotsCall {
            runtime_dir: runtime_dir.unwrap_or_else(|| slots::RUNTIME_DIR.into()),
            json,
            request,
        }));
    }
    let service = words.next();
    nothing_after(&mut words)?;
    let request = request(&verb, service, &options)?;
    check_options(&verb, Some(&request), &options)?;
    Ok(Order::Init(Call {
        runtime_dir: runtime_dir.unwrap_or_else(|| RUNTIME_DIR.into()),
        json,
        request,
        view: if verb == "explain" {
            View::Explain
        } else {
            View::Plain
        },
        wait: !options.no_wait,
        timeout: options.timeout.unwrap_or(TIMEOUT),
    }))
}

fn no_verb(verb: &str) -> String {
    let meant = similar(verb, &verbs::names());
    let meant = meant.map(|meant| format!("; did you mean `{meant}`?"));
    format!("there is no verb `{verb}`{}", meant.unwrap_or_default())
}

fn nothing_after(words: &mut impl Iterator<Item = String>) -> Result<(), String> {
    match words.next() {
        Some(more) => Err(format!("`{more}` is too much")),
        None => Ok(()),
    }
}

fn request(verb: &str, service: Option<String>, options: &Options) -> Result<Request, String> {
    let given = service.clone();
    let needed = || given.ok_or_else(|| format!("{verb} needs a SERVICE"));
    let request = match verb {
        "status" => Request::Status { service },
        "logs" => Request::Logs {
            service,
            lines: options.lines.unwrap_or(LOG_LINES),
            follow: options.follow,
        },
        "exits" => Request::Exits { service },
        "explain" => Request::Status {
            service: Some(needed()?),
        },
        "start" => Request::Start { service: needed()? },
        "stop" => Request::Stop { service: needed()? },
        "restart" => Request::Restart { service: needed()? },
        "reload" => Request::Reload { service: needed()? },
        _ => {
            let request = match verb {
                "events" => Request::Events {
                    lines: options.lines,
                    follow: options.follow,
                },
                "boot" => Request::Boot {},
                "metrics" => Request::Metrics {},
                "reboot" => Request::Reboot {},
                "poweroff" => Request::Poweroff {},
                _ => return Err(no_verb(verb)),
            };
            match service {
                Some(service) => return Err(format!("{verb} takes no SERVICE: `{service}`")),
                None => request,
            }
        }
    };
    Ok(request)
}

/// An option that a verb does not have is a mistake, not nothing.
fn check_options(verb: &str, request: Option<&Request>, options: &Options) -> Result<(), String> {
    let streams = matches!(request, Some(Request::Events { .. } | Request::Logs { .. }));
    let changes = matches!(
        request,
        Some(
            Request::Start { .. }
                | Request::Stop { .. }
                | Request::Restart { .. }
                | Request::Reload { .. }
        )
    );
    let given = [
        ("-f", options.follow, streams),
        ("-n", options.lines.is_some(), streams),
        ("--no-wait", options.no_wait, changes),
        ("--timeout", options.timeout.is_some(), changes),
        ("--no-reboot", options.no_reboot, verb == "update"),
    ];
    match given.iter().find(|(_, given, fits)| *given && !fits) {
        Some((option, ..)) => Err(format!("{verb} has no {option}")),
        None => Ok(()),
    }
}

fn number<T: std::str::FromStr>(option: &str, value: &OsString) -> Result<T, String> {
    let number = value.to_str().and_then(|v| v.parse().ok());
    number.ok_or_else(|| format!("{option} {}: a number is wanted", value.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Result<Order, String> {
        parse(
            line.split(' ')
                .filter(|w| !w.is_empty())
                .map(OsString::from),
        )
    }

    fn good(line: &str) -> Call {
        match call(line) {
            Ok(Order::Init(call)) => call,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn of_the_network() {
        use netcfg::control::protocol::Verb;
        let link = || String::from("eth0");
        for (line, verb, of) in [
            ("net", Verb::Net {}, None),
            ("net eth0", Verb::Net {}, Some(link())),
            ("net renew eth0", Verb::Renew { link: link() }, None),
            ("net release eth0", Verb::Release { link: link() }, None),
        ] {
            for (more, runtime_dir, json) in [
                ("", "/run/netcfg", false),
                (" --json --runtime-dir /r", "/r", true),
            ] {
                let expected = NetCall {
                    runtime_dir: runtime_dir.into(),
                    json,
                    verb: verb.clone(),
                    link: of.clone(),
                };
                let order = call(&format!("{line}{more}"));
                assert_eq!(order, Ok(Order::Net(expected)), "{line}");
            }
        }
    }

    #[test]
    fn every_verb() {
        let service = || String::from("a");
        for (line, expected) in [
            ("status", Request::Status { service: None }),
            (
                "status a",
                Request::Status {
                    service: Some(service()),
                },
            ),
            (
                "explain a",
                Request::Status {
                    service: Some(service()),
                },
            ),
            ("start a", Request::Start { service: service() }),
            ("stop a", Request::Stop { service: service() }),
            ("restart a", Request::Restart { service: service() }),
            ("reload a", Request::Reload { service: service() }),
            (
                "logs",
                Request::Logs {
                    service: None,
                    lines: 50,
                    follow: false,
                },
            ),
            (
                "logs -f a -n 3",
                Request::Logs {
                    service: Some(service()),
                    lines: 3,
                    follow: true,
                },
            ),
            (
                "events",
                Request::Events {
                    lines: None,
                    follow: false,
                },
            ),
            (
                "events -fn5",
                Request::Events {
                    lines: Some(5),
                    follow: true,
                },
            ),
            (
                "exits a",
                Request::Exits {
                    service: Some(service()),
                },
            ),
            ("boot", Request::Boot {}),
            ("metrics", Request::Metrics {}),
            ("reboot", Request::Reboot {}),
            ("poweroff", Request::Poweroff {}),
        ] {
            assert_eq!(good(line).request, expected, "{line}");
        }
        assert_eq!(good("explain a").view, View::Explain);
    }

    #[test]
    fn help_of_all_and_of_each() {
        let told = |line: &str| match call(line) {
            Ok(Order::Tell(text)) => text,
            other => panic!("{line}: {other:?}"),
        };
        let all = told("--help");
        assert_eq!(all, told("help"));
        assert_eq!(told("-V"), format!("initctl {}", env!("CARGO_PKG_VERSION")));
        for verb in verbs::names() {
            let one = told(&format!("{verb} --help"));
            assert!(one.starts_with("usage: initctl") && one != all, "{one}");
            assert!(one.contains(verb) && all.contains(verb), "{one}");
            assert_eq!(one, told(&format!("help {verb}")));
            assert_eq!(one, told(&format!("{verb} -h web")));
        }
        assert!(told("logs --help").contains("--lines LINES"));
        let wrong = call("restrat --help").unwrap_err();
        assert_eq!(wrong, "there is no verb `restrat`; did you mean `restart`?");
    }

    #[test]
    fn options_before_and_after_the_verb() {
        let given = good("--runtime-dir /r stop a --json --timeout 5");
        assert_eq!((given.runtime_dir, given.json), (PathBuf::from("/r"), true));
        assert_eq!(given.timeout, Duration::from_secs(5));
        assert_eq!(good("stop a").waits_for(), Some("a"));
        assert_eq!(good("stop a --no-wait").waits_for(), None);
        assert_eq!(good("status a").waits_for(), None);
        assert_eq!(good("status").runtime_dir, PathBuf::from("/run/init"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, expected) in [
            ("", "a verb is missing"),
            ("halt", "there is no verb `halt`"),
            ("stop", "stop needs a SERVICE"),
            ("reboot now", "reboot takes no SERVICE: `now`"),
            ("status a b", "`b` is too much"),
            ("status -f", "status has no -f"),
            ("logs --no-wait", "logs has no --no-wait"),
            ("logs -n many", "-n many: a number is wanted"),
            ("status --all", "--all"),
            ("net renew", "net renew needs a LINK"),
            ("net release", "net release needs a LINK"),
            ("net renew eth0 eth1", "`eth1` is too much"),
            ("net eth0 eth1", "`eth1` is too much"),
            ("net -f", "net has no -f"),
            ("net renew eth0 --no-wait", "net has no --no-wait"),
        ] {
            let problem = call(line).unwrap_err();
            assert!(problem.contains(expected), "{line}: {problem}");
        }
    }
}
