//! The command line, on the real binary: exit codes, what goes to which stream, and the
//! start and end of a server. What a setting means is tested where it is parsed.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Time for what should take milliseconds, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// The binary, without settings that the environment of the test may hold.
fn server() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep-server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LOCKSTEP_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A server that runs, and dies with the test.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("cargo built the binary");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // The test may be over; the server must not block on a full pipe.
                let _ = sender.send(line);
            }
        });
        Running { child, lines }
    }

    /// The next line of its log.
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the server logs")
    }

    /// The first lines of its log up to the one that holds `text`, ignoring case.
    fn lines_until(&self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines
            .last()
            .is_some_and(|line: &String| line.to_lowercase().contains(text))
        {
            assert!(lines.len() < 20, "no {text:?} in {lines:#?}");
            lines.push(self.line());
        }
        lines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of `child`; one that outlives `limit` is killed.
fn end(child: &mut Child, limit: Duration) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if began.elapsed() >= limit {
            let _ = child.kill();
            panic!("still running after {limit:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs to the end what should not start a server. What it says fits the pipes.
fn output(command: &mut Command) -> Output {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("cargo built the binary");
    end(&mut child, PATIENCE);
    child.wait_with_output().expect("it is our child")
}

/// The lines on stderr of a server that refuses to start with this exit code.
fn refusal(command: &mut Command, code: i32) -> Vec<String> {
    let output = output(command);
    let stderr = String::from_utf8(output.stderr).expect("lines are UTF-8");
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr.lines().map(str::to_string).collect()
}

#[test]
fn a_wrong_setting_is_one_line_and_exit_code_2() {
    assert_eq!(
        refusal(server().args(["--hz", "0"]), 2),
        ["lockstep-server: --hz: \"0\" is not a number from 1 to 240"]
    );
    assert_eq!(
        refusal(server().env("LOCKSTEP_HZ", "many"), 2),
        ["lockstep-server: LOCKSTEP_HZ: \"many\" is not a number from 1 to 240"]
    );
    assert_eq!(
        refusal(server().args(["--webb", "10002"]), 2),
        ["lockstep-server: \"--webb\" is no setting; did you mean --web?"]
    );
}

#[test]
fn help_and_version_go_to_stdout_and_start_nothing() {
    for (flag, text) in [
        ("--help", "--ready-timeout <SECONDS>"),
        ("-version", "lockstep-server "),
    ] {
        let output = output(server().arg(flag));
        assert!(output.status.success());
        assert!(output.stderr.is_empty());
        assert!(String::from_utf8(output.stdout).unwrap().contains(text));
    }
}

#[test]
fn a_port_in_use_says_so_and_names_the_setting() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap().to_string();
    assert_in_use(
        server().args(["--udp", &address, "--web", "127.0.0.1:0"]),
        "--udp",
        &address,
    );

    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap().to_string();
    assert_in_use(
        server().args(["--web", &address, "--udp", "127.0.0.1:0"]),
        "--web",
        &address,
    );
}

/// The last line says it; the log may have begun before.
fn assert_in_use(command: &mut Command, setting: &str, address: &str) {
    let lines = refusal(command, 1);
    let last = lines.last().expect("it says why");
    for part in [setting, address, "in use"] {
        assert!(last.contains(part), "{part}: {last}");
    }
}

#[test]
fn the_first_lines_say_what_listens_where() {
    let server = Running::start(server().args(["-udp=127.0.0.1:0", "-web", "127.0.0.1:0"]));
    let lines = server.lines_until("http");
    let udp = lines
        .iter()
        .find(|line| line.to_lowercase().contains("udp"));
    assert_ne!(
        port_in(udp.expect("the line with UDP comes before the one with HTTP")),
        0
    );
    let web = lines.last().expect("the line with HTTP");
    TcpStream::connect(("127.0.0.1", port_in(web))).expect("HTTP listens where the log says");
}

/// The port behind the first `127.0.0.1:` of a line.
fn port_in(line: &str) -> u16 {
    let (_, rest) = line
        .split_once("127.0.0.1:")
        .unwrap_or_else(|| panic!("no address: {line}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no port: {line}"))
}

#[cfg(unix)]
#[test]
fn sigint_and_sigterm_end_the_server_with_0_within_3_seconds() {
    use rustix::process::{Pid, Signal, kill_process};
    for signal in [Signal::INT, Signal::TERM] {
        let mut server = Running::start(server().args(["-udp=127.0.0.1:0", "-web=127.0.0.1:0"]));
        server.lines_until("http");
        kill_process(Pid::from_child(&server.child), signal).unwrap();
        assert_eq!(
            end(&mut server.child, Duration::from_secs(3)).code(),
            Some(0),
            "{signal:?}"
        );
    }
}
