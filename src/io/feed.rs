//! What happens to rooms, for those who follow it from another thread: the engine's events in a
//! form that holds nothing of the engine.
//!
//! The loop gives each to a [`Feed`] as it happens. A feed must not block, nor panic, and what it
//! cannot take is its own to count.
//!
//! What is told of a match: `Created`, or `Restored` at the start of a server that finds it in its
//! journal; then what its players do; and `Over` exactly once, for whatever reason it ended. After
//! that only a late `Result` and the `Left` of its seats follow, and the number may have a new match by
//! then: `match_id` tells them apart. A server that stops and leaves its matches to the journal tells
//! no `Over`: they go on, or are over, at its next start.
//!
//! Something is told once it has happened, which with `--fsync always` is before it is on the disk: a
//! server that is killed in between may come back to a match that had been told over, and tells
//! `Restored` then, or has never heard of one that was told `Created`, whose creator had no answer yet.

use std::fmt;

use crate::engine::drops::Disconnect;
use crate::engine::event::Event;
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

impl RoomEvent {
    /// What an event of the engine tells of a room; `None` if that is nothing for others.
    pub fn of(event: &Event, unix_ms: i64) -> Option<RoomEvent> {
        let (room, match_id, kind) = match *event {
            Event::RoomCreated {
                room,
                match_id,
                players,
            } => (room, match_id, RoomEventKind::Created { players }),
            Event::MatchRestored {
                room,
                match_id,
                frames,
            } => (room, match_id, RoomEventKind::Restored { frames }),
            Event::SeatTaken {
                player,
                room,
                match_id,
                ..
            } => (room, match_id, RoomEventKind::Joined { player }),
            Event::MatchStarted { room, match_id, .. } => (room, match_id, RoomEventKind::Started),
            Event::SeatLeft {
                player,
                room,
                match_id,
                reason,
                ..
            } => (room, match_id, RoomEventKind::Left { player, reason }),
            Event::ResultGiven {
                room,
                match_id,
                player,
                winner,
            } => (room, match_id, RoomEventKind::Result { player, winner }),
            Event::MatchOver {
                room,
                match_id,
                reason,
                frames,
            } => (room, match_id, RoomEventKind::Over { reason, frames }),
            Event::MatchResumed { .. }
            | Event::EpochRenewed { .. }
            // Its end is told, too.
            | Event::RoomFailed { .. }
            | Event::SessionFailed { .. }
            | Event::Refused { .. }
            | Event::SessionMoved { .. }
            | Event::WatcherCame { .. }
            | Event::WatcherLeft { .. } => return None,
        };
        Some(RoomEvent {
            unix_ms,
            room,
            match_id,
            kind,
        })
    }
}

/// All who follow.
#[derive(Default)]
pub struct Feeds(Vec<Feed>);

impl Feeds {
    /// One more.
    pub fn add(&mut self, feed: Feed) {
        self.0.push(feed);
    }

    /// Gives each of them what an event of the engine tells of a room.
    pub fn give(&mut self, event: &Event, unix_ms: i64) {
        if self.0.is_empty() {
            return;
        }
        if let Some(event) = RoomEvent::of(event, unix_ms) {
            for feed in &mut self.0 {
                feed(event.clone());
            }
        }
    }
}

impl fmt::Debug for Feeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Feeds").field(&self.0.len()).finish()
    }
}
