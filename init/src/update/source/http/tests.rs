//! Against servers on the loopback that answer whatever a test wants.

use super::*;
use proptest::prelude::*;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::net::{Shutdown, TcpListener};
use std::sync::Mutex;

type Requests = Arc<Mutex<Vec<String>>>;

/// Answers the request number N with what `answer` makes of it, and closes. Its port, and what it was asked.
fn serve(
    tls: Option<ServerConfig>,
    answer: impl Fn(usize, &str) -> Vec<u8> + Send + 'static,
) -> (u16, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    let tls = tls.map(Arc::new);
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let tcp = tcp.unwrap();
            let closer = tcp.try_clone().unwrap();
            let mut stream: Box<dyn wire::Stream> = match &tls {
                None => Box::new(tcp),
                Some(config) => {
                    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                    Box::new(StreamOwned::new(connection, tcp))
                }
            };
            // A client that is told nothing good by the handshake does not ask.
            let Ok(head) = read_head(&mut BufReader::new(&mut stream)) else {
                continue;
            };
            let request = String::from_utf8(head).unwrap();
            let number = {
                let mut seen = seen.lock().unwrap();
                seen.push(request.clone());
                seen.len() - 1
            };
            let _ = stream.write_all(&answer(number, &request));
            let _ = stream.flush();
            drop(stream);
            let _ = closer.shutdown(Shutdown::Both);
        }
    });
    (port, requests)
}

fn client(port: u16) -> Http {
    Http::new(&format!("http://127.0.0.1:{port}/os/update.json"), None)
        .unwrap()
        .0
}

fn whole(opened: Result<Opened, SourceError>) -> Result<String, String> {
    let mut text = String::new();
    opened
        .map_err(|e| e.message)?
        .reader
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    Ok(text)
}

fn ok(tag: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nETag: \"{tag}\"\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
fn a_broken_line_is_gone_on_with_by_a_range() {
    let (port, requests) = serve(None, |number, _| {
        match number {
        0 => b"HTTP/1.1 200 OK\r\nETag: \"t\"\r\nContent-Length: 10\r\n\r\n01234".to_vec(),
        _ => b"HTTP/1.1 206 Partial Content\r\nETag: \"t\"\r\nContent-Length: 5\r\nContent-Range: bytes 5-9/10\r\n\r\n56789"
            .to_vec(),
    }
    });
    let mut http = client(port);
    let mut opened = http.open("root+1.raw", 0).unwrap();
    assert_eq!(opened.total, Some(10));
    let mut first = Vec::new();
    let broken = opened.reader.read_to_end(&mut first).unwrap_err();
    assert_eq!(first, b"01234");
    assert!(SourceError::io("x", &broken).transient, "{broken}");
    assert_eq!(whole(http.open("root+1.raw", 5)), Ok("56789".into()));
    let requests = requests.lock().unwrap();
    assert!(requests[0].starts_with("GET /os/root%2B1.raw HTTP/1.1\r\n"));
    assert!(requests[0].contains(&format!("Host: 127.0.0.1:{port}\r\n")));
    assert!(!requests[0].contains("Range"));
    assert!(
        requests[1].contains("Range: bytes=5-\r\nIf-Range: \"t\"\r\n"),
        "{}",
        requests[1]
    );
}

#[test]
fn a_server_without_ranges_is_skipped_through_and_another_file_is_refused() {
    let (port, _) = serve(None, |number, _| match number {
        0 | 1 => ok("a", "0123456789"),
        _ => ok("b", "0123456789"),
    });
    let mut http = client(port);
    assert_eq!(whole(http.open("x", 0)), Ok("0123456789".into()));
    assert_eq!(whole(http.open("x", 7)), Ok("789".into()));
    let error = http.open("x", 7).unwrap_err();
    assert!(
        !error.transient && error.message.contains("changed on the server"),
        "{error:?}"
    );
}

#[test]
fn redirections_are_followed_but_not_for_ever() {
    let (port, requests) = serve(None, |_, request| {
        if request.contains("/os/loop") {
            b"HTTP/1.1 302 Found\r\nLocation: loop\r\n\r\n".to_vec()
        } else if request.contains("/os/x") {
            b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /store/x?signed=1\r\n\r\n".to_vec()
        } else {
            ok("a", "there")
        }
    });
    let mut http = client(port);
    assert_eq!(whole(http.open("x", 0)), Ok("there".into()));
    assert!(requests.lock().unwrap()[1].starts_with("GET /store/x?signed=1 "));
    let error = http.open("loop", 0).unwrap_err();
    assert!(
        !error.transient && error.message.contains("more than 5"),
        "{error:?}"
    );
    assert_eq!(requests.lock().unwrap().len(), 2 + 6);
}

#[test]
fn sizes_are_asked_for_without_the_file() {
    let (port, requests) = serve(None, |number, _| match number {
        0 => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec(),
        1 => b"HTTP/1.1 405 Method Not Allowed\r\n\r\n".to_vec(),
        2 => b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 503 Busy\r\n\r\n".to_vec(),
    });
    let mut http = client(port);
    assert_eq!(http.size("a"), Ok(Some(1234)));
    assert_eq!(http.size("b"), Ok(None));
    let error = http.size("c").unwrap_err();
    assert!(
        !error.transient
            && error
                .message
                .ends_with("/os/c: the server says 404 Not Found"),
        "{error:?}"
    );
    assert!(http.size("d").unwrap_err().transient);
    assert!(requests.lock().unwrap()[0].starts_with("HEAD /os/a "));
}

#[test]
fn chunks_and_interim_answers_are_read_and_nonsense_is_told() {
    let (port, _) = serve(None, |number, _| {
        match number {
        0 => b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            .to_vec(),
        1 => Vec::new(),
        2 => b"220 mail ready\r\n\r\n".to_vec(),
        3 => vec![b'x'; 100_000],
        _ => b"HTTP/1.1 100 Continue\r\n\r\n".repeat(50),
    }
    });
    let mut http = client(port);
    assert_eq!(whole(http.open("a", 0)), Ok("abc".into()));
    let silent = http.open("a", 0).unwrap_err();
    assert!(
        silent.transient && silent.message.contains("before an answer came"),
        "{silent:?}"
    );
    for say in [
        "not an answer of HTTP/1",
        "head is longer",
        "interim answers",
    ] {
        let error = http.open("a", 0).unwrap_err();
        assert!(!error.transient && error.message.contains(say), "{error:?}");
    }
}

#[test]
fn nobody_there_may_pass_and_a_wrong_url_does_not() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let error = client(port).open("a", 0).unwrap_err();
    assert!(
        error.transient && error.message.contains(&format!("127.0.0.1:{port}")),
        "{error:?}"
    );
    for (url, say) in [
        ("http://h/", "no plain file name"),
        ("http://h/x/", "no plain file name"),
        ("http://h/x?y", "a query"),
        ("http://u@h/x", "user name"),
    ] {
        let error = Http::new(url, None).map(|_| ()).unwrap_err();
        assert!(error.message.contains(say), "{error:?}");
    }
}

