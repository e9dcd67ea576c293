//! What the process asks of the system once, at its start.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::engine::config::Secrets;
use crate::limits::SECRET_FILE_BYTES_MAX;

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

/// Reads a file that holds a secret or two.
///
/// # Errors
/// If it cannot be read, or has more than [`SECRET_FILE_BYTES_MAX`] bytes. The text names no
/// file.
pub fn read_secret_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = File::open(path)?.take(SECRET_FILE_BYTES_MAX + 1);
    file.read_to_end(&mut bytes)?;
    if file.limit() == 0 {
        let reason = format!("it has more than {SECRET_FILE_BYTES_MAX} bytes");
        return Err(io::Error::other(reason));
    }
    Ok(bytes)
}
