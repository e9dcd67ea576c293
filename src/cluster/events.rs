//! What happened to rooms lately, for those who follow it over gRPC and go on where they stopped.
//!
//! ```text
//! loop ─▶ feed ─▶ a queue ─▶ a task ─▶ the ring ─▶ each watcher, by position
//! ```
//!
//! The loop never waits here: what the queue cannot take is counted, and becomes one
//! [`Happening::Missed`] at its place. A watcher holds nothing but a position and a few events;
//! one that is slower than the ring finds its place gone, and is told so in the same way.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use super::node::NodeId;
use super::runtime::Runtime;
use crate::engine::id::{MatchId, RoomId};
use crate::io::feed::{Feed, RoomEvent};
use crate::limits::{
    ROOM_EVENTS_KEPT_MAX, ROOM_EVENTS_PER_READ_MAX, ROOM_EVENTS_WAITING_MAX, ROOM_WATCHERS_MAX,
};

/// Something that watchers are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It happened to a room.
    Room(RoomEvent),
    /// Another node has made a room of the same number, and is the one that is found.
    Contested {
        /// When we saw it, in Unix milliseconds.
        unix_ms: i64,
        /// The number.
        room: RoomId,
        /// The match of it that we have.
        match_id: MatchId,
        /// Who is found.
        node: NodeId,
    },
    /// Something is left out here.
    Missed {
        /// When that was seen, in Unix milliseconds.
        unix_ms: i64,
    },
}

/// The place behind an event: which start of the server, and how many events of it there are up to
/// there. `0123456789abcdef-17` as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    epoch: u64,
    number: u64,
}

impl Position {
    /// The position of this text, if it can be one.
    pub fn parse(text: &str) -> Option<Position> {
        let (epoch, number) = text.split_once('-')?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_epoch = epoch.len() == 16 && epoch.bytes().all(is_hex);
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        (is_epoch && is_number).then_some(())?;
        Some(Position {
            epoch: u64::from_str_radix(epoch, 16).ok()?,
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.epoch, self.number)
    }
}

/// As many watch already as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{ROOM_WATCHERS_MAX} watch the rooms already")]
pub struct TooManyWatchers;

/// See the head of the file. Its clones are one log.
#[derive(Clone, Debug)]
pub struct EventLog {
    sender: mpsc::Sender<Item>,
    shared: Arc<Shared>,
    seats: Arc<Semaphore>,
}

/// What goes through the queue.
#[derive(Debug)]
enum Item {
    Happened {
        /// How many the queue could not take before it.
        lost: u64,
        what: Happening,
    },
    Close,
}

#[derive(Debug)]
struct Shared {
    epoch: u64,
    /// Events that the queue could not take, since the start.
    lost: AtomicU64,
    /// Rung after each of them.
    bell: Notify,
    /// Locked on the runtime's thread alone.
    ring: Mutex<Ring>,
    /// Sent anew with each event: whether the log is closed.
    is_closed: watch::Sender<bool>,
}

impl EventLog {
    /// An empty log, whose task runs as long as `runtime` does.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn start(runtime: &Runtime) -> io::Result<EventLog> {
        let epoch = getrandom::u64().map_err(io::Error::other)?;
        let (sender, receiver) = mpsc::channel(ROOM_EVENTS_WAITING_MAX);
        let shared = Arc::new(Shared {
            epoch,
            lost: AtomicU64::new(0),
            bell: Notify::new(),
            ring: Mutex::new(Ring::default()),
            is_closed: watch::Sender::new(false),
        });
        runtime.handle().spawn(keep(Arc::clone(&shared), receiver));
        Ok(EventLog {
            sender,
            shared,
            seats: Arc::new(Semaphore::new(ROOM_WATCHERS_MAX)),
        })
    }

    /// By which the loop tells of rooms; never blocks.
    pub fn feed(&self) -> Feed {
        let log = self.clone();
        Box::new(move |event| log.tell(Happening::Room(event)))
    }

    /// Tells that a room of ours is another node's, too; never blocks.
    pub fn contested(&self, room: RoomId, match_id: MatchId, node: NodeId) {
        self.tell(Happening::Contested {
            unix_ms: unix_ms(),
            room,
            match_id,
            node,
        });
    }

