//! A room of the soak: how long it lives, how it ends, and what its players have seen.

use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::time::Time;

use crate::watch::RoomLog;

/// The key of a room.
pub(crate) type RoomKey = usize;

/// How a match ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everybody says who has won.
    Results,
    /// It is ended over HTTP.
    Closed,
    /// Everybody goes without a word.
    Abandoned,
}

/// One room.
#[derive(Debug)]
pub(crate) struct Room {
    /// Its number.
    pub(crate) id: RoomId,
    /// The frames, as the player saw them who saw them first.
    pub(crate) log: RoomLog,
    /// Who is said to have won: all players must agree.
    pub(crate) winner: PlayerId,
    /// How it ends.
    pub(crate) end: End,
    /// When.
    pub(crate) ends_at: Time,
    /// It ends: from now on nobody may wonder about a Close or a refusal.
    pub(crate) is_ending: bool,
    /// Players that have not left.
    pub(crate) players: usize,
}

impl Room {
    /// Whether its players are to go without a word by now.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_ending && self.end == End::Abandoned
    }
}
