//! Recordings out of a journal that is being written: the list, the files, and both over HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tape;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use lockstep_server::admin::guard::{AdminToken, Guard};
use lockstep_server::admin::order::Bounds;
use lockstep_server::admin::{self, Admin, AdminConfig};
use lockstep_server::engine::id::{MatchId, PlayerId, RoomId};
use lockstep_server::io::control;
use lockstep_server::io::recordings::{Page, ReadError, Recordings, Wanted};
use lockstep_server::journal::restore::{FinishedMatch, Restore};
use lockstep_server::operations::Operations;
use serde_json::Value;
use tape::{Dir, PLAYERS, SECRET, SEED, STARTED, Tape};

const ALL: Wanted = Wanted {
    room: None,
    player: None,
    from: None,
    limit: 1000,
};

fn ids(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.match_id.0).collect()
}

/// The match in a recording.
fn content(recording: &[u8]) -> FinishedMatch {
    let mut restore = Restore::with_finished(None);
    restore.read(0, recording);
    let mut restored = restore.finish();
    assert_eq!((restored.damage_count, restored.torn_bytes), (0, 0));
    assert_eq!(restored.finished.len(), 1);
    restored.finished.remove(0)
}

// --- The index ------------------------------------------------------------------------------

#[test]
fn a_list_begins_with_what_ended_last_and_goes_on_where_it_stopped() {
    let dir = Dir::new("list");
    let (mut tape, _) = Tape::open(&dir.0, 1 << 20);
    let recordings = Recordings::new(&dir.0);
    for id in 1..=9 {
        recordings.add(tape.play(id, id % 2, 3).1);
    }
    let all = recordings.list(&ALL);
    assert_eq!(ids(&all), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!((all.total, all.next), (9, None));
    let two = Wanted { limit: 2, ..ALL };
    let first = recordings.list(&two);
    assert_eq!(ids(&first), [9, 8]);
    // What ends in between moves nothing.
    recordings.add(tape.play(10, 0, 3).1);
    let from = first.next;
    let second = recordings.list(&Wanted { from, ..two });
    assert_eq!((ids(&second), second.total), (vec![7, 6], 10));
    let room = Some(RoomId(1));
    let odd = recordings.list(&Wanted { room, ..ALL });
    assert_eq!(ids(&odd), [9, 7, 5, 3, 1]);
    let page = recordings.list(&Wanted { room, ..two });
    let rest = Wanted {
        from: page.next,
        ..Wanted { room, ..ALL }
    };
    assert_eq!(ids(&recordings.list(&rest)), [5, 3, 1]);
    for (player, count) in [(PLAYERS[1], 10), (103, 0)] {
        let player = Some(PlayerId(player));
        let list = recordings.list(&Wanted { player, ..ALL });
        assert_eq!(list.entries.len(), count);
    }
    // A late result is no second match.
    let mut again = (*all.entries[3]).clone();
    again.results[0] = Some(101);
    recordings.add(again.clone());
    let list = recordings.list(&ALL);
    assert_eq!((list.total, &*list.entries[0]), (10, &again));
}

#[test]
fn a_start_knows_what_the_run_before_has_recorded() {
    let dir = Dir::new("start");
    let (mut tape, _) = Tape::open(&dir.0, 2000);
    let (a, entry_a) = tape.play(500, 1, 100);
    tape.next_segment();
    let (b, entry_b) = tape.play(20, 2, 3);
    let open = tape.begin(30, 3);
    drop(tape);
    let (mut tape, _) = Tape::open(&dir.0, 2000);
    let before = tape.journal.segment();
    let recordings = Recordings::new(&dir.0);
    tape.play(4, 4, 1);
    let recordings = Arc::new(recordings);
    recordings.catch_up(before).unwrap();
    // What ends meanwhile is newer than all that was there.
    recordings.add(tape.play(3, 1, 1).1);
    while !recordings.list(&ALL).is_complete {
        std::thread::sleep(Duration::from_millis(1));
    }
    let list = recordings.list(&ALL);
    assert_eq!(ids(&list), [3, 20, 500], "what ended last comes first");
    assert_eq!(*list.entries[2], entry_a);
    assert_eq!(*list.entries[1], entry_b);
    for of in [&a, &b] {
        let recording = recordings.read(of.id).unwrap();
        assert_eq!(content(&recording).log, of.frames);
    }
    let unknown = recordings.read(open.id).unwrap_err();
    assert!(matches!(unknown, ReadError::Unknown(_)), "it is not over");
}

// --- Extraction -----------------------------------------------------------------------------

#[test]
fn a_match_between_others_over_many_segments_comes_out_alone_and_whole() {
    let dir = Dir::new("between");
    let (mut tape, _) = Tape::open(&dir.0, 2000);
    let recordings = Recordings::new(&dir.0);
    let mut matches: Vec<_> = (1..=3).map(|id| tape.begin(id, id)).collect();
    for round in 0..50 {
        for of in &mut matches {
            tape.frame(of);
        }
        tape.skip(&mut matches[1], 2);
        if round % 10 == 9 {
            tape.next_segment();
        }
    }
    for of in &mut matches {
        recordings.add(tape.end(of));
    }
    assert!(tape.journal.segment() > 5);
    for of in &matches {
        let recording = recordings.read(of.id).unwrap();
        let found = content(&recording);
        assert_eq!((found.match_id, found.frames), (of.id, of.head));
        assert_eq!((found.started_unix, found.lack), (Some(STARTED), None));
        assert_eq!(found.created.seed, SEED);
        assert_eq!(found.results, [None, Some(102)]);
        assert!(found.log == of.frames, "other frames than were sealed");
        let secret = recording.windows(16).any(|bytes| bytes == SECRET);
        assert!(!secret, "the secret of the room is given away");
    }
}

#[test]
fn what_is_deleted_is_listed_no_more_and_told_to_who_asks_meanwhile() {
    let dir = Dir::new("gone");
    let (mut tape, _) = Tape::open(&dir.0, 1000);
    let recordings = Recordings::new(&dir.0);
    for id in 1..=6 {
        recordings.add(tape.play(id, id, 10).1);
        tape.next_segment();
    }
    let all = recordings.list(&ALL);
    assert_eq!(ids(&all), [6, 5, 4, 3, 2, 1]);
    tape.journal.keep_from(all.entries[2].segments.0);
    let (first, third) = (dir.segment(1), dir.segment(3));
    tape.fill_until(|_| !first.exists());
    let gone = recordings.read(MatchId(1)).unwrap_err();
    assert!(matches!(gone, ReadError::Gone(MatchId(1))), "{gone}");
    let unknown = recordings.read(MatchId(1)).unwrap_err();
    assert!(matches!(unknown, ReadError::Unknown(_)), "{unknown}");
    tape.fill_until(|_| !third.exists());
    assert_eq!(ids(&recordings.list(&ALL)), [6, 5, 4]);
    recordings.read(MatchId(4)).unwrap();
}

#[test]
fn a_torn_end_costs_nothing_of_a_match_that_is_over() {
    let dir = Dir::new("torn");
    let (mut tape, _) = Tape::open(&dir.0, 1 << 20);
    let recordings = Recordings::new(&dir.0);
    let (of, entry) = tape.play(1, 1, 20);
    recordings.add(entry);
    let end = fs::metadata(dir.segment(1)).unwrap().len();
    // More of another match is being written, and then a late result of this one.
    let mut other = tape.begin(2, 2);
    tape.frame(&mut other);
    let whole = fs::read(dir.segment(1)).unwrap();
    for cut in usize::try_from(end).unwrap()..=whole.len() {
        fs::write(dir.segment(1), &whole[..cut]).unwrap();
        let recording = recordings.read(of.id).unwrap();
        assert!(content(&recording).log == of.frames, "cut at {cut}");
    }
}

#[test]
fn a_late_result_that_is_torn_is_no_damage() {
    let dir = Dir::new("late");
    let (mut tape, _) = Tape::open(&dir.0, 1 << 20);
    let recordings = Recordings::new(&dir.0);
    let (mut of, entry) = tape.play(1, 1, 2);
    recordings.add(entry);
    let end = fs::metadata(dir.segment(1)).unwrap().len();
    let end = usize::try_from(end).unwrap();
    tape.late_result(&mut of);
    let whole = fs::read(dir.segment(1)).unwrap();
    assert!(whole.len() > end);
    for cut in end..whole.len() {
        fs::write(dir.segment(1), &whole[..cut]).unwrap();
        let found = content(&recordings.read(of.id).unwrap());
        assert_eq!(found.results, [None, Some(102)], "cut at {cut}");
    }
    fs::write(dir.segment(1), &whole).unwrap();
    let found = content(&recordings.read(of.id).unwrap());
    assert_eq!(found.results, [Some(102), Some(102)]);
}

#[test]
fn damage_is_told_with_its_place_and_no_half_match_is_given_away() {
    let dir = Dir::new("damage");
    let (mut tape, _) = Tape::open(&dir.0, 1 << 20);
    let recordings = Recordings::new(&dir.0);
    let (a, entry) = tape.play(1, 1, 20);
    recordings.add(entry);
    let (b, entry) = tape.play(2, 2, 20);
    recordings.add(entry);
    let mut bytes = fs::read(dir.segment(1)).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle] ^= 1;
    fs::write(dir.segment(1), &bytes).unwrap();
    let damaged = recordings.read(a.id).unwrap_err();
    assert!(matches!(damaged, ReadError::Damaged { .. }), "{damaged}");
    let text = damaged.to_string();
    assert!(text.contains("journal-0000000001.lkj at byte "), "{text}");
    let recording = recordings.read(b.id).unwrap();
    assert!(content(&recording).log == b.frames, "the other is whole");
}

