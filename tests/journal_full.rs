//! The journal on a disk that is full, and has room again. The limit on the size of a file stands
//! in for it; it is the whole process's, so this is the only test of its program.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::id::{MatchId, PlayerId, RoomId};
use lockstep_server::io::journal::{Fsync, Journal, Missing, Options, Refused};
use lockstep_server::journal::record::{Batch, Created, Pen, Record, Resumed};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const ID: MatchId = MatchId(1);

fn limit_file_size(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let current = bytes.or(maximum);
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
}

fn created() -> Record<'static> {
    Record::Created(Box::new(Created {
        room: RoomId(1),
        created_unix_us: 1,
        seed: 1,
        hz: 30,
        broadcast_every: 3,
        max_frames: 1_000_000,
        ready_timeout: Duration::from_secs(20),
        room_timeout: Duration::from_secs(300),
        reconnect_grace: Duration::from_secs(60),
        secret: Some(RoomSecret::from_bytes([7; 16])),
        members: vec![PlayerId(1), PlayerId(2)],
        input_bytes_max: 256,
        watchers_max: 0,
        watch_delay: 0,
    }))
}

/// Waits until the journal can be written again.
fn back(journal: &mut Journal) -> Missing {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(Instant::now() < patience, "it does not come back");
        if let Some(missing) = journal.take_back() {
            return missing;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_refuses_without_a_gap_and_is_written_again_once_it_has_room() {
    // What is over the limit raises a signal, which ends a process unless it is caught.
    signal_hook::flag::register(
        signal_hook::consts::SIGXFSZ,
        Arc::new(AtomicBool::new(false)),
    )
    .unwrap();
    let dir = std::env::temp_dir().join(format!("lockstep-journal-full-{}", std::process::id()));
    let options = Options {
        dir: dir.clone(),
        fsync: Fsync::Interval(Duration::from_millis(1)),
        segment_bytes: 1 << 30,
        segment_age: Duration::from_secs(3600),
        keep_bytes: 1 << 40,
        keep_age: Duration::from_secs(3600),
    };
    let (mut journal, _) = Journal::open(options.clone(), || ()).unwrap();
    let mut batch = Batch::new(journal.salt());
    let mut pen = Pen::new(ID);
    pen.write(&created(), &mut batch);
    pen.write(&Record::Started { unix_seconds: 5 }, &mut batch);
    journal.append(batch.bytes()).unwrap();

    limit_file_size(Some(5000));
    let mut head = 0;
    let mut written = pen;
    loop {
        // Many records at once, so that the last write is torn within a batch.
        batch.clear();
        for _ in 0..10 {
            head += 1;
            pen.write(&Record::Head(head), &mut batch);
        }
        if journal.append(batch.bytes()) == Err(Refused) {
            break;
        }
        written = pen;
    }
    let whole = head - 10;
    let trouble = journal.health().trouble.expect("it says what is wrong");
    assert!(trouble.down && !trouble.why.is_empty());
    assert_eq!(
        journal.append(batch.bytes()),
        Err(Refused),
        "no gap comes to be"
    );

    // It tries again, and as nothing has changed, fails again.
    limit_file_size(Some(100));
    assert_eq!(back(&mut journal), Missing::Refused);
    assert_eq!(journal.append(batch.bytes()), Err(Refused));
    let still = journal.health().trouble.expect("it is not better");
    assert_eq!((still.down, still.since), (true, trouble.since));

    limit_file_size(None);
    assert_eq!(back(&mut journal), Missing::Refused);
    let resumed = Record::Resumed(Resumed {
        started_unix: Some(5),
        head: whole,
        results: Vec::new(),
        history: 0,
    });
    batch.clear();
    written.write(&resumed, &mut batch);
    written.write(&Record::Head(head), &mut batch);
    journal.append(batch.bytes()).unwrap();
    assert_eq!(journal.health().trouble, None);
    assert_eq!(journal.take_back(), None);
    drop(journal);

    let (_, restored) = Journal::open(options, || ()).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(restored.rooms.len(), 1, "{:?}", restored.lost);
    let room = &restored.rooms[0];
    assert_eq!((room.head, room.next_seq), (head, written.next()));
    assert_eq!(restored.damage, [], "what was torn has been cut off");
}
