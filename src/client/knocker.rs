//! The client's side of signals: when it knocks, and which answers it believes.
//!
//! A client that hears nothing for a while, though it should, or whose owner says that its address
//! has changed, asks the server whether it knows the session here. Three answers are possible: yes;
//! yes, but not here, whereupon the session is taken along; no. The server's side is in
//! `engine::moving`.

use std::time::Duration;

use crate::engine::id::Conv;
use crate::engine::time::Time;
use crate::engine::wire::signal::{Pass, Signal, SignalKind};
use crate::limits::{
    KNOCK_AFTER, KNOCK_AFTER_FRAMES, KNOCK_AFTER_IDLE, KNOCK_EVERY_MAX, KNOCK_EVERY_MIN,
};

/// What an answer of the server means.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// The session is alive, and here.
    Alive,
    /// It is elsewhere: this takes it along.
    TakeAlong(Signal),
    /// It is gone.
    Reset,
    /// Another client of the player has its seat.
    Replaced,
}

/// What a client knows of its session besides KCP.
#[derive(Debug)]
pub(super) struct Knocker {
    pass: Pass,
    conv: Conv,
    /// Silence after which it knocks while the match is played.
    patience: Duration,
    /// The number of the newest knock, 0 before the first.
    counter: u64,
    /// The knocks up to here are answered for good.
    settled: u64,
    /// The next one leaves no sooner, `None` for at once.
    not_before: Option<Time>,
    every: Duration,
    /// The owner has asked for one.
    asked_for: bool,
}

impl Knocker {
    /// For the session of this pass, in a match of so many frames a second.
    pub(super) fn new(pass: Pass, conv: Conv, hz: u32) -> Knocker {
        let frames = Duration::from_secs(u64::from(KNOCK_AFTER_FRAMES)) / hz.max(1);
        Knocker {
            pass,
            conv,
            patience: frames.clamp(KNOCK_AFTER, KNOCK_AFTER_IDLE),
            counter: 0,
            settled: 0,
            not_before: None,
            every: KNOCK_EVERY_MIN,
            asked_for: false,
        }
    }

    /// The pass.
    pub(super) fn pass(&self) -> Pass {
        self.pass
    }

    /// The owner wants to know at once.
    pub(super) fn ask(&mut self) {
        self.asked_for = true;
        self.not_before = None;
    }

    /// The server has been heard: the session is here, and no challenge of before is to be answered,
    /// which somebody else may have fetched who has copied a knock.
    pub(super) fn calm(&mut self) {
        self.settled = self.counter;
        self.every = KNOCK_EVERY_MIN;
        self.not_before = None;
    }

    /// When the next knock is due, if the server is silent since `silent_since`, and should have
    /// said something since `awaited_since`.
    pub(super) fn due(
        &self,
        silent_since: Time,
        awaited_since: Option<Time>,
        rtt: Duration,
    ) -> Time {
        let idle = silent_since + KNOCK_AFTER_IDLE;
        let awaited = awaited_since.map(|at| at.max(silent_since) + self.patience + 2 * rtt);
        let suspicious = if self.asked_for {
            Time::ZERO
        } else {
            awaited.map_or(idle, |at| at.min(idle))
        };
        suspicious.max(self.not_before.unwrap_or(Time::ZERO))
    }

    /// The next knock.
    pub(super) fn knock(&mut self, now: Time, rtt: Duration) -> Signal {
        self.asked_for = false;
        self.not_before = Some(now + self.every.max(2 * rtt).min(KNOCK_EVERY_MAX));
        self.every = (2 * self.every).min(KNOCK_EVERY_MAX);
        self.counter += 1;
        self.knock_of(self.counter)
    }

    fn knock_of(&self, counter: u64) -> Signal {
        Signal::sealed(SignalKind::Knock, self.conv, &self.pass, counter)
    }

    /// What a signal means; `None` if it answers no knock of this session.
    pub(super) fn hear(&mut self, signal: &Signal) -> Option<Answer> {
        let pending = self.settled < signal.counter && signal.counter <= self.counter;
        let own = (signal.session, signal.conv) == (self.pass.session, self.conv);
        if !pending || !own {
            return None;
        }
        let kind = signal.kind;
        if kind == SignalKind::Reset {
            let knock = self.knock_of(signal.counter);
            return signal.resets(&knock).then_some(Answer::Reset);
        }
        if !signal.is_of(self.pass.secret) {
            return None;
        }
        match kind {
            SignalKind::Alive => Some(Answer::Alive),
            SignalKind::Challenge => {
                let (conv, pass) = (self.conv, &self.pass);
                let (kind, counter) = (SignalKind::Move, signal.counter);
                let answer = Signal::with_cookie(kind, conv, pass, counter, signal.cookie);
                Some(Answer::TakeAlong(answer))
            }
            SignalKind::Replaced => Some(Answer::Replaced),
            SignalKind::Knock | SignalKind::Move | SignalKind::Reset => None,
        }
    }
}