// --- HTTP -----------------------------------------------------------------------------------

/// The HTTP side without a loop behind it.
struct Web(Option<Admin>);

impl Web {
    fn start(recordings: Option<Recordings>, token: Option<&str>) -> Web {
        let (handle, _) = control::channel(|| ());
        let mut config = AdminConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.recordings = recordings.map(Arc::new);
        if let Some(token) = token {
            config.guard = Guard::Token(AdminToken::new(token).unwrap());
        }
        let bounds = Bounds {
            max_players_per_room: 8,
        };
        let operations = Arc::new(Operations::new(handle, bounds, None));
        Web(Some(admin::start(config, operations).unwrap()))
    }

    /// Status, head and body of an answer.
    fn ask(&self, method: &str, target: &str, headers: &str) -> (u16, String, Vec<u8>) {
        let addr = self.0.as_ref().unwrap().local_addr();
        let mut stream = TcpStream::connect(addr).unwrap();
        let timeout = Some(Duration::from_secs(60));
        stream.set_read_timeout(timeout).unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {addr}\r\n{headers}");
        write!(stream, "{request}Connection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|at| at == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    fn json(&self, target: &str, expected: u16) -> Value {
        let (status, _, body) = self.ask("GET", target, "");
        let text = String::from_utf8_lossy(&body);
        assert_eq!(status, expected, "{target}: {text}");
        serde_json::from_slice(&body).unwrap()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.0.take().unwrap().stop();
    }
}

#[test]
fn the_api_lists_recordings_and_gives_them_away() {
    let dir = Dir::new("api");
    let (mut tape, _) = Tape::open(&dir.0, 1 << 20);
    let recordings = Recordings::new(&dir.0);
    let big = u64::MAX - 1;
    recordings.add(tape.play(5, 1, 3).1);
    let (of, entry) = tape.play(big, 2, 30);
    recordings.add(entry);
    let web = Web::start(Some(recordings), None);
    let list = web.json("/api/recordings", 200);
    assert_eq!((&list["total"], &list["next"]), (&2.into(), &Value::Null));
    let shown = &list["recordings"][0];
    assert_eq!(shown["match"], big.to_string());
    assert_eq!((&shown["room"], &shown["hz"]), (&"2".into(), &30.into()));
    assert_eq!(shown["frames"], 30);
    assert_eq!(shown["started"], STARTED);
    assert_eq!(shown["over"], "results");
    assert_eq!(shown["seats"][1]["player"], "102");
    assert_eq!(shown["seats"][1]["result"], "102");
    assert_eq!(shown["seats"][0]["result"], Value::Null);
    assert_eq!(shown.get("damaged"), None);
    let one = web.json("/api/recordings?limit=1", 200);
    let next = one["next"].as_str().unwrap();
    let two = web.json(&format!("/api/recordings?limit=1&from={next}"), 200);
    assert_eq!(two["recordings"][0]["match"], "5");
    let room = web.json("/api/recordings?room=1", 200);
    assert_eq!(room["recordings"].as_array().unwrap().len(), 1);
    let bad = web.json("/api/recordings?limit=0", 400);
    assert_eq!(bad["error"]["field"], "limit");

    let target = format!("/api/recordings/{big}");
    let (status, head, body) = web.ask("GET", &target, "");
    assert_eq!(status, 200, "{head}");
    assert!(content(&body).log == of.frames);
    let head = head.to_ascii_lowercase();
    for header in [
        "content-type: application/octet-stream".to_owned(),
        format!("content-length: {}", body.len()),
        format!("content-disposition: attachment; filename=\"{big}.lkr\""),
    ] {
        assert!(head.contains(&header), "{header}: {head}");
    }
    let (status, head, nothing) = web.ask("HEAD", &target, "");
    assert_eq!((status, nothing.len()), (200, 0));
    let length = format!("content-length: {}", body.len());
    assert!(head.to_ascii_lowercase().contains(&length), "{head}");
    web.json("/api/recordings/6", 404);
    web.json("/api/recordings/x", 400);
    fs::remove_file(dir.segment(1)).unwrap();
    let gone = web.json(&target, 410);
    let reason = gone["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("deleted"), "{reason}");
    assert_eq!(web.json("/api/recordings", 200)["total"], 0);
}

#[test]
fn without_a_data_directory_the_remedy_is_told() {
    let web = Web::start(None, None);
    for target in ["/api/recordings", "/api/recordings/1"] {
        let error = web.json(target, 404);
        let reason = error["error"]["reason"].as_str().unwrap();
        assert!(reason.contains("--data-dir"), "{reason}");
    }
}

#[test]
fn recordings_are_for_who_has_the_admin_token() {
    let dir = Dir::new("token");
    let (mut tape, _) = Tape::open(&dir.0, 1 << 20);
    let recordings = Recordings::new(&dir.0);
    recordings.add(tape.play(5, 1, 3).1);
    let token = "0123456789abcdef";
    let web = Web::start(Some(recordings), Some(token));
    let right = format!("Authorization: Bearer {token}\r\n");
    for target in ["/api/recordings", "/api/recordings/5"] {
        for (headers, expected) in [("", 401), (&right[..], 200)] {
            assert_eq!(web.ask("GET", target, headers).0, expected, "{target}");
        }
    }
}
