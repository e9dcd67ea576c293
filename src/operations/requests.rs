//! Requests with a key, so that asking again creates no second room: what was answered in the last
//! minutes, and what is under way. Bounded by number, by seats and by age; only rooms that were
//! created are remembered, and nodes that may have created one and did not say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Created;
use crate::admin::order::Order;
use crate::cluster::RequestKey;
use crate::cluster::node::{Instance, NodeId};
use crate::limits::{REQUEST_KEY_SEATS_MAX, REQUEST_KEYS_FOR, REQUEST_KEYS_MAX};

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Requests {
    inner: Mutex<Inner>,
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<RequestKey, Entry>,
    /// What is remembered, the oldest first. An entry that was replaced is still in here.
    ages: VecDeque<(Instant, u64, RequestKey)>,
    seats: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    /// Tells it from others of the same key in `ages`.
    number: u64,
    order: Order,
    state: State,
}

#[derive(Debug)]
enum State {
    UnderWay,
    Answered(Box<Created>),
    Doubtful(NodeId, Instance),
}

/// What is known of a request.
#[derive(Debug)]
pub(super) enum Begin {
    /// Nothing, or that a node may have done it: it is to be carried out.
    Go(Pending, Option<(NodeId, Instance)>),
    /// It was answered.
    Answered(Box<Created>),
    /// Its key was used for another order.
    Other,
    /// Somebody else carries it out and has not come to an end.
    UnderWay,
}

/// A request that is carried out. Others of its key wait for its end; dropped, it has failed.
#[derive(Debug)]
pub(super) struct Pending {
    requests: Arc<Requests>,
    key: RequestKey,
}

impl Requests {
    /// Begins a request, or waits for `patience` at most for another of its key.
    pub(super) fn begin(
        self: &Arc<Requests>,
        key: &RequestKey,
        order: &Order,
        now: Instant,
        patience: Duration,
    ) -> Begin {
        let mut inner = self.lock();
        inner.forget(now);
        let deadline = Instant::now() + patience;
        loop {
            let Some(entry) = inner.entries.get(key) else {
                return self.go(&mut inner, key, order, None);
            };
            if !entry.order.is_same_room(order) {
                return Begin::Other;
            }
            match &entry.state {
                State::Answered(created) => return Begin::Answered(created.clone()),
                State::Doubtful(node, instance) => {
                    let doubt = (node.clone(), *instance);
                    return self.go(&mut inner, key, order, Some(doubt));
                }
                State::UnderWay => {}
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Begin::UnderWay;
            }
            let waited = self.settled.wait_timeout(inner, rest);
            inner = waited.expect("nobody panics while holding requests").0;
        }
    }

    /// Whether something is known of a request, or it is under way.
    pub(super) fn knows(&self, key: &RequestKey, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.forget(now);
        inner.entries.contains_key(key)
    }

    /// What became of a request, if that is known: [`Begin::Answered`] or [`Begin::Other`].
    pub(super) fn outcome(&self, key: &RequestKey, order: &Order, now: Instant) -> Option<Begin> {
        let mut inner = self.lock();
        inner.forget(now);
        let entry = inner.entries.get(key)?;
        match &entry.state {
            _ if !entry.order.is_same_room(order) => Some(Begin::Other),
            State::Answered(created) => Some(Begin::Answered(created.clone())),
            State::UnderWay | State::Doubtful(..) => None,
        }
    }

    fn go(
        self: &Arc<Requests>,
        inner: &mut Inner,
        key: &RequestKey,
        order: &Order,
        doubt: Option<(NodeId, Instance)>,
    ) -> Begin {
        inner.put(key, order.clone(), State::UnderWay);
        let pending = Pending {
            requests: Arc::clone(self),
            key: key.clone(),
        };
        Begin::Go(pending, doubt)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let inner = self.inner.lock();
        inner.expect("nobody panics while holding requests")
    }
}

impl Inner {
    fn put(&mut self, key: &RequestKey, order: Order, state: State) -> u64 {
        let number = self.next;
        self.next += 1;
        self.remove(key);
        if let State::Answered(created) = &state {
            self.seats += created.room.view.seats.len();
        }
        let entry = Entry {
            number,
            order,
            state,
        };
        self.entries.insert(key.clone(), entry);
        number
    }

    fn remove(&mut self, key: &RequestKey) -> Option<Order> {
        let entry = self.entries.remove(key)?;
        if let State::Answered(created) = &entry.state {
            self.seats -= created.room.view.seats.len();
        }
        Some(entry.order)
    }

    fn remember(&mut self, key: &RequestKey, state: State, now: Instant) {
        let order = self.remove(key).expect("it is under way");
        let number = self.put(key, order, state);
        self.ages.push_back((now, number, key.clone()));
        self.forget(now);
    }

    /// Forgets what is too old or too much.
    fn forget(&mut self, now: Instant) {
        while let Some((at, number, key)) = self.ages.front() {
            let is_old = now.saturating_duration_since(*at) >= REQUEST_KEYS_FOR;
            let is_much = self.ages.len() > REQUEST_KEYS_MAX || self.seats > REQUEST_KEY_SEATS_MAX;
            if !is_old && !is_much {
                return;
            }
            let (key, number) = (key.clone(), *number);
            self.ages.pop_front();
            if self
                .entries
                .get(&key)
                .is_some_and(|entry| entry.number == number)
            {
                self.remove(&key);
            }
        }
    }
}

impl Pending {
    /// It was carried out, with this answer.
    pub(super) fn finish(self, created: &Created, now: Instant) {
        let state = State::Answered(Box::new(created.clone()));
        self.requests.lock().remember(&self.key, state, now);
    }

