//! How a room comes to be: on which node, under whose claim, and what is told of it.
//!
//! The rules, in the order of their weight: no request makes two rooms; no number has two matches in
//! the cluster, as far as etcd can tell; a room is made whenever somebody can make it.
//!
//! - A node that was asked and gave no answer may have made the room. So no other is asked then,
//!   and whoever asks again with the same key is sent to it again.
//! - A loop that gave no answer in time may make the room later. Its end of the channel is kept for
//!   a while on a thread of its own, so that the claim goes if it does not, and the answer is there
//!   for who asks again.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::Instant;

use super::requests::{Begin, Pending};
use super::{Created, Home, Located, Operations, Refusal, Tickets, find};
use crate::admin::order::{Order, Place};
use crate::cluster::node::{Instance, NodeId, NodeRecord};
use crate::cluster::placement::{Outcome, Placements};
use crate::cluster::{Claim, Claimed, Cluster, Holder, PeerError, RequestKey, Seen};
use crate::engine::auth::RoomSecret;
use crate::engine::id::RoomId;
use crate::engine::view::{CreateError, RoomView};
use crate::io::control::{Answer, Control, PATIENCE, Unavailable};
use crate::limits::{
    CREATION_LIFE, NODES_NAMED_MAX, PLACE_TRIES_MAX, RELEASE_LOOK_EVERY, RELEASE_LOOKS_MAX,
    REQUEST_KEY_PATIENCE,
};

/// The loop's answer to an order.
type Answered = Result<RoomView, CreateError>;

/// What is told of a room beside what the loop tells, once it is there.
struct Telling {
    secret: RoomSecret,
    tickets: Option<Tickets>,
    home: Option<Home>,
}

impl Telling {
    fn created(self, view: RoomView, serial: u64) -> Created {
        let is_watched = view.watchers_max > 0;
        Created {
            tickets: match &self.tickets {
                Some(tickets) => tickets.of_room(&view),
                None => Vec::new(),
            },
            secret: self.secret.to_hex(),
            watch_secret: is_watched.then(|| self.secret.for_watchers().to_hex()),
            room: Located {
                view,
                home: self.home,
            },
            serial,
        }
    }
}

/// A claim that goes unless the room comes.
struct Held {
    claim: Claim,
    cluster: Arc<dyn Cluster>,
}

impl Held {
    fn release(self) {
        self.cluster.release(self.claim);
    }
}

/// How a room's number stands in the cluster.
enum Number {
    /// Nobody else has it; it is claimed where there is a cluster and etcd answers.
    Free(Option<Held>),
    /// The same request has made the room on another node already.
    Made(Box<Created>),
}

