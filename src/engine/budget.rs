//! What one session may cost in a second: datagrams, their bytes, and packets. Wide enough
//! for a client that sends everything seven times at the highest rate of frames; what is over
//! is dropped and counted, so that one peer cannot take the loop from the others. And what all the
//! senders of one range of addresses, and all senders together, may cost.

use std::hash::BuildHasher;
use std::time::Duration;

use super::drops::Drop;
use super::guests::Range;
use super::hash::KeyedHash;
use super::time::Time;
use crate::limits::{
    RANGE_PLACES, SESSION_BYTES_PER_SECOND, SESSION_DATAGRAMS_PER_SECOND,
    SESSION_PACKETS_PER_SECOND,
};

const WINDOW: Duration = Duration::from_secs(1);

/// What a session has used up of the current second. Seconds begin with the first thing
/// that is counted in them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    since: Time,
    datagrams: u32,
    bytes: usize,
    packets: u32,
}

impl Budget {
    pub(super) fn new(now: Time) -> Budget {
        Budget {
            since: now,
            datagrams: 0,
            bytes: 0,
            packets: 0,
        }
    }

    /// Pays for one datagram of so many bytes.
    ///
    /// # Errors
    /// [`Drop::TooManyDatagrams`], [`Drop::TooManyBytes`].
    pub(super) fn datagram(&mut self, now: Time, bytes: usize) -> Result<(), Drop> {
        self.begin_second(now);
        if self.datagrams >= SESSION_DATAGRAMS_PER_SECOND {
            return Err(Drop::TooManyDatagrams);
        }
        if self.bytes + bytes > SESSION_BYTES_PER_SECOND {
            return Err(Drop::TooManyBytes);
        }
        self.datagrams += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// Pays for one packet.
    ///
    /// # Errors
    /// [`Drop::TooManyPackets`].
    pub(super) fn packet(&mut self, now: Time) -> Result<(), Drop> {
        self.begin_second(now);
        if self.packets >= SESSION_PACKETS_PER_SECOND {
            return Err(Drop::TooManyPackets);
        }
        self.packets += 1;
        Ok(())
    }

    fn begin_second(&mut self, now: Time) {
        if now.since(self.since) >= WINDOW {
            *self = Budget::new(now);
        }
    }
}

/// So much in a second of each range of addresses, and of all.
#[derive(Debug)]
pub(super) struct RangeBudget {
    hash: KeyedHash,
    of_range_max: u32,
    of_all_max: u32,
    since: Time,
    all: u32,
    /// Ranges share a place by chance.
    ranges: Vec<u32>,
}

impl RangeBudget {
    pub(super) fn new(hash: KeyedHash, of_range_max: u32, of_all_max: u32) -> RangeBudget {
        RangeBudget {
            hash,
            of_range_max,
            of_all_max,
            since: Time::ZERO,
            all: 0,
            ranges: vec![0; RANGE_PLACES],
        }
    }

    /// Pays for one thing of a range; false if there is nothing left for it.
    pub(super) fn pay(&mut self, now: Time, range: Range) -> bool {
        if now.since(self.since) >= WINDOW {
            self.since = now;
            self.all = 0;
            self.ranges.fill(0);
        }
        let places = self.ranges.len() as u64;
        let place = usize::try_from(self.hash.hash_one(range) % places).expect("a place");
        let own = &mut self.ranges[place];
        if *own >= self.of_range_max || self.all >= self.of_all_max {
            return false;
        }
        *own += 1;
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own_budget() {
        let mut budget = Budget::new(Time::ZERO);
        let at = Time::from_millis(999);
        for _ in 0..SESSION_DATAGRAMS_PER_SECOND {
            budget.datagram(at, 100).unwrap();
        }
        assert_eq!(budget.datagram(at, 100), Err(Drop::TooManyDatagrams));
        for _ in 0..SESSION_PACKETS_PER_SECOND {
            budget.packet(at).unwrap();
        }
        assert_eq!(budget.packet(at), Err(Drop::TooManyPackets));
        let later = Time::from_millis(1000);
        budget.datagram(later, SESSION_BYTES_PER_SECOND).unwrap();
        assert_eq!(budget.datagram(later, 1), Err(Drop::TooManyBytes));
        budget.packet(later).unwrap();
    }
}
