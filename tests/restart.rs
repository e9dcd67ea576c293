//! What is recorded of rooms, and how their matches go on after the server was killed, as claims.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use lockstep_server::engine::id::{FrameId, PlayerId, RoomId};
use lockstep_server::engine::view::{OverReason, Phase};
use lockstep_server::engine::wire::frame::{Command, Frame};
use lockstep_server::engine::wire::message::{Follows, Held, Uplink, Version, Welcome};
use lockstep_server::journal::scan::{Found, Scan};
use support::*;

/// A recorded match of two players, who have pressed something in every second frame until
/// `frames` are sealed.
fn recorded(frames: FrameId) -> (World, Vec<usize>) {
    let mut world = World::recording(&[1, 2]);
    let peers = world.start_all(&[1, 2]);
    let mut x = 0;
    while world.room().frame < frames {
        world.press(peers[x % 2], i32::try_from(x).unwrap());
        world.run_ms(66);
        x += 1;
    }
    (world, peers)
}

/// A player comes back on a new address in v2, with what he holds; what he was told.
fn come_back(world: &mut World, player: u64, held: Option<Held>) -> (usize, Vec<Said>) {
    let peer = world.peer(77);
    let connect = Uplink::Connect {
        player: PlayerId(player),
        room: ROOM,
        token: String::new(),
        version: Version::V2,
    };
    let ready = held.map_or(Uplink::Ready, Uplink::Resume);
    for message in [&connect, &Uplink::JoinRoom, &ready] {
        world.say(peer, message);
    }
    world.run_ms(30);
    let said = world.take(peer);
    (peer, said)
}

fn welcome(said: &[Said]) -> Welcome {
    let welcome = said.iter().find_map(|said| match said {
        Said::Welcome(welcome) => Some(*welcome),
        _ => None,
    });
    welcome.expect("it was let in, in v2")
}

fn start(said: &[Said]) -> (i64, Follows) {
    let start = said.iter().find_map(|said| match said {
        Said::StartFrom(unix, follows) => Some((*unix, *follows)),
        _ => None,
    });
    start.expect("it was told of the start, in v2")
}

fn frames(said: &[Said]) -> Vec<Frame> {
    let frames = said.iter().filter_map(|said| match said {
        Said::Frames(frames) => Some(frames.clone()),
        _ => None,
    });
    frames.flatten().collect()
}

fn held(world: &World, history: u32, next: FrameId) -> Option<Held> {
    Some(Held {
        match_id: world.room().match_id,
        history,
        next,
    })
}

#[test]
fn a_killed_server_goes_on_with_the_same_match() {
    let (mut world, _) = recorded(50);
    let before = world.room();
    let log = world.server.frames(ROOM).unwrap().to_vec();
    world.kill();
    let after = world.room();
    assert_eq!(after.match_id, before.match_id);
    assert_eq!(after.phase, Phase::Playing);
    assert_eq!((after.seed, after.hz), (before.seed, before.hz));
    assert_eq!(after.created_unix, before.created_unix);
    assert_eq!(after.started_unix, before.started_unix);
    assert_eq!(world.server.frames(ROOM).unwrap(), log);
    // Frames that nobody was told of are sealed anew.
    assert!(before.frame - after.frame < 3 && after.frame <= before.frame);

    // Its clock waits for the first Ready.
    world.run_ms(5_000);
    assert_eq!(world.room().frame, after.frame);
    let (peer, said) = come_back(&mut world, 1, None);
    assert_eq!(start(&said).0, before.started_unix.unwrap());
    world.run_ms(1_000);
    assert!(world.room().frame - after.frame >= 29);
    // The ids go on where they ended, and what was is as it was.
    let mut got = frames(&said);
    got.extend(frames(&world.take(peer)));
    assert!(got.windows(2).all(|pair| pair[0].id < pair[1].id));
    let mut bytes = Vec::new();
    for frame in got.iter().filter(|frame| !frame.inputs.is_empty()) {
        encode_into(&mut bytes, frame);
    }
    assert_eq!(bytes, log);
}

