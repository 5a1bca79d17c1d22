//! Versions of the appliance, published, and machines that fetch them.

use crate::appliance::{host, image};
use anyhow::{Context, Result};
use qemu_harness::bundle::Run;
use qemu_harness::esp::Esp;
use qemu_harness::file_server::FileServer;
use qemu_harness::host::Host;
use qemu_harness::image::{Image, ImageOptions};
use qemu_harness::image_options::Runtime;
use qemu_harness::lock::hex;
use qemu_harness::serial::Seen;
use qemu_harness::signing::SigningKey;
use qemu_harness::update_bundle::{Bundle, MANIFEST};
use qemu_harness::vm::{Vm, VmConfig};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// An update and a trial: three boots, and what lies between.
pub const UPDATE: Duration = Duration::from_secs(400);

/// A trial that is over quickly. A version that works has as long as a loaded host may need to boot it.
pub const QUICK: &str = "[update]\nprobation = \"3s\"\ntimeout = \"200s\"\n";

/// A trial of a version that is never healthy: waiting longer for it proves no more.
pub const HOPELESS: &str = "[update]\nprobation = \"3s\"\ntimeout = \"20s\"\n";

/// The key that the images believe.
#[must_use]
pub fn key() -> SigningKey {
    SigningKey::from_seed(7)
}

/// Who builds and publishes.
#[derive(Debug)]
pub struct Fleet {
    /// Where machines run.
    pub host: Host,
    /// What the versions run.
    pub runtime: Runtime,
    /// How long a trial of theirs takes: the beginning of the section `[update]`.
    pub trial: &'static str,
    folder: PathBuf,
}

impl Fleet {
    /// With a folder `name` for what is published.
    ///
    /// # Errors
    /// When the host cannot run machines, or the folder not be made.
    pub fn new(name: &str, runtime: Runtime) -> Result<Self> {
        let host = host()?;
        let folder = host.paths.out.join("published").join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            host,
            runtime,
            trial: QUICK,
            folder,
        })
    }

    /// Where the newest version is published.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A version as it should be.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn version(&self, version: &str) -> Result<Image> {
        self.build(ImageOptions {
            version: version.to_owned(),
            runtime: self.runtime,
            ..ImageOptions::default()
        })
    }

    /// A version with more in the section `[update]` of its configuration.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn version_with(&self, version: &str, text: &str) -> Result<Image> {
        self.build(ImageOptions {
            version: version.to_owned(),
            runtime: self.runtime,
            drop_in: Some(self.placed("toml", text)?),
            ..ImageOptions::default()
        })
    }

    /// A version with these options; the key, and a quick trial, are added.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn build(&self, mut options: ImageOptions) -> Result<Image> {
        options.update_keys = vec![self.placed("pem", &key().public_pem())?];
        let more = match &options.drop_in {
            Some(file) => std::fs::read_to_string(file)?,
            None => String::new(),
        };
        let text = format!("{}{more}", self.trial);
        options.drop_in = Some(self.placed("toml", &text)?);
        image(&self.host, &options)
    }

    /// A file with this text for a build.
    fn placed(&self, ending: &str, text: &str) -> Result<PathBuf> {
        placed(&self.host.paths.out.join("published-inputs"), ending, text)
    }

    /// Publishes a version, signed, in place of the one before.
    ///
    /// # Errors
    /// When the bundle cannot be written.
    pub fn publish(&self, image: &Image) -> Result<Bundle> {
        for file in std::fs::read_dir(&self.folder)? {
            std::fs::remove_file(file?.path())?;
        }
        Bundle::write(image, Some(&key()), &self.folder)
    }

    /// A server for what is published.
    ///
    /// # Errors
    /// When there is no port.
    pub fn serve(&self) -> Result<FileServer> {
        FileServer::http(&self.folder)
    }
}

