//! `init check` as an image builder calls it: a planted mistake for each row, and the exact line that tells it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A root with all that a small image needs, gone when the test is over.
struct Root(PathBuf);

/// The configuration of a machine that `init check` has nothing to say about.
const GOOD: &str = "\
[service.web]
exec = [\"/usr/bin/web\"]
user = \"web\"
required = true
";

impl Root {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root =
            Self(std::env::temp_dir().join(format!("init-check-{}-{number}", std::process::id())));
        let _ = fs::remove_dir_all(&root.0);
        root.file(
            "etc/passwd",
            "root:x:0:0:::\nnetcfg:x:801:801:::\nlogger:x:802:802:::\nweb:x:900:900:::\n",
        )
        .file(
            "etc/group",
            "root:x:0:\nnetcfg:x:801:\nlogger:x:802:\nweb:x:900:\n",
        )
        .file(
            "usr/lib/modules/6.1/modules.dep",
            "kernel/net/8021q/8021q.ko.xz:\n",
        )
        .file("usr/lib/modules/6.1/modules.alias", "")
        .file(
            "usr/lib/modules/6.1/modules.builtin",
            "kernel/fs/erofs/erofs.ko\n",
        )
        .program("usr/bin/sh", &static_elf())
        .program("usr/bin/web", b"#!/usr/bin/sh -e\n")
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn program(self, name: &str, bytes: &[u8]) -> Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn without(self, name: &str) -> Self {
        fs::remove_file(self.0.join(name)).unwrap();
        self
    }

    /// Status and lines, with the root's own path as `ROOT`.
    fn check(&self) -> (Option<i32>, Vec<String>) {
        let output = Command::new(env!("CARGO_BIN_EXE_init"))
            .arg("check")
            .arg("--root")
            .arg(&self.0)
            .arg(self.0.join("init.toml"))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let out = String::from_utf8(output.stdout).unwrap();
        let out = out.replace(self.0.to_str().unwrap(), "ROOT");
        (
            output.status.code(),
            out.lines().map(str::to_owned).collect(),
        )
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// elf(5): a header of 64 bytes for no machine in particular, with these program headers.
fn elf(headers: &[u8], count: u8) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[32] = 64;
    file[54] = 56;
    file[56] = count;
    file.extend(headers);
    file
}

fn static_elf() -> Vec<u8> {
    elf(&[], 0)
}

/// With one header, `PT_INTERP`, and what it points to.
fn dynamic_elf(loader: &str) -> Vec<u8> {
    let mut header = [0; 56];
    header[0] = 3;
    header[8] = 120;
    header[32] = u8::try_from(loader.len() + 1).unwrap();
    let mut file = elf(&header, 1);
    file.extend(loader.as_bytes());
    file.push(0);
    file
}

/// The lines that follow from this configuration in a good root; the status must fit them.
#[track_caller]
fn told(root: &Root, expected: &[&str]) {
    let (status, lines) = root.check();
    assert_eq!(lines, expected);
    let errors = expected.iter().any(|line| !line.contains(": warning: "));
    assert_eq!(status, Some(i32::from(errors)), "{lines:?}");
}

/// A good service, and `more` from line 5 on.
fn with(more: &str) -> Root {
    Root::new().file("init.toml", &format!("{GOOD}{more}"))
}

#[test]
fn a_good_image_has_nothing_to_be_told() {
    told(&with(""), &[]);
    told(
        &with(
            "[system]\nhostname = \"node-7.example.org\"\nmodules = [\"erofs\", \"8021q\"]\n[sysctl]\n\"net/ipv4/conf/eth0.7/forwarding\" = \"1\"\n",
        ),
        &[],
    );
}

#[test]
fn the_users_of_inits_own_roles() {
    let root = with("")
        .file("etc/passwd", "root:x:0:0:::\nweb:x:900:900:::\n")
        .file("etc/group", "");
    told(
        &root,
        &[
            "ROOT/init.toml:1:1: the group \"logger\", which init's own logger runs as, is not in ROOT/etc/group; add it to the image",
            "ROOT/init.toml:1:1: the group \"netcfg\", which init's own netcfg runs as, is not in ROOT/etc/group; add it to the image",
            "ROOT/init.toml:1:1: the user \"logger\", which init's own logger runs as, is not in ROOT/etc/passwd; add it to the image",
            "ROOT/init.toml:1:1: the user \"netcfg\", which init's own netcfg runs as, is not in ROOT/etc/passwd; add it to the image",
        ],
    );
}

#[test]
fn two_services_on_one_socket() {
    let root = Root::new().file(
        "init.toml",
        "[service.a]\nexec = [\"/usr/bin/web\"]\nrequired = true\nsockets = [\"tcp:0.0.0.0:8080\", \"udp:0.0.0.0:8080\"]\n\
         [service.b]\nexec = [\"/usr/bin/web\"]\nsockets = [\"tcp:127.0.0.1:8080\", \"unix:/run/b\"]\n\
         [service.c]\nexec = [\"/usr/bin/web\"]\nsockets = [\"unix:/run/b\"]\n",
    );
    told(
        &root,
        &[
            "ROOT/init.toml:7:11: service.b.sockets: tcp:127.0.0.1:8080 cannot be opened beside tcp:0.0.0.0:8080 of service a",
            "ROOT/init.toml:10:11: service.c.sockets: unix:/run/b cannot be opened beside unix:/run/b of service b",
        ],
    );
}

#[test]
fn host_name_modules_and_kernel_settings() {
    let root = with(
        "[system]\nhostname = \"bad_host!\"\nmodules = [\"nope\"]\n[sysctl]\n\"net.core.somaxconn\" = \"1\"\n\"../x\" = \"1\"\n",
    );
    told(
        &root,
        &[
            "ROOT/init.toml:6:12: system.hostname: \"bad_host!\" cannot be the host name; write letters, digits and inner hyphens, up to 64 bytes, as in \"node-7\"",
            "ROOT/init.toml:7:11: system.modules: module \"nope\" is not in ROOT/usr/lib/modules/6.1",
            "ROOT/init.toml:9:24: sysctl.\"net.core.somaxconn\": is no path below /proc/sys; write slashes, as in \"net/core/somaxconn\"",
            "ROOT/init.toml:10:10: sysctl.\"../x\": is no path below /proc/sys, such as \"net/core/somaxconn\"",
        ],
    );
    let vlan = "[[network.vlan]]\nname = \"v\"\nlink = \"eth0\"\nid = 7\n";
    told(&with(vlan), &[]);
    let root = with(vlan).file("usr/lib/modules/6.1/modules.dep", "");
    told(
        &root,
        &["ROOT/init.toml:5:1: network.vlan: module \"8021q\" is not in ROOT/usr/lib/modules/6.1"],
    );
    let root = with("").without("usr/lib/modules/6.1/modules.alias");
    told(
        &root,
        &[
            "ROOT/init.toml:1:1: ROOT/usr/lib/modules/6.1/modules.alias: No such file or directory (os error 2); run depmod on the root",
        ],
    );
}

#[test]
fn programs_that_the_kernel_could_not_execute() {
    let at = "ROOT/init.toml:2:8: service.web.exec: ";
    let web = |bytes: &[u8]| with("").program("usr/bin/web", bytes);
    for (root, expected) in [
        (
            web(b"#! /bin/bash -e\n"),
            "ROOT/usr/bin/web needs /bin/bash to run, and ROOT/bin/bash is not there",
        ),
        (
            web(b"#!\n"),
            "ROOT/usr/bin/web needs  to run, and ROOT/ is not there",
        ),
        (
            web(b"#!/usr/bin/web\n"),
            "ROOT/usr/bin/web has too many interpreters of interpreters",
        ),
        (
            web(&dynamic_elf("/lib64/ld.so")),
            "ROOT/usr/bin/web needs /lib64/ld.so to run, and ROOT/lib64/ld.so is not there",
        ),
        (
            web(&dynamic_elf("/lib64/ld.so")[..100]),
            "ROOT/usr/bin/web is cut off within its ELF headers",
        ),
        (web(b""), "ROOT/usr/bin/web is empty"),
        (
            web(b"echo hello\n"),
            "ROOT/usr/bin/web is neither an ELF program nor a script that starts with #!",
        ),
        (
            with("").without("usr/bin/web"),
            "ROOT/usr/bin/web is not there",
        ),
        (
            with("").without("usr/bin/web").file("usr/bin/web", "x"),
            "ROOT/usr/bin/web is not executable",
        ),
    ] {
        let (_, lines) = root.check();
        let lines: Vec<String> = lines.iter().map(|l| l.replace(at, "")).collect();
        if expected.contains("too many") {
            assert!(
                lines.len() == 1 && lines[0].ends_with(expected),
                "{lines:?}"
            );
        } else {
            assert_eq!(lines, [expected]);
        }
    }
    // What is there is found as the machine would: links stay within the root.
    let good = web(&dynamic_elf("/lib64/ld.so")).program("usr/lib/ld.so", &static_elf());
    symlink("/usr/lib", good.0.join("lib64")).unwrap();
    told(&good, &[]);
    let link = |target: &str| {
        let root = with("").without("usr/bin/web");
        symlink(target, root.0.join("usr/bin/web")).unwrap();
        root
    };
    told(&link("/usr/bin/sh"), &[]);
    told(&link("/var/lib/web/current"), &[]);
    told(
        &link("/opt/web"),
        &[&format!(
            "{at}ROOT/usr/bin/web is a link to /opt/web, which is not there"
        )],
    );
}

#[test]
fn nothing_to_run_and_nothing_to_be_healthy_by() {
    told(
        &Root::new().file("init.toml", ""),
        &[
            "ROOT/init.toml:1:1: no service is configured, so the machine does nothing; add [service.NAME] with `exec`",
        ],
    );
    let root = Root::new();
    let (status, lines) = root.check();
    assert_eq!(
        (status, lines),
        (
            Some(1),
            vec![
                "ROOT/init.toml:1:1: cannot be read: No such file or directory (os error 2)"
                    .to_owned()
            ]
        )
    );
    told(
        &Root::new().file(
            "init.toml",
            "\n[service.web]\nexec = [\"/usr/bin/web\"]\nstop.timeout = \"91s\"\n",
        ),
        &[
            "ROOT/init.toml:2:2: warning: no service has `required = true`, so nothing says when the machine is healthy",
            "ROOT/init.toml:4:16: warning: service.web.stop.timeout: 91 s is longer than the 90 s that a shutdown waits for all services",
        ],
    );
}

#[test]
fn directories_whose_place_others_decide() {
    let entry = |path: &str, more: &str| format!("[[directory]]\npath = \"{path}\"\n{more}");
    for (entries, expected) in [
        (
            entry("/var/lib/web", "user = \"web\"\n") + &entry("/var/lib/web/cache", ""),
            "8:1: directory \"/var/lib/web/cache\": it belongs to root, but \"/var/lib/web\" above it to web, who could put a link in its place",
        ),
        (
            entry("/var/lib/web/cache", "user = \"0\"\n")
                + &entry("/var/lib/web/", "user = \"900\"\n"),
            "7:8: directory \"/var/lib/web/cache\": it belongs to 0, but \"/var/lib/web/\" above it to 900, who could put a link in its place",
        ),
        (
            entry("/var/lib/web", "mode = \"0777\"\n")
                + &entry("/var/lib/web/cache", "user = \"web\"\n"),
            "10:8: directory \"/var/lib/web/cache\": \"/var/lib/web\" above it has the mode 0777, so others than its owner could put a link in its place",
        ),
        (
            entry("/run/", "user = \"web\"\n"),
            "7:8: directory \"/run/\": \"/run/init\" below it is init's own, so nobody but root may write here\n\
             7:8: directory \"/run/\": \"/run/netcfg\" below it is init's own, so nobody but root may write here",
        ),
        (
            entry("/var/lib", "user = \"web\"\n"),
            "6:8: directory \"/var/lib\" is init's own; leave the entry out",
        ),
        (
            entry("/var/lib/netcfg", "user = \"web\"\n"),
            "6:8: directory \"/var/lib/netcfg\" is init's own; leave the entry out",
        ),
        (
            entry("/var/lib/x", "user = \"nobody\"\n"),
            "7:8: directory \"/var/lib/x\": user \"nobody\" is not in /etc/passwd; add it to the image or give a number",
        ),
        (
            entry("/etc/x", "mode = \"9\"\n"),
            "6:8: directory path = \"/etc/x\" is not below /var or /run; nothing else can be written\n7:8: directory \"/etc/x\": mode = \"9\" is not an octal mode such as \"0750\"",
        ),
    ] {
        let mut expected: Vec<String> = expected
            .lines()
            .map(|l| format!("ROOT/init.toml:{l}"))
            .collect();
        expected.sort();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        told(&with(&entries), &expected);
    }
    let fine = entry("/var/lib/web", "user = \"web\"\n")
        + &entry("/var/lib/web/cache", "user = \"900\"\n")
        + &entry("/run/all", "mode = \"1777\"\n")
        + &entry("/run/all/web", "user = \"web\"\n")
        + &entry("/var/lib/webber", "");
    told(&with(&fine), &[]);
    // The place is counted over all files.
    let root = with(&entry("/var/lib/web", "user = \"web\"\n")).file(
        "init.toml.d/1.toml",
        &entry("/var/lib/web/cache", "user = \"root\"\n"),
    );
    told(
        &root,
        &[
            "ROOT/init.toml.d/1.toml:3:8: directory \"/var/lib/web/cache\": it belongs to root, but \"/var/lib/web\" above it to web, who could put a link in its place",
        ],
    );
}

#[test]
fn every_error_of_the_form_in_one_run() {
    let root = Root::new().file(
        "init.toml",
        r#"[service.web]
exec = "/usr/bin/web"
user = "helod"
restrat = "always"
required = "yes"
start-timeout = "2 sec"
restart = "alway"
stopp = 5
limits = { memory-max = "64 MB", tasks-max = "x" }
[service.b]
exec = ["/usr/bin/web", 5]
after = ["c"]
[[directory]]
user = "web"
[[directory]]
path = "/var/x"
user = "nobody"
[network]
link = [{ match = { name = 5 } }]
colour = 1
"#,
    );
    told(
        &root,
        &[
            "ROOT/init.toml:2:8: service.web.exec: expected a list such as [\"first\", \"second\"], found the string \"/usr/bin/web\"",
            "ROOT/init.toml:3:8: service.web.user: user \"helod\" is not in /etc/passwd; add it to the image or give a number",
            "ROOT/init.toml:4:1: service.web.restrat: unknown key; did you mean `restart`?",
            "ROOT/init.toml:5:12: service.web.required: expected true or false, found the string \"yes\"",
            "ROOT/init.toml:6:17: service.web.start-timeout: `2 sec` is not a duration; write a whole number and one of ms, s, m, h, as in \"250ms\"",
            "ROOT/init.toml:7:11: service.web.restart: \"alway\" is not one of never, on-failure, always; did you mean \"always\"?",
            "ROOT/init.toml:8:1: service.web.stopp: unknown key; did you mean `stop`?",
            "ROOT/init.toml:9:25: service.web.limits.memory-max: `64 MB` is not a size; write bytes with K, M or G, or a share, as in \"64M\" or \"80%\"",
            "ROOT/init.toml:9:46: service.web.limits.tasks-max: expected a whole number, found the string \"x\"",
            "ROOT/init.toml:11:25: service.b.exec[1]: expected a string, found the number 5",
            "ROOT/init.toml:12:9: service.b.after: \"c\" is neither a service nor one of [\"net\", \"var\"]",
            "ROOT/init.toml:13:1: directory[0]: the key `path` is missing",
            "ROOT/init.toml:17:8: directory \"/var/x\": user \"nobody\" is not in /etc/passwd; add it to the image or give a number",
            "ROOT/init.toml:19:28: network.link[0].match.name: expected a string, found the number 5",
            "ROOT/init.toml:20:1: network.colour: unknown key; known here are link, vlan, ntp",
        ],
    );
}

#[test]
fn a_key_that_is_given_twice_and_where_first() {
    let root = Root::new().file(
        "init.toml",
        "[service.web]\nexec = [\"/usr/bin/web\"]\nrequired = true\nprobe.liveness = { exec = [\"/usr/bin/web\"] }\nexec = [\"/x\"]\n\
         [service.b]\nexec = [\"/usr/bin/nothing\"]\n[service.web]\nnice = 1\n",
    );
    told(
        &root,
        &[
            "ROOT/init.toml:5:1: the key `exec` is given twice; it is first given at 2:1",
            "ROOT/init.toml:7:8: service.b.exec: ROOT/usr/bin/nothing is not there",
            "ROOT/init.toml:8:10: the key `web` is given twice; it is first given at 1:10",
        ],
    );
}
