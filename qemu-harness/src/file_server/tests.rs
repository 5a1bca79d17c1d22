use super::*;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::io::Read;
use std::sync::atomic::{AtomicU32, Ordering};
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// More than one chunk, and every part of it different.
fn content() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("served-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("file"), content()).unwrap();
    folder
}

/// A server of a folder with one file, and an agent that fails after a while instead of never.
fn server() -> (FileServer, Agent, PathBuf) {
    let folder = folder();
    let server = FileServer::http(&folder).unwrap();
    (server, agent(None), folder)
}

fn agent(authority: Option<&str>) -> Agent {
    let roots: Vec<_> = authority
        .map(|pem| Certificate::from_pem(pem.as_bytes()).unwrap())
        .into_iter()
        .collect();
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .proxy(None)
        .tls_config(
            TlsConfig::builder()
                .root_certs(RootCerts::new_with_certs(&roots))
                .unversioned_rustls_crypto_provider(Arc::new(
                    rustls::crypto::ring::default_provider(),
                ))
                .build(),
        )
        .build()
        .into()
}

fn get(agent: &Agent, url: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = agent.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.call().unwrap()
}

fn body(response: Response<Body>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    response
        .into_body()
        .into_reader()
        .read_to_end(&mut bytes)
        .map(|_| bytes)
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |v| v.to_str().unwrap())
}

#[test]
fn a_file_comes_whole_with_its_tag() {
    let (server, agent, folder) = server();
    let response = get(&agent, &server.url("file"), &[]);
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-length"), "800000");
    assert_eq!(header(&response, "accept-ranges"), "bytes");
    assert!(header(&response, "etag").starts_with('"'));
    assert!(body(response).unwrap() == content());
    let head = agent.head(server.url("file")).call().unwrap();
    assert_eq!(header(&head, "content-length"), "800000");
    let methods: Vec<String> = server.seen("file").into_iter().map(|s| s.method).collect();
    assert_eq!(methods, ["GET", "HEAD"]);
    drop(server);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_range_is_a_part_unless_the_file_is_another() {
    let (server, agent, folder) = server();
    let url = server.url("file");
    let part = get(&agent, &url, &[("range", "bytes=10-19")]);
    assert_eq!(part.status(), 206);
    assert_eq!(header(&part, "content-range"), "bytes 10-19/800000");
    let tag = header(&part, "etag").to_owned();
    assert!(body(part).unwrap() == content()[10..20]);
    let same = [("range", "bytes=799990-"), ("if-range", tag.as_str())];
    let rest = get(&agent, &url, &same);
    assert_eq!(header(&rest, "content-range"), "bytes 799990-799999/800000");
    assert!(body(rest).unwrap() == content()[799_990..]);
    let beyond = get(&agent, &url, &[("range", "bytes=800000-")]);
    assert_eq!(beyond.status(), 416);
    fs::write(folder.join("file"), "other").unwrap();
    let other = get(&agent, &url, &[("range", "bytes=2-"), ("if-range", &tag)]);
    assert_eq!(other.status(), 200);
    assert_eq!(body(other).unwrap(), b"other");
    let from: Vec<_> = server.seen("file").into_iter().map(|s| s.from).collect();
    assert_eq!(from, [Some(10), Some(799_990), Some(800_000), Some(2)]);
    drop(server);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn only_files_of_the_folder_are_there() {
    let (server, agent, folder) = server();
    for name in ["none", "", "..", "%2e%2e/passwd", "a/b"] {
        assert_eq!(get(&agent, &server.url(name), &[]).status(), 404, "{name}");
    }
    let post = agent.post(server.url("file")).send("x").unwrap();
    assert_eq!(post.status(), 405);
    drop(server);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_connection_is_cut_once_and_the_rest_can_be_had() {
    let (server, agent, folder) = server();
    let url = server.url("file");
    server.fault("file", Fault::CutOnce(70_000));
    let mut bytes = Vec::new();
    let mut reader = get(&agent, &url, &[]).into_body().into_reader();
    assert!(reader.read_to_end(&mut bytes).is_err());
    assert!(bytes == content()[..70_000], "{} bytes", bytes.len());
    let rest = get(&agent, &url, &[("range", "bytes=70000-")]);
    assert!(body(rest).unwrap() == content()[70_000..]);
    drop(server);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn faults_last_as_long_as_they_should() {
    let (server, agent, folder) = server();
    let url = server.url("file");
    let status = || {
        get(&agent, &url, &[("range", "bytes=5-")])
            .status()
            .as_u16()
    };
    server.fault("file", Fault::StatusOnce(500));
    assert_eq!([status(), status()], [500, 206]);
    server.fault("file", Fault::Status(404));
    assert_eq!([status(), status()], [404, 404]);
    server.fault("file", Fault::NoRanges);
    assert_eq!([status(), status()], [200, 200]);
    server.fault("file", None);
    assert_eq!(status(), 206);
    let seen: Vec<_> = server.seen("file").into_iter().map(|s| s.status).collect();
    assert_eq!(seen, [500, 206, 404, 404, 200, 200, 206]);
    drop(server);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_endless_body_goes_on_after_the_file() {
    let (server, agent, folder) = server();
    server.fault("file", Fault::Endless);
    let response = get(&agent, &server.url("file"), &[]);
    assert_eq!(header(&response, "content-length"), "");
    let mut bytes = vec![0; 3_000_000];
    response
        .into_body()
        .into_reader()
        .read_exact(&mut bytes)
        .unwrap();
    assert!(bytes[..800_000] == content() && bytes[800_000..].iter().all(|b| *b == 0));
    drop(server);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_slow_body_comes_in_small_parts_and_ends_with_the_server() {
    let (server, agent, folder) = server();
    server.fault("file", Fault::Slow(10_000));
    let mut reader = get(&agent, &server.url("file"), &[])
        .into_body()
        .into_reader();
    let mut bytes = [0; 1000];
    reader.read_exact(&mut bytes).unwrap();
    assert!(bytes == content()[..1000]);
    drop(server);
    // 800 parts would have been needed.
    let mut rest = Vec::new();
    assert!(reader.read_to_end(&mut rest).is_err());
    assert!(rest.len() < 799_000);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn with_tls_only_those_who_know_the_authority_get_it() {
    let folder = folder();
    let server = FileServer::https(&folder).unwrap();
    let authority = server.authority().unwrap();
    assert!(CertificateDer::from_pem_slice(authority.as_bytes()).is_ok());
    let url = server.url("file");
    assert!(url.starts_with("https://127.0.0.1:"));
    let response = get(&agent(Some(authority)), &url, &[]);
    assert!(body(response).unwrap() == content());
    assert!(agent(None).get(&url).call().is_err());
    server.fault("file", Fault::CutOnce(100_000));
    let cut = get(&agent(Some(authority)), &url, &[]);
    assert!(body(cut).is_err());
    drop(server);
    fs::remove_dir_all(folder).unwrap();
}
