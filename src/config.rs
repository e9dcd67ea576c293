//! The settings: the command line and the environment, parsed once into typed values.
//!
//! [`parse`] gets both from outside, and the reading of files too, and touches neither the
//! process nor its environment, so tests need no process. (One exception: a host's name in an
//! address is looked up.)
//! Each setting is one `Setting` below; its flag, its environment variable, its line of
//! the help and its errors all come from there. Ranges live in [`crate::limits`], defaults
//! of the engine in [`crate::engine::config::Config`]. The first thing that is wrong is the
//! error, and every error is one line that says what would be right.
//!
//! clap splits the arguments and lays out the help. Values are judged here, because its
//! errors take several lines and do not know which variable a value came from.
//!
//! Secrets are settings like others, except that no error repeats one, whatever else is wrong
//! with the line that it stands in; who is let in is put together in `access`.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use log::LevelFilter;
use thiserror::Error;

use crate::admin::guard::Guard;
use crate::cluster::options::EtcdOptions;
use crate::engine;
use crate::io::journal;
use crate::limits;

mod access;
mod cluster;
mod recording;

/// Everything that a user may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where players connect.
    pub udp: Listen,
    /// Where the HTTP side listens.
    pub web: Listen,
    /// What protects it there.
    pub guard: Guard,
    /// What is logged: a filter that env_logger takes.
    pub log: String,
    /// The rules of matches and the limits.
    pub engine: engine::config::Config,
    /// Where everything is recorded, if it is.
    pub journal: Option<journal::Options>,
    /// Where gRPC listens, if it does.
    pub grpc: Option<Listen>,
    /// The cluster that it is part of, if it is.
    pub etcd: Option<EtcdOptions>,
    /// How long a process that is asked to stop goes on for the matches that run.
    pub drain: Duration,
}

/// Where to listen. Port 0 lets the system choose one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On every interface, over IPv6 and IPv4 where the system has both.
    Every {
        /// The port.
        port: u16,
    },
    /// On this address alone.
    At(SocketAddr),
}

impl Listen {
    /// The port.
    pub fn port(self) -> u16 {
        match self {
            Listen::Every { port } => port,
            Listen::At(address) => address.port(),
        }
    }

    /// Whether only this machine reaches it.
    pub fn is_loopback(self) -> bool {
        match self {
            Listen::Every { .. } => false,
            Listen::At(address) => address.ip().to_canonical().is_loopback(),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Every { port } => write!(f, ":{port}"),
            Listen::At(address) => address.fmt(f),
        }
    }
}

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// To run with these settings.
    Run(Box<Settings>),
    /// To print this text (help, version) and exit with 0.
    Say(String),
}

/// A setting that is wrong. Its text is one line, without the program's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A value that its setting does not take.
    #[error("{setting}: {value:?} is not {right}")]
    Value {
        /// The flag, or the environment variable if that is where the value came from.
        setting: String,
        /// The value as given.
        value: String,
        /// What would be right.
        right: String,
    },
    /// A value that must not be shown, or that does not go with others.
    #[error("{setting}: {reason}")]
    Unfit {
        /// The flag, or the environment variable if that is where the value came from.
        setting: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A flag at the end of the line, with nothing behind it.
    #[error("{flag}: a value is missing, {right}")]
    Missing {
        /// The flag.
        flag: String,
        /// What would be right.
        right: String,
    },
    /// A flag that does not exist.
    #[error("{flag:?} is no setting{hint}")]
    Unknown {
        /// The flag as given.
        flag: String,
        /// Which one may have been meant.
        hint: String,
    },
    /// Anything else that clap refuses.
    #[error("{0}")]
    Usage(String),
}

/// Reads `args`, the program's name first as in [`std::env::args_os`], and for settings that
/// they leave out the environment through `env`, as in [`std::env::var_os`]. Files that hold
/// secrets are read through `read`, as in [`crate::io::system::read_secret_file`].
///
/// An argument wins over the environment, the last of two equal flags wins, and a variable
/// that is set to nothing counts as not set, unless it would keep somebody out: secrets and
/// tokens.
///
/// # Errors
///
/// The first setting that is wrong, or the first argument that is no setting.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
    read: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Parsed, ConfigError> {
    let args: Vec<OsString> = args
        .into_iter()
        .enumerate()
        .map(|(i, arg)| if i == 0 { arg } else { dashed(arg) })
        .collect();
    match command().try_get_matches_from(&args) {
        Ok(matches) => {
            let settings = settings(&Source { matches, env, read })?;
            Ok(Parsed::Run(Box::new(settings)))
        }
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Parsed::Say(error.to_string()))
            }
            _ => Err(usage_error(&error, &args)),
        },
    }
}

/// Every setting by name, typed and checked.
fn settings(source: &Source<'_>) -> Result<Settings, ConfigError> {
    let (udp, web) = (source.given(&UDP)?.listen()?, source.given(&WEB)?.listen()?);
    let guard = access::guard(source, web)?;
    let grpc = cluster::grpc(source, &guard)?;
    Ok(Settings {
        udp,
        web,
        guard,
        grpc,
        etcd: cluster::etcd(source, &cluster::Listens { udp, web, grpc })?,
        drain: source.given(&DRAIN)?.seconds()?,
        log: source.given(&LOG)?.filter()?,
        engine: engine::config::Config {
            hz: source.given(&HZ)?.count()?,
            broadcast_every: source.given(&BROADCAST_EVERY)?.count()?,
            ready_timeout: source.given(&READY_TIMEOUT)?.seconds()?,
            max_frames: source.given(&MAX_FRAMES)?.count()?,
            input_bytes_max: source.given(&INPUT_BYTES)?.count()?,
            room_timeout: source.given(&ROOM_TIMEOUT)?.seconds()?,
            reconnect_grace: source.given(&RECONNECT_GRACE)?.seconds()?,
            idle_timeout: source.given(&IDLE_TIMEOUT)?.seconds()?,
            max_rooms: source.given(&MAX_ROOMS)?.count()?,
            max_sessions: source.given(&MAX_SESSIONS)?.count()?,
            max_players_per_room: source.given(&MAX_PLAYERS_PER_ROOM)?.count()?,
            watchers: source.given(&WATCHERS)?.count()?,
            watch_delay: source.given(&WATCH_DELAY)?.count()?,
            auth: access::auth(source)?,
        },
        journal: recording::journal(source)?,
    })
}

// --- The settings -------------------------------------------------------------------------

/// One setting: all that its flag, variable, help and errors are made of.
struct Setting {
    /// The flag without its dashes. The variable follows from it.
    name: &'static str,
    /// The part of the help that it stands in.
    heading: &'static str,
    /// Empty if there is none.
    default: &'static str,
    kind: Kind,
    help: &'static str,
}

/// What a setting takes.
enum Kind {
    Address {
        bare: Bare,
    },
    Count {
        unit: &'static str,
        range: RangeInclusive<u32>,
    },
    Seconds {
        range: RangeInclusive<Duration>,
    },
    Filter,
    Directory,
    Choice {
        of: &'static [&'static str],
    },
    /// Something that is never shown.
    Secret {
        value_name: &'static str,
    },
    /// Something short of a form of its own.
    Text {
        value_name: &'static str,
        right: &'static str,
    },
    /// The name of a file with secrets. It is not shown either: a secret may have been given
    /// in its place.
    File,
    /// A flag without a value, and a variable that is 1.
    Switch,
}

/// What a port without an address stands for.
#[derive(Clone, Copy)]
enum Bare {
    Every,
    Loopback,
}

const NETWORK: &str = "Network";
const ACCESS: &str = "Access";
const MATCH: &str = "Match";
const LIMITS: &str = "Limits";
const RECORDING: &str = "Recording";
const CLUSTER: &str = "Cluster";
const LOGGING: &str = "Logging";

static UDP: Setting = Setting {
    name: "udp",
    heading: NETWORK,
    default: ":10086",
    kind: Kind::Address { bare: Bare::Every },
    help: "Where players connect: KCP over UDP. A bare port is that port of every interface",
};

static WEB: Setting = Setting {
    name: "web",
    heading: NETWORK,
    default: "127.0.0.1:10002",
    kind: Kind::Address {
        bare: Bare::Loopback,
    },
    help: "Where rooms are created and watched: HTTP, for people you trust. A bare port is \
           that port of this machine alone; others need --admin-token",
};

