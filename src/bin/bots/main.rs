//! `lockstep-bots`: plays many matches against a running server, and says what the players
//! saw.
//!
//! Here are the command line and the order of things; [`http`] creates the rooms,
//! [`play`](mod@play) is the loop with its [`wakes`], [`bot`] one player,
//! [`line`](mod@line) its way to the server through the [`weather`] that loses and delays,
//! [`watch`] what is checked and measured, [`problems`] what went wrong, [`progress`] and
//! [`report`] what is shown. [`soak`](mod@soak) is another run, in which rooms and players
//! come and go, [`returning`] one in which players come back to a long match, and
//! [`killing`] one in which the server dies; [`ledger`] has a player's inputs there.

mod bot;
mod http;
mod killing;
mod ledger;
mod line;
mod play;
mod problems;
mod progress;
mod report;
mod returning;
mod soak;
mod wakes;
mod watch;
mod weather;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::io::system;
use lockstep_server::limits::{HZ_RANGE, PLAYERS_PER_ROOM_RANGE, WATCHERS_RANGE};

use http::{Created, Web, Wishes};
use killing::KillPlan;
use returning::ReturnPlan;
use soak::SoakPlan;
use weather::Weather;

/// Frames per second of a server whose answer does not tell.
const HZ_DEFAULT: u32 = 30;
/// Seconds of a match besides the play: everybody connects before, results come after.
const ROOM_SECONDS_BESIDES: u64 = 5;

/// Plays many matches against a running server and says what the players saw.
///
/// It creates the rooms over HTTP, plays them all on one thread with a socket for each
/// player, and checks that all players of a room see the same frames, without gap or repeat,
/// with every input exactly once.
#[derive(Debug, Parser)]
#[command(name = "lockstep-bots", version, after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    mode: Option<Mode>,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Makes and ends rooms for a while, with players that come late, crash and come back, and
    /// says whether the server forgets them all.
    #[command(after_help = SOAK_AFTER_HELP)]
    Soak {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        soak: SoakArgs,
    },
    /// Plays one long match, lets two of its players crash and come back again and again, with v1
    /// and with v2, and says how long it takes until they have all frames.
    #[command(after_help = RETURN_AFTER_HELP)]
    Return {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        returns: ReturnArgs,
    },
    /// Starts a server with a journal, kills it again and again while rooms are created and
    /// played, and says whether anything that a player has seen was lost.
    #[command(after_help = KILL_AFTER_HELP)]
    Kill {
        #[command(flatten)]
        kill: KillArgs,
    },
}

/// Which server, and through which network.
#[derive(Debug, clap::Args)]
struct Common {
    /// The server's UDP address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:10086",
          value_parser = resolve)]
    server: SocketAddr,
    /// The server's HTTP address, where the rooms are created.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:10002")]
    web: String,
    /// The server's --admin-token, sent with each HTTP request.
    #[arg(long, value_name = "TOKEN", env = "LOCKSTEP_ADMIN_TOKEN", hide_env_values = true,
          value_parser = bearer)]
    admin_token: Option<String>,

    /// Number of the first room; the others follow. The players of room 7 are 7001, 7002 ...
    #[arg(long, value_name = "ROOM", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    first_room: u64,

    /// Datagrams that are lost, in each direction, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent,
          help_heading = "Network")]
    loss: f64,
    /// Delay of each datagram, in each direction, in ms.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = "Network",
          value_parser = clap::value_parser!(u64).range(0..=10_000))]
    delay: u64,
    /// Further delay, drawn anew for each datagram from 0 to this, in ms: it reorders them.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = "Network",
          value_parser = clap::value_parser!(u64).range(0..=10_000))]
    jitter: u64,
    /// Seed of loss and jitter.
    #[arg(long, default_value_t = 1, help_heading = "Network")]
    seed: u64,

    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Matches of the same length for everybody.
