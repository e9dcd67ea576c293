//! Datagrams that nobody honest sends: well-formed enough to get deep into the engine, wrong
//! everywhere. Nothing may panic (these tests run with overflow checks and the server's
//! invariants), and a match beside it must not notice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "random bits may be cut"
)]

mod support;

use std::net::SocketAddr;

use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::wire::frame::Command;
use lockstep_server::engine::wire::message::Uplink;
use lockstep_server::sim::rng::Rng;
use support::*;

/// A number under `end`.
fn below(rng: &mut Rng, end: u64) -> u64 {
    rng.within(0..=end - 1)
}

/// A datagram of a few segments with fields near what a session may hold, or far from it.
fn datagram(rng: &mut Rng, convs: &[u32]) -> Vec<u8> {
    let conv = convs[below(rng, convs.len() as u64) as usize];
    let mut bytes = Vec::new();
    for _ in 0..1 + below(rng, 4) {
        let data = payload(rng);
        bytes.extend_from_slice(&conv.to_le_bytes());
        bytes.push(80 + below(rng, 6) as u8);
        bytes.push(if below(rng, 8) == 0 {
            below(rng, 256) as u8
        } else {
            0
        });
        bytes.extend_from_slice(&(below(rng, 300) as u16).to_le_bytes());
        for _ in 0..3 {
            let near = below(rng, 8).saturating_sub(4) as u32;
            let field = match below(rng, 16) {
                0 => rng.bits32(),
                1 => u32::MAX - near,
                _ => near,
            };
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        let len = match below(rng, 20) {
            0 => rng.bits32(),
            _ => data.len() as u32,
        };
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&data);
    }
    if below(rng, 10) == 0 {
        bytes.truncate(below(rng, bytes.len() as u64 + 1) as usize);
    }
    bytes
}

/// Packets, whole or cut, of every kind and of none.
fn payload(rng: &mut Rng) -> Vec<u8> {
    let mut data = Vec::new();
    match below(rng, 9) {
        0 => Uplink::Connect {
            player: PlayerId(1 + below(rng, 4)),
            room: RoomId(6 + below(rng, 3)),
            token: "t".repeat(below(rng, 40) as usize),
        }
        .encode(&mut data),
        1 => Uplink::Heartbeat.encode(&mut data),
        2 => Uplink::JoinRoom.encode(&mut data),
        3 => Uplink::Ready.encode(&mut data),
        4 => Uplink::Result { winner: 1 }.encode(&mut data),
        5 => Uplink::Echo(&[7; 200]).encode(&mut data),
        6 => {
            let x = rng.bits64() as i32;
            Uplink::Input(Command { sid: -1, x, y: x }).encode(&mut data);
        }
        _ => data = (0..below(rng, 60)).map(|_| rng.bits64() as u8).collect(),
    }
    if below(rng, 6) == 0 {
        data.truncate(below(rng, data.len() as u64 + 1) as usize);
    }
    data
}

#[test]
fn hostile_datagrams_neither_panic_nor_disturb_a_match() {
    for seed in 0..20 {
        let (mut world, peers) = World::started(&[101, 102]);
        let mut other = spec(&[1, 2, 3, 4]);
        other.room = RoomId(8);
        world.server.create_room(world.now, other).unwrap();
        let mut rng = Rng::new(seed);
        for step in 0..400 {
            for _ in 0..10 {
                let port = 40_000 + below(&mut rng, 12) as u16;
                let from = SocketAddr::from(([127, 0, 0, 1], port));
                let mut bytes = datagram(&mut rng, &[0, 1, 121_106]);
                world.server.handle_datagram(world.now, from, &mut bytes);
            }
            world.press(peers[step % 2], i32::try_from(step).unwrap());
            world.run_ms(1 + below(&mut rng, 20));
        }
        world.run_ms(500);
        let pressed: Vec<_> = presses(&world.take_frames(peers[0]));
        let xs: Vec<_> = pressed.iter().map(|(_, _, x)| *x).collect();
        assert_eq!(xs, (0..400).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(presses(&world.take_frames(peers[1])), pressed);
        let opened = world.server.counters().sessions_opened;
        assert!(opened > 12, "{opened} sessions: too few of it got in");
        // All that is left of it goes.
        world.run_ms(400_000);
        let counters = world.server.counters();
        assert_eq!((counters.sessions, counters.rooms), (0, 0));
    }
}

#[test]
fn hostile_datagrams_from_a_players_own_address_do_not_panic() {
    let mut heard = 0;
    for seed in 0..20 {
        let (mut world, peers) = World::started(&[1, 2]);
        let mut rng = Rng::new(1000 + seed);
        for _ in 0..300 {
            let from = world.peers[peers[0]].addr;
            for _ in 0..10 {
                let mut bytes = datagram(&mut rng, &[121_106, 121_106, 121_106, 3]);
                world.server.handle_datagram(world.now, from, &mut bytes);
            }
            world.press(peers[1], 1);
            world.run_ms(1 + below(&mut rng, 30));
        }
        heard += world.server.counters().packets_in;
    }
    assert!(heard > 3_000, "{heard} packets: too little of it is heard");
}
