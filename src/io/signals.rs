//! SIGINT and SIGTERM, told to the event loop: each asks for more than the one before. Where the
//! server drains, the first asks for that; the next asks it to stop, and one more ends the process.
//!
//! On Unix they come through the loop's poll. Elsewhere a flag is set, and the loop wakes
//! often enough to see it.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};

/// Exit status of a process that a signal ends at once.
const EXIT_AT_ONCE: i32 = 130;

/// What the signals ask for that have come so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// There were none.
    Nothing,
    /// To drain.
    Drain,
    /// To stop.
    Stop,
    /// To end at once.
    End,
}

impl Asked {
    fn by(signals: usize, drains: bool) -> Asked {
        match signals {
            0 => Asked::Nothing,
            1 if drains => Asked::Drain,
            1 => Asked::Stop,
            2 if drains => Asked::Stop,
            _ => Asked::End,
        }
    }
}

/// Counts the signals that ask the process to end.
#[derive(Debug)]
pub struct Signals {
    inner: Inner,
    seen: usize,
}

impl Signals {
    /// Takes the signals over from the system's default.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Signals> {
        Ok(Signals {
            inner: Inner::new()?,
            seen: 0,
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

    /// What was asked for so far; with `drains`, the first signal does not stop the server yet. To end
    /// at once is done here and now.
    pub fn asked(&mut self, drains: bool) -> Asked {
        self.seen += self.inner.take();
        let asked = Asked::by(self.seen, drains);
        if asked == Asked::End {
            log::warn!("asked to stop once more: ending at once");
            std::process::exit(EXIT_AT_ONCE);
        }
        asked
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_asks_for_more_than_the_one_before() {
        let ladder = |drains| (0..4).map(move |signals| Asked::by(signals, drains));
        let with: Vec<Asked> = ladder(true).collect();
        let without: Vec<Asked> = ladder(false).collect();
        assert_eq!(
            with,
            [Asked::Nothing, Asked::Drain, Asked::Stop, Asked::End]
        );
        assert_eq!(
            without,
            [Asked::Nothing, Asked::Stop, Asked::End, Asked::End]
        );
    }
}
