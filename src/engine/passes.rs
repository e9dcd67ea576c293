//! Passes: by what a client of version 2 is known at another address than before. A pass names a
//! session and has a secret; both are drawn by keyed functions of [`Secrets`], so that the engine
//! needs no randomness and the secret of a session that has ended can be computed again.
//!
//! What a signal does with them is in [`super::moving`].
//!
//! [`Secrets`]: super::config::Secrets

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::budget::RangeBudget;
use super::drops::Drop;
use super::guests::Range;
use super::hash::KeyedHash;
use super::session::SessionKey;
use super::time::Time;
use super::wire::signal::{Pass, SessionId, SessionSecret, hmac};
use crate::limits::{
    CHALLENGE_LIFE, REPLACED_KEPT_MAX, SIGNALS_PER_RANGE_AND_SECOND, SIGNALS_PER_SECOND,
};

/// What the keyed function draws; each has its own byte in front.
const DRAWS_SESSION: &[u8] = b"n";
const DRAWS_SECRET: &[u8] = b"s";
const DRAWS_COOKIE: &[u8] = b"c";

/// All passes.
#[derive(Debug)]
pub(super) struct Passes {
    key: [u8; 32],
    drawn: u64,
    by_name: HashMap<SessionId, SessionKey, KeyedHash>,
    /// Sessions whose seat another client has taken, the newest last.
    replaced: VecDeque<SessionId>,
    /// What signals of unknown senders may cost.
    budget: RangeBudget,
}

impl Passes {
    pub(super) fn new(key: [u8; 32], hash: KeyedHash) -> Passes {
        Passes {
            key,
            drawn: 0,
            by_name: HashMap::with_hasher(hash),
            replaced: VecDeque::new(),
            budget: RangeBudget::new(hash, SIGNALS_PER_RANGE_AND_SECOND, SIGNALS_PER_SECOND),
        }
    }

    /// Gives back what was kept for more of them.
    pub(super) fn shrink(&mut self) {
        self.by_name.shrink_to(2 * self.by_name.len());
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// A pass for a session.
    pub(super) fn draw(&mut self, session: SessionKey) -> Pass {
        loop {
            self.drawn += 1;
            let drawn = hmac(&self.key, &[DRAWS_SESSION, &self.drawn.to_le_bytes()]);
            let name = drawn.first_chunk().expect("8 bytes of 16");
            let name = SessionId(u64::from_le_bytes(*name));
            // Two of 64 bits are hardly ever the same.
            if let Entry::Vacant(free) = self.by_name.entry(name) {
                free.insert(session);
                return self.of(name);
            }
        }
    }

    /// The pass of a session of this name, whether it exists or has ended.
    pub(super) fn of(&self, session: SessionId) -> Pass {
        let secret = hmac(&self.key, &[DRAWS_SECRET, &session.0.to_le_bytes()]);
        Pass {
            session,
            secret: SessionSecret::from_bytes(secret),
        }
    }

    /// The session of this name.
    pub(super) fn find(&self, session: SessionId) -> Option<SessionKey> {
        self.by_name.get(&session).copied()
    }

    /// A session has ended.
    pub(super) fn release(&mut self, session: SessionId) {
        self.by_name.remove(&session);
    }

    /// A session makes way for another client of its player.
    pub(super) fn replace(&mut self, session: SessionId) {
        if self.replaced.len() == REPLACED_KEPT_MAX {
            self.replaced.pop_front();
        }
        self.replaced.push_back(session);
    }

    /// Whether a session has ended because of that, and not too many have since.
    pub(super) fn is_replaced(&self, session: SessionId) -> bool {
        self.replaced.contains(&session)
    }

    /// What only somebody can give back who receives at an address.
    pub(super) fn cookie(&self, session: SessionId, counter: u64, addr: SocketAddr) -> [u8; 16] {
        let (name, counter) = (session.0.to_le_bytes(), counter.to_le_bytes());
        let port = addr.port().to_le_bytes();
        let parts = |ip: &[u8]| hmac(&self.key, &[DRAWS_COOKIE, &name, &counter, &port, ip]);
        match addr.ip() {
            IpAddr::V4(ip) => parts(&ip.octets()),
            IpAddr::V6(ip) => parts(&ip.octets()),
        }
    }

    /// Pays for a signal that does not come from the address of its session.
    ///
    /// # Errors
    /// [`Drop::TooManySignals`].
    pub(super) fn pay(&mut self, now: Time, from: SocketAddr) -> Result<(), Drop> {
        let paid = self.budget.pay(now, Range::of(from));
        paid.then_some(()).ok_or(Drop::TooManySignals)
    }
}

/// A question to an address whether its owner receives there.
#[derive(Clone, Copy, Debug)]
struct Challenge {
    addr: SocketAddr,
    /// The first knock from there, and when the newest came.
    first: u64,
    at: Time,
}

/// The pass of a session, and how far its client has counted.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) pass: Pass,
    /// The highest number of a knock that was heard.
    counter: u64,
    /// One at a time: a session moves to one address.
    challenge: Option<Challenge>,
}

