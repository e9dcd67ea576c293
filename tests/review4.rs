//! An acknowledgement that rides while the server sleeps so long that its clocks begin anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::segment::{Cmd, Datagram};
use support::*;

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
