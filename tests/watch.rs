//! Spectators, as claims: who may watch sees everything, as late as the room says, and nothing
//! that players do changes for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use lockstep_server::engine::auth::{Auth, RoomSecret};
use lockstep_server::engine::config::Config;
use lockstep_server::engine::drops::{Disconnect, Drop};
use lockstep_server::engine::id::{Percent, PlayerId};
use lockstep_server::engine::view::{OverReason, Phase, RoomSpec};
use lockstep_server::engine::wire::frame::{Command, Frame};
use lockstep_server::engine::wire::message::{
    ConnectCode, Follows, Held, Uplink, Version, WatchFrom, Welcome,
};
use lockstep_server::limits::{OVER_LINGER, WATCHED_LINGER_MAX};
use lockstep_server::ticket::{TicketSecret, TicketSecrets};
use support::*;

/// Nobody who plays.
const FAN: u64 = 900;

fn watch(player: u64, from: WatchFrom, token: &str) -> Uplink<'static> {
    Uplink::Watch {
        player: PlayerId(player),
        room: ROOM,
        token: token.to_owned(),
        from,
    }
}

/// A server with one room of these members, which so many may watch with this delay.
fn watched(members: &[u64], watchers_max: u32, watch_delay: u32) -> World {
    let mut world = World::new(Config::default());
    let spec = RoomSpec {
        watchers_max: Some(watchers_max),
        watch_delay: Some(watch_delay),
        ..spec(members)
    };
    world.server.create_room(world.now, spec).unwrap();
    world
}

/// The same with a running match of players 1 and 2, who pressed something in `frames` frames.
fn match_of(frames: u32, watchers_max: u32, delay: u32) -> (World, Vec<usize>) {
    let mut world = watched(&[1, 2], watchers_max, delay);
    let peers = world.start_all(&[1, 2]);
    play_to(&mut world, &peers, frames);
    (world, peers)
}

fn play_to(world: &mut World, peers: &[usize], frame: u32) {
    while world.room().frame < frame {
        world.press(peers[0], 1);
        world.run_ms(33);
    }
}

/// A peer that asks to watch, joins, and is ready in this way.
fn fan(world: &mut World, player: u64, from: WatchFrom, ready: &Uplink<'_>) -> usize {
    let peer = world.peer(u32::try_from(player).unwrap());
    for message in [&watch(player, from, ""), &Uplink::JoinRoom, ready] {
        world.say(peer, message);
    }
    world.run_ms(30);
    peer
}

fn fans(world: &mut World, from: WatchFrom) -> usize {
    fan(world, FAN, from, &Uplink::Ready)
}

/// The answer to somebody who asks to watch.
fn asked(world: &mut World, message: &Uplink<'_>) -> ConnectCode {
    let peer = world.peer(77);
    world.say(peer, message);
    world.run_ms(30);
    match &world.take(peer)[..] {
        [Said::Welcome(welcome)] => {
            assert!(welcome.watch_delay.is_some());
            ConnectCode::Ok
        }
        [Said::Connect(code)] => *code,
        other => panic!("{other:?}"),
    }
}

fn follows(said: &[Said]) -> Option<Follows> {
    said.iter().find_map(|said| match said {
        Said::StartFrom(_, follows) => Some(*follows),
        _ => None,
    })
}

fn frames(said: &[Said]) -> Vec<Frame> {
    let frames = said.iter().filter_map(|said| match said {
        Said::Frames(frames) => Some(frames.clone()),
        _ => None,
    });
    frames.flatten().collect()
}

fn with_input(frames: &[Frame]) -> Vec<Frame> {
    let full = frames.iter().filter(|frame| !frame.inputs.is_empty());
    full.cloned().collect()
}

// --- Who may ----------------------------------------------------------------------------------

#[test]
fn nobody_watches_a_room_that_does_not_say_so() {
    let mut world = World::with_room(&[1]);
    let code = asked(&mut world, &watch(FAN, WatchFrom::Start, ""));
    assert_eq!(code, ConnectCode::NoWatch);
    // Not even a member, who may play.
    let code = asked(&mut world, &watch(1, WatchFrom::Start, ""));
    assert_eq!(code, ConnectCode::NoWatch);
}

