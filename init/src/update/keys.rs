//! Whose word counts: the public keys in the verified root, and what they signed.
//!
//! A key is a file `NAME.pem` with one Ed25519 key as `openssl pkey -pubout` prints it: a
//! `SubjectPublicKeyInfo` (RFC 8410, section 4) in PEM (RFC 7468). Several keys are for the time in which one follows
//! another: a signature by any of them counts. A file that is no such key makes all updates fail,
//! since somebody who meant to add or to withdraw one was mistaken; images are built with keys that were checked.

use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use std::io::Read;
use std::path::Path;

/// Where the keys are in the verified root.
pub const FOLDER: &str = "/usr/lib/astromesh/update-keys";

/// Bytes of a signature (RFC 8032, section 5.1.6).
pub const SIGNATURE_LEN: usize = 64;

/// Keys that are looked at.
const KEYS_MAX: usize = 16;

/// Bytes of a key's file.
const SIZE_MAX: u64 = 16 * 1024;

/// What comes before the 32 bytes of the key: its `AlgorithmIdentifier` is OID 1.3.101.112 without
/// parameters (RFC 8410, sections 3 and 4).
const PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// An Ed25519 public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// Reads the keys in a folder.
///
/// # Errors
/// Names the folder or the file, and what to do.
pub fn load(folder: &Path) -> Result<Vec<Key>, String> {
    let here = folder.display();
    let names = || -> std::io::Result<Vec<_>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "pem") {
                names.push(path);
            }
        }
        names.sort();
        Ok(names)
    };
    let names = match names() {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(format!("{here}: {e}")),
    };
    if names.is_empty() {
        return Err(format!(
            "{here}: no key NAME.pem is there, so no update can be trusted; build the image with one"
        ));
    }
    if names.len() > KEYS_MAX {
        return Err(format!("{here}: more than {KEYS_MAX} keys"));
    }
    names
        .iter()
        .map(|path| read(path).map_err(|e| format!("{}: {e}", path.display())))
        .collect()
}

fn read(path: &Path) -> Result<Key, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(SIZE_MAX)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    parse(&bytes)
}

fn parse(pem: &[u8]) -> Result<Key, String> {
    let mut found = SubjectPublicKeyInfoDer::pem_slice_iter(pem);
    let (Some(Ok(der)), None) = (found.next(), found.next()) else {
        return Err("not one PUBLIC KEY in PEM, as `openssl pkey -pubout` prints it".into());
    };
    let key = der.as_ref().strip_prefix(&PREFIX);
    let key = key.and_then(|key| <[u8; 32]>::try_from(key).ok());
    key.map(Key)
        .ok_or_else(|| "a public key of another kind than Ed25519".into())
}

/// Whether one of the keys signed exactly these bytes.
///
/// # Errors
/// Why not.
pub fn verify(keys: &[Key], message: &[u8], signature: &[u8]) -> Result<(), String> {
    if signature.len() != SIGNATURE_LEN {
        return Err(format!(
            "the signature has {} bytes; an Ed25519 one has {SIGNATURE_LEN}",
            signature.len()
        ));
    }
    let signed = |key: &Key| {
        UnparsedPublicKey::new(&ED25519, &key.0)
            .verify(message, signature)
            .is_ok()
    };
    if keys.iter().any(signed) {
        Ok(())
    } else {
        Err(format!(
            "not signed by any of the {} keys of this machine, or changed since",
            keys.len()
        ))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    /// `openssl genpkey -algorithm ed25519`, then `openssl pkey -pubout`; and `openssl pkeyutl -sign -rawin`
    /// over `hello\n`.
    const PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEApfAZ40puZPEkMUYaxUKGG4jFcGdlUUxXud2gu9VQDEQ=
-----END PUBLIC KEY-----
";
    const SIGNATURE: &str = "f6010c718ca504c2aa5c8ec6e494c10ec35623743b1d7f972b5895ccbb4d5d0f2b02098e24103f1e00461137292eef6afd0c477674c1e82f1c1ad67f2e327602";

    /// The secret key number `n`, and its file.
    pub(crate) fn pair(n: u8) -> (Ed25519KeyPair, String) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[n; 32]).unwrap();
        let der = [&PREFIX, pair.public_key().as_ref()].concat();
        (pair, pem(&der))
    }

    fn pem(der: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in der.chunks(3) {
            let bits = chunk.iter().fold(0u32, |sum, b| sum << 8 | u32::from(*b))
                << (8 * (3 - chunk.len()));
            for digit in 0..4 {
                text.push(if digit <= chunk.len() {
                    char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize])
                } else {
                    '='
                });
            }
        }
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    #[test]
    fn what_openssl_makes_is_taken() {
        let key = parse(PEM.as_bytes()).unwrap();
        let signature: Vec<u8> = (0..64)
            .map(|i| u8::from_str_radix(&SIGNATURE[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let keys = [parse(pair(1).1.as_bytes()).unwrap(), key];
        assert_eq!(verify(&keys, b"hello\n", &signature), Ok(()));
        assert!(
            verify(&keys[..1], b"hello\n", &signature)
                .unwrap_err()
                .contains("1 keys")
        );
        assert!(
            verify(&keys, b"hello\n", &signature[1..])
                .unwrap_err()
                .contains("63 bytes")
        );
    }

    #[test]
    fn no_key_and_a_wrong_key_are_told_with_the_place() {
        let folder = std::env::temp_dir().join(format!("init-keys-{}", std::process::id()));
        let error = load(&folder).unwrap_err();
        assert!(
            error.contains("init-keys-") && error.contains("no key"),
            "{error}"
        );
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("README"), "not a key").unwrap();
        assert!(load(&folder).unwrap_err().contains("no key"));
        std::fs::write(folder.join("a.pem"), pair(1).1).unwrap();
        std::fs::write(folder.join("b.pem"), pair(2).1).unwrap();
        assert_eq!(load(&folder).unwrap().len(), 2);
        for (text, say) in [
            ("nothing".to_owned(), "not one PUBLIC KEY"),
            (pair(1).1.repeat(2), "not one PUBLIC KEY"),
            (pem(&[0x30; 44]), "another kind"),
        ] {
            std::fs::write(folder.join("c.pem"), text).unwrap();
            let error = load(&folder).unwrap_err();
            assert!(error.contains("c.pem") && error.contains(say), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    proptest! {
        #[test]
        fn any_file_is_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn any_change_breaks_the_signature(at in 0usize..40, bit in 0u8..8) {
            let (pair, pem) = pair(3);
            let keys = [parse(pem.as_bytes()).unwrap()];
            let mut message = *b"forty bytes that somebody signed, indeed";
            let signature = pair.sign(&message);
            prop_assert_eq!(verify(&keys, &message, signature.as_ref()), Ok(()));
            message[at] ^= 1 << bit;
            prop_assert!(verify(&keys, &message, signature.as_ref()).is_err());
        }
    }
}
