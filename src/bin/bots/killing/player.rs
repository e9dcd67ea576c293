//! A player whose server dies again and again. Each time it hears nothing any more, or that nobody
//! is there or knows it, it begins a new conversation, until it is let in.

use std::io::{self, ErrorKind};
use std::time::Duration;

use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::id::{Conv, FrameId, PlayerId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::wire::frame::Frame;
use lockstep_server::engine::wire::message::Version;
use mio::{Interest, Registry, Token};

use super::shared::{Room, Shared};
use crate::ledger::Ledger;
use crate::line::Line;
use crate::problems::kind;
use crate::watch::{input_of, is_genuine};
use crate::weather::{SplitMix, Weather};

/// Time between two heartbeats: each is answered, so a server that lives is not silent for longer.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);
/// Silence after which the server counts as dead.
const SILENCE_MAX: Duration = Duration::from_millis(400);
/// The same for a client of v2, which asks before whether the server still knows it.
const SILENCE_OF_V2_MAX: Duration = Duration::from_millis(1500);
/// The same when nobody kills it any more: who is away for a moment would miss the end.
const SILENCE_AT_END_MAX: Duration = Duration::from_secs(5);
/// Time for which a client waits that was told that nobody is there: the first time, and at the
/// most. It doubles from time to time, and half to one and a half of it is waited.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// Time between two looks at what the room is up to.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Frames that a player may be behind the others when it says how the match ended.
const BEHIND_MAX: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It connects or plays.
    Here,
    /// Nobody was there; it tries again then.
    Away { until: Time },
    /// It has said how the match ended.
    Finishing,
    /// It is all over.
    Left,
}

/// One player.
#[derive(Debug)]
pub(crate) struct Player {
    /// The index of its room.
    pub(crate) room: usize,
    id: PlayerId,
    version: Version,
    random: SplitMix,
    line: Line,
    stage: Stage,
    /// When it was last told of the start.
    started_at: Time,
    backoff: Duration,
    /// The match has been seen to start in this conversation.
    has_started: bool,
    /// It has had a new frame from the server that was started then.
    live_since: Option<Time>,
    /// The next frame.
    pub(crate) expected: FrameId,
    /// Its inputs.
    pub(crate) ledger: Ledger,
    next_input: Time,
    /// It was told that the match is over.
    pub(crate) was_closed: bool,
}

impl Player {
    /// A player that comes now, on a port of its own.
    ///
    /// # Errors
    /// If the system gives no socket.
    pub(crate) fn new(
        now: Time,
        (room, id, version): (usize, PlayerId, Version),
        number: usize,
        mut random: SplitMix,
        registry: &Registry,
        shared: &mut Shared<'_>,
    ) -> io::Result<Player> {
        let mut config = ClientConfig::new(id, shared.rooms[room].id);
        config.version = version;
        config.heartbeat_every = Some(HEARTBEAT_EVERY);
        config.conv = draw_conv(&mut random);
        let mut client = Client::new(now, config);
        client.join();
        client.ready();
        let mut line = Line::new(shared.server, client, Weather::default(), &mut random)?;
        registry.register(line.socket(), Token(number), Interest::READABLE)?;
        shared.tally.conversations += 1;
        let mut ledger = Ledger::default();
        ledger.begin_life();
        Ok(Player {
            room,
            id,
            version,
            random,
            line,
            stage: Stage::Here,
            started_at: now,
            backoff: BACKOFF.0,
            has_started: false,
            live_since: None,
            expected: 0,
            ledger,
            next_input: now,
            was_closed: false,
        })
    }

    /// Whether there is nothing more to do.
    pub(crate) fn has_left(&self) -> bool {
        self.stage == Stage::Left
    }

    /// Whether it has had a new frame from the server that runs.
    pub(crate) fn is_live(&self, shared: &Shared<'_>) -> bool {
        self.live_since == Some(shared.server_since)
    }

    /// How it stands, in words.
    pub(crate) fn standing(&self) -> String {
        format!(
            "{:?}, {:?}, {:?}, {} frames, {} inputs missing",
            self.version,
            self.stage,
            self.line.client.state(),
            self.expected,
            self.ledger.missing()
        )
    }

    /// Its socket holds datagrams.
    pub(crate) fn is_readable(&mut self) {
        self.line.is_readable();
    }

