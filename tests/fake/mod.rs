//! A loop and a cluster without sockets, for tests of what stands above them: several servers in
//! one process, each with a fake loop, and an etcd that is a map.

// Each test uses a part of it. Helpers of tests are tests, which clippy does not see.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::thread;
use std::time::Duration;

use lockstep_server::admin::order::{Bounds, Order};
use lockstep_server::admin::query;
use lockstep_server::cluster::node::{Address, Instance, NodeId, NodeRecord, NodeState};
use lockstep_server::cluster::{
    Claim, Claimed, Cluster, EtcdStats, Holder, NoEtcd, PeerError, RequestKey, Seen,
};
use lockstep_server::engine::counters::Counters;
use lockstep_server::engine::id::{MatchId, Percent, PlayerId, RoomId};
use lockstep_server::engine::view::{CreateError, OverReason, Phase, RoomSpec, RoomView, SeatView};
use lockstep_server::io::control::{self, Control, Handle};
use lockstep_server::io::metrics::{Load, ShellCounters, Stats};
use lockstep_server::operations::{Created, Located, Operations, Refusal, Scope};

pub(crate) const BOUNDS: Bounds = Bounds {
    max_players_per_room: 8,
};

/// The order of this query.
pub(crate) fn order(query: &str) -> Order {
    query::parse(query, BOUNDS).unwrap()
}

pub(crate) fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

// --- The loop -----------------------------------------------------------------------------

/// What a fake loop has, and how it behaves.
#[derive(Default)]
pub(crate) struct Loop {
    pub(crate) rooms: Mutex<BTreeMap<RoomId, RoomView>>,
    serial: AtomicU64,
    pub(crate) rooms_max: AtomicU64,
    /// It answers nothing while this holds.
    pub(crate) stalled: AtomicBool,
    /// It takes no rooms for being late.
    pub(crate) late: AtomicBool,
}

/// Starts a loop for at most `rooms_max` rooms, whose rooms stay.
pub(crate) fn start_loop(rooms_max: u64) -> (Handle, Arc<Loop>) {
    let (bell, ring) = mpsc::channel();
    let (handle, mailbox) = control::channel(move || bell.send(()).unwrap_or(()));
    let model = Arc::new(Loop::default());
    model.rooms_max.store(rooms_max, Ordering::Relaxed);
    let kept = Arc::clone(&model);
    thread::spawn(move || {
        while ring.recv().is_ok() {
            while model.stalled.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            while let Some(control) = mailbox.take() {
                model.carry_out(control);
            }
        }
    });
    (handle, kept)
}

impl Loop {
    fn carry_out(&self, control: Control) {
        let mut rooms = self.rooms.lock().unwrap();
        match control {
            Control::Create(spec, answer) => answer.give(self.create(&mut rooms, &spec)),
            Control::Close(room, answer) => {
                let view = rooms.get_mut(&room);
                if let Some(view) = view {
                    view.phase = Phase::Over(OverReason::Closed);
                }
                answer.give(rooms.get(&room).cloned());
            }
            Control::Room(room, answer) => answer.give(rooms.get(&room).cloned()),
            Control::Load(answer) => answer.give(Load {
                rooms: rooms.values().filter(|view| is_open(view)).count(),
                rooms_max: usize::try_from(self.rooms_max.load(Ordering::Relaxed)).unwrap(),
                players: 0,
                sessions_max: 10_000,
                permille: 0,
                serial: self.serial.load(Ordering::Relaxed),
                draining: false,
            }),
            Control::Stats(answer) => answer.give(Box::new(Stats {
                uptime: Duration::from_secs(1),
                degraded: None,
                engine: Counters::default(),
                shell: ShellCounters::default(),
                journal: None,
                load: 0,
                draining: false,
            })),
            other => panic!("nobody asks for {other:?}"),
        }
    }

