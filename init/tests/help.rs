//! Help and version: on the standard output, with status 0, from each role and each verb.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Status, standard output, standard error.
fn call(name: &str, words: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_init"))
        .arg0(name)
        .args(words.split_whitespace())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn of_every_role_and_verb() {
    let version = env!("CARGO_PKG_VERSION");
    for (name, words, begins) in [
        ("init", "--help", "usage:\n  init check [--root DIR] FILE\n"),
        ("init", "-h", "usage:\n"),
        ("init", "help", "usage:\n"),
        ("init", "--version", &format!("init {version}\n")),
        ("init", "-V", &format!("init {version}\n")),
        (
            "init",
            "check --help",
            "usage: init check [--root DIR] FILE\nJudges",
        ),
        ("init", "check --root /x -h", "usage: init check"),
        ("init", "container --help", "usage: init container --config"),
        ("init", "netcfg --help", "usage: init netcfg --config"),
        ("init", "slots --help", "usage: init slots"),
        ("init", "devices --help", "usage: init devices\n"),
        ("init", "grow --help", "usage: init grow"),
        ("init", "update --help", "usage: init update"),
        ("init", "logger --help", "usage: init logger"),
        ("init", "ctl --help", "usage: initctl "),
        (
            "init",
            "ctl logs --help",
            "usage: initctl [--runtime-dir DIR] [--json] logs [SERVICE]",
        ),
        ("/sbin/initctl", "--help", "usage: initctl "),
        ("initctl", "--version", &format!("initctl {version}\n")),
        (
            "initctl",
            "restart --help",
            "usage: initctl [--runtime-dir DIR] [--json] restart SERVICE\n",
        ),
        (
            "initctl",
            "help poweroff",
            "usage: initctl [--runtime-dir DIR] [--json] reboot | poweroff\n",
        ),
    ] {
        let (status, out, errors) = call(name, words);
        assert_eq!((status, errors.as_str()), (Some(0), ""), "{name} {words}");
        assert!(out.starts_with(begins), "{name} {words}: {out}");
    }
}

#[test]
fn what_is_not_there_is_told_and_nothing_is_done() {
    for (words, begins) in [
        ("", "init: name a role\nusage:\n"),
        (
            "reboot-now",
            "init: there is no role `reboot-now`\nusage:\n",
        ),
        ("check", "init: check needs a FILE\nusage:\n"),
    ] {
        let (status, out, errors) = call("init", words);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{words}");
        assert!(errors.starts_with(begins), "{words}: {errors}");
    }
}
