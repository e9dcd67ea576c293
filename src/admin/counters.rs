//! What the HTTP side counts of itself. Every thread of it adds; nothing else depends on
//! the values.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the start; those that can fall say so.
        #[derive(Debug, Default)]
        pub struct HttpCounters { $($(#[$doc])* pub $name: Counter,)* }

        impl HttpCounters {
            /// All of them by name.
            pub fn to_json(&self) -> Value {
                let mut all = Map::new();
                $(all.insert(stringify!($name).to_owned(), self.$name.get().into());)*
                Value::Object(all)
            }
        }
    };
}

counters! {
    /// Requests that were taken up, the watchdog's own included.
    requests,
    /// Answers that say the request was wrong (4xx).
    answers_4xx,
    /// Answers that say the server could not (5xx).
    answers_5xx,
    /// Answers that the client did not take in time.
    answers_cut,
    /// Panics caught while a request was handled or dropped.
    handler_panics,
    /// Questions of the watchdog that had no answer in time.
    probes_failed,
    /// Times that the watchdog replaced the HTTP server.
    restarts,
    /// Connections that the watchdog hung up.
    connections_hung_up,
    /// Workers of replaced servers that still exist. Falls again.
    workers_abandoned,
    /// Requests that could not be dropped without ending the process, and so stay for good.
    requests_leaked,
}

/// A number that several threads add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.add_many(1);
    }

    /// `count` more.
    pub fn add_many(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// One less.
    pub fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
