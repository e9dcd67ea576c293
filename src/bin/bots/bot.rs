//! One player of a load run: what it does from the first Connect to the Close, and what it
//! checks on the way.

use std::io::{self, ErrorKind};
use std::time::Duration;

use hdrhistogram::Histogram;
use lockstep_server::client::{Client, ClientConfig, ClientEvent, ClientFault};
use lockstep_server::engine::id::{Conv, FrameId, PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::frame::Frame;
use lockstep_server::engine::wire::message::WatchFrom;

use mio::net::UdpSocket;

use crate::line::Line;
use crate::problems::{Problems, kind};
use crate::watch::{
    FrameClock, InputWatch, Returned, RoomLog, histogram, input_of, is_genuine, record,
};
use crate::weather::SplitMix;
use crate::{Plan, resolve};

/// Time from a player's first datagram within which its match must start: the server waits
/// 20 s for players that are missing.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Time before the end of the play in which no more inputs are sent.
const QUIET_END: Duration = Duration::from_secs(1);
/// Time after the end of the play in which inputs may still come back, and again time in
/// which the Close must come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lag from which on inputs are left out instead of being sent all at once.
const INPUT_LAG_MAX: Duration = Duration::from_secs(1);

/// What all players share.
#[derive(Debug)]
pub(crate) struct World<'a> {
    /// What is played.
    pub(crate) plan: &'a Plan,
    /// The frames of each room, in the order of the plan.
    pub(crate) logs: Vec<RoomLog>,
    /// From an input to the frame that holds it.
    pub(crate) latency: Histogram<u64>,
    /// What should not have happened.
    pub(crate) problems: Problems,
    /// Players whose match has started.
    pub(crate) started: usize,
    /// When the first match started; of those who play together, the last.
    pub(crate) began: Option<Time>,
    /// Players that have left before their match started.
    stayed_away: usize,
    /// Frames delivered to all players together.
    pub(crate) frames: u64,
    /// Why it makes no sense to go on.
    pub(crate) fatal: Option<String>,
    batch: Transmits,
}

