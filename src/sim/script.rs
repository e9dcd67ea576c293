//! What people, their devices and the operator do in a world: all of it drawn from the seed.
//!
//! An [`Act`] is one entry of the script. Those that a device does again and again name the
//! conversation they belong to, and mean nothing once that is another. What goes wrong with
//! a device is in trouble.rs, what strangers do in attack.rs.

use std::net::SocketAddr;
use std::time::Duration;

use super::crash::{How, Where};
use super::fault::Fault;
use super::network::Author;
use super::oracle::{Conn, Violation, input_of};
use super::path::Path;
use super::rng::Rng;
use super::signals::Signals;
use super::trouble::OUTAGE_GAP;
use super::world::{Command, Device, Health, OUTAGE_KCP_MAX, Phase, SETTLE, Tempo, World};
use crate::client::{Client, ClientConfig, ClientEvent, ClientState};
use crate::engine::auth::RoomSecret;
use crate::engine::id::{Conv, FrameId, Percent, PlayerId, RoomId};
use crate::engine::time::Time;
use crate::engine::view::RoomSpec;
use crate::engine::wire::frame::Input;
use crate::engine::wire::message::{Uplink, Version, WatchFrom};

/// Time between two looks of a player at a client that may be stuck.
const WATCH_EVERY: Duration = Duration::from_millis(300);
/// Time after the heal in which the sessions of a flood go: the idle limit of the server, and
/// what was on its way. Before that, a full server lets nobody in.
const FLOOD_EBBS: Duration = Duration::from_secs(18);
/// What spectators are drawn from besides the seed.
const WATCHERS_SEED: u64 = 0x7761_7463_6865_7273;
/// The number of the first room of a burst; nobody plays there.
const SPARE_ROOMS: u64 = 1_000_000;

/// How a crashed client comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Restart {
    /// On its address, with its conversation number.
    Same,
    /// On its address, with another number.
    NewConv,
    /// On another address.
    NewAddr,
}

impl Restart {
    pub(super) fn fault(self) -> Fault {
        match self {
            Restart::Same => Fault::RestartSame,
            Restart::NewConv => Fault::RestartNewConv,
            Restart::NewAddr => Fault::RestartNewAddr,
        }
    }
}

/// One thing to be done. Numbers are indices of the world's rooms, players and devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    Create(usize),
    Close(usize),
    Arrive(usize),
    Load(usize, Conn),
    Press(usize, Conn),
    Fetch(usize, Conn),
    Watch(usize, Conn),
    Trouble(usize),
    Thaw(usize),
    Restart(usize, Restart),
    Vanish(usize),
    Resume(usize, Conn),
    Return(usize, Conn),
    ReplaceAll,
    Burst(u16),
    BeginFlood,
    Flood(u16),
    Forge(usize, Conn, bool, u16),
    Crash(How, Where),
    Boot,
    Rejoin(usize, Conn),
    DiskFills,
    SyncFails,
    Heal,
    Mend,
    Settle,
    JudgeCloses(Time),
    Locate(RoomId, bool),
}

/// A room, and what becomes of it.
#[derive(Debug)]
pub(super) struct RoomPlan {
    pub(super) spec: RoomSpec,
    pub(super) hz: u32,
    pub(super) broadcast_every: u32,
    /// Another match follows when one is over.
    pub(super) again: bool,
    /// The frame after which players send their results.
    pub(super) result_at: Option<FrameId>,
}

impl RoomPlan {
    /// The longest that a frame waits for its broadcast.
    pub(super) fn broadcast_every(&self) -> Duration {
        Duration::from_secs(1) * self.broadcast_every / self.hz
    }
}

/// One player, and what they are like.
#[derive(Debug)]
pub(super) struct Player {
    pub(super) id: PlayerId,
    pub(super) room: usize,
    /// They only watch.
    pub(super) watches: Option<WatchFrom>,
    /// The device that they use now.
    pub(super) device: Option<usize>,
    /// The address that was given the seat last, and when.
    pub(super) seated: Option<(SocketAddr, Time)>,
    heartbeat_every: Option<Duration>,
    /// The mean time between two inputs.
    press_every: Duration,
    /// Bursts among a thousand inputs.
    bursts: u64,
    /// Silence after which they connect again.
    patience: Option<Duration>,
    /// They have nothing to load.
    ready_at_once: bool,
    /// They join and never say that they are ready.
    never_ready: bool,
}

