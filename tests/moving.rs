//! A session of v2 goes on at another address, as claims: nothing is lost or repeated, nobody else
//! can steer it, and whose session is gone learns it at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use lockstep_server::client::{Client, ClientConfig, ClientEvent, ClientState};
use lockstep_server::engine::config::{Config, Secrets};
use lockstep_server::engine::drops::{Disconnect, Drop};
use lockstep_server::engine::event::Event;
use lockstep_server::engine::id::{Conv, MatchId, PlayerId};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::view::RoomSpec;
use lockstep_server::engine::wire::frame::Command;
use lockstep_server::engine::wire::message::{Downlink, Uplink, Version, WatchFrom, Welcome};
use lockstep_server::engine::wire::packet::Packet;
use lockstep_server::engine::wire::signal::{
    Pass, SIGNAL_BYTES, SessionId, SessionSecret, Signal, SignalKind,
};
use lockstep_server::limits::{
    CHALLENGE_LIFE, KNOCK_AFTER, KNOCK_EVERY_MIN, OFFLINE_AFTER, SIGNALS_PER_RANGE_AND_SECOND,
};
use support::{ROOM, WALL, push, secrets, spec};

/// One player's client, where it is, and what it was told.
struct Player {
    client: Client,
    addr: SocketAddr,
    events: Vec<ClientEvent>,
    /// Frames that it got, and its own inputs in them.
    frames: Vec<u32>,
    own: Vec<i32>,
    pressed: i32,
    /// What the server sends to it is lost.
    deaf: bool,
    /// What it sends is lost.
    mute: bool,
}

/// A server, its clients, and a network in which each way takes a millisecond.
struct Rig {
    server: Server,
    now: Time,
    players: Vec<Player>,
    /// All that clients have sent, and to whom no client listens.
    up: Vec<(SocketAddr, Vec<u8>)>,
    strangers: Vec<(SocketAddr, Vec<u8>)>,
    moves: Vec<(SocketAddr, SocketAddr)>,
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

/// Whose address an attacker has.
fn thief() -> SocketAddr {
    SocketAddr::from(([10, 66, 6, 6], 666))
}

fn kind_of(datagram: &[u8]) -> Option<SignalKind> {
    Signal::parse(datagram).ok().map(|signal| signal.kind)
}

impl Rig {
    /// A match in play of players 1, 2 and so on, who speak v2, at ports 1, 2 and so on.
    fn playing(count: u16) -> Rig {
        let members: Vec<u64> = (1..=u64::from(count)).collect();
        let mut rig = Rig::with_room(&members);
        for number in 1..=count {
            rig.enter(number, u64::from(number), Version::V2);
        }
        rig.run(300);
        for player in &rig.players {
            assert_eq!(player.client.state(), ClientState::Playing);
        }
        rig
    }

    fn with_room(members: &[u64]) -> Rig {
        Rig::with(spec(members))
    }

    fn with(spec: RoomSpec) -> Rig {
        let mut server = Server::new(Config::default(), secrets(), WALL * 1_000_000);
        server.create_room(Time::ZERO, spec).unwrap();
        Rig {
            server,
            now: Time::ZERO,
            players: Vec::new(),
            up: Vec::new(),
            strangers: Vec::new(),
            moves: Vec::new(),
        }
    }

    /// A match in play of two, and one who watches it so many frames late.
    fn watched(delay: u32) -> (Rig, usize) {
        let mut rig = Rig::with(RoomSpec {
            watchers_max: Some(1),
            watch_delay: Some(delay),
            ..spec(&[1, 2])
        });
        for number in [1, 2] {
            rig.enter(number, u64::from(number), Version::V2);
        }
        rig.run(300);
        let fan = rig.enter_to_watch(3);
        rig.run(300);
        assert_eq!(rig.players[fan].client.state(), ClientState::Playing);
        (rig, fan)
    }

    fn enter(&mut self, port: u16, player: u64, version: Version) -> usize {
        let mut config = ClientConfig::new(PlayerId(player), ROOM);
        config.version = version;
        self.enter_with(port, config)
    }

