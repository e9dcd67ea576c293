//! A small world for the tests of the flow: one server, peers that say exactly what they are
//! told to, and a network that delays by 5 ms (or what it is told) and does nothing else unless it is told to.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use kcp::Kcp;
use lockstep_server::cluster::node::Address;
use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::config::{Config, Secrets};
use lockstep_server::engine::id::{Percent, PlayerId, RoomId};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::view::{RoomSpec, RoomView};
use lockstep_server::engine::wire::frame::{Command, Frame, decode_frames};
use lockstep_server::engine::wire::message::{
    ConnectCode, Downlink, Fetched, Follows, Uplink, Version, Welcome,
};
use lockstep_server::engine::wire::packet::PacketReader;
use lockstep_server::engine::wire::segment::{self, Cmd, Segment};
use lockstep_server::journal::record::FileHeader;
use lockstep_server::journal::restore::{Restore, Restored, RestoredRoom};
use lockstep_server::limits::DOWNLINK_BODY_MAX;

pub(crate) const ROOM: RoomId = RoomId(7);
/// The secret of each room.
pub(crate) const SECRET: &[u8; 16] = b"no room, no seat";
/// What the wall shows at the beginning, in Unix seconds.
pub(crate) const WALL: i64 = 1_700_000_000;

/// What a peer was told, one for each KCP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Connect(ConnectCode),
    /// In v2: there is no such room here, but at this address.
    Elsewhere(Address),
    Heartbeat,
    JoinRoom {
        seat: i32,
        others: Vec<(u64, i32)>,
        seed: i32,
    },
    Progress(u64, i32),
    Ready,
    Start(i64),
    /// In v2.
    Welcome(Welcome),
    /// In v2.
    StartFrom(i64, Follows),
    Frames(Vec<Frame>),
    /// In v2: what it covers, and the frames with input among those.
    Fetched(Fetched, Vec<Frame>),
    Result,
    Close,
    Echo(Vec<u8>),
}

/// One end that speaks KCP and keeps what it hears.
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    kcp: PlainKcp,
    heard: Vec<Vec<u8>>,
    /// Its datagrams get lost, in both directions.
    pub(crate) cut_off: bool,
    /// What it says gets lost, but it hears.
    pub(crate) mute: bool,
    /// Every datagram that reached it, as it came.
    pub(crate) datagrams: Vec<Vec<u8>>,
}

/// A datagram on its way: whose address it has, the peer it goes to if it does not go to the
/// server, and its bytes.
type OnTheWay = (SocketAddr, Option<usize>, Vec<u8>);

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) now: Time,
    pub(crate) peers: Vec<Peer>,
    /// The port of the next peer.
    next_port: u16,
    /// What is on its way, by arrival and order.
    on_the_way: BTreeMap<(Time, u64), OnTheWay>,
    sent: u64,
    /// The way of a datagram, one way.
    pub(crate) delay: Duration,
    /// How often each datagram of a peer arrives.
    pub(crate) copies: usize,
    /// What this peer has sent is kept.
    pub(crate) recorded: Option<(usize, Vec<Vec<u8>>)>,
    /// What the server records, if it does.
    pub(crate) paper: Option<Paper>,
    config: Config,
    /// How often the server was started.
    starts: u64,
}

/// A journal in memory.
pub(crate) struct Paper {
    /// Its one segment.
    pub(crate) bytes: Vec<u8>,
    /// It takes nothing.
    pub(crate) is_full: bool,
    refused: bool,
}

impl Paper {
    const SALT: u32 = 0x5A17;

    fn new() -> Paper {
        let mut bytes = Vec::new();
        let header = FileHeader {
            number: 1,
            created_unix_us: WALL * 1_000_000,
            salt: Paper::SALT,
            has_marks: false,
        };
        header.encode(&mut bytes);
        Paper {
            bytes,
            is_full: false,
            refused: false,
        }
    }

    /// What a server would make of it.
    pub(crate) fn read(&self) -> Restored {
        let mut restore = Restore::with_finished(None);
        restore.read(1, &self.bytes);
        restore.finish()
    }
}

pub(crate) fn secrets() -> Secrets {
    Secrets {
        hash_key: (1, 2),
        clock_key: (3, 4),
        pass_key: [5; 32],
        first_match: 1000,
    }
}

/// A datagram of one segment with data, which acknowledges nothing, under the conversation of
/// the Unity client.
pub(crate) fn push(sn: u32, data: &[u8]) -> Vec<u8> {
    let push = Segment {
        conv: 121_106,
        cmd: Cmd::Push,
        frg: 0,
        wnd: 128,
        ts: 5,
        sn,
        una: 0,
        data,
    };
    let mut datagram = Vec::new();
    segment::write(&mut datagram, &push);
    datagram
}

