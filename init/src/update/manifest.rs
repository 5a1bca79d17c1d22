//! The manifest: what a version consists of.
//!
//! It is JSON, signed byte by byte (see [`super::keys`]). Even so it is bounded and strict: a key that is not
//! known is an error, since it may be one that a newer publisher relies on; a name is that of a
//! file beside the manifest and nothing else; a hash has one text. Whether it fits *this*
//! machine is [`super::plan`]'s to say.

use super::hash::Digest;
use crate::slots::uki::is_name;
use serde::Deserialize;

/// Bytes of a manifest.
pub const SIZE_MAX: usize = 64 * 1024;

/// The format that is known.
const FORMAT: u32 = 1;

/// Bytes of a UKI: it is held in memory, and this is what the image build allows.
pub const UKI_MAX: u64 = 16 << 20;

/// Bytes of a file name (POSIX `NAME_MAX`).
const NAME_MAX: usize = 255;

/// A version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whose version it is (os-release(5), `IMAGE_ID`).
    pub image: String,
    /// Which (os-release(5), `IMAGE_VERSION`).
    pub version: String,
    /// For which processors, as systemd names them.
    pub architecture: String,
    /// What proves the root.
    pub roothash: [u8; 32],
    /// The root.
    pub root: Part,
    /// Its hash tree.
    pub verity: Part,
    /// The UKI that boots it.
    pub uki: Part,
}

/// A file of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name, beside the manifest.
    pub name: String,
    /// Its size.
    pub size: u64,
    /// What its bytes hash to.
    pub sha256: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: u32,
    image: String,
    version: String,
    architecture: String,
    roothash: String,
    root: RawPart,
    verity: RawPart,
    uki: RawPart,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPart {
    name: String,
    size: u64,
    sha256: String,
}

/// Only to name the version of a manifest that is refused.
#[derive(Deserialize)]
struct Version {
    version: String,
}

/// Only to tell a later format from a broken one.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > SIZE_MAX {
            return Err(format!("longer than {SIZE_MAX} bytes"));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| {
            match serde_json::from_slice::<Format>(bytes) {
                Ok(Format { format }) if format != FORMAT => {
                    format!("`format` is {format}; only {FORMAT} is known here")
                }
                _ => e.to_string(),
            }
        })?;
        if raw.format != FORMAT {
            return Err(format!(
                "`format` is {}; only {FORMAT} is known here",
                raw.format
            ));
        }
        for (key, value) in [("image", &raw.image), ("version", &raw.version)] {
            if !is_name(value) {
                return Err(format!(
                    "`{key}` is {value:?}; it may have letters, digits and . _ ~ ^ -, and be part of a file name"
                ));
            }
        }
        let manifest = Self {
            roothash: digest("roothash", &raw.roothash)?.0,
            root: part("root", raw.root)?,
            verity: part("verity", raw.verity)?,
            uki: part("uki", raw.uki)?,
            image: raw.image,
            version: raw.version,
            architecture: raw.architecture,
        };
        let Part { size, .. } = manifest.uki;
        if size > UKI_MAX {
            return Err(format!("`uki.size` is {size}; {UKI_MAX} bytes is the most"));
        }
        Ok(manifest)
    }
}

/// The version that a manifest is for, if that can be read in it, whatever else is wrong.
#[must_use]
pub fn version(bytes: &[u8]) -> Option<String> {
    let bytes = Some(bytes).filter(|bytes| bytes.len() <= SIZE_MAX)?;
    let Version { version } = serde_json::from_slice(bytes).ok()?;
    is_name(&version).then_some(version)
}

fn part(key: &str, raw: RawPart) -> Result<Part, String> {
    let plain = |b: u8| b.is_ascii_graphic() && !b"/\\".contains(&b);
    if raw.name.is_empty()
        || raw.name.len() > NAME_MAX
        || raw.name.starts_with('.')
        || !raw.name.bytes().all(plain)
    {
        return Err(format!(
            "`{key}.name` is {:?}; it must be the plain name of a file beside the manifest",
            raw.name
        ));
    }
    if raw.size == 0 {
        return Err(format!("`{key}.size` is 0"));
    }
    Ok(Part {
        sha256: digest(&format!("{key}.sha256"), &raw.sha256)?,
        name: raw.name,
        size: raw.size,
    })
}

