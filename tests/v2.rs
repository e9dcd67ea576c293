//! Version 2 of the protocol, as claims: who asked for it gets it, and nobody else does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use lockstep_server::engine::id::{MatchId, PlayerId};
use lockstep_server::engine::wire::frame::Frame;
use lockstep_server::engine::wire::message::{
    ConnectCode, Follows, Held, Uplink, Version, Welcome,
};
use support::*;

fn connect(player: u64) -> Uplink<'static> {
    Uplink::Connect {
        player: PlayerId(player),
        room: ROOM,
        token: String::new(),
        version: Version::V2,
    }
}

/// A running match of players 1 and 2, both of v1, who pressed something in `frames` frames.
fn match_of(frames: u32) -> (World, Vec<usize>) {
    let (mut world, peers) = World::started(&[1, 2]);
    while world.room().frame < frames {
        world.press(peers[0], 1);
        world.run_ms(33);
    }
    (world, peers)
}

/// Player 2 comes back with v2 and this Ready, and is told all there is.
fn come_back(world: &mut World, ready: &Uplink<'_>) -> Vec<Said> {
    let peer = world.peer(77);
    for message in [&connect(2), &Uplink::JoinRoom, ready] {
        world.say(peer, message);
    }
    world.run_ms(200);
    world.take(peer)
}

fn held(world: &World, next: u32) -> Uplink<'static> {
    Uplink::Resume(Held {
        match_id: world.room().match_id,
        next,
    })
}

fn follows(said: &[Said]) -> Follows {
    let start = said.iter().find_map(|said| match said {
        Said::StartFrom(_, follows) => Some(*follows),
        _ => None,
    });
    start.expect("it was told of the start, in v2")
}

/// The frames among what it was told.
fn frames(said: &[Said]) -> Vec<Frame> {
    let frames = said.iter().filter_map(|said| match said {
        Said::Frames(frames) => Some(frames.clone()),
        _ => None,
    });
    frames.flatten().collect()
}

#[test]
fn who_announces_v2_is_told_the_match_its_rate_and_its_head() {
    let (mut world, _) = match_of(50);
    let said = come_back(&mut world, &Uplink::Ready);
    let Said::Welcome(Welcome {
        match_id, hz, head, ..
    }) = said[0]
    else {
        panic!("{said:?}");
    };
    assert_eq!((match_id, hz), (world.room().match_id, 30));
    assert!((48..=52).contains(&head), "{head}");
    let Follows { next, head } = follows(&said);
    assert!(next == 0 && (50..=54).contains(&head), "{head}");
}

#[test]
fn a_refusal_is_the_same_in_both_versions() {
    let mut world = World::with_room(&[1]);
    let peer = world.peer(1);
    world.say(peer, &connect(5));
    world.run_ms(20);
    assert_eq!(world.take(peer), [Said::Connect(ConnectCode::NoPlayer)]);
}

#[test]
fn who_resumes_gets_the_frames_after_those_it_holds_and_no_others() {
    for next in [0, 1, 63, 64, 65, 100, 128, 200] {
        let (mut world, peers) = match_of(200);
        let resume = held(&world, next);
        let said = come_back(&mut world, &resume);
        assert_eq!(follows(&said).next, next);
        let ids: Vec<u32> = frames(&said).iter().map(|frame| frame.id).collect();
        assert!(ids.iter().all(|id| *id >= next), "{next}: {ids:?}");
        // Every frame with input that the player who stayed has seen from there on.
        let all = world.take_frames(peers[0]);
        let missing = all
            .iter()
            .filter(|frame| frame.id >= next && !frame.inputs.is_empty())
            .filter(|frame| frame.id <= *ids.last().unwrap() && !ids.contains(&frame.id));
        assert_eq!(missing.count(), 0, "{next}: {ids:?}");
    }
}

#[test]
fn who_holds_all_there_is_gets_only_what_comes() {
    let (mut world, _) = match_of(90);
    let head = world.room().frame;
    let resume = held(&world, head - 3);
    let said = come_back(&mut world, &resume);
    let frames = frames(&said);
    assert!(frames.len() < 12, "{frames:?}");
}

#[test]
fn who_claims_frames_of_another_match_or_of_the_future_gets_everything() {
    let (mut world, _) = match_of(60);
    let of_another = Uplink::Resume(Held {
        match_id: MatchId(1),
        next: 40,
    });
    let of_the_future = held(&world, 5000);
    for ready in [of_another, of_the_future] {
        let said = come_back(&mut world, &ready);
        assert_eq!(follows(&said).next, 0);
        assert_eq!(frames(&said)[0].id, 0);
    }
}

#[test]
fn a_match_that_starts_with_a_player_of_v2_begins_at_0_for_all() {
    let mut world = World::with_room(&[1, 2]);
    let one = world.joined(1);
    let two = world.peer(9);
    let resume = held(&world, 7);
    for message in [&connect(2), &Uplink::JoinRoom, &resume] {
        world.say(two, message);
    }
    world.say(one, &Uplink::Ready);
    world.run_ms(300);
    let old = world.take(one);
    assert!(
        old.iter().any(|said| matches!(said, Said::Start(_))),
        "{old:?}"
    );
    let said = world.take(two);
    assert_eq!(follows(&said), Follows { next: 0, head: 0 });
}

#[test]
fn a_client_of_v1_that_says_ready_with_a_body_gets_everything_as_v1_has_it() {
    let (mut world, _) = match_of(60);
    let resume = held(&world, 40);
    let peer = world.peer(78);
    world.connect(peer, 2);
    world.say(peer, &Uplink::JoinRoom);
    world.say(peer, &resume);
    world.run_ms(200);
    let said = world.take(peer);
    assert!(said.contains(&Said::Start(WALL)), "{said:?}");
    assert_eq!(frames(&said)[0].id, 0);
}
