//! The journal: what is read of it when it is whole, torn, damaged or hostile, and its files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::id::{MatchId, PlayerId, RoomId, Seat};
use lockstep_server::engine::view::OverReason;
use lockstep_server::engine::wire::frame;
use lockstep_server::io::journal::{Fsync, Journal, OpenError, Options};
use lockstep_server::journal::record::{
    self, Batch, Created, FIRST_RECORD, FileHeader, FrameBytes, Pen, Place, Record, Resumed,
    segment_name,
};
use lockstep_server::journal::restore::{Restore, Restored, Why};
use lockstep_server::journal::scan::{Fault, Found, Scan};
use proptest::prelude::*;

const SALT: u32 = 0xDEAD_BEEF;
const A: MatchId = MatchId(11);
const B: MatchId = MatchId(22);

// --- Making journals ------------------------------------------------------------------------

fn created(room: u64) -> Record<'static> {
    Record::Created(Box::new(Created {
        room: RoomId(room),
        created_unix_us: 1_700_000_000_000_000,
        seed: -7,
        hz: 30,
        broadcast_every: 3,
        max_frames: 5500,
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

const STARTED: Record<'static> = Record::Started {
    unix_seconds: 1_700_000_000,
};

fn over(frames: u32) -> Record<'static> {
    Record::Over {
        reason: OverReason::Results,
        frames,
    }
}

fn resumed(head: u32) -> Record<'static> {
    Record::Resumed(Resumed {
        started_unix: Some(1_700_000_000),
        head,
        results: vec![(seat(1), 9)],
        history: 0,
    })
}

fn seat(index: usize) -> Seat {
    Seat::from_index(index)
}

fn frame_bytes(id: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload = vec![u8::try_from(id % 100).unwrap(); 20];
    let mut inputs = vec![0x12, 20];
    inputs.extend(payload);
    frame::encode_frame(&mut bytes, id, &inputs);
    bytes
}

/// A segment in the making.
struct Paper {
    bytes: Vec<u8>,
    batch: Batch,
}

impl Paper {
    fn new(number: u64, has_marks: bool) -> Paper {
        let mut bytes = Vec::new();
        FileHeader {
            number,
            created_unix_us: 5,
            salt: SALT,
            has_marks,
        }
        .encode(&mut bytes);
        let batch = Batch::new(SALT);
        Paper { bytes, batch }
    }

    /// Writes a record and returns where it begins.
    fn write(&mut self, pen: &mut Pen, record: &Record<'_>) -> usize {
        let at = self.bytes.len();
        self.batch.clear();
        pen.write(record, &mut self.batch);
        self.bytes.extend_from_slice(self.batch.bytes());
        at
    }

    fn frame(&mut self, pen: &mut Pen, id: u32) -> usize {
        let bytes = frame_bytes(id);
        self.write(pen, &Record::Frame(FrameBytes::new(&bytes).unwrap()))
    }

    fn mark(&mut self, segment: u64, offset: usize) {
        let offset = offset as u64;
        let mark = Record::Mark(Place { segment, offset });
        record::encode(SALT, MatchId(0), 0, &mark, &mut self.bytes);
    }
}

fn begin(paper: &mut Paper, id: MatchId) -> Pen {
    let mut pen = Pen::new(id);
    paper.write(&mut pen, &created(id.0));
    paper.write(&mut pen, &STARTED);
    pen
}

fn read(segments: &[&[u8]]) -> Restored {
    let mut restore = Restore::default();
    for (number, bytes) in (1..).zip(segments) {
        restore.read(number, bytes);
    }
    restore.finish()
}

fn records(bytes: &[u8]) -> Vec<(MatchId, u32)> {
    Scan::new(1, bytes)
        .filter_map(|found| match found {
            Found::Record(entry) => Some((entry.match_id, entry.seq)),
            Found::Damage(_) => None,
        })
        .collect()
}

/// Two matches in play, and where each record begins, the end of the last among them.
fn small_journal() -> (Vec<u8>, Vec<usize>) {
    let mut paper = Paper::new(1, true);
    let mut at = Vec::new();
    let (mut a, mut b) = (Pen::new(A), Pen::new(B));
    for pen in [&mut a, &mut b] {
        at.push(paper.write(pen, &created(1)));
        at.push(paper.write(pen, &STARTED));
    }
    for id in 0..3 {
        at.push(paper.frame(&mut a, id));
        at.push(paper.frame(&mut b, id));
    }
    at.push(paper.write(&mut a, &Record::Head(6)));
    at.push(paper.write(&mut b, &Record::Head(6)));
    at.push(paper.bytes.len());
    (paper.bytes, at)
}

// --- Restoring ------------------------------------------------------------------------------

