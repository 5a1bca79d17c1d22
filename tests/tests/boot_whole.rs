//! The appliance boots, serves, and switches off.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image, in_order, pinned_version};
use qemu_harness::api::Answer;
use qemu_harness::bundle::Run;
use qemu_harness::classify::intruders;
use qemu_harness::event::Event;
use qemu_harness::gpt;
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::VmConfig;
use serde_json::{Value, json};
use std::time::Duration;

/// A run of an agent fails at once without a provider; the runtime may try its name server first.
const CALL: Duration = Duration::from_secs(60);

#[test]
fn the_appliance_boots_serves_and_switches_off() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::default())?;
    Run::scoped(&host, "whole", &image.raw, |run| {
        // The other tests run on one processor where the machine is emulated.
        let config = VmConfig {
            cpus: Some(2),
            ..VmConfig::default()
        };
        let mut vm = run.boot(&config)?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;

        let health = vm.api()?.health(CALL)?;
        let version = pinned_version(&host.paths.workspace)?;
        ensure!(
            health == json!({"status": "ok", "version": version}),
            "{health}"
        );
        talk_to_the_runtime(&vm)?;

        let events = vm.serial().events(0);
        let root = events
            .iter()
            .find(|event| event.name == "boot.root")
            .context("no boot.root")?;
        ensure!(
            root.get("roothash") == Some(image.roothash.as_str()),
            "another root than was built: {root}"
        );
        in_order(
            &events,
            &[
                ("boot.start", &[("stage", "initramfs")]),
                ("boot.root", &[]),
                ("boot.start", &[("stage", "system")]),
                ("boot.var", &[]),
                ("service.start", &[("service", "astromeshd")]),
                ("service.ready", &[("service", "astromeshd")]),
                ("service.healthy", &[("service", "astromeshd")]),
                ("boot.healthy", &[]),
            ],
        )?;
        in_order(
            &events,
            &[
                ("net.link", &[("link", "eth0"), ("state", "up")]),
                (
                    "net.address",
                    &[("link", "eth0"), ("address", "10.0.2.15/24")],
                ),
            ],
        )?;
        for bad in ["boot.failed", "boot.degraded", "init.crash", "service.exit"] {
            let found = events.iter().find(|e| e.name == bad);
            ensure!(found.is_none(), "in a good boot: {found:?}");
        }
        // Init's own roles are one line, and a link that comes up is not down before.
        vm.wait(0, "init.roles", &[("state", "healthy")], BOOT)?;
        let calm = |event: &Event| match event.name.as_str() {
            "service.start" | "service.ready" | "service.healthy" => {
                event.get("service") == Some("astromeshd")
            }
            "net.link" => event.get("state") == Some("up"),
            _ => true,
        };
        let events = vm.serial().events(0);
        let routine = events.iter().find(|event| !calm(event));
        ensure!(routine.is_none(), "is routine: {routine:?}");

        let mark = vm.serial().mark();
        vm.power_down(POWER_OFF)?;
        in_order(
            &vm.serial().events(mark),
            &[("shutdown.start", &[]), ("shutdown.done", &[])],
        )?;
        let lines = vm.serial().lines(0);
        let strange = intruders(lines.iter().map(|line| line.text.as_str()));
        ensure!(
            strange.is_empty(),
            "these do not belong there: {strange:#?}"
        );

        the_disk_is_in_order(run)
    })
}

/// An agent is made, deployed and run; one that is not deployed does not run. No provider is there, so the run fails in the runtime; it is
/// the runtime's own answer that shows that the way there and back is whole.
fn talk_to_the_runtime(vm: &qemu_harness::vm::Vm) -> Result<()> {
    let api = vm.api()?;
    let agent = json!({
        "apiVersion": "astromesh/v1",
        "kind": "Agent",
        "metadata": {"name": "greeter", "version": "1.0.0", "namespace": "test"},
        "spec": {
            "identity": {"display_name": "Greeter", "description": "greets"},
            "model": {
                "primary": {"provider": "ollama", "model": "none", "endpoint": "http://127.0.0.1:9"},
                "routing": {"strategy": "cost_optimized"}
            },
            "prompts": {"system": "You greet."},
            "orchestration": {"pattern": "react", "max_iterations": 1}
        }
    });
    let made = api.post("/v1/agents", &agent, CALL)?;
    ensure!(made.status == 201, "POST /v1/agents: {made:?}");
    ensure!(made.json()?["name"] == "greeter", "{made:?}");
    let listed = api.get("/v1/agents", CALL)?;
    ensure!(
        listed.status == 200 && listed.body.contains("greeter"),
        "{listed:?}"
    );
    let run = || {
        let query = json!({"query": "hello", "session_id": "one"});
        api.post("/v1/agents/greeter/run", &query, CALL)
    };
    answers(
        &run()?,
        404,
        &json!({"detail": "Agent 'greeter' not found"}),
    )?;
    let deployed = api.post("/v1/agents/greeter/deploy", &json!({}), CALL)?;
    answers(
        &deployed,
        200,
        &json!({"agent": "greeter", "status": "deployed"}),
    )?;
    answers(&run()?, 502, &no_provider())?;
    let unknown = api.post("/v1/agents/nobody/run", &json!({}), CALL)?;
    ensure!(unknown.status == 422, "the run is not checked: {unknown:?}");
    Ok(())
}

/// What the pinned runtime says when nobody listens where the agent's model is.
fn no_provider() -> Value {
    json!({"detail": {
        "error": "model_all_providers_failed",
        "message": "All model providers failed. Last error: All connection attempts failed",
        "hint": "Attempted this request: primary. Registered: primary. \
                 Verify endpoints, API keys, and that services are reachable.",
    }})
}

fn answers(answer: &Answer, status: u16, body: &Value) -> Result<()> {
    ensure!(
        answer.status == status && answer.json()? == *body,
        "expected {status} {body}: {answer:?}"
    );
    Ok(())
}

/// After the power-off, seen from outside: `/var` is last, ext4, was mounted, and is clean.
fn the_disk_is_in_order(run: &Run) -> Result<()> {
    let tools = &run.host().tools;
    let partitions = gpt::partitions(tools, &run.disk())?;
    let last = partitions.last().context("no partitions")?;
    ensure!(last.kind == gpt::VAR, "the last partition is {last:?}");
    let place = format!("{}?offset={}", run.disk().display(), last.start);
    let header = tools.output("debugfs", &["-R", "show_super_stats -h", &place])?;
    let field = |name: &str| {
        header
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .with_context(|| format!("no `{name}` in:\n{header}"))
    };
    ensure!(
        field("Filesystem state")? == "clean",
        "/var was not unmounted: {header}"
    );
    ensure!(
        field("Mount count")? != "0",
        "/var was never mounted: {header}"
    );
    for folder in ["/lib/astromesh", "/log/astromesh"] {
        let stat = tools.output("debugfs", &["-R", &format!("stat {folder}"), &place])?;
        ensure!(
            stat.contains("Type: directory") && stat.contains("User:   800   Group:   800"),
            "/var{folder} is not the runtime's: {stat}"
        );
    }
    Ok(())
}