#[test]
fn who_has_the_frames_gets_only_later_ones_after_a_kill() {
    let (mut world, _) = recorded(50);
    world.kill();
    let head = world.room().frame;
    let held = held(&world, 0, head);
    let (_, said) = come_back(&mut world, 1, held);
    assert_eq!(start(&said).1, Follows { next: head, head });
    assert!(frames(&said).iter().all(|frame| frame.id >= head));
    assert_ne!(
        welcome(&said).history,
        0,
        "it is told that there was a restart"
    );
}

#[test]
fn who_has_frames_that_were_lost_gets_all_of_them() {
    let (mut world, _) = recorded(50);
    // The power goes: the last records were not on the disk.
    let paper = world.paper.as_mut().unwrap();
    paper.bytes.truncate(paper.bytes.len() / 2);
    world.kill();
    let head = world.room().frame;
    assert!(head < 40);
    // The other one is back first, and the match goes on, beyond where it was.
    let (other, _) = come_back(&mut world, 2, None);
    while world.room().frame < 60 {
        world.press(other, 1);
        world.run_ms(33);
    }
    let stale = held(&world, 0, 50);
    let (_, said) = come_back(&mut world, 1, stale);
    assert_eq!(start(&said).1.next, 0, "it holds frames that are no more");
    // What it held before the loss is good.
    world.run_ms(1_000);
    let good = held(&world, 0, head);
    let (peer, said) = come_back(&mut world, 1, good);
    assert_eq!(start(&said).1.next, head);
    // And so is what it was told since.
    let history = welcome(&said).history;
    world.run_ms(1_000);
    world.take(peer);
    let new = held(&world, history, 61);
    let (_, said) = come_back(&mut world, 1, new);
    assert_eq!(start(&said).1.next, 61);
    // More restarts, at which nothing is lost, change nothing of that.
    for _ in 0..3 {
        world.kill();
        for (of, next, expected) in [
            (0, head, head),
            (0, head + 1, 0),
            (0, 50, 0),
            (history, 61, 61),
            (history + 2, 10, 0),
        ] {
            let claim = held(&world, of, next);
            let (_, said) = come_back(&mut world, 1, claim);
            assert_eq!(start(&said).1.next, expected, "{next} of {of}");
            world.run_ms(1_000);
        }
    }
}

#[test]
fn a_match_can_be_interrupted_again_and_again() {
    let (mut world, _) = recorded(20);
    let id = world.room().match_id;
    for _ in 0..5 {
        world.kill();
        let head = world.room().frame;
        let (peer, _) = come_back(&mut world, 1, None);
        world.press(peer, 5);
        world.run_ms(500);
        assert!(world.room().frame > head + 10);
    }
    let log = world.server.frames(ROOM).unwrap().to_vec();
    world.server.close_room(world.now, ROOM);
    world.run_ms(10);
    let frames = world.room().frame;
    let read = world.paper.as_ref().unwrap().read();
    let [finished] = &read.finished[..] else {
        panic!("{read:?}");
    };
    assert_eq!((finished.match_id, finished.lack), (id, None));
    assert_eq!(
        (finished.reason, finished.frames),
        (OverReason::Closed, frames)
    );
    assert_eq!(finished.log, log);
}

#[test]
fn a_match_to_which_nobody_comes_back_ends_with_the_grace() {
    let (mut world, _) = recorded(20);
    world.kill();
    let grace = Duration::from_secs(60);
    world.run_until(world.now + grace - Duration::from_millis(1));
    assert_eq!(world.room().phase, Phase::Playing);
    world.run_ms(1);
    assert_eq!(world.room().phase, Phase::Over(OverReason::Abandoned));
    world.run_ms(10);
    assert!(world.paper.as_ref().unwrap().read().rooms.is_empty());
}

