//! Makes rooms of the records of a journal.
//!
//! The segments are read in their order, one at a time: [`Restore::read`]. Then
//! [`Restore::finish`] tells which matches go on, which have ended, and which are lost to damage.
//!
//! The rules, for one match:
//!
//! - Its records count up from 1. `Created` begins the match anew, and `Resumed` voids what stands
//!   under its own number and later ones; both are written after a failure, when nobody knows how
//!   much of the last batch is in the file. Any other number that is not the next one shows a gap.
//! - What was there before a `Created` in the middle is set aside, and dropped once the new copy
//!   says as much. If that copy was cut off before, by a crash while everything was written anew,
//!   the match is as it was set aside, and the `Resumed` that follows then counts on from there.
//! - A gap, or a record that cannot follow, stops the restore of the match, and of it alone, until
//!   one of those two heals it.
//! - Damage whose owner is unknown is under suspicion to be the end of each match that was not over
//!   and has no record behind it: such a match is not restored either. A match in play has a
//!   record every few frames, so this is for what was written last.
//! - What was not on the disk for sure, going by the marks, may be missing after a power cut: there
//!   a gap is no damage but the end, and the match goes on from before it.
//! - Damage behind the last whole record of all is the torn end of the journal, to be cut off.

use std::collections::BTreeMap;
use std::fmt;

use super::record::{
    Batch, Created, FIRST_RECORD, FileHeader, FrameBytes, Pen, Place, Record, Resumed,
};
use super::scan::{Damage, Entry, Fault, Found, Scan};
use crate::engine::id::{FrameId, MatchId, Seat};
use crate::engine::room::Fork;
use crate::engine::view::OverReason;
use crate::limits::{FORKS_MAX, JOURNAL_DAMAGE_TOLD_MAX};

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Rooms whose match goes on, in the order of their matches' ids.
    pub rooms: Vec<RestoredRoom>,
    /// Matches that have ended, in the same order.
    pub finished: Vec<FinishedMatch>,
    /// Matches that were not over and cannot be restored, in the same order.
    pub lost: Vec<LostMatch>,
    /// Damage in the order of the journal without its torn end, the first
    /// [`JOURNAL_DAMAGE_TOLD_MAX`] places.
    pub damage: Vec<Damage>,
    /// How many places of damage there are.
    pub damage_count: u64,
    /// The end of the last whole record; what is behind it is to be cut off.
    pub end: Place,
    /// Bytes behind it, in its segment and later ones, without the headers of those.
    pub torn_bytes: u64,
}

/// A room whose match goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredRoom {
    /// The match.
    pub match_id: MatchId,
    /// Of what it was made. With its secret.
    pub created: Created,
    /// The stamp of Start, in Unix seconds; `None` if it still waits.
    pub started_unix: Option<i64>,
    /// The next unsealed frame: one more than the newest that a client can have seen.
    pub head: FrameId,
    /// Its frames with input, one after another, as the log of a room keeps them.
    pub frames: Vec<u8>,
    /// Which seats a session had taken, by seat.
    pub joined: Vec<bool>,
    /// The results, by seat.
    pub results: Vec<Option<u64>>,
    /// Which history its frames are of.
    pub history: u32,
    /// Where earlier histories ended, the newest [`FORKS_MAX`] in their order.
    pub forks: Vec<Fork>,
    /// The number of its next record, which must be a `Resumed`.
    pub next_seq: u32,
    /// Where its records begin.
    pub first_segment: u64,
    /// Records behind this place were lost with what was not on the disk yet.
    pub cut: Option<Place>,
}

