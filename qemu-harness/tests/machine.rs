//! A machine without a system on its disk: what QEMU itself does for it.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;

use qemu_harness::accel::{Accel, Choice};
use qemu_harness::bundle::Run;
use qemu_harness::host::Host;
use qemu_harness::vm::VmConfig;

#[test]
fn the_port_of_the_api_is_found_by_qemu_itself() {
    let host = Host::prepare(Choice::Fixed(Accel::Tcg)).expect("the tools");
    let image = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("empty.raw");
    fs::write(&image, vec![0; 1 << 20]).expect("own folder");
    Run::scoped(&host, "port", &image, |run| {
        let vm = run.boot(&VmConfig::default())?;
        let base = vm.api()?.base().to_owned();
        let address = base.trim_start_matches("http://").trim_end_matches('/');
        assert!(!address.ends_with(":0"), "{address}");
        TcpStream::connect(address).expect("QEMU listens there");
        // A number chosen before QEMU starts may be somebody else's by the time it listens.
        let script = fs::read_to_string(run.dir().join("boot-1/replay.sh"))?;
        assert!(script.contains("hostfwd=tcp:127.0.0.1:0-:8000"), "{script}");
        Ok(())
    })
    .expect("a machine");
}
