//! A server that drains, as a process: it takes no new rooms, stays for the matches that run, and
//! ends when they are over, when its time is, or when it is told again.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod real;

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::id::{Conv, PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::limits::DATAGRAM_MAX;
use real::{PATIENCE, RealServer};
use rustix::process::Signal;

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let name = format!("lockstep-drain-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        Dir(dir)
    }

    fn server(&self, more: &[&str]) -> RealServer {
        let mut settings = vec!["--data-dir", self.0.to_str().unwrap()];
        settings.extend(more);
        RealServer::start(&settings)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One player of room 1 on a socket.
struct Player {
    socket: UdpSocket,
    client: Client,
    origin: Instant,
    frames: u32,
    closed: bool,
}

impl Player {
    fn new(id: u64) -> Player {
        let mut client = Client::new(Time::ZERO, ClientConfig::new(PlayerId(id), RoomId(1)));
        client.join();
        client.ready();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wait = Duration::from_millis(2);
        socket.set_read_timeout(Some(wait)).unwrap();
        Player {
            socket,
            client,
            origin: Instant::now(),
            frames: 0,
            closed: false,
        }
    }

    fn now(&self) -> Time {
        Time::since_origin(self.origin.elapsed())
    }

    fn step(&mut self, server: SocketAddr) {
        let mut batch = Transmits::default();
        self.client.poll_transmit(self.now(), &mut batch);
        for (_, datagram) in batch.iter() {
            self.socket.send_to(datagram, server).unwrap();
        }
        let mut buffer = [0; DATAGRAM_MAX];
        // A server that has ended is an error here.
        if let Ok(len) = self.socket.recv(&mut buffer) {
            let now = self.now();
            self.client.handle_datagram(now, &mut buffer[..len]);
        }
        self.client.handle_timeout(self.now());
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Frame(frame) => self.frames = frame.id + 1,
                ClientEvent::Closed => self.closed = true,
                ClientEvent::Fault(fault) => panic!("{fault:?}"),
                _ => {}
            }
        }
    }
}

/// Lets all of them play until this is so.
fn play_until(players: &mut [Player], server: SocketAddr, mut done: impl FnMut(&[Player]) -> bool) {
    let began = Instant::now();
    while !done(players) {
        assert!(began.elapsed() < PATIENCE, "they wait for ever");
        for player in &mut *players {
            player.step(server);
        }
    }
}

/// Lets all of them play for so many frames more.
fn play(players: &mut [Player], server: &RealServer, frames: u32) {
    let end = players[0].frames + frames;
    play_until(players, server.udp, |players| {
        players.iter().all(|player| player.frames >= end)
    });
}

/// A match in room 1 that runs.
fn begin(server: &RealServer) -> Vec<Player> {
    server.create_room(1, &[1, 2]);
    let mut players = vec![Player::new(1), Player::new(2)];
    play(&mut players, server, 10);
    players
}

/// All of them tell who has won, and are told Close.
fn finish(players: &mut [Player], server: &RealServer) {
    for player in &mut *players {
        player.client.result(1);
    }
    play_until(players, server.udp, |players| {
        players.iter().all(|player| player.closed)
    });
}

/// Tells it to drain; the number of rooms that it stays for.
fn drain(server: &RealServer) -> u64 {
    let answer = server.ask("POST /api/drain", "", 202);
    assert_eq!(answer["state"], "draining");
    answer["rooms"].as_u64().unwrap()
}

fn wait_until_it_drains(server: &RealServer) {
    let began = Instant::now();
    while server.stats()["draining"] != true {
        assert!(began.elapsed() < PATIENCE, "it does not drain");
    }
}

