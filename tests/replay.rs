//! `lockstep-replay`: what it prints, what it finds, and that it plays what was recorded.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tape;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::id::{Conv, PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::frame::{Command as Press, Frame};
use lockstep_server::engine::wire::message::Version;
use lockstep_server::limits::DATAGRAM_MAX;
use serde_json::Value;
use tape::{Dir, PLAYERS, SEED, STARTED, Tape, every_frame, recording};

/// Time for what should take moments, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn tool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep-replay"));
    command.stdin(Stdio::null());
    command
}

fn run<S: AsRef<OsStr>>(args: &[S]) -> (bool, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = tool().args(args).output().unwrap();
    assert!(status.code().is_some(), "it was killed");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.success(), text(stdout), text(stderr))
}

// --- Print ----------------------------------------------------------------------------------

#[test]
fn print_shows_the_match_and_each_frame_with_input() {
    let dir = Dir::new("print");
    let (bytes, _) = recording("print-journal");
    let file = dir.path("77.lkr");
    fs::write(&file, bytes).unwrap();
    let (good, text, errors) = run(&[OsStr::new("print"), file.as_os_str()]);
    assert!(good, "{errors}");
    let expected = "\
match    77
room     7
players  101, 102, in the order of seats
hz       30
seed     -7
created  2023-11-14 22:13:20 UTC (1700000000)
started  2023-11-14 22:13:25 UTC (1700000005)
over     results
winner   player 102 says 102
frames   9, of which those with input:
      0 | seat 1 sid 1 x -3 y 0 data 00ff | seat 2 sid 1 x -3 y 1
      1 | seat 1 sid 1 x -2 y 0 data 00ff | seat 2 sid 1 x -2 y 1
      2 | seat 1 sid 1 x -1 y 0 data 00ff | seat 2 sid 1 x -1 y 1
      6 | seat 1 sid 1 x 3 y 0 data 00ff | seat 2 sid 1 x 3 y 1
      7 | seat 1 sid 1 x 4 y 0 data 00ff | seat 2 sid 1 x 4 y 1
";
    assert_eq!(text, expected);
    let (good, text, errors) = run(&["print".as_ref(), file.as_os_str(), "--json".as_ref()]);
    assert!(good, "{errors}");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(
        (&lines[0]["match"], &lines[0]["seed"]),
        (&"77".into(), &SEED.into())
    );
    assert_eq!(lines[0]["started"], STARTED);
    assert_eq!(lines[0]["seats"][1]["result"], "102");
    assert_eq!(lines[4]["frame"], 6);
    assert_eq!(lines[4]["inputs"][1]["player"], "102");
    assert_eq!(lines[4]["inputs"][1]["x"], 3);
}

/// The program in docs/recording.md.
fn python_reader() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recording.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```python\n").unwrap();
    rest.split_once("```\n").unwrap().0.to_owned()
}

#[test]
fn the_reader_on_the_page_reads_the_same() {
    let dir = Dir::new("python");
    let (bytes, _) = recording("python-journal");
    let (reader, file) = (dir.path("reader.py"), dir.path("77.lkr"));
    fs::write(&reader, python_reader()).unwrap();
    let python = std::env::var("LOCKSTEP_INTEROP_PYTHON").unwrap_or("python3".to_owned());
    let read = || {
        let output = Command::new(&python).arg(&reader).arg(&file).output();
        output.expect("python3 is there; scripts/test installs it")
    };
    fs::write(&file, &bytes).unwrap();
    let output = read();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let values = |text: &str| -> Vec<Value> {
        let lines = text.lines();
        lines.map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let (good, text, errors) = run(&["print".as_ref(), file.as_os_str(), "--json".as_ref()]);
    assert!(good, "{errors}");
    let found = values(str::from_utf8(&output.stdout).unwrap());
    assert_eq!(found, values(&text));
    for cut in [0, 50, 71, 72, 100, bytes.len() - 1] {
        fs::write(&file, &bytes[..cut]).unwrap();
        assert!(!read().status.success(), "cut at {cut}");
    }
    for at in [100, 200, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&file, &damaged).unwrap();
        assert!(!read().status.success(), "byte {at}");
    }
}

