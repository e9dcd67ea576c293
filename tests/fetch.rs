//! Requests for frames, as claims: any range that exists comes, exactly, and nothing live waits
//! for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use lockstep_server::engine::drops::Drop;
use lockstep_server::engine::id::{FrameId, PlayerId};
use lockstep_server::engine::wire::frame::{Frame, decode_frames};
use lockstep_server::engine::wire::message::{Fetch, Fetched, Held, Uplink, Version};
use lockstep_server::engine::wire::segment::{Cmd, Segments};
use lockstep_server::limits::{FETCHED_SEGMENTS_MAX, OVER_LINGER};
use support::*;

const V2: u64 = 2;

fn connect() -> Uplink<'static> {
    Uplink::Connect {
        player: PlayerId(V2),
        room: ROOM,
        token: String::new(),
        version: Version::V2,
    }
}

fn fetch(request: u32, from: FrameId, end: Option<FrameId>) -> Uplink<'static> {
    Uplink::Fetch(Fetch { request, from, end })
}

/// A match of player 1, of v1, and of player 2, of v2, who is at its head; so many frames of it
/// have been played, with input in most of them.
fn match_of(frames: u32) -> (World, usize, usize) {
    let (mut world, peers) = World::started(&[1, V2]);
    while world.room().frame < frames {
        if world.room().frame % 5 != 3 {
            world.press(peers[0], 1);
        }
        world.run_ms(33);
    }
    let peer = world.peer(77);
    for message in [&connect(), &Uplink::JoinRoom, &Uplink::Ready] {
        world.say(peer, message);
    }
    world.run_ms(2000);
    world.take(peer);
    world.take(peers[0]);
    (world, peers[0], peer)
}

/// The answers among what a peer was told.
fn answers(said: &[Said]) -> Vec<(Fetched, Vec<Frame>)> {
    let answer = |said: &Said| match said {
        Said::Fetched(covers, frames) => Some((*covers, frames.clone())),
        _ => None,
    };
    said.iter().filter_map(answer).collect()
}

/// Holds the answers to one request against the room's log: they cover `from..end` without a gap,
/// and have all of it.
fn must_be(world: &World, answers: &[(Fetched, Vec<Frame>)], from: FrameId, end: FrameId) {
    let mut next = from;
    for (covers, frames) in answers {
        assert_eq!((covers.from, covers.end), (next, end));
        assert!(covers.until > covers.from || from == end, "{covers:?}");
        next = covers.until;
        let inside = |frame: &Frame| (covers.from..covers.until).contains(&frame.id);
        assert!(frames.iter().all(inside), "{covers:?}");
    }
    assert_eq!(next, end, "an answer is missing");
    let got = answers.iter().flat_map(|(_, frames)| frames);
    let log = decode_frames(world.server.frames(ROOM).unwrap()).unwrap();
    let expected = log.iter().filter(|frame| (from..end).contains(&frame.id));
    assert!(got.eq(expected), "{from}..{end}");
}

#[test]
fn any_range_that_exists_comes_exactly() {
    let (mut world, _, peer) = match_of(400);
    for (request, from, end) in [
        (1, 0, 400),
        (9, 0, 1),
        (2, 3, 4),
        (3, 63, 65),
        (u32::MAX, 128, 300),
        (4, 399, 400),
        (0, 10, 11),
    ] {
        world.say(peer, &fetch(request, from, Some(end)));
        world.run_ms(500);
        let answers = answers(&world.take(peer));
        assert!(answers.iter().all(|(covers, _)| covers.request == request));
        must_be(&world, &answers, from, end);
    }
}

#[test]
fn without_an_end_all_there_are_come() {
    let (mut world, _, peer) = match_of(200);
    world.say(peer, &fetch(1, 150, None));
    world.run_ms(7);
    let head = world.room().frame;
    world.run_ms(500);
    let answers = answers(&world.take(peer));
    let end = answers[0].0.end;
    assert!((head - 3..=head).contains(&end), "{end} of {head}");
    must_be(&world, &answers, 150, end);
}

