//! What the engine costs in memory, and what a crowd of waiting rooms costs those that play.
//!
//! `cargo run --release --example engine-figures` prints one JSON object. The engine is driven
//! through its public face, under virtual time and with a network that takes no time, as in
//! `hot.rs`. Bytes are those that the engine asks the allocator for, so they are the same on
//! every machine; times are this machine's, and take the counting of those bytes in. It says
//! nothing of sockets, threads and resident memory: scripts/bench measures those.

#[path = "../tests/support/heap.rs"]
mod heap;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lockstep_server::client::{Client, ClientConfig, ClientState};
use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::config::{Config, Secrets};
use lockstep_server::engine::frame_log::FrameLog;
use lockstep_server::engine::id::{Conv, PlayerId, RoomId, Seat};
use lockstep_server::engine::link::Link;
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::{Sink, Transmits};
use lockstep_server::engine::view::RoomSpec;
use lockstep_server::engine::wire::frame::{Command, decode_frames};
use lockstep_server::engine::wire::segment::Datagram;
use lockstep_server::limits::{COMMANDS_PER_TURN_MAX, TURN_EVERY};
use serde_json::{Value, json};

/// Rooms that wait for their players.
const WAITING: u64 = 100_000;
/// Players of a room, where nothing else is said.
const SEATS: u64 = 4;
/// Rooms that play.
const PLAYING: u64 = 100;
/// Frames of a match by default.
const FRAMES: u32 = 5500;
const HZ: u32 = 30;
/// Turns from one input of a player to its next: 15 inputs a second.
const TURNS_PER_INPUT: u64 = 67;

fn main() {
    let logs: Vec<_> = [2, 4, 8, 16].into_iter().map(frame_log).collect();
    let figures = json!({
        "waiting_rooms": waiting_rooms(),
        "effect_of_waiting_rooms": effect_of_waiting_rooms(),
        "frame_log": logs,
        "player": player(),
    });
    println!("{figures:#}");
}

/// To two digits behind the point.
fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

// --- Rooms that wait --------------------------------------------------------------------------

/// Rooms of four are created as the event loop creates them: so many in a turn.
fn waiting_rooms() -> Value {
    let mut table = Table::new();
    let before = heap::live();
    let specs: Vec<_> = (0..WAITING).map(spec).collect();
    let began = Instant::now();
    table.create_waiting(specs);
    let took = began.elapsed();
    let bytes = heap::live() - before;
    json!({
        "rooms": WAITING,
        "players_of_each": SEATS,
        "rooms_per_second": (WAITING as f64 / took.as_secs_f64()).round(),
        "heap_bytes_per_room": rounded(bytes as f64 / WAITING as f64),
    })
}

/// Turns of rooms that play, without and with a crowd of rooms that wait beside them. The two
/// take turns themselves, so that what else the machine does meets both.
fn effect_of_waiting_rooms() -> Value {
    const ROUNDS: usize = 5;
    const TURNS: usize = 2000;
    let mut alone = Table::playing();
    let mut beside = Table::new();
    beside.create_waiting((0..WAITING).map(spec).collect());
    beside.sit_down();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.extend(alone.play(TURNS));
        with.extend(beside.play(TURNS));
    }
    json!({
        "rooms_playing": PLAYING,
        "players": alone.clients.len(),
        "rooms_waiting": WAITING,
        "turn_us_alone": quantiles(without),
        "turn_us_beside_those_that_wait": quantiles(with),
    })
}

fn quantiles(mut turns: Vec<Duration>) -> Value {
    turns.sort_unstable();
    let us = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is an index of the list"
        )]
        let index = ((turns.len() - 1) as f64 * share) as usize;
        turns[index].as_nanos() as f64 / 1000.0
    };
    json!({ "turns": turns.len(), "p50": us(0.5), "p99": us(0.99), "max": us(1.0) })
}

// --- The frame log ----------------------------------------------------------------------------

/// A match in which each of `seats` players sends 15 inputs a second: in every second frame.
fn frame_log(seats: u64) -> Value {
    let before = heap::live();
    let mut log = FrameLog::new(usize::try_from(seats).expect("it is small"));
    let mut inputs = 0;
    // How much more than the encoded frames the log held at the worst, once it was no small one.
    let mut worst: f64 = 1.0;
    for frame in 0..FRAMES {
        for index in 0..seats {
            if (u64::from(frame) + index) % 2 == 0 {
                let seat = Seat::from_index(usize::try_from(index).expect("it is small"));
                log.add_input(seat, PlayerId(1001 + index), command(inputs), &[])
                    .expect("the frame has room for it");
                inputs += 1;
            }
        }
        log.seal();
        if frame >= FRAMES / 10 {
            worst = worst.max((heap::live() - before) as f64 / log.encoded().len() as f64);
        }
    }
    let (held, encoded) = (heap::live() - before, log.encoded().len());
    json!({
        "players": seats,
        "frames": FRAMES,
        "inputs": inputs,
        "encoded_bytes": encoded,
        "held_bytes": held,
        "held_bytes_per_frame": rounded(held as f64 / f64::from(FRAMES)),
        "held_bytes_per_input": rounded(held as f64 / f64::from(inputs)),
        "encoded_bytes_per_input": rounded(encoded as f64 / f64::from(inputs)),
        "held_to_encoded": rounded(held as f64 / encoded as f64),
        "held_to_encoded_max": rounded(worst),
    })
}

