//! Players that crash in a long match and come back, over real sockets.

mod real;

use real::RealServer;

#[test]
fn a_player_that_returns_is_live_with_the_frames_of_the_others() {
    let server = RealServer::start(&["--max-frames=5000"]);
    for (times, weather) in [(3, &[][..]), (2, &["--loss=5", "--delay=20", "--jitter=5"])] {
        let times_given = format!("--times={times}");
        let mut args = vec!["return", "--frames=600", "--players=3", &times_given];
        args.extend(weather);
        // The second run takes the number of the first one's room, which is over by then.
        let report = server.bots(&args).report();
        println!("{report:#}");
        let returns = report["returns"].as_array().unwrap();
        assert_eq!(returns.len(), 2 * times);
        for (one, version) in returns.iter().zip([1, 2].into_iter().cycle()) {
            let count = |name: &str| one[name].as_u64().unwrap();
            assert_eq!(count("version"), version);
            assert!(count("frames") >= 600, "{one}");
            // An input of 20 bytes or so a frame and more.
            if version == 1 {
                assert!(count("held") == 0 && count("bytes") > 600 * 20, "{one}");
            } else {
                assert!(count("held") >= 600 && count("bytes") < 600 * 20, "{one}");
            }
            let ms = |name: &str| one[name].as_f64().unwrap();
            let steps = ["connected_ms", "started_ms", "caught_up_ms", "live_ms"].map(ms);
            assert!(steps.is_sorted(), "{one}");
        }
    }
}

#[test]
fn a_match_that_would_end_before_the_returns_is_refused_and_closed() {
    let server = RealServer::start(&["--max-frames=5500"]);
    let text = server.bots(&["return", "--frames=5500"]).failure();
    assert!(
        text.contains("after 5500 frames (--max-frames of the server)"),
        "{text}"
    );
    server.wait_for("rooms", |rooms| rooms == 0);
}