impl Standing {
    pub(super) fn new(pass: Pass) -> Standing {
        Standing {
            pass,
            counter: 0,
            challenge: None,
        }
    }

    /// A knock from the address of the session: it moves nowhere. Whoever copied this knock and
    /// was faster has lost his challenge.
    ///
    /// # Errors
    /// [`Drop::SignalReplayed`].
    pub(super) fn knock_at_home(&mut self, counter: u64) -> Result<(), Drop> {
        let asked = self.challenge.is_some_and(|asked| counter >= asked.first);
        if counter <= self.counter && !asked {
            return Err(Drop::SignalReplayed);
        }
        self.counter = self.counter.max(counter);
        self.challenge = None;
        Ok(())
    }

    /// A knock from another address, which is to be challenged.
    ///
    /// # Errors
    /// [`Drop::SignalReplayed`].
    pub(super) fn knock_elsewhere(
        &mut self,
        now: Time,
        counter: u64,
        addr: SocketAddr,
    ) -> Result<(), Drop> {
        if counter <= self.counter {
            return Err(Drop::SignalReplayed);
        }
        self.counter = counter;
        let same = |asked: &Challenge| asked.addr == addr && asked.is_open(now);
        let first = self.challenge.filter(same).map(|asked| asked.first);
        self.challenge = Some(Challenge {
            addr,
            first: first.unwrap_or(counter),
            at: now,
        });
        Ok(())
    }

    /// The answer to a challenge, whose cookie is right.
    ///
    /// # Errors
    /// [`Drop::SignalReplayed`] if nobody was asked there, or that was long ago.
    pub(super) fn answer(&mut self, now: Time, counter: u64, addr: SocketAddr) -> Result<(), Drop> {
        let asked = self.challenge.filter(|asked| {
            asked.addr == addr
                && asked.is_open(now)
                && (asked.first..=self.counter).contains(&counter)
        });
        asked.ok_or(Drop::SignalReplayed)?;
        self.challenge = None;
        Ok(())
    }
}

impl Challenge {
    fn is_open(&self, now: Time) -> bool {
        now.since(self.at) < CHALLENGE_LIFE
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn passes() -> Passes {
        Passes::new([7; 32], KeyedHash::new((1, 2)))
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn standing() -> Standing {
        Standing::new(passes().draw(3))
    }

    const NOW: Time = Time::ZERO;

    #[test]
    fn each_pass_is_another_and_is_found_until_it_is_released() {
        let mut passes = passes();
        let (a, b) = (passes.draw(3), passes.draw(4));
        assert!(a.session != b.session && a.secret != b.secret);
        assert_eq!(passes.find(a.session), Some(3));
        assert_eq!(passes.find(b.session), Some(4));
        passes.release(a.session);
        assert_eq!((passes.find(a.session), passes.len()), (None, 1));
        assert_eq!(passes.of(a.session), a, "its secret can be computed again");
    }

    #[test]
    fn another_start_of_the_server_draws_others() {
        let mut other = Passes::new([8; 32], KeyedHash::new((1, 2)));
        let (a, b) = (passes().draw(3), other.draw(3));
        assert!(a.session != b.session && a.secret != b.secret);
        assert_ne!(other.of(a.session), a);
    }

    #[test]
    fn a_cookie_is_of_one_session_one_knock_and_one_address() {
        let passes = passes();
        let cookie = |name, counter, text| passes.cookie(SessionId(name), counter, addr(text));
        let all = [
            cookie(1, 1, "10.0.0.1:5"),
            cookie(2, 1, "10.0.0.1:5"),
            cookie(1, 2, "10.0.0.1:5"),
            cookie(1, 1, "10.0.0.2:5"),
            cookie(1, 1, "10.0.0.1:6"),
            cookie(1, 1, "[::10.0.0.1]:5"),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one), "{index}");
        }
    }

