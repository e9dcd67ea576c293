//! Rooms are created and played while their server is killed again and again, in the middle of
//! whatever it does. Each time it is started again, the players come back, and the matches go on.
//! No frame that anybody has seen may be lost or changed, and no room that was created either.
//!
//! Here are the plan and the loop; [`victim`] is the server, [`stops`] when it dies, [`player`] one player, [`clerk`] who
//! talks HTTP, [`shared`] the books, [`paper`] the look at the journal that is left, and [`report`]
//! what is told in the end. The players have one thread, and their network no weather.

mod clerk;
mod paper;
mod player;
mod report;
mod shared;
mod stops;
mod victim;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::message::Version;
use mio::{Events, Poll, Registry};
use serde_json::Value;

use self::clerk::{Answer, Clerk, Known, Listing, Order};
use self::paper::Scratch;
use self::player::Player;
pub(crate) use self::report::KillReport;
use self::shared::{Room, Shared, Tally};
use self::stops::{Stop, draw_stops};
use self::victim::{END_LIMIT, Victim};
use crate::http::Web;
use crate::problems::Problems;
use crate::progress::Progress;
use crate::wakes::Wakes;
use crate::watch::RoomLog;
use crate::weather::SplitMix;

/// How long before a stop rooms are created, of which some are then created during it.
const CREATED_BEFORE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_millis(40);
/// Rooms are created around the first stops: one in so many of all.
const CREATING_SHARE: usize = 5;
/// Time between two looks at the server and at answers.
const TICK: Duration = Duration::from_millis(10);
/// Time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time for which all play on after the last stop.
const PLAY_ON: Duration = Duration::from_secs(1);
/// Time for each of: that all are live after the last stop, that all matches end, and that the
/// server says so.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the server's log must not say: an error, a panic, damage, frames that were lost.
const LOG_PROBLEMS: [&str; 4] = [" ERROR ", "panicked", "] journal: ", "goes on from before"];
/// What the server needs so that no match ends by itself.
const SETTINGS: [&str; 2] = ["--max-frames=1000000", "--room-timeout=3600"];

/// What is done.
#[derive(Clone, Debug)]
pub(crate) struct KillPlan {
    /// The server's program.
    pub(crate) program: PathBuf,
    /// Its setting `--fsync`.
    pub(crate) fsync: &'static str,
    /// Rooms.
    pub(crate) rooms: usize,
    /// Players of each.
    pub(crate) players: usize,
    /// How often it is killed.
    pub(crate) kills: usize,
    /// How often it is asked to end.
    pub(crate) terms: usize,
    /// Time between two inputs of a player, half to one and a half of it.
    pub(crate) input_every: Duration,
    /// Seed of everything that is drawn.
    pub(crate) seed: u64,
}

/// Plays, kills, and says what came of it.
///
/// # Errors
/// A sentence for the user, if it cannot go on.
pub(crate) fn kill(plan: &KillPlan) -> Result<KillReport, String> {
    let cannot = |error: io::Error| format!("cannot go on: {error}");
    let mut scratch = Scratch::new().map_err(cannot)?;
    let fsync = format!("--fsync={}", plan.fsync);
    let [max_frames, room_timeout] = SETTINGS;
    let settings = [&fsync, max_frames, room_timeout];
    let journal = scratch.path.join("journal");
    let victim = Victim::new(&plan.program, &journal, &settings).map_err(cannot)?;
    let mut killing = Killing::new(plan, victim).map_err(cannot)?;
    let mut progress = Progress::new(killing.time_planned(), LINE_EVERY);
    progress.say(&format!("seed {}", plan.seed));
    let went = killing.run(&mut progress);
    progress.end();
    // Whatever happened, nobody writes there any more.
    let ended = killing.victim.end().map_err(cannot);
    let is_well = went.is_ok() && ended.is_ok() && killing.shared.problems.counts.is_empty();
    if is_well {
        let Shared {
            rooms, problems, ..
        } = &mut killing.shared;
        paper::check(&journal, rooms, problems).map_err(cannot)?;
    }
    if !is_well || !killing.shared.problems.counts.is_empty() {
        scratch.keep();
        eprintln!("the journal stays in {}", journal.display());
        eprintln!("the server said last:\n{}", killing.victim.last_words());
    }
    went.and(ended)?;
    Ok(killing.report())
}

