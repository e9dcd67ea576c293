//! The timer wheel: every deadline of the server, of its rooms and of its sessions.
//!
//! A hierarchical, hashed wheel. A deadline is a number of 64 bits in microseconds. Its
//! lowest ten bits lie within a *tick* of 1024 us; the rest are nine digits of six bits,
//! one for each level, so that any deadline has its place and nothing lies beyond the top:
//!
//! ```text
//! bits   63..58  57..52  51..46  45..40  39..34  33..28  27..22  21..16  15..10   9..0
//!       +-------+-------+-------+-------+-------+-------+-------+-------+-------+-------+
//!       |level 8|level 7|level 6|level 5|level 4|level 3|level 2|level 1|level 0|in tick|
//!       +-------+-------+-------+-------+-------+-------+-------+-------+-------+-------+
//! slot  9,000 y  142 y   2.2 y   13 d    4.8 h   4.5 min  4.2 s   66 ms   1 ms    exact
//! ```
//!
//! An entry lies in the level of the highest digit in which its tick differs from the
//! current tick, in the slot that the digit names. From this follows all the rest:
//!
//! - In each level only slots above the current tick's own digit are occupied, so a slot
//!   never holds two laps, and the lowest bit of a level's bitmap is its earliest slot.
//! - All of a level lies before all of the next one, so the earliest entry lies in the
//!   first slot of the lowest level that is occupied. Each slot remembers its minimum.
//! - When that minimum is due, the current tick jumps to it, however far that is, and the
//!   slot's entries move down: to lower levels, or to the heap if the tick is theirs. No
//!   other slot has to move. An entry moves at most once for each level.
//!
//! The heap holds the entries of the current tick and before, keyed by (deadline,
//! insertion): within a tick, timers fire exactly and in order too.
//!
//! Nothing is cancelled. A token carries a generation, and its owner ignores it when it is
//! stale. The wheel reads no clock and knows nothing of what its tokens mean.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::engine::time::Time;

/// Bits of a deadline that lie within a tick.
const TICK_BITS: u32 = 10;

/// Bits of a digit: 64 slots in a level, one machine word of bitmap.
const DIGIT_BITS: u32 = 6;

/// Slots in a level.
const SLOTS: usize = 1 << DIGIT_BITS;

/// Levels: as many digits as a deadline has above its tick.
const LEVELS: usize = 9;

/// Entries whose room a slot keeps even if it uses little of it. More is given back, since
/// one peak would otherwise be paid for in every slot; the heap is one buffer and keeps all.
const KEEP: usize = 1024;

/// The highest level whose slots keep room at all: those that come around many times a second.
/// The retransmission timers of all players pass through each slot of the next one, so that its
/// 64 slots kept 11 kB for each player; and giving that back costs no time that can be measured.
const LEVEL_KEPT_MAX: usize = 0;

// No bit of a deadline lies above the top level.
const _: () = assert!(LEVELS * DIGIT_BITS as usize == (u64::BITS - TICK_BITS) as usize);

/// A timer wheel whose entries fire by (deadline, insertion), to the microsecond.
#[derive(Debug)]
pub struct Wheel<T> {
    /// Everything in `levels` lies in a later tick, everything in `heap` in this one or an
    /// earlier one. Never beyond the tick of the latest `now`.
    current_tick: u64,
    heap: BinaryHeap<Entry<T>>,
    levels: Box<[Level<T>; LEVELS]>,
    len: usize,
    next_seq: u64,
}

#[derive(Debug)]
struct Level<T> {
    /// Bit n: slot n has entries.
    occupied: u64,
    slots: [Slot<T>; SLOTS],
}

#[derive(Debug)]
struct Slot<T> {
    /// The earliest deadline of the entries; of no meaning if there are none.
    min: Time,
    entries: Vec<Entry<T>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    deadline: Time,
    /// Number of the insertion, which decides between equal deadlines.
    seq: u64,
    token: T,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel at the origin of time.
    pub fn new() -> Wheel<T> {
        Wheel {
            current_tick: 0,
            heap: BinaryHeap::new(),
            levels: Box::new(std::array::from_fn(|_| Level::new())),
            len: 0,
            next_seq: 0,
        }
    }

