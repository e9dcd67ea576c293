//! Datagrams on their way out, in one buffer that the driver owns and swaps.
//!
//! KCP owns its output, so every [`crate::engine::link::Link`] of a server holds a
//! [`Sink`] onto the same [`Transmits`]; between two turns the driver takes the filled
//! batch and leaves an empty one ([`Sink::swap`]). Nothing is allocated for a datagram
//! once the buffers have grown.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

/// A batch of datagrams, each with its destination, in the order in which they leave.
#[derive(Debug, Default)]
pub struct Transmits {
    bytes: Vec<u8>,
    /// Destination, and where the datagram ends in `bytes`; it begins where the one before
    /// it ends.
    ends: Vec<(SocketAddr, usize)>,
}

impl Transmits {
    /// The datagrams, in order.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        self.ends
            .iter()
            .zip(starts)
            .map(|((to, end), start)| (*to, &self.bytes[start..*end]))
    }

    /// How many datagrams there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all datagrams.
    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
        self.ends.push((to, self.bytes.len()));
    }

    fn start_of(&self, index: usize) -> usize {
        if index == 0 {
            0
        } else {
            self.ends[index - 1].1
        }
    }

    /// Passes each datagram from `first` on to `edit`, which may change it and says how many
    /// of its bytes stay; one of which none stay goes.
    fn edit_from(&mut self, first: usize, mut edit: impl FnMut(&mut [u8]) -> usize) {
        let mut read = self.start_of(first);
        let mut write = read;
        let mut kept = first;
        for index in first..self.ends.len() {
            let (to, end) = self.ends[index];
            let left = edit(&mut self.bytes[read..end]);
            if left > 0 {
                self.bytes.copy_within(read..read + left, write);
                write += left;
                self.ends[kept] = (to, write);
                kept += 1;
            }
            read = end;
        }
        self.ends.truncate(kept);
        self.bytes.truncate(write);
    }
}

/// One end of a shared [`Transmits`]: what is written here goes to one address.
#[derive(Clone, Debug)]
pub struct Sink {
    /// The same for all clones: KCP keeps one, and its peer may move.
    to: Rc<Cell<SocketAddr>>,
    batch: Rc<RefCell<Transmits>>,
}

impl Sink {
    /// A sink for datagrams to `to`, with a batch of its own.
    pub fn new(to: SocketAddr) -> Sink {
        Sink {
            to: Rc::new(Cell::new(to)),
            batch: Rc::default(),
        }
    }

    /// A sink onto the same batch for another address.
    pub fn to(&self, to: SocketAddr) -> Sink {
        Sink {
            to: Rc::new(Cell::new(to)),
            batch: Rc::clone(&self.batch),
        }
    }

    /// Where what is written here goes.
    pub fn addr(&self) -> SocketAddr {
        self.to.get()
    }

    /// From now on it goes there, also what is written to a clone.
    pub fn redirect(&self, to: SocketAddr) {
        self.to.set(to);
    }

    /// Adds one datagram.
    pub fn push(&self, datagram: &[u8]) {
        self.batch.borrow_mut().push(self.to.get(), datagram);
    }

    /// How many datagrams the batch holds.
    pub fn len(&self) -> usize {
        self.batch.borrow().len()
    }

    /// Whether the batch holds none.
    pub fn is_empty(&self) -> bool {
        self.batch.borrow().is_empty()
    }

    /// Exchanges the batch for the caller's, which should be empty.
    pub fn swap(&self, batch: &mut Transmits) {
        std::mem::swap(&mut *self.batch.borrow_mut(), batch);
    }

    /// Passes each datagram from the one numbered `first` on to `edit`, which may change it
    /// and says how many of its bytes stay.
    pub fn edit_from(&self, first: usize, edit: impl FnMut(&mut [u8]) -> usize) {
        self.batch.borrow_mut().edit_from(first, edit);
    }
}

impl io::Write for Sink {
    /// Takes the whole datagram. It never fails: an error would abort KCP's flush half-way.
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.push(datagram);
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_keep_their_order_destination_and_bounds() {
        let a: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let b: SocketAddr = "127.0.0.1:2".parse().unwrap();
        let sink = Sink::new(a);
        sink.push(b"one");
        sink.to(b).push(b"three");
        sink.push(b"five5");
        sink.edit_from(1, |datagram| {
            datagram[0] = b'T';
            if datagram.len() == 5 && datagram[1] == b'h' {
                2
            } else {
                0
            }
        });
        sink.push(b"six");
        let mut batch = Transmits::default();
        sink.swap(&mut batch);
        let all: Vec<_> = batch.iter().collect();
        assert_eq!(all, [(a, &b"one"[..]), (b, &b"Th"[..]), (a, &b"six"[..])]);
        assert!(sink.is_empty());
        batch.clear();
        assert!(batch.is_empty());
    }
}
