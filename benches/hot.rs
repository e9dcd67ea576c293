//! What the server does for each datagram, frame and timer, one part at a time, without a socket.
//!
//! `cargo bench --bench hot` prints a table. [`Table`] plays 125 rooms of 4 under virtual time through the
//! engine's public face: each benchmark of it runs the whole of a frame and measures one step
//! of it. The others measure the parts below. scripts/bench measures the whole over sockets.

use std::cell::RefCell;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use lockstep_server::client::{Client, ClientConfig, ClientState};
use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::config::{Config, Secrets};
use lockstep_server::engine::frame_log::{Cursor, FrameLog};
use lockstep_server::engine::id::{Conv, PlayerId, RoomId, Seat};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::view::RoomSpec;
use lockstep_server::engine::wheel::Wheel;
use lockstep_server::engine::wire::frame::Command;
use lockstep_server::engine::wire::message::Uplink;
use lockstep_server::engine::wire::packet::PacketReader;
use lockstep_server::limits::{SEGMENT_PAYLOAD_MAX, UPLINK_BODY_MAX};

const ROOMS: u64 = 125;
const SEATS: u64 = 4;
/// Frames of a match by default.
const FRAMES: u32 = 5500;
const TIMERS: u64 = 10_000;
const COMMAND: Command = Command {
    sid: 7,
    x: 1234,
    y: -5,
};

fn main() {
    divan::main();
}

// --- The engine -----------------------------------------------------------------------------

/// A server and players that all play, with a network that takes no time.
struct Table {
    server: Server,
    clients: Vec<Client>,
    now: Time,
    /// On their way to the server.
    up: Vec<(SocketAddr, Vec<u8>)>,
    /// Filled by the server or by a client.
    batch: Transmits,
}

impl Table {
    /// A table at which all matches have started.
    fn new() -> Table {
        let secrets = Secrets {
            hash_key: (1, 2),
            clock_key: (3, 4),
            pass_key: [5; 32],
            first_match: 5,
        };
        let mut table = Table {
            server: Server::new(Config::default(), secrets, 0),
            clients: Vec::new(),
            now: Time::ZERO,
            up: Vec::new(),
            batch: Transmits::default(),
        };
        (1..=ROOMS).for_each(|room| table.open(room));
        while table
            .clients
            .iter()
            .any(|client| client.state() != ClientState::Playing)
        {
            table.listen();
            table.hear();
            table.tick();
            table.send();
        }
        // Some frames, until everybody has some.
        for _ in 0..10 {
            table.press();
            table.hear();
            table.wait_for_frame();
            table.tick();
            table.send();
        }
        table
    }

