//! From a request to its answer. No sockets here: a [`Head`] and a way to read the body come
//! in, an [`Answer`] goes out, and the server carries both.
//!
//! | method | path | answer |
//! | --- | --- | --- |
//! | GET | `/` | the page |
//! | GET | `/create?room=1&member=1,2` | creates a room; the original server's text |
//! | GET, POST | `/api/rooms` | the rooms, or a new one |
//! | GET, DELETE | `/api/rooms/{room}` | a room, or its end, wherever in the cluster; here with `here=1` |
//! | GET | `/api/matches/{match}` | a match, also for a while after its end |
//! | GET | `/api/recordings` | the matches that were recorded, the newest first |
//! | GET | `/api/recordings/{match}` | one of them, as a file |
//! | GET | `/api/cluster` | the nodes of the cluster |
//! | GET | `/api/stats` | every counter |
//! | POST | `/api/drain` | takes no new rooms from now on, and ends with the last one |
//! | GET | `/healthz` | 200, or 503 with the reason |
//! | GET | `/livez` | 204 if HTTP alone works; the watchdog's question |
//!
//! HEAD is answered like GET, except at `/create`. All but the page and the two questions
//! after the server's health is for whom [`Desk::guard`] lets in; others get 401, or 403 for a
//! name that may be another site's. Requests that change something and that a browser sends
//! for a page of another site get 403. Nothing that a user sends goes into a header but numbers. What lets
//! players into a room is told once, in the answer to its creation.

use std::fmt::Write as _;

use base64ct::{Base64UrlUnpadded, Encoding};

use super::desk::Desk;
use super::guard::Stop;
use super::order::{BadField, id, quote};
use super::{json, query};
use crate::engine::id::{MatchId, RoomId};
use crate::io::recordings::{ReadError, Recordings};
use crate::limits::{HTTP_BODY_BYTES_MAX, HTTP_TARGET_BYTES_MAX};
use crate::operations::{Created, Home, Kind, Located, Refusal, Scope};

const PAGE: &str = include_str!("page.html");

/// Stands in the page where the nonce of its answer goes.
const NONCE_MARK: &str = "NONCE";

/// The methods that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Delete,
    Other,
}

/// What a request says before its body.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: Method,
    /// Path and query, as they were sent.
    pub target: &'a str,
    /// `Host`.
    pub host: Option<&'a str>,
    /// `Origin`: the site of the page that asks.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`: how that site is related to this one, as the browser sees it.
    pub fetch_site: Option<&'a str>,
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
    /// `Authorization`.
    pub authorization: Option<&'a str>,
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Neither a length nor chunks.
    NoLength,
    /// A length that is no number, or two that differ.
    BadLength,
    /// More than [`HTTP_BODY_BYTES_MAX`].
    TooLong,
    /// The client ended before its end.
    CutOff,
}

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `Allow`, with 405.
    pub allow: Option<&'static str>,
    /// `Content-Security-Policy`, with the page.
    pub policy: Option<String>,
    /// What the body is called as a file (`Content-Disposition`), with a recording.
    pub file_name: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const BYTES: &str = "application/octet-stream";

