//! The server over a real socket, in one thread: what a client writes is there when its write returns,
//! so a few turns of the loop are enough to handle it.

use std::future::poll_fn;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use proptest::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::status::{LinkStatus, Status};

struct Rig {
    runtime: tokio::runtime::Runtime,
    server: Server,
    dir: PathBuf,
    now: Duration,
    /// Whether requests are answered at once.
    answers: bool,
    status: Status,
    asked: Vec<Request>,
}

impl Rig {
    fn new() -> Rig {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("netcfg-control-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        let server = runtime
            .block_on(async { Server::bind(&dir.join("control")) })
            .expect("a socket");
        Rig {
            runtime,
            server,
            dir,
            now: Duration::from_secs(100),
            answers: true,
            status: Status::default(),
            asked: vec![],
        }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.join("control")).expect("somebody listens")
    }

    fn with(&self, line: &str) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(line.as_bytes()).expect("connected");
        stream
    }

    /// Lets the server do what there is to do.
    fn turn(&mut self) {
        let Rig {
            runtime,
            server,
            now,
            answers,
            status,
            asked,
            ..
        } = self;
        runtime.block_on(async {
            for _ in 0..8 {
                while let Poll::Ready(request) =
                    poll_fn(|cx| Poll::Ready(server.poll_request(cx, *now))).await
                {
                    if *answers {
                        let reply = match request.verb {
                            Verb::Net {} => Reply::net(status.clone()),
                            Verb::Renew { .. } | Verb::Release { .. } => Reply::done(),
                        };
                        server.reply(&request.client, &reply, *now);
                    }
                    asked.push(request);
                }
                tokio::task::yield_now().await;
            }
        });
    }

    /// So many links that one answer is more than a socket takes at once.
    fn enlarge(&mut self) {
        let link = LinkStatus {
            name: "x".repeat(1000),
            ..LinkStatus::default()
        };
        self.status.links = vec![link; 400];
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a line");
    line
}

fn rest(mut stream: UnixStream) -> String {
    // Only a connection that is wrongly kept gets there.
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a socket");
    let mut text = Vec::new();
    // Closed while something of ours was unread: for us the same as closed.
    if let Err(error) = stream.read_to_end(&mut text) {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    String::from_utf8(text).expect("text")
}

/// Whether the server has let it go.
fn is_closed(stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let read = (&mut &*stream).read(&mut [0; 1]);
    stream.set_nonblocking(false).expect("a socket");
    matches!(read, Ok(0)) || read.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
}

const NET: &str = "{\"verb\":\"net\"}\n";

#[test]
fn a_client_may_ask_again_and_again() {
    let mut rig = Rig::new();
    let mut stream = rig.connect();
    for request in [NET, "{\"verb\":\"renew\",\"link\":\"eth0\"}\n"] {
        // In pieces, as a slow writer would.
        for piece in request.as_bytes().chunks(5) {
            stream.write_all(piece).expect("connected");
            rig.turn();
        }
        let answer = line(&stream);
        let reply: Reply = serde_json::from_str(&answer).expect("a reply");
        assert!(reply.ok, "{answer}");
        assert_eq!(reply.net.is_some(), request == NET);
    }
    let verbs: Vec<&Verb> = rig.asked.iter().map(|request| &request.verb).collect();
    let link = String::from("eth0");
    assert_eq!(verbs, [&Verb::Net {}, &Verb::Renew { link }]);
    drop(stream);
    rig.turn();
    assert_eq!(rig.server.clients(), 0);
}

#[test]
fn requests_that_come_together_are_answered_in_turn() {
    let mut rig = Rig::new();
    let stream = rig.with(&NET.repeat(50));
    // Only its side has ended: it wants its answers.
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("connected");
    rig.answers = false;
    rig.turn();
    assert_eq!(rig.asked.len(), 1, "one at a time");
    rig.answers = true;
    let first = rig.asked.pop().expect("one");
    rig.server.reply(&first.client, &Reply::done(), rig.now);
    for _ in 0..50 {
        rig.turn();
    }
    assert_eq!(rest(stream).lines().count(), 50);
}

#[test]
fn what_is_wrong_is_told_and_ends_it() {
    for (text, expected) in [
        (
            "{\"verb\":\"halt\"}\n".to_owned(),
            "the request is not understood: ",
        ),
        (format!("{}\n", "x".repeat(1024)), "at most 1024 bytes"),
        ("y".repeat(1024), "at most 1024 bytes"),
        ("\n".to_owned(), "the request is not understood: "),
    ] {
        let mut rig = Rig::new();
        let stream = rig.with(&text);
        rig.turn();
        let told = rest(stream);
        let refusal: Refusal = serde_json::from_str(&told).expect("a refusal");
        assert!(!refusal.ok && refusal.error.contains(expected), "{told}");
        assert_eq!((rig.asked.len(), rig.server.clients()), (0, 0));
    }
    // The longest that is none: a request of 1024 bytes with its end.
    let mut rig = Rig::new();
    let spaces = " ".repeat(REQUEST_MAX - NET.len());
    let stream = rig.with(&format!("{spaces}{NET}"));
    rig.turn();
    assert!(line(&stream).starts_with("{\"ok\":true"));
}

#[test]
fn a_request_can_be_refused() {
    let mut rig = Rig::new();
    let stream = rig.with("{\"verb\":\"renew\",\"link\":\"lo\"}\n");
    rig.answers = false;
    rig.turn();
    let request = rig.asked.pop().expect("a request");
    assert_eq!(request.uid, rustix::process::geteuid().as_raw());
    rig.server
        .refuse(&request.client, "no link is called lo", rig.now);
    // A second answer is none.
    rig.server.reply(&request.client, &Reply::done(), rig.now);
    rig.turn();
    assert_eq!(
        rest(stream),
        "{\"ok\":false,\"error\":\"no link is called lo\"}\n"
    );
}

/// As root, for the client becomes somebody else.
#[test]
fn who_is_not_root_may_look_and_not_touch() {
    let mut rig = Rig::new();
    let mode = fs::metadata(rig.dir.join("control")).expect("a socket");
    assert_eq!(mode.permissions().mode() & 0o777, 0o666);
    let path = rig.dir.join("control");
    let nobody = std::thread::spawn(move || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).expect("root");
        let mut streams = [(); 2].map(|()| UnixStream::connect(&path).expect("everybody may"));
        let [look, touch] = &mut streams;
        look.write_all(NET.as_bytes()).expect("connected");
        touch
            .write_all(b"{\"verb\":\"release\",\"link\":\"eth0\"}\n")
            .expect("connected");
        streams
    });
    let [look, touch] = nobody.join().expect("no panic");
    rig.turn();
    assert!(line(&look).starts_with("{\"ok\":true"));
    let told = rest(touch);
    assert!(
        told.contains("only root") && told.contains("not uid 65534"),
        "{told}"
    );
    assert_eq!(rig.asked.len(), 1);
}

