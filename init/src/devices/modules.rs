//! Kernel modules by name and by modalias, from depmod's text files (modules.dep(5)).
//!
//! The kernel unpacks `.ko.xz` itself, so loading is one `finit_module` for the module and for
//! each that it needs first. Names count `-` and `_` as the same, as everywhere in the kernel.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// kernel: `include/uapi/linux/module.h`.
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// Dependencies nest a handful deep; this bounds a table that is broken.
const DEPTH_MAX: u32 = 16;

/// The modules of one kernel, and which of them this process loaded.
#[derive(Debug, Default)]
pub struct Modules {
    directory: PathBuf,
    files: BTreeMap<String, String>,
    needs: BTreeMap<String, Vec<String>>,
    aliases: Vec<(String, String)>,
    softdeps: BTreeMap<String, Vec<String>>,
    settled: RefCell<BTreeSet<String>>,
}

impl Modules {
    /// Reads the tables of the running kernel.
    ///
    /// # Errors
    /// Names the table that cannot be read.
    pub fn of_running_kernel() -> io::Result<Self> {
        Self::read(&Self::directory_of_running_kernel())
    }

    /// Where the tables of the running kernel are, if it has modules.
    #[must_use]
    pub fn directory_of_running_kernel() -> PathBuf {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        Path::new("/usr/lib/modules").join(release)
    }

    /// Whether the tables can be read, without reading them.
    ///
    /// # Errors
    /// Names the first that cannot, and what follows.
    pub fn look_for(directory: &Path) -> Result<(), String> {
        for table in ["modules.dep", "modules.alias"] {
            let path = directory.join(table);
            File::open(&path).map_err(|e| {
                format!(
                    "{}: {e}; no driver can be loaded, so run depmod on the root",
                    path.display()
                )
            })?;
        }
        Ok(())
    }

    /// Reads the tables in `directory`.
    ///
    /// # Errors
    /// Names the table that cannot be read.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let table = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
        };
        let mut modules = Self {
            directory: directory.to_owned(),
            ..Self::default()
        };
        for (file, needs) in table("modules.dep")?
            .lines()
            .filter_map(|line| line.split_once(':'))
        {
            let name = name_of(file);
            modules.needs.insert(
                name.clone(),
                needs.split_whitespace().map(name_of).collect(),
            );
            modules.files.insert(name, file.to_owned());
        }
        modules.aliases = table("modules.alias")?
            .lines()
            .filter_map(|line| line.strip_prefix("alias ")?.rsplit_once(' '))
            .map(|(pattern, name)| (pattern.to_owned(), canonical(name)))
            .collect();
        for line in table("modules.softdep").unwrap_or_default().lines() {
            let Some((name, rest)) = line
                .strip_prefix("softdep ")
                .and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            // `pre:` modules help if they are there; `post:` ones are left to their own aliases.
            let before = rest
                .split(" post:")
                .next()
                .unwrap_or_default()
                .trim_start_matches("pre:");
            modules.softdeps.insert(
                canonical(name),
                before.split_whitespace().map(canonical).collect(),
            );
        }
        Ok(modules)
    }

    /// Where the tables are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether there is a module of this name, in a file or in the kernel itself (`modules.builtin`).
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        let name = canonical(name);
        let built_in = || std::fs::read_to_string(self.directory.join("modules.builtin"));
        self.files.contains_key(&name)
            || built_in().is_ok_and(|list| list.lines().any(|file| name_of(file) == name))
    }

    /// Loads a module by name, after what it needs.
    ///
    /// # Errors
    /// Names the module, and the one it needs if that is at fault.
    pub fn load(&self, name: &str) -> io::Result<()> {
        self.load_with(name, c"")
    }

    /// The same with parameters for the module, which do nothing if it is loaded already.
    ///
    /// # Errors
    /// As [`Modules::load`].
    pub fn load_with(&self, name: &str, parameters: &CStr) -> io::Result<()> {
        self.load_nested(&canonical(name), parameters, DEPTH_MAX)
    }

    /// Loads every module that drives a device with this modalias; returns how many were new.
    pub fn load_for(&self, modalias: &str, failed: &mut dyn FnMut(&str, io::Error)) -> usize {
        self.load_from("", modalias, failed)
    }

    /// The same for modules in this folder of the kernel's tree only, as `drivers/watchdog/`.
    pub fn load_from(
        &self,
        folder: &str,
        modalias: &str,
        failed: &mut dyn FnMut(&str, io::Error),
    ) -> usize {
        let is_there = |name: &str| self.files.get(name).is_some_and(|f| f.contains(folder));
        let fitting = self
            .aliases
            .iter()
            .filter(|(_, name)| folder.is_empty() || is_there(name))
            .filter(|(pattern, _)| matches(pattern, modalias));
        let names: BTreeSet<&String> = fitting.map(|(_, name)| name).collect();
        let new = names
            .into_iter()
            .filter(|name| !self.settled.borrow().contains(name.as_str()));
        new.filter(|name| self.load(name).map_err(|e| failed(name, e)).is_ok())
            .count()
    }

    fn load_nested(&self, name: &str, parameters: &CStr, depth: u32) -> io::Result<()> {
        if depth == 0 || !self.settled.borrow_mut().insert(name.to_owned()) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("module {name} is not in {}", self.directory.display()),
            ));
        };
        for helper in self.softdeps.get(name).into_iter().flatten() {
            // May be built in, or an alias nobody has: not needed to work.
            let _ = self.load_nested(helper, c"", depth - 1);
        }
        for needed in self.needs.get(name).into_iter().flatten() {
            self.load_nested(needed, c"", depth - 1)?;
        }
        let path = self.directory.join(file);
        let compressed = !file.ends_with(".ko");
        let flags = if compressed {
            MODULE_INIT_COMPRESSED_FILE
        } else {
            0
        };
        let module = File::open(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        match rustix::system::finit_module(&module, parameters, flags) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(e) => Err(io::Error::other(format!(
                "module {name} ({}): {}",
                path.display(),
                io::Error::from(e)
            ))),
        }
    }
}

