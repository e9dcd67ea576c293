//! What all players of the soak share.

use lockstep_server::engine::transmit::Transmits;
use mio::Registry;
use serde::Serialize;
use slab::Slab;

use super::SoakPlan;
use super::room::Room;
use crate::problems::Problems;

/// What all players share.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    /// What is played.
    pub(crate) plan: &'a SoakPlan,
    /// The rooms in which somebody plays.
    pub(crate) rooms: Slab<Room>,
    /// Where sockets are watched.
    pub(crate) registry: Registry,
    /// What should not have happened.
    pub(crate) problems: Problems,
    /// What has happened.
    pub(crate) tally: Tally,
    /// Why it makes no sense to go on.
    pub(crate) fatal: Option<String>,
    /// Datagrams on their way out of a client.
    pub(crate) batch: Transmits,
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Tally {
    /// Rooms that were created.
    pub(crate) rooms: u64,
    /// Rooms that ended by results.
    pub(crate) rooms_by_results: u64,
    /// Rooms that were ended over HTTP.
    pub(crate) rooms_closed: u64,
    /// Rooms that were left alone.
    pub(crate) rooms_abandoned: u64,
    /// Players.
    pub(crate) players: u64,
    /// Clients, several of a player one after another.
    pub(crate) clients: u64,
    /// Clients that crashed and came back.
    pub(crate) crashes: u64,
    /// Clients that crashed for good in the middle of a match.
    pub(crate) gone: u64,
    /// Clients whose address changed in the middle of a match.
    pub(crate) moves: u64,
    /// Times that clients were told of a start, and frames began or went on.
    pub(crate) streams: u64,
    /// Frames that clients delivered.
    pub(crate) frames: u64,
    /// Inputs of players that have left.
    pub(crate) inputs_sent: u64,
    /// Those of them that came back.
    pub(crate) inputs_seen: u64,
    /// Datagrams of sockets that were closed, both ways.
    pub(crate) datagrams: u64,
    /// Datagrams that the weather took.
    pub(crate) datagrams_lost: u64,
}
