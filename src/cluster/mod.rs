//! Several servers as one: who is there, which room lives where, and what they ask each other.
//!
//! - [`node`] is a node as it tells of itself, under its own key in etcd;
//! - [`Cluster`] is what [`crate::operations`] asks for. It and the plain values here are always
//!   there; what does the work is the feature `cluster`, the only part of the server that knows
//!   tokio, etcd and gRPC.
//!
//! The loop knows nothing of all this but one thing: that somebody else may know where a room is.

use std::time::Duration;

use thiserror::Error;

#[cfg(feature = "cluster")]
pub mod convert;
#[cfg(feature = "cluster")]
pub mod etcd;
#[cfg(feature = "cluster")]
pub mod events;
#[cfg(feature = "cluster")]
pub mod grpc;
#[cfg(feature = "cluster")]
pub mod instance;
#[cfg(feature = "cluster")]
pub mod member;
pub mod node;
pub mod options;
#[cfg(feature = "cluster")]
pub mod pb;
#[cfg(feature = "cluster")]
pub mod peers;
pub mod placement;
#[cfg(feature = "cluster")]
pub mod runtime;
#[cfg(feature = "cluster")]
pub mod side;

use crate::admin::order::Order;
use crate::engine::id::RoomId;
use crate::operations::{Created, Located};
use node::{Instance, NodeId, NodeRecord};

/// What somebody else says, fit for a line of the log and of a terminal: without control characters,
/// and at most [`FOREIGN_WORDS_CHARS_MAX`](crate::limits::FOREIGN_WORDS_CHARS_MAX) long.
#[cfg(feature = "cluster")]
fn foreign_words(text: &str) -> String {
    let words = text.chars().take(crate::limits::FOREIGN_WORDS_CHARS_MAX);
    words
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A name that the maker of a request gives it, so that asking again makes no second room:
/// 1 to [`REQUEST_KEY_CHARS_MAX`](crate::limits::REQUEST_KEY_CHARS_MAX) printable characters of
/// ASCII without spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey(String);

impl RequestKey {
    /// The key of this text, if it can be one.
    pub fn new(text: &str) -> Option<RequestKey> {
        let fits = (1..=crate::limits::REQUEST_KEY_CHARS_MAX).contains(&text.len());
        (fits && text.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| RequestKey(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A room's number is ours, until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The room.
    pub room: RoomId,
    /// Tells this claim from earlier and later ones of the same number.
    pub nonce: u64,
}

/// Who has a room's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// Which one of that name.
    pub instance: Instance,
    /// The request that made the room, if it had a key.
    pub request: Option<RequestKey>,
}

/// How claiming a room's number went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is ours: nobody else in the cluster makes a room of this number.
    Held(Claim),
    /// etcd does not answer, or there is none: it is claimed once it does.
    Unclaimed,
    /// It is another node's.
    Taken(Holder),
}

/// Another node, as we know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it said last.
    pub record: NodeRecord,
    /// Since then, in ms.
    pub age_ms: u64,
}

/// How things are with etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdStats {
    /// We are registered, and etcd answers.
    pub is_connected: bool,
    /// Since then: connected, or not.
    pub since: Duration,
    /// Why not, if not.
    pub why: Option<String>,
    /// Times that a connection was made.
    pub connections: u64,
    /// Leases that were lost: their keys went, and were put anew.
    pub leases_lost: u64,
    /// Values under the prefix that name nobody.
    pub skipped: u64,
    /// Nodes, ourselves among them.
    pub nodes: usize,
    /// Rooms whose number is ours.
    pub claims_held: usize,
    /// Rooms whose number is not ours, or not yet; the contested ones among them.
    pub claims_wanted: usize,
    /// Rooms whose number is another node's.
    pub contested: usize,
}

/// Nobody knows, because etcd does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("etcd does not answer: {0}")]
pub struct NoEtcd(pub String);

/// Why another node did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// It did nothing, as far as anybody can tell: it was not reached.
    #[error("node {node} cannot be reached: {why}")]
    Unreached {
        /// Which.
        node: NodeId,
        /// By gRPC and by HTTP.
        why: String,
    },
    /// It was asked and may have done it, but gave no answer.
    #[error("node {node} does not answer: {why}; it may have done what it was asked")]
    Silent {
        /// Which.
        node: NodeId,
        /// By gRPC and by HTTP.
        why: String,
    },
    /// It refused, for a reason that may hold for it alone: it is full, late, draining.
    #[error("node {node}: {why}")]
    Unable {
        /// Which.
        node: NodeId,
        /// Its words.
        why: String,
    },
    /// It refused, for a reason that holds everywhere: the room exists, a field is wrong.
    #[error("node {node}: {why}")]
    Refused {
        /// Which.
        node: NodeId,
        /// The room exists, else a field cannot be.
        exists: bool,
        /// Its words.
        why: String,
    },
}

/// What the operations ask of the cluster that this server is part of. Each call may take seconds:
/// none is for the loop's thread, nor for one of tokio's that others wait for.
pub trait Cluster: Send + Sync {
    /// This node as it tells of itself.
    fn own(&self) -> NodeRecord;

    /// The other nodes, in the order of their ids.
    fn others(&self) -> Vec<Seen>;

    /// How things are with etcd.
    fn etcd(&self) -> EtcdStats;

    /// What somebody should look at: a sentence each.
    fn warnings(&self) -> Vec<String>;

    /// Claims a room's number for a match that is about to be created here.
    fn claim(&self, room: RoomId, request: Option<&RequestKey>) -> Claimed;

    /// Gives a claim up, because no match came of it. (That of a match ends with it, by itself.)
    fn release(&self, claim: Claim);

    /// Who has a room.
    ///
    /// # Errors
    /// [`NoEtcd`].
    fn holder(&self, room: RoomId) -> Result<Option<Holder>, NoEtcd>;

    /// Has another node create a room, for itself.
    ///
    /// # Errors
    /// [`PeerError`].
    fn create_at(&self, node: &NodeRecord, order: &Order) -> Result<Created, PeerError>;

    /// Asks another node for a room of its own.
    ///
    /// # Errors
    /// [`PeerError`].
    fn room_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError>;

    /// Has another node close a room of its own.
    ///
    /// # Errors
    /// [`PeerError`].
    fn close_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError>;
}