    /// Does what is due, and says when to be called again though nothing arrives; `None` if never.
    pub(crate) fn turn(&mut self, now: Time, shared: &mut Shared<'_>) -> Option<Time> {
        match self.stage {
            Stage::Away { until } if until <= now => self.reconnect(now, shared),
            Stage::Away { until } => return Some(until),
            Stage::Left => return None,
            Stage::Here | Stage::Finishing => {}
        }
        let heard = self.line.hear(now);
        self.line.client.handle_timeout(now);
        self.read_events(now, shared);
        if self.stage == Stage::Here {
            self.act(now, shared);
        }
        // Also after a Close: the server is to know that it has come.
        let spoken = self.line.speak(now, &mut shared.batch);
        if self.has_left() {
            return None;
        }
        if let Err(error) = heard.and(spoken) {
            self.nobody_is_there(now, &error, shared);
        } else if self.line.client.silent_for(now) >= self.silence_max(shared) {
            self.reconnect(now, shared);
        }
        self.wake(now)
    }

    fn wake(&self, now: Time) -> Option<Time> {
        match self.stage {
            Stage::Left => None,
            Stage::Away { until } => Some(until),
            Stage::Here | Stage::Finishing => {
                let input = self.has_started.then_some(self.next_input.max(now));
                let others = [input, self.line.wake(now)].into_iter().flatten();
                Some(others.fold(now + LOOK_EVERY, Time::min))
            }
        }
    }

    fn silence_max(&self, shared: &Shared<'_>) -> Duration {
        match self.version {
            _ if shared.is_ending => SILENCE_AT_END_MAX,
            Version::V1 => SILENCE_MAX,
            Version::V2 => SILENCE_OF_V2_MAX,
        }
    }

    // --- Conversations --------------------------------------------------------------------