/// Answers a request. `body` reads the body and is called at most once, only where one is
/// needed.
pub fn answer(
    desk: &Desk,
    head: &Head<'_>,
    body: impl FnOnce() -> Result<Vec<u8>, BodyError>,
) -> Answer {
    if head.target.len() > HTTP_TARGET_BYTES_MAX {
        return Answer::error(
            414,
            None,
            &format!("the target is over {HTTP_TARGET_BYTES_MAX} bytes"),
        );
    }
    let (path, query) = split(head.target);
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    if !matches!(segments.as_slice(), ["" | "healthz" | "livez"])
        && let Err(stop) = desk.guard.check(head)
    {
        let answer = Answer::stopped(stop, head);
        return match segments.as_slice() {
            ["create"] => answer.into_text(),
            _ => answer,
        };
    }
    match (segments.as_slice(), head.method) {
        ([""], Method::Get | Method::Head) => page(),
        (["create"], Method::Get) => create_as_text(desk, head, query),
        (["api", "rooms"], Method::Get | Method::Head) => list(desk, query),
        (["api", "rooms"], Method::Post) => create_as_json(desk, head, body),
        (["api", "rooms", room], Method::Get | Method::Head) => show_room(desk, room, query),
        (["api", "rooms", room], Method::Delete) => close(desk, head, room, query),
        (["api", "matches", id], Method::Get | Method::Head) => show_match(desk, id),
        (["api", "recordings"], Method::Get | Method::Head) => list_recordings(desk, query),
        (["api", "recordings", id], Method::Get | Method::Head) => give_recording(desk, id),
        (["api", "cluster"], Method::Get | Method::Head) => cluster(desk),
        (["api", "stats"], Method::Get | Method::Head) => stats(desk),
        (["api", "drain"], Method::Post) => drain(desk, head),
        (["healthz"], Method::Get | Method::Head) => health(desk, head),
        (["livez"], Method::Get | Method::Head) => Answer::new(204, TEXT, Vec::new()),
        (
            [""]
            | ["healthz" | "livez"]
            | ["api", "cluster" | "stats" | "recordings"]
            | ["api", "matches" | "recordings", _],
            _,
        ) => Answer::wrong_method("GET, HEAD"),
        (["create"], _) => Answer::wrong_method("GET"),
        (["api", "drain"], _) => Answer::wrong_method("POST"),
        (["api", "rooms"], _) => Answer::wrong_method("GET, HEAD, POST"),
        (["api", "rooms", _], _) => Answer::wrong_method("GET, HEAD, DELETE"),
        _ => Answer::error(
            404,
            Some("path"),
            &format!("there is no `{}` here", quote(path)),
        ),
    }
}

/// Path and query. A proxy may send `http://host/path?query`.
fn split(target: &str) -> (&str, &str) {
    let after_scheme = target
        .strip_prefix("http://")
        .or_else(|| target.strip_prefix("https://"));
    let target = match after_scheme {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    target.split_once('?').unwrap_or((target, ""))
}

/// Whether the answer to such a request may have to wait for another node of the cluster.
pub(super) fn may_wait(desk: &Desk, target: &str) -> bool {
    let (path, _) = split(target);
    desk.operations.is_in_cluster() && (path == "/create" || path.starts_with("/api/rooms"))
}

fn page() -> Answer {
    let nonce = match random() {
        Ok(bytes) => Base64UrlUnpadded::encode_string(&bytes),
        Err(answer) => return answer,
    };
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'"
    );
    let mut answer = Answer::new(200, HTML, PAGE.replace(NONCE_MARK, &nonce).into_bytes());
    answer.policy = Some(policy);
    answer
}

/// The original's text, so that programs written for it read it as before. What is new
/// stands after it: the seed, which the original did not tell, the match, tickets, what lets
/// somebody watch, and in a cluster where the room is.
fn create_as_text(desk: &Desk, head: &Head<'_>, query: &str) -> Answer {
    if let Err(answer) = same_site(head) {
        return answer.into_text();
    }
    let created = query::parse(query, desk.operations.bounds)
        .map_err(|bad| Answer::bad_field(&bad))
        .and_then(|order| {
            desk.operations
                .create(order)
                .map_err(|refusal| Answer::refusal(&refusal))
        });
    let created = match created {
        Ok(created) => created,
        Err(answer) => return answer.into_text(),
    };
    let Created {
        room,
        secret,
        tickets,
        watch_secret,
        ..
    } = created;
    let Located { view, home } = room;
    let members: Vec<String> = view
        .seats
        .iter()
        .map(|seat| seat.player.to_string())
        .collect();
    let mut text = format!(
        "room.ID=[{}] room.Secret=[{}] room.Time=[{}], room.Member=[{}] \
         room.Seed=[{}] room.Match=[{}]",
        view.room,
        secret,
        view.created_unix,
        members.join(","),
        view.seed,
        view.match_id,
    );
    if !tickets.is_empty() {
        let tickets = members.iter().zip(tickets);
        let tickets: Vec<String> = tickets
            .map(|(id, ticket)| format!("{id}:{ticket}"))
            .collect();
        write!(text, " room.Ticket=[{}]", tickets.join(",")).expect("a string takes everything");
    }
    if let Some(secret) = watch_secret {
        write!(text, " room.Watch=[{secret}]").expect("a string takes everything");
    }
    if let Some(home) = home {
        let Home { node, address } = home;
        write!(text, " room.Node=[{node}] room.Address=[{address}]")
            .expect("a string takes everything");
    }
    Answer::new(200, TEXT, text.into_bytes())
}