static AUTH: Setting = Setting {
    name: "auth",
    heading: ACCESS,
    default: "open",
    kind: Kind::Choice {
        of: &["open", "room", "ticket"],
    },
    help: "What a player's token must be: anything (open), the secret that the creation of \
           the room returned (room), or a JWT for room and player, HS256 (ticket)",
};

static TICKET_SECRET: Setting = Setting {
    name: "ticket-secret",
    heading: ACCESS,
    default: "",
    kind: Kind::Secret {
        value_name: "SECRET",
    },
    help: "What signs tickets, with --auth ticket: at least 32 bytes. Others on the machine \
           can read a command line; a file or the environment is better",
};

static TICKET_SECRET_OLD: Setting = Setting {
    name: "ticket-secret-old",
    heading: ACCESS,
    default: "",
    kind: Kind::Secret {
        value_name: "SECRET",
    },
    help: "One more secret whose tickets are accepted, while it is being replaced",
};

static TICKET_SECRET_FILE: Setting = Setting {
    name: "ticket-secret-file",
    heading: ACCESS,
    default: "",
    kind: Kind::File,
    help: "A file whose first line is the secret of tickets; a second line may hold the old one",
};

static ADMIN_TOKEN: Setting = Setting {
    name: "admin-token",
    heading: ACCESS,
    default: "",
    kind: Kind::Secret {
        value_name: "TOKEN",
    },
    help: "What requests to --web must carry as Authorization: Bearer TOKEN, at least 16 \
           letters and digits",
};

static ADMIN_TOKEN_FILE: Setting = Setting {
    name: "admin-token-file",
    heading: ACCESS,
    default: "",
    kind: Kind::File,
    help: "A file whose only line is that token",
};

static WEB_UNPROTECTED: Setting = Setting {
    name: "web-unprotected",
    heading: ACCESS,
    default: "",
    kind: Kind::Switch,
    help: "Let everybody who reaches --web create, see and close rooms",
};

static HZ: Setting = Setting {
    name: "hz",
    heading: MATCH,
    default: "30",
    kind: Kind::Count {
        unit: "frames a second",
        range: limits::HZ_RANGE,
    },
    help: "Frames a second of a room that does not ask for others",
};

static BROADCAST_EVERY: Setting = Setting {
    name: "broadcast-every",
    heading: MATCH,
    default: "3",
    kind: Kind::Count {
        unit: "frames",
        range: limits::BROADCAST_EVERY_RANGE,
    },
    help: "Frames from one broadcast to the next while nobody does anything; inputs go out \
           with their frame",
};

static READY_TIMEOUT: Setting = Setting {
    name: "ready-timeout",
    heading: MATCH,
    default: "20",
    kind: Kind::Seconds {
        range: limits::READY_TIMEOUT_RANGE,
    },
    help: "Time from the first member in the room to a start without the others",
};

static MAX_FRAMES: Setting = Setting {
    name: "max-frames",
    heading: MATCH,
    default: "5500",
    kind: Kind::Count {
        unit: "frames",
        range: limits::FRAMES_RANGE,
    },
    help: "Frames after which a match is over",
};

static INPUT_BYTES: Setting = Setting {
    name: "input-bytes",
    heading: MATCH,
    default: "256",
    kind: Kind::Count {
        unit: "bytes",
        range: limits::INPUT_DATA_RANGE,
    },
    help: "Bytes of its own that a game may put beside each input; 0 for none",
};

static ROOM_TIMEOUT: Setting = Setting {
    name: "room-timeout",
    heading: MATCH,
    default: "300",
    kind: Kind::Seconds {
        range: limits::ROOM_TIMEOUT_RANGE,
    },
    help: "Age at which a room is over, whatever goes on in it",
};

static RECONNECT_GRACE: Setting = Setting {
    name: "reconnect-grace",
    heading: MATCH,
    default: "60",
    kind: Kind::Seconds {
        range: limits::RECONNECT_GRACE_RANGE,
    },
    help: "Time for which a match runs on after all its players went offline",
};

static IDLE_TIMEOUT: Setting = Setting {
    name: "idle-timeout",
    heading: MATCH,
    default: "15",
    kind: Kind::Seconds {
        range: limits::IDLE_TIMEOUT_RANGE,
    },
    help: "Silence after which a client's session ends",
};

static WATCHERS: Setting = Setting {
    name: "watchers",
    heading: MATCH,
    default: "0",
    kind: Kind::Count {
        unit: "spectators",
        range: limits::WATCHERS_RANGE,
    },
    help: "Spectators that may watch a room that does not ask for others; 0 lets nobody watch",
};

static WATCH_DELAY: Setting = Setting {
    name: "watch-delay",
    heading: MATCH,
    default: "0",
    kind: Kind::Count {
        unit: "frames",
        range: limits::WATCH_DELAY_RANGE,
    },
    help: "Frames by which they see the match late, if the room does not ask for others, so \
           that nobody can help a player by watching",
};

static MAX_ROOMS: Setting = Setting {
    name: "max-rooms",
    heading: LIMITS,
    default: "100000",
    kind: Kind::Count {
        unit: "rooms",
        range: as_u32(limits::ROOMS_RANGE),
    },
    help: "Rooms at once; one more is refused",
};

static MAX_SESSIONS: Setting = Setting {
    name: "max-sessions",
    heading: LIMITS,
    default: "20000",
    kind: Kind::Count {
        unit: "sessions",
        range: as_u32(limits::SESSIONS_RANGE),
    },
    help: "Clients at once; for one more, the oldest without a seat makes way",
};

static MAX_PLAYERS_PER_ROOM: Setting = Setting {
    name: "max-players-per-room",
    heading: LIMITS,
    default: "64",
    kind: Kind::Count {
        unit: "players",
        range: as_u32(limits::PLAYERS_PER_ROOM_RANGE),
    },
    help: "Members that a room may be created with",
};

static DATA_DIR: Setting = Setting {
    name: "data-dir",
    heading: RECORDING,
    default: "",
    kind: Kind::Directory,
    help: "Where everything that makes a match is recorded, so that matches go on after a crash \
           or a restart, and finished ones can be had as recordings. One directory for each \
           server; without it nothing is recorded",
};

static FSYNC: Setting = Setting {
    name: "fsync",
    heading: RECORDING,
    default: "interval",
    kind: Kind::Choice {
        of: &["never", "interval", "always"],
    },
    help: "When that is brought to the disk: when the system sees fit (never), 5 times a second \
           (interval), or before anybody hears of it (always). It matters when the power goes; a \
           killed process loses nothing in any case",
};

static KEEP_HOURS: Setting = Setting {
    name: "keep-hours",
    heading: RECORDING,
    default: "168",
    kind: Kind::Count {
        unit: "hours",
        range: limits::KEEP_HOURS_RANGE,
    },
    help: "Age at which recordings are deleted",
};

static KEEP_MIB: Setting = Setting {
    name: "keep-mib",
    heading: RECORDING,
    default: "10240",
    kind: Kind::Count {
        unit: "MiB",
        range: limits::KEEP_MIB_RANGE,
    },
    help: "Size of all of them from which on the oldest are deleted",
};

static DRAIN: Setting = Setting {
    name: "drain",
    heading: NETWORK,
    default: "0",
    kind: Kind::Seconds {
        range: limits::DRAIN_RANGE,
    },
    help: "Time for which a server that is told to stop (SIGTERM) goes on, without new rooms, until \
           the matches that run are over; told again, it stops at once",
};

static GRPC: Setting = Setting {
    name: "grpc",
    heading: CLUSTER,
    default: "",
    kind: Kind::Address {
        bare: Bare::Loopback,
    },
    help: "Where a game's backend and other servers ask by gRPC, such as 127.0.0.1:10007. A bare \
           port is that port of this machine alone; others need --admin-token",
};

static ETCD: Setting = Setting {
    name: "etcd",
    heading: CLUSTER,
    default: "",
    kind: Kind::Text {
        value_name: "URLS",
        right: "one or more of http://HOST:PORT and https://HOST:PORT, with commas between them",
    },
    help: "Where etcd is, such as http://127.0.0.1:2379: servers with the same etcd are a cluster. \
           Several members have commas between them",
};

static NODE_ID: Setting = Setting {
    name: "node-id",
    heading: CLUSTER,
    default: "",
    kind: Kind::Text {
        value_name: "ID",
        right: "1 to 63 letters, digits, dots, dashes and underscores, such as a (not here or auto)",
    },
    help: "The name of this server in the cluster, which no other has",
};