fn must_refuse_rooms(server: &RealServer) {
    let body = r#"{"room": 2, "members": [3]}"#;
    let refused = server.ask("POST /api/rooms", body, 503);
    let reason = refused["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("drains"), "{reason}");
    assert_eq!(server.ask("GET /healthz", "", 200)["status"], "draining");
    let stats = server.stats();
    assert_eq!(stats["draining"], true);
    assert!(stats["load"].as_u64().unwrap() <= 1000);
}

/// The next server finds no match to go on with.
fn must_leave_nothing(dir: &Dir, matches: usize) {
    let next = dir.server(&[]);
    assert_eq!(next.count("rooms_restored"), 0);
    let began = Instant::now();
    let recordings = loop {
        let page = next.ask("GET /api/recordings", "", 200);
        if page["complete"] == true {
            break page;
        }
        assert!(began.elapsed() < PATIENCE, "{page}");
    };
    assert_eq!(recordings["total"], matches);
}

#[test]
fn a_server_without_rooms_answers_and_ends_when_it_is_told_to_drain() {
    for round in 0..8 {
        let dir = Dir::new(&format!("empty-{round}"));
        let server = match round % 4 {
            0 => dir.server(&[]),
            1 => dir.server(&["--fsync=always"]),
            _ => RealServer::start::<&str>(&[]),
        };
        assert_eq!(server.stats()["draining"], false);
        assert_eq!(drain(&server), 0);
        assert_eq!(server.ended(), Some(0));
    }
}

#[test]
fn a_match_that_runs_is_played_to_its_end_and_the_server_ends_with_it() {
    for args in [None, Some("--fsync=interval"), Some("--fsync=always")] {
        let dir = Dir::new(args.map_or("match", |fsync| &fsync[8..]));
        let mut server = match args {
            None => RealServer::start::<&str>(&[]),
            Some(fsync) => dir.server(&[fsync]),
        };
        let mut players = begin(&server);
        assert_eq!(drain(&server), 1);
        must_refuse_rooms(&server);
        assert_eq!(drain(&server), 1, "to say it again changes nothing");
        play(&mut players, &server, 20);
        assert!(server.runs());
        finish(&mut players, &server);
        assert_eq!(server.ended(), Some(0));
        if args.is_some() {
            must_leave_nothing(&dir, 1);
        }
    }
}

#[test]
fn who_is_away_at_the_end_of_its_match_still_gets_its_close() {
    let server = RealServer::start::<&str>(&[]);
    let mut players = begin(&server);
    drain(&server);
    server.ask("DELETE /api/rooms/1", "", 200);
    // What came meanwhile is lost.
    let udp = server.udp;
    std::thread::sleep(Duration::from_secs(1));
    for player in &mut players {
        let mut buffer = [0; DATAGRAM_MAX];
        while player.socket.recv(&mut buffer).is_ok() {}
        assert!(!player.closed);
    }
    play_until(&mut players, udp, |players| {
        players.iter().all(|player| player.closed)
    });
    assert_eq!(server.ended(), Some(0));
}

#[test]
fn a_room_that_waits_for_its_players_is_waited_for() {
    let mut server = RealServer::start::<&str>(&[]);
    server.create_room(1, &[1, 2]);
    assert_eq!(drain(&server), 1);
    let mut players = vec![Player::new(1), Player::new(2)];
    play(&mut players, &server, 10);
    assert!(server.runs());
    finish(&mut players, &server);
    assert_eq!(server.ended(), Some(0));
}

#[test]
fn a_match_that_was_restored_is_waited_for() {
    let dir = Dir::new("restored");
    let server = dir.server(&[]);
    let mut players = begin(&server);
    server.end(Signal::KILL);
    let server = dir.server(&[]);
    assert_eq!(drain(&server), 1);
    for player in &mut players {
        let now = player.now();
        player.client.reconnect(now, Conv(7), 7);
    }
    play(&mut players, &server, 20);
    must_refuse_rooms(&server);
    finish(&mut players, &server);
    assert_eq!(server.ended(), Some(0));
    must_leave_nothing(&dir, 1);
}

#[test]
fn a_signal_lets_a_server_drain_that_has_time_for_it() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = RealServer::start(&["--drain", "600"]);
        let mut players = begin(&server);
        server.signal(signal);
        wait_until_it_drains(&server);
        must_refuse_rooms(&server);
        play(&mut players, &server, 20);
        finish(&mut players, &server);
        assert_eq!(server.ended(), Some(0));
    }
    let empty = RealServer::start(&["--drain", "600"]);
    assert_eq!(empty.end(Signal::TERM), Some(0));
}

/// A server that has drained for long enough, or was told again, stops as it does without draining.
fn must_stop_as_ever(name: &str, drain: &str, stop: fn(&RealServer)) {
    let server = RealServer::start(&["--drain", drain]);
    let mut players = begin(&server);
    server.signal(Signal::TERM);
    stop(&server);
    play_until(&mut players, server.udp, |players| {
        players.iter().all(|player| player.closed)
    });
    assert_eq!(server.ended(), Some(0));

    let dir = Dir::new(name);
    let server = dir.server(&["--drain", drain]);
    let mut players = begin(&server);
    server.signal(Signal::TERM);
    stop(&server);
    assert_eq!(server.ended(), Some(0));
    let server = dir.server(&[]);
    assert_eq!(server.count("rooms_restored"), 1);
    for player in &mut players {
        let now = player.now();
        player.client.reconnect(now, Conv(9), 9);
    }
    play(&mut players, &server, 20);
    assert!(players.iter().all(|player| !player.closed));
}

#[test]
fn a_second_signal_stops_a_server_that_drains() {
    must_stop_as_ever("second", "600", |server| {
        wait_until_it_drains(server);
        server.signal(Signal::TERM);
    });
}

#[test]
fn a_server_that_does_not_drain_in_its_time_stops() {
    must_stop_as_ever("late", "1", |_| ());
}

#[test]
fn a_signal_stops_a_server_that_drains_without_a_time() {
    let server = RealServer::start::<&str>(&[]);
    let mut players = begin(&server);
    drain(&server);
    server.signal(Signal::TERM);
    play_until(&mut players, server.udp, |players| {
        players.iter().all(|player| player.closed)
    });
    assert_eq!(server.ended(), Some(0));
}