    /// Timers that have not fired.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The deadline of the timer that fires next, exactly.
    pub fn next_deadline(&self) -> Option<Time> {
        match self.heap.peek() {
            Some(entry) => Some(entry.deadline),
            None => self.first_slot().map(|(level, slot)| {
                let slot = &self.levels[level].slots[slot];
                slot.min
            }),
        }
    }

    /// Adds a timer. One whose deadline has passed fires at the next call of
    /// [`Wheel::pop_due`], in its place among the others that are due.
    pub fn insert(&mut self, deadline: Time, token: T) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.len += 1;
        self.place(Entry {
            deadline,
            seq,
            token,
        });
        self.check_invariants();
    }

    /// Takes out the earliest timer whose deadline is `now` or before.
    pub fn pop_due(&mut self, now: Time) -> Option<(Time, T)> {
        if self.heap.is_empty() {
            self.advance(now);
        }
        // Nothing in the levels comes before what is in the heap.
        if self.heap.peek()?.deadline > now {
            return None;
        }
        let entry = self.heap.pop()?;
        self.len -= 1;
        self.check_invariants();
        Some((entry.deadline, entry.token))
    }

    /// Moves the current tick towards `now`: to the earliest entry of the levels if that is
    /// due, which brings it into the heap, otherwise as far as the slots can stay as they
    /// are, so that what is inserted next lies in the right level at once.
    fn advance(&mut self, now: Time) {
        let Some((level, slot)) = self.first_slot() else {
            self.current_tick = self.current_tick.max(tick_of(now));
            return;
        };
        let min = self.levels[level].slots[slot].min;
        if min <= now {
            self.current_tick = tick_of(min);
            self.cascade(level, slot);
        } else {
            let slot_start = tick_of(min) >> shift(level) << shift(level);
            let target = tick_of(now).min(slot_start - 1);
            self.current_tick = self.current_tick.max(target);
        }
    }

    /// Places the entries of a slot anew, after the current tick has come to its minimum.
    fn cascade(&mut self, level: usize, slot: usize) {
        self.levels[level].occupied &= !(1 << slot);
        // The entries go to lower levels or to the heap, never back into this slot.
        let mut entries = std::mem::take(&mut self.levels[level].slots[slot].entries);
        for &entry in &entries {
            self.place(entry);
        }
        if level > LEVEL_KEPT_MAX {
            return;
        }
        let used = entries.len();
        entries.clear();
        if entries.capacity() > KEEP && used < entries.capacity() / 4 {
            entries.shrink_to(used * 2);
        }
        self.levels[level].slots[slot].entries = entries;
    }

    fn place(&mut self, entry: Entry<T>) {
        let tick = tick_of(entry.deadline);
        if tick <= self.current_tick {
            self.heap.push(entry);
            return;
        }
        let highest_bit = (tick ^ self.current_tick).ilog2();
        let level = (highest_bit / DIGIT_BITS) as usize;
        self.levels[level].push(digit(tick, level), entry);
    }

    /// Level and slot of the earliest entry outside the heap.
    fn first_slot(&self) -> Option<(usize, usize)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        Some((level, self.levels[level].occupied.trailing_zeros() as usize))
    }

    /// What can be checked at every step without walking over the entries; the tests walk.
    fn check_invariants(&self) {
        if cfg!(debug_assertions) {
            for (number, level) in self.levels.iter().enumerate() {
                let up_to_current = u64::MAX >> (SLOTS - 1 - digit(self.current_tick, number));
                assert_eq!(level.occupied & up_to_current, 0, "level {number} is ahead");
            }
            let top = self.heap.peek().map(|entry| tick_of(entry.deadline));
            assert!(top.is_none_or(|tick| tick <= self.current_tick));
        }
    }
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel::new()
    }
}

impl<T: Copy> Level<T> {
    fn new() -> Level<T> {
        Level {
            occupied: 0,
            slots: std::array::from_fn(|_| Slot {
                min: Time::ZERO,
                entries: Vec::new(),
            }),
        }
    }

    fn push(&mut self, slot: usize, entry: Entry<T>) {
        self.occupied |= 1 << slot;
        let slot = &mut self.slots[slot];
        if slot.entries.is_empty() || entry.deadline < slot.min {
            slot.min = entry.deadline;
        }
        slot.entries.push(entry);
    }
}

fn tick_of(deadline: Time) -> u64 {
    deadline.as_micros() >> TICK_BITS
}

