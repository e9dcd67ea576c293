//! What the shell measures of itself, and the snapshot in which all counters leave the loop.

use std::time::Duration;

use crate::engine::counters::Counters;

/// All counters, at one moment.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Time since the start.
    pub uptime: Duration,
    /// Why the server is degraded, `None` while all is well.
    pub degraded: Option<String>,
    /// What the engine counts.
    pub engine: Counters,
    /// What the shell counts.
    pub shell: ShellCounters,
}

/// What the shell counts since the start.
#[derive(Clone, Debug, Default)]
pub struct ShellCounters {
    /// Turns of the loop.
    pub turns: u64,
    /// Commands of side threads.
    pub commands: u64,
    /// Datagrams that the system did not take, lost as on the network.
    pub sends_refused: u64,
    /// Errors of the socket while receiving.
    pub receive_errors: u64,
}