static ADVERTISE: Setting = Setting {
    name: "advertise",
    heading: CLUSTER,
    default: "",
    kind: Kind::Text {
        value_name: "HOST:PORT",
        right: "an address that others connect to, such as 203.0.113.7:10086",
    },
    help: "Where players reach this server; its host is where other servers do, too. Without a port, \
           that of --udp",
};

static ADVERTISE_WEB: Setting = Setting {
    name: "advertise-web",
    heading: CLUSTER,
    default: "",
    kind: Kind::Text {
        value_name: "HOST:PORT",
        right: "an address that others connect to, such as 10.0.0.7:10002",
    },
    help: "Where other servers reach --web, if not at the host of --advertise",
};

static ADVERTISE_GRPC: Setting = Setting {
    name: "advertise-grpc",
    heading: CLUSTER,
    default: "",
    kind: Kind::Text {
        value_name: "HOST:PORT",
        right: "an address that others connect to, such as 10.0.0.7:10007",
    },
    help: "Where other servers reach --grpc, if not at the host of --advertise",
};

static ETCD_PREFIX: Setting = Setting {
    name: "etcd-prefix",
    heading: CLUSTER,
    default: "/lockstep",
    kind: Kind::Text {
        value_name: "PREFIX",
        right: "a slash and 1 to 127 printable characters without spaces, such as /lockstep",
    },
    help: "What the keys in etcd begin with: clusters with other prefixes know nothing of each other",
};

static ETCD_TTL: Setting = Setting {
    name: "etcd-ttl",
    heading: CLUSTER,
    default: "5",
    kind: Kind::Seconds {
        range: limits::ETCD_TTL_RANGE,
    },
    help: "Time after which a server that is gone is forgotten, in whole seconds",
};

static ETCD_USER: Setting = Setting {
    name: "etcd-user",
    heading: CLUSTER,
    default: "",
    kind: Kind::Text {
        value_name: "USER",
        right: "the name of a user of etcd",
    },
    help: "Who this server is to etcd, if that asks",
};

static ETCD_PASSWORD: Setting = Setting {
    name: "etcd-password",
    heading: CLUSTER,
    default: "",
    kind: Kind::Secret {
        value_name: "PASSWORD",
    },
    help: "That user's password. Others on the machine can read a command line; a file or the \
           environment is better",
};

static ETCD_PASSWORD_FILE: Setting = Setting {
    name: "etcd-password-file",
    heading: CLUSTER,
    default: "",
    kind: Kind::File,
    help: "A file whose only line is that password",
};

static ETCD_CA: Setting = Setting {
    name: "etcd-ca",
    heading: CLUSTER,
    default: "",
    kind: Kind::Text {
        value_name: "FILE",
        right: "the name of a file",
    },
    help: "Certificates (PEM) of who signs those of etcd, for https; without it, the system's",
};

static ETCD_CERT: Setting = Setting {
    name: "etcd-cert",
    heading: CLUSTER,
    default: "",
    kind: Kind::Text {
        value_name: "FILE",
        right: "the name of a file",
    },
    help: "This server's own certificate (PEM), if etcd asks for one",
};

static ETCD_KEY: Setting = Setting {
    name: "etcd-key",
    heading: CLUSTER,
    default: "",
    kind: Kind::Text {
        value_name: "FILE",
        right: "the name of a file",
    },
    help: "The key of that certificate (PEM)",
};

static LOG: Setting = Setting {
    name: "log",
    heading: LOGGING,
    default: "info",
    kind: Kind::Filter,
    help: "What is logged: off, error, warn, info, debug or trace, for all or for some \
           modules, as in \"warn,lockstep_server::io=debug\"",
};

/// All of them, in the order of the help.
static ALL: [&Setting; 42] = [
    &UDP,
    &WEB,
    &DRAIN,
    &AUTH,
    &TICKET_SECRET,
    &TICKET_SECRET_OLD,
    &TICKET_SECRET_FILE,
    &ADMIN_TOKEN,
    &ADMIN_TOKEN_FILE,
    &WEB_UNPROTECTED,
    &HZ,
    &BROADCAST_EVERY,
    &READY_TIMEOUT,
    &MAX_FRAMES,
    &INPUT_BYTES,
    &ROOM_TIMEOUT,
    &RECONNECT_GRACE,
    &IDLE_TIMEOUT,
    &WATCHERS,
    &WATCH_DELAY,
    &MAX_ROOMS,
    &MAX_SESSIONS,
    &MAX_PLAYERS_PER_ROOM,
    &DATA_DIR,
    &FSYNC,
    &KEEP_HOURS,
    &KEEP_MIB,
    &ETCD,
    &NODE_ID,
    &ADVERTISE,
    &ADVERTISE_WEB,
    &ADVERTISE_GRPC,
    &GRPC,
    &ETCD_PREFIX,
    &ETCD_TTL,
    &ETCD_USER,
    &ETCD_PASSWORD,
    &ETCD_PASSWORD_FILE,
    &ETCD_CA,
    &ETCD_CERT,
    &ETCD_KEY,
    &LOG,
];

/// A range of counts in the one type that settings use. Evaluated by the compiler, which
/// refuses a range that does not fit.
const fn as_u32(range: RangeInclusive<usize>) -> RangeInclusive<u32> {
    assert!(*range.end() <= u32::MAX as usize);
    // `try_from` is not for constants; the line above says why nothing is lost.
    #[allow(clippy::cast_possible_truncation)]
    let (start, end) = (*range.start() as u32, *range.end() as u32);
    start..=end
}

impl Setting {
    fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    fn variable(&self) -> String {
        format!("LOCKSTEP_{}", self.name.replace('-', "_").to_uppercase())
    }

    /// What would be right, for errors.
    fn right(&self) -> String {
        match &self.kind {
            Kind::Address { .. } => {
                let port = match self.default.rsplit_once(':') {
                    Some((_, port)) => port,
                    None => "10007",
                };
                format!("an address such as {port}, :{port}, 127.0.0.1:{port} or [::1]:{port}")
            }
            Kind::Count { range, .. } => {
                format!("a number from {} to {}", range.start(), range.end())
            }
            Kind::Seconds { range } => {
                let (start, end) = (range.start().as_secs_f64(), range.end().as_secs_f64());
                format!("a number of seconds from {start} to {end}")
            }
            Kind::Filter => "a filter such as info or warn,lockstep_server::io=debug".to_string(),
            Kind::Choice { of } => format!("one of {}", of.join(", ")),
            Kind::Secret { value_name } => format!(
                "what nobody can guess; write {}={value_name} if it begins with a dash",
                self.flag()
            ),
            Kind::File => "the name of a file".to_string(),
            Kind::Text { right, .. } => (*right).to_string(),
            Kind::Directory => "the name of a directory".to_string(),
            Kind::Switch => "1, or nothing".to_string(),
        }
    }

    fn arg(&self) -> Arg {
        let (value_name, takes) = match &self.kind {
            Kind::Address { .. } => ("ADDRESS", String::new()),
            Kind::Count { unit, range } => (
                "N",
                format!("{} to {} {unit}; ", range.start(), range.end()),
            ),
            Kind::Seconds { range } => {
                let (start, end) = (range.start().as_secs_f64(), range.end().as_secs_f64());
                ("SECONDS", format!("{start} to {end} seconds; "))
            }
            Kind::Filter => ("FILTER", String::new()),
            Kind::Choice { of } => ("WHICH", format!("{}; ", of.join(", "))),
            Kind::Secret { value_name } => (*value_name, String::new()),
            Kind::File => ("FILE", String::new()),
            Kind::Text { value_name, .. } => (*value_name, String::new()),
            Kind::Directory => ("DIR", String::new()),
            Kind::Switch => ("", String::new()),
        };
        let (help, variable) = (self.help, self.variable());
        let default = match self.default {
            "" => String::new(),
            default => format!("default {default}; "),
        };
        let arg = Arg::new(self.name)
            .long(self.name)
            .help_heading(self.heading);
        if matches!(self.kind, Kind::Switch) {
            return arg
                .action(ArgAction::SetTrue)
                .help(format!("{help}\n[{variable}=1]"));
        }
        arg.value_name(value_name)
            .value_parser(value_parser!(OsString))
            // So that "-5" is a value out of range, and not an unknown flag.
            .allow_negative_numbers(true)
            .help(format!("{help}\n[{takes}{default}{variable}]"))
    }
}

// --- The command line ---------------------------------------------------------------------

