//! Floods and greedy peers against the bounds on sessions: who makes way, who never does, and
//! what one session may cost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use lockstep_server::engine::config::Config;
use lockstep_server::engine::drops::{Disconnect, Drop};
use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::wire::frame::Command;
use lockstep_server::engine::wire::message::{ConnectCode, Uplink, Version};
use lockstep_server::limits::{SEATLESS_LIFE, SEATLESS_PER_RANGE_MAX, SESSION_PACKETS_PER_SECOND};
use support::*;

/// The first datagram of a client, with a Connect for this player.
fn first(player: u64, room: u64) -> Vec<u8> {
    let mut data = Vec::new();
    Uplink::Connect {
        player: PlayerId(player),
        room: RoomId(room),
        token: String::new(),
        version: Version::V1,
    }
    .encode(&mut data);
    push(0, &data)
}

/// `count` first datagrams from as many addresses of `net`, a /16 in which each /24 has 250.
fn flood(world: &mut World, net: [u8; 2], count: usize) {
    for index in 0..count {
        let (high, low) = (index / 250, index % 250);
        let host = [u8::try_from(high).unwrap(), u8::try_from(low).unwrap()];
        let from = SocketAddr::from(([net[0], net[1], host[0], host[1]], 4000));
        let mut datagram = first(1, 7);
        world.server.handle_datagram(world.now, from, &mut datagram);
    }
}

fn small(max_sessions: usize) -> Config {
    Config {
        max_sessions,
        ..Config::default()
    }
}

/// A world with one match in play of these members.
fn playing(config: Config, members: &[u64]) -> (World, Vec<usize>) {
    let mut world = World::new(config);
    world.server.create_room(world.now, spec(members)).unwrap();
    let peers = world.start_all(members);
    (world, peers)
}

#[test]
fn in_a_flood_the_oldest_without_a_seat_makes_way_and_players_never_do() {
    let (mut world, peers) = playing(small(100), &[1, 2]);
    for round in 0..20 {
        flood(&mut world, [10, round], 200);
        assert_eq!(world.server.counters().sessions, 100);
        world.press(peers[0], i32::from(round));
        world.run_ms(40);
    }
    let counters = world.server.counters();
    assert_eq!(counters.disconnects(Disconnect::Crowded), 20 * 200 - 98);
    assert_eq!(counters.drops(Drop::SessionsFull), 0);
    let seen = presses(&world.take_frames(peers[1]));
    assert_eq!(seen.len(), 20, "the match did not notice");
    assert_eq!(presses(&world.take_frames(peers[0])), seen);
}

#[test]
fn a_flood_leaves_no_more_timers_than_there_are_sessions() {
    let mut world = World::new(small(100));
    // It begins a conversation, but nothing that asks for an answer.
    for round in 0..200 {
        for host in 0..100 {
            let from = SocketAddr::from(([10, round, 0, host], 4000));
            let mut datagram = forged_beginning(121_106);
            world.server.handle_datagram(world.now, from, &mut datagram);
        }
        world.run_ms(1);
    }
    let counters = world.server.counters();
    assert_eq!(counters.disconnects(Disconnect::Crowded), 199 * 100);
    assert!(counters.timers <= 200, "{} timers", counters.timers);
}

#[test]
fn a_server_full_of_players_lets_nobody_else_in() {
    let (mut world, _) = playing(small(2), &[1, 2]);
    flood(&mut world, [10, 0], 5);
    let counters = world.server.counters();
    assert_eq!(counters.drops(Drop::SessionsFull), 5);
    assert_eq!(counters.sessions, 2);
}

#[test]
fn a_player_gets_in_while_a_flood_goes_on() {
    let mut world = World::new(small(100));
    world
        .server
        .create_room(world.now, spec(&[1, 2, 3]))
        .unwrap();
    let late = world.peer(77);
    for round in 0..20 {
        flood(&mut world, [10, round], 100);
        if round == 10 {
            world.connect(late, 3);
        }
        world.run_ms(150);
    }
    assert_eq!(world.take(late), [Said::Connect(ConnectCode::Ok)]);
    assert!(world.room().seats[2].online);
}

