//! The JSON of the API as another server reads it: the answers that [`super::json`] writes, back
//! into plain values. Pure, and made for hostile answers: whatever cannot be is none.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::order::Order;
use crate::cluster::node::{Address, NodeId};
use crate::engine::id::{FrameId, MatchId, Percent, PlayerId, RoomId};
use crate::engine::view::{OverReason, Phase, RoomView, SeatView};
use crate::limits::{PLAYERS_PER_ROOM_RANGE, UPLINK_BODY_MAX};
use crate::operations::{Created, Home, Located};

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadAnswer {
    /// Not the JSON of one.
    #[error("{0}")]
    Json(String),
    /// A field that cannot be as it is.
    #[error("{0} cannot be so")]
    Field(&'static str),
}

/// An error, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The field and what is wrong, or nothing.
    pub reason: Option<String>,
    /// What was asked for may have been done.
    pub unsure: bool,
}

#[derive(Deserialize)]
struct RoomRead {
    room: String,
    #[serde(rename = "match")]
    match_id: String,
    phase: String,
    over: Option<String>,
    frame: FrameId,
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
    seats: Vec<SeatRead>,
    node: Option<NodeId>,
    address: Option<Address>,
    secret: Option<String>,
    watch_secret: Option<String>,
    serial: Option<u64>,
}

#[derive(Deserialize)]
struct SeatRead {
    seat: i32,
    player: String,
    online: bool,
    ready: bool,
    progress: i32,
    cursor: FrameId,
    rtt_ms: Option<f64>,
    result: Option<String>,
    ticket: Option<String>,
}

/// Reads a room.
///
/// # Errors
/// [`BadAnswer`].
pub fn room(body: &[u8]) -> Result<Located, BadAnswer> {
    parse(body)?.located()
}

/// Reads a room that was just created.
///
/// # Errors
/// [`BadAnswer`].
pub fn created(body: &[u8]) -> Result<Created, BadAnswer> {
    let mut read = parse(body)?;
    let tickets = read.seats.iter_mut().filter_map(|seat| seat.ticket.take());
    let tickets: Vec<String> = tickets.collect();
    if !tickets.is_empty() && tickets.len() != read.seats.len() {
        return Err(BadAnswer::Field("ticket"));
    }
    if !tickets.iter().all(|ticket| is_ticket(ticket)) {
        return Err(BadAnswer::Field("ticket"));
    }
    let secret = read.secret.take().filter(|secret| is_secret(secret));
    let watch_secret = read.watch_secret.take();
    if !watch_secret.as_deref().is_none_or(is_secret) {
        return Err(BadAnswer::Field("watch_secret"));
    }
    Ok(Created {
        secret: secret.ok_or(BadAnswer::Field("secret"))?,
        tickets,
        watch_secret,
        serial: read.serial.unwrap_or(0),
        room: read.located()?,
    })
}

/// 32 digits, as [`crate::engine::auth::RoomSecret::to_hex`] makes them.
fn is_secret(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The letters of a ticket, short enough for the Connect that it goes into.
fn is_ticket(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=UPLINK_BODY_MAX).contains(&text.len()) && text.bytes().all(is_letter)
}

/// Reads an error.
pub fn error(body: &[u8]) -> Told {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &value["error"];
    let reason = error["reason"]
        .as_str()
        .map(|reason| match error["field"].as_str() {
            Some(field) => format!("{field}: {reason}"),
            None => reason.to_owned(),
        });
    Told {
        reason,
        unsure: error["unsure"] == Value::Bool(true),
    }
}

/// The body of `POST /api/rooms` for an order.
pub fn order(order: &Order) -> Vec<u8> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            fields.insert(name.to_owned(), value);
        }
    };
    let members = order.members.iter().map(|player| player.to_string());
    put("room", order.room.to_string().into());
    put("members", members.collect());
    put("seed", order.seed.into());
    put("hz", order.hz.into());
    put("broadcast_every", order.broadcast_every.into());
    put("max_frames", order.max_frames.into());
    put("input_bytes", order.input_bytes_max.into());
    put("watchers_max", order.watchers_max.into());
    put("watch_delay", order.watch_delay.into());
    put("place", order.place.as_str().into());
    let key = order.request_key.as_ref();
    put("request_key", key.map(|key| key.as_str()).into());
    serde_json::to_vec(&fields).expect("strings and numbers can be written")
}

fn parse(body: &[u8]) -> Result<RoomRead, BadAnswer> {
    serde_json::from_slice(body).map_err(|error| BadAnswer::Json(error.to_string()))
}

impl RoomRead {
    fn located(self) -> Result<Located, BadAnswer> {
        if self.seats.len() > *PLAYERS_PER_ROOM_RANGE.end() {
            return Err(BadAnswer::Field("seats"));
        }
        let home = match (self.node, self.address) {
            (Some(node), Some(address)) => Some(Home { node, address }),
            _ => None,
        };
        let seats = self.seats.into_iter().map(SeatRead::view);
        let view = RoomView {
            room: RoomId(number("room", &self.room)?),
            match_id: MatchId(number("match", &self.match_id)?),
            phase: phase(&self.phase, self.over.as_deref())?,
            frame: self.frame,
            hz: self.hz,
            broadcast_every: self.broadcast_every,
            max_frames: self.max_frames,
            input_bytes_max: self.input_bytes,
            seed: self.seed,
            created_unix: self.created,
            started_unix: self.started,
            log_bytes: self.log_bytes,
            watchers: self.watchers,
            watchers_max: self.watchers_max,
            watch_delay: self.watch_delay,
            seats: seats.collect::<Result<_, _>>()?,
        };
        Ok(Located { view, home })
    }
}