#[test]
fn a_match_is_found_in_a_data_directory_by_its_id() {
    let dir = Dir::new("directory");
    let (mut tape, _) = Tape::open(&dir.0, 2000);
    let (a, _) = tape.play(5, 1, 40);
    tape.next_segment();
    let (b, _) = tape.play(6, 2, 3);
    let open = tape.begin(7, 3);
    drop(tape);
    let shown = |id: u64| {
        run(&[
            "print".as_ref(),
            dir.0.as_os_str(),
            "--json".as_ref(),
            "--match".as_ref(),
            id.to_string().as_ref(),
        ])
    };
    for of in [&a, &b] {
        let (good, text, errors) = shown(of.id.0);
        assert!(good, "{errors}");
        assert_eq!(text.lines().count(), usize::try_from(of.head).unwrap() + 1);
    }
    let (good, _, errors) = shown(open.id.0);
    assert!(
        !good && errors.contains("no match 7 has ended in it; there are 5, 6"),
        "{errors}"
    );
    let (good, _, errors) = run(&["print".as_ref(), dir.0.as_os_str()]);
    assert!(
        !good && errors.contains("choose one of its matches with --match: 5, 6"),
        "{errors}"
    );
    let (good, text, errors) = run(&[dir.0.as_os_str()]);
    assert!(good, "{errors}");
    assert!(
        text.contains("match 5: whole, 40 frames, results"),
        "{text}"
    );
    assert!(
        text.contains("match 7: not over, 0 frames so far"),
        "{text}"
    );
}

// --- Check ----------------------------------------------------------------------------------

#[test]
fn what_is_no_recording_is_told_with_a_remedy() {
    let dir = Dir::new("none");
    let file = dir.path("some");
    for (content, says) in [
        (&b""[..], "no match can be read in it; is it a recording?"),
        (
            b"{\"error\": null}",
            "no match can be read in it; is it a recording?",
        ),
        (&[0; 5000], "no match can be read in it; is it a recording?"),
    ] {
        fs::write(&file, content).unwrap();
        for command in ["print", "play"] {
            let (good, _, errors) = run(&[command.as_ref(), file.as_os_str()]);
            assert!(!good && errors.contains(says), "{command}: {errors}");
        }
        let (good, _, _) = run(&[file.as_os_str()]);
        assert!(!good);
    }
    let (good, _, errors) = run(&[dir.0.as_os_str()]);
    assert!(
        !good && errors.contains("no journal in this directory"),
        "{errors}"
    );
    let (good, _, errors) = run(&[dir.path("nothing").as_os_str()]);
    assert!(
        !good && errors.contains("is this the path of a recording?"),
        "{errors}"
    );
}

#[test]
fn each_flipped_byte_is_told_with_its_place() {
    let dir = Dir::new("flipped");
    let (bytes, _) = recording("flipped-journal");
    let file = dir.path("77.lkr");
    fs::write(&file, &bytes).unwrap();
    let (good, text, errors) = run(&["check".as_ref(), file.as_os_str()]);
    assert!(good, "{text}{errors}");
    assert_eq!(text, "match 77: whole, 9 frames, results\n");
    // A process for each; which bit of a byte is the library's test.
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&file, &damaged).unwrap();
        let (good, text, _) = run(&["check".as_ref(), file.as_os_str()]);
        assert!(!good, "byte {at} is not missed");
        let place = text.split(": byte ").nth(1).expect("a place");
        let place: usize = place.split(':').next().unwrap().parse().unwrap();
        assert!(place <= at && at - place < 200, "byte {at}: {text}");
    }
}

#[test]
fn a_recording_that_was_cut_off_is_not_taken_for_a_whole_one() {
    let dir = Dir::new("cut");
    let (bytes, _) = recording("cut-journal");
    let file = dir.path("77.lkr");
    for cut in (0..bytes.len()).step_by(7) {
        fs::write(&file, &bytes[..cut]).unwrap();
        for command in ["check", "print", "play"] {
            let (good, _, errors) = run(&[command.as_ref(), file.as_os_str()]);
            assert!(!good, "{command} of {cut} bytes");
            assert!(!errors.contains("panicked"), "{errors}");
        }
    }
}

// --- Play -----------------------------------------------------------------------------------

/// A player that does nothing but look.
struct Viewer {
    socket: UdpSocket,
    client: Client,
    joined: bool,
    started: Option<i64>,
    frames: Vec<Frame>,
    closed: bool,
}

