//! The recordings of a data directory: an index of the matches in its journal that have ended, and
//! their extraction.
//!
//! ```text
//!   thread ── what the segments from before hold ─▶ ┌───────┐ ◀── list, find ── HTTP threads
//!   loop   ── the end of a match is written ──────▶ │ index │                      │ read
//!                                                   └───────┘                      ▼
//!                                                             the segments of one match, one by one
//! ```
//!
//! What was recorded before a start is read by a thread of its own, from the oldest segment on:
//! there may be many gigabytes of it, for which no match should wait.
//!
//! The index is in memory and bounded ([`RECORDINGS_INDEX_BYTES_MAX`]): an entry takes
//! [`Entry::bytes`]. Its lock is held for a look and never during I/O, so the loop hardly waits for
//! it. Nothing is told here when the journal deletes segments: whoever asks looks at which is the
//! oldest that is left, and what began before it is gone.
//!
//! The journal may be written while it is read: whatever is torn at its end is not part of a match
//! that is over.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thiserror::Error;

use crate::engine::id::{FrameId, MatchId, PlayerId, RoomId};
use crate::engine::view::{OverReason, Phase, Recorded};
use crate::io::journal::read_into;
use crate::journal::record::{segment_name, segment_number};
use crate::journal::restore::{FinishedMatch, Lack, Restore};
use crate::limits::{
    RECORDING_BYTES_MAX, RECORDING_READS_MAX, RECORDING_SEGMENTS_MAX, RECORDINGS_INDEX_BYTES_MAX,
    RECORDINGS_LOOK_MAX,
};

/// What a list shows of a match that has ended, and where its records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The match.
    pub match_id: MatchId,
    /// Its room.
    pub room: RoomId,
    /// When the room was created, in Unix seconds.
    pub created_unix: i64,
    /// The stamp of Start, in Unix seconds; `None` if it never started.
    pub started_unix: Option<i64>,
    /// Frames per second.
    pub hz: u32,
    /// How many frames it had.
    pub frames: FrameId,
    /// Why it ended.
    pub reason: OverReason,
    /// Its players, in the order of their seats.
    pub players: Vec<PlayerId>,
    /// The results, by seat.
    pub results: Vec<Option<u64>>,
    /// The segments of its first and its last record.
    pub segments: (u64, u64),
    /// Why not all of it can be read, if so.
    pub lack: Option<Lack>,
}

impl Entry {
    /// Of a match that was read in the journal.
    pub fn of(finished: &FinishedMatch) -> Entry {
        let created = &finished.created;
        Entry {
            match_id: finished.match_id,
            room: created.room,
            created_unix: created.created_unix_us.div_euclid(1_000_000),
            started_unix: finished.started_unix,
            hz: created.hz,
            frames: finished.frames,
            reason: finished.reason,
            players: created.members.clone(),
            results: finished.results.clone(),
            segments: finished.segments,
            lack: finished.lack,
        }
    }

    /// Of a match whose end was written just now; `None` if it is not over.
    pub fn of_recorded(recorded: &Recorded) -> Option<Entry> {
        let Recorded { view, segments } = recorded;
        let Phase::Over(reason) = view.phase else {
            return None;
        };
        Some(Entry {
            match_id: view.match_id,
            room: view.room,
            created_unix: view.created_unix,
            started_unix: view.started_unix,
            hz: view.hz,
            frames: view.frame,
            reason,
            players: view.seats.iter().map(|seat| seat.player).collect(),
            results: view.seats.iter().map(|seat| seat.result).collect(),
            segments: *segments,
            lack: None,
        })
    }

    /// Bytes that it takes in the index: itself, its place in two maps, and 24 for each seat. That
    /// is 312 for two players.
    pub fn bytes(&self) -> usize {
        const MAPS: usize = 120;
        size_of::<Entry>() + MAPS + 24 * self.players.len()
    }
}

/// Which recordings are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Those of this room alone.
    pub room: Option<RoomId>,
    /// Those with this player alone.
    pub player: Option<PlayerId>,
    /// What the part before said; `None` for the newest.
    pub from: Option<u64>,
    /// How many at the most.
    pub limit: usize,
}