    fn enter_to_watch(&mut self, port: u16) -> usize {
        let mut config = ClientConfig::new(PlayerId(900), ROOM);
        config.watch = Some(WatchFrom::Start);
        self.enter_with(port, config)
    }

    fn enter_with(&mut self, port: u16, mut config: ClientConfig) -> usize {
        config.conv = Conv(u32::from(port) + 70);
        config.heartbeat_every = None;
        let mut client = Client::new(self.now, config);
        client.join();
        client.ready();
        self.players.push(Player {
            client,
            addr: addr(port),
            events: Vec::new(),
            frames: Vec::new(),
            own: Vec::new(),
            pressed: 0,
            deaf: false,
            mute: false,
        });
        self.players.len() - 1
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        let (now, mut batch) = (self.now, Transmits::default());
        for player in &mut self.players {
            player.client.handle_timeout(now);
            player.read();
            player.client.poll_transmit(now, &mut batch);
            for (_, datagram) in batch.iter() {
                self.up.push((player.addr, datagram.to_vec()));
                if !player.mute {
                    let mut datagram = datagram.to_vec();
                    self.server.handle_datagram(now, player.addr, &mut datagram);
                }
            }
        }
        batch.clear();
        self.server.handle_timeout(now);
        self.server.poll_transmit(now, &mut batch);
        for (to, datagram) in batch.iter() {
            match self.players.iter_mut().find(|player| player.addr == to) {
                Some(player) if !player.deaf => {
                    player.client.handle_datagram(now, &mut datagram.to_vec());
                }
                Some(_) => {}
                None => self.strangers.push((to, datagram.to_vec())),
            }
        }
        while let Some(event) = self.server.poll_event() {
            if let Event::SessionMoved { from, to, .. } = event {
                self.moves.push((from, to));
            }
        }
        self.server.assert_invariants();
    }

    /// Runs, and lets everybody press every so often.
    fn play(&mut self, ms: u64) {
        for at in 0..ms {
            if at % 40 == 0 {
                for player in &mut self.players {
                    let (sid, x) = (1, player.pressed);
                    if player.client.input(Command { sid, x, y: 0 }) {
                        player.pressed += 1;
                    }
                }
            }
            self.step();
        }
    }

    /// Somebody sends the server a datagram that names this address.
    fn inject(&mut self, from: SocketAddr, datagram: &[u8]) {
        let mut datagram = datagram.to_vec();
        self.server.handle_datagram(self.now, from, &mut datagram);
    }

    fn drops(&self, reason: Drop) -> u64 {
        self.server.counters().drops(reason)
    }

    fn disconnects(&self, reason: Disconnect) -> u64 {
        self.server.counters().disconnects(reason)
    }

    fn has_moved(&self) -> u64 {
        self.server.counters().sessions_moved
    }

    /// The signals of this kind that a player has sent.
    fn said(&self, player: usize, kind: SignalKind) -> Vec<Vec<u8>> {
        let own = &self.players[player];
        let mine = |(_, datagram): &&(SocketAddr, Vec<u8>)| {
            let signal = Signal::parse(datagram).ok();
            let conv = own.client.conv();
            signal.is_some_and(|signal| signal.kind == kind && signal.conv == conv)
        };
        let all = self.up.iter().filter(mine);
        all.map(|(_, datagram)| datagram.clone()).collect()
    }

    /// A fresh knock of a player that has not reached the server, from the address where it is.
    fn catch_knock(&mut self, player: usize) -> Vec<u8> {
        let own = &mut self.players[player];
        assert!(own.client.address_changed());
        own.mute = true;
        self.step();
        self.players[player].mute = false;
        self.said(player, SignalKind::Knock).pop().unwrap()
    }

    /// What the server has answered to an address where nobody listens.
    fn answers(&mut self, to: SocketAddr) -> Vec<Vec<u8>> {
        self.run(2);
        let own = self.strangers.iter().filter(|(addr, _)| *addr == to);
        own.map(|(_, datagram)| datagram.clone()).collect()
    }

