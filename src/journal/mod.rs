//! The journal: all that makes a room, as records, so that a match outlives its server.
//!
//! [`record`] is what stands in the files, byte by byte; [`scan`] reads a file of it, damaged or
//! not; [`restore`] makes rooms of what was read. Nothing here does I/O:
//! [`crate::io::journal`] has the files, and docs/recording.md describes the format to whoever
//! writes a reader of their own.

pub mod record;
pub mod restore;
pub mod scan;
