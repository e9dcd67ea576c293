//! A room that is on another server, as claims: who of version 2 asks for it is told where, nobody
//! else notices, and a flood neither asks much nor keeps others from asking.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::cluster::node::Address;
use lockstep_server::engine::auth::Auth;
use lockstep_server::engine::config::Config;
use lockstep_server::engine::drops::Disconnect;
use lockstep_server::engine::event::Event;
use lockstep_server::engine::id::{Conv, PlayerId, RoomId};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::message::{ConnectCode, Uplink, Version, WatchFrom};
use lockstep_server::engine::wire::segment::{Cmd, Segment, Segments, write};
use lockstep_server::limits::{
    QUESTION_LIFE, QUESTIONS_OPEN_MAX, QUESTIONS_PER_RANGE_AND_SECOND, QUESTIONS_PER_SECOND,
    REDIRECTS_MAX, SEATLESS_PER_RANGE_MAX,
};
use lockstep_server::ticket::{TicketSecret, TicketSecrets};
use support::*;

/// Nowhere here.
const MISSING: RoomId = RoomId(70);

fn there() -> Address {
    Address::new("192.0.2.7:10086").unwrap()
}

/// A server that asks where rooms are, and has none.
fn asking() -> World {
    let mut world = World::new(Config::default());
    world.server.ask_elsewhere();
    world
}

fn connect_to(room: RoomId, player: u64, version: Version) -> Uplink<'static> {
    Uplink::Connect {
        player: PlayerId(player),
        room,
        token: String::new(),
        version,
    }
}

/// A peer of v2 that has connected to a room, and whose address is proved.
fn waiting(world: &mut World, room: RoomId, player: u64) -> usize {
    let peer = world.peer(77);
    world.say(peer, &connect_to(room, player, Version::V2));
    world.run_ms(30);
    assert_eq!(world.take(peer), [Said::Heartbeat], "it only waits");
    peer
}

/// The questions that there are now.
fn questions(world: &mut World) -> Vec<RoomId> {
    std::iter::from_fn(|| world.server.poll_question()).collect()
}

const REFUSED: Said = Said::Connect(ConnectCode::NoRoom);

// --- Who is told --------------------------------------------------------------------------

#[test]
fn who_connects_to_the_wrong_server_is_told_the_right_one() {
    let mut world = asking();
    let peer = waiting(&mut world, MISSING, 5);
    assert_eq!(questions(&mut world), [MISSING]);
    assert_eq!(questions(&mut world), [], "each is asked once");
    world
        .server
        .handle_located(world.now, MISSING, Some(&there()));
    world.run_ms(20);
    assert_eq!(world.take(peer), [Said::Elsewhere(there())]);
    let told = std::iter::from_fn(|| world.server.poll_event()).find_map(|event| match event {
        Event::Refused {
            code, elsewhere, ..
        } => Some((code, elsewhere)),
        _ => None,
    });
    assert_eq!(told, Some((ConnectCode::NoRoom, Some(there()))));
    let counters = world.server.counters();
    let counted = (counters.questions, counters.questions_located);
    assert_eq!((counted, counters.redirects), ((1, 1), 1));
    world.run_ms(3000);
    assert_eq!(world.take(peer), [], "once and for all");
    assert_eq!(world.server.open_questions(), 0);
}

#[test]
fn a_room_that_nobody_has_is_none() {
    let mut world = asking();
    let peer = waiting(&mut world, MISSING, 5);
    world.server.handle_located(world.now, MISSING, None);
    world.run_ms(20);
    assert_eq!(world.take(peer), [REFUSED]);
    assert_eq!(world.server.counters().questions_located, 0);
}

#[test]
fn nobody_waits_for_an_answer_for_more_than_a_second() {
    let mut world = asking();
    let peer = waiting(&mut world, MISSING, 5);
    assert_eq!(questions(&mut world), [MISSING]);
    let asked = world.now;
    world.run_until(asked + QUESTION_LIFE - Duration::from_millis(40));
    assert_eq!(world.take(peer), []);
    world.run_until(asked + QUESTION_LIFE + Duration::from_millis(40));
    assert_eq!(world.take(peer), [REFUSED]);
    // The answer comes after all, and to nobody.
    world
        .server
        .handle_located(world.now, MISSING, Some(&there()));
    world.run_ms(2000);
    assert_eq!(world.take(peer), []);
    let counters = world.server.counters();
    assert_eq!((counters.questions_late, counters.redirects), (1, 0));
}