/// Bits of a tick below the digit of a level.
fn shift(level: usize) -> usize {
    level * DIGIT_BITS as usize
}

/// The digit of a tick that names its slot in a level.
fn digit(tick: u64, level: usize) -> usize {
    usize::try_from((tick >> shift(level)) & (SLOTS as u64 - 1)).expect("a digit has six bits")
}

impl<T> Entry<T> {
    fn key(&self) -> (Time, u64) {
        (self.deadline, self.seq)
    }
}

/// The earliest entry is the greatest: `BinaryHeap` gives the greatest first.
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Entry<T>) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Entry<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Entry<T>) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TICK_US: u64 = 1 << TICK_BITS;

    impl<T: Copy> Wheel<T> {
        /// Everything that the top of this file says, for every entry.
        fn check_every_entry(&self) {
            let mut count = self.heap.len();
            for entry in &self.heap {
                assert!(tick_of(entry.deadline) <= self.current_tick);
            }
            for (l, level) in self.levels.iter().enumerate() {
                for (s, slot) in level.slots.iter().enumerate() {
                    count += slot.entries.len();
                    let occupied = level.occupied >> s & 1 == 1;
                    assert_eq!(occupied, !slot.entries.is_empty(), "level {l} slot {s}");
                    let min = slot.entries.iter().map(|entry| entry.deadline).min();
                    assert!(min.is_none_or(|min| min == slot.min), "level {l} slot {s}");
                    for entry in &slot.entries {
                        let tick = tick_of(entry.deadline);
                        let above = shift(l) + DIGIT_BITS as usize;
                        assert_eq!(tick >> above, self.current_tick >> above);
                        assert_eq!(digit(tick, l), s);
                        assert!(s > digit(self.current_tick, l));
                    }
                }
            }
            assert_eq!(count, self.len());
        }
    }

    fn us(us: u64) -> Time {
        Time::from_micros(us)
    }

    fn wheel_of(deadlines: &[u64]) -> Wheel<usize> {
        let mut wheel = Wheel::new();
        for (token, &deadline) in deadlines.iter().enumerate() {
            wheel.insert(us(deadline), token);
        }
        wheel
    }

    /// All that fires up to `now`, as (deadline in us, token).
    fn fire(wheel: &mut Wheel<usize>, now: u64) -> Vec<(u64, usize)> {
        let mut fired = Vec::new();
        while let Some((deadline, token)) = wheel.pop_due(us(now)) {
            fired.push((deadline.as_micros(), token));
            wheel.check_every_entry();
        }
        fired
    }

    #[test]
    fn an_empty_wheel_has_nothing_to_say() {
        let mut wheel = Wheel::<()>::default();
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
        assert_eq!(wheel.pop_due(us(u64::MAX)), None);
    }

    #[test]
    fn a_timer_fires_at_its_microsecond_and_not_before() {
        for deadline in [1, 1023, 1024, 1025, 33_333, 5_000_000, 1 << 40, u64::MAX] {
            let mut wheel = wheel_of(&[deadline]);
            assert_eq!(wheel.next_deadline(), Some(us(deadline)));
            assert_eq!(wheel.pop_due(us(deadline - 1)), None, "{deadline}");
            assert_eq!(wheel.pop_due(us(deadline)), Some((us(deadline), 0)));
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn timers_on_both_sides_of_every_slot_boundary_fire_in_order() {
        let mut deadlines = Vec::new();
        for level in 0..LEVELS {
            let slot_us = TICK_US << shift(level);
            for boundary in [slot_us, 2 * slot_us, 63 * slot_us] {
                deadlines.extend([boundary - 1, boundary, boundary + 1]);
            }
        }
        deadlines.sort_unstable();
        let latest_first: Vec<_> = deadlines.iter().rev().copied().collect();
        let mut wheel = wheel_of(&latest_first);
        wheel.check_every_entry();
        for &deadline in &deadlines {
            assert_eq!(wheel.next_deadline(), Some(us(deadline)));
            assert_eq!(wheel.pop_due(us(deadline - 1)), None);
            wheel.check_every_entry();
            let fired = wheel.pop_due(us(deadline)).unwrap();
            assert_eq!(fired.0, us(deadline));
            wheel.check_every_entry();
        }
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_slot_of_a_high_level_comes_down_level_by_level() {
        // One slot of level 3, whose entries differ in each of the lower digits.
        let base = TICK_US << shift(3);
        let offsets = [0, 1, TICK_US, TICK_US << 6, (TICK_US << 12) + 5];
        let mut wheel = wheel_of(&offsets.map(|offset| base + offset));
        assert_eq!(wheel.levels[3].occupied, 1 << 1);
        for (token, offset) in offsets.into_iter().enumerate() {
            assert_eq!(wheel.next_deadline(), Some(us(base + offset)));
            let fired = fire(&mut wheel, base + offset);
            assert_eq!(fired, [(base + offset, token)]);
        }
    }

    #[test]
    fn the_farthest_future_has_a_place() {
        let mut wheel = wheel_of(&[u64::MAX, u64::MAX, u64::MAX - 1, 5]);
        assert_eq!(fire(&mut wheel, u64::MAX - 2), [(5, 3)]);
        assert_eq!(wheel.next_deadline(), Some(us(u64::MAX - 1)));
        assert_eq!(
            fire(&mut wheel, u64::MAX),
            [(u64::MAX - 1, 2), (u64::MAX, 0), (u64::MAX, 1)]
        );
    }

    #[test]
    fn equal_deadlines_fire_in_the_order_of_their_insertion() {
        let deadline = 70 * TICK_US + 3;
        let mut wheel = wheel_of(&[deadline; 5]);
        // From here on the deadline lies in another level, and then in the heap.
        assert_eq!(wheel.pop_due(us(deadline - 4 * TICK_US)), None);
        wheel.insert(us(deadline), 5);
        wheel.insert(us(deadline - 1), 6);
        assert_eq!(fire(&mut wheel, deadline - 1), [(deadline - 1, 6)]);
        wheel.insert(us(deadline), 7);
        let fired: Vec<_> = fire(&mut wheel, deadline)
            .into_iter()
            .map(|(_, token)| token)
            .collect();
        assert_eq!(fired, [0, 1, 2, 3, 4, 5, 7]);
    }

    #[test]
    fn an_insert_in_the_past_fires_at_once_and_in_its_order() {
        let mut wheel = wheel_of(&[10_000_000, 10_000_500]);
        assert_eq!(fire(&mut wheel, 10_000_000), [(10_000_000, 0)]);
        wheel.insert(us(3), 2);
        wheel.insert(us(9_999_999), 3);
        wheel.insert(us(3), 4);
        assert_eq!(wheel.next_deadline(), Some(us(3)));
        assert_eq!(
            fire(&mut wheel, 10_000_500),
            [(3, 2), (3, 4), (9_999_999, 3), (10_000_500, 1)]
        );
    }

    #[test]
    fn a_hundred_thousand_timers_fire_sorted() {
        let mut state = 1u64;
        let deadlines: Vec<u64> = (0..100_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) % 60_000_000
            })
            .collect();
        let mut expected: Vec<_> = deadlines.iter().copied().zip(0..).collect();
        expected.sort_unstable();

        let mut wheel = wheel_of(&deadlines);
        assert_eq!(wheel.len(), 100_000);
        let mut fired = Vec::new();
        for now in (0..=60_000_000).step_by(33_333) {
            while let Some((deadline, token)) = wheel.pop_due(us(now)) {
                fired.push((deadline.as_micros(), token));
            }
        }
        fired.extend(fire(&mut wheel, 60_000_000));
        assert_eq!(fired, expected);
    }

    #[test]
    fn a_steady_load_settles_and_the_slots_give_a_peak_back() {
        let capacity = |wheel: &Wheel<usize>| {
            let slots = wheel.levels.iter().flat_map(|level| &level.slots);
            slots.map(|slot| slot.entries.capacity()).sum::<usize>()
        };
        let mut wheel = Wheel::new();
        let mut now = 0;
        let mut turn = |wheel: &mut Wheel<usize>, timers: usize| {
            for token in 0..timers {
                wheel.insert(us(now + 10_000), token);
            }
            now += 10_000;
            while wheel.pop_due(us(now)).is_some() {}
        };
        turn(&mut wheel, 100_000);
        for _ in 0..1000 {
            turn(&mut wheel, 100);
        }
        let settled = capacity(&wheel);
        assert!(settled < 32 * 1024, "{settled} entries of room");
        for _ in 0..1000 {
            turn(&mut wheel, 100);
        }
        // Ten seconds more: a few slots of the higher levels saw their first entries.
        let later = capacity(&wheel);
        assert!(
            (settled..settled + 1024).contains(&later),
            "{later} entries of room"
        );
    }

    #[test]
    fn timers_that_come_due_in_minutes_leave_no_room_behind() {
        let mut wheel = Wheel::new();
        // For five minutes, 1,000 timers a second that fire 15 s later.
        for second in 0..300 {
            for token in 0..1000 {
                wheel.insert(us((second + 15) * 1_000_000 + token), token);
            }
            while wheel.pop_due(us(second * 1_000_000)).is_some() {}
        }
        let above = &wheel.levels[LEVEL_KEPT_MAX + 1..];
        let slots = above.iter().flat_map(|level| &level.slots);
        let room = slots.map(|slot| slot.entries.capacity()).sum::<usize>();
        assert!(room < 4 * wheel.len(), "{room} entries of room");
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Insert at this distance from now, either way.
        Insert(i64),
        /// Insert at the deadline of the insertion that many steps ago.
        InsertAgain(usize),
        /// Insert at this absolute deadline.
        InsertAt(u64),
        /// Let time pass and take out so many.
        Advance(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (-5_000i64..100_000).prop_map(Step::Insert),
            2 => (-10_000_000i64..10_000_000).prop_map(Step::Insert),
            2 => (0u32..62).prop_flat_map(|bits| 0i64..2 << bits).prop_map(Step::Insert),
            2 => (1usize..5).prop_map(Step::InsertAgain),
            1 => prop_oneof![any::<u64>(), (0u64..5).prop_map(|n| u64::MAX - n)]
                .prop_map(Step::InsertAt),
            4 => (0u64..3_000, 0usize..4).prop_map(|(by, most)| Step::Advance(by, most)),
            3 => (0u64..200_000, 0usize..50).prop_map(|(by, most)| Step::Advance(by, most)),
            1 => ((0u32..60).prop_flat_map(|bits| 0u64..1 << bits), 0usize..200)
                .prop_map(|(by, most)| Step::Advance(by, most)),
        ]
    }

    /// The wheel and what it is held against, in one.
    #[derive(Default)]
    struct Pair {
        wheel: Wheel<u64>,
        model: BTreeMap<(Time, u64), u64>,
        inserted: Vec<Time>,
        now: Time,
    }

    impl Pair {
        fn run(&mut self, step: &Step) {
            match *step {
                Step::Insert(by) => {
                    self.insert(us(self.now.as_micros().saturating_add_signed(by)));
                }
                Step::InsertAgain(back) => {
                    let index = self.inserted.len().checked_sub(back);
                    self.insert(index.map_or(self.now, |index| self.inserted[index]));
                }
                Step::InsertAt(deadline) => self.insert(us(deadline)),
                Step::Advance(by, most) => {
                    self.now = us(self.now.as_micros().saturating_add(by));
                    for _ in 0..most {
                        self.pop();
                    }
                }
            }
        }

        fn insert(&mut self, deadline: Time) {
            let seq = self.inserted.len() as u64;
            self.wheel.insert(deadline, seq);
            self.model.insert((deadline, seq), seq);
            self.inserted.push(deadline);
            self.compare();
        }

        fn pop(&mut self) {
            let first = self.model.first_entry();
            let due = first.filter(|entry| entry.key().0 <= self.now);
            let expected = due.map(|entry| {
                let ((deadline, _), token) = entry.remove_entry();
                (deadline, token)
            });
            assert_eq!(self.wheel.pop_due(self.now), expected);
            self.compare();
        }

        fn compare(&self) {
            self.wheel.check_every_entry();
            assert_eq!(self.wheel.len(), self.model.len());
            assert_eq!(self.wheel.is_empty(), self.model.is_empty());
            let next = self.model.first_key_value().map(|(key, _)| key.0);
            assert_eq!(self.wheel.next_deadline(), next);
        }
    }

    proptest! {
        #[test]
        fn the_wheel_behaves_like_a_sorted_map(
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let mut pair = Pair::default();
            for step in &steps {
                pair.run(step);
            }
            pair.now = us(u64::MAX);
            while !pair.wheel.is_empty() {
                pair.pop();
            }
            prop_assert!(pair.model.is_empty());
        }
    }
}
