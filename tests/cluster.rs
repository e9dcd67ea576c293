//! Clusters of real processes on a real etcd: what users, players and operators see of them while
//! nodes and etcd come and go. (`cluster_etcd.rs` has the same below the processes.)
#![cfg(all(feature = "cluster", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod etcd;
mod real;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use etcd::Etcd;
use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::id::{Conv, PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::frame::Frame;
use lockstep_server::engine::wire::message::{ConnectCode, Version};
use lockstep_server::limits::DATAGRAM_MAX;
use real::{Bots, PATIENCE, RealServer};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Seconds: what a node that is gone may be seen for, and a bit for busy machines.
const TTL: &str = "2";

// --- The cluster ----------------------------------------------------------------------------

/// A port that nobody uses now. Those of the system's own choice come and go with other tests.
fn free_port() -> u16 {
    for _ in 0..1000 {
        let port = 10_000 + u16::try_from(getrandom::u32().unwrap() % 20_000).unwrap();
        let udp = UdpSocket::bind(("127.0.0.1", port));
        if udp.is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Settings of a node, for as many starts as a test likes: always the same ports and directory.
struct Site {
    id: &'static str,
    udp: u16,
    grpc: u16,
    web: u16,
    etcd: String,
    dir: Option<PathBuf>,
}

impl Site {
    fn new(id: &'static str, etcd: &Etcd) -> Site {
        Site {
            id,
            udp: free_port(),
            grpc: free_port(),
            web: free_port(),
            etcd: etcd.url(),
            dir: None,
        }
    }

    /// The same with a data directory.
    fn recording(id: &'static str, etcd: &Etcd) -> Site {
        let name = format!(
            "lockstep-cluster-{id}-{}-{}",
            std::process::id(),
            free_port()
        );
        let mut site = Site::new(id, etcd);
        site.dir = Some(std::env::temp_dir().join(name));
        site
    }

    fn settings(&self, more: &[&str]) -> Vec<String> {
        let at = |port: u16| format!("127.0.0.1:{port}");
        let mut settings: Vec<String> = [
            ["--udp", &at(self.udp)],
            ["--web", &at(self.web)],
            ["--grpc", &at(self.grpc)],
            ["--etcd", &self.etcd],
            ["--etcd-ttl", TTL],
            ["--node-id", self.id],
            ["--advertise", &at(self.udp)],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
        if let Some(dir) = &self.dir {
            settings.extend(["--data-dir".to_owned(), dir.to_str().unwrap().to_owned()]);
        }
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        settings
    }

    fn start(&self) -> RealServer {
        self.start_with(&[])
    }

    fn start_with(&self, more: &[&str]) -> RealServer {
        RealServer::start(&self.settings(more))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Nodes a, b, c ... on one etcd, each of which sees all.
fn cluster<const N: usize>(etcd: &Etcd) -> [RealServer; N] {
    const IDS: [&str; 3] = ["a", "b", "c"];
    let nodes: [RealServer; N] = std::array::from_fn(|i| Site::new(IDS[i], etcd).start());
    for node in &nodes {
        wait_for_nodes(node, &IDS[..N]);
    }
    nodes
}

/// The ids of the nodes that a node sees, itself among them.
fn nodes_seen(node: &RealServer) -> Vec<String> {
    let view = node.ask("GET /api/cluster", "", 200);
    let others = view["others"].as_array().unwrap();
    let mut ids: Vec<String> = [&view["node"]]
        .into_iter()
        .chain(others)
        .map(|node| node["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

fn wait_for_nodes(node: &RealServer, ids: &[&str]) {
    wait(
        || nodes_seen(node) == ids,
        || format!("{:?}", nodes_seen(node)),
    );
}

/// Waits until something is as it should be.
fn wait(mut is_right: impl FnMut() -> bool, say: impl Fn() -> String) {
    let began = Instant::now();
    while !is_right() {
        assert!(began.elapsed() < PATIENCE, "{}", say());
        thread::sleep(Duration::from_millis(20));
    }
}

fn create_auto(node: &RealServer, room: u64, members: &[u64]) -> Value {
    let body = json!({ "room": room, "members": members, "place": "auto" });
    node.ask("POST /api/rooms", &body.to_string(), 201)
}

// --- Players --------------------------------------------------------------------------------

/// A player who was told the address of one node.
struct Player {
    socket: UdpSocket,
    origin: Instant,
    client: Client,
    config: ClientConfig,
    server: SocketAddr,
    hops: u32,
    frames: Vec<Frame>,
    is_over: bool,
    refused: Option<ConnectCode>,
}

impl Player {
    fn new(id: u64, room: u64, told: SocketAddr) -> Player {
        let config = ClientConfig::new(PlayerId(id), RoomId(room));
        let mut player = Player {
            socket: Player::socket(),
            origin: Instant::now(),
            client: Client::new(Time::ZERO, config.clone()),
            config,
            server: told,
            hops: 0,
            frames: Vec::new(),
            is_over: false,
            refused: None,
        };
        player.begin();
        player
    }

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn conv() -> Conv {
        Conv(getrandom::u32().unwrap())
    }

    fn begin(&mut self) {
        self.config.conv = Player::conv();
        self.client = Client::new(self.now(), self.config.clone());
        self.client.join();
        self.client.ready();
    }

    fn now(&self) -> Time {
        Time::since_origin(self.origin.elapsed())
    }

    fn step(&mut self) {
        let mut buffer = [0; DATAGRAM_MAX];
        while let Ok((len, _)) = self.socket.recv_from(&mut buffer) {
            let now = self.now();
            self.client.handle_datagram(now, &mut buffer[..len]);
        }
        let now = self.now();
        self.client.handle_timeout(now);
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Redirected { address } => {
                    self.hops += 1;
                    self.server = address.parse().unwrap();
                    self.socket = Player::socket();
                    self.client.reconnect(now, Player::conv(), 1);
                }
                ClientEvent::Refused(code) => self.refused = Some(code),
                ClientEvent::Frame(frame) => {
                    let next = self.frames.last().map_or(0, |frame| frame.id + 1);
                    assert_eq!(frame.id, next, "no gap and no repeat");
                    self.frames.push(frame);
                }
                ClientEvent::Started { next, .. } => self.frames.retain(|frame| frame.id < next),
                ClientEvent::Closed => self.is_over = true,
                _ => {}
            }
        }
        let mut batch = Transmits::default();
        self.client.poll_transmit(self.now(), &mut batch);
        for (_, datagram) in batch.iter() {
            self.socket.send_to(datagram, self.server).unwrap();
        }
    }
}

/// Lets them play until each is as it should be.
fn play(players: &mut [Player], mut is_right: impl FnMut(&Player) -> bool) {
    let began = Instant::now();
    loop {
        players.iter_mut().for_each(Player::step);
        if players.iter().all(&mut is_right) {
            return;
        }
        let late = players.iter().find(|player| !is_right(player)).unwrap();
        assert!(
            began.elapsed() < PATIENCE,
            "room {}: {} frames from {} after {} hops, refused: {:?}",
            late.client.room(),
            late.frames.len(),
            late.server,
            late.hops,
            late.refused
        );
        thread::sleep(Duration::from_millis(5));
    }
}

// --- Many nodes -----------------------------------------------------------------------------

#[test]
fn sixty_rooms_are_spread_evenly_and_players_told_one_node_find_theirs() {
    let etcd = Etcd::start();
    let [a, b, c] = cluster(&etcd);
    let mut homes: BTreeMap<String, u32> = BTreeMap::new();
    let mut players = Vec::new();
    for room in 1..=60 {
        let created = create_auto(&a, room, &[1]);
        *homes
            .entry(created["node"].as_str().unwrap().into())
            .or_default() += 1;
        players.push(Player::new(1, room, a.udp));
    }
    let expected = ["a", "b", "c"].map(|id| (id.to_owned(), 20));
    assert_eq!(homes, BTreeMap::from(expected));
    for node in [&a, &b, &c] {
        assert_eq!(node.count("rooms_created"), 20);
    }
    play(&mut players, |player| player.frames.len() >= 20);
    let hops: u32 = players.iter().map(|player| player.hops).sum();
    assert_eq!(
        hops, 40,
        "those of the other two nodes were sent there, once"
    );

    // One node dies in the middle. Whoever plays on the others notices nothing.
    let on_c = c.udp;
    drop(c);
    let (mut lost, mut others): (Vec<Player>, Vec<Player>) = players
        .into_iter()
        .partition(|player| player.server == on_c);
    assert_eq!((lost.len(), others.len()), (20, 40));
    let before: Vec<usize> = others.iter().map(|player| player.frames.len()).collect();
    wait_for_nodes(&a, &["a", "b"]);
    wait_for_nodes(&b, &["a", "b"]);
    let mut more = before.iter().copied().cycle();
    play(&mut others, |player| {
        player.frames.len() > more.next().unwrap() + 30
    });

    // Its numbers are free, and rooms are placed elsewhere.
    for player in &mut lost {
        let room = player.client.room().0;
        let created = create_auto(&a, room, &[1]);
        assert!(
            matches!(created["node"].as_str(), Some("a" | "b")),
            "{created}"
        );
        *player = Player::new(1, room, b.udp);
    }
    play(&mut lost, |player| player.frames.len() >= 10);
    let rooms = [&a, &b].map(|node| node.count("rooms_created"));
    assert_eq!(rooms, [30, 30]);
}

#[test]
fn bots_that_are_told_one_node_play_on_all() {
    let etcd = Etcd::start();
    let [a, b, c] = cluster(&etcd);
    let (udp, web) = (a.udp.to_string(), a.web.to_string());
    let args = ["--server", &udp, "--web", &web, "--place", "auto"];
    let load = ["--rooms", "12", "--players", "3", "--seconds", "4"];
    let report = Bots::start(&[&args[..], &load[..]].concat()).report();
    assert_eq!(report["rooms"], 12, "{report}");
    for node in [&a, &b, &c] {
        assert_eq!(node.count("rooms_created"), 4);
    }
}

#[test]
fn a_room_is_found_and_closed_from_any_node_and_its_number_exists_once() {
    let etcd = Etcd::start();
    let [a, b] = cluster(&etcd);
    b.create_room(7, &[1, 2]);
    let seen = a.ask("GET /api/rooms/7", "", 200);
    assert_eq!(seen["node"], "b");
    assert_eq!(seen["address"], b.udp.to_string());
    assert_eq!(seen["seats"][1]["player"], "2");
    a.ask("GET /api/rooms/7?here=1", "", 404);
    let refused = a.ask("POST /api/rooms", r#"{"room": 7, "members": [1]}"#, 409);
    assert!(refused.to_string().contains("node b"), "{refused}");
    let refused = a.ask(
        "POST /api/rooms",
        r#"{"room": 7, "members": [1], "place": "auto"}"#,
        409,
    );
    assert!(refused.to_string().contains('b'), "{refused}");
    let closed = a.ask("DELETE /api/rooms/7", "", 200);
    assert_eq!(closed["over"], "closed");
    // The end gives the number back.
    wait(
        || {
            let body = json!({ "room": 7, "members": [1] }).to_string();
            a.try_ask("POST /api/rooms", &body).0 == 201
        },
        || "room 7 is still taken".into(),
    );
    assert_eq!(b.ask("GET /api/rooms/7", "", 200)["node"], "a");
}

#[test]
fn of_many_who_create_a_room_on_all_nodes_at_once_one_does() {
    let etcd = Etcd::start();
    let nodes: [RealServer; 3] = cluster(&etcd);
    let places = ["auto", "here", "b", "c"];
    for room in 1..=10 {
        let ask = &|i: usize| {
            let place = places[i % places.len()];
            let body = json!({ "room": room, "members": [1], "place": place });
            nodes[i % 3].try_ask("POST /api/rooms", &body.to_string()).0
        };
        let statuses: Vec<u16> = thread::scope(|scope| {
            let asked: Vec<_> = (0..8).map(|i| scope.spawn(move || ask(i))).collect();
            asked
                .into_iter()
                .map(|asked| asked.join().unwrap())
                .collect()
        });
        let created = statuses.iter().filter(|status| **status == 201).count();
        assert_eq!(created, 1, "room {room}: {statuses:?}");
    }
    let created: u64 = nodes.iter().map(|node| node.count("rooms_created")).sum();
    assert_eq!(created, 10);
}

#[test]
fn a_request_that_all_nodes_get_at_once_is_carried_out_once_and_answered_to_all() {
    let etcd = Etcd::start();
    let nodes: [RealServer; 3] = cluster(&etcd);
    for room in 1..=12 {
        // So that the nodes do not agree on where there is most space.
        nodes[room % 3].create_room(100 + u64::try_from(room).unwrap(), &[1]);
        let places = [["auto"; 2], ["auto", "here"], ["b", "c"]][room % 3];
        let key = format!("request-{room}");
        let ask = &|i: usize| {
            let place = places[i / 3];
            let body = json!({ "room": room, "members": [1], "place": place, "request_key": key });
            nodes[i % 3].ask("POST /api/rooms", &body.to_string(), 201)
        };
        let answers: Vec<Value> = thread::scope(|scope| {
            let asked: Vec<_> = (0..6).map(|i| scope.spawn(move || ask(i))).collect();
            asked
                .into_iter()
                .map(|asked| asked.join().unwrap())
                .collect()
        });
        for answer in &answers {
            assert_eq!(answer["match"], answers[0]["match"]);
            assert_eq!(answer["secret"], answers[0]["secret"]);
        }
    }
    let created: u64 = nodes.iter().map(|node| node.count("rooms_created")).sum();
    assert_eq!(created, 24);
}

#[test]
fn a_request_key_makes_one_room_whichever_node_is_asked() {
    let etcd = Etcd::start();
    let [a, b] = cluster(&etcd);
    let body = json!({ "room": 9, "members": [1], "place": "auto", "request_key": "order-66" });
    let first = a.ask("POST /api/rooms", &body.to_string(), 201);
    for node in [&a, &b] {
        let again = node.ask("POST /api/rooms", &body.to_string(), 201);
        assert_eq!(again["match"], first["match"]);
        assert_eq!(again["secret"], first["secret"]);
    }
    assert_eq!(a.count("rooms_created") + b.count("rooms_created"), 1);
}

#[test]
fn a_draining_node_gets_no_rooms_and_leaves_when_its_matches_are_over() {
    let etcd = Etcd::start();
    let [a, b] = cluster(&etcd);
    b.create_room(1, &[1]);
    b.ask("POST /api/drain", "", 202);
    let state = || {
        let view = a.ask("GET /api/cluster", "", 200);
        view["others"][0]["state"].clone()
    };
    wait(|| state() == "draining", || state().to_string());
    for room in 2..=5 {
        assert_eq!(create_auto(&a, room, &[1])["node"], "a");
    }
    let body = r#"{"room": 6, "members": [1], "place": "b"}"#;
    a.ask("POST /api/rooms", body, 503);
    a.ask("DELETE /api/rooms/1", "", 200);
    assert_eq!(b.ended(), Some(0));
    wait_for_nodes(&a, &["a"]);
}

// --- etcd comes and goes --------------------------------------------------------------------

#[test]
fn a_node_whose_etcd_cannot_be_reached_runs_alone_until_it_can() {
    let mut etcd = Etcd::start();
    etcd.kill();
    let a = Site::new("a", &etcd).start();
    a.create_room(1, &[1]);
    assert_eq!(create_auto(&a, 2, &[1])["node"], "a");
    a.ask("GET /healthz", "", 200);
    let mut players = [Player::new(1, 1, a.udp)];
    play(&mut players, |player| player.frames.len() >= 10);
    etcd.run();
    let b = Site::new("b", &etcd).start();
    wait_for_nodes(&b, &["a", "b"]);
    let found = || b.try_ask("GET /api/rooms/1", "");
    wait(|| found().0 == 200, || found().1.to_string());
    assert_eq!(found().1["node"], "a");
}

#[test]
fn matches_do_not_notice_that_etcd_is_gone_and_numbers_are_claimed_when_it_is_back() {
    let mut etcd = Etcd::start();
    let [a, b] = cluster(&etcd);
    a.create_room(1, &[1]);
    let mut players = vec![Player::new(1, 1, a.udp)];
    play(&mut players, |player| player.frames.len() >= 10);
    etcd.kill();
    // Longer than the lease: all keys will be gone.
    let until = Instant::now() + Duration::from_secs(5);
    play(&mut players, |_| Instant::now() >= until);
    let frames = players[0].frames.len();
    assert!(frames > 100, "{frames} frames in 5 s");
    a.create_room(2, &[1]);
    a.create_room(3, &[1]);
    b.create_room(3, &[1]);
    a.ask("GET /healthz", "", 200);
    etcd.run();
    let holder = |room: u64| {
        let (status, room) = b.try_ask(&format!("GET /api/rooms/{room}"), "");
        (status == 200).then(|| room["node"].clone())
    };
    wait(
        || holder(1) == Some("a".into()),
        || format!("{:?}", holder(1)),
    );
    wait(
        || holder(2) == Some("a".into()),
        || format!("{:?}", holder(2)),
    );
    // Room 3 is two matches, one of which the cluster knows. Neither is ended for it.
    let warned = |node: &RealServer| {
        let health = node.ask("GET /healthz", "", 200);
        health["warnings"].to_string().contains("room 3")
    };
    wait(|| warned(&a) || warned(&b), || "nobody is contested".into());
    assert!(warned(&a) != warned(&b));
    for node in [&a, &b] {
        node.ask("GET /api/rooms/3?here=1", "", 200);
    }
    play(&mut players, |player| player.frames.len() > frames + 30);
}

#[test]
fn an_etcd_that_lost_everything_gets_everything_anew() {
    let mut etcd = Etcd::start();
    let [a, b] = cluster(&etcd);
    a.create_room(1, &[1]);
    etcd.wipe();
    wait_for_nodes(&a, &["a", "b"]);
    wait_for_nodes(&b, &["a", "b"]);
    let found = || b.try_ask("GET /api/rooms/1", "");
    wait(|| found().0 == 200, || found().1.to_string());
}

#[test]
fn values_that_name_nobody_are_skipped_and_counted() {
    let etcd = Etcd::start();
    etcd.put("/lockstep/nodes/x", "{");
    let [a, b] = cluster(&etcd);
    etcd.put("/lockstep/nodes/not an id", "{}");
    etcd.put("/lockstep/rooms/5", "rubbish");
    let state = || a.ask("GET /api/cluster", "", 200)["etcd"].clone();
    wait(|| state()["values_skipped"] == 2, || state().to_string());
    assert_eq!(nodes_seen(&a), ["a", "b"]);
    // It holds no number.
    assert_eq!(b.try_ask("GET /api/rooms/5", "").0, 404);
    a.create_room(5, &[1]);
    assert_eq!(b.ask("GET /api/rooms/5", "", 200)["node"], "a");
    let state = state();
    assert_eq!(
        (
            &state["connected"],
            &state["claims_held"],
            &state["contested"]
        ),
        (&true.into(), &1.into(), &0.into())
    );
}

#[test]
fn strangers_learn_from_health_how_much_there_is_to_see_and_no_more() {
    const TOKEN: &str = "0123456789abcdef";
    let mut etcd = Etcd::start();
    let a = Site::new("a", &etcd).start_with(&["--admin-token", TOKEN]);
    etcd.kill();
    let health = || a.ask("GET /healthz", "", 200)["warnings"].clone();
    wait(|| health()[0].is_string(), || health().to_string());
    let told = health().to_string();
    assert!(
        told.contains("/api/cluster") && !told.contains("etcd"),
        "{told}"
    );
    a.ask("GET /api/cluster", "", 401);
}

// --- Nodes come back ------------------------------------------------------------------------

#[test]
fn a_killed_node_takes_its_rooms_back_but_not_one_that_another_has_claimed() {
    let etcd = Etcd::start();
    let a = Site::new("a", &etcd).start();
    let site = Site::recording("b", &etcd);
    let b = site.start();
    wait_for_nodes(&a, &["a", "b"]);
    b.create_room(1, &[1]);
    b.create_room(2, &[1]);
    let mut players = vec![Player::new(1, 1, b.udp), Player::new(1, 2, b.udp)];
    play(&mut players, |player| player.frames.len() >= 10);
    let frames: Vec<usize> = players.iter().map(|player| player.frames.len()).collect();
    drop(b);
    wait_for_nodes(&a, &["a"]);
    wait(
        || a.try_ask("GET /api/rooms/2", "").0 == 404,
        || "room 2 is still there".into(),
    );
    a.create_room(2, &[9]);
    let b = site.start();
    wait_for_nodes(&a, &["a", "b"]);
    let holder = |room: u64| {
        let (_, room) = a.try_ask(&format!("GET /api/rooms/{room}"), "");
        room["node"].clone()
    };
    wait(|| holder(1) == "b", || holder(1).to_string());
    assert_eq!(holder(2), "a");
    let warnings = || b.ask("GET /healthz", "", 200)["warnings"].to_string();
    wait(|| warnings().contains("room 2"), warnings);
    // Both matches of b go on for those who know where they are.
    for player in &mut players {
        let now = player.now();
        player.client.reconnect(now, Player::conv(), 1);
    }
    let mut before = frames.iter().copied().cycle();
    play(&mut players, |player| {
        player.frames.len() > before.next().unwrap() + 30
    });
}

#[test]
fn a_node_that_was_killed_is_back_at_once_and_another_of_its_name_is_refused() {
    let etcd = Etcd::start();
    let site = Site::recording("a", &etcd);
    let first = site.start();
    drop(first);
    // Its key is still there, but it is its own: the instance in the directory says so.
    let began = Instant::now();
    let first = site.start();
    println!("registered again after {:?}", began.elapsed());
    assert_eq!(nodes_seen(&first), ["a"]);

    let other = Site::new("a", &etcd);
    let (status, said) = real::failed_start(&other.settings(&[]));
    assert_eq!(status, Some(1), "{said}");
    for part in ["--node-id", &first.udp.to_string()] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    first.ask("GET /healthz", "", 200);
}

// --- Clients --------------------------------------------------------------------------------

#[test]
fn a_client_of_version_1_at_the_wrong_node_is_told_that_there_is_no_room() {
    let etcd = Etcd::start();
    let [a, b] = cluster(&etcd);
    b.create_room(1, &[1]);
    let mut player = Player::new(1, 1, a.udp);
    player.config.version = Version::V1;
    player.begin();
    let mut players = [player];
    play(&mut players, |player| player.refused.is_some());
    assert_eq!(players[0].refused, Some(ConnectCode::NoRoom));
    assert_eq!(players[0].hops, 0);
}

#[test]
fn a_client_of_a_room_that_nobody_has_is_told_so() {
    let etcd = Etcd::start();
    let [a, _b] = cluster(&etcd);
    let mut players = [Player::new(1, 404, a.udp)];
    play(&mut players, |player| player.refused.is_some());
    assert_eq!(players[0].refused, Some(ConnectCode::NoRoom));
}

#[test]
fn a_node_that_is_stopped_gives_its_name_back_at_once() {
    let etcd = Etcd::start();
    let a = Site::new("a", &etcd).start();
    let b = Site::new("b", &etcd).start();
    wait_for_nodes(&a, &["a", "b"]);
    assert_eq!(b.end(Signal::TERM), Some(0));
    let again = Site::new("b", &etcd).start();
    wait_for_nodes(&a, &["a", "b"]);
    drop(again);
}
