mod hostile;

use super::*;
use crate::control::connection::{ASK_WITHIN, READ_WITHIN};
use crate::control::output::FOLLOW_MAX;
use crate::control::protocol::{Missed, SystemStatus};
use rustix::event::Timespec;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use supervisor::received::Closer;

/// A server, its epoll, who closes what it receives, and a clock that only the test moves.
struct Rig {
    server: Server,
    poller: Poller,
    closer: Closer,
    path: PathBuf,
    now: Time,
}

impl Rig {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("init-test-control-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let poller = Poller::new().unwrap();
        let closer = Closer::new(usize::MAX).unwrap();
        let owner = rustix::process::geteuid().as_raw();
        let server = Server::bind(&path, owner, closer.source(), &poller, 0).unwrap();
        Self {
            server,
            poller,
            closer,
            path,
            now: Time::from_secs(100),
        }
    }

    /// Another server at the same path.
    fn bind_again(&self) -> io::Result<Server> {
        Server::bind(&self.path, 0, self.closer.source(), &self.poller, 1)
    }

    fn connect(&mut self) -> UnixStream {
        let client = UnixStream::connect(&self.path).unwrap();
        // What never comes is a failure, not an endless test.
        client.set_read_timeout(Some(Time::from_secs(10))).unwrap();
        self.turn();
        client
    }

    /// Handles what is ready until nothing is; what was asked.
    fn turn(&mut self) -> Vec<Asked> {
        let mut asked = Vec::new();
        for _ in 0..10_000 {
            self.server.watch();
            let mut events = [MaybeUninit::uninit(); 64];
            let zero = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let ready = self.poller.wait(&mut events, Some(&zero)).unwrap();
            if ready.is_empty() {
                return asked;
            }
            for event in ready {
                let id = Token::from_data(event.data).number;
                asked.extend(self.server.ready(id, event.flags, self.now));
            }
        }
        panic!("the same is reported for ever");
    }

    /// What the only client that asks, asks.
    fn asked(&mut self) -> Asked {
        let mut asked = self.turn();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Everything until the server ends the connection, which it may do with a reset.
fn rest(mut client: &UnixStream) -> String {
    let mut text = Vec::new();
    let _ = client.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

fn line(client: &UnixStream) -> String {
    let mut text = String::new();
    BufReader::with_capacity(1, client)
        .read_line(&mut text)
        .unwrap();
    text
}

/// In a thread that is another user.
fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let uid = rustix::process::Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("the tests run as root");
            work()
        });
        user.join().unwrap()
    })
}

fn named(event: &str) -> EventLine {
    EventLine {
        event: event.into(),
        ..EventLine::default()
    }
}

#[test]
fn one_request_at_a_time_and_the_next_after_its_answer() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client
        .write_all(b"{\"verb\":\"boot\"}\n{\"verb\":\"metrics\"}\n{\"verb\":\"bo")
        .unwrap();
    let first = rig.asked();
    assert_eq!(first.request, Request::Boot {});
    assert_eq!(
        (first.uid, first.pid),
        (
            rustix::process::geteuid().as_raw(),
            i32::try_from(std::process::id()).unwrap()
        )
    );
    assert_eq!(rig.turn(), []);
    let yes = Reply {
        ok: true,
        ..Reply::default()
    };
    rig.server.reply(first.id, &yes, rig.now);
    let second = rig.asked();
    assert_eq!((second.id, second.request), (first.id, Request::Metrics {}));
    rig.server.reply(first.id, &yes, rig.now);
    assert_eq!(rig.turn(), []);
    client.write_all(b"ot\"}\n").unwrap();
    assert_eq!(rig.asked().request, Request::Boot {});
    client.shutdown(Shutdown::Write).unwrap();
    rig.server.reply(first.id, &yes, rig.now);
    rig.turn();
    assert_eq!(rest(&client), "{\"ok\":true}\n".repeat(3));
    assert_eq!(rig.server.clients(), 0);
}