#[test]
fn a_room_that_waited_waits_again() {
    let mut world = World::recording(&[1, 2]);
    let peer = world.joined(1);
    world.say(peer, &Uplink::Ready);
    world.run_ms(100);
    world.kill();
    let room = world.room();
    assert_eq!((room.phase, room.frame), (Phase::Waiting, 0));
    assert!(room.seats.iter().all(|seat| !seat.ready && !seat.online));
    world.start_all(&[1, 2]);
    assert_eq!(world.room().phase, Phase::Playing);
}

#[test]
fn results_outlive_the_server() {
    let (mut world, peers) = recorded(20);
    world.say(peers[0], &Uplink::Result { winner: 9 });
    world.run_ms(20);
    world.kill();
    let (second, _) = come_back(&mut world, 2, None);
    world.say(second, &Uplink::Result { winner: 9 });
    world.run_ms(20);
    let room = world.room();
    assert_eq!(room.phase, Phase::Over(OverReason::Results));
    let results: Vec<_> = room.seats.iter().map(|seat| seat.result).collect();
    assert_eq!(results, [Some(9), Some(9)]);
}

#[test]
fn a_room_that_is_over_is_not_restored() {
    let (mut world, _) = recorded(20);
    world.server.close_room(world.now, ROOM);
    world.run_ms(10);
    world.kill();
    assert!(world.server.room(ROOM).is_none());
}

#[test]
fn what_a_full_disk_refused_is_written_later_without_a_hole() {
    let (mut world, peers) = recorded(20);
    world.paper.as_mut().unwrap().is_full = true;
    for x in 0..30 {
        world.press(peers[0], x);
        world.run_ms(33);
    }
    let during = world.paper.as_ref().unwrap().read();
    assert!(
        during.rooms[0].head < 25,
        "play goes on, the journal does not"
    );
    world.paper.as_mut().unwrap().is_full = false;
    world.run_ms(100);
    let read = world.paper.as_ref().unwrap().read();
    assert_eq!(read.lost, []);
    assert_eq!(read.rooms[0].frames, world.server.frames(ROOM).unwrap());
    assert!(read.rooms[0].head > 45);
}

#[test]
fn a_match_that_ends_while_the_disk_is_full_has_its_recording() {
    let (mut world, peers) = recorded(20);
    world.paper.as_mut().unwrap().is_full = true;
    world.press(peers[0], 77);
    world.run_ms(100);
    let log = world.server.frames(ROOM).unwrap().to_vec();
    world.server.close_room(world.now, ROOM);
    world.run_ms(10_000);
    assert!(world.server.room(ROOM).is_none(), "it is gone from memory");
    world.paper.as_mut().unwrap().is_full = false;
    world.run_ms(10);
    let read = world.paper.as_ref().unwrap().read();
    assert_eq!(read.finished.len(), 1, "{read:?}");
    assert_eq!((&read.finished[0].log, read.finished[0].lack), (&log, None));
    assert!(!world.server.owes_records());
}

#[test]
fn everything_can_be_written_anew() {
    let (mut world, peers) = recorded(20);
    world.kill();
    let (peer, _) = come_back(&mut world, 1, None);
    world.press(peer, 5);
    world.run_ms(500);
    // A sync has failed: another file begins, in which nothing is.
    let paper = world.paper.as_mut().unwrap();
    paper.bytes.truncate(72);
    world.server.record_anew();
    world.run_ms(1_000);
    let read = world.paper.as_ref().unwrap().read();
    assert_eq!(read.lost, []);
    assert_eq!(read.rooms[0].frames, world.server.frames(ROOM).unwrap());
    assert_eq!(read.rooms[0].started_unix, world.room().started_unix);
    assert_eq!(read.rooms[0].joined, [true, true]);
    assert_eq!(peers.len(), 2);
    world.kill();
    assert_eq!(world.room().phase, Phase::Playing);
}

