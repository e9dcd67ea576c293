//! The HTTP side over real sockets: what it answers, and that it lives through everything
//! that tiny_http does wrong. The loop behind it is a fake, below; the watchdog is the real
//! one with shorter times where a test waits for it.

// Helpers of tests are tests, which clippy does not see.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_server::admin::guard::{AdminToken, Guard};
use lockstep_server::admin::order::Bounds;
use lockstep_server::admin::{self, Admin, AdminConfig, Watch};
use lockstep_server::engine::auth::{Auth, RoomSecret};
use lockstep_server::engine::config::Config;
use lockstep_server::engine::counters::Counters;
use lockstep_server::engine::id::{MatchId, Percent, PlayerId, RoomId};
use lockstep_server::engine::view::{
    CreateError, OverReason, Phase, RoomSpec, RoomView, RoomsPage, SeatView,
};
use lockstep_server::io::control::{self, Control, Handle, Mailbox};
use lockstep_server::io::metrics::{Load, ShellCounters, Stats};
use lockstep_server::operations::{Operations, Tickets};
use lockstep_server::ticket::{TicketFault, TicketSecret, TicketSecrets};
use serde_json::Value;

/// Longest wait of any test for anything: far beyond what is expected, so that a busy
/// machine does not fail it.
const AT_MOST: Duration = Duration::from_secs(60);

const MAX_PLAYERS: usize = 8;

fn operations(control: Handle, tickets: Option<Tickets>) -> Arc<Operations> {
    let bounds = Bounds {
        max_players_per_room: MAX_PLAYERS,
    };
    Arc::new(Operations::new(control, bounds, tickets))
}
const MAX_ROOMS: usize = 5;

// --- The fake loop ------------------------------------------------------------------------

#[derive(Default)]
struct Model {
    rooms: BTreeMap<u64, RoomView>,
    over: BTreeMap<u64, RoomView>,
    next_match: u64,
    draining: bool,
}

impl Model {
    fn carry_out(&mut self, control: Control) {
        match control {
            Control::Create(spec, answer) => answer.give(self.create(spec)),
            Control::Close(id, answer) => answer.give(self.close(id)),
            Control::Room(id, answer) => answer.give(self.rooms.get(&id.0).cloned()),
            Control::Match(id, answer) => answer.give(self.find(id)),
            Control::Rooms {
                from,
                limit,
                answer,
            } => answer.give(self.page(from, limit)),
            Control::Stats(answer) => answer.give(Box::new(self.stats())),
            Control::Load(answer) => answer.give(Load::default()),
            Control::Drain(answer) => {
                self.draining = true;
                let (rooms, draining) = (self.rooms.len(), true);
                answer.give(Load {
                    rooms,
                    draining,
                    ..Load::default()
                });
            }
            Control::RoomIds(answer) => answer.give(Vec::new()),
            Control::Located(..) => {}
        }
    }

    fn create(&mut self, spec: RoomSpec) -> Result<RoomView, CreateError> {
        if spec.room.0 == 666 {
            let reason = "is not to our taste; choose another".to_owned();
            return Err(CreateError::Invalid {
                field: "room",
                reason,
            });
        }
        if let Some(view) = self.rooms.get(&spec.room.0) {
            return Err(CreateError::Exists {
                room: view.room,
                match_id: view.match_id,
            });
        }
        if self.rooms.len() >= MAX_ROOMS {
            return Err(CreateError::Full { max: MAX_ROOMS });
        }
        if self.draining {
            return Err(CreateError::Draining);
        }
        self.next_match += 1;
        let view = room(&spec, self.next_match);
        self.rooms.insert(spec.room.0, view.clone());
        Ok(view)
    }

    fn close(&mut self, id: RoomId) -> Option<RoomView> {
        let mut view = self.rooms.remove(&id.0)?;
        view.phase = Phase::Over(OverReason::Closed);
        self.over.insert(view.match_id.0, view.clone());
        Some(view)
    }

    fn find(&self, id: MatchId) -> Option<RoomView> {
        let mut running = self.rooms.values();
        running
            .find(|view| view.match_id == id)
            .or(self.over.get(&id.0))
            .cloned()
    }

    fn page(&self, from: usize, limit: usize) -> RoomsPage {
        let rooms: Vec<_> = self
            .rooms
            .values()
            .skip(from)
            .take(limit)
            .cloned()
            .collect();
        let end = from.saturating_add(rooms.len());
        RoomsPage {
            total: self.rooms.len(),
            next: (end < self.rooms.len()).then_some(end),
            rooms,
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            uptime: Duration::from_secs(1),
            degraded: None,
            load: 250,
            draining: self.draining,
            engine: Counters::default(),
            shell: ShellCounters::default(),
            journal: None,
        }
    }
}

