//! From the messages of gRPC to values and back. Pure.
//!
//! Requests come from anybody with the token, answers from other nodes, which may be of another
//! version or broken: what is incomplete or cannot be gives an error, and nothing is cut to fit. An
//! order of a room is read by [`crate::admin::order`], so that it is refused with the same words
//! as over HTTP.

use std::time::Duration;

use thiserror::Error;

use super::events::{Happening, Position};
use super::node::{Address, NodeId, NodeRecord, NodeState};
use super::pb::{self, room_event::Kind};
use crate::admin::order::{self, BadField, Bounds, Given, Order};
use crate::engine::id::{MatchId, Percent, PlayerId, RoomId};
use crate::engine::view::{OverReason, Phase, RoomView, RoomsPage, SeatView};
use crate::io::feed::{RoomEvent, RoomEventKind};
use crate::io::metrics::Load;
use crate::limits::{PLAYERS_PER_ROOM_RANGE, UPLINK_BODY_MAX};
use crate::operations::{Created, Home, Located};

/// Why a message of another node tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the field {0} is missing or cannot be")]
pub struct BadMessage(pub &'static str);

// --- Rooms --------------------------------------------------------------------------------

/// A room, for who asked.
pub fn room(room: &Located) -> pb::Room {
    let mut message = view(&room.view);
    if let Some(home) = &room.home {
        message.node = home.node.as_str().to_owned();
        message.address = home.address.as_str().to_owned();
    }
    message
}

/// A part of the list of rooms.
pub fn rooms(page: &RoomsPage) -> pb::ListRoomsResponse {
    pb::ListRoomsResponse {
        rooms: page.rooms.iter().map(view).collect(),
        total: long(page.total),
        next: page.next.map(long),
    }
}

fn view(view: &RoomView) -> pb::Room {
    let (phase, over) = match view.phase {
        Phase::Waiting => (pb::Phase::Waiting, ""),
        Phase::Playing => (pb::Phase::Playing, ""),
        Phase::Over(reason) => (pb::Phase::Over, reason.name()),
    };
    pb::Room {
        room: view.room.0,
        r#match: view.match_id.0,
        phase: phase.into(),
        over: over.to_owned(),
        frame: view.frame,
        max_frames: view.max_frames,
        hz: view.hz,
        broadcast_every: view.broadcast_every,
        input_bytes: view.input_bytes_max,
        seed: view.seed,
        created: view.created_unix,
        started: view.started_unix,
        log_bytes: long(view.log_bytes),
        watchers: short(view.watchers),
        watchers_max: view.watchers_max,
        watch_delay: view.watch_delay,
        seats: view.seats.iter().map(seat).collect(),
        node: String::new(),
        address: String::new(),
    }
}

fn seat(seat: &SeatView) -> pb::Seat {
    let us = |rtt: Duration| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
    pb::Seat {
        seat: seat.seat,
        player: seat.player.0,
        online: seat.online,
        ready: seat.ready,
        progress: seat.progress.on_wire(),
        cursor: seat.cursor,
        rtt_us: seat.rtt.map(us),
        result: seat.result,
    }
}

/// A room that another node tells of.
///
/// # Errors
/// [`BadMessage`].
pub fn read_room(message: pb::Room) -> Result<Located, BadMessage> {
    let home = match (message.node.as_str(), message.address.as_str()) {
        ("", "") => None,
        (node, address) => Some(Home {
            node: NodeId::new(node).ok_or(BadMessage("node"))?,
            address: Address::new(address).ok_or(BadMessage("address"))?,
        }),
    };
    let phase = read_phase(&message)?;
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
        seats: read_seats(&message.seats)?,
    };
    Ok(Located { view, home })
}

fn read_phase(message: &pb::Room) -> Result<Phase, BadMessage> {
    let over = message.over.as_str();
    match pb::Phase::try_from(message.phase) {
        Ok(pb::Phase::Waiting) if over.is_empty() => Ok(Phase::Waiting),
        Ok(pb::Phase::Playing) if over.is_empty() => Ok(Phase::Playing),
        Ok(pb::Phase::Over) => {
            let reason = OverReason::ALL.into_iter().find(|one| one.name() == over);
            reason.map(Phase::Over).ok_or(BadMessage("over"))
        }
        _ => Err(BadMessage("phase")),
    }
}

