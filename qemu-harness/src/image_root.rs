//! What goes into the root for one image: programs, configuration, keys, os-release.
//!
//! The base holds what all images share; here it becomes the root of one of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::image::IMAGE_ID;
use crate::image_options::{ImageOptions, Kind};
use crate::rootfs::make_executable;
use crate::signing;
use crate::tree;

/// Where the keys are that updates are checked with.
const UPDATE_KEYS: &str = "usr/lib/astromesh/update-keys";
/// Where the reporter of the counted benchmark is.
pub(crate) const REPORTER: &str = "usr/bin/counted";

/// The programs of ours that an image has.
#[derive(Debug)]
pub(crate) struct Programs {
    /// `/sbin/init`.
    pub init: PathBuf,
    /// `/init` of the initramfs.
    pub initramfs: PathBuf,
    /// `/usr/bin/astromeshd`, when it is not that of the base.
    pub daemon: Option<PathBuf>,
    /// `/usr/bin/counted`, in an image for the counted benchmark.
    pub reporter: Option<PathBuf>,
}

/// Makes a copy of the base the root of this image.
pub(crate) fn finish(
    root: &Path,
    programs: &Programs,
    options: &ImageOptions,
    definition: &Path,
) -> Result<()> {
    if let Some(daemon) = &programs.daemon {
        put_program(root, daemon, "usr/bin/astromeshd")?;
    }
    if options.kind != Kind::Control {
        put_program(root, &programs.init, "usr/sbin/init")?;
        symlink("../sbin/init", root.join("usr/bin/initctl"))?;
        // The names by which the kernel asks for an orderly end (kernel: `kernel/reboot.c`).
        for name in ["poweroff", "reboot"] {
            symlink("init", root.join("usr/sbin").join(name))?;
        }
        put_config(root, options, definition)?;
    }
    if let Some(reporter) = &programs.reporter {
        put_program(root, reporter, REPORTER)?;
        // The floor starts it by itself.
        let starts = match options.kind {
            Kind::Ours => Some("counted/ours"),
            Kind::Control => Some("counted/control"),
            Kind::Floor => None,
        };
        if let Some(folder) = starts {
            tree::copy(&definition.join(folder), root)?;
        }
    }
    put_keys(root, &options.update_keys)?;
    if options.kind == Kind::Ours && options.init.is_none() && !options.unchecked {
        check_config(&programs.init, root, options, definition)?;
    }
    for path in &options.omit {
        let place = root.join(path.trim_start_matches('/'));
        ensure!(
            path.starts_with('/') && place.symlink_metadata().is_ok_and(|meta| !meta.is_dir()),
            "the root has no file {path} that could be omitted"
        );
        fs::remove_file(&place).with_context(|| format!("cannot omit {path}"))?;
    }
    os_release(root, &options.version)
}

fn put_program(root: &Path, program: &Path, place: &str) -> Result<()> {
    let target = root.join(place);
    fs::copy(program, &target)
        .with_context(|| format!("cannot copy {} to /{place}", program.display()))?;
    make_executable(&target)
}

fn put_config(root: &Path, options: &ImageOptions, definition: &Path) -> Result<()> {
    let folder = root.join("usr/lib/astromesh/init.toml.d");
    fs::create_dir_all(&folder)?;
    if let Some(file) = &options.drop_in {
        fs::copy(file, folder.join("drop-in.toml"))
            .with_context(|| format!("cannot copy the drop-in {}", file.display()))?;
    }
    let config = options
        .config
        .clone()
        .unwrap_or_else(|| definition.join("init.toml"));
    fs::copy(&config, root.join("usr/lib/astromesh/init.toml"))
        .with_context(|| format!("cannot copy the configuration {}", config.display()))?;
    Ok(())
}

/// A key that the machine could not read fails here, not at the first update in the field.
fn put_keys(root: &Path, keys: &[PathBuf]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let folder = root.join(UPDATE_KEYS);
    fs::create_dir_all(&folder)?;
    for key in keys {
        let name = key
            .file_name()
            .filter(|name| Path::new(name).extension().is_some_and(|end| end == "pem"))
            .with_context(|| format!("the update key {} is no *.pem file", key.display()))?;
        let text = fs::read_to_string(key)
            .with_context(|| format!("cannot read the update key {}", key.display()))?;
        signing::check_public_pem(&text)
            .with_context(|| format!("the update key {}", key.display()))?;
        let target = folder.join(name);
        if target.exists() {
            bail!("two update keys are called {}", key.display());
        }
        fs::write(target, text)?;
    }
    Ok(())
}

/// Has our init judge its configuration: what a boot would stumble over fails the build.
fn check_config(init: &Path, root: &Path, options: &ImageOptions, definition: &Path) -> Result<()> {
    let laid_over = options.drop_in.is_some() || options.counted;
    let config = match (laid_over, &options.config) {
        // Only in the root is the drop-in beside what it is laid over.
        (true, _) => root.join("usr/lib/astromesh/init.toml"),
        (false, Some(config)) => config.clone(),
        (false, None) => definition.join("init.toml"),
    };
    let mut check = Command::new(init);
    check.args(["check", "--root"]).arg(root).arg(&config);
    let output = check
        .output()
        .with_context(|| format!("cannot run {} to check the configuration", init.display()))?;
    ensure!(
        output.status.success(),
        "the configuration of the image is wrong:\n{}{}",
        String::from_utf8_lossy(&output.stdout).trim_end(),
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}

/// os-release of the root, which mkosi also puts into the UKI: systemd-boot sorts by it.
fn os_release(root: &Path, version: &str) -> Result<()> {
    let text = format!(
        "ID={IMAGE_ID}\nID_LIKE=debian\nNAME=\"Astromesh OS\"\nPRETTY_NAME=\"Astromesh OS {version}\"\n\
         VERSION_ID={version}\nIMAGE_ID={IMAGE_ID}\nIMAGE_VERSION={version}\n"
    );
    fs::write(root.join("usr/lib/os-release"), text)?;
    symlink("../usr/lib/os-release", root.join("etc/os-release"))?;
    Ok(())
}