/// A file in `folder` with this text, which names it: threads that build at the same time have each their own, or
/// one that is whole.
fn placed(folder: &Path, ending: &str, text: &str) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::fs::create_dir_all(folder)?;
    let digest = hex(&Sha256::digest(text));
    let path = folder.join(format!("{}.{ending}", &digest[..16]));
    if !path.exists() {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let fresh = folder.join(format!(".{}-{number}", std::process::id()));
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, &path)?;
    }
    Ok(path)
}

/// A machine that looks for updates at this server whenever it has become healthy, and has a watchdog.
#[must_use]
pub fn fetching(server: &FileServer) -> VmConfig {
    looking_at(&server.guest_url(MANIFEST))
}

/// The same with any source. It reboots a second after a panic; that the shipped image does so after ten is seen by
/// those that are not updated.
#[must_use]
pub fn looking_at(source: &str) -> VmConfig {
    VmConfig {
        reboots: true,
        watchdog: true,
        ..VmConfig::default()
    }
    .kernel_argument(&format!("astromesh.update={source} panic=1"))
}

/// Waits until this version is kept.
///
/// # Errors
/// When it is not, for as long as an update may take.
pub fn blessed(vm: &Vm, from: usize, version: &str) -> Result<Seen> {
    vm.wait(from, "slot.blessed", &[("version", version)], UPDATE)
        .with_context(|| format!("version {version} is not kept"))
}

/// What `/var` has at this path, read while the machine is off.
///
/// # Errors
/// When there is no such file.
pub fn var_file(run: &Run, path: &str) -> Result<String> {
    debugfs(run, &format!("cat {path}"))
}

/// Puts a file onto `/var` while the machine is off.
///
/// # Errors
/// When `/var` cannot be written.
pub fn put_on_var(run: &Run, from: &Path, to: &str) -> Result<()> {
    debugfs(run, &format!("write {} {to}", from.display())).map(drop)
}

/// Puts all files of a bundle onto `/var`, where `/var/update.json` is its manifest, while the machine is off.
///
/// # Errors
/// When the bundle cannot be read, or `/var` not be written.
pub fn put_bundle_on_var(run: &Run, bundle: &Bundle) -> Result<()> {
    for file in std::fs::read_dir(bundle.folder())? {
        let path = file?.path();
        let name = path.file_name().context("a file has a name")?;
        put_on_var(run, &path, &format!("/{}", name.to_string_lossy()))?;
    }
    Ok(())
}

/// Makes of a new machine, whose first version is on trial, one that has proved itself, while it is off.
///
/// # Errors
/// When the ESP has no such entry.
pub fn as_proved(run: &Run, image: &Image) -> Result<()> {
    let esp = Esp::of(&run.host().tools, &run.disk())?;
    let proved = format!("astromesh-os_{}.efi", image.version);
    esp.rename(&esp.entry_of(&image.version)?, &proved)
}

/// A machine that looks for updates nowhere by itself: somebody asks it to.
#[must_use]
pub fn asked() -> VmConfig {
    let mut config = looking_at("");
    config.oem_strings.clear();
    config
}

fn debugfs(run: &Run, command: &str) -> Result<String> {
    use qemu_harness::gpt;
    let tools = &run.host().tools;
    let partitions = gpt::partitions(tools, &run.disk())?;
    let var = gpt::only(&partitions, "/var", |p| p.name == "var")?;
    let disk = format!("{}?offset={}", run.disk().display(), var.start);
    let mut debugfs = tools.command("debugfs");
    qemu_harness::tools::run(debugfs.args(["-w", "-R", command, &disk]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_one_length_are_different_files() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("placed-{}", std::process::id()));
        let texts = ["probation = \"3s\"\n", "probation = \"4s\"\n"];
        let files = texts.map(|text| placed(&folder, "toml", text));
        for (text, file) in texts.into_iter().zip(files) {
            assert_eq!(std::fs::read_to_string(file?)?, text);
        }
        assert_eq!(std::fs::read_dir(&folder)?.count(), 2);
        std::fs::remove_dir_all(folder)?;
        Ok(())
    }
}
