//! The verbs of `initctl`: how each is called and what it does, for its help.

/// One verb.
pub(super) struct Verb {
    /// Its name.
    pub name: &'static str,
    /// How it is called, without `initctl`.
    form: &'static str,
    /// What it does, in a line.
    what: &'static str,
    /// What else there is to know.
    more: &'static str,
}

const fn verb(
    name: &'static str,
    form: &'static str,
    what: &'static str,
    more: &'static str,
) -> Verb {
    Verb {
        name,
        form,
        what,
        more,
    }
}

const CHANGE: &str = "\
It waits until the service has settled: ready or healthy, stopped, or in trouble, which is status 1.
  --no-wait          only ask for it
  --timeout SECONDS  wait so long, 120 if not given";

const STREAM: &str = "\
  -f, --follow       stay, and show what comes
  -n, --lines LINES  so many of the newest";

/// In the order in which they are told.
pub(super) const VERBS: [Verb; 17] = [
    verb(
        "status",
        "status [SERVICE]",
        "what runs, or everything of one service",
        "",
    ),
    verb(
        "explain",
        "explain SERVICE",
        "why it is in its state, and what comes next",
        "",
    ),
    verb(
        "start",
        "start SERVICE",
        "start it, a failed one too",
        CHANGE,
    ),
    verb(
        "stop",
        "stop SERVICE",
        "stop it, and keep it stopped",
        CHANGE,
    ),
    verb(
        "restart",
        "restart SERVICE",
        "stop it and start it again",
        CHANGE,
    ),
    verb(
        "reload",
        "reload SERVICE",
        "have it read its configuration again",
        CHANGE,
    ),
    verb(
        "logs",
        "logs [SERVICE] [-f] [-n LINES]",
        "output of services",
        STREAM,
    ),
    verb(
        "events",
        "events [-f] [-n LINES]",
        "what happened since the boot",
        STREAM,
    ),
    verb(
        "exits",
        "exits [SERVICE]",
        "how services ended, earlier boots included",
        "Below each are the last lines that the service wrote.",
    ),
    verb("boot", "boot", "the stages of this boot", ""),
    verb(
        "metrics",
        "metrics",
        "the text for a scraper (OpenMetrics)",
        "",
    ),
    verb(
        "net",
        "net [LINK] | net renew|release LINK",
        "addresses, routes, leases and DNS",
        "  renew LINK    ask for more time for the lease\n  release LINK  give the lease back",
    ),
    verb(
        "slots",
        "slots",
        "what both slots hold, and what became of earlier versions",
        "",
    ),
    verb(
        "update",
        "update [SOURCE] [--no-reboot]",
        "install a version into the other slot, and try it",
        "SOURCE is the path or URL of a manifest, that of the configuration if not given.\n  \
         --no-reboot  only install it; it is tried at the next boot",
    ),
    verb("bless", "bless", "keep the running version now", ""),
    verb(
        "rollback",
        "rollback",
        "reboot into the version in the other slot",
        "",
    ),
    verb(
        "reboot",
        "reboot | poweroff",
        "stop all services and end the machine",
        "",
    ),
];

/// Another name for the form that it shares.
const POWEROFF: &str = "poweroff";

/// Every name.
pub(super) fn names() -> Vec<&'static str> {
    VERBS
        .iter()
        .map(|verb| verb.name)
        .chain([POWEROFF])
        .collect()
}

/// All verbs, a line each.
pub(super) fn usage() -> String {
    let mut text = String::from("usage: initctl [--runtime-dir DIR] [--json] VERB ...\n");
    for verb in &VERBS {
        text.push_str(&format!("  {:38} {}\n", verb.form, verb.what));
    }
    text.push_str(
        "initctl VERB --help tells more of one; initctl --version tells its own version.\n\
         Status: 0 it is as asked, 1 refused or not settled, 2 a wrong call, 3 nobody to talk to.",
    );
    text
}

/// One verb; nothing if there is none of this name.
pub(super) fn help(name: &str) -> Option<String> {
    let name = if name == POWEROFF { "reboot" } else { name };
    let verb = VERBS.iter().find(|verb| verb.name == name)?;
    let mut text = format!(
        "usage: initctl [--runtime-dir DIR] [--json] {}\n{}",
        verb.form, verb.what
    );
    if !verb.more.is_empty() {
        text.push('\n');
        text.push_str(verb.more);
    }
    Some(text)
}
