//! `lockstep-replay`: reads recordings of matches: prints them, checks them, and plays them to
//! clients as a server would.
//!
//! ```text
//! lockstep-replay FILE                     is it whole? (the same as: check FILE)
//! lockstep-replay print FILE --json        what is in it, line by line
//! lockstep-replay play FILE --speed 2      a server that plays it
//! ```
//!
//! FILE is a recording as `GET /api/recordings/{match}` gives it, a segment of a journal, or a data
//! directory; `--match` says which match of several.
//!
//! Here is the command line; [`source`] opens files, [`print`](mod@print), [`check`] and
//! [`play`](mod@play) do what is asked.

mod check;
mod play;
mod print;
mod source;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lockstep_server::engine::id::MatchId;

use play::Speed;
use source::Source;

/// Reads recordings of matches: checks them, prints them, and plays them to clients.
///
/// Without a command, FILE is checked. Exit status: 0 if all is well, 1 if FILE is damaged or
/// something failed, 2 if the arguments are wrong.
#[derive(Debug, Parser)]
#[command(
    name = "lockstep-replay",
    version,
    args_conflicts_with_subcommands = true
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// A recording, a segment of a journal, or a data directory
    #[arg(required = true)]
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Verify every checksum, the numbers of records and the order of frames; say what is damaged
    Check {
        /// A recording, a segment of a journal, or a data directory
        file: PathBuf,
    },
    /// Print what a match was made of, and its frames
    Print {
        #[command(flatten)]
        one: One,
        /// A line of JSON for the match, then one for each frame with input
        #[arg(long)]
        json: bool,
    },
    /// Serve the match to any client, of v1 or v2, that connects as one of its players
    Play {
        #[command(flatten)]
        one: One,
        /// Where to listen; 0.0.0.0:10086 for other machines, too
        #[arg(long, value_name = "ADDR", default_value_t = (Ipv4Addr::LOCALHOST, 10086).into())]
        udp: SocketAddr,
        /// How many times as fast as it was played, from 0.01 to 100, or max
        #[arg(long, default_value = "1")]
        speed: Speed,
    },
}

/// One match.
#[derive(Debug, clap::Args)]
struct One {
    /// A recording, a segment of a journal, or a data directory
    file: PathBuf,
    /// Which match, if there are several
    #[arg(long = "match", value_name = "ID")]
    match_id: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (args.command, args.file) {
        (Some(Command::Check { file }), _) | (None, Some(file)) => {
            Source::open(&file).and_then(|source| check::check(&source))
        }
        (Some(Command::Print { one, json }), _) => one
            .open()
            .and_then(|(source, id)| source.recording(id))
            .and_then(|recording| print::print(&recording, json)),
        (Some(Command::Play { one, udp, speed }), _) => one
            .open()
            .and_then(|(source, id)| source.recording(id))
            .and_then(|recording| play::play(recording, udp, speed)),
        (None, None) => unreachable!("the arguments name a file"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockstep-replay: {error}");
            ExitCode::FAILURE
        }
    }
}

impl One {
    fn open(self) -> Result<(Source, Option<MatchId>), String> {
        Ok((Source::open(&self.file)?, self.match_id.map(MatchId)))
    }
}
