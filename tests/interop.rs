//! The real server against clients that share no code with it.
//!
//! Each test starts the server on free ports and plays one scenario of
//! `tests/interop/scenarios.py` against it, whose clients run on the C reference of KCP and
//! on a protobuf written by hand. Real sockets and real time are the point here; what can
//! be said in virtual time is said in the simulator.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Names the Python that has the `kcp` package.
const PYTHON: &str = "LOCKSTEP_INTEROP_PYTHON";

/// Time for the server to say where it listens.
const START: Duration = Duration::from_secs(20);

/// A server of its own for each scenario.
struct Server {
    child: Child,
    udp: String,
    web: String,
    /// Ends with the server, and returns what it logged.
    log: Option<JoinHandle<String>>,
}

impl Server {
    fn start() -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lockstep-server"))
            .args(["--udp", "127.0.0.1:0", "--web", "127.0.0.1:0"])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (lines, log) = follow(stderr);
        let mut server = Server {
            child,
            udp: String::new(),
            web: String::new(),
            log: Some(log),
        };
        server.learn_addresses(&lines);
        server
    }

    fn learn_addresses(&mut self, lines: &Receiver<String>) {
        let deadline = Instant::now() + START;
        while self.udp.is_empty() || self.web.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                let log = self.stop();
                panic!("the server does not say where it listens; it says:\n{log}");
            };
            for (address, before) in [
                (&mut self.udp, "KCP on udp "),
                (&mut self.web, "HTTP on http://"),
            ] {
                if let Some((_, rest)) = line.split_once(before) {
                    let end = rest.find(|c: char| c.is_whitespace() || c == '/');
                    rest[..end.unwrap_or(rest.len())].clone_into(address);
                }
            }
        }
    }

    /// Kills the server. Returns its log, at the first call.
    fn stop(&mut self) -> String {
        // It fails if the server has ended by itself, which its log tells.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log.take().map(JoinHandle::join);
        log.map_or_else(String::new, |log| log.expect("the log is read"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads a log to its end, so that the server never waits for its reader.
fn follow(stderr: ChildStderr) -> (Receiver<String>, JoinHandle<String>) {
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || {
        let mut all = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            all.push_str(&line);
            all.push('\n');
            // Nobody listens once the addresses are known.
            let _ = sender.send(line);
        }
        all
    });
    (receiver, thread)
}

fn python() -> Command {
    let Some(python) = std::env::var_os(PYTHON) else {
        panic!("{PYTHON} names no Python with the package kcp: run ./scripts/test, which does");
    };
    let directory: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
    let mut command = Command::new(python);
    command.arg("-B").arg(directory.join("scenarios.py"));
    command
}

fn play(name: &str) {
    let mut client = python();
    let mut server = Server::start();
    let output = client
        .args([name, "--udp", &server.udp, "--web", &server.web])
        .output()
        .expect("Python starts");
    let ended = server.child.try_wait().expect("the server can be asked");
    let log = server.stop();
    assert!(ended.is_none(), "the server ended: {ended:?}\n{log}");
    assert!(
        output.status.success(),
        "{}{}\nthe server's log:\n{log}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(!log.contains("panicked at"), "the server panicked:\n{log}");
}

macro_rules! scenarios {
    ($($(#[$attribute:meta])* $name:ident,)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                play(stringify!($name));
            }
        )*

        #[test]
        fn every_scenario_has_its_test() {
            let output = python().arg("--list").output().expect("Python starts");
            let listed = String::from_utf8_lossy(&output.stdout);
            let mut listed: Vec<_> = listed.lines().collect();
            let mut tested = vec![$(stringify!($name)),*];
            listed.sort_unstable();
            tested.sort_unstable();
            assert_eq!(listed, tested);
        }
    };
}

scenarios! {
    a_silent_client_waits_while_another_loads,
    a_window_of_32_catches_up,
    all_inputs_of_a_frame_are_kept,
    bad_network,
    catch_up_of_a_long_match,
    codec,
    conv_zero,
    echo_without_a_seat,
    error_codes,
    five_copies_of_each_datagram,
    forged_connects_change_nothing,
    heartbeats_are_answered,
    message_mode,
    one_conv_for_all,
    packets_across_messages,
    progress_reaches_those_who_joined,
    quick_restart_over_a_slow_network,
    ready_again_restarts_the_stream,
    restart_in_the_first_second,
    restart_with_a_new_conv,
    restart_with_the_same_conv,
    restarts_over_a_slow_network,
    results_do_not_wait_for_the_offline,
    results_end_the_room,
    stream_mode,
    the_second_connection_takes_the_seat,
    unity_habits,
}
