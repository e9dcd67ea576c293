//! The engine's face: [`Server`] owns every session, every room and the timer wheel, and is
//! driven from outside.
//!
//! In each turn a driver
//!
//! 1. passes what has come in: [`Server::handle_datagram`]. An input that came before its
//!    driver noticed that the frame is due is still in it;
//! 2. calls [`Server::handle_timeout`] if [`Server::poll_timeout`] is due;
//! 3. passes commands such as [`Server::create_room`];
//! 4. takes what is to be sent: [`Server::poll_transmit`], once, which pumps and flushes
//!    each session that has something to say;
//! 5. with a journal, puts into it what [`Server::poll_records`] has, before anything leaves;
//! 6. drains [`Server::poll_event`], if it cares.
//!
//! The same calls in the same order give the same datagrams, byte for byte. How a message
//! gets from a session to its room and back is in `router`, which session a datagram
//! belongs to in `admission`, how one moves to another address in `moving`, and where rooms are
//! that are not here in `elsewhere`.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use slab::Slab;

use super::beats::{Beat, Beats, on_beat};
use super::config::{Config, Secrets};
use super::counters::Counters;
use super::drops::{Disconnect, Drop};
use super::elsewhere::{Elsewhere, QuestionId};
use super::event::Event;
use super::guests::Guests;
use super::hash::KeyedHash;
use super::id::{MatchId, PlayerId, RoomId, Seat, Spot, WatcherId};
use super::outbox::Outbox;
use super::passes::Passes;
use super::records::{Records, Written};
use super::room::{Interrupted, Now, Room, Rules};
use super::session::{Place, Rival, RoomKey, Session, SessionKey};
use super::time::Time;
use super::transmit::{Sink, Transmits};
use super::view::{CreateError, OverReason, RestoreError, RoomSpec, RoomView, RoomsPage};
use super::wheel::Wheel;
use super::wire::message::Downlink;
use super::wire::segment::Datagram;
use super::wire::signal::Signal;
use crate::journal::record::FrameBytes;
use crate::journal::restore::RestoredRoom;
use crate::limits::{
    BROADCAST_EVERY_RANGE, EVENTS_WAITING_MAX, FINISHED_MATCH_LIFE, FINISHED_MATCHES_MAX,
    FRAMES_RANGE, HZ_RANGE, INPUT_DATA_RANGE, TIMER_WAITS_MAX, TIMERS_PER_TURN_MAX,
    UPLINK_MESSAGE_MAX, WATCH_DELAY_RANGE, WATCHERS_RANGE,
};

/// Sessions that are fetched into the processor's cache together.
const FORESEEN: usize = 32;

/// What a timer wakes. The number is the generation: a timer whose owner has taken a newer
/// one does nothing.
#[derive(Clone, Copy, Debug)]
enum Timer {
    Session(SessionKey, u64),
    Room(RoomKey, u64),
    /// A question that nobody has answered.
    Question(RoomId, QuestionId),
}

/// A room and who holds its seats.
#[derive(Debug)]
pub(super) struct RoomSlot {
    pub(super) room: Room,
    /// The session of each seat.
    pub(super) sessions: Vec<Option<SessionKey>>,
    /// The session of each spectator.
    pub(super) watchers: Vec<Option<SessionKey>>,
    /// Its timer in the wheel: deadline and generation.
    timer: Option<(Time, u64)>,
    /// On which it ticks, while it does.
    pub(super) beat: Option<Beat>,
    /// What of it is in the journal, if there is one.
    pub(super) written: Option<Written>,
}

impl RoomSlot {
    fn new(room: Room, written: Option<Written>) -> RoomSlot {
        RoomSlot {
            sessions: vec![None; room.rules().members.len()],
            watchers: Vec::new(),
            room,
            timer: None,
            beat: None,
            written,
        }
    }

    /// The room, and what of it is in the journal.
    pub(super) fn recorded(&mut self) -> Option<(&Room, &mut Written)> {
        self.written.as_mut().map(|written| (&self.room, written))
    }
}

impl RoomSlot {
    /// The session at a spot.
    pub(super) fn holder(&self, spot: Spot) -> Option<SessionKey> {
        match spot {
            Spot::Seat(seat) => self.sessions[seat.index()],
            Spot::Watcher(WatcherId(index)) => self.watchers.get(index).copied().flatten(),
        }
    }

    /// The same, to be changed.
    pub(super) fn holder_mut(&mut self, spot: Spot) -> &mut Option<SessionKey> {
        match spot {
            Spot::Seat(seat) => &mut self.sessions[seat.index()],
            Spot::Watcher(WatcherId(index)) => {
                if self.watchers.len() <= index {
                    self.watchers.resize(index + 1, None);
                }
                &mut self.watchers[index]
            }
        }
    }