/// A match that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedMatch {
    /// The match.
    pub match_id: MatchId,
    /// Of what it was made.
    pub created: Created,
    /// The stamp of Start, in Unix seconds; `None` if it never started.
    pub started_unix: Option<i64>,
    /// Why it ended.
    pub reason: OverReason,
    /// How many frames it had.
    pub frames: FrameId,
    /// The results, by seat.
    pub results: Vec<Option<u64>>,
    /// Its frames with input, as in [`RestoredRoom::frames`], if the reader keeps them.
    pub log: Vec<u8>,
    /// The segments of its first and its last record.
    pub segments: (u64, u64),
    /// Why not all of it can be read, if so.
    pub lack: Option<Lack>,
}

/// A match that was not over, and cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostMatch {
    /// The match.
    pub match_id: MatchId,
    /// Of what it was made, if that is known.
    pub created: Option<Created>,
    /// Why.
    pub lack: Lack,
}

/// Why a match cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Where: the damage if it is known, else the record that shows the gap.
    pub place: Place,
    /// What.
    pub why: Why,
}

/// What is wrong with a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Records from this number on are missing.
    Missing(u32),
    /// The record of this number cannot follow those before it.
    Senseless(u32),
    /// Its last records may have been here.
    Suspected,
    /// It is the recording of a match: the secret of its room was left out.
    NoSecret,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Missing(seq) => write!(f, "record {seq} of the match is missing"),
            Why::Senseless(seq) => write!(f, "record {seq} cannot follow those before it"),
            Why::Suspected => f.write_str("damage that may have been its last records"),
            Why::NoSecret => f.write_str("the secret of the room was left out"),
        }
    }
}

// --- One match ----------------------------------------------------------------------------

/// Bytes of frames of a match of which one is found without a look at those before.
const STEP_BYTES: usize = 4096;

/// A match as its records have made it so far.
#[derive(Debug)]
struct Match {
    created: Option<Box<Created>>,
    started_unix: Option<i64>,
    head: FrameId,
    frames: Vec<u8>,
    /// Some of them, and where they begin.
    steps: Vec<(FrameId, usize)>,
    joined: Vec<bool>,
    results: Vec<Option<u64>>,
    over: Option<(OverReason, FrameId)>,
    /// The number of the record that said so.
    over_seq: u32,
    /// What was said of its end, and is void.
    voided: Option<(OverReason, FrameId)>,
    history: u32,
    forks: Vec<Fork>,
    /// The number that its next record must have.
    next: u32,
    /// Where its first record begins.
    first: Place,
    /// Where the last one that counts begins.
    last: Place,
    /// The segment of the last one that was seen.
    last_segment: u64,
    /// What stops it, and where damage that explains it can begin.
    lack: Option<Lack>,
    /// How it stood before it was begun anew, until this copy says as much.
    before: Option<Box<Match>>,
}

impl Match {
    fn new(place: Place) -> Match {
        Match {
            created: None,
            started_unix: None,
            head: 0,
            frames: Vec::new(),
            steps: Vec::new(),
            joined: Vec::new(),
            results: Vec::new(),
            over: None,
            over_seq: 0,
            voided: None,
            history: 0,
            forks: Vec::new(),
            next: 1,
            first: place,
            last: Place::default(),
            last_segment: place.segment,
            lack: None,
            before: None,
        }
    }

    /// Takes a record in.
    fn take(&mut self, entry: Entry<'_>) {
        self.last_segment = entry.place.segment;
        self.set_aside_or_back(&entry);
        self.take_in(entry);
        if self
            .before
            .as_ref()
            .is_some_and(|old| self.says_as_much(old))
        {
            self.before = None;
        }
    }

    /// Sets the match aside if this record begins it anew, and takes it back if the record goes on
    /// from there.
    fn set_aside_or_back(&mut self, entry: &Entry<'_>) {
        let last_segment = self.last_segment;
        match &entry.record {
            Record::Created(_) if entry.seq == 1 => {
                self.go_back();
                if self.created.is_some() && (self.lack.is_none() || self.over.is_some()) {
                    let old = std::mem::replace(self, Match::new(entry.place));
                    self.before = Some(Box::new(old));
                }
            }
            Record::Resumed(resumed) => {
                let is_of = |old: &Match| entry.seq == old.next && resumed.head == old.head;
                let is_beyond = entry.seq > self.next || resumed.head > self.head;
                if is_beyond && self.before.as_deref().is_some_and(is_of) {
                    self.go_back();
                }
            }
            _ => {}
        }
        self.last_segment = last_segment;
    }

