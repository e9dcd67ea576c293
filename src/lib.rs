//! lockstep-server
pub mod client;
pub mod config;
pub mod engine;
pub mod io;
pub mod limits;