    #[test]
    fn the_oldest_of_many_that_were_replaced_is_forgotten() {
        let mut passes = passes();
        for name in 0..=REPLACED_KEPT_MAX as u64 {
            passes.replace(SessionId(name));
        }
        assert!(!passes.is_replaced(SessionId(0)));
        assert!(passes.is_replaced(SessionId(1)));
        assert!(passes.is_replaced(SessionId(REPLACED_KEPT_MAX as u64)));
    }

    #[test]
    fn a_knock_counts_once() {
        let mut standing = standing();
        let there = addr("10.0.0.2:5");
        standing.knock_elsewhere(NOW, 5, there).unwrap();
        for counter in [0, 4, 5] {
            let again = standing.knock_elsewhere(NOW, counter, addr("10.0.0.3:5"));
            assert_eq!(again, Err(Drop::SignalReplayed), "{counter}");
        }
        standing.knock_at_home(6).unwrap();
        assert_eq!(standing.knock_at_home(6), Err(Drop::SignalReplayed));
    }

    #[test]
    fn only_who_was_asked_may_answer_once_and_in_time() {
        let (there, other) = (addr("10.0.0.2:5"), addr("10.0.0.3:5"));
        let late = NOW + CHALLENGE_LIFE;
        let asked = || {
            let mut standing = standing();
            standing.knock_elsewhere(NOW, 5, there).unwrap();
            standing
        };
        assert_eq!(standing().answer(NOW, 0, there), Err(Drop::SignalReplayed));
        for (now, counter, addr) in [
            (NOW, 5, other),
            (NOW, 4, there),
            (NOW, 6, there),
            (late, 5, there),
        ] {
            let answered = asked().answer(now, counter, addr);
            assert_eq!(
                answered,
                Err(Drop::SignalReplayed),
                "{now} {counter} {addr}"
            );
        }
        let mut standing = asked();
        standing.answer(NOW, 5, there).unwrap();
        assert_eq!(standing.answer(NOW, 5, there), Err(Drop::SignalReplayed));
    }

    #[test]
    fn a_client_that_knocks_faster_than_answers_come_may_answer_any_of_them() {
        let mut standing = standing();
        let there = addr("10.0.0.2:5");
        for counter in 5..9 {
            standing.knock_elsewhere(NOW, counter, there).unwrap();
        }
        standing.answer(NOW, 6, there).unwrap();
    }

    #[test]
    fn who_copies_a_knock_and_is_faster_gains_nothing_by_it() {
        let mut standing = standing();
        let thief = addr("10.0.0.66:6");
        standing.knock_elsewhere(NOW, 5, thief).unwrap();
        standing.knock_at_home(5).unwrap();
        assert_eq!(standing.answer(NOW, 5, thief), Err(Drop::SignalReplayed));
    }

    #[test]
    fn a_range_that_asks_too_much_silences_itself_and_nobody_else() {
        let mut passes = passes();
        let at = Time::from_millis(999);
        for _ in 0..SIGNALS_PER_RANGE_AND_SECOND {
            passes.pay(at, addr("10.0.0.1:5")).unwrap();
        }
        let more = passes.pay(at, addr("10.0.0.200:6"));
        assert_eq!(more, Err(Drop::TooManySignals), "the same 24 bits");
        passes.pay(at, addr("10.0.1.1:5")).unwrap();
        passes
            .pay(at + Duration::from_millis(1), addr("10.0.0.1:5"))
            .unwrap();
        let mut paid = 1;
        for range in 0..=u8::MAX {
            for host in 0..=u8::MAX {
                let from = SocketAddr::from(([10, range, host, 1], 5));
                paid += u32::from(passes.pay(Time::from_millis(1500), from).is_ok());
            }
        }
        assert_eq!(paid, SIGNALS_PER_SECOND, "those of all in a second");
    }
}