/// An input as a game sends it: an action, and a place in hundredths, of either sign.
fn command(number: u32) -> Command {
    // Knuth's multiplier scatters them evenly.
    let drawn = number.wrapping_mul(2_654_435_761).to_le_bytes();
    let place = |a: u8, b: u8| i32::from(i16::from_le_bytes([a, b]));
    Command {
        sid: i32::from(drawn[0] % 8) + 1,
        x: place(drawn[0], drawn[1]),
        y: place(drawn[2], drawn[3]),
    }
}

// --- A player ---------------------------------------------------------------------------------

/// What the engine holds for a player whose match has just started, and after a while of play:
/// without the rooms and their logs, and with its share of what all players share.
fn player() -> Value {
    let mut table = Table::playing();
    let players = table.clients.len();
    // The first rooms may have a frame when the last ones start.
    let at_start = table.held - table.log_bytes();
    table.play(10_000);
    let logs = table.log_bytes();
    let played = table.held - logs;
    let (kcp_at_start, kcp_played) = kcp_bytes();
    let each = |bytes: i64| (bytes as f64 / players as f64).round();
    json!({
        "players": players,
        "at_start": {
            "heap_bytes": each(at_start),
            "of_kcp": kcp_at_start,
            "of_the_rest": each(at_start) - kcp_at_start as f64,
            "in_it_the_link_itself": size_of::<Link>(),
        },
        "after_10_s": {
            "heap_bytes": each(played),
            "of_kcp": kcp_played,
            "of_the_rest": each(played) - kcp_played as f64,
            "share_of_the_log_besides": each(logs),
        },
    })
}

/// What the KCP of a link allocates when it is made, and what it holds after it has sent 300
/// frames, each acknowledged, and received 150 inputs.
fn kcp_bytes() -> (usize, usize) {
    let mut buffer = [0; 2048];
    let before = heap::live();
    let sink = Sink::new(addr_of(0));
    let empty_sink = heap::live() - before;
    let mut server = Link::trusting(Conv(1), 2, sink.clone());
    let at_start = heap::live() - before - empty_sink;

    let client_sink = Sink::new(addr_of(0));
    let mut client = Link::trusting(Conv(1), 3, client_sink.clone());
    for frame in 0..300 {
        let now = Time::from_millis(frame * 33);
        server.send(&[0; 60]);
        pass(now, &mut server, &sink, &mut client);
        while client.recv(&mut buffer).expect("it is small").is_some() {}
        if frame % 2 == 0 {
            client.send(&[0; 17]);
        }
        pass(now, &mut client, &client_sink, &mut server);
        while server.recv(&mut buffer).expect("it is small").is_some() {}
    }
    drop((client, client_sink));
    sink.swap(&mut Transmits::default());
    (at_start, heap::live() - before - empty_sink)
}

/// Flushes one end, and brings what it says to the other.
fn pass(now: Time, from: &mut Link, sink: &Sink, to: &mut Link) {
    let mut batch = Transmits::default();
    from.flush(now);
    sink.swap(&mut batch);
    for (_, bytes) in batch.iter() {
        let mut bytes = bytes.to_vec();
        let mut datagram = Datagram::parse(&mut bytes).expect("a link wrote it");
        to.input(now, &mut datagram).expect("both ends are honest");
    }
}

// --- The engine -------------------------------------------------------------------------------

/// A server and players, with a network that takes no time. A turn is a millisecond.
struct Table {
    server: Server,
    clients: Vec<Client>,
    /// The rooms that are played.
    rooms: Vec<RoomId>,
    now: Time,
    turns: u64,
    /// On their way to the server.
    up: Vec<(SocketAddr, Vec<u8>)>,
    /// Filled by the server.
    down: Transmits,
    /// Filled by a client.
    said: Transmits,
    /// Bytes that the server allocated while it served players, and did not free.
    held: i64,
}

impl Table {
    /// A table at which nobody sits.
    fn new() -> Table {
        let secrets = Secrets {
            hash_key: (1, 2),
            clock_key: (3, 4),
            pass_key: [5; 32],
            first_match: 5,
        };
        let config = Config {
            max_rooms: usize::try_from(2 * WAITING).expect("it is small"),
            ..Config::default()
        };
        Table {
            server: Server::new(config, secrets, 0),
            clients: Vec::new(),
            rooms: Vec::new(),
            now: Time::ZERO,
            turns: 0,
            up: Vec::new(),
            down: Transmits::default(),
            said: Transmits::default(),
            held: 0,
        }
    }

    /// A table at which all matches have just started.
    fn playing() -> Table {
        let mut table = Table::new();
        table.sit_down();
        table
    }

