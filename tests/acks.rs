//! When an acknowledgement leaves: with the frame that is about to leave, or at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::segment::{Cmd, Datagram};
use support::*;

/// How acknowledgements came to a peer: alone, and together with data.
#[derive(Debug, Default, PartialEq, Eq)]
struct Acks {
    alone: usize,
    riding: usize,
}

/// What has come to the peer since the last call.
fn acks(world: &mut World, peer: usize) -> Acks {
    let mut acks = Acks::default();
    for mut bytes in std::mem::take(&mut world.peers[peer].datagrams) {
        let datagram = Datagram::parse(&mut bytes).unwrap();
        let has = |cmd| datagram.segments().any(|segment| segment.cmd == cmd);
        match (has(Cmd::Ack), has(Cmd::Push)) {
            (true, true) => acks.riding += 1,
            (true, false) => acks.alone += 1,
            (false, _) => {}
        }
    }
    acks
}

/// A match of one player who has just got a frame: the next one is sealed in 28 ms.
fn world() -> (World, usize) {
    let (mut world, peers) = World::started(&[1]);
    let peer = peers[0];
    world.press(peer, 0);
    after_a_frame(&mut world, peer);
    world.peers[peer].datagrams.clear();
    (world, peer)
}

fn after_a_frame(world: &mut World, peer: usize) {
    world.take(peer);
    while world.take_frames(peer).is_empty() {
        world.run_ms(1);
    }
}

/// Presses so long after a frame came, and goes on until the frame with it has come.
fn press_after(world: &mut World, peer: usize, ms: u64) -> Acks {
    world.run_ms(ms);
    world.press(peer, 1);
    after_a_frame(world, peer);
    acks(world, peer)
}

const ALONE: Acks = Acks {
    alone: 1,
    riding: 0,
};
const RIDING: Acks = Acks {
    alone: 0,
    riding: 1,
};

#[test]
fn an_acknowledgement_rides_on_the_frame_that_is_about_to_leave() {
    let (mut world, peer) = world();
    // It arrives 5 ms later, 15 ms before the frame leaves.
    assert_eq!(press_after(&mut world, peer, 8), RIDING);
    assert_eq!(press_after(&mut world, peer, 18), RIDING);
}

#[test]
fn one_for_which_the_next_frame_is_too_far_leaves_at_once() {
    let (mut world, peer) = world();
    let before = world.now;
    world.press(peer, 1);
    world.run_ms(11);
    assert_eq!(acks(&mut world, peer), ALONE, "since {before:?}");
}

#[test]
fn who_repeats_himself_is_acknowledged_at_once_for_ten_seconds() {
    let (mut world, peer) = world();
    world.copies = 2;
    world.run_ms(8);
    world.press(peer, 1);
    world.run_ms(1);
    world.copies = 1;
    after_a_frame(&mut world, peer);
    let told = acks(&mut world, peer);
    assert!(told.alone > 0 && told.riding == 0, "{told:?}");
    let repeated = world.now;
    while world.now.since(repeated).as_millis() < 9_900 {
        assert_eq!(press_after(&mut world, peer, 8), ALONE);
    }
    world.run_ms(100);
    after_a_frame(&mut world, peer);
    acks(&mut world, peer);
    assert_eq!(press_after(&mut world, peer, 8), RIDING);
}

#[test]
fn before_the_match_nothing_is_waited_for() {
    let mut world = World::with_room(&[1, 2]);
    let peer = world.joined(1);
    world.peers[peer].datagrams.clear();
    world.progress(peer, 50);
    world.run_ms(11);
    assert_eq!(acks(&mut world, peer), ALONE);
}

#[test]
fn an_acknowledgement_does_not_wait_for_a_clock_that_begins_anew() {
    let (mut world, peers) = World::started(&[1]);
    let peer = peers[0];
    world.run_ms(200);
    world.take(peer);
    world.press(peer, 0);
    while world.take_frames(peer).is_empty() {
        world.run_ms(1);
    }
    world.run_ms(12);
    world.recorded = Some((peer, Vec::new()));
    world.press(peer, 1);
    world.press(peer, 2);
    let (_, sent) = world.recorded.take().unwrap();
    let addr = world.peers[peer].addr;
    let mut batch = Transmits::default();
    let mut first = sent[0].clone();
    world.server.handle_datagram(world.now, addr, &mut first);
    world.server.poll_transmit(world.now, &mut batch);
    assert_eq!(batch.iter().count(), 0, "the acknowledgement rides");
    // The process sleeps for two seconds, in which another datagram comes.
    world.now = world.now + Duration::from_secs(2);
    let mut second = sent[1].clone();
    world.server.handle_datagram(world.now, addr, &mut second);
    world.server.handle_timeout(world.now);
    world.server.assert_invariants();
    world.server.poll_transmit(world.now, &mut batch);
    assert_eq!(world.server.counters().epochs_renewed, 1);
    let acks = batch.iter().filter(|(_, bytes)| {
        let mut bytes = bytes.to_vec();
        let datagram = Datagram::parse(&mut bytes).unwrap();
        datagram.segments().any(|segment| segment.cmd == Cmd::Ack)
    });
    assert_eq!(acks.count(), 1, "it left with nothing else to ride on");
}