// --- The plan -----------------------------------------------------------------------------

impl World {
    /// Draws rooms and players, and when they come.
    pub(super) fn write_script(&mut self) {
        for room in 0..self.rng.index(3) + 1 {
            self.plan_room(room);
        }
        self.plan_watchers();
        self.plan_elsewhere();
        let chaos = if self.rng.per_mille(150) {
            self.rng.millis(20_000..=45_000)
        } else {
            self.rng.millis(5_000..=20_000)
        };
        self.after(chaos, Act::Heal);
        let within = u64::try_from(chaos.as_millis()).expect("it is short");
        if self.crowded {
            for _ in 0..=self.rng.index(2) {
                let begins = self.rng.millis(500..=within);
                self.after(begins, Act::BeginFlood);
            }
        }
        if self.rng.per_mille(150) {
            let replaced = self.rng.millis(2_000..=within);
            self.after(replaced, Act::ReplaceAll);
        }
        if self.rng.per_mille(200) {
            // Often while the members arrive: what they have claimed is replaced.
            let latest = if self.rng.per_mille(600) {
                4_000
            } else {
                within
            };
            let begins = self.rng.millis(500..=latest);
            let rounds = u16::try_from(self.rng.within(1..=8)).expect("it is small");
            self.after(begins, Act::Burst(rounds));
        }
        self.plan_crashes(chaos);
    }

    fn plan_room(&mut self, room: usize) {
        let size = self.rng.index(6) + 1;
        let hz = [10, 15, 20, 30, 30, 60, 120][self.rng.index(7)];
        let broadcast_every = [1, 2, 3, 3, 5, 8][self.rng.index(6)];
        let max_frames = if self.rng.per_mille(250) {
            self.rng.within(20..=600)
        } else {
            5_500
        };
        let input_bytes_max = self
            .extras
            .as_mut()
            .and_then(|extras| [None, Some(0), Some(20), Some(256), Some(960)][extras.index(5)]);
        let rng = &mut self.rng;
        let result_at = rng
            .per_mille(250)
            .then(|| rng.within(30..=500))
            .map(|frame| FrameId::try_from(frame).expect("it is small"));
        let first = self.players.len();
        for _ in 0..size {
            self.plan_player(room, None);
        }
        let members = self.players[first..]
            .iter()
            .map(|player| player.id)
            .collect();
        self.rooms.push(RoomPlan {
            spec: RoomSpec {
                room: RoomId(room as u64 + 1),
                members,
                seed: self.rng.bits32().cast_signed(),
                hz: Some(hz),
                broadcast_every: Some(broadcast_every),
                max_frames: Some(u32::try_from(max_frames).expect("it is small")),
                input_bytes_max,
                watchers_max: None,
                watch_delay: None,
                secret: RoomSecret::from_bytes([0; 16]),
            },
            hz,
            broadcast_every,
            again: self.rng.per_mille(500),
            result_at,
        });
        let created = self.rng.millis(0..=1_500);
        self.after(created, Act::Create(room));
        if self.rng.per_mille(150) {
            let closed = self.rng.millis(2_000..=20_000);
            self.after(closed, Act::Close(room));
        }
    }

    /// Some rooms are watched, by strangers and by members, and not always by as many as it
    /// would take. The other worlds are as they were before anybody could watch.
    fn plan_watchers(&mut self) {
        let mut rng = Rng::new(self.seed ^ WATCHERS_SEED);
        for room in 0..self.rooms.len() {
            if !rng.per_mille(250) {
                continue;
            }
            let few = |number: u64| u32::try_from(number).expect("it is small");
            let watchers = rng.within(1..=4);
            let spec = &mut self.rooms[room].spec;
            spec.watchers_max = Some(few(watchers));
            if rng.per_mille(150) {
                spec.watchers_max = Some(few(rng.within(0..=watchers)));
            }
            spec.watch_delay = Some([0, 0, 1, 7, 30, 200, 900][rng.index(7)]);
            for number in 0..usize::try_from(watchers).expect("it is small") {
                let from = [WatchFrom::Start, WatchFrom::Newest][rng.index(2)];
                self.plan_player(room, Some(from));
                // Two of the same account would take one another's place.
                let member = self.rooms[room].spec.members.get(number).copied();
                if let Some(member) = member.filter(|_| rng.per_mille(150)) {
                    let watcher = self.players.last_mut().expect("it was just planned");
                    watcher.id = member;
                }
            }
        }
    }

