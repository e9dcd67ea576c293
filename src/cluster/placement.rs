//! Which node takes the next room: the least loaded that is ready and has space, counting what was
//! just placed. Pure: what nodes tell of themselves and the time come in.
//!
//! A node tells how many rooms it has every few seconds, together with its *serial*: how many it
//! has created since its start. The answer to each creation carries the serial of that moment. So
//! a room placed there counts on top of what the node told, from before it is asked until what it
//! tells includes the room. A newer count is taken while no placement there is under way, because
//! it may or may not include one that is.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Seen;
use super::node::{Instance, NodeId, NodeRecord, NodeState};
use crate::limits::{
    NODES_NAMED_MAX, PLACE_AVOID_FOR, PLACE_COUNT_AGE_MAX, PLACE_LOAD_MAX, PLACE_RECORD_AGE_MAX,
};

/// What was placed on each node, and is not yet in what it tells.
#[derive(Debug, Default)]
pub struct Placements {
    nodes: BTreeMap<NodeId, Known>,
}

/// A place that is kept for a room: given back by [`Placements::settle`].
#[derive(Debug)]
#[must_use = "the place is kept until it is settled"]
pub struct Reserved {
    /// Where.
    pub node: NodeId,
    instance: Instance,
}

/// What came of a place that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The room is there; its node has created this many.
    Taken(u64),
    /// The room is not there, but not because of the node.
    Free,
    /// The node did not take it, and is left alone for a while.
    Failed,
}

#[derive(Debug)]
struct Known {
    instance: Instance,
    /// What it told last and we took.
    rooms: u64,
    serial: u64,
    taken_at: Instant,
    /// Rooms that it was asked for and has not answered yet.
    under_way: u64,
    /// Serials of the rooms that it took since then.
    placed: BTreeSet<u64>,
    avoid_until: Option<Instant>,
}

impl Known {
    fn new(record: &NodeRecord, now: Instant) -> Known {
        Known {
            instance: record.instance,
            rooms: record.rooms.into(),
            serial: record.serial,
            taken_at: now,
            under_way: 0,
            placed: BTreeSet::new(),
            avoid_until: None,
        }
    }

    /// Takes what the node tells, if it is newer and counts nothing twice.
    fn update(&mut self, record: &NodeRecord, now: Instant) {
        if self.instance != record.instance {
            *self = Known::new(record, now);
        }
        let is_due = now.saturating_duration_since(self.taken_at) >= PLACE_COUNT_AGE_MAX;
        if record.serial >= self.serial && (self.under_way == 0 || is_due) {
            self.rooms = record.rooms.into();
            self.serial = record.serial;
            self.taken_at = now;
            self.placed.retain(|serial| *serial > record.serial);
        }
    }

    /// Counts a room until the node tells of `serial` rooms. That was read a moment after the room
    /// was there, so of several at once all may say the same: then it is the next one below.
    fn place(&mut self, mut serial: u64) {
        while serial > self.serial && !self.placed.insert(serial) {
            serial -= 1;
        }
    }

    fn count(&self) -> u64 {
        let placed = u64::try_from(self.placed.len()).unwrap_or(u64::MAX);
        self.rooms + self.under_way + placed
    }
}

impl Placements {
    /// Chooses a node for a room of `seats` players and keeps a place there. `nodes` are all that
    /// are known, the own one among them; those in `tried` are left out.
    ///
    /// # Errors
    /// Why none takes it, by node.
    pub fn choose(
        &mut self,
        now: Instant,
        seats: usize,
        nodes: &[Seen],
        tried: &[NodeId],
    ) -> Result<Reserved, String> {
        self.update(now, nodes);
        let open = |seen: &&Seen| {
            let node = &seen.record;
            !tried.contains(&node.id) && self.obstacle(now, seats, seen).is_none()
        };
        let best = nodes.iter().filter(open).min_by(|a, b| self.order(a, b));
        let Some(best) = best else {
            return Err(self.why_none(now, seats, nodes));
        };
        let record = &best.record;
        self.known_mut(&record.id).under_way += 1;
        Ok(Reserved {
            node: record.id.clone(),
            instance: record.instance,
        })
    }

