//! What of each room is in the journal, and what is still to be written there.
//!
//! Nothing waits in a queue: what is to be written of a room is the difference between the room as
//! it is and what is [`Written`] of it, its frames taken from its own log. So a journal that was
//! full for an hour is caught up with from memory, and a restored room goes on in the same way.
//!
//! In each turn, behind [`Server::poll_transmit`] and before anything leaves, the driver
//!
//! 1. takes the records: [`Server::poll_records`], again and again until there are none;
//! 2. says of each batch whether the journal has it: [`Server::keep_records`] or
//!    [`Server::refuse_records`], after which it waits until the journal takes something again.
//!
//! Which record says what is [`crate::journal`]'s; the files are [`crate::io::journal`]'s.

use std::collections::VecDeque;

use super::id::{FrameId, Seat};
use super::outbox::Outbox;
use super::room::Room;
use super::server::{RoomSlot, Server};
use super::session::RoomKey;
use super::time::Time;
use super::view::{OverReason, Recorded};
use crate::journal::record::{Batch, Created, FrameBytes, Pen, Record, Resumed};
use crate::limits::{UNWRITTEN_BYTES_MAX, UNWRITTEN_MATCHES_MAX};

/// How sure it is that the file holds what was written of a match, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Footing {
    /// Nothing of it counts: the match is written from its creation on.
    None,
    /// Nobody knows what stands behind the last record that counts: a `Resumed` voids it.
    Doubtful,
    /// It holds this.
    Sure,
}

/// What of a room is in the journal.
#[derive(Debug)]
pub(super) struct Written {
    pen: Pen,
    footing: Footing,
    /// It stands in the list of rooms that are looked at.
    is_listed: bool,
    has_start: bool,
    /// Bytes of its log.
    bytes: usize,
    /// The frames before this one.
    head: FrameId,
    is_over: bool,
    /// Whether its seat was taken, and its result, by seat.
    seats: Vec<(bool, Option<u64>)>,
    /// How often those had changed.
    changes: u32,
    /// The segment of its first record; 0 if there is none.
    first_segment: u64,
}

impl Written {
    /// Of a match of which nothing is written.
    fn nothing(room: &Room) -> Written {
        Written {
            pen: Pen::new(room.match_id()),
            footing: Footing::None,
            is_listed: false,
            has_start: false,
            bytes: 0,
            head: 0,
            is_over: false,
            seats: Vec::new(),
            changes: 0,
            first_segment: 0,
        }
    }

    /// Of a match that was read from the journal, in which its next record has this number.
    fn read(room: &Room, next: u32, first_segment: u64) -> Written {
        let mut written = Written::nothing(room);
        let pen = Pen::at(room.match_id(), next);
        written.note(room, pen, first_segment);
        written.footing = Footing::Doubtful;
        written.first_segment = first_segment;
        written
    }

    /// Of a match that is written anew. Until it is, what is there of it is all there is.
    fn anew(&self, room: &Room) -> Written {
        Written {
            is_listed: self.is_listed,
            first_segment: self.first_segment,
            ..Written::nothing(room)
        }
    }

    /// All of the room is written, its last record into this segment.
    fn note(&mut self, room: &Room, pen: Pen, segment: u64) {
        if self.footing == Footing::None {
            self.first_segment = segment;
        }
        self.pen = pen;
        self.footing = Footing::Sure;
        self.has_start = room.started_unix().is_some();
        self.bytes = self.bytes.max(room.log().encoded().len());
        self.head = self.head.max(room.broadcast_head());
        self.is_over = room.is_over();
        self.seats.clear();
        self.seats.extend(room.seat_facts());
        self.changes = room.changes();
    }

    /// Whether there is anything to be written of the room. Asked after each input.
    fn is_behind(&self, room: &Room) -> bool {
        self.footing != Footing::Sure
            || self.bytes < room.log().encoded().len()
            || self.head < room.broadcast_head()
            || self.changes != room.changes()
            || self.has_start != room.started_unix().is_some()
            || self.is_over != room.is_over()
    }

    /// The journal did not take what was to be written.
    fn doubt(&mut self) {
        if self.footing == Footing::Sure {
            self.footing = Footing::Doubtful;
        }
    }

