//! Crashes and restarts of the server, and what the loop does with the journal.
//!
//! Some worlds have a journal. Their server records each turn behind `poll_transmit` and before
//! anything leaves, as [`crate::io::recorder`] does; the files are [`super::disk`]'s. A server
//! ends in one of three ways: it is killed, and what it wrote is there; the power goes, and only
//! what was synced is there for sure; or it is stopped, and everything is there. It ends at any
//! place of a turn, or between two. Its sessions are gone with it, and their players find out.
//!
//! All of it is drawn from a stream of its own, so that worlds without a journal stay as they are.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::chronicle::Chronicle;
use super::disk::{Cut, Disk, Lost, Missing, Mode};
use super::fault::Fault;
use super::oracle::{Conn, End, Violation};
use super::rng::Rng;
use super::script::Act;
use super::world::{Command, Health, World};
use crate::client::ClientState;
use crate::engine::config::{Config, Secrets};
use crate::engine::counters::Counters;
use crate::engine::id::MatchId;
use crate::engine::server::Server;
use crate::engine::time::Time;
use crate::engine::transmit::Transmits;
use crate::limits::JOURNAL_TIDY_EVERY;

/// Worlds of a thousand that have a journal.
const WITH_JOURNAL: u64 = 600;
/// Time for which a server that is to end in a write waits for one, or for a new segment.
const WAITS_MAX: Duration = Duration::from_secs(5);

/// What leaves together.
type Datagrams = Vec<(SocketAddr, Vec<u8>)>;

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    Killed,
    Power,
    Stopped,
}

/// Where in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Where {
    /// Between two.
    Idle,
    /// In the write of its records.
    InWrite,
    /// Behind that, and nothing of the turn was sent.
    BeforeSend,
    /// A part of it was sent.
    InSend,
    AfterSend,
    /// The same, when a segment is not synced yet and the next one is written.
    Rotated,
}

/// Whether the journal takes what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    CatchingUp,
    Down,
}

/// Whether anything was sent that a power cut may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsafe {
    No,
    /// Until this batch is synced.
    Until(u64),
    Yes,
}

/// The journal of a world, and the loop's hand on it.
#[derive(Debug)]
struct Journal {
    disk: Disk,
    state: State,
    appended: u64,
    /// What waits, and for which batch.
    held: VecDeque<(u64, Datagrams)>,
    tidy_at: Time,
    /// Most bytes of a batch while it is caught up with.
    piece: usize,
    /// The last turn left nothing unwritten.
    is_drained: bool,
    /// Something was sent that a kill may take.
    unwritten: bool,
    unsynced: Unsafe,
}

/// What has happened to the servers of a world.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crashes {
    /// Restarts.
    pub restarts: u64,
    /// Bytes that power cuts took.
    pub lost_bytes: u64,
    /// Restored rooms whose frames were others than somebody may have been sent.
    pub forks: u64,
    /// Conversations that had a seat of two servers.
    pub mixed: u64,
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Lives {
    rng: Rng,
    config: Config,
    journal: Option<Journal>,
    /// It is to end like this.
    armed: Option<(How, Where, Time)>,
    /// It ends with this turn.
    dies: Option<How>,
    /// When it ended, while it is away.
    down_since: Option<Time>,
    /// The server must have a turn though nothing is due.
    must_turn: bool,
    /// What servers before this one have counted.
    past: Counters,
    end: Option<End>,
    tally: Crashes,
}

impl Lives {
    /// For the world of a seed.
    pub(super) fn new(seed: u64, config: &Config, unix_us: i64) -> Lives {
        let mut rng = Rng::new(seed ^ 0x6a6f_7572_6e61_6c73);
        let has_journal = rng.per_mille(WITH_JOURNAL);
        let disk = Disk::new(rng.fork(), Time::ZERO, unix_us);
        let piece = usize::try_from(rng.within(50..=5_000)).expect("it is small");
        let journal = has_journal.then(|| Journal::new(disk, piece));
        Lives {
            rng,
            config: config.clone(),
            journal,
            armed: None,
            dies: None,
            down_since: None,
            must_turn: false,
            past: Counters::default(),
            end: None,
            tally: Crashes::default(),
        }
    }

    pub(super) fn salt(&self) -> Option<u32> {
        self.journal.as_ref().map(|journal| journal.disk.salt())
    }

    /// Whether there is a server.
    pub(super) fn is_up(&self) -> bool {
        self.down_since.is_none()
    }

    pub(super) fn must_turn(&self) -> bool {
        self.must_turn
    }

