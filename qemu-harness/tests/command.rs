//! The command as its user sees it when something is wrong: status, and a message that names it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use qemu_harness::paths::Paths;
use qemu_harness::tools::Tools;

fn vm(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vm"))
        .args(words)
        .output()
        .expect("the command runs")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = vm(&["boot", "--once", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let text = complaint(&output);
    assert!(text.contains(&format!("port {port}")), "{text}");
    assert!(text.contains("--port"), "{text}");
}

#[test]
fn a_missing_image_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port().to_string();
    drop(free);
    let output = vm(&["boot", "--once", "--port", &port, "--image", "/no/such.raw"]);
    assert_eq!(output.status.code(), Some(1));
    let text = complaint(&output);
    assert!(text.contains("/no/such.raw"), "{text}");
    assert!(text.contains("cargo vm image"), "{text}");
}

#[test]
fn a_wrong_command_line_prints_usage() {
    for words in [&["launch"][..], &["boot", "--sideways"], &[]] {
        let output = vm(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let text = complaint(&output);
        assert!(text.contains("usage: cargo boot"), "{text}");
        assert!(
            words.last().is_none_or(|word| text.contains(word)),
            "{text}"
        );
    }
}

#[test]
fn what_is_wrong_with_the_arguments_of_an_image_is_told_at_once() {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("untouched");
    let _ = fs::remove_dir_all(&cache);
    let key = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-key.pem");
    fs::write(&key, "no key").expect("own folder");
    let key = key.to_str().expect("text");
    for (option, file) in [
        ("--config", "/no/such.toml"),
        ("--init", "/no/such-init"),
        ("--update-key", "/no/such.pem"),
        ("--update-key", key),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_vm"))
            .args(["image", option, file])
            .env("XDG_CACHE_HOME", &cache)
            .output()
            .expect("the command runs");
        assert_eq!(output.status.code(), Some(1));
        let text = complaint(&output);
        assert!(text.contains(&format!("{option} {file}")), "{text}");
        assert!(!cache.exists(), "it began to build");
    }
}

#[test]
fn a_wrong_number_is_told_with_its_option() {
    for option in ["--port", "--cpus"] {
        let output = vm(&["boot", option, "99999"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            complaint(&output).contains(option),
            "{}",
            complaint(&output)
        );
    }
}

#[test]
fn a_program_that_the_tools_root_has_not_is_told_with_those_it_has() {
    let output = vm(&["tools", "frob"]);
    assert_eq!(output.status.code(), Some(1));
    let text = complaint(&output);
    assert!(
        text.contains("`frob`") && text.contains("veritysetup"),
        "{text}"
    );
}

/// A cache that shares what was downloaded and unpacked with the real one, and nothing else.
fn own_cache(name: &str) -> PathBuf {
    let paths = Paths::discover().expect("a workspace");
    Tools::prepare(&paths).expect("the tools");
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(home.join("astromesh-init")).expect("own folder");
    for entry in fs::read_dir(&paths.cache).expect("the cache").flatten() {
        if entry.path().is_dir() {
            let link = home.join("astromesh-init").join(entry.file_name());
            symlink(entry.path(), link).expect("own folder");
        }
    }
    home
}

#[test]
fn whoever_asks_for_the_accelerator_has_it_tried_anew() {
    let home = own_cache("accelerator");
    let accel = || {
        let output = Command::new(env!("CARGO_BIN_EXE_vm"))
            .arg("accel")
            .env("XDG_CACHE_HOME", &home)
            .output()
            .expect("the command runs");
        assert!(output.status.success(), "{}", complaint(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let truth = accel();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
    let kept = format!("astromesh-init/accelerator-{}", boot.trim());
    let lie = if truth == "kvm\n" { "tcg" } else { "kvm" };
    fs::write(home.join(kept), lie).expect("own folder");
    assert_eq!(accel(), truth);
}
