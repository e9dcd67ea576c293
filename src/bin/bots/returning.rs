//! How long a player that crashed waits until it is back in a match that has gone on for long.
//!
//! All players of one room play until the frames are there. Then the first one vanishes and
//! comes back, as a new client of v1 that knows nothing, and is watched until it has caught up with
//! the others. Then the second one does so, whose client speaks v2 and kept what it had; and so
//! on. Beside [`play`](mod@crate::play), whose players come once and stay,
//! this has a loop of its own that never rests: what is measured here are moments, and there
//! are few players. It must not say anything of a server's load.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::id::{Conv, FrameId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::frame::Frame;
use lockstep_server::engine::wire::message::Version;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;

use crate::line::Line;
use crate::problems::{Problems, kind};
use crate::progress::{BAR_EVERY, Progress};
use crate::watch::{RoomLog, input_of};
use crate::weather::{SplitMix, Weather};
use crate::{Member, PlannedRoom};

/// Players that come back: their indices, which are the tokens of their sockets, too.
const RETURNERS: [usize; 2] = [SPEAKS_V1, 1];
/// The one of them that speaks v1, and forgets everything. All others speak v2.
const SPEAKS_V1: usize = 0;
/// Frames from one input of a player to its next.
const FRAMES_PER_INPUT: u32 = 2;
/// Time between a crash and the return: enough that nothing of the old client is under way,
/// and few frames.
const GONE_FOR: Duration = Duration::from_millis(250);
/// Time after which a returning player is given up.
const LIVE_LIMIT: Duration = Duration::from_secs(30);
/// Time for the match to start, and for which it may be behind its frames.
const PATIENCE: Duration = Duration::from_secs(30);
/// Seconds of the match for a return, as an estimate.
const RETURN_SECONDS: u32 = 3;
/// Time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What is played.
#[derive(Clone, Debug)]
pub(crate) struct ReturnPlan {
    /// The server's UDP address.
    pub(crate) server: SocketAddr,
    /// The room and its players.
    pub(crate) room: PlannedRoom,
    /// Frames per second.
    pub(crate) hz: u32,
    /// Frames that there are before the first return.
    pub(crate) frames: FrameId,
    /// Returns with each version.
    pub(crate) times: u32,
    /// The network between the returning player and the server.
    pub(crate) weather: Weather,
    /// Seed of the network.
    pub(crate) seed: u64,
}

impl ReturnPlan {
    /// Frames that the match takes, as an estimate that is rather too high.
    pub(crate) fn frames_max(&self) -> FrameId {
        let returns = self.times.saturating_mul(2);
        let seconds = returns.saturating_mul(RETURN_SECONDS);
        let frames = seconds.saturating_mul(self.hz);
        self.frames.saturating_add(frames)
    }

    /// What a frame takes on its way to the returning player at the most, if it is not lost.
    fn way(&self) -> Duration {
        self.weather.delay + self.weather.jitter
    }
}

/// Plays until the frames are there, and lets the player come back as often as planned.
///
/// # Errors
/// A sentence for the user, if the match does not go on to its end.
pub(crate) fn play(plan: &ReturnPlan) -> Result<ReturnReport, String> {
    let play = |error: io::Error| format!("cannot play: {error}");
    let mut table = Table::new(plan).map_err(play)?;
    let total = Duration::from_secs(1) * plan.frames / plan.hz;
    let mut progress = Progress::new(total, LINE_EVERY);
    let played = table
        .gather_frames(&mut progress)
        .and_then(|()| table.let_return(&mut progress));
    progress.end();
    Ok(ReturnReport::new(plan, played?, table.shared.problems))
}

// --- The room -------------------------------------------------------------------------------

/// What all players share.
#[derive(Debug, Default)]
struct Shared {
    /// The frames, as whoever saw them first saw them.
    log: RoomLog,
    /// What should not have happened.
    problems: Problems,
    batch: Transmits,
}

/// The players and what wakes them.
struct Table<'a> {
    plan: &'a ReturnPlan,
    players: Vec<Player>,
    shared: Shared,
    poll: Poll,
    events: Events,
    origin: Instant,
    seeds: SplitMix,
    /// How many frames the others had, and since when; as far back as it matters.
    heads: VecDeque<(Time, FrameId)>,
}