#[test]
fn the_longest_silent_one_makes_room() {
    let mut rig = Rig::new();
    let mut streams = vec![];
    for _ in 0..CLIENTS_MAX {
        rig.now += Duration::from_secs(1);
        streams.push(rig.connect());
        rig.turn();
    }
    // The first has something to say, and is not the longest silent one any more.
    rig.now += Duration::from_secs(1);
    streams[0].write_all(NET.as_bytes()).expect("connected");
    rig.turn();
    line(&streams[0]);
    rig.now += Duration::from_secs(1);
    let late = rig.with(NET);
    rig.turn();
    assert!(line(&late).starts_with("{\"ok\":true"));
    assert_eq!(rig.server.clients(), CLIENTS_MAX);
    let closed: Vec<bool> = streams.iter().map(is_closed).collect();
    let expected: Vec<bool> = (0..CLIENTS_MAX).map(|place| place == 1).collect();
    assert_eq!(closed, expected);
}

#[test]
fn a_flood_of_connections_keeps_its_bound_and_locks_nobody_out() {
    let mut rig = Rig::new();
    let path = rig.dir.join("control");
    let root = rig.connect();
    rig.turn();
    let flood = std::thread::spawn(move || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).expect("root");
        let connect = || UnixStream::connect(&path).expect("everybody may");
        (0..100).map(|_| connect()).collect::<Vec<_>>()
    });
    let flood = flood.join().expect("no panic");
    rig.now += Duration::from_secs(5);
    for _ in 0..20 {
        rig.turn();
        assert!(rig.server.clients() <= CLIENTS_MAX);
    }
    // Root was silent for longest, and is still there.
    (&root).write_all(NET.as_bytes()).expect("connected");
    rig.turn();
    assert!(line(&root).starts_with("{\"ok\":true"));
    let left = flood.iter().filter(|stream| !is_closed(stream)).count();
    assert_eq!(left, CLIENTS_MAX - 1);
}

#[test]
fn who_does_not_read_costs_one_answer_and_is_let_go() {
    let mut rig = Rig::new();
    rig.enlarge();
    let deaf = rig.with(&NET.repeat(20));
    rig.turn();
    assert_eq!(rig.asked.len(), 1, "nothing is read before it has read");
    // Others are served all the while, as much as they like.
    let other = rig.with(NET);
    let reader = std::thread::spawn(move || line(&other));
    while !reader.is_finished() {
        rig.turn();
    }
    let answer = reader.join().expect("no panic");
    assert!(answer.len() > 400_000 && answer.ends_with("}}\n"));
    rig.now += READ_WITHIN;
    rig.turn();
    assert_eq!(rig.server.clients(), 0);
    let mut heard = Vec::new();
    let _ = (&mut &deaf).read_to_end(&mut heard);
    assert!(heard.len() < 400_000, "{}", heard.len());
}

#[test]
fn an_answer_beyond_all_bounds_is_a_refusal() {
    let mut rig = Rig::new();
    rig.enlarge();
    rig.status.links[0].name = "x".repeat(OUTPUT_MAX);
    let stream = rig.with(NET);
    rig.turn();
    let told = rest(stream);
    assert!(told.contains("more than 1048576"), "{told}");
}

