//! What a signal does: the part of [`Server`] that follows a client of version 2 to a new address,
//! and tells one whose session is gone. It has no public face.
//!
//! Every answer is as long as what it answers. A session moves only if its client knocks from the
//! new address under the session's secret, by a number that was not used before, and gives back the
//! cookie that was sent there: so nobody moves it who cannot read the answer to its Connect, and
//! nobody to where he does not receive. docs/protocol.md has the rules of both sides.

use std::net::SocketAddr;

use super::drops::{Disconnect, Drop};
use super::event::Event;
use super::passes::Standing;
use super::server::Server;
use super::session::{Place, Rival, SessionKey};
use super::time::Time;
use super::wire::signal::{Pass, SessionId, Signal, SignalKind};

impl Server {
    /// Whether a session of this name holds a seat, or watches: a client that knocks for it is not told
    /// that it is gone.
    pub fn has_place(&self, session: SessionId) -> bool {
        let key = self.passes.find(session);
        key.is_some_and(|key| matches!(self.sessions[key].place, Place::Holds(..)))
    }

    /// The pass of a session, which gets one with its first answer of version 2.
    pub(super) fn pass_of(&mut self, key: SessionKey) -> Pass {
        let passes = &mut self.passes;
        let standing = &mut self.sessions[key].standing;
        standing
            .get_or_insert_with(|| Box::new(Standing::new(passes.draw(key))))
            .pass
    }

    /// A session loses its seat to another client of its player. Under the same conversation number
    /// it is the same client, which has begun anew: it may ask what it likes.
    pub(super) fn note_replaced(&mut self, before: SessionKey, by: SessionKey) {
        let [before, by] = [before, by].map(|key| &self.sessions[key]);
        if let Some(standing) = &before.standing
            && before.link().conv() != by.link().conv()
        {
            self.passes.replace(standing.pass.session);
        }
    }

    /// Takes in a signal.
    ///
    /// # Errors
    /// Why it was dropped.
    pub(super) fn handle_signal(
        &mut self,
        now: Time,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), Drop> {
        let signal = Signal::parse(bytes)?;
        let key = self.passes.find(signal.session);
        match key.filter(|key| self.sessions[*key].addr == from) {
            Some(key) => self.sessions[key].budget.datagram(now, bytes.len())?,
            None => self.passes.pay(now, from)?,
        }
        match (signal.kind, key) {
            (SignalKind::Knock, Some(key)) => self.knock(now, from, key, &signal),
            (SignalKind::Knock, None) => self.knock_of_nobody(from, &signal),
            (SignalKind::Move, Some(key)) => self.answer_to_challenge(now, from, key, &signal),
            // The client will knock again.
            (SignalKind::Move, None) => Err(Drop::SignalReplayed),
            _ => Err(Drop::SignalMalformed),
        }
    }

    fn knock(
        &mut self,
        now: Time,
        from: SocketAddr,
        key: SessionKey,
        knock: &Signal,
    ) -> Result<(), Drop> {
        let pass = self.check(key, knock)?;
        let free = self.check_free(from, key);
        let session = &mut self.sessions[key];
        let seated = matches!(session.place, Place::Holds(..));
        let standing = session.standing.as_mut().expect("it was found by its pass");
        if session.addr == from {
            standing.knock_at_home(knock.counter)?;
            self.signal(from, SignalKind::Alive, knock, &pass);
        } else if seated {
            free?;
            standing.knock_elsewhere(now, knock.counter, from)?;
            let cookie = self.passes.cookie(pass.session, knock.counter, from);
            let kind = SignalKind::Challenge;
            let challenge = Signal::with_cookie(kind, knock.conv, &pass, knock.counter, cookie);
            self.sink.to(from).push(&challenge.to_bytes());
        } else {
            // It has nothing to take along.
            self.reset(from, knock);
        }
        Ok(())
    }