    pub(super) fn plan_player(&mut self, room: usize, watches: Option<WatchFrom>) {
        let index = self.players.len();
        let rng = &mut self.rng;
        let number = index as u64 + 1;
        let id = if rng.per_mille(100) {
            u64::MAX - number
        } else {
            number
        };
        let heartbeat_every = match rng.index(4) {
            0 => None,
            1 => Some(Duration::from_secs(10)),
            _ => Some(Duration::from_secs(2)),
        };
        self.players.push(Player {
            id: PlayerId(id),
            room,
            watches,
            device: None,
            seated: None,
            heartbeat_every,
            press_every: rng.millis(20..=1_500),
            bursts: if rng.per_mille(200) { 10 } else { 0 },
            patience: rng.per_mille(300).then(|| rng.millis(2_000..=20_000)),
            ready_at_once: rng.per_mille(400),
            never_ready: rng.per_mille(30) && watches.is_none(),
        });
        let comes = self.rng.millis(0..=3_000);
        self.after(comes, Act::Arrive(index));
        if self.rng.per_mille(700) {
            let trouble = self.rng.millis(2_000..=12_000);
            self.after(trouble, Act::Trouble(index));
        }
    }

    /// A match is over: the room's number may come again, with its seats dealt anew.
    pub(super) fn plan_again(&mut self, room: RoomId) {
        let of = |plan: &RoomPlan| plan.spec.room == room;
        let planned = self.rooms.iter().position(of);
        let again = |index: &usize| self.rooms[*index].again && self.phase == Phase::Chaos;
        let Some(index) = planned.filter(again) else {
            return;
        };
        self.deal_anew(index);
        let wait = self.rng.millis(1..=4_500);
        self.after(wait, Act::Create(index));
    }

    pub(super) fn deal_anew(&mut self, room: usize) {
        let spec = &mut self.rooms[room].spec;
        // Another seed is how the oracle tells the matches apart.
        spec.seed = spec.seed.wrapping_add(1);
        let by = self.rng.index(spec.members.len());
        spec.members.rotate_left(by);
    }
}

// --- Acts ---------------------------------------------------------------------------------