    fn create(
        &self,
        rooms: &mut BTreeMap<RoomId, RoomView>,
        spec: &RoomSpec,
    ) -> Result<RoomView, CreateError> {
        if let Some(view) = rooms.get(&spec.room).filter(|view| is_open(view)) {
            return Err(CreateError::Exists {
                room: spec.room,
                match_id: view.match_id,
            });
        }
        if self.late.load(Ordering::Relaxed) {
            return Err(CreateError::Late);
        }
        let max = usize::try_from(self.rooms_max.load(Ordering::Relaxed)).unwrap();
        if rooms.values().filter(|view| is_open(view)).count() >= max {
            return Err(CreateError::Full { max });
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
        let view = view(spec, serial);
        rooms.insert(spec.room, view.clone());
        Ok(view)
    }
}

fn is_open(view: &RoomView) -> bool {
    !matches!(view.phase, Phase::Over(_))
}

fn view(spec: &RoomSpec, match_id: u64) -> RoomView {
    let seat = |(seat, player): (i32, &PlayerId)| SeatView {
        seat,
        player: *player,
        online: false,
        ready: false,
        progress: Percent::default(),
        cursor: 0,
        rtt: None,
        result: None,
    };
    RoomView {
        room: spec.room,
        match_id: MatchId(u64::MAX - match_id),
        phase: Phase::Waiting,
        frame: 0,
        hz: spec.hz.unwrap_or(30),
        broadcast_every: 3,
        max_frames: 5500,
        input_bytes_max: 256,
        seed: spec.seed,
        created_unix: 1_700_000_000,
        started_unix: None,
        log_bytes: 0,
        watchers: 0,
        watchers_max: spec.watchers_max.unwrap_or(0),
        watch_delay: 0,
        seats: (1..).zip(&spec.members).map(seat).collect(),
    }
}

// --- The cluster --------------------------------------------------------------------------

/// How a node behaves towards the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Fine,
    /// It is not there.
    Gone,
    /// It does what it is asked and gives no answer.
    Mute,
    /// It does nothing and gives no answer.
    Stuck,
}

/// Several servers.
#[derive(Default)]
pub(crate) struct World {
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    claims: Mutex<BTreeMap<RoomId, (u64, Holder)>>,
    nonce: AtomicU64,
    /// etcd answers nothing while this holds.
    pub(crate) etcd_down: AtomicBool,
    /// Creations that other nodes were asked for, answered or not.
    pub(crate) asked: AtomicU64,
}

#[derive(Clone)]
struct Node {
    record: NodeRecord,
    age_ms: u64,
    mood: Mood,
    operations: Arc<Operations>,
    its_loop: Arc<Loop>,
}

/// One of them as it sees the others.
struct Member {
    own: NodeId,
    instance: Instance,
    world: Weak<World>,
}

impl World {
    /// A cluster of these nodes, each for at most `rooms_max` rooms.
    pub(crate) fn new(names: &[&str], rooms_max: u64) -> Arc<World> {
        let world = Arc::new(World::default());
        for (name, number) in names.iter().zip(1..) {
            let (control, its_loop) = start_loop(rooms_max);
            let instance = Instance(number);
            let record = NodeRecord {
                id: id(name),
                instance,
                state: NodeState::Ready,
                version: "0.1.0".into(),
                kcp: Address::new(&format!("{name}.example.org:10086")).unwrap(),
                http: None,
                grpc: None,
                rooms: 0,
                rooms_max: u32::try_from(rooms_max).unwrap(),
                players: 0,
                sessions_max: 10_000,
                load: 0,
                serial: 0,
            };
            let member = Arc::new(Member {
                own: id(name),
                instance,
                world: Arc::downgrade(&world),
            });
            let operations = Operations::new(control, BOUNDS, None).in_cluster(member);
            let node = Node {
                record,
                age_ms: 0,
                mood: Mood::Fine,
                operations: Arc::new(operations),
                its_loop,
            };
            world.nodes.lock().unwrap().insert(id(name), node);
        }
        world
    }

    fn node(&self, name: &NodeId) -> Node {
        self.nodes.lock().unwrap()[name].clone()
    }

    pub(crate) fn operations(&self, name: &str) -> Arc<Operations> {
        self.node(&id(name)).operations
    }

    pub(crate) fn its_loop(&self, name: &str) -> Arc<Loop> {
        self.node(&id(name)).its_loop
    }

    /// Has a node create the room of this query.
    pub(crate) fn create(&self, at: &str, query: &str) -> Result<Created, Refusal> {
        self.operations(at).create(order(query))
    }

    pub(crate) fn feels(&self, name: &str, mood: Mood) {
        self.nodes.lock().unwrap().get_mut(&id(name)).unwrap().mood = mood;
    }

    pub(crate) fn changes(&self, name: &str, change: impl FnOnce(&mut NodeRecord, &mut u64)) {
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.get_mut(&id(name)).unwrap();
        change(&mut node.record, &mut node.age_ms);
    }

    /// Has every node tell how many rooms it has.
    pub(crate) fn publish(&self) {
        let mut nodes = self.nodes.lock().unwrap();
        for node in nodes.values_mut() {
            let rooms = node.its_loop.rooms.lock().unwrap();
            let count = rooms.values().filter(|view| is_open(view)).count();
            node.record.rooms = u32::try_from(count).unwrap();
            node.record.serial = node.its_loop.serial.load(Ordering::Relaxed);
        }
    }