fn create_as_json(
    desk: &Desk,
    head: &Head<'_>,
    body: impl FnOnce() -> Result<Vec<u8>, BodyError>,
) -> Answer {
    // A form of another site can send text and forms, but not this type.
    let media_type = head
        .content_type
        .unwrap_or("")
        .split(';')
        .next()
        .unwrap_or("")
        .trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Answer::error(
            415,
            None,
            "send the body with Content-Type: application/json",
        );
    }
    let created = same_site(head)
        .and_then(|()| body().map_err(Answer::bad_body))
        .and_then(|body| {
            json::parse(&body, desk.operations.bounds).map_err(|bad| Answer::bad_field(&bad))
        })
        .and_then(|order| {
            desk.operations
                .create(order)
                .map_err(|refusal| Answer::refusal(&refusal))
        });
    match created {
        Ok(created) => Answer::new(201, JSON, json::created(&created)),
        Err(answer) => answer,
    }
}

fn list(desk: &Desk, query: &str) -> Answer {
    let part = match query::part(query) {
        Ok(part) => part,
        Err(bad) => return Answer::bad_field(&bad),
    };
    match desk.operations.rooms(part.from, part.limit) {
        Ok(page) => Answer::new(200, JSON, json::rooms(&page)),
        Err(refusal) => Answer::refusal(&refusal),
    }
}

fn show_room(desk: &Desk, room: &str, query: &str) -> Answer {
    let found = asked(room, query).map(|(room, scope)| (room, desk.operations.room(room, scope)));
    found.map_or_else(|answer| answer, |(room, found)| Answer::room(room, found))
}

/// Which room is meant, and where it is looked for.
fn asked(room: &str, query: &str) -> Result<(RoomId, Scope), Answer> {
    let room = id("room", room).map_err(|bad| Answer::bad_field(&bad))?;
    let scope = query::scope(query).map_err(|bad| Answer::bad_field(&bad))?;
    Ok((RoomId(room), scope))
}

fn show_match(desk: &Desk, match_id: &str) -> Answer {
    match id("match", match_id) {
        Ok(id) => {
            let found = desk.operations.match_(MatchId(id));
            let reason = format!("there is no match {id}, or it ended too long ago");
            Answer::found("match", &reason, found)
        }
        Err(bad) => Answer::bad_field(&bad),
    }
}

fn close(desk: &Desk, head: &Head<'_>, room: &str, query: &str) -> Answer {
    let found = same_site(head)
        .and_then(|()| asked(room, query))
        .map(|(room, scope)| (room, desk.operations.close(room, scope)));
    found.map_or_else(|answer| answer, |(room, found)| Answer::room(room, found))
}

fn list_recordings(desk: &Desk, query: &str) -> Answer {
    let answer = recordings_of(desk).and_then(|recordings| {
        let wanted = query::recordings(query).map_err(|bad| Answer::bad_field(&bad))?;
        let page = recordings.list(&wanted);
        Ok(Answer::new(200, JSON, json::recordings(&page)))
    });
    answer.unwrap_or_else(|answer| answer)
}

/// The recording of a match, read on this thread: see [`Recordings`] for how many there may be.
fn give_recording(desk: &Desk, match_id: &str) -> Answer {
    let answer = recordings_of(desk).and_then(|recordings| {
        let id = id("match", match_id).map_err(|bad| Answer::bad_field(&bad))?;
        let read = recordings.read(MatchId(id));
        let mut answer = Answer::new(200, BYTES, read.map_err(Answer::no_recording)?);
        answer.file_name = Some(format!("{id}.lkr"));
        Ok(answer)
    });
    answer.unwrap_or_else(|answer| answer)
}

