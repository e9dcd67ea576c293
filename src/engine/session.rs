//! A session: one peer's conversation, from its first datagram to its end.
//!
//! It holds the [`Link`] (KCP), puts the packets of the stream together, and judges the
//! peer by what is heard of it: alive, quiet, silent, stalled. It knows its place in a
//! room only as a number; [`crate::engine::server`] looks after both.
//!
//! Three states of the outside world decide what leaves it:
//!
//! - *open*: KCP sends as it likes;
//! - *quiet*: a peer that had proved its address has been silent for 500 ms. It gets only
//!   probes until it speaks, so that no retransmission reaches a client which was
//!   restarted on the same address and occupies its sequence numbers;
//! - *contested*: something at the address began a new conversation under the same number.
//!   The session pauses, and a candidate beside it finds out which of the two lives.

use std::net::SocketAddr;
use std::time::Duration;

use super::beats::on_beat;
use super::budget::Budget;
use super::drops::{Disconnect, Drop};
use super::elsewhere::Wish;
use super::guests::GuestId;
use super::id::{Conv, MatchId, PlayerId, Seat, Spot};
use super::link::{Link, Valve};
use super::passes::Standing;
use super::time::Time;
use super::transmit::Sink;
use super::wire::message::{Version, WatchFrom};
use super::wire::packet::PacketReader;
use super::wire::segment::Datagram;
use crate::limits::{
    ACK_PROMPT_FOR, ACK_RIDE_MAX, BACKLOG_MAX, FRAME_SEGMENTS_IN_KCP_MAX, OFFLINE_AFTER, PAST_LIFE,
    PROBE_EVERY_FAST, PROBE_EVERY_IDLE, PROBE_EVERY_SLOW, QUIET_AFTER, REPEAT_FIRST_EVERY,
    SEATLESS_LIFE, UNPROVED_LIFE, UNPROVED_SILENCE_MAX,
};

/// The slab key of a session.
pub(super) type SessionKey = usize;
/// The slab key of a room.
pub(super) type RoomKey = usize;

/// What a Connect asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// To play at this seat.
    Seat(Seat),
    /// To watch, as this player.
    Watch(PlayerId, WatchFrom),
}

/// Where a session stands with rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere.
    None,
    /// It was answered Ok to its Connect and gets what it claims when it proves its address, if
    /// this match, and no other in its place, still runs then.
    Claims(RoomKey, MatchId, Claim),
    /// It holds the seat, or watches.
    Holds(RoomKey, Spot),
}

/// Where a session stands with another one of the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rival {
    /// It is alone.
    None,
    /// This candidate may replace it.
    Contested {
        /// The candidate.
        by: SessionKey,
        /// Both use the same conversation number, so that one confuses the other's client.
        same_conv: bool,
    },
    /// It is a candidate and may replace this one.
    Candidate {
        /// The session it may replace.
        of: SessionKey,
        /// Both use the same conversation number.
        same_conv: bool,
    },
}

impl Rival {
    /// Whether it is a candidate that may replace this session.
    pub(super) fn is_candidate_of(self, session: SessionKey) -> bool {
        matches!(self, Rival::Candidate { of, .. } if of == session)
    }
}

/// What a datagram has changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    /// The peer has just proved its address.
    pub(super) proved: bool,
    /// It had been silent for so long that its seat counted as offline.
    pub(super) back: bool,
    /// Some of its data came too early, before the proof.
    pub(super) over: bool,
    /// Nothing is to be done for it at the end of the turn.
    pub(super) settled: bool,
}

