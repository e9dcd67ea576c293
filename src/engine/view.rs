//! What the engine is asked to do with rooms, and what it tells of them: plain values that
//! cross to other threads, become JSON there, and hold nothing of the engine.

use std::time::Duration;

use thiserror::Error;

use super::auth::RoomSecret;
use super::id::{FrameId, MatchId, Percent, PlayerId, RoomId};

/// A room to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSpec {
    /// Its number.
    pub room: RoomId,
    /// Its players, in the order of their seats.
    pub members: Vec<PlayerId>,
    /// The seed that all clients get.
    pub seed: i32,
    /// Frames per second, if not the server's setting.
    pub hz: Option<u32>,
    /// Frames between two broadcasts when nothing happens, if not the server's setting.
    pub broadcast_every: Option<u32>,
    /// Frames after which the match is over, if not the server's setting.
    pub max_frames: Option<u32>,
    /// Bytes of data that an input may have, if not the server's setting.
    pub input_bytes_max: Option<u32>,
    /// Spectators that it lets in, if not the server's setting.
    pub watchers_max: Option<u32>,
    /// Frames that are held back from them, if not the server's setting.
    pub watch_delay: Option<u32>,
    /// The token that lets its players in where the room's own secret does.
    pub secret: RoomSecret,
}

/// Why a room was not created.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CreateError {
    /// A room of this number has a match that is not over.
    #[error("room {room} has a match that is not over: {match_id}")]
    Exists {
        /// The room.
        room: RoomId,
        /// Its match.
        match_id: MatchId,
    },
    /// `max_rooms` rooms exist.
    #[error("all {max} rooms are taken (--max-rooms)")]
    Full {
        /// The bound.
        max: usize,
    },
    /// The loop is late: the matches that run come first.
    #[error("the server is overloaded and takes no new rooms now; try again in a second")]
    Late,
    /// It drains: it ends with the last of the matches that run.
    #[error("the server drains and takes no new rooms; create it on another")]
    Draining,
    /// The server stops.
    #[error("the server stops and takes no new rooms")]
    Stopping,
    /// A field that cannot be; the remedy is in the text.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// Its value and what would be right.
        reason: String,
    },
}

/// Why a room was not restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// A later match of this number was restored.
    #[error("room {room} has another match: {match_id}")]
    Exists {
        /// The room.
        room: RoomId,
        /// Its match.
        match_id: MatchId,
    },
    /// It comes from a recording.
    #[error("the secret of the room was left out")]
    NoSecret,
}

/// How far a match is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its players connect and load.
    Waiting,
    /// Frames are sealed.
    Playing,
    /// It has ended, for this reason.
    Over(OverReason),
}

/// Why a match ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverReason {
    /// Every seat that was online had sent its result.
    Results,
    /// It reached its last frame.
    MaxFrames,
    /// The room reached its age.
    RoomTimeout,
    /// Everybody was offline for the reconnect grace.
    Abandoned,
    /// It was closed by command.
    Closed,
    /// The server stops.
    Stopping,
    /// A panic in it: a bug of ours.
    Failed,
}

impl OverReason {
    /// All of them.
    pub const ALL: [OverReason; 7] = [
        OverReason::Results,
        OverReason::MaxFrames,
        OverReason::RoomTimeout,
        OverReason::Abandoned,
        OverReason::Closed,
        OverReason::Stopping,
        OverReason::Failed,
    ];

    /// Lower case, with underscores.
    pub fn name(self) -> &'static str {
        match self {
            OverReason::Results => "results",
            OverReason::MaxFrames => "max_frames",
            OverReason::RoomTimeout => "room_timeout",
            OverReason::Abandoned => "abandoned",
            OverReason::Closed => "closed",
            OverReason::Stopping => "stopping",
            OverReason::Failed => "failed",
        }
    }
}

/// One match, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomView {
    /// The room's number.
    pub room: RoomId,
    /// The match, unique.
    pub match_id: MatchId,
    /// How far it is.
    pub phase: Phase,
    /// The head: how many frames are sealed.
    pub frame: FrameId,
    /// Frames per second.
    pub hz: u32,
    /// Frames between two broadcasts when nothing happens.
    pub broadcast_every: u32,
    /// Frames after which it is over.
    pub max_frames: u32,
    /// Bytes of data that an input may have; 0 if it may have none.
    pub input_bytes_max: u32,
    /// The seed that all clients get.
    pub seed: i32,
    /// When it was created, in Unix seconds.
    pub created_unix: i64,
    /// When it started, in Unix seconds.
    pub started_unix: Option<i64>,
    /// Bytes of frames with input that it keeps.
    pub log_bytes: usize,
    /// Spectators that it has now.
    pub watchers: usize,
    /// Spectators that it lets in.
    pub watchers_max: u32,
    /// Frames that are held back from them while the match is played.
    pub watch_delay: u32,
    /// Its seats, in order.
    pub seats: Vec<SeatView>,
}

/// One seat of a match, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatView {
    /// `roomseatid`, counted from 1.
    pub seat: i32,
    /// Its player.
    pub player: PlayerId,
    /// A session holds it and shows signs of life.
    pub online: bool,
    /// It has said Ready, or the match started without it.
    pub ready: bool,
    /// How much is loaded.
    pub progress: Percent,
    /// The next frame it is owed.
    pub cursor: FrameId,
    /// Smoothed round trip, `None` while unknown.
    pub rtt: Option<Duration>,
    /// The winner that it reported.
    pub result: Option<u64>,
}

/// A part of the list of rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomsPage {
    /// The rooms, in the order of their creation as far as slots were not used again.
    pub rooms: Vec<RoomView>,
    /// How many rooms exist.
    pub total: usize,
    /// Where the next part begins, `None` at the end.
    pub next: Option<usize>,
}

/// A match whose end, or a late result of which, is in the journal now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The match.
    pub view: RoomView,
    /// The segments of its first and its last record.
    pub segments: (u64, u64),
}