    pub(super) fn next_event(&self, now: Time) -> Option<Time> {
        let journal = self.journal.as_ref().filter(|_| self.is_up())?;
        journal.disk.next_event(now)
    }
}

impl Journal {
    fn new(disk: Disk, piece: usize) -> Journal {
        Journal {
            disk,
            state: State::Live,
            appended: 0,
            held: VecDeque::new(),
            tidy_at: Time::ZERO,
            piece,
            is_drained: true,
            unwritten: false,
            unsynced: Unsafe::No,
        }
    }

    /// Another server begins with what the disk has.
    fn begin_life(&mut self) {
        self.state = State::Live;
        self.appended = 0;
        self.held.clear();
        self.is_drained = true;
        self.unwritten = false;
        self.unsynced = Unsafe::No;
    }

    /// Writes what a turn has to record.
    fn record(&mut self, now: Time, server: &mut Server) {
        if self.tidy_at <= now {
            self.tidy_at = now + JOURNAL_TIDY_EVERY / 5;
            let oldest = server.oldest_segment();
            self.disk.tidy(oldest.unwrap_or(self.disk.segment()));
        }
        match self.state {
            State::Live if self.disk.is_down() => self.state = State::Down,
            State::Live | State::CatchingUp => self.append(now, server),
            State::Down => {}
        }
        if self.state == State::Down {
            match self.disk.take_back(now) {
                None => {}
                Some(missing) => {
                    if missing == Missing::Everything {
                        server.record_anew();
                    }
                    self.state = State::CatchingUp;
                    self.append(now, server);
                }
            }
        }
        self.is_drained = self.state != State::Down && !server.owes_records();
    }

    fn append(&mut self, now: Time, server: &mut Server) {
        let is_live = self.state == State::Live;
        let most = if is_live { usize::MAX } else { self.piece };
        let batch = server.poll_records(now, most);
        if is_live && batch.is_empty() {
            return;
        }
        match self.disk.append(now, batch) {
            Ok(number) => {
                self.appended = number;
                if batch.is_empty() {
                    self.state = State::Live;
                } else {
                    server.keep_records(self.disk.segment());
                }
            }
            Err(_) => {
                server.refuse_records();
                self.state = State::Down;
            }
        }
    }

    /// Whether what leaves now has to wait for the disk.
    fn holds_back(&self) -> bool {
        self.disk.mode() == Mode::Always
            && self.state != State::Down
            && !(self.held.is_empty() && self.disk.synced() >= self.appended)
    }

    /// The next of what has waited, if it may leave.
    fn release(&mut self) -> Option<Datagrams> {
        let (batch, _) = self.held.front()?;
        if self.state != State::Down && self.disk.synced() < *batch {
            return None;
        }
        if self.disk.synced() < *batch {
            self.unsynced = Unsafe::Yes;
        }
        self.held.pop_front().map(|(_, datagrams)| datagrams)
    }
}

// --- The plan -----------------------------------------------------------------------------

impl World {
    /// Draws when the server ends, and what happens to its disk.
    pub(super) fn plan_crashes(&mut self, chaos: Duration) {
        let Some(journal) = &self.lives.journal else {
            return;
        };
        let always = journal.disk.mode() == Mode::Always;
        let within = u64::try_from(chaos.as_millis()).expect("it is short");
        let rng = &mut self.lives.rng;
        let mut acts = Vec::new();
        for _ in 0..[0, 1, 1, 2, 2, 4][rng.index(6)] {
            let how = match rng.index(8) {
                0 => How::Stopped,
                1..=3 => How::Killed,
                _ => How::Power,
            };
            let place = match rng.index(8) {
                0 => Where::Idle,
                1..=3 => Where::InWrite,
                4 | 5 => Where::BeforeSend,
                6 => Where::InSend,
                _ if how == How::Power => Where::Rotated,
                _ => Where::AfterSend,
            };
            acts.push((rng.millis(1_000..=within), Act::Crash(how, place)));
        }
        if rng.per_mille(300) {
            acts.push((rng.millis(500..=within), Act::DiskFills));
        }
        if rng.per_mille(if always { 300 } else { 150 }) {
            acts.push((rng.millis(500..=within), Act::SyncFails));
        }
        for (wait, act) in acts {
            self.after(wait, act);
        }
    }

    pub(super) fn disk_fills(&mut self) {
        let lasts = self.lives.rng.millis(500..=8_000);
        let until = self.now + lasts;
        if self.lives.is_up()
            && !self.is_left_out(Fault::DiskFull)
            && let Some(journal) = &mut self.lives.journal
        {
            journal.disk.fill(until);
        }
    }