    /// If it was begun anew and this copy does not say as much, it is as it was before.
    fn go_back(&mut self) {
        if let Some(old) = self.before.take() {
            *self = *old;
        }
    }

    /// Whether nothing is lost if this copy takes the place of the older one.
    fn says_as_much(&self, old: &Match) -> bool {
        if self.over.is_some() {
            return true;
        }
        let holds = |new: bool, old: bool| new || !old;
        let mut joined = self.joined.iter().zip(&old.joined);
        let mut results = self.results.iter().zip(&old.results);
        old.over.is_none()
            && (self.head > old.head
                || self.head == old.head
                    && holds(self.started_unix.is_some(), old.started_unix.is_some())
                    && joined.all(|(new, old)| holds(*new, *old))
                    && results.all(|(new, old)| holds(new.is_some(), old.is_some())))
    }

    fn take_in(&mut self, entry: Entry<'_>) {
        let heals = match &entry.record {
            Record::Created(_) => entry.seq == 1,
            Record::Resumed(_) => entry.seq <= self.next && self.created.is_some(),
            // One that is over needs no more of what is missing.
            Record::Over { reason, frames } if self.lack.is_some() => {
                self.over = Some((*reason, *frames));
                self.over_seq = entry.seq;
                return;
            }
            _ => false,
        };
        if heals {
            self.lack = None;
            if self.over_seq >= entry.seq {
                self.voided = self.over.take().or(self.voided);
            }
        } else if self.lack.is_some() {
            return;
        } else if entry.seq != self.next {
            self.lack = Some(Lack {
                place: entry.place,
                why: if entry.seq > self.next {
                    Why::Missing(self.next)
                } else {
                    Why::Senseless(entry.seq)
                },
            });
            if let Record::Over { reason, frames } = &entry.record
                && entry.seq > self.next
            {
                self.over = Some((*reason, *frames));
                self.over_seq = entry.seq;
            }
            return;
        }
        let is_over = matches!(entry.record, Record::Over { .. });
        match self.apply(entry.record, entry.place) {
            Some(()) => {
                if is_over {
                    self.over_seq = entry.seq;
                }
                self.last = entry.place;
                self.next = entry.seq.saturating_add(1);
            }
            None => {
                self.lack = Some(Lack {
                    place: entry.place,
                    why: Why::Senseless(entry.seq),
                });
            }
        }
    }

    /// A record of it was found damaged.
    fn take_damage(&mut self, place: Place, seq: u32) {
        self.last_segment = place.segment;
        if self.lack.is_none() && seq >= self.next {
            self.lack = Some(Lack {
                place,
                why: Why::Missing(self.next),
            });
        }
    }

    /// Changes the match as the record says; `None` if that cannot be.
    fn apply(&mut self, record: Record<'_>, place: Place) -> Option<()> {
        if let Record::Created(created) = record {
            let seats = created.members.len();
            *self = Match {
                before: self.before.take(),
                created: Some(created),
                joined: vec![false; seats],
                results: vec![None; seats],
                ..Match::new(place)
            };
            return Some(());
        }
        let max_frames = self.created.as_ref()?.max_frames;
        if self.over.is_some() && !matches!(record, Record::Result { .. } | Record::Resumed(_)) {
            return None;
        }
        let plays = self.started_unix.is_some();
        match record {
            Record::Joined { seat, .. } => *self.joined.get_mut(seat.index())? = true,
            Record::Started { unix_seconds } if !plays => self.started_unix = Some(unix_seconds),
            Record::Frame(frame) if plays && frame.id() >= self.head && frame.id() < max_frames => {
                let (at, last) = (self.frames.len(), self.steps.last());
                if at >= last.map_or(0, |(_, at)| *at) + STEP_BYTES {
                    self.steps.push((frame.id(), at));
                }
                self.frames.extend_from_slice(frame.bytes());
                self.head = frame.id() + 1;
            }
            Record::Head(head) if plays && head >= self.head && head <= max_frames => {
                self.head = head;
            }
            Record::Result { seat, winner } if plays => {
                *self.results.get_mut(seat.index())? = Some(winner);
            }
            Record::Over { reason, frames } if frames >= self.head && frames <= max_frames => {
                self.head = frames;
                self.over = Some((reason, frames));
            }
            Record::Resumed(resumed) => self.resume(resumed, max_frames)?,
            _ => return None,
        }
        Some(())
    }

