//! lockstep-server
pub mod config;
pub mod engine;
pub mod io;
pub mod limits;