/// The server as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It runs.
    Up { listens: bool },
    /// It was killed, or asked to end: then it may have to show that it can. It will be away for
    /// so long.
    Ending {
        since: Time,
        must_succeed: bool,
        away: Duration,
    },
    /// It is to be started then.
    Away { until: Time },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The server is stopped again and again.
    Killing,
    /// There are no more stops; all are to be live.
    Returning { since: Time },
    /// All play on for a moment.
    Playing { until: Time },
    /// The matches end.
    Ending { since: Time },
    /// They are over, and the server is asked what there is, before and after another restart.
    Over { since: Time },
    /// It is all over.
    Done,
}

struct Killing<'a> {
    shared: Shared<'a>,
    players: Vec<Player>,
    wakes: Wakes,
    poll: Poll,
    registry: Registry,
    events: Events,
    origin: Instant,
    next_tick: Time,
    random: SplitMix,
    clerk: Clerk,
    victim: Victim,
    life: Life,
    phase: Phase,
    /// The stops that are to come.
    stops: VecDeque<Stop>,
    /// The next of them, and when; `None` while the server does not run, and after the last one.
    next_stop: Option<(Time, Stop)>,
    /// Rooms that were ordered, of all.
    ordered: usize,
    /// Rooms of the next order, and when it is given.
    next_rooms: Option<(Time, usize)>,
    /// How long the server took until it listened.
    listened_after: Vec<Duration>,
    /// The process was asked to end.
    is_interrupted: Arc<AtomicBool>,
}