    fn tell(&self, what: Happening) {
        let lost = self.shared.lost.load(Ordering::Acquire);
        match self.sender.try_send(Item::Happened { lost, what }) {
            // The task has ended with its runtime: nobody watches any more.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.shared.lost.fetch_add(1, Ordering::Release);
                self.shared.bell.notify_one();
            }
        }
    }

    /// Ends what all watchers get behind what has happened up to now.
    pub async fn close(&self) {
        // If the task has ended there is nothing to be closed.
        let _ = self.sender.send(Item::Close).await;
    }

    /// What happens from now on or, with a position, behind it.
    ///
    /// # Errors
    /// [`TooManyWatchers`].
    pub fn watch(&self, position: Option<Position>) -> Result<Watcher, TooManyWatchers> {
        let seat = Arc::clone(&self.seats).try_acquire_owned();
        let seat = seat.map_err(|_| TooManyWatchers)?;
        let (next, has_missed) = self.shared.place(position);
        Ok(Watcher {
            shared: Arc::clone(&self.shared),
            next,
            has_missed,
            ready: VecDeque::new(),
            news: WatchStream::new(self.shared.is_closed.subscribe()),
            is_closed: false,
            _seat: seat,
        })
    }
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("nobody panics holding the ring")
    }

    /// The number of the first event behind a position, and whether some are missing before it.
    fn place(&self, position: Option<Position>) -> (u64, bool) {
        let ring = self.ring();
        let Some(position) = position else {
            return (ring.next(), false);
        };
        let next = position.number.checked_add(1);
        let known = next.filter(|_| position.epoch == self.epoch);
        match known.filter(|next| (ring.first..=ring.next()).contains(next)) {
            Some(next) => (next, false),
            None => (ring.first, true),
        }
    }
}

/// Moves what happened from the queue into the ring, until it is closed.
async fn keep(shared: Arc<Shared>, mut receiver: mpsc::Receiver<Item>) {
    let mut items = Vec::new();
    let mut told = 0;
    loop {
        let count = tokio::select! {
            biased;
            count = receiver.recv_many(&mut items, ROOM_EVENTS_PER_READ_MAX) => Some(count),
            () = shared.bell.notified() => None,
        };
        let mut is_closed = count == Some(0);
        let mut ring = shared.ring();
        for item in items.drain(..) {
            match item {
                Item::Happened { lost, what } => {
                    ring.confess(&mut told, lost);
                    ring.push(what);
                }
                Item::Close => is_closed = true,
            }
        }
        if receiver.is_empty() {
            ring.confess(&mut told, shared.lost.load(Ordering::Acquire));
        }
        drop(ring);
        shared.is_closed.send_replace(is_closed);
        if is_closed {
            return;
        }
    }
}

/// The newest events; each has a number, of which the first is 1.
#[derive(Debug)]
struct Ring {
    /// The number of the oldest that is there.
    first: u64,
    events: VecDeque<Happening>,
}

impl Default for Ring {
    fn default() -> Ring {
        Ring {
            first: 1,
            events: VecDeque::new(),
        }
    }
}

impl Ring {
    /// The number that the next event gets.
    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn push(&mut self, what: Happening) {
        if self.events.len() == ROOM_EVENTS_KEPT_MAX {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back(what);
    }

    /// Says that some are missing, if more are than was told.
    fn confess(&mut self, told: &mut u64, lost: u64) {
        if lost > *told {
            let count = lost - *told;
            log::warn!("{count} events of rooms came too fast and are missing for their watchers");
            *told = lost;
            let unix_ms = unix_ms();
            self.push(Happening::Missed { unix_ms });
        }
    }
}

/// What one watcher gets, each event with the position behind it. It ends when the log is closed.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    /// The number of the next event to be read from the ring.
    next: u64,
    /// Something is missing before it, and that was not told yet.
    has_missed: bool,
    ready: VecDeque<(Position, Happening)>,
    /// Whether the log is closed, anew after each event.
    news: WatchStream<bool>,
    is_closed: bool,
    _seat: OwnedSemaphorePermit,
}

impl Watcher {
    /// Where it begins.
    pub fn position(&self) -> Position {
        self.behind(self.next - 1)
    }

    fn behind(&self, number: u64) -> Position {
        let epoch = self.shared.epoch;
        Position { epoch, number }
    }