fn read_seats(messages: &[pb::Seat]) -> Result<Vec<SeatView>, BadMessage> {
    if !PLAYERS_PER_ROOM_RANGE.contains(&messages.len()) {
        return Err(BadMessage("seats"));
    }
    let read = |(number, message): (i32, &pb::Seat)| {
        if message.seat != number {
            return Err(BadMessage("seat"));
        }
        if !(0..=100).contains(&message.progress) {
            return Err(BadMessage("progress"));
        }
        Ok(SeatView {
            seat: message.seat,
            player: PlayerId(message.player),
            online: message.online,
            ready: message.ready,
            progress: Percent::clamped(message.progress),
            cursor: message.cursor,
            rtt: message.rtt_us.map(Duration::from_micros),
            result: message.result,
        })
    };
    (1..).zip(messages).map(read).collect()
}

// --- Creation -----------------------------------------------------------------------------

/// What is ordered.
///
/// # Errors
/// The first field that cannot be.
pub fn read_order(message: &pb::CreateRoomRequest, bounds: Bounds) -> Result<Order, BadField> {
    let members = message.members.iter().map(u64::to_string).collect();
    let mut fields = vec![
        ("room", Given::One(message.room.to_string())),
        ("members", Given::Many(members)),
    ];
    let seed = message.seed.map(|seed| ("seed", seed.to_string()));
    let numbers = [
        ("hz", message.hz),
        ("broadcast_every", message.broadcast_every),
        ("max_frames", message.max_frames),
        ("input_bytes", message.input_bytes),
        ("watchers_max", message.watchers_max),
        ("watch_delay", message.watch_delay),
    ];
    let numbers = numbers.map(|(name, number)| number.map(|number| (name, number.to_string())));
    let texts = [
        ("place", &message.place),
        ("request_key", &message.request_key),
    ];
    let texts = texts.map(|(name, text)| (!text.is_empty()).then(|| (name, text.clone())));
    let given = seed.into_iter().chain(numbers.into_iter().flatten());
    let given = given.chain(texts.into_iter().flatten());
    fields.extend(given.map(|(name, text)| (name, Given::One(text))));
    let fields = fields
        .into_iter()
        .map(|(name, given)| (name.to_owned(), given));
    order::read("members", fields, bounds)
}

/// The request that orders this.
pub fn order(order: &Order) -> pb::CreateRoomRequest {
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
        request_key: match &order.request_key {
            Some(key) => key.as_str().to_owned(),
            None => String::new(),
        },
    }
}

/// A room that was just created, and what lets its players in.
pub fn created(created: &Created) -> pb::CreateRoomResponse {
    pb::CreateRoomResponse {
        room: Some(room(&created.room)),
        secret: created.secret.clone(),
        tickets: created.tickets.clone(),
        watch_secret: created.watch_secret.clone().unwrap_or_default(),
        serial: created.serial,
    }
}

/// A room that another node has created.
///
/// # Errors
/// [`BadMessage`].
pub fn read_created(message: pb::CreateRoomResponse) -> Result<Created, BadMessage> {
    let room = read_room(message.room.ok_or(BadMessage("room"))?)?;
    if !is_secret(&message.secret) {
        return Err(BadMessage("secret"));
    }
    let watch_secret = Some(message.watch_secret).filter(|secret| !secret.is_empty());
    if !watch_secret.as_deref().is_none_or(is_secret) {
        return Err(BadMessage("watch_secret"));
    }
    let tickets = message.tickets;
    let fit = tickets.is_empty() || tickets.len() == room.view.seats.len();
    if !fit || !tickets.iter().all(|ticket| is_ticket(ticket)) {
        return Err(BadMessage("tickets"));
    }
    Ok(Created {
        room,
        secret: message.secret,
        tickets,
        watch_secret,
        serial: message.serial,
    })
}

/// 32 digits, as [`crate::engine::auth::RoomSecret::to_hex`] makes them.
fn is_secret(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 32 && text.bytes().all(is_digit)
}

/// The letters of a JWT, short enough for the Connect that it goes into.
fn is_ticket(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=UPLINK_BODY_MAX).contains(&text.len()) && text.bytes().all(is_letter)
}

// --- Nodes --------------------------------------------------------------------------------

