//! What the supervisor and the callers of [`super::Etcd`] both know, and the ear for what the loop
//! says.
//!
//! The loop speaks through one bounded channel: its feed, and its answers to our questions, in
//! their order. It never waits: what does not fit is left out, and it is asked for all its rooms
//! instead. What it has said is heard by whoever looks next, so that a claim is never judged by what
//! was before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::OnContested;
use super::Own;
use super::claims::{Claims, Contested};
use super::keys::{Broken, Keys, Other};
use super::link::Odd;
use super::nodes::Nodes;
use crate::cluster::node::{NodeRecord, NodeState};
use crate::cluster::options::EtcdOptions;
use crate::engine::id::{MatchId, RoomId};
use crate::io::control::{Answer, Control, Handle};
use crate::io::feed::{Feed, RoomEvent, RoomEventKind};
use crate::io::metrics::Load;
use crate::limits::{CONTESTED_EVERY, LOAD_ASKED_EVERY, NOTES_WAITING_MAX};

/// Something that the loop says.
#[derive(Debug)]
enum Note {
    Runs(RoomId, MatchId),
    Over(RoomId, MatchId),
    All(Vec<(RoomId, MatchId)>),
    Load(Load),
}

/// Where the loop speaks.
#[derive(Clone)]
pub(super) struct Ear {
    sender: SyncSender<Note>,
    /// Something did not fit.
    missed: Arc<AtomicBool>,
    heard: Arc<Notify>,
}

impl Ear {
    /// Never blocks.
    fn tell(&self, note: Note) {
        if self.sender.try_send(note).is_err() {
            self.missed.store(true, Ordering::Release);
        }
        self.heard.notify_one();
    }

    /// What the loop calls for each of its events.
    pub(super) fn feed(&self) -> Feed {
        let ear = self.clone();
        Box::new(move |event: RoomEvent| {
            let (room, match_id) = (event.room, event.match_id);
            match event.kind {
                RoomEventKind::Created { .. } | RoomEventKind::Restored { .. } => {
                    ear.tell(Note::Runs(room, match_id));
                }
                RoomEventKind::Over { .. } => ear.tell(Note::Over(room, match_id)),
                _ => {}
            }
        })
    }
}

/// A connection to etcd over which we are registered.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) lease: i64,
}

/// What changes.
pub(super) struct State {
    pub(super) link: Option<Link>,
    /// Since when there is a link, or none.
    pub(super) since: Instant,
    /// Why there is none.
    pub(super) why: Option<String>,
    /// Who has our name.
    pub(super) taken: Option<Other>,
    /// Somebody else writes our key in our name.
    pub(super) has_twin: bool,
    /// Why the last claim could not be written, until one can.
    pub(super) claim_trouble: Option<String>,
    pub(super) connections: u64,
    pub(super) leases_lost: u64,
    pub(super) nodes: Nodes,
    pub(super) claims: Claims,
    pub(super) broken: Broken,
    load: Load,
    notes: Receiver<Note>,
}

/// See the head of the file.
pub(super) struct Shared {
    pub(super) options: EtcdOptions,
    pub(super) keys: Keys,
    pub(super) ear: Ear,
    /// There is something to do for the supervisor.
    pub(super) work: Notify,
    state: Mutex<State>,
    control: Handle,
    on_contested: OnContested,
    /// The loop was asked and has not answered.
    asked_rooms: Arc<AtomicBool>,
    asked_load: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn new(
        options: EtcdOptions,
        own: &Own,
        nonce: u64,
        control: Handle,
        on_contested: OnContested,
    ) -> Shared {
        let (sender, notes) = mpsc::sync_channel(NOTES_WAITING_MAX);
        let ear = Ear {
            sender,
            // There may be rooms from before the feed.
            missed: Arc::new(AtomicBool::new(true)),
            heard: Arc::new(Notify::new()),
        };
        let state = State {
            link: None,
            since: Instant::now(),
            why: Some("not connected yet".to_owned()),
            taken: None,
            has_twin: false,
            claim_trouble: None,
            connections: 0,
            leases_lost: 0,
            nodes: Nodes::default(),
            claims: Claims::new(nonce),
            broken: Broken::default(),
            load: own.load,
            notes,
        };
        Shared {
            keys: Keys::new(&options.prefix, options.node.clone(), own.instance),
            options,
            ear,
            work: Notify::new(),
            state: Mutex::new(state),
            control,
            on_contested,
            asked_rooms: Arc::default(),
            asked_load: Arc::default(),
        }
    }

