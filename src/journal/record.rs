//! The records of the journal as bytes, and the header of a file of them.
//!
//! ```text
//!   file:    | header: 36 bytes | the same again | record | record | ...
//!
//!   header:   0       8         10      12       20            28     32      36
//!             | magic | version | flags | number | created, us | salt | crc32 |
//!
//!   record:   0      1      2        4            8       16           20             24
//!             | 0xF5 | kind | length | seq number | match | crc32 body | crc32 header | body |
//! ```
//!
//! Numbers of a fixed size are little-endian. Inside a body they are varints as in protobuf, signed
//! ones zigzag. A checksum is the CRC-32 of zlib and PNG, begun at the file's salt; the header's
//! covers the 20 bytes before it.
//!
//! Why it is like this:
//!
//! - Two checksums, so that a damaged body is passed over by the length of a header that is
//!   whole, and has an owner: match and sequence number are in the header.
//! - A layout of our own instead of protobuf messages: nearly all records are frames, and a frame
//!   is already the field of an `S2C_FrameMsg` that clients get, so its body is copied as it is.
//!   The others may grow at their end: a reader passes over what it does not know.
//! - The salt is drawn anew at each start. Players send bytes of their choice, which lie in bodies;
//!   without the salt somebody could send a whole record, to be found by a scan that has lost
//!   its way. A recording that is given away has the salt 0.
//! - The header stands there twice, since without its salt nothing else can be read.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use prost::encoding::{decode_varint, encode_varint};
use thiserror::Error;

use crate::engine::auth::RoomSecret;
use crate::engine::id::{FrameId, MatchId, PlayerId, RoomId, Seat};
use crate::engine::room::Rules;
use crate::engine::view::OverReason;
use crate::limits::{
    BROADCAST_EVERY_RANGE, FRAMES_RANGE, HZ_RANGE, INPUT_DATA_RANGE, JOURNAL_BODY_MAX,
    PLAYERS_PER_ROOM_RANGE, WATCH_DELAY_RANGE, WATCHERS_RANGE,
};

/// Bytes of one header of a file.
pub const FILE_HEADER: usize = 36;

/// Where the first record begins, behind both headers.
pub const FIRST_RECORD: usize = 2 * FILE_HEADER;

/// Bytes of a record's header.
pub const RECORD_HEADER: usize = 24;

/// What a file begins with. As in PNG: a byte that is no text, and line ends that a careless
/// copy would change.
const MAGIC: [u8; 8] = *b"\x89LKJ\r\n\x1a\n";

/// The version of the format that is written and read.
pub const VERSION: u16 = 1;

/// A flag of a file: it tells by marks how far it is on the disk.
const HAS_MARKS: u16 = 1;

/// What a record begins with.
pub(super) const RECORD_MARK: u8 = 0xF5;

/// Seats in a room, at the most.
const SEATS_MAX: usize = *PLAYERS_PER_ROOM_RANGE.end();

// --- The header of a file -----------------------------------------------------------------

/// The header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The number of the segment, from 1 on; 0 in a recording.
    pub number: u64,
    /// When the file was made, in Unix microseconds.
    pub created_unix_us: i64,
    /// Where its checksums begin.
    pub salt: u32,
    /// Whether marks tell how far the file is on the disk: not if it is never synced.
    pub has_marks: bool,
}

/// Why the header of a file was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// It is no header, or a damaged one.
    Damaged,
    /// It is whole, and of a version that came later.
    Version(u16),
}

impl FileHeader {
    /// Appends the header, twice.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut header = [0; FILE_HEADER];
        let flags = if self.has_marks { HAS_MARKS } else { 0 };
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10..12].copy_from_slice(&flags.to_le_bytes());
        header[12..20].copy_from_slice(&self.number.to_le_bytes());
        header[20..28].copy_from_slice(&self.created_unix_us.to_le_bytes());
        header[28..32].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32(0, &header[..32]);
        header[32..].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&header);
    }

    /// Reads one of the two.
    pub(super) fn decode(bytes: &[u8]) -> Result<FileHeader, BadHeader> {
        let header = bytes
            .first_chunk::<FILE_HEADER>()
            .ok_or(BadHeader::Damaged)?;
        if header[..8] != MAGIC || crc32(0, &header[..32]) != u32_at(header, 32) {
            return Err(BadHeader::Damaged);
        }
        let version = u16_at(header, 8);
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        Ok(FileHeader {
            number: u64_at(header, 12),
            created_unix_us: u64_at(header, 20).cast_signed(),
            salt: u32_at(header, 28),
            has_marks: u16_at(header, 10) & HAS_MARKS != 0,
        })
    }
}