impl World<'_> {
    /// The world before anything has happened.
    pub(crate) fn new(plan: &Plan) -> World<'_> {
        World {
            plan,
            logs: plan.rooms.iter().map(|_| RoomLog::default()).collect(),
            latency: histogram(),
            problems: Problems::default(),
            started: 0,
            began: None,
            stayed_away: 0,
            frames: 0,
            fatal: None,
            batch: Transmits::default(),
        }
    }

    /// Whether what happens now is part of what is measured.
    pub(crate) fn measures(&self) -> bool {
        self.began.is_some() || !self.plan.together
    }

    /// Whether those who play together have played enough: they all say so at the same moment,
    /// which is no load that anybody else makes.
    pub(crate) fn is_over(&self, now: Time) -> bool {
        let until = self.began.map(|at| at + self.plan.time);
        self.plan.together && until.is_some_and(|until| now >= until)
    }

    fn input_returned(&mut self, time: Duration) {
        if self.measures() {
            record(&mut self.latency, time, 1);
        }
    }

    /// When a player whose match started at `since` has played enough; `None` while those who
    /// play together wait for others.
    fn until(&self, since: Time) -> Option<Time> {
        let since = if self.plan.together {
            self.began
        } else {
            Some(since)
        };
        since.map(|at| at + self.plan.time)
    }

    /// Begins the time of play once it may begin.
    fn begin(&mut self, now: Time) {
        let all_are_there = self.started + self.stayed_away == self.plan.players();
        if self.started > 0 && (all_are_there || !self.plan.together) {
            self.began.get_or_insert(now);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until the match has started.
    Gathering,
    /// Inputs are sent, and frames come.
    Playing {
        since: Time,
        next_input: Option<Time>,
    },
    /// The result is sent.
    Finishing { deadline: Time },
    /// It is all over.
    Left,
}

/// One player.
#[derive(Debug)]
pub(crate) struct Bot {
    /// Index of the room in the plan.
    room: usize,
    room_id: RoomId,
    player: PlayerId,
    /// It only watches.
    watches: bool,
    /// Who is said to have won: all players of a room must agree.
    winner: PlayerId,
    /// Its way to the server.
    pub(crate) line: Line,
    begins: Time,
    /// The share of an input period that passes before this player's first input.
    phase: f64,
    stage: Stage,
    /// Where its room is, if the server has said so just now.
    sent_on: Option<String>,
    has_started: bool,
    expected: FrameId,
    /// Own inputs.
    pub(crate) inputs: InputWatch,
    /// When frames came.
    pub(crate) clock: FrameClock,
}

impl Bot {
    /// The player with this seat in a room of the plan, `number` among all players. It begins
    /// at `begins`.
    ///
    /// # Errors
    /// If the system gives no socket or no random number.
    pub(crate) fn new(
        plan: &Plan,
        (room, seat): (usize, usize),
        number: usize,
        begins: Time,
    ) -> io::Result<Bot> {
        let (room_id, members) = &plan.rooms[room];
        let mut config = ClientConfig::new(members[seat].player, *room_id);
        config.token.clone_from(&members[seat].token);
        config.watch = members[seat].watches.then_some(WatchFrom::Start);
        // An earlier run may have used the same port.
        config.conv = Conv(getrandom::u32().map_err(io::Error::other)?);
        let mut client = Client::new(begins, config);
        client.join();
        client.ready();
        let mut seeds = SplitMix(plan.seed.wrapping_add(number as u64));
        Ok(Bot {
            room,
            room_id: *room_id,
            player: members[seat].player,
            watches: members[seat].watches,
            winner: members[0].player,
            line: Line::new(plan.server, client, plan.weather, &mut seeds)?,
            begins,
            // Evenly within the room, and the rooms evenly within that.
            phase: (seat as f64 + room as f64 / plan.rooms.len() as f64) / members.len() as f64,
            stage: Stage::Gathering,
            sent_on: None,
            has_started: false,
            expected: 0,
            inputs: InputWatch::default(),
            clock: FrameClock::new(plan.hz),
        })
    }

    /// Frames delivered.
    pub(crate) fn frames(&self) -> FrameId {
        self.expected
    }

    /// Does what is due, and says when it must be called again; `None` when the player has
    /// left. `watch` is given its socket, if it takes another one.
    pub(crate) fn turn(
        &mut self,
        now: Time,
        world: &mut World<'_>,
        watch: impl FnOnce(&mut UdpSocket) -> io::Result<()>,
    ) -> Option<Time> {
        if now < self.begins {
            return Some(self.begins);
        }
        let heard = self.line.hear(now);
        self.check_socket(heard, world);
        self.line.client.handle_timeout(now);
        self.read_events(now, world);
        self.act(now, world);
        if self.stage == Stage::Left && !self.has_started {
            world.stayed_away += 1;
            world.begin(now);
        }
        let spoken = self.line.speak(now, &mut world.batch);
        self.check_socket(spoken, world);
        if let Some(address) = self.sent_on.take()
            && let Err(error) = self.follow(now, &address, watch)
        {
            self.problem(world, "refused", &format!("sent on to {address}: {error}"));
            self.stage = Stage::Left;
        }
        self.wake(now, world)
    }

    /// Goes on at the server that has its room.
    fn follow(
        &mut self,
        now: Time,
        address: &str,
        watch: impl FnOnce(&mut UdpSocket) -> io::Result<()>,
    ) -> io::Result<()> {
        let server = resolve(address).map_err(io::Error::other)?;
        let conv = getrandom::u32().map_err(io::Error::other)?;
        self.line.lead_to(server, watch)?;
        self.line.client.reconnect(now, Conv(conv), 0);
        Ok(())
    }

    fn check_socket(&mut self, result: io::Result<()>, world: &mut World<'_>) {
        if let Err(error) = result {
            self.socket_failed(&error, world);
        }
    }

    fn socket_failed(&mut self, error: &io::Error, world: &mut World<'_>) {
        if error.kind() != ErrorKind::ConnectionRefused {
            self.problem(world, "socket errors", &error.to_string());
        } else if !self.has_started {
            let server = self.line.server().unwrap_or(world.plan.server);
            world.fatal = Some(format!("nothing listens on UDP {server} (--server)"));
        } else if self.stage != Stage::Left {
            self.problem(world, "server gone", "its port is closed");
            self.stage = Stage::Left;
        }
    }

    // --- The match ------------------------------------------------------------------------

    fn read_events(&mut self, now: Time, world: &mut World<'_>) {
        let mut newest_empty = None;
        while let Some(event) = self.line.client.poll_event() {
            match event {
                ClientEvent::Frame(frame) => {
                    if frame.inputs.is_empty() {
                        newest_empty = Some(frame.id);
                    } else {
                        newest_empty = None;
                        self.frame_arrived(now, frame.id, world);
                    }
                    self.frame(now, &frame, world);
                }
                ClientEvent::Started { .. } => self.started(now, world),
                ClientEvent::Refused(code) => {
                    self.problem(world, "refused", &format!("{code:?}"));
                    self.stage = Stage::Left;
                }
                ClientEvent::Redirected { address } => self.sent_on = Some(address),
                ClientEvent::Closed => self.closed(world),
                ClientEvent::Reset | ClientEvent::Replaced => {
                    self.problem(world, "sessions lost", &format!("{event:?}"));
                    self.stage = Stage::Left;
                }
                ClientEvent::Fault(fault) => {
                    let kind = match fault {
                        ClientFault::FrameWentBack { .. } => kind::DUPLICATE,
                        _ => "faults of the server",
                    };
                    self.problem(world, kind, &format!("{fault:?}"));
                }
                ClientEvent::Connected
                | ClientEvent::Joined { .. }
                | ClientEvent::Progress { .. }
                | ClientEvent::Ready
                | ClientEvent::Fetched { .. }
                | ClientEvent::ResultAcknowledged
                | ClientEvent::Echo(_)
                | ClientEvent::HeartbeatAnswered => {}
            }
        }
        // An empty frame with another behind it was left out until that was due; the newest
        // one was sent when it was sealed.
        if let Some(id) = newest_empty {
            self.frame_arrived(now, id, world);
        }
    }

    /// Once the result is out, what has been left out of empty frames comes with the Close: at no
    /// time that the clock knows. Nor does it know when what was held back is shown.
    fn frame_arrived(&mut self, now: Time, id: FrameId, world: &World<'_>) {
        let plays = matches!(self.stage, Stage::Playing { .. }) && !self.watches;
        if world.measures() && plays {
            self.clock.arrived(now, id);
        }
    }

    fn started(&mut self, now: Time, world: &mut World<'_>) {
        self.expected = 0;
        if std::mem::replace(&mut self.has_started, true) {
            return self.problem(world, "second starts", "nobody asked for one");
        }
        world.started += 1;
        world.begin(now);
        let first_input = |every: Duration| now + every.mul_f64(self.phase);
        let inputs = world.plan.input_every.filter(|_| !self.watches);
        self.stage = Stage::Playing {
            since: now,
            next_input: inputs.map(first_input),
        };
    }

    fn frame(&mut self, now: Time, frame: &Frame, world: &mut World<'_>) {
        world.frames += 1;
        if frame.id != self.expected {
            let text = format!("frame {} where {} is next", frame.id, self.expected);
            let ahead = frame.id > self.expected;
            self.problem(
                world,
                if ahead { kind::GAP } else { kind::DUPLICATE },
                &text,
            );
            return;
        }
        self.expected += 1;
        if !world.logs[self.room].agrees(frame) {
            let text = format!("frame {} with {} inputs", frame.id, frame.inputs.len());
            self.problem(world, kind::DIFFERENT, &text);
        }
        for input in &frame.inputs {
            if !is_genuine(input) {
                self.problem(world, "altered inputs", &format!("{input:?}"));
            }
            if input.player == self.player {
                self.own_input(now, input.command.x, world);
            }
        }
    }

    fn own_input(&mut self, now: Time, number: i32, world: &mut World<'_>) {
        match self.inputs.returned(now, number) {
            Returned::After(time) => world.input_returned(time),
            Returned::WithoutEarlier(missing, time) => {
                world.input_returned(time);
                let text = format!("{missing} before input {number}");
                self.problem(world, kind::MISSING, &text);
            }
            Returned::Again => {
                self.problem(world, "repeated inputs", &format!("input {number}"));
            }
        }
    }

    fn closed(&mut self, world: &mut World<'_>) {
        let shown = world.logs[self.room].len();
        if self.watches {
            if usize::try_from(self.expected).is_ok_and(|frames| frames < shown) {
                let text = format!("{} of {shown} frames at the end", self.expected);
                self.problem(world, "not shown", &text);
            }
        } else if matches!(self.stage, Stage::Gathering | Stage::Playing { .. }) {
            let text = format!("after {} frames", self.expected);
            self.problem(world, "closed early", &text);
        }
        self.stage = Stage::Left;
    }

    fn act(&mut self, now: Time, world: &mut World<'_>) {
        match self.stage {
            Stage::Gathering => {
                if now >= self.begins + START_LIMIT {
                    let text =
                        format!("it is {:?} after {START_LIMIT:?}", self.line.client.state());
                    self.problem(world, "not started", &text);
                    self.stage = Stage::Left;
                }
            }
            Stage::Playing { since, .. } => {
                self.send_inputs(now, world);
                let missing = self.inputs.missing();
                let over = world
                    .until(since)
                    .is_some_and(|at| now >= at && (missing == 0 || now >= at + PATIENCE));
                if over {
                    if missing > 0 {
                        let text = format!("{missing} at the end");
                        self.problem(world, kind::MISSING, &text);
                    }
                    // Who watches waits for those who play.
                    self.line.client.result(self.winner.0);
                    let wait = if self.watches { 3 } else { 1 };
                    let deadline = now + PATIENCE * wait;
                    self.stage = Stage::Finishing { deadline };
                }
            }
            Stage::Finishing { deadline } => {
                if now >= deadline {
                    self.problem(world, "not closed", "no Close after the results");
                    self.stage = Stage::Left;
                }
            }
            Stage::Left => {}
        }
    }

    fn send_inputs(&mut self, now: Time, world: &mut World<'_>) {
        let Stage::Playing { since, next_input } = &mut self.stage else {
            return;
        };
        let (Some(next), Some(every)) = (next_input, world.plan.input_every) else {
            return;
        };
        let last = world.until(*since).map(|until| until - QUIET_END);
        if *next + INPUT_LAG_MAX < now {
            *next = now;
        }
        let mut refused = false;
        while *next <= now && last.is_none_or(|last| *next < last) {
            *next = *next + every;
            if self
                .line
                .client
                .input(input_of(self.player, self.inputs.next()))
            {
                self.inputs.left(now);
            } else {
                refused = true;
            }
        }
        if refused {
            self.problem(
                world,
                "inputs held back",
                "the server acknowledges too little",
            );
        }
    }

    // --- Inside ---------------------------------------------------------------------------

    fn wake(&self, now: Time, world: &World<'_>) -> Option<Time> {
        let stage = match self.stage {
            Stage::Gathering => self.begins + START_LIMIT,
            Stage::Playing { since, next_input } => match (next_input, world.until(since)) {
                (next, None) => next.unwrap_or(now + PATIENCE),
                (Some(next), Some(until)) if next < until - QUIET_END => next,
                (_, Some(until)) if now < until => until,
                (_, Some(until)) => until + PATIENCE,
            },
            Stage::Finishing { deadline } => deadline,
            Stage::Left => return None,
        };
        Some(self.line.wake(now).map_or(stage, |at| at.min(stage)))
    }

    fn problem(&self, world: &mut World<'_>, kind: &'static str, text: &str) {
        let who = (self.room_id, self.player);
        world.problems.add(kind, who, text);
    }
}
