//! The command line, on the real binary: exit codes, what goes to which stream, and the
//! start and end of a server. What a setting means is tested where it is parsed.

// Helpers of tests are tests, which clippy does not see.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::id::{PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::message::ConnectCode;
use lockstep_server::limits::DATAGRAM_MAX;
use serde_json::Value;

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

    /// Kills it; all that it has logged and was not looked at.
    fn into_log(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Ends with the pipe.
        self.lines.iter().collect::<Vec<_>>().join("\n")
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

#[test]
fn the_log_says_which_tokens_are_taken() {
    for (auth, says) in [
        ("open", "auth open: any token is taken"),
        ("room", "auth room: players need the secret"),
    ] {
        let at = ["--udp", "127.0.0.1:0", "--web", "127.0.0.1:0"];
        let server = Running::start(server().args(at).args(["--auth", auth]));
        let lines = server.lines_until("http");
        assert!(lines.iter().any(|line| line.contains(says)), "{lines:#?}");
    }
}

#[test]
fn a_web_side_that_others_reach_without_a_token_does_not_start() {
    let mut original = server();
    let lines = refusal(original.args(["-web", ":10002", "-udp", "127.0.0.1:0"]), 2);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for part in ["--web", "--admin-token", "--web-unprotected"] {
        assert!(lines[0].contains(part), "{lines:#?}");
    }
    // That word makes it start, and the log warns.
    let said = ["-web", ":0", "-udp", "127.0.0.1:0", "-web-unprotected"];
    let server = Running::start(server().args(said));
    let lines = server.lines_until("http");
    let warns = |line: &String| line.contains("WARN") && line.contains("--web-unprotected");
    assert!(lines.iter().any(warns), "{lines:#?}");
}

#[test]
fn a_secret_is_read_from_its_file_and_a_missing_file_is_one_line() {
    let path = std::env::temp_dir().join(format!("lockstep-secret-{}", std::process::id()));
    let run = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut command = server();
        command.args(["--udp", "127.0.0.1:0", "--web", "127.0.0.1:0"]);
        command.args(["--auth", "ticket", "--ticket-secret-file"]);
        command.arg(&path);
        command
    };
    let server = Running::start(&mut run(&format!("{SIGNS}\n{OLD}\n")));
    server.lines_until("auth ticket");
    let large = refusal(&mut run(&"x".repeat(5000)), 2);
    assert!(
        large[0].ends_with("it has more than 4096 bytes"),
        "{large:#?}"
    );
    let mut missing = run("");
    std::fs::remove_file(&path).unwrap();
    let lines = refusal(&mut missing, 2);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("--ticket-secret-file: the file cannot be read"));
}

// --- Nothing shows a secret ---------------------------------------------------------------

const SIGNS: &str = "a-secret-that-signs-tickets-0123";
const OLD: &str = "a-secret-that-signed-them-before";
const ADMIN: &str = "a-token-of-the-operator";

/// The answer to a request, head and all. `authorization` is the value of the header.
fn http(port: u16, method: &str, target: &str, authorization: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What a Connect with this token is answered.
fn connect(port: u16, room: u64, player: u64, token: &str) -> ConnectCode {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    let origin = Instant::now();
    let now = || Time::since_origin(origin.elapsed());
    let mut config = ClientConfig::new(PlayerId(player), RoomId(room));
    config.token = token.to_owned();
    let mut client = Client::new(now(), config);
    client.join();
    let mut batch = Transmits::default();
    let mut buffer = [0; DATAGRAM_MAX];
    while origin.elapsed() < PATIENCE {
        while let Some(event) = client.poll_event() {
            match event {
                ClientEvent::Refused(code) => return code,
                // By then the seat is taken.
                ClientEvent::Joined { .. } => return ConnectCode::Ok,
                _ => {}
            }
        }
        client.poll_transmit(now(), &mut batch);
        for (_, datagram) in batch.iter() {
            socket.send(datagram).unwrap();
        }
        batch.clear();
        let wait = client.poll_timeout(now()).map(|at| at.since(now()));
        let wait = wait.unwrap_or(PATIENCE).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(wait)).unwrap();
        if let Ok(len) = socket.recv(&mut buffer) {
            client.handle_datagram(now(), &mut buffer[..len]);
        }
        client.handle_timeout(now());
    }
    panic!("no answer to a Connect");
}

