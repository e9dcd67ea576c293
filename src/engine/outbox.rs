//! What a room wants done, in order: packets for seats, and word of what happened.
//!
//! A room pushes effects here while it handles a message or a deadline;
//! [`crate::engine::server`] carries them out when the room has returned. Packets lie one
//! after another in one buffer that is used again.

use std::ops::Range;
use std::time::Duration;

use super::id::{Seat, Spot};
use super::view::OverReason;
use super::wire::message::Downlink;

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this packet, which lies at this place of the outbox, to whoever is there.
    Send(Spot, Range<usize>),
    /// Ask the room for what this seat is owed, as far as its link has room.
    Pump(Seat),
    /// The same of all spectators: one effect, though they may be thousands.
    PumpGallery,
    /// A frame was sealed, so late after its deadline.
    Sealed(Duration),
    /// Inputs were put into a sealed frame.
    Inputs(usize),
    /// The room was so late that it took a new epoch.
    EpochRenewed(Duration),
    /// The match has started.
    Started,
    /// A player told a result that it had not told before.
    Result(Seat, u64),
    /// The clock of a match goes that has rested since a restart of the server.
    WoundUp,
    /// The match has ended.
    Over(OverReason),
}

/// Effects, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    packets: Vec<u8>,
    effects: Vec<Effect>,
}

impl Outbox {
    /// Sends a message to a seat or a spectator.
    pub fn send(&mut self, to: impl Into<Spot>, message: &Downlink<'_>) {
        let start = self.packets.len();
        message.encode(&mut self.packets);
        self.effects
            .push(Effect::Send(to.into(), start..self.packets.len()));
    }

    /// Adds another effect.
    pub fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Keeps the effects for which `keep` is true.
    pub fn retain(&mut self, keep: impl FnMut(&Effect) -> bool) {
        self.effects.retain(keep);
    }

    /// The effects so far.
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// The packet of an [`Effect::Send`].
    pub fn packet(&self, range: Range<usize>) -> &[u8] {
        &self.packets[range]
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.effects.clear();
    }
}
