//! What the fuzz targets and the property tests do with bytes from outside. One body for
//! each entrance of the server: datagrams, the packets in them, what HTTP takes, and the files of
//! a journal.
//!
//! `fuzz_targets/` hands these to libFuzzer, `tests/fuzz.rs` hands them the corpus and
//! random bytes on a budget. A body panics if something is wrong, and asserts more than
//! that nothing panics.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use lockstep_server::admin::order::Bounds;
use lockstep_server::admin::{json, query, reading};
use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::config::{Config, Secrets};
use lockstep_server::engine::id::{Conv, MatchId, PlayerId, RoomId, Seat};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::view::{OverReason, RoomSpec};
use lockstep_server::engine::wire::frame::{self, Command, decode_frames};
use lockstep_server::engine::wire::message::{Downlink, Uplink, Version};
use lockstep_server::engine::wire::packet::PacketReader;
use lockstep_server::journal::record::{
    Batch, Created, FileHeader, FrameBytes, Pen, Record, Resumed,
};
use lockstep_server::journal::restore::{FinishedMatch, Restore, Restored};
use lockstep_server::limits::{DATAGRAM_MAX, JOURNAL_DAMAGE_TOLD_MAX, UPLINK_BODY_MAX};
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
            pass_key: [5; 32],
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
            input_bytes_max: None,
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
        if let Ok(Downlink::Frames(body) | Downlink::Fetched(_, body)) = Downlink::decode(packet) {
            let _ = decode_frames(body);
        }
        let _ = Uplink::decode_of(Version::V1, packet);
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
    if let Ok(wanted) = query::recordings(&text) {
        assert!(wanted.limit >= 1);
    }
    let _ = query::scope(&text);
    // As the answer of another server, which may be hostile.
    let _ = reading::error(bytes);
    let created = reading::created(bytes).map(|created| created.room);
    for located in [created, reading::room(bytes)].into_iter().flatten() {
        let written = json::room(&located);
        assert!(reading::room(&written).is_ok(), "{located:?}");
    }
    for order in [query::parse(&text, bounds), json::parse(bytes, bounds)] {
        match order {
            Ok(order) => {
                let again = json::parse(&reading::order(&order), bounds);
                assert_eq!(
                    again.as_ref(),
                    Ok(&order),
                    "it goes on to another server unchanged"
                );
                assert!(!order.members.is_empty() && order.members.len() <= 8);
                let mut members = order.members.clone();
                members.sort_unstable();
                members.dedup();
                assert_eq!(members.len(), order.members.len(), "none twice");
                let secrets = Secrets {
                    hash_key: (1, 2),
                    clock_key: (3, 4),
                    pass_key: [5; 32],
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

// --- Journals -----------------------------------------------------------------------------

/// Reads the bytes as a file of a journal, then as records whose checksums are right, and then as
/// a script: what is played, and what befalls the file. No frame is read that was not written.
pub fn journals(bytes: &[u8]) {
    read_journal(bytes);
    read_journal(&with_checksums(bytes));

    let mut script = Script { bytes };
    let (mut file, written) = played(&mut script, crc32(7, bytes));
    let read = read_journal(&file);
    assert_eq!((read.damage_count, read.torn_bytes), (0, 0));
    assert_eq!(hold_frames(&read, &written), written.len());
    damage(&mut script, &mut file);
    hold_frames(&read_journal(&file), &written);
}

/// Reads a file, and holds what comes of it against what it can hold.
fn read_journal(bytes: &[u8]) -> Restored {
    let mut restore = Restore::with_finished(None);
    restore.read(1, bytes);
    assert!(restore.frame_bytes() <= bytes.len(), "more than was read");
    let restored = restore.finish();
    assert!(restored.damage.len() <= JOURNAL_DAMAGE_TOLD_MAX);
    assert!(restored.end.offset <= bytes.len() as u64);
    let finished = restored.finished.iter();
    for whole in finished.filter(|finished| finished.lack.is_none()) {
        let recording = whole.recording();
        let mut restore = Restore::with_finished(Some(whole.match_id));
        restore.read(0, &recording);
        let again = restore.finish();
        assert_eq!((again.damage_count, again.torn_bytes), (0, 0));
        let of = |finished: &FinishedMatch| {
            let results = finished.results.clone();
            let (started, frames) = (finished.started_unix, finished.frames);
            (
                finished.log.clone(),
                started,
                frames,
                finished.reason,
                results,
            )
        };
        assert_eq!(of(&again.finished[0]), of(whole), "its recording");
    }
    restored
}

/// A file of records with these as their kinds, numbers and bodies.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut file = file_header(0);
    let mut script = Script { bytes };
    while let Some(kind) = script.byte() {
        let seq = script.byte().unwrap_or(0);
        let len = usize::from(script.byte().unwrap_or(0));
        let body = script.take(len);
        let mut header = vec![0xF5, kind % 12];
        let len = u16::try_from(body.len()).expect("255 at the most");
        header.extend_from_slice(&len.to_le_bytes());
        header.extend_from_slice(&u32::from(seq / 4).to_le_bytes());
        header.extend_from_slice(&u64::from(seq % 4).to_le_bytes());
        header.extend_from_slice(&crc32(0, body).to_le_bytes());
        let crc = crc32(0, &header);
        header.extend_from_slice(&crc.to_le_bytes());
        file.extend_from_slice(&header);
        file.extend_from_slice(body);
    }
    file
}

fn file_header(salt: u32) -> Vec<u8> {
    let header = FileHeader {
        number: 1,
        created_unix_us: 5,
        salt,
        has_marks: false,
    };
    let mut file = Vec::new();
    header.encode(&mut file);
    file
}

/// As zlib has it.
fn crc32(begin: u32, bytes: &[u8]) -> u32 {
    let byte = |crc: u32, byte: &u8| {
        let bit = |crc: u32, _| (crc >> 1) ^ (0xEDB8_8320 & 0u32.wrapping_sub(crc & 1));
        (0..8).fold(crc ^ u32::from(*byte), bit)
    };
    !bytes.iter().fold(!begin, byte)
}

/// Matches of which frames were sealed, in one file, and which those are.
fn played(script: &mut Script<'_>, salt: u32) -> (Vec<u8>, BTreeSet<(MatchId, Vec<u8>)>) {
    let mut batch = Batch::new(salt);
    let mut written = BTreeSet::new();
    let mut matches: Vec<(MatchId, Pen, u32)> = Vec::new();
    let mut begun = 0;
    for _ in 0..script.byte().unwrap_or(0) % 64 {
        let choice = script.byte().unwrap_or(0);
        let open = matches.len();
        if open < 3 && (open == 0 || choice.is_multiple_of(16)) {
            begun += 1;
            let id = MatchId(begun);
            let mut pen = Pen::new(id);
            pen.write(&created(), &mut batch);
            pen.write(&Record::Started { unix_seconds: 5 }, &mut batch);
            matches.push((id, pen, 0));
            continue;
        }
        let which = usize::from(choice) % open;
        let (id, pen, head) = &mut matches[which];
        match choice / 16 {
            0 => {
                let over = Record::Over {
                    reason: OverReason::Results,
                    frames: *head,
                };
                pen.write(&over, &mut batch);
                matches.remove(which);
            }
            1 => {
                *head += u32::from(script.byte().unwrap_or(0) % 8);
                pen.write(&Record::Head(*head), &mut batch);
            }
            2 => {
                let going_on = Record::Resumed(Resumed {
                    started_unix: Some(5),
                    head: *head,
                    results: Vec::new(),
                    history: 0,
                });
                pen.write(&going_on, &mut batch);
            }
            _ => {
                let mut bytes = Vec::new();
                frame::encode_frame(&mut bytes, *head, &inputs(script));
                let frame = FrameBytes::new(&bytes).expect("it was made just now");
                pen.write(&Record::Frame(frame), &mut batch);
                written.insert((*id, bytes));
                *head += 1;
            }
        }
    }
    let mut file = file_header(salt);
    file.extend_from_slice(batch.bytes());
    (file, written)
}

fn created() -> Record<'static> {
    Record::Created(Box::new(Created {
        room: RoomId(1),
        created_unix_us: 5,
        seed: 1,
        hz: 30,
        broadcast_every: 3,
        max_frames: 5500,
        input_bytes_max: 256,
        watchers_max: 2,
        watch_delay: 3,
        ready_timeout: Duration::from_secs(20),
        room_timeout: Duration::from_secs(300),
        reconnect_grace: Duration::from_secs(60),
        secret: Some(RoomSecret::from_bytes([7; 16])),
        members: vec![PlayerId(1), PlayerId(2)],
    }))
}

fn inputs(script: &mut Script<'_>) -> Vec<u8> {
    let mut inputs = Vec::new();
    let x = script.number().cast_signed();
    let command = Command {
        sid: 1,
        x,
        y: -x.max(0),
    };
    frame::encode_input(
        &mut inputs,
        PlayerId(1),
        Seat::from_index(0),
        command,
        b"data",
    );
    inputs
}

/// What befalls a file on a disk: bytes that change, vanish, come twice or from elsewhere.
fn damage(script: &mut Script<'_>, file: &mut Vec<u8>) {
    for _ in 0..script.byte().unwrap_or(0) % 8 {
        let what = script.byte().unwrap_or(0);
        let at =
            usize::from(script.byte().unwrap_or(0)) << 8 | usize::from(script.byte().unwrap_or(0));
        let at = at.min(file.len());
        let len = usize::from(script.byte().unwrap_or(0));
        let end = file.len().min(at + len);
        match what % 6 {
            0 => file.truncate(at),
            1 => drop(file.drain(at..end)),
            2 => file.extend_from_within(at..end),
            3 => {
                let foreign = script.take(len).to_vec();
                file.splice(at..at, foreign);
            }
            4 => file[at..end].fill(what),
            _ => file[at..end].iter_mut().for_each(|byte| *byte ^= what),
        }
    }
}

/// Each frame that was read was written, as one of this match, and they ascend. How many there are.
fn hold_frames(restored: &Restored, written: &BTreeSet<(MatchId, Vec<u8>)>) -> usize {
    let mut count = 0;
    let finished = restored.finished.iter();
    let finished = finished.map(|of| (of.match_id, &of.log, of.frames));
    let rooms = restored.rooms.iter();
    let rooms = rooms.map(|of| (of.match_id, &of.frames, of.head));
    for (id, log, head) in finished.chain(rooms) {
        let mut rest = &log[..];
        let mut next = 0;
        while let Some((frame, behind)) = FrameBytes::split(rest) {
            assert!(frame.id() >= next && frame.id() < head, "frames ascend");
            next = frame.id() + 1;
            let bytes = frame.bytes().to_vec();
            assert!(written.contains(&(id, bytes)), "{id}: {frame:?}");
            rest = behind;
            count += 1;
        }
        assert!(rest.is_empty(), "a log is frames and nothing else");
    }
    count
}