    pub(super) fn sync_fails(&mut self) {
        if self.lives.is_up()
            && !self.is_left_out(Fault::SyncFailed)
            && let Some(journal) = &mut self.lives.journal
        {
            journal.disk.fail_sync();
        }
    }

    /// The server is to end, now or in one of its next turns.
    pub(super) fn crash_server(&mut self, how: How, place: Where) -> Result<(), Violation> {
        let kind = match how {
            How::Killed => Fault::ServerKilled,
            How::Power => Fault::PowerCut,
            How::Stopped => Fault::ServerStopped,
        };
        if !self.lives.is_up() || self.lives.armed.is_some() || self.is_left_out(kind) {
            return Ok(());
        }
        match (how, place) {
            (How::Stopped, _) => {
                self.lives.armed = Some((how, Where::AfterSend, self.now));
                self.lives.must_turn = true;
            }
            (_, Where::Idle) => return self.die(how),
            _ => self.lives.armed = Some((how, place, self.now)),
        }
        Ok(())
    }
}

// --- The loop -----------------------------------------------------------------------------

impl World {
    /// The disk does what is due.
    pub(super) fn disk_turn(&mut self) {
        let (now, unix_us) = (self.now, self.wall());
        let up = self.lives.is_up();
        let Some(journal) = self.lives.journal.as_mut().filter(|_| up) else {
            return;
        };
        if journal.disk.next_event(now).is_none_or(|at| at > now) {
            return;
        }
        let was_down = journal.disk.is_down();
        journal.disk.tick(now, unix_us);
        let synced = journal.disk.synced();
        let failed = !was_down && journal.disk.is_down();
        if let Unsafe::Until(batch) = journal.unsynced
            && batch <= synced
        {
            journal.unsynced = Unsafe::No;
        }
        self.lives.must_turn |= journal.disk.take_news();
        self.oracle.synced(synced);
        if failed {
            self.count(Fault::SyncFailed);
            self.note("a sync has failed".into());
            self.oracle.sync_failed();
        }
    }

    /// A turn begins: what has waited for the disk leaves.
    pub(super) fn begin_turn(&mut self) -> Result<(), Violation> {
        self.lives.must_turn = false;
        while let Some(datagrams) = self.lives.journal.as_mut().and_then(Journal::release) {
            self.send_each(datagrams.iter().map(|(to, bytes)| (*to, &bytes[..])))?;
        }
        Ok(())
    }

    /// Records the turn, and sends what may leave of it.
    pub(super) fn record_and_send(&mut self, batch: &Transmits) -> Result<(), Violation> {
        let now = self.now;
        if self.lives.journal.is_none() {
            return self.send_each(batch.iter());
        }
        if self.tears(batch.len()) {
            return Ok(());
        }
        let Some(journal) = &mut self.lives.journal else {
            return Ok(());
        };
        journal.record(now, &mut self.server);
        self.lives.must_turn |= journal.state == State::CatchingUp;
        let refused = journal.disk.take_refusal();
        if !journal.is_drained {
            journal.unwritten = true;
            journal.unsynced = Unsafe::Yes;
        }
        if refused {
            self.count(Fault::DiskFull);
            self.note("the disk is full".into());
        }
        let sent = match self.dying() {
            None => batch.len(),
            Some((how, place)) => {
                self.lives.dies = Some(how);
                match place {
                    Where::BeforeSend => 0,
                    Where::InSend => self.lives.rng.index(batch.len() + 1),
                    _ => batch.len(),
                }
            }
        };
        let leaves = batch.iter().take(sent);
        match self.lives.journal.as_mut().filter(|own| own.holds_back()) {
            Some(journal) if sent > 0 => {
                let datagrams = leaves.map(|(to, bytes)| (to, bytes.to_vec())).collect();
                journal.held.push_back((journal.appended, datagrams));
                Ok(())
            }
            Some(_) => Ok(()),
            None => self.send_each(leaves),
        }
    }

    /// How the server ends in this turn, if it does.
    fn dying(&mut self) -> Option<(How, Where)> {
        let (how, place, since) = self.lives.armed?;
        let journal = self.lives.journal.as_ref()?;
        let waits = match place {
            Where::InWrite => true,
            Where::Rotated => !journal.disk.is_rotating(),
            _ => false,
        };
        if waits && self.now.since(since) <= WAITS_MAX {
            return None;
        }
        self.lives.armed = None;
        Some((how, place))
    }