/// What a server needs to be `127.0.0.1`, and the authority to believe, both made now.
fn authority() -> (ServerConfig, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (config, authority)
}

#[test]
fn tls_is_for_servers_of_the_right_authority_and_never_left() {
    let (config, pem) = authority();
    let (_, stranger) = authority();
    let (port, requests) = serve(Some(config), |number, _| match number {
        0 => ok("a", "secret"),
        _ => b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/x\r\n\r\n".to_vec(),
    });
    let folder = std::env::temp_dir().join(format!("init-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let client = |name: &str, pem: &str| {
        let ca = folder.join(name);
        std::fs::write(&ca, pem).unwrap();
        let url = format!("https://127.0.0.1:{port}/update.json");
        Http::new(&url, Some(&ca)).unwrap().0
    };
    let mut http = client("right.pem", &pem);
    assert_eq!(whole(http.open("a", 0)), Ok("secret".into()));
    let error = http.open("a", 0).unwrap_err();
    assert!(
        !error.transient && error.message.contains("from https to http"),
        "{error:?}"
    );
    let error = client("wrong.pem", &stranger).open("a", 0).unwrap_err();
    assert!(
        !error.transient && error.message.contains("certificate"),
        "{error:?}"
    );
    assert_eq!(requests.lock().unwrap().len(), 2);
    // Both authorities in one file: as when one follows the other.
    let both = format!("{stranger}{pem}");
    let error = client("both.pem", &both).open("a", 0).unwrap_err();
    assert!(error.message.contains("from https to http"), "{error:?}");
    std::fs::remove_dir_all(&folder).unwrap();
}

proptest! {
    /// Whatever a head says, in whatever pieces it comes.
    #[test]
    fn a_head_ends_at_its_empty_line(
        lines in proptest::collection::vec("[ -~]{1,30}", 1..6), body in "[a-z]{0,20}", capacity in 1usize..40,
    ) {
        let head = format!("{}\r\n\r\n", lines.join("\r\n"));
        let text = format!("{head}{body}");
        let mut reader = BufReader::with_capacity(capacity, text.as_bytes());
        let read = read_head(&mut reader).unwrap();
        prop_assert_eq!(read, head.into_bytes());
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        prop_assert_eq!(rest, body);
    }
}