    /// Everybody has got every frame once and in order, and every input of their own, and is live.
    fn assert_whole(&mut self) {
        self.run(2000);
        let head = self.server.room(ROOM).unwrap().frame;
        for (index, player) in self.players.iter().enumerate() {
            let ids: Vec<u32> = (0..).take(player.frames.len()).collect();
            assert_eq!(player.frames, ids, "player {index}: the frames");
            assert!(ids.len() + 5 > head as usize, "player {index}: not live");
            let inputs: Vec<i32> = (0..player.pressed).collect();
            assert_eq!(player.own, inputs, "player {index}: the inputs");
        }
    }

    /// As [`Rig::assert_whole`], in one conversation of everybody.
    fn assert_uninterrupted(&mut self) {
        self.assert_whole();
        for player in &self.players {
            let connected = |event: &&ClientEvent| **event == ClientEvent::Connected;
            assert_eq!(player.events.iter().filter(connected).count(), 1);
        }
        let counters = self.server.counters();
        assert_eq!(counters.sessions_opened, self.players.len() as u64);
    }
}

impl Player {
    fn read(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Frame(frame) => {
                    self.frames.push(frame.id);
                    let inputs = frame.inputs.iter();
                    let own = inputs.filter(|input| input.player == self.client.player());
                    self.own.extend(own.map(|input| input.command.x));
                }
                event => self.events.push(event),
            }
        }
    }

    fn was_told(&self, event: &ClientEvent) -> bool {
        self.events.contains(event)
    }
}

// --- The wire -----------------------------------------------------------------------------

#[test]
fn the_answer_to_a_connect_of_v2_carries_the_pass_behind_what_it_had() {
    let welcome = Welcome {
        history: 0,
        match_id: MatchId(1),
        hz: 30,
        head: 2,
        input_bytes_max: 0,
        watch_delay: None,
        pass: Some(Pass {
            session: SessionId(0x0102_0304_0506_0708),
            secret: SessionSecret::from_bytes(*b"only two know it"),
        }),
    };
    let mut packet = Vec::new();
    Downlink::Welcome(welcome).encode(&mut packet);
    let mut expected = vec![0, 59, 1, 8, 0, 0xa0, 6, 2];
    expected.extend([0xa9, 6, 1, 0, 0, 0, 0, 0, 0, 0, 0xb0, 6, 30, 0xb8, 6, 2]);
    // Field 104 is 0; field 110 is of eight bytes, field 111 of as many as it says.
    expected.extend([0xc0, 6, 0, 0xf1, 6, 8, 7, 6, 5, 4, 3, 2, 1, 0xfa, 6, 16]);
    expected.extend(b"only two know it");
    // Field 130 is of four.
    expected.extend([0x95, 8, 0, 0, 0, 0]);
    assert_eq!(packet, expected);
    let packet = Packet {
        id: 1,
        body: &packet[3..],
    };
    assert_eq!(Downlink::decode(packet), Ok(Downlink::Welcome(welcome)));
}

// --- A move -------------------------------------------------------------------------------

#[test]
fn a_client_at_another_address_goes_on_by_itself_and_loses_and_repeats_nothing() {
    let mut rig = Rig::playing(2);
    rig.play(1000);
    rig.players[0].addr = addr(100);
    rig.play(3000);
    assert_eq!(rig.moves, [(addr(1), addr(100))]);
    rig.assert_uninterrupted();
}

#[test]
fn a_client_that_is_told_of_its_new_address_is_there_after_two_round_trips() {
    let mut rig = Rig::playing(2);
    rig.play(1000);
    rig.players[0].addr = addr(100);
    assert!(rig.players[0].client.address_changed());
    rig.play(3);
    assert_eq!(rig.moves, [(addr(1), addr(100))]);
    rig.play(500);
    rig.assert_uninterrupted();
}

#[test]
fn a_client_may_move_again_and_again_and_back() {
    let mut rig = Rig::playing(3);
    for port in [100, 101, 100, 1] {
        rig.play(1500);
        rig.players[0].addr = addr(port);
    }
    rig.play(1500);
    assert_eq!(rig.has_moved(), 4);
    rig.assert_uninterrupted();
}

#[test]
fn all_may_move_at_once_also_to_where_another_has_just_been() {
    let mut rig = Rig::playing(3);
    rig.play(1000);
    // The first goes away, and the others follow one place behind.
    for (index, port) in [100, 1, 2].into_iter().enumerate() {
        rig.players[index].addr = addr(port);
    }
    rig.play(6000);
    assert_eq!(rig.has_moved(), 3);
    rig.assert_uninterrupted();
}