pub(crate) fn spec(members: &[u64]) -> RoomSpec {
    RoomSpec {
        room: ROOM,
        members: members.iter().map(|id| PlayerId(*id)).collect(),
        seed: 42,
        hz: None,
        broadcast_every: None,
        max_frames: None,
        input_bytes_max: None,
        watchers_max: None,
        watch_delay: None,
        secret: RoomSecret::from_bytes(*SECRET),
    }
}

impl World {
    /// A server with one room of these members.
    pub(crate) fn with_room(members: &[u64]) -> World {
        let mut world = World::new(Config::default());
        world.server.create_room(world.now, spec(members)).unwrap();
        world
    }

    pub(crate) fn new(config: Config) -> World {
        World {
            server: Server::new(config.clone(), secrets(), WALL * 1_000_000),
            now: Time::ZERO,
            peers: Vec::new(),
            next_port: 2000,
            on_the_way: BTreeMap::new(),
            sent: 0,
            delay: Duration::from_millis(5),
            copies: 1,
            recorded: None,
            paper: None,
            config,
            starts: 1,
        }
    }

    /// A server that records, with one room of these members.
    pub(crate) fn recording(members: &[u64]) -> World {
        let mut world = World::new(Config::default());
        world.paper = Some(Paper::new());
        world.server.begin_records(Paper::SALT);
        world.server.create_room(world.now, spec(members)).unwrap();
        world
    }

    /// The server is killed and started again. What it recorded is there, and all its sessions are
    /// gone.
    pub(crate) fn kill(&mut self) {
        let rooms = self.paper.as_ref().expect("it records").read().rooms;
        self.restart_with(rooms);
    }

    /// The same with these rooms of what was recorded, those that come too late left out.
    pub(crate) fn restart_with(&mut self, rooms: Vec<RestoredRoom>) {
        let secrets = Secrets {
            first_match: 1000 * (self.starts + 1),
            clock_key: (self.starts, 9),
            ..secrets()
        };
        self.starts += 1;
        self.server = Server::new(self.config.clone(), secrets, WALL * 1_000_000);
        self.server.begin_records(Paper::SALT);
        // What was torn off at the end is cut off, as a start does.
        let paper = self.paper.as_mut().expect("it records");
        let whole = usize::try_from(paper.read().end.offset).unwrap();
        paper.bytes.truncate(whole);
        for room in rooms {
            let (id, match_id) = (room.created.room, room.match_id);
            let restored = self.server.restore_room(self.now, room);
            let other = self.server.room(id).expect("a room is there");
            assert_eq!(restored.is_ok(), other.match_id == match_id);
        }
    }

    fn record(&mut self) {
        let Some(paper) = &mut self.paper else { return };
        if paper.refused && paper.is_full {
            return;
        }
        loop {
            let batch = self.server.poll_records(self.now, 1000);
            if batch.is_empty() {
                paper.refused = false;
                return;
            }
            if paper.is_full {
                paper.refused = true;
                self.server.refuse_records();
                return;
            }
            paper.bytes.extend_from_slice(batch);
            self.server.keep_records(1);
        }
    }

    pub(crate) fn room(&self) -> RoomView {
        self.server.room(ROOM).expect("the room exists")
    }

    // --- Peers ----------------------------------------------------------------------------

    /// A peer at an address of its own, which has said nothing yet.
    pub(crate) fn peer(&mut self, conv: u32) -> usize {
        let port = self.next_port;
        self.next_port += 1;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        self.peers.push(Peer::new(addr, conv));
        self.peers.len() - 1
    }

    /// The client of this peer is started again: it keeps its address and forgets the rest.
    pub(crate) fn restart(&mut self, peer: usize, conv: u32) {
        self.peers[peer] = Peer::new(self.peers[peer].addr, conv);
    }

    pub(crate) fn say(&mut self, peer: usize, message: &Uplink<'_>) {
        let mut packet = Vec::new();
        message.encode(&mut packet);
        self.say_bytes(peer, &packet);
    }

    pub(crate) fn say_bytes(&mut self, peer: usize, message: &[u8]) {
        self.peers[peer].kcp.send(message);
        self.flush_peer(peer);
    }

    pub(crate) fn connect(&mut self, peer: usize, player: u64) {
        self.say(
            peer,
            &Uplink::Connect {
                player: PlayerId(player),
                room: ROOM,
                token: String::new(),
                version: Version::V1,
            },
        );
    }

    /// A peer that has connected as this player and joined the room.
    pub(crate) fn joined(&mut self, player: u64) -> usize {
        let peer = self.peer(121_106);
        self.connect(peer, player);
        self.run_ms(20);
        self.say(peer, &Uplink::JoinRoom);
        self.run_ms(20);
        let said = self.take(peer);
        assert_eq!(said[0], Said::Connect(ConnectCode::Ok));
        assert!(matches!(said[1], Said::JoinRoom { .. }), "{said:?}");
        peer
    }