/// One peer's conversation.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) addr: SocketAddr,
    pub(super) place: Place,
    pub(super) rival: Rival,
    /// What its client speaks, as far as it has said.
    pub(super) version: Version,
    /// How its client of v2 is known elsewhere.
    pub(super) standing: Option<Box<Standing>>,
    /// A Connect that waits: for the proof, and for the word where its room is.
    pub(super) waiting: Option<Box<Wish>>,
    /// Its client may have a first answer that was not this session's.
    pub(super) conceded: bool,
    /// Its number among the guests: it holds no seat, and is no candidate.
    pub(super) guest: Option<GuestId>,
    /// What it may still cost.
    pub(super) budget: Budget,
    /// Its packets; taken out while they are read.
    pub(super) reader: PacketReader,
    link: Link,
    /// Since when it may be without a place: its beginning, or the loss of one.
    seatless_since: Time,
    /// The last sign of life.
    heard_at: Time,
    /// The last time that something was acknowledged, or that nothing was outstanding.
    progress_at: Time,
    probed_at: Option<Time>,
    /// Its silence has been reported to its room.
    offline: bool,
    /// Something at its address looked like a client that was started again. Until the peer
    /// shows that it is the one of old, it gets no acknowledgement: one would tell a new
    /// client that its Connect has arrived.
    in_doubt: bool,
    /// A datagram that looked like the restart of its client but may have been late. If the
    /// peer says nothing more, it was not.
    early: Option<Box<[u8]>>,
    /// How many segments a candidate for its place had sent before it lost: the client that
    /// was started again may have them.
    pub(super) lost_candidate_sent: u32,
    /// What it began with, as a hash: the same address may begin with something else before
    /// it has proved anything.
    pub(super) opening: u64,
    /// Something was heard since the last flush.
    heard: bool,
    /// Until when the peer is acknowledged at once: it has repeated itself.
    prompt_until: Time,
    /// What is to be acknowledged waits for the frame that leaves then. It takes no timer: the
    /// room's own has the session flushed.
    pub(super) rides_at: Option<Time>,
    /// Since when its silence counts: its match has started, or it has.
    watched_since: Time,
    /// Segments that may wait before the peer is taken to ask without acknowledging.
    backlog_max: usize,
    /// Its room had more for it than its link took.
    pub(super) behind: bool,
    /// The sequence number behind the last frames that it had asked for.
    fetched_end: u32,
    /// It waits in the server's list for the end of the turn.
    pub(super) dirty: bool,
    /// Its timer in the wheel: deadline and generation.
    pub(super) timer: Option<(Time, u64)>,
}

impl Session {
    /// A session with somebody new.
    pub(super) fn new(
        now: Time,
        addr: SocketAddr,
        conv: Conv,
        clock_base: u32,
        sink: Sink,
    ) -> Session {
        Session::around(now, addr, Link::new(conv, clock_base, sink))
    }

    /// A candidate for the place of `old`, under the same conversation number.
    pub(super) fn succeeding(now: Time, old: &Session, clock_base: u32) -> Session {
        Session::around(now, old.addr, Link::succeeding(&old.link, now, clock_base))
    }

    fn around(now: Time, addr: SocketAddr, link: Link) -> Session {
        Session {
            addr,
            place: Place::None,
            rival: Rival::None,
            version: Version::V1,
            standing: None,
            waiting: None,
            conceded: false,
            guest: None,
            budget: Budget::new(now),
            reader: PacketReader::default(),
            link,
            seatless_since: now,
            heard_at: now,
            progress_at: now,
            probed_at: None,
            offline: false,
            in_doubt: false,
            early: None,
            lost_candidate_sent: 0,
            opening: 0,
            heard: false,
            prompt_until: now,
            rides_at: None,
            watched_since: now,
            backlog_max: BACKLOG_MAX,
            behind: false,
            fetched_end: 0,
            dirty: false,
            timer: None,
        }
    }

    // --- Getters --------------------------------------------------------------------------

