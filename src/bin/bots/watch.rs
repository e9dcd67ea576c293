//! What the players check and measure: the frames of a room, own inputs, the frame clock.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use hdrhistogram::Histogram;
use lockstep_server::engine::id::{FrameId, PlayerId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::wire::frame::{Command, Frame, FrameInput};

use crate::weather::SplitMix;

/// A histogram of microseconds, to three digits, which grows as it must.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("3 digits are a legal precision")
}

/// Adds a duration.
pub(crate) fn record(histogram: &mut Histogram<u64>, duration: Duration, count: u64) {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    histogram
        .record_n(us, count)
        .expect("a histogram that resizes takes any value");
}

/// The frames of a room, as those of its players saw them who saw them first. A hash stands
/// for each frame.
#[derive(Debug, Default)]
pub(crate) struct RoomLog {
    frames: Vec<u64>,
}

impl RoomLog {
    /// Compares a frame with what another player saw; `false` if it differs.
    pub(crate) fn agrees(&mut self, frame: &Frame) -> bool {
        self.shows(frame).unwrap_or_else(|| {
            // Players deliver frames without gaps, so the next one is the only new one.
            debug_assert_eq!(usize::try_from(frame.id), Ok(self.frames.len()));
            self.frames.push(hash(frame));
            true
        })
    }

    /// Whether a frame is what the players saw; `None` if none of them has seen it.
    pub(crate) fn shows(&self, frame: &Frame) -> Option<bool> {
        let seen = self.frames.get(usize::try_from(frame.id).ok()?)?;
        Some(*seen == hash(frame))
    }

    /// How many frames the player saw who saw most.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }
}

fn hash(frame: &Frame) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u32(frame.id);
    for input in &frame.inputs {
        hasher.write_u64(input.player.0);
        hasher.write_i32(input.seat);
        hasher.write_i32(input.command.sid);
        hasher.write_i32(input.command.x);
        hasher.write_i32(input.command.y);
        hasher.write_usize(input.data.len());
        hasher.write(&input.data);
    }
    hasher.finish()
}

/// The input with this number of a player: the number is `x`, the rest is drawn from both, so
/// that an input that was altered is known.
pub(crate) fn input_of(player: PlayerId, number: i32) -> Command {
    let drawn = SplitMix(player.0 ^ (u64::from(number.cast_unsigned()) << 40)).next();
    let [a, b, c, d, e, ..] = drawn.to_le_bytes();
    Command {
        sid: i32::from(a) + 1,
        x: number,
        y: i32::from_le_bytes([b, c, d, e]),
    }
}

/// Whether an input is one that its player could have sent.
pub(crate) fn is_genuine(input: &FrameInput) -> bool {
    input_of(input.player, input.command.x) == input.command && input.data.is_empty()
}

/// What became of an own input that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// It is the next one; so long was it under way.
    After(Duration),
    /// It had come back before, or was never sent.
    Again,
    /// It has come back, but not so many before it.
    WithoutEarlier(u64, Duration),
}

/// Own inputs on their way out and back. They come back in the order in which they left.
#[derive(Debug, Default)]
pub(crate) struct InputWatch {
    /// When those left that are not back, in order.
    under_way: VecDeque<Time>,
    sent: i32,
    seen: u64,
}

impl InputWatch {
    /// The number of the next input.
    pub(crate) fn next(&self) -> i32 {
        self.sent
    }

    /// The next input has left.
    pub(crate) fn left(&mut self, now: Time) {
        self.under_way.push_back(now);
        self.sent += 1;
    }

    /// An own input with this number has come back.
    pub(crate) fn returned(&mut self, now: Time, number: i32) -> Returned {
        let first = i64::from(self.sent) - i64::try_from(self.under_way.len()).unwrap_or(i64::MAX);
        let Ok(earlier) = usize::try_from(i64::from(number) - first) else {
            return Returned::Again;
        };
        let Some(left) = self.under_way.get(earlier).copied() else {
            return Returned::Again;
        };
        self.under_way.drain(..=earlier);
        self.seen += 1;
        match earlier as u64 {
            0 => Returned::After(now.since(left)),
            missing => Returned::WithoutEarlier(missing, now.since(left)),
        }
    }

    /// Inputs that have left.
    pub(crate) fn sent(&self) -> u64 {
        u64::from(self.sent.cast_unsigned())
    }

    /// Inputs that have come back.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Inputs that have left and are not back.
    pub(crate) fn missing(&self) -> usize {
        self.under_way.len()
    }
}

/// One player's view of the frame clock. Frame n is due `(n + 1) / hz` after a start that
/// nobody knows; the frame that came soonest tells it.
#[derive(Debug)]
pub(crate) struct FrameClock {
    hz: u32,
    /// How long after its time by a start at the origin a frame came, in units of 100 us, and
    /// how many frames did. There are few different values, whatever the number of frames.
    offsets: BTreeMap<i64, u64>,
    /// Offsets that are not in the map yet: a search in it takes longer than the rest, because no
    /// map stays in the processor's cache among thousands.
    recent: Vec<i64>,
}