fn room(spec: &RoomSpec, match_id: u64) -> RoomView {
    let seat = |(index, player): (usize, &PlayerId)| SeatView {
        seat: i32::try_from(index).unwrap() + 1,
        player: *player,
        online: false,
        ready: false,
        progress: Percent::default(),
        cursor: 0,
        rtt: None,
        result: None,
    };
    RoomView {
        room: spec.room,
        match_id: MatchId(u64::MAX - match_id),
        phase: Phase::Waiting,
        frame: 0,
        hz: spec.hz.unwrap_or(30),
        broadcast_every: spec.broadcast_every.unwrap_or(3),
        max_frames: spec.max_frames.unwrap_or(5500),
        input_bytes_max: spec.input_bytes_max.unwrap_or(256),
        seed: spec.seed,
        created_unix: 1_700_000_000,
        started_unix: None,
        log_bytes: 0,
        watchers: 0,
        watchers_max: spec.watchers_max.unwrap_or(0),
        watch_delay: spec.watch_delay.unwrap_or(0),
        seats: spec.members.iter().enumerate().map(seat).collect(),
    }
}

/// The HTTP side with a fake loop behind it.
struct World {
    addr: SocketAddr,
    admin: Option<Admin>,
    stalled: Arc<AtomicBool>,
}

impl World {
    fn new() -> World {
        World::with(Watch::default(), 0)
    }

    /// With a watchdog that finds trouble soon.
    fn watched() -> World {
        let every = Duration::from_millis(100);
        World::with(
            Watch {
                every,
                patience: Duration::from_secs(1),
                ..Watch::default()
            },
            0,
        )
    }

    /// With that many rooms from the start.
    fn with(watch: Watch, rooms: u64) -> World {
        World::set_up(rooms, None, |config| config.watch = watch)
    }

    fn set_up(rooms: u64, tickets: Option<Tickets>, set: impl FnOnce(&mut AdminConfig)) -> World {
        let (bell, ring) = mpsc::channel();
        let (handle, mailbox) = control::channel(move || bell.send(()).unwrap_or(()));
        let stalled = Arc::new(AtomicBool::new(false));
        let stall = Arc::clone(&stalled);
        thread::spawn(move || turn(&mailbox, &ring, &stall, rooms));
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = AdminConfig::new(listen);
        set(&mut config);
        let admin = admin::start(config, operations(handle, tickets)).unwrap();
        World {
            addr: admin.local_addr(),
            admin: Some(admin),
            stalled,
        }
    }

    fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, "", "")
    }

    fn post(&self, body: &str) -> Reply {
        self.ask(
            "POST",
            "/api/rooms",
            "Content-Type: application/json\r\n",
            body,
        )
    }

    fn ask(&self, method: &str, target: &str, headers: &str, body: &str) -> Reply {
        let length = match method {
            "POST" => format!("Content-Length: {}\r\n", body.len()),
            _ => String::new(),
        };
        let host = self.addr;
        self.raw(&format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}Connection: close\r\n\r\n{body}"
        ))
    }

    fn raw(&self, request: &str) -> Reply {
        self.try_raw(request).unwrap()
    }

    fn try_raw(&self, request: &str) -> io::Result<Reply> {
        let mut stream = self.send(request)?;
        Reply::read(&mut stream, request.starts_with("HEAD"))
    }

    /// A connection on which `request` was sent and nothing read.
    fn send(&self, request: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_read_timeout(Some(AT_MOST))?;
        stream.set_write_timeout(Some(AT_MOST))?;
        stream.write_all(request.as_bytes())?;
        Ok(stream)
    }

    /// Waits until the server answers.
    fn recovers(&self) {
        wait_for("answer", || match self.get_soon("/healthz")?.status {
            200 => Ok(()),
            status => Err(io::Error::other(status.to_string())),
        });
    }

    /// An answer within a second.
    fn get_soon(&self, target: &str) -> io::Result<Reply> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n")?;
        Reply::read(&mut stream, false)
    }

    /// Waits until a counter is as it should be. A restart may be under way, so each question
    /// is a short one.
    fn counts(&self, name: &str, right: impl Fn(u64) -> bool) {
        wait_for(name, || {
            let count = self.get_soon("/api/stats")?.json()["http"][name].as_u64();
            match count.filter(|count| right(*count)) {
                Some(_) => Ok(()),
                None => Err(io::Error::other(format!("{count:?}"))),
            }
        });
    }

    fn http_counter(&self, name: &str) -> u64 {
        let reply = self.get("/api/stats");
        reply.json()["http"][name].as_u64().expect("a counter")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(admin) = self.admin.take() {
            admin.stop();
        }
    }
}