    fn resume(&mut self, resumed: Resumed, max_frames: FrameId) -> Option<()> {
        let Resumed {
            started_unix,
            head,
            results,
            history,
        } = resumed;
        if head > max_frames || started_unix.is_none() && head > 0 {
            return None;
        }
        let mut all = vec![None; self.results.len()];
        for (seat, winner) in results {
            *all.get_mut(seat.index())? = Some(winner);
        }
        if head < self.head {
            // A file may say this again and again, so not all of them are looked at.
            let kept = self.steps.partition_point(|(id, _)| *id < head);
            self.steps.truncate(kept);
            let from = self.steps.last().map_or(0, |(_, at)| *at);
            let rest = self.frames.get(from..).unwrap_or_default();
            self.frames.truncate(from + frames_before(rest, head));
        }
        self.head = head;
        self.started_unix = started_unix;
        self.results = all;
        if history != self.history {
            // Within one it was a disk that failed, and the frames are the same ones again.
            if self.forks.len() == FORKS_MAX {
                self.forks.remove(0);
            }
            let from = std::mem::replace(&mut self.history, history);
            self.forks.push(Fork { from, at: head });
        }
        Some(())
    }
}

/// Those of these places that are behind the one and not behind the other.
fn between(places: &[Place], after: Place, to: Place) -> &[Place] {
    let from = places.partition_point(|place| *place <= after);
    let rest = &places[from..];
    &rest[..rest.partition_point(|place| *place <= to)]
}

/// Bytes of the frames before this one.
fn frames_before(frames: &[u8], head: FrameId) -> usize {
    let mut rest = frames;
    while let Some((_, behind)) = FrameBytes::split(rest).filter(|(f, _)| f.id() < head) {
        rest = behind;
    }
    frames.len() - rest.len()
}

// --- All of them --------------------------------------------------------------------------

/// Reads a journal, segment by segment.
#[derive(Debug, Default)]
pub struct Restore {
    /// Whether the frames of matches that have ended are kept, too.
    keeps_finished: bool,
    /// The only match that is looked at, if not all are.
    only: Option<MatchId>,
    matches: BTreeMap<MatchId, Match>,
    /// Where records were lost, in the order of the journal, and whose if that is known.
    spots: Vec<(Place, Option<MatchId>)>,
    /// Where the first is; the places of each owner; those without one; and those of them that were
    /// on the disk for sure. Made of `spots` in the end.
    first_spot: Option<Place>,
    owned: BTreeMap<MatchId, Vec<Place>>,
    strays: Vec<Place>,
    strays_synced: Vec<Place>,
    /// How far each segment that has marks was on the disk for sure.
    synced: BTreeMap<u64, u64>,
    /// Where each segment that has marks ends.
    ends: Vec<Place>,
    damage: Vec<Damage>,
    damage_count: u64,
    /// Bytes and places of damage behind the last whole record.
    tail_bytes: u64,
    tail_count: u64,
    /// Where the last whole record ends.
    end: Place,
}

