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
        let mut line = name.to_owned();
        for (key, value) in fields {
            let bare = !value.is_empty()
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_./:@%+,=-".contains(&byte));
            let value = if bare {
                value.clone()
            } else {
                format!("{value:?}")
            };
            line.push_str(&format!(" {key}={value}"));
        }
        line.push('\n');
        // Nobody listening is no reason to stop.
        let _ = std::io::stdout().write_all(line.as_bytes());
    }
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
