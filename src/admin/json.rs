//! The JSON of the API: orders come in, rooms and counters go out.
//!
//! Pure. Ids of 64 bits go out as strings of digits, because a number in JavaScript has 53;
//! they come in as either. Counters are numbers: none reaches 2^53.

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::counters::HttpCounters;
use super::order::{self, BadField, Bounds, Given, Order};
use crate::cluster::EtcdStats;
use crate::cluster::node::NodeRecord;
use crate::engine::counters::Counters;
use crate::engine::drops::{Disconnect, Drop};
use crate::engine::view::{Phase, RoomView, RoomsPage, SeatView};
use crate::fields::Fields;
use crate::io::metrics::{JournalStats, Load, ShellCounters, Stats};
use crate::io::recordings::{Entry, Page};
use crate::operations::{ClusterView, Created, Located};

/// Reads the order of a room from a body.
///
/// # Errors
/// The field `body` if it is no JSON object, else the first field that cannot be.
pub fn parse(body: &[u8], bounds: Bounds) -> Result<Order, BadField> {
    let Fields(fields) = serde_json::from_slice(body).map_err(|error| {
        let example = r#"{"room": 1, "members": [1, 2]}"#;
        BadField::new(
            "body",
            format!("is not a JSON object ({error}); send {example}"),
        )
    })?;
    let mut given = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let value = take(&name, value)?;
        given.push((name, value));
    }
    order::read("members", given, bounds)
}

fn take(name: &str, value: Value) -> Result<Given, BadField> {
    match value {
        Value::Null => Ok(Given::Nothing),
        Value::Array(values) => {
            let texts = values.into_iter().map(|value| text(name, value));
            Ok(Given::Many(texts.collect::<Result<_, _>>()?))
        }
        value => Ok(Given::One(text(name, value)?)),
    }
}

fn text(name: &str, value: Value) -> Result<String, BadField> {
    match value {
        Value::String(text) => Ok(text),
        // 1.0 stays "1.0" and is refused with those words.
        Value::Number(number) => Ok(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            Err(BadField::new(name, "must hold a number or a string"))
        }
    }
}

#[derive(Serialize)]
struct RoomJson<'a> {
    #[serde(serialize_with = "digits")]
    room: u64,
    #[serde(rename = "match", serialize_with = "digits")]
    match_id: u64,
    phase: &'static str,
    over: Option<&'static str>,
    frame: u32,
    max_frames: u32,
    hz: u32,
    broadcast_every: u32,
    input_bytes: u32,
    seed: i32,
    created: i64,
    started: Option<i64>,
    log_bytes: usize,
    watchers: usize,
    watchers_max: u32,
    watch_delay: u32,
    seats: Vec<SeatJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    watch_secret: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<u64>,
}

#[derive(Serialize)]
struct SeatJson<'a> {
    seat: i32,
    #[serde(serialize_with = "digits")]
    player: u64,
    online: bool,
    ready: bool,
    progress: i32,
    cursor: u32,
    rtt_ms: Option<f64>,
    result: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<&'a str>,
}

#[derive(Serialize)]
struct RoomsJson<'a> {
    rooms: Vec<RoomJson<'a>>,
    total: usize,
    next: Option<usize>,
}

#[derive(Serialize)]
struct ClusterJson<'a> {
    node: Option<&'a NodeRecord>,
    others: Vec<OtherJson<'a>>,
    etcd: Option<EtcdJson<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct EtcdJson<'a> {
    connected: bool,
    since_s: u64,
    why: Option<&'a str>,
    connections: u64,
    leases_lost: u64,
    values_skipped: u64,
    claims_held: usize,
    claims_wanted: usize,
    contested: usize,
}

#[derive(Serialize)]
struct OtherJson<'a> {
    #[serde(flatten)]
    record: &'a NodeRecord,
    age_ms: u64,
}

#[derive(Serialize)]
struct RecordingJson {
    #[serde(rename = "match", serialize_with = "digits")]
    match_id: u64,
    #[serde(serialize_with = "digits")]
    room: u64,
    created: i64,
    started: Option<i64>,
    over: &'static str,
    hz: u32,
    frames: u32,
    seats: Vec<RecordedSeatJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
}

#[derive(Serialize)]
struct RecordedSeatJson {
    seat: usize,
    #[serde(serialize_with = "digits")]
    player: u64,
    result: Option<String>,
}

#[derive(Serialize)]
struct RecordingsJson {
    recordings: Vec<RecordingJson>,
    total: usize,
    next: Option<String>,
    complete: bool,
}