impl Operations {
    /// Creates a room where the order says.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn create(&self, mut order: Order) -> Result<Created, Refusal> {
        let is_elsewhere = self.is_in_cluster() && order.place != Place::Here;
        if is_elsewhere && order.request_key.is_none() {
            order.request_key = Some(draw_key()?);
        }
        let Some(key) = order.request_key.clone() else {
            return self.carry_out(&order, &mut None, None);
        };
        let (now, patience) = (Instant::now(), REQUEST_KEY_PATIENCE);
        let is_own = |cluster: &dyn Cluster| order.place == Place::Node(cluster.own().id);
        if is_elsewhere
            && (self.requests.knows(&key, now) || self.cluster.as_deref().is_some_and(is_own))
        {
            order.place = Place::Here;
        }
        let requests = if is_elsewhere && order.place != Place::Here {
            &self.placing
        } else {
            match self.placing.outcome(&key, &order, now) {
                Some(Begin::Answered(created)) => return Ok(*created),
                Some(Begin::Other) => return Err(Refusal::KeyUsed(key)),
                _ => &self.requests,
            }
        };
        let begin = self.away(|| requests.begin(&key, &order, now, patience));
        let (pending, doubt) = match begin {
            Begin::Go(pending, doubt) => (pending, doubt),
            Begin::Answered(created) => return Ok(*created),
            Begin::Other => return Err(Refusal::KeyUsed(key)),
            Begin::UnderWay => return Err(Refusal::UnderWay(key)),
        };
        let doubted = doubt.and_then(|(node, instance)| {
            let cluster = self.cluster.as_deref()?;
            let own = cluster.own();
            if own.id == node {
                return (own.instance == instance).then_some(own);
            }
            find(cluster, &node, instance)
        });
        let mut pending = Some(pending);
        let created = self.carry_out(&order, &mut pending, doubted)?;
        if let Some(pending) = pending {
            pending.finish(&created, Instant::now());
        }
        Ok(created)
    }

    /// Creates the room on `doubted` if that may have it already, else where the order says. Takes
    /// `pending` if the end of the request is not told by what it returns.
    fn carry_out(
        &self,
        order: &Order,
        pending: &mut Option<Pending>,
        doubted: Option<NodeRecord>,
    ) -> Result<Created, Refusal> {
        let Some(cluster) = self.cluster.clone() else {
            return match &order.place {
                Place::Here | Place::Auto => self.create_here(order, pending),
                Place::Node(id) => Err(no_such_node(id, &[])),
            };
        };
        if let Some(node) = doubted {
            let again = match node.id == cluster.own().id {
                true => self.place_here(&*cluster, order, pending),
                false => self.create_at(&*cluster, &node, order, pending),
            };
            match again {
                // It has not made the room, and will not.
                Err(Refusal::Peer(PeerError::Unable { .. })) => {}
                Err(Refusal::Peer(why @ PeerError::Unreached { .. })) => {
                    return Err(doubtful(&node, why, order, pending));
                }
                result => return result,
            }
        }
        match &order.place {
            Place::Here => self.create_here(order, pending),
            Place::Auto => self.create_somewhere(&*cluster, order, pending),
            Place::Node(id) => {
                let others = cluster.others();
                let node = others.iter().find(|seen| seen.record.id == *id);
                let node = node.ok_or_else(|| {
                    let own = [cluster.own().id];
                    let ids = others.iter().map(|seen| seen.record.id.clone());
                    let known: Vec<NodeId> = own.into_iter().chain(ids).collect();
                    no_such_node(id, &known)
                })?;
                self.create_at(&*cluster, &node.record, order, pending)
            }
        }
    }

    // --- Elsewhere ------------------------------------------------------------------------

    /// Creates the room on the best node that takes it.
    fn create_somewhere(
        &self,
        cluster: &dyn Cluster,
        order: &Order,
        pending: &mut Option<Pending>,
    ) -> Result<Created, Refusal> {
        let mut tried: Vec<NodeId> = Vec::new();
        let mut failures: Vec<String> = Vec::new();
        while tried.len() < PLACE_TRIES_MAX {
            let own = self.own_now(cluster);
            let own_id = cluster.own().id;
            let nodes = nodes(own.ok(), &own_id, cluster.others());
            let (now, seats) = (Instant::now(), order.members.len());
            let chosen = self.placements().choose(now, seats, &nodes, &tried);
            let reserved = match chosen {
                Ok(reserved) => reserved,
                Err(why) => {
                    failures.push(why);
                    break;
                }
            };
            let id = reserved.node.clone();
            let node = nodes.iter().find(|seen| seen.record.id == id);
            let node = node.expect("one of them was chosen");
            let result = match id == own_id {
                true => self.place_here(cluster, order, pending),
                false => self.create_at(cluster, &node.record, order, pending),
            };
            let outcome = outcome(&id, &result);
            self.placements().settle(reserved, outcome, Instant::now());
            let unreached = matches!(result, Err(Refusal::Peer(PeerError::Unreached { .. })));
            match result {
                Err(refusal) if refusal.is_of_this_node() => failures.push(match id == own_id {
                    true => format!("node {id}: {refusal}"),
                    false => refusal.to_string(),
                }),
                result => return result,
            }
            if !unreached {
                self.away(|| until_released(cluster, order.room, node.record.instance));
            }
            tried.push(id);
        }
        Err(Refusal::NoNode(failures.join("; ")))
    }

    /// Has another node create the room.
    fn create_at(
        &self,
        cluster: &dyn Cluster,
        node: &NodeRecord,
        order: &Order,
        pending: &mut Option<Pending>,
    ) -> Result<Created, Refusal> {
        let there = Order {
            place: Place::Here,
            ..order.clone()
        };
        match self.away(|| cluster.create_at(node, &there)) {
            Ok(created) => Ok(created),
            Err(why @ PeerError::Silent { .. }) => Err(doubtful(node, why, order, pending)),
            Err(error) => Err(error.into()),
        }
    }

    fn placements(&self) -> MutexGuard<'_, Placements> {
        let placements = self.placements.lock();
        placements.expect("nobody panics while holding placements")
    }

    // --- Here -----------------------------------------------------------------------------

    /// Creates the room here as another node would have us do it.
    fn place_here(
        &self,
        cluster: &dyn Cluster,
        order: &Order,
        pending: &mut Option<Pending>,
    ) -> Result<Created, Refusal> {
        let result = self.create(Order {
            place: Place::Here,
            ..order.clone()
        });
        let is_doubtful = |why: &Refusal| {
            matches!(
                why,
                Refusal::Unanswered(_) | Refusal::Silent { .. } | Refusal::UnderWay(_)
            )
        };
        if result.as_ref().is_err_and(is_doubtful)
            && let Some(pending) = pending.take()
        {
            let own = cluster.own();
            pending.doubt(own.id, own.instance, Instant::now());
        }
        result
    }

    /// Creates the room here, under a claim if there is a cluster.
    fn create_here(
        &self,
        order: &Order,
        pending: &mut Option<Pending>,
    ) -> Result<Created, Refusal> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| Refusal::NoRandomness)?;
        let secret = RoomSecret::from_bytes(bytes);
        let seed = getrandom::u32().map_err(|_| Refusal::NoRandomness)?;
        let telling = Telling {
            secret,
            tickets: self.tickets.clone(),
            home: self.home(),
        };
        let held = match self.claim(order, pending)? {
            Number::Free(held) => held,
            Number::Made(created) => return Ok(*created),
        };
        let spec = order.clone().into_spec(seed.cast_signed(), secret);
        let (sender, answers) = mpsc::sync_channel(1);
        // The asker may have gone.
        let answer = Answer::to(move |answer| drop(sender.try_send(answer)));
        let mut is_posted = false;
        let answered: Result<Answered, Unavailable> = self.ask(|control| {
            control.post(Control::Create(spec, answer))?;
            is_posted = true;
            answers.recv_timeout(PATIENCE).map_err(|error| match error {
                RecvTimeoutError::Timeout => Unavailable::Late,
                RecvTimeoutError::Disconnected => Unavailable::Stopped,
            })
        });
        match answered {
            Ok(Ok(view)) => {
                let serial = match self.is_in_cluster() {
                    true => self.load().map_or(0, |load| load.serial),
                    false => 0,
                };
                Ok(telling.created(view, serial))
            }
            Err(late @ Unavailable::Late) if is_posted => {
                linger(answers, held, pending.take(), telling);
                Err(Refusal::Unanswered(late))
            }
            not_done => {
                if let Some(held) = held {
                    self.away(|| held.release());
                }
                match not_done {
                    Ok(answered) => Err(answered.expect_err("the room was dealt with").into()),
                    Err(unavailable) => Err(unavailable.into()),
                }
            }
        }
    }

    /// Claims the room's number. Where the same request has made the room on another node already,
    /// what that answers.
    fn claim(&self, order: &Order, pending: &mut Option<Pending>) -> Result<Number, Refusal> {
        let Some(cluster) = self.cluster.clone() else {
            return Ok(Number::Free(None));
        };
        let key = order.request_key.as_ref();
        let holder = match self.away(|| cluster.claim(order.room, key)) {
            Claimed::Held(claim) => return Ok(Number::Free(Some(Held { claim, cluster }))),
            Claimed::Unclaimed => return Ok(Number::Free(None)),
            // Whether the match is over, the loop knows better.
            Claimed::Taken(holder) if holder.instance == cluster.own().instance => {
                return Ok(Number::Free(None));
            }
            Claimed::Taken(holder) => holder,
        };
        let Holder {
            node,
            instance,
            request,
        } = holder;
        let refusal = Refusal::Elsewhere {
            room: order.room,
            node: node.clone(),
        };
        if key.is_none() || request.as_ref() != key {
            return Err(refusal);
        }
        let there = find(&*cluster, &node, instance).ok_or(refusal)?;
        let created = self.create_at(&*cluster, &there, order, pending)?;
        Ok(Number::Made(Box::new(created)))
    }
}

