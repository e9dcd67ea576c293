//! SIGINT and SIGTERM, told to the event loop: the first asks it to stop, the second ends
//! the process.
//!
//! On Unix they come through the loop's poll. Elsewhere a flag is set, and the loop wakes
//! often enough to see it.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};

/// Exit status of a process that a second signal ends.
const EXIT_AT_ONCE: i32 = 130;

/// Counts the signals that ask the process to stop.
#[derive(Debug)]
pub struct Signals {
    inner: Inner,
    seen: bool,
}

impl Signals {
    /// Takes the signals over from the system's default.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Signals> {
        Ok(Signals {
            inner: Inner::new()?,
            seen: false,
        })
    }

    /// Asks for word when a signal has come.
    ///
    /// # Errors
    /// What the system says.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.inner.register(registry, token)
    }

    /// The longest time the loop may sleep without asking for signals; `None` where they
    /// wake it.
    pub fn patience(&self) -> Option<Duration> {
        Inner::PATIENCE
    }

    /// Whether the process was asked to stop, for the first time. The second time it ends
    /// here and now.
    pub fn take_stop(&mut self) -> bool {
        let count = self.inner.take();
        if count == 0 {
            return false;
        }
        if self.seen || count > 1 {
            log::warn!("asked to stop a second time: ending at once");
            std::process::exit(EXIT_AT_ONCE);
        }
        self.seen = true;
        true
    }
}

#[cfg(unix)]
struct Inner(signal_hook_mio::v1_0::Signals);

#[cfg(unix)]
impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signals")
    }
}

#[cfg(unix)]
impl Inner {
    const PATIENCE: Option<Duration> = None;

    fn new() -> io::Result<Inner> {
        use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
        // A file that may not grow is for the journal to report, and no reason to end.
        signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default())?;
        signal_hook_mio::v1_0::Signals::new([SIGINT, SIGTERM]).map(Inner)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.0, token, mio::Interest::READABLE)
    }

    fn take(&mut self) -> usize {
        self.0.pending().count()
    }
}

#[cfg(not(unix))]
#[derive(Debug)]
struct Inner(std::sync::Arc<std::sync::atomic::AtomicBool>);

#[cfg(not(unix))]
impl Inner {
    const PATIENCE: Option<Duration> = Some(Duration::from_millis(100));

    fn new() -> io::Result<Inner> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let flag = std::sync::Arc::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, std::sync::Arc::clone(&flag))?;
        }
        Ok(Inner(flag))
    }

    fn register(&mut self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn take(&mut self) -> usize {
        usize::from(self.0.swap(false, std::sync::atomic::Ordering::Relaxed))
    }
}
