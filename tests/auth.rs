//! Who is let in: the token of a Connect under each `--auth`, on the engine under virtual
//! time. How a ticket is read is tested where it is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use lockstep_server::engine::auth::{Auth, RoomSecret};
use lockstep_server::engine::config::Config;
use lockstep_server::engine::event::Event;
use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::view::{OverReason, Phase};
use lockstep_server::engine::wire::message::ConnectCode::{self, NoPlayer, NoRoom, Ok, RoomState};
use lockstep_server::engine::wire::message::{Uplink, Version};
use lockstep_server::ticket::{TicketFault, TicketSecret, TicketSecrets};
use support::*;

const NEW: &str = "the secret that signs, 32 bytes!";
const OLD: &str = "the secret before it, and longer";
const FORGED: &str = "a secret that nobody else knows.";

fn secret(text: &str) -> TicketSecret {
    TicketSecret::new(text).unwrap()
}

/// A ticket that lives for a minute from the beginning of the world.
fn ticket(signed_with: &str, room: u64, player: u64) -> String {
    let secrets = TicketSecrets::new(secret(signed_with), None);
    secrets.sign(RoomId(room), PlayerId(player), WALL + 60)
}

/// A world with one room of these members.
fn world(auth: Auth, members: &[u64]) -> World {
    let mut world = World::new(Config {
        auth,
        ..Config::default()
    });
    world.server.create_room(world.now, spec(members)).unwrap();
    world
}

fn with_tickets(old: Option<&str>) -> World {
    let secrets = TicketSecrets::new(secret(NEW), old.map(secret));
    world(Auth::Ticket(secrets), &[1, 2])
}

fn connect(world: &mut World, peer: usize, room: u64, player: u64, token: &str) {
    let message = Uplink::Connect {
        player: PlayerId(player),
        room: RoomId(room),
        token: token.into(),
        version: Version::V1,
    };
    world.say(peer, &message);
    world.run_ms(20);
}

/// What a Connect is answered.
fn asked(world: &mut World, peer: usize, room: u64, player: u64, token: &str) -> ConnectCode {
    connect(world, peer, room, player, token);
    match world.take(peer)[..] {
        [Said::Connect(code)] => code,
        ref other => panic!("{other:?}"),
    }
}

/// What was told of refused tickets.
fn faults(world: &mut World) -> Vec<TicketFault> {
    let events = std::iter::from_fn(|| world.server.poll_event());
    let ticket = |event| match event {
        Event::Refused {
            code: ConnectCode::Token,
            ticket,
            ..
        } => ticket,
        _ => None,
    };
    events.filter_map(ticket).collect()
}

#[test]
fn open_lets_in_whatever_the_token() {
    let mut world = world(Auth::Open, &[1, 2, 3]);
    let long = "t".repeat(900);
    for (player, token) in [(1, ""), (2, "any"), (3, long.as_str())] {
        let peer = world.peer(0);
        assert_eq!(asked(&mut world, peer, 7, player, token), Ok);
    }
    assert!(world.room().seats.iter().all(|seat| seat.online));
}

#[test]
fn a_room_wants_its_secret_after_all_other_questions() {
    let mut world = world(Auth::Room, &[1, 2]);
    let digits = RoomSecret::from_bytes(*SECRET).to_hex();
    let peer = world.peer(0);
    let wrong = "00000000000000000000000000000000";
    assert_eq!(asked(&mut world, peer, 8, 3, wrong), NoRoom);
    assert_eq!(asked(&mut world, peer, 7, 3, &digits), NoPlayer);
    for token in [
        "",
        wrong,
        &digits[1..],
        &digits.to_uppercase(),
        &ticket(NEW, 7, 1),
    ] {
        let code = asked(&mut world, peer, 7, 1, token);
        assert_eq!(code, ConnectCode::Token, "{token:?}");
    }
    assert!(!world.room().seats[0].online);
    assert_eq!(asked(&mut world, peer, 7, 1, &digits), Ok);
    assert!(world.room().seats[0].online);
    // A room that is over is over for everybody.
    world.server.close_room(world.now, ROOM);
    let late = world.peer(0);
    assert_eq!(asked(&mut world, late, 7, 3, wrong), RoomState);
}