impl RecordingJson {
    fn new(entry: &Entry) -> RecordingJson {
        let results = (1..).zip(&entry.results);
        let seats = entry.players.iter().zip(results);
        RecordingJson {
            match_id: entry.match_id.0,
            room: entry.room.0,
            created: entry.created_unix,
            started: entry.started_unix,
            over: entry.reason.name(),
            hz: entry.hz,
            frames: entry.frames,
            seats: seats
                .map(|(player, (seat, result))| RecordedSeatJson {
                    seat,
                    player: player.0,
                    result: result.map(|winner| winner.to_string()),
                })
                .collect(),
            damaged: entry.lack.map(|lack| lack.to_string()),
        }
    }
}

fn digits<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// One room.
pub fn room(room: &Located) -> Vec<u8> {
    bytes(&RoomJson::located(room))
}

/// A room that was just created, with what lets its players in.
pub fn created(created: &Created) -> Vec<u8> {
    let mut room = RoomJson::located(&created.room);
    room.secret = Some(&created.secret);
    room.watch_secret = created.watch_secret.as_deref();
    room.serial = created.room.home.as_ref().map(|_| created.serial);
    for (seat, ticket) in room.seats.iter_mut().zip(&created.tickets) {
        seat.ticket = Some(ticket);
    }
    bytes(&room)
}

/// A part of the list of rooms.
pub fn rooms(page: &RoomsPage) -> Vec<u8> {
    bytes(&RoomsJson {
        rooms: page.rooms.iter().map(RoomJson::new).collect(),
        total: page.total,
        next: page.next,
    })
}

/// A part of the list of recordings.
pub fn recordings(page: &Page) -> Vec<u8> {
    bytes(&RecordingsJson {
        recordings: page.entries.iter().map(|e| RecordingJson::new(e)).collect(),
        total: page.total,
        next: page.next.map(|next| next.to_string()),
        complete: page.is_complete,
    })
}

/// An error; `field` is what it is about, if it is about one.
pub fn error(field: Option<&str>, reason: &str) -> Vec<u8> {
    bytes(&json!({ "error": { "field": field, "reason": reason } }))
}

/// The server drains.
pub fn draining(load: &Load) -> Vec<u8> {
    bytes(&json!({ "state": "draining", "rooms": load.rooms }))
}

/// An error that leaves open whether what was asked for has been done.
pub fn unsure(reason: &str) -> Vec<u8> {
    bytes(&json!({ "error": { "field": null, "reason": reason, "unsure": true } }))
}

/// Whether the server is well, and what somebody should look at.
pub fn health(degraded: Option<&str>, draining: bool, warnings: &[String]) -> Vec<u8> {
    bytes(&match degraded {
        None if draining => json!({ "status": "draining", "warnings": warnings }),
        None => json!({ "status": "ok", "warnings": warnings }),
        Some(reason) => json!({ "status": "degraded", "reason": reason, "warnings": warnings }),
    })
}

/// The nodes of the cluster; alone, none.
pub fn cluster(view: Option<&ClusterView>) -> Vec<u8> {
    let others = view.map_or(&[][..], |view| &view.others);
    let others = others.iter().map(|seen| OtherJson {
        record: &seen.record,
        age_ms: seen.age_ms,
    });
    bytes(&ClusterJson {
        node: view.map(|view| &view.node),
        others: others.collect(),
        etcd: view.map(|view| etcd(&view.etcd)),
        warnings: view.map_or(&[][..], |view| &view.warnings),
    })
}

fn etcd(stats: &EtcdStats) -> EtcdJson<'_> {
    EtcdJson {
        connected: stats.is_connected,
        since_s: stats.since.as_secs(),
        why: stats.why.as_deref(),
        connections: stats.connections,
        leases_lost: stats.leases_lost,
        values_skipped: stats.skipped,
        claims_held: stats.claims_held,
        claims_wanted: stats.claims_wanted,
        contested: stats.contested,
    }
}

/// Every counter.
pub fn stats(stats: &Stats, http: &HttpCounters) -> Vec<u8> {
    bytes(&json!({
        "uptime_s": stats.uptime.as_secs_f64(),
        "degraded": stats.degraded,
        "draining": stats.draining,
        "load": stats.load,
        "frame_lateness_ms": lateness_ms(&stats.engine.frame_lateness_us),
        "loop_lateness_ms": lateness_ms(&stats.shell.loop_lateness_us),
        "engine": engine(&stats.engine),
        "shell": shell(&stats.shell),
        "journal": stats.journal.as_ref().map(journal),
        "http": http.to_json(),
    }))
}