#[derive(Debug, clap::Args)]
struct Load {
    /// Rooms that play at the same time.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rooms: u32,
    /// Players in each room.
    #[arg(long, default_value_t = 4, value_parser = players)]
    players: u32,
    /// Inputs of each player per second, spread evenly; 0 for none.
    #[arg(long, value_name = "HZ", default_value_t = 15.0, value_parser = input_hz)]
    input_hz: f64,
    /// Seconds of play. The last one is without inputs, so that all can be seen.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(3..=86_400))]
    seconds: u64,
    /// Count the seconds from when all players play, and measure latency and lateness from
    /// then on: a crowd that comes is not one that is there.
    #[arg(long)]
    together: bool,
    /// Frames per second of the rooms, if not the server's own setting.
    #[arg(long, value_parser = hz)]
    hz: Option<u32>,
    /// Spectators of each room besides, who must be shown the same frames to the end, as late
    /// as the server's --watch-delay says. A server with --auth ticket knows none of them.
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(i64::from(*WATCHERS_RANGE.start())
              ..=i64::from(*WATCHERS_RANGE.end())))]
    watch: u32,
    /// Where in a cluster the rooms are: on the least loaded nodes (auto), or on the node of this
    /// id. The players know --server alone, and are sent on from there.
    #[arg(long, value_name = "auto|NODE")]
    place: Option<String>,
}

/// Rooms and players that come and go.
#[derive(Debug, clap::Args)]
struct SoakArgs {
    /// Players at the same time, in rooms of 2 to 8.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    bots: u32,
    /// Seconds for which rooms are made.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(3..=86_400))]
    seconds: u64,
    /// Seconds that a room lives at least.
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(2..=3600))]
    life_min: u64,
    /// Seconds that a room lives at the most.
    #[arg(long, value_name = "SECONDS", default_value_t = 40,
          value_parser = clap::value_parser!(u64).range(2..=3600))]
    life_max: u64,
    /// Inputs of each player per second.
    #[arg(long, value_name = "HZ", default_value_t = 2.0, value_parser = some_input_hz)]
    input_hz: f64,
    /// The server's process: its resident memory is watched and must stay flat (Linux).
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
}

/// Players that come back.
#[derive(Debug, clap::Args)]
struct ReturnArgs {
    /// Frames that there are when a player comes back first.
    #[arg(long, value_name = "FRAMES", default_value_t = 5500,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    frames: u32,
    /// Players of the room: two that come back, and one or more that stay.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(3..=16))]
    players: u32,
    /// How often each of the two comes back.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    times: u32,
    /// Frames per second of the room: the more, the sooner there are so many.
    #[arg(long, default_value_t = 240, value_parser = hz)]
    hz: u32,
}

/// A server that is killed.
#[derive(Debug, clap::Args)]
struct KillArgs {
    /// The server's program, if not the one beside this.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// When the server brings its journal to the disk.
    #[arg(long, value_name = "MODE", default_value = "interval")]
    fsync: Fsync,
    /// How often it is killed.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    kills: u32,
    /// How often it is asked to end besides, with SIGTERM.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    terms: u32,
    /// Rooms. They are created around the first fifth of the kills.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rooms: u32,
    /// Players of each room. Half of all speak v1, the others v2.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    players: u32,
    /// Inputs of each player per second.
    #[arg(long, value_name = "HZ", default_value_t = 10.0, value_parser = some_input_hz)]
    input_hz: f64,
    /// Seed of the moments and the pauses, if not one that is drawn.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// What --fsync of the server takes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fsync {
    Never,
    Interval,
    Always,
}

impl Fsync {
    fn name(self) -> &'static str {
        match self {
            Fsync::Never => "never",
            Fsync::Interval => "interval",
            Fsync::Always => "always",
        }
    }
}

const AFTER_HELP: &str = "\
Exit code: 0 if every player saw the same frames and every input once, 1 if anyone saw \
anything else, 2 if an option is wrong.

Latency is the time from an input until the frame that holds it has come back. On average \
half a frame of it is the wait for the frame's end. Lateness is how much later a frame came \
than the best-timed frame of the same player; an empty frame that the server left out until a \
later one was due is not counted.

Example: lockstep-bots --rooms 100 --players 4 --input-hz 15 --seconds 20 --loss 2 --delay 30";

const SOAK_AFTER_HELP: &str = "\
Exit code: 0 if every player saw the same frames and its inputs once, the server's memory was \
flat and its counters of sessions, rooms and timers came back to 0; 1 if not; 2 if an option is \
wrong.

Half of the rooms end by results, a quarter over HTTP, a quarter are left alone. The server \
should end what is left alone some 10 s after players of such a room are gone, and let none of \
its time limits be shorter than what the players take: --ready-timeout 3 --idle-timeout 15 \
--reconnect-grace 10 --room-timeout 90 goes with the defaults here. A timer may stay for as long \
as --room-timeout says, and so long the counters may take. Memory is flat if its mean in the \
last third is at most a tenth and 1 MB over that in the first; what comes before twice the \
--life-max does not count, and a run of under six times that is not judged.

