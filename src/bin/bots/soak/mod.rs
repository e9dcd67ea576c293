//! The soak: for as long as it is told, rooms are made and ended, and players join, leave,
//! crash and come back, over a network that loses datagrams. In the end nothing of it all may
//! be left in the server.
//!
//! Here is the loop; [`player`] is one player, [`room`] what its room is up to, [`clerk`] who
//! talks HTTP, [`memory`] the look at the server's memory, and [`report`] what is told in the
//! end.

mod clerk;
mod memory;
mod player;
mod report;
mod room;
mod shared;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use mio::{Events, Poll};
use slab::Slab;

use self::clerk::{Answer, Clerk, Order};
use self::player::Player;
use self::report::Sample;
pub(crate) use self::report::SoakReport;
use self::room::{End, Room, RoomKey};
use self::shared::{Shared, Tally};
use crate::Member;
use crate::http::Web;
use crate::problems::Problems;
use crate::progress::Progress;
use crate::wakes::Wakes;
use crate::watch::RoomLog;
use crate::weather::{SplitMix, Weather};

/// Players of the smallest room.
const ROOM_MIN: usize = 2;
/// Players of the largest room.
const ROOM_MAX: usize = 8;
/// Time between two looks at rooms, answers and the clock.
const TICK: Duration = Duration::from_millis(50);
/// Time between two lines of progress where there is no terminal, and two looks at the memory.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Looks at the memory at least, in a short run.
const SAMPLES_MIN: u32 = 30;
/// Time after the play within which everybody must have left.
const LEAVE_LIMIT: Duration = Duration::from_secs(90);
/// Time after that within which the server's counters must be at 0. A timer of a room may stay
/// for as long as a room may: 300 s unless the server is told otherwise.
const DRAIN_LIMIT: Duration = Duration::from_secs(330);
/// Time between two looks at the counters then.
const DRAIN_EVERY: Duration = Duration::from_millis(500);

/// What is done.
#[derive(Clone, Debug)]
pub(crate) struct SoakPlan {
    /// The server's UDP address.
    pub(crate) server: SocketAddr,
    /// Its HTTP side.
    pub(crate) web: Web,
    /// Its process, if its memory is to be watched.
    pub(crate) server_pid: Option<u32>,
    /// Players at the same time.
    pub(crate) bots: usize,
    /// Time for which rooms are made.
    pub(crate) time: Duration,
    /// How long a room lives.
    pub(crate) life: RangeInclusive<Duration>,
    /// Time between two inputs of a player, half to one and a half of it.
    pub(crate) input_every: Duration,
    /// Time between two mishaps of a player, half to twice of it.
    pub(crate) mishap_every: Duration,
    /// Time for which a crashed client stays away, at the most.
    pub(crate) away_max: Duration,
    /// The same for every eighth, which stays away for longer than that.
    pub(crate) away_long: Duration,
    /// Number of the first room.
    pub(crate) first_room: u64,
    /// The network between the players and the server.
    pub(crate) weather: Weather,
    /// Seed of everything that is drawn.
    pub(crate) seed: u64,
}

/// Runs the soak to its end.
///
/// # Errors
/// A sentence for the user, if nothing can be done.
pub(crate) fn soak(plan: &SoakPlan) -> Result<SoakReport, String> {
    let cannot = |error: io::Error| format!("cannot go on: {error}");
    let mut soak = Soak::new(plan).map_err(cannot)?;
    let every = SAMPLE_EVERY.min(plan.time / SAMPLES_MIN);
    let mut progress = Progress::new(plan.time, every.max(Duration::from_secs(1)));
    while soak.phase != Phase::Done {
        soak.turn().map_err(cannot)?;
        let now = soak.now();
        progress.show(now, now.since(Time::ZERO), || soak.line(now));
        if let Some(fatal) = soak.shared.fatal.take() {
            progress.end();
            return Err(fatal);
        }
    }
    progress.end();
    Ok(soak.report())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Rooms are made.
    Playing,
    /// Everybody leaves.
    Leaving { since: Time },
    /// Nobody is left; the server forgets.
    Draining { since: Time },
    /// It is all over.
    Done,
}

struct Soak<'a> {
    shared: Shared<'a>,
    players: Slab<Player>,
    wakes: Wakes,
    poll: Poll,
    events: Events,
    origin: Instant,
    next_tick: Time,
    phase: Phase,
    random: SplitMix,
    clerk: Clerk,
    /// Players of rooms that the clerk is to create.
    ordered: usize,
    /// Rooms that have not had a number yet take this one.
    next_room: u64,
    /// Numbers of rooms that are over.
    free_rooms: Vec<RoomId>,
    next_stats: Time,
    /// The clerk is asking for them.
    asks_stats: bool,
    samples: Vec<Sample>,
    /// How long the server took to forget everything.
    drained: Option<Duration>,
}