/// The refusal of a request that `node` may have carried out; it is remembered.
fn doubtful(
    node: &NodeRecord,
    why: PeerError,
    order: &Order,
    pending: &mut Option<Pending>,
) -> Refusal {
    if let Some(pending) = pending.take() {
        pending.doubt(node.id.clone(), node.instance, Instant::now());
    }
    match order.request_key.clone() {
        Some(key) => Refusal::Silent { why, key },
        None => why.into(),
    }
}

/// Waits for a loop that is late. Nobody is told but who asks again with the request's key.
fn linger(
    answers: Receiver<Answered>,
    held: Option<Held>,
    pending: Option<Pending>,
    telling: Telling,
) {
    if held.is_none() && pending.is_none() {
        return;
    }
    let wait = move || match answers.recv_timeout(CREATION_LIFE) {
        Ok(Ok(view)) => {
            if let Some(pending) = pending {
                pending.finish(&telling.created(view, 0), Instant::now());
            }
        }
        // Then it may still come, and the number stays ours.
        Err(RecvTimeoutError::Timeout) => {}
        Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
            if let Some(held) = held {
                held.release();
            }
        }
    };
    let thread = thread::Builder::new().name("creation".to_owned());
    if let Err(error) = thread.spawn(wait) {
        log::warn!("a room that is created late may stay claimed: {error}");
    }
}