/// `kernel/drivers/md/dm-verity.ko.xz` is the module `dm_verity`.
fn name_of(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    canonical(base.split(".ko").next().unwrap_or(base))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Shell patterns as fnmatch(3) has them: `*`, `?` and `[...]` sets with ranges.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last star, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p..).unwrap_or_default() {
            [b'*', ..] => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            [b'[', rest @ ..] => {
                if let Some(end) = rest
                    .iter()
                    .position(|b| *b == b']')
                    .filter(|end| in_set(&rest[..*end], text[t]))
                {
                    p += end + 2;
                    t += 1;
                    continue;
                }
            }
            [c, ..] if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, taken)) = star else {
            return false;
        };
        star = Some((after, taken + 1));
        p = after;
        t = taken + 1;
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|b| *b == b'*')
}

fn in_set(set: &[u8], byte: u8) -> bool {
    match set {
        [low, b'-', high, rest @ ..] => (*low..=*high).contains(&byte) || in_set(rest, byte),
        [one, rest @ ..] => *one == byte || in_set(rest, byte),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        assert!(matches(
            "pci:v00001AF4d00001041sv*sd*bc*sc*i*",
            "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00"
        ));
        assert!(matches("virtio:d00000002v*", "virtio:d00000002v00001AF4"));
        assert!(!matches("virtio:d00000002v*", "virtio:d00000001v00001AF4"));
        assert!(matches("acpi*:PNP0C0[A-C]:*", "acpi:PNP0C0B:x"));
        assert!(!matches("acpi*:PNP0C0[A-C]:*", "acpi:PNP0C0D:x"));
        assert!(matches("a?c**", "abc"));
        assert!(!matches("[", "["));
    }

    proptest! {
        #[test]
        fn a_pattern_of_the_text_itself_with_a_star_fits(text in "[a-z:0-9]{0,20}", at in 0usize..20) {
            let (head, tail) = text.split_at(at.min(text.len()));
            let pattern = format!("{head}*{tail}");
            prop_assert!(matches(&pattern, &text));
        }

        #[test]
        fn any_pattern_is_survived(pattern in "[*?\\[\\]a-]{0,12}", text in "[a-]{0,12}") {
            let _ = matches(&pattern, &text);
        }
    }

    #[test]
    fn tables_are_read() {
        let directory = std::env::temp_dir().join(format!("modules-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(
            directory.join("modules.dep"),
            "kernel/md/dm-verity.ko.xz: kernel/md/dm-bufio.ko.xz\nkernel/md/dm-bufio.ko.xz:\n",
        )
        .unwrap();
        std::fs::write(
            directory.join("modules.alias"),
            "# c\nalias dm-verity-* dm-verity\n",
        )
        .unwrap();
        std::fs::write(
            directory.join("modules.softdep"),
            "softdep dm_verity pre: crc32c post: x\n",
        )
        .unwrap();
        let modules = Modules::read(&directory).unwrap();
        assert_eq!(Modules::look_for(&directory), Ok(()));
        std::fs::remove_file(directory.join("modules.alias")).unwrap();
        let missing = Modules::look_for(&directory).unwrap_err();
        assert!(
            missing.contains("modules.alias: No such file")
                && missing.ends_with("run depmod on the root")
        );
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(modules.needs["dm_verity"], ["dm_bufio"]);
        assert_eq!(modules.softdeps["dm_verity"], ["crc32c"]);
        assert_eq!(
            modules.aliases,
            [("dm-verity-*".to_owned(), "dm_verity".to_owned())]
        );
        // None of these are in that folder, so nothing is tried.
        let mut failed = |name: &str, e: io::Error| panic!("{name}: {e}");
        assert_eq!(
            modules.load_from("drivers/watchdog/", "dm-verity-x", &mut failed),
            0
        );
        assert!(
            modules
                .load("no-such")
                .unwrap_err()
                .to_string()
                .contains("no_such")
        );
    }
}
