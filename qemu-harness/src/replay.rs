//! A script that boots a machine again by hand.

use crate::host::Host;
use crate::qemu::PROGRAM;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Writes `replay.sh` into `logs`: QEMU with `arguments`, its serial port, if it has one, on the terminal.
///
/// # Errors
/// When the script cannot be written.
pub fn write(host: &Host, serial: bool, arguments: &[String], logs: &Path) -> Result<()> {
    let quoted: Vec<String> = arguments.iter().map(|word| shell_word(word)).collect();
    let console = if serial {
        "-serial mon:stdio"
    } else {
        "-serial none -monitor stdio"
    };
    let script = format!(
        "#!/bin/sh\n# Boots this machine again; its disk and variables go on from where they are.\n\
         # With a serial port: Ctrl-a x ends it, Ctrl-a c is QEMU's monitor, where `info usernet` says at which\n\
         # port of the host the API is.\n\
         cd {} || exit 1\nexec cargo vm tools {PROGRAM} -nodefaults -no-user-config -display none \
         {console} \\\n  {}\n",
        shell_word(&host.paths.workspace.display().to_string()),
        quoted.join(" ")
    );
    let path = logs.join("replay.sh");
    fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))
}

fn shell_word(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=,:@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(shell_word("-smp"), "-smp");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("a b'c"), r"'a b'\''c'");
    }
}
