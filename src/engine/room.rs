//! A room: one match of its members, from waiting to the last frame.
//!
//! ```text
//!             all ready, or the ready time-out       results, last frame,
//!             with somebody online                   time-outs, a command
//!   Waiting ------------------------------> Playing ----------------------> Over
//! ```
//!
//! A match that a restart of the server has interrupted is played again as it stood, but its clock
//! rests until the first of its players has said Ready: [`Room::restore`].
//!
//! A room owns its seats, its frame log and its phase. It takes the time and typed
//! messages and pushes effects to an [`Outbox`]. It knows seats, never sessions or
//! addresses; [`crate::engine::server`] maps one to the other, and asks
//! [`Room::next_packet`] for what a seat is owed whenever that seat's link has room. Who only
//! watches is beside the seats, in its `gallery`; a [`Spot`] is either.

use std::time::Duration;

use super::auth::RoomSecret;
use super::broadcast::{self, Broadcast};
use super::drops::Drop;
use super::frame_log::FrameLog;
use super::gallery::Gallery;
use super::id::{FrameId, MatchId, Percent, PlayerId, RoomId, Seat, Spot, WatcherId};
use super::outbox::{Effect, Outbox};
use super::seat::{Asked, SeatState, Stage};
use super::time::Time;
use super::view::{OverReason, Phase, RoomView, SeatView};
use super::wire::frame::Command;
use super::wire::message::{
    Downlink, Fetch, Fetched, Follows, Held, Uplink, Version, WatchFrom, Welcome,
};
use crate::journal::record::FrameBytes;
use crate::limits::{LATE_MAX, OVER_LINGER, RESTREAM_EVERY, WATCHED_LINGER_MAX};

/// What a room is made of, all of it checked.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Its number.
    pub room: RoomId,
    /// Its match.
    pub match_id: MatchId,
    /// Its players, in the order of their seats; none twice.
    pub members: Vec<PlayerId>,
    /// The seed that all clients get.
    pub seed: i32,
    /// Frames per second.
    pub hz: u32,
    /// Frames between two broadcasts when nothing happens.
    pub broadcast_every: u32,
    /// Frames after which the match is over.
    pub max_frames: u32,
    /// Bytes of data that an input may have; 0 if it may have none.
    pub input_bytes_max: u32,
    /// Time after the first seat joined at which the match starts without the others.
    pub ready_timeout: Duration,
    /// Age at which the room is over.
    pub room_timeout: Duration,
    /// Time for which the match runs on with everybody offline.
    pub reconnect_grace: Duration,
    /// Lets its players in where the room's own secret does.
    pub secret: RoomSecret,
    /// Spectators that it lets in.
    pub watchers_max: u32,
    /// Frames that are held back from them while the match is played.
    pub watch_delay: u32,
}

/// The moment of a call, as the room needs it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The engine's time.
    pub time: Time,
    /// The wall's, for the stamp of Start.
    pub unix_seconds: i64,
}

/// The clock of a match: frame `n` is sealed at `epoch + floor((n + 1 - first) * 1 s / hz)`,
/// never at "now and a bit", so that it does not drift.
#[derive(Clone, Copy, Debug)]
struct FrameClock {
    epoch: Time,
    first: FrameId,
    hz: u32,
}

impl FrameClock {
    fn deadline(&self, frame: FrameId) -> Time {
        let periods = u64::from(frame - self.first) + 1;
        self.epoch + Duration::from_micros(periods * 1_000_000 / u64::from(self.hz))
    }
}

#[derive(Debug)]
enum State {
    Waiting {
        /// When the match starts without those that are not ready; set by the first to join.
        ready_by: Option<Time>,
    },
    Playing {
        /// `None` while it rests after a restart of the server.
        clock: Option<FrameClock>,
        /// When the match ends because everybody is offline.
        abandoned_at: Option<Time>,
    },
    Over {
        reason: OverReason,
        since: Time,
        gone_at: Time,
    },
}

/// How a match stands that a restart of the server has interrupted.
#[derive(Clone, Debug)]
pub struct Interrupted {
    /// When it was created, in Unix seconds.
    pub created_unix: i64,
    /// The stamp of Start, in Unix seconds; `None` if it still waited.
    pub started_unix: Option<i64>,
    /// Its frames with input, as fields of an S2C_FrameMsg.
    pub frames: Vec<u8>,
    /// The next unsealed frame.
    pub head: FrameId,
    /// Which seats a session had taken, by seat.
    pub joined: Vec<bool>,
    /// The results, by seat.
    pub results: Vec<Option<u64>>,
    /// Which history its frames were of.
    pub history: u32,
    /// Where earlier histories ended, in their order.
    pub forks: Vec<Fork>,
}

/// Where a history of a match ended with its server, and the next one began. Frames behind this place
/// may have been lost, and others stand there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The history that ended.
    pub from: u32,
    /// The first frame that can be another one.
    pub at: FrameId,
}