#[test]
fn a_running_match_is_restored_as_it_was() {
    let mut paper = Paper::new(1, true);
    let mut pen = Pen::new(A);
    paper.write(&mut pen, &created(1));
    let joined = Record::Joined {
        seat: seat(1),
        unix_us: 6,
    };
    paper.write(&mut pen, &joined);
    paper.write(&mut pen, &STARTED);
    let mut frames = Vec::new();
    for id in [0, 4, 5] {
        paper.frame(&mut pen, id);
        frames.extend(frame_bytes(id));
    }
    let result = Record::Result {
        seat: seat(0),
        winner: 9,
    };
    paper.write(&mut pen, &result);
    paper.write(&mut pen, &Record::Head(8));
    let restored = read(&[&paper.bytes]);
    let [room] = &restored.rooms[..] else {
        panic!("{restored:?}");
    };
    let Record::Created(made) = created(1) else {
        unreachable!();
    };
    assert_eq!((room.match_id, &room.created), (A, &*made));
    assert_eq!(room.created.rules(A).unwrap().members.len(), 2);
    assert_eq!((room.started_unix, room.head), (Some(1_700_000_000), 8));
    assert_eq!(room.frames, frames);
    assert_eq!(
        (&room.joined, &room.results),
        (&vec![false, true], &vec![Some(9), None])
    );
    assert_eq!((room.next_seq, room.first_segment, room.cut), (9, 1, None));
    assert_eq!(restored.end.offset, paper.bytes.len() as u64);
    assert_eq!((restored.torn_bytes, restored.damage_count), (0, 0));
}

#[test]
fn a_match_goes_on_over_segments_and_ends() {
    let mut one = Paper::new(1, true);
    let mut pen = begin(&mut one, A);
    let mut two = Paper::new(2, true);
    two.frame(&mut pen, 0);
    let open = read(&[&one.bytes, &two.bytes]);
    assert_eq!((open.rooms[0].head, open.rooms[0].first_segment), (1, 1));
    two.write(&mut pen, &over(3));
    let late = Record::Result {
        seat: seat(1),
        winner: 4,
    };
    two.write(&mut pen, &late);
    let restored = read(&[&one.bytes, &two.bytes]);
    assert!(restored.rooms.is_empty() && restored.lost.is_empty());
    let done = &restored.finished[0];
    assert_eq!(
        (done.reason, done.frames, done.segments),
        (OverReason::Results, 3, (1, 2))
    );
    assert_eq!((done.lack, &done.results[..]), (None, &[None, Some(4)][..]));
    assert!(done.log.is_empty(), "its frames are not kept");
}

#[test]
fn what_was_written_again_replaces_what_was_torn() {
    let mut paper = Paper::new(1, true);
    let mut pen = begin(&mut paper, A);
    paper.frame(&mut pen, 0);
    let mut again = pen;
    // A batch of which the server believes that nothing was written.
    paper.frame(&mut pen, 2);
    paper.write(&mut pen, &Record::Head(9));
    paper.write(&mut again, &resumed(1));
    paper.frame(&mut again, 3);
    let restored = read(&[&paper.bytes]);
    let room = &restored.rooms[0];
    assert_eq!((room.head, room.next_seq), (4, again.next()));
    assert_eq!(room.frames, [frame_bytes(0), frame_bytes(3)].concat());
    assert_eq!(room.results, [None, Some(9)]);
    // The same with the whole match.
    let mut pen = begin(&mut paper, A);
    paper.frame(&mut pen, 7);
    let restored = read(&[&paper.bytes]);
    assert_eq!(restored.rooms[0].frames, frame_bytes(7));
}

#[test]
fn a_gap_stops_its_match_alone_and_is_healed_by_what_goes_on_before_it() {
    let mut paper = Paper::new(1, true);
    let mut a = begin(&mut paper, A);
    let mut b = begin(&mut paper, B);
    let mut skips = Pen::at(A, a.next() + 1);
    let gap = paper.frame(&mut skips, 1);
    paper.frame(&mut b, 0);
    paper.frame(&mut skips, 2);
    let restored = read(&[&paper.bytes]);
    assert_eq!(restored.rooms.len(), 1);
    assert_eq!((restored.rooms[0].match_id, restored.rooms[0].head), (B, 1));
    let lost = &restored.lost[0];
    assert_eq!((lost.match_id, lost.lack.why), (A, Why::Missing(a.next())));
    assert_eq!(lost.lack.place.offset, gap as u64);
    let mut healed = Paper {
        bytes: paper.bytes.clone(),
        batch: paper.batch,
    };
    healed.write(&mut a, &resumed(0));
    healed.frame(&mut a, 0);
    assert_eq!(read(&[&healed.bytes]).rooms.len(), 2);
    // A match that is known to have ended needs not be restored.
    let mut ends = Paper::new(2, true);
    ends.write(&mut skips, &over(3));
    let restored = read(&[&paper.bytes, &ends.bytes]);
    assert!(restored.lost.is_empty());
    assert!(restored.finished[0].lack.is_some());
}

#[test]
fn a_match_that_began_in_a_segment_that_is_gone_is_over() {
    let mut gone = Paper::new(1, true);
    let mut pen = begin(&mut gone, A);
    let mut two = Paper::new(2, true);
    two.write(&mut pen, &over(3));
    let mut three = Paper::new(3, true);
    let late = Record::Result {
        seat: seat(1),
        winner: 4,
    };
    three.write(&mut pen, &late);
    for left in [&[&two.bytes[..], &three.bytes][..], &[&three.bytes]] {
        let restored = read(left);
        assert_eq!((restored.rooms.len(), &restored.lost[..]), (0, &[][..]));
        assert!(restored.finished.is_empty());
    }
}

