//! What the players saw, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bot::{Bot, World};
use crate::line::Traffic;
use crate::problems::kind;
use crate::watch::histogram;

/// Lateness of this program's own loop, p99, from which on it says so: what it measured is
/// then not the server's doing alone.
const BOTS_LATE_MS: f64 = 5.0;

/// The whole report. Its fields are the JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    all_well: bool,
    rooms: usize,
    players: usize,
    players_started: usize,
    hz: u32,
    seconds: u64,
    same_frames: bool,
    frames_min: u32,
    frames_max: u32,
    inputs_sent: u64,
    inputs_seen: u64,
    duplicates: u64,
    gaps: u64,
    latency_ms: Quantiles,
    frame_lateness_ms: Quantiles,
    sent: Flow,
    received: Flow,
    problems: BTreeMap<&'static str, u64>,
    examples: Vec<String>,
    bots_late_ms: Quantiles,
    bots_were_late: bool,
}

/// Quantiles, in ms.
#[derive(Clone, Copy, Debug, Serialize)]
struct Quantiles {
    count: u64,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Traffic in one direction.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Flow {
    datagrams: u64,
    bytes: u64,
    /// Datagrams that `--loss` took.
    lost: u64,
    bytes_per_player_and_second: f64,
}

impl Report {
    /// The report of what has been played.
    pub(crate) fn new(
        world: &World<'_>,
        bots: &mut [Bot],
        own_lateness: &Histogram<u64>,
    ) -> Report {
        let plan = world.plan;
        let mut lateness = histogram();
        for bot in &mut *bots {
            bot.clock.add_to(&mut lateness);
        }
        let flow = |of: fn(&Bot) -> (Traffic, u64)| {
            let mut flow = Flow::default();
            for (traffic, lost) in bots.iter().map(of) {
                flow.datagrams += traffic.datagrams;
                flow.bytes += traffic.bytes;
                flow.lost += lost;
            }
            flow.bytes_per_player_and_second =
                flow.bytes as f64 / bots.len().max(1) as f64 / plan.time.as_secs_f64();
            flow
        };
        let problems = &world.problems;
        let bots_late_ms = Quantiles::of(own_lateness);
        let frames = || bots.iter().map(Bot::frames);
        Report {
            all_well: problems.counts.is_empty() && world.started == bots.len(),
            rooms: plan.rooms.len(),
            players: bots.len(),
            players_started: world.started,
            hz: plan.hz,
            seconds: plan.time.as_secs(),
            same_frames: problems.of(kind::DIFFERENT) == 0
                && world.logs.iter().all(|l| l.len() > 0),
            frames_min: frames().min().unwrap_or(0),
            frames_max: frames().max().unwrap_or(0),
            inputs_sent: bots.iter().map(|bot| bot.inputs.sent()).sum(),
            inputs_seen: bots.iter().map(|bot| bot.inputs.seen()).sum(),
            duplicates: problems.of(kind::DUPLICATE),
            gaps: problems.of(kind::GAP),
            latency_ms: Quantiles::of(&world.latency),
            frame_lateness_ms: Quantiles::of(&lateness),
            sent: flow(|bot| (bot.line.sent, bot.line.lost().0)),
            received: flow(|bot| (bot.line.received, bot.line.lost().1)),
            problems: problems.counts.clone(),
            examples: problems.examples.clone(),
            bots_late_ms,
            bots_were_late: bots_late_ms.p99 > BOTS_LATE_MS,
        }
    }

    /// Whether every player saw what it should have seen, and nothing else.
    pub(crate) fn all_well(&self) -> bool {
        self.all_well
    }

    /// The report as JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("every field has a JSON form")
    }
}

impl Quantiles {
    fn of(us: &Histogram<u64>) -> Quantiles {
        let ms = |us: u64| us as f64 / 1000.0;
        Quantiles {
            count: us.len(),
            p50: ms(us.value_at_quantile(0.5)),
            p99: ms(us.value_at_quantile(0.99)),
            p999: ms(us.value_at_quantile(0.999)),
            max: ms(us.max()),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Quantiles {
            p50,
            p99,
            p999,
            max,
            ..
        } = self;
        write!(
            f,
            "p50 {p50:>8.1}   p99 {p99:>8.1}   p99.9 {p999:>8.1}   max {max:>8.1}"
        )
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flow {
            datagrams,
            bytes,
            lost,
            bytes_per_player_and_second: rate,
        } = self;
        write!(
            f,
            "{datagrams} datagrams, {bytes} bytes, {rate:.0} bytes/s a player"
        )?;
        if *lost > 0 {
            write!(f, ", {lost} lost by --loss")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes_no = |yes| if yes { "yes" } else { "NO" };
        let Report {
            rooms,
            players,
            players_started,
            hz,
            seconds,
            ..
        } = self;
        writeln!(
            f,
            "played            {rooms} rooms, {players} players, {seconds} s, {hz} Hz"
        )?;
        writeln!(
            f,
            "started           {players_started} of {players} players"
        )?;
        writeln!(f, "same frames       {}", yes_no(self.same_frames))?;
        writeln!(
            f,
            "frames a player   {} to {}",
            self.frames_min, self.frames_max
        )?;
        writeln!(
            f,
            "inputs            {} sent, {} seen",
            self.inputs_sent, self.inputs_seen
        )?;
        writeln!(f, "duplicates, gaps  {}, {}", self.duplicates, self.gaps)?;
        writeln!(f, "latency, ms       {}", self.latency_ms)?;
        writeln!(f, "lateness, ms      {}", self.frame_lateness_ms)?;
        writeln!(f, "sent              {}", self.sent)?;
        writeln!(f, "received          {}", self.received)?;
        if self.bots_were_late {
            writeln!(
                f,
                "the bots were late: {} (ms, their own loop)",
                self.bots_late_ms
            )?;
        }
        for (kind, count) in &self.problems {
            writeln!(f, "PROBLEM           {kind}: {count}")?;
        }
        for example in &self.examples {
            writeln!(f, "                  {example}")?;
        }
        writeln!(f, "all well          {}", yes_no(self.all_well))
    }
}
