//! The pump: what a seat is owed, one packet at a time.
//!
//! Live broadcast and catch-up are the same. A seat has a cursor in the frame log, the
//! room has a broadcast head, and while the seat's link has room and its cursor is behind,
//! the next batch of frames goes out. Batches are cut at frames to fit one segment.
//! Seats that stand at the same place get the same bytes, made once.

use super::frame_log::{Cursor, FrameLog};
use super::id::FrameId;
use super::wire::message::Fetched;
use super::wire::packet;
use super::wire::pb::Id;
use crate::limits::SEGMENT_PAYLOAD_MAX;

/// Bytes that a batch's body may have so that its packet fits one segment.
const BODY_MAX: usize = SEGMENT_PAYLOAD_MAX - packet::HEADER;

/// Bytes of frames that an answer to a request may have for the same.
pub(super) const FETCHED_MAX: usize = BODY_MAX - Fetched::BYTES_MAX;

/// The last batch that was made: from where to where, and its packet.
#[derive(Debug, Default)]
pub(super) struct Broadcast {
    from: Cursor,
    until: FrameId,
    to: Cursor,
    packet: Vec<u8>,
}

impl Broadcast {
    /// The next packet for a seat whose cursor is behind `until`; moves the cursor.
    pub(super) fn packet(&mut self, log: &FrameLog, cursor: &mut Cursor, until: FrameId) -> &[u8] {
        let known = !self.packet.is_empty() && self.from == *cursor && self.until == until;
        if !known {
            self.from = *cursor;
            self.until = until;
            self.to = *cursor;
            self.packet.clear();
            let id = u8::try_from(i32::from(Id::MsgFrame)).expect("the id is 50");
            let to = &mut self.to;
            packet::write(&mut self.packet, id, |out| {
                log.write_batch(to, until, BODY_MAX, out)
            });
        }
        *cursor = self.to;
        &self.packet
    }
}