    /// Says what came of a place.
    pub fn settle(&mut self, reserved: Reserved, outcome: Outcome, now: Instant) {
        // Another instance of that name, or none, knows nothing of it.
        let known = self.nodes.get_mut(&reserved.node);
        let Some(known) = known.filter(|known| known.instance == reserved.instance) else {
            return;
        };
        known.under_way = known.under_way.saturating_sub(1);
        match outcome {
            Outcome::Taken(serial) => known.place(serial),
            Outcome::Free => {}
            Outcome::Failed => known.avoid_until = Some(now + PLACE_AVOID_FOR),
        }
    }

    fn update(&mut self, now: Instant, nodes: &[Seen]) {
        let names: BTreeMap<&NodeId, &NodeRecord> = nodes
            .iter()
            .map(|seen| (&seen.record.id, &seen.record))
            .collect();
        self.nodes.retain(|id, _| names.contains_key(id));
        for (id, record) in names {
            match self.nodes.get_mut(id) {
                Some(known) => known.update(record, now),
                None => {
                    self.nodes.insert(id.clone(), Known::new(record, now));
                }
            }
        }
    }

    fn known(&self, id: &NodeId) -> &Known {
        self.nodes.get(id).expect("all nodes were taken note of")
    }

    fn known_mut(&mut self, id: &NodeId) -> &mut Known {
        self.nodes
            .get_mut(id)
            .expect("all nodes were taken note of")
    }

    /// Why a node takes no room, if so.
    fn obstacle(&self, now: Instant, seats: usize, seen: &Seen) -> Option<String> {
        let node = &seen.record;
        let known = self.known(&node.id);
        let seats = u64::try_from(seats).unwrap_or(u64::MAX);
        let players = u64::from(node.players).saturating_add(seats);
        let (count, max) = (known.count(), node.rooms_max);
        if node.state != NodeState::Ready {
            Some("draining".to_owned())
        } else if Duration::from_millis(seen.age_ms) > PLACE_RECORD_AGE_MAX {
            Some(format!("not heard of for {} s", seen.age_ms / 1000))
        } else if known.avoid_until.is_some_and(|until| now < until) {
            Some("took none a moment ago".to_owned())
        } else if count >= u64::from(max) {
            Some(format!("{count} of {max} rooms"))
        } else if players * 10 > u64::from(node.sessions_max) * 9 {
            // The rest is for those who come back while their old session is still there.
            Some(format!("{} of {} players", node.players, node.sessions_max))
        } else {
            None
        }
    }

    /// The better comes first.
    fn order(&self, a: &Seen, b: &Seen) -> Ordering {
        let (a, b) = (&a.record, &b.record);
        let overloaded = |node: &NodeRecord| node.load > PLACE_LOAD_MAX;
        // The share of its rooms that a node would have with this one, as exact fractions.
        let rooms = |node: &NodeRecord| u128::from(self.known(&node.id).count()) + 1;
        let (a_max, b_max) = (u128::from(a.rooms_max), u128::from(b.rooms_max));
        overloaded(a)
            .cmp(&overloaded(b))
            .then((rooms(a) * b_max).cmp(&(rooms(b) * a_max)))
            .then(a.load.cmp(&b.load))
            .then(a.id.cmp(&b.id))
    }