impl<'a> Table<'a> {
    fn new(plan: &'a ReturnPlan) -> io::Result<Table<'a>> {
        let mut table = Table {
            plan,
            players: Vec::new(),
            shared: Shared::default(),
            poll: Poll::new()?,
            events: Events::with_capacity(64),
            origin: Instant::now(),
            seeds: SplitMix(plan.seed),
            heads: VecDeque::from([(Time::ZERO, 0)]),
        };
        for index in 0..plan.room.1.len() {
            let player = table.client_of(index, Weather::default())?;
            table.players.push(player);
        }
        for player in &mut table.players {
            player.presses = true;
        }
        Ok(table)
    }

    /// A client that begins now, with no memory.
    fn client_of(&mut self, index: usize, weather: Weather) -> io::Result<Player> {
        let now = self.now();
        let mut player = Player::new(now, self.plan, index, weather, &mut self.seeds)?;
        let socket = player.line.socket();
        let registry = self.poll.registry();
        registry.register(socket, Token(index), Interest::READABLE)?;
        Ok(player)
    }

    fn now(&self) -> Time {
        Time::since_origin(self.origin.elapsed())
    }

    /// How many frames the others had at this moment.
    fn head_at(&self, moment: Time) -> FrameId {
        let before = self.heads.iter().rev().find(|(since, _)| *since <= moment);
        before.map_or(0, |(_, head)| *head)
    }

    /// Plays until all have the frames that there are to be before the first return.
    fn gather_frames(&mut self, progress: &mut Progress) -> Result<(), String> {
        let playing = Duration::from_secs(1) * self.plan.frames / self.plan.hz;
        let limit = self.now() + playing + PATIENCE;
        loop {
            let frames = self.players.iter().map(|player| player.expected);
            let frames = frames.min().expect("there are players");
            if frames >= self.plan.frames {
                return Ok(());
            }
            let now = self.now();
            if now >= limit {
                return Err(format!(
                    "somebody has {frames} frames after {:.0} s, and {} were due",
                    now.since(Time::ZERO).as_secs_f64(),
                    self.plan.frames
                ));
            }
            let done = Duration::from_secs(1) * frames / self.plan.hz;
            progress.show(now, done, || {
                format!("{frames} of {} frames", self.plan.frames)
            });
            self.turn(limit)?;
        }
    }

    /// Lets the player crash and come back, as often as planned.
    fn let_return(&mut self, progress: &mut Progress) -> Result<Vec<Return>, String> {
        let mut returns = Vec::new();
        for number in 1..=self.plan.times {
            for index in RETURNERS {
                self.crash(index)?;
                let came = self.come_back(index)?;
                progress.say(&format!("return {number} of {}: {came}", self.plan.times));
                returns.push(came);
            }
        }
        Ok(returns)
    }

    /// A player vanishes; the others play on for a moment.
    fn crash(&mut self, index: usize) -> Result<(), String> {
        let line = &mut self.players[index].line;
        let _ = self.poll.registry().deregister(line.socket());
        self.players[index].gone = true;
        let until = self.now() + GONE_FOR;
        while self.now() < until {
            self.turn(until)?;
        }
        Ok(())
    }

    /// A player begins anew, and is watched until it is live or given up.
    fn come_back(&mut self, index: usize) -> Result<Return, String> {
        let cannot = |error: io::Error| format!("cannot return: {error}");
        let mut player = self.client_of(index, self.plan.weather).map_err(cannot)?;
        if player.version == Version::V2 {
            let now = self.now();
            player
                .remember(now, &mut self.players[index])
                .map_err(cannot)?;
        }
        let began = player.began;
        // This ends the socket of the one before.
        self.players[index] = player;
        let there_were = self.head_at(began);
        let mut caught_up = None;
        loop {
            self.turn(began + LIVE_LIMIT)?;
            let now = self.now();
            let player = &self.players[index];
            if player.started.is_some() && player.expected >= there_were {
                caught_up.get_or_insert(now);
            }
            // What is on its way still nobody can have.
            let due = self.head_at(Time::ZERO + now.since(Time::ZERO + self.plan.way()));
            let is_live = caught_up.is_some() && player.expected >= due;
            if is_live || now >= began + LIVE_LIMIT {
                let live = is_live.then_some(now);
                return Ok(Return::new(player, caught_up, live));
            }
        }
    }

    /// Waits for the next thing to happen, but not beyond `limit`, and lets everybody act.
    fn turn(&mut self, limit: Time) -> Result<(), String> {
        let now = self.now();
        let wakes = self.players.iter().filter_map(|player| player.wake(now));
        let wait = wakes.fold(limit.since(now), |wait, at| wait.min(at.since(now)));
        match self.poll.poll(&mut self.events, Some(wait.min(BAR_EVERY))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(format!("cannot play: {error}"));
            }
            _ => {}
        }
        for event in self.events.iter() {
            self.players[event.token().0].line.is_readable();
        }
        let now = self.now();
        for player in self.players.iter_mut().filter(|player| !player.gone) {
            player.turn(now, &mut self.shared);
            if let Some(why) = &player.ended {
                let (room, id) = (player.room, player.member.player);
                return Err(format!("room {room}, player {id}: {why}"));
            }
        }
        self.note_head(now);
        Ok(())
    }

