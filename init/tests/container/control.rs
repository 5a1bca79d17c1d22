//! The control socket with real clients, honest, slow and hostile.

use crate::rig::Container;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Command;

const TWO: &str = r#"[service.db]
    exec = ["SERVICE", "print=hello", "forever"]
    required = true
    [service.web]
    exec = ["SERVICE", "forever"]
    requires = ["db"]
    probe.readiness = { exec = ["/bin/test", "-e", "DIR/ready"], interval = "20ms" }
    type = "probe"
    stop.timeout = "1s""#;

#[test]
fn every_verb_answers_a_person_and_a_program() {
    let mut container = Container::start("verbs", TWO);
    container.until("boot.healthy", &[]);
    let text = |arguments: &[&str]| {
        let output = container.initctl(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{error}");
        text
    };
    let tree = text(&["status"]);
    for part in ["db", "healthy", "web", "starting", "logger"] {
        assert!(tree.contains(part), "{part} is not in\n{tree}");
    }
    assert!(text(&["explain", "web"]).contains("its readiness probe has not succeeded yet"));
    assert!(text(&["logs", "db"]).contains("db: hello"));
    assert!(text(&["events"]).contains("boot.healthy"));
    assert!(text(&["boot"]).contains("boot.healthy"));
    assert!(text(&["metrics"]).ends_with("# EOF\n"));
    let one: Value = serde_json::from_str(&text(&["--json", "status", "db"])).unwrap();
    assert_eq!(one["system"]["services"][0]["state"], "healthy");
    text(&["restart", "db"]);
    text(&["stop", "web"]);
    std::fs::write(container.dir.join("ready"), "").unwrap();
    text(&["start", "web"]);
    assert!(text(&["exits", "db"]).contains("signal=15"));
    let unknown = container.initctl(&["stop", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("db") && said.contains("nobody"), "{said}");
    text(&["poweroff"]);
    container.until("shutdown.start", &[("verb", "poweroff")]);
    let gone = container.end_of_itself();
    assert_eq!(gone.code(), Some(0));
}

#[test]
fn it_works_while_everything_is_being_stopped() {
    let mut container = Container::start(
        "stopping",
        r#"[service.s]
        exec = ["SERVICE", "ignore=SIGTERM", "print=blocked", "forever"]
        stop.timeout = "3s""#,
    );
    container.until_shown("s: blocked");
    container.ask(&json!({"verb": "poweroff"}));
    container.until("service.stop", &[("service", "s")]);
    let status = container.ask(&json!({"verb": "status"}));
    assert_eq!(status["system"]["state"], "stopping");
    let s = container.status("s");
    assert_eq!(s["state"], "stopping");
    assert_eq!(
        s["explanation"]["next"][0]["what"],
        "the whole tree is killed"
    );
    assert!(
        !container
            .lines(&json!({"verb": "logs", "lines": 5}))
            .is_empty()
    );
    let refused = container.ask(&json!({"verb": "start", "service": "s"}));
    assert_eq!(refused["ok"], false);
}

#[test]
fn who_may_not_is_told_so() {
    let speaks = TWO.replace(
        "\"print=hello\"",
        "\"notify=STATUS=my secret\", \"print=hello\"",
    );
    let mut container = Container::start("peers", &speaks);
    container.until("service.healthy", &[("service", "db")]);
    container.until_status("db", "text", |s| s["status_text"] == "my secret");
    // Nobody else may even enter the folder that tests use.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&container.dir, everybody).unwrap();
    let as_nobody = |request: &Value| {
        let socket = container.dir.join("run/control");
        let script = "exec 3<>/dev/null; exec \"$0\" \"$@\"";
        let output = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .args(["/bin/sh", "-c", script])
            .arg(env!("CARGO_BIN_EXE_init"))
            .args(["ctl", "--json", "--runtime-dir"])
            .arg(socket.parent().unwrap())
            .args(request.as_array().unwrap().iter().filter_map(Value::as_str))
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, text) = as_nobody(&json!(["status", "db"]));
    assert_eq!(code, Some(0), "{text}");
    let says = |text: &str| {
        serde_json::from_str::<Value>(text).unwrap()["system"]["services"][0]["status_text"].clone()
    };
    assert_eq!(says(&text), "", "what a service wrote is for root");
    for request in [json!(["stop", "db"]), json!(["logs"]), json!(["poweroff"])] {
        let (code, text) = as_nobody(&request);
        assert_eq!(code, Some(1), "{request}: {text}");
        assert!(text.contains("uid 65534"), "{request}: {text}");
    }
    assert_eq!(container.status("db")["state"], "healthy");
}

#[test]
fn slow_and_hostile_clients_are_nobodys_trouble() {
    let mut container = Container::start(
        "hostile-clients",
        r#"[service.s]
        exec = ["/bin/sh", "-c", "exit 1"]
        restart = "always"
        intensity = { restarts = 1000, within = "1s" }
        backoff.base = "5ms"
        backoff.max = "5ms""#,
    );
    container.until("service.restart", &[("service", "s")]);
    // One follows and never reads; one floods; one sends half a line; one speaks another language.
    let mut follower = container.connect();
    writeln!(follower, "{}", json!({"verb": "events", "follow": true})).unwrap();
    let mut flood = container.connect();
    let mut half = container.connect();
    half.write_all(br#"{"verb":"#).unwrap();
    let mut http = container.connect();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    // Not to the end: that is a reset, as the rest of what it sent was not read (unix(7)).
    let mut answer = [0u8; 200];
    let count = http.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.contains("\"ok\":false"), "{answer}");
    let long = vec![b'x'; 100_000];
    // Whatever it does with so much, it does not take it all.
    let _ = flood.write_all(&long);
    let mut idle: Vec<_> = (0..20).map(|_| container.connect()).collect();
    for _ in 0..50 {
        container.until("service.restart", &[("service", "s")]);
        assert_eq!(container.status("s")["name"], "s");
    }
    // The follower is still there; what it missed, if anything, is counted.
    let mut line = String::new();
    BufReader::new(&follower).read_line(&mut line).unwrap();
    assert!(line.contains("\"ok\":true"));
    // No room is left for all of these, and root's own client is answered all the same once they go.
    idle.extend((0..20).map(|_| container.connect()));
    let mut refused = String::new();
    idle.last()
        .unwrap()
        .take(1000)
        .read_to_string(&mut refused)
        .unwrap();
    assert!(refused.contains("too many clients"), "{refused}");
    drop(idle);
    let end = std::time::Instant::now() + crate::rig::PATIENCE;
    while container.ask(&json!({"verb": "status"}))["ok"] != true {
        assert!(std::time::Instant::now() < end);
    }
}

#[test]
fn a_logger_that_does_not_come_back_does_not_silence_init() {
    let mut container = Container::start("mute", TWO);
    container.until("service.healthy", &[("service", "db")]);
    // Its life is ended again and again, until it takes seconds to come back.
    loop {
        container.until_status("logger", "running", |s| s["state"] == "healthy");
        container.kill("logger");
        let restart = container.until("service.restart", &[("service", "logger")]);
        if restart.field("delay_ms").parse::<u64>().unwrap() > 2_500 {
            break;
        }
    }
    container.command("restart", "db");
    container.until_shown("service.stop service=db");
    let logger = container.status("logger");
    assert_eq!(
        logger["state"], "backoff",
        "it was not the logger who showed it"
    );
    container.until("service.healthy", &[("service", "logger")]);
    container.until_shown("db: hello");
}

/// The kernel executes these names, without arguments, when the host of a virtual machine wants it off.
#[test]
fn the_names_that_the_kernel_calls_end_the_machine_in_order() {
    let folder = std::env::temp_dir().join(format!("init-names-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (name, status) in [("poweroff", 0), ("reboot", 133)] {
        let link = folder.join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_init"), &link).unwrap();
        // It refuses to ask the init of whoever runs this test.
        let refused = Command::new(&link).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.starts_with(name),
            "{said}"
        );
        assert_eq!(
            Command::new(&link).arg("-f").status().unwrap().code(),
            Some(2)
        );
        let services = format!(
            "[service.app]\nexec = ['SERVICE', 'forever']\nrequired = true\n\
             [service.host]\nexec = ['{}']\nafter = ['app']\nrestart = 'never'\n",
            link.display()
        );
        let mut container = Container::start(name, &services);
        container.until("shutdown.start", &[("verb", name)]);
        container.until("service.exit", &[("service", "app"), ("signal", "15")]);
        // Who follows hears the last word, too, in whatever turn of the loop it was said.
        container.until("shutdown.done", &[("verb", name)]);
        assert_eq!(container.end_of_itself().code(), Some(status));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