// --- The header of a record ---------------------------------------------------------------

/// The header of a record that is whole. What its body is worth is another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What kind of record it is.
    pub kind: u8,
    /// Bytes of its body.
    pub len: u16,
    /// Its number in the match, from 1 on; 0 in a mark.
    pub seq: u32,
    /// Whose record it is; 0 in a mark.
    pub match_id: MatchId,
    body_crc: u32,
}

impl Header {
    /// The header that `bytes` begin with; `None` if there is none that is whole.
    pub(super) fn decode(salt: u32, bytes: &[u8]) -> Option<Header> {
        let header = bytes.first_chunk::<RECORD_HEADER>()?;
        if header[0] != RECORD_MARK || crc32(salt, &header[..20]) != u32_at(header, 20) {
            return None;
        }
        Some(Header {
            kind: header[1],
            len: u16_at(header, 2),
            seq: u32_at(header, 4),
            match_id: MatchId(u64_at(header, 8)),
            body_crc: u32_at(header, 16),
        })
    }

    fn encode(&self, salt: u32) -> [u8; RECORD_HEADER] {
        let mut header = [0; RECORD_HEADER];
        header[0] = RECORD_MARK;
        header[1] = self.kind;
        header[2..4].copy_from_slice(&self.len.to_le_bytes());
        header[4..8].copy_from_slice(&self.seq.to_le_bytes());
        header[8..16].copy_from_slice(&self.match_id.0.to_le_bytes());
        header[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32(salt, &header[..20]);
        header[20..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Bytes of the record with its body.
    pub(super) fn record_len(&self) -> usize {
        RECORD_HEADER + usize::from(self.len)
    }

    /// Whether this is the body that was written with the header.
    pub(super) fn owns(&self, salt: u32, body: &[u8]) -> bool {
        crc32(salt, body) == self.body_crc
    }
}

fn crc32(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

// --- Records ------------------------------------------------------------------------------

/// What a record says. The bytes of a frame are borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The match begins to be. Its number is 1; a second one begins the match anew, and all that
    /// was said of it before is void.
    Created(Box<Created>),
    /// A session has taken the seat.
    Joined {
        /// Which.
        seat: Seat,
        /// When, in Unix microseconds.
        unix_us: i64,
    },
    /// The first frame is open.
    Started {
        /// The stamp of Start, in Unix seconds.
        unix_seconds: i64,
    },
    /// A frame with input is sealed.
    Frame(FrameBytes<'a>),
    /// All frames before this one are sealed; those without a record have no input. Written when
    /// an empty frame is broadcast, so that no client knows a frame that the journal does not.
    Head(FrameId),
    /// What the player at a seat says of the end. A later one of the same seat replaces it.
    Result {
        /// Which seat.
        seat: Seat,
        /// Who has won.
        winner: u64,
    },
    /// The match has ended. Of it only late results follow.
    Over {
        /// Why.
        reason: OverReason,
        /// How many frames it had.
        frames: FrameId,
    },
    /// The match goes on after a restart of the server or a failure of the disk: how it stands.
    /// What was said of it under this record's number and later ones is void.
    Resumed(Resumed),
    /// Of no match: how far the journal was on the disk when this was written.
    Mark(Place),
}

/// The kind of each record, as it stands in its header.
mod kind {
    pub(super) const CREATED: u8 = 1;
    pub(super) const JOINED: u8 = 2;
    pub(super) const STARTED: u8 = 3;
    pub(super) const FRAME: u8 = 4;
    pub(super) const HEAD: u8 = 5;
    pub(super) const RESULT: u8 = 6;
    pub(super) const OVER: u8 = 7;
    pub(super) const RESUMED: u8 = 8;
    pub(super) const MARK: u8 = 9;
}

/// Whether a record of this kind belongs to a match.
pub(super) fn is_of_a_match(kind: u8) -> bool {
    kind != kind::MARK
}

/// A place in the journal. Places ascend as they were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The number of the segment, from 1 on.
    pub segment: u64,
    /// Bytes from the beginning of its file.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = segment_name(self.segment);
        write!(f, "{name} at byte {}", self.offset)
    }
}

/// The name of a segment's file.
pub fn segment_name(number: u64) -> String {
    format!("journal-{number:010}.lkj")
}

/// The number in the name of a segment's file; `None` if it is none.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("journal-")?.strip_suffix(".lkj")?;
    let number = digits.parse().ok()?;
    // Only the one spelling: two names must not mean one segment.
    (segment_name(number) == name).then_some(number)
}

/// Of what a room is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The room's number.
    pub room: RoomId,
    /// When, in Unix microseconds.
    pub created_unix_us: i64,
    /// The seed that all clients get.
    pub seed: i32,
    /// Frames per second, within [`HZ_RANGE`].
    pub hz: u32,
    /// Frames between two broadcasts of an idle match, within [`BROADCAST_EVERY_RANGE`].
    pub broadcast_every: u32,
    /// Frames after which it is over, within [`FRAMES_RANGE`].
    pub max_frames: u32,
    /// Time that it waits for absent members, in whole microseconds.
    pub ready_timeout: Duration,
    /// Age at which it is over, in whole microseconds.
    pub room_timeout: Duration,
    /// Time for which it runs on with everybody offline, in whole microseconds.
    pub reconnect_grace: Duration,
    /// Lets its players in; `None` in a recording, which is given to others.
    pub secret: Option<RoomSecret>,
    /// Its players in the order of their seats, none twice.
    pub members: Vec<PlayerId>,
    /// Bytes of data that an input may have, within [`INPUT_DATA_RANGE`]. A server that knew no
    /// data has left it out: 0.
    pub input_bytes_max: u32,
    /// Spectators that it lets in, within [`WATCHERS_RANGE`]; 0 where a record does not say.
    pub watchers_max: u32,
    /// Frames that are held back from them, within [`WATCH_DELAY_RANGE`]; the same.
    pub watch_delay: u32,
}