    /// This node may have carried it out.
    pub(super) fn doubt(self, node: NodeId, instance: Instance, now: Instant) {
        let state = State::Doubtful(node, instance);
        self.requests.lock().remember(&self.key, state, now);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut inner = self.requests.lock();
        let entry = inner.entries.get(&self.key);
        if entry.is_some_and(|entry| matches!(entry.state, State::UnderWay)) {
            inner.remove(&self.key);
        }
        drop(inner);
        self.requests.settled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::order::Bounds;
    use crate::admin::query;
    use crate::engine::id::{MatchId, Percent, PlayerId, RoomId};
    use crate::engine::view::{Phase, RoomView, SeatView};
    use crate::operations::Located;

    fn order(query: &str) -> Order {
        let bounds = Bounds {
            max_players_per_room: 256,
        };
        query::parse(query, bounds).unwrap()
    }

    fn key(text: &str) -> RequestKey {
        RequestKey::new(text).unwrap()
    }

    fn created(room: u64, seats: u64) -> Created {
        let seat = |player| SeatView {
            seat: 1,
            player: PlayerId(player),
            online: false,
            ready: false,
            progress: Percent::default(),
            cursor: 0,
            rtt: None,
            result: None,
        };
        let view = RoomView {
            room: RoomId(room),
            match_id: MatchId(room),
            phase: Phase::Waiting,
            frame: 0,
            hz: 30,
            broadcast_every: 3,
            max_frames: 100,
            input_bytes_max: 0,
            seed: 0,
            created_unix: 0,
            started_unix: None,
            log_bytes: 0,
            watchers: 0,
            watchers_max: 0,
            watch_delay: 0,
            seats: (0..seats).map(seat).collect(),
        };
        Created {
            room: Located { view, home: None },
            secret: String::new(),
            tickets: Vec::new(),
            watch_secret: None,
            serial: 1,
        }
    }

    fn go(requests: &Arc<Requests>, name: &str, order: &Order, now: Instant) -> Pending {
        match requests.begin(&key(name), order, now, Duration::ZERO) {
            Begin::Go(pending, None) => pending,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn the_same_key_gets_the_same_answer_until_it_is_too_old() {
        let requests = Arc::new(Requests::default());
        let (order_, now) = (order("room=1&member=1,2"), Instant::now());
        let answer = created(1, 2);
        go(&requests, "k", &order_, now).finish(&answer, now);
        let elsewhere = order("room=1&member=1,2&place=auto&request_key=k");
        match requests.begin(&key("k"), &elsewhere, now, Duration::ZERO) {
            Begin::Answered(again) => assert_eq!(*again, answer),
            other => panic!("{other:?}"),
        }
        let other = order("room=1&member=2,1");
        let begin = requests.begin(&key("k"), &other, now, Duration::ZERO);
        assert!(matches!(begin, Begin::Other), "{begin:?}");
        drop(go(&requests, "k", &other, now + REQUEST_KEYS_FOR));
    }

    #[test]
    fn a_failure_is_forgotten_and_a_doubt_is_not() {
        let requests = Arc::new(Requests::default());
        let (order, now) = (order("room=1&member=1"), Instant::now());
        drop(go(&requests, "k", &order, now));
        let doubt = (NodeId::new("b").unwrap(), Instance(7));
        go(&requests, "k", &order, now).doubt(doubt.0.clone(), doubt.1, now);
        match requests.begin(&key("k"), &order, now, Duration::ZERO) {
            Begin::Go(pending, told) => {
                assert_eq!(told, Some(doubt));
                pending.finish(&created(1, 1), now);
            }
            other => panic!("{other:?}"),
        }
        let begin = requests.begin(&key("k"), &order, now, Duration::ZERO);
        assert!(matches!(begin, Begin::Answered(_)), "{begin:?}");
    }

    #[test]
    fn a_second_request_of_a_key_waits_for_the_first() {
        let requests = Arc::new(Requests::default());
        let (order, now) = (order("room=1&member=1"), Instant::now());
        let first = go(&requests, "k", &order, now);
        let begin = requests.begin(&key("k"), &order, now, Duration::ZERO);
        assert!(matches!(begin, Begin::UnderWay), "{begin:?}");
        let second = std::thread::spawn({
            let requests = Arc::clone(&requests);
            move || requests.begin(&key("k"), &order, now, Duration::from_secs(60))
        });
        first.finish(&created(1, 1), now);
        let begin = second.join().unwrap();
        assert!(matches!(begin, Begin::Answered(_)), "{begin:?}");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let requests = Arc::new(Requests::default());
        let (order, now) = (order("room=1&member=1"), Instant::now());
        for number in 0..=REQUEST_KEYS_MAX {
            go(&requests, &number.to_string(), &order, now).finish(&created(1, 1), now);
        }
        assert_eq!(requests.lock().entries.len(), REQUEST_KEYS_MAX);
        drop(go(&requests, "0", &order, now));
        let begin = requests.begin(&key("1"), &order, now, Duration::ZERO);
        assert!(matches!(begin, Begin::Answered(_)), "{begin:?}");
        // Large rooms make fewer.
        for number in 0..=REQUEST_KEY_SEATS_MAX / 256 {
            let name = format!("large-{number}");
            go(&requests, &name, &order, now).finish(&created(1, 256), now);
            assert!(requests.lock().seats <= REQUEST_KEY_SEATS_MAX);
        }
        drop(go(&requests, "1", &order, now));
    }
}
