//! What every request is answered from: the operations, what protects them, and the counters.

use std::sync::Arc;

use super::counters::HttpCounters;
use super::guard::Guard;
use crate::io::recordings::Recordings;
use crate::operations::Operations;

/// See the head of the file.
pub struct Desk {
    /// What may be asked.
    pub operations: Arc<Operations>,
    /// What protects the HTTP side.
    pub guard: Guard,
    /// The matches that have ended, if the server writes a journal.
    pub recordings: Option<Arc<Recordings>>,
    /// What the HTTP side counts.
    pub counters: HttpCounters,
}

impl Desk {
    /// A desk whose counters are at 0.
    pub fn new(
        operations: Arc<Operations>,
        guard: Guard,
        recordings: Option<Arc<Recordings>>,
    ) -> Desk {
        Desk {
            operations,
            guard,
            recordings,
            counters: HttpCounters::default(),
        }
    }
}
