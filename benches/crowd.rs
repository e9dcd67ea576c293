//! What the engine alone costs with a crowd of players: no socket, no system call, no other
//! program that shares the core's caches.
//!
//! `cargo bench --bench crowd [-- PLAYERS...]` prints a line for each number of players, in rooms
//! of 4 that send 15 inputs a second. A crowd of real clients plays first, under virtual time,
//! and every datagram of theirs is written down with its moment. The engine is deterministic, so
//! a second one that is given the same datagrams does the same work, and that is what is timed;
//! that it sent as many datagrams is checked. `hot` measures the parts one by one, scripts/bench
//! the whole over sockets.
//!
//! A second table is of one room of 4 that many watch: what each of them adds to a broadcast.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lockstep_server::client::{Client, ClientConfig};
use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::config::{Config, Secrets};
use lockstep_server::engine::id::{Conv, PlayerId, RoomId};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::view::RoomSpec;
use lockstep_server::engine::wire::frame::Command;
use lockstep_server::engine::wire::message::WatchFrom;
use lockstep_server::limits::DATAGRAM_MAX;

const SEATS: u64 = 4;
/// Time from one turn of the engine to the next: what is on its way takes so long.
const STEP: Duration = Duration::from_millis(1);
/// Time between the first datagrams of two players.
const BEGIN_EVERY: Duration = Duration::from_micros(500);
const INPUT_EVERY: Duration = Duration::from_micros(1_000_000 / 15);
/// Time from the last beginning until the measurement begins, and how long it lasts.
const SETTLE: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(4);

fn main() {
    let given: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let crowds = if given.is_empty() {
        vec![500, 1000, 2000, 4000, 8000, 16_000]
    } else {
        given
    };
    println!("players | % of a core | ns a datagram | datagrams in/s | out/s | turns/s");
    for players in crowds {
        let script = Script::record(players / SEATS * SEATS, 0);
        let busy = script.best().as_secs_f64();
        let seconds = MEASURE.as_secs_f64();
        let (heard, sent) = (script.heard as f64, script.sent as f64);
        println!(
            "{players:>7} | {:>11.2} | {:>13.0} | {:>14.0} | {:>5.0} | {:>7.0}",
            100.0 * busy / seconds,
            1e9 * busy / (heard + sent),
            heard / seconds,
            sent / seconds,
            script.turns as f64 / seconds,
        );
    }
    println!("watchers of one room | us a broadcast | ns a watcher of it | datagrams out/s");
    let unwatched = Script::record(SEATS, 0).best();
    for watchers in [0, 100, 1000] {
        let script = Script::record(SEATS, watchers);
        let busy = script.best();
        // Each frame holds inputs, and so is broadcast.
        let broadcasts = 30.0 * MEASURE.as_secs_f64();
        let added = busy.saturating_sub(unwatched).as_secs_f64();
        println!(
            "{watchers:>20} | {:>14.1} | {:>18.0} | {:>15.0}",
            1e6 * busy.as_secs_f64() / broadcasts,
            1e9 * added / broadcasts / watchers.max(1) as f64,
            script.sent as f64 / MEASURE.as_secs_f64(),
        );
    }
}

/// What the players of a crowd said, and when.
struct Script {
    players: u64,
    watchers: u64,
    /// The moments, and where the datagrams of each end.
    steps: Vec<(Time, usize)>,
    /// Who sent each, and where it ends in `bytes`.
    datagrams: Vec<(SocketAddr, usize)>,
    bytes: Vec<u8>,
    /// When the measurement begins, and what is heard, sent and done in it.
    from: Time,
    heard: u64,
    sent: u64,
    turns: u64,
}

impl Script {
    /// The script of so many players, and of so many who watch the first room.
    fn record(players: u64, watchers: u64) -> Script {
        let all = players + watchers;
        let crowd_is_there = BEGIN_EVERY * u32::try_from(all).expect("a crowd is small");
        let mut script = Script {
            players,
            watchers,
            steps: Vec::new(),
            datagrams: Vec::new(),
            bytes: Vec::new(),
            from: Time::ZERO + crowd_is_there + SETTLE,
            heard: 0,
            sent: 0,
            turns: 0,
        };
        let mut server = server(players, watchers);
        let mut crowd: Vec<Player> = (0..all)
            .map(|number| Player::new(number, number >= players))
            .collect();
        let mut batch = Transmits::default();
        let mut now = Time::ZERO;
        while now < script.from + MEASURE {
            now = now + STEP;
            for player in &mut crowd {
                player.speak(now, &mut batch, &mut script);
            }
            script.steps.push((now, script.datagrams.len()));
            let measured = now >= script.from;
            let worked = script.turn(script.steps.len() - 1, &mut server, &mut batch);
            if measured {
                script.heard += script.datagrams_of(script.steps.len() - 1).len() as u64;
                script.sent += batch.len() as u64;
                script.turns += u64::from(worked);
            }
            for (to, datagram) in batch.iter() {
                crowd[number_of(to)].hear(now, datagram);
            }
            batch.clear();
        }
        script
    }

    /// The best of three replays.
    fn best(&self) -> Duration {
        let best = (0..3).map(|_| self.replay()).min();
        best.expect("it is replayed three times")
    }