    fn knock_of_nobody(&mut self, from: SocketAddr, knock: &Signal) -> Result<(), Drop> {
        if !self.passes.is_replaced(knock.session) {
            self.reset(from, knock);
            return Ok(());
        }
        let pass = self.passes.of(knock.session);
        if !knock.is_of(pass.secret) {
            return Err(Drop::SignalForged);
        }
        self.signal(from, SignalKind::Replaced, knock, &pass);
        Ok(())
    }

    fn answer_to_challenge(
        &mut self,
        now: Time,
        from: SocketAddr,
        key: SessionKey,
        answer: &Signal,
    ) -> Result<(), Drop> {
        let pass = self.check(key, answer)?;
        let cookie = self.passes.cookie(pass.session, answer.counter, from);
        if !answer.brings(cookie) {
            return Err(Drop::SignalForged);
        }
        self.check_free(from, key)?;
        let standing = self.sessions[key].standing.as_mut();
        let standing = standing.expect("it was found by its pass");
        standing.answer(now, answer.counter, from)?;
        self.move_session(now, key, from);
        self.signal(from, SignalKind::Alive, answer, &pass);
        Ok(())
    }

    /// Whether a signal is of this session's client; returns its pass.
    fn check(&self, key: SessionKey, signal: &Signal) -> Result<Pass, Drop> {
        let session = &self.sessions[key];
        let standing = session.standing.as_ref().expect("it was found by its pass");
        if signal.conv != session.link().conv() || !signal.is_of(standing.pass.secret) {
            return Err(Drop::SignalForged);
        }
        Ok(standing.pass)
    }

    /// Whether a session may move to an address: not while another there holds a seat. Others may
    /// have been made by anybody, and make way.
    fn check_free(&self, addr: SocketAddr, key: SessionKey) -> Result<(), Drop> {
        let there = self.by_addr.get(&addr).filter(|there| **there != key);
        match there
            .map(|there| &self.sessions[*there])
            .map(|session| session.place)
        {
            Some(Place::Holds(..)) => Err(Drop::MoveRefused),
            Some(Place::None | Place::Claims(..)) | None => Ok(()),
        }
    }

    /// Moves a session that holds a seat.
    fn move_session(&mut self, now: Time, key: SessionKey, to: SocketAddr) {
        if let Some(other) = self.by_addr.get(&to).copied() {
            if let Rival::Contested { by, .. } = self.sessions[other].rival {
                self.end(now, by, Disconnect::Displaced);
            }
            self.end(now, other, Disconnect::Displaced);
        }
        let session = &mut self.sessions[key];
        let Place::Holds(room, spot) = session.place else {
            unreachable!("only a session with a seat is challenged, and it keeps it");
        };
        let from = session.addr;
        let rival = std::mem::replace(&mut session.rival, Rival::None);
        let back = session.move_to(now, to);
        match rival {
            Rival::Contested { by, .. } => {
                // Whoever was started there has the address to itself.
                self.sessions[by].rival = Rival::None;
                self.by_addr.insert(from, by);
                self.enter_guests(by);
                self.mark_dirty(by);
            }
            Rival::None => {
                self.by_addr.remove(&from);
            }
            Rival::Candidate { .. } => unreachable!("a candidate holds no seat"),
        }
        self.by_addr.insert(to, key);
        self.mark_dirty(key);
        self.counters.sessions_moved += 1;
        let player = self.rooms[room].room.player_at(spot);
        let id = self.rooms[room].room.id();
        self.tell(Event::SessionMoved {
            from,
            to,
            player,
            room: id,
        });
        if back {
            self.report_online(now, key, true);
        }
    }

    /// Answers a signal under the secret of its session.
    fn signal(&self, to: SocketAddr, kind: SignalKind, question: &Signal, pass: &Pass) {
        let answer = Signal::sealed(kind, question.conv, pass, question.counter);
        self.sink.to(to).push(&answer.to_bytes());
    }

    fn reset(&mut self, to: SocketAddr, knock: &Signal) {
        self.counters.resets += 1;
        self.sink.to(to).push(&Signal::reset(knock).to_bytes());
    }
}