#[test]
fn who_wants_to_watch_is_told_as_well() {
    let mut world = asking();
    let peer = world.peer(77);
    let watch = Uplink::Watch {
        player: PlayerId(5),
        room: MISSING,
        token: String::new(),
        from: WatchFrom::Newest,
    };
    world.say(peer, &watch);
    world.run_ms(30);
    assert_eq!(questions(&mut world), [MISSING]);
    world
        .server
        .handle_located(world.now, MISSING, Some(&there()));
    world.run_ms(20);
    assert_eq!(
        world.take(peer),
        [Said::Heartbeat, Said::Elsewhere(there())]
    );
}

#[test]
fn all_who_ask_for_a_room_make_one_question() {
    let mut world = asking();
    let first = waiting(&mut world, MISSING, 5);
    let second = waiting(&mut world, MISSING, 6);
    let other = waiting(&mut world, RoomId(71), 7);
    assert_eq!(questions(&mut world), [MISSING, RoomId(71)]);
    world
        .server
        .handle_located(world.now, MISSING, Some(&there()));
    world.run_ms(20);
    assert_eq!(world.take(first), [Said::Elsewhere(there())]);
    assert_eq!(world.take(second), [Said::Elsewhere(there())]);
    assert_eq!(world.take(other), []);
    let counters = world.server.counters();
    assert_eq!((counters.questions, counters.redirects), (2, 2));
}

#[test]
fn repeats_of_a_connect_get_one_answer_each() {
    let mut world = asking();
    world.copies = 3;
    let peer = waiting(&mut world, MISSING, 5);
    // The same once more, while it waits, and other rooms behind that.
    for room in [MISSING, RoomId(71)] {
        world.say(peer, &connect_to(room, 5, Version::V2));
    }
    world.run_ms(400);
    assert_eq!(questions(&mut world), [MISSING], "one at a time");
    assert_eq!(world.take(peer), []);
    for (room, next) in [
        (MISSING, vec![MISSING]),
        (MISSING, vec![RoomId(71)]),
        (RoomId(71), vec![]),
    ] {
        world.server.handle_located(world.now, room, Some(&there()));
        world.run_ms(300);
        assert_eq!(world.take(peer), [Said::Elsewhere(there())]);
        assert_eq!(questions(&mut world), next);
    }
    world.run_ms(3000);
    assert_eq!(world.take(peer), []);
}

#[test]
fn a_connect_that_waits_is_not_acknowledged_and_then_it_is() {
    let mut world = asking();
    let peer = waiting(&mut world, MISSING, 5);
    world.run_ms(900);
    let una = |world: &mut World| {
        let datagrams = std::mem::take(&mut world.peers[peer].datagrams);
        let segments = datagrams
            .iter()
            .flat_map(|bytes| Segments::of_output(bytes));
        let heads = segments.map(|segment| (segment.cmd, segment.una));
        heads.collect::<Vec<_>>()
    };
    let heard = una(&mut world);
    let silent = |(cmd, una): &(Cmd, u32)| *cmd != Cmd::Ack && *una == 0;
    assert!(heard.iter().all(silent), "{heard:?}");
    world.server.handle_located(world.now, MISSING, None);
    world.run_ms(20);
    assert!(una(&mut world).iter().any(|(_, una)| *una == 1));
    assert!(!world.server.has_outstanding());
}

// --- A room that is here after all --------------------------------------------------------

#[test]
fn a_room_that_is_created_meanwhile_takes_those_who_wait() {
    for answered in [true, false] {
        let mut world = asking();
        let peer = waiting(&mut world, ROOM, 5);
        for message in [Uplink::JoinRoom, Uplink::Ready] {
            world.say(peer, &message);
        }
        world.run_ms(200);
        world.server.create_room(world.now, spec(&[5])).unwrap();
        world.run_ms(100);
        assert_eq!(world.take(peer), [], "not before the answer");
        if answered {
            world.server.handle_located(world.now, ROOM, Some(&there()));
        }
        world.run_ms(1000);
        let said = world.take(peer);
        assert!(matches!(said[0], Said::Welcome(_)), "{said:?}");
        assert!(matches!(said[1], Said::JoinRoom { seat: 1, .. }));
        assert_eq!(said[2], Said::Ready);
        assert!(said.iter().any(|said| matches!(said, Said::Frames(_))));
        assert_eq!(world.server.counters().redirects, 0);
    }
}

