//! Programs of ours that tests start.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The path of an example of this package, as its source is now: `cargo test` builds the examples only when no test
/// program is named. With the features of the whole workspace, so after `cargo test --workspace` nothing is compiled again.
pub fn build(name: &str) -> PathBuf {
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--example", name])
        .arg("--message-format=json")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo");
    assert!(cargo.status.success(), "cargo build --example {name}");
    let said = String::from_utf8_lossy(&cargo.stdout).into_owned();
    let artifacts = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = artifacts.filter(|artifact| artifact["target"]["name"] == name);
    let program = programs.find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    program.expect("cargo tells where the example is")
}
