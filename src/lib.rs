//! lockstep-server
pub mod admin;
pub mod client;
pub mod config;
pub mod engine;
pub mod io;
pub mod limits;
