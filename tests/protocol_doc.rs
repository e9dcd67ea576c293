//! docs/protocol.md against the code: its ids, fields, numbers and bytes cannot rot.
//!
//! The page is read as text. Its tables are held against `proto/message.proto` and
//! `src/limits.rs`, each "5 s (`OFFLINE_AFTER`)" in its prose against the same, and its
//! blocks of bytes are decoded, or played against a server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use lockstep_server::engine::auth::{Auth, RoomSecret};
use lockstep_server::engine::config::{Config, Secrets};
use lockstep_server::engine::id::{Conv, Percent, PlayerId, RoomId};
use lockstep_server::engine::server::Server;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::view::RoomSpec;
use lockstep_server::engine::wire::frame::{Command, Frame, FrameInput, decode_frames};
use lockstep_server::engine::wire::message::{ConnectCode, Downlink, Uplink, Version};
use lockstep_server::engine::wire::packet::Packet;
use lockstep_server::engine::wire::signal::{Pass, SessionId, SessionSecret, Signal, SignalKind};
use lockstep_server::limits;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

fn page() -> String {
    read("docs/protocol.md")
}

/// The cells of every row of every table, without their backticks.
fn rows(page: &str) -> Vec<Vec<String>> {
    page.lines()
        .filter(|line| !line.starts_with("| ---"))
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| {
            row.split(" | ")
                .map(|cell| cell.trim().replace('`', ""))
                .collect()
        })
        .collect()
}

// --- The contract -------------------------------------------------------------------------

/// What `proto/message.proto` says.
#[derive(Default)]
struct Proto {
    /// Of both enums.
    values: BTreeMap<String, String>,
    /// Message, field, number and type.
    fields: BTreeSet<[String; 4]>,
}

impl Proto {
    fn read() -> Proto {
        let mut proto = Proto::default();
        let mut message = String::new();
        for line in read("proto/message.proto").lines() {
            let (line, _) = line.split_once("//").unwrap_or((line, ""));
            if let Some(name) = line.strip_prefix("message ") {
                message = name.trim_end_matches([' ', '{']).to_owned();
            }
            // What belongs to a message or an enum is indented.
            let Some((name, rest)) = line.split_once('=').filter(|_| line.starts_with(' ')) else {
                continue;
            };
            let number = rest.trim_start();
            let (number, _) = number.split_once([' ', ';']).expect("it ends");
            let number = number.to_owned();
            match *name.split_whitespace().collect::<Vec<_>>() {
                [value] => {
                    proto.values.insert(value.to_owned(), number);
                }
                [label, kind, field] => {
                    let kind = match label {
                        "repeated" => format!("repeated {kind}"),
                        _ => kind.to_owned(),
                    };
                    let field = [message.clone(), field.to_owned(), number, kind];
                    proto.fields.insert(field);
                }
                _ => {}
            }
        }
        proto
    }
}

#[test]
fn ids_and_codes_are_those_of_the_contract() {
    let mut expected = Proto::read().values;
    assert_eq!(expected.remove("MSG_BEGIN").as_deref(), Some("0"));
    let is_value = |row: &&Vec<String>| row[0].starts_with("MSG_") || row[0].starts_with("ERR_");
    let rows = rows(&page());
    let got = rows.iter().filter(is_value);
    let got: BTreeMap<_, _> = got.map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(got, expected);
}

#[test]
fn fields_are_those_of_the_contract() {
    let expected = Proto::read().fields;
    let messages: BTreeSet<_> = expected.iter().map(|field| field[0].clone()).collect();
    let rows = rows(&page());
    let described = rows.iter().filter(|row| messages.contains(&row[0]));
    let got = described.map(|row| [0, 1, 2, 3].map(|cell| row[cell].clone()));
    assert_eq!(got.collect::<BTreeSet<_>>(), expected);
    for row in rows.iter().filter(|row| row[0].starts_with("MSG_")) {
        for body in &row[2..4] {
            let no_message = ["empty", "-", "any bytes", "the same bytes"].contains(&body.as_str());
            assert!(no_message || messages.contains(body), "{row:?}");
        }
    }
}

// --- Numbers ------------------------------------------------------------------------------

