//! `play`: a server with one room, whose frames come from the recording instead of from its
//! players.
//!
//! It is the engine, with all that clients know of it: Connect, JoinRoom, Ready, Start with the
//! stamp of old, frames, Close. What clients press is dropped. The match begins with the first
//! Ready, and whoever comes later gets what they missed, as after a reconnect.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use lockstep_server::config::Listen;
use lockstep_server::engine::auth::{Auth, RoomSecret};
use lockstep_server::engine::config::Config;
use lockstep_server::engine::event::Event;
use lockstep_server::engine::id::{FrameId, PlayerId, RoomId};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::view::{Phase, RoomSpec, RoomView};
use lockstep_server::io::system;
use lockstep_server::io::udp::Udp;
use lockstep_server::journal::record::FrameBytes;
use lockstep_server::journal::restore::FinishedMatch;
use lockstep_server::limits::{
    DATAGRAMS_PER_TURN_MAX, PLAYERS_PER_ROOM_RANGE, REPLAY_END_WAITS_MAX,
    REPLAY_FRAMES_PER_TURN_MAX,
};
use mio::{Events, Poll, Token};

/// Says something to whoever still reads it.
macro_rules! say {
    ($($text:tt)*) => {
        // A pipe that is closed is no reason to stop a match.
        let _ = writeln!(io::stdout(), $($text)*);
    };
}

/// Longer than anybody waits.
const EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Time between two looks whether somebody has caught up, or has left.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How fast a match is played.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Speed {
    /// So many times as fast as it was.
    Times(f64),
    /// As fast as clients take it.
    Max,
}

impl FromStr for Speed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Speed, &'static str> {
        if text == "max" {
            return Ok(Speed::Max);
        }
        let times = text.parse().ok().filter(|t| (0.01..=100.0).contains(t));
        times
            .map(Speed::Times)
            .ok_or("give a number from 0.01 to 100, or max")
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Speed::Times(times) => times.fmt(f),
            Speed::Max => f.write_str("max"),
        }
    }
}

/// Plays a match once to whoever connects, and returns when everybody was told of its end.
///
/// # Errors
/// A text that names what cannot be.
pub(crate) fn play(of: FinishedMatch, udp: SocketAddr, speed: Speed) -> Result<(), String> {
    let id = of.match_id;
    if of.frames == 0 {
        return Err(format!(
            "match {id} ended before its first frame: nothing can be played"
        ));
    }
    let mut player = Player::new(of, udp, speed)?;
    player.introduce()?;
    player.run().map_err(|error| format!("match {id}: {error}"))
}

struct Player {
    of: FinishedMatch,
    speed: Speed,
    poll: Poll,
    udp: Udp,
    /// The socket may hold more.
    readable: bool,
    server: Server,
    origin: Instant,
    batch: Transmits,
    /// Where the frames that are not played yet begin, in the log of the recording.
    rest: usize,
    /// The next frame.
    next: FrameId,
    /// When the match began.
    began: Option<Time>,
    /// Since when the last frame waits for somebody.
    held_since: Option<Time>,
}

impl Player {
    fn new(of: FinishedMatch, addr: SocketAddr, speed: Speed) -> Result<Player, String> {
        let cannot = |error| {
            format!(
                "--udp {addr}: {error}; stop what uses it, or choose another: --udp 127.0.0.1:0"
            )
        };
        let mut udp = Udp::bind(Listen::At(addr)).map_err(cannot)?;
        let poll = Poll::new().map_err(cannot)?;
        udp.register(poll.registry(), Token(0)).map_err(cannot)?;
        Ok(Player {
            server: server(&of)?,
            of,
            speed,
            poll,
            udp,
            readable: true,
            origin: Instant::now(),
            batch: Transmits::default(),
            rest: 0,
            next: 0,
            began: None,
            held_since: None,
        })
    }

    /// Says what is played, where, and to whom.
    fn introduce(&self) -> Result<(), String> {
        let addr = self.udp.local_addr().map_err(|error| error.to_string())?;
        let made = &self.of.created;
        let players: Vec<String> = made.members.iter().map(PlayerId::to_string).collect();
        say!(
            "match {} on udp {addr}: {} frames at {} a second, speed {}",
            self.of.match_id,
            self.of.frames,
            made.hz,
            self.speed
        );
        say!(
            "connect to room {} as any of its players: {}; it begins with the first Ready",
            made.room,
            players.join(", ")
        );
        Ok(())
    }

    fn room(&self) -> RoomId {
        self.of.created.room
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(16);
        loop {
            let now = Time::since_origin(self.origin.elapsed());
            self.turn(now);
            let room = self.server.room(self.room());
            let is_over = room.is_none_or(|room| matches!(room.phase, Phase::Over(_)));
            if is_over && !self.server.has_outstanding() {
                return Ok(());
            }
            let wait = self.wait();
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.readable |= !events.is_empty();
        }
    }

