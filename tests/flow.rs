//! Each rule of the match's flow, as a claim, on the engine under virtual time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use lockstep_server::engine::config::Config;
use lockstep_server::engine::drops::{Disconnect, Drop};
use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::view::{CreateError, OverReason, Phase};
use lockstep_server::engine::wire::frame::Command;
use lockstep_server::engine::wire::message::{ConnectCode, Uplink, Version};
use lockstep_server::engine::wire::segment::{Cmd, Datagram};
use support::*;

// --- Connect and join -------------------------------------------------------------------------

#[test]
fn connect_is_refused_for_the_first_reason_that_applies_and_may_be_tried_again() {
    let mut world = World::with_room(&[1, 2]);
    let peer = world.peer(0);
    let connect = |player, room| Uplink::Connect {
        player: PlayerId(player),
        room: RoomId(room),
        token: "any".into(),
        version: Version::V1,
    };
    for message in [connect(1, 8), connect(3, 7), connect(2, 7)] {
        world.say(peer, &message);
        world.run_ms(20);
    }
    use ConnectCode::{NoPlayer, NoRoom, Ok, RoomState};
    assert_eq!(world.take(peer), [NoRoom, NoPlayer, Ok].map(Said::Connect));
    world.server.close_room(world.now, ROOM);
    let late = world.peer(0);
    // Over comes before the question who asks.
    world.say(late, &connect(3, 7));
    world.run_ms(20);
    assert_eq!(world.take(late), [Said::Connect(RoomState)]);
}

#[test]
fn join_tells_the_seat_the_others_with_their_progress_and_the_seed() {
    let mut world = World::with_room(&[30, 10, 20]);
    let first = world.joined(10);
    world.progress(first, 60);
    world.run_ms(20);
    let second = world.peer(5);
    world.connect(second, 20);
    world.run_ms(20);
    world.say(second, &Uplink::JoinRoom);
    world.run_ms(20);
    let joined = Said::JoinRoom {
        seat: 3,
        others: vec![(30, 0), (10, 60)],
        seed: 42,
    };
    assert_eq!(world.take(second), [Said::Connect(ConnectCode::Ok), joined]);
}

#[test]
fn a_seat_is_taken_at_the_proof_of_the_address_and_not_at_connect() {
    let mut world = World::with_room(&[1]);
    let peer = world.peer(9);
    world.connect(peer, 1);
    // The Connect arrives, the answer leaves, and nothing comes back.
    world.run_ms(6);
    world.peers[peer].cut_off = true;
    world.run_ms(3000);
    assert!(!world.room().seats[0].online);
    assert_eq!(world.server.counters().sessions, 1);
    world.peers[peer].cut_off = false;
    world.run_ms(5000);
    assert!(world.room().seats[0].online);
}

#[test]
fn progress_goes_to_the_others_that_have_joined_and_only_before_the_start() {
    let mut world = World::with_room(&[1, 2, 3]);
    let one = world.joined(1);
    let two = world.joined(2);
    let three = world.peer(1);
    world.connect(three, 3);
    world.run_ms(20);
    world.progress(one, 50);
    world.run_ms(20);
    assert_eq!(world.take(two), [Said::Progress(1, 50)]);
    assert_eq!(world.take(one), []);
    assert_eq!(
        world.take(three),
        [Said::Connect(ConnectCode::Ok)],
        "it has not joined"
    );
    for peer in [one, two, three] {
        world.say(peer, &Uplink::Ready);
    }
    world.run_ms(20);
    world.take(two);
    world.progress(one, 70);
    world.run_ms(15);
    assert_eq!(world.take(two), []);
    assert_eq!(world.server.counters().drops(Drop::OutOfPhase), 1);
}

// --- Start ------------------------------------------------------------------------------------

#[test]
fn the_match_starts_when_all_are_ready() {
    let mut world = World::with_room(&[1, 2]);
    let one = world.joined(1);
    let two = world.joined(2);
    world.say(one, &Uplink::Ready);
    world.run_ms(1000);
    assert_eq!(world.take(one), [Said::Ready]);
    assert_eq!(world.room().phase, Phase::Waiting);
    world.say(two, &Uplink::Ready);
    world.run_ms(12);
    let stamp = WALL + 1;
    assert_eq!(world.take(two), [Said::Ready, Said::Start(stamp)]);
    assert_eq!(world.take(one), [Said::Start(stamp)]);
    assert_eq!(world.room().started_unix, Some(stamp));
}