#[test]
fn what_is_no_request_is_told_so_and_the_client_let_go() {
    for (text, expected) in [
        (b"{\"verb\":\"halt\"}\n".to_vec(), "unknown variant `halt`"),
        (
            b"{\"verb\":\"slots\"}\n".to_vec(),
            "init itself does not answer `slots`: on a machine",
        ),
        (b"\xff\xfe\n".to_vec(), "the request is not understood"),
        (b"\n".to_vec(), "the request is not understood"),
        (vec![b' '; REQUEST_MAX + 1], "at most 4096 bytes"),
    ] {
        let mut rig = Rig::new();
        let mut client = rig.connect();
        client.write_all(&text).unwrap();
        assert_eq!(rig.turn(), []);
        let answer = rest(&client);
        let refusal: Refusal = serde_json::from_str(&answer).unwrap();
        assert!(!refusal.ok && refusal.error.contains(expected), "{answer}");
        assert_eq!(rig.server.clients(), 0);
    }
}

#[test]
fn the_longest_request_is_read() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    let mut text = br#"{"verb":"boot"}"#.to_vec();
    text.resize(REQUEST_MAX - 1, b' ');
    text.push(b'\n');
    client.write_all(&text).unwrap();
    assert_eq!(rig.asked().request, Request::Boot {});
}

#[test]
fn half_a_request_of_one_who_leaves_is_dropped_and_a_whole_one_is_not() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(br#"{"verb":"boot"}"#).unwrap();
    drop(client);
    assert_eq!(rig.turn(), []);
    assert_eq!(rig.server.clients(), 0);
    let mut client = rig.connect();
    client.write_all(b"{\"verb\":\"poweroff\"}\n").unwrap();
    drop(client);
    assert_eq!(rig.asked().request, Request::Poweroff {});
}

