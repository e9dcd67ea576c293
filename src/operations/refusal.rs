//! Why an operation was not carried out, in words for whoever asked.

use thiserror::Error;

use crate::cluster::node::NodeId;
use crate::cluster::{NoEtcd, PeerError, RequestKey};
use crate::engine::id::RoomId;
use crate::engine::view::CreateError;
use crate::io::control::Unavailable;

/// Why an operation was not carried out. The text is for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The loop gave no answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The room cannot be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The system has none.
    #[error("the system gives no random numbers")]
    NoRandomness,
    /// The loop took the order of a room, and gave no answer in time.
    #[error("{0}; the room may still be created")]
    Unanswered(Unavailable),
    /// Another node has a match in the room.
    #[error("room {room} has a match that is not over, on node {node}")]
    Elsewhere {
        /// The room.
        room: RoomId,
        /// Who has it.
        node: NodeId,
    },
    /// The request's key was used for another room.
    #[error("`{}` was used for another order within the last ten minutes; draw a new key for each \
             room, and repeat an order unchanged", .0.as_str())]
    KeyUsed(RequestKey),
    /// Another request of the same key has not come to an end.
    #[error("the request `{}` is still under way; ask again", .0.as_str())]
    UnderWay(RequestKey),
    /// No node of that name.
    #[error("{place}")]
    NoSuchNode {
        /// The value, and what would be right.
        place: String,
    },
    /// No node takes the room.
    #[error("no node takes the room: {0}")]
    NoNode(String),
    /// A node was asked to create the room, and gave no answer.
    #[error(
        "{why}; ask again with request_key={}, which creates no second room",
        key.as_str()
    )]
    Silent {
        /// The node and what is known.
        why: PeerError,
        /// The request's key.
        key: RequestKey,
    },
    /// Another node was asked and did not do it.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Whether another node has the room nobody can say.
    #[error("this server has no such room, and {0}: another node may have it")]
    NoEtcd(#[from] NoEtcd),
}

/// What a refusal means for who asked; HTTP and gRPC have a code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be as it is: 400, INVALID_ARGUMENT.
    Invalid,
    /// The room has a match: 409, ALREADY_EXISTS.
    Exists,
    /// The key was used for another order: 422, INVALID_ARGUMENT.
    KeyUsed,
    /// There is no space: 503, RESOURCE_EXHAUSTED.
    Full,
    /// It was not done, and may be later or elsewhere: 503, UNAVAILABLE.
    Unavailable,
    /// It may have been done: 503 with `"unsure": true`, DEADLINE_EXCEEDED.
    Unsure,
    /// It is our fault: 500, INTERNAL.
    Internal,
}

impl Refusal {
    /// What it means.
    pub fn kind(&self) -> Kind {
        match self {
            Refusal::Create(CreateError::Exists { .. }) | Refusal::Elsewhere { .. } => Kind::Exists,
            Refusal::Create(CreateError::Invalid { .. }) | Refusal::NoSuchNode { .. } => {
                Kind::Invalid
            }
            Refusal::Create(CreateError::Full { .. }) | Refusal::NoNode(_) => Kind::Full,
            Refusal::Create(_) | Refusal::Unavailable(_) | Refusal::NoEtcd(_) => Kind::Unavailable,
            Refusal::NoRandomness => Kind::Internal,
            Refusal::Unanswered(_) | Refusal::UnderWay(_) | Refusal::Silent { .. } => Kind::Unsure,
            Refusal::KeyUsed(_) => Kind::KeyUsed,
            Refusal::Peer(error) => match error {
                PeerError::Unreached { .. } | PeerError::Unable { .. } => Kind::Unavailable,
                PeerError::Silent { .. } => Kind::Unsure,
                PeerError::Refused { exists: true, .. } => Kind::Exists,
                PeerError::Refused { exists: false, .. } => Kind::Invalid,
            },
        }
    }

    /// The field that it is about, if it is about one.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Refusal::Create(CreateError::Invalid { field, .. }) => Some(field),
            Refusal::KeyUsed(_) => Some("request_key"),
            Refusal::NoSuchNode { .. } => Some("place"),
            _ if self.kind() == Kind::Exists => Some("room"),
            _ => None,
        }
    }

    /// What is wrong with the field, or at all, without the field's name.
    pub fn reason(&self) -> String {
        match self {
            Refusal::Create(CreateError::Invalid { reason, .. }) => reason.clone(),
            _ => self.to_string(),
        }
    }

    /// Whether another node may take a room that was refused so here.
    pub(super) fn is_of_this_node(&self) -> bool {
        matches!(self.kind(), Kind::Full | Kind::Unavailable)
    }
}
