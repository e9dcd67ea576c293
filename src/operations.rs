//! What a user, a game's backend or another server may ask of this one: the one implementation
//! beneath HTTP ([`crate::admin`]) and gRPC.
//!
//! It holds no game state: what it knows it asks the loop for, through
//! [`crate::io::control::Handle`]. Every operation may block for a few seconds, and none is for
//! the loop's thread. Who may ask is the business of the callers.
//!
//! A loop that does not answer costs an asker two seconds. So that a few slow answers do not
//! occupy all workers for long, what is asked in the second after one is refused at once.
//!
//! - `creating` is how a room comes to be, here or on another node;
//! - `requests` remembers requests that have a key;
//! - `refusal` is why something was not done.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::admin::order::Bounds;
use crate::cluster::node::{Address, Instance, NodeId, NodeRecord, NodeState};
use crate::cluster::placement::Placements;
use crate::cluster::{Cluster, EtcdStats, PeerError, Seen};
use crate::engine::auth::Auth;
use crate::engine::config::Config;
use crate::engine::id::{MatchId, RoomId};
use crate::engine::view::{Phase, RoomView, RoomsPage};
use crate::io::control::{Answer, Control, Handle, Unavailable};
use crate::io::metrics::{Load, Stats};
use crate::limits::{HTTP_LOOP_REST, TICKET_LIFE_SLACK};
use crate::ticket::TicketSecrets;

mod creating;
mod refusal;
mod requests;

pub use refusal::{Kind, Refusal};
use requests::Requests;

/// Makes the tickets of new rooms.
#[derive(Clone, Debug)]
pub struct Tickets {
    /// What signs them.
    pub secrets: TicketSecrets,
    /// How long they live from the creation of their room on.
    pub life: Duration,
}

impl Tickets {
    /// Those of a server with these settings: they live for as long as a room can. `None` if
    /// it asks for none.
    pub fn of(config: &Config) -> Option<Tickets> {
        let Auth::Ticket(secrets) = &config.auth else {
            return None;
        };
        Some(Tickets {
            secrets: secrets.clone(),
            life: config.room_timeout + config.reconnect_grace + TICKET_LIFE_SLACK,
        })
    }

    /// A ticket for each seat of a room that was just created.
    fn of_room(&self, view: &RoomView) -> Vec<String> {
        let life = i64::try_from(self.life.as_secs()).unwrap_or(i64::MAX);
        let expires = view.created_unix.saturating_add(life);
        let players = view.seats.iter().map(|seat| seat.player);
        players
            .map(|player| self.secrets.sign(view.room, player, expires))
            .collect()
    }
}

/// Where in the cluster a room is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The node that has it.
    pub node: NodeId,
    /// Where its players connect.
    pub address: Address,
}

/// A room, and where in the cluster it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The room.
    pub view: RoomView,
    /// `None` without a cluster.
    pub home: Option<Home>,
}

/// A room that was just created. What lets its players in is told this once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The room.
    pub room: Located,
    /// The token of its players where the room's own lets them in, in hexadecimal digits.
    pub secret: String,
    /// A ticket for each of its seats, or none.
    pub tickets: Vec<String>,
    /// The token that lets somebody watch; `None` where nobody may.
    pub watch_secret: Option<String>,
    /// Rooms that its node had created since its start, this one among them; 0 without a cluster,
    /// where nobody needs it.
    pub serial: u64,
}

/// Where a room is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the whole cluster.
    Anywhere,
    /// On this server alone: what nodes ask each other, so that no question goes round.
    Here,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// This node as it is now.
    pub node: NodeRecord,
    /// The others, in the order of their ids.
    pub others: Vec<Seen>,
    /// How things are with etcd.
    pub etcd: EtcdStats,
    /// What somebody should look at: a sentence each.
    pub warnings: Vec<String>,
}

/// See the head of the file.
pub struct Operations {
    /// What the operator's settings allow.
    pub bounds: Bounds,
    tickets: Option<Tickets>,
    control: Handle,
    cluster: Option<Arc<dyn Cluster>>,
    /// Requests that are carried out here.
    requests: Arc<Requests>,
    /// Requests for which this node looks for a place. They wait for those that are carried out,
    /// here or elsewhere, and never the other way round: else two nodes that send each other the
    /// same request would wait for each other.
    placing: Arc<Requests>,
    placements: Mutex<Placements>,
    asking: AtomicUsize,
    late_at: Mutex<Option<Instant>>,
}