    /// A match that has just started, with these players.
    pub(crate) fn started(members: &[u64]) -> (World, Vec<usize>) {
        let mut world = World::with_room(members);
        let peers = world.start_all(members);
        (world, peers)
    }

    pub(crate) fn start_all(&mut self, members: &[u64]) -> Vec<usize> {
        let peers: Vec<usize> = members.iter().map(|player| self.joined(*player)).collect();
        for peer in &peers {
            self.say(*peer, &Uplink::Ready);
        }
        self.run_ms(12);
        for peer in &peers {
            let said = self.take(*peer);
            assert!(
                said.contains(&Said::Ready) && said.iter().any(|s| matches!(s, Said::Start(_))),
                "{said:?}"
            );
        }
        peers
    }

    pub(crate) fn press(&mut self, peer: usize, x: i32) {
        self.say(peer, &Uplink::Input(Command { sid: 1, x, y: 0 }));
    }

    pub(crate) fn progress(&mut self, peer: usize, percent: i32) {
        self.say(peer, &Uplink::Progress(Percent::clamped(percent)));
    }

    /// What the peer was told since the last time, one for each KCP message.
    pub(crate) fn take(&mut self, peer: usize) -> Vec<Said> {
        let messages = std::mem::take(&mut self.peers[peer].heard);
        messages
            .iter()
            .map(|message| read_message(message))
            .collect()
    }

    /// Its frames among them, and nothing else may be there.
    pub(crate) fn take_frames(&mut self, peer: usize) -> Vec<Frame> {
        frames_of(&self.take(peer))
    }

    // --- Time -----------------------------------------------------------------------------

    pub(crate) fn run_ms(&mut self, ms: u64) {
        self.run_until(self.now + Duration::from_millis(ms));
    }

    pub(crate) fn run_until(&mut self, end: Time) {
        loop {
            let arrival = self.on_the_way.keys().next().map(|(at, _)| *at);
            let peers = self
                .peers
                .iter()
                .filter_map(|peer| peer.kcp.next_flush(self.now));
            let next = peers.chain(arrival).chain(self.server.poll_timeout()).min();
            let next = next.filter(|at| *at <= end);
            self.now = next.map_or(end, |at| at.max(self.now));
            self.step();
            if next.is_none() {
                return;
            }
        }
    }

    /// One turn at this moment.
    pub(crate) fn step(&mut self) {
        while let Some(entry) = self
            .on_the_way
            .first_entry()
            .filter(|e| e.key().0 <= self.now)
        {
            let (from, to, mut bytes) = entry.remove();
            match to {
                None => self.server.handle_datagram(self.now, from, &mut bytes),
                Some(peer) => self.peers[peer].hear(self.now, bytes),
            }
        }
        if self.server.poll_timeout().is_some_and(|at| at <= self.now) {
            self.server.handle_timeout(self.now);
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].kcp.wants_flush(self.now) {
                self.flush_peer(peer);
            }
        }
        let mut batch = Transmits::default();
        self.server.poll_transmit(self.now, &mut batch);
        self.record();
        for (to, bytes) in batch.iter() {
            let peer = self
                .peers
                .iter()
                .position(|peer| peer.addr == to && !peer.cut_off);
            if let Some(peer) = peer {
                self.post(to, Some(peer), bytes.to_vec());
            }
        }
    }

    fn flush_peer(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        let (addr, lost) = (peer.addr, peer.cut_off || peer.mute);
        for bytes in peer.kcp.flush(self.now) {
            match &mut self.recorded {
                Some((of, recorded)) if *of == index => recorded.push(bytes.clone()),
                _ => {}
            }
            if !lost {
                for _ in 0..self.copies {
                    self.post(addr, None, bytes.clone());
                }
            }
        }
    }

    /// Puts a datagram on its way from `addr` to the server, or to a peer.
    pub(crate) fn post(&mut self, addr: SocketAddr, to: Option<usize>, bytes: Vec<u8>) {
        self.sent += 1;
        self.on_the_way
            .insert((self.now + self.delay, self.sent), (addr, to, bytes));
    }
}

impl Peer {
    fn new(addr: SocketAddr, conv: u32) -> Peer {
        Peer {
            addr,
            kcp: PlainKcp::new(conv),
            heard: Vec::new(),
            cut_off: false,
            mute: false,
            datagrams: Vec::new(),
        }
    }

    fn hear(&mut self, now: Time, bytes: Vec<u8>) {
        self.kcp.input(now, &bytes);
        self.datagrams.push(bytes);
        while let Some(message) = self.kcp.recv() {
            self.heard.push(message);
        }
    }
}

