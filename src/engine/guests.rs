//! Guests: the sessions that hold no seat, in the order in which they came, and counted for
//! each range of addresses.
//!
//! One datagram makes a guest, and its address may be forged; a seat takes a member of a
//! room that has proved its address. So guests are what a flood consists of, and what makes
//! way for others, the oldest first. A session that holds a seat is no guest and never makes
//! way. [`super::admission`] asks before it opens a session.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::hash::KeyedHash;
use super::session::SessionKey;

/// The number of a guest: whoever came later has a higher one.
pub(super) type GuestId = u64;

/// A range of addresses that one peer may well have to itself: 256 of IPv4, or what one
/// customer is given of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Range {
    /// The first 24 bits.
    V4([u8; 3]),
    /// The first 48 bits.
    V6([u8; 6]),
}

impl Range {
    /// The range of an address. One of IPv4 that comes over an IPv6 socket is one of IPv4.
    pub(super) fn of(addr: SocketAddr) -> Range {
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Range::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Range::V6([a, b, c, d, e, f])
            }
        }
    }
}

/// One guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guest {
    /// Its session.
    pub(super) session: SessionKey,
    range: Range,
}

/// All guests.
#[derive(Debug)]
pub(super) struct Guests {
    by_age: BTreeMap<GuestId, Guest>,
    by_range: HashMap<Range, BTreeSet<GuestId>, KeyedHash>,
    next: GuestId,
}

impl Guests {
    pub(super) fn new(hash: KeyedHash) -> Guests {
        Guests {
            by_age: BTreeMap::new(),
            by_range: HashMap::with_hasher(hash),
            next: 0,
        }
    }

    /// Gives back what was kept for more of them.
    pub(super) fn shrink(&mut self) {
        self.by_range.shrink_to(2 * self.by_range.len());
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// How many of them come from one range.
    pub(super) fn count(&self, range: Range) -> usize {
        self.by_range.get(&range).map_or(0, BTreeSet::len)
    }

    /// The one that has been here longest.
    pub(super) fn oldest(&self) -> Option<Guest> {
        self.by_age.first_key_value().map(|(_, guest)| *guest)
    }

    /// The one of a range that has been here longest.
    pub(super) fn oldest_of(&self, range: Range) -> Option<Guest> {
        let id = self.by_range.get(&range)?.first()?;
        Some(self.by_age[id])
    }

    /// The guest of this number.
    pub(super) fn get(&self, id: GuestId) -> Option<Guest> {
        self.by_age.get(&id).copied()
    }

    /// A session without a seat begins.
    pub(super) fn enter(&mut self, session: SessionKey, addr: SocketAddr) -> GuestId {
        let id = self.next;
        self.next += 1;
        let range = Range::of(addr);
        let guest = Guest { session, range };
        self.by_age.insert(id, guest);
        self.by_range.entry(range).or_default().insert(id);
        id
    }

    /// It has taken a seat, or ended.
    pub(super) fn leave(&mut self, id: GuestId) {
        let guest = self.by_age.remove(&id).expect("it entered and never left");
        let in_range = self.by_range.get_mut(&guest.range).expect("its range");
        in_range.remove(&id);
        if in_range.is_empty() {
            self.by_range.remove(&guest.range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests() -> Guests {
        Guests::new(KeyedHash::new((1, 2)))
    }

    fn addr(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 1)
    }

    #[test]
    fn ranges_are_24_bits_of_ipv4_and_48_of_ipv6() {
        let same = |a, b| Range::of(addr(a)) == Range::of(addr(b));
        assert!(same("10.1.2.3", "10.1.2.255"));
        assert!(!same("10.1.2.3", "10.1.3.3"));
        assert!(same("::ffff:10.1.2.3", "10.1.2.7"));
        assert!(same("2001:db8:1::1", "2001:db8:1:ffff::2"));
        assert!(!same("2001:db8:1::1", "2001:db8:2::1"));
    }

    #[test]
    fn the_oldest_comes_first_everywhere_and_in_its_range() {
        let mut guests = guests();
        let a = guests.enter(10, addr("10.0.0.1"));
        let b = guests.enter(11, addr("10.0.1.1"));
        let c = guests.enter(12, addr("10.0.1.2"));
        let range = Range::of(addr("10.0.1.9"));
        assert_eq!(guests.oldest().map(|guest| guest.session), Some(10));
        assert_eq!(guests.oldest_of(range).map(|g| g.session), Some(11));
        assert_eq!((guests.len(), guests.count(range)), (3, 2));
        guests.leave(a);
        guests.leave(b);
        assert_eq!(guests.oldest().map(|guest| guest.session), Some(12));
        assert_eq!(guests.oldest_of(range), guests.get(c));
        guests.leave(c);
        assert_eq!((guests.oldest(), guests.oldest_of(range)), (None, None));
        assert!(guests.by_range.is_empty(), "nothing is left of a range");
    }
}
