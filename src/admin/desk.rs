//! What every request is answered from: the way into the loop, what the operator has set, and
//! the counters.
//!
//! A loop that does not answer costs an asker two seconds. So that a few slow answers do not
//! occupy all workers for long, what is asked in the second after one is refused at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::counters::HttpCounters;
use super::guard::Guard;
use super::order::Bounds;
use crate::engine::auth::Auth;
use crate::engine::config::Config;
use crate::engine::view::RoomView;
use crate::io::control::{Handle, Unavailable};
use crate::io::recordings::Recordings;
use crate::limits::{HTTP_LOOP_REST, TICKET_LIFE_SLACK};
use crate::ticket::TicketSecrets;

/// Makes the tickets of new rooms.
#[derive(Clone, Debug)]
pub struct Tickets {
    /// What signs them.
    pub secrets: TicketSecrets,
    /// How long they live from the creation of their room on.
    pub life: Duration,
}

impl Tickets {
    /// Those of a server with these settings: they live for as long as a room can. `None` if
    /// it asks for none.
    pub fn of(config: &Config) -> Option<Tickets> {
        let Auth::Ticket(secrets) = &config.auth else {
            return None;
        };
        Some(Tickets {
            secrets: secrets.clone(),
            life: config.room_timeout + config.reconnect_grace + TICKET_LIFE_SLACK,
        })
    }

    /// A ticket for each seat of a room that was just created.
    pub(super) fn of_room(&self, view: &RoomView) -> Vec<String> {
        let life = i64::try_from(self.life.as_secs()).unwrap_or(i64::MAX);
        let expires = view.created_unix.saturating_add(life);
        let players = view.seats.iter().map(|seat| seat.player);
        players
            .map(|player| self.secrets.sign(view.room, player, expires))
            .collect()
    }
}

/// See the head of the file.
pub struct Desk {
    /// What the operator's settings allow.
    pub bounds: Bounds,
    /// What protects the HTTP side.
    pub guard: Guard,
    /// Makes the tickets of new rooms, if players need some.
    pub tickets: Option<Tickets>,
    /// The matches that have ended, if the server writes a journal.
    pub recordings: Option<Arc<Recordings>>,
    /// What the HTTP side counts.
    pub counters: HttpCounters,
    control: Handle,
    asking: AtomicUsize,
    late_at: Mutex<Option<Instant>>,
}

impl Desk {
    /// A desk that asks through `control`.
    pub fn new(
        control: Handle,
        bounds: Bounds,
        guard: Guard,
        tickets: Option<Tickets>,
        recordings: Option<Arc<Recordings>>,
    ) -> Desk {
        Desk {
            bounds,
            guard,
            tickets,
            recordings,
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