impl Wanted {
    fn is(&self, entry: &Entry) -> bool {
        self.room.is_none_or(|room| room == entry.room)
            && self.player.is_none_or(|id| entry.players.contains(&id))
    }
}

/// A part of the list of recordings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The recordings, those that ended last first.
    pub entries: Vec<Arc<Entry>>,
    /// How many there are, wanted or not.
    pub total: usize,
    /// Where the next part begins, `None` at the end.
    pub next: Option<u64>,
    /// Whether what was recorded before the start of the server is in it, too.
    pub is_complete: bool,
}

/// Why a recording was not read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The index does not know it.
    #[error(
        "there is no recording of match {0}: it is not over, was deleted for its age or for the \
         size of all, or never was"
    )]
    Unknown(MatchId),
    /// Its first segment is not there any more.
    #[error("the recording of match {0} was deleted for its age or for the size of all")]
    Gone(MatchId),
    /// It may be in a segment that was not looked at since the start.
    #[error(
        "match {0} is not known, but what was recorded before the start of this server is still \
         being read; try again in a minute"
    )]
    NotYet(MatchId),
    /// Others are being read.
    #[error("{RECORDING_READS_MAX} recordings are being read already; try again in a second")]
    Busy,
    /// It takes too long, or too much memory.
    #[error(
        "match {match_id} lies in {segments} segments, or has very many inputs; copy the data \
         directory and read it there: lockstep-replay print DIR --match {match_id}"
    )]
    TooLarge {
        /// The match.
        match_id: MatchId,
        /// How many segments it lies in.
        segments: usize,
    },
    /// Some of it cannot be read.
    #[error("the recording of match {match_id} is damaged: {lack}")]
    Damaged {
        /// The match.
        match_id: MatchId,
        /// Where and why.
        lack: Lack,
    },
    /// What the system says.
    #[error("{}: {source}", path.display())]
    Io {
        /// Of which file.
        path: PathBuf,
        /// What.
        source: io::Error,
    },
}

/// The recordings of a data directory.
#[derive(Debug)]
pub struct Recordings {
    dir: PathBuf,
    index: Mutex<Index>,
    /// How many are being read.
    reads: AtomicUsize,
    /// What was there before the start is still being read.
    is_catching_up: AtomicBool,
}

/// The number of the first entry that the loop adds; those from before the start have lower ones.
const FIRST_NEW: u64 = 1 << 40;

/// Entries in the order in which their matches ended.
#[derive(Debug)]
struct Index {
    /// The numbers of the next entry from before the start, and of the next new one.
    next_old: u64,
    next_new: u64,
    by_number: BTreeMap<u64, Arc<Entry>>,
    by_match: BTreeMap<MatchId, u64>,
    bytes: usize,
    /// Nothing that began before this segment is in it.
    oldest: u64,
}

impl Index {
    fn new() -> Index {
        Index {
            next_old: 0,
            next_new: FIRST_NEW,
            by_number: BTreeMap::new(),
            by_match: BTreeMap::new(),
            bytes: 0,
            oldest: 0,
        }
    }

    fn add(&mut self, entry: Entry) {
        self.remove(entry.match_id);
        let number = self.next_new;
        self.next_new += 1;
        self.insert(number, entry);
    }

    /// Adds one from before the start, unless the loop knows more of it.
    fn add_old(&mut self, entry: Entry) {
        if !self.by_match.contains_key(&entry.match_id) {
            let number = self.next_old;
            self.next_old += 1;
            self.insert(number, entry);
        }
    }

    fn insert(&mut self, number: u64, entry: Entry) {
        self.bytes += entry.bytes();
        self.by_match.insert(entry.match_id, number);
        self.by_number.insert(number, Arc::new(entry));
        while self.bytes > RECORDINGS_INDEX_BYTES_MAX {
            let Some((_, oldest)) = self.by_number.first_key_value() else {
                break;
            };
            self.remove(oldest.match_id);
        }
    }

    fn remove(&mut self, id: MatchId) {
        let number = self.by_match.remove(&id);
        if let Some(entry) = number.and_then(|number| self.by_number.remove(&number)) {
            self.bytes -= entry.bytes();
        }
    }
}

