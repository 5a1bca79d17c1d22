//! The command as its user sees it when something is wrong: status, and a message that names it.

use std::net::TcpListener;
use std::process::{Command, Output};

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