    fn nobody_is_there(&mut self, now: Time, error: &io::Error, shared: &mut Shared<'_>) {
        // The system tells of a port on which nobody listens, in one of these ways.
        if !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
        ) {
            return self.fail(shared, "socket errors", &error.to_string());
        }
        let wait = self.backoff;
        self.backoff = (wait * 2).min(BACKOFF.1);
        let until = now + self.random.duration(wait / 2..=wait + wait / 2);
        self.stage = Stage::Away { until };
    }

    fn reconnect(&mut self, now: Time, shared: &mut Shared<'_>) {
        let conv = draw_conv(&mut self.random);
        self.line.client.reconnect(now, conv, 0);
        self.ledger.begin_life();
        self.has_started = false;
        self.stage = Stage::Here;
        shared.tally.conversations += 1;
    }

    // --- Playing --------------------------------------------------------------------------

    fn read_events(&mut self, now: Time, shared: &mut Shared<'_>) {
        while let Some(event) = self.line.client.poll_event() {
            match event {
                ClientEvent::Connected => self.backoff = BACKOFF.0,
                ClientEvent::Joined { seed, .. } => {
                    let before = shared.rooms[self.room].seed;
                    if i64::from(seed) != before {
                        let text = format!("seed {seed} where it was {before}");
                        self.problem(shared, "another match", &text);
                    }
                }
                ClientEvent::Started {
                    unix_seconds, next, ..
                } => {
                    self.started_at = now;
                    self.started(unix_seconds, next, shared);
                }
                ClientEvent::Frame(frame) => self.frame(now, &frame, shared),
                ClientEvent::Reset => {
                    shared.tally.resets += 1;
                    self.reconnect(now, shared);
                }
                ClientEvent::Replaced => {
                    self.fail(shared, "replaced", "nobody else plays for it");
                }
                ClientEvent::Refused(_) | ClientEvent::Redirected { .. } => {
                    self.fail(shared, "refused", &format!("{event:?}"));
                }
                ClientEvent::Closed => self.closed(shared),
                ClientEvent::Fault(fault) => {
                    self.problem(shared, "faults of the server", &format!("{fault:?}"));
                }
                ClientEvent::Progress { .. }
                | ClientEvent::Ready
                | ClientEvent::ResultAcknowledged
                | ClientEvent::Echo(_)
                | ClientEvent::Fetched { .. }
                | ClientEvent::HeartbeatAnswered => {}
            }
        }
    }

    fn started(&mut self, unix_seconds: i64, next: FrameId, shared: &mut Shared<'_>) {
        self.has_started = true;
        let stamp = &mut shared.rooms[self.room].started_unix;
        let before = *stamp.get_or_insert(unix_seconds);
        if unix_seconds != before {
            let text = format!("started at {unix_seconds} where it was {before}");
            self.problem(shared, "another match", &text);
        }
        if next == 0 {
            if self.version == Version::V2 && self.expected > 0 {
                shared.tally.refetches += 1;
            }
            self.expected = 0;
            self.ledger.begin_stream();
        } else if next == self.expected {
            shared.tally.resumes += 1;
        } else {
            let text = format!("goes on at frame {next} where {} is next", self.expected);
            self.problem(shared, kind::GAP, &text);
        }
    }

    fn frame(&mut self, now: Time, frame: &Frame, shared: &mut Shared<'_>) {
        shared.tally.frames_delivered += 1;
        if frame.id != self.expected {
            let text = format!("frame {} where {} is next", frame.id, self.expected);
            let ahead = frame.id > self.expected;
            let kind = if ahead { kind::GAP } else { kind::DUPLICATE };
            return self.problem(shared, kind, &text);
        }
        self.expected += 1;
        let room = &mut shared.rooms[self.room];
        let index = usize::try_from(frame.id).unwrap_or(usize::MAX);
        shared.tally.frames_compared += u64::from(index < room.log.len());
        let agrees = room.log.agrees(frame);
        let is_new = index >= room.frames_before;
        if !agrees {
            let text = format!("frame {} with {} inputs", frame.id, frame.inputs.len());
            self.problem(shared, kind::DIFFERENT, &text);
        }
        for input in &frame.inputs {
            if !is_genuine(input) {
                self.problem(shared, "altered inputs", &format!("{input:?}"));
            } else if input.player == self.id
                && let Err(text) = self.ledger.returned(input.command.x)
            {
                self.problem(shared, "wrong inputs", &text);
            }
        }
        // What was begun before can be the last words of a dead server.
        let server = shared.server_since;
        if is_new && self.started_at >= server && !self.is_live(shared) {
            self.live_since = Some(server);
            shared.goes_live(now);
        }
    }

    fn act(&mut self, now: Time, shared: &mut Shared<'_>) {
        if !self.has_started {
            return;
        }
        if !shared.is_ending {
            self.send_inputs(now, shared);
        } else if self.ledger.missing() == 0
            && self.behind(&shared.rooms[self.room]) <= BEHIND_MAX
            && self.line.client.result(shared.rooms[self.room].winner.0)
        {
            self.stage = Stage::Finishing;
        }
    }

    /// How many frames others have seen that this player has not.
    fn behind(&self, room: &Room) -> usize {
        let own = usize::try_from(self.expected).unwrap_or(usize::MAX);
        room.log.len().saturating_sub(own)
    }

    fn send_inputs(&mut self, now: Time, shared: &Shared<'_>) {
        if now < self.next_input {
            return;
        }
        let every = shared.plan.input_every;
        self.next_input = now + self.random.duration(every / 2..=every + every / 2);
        // To a server that acknowledges nothing any more it is not sent.
        if self
            .line
            .client
            .input(input_of(self.id, self.ledger.next()))
        {
            self.ledger.left();
        }
    }

    fn closed(&mut self, shared: &mut Shared<'_>) {
        if shared.is_ending {
            self.was_closed = true;
            self.stage = Stage::Left;
        } else {
            let text = format!("after {} frames", self.expected);
            self.fail(shared, "closed early", &text);
        }
    }

    // --- Problems -------------------------------------------------------------------------

    fn problem(&self, shared: &mut Shared<'_>, kind: &'static str, text: &str) {
        let who = (shared.rooms[self.room].id, self.id);
        shared.problems.add(kind, who, text);
    }

    /// A problem after which there is nothing more to play.
    fn fail(&mut self, shared: &mut Shared<'_>, kind: &'static str, text: &str) {
        self.problem(shared, kind, text);
        self.stage = Stage::Left;
    }
}

fn draw_conv(random: &mut SplitMix) -> Conv {
    let [a, b, c, d, ..] = random.next().to_le_bytes();
    Conv(u32::from_le_bytes([a, b, c, d]))
}