    /// Rooms whose match is not over, by node.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let nodes = self.nodes.lock().unwrap();
        let count = |node: &Node| {
            let rooms = node.its_loop.rooms.lock().unwrap();
            rooms.values().filter(|view| is_open(view)).count()
        };
        let counts = nodes.iter().map(|(id, node)| (id.to_string(), count(node)));
        counts.collect()
    }

    pub(crate) fn claims(&self) -> BTreeMap<RoomId, Holder> {
        let claims = self.claims.lock().unwrap();
        let holders = claims
            .iter()
            .map(|(room, (_, holder))| (*room, holder.clone()));
        holders.collect()
    }

    /// Waits until there are this many.
    pub(crate) fn claims_become(&self, count: usize) {
        while self.claims().len() != count {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn forget(&self, claim: Claim) {
        // Longer than it takes to ask another node.
        thread::sleep(Duration::from_millis(20));
        let mut claims = self.claims.lock().unwrap();
        let held = claims.get(&claim.room);
        if held.is_some_and(|(nonce, _)| *nonce == claim.nonce) {
            claims.remove(&claim.room);
        }
    }

    /// Writes a claim as if a node had.
    pub(crate) fn claim_for(&self, room: u64, name: &str, request: Option<&str>) {
        let holder = Holder {
            node: id(name),
            instance: self.node(&id(name)).record.instance,
            request: request.map(|key| RequestKey::new(key).unwrap()),
        };
        self.claims
            .lock()
            .unwrap()
            .insert(RoomId(room), (0, holder));
    }
}

impl Member {
    fn world(&self) -> Arc<World> {
        self.world.upgrade().expect("the world outlives its nodes")
    }

    /// Asks another node, which behaves as it feels.
    fn ask<T>(
        &self,
        node: &NodeRecord,
        question: impl FnOnce(&Operations) -> Result<T, Refusal>,
    ) -> Result<T, PeerError> {
        let there = self.world().node(&node.id);
        let (node, why) = (node.id.clone(), "so it is told".to_owned());
        match there.mood {
            Mood::Gone => Err(PeerError::Unreached { node, why }),
            Mood::Stuck => Err(PeerError::Silent { node, why }),
            Mood::Mute => {
                let _ = question(&there.operations);
                Err(PeerError::Silent { node, why })
            }
            Mood::Fine => question(&there.operations).map_err(|refusal| {
                use lockstep_server::operations::Kind;
                let why = refusal.to_string();
                match refusal.kind() {
                    Kind::Exists | Kind::Invalid | Kind::KeyUsed => PeerError::Refused {
                        exists: refusal.kind() == Kind::Exists,
                        node,
                        why,
                    },
                    Kind::Unsure => PeerError::Silent { node, why },
                    Kind::Full | Kind::Unavailable | Kind::Internal => {
                        PeerError::Unable { node, why }
                    }
                }
            }),
        }
    }
}

impl Cluster for Member {
    fn own(&self) -> NodeRecord {
        self.world().node(&self.own).record
    }

    fn others(&self) -> Vec<Seen> {
        let world = self.world();
        let nodes = world.nodes.lock().unwrap();
        let others = nodes.values().filter(|node| node.record.id != self.own);
        let seen = others.map(|node| Seen {
            record: node.record.clone(),
            age_ms: node.age_ms,
        });
        seen.collect()
    }

    fn etcd(&self) -> EtcdStats {
        EtcdStats::default()
    }

    fn warnings(&self) -> Vec<String> {
        vec!["room 9 is node b's, too".to_owned()]
    }

    fn claim(&self, room: RoomId, request: Option<&RequestKey>) -> Claimed {
        let world = self.world();
        if world.etcd_down.load(Ordering::Relaxed) {
            return Claimed::Unclaimed;
        }
        let mut claims = world.claims.lock().unwrap();
        if let Some((_, holder)) = claims.get(&room) {
            return Claimed::Taken(holder.clone());
        }
        let nonce = world.nonce.fetch_add(1, Ordering::Relaxed) + 1;
        let holder = Holder {
            node: self.own.clone(),
            instance: self.instance,
            request: request.cloned(),
        };
        claims.insert(room, (nonce, holder));
        Claimed::Held(Claim { room, nonce })
    }

    /// As the real one it is told to somebody who does it.
    fn release(&self, claim: Claim) {
        let world = self.world();
        thread::spawn(move || world.forget(claim));
    }

    fn holder(&self, room: RoomId) -> Result<Option<Holder>, NoEtcd> {
        let world = self.world();
        if world.etcd_down.load(Ordering::Relaxed) {
            return Err(NoEtcd("so it is told".to_owned()));
        }
        Ok(world.claims().remove(&room))
    }

    fn create_at(&self, node: &NodeRecord, order: &Order) -> Result<Created, PeerError> {
        self.world().asked.fetch_add(1, Ordering::Relaxed);
        self.ask(node, |operations| operations.create(order.clone()))
    }

    fn room_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError> {
        self.ask(node, |operations| operations.room(room, Scope::Here))
    }

    fn close_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError> {
        self.ask(node, |operations| operations.close(room, Scope::Here))
    }
}
