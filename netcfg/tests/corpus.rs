//! What the fuzz targets found worth keeping, judged again with every `cargo test`.

#[path = "../fuzz/judge.rs"]
mod judge;

use std::path::Path;

/// Judges every file that is kept for a target.
fn replay(target: &str, judge: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}: where is the corpus?", folder.display()));
    let mut count = 0;
    for file in files {
        let path = file.expect("a directory entry").path();
        let bytes = std::fs::read(&path).expect("readable");
        // Told by the test harness if the judge panics.
        println!("{}", path.display());
        judge(&bytes);
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

macro_rules! targets {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            replay(stringify!($name), judge::$name);
        }
    )*};
}

targets! { dhcp4_reply dhcp4_options dhcp4_frame netlink ra dhcp6_reply ntp arp lease_file machine }