    fn turn(&mut self, now: Time) {
        // On this wall it is always the moment of old.
        let started = self.of.started_unix.unwrap_or_default();
        let started = started.clamp(0, i64::from(u32::MAX));
        self.server.set_wall(now, started * 1_000_000);
        self.receive(now);
        if self.server.poll_timeout().is_some_and(|due| due <= now) {
            self.server.handle_timeout(now);
        }
        self.feed(now);
        self.server.poll_transmit(now, &mut self.batch);
        // What the system refuses is lost, as on the network.
        self.udp.send(&self.batch);
        self.batch.clear();
        self.tell();
    }

    fn receive(&mut self, now: Time) {
        let mut left = DATAGRAMS_PER_TURN_MAX;
        while self.readable && left > 0 {
            match self.udp.receive() {
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return;
                }
                // Some systems report here that an earlier datagram found nobody.
                Err(_) => {
                    left -= 1;
                    continue;
                }
            }
            for (from, datagram) in self.udp.received() {
                self.server.handle_datagram(now, from, datagram);
            }
        }
    }

    /// Plays the frames that are due.
    fn feed(&mut self, now: Time) {
        let room = self.server.room(self.room());
        let Some(room) = room.filter(|room| room.phase == Phase::Playing) else {
            return;
        };
        self.began.get_or_insert(now);
        for _ in 0..REPLAY_FRAMES_PER_TURN_MAX {
            if self.next_due().is_none_or(|due| due > now) || self.holds_back(now, &room) {
                return;
            }
            let split = FrameBytes::split(&self.of.log[self.rest..]);
            let frame = split.map(|(frame, _)| frame);
            let frame = frame.filter(|frame| frame.id() == self.next);
            self.server.feed(now, self.of.created.room, frame);
            self.rest += frame.map_or(0, |frame| frame.bytes().len());
            self.next += 1;
        }
    }

    /// When the next frame is played; `None` if there is none, or the match has not begun.
    fn next_due(&self) -> Option<Time> {
        let began = self.began.filter(|_| self.next < self.of.frames)?;
        let Speed::Times(times) = self.speed else {
            return Some(began);
        };
        let seconds = f64::from(self.next + 1) / (f64::from(self.of.created.hz) * times);
        Some(began + Duration::from_secs_f64(seconds))
    }

    /// Whether the last frame waits: with it the match is over, and somebody lacks much.
    fn holds_back(&mut self, now: Time, room: &RoomView) -> bool {
        if self.next + 1 < self.of.frames {
            return false;
        }
        // The newest ones are not sent yet if they are empty.
        let enough = self.next.saturating_sub(room.broadcast_every);
        let lacks = room.seats.iter().any(|s| s.online && s.cursor < enough);
        let since = *self.held_since.get_or_insert(now);
        lacks && now.since(since) < REPLAY_END_WAITS_MAX
    }

    fn wait(&self) -> Duration {
        let now = Time::since_origin(self.origin.elapsed());
        let held = self.held_since.map(|_| now + LOOK_EVERY);
        let frame = held.or(self.next_due());
        let due = self.server.poll_timeout().into_iter().chain(frame).min();
        if self.readable {
            return Duration::ZERO;
        }
        due.map_or(EVER, |due| due.since(now))
    }

    fn tell(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::MatchStarted { .. } => {
                    say!("the match begins");
                }
                Event::MatchOver { frames, .. } => {
                    say!("over after {frames} frames");
                }
                Event::SeatTaken { addr, player, .. } => {
                    say!("{addr}: player {player} is here");
                }
                Event::SeatLeft { addr, player, .. } => {
                    say!("{addr}: player {player} is gone");
                }
                Event::Refused {
                    addr,
                    player,
                    room,
                    code,
                    ..
                } => {
                    say!("{addr}: player {player} of room {room} is refused: {code:?}");
                }
                _ => {}
            }
        }
    }
}

/// A server with the room of the recording, which waits for its players.
fn server(of: &FinishedMatch) -> Result<Server, String> {
    let made = &of.created;
    let config = Config {
        ready_timeout: EVER,
        room_timeout: EVER,
        reconnect_grace: EVER,
        max_players_per_room: *PLAYERS_PER_ROOM_RANGE.end(),
        auth: Auth::Open,
        ..Config::default()
    };
    let mut secrets = system::draw_secrets().map_err(|error| format!("randomness: {error}"))?;
    // The only room of this server has the match of the recording.
    secrets.first_match = of.match_id.0;
    let mut server = Server::new(config, secrets, 0);
    let spec = RoomSpec {
        room: made.room,
        members: made.members.clone(),
        seed: made.seed,
        hz: Some(made.hz),
        broadcast_every: Some(made.broadcast_every),
        max_frames: Some(of.frames),
        input_bytes_max: None,
        watchers_max: None,
        watch_delay: None,
        secret: RoomSecret::from_bytes([0; 16]),
    };
    let created = server.create_room(Time::ZERO, spec);
    created.map_err(|error| format!("match {}: {error}", of.match_id))?;
    server.expect_feed(made.room);
    Ok(server)
}