fn lateness_ms(us: &Histogram<u64>) -> Value {
    let at = |quantile: f64| ms(us.value_at_quantile(quantile));
    json!({
        "count": us.len(),
        "p50": at(0.5),
        "p99": at(0.99),
        "p99.9": at(0.999),
        "max": ms(us.max()),
    })
}

fn engine(counters: &Counters) -> Value {
    let drops: Map<String, Value> = Drop::ALL
        .iter()
        .map(|reason| (reason.name().to_owned(), counters.drops(*reason).into()))
        .collect();
    let disconnects: Map<String, Value> = Disconnect::ALL
        .iter()
        .map(|reason| {
            (
                reason.name().to_owned(),
                counters.disconnects(*reason).into(),
            )
        })
        .collect();
    json!({
        "datagrams_in": counters.datagrams_in,
        "bytes_in": counters.bytes_in,
        "datagrams_out": counters.datagrams_out,
        "bytes_out": counters.bytes_out,
        "packets_in": counters.packets_in,
        "inputs": counters.inputs,
        "frames": counters.frames,
        "sessions_opened": counters.sessions_opened,
        "rooms_created": counters.rooms_created,
        "matches_started": counters.matches_started,
        "matches_over": counters.matches_over,
        "rooms_failed": counters.rooms_failed,
        "rooms_restored": counters.rooms_restored,
        "recordings_lost": counters.recordings_lost,
        "epochs_renewed": counters.epochs_renewed,
        "sessions_moved": counters.sessions_moved,
        "resets": counters.resets,
        "probes": counters.probes,
        "questions": {
            "asked": counters.questions,
            "located": counters.questions_located,
            "late": counters.questions_late,
            "redirects": counters.redirects,
            "refused_too_often": counters.questions_too_often,
            "refused_full": counters.questions_full,
        },
        "sessions": counters.sessions,
        "rooms": counters.rooms,
        "timers": counters.timers,
        "drops": drops,
        "disconnects": disconnects,
    })
}

fn journal(stats: &JournalStats) -> Value {
    let health = &stats.health;
    let trouble = health.trouble.as_ref();
    json!({
        "down": trouble.is_some_and(|trouble| trouble.down),
        "trouble": trouble.map(|trouble| trouble.why.as_str()),
        "bytes": health.bytes,
        "segments": health.segments,
        "given_up": stats.given_up,
    })
}

fn shell(counters: &ShellCounters) -> Value {
    json!({
        "turns": counters.turns,
        "commands": counters.commands,
        "sends_refused": counters.sends_refused,
        "receive_errors": counters.receive_errors,
    })
}

impl<'a> RoomJson<'a> {
    fn located(room: &'a Located) -> RoomJson<'a> {
        let home = room.home.as_ref();
        RoomJson {
            node: home.map(|home| home.node.as_str()),
            address: home.map(|home| home.address.as_str()),
            ..RoomJson::new(&room.view)
        }
    }

    fn new(view: &RoomView) -> RoomJson<'a> {
        let (phase, over) = match view.phase {
            Phase::Waiting => ("waiting", None),
            Phase::Playing => ("playing", None),
            Phase::Over(reason) => ("over", Some(reason.name())),
        };
        RoomJson {
            room: view.room.0,
            match_id: view.match_id.0,
            phase,
            over,
            frame: view.frame,
            max_frames: view.max_frames,
            hz: view.hz,
            broadcast_every: view.broadcast_every,
            input_bytes: view.input_bytes_max,
            seed: view.seed,
            created: view.created_unix,
            started: view.started_unix,
            log_bytes: view.log_bytes,
            watchers: view.watchers,
            watchers_max: view.watchers_max,
            watch_delay: view.watch_delay,
            seats: view.seats.iter().map(SeatJson::new).collect(),
            node: None,
            address: None,
            secret: None,
            watch_secret: None,
            serial: None,
        }
    }
}

impl SeatJson<'_> {
    fn new(view: &SeatView) -> Self {
        let rtt_us = view
            .rtt
            .map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        SeatJson {
            seat: view.seat,
            player: view.player.0,
            online: view.online,
            ready: view.ready,
            progress: view.progress.on_wire(),
            cursor: view.cursor,
            rtt_ms: rtt_us.map(ms),
            result: view.result.map(|winner| winner.to_string()),
            ticket: None,
        }
    }
}