impl<'a> Killing<'a> {
    fn new(plan: &'a KillPlan, victim: Victim) -> io::Result<Killing<'a>> {
        let is_interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&is_interrupted))?;
        }
        let mut random = SplitMix(plan.seed);
        let stops = draw_stops(plan.kills, plan.terms, &mut random);
        let poll = Poll::new()?;
        Ok(Killing {
            shared: Shared {
                plan,
                server: victim.udp,
                rooms: Vec::new(),
                players: 0,
                server_since: Time::ZERO,
                live: 0,
                live_after: Vec::new(),
                is_ending: false,
                problems: Problems::default(),
                tally: Tally::default(),
                batch: Transmits::default(),
            },
            players: Vec::new(),
            wakes: Wakes::default(),
            registry: poll.registry().try_clone()?,
            poll,
            events: Events::with_capacity(1024),
            origin: Instant::now(),
            next_tick: Time::ZERO,
            random,
            clerk: Clerk::new(Web {
                address: victim.web.to_string(),
                admin_token: None,
            }),
            victim,
            life: Life::Away { until: Time::ZERO },
            phase: Phase::Killing,
            stops,
            next_stop: None,
            ordered: 0,
            next_rooms: None,
            listened_after: Vec::new(),
            is_interrupted,
        })
    }

    fn now(&self) -> Time {
        Time::since_origin(self.origin.elapsed())
    }

    /// How long the stops take if each restart takes no time.
    fn time_planned(&self) -> Duration {
        self.stops.iter().map(|stop| stop.after + stop.away).sum()
    }

    fn run(&mut self, progress: &mut Progress) -> Result<(), String> {
        while self.phase != Phase::Done {
            self.turn()?;
            let now = self.now();
            progress.show(now, now.since(Time::ZERO), || self.line());
            if self.is_interrupted.load(Ordering::Relaxed) {
                return Err("interrupted".to_owned());
            }
        }
        Ok(())
    }

    /// Waits for the next thing to happen, and lets everybody act whom it concerns.
    fn turn(&mut self) -> Result<(), String> {
        let stop = self.next_stop.map(|(at, _)| at);
        let all = [self.wakes.next(), stop].into_iter().flatten();
        let next = all.fold(self.next_tick, Time::min);
        let wait = next.since(self.now());
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(format!("cannot play: {error}"));
            }
            _ => {}
        }
        let ready: Vec<_> = self.events.iter().map(|event| event.token().0).collect();
        for number in ready {
            self.players[number].is_readable();
            self.turn_of(number);
        }
        let now = self.now();
        while let Some(number) = self.wakes.due(now) {
            self.turn_of(number);
        }
        let now = self.now();
        if let Some((_, stop)) = self.next_stop.take_if(|(at, _)| *at <= now) {
            self.stop(now, stop)?;
        }
        if self.next_tick <= now {
            self.next_tick = now + TICK;
            self.tick(now)?;
        }
        Ok(())
    }

    fn turn_of(&mut self, number: usize) {
        let now = self.now();
        match self.players[number].turn(now, &mut self.shared) {
            Some(at) => self.wakes.wake(number, at),
            None => self.wakes.forget(number),
        }
    }

    fn tick(&mut self, now: Time) -> Result<(), String> {
        self.read_log(now);
        self.look_after_server(now)?;
        if let Some((_, count)) = self.next_rooms.take_if(|(at, _)| *at <= now) {
            self.order_rooms(count);
        }
        while let Some(answer) = self.clerk.answer() {
            self.hear(now, answer)?;
        }
        self.move_on(now);
        Ok(())
    }

    // --- The server -----------------------------------------------------------------------

    fn look_after_server(&mut self, now: Time) -> Result<(), String> {
        let ended = self.victim.ended().map_err(|error| error.to_string())?;
        match (self.life, ended) {
            (Life::Up { .. }, Some(status)) => {
                return Err(format!("the server ended by itself: {status}"));
            }
            (
                Life::Ending {
                    must_succeed, away, ..
                },
                Some(status),
            ) => self.has_ended(status, must_succeed, now + away),
            (Life::Ending { since, .. }, None) if now >= since + END_LIMIT => {
                return Err(format!("the server lives on after {END_LIMIT:?}"));
            }
            (Life::Away { until }, _) if until <= now => self.start(now)?,
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, now: Time) -> Result<(), String> {
        self.victim
            .start()
            .map_err(|error| format!("{}: {error}", self.shared.plan.program.display()))?;
        self.life = Life::Up { listens: false };
        self.shared.server_starts(now);
        if let Some(stop) = self.stops.pop_front() {
            let at = now + stop.after;
            let before = self.random.duration(CREATED_BEFORE).min(stop.after);
            self.next_stop = Some((at, stop));
            let share = (self.shared.plan.kills + self.shared.plan.terms).div_ceil(CREATING_SHARE);
            let count = self.shared.plan.rooms.div_ceil(share);
            let left = self.shared.plan.rooms - self.ordered;
            self.next_rooms = Some((at - before, count.min(left)));
        }
        Ok(())
    }

    fn stop(&mut self, now: Time, stop: Stop) -> Result<(), String> {
        let listened = self.life == Life::Up { listens: true };
        self.note_stop(listened, stop.is_asked);
        let stopped = if stop.is_asked {
            self.victim.terminate()
        } else {
            self.victim.kill()
        };
        self.life = Life::Ending {
            since: now,
            must_succeed: listened && stop.is_asked,
            away: stop.away,
        };
        stopped.map_err(|error| format!("the server cannot be stopped: {error}"))
    }

    /// Notes what a stop interrupts. The one after the end is not of interest.
    fn note_stop(&mut self, listened: bool, is_asked: bool) {
        if matches!(self.phase, Phase::Over { .. }) {
            return;
        }
        let tally = &mut self.shared.tally;
        tally.kills += u64::from(!is_asked);
        tally.terms += u64::from(is_asked);
        if !listened {
            tally.stopped_in_restore += 1;
        } else if self.ordered > self.shared.rooms.len() {
            tally.stopped_in_creation += 1;
        } else if self.shared.rooms.iter().any(|room| room.log.len() == 0) {
            tally.stopped_before_start += 1;
        } else if self.shared.live < self.shared.players {
            tally.stopped_in_return += 1;
        } else {
            tally.stopped_in_play += 1;
        }
    }

    fn has_ended(&mut self, status: ExitStatus, must_succeed: bool, until: Time) {
        if must_succeed && !status.success() {
            let text = format!("on SIGTERM: {status}");
            self.shared.problems.add_text("exit", &text);
        }
        self.life = Life::Away { until };
    }

    /// Reads what the server says of itself.
    fn read_log(&mut self, now: Time) {
        while let Some(line) = self.victim.line() {
            if line.contains("HTTP on http://") {
                if let Life::Up { listens } = &mut self.life {
                    *listens = true;
                    let after = now.since(self.shared.server_since);
                    self.listened_after.push(after);
                    self.ask_for_rooms();
                }
            } else if line.contains("they were cut off") {
                self.shared.tally.torn_ends += 1;
            } else if LOG_PROBLEMS.iter().any(|words| line.contains(words)) {
                self.shared.problems.add_text("the server's log", &line);
            }
        }
    }

    // --- Rooms ----------------------------------------------------------------------------

    fn order_rooms(&mut self, count: usize) {
        for _ in 0..count {
            self.ordered += 1;
            let number = u64::try_from(self.ordered).expect("there are few");
            let players = 1..=u64::try_from(self.shared.plan.players).expect("rooms are small");
            let members = players.map(|player| PlayerId(number * 1000 + player));
            self.clerk
                .order(Order::Create(RoomId(number), members.collect()));
        }
    }

    /// Asks the server that has just begun to listen what it has.
    fn ask_for_rooms(&self) {
        let listing = if matches!(self.phase, Phase::Over { .. }) {
            Listing::Nothing
        } else {
            let rooms = self.shared.rooms.iter();
            let known = rooms.map(|room| Known {
                started_unix: room.started_unix,
                frames: room.log.len(),
            });
            Listing::Alive(known.collect())
        };
        self.clerk.order(Order::List(listing));
    }

    fn hear(&mut self, now: Time, answer: Answer) -> Result<(), String> {
        match answer {
            Answer::Created {
                room,
                json,
                was_untold,
            } => {
                self.shared.tally.rooms_untold += u64::from(was_untold);
                self.created(now, room, &json)
                    .map_err(|error| format!("cannot play: {error}"))
            }
            Answer::Rooms(listing, rooms) => {
                self.check_rooms(now, &listing, &rooms);
                Ok(())
            }
            Answer::Failed(text) => Err(text),
        }
    }

    /// A room is there, and its players come.
    fn created(&mut self, now: Time, id: RoomId, json: &Value) -> io::Result<()> {
        let index = self.shared.rooms.len();
        self.shared.rooms.push(Room {
            id,
            match_id: text_of(json, "match"),
            seed: json["seed"].as_i64().unwrap_or(i64::MAX),
            started_unix: None,
            log: RoomLog::default(),
            frames_before: 0,
            winner: PlayerId(id.0 * 1000 + 1),
        });
        let seats = u64::try_from(self.shared.plan.players).expect("rooms are small");
        for seat in 1..=seats {
            // Each second one, whatever its seat.
            let speaks_v2 = (id.0 + seat).is_multiple_of(2);
            let version = if speaks_v2 { Version::V2 } else { Version::V1 };
            let who = (index, PlayerId(id.0 * 1000 + seat), version);
            let number = self.players.len();
            let random = SplitMix(self.random.next());
            let registry = &self.registry;
            let player = Player::new(now, who, number, random, registry, &mut self.shared)?;
            self.players.push(player);
            self.shared.players += 1;
            self.wakes.wake(number, now);
        }
        Ok(())
    }

    /// Compares what the server has with what is known.
    fn check_rooms(&mut self, now: Time, listing: &Listing, found: &[Value]) {
        match listing {
            Listing::Alive(known) => {
                let rooms = self.shared.rooms.iter().zip(known);
                let wrong = rooms.filter_map(|(room, known)| what_is_wrong(room, known, found));
                for text in wrong.collect::<Vec<_>>() {
                    self.shared.problems.add_text("rooms", &text);
                }
            }
            Listing::Over => {
                for room in found.iter().filter(|room| room["over"] != "results") {
                    let text = format!("the match of {} goes on", room["room"]);
                    self.shared.problems.add_text("rooms", &text);
                }
                self.stop_once_more(now);
            }
            Listing::Nothing => {
                for room in found {
                    let text = format!("{} is there again", room["room"]);
                    self.shared.problems.add_text("rooms", &text);
                }
                self.phase = Phase::Done;
            }
        }
    }

    /// Who was told that its match is over must not find it again after the next start.
    fn stop_once_more(&mut self, now: Time) {
        let stop = Stop {
            is_asked: false,
            after: Duration::ZERO,
            away: Duration::ZERO,
        };
        self.next_stop = Some((now, stop));
    }

    // --- The end --------------------------------------------------------------------------

    fn move_on(&mut self, now: Time) {
        let shared = &mut self.shared;
        let has_all = shared.rooms.len() == shared.plan.rooms;
        let is_up = self.life == Life::Up { listens: true };
        match self.phase {
            Phase::Killing if is_up && self.stops.is_empty() && self.next_stop.is_none() => {
                self.phase = Phase::Returning { since: now };
            }
            Phase::Returning { .. } if has_all && shared.live == shared.players => {
                let until = now + PLAY_ON;
                self.phase = Phase::Playing { until };
            }
            Phase::Playing { until } if until <= now => {
                shared.is_ending = true;
                self.phase = Phase::Ending { since: now };
            }
            Phase::Ending { .. } if self.players.iter().all(Player::has_left) => {
                self.compare_logs();
                self.clerk.order(Order::List(Listing::Over));
                self.phase = Phase::Over { since: now };
            }
            Phase::Returning { since } | Phase::Ending { since } | Phase::Over { since }
                if now >= since + PATIENCE =>
            {
                self.give_up();
            }
            // Who has failed does not come back.
            Phase::Returning { .. } if self.players.iter().any(Player::has_left) => self.give_up(),
            _ => {}
        }
    }

    /// All players of a room must have had all frames of it.
    fn compare_logs(&mut self) {
        for player in self.players.iter().filter(|player| player.was_closed) {
            let room = &self.shared.rooms[player.room];
            let frames = room.log.len();
            if usize::try_from(player.expected) != Ok(frames) {
                let text = format!("room {}: {frames} frames; {}", room.id, player.standing());
                self.shared
                    .problems
                    .add_text("logs of other lengths", &text);
            }
        }
    }

    fn give_up(&mut self) {
        let text = format!(
            "{:?}, {:?}, {} of {} rooms, {} of {} players live",
            self.phase,
            self.life,
            self.shared.rooms.len(),
            self.shared.plan.rooms,
            self.shared.live,
            self.shared.players
        );
        self.shared.problems.add_text("not ended", &text);
        let is_missed = |player: &&Player| match self.phase {
            Phase::Returning { .. } => !player.is_live(&self.shared),
            _ => !player.has_left(),
        };
        let missed: Vec<_> = self.players.iter().filter(is_missed).collect();
        for player in missed {
            let room = self.shared.rooms[player.room].id;
            let text = format!("room {room}: {}", player.standing());
            self.shared.problems.add_text("not left", &text);
        }
        self.phase = Phase::Done;
    }

    // --- What is told ---------------------------------------------------------------------

    fn line(&self) -> String {
        let Shared { tally, plan, .. } = &self.shared;
        let problems: u64 = self.shared.problems.counts.values().sum();
        format!(
            "{} of {} kills, {} of {} SIGTERM; {} of {} rooms, {} of {} players live, {} frames \
             compared; {problems} problems",
            tally.kills,
            plan.kills,
            tally
                .terms
                .min(u64::try_from(plan.terms).unwrap_or(u64::MAX)),
            plan.terms,
            self.shared.rooms.len(),
            plan.rooms,
            self.shared.live,
            self.shared.players,
            tally.frames_compared
        )
    }

    fn report(self) -> KillReport {
        let mut tally = self.shared.tally;
        for player in &self.players {
            tally.inputs_sent += player.ledger.sent();
            tally.inputs_in_frames += player.ledger.seen();
        }
        let shared = Shared {
            tally,
            ..self.shared
        };
        KillReport::new(shared, &self.listened_after)
    }
}