fn span(time: Duration) -> String {
    if time.subsec_millis() == 0 {
        format!("{} s", time.as_secs())
    } else {
        format!("{} ms", time.as_millis())
    }
}

fn range<T: Display>(range: &RangeInclusive<T>) -> String {
    format!("{} to {}", range.start(), range.end())
}

fn seconds(range: &RangeInclusive<Duration>) -> String {
    let [start, end] = [range.start(), range.end()].map(Duration::as_secs_f64);
    format!("{start} to {end} s")
}

/// Every constant that the page names, as the page writes it.
fn constants() -> BTreeMap<String, String> {
    macro_rules! counts {
        ($($name:ident $unit:literal,)*) => {
            [$((stringify!($name), format!("{} {}", limits::$name, $unit)),)*]
        };
    }
    macro_rules! times {
        ($($name:ident)*) => { [$((stringify!($name), span(limits::$name)),)*] };
    }
    let counts = counts! {
        MTU "bytes",
        SEGMENT_PAYLOAD_MAX "bytes",
        DATAGRAM_MAX "bytes",
        UPLINK_BODY_MAX "bytes",
        UPLINK_MESSAGE_MAX "bytes",
        RECEIVE_WINDOW "segments",
        SEND_WINDOW "segments",
        FRAME_SEGMENTS_IN_KCP_MAX "segments",
        DROPPABLE_BACKLOG_MAX "segments",
        BACKLOG_MAX "segments",
        FRAMES_PER_MESSAGE_MAX "frames",
        INPUTS_PER_SEAT_AND_FRAME_MAX "inputs",
        FRAME_BYTES_MAX "bytes",
        INPUTS_WAITING_PER_SEAT_MAX "inputs",
        INPUT_BYTES_MAX "bytes",
        INPUT_DATA_PER_SEAT_AND_FRAME_MAX "bytes",
        INPUT_DATA_WAITING_PER_SEAT_MAX "bytes",
        INPUTS_PER_PACKET_MAX "inputs",
        FETCHED_SEGMENTS_MAX "segments",
        SESSION_DATAGRAMS_PER_SECOND "datagrams",
        SESSION_BYTES_PER_SECOND "bytes",
        SESSION_PACKETS_PER_SECOND "packets",
        SEATLESS_PER_RANGE_MAX "sessions",
        UNPROVED_BYTES_FACTOR "times",
        UNPROVED_STREAM_MAX "bytes",
        UNPROVED_SEGMENTS_MAX "segments",
        BEATS_PER_SECOND "",
        SIGNALS_PER_SECOND "signals",
        SIGNALS_PER_RANGE_AND_SECOND "signals",
        KNOCK_AFTER_FRAMES "frames",
        QUESTIONS_OPEN_MAX "questions",
        QUESTIONS_PER_SECOND "questions",
        QUESTIONS_PER_RANGE_AND_SECOND "questions",
        WAITING_PER_QUESTION_MAX "sessions",
        NODE_ADDRESS_CHARS_MAX "characters",
        REDIRECTS_MAX "times",
        TICKET_SECRET_BYTES_MIN "bytes",
    };
    let times = times! {
        TIMESTAMP_AGE_MAX LATE_MAX REPEAT_FIRST_EVERY UNPROVED_LIFE SEATLESS_LIFE QUIET_AFTER
        PROBE_EVERY_FAST PROBE_EVERY_SLOW PROBE_EVERY_IDLE OFFLINE_AFTER PAST_LIFE OVER_LINGER
        RESTREAM_EVERY ACK_RIDE_MAX ACK_PROMPT_FOR CHALLENGE_LIFE KNOCK_AFTER KNOCK_AFTER_IDLE
        KNOCK_EVERY_MIN KNOCK_EVERY_MAX WATCHED_LINGER_MAX QUESTION_LIFE
    };
    let ranges = [
        ("HZ_RANGE", range(&limits::HZ_RANGE)),
        ("INPUT_DATA_RANGE", range(&limits::INPUT_DATA_RANGE)),
    ];
    let all = counts.into_iter().chain(times).chain(ranges);
    all.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned()))
        .collect()
}

