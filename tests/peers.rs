//! What is asked of another node, over real sockets: the HTTP side of another server in this
//! process, a gRPC side that says what the test wants, and hostile ones.

#![cfg(feature = "cluster")]
// Helpers of tests are tests, which clippy does not see.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread;

use fake::{BOUNDS, Loop, id, order, start_loop};
use lockstep_server::admin::guard::{AdminToken, Guard};
use lockstep_server::admin::order::Order;
use lockstep_server::admin::{self, Admin, AdminConfig};
use lockstep_server::cluster::node::{Address, Instance, NodeRecord, NodeState};
use lockstep_server::cluster::pb::lockstep_server::{Lockstep, LockstepServer};
use lockstep_server::cluster::pb::{self, CreateRoomRequest, CreateRoomResponse};
use lockstep_server::cluster::peers::Peers;
use lockstep_server::cluster::runtime::Runtime;
use lockstep_server::cluster::{
    Claim, Claimed, Cluster, EtcdStats, Holder, NoEtcd, PeerError, RequestKey, Seen,
};
use lockstep_server::engine::id::RoomId;
use lockstep_server::engine::view::{OverReason, Phase};
use lockstep_server::operations::{Created, Located, Operations};
use serde_json::Value;
use tonic::{Code, Request, Response, Status};

mod fake;

const TOKEN: &str = "0123456789abcdef";

fn token(text: &str) -> AdminToken {
    AdminToken::new(text).unwrap()
}

/// Node b, which can be asked at these addresses.
fn node(http: Option<SocketAddr>, grpc: Option<SocketAddr>) -> NodeRecord {
    let address = |addr: SocketAddr| Address::new(&addr.to_string()).unwrap();
    NodeRecord {
        id: id("b"),
        instance: Instance(2),
        state: NodeState::Ready,
        version: "0.1.0".into(),
        kcp: Address::new("192.0.2.2:10086").unwrap(),
        http: http.map(address),
        grpc: grpc.map(address),
        rooms: 0,
        rooms_max: 10,
        players: 0,
        sessions_max: 100,
        load: 0,
        serial: 0,
    }
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Another server: its HTTP side, in front of a fake loop.
struct Other {
    admin: Option<Admin>,
    its_loop: Arc<Loop>,
    addr: SocketAddr,
}

impl Other {
    fn start(guard: Guard) -> Other {
        let (control, its_loop) = start_loop(5);
        let mut config = AdminConfig::new((Ipv4Addr::LOCALHOST, 0).into());
        config.guard = guard;
        let operations = Arc::new(Operations::new(control, BOUNDS, None));
        let admin = admin::start(config, operations).unwrap();
        Other {
            addr: admin.local_addr(),
            admin: Some(admin),
            its_loop,
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if let Some(admin) = self.admin.take() {
            admin.stop();
        }
    }
}

/// Listens, reads a request of each connection and lets `answer` say what comes back.
fn hostile(answer: impl Fn(&mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            answer(&mut stream);
        }
    });
    addr
}

fn answers(text: String) -> SocketAddr {
    hostile(move |stream| {
        let _ = stream.write_all(text.as_bytes());
    })
}

fn with_body(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}")
}

const CREATE: &str = "room=1&member=1,18446744073709551615&hz=60&watchers_max=2&request_key=k";

// --- HTTP ---------------------------------------------------------------------------------

#[test]
fn a_room_is_created_shown_and_closed_over_http() {
    let (other, runtime) = (Other::start(Guard::Token(token(TOKEN))), Runtime::start());
    let runtime = runtime.unwrap();
    let peers = Peers::new(runtime.handle().clone(), Some(&token(TOKEN)));
    let b = node(Some(other.addr), None);
    let created = peers.create_at(&b, &order(CREATE)).unwrap();
    let view = created.room.view.clone();
    assert_eq!((view.room, view.hz, view.seats.len()), (RoomId(1), 60, 2));
    assert_eq!(view.seats[1].player.0, u64::MAX);
    assert_eq!(created.secret.len(), 32);
    assert_eq!(created.watch_secret.as_ref().map(String::len), Some(32));
    // It says nothing of a cluster: then the room is where it was asked for.
    let home = created.room.home.clone().unwrap();
    assert_eq!((home.node, home.address), (b.id.clone(), b.kcp.clone()));
    assert_eq!(peers.create_at(&b, &order(CREATE)), Ok(created.clone()));
    assert_eq!(peers.room_at(&b, RoomId(1)), Ok(Some(created.room)));
    assert_eq!(peers.room_at(&b, RoomId(2)), Ok(None));
    assert_eq!(peers.close_at(&b, RoomId(2)), Ok(None));
    let closed = peers.close_at(&b, RoomId(1)).unwrap().unwrap();
    assert_eq!(closed.view.phase, Phase::Over(OverReason::Closed));
}

