//! When the server is stopped, and how.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::weather::SplitMix;

/// How long the server runs before it is stopped, in most cases.
const RUNS_FOR: RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(2);
/// How long it runs in each fifth case: it is stopped while it restores rooms.
const RUNS_SHORTLY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_millis(60);
/// How long it is away in each second case; in the others it comes back at once.
const AWAY_FOR: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);

/// One stop of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// It is asked to end; else it is killed.
    pub(crate) is_asked: bool,
    /// How long it has run.
    pub(crate) after: Duration,
    /// How long it is away.
    pub(crate) away: Duration,
}

/// So many stops by SIGKILL and by SIGTERM, in the order in which they come.
pub(crate) fn draw_stops(kills: usize, terms: usize, random: &mut SplitMix) -> VecDeque<Stop> {
    let mut asked = vec![false; kills];
    asked.resize(kills + terms, true);
    let mut stops = VecDeque::new();
    while !asked.is_empty() {
        let is_asked = asked.swap_remove(random.below(asked.len()));
        // One that is asked so early may not know how to answer.
        let is_short = random.below(5) == 0 && !is_asked;
        let runs = if is_short { RUNS_SHORTLY } else { RUNS_FOR };
        let after = random.duration(runs);
        let is_back_at_once = random.below(2) == 0;
        let away = random.duration(AWAY_FOR);
        stops.push_back(Stop {
            is_asked,
            after,
            away: if is_back_at_once {
                Duration::ZERO
            } else {
                away
            },
        });
    }
    stops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_stops_the_server_as_often_as_is_asked_at_the_same_moments() {
        let draw = |seed| draw_stops(40, 10, &mut SplitMix(seed));
        let stops = draw(7);
        assert_eq!(stops, draw(7));
        assert_ne!(stops, draw(8));
        assert_eq!(stops.len(), 50);
        let asked = || stops.iter().filter(|stop| stop.is_asked);
        assert_eq!(asked().count(), 10);
        assert!(asked().all(|stop| stop.after >= *RUNS_FOR.start()));
        let is_short = |stop: &&Stop| stop.after <= *RUNS_SHORTLY.end();
        assert!((1..20).contains(&stops.iter().filter(is_short).count()));
    }
}