    /// Whether the server ends in the write of this turn.
    fn tears(&mut self, unsent: usize) -> bool {
        let Some((how, Where::InWrite, _)) = self.lives.armed else {
            return false;
        };
        let is_left_out = self.is_left_out(Fault::TornWrite);
        let journal = self.lives.journal.as_mut().filter(|_| !is_left_out);
        let Some(journal) =
            journal.filter(|journal| journal.state == State::Live && !journal.disk.is_down())
        else {
            return false;
        };
        // Mostly, a turn has nothing to write.
        let records = self.server.poll_records(self.now, usize::MAX);
        if records.is_empty() {
            return false;
        }
        let (written, all) = journal.disk.tear(records);
        journal.is_drained = false;
        self.server.refuse_records();
        self.lives.armed = None;
        self.lives.dies = Some(how);
        self.count(Fault::TornWrite);
        self.note(format!(
            "the server ends in a write: {written} of {all} bytes, {unsent} datagrams do not leave"
        ));
        true
    }

    /// A turn is over, and the oracle knows all of it: does the server end with it?
    pub(super) fn end_turn(&mut self) -> Result<(), Violation> {
        let Some(journal) = &mut self.lives.journal else {
            return Ok(());
        };
        if journal.is_drained {
            let batch = journal.appended;
            journal.unwritten = false;
            if journal.unsynced == Unsafe::Yes {
                journal.unsynced = Unsafe::Until(batch);
            }
            let synced = journal.disk.synced();
            for match_id in self.oracle.lingering() {
                if let Some(view) = self.server.match_(match_id) {
                    self.oracle.note_results(&view);
                }
            }
            self.oracle.written(self.now, batch);
            self.oracle.synced(synced);
        }
        match self.lives.dies.take() {
            Some(how) => self.die(how),
            None => Ok(()),
        }
    }
}

// --- The end of a life, and the next one --------------------------------------------------

impl World {
    /// The server ends here and now.
    fn die(&mut self, how: How) -> Result<(), Violation> {
        let kind = match how {
            How::Killed => Fault::ServerKilled,
            How::Power => Fault::PowerCut,
            How::Stopped => Fault::ServerStopped,
        };
        self.count(kind);
        self.lives.armed = None;
        let cut = (how == How::Power).then(|| Cut {
            loses: !self.is_left_out(Fault::LostTail),
            damages: !self.is_left_out(Fault::DamagedTail),
        });
        let Some(journal) = &mut self.lives.journal else {
            return Ok(());
        };
        let held = std::mem::take(&mut journal.held);
        if how == How::Stopped {
            journal.disk.finish();
        }
        let Lost { bytes, damaged } = journal.disk.die(cut);
        let mode = journal.disk.mode();
        self.lives.end = Some(End {
            power: how == How::Power,
            may_lose: match how {
                How::Killed | How::Stopped => journal.unwritten,
                How::Power => mode != Mode::Always || journal.unsynced != Unsafe::No,
            },
            unmarked: mode == Mode::Never,
            is_synced: how == How::Power || mode != Mode::Never,
            partial: journal.disk.passes_over(),
        });
        self.note(format!(
            "the server ends: {how:?}, journal {mode:?}, {bytes} bytes are lost, {damaged} damaged"
        ));
        self.lives.tally.lost_bytes += bytes;
        if bytes > 0 {
            self.count(Fault::LostTail);
        }
        if damaged > 0 {
            self.count(Fault::DamagedTail);
        }
        if how == How::Stopped {
            for (_, datagrams) in held {
                self.send_each(datagrams.iter().map(|(to, bytes)| (*to, &bytes[..])))?;
            }
        }
        self.lives.past.add(&self.server.counters());
        self.lives.down_since = Some(self.now);
        self.inbox.clear();
        self.places.forget_proofs();
        for player in &mut self.players {
            player.seated = None;
        }
        for device in &mut self.devices {
            device.orphaned = true;
        }
        let rng = &mut self.lives.rng;
        let away = match rng.index(10) {
            0..=5 => rng.millis(0..=1_500),
            6..=8 => rng.millis(500..=5_000),
            _ => rng.millis(5_000..=30_000),
        };
        self.after(away, Act::Boot);
        self.plan_rejoins();
        Ok(())
    }

    /// Whoever has lost his server comes back after a while.
    fn plan_rejoins(&mut self) {
        for device in 0..self.devices.len() {
            if self.is_current(device) && self.devices[device].orphaned {
                let wait = self.lives.rng.millis(50..=8_000);
                let conn = self.devices[device].conn;
                self.after(wait, Act::Rejoin(device, conn));
            }
        }
    }