#[test]
fn a_result_that_a_full_disk_delayed_leaves_its_recording_whole() {
    let mut paper = Paper::new(1, true);
    let mut pen = begin(&mut paper, A);
    paper.frame(&mut pen, 0);
    let mut again = pen;
    paper.write(&mut pen, &over(3));
    let ended = paper.bytes.len();
    paper.write(&mut pen, &resumed(3));
    let restored = read(&[&paper.bytes]);
    let done = &restored.finished[0];
    assert_eq!((done.lack, done.frames), (None, 3));
    assert_eq!(done.results, [None, Some(9)]);
    // What was torn may hold the end itself, which is written again; or not.
    paper.bytes.truncate(ended);
    paper.write(&mut again, &resumed(1));
    let restored = read(&[&paper.bytes]);
    assert!(restored.rooms.is_empty() && restored.finished[0].lack.is_some());
    paper.frame(&mut again, 2);
    paper.write(&mut again, &over(4));
    let restored = read(&[&paper.bytes]);
    let done = &restored.finished[0];
    assert_eq!((done.lack, done.frames), (None, 4));
}

#[test]
fn what_the_power_took_of_a_segment_before_the_last_is_the_end_of_its_match() {
    let mut one = Paper::new(1, true);
    let mut pen = begin(&mut one, A);
    let first = one.frame(&mut pen, 0);
    one.mark(1, first);
    let whole = one.bytes.len();
    one.frame(&mut pen, 1);
    one.bytes.truncate(whole);
    let mut two = Paper::new(2, true);
    two.frame(&mut pen, 2);
    let restored = read(&[&one.bytes, &two.bytes]);
    assert_eq!(restored.lost, []);
    let room = &restored.rooms[0];
    assert_eq!((room.head, room.cut.is_some()), (1, true));
    // A later segment is synced only after this one: then something else has taken it.
    two.mark(2, FIRST_RECORD);
    let restored = read(&[&one.bytes, &two.bytes]);
    assert_eq!((restored.rooms.len(), restored.lost.len()), (0, 1));
}

#[test]
fn a_lost_beginning_of_what_is_written_anew_leaves_what_was_there() {
    let mut one = Paper::new(1, true);
    let mut pen = begin(&mut one, A);
    for id in 0..5 {
        one.frame(&mut pen, id);
    }
    let mut two = Paper::new(2, true);
    begin(&mut two, A);
    two.bytes[FIRST_RECORD + 30] ^= 1;
    let restored = read(&[&one.bytes, &two.bytes]);
    assert_eq!((restored.rooms[0].head, &restored.lost[..]), (5, &[][..]));
}

#[test]
fn records_that_cannot_follow_stop_their_match() {
    let far = Record::Head(5501);
    let high = Record::Result {
        seat: seat(2),
        winner: 1,
    };
    for senseless in [STARTED, Record::Head(0), far, high, over(0)] {
        let mut paper = Paper::new(1, true);
        let mut pen = begin(&mut paper, A);
        paper.frame(&mut pen, 0);
        let at = paper.write(&mut pen, &senseless);
        let restored = read(&[&paper.bytes]);
        assert!(restored.rooms.is_empty(), "{senseless:?}");
        let lack = restored.lost[0].lack;
        assert_eq!(
            (lack.why, lack.place.offset),
            (Why::Senseless(4), at as u64)
        );
    }
}

#[test]
fn a_recording_holds_the_match_and_no_secret() {
    let mut paper = Paper::new(1, true);
    let (mut a, mut b) = (begin(&mut paper, A), begin(&mut paper, B));
    for id in 0..4 {
        paper.frame(&mut a, id);
        paper.frame(&mut b, id);
    }
    paper.write(&mut a, &over(6));
    paper.write(&mut b, &over(6));
    let mut restore = Restore::with_finished(Some(B));
    restore.read(1, &paper.bytes);
    let restored = restore.finish();
    assert_eq!(restored.finished.len(), 1);
    let file = restored.finished[0].recording();
    assert!(!file.windows(16).any(|bytes| bytes == [7; 16]));
    let mut restore = Restore::with_finished(None);
    restore.read(0, &file);
    let again = restore.finish();
    let of = |restored: &Restored| {
        let done = &restored.finished[0];
        (
            done.match_id,
            done.frames,
            done.log.clone(),
            done.started_unix,
        )
    };
    assert_eq!(of(&again), of(&restored));
    // And a recording is nobody's way to make a room.
    let mut open = Paper::new(1, true);
    let Record::Created(mut made) = created(1) else {
        unreachable!();
    };
    made.secret = None;
    open.write(&mut Pen::new(A), &Record::Created(made));
    assert_eq!(read(&[&open.bytes]).lost[0].lack.why, Why::NoSecret);
}

// --- Damage ---------------------------------------------------------------------------------

#[test]
fn a_journal_cut_at_any_byte_keeps_all_whole_records_and_loses_no_match() {
    let (bytes, at) = small_journal();
    for cut in 0..bytes.len() {
        let whole = at.iter().skip(1).filter(|end| **end <= cut).count();
        let torn = &bytes[..cut];
        assert_eq!(records(torn).len(), whole, "cut at {cut}");
        let restored = read(&[torn]);
        let end = if whole == 0 { 0 } else { at[whole] };
        assert_eq!(restored.end.offset, end as u64, "cut at {cut}");
        assert!(
            restored.lost.is_empty() && restored.damage.is_empty(),
            "cut at {cut}"
        );
        assert_eq!(
            restored.rooms.len(),
            [0, 1, 1, 2][whole.min(3)],
            "cut at {cut}"
        );
    }
}

