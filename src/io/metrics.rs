//! What the shell measures of itself, and the snapshot in which all counters leave the loop.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::engine::counters::Counters;
use crate::engine::time::Time;
use crate::io::journal;
use crate::io::recorder::Recorder;
use crate::limits::{DEGRADED_FOR, DEGRADED_LATENESS, LOAD_WINDOW, NO_NEW_ROOMS_FOR};

/// Largest lateness of the loop that is told apart from larger ones, in us.
const LATENESS_US_MAX: u64 = 60_000_000;

/// All counters, at one moment.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Time since the start.
    pub uptime: Duration,
    /// Why the server is degraded, `None` while all is well.
    pub degraded: Option<String>,
    /// It takes no new rooms, and ends with the last one.
    pub draining: bool,
    /// How busy the loop was in the last seconds, in thousandths of a core.
    pub load: u32,
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

/// How busy the loop was over the last [`LOAD_WINDOW`] or so: over the half of it that runs, and the one
/// before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    /// When the half that runs began.
    since: Time,
    /// For how long the loop was busy in it.
    busy: Duration,
    /// For how long it was in the one before, and how long that was.
    before: (Duration, Duration),
}

impl Busy {
    const HALF: Duration = LOAD_WINDOW.checked_div(2).expect("2 is not 0");

    /// Takes note of a turn: when it began and when it ended. What is between two turns is rest.
    pub fn note(&mut self, began: Time, ended: Time) {
        if began.since(self.since) >= Busy::HALF {
            self.rotate(began);
        }
        self.busy += ended.since(began);
    }

    fn rotate(&mut self, now: Time) {
        let lasted = now.since(self.since);
        // One that lasted for longer, because nothing happened, counts for no more than a half.
        let counts = lasted.min(Busy::HALF);
        let busy = Duration::from_micros(share(self.busy, lasted, counts.as_micros()));
        self.before = (busy, counts);
        self.since = now;
        self.busy = Duration::ZERO;
    }

    /// How busy the loop was, in thousandths of a core: from 0 to 1000.
    pub fn permille(&self, now: Time) -> u32 {
        let (busy, lasted) = self.before;
        let (busy, lasted) = (busy + self.busy, lasted + now.since(self.since));
        u32::try_from(share(busy, lasted, 1000)).unwrap_or(1000)
    }
}

/// Which part of `whole` that is which `busy` is of `lasted`: from 0 to `whole`.
fn share(busy: Duration, lasted: Duration, whole: u128) -> u64 {
    let part = busy.min(lasted).as_micros() * whole / lasted.as_micros().max(1);
    u64::try_from(part).unwrap_or(u64::MAX)
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
    fn the_load_is_the_part_of_the_last_seconds_in_which_the_loop_was_busy() {
        let at = Time::from_millis;
        let mut busy = Busy::default();
        assert_eq!(busy.permille(at(0)), 0);
        // A quarter of each millisecond for a minute: wherever in a window it is asked for.
        for ms in 0..60_000 {
            busy.note(at(ms), at(ms) + Duration::from_micros(250));
            let permille = busy.permille(at(ms + 1));
            assert!((249..=250).contains(&permille), "{permille} at {ms} ms");
        }
        // The whole of it: as soon as the window is over, nothing else is left of it.
        let window = u64::try_from(LOAD_WINDOW.as_millis()).unwrap();
        for ms in 60_000..60_000 + window {
            busy.note(at(ms), at(ms + 1));
        }
        assert_eq!(busy.permille(at(60_000 + window)), 1000);
    }

    #[test]
    fn a_load_that_is_over_is_forgotten_and_a_long_rest_hides_no_new_one() {
        let at = Time::from_millis;
        let mut busy = Busy::default();
        busy.note(at(0), at(5000));
        assert_eq!(busy.permille(at(5000)), 1000);
        assert_eq!(busy.permille(at(10_000)), 500, "nothing has happened since");
        // An hour later, one turn of a moment, and then all is as before.
        let hour = 3_600_000;
        busy.note(at(hour), at(hour));
        assert!(busy.permille(at(hour)) <= 1);
        busy.note(at(hour), at(hour + 2500));
        assert!(busy.permille(at(hour + 2500)) >= 500);
    }

    #[test]
    fn one_turn_longer_than_the_window_is_a_full_load() {
        let mut busy = Busy::default();
        let (began, ended) = (Time::from_millis(100), Time::from_millis(60_100));
        busy.note(began, ended);
        assert!(busy.permille(ended) >= 998);
        busy.note(ended, ended);
        assert!(busy.permille(ended) >= 998);
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