#[test]
fn the_old_segments_stay_until_everything_is_written_anew() {
    let (mut world, _) = recorded(20);
    assert_eq!(world.server.oldest_segment(), Some(1));
    world.server.record_anew();
    assert_eq!(world.server.oldest_segment(), Some(1));
    world.server.poll_records(world.now, usize::MAX);
    world.server.keep_records(2);
    assert_eq!(world.server.oldest_segment(), Some(2));
}

#[test]
fn of_two_matches_of_one_room_the_older_one_never_comes_back() {
    let (mut world, _) = recorded(20);
    let old = world.room().match_id;
    let before = world.paper.as_ref().unwrap().bytes.len();
    world.server.close_room(world.now, ROOM);
    world.server.create_room(world.now, spec(&[1, 2])).unwrap();
    world.run_ms(10);
    // The word of its end was lost with the power; that of the new match was not.
    let paper = world.paper.as_mut().unwrap();
    let written = paper.bytes.clone();
    paper.bytes.truncate(before);
    for found in Scan::new(1, &written) {
        let Found::Record(entry) = found else {
            panic!("{found:?}")
        };
        let [start, len] =
            [entry.place.offset, entry.len].map(|number| usize::try_from(number).unwrap());
        if entry.match_id != old {
            paper.bytes.extend_from_slice(&written[start..start + len]);
        }
    }
    let mut rooms = paper.read().rooms;
    assert_eq!(rooms.len(), 2);
    rooms.sort_by_key(|room| room.match_id == old);
    world.restart_with(rooms);
    assert_ne!(world.room().match_id, old);
    world.run_ms(10);
    let read = world.paper.as_ref().unwrap().read();
    assert_eq!(read.rooms.len(), 1);
    assert_eq!(read.finished[0].match_id, old);
}

/// A frame with input, as logs have it.
fn encode_into(out: &mut Vec<u8>, frame: &Frame) {
    use lockstep_server::engine::id::Seat;
    use lockstep_server::engine::wire::frame::{encode_frame, encode_input};
    let mut inputs = Vec::new();
    for input in &frame.inputs {
        let seat = Seat::from_index(usize::try_from(input.seat - 1).unwrap());
        encode_input(&mut inputs, input.player, seat, input.command, &input.data);
    }
    encode_frame(out, frame.id, &inputs);
}

#[test]
fn a_match_whose_end_alone_was_torn_off_ends_again_with_no_frame_more() {
    let mut world = World::recording(&[1, 2]);
    let mut short = spec(&[1, 2]);
    short.room = RoomId(8);
    short.max_frames = Some(10);
    world.server.close_room(world.now, ROOM);
    world.server.create_room(world.now, short).unwrap();
    let peer = world.peer(5);
    let connect = Uplink::Connect {
        player: PlayerId(1),
        room: RoomId(8),
        token: String::new(),
        version: Version::V1,
    };
    for message in [&connect, &Uplink::JoinRoom, &Uplink::Ready] {
        world.say(peer, message);
    }
    // The other one never comes: the match starts without.
    world.run_ms(20_000);
    let input = Uplink::Input(Command::default());
    for _ in 0..30 {
        world.say(peer, &input);
        world.run_ms(33);
    }
    let paper = world.paper.as_mut().unwrap();
    let whole = paper.read();
    let over = whole.finished.iter().find(|of| of.frames == 10).unwrap();
    let (id, log) = (over.match_id, over.log.clone());
    // The record of its end is the last one, and is torn.
    paper.bytes.truncate(paper.bytes.len() - 1);
    world.kill();
    let room = world.server.room(RoomId(8)).unwrap();
    assert_eq!(room.match_id, id);
    assert_eq!(
        (room.phase, room.frame),
        (Phase::Over(OverReason::MaxFrames), 10)
    );
    world.run_ms(10);
    let read = world.paper.as_ref().unwrap().read();
    let over = read.finished.iter().find(|of| of.match_id == id).unwrap();
    assert_eq!((over.frames, &over.log), (10, &log));
}