    /// Notes how many frames the others have, and forgets what is too long ago to matter.
    fn note_head(&mut self, now: Time) {
        let others = &self.players[RETURNERS.len()..];
        let head = others.iter().map(|player| player.expected).max();
        let head = head.expect("a room has others");
        if self.heads.back().is_none_or(|(_, before)| *before < head) {
            self.heads.push_back((now, head));
        }
        let is_old = |since: Time| since + self.plan.way() <= now;
        while self.heads.get(1).is_some_and(|(since, _)| is_old(*since)) {
            self.heads.pop_front();
        }
    }
}

// --- Players --------------------------------------------------------------------------------

/// One client, from its first datagram on.
#[derive(Debug)]
struct Player {
    room: RoomId,
    member: Member,
    version: Version,
    line: Line,
    began: Time,
    connected: Option<Time>,
    started: Option<Time>,
    /// Frames that it had when it began.
    held: FrameId,
    /// The next frame: it has all before.
    expected: FrameId,
    /// It sends inputs: the one that returns only looks.
    presses: bool,
    input_every: Duration,
    /// The share of an input period that passes before the first input.
    phase: f64,
    next_input: Option<Time>,
    inputs: i32,
    /// It has crashed.
    gone: bool,
    /// Why it cannot go on.
    ended: Option<String>,
}

impl Player {
    fn new(
        now: Time,
        plan: &ReturnPlan,
        index: usize,
        weather: Weather,
        seeds: &mut SplitMix,
    ) -> io::Result<Player> {
        let (room, members) = &plan.room;
        let member = members[index].clone();
        let mut config = ClientConfig::new(member.player, *room);
        config.token.clone_from(&member.token);
        config.version = if index == SPEAKS_V1 {
            Version::V1
        } else {
            Version::V2
        };
        config.conv = draw_conv()?;
        let version = config.version;
        let mut client = Client::new(now, config);
        client.join();
        client.ready();
        Ok(Player {
            room: *room,
            member,
            version,
            line: Line::new(plan.server, client, weather, seeds)?,
            began: now,
            connected: None,
            started: None,
            held: 0,
            expected: 0,
            presses: false,
            input_every: Duration::from_secs(1) * FRAMES_PER_INPUT / plan.hz,
            phase: index as f64 / members.len() as f64,
            next_input: None,
            inputs: 0,
            gone: false,
            ended: None,
        })
    }

    /// Goes on with the frames that another client of the same player had.
    fn remember(&mut self, now: Time, before: &mut Player) -> io::Result<()> {
        std::mem::swap(&mut self.line.client, &mut before.line.client);
        self.line.client.reconnect(now, draw_conv()?, 0);
        self.began = now;
        self.held = before.expected;
        self.expected = before.expected;
        Ok(())
    }

    /// When something is to be done though nothing arrives; `None` if never.
    fn wake(&self, now: Time) -> Option<Time> {
        if self.gone {
            return None;
        }
        self.line.wake(now).into_iter().chain(self.next_input).min()
    }

    /// Does what is due.
    fn turn(&mut self, now: Time, shared: &mut Shared) {
        let heard = self.line.hear(now);
        self.line.client.handle_timeout(now);
        while let Some(event) = self.line.client.poll_event() {
            self.read(now, event, shared);
        }
        self.press(now, shared);
        let spoken = self.line.speak(now, &mut shared.batch);
        if let Err(error) = heard.and(spoken) {
            self.ended.get_or_insert(match error.kind() {
                ErrorKind::ConnectionRefused => "nothing listens there on UDP (--server)".into(),
                _ => error.to_string(),
            });
        }
    }