/// One match.
#[derive(Debug)]
pub struct Room {
    rules: Rules,
    created_unix: i64,
    started_unix: Option<i64>,
    /// When the room is over for its age.
    ends_at: Time,
    state: State,
    seats: Vec<SeatState>,
    /// Those who watch, if there are any.
    gallery: Option<Box<Gallery>>,
    log: FrameLog,
    /// Seats are owed the frames before this one.
    broadcast_head: FrameId,
    broadcast: Broadcast,
    /// Which history its frames are of: 0, or of which restart of the server.
    history: u32,
    /// Where earlier histories ended, in their order.
    forks: Vec<Fork>,
    /// Its frames come from [`Room::feed`] alone.
    is_fed: bool,
    /// How often [`Room::seat_facts`] may have changed.
    changes: u32,
}

impl Room {
    /// A room that waits for its players.
    pub fn new(now: Now, rules: Rules) -> Room {
        Room {
            created_unix: now.unix_seconds,
            started_unix: None,
            ends_at: now.time + rules.room_timeout,
            state: State::Waiting { ready_by: None },
            seats: rules
                .members
                .iter()
                .map(|player| SeatState::new(*player))
                .collect(),
            gallery: None,
            log: FrameLog::new(rules.members.len()),
            broadcast_head: 0,
            broadcast: Broadcast::default(),
            history: 0,
            forks: Vec::new(),
            is_fed: false,
            changes: 0,
            rules,
        }
    }

    /// A room whose match goes on where a restart of the server has interrupted it, under a
    /// `history` that no restart had before. Nobody is there: the grace runs, and the clock waits
    /// for the first Ready. Its age is the time for which it was played: nobody can help it that
    /// the server was away.
    pub fn restore(now: Now, rules: Rules, interrupted: Interrupted, history: u32) -> Room {
        let Interrupted {
            created_unix,
            started_unix,
            frames,
            head,
            joined,
            results,
            history: before,
            mut forks,
        } = interrupted;
        forks.push(Fork {
            from: before,
            at: head,
        });
        let until = started_unix.unwrap_or(now.unix_seconds);
        let waited = u64::try_from(until.saturating_sub(created_unix)).unwrap_or(0);
        let played = Duration::from_secs(1) * head / rules.hz;
        let left = rules
            .room_timeout
            .saturating_sub(Duration::from_secs(waited) + played);
        let grace = rules.reconnect_grace;
        let mut room = Room {
            created_unix,
            started_unix,
            ends_at: now.time + left.max(grace),
            log: FrameLog::restore(rules.members.len(), frames, head),
            broadcast_head: head,
            history,
            forks,
            ..Room::new(now, rules)
        };
        if started_unix.is_some() {
            room.state = State::Playing {
                clock: None,
                abandoned_at: Some(now.time + grace),
            };
        }
        for (index, seat) in room.seats.iter_mut().enumerate() {
            seat.joined_once = joined[index];
            seat.result = results[index];
            if started_unix.is_some() {
                seat.ready = true;
                seat.progress = Percent::FULL;
            }
        }
        room
    }

    /// What takes the place of a room that a panic has left half-way: the same match with
    /// nobody in it and no frame.
    pub fn emptied(&self, now: Now) -> Room {
        Room {
            created_unix: self.created_unix,
            ..Room::new(now, self.rules.clone())
        }
    }

    // --- Getters --------------------------------------------------------------------------

    /// Its number.
    pub fn id(&self) -> RoomId {
        self.rules.room
    }

    /// Its match.
    pub fn match_id(&self) -> MatchId {
        self.rules.match_id
    }

    /// Lets its players in where the room's own secret does.
    pub fn secret(&self) -> RoomSecret {
        self.rules.secret
    }

