//! The simulator: the same engine and the same client as in production, under virtual time
//! and a network that loses, delays, repeats, reorders and cuts. One seed is one world, down
//! to the last byte.
//!
//! ```text
//!   script ──▶ clients ──▶ network ──▶ server      world:  the loop around all of them
//!                 ▲           │          │         oracle: what must be true of them
//!                 └───────────┴──────────┘         trace:  what happened, as hash and lines
//! ```
//!
//! What people do is in script, what befalls their devices in trouble, and what strangers do
//! to all of them in attack and signals. How the server ends and starts again is in crash, its
//! journal in disk. What the server asks about rooms that are not there is in elsewhere, and what is
//! told of rooms to those who follow them is held to in chronicle.
//!
//! A world begins in chaos, then heals: everybody must reach the head of their match. Then
//! the rooms are closed, everybody must hear of it, and when all limits have passed nothing
//! may be left. `lockstep-sim` runs many worlds, and replays one by its seed.
//!
//! No thread, socket or clock is to be found here.

pub mod fault;
pub mod network;
pub mod oracle;
pub mod rng;
pub mod trace;
pub mod world;

mod attack;
mod chronicle;
mod crash;
mod disk;
mod elsewhere;
mod path;
mod places;
mod script;
mod signals;
mod trouble;

pub use crash::Crashes;
pub use world::{Failure, Report, World, run};