#[test]
fn others_may_look_and_not_touch() {
    let mut rig = Rig::new();
    rig.server.owner = 4242;
    for (uid, text, may) in [
        (4243, r#"{"verb":"status"}"#, true),
        (4243, r#"{"verb":"stop","service":"a"}"#, false),
        (4243, r#"{"verb":"exits"}"#, false),
        (4242, r#"{"verb":"stop","service":"a"}"#, true),
    ] {
        let path = rig.path.clone();
        let mut client = as_user(uid, move || UnixStream::connect(path).unwrap());
        writeln!(client, "{text}").unwrap();
        let asked = rig.turn();
        assert_eq!(asked.len(), usize::from(may), "{uid} {text}");
        match asked.first() {
            Some(asked) => assert_eq!(asked.uid, uid),
            None => {
                assert!(rest(&client).contains("only root and the user who runs init (uid 4242)"));
            }
        }
    }
}

#[test]
fn no_user_but_root_has_many_places_and_all_others_together_not_all() {
    let mut rig = Rig::new();
    let mut clients = Vec::new();
    for (uid, tries, total) in [(4001, 9, 8), (4002, 9, 16), (4003, 9, 24), (4004, 9, 24)] {
        let path = rig.path.clone();
        let connect = |_| UnixStream::connect(&path).unwrap();
        clients.extend(as_user(uid, || (0..tries).map(connect).collect::<Vec<_>>()));
        rig.turn();
        assert_eq!(rig.server.clients(), total, "{uid}");
    }
    assert!(rest(clients.last().unwrap()).contains("too many clients"));
    for _ in 0..8 {
        clients.push(rig.connect());
    }
    assert_eq!(rig.server.clients(), CLIENTS_MAX);
    assert!(rest(&rig.connect()).contains("too many clients"));
    drop(clients);
    rig.turn();
    assert_eq!(rig.server.clients(), 0);
}

#[test]
fn a_call_of_accept_takes_a_bounded_number() {
    let mut rig = Rig::new();
    let _clients: Vec<_> = (0..20)
        .map(|_| UnixStream::connect(&rig.path).unwrap())
        .collect();
    assert_eq!(rig.server.accept(rig.now).len(), ACCEPT_MAX);
    assert_eq!(rig.server.accept(rig.now).len(), 4);
    assert!(rig.server.accept(rig.now).is_empty());
}

#[test]
fn a_stream_ends_or_goes_on() {
    let mut rig = Rig::new();
    let (mut reader, mut follower) = (rig.connect(), rig.connect());
    let lines = [String::from("1"), String::from("2")];
    reader.write_all(b"{\"verb\":\"events\"}\n").unwrap();
    let id = rig.asked().id;
    rig.server.stream(id, &lines, false, rig.now);
    assert_eq!(rest(&reader), "{\"ok\":true}\n1\n2\n");
    follower
        .write_all(b"{\"verb\":\"events\",\"follow\":true}\n{\"verb\":\"boot\"}\n")
        .unwrap();
    let id = rig.asked().id;
    rig.server.stream(id, &lines, true, rig.now);
    rig.server.publish(&named("a.b"), rig.now);
    assert_eq!(rig.turn(), []);
    for expected in [
        "{\"ok\":true}\n",
        "1\n",
        "2\n",
        "{\"at_ms\":0,\"event\":\"a.b\",\"fields\":{}}\n",
    ] {
        assert_eq!(line(&follower), expected);
    }
    drop(follower);
    rig.turn();
    assert_eq!(rig.server.clients(), 0);
}

#[test]
fn a_follower_who_reads_late_has_a_gap_of_a_told_length() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client
        .write_all(b"{\"verb\":\"events\",\"follow\":true}\n")
        .unwrap();
    let id = rig.asked().id;
    rig.server.stream(id, &[], true, rig.now);
    let name = "x".repeat(1000);
    for _ in 0..2000 {
        rig.server.publish(&named(&name), rig.now);
        rig.turn();
    }
    assert!(rig.server.clients.get(&id).unwrap().output.len() <= FOLLOW_MAX);
    client.set_nonblocking(true).unwrap();
    let mut text = Vec::new();
    loop {
        let before = text.len();
        let _ = client.read_to_end(&mut text);
        rig.turn();
        if text.len() == before {
            break;
        }
    }
    let text = String::from_utf8(text).unwrap();
    let gaps: Vec<u64> = text
        .lines()
        .filter_map(|l| Some(serde_json::from_str::<Missed>(l).ok()?.lost))
        .collect();
    let arrived = text.lines().filter(|l| l.contains(&name)).count();
    assert_eq!(gaps.len(), 1);
    assert_eq!(u64::try_from(arrived).unwrap() + gaps[0], 2000);
    // All of the gap was before the end: what comes now arrives.
    rig.server.publish(&named("after"), rig.now);
    let mut text = String::new();
    let _ = (&client).read_to_string(&mut text);
    assert!(text.contains("after"));
}

#[test]
fn patience_ends() {
    let mut rig = Rig::new();
    let silent = rig.connect();
    rig.now += Time::from_secs(1);
    let mut deaf = rig.connect();
    deaf.write_all(b"{\"verb\":\"metrics\"}\n").unwrap();
    let id = rig.asked().id;
    let reply = Reply {
        ok: true,
        metrics: Some("x".repeat(900_000)),
        ..Reply::default()
    };
    rig.server.reply(id, &reply, rig.now);
    rig.turn();
    assert_eq!(rig.server.deadline(), Some(rig.now + READ_WITHIN));
    // Whoever reads something has its time again.
    rig.now += READ_WITHIN / 2;
    deaf.set_nonblocking(true).unwrap();
    let _ = deaf.read_to_end(&mut Vec::new());
    rig.turn();
    assert_eq!(rig.server.deadline(), Some(rig.now + READ_WITHIN));
    rig.now += READ_WITHIN;
    rig.server.expire(rig.now - Time::from_millis(1));
    assert_eq!(rig.server.clients(), 2);
    rig.server.expire(rig.now);
    assert_eq!(rig.server.clients(), 1);
    rig.now = Time::from_secs(100) + ASK_WITHIN;
    assert_eq!(rig.server.deadline(), Some(rig.now));
    rig.server.expire(rig.now);
    assert_eq!((rig.server.clients(), rig.server.deadline()), (0, None));
    assert_eq!(rest(&silent), "");
}

#[test]
fn too_large_an_answer_is_refused() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"{\"verb\":\"status\"}\n").unwrap();
    let id = rig.asked().id;
    let system = SystemStatus {
        version: "x".repeat(OUTPUT_MAX),
        ..SystemStatus::default()
    };
    let reply = Reply {
        ok: true,
        system: Some(system),
        ..Reply::default()
    };
    rig.server.reply(id, &reply, rig.now);
    assert!(rest(&client).contains("ask for one service"));
}

#[test]
fn a_connection_is_given_away_complete() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client
        .write_all(b"{\"verb\":\"logs\",\"lines\":5}\nmore\n")
        .unwrap();
    let id = rig.asked().id;
    let mut taken = None;
    rig.server.give_away(id, |socket| {
        taken = Some(UnixStream::from(rustix::io::dup(socket).unwrap()));
    });
    let taken = taken.unwrap();
    assert_eq!(line(&taken), "more\n");
    assert_eq!(rig.server.clients(), 0);
    rig.server
        .give_away(id, |_| panic!("it was given away before"));
    rig.server.refuse(id, "nobody hears this", rig.now);
    // The copy of the server is still to be closed.
    taken.shutdown(Shutdown::Both).unwrap();
    assert_eq!(rest(&client), "");
}

