//! The tools root: every program that builds or runs the image, from one locked set of packages.
//!
//! The bytes mkosi, repart, mkfs, ukify and QEMU produce depend on their versions, so none of
//! the host's are used. The packages of `image/tools.lock` are unpacked into a folder of the
//! cache, without their maintainer scripts. A program of that root is run by changing into it:
//! a mount namespace of its own, the tools root's `/usr` and `/etc`, and everything else of the
//! host (home, work folders, `/tmp`, `/dev`, `/proc`, `/sys`, `/run`) at the path it has outside.
//! A plain chroot would not do: mkosi makes mount namespaces itself, and the kernel refuses that
//! where the root is not a mount point, hence pivot_root.
//!
//! The way in is a chain of execs (unshare, a shell script, setpriv, the program), so the child
//! that [`Tools::command`] gives *is* the program: its pid, its stdin and stdout, its signals and
//! its exit status. It is killed when the thread that started it ends.
//!
//! As root this works as it is. Another user gets there through a user namespace with a range
//! of ids of its own, which the image build needs to give files their owners.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cache;
use crate::fetch;
use crate::lock::Lock;
use crate::paths::Paths;

/// Changed whenever the way the root is made changes, so that older ones are not used.
const RECIPE: &str = "1";

/// Enters the root. Arguments: tools root, mount point, folders that must be visible (joined
/// by `:`), program, its arguments.
///
/// The new root is a tmpfs, so that entering never writes into the cached tree. `pivot_root . .`
/// stacks the old root over the new one, and the lazy unmount takes it away (pivot_root(2), NOTES).
const ENTER: &str = r#"#!/bin/sh
set -eu
root=$1 new=$2 visible=$3
shift 3
here=$(pwd)
quiet() { "$@" </dev/null; }
quiet mount -t tmpfs -o mode=755 tmpfs "$new"
for entry in /*; do
    name=${entry#/}
    case $name in
    usr|etc|var|boot|bin|sbin|lib|lib32|lib64|libx32|lost+found|'*') continue ;;
    esac
    if [ -L "$entry" ]; then
        ln -s "$(readlink "$entry")" "$new/$name"
    elif [ -d "$entry" ]; then
        mkdir "$new/$name"
        quiet mount --rbind "$entry" "$new/$name"
    fi
done
mkdir "$new/usr" "$new/etc" "$new/var"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$new/$name"; done
quiet mount --bind "$root/usr" "$new/usr"
quiet mount --bind "$root/etc" "$new/etc"
for name in tmp lib cache log; do mkdir "$new/var/$name"; done
quiet mount --rbind /var/tmp "$new/var/tmp"
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl /etc/localtime; do
    if [ -e "$file" ] && [ -e "$new$file" ]; then
        quiet mount --bind "$(readlink -f "$file")" "$new$file"
    fi
done
old_ifs=$IFS
IFS=:
for folder in $visible; do
    [ -d "$new$folder" ] && continue
    mkdir -p "$new$folder"
    quiet mount --rbind "$folder" "$new$folder"
done
IFS=$old_ifs
cd "$new"
quiet pivot_root . .
PATH=/usr/sbin:/usr/bin
export PATH
umount -l . </dev/null
cd "$here" 2>/dev/null || cd /
exec setpriv --pdeathsig KILL -- "$@"
"#;

/// The unpacked tools root and how to get into it.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
    enter: PathBuf,
    mount_point: PathBuf,
    visible: String,
    user_namespace: bool,
    digest: String,
}

impl Tools {
    /// The names of its programs.
    #[must_use]
    pub fn programs(&self) -> BTreeSet<String> {
        let folders = ["/usr/bin", "/usr/sbin"].map(|folder| fs::read_dir(self.file(folder)));
        let entries = folders.into_iter().flatten().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Makes the tools root, or finds it in the cache.
    ///
    /// # Errors
    /// When packages cannot be fetched or unpacked, or when this user may not make namespaces;
    /// the error then says what to enable.
    pub fn prepare(paths: &Paths) -> Result<Self> {
        let lock = Lock::read(&paths.image_definition().join("tools.lock"))?;
        let digest = format!("{}-{}", RECIPE, &lock.digest()[..16]);
        let place = paths.cache.join("tools").join(&digest);
        let root = place.join("root");
        // One process makes the root, the others wait for it.
        let _guard = cache::take(&place)?;
        if !root.is_dir() {
            let debs = fetch::packages(paths, &lock)?;
            eprintln!("unpacking {} packages into the tools root", debs.len());
            let fresh = place.join("root.new");
            if fresh.exists() {
                fs::remove_dir_all(&fresh)
                    .with_context(|| format!("cannot remove {}", fresh.display()))?;
            }
            fetch::unpack(&debs, &fresh)?;
            finish(&fresh)
                .with_context(|| format!("cannot finish the tools root {}", fresh.display()))?;
            fs::rename(&fresh, &root)
                .with_context(|| format!("cannot put {} into place", root.display()))?;
            cache::forget_old(&place);
        }
        let mount_point = place.join("mnt");
        fs::create_dir_all(&mount_point)?;
        let enter = place.join("enter.sh");
        if fs::read_to_string(&enter).ok().as_deref() != Some(ENTER) {
            let fresh = place.join("enter.new");
            File::create(&fresh)?.write_all(ENTER.as_bytes())?;
            fs::rename(&fresh, &enter)?;
        }
        let visible = [&paths.workspace, &paths.out, &paths.cache]
            .map(|folder| folder.display().to_string())
            .join(":");
        let user_namespace = !rustix::process::geteuid().is_root();
        let tools = Self {
            root,
            enter,
            mount_point,
            visible,
            user_namespace,
            digest,
        };
        tools.check_entry()?;
        Ok(tools)
    }

    /// A command that runs `program` of the tools root, see the head of this module.
    ///
    /// The child dies with the thread that spawns it: spawn long-lived programs from a thread
    /// that lives as long.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        if self.user_namespace {
            command.args(["--user", "--map-root-user", "--map-auto"]);
        }
        command.args(["--mount", "--propagation", "private", "--", "/bin/sh"]);
        command
            .arg(&self.enter)
            .arg(&self.root)
            .arg(&self.mount_point)
            .arg(&self.visible)
            .arg(program);
        // What the host says about its own Python, loader and shell is not true in there.
        for name in [
            "PYTHONPATH",
            "PYTHONHOME",
            "PYTHONSTARTUP",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "BASH_ENV",
            "ENV",
        ] {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C.UTF-8");
        command
    }

    /// A file of the tools root as seen from outside, such as `usr/share/OVMF/OVMF_CODE_4M.fd`.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Names the versions of all tools; part of the name of whatever they make.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Runs `program` with `arguments` and gives what it printed.
    ///
    /// # Errors
    /// When it does not end with status 0; the error holds what it wrote to stderr.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(program).args(arguments))
    }

    fn check_entry(&self) -> Result<()> {
        let output = self
            .command("true")
            .stdin(Stdio::null())
            .output()
            .context("cannot run `unshare`: `apt-get install util-linux`")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if self.user_namespace {
            bail!(
                "cannot make a user namespace for the tools root: {}\nNeeded for a user who is not root: \
                 `apt-get install uidmap`, a range for this user in /etc/subuid and /etc/subgid (`usermod \
                 --add-subuids 100000-165535 --add-subgids 100000-165535 USER`), and on Ubuntu `sysctl -w \
                 kernel.apparmor_restrict_unprivileged_userns=0`. Or run this as root.",
                said.trim()
            );
        }
        bail!(
            "cannot enter the tools root {}: {}\nRoot needs the right to mount (CAP_SYS_ADMIN); in a container, \
             start it with --privileged.",
            self.root.display(),
            said.trim()
        );
    }
}

/// Runs a command to its end and gives its stdout.
///
/// # Errors
/// When it cannot be started or does not end with status 0; the error holds its last lines.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", name_of(command)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let all = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = all.lines().collect();
        let tail = lines
            .iter()
            .skip(lines.len().saturating_sub(30))
            .copied()
            .collect::<Vec<_>>()
            .join("\n");
        bail!("{} failed ({}):\n{tail}", name_of(command), output.status);
    }
    Ok(text.into_owned())
}

/// The program a command made by [`Tools::command`] ends up in, with its first argument.
fn name_of(command: &Command) -> String {
    let words: Vec<String> = command
        .get_args()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match words.iter().position(|word| word.ends_with("/enter.sh")) {
        Some(at) => words
            .iter()
            .skip(at + 4)
            .take(4)
            .cloned()
            .collect::<Vec<_>>()
            .join(" "),
        None => command.get_program().to_string_lossy().into_owned(),
    }
}

/// What maintainer scripts would have done and our programs miss.
fn finish(root: &Path) -> Result<()> {
    // Places to bind the host's files onto.
    fs::create_dir_all(root.join("etc/ssl"))?;
    for file in [
        "etc/resolv.conf",
        "etc/hosts",
        "etc/pip.conf",
        "etc/localtime",
    ] {
        if !root.join(file).exists() {
            File::create(root.join(file))?;
        }
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    fs::write(
        root.join("etc/group"),
        "root:x:0:\ntty:x:5:\ndisk:x:6:\nkvm:x:104:\nnogroup:x:65534:\n",
    )?;
    fs::write(
        root.join("etc/nsswitch.conf"),
        "passwd: files\ngroup: files\nhosts: files dns\n",
    )?;
    // Alternatives.
    if !root.join("usr/bin/awk").exists() && root.join("usr/bin/mawk").exists() {
        symlink("mawk", root.join("usr/bin/awk"))?;
    }
    if !root.join("usr/bin/sh").exists() {
        symlink("dash", root.join("usr/bin/sh"))?;
    }
    // The unpacked tree is searched by anyone who builds.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    for needed in [
        "usr/bin/mkosi",
        "usr/bin/setpriv",
        "usr/bin/umount",
        "usr/bin/qemu-system-x86_64",
        "usr/bin/sh",
    ] {
        ensure!(
            root.join(needed).exists(),
            "the locked packages hold no {needed}"
        );
    }
    Ok(())
}
