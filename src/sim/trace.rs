//! What happened in a world, as a hash of all of it and as its last lines.
//!
//! The hash says whether two runs of a seed were the same run. The lines are what a person
//! reads after a failure; they are kept as values and become text when somebody asks, since
//! a world has millions of them.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;

use super::network::{Author, Fate};
use crate::engine::time::Time;
use crate::engine::wire::segment::{Cmd, Segments};

/// Lines that are kept for a failure.
const LINES_KEPT: usize = 60;

/// The header of a datagram's first segment, and how many there are.
#[derive(Clone, Copy, Debug)]
struct Summary {
    conv: u32,
    cmd: Cmd,
    sn: u32,
    una: u32,
    segments: usize,
    bytes: usize,
}

/// One thing that happened.
#[derive(Clone, Debug)]
enum Line {
    Sent {
        from: SocketAddr,
        to: SocketAddr,
        author: Author,
        datagram: Option<Summary>,
        fate: Fate,
    },
    Delivered {
        from: SocketAddr,
        to: SocketAddr,
        datagram: Option<Summary>,
    },
    Note(String),
}

/// Where lines go as they are written, if somebody watches.
pub type Watcher = Box<dyn FnMut(&str)>;

/// What happened so far.
#[derive(Default)]
pub struct Trace {
    hash: u64,
    lines: VecDeque<(Time, u64, Line)>,
    watcher: Option<Watcher>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("hash", &self.hash).finish()
    }
}

impl Trace {
    /// Passes every line on as it is written.
    pub fn watch(&mut self, watcher: Watcher) {
        self.watcher = Some(watcher);
    }

    /// A number that stands for everything that happened.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines, the newest at the end.
    pub fn lines(&self) -> Vec<String> {
        let text = |(at, step, line): &(Time, u64, Line)| format!("{at} #{step} {line}");
        self.lines.iter().map(text).collect()
    }

    /// A datagram was given to the network.
    pub fn sent(
        &mut self,
        (at, step): (Time, u64),
        (from, to): (SocketAddr, SocketAddr),
        author: Author,
        bytes: &[u8],
        fate: Fate,
    ) {
        self.mix(at.as_micros());
        self.mix(u64::from(from.port()) << 16 | u64::from(to.port()));
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(fate.code());
        let datagram = Summary::of(bytes);
        let line = Line::Sent {
            from,
            to,
            author,
            datagram,
            fate,
        };
        self.push(at, step, line);
    }

    /// A datagram has come.
    pub fn delivered(
        &mut self,
        (at, step): (Time, u64),
        (from, to): (SocketAddr, SocketAddr),
        bytes: &[u8],
    ) {
        self.mix(at.as_micros());
        self.mix(u64::from(from.port()) << 16 | u64::from(to.port()));
        let datagram = Summary::of(bytes);
        let line = Line::Delivered { from, to, datagram };
        self.push(at, step, line);
    }

    /// Anything else.
    pub fn note(&mut self, (at, step): (Time, u64), text: String) {
        self.mix(at.as_micros());
        text.bytes().for_each(|byte| self.mix(u64::from(byte)));
        self.push(at, step, Line::Note(text));
    }

    fn push(&mut self, at: Time, step: u64, line: Line) {
        if let Some(watcher) = &mut self.watcher {
            watcher(&format!("{at} #{step} {line}"));
        }
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back((at, step, line));
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Summary {
    fn of(bytes: &[u8]) -> Option<Summary> {
        let first = Segments::of_output(bytes).next()?;
        Some(Summary {
            conv: first.conv,
            cmd: first.cmd,
            sn: first.sn,
            una: first.una,
            segments: Segments::of_output(bytes).count(),
            bytes: bytes.len(),
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary {
            conv,
            cmd,
            sn,
            una,
            segments,
            bytes,
        } = self;
        write!(
            f,
            "conv={conv:08x} {cmd:?} sn={sn} una={una} ({segments} seg, {bytes} B)"
        )
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = |datagram: &Option<Summary>| {
            datagram.map_or_else(|| "no segment".into(), |datagram| datagram.to_string())
        };
        match self {
            Line::Sent {
                from,
                to,
                author,
                datagram,
                fate,
            } => {
                let claims = match author {
                    Author::Sender => "",
                    Author::Forger => "FORGED ",
                    Author::Replayer => "REPLAYED ",
                };
                write!(f, "{claims}{from} -> {to} {} {fate}", summary(datagram))
            }
            Line::Delivered { from, to, datagram } => {
                write!(f, "{to} <- {from} {}", summary(datagram))
            }
            Line::Note(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_byte_or_another_moment_is_another_hash() {
        let hash = |us, bytes: &[u8]| {
            let mut trace = Trace::default();
            let a = SocketAddr::from(([10, 0, 0, 1], 1));
            let moment = (Time::from_micros(us), 0);
            trace.sent(moment, (a, a), Author::Sender, bytes, Fate::Lost);
            trace.hash()
        };
        assert_eq!(hash(1, b"one"), hash(1, b"one"));
        assert_ne!(hash(1, b"one"), hash(1, b"two"));
        assert_ne!(hash(1, b"one"), hash(2, b"one"));
    }
}