fn command() -> Command {
    Command::new("lockstep-server")
        .bin_name("lockstep-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A lockstep (frame sync) game server: KCP for players, HTTP for rooms")
        .after_help(
            "An ADDRESS is PORT, :PORT (every interface), HOST:PORT or [IPV6]:PORT. SECONDS may \
             have a fraction. Each setting is also read from the environment, from the variable \
             named last; a flag wins. One dash will do: -web=10002.",
        )
        .args_override_self(true)
        .args(ALL.iter().map(|setting| setting.arg()))
}

/// The argument with a second dash if it is a flag with one, as Go's programs have them:
/// `-web` and `-web=10002`. Short flags (`-h`) and negative numbers stay.
///
/// Unknown names get their dash too, or clap would take `-hzz` for `-h`.
fn dashed(arg: OsString) -> OsString {
    let bytes = arg.as_encoded_bytes();
    let is_name = |bytes: &[u8]| bytes[0].is_ascii_alphabetic() && bytes[1] != b'=';
    if bytes.len() > 2 && bytes[0] == b'-' && is_name(&bytes[1..]) {
        let mut long = OsString::from("-");
        long.push(arg);
        return long;
    }
    arg
}

/// Whether one of the arguments names a setting that is never shown, even if misspelt.
fn holds_secret(args: &[OsString]) -> bool {
    let mut texts = args.iter().skip(1).map(|arg| arg.to_string_lossy());
    texts.any(|text| {
        ["secret", "token", "password"]
            .iter()
            .any(|word| text.contains(word))
    })
}

/// clap's error as one line.
fn usage_error(error: &clap::Error, args: &[OsString]) -> ConfigError {
    let context = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let given = context(ContextKind::InvalidArg);
    match error.kind() {
        // It may be a part of the secret: what stands behind a space, or begins with a dash.
        ErrorKind::UnknownArgument
            if holds_secret(args) && context(ContextKind::SuggestedArg).is_empty() =>
        {
            ConfigError::Usage(
                "an argument, not shown since it may belong to a secret, is no setting; quote a \
                 secret that has spaces, and write --flag=SECRET for one that begins with a dash"
                    .to_string(),
            )
        }
        ErrorKind::UnknownArgument if given.starts_with('-') => {
            let hint = match context(ContextKind::SuggestedArg) {
                similar if similar.is_empty() => "; --help lists them all".to_string(),
                similar => format!("; did you mean {similar}?"),
            };
            ConfigError::Unknown { flag: given, hint }
        }
        ErrorKind::UnknownArgument => {
            let hint = ": a setting begins with a dash, as in --web 10002".to_string();
            ConfigError::Unknown { flag: given, hint }
        }
        // The one thing that a parser of OsString refuses. The argument has its value's name
        // behind it.
        ErrorKind::InvalidValue => {
            let flag = given.split(' ').next().unwrap_or(&given).to_string();
            let right = ALL
                .iter()
                .find(|setting| setting.flag() == flag)
                .map(|s| s.right());
            ConfigError::Missing {
                flag,
                right: right.unwrap_or_default(),
            }
        }
        // A switch, or --help.
        ErrorKind::TooManyValues => ConfigError::Unfit {
            setting: given,
            reason: "takes no value".to_string(),
        },
        _ if holds_secret(args) => {
            ConfigError::Usage("the arguments make no sense; --help lists them all".to_string())
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or("the arguments make no sense");
            ConfigError::Usage(line.trim_start_matches("error: ").to_string())
        }
    }
}

// --- Values -------------------------------------------------------------------------------

/// Where values come from: the arguments first, then the environment, then the defaults.
struct Source<'a> {
    matches: ArgMatches,
    env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Reads a file that holds secrets.
    read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

/// The value that a setting was given, and by whom.
struct Given {
    setting: &'static Setting,
    origin: Origin,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Flag,
    Variable,
    Default,
}

impl Source<'_> {
    /// The value of a setting that need not be given, as text.
    ///
    /// Here a variable that is set to nothing is an error: these settings keep people out, and
    /// whoever set it believes that one of them does.
    fn optional(&self, setting: &'static Setting) -> Result<Option<Given>, ConfigError> {
        let given = self.given(setting)?;
        let variable = (self.env)(&setting.variable());
        if given.origin == Origin::Default && variable.is_some_and(|value| value.is_empty()) {
            let empty = Given {
                origin: Origin::Variable,
                ..given
            };
            return Err(empty.unfit("is set to nothing; set it to something, or unset it".into()));
        }
        Ok((given.origin != Origin::Default).then_some(given))
    }

    /// Where a switch was turned on, if it was.
    fn switch(&self, setting: &'static Setting) -> Result<Option<Given>, ConfigError> {
        if self.matches.get_flag(setting.name) {
            let (origin, text) = (Origin::Flag, String::new());
            return Ok(Some(Given {
                setting,
                origin,
                text,
            }));
        }
        let variable = (self.env)(&setting.variable()).filter(|value| !value.is_empty());
        let given = variable.map(|value| Given {
            setting,
            origin: Origin::Variable,
            text: value.to_string_lossy().into_owned(),
        });
        match given {
            Some(given) if given.text != "1" => Err(given.unlike()),
            given => Ok(given),
        }
    }

    /// The value of `setting`, as text.
    fn given(&self, setting: &'static Setting) -> Result<Given, ConfigError> {
        let flag = self.matches.get_one::<OsString>(setting.name).cloned();
        let variable = || (self.env)(&setting.variable()).filter(|value| !value.is_empty());
        let (origin, value) = if let Some(value) = flag {
            (Origin::Flag, value)
        } else if let Some(value) = variable() {
            (Origin::Variable, value)
        } else {
            (Origin::Default, OsString::from(setting.default))
        };
        match value.into_string() {
            Ok(text) => Ok(Given {
                setting,
                origin,
                text,
            }),
            Err(value) => {
                let text = value.to_string_lossy().into_owned();
                Err(Given {
                    setting,
                    origin,
                    text,
                }
                .unlike())
            }
        }
    }
}

impl Given {
    /// How the user calls the setting.
    fn name(&self) -> String {
        match self.origin {
            Origin::Variable => self.setting.variable(),
            Origin::Flag | Origin::Default => self.setting.flag(),
        }
    }

    fn wrong(&self, right: String) -> ConfigError {
        ConfigError::Value {
            setting: self.name(),
            value: self.text.clone(),
            right,
        }
    }

    /// The value is not what the setting takes.
    fn unlike(&self) -> ConfigError {
        match self.setting.kind {
            Kind::Secret { .. } | Kind::File => self.unfit("is not UTF-8".to_string()),
            _ => self.wrong(self.setting.right()),
        }
    }

    /// The value, which is not shown, cannot be, or not with others.
    fn unfit(&self, reason: String) -> ConfigError {
        ConfigError::Unfit {
            setting: self.name(),
            reason,
        }
    }

    fn is_of(&self, setting: &Setting) -> bool {
        self.setting.name == setting.name
    }