#[test]
fn who_had_its_answer_and_then_made_way_gets_in_all_the_same() {
    let mut world = World::new(small(100));
    world.server.create_room(world.now, spec(&[1])).unwrap();
    world.delay = Duration::from_millis(50);
    let peer = world.peer(77);
    world.connect(peer, 1);
    world.run_ms(120);
    assert_eq!(world.take(peer), [Said::Connect(ConnectCode::Ok)]);
    flood(&mut world, [10, 0], 100);
    world.run_ms(1000);
    let counters = world.server.counters();
    assert!(counters.disconnects(Disconnect::Crowded) >= 1);
    assert!(
        counters.drops(Drop::Stranger) >= 1,
        "its proof came too late"
    );
    assert!(world.room().seats[0].online);
    world.say(peer, &Uplink::JoinRoom);
    world.run_ms(200);
    assert!(matches!(world.take(peer)[..], [Said::JoinRoom { .. }]));
}

#[test]
fn who_says_much_before_its_proof_loses_nothing() {
    let mut world = World::with_room(&[1, 2]);
    world.delay = Duration::from_millis(200);
    let peer = world.peer(77);
    world.connect(peer, 1);
    world.say(peer, &Uplink::JoinRoom);
    let mut echo = Vec::new();
    Uplink::Echo(&[7; 1000]).encode(&mut echo);
    for _ in 0..150 {
        // Nothing with a seat, but it must be read before what follows it.
        world.say_bytes(peer, &echo);
    }
    world.say(peer, &Uplink::Ready);
    world.run_ms(4000);
    let counters = world.server.counters();
    assert!(counters.drops(Drop::BeforeProof) > 0);
    assert_eq!(counters.drops(Drop::EchoWithSeat), 150);
    assert!(world.room().seats[0].ready);
}

#[test]
fn one_range_of_addresses_cannot_take_every_place() {
    let (mut world, _) = playing(Config::default(), &[1, 2]);
    let max = SEATLESS_PER_RANGE_MAX;
    for port in 0..max + 50 {
        let port = u16::try_from(10_000 + port).unwrap();
        let from = SocketAddr::from(([10, 9, 8, 7], port));
        let mut datagram = first(1, 7);
        world.server.handle_datagram(world.now, from, &mut datagram);
    }
    let counters = world.server.counters();
    assert_eq!(counters.disconnects(Disconnect::Crowded), 50);
    assert_eq!(counters.sessions, max as u64 + 2);
    // Elsewhere nobody makes way.
    flood(&mut world, [11, 0], 10);
    let counters = world.server.counters();
    assert_eq!(counters.disconnects(Disconnect::Crowded), 50);
    assert_eq!(counters.sessions, max as u64 + 12);
}

#[test]
fn who_takes_no_seat_in_time_goes() {
    let mut world = World::with_room(&[1]);
    let stranger = world.peer(3);
    world.connect(stranger, 99);
    let member = world.joined(1);
    // Both show signs of life all the time.
    let beats = SEATLESS_LIFE.as_secs() * 2;
    for _ in 0..beats {
        world.say(stranger, &Uplink::Heartbeat);
        world.say(member, &Uplink::Heartbeat);
        world.run_ms(500);
    }
    assert_eq!(
        world.take(stranger).first(),
        Some(&Said::Connect(ConnectCode::NoPlayer))
    );
    world.run_ms(100);
    let counters = world.server.counters();
    assert_eq!(counters.disconnects(Disconnect::NoSeatTaken), 1);
    assert_eq!(counters.sessions, 1);
}

/// What looks like the start of a Connect and asks for no answer: as if the client of this
/// address had been started again.
fn forged_beginning(conv: u32) -> Vec<u8> {
    let mut datagram = push(0, &[0, 20, 1]);
    datagram[..4].copy_from_slice(&conv.to_le_bytes());
    datagram
}