#[test]
fn each_flipped_bit_costs_one_record_and_is_told_with_its_place() {
    let (bytes, at) = small_journal();
    let all = records(&bytes);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found: Vec<_> = Scan::new(3, &damaged).collect();
        let damage: Vec<_> = found
            .iter()
            .filter_map(|found| match found {
                Found::Damage(damage) => Some(damage),
                Found::Record(_) => None,
            })
            .collect();
        assert_eq!(damage.len(), 1, "bit {bit}");
        let byte = bit / 8;
        if byte < FIRST_RECORD {
            assert_eq!(damage[0].fault, Fault::FileHeader, "bit {bit}");
            assert_eq!(records(&damaged), all, "bit {bit}");
            continue;
        }
        let hit = at.partition_point(|start| *start <= byte) - 1;
        let others = all.iter().enumerate().filter(|(index, _)| *index != hit);
        let expected: Vec<_> = others.map(|(_, record)| *record).collect();
        assert_eq!(records(&damaged), expected, "bit {bit}");
        let place = Place {
            segment: 3,
            offset: at[hit] as u64,
        };
        assert_eq!(damage[0].place, place, "bit {bit}");
        let is_body = byte >= at[hit] + record::RECORD_HEADER;
        let owner = damage[0].owner.map(|owner| (owner.match_id, owner.seq));
        assert_eq!(owner, is_body.then_some(all[hit]), "bit {bit}");
    }
}

/// Room restored, room lost, or neither, of the two matches.
fn fates(restored: &Restored) -> [(bool, bool); 2] {
    [A, B].map(|id| {
        (
            restored.rooms.iter().any(|room| room.match_id == id),
            restored.lost.iter().any(|lost| lost.match_id == id),
        )
    })
}

