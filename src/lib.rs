//! lockstep-server
pub mod engine;
pub mod io;
pub mod limits;
