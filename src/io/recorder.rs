//! The loop's hand on the journal: it writes what each turn has to record before anything of that
//! turn leaves, and, where the disk has to have it first, keeps back what leaves.
//!
//! The engine says what is to be written (`engine::records` describes that), [`Journal`]
//! has the files. A journal that cannot be written stops nothing: play goes on, and once it takes
//! something again the rest comes out of the engine's memory, a piece in each turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::server::Server;
use crate::engine::time::Time;
use crate::engine::transmit::Transmits;
use crate::io::control::Reply;
use crate::io::journal::{Health, Journal, Missing};
use crate::io::recordings::{Entry, Recordings};
use crate::limits::{
    HELD_BYTES_MAX, JOURNAL_CATCH_UP_BYTES, JOURNAL_RETRY_EVERY, JOURNAL_TIDY_EVERY,
};

/// Whether the journal takes what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It does, and misses nothing.
    Live,
    /// It does again, and misses something.
    CatchingUp,
    /// It does not.
    Down,
}

/// What leaves together at the end of a turn.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Datagrams.
    pub datagrams: Transmits,
    /// Answers to commands that have changed something.
    pub replies: Vec<Reply>,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.datagrams.is_empty() && self.replies.is_empty()
    }
}

/// The loop's journal.
#[derive(Debug)]
pub struct Recorder {
    journal: Journal,
    /// What HTTP knows of the matches that have ended.
    recordings: Arc<Recordings>,
    state: State,
    /// Nothing leaves before its records are on the disk (`--fsync always`).
    waits_for_disk: bool,
    /// The last batch that was appended.
    appended: u64,
    /// What waits, and for which batch.
    held: VecDeque<(u64, Outgoing)>,
    held_bytes: usize,
    /// Datagrams that were given up because too many waited: lost as on the network.
    given_up: u64,
    /// When the journal is next told what it must keep.
    tidy_at: Time,
}

impl Recorder {
    /// Around an open journal, which tells `recordings` of the matches that end. With
    /// `waits_for_disk`, nothing leaves before its records are on the disk.
    pub fn new(journal: Journal, recordings: Arc<Recordings>, waits_for_disk: bool) -> Recorder {
        Recorder {
            journal,
            recordings,
            state: State::Live,
            waits_for_disk,
            appended: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            given_up: 0,
            tidy_at: Time::ZERO,
        }
    }

    /// Writes what the engine has to record. To be called in each turn, before anything leaves.
    pub fn record(&mut self, now: Time, server: &mut Server) {
        if self.tidy_at <= now {
            self.tidy_at = now + JOURNAL_TIDY_EVERY;
            let oldest = server.oldest_segment();
            self.journal
                .keep_from(oldest.unwrap_or(self.journal.segment()));
        }
        match self.state {
            State::Live if self.journal.is_down() => self.goes_down(),
            State::Live | State::CatchingUp => self.append(now, server),
            State::Down => {}
        }
        if self.state == State::Down {
            match self.journal.take_back() {
                None => return,
                Some(Missing::Refused) => {}
                Some(Missing::Everything) => server.record_anew(),
            }
            log::info!("the journal can be written again; writing what it has missed");
            self.state = State::CatchingUp;
            self.append(now, server);
        }
    }

    fn append(&mut self, now: Time, server: &mut Server) {
        let is_live = self.state == State::Live;
        let most = if is_live {
            usize::MAX
        } else {
            JOURNAL_CATCH_UP_BYTES
        };
        let batch = server.poll_records(now, most);
        if is_live && batch.is_empty() {
            return;
        }
        // An empty one says that the journal holds, after it was down.
        match self.journal.append(batch) {
            Ok(number) => {
                self.appended = number;
                if batch.is_empty() {
                    log::info!("the journal misses nothing any more");
                    self.state = State::Live;
                } else {
                    server.keep_records(self.journal.segment());
                    let recorded = server.take_recorded();
                    for entry in recorded.iter().filter_map(Entry::of_recorded) {
                        self.recordings.add(entry);
                    }
                }
            }
            Err(_) => {
                server.refuse_records();
                self.goes_down();
            }
        }
    }

    fn goes_down(&mut self) {
        if self.state != State::Down {
            let why = self.journal.health().trouble.map(|trouble| trouble.why);
            log::error!(
                "the journal cannot be written: {}; matches go on, and are written down once it can",
                why.unwrap_or_default()
            );
        }
        self.state = State::Down;
    }

    /// Whether the next turn should follow at once.
    pub fn is_busy(&self) -> bool {
        // What waited for a disk that fails waits no more.
        self.state == State::CatchingUp || self.state == State::Down && !self.held.is_empty()
    }

    /// The longest time after which a journal that is down must be looked at again: it does not always
    /// say when it can be written, for the next segment may have been made before.
    pub fn patience(&self) -> Option<Duration> {
        (self.state == State::Down).then_some(JOURNAL_RETRY_EVERY)
    }

    /// Writes all that is still missing, if the journal takes it, before the end.
    pub fn write_rest(&mut self, now: Time, server: &mut Server) {
        while self.state == State::CatchingUp {
            self.append(now, server);
        }
    }

    /// Takes what is to leave now, and puts in its place what may: the same, or nothing.
    pub fn hold_back(&mut self, outgoing: &mut Outgoing) {
        if !self.waits_for_disk || self.state == State::Down || outgoing.is_empty() {
            return;
        }
        if self.held.is_empty() && self.journal.synced() >= self.appended {
            return;
        }
        let mut taken = std::mem::take(outgoing);
        if self.held_bytes + taken.datagrams.byte_count() > HELD_BYTES_MAX {
            self.given_up += taken.datagrams.len() as u64;
            taken.datagrams.clear();
        }
        self.held_bytes += taken.datagrams.byte_count();
        self.held.push_back((self.appended, taken));
    }

    /// The next of what waited, if it may leave now: its records are on the disk, or there is no
    /// disk to wait for.
    pub fn release(&mut self) -> Option<Outgoing> {
        let waits_for = self.held.front().map(|(batch, _)| *batch)?;
        if self.state != State::Down && self.journal.synced() < waits_for {
            return None;
        }
        let (_, outgoing) = self.held.pop_front()?;
        self.held_bytes -= outgoing.datagrams.byte_count();
        Some(outgoing)
    }

    /// How the journal is, and how many datagrams were given up since the start.
    pub fn health(&self) -> (Health, u64) {
        (self.journal.health(), self.given_up)
    }

    /// Brings what is written to the disk, unless that is never done, and ends. Returns what
    /// waited, and whether everything is written.
    pub fn finish(mut self) -> (Vec<Outgoing>, bool) {
        let is_live = self.state == State::Live;
        let is_whole = self.journal.finish() && is_live;
        let held = self.held.drain(..).map(|(_, outgoing)| outgoing).collect();
        (held, is_whole)
    }
}