#[test]
fn a_room_that_is_here_is_answered_as_ever() {
    let mut world = asking();
    world.server.create_room(world.now, spec(&[5])).unwrap();
    for (player, code) in [(5, None), (6, Some(ConnectCode::NoPlayer))] {
        let peer = world.peer(77);
        world.say(peer, &connect_to(ROOM, player, Version::V2));
        world.run_ms(20);
        match (&world.take(peer)[..], code) {
            ([Said::Welcome(_)], None) => {}
            ([Said::Connect(got)], Some(code)) => assert_eq!(*got, code),
            (other, _) => panic!("{other:?}"),
        }
    }
    assert_eq!(questions(&mut world), []);
}

#[test]
fn who_has_a_seat_may_ask_for_another_room() {
    let mut world = asking();
    world.server.create_room(world.now, spec(&[5])).unwrap();
    let peer = world.peer(77);
    for message in [
        connect_to(ROOM, 5, Version::V2),
        Uplink::JoinRoom,
        Uplink::Ready,
    ] {
        world.say(peer, &message);
    }
    world.run_ms(300);
    world.take(peer);
    world.say(peer, &connect_to(MISSING, 5, Version::V2));
    world.run_ms(100);
    assert_eq!(questions(&mut world), [MISSING]);
    world
        .server
        .handle_located(world.now, MISSING, Some(&there()));
    world.run_ms(100);
    let said = world.take(peer);
    assert!(said.contains(&Said::Elsewhere(there())), "{said:?}");
    assert!(world.room().seats[0].online, "what it had stays as it was");
    world.press(peer, 9);
    world.run_ms(100);
    let frames = world.take_frames(peer);
    assert!(frames.iter().any(|frame| !frame.inputs.is_empty()));
}

// --- Who is not asked for -----------------------------------------------------------------

/// What a peer of this version gets that connects to a room which is not there, in bytes.
fn told(mut world: World, version: Version) -> Vec<Vec<u8>> {
    let peer = world.peer(77);
    world.say(peer, &connect_to(MISSING, 5, version));
    world.run_ms(50);
    world.say(peer, &Uplink::Heartbeat);
    world.run_ms(2000);
    assert_eq!(questions(&mut world), []);
    std::mem::take(&mut world.peers[peer].datagrams)
}

#[test]
fn a_client_of_v1_gets_the_bytes_that_it_always_got() {
    let before = told(World::new(Config::default()), Version::V1);
    assert_eq!(told(asking(), Version::V1), before);
    let v2 = told(World::new(Config::default()), Version::V2);
    assert_eq!(v2, before, "and so does v2 where nobody is asked");
}

/// A Connect to this room as the first datagram of a conversation, which acknowledges nothing.
fn first_datagram(room: RoomId) -> Vec<u8> {
    let mut packet = Vec::new();
    connect_to(room, 5, Version::V2).encode(&mut packet);
    push(0, &packet)
}

/// What the server sends now to an address.
fn sent_to(server: &mut Server, now: Time, addr: SocketAddr) -> Vec<Vec<u8>> {
    let mut batch = Transmits::default();
    server.poll_transmit(now, &mut batch);
    let own = batch.iter().filter(|(to, _)| *to == addr);
    own.map(|(_, bytes)| bytes.to_vec()).collect()
}

#[test]
fn nobody_is_asked_for_an_address_that_is_not_proved() {
    let mut world = asking();
    for number in 0..2000 {
        let from = SocketAddr::from(([10, 1, (number % 200) as u8, 7], 1000 + number));
        let mut bytes = first_datagram(RoomId(u64::from(number) + 100));
        let heard = bytes.len();
        world.server.handle_datagram(world.now, from, &mut bytes);
        let sent = sent_to(&mut world.server, world.now, from);
        assert_eq!(sent.len(), 1);
        assert!(sent[0].len() < heard, "it fetches less than it is");
    }
    assert_eq!(questions(&mut world), []);
    assert_eq!(world.server.counters().questions, 0);
    // Nor do they keep an honest player from it.
    waiting(&mut world, MISSING, 5);
    assert_eq!(questions(&mut world), [MISSING]);
    world.run_ms(10_000);
    assert_eq!(world.server.open_questions(), 0);
}

