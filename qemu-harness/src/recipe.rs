//! The code that decides the bytes of an image: it is an input of what it makes, so that a cached tree or
//! a finished image is not taken for what other code would make.
//!
//! A module that one of these uses belongs here, too, or has its reason not to in `APART`; a test compares
//! the lists with what the modules use.

/// A module and its text.
type Module = (&'static str, &'static str);

macro_rules! modules {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!($name, ".rs")))),*] };
}

/// What makes the [base](crate::rootfs).
pub const BASE: [Module; 9] = modules![
    "rootfs", "python", "modules", "node", "tree", "wheels", "elf", "fetch", "lock",
];

/// What makes an [image](crate::image) of a base.
pub const IMAGE: [Module; 8] = modules![
    "image",
    "image_options",
    "image_root",
    "assemble",
    "audit",
    "initramfs",
    "report",
    "pe",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Modules that are used and decide no byte, and why not.
    const APART: [(&str, &str); 9] = [
        ("cache", "where a tree is kept, and for how long"),
        ("compile", "the programs it makes are inputs themselves"),
        ("control", "its own text is an input of the control"),
        (
            "image_folders",
            "where images are built, and which are kept",
        ),
        ("paths", "where things lie"),
        ("recipe", "names the inputs"),
        ("setup", "what the host has"),
        ("signing", "judges keys, which are inputs themselves"),
        (
            "tools",
            "has a number of its own, and its digest is an input",
        ),
    ];

    #[test]
    fn every_module_that_decides_bytes_is_an_input() {
        let listed: Vec<&str> = BASE.iter().chain(&IMAGE).map(|(name, _)| *name).collect();
        let mut missing = Vec::new();
        for (user, text) in BASE.iter().chain(&IMAGE) {
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
            let lines = code.lines().map(str::trim_start);
            for line in lines.filter(|line| !line.starts_with("//")) {
                for used in line.split("crate::").skip(1) {
                    let name = used
                        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                        .next();
                    let name = name.unwrap_or_default();
                    let known =
                        listed.contains(&name) || APART.iter().any(|(apart, _)| *apart == name);
                    if !known {
                        missing.push(format!("{user} uses {name}"));
                    }
                }
            }
        }
        assert!(missing.is_empty(), "no inputs: {missing:?}");
    }
}
