//! Whether two builds of the same inputs give the same bytes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::fetch::sha256_file;
use crate::image::{self, Image, ImageOptions};
use crate::paths::Paths;
use crate::tools::Tools;
use crate::tree;

/// Builds an image again from nothing but locked downloads, init compiled anew, in a folder of its own, and compares
/// every file; gives how many there are.
///
/// # Errors
/// Names the files that differ; the new build is then kept for a look.
pub fn verify(
    paths: &Paths,
    tools: &Tools,
    options: &ImageOptions,
    built: &Image,
) -> Result<usize> {
    let place = paths.out.join("reproduce");
    tree::remove(&place)?;
    let anew = build(paths, tools, options, &place)?;
    let mut differ = Vec::new();
    for (a, b) in built.files().into_iter().zip(anew.files()) {
        if sha256_file(a)? != sha256_file(b)? {
            differ.push(format!("{} and {}", a.display(), b.display()));
        }
    }
    if !differ.is_empty() {
        bail!(
            "two builds of the same inputs differ:\n  {}",
            differ.join("\n  ")
        );
    }
    let count = built.files().len();
    tree::remove(&place)?;
    Ok(count)
}

fn build(paths: &Paths, tools: &Tools, options: &ImageOptions, place: &Path) -> Result<Image> {
    fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
    let options = ImageOptions {
        out: Some(place.join("image")),
        scratch: Some(place.join("base")),
        ..options.clone()
    };
    // Where the outputs are is also where cargo compiles.
    let paths = Paths::new(
        paths.workspace.clone(),
        place.join("target/appliance"),
        paths.cache.clone(),
    )?;
    image::build(&paths, tools, &options)
}
