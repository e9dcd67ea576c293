//! What somebody can pin in the server's memory without ever receiving at an address: counted by
//! the allocator, so the figures are the same on every machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/heap.rs"]
mod heap;
mod support;

use std::net::SocketAddr;

use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::message::{Uplink, Version};
use lockstep_server::limits::{RECEIVE_WINDOW, SEGMENT_PAYLOAD_MAX};
use support::*;

/// The bytes that each session holds after `first`, and then data of `len` bytes in all the
/// segments of a window from `sn` on, from addresses that never answer.
fn held(first: &[u8], sn: u32, len: usize) -> usize {
    const COUNT: u16 = 100;
    let mut world = World::with_room(&[1]);
    let from = |index| SocketAddr::from(([10, 0, 0, 1], 1000 + index));
    let before = heap::live();
    for index in 0..COUNT {
        let mut send = |mut datagram: Vec<u8>| {
            world
                .server
                .handle_datagram(world.now, from(index), &mut datagram);
        };
        send(push(0, first));
        for sn in sn..u32::from(RECEIVE_WINDOW) {
            send(push(sn, &vec![0x55; len]));
        }
    }
    let mut batch = Transmits::default();
    world.server.poll_transmit(world.now, &mut batch);
    drop(batch);
    while world.server.poll_event().is_some() {}
    assert_eq!(world.server.counters().sessions, u64::from(COUNT));
    (heap::live() - before) / usize::from(COUNT)
}

// One test, because the allocator counts for all threads.
#[test]
fn a_session_that_proved_nothing_holds_under_24_kilobytes_whatever_is_sent() {
    let mut connect = Vec::new();
    Uplink::Connect {
        player: PlayerId(1),
        room: RoomId(7),
        token: String::new(),
        version: Version::V1,
    }
    .encode(&mut connect);
    for len in [1, 16, 100, SEGMENT_PAYLOAD_MAX, 2000] {
        let claimed = held(&connect, 1, len);
        let gap = held(&connect[..4], 2, len);
        println!("{len} bytes: {claimed} behind a Connect, {gap} behind a gap");
        assert!(claimed.max(gap) < 24 * 1024, "{claimed} and {gap} bytes");
    }
}
