//! A world: one server, its clients and the network between them, and the loop that moves
//! virtual time from one thing that happens to the next.
//!
//! The server is driven as its header says: time-outs first, then what came in, then the
//! datagrams of the turn, once. Sometimes its loop is late, and everything that came in
//! meanwhile waits for it. What people and their devices do is in script.rs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::chronicle::Chronicle;
use super::crash::{Crashes, Lives};
use super::elsewhere::Elsewhere;
use super::fault::{Fault, Happened};
use super::network::{Arrival, Author, Faults, Network, Tally, shut_window};
use super::oracle::{Conn, Match, Oracle, Turn, Violation};
use super::path::Path;
use super::places::{Overdrawn, Places};
use super::rng::Rng;
use super::script::{Act, Player, RoomPlan};
use super::signals::Signals;
use super::trace::{Trace, Watcher};
use super::trouble::{PAUSE_MAX, Pause};
use crate::client::{Client, ClientEvent};
use crate::engine::config::{Config, Secrets};
use crate::engine::counters::Counters;
use crate::engine::drops::Disconnect;
use crate::engine::event::Event;
use crate::engine::id::{Conv, PlayerId, RoomId};
use crate::engine::server::Server;
use crate::engine::time::Time;
use crate::engine::transmit::Transmits;
use crate::engine::view::RoomSpec;
use crate::engine::wire::signal::Signal;

/// Time after the heal within which everybody must be at the head (the contract of the
/// simulator).
pub(super) const SETTLE: Duration = Duration::from_secs(5);
/// Time after the end of a match within which everybody must hear of it, in a healed world:
/// the room itself stays for as long.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// The longest outage that KCP must survive by itself.
pub(super) const OUTAGE_KCP_MAX: Duration = Duration::from_secs(8);
/// Time for which an outage or a new conversation can explain the end of a session: the
/// idle time-out and a little.
const EXCUSE: Duration = Duration::from_secs(16);
/// Steps in one moment from which on somebody must be spinning.
const STEPS_IN_A_MOMENT_MAX: u32 = 20_000;
/// Time between two checks of all the server's invariants.
const INVARIANTS_EVERY_STEPS: u64 = 64;
/// Datagrams of each client that others may send again: the first ones, and now and then one
/// of the later ones.
const SAID_KEPT: usize = 12;
/// One of so many later ones.
const SAID_EVERY: usize = 8;
/// Datagrams that the system keeps for a frozen client.
const HELD_MAX: usize = 128;

/// What a violation was, where and when.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The world's seed.
    pub seed: u64,
    /// The step in which it was found.
    pub step: u64,
    /// When.
    pub now: Time,
    /// What was violated.
    pub what: String,
    /// The faults that had happened.
    pub faults: Happened,
    /// The last lines of the trace.
    pub lines: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            seed,
            step,
            now,
            what,
            faults,
            lines,
        } = self;
        for line in lines {
            writeln!(f, "    {line}")?;
        }
        writeln!(f, "faults so far: {faults}")?;
        write!(f, "seed {seed}, step {step}, at {now}: {what}")
    }
}

impl std::error::Error for Failure {}

/// What a world did.
#[derive(Clone, Debug)]
pub struct Report {
    /// A number that stands for everything that happened.
    pub hash: u64,
    /// Steps of the loop.
    pub steps: u64,
    /// Virtual time.
    pub lasted: Duration,
    /// What the network did.
    pub network: Tally,
    /// What befell clients, rooms and the server.
    pub faults: Happened,
    /// What the servers counted, all of them together.
    pub counters: Counters,
    /// How they ended.
    pub crashes: Crashes,
    /// Conversations that clients began.
    pub conversations: u64,
    /// Frames that were not sent again to clients that held them.
    pub resumed: u64,
    /// Frames that clients got because they had asked for them.
    pub fetched: u64,
    /// Bytes of data beside inputs.
    pub data_bytes: u64,
    /// Frames that spectators saw.
    pub watched: u64,
}

/// Runs the world of a seed to its end.
///
/// # Errors
/// The first violation.
pub fn run(seed: u64) -> Result<Report, Box<Failure>> {
    World::new(seed).run()
}

/// What the server's operator does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Create(usize),
    Close(usize),
    /// Close, and create again at once.
    Replace(usize),
    CreateSpare(usize),
    CloseSpare(usize),
    ReplaceSpare(usize),
    /// Answer a question where a room is, with an address or with none.
    Locate(RoomId, bool),
    Stop,
}

/// How punctual the server's loop is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tempo {
    /// Turns of a million after which the loop is busy for a while.
    pub(super) late_per_million: u64,
    /// The longest such while, in ms.
    pub(super) late_ms_max: u64,
    /// The machine is suspended now and then.
    pub(super) suspends: bool,
}

impl Tempo {
    pub(super) const PUNCTUAL: Tempo = Tempo {
        late_per_million: 0,
        late_ms_max: 1,
        suspends: false,
    };