#[test]
fn the_settings_of_the_server_hold_for_a_room_that_does_not_say_otherwise() {
    let mut world = World::new(Config {
        watchers: 5,
        watch_delay: 90,
        ..Config::default()
    });
    world.server.create_room(world.now, spec(&[1])).unwrap();
    let room = world.room();
    assert_eq!((room.watchers_max, room.watch_delay), (5, 90));
    assert_eq!(
        asked(&mut world, &watch(FAN, WatchFrom::Start, "")),
        ConnectCode::Ok
    );
}

#[test]
fn a_full_gallery_lets_nobody_in_until_somebody_goes() {
    let mut world = watched(&[1], 2, 0);
    let first = fan(&mut world, 901, WatchFrom::Start, &Uplink::Ready);
    fan(&mut world, 902, WatchFrom::Start, &Uplink::Ready);
    assert_eq!(world.room().watchers, 2);
    let late = watch(903, WatchFrom::Start, "");
    assert_eq!(asked(&mut world, &late), ConnectCode::NoWatch);
    // Who is there already may come again.
    let again = watch(901, WatchFrom::Start, "");
    assert_eq!(asked(&mut world, &again), ConnectCode::Ok);
    let ended = world.server.counters().disconnects(Disconnect::TakenOver);
    assert_eq!((world.room().watchers, ended), (2, 1));
    world.peers[first].cut_off = true;
    // Its peer is gone.
    world.peers.last_mut().unwrap().cut_off = true;
    world.run_ms(16_000);
    assert_eq!(world.room().watchers, 1);
    assert_eq!(asked(&mut world, &late), ConnectCode::Ok);
}

#[test]
fn of_many_who_were_let_in_before_their_proof_only_so_many_get_a_place() {
    let mut world = watched(&[1], 2, 0);
    let peers: Vec<usize> = (901..=904)
        .map(|player| {
            let peer = world.peer(1);
            world.say(peer, &watch(player, WatchFrom::Start, ""));
            peer
        })
        .collect();
    world.run_ms(100);
    assert_eq!(world.room().watchers, 2);
    let closed = peers.iter().filter(|peer| {
        let said = world.take(**peer);
        assert!(matches!(said[0], Said::Welcome(_)), "{said:?}");
        said[1..] == [Said::Close]
    });
    assert_eq!(closed.count(), 2);
}

#[test]
fn a_place_is_taken_at_the_proof_of_address_and_not_before() {
    let mut world = watched(&[1], 1, 0);
    let forger = world.peer(5);
    world.peers[forger].cut_off = true;
    let (addr, mut packet) = (world.peers[forger].addr, Vec::new());
    watch(FAN, WatchFrom::Start, "").encode(&mut packet);
    world.post(addr, None, push(0, &packet));
    world.run_ms(50);
    assert_eq!(world.server.counters().sessions, 1);
    assert_eq!(world.room().watchers, 0);
}

#[test]
fn a_watch_of_a_client_of_v1_is_a_connect() {
    let mut world = watched(&[1], 5, 0);
    let peer = world.peer(5);
    let mut packet = Vec::new();
    watch(1, WatchFrom::Start, "").encode(&mut packet);
    // Its version (field 100, a tag of two bytes) becomes 1.
    let version = packet.windows(3).position(|bytes| bytes == [0xa0, 0x06, 2]);
    packet[version.unwrap() + 2] = 1;
    world.say_bytes(peer, &packet);
    world.run_ms(30);
    assert_eq!(world.take(peer), [Said::Connect(ConnectCode::Ok)]);
    assert!(world.room().seats[0].online);
}

