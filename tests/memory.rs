//! What a session and a waiting room cost, in bytes that the engine holds: counted by the
//! allocator, so the figures are the same on every machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/heap.rs"]
mod heap;
mod support;

use std::time::Duration;

use lockstep_server::engine::config::Config;
use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::wire::message::{Uplink, Version};
use support::*;

/// Bytes for each of `count` things, from what was live before and after.
fn each(before: usize, count: usize) -> usize {
    (heap::live() - before) / count
}

// One test, because the allocator counts for all threads.
#[test]
fn an_idle_session_costs_under_8_kilobytes_and_a_waiting_room_under_2() {
    const COUNT: u64 = 1000;
    // Nothing may end or start while the test goes on.
    let hour = Duration::from_secs(3600);
    let config = Config {
        ready_timeout: hour,
        room_timeout: hour,
        idle_timeout: hour,
        ..Config::default()
    };
    let mut world = World::new(config);
    let members = |room: u64| [room * 4, room * 4 + 1, room * 4 + 2, room * 4 + 3];
    let before = heap::live();
    for room in 0..COUNT {
        let mut spec = spec(&members(room));
        spec.room = RoomId(room);
        world.server.create_room(world.now, spec).unwrap();
    }
    while world.server.poll_event().is_some() {}
    let room_bytes = each(before, 1000);
    println!("a waiting room of 4: {room_bytes} bytes");
    assert!(room_bytes < 2048, "{room_bytes} bytes");

    // The peers' own memory must not count: one at a time, and forgotten.
    let before = heap::live();
    for room in 0..COUNT {
        let peer = world.peer(1);
        let connect = Uplink::Connect {
            player: PlayerId(members(room)[0]),
            room: RoomId(room),
            token: String::new(),
            version: Version::V1,
        };
        world.say(peer, &connect);
        world.run_ms(15);
        world.say(peer, &Uplink::JoinRoom);
        world.run_ms(15);
        world.peers.clear();
    }
    while world.server.poll_event().is_some() {}
    assert_eq!(world.server.counters().sessions, COUNT);
    let session_bytes = each(before, 1000);
    println!("an idle session with a seat: {session_bytes} bytes");
    assert!(session_bytes < 8192, "{session_bytes} bytes");
}
