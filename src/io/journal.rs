//! The files of the journal: a directory with a lock, segments in it, and a thread that syncs them.
//!
//! ```text
//!   loop                                  thread "journal"
//!   append: one write for each turn  ─▶   syncs what was written, tells how far
//!   takes the next segment  ◀──────────   makes the next segment before it is needed
//!   tells what must stay  ────────────▶   deletes what is too old or too much
//! ```
//!
//! The loop writes and does nothing else with a file, so it never waits for a disk unless the system
//! makes a plain write wait. Between the two is a lock that nobody holds during I/O.
//!
//! What is guaranteed:
//!
//! | `--fsync` | killed process | power cut |
//! | --- | --- | --- |
//! | `never` | loses nothing that was appended | loses what the system had not written |
//! | `interval` | the same | loses what was appended in the last interval and one sync |
//! | `always` | the same | loses nothing up to [`Journal::synced`] |
//!
//! If a write or a sync fails, the journal is *down*: [`Journal::append`] refuses, so that no gap
//! comes to be, and the thread tries each second to begin a new segment. Once it can,
//! [`Journal::take_back`] says what is missing, and the loop appends that first. Nothing here ever
//! panics because of a disk.
//!
//! What a record says is [`crate::journal`]'s; nothing here reads one but at the start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use crate::engine::id::MatchId;
use crate::journal::record::{
    self, FIRST_RECORD, FileHeader, Place, Record, segment_name, segment_number,
};
use crate::journal::restore::{Restore, Restored};
use crate::journal::scan::Fault;
use crate::limits::{JOURNAL_RETRY_EVERY, JOURNAL_TIDY_EVERY};

/// The file that is locked while a process writes the journal.
const LOCK: &str = "lock";

/// The file that says from which segment on a start must read: what is before it is of matches
/// that are over. It may be old or missing, and then more is read.
const NEEDED: &str = "needed";

/// When what was written is brought to the disk (`--fsync`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// When the system sees fit.
    Never,
    /// So long after it was written.
    Interval(Duration),
    /// At once, and as often as the disk can.
    Always,
}

/// Where the journal is and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The directory; it is made if there is none.
    pub dir: PathBuf,
    /// When it is synced.
    pub fsync: Fsync,
    /// Bytes of a segment from which on the next one is taken.
    pub segment_bytes: u64,
    /// Age of a segment from which on the next one is taken, if there is something in it.
    pub segment_age: Duration,
    /// Bytes of all segments from which on the oldest are deleted.
    pub keep_bytes: u64,
    /// Time since the last record of a segment after which it is deleted.
    pub keep_age: Duration,
}

/// Why a journal cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process writes it.
    #[error("{} is in use by another server{holder}; give each a directory of its own", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Its process, if the lock tells: " (process 7)".
        holder: String,
    },
    /// What the system says.
    #[error("{}: {source}", path.display())]
    Io {
        /// Of which file.
        path: PathBuf,
        /// What.
        source: io::Error,
    },
    /// A segment of a later version: what is in it would be lost on whoever starts without.
    #[error("{}: version {version} was written by a later server; start that one", path.display())]
    Later {
        /// The segment.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
}

/// The journal takes nothing at the moment; [`Journal::health`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the journal cannot be written")]
pub struct Refused;

/// The journal can be written again. What must be appended before anything else?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// What was not appended: all that came in batches that were refused.
    Refused,
    /// Everything of each running match, from its creation on: a sync has failed, and nobody knows
    /// what of the batches behind [`Journal::synced`] is on the disk.
    Everything,
}

/// How the journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is wrong, if anything is.
    pub trouble: Option<Trouble>,
    /// Bytes of all segments.
    pub bytes: u64,
    /// How many there are, without the one that is made for later.
    pub segments: usize,
}