    fn draw(rng: &mut Rng) -> Tempo {
        if rng.per_mille(400) {
            return Tempo::PUNCTUAL;
        }
        Tempo {
            late_per_million: rng.within(100..=10_000),
            late_ms_max: rng.within(2..=100),
            suspends: rng.per_mille(100),
        }
    }
}

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It runs.
    Alive,
    /// Its process is stuck; what comes waits.
    Frozen,
    /// Its process has ended and will be started again.
    Dead,
    /// It will not be seen again.
    Gone,
}

/// One address, and the client that lives there.
pub(super) struct Device {
    pub(super) addr: SocketAddr,
    pub(super) client: Client,
    pub(super) conn: Conn,
    pub(super) player: usize,
    pub(super) health: Health,
    /// When the client must be called though nothing comes.
    pub(super) wake: Option<Time>,
    /// What has come for a frozen client.
    pub(super) held: Vec<Arrival>,
    /// When the conversation began.
    pub(super) opened_at: Time,
    /// When it connected last.
    pub(super) asked_at: Time,
    /// The last outage: a cut, or a time for which it was frozen or took nothing for long.
    pub(super) outage: Option<(Time, Time)>,
    /// The last time for which it took nothing.
    pub(super) pause: Option<Pause>,
    /// Its address has changed since the conversation began.
    pub(super) moved: bool,
    /// It was started again under the same conversation number.
    pub(super) reborn: bool,
    /// Somebody has forged an acknowledgement that may have hit the conversation.
    pub(super) harmed: bool,
    /// When the server last heard something that somebody else sent in its name.
    pub(super) forged_at: Option<Time>,
    /// The session that held its seat has ended.
    pub(super) ended: bool,
    /// What it and the server have said by signals in the conversation.
    pub(super) signals: Signals,
    /// The conversation began with a server that has ended since.
    pub(super) orphaned: bool,
    /// Some of the datagrams of the conversation, and how many there were.
    pub(super) said: Vec<Vec<u8>>,
    pub(super) told: usize,
    /// How much is loaded.
    pub(super) loaded: i32,
    /// It has told its result.
    pub(super) resulted: bool,
    /// Inputs of the conversation that were sent before the heal.
    pub(super) sent_at_heal: u32,
    /// What the conversation has under way from the client, and to it.
    pub(super) up: Path,
    pub(super) down: Path,
}

impl Device {
    /// Whether it takes nothing at the moment, in this way.
    fn takes_nothing(&self, now: Time, kind: Fault) -> bool {
        self.pause
            .is_some_and(|pause| pause.kind == kind && now < pause.end)
    }

    /// Keeps some of what it says.
    fn remember(&mut self, datagram: Vec<u8>) {
        if self.said.len() < SAID_KEPT {
            self.said.push(datagram);
        } else if self.told.is_multiple_of(SAID_EVERY) {
            let later = SAID_KEPT / 2;
            let place = later + self.told / SAID_EVERY % (SAID_KEPT - later);
            self.said[place] = datagram;
        }
        self.told += 1;
    }
}

/// Draws a server's settings: with few places for sessions where there will be floods,
/// though enough for two of each player, and with few rooms now and then.
fn draw_config(rng: &mut Rng, crowded: bool) -> Config {
    let small = |number: u64| usize::try_from(number).expect("it is small");
    let mut config = Config {
        ready_timeout: rng.millis(1_000..=20_000),
        room_timeout: rng.millis(20_000..=300_000),
        reconnect_grace: rng.millis(0..=60_000),
        ..Config::default()
    };
    if crowded && rng.per_mille(700) {
        config.max_sessions = small(rng.within(40..=80));
    }
    if rng.per_mille(100) {
        config.max_rooms = small(rng.within(6..=30));
    }
    config
}

/// Whether and how players of a world send data, several inputs in a packet, and requests for
/// frames.
fn draw_extras(seed: u64) -> Option<Rng> {
    let mut extras = Rng::new(!seed);
    extras.per_mille(600).then_some(extras)
}

/// What is left to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Faults and all sorts of behaviour.
    Chaos,
    /// The faults are off since this moment; nobody gets into trouble any more.
    Healed(Time),
    /// The clients are gone, and the server is left to its time-outs.
    Draining,
}