/// Every setting that the page names: its default and its range.
fn settings() -> BTreeMap<String, (String, String)> {
    let config = Config::default();
    let time = |value, range| (span(value), seconds(&range));
    let frames = |value: u32, of| (format!("{value} frames"), range(&of));
    let settings = [
        ("--hz", (config.hz.to_string(), range(&limits::HZ_RANGE))),
        (
            "--broadcast-every",
            frames(config.broadcast_every, limits::BROADCAST_EVERY_RANGE),
        ),
        (
            "--max-frames",
            frames(config.max_frames, limits::FRAMES_RANGE),
        ),
        (
            "--input-bytes",
            (
                format!("{} bytes", config.input_bytes_max),
                range(&limits::INPUT_DATA_RANGE),
            ),
        ),
        (
            "--ready-timeout",
            time(config.ready_timeout, limits::READY_TIMEOUT_RANGE),
        ),
        (
            "--room-timeout",
            time(config.room_timeout, limits::ROOM_TIMEOUT_RANGE),
        ),
        (
            "--reconnect-grace",
            time(config.reconnect_grace, limits::RECONNECT_GRACE_RANGE),
        ),
        (
            "--idle-timeout",
            time(config.idle_timeout, limits::IDLE_TIMEOUT_RANGE),
        ),
        (
            "--max-players-per-room",
            (
                config.max_players_per_room.to_string(),
                range(&limits::PLAYERS_PER_ROOM_RANGE),
            ),
        ),
        (
            "--watchers",
            (
                format!("{} spectators", config.watchers),
                range(&limits::WATCHERS_RANGE),
            ),
        ),
        (
            "--watch-delay",
            frames(config.watch_delay, limits::WATCH_DELAY_RANGE),
        ),
        (
            "--auth",
            (Auth::Open.name().into(), "open, room, ticket".into()),
        ),
    ];
    settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn is_constant(name: &str) -> bool {
    let capitals = name
        .bytes()
        .all(|byte| byte == b'_' || byte.is_ascii_uppercase());
    capitals && name.len() > 1 && !name.starts_with("MSG_")
}

#[test]
fn the_tables_of_limits_and_settings_are_those_of_the_code() {
    let rows = rows(&page());
    let limits = rows.iter().filter(|row| is_constant(&row[0]));
    let limits: BTreeMap<_, _> = limits.map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(limits, constants());

    let set = rows.iter().filter(|row| row[0].starts_with("--"));
    let set: BTreeMap<_, _> = set
        .map(|row| (row[0].clone(), (row[1].clone(), row[2].clone())))
        .collect();
    assert_eq!(set, settings());
}

#[test]
fn numbers_in_the_prose_are_those_of_the_constants_that_they_name() {
    let mut values = constants();
    values.extend(
        settings()
            .into_iter()
            .map(|(name, (value, _))| (name, value)),
    );
    let page = page().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut checked = 0;
    for (at, _) in page.match_indices(" (`") {
        let name = page[at + 3..].split('`').next().unwrap();
        let closed = page[at + 3 + name.len()..].starts_with("`)");
        if !closed || !(is_constant(name) || name.starts_with("--")) {
            continue;
        }
        let value = values.get(name).expect(name);
        let before = page[..at].strip_suffix(value.as_str());
        let whole = before.is_some_and(|text| !text.ends_with(|c: char| c.is_ascii_digit()));
        assert!(whole, "{name} is {value}: ...{}", &page[at - 40..at]);
        checked += 1;
    }
    assert!(checked > 40, "{checked} numbers were found");
}

// --- Bytes --------------------------------------------------------------------------------

/// The bytes of the block of this name.
fn block(page: &str, name: &str) -> Vec<u8> {
    let start = format!("```hex {name}\n");
    let (_, rest) = page.split_once(&start).expect(name);
    let (block, _) = rest.split_once("```").expect("a block ends");
    let bytes = block
        .lines()
        .map(|line| line.split_once('#').unwrap_or((line, "")).0);
    let words = bytes.flat_map(str::split_whitespace);
    words
        .map(|word| u8::from_str_radix(word, 16).expect(word))
        .collect()
}

/// Splits a packet into its id and body, and checks its length field.
fn packet(bytes: &[u8]) -> Packet<'_> {
    let length = usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    assert_eq!(length, bytes.len() - 3);
    Packet {
        id: bytes[2],
        body: &bytes[3..],
    }
}

