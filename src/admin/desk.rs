//! What every request is answered from: the way into the loop, the operator's bounds and
//! the counters.
//!
//! A loop that does not answer costs an asker two seconds. So that a few slow answers do not
//! occupy all workers for long, what is asked in the second after one is refused at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::counters::HttpCounters;
use super::order::Bounds;
use crate::io::control::{Handle, Unavailable};
use crate::limits::HTTP_LOOP_REST;

/// See the head of the file.
pub struct Desk {
    /// What the operator's settings allow.
    pub bounds: Bounds,
    /// What the HTTP side counts.
    pub counters: HttpCounters,
    control: Handle,
    asking: AtomicUsize,
    late_at: Mutex<Option<Instant>>,
}

impl Desk {
    /// A desk that asks through `control`.
    pub fn new(control: Handle, bounds: Bounds) -> Desk {
        Desk {
            bounds,
            counters: HttpCounters::default(),
            control,
            asking: AtomicUsize::new(0),
            late_at: Mutex::new(None),
        }
    }

    /// Asks the loop.
    ///
    /// # Errors
    /// [`Unavailable`] if it gave no answer, or gave none a moment ago.
    pub fn ask<T>(
        &self,
        question: impl FnOnce(&Handle) -> Result<T, Unavailable>,
    ) -> Result<T, Unavailable> {
        if self
            .late_at()
            .is_some_and(|at| at.elapsed() < HTTP_LOOP_REST)
        {
            return Err(Unavailable::Late);
        }
        self.asking.fetch_add(1, Ordering::Relaxed);
        let answer = question(&self.control);
        self.asking.fetch_sub(1, Ordering::Relaxed);
        if let Err(Unavailable::Late) = answer {
            *self
                .late_at
                .lock()
                .expect("nobody panics while holding a time") = Some(Instant::now());
        }
        answer
    }

    /// Whether somebody waits for the loop right now.
    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    fn late_at(&self) -> Option<Instant> {
        *self
            .late_at
            .lock()
            .expect("nobody panics while holding a time")
    }
}
