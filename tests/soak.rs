//! The short form of `scripts/soak`: players that join late, crash, come back, take seats over
//! and lose datagrams, in rooms that are made and ended, against the real server.

mod real;

use real::RealServer;

#[test]
fn whatever_players_go_through_frames_are_exact_and_the_server_forgets_them_all() {
    // A room's last timer stays for as long as a room may, so that is short.
    let server = RealServer::start(&[
        "--ready-timeout=1",
        "--idle-timeout=3",
        "--reconnect-grace=3",
        "--room-timeout=13",
    ]);
    let report = server
        .bots(&[
            "soak",
            "--bots=60",
            "--seconds=8",
            "--life-min=2",
            "--life-max=4",
            "--input-hz=5",
            "--loss=2",
            "--delay=20",
            "--jitter=10",
        ])
        .report();
    println!("{report:#}");
    // It was not for lack of trying.
    for count in [
        "rooms_by_results",
        "rooms_closed",
        "rooms_abandoned",
        "crashes",
        "moves",
        "gone",
    ] {
        assert!(report[count].as_u64().unwrap() > 0, "{count}: {report}");
    }
    assert!(server.count("sessions_moved") > 0);
    for name in ["sessions", "rooms", "timers"] {
        assert_eq!(server.count(name), 0, "{name}");
    }
}