#[test]
fn refusals_are_told_apart_over_http() {
    let (other, runtime) = (Other::start(Guard::Loopback), Runtime::start().unwrap());
    let peers = Peers::new(runtime.handle().clone(), None);
    let b = node(Some(other.addr), None);
    peers.create_at(&b, &order("room=1&member=1")).unwrap();
    let create = |query: &str| peers.create_at(&b, &order(query)).unwrap_err();
    match create("room=1&member=1") {
        PeerError::Refused { exists, node, why } => {
            assert!(exists && node == id("b"));
            assert!(
                why.starts_with("room: room 1 has a match that is not over"),
                "{why}"
            );
        }
        error => panic!("{error}"),
    }
    let invalid = create("room=2&member=1&place=nowhere");
    assert!(
        matches!(invalid, PeerError::Refused { exists: false, .. }),
        "{invalid}"
    );
    other
        .its_loop
        .rooms_max
        .store(0, std::sync::atomic::Ordering::Relaxed);
    let full = create("room=2&member=1");
    assert!(matches!(full, PeerError::Unable { .. }), "{full}");
    assert!(full.to_string().contains("all 0 rooms are taken"), "{full}");
    // The loop does not answer: the room may come to be.
    other
        .its_loop
        .stalled
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let late = create("room=3&member=1");
    assert!(matches!(late, PeerError::Silent { .. }), "{late}");
    other
        .its_loop
        .stalled
        .store(false, std::sync::atomic::Ordering::Relaxed);
}

#[test]
fn nodes_with_different_tokens_say_so() {
    let (other, runtime) = (Other::start(Guard::Token(token(TOKEN))), Runtime::start());
    let runtime = runtime.unwrap();
    let b = node(Some(other.addr), None);
    for wrong in [None, Some(token("fedcba9876543210"))] {
        let peers = Peers::new(runtime.handle().clone(), wrong.as_ref());
        let error = peers.create_at(&b, &order(CREATE)).unwrap_err();
        assert!(matches!(error, PeerError::Unable { .. }), "{error}");
        assert!(error.to_string().contains("--admin-token"), "{error}");
        assert!(peers.room_at(&b, RoomId(1)).is_err());
    }
    assert!(other.its_loop.rooms.lock().unwrap().is_empty());
}

#[test]
fn who_is_not_there_has_done_nothing() {
    let runtime = Runtime::start().unwrap();
    let peers = Peers::new(runtime.handle().clone(), None);
    for b in [
        node(None, None),
        node(Some(nobody()), None),
        node(None, Some(nobody())),
        node(Some(nobody()), Some(nobody())),
    ] {
        let error = peers.create_at(&b, &order(CREATE)).unwrap_err();
        assert!(matches!(error, PeerError::Unreached { .. }), "{error}");
        let error = peers.room_at(&b, RoomId(1)).unwrap_err();
        assert!(matches!(error, PeerError::Unreached { .. }), "{error}");
    }
}