/// A node of the cluster, as it told of itself `age_ms` ago.
pub fn node(record: &NodeRecord, age_ms: u64) -> pb::Node {
    let text = |address: &Option<Address>| address.clone().map(String::from).unwrap_or_default();
    pb::Node {
        id: record.id.to_string(),
        instance: record.instance.to_string(),
        state: record.state.name().to_owned(),
        version: record.version.clone(),
        kcp: record.kcp.to_string(),
        http: text(&record.http),
        grpc: text(&record.grpc),
        rooms: record.rooms,
        rooms_max: record.rooms_max,
        players: record.players,
        sessions_max: record.sessions_max,
        load: record.load,
        age_ms,
    }
}

/// This server where it is part of no cluster: what it is called and where it is nobody knows.
pub fn alone(load: &Load) -> pb::Node {
    let state = if load.draining {
        NodeState::Draining
    } else {
        NodeState::Ready
    };
    pb::Node {
        state: state.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rooms: short(load.rooms),
        rooms_max: short(load.rooms_max),
        players: short(load.players),
        sessions_max: short(load.sessions_max),
        load: load.permille,
        ..pb::Node::default()
    }
}

// --- Events -------------------------------------------------------------------------------

/// What happened, and the position behind it.
pub fn event(position: Position, happening: Happening) -> pb::RoomEvent {
    let (unix_ms, room, match_id, kind) = match happening {
        Happening::Missed { unix_ms } => (unix_ms, 0, 0, Kind::Missed(pb::Missed {})),
        Happening::Contested {
            unix_ms,
            room,
            match_id,
            node,
        } => {
            let node = node.into();
            let kind = Kind::Contested(pb::Contested { node });
            (unix_ms, room.0, match_id.0, kind)
        }
        Happening::Room(RoomEvent {
            unix_ms,
            room,
            match_id,
            kind,
        }) => (unix_ms, room.0, match_id.0, room_event(kind)),
    };
    pb::RoomEvent {
        position: position.to_string(),
        unix_ms,
        room,
        r#match: match_id,
        kind: Some(kind),
    }
}

fn room_event(kind: RoomEventKind) -> Kind {
    match kind {
        RoomEventKind::Created { players } => Kind::Created(pb::Created {
            players: short(players),
        }),
        RoomEventKind::Joined { player } => Kind::Joined(pb::Joined { player: player.0 }),
        RoomEventKind::Started => Kind::Started(pb::Started {}),
        RoomEventKind::Left { player, reason } => Kind::Left(pb::Left {
            player: player.0,
            reason: reason.name().to_owned(),
        }),
        RoomEventKind::Result { player, winner } => Kind::Result(pb::Result {
            player: player.0,
            winner,
        }),
        RoomEventKind::Over { reason, frames } => Kind::Over(pb::Over {
            reason: reason.name().to_owned(),
            frames,
        }),
        RoomEventKind::Restored { frames } => Kind::Restored(pb::Restored { frames }),
    }
}

