//! KCP's segment headers, read in place.
//!
//! ```text
//!  0               4   5   6       8 (bytes, little-endian)
//! +---------------+---+---+-------+
//! |     conv      |cmd|frg|  wnd  |
//! +---------------+---+---+-------+   24 bytes, then `len` bytes of data;
//! |      ts       |      sn       |   a datagram holds one segment or more
//! +---------------+---------------+
//! |      una      |      len      |
//! +---------------+---------------+
//! ```
//!
//! [`Datagram::parse`] is the gate in front of KCP: what passes it cannot make the `kcp`
//! crate panic, truncate a message or read past the end. It knows nothing of a session;
//! what a session may refuse besides is in [`crate::engine::link`].

use crate::engine::drops::Drop;

/// Bytes of a segment's header (`IKCP_OVERHEAD` in ikcp.c).
pub const HEADER: usize = 24;

/// Largest `frg` that may come in: with 128 and more, `kcp` hands over a truncated message.
const FRG_MAX: u8 = 127;

const CONV_AT: usize = 0;
const CMD_AT: usize = 4;
const TS_AT: usize = 8;
const UNA_AT: usize = 16;
const LEN_AT: usize = 20;

/// What a segment is for (`IKCP_CMD_*` in ikcp.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmd {
    /// Data.
    Push,
    /// An acknowledgement of one sequence number.
    Ack,
    /// "Tell me your window."
    Wask,
    /// "My window is."
    Wins,
}

impl Cmd {
    fn from_byte(byte: u8) -> Option<Cmd> {
        match byte {
            81 => Some(Cmd::Push),
            82 => Some(Cmd::Ack),
            83 => Some(Cmd::Wask),
            84 => Some(Cmd::Wins),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Cmd::Push => 81,
            Cmd::Ack => 82,
            Cmd::Wask => 83,
            Cmd::Wins => 84,
        }
    }
}

/// One segment of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The conversation.
    pub conv: u32,
    /// What the segment is for.
    pub cmd: Cmd,
    /// How many fragments of the message follow this one.
    pub frg: u8,
    /// Segments that the sender can still take.
    pub wnd: u16,
    /// When it was sent, by the sender's clock; in an ACK, the time stamp acknowledged.
    pub ts: u32,
    /// Sequence number; in an ACK, the one acknowledged.
    pub sn: u32,
    /// The next sequence number that the sender expects: all before it have arrived.
    pub una: u32,
    /// The payload.
    pub data: &'a [u8],
}

/// A datagram that consists of whole, legal segments of one conversation.
#[derive(Debug)]
pub struct Datagram<'a> {
    bytes: &'a mut [u8],
    /// Bytes up to the end of the last segment; KCP ignores less than a header behind it.
    len: usize,
}

impl<'a> Datagram<'a> {
    /// Checks every segment header once.
    ///
    /// # Errors
    /// The reason for which the whole datagram is dropped.
    pub fn parse(bytes: &'a mut [u8]) -> Result<Datagram<'a>, Drop> {
        let mut at = 0;
        let conv = read_u32(bytes, CONV_AT).ok_or(Drop::Runt)?;
        if bytes.len() < HEADER {
            return Err(Drop::Runt);
        }
        while bytes.len() - at >= HEADER {
            let rest = &bytes[at..];
            if read_u32(rest, CONV_AT) != Some(conv) {
                return Err(Drop::MixedConv);
            }
            if Cmd::from_byte(rest[CMD_AT]).is_none() {
                return Err(Drop::UnknownCommand);
            }
            if rest[5] > FRG_MAX {
                return Err(Drop::FragmentNumber);
            }
            let len = read_u32(rest, LEN_AT).ok_or(Drop::Runt)? as usize;
            if len > rest.len() - HEADER {
                return Err(Drop::SegmentLength);
            }
            at += HEADER + len;
        }
        Ok(Datagram { bytes, len: at })
    }

    /// The segments, in order. There is at least one.
    pub fn segments(&self) -> Segments<'_> {
        Segments {
            rest: &self.bytes[..self.len],
        }
    }

