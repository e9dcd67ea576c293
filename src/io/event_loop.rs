//! The event loop: the one thread that owns the UDP socket and the engine.
//!
//! Each turn reads the clock once, takes in a bounded number of datagrams, carries out what is
//! due and a bounded number of commands, and sends what has come of it, once that is in the journal if
//! there is one. Whatever is left waits for the next turn, which then follows without a pause.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Events, Poll, Token, Waker};

use crate::cluster::node::Address;
use crate::engine::config::{Config, Secrets};
use crate::engine::event::Event;
use crate::engine::id::RoomId;
use crate::engine::server::Server;
use crate::engine::time::Time;
use crate::engine::view::CreateError;
use crate::io::control::{self, Control, Handle, Mailbox, Reply};
use crate::io::feed::{Feed, Feeds};
use crate::io::journal::{self, Journal};
use crate::io::metrics::{Busy, Health, JournalStats, Load, ShellCounters, Stats};
use crate::io::recorder::{Outgoing, Recorder};
use crate::io::recordings::Recordings;
use crate::io::signals::{Asked, Signals};
use crate::io::system;
use crate::io::udp::Udp;
use crate::journal::restore::Restored;
use crate::limits::{
    COMMANDS_PER_TURN_MAX, CROWD, DATAGRAMS_PER_TURN_MAX, SHUTDOWN_FLUSH, TURN_EVERY,
    TURN_EVERY_MIN, WALL_EVERY,
};

const UDP: Token = Token(0);
const SIGNALS: Token = Token(1);
const WAKER: Token = Token(2);

/// The loop, ready to run.
#[derive(Debug)]
pub struct EventLoop {
    poll: Poll,
    udp: Udp,
    signals: Signals,
    mailbox: Mailbox,
    server: Server,
    clock: Clock,
    /// Datagrams may wait: the socket was not read to its end.
    udp_ready: bool,
    /// Commands may wait.
    mail_ready: bool,
    /// For how long a server that a signal asks to stop drains first.
    drain_for: Duration,
    /// No new rooms are taken, and the loop ends with the last one.
    draining: bool,
    /// When to stop although there are rooms.
    drain_until: Option<Time>,
    /// When to give up on the last messages, once the server stops.
    stop_at: Option<Time>,
    /// When the last turn was.
    turned_at: Time,
    health: Health,
    busy: Busy,
    /// Those who follow what happens to rooms.
    feeds: Feeds,
    /// The most sessions there were since memory was given back.
    sessions_peak: usize,
    counters: ShellCounters,
    /// What leaves at the end of the turn.
    outgoing: Outgoing,
    /// The journal, if there is one.
    recorder: Option<Recorder>,
    /// Who is asked where rooms are that are not here.
    asker: Option<Asker>,
    waker: Arc<Waker>,
}

/// Takes a question where a room is.
struct Asker(Box<dyn FnMut(RoomId) + Send>);

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asker(..)")
    }
}

/// The engine's time and the wall's.
#[derive(Debug)]
struct Clock {
    origin: Instant,
    /// What the wall showed at the origin, as it is set now, in Unix microseconds.
    wall_us: i64,
    /// When the engine is next told what the wall shows.
    wall_due: Time,
}

impl Clock {
    fn now(&self) -> Time {
        Time::since_origin(self.origin.elapsed())
    }

    /// What the wall shows, in Unix milliseconds.
    fn unix_ms(&self, now: Time) -> i64 {
        let us = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        self.wall_us.saturating_add(us).div_euclid(1000)
    }
}

/// Whole milliseconds, as polling takes them: what is left would be rounded up.
fn floor_ms(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// What the wall shows, in Unix microseconds.
fn wall_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// What wakes the loop from another thread.
fn waking(waker: &Arc<Waker>) -> impl Fn() + Send + Sync + 'static {
    let waker = Arc::clone(waker);
    // If the loop is gone the asker finds out by itself.
    move || drop(waker.wake())
}

