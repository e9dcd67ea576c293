//! The gRPC side over real sockets: what it answers, whom, and that it lives through what is
//! sent to harm it. The loop behind it is a fake, below, but for the last test: there a backend in
//! Python plays with the real server, of which it knows nothing but the address.

#![cfg(feature = "cluster")]
// Helpers of tests are tests, which clippy does not see.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use lockstep_server::admin::guard::{AdminToken, Guard};
use lockstep_server::admin::order::Bounds;
use lockstep_server::cluster::events::EventLog;
use lockstep_server::cluster::grpc::{self, Grpc, GrpcError};
use lockstep_server::cluster::pb;
use lockstep_server::cluster::pb::lockstep_client::LockstepClient;
use lockstep_server::cluster::pb::room_event::Kind;
use lockstep_server::cluster::runtime::Runtime;
use lockstep_server::config::Listen;
use lockstep_server::engine::id::{MatchId, Percent, PlayerId, RoomId};
use lockstep_server::engine::view::{
    CreateError, OverReason, Phase, RoomSpec, RoomView, RoomsPage, SeatView,
};
use lockstep_server::io::control::{self, Control, Mailbox};
use lockstep_server::io::feed::{Feed, RoomEvent, RoomEventKind};
use lockstep_server::io::metrics::Load;
use lockstep_server::limits::{
    GRPC_HEALTH_EVERY, GRPC_REQUEST_BYTES_MAX, GRPC_STRANGERS_MAX, ROOM_EVENTS_WAITING_MAX,
    ROOM_WATCHERS_MAX,
};
use lockstep_server::operations::{Operations, Tickets};
use lockstep_server::ticket::{TicketSecret, TicketSecrets};
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[path = "real/mod.rs"]
mod real;

/// Longest wait of any test for anything: far beyond what is expected, so that a busy
/// machine does not fail it.
const AT_MOST: Duration = Duration::from_secs(60);

const MAX_PLAYERS: usize = 256;

/// The room that the loop refuses for this reason.
const LATE: u64 = 601;
const STOPPING: u64 = 602;
const FULL: u64 = 603;
const INVALID: u64 = 604;

// --- The fake loop ------------------------------------------------------------------------

struct Model {
    rooms: BTreeMap<u64, RoomView>,
    created: u64,
    feed: Feed,
    is_draining: Arc<AtomicBool>,
}

impl Model {
    fn carry_out(&mut self, control: Control) {
        match control {
            Control::Create(spec, answer) => answer.give(self.create(spec)),
            Control::Close(id, answer) => answer.give(self.close(id)),
            Control::Room(id, answer) => answer.give(self.rooms.get(&id.0).cloned()),
            Control::Rooms {
                from,
                limit,
                answer,
            } => answer.give(self.page(from, limit)),
            Control::Load(answer) => answer.give(self.load()),
            Control::Drain(answer) => {
                self.is_draining.store(true, Ordering::Relaxed);
                answer.give(self.load());
            }
            // Nothing else is asked for.
            _ => {}
        }
    }

    fn load(&self) -> Load {
        Load {
            rooms: self.rooms.len(),
            rooms_max: 1000,
            players: 3,
            sessions_max: 4,
            permille: 5,
            serial: self.created,
            draining: self.is_draining.load(Ordering::Relaxed),
        }
    }

    fn create(&mut self, spec: RoomSpec) -> Result<RoomView, CreateError> {
        if self.is_draining.load(Ordering::Relaxed) {
            return Err(CreateError::Draining);
        }
        match spec.room.0 {
            LATE => return Err(CreateError::Late),
            STOPPING => return Err(CreateError::Stopping),
            FULL => return Err(CreateError::Full { max: 9 }),
            INVALID => {
                let reason = "is not to our taste; choose another".to_owned();
                return Err(CreateError::Invalid {
                    field: "room",
                    reason,
                });
            }
            _ => {}
        }
        if let Some(view) = self.rooms.get(&spec.room.0) {
            return Err(CreateError::Exists {
                room: view.room,
                match_id: view.match_id,
            });
        }
        self.created += 1;
        let view = room(&spec, self.created);
        self.rooms.insert(spec.room.0, view.clone());
        let players = view.seats.len();
        self.tell(&view, RoomEventKind::Created { players });
        Ok(view)
    }

    fn close(&mut self, id: RoomId) -> Option<RoomView> {
        let mut view = self.rooms.remove(&id.0)?;
        let reason = OverReason::Closed;
        view.phase = Phase::Over(reason);
        self.tell(&view, RoomEventKind::Over { reason, frames: 7 });
        Some(view)
    }

