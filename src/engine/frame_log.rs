//! The frames of one match: those that are sealed, as bytes that are ready to be sent, and
//! the one that is open.
//!
//! An `S2C_FrameMsg` is one repeated field, so a batch of frames is a contiguous slice of
//! the frames encoded one after another. The log is just that: every frame with input,
//! encoded once when it was sealed. Frames without input take no space; the wire leaves
//! them out too.
//!
//! ```text
//!   bytes:  [frame 3][frame 7][frame 8]          [frame 12]   open: inputs of frame 14
//!                             ^ offset of a cursor at 8        head = 14
//! ```
//!
//! Live broadcast and catch-up are the same walk from a seat's [`Cursor`]:
//! [`FrameLog::write_batch`].

use std::collections::VecDeque;

use super::drops::Drop;
use super::id::{FrameId, PlayerId, Seat};
use super::wire::frame::{self, Command};
use crate::journal::record::FrameBytes;
use crate::limits::{
    FRAME_BYTES_MAX, FRAMES_PER_MESSAGE_MAX, INPUT_DATA_PER_SEAT_AND_FRAME_MAX,
    INPUT_DATA_WAITING_PER_SEAT_MAX, INPUTS_PER_SEAT_AND_FRAME_MAX, INPUTS_WAITING_PER_SEAT_MAX,
};

/// The least by which the log grows, in bytes.
const GROWTH_MIN: usize = 1024;

/// Frames from one entry of the index to the next.
const INDEX_EVERY: FrameId = 64;

/// The place of a seat in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The next frame the seat is owed.
    pub frame: FrameId,
    /// Where the first frame with input that is not before it begins, in the log's bytes.
    offset: usize,
}

/// The frames of one match.
#[derive(Debug, Default)]
pub struct FrameLog {
    /// Sealed frames with input, as fields of an S2C_FrameMsg, one after another.
    bytes: Vec<u8>,
    /// The next unsealed frame.
    head: FrameId,
    /// Where in `bytes` the first frame begins that is not before frame 0, [`INDEX_EVERY`], and so
    /// on.
    index: Vec<u32>,
    open: OpenFrame,
}

impl FrameLog {
    /// An empty log for a room of `seats` seats.
    pub fn new(seats: usize) -> FrameLog {
        FrameLog {
            open: OpenFrame::new(seats),
            ..FrameLog::default()
        }
    }

    /// The log of a match with these frames, encoded as [`FrameLog::encoded`] has them, of which
    /// all before `head` are sealed.
    ///
    /// # Panics
    /// If they are not frames with ascending ids before `head`.
    pub fn restore(seats: usize, bytes: Vec<u8>, head: FrameId) -> FrameLog {
        let mut log = FrameLog {
            bytes,
            head,
            ..FrameLog::new(seats)
        };
        let (mut offset, mut newest) = (0, None);
        while let Some((id, end)) = log.frame_at(offset) {
            assert!(id < head && newest.is_none_or(|newest| newest < id));
            log.index_up_to(id, offset);
            (offset, newest) = (end, Some(id));
        }
        if let Some(newest) = head.checked_sub(1) {
            log.index_up_to(newest, offset);
        }
        log
    }

    /// Enters into the index, for each of its frames up to this one that is not in it yet, that no
    /// frame with input from there on stands before `offset`.
    fn index_up_to(&mut self, frame: FrameId, offset: usize) {
        let entries = usize::try_from(frame / INDEX_EVERY).expect("32 bits fit") + 1;
        let offset = u32::try_from(offset).expect("a log is smaller than 4 GiB");
        if self.index.len() < entries {
            self.index.resize(entries, offset);
        }
    }

    /// The next unsealed frame: how many are sealed.
    pub fn head(&self) -> FrameId {
        self.head
    }

    /// The sealed frames with input, as fields of an S2C_FrameMsg, one after another.
    pub fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the open frame holds inputs.
    pub fn has_input(&self) -> bool {
        !self.open.encoded.is_empty()
    }

    /// The place of this frame, or of the head if it does not exist yet.
    pub fn cursor_at(&self, frame: FrameId) -> Cursor {
        let frame = frame.min(self.head);
        let entry = usize::try_from(frame / INDEX_EVERY).expect("32 bits fit");
        let offset = self.index.get(entry).or(self.index.last()).copied();
        let mut offset = usize::try_from(offset.unwrap_or(0)).expect("32 bits fit");
        while let Some((_, end)) = self.frame_at(offset).filter(|(id, _)| *id < frame) {
            offset = end;
        }
        Cursor { frame, offset }
    }

