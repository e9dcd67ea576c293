//! The real server on free ports of the loopback, the real bots against it, and what the
//! server says of itself. `support` is the same without sockets.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Time for what should take moments, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A program without settings that the environment of the test may hold.
fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LOCKSTEP_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A server that runs, and dies with the test.
pub(crate) struct RealServer {
    child: Child,
    pub(crate) udp: SocketAddr,
    pub(crate) web: SocketAddr,
    /// With `--grpc`.
    pub(crate) grpc: Option<SocketAddr>,
}

impl RealServer {
    pub(crate) fn start<S: AsRef<OsStr>>(settings: &[S]) -> RealServer {
        let mut child = program(env!("CARGO_BIN_EXE_lockstep-server"))
            .args(["--udp", "127.0.0.1:0", "--web", "127.0.0.1:0"])
            .args(["--log", "info,lockstep_server::io=warn"])
            .args(settings)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo built the binary");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
        let mut address = |word: &str| loop {
            let line = lines.next().expect("the server lives").unwrap();
            if line.to_lowercase().contains(word) {
                break address_in(&line);
            }
        };
        let (udp, web) = (address("kcp on udp"), address("http on http"));
        let has_grpc = settings.iter().any(|setting| setting.as_ref() == "--grpc");
        let grpc = has_grpc.then(|| address("grpc on"));
        // What else it says is shown, and must not fill the pipe.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                println!("server: {line}");
            }
        });
        RealServer {
            child,
            udp,
            web,
            grpc,
        }
    }

    // --- HTTP -----------------------------------------------------------------------------

    /// The JSON of an answer with this status.
    pub(crate) fn ask(&self, request: &str, body: &str, status: u16) -> Value {
        let (found, answer) = self.try_ask(request, body);
        assert_eq!(found, status, "{request}: {answer}");
        answer
    }

    /// The status of an answer, and its JSON.
    pub(crate) fn try_ask(&self, request: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.web).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (host, length) = (self.web, body.len());
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n"
        );
        write!(stream, "{head}Connection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        let status = status.and_then(|digits| digits.parse().ok());
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head ends");
        let json = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        (status.expect("a status has three digits"), json)
    }

    pub(crate) fn create_room(&self, room: u64, members: &[u64]) {
        let body = json!({ "room": room, "members": members });
        self.ask("POST /api/rooms", &body.to_string(), 201);
    }

    pub(crate) fn stats(&self) -> Value {
        self.ask("GET /api/stats", "", 200)
    }

    /// A counter of the engine.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let stats = self.stats();
        let count = stats["engine"][name].as_u64();
        count.unwrap_or_else(|| panic!("no {name} in {stats}"))
    }

    /// Waits until a counter of the engine is as it should be.
    pub(crate) fn wait_for(&self, name: &str, mut is_right: impl FnMut(u64) -> bool) {
        let began = Instant::now();
        while !is_right(self.count(name)) {
            assert!(began.elapsed() < PATIENCE, "{name}: {}", self.stats());
            thread::sleep(Duration::from_millis(50));
        }
    }

    // --- The process ----------------------------------------------------------------------

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal and waits for its end: its exit status, if it was not killed.
    #[cfg(unix)]
    pub(crate) fn end(self, signal: rustix::process::Signal) -> Option<i32> {
        self.signal(signal);
        self.ended()
    }

    /// Sends it a signal.
    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        use rustix::process::{Pid, kill_process};
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it has not ended yet.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end: its exit status, if it was not killed.
    pub(crate) fn ended(mut self) -> Option<i32> {
        let began = Instant::now();
        while self.runs() {
            assert!(began.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
        self.child.wait().unwrap().code()
    }

    /// Its resident memory, in kB.
    #[cfg(target_os = "linux")]
    pub(crate) fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kb = line.expect("a process has memory").trim();
        kb.trim_end_matches("kB").trim().parse().unwrap()
    }

    /// Processor time that it has used.
    #[cfg(target_os = "linux")]
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name, which may hold spaces: the 14th and 15th field, in hundredths.
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks: u64 = fields[11..13]
            .iter()
            .map(|f| f.parse::<u64>().unwrap())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    // --- Bots -----------------------------------------------------------------------------

    /// Bots with these arguments, which play while the test goes on.
    pub(crate) fn bots(&self, args: &[&str]) -> Bots {
        let (udp, web) = (self.udp.to_string(), self.web.to_string());
        let mut all = args.to_vec();
        all.extend(["--server", &udp, "--web", &web]);
        Bots::start(&all)
    }
}

/// A server with these settings that does not start: its exit status and what it says.
pub(crate) fn failed_start<S: AsRef<OsStr>>(settings: &[S]) -> (Option<i32>, String) {
    let output = program(env!("CARGO_BIN_EXE_lockstep-server"))
        .args(settings)
        .output()
        .expect("cargo built the binary");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

impl Drop for RealServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bots that play, and die with the test.
pub(crate) struct Bots(Option<Child>);

impl Bots {
    /// Bots that find a server by themselves.
    pub(crate) fn start(args: &[&str]) -> Bots {
        let child = program(env!("CARGO_BIN_EXE_lockstep-bots"))
            .args(args)
            .arg("--json")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo built the binary");
        Bots(Some(child))
    }

    /// Waits for their end, and returns their report. All must be well.
    pub(crate) fn report(self) -> Value {
        let (succeeded, stdout, stderr) = self.end();
        assert!(succeeded, "{stderr}\n{stdout}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(report["all_well"], true, "{stdout}");
        report
    }

    /// Waits for their end, and returns why they could not play.
    pub(crate) fn failure(self) -> String {
        let (succeeded, stdout, stderr) = self.end();
        assert!(!succeeded && stdout.is_empty(), "{stderr}\n{stdout}");
        stderr
    }

    fn end(mut self) -> (bool, String, String) {
        let child = self.0.take().expect("they are asked once");
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.success(), text(stdout), text(stderr))
    }
}

impl Drop for Bots {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The address that a line of the log names.
fn address_in(line: &str) -> SocketAddr {
    let (_, port) = line
        .split_once("127.0.0.1:")
        .unwrap_or_else(|| panic!("no address: {line}"));
    let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
    ([127, 0, 0, 1], digits.parse().unwrap()).into()
}
