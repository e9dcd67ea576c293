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
use std::ops::Range;
use std::time::Instant;

use lockstep_server::cluster::node::Address;
use lockstep_server::engine::config::Config;
use lockstep_server::engine::id::{MatchId, PlayerId, RoomId};
use lockstep_server::engine::wire::frame::{Command, Input};
use lockstep_server::engine::wire::message::{Fetch, Held, Uplink, Version, WatchFrom};
use lockstep_server::engine::wire::signal::SIGNAL_BYTES;
use lockstep_server::sim::rng::Rng;
use support::*;

/// The seeds of a test: `usual`, or as many as `LOCKSTEP_HOSTILE_SEEDS` says.
fn seeds(usual: u64) -> Range<u64> {
    match std::env::var("LOCKSTEP_HOSTILE_SEEDS") {
        Ok(text) => 0..text.parse().expect("LOCKSTEP_HOSTILE_SEEDS is a number"),
        Err(_) => 0..usual,
    }
}

/// Says what the datagrams have cost; to be looked at, not judged.
fn report(what: &str, datagrams: u64, since: Instant) {
    let each = since.elapsed().as_secs_f64() * 1e6 / datagrams as f64;
    println!("{what}: {datagrams} datagrams, {each:.2} us each, all that is around them included");
}

/// A number under `end`.
fn below(rng: &mut Rng, end: u64) -> u64 {
    rng.within(0..=end - 1)
}

/// A datagram of a few segments with fields near what a session may hold, or far from it.
fn datagram(rng: &mut Rng, convs: &[u32]) -> Vec<u8> {
    let conv = convs[below(rng, convs.len() as u64) as usize];
    if below(rng, 20) == 0 {
        return signal(rng, conv);
    }
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

/// A signal of no session, whole or cut.
fn signal(rng: &mut Rng, conv: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIGNAL_BYTES).map(|_| rng.bits64() as u8).collect();
    bytes[..4].copy_from_slice(&conv.to_le_bytes());
    bytes[4] = 0xe0 + below(rng, 7) as u8;
    bytes[5..8].fill(u8::from(below(rng, 8) == 0));
    if below(rng, 8) == 0 {
        bytes.truncate(5 + below(rng, 51) as usize);
    }
    bytes
}

