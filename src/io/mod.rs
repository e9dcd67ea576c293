//! Everything impure: the event loop and what it stands on.
//!
//! One poll loop ([`event_loop`]) owns the UDP socket ([`udp`]) and the engine. Side threads
//! reach it through [`control`] alone; [`signals`] tells it to stop, [`system`] prepares the
//! process, and [`metrics`] is what it measures of itself. [`journal`] keeps the records of
//! [`crate::journal`] in files, with a thread of its own that syncs them; [`recorder`] is the loop's
//! hand on it, and [`recordings`] finds the matches in it that have ended.

mod batch;
pub mod control;
pub mod event_loop;
pub mod feed;
pub mod journal;
pub mod metrics;
pub mod recorder;
pub mod recordings;
pub mod signals;
pub mod system;
pub mod udp;