#[test]
fn a_client_that_waits_for_the_start_is_followed_too() {
    let mut rig = Rig::with_room(&[1, 2]);
    rig.enter(1, 1, Version::V2);
    rig.run(300);
    rig.players[0].addr = addr(100);
    rig.run(5000);
    assert_eq!(rig.moves, [(addr(1), addr(100))]);
    rig.enter(2, 2, Version::V2);
    rig.run(300);
    rig.play(1000);
    rig.assert_uninterrupted();
}

#[test]
fn lost_knocks_challenges_and_moves_come_again() {
    for (deaf, mute) in [(true, false), (false, true)] {
        let mut rig = Rig::playing(2);
        rig.play(1000);
        let own = &mut rig.players[0];
        own.addr = addr(100);
        (own.deaf, own.mute) = (deaf, mute);
        rig.play(4000);
        assert_eq!(rig.has_moved(), 0);
        let own = &mut rig.players[0];
        (own.deaf, own.mute) = (false, false);
        rig.play(4000);
        assert_eq!(rig.has_moved(), 1);
        rig.assert_uninterrupted();
    }
}

#[test]
fn a_seat_that_counted_as_offline_is_online_again_after_the_move() {
    let mut rig = Rig::playing(2);
    let own = &mut rig.players[0];
    (own.addr, own.mute) = (addr(100), true);
    rig.run(u64::try_from(OFFLINE_AFTER.as_millis()).unwrap() + 1000);
    let online = |rig: &Rig| rig.server.room(ROOM).unwrap().seats[0].online;
    assert!(!online(&rig));
    rig.players[0].mute = false;
    rig.run(2500);
    assert!(online(&rig));
    rig.assert_uninterrupted();
}

#[test]
fn a_knock_at_the_address_where_the_session_is_moves_nothing_and_is_answered() {
    let mut rig = Rig::playing(2);
    rig.players[0].client.address_changed();
    rig.run(5);
    assert_eq!(
        (rig.has_moved(), rig.said(0, SignalKind::Knock).len()),
        (0, 1)
    );
    assert_eq!(rig.players[0].client.dropped(), 0);
    // While the server speaks there is no reason for another.
    rig.play(3000);
    assert_eq!(rig.said(0, SignalKind::Knock).len(), 1);
}

#[test]
fn knocks_of_a_client_that_nobody_answers_become_rare() {
    let mut rig = Rig::playing(1);
    let own = &mut rig.players[0];
    (own.deaf, own.mute) = (true, true);
    rig.run(500 + 60_000);
    let knocks = rig.said(0, SignalKind::Knock).len();
    assert!((30..=36).contains(&knocks), "{knocks} in a minute");
}

// --- Spectators ---------------------------------------------------------------------------

#[test]
fn a_spectator_is_followed_as_a_player_is() {
    let (mut rig, fan) = Rig::watched(0);
    rig.play(1000);
    rig.players[fan].addr = addr(100);
    rig.play(3000);
    assert_eq!(rig.moves, [(addr(3), addr(100))]);
    rig.assert_uninterrupted();
}

#[test]
fn a_spectator_learns_that_its_session_is_gone() {
    let (mut rig, fan) = Rig::watched(0);
    rig.players[fan].mute = true;
    rig.run(16_000);
    assert_eq!(rig.server.room(ROOM).unwrap().watchers, 0);
    rig.players[fan].mute = false;
    rig.run(2500);
    assert!(rig.players[fan].was_told(&ClientEvent::Reset));
}

#[test]
fn a_spectator_learns_that_another_client_has_its_place() {
    let (mut rig, fan) = Rig::watched(0);
    let other = rig.enter_to_watch(4);
    rig.play(3000);
    assert!(rig.players[fan].was_told(&ClientEvent::Replaced));
    assert_eq!(rig.players[other].client.state(), ClientState::Playing);
    assert!(rig.said(other, SignalKind::Knock).is_empty());
}