#[test]
fn after_the_ready_timeout_it_starts_without_the_others() {
    let mut world = World::with_room(&[1, 2, 3]);
    // Time before anybody joins does not count.
    world.run_ms(60_000);
    let one = world.joined(1);
    let two = world.peer(2);
    world.connect(two, 2);
    world.run_ms(19_900);
    assert_eq!(world.room().phase, Phase::Waiting);
    world.take(one);
    world.run_ms(100);
    assert_eq!(world.room().phase, Phase::Playing);
    // It has been silent and is asked for a sign of life first.
    world.run_ms(30);
    assert!(matches!(world.take(one)[..], [Said::Start(_), ..]));
    assert_eq!(
        world.take(two),
        [Said::Connect(ConnectCode::Ok)],
        "it has not joined"
    );
    let room = world.room();
    assert!(
        room.seats
            .iter()
            .all(|seat| seat.ready && seat.progress.on_wire() == 100)
    );
}

#[test]
fn with_nobody_online_the_ready_timeout_waits_for_somebody() {
    let mut world = World::with_room(&[1, 2]);
    let one = world.joined(1);
    world.peers[one].cut_off = true;
    world.run_ms(40_000);
    assert_eq!(world.room().phase, Phase::Waiting);
    let two = world.peer(2);
    world.connect(two, 2);
    world.run_ms(20);
    assert_eq!(world.room().phase, Phase::Playing);
}

#[test]
fn a_room_that_nobody_joins_ends_with_its_time_limit() {
    let mut world = World::with_room(&[1]);
    world.run_ms(299_999);
    assert_eq!(world.room().phase, Phase::Waiting);
    world.run_ms(1);
    assert_eq!(world.room().phase, Phase::Over(OverReason::RoomTimeout));
    world.run_ms(3000);
    assert!(world.server.room(ROOM).is_none());
}

#[test]
fn a_silent_client_that_waits_ready_is_kept_and_gets_its_start() {
    let mut world = World::with_room(&[1, 2]);
    let one = world.joined(1);
    world.say(one, &Uplink::Ready);
    // No heartbeat, no word, for longer than the idle time-out; the other one is loading.
    let two = world.peer(3);
    world.connect(two, 2);
    world.run_ms(18_000);
    assert!(world.room().seats[0].ready && world.room().seats[0].online);
    world.say(two, &Uplink::Ready);
    world.run_ms(150);
    let said = world.take(one);
    assert_eq!(said[0], Said::Ready);
    assert!(matches!(said[1], Said::Start(_)));
    assert!(!frames_of(&said[2..]).is_empty());
}

// --- Frames -----------------------------------------------------------------------------------

#[test]
fn frames_are_sealed_at_their_deadline_to_the_microsecond() {
    let (mut world, _) = World::started(&[1]);
    let counted = world.server.counters().frames;
    let start = world.now;
    world.run_ms(10_000);
    let counters = world.server.counters();
    assert_eq!(counters.frames - counted, 300, "from {start}");
    assert_eq!(counters.frame_lateness_us.max(), 0);
}

#[test]
fn an_input_is_in_the_frame_that_is_open_when_it_arrives_and_leaves_with_it() {
    let (mut world, peers) = World::started(&[1, 2]);
    world.run_ms(200);
    for peer in &peers {
        world.take(*peer);
    }
    let open = world.room().frame;
    world.press(peers[0], 5);
    world.run_ms(45);
    for peer in &peers {
        let frames = world.take_frames(*peer);
        let pressed = presses(&frames);
        assert_eq!(pressed.len(), 1);
        let (frame, player, x) = pressed[0];
        assert_eq!((player, x), (1, 5));
        assert!(frame == open || frame == open + 1, "{frame} and {open}");
    }
}

#[test]
fn without_input_every_third_frame_is_sent_and_the_others_are_left_out() {
    let (mut world, peers) = World::started(&[1]);
    world.run_ms(1000);
    let frames = world.take_frames(peers[0]);
    let ids: Vec<u32> = frames.iter().map(|frame| frame.id).collect();
    assert_eq!(
        ids[..5],
        [2, 5, 8, 11, 14],
        "ids that are skipped were empty"
    );
    assert!(frames.iter().all(|frame| frame.inputs.is_empty()));
}