    /// Held for moments only, and never over a call that waits.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked has left one room's entry behind at the worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node as it tells of itself.
    pub(super) fn own(&self) -> NodeRecord {
        let load = self.state().load;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let options = &self.options;
        NodeRecord {
            id: options.node.clone(),
            instance: self.keys.instance,
            state: if load.draining {
                NodeState::Draining
            } else {
                NodeState::Ready
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kcp: options.kcp.clone(),
            http: options.http.clone(),
            grpc: options.grpc.clone(),
            rooms: count(load.rooms),
            rooms_max: count(load.rooms_max),
            players: count(load.players),
            sessions_max: count(load.sessions_max),
            load: load.permille,
            serial: load.serial,
        }
    }

    // --- The loop -------------------------------------------------------------------------

    /// Takes note of all that the loop has said.
    pub(super) fn hear(&self) {
        let mut state = self.state();
        let mut is_news = false;
        while let Ok(note) = state.notes.try_recv() {
            is_news = true;
            match note {
                Note::Runs(room, match_id) => state.claims.runs(room, match_id),
                Note::Over(room, match_id) => state.claims.over(room, match_id),
                Note::All(rooms) => state.claims.all(&rooms),
                Note::Load(load) => state.load = load,
            }
        }
        drop(state);
        if is_news {
            self.work.notify_one();
        }
    }

    /// Asks for all rooms if something was missed, unless an answer is still awaited: it may be one
    /// of before.
    fn ask_what_was_missed(&self) {
        if !self.ear.missed.load(Ordering::Acquire) {
            return;
        }
        let Some(asked) = Asked::once(&self.asked_rooms) else {
            return;
        };
        self.ear.missed.store(false, Ordering::Release);
        let ear = self.ear.clone();
        let answer = Answer::to(move |rooms| {
            drop(asked);
            ear.tell(Note::All(rooms));
        });
        if self.control.post(Control::RoomIds(answer)).is_err() {
            self.ear.missed.store(true, Ordering::Release);
        }
    }

    fn ask_load(&self) {
        let Some(asked) = Asked::once(&self.asked_load) else {
            return;
        };
        let ear = self.ear.clone();
        let answer = Answer::to(move |load| {
            drop(asked);
            ear.tell(Note::Load(load));
        });
        // A loop that is overloaded leaves the last figures.
        let _ = self.control.post(Control::Load(answer));
    }

    // --- What somebody should know --------------------------------------------------------

    /// A value that names nobody.
    pub(super) fn note_odd(&self, key: &str, odd: &Odd) {
        let broken = &mut self.state().broken;
        broken.note(key.as_bytes(), odd.revision, &odd.why);
    }

    /// A match runs under a number that another node holds.
    pub(super) fn tell_contested(&self, contested: &Contested) {
        (self.on_contested)(contested.room, contested.match_id, &contested.node);
    }

    /// The start waits no longer.
    pub(super) fn start_alone(&self, why: &str) {
        log::warn!(
            "etcd at {} does not answer: {why}; running alone until it does",
            self.options.endpoints.join(",")
        );
    }
}

/// A question that the loop has not answered yet; one at a time.
struct Asked(Arc<AtomicBool>);

impl Asked {
    fn once(flag: &Arc<AtomicBool>) -> Option<Asked> {
        let was_asked = flag.swap(true, Ordering::AcqRel);
        (!was_asked).then(|| Asked(Arc::clone(flag)))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Hears the loop, asks it for what it does not say by itself, and sees to what takes time.
pub(super) async fn listen(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(LOAD_ASKED_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept = Instant::now();
    loop {
        tokio::select! {
            () = shared.ear.heard.notified() => {}
            _ = every.tick() => {
                shared.ask_load();
                shared.state().claims.retry();
                shared.work.notify_one();
            }
        }
        shared.hear();
        shared.ask_what_was_missed();
        if swept.elapsed() >= CONTESTED_EVERY {
            swept = Instant::now();
            let mut state = shared.state();
            state.claims.sweep(swept);
            state.broken.forget();
        }
    }
}

/// How long something took, for a line of the log.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
