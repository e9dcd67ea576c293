//! What all players share: their rooms, and the books.

use std::net::SocketAddr;
use std::time::Duration;

use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use serde::Serialize;

use super::KillPlan;
use crate::problems::Problems;
use crate::watch::RoomLog;

/// One room, once it was created.
#[derive(Debug)]
pub(crate) struct Room {
    /// Its number.
    pub(crate) id: RoomId,
    /// Its match, as HTTP tells it.
    pub(crate) match_id: String,
    /// The seed that all get.
    pub(crate) seed: i64,
    /// The stamp of Start, once anybody was told of it.
    pub(crate) started_unix: Option<i64>,
    /// The frames, as the player saw them who saw them first.
    pub(crate) log: RoomLog,
    /// How many there were when the server that runs was started.
    pub(crate) frames_before: usize,
    /// Who is said to have won: all players must agree.
    pub(crate) winner: PlayerId,
}

/// What all players share.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    /// What is played.
    pub(crate) plan: &'a KillPlan,
    /// Where the server is, if it is.
    pub(crate) server: SocketAddr,
    /// The rooms, in the order in which they were created.
    pub(crate) rooms: Vec<Room>,
    /// Players of those rooms.
    pub(crate) players: usize,
    /// When the server was started that runs, or ran last.
    pub(crate) server_since: Time,
    /// Players that have had a new frame from it.
    pub(crate) live: usize,
    /// How long it took each server until all players had one.
    pub(crate) live_after: Vec<Duration>,
    /// The matches end: from now on nobody sends inputs, nor wonders about a Close.
    pub(crate) is_ending: bool,
    /// What should not have happened.
    pub(crate) problems: Problems,
    /// What has happened.
    pub(crate) tally: Tally,
    /// Datagrams on their way out of a client.
    pub(crate) batch: Transmits,
}

impl Shared<'_> {
    /// A server was started: nobody has had a frame from it.
    pub(crate) fn server_starts(&mut self, now: Time) {
        self.server_since = now;
        self.live = 0;
        for room in &mut self.rooms {
            room.frames_before = room.log.len();
        }
    }

    /// One more player has had a new frame from the server that runs.
    pub(crate) fn goes_live(&mut self, now: Time) {
        self.live += 1;
        if self.live == self.players {
            self.live_after.push(now.since(self.server_since));
        }
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Tally {
    /// Times that it was killed.
    pub(crate) kills: u64,
    /// Times that it was asked to end, and did.
    pub(crate) terms: u64,
    /// Stops before the server listened.
    pub(crate) stopped_in_restore: u64,
    /// Stops while rooms were being created.
    pub(crate) stopped_in_creation: u64,
    /// Stops while there were matches that had not started.
    pub(crate) stopped_before_start: u64,
    /// Stops while players were on their way back.
    pub(crate) stopped_in_return: u64,
    /// Stops while everybody played.
    pub(crate) stopped_in_play: u64,
    /// Rooms that existed though the answer to their creation never came.
    pub(crate) rooms_untold: u64,
    /// Starts that found the journal's last record torn.
    pub(crate) torn_ends: u64,
    /// Conversations that clients began.
    pub(crate) conversations: u64,
    /// Times that a client of v2 was told that the server does not know it.
    pub(crate) resets: u64,
    /// Times that a client of v2 went on where it was.
    pub(crate) resumes: u64,
    /// Times that a client of v2 had frames and was sent all of them again.
    pub(crate) refetches: u64,
    /// Frames that clients delivered.
    pub(crate) frames_delivered: u64,
    /// Those of them that were compared with what was seen before.
    pub(crate) frames_compared: u64,
    /// Inputs that were sent.
    pub(crate) inputs_sent: u64,
    /// Those of them that are in a frame.
    pub(crate) inputs_in_frames: u64,
}