#[test]
fn without_a_ticket_nobody_is_asked() {
    let secret = TicketSecret::new("at least thirty-two bytes of secret").unwrap();
    let mut world = World::new(Config {
        auth: Auth::Ticket(TicketSecrets::new(secret, None)),
        ..Config::default()
    });
    world.server.ask_elsewhere();
    let peer = world.peer(77);
    world.say(peer, &connect_to(MISSING, 5, Version::V2));
    world.run_ms(30);
    assert_eq!(world.take(peer), [Said::Connect(ConnectCode::Token)]);
    assert_eq!(questions(&mut world), []);
}

/// Somebody at an address connects to a room and proves where they are.
fn ask_from(world: &mut World, from: SocketAddr, room: RoomId) {
    let now = world.now;
    world
        .server
        .handle_datagram(now, from, &mut first_datagram(room));
    let answer = sent_to(&mut world.server, now, from);
    let said = Segments::of_output(&answer[0]).next().unwrap();
    let mut echo = Vec::new();
    let ack = Segment {
        conv: said.conv,
        cmd: Cmd::Ack,
        frg: 0,
        wnd: 128,
        ts: said.ts,
        sn: said.sn,
        una: 1,
        data: &[],
    };
    write(&mut echo, &ack);
    world.server.handle_datagram(now, from, &mut echo);
}

fn at(range: u8, host: u16) -> SocketAddr {
    let [high, low] = host.to_be_bytes();
    SocketAddr::from(([10, 1, range, low], 5000 + u16::from(high)))
}

#[test]
fn a_flood_of_one_range_leaves_questions_to_the_others() {
    let mut world = asking();
    for number in 0..1000 {
        ask_from(&mut world, at(1, number), RoomId(1000 + u64::from(number)));
    }
    let of_range = usize::try_from(QUESTIONS_PER_RANGE_AND_SECOND).unwrap();
    assert_eq!(questions(&mut world).len(), of_range);
    assert_eq!(world.server.open_questions(), of_range);
    let counters = world.server.counters();
    assert_eq!(counters.questions_too_often, 1000 - of_range as u64);
    ask_from(&mut world, at(2, 0), MISSING);
    assert_eq!(questions(&mut world), [MISSING]);
    // Whoever of the range asks for a room that is asked for already waits as well.
    ask_from(&mut world, at(1, 1000), MISSING);
    assert_eq!(questions(&mut world), []);
    world
        .server
        .handle_located(world.now, MISSING, Some(&there()));
    assert_eq!(world.server.counters().redirects, 2);
    world.server.assert_invariants();
}

#[test]
fn a_flood_of_many_ranges_opens_only_so_many_questions() {
    let mut world = asking();
    let mut asked = 0;
    for range in 0..100 {
        for host in 0..20 {
            let room = RoomId(1000 + u64::from(range) * 100 + u64::from(host));
            ask_from(&mut world, at(range, host), room);
            assert!(world.server.open_questions() <= QUESTIONS_OPEN_MAX);
        }
        // Some are answered at once.
        for room in questions(&mut world) {
            asked += 1;
            if asked % 2 == 0 {
                world.server.handle_located(world.now, room, None);
            }
        }
    }
    assert!(asked >= QUESTIONS_OPEN_MAX && asked <= QUESTIONS_PER_SECOND as usize);
    let counters = world.server.counters();
    assert!(counters.questions_full + counters.questions_too_often > 1000);
    world.server.assert_invariants();
    world.run_ms(2000);
    assert_eq!(world.server.open_questions(), 0);
    waiting(&mut world, MISSING, 5);
    assert_eq!(
        questions(&mut world),
        [MISSING],
        "the next second is another"
    );
}

// --- Sessions that end --------------------------------------------------------------------

