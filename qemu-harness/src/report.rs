//! What a build says about itself: the manifest and the bill of materials.
//!
//! Both hold nothing that differs between two builds of the same inputs: no time, no host, no
//! random serial number.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::image::{IMAGE_ID, Image};
use crate::image_options::Runtime;
use crate::rootfs::{Base, Inputs, in_small, versions};
use crate::tools::{Tools, run};

/// Writes the manifest: every file of the image with size and hash, and what was locked.
///
/// # Errors
/// When a file of the image cannot be read.
pub fn manifest(tools: &Tools, image: &Image, inputs: &Inputs, base: &Base) -> Result<()> {
    let paths: Vec<&Path> = image
        .files()
        .into_iter()
        .filter(|path| *path != image.manifest)
        .collect();
    // The disk is large: this program uses the processor's instructions for it.
    let sums = run(tools.command("sha256sum").args(&paths))
        .context("cannot hash the files of the image")?;
    let mut files = Vec::new();
    for (path, line) in paths.iter().zip(sums.lines()) {
        let size = fs::metadata(path)
            .with_context(|| format!("no file {}", path.display()))?
            .len();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let sum = line.split(' ').next().unwrap_or_default();
        files.push(json!({"name": name, "size": size, "sha256": sum}));
    }
    let manifest = json!({
        "image": IMAGE_ID,
        "version": image.version,
        "roothash": image.roothash,
        "kernel": base.kernel,
        "files": files,
        "locked": versions(inputs),
    });
    fs::write(&image.manifest, format!("{manifest:#}\n"))
        .with_context(|| format!("cannot write {}", image.manifest.display()))
}

/// Writes the bill of materials in CycloneDX 1.6, with a package URL for each component.
///
/// # Errors
/// When it cannot be written.
pub fn sbom(image: &Image, inputs: &Inputs, kernel: &str, runtime: Runtime) -> Result<()> {
    let components = components(inputs, runtime);
    let sbom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "operating-system",
                "name": IMAGE_ID,
                "version": image.version,
                "properties": [{"name": "kernel", "value": kernel}],
            },
        },
        "components": components,
    });
    fs::write(&image.sbom, format!("{sbom:#}\n"))
        .with_context(|| format!("cannot write {}", image.sbom.display()))
}

/// What is in an image with this runtime.
fn components(inputs: &Inputs, runtime: Runtime) -> Vec<Value> {
    let whole = runtime == Runtime::Astromesh;
    let mut components: Vec<Value> = Vec::new();
    let packages = inputs.packages.packages.iter();
    for package in packages.filter(|package| whole || in_small(&package.name)) {
        components.push(json!({
            "type": if package.name.starts_with("linux-image") { "operating-system" } else { "library" },
            "name": package.name,
            "version": package.version,
            "purl": format!("pkg:deb/debian/{}@{}?arch=amd64&distro=trixie", package.name, escape(&package.version)),
            "hashes": [{"alg": "SHA-256", "content": package.sha256}],
        }));
    }
    for wheel in inputs.wheels.list.iter().filter(|_| whole) {
        components.push(json!({
            "type": "library",
            "name": wheel.name,
            "version": wheel.version,
            "purl": format!("pkg:pypi/{}@{}", wheel.name, escape(&wheel.version)),
            "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        }));
    }
    let ours = ["astromesh-init"].into_iter();
    for name in ours.chain((!whole).then_some("small_daemon")) {
        components.push(json!({
            "type": "application",
            "name": name,
            "version": env!("CARGO_PKG_VERSION"),
            "licenses": [{"license": {"id": "Apache-2.0"}}],
        }));
    }
    components
}

/// Percent-encoding for the version in a package URL.
fn escape(version: &str) -> String {
    version
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-_~".contains(c) {
                c.to_string()
            } else {
                format!("%{:02X}", u32::from(c))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_escaped_in_addresses() {
        assert_eq!(escape("1:1.3.dfsg+really-2~x"), "1%3A1.3.dfsg%2Breally-2~x");
    }

    #[test]
    fn an_image_without_the_runtime_lists_none_of_it() {
        let inputs = Inputs::read(&crate::paths::Paths::discover().unwrap()).unwrap();
        let names = |runtime| -> Vec<String> {
            let name = |component: &Value| component["name"].as_str().unwrap().to_owned();
            components(&inputs, runtime).iter().map(name).collect()
        };
        let small = names(Runtime::Small);
        assert!(
            small.iter().any(|name| name.starts_with("linux-image")),
            "{small:?}"
        );
        assert_eq!(small.len(), 5, "{small:?}");
        assert!(small.contains(&"small_daemon".to_owned()), "{small:?}");
        let whole = names(Runtime::Astromesh);
        assert!(
            whole.iter().any(|name| name.starts_with("python3")),
            "{whole:?}"
        );
        assert!(!whole.contains(&"small_daemon".to_owned()), "{whole:?}");
    }
}
