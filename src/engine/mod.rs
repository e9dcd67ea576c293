//! The engine: a lockstep server as a state machine without I/O.
//!
//! No socket, clock, thread, lock, randomness, environment or log line is to be found here,
//! and no iteration over a hash map. Time comes in as an argument, and so does the seed of
//! every random choice: the same calls in the same order give the same datagrams, byte for
//! byte. Two drivers use it: the event loop in [`crate::io`] and the simulator in
//! [`crate::sim`]. Begin with [`server`].

pub mod auth;
pub mod config;
pub mod counters;
pub mod drops;
pub mod event;
pub mod frame_log;
pub mod id;
pub mod link;
pub mod outbox;
mod records;
pub mod room;
pub mod server;
pub mod time;
pub mod transmit;
pub mod view;
pub mod wheel;
pub mod wire;

mod admission;
mod beats;
mod broadcast;
mod budget;
mod contain;
mod elsewhere;
mod gallery;
mod guests;
mod hash;
mod moving;
mod passes;
mod router;
mod seat;
mod session;
