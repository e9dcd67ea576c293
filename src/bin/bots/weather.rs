//! The network between a player and the server: it loses, delays and reorders datagrams, the
//! same ones for the same seed and the same traffic.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::RangeInclusive;
use std::time::Duration;

use lockstep_server::engine::time::Time;

/// Datagrams under way in one direction at the most; more are lost, as in a router.
const UNDER_WAY_MAX: usize = 4096;

/// What the network does to datagrams, in each direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// The share that is lost, 0 to 1.
    pub(crate) loss: f64,
    /// What every datagram takes.
    pub(crate) delay: Duration,
    /// What it takes besides at the most, drawn anew for each.
    pub(crate) jitter: Duration,
}

impl Weather {
    /// It does nothing at all.
    pub(crate) fn is_clear(&self) -> bool {
        self.loss == 0.0 && self.delay.is_zero() && self.jitter.is_zero()
    }
}

/// One direction of one player's network.
#[derive(Debug)]
pub(crate) struct Way {
    weather: Weather,
    random: SplitMix,
    /// Arrival and the order of sending; a later datagram may arrive earlier.
    under_way: BinaryHeap<Reverse<(Time, u64, Vec<u8>)>>,
    sent: u64,
    lost: u64,
}

impl Way {
    /// A direction with a sequence of random numbers of its own.
    pub(crate) fn new(weather: Weather, seed: u64) -> Way {
        Way {
            weather,
            random: SplitMix(seed),
            under_way: BinaryHeap::new(),
            sent: 0,
            lost: 0,
        }
    }

    /// Sends a datagram on its way.
    pub(crate) fn put(&mut self, now: Time, datagram: &[u8]) {
        let lost = self.random.unit() < self.weather.loss;
        let jitter = self.weather.jitter.mul_f64(self.random.unit());
        if lost || self.under_way.len() >= UNDER_WAY_MAX {
            self.lost += 1;
            return;
        }
        self.sent += 1;
        let arrival = now + self.weather.delay + jitter;
        self.under_way
            .push(Reverse((arrival, self.sent, datagram.to_vec())));
    }

    /// The next datagram that has arrived.
    pub(crate) fn take(&mut self, now: Time) -> Option<Vec<u8>> {
        if self.next().is_none_or(|arrival| arrival > now) {
            return None;
        }
        self.under_way.pop().map(|Reverse((_, _, bytes))| bytes)
    }

    /// When the next datagram arrives.
    pub(crate) fn next(&self) -> Option<Time> {
        self.under_way
            .peek()
            .map(|Reverse((arrival, _, _))| *arrival)
    }

    /// Datagrams lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

/// Random numbers by Sebastiano Vigna's SplitMix64: good enough for weather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        usize::try_from(self.next() % end).expect("it is below a usize")
    }

    /// The next duration of a range.
    pub(crate) fn duration(&mut self, range: RangeInclusive<Duration>) -> Duration {
        let width = range.end().saturating_sub(*range.start());
        *range.start() + width.mul_f64(self.unit())
    }

    /// The next number in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(weather: Weather, seed: u64) -> (Vec<(u64, u8)>, u64) {
        let mut way = Way::new(weather, seed);
        for n in 0..200 {
            way.put(Time::from_millis(u64::from(n)), &[n]);
        }
        let mut all = Vec::new();
        while let Some(at) = way.next() {
            assert_eq!(way.take(at - Duration::from_micros(1)), None, "too early");
            all.push((at.as_micros(), way.take(at).unwrap()[0]));
        }
        (all, way.lost())
    }

    #[test]
    fn a_delay_alone_keeps_the_order() {
        let weather = Weather {
            delay: Duration::from_millis(30),
            ..Weather::default()
        };
        let (all, lost) = arrivals(weather, 1);
        let expected: Vec<_> = (0..200).map(|n| ((u64::from(n) + 30) * 1000, n)).collect();
        assert_eq!((all, lost), (expected, 0));
    }

    #[test]
    fn the_same_seed_is_the_same_weather_and_another_is_not() {
        let weather = Weather {
            loss: 0.2,
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(10),
        };
        assert_eq!(arrivals(weather, 1), arrivals(weather, 1));
        assert_ne!(arrivals(weather, 1), arrivals(weather, 2));
        let (all, lost) = arrivals(weather, 1);
        assert!((20..60).contains(&lost), "{lost} of 200 lost");
        assert!(!all.is_sorted_by_key(|(_, n)| *n), "jitter reorders");
        assert!(!weather.is_clear() && Weather::default().is_clear());
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let mut way = Way::new(Weather::default(), 1);
        (0..UNDER_WAY_MAX + 5).for_each(|_| way.put(Time::ZERO, &[0]));
        assert_eq!(way.lost(), 5);
    }
}
