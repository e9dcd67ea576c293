//! Directories with journals in them, written as a server writes them, and what was played in
//! their matches.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::id::{MatchId, PlayerId, RoomId, Seat};
use lockstep_server::engine::view::OverReason;
use lockstep_server::engine::wire::frame::{self, Command, Frame, decode_frames};
use lockstep_server::io::journal::{Fsync, Journal, Options};
use lockstep_server::io::recordings::Entry;
use lockstep_server::journal::record::{Batch, Created, FrameBytes, Pen, Record, segment_name};
use lockstep_server::journal::restore::{Restore, Restored};

pub(crate) const PLAYERS: [u64; 2] = [101, 102];
pub(crate) const SEED: i32 = -7;
pub(crate) const CREATED: i64 = 1_700_000_000;
pub(crate) const STARTED: i64 = CREATED + 5;
pub(crate) const SECRET: [u8; 16] = [7; 16];

/// A directory of its own for each test, gone with it.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Dir {
        let name = format!("lockstep-tape-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn segment(&self, number: u64) -> PathBuf {
        self.0.join(segment_name(number))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A journal in a directory, and the pens of the matches in it.
pub(crate) struct Tape {
    pub(crate) journal: Journal,
    woken: Receiver<()>,
}

/// A match that is written.
pub(crate) struct Match {
    pub(crate) id: MatchId,
    pub(crate) room: u64,
    pub(crate) first_segment: u64,
    pen: Pen,
    /// What was sealed, as the body of one S2C_FrameMsg.
    pub(crate) frames: Vec<u8>,
    pub(crate) head: u32,
}

impl Tape {
    /// A journal whose segments are full after so many bytes.
    pub(crate) fn open(dir: &Path, segment_bytes: u64) -> (Tape, Restored) {
        let options = Options {
            dir: dir.to_owned(),
            fsync: Fsync::Never,
            segment_bytes,
            segment_age: Duration::from_secs(3600),
            keep_bytes: 0,
            keep_age: Duration::from_secs(3600),
        };
        let (wake, woken) = mpsc::channel();
        let woke = move || {
            let _ = wake.send(());
        };
        let (journal, restored) = Journal::open(options, woke).unwrap();
        (Tape { journal, woken }, restored)
    }

    /// Lets others play until the journal has done something by itself.
    pub(crate) fn fill_until(&mut self, mut done: impl FnMut(&Journal) -> bool) {
        let patience = Instant::now() + Duration::from_secs(30);
        let mut filler = self.begin(u64::MAX, u64::MAX);
        while !done(&self.journal) {
            assert!(Instant::now() < patience, "nothing comes");
            self.frame(&mut filler);
            // Its thread makes and deletes segments meanwhile.
            let _ = self.woken.recv_timeout(Duration::from_millis(1));
        }
    }

    /// Lets others fill the segment, and goes on in the next one.
    pub(crate) fn next_segment(&mut self) {
        let segment = self.journal.segment();
        self.fill_until(|journal| journal.segment() > segment);
    }

    fn write(&mut self, of: &mut Match, records: &[Record<'_>]) {
        let mut batch = Batch::new(self.journal.salt());
        for record in records {
            of.pen.write(record, &mut batch);
        }
        self.journal.append(batch.bytes()).unwrap();
    }

    /// A match in play.
    pub(crate) fn begin(&mut self, id: u64, room: u64) -> Match {
        let mut of = Match {
            id: MatchId(id),
            room,
            first_segment: 0,
            pen: Pen::new(MatchId(id)),
            frames: Vec::new(),
            head: 0,
        };
        let created = Record::Created(Box::new(created(room)));
        self.write(&mut of, &[created]);
        of.first_segment = self.journal.segment();
        let started = Record::Started {
            unix_seconds: STARTED,
        };
        self.write(&mut of, &[started]);
        of
    }

    /// Seals a frame in which both have pressed something.
    pub(crate) fn frame(&mut self, of: &mut Match) {
        let bytes = frame_of(of.head);
        self.write(of, &[Record::Frame(FrameBytes::new(&bytes).unwrap())]);
        of.frames.extend(bytes);
        of.head += 1;
    }

    /// Passes over frames without input.
    pub(crate) fn skip(&mut self, of: &mut Match, frames: u32) {
        of.head += frames;
        let head = Record::Head(of.head);
        self.write(of, &[head]);
    }

    /// Ends the match and tells what a list knows of it.
    pub(crate) fn end(&mut self, of: &mut Match) -> Entry {
        let result = Record::Result {
            seat: Seat::from_index(1),
            winner: 102,
        };
        let over = Record::Over {
            reason: OverReason::Results,
            frames: of.head,
        };
        self.write(of, &[result, over]);
        Entry {
            match_id: of.id,
            room: RoomId(of.room),
            created_unix: CREATED,
            started_unix: Some(STARTED),
            hz: 30,
            frames: of.head,
            reason: OverReason::Results,
            players: PLAYERS.map(PlayerId).to_vec(),
            results: vec![None, Some(102)],
            segments: (of.first_segment, self.journal.segment()),
            lack: None,
        }
    }

    /// The player at the first seat has lost, too, and says so late.
    pub(crate) fn late_result(&mut self, of: &mut Match) {
        let result = Record::Result {
            seat: Seat::from_index(0),
            winner: 102,
        };
        self.write(of, &[result]);
    }

    /// A whole match of so many frames with input.
    pub(crate) fn play(&mut self, id: u64, room: u64, frames: u32) -> (Match, Entry) {
        let mut of = self.begin(id, room);
        for _ in 0..frames {
            self.frame(&mut of);
        }
        let entry = self.end(&mut of);
        (of, entry)
    }
}

fn created(room: u64) -> Created {
    Created {
        room: RoomId(room),
        created_unix_us: CREATED * 1_000_000,
        seed: SEED,
        hz: 30,
        broadcast_every: 3,
        max_frames: 5500,
        input_bytes_max: 256,
        watchers_max: 0,
        watch_delay: 0,
        ready_timeout: Duration::from_secs(20),
        room_timeout: Duration::from_secs(300),
        reconnect_grace: Duration::from_secs(60),
        secret: Some(RoomSecret::from_bytes(SECRET)),
        members: PLAYERS.map(PlayerId).to_vec(),
    }
}

/// The frame of this number, as the log of a room has it.
pub(crate) fn frame_of(id: u32) -> Vec<u8> {
    let mut inputs = Vec::new();
    for (index, player) in PLAYERS.iter().enumerate() {
        let x = i32::try_from(id).unwrap() - 3;
        let command = Command {
            sid: 1,
            x,
            y: i32::try_from(index).unwrap(),
        };
        let seat = Seat::from_index(index);
        let data: &[u8] = if player % 2 == 1 { b"\0\xFF" } else { &[] };
        frame::encode_input(&mut inputs, PlayerId(*player), seat, command, data);
    }
    let mut bytes = Vec::new();
    frame::encode_frame(&mut bytes, id, &inputs);
    bytes
}

/// The recording of one match: 9 frames, of which those from 3 to 5 are empty, and so is the last.
pub(crate) fn recording(name: &str) -> (Vec<u8>, Vec<Frame>) {
    let dir = Dir::new(name);
    let (mut tape, _) = Tape::open(&dir.0, 1 << 20);
    let mut of = tape.begin(77, 7);
    for _ in 0..3 {
        tape.frame(&mut of);
    }
    tape.skip(&mut of, 3);
    tape.frame(&mut of);
    tape.frame(&mut of);
    tape.skip(&mut of, 1);
    tape.end(&mut of);
    let bytes = fs::read(dir.segment(1)).unwrap();
    let mut restore = Restore::with_finished(None);
    restore.read(1, &bytes);
    let recording = restore.finish().finished[0].recording();
    (recording, every_frame(&of.frames, of.head))
}

/// All frames of a match, those without input among them.
pub(crate) fn every_frame(log: &[u8], frames: u32) -> Vec<Frame> {
    let mut with_input = decode_frames(log).unwrap().into_iter().peekable();
    (0..frames)
        .map(|id| match with_input.next_if(|frame| frame.id == id) {
            Some(frame) => frame,
            None => Frame {
                id,
                inputs: Vec::new(),
            },
        })
        .collect()
}