    /// Plays it to a new engine, and returns how long that was at work while it was measured.
    fn replay(&self) -> Duration {
        let mut server = server(self.players, self.watchers);
        let mut batch = Transmits::default();
        let mut busy = Duration::ZERO;
        let mut sent = 0;
        for (number, (now, _)) in self.steps.iter().enumerate() {
            let began = Instant::now();
            self.turn(number, &mut server, &mut batch);
            if *now >= self.from {
                busy += began.elapsed();
                sent += batch.len() as u64;
            }
            batch.clear();
        }
        assert_eq!(sent, self.sent, "the same datagrams get the same answers");
        busy
    }

    /// One turn of the engine. Says whether there was something to do.
    fn turn(&self, number: usize, server: &mut Server, batch: &mut Transmits) -> bool {
        let now = self.steps[number].0;
        let mut datagram = [0; DATAGRAM_MAX];
        let heard = self.datagrams_of(number);
        for index in heard.clone() {
            if index % 64 == heard.start % 64 {
                let end = heard.end.min(index + 64);
                server.foresee(self.datagrams[index..end].iter().map(|(from, _)| *from));
            }
            let (from, end) = self.datagrams[index];
            let begin = index
                .checked_sub(1)
                .map_or(0, |last| self.datagrams[last].1);
            let datagram = &mut datagram[..end - begin];
            datagram.copy_from_slice(&self.bytes[begin..end]);
            server.handle_datagram(now, from, datagram);
        }
        let due = server.poll_timeout().is_some_and(|due| due <= now);
        if due {
            server.handle_timeout(now);
        }
        server.poll_transmit(now, batch);
        while server.poll_event().is_some() {}
        due || !heard.is_empty()
    }

    fn datagrams_of(&self, step: usize) -> std::ops::Range<usize> {
        let begin = step.checked_sub(1).map_or(0, |last| self.steps[last].1);
        begin..self.steps[step].1
    }
}

fn server(players: u64, watchers: u64) -> Server {
    let secrets = Secrets {
        hash_key: (1, 2),
        clock_key: (3, 4),
        pass_key: [5; 32],
        first_match: 5,
    };
    let config = Config {
        max_sessions: 100_000,
        max_rooms: 100_000,
        ..Config::default()
    };
    let mut server = Server::new(config, secrets, 0);
    server.contain_panics();
    for room in 0..players / SEATS {
        let spec = RoomSpec {
            room: RoomId(room),
            members: (0..SEATS)
                .map(|seat| PlayerId(room * SEATS + seat))
                .collect(),
            seed: 1,
            hz: None,
            broadcast_every: None,
            max_frames: None,
            input_bytes_max: None,
            watchers_max: Some(u32::try_from(watchers).expect("a crowd is small")),
            watch_delay: None,
            secret: RoomSecret::from_bytes([0; 16]),
        };
        server.create_room(Time::ZERO, spec).expect("there is room");
    }
    server
}

/// A player and its next moments.
struct Player {
    number: u64,
    watches: bool,
    client: Client,
    begins: Time,
    next_input: Time,
    /// When its client has something to do.
    wake: Time,
}

impl Player {
    fn new(number: u64, watches: bool) -> Player {
        let begins = Time::ZERO + BEGIN_EVERY * u32::try_from(number).expect("a crowd is small");
        let room = if watches { 0 } else { number / SEATS };
        let mut config = ClientConfig::new(PlayerId(number), RoomId(room));
        config.watch = watches.then_some(WatchFrom::Start);
        config.conv = Conv(u32::try_from(number).expect("a crowd is small"));
        let mut client = Client::new(begins, config);
        client.join();
        client.ready();
        Player {
            number,
            watches,
            client,
            begins,
            // The players of a room press one after another.
            next_input: begins + INPUT_EVERY.mul_f64(number as f64 * 0.382 % 1.0) + SETTLE,
            wake: begins,
        }
    }

    fn speak(&mut self, now: Time, batch: &mut Transmits, script: &mut Script) {
        if now < self.begins {
            return;
        }
        let presses = self.next_input <= now && !self.watches;
        if presses && self.client.next_frame() > 0 {
            self.next_input = self.next_input + INPUT_EVERY;
            let command = Command {
                sid: 7,
                x: 1234,
                y: -5,
            };
            assert!(self.client.input(command), "the server acknowledges");
            self.wake = now;
        }
        if self.wake > now {
            return;
        }
        self.client.handle_timeout(now);
        self.client.poll_transmit(now, batch);
        for (_, datagram) in batch.iter() {
            script.bytes.extend_from_slice(datagram);
            let from = addr_of(self.number);
            script.datagrams.push((from, script.bytes.len()));
        }
        batch.clear();
        let next = self.client.poll_timeout(now);
        self.wake = next.unwrap_or(now + SETTLE).max(now + STEP);
    }

    fn hear(&mut self, now: Time, datagram: &[u8]) {
        self.client.handle_datagram(now, &mut datagram.to_vec());
        while self.client.poll_event().is_some() {}
        self.wake = now;
    }
}

fn addr_of(number: u64) -> SocketAddr {
    let [.., a, b, c] = number.to_be_bytes();
    SocketAddr::from(([10, a, b, c], 40_000))
}

fn number_of(addr: SocketAddr) -> usize {
    match addr {
        SocketAddr::V4(addr) => {
            let [_, a, b, c] = addr.ip().octets();
            usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
        }
        SocketAddr::V6(_) => unreachable!("all players are of version 4"),
    }
}
