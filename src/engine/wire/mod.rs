//! The wire: views of bytes, and values that hold only what is legal.
//!
//! From the outside in: a datagram holds KCP segments ([`segment`]); the segments carry a
//! stream of packets ([`packet`]); a packet holds a message ([`message`]); a frame message
//! holds frames ([`frame`]). Beside KCP stand the signals of v2 ([`signal`]). Nothing here keeps state of a session or a room.

pub mod frame;
pub mod message;
pub mod packet;
pub mod segment;
pub mod signal;

/// The messages of `proto/message.proto` as prost generates them.
pub mod pb {
    #![allow(missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}