    fn page(&self, from: usize, limit: usize) -> RoomsPage {
        let rooms: Vec<_> = self
            .rooms
            .values()
            .skip(from)
            .take(limit)
            .cloned()
            .collect();
        let end = from.saturating_add(rooms.len());
        RoomsPage {
            total: self.rooms.len(),
            next: (end < self.rooms.len()).then_some(end),
            rooms,
        }
    }

    fn tell(&mut self, view: &RoomView, kind: RoomEventKind) {
        (self.feed)(RoomEvent {
            unix_ms: 1_700_000_000_000,
            room: view.room,
            match_id: view.match_id,
            kind,
        });
    }
}

fn room(spec: &RoomSpec, match_id: u64) -> RoomView {
    let seat = |(index, player): (usize, &PlayerId)| SeatView {
        seat: i32::try_from(index).unwrap() + 1,
        player: *player,
        online: true,
        ready: false,
        progress: Percent::FULL,
        cursor: 3,
        rtt: Some(Duration::from_micros(1500)),
        result: Some(u64::MAX),
    };
    RoomView {
        room: spec.room,
        match_id: MatchId(u64::MAX - match_id),
        phase: Phase::Waiting,
        frame: 0,
        hz: spec.hz.unwrap_or(30),
        broadcast_every: spec.broadcast_every.unwrap_or(3),
        max_frames: spec.max_frames.unwrap_or(5500),
        input_bytes_max: spec.input_bytes_max.unwrap_or(256),
        seed: spec.seed,
        created_unix: 1_700_000_000,
        started_unix: None,
        log_bytes: 0,
        watchers: 0,
        watchers_max: spec.watchers_max.unwrap_or(0),
        watch_delay: spec.watch_delay.unwrap_or(0),
        seats: spec.members.iter().enumerate().map(seat).collect(),
    }
}

// --- The world ----------------------------------------------------------------------------

/// The gRPC side with a fake loop behind it.
struct World {
    grpc: Option<Grpc>,
    runtime: Runtime,
    log: EventLog,
    addr: SocketAddr,
    token: Option<AdminToken>,
    is_draining: Arc<AtomicBool>,
    is_stalled: Arc<AtomicBool>,
}

impl World {
    fn new() -> World {
        World::with(None, None)
    }

    fn with(token: Option<AdminToken>, tickets: Option<Tickets>) -> World {
        let runtime = Runtime::start().unwrap();
        let log = EventLog::start(&runtime).unwrap();
        let (bell, ring) = mpsc::channel();
        let (handle, mailbox) = control::channel(move || bell.send(()).unwrap_or(()));
        let is_draining = Arc::new(AtomicBool::new(false));
        let is_stalled = Arc::new(AtomicBool::new(false));
        let model = Model {
            rooms: BTreeMap::new(),
            created: 0,
            feed: log.feed(),
            is_draining: Arc::clone(&is_draining),
        };
        let stalled = Arc::clone(&is_stalled);
        thread::spawn(move || turn(model, &mailbox, &ring, &stalled));
        let bounds = Bounds {
            max_players_per_room: MAX_PLAYERS,
        };
        let operations = Arc::new(Operations::new(handle, bounds, tickets));
        let guard = token.clone().map_or(Guard::Loopback, Guard::Token);
        let listen = Listen::At((Ipv4Addr::LOCALHOST, 0).into());
        let grpc = grpc::start(&runtime, listen, guard, operations, log.clone()).unwrap();
        World {
            addr: grpc.local_addr(),
            grpc: Some(grpc),
            runtime,
            log,
            token,
            is_draining,
            is_stalled,
        }
    }

    fn stop(&mut self) {
        self.grpc.take().unwrap().stop();
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addr)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn client(&self) -> LockstepClient<Channel> {
        LockstepClient::new(self.channel().await)
    }

    /// A request with the token, if there is one.
    fn ask<T>(&self, message: T) -> Request<T> {
        let bearer = self.token.as_ref().map(AdminToken::bearer);
        request(message, bearer.as_deref())
    }

    /// Whether it answers, on a connection of its own.
    async fn works(&self) {
        let asked = self.ask(pb::GetNodeRequest {});
        self.client().await.get_node(asked).await.unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(grpc) = self.grpc.take() {
            grpc.stop();
        }
    }
}

