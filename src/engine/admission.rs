//! Whose datagram is it? The part of [`Server`] that decides which session of an address a
//! datagram belongs to, and opens sessions; it has no public face.
//!
//! At an unknown address only what can be the first of a conversation opens one. At a known
//! one it may say that the client was started again, or be a late copy; the two look the
//! same, so a *candidate* beside the old session finds out. ARCHITECTURE.md tells why each
//! rule is as it is.

use std::net::SocketAddr;

use siphasher::sip::SipHasher13;

use super::drops::{Disconnect, Drop};
use super::guests::{Guest, Range};
use super::id::Conv;
use super::server::Server;
use super::session::{Place, Rival, Session, SessionKey};
use super::time::Time;
use super::wire::message::{may_begin_connect, may_begin_conversation};
use super::wire::segment::{Cmd, Datagram, distance};
use crate::limits::{SEATLESS_PER_RANGE_MAX, UPLINK_BODY_MAX};

impl Server {
    /// The session that a datagram belongs to, perhaps a new one.
    ///
    /// # Errors
    /// Why it belongs to none.
    pub(super) fn session_of(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &Datagram<'_>,
    ) -> Result<SessionKey, Drop> {
        match self.by_addr.get(&from) {
            Some(key) => self.choose(now, *key, datagram),
            None => self.open(now, from, datagram),
        }
    }

    /// Opens a session for an unknown address, if the datagram begins a conversation.
    fn open(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &Datagram<'_>,
    ) -> Result<SessionKey, Drop> {
        let first = datagram.first();
        let data = strangers_first(datagram).ok_or(Drop::Stranger)?;
        let opening = self.hash(data);
        if self.stopping {
            return Err(Drop::Stopping);
        }
        self.make_space(now, from)?;
        let clock_base = self.draw_clock()?;
        let sink = self.sink.to(from);
        let mut session = Session::new(now, from, Conv(first.conv), clock_base, sink);
        session.opening = opening;
        if datagram.segments().any(|segment| segment.una > 0) {
            session.concede(STRANGERS_UNA_MAX);
        }
        let key = self.begin(session);
        self.by_addr.insert(from, key);
        self.enter_guests(key);
        Ok(key)
    }

    /// Sees to it that one more session from this address is within the bounds: the oldest
    /// without a seat makes way. So a flood displaces itself, and whoever is there for longer
    /// than a round trip gets in between; had it our answer already, it begins anew.
    ///
    /// # Errors
    /// [`Drop::SessionsFull`] if everybody holds a seat.
    fn make_space(&mut self, now: Time, from: SocketAddr) -> Result<(), Drop> {
        let range = Range::of(from);
        if self.guests.count(range) >= SEATLESS_PER_RANGE_MAX {
            let oldest = self.guests.oldest_of(range).expect("there are many");
            self.dismiss(now, oldest);
        }
        if self.by_addr.len() >= self.config.max_sessions {
            let oldest = self.guests.oldest().ok_or(Drop::SessionsFull)?;
            self.dismiss(now, oldest);
        }
        Ok(())
    }

    /// Ends the session of a guest, and the candidate for its place.
    fn dismiss(&mut self, now: Time, guest: Guest) {
        if let Rival::Contested { by, .. } = self.sessions[guest.session].rival {
            self.end(now, by, Disconnect::Crowded);
        }
        self.end(now, guest.session, Disconnect::Crowded);
    }

    /// Counts a session among the guests, unless it holds a seat or is counted.
    pub(super) fn enter_guests(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        if session.guest.is_none() && !matches!(session.place, Place::Holds(..)) {
            session.guest = Some(self.guests.enter(key, session.addr));
        }
    }

    /// The session holds a seat now, or ends.
    pub(super) fn leave_guests(&mut self, key: SessionKey) {
        if let Some(id) = self.sessions[key].guest.take() {
            self.guests.leave(id);
        }
    }

    fn hash(&self, data: &[u8]) -> u64 {
        let (a, b) = self.secrets.hash_key;
        SipHasher13::new_with_keys(a, b).hash(data)
    }

    /// The clock of a new session: nobody can guess it without the key.
    ///
    /// # Errors
    /// [`Drop::Stopping`].
    fn draw_clock(&mut self) -> Result<u32, Drop> {
        if self.stopping {
            return Err(Drop::Stopping);
        }
        self.counters.sessions_opened += 1;
        let (a, b) = self.secrets.clock_key;
        let hash =
            SipHasher13::new_with_keys(a, b).hash(&self.counters.sessions_opened.to_le_bytes());
        let [b0, b1, b2, b3, ..] = hash.to_le_bytes();
        Ok(u32::from_le_bytes([b0, b1, b2, b3]))
    }

    /// Decides which session of a known address a datagram belongs to: the one that is
    /// there, or a candidate that says the client was started again. See "What real
    /// clients do" in the contract.
    fn choose(
        &mut self,
        now: Time,
        key: SessionKey,
        datagram: &Datagram<'_>,
    ) -> Result<SessionKey, Drop> {
        let session = &self.sessions[key];
        let conv = Conv(datagram.first().conv);
        let own = session.link().conv() == conv;
        if let Rival::Contested { by, same_conv } = session.rival {
            return self.choose_rival(now, key, by, same_conv, datagram);
        }
        let Some(first) = first_data(datagram, session.lost_candidate_sent) else {
            return if own { Ok(key) } else { Err(Drop::WrongConv) };
        };
        let opening = self.hash(first);
        let begins = may_begin_connect(first, UPLINK_BODY_MAX);
        let opens = !self.stopping && strangers_first(datagram).is_some();
        let gives_way = session.may_be_replaced(now) || session.opening != opening;
        let had_our_answer = session.link().is_proved() || session.link().peer_una() > 0;
        match (own, begins) {
            (true, true) if had_our_answer => {
                // It cannot need this copy of its Connect.
                if session.may_be_late(now) {
                    self.sessions[key].keep_early(datagram.bytes());
                    self.mark_dirty(key);
                    return Err(Drop::LateFirst);
                }
                self.open_candidate(now, key, conv, opening)
            }
            (true, true) if gives_way && opens => {
                // It has proved nothing, and has fallen silent or began with something else:
                // this is a new life, which need not wait for retransmissions that have
                // slowed down for the old one, nor take its answer.
                let addr = session.addr;
                self.end(now, key, Disconnect::Restarted);
                self.open(now, addr, datagram)
            }
            (true, _) => Ok(key),
            (false, _) if may_begin_conversation(first, UPLINK_BODY_MAX) => {
                self.open_candidate(now, key, conv, opening)
            }
            (false, _) => Err(Drop::WrongConv),
        }
    }

