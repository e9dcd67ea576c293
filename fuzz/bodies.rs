//! What the fuzz targets and the property tests do with bytes from outside. One body for
//! each entrance of the server: datagrams, the packets in them, and what HTTP takes.
//!
//! `fuzz_targets/` hands these to libFuzzer, `tests/fuzz.rs` hands them the corpus and
//! random bytes on a budget. A body panics if something is wrong, and asserts more than
//! that nothing panics.

use std::net::SocketAddr;
use std::time::Duration;

use lockstep_server::admin::order::Bounds;
use lockstep_server::admin::{json, query};
use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::config::{Config, Secrets};
use lockstep_server::engine::id::{Conv, PlayerId, RoomId};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::view::RoomSpec;
use lockstep_server::engine::wire::frame::{Command, decode_frames};
use lockstep_server::engine::wire::message::{Downlink, Uplink, Version};
use lockstep_server::engine::wire::packet::PacketReader;
use lockstep_server::limits::{DATAGRAM_MAX, UPLINK_BODY_MAX};
use lockstep_server::ticket::{TicketSecret, TicketSecrets};

// --- Datagrams ----------------------------------------------------------------------------

/// Addresses that speak: the attacked player, the bystander, and strangers.
const ADDRESSES: u16 = 8;
const ATTACKED: usize = 0;
const BYSTANDER: usize = 1;
/// Operations that are carried out of one input.
const OPERATIONS_MAX: usize = 256;

/// Reads a script out of bytes and carries it out beside a match of two. The attacked player's
/// address may be forged and its datagrams are changed; the bystander's are not, and it must
/// not notice anything.
pub fn datagrams(bytes: &[u8]) {
    let mut world = World::playing();
    let mut script = Script { bytes };
    for _ in 0..OPERATIONS_MAX {
        let Some(operation) = script.byte() else {
            break;
        };
        match operation % 6 {
            0 => world.run(u64::from(script.byte().unwrap_or(0) % 64)),
            1 => {
                let from = script.speaker();
                let len = usize::from(script.byte().unwrap_or(0)) * 8;
                world.throw(from, &mut script.take(len).to_vec());
            }
            2 => {
                let (from, mut datagram) = (script.speaker(), script.segments());
                world.throw(from, &mut datagram);
            }
            3 => world.change = script.change(),
            4 => {
                let (from, which) = (script.speaker(), usize::from(script.byte().unwrap_or(0)));
                world.repeat(from, which);
            }
            _ => world.press(),
        }
    }
    world.judge();
}

/// Bytes that are read as a script.
struct Script<'a> {
    bytes: &'a [u8],
}

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn take(&mut self, len: usize) -> &[u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// Anybody but the bystander.
    fn speaker(&mut self) -> usize {
        match usize::from(self.byte().unwrap_or(0)) % usize::from(ADDRESSES) {
            BYSTANDER => ATTACKED,
            other => other,
        }
    }

    /// A number near 0, near what wraps to it, or any.
    fn number(&mut self) -> u32 {
        match self.byte().unwrap_or(0) {
            near @ 0..=127 => u32::from(near),
            near @ 128..=191 => u32::from(near).wrapping_sub(192),
            _ => {
                let mut any = [0; 4];
                any.iter_mut().for_each(|to| *to = self.byte().unwrap_or(0));
                u32::from_le_bytes(any)
            }
        }
    }

    /// Segments that are well-formed, with fields from the script.
    fn segments(&mut self) -> Vec<u8> {
        let mut datagram = Vec::new();
        let conv = [121_106_u32, 7, 0, 121_106][usize::from(self.byte().unwrap_or(0) % 4)];
        for _ in 0..=self.byte().unwrap_or(0) % 3 {
            datagram.extend_from_slice(&conv.to_le_bytes());
            datagram.push(81 + self.byte().unwrap_or(0) % 4);
            datagram.push(self.byte().unwrap_or(0).saturating_sub(200));
            let window = u16::from(self.byte().unwrap_or(0));
            datagram.extend_from_slice(&window.to_le_bytes());
            for _ in 0..3 {
                let field = self.number();
                datagram.extend_from_slice(&field.to_le_bytes());
            }
            let data = self.data();
            let len = u32::try_from(data.len()).expect("short");
            datagram.extend_from_slice(&len.to_le_bytes());
            datagram.extend_from_slice(&data);
        }
        datagram
    }

    /// A packet that means something, or any bytes.
    fn data(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        let kind = self.byte().unwrap_or(0);
        match kind % 8 {
            0 => Uplink::Connect {
                player: PlayerId(u64::from(kind / 8 % 4)),
                room: RoomId(u64::from(kind / 32 % 3)),
                token: String::new(),
                version: Version::V1,
            }
            .encode(&mut data),
            1 => Uplink::JoinRoom.encode(&mut data),
            2 => Uplink::Ready.encode(&mut data),
            3 => Uplink::Heartbeat.encode(&mut data),
            4 => Uplink::Result { winner: 1 }.encode(&mut data),
            5 => {
                let x = self.number().cast_signed();
                Uplink::Input(Command { sid: 1, x, y: x }).encode(&mut data);
            }
            6 => Uplink::Echo(self.take(16)).encode(&mut data),
            _ => data.extend_from_slice(self.take(usize::from(kind))),
        }
        data
    }

    /// A change to come to the attacked player's datagrams.
    fn change(&mut self) -> Option<Change> {
        Some(Change {
            at: usize::from(self.byte()?),
            mask: self.byte()?,
            cut: self.byte()? % 4 == 0,
        })
    }
}

