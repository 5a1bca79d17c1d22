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

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::assemble::{self, Parts};
use crate::audit;
use crate::compile::{self, Program};
use crate::control;
use crate::fetch::sha256_file;
use crate::image_folders::{self, STAMP};
pub use crate::image_options::{ImageOptions, Kind, Runtime};
use crate::image_root::{self, Programs, REPORTER};
use crate::initramfs;
use crate::lock::hex;
use crate::paths::Paths;
use crate::recipe;
use crate::report;
use crate::rootfs::{self, Base, Inputs};
use crate::tools::{Tools, run};
use crate::tree;

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
    /// While somebody has it, the folder stays.
    _used: Arc<fs::File>,
}

impl Image {
    pub(crate) fn at(folder: &Path, version: &str, roothash: String) -> Result<Self> {
        let file = |suffix: &str| folder.join(format!("{IMAGE_ID}_{version}{suffix}"));
        Ok(Self {
            version: version.to_owned(),
            raw: file(".raw"),
            efi: file(".efi"),
            root: file(".root-x86-64.raw"),
            verity: file(".root-x86-64-verity.raw"),
            roothash,
            manifest: file(".manifest"),
            sbom: file(".cdx.json"),
            executables: file(".executables.json"),
            _used: image_folders::hold(folder)?,
        })
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
    options.check()?;
    let inputs = Inputs::read(paths)?;
    let programs = programs(paths, options)?;
    let mut base = rootfs::base(paths, tools, &inputs, options.scratch.as_deref())?;
    if options.runtime == Runtime::Small {
        ensure!(
            options.kind != Kind::Control,
            "the systemd control has the whole runtime, or compares nothing"
        );
        base.root = base.small.clone();
    }
    if options.kind == Kind::Control {
        base = control::base(paths, tools, &base, options.scratch.as_deref())?;
    }
    let folder = options.folder(paths);
    let _building = image_folders::lock(&folder)?;
    let stamp = folder.join(STAMP);
    let digest = inputs_digest(paths, tools, options, &base, &programs)?;
    if let Some(roothash) = fs::read_to_string(&stamp)
        .ok()
        .and_then(|text| text.strip_prefix(&digest).map(str::to_owned))
    {
        let image = Image::at(&folder, &options.version, roothash.trim().to_owned())?;
        if image.files().iter().all(|file| file.exists()) {
            return Ok(image);
        }
    }
    let _ = fs::remove_file(&stamp);
    image_folders::forget_old(&paths.out, image_folders::KEPT);
    let work = folder.join(".work");
    tree::remove(&work)?;
    fs::create_dir_all(&work)?;
    eprintln!("building the image in {}", folder.display());
    let image = make(
        paths, tools, options, &inputs, &base, &programs, &folder, &work,
    )
    .with_context(|| {
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
    programs: &Programs,
    folder: &Path,
    work: &Path,
) -> Result<Image> {
    let definition = paths.image_definition();
    let list = executables(options, &definition, base)?;
    let root = work.join("root");
    tree::copy(&base.root, &root)?;
    // Before the configuration is checked: what it starts has to be executable by then.
    make_listed_executable(&root, &list)?;
    image_root::finish(&root, programs, options, &definition)?;
    let listed = match options.kind {
        // Shell or not, the control is never shipped.
        Kind::Control => "{}\n".to_owned(),
        Kind::Ours | Kind::Floor => {
            let file = work.join("executables.list");
            fs::write(&file, list)?;
            audit::audit(&root, &[&file])?
        }
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
    initramfs::write(
        tools,
        &programs.initramfs,
        &initramfs_modules(base, options, work)?,
        &ramdisk,
    )?;

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
    let image = Image::at(folder, &options.version, built.roothash.clone())?;
    for (from, to) in [
        (&built.uki, &image.efi),
        (&built.root, &image.root),
        (&built.verity, &image.verity),
    ] {
        fs::rename(from, to).with_context(|| format!("cannot put {} into place", to.display()))?;
    }
    assemble::disk(paths, tools, &image, &built.esp, work)?;
    fs::write(&image.executables, listed)?;
    report::sbom(&image, inputs, &base.kernel, options.runtime)?;
    report::manifest(tools, &image, inputs, base)?;
    Ok(image)
}

/// `+` starts the boot counter in the UKI's name, `_` and `/` separate parts of file names.
fn check_version(version: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-.^~".contains(c);
    if version.is_empty()
        || !version.starts_with(|c: char| c.is_ascii_digit())
        || !version.chars().all(allowed)
    {
        bail!(
            "`{version}` cannot be the version of an image: one starts with a digit and has only letters, digits and -.^~"
        );
    }
    Ok(())
}

/// Compiles the programs of an image that the caller does not give.
fn programs(paths: &Paths, options: &ImageOptions) -> Result<Programs> {
    let init = match (&options.init, options.kind) {
        (Some(path), _) => path.clone(),
        (None, Kind::Floor) => compile::program(paths, Program::Floor)?,
        (None, Kind::Ours | Kind::Control) => compile::program(paths, Program::Init)?,
    };
    let daemon = match options.runtime {
        Runtime::Astromesh => None,
        Runtime::Small => Some(compile::program(paths, Program::SmallDaemon)?),
    };
    let reporter = match options.counted {
        true => Some(compile::program(paths, Program::Counted)?),
        false => None,
    };
    Ok(Programs {
        reporter,
        initramfs: options
            .initramfs_init
            .clone()
            .unwrap_or_else(|| init.clone()),
        init,
        daemon,
    })
}

/// The list that the audit holds the root against, without what is left out on purpose.
fn executables(options: &ImageOptions, definition: &Path, base: &Base) -> Result<String> {
    let lists = match options.runtime {
        // Its root is made of ours, without what came out beside that.
        Runtime::Astromesh if options.kind == Kind::Control => {
            vec![definition.join("executables.list")]
        }
        Runtime::Astromesh => vec![
            definition.join("executables.list"),
            base.root.with_file_name("executables.list"),
        ],
        Runtime::Small => vec![definition.join("executables.small.list")],
    };
    let mut all = String::new();
    for list in lists {
        let text =
            fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let path = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
        for line in text
            .lines()
            .filter(|line| !options.omit.contains(&path(line)))
        {
            all.push_str(line);
            all.push('\n');
        }
    }
    if options.counted {
        let _ = writeln!(all, "/{REPORTER} # the reporter of the counted benchmark");
    }
    Ok(all)
}

/// Makes the files of a list executable that are there. Those that are not are found by the audit.
fn make_listed_executable(root: &Path, list: &str) -> Result<()> {
    for line in list.lines().filter(|line| line.starts_with('/')) {
        let path = line.split('#').next().unwrap_or_default().trim();
        let file = root.join(path.trim_start_matches('/'));
        if file.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            rootfs::make_executable(&file)?;
        }
    }
    Ok(())
}

/// The modules of the initramfs; those that are to be missing are taken out of a copy.
fn initramfs_modules(base: &Base, options: &ImageOptions, work: &Path) -> Result<PathBuf> {
    if options.omit_modules.is_empty() {
        return Ok(base.initramfs.clone());
    }
    let modules = work.join("initramfs-modules");
    tree::copy(&base.initramfs, &modules)?;
    for name in &options.omit_modules {
        let file = format!("{name}.ko");
        let found = tree::files(&modules)?
            .into_iter()
            .find(|path| path.file_name().is_some_and(|name| *name == *file))
            .with_context(|| format!("the initramfs has no module {name} that could be omitted"))?;
        fs::remove_file(&found).with_context(|| format!("cannot remove {}", found.display()))?;
    }
    Ok(modules)
}

fn inputs_digest(
    paths: &Paths,
    tools: &Tools,
    options: &ImageOptions,
    base: &Base,
    programs: &Programs,
) -> Result<String> {
    let image = paths.image_definition();
    let mut hash = Sha256::new();
    let own = [
        tools.digest(),
        &base.digest,
        &sha256_file(&programs.init)?,
        &sha256_file(&programs.initramfs)?,
        &options.version,
        COMMAND_LINE,
        ROOT_FS_UUID,
    ];
    for text in own
        .into_iter()
        .chain(COMPRESSION)
        .chain(recipe::IMAGE.map(|(_, text)| text))
        .chain(options.command_line.iter().map(String::as_str))
    {
        hash.update(text);
        hash.update("\n");
    }
    for part in [
        "mkosi.conf",
        "repart",
        "layout",
        "boot",
        "executables.list",
        "executables.small.list",
    ] {
        tree::hash_into(&image.join(part), &mut hash)?;
    }
    // Names as well as contents: the same image is not to be found under another set of options.
    hash.update(format!(
        "{:?} {:?} {:?}\n",
        options.runtime, options.omit, options.omit_modules
    ));
    if options.counted {
        tree::hash_into(&image.join("counted"), &mut hash)?;
    }
    let extra = programs.daemon.iter().chain(&programs.reporter);
    for file in extra.chain(&options.update_keys) {
        hash.update(format!("{}\n", file.display()));
        tree::hash_into(file, &mut hash)?;
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
    use std::os::unix::fs::PermissionsExt;

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

    #[test]
    fn a_listed_file_is_made_executable_and_no_other() {
        let root = std::env::temp_dir().join(format!("listed-{}", std::process::id()));
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        for name in ["hellod", "data"] {
            let file = root.join("usr/bin").join(name);
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let list = "# why\n/usr/bin/hellod   # greets\n/usr/sbin/init # comes later\n";
        make_listed_executable(&root, list).unwrap();
        let mode = |name: &str| {
            let meta = fs::metadata(root.join("usr/bin").join(name)).unwrap();
            meta.permissions().mode() & 0o777
        };
        assert_eq!(mode("hellod"), 0o755);
        assert_eq!(mode("data"), 0o644);
        tree::remove(&root).unwrap();
    }

    /// The root with systemd is made of ours, without the list that came out beside that.
    #[test]
    fn the_control_is_held_against_the_written_list_alone() {
        let folder = std::env::temp_dir().join(format!("control-list-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("executables.list"), "/usr/sbin/init # init\n").unwrap();
        let base = Base {
            root: folder.join("base/root"),
            small: folder.clone(),
            initramfs: folder.clone(),
            boot: folder.clone(),
            kernel: String::new(),
            digest: String::new(),
        };
        let list = executables(&ImageOptions::control(), &folder, &base);
        let ours = executables(&ImageOptions::default(), &folder, &base);
        tree::remove(&folder).unwrap();
        assert!(list.unwrap().contains("/usr/sbin/init"));
        assert!(ours.is_err(), "ours has a list of its own");
    }
}
