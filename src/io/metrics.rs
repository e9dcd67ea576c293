//! What the shell measures of itself, and the snapshot in which all counters leave the loop.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::engine::counters::Counters;
use crate::engine::time::Time;
use crate::io::journal;
use crate::io::recorder::Recorder;
use crate::limits::{DEGRADED_FOR, DEGRADED_LATENESS, NO_NEW_ROOMS_FOR};

/// Largest lateness of the loop that is told apart from larger ones, in us.
const LATENESS_US_MAX: u64 = 60_000_000;

/// All counters, at one moment.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Time since the start.
    pub uptime: Duration,
    /// Why the server is degraded, `None` while all is well.
    pub degraded: Option<String>,
    /// What the engine counts.
    pub engine: Counters,
    /// What the shell counts.
    pub shell: ShellCounters,
    /// How the journal is, if there is one.
    pub journal: Option<JournalStats>,
}

/// How much there is to do, for those who look for a server with space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Rooms whose match is not over.
    pub rooms: usize,
    /// How many there may be.
    pub rooms_max: usize,
    /// Seats that are held.
    pub players: usize,
    /// Sessions that there may be.
    pub sessions_max: usize,
    /// How busy the loop was in the last seconds, in thousandths of a core.
    pub permille: u32,
    /// Rooms created since the start.
    pub serial: u64,
    /// It takes no new rooms, and ends with the last one.
    pub draining: bool,
}

/// How the journal is.
#[derive(Clone, Debug)]
pub struct JournalStats {
    /// How its files are.
    pub health: journal::Health,
    /// Datagrams that were given up because too many waited for the disk.
    pub given_up: u64,
}

impl JournalStats {
    /// How a recorder's is.
    pub fn of(recorder: &Recorder) -> JournalStats {
        let (health, given_up) = recorder.health();
        JournalStats { health, given_up }
    }

    /// What is wrong with it, if anything is.
    pub fn degraded(&self) -> Option<String> {
        let trouble = self.health.trouble.as_ref()?;
        let seconds = trouble.since.elapsed().unwrap_or_default().as_secs();
        let (what, why) = (
            if trouble.down {
                "written"
            } else {
                "rotated or deleted"
            },
            &trouble.why,
        );
        Some(format!(
            "the journal cannot be {what} since {seconds} s: {why}; matches go on"
        ))
    }
}

/// What the shell counts since the start.
#[derive(Clone, Debug)]
pub struct ShellCounters {
    /// Turns of the loop.
    pub turns: u64,
    /// Commands of side threads.
    pub commands: u64,
    /// Datagrams that the system did not take, lost as on the network.
    pub sends_refused: u64,
    /// Errors of the socket while receiving.
    pub receive_errors: u64,
    /// How late the loop was for its earliest deadline, in us.
    pub loop_lateness_us: Histogram<u64>,
}

impl Default for ShellCounters {
    fn default() -> ShellCounters {
        ShellCounters {
            turns: 0,
            commands: 0,
            sends_refused: 0,
            receive_errors: 0,
            loop_lateness_us: Histogram::new_with_bounds(1, LATENESS_US_MAX, 2)
                .expect("the bounds are legal"),
        }
    }
}

/// Remembers for a while that the loop was late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// The worst lateness that counts, and when it was.
    worst: Option<(Duration, Time)>,
    /// When it was late last.
    late_at: Option<Time>,
}

impl Health {
    /// Takes note of how late the loop was.
    pub fn note(&mut self, now: Time, lateness: Duration) {
        if lateness >= DEGRADED_LATENESS {
            self.late_at = Some(now);
        }
        let worst = self.worst_at(now).unwrap_or_default();
        if lateness >= DEGRADED_LATENESS && lateness >= worst {
            self.worst = Some((lateness, now));
        }
    }

    /// Why the server is degraded, `None` while all is well.
    pub fn degraded(&self, now: Time) -> Option<String> {
        self.worst_at(now).map(|lateness| {
            let ms = lateness.as_millis();
            let seconds = DEGRADED_FOR.as_secs();
            format!("the loop was {ms} ms late within the last {seconds} s")
        })
    }

    /// Whether the loop was late a moment ago: the matches that run come before new ones.
    pub fn refuses_rooms(&self, now: Time) -> bool {
        self.late_at
            .is_some_and(|at| now.since(at) < NO_NEW_ROOMS_FOR)
    }

    fn worst_at(&self, now: Time) -> Option<Duration> {
        self.worst
            .filter(|(_, at)| now.since(*at) <= DEGRADED_FOR)
            .map(|(lateness, _)| lateness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_loop_refuses_rooms_for_a_moment() {
        let mut health = Health::default();
        let at = Time::from_millis(1000);
        health.note(at, DEGRADED_LATENESS - Duration::from_micros(1));
        assert!(!health.refuses_rooms(at));
        health.note(at, Duration::from_secs(3));
        let again = at + NO_NEW_ROOMS_FOR / 2;
        health.note(again, DEGRADED_LATENESS);
        assert!(health.refuses_rooms(at + NO_NEW_ROOMS_FOR));
        assert!(!health.refuses_rooms(again + NO_NEW_ROOMS_FOR));
    }

    #[test]
    fn lateness_degrades_for_a_while_and_no_longer() {
        let mut health = Health::default();
        let at = Time::from_millis(1000);
        health.note(at, DEGRADED_LATENESS - Duration::from_micros(1));
        assert_eq!(health.degraded(at), None);
        health.note(at, Duration::from_millis(250));
        health.note(at, Duration::from_millis(150));
        assert!(
            health
                .degraded(at)
                .is_some_and(|reason| reason.contains("250 ms"))
        );
        assert!(health.degraded(at + DEGRADED_FOR).is_some());
        let later = at + DEGRADED_FOR + Duration::from_micros(1);
        assert_eq!(health.degraded(later), None);
        health.note(later, Duration::from_millis(150));
        assert!(
            health
                .degraded(later)
                .is_some_and(|reason| reason.contains("150 ms"))
        );
    }
}