impl Created {
    /// The record of a new room.
    pub fn of(rules: &Rules, created_unix_us: i64) -> Created {
        // Taken apart whole: a rule that is added must be thought of here.
        let Rules {
            room,
            match_id: _,
            members,
            seed,
            hz,
            broadcast_every,
            max_frames,
            input_bytes_max,
            ready_timeout,
            room_timeout,
            reconnect_grace,
            secret,
            watchers_max,
            watch_delay,
        } = rules;
        Created {
            room: *room,
            created_unix_us,
            seed: *seed,
            hz: *hz,
            broadcast_every: *broadcast_every,
            max_frames: *max_frames,
            ready_timeout: *ready_timeout,
            room_timeout: *room_timeout,
            reconnect_grace: *reconnect_grace,
            secret: Some(*secret),
            members: members.clone(),
            input_bytes_max: *input_bytes_max,
            watchers_max: *watchers_max,
            watch_delay: *watch_delay,
        }
    }

    /// The rules of the room; `None` without its secret.
    pub fn rules(&self, match_id: MatchId) -> Option<Rules> {
        Some(Rules {
            room: self.room,
            match_id,
            members: self.members.clone(),
            seed: self.seed,
            hz: self.hz,
            broadcast_every: self.broadcast_every,
            max_frames: self.max_frames,
            input_bytes_max: self.input_bytes_max,
            ready_timeout: self.ready_timeout,
            room_timeout: self.room_timeout,
            reconnect_grace: self.reconnect_grace,
            secret: self.secret?,
            watchers_max: self.watchers_max,
            watch_delay: self.watch_delay,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_varint(self.room.0, out);
        encode_signed(self.created_unix_us, out);
        encode_signed(i64::from(self.seed), out);
        encode_varint(u64::from(self.hz), out);
        encode_varint(u64::from(self.broadcast_every), out);
        encode_varint(u64::from(self.max_frames), out);
        for time in [self.ready_timeout, self.room_timeout, self.reconnect_grace] {
            encode_varint(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), out);
        }
        encode_varint(u64::from(self.secret.is_some()), out);
        if let Some(secret) = self.secret {
            out.extend_from_slice(&secret.to_bytes());
        }
        encode_varint(self.members.len() as u64, out);
        for member in &self.members {
            encode_varint(member.0, out);
        }
        encode_varint(u64::from(self.input_bytes_max), out);
        encode_varint(u64::from(self.watchers_max), out);
        encode_varint(u64::from(self.watch_delay), out);
    }

    fn decode(body: &mut Body<'_>) -> Result<Created, BadBody> {
        let room = RoomId(body.varint()?);
        let created_unix_us = body.signed()?;
        let seed = i32::try_from(body.signed()?).map_err(|_| BadBody("seed"))?;
        let hz = body.within(&HZ_RANGE, "hz")?;
        let broadcast_every = body.within(&BROADCAST_EVERY_RANGE, "broadcast_every")?;
        let max_frames = body.within(&FRAMES_RANGE, "max_frames")?;
        let mut time = || body.varint().map(Duration::from_micros);
        let (ready_timeout, room_timeout, reconnect_grace) = (time()?, time()?, time()?);
        let secret = match body.varint()? {
            0 => None,
            1 => Some(RoomSecret::from_bytes(*body.bytes()?)),
            _ => return Err(BadBody("secret")),
        };
        let count = usize::try_from(body.varint()?).unwrap_or(usize::MAX);
        if !PLAYERS_PER_ROOM_RANGE.contains(&count) {
            return Err(BadBody("members"));
        }
        let members: Vec<PlayerId> = (0..count)
            .map(|_| body.varint().map(PlayerId))
            .collect::<Result<_, _>>()?;
        let mut sorted = members.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(BadBody("members"));
        }
        let input_bytes_max = if body.0.is_empty() {
            0
        } else {
            body.within(&INPUT_DATA_RANGE, "input_bytes")?
        };
        Ok(Created {
            room,
            created_unix_us,
            seed,
            hz,
            broadcast_every,
            max_frames,
            ready_timeout,
            room_timeout,
            reconnect_grace,
            secret,
            members,
            input_bytes_max,
            watchers_max: body.added(&WATCHERS_RANGE, 0, "watchers")?,
            watch_delay: body.added(&WATCH_DELAY_RANGE, 0, "watch delay")?,
        })
    }
}

