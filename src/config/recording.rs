//! The settings of the journal: whether there is one, where, and how much of it is kept.

use std::path::PathBuf;
use std::time::Duration;

use super::{ConfigError, DATA_DIR, FSYNC, Given, KEEP_HOURS, KEEP_MIB, Setting, Source};
use crate::io::journal::{Fsync, Options};
use crate::limits::{JOURNAL_SEGMENT_AGE, JOURNAL_SEGMENT_BYTES, JOURNAL_SYNC_EVERY};

/// Where the journal is and how much of it is kept; `None` without `--data-dir`.
pub(super) fn journal(source: &Source<'_>) -> Result<Option<Options>, ConfigError> {
    let Some(dir) = source.optional(&DATA_DIR)? else {
        return without(source, &[&FSYNC, &KEEP_HOURS, &KEEP_MIB]);
    };
    if dir.text.is_empty() {
        return Err(dir.unfit("is set to nothing; name a directory, or leave it out".into()));
    }
    let fsync = match source.given(&FSYNC)?.choice()? {
        "never" => Fsync::Never,
        "always" => Fsync::Always,
        _ => Fsync::Interval(JOURNAL_SYNC_EVERY),
    };
    let hours: u32 = source.given(&KEEP_HOURS)?.count()?;
    let mib: u32 = source.given(&KEEP_MIB)?.count()?;
    Ok(Some(Options {
        dir: PathBuf::from(dir.text),
        fsync,
        segment_bytes: JOURNAL_SEGMENT_BYTES,
        segment_age: JOURNAL_SEGMENT_AGE,
        keep_bytes: u64::from(mib) * 1024 * 1024,
        keep_age: Duration::from_secs(3600) * hours,
    }))
}

/// Who says how a journal is to be kept believes that there is one.
fn without(
    source: &Source<'_>,
    settings: &[&'static Setting],
) -> Result<Option<Options>, ConfigError> {
    for setting in settings {
        let given: Option<Given> = source.optional(setting)?;
        if let Some(given) = given {
            return Err(given.unfit(format!(
                "is given, but without {} nothing is recorded; add it, or leave this out",
                DATA_DIR.flag()
            )));
        }
    }
    Ok(None)
}
