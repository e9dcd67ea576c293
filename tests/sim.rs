//! Simulated worlds, and proof that their oracle can find fault.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use lockstep_server::client::{ClientEvent, ClientFault};
use lockstep_server::engine::auth::RoomSecret;
use lockstep_server::engine::counters::Counters;
use lockstep_server::engine::drops::{Disconnect, Drop};
use lockstep_server::engine::id::{MatchId, Percent, PlayerId, RoomId, Seat};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::view::{CreateError, OverReason, Phase, RoomView, SeatView};
use lockstep_server::engine::wire::frame::{
    Command, Frame, FrameInput, Input, encode_frame, encode_input,
};
use lockstep_server::engine::wire::message::{ConnectCode, Fetched, WatchFrom};
use lockstep_server::journal::record::{Created, FrameBytes};
use lockstep_server::journal::restore::{FinishedMatch, Restored, RestoredRoom};
use lockstep_server::sim::fault::{Fault, Happened};
use lockstep_server::sim::oracle::{
    Conn, End, Match, Oracle, Turn, Violation, command_of, input_of,
};
use lockstep_server::sim::{World, run};

// --- Worlds -----------------------------------------------------------------------------------

/// What worlds went through.
#[derive(Default)]
struct Passed {
    faults: Happened,
    /// What was done with v2: frames that clients had when they came back, frames that they asked
    /// for, bytes beside inputs, and frames that spectators saw.
    extras: [u64; 6],
    /// Worlds in which the server was started again.
    restarted: u64,
    /// Rooms that were restored, and how many of them with other frames than were sent.
    restored: u64,
    forks: u64,
}

