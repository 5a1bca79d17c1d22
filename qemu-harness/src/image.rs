//! The image, from inputs to a disk that boots.
//!
//! 1. init is compiled for the musl target, or taken from where the caller says.
//! 2. The base is found or made ([`crate::rootfs`]).
//! 3. Base, init, its configuration and os-release become the root tree, which is audited and
//!    packed as erofs. Root and initramfs are the only things that change with init.
//! 4. mkosi builds hash tree, UKI (with the root hash in its command line) and ESP.
//! 5. repart lays out the disk: ESP, slot A, empty slot B, /var.
//!
//! Every step has fixed times, UUIDs and orders; [`crate::reproduce`] checks that two builds
//! agree to the byte. A build whose inputs are those of the last one is not repeated.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::assemble::{self, Parts};
use crate::audit;
use crate::compile;
use crate::control;
use crate::fetch::sha256_file;
use crate::initramfs;
use crate::lock::hex;
use crate::paths::Paths;
use crate::report;
use crate::rootfs::{self, Base, Inputs, make_executable};
use crate::tools::{Tools, run};
use crate::tree;

/// The code that makes an image of its inputs is one of them.
const CODE: [&str; 5] = [
    include_str!("image.rs"),
    include_str!("assemble.rs"),
    include_str!("audit.rs"),
    include_str!("initramfs.rs"),
    include_str!("report.rs"),
];
/// Above this the build fails: the firmware reads all of it before anything else happens.
const UKI_LIMIT: u64 = 16 << 20;
/// Name of the image; os-release, labels and file names carry it.
pub const IMAGE_ID: &str = "astromesh-os";
/// 2025-01-01: all times in the image are this one.
pub const EPOCH: &str = "1735689600";
/// UUID of the root's file system. One for all versions: nothing looks a root up by it.
const ROOT_FS_UUID: &str = "6f1d2c9e-3f0b-4a57-9d55-a57203e5a0f5";
/// Above this the build fails: two slots and their growth must fit small disks.
const ROOT_LIMIT: u64 = 128 << 20;
/// How the root is compressed: measured in `image/README.md`.
const COMPRESSION: [&str; 2] = ["-zlz4hc,9", "-C65536"];
/// After `roothash=`: where to talk; a quiet console; reboot 10 s after a panic; all of init's
/// lines, which printk would otherwise limit.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=10 printk.devkmsg=on";

/// What stands at `/sbin/init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Our init.
    #[default]
    Ours,
    /// systemd, for comparison.
    Control,
    /// The least that reaches the runtime, for comparison.
    Floor,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// A static program to use as `/init` and `/sbin/init` instead of building ours.
    pub init: Option<PathBuf>,
    /// Version of the image (UAPI.10, without `+`).
    pub version: String,
    /// What stands at `/sbin/init`.
    pub kind: Kind,
    /// Added to the end of the kernel command line in the UKI.
    pub command_line: Vec<String>,
    /// An `init.toml` to use instead of `image/init.toml`.
    pub config: Option<PathBuf>,
    /// A file for the folder `init.toml.d` of the image: what it says is laid over the configuration.
    pub drop_in: Option<PathBuf>,
    /// Takes a configuration that `init check` refuses: to see what a boot does with it.
    pub unchecked: bool,
    /// Where to write; by default a folder under `target/appliance` for these options.
    pub out: Option<PathBuf>,
    /// Makes everything anew in this folder, without the cached base: to see it made twice.
    pub scratch: Option<PathBuf>,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            init: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kind: Kind::Ours,
            command_line: Vec::new(),
            config: None,
            drop_in: None,
            unchecked: false,
            out: None,
            scratch: None,
        }
    }
}

impl ImageOptions {
    /// The same root with systemd as PID 1.
    #[must_use]
    pub fn control() -> Self {
        Self {
            kind: Kind::Control,
            ..Self::default()
        }
    }

    /// The same root with the least that reaches the runtime.
    #[must_use]
    pub fn floor() -> Self {
        Self {
            kind: Kind::Floor,
            ..Self::default()
        }
    }

    fn folder(&self, paths: &Paths) -> PathBuf {
        if let Some(out) = &self.out {
            return out.clone();
        }
        match self.kind {
            Kind::Control => paths.out.join("image-control"),
            Kind::Floor => paths.out.join("image-floor"),
            Kind::Ours if *self == Self::default() => paths.image_out(),
            Kind::Ours => {
                let digest = hex(&Sha256::digest(format!("{self:?}")));
                paths.out.join(format!("image-{}", &digest[..8]))
            }
        }
    }
}