#[test]
fn hostile_answers_leave_it_open_what_was_done() {
    let runtime = Runtime::start().unwrap();
    let peers = Peers::new(runtime.handle().clone(), None);
    let endless = |stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"x\": \"");
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    };
    let room_2 = r#"{"room":"2","match":"5","phase":"waiting","over":null,"frame":0,
        "max_frames":1,"hz":1,"broadcast_every":1,"input_bytes":0,"seed":0,"created":0,
        "started":null,"log_bytes":0,"watchers":0,"watchers_max":0,"watch_delay":0,"seats":[],
        "secret":"0123456789abcdef0123456789abcdef"}"#;
    for (name, addr) in [
        ("nothing", hostile(|_| ())),
        ("no HTTP", answers("hello\r\n\r\n".to_owned())),
        ("no JSON", answers(with_body("201 Created", "<html>"))),
        ("another room", answers(with_body("201 Created", room_2))),
        (
            "cut off",
            answers(with_body("201 Created", "{}").replace(": 2", ": 99")),
        ),
        ("endless", hostile(endless)),
        ("broken", answers(with_body("500 Oh", ""))),
        (
            "unsure",
            answers(with_body(
                "503 No",
                r#"{"error":{"reason":"x","unsure":true}}"#,
            )),
        ),
    ] {
        let b = node(Some(addr), None);
        let error = peers.create_at(&b, &order(CREATE)).unwrap_err();
        assert!(matches!(error, PeerError::Silent { .. }), "{name}: {error}");
        assert!(peers.room_at(&b, RoomId(1)).is_err(), "{name}");
    }
    let b = node(Some(answers(with_body("503 No", "busy"))), None);
    let error = peers.create_at(&b, &order(CREATE)).unwrap_err();
    assert!(matches!(error, PeerError::Unable { .. }), "{error}");
}

#[test]
fn a_redirect_is_not_followed_and_the_token_stays() {
    let (told, asked) = std::sync::mpsc::channel();
    let trap = hostile(move |_| told.send(()).unwrap());
    let runtime = Runtime::start().unwrap();
    let peers = Peers::new(runtime.handle().clone(), Some(&token(TOKEN)));
    for status in ["301 Moved", "302 Found", "307 Again", "308 Moved"] {
        let text = format!(
            "HTTP/1.1 {status}\r\nLocation: http://{trap}/api/rooms\r\nContent-Length: 0\r\n\r\n"
        );
        let b = node(Some(answers(text)), None);
        assert!(peers.create_at(&b, &order(CREATE)).is_err(), "{status}");
        assert!(peers.room_at(&b, RoomId(1)).is_err(), "{status}");
    }
    assert!(asked.try_recv().is_err());
}