/// See the file's header.
pub struct World {
    pub(super) seed: u64,
    step: u64,
    steps_in_moment: u32,
    pub(super) rng: Rng,
    /// What players do with v2, if anything: from a stream of its own, so that it leaves the other
    /// worlds as they are.
    pub(super) extras: Option<Rng>,
    pub(super) now: Time,
    pub(super) server: Server,
    server_addr: SocketAddr,
    pub(super) unix_us: u64,
    /// The lives of the server, and its journal.
    pub(super) lives: Lives,
    /// What its life is told to those who follow its rooms.
    pub(super) chronicle: Chronicle,
    pub(super) network: Network,
    /// What has come for the server since its last turn.
    pub(super) inbox: Vec<Arrival>,
    pub(super) commands: Vec<Command>,
    /// The server's loop is busy until then.
    pub(super) free_at: Time,
    pub(super) tempo: Tempo,
    ever_late: bool,
    pub(super) rooms: Vec<RoomPlan>,
    pub(super) players: Vec<Player>,
    pub(super) devices: Vec<Device>,
    pub(super) places: Places,
    /// Whom the server asks about rooms that are not there, if anybody.
    pub(super) elsewhere: Elsewhere,
    /// Rooms in which nobody plays that have been created.
    pub(super) spares: usize,
    /// There will be floods, and there may be few places.
    pub(super) crowded: bool,
    /// A flood has begun.
    pub(super) flooded: bool,
    max_rooms: usize,
    left_out: Vec<Fault>,
    faults: Happened,
    script: BinaryHeap<Reverse<(Time, u64, Act)>>,
    acts: u64,
    pub(super) phase: Phase,
    pub(super) shared_conv: Option<Conv>,
    pub(super) oracle: Oracle,
    trace: Trace,
    batch: Transmits,
    conversations: u64,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let World {
            seed, step, now, ..
        } = self;
        write!(f, "World {{ seed: {seed}, step: {step}, now: {now} }}")
    }
}

impl World {
    /// The world of a seed, at its beginning.
    pub fn new(seed: u64) -> World {
        World::without(seed, Vec::new())
    }

    /// The same without some kinds of faults. From the first of them on it is another world,
    /// but one much like it.
    pub fn without(seed: u64, left_out: Vec<Fault>) -> World {
        let mut rng = Rng::new(seed);
        let server_addr = SocketAddr::from(([10, 0, 0, 1], 10_086));
        let crowded = rng.per_mille(150);
        let config = draw_config(&mut rng, crowded);
        let max_rooms = config.max_rooms;
        let secrets = Secrets {
            hash_key: (rng.bits64(), rng.bits64()),
            clock_key: (rng.bits64(), rng.bits64()),
            // Nobody in a world can guess it, and no world is another because of it.
            pass_key: [5; 32],
            first_match: rng.bits64(),
        };
        let unix_us = rng.within(0..=4_000_000_000_000_000);
        let faults = Faults::draw(&mut rng);
        let signed = i64::try_from(unix_us).expect("the year 2096 fits");
        let lives = Lives::new(seed, &config, signed);
        let mut world = World {
            seed,
            step: 0,
            steps_in_moment: 0,
            extras: draw_extras(seed),
            now: Time::ZERO,
            server: Server::new(config, secrets, signed),
            server_addr,
            unix_us,
            lives,
            chronicle: Chronicle::default(),
            network: Network::new(server_addr, faults, rng.fork()),
            inbox: Vec::new(),
            commands: Vec::new(),
            free_at: Time::ZERO,
            tempo: Tempo::draw(&mut rng),
            ever_late: false,
            rooms: Vec::new(),
            players: Vec::new(),
            devices: Vec::new(),
            places: Places::default(),
            elsewhere: Elsewhere::draw(seed),
            spares: 0,
            crowded,
            flooded: false,
            max_rooms,
            left_out,
            faults: Happened::default(),
            script: BinaryHeap::new(),
            acts: 0,
            phase: Phase::Chaos,
            shared_conv: rng.per_mille(400).then_some(Conv(121_106)),
            oracle: Oracle::default(),
            trace: Trace::default(),
            batch: Transmits::default(),
            conversations: 0,
            rng,
        };
        if let Some(salt) = world.lives.salt() {
            world.server.begin_records(salt);
        }
        world.let_ask();
        world.write_script();
        world
    }

    /// Passes every line of the trace on as it is written.
    pub fn watch(&mut self, watcher: Watcher) {
        self.trace.watch(watcher);
    }