/// How a match stands when it goes on, but for its frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// The stamp of Start, in Unix seconds; `None` if it still waits.
    pub started_unix: Option<i64>,
    /// The next unsealed frame. Frames before it stand in the journal, or have no input.
    pub head: FrameId,
    /// Results by seat, without those that have none, in the order of seats.
    pub results: Vec<(Seat, u64)>,
    /// Which history its frames are of: 0, or a number of the start of the server that wrote this.
    pub history: u32,
}

impl Resumed {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_varint(u64::from(self.started_unix.is_some()), out);
        encode_signed(self.started_unix.unwrap_or(0), out);
        encode_varint(u64::from(self.head), out);
        encode_varint(self.results.len() as u64, out);
        for (seat, winner) in &self.results {
            encode_varint(seat.index() as u64, out);
            encode_varint(*winner, out);
        }
        encode_varint(u64::from(self.history), out);
    }

    fn decode(body: &mut Body<'_>) -> Result<Resumed, BadBody> {
        let started = body.varint()? != 0;
        let unix = body.signed()?;
        let head = body.frame_id()?;
        let count = body.varint()?;
        if count > SEATS_MAX as u64 {
            return Err(BadBody("results"));
        }
        let results = (0..count)
            .map(|_| Ok((body.seat()?, body.varint()?)))
            .collect::<Result<_, _>>()?;
        let history = u32::try_from(body.varint()?).map_err(|_| BadBody("history"))?;
        Ok(Resumed {
            started_unix: started.then_some(unix),
            head,
            results,
            history,
        })
    }
}