    fn choice(&self) -> Result<&'static str, ConfigError> {
        let Kind::Choice { of } = self.setting.kind else {
            unreachable!("{} is no choice", self.setting.name);
        };
        let chosen = of.iter().find(|known| **known == self.text);
        chosen.copied().ok_or_else(|| self.unlike())
    }

    /// A number in the setting's range, as whatever type it is kept in.
    fn count<N: TryFrom<u32>>(&self) -> Result<N, ConfigError> {
        let Kind::Count { range, .. } = &self.setting.kind else {
            unreachable!("{} is no count", self.setting.name);
        };
        let number = self
            .text
            .parse::<u32>()
            .ok()
            .filter(|number| range.contains(number));
        number
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| self.unlike())
    }

    fn seconds(&self) -> Result<Duration, ConfigError> {
        let Kind::Seconds { range } = &self.setting.kind else {
            unreachable!("{} is no time", self.setting.name);
        };
        let seconds = self.text.parse::<f64>().ok();
        let duration = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
        duration
            .filter(|duration| range.contains(duration))
            .ok_or_else(|| self.unlike())
    }

    fn listen(&self) -> Result<Listen, ConfigError> {
        let Kind::Address { bare } = self.setting.kind else {
            unreachable!("{} is no address", self.setting.name);
        };
        let text = self.text.as_str();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Listen::At(address));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        // `parse` alone would take "+80".
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|_| digits)
            .ok_or_else(|| self.unlike())?;
        match (host, bare) {
            ("", Bare::Loopback) if !text.starts_with(':') => {
                Ok(Listen::At((Ipv4Addr::LOCALHOST, port).into()))
            }
            ("", _) => Ok(Listen::Every { port }),
            // An address that is no address, rather than a name to look up.
            (host, _) if host.contains([':', '[', ']', '/', ' ']) => Err(self.unlike()),
            // Known without asking anyone, and where a browser looks first.
            ("localhost", _) => Ok(Listen::At((Ipv4Addr::LOCALHOST, port).into())),
            (host, _) => self.look_up(host, port),
        }
    }

    /// The address of `host`, an IPv4 one if it has both: there, clients need no IPv6.
    fn look_up(&self, host: &str, port: u16) -> Result<Listen, ConfigError> {
        let found: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .into_iter()
            .flatten()
            .collect();
        let address = found
            .iter()
            .find(|address| address.is_ipv4())
            .or(found.first());
        let address = address.ok_or_else(|| {
            self.wrong(format!(
                "{}, and no host {host:?} is known here",
                self.setting.right()
            ))
        })?;
        Ok(Listen::At(*address))
    }

    /// A filter that env_logger takes, which would silently leave out what it cannot read.
    ///
    /// It also takes any word for a module, so that "inof" or "true" (the `-log` of the
    /// original) would silence the server. A word without a level must be a module of ours.
    fn filter(&self) -> Result<String, ConfigError> {
        let modules = self.text.split('/').next().unwrap_or_default();
        let is_clear = |word: &str| {
            word.contains('=')
                || word.parse::<LevelFilter>().is_ok()
                || word.split("::").next() == Some(env!("CARGO_CRATE_NAME"))
        };
        let mut words = modules
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        let is_given = !self.text.trim().is_empty();
        let parses = env_filter::Builder::new().try_parse(&self.text).is_ok();
        if is_given && parses && words.all(is_clear) {
            Ok(self.text.clone())
        } else {
            Err(self.unlike())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::guard::AdminToken;
    #[cfg(feature = "cluster")]
    use crate::cluster::{
        node::{Address, NodeId},
        options::Password,
    };
    use crate::engine::auth::Auth;
    use crate::ticket::{TicketSecret, TicketSecrets};

    /// Parses arguments and variables given as `"LOCKSTEP_HZ=60 --web 80"`.
    fn parsed(line: &str) -> Result<Parsed, ConfigError> {
        let is_variable = |word: &&str| word.starts_with("LOCKSTEP_");
        let variables: Vec<&str> = line.split(' ').take_while(is_variable).collect();
        let args = line
            .split(' ')
            .skip_while(is_variable)
            .filter(|word| !word.is_empty());
        let args = std::iter::once("any/name").chain(args).map(OsString::from);
        let env = |name: &str| {
            let pairs = variables.iter().filter_map(|pair| pair.split_once('='));
            pairs
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
                .next()
        };
        parse(args, &env, &read)
    }

    const NEW: &str = "0123456789abcdef0123456789abcdef";
    const OLD: &str = "fedcba9876543210fedcba9876543210";
    const TOKEN: &str = "a-token-for-the-tests";

    /// The files that there are.
    fn read(path: &Path) -> io::Result<Vec<u8>> {
        let text = match path.to_str().unwrap() {
            "secret" => format!("{NEW}\n"),
            "two-secrets" => format!("{NEW}\r\n{OLD}\r\n\r\n"),
            "short" => format!("{}\n", &NEW[1..]),
            "short-old" => format!("{NEW}\n{}", &NEW[1..]),
            "three" => format!("{NEW}\n\n{OLD}\n"),
            "empty" => "\n\n".to_string(),
            "spaces" => format!(" {NEW} "),
            "token" => format!("{TOKEN}\n"),
            "latin-1" => return Ok(vec![0xe9; 40]),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(text.into_bytes())
    }

    fn secret(text: &str) -> TicketSecret {
        TicketSecret::new(text).unwrap()
    }

    fn token() -> Guard {
        Guard::Token(AdminToken::new(TOKEN).unwrap())
    }

    fn run(line: &str) -> Settings {
        match parsed(line) {
            Ok(Parsed::Run(settings)) => *settings,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// The text of the error, after a look at its form, and for the secrets of these tests.
    fn refusal(line: &str) -> String {
        let error = parsed(line).expect_err(line);
        let text = error.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in [&NEW[1..], &OLD[1..], &TOKEN[1..]] {
            assert!(!format!("{text} {error:?}").contains(part), "{text}");
        }
        text
    }

    fn said(line: &str) -> String {
        match parsed(line) {
            Ok(Parsed::Say(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn at(address: &str) -> Listen {
        Listen::At(address.parse().unwrap())
    }

    #[test]
    fn nothing_given_is_the_defaults() {
        let settings = run("");
        assert_eq!(settings.udp, Listen::Every { port: 10086 });
        assert_eq!(settings.web, at("127.0.0.1:10002"));
        assert_eq!(settings.log, "info");
        assert_eq!(settings.engine, engine::config::Config::default());
        assert_eq!(settings.journal, None);
    }

    #[test]
    fn a_journal_is_kept_in_a_directory_or_not_at_all() {
        let journal = |line: &str| run(line).journal.unwrap();
        let plain = journal("--data-dir /var/lib/lockstep");
        assert_eq!(plain.dir, Path::new("/var/lib/lockstep"));
        assert_eq!(
            plain.fsync,
            journal::Fsync::Interval(Duration::from_millis(200))
        );
        assert_eq!(plain.keep_age, Duration::from_secs(7 * 24 * 3600));
        assert_eq!(plain.keep_bytes, 10 * 1024 * 1024 * 1024);
        assert_eq!(
            journal("--data-dir d --fsync never").fsync,
            journal::Fsync::Never
        );
        assert_eq!(
            refusal("--fsync always"),
            "--fsync: is given, but without --data-dir nothing is recorded; add it, or leave this out"
        );
        assert_eq!(
            refusal("--data-dir d --fsync sometimes"),
            "--fsync: \"sometimes\" is not one of never, interval, always"
        );
        assert_eq!(
            refusal("--data-dir="),
            "--data-dir: is set to nothing; name a directory, or leave it out"
        );
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn every_setting_is_a_flag_and_a_variable() {
        // Each in the unit of its flag, and none of them the default. What does not go
        // together comes in three parts.
        let common = [
            ("udp", "127.0.0.1:1"),
            ("web", ":2"),
            ("hz", "3"),
            ("broadcast-every", "4"),
            ("ready-timeout", "5"),
            ("max-frames", "6"),
            ("input-bytes", "13"),
            ("room-timeout", "7"),
            ("reconnect-grace", "8"),
            ("idle-timeout", "9"),
            ("max-rooms", "10"),
            ("max-sessions", "11"),
            ("max-players-per-room", "12"),
            ("data-dir", "records"),
            ("fsync", "always"),
            ("keep-hours", "13"),
            ("keep-mib", "140"),
            ("watchers", "13"),
            ("watch-delay", "14"),
            ("log", "debug"),
            ("drain", "15"),
            ("grpc", "127.0.0.1:16"),
            ("etcd", "http://127.0.0.1:17,https://[::1]:18"),
            ("node-id", "n-1"),
            ("advertise", "192.0.2.1:19"),
            ("advertise-web", "192.0.2.2:20"),
            ("advertise-grpc", "192.0.2.3:21"),
            ("etcd-prefix", "/games/chess"),
            ("etcd-ttl", "22"),
            ("etcd-user", "somebody"),
            ("etcd-ca", "ca.pem"),
            ("etcd-cert", "cert.pem"),
            ("etcd-key", "key.pem"),
        ];
        let expected = |guard: Guard, auth: Auth| Settings {
            udp: at("127.0.0.1:1"),
            web: Listen::Every { port: 2 },
            guard,
            log: "debug".to_string(),
            engine: engine::config::Config {
                hz: 3,
                broadcast_every: 4,
                ready_timeout: Duration::from_secs(5),
                max_frames: 6,
                input_bytes_max: 13,
                room_timeout: Duration::from_secs(7),
                reconnect_grace: Duration::from_secs(8),
                idle_timeout: Duration::from_secs(9),
                max_rooms: 10,
                max_sessions: 11,
                max_players_per_room: 12,
                watchers: 13,
                watch_delay: 14,
                auth,
            },
            journal: Some(journal::Options {
                dir: "records".into(),
                fsync: journal::Fsync::Always,
                segment_bytes: limits::JOURNAL_SEGMENT_BYTES,
                segment_age: limits::JOURNAL_SEGMENT_AGE,
                keep_bytes: 140 * 1024 * 1024,
                keep_age: Duration::from_secs(13 * 3600),
            }),
            grpc: Some(at("127.0.0.1:16")),
            etcd: Some(EtcdOptions {
                endpoints: vec!["http://127.0.0.1:17".into(), "https://[::1]:18".into()],
                user: Some(("somebody".into(), Password(TOKEN.into()))),
                ca: Some("ca.pem".into()),
                identity: Some(("cert.pem".into(), "key.pem".into())),
                prefix: "/games/chess".into(),
                ttl: Duration::from_secs(22),
                node: NodeId::new("n-1").unwrap(),
                kcp: Address::new("192.0.2.1:19").unwrap(),
                http: Address::new("192.0.2.2:20"),
                grpc: Address::new("192.0.2.3:21"),
            }),
            drain: Duration::from_secs(15),
        };
        let tickets = || Auth::Ticket(TicketSecrets::new(secret(NEW), Some(secret(OLD))));
        let parts = [
            (
                vec![
                    ("auth", "ticket"),
                    ("ticket-secret", NEW),
                    ("ticket-secret-old", OLD),
                    ("admin-token", TOKEN),
                    ("etcd-password", TOKEN),
                ],
                expected(token(), tickets()),
            ),
            (
                vec![
                    ("auth", "ticket"),
                    ("ticket-secret-file", "two-secrets"),
                    ("admin-token-file", "token"),
                    ("etcd-password-file", "token"),
                ],
                expected(token(), tickets()),
            ),
            (
                vec![
                    ("auth", "room"),
                    ("web-unprotected", "1"),
                    ("etcd-password", TOKEN),
                ],
                expected(Guard::Unprotected, Auth::Room),
            ),
        ];
        let mut named: Vec<&str> = common.map(|(name, _)| name).to_vec();
        for (part, expected) in parts {
            named.extend(part.iter().map(|(name, _)| *name));
            let values: Vec<_> = common.into_iter().chain(part).collect();
            let flag = |(name, value): &(&str, &str)| match *name {
                "web-unprotected" => format!("--{name}"),
                _ => format!("--{name}={value}"),
            };
            let flags: Vec<String> = values.iter().map(flag).collect();
            assert_eq!(run(&flags.join(" ")), expected);
            let variable = |(name, value): &(&str, &str)| {
                format!("LOCKSTEP_{}={value}", name.to_uppercase().replace('-', "_"))
            };
            let variables: Vec<String> = values.iter().map(variable).collect();
            assert_eq!(run(&variables.join(" ")), expected);
        }
        for setting in ALL {
            assert!(named.contains(&setting.name), "{}", setting.name);
        }
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn a_node_is_reached_at_the_host_that_it_advertises() {
        let node = |line: &str| {
            let line = format!("--etcd http://127.0.0.1:2379 --node-id a {line}");
            run(&line).etcd.unwrap()
        };
        let shown = |address: &Option<Address>| address.as_ref().map(Address::to_string);
        // This machine: others on it reach what listens for it alone.
        let local = node("--advertise 127.0.0.1:10086 --grpc 10007");
        assert_eq!(local.kcp.as_str(), "127.0.0.1:10086");
        assert_eq!(shown(&local.http).as_deref(), Some("127.0.0.1:10002"));
        assert_eq!(shown(&local.grpc).as_deref(), Some("127.0.0.1:10007"));
        assert_eq!(
            (local.prefix.as_str(), local.ttl.as_secs()),
            ("/lockstep", 5)
        );
        // Others do not.
        let remote = node("--advertise 192.0.2.1 --udp :9 --grpc 10007");
        assert_eq!(remote.kcp.as_str(), "192.0.2.1:9");
        assert_eq!((remote.http, remote.grpc), (None, None));
        let open = node(&format!(
            "--advertise 2001:db8::1 --web :8 --grpc :7 --admin-token {TOKEN}"
        ));
        assert_eq!(open.kcp.as_str(), "[2001:db8::1]:10086");
        assert_eq!(shown(&open.http).as_deref(), Some("[2001:db8::1]:8"));
        assert_eq!(shown(&open.grpc).as_deref(), Some("[2001:db8::1]:7"));
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn what_is_wrong_with_the_settings_of_a_cluster_is_named() {
        for (line, begins) in [
            ("--node-id a", "--node-id: is given, but without --etcd"),
            (
                "--etcd 127.0.0.1:2379",
                "--etcd: \"127.0.0.1:2379\" is not one or more of http://",
            ),
            (
                "--etcd http://a:1",
                "--etcd: is given, so --node-id must say",
            ),
            (
                "--etcd http://a:1 --node-id a",
                "--etcd: is given, so --advertise must say where players reach this server",
            ),
            (
                "--etcd http://a:1 --node-id a/b --advertise h:1",
                "--node-id: \"a/b\" is not 1 to 63 letters",
            ),
            (
                "--etcd http://a:1 --node-id a --advertise h:x",
                "--advertise: \"h:x\" is not an address",
            ),
            (
                "--etcd http://a:1 --node-id a --advertise h:1 --etcd-prefix lockstep",
                "--etcd-prefix: \"lockstep\" is not a slash and",
            ),
            (
                "--etcd http://a:1 --node-id a --advertise h:1 --etcd-ttl 2.5",
                "--etcd-ttl: \"2.5\" is not whole; etcd counts in whole seconds, such as 2",
            ),
            (
                "--etcd http://a:1 --node-id a --advertise h:1 --etcd-cert f",
                "--etcd-cert: goes with --etcd-key",
            ),
            (
                "--etcd http://a:1 --node-id a --advertise h:1 --etcd-user u",
                "--etcd-user: needs a password",
            ),
            (
                "--etcd http://a:1 --node-id a --advertise h:1 --advertise-grpc h:2",
                "--advertise-grpc: is given, but there is no gRPC",
            ),
            ("--grpc :7", "--grpc: \":7\" is open to other machines"),
            (
                "--grpc :7 --web-unprotected",
                "--grpc: \":7\" is open to other machines",
            ),
        ] {
            let text = refusal(line);
            assert!(text.starts_with(begins), "{line}: {text}");
        }
        let text = refusal("--etcd http://a:1,http://root:hush@b:1 --node-id a --advertise h:1");
        assert!(text.starts_with("--etcd: names a user; give"), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }

    #[cfg(not(feature = "cluster"))]
    #[test]
    fn a_program_without_clusters_says_so() {
        for line in ["--grpc 7", "--etcd http://a:1"] {
            assert!(refusal(line).contains("built without the feature cluster"));
        }
    }

    #[test]
    fn a_flag_wins_over_its_variable_and_the_last_flag_over_the_first() {
        assert_eq!(run("LOCKSTEP_HZ=50 --hz 60").engine.hz, 60);
        assert_eq!(run("LOCKSTEP_HZ=nonsense --hz 60").engine.hz, 60);
        assert_eq!(run("--hz 50 --hz 60").engine.hz, 60);
    }

    #[test]
    fn an_empty_variable_is_not_set_and_an_empty_flag_is_wrong() {
        assert_eq!(run("LOCKSTEP_HZ=").engine.hz, 30);
        assert_eq!(refusal("--hz="), "--hz: \"\" is not a number from 1 to 240");
        assert!(refusal("--log=").starts_with("--log: \"\" is not a filter"));
    }

    #[test]
    fn a_bare_port_is_every_interface_for_udp_and_loopback_for_web() {
        assert_eq!(run("--udp 1234").udp, Listen::Every { port: 1234 });
        assert_eq!(run("--web 1234").web, at("127.0.0.1:1234"));
    }

    #[test]
    fn a_port_behind_a_colon_is_every_interface() {
        assert_eq!(run("--udp :1234").udp, Listen::Every { port: 1234 });
        let web = run("--web :0 --web-unprotected").web;
        assert_eq!(web, Listen::Every { port: 0 });
    }

    #[test]
    fn an_address_is_that_address() {
        for address in ["192.0.2.1:80", "0.0.0.0:80", "[::1]:80", "[::]:80"] {
            let line = format!("--udp {address} --web {address} --admin-token {TOKEN}");
            let settings = run(&line);
            assert_eq!((settings.udp, settings.web), (at(address), at(address)));
        }
        assert_eq!(run("--web localhost:80").web, at("127.0.0.1:80"));
    }

    #[test]
    fn an_address_can_be_shown_and_read_again() {
        for text in [":10086", "127.0.0.1:80", "[::1]:80"] {
            let listen = run(&format!("--udp {text}")).udp;
            assert_eq!(listen.to_string(), text);
        }
        assert_eq!(at("[::1]:80").port(), 80);
    }

    #[test]
    fn what_is_no_address_is_refused_with_examples() {
        assert_eq!(
            refusal("--web 70000"),
            "--web: \"70000\" is not an address such as 10002, :10002, 127.0.0.1:10002 or \
             [::1]:10002"
        );
        let wrong = [
            "",
            ":",
            "host",
            "127.0.0.1",
            "127.0.0.1:",
            "::1:80",
            "[::1]",
            "1.2.3.4:+5",
        ];
        for wrong in wrong
            .into_iter()
            .chain(["+80", "-80", ":65536", "http://localhost:80"])
        {
            let text = refusal(&format!("--udp={wrong}"));
            assert!(
                text.starts_with(&format!("--udp: {wrong:?} is not an address")),
                "{text}"
            );
        }
    }

    #[test]
    fn a_host_that_nobody_knows_is_named() {
        // An empty label: refused before anyone on the network is asked.
        let text = refusal("--udp no..such:80");
        assert!(
            text.ends_with("no host \"no..such\" is known here"),
            "{text}"
        );
    }

    #[test]
    fn go_style_flags_work() {
        let settings = run("-web=10002 -udp=:10086 -max-players-per-room 5 -hz 60");
        assert_eq!(settings.web, at("127.0.0.1:10002"));
        assert_eq!(settings.udp, Listen::Every { port: 10086 });
        assert_eq!(settings.engine.max_players_per_room, 5);
        assert_eq!(settings.engine.hz, 60);
        // The original's, which is open to other machines: it needs a word more here.
        let web = run("-web :10002 -web-unprotected").web;
        assert_eq!(web, Listen::Every { port: 10002 });
        assert_eq!(said("-help"), said("--help"));
        assert_eq!(said("-version"), said("-V"));
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        let engine = run("--ready-timeout 0.5 --idle-timeout=1.25 --reconnect-grace 0").engine;
        assert_eq!(engine.ready_timeout, Duration::from_millis(500));
        assert_eq!(engine.idle_timeout, Duration::from_millis(1250));
        assert_eq!(engine.reconnect_grace, Duration::ZERO);
    }

    #[test]
    fn a_wrong_value_is_named_with_what_would_be_right() {
        assert_eq!(
            refusal("--hz 0"),
            "--hz: \"0\" is not a number from 1 to 240"
        );
        assert_eq!(
            refusal("--idle-timeout 0.9"),
            "--idle-timeout: \"0.9\" is not a number of seconds from 1 to 3600"
        );
        for wrong in ["241", "-5", "x", "3.5", "99999999999999999999", "0x10"] {
            let expected = format!("--hz: {wrong:?} is not a number from 1 to 240");
            assert_eq!(refusal(&format!("--hz {wrong}")), expected);
        }
        for wrong in ["-1", "NaN", "inf", "1e300", "20s", "0.05"] {
            let text = refusal(&format!("--ready-timeout {wrong}"));
            assert!(
                text.contains("is not a number of seconds from 0.1 to 3600"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_wrong_variable_is_named_as_the_variable() {
        assert_eq!(
            refusal("LOCKSTEP_MAX_ROOMS=many"),
            "LOCKSTEP_MAX_ROOMS: \"many\" is not a number from 1 to 1000000"
        );
    }

    #[test]
    fn both_ends_of_a_range_are_in_it() {
        assert_eq!(run("--hz 1").engine.hz, 1);
        assert_eq!(run("--hz 240").engine.hz, 240);
        assert_eq!(
            run("--max-players-per-room 256")
                .engine
                .max_players_per_room,
            256
        );
        refusal("--max-players-per-room 257");
    }

    // --- Who is let in ----------------------------------------------------------------------

    #[test]
    fn nothing_given_lets_in_any_player_and_this_machine_alone() {
        let settings = run("");
        assert_eq!(settings.engine.auth, Auth::Open);
        assert_eq!(settings.guard, Guard::Loopback);
        assert_eq!(run("--auth room").engine.auth, Auth::Room);
        assert_eq!(
            refusal("--auth tickets"),
            "--auth: \"tickets\" is not one of open, room, ticket"
        );
    }

    #[test]
    fn a_secret_that_is_set_to_nothing_keeps_the_server_from_starting() {
        for name in [
            "ADMIN_TOKEN",
            "ADMIN_TOKEN_FILE",
            "TICKET_SECRET",
            "TICKET_SECRET_OLD",
            "TICKET_SECRET_FILE",
        ] {
            let text = refusal(&format!("LOCKSTEP_{name}="));
            let expected = format!("LOCKSTEP_{name}: is set to nothing");
            assert!(text.starts_with(&expected), "{text}");
        }
    }

    #[test]
    fn tickets_need_a_secret_and_the_error_names_every_way_to_give_it() {
        let text = refusal("--auth ticket");
        let words: Vec<&str> = text.split([' ', ',']).collect();
        for way in [
            "--ticket-secret",
            "--ticket-secret-file",
            "LOCKSTEP_TICKET_SECRET",
            "LOCKSTEP_TICKET_SECRET_FILE",
        ] {
            assert!(words.contains(&way), "{way}: {text}");
        }
        assert!(refusal("LOCKSTEP_AUTH=ticket").starts_with("LOCKSTEP_AUTH: "));
        let one = Auth::Ticket(TicketSecrets::new(secret(NEW), None));
        for line in [
            format!("--auth ticket --ticket-secret {NEW}"),
            format!("LOCKSTEP_TICKET_SECRET={NEW} --auth=ticket"),
            "--auth ticket --ticket-secret-file secret".to_string(),
            "LOCKSTEP_TICKET_SECRET_FILE=secret --auth ticket".to_string(),
        ] {
            assert_eq!(run(&line).engine.auth, one, "{line}");
        }
        // The spaces are part of it.
        let spaced = Auth::Ticket(TicketSecrets::new(secret(&format!(" {NEW} ")), None));
        let settings = run("--auth ticket --ticket-secret-file spaces");
        assert_eq!(settings.engine.auth, spaced);
    }

    #[test]
    fn a_secret_that_would_check_nothing_is_refused() {
        for given in [
            format!("--ticket-secret={NEW}"),
            "--ticket-secret-file secret".to_string(),
        ] {
            for auth in ["", "--auth room"] {
                let text = refusal(&format!("{given} {auth}"));
                assert!(text.contains("add --auth ticket"), "{text}");
            }
        }
        let text = refusal(&format!("LOCKSTEP_TICKET_SECRET={NEW}"));
        assert!(
            text.starts_with("LOCKSTEP_TICKET_SECRET: is given, but with --auth open"),
            "{text}"
        );
        let text = refusal(&format!("--ticket-secret-old {NEW}"));
        assert!(text.contains("is given alone; --ticket-secret"), "{text}");
    }

    #[test]
    fn secrets_that_do_not_go_together_are_refused() {
        for line in [
            format!("LOCKSTEP_TICKET_SECRET_FILE=secret --auth ticket --ticket-secret {NEW}"),
            format!("--auth ticket --ticket-secret-file secret --ticket-secret-old {OLD}"),
            format!("LOCKSTEP_ADMIN_TOKEN={TOKEN} --admin-token-file token"),
            format!("--admin-token {TOKEN} --web-unprotected"),
            format!("LOCKSTEP_WEB_UNPROTECTED=1 --web :1 --admin-token {TOKEN}"),
        ] {
            let text = refusal(&line);
            assert!(text.contains("leave one of them out") || text.contains("second line"));
        }
    }

    #[test]
    fn a_secret_that_is_short_or_in_a_bad_file_is_refused_and_not_shown() {
        let short = "a secret must have at least 32 bytes";
        for (given, reason) in [
            (format!("--ticket-secret {}", &NEW[1..]), short),
            ("--ticket-secret=".to_string(), short),
            (
                format!("--ticket-secret {NEW} --ticket-secret-old {}", &NEW[1..]),
                short,
            ),
            ("--ticket-secret-file short".to_string(), short),
            ("--ticket-secret-file short-old".to_string(), short),
            (
                "--ticket-secret-file three".to_string(),
                "has 3 lines; at most 2",
            ),
            ("--ticket-secret-file empty".to_string(), "is empty"),
            ("--ticket-secret-file latin-1".to_string(), "is not UTF-8"),
            (format!("--ticket-secret-file {NEW}"), "cannot be read"),
        ] {
            let text = refusal(&format!("--auth ticket {given}"));
            assert!(text.starts_with("--ticket-secret"), "{text}");
            assert!(text.contains(reason), "{text}");
        }
        for given in [
            "--admin-token 0123456789abcde",
            "--admin-token 0123456789abcdef,",
            "--admin-token=",
            "--admin-token-file secret,",
            "--admin-token-file two-secrets",
            "--admin-token-file empty",
        ] {
            let text = refusal(given);
            assert!(text.starts_with("--admin-token"), "{text}");
            assert!(!text.contains("0123456789abcde"), "{text}");
        }
    }

    #[test]
    fn no_error_shows_a_secret_whatever_else_is_wrong() {
        // The tails of these are what a shell leaves of a secret that was not quoted.
        for line in [
            format!("--ticket-secret --{NEW}"),
            format!("--ticket-secret -{TOKEN}"),
            format!("--admin-token x {TOKEN}"),
            format!("--ticket-secret {NEW} {OLD}"),
            format!("-ticket-secret={NEW} -{OLD}"),
            format!("ticket-secret={NEW}"),
            format!("admin-token {TOKEN}"),
            format!("--ticket-secrt={NEW}"),
            format!("--admin-tokn={TOKEN}"),
            format!("--ticket-secret={NEW} --hz 0"),
            format!("--admin-token={TOKEN} --hz"),
            format!("--web-unprotected={TOKEN} --admin-token=x"),
            format!("LOCKSTEP_ADMIN_TOKEN={TOKEN}, --hz 30"),
        ] {
            refusal(&line);
        }
        let settings = run(&format!(
            "--auth ticket --ticket-secret {NEW} --ticket-secret-old {OLD} --admin-token {TOKEN}"
        ));
        let shown = format!("{settings:?} {settings:#?}");
        for part in ["0123456789", "fedcba", "a-token"] {
            assert!(!shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn a_web_side_that_others_reach_needs_a_token_or_a_word() {
        for web in [
            ":10002",
            "0.0.0.0:10002",
            "[::]:10002",
            "192.168.1.5:10002",
            "[fe80::1]:10002",
            "[::ffff:10.0.0.1]:10002",
        ] {
            for line in [format!("-web {web}"), format!("LOCKSTEP_WEB={web}")] {
                let text = refusal(&line);
                assert!(
                    text.contains(&format!("{web:?} is open to other")),
                    "{text}"
                );
                for remedy in ["--admin-token ", "--web-unprotected ", "127.0.0.1:10002"] {
                    assert!(format!("{text} ").contains(remedy), "{text}");
                }
            }
            let guard = |line: &str| run(&format!("--web {web} {line}")).guard;
            assert_eq!(guard(&format!("--admin-token {TOKEN}")), token());
            assert_eq!(guard("--admin-token-file token"), token());
            assert_eq!(guard("--web-unprotected"), Guard::Unprotected);
        }
        for web in [
            "10002",
            "127.0.0.1:10002",
            "127.1.2.3:10002",
            "localhost:10002",
            "[::1]:10002",
            "[::ffff:127.0.0.1]:10002",
        ] {
            assert_eq!(run(&format!("--web {web}")).guard, Guard::Loopback);
        }
        assert_eq!(
            refusal("LOCKSTEP_WEB_UNPROTECTED=yes"),
            "LOCKSTEP_WEB_UNPROTECTED: \"yes\" is not 1, or nothing"
        );
    }

    #[test]
    fn an_unknown_flag_is_refused_with_the_nearest() {
        assert_eq!(
            refusal("--max-room 9"),
            "\"--max-room\" is no setting; did you mean --max-rooms?"
        );
        assert_eq!(
            refusal("-webb=10002"),
            "\"--webb\" is no setting; did you mean --web?"
        );
        assert_eq!(
            refusal("--qqqqq"),
            "\"--qqqqq\" is no setting; --help lists them all"
        );
        assert_eq!(refusal("-q"), "\"-q\" is no setting; --help lists them all");
        assert_eq!(
            refusal("10002"),
            "\"10002\" is no setting: a setting begins with a dash, as in --web 10002"
        );
    }

    #[test]
    fn a_flag_without_a_value_is_refused() {
        let expected = "--hz: a value is missing, a number from 1 to 240";
        assert_eq!(refusal("--hz"), expected);
        assert_eq!(refusal("-hz --web 80"), expected);
    }

    #[test]
    fn whatever_else_is_wrong_takes_one_line() {
        for line in [
            "--help=1", "--", "-- --hz", "-h1", "-", "--=", "--\n", "--hz\n=1", "a\nb",
        ] {
            if parsed(line).is_err() {
                refusal(line);
            }
        }
        assert_eq!(refusal("--help=1"), "--help: takes no value");
        assert_eq!(
            refusal("--web-unprotected=1"),
            "--web-unprotected: takes no value"
        );
    }

    #[test]
    fn a_filter_that_does_not_parse_is_refused() {
        let right = "is not a filter such as info or warn,lockstep_server::io=debug";
        for wrong in [
            "lockstep_server=loud",
            "a=b=c",
            "info/a/b",
            "inof",
            "true",
            "warn,mio",
        ] {
            assert_eq!(
                refusal(&format!("--log {wrong}")),
                format!("--log: {wrong:?} {right}")
            );
        }
        for fine in [
            "off",
            "WARN",
            "warn,lockstep_server::io=debug",
            "lockstep_server",
            "mio=info",
        ] {
            assert_eq!(run(&format!("--log {fine}")).log, fine);
        }
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_are_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let program = bytes(b"\xff");
        let nothing = |_: &str| None;
        for arg in [
            b"--hz=\xff".as_slice(),
            b"-hz=\xff",
            b"--\xff",
            b"\xff",
            b"-\xff\xff\xff",
        ] {
            let error = parse([program.clone(), bytes(arg)], &nothing, &read).expect_err("no text");
            assert!(error.to_string().contains('\u{fffd}'), "{error}");
        }
        let variable = |name: &str| (name == "LOCKSTEP_LOG").then(|| bytes(b"in\xff"));
        let error = parse([program.clone()], &variable, &read).expect_err("no text");
        assert!(
            error
                .to_string()
                .starts_with("LOCKSTEP_LOG: \"in\u{fffd}\""),
            "{error}"
        );
        for name in ["TICKET_SECRET", "TICKET_SECRET_OLD", "ADMIN_TOKEN"] {
            let name = format!("LOCKSTEP_{name}");
            let variable = |asked: &str| (asked == name).then(|| bytes(b"hush\xff"));
            let error = parse([program.clone()], &variable, &read).expect_err("no text");
            assert_eq!(error.to_string(), format!("{name}: is not UTF-8"));
        }
    }

    #[test]
    fn no_arguments_at_all_are_no_arguments() {
        assert!(matches!(parse([], &|_| None, &read), Ok(Parsed::Run(_))));
    }

    #[test]
    fn the_help_shows_each_setting_with_default_range_and_variable() {
        let help = said("--help");
        for heading in [NETWORK, ACCESS, MATCH, LIMITS, LOGGING] {
            assert!(
                help.contains(&format!("\n{heading}:\n")),
                "{heading}: {help}"
            );
        }
        // Lines are wrapped.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in ALL {
            let (value, end) = match (&setting.kind, setting.default) {
                (Kind::Switch, _) => ("", format!("[{}=1]", setting.variable())),
                (_, "") => (" <", format!("[{}]", setting.variable())),
                (_, default) => (" <", format!("default {default}; {}]", setting.variable())),
            };
            let begin = format!("{}{value}", setting.flag());
            assert!(help.contains(&begin), "{begin}: {help}");
            assert!(help.contains(&end), "{end}: {help}");
        }
        assert!(
            help.contains("[1 to 240 frames a second; default 30; LOCKSTEP_HZ]"),
            "{help}"
        );
        assert!(help.contains("[0.1 to 3600 seconds; default 20; LOCKSTEP_READY_TIMEOUT]"));
    }

    #[test]
    fn the_version_is_the_one_of_the_package() {
        let expected = format!("lockstep-server {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(said("--version"), expected);
    }
}