    /// Puts into the batch what of the room is not written. Returns the pen behind it.
    fn write_rest(&self, room: &Room, unix_us: i64, batch: &mut Batch) -> Pen {
        let mut pen = self.pen;
        let mut has_start = self.has_start;
        match self.footing {
            Footing::None => {
                pen = Pen::new(room.match_id());
                let created_unix_us = room.created_unix().saturating_mul(1_000_000);
                let created = Created::of(room.rules(), created_unix_us);
                pen.write(&Record::Created(Box::new(created)), batch);
                if room.history() != 0 {
                    pen.write(&Record::Resumed(self.resumed(room)), batch);
                    has_start = room.started_unix().is_some();
                }
            }
            Footing::Doubtful => {
                pen.write(&Record::Resumed(self.resumed(room)), batch);
                has_start = room.started_unix().is_some();
            }
            Footing::Sure => {}
        }
        self.write_joins(room, unix_us, &mut pen, batch);
        if let Some(unix_seconds) = room.started_unix().filter(|_| !has_start) {
            pen.write(&Record::Started { unix_seconds }, batch);
        }
        self.write_frames(room, &mut pen, batch);
        self.write_end(room, &mut pen, batch);
        pen
    }

    /// How the match stands, but for frames that are not written.
    fn resumed(&self, room: &Room) -> Resumed {
        let results = room.seat_facts().enumerate();
        Resumed {
            started_unix: room.started_unix(),
            head: self.head,
            results: results
                .filter_map(|(index, (_, result))| Some((Seat::from_index(index), result?)))
                .collect(),
            history: room.history(),
        }
    }

    fn write_joins(&self, room: &Room, unix_us: i64, pen: &mut Pen, batch: &mut Batch) {
        for (index, (joined, _)) in room.seat_facts().enumerate() {
            let known = self.seats.get(index).is_some_and(|(joined, _)| *joined);
            if joined && !known {
                let seat = Seat::from_index(index);
                pen.write(&Record::Joined { seat, unix_us }, batch);
            }
        }
    }

    fn write_frames(&self, room: &Room, pen: &mut Pen, batch: &mut Batch) {
        let mut head = self.head;
        // The log of a room that has failed was emptied.
        let mut rest = room.log().encoded().get(self.bytes..).unwrap_or_default();
        while let Some((frame, behind)) = FrameBytes::split(rest) {
            pen.write(&Record::Frame(frame), batch);
            head = frame.id() + 1;
            rest = behind;
        }
        if head < room.broadcast_head() && !room.is_over() {
            pen.write(&Record::Head(room.broadcast_head()), batch);
        }
    }

    /// The end, and results: those that are told with it come before it, later ones behind.
    fn write_end(&self, room: &Room, pen: &mut Pen, batch: &mut Batch) {
        // Behind a `Resumed` they are written already.
        if self.footing != Footing::Doubtful && room.started_unix().is_some() {
            for (index, (_, result)) in room.seat_facts().enumerate() {
                let known = self.seats.get(index).and_then(|(_, result)| *result);
                if let Some(winner) = result.filter(|_| result != known) {
                    let seat = Seat::from_index(index);
                    pen.write(&Record::Result { seat, winner }, batch);
                }
            }
        }
        if let Some(reason) = room.over_reason().filter(|_| !self.is_over) {
            let frames = self.head.max(room.broadcast_head());
            pen.write(&Record::Over { reason, frames }, batch);
        }
    }
}

/// A match that is gone from memory but for what the journal is owed.
#[derive(Debug)]
struct Gone {
    room: Room,
    written: Written,
}

/// What the journal is owed, and the batch on its way.
#[derive(Debug)]
pub(super) struct Records {
    batch: Batch,
    /// Rooms in which something may have happened.
    listed: VecDeque<RoomKey>,
    /// Rooms whose records are in the batch, and their pens behind it.
    in_batch: Vec<(RoomKey, Pen)>,
    /// Matches that are gone, the oldest first.
    gone: VecDeque<Gone>,
    /// How many of them are in the batch.
    gone_in_batch: usize,
    /// Bytes of their logs.
    gone_bytes: usize,
    /// Of the last batch that was kept.
    recorded: Vec<Recorded>,
}