impl World {
    pub(super) fn perform(&mut self, act: Act) -> Result<(), Violation> {
        let often = matches!(
            act,
            Act::Load(..)
                | Act::Press(..)
                | Act::Fetch(..)
                | Act::Watch(..)
                | Act::Flood(..)
                | Act::Forge(..)
        );
        if !often {
            self.note(format!("{act:?}"));
        }
        let chaos = self.phase == Phase::Chaos;
        match act {
            Act::Create(room) if chaos => self.commands.push(Command::Create(room)),
            Act::Close(room) if chaos => self.commands.push(Command::Close(room)),
            Act::Arrive(player) if chaos => self.arrive(player)?,
            Act::Trouble(player) if chaos => self.trouble(player)?,
            Act::Restart(device, how) if chaos => self.restart(device, how)?,
            Act::Return(device, conn) if chaos => self.come_back(device, conn)?,
            Act::ReplaceAll if chaos => self.replace_all(),
            Act::Burst(rounds) if chaos => self.burst(rounds),
            Act::BeginFlood if chaos => self.begin_flood(),
            Act::Flood(left) if chaos => self.flood(left),
            Act::Forge(device, conn, lucky, left) if chaos => {
                self.forge(device, conn, lucky, left);
            }
            Act::Crash(how, place) if chaos => self.crash_server(how, place)?,
            Act::DiskFills if chaos => self.disk_fills(),
            Act::SyncFails if chaos => self.sync_fails(),
            Act::Rejoin(device, conn) if chaos => self.rejoin(device, conn)?,
            Act::Boot => self.boot()?,
            Act::Locate(room, is_known) => self.commands.push(Command::Locate(room, is_known)),
            Act::Resume(device, conn) if self.is_live(device, conn) => self.resume(device)?,
            Act::Load(device, conn) if self.is_live(device, conn) => self.load(device)?,
            Act::Press(device, conn) if self.is_live(device, conn) => self.press(device)?,
            Act::Fetch(device, conn) if self.is_live(device, conn) => self.fetch(device)?,
            Act::Watch(device, conn) if self.is_live(device, conn) => self.look_at(device)?,
            Act::Thaw(device) => self.thaw(device)?,
            Act::Vanish(device) => self.vanish(device),
            Act::Heal => self.heal()?,
            Act::Mend => self.mend()?,
            Act::Settle => self.settled()?,
            Act::JudgeCloses(settled_at) => self.judge_closes(settled_at)?,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn is_live(&self, device: usize, conn: Conn) -> bool {
        let device = &self.devices[device];
        device.conn == conn && matches!(device.health, Health::Alive | Health::Frozen)
    }

    pub(super) fn draw_conv(&mut self) -> Conv {
        self.shared_conv.unwrap_or(Conv(self.rng.bits32()))
    }

    /// A player comes, or comes again for the next match.
    fn arrive(&mut self, player: usize) -> Result<(), Violation> {
        match self.players[player].device {
            Some(device) if self.devices[device].health == Health::Alive => {
                self.reconnect(device, false)
            }
            Some(_) => Ok(()),
            None => self.new_device(player),
        }
    }

    /// A client on a new address becomes the player's.
    pub(super) fn new_device(&mut self, player: usize) -> Result<(), Violation> {
        let conv = self.draw_conv();
        let client = self.new_client(player, conv);
        let conn = self.open_conn(player);
        self.devices.push(Device {
            addr: self.places.settle(self.devices.len(), conn),
            client,
            conn,
            player,
            health: Health::Alive,
            wake: None,
            held: Vec::new(),
            opened_at: self.now,
            asked_at: self.now,
            outage: None,
            pause: None,
            moved: false,
            reborn: false,
            harmed: false,
            forged_at: None,
            ended: false,
            signals: Signals::default(),
            orphaned: false,
            said: Vec::new(),
            told: 0,
            loaded: 0,
            resulted: false,
            sent_at_heal: 0,
            up: Path::default(),
            down: Path::default(),
        });
        let device = self.devices.len() - 1;
        self.players[player].device = Some(device);
        self.begun(device)
    }

    fn new_client(&mut self, player: usize, conv: Conv) -> Client {
        let Player {
            id,
            room,
            heartbeat_every,
            ready_at_once,
            watches,
            ..
        } = self.players[player];
        let mut config = ClientConfig::new(id, self.rooms[room].spec.room);
        config.conv = conv;
        config.clock_base = self.rng.bits32();
        config.heartbeat_every = heartbeat_every;
        config.watch = watches;
        config.version = if self.rng.per_mille(500) {
            Version::V2
        } else {
            Version::V1
        };
        let mut client = Client::new(self.now, config);
        client.join();
        if ready_at_once {
            client.ready();
        }
        client
    }

    /// A conversation has begun on a device.
    fn begun(&mut self, index: usize) -> Result<(), Violation> {
        let device = &mut self.devices[index];
        device.opened_at = self.now;
        device.asked_at = self.now;
        device.pause = None;
        device.moved = false;
        device.reborn = false;
        device.harmed = false;
        device.forged_at = None;
        device.ended = false;
        device.signals = Signals::default();
        device.orphaned = false;
        device.said.clear();
        device.told = 0;
        device.loaded = 0;
        device.resulted = false;
        device.sent_at_heal = 0;
        device.up = Path::default();
        device.down = Path::default();
        let (addr, conn) = (device.addr, device.conn);
        self.places.begin(addr, conn);
        let device = &self.devices[index];
        let (id, conv) = (device.client.player(), device.client.conv());
        self.note(format!(
            "conversation {conn} begins: player {id} at {addr}, conv {:08x}",
            conv.0
        ));
        self.after(WATCH_EVERY, Act::Watch(index, conn));
        self.device_turn(index)
    }

    /// A new conversation of the same client: on its address, or with everything new.
    pub(super) fn reconnect(&mut self, device: usize, new_addr: bool) -> Result<(), Violation> {
        let player = self.devices[device].player;
        if new_addr {
            self.vanish(device);
            return self.new_device(player);
        }
        // What a game has not read yet belongs to the conversation before.
        self.take_news(device)?;
        let conn = self.open_conn(player);
        let (conv, clock) = (Conv(self.rng.bits32()), self.rng.bits32());
        let now = self.now;
        self.oracle.continues(conn, self.devices[device].conn);
        let own = &mut self.devices[device];
        own.conn = conn;
        own.client.reconnect(now, conv, clock);
        self.begun(device)
    }

    /// A crashed client comes back.
    fn restart(&mut self, device: usize, how: Restart) -> Result<(), Violation> {
        if self.devices[device].health != Health::Dead {
            return Ok(());
        }
        let player = self.devices[device].player;
        if self.phase == Phase::Chaos {
            self.count(how.fault());
        }
        let conv = match how {
            Restart::NewAddr => return self.reconnect(device, true),
            Restart::NewConv => Conv(self.rng.bits32()),
            Restart::Same => self.devices[device].client.conv(),
        };
        let client = self.new_client(player, conv);
        let conn = self.open_conn(player);
        let own = &mut self.devices[device];
        let past = own.down.of_the_next_life();
        own.client = client;
        own.conn = conn;
        own.health = Health::Alive;
        self.begun(device)?;
        if how == Restart::Same {
            self.devices[device].reborn = true;
            self.devices[device].down = past;
        }
        Ok(())
    }

    pub(super) fn vanish(&mut self, device: usize) {
        self.devices[device].health = Health::Gone;
        self.devices[device].wake = None;
    }

    pub(super) fn thaw(&mut self, device: usize) -> Result<(), Violation> {
        if self.devices[device].health != Health::Frozen {
            return Ok(());
        }
        self.devices[device].health = Health::Alive;
        for arrival in std::mem::take(&mut self.devices[device].held) {
            self.give(device, arrival);
        }
        self.device_turn(device)
    }

    /// Loads some more, then is ready.
    fn load(&mut self, index: usize) -> Result<(), Violation> {
        let more = self.rng.within(5..=60);
        let player = &self.players[self.devices[index].player];
        let device = &mut self.devices[index];
        if device.health == Health::Alive {
            device.loaded += i32::try_from(more).expect("it is small");
            device.client.progress(Percent::clamped(device.loaded));
            if device.loaded >= 100 {
                if !player.never_ready {
                    device.client.ready();
                }
                return self.device_turn(index);
            }
        }
        let conn = device.conn;
        let wait = self.rng.millis(20..=900);
        self.after(wait, Act::Load(index, conn));
        self.device_turn(index)
    }

    /// Presses once, or very often at once, and will again.
    fn press(&mut self, index: usize) -> Result<(), Violation> {
        let device = &self.devices[index];
        let conn = device.conn;
        let Player {
            press_every,
            bursts,
            watches,
            ..
        } = self.players[device.player];
        if device.health == Health::Alive && device.client.state() == ClientState::Playing {
            let times = if self.rng.per_mille(bursts) {
                self.rng.within(65..=400)
            } else {
                1
            };
            if watches.is_some() {
                // In no log: the oracle knows of nobody who has pressed it.
                let input = input_of(conn, self.oracle.sent(conn), 0);
                let client = &mut self.devices[index].client;
                client.say(&Uplink::Input(input.command));
            } else {
                self.send_inputs(index, times);
            }
            self.device_turn(index)?;
        }
        if self.devices[index].client.state() != ClientState::Closed {
            let most = u64::try_from(press_every.as_micros()).expect("it is short");
            let wait = Duration::from_micros(self.rng.within(1_000..=2 * most));
            self.after(wait, Act::Press(index, conn));
        }
        Ok(())
    }

    /// So many inputs at once; with v2 perhaps several in a packet, and with data.
    fn send_inputs(&mut self, index: usize, times: u64) {
        let mut left = usize::try_from(times).expect("they are few");
        while left > 0 {
            let conn = self.devices[index].conn;
            let first = self.oracle.sent(conn);
            let together = self.draw_together(left);
            let inputs: Vec<Input> = (first..)
                .take(together)
                .map(|counter| input_of(conn, counter, self.draw_data_bytes(index)))
                .collect();
            let client = &mut self.devices[index].client;
            let taken = if client.inputs(&inputs) {
                &inputs[..]
            } else if client.input_with(inputs[0].command, &inputs[0].data) {
                &inputs[..1]
            } else {
                &[]
            };
            for input in taken {
                self.oracle.pressed(conn, self.now, input.data.len());
            }
            left -= taken.len().max(1);
        }
    }

    fn draw_together(&mut self, most: usize) -> usize {
        let Some(extras) = &mut self.extras else {
            return 1;
        };
        let together = 1 + extras.index(most.min(40));
        if extras.per_mille(600) { together } else { 1 }
    }

    fn draw_data_bytes(&mut self, index: usize) -> usize {
        let most = u64::from(self.devices[index].client.input_bytes_max());
        let Some(extras) = &mut self.extras else {
            return 0;
        };
        let drawn = match extras.index(8) {
            0 => extras.within(0..=most),
            1..5 => extras.within(0..=most.min(30)),
            _ => 0,
        };
        usize::try_from(drawn).expect("it is small")
    }

    /// Asks for some frames, in v2, and will again: of the past, of all, of the future, of none.
    fn fetch(&mut self, index: usize) -> Result<(), Violation> {
        let Some(extras) = &mut self.extras else {
            return Ok(());
        };
        let device = &mut self.devices[index];
        let conn = device.conn;
        let near = u64::from(device.client.next_frame()) + 20;
        let frame = |extras: &mut Rng| {
            FrameId::try_from(extras.within(0..=near)).expect("a world is short")
        };
        let (from, end) = match extras.index(6) {
            0 => (0, None),
            1 => (frame(extras), None),
            2 => (extras.bits32(), Some(extras.bits32())),
            _ => (frame(extras), Some(frame(extras))),
        };
        let wait = extras.millis(50..=4_000);
        if device.health == Health::Alive && self.oracle.has_started(conn) {
            if let Some(request) = self.devices[index].client.fetch(from, end) {
                self.oracle.asked(conn, self.now, request, from, end);
                self.note(format!("conversation {conn} asks for {from}..{end:?}"));
            }
            self.device_turn(index)?;
        }
        // Of a room that is over, once.
        if self.devices[index].client.state() != ClientState::Closed {
            self.after(wait, Act::Fetch(index, conn));
        }
        Ok(())
    }

    /// The player looks whether the client is stuck.
    fn look_at(&mut self, index: usize) -> Result<(), Violation> {
        let device = &mut self.devices[index];
        let conn = device.conn;
        let silent = device.client.silent_for(self.now);
        let player = &self.players[device.player];
        let closed = device.client.state() == ClientState::Closed;
        if device.health == Health::Alive {
            let current = self.is_current(index);
            let device = &mut self.devices[index];
            if device.client.state() == ClientState::Refused && current {
                device.client.connect();
                device.asked_at = self.now;
                self.oracle.connects_again(conn);
                self.device_turn(index)?;
            } else if self.phase == Phase::Chaos
                && current
                && !closed
                && player.patience.is_some_and(|patience| silent > patience)
            {
                let new_addr = self.rng.per_mille(500);
                return self.reconnect(index, new_addr);
            }
        }
        self.after(WATCH_EVERY, Act::Watch(index, conn));
        Ok(())
    }

    /// What a client's news make its player do.
    pub(super) fn react(&mut self, index: usize, event: &ClientEvent) {
        let device = &mut self.devices[index];
        let (player, conn) = (device.player, device.conn);
        let room = &self.rooms[self.players[player].room];
        match event {
            ClientEvent::Joined { .. } if !self.players[player].ready_at_once => {
                let wait = self.rng.millis(0..=500);
                self.after(wait, Act::Load(index, conn));
            }
            ClientEvent::Started { .. } => {
                let wait = self.rng.millis(1..=300);
                self.after(wait, Act::Press(index, conn));
                if let Some(extras) = &mut self.extras {
                    let wait = extras.millis(1..=4_000);
                    self.after(wait, Act::Fetch(index, conn));
                }
            }
            ClientEvent::Frame(frame)
                if !device.resulted && room.result_at.is_some_and(|at| frame.id >= at) =>
            {
                device.resulted = match self.players[player].watches {
                    Some(_) => device.client.say(&Uplink::Result { winner: 7 }),
                    None => device.client.result(7),
                };
            }
            ClientEvent::Closed if room.again && self.rng.per_mille(800) => {
                let wait = self.rng.millis(50..=5_000);
                if self.is_current(index) {
                    self.after(wait, Act::Arrive(player));
                }
            }
            _ => {}
        }
    }
}

// --- The operator -------------------------------------------------------------------------

impl World {
    /// Many rooms in which nobody plays are created, some of them closed and created again
    /// at once; so may be one that is played in. The last of `rounds` ends them all.
    fn burst(&mut self, rounds: u16) {
        if self.is_left_out(Fault::RoomBurst) {
            return;
        }
        self.count(Fault::RoomBurst);
        let rooms = self.rng.index(40) + 3;
        self.spares = self.spares.max(rooms);
        self.commands.extend((0..rooms).map(Command::CreateSpare));
        for room in 0..rooms {
            match self.rng.index(4) {
                0 => self.commands.push(Command::CloseSpare(room)),
                1 => self.commands.push(Command::ReplaceSpare(room)),
                _ => {}
            }
        }
        let room = self.rng.index(self.rooms.len());
        if self.rng.per_mille(500) && !self.is_left_out(Fault::RoomReplaced) {
            self.rooms[room].again = true;
            self.deal_anew(room);
            self.commands.push(Command::Replace(room));
        }
        if rounds > 1 {
            let wait = self.rng.millis(0..=400);
            self.after(wait, Act::Burst(rounds - 1));
        } else {
            let all = 0..self.spares;
            self.commands.extend(all.map(Command::CloseSpare));
        }
    }

    /// A room in which nobody plays, though its members are players.
    pub(super) fn spare(&self, index: usize) -> RoomSpec {
        let plays = |player: &&Player| player.watches.is_none();
        let players = self.players.iter().filter(plays);
        RoomSpec {
            room: RoomId(SPARE_ROOMS + index as u64),
            members: players.map(|player| player.id).collect(),
            seed: 0,
            hz: None,
            broadcast_every: None,
            max_frames: None,
            input_bytes_max: None,
            watchers_max: None,
            watch_delay: None,
            secret: RoomSecret::from_bytes([0; 16]),
        }
    }
}

// --- The end of the chaos -----------------------------------------------------------------

impl World {
    /// Ends all faults. After a flood it may take a while until the server lets anybody in.
    fn heal(&mut self) -> Result<(), Violation> {
        self.network.heal();
        self.heal_server()?;
        // Nor may it wait in the server's socket, whose loop may be late.
        self.inbox
            .retain(|arrival| arrival.author == Author::Sender);
        self.tempo = Tempo::PUNCTUAL;
        self.phase = Phase::Healed(self.now);
        self.commands
            .extend((0..self.spares).map(Command::CloseSpare));
        for device in 0..self.devices.len() {
            if self.is_current(device) {
                self.thaw(device)?;
                self.resume(device)?;
            } else {
                self.vanish(device);
            }
        }
        let ebbs = if self.flooded || self.crowded {
            FLOOD_EBBS
        } else {
            Duration::ZERO
        };
        self.after(ebbs, Act::Mend);
        Ok(())
    }

    /// Whoever was out for longer than KCP survives connects again, and so does whoever has
    /// lost the conversation or sees that the room plays another match.
    fn mend(&mut self) -> Result<(), Violation> {
        self.phase = Phase::Healed(self.now);
        for device in 0..self.devices.len() {
            let own = &self.devices[device];
            match own.health {
                Health::Dead => self.restart(device, Restart::NewConv)?,
                Health::Alive if self.needs_reconnect(device) => {
                    let new_addr = self.rng.per_mille(500);
                    self.reconnect(device, new_addr)?;
                }
                Health::Alive => self.devices[device].sent_at_heal = self.oracle.sent(own.conn),
                Health::Frozen | Health::Gone => {}
            }
        }
        if self.flooded {
            self.newcomers()?;
        }
        // Nobody loads or hesitates any more.
        for device in 0..self.devices.len() {
            let client = &mut self.devices[device].client;
            if client.state() < ClientState::Ready {
                client.ready();
                self.device_turn(device)?;
            }
        }
        self.after(SETTLE, Act::Settle);
        Ok(())
    }

    /// After a flood somebody comes to every room from an address that the server does not
    /// know.
    fn newcomers(&mut self) -> Result<(), Violation> {
        for room in 0..self.rooms.len() {
            let of = |player: &Player| player.room == room;
            let player = self.players.iter().position(of).expect("no room is empty");
            let device = self.players[player].device;
            let lives = |device: &usize| self.devices[*device].health == Health::Alive;
            if let Some(device) = device.filter(lives) {
                self.reconnect(device, true)?;
            }
        }
        Ok(())
    }

    /// Whether a client's outage is longer than what KCP survives: a cut, or something that
    /// has been under way for too long.
    fn needs_reconnect(&self, device: usize) -> bool {
        let own = &self.devices[device];
        if own.client.state() == ClientState::Closed {
            return self.misses_another_match(device);
        }
        let long = |since: Time| self.now.since(since) > OUTAGE_KCP_MAX;
        let recent = |(begin, end): (Time, Time)| {
            end.since(begin) > OUTAGE_KCP_MAX && end + OUTAGE_GAP > self.now
        };
        let out = own
            .outage
            .is_some_and(|outage| outage.1 > own.opened_at && recent(outage));
        // As long as it took nothing, the frames had to wait in the log, and they come now.
        let paused = own.pause.map_or(Time::ZERO, |pause| pause.end);
        let owed = self.oracle.frame_owed_since(own.conn, self.now);
        let follows = self.is_followed(device);
        let waits = [
            owed.map(|since| since.max(paused)),
            self.oracle.input_waits_since(own.conn),
            own.up.waits_since(),
            own.down.waits_since(),
            // Its proof is what is under way.
            (!self.is_seated(device) && !follows).then_some(own.opened_at),
        ];
        let stuck = waits
            .into_iter()
            .flatten()
            .any(|since| long(since.max(own.opened_at)));
        let silent = long(self.now - own.client.silent_for(self.now));
        let displaced = self.is_displaced(device);
        // From where it is now nobody has let it in; a forger has hit; its session has ended.
        let astray = own.moved && !self.is_seated(device);
        // These a client of v2 finds out by itself.
        let lost = !follows && (silent || astray || own.ended);
        out || stuck || displaced || lost || own.harmed || own.orphaned
    }

    /// Whether a client was told that its match is over while another one runs in its room.
    fn misses_another_match(&self, device: usize) -> bool {
        let own = &self.devices[device];
        let room = self.rooms[self.players[own.player].room].spec.room;
        let newest = self.oracle.newest(room);
        let plays = self.oracle.plays(own.conn);
        let misses = |of| plays != Some(of) || own.orphaned;
        newest.is_some_and(|of| misses(of) && self.oracle.is_playing(of))
    }

    /// Everybody has caught up, and the rooms are closed.
    fn settled(&mut self) -> Result<(), Violation> {
        let Phase::Healed(healed_at) = self.phase else {
            return Ok(());
        };
        self.settle(healed_at)?;
        if self.rng.per_mille(200) {
            self.commands.push(Command::Stop);
        } else {
            let rooms = 0..self.rooms.len();
            self.commands.extend(rooms.map(Command::Close));
        }
        let now = self.now;
        self.after(World::close_within(), Act::JudgeCloses(now));
        Ok(())
    }
}