impl Restore {
    /// One that keeps the frames of matches that have ended, too, for their recordings: of all, or
    /// `only` of this one and nothing of the others. The default keeps those of running ones.
    pub fn with_finished(only: Option<MatchId>) -> Restore {
        Restore {
            keeps_finished: true,
            only,
            ..Restore::default()
        }
    }

    /// Reads the next segment. Their numbers must ascend.
    pub fn read(&mut self, segment: u64, bytes: &[u8]) {
        let scan = Scan::new(segment, bytes);
        let mut is_unread = scan.header().is_none() && bytes.len() > FIRST_RECORD;
        if scan.header().is_some_and(|header| header.has_marks) {
            self.synced.entry(segment).or_insert(0);
            self.ends.push(Place {
                segment,
                offset: bytes.len() as u64,
            });
        }
        for found in scan {
            match found {
                Found::Record(entry) => self.take(entry),
                Found::Damage(damage) => {
                    is_unread |= matches!(damage.fault, Fault::Version(_));
                    self.take_damage(damage);
                }
            }
        }
        if is_unread {
            // It has records that nobody can read, and so is no torn end.
            self.whole_up_to(Place {
                segment,
                offset: bytes.len() as u64,
            });
        }
    }

    /// Bytes of frames that it holds so far.
    pub fn frame_bytes(&self) -> usize {
        let before = |of: &Match| of.before.as_ref().map_or(0, |old| old.frames.len());
        let held = |of: &Match| of.frames.len() + before(of);
        self.matches.values().map(held).sum()
    }

    fn whole_up_to(&mut self, end: Place) {
        self.tail_bytes = 0;
        self.tail_count = 0;
        self.end = end;
    }

    fn take(&mut self, entry: Entry<'_>) {
        self.whole_up_to(Place {
            offset: entry.place.offset + entry.len,
            ..entry.place
        });
        if let Record::Mark(to) = entry.record {
            if let Some(synced) = self.synced.get_mut(&to.segment) {
                *synced = to.offset.max(*synced);
            }
            return;
        }
        if self.only.is_some_and(|only| only != entry.match_id) {
            return;
        }
        let of = self.matches.entry(entry.match_id);
        let of = of.or_insert_with(|| Match::new(entry.place));
        of.take(entry);
        if of.over.is_some() && !self.keeps_finished {
            // Nobody asks a start for the frames of a match that has ended.
            of.frames = Vec::new();
            of.steps = Vec::new();
        }
    }

    fn take_damage(&mut self, damage: Damage) {
        self.damage_count += 1;
        self.tail_count += 1;
        let owner = damage.owner.map(|owner| owner.match_id);
        if let Some(owner) = damage
            .owner
            .filter(|owner| self.only.is_none_or(|o| o == owner.match_id))
        {
            let of = self.matches.entry(owner.match_id);
            let of = of.or_insert_with(|| Match::new(damage.place));
            of.take_damage(damage.place, owner.seq);
        }
        self.tail_bytes += damage.len;
        if damage.costs_records() {
            self.spots.push((damage.place, owner));
        }
        if self.damage.len() < JOURNAL_DAMAGE_TOLD_MAX {
            self.damage.push(damage);
        }
    }

    /// Takes out the matches that have ended and have no record in this segment or a later one, so that
    /// whoever reads a long journal need not hold all of them.
    pub fn take_finished(&mut self, before: u64) -> Vec<FinishedMatch> {
        let was_over = |of: &Match| of.before.as_ref().is_some_and(|old| old.over.is_some());
        let is_over = |of: &Match| of.over.is_some() || was_over(of);
        let done = |of: &Match| is_over(of) && of.last_segment < before;
        let ids = self.matches.iter().filter(|(_, of)| done(of));
        let ids: Vec<MatchId> = ids.map(|(id, _)| *id).collect();
        let mut taken = Restored::default();
        for id in ids {
            if let Some(of) = self.matches.remove(&id) {
                self.judge(id, of, &mut taken);
            }
        }
        taken.finished
    }

