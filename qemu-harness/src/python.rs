//! Python in the root: the interpreter, its standard library, the virtual environment, bytecode.
//!
//! The standard library is taken without what an appliance never imports, and all of it is compiled
//! to bytecode ahead, since the root is read-only.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::rootfs::Inputs;
use crate::tools::{Tools, run};
use crate::tree;

/// The interpreter of trixie.
pub const PYTHON: &str = "python3.13";
/// Where the runtime's packages are.
pub const SITE: &str = "opt/astromesh/venv/lib/python3.13/site-packages";

/// Parts of the standard library that an appliance never imports: development, documentation,
/// terminals, and the sources of what is compiled elsewhere.
const STDLIB_WITHOUT: [&str; 14] = [
    "__pycache__",
    "config-3.13-x86_64-linux-gnu",
    "curses",
    "dbm",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "sitecustomize.py",
    "test",
    "tkinter",
    "turtle.py",
    "turtledemo",
    "venv",
];
/// Compiled parts of it, likewise: terminals and old databases, whose libraries would come along.
const DYNLOAD_WITHOUT: [&str; 6] = ["_curses", "_dbm", "_gdbm", "_test", "_tkinter", "readline"];

/// Copies the interpreter and its standard library.
pub(crate) fn install(work: &Path, root: &Path) -> Result<()> {
    let binary = format!("usr/bin/{PYTHON}");
    fs::copy(work.join(&binary), root.join(&binary))
        .with_context(|| format!("the packages hold no /{binary}"))?;
    let library = format!("usr/lib/{PYTHON}");
    tree::copy(&work.join(&library), &root.join(&library))?;
    let top = root.join(&library);
    let dynload = top.join("lib-dynload");
    tree::prune(&top, &|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (path.parent() == Some(&top) && STDLIB_WITHOUT.contains(&name.as_ref()))
            || name == "__pycache__"
            || (path.parent() == Some(&dynload)
                && DYNLOAD_WITHOUT.iter().any(|start| name.starts_with(start)))
    })
}

/// The folder that the runtime's packages are installed in, as `python3 -m venv` makes it.
pub(crate) fn virtual_environment(root: &Path, inputs: &Inputs) -> Result<()> {
    let venv = root.join("opt/astromesh/venv");
    fs::create_dir_all(venv.join("bin"))?;
    symlink(format!("/usr/bin/{PYTHON}"), venv.join("bin/python3"))?;
    symlink("python3", venv.join("bin/python"))?;
    let package = format!("{PYTHON}-minimal");
    let version = &inputs
        .packages
        .get(&package)
        .with_context(|| format!("{package} is not locked"))?
        .version;
    let version = version.split('-').next().unwrap_or(version);
    fs::write(
        venv.join("pyvenv.cfg"),
        format!("home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n"),
    )?;
    Ok(())
}

/// Compiles all of Python to bytecode, next to its source.
///
/// `unchecked-hash`: the interpreter takes the bytecode without looking at the source's time or
/// contents, which the verified root makes safe. The tools root's interpreter is of the same
/// version. One process per tree, each in a fixed order: what a process has seen before shows in
/// the bytecode it writes (interned strings are shared or not), so the order must not change.
pub(crate) fn compile(tools: &Tools, root: &Path) -> Result<()> {
    let tag = run(tools.command("python3").args([
        "-c",
        "import sys; print('python%d.%d' % sys.version_info[:2])",
    ]))?;
    if tag.trim() != PYTHON {
        bail!(
            "the tools root has {}, the image {PYTHON}: bytecode of one is not for the other",
            tag.trim()
        );
    }
    let mut trees = vec![format!("usr/lib/{PYTHON}")];
    if root.join(SITE).is_dir() {
        trees.push(SITE.to_owned());
    }
    thread::scope(|scope| {
        let handles: Vec<_> = trees
            .iter()
            .map(|tree| {
                scope.spawn(move || {
                    let mut command = tools.command("python3");
                    command.env("PYTHONHASHSEED", "0");
                    command.args([
                        "-m",
                        "compileall",
                        "-q",
                        "-j",
                        "1",
                        "--invalidation-mode",
                        "unchecked-hash",
                    ]);
                    run(command
                        .arg("-s")
                        .arg(root)
                        .args(["-p", "/"])
                        .arg(root.join(tree)))
                    .with_context(|| format!("cannot compile {tree}"))
                })
            })
            .collect();
        for handle in handles {
            match handle.join() {
                Ok(result) => drop(result?),
                Err(_) => bail!("a thread that compiled bytecode ended early"),
            }
        }
        Ok(())
    })
}