#[test]
fn damage_of_what_was_synced_stops_its_match_alone() {
    let (bytes, at) = small_journal();
    let mut next = Paper::new(2, true);
    next.mark(1, bytes.len());
    for (index, start) in at[..at.len() - 1].iter().enumerate() {
        let mut damaged = bytes.clone();
        damaged[start + record::RECORD_HEADER] ^= 1;
        let restored = read(&[&damaged, &next.bytes]);
        let owner = records(&bytes)[index].0;
        let expected = [A, B].map(|id| (id != owner, id == owner));
        assert_eq!(fates(&restored), expected, "record {index}");
        let lost = &restored.lost[0];
        assert_eq!(
            (lost.lack.place.segment, lost.lack.place.offset),
            (1, *start as u64)
        );
        let text = restored.damage[0].to_string();
        let expected = format!("journal-0000000001.lkj at byte {start}: the body");
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[test]
fn damage_without_an_owner_stops_the_matches_whose_end_it_may_be() {
    let (bytes, at) = small_journal();
    let mut next = Paper::new(2, true);
    next.mark(1, bytes.len());
    // The last record of B: nothing of A is behind it either, so both are suspected.
    let mut damaged = bytes.clone();
    damaged[at[at.len() - 2]] ^= 1;
    let restored = read(&[&damaged, &next.bytes]);
    assert_eq!(fates(&restored), [(false, true), (false, true)]);
    assert_eq!(restored.lost[0].lack.why, Why::Suspected);
    // One before: the record of B behind it is the one that B needs.
    let mut damaged = bytes.clone();
    damaged[at[at.len() - 3]] ^= 1;
    let restored = read(&[&damaged, &next.bytes]);
    assert_eq!(fates(&restored), [(false, true), (true, false)]);
}

#[test]
fn a_damaged_mark_costs_no_match() {
    let mut paper = Paper::new(1, true);
    begin(&mut paper, A);
    let at = paper.bytes.len();
    paper.mark(1, at);
    let end = paper.bytes.len();
    begin(&mut paper, B);
    paper.mark(1, end);
    paper.bytes[end - 1] ^= 1;
    let restored = read(&[&paper.bytes]);
    assert_eq!(fates(&restored), [(true, false), (true, false)]);
    assert_eq!(restored.damage[0].fault, Fault::Mark);
}

#[test]
fn a_hole_in_what_no_mark_covers_is_the_end_of_its_match() {
    let (mut bytes, at) = small_journal();
    bytes[at[4]..at[5]].fill(0);
    let restored = read(&[&bytes]);
    assert_eq!(fates(&restored), [(true, false), (true, false)]);
    let rooms = &restored.rooms;
    assert_eq!((rooms[0].head, rooms[0].next_seq), (0, 3));
    assert_eq!(rooms[0].cut.unwrap().offset, at[1] as u64);
    assert_eq!((rooms[1].head, rooms[1].cut), (6, None));
    // A mark that covers the hole says that it is damage.
    let mut marked = Paper::new(1, true);
    marked.bytes.clone_from(&bytes);
    marked.mark(1, at[5]);
    assert_eq!(
        fates(&read(&[&marked.bytes])),
        [(false, true), (true, false)]
    );
    // Where no marks are written, nothing excuses damage.
    let mut unmarked = Paper::new(1, false).bytes;
    unmarked.extend_from_slice(&bytes[FIRST_RECORD..]);
    assert_eq!(fates(&read(&[&unmarked])), [(false, true), (true, false)]);
}

#[test]
fn a_segment_that_nobody_can_read_is_no_torn_end() {
    let (bytes, _) = small_journal();
    let mut paper = Paper::new(2, true);
    let mut pen = Pen::at(A, 7);
    paper.frame(&mut pen, 6);
    paper.bytes[..FIRST_RECORD].fill(0);
    let restored = read(&[&bytes, &paper.bytes]);
    assert_eq!(fates(&restored), [(false, true), (false, true)]);
    assert_eq!(restored.damage[0].fault, Fault::FileHeaders);
    assert_eq!(restored.end.offset, paper.bytes.len() as u64);
    // One whose header was torn is.
    let restored = read(&[&bytes, &paper.bytes[..50]]);
    assert_eq!(fates(&restored), [(true, false), (true, false)]);
    assert_eq!((restored.end.segment, restored.torn_bytes), (1, 50));
}

#[test]
fn what_a_player_sends_is_never_taken_for_a_record() {
    // A frame that holds a whole record, in a file that ends within it.
    let mut forged = Batch::new(SALT);
    Pen::at(B, 3).write(&over(0), &mut forged);
    let mut bytes = Vec::new();
    let len = u8::try_from(forged.bytes().len()).unwrap();
    let inputs = [&[0x12, len][..], forged.bytes(), &[0x12, 0]].concat();
    frame::encode_frame(&mut bytes, 0, &inputs);
    let mut paper = Paper::new(1, true);
    let mut a = begin(&mut paper, A);
    begin(&mut paper, B);
    paper.write(&mut a, &Record::Frame(FrameBytes::new(&bytes).unwrap()));
    let torn = &paper.bytes[..paper.bytes.len() - 1];
    assert_eq!(fates(&read(&[torn])), [(true, false), (true, false)]);
    // Nor where the header before it is damaged: a player does not know the salt.
    let mut other = Paper::new(1, true);
    let mut a = begin(&mut other, A);
    begin(&mut other, B);
    let mut forged = Batch::new(0);
    Pen::at(B, 3).write(&over(0), &mut forged);
    let inputs = [&[0x12, len][..], forged.bytes(), &[0x12, 0]].concat();
    bytes.clear();
    frame::encode_frame(&mut bytes, 0, &inputs);
    let at = other.write(&mut a, &Record::Frame(FrameBytes::new(&bytes).unwrap()));
    other.bytes[at] ^= 1;
    assert_eq!(records(&other.bytes).len(), 4);
}

proptest! {
    #[test]
    fn whatever_a_file_holds_it_is_read_to_its_end(
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        with_header in any::<bool>(),
    ) {
        let mut bytes = if with_header { Paper::new(1, true).bytes } else { Vec::new() };
        bytes.extend(noise);
        read(&[&bytes]);
    }

    #[test]
    fn bodies_of_noise_with_true_checksums_are_read(
        bodies in proptest::collection::vec((1u8..10, proptest::collection::vec(any::<u8>(), 0..60)), 1..20),
    ) {
        let mut paper = Paper::new(1, true);
        begin(&mut paper, A);
        for (seq, (kind, body)) in (3u32..).zip(&bodies) {
            paper.bytes.extend(raw(*kind, seq, body));
        }
        let count = Scan::new(1, &paper.bytes).count();
        prop_assert_eq!(count, bodies.len() + 2);
        read(&[&paper.bytes]);
    }

    #[test]
    fn damage_never_changes_what_is_restored(
        hits in proptest::collection::vec((0usize..10_000, any::<u8>()), 1..6),
    ) {
        let (bytes, _) = small_journal();
        let mut next = Paper::new(2, true);
        next.mark(1, bytes.len());
        let whole = read(&[&bytes, &next.bytes]);
        let mut damaged = bytes.clone();
        for (at, value) in hits {
            let at = at % damaged.len();
            damaged[at] = value;
        }
        // What is restored at all is restored as it was.
        for room in read(&[&damaged, &next.bytes]).rooms {
            prop_assert!(whole.rooms.contains(&room));
        }
    }
}

/// A record of match A with any body.
fn raw(kind: u8, seq: u32, body: &[u8]) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        let mut hasher = crc32fast::Hasher::new_with_initial(SALT);
        hasher.update(bytes);
        hasher.finalize().to_le_bytes()
    };
    let len = u16::try_from(body.len()).unwrap();
    let mut record = vec![0xF5, kind];
    record.extend(len.to_le_bytes());
    record.extend(seq.to_le_bytes());
    record.extend(A.0.to_le_bytes());
    record.extend(crc(body));
    record.extend(crc(&record));
    record.extend(body);
    record
}