#[test]
fn each_room_has_a_secret_of_its_own() {
    let mut world = world(Auth::Room, &[1]);
    let mut other = spec(&[1]);
    other.room = RoomId(8);
    other.secret = RoomSecret::from_bytes([1; 16]);
    let others = other.secret.to_hex();
    world.server.create_room(world.now, other).unwrap();
    let peer = world.peer(0);
    assert_eq!(asked(&mut world, peer, 7, 1, &others), ConnectCode::Token);
    assert_eq!(asked(&mut world, peer, 8, 1, &others), Ok);
}

#[test]
fn every_bad_ticket_is_refused_and_a_good_one_on_the_same_connection_is_let_in() {
    use TicketFault::*;
    let mut world = with_tickets(None);
    let good = ticket(NEW, 7, 1);
    let signer = TicketSecrets::new(secret(NEW), None);
    let until = |expires| signer.sign(ROOM, PlayerId(1), expires);
    // Claims {"room":7,"player":1,"exp":1700000060}: PyJWT with algorithm="none".
    let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJyb29tIjo3LCJwbGF5ZXIiOjEsImV4cCI6MTc\
                    wMDAwMDA2MH0.";
    let peer = world.peer(0);
    for (token, fault) in [
        ("", Missing),
        ("any", Malformed),
        (&good[1..], Signature),
        (unsigned, Signature),
        (&ticket(FORGED, 7, 1), Signature),
        (&ticket(OLD, 7, 1), Signature),
        (&until(WALL), Expired),
        (NOT_YET, NotYet),
        (&ticket(NEW, 8, 1), OtherRoom),
        (&ticket(NEW, 7, 2), OtherPlayer),
    ] {
        let code = asked(&mut world, peer, 7, 1, token);
        assert_eq!(
            (code, faults(&mut world)),
            (ConnectCode::Token, vec![fault])
        );
        assert!(!world.room().seats[0].online, "{fault:?}");
    }
    assert_eq!(asked(&mut world, peer, 7, 1, &good), Ok);
    assert!(world.room().seats[0].online);
    assert_eq!(world.server.counters().sessions_opened, 1);
}

// Made with PyJWT 2.15.1: jwt.encode({"room": 7, "player": 1, "exp": 1700000060,
// "nbf": 1700000030}, NEW, algorithm="HS256").
const NOT_YET: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb29tIjo3LCJwbGF5ZXIiOjEsImV4cCI6MTcwMDAwMDA2MCwibmJmIjoxNzAwMDAwMDMwfQ.z5zwalg-GPGWpqRFVt9VeoXQPXc1hakHK1fZmPiEK1s";

#[test]
fn a_ticket_comes_before_the_question_which_rooms_and_players_there_are() {
    let mut world = with_tickets(None);
    let peer = world.peer(0);
    for (room, player) in [(8, 1), (7, 3), (8, 3)] {
        let bad = asked(
            &mut world,
            peer,
            room,
            player,
            &ticket(FORGED, room, player),
        );
        assert_eq!(bad, ConnectCode::Token);
    }
    assert_eq!(asked(&mut world, peer, 8, 1, &ticket(NEW, 8, 1)), NoRoom);
    assert_eq!(asked(&mut world, peer, 7, 3, &ticket(NEW, 7, 3)), NoPlayer);
    world.server.close_room(world.now, ROOM);
    assert_eq!(asked(&mut world, peer, 7, 1, &ticket(NEW, 7, 1)), RoomState);
    assert_eq!(
        asked(&mut world, peer, 7, 1, "any"),
        ConnectCode::Token,
        "also of a room that is over"
    );
}

#[test]
fn a_ticket_counts_by_the_wall_when_the_connect_is_read() {
    let mut world = with_tickets(None);
    let peer = world.peer(0);
    let good = ticket(NEW, 7, 1);
    assert_eq!(asked(&mut world, peer, 7, 1, NOT_YET), ConnectCode::Token);
    world.run_ms(30_000);
    assert_eq!(asked(&mut world, peer, 7, 1, NOT_YET), Ok);
    world.run_ms(30_000);
    // The seat stays; only the next Connect needs another ticket.
    assert!(world.room().seats[0].online);
    world.take(peer);
    let second = world.peer(1);
    assert_eq!(asked(&mut world, second, 7, 1, &good), ConnectCode::Token);
    assert!(world.room().seats[0].online);
    // The wall is set back: the ticket counts again.
    world.server.set_wall(world.now, (WALL + 59) * 1_000_000);
    assert_eq!(asked(&mut world, second, 7, 1, &good), Ok);
}

