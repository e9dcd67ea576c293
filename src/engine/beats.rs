//! Beats: the moments at which things happen, [`BEATS_PER_SECOND`] in a second.
//!
//! Matches that start together would seal their frames together, and the last of a thousand
//! datagrams would leave milliseconds after the first. So a room that starts is put on one of the
//! beats in the time of its frames, on which the fewest seats tick, and its first frame waits for
//! it: at most for the time of one frame more, once. Rooms on one beat tick within the same few
//! microseconds, in one turn of the loop, and so do the timers of sessions ([`on_beat`]): the loop
//! wakes once for all of them.
//!
//! ```text
//!   a frame at 30 Hz   |  0  |  1  |  2  |  3  | ... | 15  |  0  |  1  |
//!   seats               400   396   400   400         400
//!                              ^ the next room of 4 goes here
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::time::Time;
use crate::limits::BEATS_PER_SECOND;

/// Microseconds of a second, and parts of a frame's time in which places in it are counted.
const SECOND: u64 = 1_000_000;

/// The first beat that is not before a moment.
pub(super) fn on_beat(at: Time) -> Time {
    let beats = u64::from(BEATS_PER_SECOND);
    let us = at.as_micros() % SECOND;
    // Those between two microseconds count as at the later one.
    let us_of = |beat: u64| (beat * SECOND).div_ceil(beats);
    let last = us * beats / SECOND;
    let next = if us_of(last) >= us { last } else { last + 1 };
    Time::from_micros(at.as_micros() - us + us_of(next))
}

/// A room's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    hz: u32,
    index: usize,
    seats: usize,
}

/// How many seats tick on each beat.
#[derive(Debug, Default)]
pub(super) struct Beats {
    /// By frames per second.
    seats: BTreeMap<u32, Vec<usize>>,
}

impl Beats {
    /// Puts a room of so many frames per second and seats on a beat, and says how long from
    /// `now` the next one of these is.
    pub(super) fn take(&mut self, now: Time, hz: u32, seats: usize) -> (Beat, Duration) {
        let counts = self.seats.entry(hz).or_insert_with(|| vec![0; count(hz)]);
        let wait = |index: usize| wait_us(now, hz, index, counts.len());
        let index = (0..counts.len())
            .min_by_key(|index| (counts[*index], wait(*index)))
            .expect("there is one beat at least");
        let wait = Duration::from_micros(wait(index));
        counts[index] += seats;
        (Beat { hz, index, seats }, wait)
    }

    /// The room ticks no more.
    pub(super) fn give_back(&mut self, beat: Beat) {
        let counts = self.seats.get_mut(&beat.hz).expect("it was taken");
        counts[beat.index] -= beat.seats;
        if counts.iter().all(|seats| *seats == 0) {
            self.seats.remove(&beat.hz);
        }
    }

    /// Seats on all beats.
    pub(super) fn seat_count(&self) -> usize {
        self.seats.values().flatten().sum()
    }
}

/// How many beats there are in the time of a frame.
fn count(hz: u32) -> usize {
    usize::try_from(BEATS_PER_SECOND / hz).map_or(1, |count| count.max(1))
}

/// Microseconds from `now` until this one of `count` beats.
fn wait_us(now: Time, hz: u32, index: usize, count: usize) -> u64 {
    let hz = u64::from(hz);
    let at = index as u64 * SECOND / count as u64;
    let is = now.as_micros() % SECOND * hz % SECOND;
    ((at + SECOND - is) % SECOND).div_ceil(hz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_that_start_together_are_spread_evenly() {
        let mut beats = Beats::default();
        let now = Time::from_millis(123_456);
        let mut waits = BTreeMap::new();
        for _ in 0..160 {
            let (_, wait) = beats.take(now, 30, 4);
            assert!(wait < Duration::from_micros(33_334), "{wait:?}");
            *waits.entry(wait).or_insert(0) += 1;
        }
        assert_eq!(waits.len(), 16);
        assert!(waits.values().all(|rooms| *rooms == 10), "{waits:?}");
        assert_eq!(beats.seat_count(), 640);
    }

    #[test]
    fn a_room_that_starts_alone_waits_for_one_beat_at_most() {
        for hz in [1, 10, 30, 60, 144, 240] {
            for us in (0..2_000_000).step_by(997) {
                let now = Time::ZERO + Duration::from_micros(us);
                let (_, wait) = Beats::default().take(now, hz, 2);
                let frame = Duration::from_secs(1) / hz;
                let beat = frame / u32::try_from(count(hz)).unwrap() + Duration::from_micros(1);
                assert!(wait <= beat, "{hz} Hz at {now:?}: {wait:?}");
            }
        }
    }

    #[test]
    fn rooms_on_one_beat_tick_at_the_same_moment_whenever_they_started() {
        for hz in [7, 30, 60, 144] {
            let mut ticks = Vec::new();
            for us in (0..3_000_000).step_by(10_007) {
                let now = Time::ZERO + Duration::from_micros(us);
                let wait = Duration::from_micros(wait_us(now, hz, 0, count(hz)));
                let ticks_at = (now + wait).as_micros() % SECOND * u64::from(hz);
                ticks.push(ticks_at % SECOND / u64::from(hz));
            }
            // To the microsecond.
            assert!(ticks.iter().all(|us| *us <= 1), "{hz} Hz: {ticks:?}");
        }
    }

    #[test]
    fn rooms_of_common_rates_tick_on_the_beats_of_the_sessions() {
        for hz in [10, 15, 20, 24, 30, 40, 48, 60, 120, 240] {
            for us in (0..3_000_000).step_by(10_007) {
                let now = Time::ZERO + Duration::from_micros(us);
                let (_, wait) = Beats::default().take(now, hz, 2);
                for frame in 1..100 {
                    let tick = now + wait + Duration::from_micros(frame * SECOND / u64::from(hz));
                    let off = on_beat(tick).since(tick);
                    let beat = Duration::from_secs(1) / BEATS_PER_SECOND;
                    let slack = Duration::from_micros(1);
                    assert!(off <= slack || off + slack >= beat, "{hz} Hz: {off:?}");
                }
            }
        }
    }

    #[test]
    fn a_beat_is_its_own_and_the_first_after_what_comes_before_it() {
        let mut last = Time::ZERO;
        for us in 0..20_000 {
            let beat = on_beat(Time::from_micros(us));
            assert!(beat.as_micros() >= us && beat >= last);
            assert_eq!(on_beat(beat), beat);
            last = beat;
        }
        assert_eq!(last, Time::from_micros(20_834));
        let late = Time::from_micros(u64::MAX / 2);
        assert!(on_beat(late).since(late) < Duration::from_micros(2_085));
    }

    #[test]
    fn a_place_that_is_given_back_is_taken_next() {
        let mut beats = Beats::default();
        let now = Time::from_millis(5);
        let rooms: Vec<_> = (0..32).map(|_| beats.take(now, 30, 3)).collect();
        let (beat, wait) = rooms[9];
        beats.give_back(beat);
        assert_eq!(beats.take(now, 30, 3), (beat, wait));
        for (beat, _) in rooms {
            beats.give_back(beat);
        }
        assert_eq!(beats.seat_count(), 0);
        assert!(
            beats.seats.is_empty(),
            "nothing is kept for a rate nobody uses"
        );
    }
}
