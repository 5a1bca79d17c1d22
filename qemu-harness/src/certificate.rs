//! A certificate for a server of tests, and the authority that a client is to believe.

use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What a TLS server of these addresses needs, and its authority's certificate, PEM. Both are valid
/// for longer than any battery clock of a test is wrong (rcgen: from 1975 to 4096).
///
/// # Errors
/// When no key or certificate can be made.
pub(crate) fn server(addresses: &[&str]) -> Result<(ServerConfig, String)> {
    let key = KeyPair::generate().context("no key for the authority")?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "authority of a test");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = params
        .self_signed(&key)
        .context("no certificate for the authority")?;
    let issuer = Issuer::new(params, key);

    let key = KeyPair::generate().context("no key for the server")?;
    let names: Vec<String> = addresses.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).context("no names for the server")?;
    params
        .distinguished_name
        .push(DnType::CommonName, "server of a test");
    let certificate = params
        .signed_by(&key, &issuer)
        .context("no certificate for the server")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("the provider has no protocol")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("the certificate does not fit its key")?;
    Ok((config, authority.pem()))
}
