//! What those are told who follow the rooms of a server, in which order: the real engine's events
//! through the loop's [`Feeds`].

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use lockstep_server::engine::config::Config;
use lockstep_server::engine::drops::Disconnect;
use lockstep_server::engine::id::{MatchId, PlayerId};
use lockstep_server::engine::view::OverReason;
use lockstep_server::engine::wire::message::Uplink;
use lockstep_server::io::feed::{Feeds, RoomEvent, RoomEventKind};
use support::{ROOM, WALL, World, spec};

/// A feed that keeps what it is told.
struct Follower {
    feeds: Feeds,
    told: Receiver<RoomEvent>,
}

impl Follower {
    fn new() -> Follower {
        let mut feeds = Feeds::default();
        let (sender, told) = mpsc::channel();
        feeds.add(Box::new(move |event| sender.send(event).unwrap()));
        Follower { feeds, told }
    }

    /// What has happened since the last time, as the loop tells it.
    fn take(&mut self, world: &mut World) -> Vec<RoomEvent> {
        while let Some(event) = world.server.poll_event() {
            self.feeds.give(&event, WALL * 1000);
        }
        self.told.try_iter().collect()
    }
}

/// All that was told, a word each.
fn words(events: &[RoomEvent]) -> Vec<String> {
    let word = |event: &RoomEvent| {
        assert_eq!((event.room, event.unix_ms), (ROOM, WALL * 1000));
        match &event.kind {
            RoomEventKind::Created { players } => format!("created {players}"),
            RoomEventKind::Joined { player } => format!("joined {player}"),
            RoomEventKind::Started => "started".to_owned(),
            RoomEventKind::Left { player, reason } => format!("left {player} {}", reason.name()),
            RoomEventKind::Result { player, winner } => format!("result {player} {winner}"),
            RoomEventKind::Over { reason, .. } => format!("over {}", reason.name()),
            RoomEventKind::Restored { .. } => "restored".to_owned(),
        }
    };
    events.iter().map(word).collect()
}

const BEGUN: [&str; 4] = ["created 2", "joined 1", "joined 2", "started"];

/// A way for the match of two players to end.
type Ending = fn(&mut World, &[usize]);

#[test]
fn a_match_is_told_over_once_however_it_ends() {
    let endings: [(&str, Ending, &[&str]); 6] = [
        (
            "results",
            |world, peers| {
                world.say(peers[0], &Uplink::Result { winner: 2 });
                world.run_ms(50);
                world.say(peers[1], &Uplink::Result { winner: 2 });
            },
            &["result 1 2", "result 2 2", "over results"],
        ),
        (
            "closed",
            |world, _| {
                world.server.close_room(world.now, ROOM);
                world.server.close_room(world.now, ROOM);
            },
            &["over closed"],
        ),
        (
            "stopping",
            |world, _| world.server.stop(world.now),
            &["over stopping"],
        ),
        (
            "max_frames",
            |world, _| world.run_ms(2000),
            &["over max_frames"],
        ),
        (
            "a late result",
            |world, peers| {
                world.server.close_room(world.now, ROOM);
                world.say(peers[0], &Uplink::Result { winner: 1 });
            },
            &["over closed", "result 1 1"],
        ),
        (
            "a result that is told twice, and another one",
            |world, peers| {
                for winner in [1, 1, 2] {
                    world.say(peers[0], &Uplink::Result { winner });
                }
                world.run_ms(50);
                world.server.close_room(world.now, ROOM);
            },
            &["result 1 1", "result 1 2", "over closed"],
        ),
    ];
    for (name, ending, expected) in endings {
        let mut world = World::new(Config {
            max_frames: 50,
            ..Config::default()
        });
        let mut follower = Follower::new();
        world.server.create_room(world.now, spec(&[1, 2])).unwrap();
        let peers = world.start_all(&[1, 2]);
        assert_eq!(words(&follower.take(&mut world)), BEGUN, "{name}");
        ending(&mut world, &peers);
        world.run_ms(1000);
        assert_eq!(words(&follower.take(&mut world)), expected, "{name}");
        // The room goes, and its number is free.
        world.run_ms(5000);
        let gone = ["left 1 room_gone", "left 2 room_gone"];
        assert_eq!(words(&follower.take(&mut world)), gone, "{name}");
    }
}

