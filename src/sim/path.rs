//! For how long the oldest segment of one direction of a conversation has been under way.
//!
//! KCP waits half as long again before each retransmission, so the outage that it feels is
//! not only a cut: a segment of which copy after copy is lost holds up all behind it, even
//! while most datagrams arrive. The world reads this from the headers on the wire.

use std::collections::VecDeque;

use crate::engine::time::Time;
use crate::engine::wire::segment::{Cmd, Segments, distance};

/// One direction of a conversation.
#[derive(Debug, Default)]
pub(super) struct Path {
    /// The oldest segment of which the sender does not know that it has arrived.
    una: u32,
    /// When each segment from that one on was sent first.
    sent: VecDeque<Time>,
}

impl Path {
    /// The sender of this direction has sent a datagram.
    pub(super) fn sent(&mut self, now: Time, conv: u32, datagram: &[u8]) {
        for segment in Segments::of_output(datagram) {
            let known = i32::try_from(self.sent.len()).unwrap_or(i32::MAX);
            let is_new = distance(segment.sn, self.una) >= known;
            if segment.conv == conv && segment.cmd == Cmd::Push && is_new {
                self.sent.push_back(now);
            }
        }
    }

    /// The sender of this direction has got a datagram.
    pub(super) fn heard(&mut self, conv: u32, datagram: &[u8]) {
        for segment in Segments::of_output(datagram) {
            while segment.conv == conv && distance(segment.una, self.una) > 0 {
                self.una = self.una.wrapping_add(1);
                self.sent.pop_front();
            }
        }
    }

    /// When the oldest segment that is under way was sent first.
    pub(super) fn waits_since(&self) -> Option<Time> {
        self.sent.front().copied()
    }
}
