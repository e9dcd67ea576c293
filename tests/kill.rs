//! The short form of `scripts/kill`: the real server is killed again and again while rooms are
//! created and played, and the matches go on.

mod real;

use real::Bots;

#[test]
fn a_server_that_is_killed_again_and_again_loses_nothing_that_anybody_saw() {
    let report = Bots::start(&[
        "kill",
        "--program",
        env!("CARGO_BIN_EXE_lockstep-server"),
        "--rooms=10",
        "--kills=5",
        "--terms=1",
        // One that does not take long.
        "--seed=1",
    ])
    .report();
    println!("{report:#}");
    let count = |name: &str| report[name].as_u64().unwrap();
    assert_eq!((count("kills"), count("terms")), (5, 1));
    assert_eq!((count("rooms"), count("players")), (10, 20));
    // Players of v1 have had everything again, those of v2 have gone on.
    assert!(count("frames_compared") > count("frames"), "{report}");
    assert!(count("resumes") > 0, "{report}");
    assert!(count("inputs_in_frames") > 0, "{report}");
}