    /// Reads on.
    fn read(&mut self) {
        let shared = Arc::clone(&self.shared);
        let ring = shared.ring();
        if self.next < ring.first {
            self.next = ring.first;
            self.has_missed = true;
        }
        if self.has_missed {
            self.has_missed = false;
            let unix_ms = unix_ms();
            let missed = (self.position(), Happening::Missed { unix_ms });
            self.ready.push_back(missed);
        }
        let index = usize::try_from(self.next - ring.first).expect("the ring fits in memory");
        let events = ring
            .events
            .iter()
            .skip(index)
            .take(ROOM_EVENTS_PER_READ_MAX);
        for event in events {
            self.ready
                .push_back((self.behind(self.next), event.clone()));
            self.next += 1;
        }
    }
}

impl Stream for Watcher {
    type Item = (Position, Happening);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let watcher = self.get_mut();
        loop {
            if watcher.ready.is_empty() {
                watcher.read();
            }
            if let Some(item) = watcher.ready.pop_front() {
                return Poll::Ready(Some(item));
            }
            if watcher.is_closed {
                return Poll::Ready(None);
            }
            // What came since it was read is news at once, so that none waits for the next one.
            let news = ready!(Pin::new(&mut watcher.news).poll_next(cx));
            watcher.is_closed = news.unwrap_or(true);
        }
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::feed::RoomEventKind;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;
    use tokio_stream::StreamExt;

    const AT_MOST: Duration = Duration::from_secs(60);

    /// Stands for the number of a room where some are missing.
    const MISSED: u64 = u64::MAX;

    fn event(room: u64) -> RoomEvent {
        RoomEvent {
            unix_ms: 1,
            room: RoomId(room),
            match_id: MatchId(1),
            kind: RoomEventKind::Started,
        }
    }

    struct Rig {
        runtime: Runtime,
        log: EventLog,
    }

    impl Rig {
        fn new() -> Rig {
            let runtime = Runtime::start().unwrap();
            let log = EventLog::start(&runtime).unwrap();
            Rig { runtime, log }
        }

        fn watch(&self, position: Option<Position>) -> Watcher {
            self.log.watch(position).unwrap()
        }

        /// The next events of a watcher as the numbers of their rooms, and the position behind.
        fn take(&self, watcher: &mut Option<Watcher>, count: usize) -> (Vec<u64>, Position) {
            let mut own = watcher.take().unwrap();
            let (own, taken) = self
                .runtime
                .ask(AT_MOST, async move {
                    let mut taken = Vec::new();
                    while taken.len() < count {
                        taken.push(own.next().await.expect("the log is not closed"));
                    }
                    (own, taken)
                })
                .unwrap();
            *watcher = Some(own);
            let position = taken.last().expect("some were asked for").0;
            (
                taken.into_iter().map(|(_, what)| room(&what)).collect(),
                position,
            )
        }

        /// Puts events into the ring without the queue.
        fn push(&self, rooms: std::ops::RangeInclusive<u64>) {
            for room in rooms {
                self.log.shared.ring().push(Happening::Room(event(room)));
            }
            self.log.shared.is_closed.send_replace(false);
        }
    }

    fn room(what: &Happening) -> u64 {
        match what {
            Happening::Room(event) => event.room.0,
            Happening::Contested { room, .. } => room.0,
            Happening::Missed { .. } => MISSED,
        }
    }

    #[test]
    fn a_watcher_gets_what_happens_after_it_came_in_its_order() {
        let rig = Rig::new();
        let mut feed = rig.log.feed();
        rig.push(1..=3);
        let mut watcher = Some(rig.watch(None));
        feed(event(4));
        rig.log
            .contested(RoomId(5), MatchId(1), NodeId::new("b").unwrap());
        assert_eq!(rig.take(&mut watcher, 2).0, [4, 5]);
    }

    #[test]
    fn a_watcher_goes_on_behind_a_position() {
        let rig = Rig::new();
        let mut watcher = Some(rig.watch(None));
        let begin = watcher.as_ref().unwrap().position();
        rig.push(1..=5);
        let (rooms, position) = rig.take(&mut watcher, 2);
        assert_eq!(rooms, [1, 2]);
        drop(watcher);
        let mut again = Some(rig.watch(Some(position)));
        assert_eq!(again.as_ref().unwrap().position(), position);
        let (rooms, newest) = rig.take(&mut again, 3);
        assert_eq!(rooms, [3, 4, 5]);
        assert_eq!(
            rig.take(&mut Some(rig.watch(Some(begin))), 5).0,
            [1, 2, 3, 4, 5]
        );
        let mut at_the_end = Some(rig.watch(Some(newest)));
        rig.push(6..=6);
        assert_eq!(rig.take(&mut at_the_end, 1).0, [6]);
    }