#[test]
fn the_socket_of_a_predecessor_is_replaced_and_nothing_else_is() {
    let rig = Rig::new();
    let path = rig.dir.join("control");
    let next = rig.runtime.block_on(async { Server::bind(&path) });
    assert!(next.is_ok(), "{next:?}");
    let file = rig.dir.join("file");
    fs::write(&file, "precious").expect("own folder");
    let error = rig
        .runtime
        .block_on(async { Server::bind(&file) })
        .expect_err("no socket");
    let text = error.to_string();
    assert!(
        text.contains("file") && text.contains("is no socket"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_in_any_pieces_leave_it_serving(
        pieces in proptest::collection::vec(proptest::collection::vec(
            prop_oneof![Just(b'\n'), Just(b'{'), any::<u8>()], 0..400), 1..6),
    ) {
        let mut rig = Rig::new();
        let mut stream = rig.connect();
        for piece in &pieces {
            // It may have been let go already.
            let _ = stream.write_all(piece);
            rig.turn();
        }
        prop_assert_eq!(rig.asked.len(), 0);
        let good = rig.with(NET);
        rig.turn();
        let served = line(&good).contains("\"ok\":true");
        prop_assert!(served);
    }
}

/// A connection over the loopback whose other end reads nothing, with more in it than fits, that lingers for an
/// hour when it is closed (socket(7), `SO_LINGER`); and the other end.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (far, _) = listener.accept().expect("connected");
    near.set_nonblocking(true).expect("a socket");
    let block = vec![0; 1 << 16];
    while (&near).write(&block).is_ok() {}
    let hour = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&near, hour).expect("a socket");
    (near, far)
}

/// Sends `text` together with a descriptor, of which only the message is left afterwards.
fn pass(stream: &UnixStream, text: &str, descriptor: impl AsFd) {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let parts = [io::IoSlice::new(text.as_bytes())];
    let sent = sendmsg(stream, &parts, &mut control, SendFlags::empty()).expect("connected");
    assert_eq!(sent, text.len());
}

/// Does something with a server in a thread of its own, which hangs if a descriptor is closed that lingers.
fn without_hanging(what: &'static str, story: impl FnOnce(&mut Rig) + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = thread::spawn(move || {
        story(&mut Rig::new());
        done.send(()).expect("the test waits");
    });
    match wait.recv_timeout(Duration::from_secs(60)) {
        Ok(()) => thread.join().expect("it has ended"),
        Err(RecvTimeoutError::Disconnected) => thread.join().expect("the story holds"),
        Err(RecvTimeoutError::Timeout) => panic!("{what}: the server hangs"),
    }
}

#[test]
fn a_descriptor_that_comes_with_a_request_is_not_closed() {
    without_hanging("with a request", |rig| {
        let stream = rig.connect();
        let (near, _far) = lingering();
        pass(&stream, NET, near);
        rig.turn();
        assert!(is_closed(&stream), "it may not go on");
        assert!(rig.asked.is_empty(), "nor is it answered");
        assert!(rig.server.take_warning().is_some(), "it is told");
        // Everybody else is served.
        let other = rig.with(NET);
        rig.turn();
        assert!(line(&other).contains("\"ok\":true"));
    });
}

#[test]
fn nor_one_that_waits_unread_when_its_client_is_let_go() {
    without_hanging("behind a request", |rig| {
        rig.answers = false;
        let stream = rig.with(NET);
        rig.turn();
        // In a connection of its own, whose end would close what waits in it.
        let (near, _far) = lingering();
        let (inner, outer) = UnixStream::pair().expect("sockets");
        pass(&outer, "x", near);
        pass(&stream, "x", inner);
        let client = rig.asked.pop().expect("a request").client;
        rig.server.refuse(&client, "no", rig.now);
        drop(outer);
        rig.turn();
        assert!(rig.server.take_warning().is_some(), "it is told");
        assert!(rest(stream).contains("\"error\":\"no\""));
        assert_eq!(rig.server.clients(), 0);
    });
}

#[test]
fn nor_one_of_a_client_that_makes_room_for_another() {
    without_hanging("when there is no room", |rig| {
        let mut streams = vec![];
        for _ in 0..CLIENTS_MAX {
            streams.push(rig.connect());
        }
        rig.turn();
        let (near, _far) = lingering();
        // Not read yet when the next ones come.
        pass(&streams[0], "x", near);
        streams.push(rig.connect());
        rig.turn();
        assert!(is_closed(&streams[0]));
        assert!(rig.server.take_warning().is_some(), "it is told");
    });
}

#[test]
fn when_too_many_descriptors_are_held_nobody_is_let_in() {
    let mut rig = Rig::new();
    for number in 0..HELD_MAX {
        let stream = rig.connect();
        pass(&stream, NET, &stream);
        rig.turn();
        let warning = rig.server.take_warning().expect("it is told");
        let full = warning.contains("nobody");
        assert_eq!(full, number + 1 == HELD_MAX, "{warning}");
    }
    let stream = rig.with(NET);
    rig.turn();
    assert_eq!(rig.server.clients(), 0);
    assert!(rig.asked.is_empty());
    drop(stream);
}