/// A count of what there are at most a million of.
fn short(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn long(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::order::Place;
    use crate::cluster::RequestKey;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use prost::Message;

    const BOUNDS: Bounds = Bounds {
        max_players_per_room: 4,
    };

    fn phases() -> impl Strategy<Value = Phase> {
        prop_oneof![
            Just(Phase::Waiting),
            Just(Phase::Playing),
            (0..OverReason::ALL.len()).prop_map(|at| Phase::Over(OverReason::ALL[at])),
        ]
    }

    fn seats() -> impl Strategy<Value = Vec<SeatView>> {
        type Parts = (u64, bool, bool, i32, u32, Option<u64>, Option<u64>);
        let parts = (
            any::<u64>(),
            any::<bool>(),
            any::<bool>(),
            0..=100,
            any::<u32>(),
            option::of(any::<u64>()),
            option::of(any::<u64>()),
        );
        let seat = |(seat, parts): (i32, Parts)| SeatView {
            seat,
            player: PlayerId(parts.0),
            online: parts.1,
            ready: parts.2,
            progress: Percent::clamped(parts.3),
            cursor: parts.4,
            rtt: parts.5.map(Duration::from_micros),
            result: parts.6,
        };
        vec(parts, 1..=20).prop_map(move |all| (1..).zip(all).map(seat).collect())
    }

    prop_compose! {
        fn rooms()(
            phase in phases(),
            seats in seats(),
            (room, match_id) in any::<(u64, u64)>(),
            numbers in any::<[u32; 8]>(),
            seed in any::<i32>(),
            (created_unix, started_unix) in any::<(i64, Option<i64>)>(),
            log_bytes in any::<u32>(),
            home in option::of("[a-z0-9]{1,63}"),
        ) -> Located {
            let view = RoomView {
                room: RoomId(room),
                match_id: MatchId(match_id),
                phase,
                frame: numbers[0],
                hz: numbers[1],
                broadcast_every: numbers[2],
                max_frames: numbers[3],
                input_bytes_max: numbers[4],
                seed,
                created_unix,
                started_unix,
                log_bytes: usize::try_from(log_bytes).unwrap(),
                watchers: usize::try_from(numbers[5]).unwrap(),
                watchers_max: numbers[6],
                watch_delay: numbers[7],
                seats,
            };
            let home = home.map(|node| Home {
                address: Address::new(&format!("{node}:10086")).unwrap(),
                node: NodeId::new(&node).unwrap(),
            });
            Located { view, home }
        }
    }

    prop_compose! {
        fn orders()(
            room in any::<u64>(),
            members in proptest::collection::btree_set(any::<u64>(), 1..=4),
            seed in any::<Option<i32>>(),
            hz in option::of(crate::limits::HZ_RANGE),
            broadcast_every in option::of(crate::limits::BROADCAST_EVERY_RANGE),
            max_frames in option::of(crate::limits::FRAMES_RANGE),
            input_bytes_max in option::of(crate::limits::INPUT_DATA_RANGE),
            watchers_max in option::of(crate::limits::WATCHERS_RANGE),
            watch_delay in option::of(crate::limits::WATCH_DELAY_RANGE),
            place in prop_oneof![
                Just(Place::Here),
                Just(Place::Auto),
                "[a-z]{5,63}".prop_map(|id| Place::Node(NodeId::new(&id).unwrap())),
            ],
            request_key in option::of("[!-~]{1,64}"),
        ) -> Order {
            Order {
                room: RoomId(room),
                members: members.into_iter().map(PlayerId).collect(),
                seed,
                hz,
                broadcast_every,
                max_frames,
                input_bytes_max,
                watchers_max,
                watch_delay,
                place,
                request_key: request_key.map(|key| RequestKey::new(&key).unwrap()),
            }
        }
    }

    proptest! {
        #[test]
        fn a_room_comes_back_as_it_was(room in rooms()) {
            let bytes = super::room(&room).encode_to_vec();
            let message = pb::Room::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(read_room(message), Ok(room));
        }

        #[test]
        fn an_order_comes_back_as_it_was(ordered in orders()) {
            let bytes = order(&ordered).encode_to_vec();
            let message = pb::CreateRoomRequest::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(read_order(&message, BOUNDS), Ok(ordered));
        }

        #[test]
        fn a_created_room_comes_back_as_it_was(
            room in rooms(),
            secret in "[0-9a-f]{32}",
            watch_secret in option::of("[0-9a-f]{32}"),
            ticket in option::of("[A-Za-z0-9_-]{1,40}\\.[A-Za-z0-9_-]{1,300}"),
            serial in any::<u64>(),
        ) {
            let tickets = ticket.map(|ticket| vec![ticket; room.view.seats.len()]);
            let tickets = tickets.unwrap_or_default();
            let made = Created { room, secret, tickets, watch_secret, serial };
            let bytes = created(&made).encode_to_vec();
            let message = pb::CreateRoomResponse::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(read_created(message), Ok(made));
        }

        #[test]
        fn whatever_another_node_sends_is_read_or_refused(
            bytes in vec(any::<u8>(), 0..200),
            room in rooms(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut changed = super::room(&room).encode_to_vec();
            let at = at.index(changed.len());
            changed[at] = byte;
            for bytes in [bytes, changed] {
                if let Ok(message) = pb::Room::decode(bytes.as_slice())
                    && let Ok(read) = read_room(message.clone())
                {
                    prop_assert_eq!(super::room(&read), message);
                }
                if let Ok(message) = pb::CreateRoomResponse::decode(bytes.as_slice()) {
                    let _ = read_created(message);
                }
                if let Ok(message) = pb::CreateRoomRequest::decode(bytes.as_slice()) {
                    let _ = read_order(&message, BOUNDS);
                }
            }
        }
    }

    fn a_seat() -> pb::Seat {
        pb::Seat {
            seat: 1,
            player: 7,
            ..pb::Seat::default()
        }
    }

    fn a_room() -> pb::Room {
        pb::Room {
            room: 1,
            r#match: 2,
            phase: pb::Phase::Waiting.into(),
            seats: vec![a_seat()],
            ..pb::Room::default()
        }
    }

    #[test]
    fn a_room_that_cannot_be_is_refused_by_the_name_of_its_field() {
        assert!(read_room(a_room()).is_ok());
        type Spoil = fn(&mut pb::Room);
        let cases: &[(&str, Spoil)] = &[
            ("phase", |room| room.phase = 0),
            ("phase", |room| room.phase = 77),
            ("phase", |room| room.over = "closed".into()),
            ("over", |room| room.phase = pb::Phase::Over.into()),
            ("seats", |room| room.seats.clear()),
            ("seats", |room| room.seats = vec![a_seat(); 257]),
            ("seat", |room| room.seats[0].seat = 2),
            ("seat", |room| room.seats[0].seat = i32::MIN),
            ("progress", |room| room.seats[0].progress = 101),
            ("progress", |room| room.seats[0].progress = -1),
            ("node", |room| room.address = "a:1".into()),
            ("node", |room| room.node = "a/b".into()),
            ("address", |room| room.node = "a".into()),
        ];
        for (field, spoil) in cases {
            let mut room = a_room();
            spoil(&mut room);
            assert_eq!(read_room(room), Err(BadMessage(field)));
        }
    }

    #[test]
    fn a_created_room_that_cannot_be_is_refused() {
        let good = || pb::CreateRoomResponse {
            room: Some(a_room()),
            secret: "0".repeat(32),
            tickets: vec!["a.b.c".into()],
            watch_secret: String::new(),
            serial: 1,
        };
        assert!(read_created(good()).is_ok());
        type Spoil = fn(&mut pb::CreateRoomResponse);
        let cases: &[(&str, Spoil)] = &[
            ("room", |made| made.room = None),
            ("secret", |made| made.secret.clear()),
            ("secret", |made| made.secret = "G".repeat(32)),
            ("watch_secret", |made| made.watch_secret = "x".into()),
            ("tickets", |made| made.tickets.push("a".into())),
            ("tickets", |made| made.tickets[0] = "a] x=[".into()),
            ("tickets", |made| made.tickets[0] = "a".repeat(2000)),
        ];
        for (field, spoil) in cases {
            let mut made = good();
            spoil(&mut made);
            assert_eq!(read_created(made), Err(BadMessage(field)));
        }
    }

    #[test]
    fn an_order_is_refused_with_the_words_of_http() {
        let good = || pb::CreateRoomRequest {
            room: 1,
            members: vec![1, 2],
            ..pb::CreateRoomRequest::default()
        };
        type Spoil = fn(&mut pb::CreateRoomRequest);
        let cases: &[(&str, Spoil)] = &[
            (r#"{"room":1,"members":[]}"#, |order| order.members.clear()),
            (r#"{"room":1,"members":[1,1]}"#, |order| {
                order.members = vec![1, 1];
            }),
            (r#"{"room":1,"members":[1,2,3,4,5]}"#, |order| {
                order.members = vec![1, 2, 3, 4, 5];
            }),
            (r#"{"room":1,"members":[1],"hz":0}"#, |order| {
                order.hz = Some(0);
            }),
            (r#"{"room":1,"members":[1],"input_bytes":961}"#, |order| {
                order.input_bytes = Some(961);
            }),
            (r#"{"room":1,"members":[1],"place":"a b"}"#, |order| {
                order.place = "a b".into();
            }),
        ];
        for (json, spoil) in cases {
            let mut order = good();
            spoil(&mut order);
            let over_http = crate::admin::json::parse(json.as_bytes(), BOUNDS);
            assert_eq!(
                read_order(&order, BOUNDS).unwrap_err(),
                over_http.unwrap_err()
            );
        }
    }

    #[test]
    fn a_node_without_a_cluster_has_its_numbers_alone() {
        let load = Load {
            rooms: 1,
            rooms_max: 2,
            players: 3,
            sessions_max: usize::MAX,
            permille: 5,
            serial: 6,
            draining: true,
        };
        let node = alone(&load);
        assert_eq!((node.rooms, node.rooms_max, node.players), (1, 2, 3));
        assert_eq!((node.sessions_max, node.load), (u32::MAX, 5));
        assert_eq!((node.id.as_str(), node.state.as_str()), ("", "draining"));
    }
}
