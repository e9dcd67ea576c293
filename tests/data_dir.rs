//! A server with `--data-dir`, as a process: what a stop, a kill and a full disk do to a match.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod real;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::id::{Conv, PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::frame::{Command as Input, Frame};
use lockstep_server::journal::record::FIRST_RECORD;
use lockstep_server::limits::DATAGRAM_MAX;
use real::{PATIENCE, RealServer};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let name = format!("lockstep-data-{name}-{}", std::process::id());
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

/// One player of v2 on a socket, and all it was told.
struct Player {
    socket: UdpSocket,
    client: Client,
    origin: Instant,
    frames: Vec<Frame>,
    started: Vec<(i64, u32)>,
    closed: bool,
}

impl Player {
    fn new(id: u64) -> Player {
        let origin = Instant::now();
        let mut client = Client::new(Time::ZERO, ClientConfig::new(PlayerId(id), RoomId(1)));
        client.join();
        client.ready();
        Player {
            socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
            client,
            origin,
            frames: Vec::new(),
            started: Vec::new(),
            closed: false,
        }
    }

    fn now(&self) -> Time {
        Time::since_origin(self.origin.elapsed())
    }

    fn come_back(&mut self, conv: u32) {
        let now = self.now();
        self.client.reconnect(now, Conv(conv), conv);
    }

    /// One step: what is to be sent goes to `server`, and what comes within 5 ms is taken in.
    fn step(&mut self, server: SocketAddr) {
        let mut batch = Transmits::default();
        self.client.poll_transmit(self.now(), &mut batch);
        for (_, datagram) in batch.iter() {
            self.socket.send_to(datagram, server).unwrap();
        }
        let mut buffer = [0; DATAGRAM_MAX];
        let wait = Duration::from_millis(5);
        self.socket.set_read_timeout(Some(wait)).unwrap();
        if let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            assert_eq!(from, server);
            let now = self.now();
            self.client.handle_datagram(now, &mut buffer[..len]);
        }
        let now = self.now();
        self.client.handle_timeout(now);
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Frame(frame) => {
                    let next = self.frames.last().map_or(0, |frame| frame.id + 1);
                    assert_eq!(frame.id, next, "no gap and no repeat");
                    self.frames.push(frame);
                }
                ClientEvent::Started {
                    unix_seconds, next, ..
                } => {
                    self.frames.retain(|frame| frame.id < next);
                    self.started.push((unix_seconds, next));
                }
                ClientEvent::Closed => self.closed = true,
                _ => {}
            }
        }
    }

    /// Plays until it has so many frames, and presses now and then.
    fn play(&mut self, server: &RealServer, frames: usize) {
        let began = Instant::now();
        let mut pressed = 0;
        while self.frames.len() < frames {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.frames.last());
            if self.frames.len() > pressed {
                pressed = self.frames.len() + 2;
                let x = i32::try_from(pressed).unwrap();
                self.client.input(Input { sid: 1, x, y: 2 });
            }
            self.step(server.udp);
        }
    }
}

/// The room's number of frames, and its match.
fn room(server: &RealServer) -> (u64, String) {
    let view = server.ask("GET /api/rooms/1", "", 200);
    let id = view["match"].as_str().unwrap().to_owned();
    (view["frame"].as_u64().unwrap(), id)
}

fn segments(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    files.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn a_match_outlives_a_stop_and_a_kill_and_its_player_never_sees_close() {
    for fsync in ["--fsync=never", "--fsync=interval", "--fsync=always"] {
        let dir = Dir::new(&fsync[8..]);
        let mut server = dir.server(&[fsync]);
        server.create_room(1, &[1]);
        let mut player = Player::new(1);
        player.play(&server, 20);
        let (_, id) = room(&server);
        for (signal, conv, frames) in [(Signal::TERM, 5, 40), (Signal::KILL, 6, 60)] {
            let status = server.end(signal);
            assert_eq!(status, (signal == Signal::TERM).then_some(0));
            let seen = player.frames.len();
            server = dir.server(&[fsync]);
            let (head, now) = room(&server);
            assert_eq!(now, id);
            assert!(
                head >= seen as u64,
                "{head} frames of {seen} that were seen"
            );
            player.come_back(conv);
            player.play(&server, frames);
            let (stamp, next) = *player.started.last().unwrap();
            assert_eq!((stamp, next as usize), (player.started[0].0, seen));
        }
        assert!(!player.closed);
        // Everything is as the server has it: a client that knows nothing is told the same.
        let mut second = Player::new(1);
        second.play(&server, player.frames.len());
        assert_eq!(second.frames[..60], player.frames[..60]);
    }
}

#[test]
fn a_directory_belongs_to_one_server() {
    let dir = Dir::new("locked");
    let server = dir.server(&[]);
    let second = Command::new(env!("CARGO_BIN_EXE_lockstep-server"))
        .args(["--udp=127.0.0.1:0", "--web=127.0.0.1:0", "--data-dir"])
        .arg(&dir.0)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    let line = said.lines().last().unwrap();
    let named = format!("in use by another server (process {})", server.pid());
    assert!(
        line.contains("--data-dir") && line.contains(&named),
        "{line}"
    );
    drop(server);
    dir.server(&[]);
}

#[test]
fn what_an_idle_server_has_missed_is_written_though_nobody_asks_it_for_anything() {
    let dir = Dir::new("idle");
    let server = dir.server(&[]);
    let limit = |bytes: Option<u64>| {
        let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(pid, Resource::Fsize, limit).unwrap();
    };
    // Nothing can be written, and the next segment is there already.
    while segments(&dir.0) < 2 * FIRST_RECORD as u64 {
        std::thread::sleep(Duration::from_millis(5));
    }
    limit(Some(10));
    server.create_room(1, &[1]);
    limit(None);
    let holds_a_record = || {
        let entries = std::fs::read_dir(&dir.0).unwrap();
        let lens = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        lens.max() > Some(FIRST_RECORD as u64)
    };
    let began = Instant::now();
    while !holds_a_record() {
        assert!(began.elapsed() < Duration::from_secs(10), "nobody wakes it");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_full_disk_is_reported_and_stops_no_match_and_nothing_is_missing_afterwards() {
    let dir = Dir::new("full");
    let server = dir.server(&[]);
    server.create_room(1, &[1]);
    let mut player = Player::new(1);
    player.play(&server, 10);
    let limit = |bytes: Option<u64>| {
        let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(pid, Resource::Fsize, limit).unwrap();
    };
    // No file may grow beyond what there is of them all.
    limit(Some(segments(&dir.0)));
    player.play(&server, 60);
    let health = server.ask("GET /healthz", "", 503);
    let reason = health["reason"].as_str().unwrap();
    assert!(reason.contains("the journal cannot be written"), "{reason}");
    assert_eq!(server.stats()["journal"]["down"], true);
    limit(None);
    let began = Instant::now();
    while server.stats()["journal"]["down"] == true {
        assert!(began.elapsed() < PATIENCE, "{}", server.stats());
        player.step(server.udp);
    }
    server.ask("GET /healthz", "", 200);
    let seen = player.frames.len() + 10;
    player.play(&server, seen);
    server.end(Signal::KILL);
    let server = dir.server(&[]);
    let mut second = Player::new(1);
    second.play(&server, seen);
    assert_eq!(second.frames[..seen], player.frames[..seen]);
}
