//! Ed25519 keys and signatures as updates have them.
//!
//! A private key is what `openssl genpkey -algorithm ed25519` writes (PKCS #8, RFC 8410), a public
//! one what `openssl pkey -pubout` does, a signature the 64 bytes of RFC 8032 over a whole file, as
//! `openssl pkeyutl -sign -rawin` makes it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

/// What stands before the 32 bytes of a public key: a sequence with the algorithm id-Ed25519
/// (1.3.101.112, RFC 8410 section 3) and a bit string.
const PUBLIC_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A private key.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.0.public_key())
    }
}

impl SigningKey {
    /// The key of tests that this number stands for. Everybody knows it.
    ///
    /// # Panics
    /// Never: any 32 bytes are a seed.
    #[must_use]
    pub fn from_seed(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed"))
    }

    /// Reads a private key, PEM.
    ///
    /// # Errors
    /// When it is missing or is no Ed25519 key in PKCS #8.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path)
            .with_context(|| format!("cannot read the private key {}", path.display()))?;
        let parse = || {
            let der = PrivatePkcs8KeyDer::from_pem_slice(&text)
                .map_err(|e| anyhow!("no `PRIVATE KEY` in PEM: {e}"))?;
            // `maybe`: openssl writes the form without the public key.
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
                .map_err(|e| anyhow!("no Ed25519 key: {e}"))
        };
        parse().map(Self).with_context(|| {
            format!(
                "{} is not what `openssl genpkey -algorithm ed25519` writes",
                path.display()
            )
        })
    }

    /// The signature of `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    /// The public key, PEM.
    #[must_use]
    pub fn public_pem(&self) -> String {
        let mut der = PUBLIC_PREFIX.to_vec();
        der.extend_from_slice(self.0.public_key().as_ref());
        // 44 bytes make 60 characters, which is one line.
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            base64(&der)
        )
    }

    /// Writes the public key to `NAME.pem` in `folder`, for `ImageOptions::update_keys`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_public(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("{name}.pem"));
        fs::write(&path, self.public_pem())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Checks that `text` is one public key that updates can be checked with.
///
/// # Errors
/// Says what it is not.
pub fn check_public_pem(text: &str) -> Result<()> {
    let how = "it is not what `openssl pkey -pubout` writes of an Ed25519 key";
    let mut keys = SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes());
    let first = keys
        .next()
        .with_context(|| format!("no `PUBLIC KEY` in PEM: {how}"))?
        .map_err(|e| anyhow!("{e}: {how}"))?;
    ensure!(
        first.as_ref().len() == PUBLIC_PREFIX.len() + 32
            && first.as_ref().starts_with(&PUBLIC_PREFIX),
        "a key of another kind: {how}"
    );
    ensure!(keys.next().is_none(), "more than one key in the file");
    Ok(())
}

/// RFC 4648, section 4, of bytes whose number is a multiple of 3 or leaves 2 over.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .chain(&[0; 2])
            .take(3)
            .fold(0_usize, |all, byte| all << 8 | usize::from(*byte));
        for digit in 0..4 {
            if digit <= chunk.len() {
                text.push(char::from(ALPHABET[group >> (18 - 6 * digit) & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup;
    use std::process::Command;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("signing-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn openssl(arguments: &[&str]) -> bool {
        setup::install(&[("openssl", "openssl")]).unwrap();
        let output = Command::new("openssl").args(arguments).output().unwrap();
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        output.status.success()
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn openssl_accepts_our_signatures_with_our_public_key_and_no_others() {
        let folder = scratch("verify");
        let key = SigningKey::from_seed(7);
        let public = key.write_public(&folder, "seven").unwrap();
        let other = SigningKey::from_seed(8)
            .write_public(&folder, "eight")
            .unwrap();
        let file = folder.join("message");
        let signature = folder.join("message.sig");
        fs::write(&file, "a message").unwrap();
        fs::write(&signature, key.sign(b"a message")).unwrap();
        let verify = |public: &Path| {
            openssl(&[
                "pkeyutl",
                "-verify",
                "-rawin",
                "-pubin",
                "-inkey",
                &public.display().to_string(),
                "-in",
                &file.display().to_string(),
                "-sigfile",
                &signature.display().to_string(),
            ])
        };
        assert!(verify(&public));
        assert!(!verify(&other));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_key_of_openssl_is_read_and_its_public_half_is_the_same() {
        let folder = scratch("read");
        let private = folder.join("private.pem");
        let public = folder.join("public.pem");
        let (from, to) = (private.display().to_string(), public.display().to_string());
        assert!(openssl(&[
            "genpkey",
            "-algorithm",
            "ed25519",
            "-out",
            &from
        ]));
        assert!(openssl(&["pkey", "-in", &from, "-pubout", "-out", &to]));
        let key = SigningKey::read(&private).unwrap();
        let text = fs::read_to_string(&public).unwrap();
        assert_eq!(key.public_pem(), text);
        assert!(check_public_pem(&text).is_ok());
        assert!(SigningKey::read(&public).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn other_keys_are_refused() {
        let good = SigningKey::from_seed(1).public_pem();
        assert!(check_public_pem(&good).is_ok());
        assert!(check_public_pem(&format!("{good}{good}")).is_err());
        assert!(check_public_pem("").is_err());
        assert!(check_public_pem(&good.replace("PUBLIC", "PRIVATE")).is_err());
        // The algorithm X25519 differs in one byte, which is the last digit of the fourth group.
        let other = good.replacen("MCowBQYDK2Vw", "MCowBQYDK2Vu", 1);
        assert_ne!(good, other);
        assert!(check_public_pem(&other).is_err());
    }
}