#[test]
fn the_words_of_another_node_are_short_and_plain() {
    let runtime = Runtime::start().unwrap();
    let peers = Peers::new(runtime.handle().clone(), None);
    let words = format!("\\u001b[2J\\r\\n{}", "x".repeat(100_000));
    for status in ["400 No", "404 No", "409 No", "500 No", "503 No"] {
        let body = format!(r#"{{"error":{{"reason":"{words}"}}}}"#);
        let b = node(Some(answers(with_body(status, &body))), None);
        let error = peers.create_at(&b, &order(CREATE)).unwrap_err().to_string();
        assert!(!error.contains(char::is_control), "{status}: {error:?}");
        assert!(
            error.contains("[2J") && error.len() < 2000,
            "{status}: {error}"
        );
    }
}

/// A node that asks the other one over HTTP; there is no etcd.
struct Member {
    own: NodeRecord,
    other: OnceLock<NodeRecord>,
    peers: Peers,
}

impl Cluster for Member {
    fn own(&self) -> NodeRecord {
        self.own.clone()
    }

    fn others(&self) -> Vec<Seen> {
        let other = self.other.get().cloned();
        let seen = other.map(|record| Seen { record, age_ms: 0 });
        seen.into_iter().collect()
    }

    fn etcd(&self) -> EtcdStats {
        EtcdStats::default()
    }

    fn warnings(&self) -> Vec<String> {
        vec!["etcd does not answer".to_owned()]
    }

    fn claim(&self, _: RoomId, _: Option<&RequestKey>) -> Claimed {
        Claimed::Unclaimed
    }

    fn release(&self, _: Claim) {}

    fn holder(&self, _: RoomId) -> Result<Option<Holder>, NoEtcd> {
        let other = self.other.get().unwrap();
        Ok(Some(Holder {
            node: other.id.clone(),
            instance: other.instance,
            request: None,
        }))
    }

    fn create_at(&self, node: &NodeRecord, order: &Order) -> Result<Created, PeerError> {
        self.peers.create_at(node, order)
    }

    fn room_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError> {
        self.peers.room_at(node, room)
    }

    fn close_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError> {
        self.peers.close_at(node, room)
    }
}

/// Two servers that know each other.
struct Pair {
    _runtime: Runtime,
    admins: Vec<Admin>,
}

impl Pair {
    fn start() -> Pair {
        let runtime = Runtime::start().unwrap();
        let mut members: Vec<Arc<Member>> = Vec::new();
        let mut admins = Vec::new();
        for (name, number) in [("a", 1), ("b", 2)] {
            let (control, _) = start_loop(100);
            // The port is known once it listens; nobody asks before.
            let addr = nobody();
            let mut own = node(Some(addr), None);
            own.id = id(name);
            own.instance = Instance(number);
            let member = Arc::new(Member {
                own,
                other: OnceLock::new(),
                peers: Peers::new(runtime.handle().clone(), None),
            });
            let operations = Operations::new(control, BOUNDS, None);
            let operations = operations.in_cluster(Arc::clone(&member) as Arc<dyn Cluster>);
            let admin = admin::start(AdminConfig::new(addr), Arc::new(operations));
            admins.push(admin.unwrap());
            members.push(member);
        }
        for (member, other) in [(0, 1), (1, 0)] {
            members[member]
                .other
                .set(members[other].own.clone())
                .unwrap();
        }
        Pair {
            _runtime: runtime,
            admins,
        }
    }

    fn ask(&self, server: usize, method: &str, target: &str) -> (String, String) {
        let addr = self.admins[server].local_addr();
        let mut stream = TcpStream::connect(addr).unwrap();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
        write!(stream, "{head}\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for admin in self.admins.drain(..) {
            admin.stop();
        }
    }
}

#[test]
fn a_server_of_a_cluster_tells_where_its_rooms_are_and_who_is_there() {
    let pair = Pair::start();
    let (status, text) = pair.ask(0, "GET", "/create?room=1&member=1,2&place=b");
    assert_eq!(status, "200", "{text}");
    assert!(text.starts_with("room.ID=[1] room.Secret=["), "{text}");
    assert!(
        text.ends_with(" room.Node=[b] room.Address=[192.0.2.2:10086]"),
        "{text}"
    );
    let json = |server, method: &str, target: &str, status: &str| -> Value {
        let (got, text) = pair.ask(server, method, target);
        assert_eq!(got, status, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let room = json(0, "GET", "/api/rooms/1", "200");
    assert_eq!((&room["node"], &room["room"]), (&"b".into(), &"1".into()));
    let nothing = json(0, "GET", "/api/rooms/1?here=1", "404");
    assert_eq!(nothing["error"]["field"], "room");
    let view = json(0, "GET", "/api/cluster", "200");
    assert_eq!(view["node"]["id"], "a");
    assert_eq!(view["others"][0]["id"], "b");
    assert_eq!(view["others"][0]["age_ms"], 0);
    assert_eq!(view["warnings"][0], "etcd does not answer");
    assert_eq!(json(1, "GET", "/api/cluster", "200")["node"]["rooms"], 1);
    let health = json(0, "GET", "/healthz", "200");
    assert_eq!(health["status"], "ok");
    assert_eq!(health["warnings"][0], "etcd does not answer");
    let closed = json(0, "DELETE", "/api/rooms/1", "200");
    assert_eq!(closed["over"], "closed");
}

#[test]
fn servers_that_ask_each_other_at_once_do_not_wait_for_each_other() {
    let pair = Arc::new(Pair::start());
    let ask = |number: usize| {
        let pair = Arc::clone(&pair);
        move || {
            let place = ["b", "a"][number % 2];
            let target = format!("/create?room={number}&member=1&place={place}");
            pair.ask(number % 2, "GET", &target)
        }
    };
    let threads: Vec<_> = (0..40).map(|number| thread::spawn(ask(number))).collect();
    for thread in threads {
        let (status, text) = thread.join().unwrap();
        assert_eq!(status, "200", "{text}");
    }
}

// --- gRPC ---------------------------------------------------------------------------------

/// Answers by the number of the room.
struct Scripted;

fn scripted<T>(request: &Request<T>, room: u64) -> Result<pb::Room, Status> {
    let sent = request.metadata().get("authorization");
    if sent.is_none_or(|sent| sent != format!("Bearer {TOKEN}").as_str()) {
        return Err(Status::unauthenticated("send the token"));
    }
    let code = match room {
        2 => Code::AlreadyExists,
        3 => Code::InvalidArgument,
        4 => Code::ResourceExhausted,
        5 => Code::Unavailable,
        6 => Code::DeadlineExceeded,
        7 => Code::NotFound,
        8 => Code::Internal,
        _ => Code::Ok,
    };
    if code != Code::Ok {
        // As a server says it: the field first.
        return Err(Status::new(code, "room: as told"));
    }
    Ok(pb::Room {
        // One tells of another room.
        room: if room == 9 { 10 } else { room },
        phase: pb::Phase::Over.into(),
        over: "max_frames".to_owned(),
        node: "c".to_owned(),
        address: "192.0.2.3:10086".to_owned(),
        seats: vec![pb::Seat {
            seat: 1,
            player: u64::MAX,
            rtt_us: Some(12_340),
            ..pb::Seat::default()
        }],
        ..pb::Room::default()
    })
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Lockstep for Scripted {
    type WatchRoomsStream = tokio_stream::Empty<Result<pb::RoomEvent, Status>>;

    async fn create_room(&self, request: Request<CreateRoomRequest>) -> Answer<CreateRoomResponse> {
        let order = request.get_ref();
        let room = scripted(&request, order.room)?;
        let right = order.place == "here" && order.request_key == "k" && order.members == [1];
        if order.room == 11 {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(CreateRoomResponse {
            room: Some(room).filter(|_| right),
            secret: "5".repeat(32),
            tickets: vec!["t".to_owned()],
            watch_secret: String::new(),
            serial: 7,
        }))
    }

    async fn get_room(&self, request: Request<pb::GetRoomRequest>) -> Answer<pb::Room> {
        assert!(request.get_ref().here);
        scripted(&request, request.get_ref().room).map(Response::new)
    }

    async fn close_room(&self, request: Request<pb::CloseRoomRequest>) -> Answer<pb::Room> {
        assert!(request.get_ref().here);
        scripted(&request, request.get_ref().room).map(Response::new)
    }

    async fn list_rooms(&self, _: Request<pb::ListRoomsRequest>) -> Answer<pb::ListRoomsResponse> {
        Err(Status::unimplemented(""))
    }

    async fn watch_rooms(
        &self,
        _: Request<pb::WatchRoomsRequest>,
    ) -> Answer<Self::WatchRoomsStream> {
        Err(Status::unimplemented(""))
    }

    async fn drain(&self, _: Request<pb::DrainRequest>) -> Answer<pb::Node> {
        Err(Status::unimplemented(""))
    }

    async fn get_node(&self, _: Request<pb::GetNodeRequest>) -> Answer<pb::GetNodeResponse> {
        Err(Status::unimplemented(""))
    }
}

/// Serves until its runtime ends.
fn serve() -> (Runtime, SocketAddr) {
    let runtime = Runtime::start().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    runtime.handle().spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tonic::transport::Server::builder()
            .add_service(LockstepServer::new(Scripted))
            .serve_with_incoming(incoming)
            .await
    });
    (runtime, addr)
}

fn ordered(room: u64) -> String {
    format!("room={room}&member=1&request_key=k")
}

#[test]
fn a_room_is_created_shown_and_closed_over_grpc() {
    let (_server, addr) = serve();
    let runtime = Runtime::start().unwrap();
    let peers = Peers::new(runtime.handle().clone(), Some(&token(TOKEN)));
    let b = node(None, Some(addr));
    let created = peers.create_at(&b, &order(&ordered(1))).unwrap();
    assert_eq!((created.serial, created.tickets.len()), (7, 1));
    assert_eq!(
        (created.secret.as_str(), &created.watch_secret),
        ("55555555555555555555555555555555", &None)
    );
    let view = &created.room.view;
    assert_eq!(view.phase, Phase::Over(OverReason::MaxFrames));
    assert_eq!(view.seats[0].player.0, u64::MAX);
    assert_eq!(created.room.home.as_ref().unwrap().node, id("c"));
    assert_eq!(peers.room_at(&b, RoomId(1)), Ok(Some(created.room.clone())));
    assert_eq!(peers.close_at(&b, RoomId(1)), Ok(Some(created.room)));
    assert_eq!(peers.room_at(&b, RoomId(7)), Ok(None));
    assert_eq!(peers.close_at(&b, RoomId(7)), Ok(None));
}

#[test]
fn refusals_are_told_apart_over_grpc() {
    let (_server, addr) = serve();
    let runtime = Runtime::start().unwrap();
    let peers = Peers::new(runtime.handle().clone(), Some(&token(TOKEN)));
    let b = node(None, Some(addr));
    let create = |room: u64| peers.create_at(&b, &order(&ordered(room))).unwrap_err();
    let exists = create(2);
    assert!(
        matches!(exists, PeerError::Refused { exists: true, .. }),
        "{exists}"
    );
    // The refusal of this server names the field, once.
    assert_eq!(exists.to_string(), "node b: as told");
    let invalid = create(3);
    assert!(
        matches!(invalid, PeerError::Refused { exists: false, .. }),
        "{invalid}"
    );
    for room in [4, 5] {
        let unable = create(room);
        assert!(
            matches!(unable, PeerError::Unable { .. }),
            "{room}: {unable}"
        );
    }
    for room in [6, 8, 9, 11] {
        let silent = create(room);
        assert!(
            matches!(silent, PeerError::Silent { .. }),
            "{room}: {silent}"
        );
    }
    let stranger = Peers::new(runtime.handle().clone(), None);
    let error = stranger.create_at(&b, &order(&ordered(1))).unwrap_err();
    assert!(error.to_string().contains("--admin-token"), "{error}");
}

#[test]
fn http_answers_where_grpc_does_not() {
    let other = Other::start(Guard::Token(token(TOKEN)));
    let runtime = Runtime::start().unwrap();
    let peers = Peers::new(runtime.handle().clone(), Some(&token(TOKEN)));
    let (_server, mute) = serve();
    for (room, grpc) in [
        (1, nobody()),
        // Takes the order and says nothing.
        (11, mute),
        (2, hostile(|_| ())),
        // No gRPC at all.
        (3, other.addr),
    ] {
        let b = node(Some(other.addr), Some(grpc));
        let query = ordered(room).replace("=k", &format!("=k{room}"));
        let created = peers.create_at(&b, &order(&query)).unwrap();
        assert_eq!(created.room.view.room, RoomId(room));
    }
    // Both ways have failed, and one was asked.
    let b = node(Some(nobody()), Some(mute));
    let error = peers.create_at(&b, &order(&ordered(11))).unwrap_err();
    assert!(matches!(error, PeerError::Silent { .. }), "{error}");
}

#[test]
fn a_node_that_ended_is_not_reached_any_more_and_found_when_it_is_back() {
    let (server, addr) = serve();
    let runtime = Runtime::start().unwrap();
    let peers = Peers::new(runtime.handle().clone(), Some(&token(TOKEN)));
    let b = node(None, Some(addr));
    peers.create_at(&b, &order(&ordered(1))).unwrap();
    drop(server);
    // Whether the end of the connection has been seen already is a matter of luck.
    let first = peers.create_at(&b, &order(&ordered(1))).unwrap_err();
    assert!(
        matches!(
            first,
            PeerError::Unreached { .. } | PeerError::Silent { .. }
        ),
        "{first}"
    );
    let second = peers.create_at(&b, &order(&ordered(1))).unwrap_err();
    assert!(matches!(second, PeerError::Unreached { .. }), "{second}");
    let (_server, addr) = serve();
    let b = node(None, Some(addr));
    peers.create_at(&b, &order(&ordered(1))).unwrap();
}
