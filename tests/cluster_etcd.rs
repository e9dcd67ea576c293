//! A server in a real etcd: each sentence of what happens when things break, at the level of
//! `cluster::etcd` with a fake loop.

#![cfg(all(feature = "cluster", unix))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod etcd;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use etcd::{AT_MOST, Certificates, Way, wait_for};
use lockstep_server::cluster::etcd::{Etcd, Own, StartError};
use lockstep_server::cluster::node::{Address, Instance, NodeId, NodeState};
use lockstep_server::cluster::options::{EtcdOptions, Password};
use lockstep_server::cluster::runtime::Runtime;
use lockstep_server::cluster::{Claim, Claimed, RequestKey};
use lockstep_server::engine::id::{MatchId, RoomId};
use lockstep_server::engine::view::OverReason;
use lockstep_server::io::control::{self, Control, Mailbox};
use lockstep_server::io::feed::{Feed, RoomEvent, RoomEventKind};
use lockstep_server::io::metrics::Load;

const TTL: Duration = Duration::from_secs(2);

fn options(url: &str, node: &str) -> EtcdOptions {
    EtcdOptions {
        endpoints: vec![url.to_owned()],
        user: None,
        ca: None,
        identity: None,
        prefix: "/t".to_owned(),
        ttl: TTL,
        node: NodeId::new(node).unwrap(),
        kcp: Address::new("192.0.2.1:10086").unwrap(),
        http: Address::new("192.0.2.1:10002"),
        grpc: None,
    }
}

/// What the loop knows.
#[derive(Default)]
struct Model {
    rooms: BTreeMap<RoomId, MatchId>,
    load: Load,
    next_match: u64,
}

/// A server: its loop, fake, and its part in etcd, real.
struct Node {
    etcd: Etcd,
    model: Arc<Mutex<Model>>,
    contested: Arc<Mutex<Vec<(RoomId, String)>>>,
    feed: Mutex<Feed>,
    // After `etcd`, which runs on it.
    runtime: Runtime,
}

impl Node {
    fn start(url: &str, name: &str) -> Node {
        Node::try_start(options(url, name), instance_of(name), false).unwrap()
    }

    fn try_start(
        options: EtcdOptions,
        instance: Instance,
        is_kept: bool,
    ) -> Result<Node, StartError> {
        let runtime = Runtime::start().unwrap();
        let model: Arc<Mutex<Model>> = Arc::default();
        let (bell, ring) = mpsc::channel();
        let (handle, mailbox) = control::channel(move || {
            let _ = bell.send(());
        });
        let turning = Arc::clone(&model);
        thread::spawn(move || turn(&mailbox, &ring, &turning));
        let contested: Arc<Mutex<Vec<_>>> = Arc::default();
        let told = Arc::clone(&contested);
        let on_contested = Box::new(move |room, _, node: &NodeId| {
            told.lock().unwrap().push((room, node.to_string()));
        });
        let own = Own {
            instance,
            is_kept,
            load: Load::default(),
        };
        let handle_of = runtime.handle();
        let (etcd, feed) = Etcd::start(handle_of, options, own, handle, on_contested)?;
        Ok(Node {
            etcd,
            model,
            contested,
            feed: Mutex::new(feed),
            runtime,
        })
    }

    /// What operations do: claim, then create.
    fn create(&self, room: u64) -> Claimed {
        let claimed = self.etcd.claim(RoomId(room), None);
        if !matches!(claimed, Claimed::Taken(_)) {
            self.begin(room);
        }
        claimed
    }

    /// A match begins in the loop.
    fn begin(&self, room: u64) {
        let mut model = self.model.lock().unwrap();
        model.next_match += 1;
        let match_id = MatchId(model.next_match);
        model.rooms.insert(RoomId(room), match_id);
        self.feed(room, match_id, RoomEventKind::Created { players: 2 });
    }

    fn end(&self, room: u64) {
        let mut model = self.model.lock().unwrap();
        let match_id = model.rooms.remove(&RoomId(room)).unwrap();
        let (reason, frames) = (OverReason::Closed, 0);
        self.feed(room, match_id, RoomEventKind::Over { reason, frames });
    }