#[test]
fn a_spectator_who_is_shown_nothing_yet_has_no_reason_to_knock() {
    let (mut rig, fan) = Rig::watched(300);
    rig.play(8000);
    assert!(rig.players[fan].frames.is_empty());
    assert!(rig.said(fan, SignalKind::Knock).is_empty());
    rig.players[fan].addr = addr(100);
    rig.play(8000);
    assert_eq!(rig.moves, [(addr(3), addr(100))]);
    assert!(rig.players[fan].frames.len() > 100);
}

// --- What is at the new address ------------------------------------------------------------

#[test]
fn a_session_does_not_move_to_where_another_one_holds_a_seat() {
    let mut rig = Rig::playing(2);
    let knock = rig.catch_knock(0);
    rig.inject(addr(2), &knock);
    rig.run(10);
    assert_eq!((rig.has_moved(), rig.drops(Drop::MoveRefused)), (0, 1));
    rig.assert_uninterrupted();
}

#[test]
fn a_seat_that_is_taken_between_challenge_and_answer_is_in_the_way_too() {
    let mut rig = Rig::with_room(&[1, 2]);
    rig.enter(1, 1, Version::V2);
    rig.enter(2, 2, Version::V1);
    rig.players[1].mute = true;
    rig.run(100);
    let own = &mut rig.players[0];
    (own.addr, own.mute) = (addr(100), true);
    let knock = rig.catch_knock(0);
    rig.inject(addr(100), &knock);
    // The challenge is answered, but the answer comes late.
    rig.players[0].mute = true;
    rig.run(5);
    rig.players[0].addr = addr(101);
    let answer = rig.said(0, SignalKind::Move).pop().unwrap();
    rig.players[1].mute = false;
    rig.players[1].addr = addr(100);
    rig.run(200);
    rig.inject(addr(100), &answer);
    assert_eq!((rig.has_moved(), rig.drops(Drop::MoveRefused)), (0, 1));
}

#[test]
fn who_holds_no_seat_at_the_new_address_makes_way() {
    let mut rig = Rig::playing(2);
    let mut connect = Vec::new();
    Uplink::Heartbeat.encode(&mut connect);
    rig.inject(addr(100), &push(0, &connect));
    assert_eq!(rig.server.session_count(), 3);
    rig.players[0].addr = addr(100);
    rig.play(2000);
    assert_eq!(rig.moves, [(addr(1), addr(100))]);
    assert_eq!(rig.disconnects(Disconnect::Displaced), 1);
    assert_eq!(rig.server.session_count(), 2);
    rig.assert_whole();
}

#[test]
fn who_is_started_at_the_old_address_keeps_it() {
    let mut rig = Rig::playing(2);
    rig.players[0].mute = true;
    rig.run(100);
    // Somebody else gets the address and says the first words of a client, under the same number.
    let conv = rig.players[0].client.conv();
    let mut other = ClientConfig::new(PlayerId(5), ROOM);
    other.conv = conv;
    let mut other = Client::new(rig.now, other);
    let mut batch = Transmits::default();
    other.poll_transmit(rig.now, &mut batch);
    let first = batch.iter().next().unwrap().1.to_vec();
    rig.inject(addr(1), &first);
    assert_eq!(rig.server.session_count(), 3, "a candidate");
    let own = &mut rig.players[0];
    (own.addr, own.mute) = (addr(100), false);
    rig.play(800);
    assert_eq!(rig.moves, [(addr(1), addr(100))]);
    assert_eq!(rig.server.session_count(), 3, "each has its own address");
    assert!(rig.strangers.iter().any(|(to, _)| *to == addr(1)));
    rig.play(6000);
    assert_eq!(rig.server.session_count(), 2, "it has proved nothing");
    rig.assert_whole();
}

// --- Others ---------------------------------------------------------------------------------

