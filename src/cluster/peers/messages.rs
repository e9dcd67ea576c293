//! From an order to the message of gRPC, and from the answers to values. Whatever cannot be is an
//! error: another node may be of another version, or hostile.

use std::time::Duration;

use crate::admin::order::Order;
use crate::cluster::node::{Address, NodeId};
use crate::cluster::pb;
use crate::engine::id::{MatchId, Percent, PlayerId, RoomId};
use crate::engine::view::{OverReason, Phase, RoomView, SeatView};
use crate::limits::PLAYERS_PER_ROOM_RANGE;
use crate::operations::{Created, Home, Located};

/// The field that cannot be as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the field {0} is missing or cannot be")]
pub(super) struct BadMessage(&'static str);

/// The request that orders this.
pub(super) fn order(order: &Order) -> pb::CreateRoomRequest {
    let key = order.request_key.as_ref();
    pb::CreateRoomRequest {
        room: order.room.0,
        members: order.members.iter().map(|player| player.0).collect(),
        seed: order.seed,
        hz: order.hz,
        broadcast_every: order.broadcast_every,
        max_frames: order.max_frames,
        input_bytes: order.input_bytes_max,
        watchers_max: order.watchers_max,
        watch_delay: order.watch_delay,
        place: order.place.as_str().to_owned(),
        request_key: key.map_or_else(String::new, |key| key.as_str().to_owned()),
    }
}

/// A room that another node has created.
pub(super) fn read_created(message: pb::CreateRoomResponse) -> Result<Created, BadMessage> {
    let room = read_room(message.room.ok_or(BadMessage("room"))?)?;
    if !message.tickets.is_empty() && message.tickets.len() != room.view.seats.len() {
        return Err(BadMessage("tickets"));
    }
    Ok(Created {
        room,
        secret: message.secret,
        tickets: message.tickets,
        watch_secret: Some(message.watch_secret).filter(|secret| !secret.is_empty()),
        serial: message.serial,
    })
}

/// A room that another node tells of.
pub(super) fn read_room(message: pb::Room) -> Result<Located, BadMessage> {
    if message.seats.len() > *PLAYERS_PER_ROOM_RANGE.end() {
        return Err(BadMessage("seats"));
    }
    let home = match (message.node.as_str(), message.address.as_str()) {
        ("", "") => None,
        (node, address) => Some(Home {
            node: NodeId::new(node).ok_or(BadMessage("node"))?,
            address: Address::new(address).ok_or(BadMessage("address"))?,
        }),
    };
    let phase = match (message.phase(), message.over.as_str()) {
        (pb::Phase::Waiting, "") => Phase::Waiting,
        (pb::Phase::Playing, "") => Phase::Playing,
        (pb::Phase::Over, over) => {
            let reason = OverReason::ALL.into_iter().find(|one| one.name() == over);
            Phase::Over(reason.ok_or(BadMessage("over"))?)
        }
        _ => return Err(BadMessage("phase")),
    };
    let view = RoomView {
        room: RoomId(message.room),
        match_id: MatchId(message.r#match),
        phase,
        frame: message.frame,
        hz: message.hz,
        broadcast_every: message.broadcast_every,
        max_frames: message.max_frames,
        input_bytes_max: message.input_bytes,
        seed: message.seed,
        created_unix: message.created,
        started_unix: message.started,
        log_bytes: usize::try_from(message.log_bytes).map_err(|_| BadMessage("log_bytes"))?,
        watchers: usize::try_from(message.watchers).map_err(|_| BadMessage("watchers"))?,
        watchers_max: message.watchers_max,
        watch_delay: message.watch_delay,
        seats: message.seats.iter().map(seat).collect(),
    };
    Ok(Located { view, home })
}

fn seat(seat: &pb::Seat) -> SeatView {
    SeatView {
        seat: seat.seat,
        player: PlayerId(seat.player),
        online: seat.online,
        ready: seat.ready,
        progress: Percent::clamped(seat.progress),
        cursor: seat.cursor,
        rtt: seat.rtt_us.map(Duration::from_micros),
        result: seat.result,
    }
}