#[test]
fn inputs_of_one_player_in_one_frame_are_all_kept_in_order() {
    let (mut world, peers) = World::started(&[1, 2]);
    for x in [3, 1, 2, 2] {
        world.press(peers[0], x);
    }
    world.run_ms(200);
    for peer in peers {
        let pressed = presses(&world.take_frames(peer));
        assert_eq!(
            pressed.iter().map(|p| p.2).collect::<Vec<_>>(),
            [3, 1, 2, 2]
        );
        assert!(pressed.iter().all(|p| p.0 == pressed[0].0), "in one frame");
    }
}

#[test]
fn inputs_before_the_start_are_dropped_and_counted() {
    let mut world = World::with_room(&[1, 2]);
    let one = world.joined(1);
    world.press(one, 1);
    world.run_ms(50);
    assert_eq!(world.server.counters().drops(Drop::OutOfPhase), 1);
    assert_eq!(world.server.counters().inputs, 0);
}

#[test]
fn a_late_loop_catches_up_frame_by_frame() {
    let (mut world, peers) = World::started(&[1]);
    world.run_ms(100);
    world.take(peers[0]);
    let before = world.room().frame;
    world.now = world.now + Duration::from_millis(500);
    world.step();
    let sealed = world.room().frame - before;
    assert!((15..=16).contains(&sealed), "{sealed}");
    world.run_ms(20);
    assert_eq!(world.server.counters().epochs_renewed, 0);
}

#[test]
fn more_than_a_second_late_the_clock_begins_anew() {
    let (mut world, _) = World::started(&[1]);
    world.run_ms(100);
    let before = world.room().frame;
    world.now = world.now + Duration::from_millis(1500);
    world.step();
    assert_eq!(world.room().frame, before, "no burst of frames");
    assert_eq!(world.server.counters().epochs_renewed, 1);
    // The clock waits for its beat, at most 2 ms here.
    world.run_ms(1003);
    assert_eq!(world.room().frame, before + 30);
}

#[test]
fn a_match_is_over_after_its_last_frame_and_everybody_gets_it_before_close() {
    let mut world = World::new(Config::default());
    let mut short = spec(&[1, 2]);
    short.max_frames = Some(50);
    world.server.create_room(world.now, short).unwrap();
    let peers = world.start_all(&[1, 2]);
    world.run_ms(2000);
    assert_eq!(world.room().phase, Phase::Over(OverReason::MaxFrames));
    for peer in peers {
        let said = world.take(peer);
        let (close, frames) = said.split_last().unwrap();
        assert_eq!(*close, Said::Close);
        assert_eq!(frames_of(frames).last().unwrap().id, 49);
    }
}

// --- Coming back ------------------------------------------------------------------------------