    /// How many spots there may be a session at.
    pub(super) fn spot_count(&self) -> usize {
        self.sessions.len() + self.watchers.len()
    }

    /// The session at one of them: the seats come first.
    pub(super) fn holder_at(&self, index: usize) -> Option<SessionKey> {
        let (seats, watchers) = (&self.sessions, &self.watchers);
        let at = |index: usize| watchers.get(index - seats.len());
        *seats.get(index).or_else(|| at(index))?
    }
}

/// A lockstep server without I/O.
#[derive(Debug)]
pub struct Server {
    pub(super) config: Config,
    pub(super) secrets: Secrets,
    /// The wall's time at [`Time::ZERO`], in Unix microseconds.
    wall_us: i64,
    pub(super) sessions: Slab<Session>,
    pub(super) by_addr: HashMap<SocketAddr, SessionKey, KeyedHash>,
    /// Which of them hold no seat, candidates left out: those add at most one to each of the
    /// others.
    pub(super) guests: Guests,
    /// By what clients of v2 are known at other addresses.
    pub(super) passes: Passes,
    pub(super) rooms: Slab<RoomSlot>,
    pub(super) by_room: HashMap<RoomId, RoomKey, KeyedHash>,
    /// Whose rooms are elsewhere, if anybody can say where.
    pub(super) elsewhere: Option<Elsewhere>,
    /// Where the rooms tick that play.
    pub(super) beats: Beats,
    /// How many of the rooms are over.
    pub(super) rooms_over: usize,
    /// Matches that are gone, the newest last, with the moment they went.
    finished: VecDeque<(Time, RoomView)>,
    wheel: Wheel<Timer>,
    generation: u64,
    /// Timers of sessions that have ended, by their keys: whoever gets the key gets the timer.
    /// Else a flood, in which sessions come and go, would fill the wheel with stale ones.
    left_timers: Vec<Option<(Time, u64)>>,
    /// Sessions with something to say at the end of the turn.
    dirty: Vec<SessionKey>,
    /// Where all sessions write their datagrams.
    pub(super) sink: Sink,
    pub(super) events: VecDeque<Event>,
    pub(super) counters: Counters,
    pub(super) stopping: bool,
    pub(super) contains_panics: bool,
    /// What the journal is owed, if there is one.
    pub(super) records: Option<Records>,
    pub(super) scratch: Scratch,
}

/// Buffers that are used again and again.
#[derive(Debug)]
pub(super) struct Scratch {
    /// One KCP message.
    pub(super) message: Vec<u8>,
    /// One packet of our own.
    pub(super) packet: Vec<u8>,
    /// What a room wants done.
    pub(super) outbox: Outbox,
}

impl Server {
    /// A server without rooms and sessions, whose wall shows `unix_us` microseconds at
    /// [`Time::ZERO`].
    pub fn new(config: Config, secrets: Secrets, unix_us: i64) -> Server {
        let hash = KeyedHash::new(secrets.hash_key);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Server {
            config,
            secrets,
            wall_us: unix_us,
            sessions: Slab::new(),
            by_addr: HashMap::with_hasher(hash),
            guests: Guests::new(hash),
            passes: Passes::new(secrets.pass_key, hash),
            rooms: Slab::new(),
            by_room: HashMap::with_hasher(hash),
            elsewhere: None,
            beats: Beats::default(),
            rooms_over: 0,
            finished: VecDeque::new(),
            wheel: Wheel::new(),
            generation: 0,
            left_timers: Vec::new(),
            dirty: Vec::new(),
            sink: Sink::new(nowhere),
            events: VecDeque::new(),
            counters: Counters::default(),
            stopping: false,
            contains_panics: false,
            records: None,
            scratch: Scratch {
                message: vec![0; UPLINK_MESSAGE_MAX],
                packet: Vec::new(),
                outbox: Outbox::default(),
            },
        }
    }

    // --- Getters --------------------------------------------------------------------------

    /// A room's match as it stands; `None` if there is no such room.
    pub fn room(&self, room: RoomId) -> Option<RoomView> {
        self.by_room.get(&room).map(|key| self.room_view(*key))
    }

    /// A match, running or gone a while ago.
    pub fn match_(&self, id: MatchId) -> Option<RoomView> {
        let running = self
            .rooms
            .iter()
            .find(|(_, slot)| slot.room.match_id() == id);
        if let Some((key, _)) = running {
            return Some(self.room_view(key));
        }
        self.finished
            .iter()
            .rev()
            .find(|(_, view)| view.match_id == id)
            .map(|(_, v)| v.clone())
    }

