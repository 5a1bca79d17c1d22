//! What is behind the disk of a machine.

use std::path::{Path, PathBuf};

/// QEMU's name of the disk.
const DISK: &str = "disk0";

/// What the machine's disk is made of. The guest sees the same disk, with a write cache, either way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Disk {
    /// The machine's file, read and written.
    #[default]
    File,
    /// The machine's file, and what is written is forgotten when QEMU ends.
    Forgetful,
    /// Whatever an NBD server on this Unix socket has as its default export, such as a
    /// [`Recorder`](crate::powercut::Recorder).
    Nbd(PathBuf),
}

impl Disk {
    /// The options of QEMU for a machine whose file is `file`.
    ///
    /// Nothing may come between the guest's flushes and whoever answers for them: `write-cache=on` has
    /// the guest send them, and QEMU's default cache mode hands them on, for a file as `fdatasync`.
    #[must_use]
    pub fn arguments(&self, file: &Path) -> Vec<String> {
        let drive = format!(
            "if=none,id={DISK},format=raw,discard=unmap,file={}",
            option_value(file)
        );
        let back_end = match self {
            Self::File => ["-drive".into(), drive],
            Self::Forgetful => ["-drive".into(), format!("{drive},snapshot=on")],
            Self::Nbd(socket) => [
                "-blockdev".into(),
                format!(
                    "driver=nbd,node-name={DISK},export=,discard=unmap,server.type=unix,server.path={}",
                    option_value(socket)
                ),
            ],
        };
        let device = format!("virtio-blk-pci,drive={DISK},bootindex=0,write-cache=on");
        back_end
            .into_iter()
            .chain(["-device".into(), device])
            .collect()
    }

    /// The same where the server is no more: the file, left as it is, because a recording may begin
    /// with it.
    #[must_use]
    pub fn alone(&self) -> Self {
        match self {
            Self::Nbd(_) => Self::Forgetful,
            other => other.clone(),
        }
    }
}

/// QEMU reads `,` in an option value as its end; a doubled one stands for itself.
#[must_use]
pub fn option_value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_disk_is_not_booted_from_its_file() {
        let file = Path::new("/runs/a,b/disk.raw");
        let nbd = Disk::Nbd("/tmp/disk".into());
        let words = nbd.arguments(file).join(" ");
        assert!(words.contains("server.path=/tmp/disk") && !words.contains("disk.raw"));
        let again = nbd.alone().arguments(file).join(" ");
        assert!(
            again.contains("file=/runs/a,,b/disk.raw,snapshot=on"),
            "{again}"
        );
        assert_eq!(Disk::File.alone(), Disk::File);
    }
}