impl SeatRead {
    fn view(self) -> Result<SeatView, BadAnswer> {
        let rtt = self
            .rtt_ms
            .map(|ms| Duration::try_from_secs_f64(ms / 1000.0));
        let rtt = rtt.transpose().map_err(|_| BadAnswer::Field("rtt_ms"))?;
        let result = self.result.map(|winner| number("result", &winner));
        Ok(SeatView {
            seat: self.seat,
            player: PlayerId(number("player", &self.player)?),
            online: self.online,
            ready: self.ready,
            progress: Percent::clamped(self.progress),
            cursor: self.cursor,
            rtt,
            result: result.transpose()?,
        })
    }
}

/// The phase of these names: those of [`Phase`] in JSON and of [`OverReason::name`].
pub fn phase(name: &str, over: Option<&str>) -> Result<Phase, BadAnswer> {
    match (name, over) {
        ("waiting", None) => Ok(Phase::Waiting),
        ("playing", None) => Ok(Phase::Playing),
        ("over", Some(over)) => {
            let reason = OverReason::ALL.iter().find(|reason| reason.name() == over);
            let reason = reason.ok_or(BadAnswer::Field("over"))?;
            Ok(Phase::Over(*reason))
        }
        _ => Err(BadAnswer::Field("phase")),
    }
}

fn number(field: &'static str, text: &str) -> Result<u64, BadAnswer> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_digits);
    number.ok_or(BadAnswer::Field(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::json;
    use crate::admin::order::Bounds;

    fn sample() -> Created {
        let seat = |player: u64, result| SeatView {
            seat: 1,
            player: PlayerId(player),
            online: true,
            ready: true,
            progress: Percent::clamped(40),
            cursor: 3,
            rtt: Some(Duration::from_micros(12_340)),
            result,
        };
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
            started_unix: Some(1_700_000_001),
            log_bytes: 12,
            watchers: 2,
            watchers_max: 5,
            watch_delay: 90,
            seats: vec![seat(9, Some(u64::MAX)), seat(10, None)],
        };
        let home = Some(Home {
            node: NodeId::new("b").unwrap(),
            address: Address::new("[::1]:10086").unwrap(),
        });
        Created {
            room: Located { view, home },
            secret: "0123456789abcdef".repeat(2),
            tickets: vec!["a.b".into(), "c.d".into()],
            watch_secret: Some("fedcba9876543210".repeat(2)),
            serial: 12,
        }
    }

    #[test]
    fn what_is_written_is_read_back_whole() {
        let sample = sample();
        assert_eq!(created(&json::created(&sample)), Ok(sample.clone()));
        assert_eq!(room(&json::room(&sample.room)), Ok(sample.room.clone()));
        for phase in [Phase::Waiting, Phase::Playing] {
            let mut other = sample.room.clone();
            other.view.phase = phase;
            other.home = None;
            assert_eq!(room(&json::room(&other)), Ok(other));
        }
    }

    #[test]
    fn an_order_is_read_back_whole() {
        let bounds = Bounds {
            max_players_per_room: 4,
        };
        let bodies: [&[u8]; 2] = [
            br#"{"room": "18446744073709551615", "members": ["18446744073709551615", 2], "seed": -5,
                "hz": 60, "broadcast_every": 2, "max_frames": 9, "input_bytes": 0,
                "watchers_max": 3, "watch_delay": 4, "place": "b", "request_key": "k"}"#,
            br#"{"room": 1, "members": [1]}"#,
        ];
        for body in bodies {
            let read = json::parse(body, bounds).unwrap();
            assert_eq!(json::parse(&order(&read), bounds), Ok(read));
        }
    }

    #[test]
    fn hostile_answers_are_none() {
        let good = String::from_utf8(json::created(&sample())).unwrap();
        for (from, to) in [
            ("\"room\":\"18446744073709551615\"", "\"room\":\"+1\""),
            ("\"room\":\"18446744073709551615\"", "\"room\":1"),
            ("\"match\":\"1", "\"match\":\"91"),
            ("\"over\",", "\"asleep\","),
            ("\"results\"", "\"boredom\""),
            ("\"results\"", "null"),
            ("12.34", "-1"),
            ("12.34", "1e300"),
            ("\"player\":\"9\"", "\"player\":\"\""),
            ("\"node\":\"b\"", "\"node\":\"b\\n\""),
            ("[::1]:10086", "nowhere"),
            ("\"secret\":\"0123", "\"secret\":\"\\n123"),
            ("\"secret\":\"0123", "\"secret\":\"123"),
            ("\"watch_secret\":\"f", "\"watch_secret\":\"g"),
            ("a.b", "a b"),
            (",\"ticket\":\"a.b\"", ""),
            ("\"seed\":-1", "\"seed\":1e99"),
            ("}", ""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            assert!(created(bad.as_bytes()).is_err(), "{bad}");
        }
        let one = good.split_once("\"seats\":[").unwrap().1;
        let seat = &one[..=one.find('}').unwrap()];
        let many = good.replacen(
            "\"seats\":[",
            &format!("\"seats\":[{}", format!("{seat},").repeat(256)),
            1,
        );
        assert_eq!(created(many.as_bytes()), Err(BadAnswer::Field("seats")));
        assert!(room(&b"[".repeat(100_000)).is_err());
    }

    #[test]
    fn errors_are_read_as_far_as_they_can_be() {
        let told = error(&json::error(Some("hz"), "is too much"));
        assert_eq!(told.reason.as_deref(), Some("hz: is too much"));
        assert!(!told.unsure);
        let told = error(&json::unsure("late"));
        assert_eq!((told.reason.as_deref(), told.unsure), (Some("late"), true));
        for body in ["", "<html>", "[]", r#"{"error": 7}"#] {
            assert_eq!(error(body.as_bytes()), Told::default(), "{body}");
        }
    }
}