    /// At most `limit` rooms, from slot `from` on.
    pub fn rooms(&self, from: usize, limit: usize) -> RoomsPage {
        // A room that has been created anew shows its new match alone.
        let current = |key: &RoomKey| self.by_room.get(&self.rooms[*key].room.id()) == Some(key);
        let mut keys = (from..self.rooms.capacity())
            .filter(|key| self.rooms.contains(*key))
            .filter(current);
        let rooms = keys
            .by_ref()
            .take(limit)
            .map(|key| self.room_view(key))
            .collect();
        RoomsPage {
            rooms,
            total: self.by_room.len(),
            next: keys.next(),
        }
    }

    /// The rooms whose match is not over.
    pub fn room_ids(&self) -> Vec<(RoomId, MatchId)> {
        let rooms = self.rooms.iter().map(|(_, slot)| &slot.room);
        let open = rooms.filter(|room| !room.is_over());
        open.map(|room| (room.id(), room.match_id())).collect()
    }

    /// How many rooms there are whose match is not over.
    pub fn open_rooms(&self) -> usize {
        self.rooms.len() - self.rooms_over
    }

    /// How many seats are held. Looks at every session.
    pub fn players(&self) -> usize {
        let places = self.sessions.iter().map(|(_, session)| session.place);
        places
            .filter(|place| matches!(place, Place::Holds(_, Spot::Seat(_))))
            .count()
    }

    /// The rules and limits that it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.sessions = self.sessions.len() as u64;
        counters.rooms = self.rooms.len() as u64;
        counters.timers = self.wheel.len() as u64;
        counters
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many rooms there are, those among them that are over and stay a little longer.
    pub fn room_count(&self) -> usize {
        self.rooms.len()
    }

    /// Whether something that a peer should still get is outstanding.
    pub fn has_outstanding(&self) -> bool {
        let outstanding = |key, backlog| backlog > 0 || self.is_owed(key);
        self.sessions
            .iter()
            .any(|(key, session)| outstanding(key, session.link().backlog()))
    }

    /// The frames of a running match from 0 on, each as a field of an S2C_FrameMsg; frames
    /// without input are left out. `None` if there is no such room.
    pub fn frames(&self, room: RoomId) -> Option<&[u8]> {
        let key = self.by_room.get(&room)?;
        Some(self.rooms[*key].room.log().encoded())
    }

    fn room_view(&self, key: RoomKey) -> RoomView {
        let slot = &self.rooms[key];
        let mut view = slot.room.view();
        for (seat, session) in view.seats.iter_mut().zip(&slot.sessions) {
            seat.rtt = session.and_then(|key| self.sessions[key].link().srtt());
        }
        view
    }

    pub(super) fn now(&self, now: Time) -> Now {
        Now {
            time: now,
            unix_seconds: self.unix_us(now).div_euclid(1_000_000),
        }
    }

    /// What the wall shows, in Unix microseconds.
    pub(super) fn unix_us(&self, now: Time) -> i64 {
        let us = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        self.wall_us.saturating_add(us)
    }

    // --- Commands -------------------------------------------------------------------------

    /// From now on a panic ends the room or the session that ran into it, is told as an
    /// [`Event`], and leaves everything else alone. Without this it goes on to the caller.
    pub fn contain_panics(&mut self) {
        self.contains_panics = true;
    }

    /// Gives back what was kept for more sessions than there are now.
    pub fn shrink(&mut self) {
        self.sessions.shrink_to_fit();
        self.by_addr.shrink_to(2 * self.by_addr.len());
        self.guests.shrink();
        self.passes.shrink();
        self.dirty.shrink_to_fit();
        self.events.shrink_to_fit();
    }

    /// Tells what the wall shows now, in Unix microseconds: it may have been set anew.
    pub fn set_wall(&mut self, now: Time, unix_us: i64) {
        self.wall_us = unix_us - i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    }

    /// Creates a room. One of this number whose match is over makes way.
    ///
    /// # Errors
    /// [`CreateError`]; nothing has changed then.
    pub fn create_room(&mut self, now: Time, spec: RoomSpec) -> Result<RoomView, CreateError> {
        if self.stopping {
            return Err(CreateError::Stopping);
        }
        let rules = self.rules(spec)?;
        let room = rules.room;
        if let Some(key) = self.by_room.get(&room) {
            let existing = &self.rooms[*key].room;
            if !existing.is_over() {
                return Err(CreateError::Exists {
                    room,
                    match_id: existing.match_id(),
                });
            }
        }
        // One that is over makes way, but not without end.
        let max = self.config.max_rooms;
        if self.rooms.len() - self.rooms_over >= max || self.rooms.len() >= 2 * max {
            return Err(CreateError::Full { max });
        }
        let players = rules.members.len();
        let match_id = rules.match_id;
        let new = Room::new(self.now(now), rules);
        let written = self.written_of(&new);
        let key = self.insert_room(RoomSlot::new(new, written));
        self.counters.rooms_created += 1;
        self.tell(Event::RoomCreated {
            room,
            match_id,
            players,
        });
        self.check_invariants();
        Ok(self.room_view(key))
    }

