//! The network part alone, with its events on stdout: `netcfg CONFIG STATE_DIR RUNTIME_DIR`.
//!
//! CONFIG is a TOML file whose key `network` is read, as in `init.toml`. The shipped binary has
//! this as `init netcfg`; the namespace tests of this crate use the example.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use netcfg::{Config, Options, Outlet};

#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    network: Config,
}

/// `name key=value ...`, one line and one write an event.
struct Lines;

impl Outlet for Lines {
    fn event(&mut self, name: &str, fields: &[(&str, String)]) {
        // Nobody listening is no reason to stop.
        let _ = std::io::stdout().write_all(line(name, fields).as_bytes());
    }
}

fn line(name: &str, fields: &[(&str, String)]) -> String {
    let mut line = name.to_owned();
    for (key, value) in fields {
        line.push_str(&format!(" {key}="));
        push_value(&mut line, value);
    }
    line.push('\n');
    line
}

/// A value as `docs/interfaces.md` has it: bare, or quoted with `\"`, `\\`, `\n` and `\xNN`.
fn push_value(line: &mut String, value: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@%+,=-".contains(&byte);
    if !value.is_empty() && value.bytes().all(plain) {
        return line.push_str(value);
    }
    line.push('"');
    for character in value.chars() {
        match character {
            '"' | '\\' => line.extend(['\\', character]),
            '\n' => line.push_str("\\n"),
            control if control.is_ascii_control() => {
                line.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            other => line.push(other),
        }
    }
    line.push('"');
}

fn main() -> ExitCode {
    match start() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("netcfg: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<std::convert::Infallible> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [config, state_dir, runtime_dir] = arguments.as_slice() else {
        anyhow::bail!("usage: netcfg CONFIG STATE_DIR RUNTIME_DIR");
    };
    let text = std::fs::read_to_string(config).with_context(|| config.display().to_string())?;
    let file: File = toml::from_str(&text).with_context(|| config.display().to_string())?;
    let options = Options {
        config: file.network,
        state_dir: state_dir.clone(),
        runtime_dir: runtime_dir.clone(),
    };
    Ok(netcfg::run(options, &mut Lines)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_the_interface_says() {
        for (value, expected) in [
            ("10.7.0.50/24", "net.x key=10.7.0.50/24"),
            ("", "net.x key=\"\""),
            ("a b", "net.x key=\"a b\""),
            ("a\tb\u{1b}", "net.x key=\"a\\x09b\\x1b\""),
            ("say \"\\\"\n", "net.x key=\"say \\\"\\\\\\\"\\n\""),
            ("größe 1", "net.x key=\"größe 1\""),
        ] {
            assert_eq!(
                line("net.x", &[("key", value.to_owned())]),
                format!("{expected}\n")
            );
        }
    }
}
