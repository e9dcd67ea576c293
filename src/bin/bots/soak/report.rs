//! What the soak has seen, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lockstep_server::engine::time::Time;
use serde::Serialize;
use serde_json::Value;

use super::SoakPlan;
use super::memory::resident_kb;
use super::shared::Tally;
use crate::problems::Problems;

/// How much more memory in the last third of the time than in the first still counts as flat:
/// a tenth, and this many kB.
const FLAT_KB: f64 = 1024.0;

/// The server at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    second: f64,
    resident_kb: Option<u64>,
    sessions: u64,
    rooms: u64,
    timers: u64,
    lateness_ms_max: f64,
}

impl Sample {
    /// What the server says at this moment, and what it holds.
    pub(crate) fn new(now: Time, stats: &Value, pid: Option<u32>) -> Sample {
        let engine = &stats["engine"];
        // A counter that is missing must not pass for one at 0.
        let count = |name: &str| engine[name].as_u64().unwrap_or(u64::MAX);
        Sample {
            second: now.since(Time::ZERO).as_secs_f64(),
            resident_kb: pid.and_then(resident_kb),
            sessions: count("sessions"),
            rooms: count("rooms"),
            timers: count("timers"),
            lateness_ms_max: stats["frame_lateness_ms"]["max"].as_f64().unwrap_or(0.0),
        }
    }

    /// Nothing is left in the server.
    pub(crate) fn is_drained(&self) -> bool {
        (self.sessions, self.rooms, self.timers) == (0, 0, 0)
    }

    /// What is left in the server, in words.
    pub(crate) fn left(&self) -> String {
        let Sample {
            sessions,
            rooms,
            timers,
            ..
        } = self;
        format!("{sessions} sessions, {rooms} rooms, {timers} timers")
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server: {}", self.left())?;
        match self.resident_kb {
            Some(kb) => write!(f, ", {:.1} MB", megabytes(kb)),
            None => Ok(()),
        }
    }
}

fn megabytes(kb: u64) -> f64 {
    kb as f64 / 1024.0
}

/// The server's memory over the time of the play.
#[derive(Clone, Copy, Debug, Serialize)]
struct Memory {
    first_third_kb: f64,
    last_third_kb: f64,
    max_kb: u64,
    end_kb: u64,
    flat: bool,
}

impl Memory {
    /// By the samples of the play alone; `end` is the one after everybody has left. A short run
    /// is all warming up and is not judged.
    fn new(played: &[Sample], end: Option<&Sample>, is_short: bool) -> Option<Memory> {
        let all: Vec<u64> = played.iter().filter_map(|s| s.resident_kb).collect();
        let third = all.len() / 3;
        if third == 0 {
            return None;
        }
        let mean = |part: &[u64]| part.iter().sum::<u64>() as f64 / part.len() as f64;
        let first_third_kb = mean(&all[..third]);
        let last_third_kb = mean(&all[all.len() - third..]);
        Some(Memory {
            first_third_kb,
            last_third_kb,
            max_kb: all.iter().copied().max().unwrap_or(0),
            end_kb: end.and_then(|sample| sample.resident_kb).unwrap_or(0),
            flat: is_short || last_third_kb <= first_third_kb * 1.1 + FLAT_KB,
        })
    }
}

/// The whole report. Its fields are the JSON.
#[derive(Debug, Serialize)]
pub(crate) struct SoakReport {
    all_well: bool,
    bots: usize,
    seconds: f64,
    #[serde(flatten)]
    tally: Tally,
    memory: Option<Memory>,
    drained_after_s: Option<f64>,
    lateness_ms_max: f64,
    problems: BTreeMap<&'static str, u64>,
    examples: Vec<String>,
    samples: Vec<Sample>,
}

