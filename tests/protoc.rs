//! The protoc of the build: scripts/protoc finds one on a machine that has none, and prefers the
//! system's where there is one. (scripts/test builds etcd-client with it, every protoc hidden.)
#![cfg(all(feature = "cluster", unix))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/protoc");

/// A directory of its own, gone at the end, with the few programs that the script calls.
struct Bin(PathBuf);

impl Bin {
    fn new(name: &str) -> Bin {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("protoc-{name}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for tool in ["sh", "dirname", "uname"] {
            let path = std::env::var_os("PATH").unwrap();
            let mut found = std::env::split_paths(&path).map(|dir| dir.join(tool));
            symlink(found.find(|path| path.exists()).unwrap(), dir.join(tool)).unwrap();
        }
        Bin(dir)
    }

    /// What the script says to `--version` if this is all there is on the PATH.
    fn protoc(&self) -> Command {
        let mut command = Command::new(SCRIPT);
        command.arg("--version").env("PATH", &self.0);
        command
    }
}

impl Drop for Bin {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn without_a_protoc_of_the_system_that_of_the_package_is_found() {
    let output = Bin::new("packaged").protoc().output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with("libprotoc "), "{said}");
}

#[test]
fn the_systems_protoc_comes_first() {
    let bin = Bin::new("system");
    let protoc = bin.0.join("protoc");
    fs::write(&protoc, "#!/bin/sh\necho \"the system's: $1\"\n").unwrap();
    fs::set_permissions(&protoc, fs::Permissions::from_mode(0o755)).unwrap();
    let output = bin.protoc().output().unwrap();
    assert_eq!(said(&output), "the system's: --version\n");
}

#[test]
fn where_there_is_none_the_error_says_what_to_do() {
    let bin = Bin::new("none");
    let output = bin.protoc().env("CARGO_HOME", &bin.0).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(127), "{said}");
    for remedy in ["protobuf-compiler", "PROTOC", "--no-default-features"] {
        assert!(said.contains(remedy), "{said}");
    }
}