impl Recordings {
    /// Those of this directory, of which nothing is known yet.
    pub fn new(dir: &Path) -> Recordings {
        Recordings {
            dir: dir.to_owned(),
            index: Mutex::new(Index::new()),
            reads: AtomicUsize::new(0),
            is_catching_up: AtomicBool::new(false),
        }
    }

    /// Reads what is in the segments before this one, in a thread of its own that rests as long as
    /// it works.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn catch_up(self: &Arc<Recordings>, before: u64) -> io::Result<()> {
        let recordings = Arc::clone(self);
        self.is_catching_up.store(true, Ordering::Release);
        let thread = std::thread::Builder::new().name("recordings".into());
        let spawned = thread.spawn(move || {
            recordings.read_old(before);
            recordings.is_catching_up.store(false, Ordering::Release);
        });
        spawned.map(drop)
    }

    fn read_old(&self, before: u64) {
        let numbers = segments_in(&self.dir).unwrap_or_default();
        let mut restore = Restore::default();
        let mut bytes = Vec::new();
        for number in numbers.into_iter().filter(|number| *number < before) {
            let began = Instant::now();
            let path = self.dir.join(segment_name(number));
            match read_into(&path, &mut bytes) {
                Ok(()) => restore.read(number, &bytes),
                // It was deleted for its age meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    log::warn!("recordings: {}: {error}; passed over", path.display());
                    continue;
                }
            }
            // Of what ended in this one, late results may be in the next.
            self.add_old(&restore.take_finished(number));
            std::thread::sleep(began.elapsed());
        }
        self.add_old(&restore.take_finished(before));
    }

    fn add_old(&self, finished: &[FinishedMatch]) {
        for some in finished.chunks(RECORDINGS_LOOK_MAX) {
            let mut index = self.index();
            some.iter().for_each(|of| index.add_old(Entry::of(of)));
        }
    }

    /// Adds a match whose Over is in the journal, or puts it in the place of what was known of
    /// it: a late result may follow.
    pub fn add(&self, entry: Entry) {
        self.index().add(entry);
    }

    /// Some of them, those that ended last first.
    pub fn list(&self, wanted: &Wanted) -> Page {
        self.forget_deleted();
        let mut page = Page {
            is_complete: !self.is_catching_up.load(Ordering::Acquire),
            ..Page::default()
        };
        let mut below = wanted.from.unwrap_or(u64::MAX);
        // The lock is given back in between, so that the loop waits for a part alone.
        loop {
            let index = self.index();
            page.total = index.by_number.len();
            let mut looked = 0;
            for (number, entry) in index.by_number.range(..=below).rev() {
                if looked == RECORDINGS_LOOK_MAX {
                    break;
                }
                looked += 1;
                below = number.saturating_sub(1);
                if !wanted.is(entry) {
                    continue;
                }
                if page.entries.len() == wanted.limit {
                    page.next = Some(*number);
                    return page;
                }
                page.entries.push(Arc::clone(entry));
            }
            if looked < RECORDINGS_LOOK_MAX {
                return page;
            }
        }
    }

    /// Reads a match out of the journal, as the file that is given away.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, id: MatchId) -> Result<Vec<u8>, ReadError> {
        let is_catching_up = self.is_catching_up.load(Ordering::Acquire);
        let entry = self.find(id).ok_or(match is_catching_up {
            true => ReadError::NotYet(id),
            false => ReadError::Unknown(id),
        })?;
        let turn = Turn::take(&self.reads).ok_or(ReadError::Busy)?;
        let finished = self.extract(&entry);
        if matches!(finished, Err(ReadError::Gone(_))) {
            self.index().remove(id);
        }
        let recording = finished?.recording();
        drop(turn);
        Ok(recording)
    }

    fn extract(&self, entry: &Entry) -> Result<FinishedMatch, ReadError> {
        let id = entry.match_id;
        let (first, last) = entry.segments;
        let numbers = segments_in(&self.dir).map_err(|source| ReadError::Io {
            path: self.dir.clone(),
            source,
        })?;
        let numbers: Vec<u64> = numbers
            .into_iter()
            .filter(|number| (first..=last).contains(number))
            .collect();
        if numbers.first() != Some(&first) {
            return Err(ReadError::Gone(id));
        }
        let segments = numbers.len();
        let too_large = ReadError::TooLarge {
            match_id: id,
            segments,
        };
        if segments > RECORDING_SEGMENTS_MAX {
            return Err(too_large);
        }
        let mut restore = Restore::with_finished(Some(id));
        let mut bytes = Vec::new();
        for number in numbers {
            let path = self.dir.join(segment_name(number));
            match read_into(&path, &mut bytes) {
                Ok(()) => restore.read(number, &bytes),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(ReadError::Gone(id));
                }
                Err(source) => return Err(ReadError::Io { path, source }),
            }
            if restore.frame_bytes() > RECORDING_BYTES_MAX {
                return Err(too_large);
            }
        }
        let mut finished = restore.finish().finished;
        match finished.pop() {
            Some(FinishedMatch {
                lack: Some(lack), ..
            }) => Err(ReadError::Damaged { match_id: id, lack }),
            Some(finished) => Ok(finished),
            None => Err(ReadError::Unknown(id)),
        }
    }

    fn find(&self, id: MatchId) -> Option<Arc<Entry>> {
        let index = self.index();
        let number = index.by_match.get(&id)?;
        index.by_number.get(number).cloned()
    }

    /// Drops what began in a segment that is not there any more.
    fn forget_deleted(&self) {
        // If the directory cannot be read, whoever asks for a recording is told.
        let Ok(numbers) = segments_in(&self.dir) else {
            return;
        };
        let oldest = numbers.first().copied().unwrap_or(u64::MAX);
        if self.index().oldest >= oldest {
            return;
        }
        let mut next = 0;
        loop {
            let mut index = self.index();
            let some = index.by_number.range(next..).take(RECORDINGS_LOOK_MAX);
            let some: Vec<_> = some
                .map(|(number, entry)| (*number, entry.clone()))
                .collect();
            for (_, entry) in some.iter().filter(|(_, e)| e.segments.0 < oldest) {
                index.remove(entry.match_id);
            }
            match some.last() {
                Some((number, _)) => next = number + 1,
                None => {
                    index.oldest = oldest;
                    return;
                }
            }
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Whoever panicked has left nothing worse than an entry that is not found.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to read a recording, as long as this value lives.
struct Turn<'a>(&'a AtomicUsize);

impl Turn<'_> {
    fn take(reads: &AtomicUsize) -> Option<Turn<'_>> {
        if reads.fetch_add(1, Ordering::AcqRel) >= RECORDING_READS_MAX {
            reads.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Turn(reads))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The numbers of the segments in a directory, ascending.
///
/// # Errors
/// What the system says.
pub fn segments_in(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        numbers.extend(entry?.file_name().to_str().and_then(segment_number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, seats: usize) -> Entry {
        Entry {
            match_id: MatchId(id),
            room: RoomId(1),
            created_unix: 0,
            started_unix: None,
            hz: 30,
            frames: 0,
            reason: OverReason::Results,
            players: vec![PlayerId(1); seats],
            results: vec![None; seats],
            segments: (1, 1),
            lack: None,
        }
    }

    #[test]
    fn an_entry_of_two_players_takes_what_the_limit_says() {
        assert_eq!(entry(1, 2).bytes(), 312);
        const { assert!(RECORDINGS_INDEX_BYTES_MAX / 312 > 200_000) };
    }

    #[test]
    fn the_index_is_bounded_and_the_oldest_makes_way() {
        let mut index = Index::new();
        let most = RECORDINGS_INDEX_BYTES_MAX / entry(0, 256).bytes();
        for id in 0..most as u64 + 10 {
            index.add(entry(id, 256));
            // One that comes again counts once.
            index.add(entry(id, 256));
        }
        assert_eq!((index.by_number.len(), index.by_match.len()), (most, most));
        assert!(index.bytes <= RECORDINGS_INDEX_BYTES_MAX);
        assert!(!index.by_match.contains_key(&MatchId(9)));
        assert!(index.by_match.contains_key(&MatchId(10)));
    }

    #[test]
    fn so_many_are_read_at_once_and_no_more() {
        let reads = AtomicUsize::new(0);
        let turns: Vec<_> = (0..RECORDING_READS_MAX)
            .map(|_| Turn::take(&reads).unwrap())
            .collect();
        assert!(Turn::take(&reads).is_none());
        drop(turns);
        assert!(Turn::take(&reads).is_some());
    }
}
