//! When to wake whom: numbers and moments, without a clock of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lockstep_server::engine::time::Time;

/// One moment for each number at the most.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    /// By moment. An entry that is not the number's in `at` is stale.
    heap: BinaryHeap<Reverse<(Time, usize)>>,
    at: Vec<Option<Time>>,
}

impl Wakes {
    /// Wakes `number` at this moment at the latest.
    pub(crate) fn wake(&mut self, number: usize, at: Time) {
        if self.at.len() <= number {
            self.at.resize(number + 1, None);
        }
        if self.at[number].is_none_or(|set| at < set) {
            self.at[number] = Some(at);
            self.heap.push(Reverse((at, number)));
        }
    }

    /// Lets `number` sleep.
    pub(crate) fn forget(&mut self, number: usize) {
        if let Some(at) = self.at.get_mut(number) {
            *at = None;
        }
    }

    /// The next moment, which may be that of a stale entry.
    pub(crate) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next number to be woken by `now`.
    pub(crate) fn due(&mut self, now: Time) -> Option<usize> {
        while self.next().is_some_and(|at| at <= now) {
            let Reverse((at, number)) = self.heap.pop()?;
            if self.at[number] == Some(at) {
                self.at[number] = None;
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_woken_once_at_its_soonest_moment() {
        let at = Time::from_millis;
        let mut wakes = Wakes::default();
        for (number, ms) in [(7, 30), (1, 20), (7, 10), (1, 25), (3, 5)] {
            wakes.wake(number, at(ms));
        }
        wakes.forget(3);
        assert_eq!(wakes.due(at(9)), None);
        assert_eq!(wakes.due(at(40)), Some(7));
        assert_eq!(wakes.due(at(40)), Some(1));
        assert_eq!(wakes.due(at(40)), None);
        wakes.wake(7, at(50));
        assert_eq!((wakes.next(), wakes.due(at(50))), (Some(at(50)), Some(7)));
    }
}
