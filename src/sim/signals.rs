//! Signals in a world: what must be true of the server's, and what strangers do with those that they
//! have seen.
//!
//! A spy reads all that a client and the server say to each other by signals, sends it again, at once
//! from an address of his own or later from anywhere, answers the challenges that he gets, and makes
//! up signals for both sides. The secret of the session he has not: whoever reads the answer to a
//! Connect is that client.

use std::net::SocketAddr;

use super::fault::Fault;
use super::network::Author;
use super::oracle::Violation;
use super::world::World;
use crate::engine::id::PlayerId;
use crate::engine::wire::signal::{Pass, SessionSecret, Signal, SignalKind};

/// Signals of each conversation and side that a spy has kept.
const KEPT: usize = 16;
/// The network of the spy.
const SPY: [u8; 4] = [10, 77, 7, 7];
/// Of a thousand signals, so many are sent again at once.
const COPIED: u64 = 500;

/// The signals of a conversation.
#[derive(Debug, Default)]
pub(super) struct Signals {
    said: Vec<Vec<u8>>,
    heard: Vec<Vec<u8>>,
    /// Somebody reads them.
    spied: bool,
    /// The server has told it that its session is gone.
    reset: bool,
    /// It has been given its seat.
    pub(super) seated: bool,
}

fn keep(all: &mut Vec<Vec<u8>>, signal: &[u8]) {
    if all.len() == KEPT {
        all.remove(0);
    }
    all.push(signal.to_vec());
}

// --- What must be true --------------------------------------------------------------------

impl World {
    /// The server sends something, perhaps a signal.
    pub(super) fn look_at_answer(&mut self, to: SocketAddr, bytes: &[u8]) -> Result<(), Violation> {
        let Some(signal) = Signal::parse(bytes).ok().filter(|_| Signal::is_one(bytes)) else {
            return Ok(());
        };
        let Some((device, _)) = self.places.owner(to) else {
            self.answer_as_spy(to, signal);
            return Ok(());
        };
        let own = &mut self.devices[device];
        if own.client.session() != Some(signal.session) {
            return Ok(());
        }
        keep(&mut own.signals.heard, bytes);
        if signal.kind == SignalKind::Reset {
            own.signals.reset = true;
            let conn = own.conn;
            // A client that moved before its proof repeats its Connect from there, and may have its
            // seat by another session than the one it knows. Of that one it is told that it is gone.
            if own.signals.seated && self.server.has_place(signal.session) {
                return Err(Violation::WrongReset { conn });
            }
        }
        Ok(())
    }

    /// A client says that its session is gone: the server must have said so.
    pub(super) fn was_reset(&self, device: usize) -> Result<(), Violation> {
        let own = &self.devices[device];
        if own.signals.reset {
            return Ok(());
        }
        let conn = own.conn;
        Err(Violation::WrongReset { conn })
    }

    /// A session has moved: its client must be the one that is there, or was a moment ago, and must
    /// have shown that it receives there.
    pub(super) fn session_moved(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        player: PlayerId,
    ) -> Result<(), Violation> {
        let proved = self.places.purse(to).is_proved();
        let misled = Err(Violation::Misled { to, player });
        let Some((device, _)) = self.places.owner(to).filter(|_| proved) else {
            return misled;
        };
        // Another client of the player may have a seat, too: in the next match of the room, while
        // this one still has its own in the match that is over.
        let is_own = self.places.owner(from).is_some_and(|(of, _)| of == device);
        let index = self.devices[device].player;
        let player_of = &mut self.players[index];
        match player_of.seated {
            Some((at, when)) if at == from && player_of.id == player => {
                player_of.seated = Some((to, when));
                Ok(())
            }
            Some((at, _)) if at != to && is_own && player_of.id == player => Ok(()),
            _ => misled,
        }
    }

    /// Whether the client of a device need only wait, wherever it is: its session follows it, or it
    /// learns that it has none.
    pub(super) fn is_followed(&self, device: usize) -> bool {
        self.devices[device].client.session().is_some()
    }
}

// --- The spy ------------------------------------------------------------------------------

impl World {
    /// Somebody begins to read what a client says.
    pub(super) fn begin_spying(&mut self, device: usize) {
        if !self.is_left_out(Fault::ForgedSignal) {
            self.devices[device].signals.spied = true;
        }
    }

    /// A client has said something, perhaps a signal.
    pub(super) fn spy_on(&mut self, device: usize, bytes: &[u8]) {
        if !Signal::is_one(bytes) {
            return;
        }
        let own = &mut self.devices[device].signals;
        keep(&mut own.said, bytes);
        if own.spied && self.rng.per_mille(COPIED) {
            let from = self.spys_address();
            self.inject(from, Author::Replayer, bytes);
        }
    }

    fn spys_address(&mut self) -> SocketAddr {
        match self.places.strangers_of(SPY) {
            Some(addr) => addr,
            None => self.places.add_stranger(SPY),
        }
    }

    /// He gives the cookie back, but has no secret.
    fn answer_as_spy(&mut self, from: SocketAddr, signal: Signal) {
        if signal.kind == SignalKind::Challenge {
            let bytes = self.made_up(SignalKind::Move, &signal);
            self.inject(from, Author::Forger, &bytes);
        }
    }

    /// A signal like this one, of another kind and under a secret that is none.
    fn made_up(&mut self, kind: SignalKind, like: &Signal) -> Vec<u8> {
        let mut secret = [0; 16];
        secret[..8].copy_from_slice(&self.rng.bits64().to_le_bytes());
        let pass = Pass {
            session: like.session,
            secret: SessionSecret::from_bytes(secret),
        };
        let signal = Signal::with_cookie(kind, like.conv, &pass, like.counter, like.cookie);
        signal.to_bytes().to_vec()
    }

    /// A signal of nobody's to the server, in the name of a client or of the spy, or to a client in
    /// the name of the server.
    pub(super) fn forge_signal(&mut self, device: usize) {
        let own = &self.devices[device];
        let (addr, conv) = (own.addr, own.client.conv());
        let Some(session) = own.client.session() else {
            return;
        };
        let from = if self.rng.per_mille(500) {
            addr
        } else {
            self.spys_address()
        };
        let near = self.rng.within(1..=20);
        let pass = Pass {
            session,
            secret: SessionSecret::from_bytes([0; 16]),
        };
        let like = Signal::sealed(SignalKind::Knock, conv, &pass, near);
        let own = &self.devices[device].signals;
        let pick = |rng: &mut super::rng::Rng, all: &[Vec<u8>]| match all.len() {
            0 => None,
            len => Some(all[rng.index(len)].clone()),
        };
        let (kind, up) = match self.rng.index(7) {
            0 => {
                if let Some(bytes) = pick(&mut self.rng, &own.said) {
                    self.inject(from, Author::Replayer, &bytes);
                }
                return;
            }
            1 => {
                if let Some(bytes) = pick(&mut self.rng, &own.heard) {
                    self.inject_down(addr, Author::Replayer, &bytes);
                }
                return;
            }
            2 => (SignalKind::Knock, true),
            3 => (SignalKind::Move, true),
            4 => (SignalKind::Reset, false),
            5 => (SignalKind::Alive, false),
            _ => (SignalKind::Challenge, false),
        };
        let bytes = self.made_up(kind, &like);
        if up {
            self.inject(from, Author::Forger, &bytes);
        } else {
            self.inject_down(addr, Author::Forger, &bytes);
        }
    }
}
