//! Which one of its name this server is: see [`Instance`].
//!
//! With a data directory it is kept there, so that a server that comes back after a crash is known
//! as the one that left. The directory is the journal's, which has locked it by then and takes no
//! notice of this file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::node::Instance;
use crate::io::journal::sync_dir;

/// The file in the data directory.
const FILE: &str = "instance";

/// Why it cannot be told.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// The file is there, and something else is in it.
    #[error(
        "--data-dir: {path:?} does not hold 16 hexadecimal digits; delete it, and this server is a \
         new one of its name"
    )]
    Broken {
        /// Which file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("--data-dir: {path:?}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The system has none.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// Draws one that nothing remembers.
///
/// # Errors
/// [`InstanceError::NoRandomness`].
pub fn draw() -> Result<Instance, InstanceError> {
    getrandom::u64()
        .map(Instance)
        .map_err(|_| InstanceError::NoRandomness)
}

/// That of a data directory, which exists; drawn and brought to the disk if it has none yet.
///
/// # Errors
/// [`InstanceError`].
pub fn of_dir(dir: &Path) -> Result<Instance, InstanceError> {
    let path = dir.join(FILE);
    let failed = |error| InstanceError::File {
        path: path.clone(),
        error,
    };
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).ok_or(InstanceError::Broken { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let instance = draw()?;
            write(dir, instance).map_err(failed)?;
            Ok(instance)
        }
        Err(error) => Err(failed(error)),
    }
}

fn parse(bytes: &[u8]) -> Option<Instance> {
    let text = std::str::from_utf8(bytes).ok()?;
    Instance::try_from(text.trim_end().to_owned()).ok()
}

/// A crash leaves the whole of it, or none.
fn write(dir: &Path, instance: Instance) -> io::Result<()> {
    let new = dir.join("instance.new");
    let mut file = File::create(&new)?;
    file.write_all(format!("{instance}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, dir.join(FILE))?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let name = format!("lockstep-instance-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn a_directory_keeps_its_instance() {
        let dir = dir("kept");
        let first = of_dir(&dir).unwrap();
        assert_eq!(of_dir(&dir).unwrap(), first);
        assert_eq!(
            fs::read_to_string(dir.join(FILE)).unwrap(),
            format!("{first}\n")
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_broken_file_is_named_with_the_remedy() {
        let dir = dir("broken");
        for broken in ["", "12", "xxxxxxxxxxxxxxxx", "00000000000000000"] {
            fs::write(dir.join(FILE), broken).unwrap();
            let error = of_dir(&dir).unwrap_err().to_string();
            assert!(
                error.contains("instance") && error.contains("delete it"),
                "{error}"
            );
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