#[test]
fn whose_client_begins_anew_while_it_waits_is_forgotten() {
    let mut world = asking();
    let peer = waiting(&mut world, MISSING, 5);
    world.restart(peer, 78);
    world.say(peer, &connect_to(RoomId(71), 5, Version::V2));
    world.run_ms(100);
    assert_eq!(
        world.server.counters().disconnects(Disconnect::Restarted),
        1
    );
    assert_eq!(questions(&mut world), [MISSING, RoomId(71)]);
    world
        .server
        .handle_located(world.now, MISSING, Some(&there()));
    world.run_ms(100);
    let said = world.take(peer);
    assert!(said.iter().all(|said| *said == Said::Heartbeat), "{said:?}");
    world.server.handle_located(world.now, RoomId(71), None);
    world.run_ms(100);
    assert_eq!(world.take(peer), [REFUSED]);
    world.server.assert_invariants();
}

/// A peer waits for its answer, and then its session makes way for a flood of its range.
fn crowded_out(world: &mut World, room: RoomId) -> usize {
    let peer = waiting(world, room, 5);
    world.peers[peer].mute = true;
    for number in 0..SEATLESS_PER_RANGE_MAX {
        let from = SocketAddr::from(([127, 0, 0, 9], 3000 + u16::try_from(number).unwrap()));
        let mut bytes = first_datagram(RoomId(5000));
        world.server.handle_datagram(world.now, from, &mut bytes);
    }
    let crowded = world.server.counters().disconnects(Disconnect::Crowded);
    assert!(crowded >= 1);
    world.peers[peer].mute = false;
    peer
}

#[test]
fn whose_session_makes_way_for_a_flood_asks_again_by_itself() {
    let mut world = asking();
    let peer = crowded_out(&mut world, MISSING);
    assert_eq!(questions(&mut world), [MISSING]);
    world.server.handle_located(world.now, MISSING, None);
    assert_eq!(world.take(peer), [], "nobody waits for it any more");
    world.run_ms(400);
    let asked = questions(&mut world);
    assert_eq!(asked, [MISSING], "its Connect has come again");
    world
        .server
        .handle_located(world.now, MISSING, Some(&there()));
    world.run_ms(100);
    assert_eq!(world.take(peer), [Said::Elsewhere(there())]);
}

#[test]
fn whose_session_makes_way_finds_the_room_that_was_created_meanwhile() {
    let mut world = asking();
    let peer = crowded_out(&mut world, ROOM);
    world.server.create_room(world.now, spec(&[5])).unwrap();
    world.say(peer, &Uplink::JoinRoom);
    world.run_ms(1500);
    // What the session before had said first must not be taken for this.
    let said = world.take(peer);
    assert!(matches!(said[0], Said::Welcome(_)), "{said:?}");
    assert!(matches!(said[1], Said::JoinRoom { .. }));
}

#[test]
fn a_server_that_stops_asks_nobody() {
    let mut world = asking();
    let peer = waiting(&mut world, MISSING, 5);
    world.server.stop(world.now);
    world.run_ms(1200);
    assert_eq!(world.take(peer), [Said::Close, REFUSED]);
    world.say(peer, &connect_to(MISSING, 5, Version::V2));
    world.run_ms(50);
    assert_eq!(world.take(peer), [REFUSED]);
    assert_eq!(world.server.counters().questions, 1);
}

// --- The client ---------------------------------------------------------------------------

/// Two servers, of which the first knows where the room is, and a client that follows its word.
struct Two {
    now: Time,
    servers: [Server; 2],
    client: Client,
    /// Which server the client speaks to, and from where.
    at: usize,
    port: u16,
    events: Vec<ClientEvent>,
    frames: Vec<u32>,
    hops: u32,
    /// What the servers say where a room is.
    says: Option<Address>,
}

impl Two {
    fn new(config: ClientConfig) -> Two {
        let server = || Server::new(Config::default(), secrets(), WALL * 1_000_000);
        let mut servers = [server(), server()];
        servers.iter_mut().for_each(Server::ask_elsewhere);
        let now = Time::ZERO;
        let mut client = Client::new(now, config);
        client.join();
        client.ready();
        Two {
            now,
            servers,
            client,
            at: 0,
            port: 1,
            events: Vec::new(),
            frames: Vec::new(),
            hops: 0,
            says: Some(there()),
        }
    }

    /// Goes on at one of the servers, from a new port.
    fn go_to(&mut self, server: usize) {
        self.at = server;
        self.port += 1;
        self.client
            .reconnect(self.now, Conv(u32::from(self.port)), 0);
    }

