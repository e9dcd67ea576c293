//! lockstep-server
pub mod admin;
pub mod engine;
pub mod io;
pub mod limits;
