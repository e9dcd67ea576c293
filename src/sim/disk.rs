//! The disk of a simulated server, and the journal on it: segments of which a part is synced and the
//! rest may be lost, syncs that take their time, writes that are torn or refused.
//!
//! It does in virtual time what [`crate::io::journal`] does with files and a thread: the loop's
//! side is [`Disk::append`] and [`Disk::take_back`], the thread's one job after another in
//! [`Disk::tick`]. How the machine ends is in [`Disk::die`], and how the next server finds what is
//! left in [`Disk::boot`]. Who waits for a sync is crash.rs's.

use std::collections::VecDeque;
use std::time::Duration;

use super::rng::Rng;
use crate::engine::id::MatchId;
use crate::engine::time::Time;
use crate::journal::record::{FIRST_RECORD, FileHeader, Place, Record, encode};
use crate::journal::restore::{Restore, Restored};
use crate::limits::{JOURNAL_RETRY_EVERY, JOURNAL_SYNC_EVERY};

/// Bytes that a disk writes or loses together.
const PAGE: usize = 4096;

/// When what was written is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Never,
    Interval,
    Always,
}

/// The journal takes nothing at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// What is missing in a journal that takes something again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// What was refused.
    Refused,
    /// Everything of each match: a sync has failed.
    Everything,
}

/// What a power cut took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    /// Bytes that are gone.
    pub(super) bytes: u64,
    /// Bytes that are others now.
    pub(super) damaged: u64,
}

/// What a power cut may do to what was not synced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) loses: bool,
    pub(super) damages: bool,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// As a process reads it.
    bytes: Vec<u8>,
    /// How much of it a power cut leaves.
    synced: usize,
    /// Where its last whole batch ends.
    whole: usize,
}

/// A segment that is written no more.
#[derive(Clone, Copy, Debug)]
struct Retired {
    number: u64,
    batch: u64,
    is_torn: bool,
}

/// What the thread is at.
#[derive(Clone, Copy, Debug)]
enum Job {
    /// A sync of a segment up to here, in which this batch is the last.
    Sync {
        number: u64,
        upto: usize,
        batch: u64,
    },
    Make,
}

/// What the journal of one life of the server knows.
#[derive(Debug)]
struct Writer {
    salt: u32,
    batch: u64,
    synced_batch: u64,
    is_torn: bool,
    marks: Vec<Place>,
    retired: VecDeque<Retired>,
    next: Option<Segment>,
    job: Option<(Job, Time)>,
    last_sync: Time,
    is_down: bool,
    trying: bool,
    lost_sync: bool,
    lost_up_to: u64,
    retry_at: Time,
    /// The loop was told since it went down that it can try again.
    told: bool,
    /// Somebody should tell the loop.
    news: bool,
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Disk {
    rng: Rng,
    mode: Mode,
    /// The longest sync.
    slow: Duration,
    segment_bytes: usize,
    /// Bytes of all segments from which on old ones are deleted.
    keep_bytes: usize,
    /// In the order of their numbers; the last is the one that is written.
    segments: Vec<Segment>,
    /// Segments that were deleted, for the oracle alone.
    deleted: Vec<(u64, Vec<u8>)>,
    number: u64,
    /// A start reads from here on.
    needed: u64,
    writer: Writer,
    /// It is full until then.
    full_until: Time,
    /// The next sync fails.
    sync_fails: bool,
    /// It has refused a write since somebody asked.
    refused: bool,
}

impl Writer {
    fn new(now: Time, salt: u32) -> Writer {
        Writer {
            salt,
            batch: 0,
            synced_batch: 0,
            is_torn: false,
            marks: Vec::new(),
            retired: VecDeque::new(),
            next: None,
            job: None,
            last_sync: now,
            is_down: false,
            trying: false,
            lost_sync: false,
            lost_up_to: 0,
            retry_at: now,
            told: false,
            news: false,
        }
    }

    fn takes_records(&self) -> bool {
        !self.is_down || self.trying
    }

    fn go_down(&mut self, now: Time) {
        self.is_down = true;
        self.trying = false;
        self.told = false;
        self.retry_at = now + JOURNAL_RETRY_EVERY;
    }