impl FrameClock {
    /// Microseconds in a unit of an offset.
    const UNIT_US: i64 = 100;
    /// Offsets that come into the map in one go.
    const RECENT_MAX: usize = 256;

    /// A clock of so many frames per second.
    pub(crate) fn new(hz: u32) -> FrameClock {
        FrameClock {
            hz,
            offsets: BTreeMap::new(),
            recent: Vec::with_capacity(Self::RECENT_MAX),
        }
    }

    /// A frame has arrived.
    pub(crate) fn arrived(&mut self, now: Time, id: FrameId) {
        let due_us = (i64::from(id) + 1) * 1_000_000 / i64::from(self.hz);
        let offset_us = i64::try_from(now.as_micros()).unwrap_or(i64::MAX) - due_us;
        if self.recent.len() == Self::RECENT_MAX {
            self.settle();
        }
        self.recent.push(offset_us / Self::UNIT_US);
    }

    fn settle(&mut self) {
        for offset in self.recent.drain(..) {
            *self.offsets.entry(offset).or_default() += 1;
        }
    }

    /// Adds the lateness of each frame.
    pub(crate) fn add_to(&mut self, histogram: &mut Histogram<u64>) {
        self.settle();
        let Some((soonest, _)) = self.offsets.first_key_value() else {
            return;
        };
        for (offset, count) in &self.offsets {
            let late_us = (offset - soonest).saturating_mul(Self::UNIT_US);
            let late = Duration::from_micros(late_us.unsigned_abs());
            record(histogram, late, *count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: FrameId, numbers: &[i32]) -> Frame {
        let player = PlayerId(7001);
        let input = |number: &i32| FrameInput {
            player,
            seat: 1,
            command: input_of(player, *number),
            data: Vec::new(),
        };
        let inputs = numbers.iter().map(input).collect();
        Frame { id, inputs }
    }

    #[test]
    fn frames_that_differ_in_anything_do_not_agree() {
        let mut log = RoomLog::default();
        assert!(log.agrees(&frame(0, &[])) && log.agrees(&frame(1, &[1, 2])));
        assert!(log.agrees(&frame(0, &[])) && log.agrees(&frame(1, &[1, 2])));
        assert!(!log.agrees(&frame(1, &[2, 1])));
        assert!(!log.agrees(&frame(1, &[1])));
        let mut other = frame(1, &[1, 2]);
        other.inputs[1].seat = 2;
        assert!(!log.agrees(&other));
        other = frame(1, &[1, 2]);
        other.inputs[0].data.push(0);
        assert!(!log.agrees(&other));
        assert_eq!(log.len(), 2);
    }

    #[test]
    fn an_altered_input_is_not_genuine() {
        let good = frame(0, &[5]).inputs.remove(0);
        assert!(is_genuine(&good));
        let alter = |change: fn(&mut FrameInput)| {
            let mut input = good.clone();
            change(&mut input);
            is_genuine(&input)
        };
        assert!(!alter(|input| input.player = PlayerId(7002)));
        assert!(!alter(|input| input.command.x += 1));
        assert!(!alter(|input| input.command.y += 1));
        assert!(!alter(|input| input.command.sid += 1));
        assert!(!alter(|input| input.data.push(0)));
    }

    #[test]
    fn own_inputs_are_known_when_they_come_back_again_or_not() {
        let at = Time::from_millis;
        let mut watch = InputWatch::default();
        for n in 0..4 {
            assert_eq!(u64::from(watch.next().cast_unsigned()), n);
            watch.left(at(n * 10));
        }
        let ms = Duration::from_millis;
        assert_eq!(watch.returned(at(30), 0), Returned::After(ms(30)));
        assert_eq!(watch.returned(at(30), 0), Returned::Again);
        assert_eq!(
            watch.returned(at(50), 2),
            Returned::WithoutEarlier(1, ms(30))
        );
        assert_eq!(watch.returned(at(50), 1), Returned::Again);
        assert_eq!(watch.returned(at(50), 4), Returned::Again, "never sent");
        assert_eq!(watch.returned(at(50), -1), Returned::Again);
        assert_eq!((watch.sent(), watch.seen(), watch.missing()), (4, 2, 1));
    }

    #[test]
    fn lateness_counts_from_the_frame_that_came_soonest() {
        let mut clock = FrameClock::new(50);
        // Frame n is due 20 ms after the one before; the start is unknown.
        for (id, late_ms) in [(0, 3), (1, 0), (2, 5), (3, 0)] {
            clock.arrived(Time::from_millis(777 + u64::from(id) * 20 + late_ms), id);
        }
        let mut histogram = histogram();
        clock.add_to(&mut histogram);
        assert_eq!(histogram.len(), 4);
        assert_eq!(histogram.value_at_quantile(0.5), 0);
        assert_eq!(histogram.max() / 10, 500);
    }
}