    /// What all of it comes to.
    pub fn finish(mut self) -> Restored {
        let mut restored = Restored {
            end: self.end,
            torn_bytes: self.tail_bytes,
            damage_count: self.damage_count - self.tail_count,
            ..Restored::default()
        };
        self.spots.retain(|(place, _)| *place < self.end);
        self.first_spot = self.spots.first().map(|(place, _)| *place);
        self.sort_spots();
        self.damage.retain(|damage| damage.place < self.end);
        restored.damage = std::mem::take(&mut self.damage);
        for (id, of) in std::mem::take(&mut self.matches) {
            self.judge(id, of, &mut restored);
        }
        restored
    }

    fn judge(&self, match_id: MatchId, mut of: Match, restored: &mut Restored) {
        // Damage of the new copy is no reason to go on from an older one, but an end is an end.
        let lack = of.lack.as_ref();
        let is_cut = |lack| self.is_unsynced(match_id, (of.last, of.next), lack);
        let was_over = of.before.as_ref().is_some_and(|old| old.over.is_some());
        if was_over || lack.is_none_or(is_cut) {
            let last_segment = of.last_segment;
            of.go_back();
            of.last_segment = last_segment;
        }
        if of.over.is_none() && of.voided.is_some() {
            // What was to replace its end was torn off. It is over all the same.
            of.over = of.voided;
            let (place, why) = (of.last, Why::Missing(of.next));
            of.lack = Some(Lack { place, why });
        }
        let created = of.created.map(|created| *created);
        if let Some((reason, frames)) = of.over {
            // Without its beginning it is the rest of a match whose segments were deleted.
            restored
                .finished
                .extend(created.map(|created| FinishedMatch {
                    match_id,
                    created,
                    started_unix: of.started_unix,
                    reason,
                    frames,
                    results: of.results,
                    log: of.frames,
                    segments: (of.first.segment, of.last_segment),
                    // What was torn off with the end is no more than a late result.
                    lack: of.lack.filter(|lack| lack.place < self.end),
                }));
            return;
        }
        let mut cut = of
            .lack
            .filter(|lack| self.is_unsynced(match_id, (of.last, of.next), lack));
        let mut lack = of.lack.filter(|_| cut.is_none());
        // What was torn off with the end is no gap.
        cut = cut.filter(|lack| lack.place < self.end);
        if of.lack.is_none() {
            lack = self.suspected(of.last);
        }
        if created
            .as_ref()
            .is_some_and(|created| created.secret.is_none())
        {
            let why = Why::NoSecret;
            lack = Some(Lack {
                place: of.first,
                why,
            });
        }
        match (created, lack) {
            (Some(created), None) => restored.rooms.push(RestoredRoom {
                match_id,
                created,
                started_unix: of.started_unix,
                head: of.head,
                frames: of.frames,
                joined: of.joined,
                results: of.results,
                history: of.history,
                forks: of.forks,
                next_seq: of.next,
                first_segment: of.first.segment,
                cut: cut.map(|_| of.last),
            }),
            // Its beginning was torn off: nobody has seen it.
            (None, None) => {}
            // It began in a segment that was deleted or passed over, and so is over: its end stood
            // there, too, and this is a late result.
            (None, Some(lack)) if self.begins_before(&lack) => {}
            (created, Some(lack)) => restored.lost.push(LostMatch {
                match_id,
                created,
                lack,
            }),
        }
    }

    /// Whether the first record of a match is missing, and no damage explains that.
    fn begins_before(&self, lack: &Lack) -> bool {
        lack.why == Why::Missing(1) && self.first_spot.is_none_or(|spot| spot > lack.place)
    }