#[test]
fn a_ticket_for_the_room_lets_its_player_watch_and_no_other() {
    let secrets = TicketSecrets::new(TicketSecret::new([7; 32]).unwrap(), None);
    let mut world = World::new(Config {
        auth: Auth::Ticket(secrets.clone()),
        watchers: 5,
        ..Config::default()
    });
    world.server.create_room(world.now, spec(&[1])).unwrap();
    let ticket = |player| secrets.sign(ROOM, PlayerId(player), WALL + 60);
    for (player, token, code) in [
        (FAN, String::new(), ConnectCode::Token),
        (FAN, ticket(FAN + 1), ConnectCode::Token),
        (FAN, ticket(1), ConnectCode::Token),
        (FAN, ticket(FAN), ConnectCode::Ok),
        (1, ticket(1), ConnectCode::Ok),
    ] {
        let connect = watch(player, WatchFrom::Start, &token);
        assert_eq!(asked(&mut world, &connect), code, "{player}");
    }
    // And it gives no seat.
    let seat = Uplink::Connect {
        player: PlayerId(FAN),
        room: ROOM,
        token: ticket(FAN),
        version: Version::V2,
    };
    assert_eq!(asked(&mut world, &seat), ConnectCode::NoPlayer);
}

#[test]
fn the_secret_of_watchers_lets_somebody_watch_and_takes_no_seat() {
    let mut world = World::new(Config {
        auth: Auth::Room,
        watchers: 5,
        ..Config::default()
    });
    world.server.create_room(world.now, spec(&[1])).unwrap();
    let room = RoomSecret::from_bytes(*SECRET);
    let (of_players, of_watchers) = (room.to_hex(), room.for_watchers().to_hex());
    assert_ne!(of_players, of_watchers);
    for (token, code) in [
        ("", ConnectCode::Token),
        (&of_watchers[..], ConnectCode::Ok),
        (&of_players[..], ConnectCode::Ok),
    ] {
        let connect = watch(FAN, WatchFrom::Start, token);
        assert_eq!(asked(&mut world, &connect), code);
    }
    let seat = Uplink::Connect {
        player: PlayerId(1),
        room: ROOM,
        token: of_watchers,
        version: Version::V2,
    };
    assert_eq!(asked(&mut world, &seat), ConnectCode::Token);
}

// --- What they see ----------------------------------------------------------------------------

#[test]
fn a_spectator_is_told_all_players_and_the_delay_and_has_no_seat() {
    let (mut world, _) = match_of(60, 5, 20);
    let peer = fans(&mut world, WatchFrom::Start);
    let said = world.take(peer);
    let Said::Welcome(Welcome {
        match_id,
        hz,
        head,
        watch_delay,
        ..
    }) = said[0]
    else {
        panic!("{said:?}");
    };
    assert_eq!((match_id, hz), (world.room().match_id, 30));
    assert_eq!(watch_delay, Some(20));
    assert!((38..=41).contains(&head), "{head}");
    let others = vec![(1, 100), (2, 100)];
    let joined = Said::JoinRoom {
        seat: 0,
        others,
        seed: 42,
    };
    assert_eq!(said[1], joined);
    assert_eq!(said[2], Said::Ready);
}

#[test]
fn spectators_see_what_players_see_and_never_the_frames_that_are_held_back() {
    for delay in [0, 1, 20, 300] {
        let (mut world, peers) = match_of(60, 5, delay);
        let fans = [WatchFrom::Start, WatchFrom::Newest].map(|from| fans_of(&mut world, from));
        let mut seen: Vec<Vec<Frame>> = vec![Vec::new(); 2];
        let mut starts = Vec::new();
        for _ in 0..40 {
            play_to_next(&mut world, &peers);
            let head = world.room().frame;
            for (index, fan) in fans.iter().enumerate() {
                let said = world.take(*fan);
                starts.extend(follows(&said));
                seen[index].extend(frames(&said));
                let ahead = |frame: &&Frame| frame.id + delay >= head;
                assert_eq!(seen[index].iter().rev().find(ahead), None, "delay {delay}");
            }
        }
        assert_eq!(starts[0].next, 0);
        assert_eq!(starts[1].next, starts[1].head);
        let played = with_input(&world.take_frames(peers[1]));
        let head = world.room().frame;
        for (start, seen) in starts.iter().zip(&seen) {
            let seen_ids = start.next..head.saturating_sub(delay + 3);
            let expected = played.iter().filter(|frame| seen_ids.contains(&frame.id));
            let seen = with_input(seen);
            let seen = seen.iter().filter(|frame| seen_ids.contains(&frame.id));
            assert!(seen.eq(expected), "delay {delay}");
        }
    }
}

