//! What the journal costs: a record on its way in, a turn's write, and the restore of a crowd.
//!
//! `cargo bench --bench journal` prints a table. The frames are those of a room of four of whom two
//! press in each frame.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::config::{Config, Secrets};
use lockstep_server::engine::id::{MatchId, PlayerId, RoomId, Seat};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::wire::frame::{self, Command};
use lockstep_server::io::journal::{Fsync, Journal, Options};
use lockstep_server::journal::record::{
    Batch, Created, FileHeader, FrameBytes, Pen, Record, encode,
};
use lockstep_server::journal::restore::Restore;

const ROOMS: u64 = 1000;
const FRAMES: u32 = 5000;
const SECRETS: Secrets = Secrets {
    hash_key: (1, 2),
    clock_key: (3, 4),
    pass_key: [5; 32],
    first_match: 5,
};
/// Records of one turn: those of 500 rooms at 30 frames a second and 480 turns.
const TURN: u64 = 32;

fn main() {
    divan::main();
}

fn frame_bytes(id: u32) -> Vec<u8> {
    let mut inputs = Vec::new();
    for seat in 0..2 {
        let command = Command {
            sid: 7,
            x: 123_456,
            y: -5,
        };
        let player = PlayerId(100_000 + seat as u64);
        frame::encode_input(&mut inputs, player, Seat::from_index(seat), command, &[]);
    }
    let mut bytes = Vec::new();
    frame::encode_frame(&mut bytes, id, &inputs);
    bytes
}

#[divan::bench]
fn encode_a_frame(bencher: Bencher) {
    let bytes = frame_bytes(1000);
    let frame = Record::Frame(FrameBytes::new(&bytes).expect("a frame"));
    let mut out = Vec::with_capacity(1 << 20);
    bencher
        .counter(ItemsCount::new(TURN))
        .counter(BytesCount::new(TURN * (24 + bytes.len() as u64)))
        .bench_local(|| {
            out.clear();
            for id in 0..TURN {
                encode(7, MatchId(id), 9, divan::black_box(&frame), &mut out);
            }
        });
}

#[divan::bench]
fn append_a_turn(bencher: Bencher) {
    let dir = std::env::temp_dir().join(format!("lockstep-journal-bench-{}", std::process::id()));
    let options = Options {
        dir: dir.clone(),
        fsync: Fsync::Interval(Duration::from_millis(200)),
        segment_bytes: 64 << 20,
        segment_age: Duration::from_secs(3600),
        keep_bytes: 0,
        keep_age: Duration::from_secs(3600),
    };
    let (mut journal, _) = Journal::open(options, || ()).expect("a temporary directory");
    journal.keep_from(u64::MAX);
    let bytes = frame_bytes(1000);
    let frame = Record::Frame(FrameBytes::new(&bytes).expect("a frame"));
    let mut pens: Vec<_> = (0..TURN).map(|id| Pen::new(MatchId(id))).collect();
    let mut batch = Batch::new(journal.salt());
    bencher.counter(ItemsCount::new(TURN)).bench_local(|| {
        batch.clear();
        for pen in &mut pens {
            pen.write(&frame, &mut batch);
        }
        journal.append(batch.bytes()).expect("a disk with room")
    });
    drop(journal);
    let _ = std::fs::remove_dir_all(&dir);
}

/// 1,000 rooms that have played 5,000 frames, in segments of 64 MiB.
fn crowd() -> Vec<Vec<u8>> {
    let mut batch = Batch::new(0);
    let mut segments = Vec::new();
    let mut pens: Vec<_> = (0..ROOMS)
        .map(|id| Pen::new(MatchId(id.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
        .collect();
    for (room, pen) in (1..).zip(&mut pens) {
        let created = Created {
            room: RoomId(room),
            created_unix_us: 1,
            seed: 1,
            hz: 30,
            broadcast_every: 3,
            max_frames: 5500,
            ready_timeout: Duration::from_secs(20),
            room_timeout: Duration::from_secs(300),
            reconnect_grace: Duration::from_secs(60),
            secret: Some(RoomSecret::from_bytes([7; 16])),
            members: (1..=4).map(PlayerId).collect(),
            input_bytes_max: 256,
            watchers_max: 0,
            watch_delay: 0,
        };
        pen.write(&Record::Created(Box::new(created)), &mut batch);
        pen.write(&Record::Started { unix_seconds: 1 }, &mut batch);
    }
    for id in 0..FRAMES {
        let bytes = frame_bytes(id);
        let frame = Record::Frame(FrameBytes::new(&bytes).expect("a frame"));
        for pen in &mut pens {
            pen.write(&frame, &mut batch);
        }
        if batch.bytes().len() > 64 << 20 || id == FRAMES - 1 {
            let header = FileHeader {
                number: segments.len() as u64 + 1,
                created_unix_us: 1,
                salt: 0,
                has_marks: false,
            };
            let mut segment = Vec::new();
            header.encode(&mut segment);
            segment.extend_from_slice(batch.bytes());
            segments.push(segment);
            batch.clear();
        }
    }
    segments
}

/// As a start does it, from files that the system has in its memory, up to the first turn.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn restore_a_crowd(bencher: Bencher) {
    let dir = std::env::temp_dir().join(format!("lockstep-journal-crowd-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    let mut paths = Vec::new();
    for (number, segment) in crowd().into_iter().enumerate() {
        let path = dir.join(number.to_string());
        std::fs::write(&path, segment).expect("a disk with room");
        paths.push(path);
    }
    let records = ROOMS * u64::from(FRAMES);
    let mut bytes = Vec::new();
    bencher.counter(ItemsCount::new(records)).bench_local(|| {
        let mut restore = Restore::default();
        for (number, path) in (1..).zip(&paths) {
            bytes.clear();
            let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
            read.expect("it was written");
            restore.read(number, &bytes);
        }
        let mut server = Server::new(Config::default(), SECRETS, 1_000_000);
        server.begin_records(7);
        for room in restore.finish().rooms {
            let restored = server.restore_room(Time::ZERO, room);
            restored.expect("each has a number of its own");
        }
        assert_eq!(server.counters().rooms_restored, ROOMS);
        let batch = server.poll_records(Time::ZERO, usize::MAX);
        assert!(!batch.is_empty());
        server
    });
    let _ = std::fs::remove_dir_all(&dir);
}