    /// Whether what a match lacks was never on the disk for sure: all that can have held it is
    /// damage that no mark covers, or stood behind the end of a segment that was not synced whole.
    fn is_unsynced(&self, match_id: MatchId, (last, next): (Place, u32), lack: &Lack) -> bool {
        let is_gap = match lack.why {
            Why::Missing(_) => true,
            // What is missing is the record that made the numbers begin anew.
            Why::Senseless(seq) => seq < next,
            Why::Suspected | Why::NoSecret => false,
        };
        if !is_gap {
            return false;
        }
        if lack.place >= self.end {
            return true;
        }
        let own = self.owned.get(&match_id).map_or(&[][..], Vec::as_slice);
        let own = between(own, last, lack.place);
        let strays = between(&self.strays, last, lack.place);
        let strays_synced = between(&self.strays_synced, last, lack.place);
        let mut ends = self.ends.iter();
        let is_open = ends.any(|end| last <= *end && *end <= lack.place && self.may_be_cut(*end));
        let is_explained = is_open || !own.is_empty() || !strays.is_empty();
        is_explained && strays_synced.is_empty() && own.iter().all(|place| !self.is_synced(*place))
    }

    /// Whether a power cut may have taken what stood behind the end of this segment: it takes nothing
    /// of one before another that is known to be synced, for they are synced one after the other.
    fn may_be_cut(&self, end: Place) -> bool {
        let mut later = self.synced.range(end.segment + 1..);
        let is_whole = later.any(|(_, synced)| *synced > 0);
        !is_whole && !self.is_synced(end)
    }

    /// Damage without an owner that may have been records of a match whose last is here.
    fn suspected(&self, last: Place) -> Option<Lack> {
        let from = self.strays_synced.partition_point(|place| *place <= last);
        let why = Why::Suspected;
        let place = *self.strays_synced.get(from)?;
        Some(Lack { place, why })
    }

    /// Sorts the damage, so that no match has to look at that of all others.
    fn sort_spots(&mut self) {
        for (place, owner) in std::mem::take(&mut self.spots) {
            match owner {
                Some(owner) => self.owned.entry(owner).or_default().push(place),
                None => {
                    self.strays.push(place);
                    if self.is_synced(place) {
                        self.strays_synced.push(place);
                    }
                }
            }
        }
    }

    /// Whether a place was on the disk when a mark was written. In a file without marks each
    /// place counts as one that was: nothing excuses damage there.
    fn is_synced(&self, place: Place) -> bool {
        self.synced
            .get(&place.segment)
            .is_none_or(|synced| place.offset < *synced)
    }
}

// --- Recordings ---------------------------------------------------------------------------

impl FinishedMatch {
    /// The match as a file of its own, to be given away: its records counted from 1, in a segment
    /// of number and salt 0, without the secret of its room. The reader must have kept its frames.
    pub fn recording(&self) -> Vec<u8> {
        let header = FileHeader {
            number: 0,
            created_unix_us: self.created.created_unix_us,
            salt: 0,
            has_marks: false,
        };
        let mut file = Vec::new();
        header.encode(&mut file);
        let mut batch = Batch::new(header.salt);
        let mut pen = Pen::new(self.match_id);
        let created = Created {
            secret: None,
            ..self.created.clone()
        };
        pen.write(&Record::Created(Box::new(created)), &mut batch);
        if let Some(unix_seconds) = self.started_unix {
            pen.write(&Record::Started { unix_seconds }, &mut batch);
        }
        let mut rest = &self.log[..];
        while let Some((frame, behind)) = FrameBytes::split(rest) {
            pen.write(&Record::Frame(frame), &mut batch);
            rest = behind;
        }
        for (index, result) in self.results.iter().enumerate() {
            if let Some(winner) = *result {
                let seat = Seat::from_index(index);
                pen.write(&Record::Result { seat, winner }, &mut batch);
            }
        }
        let over = Record::Over {
            reason: self.reason,
            frames: self.frames,
        };
        pen.write(&over, &mut batch);
        file.extend_from_slice(batch.bytes());
        file
    }
}
