//! What happens to rooms, for those who follow it from another thread: the engine's events in a
//! form that holds nothing of the engine.
//!
//! The loop gives each to a [`Feed`] as it happens. A feed must not block, and what it cannot
//! take is its own to count.

use crate::engine::drops::Disconnect;
use crate::engine::id::{MatchId, PlayerId, RoomId};
use crate::engine::view::OverReason;

/// Takes what happens, in its order. Called on the loop's thread.
pub type Feed = Box<dyn FnMut(RoomEvent) + Send>;

/// Something happened to a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomEvent {
    /// When, in Unix milliseconds.
    pub unix_ms: i64,
    /// Its number.
    pub room: RoomId,
    /// Its match.
    pub match_id: MatchId,
    /// What.
    pub kind: RoomEventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomEventKind {
    /// It was created for so many players.
    Created {
        /// How many.
        players: usize,
    },
    /// A player took a seat, perhaps again.
    Joined {
        /// Who.
        player: PlayerId,
    },
    /// Its match started.
    Started,
    /// The session that held a seat ended.
    Left {
        /// Who.
        player: PlayerId,
        /// Why.
        reason: Disconnect,
    },
    /// A player reported the result.
    Result {
        /// Who.
        player: PlayerId,
        /// The winner.
        winner: u64,
    },
    /// Its match ended; the number is free again.
    Over {
        /// Why.
        reason: OverReason,
        /// How many frames there were.
        frames: u32,
    },
    /// The server was started again and the match is still there.
    Restored {
        /// How many frames there are.
        frames: u32,
    },
}