impl Operations {
    /// Those of the server behind `control`; with `tickets` if players need some.
    pub fn new(control: Handle, bounds: Bounds, tickets: Option<Tickets>) -> Operations {
        Operations {
            bounds,
            tickets,
            control,
            cluster: None,
            requests: Arc::default(),
            placing: Arc::default(),
            placements: Mutex::default(),
            asking: AtomicUsize::new(0),
            late_at: Mutex::new(None),
        }
    }

    /// The same as part of a cluster.
    #[must_use]
    pub fn in_cluster(mut self, cluster: Arc<dyn Cluster>) -> Operations {
        self.cluster = Some(cluster);
        self
    }

    // --- Rooms ----------------------------------------------------------------------------

    /// A room; `None` if there is none.
    ///
    /// # Errors
    /// [`Refusal`]: nobody answers who could know.
    pub fn room(&self, room: RoomId, scope: Scope) -> Result<Option<Located>, Refusal> {
        let found = self.ask(|control| control.room(room))?;
        let found = found.map(|view| self.here(view));
        self.or_elsewhere(room, scope, found, |cluster, node| {
            cluster.room_at(node, room)
        })
    }

    /// A match of this server, running or finished a while ago.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn match_(&self, id: MatchId) -> Result<Option<Located>, Refusal> {
        let found = self.ask(|control| control.match_(id))?;
        Ok(found.map(|view| self.here(view)))
    }

    /// At most `limit` rooms of this server, from slot `from` on.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn rooms(&self, from: usize, limit: usize) -> Result<RoomsPage, Refusal> {
        Ok(self.ask(|control| control.rooms(from, limit))?)
    }

    /// Ends a room's match; `None` if there is no such room.
    ///
    /// # Errors
    /// [`Refusal`]: nobody answers who could know.
    pub fn close(&self, room: RoomId, scope: Scope) -> Result<Option<Located>, Refusal> {
        if scope == Scope::Here || !self.is_in_cluster() {
            let closed = self.ask(|control| control.close(room))?;
            return Ok(closed.map(|view| self.here(view)));
        }
        // One that is over stays for a moment: its number may be another node's by now.
        let found = self.ask(|control| control.room(room))?;
        let found = match found {
            Some(view) if !is_over(&view) => {
                let closed = self.ask(|control| control.close(room))?;
                return Ok(closed.map(|view| self.here(view)));
            }
            found => found.map(|view| self.here(view)),
        };
        self.or_elsewhere(room, scope, found, |cluster, node| {
            cluster.close_at(node, room)
        })
    }

    // --- The server -----------------------------------------------------------------------

    /// Every counter.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn stats(&self) -> Result<Box<Stats>, Refusal> {
        Ok(self.ask(Handle::stats)?)
    }

    /// How much there is to do.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn load(&self) -> Result<Load, Refusal> {
        Ok(self.ask(Handle::load)?)
    }

    /// From now on takes no new rooms; the server ends with the last of those that there are. Not
    /// undone, and the same when asked again.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn drain(&self) -> Result<Load, Refusal> {
        Ok(self.ask(Handle::drain)?)
    }

    /// Asks for the load without waiting: for who must not block. The loop gives the answer, or
    /// never, if it ends.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop does not take the question.
    pub fn post_load(&self, answer: Answer<Load>) -> Result<(), Unavailable> {
        self.control.post(Control::Load(answer))
    }

    /// Whether somebody waits for the loop right now.
    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    // --- The cluster ----------------------------------------------------------------------

    /// Whether this server is part of a cluster: operations may then wait for other nodes.
    pub fn is_in_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// The cluster as this node sees it; `None` if it is part of none.
    pub fn cluster(&self) -> Option<ClusterView> {
        let cluster = self.cluster.as_ref()?;
        let node = self.own_now(&**cluster);
        Some(ClusterView {
            node: node.unwrap_or_else(|_| cluster.own()),
            others: cluster.others(),
            etcd: cluster.etcd(),
            warnings: cluster.warnings(),
        })
    }

    /// What somebody should look at in the cluster: a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let cluster = self.cluster.as_ref();
        cluster.map_or_else(Vec::new, |cluster| cluster.warnings())
    }

    // --- Inside ---------------------------------------------------------------------------

    fn here(&self, view: RoomView) -> Located {
        let home = self.home();
        Located { view, home }
    }

    fn home(&self) -> Option<Home> {
        let own = self.cluster.as_ref()?.own();
        Some(Home {
            node: own.id,
            address: own.kcp,
        })
    }

    /// This node with its loop's own numbers: what it tells others is seconds old.
    fn own_now(&self, cluster: &dyn Cluster) -> Result<NodeRecord, Unavailable> {
        let load = self.ask(Handle::load)?;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut own = cluster.own();
        own.rooms = count(load.rooms);
        own.rooms_max = count(load.rooms_max);
        own.players = count(load.players);
        own.sessions_max = count(load.sessions_max);
        own.load = load.permille;
        own.serial = load.serial;
        if load.draining {
            own.state = NodeState::Draining;
        }
        Ok(own)
    }

    /// What was found here, or what `ask` gets from the node that has the room. A match that is over
    /// counts only if nobody has a later one.
    fn or_elsewhere(
        &self,
        room: RoomId,
        scope: Scope,
        found: Option<Located>,
        ask: impl FnOnce(&dyn Cluster, &NodeRecord) -> Result<Option<Located>, PeerError>,
    ) -> Result<Option<Located>, Refusal> {
        let is_there = found.as_ref().is_some_and(|found| !is_over(&found.view));
        let Some(cluster) = self.cluster.as_deref().filter(|_| scope == Scope::Anywhere) else {
            return Ok(found);
        };
        if is_there {
            return Ok(found);
        }
        let elsewhere = self.away(|| -> Result<Option<Located>, Refusal> {
            let Some(holder) = cluster.holder(room)? else {
                return Ok(None);
            };
            if holder.instance == cluster.own().instance {
                return Ok(None);
            }
            let node = find(cluster, &holder.node, holder.instance);
            let node = node.ok_or(PeerError::Unreached {
                node: holder.node,
                why: format!("it has room {room}, but it is not there now"),
            })?;
            Ok(ask(cluster, &node)?)
        });
        match (elsewhere, found) {
            (Ok(Some(elsewhere)), _) => Ok(Some(elsewhere)),
            (_, Some(found)) => Ok(Some(found)),
            (nothing, None) => nothing,
        }
    }

    /// Does what may wait for etcd or another node.
    fn away<T>(&self, work: impl FnOnce() -> T) -> T {
        self.asking.fetch_add(1, Ordering::Relaxed);
        let answer = work();
        self.asking.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    /// Asks the loop.
    ///
    /// # Errors
    /// [`Unavailable`] if it gave no answer, or gave none a moment ago.
    fn ask<T>(
        &self,
        question: impl FnOnce(&Handle) -> Result<T, Unavailable>,
    ) -> Result<T, Unavailable> {
        if self
            .late_at()
            .is_some_and(|at| at.elapsed() < HTTP_LOOP_REST)
        {
            return Err(Unavailable::Late);
        }
        self.asking.fetch_add(1, Ordering::Relaxed);
        let answer = question(&self.control);
        self.asking.fetch_sub(1, Ordering::Relaxed);
        if let Err(Unavailable::Late) = answer {
            *self
                .late_at
                .lock()
                .expect("nobody panics while holding a time") = Some(Instant::now());
        }
        answer
    }

    fn late_at(&self) -> Option<Instant> {
        *self
            .late_at
            .lock()
            .expect("nobody panics while holding a time")
    }
}

fn is_over(view: &RoomView) -> bool {
    matches!(view.phase, Phase::Over(_))
}

/// What another node tells of itself, if it is there and has not been replaced.
fn find(cluster: &dyn Cluster, id: &NodeId, instance: Instance) -> Option<NodeRecord> {
    let mut others = cluster.others().into_iter().map(|seen| seen.record);
    others.find(|record| record.id == *id && record.instance == instance)
}