    fn why_none(&self, now: Instant, seats: usize, nodes: &[Seen]) -> String {
        let mut reasons: Vec<String> = Vec::new();
        for seen in nodes.iter().take(NODES_NAMED_MAX) {
            let why = self.obstacle(now, seats, seen);
            let why = why.unwrap_or_else(|| "took none".to_owned());
            reasons.push(format!("{}: {why}", seen.record.id));
        }
        if nodes.len() > NODES_NAMED_MAX {
            reasons.push(format!("and {} more", nodes.len() - NODES_NAMED_MAX));
        }
        reasons.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::node::Address;

    fn node(id: &str) -> Seen {
        Seen {
            record: NodeRecord {
                id: NodeId::new(id).unwrap(),
                instance: Instance(1),
                state: NodeState::Ready,
                version: "0.1.0".into(),
                kcp: Address::new("192.0.2.1:10086").unwrap(),
                http: None,
                grpc: None,
                rooms: 0,
                rooms_max: 100,
                players: 0,
                sessions_max: 1000,
                load: 0,
                serial: 0,
            },
            age_ms: 0,
        }
    }

    fn chosen(placements: &mut Placements, nodes: &[Seen], now: Instant) -> String {
        let reserved = placements.choose(now, 2, nodes, &[]).unwrap();
        reserved.node.to_string()
    }

    #[test]
    fn sixty_rooms_are_spread_evenly_although_nobody_tells_anything_new() {
        let mut placements = Placements::default();
        let nodes = [node("a"), node("b"), node("c")];
        let now = Instant::now();
        let mut serials = BTreeMap::new();
        for count in 1..=60_u64 {
            let reserved = placements.choose(now, 2, &nodes, &[]).unwrap();
            let serial = serials.entry(reserved.node.clone()).or_insert(0);
            *serial += 1;
            placements.settle(reserved, Outcome::Taken(*serial), now);
            let most = serials.values().max().unwrap();
            assert_eq!(*most, count.div_ceil(3));
        }
    }

    #[test]
    fn a_room_is_counted_once_before_and_after_its_node_tells_of_it() {
        let mut placements = Placements::default();
        let mut nodes = [node("a")];
        let id = nodes[0].record.id.clone();
        let now = Instant::now();
        let first = placements.choose(now, 2, &nodes, &[]).unwrap();
        assert_eq!(placements.known(&id).count(), 1);
        // It tells of the room before it answers.
        nodes[0].record.rooms = 1;
        nodes[0].record.serial = 1;
        let second = placements.choose(now, 2, &nodes, &[]).unwrap();
        assert_eq!(placements.known(&id).count(), 2);
        placements.settle(first, Outcome::Taken(1), now);
        placements.settle(second, Outcome::Taken(2), now);
        assert_eq!(placements.known(&id).count(), 2);
        placements.update(now, &nodes);
        assert_eq!(placements.known(&id).count(), 2);
        // Of both; and then that one is over.
        for (rooms, serial) in [(2, 2), (1, 2)] {
            nodes[0].record.rooms = rooms;
            nodes[0].record.serial = serial;
            placements.update(now, &nodes);
            assert_eq!(placements.known(&id).count(), u64::from(rooms));
        }
        assert!(placements.known(&id).placed.is_empty());
    }

    #[test]
    fn rooms_that_came_at_once_and_say_one_serial_are_counted_one_by_one() {
        let mut placements = Placements::default();
        let mut nodes = [node("a")];
        let id = nodes[0].record.id.clone();
        let now = Instant::now();
        let places = [(); 3].map(|()| placements.choose(now, 2, &nodes, &[]).unwrap());
        for reserved in places {
            placements.settle(reserved, Outcome::Taken(3), now);
        }
        for told in 1..=3 {
            nodes[0].record.rooms = told;
            nodes[0].record.serial = told.into();
            placements.update(now, &nodes);
            assert_eq!(placements.known(&id).count(), 3, "it tells of {told}");
        }
    }

    #[test]
    fn an_older_count_does_not_replace_a_newer_one() {
        let mut placements = Placements::default();
        let mut nodes = [node("a"), node("b")];
        let now = Instant::now();
        nodes[0].record.rooms = 3;
        nodes[0].record.serial = 3;
        assert_eq!(chosen(&mut placements, &nodes, now), "b");
        nodes[0].record.rooms = 0;
        nodes[0].record.serial = 0;
        assert_eq!(chosen(&mut placements, &nodes, now), "b");
        nodes[0].record.instance = Instance(2);
        assert_eq!(chosen(&mut placements, &nodes, now), "a");
    }

    #[test]
    fn a_busy_node_is_counted_anew_after_a_while() {
        let mut placements = Placements::default();
        let mut nodes = [node("a")];
        let now = Instant::now();
        assert_eq!(chosen(&mut placements, &nodes, now), "a");
        nodes[0].record.rooms = 50;
        nodes[0].record.serial = 50;
        let _ = chosen(&mut placements, &nodes, now);
        assert_eq!(placements.known(&nodes[0].record.id).count(), 2);
        let _ = chosen(&mut placements, &nodes, now + PLACE_COUNT_AGE_MAX);
        assert_eq!(placements.known(&nodes[0].record.id).count(), 53);
    }

    #[test]
    fn a_node_with_twice_the_capacity_takes_twice_the_rooms() {
        let mut placements = Placements::default();
        let mut nodes = [node("a"), node("b")];
        nodes[1].record.rooms_max = 200;
        let now = Instant::now();
        let mut on_b = 0;
        for _ in 0..30 {
            on_b += usize::from(chosen(&mut placements, &nodes, now) == "b");
        }
        assert_eq!(on_b, 20);
    }

    #[test]
    fn a_busy_loop_is_chosen_only_if_all_are_busy() {
        let mut placements = Placements::default();
        let mut nodes = [node("a"), node("b")];
        let now = Instant::now();
        nodes[0].record.load = PLACE_LOAD_MAX + 1;
        nodes[1].record.rooms = 50;
        assert_eq!(chosen(&mut placements, &nodes, now), "b");
        nodes[1].record.load = 1000;
        assert_eq!(chosen(&mut placements, &nodes, now), "a");
    }

    #[test]
    fn who_cannot_take_a_room_is_not_asked_and_the_refusal_says_why() {
        let mut placements = Placements::default();
        let mut nodes = [node("a"), node("b"), node("c"), node("d")];
        nodes[0].record.state = NodeState::Draining;
        nodes[1].age_ms = 21_000;
        nodes[2].record.rooms = 100;
        nodes[3].record.players = 899;
        let now = Instant::now();
        let why = placements.choose(now, 2, &nodes, &[]).unwrap_err();
        assert_eq!(
            why,
            "a: draining, b: not heard of for 21 s, c: 100 of 100 rooms, d: 899 of 1000 players"
        );
        assert_eq!(
            placements
                .choose(now, 1, &nodes, &[])
                .unwrap()
                .node
                .as_str(),
            "d"
        );
    }

    #[test]
    fn the_last_place_is_given_once() {
        let mut placements = Placements::default();
        let mut nodes = [node("a")];
        nodes[0].record.rooms = 99;
        let now = Instant::now();
        let last = placements.choose(now, 2, &nodes, &[]).unwrap();
        assert!(placements.choose(now, 2, &nodes, &[]).is_err());
        placements.settle(last, Outcome::Free, now);
        assert_eq!(chosen(&mut placements, &nodes, now), "a");
    }

    #[test]
    fn who_failed_is_left_alone_for_a_while() {
        let mut placements = Placements::default();
        let nodes = [node("a"), node("b")];
        let now = Instant::now();
        let reserved = placements.choose(now, 2, &nodes, &[]).unwrap();
        assert_eq!(reserved.node.as_str(), "a");
        placements.settle(reserved, Outcome::Failed, now);
        assert_eq!(chosen(&mut placements, &nodes, now), "b");
        assert_eq!(chosen(&mut placements, &nodes, now), "b");
        let tried = [nodes[1].record.id.clone()];
        assert!(placements.choose(now, 2, &nodes, &tried).is_err());
        assert_eq!(chosen(&mut placements, &nodes, now + PLACE_AVOID_FOR), "a");
    }
}