fn fans_of(world: &mut World, from: WatchFrom) -> usize {
    let player = FAN + u64::from(from == WatchFrom::Newest);
    fan(world, player, from, &Uplink::Ready)
}

fn play_to_next(world: &mut World, peers: &[usize]) {
    let next = world.room().frame + 1;
    play_to(world, peers, next);
}

#[test]
fn who_waits_with_the_players_is_told_their_progress_and_the_start() {
    let mut world = watched(&[1, 2], 5, 10);
    let peer = fans(&mut world, WatchFrom::Newest);
    let peers = [world.joined(1), world.joined(2)];
    world.take(peer);
    // Going back and forth costs thousands of spectators nothing.
    for percent in [30, 20, 30, 70, 0, 70] {
        world.progress(peers[0], percent);
        world.run_ms(20);
    }
    let progress = [Said::Progress(1, 30), Said::Progress(1, 70)];
    assert_eq!(world.take(peer), progress);
    for player in peers {
        world.say(player, &Uplink::Ready);
    }
    world.run_ms(20);
    let said = world.take(peer);
    assert_eq!(follows(&said), Some(Follows { next: 0, head: 0 }));
    assert_eq!(said.len(), 1, "{said:?}");
    play_to(&mut world, &peers, 60);
    let seen = frames(&world.take(peer));
    assert!(seen.len() > 40 && seen[0].id == 0);
}

#[test]
fn a_match_starts_without_its_spectators_and_does_not_wait_for_them() {
    let mut world = watched(&[1], 5, 0);
    let fan = world.peer(5);
    world.say(fan, &watch(FAN, WatchFrom::Start, ""));
    world.say(fan, &Uplink::JoinRoom);
    world.run_ms(30);
    // Nobody has a seat: the spectator starts no clock.
    world.run_ms(25_000);
    assert_eq!(world.room().phase, Phase::Waiting);
    world.start_all(&[1]);
    assert_eq!(world.room().phase, Phase::Playing);
}

#[test]
fn a_spectator_whose_ready_comes_late_is_told_of_the_start_once() {
    let mut world = watched(&[1], 5, 0);
    let peer = world.peer(5);
    world.say(peer, &watch(FAN, WatchFrom::Start, ""));
    world.say(peer, &Uplink::JoinRoom);
    world.run_ms(30);
    world.take(peer);
    let peers = world.start_all(&[1]);
    play_to(&mut world, &peers, 10);
    assert_eq!(world.take(peer), []);
    world.say(peer, &Uplink::Ready);
    world.run_ms(100);
    let said = world.take(peer);
    assert_eq!(follows(&said).unwrap().next, 0);
    assert_eq!(frames(&said)[0].id, 0);
}

#[test]
fn a_spectator_that_comes_back_goes_on_where_it_was() {
    let (mut world, peers) = match_of(100, 5, 10);
    for from in [WatchFrom::Start, WatchFrom::Newest] {
        let held = |world: &World, next| {
            Uplink::Resume(Held {
                history: 0,
                match_id: world.room().match_id,
                next,
            })
        };
        let ready = held(&world, 70);
        let peer = fan(&mut world, FAN, from, &ready);
        let said = world.take(peer);
        assert_eq!(follows(&said).unwrap().next, 70);
        assert_eq!(frames(&said)[0].id, 70);
        // It cannot hold what was never shown: a frame beyond that is of another history.
        let head = world.room().frame;
        let ready = held(&world, head);
        let peer = fan(&mut world, FAN, from, &ready);
        let Follows { next, head } = follows(&world.take(peer)).unwrap();
        let first = if from == WatchFrom::Start { 0 } else { head };
        assert_eq!(next, first);
        let next = world.room().frame + 10;
        play_to(&mut world, &peers, next);
    }
}

#[test]
fn what_was_held_back_comes_when_the_match_is_over_and_close_behind_it() {
    let (mut world, _) = match_of(200, 5, 54_000);
    let peer = fans(&mut world, WatchFrom::Start);
    world.run_ms(300);
    assert!(frames(&world.take(peer)).is_empty());
    let all = world.room().frame;
    world.server.close_room(world.now, ROOM);
    world.run_ms(200);
    let said = world.take(peer);
    assert_eq!(said.last(), Some(&Said::Close));
    let seen = frames(&said);
    assert_eq!(seen.last().unwrap().id + 1, all);
    assert_eq!(
        with_input(&seen).len(),
        with_input(&frames_of_log(&world)).len()
    );
}