/// KCP as clients have it, with none of the server's precautions.
struct PlainKcp {
    kcp: Kcp<Written>,
    written: Written,
    flush_now: bool,
}

/// Where KCP writes its datagrams.
#[derive(Clone, Default)]
pub(crate) struct Written(Rc<RefCell<Vec<Vec<u8>>>>);

impl std::io::Write for Written {
    fn write(&mut self, datagram: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().push(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// The datagrams since the last time.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        self.0.take()
    }
}

impl PlainKcp {
    fn new(conv: u32) -> PlainKcp {
        let written = Written::default();
        let mut kcp = Kcp::new(conv, written.clone());
        kcp.set_nodelay(true, 10, 2, true);
        kcp.set_wndsize(4096, 4096);
        PlainKcp {
            kcp,
            written,
            flush_now: false,
        }
    }

    fn clock(now: Time) -> u32 {
        u32::try_from(now.as_millis()).unwrap()
    }

    fn send(&mut self, message: &[u8]) {
        self.kcp.send(message).unwrap();
        self.flush_now = true;
    }

    fn input(&mut self, now: Time, datagram: &[u8]) {
        self.kcp.update(PlainKcp::clock(now)).unwrap();
        // What belongs to another conversation is refused, as any KCP does.
        let _ = self.kcp.input(datagram);
        self.flush_now = true;
    }

    fn recv(&mut self) -> Option<Vec<u8>> {
        let mut message = vec![0; self.kcp.peeksize().ok()?];
        self.kcp.recv(&mut message).unwrap();
        Some(message)
    }

    fn next_flush(&self, now: Time) -> Option<Time> {
        let wait_ms = u64::from(self.kcp.check(PlainKcp::clock(now)));
        let busy = self.flush_now || self.kcp.wait_snd() > 0;
        busy.then(|| Time::from_millis(now.as_millis() + wait_ms))
    }

    fn wants_flush(&self, now: Time) -> bool {
        self.flush_now || self.next_flush(now).is_some_and(|at| at <= now)
    }

    fn flush(&mut self, now: Time) -> Vec<Vec<u8>> {
        self.kcp.update(PlainKcp::clock(now)).unwrap();
        self.kcp.flush().unwrap();
        self.flush_now = false;
        self.written.take()
    }
}

/// Reads one KCP message, which must be exactly one packet: the Unity client drops the rest.
pub(crate) fn read_message(message: &[u8]) -> Said {
    let mut reader = PacketReader::default();
    reader.push(message);
    let packet = reader
        .next(DOWNLINK_BODY_MAX)
        .unwrap()
        .expect("a whole packet");
    assert_eq!(
        packet.body.len() + 3,
        message.len(),
        "one packet per KCP message"
    );
    match Downlink::decode(packet).expect("the server says what is legal") {
        Downlink::Connect(code) => Said::Connect(code),
        Downlink::Elsewhere(address) => Said::Elsewhere(address),
        Downlink::Heartbeat => Said::Heartbeat,
        Downlink::JoinRoom { seat, others, seed } => Said::JoinRoom {
            seat,
            others: others
                .iter()
                .map(|(id, pro)| (id.0, pro.on_wire()))
                .collect(),
            seed,
        },
        Downlink::Progress { player, percent } => Said::Progress(player.0, percent.on_wire()),
        Downlink::Ready => Said::Ready,
        Downlink::Welcome(welcome) => Said::Welcome(welcome),
        Downlink::Start {
            unix_seconds,
            follows: None,
        } => Said::Start(unix_seconds),
        Downlink::Start {
            unix_seconds,
            follows: Some(follows),
        } => Said::StartFrom(unix_seconds, follows),
        Downlink::Frames(body) => Said::Frames(decode_frames(body).unwrap()),
        Downlink::Fetched(covers, body) => Said::Fetched(covers, decode_frames(body).unwrap()),
        Downlink::Result => Said::Result,
        Downlink::Close => Said::Close,
        Downlink::Echo(body) => Said::Echo(body.to_vec()),
    }
}

/// The frames of messages that are all frames.
pub(crate) fn frames_of(said: &[Said]) -> Vec<Frame> {
    said.iter()
        .flat_map(|said| match said {
            Said::Frames(frames) => frames.clone(),
            other => panic!("{other:?} among the frames"),
        })
        .collect()
}

/// The operands of all inputs, with the frames they are in.
pub(crate) fn presses(frames: &[Frame]) -> Vec<(u32, u64, i32)> {
    frames
        .iter()
        .flat_map(|frame| {
            frame
                .inputs
                .iter()
                .map(|i| (frame.id, i.player.0, i.command.x))
        })
        .collect()
}