    /// All players come, and their matches start: a few rooms in each turn, so that their frames
    /// are due one after another.
    fn sit_down(&mut self) {
        for first in (0..PLAYING).step_by(4) {
            (first..first + 4).for_each(|room| self.open(FIRST_PLAYING + room));
            self.turn();
        }
        let plays = |client: &Client| client.state() == ClientState::Playing;
        while !self.clients.iter().all(plays) {
            self.turn();
        }
        // What acknowledges the last Start.
        self.turn();
    }

    fn open(&mut self, room: u64) {
        let spec = spec(room);
        let members = spec.members.clone();
        self.rooms.push(spec.room);
        self.server
            .create_room(self.now, spec)
            .expect("there is room for it");
        for player in members {
            let mut config = ClientConfig::new(player, RoomId(room));
            config.conv = Conv(u32::try_from(player.0).expect("it is small"));
            let mut client = Client::new(self.now, config);
            client.join();
            client.ready();
            self.clients.push(client);
        }
    }

    /// Creates rooms that nobody comes to, as the event loop does: so many in a turn.
    fn create_waiting(&mut self, specs: Vec<RoomSpec>) {
        let mut specs = specs.into_iter().peekable();
        while specs.peek().is_some() {
            self.now = self.now + TURN_EVERY;
            self.server.handle_timeout(self.now);
            for spec in specs.by_ref().take(COMMANDS_PER_TURN_MAX) {
                self.server
                    .create_room(self.now, spec)
                    .expect("there is room for it");
            }
            self.server.poll_transmit(self.now, &mut self.down);
            while self.server.poll_event().is_some() {}
        }
    }

    /// Lets them play for so many turns. Returns the time that the server took in each to seal
    /// frames and to say them.
    fn play(&mut self, turns: usize) -> Vec<Duration> {
        (0..turns).map(|_| self.turn()).collect()
    }

    fn turn(&mut self) -> Duration {
        self.turns += 1;
        self.now = self.now + TURN_EVERY;
        let (now, live) = (self.now, heap::live());
        let server = &mut self.server;

        let began = Instant::now();
        server.handle_timeout(now);
        let mut took = began.elapsed();
        for (from, bytes) in &mut self.up {
            server.handle_datagram(now, *from, bytes);
        }
        let began = Instant::now();
        server.poll_transmit(now, &mut self.down);
        took += began.elapsed();
        while server.poll_event().is_some() {}

        self.held += difference(live, heap::live());
        self.up.clear();
        self.answer();
        took
    }

    /// The clients hear what the server says, and say what they have to.
    fn answer(&mut self) {
        for (to, bytes) in self.down.iter() {
            let client = &mut self.clients[number_of(to)];
            client.handle_datagram(self.now, &mut bytes.to_vec());
        }
        self.down.clear();
        for (number, client) in self.clients.iter_mut().enumerate() {
            while client.poll_event().is_some() {}
            client.handle_timeout(self.now);
            let turn = self.turns + u64::try_from(number).expect("it is small") * 7;
            if turn.is_multiple_of(TURNS_PER_INPUT) {
                let number = u32::try_from(turn).expect("it is small");
                client.input(command(number));
            }
            client.poll_transmit(self.now, &mut self.said);
            let datagrams = self.said.iter().map(|(_, bytes)| bytes.to_vec());
            self.up
                .extend(datagrams.map(|bytes| (addr_of(number), bytes)));
        }
    }

    /// What the frames of all rooms take: the same frames, sealed once more.
    fn log_bytes(&self) -> i64 {
        let log_of = |room: &RoomId| {
            let view = self.server.room(*room).expect("it plays");
            let body = self.server.frames(*room).expect("it plays");
            let frames = decode_frames(body).expect("the server wrote them");
            let mut log = FrameLog::new(view.seats.len());
            let before = heap::live();
            for frame in &frames {
                while log.head() < frame.id {
                    log.seal();
                }
                for input in &frame.inputs {
                    let seat = usize::try_from(input.seat - 1).expect("seats count from 1");
                    log.add_input(Seat::from_index(seat), input.player, input.command, &[])
                        .expect("the frame had room for it");
                }
                log.seal();
            }
            difference(before, heap::live())
        };
        self.rooms.iter().map(log_of).sum()
    }
}

/// The first of the rooms that are played: those that wait have lower numbers.
const FIRST_PLAYING: u64 = 1_000_000;

fn spec(room: u64) -> RoomSpec {
    RoomSpec {
        room: RoomId(room),
        members: (1..=SEATS).map(|n| PlayerId(room * 10 + n)).collect(),
        seed: 1,
        hz: Some(HZ),
        broadcast_every: None,
        max_frames: None,
        input_bytes_max: None,
        watchers_max: None,
        watch_delay: None,
        secret: RoomSecret::from_bytes([0; 16]),
    }
}

fn addr_of(number: usize) -> SocketAddr {
    let port = u16::try_from(number + 1).expect("there are fewer players than ports");
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn number_of(addr: SocketAddr) -> usize {
    usize::from(addr.port()) - 1
}

/// By how much more bytes live than before.
fn difference(before: usize, after: usize) -> i64 {
    let signed = |bytes: usize| i64::try_from(bytes).expect("memory is smaller");
    signed(after) - signed(before)
}