#[test]
fn a_predecessors_socket_is_replaced_and_a_file_is_not() {
    let rig = Rig::new();
    let again = rig.bind_again().unwrap();
    UnixStream::connect(&rig.path).unwrap();
    drop(again);
    std::fs::remove_file(&rig.path).unwrap();
    std::fs::write(&rig.path, "precious").unwrap();
    let error = rig.bind_again().unwrap_err().to_string();
    assert!(error.contains("is no socket") && error.contains(rig.path.to_str().unwrap()));
    assert_eq!(std::fs::read(&rig.path).unwrap(), b"precious");
}

#[test]
fn without_descriptors_the_listener_rests_for_a_while() {
    let mut rig = Rig::new();
    // A socket that does not listen stands in for one of which nothing can be taken.
    let deaf = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let deaf = rig.poller.own(deaf.unwrap(), Token { kind: 0, number: 0 });
    let listener = std::mem::replace(&mut rig.server.listener, deaf);
    assert!(rig.server.accept(rig.now).is_empty());
    rig.server.listener = listener;
    let _waiting = rig.connect();
    assert_eq!(rig.server.clients(), 0);
    assert_eq!(rig.server.deadline(), Some(rig.now + PAUSE));
    rig.now += PAUSE;
    rig.server.expire(rig.now);
    rig.turn();
    assert_eq!(rig.server.clients(), 1);
}

#[test]
fn who_asks_too_often_waits_for_his_answers_and_gets_them_all() {
    let mut rig = Rig::new();
    let mut honest = rig.connect();
    let path = rig.path.clone();
    let mut greedy = as_user(65_534, || UnixStream::connect(path).unwrap());
    rig.turn();
    let (questions, at_once) = (200, READS_AT_ONCE as usize);
    greedy
        .write_all("{\"verb\":\"status\"}\n".repeat(questions).as_bytes())
        .unwrap();
    let mut answered = 0;
    let mut answer_all = |rig: &mut Rig| {
        loop {
            let asked = rig.turn();
            if asked.is_empty() {
                break;
            }
            for asked in asked {
                answered += usize::from(asked.uid == 65_534);
                let reply = Reply {
                    ok: true,
                    ..Reply::default()
                };
                rig.server.reply(asked.id, &reply, rig.now);
            }
        }
        answered
    };
    assert_eq!(answer_all(&mut rig), at_once);
    // Root is not concerned, and his answer does not wait.
    honest.write_all(b"{\"verb\":\"status\"}\n").unwrap();
    assert_eq!(answer_all(&mut rig), at_once);
    assert_eq!(line(&honest), "{\"ok\":true}\n");
    for turn in 1..=questions - at_once {
        rig.now = rig.server.deadline().unwrap();
        rig.server.expire(rig.now);
        assert_eq!(answer_all(&mut rig), at_once + turn);
    }
}
