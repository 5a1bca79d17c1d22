//! The control: the same root with systemd as PID 1, to be measured against.
//!
//! Kernel, root, runtime, user, environment and initramfs are those of our image. On top come
//! the packages of `image/control.lock`, the units of `image/control`, and what the packages'
//! scripts would have done: users, presets, the services enabled. Consoles get no login, as
//! on the appliance.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cache;
use crate::fetch;
use crate::lock::{Lock, hex};
use crate::paths::Paths;
use crate::rootfs::{self, Base};
use crate::tools::{Tools, run};
use crate::tree;

/// The code that makes the tree is one of its inputs.
const CODE: &str = include_str!("control.rs");
/// What the distribution enables on a machine with networkd, and the runtime.
const ENABLED: [&str; 2] = ["systemd-networkd.service", "astromeshd.service"];
/// Nobody logs in, and nothing has to be rebuilt at the first boot of a new version.
const MASKED: [&str; 6] = [
    "getty@.service",
    "serial-getty@.service",
    "console-getty.service",
    "getty.target",
    "ldconfig.service",
    "systemd-journal-catalog-update.service",
];

/// Makes the control's base from ours, or finds it in the cache.
///
/// # Errors
/// When its packages are not to be had or do not fit together.
pub fn base(paths: &Paths, tools: &Tools, ours: &Base, store: Option<&Path>) -> Result<Base> {
    let definition = paths.image_definition();
    let lock = Lock::read(&definition.join("control.lock"))?;
    let mut hash = Sha256::new();
    for text in [CODE, &ours.digest, &lock.digest()] {
        hash.update(text);
        hash.update("\n");
    }
    tree::hash_into(&definition.join("control"), &mut hash)?;
    let digest = hex(&hash.finalize());
    let store = store
        .map_or_else(|| paths.cache.join("base"), Path::to_path_buf)
        .join(format!("control-{}", &digest[..16]));
    let _guard = cache::take(&store)?;
    let root = store.join("root");
    if !root.is_dir() {
        let debs = fetch::packages(paths, &lock)?;
        eprintln!("making the control's root");
        let (work, fresh) = (store.join("work"), store.join("root.new"));
        tree::remove(&work)?;
        tree::remove(&fresh)?;
        fetch::unpack(&debs, &work)?;
        make(tools, ours, &definition.join("control"), &work, &fresh)
            .with_context(|| format!("cannot make the control's root in {}", store.display()))?;
        tree::remove(&work)?;
        fs::rename(&fresh, &root)?;
    }
    Ok(Base {
        root,
        digest,
        ..ours.clone()
    })
}

fn make(tools: &Tools, ours: &Base, control: &Path, work: &Path, root: &Path) -> Result<()> {
    tree::copy(&ours.root, root)?;
    for unread in [
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/lintian",
    ] {
        tree::remove(&work.join(unread))?;
    }
    for part in ["usr", "etc"] {
        tree::copy(&work.join(part), &root.join(part))?;
    }
    tree::copy(control, root)?;
    rootfs::libraries(work, root, "control")?;
    // systemd makes an id for this boot when it finds the file empty.
    let id = root.join("etc/machine-id");
    let _ = fs::remove_file(&id);
    fs::write(&id, "")?;
    symlink("../lib/systemd/systemd", root.join("usr/sbin/init"))?;
    for folder in ["boot", "home", "root", "srv"] {
        fs::create_dir_all(root.join(folder))?;
    }
    // udev's library reads only the binary indexes, which ours does without.
    run(tools
        .command("depmod")
        .arg("-b")
        .arg(root.join("usr"))
        .arg(&ours.kernel))?;
    run(tools.command("systemd-sysusers").arg("--root").arg(root))?;
    let systemctl = |arguments: &[&str]| -> Result<()> {
        run(tools
            .command("systemctl")
            .arg("--root")
            .arg(root)
            .args(arguments))
        .map(drop)
    };
    systemctl(&["preset-all"])?;
    systemctl(&[&["enable"], &ENABLED[..]].concat())?;
    systemctl(&[&["mask"], &MASKED[..]].concat())?;
    systemctl(&["set-default", "multi-user.target"])
}
