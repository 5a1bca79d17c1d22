//! Random histories of clients that mean no good, and one that does.

use super::*;
use proptest::prelude::*;

fn check_bounds(server: &Server) -> Result<(), TestCaseError> {
    prop_assert!(server.clients() <= CLIENTS_MAX);
    for client in server.clients.values() {
        prop_assert!(client.output.len() <= OUTPUT_MAX);
        prop_assert!(client.pending() < REQUEST_MAX);
    }
    Ok(())
}

/// What a hostile client does next.
#[derive(Clone, Debug)]
enum Move {
    Send(Vec<u8>),
    Read(usize),
    EndSide,
    Reconnect,
    Time(u64),
    Publish(usize),
}

fn moves() -> impl Strategy<Value = Move> {
    let words = prop_oneof![
        Just(b"{\"verb\":\"status\"}\n".to_vec()),
        Just(b"{\"verb\":\"events\",\"follow\":true}\n".to_vec()),
        Just(b"{\"verb\":\"logs\",\"lines\":1}\n".to_vec()),
        Just(b"{\"verb\":\"st".to_vec()),
        Just(vec![b'['; 5000]),
        Just(b"\n".repeat(300)),
        proptest::collection::vec(any::<u8>(), 0..600),
    ];
    prop_oneof![
        6 => words.prop_map(Move::Send),
        2 => (0usize..100_000).prop_map(Move::Read),
        1 => Just(Move::EndSide),
        2 => Just(Move::Reconnect),
        1 => (0u64..900).prop_map(Move::Time),
        1 => (0usize..3000).prop_map(Move::Publish),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn beside_hostile_clients_an_honest_one_is_answered(
        history in proptest::collection::vec((0usize..CLIENTS_MAX - 1, moves(), 0usize..5), 1..60)
    ) {
        let mut rig = Rig::new();
        let mut honest = rig.connect();
        let mut hostile: Vec<UnixStream> = (1..CLIENTS_MAX).map(|_| rig.connect()).collect();
        for client in &hostile {
            client.set_nonblocking(true).unwrap();
        }
        prop_assert_eq!(rig.server.clients(), CLIENTS_MAX);
        for (who, act, answer) in history {
            match act {
                Move::Send(data) => drop(hostile[who].write(&data)),
                Move::Read(count) => drop(hostile[who].read(&mut vec![0; count])),
                Move::EndSide => drop(hostile[who].shutdown(Shutdown::Write)),
                Move::Reconnect => {
                    hostile[who].shutdown(Shutdown::Both).unwrap();
                    rig.turn();
                    hostile[who] = rig.connect();
                    hostile[who].set_nonblocking(true).unwrap();
                }
                Move::Time(ms) => {
                    rig.now += Time::from_millis(ms);
                    rig.server.expire(rig.now);
                }
                Move::Publish(length) => rig.server.publish(&named(&"e".repeat(length * 100)), rig.now),
            }
            for asked in rig.turn() {
                match answer {
                    0 => rig.server.reply(asked.id, &Reply { ok: true, metrics: Some("m".repeat(700_000)), ..Reply::default() }, rig.now),
                    1 => rig.server.stream(asked.id, &vec!["s".repeat(10_000); 120], true, rig.now),
                    2 => rig.server.refuse(asked.id, "no", rig.now),
                    3 => rig.server.give_away(asked.id, |_| {}),
                    _ => {}
                }
            }
            check_bounds(&rig.server)?;
        }
        honest.write_all(b"{\"verb\":\"status\"}\n").unwrap();
        let asked = rig.turn().into_iter().find(|a| a.request == Request::Status { service: None });
        prop_assert!(asked.is_some());
        rig.server.reply(asked.unwrap().id, &Reply { ok: true, ..Reply::default() }, rig.now);
        prop_assert_eq!(line(&honest), "{\"ok\":true}\n");
    }
}