    /// Brings back a room that a restart of the server has interrupted, from the journal. Its match
    /// goes on when the first of its players is back; more rooms than `max_rooms` are no fault.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing has changed then, but that a match whose room has another one is over
    /// in the journal, too.
    pub fn restore_room(&mut self, now: Time, restored: RestoredRoom) -> Result<(), RestoreError> {
        let RestoredRoom {
            match_id, created, ..
        } = &restored;
        let (match_id, room) = (*match_id, created.room);
        let rules = created.rules(match_id).ok_or(RestoreError::NoSecret)?;
        let interrupted = Interrupted {
            created_unix: created.created_unix_us.div_euclid(1_000_000),
            started_unix: restored.started_unix,
            frames: restored.frames,
            head: restored.head,
            joined: restored.joined,
            results: restored.results,
            history: restored.history,
            forks: restored.forks,
        };
        let history = self.secrets.history();
        let back = Room::restore(self.now(now), rules, interrupted, history);
        let (next, segment) = (restored.next_seq, restored.first_segment);
        if let Some(key) = self.by_room.get(&room) {
            let match_id = self.rooms[*key].room.match_id();
            self.give_up_in_records(now, back, next, segment);
            return Err(RestoreError::Exists { room, match_id });
        }
        let written = self.written_of_restored(&back, next, segment);
        let key = self.insert_room(RoomSlot::new(back, written));
        self.counters.rooms_restored += 1;
        self.tell(Event::MatchRestored {
            room,
            match_id,
            frames: restored.head,
        });
        if restored.head >= self.rooms[key].room.rules().max_frames {
            // Only the word of its end was torn off.
            let reason = OverReason::MaxFrames;
            self.in_room(now, key, |room, now, out| room.end(now, reason, out));
        }
        self.check_invariants();
        Ok(())
    }

    fn insert_room(&mut self, slot: RoomSlot) -> RoomKey {
        let room = slot.room.id();
        let key = self.rooms.insert(slot);
        self.by_room.insert(room, key);
        self.arm_room(key);
        self.list_for_records(key);
        key
    }

    /// Ends a room's match; `None` if there is no such room.
    pub fn close_room(&mut self, now: Time, room: RoomId) -> Option<RoomView> {
        let key = *self.by_room.get(&room)?;
        self.in_room(now, key, |room, now, out| {
            room.end(now, OverReason::Closed, out)
        });
        self.check_invariants();
        Some(self.room_view(key))
    }

    /// Lets the frames of a room that waits come from [`Server::feed`] alone, neither from its
    /// players nor from the clock: a match is shown again. It starts with the first Ready.
    pub fn expect_feed(&mut self, room: RoomId) {
        if let Some(key) = self.by_room.get(&room) {
            self.rooms[*key].room.expect_feed();
        }
    }

    /// Seals this frame, or an empty one, in a match in play whose frames come from here.
    ///
    /// # Panics
    /// If the frame is not the next one.
    pub fn feed(&mut self, now: Time, room: RoomId, frame: Option<FrameBytes<'_>>) {
        if let Some(key) = self.by_room.get(&room).copied() {
            self.in_room(now, key, |room, now, out| room.feed(now, frame, out));
            self.check_invariants();
        }
    }