    pub(super) fn rejoin(&mut self, device: usize, conn: Conn) -> Result<(), Violation> {
        let own = &self.devices[device];
        let lives = own.conn == conn && own.health == Health::Alive;
        let astray = own.orphaned && !self.is_seated(device) && self.is_current(device);
        if !lives || !astray || own.client.state() == ClientState::Closed {
            return Ok(());
        }
        let new_addr = self.lives.rng.per_mille(200);
        self.reconnect(device, new_addr)
    }

    /// The next server starts.
    pub(super) fn boot(&mut self) -> Result<(), Violation> {
        let Some(since) = self.lives.down_since.take() else {
            return Ok(());
        };
        let (now, unix_us) = (self.now, self.wall());
        let rng = &mut self.lives.rng;
        let secrets = Secrets {
            hash_key: (rng.bits64(), rng.bits64()),
            clock_key: (rng.bits64(), rng.bits64()),
            first_match: rng.bits64(),
            // Another one than before: what the last server gave away is worth nothing.
            pass_key: std::array::from_fn(|_| rng.bits64().to_le_bytes()[0]),
        };
        let (Some(journal), Some(end)) = (&mut self.lives.journal, self.lives.end.take()) else {
            return Ok(());
        };
        let restored = journal.disk.boot(now, unix_us);
        journal.begin_life();
        let salt = journal.disk.salt();
        self.note(format!(
            "the server starts: {} rooms, {} ended, {} lost, {} torn bytes, {} places of damage",
            restored.rooms.len(),
            restored.finished.len(),
            restored.lost.len(),
            restored.torn_bytes,
            restored.damage_count
        ));
        self.oracle.read_after(end, &restored)?;
        let config = self.lives.config.clone();
        let at_zero = i64::try_from(self.unix_us).expect("the year 2096 fits");
        self.server = Server::new(config, secrets, at_zero);
        self.chronicle = Chronicle::default();
        self.server.begin_records(salt);
        self.let_ask();
        let mut rooms = restored.rooms;
        rooms.sort_by_key(|room| std::cmp::Reverse(room.created.created_unix_us));
        let mut back: Vec<MatchId> = Vec::new();
        for room in rooms {
            let match_id = room.match_id;
            match self.server.restore_room(now, room.clone()) {
                Ok(()) => {
                    self.oracle.restored(end, &room)?;
                    back.push(match_id);
                }
                Err(error) => self.note(format!("match {match_id} is not restored: {error}")),
            }
        }
        for of in self.oracle.begin_life(now, &back) {
            self.create_again(of);
        }
        self.lives.tally.restarts += 1;
        self.lives.must_turn = true;
        self.free_at = now;
        for device in &mut self.devices {
            // Nobody heard it meanwhile.
            let begin = device
                .outage
                .filter(|(_, end)| *end > since)
                .map_or(since, |o| o.0);
            device.outage = Some((begin.min(since), now));
        }
        self.plan_rejoins();
        Ok(())
    }

    /// The operator sees that a match is gone and creates its room anew.
    fn create_again(&mut self, of: super::oracle::Match) {
        let room = self.oracle.room_of(of);
        let planned = self.rooms.iter().position(|plan| plan.spec.room == room);
        if let Some(index) = planned {
            self.deal_anew(index);
            self.commands.push(Command::Create(index));
        }
    }

    /// The server is there, and its disk is well from now on.
    pub(super) fn heal_server(&mut self) -> Result<(), Violation> {
        if let Some(journal) = &mut self.lives.journal {
            journal.disk.heal();
        }
        self.lives.armed = None;
        self.boot()
    }

    /// What all servers of the world have counted together.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = self.server.counters();
        counters.add(&self.lives.past);
        counters
    }

    pub(super) fn crashes(&self) -> Crashes {
        Crashes {
            forks: self.oracle.forks(),
            mixed: self.oracle.mixed(),
            ..self.lives.tally
        }
    }

    /// At the end of the world: everything is in the journal.
    pub(super) fn judge_journal(&mut self) -> Result<(), Violation> {
        let Some(journal) = &self.lives.journal else {
            return Ok(());
        };
        if self.server.owes_records() || journal.state != State::Live || !journal.held.is_empty() {
            return Err(Violation::OwesRecords);
        }
        self.oracle.must_be_recorded(&journal.disk.read_all())
    }
}