fn turn(mailbox: &Mailbox, ring: &mpsc::Receiver<()>, stall: &AtomicBool, rooms: u64) {
    let mut model = Model::default();
    for number in 0..rooms {
        let members = (0..8).map(|seat| PlayerId(u64::MAX - seat)).collect();
        let room_id = RoomId(number);
        let (seed, none) = (0, None);
        let spec = RoomSpec {
            room: room_id,
            members,
            seed,
            hz: none,
            broadcast_every: none,
            max_frames: none,
            input_bytes_max: none,
            watchers_max: none,
            watch_delay: none,
            secret: RoomSecret::from_bytes([0; 16]),
        };
        model.rooms.insert(number, room(&spec, number));
    }
    while ring.recv().is_ok() {
        while stall.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        while let Some(control) = mailbox.take() {
            model.carry_out(control);
        }
    }
}

fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> io::Result<T>) -> T {
    let begin = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if begin.elapsed() > AT_MOST => panic!("no {what}: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

// --- A client -----------------------------------------------------------------------------

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn read(stream: &mut impl Read, head_only: bool) -> io::Result<Reply> {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut reply = Reply {
            status: status.expect("a status"),
            head,
            body: Vec::new(),
        };
        match reply
            .header("Content-Length")
            .map(|length| length.parse().unwrap())
        {
            Some(length) if !head_only => {
                reply.body.resize(length, 0);
                stream.read_exact(&mut reply.body)?;
            }
            None if !head_only && reply.status != 204 => {
                let _ = stream.read_to_end(&mut reply.body)?;
            }
            _ => {}
        }
        Ok(reply)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut headers = lines.filter_map(|line| line.split_once(": "));
        headers
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

// --- What it answers ----------------------------------------------------------------------

#[test]
fn create_answers_with_the_text_of_the_original() {
    let world = World::new();
    let reply = world.get("/create?room=1&member=1,2");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(
        reply.header("Content-Type"),
        Some("text/plain; charset=utf-8")
    );
    let text = reply.text();
    let rest = text.strip_prefix("room.ID=[1] room.Secret=[").unwrap();
    let (secret, rest) = rest.split_once(']').unwrap();
    assert_eq!(secret.len(), 32);
    assert!(secret.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let rest = rest
        .strip_prefix(" room.Time=[1700000000], room.Member=[1,2] room.Seed=[")
        .unwrap();
    let (seed, rest) = rest.split_once(']').unwrap();
    assert_eq!(rest, " room.Match=[18446744073709551614]");
    let shown = world.get("/api/rooms/1").json();
    assert_eq!(shown["seed"].to_string(), seed);

    let other = world
        .get("/create?room=2&member=3&seed=-7&hz=60&broadcast_every=1&max_frames=9&input_bytes=0");
    assert!(other.text().contains(" room.Seed=[-7] "), "{other:?}");
    assert!(
        !other.text().contains(secret),
        "each room has its own secret"
    );
    let shown = world.get("/api/rooms/2").json();
    assert_eq!(
        (&shown["hz"], &shown["max_frames"], &shown["input_bytes"]),
        (&60.into(), &9.into(), &0.into())
    );
}

#[test]
fn a_room_says_who_may_watch_it_and_what_lets_them_in() {
    let world = World::new();
    let body = r#"{"room": 1, "members": [1], "watchers_max": 5, "watch_delay": 90}"#;
    let created = world.post(body).json();
    let shown = world.get("/api/rooms/1").json();
    for room in [&created, &shown] {
        assert_eq!(room["watchers"], 0);
        assert_eq!(
            (&room["watchers_max"], &room["watch_delay"]),
            (&5.into(), &90.into())
        );
    }
    let secret = created["watch_secret"].as_str().unwrap();
    assert_ne!(created["secret"], secret);
    assert_eq!(
        (shown.get("secret"), shown.get("watch_secret")),
        (None, None)
    );
    let reply = world.get("/create?room=2&member=1&watchers_max=3");
    let text = reply.text();
    let (_, watch) = text.rsplit_once(" room.Watch=[").unwrap();
    assert_eq!(watch.strip_suffix(']').map(str::len), Some(32), "{text}");
    // Nobody watches a room that does not say so.
    let none = world.post(r#"{"room": 3, "members": [1]}"#);
    assert_eq!(none.json().get("watch_secret"), None);
    for wrong in [r#""watchers_max": 10001"#, r#""watch_delay": 54001"#] {
        let body = format!(r#"{{"room": 4, "members": [1], {wrong}}}"#);
        assert_eq!(world.post(&body).status, 400, "{wrong}");
    }
}

#[test]
fn a_room_lives_through_the_api() {
    let world = World::new();
    let big = u64::MAX.to_string();
    let made = world.post(&format!(
        r#"{{"room": {big}, "members": [1, "{big}"], "seed": 5}}"#
    ));
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!(made["room"], big.as_str());
    assert_eq!(made["seats"][1]["player"], big.as_str());
    assert_eq!(made["phase"], "waiting");
    assert_eq!(made["secret"].as_str().unwrap().len(), 32);

    let shown = world.get(&format!("/api/rooms/{big}"));
    assert_eq!(shown.json()["match"], made["match"]);
    assert_eq!(shown.json().get("secret"), None);

    let closed = world.ask("DELETE", &format!("/api/rooms/{big}"), "", "");
    assert_eq!(
        (closed.status, &closed.json()["over"]),
        (200, &"closed".into())
    );
    assert_eq!(world.get(&format!("/api/rooms/{big}")).status, 404);
    assert_eq!(
        world
            .ask("DELETE", &format!("/api/rooms/{big}"), "", "")
            .status,
        404
    );
    let past = world.get(&format!("/api/matches/{}", made["match"].as_str().unwrap()));
    assert_eq!((past.status, &past.json()["phase"]), (200, &"over".into()));
    assert_eq!(world.get("/api/matches/1").status, 404);
}

#[test]
fn a_server_that_drains_says_so_wherever_it_is_asked() {
    let world = World::new();
    assert_eq!(world.get("/healthz").json()["status"], "ok");
    assert_eq!(world.get("/api/stats").json()["draining"], false);
    world.get("/create?room=1&member=1");
    let ask = "POST /api/drain HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for _ in 0..2 {
        let reply = world.raw(ask);
        assert_eq!(reply.status, 202, "{reply:?}");
        let said = reply.json();
        assert_eq!(
            (&said["state"], &said["rooms"]),
            (&"draining".into(), &1.into())
        );
    }
    let health = world.get("/healthz");
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["status"], "draining");
    let stats = world.get("/api/stats").json();
    assert_eq!(
        (&stats["draining"], &stats["load"]),
        (&true.into(), &250.into())
    );
    for reply in [
        world.get("/create?room=2&member=1"),
        world.post(r#"{"room": 2, "members": [1]}"#),
    ] {
        assert_eq!(reply.status, 503);
        assert!(reply.text().contains("the server drains"), "{reply:?}");
    }
}

#[test]
fn the_list_of_rooms_comes_in_parts() {
    let world = World::with(Watch::default(), 2500);
    let first = world.get("/api/rooms").json();
    assert_eq!(first["rooms"].as_array().unwrap().len(), 1000);
    assert_eq!(
        (&first["total"], &first["next"]),
        (&2500.into(), &1000.into())
    );
    let last = world.get("/api/rooms?from=2490&limit=20").json();
    assert_eq!(last["rooms"].as_array().unwrap().len(), 10);
    assert_eq!(last["next"], Value::Null);
}

#[test]
fn refusals_say_what_they_mean() {
    let world = World::new();
    for room in 1..=5 {
        assert_eq!(
            world.get(&format!("/create?room={room}&member=1")).status,
            200
        );
    }
    let again = world.get("/create?room=1&member=1");
    assert_eq!(again.status, 409);
    assert!(
        again.text().starts_with("room: room 1 has a match"),
        "{again:?}"
    );
    let full = world.post(r#"{"room": 6, "members": [1]}"#);
    assert_eq!((full.status, full.header("Retry-After")), (503, Some("1")));

    let invalid = world.post(r#"{"room": 666, "members": [1]}"#);
    assert_eq!(
        (invalid.status, &invalid.json()["error"]["field"]),
        (400, &"room".into())
    );
    let twice = world.post(r#"{"room": 7, "members": [1, 1]}"#).json();
    assert_eq!(twice["error"]["field"], "members");
    assert_eq!(world.post("{").status, 400);
    assert_eq!(world.get("/create?room=7").status, 400);
    assert_eq!(world.get("/nowhere").status, 404);
    let put = world.ask("PUT", "/api/rooms", "", "");
    assert_eq!(
        (put.status, put.header("Allow")),
        (405, Some("GET, HEAD, POST"))
    );
}

#[test]
fn bodies_have_a_length_within_bounds() {
    let world = World::new();
    let head =
        "POST /api/rooms HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let body = r#"{"room": 1, "members": [1]}"#;
    let status = |rest: &str| world.raw(&format!("{head}{rest}")).status;
    assert_eq!(status("\r\n"), 411);
    assert_eq!(status(&format!("Content-Length: x\r\n\r\n{body}")), 400);
    assert_eq!(
        status("Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}   "),
        400
    );
    assert_eq!(
        status(&format!(
            "Content-Length: 65537\r\n\r\n{}",
            " ".repeat(65_537)
        )),
        413
    );
    let padded = format!("{}{body}", " ".repeat(65_536 - body.len()));
    assert_eq!(
        status(&format!("Content-Length: 65536\r\n\r\n{padded}")),
        201
    );
    let chunked =
        "Transfer-Encoding: chunked\r\n\r\n1b\r\n{\"room\": 2, \"members\": [1]}\r\n0\r\n\r\n";
    assert_eq!(status(chunked), 201);
    let endless = format!(
        "Transfer-Encoding: chunked\r\n\r\n20000\r\n{}\r\n",
        " ".repeat(131_072)
    );
    assert_eq!(status(&endless), 413);
    let mut stream = world
        .send(&format!(
            "{head}Expect: 100-continue\r\nContent-Length: 27\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(Reply::read(&mut stream, true).unwrap().status, 100);
    stream.write_all(br#"{"room": 3, "members": [1]}"#).unwrap();
    assert_eq!(Reply::read(&mut stream, false).unwrap().status, 201);
}

#[test]
fn pages_of_other_sites_are_refused() {
    let world = World::new();
    let cross = "Sec-Fetch-Site: cross-site\r\n";
    assert_eq!(
        world
            .ask("GET", "/create?room=1&member=1", cross, "")
            .status,
        403
    );
    let elsewhere = "Origin: http://elsewhere\r\n";
    assert_eq!(
        world.ask("DELETE", "/api/rooms/1", elsewhere, "").status,
        403
    );
    let body = r#"{"room": 1, "members": [1]}"#;
    let typed = format!("{elsewhere}Content-Type: application/json\r\n");
    assert_eq!(world.ask("POST", "/api/rooms", &typed, body).status, 403);
    assert_eq!(
        world
            .ask("POST", "/api/rooms", "Content-Type: text/plain\r\n", body)
            .status,
        415
    );
    let here = format!(
        "Origin: http://{}\r\nContent-Type: application/json\r\n",
        world.addr
    );
    assert_eq!(world.ask("POST", "/api/rooms", &here, body).status, 201);
}

const TOKEN: &str = "a-token-for-the-tests";

fn guarded() -> World {
    let token = AdminToken::new(TOKEN).unwrap();
    World::set_up(0, None, |config| config.guard = Guard::Token(token))
}

#[test]
fn without_the_token_nothing_is_shown_or_changed() {
    let world = guarded();
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let typed = "Content-Type: application/json\r\n";
    let body = r#"{"room": 1, "members": [1]}"#;
    for wrong in ["", "Authorization: Bearer a-token-for-the-test\r\n"] {
        for (method, target) in [
            ("GET", "/create?room=1&member=1"),
            ("GET", "/api/rooms"),
            ("POST", "/api/rooms"),
            ("GET", "/api/rooms/1"),
            ("DELETE", "/api/rooms/1"),
            ("GET", "/api/matches/1"),
            ("GET", "/api/stats"),
        ] {
            let reply = world.ask(method, target, &format!("{wrong}{typed}"), body);
            assert_eq!(reply.status, 401, "{method} {target}: {reply:?}");
            assert_eq!(reply.header("WWW-Authenticate"), Some("Bearer"));
            let is_text = reply.header("Content-Type").unwrap().starts_with("text/");
            assert_eq!(is_text, target.starts_with("/create"));
            assert!(reply.text().contains("--admin-token"), "{reply:?}");
            assert!(!reply.text().contains(TOKEN), "{reply:?}");
        }
        for (target, status) in [("/", 200), ("/healthz", 200), ("/livez", 204)] {
            assert_eq!(world.ask("GET", target, wrong, "").status, status);
        }
    }
    assert_eq!(world.ask("GET", "/api/rooms/1", &right, "").status, 404);
    let made = world.ask("POST", "/api/rooms", &format!("{right}{typed}"), body);
    assert_eq!((made.status, made.header("WWW-Authenticate")), (201, None));
    let made = world.ask("GET", "/create?room=2&member=1", &right, "");
    assert_eq!(made.status, 200);
    let list = world.ask("GET", "/api/rooms", &right, "").json();
    assert_eq!(list["total"], 2);
}

#[test]
fn a_body_that_nobody_may_send_is_not_waited_for() {
    let world = guarded();
    let head = "POST /api/rooms HTTP/1.1\r\nContent-Type: application/json\r\n\
                Content-Length: 60000\r\n\r\n";
    assert_eq!(world.raw(head).status, 401);
}

#[test]
fn a_name_that_leads_here_from_elsewhere_is_refused_without_a_token() {
    let world = World::new();
    let ask = |world: &World, host: &str| {
        let rest = "Connection: close\r\n\r\n";
        world.raw(&format!("GET /api/stats HTTP/1.1\r\n{host}{rest}"))
    };
    let rebound = "Host: rebound.example.org:10002\r\n";
    for host in ["", "Host: localhost\r\n", "Host: [::1]:10002\r\n"] {
        assert_eq!(ask(&world, host).status, 200, "{host}");
    }
    let refused = ask(&world, rebound);
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("--admin-token"), "{refused:?}");
    let unprotected = World::set_up(0, None, |config| config.guard = Guard::Unprotected);
    assert_eq!(ask(&unprotected, rebound).status, 200);
}

#[test]
fn creation_tells_a_ticket_for_each_member_and_nothing_else_does() {
    let secret = TicketSecret::new("0123456789abcdef0123456789abcdef").unwrap();
    let secrets = TicketSecrets::new(secret, None);
    let auth = Auth::Ticket(secrets.clone());
    let config = Config {
        auth,
        room_timeout: Duration::from_secs(300),
        reconnect_grace: Duration::from_secs(60),
        ..Config::default()
    };
    let world = World::set_up(0, Tickets::of(&config), |_| ());
    let check = |ticket: &str, room: u64, player: u64, at: i64| {
        secrets.check(ticket, RoomId(room), PlayerId(player), at * 1_000_000)
    };
    // The fake loop creates every room at this second.
    let created = 1_700_000_000;
    let end = created + 300 + 60;

    let text = world.get("/create?room=1&member=7,8");
    let text = text.text();
    let (_, tickets) = text.split_once("] room.Ticket=[").unwrap();
    let tickets = tickets.strip_suffix(']').unwrap();
    let tickets: Vec<_> = tickets
        .split(',')
        .map(|t| t.split_once(':').unwrap())
        .collect();
    assert_eq!([tickets[0].0, tickets[1].0], ["7", "8"]);
    for (player, ticket) in [(7, tickets[0].1), (8, tickets[1].1)] {
        assert_eq!(check(ticket, 1, player, created), Ok(()));
        assert_eq!(check(ticket, 1, player, end + 4), Ok(()));
        assert_eq!(check(ticket, 1, player, end + 5), Err(TicketFault::Expired));
        let other = check(ticket, 1, 15 - player, created);
        assert_eq!(other, Err(TicketFault::OtherPlayer));
        assert_eq!(
            check(ticket, 2, player, created),
            Err(TicketFault::OtherRoom)
        );
    }

    let big = u64::MAX;
    let made = world.post(&format!(r#"{{"room": 2, "members": ["{big}", 8]}}"#));
    let made = made.json();
    for (index, player) in [big, 8].into_iter().enumerate() {
        let ticket = made["seats"][index]["ticket"].as_str().unwrap();
        assert_eq!(check(ticket, 2, player, created), Ok(()));
    }
    for target in [
        "/",
        "/api/rooms",
        "/api/rooms/1",
        "/api/rooms/2",
        "/api/stats",
    ] {
        let reply = world.get(target);
        assert!(!reply.text().contains("eyJ"), "{target}");
        assert!(!reply.text().contains("\"ticket\""), "{target}");
    }
    let open = World::new();
    assert!(
        !open
            .get("/create?room=1&member=1")
            .text()
            .contains("Ticket")
    );
    let made = open.post(r#"{"room": 2, "members": [1]}"#).json();
    assert_eq!(made["seats"][0].get("ticket"), None);
}

#[test]
fn every_answer_carries_the_safe_headers_and_head_has_no_body() {
    let world = World::new();
    for target in [
        "/",
        "/create",
        "/api/rooms",
        "/api/stats",
        "/healthz",
        "/nowhere",
    ] {
        let reply = world.get(target);
        assert!(
            reply
                .header("Content-Type")
                .unwrap()
                .contains("charset=utf-8"),
            "{reply:?}"
        );
        assert_eq!(reply.header("Cache-Control"), Some("no-store"));
        assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"));
    }
    let page = world.get("/");
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'nonce-"),
        "{policy}"
    );
    let head = world.ask("HEAD", "/", "", "");
    assert_eq!(
        (head.status, head.header("Content-Length")),
        (200, page.header("Content-Length"))
    );

    let split = world.get("/%0d%0aSet-Cookie:x=1?a=%0d%0aSet-Cookie:x=1");
    assert_eq!((split.status, split.header("Set-Cookie")), (404, None));
}

#[test]
fn stats_hold_every_counter_by_name() {
    let world = World::new();
    let stats = world.get("/api/stats").json();
    assert_eq!(stats["engine"]["drops"]["runt"], 0);
    assert_eq!(stats["engine"]["disconnects"]["taken_over"], 0);
    assert_eq!(stats["frame_lateness_ms"]["p99.9"], 0.0);
    assert_eq!(stats["shell"]["turns"], 0);
    assert!(stats["http"]["requests"].as_u64().unwrap() > 0);
}

#[test]
fn a_port_in_use_is_an_error_that_names_the_setting() {
    let world = World::new();
    let (handle, _mailbox) = control::channel(|| ());
    let Err(error) = admin::start(AdminConfig::new(world.addr), operations(handle, None)) else {
        panic!("two servers on one port");
    };
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("--web {}: address in use; ", world.addr)),
        "{text}"
    );
}

#[test]
fn a_loop_that_does_not_answer_is_no_reason_to_restart_http() {
    let world = World::watched();
    world.stalled.store(true, Ordering::Relaxed);
    // Longer than the watchdog's patience, with every worker waiting for the loop.
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let reply = world.get("/healthz");
                assert_eq!(
                    (reply.status, &reply.json()["status"]),
                    (503, &"degraded".into())
                );
            });
        }
    });
    assert_eq!(world.get("/livez").status, 204);
    world.stalled.store(false, Ordering::Relaxed);
    world.recovers();
    assert_eq!(world.http_counter("restarts"), 0);
}

#[test]
fn a_loop_that_has_ended_is_503() {
    let (handle, mailbox) = control::channel(|| ());
    drop(mailbox);
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let admin = admin::start(AdminConfig::new(listen), operations(handle, None)).unwrap();
    let world = World {
        addr: admin.local_addr(),
        admin: Some(admin),
        stalled: Arc::default(),
    };
    assert_eq!(world.get("/healthz").status, 503);
    assert_eq!(world.get("/create?room=1&member=1").status, 503);
}

// --- What it lives through ----------------------------------------------------------------

#[test]
fn a_content_length_that_panics_is_survived() {
    let world = World::new();
    for _ in 0..20 {
        let request = "GET /livez HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n";
        assert_eq!(world.raw(request).status, 204);
    }
    world.recovers();
    world.counts("handler_panics", |count| count == 20);
    assert_eq!(world.http_counter("restarts"), 0);
}

#[test]
fn a_content_length_beyond_memory_does_not_end_the_process() {
    let world = World::new();
    for length in ["9223372036854775807", "4000000000000000000", "100000000000"] {
        let post = "POST /api/rooms HTTP/1.1\r\nContent-Type: application/json\r\n";
        let reply = world.raw(&format!("{post}Content-Length: {length}\r\n\r\n"));
        assert_eq!(
            (reply.status, &reply.json()["error"]["field"]),
            (413, &"body".into())
        );
    }
    world.recovers();
    // tiny_http never answers this one; what counts is that it does not drop it either.
    let later = world.send("GET / HTTP/2.0\r\nContent-Length: 4000000000000000000\r\n\r\n");
    drop(later);
    world.recovers();
    world.counts("requests_leaked", |count| count == 3);
    assert_eq!(world.http_counter("restarts"), 0);
}

#[test]
fn bodies_that_do_not_come_block_nobody() {
    let world = World::new();
    let post = "POST /api/rooms HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{";
    let unread = "GET /livez HTTP/1.1\r\nContent-Length: 9000\r\n\r\n";
    let held: Vec<_> = [post, unread]
        .repeat(20)
        .iter()
        .map(|r| world.send(r).unwrap())
        .collect();
    for _ in 0..20 {
        assert_eq!(world.get("/healthz").status, 200);
    }
    assert_eq!(world.http_counter("restarts"), 0);
    drop(held);
}

/// Whether the system lets a process get at its own sockets; Docker's usual sandbox does not.
#[cfg(target_os = "linux")]
fn can_hang_up() -> bool {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    pidfd_open(getpid(), PidfdFlags::empty())
        .is_ok_and(|process| pidfd_getfd(process, 0, PidfdGetfdFlags::empty()).is_ok())
}

#[cfg(not(target_os = "linux"))]
fn can_hang_up() -> bool {
    false
}

#[test]
fn a_body_that_does_not_come_is_hung_up_after_its_time() {
    if !can_hang_up() {
        return;
    }
    let every = Duration::from_millis(50);
    let request_life = Duration::from_millis(200);
    let world = World::with(
        Watch {
            every,
            request_life,
            ..Watch::default()
        },
        0,
    );
    let post = "POST /api/rooms HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{";
    let mut held = world.send(post).unwrap();
    let mut rest = Vec::new();
    let _ = held.read_to_end(&mut rest).unwrap();
    assert_eq!(world.http_counter("restarts"), 0);
}

#[test]
fn more_withheld_bodies_than_threads_for_them_are_survived() {
    let world = World::watched();
    let post = "POST /api/rooms HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{";
    let held: Vec<_> = (0..100).map(|_| world.send(post).unwrap()).collect();
    world.counts("restarts", |count| count > 0);
    world.recovers();
    drop(held);
    no_worker_stays(&world);
}

#[test]
fn answers_that_are_not_read_are_survived() {
    let world = World::with(
        Watch {
            every: Duration::from_millis(100),
            ..Watch::default()
        },
        10_000,
    );
    let list = "GET /api/rooms?limit=10000 HTTP/1.1\r\n\r\n";
    let held: Vec<_> = (0..12).map(|_| world.send(list).unwrap()).collect();
    world.counts("restarts", |count| count > 0);
    world.recovers();
    let all = "GET /api/rooms?limit=10000 HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(wait_for("list", || world.try_raw(all)).status, 200);
    drop(held);
    no_worker_stays(&world);
}

#[test]
fn pipelined_requests_that_nobody_reads_the_answers_of_are_survived() {
    let world = World::watched();
    let many = "GET / HTTP/1.1\r\n\r\n".repeat(2000);
    let held: Vec<_> = (0..20).map(|_| world.send(&many).unwrap()).collect();
    world.recovers();
    drop(held);
    world.recovers();
    no_worker_stays(&world);
}

#[test]
fn connections_that_say_nothing_are_in_nobodys_way() {
    let world = World::new();
    let held: Vec<_> = (0..50)
        .map(|_| world.send("GET /livez HT").unwrap())
        .collect();
    assert_eq!(world.get("/healthz").status, 200);
    assert_eq!(world.http_counter("restarts"), 0);
    drop(held);
}

#[test]
fn stop_is_prompt_while_connections_hang() {
    let mut world = World::with(Watch::default(), 10_000);
    let list = "GET /api/rooms?limit=10000 HTTP/1.1\r\n\r\n";
    let post = "POST /api/rooms HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{";
    let held: Vec<_> = [list, post, ""]
        .repeat(8)
        .iter()
        .map(|r| world.send(r).unwrap())
        .collect();
    let begin = Instant::now();
    world.admin.take().unwrap().stop();
    assert!(
        begin.elapsed() < Duration::from_millis(500),
        "{:?}",
        begin.elapsed()
    );
    assert!(TcpStream::connect(world.addr).is_err());
    drop(held);
}

/// Workers of replaced servers go when their connections have gone.
fn no_worker_stays(world: &World) {
    world.counts("workers_abandoned", |count| count == 0);
}

// --- In a process of their own --------------------------------------------------------------

/// Runs one of the children below, and hands over where its server listens.
#[cfg(unix)]
fn in_child(name: &str, test: impl FnOnce(&World)) {
    use std::process::{Command, Stdio};

    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addr = lines
        .find_map(|line| {
            line.unwrap()
                .split_once("listening on ")
                .map(|(_, addr)| addr.parse())
        })
        .expect("the child says where it listens")
        .unwrap();
    test(&World {
        addr,
        admin: None,
        stalled: Arc::default(),
    });
    // Ends it: a child that has crashed before does not end well.
    drop(child.stdin.take());
    let mut rest = lines.map_while(Result::ok);
    wait_for("end of the child", || {
        child.try_wait()?.ok_or(io::ErrorKind::WouldBlock.into())
    });
    let status = child.wait().unwrap();
    assert!(
        status.success(),
        "{status}: {}",
        rest.by_ref().collect::<Vec<_>>().join("\n")
    );
}

/// The child: serves until its standard input ends.
#[cfg(unix)]
fn be_child() {
    let world = World::watched();
    println!("listening on {}", world.addr);
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

#[cfg(unix)]
#[test]
#[ignore = "a part of running_out_of_descriptors_is_survived"]
fn child_with_few_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(64),
            maximum,
        },
    )
    .unwrap();
    be_child();
}

#[cfg(unix)]
#[test]
fn running_out_of_descriptors_is_survived() {
    in_child("child_with_few_descriptors", |world| {
        let connect = || TcpStream::connect_timeout(&world.addr, Duration::from_millis(200));
        let held: Vec<_> = (0..100).filter_map(|_| connect().ok()).collect();
        // Where they can be hung up, it comes back while they are still held.
        if can_hang_up() {
            world.recovers();
        }
        drop(held);
        world.recovers();
        assert!(world.http_counter("restarts") > 0);
    });
}

#[cfg(unix)]
#[test]
#[ignore = "a part of http_ends_before_hostile_lengths_take_the_games_descriptors"]
fn child_that_is_attacked() {
    be_child();
}

#[cfg(unix)]
#[test]
fn http_ends_before_hostile_lengths_take_the_games_descriptors() {
    in_child("child_that_is_attacked", |world| {
        let request = "GET / HTTP/1.1\r\nContent-Length: 4000000000000000000\r\n\r\n";
        let answered = (0..200)
            .take_while(|_| world.try_raw(request).is_ok())
            .count();
        assert!((120..=136).contains(&answered), "{answered}");
        wait_for("end of HTTP", || match TcpStream::connect(world.addr) {
            Ok(_) => Err(io::Error::other("it still listens")),
            Err(_) => Ok(()),
        });
    });
}