/// A frame with input, as a field of an `S2C_FrameMsg`: what [`crate::engine::frame_log`] keeps
/// of it. Only its id has been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameBytes<'a> {
    id: FrameId,
    bytes: &'a [u8],
}

impl<'a> FrameBytes<'a> {
    /// The frame that is all of `bytes`; `None` if they are not one frame with its id first.
    pub fn new(bytes: &'a [u8]) -> Option<FrameBytes<'a>> {
        FrameBytes::split(bytes)
            .filter(|(_, rest)| rest.is_empty())
            .map(|(frame, _)| frame)
    }

    /// The first of some frames that stand one after another, and what stands behind it.
    pub fn split(bytes: &'a [u8]) -> Option<(FrameBytes<'a>, &'a [u8])> {
        // The tags of `frames` in S2C_FrameMsg and of `frameID` in FrameData.
        let mut rest = bytes.strip_prefix(&[0x0A])?;
        let len = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        let (data, behind) = rest.split_at_checked(len)?;
        let mut id = data.strip_prefix(&[0x08])?;
        let id = FrameId::try_from(decode_varint(&mut id).ok()?).ok()?;
        let bytes = &bytes[..bytes.len() - behind.len()];
        Some((FrameBytes { id, bytes }, behind))
    }

    /// Its number.
    pub fn id(&self) -> FrameId {
        self.id
    }

    /// Its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// A body is whole, and yet no record: what in it cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} cannot be what it says")]
pub struct BadBody(pub(super) &'static str);

impl<'a> Record<'a> {
    /// What stands in the header for it.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Record::Created(_) => kind::CREATED,
            Record::Joined { .. } => kind::JOINED,
            Record::Started { .. } => kind::STARTED,
            Record::Frame(_) => kind::FRAME,
            Record::Head(_) => kind::HEAD,
            Record::Result { .. } => kind::RESULT,
            Record::Over { .. } => kind::OVER,
            Record::Resumed(_) => kind::RESUMED,
            Record::Mark(_) => kind::MARK,
        }
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Record::Created(created) => created.encode(out),
            Record::Joined { seat, unix_us } => {
                encode_varint(seat.index() as u64, out);
                encode_signed(*unix_us, out);
            }
            Record::Started { unix_seconds } => encode_signed(*unix_seconds, out),
            Record::Frame(frame) => out.extend_from_slice(frame.bytes),
            Record::Head(head) => encode_varint(u64::from(*head), out),
            Record::Result { seat, winner } => {
                encode_varint(seat.index() as u64, out);
                encode_varint(*winner, out);
            }
            Record::Over { reason, frames } => {
                encode_varint(u64::from(reason_code(*reason)), out);
                encode_varint(u64::from(*frames), out);
            }
            Record::Resumed(resumed) => resumed.encode(out),
            Record::Mark(place) => {
                encode_varint(place.segment, out);
                encode_varint(place.offset, out);
            }
        }
    }

