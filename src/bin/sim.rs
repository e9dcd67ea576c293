//! `lockstep-sim`: runs simulated worlds and prints the seed and the step of a failure.
//!
//! ```text
//! lockstep-sim --seeds 2000            many worlds, on every core
//! lockstep-sim --seed 17 --verbose     one of them again, line by line
//! lockstep-sim --seed 17 --without flood,outage     the same without some faults
//! ```
//!
//! After a failure it looks for the kinds of faults that the failure needs: each kind is left
//! out in turn, and stays out if the world fails nevertheless.
//!
//! The worlds are [`lockstep_server::sim`]'s. What needs threads, a clock or a terminal is
//! here: workers that take one seed after another, the progress bar and the totals.

use std::cell::Cell;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lockstep_server::engine::counters::Counters;
use lockstep_server::engine::drops::{Disconnect, Drop};
use lockstep_server::sim::fault::{Fault, Happened};
use lockstep_server::sim::network::Tally;
use lockstep_server::sim::{Crashes, Failure, Report, World};

/// Time between two lines of progress where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Runs the server and its clients in simulated worlds: virtual time, a bad network, and an
/// oracle that watches. One seed is one world.
#[derive(Debug, Parser)]
#[command(name = "lockstep-sim", version)]
struct Args {
    /// Run the world of this seed alone
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// With --seed: print everything that happens
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Leave these kinds of faults out, with commas between them
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
    /// Run so many worlds
    #[arg(long, value_name = "N", default_value_t = 500)]
    seeds: u64,
    /// The first seed of many
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

fn fault(name: &str) -> Result<Fault, String> {
    Fault::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Fault::ALL.iter().map(|kind| kind.name()).collect();
        format!("no such kind; there are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let passed = match args.seed {
        Some(seed) => run_one(seed, &args),
        None => run_many(&args),
    };
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the world of a seed. A panic in it is a failure as any other.
fn run_world(seed: u64, without: &[Fault], verbose: bool) -> Outcome {
    let mut world = World::without(seed, without.to_vec());
    if verbose {
        let mut out = std::io::stdout().lock();
        // A closed pipe is no reason to stop: the verdict still counts.
        world.watch(Box::new(move |line| drop(writeln!(out, "{line}"))));
    }
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no text");
            Err(Box::new(world.failure(format!("panic: {text}"))))
        }
    }
}

/// Leaves out one kind of fault after the other, as far as the world still fails.
fn shrink(failure: &Failure, without: &[Fault]) -> Vec<Fault> {
    let mut without = without.to_vec();
    for kind in failure.faults.kinds() {
        without.push(kind);
        if run_world(failure.seed, &without, false).is_ok() {
            without.pop();
        }
    }
    without
}

/// Prints a failure, and how to see it with as few kinds of faults as possible.
fn explain(failure: &Failure, without: &[Fault]) {
    println!("{failure}");
    let seed = failure.seed;
    let names = |kinds: &[Fault]| -> String {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        names.join(",")
    };
    let replay = |without: &[Fault]| {
        let option = if without.is_empty() {
            ""
        } else {
            " --without "
        };
        let names = names(without);
        println!("replay: lockstep-sim --seed {seed} --verbose{option}{names}");
    };
    replay(without);
    let smallest = shrink(failure, without);
    let needed = |kind: &Fault| !smallest.contains(kind);
    let needed: Vec<Fault> = failure.faults.kinds().filter(needed).collect();
    println!("needs: {}", names(&needed));
    if smallest.len() > without.len() {
        replay(&smallest);
    }
}

fn run_one(seed: u64, args: &Args) -> bool {
    match run_world(seed, &args.without, args.verbose) {
        Ok(report) => {
            println!(
                "seed {seed} passed: {} steps, {:.1} virtual seconds, trace {:016x}",
                report.steps,
                report.lasted.as_secs_f64(),
                report.hash
            );
            let mut totals = Totals::default();
            totals.add(&report);
            print!("{totals}");
            true
        }
        Err(failure) => {
            explain(&failure, &args.without);
            false
        }
    }
}

fn run_many(args: &Args) -> bool {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or(cores, usize::from);
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let (send, results) = mpsc::channel();
    let begun = Instant::now();
    let (totals, failures) = thread::scope(|scope| {
        for _ in 0..threads {
            let send = send.clone();
            scope.spawn(|| work(args, &next, &stop, send));
        }
        // The results end when the last worker has dropped its sender.
        drop(send);
        collect(&results, args.seeds, &stop)
    });
    let seconds = begun.elapsed().as_secs_f64();
    let rate = f64::from(totals.worlds) / seconds.max(1e-6);
    for failure in &failures {
        explain(failure, &args.without);
    }
    println!(
        "{} seeds from {} on passed, {} failed: {seconds:.1} s, {rate:.1} seeds/s, {threads} threads",
        totals.worlds,
        args.from,
        failures.len(),
    );
    print!("{totals}");
    failures.is_empty()
}

type Outcome = Result<Report, Box<Failure>>;

/// Takes one seed after another until none is left or somebody says stop.
fn work(args: &Args, next: &AtomicU64, stop: &AtomicBool, send: mpsc::Sender<Outcome>) {
    while !stop.load(Ordering::Relaxed) {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= args.seeds {
            return;
        }
        let outcome = run_world(args.from.wrapping_add(index), &args.without, false);
        if send.send(outcome).is_err() {
            return;
        }
    }
}