    /// Whether the loop is to be told, once it is time, that it can try again.
    fn owes_word(&self) -> bool {
        self.is_down && !self.trying && !self.told
    }
}

impl Disk {
    /// An empty disk, on which a server begins to write.
    pub(super) fn new(mut rng: Rng, now: Time, unix_us: i64) -> Disk {
        let mode = [Mode::Never, Mode::Interval, Mode::Always][rng.index(3)];
        let size = |number: u64| usize::try_from(number).expect("it is small");
        let slow = if rng.per_mille(200) { 300 } else { 20 };
        let segment_bytes = [1_000, 4_000, 20_000, 1 << 20][rng.index(4)];
        let keep_bytes = if rng.per_mille(300) {
            size(rng.within(2_000..=40_000))
        } else {
            usize::MAX
        };
        let salt = rng.bits32();
        let mut disk = Disk {
            slow: rng.millis(1..=slow),
            rng,
            mode,
            segment_bytes,
            keep_bytes,
            segments: Vec::new(),
            deleted: Vec::new(),
            number: 0,
            needed: 0,
            writer: Writer::new(now, salt),
            full_until: Time::ZERO,
            sync_fails: false,
            refused: false,
        };
        let first = disk.make_segment(unix_us);
        disk.segments.push(first);
        disk
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// The salt for what is appended.
    pub(super) fn salt(&self) -> u32 {
        self.writer.salt
    }

    /// The segment into which the last batch went.
    pub(super) fn segment(&self) -> u64 {
        self.current().number
    }

    /// The last batch that is on the disk for sure.
    pub(super) fn synced(&self) -> u64 {
        self.writer.synced_batch
    }

    pub(super) fn is_down(&self) -> bool {
        !self.writer.takes_records()
    }

    /// Whether a segment is not synced yet and the next one has records.
    pub(super) fn is_rotating(&self) -> bool {
        let current = self.current();
        let before = self.segments.iter().rev().nth(1);
        let is_open = before.is_some_and(|before| before.synced < before.bytes.len());
        is_open && current.whole > FIRST_RECORD
    }

    /// Whether the loop should have a turn because of the disk; true once.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.writer.news)
    }

    // --- Faults ---------------------------------------------------------------------------

    /// It takes nothing for a while.
    pub(super) fn fill(&mut self, until: Time) {
        self.full_until = until;
    }

    /// The next sync fails, if there is one.
    pub(super) fn fail_sync(&mut self) {
        self.sync_fails = true;
    }