#[test]
fn two_secrets_are_accepted_while_one_is_given_up() {
    let mut world = with_tickets(Some(OLD));
    for (player, signed_with) in [(1, OLD), (2, NEW)] {
        let peer = world.peer(0);
        let token = ticket(signed_with, 7, player);
        assert_eq!(asked(&mut world, peer, 7, player, &token), Ok);
    }
    let peer = world.peer(0);
    let token = ticket(FORGED, 7, 1);
    assert_eq!(asked(&mut world, peer, 7, 1, &token), ConnectCode::Token);
}

#[test]
fn a_takeover_without_a_good_token_leaves_the_seat_as_it_is() {
    let digits = RoomSecret::from_bytes(*SECRET).to_hex();
    let room = (world(Auth::Room, &[1, 2]), digits, "0".repeat(32));
    let tickets = (with_tickets(None), ticket(NEW, 7, 1), ticket(NEW, 7, 2));
    for (mut world, good, bad) in [room, tickets] {
        let holder = world.peer(0);
        assert_eq!(asked(&mut world, holder, 7, 1, &good), Ok);
        world.say(holder, &Uplink::JoinRoom);
        world.run_ms(20);
        world.take(holder);
        let thief = world.peer(5);
        assert_eq!(asked(&mut world, thief, 7, 1, &bad), ConnectCode::Token);
        world.say(thief, &Uplink::JoinRoom);
        world.say(thief, &Uplink::Ready);
        world.say(holder, &Uplink::Ready);
        world.run_ms(50);
        assert_eq!(world.take(thief), []);
        assert_eq!(world.take(holder), [Said::Ready]);
        // Its own connection does not lose the seat by a bad token either.
        assert_eq!(asked(&mut world, holder, 7, 1, &bad), ConnectCode::Token);
        let seat = &world.room().seats[0];
        assert!(seat.online && seat.ready);
        // A good one takes the seat over, from another address too.
        assert_eq!(asked(&mut world, thief, 7, 1, &good), Ok);
        assert_eq!(world.server.counters().sessions, 1);
    }
}

#[test]
fn a_connect_that_was_granted_for_one_match_claims_no_seat_of_the_next() {
    for lingers in [true, false] {
        let mut world = world(Auth::Room, &[1, 2]);
        let digits = RoomSecret::from_bytes(*SECRET).to_hex();
        let peer = world.peer(9);
        let message = Uplink::Connect {
            player: PlayerId(2),
            room: ROOM,
            token: digits,
            version: Version::V1,
        };
        world.say(peer, &message);
        // The Connect arrives, the answer leaves, and nothing comes back yet.
        world.run_ms(6);
        world.peers[peer].mute = true;
        world.server.close_room(world.now, ROOM);
        if !lingers {
            world.run_ms(3100);
            assert!(world.server.room(ROOM).is_none());
        }
        // Created anew, in the same slot if the old one is gone: for the same player, with
        // another secret.
        let mut next = spec(&[2, 3]);
        next.secret = RoomSecret::from_bytes([1; 16]);
        world.server.create_room(world.now, next).unwrap();
        world.peers[peer].mute = false;
        world.run_ms(3000);
        assert_eq!(world.take(peer), [Said::Connect(Ok), Said::Close]);
        let room = world.room();
        assert!(room.seats.iter().all(|seat| !seat.online), "{lingers}");
        assert_eq!(room.phase, Phase::Waiting);
        // It may try again, and then its token is the wrong one.
        assert_eq!(
            asked(&mut world, peer, 7, 2, "0"),
            ConnectCode::Token,
            "{lingers}"
        );
    }
}

#[test]
fn a_claim_of_a_match_that_ended_gets_close() {
    let mut world = world(Auth::Open, &[1]);
    let peer = world.peer(9);
    world.connect(peer, 1);
    world.run_ms(6);
    world.server.close_room(world.now, ROOM);
    world.run_ms(500);
    assert_eq!(world.take(peer), [Said::Connect(Ok), Said::Close]);
    assert_eq!(world.room().phase, Phase::Over(OverReason::Closed));
    assert!(!world.room().seats[0].online);
}