#[test]
fn players_that_vanish_are_told_to_have_left_before_their_match_is_abandoned() {
    let mut world = World::new(Config {
        idle_timeout: Duration::from_secs(6),
        reconnect_grace: Duration::from_secs(2),
        ..Config::default()
    });
    let mut follower = Follower::new();
    world.server.create_room(world.now, spec(&[1])).unwrap();
    let peers = world.start_all(&[1]);
    world.peers[peers[0]].cut_off = true;
    world.run_ms(60_000);
    let told = words(&follower.take(&mut world));
    let expected = [
        "created 1",
        "joined 1",
        "started",
        "left 1 idle",
        "over abandoned",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_room_nobody_comes_to_is_told_over_for_its_age() {
    let mut world = World::new(Config {
        room_timeout: Duration::from_secs(5),
        ..Config::default()
    });
    let mut follower = Follower::new();
    world.server.create_room(world.now, spec(&[1])).unwrap();
    world.run_ms(20_000);
    let told = words(&follower.take(&mut world));
    assert_eq!(told, ["created 1", "over room_timeout"]);
}

#[test]
fn a_room_that_makes_way_is_told_over_before_the_next_one_is_created() {
    let mut world = World::with_room(&[1, 2]);
    let mut follower = Follower::new();
    world.start_all(&[1, 2]);
    world.server.close_room(world.now, ROOM);
    world.server.create_room(world.now, spec(&[3])).unwrap();
    world.run_ms(5000);
    let told = follower.take(&mut world);
    let next = [
        "over closed",
        "created 1",
        "left 1 room_gone",
        "left 2 room_gone",
    ];
    let expected: Vec<&str> = BEGUN.into_iter().chain(next).collect();
    assert_eq!(words(&told), expected);
    // Who leaves then leaves the old match.
    let matches: Vec<MatchId> = told.iter().map(|event| event.match_id).collect();
    let (old, new) = (matches[0], matches[5]);
    assert_ne!(old, new);
    assert_eq!(matches[4..], [old, new, old, old]);
}

#[test]
fn who_comes_again_is_told_to_have_joined_again_and_not_to_have_left() {
    let mut world = World::with_room(&[1]);
    let mut follower = Follower::new();
    world.start_all(&[1]);
    world.joined(1);
    let told = words(&follower.take(&mut world));
    assert_eq!(told, ["created 1", "joined 1", "started", "joined 1"]);
}

#[test]
fn a_match_that_comes_back_is_told_restored_and_then_over() {
    let mut world = World::recording(&[1, 2]);
    let mut follower = Follower::new();
    world.start_all(&[1, 2]);
    world.run_ms(500);
    let id = world.room().match_id;
    assert_eq!(words(&follower.take(&mut world)), BEGUN);
    world.kill();
    world.joined(2);
    world.server.close_room(world.now, ROOM);
    let told = follower.take(&mut world);
    assert_eq!(words(&told), ["restored", "joined 2", "over closed"]);
    assert!(told.iter().all(|event| event.match_id == id));
}

#[test]
fn a_match_of_which_only_the_word_of_its_end_was_lost_is_restored_and_then_over() {
    let mut world = World::recording(&[1, 2]);
    let mut follower = Follower::new();
    world.start_all(&[1, 2]);
    world.run_ms(500);
    let mut rooms = world.paper.as_ref().unwrap().read().rooms;
    rooms[0].created.max_frames = rooms[0].head;
    follower.take(&mut world);
    world.restart_with(rooms);
    let told = words(&follower.take(&mut world));
    assert_eq!(told, ["restored", "over max_frames"]);
}

#[test]
fn the_reasons_of_the_engine_reach_those_who_follow() {
    let mut world = World::with_room(&[1]);
    let mut follower = Follower::new();
    world.start_all(&[1]);
    world.run_ms(500);
    world.server.close_room(world.now, ROOM);
    world.run_ms(5000);
    let told = follower.take(&mut world);
    let frames = told.iter().find_map(|event| match event.kind {
        RoomEventKind::Over { reason, frames } => Some((reason, frames > 10)),
        _ => None,
    });
    assert_eq!(frames, Some((OverReason::Closed, true)));
    let left = RoomEventKind::Left {
        player: PlayerId(1),
        reason: Disconnect::RoomGone,
    };
    assert_eq!(told.last().unwrap().kind, left);
}