// --- Files ----------------------------------------------------------------------------------

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir =
            std::env::temp_dir().join(format!("lockstep-journal-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Dir(dir)
    }

    fn options(&self, fsync: Fsync) -> Options {
        Options {
            dir: self.0.clone(),
            fsync,
            segment_bytes: 1 << 20,
            segment_age: Duration::from_secs(3600),
            keep_bytes: 1 << 30,
            keep_age: Duration::from_secs(3600),
        }
    }

    fn segments(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("journal-"))
            .collect();
        names.sort();
        names
    }

    /// What a process that was killed just now leaves behind.
    fn copy(&self, name: &str) -> Dir {
        let copy = Dir::new(name);
        fs::create_dir(&copy.0).unwrap();
        for name in self.segments() {
            fs::copy(self.0.join(&name), copy.0.join(&name)).unwrap();
        }
        copy
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A journal, and what is heard when its thread has news.
fn open(options: Options) -> (Journal, Restored, Receiver<()>) {
    let (wake, woken) = mpsc::channel();
    let woke = move || {
        let _ = wake.send(());
    };
    let (journal, restored) = Journal::open(options, woke).unwrap();
    (journal, restored, woken)
}

/// Waits until the thread has brought something about.
fn wait_until(woken: &Receiver<()>, mut done: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < patience, "nothing comes");
        let _ = woken.recv_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_start_reads_no_segment_that_only_matches_need_that_are_over() {
    let dir = Dir::new("needed");
    let (mut journal, _, _) = open(dir.options(Fsync::Never));
    let batch = batch_of(&journal, &mut [Pen::new(A)], 5);
    journal.append(batch.bytes()).unwrap();
    drop(journal);
    let (mut journal, restored, _) = open(dir.options(Fsync::Never));
    assert_eq!(restored.rooms.len(), 1);
    let batch = batch_of(&journal, &mut [Pen::new(B)], 5);
    journal.append(batch.bytes()).unwrap();
    // That one has ended; its file may be broken, and is kept as it is.
    journal.keep_from(journal.segment());
    drop(journal);
    let first = dir.0.join(&dir.segments()[0]);
    fs::write(&first, b"broken").unwrap();
    let (journal, restored, _) = open(dir.options(Fsync::Never));
    let ids: Vec<_> = restored.rooms.iter().map(|room| room.match_id).collect();
    assert_eq!((ids, restored.damage_count), (vec![B], 0));
    assert_eq!(fs::read(&first).unwrap(), b"broken");
    drop(journal);
    // Nobody has to have that word: without it all is read.
    for text in [None, Some(""), Some("no number")] {
        let copy = dir.copy("needed-not");
        if let Some(text) = text {
            fs::write(copy.0.join("needed"), text).unwrap();
        }
        let (_, restored, _) = open(copy.options(Fsync::Never));
        assert_eq!((restored.rooms.len(), restored.damage_count), (1, 1));
    }
}

fn batch_of(journal: &Journal, pens: &mut [Pen], head: u32) -> Batch {
    let mut batch = Batch::new(journal.salt());
    for pen in pens {
        if pen.next() == 1 {
            pen.write(&created(pen.next().into()), &mut batch);
            pen.write(&STARTED, &mut batch);
        }
        pen.write(&Record::Head(head), &mut batch);
    }
    batch
}

#[test]
fn what_was_appended_is_read_after_the_process_is_gone() {
    for fsync in [
        Fsync::Never,
        Fsync::Interval(Duration::from_millis(1)),
        Fsync::Always,
    ] {
        let dir = Dir::new("appended");
        let (mut journal, restored, woken) = open(dir.options(fsync));
        assert_eq!(restored, Restored::default());
        let mut pens = [Pen::new(A), Pen::new(B)];
        for head in 1..=100 {
            let batch = batch_of(&journal, &mut pens, head);
            assert_eq!(journal.append(batch.bytes()), Ok(head.into()));
        }
        if fsync != Fsync::Never {
            wait_until(&woken, || journal.synced() == 100);
        }
        let killed = dir.copy("killed");
        let (_, restored, _) = open(killed.options(fsync));
        assert_eq!(
            restored
                .rooms
                .iter()
                .map(|room| room.head)
                .collect::<Vec<_>>(),
            [100, 100]
        );
        assert_eq!((restored.damage_count, restored.torn_bytes), (0, 0));
        drop(journal);
        let (journal, restored, _) = open(dir.options(fsync));
        assert_eq!(restored.rooms.len(), 2);
        assert!(journal.segment() > 1, "a new start begins a new segment");
    }
}

#[test]
fn marks_follow_what_is_synced() {
    let dir = Dir::new("marks");
    let (mut journal, _, woken) = open(dir.options(Fsync::Always));
    let first = batch_of(&journal, &mut [Pen::new(A)], 1);
    journal.append(first.bytes()).unwrap();
    wait_until(&woken, || journal.synced() == 1);
    journal.append(&[]).unwrap();
    let bytes = fs::read(dir.0.join(segment_name(1))).unwrap();
    let marks: Vec<_> = Scan::new(1, &bytes)
        .filter_map(|found| match found {
            Found::Record(entry) => match entry.record {
                Record::Mark(place) => Some(place.offset),
                _ => None,
            },
            Found::Damage(_) => None,
        })
        .collect();
    assert_eq!(marks, [(FIRST_RECORD + first.bytes().len()) as u64]);
}

#[test]
fn a_torn_end_is_cut_off_once_and_told() {
    let dir = Dir::new("torn");
    let (mut journal, _, _woken) = open(dir.options(Fsync::Never));
    let mut pens = [Pen::new(A)];
    let batch = batch_of(&journal, &mut pens, 1);
    journal.append(batch.bytes()).unwrap();
    let end = fs::metadata(dir.0.join(segment_name(1))).unwrap().len();
    let batch = batch_of(&journal, &mut pens, 2);
    journal.append(&batch.bytes()[..10]).unwrap();
    drop(journal);
    let (journal, restored, _) = open(dir.options(Fsync::Never));
    assert_eq!((restored.torn_bytes, restored.end.offset), (10, end));
    assert_eq!(restored.rooms[0].head, 1);
    assert_eq!(
        fs::metadata(dir.0.join(segment_name(1))).unwrap().len(),
        end
    );
    drop(journal);
    let (_, restored, _) = open(dir.options(Fsync::Never));
    assert_eq!((restored.torn_bytes, restored.rooms.len()), (0, 1));
}

#[test]
fn a_second_process_is_refused_and_told_why() {
    let dir = Dir::new("lock");
    let (journal, _, _) = open(dir.options(Fsync::Never));
    let refused = Journal::open(dir.options(Fsync::Never), || ()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }));
    let text = refused.to_string();
    assert!(text.contains("in use by another server"), "{text}");
    #[cfg(unix)]
    assert!(
        text.contains(&format!("(process {})", std::process::id())),
        "{text}"
    );
    drop(journal);
    open(dir.options(Fsync::Never));
}

