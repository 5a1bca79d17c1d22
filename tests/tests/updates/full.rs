//! A `/var` that a service has filled to its last block and its last inode, and a service that holds every lock it can
//! open: a version is installed, tried and kept all the same.

use anyhow::{Result, ensure};
use appliance_tests::appliance::POWER_OFF;
use appliance_tests::fleet::{
    Fleet, UPDATE, as_proved, asked, blessed, put_bundle_on_var, var_file,
};
use qemu_harness::bundle::Run;
use qemu_harness::image_options::Runtime;
use std::time::Instant;

/// `fill` is root, so what ext4 reserves for root is gone as well; `locks` is any user.
const HOSTILE: &str = r#"
[service.fill]
exec = ["/usr/bin/astromeshd"]
environment = { SMALL_DAEMON = "fill" }
type = "oneshot"
start-timeout = "10m"
after = ["astromeshd"]

[service.locks]
exec = ["/usr/bin/astromeshd"]
environment = { SMALL_DAEMON = "locks" }
type = "notify"
user = "astromesh"
after = ["fill"]

[service.ask]
exec = ["/usr/bin/initctl", "update", "/var/update.json"]
type = "oneshot"
after = ["locks"]
restart = "on-failure"
[service.ask.backoff]
base = "500ms"
[service.ask.intensity]
restarts = 3
within = "60s"
then = "degraded"
"#;

#[test]
fn a_full_var_and_held_locks_stop_no_update() -> Result<()> {
    let fleet = Fleet::new("full", Runtime::Small)?;
    let first = fleet.version_with("1", HOSTILE)?;
    let bundle = fleet.publish(&fleet.version("2")?)?;
    Run::scoped(&fleet.host, "full", &first.raw, |run| {
        put_bundle_on_var(run, &bundle)?;
        as_proved(run, &first)?;
        let mut vm = run.boot(&asked())?;
        let shown = |who: &str, what: &str| {
            let deadline = Instant::now() + UPDATE;
            vm.serial().wait_line(0, deadline, what, |line| {
                line.text.starts_with(who) && line.text.contains(what)
            })
        };
        let (full, line) = shown("fill: ", "/var is full")?;
        eprintln!("{}", line.text);
        shown("locks: ", "locks are held")?;
        let installed = vm.wait(full, "update.installed", &[("version", "2")], UPDATE)?;
        blessed(&vm, installed.index, "2")?;
        vm.power_down(POWER_OFF)?;
        let record = var_file(run, "/lib/astromesh-init/slots.json")?;
        ensure!(
            record.contains("\"floor\": \"2\""),
            "the record is {record}"
        );
        Ok(())
    })
}