impl PartialEq for ImageOptions {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

/// A finished image: its files and what it is.
#[derive(Debug, Clone)]
pub struct Image {
    /// Version, as in os-release and the file names.
    pub version: String,
    /// The whole disk, sparse.
    pub raw: PathBuf,
    /// The UKI.
    pub efi: PathBuf,
    /// The root's data, minimal.
    pub root: PathBuf,
    /// The root's hash tree, minimal.
    pub verity: PathBuf,
    /// Root hash, hex.
    pub roothash: String,
    /// What is in it, with hashes (JSON).
    pub manifest: PathBuf,
    /// Packages and wheels (CycloneDX JSON).
    pub sbom: PathBuf,
    /// Every executable and library of the root, and why it is there (JSON).
    pub executables: PathBuf,
}

impl Image {
    fn at(folder: &Path, version: &str, roothash: String) -> Self {
        let file = |suffix: &str| folder.join(format!("{IMAGE_ID}_{version}{suffix}"));
        Self {
            version: version.to_owned(),
            raw: file(".raw"),
            efi: file(".efi"),
            root: file(".root-x86-64.raw"),
            verity: file(".root-x86-64-verity.raw"),
            roothash,
            manifest: file(".manifest"),
            sbom: file(".cdx.json"),
            executables: file(".executables.json"),
        }
    }

    /// All files of the image.
    #[must_use]
    pub fn files(&self) -> [&Path; 7] {
        [
            &self.raw,
            &self.efi,
            &self.root,
            &self.verity,
            &self.manifest,
            &self.sbom,
            &self.executables,
        ]
        .map(PathBuf::as_path)
    }
}

/// Builds the image, or finds that the last build's is still right.
///
/// # Errors
/// When something is missing, does not fit, or breaks a rule of the image (too large, an
/// executable that nobody asked for). The message names it.
pub fn build(paths: &Paths, tools: &Tools, options: &ImageOptions) -> Result<Image> {
    check_version(&options.version)?;
    let inputs = Inputs::read(paths)?;
    let init = match &options.init {
        Some(path) => path.clone(),
        None => compile::init(paths, options.kind)?,
    };
    let mut base = rootfs::base(paths, tools, &inputs, options.scratch.as_deref())?;
    if options.kind == Kind::Control {
        base = control::base(paths, tools, &base, options.scratch.as_deref())?;
    }
    let folder = options.folder(paths);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let guard = fs::File::create(folder.join(".lock"))
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    guard
        .lock()
        .with_context(|| format!("cannot lock {}", folder.display()))?;

    let stamp = folder.join(".inputs");
    let digest = inputs_digest(paths, tools, options, &base, &init)?;
    if let Some(roothash) = fs::read_to_string(&stamp)
        .ok()
        .and_then(|text| text.strip_prefix(&digest).map(str::to_owned))
    {
        let image = Image::at(&folder, &options.version, roothash.trim().to_owned());
        if image.files().iter().all(|file| file.exists()) {
            return Ok(image);
        }
    }
    let _ = fs::remove_file(&stamp);
    let work = folder.join(".work");
    tree::remove(&work)?;
    fs::create_dir_all(&work)?;
    eprintln!("building the image in {}", folder.display());
    let image =
        make(paths, tools, options, &inputs, &base, &init, &folder, &work).with_context(|| {
            format!(
                "cannot build the image (what there is of it lies in {})",
                work.display()
            )
        })?;
    tree::remove(&work)?;
    fs::write(&stamp, format!("{digest} {}", image.roothash))?;
    Ok(image)
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call, from the function above"
)]
fn make(
    paths: &Paths,
    tools: &Tools,
    options: &ImageOptions,
    inputs: &Inputs,
    base: &Base,
    init: &Path,
    folder: &Path,
    work: &Path,
) -> Result<Image> {
    let definition = paths.image_definition();
    let root = work.join("root");
    tree::copy(&base.root, &root)?;
    if options.kind != Kind::Control {
        put_init(&root, init, options, &definition)?;
    }
    if options.kind == Kind::Ours && options.init.is_none() && !options.unchecked {
        check_config(init, &root, options, &definition)?;
    }
    os_release(&root, &options.version)?;
    let listed = match options.kind {
        // Shell or not, the control is never shipped.
        Kind::Control => "{}\n".to_owned(),
        Kind::Ours | Kind::Floor => audit::audit(
            &root,
            &[
                &definition.join("executables.list"),
                &base.root.with_file_name("executables.list"),
            ],
        )?,
    };

    let packed = work.join("root.erofs");
    let mut mkfs = tools.command("mkfs.erofs");
    mkfs.args(COMPRESSION).args([
        "--quiet",
        "--all-root",
        "-x-1",
        "-T",
        EPOCH,
        "-U",
        ROOT_FS_UUID,
    ]);
    run(mkfs.arg(&packed).arg(&root)).context("cannot pack the root")?;
    let size = fs::metadata(&packed)?.len();
    ensure!(
        size <= ROOT_LIMIT,
        "the root is {} MiB, more than the {} MiB allowed; image/README.md says what is in it",
        size >> 20,
        ROOT_LIMIT >> 20
    );
    let ramdisk = work.join("initramfs.cpio.zst");
    initramfs::write(tools, init, &base.initramfs, &ramdisk)?;

    let mut command_line = vec![COMMAND_LINE.to_owned()];
    if options.kind == Kind::Control {
        // As with `quiet`: a line per unit on a serial port would count against it.
        command_line.push("systemd.show_status=auto".to_owned());
    }
    command_line.extend(options.command_line.iter().cloned());
    let parts = Parts {
        version: &options.version,
        boot: &base.boot,
        os_release: &root.join("usr/lib/os-release"),
        root: &packed,
        initramfs: &ramdisk,
        command_line: &command_line.join(" "),
    };
    let built = assemble::mkosi(paths, tools, &parts, work)?;
    let size = fs::metadata(&built.uki)?.len();
    ensure!(
        size <= UKI_LIMIT,
        "the UKI is {} KiB, more than the {} KiB allowed: init or image/modules.initramfs.list has grown",
        size >> 10,
        UKI_LIMIT >> 10
    );
    let image = Image::at(folder, &options.version, built.roothash.clone());
    for (from, to) in [
        (&built.uki, &image.efi),
        (&built.root, &image.root),
        (&built.verity, &image.verity),
    ] {
        fs::rename(from, to).with_context(|| format!("cannot put {} into place", to.display()))?;
    }
    assemble::disk(paths, tools, &image, &built.esp, work)?;
    fs::write(&image.executables, listed)?;
    report::sbom(&image, inputs, &base.kernel)?;
    report::manifest(tools, &image, inputs, base)?;
    Ok(image)
}