Example: lockstep-bots soak --bots 1000 --seconds 600 --loss 2 --delay 20 --jitter 10";

const RETURN_AFTER_HELP: &str = "\
Exit code: 0 if the player was live each time and every frame was that of the others, 1 if not, \
2 if an option is wrong.

Until the frames are there all play without loss and delay, each with an input in every second \
frame. Then the first player crashes and comes back 0.25 s later on a socket of its own, through \
the network that the options describe, as a client of v1 with no memory. Then the second one does \
so with a client of v2, which has all frames from before its crash; and so on, in turns. One is \
live once it has every frame from 0 to the newest that the others had --delay and --jitter ago: so \
long each frame takes to come. The time counts from its first datagram, and is given up after \
30 s. bytes are those of the datagrams that came in until then.

The server needs a --max-frames of some thousand more than --frames: the match goes on.

Example: lockstep-bots return --frames 5500 --players 4 --times 10 --loss 5 --delay 50";

const KILL_AFTER_HELP: &str = "\
Exit code: 0 if no frame that any player ever saw was lost or changed, all players of a room saw \
the same ones, and every room that the server had said to be created was there after each kill; 1 \
if not; 2 if an option is wrong.

The server runs for 0.2 to 2 s, each fifth time for less than 60 ms, and is started again at once \
or within a second, on the same ports of the loopback and with the same journal, in a directory \
for temporary files. Players connect anew when nobody is there or knows them, or nothing was heard \
for 400 ms (v1) or 1.5 s (v2). \
Inputs that the server had not put into a frame yet are lost with it; they are counted. In the end all \
matches end with results, and the journal is compared with what the players saw. It stays if \
anything was wrong.

Example: lockstep-bots kill --rooms 100 --kills 50 --terms 5 --fsync always";

/// What is played, after the command line and the server have had their say.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The server's UDP address.
    pub(crate) server: SocketAddr,
    /// The rooms, their players and then their spectators.
    pub(crate) rooms: Vec<PlannedRoom>,
    /// Time between two inputs of a player, `None` for no inputs.
    pub(crate) input_every: Option<Duration>,
    /// Time of play.
    pub(crate) time: Duration,
    /// The time counts, and is measured, from when all play.
    pub(crate) together: bool,
    /// Frames per second.
    pub(crate) hz: u32,
    /// The network between the players and the server.
    pub(crate) weather: Weather,
    /// Seed of the network.
    pub(crate) seed: u64,
}

/// A room and its players, and perhaps spectators.
pub(crate) type PlannedRoom = (RoomId, Vec<Member>);

/// A player of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its account.
    pub(crate) player: PlayerId,
    /// What it shows at the door.
    pub(crate) token: String,
    /// It only watches.
    pub(crate) watches: bool,
}

impl Plan {
    /// Players in all rooms, spectators among them.
    pub(crate) fn players(&self) -> usize {
        self.rooms.iter().map(|(_, members)| members.len()).sum()
    }
}

fn main() -> ExitCode {
    let Args { mode, common, load } = Args::parse();
    // Each player needs a socket. If it fails, opening the sockets will say so.
    system::raise_descriptor_limit();
    let ran = match &mode {
        Some(Mode::Soak { common, soak: args }) => soak(common, args),
        Some(Mode::Return { common, returns }) => come_back(common, returns),
        Some(Mode::Kill { kill: args }) => kill(args),
        None => play(&common, &load),
    };
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}

/// Creates the rooms, plays them, prints the report, and says whether all was well.
fn play(common: &Common, load: &Load) -> Result<bool, String> {
    let (rooms, hz) = create_rooms(common, load)?;
    let plan = Plan {
        server: common.server,
        rooms,
        input_every: (load.input_hz > 0.0).then(|| Duration::from_secs_f64(1.0 / load.input_hz)),
        time: Duration::from_secs(load.seconds),
        together: load.together,
        hz,
        weather: common.weather(),
        seed: common.seed,
    };
    let report = play::play(&plan)?;
    if common.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(report.all_well())
}