    /// Puts an input and the data beside it into the open frame, or, where that is full, among
    /// those that wait for the next ones. The order of a seat's inputs is kept.
    ///
    /// # Errors
    /// [`Drop::InputsWaiting`] if too many of this seat wait already, or too much data.
    pub fn add_input(
        &mut self,
        seat: Seat,
        player: PlayerId,
        command: Command,
        data: &[u8],
    ) -> Result<(), Drop> {
        debug_assert!(data.len() <= INPUT_DATA_PER_SEAT_AND_FRAME_MAX);
        self.open.add(Input {
            seat,
            player,
            command,
            data,
        })
    }

    /// Seals the open frame and opens the next one, into which waiting inputs go. Returns
    /// how many inputs the sealed frame holds.
    pub fn seal(&mut self) -> usize {
        self.index_up_to(self.head, self.bytes.len());
        let count = self.open.count();
        if count > 0 {
            let needed = self.open.encoded.len() + frame::FRAME_OVERHEAD_MAX;
            if self.bytes.capacity() - self.bytes.len() < needed {
                // By a quarter, not to the double: a log is most of a room's memory.
                self.bytes
                    .reserve_exact(needed.max(self.bytes.len() / 4).max(GROWTH_MIN));
            }
            frame::encode_frame(&mut self.bytes, self.head, &self.open.encoded);
        }
        self.head += 1;
        self.open.reopen();
        count
    }

    /// Seals this frame, or an empty one, in the place of the open one, which must have no input.
    ///
    /// # Panics
    /// If it is not the next one.
    pub fn seal_given(&mut self, frame: Option<FrameBytes<'_>>) {
        debug_assert!(!self.has_input(), "the open frame has input");
        self.index_up_to(self.head, self.bytes.len());
        if let Some(frame) = frame {
            assert_eq!(frame.id(), self.head, "another frame than the next");
            self.bytes.extend_from_slice(frame.bytes());
        }
        self.head += 1;
    }

    /// Appends the frames from `cursor` up to, not including, `until` as the body of an
    /// S2C_FrameMsg, as many as one message takes: whole frames within `body_max` bytes
    /// (but at least one) and within the contract's number of frames. Empty frames are left
    /// out except the newest, `until - 1`. Moves the cursor behind what it has written; the
    /// rest is for the next call.
    pub fn write_batch(
        &self,
        cursor: &mut Cursor,
        until: FrameId,
        body_max: usize,
        out: &mut Vec<u8>,
    ) {
        let slice = self.next_slice(cursor, until, body_max);
        out.extend_from_slice(slice.bytes);
        if slice.more || cursor.frame == until {
            return;
        }
        // What is left up to `until` is empty: its newest goes along if there is room.
        let newest = until - 1;
        let fits =
            slice.frames == 0 || slice.bytes.len() + frame::empty_frame_len(newest) <= body_max;
        if fits && slice.frames < FRAMES_PER_MESSAGE_MAX {
            frame::encode_frame(out, newest, &[]);
            cursor.frame = until;
        }
    }

    /// The frames with input from `cursor` up to, not including, `until`, as many as one message
    /// takes: as [`FrameLog::write_batch`] has them, but for the newest empty one. Moves the cursor
    /// behind them: to `until` if there are no more.
    pub fn read_batch(&self, cursor: &mut Cursor, until: FrameId, body_max: usize) -> &[u8] {
        let slice = self.next_slice(cursor, until, body_max);
        if !slice.more {
            cursor.frame = until;
        }
        slice.bytes
    }

    /// As many frames with input as one message takes. Moves the cursor behind the last of them.
    fn next_slice(&self, cursor: &mut Cursor, until: FrameId, body_max: usize) -> Slice<'_> {
        debug_assert!(
            cursor.frame < until && until <= self.head,
            "{cursor:?} until {until}"
        );
        let start = cursor.offset;
        let (mut frames, mut more) = (0, false);
        while let Some((id, end)) = self.frame_at(cursor.offset).filter(|(id, _)| *id < until) {
            let fits = frames == 0 || end - start <= body_max;
            if !fits || frames == FRAMES_PER_MESSAGE_MAX {
                more = true;
                break;
            }
            *cursor = Cursor {
                frame: id + 1,
                offset: end,
            };
            frames += 1;
        }
        let bytes = &self.bytes[start..cursor.offset];
        Slice {
            bytes,
            frames,
            more,
        }
    }

    /// The frame that begins at `offset`: its id, and where it ends. `None` at the end.
    fn frame_at(&self, offset: usize) -> Option<(FrameId, usize)> {
        let mut rest = self.bytes.get(offset..).filter(|rest| !rest.is_empty())?;
        let before = rest.len();
        rest = &rest[1..]; // the tag of the frame
        let len = read_varint(&mut rest);
        let end = offset + (before - rest.len()) + usize::try_from(len).expect("a frame is small");
        rest = &rest[1..]; // the tag of its id
        let id = FrameId::try_from(read_varint(&mut rest)).expect("ids are 32 bits");
        Some((id, end))
    }
}

