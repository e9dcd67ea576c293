//! What the engine tells its driver: informational, for log lines and metrics alone.

use std::net::SocketAddr;
use std::time::Duration;

use super::drops::Disconnect;
use super::id::{MatchId, PlayerId, RoomId};
use super::view::OverReason;
use super::wire::message::ConnectCode;
use crate::cluster::node::Address;
use crate::ticket::TicketFault;

/// Something happened. Nothing depends on its being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A room was created.
    RoomCreated {
        /// Its number.
        room: RoomId,
        /// Its match.
        match_id: MatchId,
        /// Its members.
        players: usize,
    },
    /// A match has started.
    MatchStarted {
        /// Its room.
        room: RoomId,
        /// The match.
        match_id: MatchId,
        /// So long from now its clock begins: less than the time of a frame.
        wait: Duration,
    },
    /// A match that a restart of the server has interrupted is there again, and waits for its
    /// players.
    MatchRestored {
        /// Its room.
        room: RoomId,
        /// The match.
        match_id: MatchId,
        /// How many frames it has.
        frames: u32,
    },
    /// The first of its players is back, and its clock goes on.
    MatchResumed {
        /// Its room.
        room: RoomId,
        /// The match.
        match_id: MatchId,
        /// So long from now its clock begins: less than the time of a frame.
        wait: Duration,
    },
    /// A match has ended.
    MatchOver {
        /// Its room.
        room: RoomId,
        /// The match.
        match_id: MatchId,
        /// Why.
        reason: OverReason,
        /// How many frames it had.
        frames: u32,
    },
    /// A room was so late that it took a new epoch.
    EpochRenewed {
        /// Its number.
        room: RoomId,
        /// How late it was.
        lateness: Duration,
        /// So long from now the epoch begins: less than the time of a frame.
        wait: Duration,
    },
    /// A panic in a room, a bug of ours: its match is over.
    RoomFailed {
        /// Its number.
        room: RoomId,
        /// Its match.
        match_id: MatchId,
        /// What the panic said.
        text: String,
    },
    /// A panic while a session's datagrams were read or written, a bug of ours: it ends.
    SessionFailed {
        /// From where.
        addr: SocketAddr,
        /// What the panic said.
        text: String,
    },
    /// A Connect was refused.
    Refused {
        /// From where.
        addr: SocketAddr,
        /// Who it claimed to be.
        player: PlayerId,
        /// Which room it named.
        room: RoomId,
        /// The answer.
        code: ConnectCode,
        /// What is wrong with its ticket, which the answer does not say.
        ticket: Option<TicketFault>,
        /// Where it was told that its room is.
        elsewhere: Option<Address>,
    },
    /// A player took a seat.
    SeatTaken {
        /// From where.
        addr: SocketAddr,
        /// Who.
        player: PlayerId,
        /// Of which room.
        room: RoomId,
        /// Of which match.
        match_id: MatchId,
    },
    /// A player told a result that it had not told before.
    ResultGiven {
        /// Its room.
        room: RoomId,
        /// The match.
        match_id: MatchId,
        /// Who.
        player: PlayerId,
        /// The winner.
        winner: u64,
    },
    /// A session that holds a seat goes on at another address.
    SessionMoved {
        /// Where it was.
        from: SocketAddr,
        /// Where it is.
        to: SocketAddr,
        /// Who.
        player: PlayerId,
        /// Of which room.
        room: RoomId,
    },
    /// A spectator has come.
    WatcherCame {
        /// From where.
        addr: SocketAddr,
        /// Who.
        player: PlayerId,
        /// Of which room.
        room: RoomId,
    },
    /// A spectator's session ended.
    WatcherLeft {
        /// From where.
        addr: SocketAddr,
        /// Of which room.
        room: RoomId,
        /// Why.
        reason: Disconnect,
    },
    /// The session that held a seat ended.
    SeatLeft {
        /// From where.
        addr: SocketAddr,
        /// Who.
        player: PlayerId,
        /// Of which room.
        room: RoomId,
        /// Of which match.
        match_id: MatchId,
        /// Why.
        reason: Disconnect,
    },
}
