//! A player with a hard life: it comes late, crashes, comes back from another port or the same,
//! gets stuck, asks for everything again, or is never heard of again. Whatever happens to it,
//! it must see the frames that the others see.

use std::io::{self, ErrorKind};
use std::time::Duration;

use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::id::{Conv, FrameId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::wire::frame::Frame;
use mio::{Interest, Token};

use super::room::{End, RoomKey};
use super::shared::Shared;
use crate::Member;
use crate::ledger::Ledger;
use crate::line::Line;
use crate::problems::kind;
use crate::watch::{input_of, is_genuine};
use crate::weather::SplitMix;

/// Time within which a client that has begun must see the match start.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Time within which a match that is to end must end for everybody.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Silence of the server after which a client connects anew, and which it must not show while
/// the room lives.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// Time between two looks at what the room is up to.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Frames that a player may be behind the others when it says how the match ended.
const BEHIND_MAX: usize = 30;

/// What may happen to a player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    /// It crashes, and comes back later.
    Crash { same_port: bool, same_conv: bool },
    /// It begins a new conversation without a pause.
    Reconnect,
    /// Its process is stuck for a while.
    Stuck,
    /// Its address changes, and its session must follow.
    Move,
    /// It asks for all frames again.
    Again,
    /// It crashes for good.
    Gone,
}

/// How often each happens, in parts of 18.
const MISHAPS: [(usize, Mishap); 9] = [
    (3, crash(false, false)),
    (2, crash(false, true)),
    (2, crash(true, false)),
    (2, crash(true, true)),
    (2, Mishap::Reconnect),
    (2, Mishap::Stuck),
    (2, Mishap::Move),
    (2, Mishap::Again),
    (1, Mishap::Gone),
];