    fn feed(&self, room: u64, match_id: MatchId, kind: RoomEventKind) {
        (self.feed.lock().unwrap())(RoomEvent {
            unix_ms: 0,
            room: RoomId(room),
            match_id,
            kind,
        });
    }

    fn others(&self) -> Vec<String> {
        let others = self.etcd.others();
        others
            .iter()
            .map(|seen| seen.record.id.to_string())
            .collect()
    }

    /// Who has a room, as far as this node can tell.
    fn holder(&self, room: u64) -> Option<String> {
        let holder = self.etcd.holder(RoomId(room)).ok().flatten()?;
        Some(holder.node.to_string())
    }

    fn has(&self, room: u64) {
        let own = self.etcd.own().id.to_string();
        wait_for("the room is claimed", || {
            self.holder(room).as_ref() == Some(&own)
        });
    }

    fn is_lost(&self) {
        wait_for("etcd is lost", || !self.etcd.stats().is_connected);
    }

    fn is_back(&self) {
        wait_for("etcd is back", || self.etcd.stats().is_connected);
    }
}

fn instance_of(name: &str) -> Instance {
    Instance(
        name.bytes()
            .fold(1, |sum, byte| sum * 256 + u64::from(byte)),
    )
}

fn turn(mailbox: &Mailbox, ring: &mpsc::Receiver<()>, model: &Mutex<Model>) {
    while ring.recv().is_ok() {
        while let Some(control) = mailbox.take() {
            // Held over the answer, as the loop does nothing else meanwhile.
            let model = model.lock().unwrap();
            match control {
                Control::Load(answer) => answer.give(model.load),
                Control::RoomIds(answer) => {
                    answer.give(model.rooms.iter().map(|(room, id)| (*room, *id)).collect());
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn claim_of(claimed: Claimed) -> Claim {
    match claimed {
        Claimed::Held(claim) => claim,
        other => panic!("{other:?}"),
    }
}

/// Runs and says how long it took.
fn timed(what: &str, run: impl FnOnce()) {
    let began = Instant::now();
    run();
    eprintln!("{what}: {} ms", began.elapsed().as_millis());
}

// --- Nodes --------------------------------------------------------------------------------

#[test]
fn nodes_see_each_other_and_one_that_leaves_is_gone_at_once() {
    let etcd = etcd::Etcd::start();
    let [a, b] = ["a", "b"].map(|name| Node::start(&etcd.url(), name));
    wait_for("a sees b", || a.others() == ["b"]);
    assert_eq!(b.others(), ["a"]);
    let seen = &b.etcd.others()[0].record;
    assert_eq!(
        (&seen.kcp, seen.state),
        (&a.etcd.own().kcp, NodeState::Ready)
    );
    claim_of(b.create(1));
    timed("from leaving to being gone", || {
        b.etcd.leave();
        assert_eq!(etcd.get("/t/nodes/b"), None);
        assert_eq!(etcd.get("/t/rooms/1"), None);
        wait_for("a sees it", || a.others().is_empty());
    });
    assert_eq!(b.etcd.claim(RoomId(2), None), Claimed::Unclaimed);
}

#[test]
fn a_node_that_was_killed_is_gone_within_the_ttl_and_its_rooms_are_free() {
    let etcd = etcd::Etcd::start();
    let [a, b] = ["a", "b"].map(|name| Node::start(&etcd.url(), name));
    claim_of(b.create(1));
    assert!(matches!(a.etcd.claim(RoomId(1), None), Claimed::Taken(_)));
    drop(b);
    timed("from a kill to being gone (ttl 2 s)", || {
        wait_for("its node's key goes", || a.others().is_empty());
    });
    wait_for("its room is free", || {
        matches!(a.etcd.claim(RoomId(1), None), Claimed::Held(_))
    });
}

#[test]
fn load_is_told_and_a_change_of_state_at_once() {
    let etcd = etcd::Etcd::start();
    let [a, b] = ["a", "b"].map(|name| Node::start(&etcd.url(), name));
    a.model.lock().unwrap().load = Load {
        rooms: 3,
        rooms_max: 9,
        draining: true,
        ..Load::default()
    };
    wait_for("b sees that a drains", || {
        let others = b.etcd.others();
        others.iter().any(|seen| {
            let record = &seen.record;
            record.state == NodeState::Draining && (record.rooms, record.rooms_max) == (3, 9)
        })
    });
    a.model.lock().unwrap().load.rooms = 4;
    wait_for("b sees its rooms", || b.etcd.others()[0].record.rooms == 4);
}

#[test]
fn a_second_server_of_a_name_waits_and_is_refused_with_who_has_it() {
    let etcd = etcd::Etcd::start();
    let _first = Node::start(&etcd.url(), "a");
    let began = Instant::now();
    let second = Node::try_start(options(&etcd.url(), "a"), Instance(0xbeef), false);
    let error = second.err().expect("it is refused").to_string();
    assert!(began.elapsed() >= TTL, "it waited");
    for part in ["--node-id", "192.0.2.1:10086", "192.0.2.1:10002"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(error.contains(&instance_of("a").to_string()), "{error}");
}

#[test]
fn a_server_that_comes_back_waits_for_what_is_left_of_itself() {
    let etcd = etcd::Etcd::start();
    drop(Node::start(&etcd.url(), "a"));
    let second = Node::try_start(options(&etcd.url(), "a"), Instance(0xbeef), false).unwrap();
    assert!(second.etcd.stats().is_connected);
}

#[test]
fn the_same_instance_takes_its_name_and_rooms_over_at_once() {
    let etcd = etcd::Etcd::start();
    let mut slow = options(&etcd.url(), "a");
    slow.ttl = Duration::from_secs(300);
    let first = Node::try_start(slow.clone(), instance_of("a"), true).unwrap();
    claim_of(first.create(1));
    claim_of(first.create(2));
    let was = etcd.get("/t/rooms/1");
    drop(first);
    let second = Node::try_start(slow, instance_of("a"), true).unwrap();
    assert!(second.etcd.stats().is_connected);
    let restored = RoomEventKind::Restored { frames: 5 };
    second
        .model
        .lock()
        .unwrap()
        .rooms
        .insert(RoomId(1), MatchId(1));
    second.feed(1, MatchId(1), restored);
    wait_for("the claim is of this life", || {
        etcd.get("/t/rooms/1") != was
    });
    claim_of(second.create(2));
    second.end(1);
    wait_for("it goes with its match", || {
        etcd.get("/t/rooms/1").is_none()
    });
}

#[test]
fn a_copied_data_directory_is_told_of() {
    let etcd = etcd::Etcd::start();
    let [first, second] = [(); 2].map(|()| {
        let options = options(&etcd.url(), "a");
        Node::try_start(options, instance_of("a"), true).unwrap()
    });
    let says = |node: &Node| node.etcd.warnings().join(" ").contains("copied");
    wait_for("one of them tells it", || says(&first) || says(&second));
}

#[test]
fn a_name_that_was_lost_to_another_is_told_and_asked_for() {
    let etcd = etcd::Etcd::start();
    let a = Node::start(&etcd.url(), "a");
    let own = etcd.get("/t/nodes/a").unwrap();
    let other = own.replace(&instance_of("a").to_string(), "000000000000beef");
    etcd.put("/t/nodes/a", &other);
    let says = |a: &Node| a.etcd.warnings().join(" ").contains("000000000000beef");
    wait_for("it is told", || says(&a));
    assert_eq!(a.etcd.claim(RoomId(1), None), Claimed::Unclaimed);
    etcd.ctl(&["del", "/t/nodes/a"]);
    a.is_back();
    assert!(!says(&a));
}

#[test]
fn a_member_of_etcd_that_is_down_is_no_hindrance() {
    let etcd = etcd::Etcd::start();
    // Wherever the choice begins, some begin with what is down.
    let nodes = ["a", "b", "c", "d"].map(|name| {
        let mut options = options(&etcd.url(), name);
        options.endpoints.insert(0, "http://127.0.0.1:1".to_owned());
        options.endpoints.push("http://127.0.0.1:2".to_owned());
        Node::try_start(options, instance_of(name), false).unwrap()
    });
    for (room, node) in (0..).zip(&nodes) {
        assert!(node.etcd.stats().is_connected);
        claim_of(node.create(room));
        assert_eq!(node.etcd.stats().connections, 1);
    }
}

// --- etcd is away -------------------------------------------------------------------------

#[test]
fn without_etcd_a_server_starts_alone_and_registers_when_it_comes() {
    let mut etcd = etcd::Etcd::prepare();
    let a = Node::start(&etcd.url(), "a");
    assert!(a.etcd.warnings()[0].contains("etcd does not answer"));
    let request = RequestKey::new("r-1").unwrap();
    let claimed = a.etcd.claim(RoomId(1), Some(&request));
    assert_eq!(claimed, Claimed::Unclaimed);
    a.begin(1);
    assert!(a.etcd.holder(RoomId(1)).is_err());
    etcd.run();
    a.has(1);
    assert_eq!(a.etcd.warnings(), Vec::<String>::new());
    let holder = a.etcd.holder(RoomId(1)).unwrap().unwrap();
    assert_eq!(holder.request, Some(request));
    assert!(etcd.get("/t/nodes/a").is_some());
}

#[test]
fn an_etcd_that_hangs_does_not_hold_up_a_start() {
    let etcd = etcd::Etcd::start();
    etcd.stop();
    let mut a = None;
    timed("a start while etcd hangs", || {
        a = Some(Node::start(&etcd.url(), "a"))
    });
    let a = a.unwrap();
    assert!(!a.etcd.stats().is_connected);
    etcd.go_on();
    a.is_back();
}

#[test]
fn while_nothing_happens_a_connection_lasts_and_nodes_are_heard_of() {
    let etcd = etcd::Etcd::start();
    // The longer the ttl, the less is said, and the more often etcd is asked whether it lives: too
    // often, and it hangs up.
    let mut slow = options(&etcd.url(), "a");
    slow.ttl = Duration::from_secs(300);
    let a = Node::try_start(slow, instance_of("a"), false).unwrap();
    let b = Node::start(&etcd.url(), "b");
    wait_for("a sees b", || a.others() == ["b"]);
    // Its key is written every 5 s, and must be seen in 3 s.
    for _ in 0..2 {
        wait_for("it is 4 s old", || a.etcd.others()[0].age_ms >= 4_000);
        wait_for("it is written again", || a.etcd.others()[0].age_ms < 4_000);
    }
    for node in [&a, &b] {
        let stats = node.etcd.stats();
        assert_eq!((stats.connections, stats.leases_lost), (1, 0));
    }
}

#[test]
fn after_etcd_was_killed_every_key_is_there_again() {
    let mut etcd = etcd::Etcd::start();
    let [a, b] = ["a", "b"].map(|name| Node::start(&etcd.url(), name));
    claim_of(a.create(1));
    claim_of(a.create(2));
    etcd.kill();
    a.is_lost();
    b.is_lost();
    assert_eq!(a.create(3), Claimed::Unclaimed);
    a.end(2);
    etcd.run();
    timed("from etcd's return to every key after a kill", || {
        a.has(1);
        a.has(3);
        wait_for("b sees a", || b.is_connected_and_sees("a"));
        wait_for("what ended meanwhile is gone", || {
            etcd.get("/t/rooms/2").is_none()
        });
    });
    claim_of(b.create(2));
}

#[test]
fn after_etcd_was_stopped_beyond_the_ttl_every_key_is_there_again() {
    let etcd = etcd::Etcd::start();
    let [a, b] = ["a", "b"].map(|name| Node::start(&etcd.url(), name));
    claim_of(a.create(1));
    etcd.stop();
    timed("a claim that nobody answers", || {
        assert_eq!(a.create(3), Claimed::Unclaimed);
    });
    a.is_lost();
    b.is_lost();
    let began = Instant::now();
    assert_eq!(a.create(2), Claimed::Unclaimed);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "nobody waits for it"
    );
    // For longer than the ttl: that is the point.
    thread::sleep(Duration::from_secs(8));
    etcd.go_on();
    timed(
        "from etcd's return to every key after a stop of 8 s and more",
        || {
            a.has(1);
            a.has(2);
            a.has(3);
            wait_for("b sees a", || b.is_connected_and_sees("a"));
        },
    );
    // The old leases go now, if they were not the ones gone on with; nothing of ours goes with them.
    thread::sleep(TTL * 2);
    a.has(1);
    assert_eq!(etcd.keys("/t/nodes/").len(), 2);
}

#[test]
fn after_etcd_was_wiped_every_key_is_there_again() {
    let mut etcd = etcd::Etcd::start();
    let [a, b] = ["a", "b"].map(|name| Node::start(&etcd.url(), name));
    claim_of(a.create(1));
    etcd.wipe();
    timed("from etcd's return to every key after it was wiped", || {
        wait_for("the keys", || etcd.keys("/t/").len() == 3);
        a.has(1);
        wait_for("b sees a", || b.is_connected_and_sees("a"));
        wait_for("a sees b", || a.is_connected_and_sees("b"));
    });
    assert!(a.etcd.stats().leases_lost > 0);
}

#[test]
fn after_its_lease_was_revoked_every_key_is_there_again() {
    let etcd = etcd::Etcd::start();
    let a = Node::start(&etcd.url(), "a");
    claim_of(a.create(1));
    let leases = etcd.ctl(&["lease", "list"]);
    let lease = leases.split_whitespace().last().unwrap();
    etcd.ctl(&["lease", "revoke", lease]);
    timed("from the loss of the lease to every key", || {
        wait_for("it is noticed", || a.etcd.stats().leases_lost == 1);
        a.is_back();
        a.has(1);
    });
    assert_eq!(etcd.keys("/t/").len(), 2);
}

#[test]
fn a_node_that_was_cut_off_comes_back_with_its_name_and_rooms() {
    let etcd = etcd::Etcd::start();
    let way = Way::to(&etcd);
    let (a, b) = (Node::start(&way.url(), "a"), Node::start(&etcd.url(), "b"));
    claim_of(a.create(1));
    claim_of(a.create(2));
    way.cut();
    a.is_lost();
    wait_for("b sees it no longer", || b.others().is_empty());
    a.end(2);
    claim_of(b.create(2));
    way.mend();
    timed("from the mending to every key", || {
        a.has(1);
        wait_for("b sees it again", || b.others() == ["a"]);
    });
    assert_eq!(b.holder(2), Some("b".to_owned()));
}

#[test]
fn a_node_that_lost_its_name_while_it_was_cut_off_comes_back_with_both() {
    let etcd = etcd::Etcd::start();
    let way = Way::to(&etcd);
    let a = Node::start(&way.url(), "a");
    claim_of(a.create(1));
    let own = etcd.get("/t/nodes/a").unwrap();
    way.cut();
    wait_for("its keys go", || etcd.keys("/t/").is_empty());
    let other = own.replace(&instance_of("a").to_string(), "000000000000beef");
    etcd.put("/t/nodes/a", &other);
    way.mend();
    let says = |a: &Node| a.etcd.warnings().join(" ").contains("000000000000beef");
    wait_for("it is told", || says(&a));
    etcd.ctl(&["del", "/t/nodes/a"]);
    a.is_back();
    a.has(1);
}

#[test]
fn a_claim_that_another_node_has_meanwhile_is_told_of_and_ours_once_it_is_free() {
    let etcd = etcd::Etcd::start();
    let way = Way::to(&etcd);
    let (a, b) = (Node::start(&way.url(), "a"), Node::start(&etcd.url(), "b"));
    claim_of(a.create(1));
    way.cut();
    wait_for("its keys go", || b.others().is_empty());
    claim_of(b.create(1));
    way.mend();
    let one = (RoomId(1), "b".to_owned());
    wait_for("it is told", || {
        *a.contested.lock().unwrap() == [one.clone()]
    });
    let warnings = a.etcd.warnings();
    assert!(warnings[0].contains("room 1 ") && warnings[0].contains("node b"));
    assert_eq!(
        a.holder(1),
        Some("b".to_owned()),
        "who holds it is who is found"
    );
    b.end(1);
    a.has(1);
    wait_for("no warning is left", || a.etcd.warnings().is_empty());
    assert_eq!(a.contested.lock().unwrap().len(), 1, "told once");
}

impl Node {
    fn is_connected_and_sees(&self, other: &str) -> bool {
        self.etcd.stats().is_connected && self.others() == [other]
    }
}

// --- Claims -------------------------------------------------------------------------------

#[test]
fn of_two_nodes_that_want_a_room_one_gets_it() {
    let etcd = etcd::Etcd::start();
    let nodes = ["a", "b"].map(|name| Node::start(&etcd.url(), name));
    let began = Instant::now();
    let won = thread::scope(|scope| {
        let threads = nodes
            .each_ref()
            .map(|node| scope.spawn(|| (0..50).map(|room| node.create(room)).collect::<Vec<_>>()));
        threads.map(|thread| thread.join().unwrap())
    });
    let each = began.elapsed() / 50;
    eprintln!("a claim: {} us", each.as_micros());
    for (room, pair) in (0..50).zip(won[0].iter().zip(&won[1])) {
        match pair {
            (Claimed::Held(_), Claimed::Taken(holder)) => assert_eq!(holder.node.as_str(), "a"),
            (Claimed::Taken(holder), Claimed::Held(_)) => assert_eq!(holder.node.as_str(), "b"),
            pair => panic!("room {room}: {pair:?}"),
        }
    }
}

#[test]
fn a_claim_goes_with_its_match_or_when_it_is_given_up_and_never_takes_a_later_one_along() {
    let etcd = etcd::Etcd::start();
    let a = Node::start(&etcd.url(), "a");
    let first = claim_of(a.create(1));
    a.end(1);
    wait_for("it went with its match", || a.holder(1).is_none());
    let second = claim_of(a.etcd.claim(RoomId(1), None));
    a.etcd.release(second);
    wait_for("it went as it was given up", || a.holder(1).is_none());
    for _ in 0..50 {
        let claim = claim_of(a.create(1));
        a.etcd.release(claim);
        a.end(1);
        a.etcd.release(first);
    }
    claim_of(a.create(1));
    a.etcd.release(second);
    a.feed(
        1,
        MatchId(1),
        RoomEventKind::Over {
            reason: OverReason::Closed,
            frames: 0,
        },
    );
    claim_of(a.create(2));
    a.end(2);
    wait_for("what came after that has been done", || {
        a.holder(2).is_none()
    });
    a.has(1);
}

#[test]
fn a_claim_tells_the_request_that_made_the_room() {
    let etcd = etcd::Etcd::start();
    let [a, b] = ["a", "b"].map(|name| Node::start(&etcd.url(), name));
    let request = RequestKey::new("0b5c-77").unwrap();
    claim_of(a.etcd.claim(RoomId(1), Some(&request)));
    a.begin(1);
    for node in [&a, &b] {
        let Claimed::Taken(holder) = node.etcd.claim(RoomId(1), Some(&request)) else {
            panic!("it is taken");
        };
        assert_eq!(
            (holder.node.as_str(), holder.request),
            ("a", Some(request.clone()))
        );
    }
    let find = b.etcd.find_holder(RoomId(1));
    let found = b.runtime.ask(AT_MOST, find).unwrap().unwrap().unwrap();
    assert_eq!(found.request, Some(request));
    assert_eq!(b.etcd.holder(RoomId(2)), Ok(None));
}

#[test]
fn events_that_do_not_fit_are_made_good_by_the_list_of_rooms() {
    let etcd = etcd::Etcd::start();
    let a = Node::start(&etcd.url(), "a");
    let count = 6_000;
    // The side thread is held up: the channel fills, and the loop goes on all the same.
    let (release, held_up) = mpsc::channel::<()>();
    a.runtime.handle().spawn(async move {
        let _ = held_up.recv();
    });
    for room in 0..count {
        a.begin(room);
    }
    drop(release);
    let began = Instant::now();
    wait_for("every room is claimed", || {
        a.etcd.stats().claims_held == usize::try_from(count).unwrap()
    });
    let took = began.elapsed();
    eprintln!("{count} claims in {} ms", took.as_millis());
    assert_eq!(
        etcd.keys("/t/rooms/").len(),
        usize::try_from(count).unwrap()
    );
}

#[test]
fn thousands_of_claims_are_put_anew_after_a_wipe() {
    let mut etcd = etcd::Etcd::start();
    let a = Node::start(&etcd.url(), "a");
    let rooms = std::env::var("LOCKSTEP_TEST_CLAIMS").map_or(2_000, |text| text.parse().unwrap());
    for room in 0..rooms {
        a.begin(room);
        if room % 1000 == 0 {
            thread::yield_now();
        }
    }
    let count = usize::try_from(rooms).unwrap();
    timed(&format!("{rooms} claims"), || {
        wait_for("every room is claimed", || {
            a.etcd.stats().claims_held == count
        });
    });
    timed(
        &format!("{rooms} claims, with the wipe and the start of etcd"),
        || {
            etcd.wipe();
            a.is_back();
            claim_of(a.create(rooms));
            wait_for("every room is claimed", || {
                a.etcd.stats().claims_held == count + 1
            });
        },
    );
}

#[test]
fn broken_values_are_skipped_and_counted() {
    let etcd = etcd::Etcd::start();
    // As long as etcd takes them, so that a few are more than one message usually may be.
    let long = "x".repeat(1_400_000);
    for number in 0..4 {
        etcd.put(&format!("/t/nodes/long-{number}"), &long);
    }
    etcd.put("/t/nodes/junk", "junk");
    etcd.put("/t/nodes/b/c", "{}");
    etcd.put("/t/nodes/", "");
    etcd.put("/t/nodes/a", "no record, so nobody's");
    etcd.put("/t/rooms/1", "junk");
    etcd.put("/t/rooms/2", &long);
    let a = Node::start(&etcd.url(), "a");
    assert_eq!(a.others(), Vec::<String>::new());
    assert_eq!(a.etcd.stats().skipped, 7);
    etcd.put("/t/nodes/later", "[[[[[[");
    for number in 0..4 {
        etcd.put(&format!("/t/nodes/long-{number}"), &long);
    }
    wait_for("they are counted", || a.etcd.stats().skipped == 12);
    assert_eq!(a.holder(1), None);
    claim_of(a.create(1));
    claim_of(a.create(2));
    assert_eq!(a.etcd.stats().skipped, 14);
    let b = Node::start(&etcd.url(), "b");
    wait_for("they see each other all the same", || a.others() == ["b"]);
    assert_eq!(b.others(), ["a"]);
    assert_eq!(
        a.etcd.stats().connections,
        1,
        "nothing of this ended the connection"
    );
}

#[test]
fn more_nodes_than_are_read_at_once_are_all_seen() {
    let etcd = etcd::Etcd::start();
    let own = Node::start(&etcd.url(), "a").etcd.own();
    let names: Vec<String> = (0..40).map(|number| format!("n{number:02}")).collect();
    for name in &names {
        let mut record = own.clone();
        record.id = NodeId::new(name).unwrap();
        let value = String::from_utf8(record.to_value()).unwrap();
        etcd.put(&format!("/t/nodes/{name}"), &value);
    }
    let b = Node::start(&etcd.url(), "b");
    wait_for("the first is gone", || b.others() == names);
}

// --- Who may ------------------------------------------------------------------------------

#[test]
fn a_user_with_a_password_is_let_in_and_others_are_refused_at_once() {
    let etcd = etcd::Etcd::start();
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["user", "add", "server:good"]);
    etcd.ctl(&["role", "add", "lockstep"]);
    etcd.ctl(&[
        "role",
        "grant-permission",
        "lockstep",
        "--prefix=true",
        "readwrite",
        "/t/",
    ]);
    etcd.ctl(&["user", "grant-role", "server", "lockstep"]);
    etcd.ctl(&["auth", "enable"]);
    let with = |user: Option<(&str, &str)>, prefix: &str| {
        let mut options = options(&etcd.url(), "a");
        options.user = user.map(|(name, word)| (name.to_owned(), Password(word.to_owned())));
        options.prefix = prefix.to_owned();
        Node::try_start(options, instance_of("a"), false)
    };
    for (user, prefix, expected) in [
        (Some(("server", "bad")), "/t", "--etcd-user"),
        (Some(("server", "good")), "/elsewhere", "/elsewhere/"),
        (None, "/t", "it may want --etcd-user"),
    ] {
        let error = with(user, prefix).err().expect("refused").to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("etcd refuses"), "{error}");
    }
    let a = with(Some(("server", "good")), "/t").unwrap();
    claim_of(a.create(1));
    a.has(1);
}

#[test]
fn with_tls_both_ends_prove_who_they_are() {
    let etcd = etcd::Etcd::start_with_tls();
    let mut right = options(&etcd.url(), "a");
    let made = etcd.certificates();
    right.ca = Some(made.ca.clone());
    right.identity = Some((made.cert.clone(), made.key.clone()));
    let a = Node::try_start(right.clone(), instance_of("a"), false).unwrap();
    claim_of(a.create(1));
    assert_eq!(a.etcd.warnings(), Vec::<String>::new());

    let dir = temp_dir("other-ca");
    let others = Certificates::make(&dir);
    let mut wrong = right.clone();
    wrong.node = NodeId::new("b").unwrap();
    wrong.ca = Some(others.ca);
    let b = Node::try_start(wrong, instance_of("b"), false).unwrap();
    let warnings = b.etcd.warnings().join(" ");
    eprintln!("of another's certificate: {warnings}");
    assert!(warnings.contains("certificate"), "{warnings}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_setting() {
    let dir = temp_dir("files");
    let made = Certificates::make(&dir);
    let base = options("https://127.0.0.1:1", "a");
    let refused = |change: &dyn Fn(&mut EtcdOptions)| {
        let mut options = base.clone();
        change(&mut options);
        let started = Node::try_start(options, instance_of("a"), false);
        started.err().expect("refused").to_string()
    };
    let missing = dir.join("missing");
    let error = refused(&|options| options.ca = Some(missing.clone()));
    assert!(
        error.contains("--etcd-ca") && error.contains("missing"),
        "{error}"
    );
    let error = refused(&|options| options.ca = Some(made.key.clone()));
    assert!(
        error.contains("--etcd-ca") && error.contains("CERTIFICATE"),
        "{error}"
    );
    let error = refused(&|options| {
        options.identity = Some((made.cert.clone(), made.cert.clone()));
    });
    assert!(error.contains("--etcd-key"), "{error}");
    let broken = dir.join("broken.pem");
    let text = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    std::fs::write(&broken, text).unwrap();
    let error = refused(&|options| {
        options.identity = Some((made.cert.clone(), broken.clone()));
    });
    assert!(error.contains("--etcd-key"), "{error}");
    let error = refused(&|options| {
        options.endpoints = vec!["http://127.0.0.1:1".into()];
        options.ca = Some(made.ca.clone());
    });
    assert!(error.contains("--etcd"), "{error}");
    std::fs::remove_dir_all(dir).unwrap();
}

fn temp_dir(name: &str) -> PathBuf {
    let name = format!("lockstep-cluster-{name}-{}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).unwrap();
    dir
}