    fn read(&mut self, now: Time, event: ClientEvent, shared: &mut Shared) {
        match event {
            ClientEvent::Connected => self.connected = Some(now),
            ClientEvent::Started { next, .. } => {
                self.started = Some(now);
                if next != self.held {
                    let text = format!("from frame {next} on, and it has {}", self.held);
                    self.problem("frames sent again", &text, shared);
                }
                self.expected = next;
                let first_input = now + self.input_every.mul_f64(self.phase);
                self.next_input = self.presses.then_some(first_input);
            }
            ClientEvent::Frame(frame) => self.frame(&frame, shared),
            ClientEvent::Refused(_) | ClientEvent::Redirected { .. } => {
                self.ended = Some(format!("refused: {event:?}"));
            }
            ClientEvent::Closed => {
                let text = "the match is over too soon; are --max-frames and --room-timeout of \
                            the server long enough?";
                self.ended = Some(text.to_owned());
            }
            ClientEvent::Reset | ClientEvent::Replaced => {
                self.ended = Some(format!("the session is lost: {event:?}"));
            }
            ClientEvent::Fault(fault) => {
                self.problem("faults of the server", &format!("{fault:?}"), shared);
            }
            ClientEvent::Joined { .. }
            | ClientEvent::Progress { .. }
            | ClientEvent::Ready
            | ClientEvent::Fetched { .. }
            | ClientEvent::ResultAcknowledged
            | ClientEvent::Echo(_)
            | ClientEvent::HeartbeatAnswered => {}
        }
    }

    fn frame(&mut self, frame: &Frame, shared: &mut Shared) {
        if frame.id != self.expected {
            let ahead = frame.id > self.expected;
            let kind = if ahead { kind::GAP } else { kind::DUPLICATE };
            let text = format!("frame {} where {} is next", frame.id, self.expected);
            return self.problem(kind, &text, shared);
        }
        self.expected += 1;
        if !shared.log.agrees(frame) {
            let text = format!("frame {} with {} inputs", frame.id, frame.inputs.len());
            self.problem(kind::DIFFERENT, &text, shared);
        }
    }

    fn press(&mut self, now: Time, shared: &mut Shared) {
        let Some(at) = self.next_input.filter(|at| *at <= now) else {
            return;
        };
        // After a lag the inputs that were missed are left out.
        self.next_input = Some((at + self.input_every).max(now));
        let input = input_of(self.member.player, self.inputs);
        if self.line.client.input(input) {
            self.inputs += 1;
        } else {
            let text = "the server acknowledges too little";
            self.problem("inputs held back", text, shared);
        }
    }

    fn problem(&self, kind: &'static str, text: &str, shared: &mut Shared) {
        let who = (self.room, self.member.player);
        shared.problems.add(kind, who, text);
    }
}

/// An earlier client may have used the same port.
fn draw_conv() -> io::Result<Conv> {
    Ok(Conv(getrandom::u32().map_err(io::Error::other)?))
}

// --- The report -----------------------------------------------------------------------------

/// One return. Times are in ms from the first datagram; one that never came is `None`.
#[derive(Clone, Debug, Serialize)]
struct Return {
    /// Of the protocol.
    version: u32,
    /// Frames that it had at first.
    held: FrameId,
    /// Frames that it had at last.
    frames: FrameId,
    /// Datagrams that came in until then.
    datagrams: u64,
    /// Their bytes, without the headers of UDP and below.
    bytes: u64,
    /// The answer to the Connect.
    connected_ms: Option<f64>,
    /// The Start, behind which the frames come.
    started_ms: Option<f64>,
    /// All frames that there were at the first datagram.
    caught_up_ms: Option<f64>,
    /// All frames that there are.
    live_ms: Option<f64>,
}