#[test]
fn a_segment_of_a_later_version_is_left_alone() {
    let dir = Dir::new("later");
    fs::create_dir(&dir.0).unwrap();
    let mut bytes = Paper::new(1, true).bytes;
    bytes.truncate(record::FILE_HEADER);
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..32]).to_le_bytes();
    bytes[32..].copy_from_slice(&crc);
    let path = dir.0.join(segment_name(1));
    fs::write(&path, &bytes).unwrap();
    let refused = Journal::open(dir.options(Fsync::Never), || ()).unwrap_err();
    assert!(
        matches!(refused, OpenError::Later { version: 2, .. }),
        "{refused}"
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// Appends until `segments` more have been begun.
fn fill(journal: &mut Journal, woken: &Receiver<()>, pens: &mut [Pen], segments: u64) {
    let until = journal.segment() + segments;
    let mut head = 0;
    wait_until(woken, || {
        head += 1;
        let batch = batch_of(journal, pens, head);
        journal.append(batch.bytes()).unwrap();
        journal.segment() >= until
    });
}

#[test]
fn segments_are_rotated_and_read_as_one() {
    let dir = Dir::new("rotated");
    let options = Options {
        segment_bytes: 1000,
        ..dir.options(Fsync::Interval(Duration::from_millis(1)))
    };
    let (mut journal, _, woken) = open(options.clone());
    let mut pens = [Pen::new(A)];
    fill(&mut journal, &woken, &mut pens, 5);
    drop(journal);
    assert_eq!(dir.segments().len(), 6);
    let (journal, restored, _) = open(options);
    let room = &restored.rooms[0];
    assert_eq!((room.next_seq, room.first_segment), (pens[0].next(), 1));
    assert_eq!(restored.damage_count, 0);
    assert!(journal.health().trouble.is_none());
    assert!(journal.health().segments >= 7);
}

#[test]
fn an_old_segment_is_rotated_only_with_something_in_it() {
    let dir = Dir::new("aged");
    let options = Options {
        segment_age: Duration::ZERO,
        ..dir.options(Fsync::Never)
    };
    let (mut journal, _, woken) = open(options);
    for _ in 0..10 {
        journal.append(&[]).unwrap();
    }
    assert_eq!(journal.segment(), 1);
    fill(&mut journal, &woken, &mut [Pen::new(A)], 1);
}

#[test]
fn the_oldest_segments_are_deleted_but_none_of_a_running_match() {
    let dir = Dir::new("deleted");
    let options = Options {
        segment_bytes: 1000,
        keep_bytes: 0,
        ..dir.options(Fsync::Never)
    };
    let (mut journal, _, woken) = open(options);
    let mut pens = [Pen::new(A)];
    fill(&mut journal, &woken, &mut pens, 4);
    assert!(dir.segments().len() >= 5, "nothing goes unasked");
    journal.keep_from(4);
    // The thread looks when a segment is full.
    fill(&mut journal, &woken, &mut pens, 1);
    wait_until(&woken, || dir.segments()[0] == segment_name(4));
    assert!(dir.segments().len() >= 3);
}

#[test]
fn what_is_too_old_is_deleted_and_the_rest_stays() {
    let dir = Dir::new("old");
    let options = |keep_age| Options {
        segment_bytes: 1000,
        keep_age,
        ..dir.options(Fsync::Never)
    };
    let (mut journal, _, woken) = open(options(Duration::from_secs(3600)));
    journal.keep_from(u64::MAX);
    fill(&mut journal, &woken, &mut [Pen::new(A)], 3);
    drop(journal);
    assert_eq!(dir.segments().len(), 4);
    let (mut journal, _, woken) = open(options(Duration::ZERO));
    journal.keep_from(u64::MAX);
    fill(&mut journal, &woken, &mut [Pen::new(B)], 1);
    let current = journal.segment();
    wait_until(&woken, || dir.segments()[0] >= segment_name(current));
}

#[cfg(unix)]
#[test]
fn what_is_no_file_or_no_directory_is_told_and_holds_nobody_up() {
    let dir = Dir::new("no-file");
    fs::create_dir(&dir.0).unwrap();
    let pipe = dir.0.join(segment_name(3));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let refused = Journal::open(dir.options(Fsync::Never), || ()).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("journal-0000000003.lkj: it is no file"),
        "{text}"
    );
    fs::remove_file(&pipe).unwrap();
    let file = dir.0.join("file");
    fs::write(&file, "").unwrap();
    let options = Options {
        dir: file,
        ..dir.options(Fsync::Never)
    };
    let text = Journal::open(options, || ()).unwrap_err().to_string();
    assert!(text.contains("it is no directory"), "{text}");
}

#[test]
fn a_directory_that_is_gone_is_told_and_the_open_segment_goes_on() {
    let dir = Dir::new("gone");
    let options = Options {
        segment_bytes: 1000,
        ..dir.options(Fsync::Never)
    };
    let (mut journal, _, woken) = open(options);
    // The thread may be making the next segment in it.
    while fs::remove_dir_all(&dir.0).is_err() {}
    let mut pens = [Pen::new(A)];
    wait_until(&woken, || {
        let batch = batch_of(&journal, &mut pens, 1);
        journal.append(batch.bytes()).unwrap();
        journal.health().trouble.is_some()
    });
    assert!(!journal.health().trouble.unwrap().down);
    fs::create_dir(&dir.0).unwrap();
    wait_until(&woken, || journal.health().trouble.is_none());
    assert!(Path::new(&dir.0).exists());
}