/// Packets, whole or cut, of every kind and of none.
fn payload(rng: &mut Rng) -> Vec<u8> {
    let mut data = Vec::new();
    match below(rng, 13) {
        0 if below(rng, 3) == 0 => Uplink::Watch {
            player: PlayerId(1 + below(rng, 6)),
            room: RoomId(6 + below(rng, 3)),
            token: String::new(),
            from: [WatchFrom::Start, WatchFrom::Newest][below(rng, 2) as usize],
        }
        .encode(&mut data),
        0 => Uplink::Connect {
            player: PlayerId(1 + below(rng, 4)),
            room: RoomId(6 + below(rng, 3)),
            token: "t".repeat(below(rng, 40) as usize),
            version: if below(rng, 2) == 0 {
                Version::V1
            } else {
                Version::V2
            },
        }
        .encode(&mut data),
        9 => Uplink::Resume(Held {
            // The first match of the test's server, and others.
            match_id: MatchId(1000 + below(rng, 3)),
            history: u32::from(below(rng, 4) == 0),
            next: (rng.bits32() >> below(rng, 32)),
        })
        .encode(&mut data),
        10 => Uplink::Opaque(input(rng)).encode(&mut data),
        11 => {
            // Few with data or many without: a body that is too long ends the session each time.
            let inputs = match below(rng, 2) {
                0 => (0..below(rng, 4)).map(|_| input(rng)).collect(),
                _ => vec![Input::default(); below(rng, 80) as usize],
            };
            Uplink::Inputs(inputs).encode(&mut data);
        }
        12 => Uplink::Fetch(Fetch {
            request: rng.bits32(),
            from: rng.bits32() >> below(rng, 32),
            end: (below(rng, 2) == 0).then(|| rng.bits32() >> below(rng, 32)),
        })
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

/// An input, with more data than a room takes now and then.
fn input(rng: &mut Rng) -> Input {
    let x = rng.bits64() as i32;
    let most = [1, 20, 300][below(rng, 3) as usize];
    Input {
        command: Command { sid: -1, x, y: x },
        data: vec![7; below(rng, most) as usize],
    }
}

/// A server whose rooms a few may watch.
fn watched() -> World {
    World::new(Config {
        watchers: 3,
        watch_delay: 5,
        ..Config::default()
    })
}

/// A match in it that has just started.
fn started(members: &[u64]) -> (World, Vec<usize>) {
    let mut world = watched();
    world.server.create_room(world.now, spec(members)).unwrap();
    let peers = world.start_all(members);
    (world, peers)
}

/// Who knows where rooms are, and says so or not.
struct Asked {
    rng: Rng,
    open: Vec<RoomId>,
    questions: u64,
}

impl Asked {
    /// One whom the server asks, if it does.
    fn of(world: &mut World, asks: bool) -> Asked {
        if asks {
            world.server.ask_elsewhere();
        }
        Asked {
            rng: Rng::new(9),
            open: Vec::new(),
            questions: 0,
        }
    }

    /// Answers some of what was asked, in no order, and things that nobody asked.
    fn answer(&mut self, world: &mut World) {
        while let Some(room) = world.server.poll_question() {
            self.open.push(room);
            self.questions += 1;
        }
        let any = self.rng.index(self.open.len() + 1);
        let room = match below(&mut self.rng, 4) {
            0 => RoomId(6 + below(&mut self.rng, 3)),
            _ if any < self.open.len() => self.open.swap_remove(any),
            _ => return,
        };
        let address = Address::new("192.0.2.1:10086");
        let address = address.filter(|_| below(&mut self.rng, 2) == 0);
        world
            .server
            .handle_located(world.now, room, address.as_ref());
    }
}

#[test]
fn hostile_datagrams_neither_panic_nor_disturb_a_match() {
    let (began, mut thrown, mut watching) = (Instant::now(), 0, 0);
    for seed in seeds(20) {
        let (mut world, peers) = started(&[101, 102]);
        let mut asked = Asked::of(&mut world, seed % 2 == 1);
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
                thrown += 1;
            }
            world.press(peers[step % 2], i32::try_from(step).unwrap());
            world.run_ms(1 + below(&mut rng, 20));
            asked.answer(&mut world);
        }
        world.run_ms(500);
        let pressed: Vec<_> = presses(&world.take_frames(peers[0]));
        let xs: Vec<_> = pressed.iter().map(|(_, _, x)| *x).collect();
        assert_eq!(xs, (0..400).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(presses(&world.take_frames(peers[1])), pressed);
        watching += world.room().watchers;
        let opened = world.server.counters().sessions_opened;
        assert!(opened > 12, "{opened} sessions: too few of it got in");
        // All that is left of it goes.
        world.run_ms(400_000);
        let counters = world.server.counters();
        assert_eq!((counters.sessions, counters.rooms), (0, 0));
    }
    println!("{watching} of them watch at the end");
    report("hostile", thrown, began);
}

#[test]
fn hostile_datagrams_from_a_players_own_address_do_not_panic() {
    let (began, mut heard, mut thrown) = (Instant::now(), 0, 0);
    let seeds = seeds(20);
    let expected = 150 * seeds.end;
    for seed in seeds {
        let (mut world, peers) = started(&[1, 2]);
        let mut rng = Rng::new(1000 + seed);
        for _ in 0..300 {
            let from = world.peers[peers[0]].addr;
            for _ in 0..10 {
                let mut bytes = datagram(&mut rng, &[121_106, 121_106, 121_106, 3]);
                world.server.handle_datagram(world.now, from, &mut bytes);
                thrown += 1;
            }
            world.press(peers[1], 1);
            world.run_ms(1 + below(&mut rng, 30));
        }
        heard += world.server.counters().packets_in;
    }
    assert!(
        heard > expected,
        "{heard} packets: too little of it is heard"
    );
    report("from a player's address", thrown, began);
}

#[test]
fn whoever_has_proved_where_he_is_may_say_what_he_likes_while_rooms_are_looked_for() {
    let (mut questions, mut redirects) = (0, 0);
    for seed in seeds(20) {
        let (mut world, peers) = started(&[101, 102]);
        let mut asked = Asked::of(&mut world, true);
        let mut rng = Rng::new(2_000_000 + seed);
        let talkers: Vec<usize> = (0..4).map(|conv| world.peer(conv)).collect();
        for step in 0..400 {
            let talker = talkers[below(&mut rng, 4) as usize];
            let garbage = payload(&mut rng);
            match below(&mut rng, 12) {
                0 => {
                    world.restart(talker, rng.bits32());
                    world.say(talker, &Uplink::Heartbeat);
                }
                1 if !garbage.is_empty() => world.say_bytes(talker, &garbage),
                2..5 => world.say(talker, &Uplink::JoinRoom),
                _ => {
                    let connect = Uplink::Connect {
                        player: PlayerId(1 + below(&mut rng, 4)),
                        room: RoomId(6 + below(&mut rng, 30)),
                        token: String::new(),
                        version: Version::V2,
                    };
                    world.say(talker, &connect);
                }
            }
            world.press(peers[step % 2], i32::try_from(step).unwrap());
            world.run_ms(1 + below(&mut rng, 20));
            asked.answer(&mut world);
            world.server.assert_invariants();
        }
        world.run_ms(2000);
        let pressed = presses(&world.take_frames(peers[0]));
        let xs: Vec<_> = pressed.iter().map(|(_, _, x)| *x).collect();
        assert_eq!(xs, (0..400).collect::<Vec<_>>(), "seed {seed}");
        questions += asked.questions;
        redirects += world.server.counters().redirects;
    }
    println!("{questions} questions where a room is, {redirects} sent on");
    assert!(questions > 100 && redirects > 20);
}

/// A copy of a real datagram with something changed in it.
fn mutated(rng: &mut Rng, recorded: &[Vec<u8>]) -> Vec<u8> {
    let any = |rng: &mut Rng| recorded[below(rng, recorded.len() as u64) as usize].clone();
    let mut bytes = any(rng);
    for _ in 0..=below(rng, 3) {
        let at = below(rng, bytes.len() as u64) as usize;
        match below(rng, 6) {
            0 => bytes[at] ^= 1 << below(rng, 8),
            1 => bytes[at] = rng.bits64() as u8,
            2 => bytes.truncate(at + 1),
            3 => bytes.extend(any(rng)),
            4 => {
                // A field of the first header, a little off: wnd, ts, sn, una or len.
                let field = [6, 8, 12, 16, 20][below(rng, 5) as usize];
                if let Some(byte) = bytes.get_mut(field) {
                    *byte = byte.wrapping_add(below(rng, 9) as u8).wrapping_sub(4);
                }
            }
            _ => {
                let other = any(rng);
                let cut = at.min(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[cut..]);
            }
        }
        if bytes.is_empty() {
            return bytes;
        }
    }
    bytes.truncate(2048);
    bytes
}

#[test]
fn mutated_datagrams_of_real_matches_neither_panic_nor_disturb_the_other_player() {
    let (began, mut thrown, mut heard) = (Instant::now(), 0, 0);
    for seed in seeds(20) {
        // No change of a byte or two makes one player the other.
        let players = [0x1122_3344_5566_7788, 0x7eed_ddcc_bbaa_9988];
        let mut world = watched();
        world.server.create_room(world.now, spec(&players)).unwrap();
        world.recorded = Some((0, Vec::new()));
        let peers = world.start_all(&players);
        assert_eq!(peers[0], 0);
        let mut rng = Rng::new(7_000_000 + seed);
        let before = world.server.counters().packets_in;
        for step in 0..300 {
            for _ in 0..10 {
                let (_, recorded) = world.recorded.as_ref().unwrap();
                let newest = recorded.len().saturating_sub(40);
                let mut bytes = mutated(&mut rng, &recorded[newest..]);
                let from = match below(&mut rng, 4) {
                    0 => SocketAddr::from(([127, 0, 0, 9], 9)),
                    _ => world.peers[peers[0]].addr,
                };
                world.server.handle_datagram(world.now, from, &mut bytes);
                thrown += 1;
            }
            world.press(peers[0], step);
            world.press(peers[1], step);
            world.run_ms(1 + below(&mut rng, 30));
        }
        heard += world.server.counters().packets_in - before;
        world.run_ms(500);
        let frames = world.take_frames(peers[1]);
        let own = presses(&frames)
            .into_iter()
            .filter(|press| press.1 == players[1]);
        let xs: Vec<_> = own.map(|(_, _, x)| x).collect();
        assert_eq!(xs, (0..300).collect::<Vec<_>>(), "seed {seed}");
        assert!(frames.windows(2).all(|pair| pair[0].id < pair[1].id));
    }
    assert!(heard > 0 && thrown > 0);
    report("mutated", thrown, began);
}
