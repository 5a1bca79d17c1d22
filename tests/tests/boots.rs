//! Whole boots, in one program: its tests are threads, so while one machine runs another's image is
//! built, and there are as many machines at a time as the host has room for.
//!
//! `cargo test -p appliance-tests --test boots boot_limits` runs those of one file.

mod boot_corrupt;
mod boot_grow;
mod boot_hostile_var;
mod boot_limits;
mod boot_network;
mod boot_powercut_disk;
mod boot_refused;
mod boot_restart;
mod boot_roles;
mod boot_segment;
mod boot_watchdog;
mod boot_whole;
mod boot_without;

use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Cargo finds no tests by itself here, so that a forgotten file would be one that nobody runs.
#[test]
fn no_file_is_forgotten() -> Result<()> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(package.join("Cargo.toml"))?;
    for entry in std::fs::read_dir(package.join("tests"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        let name = name.context("a name that is no text")?;
        let is_test = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").exists();
        let is_run = if name.starts_with("boot_") {
            include_str!("boots.rs").contains(&format!("\nmod {name};\n"))
        } else {
            manifest.contains(&format!("[[test]]\nname = \"{name}\"\n"))
        };
        ensure!(
            is_run || !is_test,
            "nobody runs {}: name it in tests/boots.rs or in Cargo.toml",
            path.display()
        );
    }
    Ok(())
}