#[test]
fn nothing_that_was_recorded_moves_a_session_and_no_answer_is_longer_than_what_it_answers() {
    let mut rig = Rig::playing(2);
    for port in [100, 101] {
        rig.play(1000);
        rig.players[0].addr = addr(port);
    }
    rig.play(2000);
    let recorded: Vec<_> = rig
        .up
        .iter()
        .map(|(_, datagram)| datagram.clone())
        .collect();
    let signals = recorded
        .iter()
        .filter(|datagram| kind_of(datagram).is_some());
    let signals: Vec<_> = signals.cloned().collect();
    assert!(signals.len() >= 4, "two knocks and two moves at least");
    // A cookie is forged where it was not sent to.
    let refused = |rig: &Rig| rig.drops(Drop::SignalReplayed) + rig.drops(Drop::SignalForged);
    let before = refused(&rig);
    for from in [thief(), addr(1), addr(100), addr(101)] {
        for datagram in &signals {
            rig.inject(from, datagram);
        }
    }
    assert_eq!(refused(&rig) - before, 4 * signals.len() as u64);
    assert_eq!(rig.answers(thief()), Vec::<Vec<u8>>::new());
    // Nor does anything else.
    for datagram in &recorded {
        rig.inject(thief(), datagram);
    }
    rig.play(500);
    assert_eq!(rig.has_moved(), 2);
    rig.assert_whole();
}

#[test]
fn who_copies_a_fresh_knock_gets_a_challenge_that_is_worth_nothing() {
    let mut rig = Rig::playing(2);
    let knock = rig.catch_knock(0);
    rig.inject(thief(), &knock);
    let answers = rig.answers(thief());
    assert_eq!(answers.len(), 1);
    assert_eq!(kind_of(&answers[0]), Some(SignalKind::Challenge));
    assert_eq!(answers[0].len(), knock.len(), "and no byte more");
    // He gives the cookie back, but has no secret.
    let mut answer = answers[0].clone();
    answer[4] = 0xe4;
    rig.inject(thief(), &answer);
    rig.inject(thief(), &knock);
    assert_eq!(rig.drops(Drop::SignalForged), 1);
    assert_eq!(rig.drops(Drop::SignalReplayed), 1);
    rig.play(1000);
    assert_eq!(rig.has_moved(), 0);
    rig.assert_uninterrupted();
}

#[test]
fn who_relays_a_challenge_to_the_client_is_beaten_by_the_clients_own_knock() {
    let mut rig = Rig::playing(2);
    let knock = rig.catch_knock(0);
    // The copy comes first, and then what was copied.
    rig.inject(thief(), &knock);
    let challenge = rig.answers(thief()).remove(0);
    rig.inject(addr(1), &knock);
    let now = rig.now;
    rig.players[0]
        .client
        .handle_datagram(now, &mut challenge.clone());
    rig.players[0].mute = true;
    rig.run(1);
    rig.players[0].mute = false;
    // The client trusts the challenge, which is genuine, or has been told by now that it is live.
    for answer in rig.said(0, SignalKind::Move) {
        rig.inject(thief(), &answer);
        rig.inject(addr(1), &answer);
    }
    rig.play(1000);
    assert_eq!(rig.has_moved(), 0);
    rig.assert_uninterrupted();
}

#[test]
fn a_client_that_was_told_that_it_is_live_answers_no_challenge_of_before() {
    let mut rig = Rig::playing(2);
    let knock = rig.catch_knock(0);
    rig.inject(thief(), &knock);
    let challenge = rig.answers(thief()).remove(0);
    rig.inject(addr(1), &knock);
    rig.run(2);
    let (now, dropped) = (rig.now, rig.players[0].client.dropped());
    let client = &mut rig.players[0].client;
    client.handle_datagram(now, &mut challenge.clone());
    assert_eq!(client.dropped(), dropped + 1);
    rig.run(5);
    assert_eq!(rig.said(0, SignalKind::Move), Vec::<Vec<u8>>::new());
}

#[test]
fn a_signal_with_any_bit_changed_is_dropped_and_changes_nothing() {
    let mut rig = Rig::playing(2);
    rig.players[0].addr = addr(100);
    let knock = rig.catch_knock(0);
    for bit in 0..8 * SIGNAL_BYTES {
        let mut forged = knock.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        rig.inject(addr(100), &forged);
        if bit % 200 == 0 {
            rig.run(1);
        }
    }
    // What names another session is told that there is none.
    assert_eq!(rig.server.counters().resets, 64);
    assert_eq!(rig.has_moved(), 0);
    assert!(rig.drops(Drop::SignalForged) >= 8 * 40);
    // None of it has used up the true one.
    rig.inject(addr(100), &knock);
    rig.run(4);
    assert_eq!(rig.moves, [(addr(1), addr(100))]);
    rig.assert_uninterrupted();
}