    /// Steps done so far.
    pub fn step_number(&self) -> u64 {
        self.step
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first violation.
    pub fn run(&mut self) -> Result<Report, Box<Failure>> {
        loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return Ok(self.report()),
                Err(violation) => return Err(Box::new(self.failure(violation.to_string()))),
            }
        }
    }

    /// What is known of a failure here and now: also after a panic, which leaves the world
    /// good for nothing else.
    pub fn failure(&self, what: String) -> Failure {
        Failure {
            seed: self.seed,
            step: self.step,
            now: self.now,
            what,
            faults: self.faults,
            lines: self.trace.lines(),
        }
    }

    fn report(&self) -> Report {
        Report {
            hash: self.trace.hash(),
            steps: self.step,
            lasted: self.now.since(Time::ZERO),
            network: self.network.tally(),
            faults: self.faults,
            counters: self.counters(),
            crashes: self.crashes(),
            conversations: self.conversations,
            resumed: self.oracle.resumed(),
            fetched: self.oracle.fetched(),
            data_bytes: self.oracle.data_bytes(),
            watched: self.oracle.watched(),
        }
    }

    // --- The loop -------------------------------------------------------------------------

    /// Goes to the next moment at which something happens, and lets it happen. False at the
    /// end of the world.
    fn step(&mut self) -> Result<bool, Violation> {
        let Some(at) = self.next_moment() else {
            let counters = self.counters();
            self.oracle.must_be_empty(&counters, self.ever_late)?;
            if !self.chronicle.agrees(&self.server.room_ids()) {
                return Err(Violation::Untold);
            }
            return self.judge_journal().map(|()| false);
        };
        self.step += 1;
        self.steps_in_moment = if at > self.now {
            0
        } else {
            self.steps_in_moment + 1
        };
        if self.steps_in_moment > STEPS_IN_A_MOMENT_MAX {
            return Err(self.livelock());
        }
        self.now = self.now.max(at);
        self.receive();
        self.disk_turn();
        if self.server_wake().is_some_and(|at| at <= self.now) {
            self.server_turn()?;
        }
        for device in 0..self.devices.len() {
            if self.devices[device].wake.is_some_and(|at| at <= self.now) {
                self.device_turn(device)?;
            }
        }
        while let Some(act) = self.next_act() {
            self.perform(act)?;
        }
        Ok(true)
    }

    fn next_moment(&self) -> Option<Time> {
        let script = self.script.peek().map(|Reverse((at, ..))| *at);
        let clients = self.devices.iter().filter_map(|device| device.wake).min();
        let network = self.network.next_arrival();
        let disk = self.lives.next_event(self.now);
        [self.server_wake(), network, clients, script, disk]
            .into_iter()
            .flatten()
            .min()
    }

    fn livelock(&self) -> Violation {
        let spins = |device: &&Device| device.wake.is_some_and(|at| at <= self.now);
        let who = match self.devices.iter().find(spins) {
            Some(device) => format!("the client at {}", device.addr),
            None => "the server".into(),
        };
        let now = self.now;
        Violation::Livelock { who, now }
    }

    fn receive(&mut self) {
        while let Some(arrival) = self.network.receive(self.now) {
            if arrival.to == self.server_addr {
                // Nobody is there for a while after a crash.
                if self.lives.is_up() {
                    self.inbox.push(arrival);
                }
                continue;
            }
            let Some(index) = self.resident(arrival.to) else {
                continue;
            };
            match self.devices[index].health {
                Health::Alive => self.give(index, arrival),
                Health::Frozen if self.devices[index].held.len() < HELD_MAX => {
                    self.devices[index].held.push(arrival);
                }
                Health::Frozen | Health::Dead | Health::Gone => {}
            }
        }
    }

    /// Hands a datagram to a client, which has its turn soon.
    pub(super) fn give(&mut self, device: usize, mut arrival: Arrival) {
        let moment = (self.now, self.step);
        self.trace
            .delivered(moment, (arrival.from, arrival.to), &arrival.bytes);
        if arrival.author != Author::Sender {
            self.count(Fault::ForgedAnswer);
        }
        let device = &mut self.devices[device];
        device.up.heard(device.client.conv().0, &arrival.bytes);
        device.client.handle_datagram(self.now, &mut arrival.bytes);
        device.wake = Some(self.now);
    }

    /// The device that is at an address now.
    fn resident(&self, addr: SocketAddr) -> Option<usize> {
        let (device, _) = self.places.owner(addr)?;
        (self.devices[device].addr == addr).then_some(device)
    }

    pub(super) fn note(&mut self, text: String) {
        self.trace.note((self.now, self.step), text);
    }

    // --- Faults ---------------------------------------------------------------------------

    /// Whether the world does without a kind of fault.
    pub(super) fn is_left_out(&self, kind: Fault) -> bool {
        self.left_out.contains(&kind)
    }

    /// A fault takes effect.
    pub(super) fn count(&mut self, kind: Fault) {
        self.faults.count(kind);
    }

    /// Counts a fault that takes effect now, unless the world does without: false then.
    pub(super) fn happens(&mut self, kind: Fault) -> bool {
        let happens = !self.is_left_out(kind);
        if happens {
            self.count(kind);
        }
        happens
    }

    // --- The script -----------------------------------------------------------------------

    pub(super) fn at(&mut self, at: Time, act: Act) {
        self.acts += 1;
        self.script.push(Reverse((at, self.acts, act)));
    }

    pub(super) fn after(&mut self, wait: Duration, act: Act) {
        self.at(self.now + wait, act);
    }

    fn next_act(&mut self) -> Option<Act> {
        let Reverse((at, _, act)) = self.script.peek()?;
        if *at > self.now {
            return None;
        }
        let act = *act;
        self.script.pop();
        Some(act)
    }

    // --- The server -----------------------------------------------------------------------

    /// What the wall shows, in Unix microseconds.
    pub(super) fn wall(&self) -> i64 {
        let us = self.unix_us + self.now.as_micros();
        i64::try_from(us).expect("the year 2096 fits")
    }

    fn server_wake(&self) -> Option<Time> {
        if !self.lives.is_up() {
            return None;
        }
        let idle = self.inbox.is_empty() && self.commands.is_empty();
        let at = if idle && !self.lives.must_turn() {
            self.server.poll_timeout()?
        } else {
            self.now
        };
        Some(at.max(self.free_at))
    }

    /// One turn of the server's loop, in the order that its header asks for.
    fn server_turn(&mut self) -> Result<(), Violation> {
        let now = self.now;
        let due = self.server.poll_timeout().filter(|at| *at <= now);
        let on_time = due.is_none_or(|at| at == now);
        self.ever_late |= !on_time;
        self.begin_turn()?;
        for mut arrival in std::mem::take(&mut self.inbox) {
            let way = (arrival.from, arrival.to);
            self.trace.delivered((now, self.step), way, &arrival.bytes);
            self.overhear(&arrival);
            self.server
                .handle_datagram(now, arrival.from, &mut arrival.bytes);
        }
        if self.server.poll_timeout().is_some_and(|at| at <= now) {
            self.server.handle_timeout(now);
        }
        for command in std::mem::take(&mut self.commands) {
            // What the turn has done so far comes before it.
            self.server_events(on_time)?;
            self.command(command, on_time)?;
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        self.server.poll_transmit(now, &mut batch);
        self.record_and_send(&batch)?;
        self.batch = batch;
        if self.step.is_multiple_of(INVARIANTS_EVERY_STEPS) {
            self.server.assert_invariants();
        }
        self.server_events(on_time)?;
        self.take_questions()?;
        self.free_at = now + self.draw_delay_of_loop();
        self.sync(on_time)?;
        self.end_turn()
    }

    /// Notes what the server is about to hear.
    fn overhear(&mut self, arrival: &Arrival) {
        self.places.purse(arrival.from).hear(&arrival.bytes);
        let owner = self.places.owner(arrival.from);
        if Signal::is_one(&arrival.bytes) {
            if arrival.author != Author::Sender {
                self.count(Fault::ForgedSignal);
            }
            return;
        }
        let Some((device, conn)) = owner else {
            return self.count(Fault::Flood);
        };
        let own = &mut self.devices[device];
        let conv = own.client.conv().0;
        let (hit, fault) = match arrival.author {
            Author::Sender => (false, None),
            Author::Forger if own.down.is_hit(self.now, conv, &arrival.bytes) => {
                (true, Some(Fault::LuckyAck))
            }
            Author::Forger => (false, Some(Fault::ForgedAck)),
            Author::Replayer => {
                let hit = own.down.is_mistaken_for_another_life(&arrival.bytes);
                (hit, Some(Fault::Replay))
            }
        };
        if own.conn == conn {
            own.harmed |= hit;
            if arrival.author != Author::Sender {
                own.forged_at = Some(self.now);
            }
            if arrival.author != Author::Forger {
                own.down.heard(conv, &arrival.bytes);
            }
        }
        if let Some(fault) = fault {
            self.count(fault);
        }
    }

    fn draw_delay_of_loop(&mut self) -> Duration {
        if self.tempo.suspends && self.rng.per_million(200) && self.happens(Fault::Suspend) {
            self.note("the server is suspended".into());
            return self.rng.millis(1_001..=3_000);
        }
        let late = self.rng.per_million(self.tempo.late_per_million);
        if late && self.happens(Fault::LateTurn) {
            return self.rng.millis(0..=self.tempo.late_ms_max);
        }
        Duration::ZERO
    }

    fn command(&mut self, command: Command, on_time: bool) -> Result<(), Violation> {
        let number = |world: &World, room: usize| world.rooms[room].spec.room;
        match command {
            Command::Create(room) => {
                let spec = self.rooms[room].spec.clone();
                self.create(spec).map(drop)
            }
            Command::Close(room) => {
                self.close(number(self, room));
                Ok(())
            }
            Command::Replace(room) => {
                let closed = self.close(number(self, room));
                self.server_events(on_time)?;
                let spec = self.rooms[room].spec.clone();
                if self.create(spec)? && closed {
                    self.count(Fault::RoomReplaced);
                }
                Ok(())
            }
            Command::CreateSpare(index) => self.create(self.spare(index)).map(drop),
            Command::CloseSpare(index) => {
                self.close(self.spare(index).room);
                Ok(())
            }
            Command::ReplaceSpare(index) => {
                let spec = self.spare(index);
                self.close(spec.room);
                self.server_events(on_time)?;
                self.create(spec).map(drop)
            }
            Command::Locate(room, is_known) => self.locate(room, is_known, on_time),
            Command::Stop => {
                self.note("stop".into());
                self.server.stop(self.now);
                self.oracle.stops();
                Ok(())
            }
        }
    }

    /// Creates a room, unless that is refused for a good reason.
    fn create(&mut self, spec: RoomSpec) -> Result<bool, Violation> {
        self.note(format!("create {spec:?}"));
        let room = spec.room;
        let held = self.server.counters().rooms;
        match self.server.create_room(self.now, spec) {
            Ok(view) => self.oracle.created(&view).map(|_| true),
            Err(error) => {
                self.oracle
                    .not_created(room, &error, held, self.max_rooms)?;
                Ok(false)
            }
        }
    }

    fn close(&mut self, room: RoomId) -> bool {
        self.note(format!("close room {room}"));
        self.server.close_room(self.now, room).is_some()
    }

    // --- The network ----------------------------------------------------------------------

    /// Gives what the server sends to the network.
    pub(super) fn send_each<'a>(
        &mut self,
        datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) -> Result<(), Violation> {
        let from = self.server_addr;
        for (to, bytes) in datagrams {
            self.give_to_network((from, to), Author::Sender, bytes);
            if let Err(Overdrawn { heard, sent }) = self.places.purse(to).send(bytes) {
                return Err(Violation::Amplified { to, heard, sent });
            }
            self.look_at_answer(to, bytes)?;
            // Also what goes to where a client was in this conversation.
            if let Some((device, conn)) = self.places.owner(to)
                && self.devices[device].conn == conn
            {
                let own = &mut self.devices[device];
                own.down.sent(self.now, own.client.conv().0, bytes);
            }
        }
        Ok(())
    }

    /// Gives a client's batch to the network.
    fn send_up(&mut self, device: usize, batch: &Transmits) {
        for (_, bytes) in batch.iter() {
            let own = &mut self.devices[device];
            let mut bytes = bytes.to_vec();
            if own.takes_nothing(self.now, Fault::WindowShut) {
                shut_window(&mut bytes);
            }
            own.up.sent(self.now, own.client.conv().0, &bytes);
            let way = (own.addr, self.server_addr);
            self.give_to_network(way, Author::Sender, &bytes);
            self.spy_on(device, &bytes);
            self.devices[device].remember(bytes);
        }
    }

    /// Somebody sends the server a datagram in the name of an address.
    pub(super) fn inject(&mut self, from: SocketAddr, author: Author, bytes: &[u8]) {
        self.give_to_network((from, self.server_addr), author, bytes);
    }

    /// The same to a client, in the name of the server.
    pub(super) fn inject_down(&mut self, to: SocketAddr, author: Author, bytes: &[u8]) {
        self.give_to_network((self.server_addr, to), author, bytes);
    }

    fn give_to_network(&mut self, way: (SocketAddr, SocketAddr), author: Author, bytes: &[u8]) {
        let fate = self.network.send(self.now, way, author, bytes);
        let moment = (self.now, self.step);
        self.trace.sent(moment, way, author, bytes, fate);
    }

    // --- What the server says -------------------------------------------------------------

    pub(super) fn server_events(&mut self, on_time: bool) -> Result<(), Violation> {
        let now = self.now;
        while let Some(event) = self.server.poll_event() {
            self.note(format!("server: {event:?}"));
            self.chronicle.hear(&event).map_err(Violation::Told)?;
            match event {
                Event::MatchStarted { match_id, wait, .. } => {
                    let us = self.unix_us + now.as_micros();
                    let seconds = i64::try_from(us / 1_000_000).expect("seconds are few");
                    let of = self.oracle.find(match_id).expect("it was created");
                    self.oracle.started(of, now, wait, seconds)?;
                }
                Event::EpochRenewed {
                    room,
                    lateness,
                    wait,
                } => {
                    let of = self.oracle.newest(room).expect("it was created");
                    self.oracle.epoch_renewed(of, now, lateness, wait)?;
                }
                Event::MatchOver {
                    room,
                    match_id,
                    reason,
                    frames,
                } => {
                    let of = self.oracle.find(match_id).expect("it was created");
                    let ended = true;
                    self.show_log(of, room, Turn { on_time, ended })?;
                    self.oracle.over(of, now, reason, frames)?;
                    self.plan_again(room);
                }
                Event::SeatLeft { addr, reason, .. } | Event::WatcherLeft { addr, reason, .. } => {
                    self.judge_end(addr, reason)?;
                }
                Event::SeatTaken { addr, player, .. } | Event::WatcherCame { addr, player, .. } => {
                    self.seat_taken(addr, player)?;
                }
                Event::MatchResumed { match_id, wait, .. } => {
                    let of = self.oracle.find(match_id).expect("it was created");
                    self.oracle.resumed_clock(of, now, wait)?;
                }
                Event::RoomFailed { .. } | Event::SessionFailed { .. } => {
                    unreachable!("the simulator lets panics through");
                }
                Event::SessionMoved {
                    from, to, player, ..
                } => self.session_moved((from, to), player)?,
                Event::Refused {
                    room,
                    code,
                    elsewhere,
                    ..
                } => self.judge_refusal(room, code, elsewhere.as_ref())?,
                Event::RoomCreated { .. }
                | Event::MatchRestored { .. }
                | Event::ResultGiven { .. } => {}
            }
        }
        Ok(())
    }

    /// Shows the oracle what has been sealed.
    fn sync(&mut self, on_time: bool) -> Result<(), Violation> {
        for room in 0..self.rooms.len() {
            let room = self.rooms[room].spec.room;
            let Some(of) = self.oracle.newest(room) else {
                continue;
            };
            let len = self.server.frames(room).map(<[u8]>::len);
            let grown = len.is_some_and(|len| len != self.oracle.log_len(of));
            if grown || self.oracle.has_frames_due(of, self.now) {
                let ended = false;
                self.show_log(of, room, Turn { on_time, ended })?;
            }
        }
        Ok(())
    }

    fn show_log(&mut self, of: Match, room: RoomId, turn: Turn) -> Result<(), Violation> {
        let (Some(view), Some(bytes)) = (self.server.room(room), self.server.frames(room)) else {
            return Ok(());
        };
        let gaps = self.oracle.gaps();
        self.oracle.log(of, self.now, turn, view.frame, bytes)?;
        if self.oracle.gaps() > gaps {
            self.oracle.must_account_for_gaps(&self.counters())?;
        }
        Ok(())
    }

    /// A seat is given to whoever is at an address: they must have proved that they are.
    fn seat_taken(&mut self, addr: SocketAddr, player: PlayerId) -> Result<(), Violation> {
        let proved = self.places.purse(addr).is_proved();
        let owner = self.places.owner(addr).filter(|_| proved);
        let Some((device, conn)) = owner else {
            return Err(Violation::Unproved { addr, player });
        };
        let index = self.devices[device].player;
        if self.players[index].id != player {
            return Err(Violation::Unproved { addr, player });
        }
        self.players[index].seated = Some((addr, self.now));
        if self.devices[device].conn == conn {
            self.devices[device].signals.seated = true;
        }
        self.oracle.seated(conn);
        Ok(())
    }

    /// A session that held a seat has ended: was there a reason for it? A long outage is one,
    /// and so is a segment of which every copy was lost for a long time: when the window
    /// behind it is full, nothing else is sent that could be acknowledged.
    ///
    /// At an address that a client has left there always is one: nobody is there any more.
    fn judge_end(&mut self, addr: SocketAddr, reason: Disconnect) -> Result<(), Violation> {
        let Some(device) = self.resident(addr) else {
            return Ok(());
        };
        let expected = matches!(
            reason,
            Disconnect::TakenOver
                | Disconnect::Restarted
                | Disconnect::CandidateLost
                | Disconnect::RoomGone
        );
        let seated = self.is_seated(device);
        let own = &mut self.devices[device];
        own.ended |= !expected && seated;
        let own = &self.devices[device];
        let until = |excuse: Time| excuse + EXCUSE > self.now;
        let long = |(begin, end): (Time, Time)| end.since(begin) > OUTAGE_KCP_MAX && until(end);
        let waits = |since: Time| self.now.since(since) > OUTAGE_KCP_MAX;
        // A game that reads nothing closes the window in the end, when its client is full.
        let read_nothing = |pause: Pause| {
            pause.kind == Fault::NeverReads && pause.end.since(pause.begin) > PAUSE_MAX
        };
        let full = reason == Disconnect::Stalled && own.pause.is_some_and(read_nothing);
        let excused = own.health != Health::Alive
            || !self.is_current(device)
            || until(own.opened_at)
            || own.harmed
            || own.orphaned
            || full
            || own.outage.is_some_and(long)
            || own.down.waits_since().is_some_and(waits);
        if expected || excused {
            return Ok(());
        }
        let conn = own.conn;
        Err(Violation::SessionLost { conn, reason })
    }

    /// Whether a device is the one that its player uses.
    pub(super) fn is_current(&self, device: usize) -> bool {
        self.players[self.devices[device].player].device == Some(device)
    }

    /// Whether the conversation of a device has been given its seat, where it is now.
    pub(super) fn is_seated(&self, device: usize) -> bool {
        let own = &self.devices[device];
        let seated = self.players[own.player].seated;
        seated.is_some_and(|(at, when)| at == own.addr && when >= own.opened_at)
    }

    /// Whether another client of its player has been given its seat, or its own from where it
    /// was before.
    pub(super) fn is_displaced(&self, device: usize) -> bool {
        let own = &self.devices[device];
        let seated = self.players[own.player].seated;
        let follows = self.is_followed(device);
        let mine = |other| follows && self.places.owner(other) == Some((device, own.conn));
        seated.is_some_and(|(other, at)| other != own.addr && at >= own.opened_at && !mine(other))
    }

    // --- The clients ----------------------------------------------------------------------

    /// One turn of a client's loop.
    pub(super) fn device_turn(&mut self, index: usize) -> Result<(), Violation> {
        let now = self.now;
        if self.devices[index].health != Health::Alive {
            self.devices[index].wake = None;
            return Ok(());
        }
        self.devices[index].client.handle_timeout(now);
        if !self.devices[index].takes_nothing(now, Fault::NeverReads) {
            self.take_news(index)?;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let device = &mut self.devices[index];
        device.client.poll_transmit(now, &mut batch);
        self.send_up(index, &batch);
        self.batch = batch;
        let device = &mut self.devices[index];
        device.wake = device.client.poll_timeout(now);
        Ok(())
    }

    /// The game of a client reads all its news.
    pub(super) fn take_news(&mut self, index: usize) -> Result<(), Violation> {
        while let Some(event) = self.devices[index].client.poll_event() {
            let conn = self.devices[index].conn;
            match &event {
                ClientEvent::Frame(_) => {}
                ClientEvent::Fetched { covers, .. } => {
                    self.note(format!("conversation {conn}: {covers:?}"));
                }
                event => self.note(format!("conversation {conn}: {event:?}")),
            }
            // Taken for started again, a client that lives gets fillers in place of what it has
            // not got, and then what it had out of turn: a piece of a match before, too, if its
            // room was created anew meanwhile. It is made to come back at the heal.
            let heard = self.oracle.heard(conn, self.now, &event);
            if !self.devices[index].harmed && !self.oracle.is_mixed(conn) {
                heard?;
            }
            if let ClientEvent::Redirected { address } = &event {
                self.judge_redirect(index, address)?;
            }
            self.react(index, &event);
            if event == ClientEvent::Reset {
                self.was_reset(index)?;
                if self.is_current(index) && !self.devices[index].harmed {
                    self.reconnect(index, false)?;
                }
            }
        }
        Ok(())
    }

    /// Begins a conversation, for the oracle.
    pub(super) fn open_conn(&mut self, player: usize) -> Conn {
        self.conversations += 1;
        let player = &self.players[player];
        let room = self.rooms[player.room].spec.room;
        match player.watches {
            Some(from) => self.oracle.opened_to_watch(player.id, room, from),
            None => self.oracle.opened(player.id, room),
        }
    }

    // --- The end --------------------------------------------------------------------------

    /// Some time after the heal: everybody is at the head, and no input is missing.
    pub(super) fn settle(&mut self, healed_at: Time) -> Result<(), Violation> {
        self.must_not_hang()?;
        let counters = self.counters();
        for (index, device) in self.devices.iter().enumerate() {
            if device.health != Health::Alive || !self.is_current(index) {
                continue;
            }
            let player = &self.players[device.player];
            let room = &self.rooms[player.room];
            let Some(newest) = self.oracle.newest(room.spec.room) else {
                continue;
            };
            let stale = self
                .oracle
                .plays(device.conn)
                .is_some_and(|of| of != newest);
            // Between two clients of one player the last proof wins, and it may be late.
            let displaced = self.is_displaced(index);
            let has_place = match player.watches {
                Some(_) => self.oracle.has_room_for_all(newest),
                None => self.oracle.is_member(newest, player.id),
            };
            let judged =
                self.oracle.plays_since(newest, healed_at) && has_place && !stale && !displaced;
            if !judged {
                continue;
            }
            // What a broadcast may wait for, and the way.
            let lag = room.broadcast_every() + Duration::from_millis(200);
            let state = format!("{:?} at {}", device.client.state(), device.addr);
            if !self.is_seated(index) {
                let conn = device.conn;
                return Err(Violation::NoSeat { conn });
            }
            self.oracle
                .must_be_at_head(device.conn, self.now, lag, state)?;
            self.oracle
                .must_be_answered(device.conn, healed_at, self.now)?;
            self.oracle
                .must_have_inputs(device.conn, device.sent_at_heal, &counters)?;
        }
        Ok(())
    }

    /// Some time after the rooms were closed: everybody knows. Then the clients go.
    pub(super) fn judge_closes(&mut self, settled_at: Time) -> Result<(), Violation> {
        for (index, device) in self.devices.iter().enumerate() {
            let of = self.oracle.plays(device.conn);
            let since = of.and_then(|of| self.oracle.over_since(of));
            let fair = since.is_some_and(|since| since >= settled_at);
            // Whose seat another client of the same player has taken is dropped without a word:
            // that one may have died since, after its proof had left.
            let counts = self.is_current(index) && !self.is_displaced(index);
            if fair && device.health == Health::Alive && counts {
                self.oracle.must_be_closed(device.conn, self.now)?;
            }
        }
        for device in &mut self.devices {
            device.health = Health::Gone;
            device.wake = None;
        }
        self.script.clear();
        self.phase = Phase::Draining;
        Ok(())
    }

    /// When [`World::judge_closes`] is due, from the moment of closing on.
    pub(super) fn close_within() -> Duration {
        CLOSE_WITHIN
    }
}