impl Return {
    fn new(player: &Player, caught_up: Option<Time>, live: Option<Time>) -> Return {
        let ms = |at: Option<Time>| at.map(|at| at.since(player.began).as_secs_f64() * 1000.0);
        Return {
            version: match player.version {
                Version::V1 => 1,
                Version::V2 => 2,
            },
            held: player.held,
            frames: player.expected,
            datagrams: player.line.received.datagrams,
            bytes: player.line.received.bytes,
            connected_ms: ms(player.connected),
            started_ms: ms(player.started),
            caught_up_ms: ms(caught_up),
            live_ms: ms(live),
        }
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ms: Option<f64>| ms.map_or("never".to_owned(), |ms| format!("{ms:.1} ms"));
        write!(
            f,
            "v{}, {} of {} frames, {} bytes in {} datagrams; connected {}, started {}, caught up \
             {}, live {}",
            self.version,
            self.frames - self.held,
            self.frames,
            self.bytes,
            self.datagrams,
            ms(self.connected_ms),
            ms(self.started_ms),
            ms(self.caught_up_ms),
            ms(self.live_ms)
        )
    }
}

/// The middle and the worst of all returns with a version, in ms; `None` if that one was never live.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    count: usize,
    p50: Option<f64>,
    max: Option<f64>,
}

impl Spread {
    fn of(times: impl Iterator<Item = Option<f64>>) -> Spread {
        let never = f64::INFINITY;
        let mut sorted: Vec<_> = times.map(|ms| ms.unwrap_or(never)).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().filter(|ms| ms.is_finite());
        Spread {
            count: sorted.len(),
            p50: at(sorted.len() / 2),
            max: at(sorted.len().saturating_sub(1)),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ms: Option<f64>| ms.map_or("never".to_owned(), |ms| format!("{ms:.1}"));
        let (p50, max) = (ms(self.p50), ms(self.max));
        write!(f, "p50 {p50:>8}   max {max:>8}")
    }
}

/// The whole report. Its fields are the JSON.
#[derive(Debug, Serialize)]
pub(crate) struct ReturnReport {
    all_well: bool,
    frames: FrameId,
    players: usize,
    hz: u32,
    /// Of players that come back with v1, and get everything again.
    live_ms_v1: Spread,
    /// Of players that come back with v2, and have most of it.
    live_ms_v2: Spread,
    returns: Vec<Return>,
    problems: BTreeMap<&'static str, u64>,
    examples: Vec<String>,
}

impl ReturnReport {
    fn new(plan: &ReturnPlan, returns: Vec<Return>, problems: Problems) -> ReturnReport {
        let live_ms = |version| {
            let of = returns.iter().filter(|one| one.version == version);
            Spread::of(of.map(|one| one.live_ms))
        };
        let all_live = returns.iter().all(|one| one.live_ms.is_some());
        ReturnReport {
            all_well: all_live && problems.counts.is_empty(),
            frames: plan.frames,
            players: plan.room.1.len(),
            hz: plan.hz,
            live_ms_v1: live_ms(1),
            live_ms_v2: live_ms(2),
            returns,
            problems: problems.counts,
            examples: problems.examples,
        }
    }

    /// Whether the player was live each time, and all saw the same frames.
    pub(crate) fn all_well(&self) -> bool {
        self.all_well
    }

    /// The report as JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("every field has a JSON form")
    }
}

impl fmt::Display for ReturnReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (players, hz) = (self.players, self.hz);
        writeln!(f, "played            1 room, {players} players, {hz} Hz")?;
        for (number, one) in self.returns.iter().enumerate() {
            writeln!(f, "return {:<10} {one}", number + 1)?;
        }
        writeln!(f, "v1 live after, ms {}", self.live_ms_v1)?;
        writeln!(f, "v2 live after, ms {}", self.live_ms_v2)?;
        for (kind, count) in &self.problems {
            writeln!(f, "PROBLEM           {kind}: {count}")?;
        }
        for example in &self.examples {
            writeln!(f, "                  {example}")?;
        }
        let all_well = if self.all_well { "yes" } else { "NO" };
        writeln!(f, "all well          {all_well}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_that_was_never_live_is_the_worst() {
        let of = |times: &[Option<f64>]| Spread::of(times.iter().copied());
        let spread = |count, p50, max| Spread { count, p50, max };
        let (one, two, three) = (Some(1.0), Some(2.0), Some(3.0));
        assert_eq!(of(&[three, one, two]), spread(3, two, three));
        assert_eq!(of(&[None, one, two]), spread(3, two, None));
        assert_eq!(of(&[None, one]), spread(2, None, None));
        assert_eq!(of(&[]), spread(0, None, None));
    }
}