/// Reads a varint that [`frame::encode_frame`] wrote.
fn read_varint(bytes: &mut &[u8]) -> u64 {
    prost::encoding::decode_varint(bytes).expect("the log holds what it encoded itself")
}

/// Frames with input that stand one after another in the log.
struct Slice<'a> {
    bytes: &'a [u8],
    frames: usize,
    /// Others follow that the same message does not take.
    more: bool,
}

/// One input on its way into a frame.
#[derive(Clone, Copy, Debug)]
struct Input<'a> {
    seat: Seat,
    player: PlayerId,
    command: Command,
    data: &'a [u8],
}

/// One that waits, with its data.
#[derive(Debug)]
struct Waiting {
    seat: Seat,
    player: PlayerId,
    command: Command,
    data: Box<[u8]>,
}

impl Waiting {
    fn input(&self) -> Input<'_> {
        Input {
            seat: self.seat,
            player: self.player,
            command: self.command,
            data: &self.data,
        }
    }
}

/// How much there is of one seat.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    inputs: usize,
    data_bytes: usize,
}

impl Share {
    /// Whether it has room for another input within these bounds.
    fn has_room(&self, data: &[u8], inputs_max: usize, data_bytes_max: usize) -> bool {
        self.inputs < inputs_max && self.data_bytes + data.len() <= data_bytes_max
    }

    fn add(&mut self, data: &[u8]) {
        self.inputs += 1;
        self.data_bytes += data.len();
    }
}

/// The open frame, and the inputs for which it has no room.
#[derive(Debug, Default)]
struct OpenFrame {
    /// Its inputs, as fields of FrameData.
    encoded: Vec<u8>,
    /// What each seat has in it.
    shares: Vec<Share>,
    /// Inputs for later frames, in the order of their arrival.
    waiting: VecDeque<Waiting>,
    /// What each seat has among them.
    waiting_shares: Vec<Share>,
}

impl OpenFrame {
    fn new(seats: usize) -> OpenFrame {
        OpenFrame {
            shares: vec![Share::default(); seats],
            waiting_shares: vec![Share::default(); seats],
            ..OpenFrame::default()
        }
    }

    fn count(&self) -> usize {
        self.shares.iter().map(|share| share.inputs).sum()
    }

    fn add(&mut self, input: Input<'_>) -> Result<(), Drop> {
        let waiting = self.waiting_shares[input.seat.index()];
        if waiting.inputs == 0 && self.try_encode(input) {
            return Ok(());
        }
        if !waiting.has_room(
            input.data,
            INPUTS_WAITING_PER_SEAT_MAX,
            INPUT_DATA_WAITING_PER_SEAT_MAX,
        ) {
            return Err(Drop::InputsWaiting);
        }
        self.wait(Waiting {
            seat: input.seat,
            player: input.player,
            command: input.command,
            data: input.data.into(),
        });
        Ok(())
    }

    /// Encodes the input into the frame unless a bound forbids it.
    fn try_encode(&mut self, input: Input<'_>) -> bool {
        let Input {
            seat,
            player,
            command,
            data,
        } = input;
        let share = &mut self.shares[seat.index()];
        if !share.has_room(
            data,
            INPUTS_PER_SEAT_AND_FRAME_MAX,
            INPUT_DATA_PER_SEAT_AND_FRAME_MAX,
        ) {
            return false;
        }
        let before = self.encoded.len();
        frame::encode_input(&mut self.encoded, player, seat, command, data);
        if self.encoded.len() + frame::FRAME_OVERHEAD_MAX > FRAME_BYTES_MAX {
            self.encoded.truncate(before);
            return false;
        }
        share.add(data);
        true
    }

    fn wait(&mut self, input: Waiting) {
        self.waiting_shares[input.seat.index()].add(&input.data);
        self.waiting.push_back(input);
    }