    fn open(&mut self, room: u64) {
        let members: Vec<_> = (1..=SEATS).map(|n| PlayerId(room * 1000 + n)).collect();
        let spec = RoomSpec {
            room: RoomId(room),
            members: members.clone(),
            seed: 1,
            hz: None,
            broadcast_every: None,
            max_frames: None,
            input_bytes_max: None,
            watchers_max: None,
            watch_delay: None,
            secret: RoomSecret::from_bytes([0; 16]),
        };
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

    /// Everybody says an input and, in the same datagram, what of the last frame it has.
    fn press(&mut self) {
        for client in &mut self.clients {
            assert!(client.input(COMMAND), "the server acknowledges");
        }
        self.listen();
    }

    /// Gathers what the clients have to say.
    fn listen(&mut self) {
        self.now = self.now + Duration::from_millis(15);
        for (number, client) in self.clients.iter_mut().enumerate() {
            client.handle_timeout(self.now);
            self.batch.clear();
            client.poll_transmit(self.now, &mut self.batch);
            let addr = addr_of(number);
            let datagrams = self.batch.iter().map(|(_, bytes)| (addr, bytes.to_vec()));
            self.up.extend(datagrams);
        }
        self.batch.clear();
    }

    /// The server reads it.
    fn hear(&mut self) {
        for (from, bytes) in &mut self.up {
            self.server.handle_datagram(self.now, *from, bytes);
        }
        self.up.clear();
    }

    /// The server seals what is due.
    fn tick(&mut self) {
        self.server.handle_timeout(self.now);
    }

    /// The server says what it has to say.
    fn say(&mut self) {
        self.server.poll_transmit(self.now, &mut self.batch);
    }

    /// What the server said reaches the clients.
    fn send(&mut self) {
        self.say();
        for (to, bytes) in self.batch.iter() {
            let number = usize::from(to.port()) - 1;
            let client = &mut self.clients[number];
            client.handle_datagram(self.now, &mut bytes.to_vec());
            while client.poll_event().is_some() {}
        }
        self.batch.clear();
        while self.server.poll_event().is_some() {}
    }

    /// Goes on to the moment at which frames are due.
    fn wait_for_frame(&mut self) {
        self.now = self.now + Duration::from_millis(19);
    }
}

fn addr_of(number: usize) -> SocketAddr {
    let port = u16::try_from(number + 1).expect("there are fewer players than ports");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Time of 500 datagrams or so, each with an input and an acknowledgement.
#[divan::bench(sample_size = 1, sample_count = 500)]
fn datagrams_in(bencher: Bencher<'_, '_>) {
    let table = RefCell::new(Table::new());
    let prepare = || {
        let mut table = table.borrow_mut();
        table.wait_for_frame();
        table.tick();
        table.send();
        table.press();
        table.up.len()
    };
    bencher
        .with_inputs(prepare)
        .input_counter(|datagrams| ItemsCount::new(*datagrams))
        .bench_local_values(|_| table.borrow_mut().hear());
}

/// Time in which 125 frames of 4 inputs are sealed, their timers included.
#[divan::bench(sample_size = 1, sample_count = 500)]
fn frames_sealed(bencher: Bencher<'_, '_>) {
    let table = RefCell::new(Table::new());
    let prepare = || {
        let mut table = table.borrow_mut();
        table.send();
        table.press();
        table.hear();
        table.wait_for_frame();
    };
    bencher
        .counter(ItemsCount::new(ROOMS))
        .with_inputs(prepare)
        .bench_local_values(|()| table.borrow_mut().tick());
}

/// Time in which 125 frames are put into datagrams for 500 players, through KCP.
#[divan::bench(sample_size = 1, sample_count = 500)]
fn frames_broadcast(bencher: Bencher<'_, '_>) {
    let table = RefCell::new(Table::new());
    let prepare = || {
        let mut table = table.borrow_mut();
        table.send();
        table.press();
        table.hear();
        table.wait_for_frame();
        table.tick();
    };
    bencher
        .counter(ItemsCount::new(ROOMS * SEATS))
        .with_inputs(prepare)
        .bench_local_values(|()| {
            let mut table = table.borrow_mut();
            table.say();
            assert!(!table.batch.is_empty(), "a frame was due");
        });
}

// --- Its parts --------------------------------------------------------------------------------

/// One packet with an input, from the stream to the message.
#[divan::bench]
fn packet_decoded(bencher: Bencher<'_, '_>) {
    let mut bytes = Vec::new();
    Uplink::Input(COMMAND).encode(&mut bytes);
    let mut reader = PacketReader::default();
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        reader.push(black_box(&bytes));
        let packet = reader.next(UPLINK_BODY_MAX);
        let packet = packet.expect("it is small").expect("all of it is there");
        let message = Uplink::decode(packet).expect("it is well formed");
        assert!(matches!(black_box(message), Uplink::Input(_)));
    });
}

/// A match of 5,500 frames of 4 inputs.
#[divan::bench]
fn log_sealed(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(FRAMES))
        .bench_local(full_log);
}

/// The same match for somebody who comes back at its end.
#[divan::bench]
fn log_caught_up(bencher: Bencher<'_, '_>) {
    let log = full_log();
    let mut body = Vec::new();
    bencher.counter(ItemsCount::new(FRAMES)).bench_local(|| {
        let mut cursor = Cursor::default();
        while cursor.frame < log.head() {
            body.clear();
            log.write_batch(&mut cursor, log.head(), SEGMENT_PAYLOAD_MAX, &mut body);
            black_box(&body);
        }
    });
}

fn full_log() -> FrameLog {
    let mut log = FrameLog::new(4);
    for _ in 0..FRAMES {
        for index in 0..4 {
            let seat = Seat::from_index(index);
            log.add_input(seat, PlayerId(1001), COMMAND, &[])
                .expect("the frame has room for it");
        }
        log.seal();
    }
    log
}

/// 10,000 timers within the next second, set and fired.
#[divan::bench]
fn timers(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(TIMERS)).bench_local(|| {
        let mut wheel = Wheel::new();
        for number in 0..TIMERS {
            // Knuth's multiplier scatters them evenly.
            let us = (number * 2_654_435_761) % 1_000_000;
            wheel.insert(Time::from_micros(us), number);
        }
        for ms in 0..=1000 {
            while let Some(timer) = wheel.pop_due(Time::from_millis(ms)) {
                black_box(timer);
            }
        }
        assert!(wheel.is_empty());
    });
}
