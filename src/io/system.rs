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

/// Gives memory that was freed back to the system: after a flood the allocator holds on to 7 kB
/// for each session that is gone. It takes some ms for 100 MB, in which the process allocates
/// nothing.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back_memory() {
    #[allow(unsafe_code, reason = "glibc has no other way to ask for it")]
    // SAFETY: the function takes a number of bytes, keeps to the allocator's own locks, and
    // touches no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Where the allocator is left to do it by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_memory() {}

/// Lets the calling thread, and those that it starts, come behind the loop where there are fewer cores than
/// busy threads: about a third of its share. What is due in the loop is a frame of a match; what they do
/// has seconds.
#[cfg(target_os = "linux")]
pub fn come_behind_the_loop() {
    // The number is one of a thread here, elsewhere of the process. To be nicer is never refused.
    let _ = rustix::process::setpriority_process(None, 5);
}

/// Where a thread has no priority of its own.
#[cfg(not(target_os = "linux"))]
pub fn come_behind_the_loop() {}

/// Draws the engine's random values.
///
/// # Errors
/// If the system has no randomness to give.
pub fn draw_secrets() -> io::Result<Secrets> {
    let draw = || getrandom::u64().map_err(io::Error::other);
    let mut pass_key = [0; 32];
    getrandom::fill(&mut pass_key).map_err(io::Error::other)?;
    Ok(Secrets {
        hash_key: (draw()?, draw()?),
        clock_key: (draw()?, draw()?),
        pass_key,
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