impl EventLoop {
    /// A loop around `udp`, and the handle through which side threads reach it.
    ///
    /// # Errors
    /// What the system says when it is asked for a poll.
    pub fn new(
        mut udp: Udp,
        mut signals: Signals,
        config: Config,
        secrets: Secrets,
    ) -> io::Result<(EventLoop, Handle)> {
        let poll = Poll::new()?;
        udp.register(poll.registry(), UDP)?;
        signals.register(poll.registry(), SIGNALS)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (handle, mailbox) = control::channel(waking(&waker));
        let wall_us = wall_us();
        let mut server = Server::new(config, secrets, wall_us);
        server.contain_panics();
        let event_loop = EventLoop {
            poll,
            udp,
            signals,
            mailbox,
            server,
            clock: Clock {
                origin: Instant::now(),
                wall_us,
                wall_due: Time::ZERO,
            },
            udp_ready: true,
            mail_ready: true,
            drain_for: Duration::ZERO,
            draining: false,
            drain_until: None,
            stop_at: None,
            turned_at: Time::ZERO,
            health: Health::default(),
            busy: Busy::default(),
            feeds: Feeds::default(),
            sessions_peak: 0,
            counters: ShellCounters::default(),
            outgoing: Outgoing::default(),
            recorder: None,
            asker: None,
            waker,
        };
        Ok((event_loop, handle))
    }

    /// Lets a server that a signal asks to stop drain for so long first; not at all if that is zero.
    pub fn drain_for(&mut self, patience: Duration) {
        self.drain_for = patience;
    }

    /// Tells `feed` what happens to rooms, at the end of the turn in which it does, on the thread of the
    /// loop. To be called before [`EventLoop::run`], whose first turn tells of the rooms that the journal
    /// has brought back. Of one turn no more than the newest [`EVENTS_WAITING_MAX`](crate::limits::EVENTS_WAITING_MAX) events of the engine
    /// are told: where a start brings back more rooms, [`Control::RoomIds`] shows all of them.
    pub fn add_feed(&mut self, feed: Feed) {
        self.feeds.add(feed);
    }

    /// Opens the journal, and brings back the rooms whose matches it holds. To be called before
    /// [`EventLoop::run`]. Reads what may be of matches that go on: about a second for 1,000 of 5,000
    /// frames. Returns
    /// the matches that have ended, which those that end from now on join.
    ///
    /// # Errors
    /// [`journal::OpenError`]. Damage is none: it is logged.
    pub fn open_journal(
        &mut self,
        options: journal::Options,
    ) -> Result<Arc<Recordings>, journal::OpenError> {
        let journal_dir = options.dir.clone();
        let recordings = Arc::new(Recordings::new(&journal_dir));
        let dir = options.dir.display().to_string();
        let waits_for_disk = options.fsync == journal::Fsync::Always;
        log::info!("reading the journal in {dir}");
        let (journal, restored) = Journal::open(options, waking(&self.waker))?;
        self.server.begin_records(journal.salt());
        let catching_up = recordings.catch_up(journal.segment());
        catching_up.map_err(|source| journal::OpenError::Io {
            path: journal_dir,
            source,
        })?;
        let recorder = Recorder::new(journal, Arc::clone(&recordings), waits_for_disk);
        self.recorder = Some(recorder);
        self.restore(restored);
        let counters = self.server.counters();
        log::info!(
            "journal in {dir}: {} matches go on",
            counters.rooms_restored
        );
        Ok(recordings)
    }

    /// Brings rooms back, the newest first: of two matches of one room, the older one was over.
    fn restore(&mut self, restored: Restored) {
        for damage in &restored.damage {
            log::warn!("journal: {damage}");
        }
        let untold = restored.damage_count - restored.damage.len() as u64;
        if untold > 0 {
            log::warn!("journal: and {untold} more places of damage");
        }
        if restored.torn_bytes > 0 {
            log::warn!(
                "journal: the last {} bytes, behind {}, were being written when the server ended; \
                 they were cut off",
                restored.torn_bytes,
                restored.end
            );
        }
        for lost in &restored.lost {
            let room = lost.created.as_ref().map(|created| created.room);
            let room = room.map_or(String::from("a room"), |room| format!("room {room}"));
            let (id, lack) = (lost.match_id, &lost.lack);
            log::error!("{room}: match {id} is not restored: {lack}");
        }
        let now = self.clock.now();
        let mut rooms = restored.rooms;
        rooms.sort_by_key(|room| std::cmp::Reverse(room.created.created_unix_us));
        for room in rooms {
            let (id, match_id) = (room.created.room, room.match_id);
            if let Some(cut) = room.cut {
                log::warn!(
                    "room {id}: match {match_id} goes on from before what was lost at {cut}"
                );
            }
            if let Err(error) = self.server.restore_room(now, room) {
                log::error!("room {id}: match {match_id} is not restored: {error}");
            }
        }
    }