const fn crash(same_port: bool, same_conv: bool) -> Mishap {
    Mishap::Crash {
        same_port,
        same_conv,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is no client until then.
    Away { until: Time, conv: Option<Conv> },
    /// There is one, but it does nothing until then.
    Stuck { until: Time },
    /// It connects or plays since then.
    Here { since: Time },
    /// It has said how the match ended.
    Finishing { deadline: Time },
    /// It is all over.
    Left,
}

/// One player.
#[derive(Debug)]
pub(crate) struct Player {
    /// Its room.
    pub(crate) room: RoomKey,
    member: Member,
    /// The first of its room, which stays to the end.
    is_first: bool,
    random: SplitMix,
    /// `None` before it comes, and while it moves to another port.
    line: Option<Line>,
    /// The token of its socket.
    number: usize,
    stage: Stage,
    /// The present client has seen the match start.
    has_started: bool,
    expected: FrameId,
    /// Its inputs.
    pub(crate) ledger: Ledger,
    next_input: Time,
    next_mishap: Time,
}

impl Player {
    /// A player that comes at `begins`.
    pub(crate) fn new(
        room: RoomKey,
        member: Member,
        is_first: bool,
        begins: Time,
        seed: u64,
        shared: &Shared<'_>,
    ) -> Player {
        let mut random = SplitMix(seed);
        let mishap = random.duration(Duration::ZERO..=shared.plan.mishap_every * 2);
        Player {
            room,
            member,
            is_first,
            random,
            line: None,
            number: 0,
            stage: Stage::Away {
                until: begins,
                conv: None,
            },
            has_started: false,
            expected: 0,
            ledger: Ledger::default(),
            next_input: begins,
            next_mishap: begins + mishap,
        }
    }

    /// Its socket holds datagrams.
    pub(crate) fn is_readable(&mut self) {
        if let Some(line) = &mut self.line {
            line.is_readable();
        }
    }

    /// Does what is due, and says when it must be called again; `None` when the player has
    /// left. `number` is the token of its socket.
    pub(crate) fn turn(
        &mut self,
        now: Time,
        number: usize,
        shared: &mut Shared<'_>,
    ) -> Option<Time> {
        match self.stage {
            Stage::Away { until, conv } if until <= now => self.come(now, number, conv, shared),
            Stage::Away { .. } => self.stay_away(now, shared),
            Stage::Stuck { until } if until <= now => self.stage = Stage::Here { since: now },
            Stage::Stuck { .. } | Stage::Here { .. } | Stage::Finishing { .. } | Stage::Left => {}
        }
        if matches!(self.stage, Stage::Here { .. } | Stage::Finishing { .. }) {
            self.play(now, shared);
        }
        self.wake(now)
    }

    fn wake(&self, now: Time) -> Option<Time> {
        let line = self.line.as_ref();
        match self.stage {
            Stage::Left => None,
            Stage::Stuck { until } => Some(until),
            Stage::Away { until, .. } => {
                let passing = line.and_then(|line| line.wake_passing(now));
                Some(passing.map_or(until, |at| at.min(until)))
            }
            Stage::Here { .. } | Stage::Finishing { .. } => {
                let look = (now + LOOK_EVERY).min(self.next_input.max(now));
                let at = line.and_then(|line| line.wake(now));
                Some(at.map_or(look, |at| at.min(look)))
            }
        }
    }

    // --- Coming and going -----------------------------------------------------------------

    /// A client begins, on the port that is there or a new one.
    fn come(&mut self, now: Time, number: usize, conv: Option<Conv>, shared: &mut Shared<'_>) {
        let room = &shared.rooms[self.room];
        let mut config = ClientConfig::new(self.member.player, room.id);
        config.token.clone_from(&self.member.token);
        config.conv = conv.unwrap_or_else(|| self.draw_conv());
        let mut client = Client::new(now, config);
        client.join();
        client.ready();
        self.begin_life();
        self.next_input = self.next_input.max(now);
        self.stage = Stage::Here { since: now };
        shared.tally.clients += 1;
        match &mut self.line {
            Some(line) => {
                // What came for the old client in the meantime has found nobody.
                let passed = line.pass(now);
                line.client = client;
                self.check_socket(passed, shared);
            }
            None => match self.open_line(client, number, shared) {
                Ok(line) => self.line = Some(line),
                Err(error) => self.fail(shared, "socket errors", &error.to_string()),
            },
        }
    }

    fn open_line(
        &mut self,
        client: Client,
        number: usize,
        shared: &Shared<'_>,
    ) -> io::Result<Line> {
        let plan = shared.plan;
        let mut line = Line::new(plan.server, client, plan.weather, &mut self.random)?;
        let token = Token(number);
        self.number = number;
        shared
            .registry
            .register(line.socket(), token, Interest::READABLE)?;
        Ok(line)
    }

    fn begin_life(&mut self) {
        self.ledger.begin_life();
        self.has_started = false;
    }

    fn draw_conv(&mut self) -> Conv {
        let [a, b, c, d, ..] = self.random.next().to_le_bytes();
        Conv(u32::from_le_bytes([a, b, c, d]))
    }

    /// Nobody is at home.
    fn stay_away(&mut self, now: Time, shared: &mut Shared<'_>) {
        if let Some(line) = &mut self.line {
            let passed = line.pass(now);
            self.check_socket(passed, shared);
        }
        if shared.rooms[self.room].is_abandoned() {
            self.stage = Stage::Left;
        }
    }

    /// Adds what it did to the tally, once it has left.
    pub(crate) fn leave(&mut self, shared: &mut Shared<'_>) {
        shared.tally.inputs_sent += self.ledger.sent();
        shared.tally.inputs_seen += self.ledger.seen();
        self.drop_line(shared);
    }

    fn drop_line(&mut self, shared: &mut Shared<'_>) {
        if let Some(line) = self.line.take() {
            shared.tally.datagrams += line.sent.datagrams + line.received.datagrams;
            let (up, down) = line.lost();
            shared.tally.datagrams_lost += up + down;
        }
    }

    // --- Playing --------------------------------------------------------------------------

    fn play(&mut self, now: Time, shared: &mut Shared<'_>) {
        let Some(line) = &mut self.line else {
            return;
        };
        let heard = line.hear(now);
        line.client.handle_timeout(now);
        self.check_socket(heard, shared);
        self.read_events(now, shared);
        self.act(now, shared);
        if let Some(line) = &mut self.line {
            let spoken = line.speak(now, &mut shared.batch);
            self.check_socket(spoken, shared);
        }
    }

    fn check_socket(&mut self, result: io::Result<()>, shared: &mut Shared<'_>) {
        match result {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                shared.fatal = Some(format!(
                    "nothing listens on UDP {} (--server)",
                    shared.plan.server
                ));
            }
            Err(error) => self.fail(shared, "socket errors", &error.to_string()),
            Ok(()) => {}
        }
    }

    fn read_events(&mut self, now: Time, shared: &mut Shared<'_>) {
        while let Some(event) = self.line.as_mut().and_then(|line| line.client.poll_event()) {
            let is_ending = shared.rooms[self.room].is_ending;
            match event {
                ClientEvent::Frame(frame) => self.frame(&frame, shared),
                ClientEvent::Started { next, .. } => {
                    self.has_started = true;
                    // Else it goes on where it was, and the next frame tells if not.
                    if next == 0 {
                        self.expected = 0;
                        self.ledger.begin_stream();
                    }
                    shared.tally.streams += 1;
                }
                ClientEvent::Reset => self.reconnect(now, shared),
                ClientEvent::Refused(_) if is_ending => self.stage = Stage::Left,
                ClientEvent::Refused(_) | ClientEvent::Redirected { .. } => {
                    self.fail(shared, "refused", &format!("{event:?}"));
                }
                ClientEvent::Closed if is_ending => self.stage = Stage::Left,
                ClientEvent::Closed => {
                    let text = format!("after {} frames", self.expected);
                    self.fail(shared, "closed early", &text);
                }
                ClientEvent::Fault(fault) => {
                    self.problem(shared, "faults of the server", &format!("{fault:?}"));
                }
                ClientEvent::Connected
                | ClientEvent::Joined { .. }
                | ClientEvent::Progress { .. }
                | ClientEvent::Ready
                | ClientEvent::Fetched { .. }
                | ClientEvent::ResultAcknowledged
                | ClientEvent::Echo(_)
                | ClientEvent::HeartbeatAnswered
                // Its other client has been let in: it goes, or it is stuck and goes later.
                | ClientEvent::Replaced => {}
            }
        }
    }

    fn frame(&mut self, frame: &Frame, shared: &mut Shared<'_>) {
        shared.tally.frames += 1;
        if frame.id != self.expected {
            let text = format!("frame {} where {} is next", frame.id, self.expected);
            let ahead = frame.id > self.expected;
            let kind = if ahead { kind::GAP } else { kind::DUPLICATE };
            return self.problem(shared, kind, &text);
        }
        self.expected += 1;
        if !shared.rooms[self.room].log.agrees(frame) {
            let text = format!("frame {} with {} inputs", frame.id, frame.inputs.len());
            self.problem(shared, kind::DIFFERENT, &text);
        }
        for input in &frame.inputs {
            if !is_genuine(input) {
                self.problem(shared, "altered inputs", &format!("{input:?}"));
            } else if input.player == self.member.player
                && let Err(text) = self.ledger.returned(input.command.x)
            {
                self.problem(shared, "wrong inputs", &text);
            }
        }
    }

    fn act(&mut self, now: Time, shared: &mut Shared<'_>) {
        let room = &shared.rooms[self.room];
        if room.is_abandoned() {
            self.stage = Stage::Left;
        } else if room.is_ending && now >= room.ends_at + END_LIMIT {
            let text = format!(
                "{:?}, {} inputs missing, {} frames behind",
                self.stage,
                self.ledger.missing(),
                self.behind(shared)
            );
            return self.fail(shared, "not ended", &text);
        }
        match self.stage {
            Stage::Here { since } => {
                if !self.has_started && now >= since + START_LIMIT {
                    let state = self.line.as_ref().map(|line| line.client.state());
                    let text = format!("it is {state:?} after {START_LIMIT:?}");
                    return self.fail(shared, "not started", &text);
                }
                self.look_after_silence(now, shared);
                self.act_in_match(now, shared);
            }
            Stage::Finishing { deadline } if now >= deadline => {
                self.fail(shared, "not closed", "no Close after the results");
            }
            Stage::Finishing { .. } => self.look_after_silence(now, shared),
            Stage::Away { .. } | Stage::Stuck { .. } | Stage::Left => {}
        }
    }

    fn act_in_match(&mut self, now: Time, shared: &mut Shared<'_>) {
        let room = &shared.rooms[self.room];
        if !room.is_ending {
            self.send_inputs(now, shared);
            if now >= self.next_mishap {
                self.meet_mishap(now, shared);
            }
        } else if room.end == End::Results
            && self.has_started
            && self.ledger.missing() == 0
            && self.behind(shared) <= BEHIND_MAX
        {
            let winner = shared.rooms[self.room].winner;
            if let Some(line) = &mut self.line {
                line.client.result(winner.0);
            }
            let deadline = now + END_LIMIT;
            self.stage = Stage::Finishing { deadline };
        }
    }

    /// How many frames others have seen that this player has not.
    fn behind(&self, shared: &Shared<'_>) -> usize {
        let own = usize::try_from(self.expected).unwrap_or(usize::MAX);
        shared.rooms[self.room].log.len().saturating_sub(own)
    }

    fn send_inputs(&mut self, now: Time, shared: &mut Shared<'_>) {
        let Some(line) = &mut self.line else {
            return;
        };
        if !self.has_started || now < self.next_input {
            self.next_input = self.next_input.max(now);
            return;
        }
        let every = shared.plan.input_every;
        self.next_input = now + self.random.duration(every / 2..=every + every / 2);
        let number = self.ledger.next();
        if line.client.input(input_of(self.member.player, number)) {
            self.ledger.left();
        } else {
            let text = format!("input {number}: the server acknowledges too little");
            self.problem(shared, "inputs held back", &text);
        }
    }

    /// A client that hears nothing for long connects anew, as a game would.
    fn look_after_silence(&mut self, now: Time, shared: &mut Shared<'_>) {
        let silent = self.line.as_ref().map(|line| line.client.silent_for(now));
        if silent.is_none_or(|silent| silent < SILENCE_MAX) {
            return;
        }
        if !shared.rooms[self.room].is_ending {
            let state = self.line.as_ref().map(|line| line.client.state());
            self.problem(
                shared,
                "silent server",
                &format!("for {silent:?} in {state:?}"),
            );
        }
        self.reconnect(now, shared);
    }

    fn reconnect(&mut self, now: Time, shared: &mut Shared<'_>) {
        let conv = self.draw_conv();
        if let Some(line) = &mut self.line {
            line.client.reconnect(now, conv, 0);
        }
        self.begin_life();
        self.stage = Stage::Here { since: now };
        shared.tally.clients += 1;
    }

    // --- Mishaps --------------------------------------------------------------------------

    fn meet_mishap(&mut self, now: Time, shared: &mut Shared<'_>) {
        let all = MISHAPS.iter();
        let all = all.flat_map(|(times, mishap)| std::iter::repeat_n(*mishap, *times));
        let drawn = self
            .random
            .below(MISHAPS.iter().map(|(times, _)| *times).sum());
        let mishap = all
            .into_iter()
            .nth(drawn)
            .expect("it is below their number");
        let every = shared.plan.mishap_every;
        self.next_mishap = now + self.random.duration(every / 2..=every * 2);
        match mishap {
            Mishap::Gone if !self.is_first => {
                shared.tally.gone += 1;
                self.stage = Stage::Left;
            }
            Mishap::Gone => {}
            Mishap::Reconnect => self.reconnect(now, shared),
            Mishap::Again => {
                if let Some(line) = self.line.as_mut().filter(|_| self.has_started) {
                    line.client.ready();
                }
            }
            Mishap::Move => self.change_port(shared),
            Mishap::Stuck => {
                let until = now + self.random.duration(Duration::ZERO..=shared.plan.away_max);
                self.stage = Stage::Stuck { until };
                self.next_mishap = self.next_mishap.max(until);
            }
            Mishap::Crash {
                same_port,
                same_conv,
            } => self.crash(now, same_port, same_conv, shared),
        }
    }

    /// The client goes on from another port. Every other one is told, the others find out.
    fn change_port(&mut self, shared: &mut Shared<'_>) {
        let Some(line) = self.line.as_mut().filter(|_| self.has_started) else {
            return;
        };
        let token = Token(self.number);
        let bound = line.rebind(|socket| {
            let registry = &shared.registry;
            registry.register(socket, token, Interest::READABLE)
        });
        if self.random.below(2) == 0 {
            line.client.address_changed();
        }
        shared.tally.moves += 1;
        self.check_socket(bound, shared);
    }

    fn crash(&mut self, now: Time, same_port: bool, same_conv: bool, shared: &mut Shared<'_>) {
        let plan = shared.plan;
        let mut away = match self.random.below(8) {
            // Long enough to count as offline, or to lose its session.
            0 => self.random.duration(plan.away_max..=plan.away_long),
            1 => Duration::ZERO,
            _ => self.random.duration(Duration::ZERO..=plan.away_max),
        };
        let old = self.line.as_ref().map(|line| line.client.conv());
        let conv = old.filter(|_| same_conv);
        if same_port && same_conv {
            // No client is back before its last words have arrived.
            away = away.max((plan.weather.delay + plan.weather.jitter) * 2);
        }
        if !same_port {
            self.drop_line(shared);
        }
        shared.tally.crashes += 1;
        let until = now + away;
        self.next_mishap = self.next_mishap.max(until + plan.mishap_every / 2);
        self.stage = Stage::Away { until, conv };
    }

    // --- Problems -------------------------------------------------------------------------

    fn problem(&self, shared: &mut Shared<'_>, kind: &'static str, text: &str) {
        let who = (shared.rooms[self.room].id, self.member.player);
        shared.problems.add(kind, who, text);
    }

    /// A problem after which there is nothing more to play.
    fn fail(&mut self, shared: &mut Shared<'_>, kind: &'static str, text: &str) {
        self.problem(shared, kind, text);
        self.stage = Stage::Left;
    }
}