    /// The first segment.
    pub fn first(&self) -> Segment<'_> {
        self.segments()
            .next()
            .expect("parse lets no datagram pass without a segment")
    }

    /// Sets `una` of every segment to 0: "nothing of yours has arrived".
    pub fn clear_una(&mut self) {
        self.map_una(|_| 0);
    }

    /// Exchanges `una` of every segment.
    pub fn map_una(&mut self, map: impl Fn(u32) -> u32) {
        self.edit(|segment, header| {
            header[UNA_AT..UNA_AT + 4].copy_from_slice(&map(segment.una).to_le_bytes());
        });
    }

    /// Makes a WINS, which acknowledges nothing, of every ACK that `keep` does not want.
    pub fn retain_acks(&mut self, keep: impl Fn(&Segment<'_>) -> bool) {
        self.edit(|segment, header| {
            if segment.cmd == Cmd::Ack && !keep(&segment) {
                header[CMD_AT] = Cmd::Wins.byte();
            }
        });
    }

    /// The same with every PUSH, whose data is passed over then. Returns whether there was one.
    pub fn retain_pushes(&mut self, keep: impl Fn(&Segment<'_>) -> bool) -> bool {
        let mut all = true;
        self.edit(|segment, header| {
            if segment.cmd == Cmd::Push && !keep(&segment) {
                header[CMD_AT] = Cmd::Wins.byte();
                all = false;
            }
        });
        !all
    }

    /// Passes every segment and its header, to be changed, to `edit`.
    fn edit(&mut self, mut edit: impl FnMut(Segment<'_>, &mut [u8])) {
        let mut at = 0;
        while at < self.len {
            let (header, rest) = self.bytes[at..self.len].split_at_mut(HEADER);
            let copy: [u8; HEADER] = (&*header).try_into().expect("a header's length");
            let segment = read(&copy, rest).expect("the datagram was checked");
            at += HEADER + segment.data.len();
            edit(segment, header);
        }
    }

    /// Makes acknowledgements of what was sent longer ago than `age_max` look as if it was
    /// sent just then; `clock` is the time by which the stamps were made.
    pub fn shorten_echoes(&mut self, clock: u32, age_max: u32) {
        let oldest = clock.wrapping_sub(age_max);
        self.edit(|segment, header| {
            if segment.cmd == Cmd::Ack && distance(segment.ts, oldest) < 0 {
                header[TS_AT..TS_AT + 4].copy_from_slice(&oldest.to_le_bytes());
            }
        });
    }

    /// The bytes of the segments.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Walks over the segments of bytes that are known to hold whole segments: a checked
/// [`Datagram`], or what KCP itself has written.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    /// The segments of a datagram that KCP has written.
    pub fn of_output(bytes: &'a [u8]) -> Segments<'a> {
        Segments { rest: bytes }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let (header, rest) = self.rest.split_first_chunk::<HEADER>()?;
        let segment = read(header, rest)?;
        self.rest = &rest[segment.data.len()..];
        Some(segment)
    }
}

/// One segment, of its header and what follows it.
fn read<'a>(header: &[u8; HEADER], rest: &'a [u8]) -> Option<Segment<'a>> {
    let len = read_u32(header, LEN_AT)? as usize;
    Some(Segment {
        conv: read_u32(header, CONV_AT)?,
        cmd: Cmd::from_byte(header[CMD_AT])?,
        frg: header[5],
        wnd: u16::from_le_bytes([header[6], header[7]]),
        ts: read_u32(header, TS_AT)?,
        sn: read_u32(header, 12)?,
        una: read_u32(header, UNA_AT)?,
        data: rest.get(..len)?,
    })
}

/// Appends one segment.
pub fn write(out: &mut Vec<u8>, segment: &Segment<'_>) {
    let len = u32::try_from(segment.data.len()).expect("a segment fits a datagram");
    out.extend_from_slice(&segment.conv.to_le_bytes());
    out.extend_from_slice(&[segment.cmd.byte(), segment.frg]);
    out.extend_from_slice(&segment.wnd.to_le_bytes());
    for field in [segment.ts, segment.sn, segment.una, len] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(segment.data);
}

/// Stamps the first segment of a datagram anew.
pub fn set_ts(datagram: &mut [u8], ts: u32) {
    datagram[TS_AT..TS_AT + 4].copy_from_slice(&ts.to_le_bytes());
}

/// Takes the acknowledgements out of a datagram that KCP has written: ACK segments go, and
/// `una` becomes 0. Returns the length that is left, 0 if nothing is.
pub fn strip_acknowledgements(datagram: &mut [u8]) -> usize {
    let mut read = 0;
    let mut write = 0;
    while datagram.len() - read >= HEADER {
        let len = read_u32(&datagram[read..], LEN_AT).unwrap_or(0) as usize;
        let end = (read + HEADER + len).min(datagram.len());
        if Cmd::from_byte(datagram[read + CMD_AT]) != Some(Cmd::Ack) {
            datagram.copy_within(read..end, write);
            datagram[write + UNA_AT..write + UNA_AT + 4].fill(0);
            write += end - read;
        }
        read = end;
    }
    write
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(field.try_into().expect("four bytes")))
}