/// Soaks the server, prints the report, and says whether all was well.
fn soak(common: &Common, soak: &SoakArgs) -> Result<bool, String> {
    let life_min = Duration::from_secs(soak.life_min);
    let plan = SoakPlan {
        server: common.server,
        web: common.web(),
        server_pid: soak.server_pid,
        bots: usize::try_from(soak.bots).expect("it is small"),
        time: Duration::from_secs(soak.seconds),
        life: life_min..=Duration::from_secs(soak.life_max.max(soak.life_min)),
        input_every: Duration::from_secs_f64(1.0 / soak.input_hz),
        mishap_every: life_min / 2,
        away_max: life_min / 5,
        // Short enough that a room does not count as left alone.
        away_long: life_min * 7 / 10,
        first_room: common.first_room,
        weather: common.weather(),
        seed: common.seed,
    };
    let report = soak::soak(&plan)?;
    if common.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(report.all_well())
}

/// Lets players come back, prints the report, and says whether all was well.
fn come_back(common: &Common, returns: &ReturnArgs) -> Result<bool, String> {
    let room = RoomId(common.first_room);
    let players = members_of(room.0, returns.players);
    let wishes = Wishes {
        hz: Some(returns.hz),
        ..Wishes::default()
    };
    let (room, created) = create_room(common, room, players, &wishes)?;
    let hz = created.hz.unwrap_or(returns.hz);
    let plan = ReturnPlan {
        server: common.server,
        room,
        hz,
        frames: returns.frames,
        times: returns.times,
        weather: common.weather(),
        seed: common.seed,
    };
    let (max, needed) = (created.max_frames, plan.frames_max());
    let played = match max.filter(|max| *max < needed) {
        None => returning::play(&plan),
        Some(max) => Err(format!(
            "a match on this server is over after {max} frames (--max-frames of the server), and \
             --frames {} with {} returns takes up to {needed}",
            plan.frames, plan.times
        )),
    };
    // Else it would run on for nobody, and the next run would find its number taken.
    let closed = common.web().close_room(plan.room.0);
    let report = played?;
    closed?;
    if common.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(report.all_well())
}

/// Kills a server, prints the report, and says whether all was well.
fn kill(kill: &KillArgs) -> Result<bool, String> {
    let program = match &kill.program {
        Some(program) => program.clone(),
        None => beside_this("lockstep-server").map_err(|error| format!("--program: {error}"))?,
    };
    let count = |number: u32| usize::try_from(number).expect("it is small");
    let drawn = kill.seed.map_or_else(getrandom::u64, Ok);
    let report = killing::kill(&KillPlan {
        program,
        fsync: kill.fsync.name(),
        rooms: count(kill.rooms),
        players: count(kill.players),
        kills: count(kill.kills),
        terms: count(kill.terms),
        input_every: Duration::from_secs_f64(1.0 / kill.input_hz),
        seed: drawn.map_err(|error| format!("cannot draw a seed: {error}"))?,
    })?;
    if kill.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(report.all_well())
}

/// The path of a program in the directory of this one.
fn beside_this(name: &str) -> io::Result<PathBuf> {
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    Ok(std::env::current_exe()?.with_file_name(name))
}

impl Common {
    fn web(&self) -> Web {
        Web {
            address: self.web.clone(),
            admin_token: self.admin_token.clone(),
        }
    }

    fn weather(&self) -> Weather {
        Weather {
            loss: self.loss / 100.0,
            delay: Duration::from_millis(self.delay),
            jitter: Duration::from_millis(self.jitter),
        }
    }
}

/// The rooms and who plays in them: nobody plays in two.
fn members(first_room: u64, load: &Load) -> Vec<(RoomId, Vec<PlayerId>)> {
    let rooms = first_room..first_room + u64::from(load.rooms);
    rooms
        .map(|room| (RoomId(room), members_of(room, load.players)))
        .collect()
}

/// The players of a room.
fn members_of(room: u64, players: u32) -> Vec<PlayerId> {
    let numbers = 1..=u64::from(players);
    numbers.map(|n| PlayerId(room * 1000 + n)).collect()
}

/// Creates the rooms over HTTP, and returns them and their frames per second.
fn create_rooms(common: &Common, load: &Load) -> Result<(Vec<PlannedRoom>, u32), String> {
    let mut hz = load.hz.unwrap_or(HZ_DEFAULT);
    let mut rooms = Vec::new();
    let wishes = Wishes {
        hz: load.hz,
        watchers: load.watch,
        place: load.place.clone(),
    };
    for (room, players) in members(common.first_room, load) {
        let (room, created) = create_room(common, room, players, &wishes)?;
        hz = created.hz.unwrap_or(hz);
        let seconds = created.max_frames.map(|frames| u64::from(frames / hz));
        if let Some(seconds) = seconds.filter(|s| *s < load.seconds + ROOM_SECONDS_BESIDES) {
            return Err(format!(
                "a match on this server is over after {seconds} s (--max-frames of the server), \
                 and --seconds {} with a margin of {ROOM_SECONDS_BESIDES} s is longer",
                load.seconds
            ));
        }
        rooms.push(room);
    }
    Ok((rooms, hz))
}