fn all_pass(seeds: std::ops::Range<u64>) -> Passed {
    let mut passed = Passed::default();
    for seed in seeds {
        match run(seed) {
            Ok(report) => {
                passed.faults.add(&report.faults);
                let of_world = [
                    report.resumed,
                    report.fetched,
                    report.data_bytes,
                    report.watched,
                    report.counters.redirects,
                    report.counters.questions_late,
                ];
                passed.extras = std::array::from_fn(|index| passed.extras[index] + of_world[index]);
                passed.restarted += u64::from(report.crashes.restarts > 0);
                passed.restored += report.counters.rooms_restored;
                passed.forks += report.crashes.forks;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    passed
}

#[test]
fn worlds_0_to_299_keep_every_rule_and_meet_every_kind_of_fault() {
    let pieces: Vec<_> = [0..100, 100..200, 200..300]
        .map(|seeds| std::thread::spawn(|| all_pass(seeds)))
        .into();
    let mut faults = Happened::default();
    let mut extras = [0; 6];
    let (mut restarted, mut restored, mut forks) = (0, 0, 0);
    for piece in pieces {
        let passed = piece.join().unwrap();
        faults.add(&passed.faults);
        extras = std::array::from_fn(|index| extras[index] + passed.extras[index]);
        restarted += passed.restarted;
        restored += passed.restored;
        forks += passed.forks;
    }
    for (number, what) in extras.iter().zip([
        "resumes",
        "fetches",
        "sends data",
        "watches",
        "is sent on",
        "is told too late",
    ]) {
        assert!(*number > 0, "nobody ever {what}");
    }
    assert!(
        restarted >= 100,
        "only {restarted} servers are started again"
    );
    assert!(restored > 200 && forks > 10, "{restored}, {forks}");
    for kind in Fault::ALL {
        assert!(faults.of(*kind) > 0, "{} never happens", kind.name());
    }
}

#[test]
fn a_world_without_a_kind_of_fault_has_none_of_it() {
    for (seed, kind) in (0..).zip(Fault::ALL) {
        let report = World::without(seed, vec![*kind]).run().unwrap();
        assert_eq!(report.faults.of(*kind), 0, "{}", kind.name());
    }
}

/// Seeds that found something once. What they were then is gone with the script of that
/// time; each of those faults has a test of its own besides.
#[test]
fn worlds_that_found_faults_keep_every_rule() {
    for seed in [
        316, 1472, 1621, 1782, 2635, 3595, 4221, 5616, 5628, 5683, 6424, 7855, 9050, 10_110,
        10_412, 10_558, 10_819, 11_458, 14_285, 104_612, 501_542, 19, 627, 734, 1050, 1236, 1284,
        1680, 24_067,
    ] {
        all_pass(seed..seed + 1);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_does_not() {
    let mut hashes = Vec::new();
    for seed in 0..10 {
        let (first, second) = (run(seed).unwrap(), run(seed).unwrap());
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.steps, second.steps, "seed {seed}");
        hashes.push(first.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 10);
}

#[test]
fn worlds_are_as_bad_as_they_claim() {
    let mut total = Counters::default();
    let (mut lost, mut cut, mut twice, mut restarts, mut takeovers) = (0, 0, 0, 0, 0);
    for seed in 0..50 {
        let report = run(seed).unwrap();
        restarts += report.counters.disconnects(Disconnect::Restarted);
        takeovers += report.counters.disconnects(Disconnect::TakenOver);
        lost += report.network.lost;
        cut += report.network.cut;
        twice += report.network.twice;
        total.frames += report.counters.frames;
        total.inputs += report.counters.inputs;
        total.matches_started += report.counters.matches_started;
    }
    assert!(total.matches_started > 50, "{}", total.matches_started);
    assert!(total.frames > 10_000 && total.inputs > 1_000);
    assert!(lost > 1_000 && cut > 1_000 && twice > 100);
    assert!(restarts > 20 && takeovers > 20);
}

#[test]
fn a_failure_names_its_seed_step_and_last_lines() {
    let mut world = World::new(3);
    world.run().unwrap();
    let failure = world.failure("just so".into());
    assert_eq!(failure.seed, 3);
    assert_eq!(failure.step, world.step_number());
    assert!(failure.lines.len() >= 50);
    let text = failure.to_string();
    assert!(text.contains("seed 3, step ") && text.ends_with(": just so"));
}

// --- The oracle can find fault ----------------------------------------------------------------

const HZ: u32 = 30;
const ON_TIME: Turn = Turn {
    on_time: true,
    ended: false,
};

/// An oracle that watches a match of two players, each with a conversation.
struct Watched {
    oracle: Oracle,
    of: Match,
    conns: [Conn; 2],
    bytes: Vec<u8>,
    head: u32,
}

fn view() -> RoomView {
    let seat = |seat, player| SeatView {
        seat,
        player: PlayerId(player),
        online: true,
        ready: true,
        progress: Percent::FULL,
        cursor: 0,
        rtt: None,
        result: None,
    };
    RoomView {
        room: RoomId(1),
        match_id: MatchId(9),
        phase: Phase::Waiting,
        frame: 0,
        hz: HZ,
        broadcast_every: 3,
        max_frames: 1000,
        input_bytes_max: 256,
        seed: 42,
        created_unix: 0,
        started_unix: None,
        log_bytes: 0,
        watchers: 0,
        watchers_max: 1,
        watch_delay: 2,
        seats: vec![seat(1, 11), seat(2, 12)],
    }
}

fn deadline(frame: u32) -> Time {
    Time::from_micros((u64::from(frame) + 1) * 1_000_000 / u64::from(HZ))
}

impl Watched {
    /// A match that started at time 0 and stamp 100, which both players have joined.
    fn new() -> Watched {
        let mut oracle = Oracle::default();
        let of = oracle.created(&view()).unwrap();
        let conns = [11, 12].map(|player| oracle.opened(PlayerId(player), RoomId(1)));
        for (index, conn) in conns.into_iter().enumerate() {
            let other = PlayerId([12, 11][index]);
            let event = ClientEvent::Joined {
                seat: [1, 2][index],
                others: vec![(other, Percent::FULL)],
                seed: 42,
            };
            oracle.heard(conn, Time::ZERO, &event).unwrap();
        }
        oracle.started(of, Time::ZERO, Duration::ZERO, 100).unwrap();
        Watched {
            oracle,
            of,
            conns,
            bytes: Vec::new(),
            head: 0,
        }
    }

    /// Another conversation of the first player.
    fn join_again(&mut self) -> Conn {
        let conn = self.oracle.opened(PlayerId(11), RoomId(1));
        let event = ClientEvent::Joined {
            seat: 1,
            others: vec![(PlayerId(12), Percent::FULL)],
            seed: 42,
        };
        self.oracle.heard(conn, Time::ZERO, &event).unwrap();
        conn
    }

    fn tell_start(&mut self, seat: usize) {
        let event = ClientEvent::Started {
            unix_seconds: 100,
            next: 0,
            head: 0,
        };
        self.oracle
            .heard(self.conns[seat], Time::ZERO, &event)
            .unwrap();
    }

    /// An input that the player of this seat sends.
    fn press(&mut self, seat: usize) -> FrameInput {
        let conn = self.conns[seat];
        let command = self.oracle.next_command(conn);
        self.oracle.pressed(conn, Time::ZERO, 0);
        self.input(seat, command)
    }

    /// The same with data beside it.
    fn press_with(&mut self, seat: usize, data_bytes: usize) -> FrameInput {
        let conn = self.conns[seat];
        let Input { command, data } = input_of(conn, self.oracle.sent(conn), data_bytes);
        self.oracle.pressed(conn, Time::ZERO, data_bytes);
        let input = self.input(seat, command);
        FrameInput { data, ..input }
    }

    /// Frames come to the player of this seat who has asked for them.
    fn fetch(&mut self, seat: usize, covers: Fetched, frames: &[Frame]) -> Result<(), Violation> {
        let frames = frames.to_vec();
        let event = ClientEvent::Fetched { covers, frames };
        self.oracle.heard(self.conns[seat], Time::ZERO, &event)
    }

    fn input(&self, seat: usize, command: Command) -> FrameInput {
        FrameInput {
            player: PlayerId([11, 12][seat]),
            seat: [1, 2][seat],
            command,
            data: Vec::new(),
        }
    }

    /// The next frame is sealed in time with these inputs.
    fn seal(&mut self, inputs: &[&FrameInput]) -> Result<(), Violation> {
        let at = deadline(self.head);
        self.seal_at(at, inputs)
    }

    fn seal_at(&mut self, at: Time, inputs: &[&FrameInput]) -> Result<(), Violation> {
        if !inputs.is_empty() {
            let mut encoded = Vec::new();
            for input in inputs {
                let seat = Seat::from_index(usize::try_from(input.seat).unwrap() - 1);
                encode_input(&mut encoded, input.player, seat, input.command, &input.data);
            }
            encode_frame(&mut self.bytes, self.head, &encoded);
        }
        self.head += 1;
        self.oracle
            .log(self.of, at, ON_TIME, self.head, &self.bytes)
    }

    fn deliver(&mut self, seat: usize, id: u32, inputs: &[&FrameInput]) -> Result<(), Violation> {
        let inputs = inputs.iter().copied().cloned().collect();
        let event = ClientEvent::Frame(Frame { id, inputs });
        self.oracle.heard(self.conns[seat], Time::ZERO, &event)
    }
}

#[test]
fn a_right_match_pleases_the_oracle() {
    let mut watched = Watched::new();
    let (a, b) = (watched.press(0), watched.press(1));
    let c = watched.press(0);
    watched.seal(&[&a, &b]).unwrap();
    watched.seal(&[]).unwrap();
    watched.seal(&[&c]).unwrap();
    for seat in 0..2 {
        watched.tell_start(seat);
        watched.deliver(seat, 0, &[&a, &b]).unwrap();
        watched.deliver(seat, 1, &[]).unwrap();
        watched.deliver(seat, 2, &[&c]).unwrap();
    }
    let conn = watched.conns[0];
    let (now, lag) = (deadline(2), Duration::ZERO);
    let counters = Counters::default();
    let oracle = &mut watched.oracle;
    oracle
        .must_be_at_head(conn, now, lag, String::new())
        .unwrap();
    oracle.must_have_inputs(conn, 2, &counters).unwrap();
    oracle.must_account_for_gaps(&counters).unwrap();
    oracle
        .over(watched.of, now, OverReason::Closed, watched.head)
        .unwrap();
    oracle
        .heard(conn, Time::ZERO, &ClientEvent::Closed)
        .unwrap();
    oracle.must_be_closed(conn, now).unwrap();
}

#[test]
fn a_gap_a_repeat_and_a_frame_before_start_are_found() {
    let mut watched = Watched::new();
    for _ in 0..4 {
        watched.seal(&[]).unwrap();
    }
    let early = watched.deliver(0, 0, &[]);
    assert!(matches!(early, Err(Violation::FrameBeforeStart { .. })));
    watched.tell_start(0);
    watched.deliver(0, 0, &[]).unwrap();
    let gap = watched.deliver(0, 2, &[]);
    assert!(matches!(gap, Err(Violation::FrameOrder { got: 2, .. })));
    let repeat = watched.deliver(0, 0, &[]);
    assert!(matches!(repeat, Err(Violation::FrameOrder { got: 0, .. })));
}

/// A spectator of a match of four frames, of which two are held back, who was told of the start
/// at frame `next`.
fn spectator(from: WatchFrom, next: u32) -> (Watched, Conn, Result<(), Violation>) {
    let mut watched = Watched::new();
    for _ in 0..4 {
        watched.seal(&[]).unwrap();
    }
    let conn = watched
        .oracle
        .opened_to_watch(PlayerId(77), RoomId(1), from);
    let joined = ClientEvent::Joined {
        seat: 0,
        others: [11, 12].map(|id| (PlayerId(id), Percent::FULL)).to_vec(),
        seed: 42,
    };
    watched.oracle.heard(conn, Time::ZERO, &joined).unwrap();
    let start = ClientEvent::Started {
        unix_seconds: 100,
        next,
        head: 2,
    };
    let told = watched.oracle.heard(conn, Time::ZERO, &start);
    (watched, conn, told)
}

#[test]
fn what_is_shown_to_a_spectator_too_early_or_never_is_found() {
    let show = |watched: &mut Watched, conn, id| {
        let inputs = Vec::new();
        let event = ClientEvent::Frame(Frame { id, inputs });
        watched.oracle.heard(conn, Time::ZERO, &event)
    };
    for (from, next, right) in [
        (WatchFrom::Start, 0, true),
        (WatchFrom::Start, 2, false),
        (WatchFrom::Newest, 2, true),
        (WatchFrom::Newest, 3, false),
    ] {
        let (_, _, told) = spectator(from, next);
        assert_eq!(told.is_ok(), right, "{from:?} {next}: {told:?}");
    }
    let (mut watched, conn, _) = spectator(WatchFrom::Start, 0);
    show(&mut watched, conn, 0).unwrap();
    show(&mut watched, conn, 1).unwrap();
    let early = show(&mut watched, conn, 2);
    assert!(matches!(early, Err(Violation::ShownEarly { frame: 2, .. })));

    let (mut watched, conn, _) = spectator(WatchFrom::Start, 0);
    let (of, head) = (watched.of, watched.head);
    let oracle = &mut watched.oracle;
    oracle
        .over(of, deadline(3), OverReason::Closed, head)
        .unwrap();
    for id in 0..3 {
        show(&mut watched, conn, id).unwrap();
    }
    let closed = watched.oracle.heard(conn, Time::ZERO, &ClientEvent::Closed);
    assert!(matches!(closed, Err(Violation::NotShown { got: 3, .. })));
}

#[test]
fn a_refusal_to_watch_is_right_only_where_too_many_want_to() {
    let mut watched = Watched::new();
    let oracle = &mut watched.oracle;
    let refused = ClientEvent::Refused(ConnectCode::NoWatch);
    let one = oracle.opened_to_watch(PlayerId(77), RoomId(1), WatchFrom::Start);
    let wrong = oracle.heard(one, Time::ZERO, &refused);
    assert!(matches!(wrong, Err(Violation::Refused { .. })));
    let two = oracle.opened_to_watch(PlayerId(78), RoomId(1), WatchFrom::Start);
    oracle.heard(two, Time::ZERO, &refused).unwrap();
}

#[test]
fn a_frame_that_differs_from_the_rooms_is_found() {
    let begin = || {
        let mut watched = Watched::new();
        let inputs = [watched.press(0), watched.press(1)];
        watched.seal(&inputs.each_ref()).unwrap();
        watched.seal(&[]).unwrap();
        watched.tell_start(0);
        (watched, inputs)
    };
    let (_, [a, b]) = begin();
    for wrong in [vec![], vec![&a], vec![&b, &a], vec![&a, &b, &b]] {
        let found = begin().0.deliver(0, 0, &wrong);
        let differs = matches!(found, Err(Violation::FrameDiffers { .. }));
        assert!(differs, "{wrong:?}");
    }
    let (mut watched, _) = begin();
    watched.deliver(0, 0, &[&a, &b]).unwrap();
    // One that is not sealed yet, and one that was empty.
    let found = watched.deliver(0, 1, &[&a]);
    assert!(matches!(found, Err(Violation::FrameDiffers { .. })));
    let found = watched.deliver(0, 2, &[]);
    assert!(matches!(found, Err(Violation::FrameDiffers { .. })));
}

#[test]
fn an_input_twice_out_of_order_invented_or_of_another_is_found() {
    let repeated = |found| matches!(found, Err(Violation::Repeated { .. }));
    let invented = |found| matches!(found, Err(Violation::Invented { .. }));

    let mut watched = Watched::new();
    let a = watched.press(0);
    watched.seal(&[&a]).unwrap();
    assert!(repeated(watched.seal(&[&a])));

    let mut watched = Watched::new();
    let (a, b) = (watched.press(0), watched.press(0));
    assert!(repeated(watched.seal(&[&b, &a])));

    // The player has moved on to another conversation.
    let mut watched = Watched::new();
    let (old, conn) = (watched.press(0), watched.conns[0]);
    watched.conns[0] = watched.join_again();
    watched.oracle.seated(conn);
    watched.oracle.seated(watched.conns[0]);
    let new = watched.press(0);
    assert!(repeated(watched.seal(&[&new, &old])));

    let mut watched = Watched::new();
    let never_sent = watched.input(0, command_of(watched.conns[0], 0));
    assert!(invented(watched.seal(&[&never_sent])));

    let mut watched = Watched::new();
    let mut garbled = watched.press(0);
    garbled.command.y ^= 1;
    assert!(invented(watched.seal(&[&garbled])));

    let mut watched = Watched::new();
    let mut stolen = watched.press(0);
    stolen.player = PlayerId(12);
    stolen.seat = 2;
    assert!(invented(watched.seal(&[&stolen])));
}

#[test]
fn data_that_is_altered_left_out_or_too_much_is_found() {
    let alter = |change: fn(&mut Vec<u8>)| {
        let mut watched = Watched::new();
        let mut input = watched.press_with(0, 100);
        change(&mut input.data);
        watched.seal(&[&input])
    };
    alter(|_| {}).unwrap();
    let changes: [fn(&mut Vec<u8>); 4] = [
        |data| data[99] ^= 1,
        |data| data.truncate(99),
        |data| data.push(0),
        |data| data.clear(),
    ];
    for change in changes {
        assert!(matches!(alter(change), Err(Violation::Invented { .. })));
    }
    // More than the room takes, and more than one seat may have in a frame.
    let mut watched = Watched::new();
    let input = watched.press_with(0, 257);
    assert!(matches!(
        watched.seal(&[&input]),
        Err(Violation::Invented { .. })
    ));
    let mut watched = Watched::new();
    let inputs: Vec<_> = (0..5).map(|_| watched.press_with(0, 250)).collect();
    let found = watched.seal(&inputs.iter().collect::<Vec<_>>());
    assert!(matches!(found, Err(Violation::FrameTooLarge { .. })));
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_found() {
    let begin = || {
        let mut watched = Watched::new();
        let (a, b) = (watched.press(0), watched.press(1));
        watched.seal(&[&a]).unwrap();
        watched.seal(&[]).unwrap();
        watched.seal(&[&b]).unwrap();
        watched.tell_start(0);
        let conn = watched.conns[0];
        watched.deliver(0, 0, &[&a]).unwrap();
        watched.oracle.asked(conn, Time::ZERO, 4, 0, Some(3));
        let [first, last] = [(0, a), (2, b)].map(|(id, input)| Frame {
            id,
            inputs: vec![input],
        });
        (watched, first, last)
    };
    let covers = |from, until, end| Fetched {
        request: 4,
        from,
        until,
        end,
        head: 3,
    };
    let (mut watched, first, last) = begin();
    watched
        .fetch(0, covers(0, 2, 3), std::slice::from_ref(&first))
        .unwrap();
    let healed = Time::from_millis(1);
    let waits = watched
        .oracle
        .must_be_answered(watched.conns[0], healed, healed);
    assert!(matches!(waits, Err(Violation::NotFetched { .. })));
    watched
        .fetch(0, covers(2, 3, 3), std::slice::from_ref(&last))
        .unwrap();
    watched
        .oracle
        .must_be_answered(watched.conns[0], healed, healed)
        .unwrap();

    let both = [first.clone(), last.clone()];
    let one = [first.clone()];
    let wrong = [
        (covers(0, 3, 3), &one[..]),
        (covers(0, 2, 3), &both[..]),
        (covers(0, 1, 3), &[]),
        (covers(0, 0, 3), &[]),
        (covers(0, 0, 0), &[]),
        (covers(1, 1, 1), &[]),
        (covers(2, 3, 3), std::slice::from_ref(&last)),
        (
            Fetched {
                request: 5,
                ..covers(0, 3, 3)
            },
            &both[..],
        ),
        (
            Fetched {
                head: 4,
                ..covers(0, 3, 3)
            },
            &both[..],
        ),
    ];
    for (covers, frames) in wrong {
        let found = begin().0.fetch(0, covers, frames);
        let found = matches!(found, Err(Violation::Fetched { .. }));
        assert!(found, "{covers:?}");
    }
    // It held frame 0 when it asked, and perhaps no other was there.
    begin().0.fetch(0, covers(0, 1, 1), &one).unwrap();
}

#[test]
fn a_lost_input_is_found_unless_the_server_says_that_it_dropped_one() {
    let mut watched = Watched::new();
    let (a, _lost, c) = (watched.press(0), watched.press(0), watched.press(0));
    watched.seal(&[&a]).unwrap();
    watched.seal(&[&c]).unwrap();
    let mut counters = Counters::default();
    let found = watched.oracle.must_account_for_gaps(&counters);
    assert!(matches!(found, Err(Violation::InputsLost { gaps: 1, .. })));
    counters.drop(Drop::InputsWaiting);
    watched.oracle.must_account_for_gaps(&counters).unwrap();

    // One that is missing at the end leaves no gap.
    let conn = watched.conns[0];
    watched.press(0);
    let found = watched.oracle.must_have_inputs(conn, 4, &counters);
    assert!(matches!(found, Err(Violation::InputsMissing { .. })));
    watched.oracle.must_have_inputs(conn, 3, &counters).unwrap();
}

#[test]
fn a_frame_a_microsecond_early_or_late_is_found() {
    let tick = Duration::from_micros(1);
    let mut watched = Watched::new();
    let early = watched.seal_at(deadline(0) - tick, &[]);
    assert!(matches!(early, Err(Violation::Head { .. })));

    let mut watched = Watched::new();
    let late = watched.seal_at(deadline(0) + tick, &[]);
    assert!(matches!(late, Err(Violation::SealedLate { .. })));

    // One that is missing altogether.
    let mut watched = Watched::new();
    let missing = watched.oracle.log(watched.of, deadline(0), ON_TIME, 0, &[]);
    assert!(matches!(missing, Err(Violation::Head { .. })));
}

#[test]
fn a_log_that_changes_or_goes_on_after_the_end_is_found() {
    let mut watched = Watched::new();
    let a = watched.press(0);
    watched.seal(&[&a]).unwrap();
    let last = watched.bytes.len() - 1;
    watched.bytes[last] ^= 1;
    let found = watched.seal(&[]);
    assert!(matches!(found, Err(Violation::Rewritten { .. })));

    let mut watched = Watched::new();
    watched.seal(&[]).unwrap();
    let (of, now) = (watched.of, deadline(0));
    watched.oracle.over(of, now, OverReason::Closed, 1).unwrap();
    let found = watched.seal(&[]);
    assert!(matches!(found, Err(Violation::FramesAfterEnd { .. })));
}

#[test]
fn wrong_news_for_a_client_are_found() {
    let heard = |event: ClientEvent| {
        let mut watched = Watched::new();
        watched.oracle.heard(watched.conns[0], Time::ZERO, &event)
    };
    let stamp = heard(ClientEvent::Started {
        unix_seconds: 101,
        next: 0,
        head: 0,
    });
    assert!(matches!(stamp, Err(Violation::Stamp { .. })));
    let closed = heard(ClientEvent::Closed);
    assert!(matches!(closed, Err(Violation::ClosedEarly { .. })));
    let seat = heard(ClientEvent::Joined {
        seat: 2,
        others: vec![(PlayerId(12), Percent::FULL)],
        seed: 42,
    });
    assert!(matches!(seat, Err(Violation::Joined { .. })));
    for code in [
        ConnectCode::RoomState,
        ConnectCode::NoPlayer,
        ConnectCode::NoWatch,
        ConnectCode::Token,
    ] {
        let refused = heard(ClientEvent::Refused(code));
        assert!(matches!(refused, Err(Violation::Refused { .. })));
    }
    let fault = heard(ClientEvent::Fault(ClientFault::NotOnePacket));
    assert!(matches!(fault, Err(Violation::Fault { .. })));
}

#[test]
fn a_close_without_a_match_is_found_unless_the_server_stops() {
    let heard = |stops: bool, room: u64| {
        let mut watched = Watched::new();
        if stops {
            watched.oracle.stops();
        }
        let conn = watched.oracle.opened(PlayerId(11), RoomId(room));
        watched.oracle.heard(conn, Time::ZERO, &ClientEvent::Closed)
    };
    assert!(matches!(
        heard(false, 2),
        Err(Violation::ClosedEarly { .. })
    ));
    heard(true, 2).unwrap();
    let mut watched = Watched::new();
    watched.oracle.stops();
    let found = watched
        .oracle
        .heard(watched.conns[0], Time::ZERO, &ClientEvent::Closed);
    assert!(matches!(found, Err(Violation::ClosedEarly { .. })));
}

#[test]
fn a_client_left_behind_or_never_told_of_the_end_is_found() {
    let mut watched = Watched::new();
    for _ in 0..10 {
        watched.seal(&[]).unwrap();
    }
    watched.tell_start(0);
    for id in 0..8 {
        watched.deliver(0, id, &[]).unwrap();
    }
    let conn = watched.conns[0];
    let now = deadline(9);
    let at_head = |lag| {
        watched
            .oracle
            .must_be_at_head(conn, now, lag, String::new())
    };
    assert!(matches!(
        at_head(Duration::ZERO),
        Err(Violation::Behind { .. })
    ));
    at_head(Duration::from_millis(100)).unwrap();
    let (of, head) = (watched.of, watched.head);
    watched
        .oracle
        .over(of, now, OverReason::Closed, head)
        .unwrap();
    let found = watched.oracle.must_be_closed(conn, now);
    assert!(matches!(found, Err(Violation::NoClose { .. })));
}

#[test]
fn a_room_created_twice_or_refused_without_reason_is_found() {
    let mut watched = Watched::new();
    let wrong = |found| matches!(found, Err(Violation::Rooms { .. }));
    assert!(wrong(watched.oracle.created(&view()).map(|_| ())));

    let mut watched = Watched::new();
    let refused = |watched: &Watched, error: CreateError| {
        let (running_max, held) = (2, 3);
        watched
            .oracle
            .not_created(RoomId(1), &error, held, running_max)
    };
    let (room, match_id) = (RoomId(1), MatchId(9));
    refused(&watched, CreateError::Exists { room, match_id }).unwrap();
    let other = MatchId(10);
    let exists = |match_id| CreateError::Exists { room, match_id };
    assert!(wrong(refused(&watched, exists(other))));
    assert!(wrong(refused(&watched, CreateError::Full { max: 2 })));
    assert!(wrong(refused(&watched, CreateError::Stopping)));
    let (of, head) = (watched.of, watched.head);
    let reason = OverReason::Closed;
    watched.oracle.over(of, Time::ZERO, reason, head).unwrap();
    assert!(wrong(refused(&watched, exists(match_id))));
}

#[test]
fn what_is_left_over_or_miscounted_at_the_end_is_found() {
    let mut watched = Watched::new();
    let a = watched.press(0);
    watched.seal(&[&a]).unwrap();
    let mut right = Counters::default();
    right.frames = 1;
    right.inputs = 1;
    watched.oracle.must_be_empty(&right, false).unwrap();
    let left = |change: fn(&mut Counters)| {
        let mut counters = right.clone();
        change(&mut counters);
        watched.oracle.must_be_empty(&counters, false).unwrap_err()
    };
    assert!(matches!(
        left(|c| c.sessions = 1),
        Violation::LeftOver { .. }
    ));
    assert!(matches!(left(|c| c.rooms = 1), Violation::LeftOver { .. }));
    assert!(matches!(left(|c| c.timers = 1), Violation::LeftOver { .. }));
    assert!(matches!(
        left(|c| c.frames = 2),
        Violation::Miscounted { .. }
    ));
    assert!(matches!(
        left(|c| c.inputs = 0),
        Violation::Miscounted { .. }
    ));
    let late = left(|c| c.frame_late(Duration::from_micros(3)));
    assert!(matches!(late, Violation::Lateness { .. }));
}

// --- Restarts ---------------------------------------------------------------------------------

/// A server that was killed: everything that it wrote is there.
const KILLED: End = End {
    power: false,
    may_lose: false,
    unmarked: false,
    is_synced: true,
    partial: false,
};

/// The power went, and what was not synced may be lost.
const POWER: End = End {
    power: true,
    may_lose: true,
    ..KILLED
};

impl Watched {
    /// A match of three frames, the first two with an input, that both players were sent.
    fn sent() -> Watched {
        let mut watched = Watched::new();
        for seat in 0..2 {
            watched.oracle.seated(watched.conns[seat]);
            watched.tell_start(seat);
        }
        for input in [Some(0), Some(1), None] {
            let inputs: Vec<_> = input.map(|seat| watched.press(seat)).into_iter().collect();
            watched.seal(&inputs.iter().collect::<Vec<_>>()).unwrap();
            let id = watched.head - 1;
            for seat in 0..2 {
                watched
                    .deliver(seat, id, &inputs.iter().collect::<Vec<_>>())
                    .unwrap();
            }
        }
        watched
    }

    /// The same with everything in the journal.
    fn written() -> Watched {
        let mut watched = Watched::sent();
        watched.oracle.written(deadline(2), 1);
        watched
    }

    fn created(&self) -> Created {
        Created {
            room: RoomId(1),
            created_unix_us: 0,
            seed: 42,
            hz: HZ,
            broadcast_every: 3,
            max_frames: 1000,
            input_bytes_max: 256,
            watchers_max: 0,
            watch_delay: 0,
            ready_timeout: Duration::ZERO,
            room_timeout: Duration::ZERO,
            reconnect_grace: Duration::ZERO,
            secret: Some(RoomSecret::from_bytes([0; 16])),
            members: vec![PlayerId(11), PlayerId(12)],
        }
    }

    /// The match as a journal has it, up to this frame.
    fn room(&self, head: u32) -> RestoredRoom {
        let mut rest = &self.bytes[..];
        while let Some((_, behind)) = FrameBytes::split(rest).filter(|(f, _)| f.id() < head) {
            rest = behind;
        }
        let frames = self.bytes.len() - rest.len();
        RestoredRoom {
            match_id: MatchId(9),
            created: self.created(),
            started_unix: Some(100),
            head,
            frames: self.bytes[..frames].to_vec(),
            joined: vec![true; 2],
            results: vec![None; 2],
            history: 0,
            forks: Vec::new(),
            next_seq: 9,
            first_segment: 1,
            cut: None,
        }
    }

    fn finished(&self) -> FinishedMatch {
        FinishedMatch {
            match_id: MatchId(9),
            created: self.created(),
            started_unix: Some(100),
            reason: OverReason::Closed,
            frames: self.head,
            results: vec![None; 2],
            log: self.bytes.clone(),
            segments: (1, 1),
            lack: None,
        }
    }

    /// The server ends like this, and the next one restores this room.
    fn restart(&mut self, end: End, room: RestoredRoom) -> Result<(), Violation> {
        let restored = Restored {
            rooms: vec![room.clone()],
            ..Restored::default()
        };
        self.oracle.read_after(end, &restored)?;
        self.oracle.restored(end, &room)?;
        self.oracle.begin_life(deadline(2), &[room.match_id]);
        Ok(())
    }
}

#[test]
fn a_right_restart_pleases_the_oracle() {
    let mut watched = Watched::written();
    let room = watched.room(3);
    watched.restart(KILLED, room).unwrap();
    let (of, now) = (watched.of, deadline(100));
    let oracle = &mut watched.oracle;
    // Its clock rests, and then goes on.
    oracle.log(of, now, ON_TIME, 3, &watched.bytes).unwrap();
    oracle.resumed_clock(of, now, Duration::ZERO).unwrap();
    let again = oracle.resumed_clock(of, now, Duration::ZERO);
    assert!(matches!(again, Err(Violation::Wait { .. })));
    let next = now + Duration::from_micros(1_000_000 / u64::from(HZ));
    oracle.log(of, next, ON_TIME, 4, &watched.bytes).unwrap();
}

#[test]
fn a_restore_that_loses_or_changes_something_is_found() {
    let found = |change: fn(&mut RestoredRoom)| {
        let mut watched = Watched::written();
        let mut room = watched.room(3);
        change(&mut room);
        let found = watched.restart(KILLED, room);
        assert!(
            matches!(found, Err(Violation::Restored { .. })),
            "{found:?}"
        );
    };
    found(|room| room.head = 1);
    found(|room| room.head = 4);
    found(|room| room.frames.truncate(3));
    found(|room| room.frames[5] ^= 1);
    found(|room| room.started_unix = Some(101));
    found(|room| room.started_unix = None);
    found(|room| room.created.seed = 43);
    found(|room| room.created.members.reverse());
    found(|room| room.match_id = MatchId(10));
    let mut watched = Watched::written();
    let nothing = watched.oracle.read_after(KILLED, &Restored::default());
    assert!(matches!(nothing, Err(Violation::Restored { .. })));
}

#[test]
fn what_was_synced_must_outlive_a_power_cut_and_the_rest_may_be_lost() {
    let mut watched = Watched::written();
    let room = watched.room(1);
    watched.restart(POWER, room).unwrap();
    assert_eq!(watched.oracle.forks(), 1);
    let mut watched = Watched::written();
    watched.oracle.synced(1);
    let room = watched.room(1);
    let found = watched.restart(POWER, room);
    assert!(matches!(found, Err(Violation::Restored { .. })));
}

#[test]
fn a_frame_that_was_sent_before_it_was_recorded_is_found() {
    let mut watched = Watched::sent();
    let room = watched.room(1);
    let found = watched.restart(KILLED, room);
    assert!(matches!(found, Err(Violation::Forgotten { seen: 3, .. })));
    // Nobody has seen it yet, but it is on its way.
    let mut watched = Watched::new();
    for seat in 0..2 {
        watched.oracle.seated(watched.conns[seat]);
        watched.tell_start(seat);
    }
    let input = watched.press(0);
    watched.seal(&[&input]).unwrap();
    let room = watched.room(0);
    watched.restart(KILLED, room).unwrap();
    let found = watched.deliver(0, 0, &[&input]);
    assert!(matches!(found, Err(Violation::FrameLost { frame: 0, .. })));
}

#[test]
fn a_client_that_goes_on_with_a_lost_history_is_found() {
    let begin = |head: u32| {
        let mut watched = Watched::sent();
        let room = watched.room(head);
        watched.restart(POWER, room).unwrap();
        let old = watched.conns[0];
        watched.conns[0] = watched.join_again();
        watched.oracle.continues(watched.conns[0], old);
        watched.oracle.seated(watched.conns[0]);
        watched
    };
    let tell = |watched: &mut Watched, next| {
        let event = ClientEvent::Started {
            unix_seconds: 100,
            next,
            head: 3,
        };
        watched.oracle.heard(watched.conns[0], Time::ZERO, &event)
    };
    let found = tell(&mut begin(1), 3);
    assert!(matches!(
        found,
        Err(Violation::TwoHistories {
            next: 3,
            lost: 1,
            ..
        })
    ));
    tell(&mut begin(3), 3).unwrap();
    tell(&mut begin(1), 0).unwrap();
}

#[test]
fn what_was_sent_before_a_power_cut_may_still_arrive() {
    let mut watched = Watched::sent();
    let input = watched.press(0);
    watched.seal(&[&input]).unwrap();
    let room = watched.room(1);
    watched.restart(POWER, room).unwrap();
    // As it was sent, and not as anything else.
    let found = watched.deliver(1, 3, &[]);
    assert!(matches!(found, Err(Violation::FrameDiffers { .. })));
    watched.deliver(0, 3, &[&input]).unwrap();
}

#[test]
fn a_match_that_comes_back_after_its_end_is_found() {
    let mut watched = Watched::sent();
    let (of, now, head) = (watched.of, deadline(2), watched.head);
    let oracle = &mut watched.oracle;
    oracle.over(of, now, OverReason::Closed, head).unwrap();
    oracle.written(now, 1);
    let room = watched.room(3);
    let found = watched.restart(KILLED, room);
    assert!(matches!(found, Err(Violation::Restored { .. })));
    // One that another server has given up.
    let mut watched = Watched::sent();
    let may_lose = End {
        unmarked: true,
        ..POWER
    };
    let nothing = Restored::default();
    watched.oracle.read_after(may_lose, &nothing).unwrap();
    assert_eq!(watched.oracle.begin_life(now, &[]), [watched.of]);
    let room = watched.room(3);
    let found = watched.restart(KILLED, room);
    assert!(matches!(found, Err(Violation::Restored { .. })));
}

#[test]
fn a_match_without_its_recording_is_found() {
    let ended = || {
        let mut watched = Watched::sent();
        let (of, now, head) = (watched.of, deadline(2), watched.head);
        let oracle = &mut watched.oracle;
        oracle.over(of, now, OverReason::Closed, head).unwrap();
        oracle.written(now, 1);
        watched
    };
    let recorded = |change: fn(&mut FinishedMatch)| {
        let watched = ended();
        let mut finished = watched.finished();
        change(&mut finished);
        watched.oracle.must_be_recorded(&Restored {
            finished: vec![finished],
            ..Restored::default()
        })
    };
    recorded(|_| ()).unwrap();
    let found = |found| matches!(found, Err(Violation::Restored { .. }));
    assert!(found(recorded(|of| of.frames = 2)));
    assert!(found(recorded(|of| of.log.truncate(1))));
    assert!(found(recorded(|of| of.reason = OverReason::Results)));
    assert!(found(recorded(|of| of.match_id = MatchId(8))));
    assert!(found(
        Watched::written()
            .oracle
            .must_be_recorded(&Restored::default())
    ));
}
