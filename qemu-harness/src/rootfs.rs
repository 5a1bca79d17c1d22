//! The base: everything of the image that does not depend on our own binary.
//!
//! Four trees, made once per set of inputs and kept in the cache by the hash of those inputs:
//!
//! - `root`: what the root file system will hold, but for init, its configuration and os-release;
//! - `small`: the same without interpreter and runtime, for images with a daemon of our own;
//! - `initramfs`: the kernel modules of the initramfs;
//! - `boot`: kernel, UKI stub and loader, laid out where mkosi looks for them.
//!
//! `root` is filled by taking, not by removing: the interpreter, its standard library without
//! what an appliance never imports, the runtime's wheels, and then the shared libraries that
//! these files ask for. A library that is asked for and not in a locked package is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::cache;
use crate::elf;
use crate::fetch;
use crate::lock::{Lock, hex};
use crate::modules::Kernel;
use crate::node::{self, Source};
use crate::paths::Paths;
use crate::python::{self, SITE};
use crate::recipe;
use crate::tools::Tools;
use crate::tree;
use crate::wheels::Wheels;

/// The folder of Debian's shared libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Folders taken as they are: the locale that programs are started with, and time zones.
const DATA: [&str; 2] = ["usr/lib/locale/C.utf8", "usr/share/zoneinfo"];

/// The four trees and what they were made from.
#[derive(Debug, Clone)]
pub struct Base {
    /// What the root will hold.
    pub root: PathBuf,
    /// What a root without interpreter and runtime will hold.
    pub small: PathBuf,
    /// Modules of the initramfs.
    pub initramfs: PathBuf,
    /// Kernel, stub and loader.
    pub boot: PathBuf,
    /// Release of the kernel.
    pub kernel: String,
    /// Hash of all inputs.
    pub digest: String,
}

/// What a base is made from.
#[derive(Debug)]
pub struct Inputs {
    /// Packages of the image.
    pub packages: Lock,
    /// Wheels of the runtime.
    pub wheels: Wheels,
}

impl Inputs {
    /// Reads the lock files.
    ///
    /// # Errors
    /// When one is missing or malformed.
    pub fn read(paths: &Paths) -> Result<Self> {
        Ok(Self {
            packages: Lock::read(&paths.image_definition().join("packages.lock"))?,
            wheels: Wheels::read(paths)?,
        })
    }

    fn digest(&self, paths: &Paths, tools: &Tools) -> Result<String> {
        let image = paths.image_definition();
        let mut hash = Sha256::new();
        let locks = [
            tools.digest(),
            &self.packages.digest(),
            &self.wheels.digest(),
        ];
        for text in locks.into_iter().chain(recipe::BASE.map(|(_, text)| text)) {
            hash.update(text);
            hash.update("\n");
        }
        for part in [
            "rootfs",
            "astromesh-node",
            "dist",
            "modules.initramfs.list",
            "modules.root.list",
        ] {
            tree::hash_into(&image.join(part), &mut hash)?;
        }
        Ok(hex(&hash.finalize()))
    }
}

/// Makes the base, or finds it in the cache; `store` is another folder to make it in, for
/// whoever wants to see it made twice.
///
/// # Errors
/// When packages or wheels are not to be had, or do not fit together.
pub fn base(paths: &Paths, tools: &Tools, inputs: &Inputs, store: Option<&Path>) -> Result<Base> {
    let digest = inputs.digest(paths, tools)?;
    let store = store
        .map_or_else(|| paths.cache.join("base"), Path::to_path_buf)
        .join(&digest[..16]);
    let _guard = cache::take(&store)?;
    let done = store.join("base");
    if !done.is_dir() {
        let debs = fetch::packages(paths, &inputs.packages)?;
        eprintln!("making the base of the image");
        let work = store.join("work");
        for folder in [&work, &store.join("base.new")] {
            tree::remove(folder)?;
        }
        let made = make(paths, tools, inputs, &debs, &work, &store.join("base.new"))
            .with_context(|| format!("cannot make the base of the image in {}", store.display()));
        tree::remove(&work)?;
        made?;
        fs::rename(store.join("base.new"), &done)?;
        cache::forget_old(&store);
    }
    let kernel =
        fs::read_to_string(done.join("kernel")).context("the cached base names no kernel")?;
    Ok(Base {
        root: done.join("root"),
        small: done.join("small"),
        initramfs: done.join("initramfs"),
        boot: done.join("boot"),
        kernel,
        digest,
    })
}