/// `a - b` as KCP counts: sequence numbers and time stamps run modulo 2^32.
pub fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(cmd: u8, frg: u8, sn: u32, una: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = 7u32.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[cmd, frg, 32, 0]);
        bytes.extend_from_slice(&11u32.to_le_bytes());
        bytes.extend_from_slice(&sn.to_le_bytes());
        bytes.extend_from_slice(&una.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn every_field_is_read_from_its_place() {
        let mut bytes = segment(81, 3, 5, 9, b"abc");
        bytes.extend(segment(82, 0, 6, 10, b""));
        let datagram = Datagram::parse(&mut bytes).unwrap();
        let all: Vec<_> = datagram.segments().collect();
        assert_eq!(all.len(), 2);
        let first = &all[0];
        assert_eq!(
            (first.conv, first.cmd, first.frg, first.wnd),
            (7, Cmd::Push, 3, 32)
        );
        assert_eq!(
            (first.ts, first.sn, first.una, first.data),
            (11, 5, 9, &b"abc"[..])
        );
        assert_eq!((all[1].cmd, all[1].sn, all[1].una), (Cmd::Ack, 6, 10));
    }

    #[test]
    fn what_kcp_would_choke_on_is_refused_with_its_reason() {
        let parse = |mut bytes: Vec<u8>| Datagram::parse(&mut bytes).map(|_| ()).unwrap_err();
        assert_eq!(parse(vec![]), Drop::Runt);
        assert_eq!(parse(vec![0; 23]), Drop::Runt);
        assert_eq!(parse(segment(80, 0, 0, 0, b"")), Drop::UnknownCommand);
        assert_eq!(parse(segment(81, 128, 0, 0, b"")), Drop::FragmentNumber);
        let mut long = segment(81, 0, 0, 0, b"abc");
        long.pop();
        assert_eq!(parse(long), Drop::SegmentLength);
        let mut mixed = segment(81, 0, 0, 0, b"");
        let mut other = segment(81, 0, 0, 0, b"");
        other[0] = 8;
        mixed.extend(other);
        assert_eq!(parse(mixed), Drop::MixedConv);
    }

    #[test]
    fn less_than_a_header_at_the_end_is_ignored_as_kcp_does() {
        let mut bytes = segment(81, 0, 0, 0, b"abc");
        bytes.extend([1; 23]);
        assert_eq!(
            Datagram::parse(&mut bytes).unwrap().bytes().len(),
            HEADER + 3
        );
    }

    #[test]
    fn una_is_cleared_in_every_segment_and_nothing_else_changes() {
        let mut bytes = segment(81, 0, 1, 9, b"abc");
        bytes.extend(segment(84, 0, 0, 9, b""));
        let mut expected = segment(81, 0, 1, 0, b"abc");
        expected.extend(segment(84, 0, 0, 0, b""));
        Datagram::parse(&mut bytes).unwrap().clear_una();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn echoes_that_are_too_old_are_shortened_and_nothing_else_changes() {
        let stamped = |cmd, ts: u32| {
            let mut bytes = segment(cmd, 0, 1, 9, b"abc");
            bytes[TS_AT..TS_AT + 4].copy_from_slice(&ts.to_le_bytes());
            bytes
        };
        // The clock has just wrapped.
        let (clock, oldest) = (400, u32::MAX - 599);
        let mut bytes = [stamped(82, oldest - 1), stamped(81, 7), stamped(82, oldest)].concat();
        bytes.extend(stamped(82, 399));
        let mut expected = [stamped(82, oldest), stamped(81, 7), stamped(82, oldest)].concat();
        expected.extend(stamped(82, 399));
        let mut datagram = Datagram::parse(&mut bytes).unwrap();
        datagram.shorten_echoes(clock, 1000);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn stripping_leaves_data_that_acknowledges_nothing() {
        let mut bytes = segment(82, 0, 1, 9, b"");
        bytes.extend(segment(81, 0, 0, 9, b"abc"));
        let left = strip_acknowledgements(&mut bytes);
        assert_eq!(&bytes[..left], &segment(81, 0, 0, 0, b"abc")[..]);

        let mut only_acks = segment(82, 0, 1, 9, b"");
        assert_eq!(strip_acknowledgements(&mut only_acks), 0);
    }

    #[test]
    fn what_is_written_reads_back() {
        let written = Segment {
            conv: 5,
            cmd: Cmd::Push,
            frg: 2,
            wnd: 256,
            ts: 77,
            sn: 3,
            una: 4,
            data: b"abc",
        };
        let mut bytes = Vec::new();
        write(&mut bytes, &written);
        set_ts(&mut bytes, 78);
        let datagram = Datagram::parse(&mut bytes).unwrap();
        let read = datagram.first();
        let stamped = Segment { ts: 78, ..written };
        assert_eq!(format!("{read:?}"), format!("{stamped:?}"));
    }

    #[test]
    fn distances_wrap() {
        assert_eq!(distance(1, u32::MAX), 2);
        assert_eq!(distance(u32::MAX, 1), -2);
    }
}
