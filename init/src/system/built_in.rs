//! The services that PID 1 brings itself: the other roles of this program.
//!
//! They are services like any other, with their own user and cgroup, and are restarted for ever:
//! giving up on one of them would leave a machine that nobody can reach or read. What distinguishes
//! them is the descriptors they are given; the numbers are settled here, once, for the command line
//! and for the passing.

use crate::config::{self, Config};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use supervisor::config::ServiceConfig;
use supervisor::driver::Driver;
use supervisor::logger;
use supervisor::spec::Spec;

/// Where this program is on the root.
const PROGRAM: &str = "/sbin/init";

/// The first descriptor that a service is passed.
const FIRST_PASSED: usize = 3;

/// capabilities(7): `CAP_NET_BIND_SERVICE`, `CAP_NET_ADMIN`, `CAP_NET_RAW`.
const NETCFG_CAPABILITIES: u64 = 1 << 10 | 1 << 12 | 1 << 13;

/// All services of the machine: the built-in ones, then those of the configuration, each of which
/// comes after the logger, so that the logger is also the last to be stopped.
///
/// # Errors
/// Only if one of the forms here is wrong, which a test would show.
pub fn all(config: &Config) -> Result<Vec<Spec>, String> {
    let mut names: Vec<&str> = vec!["devices", "netcfg"];
    names.extend(config.services.iter().map(|s| s.name.as_str()));
    let mut logger_exec = vec![
        PROGRAM.to_owned(),
        "logger".to_owned(),
        "--events".to_owned(),
        FIRST_PASSED.to_string(),
    ];
    for (place, name) in names.iter().enumerate() {
        logger_exec.extend([
            "--stream".to_owned(),
            format!("{}={name}", FIRST_PASSED + 1 + place),
        ]);
    }
    let logger = form(
        "logger",
        &format!("exec = {logger_exec:?}\nuser = 'logger'\nstop.timeout = '3s'"),
    )?;
    let devices = form("devices", &format!("exec = ['{PROGRAM}', 'devices']"))?;
    let netcfg = form(
        "netcfg",
        &format!(
            "exec = ['{PROGRAM}', 'netcfg', '--config', '{}', '--state-dir', '/var/lib/netcfg', \
             '--runtime-dir', '/run/netcfg', '--events', '{FIRST_PASSED}']\nuser = 'netcfg'\nstop.timeout = '3s'",
            config::PATH
        ),
    )?;
    let netcfg = Spec {
        capabilities: NETCFG_CAPABILITIES,
        ..netcfg
    };
    let rest = [devices, netcfg]
        .into_iter()
        .chain(config.services.iter().cloned());
    let rest = rest.map(|mut spec| {
        spec.after.push("logger".into());
        spec
    });
    Ok([logger].into_iter().chain(rest).collect())
}

fn form(name: &str, text: &str) -> Result<Spec, String> {
    let law = "restart = 'always'\nbackoff.max = '5s'\nintensity.restarts = 4294967295\noom-score-adjust = -900";
    let config: ServiceConfig =
        toml::from_str(&format!("{text}\n{law}")).map_err(|e| e.to_string())?;
    Spec::from_config(name, config).map_err(|e| e.to_string())
}

/// The ends that PID 1 keeps.
#[derive(Debug)]
pub struct Channels {
    /// Event lines for the console.
    pub console: OwnedFd,
    /// Events of netcfg, one to a message.
    pub netcfg: OwnedFd,
}

/// Gives the built-in services their descriptors.
///
/// # Errors
/// If the kernel gives no pipe or socket.
pub fn connect(driver: &mut Driver) -> io::Result<Channels> {
    let (events_read, console) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    driver.pass("logger", events_read);
    let names: Vec<String> = driver
        .core()
        .machines()
        .iter()
        .map(|m| m.spec().name.clone())
        .filter(|n| n != "logger")
        .collect();
    for name in names {
        let output = driver.output(&name).map(logger::copy).transpose()?;
        if let Some(output) = output {
            driver.pass("logger", output);
        }
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (netcfg, netcfg_end) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    driver.pass("netcfg", netcfg_end);
    Ok(Channels { console, netcfg })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_are_valid_and_the_logger_comes_first() {
        let config = Config {
            system: Default::default(),
            directories: Vec::new(),
            sysctl: Default::default(),
            network: Default::default(),
            services: vec![form("a", "exec = ['/bin/a']").unwrap()],
        };
        let specs = all(&config).unwrap();
        assert_eq!(supervisor::spec::check_order(&specs), Ok(()));
        assert_eq!(
            specs.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["logger", "devices", "netcfg", "a"]
        );
        assert!(specs[0].exec.ends_with(&["--stream".into(), "6=a".into()]));
        assert!(
            specs[1..]
                .iter()
                .all(|s| s.after.contains(&"logger".to_owned()))
        );
    }
}