fn make(
    paths: &Paths,
    tools: &Tools,
    inputs: &Inputs,
    debs: &[PathBuf],
    work: &Path,
    to: &Path,
) -> Result<()> {
    let image = paths.image_definition();
    fetch::unpack(debs, work)?;
    let [root, small, initramfs, boot] =
        ["root", "small", "initramfs", "boot"].map(|name| to.join(name));
    for folder in [&root, &small, &initramfs, &boot] {
        fs::create_dir_all(folder)?;
    }
    for root in [&root, &small] {
        skeleton(root)?;
        tree::copy(&image.join("rootfs"), root)?;
        certificates(work, root)?;
    }
    for data in DATA {
        tree::copy(&work.join(data), &root.join(data))?;
    }
    python::install(work, &root)?;
    let source = node::find(paths)?;
    if !matches!(source, Source::Deb(_)) {
        inputs.wheels.install(paths, tools, &root.join(SITE))?;
        python::virtual_environment(&root, inputs)?;
    }
    let interpreters = node::install(&source, tools, &root)?;
    let launchers = root.join(SITE).join("bin");
    tree::prune(&root.join("opt"), &|path| {
        // Launchers with the shebang of the machine that built, compiled files of another
        // interpreter, and type stubs.
        path.file_name().is_some_and(|name| name == "__pycache__")
            || path == launchers
            || path.extension().is_some_and(|ext| ext == "pyi")
    })?;
    libraries(work, &root, "packages")?;
    loader(work, &root)?;

    let kernel = Kernel::read(tools, work)?;
    let lists = [
        image.join("modules.initramfs.list"),
        image.join("modules.root.list"),
    ];
    kernel.stage(tools, &lists[..1], &initramfs)?;
    kernel.stage(tools, &lists, &root)?;
    kernel.stage(tools, &lists, &small)?;
    boot_files(work, &boot, &kernel.release)?;

    let mut executables = vec![
        "usr/bin/astromeshd",
        "usr/bin/python3.13",
        "usr/lib64/ld-linux-x86-64.so.2",
    ];
    executables.extend(interpreters.iter().map(String::as_str));
    tree::normalise(&root, &executables)?;
    tree::normalise(&small, &[])?;
    tree::normalise(&initramfs, &[])?;
    let listed: String = interpreters
        .iter()
        .map(|path| format!("/{path} # interprets the agent runtime, from its own package\n"))
        .collect();
    fs::write(to.join("executables.list"), listed)?;
    python::compile(tools, &root)?;
    fs::write(to.join("kernel"), &kernel.release)?;
    Ok(())
}

/// Folders and links that exist before anything is put in.
fn skeleton(root: &Path) -> Result<()> {
    for folder in [
        "dev",
        "efi",
        "etc",
        "opt",
        "proc",
        "run",
        "sys",
        "tmp",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/sbin",
        "var",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    symlink("/run/resolv.conf", root.join("etc/resolv.conf"))?;
    symlink("/proc/self/mounts", root.join("etc/mtab"))?;
    symlink("/run/machine-id", root.join("etc/machine-id"))?;
    Ok(())
}

/// The bundle that TLS libraries read, as Debian's script would have made it.
fn certificates(work: &Path, root: &Path) -> Result<()> {
    let folder = work.join("usr/share/ca-certificates/mozilla");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("no certificates in {}", folder.display()))?
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    let mut bundle = String::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        bundle.push_str(text.trim_end());
        bundle.push('\n');
    }
    ensure!(
        bundle.matches("BEGIN CERTIFICATE").count() > 50,
        "the certificate package holds too few certificates"
    );
    let target = root.join("etc/ssl/certs");
    fs::create_dir_all(&target)?;
    fs::write(target.join("ca-certificates.crt"), bundle)?;
    // Where OpenSSL as Debian builds it looks by default.
    fs::create_dir_all(root.join("usr/lib/ssl"))?;
    symlink("/etc/ssl/certs", root.join("usr/lib/ssl/certs"))?;
    symlink(
        "/etc/ssl/certs/ca-certificates.crt",
        root.join("usr/lib/ssl/cert.pem"),
    )?;
    Ok(())
}

