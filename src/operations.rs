//! What a user, a game's backend or another server may ask of this one: the one implementation
//! beneath HTTP ([`crate::admin`]) and gRPC.
//!
//! It holds no game state: what it knows it asks the loop for, through
//! [`crate::io::control::Handle`]. Every operation may block for a few seconds, and none is for
//! the loop's thread. Who may ask is the business of the callers.
//!
//! A loop that does not answer costs an asker two seconds. So that a few slow answers do not
//! occupy all workers for long, what is asked in the second after one is refused at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::admin::order::{Bounds, Order};
use crate::cluster::Cluster;
use crate::cluster::node::{Address, NodeId};
use crate::engine::auth::{Auth, RoomSecret};
use crate::engine::config::Config;
use crate::engine::id::{MatchId, RoomId};
use crate::engine::view::{CreateError, RoomView, RoomsPage};
use crate::io::control::{Answer, Control, Handle, Unavailable};
use crate::io::metrics::{Load, Stats};
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
    fn of_room(&self, view: &RoomView) -> Vec<String> {
        let life = i64::try_from(self.life.as_secs()).unwrap_or(i64::MAX);
        let expires = view.created_unix.saturating_add(life);
        let players = view.seats.iter().map(|seat| seat.player);
        players
            .map(|player| self.secrets.sign(view.room, player, expires))
            .collect()
    }
}

/// Where in the cluster a room is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The node that has it.
    pub node: NodeId,
    /// Where its players connect.
    pub address: Address,
}

/// A room, and where in the cluster it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The room.
    pub view: RoomView,
    /// `None` without a cluster.
    pub home: Option<Home>,
}

/// A room that was just created. What lets its players in is told this once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The room.
    pub room: Located,
    /// The token of its players where the room's own lets them in, in hexadecimal digits.
    pub secret: String,
    /// A ticket for each of its seats, or none.
    pub tickets: Vec<String>,
    /// The token that lets somebody watch; `None` where nobody may.
    pub watch_secret: Option<String>,
    /// Rooms that its node had created since its start, this one among them.
    pub serial: u64,
}

/// Why an operation was not carried out. The text is for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The loop gave no answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The room cannot be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The system has none.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// See the head of the file.
pub struct Operations {
    /// What the operator's settings allow.
    pub bounds: Bounds,
    tickets: Option<Tickets>,
    control: Handle,
    cluster: Option<Arc<dyn Cluster>>,
    asking: AtomicUsize,
    late_at: Mutex<Option<Instant>>,
}

impl Operations {
    /// Those of the server behind `control`; with `tickets` if players need some.
    pub fn new(control: Handle, bounds: Bounds, tickets: Option<Tickets>) -> Operations {
        Operations {
            bounds,
            tickets,
            control,
            cluster: None,
            asking: AtomicUsize::new(0),
            late_at: Mutex::new(None),
        }
    }

    /// The same as part of a cluster.
    #[must_use]
    pub fn in_cluster(mut self, cluster: Arc<dyn Cluster>) -> Operations {
        self.cluster = Some(cluster);
        self
    }

    // --- Rooms ----------------------------------------------------------------------------

    /// Creates a room.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn create(&self, order: Order) -> Result<Created, Refusal> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| Refusal::NoRandomness)?;
        let secret = RoomSecret::from_bytes(bytes);
        let seed = getrandom::u32()
            .map_err(|_| Refusal::NoRandomness)?
            .cast_signed();
        let spec = order.into_spec(seed, secret);
        let view = self.ask(|control| control.create(spec))??;
        let is_watched = view.watchers_max > 0;
        Ok(Created {
            tickets: match &self.tickets {
                Some(tickets) => tickets.of_room(&view),
                None => Vec::new(),
            },
            secret: secret.to_hex(),
            watch_secret: is_watched.then(|| secret.for_watchers().to_hex()),
            room: self.here(view),
            serial: 0,
        })
    }

    /// A room; `None` if there is none.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn room(&self, room: RoomId) -> Result<Option<Located>, Refusal> {
        let found = self.ask(|control| control.room(room))?;
        Ok(found.map(|view| self.here(view)))
    }

    /// A match of this server, running or finished a while ago.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn match_(&self, id: MatchId) -> Result<Option<Located>, Refusal> {
        let found = self.ask(|control| control.match_(id))?;
        Ok(found.map(|view| self.here(view)))
    }

    /// At most `limit` rooms of this server, from slot `from` on.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn rooms(&self, from: usize, limit: usize) -> Result<RoomsPage, Refusal> {
        Ok(self.ask(|control| control.rooms(from, limit))?)
    }

    /// Ends a room's match; `None` if there is no such room.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn close(&self, room: RoomId) -> Result<Option<Located>, Refusal> {
        let closed = self.ask(|control| control.close(room))?;
        Ok(closed.map(|view| self.here(view)))
    }

    // --- The server -----------------------------------------------------------------------

    /// Every counter.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn stats(&self) -> Result<Box<Stats>, Refusal> {
        Ok(self.ask(Handle::stats)?)
    }

    /// How much there is to do.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub fn load(&self) -> Result<Load, Refusal> {
        Ok(self.ask(Handle::load)?)
    }

    /// Asks for the same without waiting: for who must not block. The loop gives the answer, or
    /// never, if it ends.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop does not take the question.
    pub fn post_load(&self, answer: Answer<Load>) -> Result<(), Unavailable> {
        self.control.post(Control::Load(answer))
    }

    /// Whether somebody waits for the loop right now.
    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    // --- Inside ---------------------------------------------------------------------------

    fn here(&self, view: RoomView) -> Located {
        let home = self.cluster.as_ref().map(|cluster| {
            let own = cluster.own();
            Home {
                node: own.id,
                address: own.kcp,
            }
        });
        Located { view, home }
    }

    /// Asks the loop.
    ///
    /// # Errors
    /// [`Unavailable`] if it gave no answer, or gave none a moment ago.
    fn ask<T>(
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

    fn late_at(&self) -> Option<Instant> {
        *self
            .late_at
            .lock()
            .expect("nobody panics while holding a time")
    }
}
