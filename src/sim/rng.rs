//! The simulator's own source of chance: SplitMix64, so that a seed means the same world on
//! every machine and with every version of every dependency.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A stream of numbers that a seed decides.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed }
    }

    /// Another stream, which goes its own way from here on.
    pub fn fork(&mut self) -> Rng {
        Rng::new(self.bits64())
    }

    /// The next 64 bits.
    pub fn bits64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next 32 bits.
    pub fn bits32(&mut self) -> u32 {
        u32::try_from(self.bits64() >> 32).expect("32 bits are left")
    }

    /// A number of the range; the modulo's bias is far below what a test could see.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        let span = (high - low).saturating_add(1);
        low + self.bits64() % span
    }

    /// An index below `len`, which is not 0.
    pub fn index(&mut self, len: usize) -> usize {
        let drawn = self.within(0..=(len as u64 - 1));
        usize::try_from(drawn).expect("it is below a usize")
    }

    /// True so many times in a thousand.
    pub fn per_mille(&mut self, chance: u64) -> bool {
        self.within(0..=999) < chance
    }

    /// True so many times in a million.
    pub fn per_million(&mut self, chance: u64) -> bool {
        self.within(0..=999_999) < chance
    }

    /// A duration of the range, to the microsecond; the bounds are in milliseconds.
    pub fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        let (low, high) = range.into_inner();
        Duration::from_micros(self.within(low * 1000..=high * 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        // The first values of SplitMix64 from seed 1234567, as its author gives them.
        let mut rng = Rng::new(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!([rng.bits64(), rng.bits64(), rng.bits64()], expected);
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut rng = Rng::new(1);
        let drawn: Vec<u64> = (0..1000).map(|_| rng.within(3..=6)).collect();
        assert!(drawn.iter().all(|n| (3..=6).contains(n)));
        assert!(drawn.contains(&3) && drawn.contains(&6));
    }
}
