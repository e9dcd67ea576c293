//! The engine: a lockstep server as a state machine without I/O.

pub mod config;
pub mod counters;
pub mod drops;
pub mod id;
pub mod link;
pub mod time;
pub mod transmit;
pub mod view;
pub mod wheel;
pub mod wire;
