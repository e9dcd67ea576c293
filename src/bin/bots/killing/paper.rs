//! What is left on the disk in the end, held against what the players saw.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lockstep_server::engine::view::OverReason;
use lockstep_server::engine::wire::frame::{Frame, decode_frames};
use lockstep_server::journal::restore::{FinishedMatch, Restore, Restored};

use super::shared::Room;
use crate::problems::{Problems, kind};

/// A directory of our own, which is deleted when this is dropped unless it is kept.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Where.
    pub(crate) path: PathBuf,
    is_kept: bool,
}

impl Scratch {
    /// A new one, among those for temporary files.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new() -> io::Result<Scratch> {
        let drawn = getrandom::u64().map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("lockstep-kill-{drawn:016x}"));
        fs::create_dir(&path)?;
        let is_kept = false;
        Ok(Scratch { path, is_kept })
    }

    /// It stays, to be looked at.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Reads the journal of a server that has ended, and tells where it differs from what was seen.
///
/// # Errors
/// What the system says.
pub(crate) fn check(dir: &Path, rooms: &[Room], problems: &mut Problems) -> io::Result<()> {
    let journal = read(dir)?;
    for damage in &journal.damage {
        problems.add_text("journal", &damage.to_string());
    }
    for room in rooms {
        let of = |finished: &&FinishedMatch| finished.match_id.to_string() == room.match_id;
        let found = journal.finished.iter().find(of);
        let told = match found {
            None => Err("its match is not in the journal".to_owned()),
            Some(finished) => check_match(finished, room),
        };
        if let Err(text) = told {
            problems.add_text("journal", &format!("room {}: {text}", room.id));
        }
    }
    Ok(())
}

fn read(dir: &Path) -> io::Result<Restored> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        segments.extend(number_of(&path).map(|number| (number, path)));
    }
    segments.sort();
    let mut restore = Restore::with_finished(None);
    for (number, path) in segments {
        restore.read(number, &fs::read(path)?);
    }
    Ok(restore.finish())
}

/// The number of a segment; `None` for any other file.
fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_prefix("journal-")?.strip_suffix(".lkj")?;
    digits.parse().ok()
}

fn check_match(finished: &FinishedMatch, room: &Room) -> Result<(), String> {
    if let Some(lack) = finished.lack {
        return Err(lack.to_string());
    }
    if finished.reason != OverReason::Results {
        return Err(format!("over for {}", finished.reason.name()));
    }
    if finished.started_unix != room.started_unix {
        return Err(format!("started at {:?}", finished.started_unix));
    }
    if finished
        .results
        .iter()
        .any(|result| *result != Some(room.winner.0))
    {
        return Err(format!("results {:?}", finished.results));
    }
    let seen = room.log.len();
    if usize::try_from(finished.frames) != Ok(seen) {
        return Err(format!("{} frames, and {seen} were seen", finished.frames));
    }
    let frames = decode_frames(&finished.log).map_err(|error| error.to_string())?;
    let mut frames = frames.into_iter().peekable();
    for id in 0..finished.frames {
        let empty = || Frame {
            id,
            inputs: Vec::new(),
        };
        let frame = frames.next_if(|frame| frame.id == id).unwrap_or_else(empty);
        if room.log.shows(&frame) != Some(true) {
            return Err(format!("{}: frame {id}", kind::DIFFERENT));
        }
    }
    match frames.next() {
        None => Ok(()),
        Some(frame) => Err(format!("frame {} is out of place", frame.id)),
    }
}