impl Viewer {
    fn new(server: SocketAddr, player: u64, version: Version) -> Viewer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut config = ClientConfig::new(PlayerId(player), RoomId(7));
        config.conv = Conv(u32::try_from(player).unwrap());
        config.version = version;
        let mut client = Client::new(Time::ZERO, config);
        client.join();
        Viewer {
            socket,
            client,
            joined: false,
            started: None,
            frames: Vec::new(),
            closed: false,
        }
    }

    fn turn(&mut self, now: Time) {
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(len) => self.client.handle_datagram(now, &mut buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // After the end nobody listens any more.
                Err(error) => assert!(self.closed, "{error}"),
            }
        }
        self.client.handle_timeout(now);
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Joined { seed, .. } => {
                    assert_eq!(seed, SEED);
                    self.joined = true;
                }
                ClientEvent::Started { unix_seconds, .. } => self.started = Some(unix_seconds),
                ClientEvent::Frame(frame) => {
                    // What is pressed into a recording is lost.
                    self.client.input(Press { sid: 5, x: 5, y: 5 });
                    self.frames.push(frame);
                }
                ClientEvent::Closed => self.closed = true,
                ClientEvent::Fault(fault) => panic!("{fault:?}"),
                _ => {}
            }
        }
        let mut batch = Transmits::default();
        self.client.poll_transmit(now, &mut batch);
        for (_, datagram) in batch.iter() {
            let _ = self.socket.send(datagram);
        }
    }
}

/// The tool while it plays, killed with the test.
struct Playing {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    addr: SocketAddr,
}

impl Playing {
    fn start(file: &OsStr, speed: &str) -> Playing {
        let args = ["--udp", "127.0.0.1:0", "--speed", speed];
        let mut child = tool()
            .arg("play")
            .arg(file)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("it says where it listens").unwrap();
        let addr = line.split("on udp ").nth(1).unwrap();
        let addr = addr.split(": ").next().unwrap().parse().unwrap();
        Playing { child, lines, addr }
    }

    /// Waits until it has ended by itself, and returns what it said meanwhile.
    fn end(mut self) -> String {
        let lines: Vec<String> = self.lines.by_ref().map(Result::unwrap).collect();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{lines:?}");
        lines.join("\n")
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets all of them look until the end.
fn watch(viewers: &mut [Viewer]) {
    let began = Instant::now();
    // Who comes after the end is too late.
    while !viewers.iter().all(|viewer| viewer.joined) {
        assert!(began.elapsed() < PATIENCE, "not all are let in");
        for viewer in &mut *viewers {
            viewer.turn(Time::since_origin(began.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    for viewer in &mut *viewers {
        viewer.client.ready();
    }
    while !viewers.iter().all(|viewer| viewer.closed) {
        assert!(began.elapsed() < PATIENCE, "the match does not end");
        for viewer in &mut *viewers {
            viewer.turn(Time::since_origin(began.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // Their last word: that Close has come.
    for viewer in viewers {
        viewer.turn(Time::since_origin(began.elapsed()));
    }
}

#[test]
fn a_recording_is_played_to_clients_of_both_versions() {
    let dir = Dir::new("play");
    let (bytes, expected) = recording("play-journal");
    let file = dir.path("77.lkr");
    fs::write(&file, bytes).unwrap();
    for speed in ["1", "max", "20"] {
        let playing = Playing::start(file.as_os_str(), speed);
        let mut viewers = [
            Viewer::new(playing.addr, PLAYERS[0], Version::V1),
            Viewer::new(playing.addr, PLAYERS[1], Version::V2),
        ];
        watch(&mut viewers);
        for viewer in &viewers {
            assert_eq!(viewer.started, Some(STARTED), "the stamp of old");
            assert_eq!(viewer.frames, expected, "speed {speed}");
        }
        let said = playing.end();
        assert!(said.contains("over after 9 frames"), "{said}");
    }
}

#[test]
fn a_long_match_comes_whole_however_fast_it_is_played() {
    let dir = Dir::new("long");
    let (mut tape, _) = Tape::open(&dir.0, 1 << 30);
    let mut of = tape.begin(77, 7);
    for _ in 0..1000 {
        tape.frame(&mut of);
        tape.frame(&mut of);
        tape.skip(&mut of, 1);
    }
    tape.end(&mut of);
    drop(tape);
    let playing = Playing::start(dir.0.as_os_str(), "max");
    // One seat alone is enough.
    let mut viewers = [Viewer::new(playing.addr, PLAYERS[1], Version::V2)];
    watch(&mut viewers);
    assert_eq!(viewers[0].frames, every_frame(&of.frames, of.head));
    playing.end();
}

#[test]
fn arguments_that_cannot_be_are_told() {
    for args in [
        &["play", "x", "--speed", "0"][..],
        &["play", "x", "--speed", "fast"],
        &["play", "x", "--udp", "here"],
        &["print"],
        &[],
    ] {
        let output = tool().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
