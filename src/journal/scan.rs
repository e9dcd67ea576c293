//! Reading one file of records, whole or damaged, hostile or not.
//!
//! [`Scan`] yields what it finds in the order of the file: records, and damage with its place and,
//! if that is known, its owner. It never allocates more than the body of a record says, and never
//! more than the file has.
//!
//! Where it goes on behind damage:
//!
//! ```text
//!   the body is damaged       behind the body: its header says where, and is whole
//!   the header is damaged     at the next place where a header is whole
//!   the file ends in a body   nowhere: all that is left is that body, whatever lies in it
//! ```

use std::fmt;

use thiserror::Error;

use super::record::{
    BadBody, BadHeader, FILE_HEADER, FIRST_RECORD, FileHeader, Header, Place, RECORD_HEADER,
    RECORD_MARK, Record, is_of_a_match,
};
use crate::engine::id::MatchId;

/// Something in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A record that is whole.
    Record(Entry<'a>),
    /// Bytes that are none.
    Damage(Damage),
}

/// A record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where its header begins.
    pub place: Place,
    /// Bytes of it, header and body.
    pub len: u64,
    /// Whose record it is; of no meaning in a mark.
    pub match_id: MatchId,
    /// Its number in the match, from 1 on.
    pub seq: u32,
    /// What it says.
    pub record: Record<'a>,
}

/// Bytes that are no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub place: Place,
    /// How many bytes of the file are passed over.
    pub len: u64,
    /// What is wrong.
    pub fault: Fault,
    /// Whose record it was; `None` if that is unknown.
    pub owner: Option<Owner>,
}

/// Whose record was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The match.
    pub match_id: MatchId,
    /// The number of the record in it.
    pub seq: u32,
}

/// What is wrong with some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// One of the two headers of the file. No record is lost by it.
    #[error("one of the two headers of the file is damaged")]
    FileHeader,
    /// Both headers of the file: nothing in it can be read.
    #[error("both headers of the file are damaged")]
    FileHeaders,
    /// The file is of a later version: nothing in it can be read.
    #[error("the file is of version {0}, which came later")]
    Version(u16),
    /// A mark. No record of a match is lost by it.
    #[error("a mark is damaged")]
    Mark,
    /// The header of a record, perhaps more than one record.
    #[error("the header of a record is damaged")]
    Header,
    /// The body of a record.
    #[error("the body of a record is damaged")]
    Body,
    /// The file ends before the record does.
    #[error("the file ends in the middle of a record")]
    CutShort,
    /// The record is whole, and yet none.
    #[error("a record is whole but senseless: {0}")]
    Senseless(BadBody),
}

impl Damage {
    /// Whether a record of a match may be lost by it.
    pub fn costs_records(&self) -> bool {
        !matches!(self.fault, Fault::FileHeader | Fault::Mark)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.fault)?;
        match self.owner {
            Some(owner) => write!(f, " (record {} of match {})", owner.seq, owner.match_id),
            None => write!(f, " ({} bytes)", self.len),
        }
    }
}

/// What is found in one file.
#[derive(Debug)]
pub struct Scan<'a> {
    segment: u64,
    bytes: &'a [u8],
    at: usize,
    header: Option<FileHeader>,
    /// Damage of the file's header that was not told yet.
    untold: Option<Damage>,
}

impl<'a> Scan<'a> {
    /// Begins to read the file of this segment.
    pub fn new(segment: u64, bytes: &'a [u8]) -> Scan<'a> {
        let first = FileHeader::decode(bytes);
        let second = FileHeader::decode(bytes.get(FILE_HEADER..).unwrap_or(&[]));
        let (header, fault) = match (first, second) {
            (Ok(header), Ok(_)) => (Some(header), None),
            // A file that ends in its second header has no record.
            (Ok(header), Err(_)) if bytes.len() < FIRST_RECORD => {
                (Some(header), Some((FILE_HEADER, Fault::CutShort)))
            }
            (Ok(header), Err(_)) => (Some(header), Some((FILE_HEADER, Fault::FileHeader))),
            (Err(BadHeader::Version(version)), _) | (_, Err(BadHeader::Version(version))) => {
                (None, Some((0, Fault::Version(version))))
            }
            (Err(_), Ok(header)) => (Some(header), Some((0, Fault::FileHeader))),
            (Err(_), Err(_)) => (None, Some((0, Fault::FileHeaders))),
        };
        let mut scan = Scan {
            segment,
            bytes,
            at: if header.is_some() {
                FIRST_RECORD.min(bytes.len())
            } else {
                bytes.len()
            },
            header,
            untold: None,
        };
        scan.untold = fault.map(|(start, fault)| {
            let end = match fault {
                Fault::FileHeader => start + FILE_HEADER,
                _ => bytes.len(),
            };
            scan.damage(start, end, fault, None)
        });
        scan
    }

    /// The header of the file; `None` if it cannot be read.
    pub fn header(&self) -> Option<&FileHeader> {
        self.header.as_ref()
    }

    fn damage(&self, start: usize, end: usize, fault: Fault, of: Option<Header>) -> Damage {
        let is_mark = of.is_some_and(|header| !is_of_a_match(header.kind));
        let of = of.filter(|_| !is_mark);
        let fault = if is_mark { Fault::Mark } else { fault };
        Damage {
            place: self.place(start),
            len: (end - start) as u64,
            fault,
            owner: of.map(|header| Owner {
                match_id: header.match_id,
                seq: header.seq,
            }),
        }
    }

    fn place(&self, at: usize) -> Place {
        Place {
            segment: self.segment,
            offset: at as u64,
        }
    }

    /// What begins at `start` with a header that is whole.
    fn record(&mut self, start: usize, salt: u32, header: Header) -> Found<'a> {
        let end = start.saturating_add(header.record_len());
        let Some(record) = self.bytes.get(start..end) else {
            self.at = self.bytes.len();
            return Found::Damage(self.damage(start, self.at, Fault::CutShort, Some(header)));
        };
        self.at = end;
        let body = &record[RECORD_HEADER..];
        if !header.owns(salt, body) {
            return Found::Damage(self.damage(start, end, Fault::Body, Some(header)));
        }
        match Record::decode(header.kind, body) {
            Ok(record) => Found::Record(Entry {
                place: self.place(start),
                len: (end - start) as u64,
                match_id: header.match_id,
                seq: header.seq,
                record,
            }),
            Err(why) => Found::Damage(self.damage(start, end, Fault::Senseless(why), Some(header))),
        }
    }

    /// Passes over what has no header, up to the next that is whole.
    fn lost(&mut self, start: usize, salt: u32) -> Found<'a> {
        let is_record = |at: &usize| Header::decode(salt, &self.bytes[*at..]).is_some();
        let marks = (start + 1..self.bytes.len()).filter(|at| self.bytes[*at] == RECORD_MARK);
        let next = marks.into_iter().find(is_record);
        self.at = next.unwrap_or(self.bytes.len());
        let cut = next.is_none() && self.at - start < RECORD_HEADER;
        let fault = if cut { Fault::CutShort } else { Fault::Header };
        Found::Damage(self.damage(start, self.at, fault, None))
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        if let Some(damage) = self.untold.take() {
            return Some(Found::Damage(damage));
        }
        let salt = self.header?.salt;
        let start = self.at;
        let rest = self.bytes.get(start..).filter(|rest| !rest.is_empty())?;
        Some(match Header::decode(salt, rest) {
            Some(header) => self.record(start, salt, header),
            None => self.lost(start, salt),
        })
    }
}