/// Milliseconds to three digits. A u32 holds 71 minutes of microseconds, and every u32 is
/// exact as a float.
fn ms(us: u64) -> f64 {
    f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and lists of them can be written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::id::{MatchId, Percent, PlayerId, RoomId};
    use crate::engine::view::OverReason;

    const BOUNDS: Bounds = Bounds {
        max_players_per_room: 4,
    };

    #[test]
    fn ids_are_taken_as_numbers_and_as_strings() {
        let body = br#"{"room": "18446744073709551615", "members": [18446744073709551615, "2"]}"#;
        let order = parse(body, BOUNDS).unwrap();
        assert_eq!(order.room, RoomId(u64::MAX));
        assert_eq!(order.members, [PlayerId(u64::MAX), PlayerId(2)]);
    }

    #[test]
    fn options_may_be_null() {
        let body = br#"{"room": 1, "members": [1], "seed": null, "hz": 60, "max_frames": null}"#;
        let order = parse(body, BOUNDS).unwrap();
        assert_eq!((order.seed, order.hz), (None, Some(60)));
    }

    #[test]
    fn each_refusal_names_its_field() {
        for (body, begins) in [
            ("", "body: is not a JSON object"),
            ("[1]", "body: is not a JSON object"),
            ("{} {}", "body: is not a JSON object"),
            ("{}", "room: is missing"),
            (r#"{"room": 1, "room": 2}"#, "room: is given twice"),
            (
                r#"{"room": 1.5, "members": [1]}"#,
                "room: `1.5` is not a number",
            ),
            (
                r#"{"room": true, "members": [1]}"#,
                "room: must hold a number",
            ),
            (r#"{"room": [1], "members": [1]}"#, "room: is a list"),
            (r#"{"room": 1}"#, "members: names nobody"),
            (r#"{"room": 1, "members": []}"#, "members: names nobody"),
            (
                r#"{"room": 1, "members": [1, 1]}"#,
                "members: names 1 twice",
            ),
            (
                r#"{"room": 1, "members": [-1]}"#,
                "members: `-1` is not a number",
            ),
            (
                r#"{"room": 1, "members": [[1]]}"#,
                "members: must hold a number",
            ),
            (
                r#"{"room": 1, "members": [1,2,3,4,5]}"#,
                "members: names 5 players",
            ),
            (
                r#"{"room": 1, "members": [1], "hz": 999}"#,
                "hz: `999` cannot be",
            ),
            (r#"{"room": 1, "member": [1]}"#, "member: is not known here"),
        ] {
            let text = parse(body.as_bytes(), BOUNDS).unwrap_err().to_string();
            assert!(text.starts_with(begins), "{body}: {text}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes(), BOUNDS).is_err());
    }

    #[test]
    fn a_room_shows_its_ids_as_strings() {
        let view = RoomView {
            room: RoomId(u64::MAX),
            match_id: MatchId(u64::MAX - 1),
            phase: Phase::Over(OverReason::Results),
            frame: 7,
            hz: 30,
            broadcast_every: 3,
            max_frames: 5500,
            input_bytes_max: 256,
            seed: -1,
            created_unix: 1_700_000_000,
            started_unix: None,
            log_bytes: 12,
            watchers: 2,
            watchers_max: 5,
            watch_delay: 90,
            seats: vec![SeatView {
                seat: 1,
                player: PlayerId(9),
                online: true,
                ready: false,
                progress: Percent::clamped(40),
                cursor: 3,
                rtt: Some(std::time::Duration::from_micros(12_340)),
                result: Some(u64::MAX),
            }],
        };
        let room_ = Located { view, home: None };
        let value: Value = serde_json::from_slice(&room(&room_)).unwrap();
        assert_eq!(value["room"], "18446744073709551615");
        assert_eq!(value["match"], "18446744073709551614");
        assert_eq!(value["over"], "results");
        assert_eq!(value["input_bytes"], 256);
        assert_eq!(value["started"], Value::Null);
        assert_eq!(
            (
                &value["watchers"],
                &value["watchers_max"],
                &value["watch_delay"]
            ),
            (&2.into(), &5.into(), &90.into())
        );
        assert_eq!(value["seats"][0]["player"], "9");
        assert_eq!(value["seats"][0]["rtt_ms"], 12.34);
        assert_eq!(value["seats"][0]["result"], "18446744073709551615");
        assert_eq!(value.get("secret"), None);
    }
}
