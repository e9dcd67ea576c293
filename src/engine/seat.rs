//! One seat of a room: who sits there, how far its client is, and what it is owed.
//!
//! A seat knows no session; whether one holds it is all it is told. Who watches has such a seat,
//! too, in the [gallery](super::gallery), where nothing counts that only players do.

use super::frame_log::Cursor;
use super::id::{FrameId, Percent, PlayerId, Seat};
use super::time::Time;
use super::wire::message::Version;

/// How far the client that holds the seat has come in the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// No session holds the seat.
    Vacant,
    /// Connected, and proved to receive at its address.
    Connected,
    /// It has its JoinRoom answer, or went straight to Ready.
    Joined,
    /// It has its Start; frames follow.
    Streaming,
}

/// Frames that its client has asked for and has yet to get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The client's number for the request.
    pub(super) request: u32,
    /// The next frame that is covered.
    pub(super) cursor: Cursor,
    /// The answers end before this one.
    pub(super) end: FrameId,
}

/// The state of one seat.
#[derive(Debug)]
pub(super) struct SeatState {
    /// Whose seat.
    pub(super) player: PlayerId,
    /// How far its client is.
    pub(super) stage: Stage,
    /// What the client that holds it speaks.
    pub(super) version: Version,
    /// A session holds it and has shown a sign of life lately.
    pub(super) online: bool,
    /// It knows the others: it may be told of their progress.
    pub(super) knows_others: bool,
    /// A session has held it at some time.
    pub(super) joined_once: bool,
    /// It has said Ready, or the match started without.
    pub(super) ready: bool,
    /// How much is loaded.
    pub(super) progress: Percent,
    /// The next frame it is owed.
    pub(super) cursor: Cursor,
    /// Seats whose progress it has yet to be told; of each the newest is enough.
    pub(super) progress_owed: Vec<Seat>,
    /// The request that is being answered, beside its frames.
    pub(super) asked: Option<Asked>,
    /// When Ready last restarted its frames.
    pub(super) restreamed_at: Option<Time>,
    /// It has yet to be told that the room is over.
    pub(super) close_owed: bool,
    /// The winner it has reported.
    pub(super) result: Option<u64>,
}

impl SeatState {
    pub(super) fn new(player: PlayerId) -> SeatState {
        SeatState {
            player,
            stage: Stage::Vacant,
            version: Version::V1,
            online: false,
            knows_others: false,
            joined_once: false,
            ready: false,
            progress: Percent::default(),
            cursor: Cursor::default(),
            progress_owed: Vec::new(),
            asked: None,
            restreamed_at: None,
            close_owed: false,
            result: None,
        }
    }

    /// Whether a session holds it.
    pub(super) fn is_held(&self) -> bool {
        self.stage != Stage::Vacant
    }

    /// A session takes it, at the beginning of the flow.
    pub(super) fn take(&mut self, version: Version) {
        self.stage = Stage::Connected;
        self.version = version;
        self.online = true;
        self.joined_once = true;
        self.leave_flow();
    }

    /// Its session is gone.
    pub(super) fn vacate(&mut self) {
        self.stage = Stage::Vacant;
        self.online = false;
        self.leave_flow();
    }

    /// What a client knows is forgotten with it; what a player has done stays.
    fn leave_flow(&mut self) {
        self.knows_others = false;
        self.progress_owed.clear();
        self.asked = None;
        self.restreamed_at = None;
        self.close_owed = false;
    }

    /// Another seat's progress has changed.
    pub(super) fn owe_progress(&mut self, of: Seat) {
        if self.knows_others && !self.progress_owed.contains(&of) {
            self.progress_owed.push(of);
        }
    }
}