/// Copies the shared libraries that the files of `root` ask for, and those that these ask for.
pub(crate) fn libraries(work: &Path, root: &Path, lock: &str) -> Result<()> {
    fs::create_dir_all(root.join(LIBRARIES))?;
    let mut queue: Vec<PathBuf> = tree::files(root)?;
    let mut present: BTreeSet<String> = queue
        .iter()
        .filter_map(|path| path.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    while let Some(path) = queue.pop() {
        let Some(links) = elf_links(&path)? else {
            continue;
        };
        for name in links.needed {
            // The loader is a library too, at the place the interpreters name.
            if name.starts_with("ld-linux") || !present.insert(name.clone()) {
                continue;
            }
            let source = work.join(LIBRARIES).join(&name);
            ensure!(
                source.exists(),
                "{} needs {name}, which no package of image/{lock}.lock has: add the package to \
                 image/{lock}.list and run `cargo vm lock {lock}`",
                path.strip_prefix(root).unwrap_or(&path).display()
            );
            let target = root.join(LIBRARIES).join(&name);
            fs::copy(&source, &target)
                .with_context(|| format!("cannot copy {}", source.display()))?;
            queue.push(target);
        }
        if let Some(interpreter) = links.interpreter {
            ensure!(
                interpreter == "/lib64/ld-linux-x86-64.so.2",
                "{} asks for the loader {interpreter}, which is not that of Debian",
                path.display()
            );
        }
    }
    Ok(())
}

fn loader(work: &Path, root: &Path) -> Result<()> {
    let loader = "usr/lib64/ld-linux-x86-64.so.2";
    fs::copy(work.join(loader), root.join(loader)).context("libc6 holds no loader")?;
    Ok(())
}

fn elf_links(path: &Path) -> Result<Option<elf::Links>> {
    if fs::symlink_metadata(path)?.is_symlink() {
        return Ok(None);
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !elf::is_elf(&bytes) {
        return Ok(None);
    }
    elf::links(&bytes)
        .with_context(|| format!("cannot read the ELF file {}", path.display()))
        .map(Some)
}

/// Kernel, stub and loader where mkosi looks for them. The index files are there, empty and
/// newer than the kernel, so that mkosi does not look for depmod in the image.
fn boot_files(work: &Path, boot: &Path, release: &str) -> Result<()> {
    let modules = boot.join("usr/lib/modules").join(release);
    fs::create_dir_all(&modules)?;
    let kernel = work.join(format!("boot/vmlinuz-{release}"));
    fs::copy(&kernel, modules.join("vmlinuz"))
        .with_context(|| format!("no kernel at {}", kernel.display()))?;
    for name in [
        "modules.dep",
        "modules.dep.bin",
        "modules.symbols",
        "modules.symbols.bin",
    ] {
        fs::write(modules.join(name), "")?;
    }
    let efi = "usr/lib/systemd/boot/efi";
    fs::create_dir_all(boot.join(efi))?;
    for name in [
        "systemd-bootx64.efi",
        "linuxx64.efi.stub",
        "addonx64.efi.stub",
    ] {
        fs::copy(work.join(efi).join(name), boot.join(efi).join(name))
            .with_context(|| format!("systemd-boot-efi holds no {name}"))?;
    }
    tree::normalise(boot, &[])
}

/// Whether a root without interpreter and runtime has something of this package.
#[must_use]
pub fn in_small(package: &str) -> bool {
    // Kernel and modules; loader and stub; certificates.
    package.starts_with("linux-image") || ["systemd-boot-efi", "ca-certificates"].contains(&package)
}

/// The versions of everything in the image that was locked, for manifest and SBOM.
#[must_use]
pub fn versions(inputs: &Inputs) -> BTreeMap<&'static str, BTreeMap<String, String>> {
    let packages = inputs
        .packages
        .packages
        .iter()
        .map(|p| (p.name.clone(), p.version.clone()))
        .collect();
    let wheels = inputs
        .wheels
        .list
        .iter()
        .map(|w| (w.name.clone(), w.version.clone()))
        .collect();
    BTreeMap::from([("packages", packages), ("wheels", wheels)])
}

/// Makes a file executable for all and writable for its owner.
pub(crate) fn make_executable(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot chmod {}", path.display()))
}
