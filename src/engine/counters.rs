//! What the engine counts.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::drops::{Disconnect, Drop};

/// Largest lateness of a frame that is told apart from larger ones, in us.
const LATENESS_US_MAX: u64 = 60_000_000;

/// Counters since the start. They only grow, except where a line says otherwise.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Datagrams that came in, dropped ones included.
    pub datagrams_in: u64,
    /// Their bytes of UDP payload.
    pub bytes_in: u64,
    /// Datagrams that were handed to the driver.
    pub datagrams_out: u64,
    /// Their bytes of UDP payload.
    pub bytes_out: u64,
    /// Packets that came in.
    pub packets_in: u64,
    /// Inputs that were accepted into frames.
    pub inputs: u64,
    /// Frames that were sealed.
    pub frames: u64,
    /// Sessions that were opened, candidates included.
    pub sessions_opened: u64,
    /// Matches that were created.
    pub rooms_created: u64,
    /// Matches that started.
    pub matches_started: u64,
    /// Matches that ended.
    pub matches_over: u64,
    /// Rooms that ended of a panic: bugs of ours.
    pub rooms_failed: u64,
    /// Rooms that were restored from the journal.
    pub rooms_restored: u64,
    /// Matches that ended while the journal could not be written, and were so many that the oldest
    /// were forgotten: they have no recording.
    pub recordings_lost: u64,
    /// Times that a room was so late that it took a new epoch.
    pub epochs_renewed: u64,
    /// Sessions that went on at another address.
    pub sessions_moved: u64,
    /// Clients that were told that their session is gone.
    pub resets: u64,
    /// Probes sent to quiet peers.
    pub probes: u64,
    /// Questions where a room is that is not here.
    pub questions: u64,
    /// Those of them that were answered with an address.
    pub questions_located: u64,
    /// Those that were not answered in time.
    pub questions_late: u64,
    /// Connects that were told where their room is.
    pub redirects: u64,
    /// Connects for which nobody was asked: their range, or all, had asked too often.
    pub questions_too_often: u64,
    /// The same because too many questions were open, or too many waited for this one.
    pub questions_full: u64,
    /// Sessions that exist now.
    pub sessions: u64,
    /// Rooms that exist now, those that are over included.
    pub rooms: u64,
    /// Timers that are set now, stale ones included.
    pub timers: u64,
    drops: [u64; Drop::COUNT],
    disconnects: [u64; Disconnect::COUNT],
    /// How late frames were sealed, in us.
    pub frame_lateness_us: Histogram<u64>,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            datagrams_in: 0,
            bytes_in: 0,
            datagrams_out: 0,
            bytes_out: 0,
            packets_in: 0,
            inputs: 0,
            frames: 0,
            sessions_opened: 0,
            rooms_created: 0,
            matches_started: 0,
            matches_over: 0,
            rooms_failed: 0,
            rooms_restored: 0,
            recordings_lost: 0,
            epochs_renewed: 0,
            sessions_moved: 0,
            resets: 0,
            probes: 0,
            questions: 0,
            questions_located: 0,
            questions_late: 0,
            redirects: 0,
            questions_too_often: 0,
            questions_full: 0,
            sessions: 0,
            rooms: 0,
            timers: 0,
            drops: [0; Drop::COUNT],
            disconnects: [0; Disconnect::COUNT],
            frame_lateness_us: Histogram::new_with_bounds(1, LATENESS_US_MAX, 2)
                .expect("the bounds are legal"),
        }
    }
}

impl Counters {
    /// Adds what was counted before a restart; what exists now stays as it is.
    pub fn add(&mut self, before: &Counters) {
        for (sum, before) in [
            (&mut self.datagrams_in, before.datagrams_in),
            (&mut self.bytes_in, before.bytes_in),
            (&mut self.datagrams_out, before.datagrams_out),
            (&mut self.bytes_out, before.bytes_out),
            (&mut self.packets_in, before.packets_in),
            (&mut self.inputs, before.inputs),
            (&mut self.frames, before.frames),
            (&mut self.sessions_opened, before.sessions_opened),
            (&mut self.rooms_created, before.rooms_created),
            (&mut self.matches_started, before.matches_started),
            (&mut self.matches_over, before.matches_over),
            (&mut self.rooms_failed, before.rooms_failed),
            (&mut self.rooms_restored, before.rooms_restored),
            (&mut self.recordings_lost, before.recordings_lost),
            (&mut self.epochs_renewed, before.epochs_renewed),
            (&mut self.probes, before.probes),
            (&mut self.questions, before.questions),
            (&mut self.questions_located, before.questions_located),
            (&mut self.questions_late, before.questions_late),
            (&mut self.redirects, before.redirects),
            (&mut self.questions_too_often, before.questions_too_often),
            (&mut self.questions_full, before.questions_full),
        ] {
            *sum += before;
        }
        for (sum, before) in self.drops.iter_mut().zip(before.drops) {
            *sum += before;
        }
        for (sum, before) in self.disconnects.iter_mut().zip(before.disconnects) {
            *sum += before;
        }
        let same_bounds = self.frame_lateness_us.add(&before.frame_lateness_us);
        same_bounds.expect("all histograms of lateness have the same bounds");
    }

    /// Counts one drop.
    pub fn drop(&mut self, reason: Drop) {
        self.drops[reason as usize] += 1;
    }

    /// Counts one ended session.
    pub fn disconnect(&mut self, reason: Disconnect) {
        self.disconnects[reason as usize] += 1;
    }

    /// Counts how late a frame was sealed.
    pub fn frame_late(&mut self, lateness: Duration) {
        let us = u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX);
        self.frame_lateness_us.saturating_record(us);
    }

    /// Drops for one reason.
    pub fn drops(&self, reason: Drop) -> u64 {
        self.drops[reason as usize]
    }

    /// Sessions that ended for one reason.
    pub fn disconnects(&self, reason: Disconnect) -> u64 {
        self.disconnects[reason as usize]
    }
}
