//! What the process asks of the system once, at its start.

use std::io;

use crate::engine::config::Secrets;

/// Raises the number of files and sockets that the process may open to the most it may ask
/// for. Each HTTP connection takes one. Returns the number, `None` where that is unknown.
#[cfg(unix)]
pub fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Where the system has no such limit.
#[cfg(not(unix))]
pub fn raise_descriptor_limit() -> Option<u64> {
    None
}

/// Draws the engine's random values.
///
/// # Errors
/// If the system has no randomness to give.
pub fn draw_secrets() -> io::Result<Secrets> {
    let draw = || getrandom::u64().map_err(io::Error::other);
    Ok(Secrets {
        hash_key: (draw()?, draw()?),
        clock_key: (draw()?, draw()?),
        // Half of the range is left to count up in, and no id needs a sign.
        first_match: draw()? >> 1,
    })
}