    /// Reads a body. What stands behind the fields that are known is passed over.
    pub(super) fn decode(kind: u8, body: &'a [u8]) -> Result<Record<'a>, BadBody> {
        let mut fields = Body(body);
        let body = &mut fields;
        Ok(match kind {
            kind::CREATED => Record::Created(Box::new(Created::decode(body)?)),
            kind::JOINED => Record::Joined {
                seat: body.seat()?,
                unix_us: body.signed()?,
            },
            kind::STARTED => Record::Started {
                unix_seconds: body.signed()?,
            },
            kind::FRAME => Record::Frame(FrameBytes::new(body.0).ok_or(BadBody("frame"))?),
            kind::HEAD => Record::Head(body.frame_id()?),
            kind::RESULT => Record::Result {
                seat: body.seat()?,
                winner: body.varint()?,
            },
            kind::OVER => Record::Over {
                reason: reason_of(body.varint()?).ok_or(BadBody("reason"))?,
                frames: body.frame_id()?,
            },
            kind::RESUMED => Record::Resumed(Resumed::decode(body)?),
            kind::MARK => Record::Mark(Place {
                segment: body.varint()?,
                offset: body.varint()?,
            }),
            _ => return Err(BadBody("kind")),
        })
    }
}

/// What is left of a body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn varint(&mut self) -> Result<u64, BadBody> {
        decode_varint(&mut self.0).map_err(|_| BadBody("length"))
    }

    fn signed(&mut self) -> Result<i64, BadBody> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    fn bytes<const N: usize>(&mut self) -> Result<&'a [u8; N], BadBody> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(BadBody("length"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn within(&mut self, range: &RangeInclusive<u32>, what: &'static str) -> Result<u32, BadBody> {
        let value = u32::try_from(self.varint()?).map_err(|_| BadBody(what))?;
        Some(value)
            .filter(|value| range.contains(value))
            .ok_or(BadBody(what))
    }

    /// As [`Body::within`], of a field that was appended later: where a body ends before it, it
    /// is what it was before there was such a field.
    fn added(
        &mut self,
        range: &RangeInclusive<u32>,
        before: u32,
        what: &'static str,
    ) -> Result<u32, BadBody> {
        if self.0.is_empty() {
            return Ok(before);
        }
        self.within(range, what)
    }

    fn frame_id(&mut self) -> Result<FrameId, BadBody> {
        self.within(&(0..=*FRAMES_RANGE.end()), "frame")
    }

    fn seat(&mut self) -> Result<Seat, BadBody> {
        let index = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        if index >= SEATS_MAX {
            return Err(BadBody("seat"));
        }
        Ok(Seat::from_index(index))
    }
}

fn encode_signed(value: i64, out: &mut Vec<u8>) {
    encode_varint(((value << 1) ^ (value >> 63)).cast_unsigned(), out);
}

/// Each reason and its code, which never changes.
const REASONS: [OverReason; 7] = [
    OverReason::Results,
    OverReason::MaxFrames,
    OverReason::RoomTimeout,
    OverReason::Abandoned,
    OverReason::Closed,
    OverReason::Stopping,
    OverReason::Failed,
];

fn reason_code(reason: OverReason) -> u8 {
    match reason {
        OverReason::Results => 0,
        OverReason::MaxFrames => 1,
        OverReason::RoomTimeout => 2,
        OverReason::Abandoned => 3,
        OverReason::Closed => 4,
        OverReason::Stopping => 5,
        OverReason::Failed => 6,
    }
}

fn reason_of(code: u64) -> Option<OverReason> {
    let index = usize::try_from(code).ok()?;
    REASONS.get(index).copied()
}

// --- Writing ------------------------------------------------------------------------------

/// Appends a record as it stands in a file of this salt.
///
/// # Panics
/// If its body has more than [`JOURNAL_BODY_MAX`] bytes: no record of a legal room does.
pub fn encode(salt: u32, match_id: MatchId, seq: u32, record: &Record<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER]);
    record.encode_body(out);
    let (header, body) = out[start..].split_at_mut(RECORD_HEADER);
    assert!(body.len() <= JOURNAL_BODY_MAX, "a record is too long");
    let made = Header {
        kind: record.kind(),
        len: u16::try_from(body.len()).expect("a body has at most 65,535 bytes"),
        seq,
        match_id,
        body_crc: crc32(salt, body),
    };
    header.copy_from_slice(&made.encode(salt));
}

/// Records on their way into the journal: those of one turn.
#[derive(Debug)]
pub struct Batch {
    salt: u32,
    bytes: Vec<u8>,
}

impl Batch {
    /// An empty one for files of this salt.
    pub fn new(salt: u32) -> Batch {
        let bytes = Vec::new();
        Batch { salt, bytes }
    }

    /// Its records, one after another.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Empties it, and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// Numbers the records of one match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pen {
    match_id: MatchId,
    next: u32,
}

impl Pen {
    /// The pen of a match of which nothing was written.
    pub fn new(match_id: MatchId) -> Pen {
        Pen::at(match_id, 1)
    }

    /// The pen of a match whose next record has this number.
    pub fn at(match_id: MatchId, next: u32) -> Pen {
        Pen { match_id, next }
    }

