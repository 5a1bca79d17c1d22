//! `astromeshd`: the package that the image carries, and the real one in its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_harness::node::{self, Source};
use qemu_harness::paths::Paths;
use qemu_harness::python::SITE;
use qemu_harness::rootfs::{self, Inputs};
use qemu_harness::tools::{Tools, run};
use qemu_harness::tree;

/// Writes a wheel by hand: building one needs packages that nothing else here needs.
const WHEEL: &str = r#"
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    info = "astromesh_node-9.9.dist-info/"
    wheel.writestr("astromesh_node/__init__.py", "")
    wheel.writestr("astromesh_node/daemon.py", "def main():\n    print('the real one')\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: astromesh-node\nVersion: 9.9\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "")
"#;

struct Scratch(PathBuf);

impl Scratch {
    fn new(paths: &Paths, name: &str) -> Self {
        let folder = paths
            .out
            .join(format!("test-{name}-{}", std::process::id()));
        tree::remove(&folder).unwrap();
        fs::create_dir_all(folder.join("image/dist")).unwrap();
        fs::create_dir_all(folder.join("root/usr/bin")).unwrap();
        Self(folder)
    }

    /// The same folders, but with an image definition of our own.
    fn paths(&self, paths: &Paths) -> Paths {
        Paths::new(self.0.clone(), paths.out.clone(), paths.cache.clone()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn our_own_keeps_the_contract() {
    let paths = Paths::discover().unwrap();
    let tools = Tools::prepare(&paths).unwrap();
    let base = rootfs::base(&paths, &tools, &Inputs::read(&paths).unwrap(), None).unwrap();
    node::test(&paths, &tools, &base.root).unwrap();
}

#[test]
fn a_wheel_in_dist_is_taken_instead() {
    let paths = Paths::discover().unwrap();
    let tools = Tools::prepare(&paths).unwrap();
    let scratch = Scratch::new(&paths, "wheel");
    let wheel = scratch
        .0
        .join("image/dist/astromesh_node-9.9-py3-none-any.whl");
    run(tools.command("python3").args(["-c", WHEEL]).arg(&wheel)).unwrap();
    let source = node::find(&scratch.paths(&paths)).unwrap();
    assert_eq!(source, Source::Wheel(wheel.clone()));
    let root = scratch.0.join("root");
    assert!(node::install(&source, &tools, &root).unwrap().is_empty());
    assert_eq!(mode(&root.join("usr/bin/astromeshd")), 0o755);
    let daemon = fs::read_to_string(root.join(SITE).join("astromesh_node/daemon.py")).unwrap();
    assert!(daemon.contains("the real one"), "{daemon}");

    let second = wheel.with_file_name("astromesh_node-9.8-py3-none-any.whl");
    fs::copy(&wheel, second).unwrap();
    let error = node::find(&scratch.paths(&paths)).unwrap_err().to_string();
    assert!(error.contains("more than one"), "{error}");
}

#[test]
fn a_debian_package_in_dist_brings_its_own_interpreter() {
    let paths = Paths::discover().unwrap();
    let tools = Tools::prepare(&paths).unwrap();
    let scratch = Scratch::new(&paths, "deb");
    let tree = scratch.0.join("tree");
    for folder in [
        "DEBIAN",
        "opt/astromesh/venv/bin",
        "opt/astromesh/python/bin",
        "lib/systemd/system",
    ] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    let control = "Package: astromesh-node\nVersion: 9.9\nArchitecture: amd64\nMaintainer: x <x@x.invalid>\nDescription: x\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    fs::write(tree.join("DEBIAN/postinst"), "#!/bin/sh\nexit 1\n").unwrap();
    run(Command::new("chmod")
        .arg("755")
        .arg(tree.join("DEBIAN/postinst")))
    .unwrap();
    fs::write(
        tree.join("lib/systemd/system/astromeshd.service"),
        "[Unit]\n",
    )
    .unwrap();
    fs::write(
        tree.join("opt/astromesh/venv/bin/astromeshd"),
        "print('the real one')\n",
    )
    .unwrap();
    fs::write(tree.join("opt/astromesh/python/bin/python3.12"), "x").unwrap();
    let deb = scratch.0.join("image/dist/astromesh-node_9.9_amd64.deb");
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(&tree)
        .arg(&deb))
    .unwrap();

    let source = node::find(&scratch.paths(&paths)).unwrap();
    let root = scratch.0.join("root");
    let executables = node::install(&source, &tools, &root).unwrap();
    assert_eq!(executables, ["opt/astromesh/python/bin/python3.12"]);
    let launcher = fs::read_to_string(root.join("usr/bin/astromeshd")).unwrap();
    assert!(
        launcher.contains("/opt/astromesh/venv/bin/astromeshd"),
        "{launcher}"
    );
    assert!(!root.join("lib/systemd").exists());

    fs::remove_file(tree.join("opt/astromesh/venv/bin/astromeshd")).unwrap();
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(&tree)
        .arg(&deb))
    .unwrap();
    tree::remove(&root.join("opt")).unwrap();
    let error = node::install(&source, &tools, &root)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/opt/astromesh/venv/bin/astromeshd"),
        "{error}"
    );
}