fn frames_of_log(world: &World) -> Vec<Frame> {
    let bytes = world.server.frames(ROOM).unwrap();
    lockstep_server::engine::wire::frame::decode_frames(bytes).unwrap()
}

/// A match that has just ended, of which a spectator a second away has been shown nothing, and
/// how many frames with input it has.
fn ended_far_away(max_rooms: usize) -> (World, usize, usize) {
    let mut world = World::new(Config {
        max_rooms,
        watchers: 5,
        watch_delay: 54_000,
        ..Config::default()
    });
    world.server.create_room(world.now, spec(&[1, 2])).unwrap();
    let peers = world.start_all(&[1, 2]);
    // More than a link takes in the three seconds that a room stays: 64 segments for each round
    // trip of a second.
    while world.room().log_bytes < 400_000 {
        for _ in 0..60 {
            world.press(peers[0], i32::MIN);
        }
        world.run_ms(33);
    }
    let peer = fans(&mut world, WatchFrom::Start);
    world.delay = std::time::Duration::from_millis(500);
    world.run_ms(3000);
    let full = with_input(&frames_of_log(&world)).len();
    world.server.close_room(world.now, ROOM);
    (world, peer, full)
}

#[test]
fn a_room_stays_for_a_spectator_who_is_still_sent_what_was_held_back() {
    let (mut world, peer, full) = ended_far_away(2);
    let linger = u64::try_from(OVER_LINGER.as_millis()).unwrap();
    world.run_ms(linger + 100);
    assert!(world.server.room(ROOM).is_some(), "it stays");
    world.run_ms(30_000);
    let said = world.take(peer);
    assert_eq!(said.last(), Some(&Said::Close));
    assert_eq!(with_input(&frames(&said)).len(), full);
    assert!(world.server.room(ROOM).is_none(), "and goes");
}

#[test]
fn a_room_does_not_stay_for_spectators_where_its_place_is_needed() {
    let (mut world, _, _) = ended_far_away(1);
    world.server.create_room(world.now, spec(&[3])).unwrap();
    let linger = u64::try_from(OVER_LINGER.as_millis()).unwrap();
    world.run_ms(linger + 100);
    assert_eq!(world.server.counters().rooms, 1);
    assert_eq!(world.server.counters().disconnects(Disconnect::RoomGone), 3);
}

#[test]
fn a_room_that_is_over_does_not_stay_for_a_spectator_who_is_gone() {
    let (mut world, _) = match_of(60, 5, 30);
    let peer = fans(&mut world, WatchFrom::Start);
    world.peers[peer].cut_off = true;
    world.run_ms(100);
    world.server.close_room(world.now, ROOM);
    world.run_ms(20_000);
    assert!(world.server.room(ROOM).is_none());
    assert!(std::time::Duration::from_secs(20) < WATCHED_LINGER_MAX);
}

// --- What they are not ------------------------------------------------------------------------

#[test]
fn what_a_spectator_says_as_a_player_is_dropped_and_counted() {
    let (mut world, peers) = match_of(30, 5, 0);
    let peer = fans(&mut world, WatchFrom::Start);
    world.take(peers[1]);
    let before = world.server.counters().inputs;
    for message in [
        Uplink::Input(Command { sid: 9, x: 9, y: 9 }),
        Uplink::Result { winner: 1 },
        Uplink::Progress(Percent::FULL),
    ] {
        world.say(peer, &message);
    }
    world.run_ms(200);
    assert_eq!(world.server.counters().drops(Drop::Watches), 3);
    assert_eq!(world.server.counters().inputs, before);
    assert!(with_input(&world.take_frames(peers[1])).is_empty());
    // Its heartbeats are answered as anybody's.
    world.take(peer);
    world.say(peer, &Uplink::Heartbeat);
    world.run_ms(30);
    assert!(world.take(peer).contains(&Said::Heartbeat));
}

