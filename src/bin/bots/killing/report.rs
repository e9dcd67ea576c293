//! What came of the kills, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::shared::{Shared, Tally};

/// Some times, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Times {
    count: usize,
    p50: Option<f64>,
    max: Option<f64>,
}

impl Times {
    fn of(times: &[Duration]) -> Times {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |index: usize| sorted.get(index).map(|time| time.as_secs_f64() * 1000.0);
        Times {
            count: sorted.len(),
            p50: at(sorted.len() / 2),
            max: at(sorted.len().saturating_sub(1)),
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.0}"));
        let (p50, max) = (ms(self.p50), ms(self.max));
        write!(f, "p50 {p50}, max {max} ms ({} times)", self.count)
    }
}

/// The whole report. Its fields are the JSON.
#[derive(Debug, Serialize)]
pub(crate) struct KillReport {
    all_well: bool,
    seed: u64,
    fsync: &'static str,
    rooms: usize,
    players: usize,
    #[serde(flatten)]
    tally: Tally,
    inputs_lost: u64,
    /// Frames of all rooms.
    frames: usize,
    /// From a start of the server until it listened.
    listens_after_ms: Times,
    /// From a start of the server until all players had a new frame, if that came to pass.
    live_after_ms: Times,
    problems: BTreeMap<&'static str, u64>,
    examples: Vec<String>,
}

impl KillReport {
    /// The report of what has been done.
    pub(crate) fn new(shared: Shared<'_>, listened_after: &[Duration]) -> KillReport {
        let Shared {
            plan,
            rooms,
            problems,
            tally,
            ..
        } = shared;
        KillReport {
            all_well: problems.counts.is_empty(),
            seed: plan.seed,
            fsync: plan.fsync,
            rooms: rooms.len(),
            players: shared.players,
            tally,
            inputs_lost: tally.inputs_sent - tally.inputs_in_frames,
            frames: rooms.iter().map(|room| room.log.len()).sum(),
            listens_after_ms: Times::of(listened_after),
            live_after_ms: Times::of(&shared.live_after),
            problems: problems.counts,
            examples: problems.examples,
        }
    }

    /// Whether nothing was lost.
    pub(crate) fn all_well(&self) -> bool {
        self.all_well
    }

    /// The report as JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("every field has a JSON form")
    }
}

impl fmt::Display for KillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.tally;
        let (rooms, players, fsync, seed) = (self.rooms, self.players, self.fsync, self.seed);
        writeln!(
            f,
            "played            {rooms} rooms, {players} players, --fsync {fsync}, seed {seed}"
        )?;
        writeln!(
            f,
            "stopped           {} times by SIGKILL, {} by SIGTERM; {} restarts found a torn end",
            t.kills, t.terms, t.torn_ends
        )?;
        writeln!(
            f,
            "stopped in        restore {}, creation {}, start {}, return {}, play {}",
            t.stopped_in_restore,
            t.stopped_in_creation,
            t.stopped_before_start,
            t.stopped_in_return,
            t.stopped_in_play
        )?;
        writeln!(f, "listens after     {}", self.listens_after_ms)?;
        writeln!(f, "all live after    {}", self.live_after_ms)?;
        writeln!(
            f,
            "conversations     {}; v2 was reset {} times, went on {} times, began anew {} times",
            t.conversations, t.resets, t.resumes, t.refetches
        )?;
        writeln!(
            f,
            "frames            {} in the rooms, {} delivered, {} compared",
            self.frames, t.frames_delivered, t.frames_compared
        )?;
        writeln!(
            f,
            "inputs            {} sent, {} in frames, {} lost with the server",
            t.inputs_sent, t.inputs_in_frames, self.inputs_lost
        )?;
        for (kind, count) in &self.problems {
            writeln!(f, "PROBLEM           {kind}: {count}")?;
        }
        for example in &self.examples {
            writeln!(f, "                  {example}")?;
        }
        let all_well = if self.all_well { "yes" } else { "NO" };
        writeln!(f, "all well          {all_well}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_times_have_no_middle() {
        let ms = Duration::from_millis;
        let times = Times::of(&[ms(3), ms(1), ms(2)]);
        assert_eq!((times.p50, times.max), (Some(2.0), Some(3.0)));
        assert_eq!((Times::of(&[]).p50, Times::of(&[]).max), (None, None));
    }
}