    /// Reads a little of all of it, so that it is in the processor's cache. The sum means nothing.
    pub(super) fn touch(&self) -> usize {
        let flags = self.timer.is_some() ^ self.dirty ^ (self.addr.port() == 0);
        let later = self.heard_at < self.watched_since;
        self.link.touch() ^ usize::from(flags ^ later)
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Whether what looks like the restart of its client may be a late copy of its first
    /// datagram, and a candidate could not tell: the peer has our answer and no more, as a
    /// new client would, and it spoke a moment ago.
    pub(super) fn may_be_late(&self, now: Time) -> bool {
        self.link.peer_una() <= 1 && now.since(self.heard_at) < PAST_LIFE
    }

    /// Whether its stream may be read: what follows a Connect waits for the proof, and for its
    /// answer.
    pub(super) fn may_be_read(&self) -> bool {
        !matches!(self.place, Place::Claims(..)) && self.waiting.is_none()
    }

    fn valve(&self, now: Time) -> Valve {
        let quiet = self.link.is_proved() && now.since(self.heard_at) >= QUIET_AFTER;
        self.valve_if(quiet)
    }

    fn valve_if(&self, quiet: bool) -> Valve {
        match self.rival {
            Rival::Contested {
                same_conv: true, ..
            } => Valve::Shut,
            _ if quiet => Valve::Shut,
            // It must go on repeating itself until the proof: each repetition fetches
            // another copy of the answer, to be echoed.
            _ if !self.link.is_proved() || self.in_doubt => Valve::NoAcknowledgements,
            // So must one that waits for its answer: if its session makes way for others meanwhile,
            // it comes again by itself.
            _ if self.waiting.is_some() => Valve::NoAcknowledgements,
            _ => Valve::Open,
        }
    }

    /// Whether more frames may be put into the link now.
    pub(super) fn takes_frames(&self, now: Time) -> bool {
        self.valve(now) != Valve::Shut && self.link.is_proved()
    }

    /// Whether frames that it has asked for may be put into the link now. They arrive in order with
    /// everything else, so what comes live must not wait behind many of them: those before have
    /// arrived, and what else is under way leaves room.
    pub(super) fn takes_fetched(&self) -> bool {
        let room = self.link.window().min(FRAME_SEGMENTS_IN_KCP_MAX) / 2;
        self.link.has_arrived(self.fetched_end) && self.link.backlog() <= room
    }

    /// Whether it has proved nothing and nothing has been heard of it for so long that the
    /// beginning of another conversation may take its place.
    pub(super) fn may_be_replaced(&self, now: Time) -> bool {
        !self.link.is_proved() && now.since(self.heard_at) >= UNPROVED_SILENCE_MAX
    }

    /// Why the session must end now, if it must.
    ///
    /// A candidate has as much time as any session: while the proof is held up by a bad
    /// network, its client has our answer and can never begin anew under the same number.
    pub(super) fn fate(&self, now: Time, idle_timeout: Duration) -> Option<Disconnect> {
        let reason = if now.since(self.heard_at) >= self.silence_max(idle_timeout) {
            Disconnect::Idle
        } else if self.link.backlog() > 0 && now.since(self.progress_at) >= idle_timeout {
            Disconnect::Stalled
        } else if self.link.backlog() > self.backlog_max {
            Disconnect::Backlog
        } else if self.seat_by().is_some_and(|by| by <= now) {
            Disconnect::NoSeatTaken
        } else {
            return None;
        };
        match self.rival {
            Rival::Candidate { .. } => Some(Disconnect::CandidateLost),
            Rival::None | Rival::Contested { .. } => Some(reason),
        }
    }

    /// The silence of which it ends.
    fn silence_max(&self, idle_timeout: Duration) -> Duration {
        match self.rival {
            Rival::None if !self.link.is_proved() => idle_timeout.min(UNPROVED_LIFE),
            _ => idle_timeout,
        }
    }

    /// When it must hold a seat, unless it does.
    fn seat_by(&self) -> Option<Time> {
        match self.place {
            Place::Holds(..) => None,
            Place::None | Place::Claims(..) => Some(self.seatless_since + SEATLESS_LIFE),
        }
    }

    /// The first beat after `now` at which [`Session::deadline`] is over.
    pub(super) fn next_deadline(&self, now: Time, idle_timeout: Duration) -> Time {
        let at = self.deadline(now, idle_timeout);
        on_beat(at.max(now + Duration::from_micros(1)))
    }

    /// Whether nothing is to be done now for one whose timer has fired: it was set when its
    /// deadline was sooner.
    pub(super) fn has_time(&self, now: Time, idle_timeout: Duration) -> bool {
        self.is_settled() && self.deadline(now, idle_timeout) > now
    }

    /// When [`Session::fate`], [`Session::falls_offline`] or [`Session::flush`] must be
    /// looked at again though nothing happens.
    fn deadline(&self, now: Time, idle_timeout: Duration) -> Time {
        let mut at = self.heard_at + self.silence_max(idle_timeout);
        let mut sooner = |deadline: Time| at = at.min(deadline);
        if self.link.backlog() > 0 {
            sooner(self.progress_at + idle_timeout);
        }
        self.seat_by().into_iter().for_each(&mut sooner);
        if self.early.is_some() {
            sooner(self.heard_at + PAST_LIFE);
        }
        if !self.offline && matches!(self.place, Place::Holds(..)) {
            sooner(self.heard_at.max(self.watched_since) + OFFLINE_AFTER);
        }
        if self.may_probe() {
            sooner(self.next_probe(now, idle_timeout));
        }
        if let Some(due) = self.next_flush(now) {
            sooner(due);
        }
        at
    }

    /// When KCP must be flushed though nothing happens. Who has proved nothing gets its answer
    /// again when it speaks again, and so costs nothing while it is silent. Not so a candidate:
    /// if it came of a late copy, the client that lives has nothing to repeat, and only its
    /// word that it has more than the candidate's answer makes the old session go on.
    fn next_flush(&self, now: Time) -> Option<Time> {
        let asks = matches!(self.rival, Rival::Candidate { .. }) || self.link.is_proved();
        let wakes = asks && self.valve(now) != Valve::Shut;
        self.link.next_flush(now).filter(|_| wakes)
    }

    // --- Commands -------------------------------------------------------------------------

    /// Queues one packet, as one KCP message.
    pub(super) fn send(&mut self, now: Time, packet: &[u8]) {
        if self.link.backlog() == 0 {
            self.progress_at = now;
        }
        self.link.send(packet);
    }

    /// The last of what was queued are frames that it has asked for.
    pub(super) fn has_fetched(&mut self) {
        self.fetched_end = self.link.queued();
    }

    /// Takes in a datagram of this conversation.
    ///
    /// # Errors
    /// Why it was dropped whole.
    pub(super) fn input(&mut self, now: Time, datagram: &mut Datagram<'_>) -> Result<News, Drop> {
        // A peer that speaks is not quiet, and what is due for it may leave already.
        let before = self.valve(now);
        let quiet = !self.link.is_news(datagram) && before == Valve::Shut;
        self.link.set_valve(self.valve_if(quiet));
        let heard = self.link.input(now, datagram);
        if heard.is_err() {
            // Nobody has spoken.
            self.link.set_valve(before);
        }
        let heard = heard?;
        self.heard = true;
        let mut back = false;
        if heard.fresh {
            // What is older than the newest may come from the past of the same address and
            // is no sign of life.
            self.heard_at = now;
            self.in_doubt = false;
            self.early = None;
            back = std::mem::take(&mut self.offline);
        }
        if heard.progress {
            self.progress_at = now;
        }
        if heard.repeated {
            self.prompt_until = now + ACK_PROMPT_FOR;
            self.rides_at = None;
        }
        Ok(News {
            proved: heard.proved,
            back,
            over: heard.over,
            settled: before == Valve::Open && self.is_settled() && self.timer.is_some(),
        })
    }

    /// Whether there is nothing to be flushed or pumped, so that its timer is enough: what was
    /// heard can only have made its deadlines later.
    fn is_settled(&self) -> bool {
        let undisputed = matches!(self.rival, Rival::None) && self.early.is_none();
        undisputed && self.link.is_proved() && !(self.has_to_say() || self.behind)
    }

    /// Whether something is to be flushed that waits for no frame.
    fn has_to_say(&self) -> bool {
        let acks = self.link.owes_ack() && self.rides_at.is_none();
        self.link.wants_flush() || acks
    }

    /// Whether it may stay out of the list of those that are flushed.
    pub(super) fn may_sleep(&self) -> bool {
        self.link.is_shut() || !self.has_to_say()
    }

    /// Its client may have so many segments from an earlier candidate that lost.
    pub(super) fn concede(&mut self, segments: u32) {
        self.conceded |= segments > 0;
        self.link.concede(segments);
    }

    /// Something at its address looks like a client that was started again.
    pub(super) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// Keeps a datagram that looks like that but may be late.
    pub(super) fn keep_early(&mut self, datagram: &[u8]) {
        self.doubt();
        self.early = Some(datagram.into());
    }

    /// The datagram that was kept, once it has turned out that it was not late.
    pub(super) fn take_early(&mut self, now: Time) -> Option<Box<[u8]>> {
        if self.may_be_late(now) {
            return None;
        }
        self.early.take()
    }

    /// It has won its place: what comes now stays off the sequence numbers that its peer may
    /// have filled with what the conversation before had sent.
    pub(super) fn leave_the_past(&mut self, now: Time, filler: &[u8]) {
        self.progress_at = now;
        let fillers = usize::try_from(self.link.fill(filler)).expect("32 bits fit");
        self.backlog_max += fillers;
    }

    /// Takes the next whole message into `buffer`.
    ///
    /// # Errors
    /// [`Disconnect::MessageTooLarge`].
    pub(super) fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Disconnect> {
        self.link.recv(buffer)
    }

    /// Its match starts: silence counts from now on.
    pub(super) fn watch(&mut self, now: Time) {
        self.watched_since = now;
        self.offline = false;
    }

    /// It has no place any more, through no fault of its own, and has to be told so first.
    pub(super) fn lose_place(&mut self, now: Time) {
        self.place = Place::None;
        self.seatless_since = now;
    }

    /// Its peer has shown that it is at another address now, which is a sign of life and ends every
    /// doubt that came up at the old one. Returns whether its silence had been reported.
    pub(super) fn move_to(&mut self, now: Time, to: SocketAddr) -> bool {
        self.addr = to;
        self.link.move_to(to);
        self.heard_at = now;
        self.progress_at = now;
        self.probed_at = None;
        self.in_doubt = false;
        self.early = None;
        self.lost_candidate_sent = 0;
        self.prompt_until = now + ACK_PROMPT_FOR;
        self.rides_at = None;
        std::mem::take(&mut self.offline)
    }

    /// Whether its silence makes its seat offline now; true once for each silence.
    pub(super) fn falls_offline(&mut self, now: Time) -> bool {
        let silent_since = self.heard_at.max(self.watched_since);
        let falls = !self.offline && now.since(silent_since) >= OFFLINE_AFTER;
        self.offline |= falls;
        falls
    }

    /// Lets leave what is due. `next_packet` is when the next packet leaves for certain. Returns
    /// whether a probe was sent.
    pub(super) fn flush(
        &mut self,
        now: Time,
        idle_timeout: Duration,
        next_packet: Option<Time>,
    ) -> bool {
        let valve = self.valve(now);
        self.link.set_valve(valve);
        if valve != Valve::Shut {
            let due = self.next_flush(now).is_some_and(|at| at <= now);
            let acks = self.link.owes_ack() && !self.lets_acks_ride(now, valve, next_packet);
            if due || acks || self.link.wants_flush() {
                self.link.flush(now);
                self.rides_at = None;
            }
        } else {
            self.rides_at = None;
        }
        if std::mem::take(&mut self.heard) {
            self.link.repeat_first(now, REPEAT_FIRST_EVERY);
        }
        let probe = self.may_probe() && self.next_probe(now, idle_timeout) <= now;
        if probe {
            self.probed_at = Some(now);
            self.link.probe(now);
        }
        probe
    }

    /// Whether what is to be acknowledged may wait for the next packet. Not if the peer repeats
    /// itself: it would do so once more for each acknowledgement that waits.
    fn lets_acks_ride(&mut self, now: Time, valve: Valve, next_packet: Option<Time>) -> bool {
        if self.prompt_until > now || valve != Valve::Open {
            return false;
        }
        if self.rides_at.is_none() {
            self.rides_at = next_packet.filter(|at| *at <= now + ACK_RIDE_MAX);
        }
        self.rides_at.is_some_and(|at| at > now)
    }

    /// Nobody probes a stranger. A paused session does probe: a client that was started again
    /// answers that it has nothing, and the one of old that it has more than the candidate sent,
    /// who may never say a word that asks for it.
    fn may_probe(&self) -> bool {
        self.link.is_proved()
    }

    fn next_probe(&self, now: Time, idle_timeout: Duration) -> Time {
        let quiet_at = self.heard_at + QUIET_AFTER;
        let every = if now.since(self.heard_at) >= OFFLINE_AFTER {
            PROBE_EVERY_SLOW
        } else if self.link.backlog() == 0 && !self.behind {
            PROBE_EVERY_IDLE.min(idle_timeout / 4)
        } else {
            PROBE_EVERY_FAST
        };
        self.probed_at
            .map_or(quiet_at, |at| quiet_at.max(at + every))
    }
}