/// Creates a room over HTTP, and returns it and what the server said of it.
fn create_room(
    common: &Common,
    room: RoomId,
    players: Vec<PlayerId>,
    wishes: &Wishes,
) -> Result<(PlannedRoom, Created), String> {
    let created = common
        .web()
        .create_room(room, &players, wishes)
        .map_err(|error| format!("room {room} was not created: {error}"))?;
    let members = players.into_iter().zip(created.tokens.iter().cloned());
    let members = members.map(|(player, token)| Member {
        player,
        token,
        watches: false,
    });
    // Their accounts are nobody's who plays.
    let watchers = (0..wishes.watchers).map(|number| Member {
        player: PlayerId(u64::MAX - u64::from(number)),
        token: created.watch_token.clone(),
        watches: true,
    });
    Ok(((room, members.chain(watchers).collect()), created))
}

/// The address of a server, of version 4 if there is a choice: that is what the server listens
/// on unless told otherwise.
fn resolve(host_port: &str) -> Result<SocketAddr, String> {
    let all: Vec<_> = host_port
        .to_socket_addrs()
        .map_err(|error| format!("{error}; HOST:PORT is right, such as 127.0.0.1:10086"))?
        .collect();
    let v4 = all.iter().find(|address| address.is_ipv4());
    let address = v4.or(all.first()).copied();
    address.ok_or_else(|| "this name has no address".to_owned())
}

/// A token that fits a line of HTTP.
fn bearer(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("one or more letters, digits and signs, without a space".to_owned())
    }
}

fn players(text: &str) -> Result<u32, String> {
    let range = PLAYERS_PER_ROOM_RANGE;
    let count: u32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if usize::try_from(count).is_ok_and(|count| range.contains(&count)) {
        Ok(count)
    } else {
        Err(format!("{} to {} are possible", range.start(), range.end()))
    }
}

fn hz(text: &str) -> Result<u32, String> {
    let hz: u32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if HZ_RANGE.contains(&hz) {
        Ok(hz)
    } else {
        Err(format!(
            "{} to {} are possible",
            HZ_RANGE.start(),
            HZ_RANGE.end()
        ))
    }
}

fn input_hz(text: &str) -> Result<f64, String> {
    number_up_to(text, 1000.0)
}

fn some_input_hz(text: &str) -> Result<f64, String> {
    let hz = number_up_to(text, 100.0)?;
    if hz >= 0.1 {
        Ok(hz)
    } else {
        Err("0.1 to 100 are possible".to_owned())
    }
}

fn percent(text: &str) -> Result<f64, String> {
    number_up_to(text, 90.0)
}

fn number_up_to(text: &str, max: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=max).contains(&number) {
        Ok(number)
    } else {
        Err(format!("0 to {max} are possible"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            ["--players", "257"],
            ["--players", "0"],
            ["--loss", "91"],
            ["--loss", "NaN"],
            ["--input-hz", "-1"],
            ["--seconds", "2"],
            ["--hz", "241"],
            ["--rooms", "0"],
            ["--admin-token", "a\r\nb"],
        ] {
            let line = ["lockstep-bots"].into_iter().chain(wrong);
            assert!(Args::try_parse_from(line).is_err(), "{wrong:?}");
        }
        for wrong in [["--players", "2"], ["--times", "0"], ["--frames", "0"]] {
            let line = ["lockstep-bots", "return"].into_iter().chain(wrong);
            assert!(Args::try_parse_from(line).is_err(), "{wrong:?}");
        }
        for wrong in [["--kills", "0"], ["--rooms", "0"], ["--fsync", "often"]] {
            let line = ["lockstep-bots", "kill"].into_iter().chain(wrong);
            assert!(Args::try_parse_from(line).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nobody_plays_in_two_rooms() {
        let line = ["lockstep-bots", "--rooms", "3", "--players", "256"];
        let args = Args::try_parse_from(line).unwrap();
        let rooms = members(1, &args.load);
        let mut all: Vec<_> = rooms.iter().flat_map(|(_, members)| members).collect();
        assert_eq!((rooms.len(), all.len()), (3, 768));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 768);
    }
}