fn recordings_of(desk: &Desk) -> Result<&Recordings, Answer> {
    let reason = "this server records nothing; start it with --data-dir DIR";
    let recordings = desk.recordings.as_deref();
    recordings.ok_or_else(|| Answer::error(404, None, reason))
}

/// The nodes; alone, none.
fn cluster(desk: &Desk) -> Answer {
    let view = desk.operations.cluster();
    Answer::new(200, JSON, json::cluster(view.as_ref()))
}

fn stats(desk: &Desk) -> Answer {
    match desk.operations.stats() {
        Ok(stats) => Answer::new(200, JSON, json::stats(&stats, &desk.counters)),
        Err(refusal) => Answer::refusal(&refusal),
    }
}

fn drain(desk: &Desk, head: &Head<'_>) -> Answer {
    if let Err(answer) = same_site(head) {
        return answer;
    }
    match desk.operations.drain() {
        Ok(load) => Answer::new(202, JSON, json::draining(&load)),
        Err(refusal) => Answer::refusal(&refusal),
    }
}

/// Whether the server is well. What is wrong with the cluster (etcd is away, a room is another node's
/// too) is told beside it and changes no status: whoever ends servers that are not well must not
/// end one whose matches go on. They name rooms and addresses, so those who may not ask for these are
/// told how many there are.
fn health(desk: &Desk, head: &Head<'_>) -> Answer {
    let (degraded, draining) = match desk.operations.stats() {
        Ok(stats) => (stats.degraded, stats.draining),
        Err(error) => (Some(error.to_string()), false),
    };
    let status = if degraded.is_some() { 503 } else { 200 };
    let mut warnings = desk.operations.warnings();
    if !warnings.is_empty() && desk.guard.check(head).is_err() {
        let count = warnings.len();
        warnings = vec![format!(
            "{count} to be seen at /api/cluster, with the admin token"
        )];
    }
    let body = json::health(degraded.as_deref(), draining, &warnings);
    Answer::new(status, JSON, body)
}

/// Refuses what a browser sends because a page of another site told it to. Programs send
/// neither of these headers.
fn same_site(head: &Head<'_>) -> Result<(), Answer> {
    let from_here = match head.fetch_site {
        None => true,
        Some(site) => matches!(site, "same-origin" | "none"),
    };
    let origin_is_host = match head.origin {
        None => true,
        Some(origin) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            let host = head.host.unwrap_or("");
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        }
    };
    if from_here && origin_is_host {
        return Ok(());
    }
    Err(Answer::error(
        403,
        None,
        "a page of another site must not change anything here; open this server's own page",
    ))
}

/// 128 random bits.
fn random() -> Result<[u8; 16], Answer> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| Answer::no_randomness())?;
    Ok(bytes)
}

impl Answer {
    fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Answer {
        Answer {
            status,
            content_type,
            allow: None,
            policy: None,
            file_name: None,
            body,
        }
    }

    /// An error, as JSON.
    pub(super) fn error(status: u16, field: Option<&str>, reason: &str) -> Answer {
        Answer::new(status, JSON, json::error(field, reason))
    }

    /// The same error as a line of text.
    fn into_text(mut self) -> Answer {
        let error: serde_json::Value =
            serde_json::from_slice(&self.body).expect("every error is made by json::error");
        let error = &error["error"];
        let reason = error["reason"].as_str().unwrap_or("");
        let text = match error["field"].as_str() {
            Some(field) => format!("{field}: {reason}\n"),
            None => format!("{reason}\n"),
        };
        self.content_type = TEXT;
        self.body = text.into_bytes();
        self
    }

    fn stopped(stop: Stop, head: &Head<'_>) -> Answer {
        match stop {
            Stop::Unauthorized => Answer::error(
                401,
                None,
                "send the server's --admin-token, as Authorization: Bearer TOKEN",
            ),
            Stop::Name => Answer::error(
                403,
                Some("Host"),
                &format!(
                    "`{}` may be the name of another site; ask for this server as localhost or by \
                     its address, or start it with --admin-token",
                    quote(head.host.unwrap_or(""))
                ),
            ),
        }
    }

    fn wrong_method(allow: &'static str) -> Answer {
        let mut answer = Answer::error(405, Some("method"), &format!("only {allow} here"));
        answer.allow = Some(allow);
        answer
    }