/// What stands behind `begin` up to the next bracket.
fn part<'a>(text: &'a str, begin: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("{text}"));
    rest.split(']').next().unwrap()
}

/// Starts a server with these arguments, creates room 1 for player 1 and room 2 for player 2,
/// lets good and bad tokens connect, and asks for everything. `token_of` finds the token of
/// the only member in the two answers to creation, a text and a JSON. Returns all that was
/// logged and answered, and what may stand nowhere in it.
fn live(args: &[&str], token_of: fn(&str, &Value) -> [String; 2]) -> (String, Vec<String>) {
    let mut command = server();
    command.args([
        "--udp",
        "127.0.0.1:0",
        "--web",
        "127.0.0.1:0",
        "--log",
        "trace",
    ]);
    let server = Running::start(command.args(args).env("LOCKSTEP_ADMIN_TOKEN", ADMIN));
    let mut seen = server.lines_until("http on");
    let port_of = |name| {
        seen.iter()
            .find(|line| line.contains(name))
            .map(|l| port_in(l))
    };
    let (udp, web) = (port_of("KCP on").unwrap(), port_of("HTTP on").unwrap());
    let bearer = format!("Bearer {ADMIN}");

    let text = http(web, "GET", "/create?room=1&member=1", &bearer, "");
    let body = r#"{"room": 2, "members": [2]}"#;
    let json = http(web, "POST", "/api/rooms", &bearer, body);
    let json: Value = serde_json::from_str(json.split_once("\r\n\r\n").unwrap().1).unwrap();
    let tokens = token_of(&text, &json);
    let mut hidden = vec![SIGNS.to_owned(), OLD.to_owned(), ADMIN.to_owned()];
    hidden.push(part(&text, "room.Secret=[").to_owned());
    hidden.push(json["secret"].as_str().unwrap().to_owned());
    let [one, two] = &tokens;
    for (id, good, others) in [(1, one, two), (2, two, one)] {
        let cut = good[1..].to_owned();
        for bad in ["", "0123-any-token-at-all", &cut, others] {
            let code = connect(udp, id, id, bad);
            assert_eq!(code, ConnectCode::Token, "{bad:?}");
        }
        assert_eq!(connect(udp, id, id, good), ConnectCode::Ok);
        hidden.extend([cut, "0123-any-token".to_owned()]);
        // The parts of a ticket are as good as the whole.
        hidden.extend(good.split('.').skip(1).map(str::to_owned));
    }
    let wrong = format!("Bearer {ADMIN}-not");
    let current = format!("/api/matches/{}", json["match"].as_str().unwrap());
    for authorization in [&bearer, &wrong, ""] {
        for target in [
            "/",
            "/healthz",
            "/livez",
            "/api/rooms",
            "/api/rooms/1",
            "/api/rooms/2",
            &current,
            "/api/stats",
            "/create",
            "/create?room=1&member=1",
            "/nowhere",
        ] {
            seen.push(http(web, "GET", target, authorization, ""));
        }
        seen.push(http(web, "POST", "/api/rooms", authorization, body));
    }
    seen.push(http(web, "DELETE", "/api/rooms/1", &bearer, ""));
    seen.push(server.into_log());
    (seen.join("\n"), hidden)
}

#[test]
fn no_log_line_and_no_answer_shows_a_secret_a_ticket_or_a_token() {
    let ticket = [
        "--auth",
        "ticket",
        "--ticket-secret",
        SIGNS,
        "--ticket-secret-old",
        OLD,
    ];
    let tickets = live(&ticket, |text, json| {
        let one = part(text, "room.Ticket=[1:").to_owned();
        [one, json["seats"][0]["ticket"].as_str().unwrap().to_owned()]
    });
    let rooms = live(&["--auth", "room"], |text, json| {
        let one = part(text, "room.Secret=[").to_owned();
        [one, json["secret"].as_str().unwrap().to_owned()]
    });
    for (seen, hidden) in [tickets, rooms] {
        // There was something to be seen.
        for sign in [
            "refused in room 1: Token",
            "takes a seat in room 2",
            "TRACE",
            " 401 ",
        ] {
            assert!(seen.contains(sign), "{sign}: {seen}");
        }
        for secret in hidden {
            let line = seen.lines().find(|line| line.contains(&secret));
            assert_eq!(line, None, "{secret} is shown");
        }
    }
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