fn digest(key: &str, text: &str) -> Result<Digest, String> {
    Digest::parse(text).ok_or_else(|| {
        format!("`{key}` is {text:?}; it must be 64 hexadecimal digits, small letters")
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    pub(crate) fn sample() -> Value {
        let part =
            |name: &str, size: u64| json!({"name": name, "size": size, "sha256": "ab".repeat(32)});
        json!({
            "format": 1, "image": "astromesh-os", "version": "2", "architecture": "x86-64",
            "roothash": "cd".repeat(32),
            "root": part("os_2.root.raw", 4096 * 10),
            "verity": part("os_2.verity.raw", 4096 * 2),
            "uki": part("os_2.efi", 1000),
        })
    }

    #[test]
    fn a_good_manifest_is_read_whole() {
        let manifest = Manifest::parse(sample().to_string().as_bytes()).unwrap();
        assert_eq!(manifest.roothash, [0xcd; 32]);
        assert_eq!(manifest.root.size, 40_960);
        assert_eq!(manifest.uki.name, "os_2.efi");
        assert_eq!(manifest.uki.sha256, Digest([0xab; 32]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |pointer: &str, value: Value, say: &str| {
            let mut manifest = sample();
            *manifest.pointer_mut(pointer).unwrap() = value;
            let error = Manifest::parse(manifest.to_string().as_bytes()).unwrap_err();
            assert!(error.contains(say), "{pointer}: {error}");
        };
        wrong("/format", json!(2), "`format` is 2");
        wrong("/version", json!("2+1"), "`version`");
        wrong("/version", json!(""), "`version`");
        wrong("/image", json!("a/b"), "`image`");
        wrong("/roothash", json!("CD".repeat(32)), "`roothash`");
        wrong("/root/sha256", json!("ab"), "`root.sha256`");
        wrong("/root/size", json!(0), "`root.size`");
        wrong("/root/size", json!(-1), "invalid value");
        wrong("/uki/size", json!(UKI_MAX + 1), "`uki.size`");
        for name in [
            "",
            "..",
            ".x",
            "../x",
            "a/b",
            "a\\b",
            "a b",
            "a\nb",
            "é",
            &"x".repeat(256),
        ] {
            wrong("/verity/name", json!(name), "`verity.name`");
        }
        let mut more = sample();
        more["min-version"] = json!("1");
        let error = Manifest::parse(more.to_string().as_bytes()).unwrap_err();
        assert!(error.contains("min-version"), "{error}");
        more["format"] = json!(7);
        let error = Manifest::parse(more.to_string().as_bytes()).unwrap_err();
        assert!(error.contains("`format` is 7"), "{error}");
        let text = sample().to_string();
        let twice = text.replacen('{', "{\"format\":1,", 1);
        assert!(
            Manifest::parse(twice.as_bytes())
                .unwrap_err()
                .contains("duplicate")
        );
        let long = format!("{text}{}", " ".repeat(SIZE_MAX));
        assert!(
            Manifest::parse(long.as_bytes())
                .unwrap_err()
                .contains("longer")
        );
        assert!(Manifest::parse(format!("{text} x").as_bytes()).is_err());
        assert!(Manifest::parse(&text.as_bytes()[..text.len() - 1]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Manifest::parse(&bytes).is_err());
        }

        #[test]
        fn a_changed_manifest_keeps_the_rules(at in 0usize..700, value in any::<u8>()) {
            let mut bytes = sample().to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(manifest) = Manifest::parse(&bytes) {
                prop_assert!(is_name(&manifest.image) && is_name(&manifest.version));
                for part in [&manifest.root, &manifest.verity, &manifest.uki] {
                    prop_assert!(!part.name.contains(['/', '\\']) && !part.name.starts_with('.'));
                    prop_assert!(part.size > 0);
                }
                prop_assert!(manifest.uki.size <= UKI_MAX);
            }
        }
    }
}