    /// Empties the frame, then lets waiting inputs in, as far as they fit.
    fn reopen(&mut self) {
        self.encoded.clear();
        self.shares.fill(Share::default());
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_shares.fill(Share::default());
        for input in waiting {
            // One that stays behind keeps the later ones of its seat behind it.
            let behind = self.waiting_shares[input.seat.index()].inputs > 0;
            if behind || !self.try_encode(input.input()) {
                self.wait(input);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire::frame::{Frame, decode_frames};
    use crate::limits::SEGMENT_PAYLOAD_MAX;

    const BODY_MAX: usize = SEGMENT_PAYLOAD_MAX - 3;

    fn press(log: &mut FrameLog, seat: usize, x: i32) {
        let player = PlayerId(100 + seat as u64);
        let command = Command { sid: 1, x, y: 0 };
        log.add_input(Seat::from_index(seat), player, command, &[])
            .unwrap();
    }

    /// All batches from `cursor` on: the ids and the sizes of each.
    fn batches(log: &FrameLog, cursor: &mut Cursor, until: FrameId) -> Vec<(Vec<Frame>, usize)> {
        let mut all = Vec::new();
        while cursor.frame < until {
            let mut out = Vec::new();
            log.write_batch(cursor, until, BODY_MAX, &mut out);
            all.push((decode_frames(&out).unwrap(), out.len()));
        }
        all
    }

    fn ids(batch: &(Vec<Frame>, usize)) -> Vec<FrameId> {
        batch.0.iter().map(|frame| frame.id).collect()
    }

    #[test]
    fn empty_frames_are_left_out_except_the_newest() {
        let mut log = FrameLog::new(1);
        for frame in 0..6 {
            if frame == 1 || frame == 3 {
                press(&mut log, 0, frame);
            }
            log.seal();
        }
        let got = batches(&log, &mut Cursor::default(), 6);
        assert_eq!(got.iter().map(ids).collect::<Vec<_>>(), [[1, 3, 5]]);
        // One with input as the newest needs no empty one behind it.
        let got = batches(&log, &mut Cursor::default(), 4);
        assert_eq!(got.iter().map(ids).collect::<Vec<_>>(), [[1, 3]]);
        // Nothing happened at all.
        let mut cursor = Cursor {
            frame: 4,
            ..Cursor::default()
        };
        cursor.offset = log.encoded().len();
        assert_eq!(
            batches(&log, &mut cursor, 6)
                .iter()
                .map(ids)
                .collect::<Vec<_>>(),
            [[5]]
        );
    }

    #[test]
    fn batches_end_at_frames_and_keep_both_bounds() {
        for inputs in [1, 4, 7] {
            let mut log = FrameLog::new(inputs);
            for frame in 0..400 {
                for seat in 0..inputs {
                    press(&mut log, seat, frame);
                }
                log.seal();
            }
            log.seal(); // an empty one at the end
            let got = batches(&log, &mut Cursor::default(), 401);
            let all: Vec<_> = got.iter().flat_map(ids).collect();
            assert_eq!(all, (0..401).collect::<Vec<_>>());
            for batch in &got {
                assert!(batch.1 <= BODY_MAX && batch.0.len() <= FRAMES_PER_MESSAGE_MAX);
            }
            assert!(
                got.iter()
                    .any(|batch| batch.0.len() == FRAMES_PER_MESSAGE_MAX)
                    || inputs > 1
            );
        }
    }

    #[test]
    fn a_frame_over_the_segment_goes_alone() {
        let mut log = FrameLog::new(2);
        press(&mut log, 0, 0);
        log.seal();
        for seat in 0..2 {
            for x in 0..60 {
                press(&mut log, seat, x);
            }
        }
        log.seal();
        press(&mut log, 0, 2);
        log.seal();
        let got = batches(&log, &mut Cursor::default(), 3);
        assert_eq!(got.iter().map(ids).collect::<Vec<_>>(), [[0], [1], [2]]);
        assert!(got[1].1 > BODY_MAX);
        assert_eq!(got[1].0[0].inputs.len(), 120);
    }

    #[test]
    fn the_65th_input_of_a_seat_goes_into_the_next_frame_in_order() {
        let mut log = FrameLog::new(2);
        for x in 0..150 {
            press(&mut log, 0, x);
        }
        press(&mut log, 1, 7);
        assert_eq!(log.seal(), 65, "the other seat is not held up");
        press(&mut log, 0, 150);
        assert_eq!(log.seal(), 64);
        assert_eq!(log.seal(), 23);
        let mut cursor = Cursor::default();
        let frames: Vec<_> = batches(&log, &mut cursor, 3)
            .into_iter()
            .flat_map(|batch| batch.0)
            .collect();
        let of_first: Vec<_> = frames
            .iter()
            .flat_map(|frame| &frame.inputs)
            .filter(|input| input.seat == 1)
            .map(|input| input.command.x)
            .collect();
        assert_eq!(of_first, (0..=150).collect::<Vec<_>>());
    }

    #[test]
    fn a_frame_never_passes_its_bytes_and_nothing_is_lost() {
        let seats = 32;
        let mut log = FrameLog::new(seats);
        for x in 0..64 {
            for seat in 0..seats {
                let player = PlayerId(u64::MAX - seat as u64);
                let command = Command {
                    sid: -1,
                    x: -1 - x,
                    y: -1,
                };
                log.add_input(Seat::from_index(seat), player, command, &[])
                    .unwrap();
            }
        }
        let mut inputs = 0;
        let mut cursor = Cursor::default();
        while inputs < 64 * seats {
            let in_frame = log.seal();
            assert!(in_frame > 0);
            inputs += in_frame;
            let mut out = Vec::new();
            log.write_batch(&mut cursor, log.head(), BODY_MAX, &mut out);
            assert!(out.len() <= FRAME_BYTES_MAX, "{} bytes", out.len());
        }
        assert!(log.head() > 4, "one frame does not hold them");
        assert_eq!(log.seal(), 0);
    }

    #[test]
    fn waiting_inputs_are_bounded_per_seat() {
        let mut log = FrameLog::new(2);
        let most = INPUTS_PER_SEAT_AND_FRAME_MAX + INPUTS_WAITING_PER_SEAT_MAX;
        for x in 0..most {
            press(&mut log, 0, i32::try_from(x).unwrap());
        }
        let command = Command::default();
        let over = log.add_input(Seat::from_index(0), PlayerId(100), command, &[]);
        assert_eq!(over, Err(Drop::InputsWaiting));
        press(&mut log, 1, 0);
    }

    fn press_with(log: &mut FrameLog, x: i32, data: &[u8]) -> Result<(), Drop> {
        let command = Command { sid: 1, x, y: 0 };
        log.add_input(Seat::from_index(0), PlayerId(100), command, data)
    }

    #[test]
    fn data_of_a_seat_beyond_its_frame_goes_into_the_next_ones_in_order() {
        let mut log = FrameLog::new(1);
        for x in 0..5 {
            press_with(&mut log, x, &[7; 500]).unwrap();
        }
        // It has no data, but must not overtake those before it.
        press_with(&mut log, 5, &[]).unwrap();
        assert_eq!(
            [log.seal(), log.seal(), log.seal(), log.seal()],
            [2, 2, 2, 0]
        );
        let frames = decode_frames(log.encoded()).unwrap();
        let inputs: Vec<_> = frames.iter().flat_map(|frame| &frame.inputs).collect();
        assert!(inputs.iter().map(|input| input.command.x).eq(0..6));
        let lens = inputs.iter().map(|input| input.data.len());
        assert!(lens.eq([500, 500, 500, 500, 500, 0]));
    }

    #[test]
    fn data_that_waits_is_bounded_per_seat() {
        let mut log = FrameLog::new(1);
        let data = [0; INPUT_DATA_PER_SEAT_AND_FRAME_MAX];
        for x in 0..9 {
            press_with(&mut log, x, &data).unwrap();
        }
        assert_eq!(press_with(&mut log, 9, &[1]), Err(Drop::InputsWaiting));
        press_with(&mut log, 10, &[]).unwrap();
        log.seal();
        press_with(&mut log, 11, &data).unwrap();
    }

    #[test]
    fn what_is_read_of_any_stretch_is_what_the_log_holds_of_it() {
        let mut log = FrameLog::new(1);
        for frame in 0..300 {
            if frame % 3 == 0 {
                press(&mut log, 0, frame);
            }
            log.seal();
        }
        let all = decode_frames(log.encoded()).unwrap();
        for (from, until) in [(0, 300), (0, 1), (1, 3), (63, 130), (299, 300), (250, 298)] {
            let mut cursor = log.cursor_at(from);
            let mut got = Vec::new();
            while cursor.frame < until {
                let bytes = log.read_batch(&mut cursor, until, 200);
                assert!(bytes.len() <= 200);
                got.extend(decode_frames(bytes).unwrap());
            }
            assert_eq!(cursor.frame, until);
            let is_in = |frame: &&Frame| (from..until).contains(&frame.id);
            assert!(got.iter().eq(all.iter().filter(is_in)), "{from}..{until}");
        }
    }
}