#[test]
fn a_range_that_does_not_exist_is_answered_with_what_does() {
    let (mut world, _, peer) = match_of(100);
    let head = world.room().frame;
    for (from, end) in [
        (u32::MAX, None),
        (5000, Some(6000)),
        (5000, Some(0)),
        (50, Some(50)),
        (50, Some(20)),
        (0, Some(0)),
    ] {
        world.say(peer, &fetch(7, from, end));
        world.run_ms(100);
        let answers = answers(&world.take(peer));
        let [(covers, frames)] = &answers[..] else {
            panic!("{from}..{end:?}: {answers:?}");
        };
        assert!(frames.is_empty());
        assert!(covers.from == covers.until && covers.until == covers.end);
        assert!(covers.from == from || (head - 3..=covers.head).contains(&covers.from));
        assert!(covers.head >= head - 3, "{covers:?}");
    }
    // Of one that exists in part, that part comes.
    world.say(peer, &fetch(8, 90, Some(5000)));
    world.run_ms(200);
    let answers = answers(&world.take(peer));
    must_be(&world, &answers, 90, answers[0].0.end);
    assert!(answers[0].0.end >= head);
}

#[test]
fn each_answer_fits_a_segment() {
    let (mut world, _, peer) = match_of(600);
    world.peers[peer].datagrams.clear();
    world.say(peer, &fetch(u32::MAX, 0, None));
    world.run_ms(1000);
    let answers = answers(&world.take(peer));
    assert!(answers.len() >= 8, "{}", answers.len());
    must_be(&world, &answers, 0, answers[0].0.end);
    let datagrams = &world.peers[peer].datagrams;
    let segments = datagrams
        .iter()
        .flat_map(|bytes| Segments::of_output(bytes));
    let mut pushes = segments.filter(|segment| segment.cmd == Cmd::Push);
    assert!(pushes.all(|push| push.frg == 0));
}

#[test]
fn the_frames_of_the_match_come_as_if_nobody_had_asked() {
    let told = |asks: bool| {
        let (mut world, other, peer) = match_of(300);
        for round in 0..40 {
            if asks {
                world.say(peer, &fetch(round, 0, None));
            }
            world.press(other, 5);
            world.run_ms(33);
        }
        let said = world.take(peer);
        let got = answers(&said).len();
        assert_eq!(got > 40, asks, "{got} answers");
        let frames = said.into_iter().filter_map(|said| match said {
            Said::Frames(frames) => Some(frames),
            _ => None,
        });
        frames.flatten().collect::<Vec<_>>()
    };
    assert_eq!(told(true), told(false));
}

#[test]
fn history_is_never_more_than_a_few_segments_ahead_of_what_is_live() {
    let (mut world, other, peer) = match_of(1000);
    // A long way, so that what is under way is seen.
    world.delay = Duration::from_millis(100);
    world.run_ms(500);
    world.take(peer);
    world.say(peer, &fetch(1, 0, None));
    for _ in 0..60 {
        world.press(other, 5);
        world.run_ms(33);
    }
    let said = world.take(peer);
    let got = answers(&said);
    assert!(got.len() > 12, "{}", got.len());
    let mut in_a_row = 0;
    for said in &said {
        in_a_row = match said {
            Said::Fetched(..) => in_a_row + 1,
            _ => 0,
        };
        assert!(in_a_row <= FETCHED_SEGMENTS_MAX);
    }
    // They come in each round trip, no more of them.
    let trips = 60 * 33 / 200 + 1;
    assert!(got.len() <= trips * FETCHED_SEGMENTS_MAX);
}

#[test]
fn who_is_behind_gets_the_frames_of_the_match_first() {
    let (mut world, _, _) = match_of(600);
    let peer = world.peer(78);
    for message in [
        &connect(),
        &Uplink::JoinRoom,
        &Uplink::Ready,
        &fetch(1, 0, Some(300)),
    ] {
        world.say(peer, message);
    }
    world.run_ms(2000);
    let said = world.take(peer);
    let first_answer = said
        .iter()
        .position(|said| matches!(said, Said::Fetched(..)));
    let behind = said[..first_answer.unwrap()]
        .iter()
        .filter_map(|said| match said {
            Said::Frames(frames) => frames.last().map(|frame| frame.id),
            _ => None,
        });
    assert!(behind.max().unwrap() >= 590, "live before history");
    must_be(&world, &answers(&said), 0, 300);
}

#[test]
fn a_new_request_takes_the_place_of_one_that_is_not_done() {
    let (mut world, _, peer) = match_of(600);
    world.say(peer, &fetch(1, 0, None));
    world.run_ms(12);
    world.say(peer, &fetch(2, 100, Some(110)));
    world.run_ms(1000);
    let all = answers(&world.take(peer));
    let (first, second): (Vec<_>, Vec<_>) = all.into_iter().partition(|a| a.0.request == 1);
    let last = first.last().unwrap().0;
    assert!(last.until < last.end, "the first was cut short");
    must_be(&world, &second, 100, 110);
}

