//! The services that PID 1 brings itself on a machine: the other roles of this program.
//!
//! They are services like any other, with their own user and cgroup, and are restarted for ever, but
//! for `grow`, which has one thing to do; the logger, which a container has, too, is
//! [`crate::manager::logging`]'s.

use super::relay::Teller;
use crate::config::{self, BUILT_IN, Config};
use crate::manager::logging::{built_in, with_logger};
use std::path::Path;
use std::time::Duration;
use supervisor::config::{Escalation, RestartPolicy};
use supervisor::spec::{Intensity, Spec};

/// Where this program is on the root.
const PROGRAM: &str = "/sbin/init";

/// Where the logger keeps its files; its user owns it.
pub const LOG_FOLDER: &str = "/var/log/astromesh-init";

/// The descriptor that a role is passed for its events, before any other.
const EVENTS: i32 = 3;

/// The descriptor that the slot daemon is passed for its orders, after that for events.
const ORDERS: i32 = EVENTS + 1;

/// The roles that tell events, and what they may tell of.
pub const TELLERS: [Teller; 3] = [
    Teller {
        service: "netcfg",
        prefixes: &["net."],
    },
    Teller {
        service: "grow",
        prefixes: &["var."],
    },
    Teller {
        service: KEEPER,
        prefixes: &["slot.", "update."],
    },
];

/// The service that keeps the slots. It gets its orders over a channel of its own, see [`super::versions`].
pub const KEEPER: &str = "slots";

/// Capabilities by number (kernel: `include/uapi/linux/capability.h`).
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;

/// Links, addresses and routes; raw packets for DHCP; its clients' ports.
const NETCFG_CAPABILITIES: u64 = CAP_NET_BIND_SERVICE | CAP_NET_ADMIN | CAP_NET_RAW;

/// How long netcfg may be silent. No lease and no advertisement is shorter than some minutes, and its loop waits for
/// nothing but the kernel.
const NETCFG_WATCHDOG: &str = "20s";

/// The kernel's last choice when memory runs out: without these nobody hears of it.
const OOM_SCORE: i32 = -900;

/// All services of the machine: the built-in ones, then those of the configuration.
///
/// # Errors
/// Only if one of the forms here is wrong, which a test would show.
pub fn all(config: &Config) -> Result<Vec<Spec>, String> {
    let devices = built_in("devices", &format!("exec = ['{PROGRAM}', 'devices']"))?;
    let netcfg = built_in(
        "netcfg",
        &format!(
            "exec = ['{PROGRAM}', 'netcfg', '--config', '{}', '--state-dir', '/var/lib/netcfg', \
             '--runtime-dir', '/run/netcfg', '--events', '{EVENTS}']\nuser = 'netcfg'\ntype = 'notify'\n\
             start-timeout = '30s'\nwatchdog = '{NETCFG_WATCHDOG}'\nstop.timeout = '3s'",
            config::PATH
        ),
    )?;
    let netcfg = Spec {
        capabilities: Some(NETCFG_CAPABILITIES),
        ..netcfg
    };
    // It waits for whom PID 1 tells to stop: what it is told at the end, it does.
    let slots = built_in(
        "slots",
        &format!(
            "exec = ['{PROGRAM}', 'slots', '--runtime-dir', '/run/slots', '--events', '{EVENTS}', '--orders', '{ORDERS}']\n\
             after = ['var']\nstop.timeout = '20s'"
        ),
    )?;
    let rest = [devices, netcfg, grow()?, slots]
        .into_iter()
        .chain(config.services.iter().cloned());
    let folder = Path::new(LOG_FOLDER);
    let mut all = with_logger(rest.collect(), PROGRAM, "logger", folder, false)?;
    for spec in &mut all {
        if BUILT_IN.contains(&spec.name.as_str()) {
            spec.oom_score_adjust = Some(OOM_SCORE);
        }
    }
    Ok(all)
}

/// Those of [`all`] that are init's own.
///
/// # Errors
/// As [`all`].
pub fn own(config: &Config) -> Result<Vec<Spec>, String> {
    let mut own = all(config)?;
    own.retain(|spec| BUILT_IN.contains(&spec.name.as_str()));
    Ok(own)
}

/// `/var` grows once, behind the services that start at the same time. A few tries are enough for what
/// another try helps against; the next boot has more.
fn grow() -> Result<Spec, String> {
    let form = format!(
        "exec = ['{PROGRAM}', 'grow', '--events', '{EVENTS}']\ntype = 'oneshot'\nnice = 19\nstart-timeout = '10m'"
    );
    Ok(Spec {
        restart: RestartPolicy::OnFailure,
        intensity: Intensity {
            restarts: 2,
            within: Duration::from_secs(60),
            then: Escalation::Degraded,
            retry_after: None,
        },
        ..built_in("grow", &form)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use supervisor::config::ServiceType;

    #[test]
    fn the_forms_are_valid_and_the_logger_comes_first() {
        let config = Config {
            system: Default::default(),
            directories: Vec::new(),
            sysctl: Default::default(),
            network: Default::default(),
            update: Default::default(),
            services: vec![built_in("a", "exec = ['/bin/a']").unwrap()],
        };
        let specs = all(&config).unwrap();
        assert_eq!(supervisor::spec::check_order(&specs), Ok(()));
        assert_eq!(
            specs.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["logger", "devices", "netcfg", "grow", "slots", "a"]
        );
        let built_in: Vec<&str> = specs
            .iter()
            .map(|s| s.name.as_str())
            .take(BUILT_IN.len())
            .collect();
        assert_eq!(built_in, BUILT_IN);
        assert!(
            TELLERS
                .iter()
                .all(|t| built_in.contains(&t.service) && !t.prefixes.is_empty())
        );
        // Whether it ends well or not, the boot is as healthy without it.
        assert!(!specs[3].required && specs[3].kind == ServiceType::Oneshot);
        assert!(
            specs[1..]
                .iter()
                .all(|s| s.after.contains(&"logger".to_owned()))
        );
    }
}
