//! Where rooms come to be in a cluster, and how they are found: the operations of several servers in
//! one process, with a fake loop each and a fake etcd.

// Helpers of tests are tests, which clippy does not see.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use fake::{BOUNDS, Mood, World, id, order, start_loop};
use lockstep_server::cluster::node::{Instance, NodeState};
use lockstep_server::engine::id::RoomId;
use lockstep_server::engine::view::{CreateError, OverReason, Phase};
use lockstep_server::io::control::Unavailable;
use lockstep_server::operations::{Created, Kind, Operations, Refusal, Scope};

mod fake;

fn node_of(created: &Created) -> &str {
    created.room.home.as_ref().unwrap().node.as_str()
}

fn spread(world: &World) -> usize {
    let counts = world.counts();
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

// --- Placing ------------------------------------------------------------------------------

#[test]
fn sixty_rooms_are_spread_within_one_of_each_other() {
    let world = World::new(&["a", "b", "c"], 100);
    for room in 0..60 {
        let created = world.create("b", &format!("room={room}&member=1,2&place=auto"));
        let created = created.unwrap();
        let home = created.room.home.as_ref().unwrap();
        assert_eq!(home.address.host(), format!("{}.example.org", home.node));
        assert!(spread(&world) <= 1, "{:?}", world.counts());
        if room % 7 == 0 {
            world.publish();
        }
    }
    assert_eq!(world.counts().values().sum::<usize>(), 60);
    assert_eq!(world.claims().len(), 60);
}

#[test]
fn eight_threads_place_sixty_rooms_within_one_of_each_other() {
    let world = World::new(&["a", "b", "c"], 100);
    let place = |number: u64| {
        let world = Arc::clone(&world);
        move || {
            for room in (0..60).filter(|room| room % 8 == number) {
                let query = format!("room={room}&member=1,2&place=auto");
                world.create("a", &query).unwrap();
                if room % 5 == 0 {
                    world.publish();
                }
            }
        }
    };
    let threads: Vec<_> = (0..8).map(|number| thread::spawn(place(number))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(world.counts().values().sum::<usize>(), 60);
    assert!(spread(&world) <= 1, "{:?}", world.counts());
}

#[test]
fn a_room_goes_to_the_node_that_is_named() {
    let world = World::new(&["a", "b"], 100);
    let created = world.create("a", "room=1&member=1&place=b").unwrap();
    assert_eq!((node_of(&created), created.serial), ("b", 1));
    let created = world.create("a", "room=2&member=1&place=a").unwrap();
    assert_eq!(node_of(&created), "a");
    let created = world.create("a", "room=3&member=1").unwrap();
    assert_eq!(node_of(&created), "a");
    let refusal = world.create("a", "room=4&member=1&place=c").unwrap_err();
    assert_eq!(
        (refusal.kind(), refusal.field()),
        (Kind::Invalid, Some("place"))
    );
    assert_eq!(
        refusal.reason(),
        "`c` is no node that is there now; give here, auto, or one of the nodes a, b"
    );
}

#[test]
fn a_server_that_is_alone_is_the_best_place() {
    let (control, _) = start_loop(10);
    let operations = Operations::new(control, BOUNDS, None);
    let created = operations
        .create(order("room=1&member=1&place=auto"))
        .unwrap();
    assert_eq!(created.room.home, None);
    let refusal = operations
        .create(order("room=2&member=1&place=b"))
        .unwrap_err();
    assert_eq!(
        (refusal.kind(), refusal.field()),
        (Kind::Invalid, Some("place"))
    );
    assert!(refusal.reason().contains("--etcd"), "{refusal}");
    assert_eq!(operations.cluster(), None);
    assert_eq!(operations.room(RoomId(9), Scope::Anywhere), Ok(None));
}

#[test]
fn nodes_without_space_are_left_out_and_named_when_there_is_none() {
    let world = World::new(&["a", "b", "c"], 2);
    world.changes("b", |record, _| record.state = NodeState::Draining);
    world.changes("c", |_, age_ms| *age_ms = 60_000);
    for room in 0..2 {
        let created = world.create("a", &format!("room={room}&member=1&place=auto"));
        assert_eq!(node_of(&created.unwrap()), "a");
    }
    let refusal = world.create("a", "room=2&member=1&place=auto").unwrap_err();
    assert_eq!(refusal.kind(), Kind::Full);
    assert_eq!(
        refusal.to_string(),
        "no node takes the room: a: 2 of 2 rooms, b: draining, c: not heard of for 60 s"
    );
    assert_eq!(world.claims().len(), 2);
}

#[test]
fn a_node_that_is_gone_or_full_is_passed_over_and_left_alone() {
    let world = World::new(&["a", "b", "c"], 10);
    world.feels("a", Mood::Gone);
    // It has become full since it told that it is not.
    world.its_loop("b").rooms_max.store(0, Ordering::Relaxed);
    for room in 0..4 {
        let created = world.create("c", &format!("room={room}&member=1&place=auto"));
        assert_eq!(node_of(&created.unwrap()), "c");
    }
    assert_eq!(world.asked.load(Ordering::Relaxed), 2);
    world.claims_become(4);
}

#[test]
fn a_node_that_is_late_hands_the_request_on_once_its_claim_is_gone() {
    let world = World::new(&["a", "b"], 10);
    world.its_loop("a").late.store(true, Ordering::Relaxed);
    let created = world.create("a", "room=1&member=1&place=auto&request_key=k");
    assert_eq!(node_of(&created.unwrap()), "b");
    assert_eq!(world.claims()[&RoomId(1)].node, id("b"));
}

#[test]
fn when_all_fail_each_is_named() {
    let world = World::new(&["a", "b", "c", "d", "e"], 10);
    for name in ["b", "c", "d", "e"] {
        world.feels(name, Mood::Gone);
    }
    world.its_loop("a").rooms_max.store(0, Ordering::Relaxed);
    let refusal = world.create("a", "room=1&member=1&place=auto").unwrap_err();
    let text = refusal.to_string();
    assert_eq!(refusal.kind(), Kind::Full);
    for name in ["b", "c", "d"] {
        assert!(
            text.contains(&format!("node {name} cannot be reached")),
            "{text}"
        );
    }
    assert_eq!(world.asked.load(Ordering::Relaxed), 3);
}

// --- Without an answer --------------------------------------------------------------------

#[test]
fn after_silence_no_other_node_is_asked_and_the_key_finds_the_room() {
    let world = World::new(&["a", "b"], 10);
    world.changes("a", |record, _| record.state = NodeState::Draining);
    world.its_loop("a").rooms_max.store(0, Ordering::Relaxed);
    world.feels("b", Mood::Mute);
    let refusal = world.create("a", "room=1&member=1&place=b").unwrap_err();
    assert_eq!(refusal.kind(), Kind::Unsure);
    let text = refusal.to_string();
    let (before, after) = text.split_once("request_key=").unwrap();
    assert!(before.contains("node b does not answer"), "{text}");
    let key = after.split(',').next().unwrap();
    assert_eq!(world.counts()["b"], 1);
    // Asked again it goes there again, wherever it would go now.
    world.feels("b", Mood::Fine);
    world.its_loop("a").rooms_max.store(10, Ordering::Relaxed);
    let again = format!("room=1&member=1&place=auto&request_key={key}");
    let created = world.create("a", &again).unwrap();
    assert_eq!(node_of(&created), "b");
    assert_eq!(world.counts()["b"], 1);
    assert_eq!(world.counts()["a"], 0);
}

#[test]
fn a_node_in_doubt_that_cannot_be_reached_stays_in_doubt_until_it_is_gone() {
    let world = World::new(&["a", "b"], 10);
    world.feels("b", Mood::Stuck);
    let query = "room=1&member=1&place=b&request_key=k";
    let auto = "room=1&member=1&place=auto&request_key=k";
    assert_eq!(world.create("a", query).unwrap_err().kind(), Kind::Unsure);
    world.feels("b", Mood::Gone);
    for _ in 0..2 {
        let refusal = world.create("a", auto).unwrap_err();
        assert_eq!(refusal.kind(), Kind::Unsure, "{refusal}");
    }
    assert_eq!(world.counts()["a"], 0);
    // It has come back as another: what the old one may have had is gone.
    world.changes("b", |record, _| record.instance = Instance(77));
    assert_eq!(node_of(&world.create("a", auto).unwrap()), "a");
}

#[test]
fn a_loop_that_answers_late_still_answers_the_key() {
    let world = World::new(&["a", "b"], 10);
    let its_loop = world.its_loop("a");
    its_loop.stalled.store(true, Ordering::Relaxed);
    let query = "room=1&member=1,2&request_key=k";
    let refusal = world.create("a", query).unwrap_err();
    assert_eq!(refusal, Refusal::Unanswered(Unavailable::Late));
    assert_eq!(world.claims().len(), 1, "the room may still come");
    its_loop.stalled.store(false, Ordering::Relaxed);
    let created = world.create("a", query).unwrap();
    assert_eq!(created.room.view.room, RoomId(1));
    assert_eq!(world.counts()["a"], 1);
}

#[test]
fn a_claim_goes_when_a_late_loop_refuses_the_room() {
    let world = World::new(&["a"], 10);
    let its_loop = world.its_loop("a");
    its_loop.stalled.store(true, Ordering::Relaxed);
    its_loop.rooms_max.store(0, Ordering::Relaxed);
    let query = "room=1&member=1,2&request_key=k";
    let refusal = world.create("a", query).unwrap_err();
    assert_eq!(refusal.kind(), Kind::Unsure);
    its_loop.stalled.store(false, Ordering::Relaxed);
    world.claims_become(0);
}

// --- Once ---------------------------------------------------------------------------------

#[test]
fn the_same_key_makes_one_room_and_gets_one_answer() {
    let world = World::new(&["a", "b"], 10);
    for (room, place) in [(1, "here"), (2, "auto"), (3, "b")] {
        let query = format!("room={room}&member=1,2&place={place}&request_key={place}");
        let first = world.create("a", &query).unwrap();
        assert_eq!(world.create("a", &query).as_ref(), Ok(&first), "{place}");
        let other = query.replace("member=1,2", "member=2,1");
        let refusal = world.create("a", &other).unwrap_err();
        assert_eq!(refusal.kind(), Kind::KeyUsed);
        assert_eq!(refusal.field(), Some("request_key"));
    }
    assert_eq!(world.counts().values().sum::<usize>(), 3);
}

#[test]
fn eight_threads_with_one_key_make_one_room() {
    let world = World::new(&["a", "b", "c"], 10);
    let create = |number: usize| {
        let world = Arc::clone(&world);
        let at = ["a", "b", "c"][number % 3];
        move || {
            world
                .create(at, "room=1&member=1,2&place=auto&request_key=k")
                .unwrap()
        }
    };
    let threads: Vec<_> = (0..8).map(|number| thread::spawn(create(number))).collect();
    let answers: Vec<Created> = threads.into_iter().map(|one| one.join().unwrap()).collect();
    assert_eq!(world.counts().values().sum::<usize>(), 1);
    for answer in &answers {
        assert_eq!(answer.room.view.match_id, answers[0].room.view.match_id);
        assert_eq!(answer.secret, answers[0].secret);
    }
}

#[test]
fn without_a_key_a_room_that_exists_is_refused() {
    let world = World::new(&["a", "b"], 10);
    world.create("a", "room=1&member=1").unwrap();
    let refusal = world.create("a", "room=1&member=1").unwrap_err();
    assert!(matches!(
        refusal,
        Refusal::Create(CreateError::Exists { .. })
    ));
    let refusal = world.create("b", "room=1&member=1").unwrap_err();
    assert_eq!(
        (refusal.kind(), refusal.field()),
        (Kind::Exists, Some("room"))
    );
    assert_eq!(
        refusal.to_string(),
        "room 1 has a match that is not over, on node a"
    );
    // The refusal comes through another node, too.
    let refusal = world.create("a", "room=1&member=1&place=b").unwrap_err();
    assert_eq!(refusal.kind(), Kind::Exists);
    assert_eq!(world.counts()["b"], 0);
    assert_eq!(world.claims().len(), 1);
}

#[test]
fn a_claim_of_the_same_request_leads_to_its_answer() {
    let world = World::new(&["a", "b"], 10);
    let query = "room=1&member=1,2&request_key=k";
    let first = world.create("b", query).unwrap();
    let again = world.create("a", query).unwrap();
    assert_eq!(again, first);
    assert_eq!(node_of(&again), "b");
    let other = world.create("a", "room=1&member=1,2&request_key=other");
    assert_eq!(other.unwrap_err().kind(), Kind::Exists);
    // The answer of node b was remembered here.
    world.feels("b", Mood::Gone);
    assert_eq!(world.create("a", query), Ok(first));
}

#[test]
fn our_own_claim_of_a_match_that_is_over_does_not_block() {
    let world = World::new(&["a", "b"], 10);
    world.claim_for(1, "a", None);
    world.create("a", "room=1&member=1").unwrap();
    world.claim_for(2, "b", None);
    assert_eq!(
        world.create("a", "room=2&member=1").unwrap_err(),
        Refusal::Elsewhere {
            room: RoomId(2),
            node: id("b")
        }
    );
}

#[test]
fn without_etcd_rooms_are_made_where_asked() {
    let world = World::new(&["a", "b"], 10);
    world.etcd_down.store(true, Ordering::Relaxed);
    world.create("a", "room=1&member=1").unwrap();
    world.create("b", "room=1&member=1").unwrap();
    assert!(world.claims().is_empty());
    let refusal = world.operations("a").room(RoomId(7), Scope::Anywhere);
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.kind(), Kind::Unavailable);
    assert!(
        refusal.to_string().contains("etcd does not answer"),
        "{refusal}"
    );
}

// --- Finding ------------------------------------------------------------------------------

#[test]
fn every_node_finds_and_closes_every_room() {
    let world = World::new(&["a", "b", "c"], 10);
    world.create("a", "room=1&member=1&place=b").unwrap();
    for at in ["a", "b", "c"] {
        let found = world.operations(at).room(RoomId(1), Scope::Anywhere);
        let found = found.unwrap().unwrap();
        assert_eq!(found.home.unwrap().node, id("b"));
        let here = world.operations(at).room(RoomId(1), Scope::Here).unwrap();
        assert_eq!(here.is_some(), at == "b");
        let nothing = world.operations(at).room(RoomId(2), Scope::Anywhere);
        assert_eq!(nothing, Ok(None));
    }
    assert_eq!(
        world.operations("c").close(RoomId(1), Scope::Here),
        Ok(None)
    );
    let closed = world.operations("c").close(RoomId(1), Scope::Anywhere);
    let closed = closed.unwrap().unwrap();
    assert_eq!(closed.view.phase, Phase::Over(OverReason::Closed));
    assert_eq!(
        world.operations("c").close(RoomId(2), Scope::Anywhere),
        Ok(None)
    );
}

#[test]
fn a_match_that_is_over_here_does_not_hide_one_that_runs_elsewhere() {
    let world = World::new(&["a", "b"], 10);
    world.create("a", "room=1&member=1").unwrap();
    world.operations("a").close(RoomId(1), Scope::Here).unwrap();
    let shown = world.operations("a").room(RoomId(1), Scope::Anywhere);
    assert_eq!(shown.unwrap().unwrap().home.unwrap().node, id("a"));
    world.claim_for(1, "b", None);
    let spec = "room=1&member=1";
    world.etcd_down.store(true, Ordering::Relaxed);
    world.create("b", spec).unwrap();
    world.etcd_down.store(false, Ordering::Relaxed);
    let shown = world.operations("a").room(RoomId(1), Scope::Anywhere);
    assert_eq!(shown.unwrap().unwrap().home.unwrap().node, id("b"));
    world
        .operations("a")
        .close(RoomId(1), Scope::Anywhere)
        .unwrap();
    assert_eq!(world.counts()["b"], 0);
}

#[test]
fn a_holder_that_does_not_answer_is_named() {
    let world = World::new(&["a", "b"], 10);
    world.create("b", "room=1&member=1").unwrap();
    for mood in [Mood::Gone, Mood::Stuck] {
        world.feels("b", mood);
        let refusal = world.operations("a").room(RoomId(1), Scope::Anywhere);
        let refusal = refusal.unwrap_err();
        assert!(refusal.to_string().contains("node b"), "{refusal}");
        assert!(matches!(refusal.kind(), Kind::Unavailable | Kind::Unsure));
    }
    world.feels("b", Mood::Fine);
    world.changes("b", |record, _| record.instance = Instance(9));
    let refusal = world.operations("a").room(RoomId(1), Scope::Anywhere);
    let text = refusal.unwrap_err().to_string();
    assert!(
        text.contains("it has room 1, but it is not there now"),
        "{text}"
    );
}

#[test]
fn the_cluster_is_shown_with_our_own_numbers_as_they_are_now() {
    let world = World::new(&["a", "b"], 10);
    world.create("a", "room=1&member=1").unwrap();
    let view = world.operations("a").cluster().unwrap();
    assert_eq!(
        (view.node.id, view.node.rooms, view.node.serial),
        (id("a"), 1, 1)
    );
    let others: Vec<_> = view.others.iter().map(|seen| &seen.record.id).collect();
    assert_eq!(others, [&id("b")]);
    assert_eq!(view.warnings, ["room 9 is node b's, too"]);
}