impl Records {
    fn new(salt: u32) -> Records {
        Records {
            batch: Batch::new(salt),
            listed: VecDeque::new(),
            in_batch: Vec::new(),
            gone: VecDeque::new(),
            gone_in_batch: 0,
            gone_bytes: 0,
            recorded: Vec::new(),
        }
    }
}

impl Server {
    /// From now on everything that makes a room is recorded, for a journal of this salt. To be
    /// called before anything else.
    pub fn begin_records(&mut self, salt: u32) {
        debug_assert!(self.rooms.is_empty(), "rooms were created before");
        self.records = Some(Records::new(salt));
    }

    /// What is to be put into the journal before anything of this turn leaves, at most about
    /// `most` bytes of it; empty if that is nothing. [`Server::keep_records`] or
    /// [`Server::refuse_records`] must follow.
    pub fn poll_records(&mut self, now: Time, most: usize) -> &[u8] {
        if self.owes_records() {
            self.make_batch(now, most);
        } else if let Some(records) = &mut self.records {
            records.batch.clear();
        }
        let batch = self.records.as_ref().map(|records| records.batch.bytes());
        batch.unwrap_or_default()
    }

    fn make_batch(&mut self, now: Time, most: usize) {
        let unix_us = self.unix_us(now);
        let Some(records) = &mut self.records else {
            return;
        };
        debug_assert!(records.in_batch.is_empty() && records.gone_in_batch == 0);
        records.batch.clear();
        for gone in &records.gone {
            if records.batch.bytes().len() >= most {
                break;
            }
            let batch = &mut records.batch;
            gone.written.write_rest(&gone.room, unix_us, batch);
            records.gone_in_batch += 1;
        }
        while records.batch.bytes().len() < most {
            let Some(key) = records.listed.pop_front() else {
                break;
            };
            let Some((room, written)) = self.rooms.get_mut(key).and_then(RoomSlot::recorded) else {
                continue;
            };
            if !std::mem::take(&mut written.is_listed) {
                continue;
            }
            let before = records.batch.bytes().len();
            let pen = written.write_rest(room, unix_us, &mut records.batch);
            if records.batch.bytes().len() > before {
                records.in_batch.push((key, pen));
            }
        }
        if records.batch.is_empty() {
            // Nobody answers for an empty one.
            self.keep_records(0);
        }
    }

    /// Which matches have ended with the batch that was kept last, or got a late result. To be asked
    /// after [`Server::keep_records`]; what nobody asks for is forgotten with the next batch.
    pub fn take_recorded(&mut self) -> Vec<Recorded> {
        let recorded = self.records.as_mut().map(|records| &mut records.recorded);
        recorded.map(std::mem::take).unwrap_or_default()
    }

    /// The batch is in the journal, in this segment.
    pub fn keep_records(&mut self, segment: u64) {
        let Some(records) = &mut self.records else {
            return;
        };
        records.recorded.clear();
        for (key, pen) in records.in_batch.drain(..) {
            if let Some((room, written)) = self.rooms.get_mut(key).and_then(RoomSlot::recorded) {
                written.note(room, pen, segment);
                if written.is_over {
                    let segments = (written.first_segment, segment);
                    let view = room.view();
                    records.recorded.push(Recorded { view, segments });
                }
            }
        }
        for gone in records.gone.drain(..records.gone_in_batch) {
            records.gone_bytes -= gone.room.log().encoded().len();
            // In an empty batch there was nothing of it.
            if segment > 0 {
                let first = match gone.written.footing {
                    Footing::None => segment,
                    Footing::Doubtful | Footing::Sure => gone.written.first_segment,
                };
                let segments = (first, segment);
                let view = gone.room.view();
                records.recorded.push(Recorded { view, segments });
            }
        }
        records.gone_in_batch = 0;
    }