    /// Has `ask` asked where a room is that is not here and to which a client of version 2 connects. It
    /// must not block: the loop calls it, some hundred times a second at the most. The answer comes by
    /// [`Handle::located`]; for one that has not come after a second nobody waits any more. To be
    /// called before [`EventLoop::run`].
    pub fn ask_elsewhere(&mut self, ask: Box<dyn FnMut(RoomId) + Send>) {
        self.server.ask_elsewhere();
        self.asker = Some(Asker(ask));
    }

    /// Runs until the process is asked to stop and everybody has been told, or for
    /// [`SHUTDOWN_FLUSH`] after that; and if it drains, until the last room is gone.
    ///
    /// # Errors
    /// If polling fails: nothing can go on then.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(16);
        loop {
            self.wait(&mut events)?;
            let now = self.clock.now();
            self.turn(now);
            if self.is_to_stop(now) {
                if self.recorder.is_some() {
                    self.leave_to_the_journal(now);
                    return Ok(());
                }
                self.stop(now);
            }
            if self
                .stop_at
                .is_some_and(|at| at <= now || !self.server.has_outstanding())
            {
                log::info!("stopped");
                return Ok(());
            }
            self.busy.note(now, self.clock.now());
        }
    }

    /// Whether the server is to begin to stop now. The room of a match that is over stays until all of
    /// it is told, or until nobody can be told any more, and a server that drains stays for as long.
    fn is_to_stop(&mut self, now: Time) -> bool {
        let asked = self.signals.asked(!self.drain_for.is_zero());
        if self.stop_at.is_some() {
            return false;
        }
        if asked == Asked::Drain && self.drain_until.is_none() {
            self.drain_until = Some(now + self.drain_for);
            self.drain();
        }
        let is_drained = self.draining && self.server.room_count() == 0;
        if is_drained {
            log::info!("drained: there are no rooms any more");
        }
        let is_late = self.drain_until.is_some_and(|at| at <= now);
        if is_late && !is_drained {
            let seconds = self.drain_for.as_secs();
            log::warn!("not drained within {seconds} s (--drain)");
        }
        asked == Asked::Stop || is_drained || is_late
    }

    /// Takes no new rooms from now on; the loop ends with the last one.
    fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            let rooms = self.server.open_rooms();
            log::info!("draining: no new rooms, and {rooms} matches go on to their end");
        }
    }

    fn stop(&mut self, now: Time) {
        log::info!("stopping: closing {} rooms", self.server.room_count());
        self.stop_at = Some(now + SHUTDOWN_FLUSH);
        self.drain_until = None;
        self.server.stop(now);
        self.send(now);
        self.tell(now);
    }

    /// Stops without a word to anybody: the matches go on after the next start.
    fn leave_to_the_journal(&mut self, now: Time) {
        self.send(now);
        self.tell(now);
        let rooms = self.server.room_count();
        log::info!("stopping: {rooms} rooms stay in the journal");
        if let Some(mut recorder) = self.recorder.take() {
            recorder.write_rest(now, &mut self.server);
            let (held, is_whole) = recorder.finish();
            for outgoing in held {
                self.outgoing = outgoing;
                self.let_go();
            }
            if !is_whole {
                log::error!("the journal could not be written to the end; what it misses is lost");
            }
        }
        log::info!("stopped");
    }

    /// Sleeps until something happens or is due, not at all if something was left over.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let due = self
            .server
            .poll_timeout()
            .into_iter()
            .chain(self.stop_at)
            .chain(self.drain_until)
            .min();
        let left_over = self.udp_ready || self.mail_ready || self.is_recorder_busy();
        let timeout = if left_over {
            Some(Duration::ZERO)
        } else {
            // What was due already is left over from the turn, which is bounded.
            if due.is_none_or(|due| due > self.turned_at) {
                self.rest(due);
            }
            let due = due.map(|due| floor_ms(due.since(self.clock.now())));
            let patience = self.recorder.as_ref().and_then(Recorder::patience);
            let patience = patience.into_iter().chain(self.signals.patience());
            due.into_iter().chain(patience).min()
        };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        if events.is_empty() && !left_over {
            // What is due comes in less than the millisecond that polling knows.
            let left = due.map_or(Duration::ZERO, |due| due.since(self.clock.now()));
            std::thread::sleep(left.min(Duration::from_millis(1)));
        }
        for event in events.iter() {
            match event.token() {
                UDP => self.udp_ready = true,
                WAKER => self.mail_ready = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets gather what comes soon after a turn, and sleeps on to what is due soon after that:
    /// polling takes whole milliseconds.
    fn rest(&self, due: Option<Time>) {
        let rested = self.turned_at + TURN_EVERY_MIN;
        let latest = self.turned_at + TURN_EVERY;
        let until = due.map_or(latest, |due| due.max(rested).min(latest));
        std::thread::sleep(until.since(self.clock.now()));
    }

    fn is_recorder_busy(&self) -> bool {
        self.recorder.as_ref().is_some_and(Recorder::is_busy)
    }

    fn turn(&mut self, now: Time) {
        self.counters.turns += 1;
        self.turned_at = now;
        while let Some(outgoing) = self.recorder.as_mut().and_then(Recorder::release) {
            self.outgoing = outgoing;
            self.let_go();
        }
        if self.clock.wall_due <= now {
            self.clock.wall_due = now + WALL_EVERY;
            let wall_us = wall_us();
            self.server.set_wall(now, wall_us);
            let since_origin = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
            self.clock.wall_us = wall_us.saturating_sub(since_origin);
        }
        if self.udp_ready {
            self.receive(now);
        }
        if let Some(due) = self.server.poll_timeout().filter(|due| *due <= now) {
            let lateness = now.since(due);
            let us = u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX);
            self.counters.loop_lateness_us.saturating_record(us);
            self.health.note(now, lateness);
            self.server.handle_timeout(now);
        }
        if self.mail_ready {
            self.obey(now);
        }
        self.send(now);
        self.tell(now);
        self.ask();
        self.give_back_memory();
    }

    /// Hands on the engine's questions.
    fn ask(&mut self) {
        let Some(Asker(ask)) = &mut self.asker else {
            return;
        };
        while let Some(room) = self.server.poll_question() {
            ask(room);
        }
    }

    /// Gives memory back to the system once most sessions of a crowd, or a flood, are gone.
    fn give_back_memory(&mut self) {
        let sessions = self.server.session_count();
        self.sessions_peak = self.sessions_peak.max(sessions);
        if self.sessions_peak >= CROWD && sessions < self.sessions_peak / 4 {
            self.sessions_peak = sessions;
            self.server.shrink();
            system::give_back_memory();
        }
    }

    fn receive(&mut self, now: Time) {
        let mut left = DATAGRAMS_PER_TURN_MAX;
        while left > 0 {
            match self.udp.receive() {
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.udp_ready = false;
                    return;
                }
                // Some systems report here that an earlier datagram found nobody.
                Err(_) => {
                    self.counters.receive_errors += 1;
                    left -= 1;
                    continue;
                }
            }
            self.server.foresee(self.udp.senders());
            for (from, datagram) in self.udp.received() {
                self.server.handle_datagram(now, from, datagram);
            }
        }
    }

    fn obey(&mut self, now: Time) {
        for _ in 0..COMMANDS_PER_TURN_MAX {
            let Some(control) = self.mailbox.take() else {
                self.mail_ready = false;
                return;
            };
            self.counters.commands += 1;
            match control {
                Control::Create(_, answer) if self.draining => {
                    answer.give(Err(CreateError::Draining));
                }
                Control::Create(_, answer) if self.health.refuses_rooms(now) => {
                    answer.give(Err(CreateError::Late));
                }
                Control::Create(spec, answer) => {
                    let created = self.server.create_room(now, spec);
                    self.outgoing.replies.push(Reply::Created(answer, created));
                }
                Control::Close(room, answer) => {
                    let closed = self.server.close_room(now, room);
                    self.outgoing.replies.push(Reply::Closed(answer, closed));
                }
                Control::Room(room, answer) => answer.give(self.server.room(room)),
                Control::Match(id, answer) => answer.give(self.server.match_(id)),
                Control::Rooms {
                    from,
                    limit,
                    answer,
                } => {
                    answer.give(self.server.rooms(from, limit));
                }
                Control::Stats(answer) => answer.give(Box::new(self.stats(now))),
                Control::Load(answer) => answer.give(self.load_at(now)),
                Control::Drain(answer) => {
                    self.drain();
                    answer.give(self.load_at(now));
                }
                Control::RoomIds(answer) => answer.give(self.server.room_ids()),
                Control::Located(room, address) => {
                    let address = address.as_deref().and_then(Address::new);
                    self.server.handle_located(now, room, address.as_ref());
                }
            }
        }
    }

    /// How much there is to do.
    pub fn load(&self) -> Load {
        self.load_at(self.clock.now())
    }

    fn load_at(&self, now: Time) -> Load {
        let counters = self.server.counters();
        let config = self.server.config();
        Load {
            rooms: self.server.open_rooms(),
            rooms_max: config.max_rooms,
            players: self.server.players(),
            sessions_max: config.max_sessions,
            permille: self.busy.permille(now),
            serial: counters.rooms_created,
            draining: self.draining,
        }
    }

    fn stats(&self, now: Time) -> Stats {
        let stopping = self.stop_at.map(|_| "the server stops".to_owned());
        let journal = self.recorder.as_ref().map(JournalStats::of);
        let trouble = journal.as_ref().and_then(JournalStats::degraded);
        Stats {
            uptime: now.since(Time::ZERO),
            degraded: stopping.or(trouble).or_else(|| self.health.degraded(now)),
            draining: self.draining,
            load: self.busy.permille(now),
            engine: self.server.counters(),
            shell: self.counters.clone(),
            journal,
        }
    }

    fn send(&mut self, now: Time) {
        // Whoever learns from an answer that a room is over, and creates it anew, finds that those who
        // follow what happens know it, too.
        self.tell(now);
        self.server.poll_transmit(now, &mut self.outgoing.datagrams);
        if let Some(recorder) = &mut self.recorder {
            recorder.record(now, &mut self.server);
            recorder.hold_back(&mut self.outgoing);
        }
        self.let_go();
    }

    /// Lets go what may leave.
    fn let_go(&mut self) {
        self.counters.sends_refused += self.udp.send(&self.outgoing.datagrams);
        self.outgoing.datagrams.clear();
        for reply in self.outgoing.replies.drain(..) {
            reply.give();
        }
    }

    /// Tells what the engine has told.
    fn tell(&mut self, now: Time) {
        let unix_ms = self.clock.unix_ms(now);
        while let Some(event) = self.server.poll_event() {
            self.feeds.give(&event, unix_ms);
            log_event(event);
        }
    }
}