fn turn(mut model: Model, mailbox: &Mailbox, ring: &mpsc::Receiver<()>, is_stalled: &AtomicBool) {
    while ring.recv().is_ok() {
        if is_stalled.load(Ordering::Relaxed) {
            continue;
        }
        while let Some(control) = mailbox.take() {
            model.carry_out(control);
        }
    }
}

/// Plays a test's part as a client, on a runtime of its own.
fn play<T>(part: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let played = runtime.block_on(async { tokio::time::timeout(AT_MOST, part).await });
    played.expect("it takes moments")
}

fn request<T>(message: T, authorization: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(authorization) = authorization {
        let value = authorization.parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn order(room: u64, members: &[u64]) -> pb::CreateRoomRequest {
    pb::CreateRoomRequest {
        room,
        members: members.to_vec(),
        ..pb::CreateRoomRequest::default()
    }
}

fn at(position: &str) -> pb::WatchRoomsRequest {
    pb::WatchRoomsRequest {
        position: position.to_owned(),
    }
}

async fn next(events: &mut Streaming<pb::RoomEvent>) -> pb::RoomEvent {
    events.next().await.expect("it goes on").unwrap()
}

fn token() -> AdminToken {
    AdminToken::new("0123456789abcdef").unwrap()
}

// --- Calls --------------------------------------------------------------------------------

#[test]
fn a_room_is_created_shown_listed_and_closed() {
    let world = World::new();
    play(async {
        let mut client = world.client().await;
        let ordered = pb::CreateRoomRequest {
            seed: Some(-5),
            hz: Some(20),
            broadcast_every: Some(2),
            max_frames: Some(900),
            input_bytes: Some(0),
            watchers_max: Some(10),
            watch_delay: Some(60),
            ..order(u64::MAX, &[u64::MAX, 2])
        };
        let created = client.create_room(ordered).await.unwrap().into_inner();
        let made = created.room.clone().unwrap();
        assert_eq!((made.room, made.r#match), (u64::MAX, u64::MAX - 1));
        assert_eq!((made.seed, made.hz, made.broadcast_every), (-5, 20, 2));
        assert_eq!((made.max_frames, made.input_bytes), (900, 0));
        assert_eq!((made.watchers_max, made.watch_delay), (10, 60));
        assert_eq!(made.phase(), pb::Phase::Waiting);
        assert_eq!((made.node.as_str(), made.address.as_str()), ("", ""));
        let seat = pb::Seat {
            seat: 2,
            player: 2,
            online: true,
            ready: false,
            progress: 100,
            cursor: 3,
            rtt_us: Some(1500),
            result: Some(u64::MAX),
        };
        assert_eq!(made.seats[1], seat);
        assert_eq!((created.secret.len(), created.watch_secret.len()), (32, 32));
        assert!(created.tickets.is_empty());

        let (room, here) = (u64::MAX, false);
        let shown = client.get_room(pb::GetRoomRequest { room, here }).await;
        assert_eq!(shown.unwrap().into_inner(), made);
        let listed = client.list_rooms(pb::ListRoomsRequest::default()).await;
        let listed = listed.unwrap().into_inner();
        assert_eq!((listed.total, listed.next), (1, None));
        assert_eq!(listed.rooms, [made]);
        let here = true;
        let closed = client.close_room(pb::CloseRoomRequest { room, here }).await;
        let closed = closed.unwrap().into_inner();
        assert_eq!(closed.phase(), pb::Phase::Over);
        assert_eq!(closed.over, "closed");
        let gone = client.get_room(pb::GetRoomRequest { room, here }).await;
        assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn each_seat_gets_a_ticket_where_players_need_one() {
    let secret = TicketSecret::new("s".repeat(32)).unwrap();
    let tickets = Tickets {
        secrets: TicketSecrets::new(secret, None),
        life: AT_MOST,
    };
    let world = World::with(None, Some(tickets));
    play(async {
        let created = world.client().await.create_room(order(1, &[1, 2])).await;
        let created = created.unwrap().into_inner();
        assert_eq!(created.tickets.len(), 2);
        assert_eq!(created.watch_secret, "");
    });
}

#[test]
fn a_server_without_a_cluster_tells_of_itself_alone() {
    let world = World::new();
    play(async {
        let told = world.client().await.get_node(pb::GetNodeRequest {}).await;
        let told = told.unwrap().into_inner();
        let expected = pb::Node {
            state: "ready".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rooms: 0,
            rooms_max: 1000,
            players: 3,
            sessions_max: 4,
            load: 5,
            ..pb::Node::default()
        };
        assert_eq!(told.node, Some(expected));
        assert_eq!((told.others.len(), told.warnings.len()), (0, 0));
    });
}

#[test]
fn a_server_that_drains_says_so_and_takes_no_rooms() {
    let world = World::new();
    play(async {
        let mut client = world.client().await;
        let drained = client.drain(pb::DrainRequest {}).await.unwrap();
        assert_eq!(drained.into_inner().state, "draining");
        let refused = client.create_room(order(1, &[1])).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    });
}

#[test]
fn asking_again_with_the_same_key_creates_no_second_room() {
    let world = World::new();
    play(async {
        let mut client = world.client().await;
        let ordered = |players: &[u64]| pb::CreateRoomRequest {
            request_key: "5f2b".to_owned(),
            place: "auto".to_owned(),
            ..order(1, players)
        };
        let first = client.create_room(ordered(&[1])).await.unwrap();
        let second = client.create_room(ordered(&[1])).await.unwrap();
        assert_eq!(first.into_inner(), second.into_inner());
        let other = client.create_room(ordered(&[2])).await.unwrap_err();
        assert_eq!(other.code(), Code::InvalidArgument);
        assert!(other.message().starts_with("request_key: "), "{other}");
        let nowhere = pb::CreateRoomRequest {
            place: "nowhere".to_owned(),
            ..order(2, &[1])
        };
        let refused = client.create_room(nowhere).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("place: "), "{refused}");
    });
}

#[test]
fn each_refusal_has_its_code_and_says_what_is_wrong() {
    let world = World::new();
    play(async {
        let mut client = world.client().await;
        client.create_room(order(1, &[1])).await.unwrap();
        let cases = [
            (order(1, &[1]), Code::AlreadyExists, "room 1 has a match"),
            (
                order(2, &[]),
                Code::InvalidArgument,
                "members: names nobody",
            ),
            (
                order(2, &[3, 3]),
                Code::InvalidArgument,
                "members: names 3 twice",
            ),
            (order(LATE, &[1]), Code::Unavailable, "overloaded"),
            (order(STOPPING, &[1]), Code::Unavailable, "the server stops"),
            (order(FULL, &[1]), Code::ResourceExhausted, "all 9 rooms"),
            (
                order(INVALID, &[1]),
                Code::InvalidArgument,
                "room: is not to our",
            ),
        ];
        for (order, code, text) in cases {
            let refused = client.create_room(order).await.unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
            assert!(refused.message().contains(text), "{refused}");
        }
        let (room, here) = (77, false);
        let shown = client.get_room(pb::GetRoomRequest { room, here }).await;
        let closed = client.close_room(pb::CloseRoomRequest { room, here }).await;
        for refused in [shown.unwrap_err(), closed.unwrap_err()] {
            assert_eq!(refused.code(), Code::NotFound);
            assert_eq!(refused.message(), "room: there is no room 77");
        }
        let (from, limit) = (0, 1001);
        let listed = client
            .list_rooms(pb::ListRoomsRequest { from, limit })
            .await;
        let refused = listed.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("limit: "), "{refused}");
        let watched = client.watch_rooms(at("yesterday")).await;
        assert_eq!(watched.unwrap_err().code(), Code::InvalidArgument);
    });
}

#[test]
fn a_loop_that_does_not_answer_is_unavailable() {
    let world = World::new();
    world.is_stalled.store(true, Ordering::Relaxed);
    play(async {
        let mut client = world.client().await;
        let refused = client.get_node(pb::GetNodeRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    });
}

#[test]
fn a_list_comes_in_parts_that_clients_take() {
    let world = World::new();
    play(async {
        let mut client = world.client().await;
        let members: Vec<u64> = (0..MAX_PLAYERS as u64).map(|id| u64::MAX - id).collect();
        for room in 0..400 {
            client.create_room(order(room, &members)).await.unwrap();
        }
        let (mut rooms, mut from, mut parts) = (Vec::new(), 0, 0);
        loop {
            let limit = 1000;
            let asked = pb::ListRoomsRequest { from, limit };
            let part = client.list_rooms(asked).await.unwrap().into_inner();
            assert_eq!(part.total, 400);
            rooms.extend(part.rooms.iter().map(|room| room.room));
            parts += 1;
            match part.next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert!(rooms.into_iter().eq(0..400));
        assert!(parts > 1);
        let asked = pb::ListRoomsRequest { from: 3, limit: 2 };
        let part = client.list_rooms(asked).await.unwrap().into_inner();
        assert_eq!((part.rooms.len(), part.next), (2, Some(5)));
        let from = u64::MAX;
        let part = client
            .list_rooms(pb::ListRoomsRequest { from, limit: 0 })
            .await;
        assert_eq!(part.unwrap().into_inner().rooms.len(), 0);
    });
}

// --- Who may ask --------------------------------------------------------------------------

/// What each call of the service, and each reflection, says to this authorization.
async fn codes(world: &World, bearer: Option<&str>) -> Vec<Code> {
    use tonic_reflection::pb::{v1, v1alpha};
    fn code<T>(answer: Result<T, Status>) -> Code {
        answer.err().map_or(Code::Ok, |status| status.code())
    }
    let channel = world.channel().await;
    let mut client = LockstepClient::new(channel.clone());
    let (room, here) = (1, true);
    let create = client.create_room(request(order(1, &[1]), bearer)).await;
    let get = pb::GetRoomRequest { room, here };
    let get = client.get_room(request(get, bearer)).await;
    let list = pb::ListRoomsRequest::default();
    let list = client.list_rooms(request(list, bearer)).await;
    let close = pb::CloseRoomRequest { room, here };
    let close = client.close_room(request(close, bearer)).await;
    let watch = client.watch_rooms(request(at(""), bearer)).await;
    let drain = client.drain(request(pb::DrainRequest {}, bearer)).await;
    let node = client
        .get_node(request(pb::GetNodeRequest {}, bearer))
        .await;
    let mut v1 = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let asks = tokio_stream::once(v1::ServerReflectionRequest::default());
    let v1 = v1.server_reflection_info(request(asks, bearer)).await;
    let mut v1alpha = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let asks = tokio_stream::once(v1alpha::ServerReflectionRequest::default());
    let v1alpha = v1alpha.server_reflection_info(request(asks, bearer)).await;
    vec![
        code(create),
        code(get),
        code(list),
        code(close),
        code(watch),
        code(drain),
        code(node),
        code(v1),
        code(v1alpha),
    ]
}

#[test]
fn nothing_but_health_is_answered_without_the_token() {
    let world = World::with(Some(token()), None);
    play(async {
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer 0123456789abcdeF"),
            Some("Basic 0123456789abcdef"),
            Some("0123456789abcdef"),
        ] {
            let codes = codes(&world, wrong).await;
            assert_eq!(codes, vec![Code::Unauthenticated; codes.len()], "{wrong:?}");
        }
        let right = codes(&world, Some(&token().bearer())).await;
        assert!(!right.contains(&Code::Unauthenticated), "{right:?}");
        let mut health = HealthClient::new(world.channel().await);
        health.check(HealthCheckRequest::default()).await.unwrap();
    });
}

// --- Events -------------------------------------------------------------------------------

#[test]
fn what_happens_after_the_headers_of_the_answer_is_never_left_out() {
    let world = World::new();
    play(async {
        let mut client = world.client().await;
        for number in 0..100 {
            let watched = client.watch_rooms(at("")).await.unwrap();
            client.create_room(order(number, &[1, 2])).await.unwrap();
            let event = next(&mut watched.into_inner()).await;
            assert_eq!(event.room, number);
            assert_eq!(event.kind, Some(Kind::Created(pb::Created { players: 2 })));
        }
    });
}

#[test]
fn who_watched_goes_on_where_the_stream_broke() {
    let world = World::new();
    play(async {
        let mut client = world.client().await;
        let answer = client.watch_rooms(at("")).await.unwrap();
        let begin = answer.metadata().get("lockstep-position").unwrap();
        let begin = begin.to_str().unwrap().to_owned();
        let mut events = answer.into_inner();
        client.create_room(order(1, &[1])).await.unwrap();
        let position = next(&mut events).await.position;
        // The stream breaks with its connection.
        drop((events, client));

        let mut client = world.client().await;
        client.create_room(order(2, &[1])).await.unwrap();
        let (room, here) = (1, false);
        let close = pb::CloseRoomRequest { room, here };
        client.close_room(close).await.unwrap();
        let mut events = client
            .watch_rooms(at(&position))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(next(&mut events).await.room, 2);
        let over = next(&mut events).await;
        assert_eq!((over.room, over.r#match), (1, u64::MAX - 1));
        assert_eq!(over.unix_ms, 1_700_000_000_000);
        let reason = "closed".to_owned();
        assert_eq!(over.kind, Some(Kind::Over(pb::Over { reason, frames: 7 })));

        let mut events = client.watch_rooms(at(&begin)).await.unwrap().into_inner();
        for room in [1, 2, 1] {
            assert_eq!(next(&mut events).await.room, room);
        }
    });
}

#[test]
fn a_position_of_another_start_misses_what_came_before() {
    let (old, new) = (World::new(), World::new());
    play(async {
        let answer = old.client().await.watch_rooms(at("")).await.unwrap();
        let position = answer.metadata().get("lockstep-position").unwrap();
        let position = position.to_str().unwrap();
        let mut client = new.client().await;
        client.create_room(order(3, &[1])).await.unwrap();
        let mut events = client.watch_rooms(at(position)).await.unwrap().into_inner();
        let missed = next(&mut events).await;
        assert_eq!(missed.kind, Some(Kind::Missed(pb::Missed {})));
        assert_eq!(next(&mut events).await.room, 3);
        // The position of that event counts like any other.
        let again = client.watch_rooms(at(&missed.position)).await;
        assert_eq!(next(&mut again.unwrap().into_inner()).await.room, 3);
    });
}

#[test]
fn what_came_too_fast_is_told_as_missed() {
    let world = World::new();
    play(async {
        let mut client = world.client().await;
        let mut events = client.watch_rooms(at("")).await.unwrap().into_inner();
        // The thread of the log is stuck while the loop tells more than may wait.
        let (release, released) = mpsc::sync_channel::<()>(0);
        let (stuck, is_stuck) = mpsc::sync_channel(0);
        world.runtime.handle().spawn(async move {
            stuck.send(()).unwrap();
            let _ = released.recv();
        });
        is_stuck.recv().unwrap();
        let mut feed = world.log.feed();
        for room in 0..=ROOM_EVENTS_WAITING_MAX as u64 {
            feed(RoomEvent {
                unix_ms: 1,
                room: RoomId(room),
                match_id: MatchId(1),
                kind: RoomEventKind::Started,
            });
        }
        drop(release);
        for room in 0..ROOM_EVENTS_WAITING_MAX as u64 {
            assert_eq!(next(&mut events).await.room, room);
        }
        let missed = next(&mut events).await;
        assert_eq!(missed.kind, Some(Kind::Missed(pb::Missed {})));
    });
}

#[test]
fn one_watcher_too_many_is_refused_until_another_goes() {
    let world = World::new();
    play(async {
        let mut client = world.client().await;
        let mut watching = Vec::new();
        for _ in 0..ROOM_WATCHERS_MAX {
            watching.push(client.watch_rooms(at("")).await.unwrap().into_inner());
        }
        let refused = client.watch_rooms(at("")).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        watching.pop();
        // The server learns of it in a moment.
        while client.watch_rooms(at("")).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_server_that_stops_tells_its_watchers_the_last_event_first() {
    let mut world = World::new();
    let mut events = None;
    play(async {
        let mut client = world.client().await;
        let mut watched = client.watch_rooms(at("")).await.unwrap().into_inner();
        client.create_room(order(1, &[1])).await.unwrap();
        let stopping = tokio::task::spawn_blocking(move || {
            world.stop();
            world
        });
        assert_eq!(next(&mut watched).await.room, 1);
        let end = watched.next().await.unwrap().unwrap_err();
        assert_eq!(end.code(), Code::Unavailable, "{end}");
        let world = stopping.await.unwrap();
        assert!(TcpStream::connect(world.addr).is_err());
        events = Some(watched);
    });
}

// --- Health and reflection ----------------------------------------------------------------

#[test]
fn health_tells_whether_rooms_are_taken() {
    let world = World::new();
    play(async {
        let mut health = HealthClient::new(world.channel().await);
        let service = "lockstep.v1.Lockstep".to_owned();
        let asked = HealthCheckRequest { service };
        // It is known once the loop was asked for the first time.
        let mut seen = loop {
            match health.watch(asked.clone()).await {
                Ok(seen) => break seen.into_inner(),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let is = |status: ServingStatus| i32::from(status);
        while seen.next().await.unwrap().unwrap().status != is(ServingStatus::Serving) {}
        // What stays as it is is not told again and again.
        let again = tokio::time::timeout(3 * GRPC_HEALTH_EVERY, seen.next()).await;
        assert!(again.is_err(), "{again:?}");
        world.is_draining.store(true, Ordering::Relaxed);
        while seen.next().await.unwrap().unwrap().status != is(ServingStatus::NotServing) {}
        let whole = health.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(whole.into_inner().status, is(ServingStatus::Serving));
    });
}

#[test]
fn reflection_has_the_service_with_its_comments() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let world = World::new();
    play(async {
        let mut client = ServerReflectionClient::new(world.channel().await);
        let symbol = "lockstep.v1.Lockstep".to_owned();
        let asks = [
            MessageRequest::ListServices(String::new()),
            MessageRequest::FileContainingSymbol(symbol.clone()),
        ];
        let asks = asks.map(|ask| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(ask),
        });
        let answers = client
            .server_reflection_info(tokio_stream::iter(asks))
            .await;
        let mut answers = answers.unwrap().into_inner();
        let mut answer = async || {
            let answer: ServerReflectionResponse = answers.next().await.unwrap().unwrap();
            answer.message_response.unwrap()
        };
        let MessageResponse::ListServicesResponse(list) = answer().await else {
            panic!("it lists the services");
        };
        let names: Vec<_> = list.service.iter().map(|service| &service.name).collect();
        assert!(names.contains(&&symbol), "{names:?}");
        assert!(
            names.contains(&&"grpc.health.v1.Health".to_owned()),
            "{names:?}"
        );
        let MessageResponse::FileDescriptorResponse(file) = answer().await else {
            panic!("it has the file");
        };
        let file = file.file_descriptor_proto.concat();
        let has = |text: &str| file.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(has("CreateRoomRequest") && has("Creates a room"));
    });
}

// --- Where it listens ---------------------------------------------------------------------

#[test]
fn an_address_that_cannot_be_is_named_with_what_to_do() {
    let world = World::new();
    let (control, _mailbox) = control::channel(|| ());
    let bounds = Bounds {
        max_players_per_room: 1,
    };
    let operations = Arc::new(Operations::new(control, bounds, None));
    let start = |listen| {
        let (operations, log) = (Arc::clone(&operations), world.log.clone());
        grpc::start(&world.runtime, listen, Guard::Loopback, operations, log)
    };
    let in_use = start(Listen::At(world.addr)).unwrap_err();
    assert!(matches!(in_use, GrpcError::InUse(_)), "{in_use:?}");
    let text = in_use.to_string();
    let begins = format!("--grpc {}: address in use; ", world.addr);
    assert!(text.starts_with(&begins), "{text}");
    let elsewhere = start(Listen::At("192.0.2.1:1".parse().unwrap())).unwrap_err();
    assert!(matches!(elsewhere, GrpcError::NotHere(_)), "{elsewhere:?}");
    let every = start(Listen::Every { port: 0 }).unwrap();
    let port = every.local_addr().port();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
}

// --- What is sent to harm -----------------------------------------------------------------

/// What each connection of HTTP/2 begins with, and a frame of it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Sends bytes and reads until the server hangs up, or has nothing to say any more.
fn send(addr: SocketAddr, bytes: &[u8], until_end: bool) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_write_timeout(Some(AT_MOST)).unwrap();
    let patience = if until_end {
        AT_MOST
    } else {
        Duration::from_millis(50)
    };
    stream.set_read_timeout(Some(patience)).unwrap();
    // It may hang up while it is sent to.
    let _ = stream.write_all(bytes);
    let mut answer = [0; 4096];
    let ended = loop {
        match stream.read(&mut answer) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => {
                break !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
            }
        }
    };
    assert!(ended || !until_end, "the server does not hang up");
}

#[test]
fn it_lives_through_bytes_that_are_no_calls() {
    let world = World::with(Some(token()), None);
    let addr = world.addr;
    let open = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let mut random = vec![0; 100_000];
    getrandom::fill(&mut random).unwrap();
    // Headers that refer to nothing; streams opened and reset at once; a frame over the bound.
    let resets: Vec<u8> = (0..5000)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            [frame(1, 5, stream, &[0x82]), frame(3, 0, stream, &[0; 4])].concat()
        })
        .collect();
    let endless: Vec<u8> = std::iter::once(frame(1, 0, 1, &[0x82]))
        .chain((0..1000).map(|_| frame(9, 0, 1, &[0x40; 16_000])))
        .flatten()
        .collect();
    let hang_up: [Vec<u8>; 6] = [
        random,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        [open.as_slice(), &frame(0, 0, 1, &[0; 0xff_ff_ff])].concat(),
        [open.as_slice(), &frame(1, 5, 1, &[0xff; 9])].concat(),
        [open.as_slice(), &resets].concat(),
        [open.as_slice(), &endless].concat(),
    ];
    for bytes in &hang_up {
        send(addr, bytes, true);
        play(world.works());
    }
    for bytes in [PREFACE[..10].to_vec(), open] {
        send(addr, &bytes, false);
        play(world.works());
    }
}

#[test]
fn a_connection_that_does_not_begin_is_hung_up() {
    let world = World::new();
    send(world.addr, &PREFACE[..10], true);
}

/// A connection that speaks HTTP/2 and has not said who it is.
fn stranger(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(AT_MOST)).unwrap();
    let open = [PREFACE, &frame(4, 0, 0, &[])].concat();
    stream.write_all(&open).unwrap();
    // It is there once it has said something.
    assert!(stream.read(&mut [0; 9]).unwrap() > 0);
    stream
}

/// Reads until the server hangs up.
fn is_hung_up(mut stream: TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_flood_of_strangers_displaces_itself_and_nobody_with_the_token() {
    let world = World::with(Some(token()), None);
    play(async {
        let mut client = world.client().await;
        let node = pb::GetNodeRequest {};
        client.get_node(world.ask(node)).await.unwrap();
        let mut events = client.watch_rooms(world.ask(at(""))).await.unwrap();
        let first = stranger(world.addr);
        let mut strangers = Vec::new();
        for _ in 0..3 * GRPC_STRANGERS_MAX {
            strangers.push(stranger(world.addr));
        }
        assert!(is_hung_up(first));
        for old in strangers.drain(..2 * GRPC_STRANGERS_MAX) {
            assert!(is_hung_up(old));
        }
        // Who asks at once is let in beside those that are left.
        world.works().await;
        let mut health = HealthClient::new(world.channel().await);
        health.check(HealthCheckRequest::default()).await.unwrap();
        client.create_room(world.ask(order(1, &[1]))).await.unwrap();
        assert_eq!(next(events.get_mut()).await.room, 1);
    });
}

/// A stranger that opens a stream and takes nothing of what comes, and so holds up HTTP/2.
#[test]
fn strangers_that_read_nothing_are_displaced_too() {
    let world = World::with(Some(token()), None);
    let no_window = [0, 4, 0, 0, 0, 0];
    let open = [PREFACE, &frame(4, 0, 0, &no_window)].concat();
    let mut first = TcpStream::connect(world.addr).unwrap();
    first.write_all(&open).unwrap();
    first
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    // Each is answered, and the answers fill the way back.
    let pings = frame(6, 0, 0, &[7; 8]).repeat(10_000);
    while first.write_all(&pings).is_ok() {}
    let _strangers: Vec<_> = (0..GRPC_STRANGERS_MAX)
        .map(|_| stranger(world.addr))
        .collect();
    first.set_read_timeout(Some(AT_MOST)).unwrap();
    assert!(is_hung_up(first));
    play(world.works());
}

#[test]
fn a_request_that_is_too_long_is_refused_and_nothing_else() {
    let world = World::with(Some(token()), None);
    play(async {
        let mut client = world.client().await;
        let many = vec![u64::MAX; GRPC_REQUEST_BYTES_MAX / 10 + 1];
        let refused = client.create_room(world.ask(order(1, &many))).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
        let most: Vec<u64> = (0..MAX_PLAYERS as u64).map(|id| u64::MAX - id).collect();
        client
            .create_room(world.ask(order(1, &most)))
            .await
            .unwrap();
        let long = format!("Bearer {}", "x".repeat(100_000));
        let node = pb::GetNodeRequest {};
        client
            .get_node(request(node, Some(&long)))
            .await
            .unwrap_err();
        world.works().await;
    });
}

#[test]
fn many_calls_at_once_are_all_answered() {
    let world = World::new();
    play(async {
        let client = world.client().await;
        let calls: Vec<_> = (0..100)
            .map(|room| {
                let mut client = client.clone();
                tokio::spawn(async move { client.create_room(order(room, &[1])).await })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    });
}

// --- A game's backend ---------------------------------------------------------------------

#[test]
fn a_backend_in_python_needs_nothing_but_the_address_and_the_token() {
    const PYTHON: &str = "LOCKSTEP_INTEROP_PYTHON";
    let Some(python) = std::env::var_os(PYTHON) else {
        panic!("{PYTHON} names no Python with the package grpcio: run ./scripts/test, which does");
    };
    let token = "0123456789abcdef";
    let settings = ["--grpc", "127.0.0.1:0", "--admin-token", token];
    let server = real::RealServer::start(&settings);
    let address = server.grpc.expect("it was asked to listen").to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grpc_backend.py");
    let output = Command::new(python)
        .arg("-B")
        .arg(script)
        .args([&address, token])
        .output()
        .expect("Python starts");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
