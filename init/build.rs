//! How the binary that ships is linked: for musl, and in release.
//!
//! Its relocations are packed (`DT_RELR`, which musl has known since 1.2.4): a thousand bytes, and 77,000
//! otherwise. And its unwinding tables are left out, an eighth of all: a panic aborts, nobody walks the stack of
//! a stripped binary, and nothing else reads them. Tests, benchmarks and examples are linked as ever.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=no-unwind-tables.ld");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|own| own == value);
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{folder}/no-unwind-tables.ld");
    }
}