#[test]
fn a_challenge_is_good_for_its_address_and_its_time_alone() {
    for late in [false, true] {
        let mut rig = Rig::playing(2);
        rig.players[0].addr = addr(100);
        let knock = rig.catch_knock(0);
        rig.inject(addr(100), &knock);
        rig.players[0].mute = true;
        rig.run(5);
        let answer = rig.said(0, SignalKind::Move).pop().unwrap();
        if late {
            rig.run(u64::try_from(CHALLENGE_LIFE.as_millis()).unwrap());
            rig.inject(addr(100), &answer);
            assert_eq!(rig.drops(Drop::SignalReplayed), 1);
        } else {
            rig.inject(thief(), &answer);
            assert_eq!(rig.drops(Drop::SignalForged), 1);
        }
        assert_eq!(rig.has_moved(), 0);
    }
}

#[test]
fn signals_of_others_than_clients_are_dropped() {
    let mut rig = Rig::playing(1);
    let knock = rig.catch_knock(0);
    for kind in [0xe1, 0xe2, 0xe3, 0xe5, 0xe6, 0xef] {
        let mut datagram = knock.clone();
        datagram[4] = kind;
        rig.inject(thief(), &datagram);
        rig.inject(addr(1), &datagram);
    }
    rig.inject(thief(), &knock[..24]);
    rig.inject(thief(), &knock[..5]);
    assert_eq!(rig.drops(Drop::SignalMalformed), 14);
    assert_eq!(rig.answers(thief()), Vec::<Vec<u8>>::new());
    rig.assert_uninterrupted();
}

#[test]
fn a_flood_of_knocks_gets_no_byte_more_than_it_sends_and_no_more_answers_than_a_second_has() {
    let mut rig = Rig::playing(2);
    let mut knock = rig.catch_knock(0);
    knock[8] ^= 1;
    for _ in 0..10_000 {
        rig.inject(thief(), &knock);
    }
    let answers = rig.answers(thief());
    assert_eq!(answers.len(), SIGNALS_PER_RANGE_AND_SECOND as usize);
    assert!(answers.iter().all(|answer| answer.len() == SIGNAL_BYTES));
    // Whoever is elsewhere moves all the same.
    rig.players[0].addr = addr(100);
    rig.play(2000);
    assert_eq!(rig.has_moved(), 1);
    rig.assert_uninterrupted();
}

// --- Reset --------------------------------------------------------------------------------

/// The player comes back after a reset.
fn come_back(rig: &mut Rig, player: usize) {
    let now = rig.now;
    let own = &mut rig.players[player];
    own.client.reconnect(now, Conv(9999), 7);
    own.events.clear();
}

#[test]
fn whose_session_was_ended_learns_it_in_a_round_trip_and_goes_on_where_it_was() {
    let mut rig = Rig::playing(2);
    rig.play(1000);
    rig.players[0].mute = true;
    rig.run(16_000);
    assert_eq!(rig.disconnects(Disconnect::Idle), 1);
    rig.players[0].mute = false;
    rig.players[0].client.address_changed();
    rig.run(2);
    assert!(rig.players[0].was_told(&ClientEvent::Reset));
    assert_eq!(rig.server.counters().resets, 1);
    come_back(&mut rig, 0);
    rig.play(1000);
    // Every frame once and in order, in two conversations.
    rig.assert_whole();
}

#[test]
fn whose_server_was_started_again_learns_it_by_itself() {
    let mut rig = Rig::playing(2);
    rig.play(1000);
    let anew = Secrets {
        pass_key: [6; 32],
        ..secrets()
    };
    rig.server = Server::new(Config::default(), anew, WALL * 1_000_000);
    rig.server.create_room(rig.now, spec(&[1, 2])).unwrap();
    let wait = KNOCK_AFTER + Duration::from_millis(10);
    rig.run(u64::try_from(wait.as_millis()).unwrap());
    for player in [0, 1] {
        assert!(rig.players[player].was_told(&ClientEvent::Reset));
    }
    assert_eq!(rig.server.session_count(), 0);
}