    /// Begins to stop: no new rooms and sessions, and everybody gets Close. The driver goes
    /// on for as long as [`Server::has_outstanding`] and its patience last.
    pub fn stop(&mut self, now: Time) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        let rooms: Vec<RoomKey> = self.rooms.iter().map(|(key, _)| key).collect();
        for key in rooms {
            self.in_room(now, key, |room, now, out| {
                room.end(now, OverReason::Stopping, out)
            });
        }
        let others: Vec<SessionKey> = self
            .sessions
            .iter()
            .filter(|(_, session)| !matches!(session.place, Place::Holds(..)))
            .map(|(key, _)| key)
            .collect();
        for key in others {
            self.say(now, key, &Downlink::Close);
        }
        self.check_invariants();
    }

    /// Checks a room's specification and fills in the server's settings.
    fn rules(&self, spec: RoomSpec) -> Result<Rules, CreateError> {
        check_members(&spec.members, self.config.max_players_per_room)?;
        let config = &self.config;
        Ok(Rules {
            hz: in_range("hz", spec.hz.unwrap_or(config.hz), HZ_RANGE)?,
            broadcast_every: in_range(
                "broadcast_every",
                spec.broadcast_every.unwrap_or(config.broadcast_every),
                BROADCAST_EVERY_RANGE,
            )?,
            max_frames: in_range(
                "max_frames",
                spec.max_frames.unwrap_or(config.max_frames),
                FRAMES_RANGE,
            )?,
            input_bytes_max: in_range(
                "input_bytes",
                spec.input_bytes_max.unwrap_or(config.input_bytes_max),
                INPUT_DATA_RANGE,
            )?,
            room: spec.room,
            match_id: MatchId(
                self.secrets
                    .first_match
                    .wrapping_add(self.counters.rooms_created),
            ),
            members: spec.members,
            seed: spec.seed,
            ready_timeout: config.ready_timeout,
            room_timeout: config.room_timeout,
            reconnect_grace: config.reconnect_grace,
            secret: spec.secret,
            watchers_max: in_range(
                "watchers_max",
                spec.watchers_max.unwrap_or(config.watchers),
                WATCHERS_RANGE,
            )?,
            watch_delay: in_range(
                "watch_delay",
                spec.watch_delay.unwrap_or(config.watch_delay),
                WATCH_DELAY_RANGE,
            )?,
        })
    }

    // --- Input ----------------------------------------------------------------------------

    /// Fetches into the processor's cache what datagrams from these addresses will need: memory is
    /// read for all of them at once, where one after another would wait for it. Changes nothing.
    pub fn foresee(&self, from: impl Iterator<Item = SocketAddr>) {
        let keys = from.filter_map(|addr| self.by_addr.get(&addr));
        touch_all(keys.map(|key| &self.sessions[*key]));
    }

    /// Takes in one datagram. Its bytes may be changed.
    pub fn handle_datagram(&mut self, now: Time, from: SocketAddr, bytes: &mut [u8]) {
        self.counters.datagrams_in += 1;
        self.counters.bytes_in += bytes.len() as u64;
        if let Err(reason) = self.try_datagram(now, from, bytes) {
            self.counters.drop(reason);
        }
        self.check_invariants();
    }

    fn try_datagram(&mut self, now: Time, from: SocketAddr, bytes: &mut [u8]) -> Result<(), Drop> {
        if Signal::is_one(bytes) {
            return self.handle_signal(now, from, bytes);
        }
        let mut datagram = Datagram::parse(bytes)?;
        let key = self.session_of(now, from, &datagram)?;
        if self.sessions[key].timer.is_none() {
            // Also one whose datagram is dropped needs its timer, if it is new.
            self.mark_dirty(key);
        }
        let bytes = datagram.bytes().len();
        self.sessions[key].budget.datagram(now, bytes)?;
        let news = match self.with_link(key, |session| session.input(now, &mut datagram)) {
            Ok(news) => news?,
            Err(failed) => {
                self.end(now, key, failed);
                return Ok(());
            }
        };
        if !news.settled {
            self.mark_dirty(key);
        }
        if news.over {
            self.counters.drop(Drop::BeforeProof);
        }
        if news.proved {
            self.proved(now, key);
        }
        if news.back {
            self.report_online(now, key, true);
        }
        self.read(now, key);
        Ok(())
    }

    // --- Time -----------------------------------------------------------------------------

    /// When [`Server::handle_timeout`] must be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.wheel.next_deadline()
    }

    /// Carries out what is due, at most so much in one turn.
    pub fn handle_timeout(&mut self, now: Time) {
        for _ in 0..TIMERS_PER_TURN_MAX {
            match self.wheel.pop_due(now) {
                Some((_, Timer::Room(key, generation))) => self.room_timer(now, key, generation),
                Some((_, Timer::Session(key, generation))) => {
                    self.session_timer(now, key, generation);
                }
                Some((_, Timer::Question(room, id))) => self.question_timer(now, room, id),
                None => break,
            }
        }
        self.check_invariants();
    }

    fn room_timer(&mut self, now: Time, key: RoomKey, generation: u64) {
        let Some(slot) = self.rooms.get_mut(key) else {
            return;
        };
        if slot.timer.is_none_or(|(_, own)| own != generation) {
            return;
        }
        slot.timer = None;
        if slot.room.is_gone(now) && !self.lingers(now, key) {
            self.remove_room(now, key);
        } else {
            self.in_room(now, key, Room::handle_timeout);
        }
    }

    /// Whether a room that is over stays a little longer: a spectator is still sent what was held
    /// back from it, and nobody needs the place of the room.
    fn lingers(&mut self, now: Time, key: RoomKey) -> bool {
        if self.rooms.len() > self.config.max_rooms {
            return false;
        }
        let watchers = self.rooms[key].watchers.iter().flatten();
        let behind = |session: &SessionKey| {
            self.sessions[*session].link().backlog() > 0 || self.is_owed(*session)
        };
        let any = watchers.copied().any(|session| behind(&session));
        any && self.rooms[key].room.linger(now)
    }

    fn session_timer(&mut self, now: Time, key: SessionKey, generation: u64) {
        let Some(session) = self.sessions.get_mut(key) else {
            let left = self.left_timers.get_mut(key);
            if let Some(left) = left.filter(|left| left.is_some_and(|(_, own)| own == generation)) {
                *left = None;
            }
            return;
        };
        if session.timer.is_none_or(|(_, own)| own != generation) {
            return;
        }
        session.timer = None;
        if let Some(reason) = session.fate(now, self.config.idle_timeout) {
            return self.end(now, key, reason);
        }
        let early = session.take_early(now);
        if session.falls_offline(now) {
            self.report_online(now, key, false);
        }
        let session = &self.sessions[key];
        if early.is_none() && !session.dirty && session.has_time(now, self.config.idle_timeout) {
            return self.arm_session(now, key);
        }
        self.mark_dirty(key);
        if let Some(mut bytes) = early {
            // Nobody else has spoken since: a client was started again after all, and what
            // it said may not come a second time.
            let addr = self.sessions[key].addr;
            if let Err(reason) = self.try_datagram(now, addr, &mut bytes) {
                self.counters.drop(reason);
            }
        }
    }

    /// Sets a room's timer to its next deadline. One that fires too early is set again when
    /// it does; only an earlier deadline needs a new one.
    pub(super) fn arm_room(&mut self, key: RoomKey) {
        let slot = &mut self.rooms[key];
        let deadline = slot.room.next_deadline();
        if slot.timer.is_none_or(|(at, _)| deadline < at) {
            self.generation += 1;
            slot.timer = Some((deadline, self.generation));
            self.wheel
                .insert(deadline, Timer::Room(key, self.generation));
        }
    }

    pub(super) fn arm_question(&mut self, deadline: Time, room: RoomId, id: QuestionId) {
        self.wheel.insert(deadline, Timer::Question(room, id));
    }

    fn arm_session(&mut self, now: Time, key: SessionKey) {
        let tick = self.next_tick(key);
        let session = &mut self.sessions[key];
        let mut deadline = session.next_deadline(now, self.config.idle_timeout);
        // What is due just before a frame is carried out with it: at 30 frames a second that is
        // the retransmission of each frame, which hardly ever comes to it.
        if let Some(tick) =
            tick.filter(|tick| *tick >= deadline && *tick - TIMER_WAITS_MAX <= deadline)
        {
            deadline = on_beat(tick);
        }
        if session.timer.is_none_or(|(at, _)| deadline < at) {
            self.generation += 1;
            session.timer = Some((deadline, self.generation));
            self.wheel
                .insert(deadline, Timer::Session(key, self.generation));
        }
    }

    fn remove_room(&mut self, now: Time, key: RoomKey) {
        let slot = &self.rooms[key];
        let holders: Vec<SessionKey> = (0..slot.spot_count())
            .filter_map(|index| slot.holder_at(index))
            .collect();
        for session in holders {
            self.end(now, session, Disconnect::RoomGone);
        }
        // Those that claim a seat and have proved nothing find no room at their proof.
        let slot = self.rooms.remove(key);
        self.rooms_over -= 1;
        let id = slot.room.id();
        if self.by_room.get(&id) == Some(&key) {
            self.by_room.remove(&id);
        }
        while self.finished.len() >= FINISHED_MATCHES_MAX
            || self
                .finished
                .front()
                .is_some_and(|(at, _)| now.since(*at) > FINISHED_MATCH_LIFE)
        {
            self.finished.pop_front();
        }
        self.finished.push_back((now, slot.room.view()));
        self.keep_for_records(slot);
    }

    // --- Output ---------------------------------------------------------------------------

    pub(super) fn mark_dirty(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        if !session.dirty {
            session.dirty = true;
            self.dirty.push(key);
        }
    }

    /// Pumps and flushes every session that has something to say, and exchanges the filled
    /// batch for the caller's, which should be empty.
    pub fn poll_transmit(&mut self, now: Time, batch: &mut Transmits) {
        // Ending one session can give another something to say, behind the end of the list.
        let mut next = 0;
        while let Some(key) = self.dirty.get(next).copied() {
            if next.is_multiple_of(FORESEEN) {
                self.foresee_dirty(next);
            }
            next += 1;
            let listed = self.sessions.get_mut(key).map(|session| &mut session.dirty);
            if listed.is_some_and(std::mem::take) {
                self.finish_turn_of(now, key);
            }
        }
        self.dirty.clear();
        self.sink.swap(batch);
        self.counters.datagrams_out += batch.len() as u64;
        self.counters.bytes_out += batch.byte_count() as u64;
        self.check_invariants();
    }

    /// As [`Server::foresee`], for those in the list from here on.
    fn foresee_dirty(&self, from: usize) {
        let some = self.dirty[from..].iter().take(FORESEEN);
        touch_all(some.filter_map(|key| self.sessions.get(*key)));
    }

    /// Pumps and flushes one session, once in a turn, and sets its timer.
    fn finish_turn_of(&mut self, now: Time, key: SessionKey) {
        self.pump(now, key);
        if let Some(reason) = self.sessions[key].fate(now, self.config.idle_timeout) {
            return self.end(now, key, reason);
        }
        self.sessions[key].behind = self.is_owed(key);
        let idle_timeout = self.config.idle_timeout;
        let next_packet = self.next_packet(key);
        match self.with_link(key, |session| session.flush(now, idle_timeout, next_packet)) {
            Ok(probed) => {
                self.counters.probes += u64::from(probed);
                self.arm_session(now, key);
            }
            Err(failed) => self.end(now, key, failed),
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn tell(&mut self, event: Event) {
        if self.events.len() == EVENTS_WAITING_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    // --- Sessions -------------------------------------------------------------------------

    /// A session begins. A timer that its key has from before fires early, and is set again.
    pub(super) fn begin(&mut self, mut session: Session) -> SessionKey {
        let key = self.sessions.vacant_key();
        session.timer = self.left_timers.get_mut(key).and_then(Option::take);
        self.sessions.insert(session)
    }

    /// Ends a session without a word: a word would reach whoever is at the address now.
    pub(super) fn end(&mut self, now: Time, key: SessionKey, reason: Disconnect) {
        self.leave_guests(key);
        let session = self.sessions.remove(key);
        if self.left_timers.len() <= key {
            self.left_timers.resize(key + 1, None);
        }
        self.left_timers[key] = session.timer;
        if let Some(standing) = &session.standing {
            self.passes.release(standing.pass.session);
        }
        if let Some(wish) = &session.waiting {
            self.stop_waiting(key, wish.room);
        }
        self.counters.disconnect(reason);
        match session.rival {
            Rival::None => {
                self.by_addr.remove(&session.addr);
            }
            Rival::Candidate { of, .. } => {
                let old = &mut self.sessions[of];
                old.rival = Rival::None;
                let sent = session.link().snd_nxt();
                old.lost_candidate_sent = old.lost_candidate_sent.max(sent);
                self.mark_dirty(of);
            }
            Rival::Contested { by, same_conv } => {
                // The candidate is all that is left at the address.
                self.sessions[by].rival = Rival::None;
                self.by_addr.insert(session.addr, by);
                self.enter_guests(by);
                self.mark_dirty(by);
                if same_conv && reason == Disconnect::TakenOver {
                    // The client whose seat somebody else has now may live, and would be mistaken for
                    // one that was started again: only beside its session can the two be told apart.
                    // One that was repeats its Connect.
                    self.end(now, by, Disconnect::CandidateLost);
                }
            }
        }
        if let Place::Holds(key, spot) = session.place {
            let addr = session.addr;
            let room = self.rooms[key].room.id();
            let match_id = self.rooms[key].room.match_id();
            self.tell(match spot {
                Spot::Seat(seat) => Event::SeatLeft {
                    addr,
                    player: self.rooms[key].room.player_at(seat.into()),
                    room,
                    match_id,
                    reason,
                },
                Spot::Watcher(_) => Event::WatcherLeft { addr, room, reason },
            });
            self.vacate(now, key, spot);
        }
    }

    /// Holds the server against what must always be true of it, in debug builds, while it
    /// is small enough for that to cost little.
    pub(super) fn check_invariants(&self) {
        const SMALL: usize = 64;
        if cfg!(debug_assertions) && self.sessions.len() + self.rooms.len() <= SMALL {
            self.assert_invariants();
        }
    }

    /// Holds the server against what must always be true of it.
    ///
    /// # Panics
    /// If it is not.
    pub fn assert_invariants(&self) {
        for (key, session) in &self.sessions {
            let at_addr = self.by_addr.get(&session.addr).copied();
            match session.rival {
                Rival::None => assert_eq!(at_addr, Some(key)),
                Rival::Contested { by, .. } => {
                    assert_eq!(at_addr, Some(key));
                    let back = self.sessions[by].rival;
                    assert!(matches!(back, Rival::Candidate { of, .. } if of == key));
                }
                Rival::Candidate { of, .. } => {
                    assert_eq!(at_addr, Some(of));
                    let back = self.sessions[of].rival;
                    assert!(matches!(back, Rival::Contested { by, .. } if by == key));
                }
            }
            if let Place::Holds(room, spot) = session.place {
                assert!(session.link().is_proved(), "a seat is held without a proof");
                assert_eq!(self.rooms[room].holder(spot), Some(key));
            }
            assert!(
                session.dirty || session.timer.is_some(),
                "a session sleeps for good"
            );
            assert!(
                session.dirty || session.may_sleep(),
                "what could leave waits for nothing"
            );
            let frame_comes = |at| {
                matches!(session.place, Place::Holds(room, spot)
                if self.rooms[room].room.next_broadcast(spot) == Some(at))
            };
            assert!(
                session.dirty || session.rides_at.is_none_or(frame_comes),
                "an acknowledgement waits for nothing"
            );
        }
        let guests = self.sessions.iter().filter(|(key, session)| {
            let candidate = matches!(session.rival, Rival::Candidate { .. });
            let counted = !candidate && !matches!(session.place, Place::Holds(..));
            let guest = session.guest.and_then(|id| self.guests.get(id));
            assert_eq!(guest.map(|guest| guest.session), counted.then_some(*key));
            counted
        });
        assert_eq!(guests.count(), self.guests.len());
        let standings = self
            .sessions
            .iter()
            .filter_map(|(key, session)| Some((key, session.standing.as_ref()?)));
        let standings = standings
            .inspect(|(key, own)| assert_eq!(self.passes.find(own.pass.session), Some(*key)));
        assert_eq!(standings.count(), self.passes.len());
        self.assert_waiting();
        let over = self.rooms.iter().filter(|(_, slot)| slot.room.is_over());
        assert_eq!(over.count(), self.rooms_over);
        let playing = self.rooms.iter().filter(|(_, slot)| slot.beat.is_some());
        let seats: usize = playing.map(|(_, slot)| slot.sessions.len()).sum();
        assert_eq!(seats, self.beats.seat_count());
        let candidates = self
            .sessions
            .iter()
            .filter(|(_, s)| matches!(s.rival, Rival::Candidate { .. }));
        assert_eq!(self.by_addr.len() + candidates.count(), self.sessions.len());
        for (key, slot) in &self.rooms {
            slot.room.check_invariants();
            assert_eq!(slot.beat.is_some(), slot.room.is_ticking());
            let timer = slot.timer.expect("a room always has a deadline");
            assert!(
                timer.0 <= slot.room.next_deadline(),
                "room {key} oversleeps"
            );
            for (index, session) in slot.sessions.iter().enumerate() {
                let seat = Seat::from_index(index);
                assert_eq!(session.is_some(), slot.room.is_held(seat));
                if let Some(session) = session {
                    assert_eq!(
                        self.sessions[*session].place,
                        Place::Holds(key, seat.into())
                    );
                }
            }
            let watchers = slot.watchers.iter().enumerate();
            let watchers = watchers.filter_map(|(index, session)| Some((index, (*session)?)));
            for (index, session) in watchers.clone() {
                let spot = Spot::Watcher(WatcherId(index));
                assert_eq!(self.sessions[session].place, Place::Holds(key, spot));
            }
            assert_eq!(watchers.count(), slot.room.watcher_count());
        }
    }
}

fn touch_all<'a>(sessions: impl Iterator<Item = &'a Session>) {
    std::hint::black_box(sessions.fold(0, |sum, session| sum ^ session.touch()));
}

fn check_members(members: &[PlayerId], most: usize) -> Result<(), CreateError> {
    let invalid = |reason| {
        Err(CreateError::Invalid {
            field: "members",
            reason,
        })
    };
    if members.is_empty() {
        return invalid("none is given; name at least one player".into());
    }
    if members.len() > most {
        let given = members.len();
        return invalid(format!(
            "{given} are given; at most {most} fit a room (--max-players-per-room)"
        ));
    }
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => invalid(format!("{} is given twice; name it once", twice[0])),
        None => Ok(()),
    }
}

fn in_range(
    field: &'static str,
    value: u32,
    range: RangeInclusive<u32>,
) -> Result<u32, CreateError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = range.into_inner();
    Err(CreateError::Invalid {
        field,
        reason: format!("{value} is not from {low} to {high}"),
    })
}