/// What becomes of the attacked player's next datagram.
struct Change {
    at: usize,
    mask: u8,
    cut: bool,
}

/// A server, a match of two in play, and a network without delay.
struct World {
    server: Server,
    now: Time,
    clients: [Client; 2],
    /// What has gone up from both.
    recorded: Vec<Vec<u8>>,
    change: Option<Change>,
    presses: i32,
    /// What the bystander has seen: the next frame, and its own presses.
    next_frame: u32,
    seen: Vec<i32>,
}

fn address(index: usize) -> SocketAddr {
    let port = 5000 + u16::try_from(index).expect("few");
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl World {
    fn playing() -> World {
        let secrets = Secrets {
            hash_key: (1, 2),
            clock_key: (3, 4),
            first_match: 1,
        };
        let now = Time::from_millis(1);
        let mut server = Server::new(Config::default(), secrets, 0);
        let spec = RoomSpec {
            room: RoomId(1),
            members: vec![PlayerId(1), PlayerId(2)],
            seed: 7,
            hz: None,
            broadcast_every: None,
            max_frames: None,
            watchers_max: None,
            watch_delay: None,
            secret: RoomSecret::from_bytes([0; 16]),
        };
        server.create_room(now, spec).expect("it is legal");
        let client = |player| {
            let mut config = ClientConfig::new(PlayerId(player), RoomId(1));
            config.conv = Conv(121_106);
            let mut client = Client::new(now, config);
            client.join();
            client.ready();
            client
        };
        let mut world = World {
            server,
            now,
            clients: [client(1), client(2)],
            recorded: Vec::new(),
            change: None,
            presses: 0,
            next_frame: 0,
            seen: Vec::new(),
        };
        world.run(300);
        assert!(world.next_frame > 0, "the match is in play");
        world
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now = self.now + Duration::from_millis(10);
            self.turn();
        }
    }

    fn turn(&mut self) {
        let (now, mut batch) = (self.now, Transmits::default());
        self.server.handle_timeout(now);
        for index in [ATTACKED, BYSTANDER] {
            self.clients[index].handle_timeout(now);
            self.clients[index].poll_transmit(now, &mut batch);
            for (_, datagram) in batch.iter() {
                let mut datagram = datagram.to_vec();
                if self.recorded.len() < 256 {
                    self.recorded.push(datagram.clone());
                }
                if index == ATTACKED {
                    self.change_one(&mut datagram);
                }
                self.server
                    .handle_datagram(now, address(index), &mut datagram);
            }
            batch.clear();
        }
        self.server.poll_transmit(now, &mut batch);
        for (to, datagram) in batch.iter() {
            if let Some(index) = [ATTACKED, BYSTANDER]
                .into_iter()
                .find(|i| address(*i) == to)
            {
                self.clients[index].handle_datagram(now, &mut datagram.to_vec());
            }
        }
        while self.clients[ATTACKED].poll_event().is_some() {}
        while let Some(event) = self.clients[BYSTANDER].poll_event() {
            match event {
                ClientEvent::Frame(frame) => {
                    assert_eq!(frame.id, self.next_frame, "a gap or a repeat");
                    self.next_frame += 1;
                    let own = frame.inputs.iter().filter(|i| i.player == PlayerId(2));
                    self.seen.extend(own.map(|input| input.command.x));
                }
                ClientEvent::Closed => panic!("the bystander was told Close"),
                _ => {}
            }
        }
    }

    fn change_one(&mut self, datagram: &mut Vec<u8>) {
        if let Some(change) = self.change.take() {
            let at = change.at % datagram.len().max(1);
            if let Some(byte) = datagram.get_mut(at) {
                *byte ^= change.mask;
            }
            if change.cut {
                datagram.truncate(at);
            }
        }
    }

    fn throw(&mut self, from: usize, datagram: &mut [u8]) {
        let len = datagram.len().min(DATAGRAM_MAX);
        self.server
            .handle_datagram(self.now, address(from), &mut datagram[..len]);
    }

    fn repeat(&mut self, from: usize, which: usize) {
        let which = which % self.recorded.len();
        let mut datagram = self.recorded[which].clone();
        self.throw(from, &mut datagram);
    }

    /// Both press; only the bystander's must arrive.
    fn press(&mut self) {
        for client in &mut self.clients {
            let x = self.presses;
            client.input(Command { sid: 1, x, y: 0 });
        }
        self.presses += 1;
    }

    fn judge(&mut self) {
        self.run(300);
        self.server.assert_invariants();
        assert!(self.seen.iter().copied().eq(0..self.presses), "its presses");
        let sessions = self.server.counters().sessions;
        assert!(sessions <= 2 * u64::from(ADDRESSES), "{sessions} sessions");
        let since = self.now.as_millis() * 30 / 1000;
        assert!(
            u64::from(self.next_frame) + 15 > since,
            "its frames stopped"
        );
    }
}