#[test]
fn forged_beginnings_neither_starve_nor_end_a_player_who_only_listens() {
    // One forged datagram in so many milliseconds.
    for every in [900, 50, 5] {
        let (mut world, peers) = playing(Config::default(), &[1, 2]);
        let victim = world.peers[peers[1]].addr;
        for ms in 0..20_000 {
            if ms % every == 0 {
                let mut forged = forged_beginning(121_106);
                world.server.handle_datagram(world.now, victim, &mut forged);
            }
            if ms % 500 == 0 {
                world.press(peers[0], ms / 500);
            }
            world.run_ms(1);
        }
        let seen = presses(&world.take_frames(peers[1]));
        assert!(seen.len() >= 38, "one in {every} ms: {}", seen.len());
        let counters = world.server.counters();
        assert_eq!(counters.disconnects(Disconnect::Idle), 0);
        assert!(counters.disconnects(Disconnect::CandidateLost) > 0);
        assert!(world.room().seats[1].online, "one in {every} ms");
    }
}

#[test]
fn one_forged_beginning_does_not_end_a_player_who_waits_in_silence() {
    let mut world = World::with_room(&[1, 2]);
    let waiting = world.joined(1);
    world.run_ms(1000);
    let victim = world.peers[waiting].addr;
    world
        .server
        .handle_datagram(world.now, victim, &mut forged_beginning(121_106));
    world.run_ms(18_000);
    let counters = world.server.counters();
    assert_eq!(counters.disconnects(Disconnect::Idle), 0);
    assert_eq!(counters.disconnects(Disconnect::CandidateLost), 1);
    assert!(world.room().seats[0].online);
}

#[test]
fn a_forged_beginning_under_another_number_does_not_shut_out_a_client_that_restarts() {
    let (mut world, peers) = playing(Config::default(), &[1, 2]);
    world.run_ms(1000);
    let addr = world.peers[peers[0]].addr;
    world
        .server
        .handle_datagram(world.now, addr, &mut forged_beginning(99));
    world.run_ms(100);
    world.restart(peers[0], 121_106);
    world.connect(peers[0], 1);
    world.run_ms(2000);
    assert!(
        world
            .take(peers[0])
            .contains(&Said::Connect(ConnectCode::Ok))
    );
}

#[test]
fn a_session_over_its_budget_loses_its_own_packets_alone() {
    let (mut world, peers) = playing(Config::default(), &[1, 2]);
    let mut heartbeats = Vec::new();
    for _ in 0..400 {
        Uplink::Heartbeat.encode(&mut heartbeats);
    }
    let before = world.server.counters().packets_in;
    for step in 0..100 {
        world.say_bytes(peers[0], &heartbeats);
        if step % 10 == 0 {
            world.press(peers[1], step);
        }
        world.run_ms(5);
    }
    world.run_ms(400);
    let counters = world.server.counters();
    let over = counters.drops(Drop::TooManyPackets);
    assert!(over > 0 && counters.packets_in - before > u64::from(SESSION_PACKETS_PER_SECOND));
    let pressed = presses(&world.take_frames(peers[1]));
    assert_eq!(pressed.len(), 10, "the other player lost nothing");
    world.run_ms(1000);
    world.press(peers[0], 7);
    world.run_ms(100);
    let pressed = presses(&world.take_frames(peers[1]));
    assert_eq!(pressed.len(), 1, "and in the next second it is heard again");
}

#[test]
fn everything_seven_times_at_the_highest_rate_is_within_the_budget() {
    let mut world = World::new(Config::default());
    let fast = lockstep_server::engine::view::RoomSpec {
        hz: Some(240),
        broadcast_every: Some(1),
        ..spec(&[1, 2])
    };
    world.server.create_room(world.now, fast).unwrap();
    let peers = world.start_all(&[1, 2]);
    world.copies = 7;
    for step in 0..480 {
        for peer in &peers {
            let input = Command {
                sid: 1,
                x: step,
                y: 0,
            };
            world.say(*peer, &Uplink::Input(input));
        }
        world.run_until(world.now + Duration::from_micros(4_166));
    }
    world.run_ms(200);
    let counters = world.server.counters();
    for reason in [
        Drop::TooManyDatagrams,
        Drop::TooManyBytes,
        Drop::TooManyPackets,
    ] {
        assert_eq!(counters.drops(reason), 0, "{}", reason.name());
    }
    assert_eq!(presses(&world.take_frames(peers[0])).len(), 960);
}
