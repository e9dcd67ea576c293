//! A room whose frames come from outside, as claims.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use lockstep_server::engine::config::Config;
use lockstep_server::engine::id::{PlayerId, Seat};
use lockstep_server::engine::view::{OverReason, Phase};
use lockstep_server::engine::wire::frame::{self, Command, Frame};
use lockstep_server::engine::wire::message::Uplink;
use lockstep_server::journal::record::FrameBytes;
use support::{ROOM, Said, World, spec};

const PLAYERS: [u64; 2] = [101, 102];

/// A frame in which the second player has pressed something.
fn frame_of(id: u32) -> Vec<u8> {
    let (mut inputs, mut bytes) = (Vec::new(), Vec::new());
    let command = Command { sid: 1, x: 7, y: 0 };
    frame::encode_input(
        &mut inputs,
        PlayerId(102),
        Seat::from_index(1),
        command,
        &[],
    );
    frame::encode_frame(&mut bytes, id, &inputs);
    bytes
}

/// The frames among what a peer was told.
fn frames_in(said: &[Said]) -> Vec<Frame> {
    let frames = said.iter().filter_map(|said| match said {
        Said::Frames(frames) => Some(frames.clone()),
        _ => None,
    });
    frames.flatten().collect()
}

fn feed(world: &mut World, id: u32, has_input: bool) {
    let bytes = frame_of(id);
    let frame = has_input.then(|| FrameBytes::new(&bytes).unwrap());
    world.server.feed(world.now, ROOM, frame);
}

#[test]
fn a_fed_match_has_what_it_is_fed_and_no_clock() {
    let mut world = World::with_room(&PLAYERS);
    world.server.expect_feed(ROOM);
    // Before the start there is nothing to be fed.
    feed(&mut world, 0, true);
    let (early, loads) = (world.joined(PLAYERS[0]), world.joined(PLAYERS[1]));
    world.say(early, &Uplink::Ready);
    world.run_ms(100);
    assert_eq!(
        world.room().phase,
        Phase::Playing,
        "nobody waits for the other"
    );
    assert!(
        world.take(loads).is_empty(),
        "nor is it told before its Ready"
    );
    world.run_ms(5000);
    assert_eq!(world.room().frame, 0);
    let mut log = Vec::new();
    for id in 0..10 {
        world.press(early, 9);
        world.run_ms(20);
        let has_input = !matches!(id, 3..6 | 9);
        feed(&mut world, id, has_input);
        if has_input {
            log.extend(frame_of(id));
        }
    }
    world.run_ms(200);
    assert_eq!(world.room().frame, 10);
    world.say(loads, &Uplink::Ready);
    world.run_ms(200);
    let room = world.server.close_room(world.now, ROOM).unwrap();
    assert_eq!(room.phase, Phase::Over(OverReason::Closed));
    world.step();
    world.run_ms(200);
    let expected: Vec<Frame> = frame::decode_frames(&log).unwrap();
    for peer in [early, loads] {
        let said = world.take(peer);
        assert_eq!(said.last(), Some(&Said::Close));
        let frames = frames_in(&said);
        assert_eq!(frames.last().map(|frame| frame.id), Some(9));
        let with_input: Vec<_> = frames
            .into_iter()
            .filter(|f| !f.inputs.is_empty())
            .collect();
        assert_eq!(with_input, expected);
    }
}

#[test]
fn a_fed_match_ends_with_its_last_frame() {
    let mut world = World::new(Config::default());
    let mut spec = spec(&PLAYERS);
    spec.max_frames = Some(3);
    world.server.create_room(world.now, spec).unwrap();
    world.server.expect_feed(ROOM);
    let peer = world.joined(PLAYERS[1]);
    world.say(peer, &Uplink::Ready);
    world.run_ms(100);
    for id in 0..5 {
        feed(&mut world, id, true);
    }
    world.step();
    world.run_ms(200);
    let said = world.take(peer);
    assert_eq!(
        (frames_in(&said).len(), said.last()),
        (3, Some(&Said::Close))
    );
}