    /// The number of its next record.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Puts the match's next record into a batch.
    ///
    /// # Panics
    /// If the record is too long, or the match has four billion already: no legal room gets there.
    pub fn write(&mut self, record: &Record<'_>, batch: &mut Batch) {
        let (match_id, seq) = (self.match_id, self.next);
        encode(batch.salt, match_id, seq, record, &mut batch.bytes);
        self.next = seq.checked_add(1).expect("a match has few records");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire::frame;

    const ID: MatchId = MatchId(0x0102_0304_0506_0708);

    fn body_of(record: &Record<'_>) -> Vec<u8> {
        let mut body = Vec::new();
        record.encode_body(&mut body);
        body
    }

    #[test]
    fn a_record_is_these_bytes() {
        // Worked out by hand, with the checksums of Python's zlib.crc32.
        let mut bytes = Vec::new();
        encode(0, ID, 9, &Record::Head(300), &mut bytes);
        let golden = [
            0xF5, 5, 2, 0, 9, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0x36, 0x80, 0x65, 0xAD, 0x82, 0x8E,
            0x65, 0x4F, 0xAC, 0x02,
        ];
        assert_eq!(bytes, golden);
        bytes.clear();
        encode(7, ID, 9, &Record::Head(300), &mut bytes);
        assert_eq!(
            bytes[16..24],
            [0xF1, 0x16, 0x24, 0xE2, 0xA9, 0x18, 0x24, 0xB3]
        );
    }

    #[test]
    fn the_header_of_a_file_is_these_bytes_twice() {
        let header = FileHeader {
            number: 3,
            created_unix_us: -2,
            salt: 0x0A0B_0C0D,
            has_marks: true,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let golden = [
            0x89, b'L', b'K', b'J', 13, 10, 26, 10, 1, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0xFE, 0xFF,
            0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 13, 12, 11, 10, 0x98, 0xCB, 0x6F, 0xDF,
        ];
        assert_eq!(bytes[..FILE_HEADER], golden);
        assert_eq!(bytes[FILE_HEADER..], golden);
        assert_eq!(FileHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn each_body_is_these_bytes() {
        let created = Created {
            room: RoomId(300),
            created_unix_us: -1,
            seed: -2,
            hz: 30,
            broadcast_every: 3,
            max_frames: 5500,
            ready_timeout: Duration::from_micros(1),
            room_timeout: Duration::from_micros(2),
            reconnect_grace: Duration::ZERO,
            secret: Some(RoomSecret::from_bytes([7; 16])),
            members: vec![PlayerId(1), PlayerId(u64::MAX)],
            input_bytes_max: 256,
            watchers_max: 300,
            watch_delay: 90,
        };
        let mut golden = vec![0xAC, 2, 1, 3, 30, 3, 0xFC, 42, 1, 2, 0, 1];
        golden.extend([7; 16]);
        golden.extend([2, 1]);
        golden.extend([0xFF; 9]);
        golden.extend([1, 0x80, 2, 0xAC, 2, 90]);
        let resumed = Resumed {
            started_unix: Some(5),
            head: 6,
            results: vec![(Seat::from_index(1), 300)],
            history: 300,
        };
        let place = Place {
            segment: 2,
            offset: 300,
        };
        let seat = Seat::from_index(1);
        let frame = [0x0A, 4, 0x08, 9, 0x12, 0];
        let reason = OverReason::Closed;
        for (record, kind, golden) in [
            (Record::Created(Box::new(created)), 1, &golden[..]),
            (Record::Joined { seat, unix_us: 64 }, 2, &[1, 0x80, 1]),
            (Record::Started { unix_seconds: -3 }, 3, &[5]),
            (
                Record::Frame(FrameBytes::new(&frame).unwrap()),
                4,
                &frame[..],
            ),
            (Record::Head(9), 5, &[9]),
            (Record::Result { seat, winner: 8 }, 6, &[1, 8]),
            (Record::Over { reason, frames: 7 }, 7, &[4, 7]),
            (
                Record::Resumed(resumed),
                8,
                &[1, 10, 6, 1, 1, 0xAC, 2, 0xAC, 2],
            ),
            (Record::Mark(place), 9, &[2, 0xAC, 2]),
        ] {
            assert_eq!(
                (record.kind(), &body_of(&record)[..]),
                (kind, golden),
                "{record:?}"
            );
            assert_eq!(Record::decode(kind, golden), Ok(record));
        }
    }

    #[test]
    fn a_room_of_a_server_that_knew_no_data_takes_none() {
        let mut body = vec![1, 0, 0, 30, 3, 9, 1, 1, 1, 0, 1, 5];
        let Ok(Record::Created(created)) = Record::decode(1, &body) else {
            panic!("it was whole");
        };
        assert_eq!(created.input_bytes_max, 0);
        body.extend([0xC1, 7]); // 961
        assert_eq!(Record::decode(1, &body), Err(BadBody("input_bytes")));
    }

    #[test]
    fn what_cannot_be_is_refused_and_what_was_added_is_passed_over() {
        assert_eq!(Record::decode(5, &[9, 1, 2]), Ok(Record::Head(9)));
        let too_far = body_of(&Record::Head(FRAMES_RANGE.end() + 1));
        for (kind, body) in [
            (0, &[][..]),
            (10, &[]),
            (5, &[]),
            (5, &[0x80]),
            (5, &too_far),
            (4, &[]),
            (4, &[0x0A, 2, 0x08]),
            (4, &[0x0A, 2, 0x08, 1, 0]),
            (4, &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0x08, 1]),
            (6, &[0x80, 2, 0]),
            (7, &[7, 0]),
            (1, &[1, 0, 0, 241, 1]),
            (8, &[1, 0, 0, 0xFF, 0xFF, 3]),
        ] {
            assert!(Record::decode(kind, body).is_err(), "{kind}: {body:?}");
        }
    }

    #[test]
    fn a_room_that_was_written_before_anybody_could_watch_lets_nobody_watch() {
        let mut old = vec![1, 1, 3, 30, 3, 100, 1, 2, 0, 0, 1, 9];
        let read = |body: &[u8]| match Record::decode(1, body) {
            Ok(Record::Created(created)) => Some((created.watchers_max, created.watch_delay)),
            _ => None,
        };
        assert_eq!(read(&old), Some((0, 0)));
        // Data beside inputs came before that.
        old.push(7);
        assert_eq!(read(&old), Some((0, 0)));
        old.extend([5, 6]);
        assert_eq!(read(&old), Some((5, 6)));
        let more = old.len() - 2;
        old.truncate(more);
        old.extend([0xFF, 0xFF, 0x7F]);
        assert_eq!(read(&old), None, "more than a room may let in");
    }

    #[test]
    fn each_reason_has_a_code_of_its_own() {
        for (code, reason) in (0..).zip(REASONS) {
            assert_eq!(reason_code(reason), code);
            assert_eq!(reason_of(u64::from(code)), Some(reason));
        }
        assert_eq!(reason_of(7), None);
    }

    #[test]
    fn frames_are_split_where_the_log_has_joined_them() {
        let mut bytes = Vec::new();
        frame::encode_frame(&mut bytes, 3, &[0x12, 0]);
        let first = bytes.len();
        frame::encode_frame(&mut bytes, 300, &[]);
        let (one, rest) = FrameBytes::split(&bytes).unwrap();
        assert_eq!((one.id(), one.bytes()), (3, &bytes[..first]));
        let two = FrameBytes::new(rest).unwrap();
        assert_eq!((two.id(), two.bytes()), (300, &bytes[first..]));
        assert_eq!(FrameBytes::new(&bytes), None);
    }

    #[test]
    fn names_of_segments_are_spelled_in_one_way() {
        assert_eq!(segment_name(12), "journal-0000000012.lkj");
        for number in [0, 12, 9_999_999_999, 10_000_000_000, u64::MAX] {
            assert_eq!(segment_number(&segment_name(number)), Some(number));
        }
        for name in [
            "journal-12.lkj",
            "journal-.lkj",
            "lock",
            "journal-+000000012.lkj",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