    fn bad_field(bad: &BadField) -> Answer {
        Answer::error(400, Some(&bad.field), &bad.reason)
    }

    /// The answer to a body that was not read.
    pub(super) fn bad_body(error: BodyError) -> Answer {
        let field = Some("body");
        match error {
            BodyError::NoLength => Answer::error(411, field, "send a Content-Length"),
            BodyError::BadLength => {
                Answer::error(400, Some("Content-Length"), "must be one number of bytes")
            }
            BodyError::TooLong => {
                Answer::error(413, field, &format!("is over {HTTP_BODY_BYTES_MAX} bytes"))
            }
            BodyError::CutOff => Answer::error(400, field, "ended before its Content-Length"),
        }
    }

    fn refusal(refusal: &Refusal) -> Answer {
        let status = match refusal.kind() {
            Kind::Invalid => 400,
            Kind::Exists => 409,
            Kind::KeyUsed => 422,
            Kind::Internal => 500,
            Kind::Full | Kind::Unavailable | Kind::Unsure => 503,
        };
        let (field, reason) = (refusal.field(), refusal.reason());
        match refusal.kind() {
            Kind::Unsure => Answer::new(status, JSON, json::unsure(&reason)),
            _ => Answer::error(status, field, &reason),
        }
    }

    fn no_recording(error: ReadError) -> Answer {
        let status = match error {
            ReadError::Unknown(_) => 404,
            ReadError::Gone(_) => 410,
            ReadError::Busy | ReadError::NotYet(_) => 503,
            ReadError::TooLarge { .. } | ReadError::Damaged { .. } | ReadError::Io { .. } => 500,
        };
        Answer::error(status, Some("match"), &error.to_string())
    }

    fn no_randomness() -> Answer {
        Answer::error(500, None, "the system gives no random numbers")
    }

    fn room(room: RoomId, found: Result<Option<Located>, Refusal>) -> Answer {
        Answer::found("room", &format!("there is no room {room}"), found)
    }

