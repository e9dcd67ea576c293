//! What the engine is told once, at its start.

use std::time::Duration;

use super::auth::Auth;

/// Settings of the engine, already checked by [`crate::config`]. The defaults are those of
/// the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Frames per second of a room that does not say otherwise.
    pub hz: u32,
    /// Frames between two broadcasts of a room in which nothing happens.
    pub broadcast_every: u32,
    /// Time after the first seat joined at which a match starts without the others.
    pub ready_timeout: Duration,
    /// Frames after which a match is over.
    pub max_frames: u32,
    /// Bytes of data that an input may have, in a room that does not say otherwise.
    pub input_bytes_max: u32,
    /// Age at which a room is over.
    pub room_timeout: Duration,
    /// Time for which a match runs on after all its seats went offline.
    pub reconnect_grace: Duration,
    /// Silence after which a session ends.
    pub idle_timeout: Duration,
    /// Rooms that may exist at once.
    pub max_rooms: usize,
    /// Sessions that may exist at once.
    pub max_sessions: usize,
    /// Members that a room may have.
    pub max_players_per_room: usize,
    /// Spectators that a room lets in if it does not say otherwise; 0 for none.
    pub watchers: u32,
    /// Frames that are held back from them if it does not say otherwise.
    pub watch_delay: u32,
    /// What the token of a Connect must be.
    pub auth: Auth,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            hz: 30,
            broadcast_every: 3,
            ready_timeout: Duration::from_secs(20),
            max_frames: 5500,
            input_bytes_max: 256,
            room_timeout: Duration::from_secs(300),
            reconnect_grace: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(15),
            max_rooms: 100_000,
            max_sessions: 20_000,
            max_players_per_room: 64,
            watchers: 0,
            watch_delay: 0,
            auth: Auth::Open,
        }
    }
}

/// Random values that the driver draws once: the engine draws none itself.
#[derive(Clone, Copy, Debug)]
pub struct Secrets {
    /// Keys of the hash by which sessions and rooms are found, so that nobody can choose
    /// addresses that collide.
    pub hash_key: (u64, u64),
    /// Keys of the function that draws each session's clock, the base of the proof of
    /// address.
    pub clock_key: (u64, u64),
    /// Key of the function that draws the names and secrets of sessions, and the cookies that a
    /// session needs to move.
    pub pass_key: [u8; 32],
    /// The id of the first match; later ones count up.
    pub first_match: u64,
}

impl Secrets {
    /// Which history of its frames a match has that is restored at this start: not 0, and not that
    /// of another start.
    pub(super) fn history(&self) -> u32 {
        let low = self.first_match & u64::from(u32::MAX);
        u32::try_from(low).expect("it was cut to 32 bits") | 1
    }
}