// --- Packets ------------------------------------------------------------------------------

/// Reads a stream of packets, cut into pieces as its first byte says, and holds what comes of
/// it against the same stream in one piece. What is understood is the same when it is said
/// again.
pub fn packets(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else {
        return;
    };
    let size = usize::from(*size).max(1);
    let whole = read_packets(std::iter::once(stream));
    let pieces = read_packets(stream.chunks(size));
    assert_eq!(whole, pieces, "the cuts of a stream mean nothing");
    for (id, body) in whole.0 {
        let packet = lockstep_server::engine::wire::packet::Packet { id, body: &body };
        if let Ok(message) = Uplink::decode(packet) {
            let mut again = Vec::new();
            message.encode(&mut again);
            let (packets, too_large) = read_packets(std::iter::once(&again[..]));
            assert!(!too_large || again.len() > UPLINK_BODY_MAX);
            for (id, body) in packets {
                let packet = lockstep_server::engine::wire::packet::Packet { id, body: &body };
                assert_eq!(Uplink::decode(packet).as_ref(), Ok(&message));
            }
        }
        if let Ok(Downlink::Frames(body)) = Downlink::decode(packet) {
            let _ = decode_frames(body);
        }
    }
}

/// All packets of a stream, and whether it ended with one that is too large.
fn read_packets<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(u8, Vec<u8>)>, bool) {
    let mut reader = PacketReader::default();
    let mut packets = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next(UPLINK_BODY_MAX) {
                Ok(Some(packet)) => packets.push((packet.id, packet.body.to_vec())),
                Ok(None) => break,
                Err(_) => return (packets, true),
            }
        }
        assert!(reader.waiting() <= UPLINK_BODY_MAX + 3, "it keeps a packet");
    }
    (packets, false)
}

// --- HTTP ---------------------------------------------------------------------------------

/// Reads a query, a JSON body and a part of the list out of the same bytes. What is accepted
/// is legal; what is refused says what and why, without repeating much of it.
pub fn queries(bytes: &[u8]) {
    let bounds = Bounds {
        max_players_per_room: 8,
    };
    let text = String::from_utf8_lossy(bytes);
    let part = query::part(&text);
    if let Ok(part) = &part {
        assert!(part.limit >= 1);
    }
    for order in [query::parse(&text, bounds), json::parse(bytes, bounds)] {
        match order {
            Ok(order) => {
                assert!(!order.members.is_empty() && order.members.len() <= 8);
                let mut members = order.members.clone();
                members.sort_unstable();
                members.dedup();
                assert_eq!(members.len(), order.members.len(), "none twice");
                let secrets = Secrets {
                    hash_key: (1, 2),
                    clock_key: (3, 4),
                    first_match: 1,
                };
                let mut server = Server::new(Config::default(), secrets, 0);
                let created = server.create_room(
                    Time::ZERO,
                    order.into_spec(1, RoomSecret::from_bytes([0; 16])),
                );
                assert!(created.is_ok(), "{created:?}");
            }
            Err(bad) => {
                let text = bad.to_string();
                assert!(!bad.field.is_empty() && text.len() < 1000, "{text}");
                assert!(!text.contains(['\n', '\r']), "{text:?}");
            }
        }
    }
}

// --- Tickets ------------------------------------------------------------------------------

/// Reads the bytes as a ticket, and as changes to a good one. The good one alone is let in.
pub fn tickets(bytes: &[u8]) {
    let secret = |text: &str| TicketSecret::new(text).expect("it is long enough");
    let old = secret("another secret that is long enough to be one");
    let secrets = TicketSecrets::new(secret("a secret of more than thirty-two bytes"), Some(old));
    let (room, player, now_us) = (RoomId(7), PlayerId(1), 1_700_000_000_000_000);
    let good = secrets.sign(room, player, 1_700_000_060);
    let check = |ticket: &str| secrets.check(ticket, room, player, now_us);
    assert_eq!(check(&good), Ok(()));

    let text = String::from_utf8_lossy(bytes);
    assert!(check(&text).is_err() || text == good);
    let mut changed = good.clone().into_bytes();
    for change in bytes.chunks(2) {
        let at = usize::from(change[0]) % changed.len();
        match change.get(1) {
            Some(byte) => changed[at] = *byte,
            None => changed.truncate(at),
        }
        if changed.is_empty() {
            break;
        }
    }
    let changed = String::from_utf8_lossy(&changed);
    assert!(check(&changed).is_err() || changed == good, "{changed}");
}