    /// Whether the match has ended.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over { .. })
    }

    /// Whether the match has started and is not over.
    pub fn is_playing(&self) -> bool {
        matches!(self.state, State::Playing { .. })
    }

    /// Whether frames are being sealed: it is played, and its clock does not rest.
    pub fn is_ticking(&self) -> bool {
        matches!(self.state, State::Playing { clock: Some(_), .. })
    }

    /// Whether it has been over for long enough to be removed.
    pub fn is_gone(&self, now: Time) -> bool {
        matches!(self.state, State::Over { gone_at, .. } if gone_at <= now)
    }

    /// The seat of a player.
    pub fn seat_of(&self, player: PlayerId) -> Option<Seat> {
        self.seats
            .iter()
            .position(|seat| seat.player == player)
            .map(Seat::from_index)
    }

    /// Whose place it is.
    pub fn player_at(&self, spot: Spot) -> PlayerId {
        self.state(spot).player
    }

    /// Whether a session holds the seat.
    pub fn is_held(&self, seat: Seat) -> bool {
        self.seats[seat.index()].is_held()
    }

    /// Its frames.
    pub fn log(&self) -> &FrameLog {
        &self.log
    }

    /// Seats are owed the frames before this one.
    pub(super) fn broadcast_head(&self) -> FrameId {
        self.broadcast_head
    }

    /// Of what it is made.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// When it was created, in Unix seconds.
    pub(super) fn created_unix(&self) -> i64 {
        self.created_unix
    }

    /// The stamp of Start, in Unix seconds; `None` before it.
    pub(super) fn started_unix(&self) -> Option<i64> {
        self.started_unix
    }

    /// Which history its frames are of.
    pub(super) fn history(&self) -> u32 {
        self.history
    }

    /// Why it is over, if it is.
    pub(super) fn over_reason(&self) -> Option<OverReason> {
        match self.state {
            State::Over { reason, .. } => Some(reason),
            State::Waiting { .. } | State::Playing { .. } => None,
        }
    }

    /// How often what [`Room::seat_facts`] says may have changed.
    pub(super) fn changes(&self) -> u32 {
        self.changes
    }

    /// Whether a session has ever taken each seat, and the result it has told.
    pub(super) fn seat_facts(&self) -> impl Iterator<Item = (bool, Option<u64>)> {
        self.seats
            .iter()
            .map(|seat| (seat.joined_once, seat.result))
    }

    /// What a client of v2 is told when it is let in.
    pub fn welcome(&self) -> Welcome {
        Welcome {
            match_id: self.match_id(),
            history: self.history,
            hz: self.rules.hz,
            head: self.broadcast_head,
            pass: None,
            input_bytes_max: self.rules.input_bytes_max,
            watch_delay: None,
        }
    }

    /// When [`Room::handle_timeout`] has something to do.
    pub fn next_deadline(&self) -> Time {
        match &self.state {
            State::Waiting { ready_by } => {
                let start = ready_by.filter(|_| self.anyone_online());
                start.map_or(self.ends_at, |start| start.min(self.ends_at))
            }
            State::Playing {
                clock,
                abandoned_at,
            } => {
                let end = abandoned_at.map_or(self.ends_at, |at| at.min(self.ends_at));
                let frame = clock.map(|clock| clock.deadline(self.log.head()));
                frame.map_or(end, |frame| frame.min(end))
            }
            State::Over { gone_at, .. } => *gone_at,
        }
    }

    /// The match as it stands. Round trips are the sessions' and stay unknown.
    pub fn view(&self) -> RoomView {
        RoomView {
            room: self.rules.room,
            match_id: self.rules.match_id,
            phase: match self.state {
                State::Waiting { .. } => Phase::Waiting,
                State::Playing { .. } => Phase::Playing,
                State::Over { reason, .. } => Phase::Over(reason),
            },
            frame: self.log.head(),
            hz: self.rules.hz,
            broadcast_every: self.rules.broadcast_every,
            max_frames: self.rules.max_frames,
            input_bytes_max: self.rules.input_bytes_max,
            seed: self.rules.seed,
            created_unix: self.created_unix,
            started_unix: self.started_unix,
            log_bytes: self.log.encoded().len(),
            watchers: self.watcher_count(),
            watchers_max: self.rules.watchers_max,
            watch_delay: self.rules.watch_delay,
            seats: (0..self.seats.len())
                .map(|index| self.seat_view(index))
                .collect(),
        }
    }

    fn seat_view(&self, index: usize) -> SeatView {
        let seat = &self.seats[index];
        SeatView {
            seat: Seat::from_index(index).on_wire(),
            player: seat.player,
            online: seat.online,
            ready: seat.ready,
            progress: seat.progress,
            cursor: seat.cursor.frame,
            rtt: None,
            result: seat.result,
        }
    }

    // --- What happens to a seat -----------------------------------------------------------

    /// A session has taken the seat, perhaps from another one: the flow begins anew. Not in
    /// a room that is over.
    pub fn take_seat(&mut self, now: Now, seat: Seat, version: Version, out: &mut Outbox) {
        let waiting = matches!(self.state, State::Waiting { .. });
        let state = &mut self.seats[seat.index()];
        state.take(version);
        self.changes = self.changes.wrapping_add(1);
        let state = &mut self.seats[seat.index()];
        // A new client has to say again that it is ready; in play that is for its frames.
        state.ready &= !waiting;
        self.online_changed(now, out);
    }

    /// The seat's session is gone.
    pub fn leave_seat(&mut self, now: Now, seat: Seat, out: &mut Outbox) {
        let waiting = matches!(self.state, State::Waiting { .. });
        let state = &mut self.seats[seat.index()];
        state.vacate();
        state.ready &= !waiting;
        self.online_changed(now, out);
    }

    /// The session of the seat has fallen silent, or speaks again. Loading may block a
    /// client for long, so only a match in play takes notice.
    pub fn set_online(&mut self, now: Now, seat: Seat, online: bool, out: &mut Outbox) {
        let state = &mut self.seats[seat.index()];
        if state.is_held() && state.online != online && (online || self.is_playing()) {
            self.seats[seat.index()].online = online;
            self.online_changed(now, out);
        }
    }

    fn online_changed(&mut self, now: Now, out: &mut Outbox) {
        let anyone = self.anyone_online();
        let grace = self.rules.reconnect_grace;
        if let State::Playing { abandoned_at, .. } = &mut self.state {
            if anyone {
                *abandoned_at = None;
            } else if abandoned_at.is_none() {
                *abandoned_at = Some(now.time + grace);
            }
        }
        self.end_if_all_results_are_in(now, out);
    }

    fn anyone_online(&self) -> bool {
        self.seats.iter().any(|seat| seat.online)
    }

    /// Lets the clock of a match that has just started, or has just taken a new epoch, begin
    /// so much later.
    pub fn postpone(&mut self, wait: Duration) {
        if let State::Playing {
            clock: Some(clock), ..
        } = &mut self.state
        {
            debug_assert_eq!(clock.first, self.log.head(), "the clock has ticked");
            clock.epoch = clock.epoch + wait;
        }
    }

    /// Frames per second.
    pub fn hz(&self) -> u32 {
        self.rules.hz
    }

    // --- Those who watch ------------------------------------------------------------------

    /// How many watch.
    pub fn watcher_count(&self) -> usize {
        self.gallery.as_ref().map_or(0, |gallery| gallery.len())
    }

    /// Whether this player may watch now. Who does already may come again.
    pub fn may_watch(&self, player: PlayerId) -> bool {
        let max = usize::try_from(self.rules.watchers_max).expect("32 bits fit");
        self.watcher_count() < max || self.watcher_of(player).is_some()
    }

    /// The place of a player who watches.
    pub fn watcher_of(&self, player: PlayerId) -> Option<WatcherId> {
        self.gallery.as_ref()?.find(player)
    }

    /// What a spectator is told when it is let in.
    pub fn watch_welcome(&self) -> Welcome {
        Welcome {
            head: self.shown_head(),
            watch_delay: Some(self.rules.watch_delay),
            ..self.welcome()
        }
    }

    /// A session comes to watch, perhaps in the place of another one of the same player.
    /// `None` if it may not.
    pub fn enter_gallery(&mut self, player: PlayerId, from: WatchFrom) -> Option<WatcherId> {
        let seats = self.seats.len();
        let may = !self.is_over() && self.may_watch(player);
        may.then(|| {
            self.gallery
                .get_or_insert_with(|| Box::new(Gallery::new(seats)))
                .enter(player, from)
        })
    }

    /// A spectator's session is gone.
    pub fn leave_gallery(&mut self, id: WatcherId) {
        self.gallery_mut().leave(id);
        if self.watcher_count() == 0 {
            self.gallery = None;
        }
    }

    /// Lets a room that is over, and would be gone, stay a little longer for spectators who are
    /// still sent what was held back from them; false once that has lasted for too long.
    pub fn linger(&mut self, now: Time) -> bool {
        match &mut self.state {
            State::Over { since, gone_at, .. } if now.since(*since) < WATCHED_LINGER_MAX => {
                *gone_at = now + OVER_LINGER;
                true
            }
            _ => false,
        }
    }

    /// The frames before this one are shown to spectators: nobody is left to be helped once the
    /// match is over.
    fn shown_head(&self) -> FrameId {
        if self.is_over() {
            self.broadcast_head
        } else {
            self.broadcast_head.saturating_sub(self.rules.watch_delay)
        }
    }

    fn gallery(&self) -> &Gallery {
        let gallery = self.gallery.as_ref();
        gallery.expect("somebody watches, so there is a gallery")
    }

    fn gallery_mut(&mut self) -> &mut Gallery {
        let gallery = self.gallery.as_mut();
        gallery.expect("somebody watches, so there is a gallery")
    }

    // --- Seats and spectators alike -------------------------------------------------------

    fn state(&self, spot: Spot) -> &SeatState {
        match spot {
            Spot::Seat(seat) => &self.seats[seat.index()],
            Spot::Watcher(id) => &self.gallery().at(id).state,
        }
    }

    fn state_mut(&mut self, spot: Spot) -> &mut SeatState {
        match spot {
            Spot::Seat(seat) => &mut self.seats[seat.index()],
            Spot::Watcher(id) => &mut self.gallery_mut().at_mut(id).state,
        }
    }

    /// The frames before this one may be sent there.
    fn head_for(&self, spot: Spot) -> FrameId {
        match spot {
            Spot::Seat(_) => self.broadcast_head,
            Spot::Watcher(_) => self.shown_head(),
        }
    }

    /// Where the frames begin for a client that holds none.
    fn first_for(&self, spot: Spot) -> FrameId {
        match spot {
            Spot::Watcher(id) if self.gallery().at(id).from == WatchFrom::Newest => {
                self.shown_head()
            }
            Spot::Seat(_) | Spot::Watcher(_) => 0,
        }
    }

    // --- Messages -------------------------------------------------------------------------

    /// Carries out what the client at a spot has said. Connect, heartbeats and echoes are
    /// the session's and do not come here.
    ///
    /// # Errors
    /// Why the message meant nothing.
    pub fn handle_message(
        &mut self,
        now: Now,
        spot: Spot,
        message: &Uplink<'_>,
        out: &mut Outbox,
    ) -> Result<(), Drop> {
        match message {
            Uplink::JoinRoom => return self.join(now, spot, out),
            Uplink::Ready => return self.ready(now, spot, None, out),
            Uplink::Resume(held) => return self.ready(now, spot, self.agreed(held), out),
            _ => {}
        }
        let Spot::Seat(seat) = spot else {
            return Err(Drop::Watches);
        };
        match message {
            Uplink::Progress(percent) => self.progress(seat, *percent, out),
            Uplink::Input(command) => self.input(seat, *command, &[]),
            Uplink::Opaque(input) => self.input(seat, input.command, &input.data),
            Uplink::Fetch(fetch) => self.fetch(seat, *fetch, out),
            Uplink::Result { winner } => self.result(now, seat, *winner, out),
            _ => Err(Drop::OutOfPhase),
        }
    }

    fn input(&mut self, seat: Seat, command: Command, data: &[u8]) -> Result<(), Drop> {
        if !self.is_playing() || self.is_fed {
            return Err(Drop::OutOfPhase);
        }
        if u32::try_from(data.len()).is_ok_and(|len| len <= self.rules.input_bytes_max) {
            let player = self.seats[seat.index()].player;
            self.log.add_input(seat, player, command, data)
        } else {
            Err(Drop::InputTooLong)
        }
    }

    /// Frames are wanted that the seat may have had. What is left of a request before is
    /// forgotten. Of a range that does not exist there is one answer, which covers nothing and
    /// says how far the head is.
    fn fetch(&mut self, seat: Seat, fetch: Fetch, out: &mut Outbox) -> Result<(), Drop> {
        if self.started_unix.is_none() {
            return Err(Drop::OutOfPhase);
        }
        let cursor = self.log.cursor_at(fetch.from.min(self.broadcast_head));
        let end = fetch.end.unwrap_or(self.broadcast_head);
        self.seats[seat.index()].asked = Some(Asked {
            request: fetch.request,
            cursor,
            end: end.min(self.broadcast_head).max(cursor.frame),
        });
        out.push(Effect::Pump(seat));
        Ok(())
    }

    fn join(&mut self, now: Now, spot: Spot, out: &mut Outbox) -> Result<(), Drop> {
        if self.is_over() {
            return Err(Drop::OutOfPhase);
        }
        let is_other = |index: usize| spot != Spot::Seat(Seat::from_index(index));
        let others = self
            .seats
            .iter()
            .enumerate()
            .filter(|(index, _)| is_other(*index))
            .map(|(_, other)| (other.player, other.progress))
            .collect();
        let seat = match spot {
            Spot::Seat(seat) => seat.on_wire(),
            Spot::Watcher(_) => 0,
        };
        let seed = self.rules.seed;
        out.send(spot, &Downlink::JoinRoom { seat, others, seed });
        let state = self.state_mut(spot);
        state.knows_others = true;
        state.progress_owed.clear();
        self.joined(now, spot, out);
        Ok(())
    }

    /// The client is in the match: the first one at a seat starts the clock of the ready time-out.
    fn joined(&mut self, now: Now, spot: Spot, out: &mut Outbox) {
        let state = self.state_mut(spot);
        state.stage = state.stage.max(Stage::Joined);
        if matches!(spot, Spot::Watcher(_)) {
            return;
        }
        if let State::Waiting { ready_by } = &mut self.state {
            ready_by.get_or_insert(now.time + self.rules.ready_timeout);
            self.start_if_due(now, out);
        }
    }

    fn progress(&mut self, seat: Seat, percent: Percent, out: &mut Outbox) -> Result<(), Drop> {
        if !matches!(self.state, State::Waiting { .. }) {
            return Err(Drop::OutOfPhase);
        }
        self.seats[seat.index()].progress = percent;
        for (index, other) in self.seats.iter_mut().enumerate() {
            if index != seat.index() && other.knows_others {
                other.owe_progress(seat);
                out.push(Effect::Pump(Seat::from_index(index)));
            }
        }
        if let Some(gallery) = &mut self.gallery
            && gallery.owe_progress(seat, percent)
        {
            out.push(Effect::PumpGallery);
        }
        Ok(())
    }

    /// The frame up to which a client holds what the match is made of, if it does. One that was
    /// there before restarts of the server may hold frames that were lost at one of them.
    fn agreed(&self, held: &Held) -> Option<FrameId> {
        let since = self.forks.iter().position(|fork| fork.from == held.history);
        let kept = since.is_some_and(|since| {
            let mut later = self.forks[since..].iter();
            later.all(|fork| held.next <= fork.at)
        });
        let same = held.history == self.history || kept;
        (held.match_id == self.match_id() && same).then_some(held.next)
    }

    fn ready(
        &mut self,
        now: Now,
        spot: Spot,
        next: Option<FrameId>,
        out: &mut Outbox,
    ) -> Result<(), Drop> {
        match self.state {
            State::Waiting { .. } => {
                self.state_mut(spot).ready = true;
                out.send(spot, &Downlink::Ready);
                self.joined(now, spot, out);
                Ok(())
            }
            State::Playing { .. } => self.stream_again(now, spot, next, out),
            State::Over { .. } => Err(Drop::OutOfPhase),
        }
    }

    /// Ready in a running room: Start with the original stamp, then every frame from `next` on,
    /// if the client names one.
    fn stream_again(
        &mut self,
        now: Now,
        spot: Spot,
        next: Option<FrameId>,
        out: &mut Outbox,
    ) -> Result<(), Drop> {
        let state = self.state_mut(spot);
        if state
            .restreamed_at
            .is_some_and(|at| now.time.since(at) < RESTREAM_EVERY)
        {
            return Err(Drop::ReadyTooSoon);
        }
        state.restreamed_at = Some(now.time);
        state.ready = true;
        out.send(spot, &Downlink::Ready);
        self.stream_from(spot, next, out);
        if matches!(spot, Spot::Seat(_)) {
            self.wind_up(now, out);
        }
        Ok(())
    }

    /// Tells a client of the start, and owes it the frames from `next` on. One that claims more
    /// than there is, or to speak v1, gets what one gets that holds none: it must be of another
    /// history.
    fn stream_from(&mut self, spot: Spot, next: Option<FrameId>, out: &mut Outbox) {
        let unix_seconds = self.started_unix.expect("a match in play has started");
        let head = self.head_for(spot);
        let speaks_v2 = self.state(spot).version == Version::V2;
        let held = next.filter(|next| speaks_v2 && *next <= head);
        let next = held.unwrap_or_else(|| self.first_for(spot));
        let cursor = self.log.cursor_at(next);
        let state = self.state_mut(spot);
        state.stage = Stage::Streaming;
        state.cursor = cursor;
        let start = Downlink::Start {
            unix_seconds,
            follows: speaks_v2.then_some(Follows { next, head }),
        };
        // With the packet its client is asked what more it is owed.
        out.send(spot, &start);
    }

    fn result(&mut self, now: Now, seat: Seat, winner: u64, out: &mut Outbox) -> Result<(), Drop> {
        if matches!(self.state, State::Waiting { .. }) {
            return Err(Drop::OutOfPhase);
        }
        // When the room is over it can be the last of several that came together.
        let before = self.seats[seat.index()].result.replace(winner);
        self.changes = self.changes.wrapping_add(1);
        if before != Some(winner) {
            out.push(Effect::Result(seat, winner));
        }
        out.send(seat, &Downlink::Result);
        self.end_if_all_results_are_in(now, out);
        Ok(())
    }

    // --- The match ------------------------------------------------------------------------

    /// Carries out what is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        match self.state {
            State::Waiting { .. } if self.ends_at <= now.time => {
                self.end(now, OverReason::RoomTimeout, out);
            }
            State::Waiting { .. } => self.start_if_due(now, out),
            State::Playing {
                clock,
                abandoned_at,
            } => {
                if let Some(clock) = clock {
                    self.seal_due_frames(now, clock, out);
                }
                if !self.is_playing() {
                    return;
                }
                if self.ends_at <= now.time {
                    self.end(now, OverReason::RoomTimeout, out);
                } else if abandoned_at.is_some_and(|at| at <= now.time) {
                    self.end(now, OverReason::Abandoned, out);
                }
            }
            State::Over { .. } => {}
        }
    }

    fn start_if_due(&mut self, now: Now, out: &mut Outbox) {
        let State::Waiting { ready_by } = self.state else {
            return;
        };
        let late = ready_by.is_some_and(|by| by <= now.time) && self.anyone_online();
        let mut seats = self.seats.iter();
        let ready = if self.is_fed {
            seats.any(|seat| seat.ready)
        } else {
            seats.all(|seat| seat.ready)
        };
        if late || ready {
            self.start(now, out);
        }
    }

    fn start(&mut self, now: Now, out: &mut Outbox) {
        self.started_unix = Some(now.unix_seconds);
        self.state = State::Playing {
            clock: (!self.is_fed).then(|| self.clock_from(now)),
            abandoned_at: None,
        };
        out.push(Effect::Started);
        for index in 0..self.seats.len() {
            let seat = &mut self.seats[index];
            // Where somebody may come at any time, who is not ready is told when it is.
            let waits = self.is_fed && !seat.ready;
            seat.ready = true;
            seat.progress = Percent::FULL;
            // What was owed of the others' loading means nothing any more.
            seat.progress_owed.clear();
            if seat.stage >= Stage::Joined && !waits {
                self.stream_from(Seat::from_index(index).into(), None, out);
            }
        }
        let watchers = self.gallery.as_ref().map(|gallery| gallery.ids());
        for id in watchers.unwrap_or_default() {
            let spot = Spot::Watcher(id);
            let state = self.state_mut(spot);
            state.progress_owed.clear();
            // Its Ready may be on its way: it is told once, and nobody waits for it.
            if state.ready {
                self.stream_from(spot, None, out);
            }
        }
    }

    /// A clock that seals the open frame one frame from now.
    fn clock_from(&self, now: Now) -> FrameClock {
        FrameClock {
            epoch: now.time,
            first: self.log.head(),
            hz: self.rules.hz,
        }
    }

    /// Lets the clock of a match go that rests.
    fn wind_up(&mut self, now: Now, out: &mut Outbox) {
        let wound = self.clock_from(now);
        if let State::Playing { clock, .. } = &mut self.state
            && clock.is_none()
            && !self.is_fed
        {
            *clock = Some(wound);
            out.push(Effect::WoundUp);
        }
    }

    fn seal_due_frames(&mut self, now: Now, mut clock: FrameClock, out: &mut Outbox) {
        let lateness = now.time.since(clock.deadline(self.log.head()));
        if lateness > LATE_MAX {
            clock = self.clock_from(now);
            if let State::Playing { clock: own, .. } = &mut self.state {
                *own = Some(clock);
            }
            out.push(Effect::EpochRenewed(lateness));
        }
        let mut news = false;
        while clock.deadline(self.log.head()) <= now.time {
            let deadline = clock.deadline(self.log.head());
            let inputs = self.log.seal();
            out.push(Effect::Sealed(now.time.since(deadline)));
            if inputs > 0 {
                out.push(Effect::Inputs(inputs));
            }
            let quiet_for = self.log.head() - self.broadcast_head;
            if inputs > 0 || quiet_for >= self.rules.broadcast_every {
                self.broadcast_head = self.log.head();
                news = true;
            }
            if self.log.head() >= self.rules.max_frames {
                return self.end(now, OverReason::MaxFrames, out);
            }
        }
        if news {
            self.pump_streams(out);
        }
    }

    /// Lets the frames come from [`Room::feed`] alone, neither from players nor from the clock: a
    /// match is shown again. It starts with the first Ready, whoever else is missing.
    pub fn expect_feed(&mut self) {
        debug_assert!(matches!(self.state, State::Waiting { .. }), "it plays");
        self.is_fed = true;
    }

    /// Seals this frame, or an empty one, in a match whose frames come from here. Nothing happens
    /// in any other, or before its start.
    ///
    /// # Panics
    /// If the frame is not the next one.
    pub fn feed(&mut self, now: Now, frame: Option<FrameBytes<'_>>, out: &mut Outbox) {
        if !self.is_playing() || !self.is_fed {
            return;
        }
        self.log.seal_given(frame);
        out.push(Effect::Sealed(Duration::ZERO));
        let quiet_for = self.log.head() - self.broadcast_head;
        if frame.is_some() || quiet_for >= self.rules.broadcast_every {
            self.broadcast_head = self.log.head();
            self.pump_streams(out);
        }
        if self.log.head() >= self.rules.max_frames {
            self.end(now, OverReason::MaxFrames, out);
        }
    }

    fn pump_streams(&self, out: &mut Outbox) {
        for (index, seat) in self.seats.iter().enumerate() {
            if seat.stage == Stage::Streaming {
                out.push(Effect::Pump(Seat::from_index(index)));
            }
        }
        // Behind the seats, so that players come first.
        if self.gallery.is_some() && self.shown_head() > 0 {
            out.push(Effect::PumpGallery);
        }
    }

    fn end_if_all_results_are_in(&mut self, now: Now, out: &mut Outbox) {
        let mut online = self.seats.iter().filter(|seat| seat.online).peekable();
        let all_in = online.peek().is_some() && online.all(|seat| seat.result.is_some());
        if self.is_playing() && all_in {
            self.end(now, OverReason::Results, out);
        }
    }

    /// Ends the match: everybody gets what frames are left, as far as their links take
    /// them, and Close. Does nothing if it is over already.
    pub fn end(&mut self, now: Now, reason: OverReason, out: &mut Outbox) {
        if self.is_over() {
            return;
        }
        self.state = State::Over {
            reason,
            since: now.time,
            gone_at: now.time + OVER_LINGER,
        };
        self.broadcast_head = self.log.head();
        for (index, seat) in self.seats.iter_mut().enumerate() {
            seat.progress_owed.clear();
            if seat.is_held() {
                seat.close_owed = true;
                out.push(Effect::Pump(Seat::from_index(index)));
            }
        }
        if let Some(gallery) = &mut self.gallery {
            gallery.close();
            out.push(Effect::PumpGallery);
        }
        out.push(Effect::Over(reason));
    }

    // --- The pump -------------------------------------------------------------------------

    /// Whether [`Room::next_packet`], [`Room::take_close`] or [`Room::next_fetched`] has something for
    /// the client there.
    pub fn owes(&self, spot: Spot) -> bool {
        let state = self.state(spot);
        self.owes_news(spot) || state.close_owed || state.asked.is_some()
    }

    /// Whether [`Room::next_packet`] has something for the client there.
    fn owes_news(&self, spot: Spot) -> bool {
        self.owes_frames(spot) || !self.state(spot).progress_owed.is_empty()
    }

    fn owes_frames(&self, spot: Spot) -> bool {
        let state = self.state(spot);
        state.stage == Stage::Streaming && state.cursor.frame < self.head_for(spot)
    }

    /// When the open frame is sealed; `None` unless the match is played.
    pub fn next_tick(&self) -> Option<Time> {
        match &self.state {
            State::Playing { clock, .. } => clock.map(|clock| clock.deadline(self.log.head())),
            State::Waiting { .. } | State::Over { .. } => None,
        }
    }

    /// When the next frame leaves for the client there, if it is certain: the open one holds
    /// inputs, and shows a frame of before to who watches.
    pub fn next_broadcast(&self, spot: Spot) -> Option<Time> {
        let streams = self.state(spot).stage == Stage::Streaming;
        let shows = match spot {
            Spot::Seat(_) => true,
            Spot::Watcher(_) => self.log.head() >= self.rules.watch_delay,
        };
        let leaves = streams && shows && self.log.has_input();
        self.next_tick().filter(|_| leaves)
    }

    /// Passes the next packet that the client there is owed to `send`; false if there is none.
    pub fn next_packet(&mut self, spot: Spot, send: impl FnOnce(&[u8])) -> bool {
        let owed = &mut self.state_mut(spot).progress_owed;
        if !owed.is_empty() {
            let other = owed.remove(0);
            let other = &self.seats[other.index()];
            let message = Downlink::Progress {
                player: other.player,
                percent: other.progress,
            };
            let mut packet = Vec::new();
            message.encode(&mut packet);
            send(&packet);
            return true;
        }
        if !self.owes_frames(spot) {
            return false;
        }
        let head = self.head_for(spot);
        match spot {
            Spot::Seat(seat) => {
                let cursor = &mut self.seats[seat.index()].cursor;
                send(self.broadcast.packet(&self.log, cursor, head));
            }
            Spot::Watcher(id) => {
                let gallery = self.gallery.as_mut().expect("somebody watches");
                send(gallery.packet(&self.log, id, head));
            }
        }
        true
    }

    /// Whether frames that the seat has asked for may go out: everything else comes before them.
    pub fn may_send_fetched(&self, spot: Spot) -> bool {
        self.state(spot).asked.is_some() && !self.owes_news(spot)
    }

    /// Passes the next packet of frames that the seat has asked for to `send`; false if there is
    /// none.
    pub fn next_fetched(&mut self, spot: Spot, send: impl FnOnce(&[u8])) -> bool {
        let Spot::Seat(seat) = spot else {
            return false;
        };
        let asked = &mut self.seats[seat.index()].asked;
        let Some(Asked {
            request,
            cursor,
            end,
        }) = asked
        else {
            return false;
        };
        let from = cursor.frame;
        let mut frames = &[][..];
        if from < *end {
            frames = self.log.read_batch(cursor, *end, broadcast::FETCHED_MAX);
        }
        let covers = Fetched {
            request: *request,
            from,
            until: cursor.frame,
            end: *end,
            head: self.broadcast_head,
        };
        if covers.until == covers.end {
            *asked = None;
        }
        let mut packet = Vec::new();
        Downlink::Fetched(covers, frames).encode(&mut packet);
        send(&packet);
        true
    }

    /// Whether the client there is to be told now that the room is over; true once. No frame
    /// follows. A spectator has been shown all frames by then: what was held back from it is
    /// more than what a link takes at once.
    pub fn take_close(&mut self, spot: Spot) -> bool {
        if matches!(spot, Spot::Watcher(_)) && self.owes_frames(spot) {
            return false;
        }
        let state = self.state_mut(spot);
        let close = std::mem::take(&mut state.close_owed);
        if close {
            state.stage = Stage::Connected;
        }
        close
    }

    /// Holds the room against what must always be true of it.
    ///
    /// # Panics
    /// If it is not.
    pub fn check_invariants(&self) {
        assert!(self.broadcast_head <= self.log.head());
        for seat in &self.seats {
            assert!(
                seat.cursor.frame <= self.broadcast_head,
                "a seat is ahead of the frames"
            );
            assert!(seat.is_held() || !seat.online, "an empty seat is online");
            assert!(seat.is_held() || !seat.close_owed && seat.progress_owed.is_empty());
            assert!(
                seat.asked
                    .is_none_or(|asked| asked.end <= self.broadcast_head),
                "frames are promised that nobody has seen"
            );
            assert!(seat.is_held() || seat.asked.is_none());
            let streams = seat.stage == Stage::Streaming;
            assert!(
                !streams || self.started_unix.is_some(),
                "frames before the start"
            );
        }
        for (spot, state) in self.gallery.iter().flat_map(|gallery| gallery.iter()) {
            let ahead = state.cursor.frame > self.head_for(spot);
            assert!(!ahead, "a spectator is ahead of what is shown");
            let streams = state.stage == Stage::Streaming;
            assert!(!streams || self.started_unix.is_some());
        }
        assert_ne!(self.gallery.as_ref().map(|gallery| gallery.len()), Some(0));
        match &self.state {
            State::Waiting { .. } => assert!(self.log.head() == 0 && self.started_unix.is_none()),
            State::Playing { abandoned_at, .. } => {
                assert!(self.log.head() < self.rules.max_frames);
                assert_eq!(abandoned_at.is_some(), !self.anyone_online(), "grace");
            }
            State::Over { .. } => {}
        }
    }
}
