//! For how long the oldest segment of one direction of a conversation has been under way.
//!
//! KCP waits half as long again before each retransmission, so the outage that it feels is
//! not only a cut: a segment of which copy after copy is lost holds up all behind it, even
//! while most datagrams arrive. The world reads this from the headers on the wire.
//!
//! From the same headers it is known what a forged acknowledgement hits.

use std::collections::VecDeque;

use crate::engine::time::Time;
use crate::engine::wire::segment::{Cmd, Segment, Segments, distance};

/// Segments by which a sender may be ahead of what has left it: it counts as sent what was
/// held back at the last moment. Its own bounds on what waits are lower.
const HELD_BACK_MAX: i32 = 1024;
/// The same at the end of a life: what waits is frames alone.
const PAST_HELD_BACK_MAX: u32 = 8;
/// Age in ms up to which the echo of a time stamp is believed (the contract).
const ECHO_AGE_MAX_MS: i32 = 60_000;

/// One direction of a conversation.
#[derive(Debug, Default)]
pub(super) struct Path {
    /// The oldest segment of which the sender does not know that it has arrived.
    una: u32,
    /// When each segment from that one on was sent first.
    sent: VecDeque<Time>,
    /// What the sender's clocks showed at [`Time::ZERO`], in ms: one for each of its attempts
    /// at this conversation.
    clocks: Vec<u32>,
    /// Numbers under this one may have been taken in an earlier life of the conversation.
    past: u32,
}

/// A moment as KCP counts it: in ms, modulo 2^32.
fn ms(now: Time) -> u32 {
    u32::try_from(now.as_millis()).expect("a world is short")
}