/// Turns an event of the engine into a log line: one for a match, none for a packet.
fn log_event(event: Event) {
    match event {
        Event::RoomCreated {
            room,
            match_id,
            players,
        } => {
            log::info!("room {room}: created for {players} players, match {match_id}");
        }
        Event::MatchStarted { room, match_id, .. } => {
            log::info!("room {room}: match {match_id} started");
        }
        Event::MatchRestored {
            room,
            match_id,
            frames,
        } => log::info!("room {room}: match {match_id} restored with {frames} frames"),
        Event::MatchResumed { room, match_id, .. } => {
            log::info!("room {room}: match {match_id} goes on");
        }
        Event::MatchOver {
            room,
            match_id,
            reason,
            frames,
        } => log::info!(
            "room {room}: match {match_id} over after {frames} frames: {}",
            reason.name()
        ),
        Event::EpochRenewed { room, lateness, .. } => log::warn!(
            "room {room}: {} ms late, its clock begins anew",
            lateness.as_millis()
        ),
        Event::RoomFailed {
            room,
            match_id,
            text,
        } => log::error!(
            "room {room}: match {match_id} closed after a bug in this server: {text}; \
                     please report it"
        ),
        Event::SessionFailed { addr, text } => log::error!(
            "{addr}: session ended after a bug in this server: {text}; please report it"
        ),
        Event::Refused {
            addr,
            player,
            room,
            code,
            ticket,
            elsewhere,
        } => {
            let why = ticket.map_or(String::new(), |fault| format!(" ({fault})"));
            let at = elsewhere.map_or(String::new(), |at| format!(", sent on to {at}"));
            log::debug!("{addr}: player {player} refused in room {room}: {code:?}{why}{at}");
        }
        Event::WatcherCame { addr, player, room } => {
            log::debug!("{addr}: player {player} watches room {room}");
        }
        Event::WatcherLeft { addr, room, reason } => {
            log::debug!("{addr}: watches room {room} no more: {}", reason.name());
        }
        Event::ResultGiven {
            room,
            player,
            winner,
            ..
        } => log::debug!("room {room}: player {player} says that {winner} has won"),
        Event::SeatTaken {
            addr, player, room, ..
        } => {
            log::debug!("{addr}: player {player} takes a seat in room {room}");
        }
        Event::SessionMoved {
            from,
            to,
            player,
            room,
        } => log::debug!("{from}: player {player} of room {room} goes on at {to}"),
        Event::SeatLeft {
            addr,
            player,
            room,
            reason,
            ..
        } => log::debug!(
            "{addr}: player {player} leaves the seat in room {room}: {}",
            reason.name()
        ),
    }
}