#[test]
fn it_works_after_a_resume_and_without_a_ready() {
    let (mut world, _, _) = match_of(200);
    let match_id = world.room().match_id;
    let resume = Uplink::Resume(Held {
        match_id,
        history: 0,
        next: 190,
    });
    let peer = world.peer(79);
    for message in [
        &connect(),
        &Uplink::JoinRoom,
        &resume,
        &fetch(1, 5, Some(50)),
    ] {
        world.say(peer, message);
    }
    world.run_ms(500);
    let said = world.take(peer);
    must_be(&world, &answers(&said), 5, 50);
    let oldest = said.iter().find_map(|said| match said {
        Said::Frames(frames) => Some(frames[0].id),
        _ => None,
    });
    assert!(oldest.unwrap() >= 190, "its own cursor is where it was");

    let peer = world.peer(80);
    for message in [&connect(), &Uplink::JoinRoom, &fetch(1, 5, Some(50))] {
        world.say(peer, message);
    }
    world.run_ms(500);
    let said = world.take(peer);
    must_be(&world, &answers(&said), 5, 50);
    assert!(!said.iter().any(|said| matches!(said, Said::Frames(_))));
}

#[test]
fn a_room_that_is_over_still_answers_while_it_lingers() {
    let (mut world, _, peer) = match_of(600);
    world.say(peer, &fetch(1, 0, None));
    world.run_ms(12);
    world.server.close_room(world.now, ROOM);
    world.run_ms(1000);
    let said = world.take(peer);
    let begun = answers(&said);
    must_be(&world, &begun, 0, begun[0].0.end);
    assert!(said.contains(&Said::Close));
    world.say(peer, &fetch(2, 10, None));
    world.run_ms(500);
    let head = world.room().frame;
    let late = answers(&world.take(peer));
    must_be(&world, &late, 10, head);
    // It is not kept for longer by whoever asks.
    world.say(peer, &fetch(3, 0, None));
    world.run_ms(u64::try_from(OVER_LINGER.as_millis()).unwrap());
    assert!(world.server.room(ROOM).is_none());
}

#[test]
fn before_the_start_and_without_a_seat_there_is_no_answer() {
    let mut world = World::with_room(&[1, V2]);
    let peer = world.peer(77);
    world.say(peer, &Uplink::Heartbeat);
    world.say(peer, &fetch(1, 0, None));
    world.run_ms(50);
    assert_eq!(answers(&world.take(peer)), []);
    world.say(peer, &connect());
    world.run_ms(50);
    world.say(peer, &Uplink::JoinRoom);
    world.say(peer, &fetch(1, 0, None));
    world.run_ms(50);
    assert_eq!(answers(&world.take(peer)), []);
    let counters = world.server.counters();
    assert_eq!(counters.drops(Drop::UnknownMessage), 1, "of v1 so far");
    assert_eq!(counters.drops(Drop::OutOfPhase), 1);
}

#[test]
fn what_is_lost_of_it_comes_again_and_a_new_client_is_not_sent_it() {
    let (mut world, other, peer) = match_of(600);
    world.say(peer, &fetch(1, 0, None));
    world.run_ms(8);
    world.peers[peer].cut_off = true;
    world.run_ms(1000);
    world.peers[peer].cut_off = false;
    world.run_ms(3000);
    let all = answers(&world.take(peer));
    must_be(&world, &all, 0, all[0].0.end);

    // The request belongs to the connection that has made it.
    world.say(peer, &fetch(2, 0, None));
    world.run_ms(8);
    let newer = world.peer(81);
    for message in [&connect(), &Uplink::JoinRoom, &Uplink::Ready] {
        world.say(newer, message);
    }
    world.press(other, 1);
    world.run_ms(1000);
    assert_eq!(answers(&world.take(newer)), []);
}

#[test]
fn a_frame_larger_than_a_segment_comes_whole() {
    let (mut world, peers) = World::started(&[1, V2]);
    for x in 0..64 {
        world.press(peers[0], i32::MIN + x);
        world.press(peers[1], i32::MIN + x);
    }
    world.run_ms(500);
    let peer = world.peer(77);
    for message in [&connect(), &Uplink::JoinRoom, &fetch(1, 0, Some(8))] {
        world.say(peer, message);
    }
    world.run_ms(500);
    let answers = answers(&world.take(peer));
    must_be(&world, &answers, 0, 8);
    let most = answers.iter().flat_map(|(_, frames)| frames);
    assert_eq!(most.map(|frame| frame.inputs.len()).max(), Some(128));
}