impl<'a> Soak<'a> {
    fn new(plan: &'a SoakPlan) -> io::Result<Soak<'a>> {
        let poll = Poll::new()?;
        Ok(Soak {
            shared: Shared {
                plan,
                rooms: Slab::new(),
                registry: poll.registry().try_clone()?,
                problems: Problems::default(),
                tally: Tally::default(),
                fatal: None,
                batch: Transmits::default(),
            },
            players: Slab::new(),
            wakes: Wakes::default(),
            poll,
            events: Events::with_capacity(1024),
            origin: Instant::now(),
            next_tick: Time::ZERO,
            phase: Phase::Playing,
            random: SplitMix(plan.seed),
            clerk: Clerk::new(plan.web.clone()),
            ordered: 0,
            next_room: plan.first_room,
            free_rooms: Vec::new(),
            next_stats: Time::ZERO,
            asks_stats: false,
            samples: Vec::new(),
            drained: None,
        })
    }

    fn now(&self) -> Time {
        Time::since_origin(self.origin.elapsed())
    }

    /// Waits for the next thing to happen, and lets everybody act whom it concerns.
    fn turn(&mut self) -> io::Result<()> {
        let next = self
            .wakes
            .next()
            .map_or(self.next_tick, |at| at.min(self.next_tick));
        let wait = next.since(self.now());
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let ready: Vec<_> = self.events.iter().map(|event| event.token().0).collect();
        for number in ready {
            // The socket may be of a player that has left, and its number of another one.
            if let Some(player) = self.players.get_mut(number) {
                player.is_readable();
                self.turn_of(number);
            }
        }
        let now = self.now();
        while let Some(number) = self.wakes.due(now) {
            self.turn_of(number);
        }
        if self.next_tick <= now {
            self.next_tick = now + TICK;
            self.tick(now);
        }
        Ok(())
    }

    fn turn_of(&mut self, number: usize) {
        let now = self.now();
        match self.players[number].turn(now, number, &mut self.shared) {
            Some(at) => self.wakes.wake(number, at),
            None => self.remove(number),
        }
    }

    fn remove(&mut self, number: usize) {
        self.wakes.forget(number);
        let mut player = self.players.remove(number);
        player.leave(&mut self.shared);
        let room = &mut self.shared.rooms[player.room];
        room.players -= 1;
        if room.players == 0 {
            let room = self.shared.rooms.remove(player.room);
            // An abandoned one lives on for a while, and its number is taken.
            if room.end != End::Abandoned {
                self.free_rooms.push(room.id);
            }
        }
    }

    // --- Rooms ----------------------------------------------------------------------------

    fn tick(&mut self, now: Time) {
        while let Some(answer) = self.clerk.answer() {
            self.hear(now, answer);
        }
        self.ask_for_stats(now);
        self.end_rooms(now);
        match self.phase {
            Phase::Playing if now.since(Time::ZERO) >= self.shared.plan.time => {
                self.stop_playing(now);
            }
            Phase::Playing => self.order_rooms(),
            Phase::Leaving { .. } if self.players.is_empty() && self.ordered == 0 => {
                self.phase = Phase::Draining { since: now };
            }
            Phase::Leaving { since } if now >= since + LEAVE_LIMIT => {
                let text = format!("{} players are still there", self.players.len());
                self.shared.problems.add_text("not left", &text);
                self.phase = Phase::Done;
            }
            Phase::Draining { since } if now >= since + DRAIN_LIMIT => {
                let left = self.samples.last().map(Sample::left);
                let text = format!("{} after {DRAIN_LIMIT:?}", left.unwrap_or_default());
                self.shared.problems.add_text("not drained", &text);
                self.phase = Phase::Done;
            }
            Phase::Leaving { .. } | Phase::Draining { .. } | Phase::Done => {}
        }
    }

    fn stop_playing(&mut self, now: Time) {
        self.phase = Phase::Leaving { since: now };
        for (_, room) in &mut self.shared.rooms {
            room.ends_at = room.ends_at.min(now);
        }
    }

    /// Has as many rooms created as there are players missing.
    fn order_rooms(&mut self) {
        loop {
            let present = self.players.len() + self.ordered;
            let missing = self.shared.plan.bots.saturating_sub(present);
            if missing < ROOM_MIN {
                return;
            }
            let size = ROOM_MIN + self.random.below(ROOM_MAX - ROOM_MIN + 1);
            let size = size.min(missing);
            let id = self.draw_room();
            let numbers = 1..=u64::try_from(size).expect("rooms are small");
            let members = numbers.map(|number| PlayerId(id.0 * 1000 + number));
            self.ordered += size;
            self.clerk.order(Order::Create(id, members.collect()));
        }
    }

    /// The number of a new room: every other time one that was used before.
    fn draw_room(&mut self) -> RoomId {
        if !self.free_rooms.is_empty() && self.random.below(2) == 0 {
            let index = self.random.below(self.free_rooms.len());
            return self.free_rooms.swap_remove(index);
        }
        self.next_room += 1;
        RoomId(self.next_room - 1)
    }

    fn hear(&mut self, now: Time, answer: Answer) {
        match answer {
            Answer::Created(id, members) => self.created(now, id, members),
            Answer::Closed => {}
            Answer::Stats(stats) => {
                self.asks_stats = false;
                let sample = Sample::new(now, &stats, self.shared.plan.server_pid);
                if let Phase::Draining { since } = self.phase
                    && sample.is_drained()
                {
                    self.drained = Some(now.since(since));
                    self.phase = Phase::Done;
                }
                self.samples.push(sample);
            }
            Answer::Failed(text) => {
                self.shared.problems.add_text("HTTP", &text);
                // Nobody knows any more what there is; end it and tell what was seen.
                self.phase = Phase::Done;
            }
        }
    }

    fn created(&mut self, now: Time, id: RoomId, members: Vec<Member>) {
        self.ordered -= members.len();
        let plan = self.shared.plan;
        let end = match self.random.below(4) {
            0 | 1 => End::Results,
            2 => End::Closed,
            _ => End::Abandoned,
        };
        let life = self.random.duration(plan.life.clone());
        let life = if self.phase == Phase::Playing {
            life
        } else {
            Duration::ZERO
        };
        let room = self.shared.rooms.insert(Room {
            id,
            log: RoomLog::default(),
            winner: members[0].player,
            end,
            ends_at: now + life,
            is_ending: false,
            players: members.len(),
        });
        self.shared.tally.rooms += 1;
        for (index, member) in members.into_iter().enumerate() {
            self.player_comes(now, room, index, member, life);
        }
    }

    /// Most players come soon, some late, the first one never so.
    fn player_comes(
        &mut self,
        now: Time,
        room: RoomKey,
        index: usize,
        member: Member,
        life: Duration,
    ) {
        let late = index > 0 && self.random.below(5) == 0;
        let within = if late { life / 2 } else { life / 20 };
        let begins = now + self.random.duration(Duration::ZERO..=within);
        let seed = self.random.next();
        let player = Player::new(room, member, index == 0, begins, seed, &self.shared);
        let number = self.players.insert(player);
        self.wakes.wake(number, begins);
        self.shared.tally.players += 1;
    }

    fn end_rooms(&mut self, now: Time) {
        for (_, room) in &mut self.shared.rooms {
            if room.is_ending || room.ends_at > now {
                continue;
            }
            room.is_ending = true;
            let tally = &mut self.shared.tally;
            match room.end {
                End::Results => tally.rooms_by_results += 1,
                End::Closed => {
                    tally.rooms_closed += 1;
                    self.clerk.order(Order::Close(room.id));
                }
                End::Abandoned => tally.rooms_abandoned += 1,
            }
        }
    }

    // --- What is told ---------------------------------------------------------------------

    fn ask_for_stats(&mut self, now: Time) {
        if self.asks_stats || now < self.next_stats {
            return;
        }
        let every = match self.phase {
            Phase::Draining { .. } => DRAIN_EVERY,
            _ => SAMPLE_EVERY.min(self.shared.plan.time / SAMPLES_MIN),
        };
        self.next_stats = now + every;
        self.asks_stats = true;
        self.clerk.order(Order::Stats);
    }

    fn line(&self, now: Time) -> String {
        let problems: u64 = self.shared.problems.counts.values().sum();
        let phase = match self.phase {
            Phase::Playing => "",
            Phase::Leaving { .. } => "leaving, ",
            Phase::Draining { since } => {
                let sample = self.samples.last().map(Sample::left);
                return format!(
                    "for {} s the server forgets: {}",
                    now.since(since).as_secs(),
                    sample.unwrap_or_default()
                );
            }
            Phase::Done => "done, ",
        };
        let sample = self.samples.last().map(Sample::to_string);
        format!(
            "{phase}{} players, {} rooms; {}; {problems} problems",
            self.players.len(),
            self.shared.rooms.len(),
            sample.unwrap_or_default(),
        )
    }

    fn report(self) -> SoakReport {
        let Soak {
            shared,
            samples,
            drained,
            ..
        } = self;
        SoakReport::new(shared.plan, shared.tally, shared.problems, samples, drained)
    }
}