#[test]
fn results_of_all_players_end_a_match_whatever_its_spectators_do() {
    let (mut world, peers) = match_of(30, 5, 0);
    fans(&mut world, WatchFrom::Start);
    for peer in &peers {
        world.say(*peer, &Uplink::Result { winner: 1 });
    }
    world.run_ms(50);
    assert_eq!(world.room().phase, Phase::Over(OverReason::Results));
}

#[test]
fn a_match_without_players_is_abandoned_though_somebody_watches() {
    let (mut world, peers) = match_of(30, 5, 0);
    fans(&mut world, WatchFrom::Start);
    for peer in peers {
        world.peers[peer].cut_off = true;
    }
    // Offline after 5 s, and the grace of 60 s.
    world.run_ms(66_500);
    assert_eq!(world.room().phase, Phase::Over(OverReason::Abandoned));
}

#[test]
fn a_member_may_watch_beside_its_seat_and_keeps_it() {
    let (mut world, peers) = match_of(60, 5, 10);
    let peer = fan(&mut world, 2, WatchFrom::Start, &Uplink::Ready);
    let room = world.room();
    assert_eq!((room.watchers, room.seats[1].online), (1, true));
    world.take(peers[1]);
    world.press(peers[1], 5);
    world.run_ms(100);
    assert_eq!(presses(&world.take_frames(peers[1]))[0].2, 5);
    // Beside it nothing is to be had that the seat does not have: it is seen later.
    let newest = frames(&world.take(peer)).last().unwrap().id;
    assert!(newest + 10 < world.room().frame);
}

#[test]
fn a_player_whose_connection_asks_to_watch_leaves_the_seat_and_may_take_it_again() {
    let (mut world, peers) = match_of(60, 5, 0);
    world.say(peers[1], &watch(2, WatchFrom::Start, ""));
    world.run_ms(30);
    let room = world.room();
    assert_eq!((room.watchers, room.seats[1].online), (1, false));
    world.connect(peers[1], 2);
    world.run_ms(30);
    let room = world.room();
    assert_eq!((room.watchers, room.seats[1].online), (0, true));
    world.server.assert_invariants();
}

#[test]
fn players_get_the_same_bytes_whether_they_are_watched_or_not() {
    let datagrams = |fans: u64| {
        let mut world = watched(&[1, 2], 100, 5);
        let peers = world.start_all(&[1, 2]);
        let mut watching = Vec::new();
        for player in 0..fans {
            let peer = world.peer(9);
            world.say(peer, &watch(FAN + player, WatchFrom::Start, ""));
            world.say(peer, &Uplink::JoinRoom);
            world.say(peer, &Uplink::Ready);
            watching.push(peer);
        }
        for x in 0..90 {
            world.press(peers[0], x);
            world.run_ms(33);
        }
        for fan in watching {
            assert!(frames(&world.take(fan)).len() > 70);
        }
        [0, 1].map(|index| world.peers[peers[index]].datagrams.clone())
    };
    assert_eq!(datagrams(0), datagrams(20));
}

#[test]
fn spectators_come_and_go_and_leave_nothing_behind() {
    let (mut world, _) = match_of(10, 50, 0);
    for player in 0..40 {
        let peer = fan(&mut world, FAN + player, WatchFrom::Newest, &Uplink::Ready);
        world.peers[peer].cut_off = player % 3 > 0;
    }
    assert_eq!(world.room().watchers, 40);
    world.run_ms(16_000);
    world.server.assert_invariants();
    assert_eq!(world.room().watchers, 14);
    assert_eq!(world.server.counters().disconnects(Disconnect::Idle), 26);
    world.server.close_room(world.now, ROOM);
    world.run_ms(5_000);
    world.server.assert_invariants();
    let counters = world.server.counters();
    assert_eq!((counters.rooms, counters.sessions), (0, 0));
}

#[test]
fn a_stop_tells_spectators_as_it_tells_players() {
    let (mut world, _) = match_of(60, 5, 30);
    let peer = fans(&mut world, WatchFrom::Start);
    world.server.stop(world.now);
    world.run_ms(100);
    let said = world.take(peer);
    assert_eq!(said.last(), Some(&Said::Close));
    assert_eq!(frames(&said).last().unwrap().id + 1, world.room().frame);
}
