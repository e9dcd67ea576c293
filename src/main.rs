//! The server: settings, log, sockets, the side threads of HTTP and of the cluster, then the event
//! loop.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;

use lockstep_server::admin::guard::Guard;
use lockstep_server::admin::order::Bounds;
use lockstep_server::admin::{self, Admin, AdminConfig, AdminError};
#[cfg(feature = "cluster")]
use lockstep_server::cluster::side::Side;
use lockstep_server::config::{self, Listen, Parsed, Settings};
use lockstep_server::engine::auth::Auth;
use lockstep_server::io::event_loop::EventLoop;
use lockstep_server::io::recordings::Recordings;
use lockstep_server::io::signals::Signals;
use lockstep_server::io::system;
use lockstep_server::io::udp::Udp;
use lockstep_server::operations::{Operations, Tickets};

/// Exit status for settings that are wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let env = |name: &str| std::env::var_os(name);
    let settings = match config::parse(std::env::args_os(), &env, &system::read_secret_file) {
        Ok(Parsed::Run(settings)) => settings,
        Ok(Parsed::Say(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    match run(*settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn fail(why: &str, status: u8) -> ExitCode {
    eprintln!("lockstep-server: {why}");
    ExitCode::from(status)
}

fn run(settings: Settings) -> Result<(), String> {
    env_logger::Builder::new()
        // What it logs as errors the watchdog of the HTTP side deals with and reports.
        .filter_module("tiny_http", log::LevelFilter::Off)
        .parse_filters(&settings.log)
        .init();
    let descriptors = system::raise_descriptor_limit();
    let signals = Signals::new().map_err(|error| format!("signals: {error}"))?;
    let secrets = system::draw_secrets().map_err(|error| format!("randomness: {error}"))?;
    let udp = Udp::bind(settings.udp).map_err(|error| cannot_bind(&settings, &error))?;
    let udp_addr = udp
        .local_addr()
        .map_err(|error| format!("--udp: {error}"))?;
    let buffer_warning = udp.buffer_warning();
    let (mut event_loop, control) = EventLoop::new(udp, signals, settings.engine.clone(), secrets)
        .map_err(|error| format!("event loop: {error}"))?;
    event_loop.drain_for(settings.drain);
    let mut recordings = None;
    if let Some(options) = settings.journal.clone() {
        let opened = event_loop.open_journal(options);
        recordings = Some(opened.map_err(|error| format!("--data-dir: {error}"))?);
    }
    let bounds = Bounds {
        max_players_per_room: settings.engine.max_players_per_room,
    };
    #[cfg(feature = "cluster")]
    let mut side = Side::start(&settings, &control, &mut event_loop)?;
    let operations = Operations::new(control, bounds, Tickets::of(&settings.engine));
    #[cfg(feature = "cluster")]
    let operations = match side.cluster() {
        Some(cluster) => operations.in_cluster(cluster),
        None => operations,
    };
    let operations = Arc::new(operations);
    let admin = start_admin(&settings, &operations, recordings.as_ref())
        .map_err(|error| error.to_string())?;

    log::info!("KCP on udp {udp_addr}");
    if let Some(warning) = buffer_warning {
        log::warn!("{warning}");
    }
    tell_access(&settings);
    log::info!("HTTP on http://{}", admin.local_addr());
    #[cfg(feature = "cluster")]
    side.listen(&settings, &operations)?;
    if let Some(descriptors) = descriptors {
        log::debug!("may open {descriptors} files and sockets");
    }

    let result = event_loop.run();
    #[cfg(feature = "cluster")]
    side.stop();
    admin.stop();
    result.map_err(|error| format!("event loop: {error}"))
}

/// Every interface means IPv6 and IPv4 where the system has both, and IPv4 where not.
fn start_admin(
    settings: &Settings,
    operations: &Arc<Operations>,
    recordings: Option<&Arc<Recordings>>,
) -> Result<Admin, AdminError> {
    let start = |listen| {
        let mut config = AdminConfig::new(listen);
        config.guard = settings.guard.clone();
        config.recordings = recordings.cloned();
        admin::start(config, Arc::clone(operations))
    };
    match settings.web {
        Listen::At(addr) => start(addr),
        Listen::Every { port } => {
            start((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| match error {
                AdminError::Listen(..) | AdminError::NotHere(_) => {
                    start((Ipv4Addr::UNSPECIFIED, port).into())
                }
                _ => Err(error),
            })
        }
    }
}

/// Says who is let in.
fn tell_access(settings: &Settings) {
    let auth = &settings.engine.auth;
    let wants = match auth {
        Auth::Open => "any token is taken, so whoever knows the ids of room and player may play",
        Auth::Room => "players need the secret of their room",
        Auth::Ticket(_) => "players need a ticket",
    };
    log::info!("auth {}: {wants}", auth.name());
    if settings.guard == Guard::Unprotected {
        log::warn!("--web-unprotected: whoever reaches the web side may create and close rooms");
    }
}

fn cannot_bind(settings: &Settings, error: &std::io::Error) -> String {
    let (value, port) = (settings.udp, settings.udp.port());
    match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "--udp: \"{value}\" cannot be used: UDP port {port} is in use; stop what uses it or \
             choose another port"
        ),
        _ => {
            format!("--udp: \"{value}\" cannot be used: {error}; choose an address of this machine")
        }
    }
}