/// What is wrong with the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Whether it takes no records. If it does, only rotating or deleting fails.
    pub down: bool,
    /// Since when.
    pub since: SystemTime,
    /// What the system said, the last time.
    pub why: String,
}

/// A journal that is written.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
    salt: u32,
    segment_bytes: u64,
    segment_age: Duration,
    current: Segment,
    /// The last batch that was appended, counted from 1.
    batch: u64,
    /// A write into the current segment has failed: what is behind its bytes is to be cut off.
    is_torn: bool,
    /// Marks on their way into the journal.
    marks: Vec<u8>,
    /// Held as long as the journal is.
    _lock: File,
}

/// A segment that is written.
#[derive(Debug)]
struct Segment {
    number: u64,
    file: Arc<File>,
    bytes: u64,
    opened: Instant,
}

impl Segment {
    fn end(&self) -> Place {
        Place {
            segment: self.number,
            offset: self.bytes,
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes <= FIRST_RECORD as u64
    }
}

/// A segment that is written no more.
#[derive(Debug)]
struct Retired {
    segment: Segment,
    /// The last batch in it.
    batch: u64,
    /// A write has failed: what is behind its bytes is to be cut off.
    is_torn: bool,
}

/// What the loop and the thread tell each other.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug)]
struct State {
    // What the loop says.
    file: Arc<File>,
    /// How far the segment that is written is, and which it is.
    written: Place,
    batch: u64,
    retired: Vec<Retired>,
    keep_from: u64,
    /// What is to be kept once this batch is on the disk.
    keep_next: Option<(u64, u64)>,
    stop: bool,
    // What the thread says.
    next: Option<Segment>,
    synced_batch: u64,
    /// How far the newest segments are on the disk, where the journal does not say so yet.
    marks: Vec<Place>,
    kept_bytes: u64,
    kept_segments: usize,
    impaired: Option<Trouble>,
    // What both say.
    down: Option<Trouble>,
    /// [`Journal::take_back`] has been called, and the next batch shows whether it holds.
    trying: bool,
    /// A sync has failed since [`Journal::take_back`].
    lost_sync: bool,
    /// Segments up to this one are not synced again: a sync of one of them has failed.
    lost_up_to: u64,
    retry_at: Instant,
}

impl Shared {
    fn new(current: &Segment, keeper: &Keeper) -> Shared {
        let state = State {
            file: Arc::clone(&current.file),
            written: current.end(),
            batch: 0,
            retired: Vec::new(),
            keep_from: 0,
            keep_next: None,
            stop: false,
            next: None,
            synced_batch: 0,
            marks: Vec::new(),
            kept_bytes: keeper.kept_bytes(),
            kept_segments: keeper.kept.len(),
            impaired: None,
            down: None,
            trying: false,
            lost_sync: false,
            lost_up_to: 0,
            retry_at: Instant::now(),
        };
        Shared {
            state: Mutex::new(state),
            news: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked has left nothing half-way: each change is one assignment or two.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn go_down(&mut self, why: &io::Error) {
        let since = self
            .down
            .take()
            .map_or_else(SystemTime::now, |old| old.since);
        self.down = Some(Trouble {
            down: true,
            since,
            why: why.to_string(),
        });
        self.trying = false;
        self.retry_at = Instant::now() + JOURNAL_RETRY_EVERY;
    }

    fn lose_sync(&mut self, segment: u64, why: &io::Error) {
        self.lost_sync = true;
        // What is written now goes down with it: batches follow one another.
        self.lost_up_to = self.written.segment.max(segment);
        self.go_down(why);
    }

    /// Something worked; while the next segment is there, nothing else can be wrong.
    fn clear_impaired(&mut self) {
        if self.next.is_some() {
            self.impaired = None;
        }
    }

    fn takes_records(&self) -> bool {
        self.down.is_none() || self.trying
    }
}

// --- The loop's side ----------------------------------------------------------------------

impl Journal {
    /// Locks the directory, reads what is in it, cuts off its torn end, and begins a new segment.
    /// `wake` is called by the thread when more is synced, and when the journal goes down or can be
    /// written again.
    ///
    /// # Errors
    /// [`OpenError`]. Damage is none: it is told in what is [`Restored`].
    pub fn open(
        options: Options,
        wake: impl Fn() + Send + 'static,
    ) -> Result<(Journal, Restored), OpenError> {
        let dir = &options.dir;
        if fs::metadata(dir).is_ok_and(|data| !data.is_dir()) {
            let error = io::Error::other("it is no directory; name another one");
            return Err(failed(dir, error));
        }
        make_dir(dir).map_err(|error| failed(dir, error))?;
        let lock = take_lock(dir)?;
        let (restored, kept, newest) = read_all(dir, options.fsync)?;
        let salt = getrandom::u32().map_err(|error| failed(dir, io::Error::other(error)))?;
        let mut keeper = Keeper {
            salt,
            kept,
            number: newest,
            needed: 0,
            last_sync: Instant::now(),
            tidy_at: Instant::now(),
            wake: Box::new(wake),
            options,
        };
        let current = keeper
            .make_segment()
            .map_err(|error| failed(&keeper.path(keeper.number), error))?;
        let shared = Arc::new(Shared::new(&current, &keeper));
        let (segment_bytes, segment_age) =
            (keeper.options.segment_bytes, keeper.options.segment_age);
        let dir = keeper.options.dir.clone();
        let keeper = {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("journal".into());
            let spawned = thread.spawn(move || keeper.run(&shared));
            spawned.map_err(|error| failed(&dir, error))?
        };
        let journal = Journal {
            shared,
            keeper: Some(keeper),
            salt,
            segment_bytes,
            segment_age,
            current,
            batch: 0,
            is_torn: false,
            marks: Vec::new(),
            _lock: lock,
        };
        Ok((journal, restored))
    }

    /// The salt for what is appended.
    pub fn salt(&self) -> u32 {
        self.salt
    }

    /// The number of the segment into which the last batch went.
    pub fn segment(&self) -> u64 {
        self.current.number
    }

    /// Writes a batch of records, whole or not at all, and returns its number, counted from 1. An
    /// empty one is fine.
    ///
    /// # Errors
    /// [`Refused`] if the journal is down, or has just gone down.
    pub fn append(&mut self, batch: &[u8]) -> Result<u64, Refused> {
        let shared = Arc::clone(&self.shared);
        let marks = {
            let mut state = shared.lock();
            if !state.takes_records() {
                return Err(Refused);
            }
            if self.is_rotation_due() {
                self.take_next(&mut state);
            }
            std::mem::take(&mut state.marks)
        };
        self.marks.clear();
        for place in marks {
            record::encode(
                self.salt,
                MatchId(0),
                0,
                &Record::Mark(place),
                &mut self.marks,
            );
        }
        let parts = &mut [IoSlice::new(&self.marks), IoSlice::new(batch)];
        let written = write_all(&self.current.file, parts);
        let mut state = shared.lock();
        if let Err(error) = written {
            state.go_down(&error);
            self.is_torn = true;
            shared.news.notify_one();
            return Err(Refused);
        }
        self.current.bytes += (self.marks.len() + batch.len()) as u64;
        self.batch += 1;
        state.written = self.current.end();
        state.batch = self.batch;
        if std::mem::take(&mut state.trying) {
            state.down = None;
        }
        drop(state);
        shared.news.notify_one();
        Ok(self.batch)
    }

    /// Once the journal can be written again after it was down: what is missing. It is to be
    /// appended next, as batches of any number; if the first is refused, the journal is down
    /// as before. `None` at any other time.
    pub fn take_back(&mut self) -> Option<Missing> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if state.takes_records() || Instant::now() < state.retry_at {
            return None;
        }
        if !self.take_next(&mut state) {
            return None;
        }
        state.trying = true;
        Some(if std::mem::take(&mut state.lost_sync) {
            Missing::Everything
        } else {
            Missing::Refused
        })
    }

    /// The last batch that is on the disk for sure, as far as that is ever asked for. 0 at first.
    pub fn synced(&self) -> u64 {
        self.shared.lock().synced_batch
    }

    /// Whether it takes no records.
    pub fn is_down(&self) -> bool {
        !self.shared.lock().takes_records()
    }

    /// Lets only segments before this one be deleted: the first that holds a record of a running
    /// match. Until it is called nothing is deleted. It counts once all that was appended before is
    /// on the disk: what took the place of older records must not be lost with them.
    pub fn keep_from(&self, segment: u64) {
        self.shared.lock().keep_next = Some((self.batch, segment));
    }

    /// How the journal is.
    pub fn health(&self) -> Health {
        let state = self.shared.lock();
        Health {
            trouble: state.down.clone().or_else(|| state.impaired.clone()),
            bytes: state.kept_bytes + self.current.bytes,
            segments: state.kept_segments + 1,
        }
    }

    /// Brings what was written to the disk, unless that is never done, and ends. Returns whether the
    /// journal holds all that was appended.
    pub fn finish(mut self) -> bool {
        self.join();
        self.shared.lock().down.is_none()
    }

    fn join(&mut self) {
        self.shared.lock().stop = true;
        self.shared.news.notify_one();
        if let Some(keeper) = self.keeper.take() {
            // If it has panicked there is nothing to wait for.
            let _ = keeper.join();
        }
    }

    fn is_rotation_due(&self) -> bool {
        let full = self.current.bytes >= self.segment_bytes;
        let old = self.current.opened.elapsed() >= self.segment_age;
        full || old && !self.current.is_empty()
    }

    /// Goes on in the next segment, if it has been made.
    fn take_next(&mut self, state: &mut State) -> bool {
        let Some(next) = state.next.take() else {
            return false;
        };
        let next = Segment {
            opened: Instant::now(),
            ..next
        };
        state.file = Arc::clone(&next.file);
        state.written = next.end();
        state.retired.push(Retired {
            segment: std::mem::replace(&mut self.current, next),
            batch: self.batch,
            is_torn: std::mem::take(&mut self.is_torn),
        });
        self.shared.news.notify_one();
        true
    }
}

impl Drop for Journal {
    /// Syncs what was written, unless that is never done.
    fn drop(&mut self) {
        self.join();
    }
}

fn write_all(mut file: &File, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.write_vectored(parts) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut parts, count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

// --- The thread's side --------------------------------------------------------------------

/// A segment that is kept.
#[derive(Clone, Copy, Debug)]
struct Kept {
    number: u64,
    bytes: u64,
    /// When it was last written.
    written: SystemTime,
}

/// What the thread owns.
struct Keeper {
    options: Options,
    salt: u32,
    /// Segments that are written no more, in order.
    kept: Vec<Kept>,
    /// The number of the last segment that was made, or tried.
    number: u64,
    /// What the file [`NEEDED`] says, as far as this process has written it.
    needed: u64,
    last_sync: Instant,
    tidy_at: Instant,
    wake: Box<dyn Fn() + Send>,
}

/// What the thread does next.
enum Job {
    Settle(Retired),
    Sync {
        file: Arc<File>,
        written: Place,
        batch: u64,
    },
    Make,
    Tidy {
        keep_from: u64,
        written: Place,
    },
}

impl Keeper {
    fn run(mut self, shared: &Shared) {
        let mut state = shared.lock();
        loop {
            let now = Instant::now();
            if let Some(job) = self.job(&mut state, now) {
                drop(state);
                self.carry_out(job, shared);
                state = shared.lock();
                (state.kept_bytes, state.kept_segments) = (self.kept_bytes(), self.kept.len());
                continue;
            }
            if state.stop {
                break;
            }
            let sleep = self.next_look(&state, now).saturating_duration_since(now);
            let waited = shared.news.wait_timeout(state, sleep);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let next = state.next.take();
        let (keep_from, written) = (state.keep_from, state.written);
        drop(state);
        // If it cannot be told, the next start reads more.
        let _ = self.tell_needed(keep_from, written);
        if let Some(next) = next {
            // An empty segment does no harm; the next start removes it.
            let _ = fs::remove_file(self.path(next.number));
        }
    }

    fn kept_bytes(&self) -> u64 {
        self.kept.iter().map(|kept| kept.bytes).sum()
    }

    fn job(&mut self, state: &mut State, now: Instant) -> Option<Job> {
        if !state.retired.is_empty() {
            return Some(Job::Settle(state.retired.remove(0)));
        }
        if self.is_sync_wanted(state) && (state.stop || self.sync_due(now) <= now) {
            return Some(Job::Sync {
                file: Arc::clone(&state.file),
                written: state.written,
                batch: state.batch,
            });
        }
        self.note_kept(state);
        if state.stop {
            return None;
        }
        if state.next.is_none() && state.retry_at <= now {
            return Some(Job::Make);
        }
        if self.tidy_at <= now {
            self.tidy_at = now + JOURNAL_TIDY_EVERY;
            return Some(Job::Tidy {
                keep_from: state.keep_from,
                written: state.written,
            });
        }
        None
    }

    /// Takes over from where on segments are needed, if the disk has all that this follows from.
    fn note_kept(&self, state: &mut State) {
        let synced = state.synced_batch;
        let is_safe = |batch| self.options.fsync == Fsync::Never || batch <= synced;
        if let Some((_, segment)) = state.keep_next.take_if(|(batch, _)| is_safe(*batch)) {
            state.keep_from = segment;
        }
    }

    fn is_sync_wanted(&self, state: &State) -> bool {
        let is_lost = state.written.segment <= state.lost_up_to;
        self.options.fsync != Fsync::Never && state.batch > state.synced_batch && !is_lost
    }

    fn sync_due(&self, now: Instant) -> Instant {
        match self.options.fsync {
            Fsync::Interval(interval) => self.last_sync + interval,
            Fsync::Never | Fsync::Always => now,
        }
    }

    /// When there may be something to do if nobody says so before.
    fn next_look(&self, state: &State, now: Instant) -> Instant {
        let mut look = self.tidy_at;
        if self.is_sync_wanted(state) {
            look = look.min(self.sync_due(now));
        }
        if state.next.is_none() {
            look = look.min(state.retry_at);
        }
        look
    }

    fn carry_out(&mut self, job: Job, shared: &Shared) {
        match job {
            Job::Settle(retired) => self.settle(&retired, shared),
            Job::Sync {
                file,
                written,
                batch,
            } => {
                self.last_sync = Instant::now();
                self.sync(&file, written, batch, shared);
            }
            Job::Make => self.make_next(shared),
            Job::Tidy { keep_from, written } => {
                let tidied = self
                    .tell_needed(keep_from, written)
                    .and_then(|()| self.tidy(keep_from, written.offset, SystemTime::now()));
                match tidied {
                    Ok(()) => shared.lock().clear_impaired(),
                    Err(error) => self.note(shared, &error),
                }
            }
        }
    }

    /// Does for a segment what is to be done after its last record.
    fn settle(&mut self, retired: &Retired, shared: &Shared) {
        let Retired {
            segment,
            batch,
            is_torn,
        } = retired;
        if *is_torn {
            // If it stays, it is damage without an owner behind what is synced: a scan passes on.
            let _ = segment.file.set_len(segment.bytes);
        }
        if segment.is_empty() {
            let _ = fs::remove_file(self.path(segment.number));
            return;
        }
        self.kept.push(Kept {
            number: segment.number,
            bytes: segment.bytes,
            written: SystemTime::now(),
        });
        self.tidy_at = Instant::now();
        let lost = shared.lock().lost_up_to;
        if self.options.fsync != Fsync::Never && segment.number > lost {
            self.sync(&segment.file, segment.end(), *batch, shared);
        }
    }

    fn sync(&self, file: &File, written: Place, batch: u64, shared: &Shared) {
        let synced = file.sync_data();
        let mut state = shared.lock();
        match synced {
            Ok(()) => {
                state.synced_batch = state.synced_batch.max(batch);
                // Of one segment the newest is enough; there are two only around a rotation.
                state.marks.retain(|mark| mark.segment != written.segment);
                state.marks.push(written);
            }
            Err(error) => {
                // What the system could not write it may have thrown away, and then says of the
                // next sync that all is well: this segment is never asked again.
                state.lose_sync(written.segment, &error);
            }
        }
        drop(state);
        (self.wake)();
    }

    fn make_next(&mut self, shared: &Shared) {
        match self.make_segment() {
            Ok(segment) => {
                let mut state = shared.lock();
                state.next = Some(segment);
                state.impaired = None;
                let is_down = state.down.is_some();
                drop(state);
                if is_down {
                    (self.wake)();
                }
            }
            Err(error) => self.note(shared, &error),
        }
    }

    /// Notes what hinders rotating or deleting.
    fn note(&self, shared: &Shared, error: &io::Error) {
        let mut state = shared.lock();
        let since = state
            .impaired
            .take()
            .map_or_else(SystemTime::now, |old| old.since);
        state.impaired = Some(Trouble {
            down: false,
            since,
            why: error.to_string(),
        });
        state.retry_at = Instant::now() + JOURNAL_RETRY_EVERY;
    }

    fn path(&self, number: u64) -> PathBuf {
        self.options.dir.join(segment_name(number))
    }

    /// Makes the next segment, with its header.
    fn make_segment(&mut self) -> io::Result<Segment> {
        // A number that failed is not used again: something may be there.
        let next = self.number.checked_add(1);
        self.number =
            next.ok_or_else(|| io::Error::other("no number is left for a new segment"))?;
        let path = self.path(self.number);
        let made = self.write_segment(&path);
        if made.is_err() {
            let _ = fs::remove_file(&path);
        }
        made
    }

    fn write_segment(&self, path: &Path) -> io::Result<Segment> {
        let header = FileHeader {
            number: self.number,
            created_unix_us: unix_us(),
            salt: self.salt,
            has_marks: self.options.fsync != Fsync::Never,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let mut file = private().create_new(true).open(path)?;
        file.write_all(&bytes)?;
        if self.options.fsync != Fsync::Never {
            file.sync_all()?;
            sync_dir(&self.options.dir)?;
        }
        Ok(Segment {
            number: self.number,
            file: Arc::new(file),
            bytes: bytes.len() as u64,
            opened: Instant::now(),
        })
    }

    /// Writes down from where on the next start must read.
    fn tell_needed(&mut self, keep_from: u64, written: Place) -> io::Result<()> {
        let needed = keep_from.min(written.segment);
        if needed <= self.needed {
            return Ok(());
        }
        // Whole or not at all: a name is changed in one step.
        let new = self.options.dir.join("needed.new");
        let is_synced = self.options.fsync != Fsync::Never;
        let mut file = private().create(true).truncate(true).open(&new)?;
        file.write_all(format!("{needed}\n").as_bytes())?;
        if is_synced {
            file.sync_all()?;
        }
        fs::rename(&new, self.options.dir.join(NEEDED))?;
        if is_synced {
            // Else a power cut could bring back matches whose end went down with a failed sync.
            sync_dir(&self.options.dir)?;
        }
        self.needed = needed;
        Ok(())
    }

    /// Deletes the oldest segments while there is too much of them, or they are too old, and no
    /// running match needs them.
    fn tidy(&mut self, keep_from: u64, written: u64, now: SystemTime) -> io::Result<()> {
        while let Some(oldest) = self.kept.first().copied() {
            let age = now.duration_since(oldest.written).unwrap_or_default();
            let much = self.kept_bytes() + written > self.options.keep_bytes;
            if oldest.number >= keep_from || !much && age <= self.options.keep_age {
                break;
            }
            match fs::remove_file(self.path(oldest.number)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => self.kept.remove(0),
            };
        }
        Ok(())
    }
}

fn unix_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

// --- The start ----------------------------------------------------------------------------

/// Everything that is in the directory and may be of a match that goes on, its torn end cut off: what
/// it comes to, the segments, and the highest number of one. Unless that is never done, all of it is
/// brought to the disk: a server that was killed may not have, and clients are told of it from now
/// on.
fn read_all(dir: &Path, fsync: Fsync) -> Result<(Restored, Vec<Kept>, u64), OpenError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| failed(dir, error))? {
        let name = entry.map_err(|error| failed(dir, error))?.file_name();
        numbers.extend(name.to_str().and_then(segment_number));
    }
    numbers.sort_unstable();
    let needed = fs::read_to_string(dir.join(NEEDED)).ok();
    let needed = needed.and_then(|text| text.trim().parse::<u64>().ok());
    // A later one is of segments that somebody has taken away: new ones would count as not needed.
    let newest = numbers.last().copied().unwrap_or(0);
    if needed.is_some_and(|needed| needed > newest.saturating_add(1)) {
        let path = dir.join(NEEDED);
        fs::remove_file(&path).map_err(|error| failed(&path, error))?;
    }
    let needed = needed.filter(|needed| *needed <= newest).unwrap_or(0);
    let mut restore = Restore::default();
    let mut bytes = Vec::new();
    for number in numbers.iter().filter(|number| **number >= needed) {
        let path = dir.join(segment_name(*number));
        read_into(&path, &mut bytes).map_err(|error| failed(&path, error))?;
        restore.read(*number, &bytes);
    }
    let restored = restore.finish();
    for damage in &restored.damage {
        if let Fault::Version(version) = damage.fault {
            let path = dir.join(segment_name(damage.place.segment));
            return Err(OpenError::Later { path, version });
        }
    }
    let mut kept = Vec::new();
    for number in &numbers {
        let path = dir.join(segment_name(*number));
        let end = if *number < needed {
            UNTOUCHED
        } else {
            restored.end
        };
        let cut = cut(&path, *number, end).map_err(|error| failed(&path, error))?;
        if cut.is_some() && fsync != Fsync::Never {
            sync_file(&path).map_err(|error| failed(&path, error))?;
        }
        kept.extend(cut);
    }
    Ok((restored, kept, newest))
}

fn failed(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    OpenError::Io { path, source }
}

pub(super) fn read_into(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    if !fs::metadata(path)?.is_file() {
        // A pipe would be waited for without end.
        return Err(io::Error::other("it is no file; take it away"));
    }
    File::open(path)?.read_to_end(bytes)?;
    Ok(())
}

/// The end of a journal of which nothing is to be cut off.
const UNTOUCHED: Place = Place {
    segment: u64::MAX,
    offset: 0,
};

/// Brings a file to the disk. One that is there costs next to nothing.
fn sync_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.sync_all()
}

/// Cuts off what is behind the end of the journal; `None` if nothing of the segment is left.
fn cut(path: &Path, number: u64, end: Place) -> io::Result<Option<Kept>> {
    if number > end.segment {
        fs::remove_file(path)?;
        return Ok(None);
    }
    let data = fs::metadata(path)?;
    let mut bytes = data.len();
    let written = data.modified()?;
    if number == end.segment && bytes > end.offset {
        bytes = end.offset;
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    Ok(Some(Kept {
        number,
        bytes,
        written,
    }))
}

/// Locks the directory for this process.
fn take_lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let mut options = private();
    options.read(true).create(true).truncate(false);
    lock_by_opening(&mut options);
    let locked = options
        .open(&path)
        .and_then(|file| try_lock(&file).map(|got| (file, got)));
    match locked {
        Ok((mut file, true)) => {
            let text = format!(
                "{}
",
                std::process::id()
            );
            let written = file
                .set_len(0)
                .and_then(|()| file.write_all(text.as_bytes()));
            written.map_err(|error| failed(&path, error))?;
            Ok(file)
        }
        Ok((file, false)) => {
            let mut text = String::new();
            let told = file.take(32).read_to_string(&mut text);
            let id = told.ok().and_then(|_| text.trim().parse::<u32>().ok());
            Err(OpenError::Locked {
                dir: dir.to_owned(),
                holder: id.map_or(String::new(), |id| format!(" (process {id})")),
            })
        }
        // Where opening is what locks.
        Err(error) if error.raw_os_error() == Some(SHARING_VIOLATION) => Err(OpenError::Locked {
            dir: dir.to_owned(),
            holder: String::new(),
        }),
        Err(error) => Err(failed(&path, error)),
    }
}

/// What Windows says of a file that another process has opened for itself alone; no system with
/// `flock` says it of a file.
const SHARING_VIOLATION: i32 = 32;

/// Files that hold secrets of rooms: for nobody else.
#[cfg(unix)]
fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Where permissions come from the directory.
#[cfg(not(unix))]
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    options
}

#[cfg(unix)]
fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

#[cfg(not(unix))]
fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

/// Whether the file could be locked. The lock goes with the process, however it ends.
#[cfg(unix)]
fn try_lock(file: &File) -> io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Where the file is locked by being open.
#[cfg(not(unix))]
fn try_lock(_file: &File) -> io::Result<bool> {
    Ok(true)
}

/// Where a file is locked once it is open.
#[cfg(not(windows))]
fn lock_by_opening(_options: &mut OpenOptions) {}

/// Lets nobody else open the file while it is open.
#[cfg(windows)]
fn lock_by_opening(options: &mut OpenOptions) {
    use std::os::windows::fs::OpenOptionsExt;
    options.share_mode(0);
}

/// Brings the names in a directory to the disk.
#[cfg(unix)]
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Where a directory is no file, and the system sees to its names.
#[cfg(not(unix))]
pub(crate) fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_sync_that_failed_everything_is_missing_and_nothing_is_said_of_that_segment() {
        let dir = std::env::temp_dir().join(format!("lockstep-sync-{}", std::process::id()));
        let options = Options {
            dir: dir.clone(),
            fsync: Fsync::Interval(Duration::from_millis(1)),
            segment_bytes: 1 << 20,
            segment_age: Duration::from_secs(3600),
            keep_bytes: 1 << 30,
            keep_age: Duration::from_secs(3600),
        };
        let (mut journal, _) = Journal::open(options, || ()).unwrap();
        let lost = journal.segment();
        {
            let mut state = journal.shared.lock();
            state.lose_sync(lost, &ErrorKind::Other.into());
        }
        assert_eq!(journal.append(b"x"), Err(Refused));
        assert!(journal.health().trouble.is_some_and(|trouble| trouble.down));
        let missing = loop {
            if let Some(missing) = journal.take_back() {
                break missing;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(missing, Missing::Everything);
        assert!(journal.segment() > lost);
        let batch = journal.append(b"y").unwrap();
        while journal.synced() < batch {
            std::thread::sleep(Duration::from_millis(1));
        }
        let state = journal.shared.lock();
        assert!(state.marks.iter().all(|mark| mark.segment > lost));
        assert!(state.down.is_none());
        drop(state);
        drop(journal);
        fs::remove_dir_all(&dir).unwrap();
    }
}