/// Adds up what comes, shows how far it is, and stops the workers at a failure. There can
/// be a few: one of each worker.
fn collect(
    results: &mpsc::Receiver<Outcome>,
    seeds: u64,
    stop: &AtomicBool,
) -> (Totals, Vec<Failure>) {
    let progress = Progress::new(seeds);
    let mut totals = Totals::default();
    let mut failures = Vec::new();
    for outcome in results {
        match outcome {
            Ok(report) => totals.add(&report),
            Err(failure) => {
                stop.store(true, Ordering::Relaxed);
                failures.push(*failure);
            }
        }
        progress.show(u64::from(totals.worlds));
    }
    progress.finish();
    failures.sort_by_key(|failure| failure.seed);
    (totals, failures)
}

/// How far it is: a bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    seeds: u64,
    said_at: Cell<Instant>,
}

impl Progress {
    fn new(seeds: u64) -> Progress {
        let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left";
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(style).expect("the template is legal");
            let bar = ProgressBar::with_draw_target(Some(seeds), ProgressDrawTarget::stderr());
            bar.with_style(style)
        });
        Progress {
            bar,
            seeds,
            said_at: Cell::new(Instant::now()),
        }
    }

    fn show(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.said_at.get().elapsed() >= PLAIN_EVERY {
            self.said_at.set(Instant::now());
            eprintln!("{done}/{} seeds", self.seeds);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What all worlds did together.
#[derive(Debug, Default)]
struct Totals {
    worlds: u32,
    steps: u64,
    lasted: Duration,
    conversations: u64,
    resumed: u64,
    fetched: u64,
    data_bytes: u64,
    watched: u64,
    crashes: Crashes,
    network: Tally,
    faults: Happened,
    server: Counters,
    drops: [u64; Drop::COUNT],
    disconnects: [u64; Disconnect::COUNT],
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.worlds += 1;
        self.steps += report.steps;
        self.lasted += report.lasted;
        self.conversations += report.conversations;
        self.resumed += report.resumed;
        self.fetched += report.fetched;
        self.data_bytes += report.data_bytes;
        self.watched += report.watched;
        self.crashes.restarts += report.crashes.restarts;
        self.crashes.lost_bytes += report.crashes.lost_bytes;
        self.crashes.forks += report.crashes.forks;
        self.crashes.mixed += report.crashes.mixed;
        self.network.sent += report.network.sent;
        self.network.lost += report.network.lost;
        self.network.cut += report.network.cut;
        self.network.twice += report.network.twice;
        self.faults.add(&report.faults);
        let (all, one) = (&mut self.server, &report.counters);
        all.rooms_created += one.rooms_created;
        all.rooms_restored += one.rooms_restored;
        all.matches_started += one.matches_started;
        all.frames += one.frames;
        all.inputs += one.inputs;
        all.sessions_opened += one.sessions_opened;
        all.probes += one.probes;
        all.sessions_moved += one.sessions_moved;
        all.resets += one.resets;
        all.questions += one.questions;
        all.questions_located += one.questions_located;
        all.questions_late += one.questions_late;
        all.redirects += one.redirects;
        all.epochs_renewed += one.epochs_renewed;
        for (sum, reason) in self.drops.iter_mut().zip(Drop::ALL) {
            *sum += one.drops(*reason);
        }
        for (sum, reason) in self.disconnects.iter_mut().zip(Disconnect::ALL) {
            *sum += one.disconnects(*reason);
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, network) = (&self.server, &self.network);
        writeln!(
            f,
            "worlds:   {} steps, {:.0} virtual seconds, {} conversations, {} frames resumed over, {} \
             watched",
            self.steps,
            self.lasted.as_secs_f64(),
            self.conversations,
            self.resumed,
            self.watched
        )?;
        writeln!(
            f,
            "extras:   {} frames fetched, {} bytes beside inputs",
            self.fetched, self.data_bytes
        )?;
        writeln!(
            f,
            "matches:  {} created, {} started, {} frames, {} inputs, {} new epochs",
            server.rooms_created,
            server.matches_started,
            server.frames,
            server.inputs,
            server.epochs_renewed
        )?;
        writeln!(
            f,
            "network:  {} datagrams, {} lost, {} cut off, {} twice",
            network.sent, network.lost, network.cut, network.twice
        )?;
        let crashes = &self.crashes;
        writeln!(
            f,
            "restarts: {}, {} rooms restored, {} with other frames than were sent, \
             {} conversations with two servers, {} bytes lost with the power",
            crashes.restarts,
            server.rooms_restored,
            crashes.forks,
            crashes.mixed,
            crashes.lost_bytes
        )?;
        writeln!(
            f,
            "asked:    {} times where a room is, {} found, {} never answered in time, \
             {} sent on",
            server.questions, server.questions_located, server.questions_late, server.redirects
        )?;
        writeln!(f, "faults:   {}", self.faults)?;
        write!(
            f,
            "sessions: {} opened, {} moved, {} probes, {} resets; ended:",
            server.sessions_opened, server.sessions_moved, server.probes, server.resets
        )?;
        for (count, reason) in self.disconnects.iter().zip(Disconnect::ALL) {
            write!(f, " {}={count}", reason.name())?;
        }
        write!(f, "\ndrops:   ")?;
        for (count, reason) in self.drops.iter().zip(Drop::ALL) {
            write!(f, " {}={count}", reason.name())?;
        }
        writeln!(f)
    }
}