    /// Whether it has refused a write since the last question.
    pub(super) fn take_refusal(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    /// Nothing goes wrong any more, and nothing takes long.
    pub(super) fn heal(&mut self) {
        self.full_until = Time::ZERO;
        self.sync_fails = false;
        self.slow = Duration::from_millis(5);
    }

    // --- The loop's side ------------------------------------------------------------------

    fn current(&self) -> &Segment {
        self.segments.last().expect("one is written at any time")
    }

    /// Writes a batch, whole or not at all, and returns its number.
    pub(super) fn append(&mut self, now: Time, batch: &[u8]) -> Result<u64, Refused> {
        if !self.writer.takes_records() {
            return Err(Refused);
        }
        if self.current().whole >= self.segment_bytes {
            self.take_next();
        }
        let data = self.with_marks(batch);
        let current = self.segments.last_mut().expect("one is written");
        if now < self.full_until {
            let written = self.rng.index(data.len() + 1).min(data.len());
            current.bytes.extend_from_slice(&data[..written]);
            self.writer.is_torn = true;
            self.writer.go_down(now);
            self.refused = true;
            return Err(Refused);
        }
        current.bytes.extend_from_slice(&data);
        current.whole = current.bytes.len();
        if self.mode == Mode::Never && self.rng.per_mille(50) {
            let synced = self.rng.index(current.whole) + 1;
            current.synced = current.synced.max(synced);
            for old in self.segments.iter_mut().rev().skip(1) {
                old.synced = old.bytes.len();
            }
        }
        self.writer.batch += 1;
        if std::mem::take(&mut self.writer.trying) {
            self.writer.is_down = false;
        }
        Ok(self.writer.batch)
    }

    /// Begins to write a batch, and the process ends before it is done. Returns how much is there
    /// of how much.
    pub(super) fn tear(&mut self, batch: &[u8]) -> (usize, usize) {
        let data = self.with_marks(batch);
        let written = self.rng.index(data.len().max(1));
        let current = self.segments.last_mut().expect("one is written");
        current.bytes.extend_from_slice(&data[..written]);
        (written, data.len())
    }

    fn with_marks(&mut self, batch: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        for place in self.writer.marks.drain(..) {
            let mark = Record::Mark(place);
            encode(self.writer.salt, MatchId(0), 0, &mark, &mut data);
        }
        data.extend_from_slice(batch);
        data
    }

    /// Once it can be written again after it was down: what is missing.
    pub(super) fn take_back(&mut self, now: Time) -> Option<Missing> {
        if self.writer.takes_records() || now < self.writer.retry_at || !self.take_next() {
            return None;
        }
        self.writer.trying = true;
        Some(if std::mem::take(&mut self.writer.lost_sync) {
            Missing::Everything
        } else {
            Missing::Refused
        })
    }

    fn take_next(&mut self) -> bool {
        let Some(next) = self.writer.next.take() else {
            return false;
        };
        self.writer.retired.push_back(Retired {
            number: self.current().number,
            batch: self.writer.batch,
            is_torn: std::mem::take(&mut self.writer.is_torn),
        });
        self.segments.push(next);
        true
    }

    /// Deletes the oldest segments while there is too much of them, but none from this one on.
    pub(super) fn tidy(&mut self, keep_from: u64) {
        self.needed = self.needed.max(keep_from.min(self.current().number));
        let unsettled = self.writer.retired.front().map(|retired| retired.number);
        let keep_from = keep_from.min(unsettled.unwrap_or(self.current().number));
        while self.segments[0].number < keep_from
            && self.segments.iter().map(|s| s.bytes.len()).sum::<usize>() > self.keep_bytes
        {
            let oldest = self.segments.remove(0);
            self.deleted.push((oldest.number, oldest.bytes));
        }
    }

    // --- The thread's side ----------------------------------------------------------------

    /// When [`Disk::tick`] has something to do.
    pub(super) fn next_event(&self, now: Time) -> Option<Time> {
        let writer = &self.writer;
        if let Some((_, done)) = writer.job {
            return Some(done);
        }
        let mut events = Vec::new();
        if !writer.retired.is_empty() {
            events.push(now);
        }
        if self.is_sync_wanted() {
            events.push(self.sync_due());
        }
        if writer.next.is_none() || writer.owes_word() {
            events.push(writer.retry_at);
        }
        events.into_iter().min().map(|at| at.max(now))
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Time, unix_us: i64) {
        if let Some((job, done)) = self.writer.job {
            if now < done {
                return;
            }
            self.writer.job = None;
            match job {
                Job::Sync {
                    number,
                    upto,
                    batch,
                } => self.synced_up_to(now, number, upto, batch),
                Job::Make => self.made(now, unix_us),
            }
        }
        if let Some(retired) = self.writer.retired.pop_front() {
            self.settle(now, retired);
        } else if self.is_sync_wanted() && self.sync_due() <= now {
            let (number, upto) = (self.current().number, self.current().whole);
            self.begin_sync(now, number, upto, self.writer.batch);
        } else if self.writer.next.is_none() && self.writer.retry_at <= now {
            let done = now + self.rng.millis(1..=30);
            self.writer.job = Some((Job::Make, done));
        } else if self.writer.owes_word() && self.writer.retry_at <= now {
            self.writer.news = true;
            self.writer.told = true;
        }
    }

    fn is_sync_wanted(&self) -> bool {
        let writer = &self.writer;
        let is_lost = self.current().number <= writer.lost_up_to;
        self.mode != Mode::Never && writer.batch > writer.synced_batch && !is_lost
    }

    fn sync_due(&self) -> Time {
        match self.mode {
            Mode::Interval => self.writer.last_sync + JOURNAL_SYNC_EVERY,
            Mode::Never | Mode::Always => Time::ZERO,
        }
    }

    fn begin_sync(&mut self, now: Time, number: u64, upto: usize, batch: u64) {
        self.writer.last_sync = now;
        let most = u64::try_from(self.slow.as_micros()).expect("it is short");
        let lasts = Duration::from_micros(self.rng.within(100..=most.max(100)));
        let sync = Job::Sync {
            number,
            upto,
            batch,
        };
        self.writer.job = Some((sync, now + lasts));
    }

    fn synced_up_to(&mut self, now: Time, number: u64, upto: usize, batch: u64) {
        let writer = &mut self.writer;
        writer.news = true;
        if std::mem::take(&mut self.sync_fails) {
            writer.lost_sync = true;
            let current = self.segments.last().map_or(0, |segment| segment.number);
            writer.lost_up_to = current.max(number);
            writer.go_down(now);
            return;
        }
        writer.synced_batch = writer.synced_batch.max(batch);
        writer.marks.retain(|mark| mark.segment != number);
        writer.marks.push(Place {
            segment: number,
            offset: upto as u64,
        });
        let mut segments = self.segments.iter_mut();
        if let Some(segment) = segments.find(|segment| segment.number == number) {
            segment.synced = segment.synced.max(upto);
        }
    }

    fn settle(&mut self, now: Time, retired: Retired) {
        let mut segments = self.segments.iter();
        let found = segments.position(|segment| segment.number == retired.number);
        let index = found.expect("nothing deletes it before");
        let segment = &mut self.segments[index];
        // That may fail, too. Without marks, rooms that only wait would not outlive it.
        if retired.is_torn && (self.mode == Mode::Never || self.rng.per_mille(700)) {
            segment.bytes.truncate(segment.whole);
        }
        let upto = segment.whole;
        if upto <= FIRST_RECORD {
            self.segments.remove(index);
        } else if self.mode != Mode::Never && retired.number > self.writer.lost_up_to {
            self.begin_sync(now, retired.number, upto, retired.batch);
        }
    }

    fn made(&mut self, now: Time, unix_us: i64) {
        if now < self.full_until {
            self.number += 1;
            self.writer.retry_at = now + JOURNAL_RETRY_EVERY;
            return;
        }
        let next = self.make_segment(unix_us);
        self.writer.next = Some(next);
        self.writer.news |= self.writer.is_down;
    }

    fn make_segment(&mut self, unix_us: i64) -> Segment {
        self.number += 1;
        let header = FileHeader {
            number: self.number,
            created_unix_us: unix_us,
            salt: self.writer.salt,
            has_marks: self.mode != Mode::Never,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let synced = match self.mode {
            Mode::Never => 0,
            Mode::Interval | Mode::Always => bytes.len(),
        };
        Segment {
            number: self.number,
            synced,
            whole: bytes.len(),
            bytes,
        }
    }

    // --- The end of a life, and the next one ----------------------------------------------

    /// The server is told to end: what was written is brought to the disk, unless that is never
    /// done.
    pub(super) fn finish(&mut self) {
        if self.mode != Mode::Never {
            for segment in &mut self.segments {
                segment.synced = segment.bytes.len();
            }
        }
    }

    /// The process ends, or with a `cut` the power goes; what is lost with it.
    pub(super) fn die(&mut self, cut: Option<Cut>) -> Lost {
        self.segments.extend(self.writer.next.take());
        let mut lost = Lost::default();
        let Some(cut) = cut else {
            return lost;
        };
        if self.rng.per_mille(200) && self.mode == Mode::Never {
            // The file that says so was not on the disk yet.
            self.needed = 0;
        }
        for segment in &mut self.segments {
            let unsynced = segment.bytes.len() - segment.synced;
            if unsynced == 0 {
                continue;
            }
            if cut.loses {
                let kept = match self.rng.index(3) {
                    0 => 0,
                    1 => unsynced,
                    _ => self.rng.index(unsynced + 1),
                };
                lost.bytes += (unsynced - kept) as u64;
                segment.bytes.truncate(segment.synced + kept);
            }
            if cut.damages && self.rng.per_mille(300) {
                lost.damaged += damage(&mut self.rng, &mut segment.bytes[segment.synced..]);
            }
            segment.synced = segment.bytes.len();
        }
        lost
    }

    /// Reads what is there, cuts off its torn end, and begins a new segment, as the next server
    /// does.
    pub(super) fn boot(&mut self, now: Time, unix_us: i64) -> Restored {
        let mut restore = Restore::with_finished(None);
        for segment in &self.segments {
            if segment.number >= self.needed {
                restore.read(segment.number, &segment.bytes);
            }
        }
        let restored = restore.finish();
        let end = restored.end;
        self.number = self.segments.last().map_or(0, |segment| segment.number);
        let needed = self.needed;
        let stays = |number: u64| number <= end.segment || number < needed;
        self.segments.retain(|segment| stays(segment.number));
        for segment in &mut self.segments {
            let length = segment.bytes.len();
            if segment.number == end.segment && length as u64 > end.offset {
                let offset = usize::try_from(end.offset).expect("it was in memory");
                segment.bytes.truncate(offset);
                segment.synced = offset;
            }
            segment.whole = segment.bytes.len();
            if self.mode != Mode::Never {
                // A server that was killed may not have.
                segment.synced = segment.whole;
            }
        }
        self.writer = Writer::new(now, self.rng.bits32());
        let first = self.make_segment(unix_us);
        self.segments.push(first);
        restored
    }

    /// Reads everything that was ever there, also what was deleted.
    pub(super) fn read_all(&self) -> Restored {
        let mut restore = Restore::with_finished(None);
        for (number, bytes) in &self.deleted {
            restore.read(*number, bytes);
        }
        for segment in &self.segments {
            restore.read(segment.number, &segment.bytes);
        }
        restore.finish()
    }

    /// Whether a start passes over anything that was there once.
    pub(super) fn passes_over(&self) -> bool {
        self.needed > 0 || !self.deleted.is_empty()
    }
}

/// Changes some of the bytes; returns how many at the most.
fn damage(rng: &mut Rng, bytes: &mut [u8]) -> u64 {
    if bytes.is_empty() {
        return 0;
    }
    let start = rng.index(bytes.len());
    if rng.per_mille(500) {
        let end = bytes.len().min(start + PAGE);
        bytes[start..end].fill(0);
        return (end - start) as u64;
    }
    let flips = rng.within(1..=3);
    for _ in 0..flips {
        let at = rng.index(bytes.len());
        bytes[at] ^= 1 << rng.index(8);
    }
    flips
}