impl Path {
    /// The sender of this direction has sent a datagram.
    pub(super) fn sent(&mut self, now: Time, conv: u32, datagram: &[u8]) {
        for segment in Segments::of_output(datagram) {
            let known = i32::try_from(self.sent.len()).unwrap_or(i32::MAX);
            let is_new = distance(segment.sn, self.una) >= known;
            if segment.conv != conv || segment.cmd != Cmd::Push {
                continue;
            }
            if is_new {
                self.sent.push_back(now);
            }
            let clock = segment.ts.wrapping_sub(ms(now));
            if !self.clocks.contains(&clock) {
                self.clocks.push(clock);
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

    /// The same conversation after one of its ends was started again.
    pub(super) fn of_the_next_life(&self) -> Path {
        let past = self.next() + PAST_HELD_BACK_MAX;
        Path {
            past: past.max(self.past),
            ..Path::default()
        }
    }

    /// The next sequence number that the sender would use, as far as it is known.
    pub(super) fn next(&self) -> u32 {
        let sent = u32::try_from(self.sent.len()).expect("a window is small");
        self.una.wrapping_add(sent)
    }

    /// The oldest segment of which the sender does not know that it has arrived.
    pub(super) fn una(&self) -> u32 {
        self.una
    }

    /// What the sender's newest clock shows.
    pub(super) fn clock(&self, now: Time) -> Option<u32> {
        Some(self.clocks.last()?.wrapping_add(ms(now)))
    }

    /// Whether something that the sender of this direction hears, and that its peer has not
    /// said, may do this conversation harm. It must not if
    ///
    /// - it is of another conversation;
    /// - it acknowledges what was never sent: such a datagram is dropped whole;
    /// - an ACK of it echoes a time stamp that is not of the sender's clock's last minute:
    ///   the same;
    /// - or it acknowledges only what is known to have arrived.
    ///
    /// What remains takes a segment for delivered that may not be: KCP has no key. In another
    /// life of a conversation the echoes of the life before are believed to be just that,
    /// until the peer has what it could mistake for them.
    pub(super) fn is_hit(&self, now: Time, conv: u32, datagram: &[u8]) -> bool {
        let mut hit = false;
        for segment in Segments::of_output(datagram) {
            let ahead = |sn| distance(sn, self.next()) > HELD_BACK_MAX;
            if segment.conv != conv || ahead(segment.una) {
                return false;
            }
            hit |= distance(segment.una, self.una) > 0;
            match segment.cmd {
                Cmd::Ack if ahead(segment.sn) || !self.is_of_the_last_minute(now, segment.ts) => {
                    if distance(self.past, self.una) <= 0 {
                        return false;
                    }
                }
                Cmd::Ack => hit |= distance(segment.sn, self.una) >= 0,
                Cmd::Push | Cmd::Wask | Cmd::Wins => {}
            }
        }
        hit
    }

    /// Whether a true copy of something that the peer has said may be taken for the beginning
    /// of another life of it: its first data, as long as the peer has no more than our first
    /// answer. A client that was started again looks the same.
    pub(super) fn is_mistaken_for_another_life(&self, datagram: &[u8]) -> bool {
        let begins = |segment: Segment<'_>| segment.cmd == Cmd::Push && segment.sn == 0;
        self.una <= 1 && Segments::of_output(datagram).any(begins)
    }

    fn is_of_the_last_minute(&self, now: Time, ts: u32) -> bool {
        self.clocks.iter().any(|clock| {
            let age = distance(clock.wrapping_add(ms(now)), ts);
            (0..=ECHO_AGE_MAX_MS).contains(&age)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire::segment::write;

    const CONV: u32 = 7;
    const CLOCK: u32 = u32::MAX - 100;

    fn datagram(cmd: Cmd, sn: u32, una: u32, ts: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let segment = Segment {
            conv: CONV,
            cmd,
            frg: 0,
            wnd: 32,
            ts,
            sn,
            una,
            data: &[],
        };
        write(&mut bytes, &segment);
        bytes
    }

    #[test]
    fn only_what_names_segments_under_way_by_their_clock_can_hit() {
        let mut path = Path::default();
        for sn in 0..8u32 {
            let at = Time::from_millis(u64::from(sn) * 10);
            let ts = CLOCK.wrapping_add(sn * 10);
            path.sent(at, CONV, &datagram(Cmd::Push, sn, 0, ts));
        }
        path.heard(CONV, &datagram(Cmd::Wins, 0, 3, 0));
        assert_eq!((path.una(), path.next()), (3, 8));
        let now = Time::from_millis(90);
        let clock = path.clock(now).unwrap();
        assert_eq!(clock, CLOCK.wrapping_add(90));
        let hits = |bytes: &[u8]| path.is_hit(now, CONV, bytes);
        // By `una`: between what is known to have arrived and what was sent.
        assert!(!hits(&datagram(Cmd::Wins, 0, 3, 0)));
        assert!(hits(&datagram(Cmd::Wins, 0, 4, 0)));
        assert!(hits(&datagram(Cmd::Wins, 0, 8, 0)));
        assert!(!hits(&datagram(Cmd::Wins, 0, 8 + 1025, 0)));
        // By an ACK: one of these, by a time stamp that may have been sent.
        assert!(hits(&datagram(Cmd::Ack, 3, 0, clock)));
        assert!(!hits(&datagram(Cmd::Ack, 2, 0, clock)));
        assert!(!hits(&datagram(Cmd::Ack, 3, 4, clock.wrapping_add(1))));
        assert!(!hits(&datagram(Cmd::Ack, 3, 4, clock.wrapping_sub(60_001))));
        // Another conversation.
        assert!(!path.is_hit(now, CONV + 1, &datagram(Cmd::Wins, 0, 8, 0)));
    }

    #[test]
    fn a_first_datagram_is_ambiguous_until_more_than_its_answer_has_arrived() {
        let mut path = Path::default();
        let (first, second) = (datagram(Cmd::Push, 0, 0, 0), datagram(Cmd::Push, 1, 0, 0));
        path.heard(CONV, &datagram(Cmd::Wins, 0, 1, 0));
        assert!(path.is_mistaken_for_another_life(&first));
        assert!(!path.is_mistaken_for_another_life(&second));
        path.heard(CONV, &datagram(Cmd::Wins, 0, 2, 0));
        assert!(!path.is_mistaken_for_another_life(&first));
    }
}