#[test]
fn a_new_copy_that_was_cut_off_takes_the_place_of_nothing() {
    let mut paper = Paper::new(1, true);
    let mut old = begin(&mut paper, A);
    for id in 0..5 {
        paper.frame(&mut old, id);
    }
    let mut ended = begin(&mut paper, B);
    paper.frame(&mut ended, 0);
    paper.write(&mut ended, &over(1));
    let before = read(&[&paper.bytes]);
    // Everything is written anew, and the server is killed at each record of it.
    let mut copy = Paper::new(2, true);
    begin(&mut copy, B);
    let mut new = Pen::new(A);
    copy.write(&mut new, &created(A.0));
    copy.write(&mut new, &STARTED);
    for id in 0..4 {
        copy.frame(&mut new, id);
        let restored = read(&[&paper.bytes, &copy.bytes]);
        assert_eq!(restored.rooms, before.rooms);
        assert_eq!(restored.finished[0].frames, 1);
    }
    // The next one goes on from the old copy, and is killed, too.
    let cut = copy.bytes.len();
    copy.write(&mut old, &resumed(5));
    copy.frame(&mut old, 5);
    let room = &read(&[&paper.bytes, &copy.bytes]).rooms[0];
    assert_eq!((room.head, room.next_seq), (6, old.next()));
    let all: Vec<_> = (0..6).map(frame_bytes).collect();
    assert_eq!(room.frames, all.concat());
    // Once the new copy says as much, it counts.
    copy.bytes.truncate(cut);
    copy.frame(&mut new, 4);
    let room = &read(&[&paper.bytes, &copy.bytes]).rooms[0];
    assert_eq!((room.head, room.first_segment), (5, 2));
    copy.frame(&mut new, 5);
    let room = &read(&[&paper.bytes, &copy.bytes]).rooms[0];
    assert_eq!((room.head, room.first_segment), (6, 2));
    // Damage in it is no reason to go on from before it.
    copy.mark(2, copy.bytes.len());
    let mut broken = copy.bytes.clone();
    broken[cut + 26] ^= 1;
    let restored = read(&[&paper.bytes, &broken]);
    assert_eq!((restored.rooms.len(), restored.lost.len()), (0, 1));
}

#[test]
fn what_is_not_on_the_disk_yet_frees_no_older_segment() {
    let dir = Dir::new("needed-later");
    let options = dir.options(Fsync::Interval(Duration::from_secs(3600)));
    let (mut journal, _, _) = open(options.clone());
    let batch = batch_of(&journal, &mut [Pen::new(A)], 5);
    journal.append(batch.bytes()).unwrap();
    drop(journal);
    let (mut journal, restored, woken) = open(options);
    assert_eq!(restored.rooms.len(), 1);
    let batch = batch_of(&journal, &mut [Pen::new(A)], 6);
    journal.append(batch.bytes()).unwrap();
    journal.keep_from(journal.segment());
    let _ = woken.recv_timeout(Duration::from_millis(200));
    assert!(!dir.0.join("needed").exists());
    drop(journal);
    assert_eq!(fs::read_to_string(dir.0.join("needed")).unwrap(), "2\n");
}

#[test]
fn a_word_of_segments_that_were_taken_away_hides_no_new_one() {
    let dir = Dir::new("needed-gone");
    fs::create_dir(&dir.0).unwrap();
    fs::write(dir.0.join("needed"), "50\n").unwrap();
    let (mut journal, _, _) = open(dir.options(Fsync::Never));
    let batch = batch_of(&journal, &mut [Pen::new(A)], 5);
    journal.append(batch.bytes()).unwrap();
    drop(journal);
    let (_, restored, _) = open(dir.options(Fsync::Never));
    assert_eq!(restored.rooms.len(), 1);
}

#[test]
fn the_last_number_is_an_error_and_no_panic() {
    let dir = Dir::new("last-number");
    fs::create_dir(&dir.0).unwrap();
    fs::write(dir.0.join(format!("journal-{}.lkj", u64::MAX)), "").unwrap();
    let error = Journal::open(dir.options(Fsync::Never), || ()).unwrap_err();
    assert!(error.to_string().contains("no number is left"), "{error}");
}

#[test]
fn going_back_to_any_frame_keeps_all_before_it() {
    let mut paper = Paper::new(1, true);
    let mut pen = begin(&mut paper, A);
    let count = 3000;
    for id in 0..count {
        paper.frame(&mut pen, id);
    }
    let one = paper.bytes;
    for head in (0..count).rev().step_by(7) {
        let (mut paper, mut pen) = (Paper::new(2, true), pen);
        let mut all: Vec<_> = (0..head).map(frame_bytes).collect();
        paper.write(&mut pen, &resumed(head));
        paper.frame(&mut pen, count);
        paper.write(&mut pen, &resumed(head));
        paper.frame(&mut pen, count + 1);
        all.push(frame_bytes(count + 1));
        let restored = read(&[&one, &paper.bytes]);
        assert_eq!(restored.rooms[0].frames, all.concat());
    }
}
