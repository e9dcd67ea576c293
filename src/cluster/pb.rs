//! The messages and the service of `proto/rooms.proto` as prost and tonic generate them, and their
//! description. [`super::convert`] turns them into values and back; nobody else looks inside.

// Generated code is not held to our lints.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#![allow(rustdoc::all)]

tonic::include_proto!("lockstep.v1");

/// The file that the messages come from, encoded and with its comments: what reflection tells.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rooms.bin"));
