//! Files of records: a recording, a segment of a journal, or all segments of a data directory.
//!
//! They are read one at a time, and once more for each question.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use lockstep_server::engine::id::MatchId;
use lockstep_server::io::recordings::segments_in;
use lockstep_server::journal::record::segment_name;
use lockstep_server::journal::restore::{FinishedMatch, Lack, Restore, Restored};
use lockstep_server::limits::REPLAY_FILE_BYTES_MAX;

/// Finished matches that an error names.
const NAMED_MAX: usize = 20;

/// Files of records, in their order.
pub(crate) struct Source {
    /// Each with its number as a segment; 0 for a file by itself.
    files: Vec<(u64, PathBuf)>,
}

impl Source {
    /// Finds the files.
    ///
    /// # Errors
    /// A text that names the path and a remedy.
    pub(crate) fn open(path: &Path) -> Result<Source, String> {
        let shown = path.display();
        let failed = |error| format!("{shown}: {error}; is this the path of a recording?");
        if !fs::metadata(path).map_err(failed)?.is_dir() {
            let files = vec![(0, path.to_owned())];
            return Ok(Source { files });
        }
        let numbers = segments_in(path).map_err(failed)?;
        if numbers.is_empty() {
            return Err(format!(
                "{shown}: there is no journal in this directory; name a recording, or what \
                 --data-dir of the server is"
            ));
        }
        let files = numbers.into_iter();
        let files = files.map(|number| (number, path.join(segment_name(number))));
        Ok(Source {
            files: files.collect(),
        })
    }

    /// Reads each file.
    ///
    /// # Errors
    /// A text that names the file.
    pub(crate) fn each(&self, mut take: impl FnMut(u64, &[u8])) -> Result<(), String> {
        let mut bytes = Vec::new();
        for (number, path) in &self.files {
            let shown = path.display();
            bytes.clear();
            // Some files, such as devices, do not say how long they are.
            let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
            let mut file = file.take(REPLAY_FILE_BYTES_MAX + 1);
            file.read_to_end(&mut bytes)
                .map_err(|error| format!("{shown}: {error}"))?;
            if file.limit() == 0 {
                return Err(format!(
                    "{shown}: it has more than {REPLAY_FILE_BYTES_MAX} bytes, and so is no recording"
                ));
            }
            take(*number, &bytes);
        }
        Ok(())
    }

    /// Where something is, as a person looks for it.
    pub(crate) fn place(&self, segment: u64, offset: u64) -> String {
        let file = self.files.iter().find(|(number, _)| *number == segment);
        let path = file.map_or(Path::new("?"), |(_, path)| path);
        format!("{}: byte {offset}", path.display())
    }

    /// Where a match cannot be read on, and why.
    pub(crate) fn lack(&self, lack: &Lack) -> String {
        let place = self.place(lack.place.segment, lack.place.offset);
        format!("{place}: {}", lack.why)
    }

    /// Whether it is all of a data directory, the end of which may be torn.
    pub(crate) fn is_journal(&self) -> bool {
        self.files.first().is_some_and(|(number, _)| *number > 0)
    }

    /// What all files come to.
    ///
    /// # Errors
    /// A text that names the file that cannot be read.
    pub(crate) fn restore(&self, mut restore: Restore) -> Result<Restored, String> {
        self.each(|number, bytes| restore.read(number, bytes))?;
        Ok(restore.finish())
    }

    /// A match that has ended, whole: this one, or the only one.
    ///
    /// # Errors
    /// A text that says what is there instead.
    pub(crate) fn recording(&self, wanted: Option<MatchId>) -> Result<FinishedMatch, String> {
        let restored = self.restore(Restore::default())?;
        let id = self.choose(&restored, wanted)?;
        let found = self.restore(Restore::with_finished(Some(id)))?;
        let mut finished = found.finished.into_iter();
        let of = finished.next().filter(|of| of.match_id == id);
        let of = of.ok_or_else(|| format!("match {id} has changed while it was read"))?;
        match &of.lack {
            None => Ok(of),
            Some(lack) => Err(format!("match {id} is not whole: {}", self.lack(lack))),
        }
    }

    fn choose(&self, restored: &Restored, wanted: Option<MatchId>) -> Result<MatchId, String> {
        let (_, first) = &self.files[0];
        let shown = first.display();
        let ids: Vec<MatchId> = restored.finished.iter().map(|of| of.match_id).collect();
        match (wanted, &ids[..]) {
            (Some(id), _) if ids.contains(&id) => Ok(id),
            (None, [id]) => Ok(*id),
            (None, []) => Err(self.nothing(restored)),
            (Some(id), _) => Err(format!(
                "{shown}: no match {id} has ended in it; there are {}",
                names(&ids)
            )),
            (None, _) => Err(format!(
                "{shown}: choose one of its matches with --match: {}",
                names(&ids)
            )),
        }
    }

    /// Why there is no match that has ended.
    fn nothing(&self, restored: &Restored) -> String {
        let (_, first) = &self.files[0];
        let shown = first.display();
        match (&restored.lost[..], &restored.rooms[..]) {
            ([lost, ..], _) => format!(
                "{shown}: it ends before match {} does; fetch it again (lockstep-replay check \
                 says what there is)",
                lost.match_id
            ),
            ([], [room, ..]) => format!(
                "{shown}: match {} is not over; a recording can be had when it is",
                room.match_id
            ),
            ([], []) => format!(
                "{shown}: no match can be read in it; is it a recording? (lockstep-replay check \
                 says what is wrong)"
            ),
        }
    }
}

/// Ids, the first of many.
fn names(ids: &[MatchId]) -> String {
    let mut names: Vec<String> = ids.iter().take(NAMED_MAX).map(MatchId::to_string).collect();
    if ids.is_empty() {
        names.push("none".to_owned());
    }
    if ids.len() > NAMED_MAX {
        names.push(format!("and {} more", ids.len() - NAMED_MAX));
    }
    names.join(", ")
}
