//! netcfg is killed, again and again, and nobody who uses the network notices.

#![deny(unsafe_code)]

mod bed;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bed::server::{Kind, Server};
use bed::{Bed, Event, PATIENCE, sys};
use netcfg::rng::Rng;

const KILLS: u64 = 100;
/// Bytes at a time: the next are sent when these have arrived, so the wire is never silent for long.
const CHUNK: usize = 10_000;

/// Where the transfer stands.
#[derive(Default)]
struct Transfer {
    stop: AtomicBool,
    /// Bytes that arrived.
    arrived: AtomicU64,
}

/// FNV-1a: a byte that is lost, doubled or out of place changes it.
fn digest(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Takes all that comes over one connection, and tells how much it was and its digest.
fn sink(
    netns: String,
    transfer: Arc<Transfer>,
    arrived: Sender<u64>,
) -> (u16, JoinHandle<(u64, u64)>) {
    let listener = thread::spawn(move || {
        sys::enter(&netns).expect("root");
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port")
    });
    let listener = listener.join().expect("a listener");
    let port = listener.local_addr().expect("bound").port();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let (mut count, mut sum, mut buffer) = (0, 0, [0; CHUNK]);
        loop {
            let length = stream.read(&mut buffer).expect("no reset");
            if length == 0 {
                return (count, sum);
            }
            sum = digest(sum, &buffer[..length]);
            count += u64::try_from(length).expect("a chunk");
            transfer.arrived.store(count, Ordering::Release);
            // At the end nobody waits for it any more.
            let _ = arrived.send(count);
        }
    });
    (port, thread)
}

/// Sends over one connection until it is told to stop, and tells how much it was and its digest.
fn source(
    netns: String,
    to: SocketAddr,
    transfer: Arc<Transfer>,
    arrived: Receiver<u64>,
) -> JoinHandle<(u64, u64)> {
    thread::spawn(move || {
        sys::enter(&netns).expect("root");
        let mut stream = TcpStream::connect(to).expect("somebody listens");
        stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
        let mut rng = Rng::new(4);
        let (mut count, mut sum) = (0, 0);
        while !transfer.stop.load(Ordering::Acquire) {
            let chunk: Vec<u8> = (0..CHUNK / 8)
                .flat_map(|_| rng.next_u64().to_be_bytes())
                .collect();
            stream.write_all(&chunk).expect("no reset");
            sum = digest(sum, &chunk);
            count += u64::try_from(chunk.len()).expect("a chunk");
            while arrived
                .recv_timeout(PATIENCE)
                .expect("it arrives, and the other end lives")
                < count
            {}
        }
        (count, sum)
    })
}

#[test]
fn a_hundred_kills_break_no_connection() {
    let bed = Bed::new();
    bed.switch_on();
    let _server = Kind::Kea.start(&bed.server, &Server::new(7));
    let mut netcfg = bed.netcfg();
    let before = netcfg.event("net.address", &[]).get("address").to_owned();
    let mut monitor = bed.monitor();

    let transfer = Arc::new(Transfer::default());
    let (sender, arrived) = channel();
    let (port, sink) = sink(bed.server.netns.clone(), Arc::clone(&transfer), sender);
    let to = SocketAddr::from((Ipv4Addr::new(10, 7, 0, 1), port));
    let source = source(bed.client.clone(), to, Arc::clone(&transfer), arrived);

    let mut rng = Rng::new(100);
    for kill in 0..KILLS {
        netcfg.kill();
        let at_kill = transfer.arrived.load(Ordering::Acquire);
        // The transfer goes on while there is no netcfg at all.
        if kill % 10 == 0 {
            wait_for_more(&transfer, at_kill);
        }
        netcfg = bed.netcfg();
        if kill % 4 == 3 {
            // Somewhere in its start, a different place each time: after none to some thousand
            // turns of another thread.
            for _ in 0..rng.next_u32() % 4000 {
                thread::yield_now();
            }
            continue;
        }
        // Taken over: the server confirmed the address.
        let told = netcfg.wait_line("that it took over", |line| {
            let event = Event::parse(line);
            event.name.starts_with("net.address").then_some(event)
        });
        assert_eq!(told.get("address"), before, "after kill {kill}");
        assert_eq!(bed.addresses().join(" "), before, "after kill {kill}");
    }
    wait_for_more(&transfer, transfer.arrived.load(Ordering::Acquire));
    transfer.stop.store(true, Ordering::Release);
    let sent = source.join().expect("nothing went wrong");
    let arrived = sink.join().expect("nothing went wrong");
    assert_eq!(sent, arrived, "all bytes, in order");
    assert!(sent.0 > 100_000, "hardly a transfer: {} bytes", sent.0);

    bed.client_ip(&["addr", "add", "192.0.2.1/32", "dev", "lo"]);
    monitor.wait_line("the end", |line| line.contains("192.0.2.1").then_some(()));
    assert!(!monitor.said("Deleted"), "{:?}", monitor.seen);
}

/// Waits until more has arrived than `before`.
fn wait_for_more(transfer: &Transfer, before: u64) {
    let deadline = Instant::now() + PATIENCE;
    while transfer.arrived.load(Ordering::Acquire) <= before {
        assert!(Instant::now() < deadline, "stalled at byte {before}");
        thread::yield_now();
    }
}