    fn found(field: &str, missing: &str, found: Result<Option<Located>, Refusal>) -> Answer {
        match found {
            Ok(Some(room)) => Answer::new(200, JSON, json::room(&room)),
            Ok(None) => Answer::error(404, Some(field), missing),
            Err(refusal) => Answer::refusal(&refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::guard::{AdminToken, Guard};
    use crate::admin::order::Bounds;
    use crate::io::control;
    use crate::operations::Operations;
    use std::sync::Arc;

    const GET: Head<'_> = Head {
        method: Method::Get,
        target: "/",
        host: Some("127.0.0.1:10002"),
        origin: None,
        fetch_site: None,
        content_type: None,
        authorization: None,
    };

    /// Answers without a loop: whatever needs one says 503.
    fn ask(head: Head<'_>) -> Answer {
        ask_guarded(Guard::Loopback, head)
    }

    fn ask_guarded(guard: Guard, head: Head<'_>) -> Answer {
        let (control, mailbox) = control::channel(|| ());
        drop(mailbox);
        let bounds = Bounds {
            max_players_per_room: 4,
        };
        let desk = Desk::new(
            Arc::new(Operations::new(control, bounds, None)),
            guard,
            None,
        );
        let body = || Ok(br#"{"room": 1, "members": [1]}"#.to_vec());
        answer(&desk, &head, body)
    }

    fn get(target: &str) -> Answer {
        ask(Head { target, ..GET })
    }

    #[test]
    fn every_path_has_its_methods() {
        for (target, method, status) in [
            ("/", Method::Get, 200),
            ("/?x=1", Method::Head, 200),
            ("/", Method::Post, 405),
            ("/create", Method::Head, 405),
            ("/create?room=1", Method::Get, 400),
            ("/create?room=1&member=1", Method::Get, 503),
            ("/api/rooms", Method::Get, 503),
            ("/api/rooms", Method::Delete, 405),
            ("/api/rooms?limit=0", Method::Get, 400),
            ("/api/rooms/1", Method::Post, 405),
            ("/api/rooms/x", Method::Get, 400),
            ("/api/rooms/", Method::Get, 400),
            ("/api/rooms/1/seats", Method::Get, 404),
            ("/api/matches/x", Method::Get, 400),
            ("/api/recordings", Method::Get, 404),
            ("/api/recordings", Method::Post, 405),
            ("/api/recordings/1", Method::Head, 404),
            ("/api/recordings/1", Method::Delete, 405),
            ("/api/rooms/1?here=1", Method::Get, 503),
            ("/api/rooms/1?here=x", Method::Get, 400),
            ("/api/rooms/1?here=2", Method::Delete, 400),
            ("/api/cluster", Method::Get, 200),
            ("/api/cluster", Method::Post, 405),
            ("/api/stats", Method::Other, 405),
            ("/api/drain", Method::Post, 503),
            ("/api/drain", Method::Get, 405),
            ("/api/drain/1", Method::Post, 404),
            ("/healthz", Method::Get, 503),
            ("/livez", Method::Get, 204),
            ("/nowhere", Method::Get, 404),
            ("", Method::Get, 404),
            ("*", Method::Other, 404),
            ("http://here/livez", Method::Get, 204),
            ("http://here", Method::Get, 200),
        ] {
            let answer = ask(Head {
                target,
                method,
                ..GET
            });
            assert_eq!(answer.status, status, "{method:?} {target}");
            assert_eq!(answer.allow.is_some(), status == 405, "{method:?} {target}");
        }
        assert_eq!(get(&"/".repeat(HTTP_TARGET_BYTES_MAX + 1)).status, 414);
    }

    /// Everything that shows players or changes something, with the status it has without a
    /// loop, and paths that do not exist.
    const GUARDED: [(Method, &str, u16); 16] = [
        (Method::Get, "/create?room=1&member=1", 503),
        (Method::Post, "/create", 405),
        (Method::Get, "/api/rooms", 503),
        (Method::Head, "/api/rooms", 503),
        (Method::Post, "/api/rooms", 503),
        (Method::Get, "/api/rooms/1", 503),
        (Method::Delete, "/api/rooms/1", 503),
        (Method::Get, "/api/matches/1", 503),
        (Method::Get, "/api/recordings", 404),
        (Method::Get, "/api/recordings/1", 404),
        (Method::Get, "/api/cluster", 200),
        (Method::Get, "/api/stats", 503),
        (Method::Post, "/api/drain", 503),
        (Method::Get, "/api/drain", 405),
        (Method::Get, "http://here/api/stats", 503),
        (Method::Get, "//api/stats", 404),
    ];
    const OPEN: [(&str, u16); 4] = [
        ("/", 200),
        ("/?token=x", 200),
        ("/healthz", 503),
        ("/livez", 204),
    ];
    const TOKEN: &str = "0123456789abcdef";

    /// What a guard answers to a head with another method and target.
    fn status(guard: &Guard, head: Head<'static>, method: Method, target: &'static str) -> u16 {
        let head = Head {
            method,
            target,
            content_type: Some("application/json"),
            ..head
        };
        let answer = ask_guarded(guard.clone(), head);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains(TOKEN), "{text}");
        let is_create = target.starts_with("/create");
        if matches!(answer.status, 401 | 403) {
            let expected = if is_create { TEXT } else { JSON };
            assert_eq!(answer.content_type, expected, "{target}");
        }
        answer.status
    }

    #[test]
    fn with_a_token_set_only_the_page_and_health_are_open_to_others() {
        let guard = Guard::Token(AdminToken::new(TOKEN).unwrap());
        for authorization in [
            None,
            Some(""),
            Some("Bearer "),
            Some(TOKEN),
            Some("Bearer 0123456789abcdeX"),
            Some("Basic 0123456789abcdef"),
        ] {
            let head = Head {
                authorization,
                ..GET
            };
            for (method, target, _) in GUARDED {
                let status = status(&guard, head, method, target);
                assert_eq!(status, 401, "{target} {authorization:?}");
            }
            for (target, expected) in OPEN {
                assert_eq!(status(&guard, head, Method::Get, target), expected);
            }
        }
        let head = Head {
            authorization: Some("Bearer 0123456789abcdef"),
            // With a token, a name is as good as an address.
            host: Some("game.example.org"),
            ..GET
        };
        for (method, target, expected) in GUARDED {
            assert_eq!(status(&guard, head, method, target), expected, "{target}");
        }
    }

    #[test]
    fn without_a_token_names_that_may_be_another_sites_are_refused_on_loopback() {
        for (host, refused) in [
            (None, false),
            (Some("localhost:10002"), false),
            (Some("[::1]:10002"), false),
            (Some("rebound.example.org:10002"), true),
        ] {
            let head = Head { host, ..GET };
            for (method, target, expected) in GUARDED {
                let expected = if refused { 403 } else { expected };
                let found = status(&Guard::Loopback, head, method, target);
                assert_eq!(found, expected, "{host:?} {target}");
                if refused {
                    let found = status(&Guard::Unprotected, head, method, target);
                    assert_ne!(found, 403, "{target}");
                }
            }
            for (target, expected) in OPEN {
                assert_eq!(
                    status(&Guard::Loopback, head, Method::Get, target),
                    expected
                );
            }
        }
        let answer = ask(Head {
            host: Some("rebound.example.org"),
            target: "/create?room=1&member=1",
            ..GET
        });
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.contains("--admin-token"), "{text}");
    }

    #[test]
    fn no_body_is_read_of_those_who_are_not_let_in() {
        let (control, mailbox) = control::channel(|| ());
        drop(mailbox);
        let bounds = Bounds {
            max_players_per_room: 4,
        };
        let guard = Guard::Token(AdminToken::new(TOKEN).unwrap());
        let desk = Desk::new(
            Arc::new(Operations::new(control, bounds, None)),
            guard,
            None,
        );
        let head = Head {
            method: Method::Post,
            target: "/api/rooms",
            content_type: Some("application/json"),
            ..GET
        };
        let answer = answer(&desk, &head, || panic!("the body is read"));
        assert_eq!(answer.status, 401);
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let create = Head {
            target: "/create?room=1&member=1",
            ..GET
        };
        let post = Head {
            method: Method::Post,
            target: "/api/rooms",
            content_type: Some("application/json; charset=utf-8"),
            ..GET
        };
        let delete = Head {
            method: Method::Delete,
            target: "/api/rooms/1",
            ..GET
        };
        let drain = Head {
            method: Method::Post,
            target: "/api/drain",
            ..GET
        };
        for head in [create, post, delete, drain] {
            let here = Some("http://127.0.0.1:10002");
            for (origin, fetch_site, status) in [
                (None, None, 503),
                (here, Some("same-origin"), 503),
                (None, Some("none"), 503),
                (Some("http://elsewhere"), None, 403),
                (Some("null"), None, 403),
                (None, Some("cross-site"), 403),
                (None, Some("same-site"), 403),
                (here, Some("cross-site"), 403),
            ] {
                let answer = ask(Head {
                    origin,
                    fetch_site,
                    ..head
                });
                assert_eq!(answer.status, status, "{head:?} {origin:?} {fetch_site:?}");
            }
        }
    }

    #[test]
    fn a_form_cannot_post_what_the_api_takes() {
        for content_type in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
        ] {
            let head = Head {
                method: Method::Post,
                target: "/api/rooms",
                content_type,
                ..GET
            };
            assert_eq!(ask(head).status, 415);
        }
    }

    #[test]
    fn errors_of_create_are_text() {
        let answer = get("/create?room=x&member=1");
        assert_eq!(answer.content_type, TEXT);
        let text = String::from_utf8(answer.body).unwrap();
        assert!(
            text.starts_with("room: `x` is not a number; give digits"),
            "{text}"
        );
    }

    #[test]
    fn the_page_carries_the_nonce_of_its_policy() {
        let (one, other) = (get("/"), get("/"));
        let policy = one.policy.unwrap();
        assert_ne!(Some(&policy), other.policy.as_ref());
        let nonce = policy
            .split("'nonce-")
            .nth(1)
            .unwrap()
            .split('\'')
            .next()
            .unwrap();
        let page = String::from_utf8(one.body).unwrap();
        assert!(page.contains(&format!("<script nonce=\"{nonce}\">")));
        assert!(!page.contains(NONCE_MARK));
    }
}