    #[test]
    fn a_position_that_is_not_known_misses_once_and_gets_what_there_is() {
        let rig = Rig::new();
        rig.push(1..=2);
        let epoch = rig.log.shared.epoch;
        for (epoch, number) in [(epoch ^ 1, 1), (epoch, 3), (epoch, u64::MAX)] {
            let mut watcher = Some(rig.watch(Some(Position { epoch, number })));
            let (rooms, position) = rig.take(&mut watcher, 3);
            assert_eq!(rooms, [MISSED, 1, 2], "{number}");
            assert_eq!(position.number, 2);
        }
    }

    #[test]
    fn a_watcher_that_is_slower_than_the_ring_is_told_and_goes_on() {
        let rig = Rig::new();
        let mut watcher = Some(rig.watch(None));
        rig.push(1..=1);
        let (_, first) = rig.take(&mut watcher, 1);
        let kept = ROOM_EVENTS_KEPT_MAX as u64;
        rig.push(2..=kept + 11);
        let (rooms, position) = rig.take(&mut watcher, 2);
        assert_eq!(rooms, [MISSED, 12]);
        assert_eq!(position.number, 12);
        let (rooms, missed) = rig.take(&mut Some(rig.watch(Some(first))), 1);
        assert_eq!(rooms, [MISSED]);
        assert_eq!(rig.take(&mut Some(rig.watch(Some(missed))), 1).0, [12]);
        assert_eq!(rig.log.shared.ring().events.len(), ROOM_EVENTS_KEPT_MAX);
    }

    #[test]
    fn what_the_queue_cannot_take_is_missed_at_its_place() {
        let rig = Rig::new();
        let mut watcher = Some(rig.watch(None));
        let mut feed = rig.log.feed();
        let (release, released) = sync_channel::<()>(0);
        let (stuck, is_stuck) = sync_channel(0);
        rig.runtime.handle().spawn(async move {
            stuck.send(()).unwrap();
            let _ = released.recv();
        });
        is_stuck.recv().unwrap();
        let waiting = ROOM_EVENTS_WAITING_MAX as u64;
        for room in 1..=waiting + 7 {
            feed(event(room));
        }
        drop(release);
        let (mut rooms, _) = rig.take(&mut watcher, ROOM_EVENTS_WAITING_MAX + 1);
        assert_eq!(rooms.pop(), Some(MISSED));
        assert!(rooms.into_iter().eq(1..=waiting));
        feed(event(MISSED - 1));
        assert_eq!(rig.take(&mut watcher, 1).0, [MISSED - 1]);
    }

    #[test]
    fn a_closed_log_ends_its_watchers_behind_the_last_event() {
        let rig = Rig::new();
        let mut watcher = rig.watch(None);
        let mut feed = rig.log.feed();
        feed(event(1));
        let log = rig.log.clone();
        let taken = rig.runtime.ask(AT_MOST, async move {
            log.close().await;
            let first = watcher.next().await;
            (first.map(|(_, what)| room(&what)), watcher.next().await)
        });
        assert_eq!(taken, Ok((Some(1), None)));
    }

    #[test]
    fn so_many_watch_and_no_more_until_one_has_gone() {
        let rig = Rig::new();
        let mut all: Vec<_> = (0..ROOM_WATCHERS_MAX).map(|_| rig.watch(None)).collect();
        assert_eq!(rig.log.watch(None).err(), Some(TooManyWatchers));
        all.pop();
        rig.watch(None);
    }

    #[test]
    fn a_position_is_its_text() {
        let position = Position {
            epoch: 0xab,
            number: u64::MAX,
        };
        let text = position.to_string();
        assert_eq!(text, "00000000000000ab-18446744073709551615");
        assert_eq!(Position::parse(&text), Some(position));
        for wrong in [
            "",
            "-",
            "1-1",
            "00000000000000ab",
            "00000000000000ab-",
            "00000000000000ab--1",
            "00000000000000ab-+1",
            "00000000000000AB-1",
            "+0000000000000ab-1",
            "00000000000000ab-1 ",
            "00000000000000ab-18446744073709551616",
        ] {
            assert_eq!(Position::parse(wrong), None, "{wrong}");
        }
    }
}