    /// The journal has not taken the batch, or not all of it. What was in it is written again.
    pub fn refuse_records(&mut self) {
        let Some(records) = &mut self.records else {
            return;
        };
        for (key, _) in records.in_batch.drain(..) {
            if let Some((_, written)) = self.rooms.get_mut(key).and_then(RoomSlot::recorded) {
                written.doubt();
                if !std::mem::replace(&mut written.is_listed, true) {
                    records.listed.push_back(key);
                }
            }
        }
        for gone in records.gone.iter_mut().take(records.gone_in_batch) {
            gone.written.doubt();
        }
        records.gone_in_batch = 0;
    }

    /// Nobody knows what of the last batches is in the journal: all matches are written anew, from
    /// their creation on.
    pub fn record_anew(&mut self) {
        let keys: Vec<RoomKey> = self.rooms.iter().map(|(key, _)| key).collect();
        for key in keys {
            let slot = &mut self.rooms[key];
            if let Some((room, written)) = slot.recorded() {
                *written = written.anew(room);
            }
            self.list_for_records(key);
        }
        for gone in self
            .records
            .iter_mut()
            .flat_map(|records| &mut records.gone)
        {
            gone.written = gone.written.anew(&gone.room);
        }
    }

    /// Whether anything may have to be recorded.
    pub fn owes_records(&self) -> bool {
        let records = self.records.as_ref();
        records.is_some_and(|records| !records.listed.is_empty() || !records.gone.is_empty())
    }

    /// The first segment that holds a record of a match that may go on; `None` if there is none.
    pub fn oldest_segment(&self) -> Option<u64> {
        let rooms = self
            .rooms
            .iter()
            .filter_map(|(_, slot)| slot.written.as_ref());
        let gone = self.records.iter().flat_map(|records| &records.gone);
        rooms
            .chain(gone.map(|gone| &gone.written))
            .map(|written| written.first_segment)
            .filter(|segment| *segment > 0)
            .min()
    }

    /// What is written of a room that is created now: nothing, if there is a journal at all.
    pub(super) fn written_of(&self, room: &Room) -> Option<Written> {
        self.records.as_ref().map(|_| Written::nothing(room))
    }

    /// What is written of a room that was restored.
    pub(super) fn written_of_restored(
        &self,
        room: &Room,
        next: u32,
        first_segment: u64,
    ) -> Option<Written> {
        let journal = self.records.as_ref();
        journal.map(|_| Written::read(room, next, first_segment))
    }

    /// A match of the journal is not restored since its room has a newer one: it was over, and the
    /// word of that is lost. It is written again, or the next start without the newer one would
    /// bring it back.
    pub(super) fn give_up_in_records(&mut self, now: Time, room: Room, next: u32, segment: u64) {
        let now = self.now(now);
        let Some(records) = &mut self.records else {
            return;
        };
        let mut room = room;
        let written = Written::read(&room, next, segment);
        room.end(now, OverReason::Closed, &mut Outbox::default());
        records.gone_bytes += room.log().encoded().len();
        records.gone.push_back(Gone { room, written });
    }

    /// Something may have happened in a room.
    pub(super) fn list_for_records(&mut self, key: RoomKey) {
        let Some(records) = &mut self.records else {
            return;
        };
        let Some((room, written)) = self.rooms[key].recorded() else {
            return;
        };
        if !written.is_listed && written.is_behind(room) {
            written.is_listed = true;
            records.listed.push_back(key);
        }
    }

    /// A room is gone; the journal may be owed something of it still. If too much is, the oldest
    /// match has no recording.
    pub(super) fn keep_for_records(&mut self, slot: RoomSlot) {
        let (Some(records), Some(written)) = (&mut self.records, slot.written) else {
            return;
        };
        let is_whole = written.is_over && written.footing == Footing::Sure && !written.is_listed;
        if is_whole {
            return;
        }
        records.gone_bytes += slot.room.log().encoded().len();
        let room = slot.room;
        records.gone.push_back(Gone { room, written });
        while records.gone.len() > UNWRITTEN_MATCHES_MAX || records.gone_bytes > UNWRITTEN_BYTES_MAX
        {
            let Some(lost) = records.gone.pop_front() else {
                break;
            };
            records.gone_bytes -= lost.room.log().encoded().len();
            self.counters.recordings_lost += 1;
        }
    }
}
