//! QEMU's own NBD client finds the recorded disk to be a disk, and each of its requests is in the
//! journal as what it was.

use qemu_harness::paths::Paths;
use qemu_harness::powercut::{Entry, Recorder, Recording, Replayer};
use qemu_harness::tools::Tools;
use std::fs;
use std::path::PathBuf;

/// Bytes of the disk.
const SIZE: usize = 8 << 20;

/// A disk whose blocks of this size differ, every 251st being zero.
fn pattern(block: usize) -> Vec<u8> {
    let bytes = (0..251_u8).cycle().flat_map(|n| vec![n; block]);
    bytes.take(SIZE).collect()
}

struct Rig {
    tools: Tools,
    folder: PathBuf,
    base: PathBuf,
    recorder: Recorder,
}

impl Rig {
    fn new(name: &str) -> Rig {
        let paths = Paths::discover().unwrap();
        let tools = Tools::prepare(&paths).unwrap();
        let folder = paths.out.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let base = folder.join("disk.raw");
        fs::write(&base, pattern(512)).unwrap();
        let recorder = Recorder::start(&base, &folder).unwrap();
        Rig {
            tools,
            folder,
            base,
            recorder,
        }
    }

    fn url(&self) -> String {
        format!("nbd+unix:///?socket={}", self.recorder.socket().display())
    }

    /// Runs commands of qemu-io on the disk; they fail where a read gives another pattern.
    fn io(&self, cache: &str, commands: &[&str]) {
        let url = self.url();
        let mut arguments = vec!["-f", "raw", "-d", "unmap", "-t", cache];
        arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
        arguments.push(&url);
        let said = self.tools.output("qemu-io", &arguments).unwrap();
        assert!(!said.contains("failed"), "{said}");
    }

    fn end(self) -> (Recording, PathBuf) {
        (self.recorder.finish().unwrap(), self.folder)
    }
}

/// The entries without where their data is.
fn requests(recording: &Recording) -> Vec<String> {
    let text = |entry: &Entry| match entry {
        Entry::Write {
            offset, len, fua, ..
        } => {
            format!("write {offset} {len}{}", if *fua { " fua" } else { "" })
        }
        other => other.to_string(),
    };
    recording.journal.entries().iter().map(text).collect()
}

#[test]
fn each_request_of_qemu_is_in_the_journal_as_what_it_was() {
    let rig = Rig::new("nbd-io");
    let commands = [
        "write -P 1 0 4k",
        "flush",
        "write -P 2 2k 64k",
        "read -P 1 0 2k",
        "read -P 2 2k 64k",
    ];
    rig.io("writeback", &commands);
    rig.recorder.mark("second\nclient").unwrap();
    let commands = ["write -P 3 1M 512", "write -z 2M 1M", "discard 4M 1M"];
    rig.io("writethrough", &commands);
    // Not of whole sectors: QEMU reads and writes those around it.
    rig.io("writeback", &["write -P 4 100 1000", "read -P 4 100 1000"]);
    let base = fs::read(&rig.base).unwrap();
    let (recording, folder) = rig.end();
    let told = requests(&recording);
    let expected = [
        "write 0 4096",
        "flush 1",
        "write 2048 65536",
        "mark second client",
        "write 1048576 512 fua",
        "zero 2097152 1048576 fua",
        "trim 4194304 1048576",
        "write 0 1536",
    ];
    // qemu-io flushes when it closes a disk; how often is its own affair.
    let first: Vec<&String> = told
        .iter()
        .filter(|line| !line.starts_with("flush "))
        .collect();
    let wanted: Vec<&&str> = expected
        .iter()
        .filter(|line| !line.starts_with("flush "))
        .collect();
    assert_eq!(format!("{first:?}"), format!("{wanted:?}"));
    assert_eq!(told[..3], expected[..3]);

    let mut disk = base.clone();
    let mut states = Replayer::new(&recording);
    let flushed = recording.journal.flushes().next().unwrap();
    let out = folder.join("out.raw");
    states
        .view(&flushed)
        .unwrap()
        .materialise_all(&out)
        .unwrap();
    disk[..4096].fill(1);
    assert!(fs::read(&out).unwrap() == disk, "{flushed}");
    let whole = recording.journal.whole();
    states.view(&whole).unwrap().materialise_all(&out).unwrap();
    disk[2048..2048 + 65536].fill(2);
    disk[1 << 20..(1 << 20) + 512].fill(3);
    disk[2 << 20..3 << 20].fill(0);
    disk[4 << 20..5 << 20].fill(0);
    disk[100..1100].fill(4);
    assert!(fs::read(&out).unwrap() == disk, "{whole}");
    assert!(fs::read(folder.join("disk.raw")).unwrap() == base);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_whole_disk_goes_in_and_out() {
    let rig = Rig::new("nbd-convert");
    let (source, url) = (rig.folder.join("source.raw"), rig.url());
    let pattern = pattern(4096);
    fs::write(&source, &pattern).unwrap();
    let source = source.display().to_string();
    let convert = ["convert", "-n", "-f", "raw", "-O", "raw", &source, &url];
    rig.tools.output("qemu-img", &convert).unwrap();
    let compare = ["compare", "-f", "raw", "-F", "raw", &source, &url];
    let said = rig.tools.output("qemu-img", &compare).unwrap();
    assert!(said.contains("identical"), "{said}");
    let (recording, folder) = rig.end();
    let view = recording.view(&recording.journal.whole()).unwrap();
    let mut read = vec![0; SIZE];
    view.read_at(0, &mut read).unwrap();
    assert!(read == pattern);
    fs::remove_dir_all(folder).unwrap();
}