    fn run(&mut self, ms: u64) {
        let mut batch = Transmits::default();
        for _ in 0..ms {
            self.now = self.now + Duration::from_millis(1);
            let now = self.now;
            self.client.handle_timeout(now);
            self.client.poll_transmit(now, &mut batch);
            let from = SocketAddr::from(([127, 0, 0, 1], self.port));
            for (_, bytes) in batch.iter() {
                self.servers[self.at].handle_datagram(now, from, &mut bytes.to_vec());
            }
            for server in 0..2 {
                let own = &mut self.servers[server];
                own.handle_timeout(now);
                while let Some(room) = own.poll_question() {
                    own.handle_located(now, room, self.says.as_ref());
                }
                own.poll_transmit(now, &mut batch);
                for (to, bytes) in batch.iter() {
                    if to == from && server == self.at {
                        self.client.handle_datagram(now, &mut bytes.to_vec());
                    }
                }
            }
            while let Some(event) = self.client.poll_event() {
                match event {
                    ClientEvent::Frame(frame) => self.frames.push(frame.id),
                    ClientEvent::Redirected { ref address } => {
                        assert_eq!(*address, there().as_str());
                        self.hops += 1;
                        self.go_to(1 - self.at);
                    }
                    ClientEvent::HeartbeatAnswered => {}
                    event => self.events.push(event),
                }
            }
        }
    }
}

#[test]
fn the_client_follows_and_plays_where_its_room_is() {
    let mut two = Two::new(ClientConfig::new(PlayerId(5), ROOM));
    two.servers[1].create_room(two.now, spec(&[5])).unwrap();
    two.run(1000);
    assert_eq!((two.hops, two.at), (1, 1));
    let ids: Vec<u32> = (0..).take(two.frames.len()).collect();
    assert!(two.frames.len() > 20);
    assert_eq!(two.frames, ids);
    assert!(matches!(two.events[0], ClientEvent::Connected));
}

#[test]
fn a_client_that_comes_back_to_the_wrong_server_loses_nothing_of_its_match() {
    let mut two = Two::new(ClientConfig::new(PlayerId(5), ROOM));
    two.servers[1].create_room(two.now, spec(&[5])).unwrap();
    two.run(1000);
    let held = u32::try_from(two.frames.len()).unwrap();
    two.events.clear();
    two.go_to(0);
    two.run(1000);
    assert_eq!(two.hops, 2, "it was let in between the two");
    let next = two.events.iter().find_map(|event| match event {
        ClientEvent::Started { next, .. } => Some(*next),
        _ => None,
    });
    assert_eq!(next, Some(held), "it goes on where it was");
    let ids: Vec<u32> = (0..).take(two.frames.len()).collect();
    assert!(two.frames.len() > 45);
    assert_eq!(two.frames, ids, "no gap and no repeat");
}

#[test]
fn servers_that_send_a_client_to_each_other_have_lost_it_after_three_times() {
    let mut two = Two::new(ClientConfig::new(PlayerId(5), ROOM));
    two.run(3000);
    assert_eq!(two.hops, REDIRECTS_MAX);
    assert_eq!(two.events, [ClientEvent::Refused(ConnectCode::NoRoom)]);
    // Its owner may ask again, and then it is sent on again.
    two.events.clear();
    assert!(two.client.connect());
    two.run(3000);
    assert_eq!(two.hops, 2 * REDIRECTS_MAX);
    assert_eq!(two.events, [ClientEvent::Refused(ConnectCode::NoRoom)]);
}

#[test]
fn without_an_address_the_client_is_refused_as_ever() {
    let mut two = Two::new(ClientConfig::new(PlayerId(5), ROOM));
    two.says = None;
    two.run(500);
    assert_eq!(two.events, [ClientEvent::Refused(ConnectCode::NoRoom)]);
}

#[test]
fn a_client_of_v1_is_not_sent_on() {
    let mut config = ClientConfig::new(PlayerId(5), ROOM);
    config.version = Version::V1;
    let mut two = Two::new(config);
    two.run(500);
    assert_eq!(two.events, [ClientEvent::Refused(ConnectCode::NoRoom)]);
    assert_eq!(two.servers[0].counters().questions, 0);
}
