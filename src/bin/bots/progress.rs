//! How far it is: a bar on a terminal, else a line now and then, both on standard error.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lockstep_server::engine::time::Time;

/// Time between two looks at the bar.
pub(crate) const BAR_EVERY: Duration = Duration::from_millis(200);

/// A bar, or lines.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    line_every: Duration,
    next: Time,
    total: Duration,
}

impl Progress {
    /// Nothing of `total` is done.
    pub(crate) fn new(total: Duration, line_every: Duration) -> Progress {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:20} {pos:>4}/{len} s  {wide_msg}")
                .expect("the template is well formed");
            ProgressBar::new(total.as_secs()).with_style(style)
        });
        Progress {
            bar,
            line_every,
            next: Time::ZERO,
            total,
        }
    }

    /// Shows how much is done, if it is time for it.
    pub(crate) fn show(&mut self, now: Time, done: Duration, text: impl FnOnce() -> String) {
        if now < self.next {
            return;
        }
        let done = done.min(self.total).as_secs();
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(text());
                self.next = now + BAR_EVERY;
            }
            None => {
                eprintln!("{done:>4}/{} s  {}", self.total.as_secs(), text());
                self.next = now + self.line_every;
            }
        }
    }

    /// Says something at once.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