    /// The same while a candidate `by` is there already.
    fn choose_rival(
        &mut self,
        now: Time,
        key: SessionKey,
        by: SessionKey,
        same_conv: bool,
        datagram: &Datagram<'_>,
    ) -> Result<SessionKey, Drop> {
        let conv = Conv(datagram.first().conv);
        let candidate = self.sessions[by].link();
        let of_candidate = candidate.conv() == conv;
        let known = candidate
            .snd_nxt()
            .max(self.sessions[key].lost_candidate_sent);
        let ahead = |una| distance(una, known) > 0;
        if of_candidate && same_conv && datagram.segments().any(|segment| ahead(segment.una)) {
            // The peer has more than the candidate ever sent: the old client lives.
            self.end(now, by, Disconnect::CandidateLost);
            return Ok(key);
        }
        let begins = |data: &&[u8]| may_begin_connect(data, UPLINK_BODY_MAX);
        let first = first_data(datagram, known).filter(begins);
        if let Some(first) = first.filter(|_| self.sessions[by].may_be_replaced(now)) {
            let opening = self.hash(first);
            // The client was started once more before the candidate came to anything.
            self.end(now, by, Disconnect::CandidateLost);
            return self.open_candidate(now, key, conv, opening);
        }
        let session = &self.sessions[key];
        let had_our_answer = session.link().is_proved() || session.link().peer_una() > 0;
        if of_candidate {
            Ok(by)
        } else if first.is_some() && had_our_answer {
            // The session cannot need it. An acknowledgement would silence a client that was
            // started again and must repeat itself until the candidate has had its time.
            self.sessions[key].doubt();
            Err(Drop::LateFirst)
        } else if self.sessions[key].link().conv() == conv {
            Ok(key)
        } else {
            Err(Drop::WrongConv)
        }
    }

    fn open_candidate(
        &mut self,
        now: Time,
        of: SessionKey,
        conv: Conv,
        opening: u64,
    ) -> Result<SessionKey, Drop> {
        // It has the place of the one that it contests, also where no more are let in.
        let clock_base = self.draw_clock()?;
        let old = &self.sessions[of];
        let same_conv = old.link().conv() == conv;
        let mut candidate = if same_conv {
            Session::succeeding(now, old, clock_base)
        } else {
            let sink = self.sink.to(old.addr);
            Session::new(now, old.addr, conv, clock_base, sink)
        };
        candidate.concede(old.lost_candidate_sent);
        candidate.opening = opening;
        let by = self.begin(candidate);
        self.sessions[by].rival = Rival::Candidate { of, same_conv };
        self.sessions[of].rival = Rival::Contested { by, same_conv };
        if same_conv {
            self.sessions[of].doubt();
        }
        Ok(by)
    }

    /// A candidate has proved that its client is the one that lives at the address.
    pub(super) fn settle_rivalry(&mut self, now: Time, key: SessionKey) {
        if let Rival::Candidate { of, .. } = self.sessions[key].rival {
            self.sessions[key].rival = Rival::None;
            self.sessions[of].rival = Rival::None;
            let addr = self.sessions[of].addr;
            self.end(now, of, Disconnect::Restarted);
            self.by_addr.insert(addr, key);
            self.enter_guests(key);
        }
    }
}

/// How many of our segments somebody unknown may have: the answer to its Connect, if its session
/// made way or ran out of time before the proof. It repeats its Connect then, which was never
/// acknowledged, and needs no answer more, but to prove where it is.
const STRANGERS_UNA_MAX: u32 = 1;

/// The first data of a conversation with somebody unknown, who has next to nothing to
/// acknowledge.
fn strangers_first<'a>(datagram: &'a Datagram<'_>) -> Option<&'a [u8]> {
    let acknowledges = datagram.segments().any(|segment| segment.cmd == Cmd::Ack);
    let may_begin = |data: &&[u8]| match first_data(datagram, 0) {
        Some(_) => may_begin_conversation(data, UPLINK_BODY_MAX),
        None => may_begin_connect(data, UPLINK_BODY_MAX),
    };
    first_data(datagram, STRANGERS_UNA_MAX).filter(|data| !acknowledges && may_begin(data))
}

/// The first data of a conversation, if a datagram can be its first: its first PUSH has the
/// first number, and it knows of no more of our segments than `known`. Acknowledgements may
/// stand before it: a client that was started again acknowledges what was meant for the old
/// one.
fn first_data<'a>(datagram: &'a Datagram<'_>, known: u32) -> Option<&'a [u8]> {
    if datagram
        .segments()
        .any(|segment| distance(segment.una, known) > 0)
    {
        return None;
    }
    let mut pushes = datagram
        .segments()
        .filter(|segment| segment.cmd == Cmd::Push);
    pushes
        .next()
        .filter(|first| first.sn == 0)
        .map(|first| first.data)
}