/// Plays for a while with inputs of both, then checks what a returning client gets.
fn come_back(world: &mut World, peers: &[usize], returning: usize) {
    world.take(returning);
    world.say(returning, &Uplink::JoinRoom);
    world.say(returning, &Uplink::Ready);
    world.run_ms(300);
    let said = world.take(returning);
    assert!(matches!(said[0], Said::JoinRoom { .. }), "{said:?}");
    assert_eq!(said[1], Said::Ready);
    assert_eq!(said[2], Said::Start(world.room().started_unix.unwrap()));
    let frames = frames_of(&said[3..]);
    assert!(frames.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert!(frames[0].id < 5, "from the beginning");
    // The other one has seen the same.
    let theirs = world.take_frames(peers[1]);
    let known: Vec<_> = presses(&theirs);
    assert!(presses(&frames).ends_with(&known) && !known.is_empty());
}

fn played(world: &mut World, peers: &[usize]) {
    for x in 0..60 {
        for peer in peers {
            world.press(*peer, x);
        }
        world.run_ms(40);
    }
    for peer in peers {
        world.take(*peer);
    }
    world.press(peers[1], 1000);
    world.run_ms(100);
}

#[test]
fn a_second_connection_takes_the_seat_over_and_the_first_hears_nothing() {
    let (mut world, peers) = World::started(&[1, 2]);
    played(&mut world, &peers);
    let second = world.peer(121_106);
    world.connect(second, 1);
    world.run_ms(20);
    assert_eq!(world.take(second), [Said::Connect(ConnectCode::Ok)]);
    world.take(peers[0]);
    come_back(&mut world, &peers, second);
    world.run_ms(2000);
    assert_eq!(
        world.take(peers[0]),
        [],
        "no Close: it would stop the new one"
    );
    assert_eq!(
        world.server.counters().disconnects(Disconnect::TakenOver),
        1
    );
}

#[test]
fn ready_again_on_the_same_connection_streams_from_0_at_most_once_a_second() {
    let (mut world, peers) = World::started(&[1, 2]);
    played(&mut world, &peers);
    come_back(&mut world, &peers, peers[0]);
    world.say(peers[0], &Uplink::Ready);
    world.run_ms(100);
    assert_eq!(world.server.counters().drops(Drop::ReadyTooSoon), 1);
    world.run_ms(1000);
    world.take(peers[0]);
    world.say(peers[0], &Uplink::Ready);
    world.run_ms(300);
    let said = world.take(peers[0]);
    assert!(said.contains(&Said::Ready) && said.iter().any(|s| matches!(s, Said::Start(_))));
}

#[test]
fn a_client_restarted_on_its_address_is_let_in_with_a_new_conv_or_the_same() {
    for conv in [121_106, 5, 0] {
        let (mut world, peers) = World::started(&[1, 2]);
        played(&mut world, &peers);
        // Data for the old client is on its way when the new one appears.
        world.press(peers[1], 2000);
        world.restart(peers[0], conv);
        world.connect(peers[0], 1);
        world.run_ms(400);
        let mut said = world.take(peers[0]);
        // What the old client was still to get would have taken numbers of the new stream:
        // under the same conv they are filled with heartbeats first.
        let fillers = said.iter().filter(|said| **said == Said::Heartbeat).count();
        assert_eq!(fillers > 50, conv == 121_106, "{fillers} with conv {conv}");
        said.retain(|said| *said != Said::Heartbeat);
        assert_eq!(said, [Said::Connect(ConnectCode::Ok)], "with conv {conv}");
        come_back(&mut world, &peers, peers[0]);
        let restarted = world.server.counters().disconnects(Disconnect::Restarted);
        assert_eq!(restarted, 1);
        assert_eq!(world.server.counters().sessions, 2);
    }
}

#[test]
fn a_quick_restart_loses_no_frame_to_what_was_still_on_its_way() {
    // From a gap shorter than the way to one after which the peer is known to be quiet.
    for gap_ms in (0..600).step_by(25) {
        let (mut world, peers) = World::started(&[1, 2]);
        world.delay = Duration::from_millis(40);
        played(&mut world, &peers);
        world.peers[peers[0]].cut_off = true;
        world.run_ms(gap_ms);
        // What is on its way reaches the new client.
        world.restart(peers[0], 121_106);
        for step in 0..8 {
            world.press(peers[1], 3000 + step);
            world.run_ms(10);
        }
        world.connect(peers[0], 1);
        world.run_ms(600);
        let said = world.take(peers[0]);
        assert!(
            said.contains(&Said::Connect(ConnectCode::Ok)),
            "{gap_ms} ms: {said:?}"
        );
        world.say(peers[0], &Uplink::JoinRoom);
        world.say(peers[0], &Uplink::Ready);
        // For long enough to pass the numbers that the old session had reached.
        for x in 0..100 {
            world.press(peers[1], 4000 + x);
            world.run_ms(34);
        }
        world.run_ms(400);
        let said = world.take(peers[0]);
        let start = said.iter().position(|said| matches!(said, Said::Start(_)));
        let start = start.unwrap_or_else(|| panic!("{gap_ms} ms: no Start"));
        let mine = presses(&frames_of(&said[start + 1..]));
        assert_eq!(mine, room_presses(&world), "after a gap of {gap_ms} ms");
    }
}

/// All inputs of the room, from its own log.
fn room_presses(world: &World) -> Vec<(u32, u64, i32)> {
    let log = world.server.frames(ROOM).unwrap();
    presses(&lockstep_server::engine::wire::frame::decode_frames(log).unwrap())
}

#[test]
fn a_client_restarted_in_its_first_second_is_let_in_too() {
    for age_ms in [30, 200, 600, 950, 1100] {
        let mut world = World::with_room(&[1, 2]);
        let other = world.joined(2);
        let peer = world.joined(1);
        world.run_ms(age_ms);
        world.restart(peer, 121_106);
        world.connect(peer, 1);
        // The old session has something to say meanwhile.
        for percent in 0..100 {
            world.progress(other, percent);
            world.run_ms(40);
        }
        let said = world.take(peer);
        assert!(
            said.contains(&Said::Connect(ConnectCode::Ok)),
            "{age_ms} ms: {said:?}"
        );
        world.say(peer, &Uplink::JoinRoom);
        world.run_ms(500);
        let said = world.take(peer);
        assert!(
            matches!(said[..], [Said::JoinRoom { .. }]),
            "{age_ms} ms: {said:?}"
        );
    }
}

#[test]
fn a_restarted_client_whose_proof_is_held_up_is_not_forgotten() {
    for conv in [121_106, 5] {
        let (mut world, peers) = World::started(&[1, 2]);
        played(&mut world, &peers);
        world.restart(peers[0], conv);
        world.connect(peers[0], 1);
        world.run_ms(7);
        // It gets our answer, but what acknowledges that is lost. It cannot begin anew.
        world.peers[peers[0]].mute = true;
        world.run_ms(3_000);
        let said = world.take(peers[0]);
        assert_eq!(said, [Said::Connect(ConnectCode::Ok)], "conv {conv}");
        world.peers[peers[0]].mute = false;
        world.run_ms(3_000);
        come_back(&mut world, &peers, peers[0]);
        assert_eq!(world.server.counters().sessions, 2);
    }
}

#[test]
fn a_client_that_died_before_its_proof_does_not_slow_its_successor() {
    let mut world = World::with_room(&[1]);
    let peer = world.peer(3);
    world.connect(peer, 1);
    world.run_ms(7);
    world.restart(peer, 3);
    world.peers[peer].cut_off = true;
    // Retransmissions for the dead client are many seconds apart by now.
    world.run_ms(12_000);
    world.peers[peer].cut_off = false;
    world.connect(peer, 1);
    world.run_ms(20);
    assert_eq!(world.take(peer), [Said::Connect(ConnectCode::Ok)]);
    world.run_ms(10_000);
    assert!(world.room().seats[0].online);
}

#[test]
fn a_client_restarted_twice_is_let_in() {
    let (mut world, peers) = World::started(&[1, 2]);
    played(&mut world, &peers);
    world.restart(peers[0], 5);
    world.connect(peers[0], 1);
    world.run_ms(6);
    world.restart(peers[0], 6);
    world.connect(peers[0], 1);
    world.run_ms(3_000);
    let said = world.take(peers[0]);
    assert_eq!(said, [Said::Connect(ConnectCode::Ok)]);
    come_back(&mut world, &peers, peers[0]);
    assert_eq!(world.server.counters().sessions, 2);
}

#[test]
fn a_late_copy_of_the_first_datagram_does_not_disturb_the_match() {
    let (mut world, peers) = World::started(&[1, 2]);
    // A Connect as the first peer sent it, from its address, long after.
    let ghost = {
        let mut other = World::with_room(&[1, 2]);
        let peer = other.peer(121_106);
        other.connect(peer, 1);
        first_datagram(&mut other, peer)
    };
    played(&mut world, &peers);
    let addr = world.peers[peers[0]].addr;
    for _ in 0..10 {
        world.post(addr, None, ghost.clone());
        world.press(peers[0], 7);
        world.run_ms(200);
    }
    let frames = world.take_frames(peers[0]);
    assert_eq!(presses(&frames).iter().filter(|p| p.2 == 7).count(), 10);
    let lost = world
        .server
        .counters()
        .disconnects(Disconnect::CandidateLost);
    assert!(lost > 0);
    assert_eq!(
        world.server.counters().disconnects(Disconnect::Restarted),
        0
    );
}

/// The datagram of a peer that has just said something.
fn first_datagram(world: &mut World, peer: usize) -> Vec<u8> {
    use lockstep_server::engine::id::Conv;
    use lockstep_server::engine::link::Link;
    use lockstep_server::engine::transmit::{Sink, Transmits};
    let addr = world.peers[peer].addr;
    let sink = Sink::new(addr);
    let mut link = Link::trusting(Conv(121_106), 77, sink.clone());
    let mut packet = Vec::new();
    Uplink::Connect {
        player: PlayerId(1),
        room: ROOM,
        token: String::new(),
        version: Version::V1,
    }
    .encode(&mut packet);
    link.send(&packet);
    link.flush(world.now);
    let mut batch = Transmits::default();
    sink.swap(&mut batch);
    let (_, datagram) = batch.iter().next().unwrap();
    datagram.to_vec()
}

#[test]
fn a_quiet_peer_gets_probes_and_no_data_until_it_speaks() {
    let (mut world, peers) = World::started(&[1, 2]);
    world.run_ms(500);
    world.peers[peers[0]].mute = true;
    world.run_ms(550);
    world.peers[peers[0]].datagrams.clear();
    world.run_ms(1000);
    let heard = std::mem::take(&mut world.peers[peers[0]].datagrams);
    assert!(
        (8..=11).contains(&heard.len()),
        "{} probes in a second",
        heard.len()
    );
    for mut datagram in heard {
        let datagram = Datagram::parse(&mut datagram).unwrap();
        let probe = datagram.first();
        assert_eq!((probe.cmd, probe.una), (Cmd::Wask, 0));
        assert_eq!(datagram.segments().count(), 1);
    }
    world.peers[peers[0]].mute = false;
    world.run_ms(300);
    let (mine, theirs) = (world.take_frames(peers[0]), world.take_frames(peers[1]));
    assert_eq!(mine.last(), theirs.last(), "it has caught up");
}

#[test]
fn outages_up_to_8_seconds_heal_by_themselves() {
    let (mut world, peers) = World::started(&[1, 2]);
    world.run_ms(500);
    for outage_ms in [100, 600, 3000, 8000] {
        world.peers[peers[0]].cut_off = true;
        world.run_ms(outage_ms);
        world.peers[peers[0]].cut_off = false;
        world.press(peers[1], 9);
        world.run_ms(1000);
        let mine = world.take_frames(peers[0]);
        let theirs = world.take_frames(peers[1]);
        assert_eq!(
            mine.last().map(|frame| frame.id),
            theirs.last().map(|frame| frame.id)
        );
        assert_eq!(presses(&mine), presses(&theirs));
    }
}

#[test]
fn a_client_that_only_waits_is_asked_often_before_it_is_given_up() {
    let mut world = World::with_room(&[1, 2]);
    let peer = world.joined(1);
    world.peers[peer].cut_off = true;
    let before = world.server.counters().probes;
    world.run_ms(14_000);
    assert_eq!(world.server.counters().sessions, 1);
    let probes = world.server.counters().probes - before;
    assert!((20..40).contains(&probes), "{probes}");
    // One answer is enough.
    world.peers[peer].cut_off = false;
    world.run_ms(5_000);
    assert_eq!(world.server.counters().sessions, 1);
}

#[test]
fn a_seat_is_offline_after_5_seconds_of_silence_and_online_with_the_next_word() {
    let (mut world, peers) = World::started(&[1, 2]);
    world.run_ms(100);
    world.peers[peers[0]].cut_off = true;
    world.run_ms(4800);
    assert!(world.room().seats[0].online);
    world.run_ms(300);
    assert!(!world.room().seats[0].online && world.room().seats[1].online);
    world.peers[peers[0]].cut_off = false;
    world.run_ms(700);
    assert!(world.room().seats[0].online);
}

#[test]
fn a_match_that_all_have_left_runs_on_for_the_grace() {
    let (mut world, peers) = World::started(&[1, 2]);
    world.run_ms(1000);
    let gone = world.now;
    for peer in &peers {
        world.peers[*peer].cut_off = true;
    }
    world.run_ms(50_000);
    let room = world.room();
    assert_eq!(room.phase, Phase::Playing);
    assert!(room.frame > 1500, "its clock runs on");
    assert_eq!(world.server.counters().sessions, 0, "15 s of silence");
    // One comes back in time: the match goes on.
    let back = world.peer(1);
    world.connect(back, 1);
    world.run_ms(40_000);
    assert_eq!(world.room().phase, Phase::Playing);
    world.peers[back].cut_off = true;
    world.run_ms(66_000);
    assert_eq!(
        world.room().phase,
        Phase::Over(OverReason::Abandoned),
        "since {gone}"
    );
}

// --- The end ----------------------------------------------------------------------------------

#[test]
fn results_are_acknowledged_and_the_room_is_over_when_all_that_are_online_have_sent_one() {
    let (mut world, peers) = World::started(&[1, 2, 3]);
    world.run_ms(200);
    // The third has left.
    world.peers[peers[2]].cut_off = true;
    world.run_ms(5500);
    for peer in &peers {
        world.take(*peer);
    }
    world.say(peers[0], &Uplink::Result { winner: 2 });
    world.run_ms(15);
    assert!(world.take(peers[0]).contains(&Said::Result));
    assert_eq!(world.room().phase, Phase::Playing);
    world.say(peers[1], &Uplink::Result { winner: 2 });
    world.run_ms(15);
    assert_eq!(world.room().phase, Phase::Over(OverReason::Results));
    for peer in [0, 1] {
        assert!(world.take(peers[peer]).contains(&Said::Close));
    }
    let match_id = world.room().match_id;
    world.run_ms(3000);
    assert!(world.server.room(ROOM).is_none());
    let finished = world.server.match_(match_id).expect("it stays readable");
    assert_eq!(
        finished
            .seats
            .iter()
            .map(|seat| seat.result)
            .collect::<Vec<_>>(),
        [Some(2), Some(2), None]
    );
}

#[test]
fn the_last_seat_without_a_result_going_offline_ends_the_match() {
    let (mut world, peers) = World::started(&[1, 2]);
    world.say(peers[0], &Uplink::Result { winner: 1 });
    world.peers[peers[1]].cut_off = true;
    world.run_ms(5100);
    assert_eq!(world.room().phase, Phase::Over(OverReason::Results));
}

#[test]
fn a_takeover_between_two_results_does_not_end_the_match() {
    let (mut world, peers) = World::started(&[1, 2]);
    world.say(peers[0], &Uplink::Result { winner: 1 });
    world.run_ms(100);
    let second = world.peer(4);
    world.connect(second, 2);
    world.run_ms(100);
    assert_eq!(world.room().phase, Phase::Playing);
}

#[test]
fn a_room_number_comes_again_when_its_match_is_over() {
    let mut world = World::with_room(&[1, 2]);
    let first = world.room().match_id;
    assert_eq!(
        world.server.create_room(world.now, spec(&[1])),
        Err(CreateError::Exists {
            room: ROOM,
            match_id: first
        })
    );
    world.server.close_room(world.now, ROOM);
    let again = world.server.create_room(world.now, spec(&[3])).unwrap();
    assert_ne!(again.match_id, first);
    // Both exist for a while, and the number means the new one.
    assert_eq!(world.server.counters().rooms, 2);
    assert_eq!(world.server.rooms(0, 10).total, 1);
    world.run_ms(3001);
    assert_eq!(world.room().match_id, again.match_id);
    assert_eq!(world.server.counters().rooms, 1);
    world.joined(3);
}

#[test]
fn everything_is_gone_when_all_is_over() {
    let (mut world, peers) = World::started(&[1, 2]);
    played(&mut world, &peers);
    world.server.close_room(world.now, ROOM);
    world.run_ms(400_000);
    let counters = world.server.counters();
    assert_eq!(
        (counters.sessions, counters.rooms, counters.timers),
        (0, 0, 0)
    );
    assert_eq!(world.server.poll_timeout(), None);
}

// --- Without a seat ---------------------------------------------------------------------------

#[test]
fn echoes_and_heartbeats_need_no_seat_and_echoes_end_with_one() {
    let mut world = World::with_room(&[1, 2]);
    let peer = world.peer(0);
    world.say(peer, &Uplink::Echo(b"hello"));
    world.say(peer, &Uplink::Heartbeat);
    world.run_ms(50);
    assert_eq!(
        world.take(peer),
        [Said::Echo(b"hello".to_vec()), Said::Heartbeat]
    );
    world.connect(peer, 1);
    world.run_ms(50);
    world.take(peer);
    world.say(peer, &Uplink::Echo(b"again"));
    world.say(peer, &Uplink::Heartbeat);
    world.run_ms(50);
    assert_eq!(world.take(peer), [Said::Heartbeat]);
    assert_eq!(world.server.counters().drops(Drop::EchoWithSeat), 1);
}

#[test]
fn messages_that_need_a_seat_are_dropped_without_one() {
    let mut world = World::with_room(&[1]);
    let peer = world.peer(0);
    world.say(peer, &Uplink::Heartbeat);
    world.run_ms(50);
    world.take(peer);
    let command = Command { sid: 1, x: 1, y: 1 };
    for message in [Uplink::JoinRoom, Uplink::Ready, Uplink::Input(command)] {
        world.say(peer, &message);
    }
    world.run_ms(50);
    assert_eq!(world.take(peer), []);
    assert_eq!(world.server.counters().drops(Drop::NoSeat), 3);
}

#[test]
fn a_stranger_costs_nothing_unless_it_begins_a_conversation() {
    let mut world = World::with_room(&[1]);
    for first in [
        &[0, 0, 10][..],    // JoinRoom
        &[0, 1, 2, 0],      // a heartbeat with a body
        &[4, 1, 1],         // a Connect over 1024 bytes
        &[0, 0, 60],        // an input
        &[0xff, 0xff, 255], // an echo over 1024 bytes
        &[],
    ] {
        let peer = world.peer(1);
        world.say_bytes(peer, first);
        world.run_ms(10);
        world.peers[peer].cut_off = true;
    }
    assert_eq!(world.server.counters().sessions, 0);
    assert_eq!(world.server.counters().datagrams_out, 0);
    assert!(world.server.counters().drops(Drop::Stranger) >= 6);
}

#[test]
fn an_address_that_proves_nothing_gets_at_most_three_times_what_came_from_it() {
    let mut world = World::with_room(&[1]);
    for message in [
        Uplink::Echo(&[7; 1000]),
        Uplink::Heartbeat,
        Uplink::Connect {
            player: PlayerId(1),
            room: ROOM,
            token: String::new(),
            version: Version::V1,
        },
    ] {
        let peer = world.peer(1);
        world.say(peer, &message);
        world.run_ms(6);
        // Whoever is really there never answers.
        world.peers[peer].cut_off = true;
        world.run_ms(20_000);
    }
    let counters = world.server.counters();
    assert_eq!(counters.sessions, 0);
    assert!(counters.bytes_out > 0 && counters.bytes_out <= 3 * counters.bytes_in);
}

#[test]
fn a_packet_over_1024_bytes_ends_its_session_and_no_other() {
    let (mut world, peers) = World::started(&[1, 2]);
    world.say_bytes(peers[0], &[0x04, 0x01, 60]);
    world.run_ms(20);
    let counters = world.server.counters();
    assert_eq!(counters.disconnects(Disconnect::PacketTooLarge), 1);
    assert_eq!(counters.sessions, 1);
    assert!(world.room().seats[1].online);
}

#[test]
fn a_stopping_server_closes_everybody_and_takes_nothing_new() {
    let (mut world, peers) = World::started(&[1, 2]);
    let idle = world.peer(3);
    world.say(idle, &Uplink::Heartbeat);
    world.run_ms(50);
    world.server.stop(world.now);
    let mut other = spec(&[5]);
    other.room = RoomId(8);
    assert_eq!(
        world.server.create_room(world.now, other),
        Err(CreateError::Stopping)
    );
    world.run_ms(50);
    for peer in peers.into_iter().chain([idle]) {
        assert_eq!(world.take(peer).last(), Some(&Said::Close));
    }
    assert!(!world.server.has_outstanding());
}

#[test]
fn who_ends_the_match_by_leaving_for_another_seat_is_told_of_the_end() {
    let (mut world, peers) = World::started(&[1, 2]);
    world.say(peers[1], &Uplink::Result { winner: 1 });
    world.run_ms(100);
    for peer in &peers {
        world.take(*peer);
    }
    // The only one online who has no result yet leaves.
    world.connect(peers[0], 2);
    world.run_ms(500);
    assert_eq!(world.room().phase, Phase::Over(OverReason::Results));
    for peer in peers {
        let said = world.take(peer);
        assert_eq!(said.last(), Some(&Said::Close), "{said:?}");
    }
}
