//! Packets: the frame of a message inside the stream.
//!
//! ```text
//! +----------------------+----------------+------------------+
//! | body length: u16, BE | message id: u8 | body             |
//! +----------------------+----------------+------------------+
//! ```
//!
//! The length counts the body alone. Uplink is a byte stream, whatever the peer's KCP
//! does with messages: a packet may be split over several of them, and one may carry
//! several packets. [`PacketReader`] puts them together again.

/// Bytes before the body.
pub const HEADER: usize = 3;

/// One packet, as a view of the reader's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The message id.
    pub id: u8,
    /// The message.
    pub body: &'a [u8],
}

/// A packet whose body is over the reader's bound. The stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// What its header says, in bytes.
    pub body_bytes: usize,
}

/// Puts packets together from pieces of a stream.
#[derive(Debug, Default)]
pub struct PacketReader {
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that have been read.
    read: usize,
}

impl PacketReader {
    /// Adds the next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        if self.read == self.buffer.len() {
            self.buffer.clear();
        } else {
            self.buffer.drain(..self.read);
        }
        self.read = 0;
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole packet, `None` when more of the stream is needed.
    ///
    /// # Errors
    /// [`TooLarge`] if the next packet's body is over `body_max` bytes; so does every
    /// later call.
    pub fn next(&mut self, body_max: usize) -> Result<Option<Packet<'_>>, TooLarge> {
        let rest = &self.buffer[self.read..];
        let Some((&[hi, lo, id], rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let body_bytes = usize::from(u16::from_be_bytes([hi, lo]));
        if body_bytes > body_max {
            return Err(TooLarge { body_bytes });
        }
        if rest.len() < body_bytes {
            return Ok(None);
        }
        let start = self.read + HEADER;
        self.read = start + body_bytes;
        Ok(Some(Packet {
            id,
            body: &self.buffer[start..self.read],
        }))
    }

    /// Bytes that wait for the rest of their packet.
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.read
    }
}

/// Appends a packet whose body `write` appends.
///
/// # Panics
/// If the body is over 65,535 bytes, which no message of ours can be.
pub fn write(out: &mut Vec<u8>, id: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, id]);
    write(out);
    let body_bytes = u16::try_from(out.len() - start - HEADER).expect("a body fits its length");
    out[start..start + 2].copy_from_slice(&body_bytes.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::UPLINK_BODY_MAX;

    fn packet(id: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, id, |out| out.extend_from_slice(body));
        out
    }

    fn drain(reader: &mut PacketReader) -> Vec<(u8, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(packet) = reader.next(UPLINK_BODY_MAX).unwrap() {
            all.push((packet.id, packet.body.to_vec()));
        }
        all
    }

    #[test]
    fn the_length_is_big_endian_and_counts_the_body_alone() {
        assert_eq!(packet(9, &[7; 258])[..3], [1, 2, 9]);
    }

    #[test]
    fn a_stream_split_at_every_byte_gives_the_same_packets() {
        let mut stream = packet(1, b"hello");
        stream.extend(packet(2, b""));
        stream.extend(packet(60, &[3; 300]));
        let whole = vec![(1, b"hello".to_vec()), (2, vec![]), (60, vec![3; 300])];
        for cut in 0..=stream.len() {
            let mut reader = PacketReader::default();
            reader.push(&stream[..cut]);
            let mut got = drain(&mut reader);
            reader.push(&stream[cut..]);
            got.extend(drain(&mut reader));
            assert_eq!(got, whole, "split at byte {cut}");
            assert_eq!(reader.waiting(), 0);
        }
        let mut reader = PacketReader::default();
        let mut got = Vec::new();
        for byte in &stream {
            reader.push(&[*byte]);
            got.extend(drain(&mut reader));
        }
        assert_eq!(got, whole, "byte by byte");
    }

    #[test]
    fn a_body_at_the_bound_is_read_and_one_byte_more_is_refused() {
        let mut reader = PacketReader::default();
        reader.push(&packet(1, &[0; UPLINK_BODY_MAX]));
        assert_eq!(drain(&mut reader).len(), 1);
        // Its header alone is enough to know.
        reader.push(&packet(1, &[0; UPLINK_BODY_MAX + 1])[..HEADER]);
        let too_large = TooLarge {
            body_bytes: UPLINK_BODY_MAX + 1,
        };
        assert_eq!(reader.next(UPLINK_BODY_MAX), Err(too_large));
        assert_eq!(reader.next(UPLINK_BODY_MAX), Err(too_large));
    }
}