/// init, its client's name and its configuration.
fn put_init(root: &Path, init: &Path, options: &ImageOptions, definition: &Path) -> Result<()> {
    fs::copy(init, root.join("usr/sbin/init"))
        .with_context(|| format!("cannot copy init from {}", init.display()))?;
    make_executable(&root.join("usr/sbin/init"))?;
    symlink("../sbin/init", root.join("usr/bin/initctl"))?;
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

/// Has our init judge its configuration: what a boot would stumble over fails the build.
fn check_config(init: &Path, root: &Path, options: &ImageOptions, definition: &Path) -> Result<()> {
    let config = match (&options.drop_in, &options.config) {
        // Only in the root is the drop-in beside what it is laid over.
        (Some(_), _) => root.join("usr/lib/astromesh/init.toml"),
        (None, Some(config)) => config.clone(),
        (None, None) => definition.join("init.toml"),
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

/// `+` starts the boot counter in the UKI's name, `_` and `/` separate parts of file names.
fn check_version(version: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-.^~".contains(c);
    if version.is_empty()
        || !version.starts_with(|c: char| c.is_ascii_digit())
        || !version.chars().all(allowed)
    {
        bail!(
            "`{version}` is no image version: it starts with a digit and has only letters, digits and -.^~"
        );
    }
    Ok(())
}

fn inputs_digest(
    paths: &Paths,
    tools: &Tools,
    options: &ImageOptions,
    base: &Base,
    init: &Path,
) -> Result<String> {
    let image = paths.image_definition();
    let mut hash = Sha256::new();
    let own = [
        tools.digest(),
        &base.digest,
        &sha256_file(init)?,
        &options.version,
        COMMAND_LINE,
        ROOT_FS_UUID,
    ];
    for text in own
        .into_iter()
        .chain(COMPRESSION)
        .chain(CODE)
        .chain(options.command_line.iter().map(String::as_str))
    {
        hash.update(text);
        hash.update("\n");
    }
    for part in ["mkosi.conf", "repart", "layout", "boot", "executables.list"] {
        tree::hash_into(&image.join(part), &mut hash)?;
    }
    tree::hash_into(
        &options
            .config
            .clone()
            .unwrap_or_else(|| image.join("init.toml")),
        &mut hash,
    )?;
    if let Some(file) = &options.drop_in {
        tree::hash_into(file, &mut hash)?;
    }
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_break_file_names_are_refused() {
        for version in ["1", "0.1.0", "1.3.0~rc1", "1.0^fix"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
        for version in ["", "v1", "1+3", "1_2", "../1", "1 2"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }
}