/// Waits for a while until the claim of a node that has refused the room is gone from etcd, where it
/// goes a moment later: the next node would otherwise find that the same request is being carried
/// out there, and ask it.
fn until_released(cluster: &dyn Cluster, room: RoomId, by: Instance) {
    for _ in 0..RELEASE_LOOKS_MAX {
        match cluster.holder(room) {
            Ok(Some(holder)) if holder.instance == by => thread::sleep(RELEASE_LOOK_EVERY),
            Ok(_) | Err(_) => return,
        }
    }
}

/// All nodes: this one, unless its loop does not answer, and the others.
fn nodes(own: Option<NodeRecord>, own_id: &NodeId, others: Vec<Seen>) -> Vec<Seen> {
    let own = own.map(|record| Seen { record, age_ms: 0 });
    // While two nodes go by one name, ours is us.
    let others = others.into_iter().filter(|seen| seen.record.id != *own_id);
    own.into_iter().chain(others).collect()
}

/// What a creation on node `id` means for its place there.
fn outcome(id: &NodeId, result: &Result<Created, Refusal>) -> Outcome {
    match result {
        Ok(created) => match &created.room.home {
            // The same request had made it there.
            Some(home) if home.node != *id => Outcome::Free,
            _ => Outcome::Taken(created.serial),
        },
        Err(refusal) if refusal.is_of_this_node() => Outcome::Failed,
        Err(Refusal::Silent { .. } | Refusal::Unanswered(_)) => Outcome::Failed,
        Err(_) => Outcome::Free,
    }
}

/// The refusal of a place that is no node, with the names of some that are.
fn no_such_node(id: &NodeId, known: &[NodeId]) -> Refusal {
    let right = match known {
        [] => "this server is part of no cluster (--etcd); leave it out".to_owned(),
        known => {
            let some = known.iter().take(NODES_NAMED_MAX);
            let names: Vec<&str> = some.map(NodeId::as_str).collect();
            let more = match known.len().saturating_sub(NODES_NAMED_MAX) {
                0 => String::new(),
                more => format!(" and {more} more (GET /api/cluster)"),
            };
            let names = names.join(", ");
            format!("give here, auto, or one of the nodes {names}{more}")
        }
    };
    Refusal::NoSuchNode {
        place: format!("`{id}` is no node that is there now; {right}"),
    }
}

/// 128 random bits, in hexadecimal digits.
fn draw_key() -> Result<RequestKey, Refusal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| Refusal::NoRandomness)?;
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    Ok(RequestKey::new(&digits).expect("32 digits are a key"))
}
