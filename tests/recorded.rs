//! Matches that bots play on a real server with `--data-dir`, as recordings: listed, downloaded,
//! checked, and listed again after a kill.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod real;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lockstep_server::engine::wire::frame::decode_frames;
use lockstep_server::journal::restore::Restore;
use real::{PATIENCE, RealServer};
use serde_json::Value;

const ROOMS: usize = 5;

/// All recordings, by match.
fn listed(server: &RealServer) -> BTreeMap<String, Value> {
    let began = Instant::now();
    let mut list = server.ask("GET /api/recordings", "", 200);
    while list["complete"] != true {
        assert!(began.elapsed() < PATIENCE, "{list}");
        list = server.ask("GET /api/recordings", "", 200);
    }
    let recordings = list["recordings"].as_array().unwrap().clone();
    let by_match = |one: Value| (one["match"].as_str().unwrap().to_owned(), one);
    recordings.into_iter().map(by_match).collect()
}

fn download(server: &RealServer, id: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.web).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = server.web;
    let request = format!("GET /api/recordings/{id} HTTP/1.1\r\nHost: {host}\r\n");
    write!(stream, "{request}Connection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{answer:?}");
    let head = answer.windows(4).position(|at| at == b"\r\n\r\n").unwrap();
    answer.split_off(head + 4)
}

/// A recording says what the list says of it, and has frames in which somebody pressed something.
fn hold(shown: &Value, recording: &[u8]) {
    let mut restore = Restore::with_finished(None);
    restore.read(0, recording);
    let restored = restore.finish();
    assert_eq!((restored.damage_count, restored.torn_bytes), (0, 0));
    let of = &restored.finished[0];
    assert_eq!(of.lack, None);
    assert_eq!(shown["match"], of.match_id.to_string());
    assert_eq!(shown["room"], of.created.room.to_string());
    assert_eq!(shown["frames"], of.frames);
    assert_eq!(shown["over"], of.reason.name());
    assert_eq!(shown["started"].as_i64(), of.started_unix);
    let frames = decode_frames(&of.log).unwrap();
    assert!(frames.iter().any(|frame| !frame.inputs.is_empty()));
    assert!(of.frames >= 60, "{} frames in three seconds", of.frames);
}

#[test]
fn what_was_played_can_be_downloaded_now_and_after_a_kill() {
    let name = format!("lockstep-recorded-{}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    let _ = std::fs::remove_dir_all(&dir);
    let settings = ["--data-dir".as_ref(), dir.as_os_str()];
    let server = RealServer::start(&settings);
    let rooms = format!("--rooms={ROOMS}");
    let bots = server.bots(&[&rooms, "--players=2", "--seconds=3"]);
    bots.report();
    let began = Instant::now();
    while listed(&server).len() < ROOMS {
        assert!(began.elapsed() < PATIENCE, "{:?}", listed(&server));
        thread::sleep(Duration::from_millis(20));
    }
    let before = listed(&server);
    for (id, shown) in &before {
        assert_eq!(shown["over"], "results");
        hold(shown, &download(&server, id));
    }
    drop(server);

    let server = RealServer::start(&settings);
    assert_eq!(listed(&server), before);
    for (id, shown) in &before {
        hold(shown, &download(&server, id));
    }
    let check = Command::new(env!("CARGO_BIN_EXE_lockstep-replay"))
        .arg(&dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{said}");
    assert_eq!(said.matches(": whole, ").count(), ROOMS, "{said}");
    drop(server);
    std::fs::remove_dir_all(&dir).unwrap();
}