impl SoakReport {
    /// The report of what has been done.
    pub(crate) fn new(
        plan: &SoakPlan,
        tally: Tally,
        mut problems: Problems,
        samples: Vec<Sample>,
        drained: Option<Duration>,
    ) -> SoakReport {
        let seconds = plan.time.as_secs_f64();
        // Before the first rooms have ended, memory cannot but grow.
        let warm = plan.life.end().as_secs_f64() * 2.0;
        let at = |second| samples.partition_point(|sample: &Sample| sample.second <= second);
        let is_short = seconds < warm * 3.0;
        let played = if is_short { 0 } else { at(warm) }..at(seconds);
        let memory = Memory::new(&samples[played], samples.last(), is_short);
        if plan.server_pid.is_some() && memory.is_none() {
            problems.add_text("memory", "the system does not tell what the server holds");
        }
        if let Some(memory) = memory.filter(|memory| !memory.flat) {
            let Memory {
                first_third_kb: first,
                last_third_kb: last,
                ..
            } = memory;
            let text = format!("it grew from {first:.0} to {last:.0} kB");
            problems.add_text("memory", &text);
        }
        SoakReport {
            all_well: problems.counts.is_empty() && drained.is_some(),
            bots: plan.bots,
            seconds,
            tally,
            memory,
            drained_after_s: drained.map(|drained| drained.as_secs_f64()),
            lateness_ms_max: samples.last().map_or(0.0, |sample| sample.lateness_ms_max),
            problems: problems.counts,
            examples: problems.examples,
            samples,
        }
    }

    /// Whether everybody saw what it should have seen, and nothing of it is left.
    pub(crate) fn all_well(&self) -> bool {
        self.all_well
    }

    /// The report as JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("every field has a JSON form")
    }
}

impl fmt::Display for SoakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.tally;
        writeln!(
            f,
            "soaked            {} bots for {} s",
            self.bots, self.seconds
        )?;
        writeln!(
            f,
            "rooms             {}: {} ended by results, {} closed, {} abandoned",
            t.rooms, t.rooms_by_results, t.rooms_closed, t.rooms_abandoned
        )?;
        writeln!(
            f,
            "players           {}, {} clients, {} crashes, {} moves, {} never heard of again",
            t.players, t.clients, t.crashes, t.moves, t.gone
        )?;
        writeln!(
            f,
            "frames            {} delivered in {} streams",
            t.frames, t.streams
        )?;
        writeln!(
            f,
            "inputs            {} sent, {} seen, the others lost with a crash or an end",
            t.inputs_sent, t.inputs_seen
        )?;
        writeln!(
            f,
            "datagrams         {}, {} lost by --loss",
            t.datagrams, t.datagrams_lost
        )?;
        if let Some(memory) = &self.memory {
            let mb = |kb: f64| kb / 1024.0;
            writeln!(
                f,
                "server's memory   {:.1} MB in the first third, {:.1} in the last, {:.1} at most, \
                 {:.1} in the end",
                mb(memory.first_third_kb),
                mb(memory.last_third_kb),
                megabytes(memory.max_kb),
                megabytes(memory.end_kb)
            )?;
        }
        match self.drained_after_s {
            Some(s) => writeln!(
                f,
                "counters          sessions, rooms, timers at 0 after {s:.1} s"
            )?,
            None => writeln!(f, "counters          NOT at 0")?,
        }
        writeln!(
            f,
            "frames late       {:.1} ms at most, by the server's own clock",
            self.lateness_ms_max
        )?;
        for (kind, count) in &self.problems {
            writeln!(f, "PROBLEM           {kind}: {count}")?;
        }
        for example in &self.examples {
            writeln!(f, "                  {example}")?;
        }
        let verdict = if self.all_well { "yes" } else { "NO" };
        writeln!(f, "all well          {verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample(resident_kb: u64) -> Sample {
        let stats = json!({ "engine": { "sessions": 1, "rooms": 0, "timers": 0 } });
        Sample {
            resident_kb: Some(resident_kb),
            ..Sample::new(Time::ZERO, &stats, None)
        }
    }

    #[test]
    fn memory_that_grows_is_not_flat() {
        let flat = |kb: &[u64], is_short| {
            let samples: Vec<_> = kb.iter().copied().map(sample).collect();
            Memory::new(&samples, samples.last(), is_short).map(|memory| memory.flat)
        };
        assert_eq!(flat(&[20_000, 22_000, 20_500], false), Some(true));
        assert_eq!(flat(&[20_000, 22_000, 26_000], false), Some(false));
        assert_eq!(flat(&[20_000, 22_000, 26_000], true), Some(true));
        assert_eq!(flat(&[20_000, 26_000], false), None);
    }

    #[test]
    fn a_server_is_drained_only_if_it_says_so() {
        let drained = |stats| Sample::new(Time::ZERO, &stats, None).is_drained();
        assert!(drained(
            json!({"engine": {"sessions": 0, "rooms": 0, "timers": 0}})
        ));
        assert!(!drained(
            json!({"engine": {"sessions": 0, "rooms": 0, "timers": 1}})
        ));
        assert!(!drained(json!({"engine": {"sessions": 0, "rooms": 0}})));
        assert!(!drained(json!({})));
    }
}