#[test]
fn after_a_reset_nothing_more_is_asked() {
    let mut rig = Rig::playing(1);
    rig.server = Server::new(Config::default(), secrets(), WALL * 1_000_000);
    rig.run(10_000);
    assert_eq!(rig.said(0, SignalKind::Knock).len(), 1);
    assert!(!rig.players[0].client.address_changed());
}

#[test]
fn a_reset_that_gives_back_no_knock_of_the_client_is_ignored() {
    let mut rig = Rig::playing(2);
    let knock = rig.catch_knock(0);
    let now = rig.now;
    let client = &mut rig.players[0].client;
    let mut reset = Signal::reset(&Signal::parse(&knock).unwrap()).to_bytes();
    let genuine = reset;
    for byte in (0..4).chain(8..24).chain(40..SIGNAL_BYTES) {
        reset[byte] ^= 1;
        client.handle_datagram(now, &mut reset);
        reset[byte] ^= 1;
    }
    assert_eq!(client.dropped(), 4 + 16 + 16);
    assert_eq!(client.poll_event(), None);
    // Nor one for a knock that was answered since.
    rig.run(1);
    rig.players[0].client.address_changed();
    rig.run(3);
    let now = rig.now;
    rig.players[0]
        .client
        .handle_datagram(now, &mut genuine.clone());
    rig.run(10);
    assert!(!rig.players[0].was_told(&ClientEvent::Reset));
    rig.assert_uninterrupted();
}

#[test]
fn a_session_without_a_seat_is_reset_elsewhere() {
    let mut rig = Rig::with_room(&[1]);
    rig.enter(1, 1, Version::V2);
    // It gets the answer to its Connect, and its acknowledgement is lost.
    rig.step();
    rig.players[0].mute = true;
    rig.run(20);
    assert_eq!(rig.players[0].client.state(), ClientState::Connected);
    let own = &mut rig.players[0];
    (own.addr, own.mute) = (addr(100), true);
    let knock = rig.catch_knock(0);
    rig.inject(addr(100), &knock);
    rig.players[0].mute = true;
    rig.run(2);
    assert!(rig.players[0].was_told(&ClientEvent::Reset));
}

#[test]
fn whose_seat_another_client_of_the_player_has_taken_is_told_that_and_not_to_come_back() {
    let mut rig = Rig::playing(2);
    let other = rig.enter(50, 1, Version::V2);
    rig.play(1500);
    assert_eq!(rig.players[other].client.state(), ClientState::Playing);
    assert_eq!(rig.disconnects(Disconnect::TakenOver), 1);
    assert!(rig.players[0].was_told(&ClientEvent::Replaced));
    assert!(!rig.players[0].was_told(&ClientEvent::Reset));
    // From another address, too.
    rig.run(5000);
    assert_eq!(rig.server.counters().resets, 0);
}

// --- Version 1 ----------------------------------------------------------------------------

#[test]
fn a_client_of_v1_is_not_followed_and_its_segments_are_answered_nowhere_else() {
    let mut rig = Rig::with_room(&[1, 2]);
    rig.enter(1, 1, Version::V1);
    rig.enter(2, 2, Version::V2);
    rig.run(300);
    assert!(!rig.players[0].client.address_changed());
    rig.players[0].addr = addr(100);
    rig.play(5000);
    assert_eq!(rig.has_moved(), 0);
    let elsewhere = |(to, _): &&(SocketAddr, Vec<u8>)| *to != addr(1);
    assert_eq!(rig.strangers.iter().find(elsewhere), None);
    assert_eq!(rig.said(0, SignalKind::Knock), Vec::<Vec<u8>>::new());
}

#[test]
fn the_longest_wait_for_a_move_is_the_silence_and_two_round_trips() {
    let mut rig = Rig::playing(2);
    rig.play(1000);
    rig.players[0].addr = addr(100);
    let since = rig.now;
    while rig.has_moved() == 0 {
        rig.play(1);
    }
    let took = rig.now.since(since);
    let most = KNOCK_AFTER + KNOCK_EVERY_MIN / 10;
    assert!(took <= most, "{took:?} of virtual time");
}