/// How the server has another room than the one that is known, or less of it.
fn what_is_wrong(room: &Room, known: &Known, found: &[Value]) -> Option<String> {
    let id = room.id.to_string();
    let Some(now) = found.iter().find(|one| text_of(one, "room") == id) else {
        return Some(format!("room {id} is gone"));
    };
    let match_id = text_of(now, "match");
    let stamp = now["started"].as_i64();
    let has = now["frame"].as_u64().unwrap_or(0);
    if match_id != room.match_id {
        Some(format!(
            "room {id}: match {match_id}, not {}",
            room.match_id
        ))
    } else if known.started_unix.is_some() && stamp != known.started_unix {
        Some(format!("room {id}: started at {stamp:?}"))
    } else if now["seed"].as_i64() != Some(room.seed) {
        Some(format!("room {id}: seed {}", now["seed"]))
    } else if now["phase"] == "over" {
        Some(format!("room {id}: over for {}", now["over"]))
    } else if usize::try_from(has).is_ok_and(|has| has < known.frames) {
        let seen = known.frames;
        Some(format!("room {id}: {has} frames, and {seen} were seen"))
    } else {
        None
    }
}

/// A field that is a text.
fn text_of(json: &Value, name: &str) -> String {
    json[name].as_str().unwrap_or_default().to_owned()
}
