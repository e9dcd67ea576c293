//! What one session may cost in a second: datagrams, their bytes, and packets. Wide enough
//! for a client that sends everything seven times at the highest rate of frames; what is over
//! is dropped and counted, so that one peer cannot take the loop from the others.

use std::time::Duration;

use super::drops::Drop;
use super::time::Time;
use crate::limits::{
    SESSION_BYTES_PER_SECOND, SESSION_DATAGRAMS_PER_SECOND, SESSION_PACKETS_PER_SECOND,
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