#[test]
fn what_the_client_says_in_the_examples_is_what_the_page_tells() {
    let page = page();
    let says = |name, message| {
        let bytes = block(&page, name);
        assert_eq!(Uplink::decode(packet(&bytes)), Ok(message), "{name}");
    };
    says(
        "connect",
        Uplink::Connect {
            player: PlayerId(1),
            room: RoomId(2),
            token: "pass".into(),
            version: Version::V1,
        },
    );
    says("join", Uplink::JoinRoom);
    says("input", Uplink::Input(Command { sid: 1, x: 2, y: 3 }));
}

#[test]
fn what_the_server_says_in_the_examples_is_what_the_page_tells() {
    let page = page();
    let says = |name, message: Downlink<'_>| {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(bytes, block(&page, name), "{name}");
    };
    says("connect-answer", Downlink::Connect(ConnectCode::Ok));
    says(
        "join-answer",
        Downlink::JoinRoom {
            seat: 2,
            others: vec![
                (PlayerId(1), Percent::clamped(0)),
                (PlayerId(300), Percent::FULL),
            ],
            seed: -1,
        },
    );
    says(
        "start",
        Downlink::Start {
            unix_seconds: 1_700_000_000,
            follows: None,
        },
    );

    let frames = block(&page, "frame");
    let input = |sid, x, y| FrameInput {
        player: PlayerId(1),
        seat: 1,
        command: Command { sid, x, y },
        data: Vec::new(),
    };
    let expected = [
        Frame {
            id: 0,
            inputs: vec![input(0, 0, 0), input(2, 3, 4)],
        },
        Frame {
            id: 2,
            inputs: vec![],
        },
    ];
    let packet = packet(&frames);
    assert_eq!(packet.id, 50);
    assert_eq!(decode_frames(packet.body).unwrap(), expected);
}

/// The one datagram that the server sends now.
fn answer(server: &mut Server, now: Time) -> Vec<u8> {
    let mut batch = Transmits::default();
    server.poll_transmit(now, &mut batch);
    let mut datagrams = batch.iter().map(|(_, datagram)| datagram.to_vec());
    let first = datagrams.next().expect("an answer");
    assert_eq!(datagrams.next(), None);
    first
}

#[test]
fn the_datagrams_of_the_page_take_a_seat() {
    let page = page();
    let secrets = Secrets {
        hash_key: (1, 2),
        clock_key: (3, 4),
        pass_key: [5; 32],
        first_match: 100,
    };
    let mut server = Server::new(Config::default(), secrets, 0);
    let spec = RoomSpec {
        room: RoomId(2),
        members: vec![PlayerId(1), PlayerId(300)],
        seed: -1,
        hz: None,
        broadcast_every: None,
        max_frames: None,
        input_bytes_max: None,
        watchers_max: None,
        watch_delay: None,
        secret: RoomSecret::from_bytes([0; 16]),
    };
    let from = SocketAddr::from(([127, 0, 0, 1], 1000));
    let mut now = Time::from_millis(500);
    server.create_room(now, spec).unwrap();
    for (say, hear) in [
        ("first-datagram", "first-answer"),
        ("second-datagram", "second-answer"),
    ] {
        now = now + Duration::from_millis(20);
        server.handle_datagram(now, from, &mut block(&page, say));
        let answer = answer(&mut server, now);
        assert_eq!(answer, block(&page, hear), "{hear}: {answer:02x?}");
    }
    let seats = server.room(RoomId(2)).unwrap().seats;
    assert!(seats[0].online && !seats[1].online);
}

#[test]
fn the_knock_of_the_page_is_one() {
    let pass = Pass {
        session: SessionId(0x0102_0304_0506_0708),
        secret: SessionSecret::from_bytes(*b"only two know it"),
    };
    let knock = Signal::sealed(SignalKind::Knock, Conv(0x1122_3344), &pass, 9);
    assert_eq!(block(&page(), "knock"), knock.to_bytes());
}
