//! Just enough of HTTP/1.1 to create, close and count rooms: one request a connection, read to
//! its end. It blocks; who must not, asks from another thread.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_server::engine::id::{PlayerId, RoomId};
use serde_json::{Value, json};

/// Time for each step of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for which a request is repeated to a server that says it is busy (503). One whose loop
/// was late refuses new rooms for 10 s.
const BUSY_FOR: Duration = Duration::from_secs(30);
/// Time between two such repetitions.
const BUSY_EVERY: Duration = Duration::from_millis(250);
/// Bytes of an answer at the most: a room with 256 seats takes some 40 kB, and tickets as much
/// again.
const ANSWER_MAX: u64 = 1024 * 1024;

/// What the server says of a room that it has created, as far as it says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Created {
    /// Frames per second.
    pub(crate) hz: Option<u32>,
    /// Frames after which the match is over.
    pub(crate) max_frames: Option<u32>,
    /// What each member shows at the door, in the order in which they were named: its ticket,
    /// or else the secret of the room. A server that asks for neither does not mind it.
    pub(crate) tokens: Vec<String>,
    /// What a spectator shows at the door of a server that asks for the room's secret.
    pub(crate) watch_token: String,
}

/// The HTTP side of a server.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// What opens the door of a guarded one.
    pub(crate) admin_token: Option<String>,
}

/// What is wished of a room besides its number and members.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// Frames per second, if not the server's setting.
    pub(crate) hz: Option<u32>,
    /// Spectators that it lets in.
    pub(crate) watchers: u32,
    /// Where in a cluster it is, if not on the server that is asked.
    pub(crate) place: Option<String>,
}

impl Web {
    /// Creates a room. A server that is busy is asked again for a while.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(crate) fn create_room(
        &self,
        room: RoomId,
        members: &[PlayerId],
        wishes: &Wishes,
    ) -> Result<Created, String> {
        let names: Vec<_> = members.iter().map(|player| player.0.to_string()).collect();
        let mut body = json!({ "room": room.0.to_string(), "members": names });
        if let Some(hz) = wishes.hz {
            body["hz"] = hz.into();
        }
        if wishes.watchers > 0 {
            body["watchers_max"] = wishes.watchers.into();
        }
        if let Some(place) = &wishes.place {
            body["place"] = place.as_str().into();
        }
        let body = self.ask_the_busy("POST", "/api/rooms", &body.to_string(), 201)?;
        let number = |name: &str| body[name].as_u64().and_then(|n| u32::try_from(n).ok());
        Ok(Created {
            hz: number("hz").filter(|hz| *hz > 0),
            max_frames: number("max_frames"),
            tokens: members.iter().map(|player| token(&body, *player)).collect(),
            watch_token: body["watch_secret"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Ends the match of a room.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(crate) fn close_room(&self, room: RoomId) -> Result<(), String> {
        let path = format!("/api/rooms/{room}");
        self.ask_the_busy("DELETE", &path, "", 200).map(|_| ())
    }

    /// What the server counts.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(crate) fn stats(&self) -> Result<Value, String> {
        self.ask_the_busy("GET", "/api/stats", "", 200)
    }

    fn ask_the_busy(
        &self,
        method: &str,
        path: &str,
        body: &str,
        expected: u16,
    ) -> Result<Value, String> {
        let began = Instant::now();
        loop {
            match self.ask(method, path, body, expected) {
                Err((503, _)) if began.elapsed() < BUSY_FOR => thread::sleep(BUSY_EVERY),
                other => return other.map_err(|(_, error)| error),
            }
        }
    }

    /// Asks once, and expects this status.
    ///
    /// # Errors
    /// The status, 0 if there is none, and a sentence for the user.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        body: &str,
        expected: u16,
    ) -> Result<Value, (u16, String)> {
        let answer = self.exchange(method, path, body).map_err(|e| (0, e))?;
        let (status, body) = parse(&answer).map_err(|error| (0, error))?;
        if status != expected {
            let hint = match status {
                401 | 403 => "; is --admin-token the server's?",
                409 => "; choose another --first-room or wait until it is over",
                _ => "",
            };
            let reason = reason(body);
            return Err((status, format!("the server says {status}: {reason}{hint}")));
        }
        serde_json::from_slice(body)
            .map_err(|error| (status, format!("the server's answer is not JSON: {error}")))
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> Result<Vec<u8>, String> {
        let web = &self.address;
        let mut stream = connect(web)?;
        let bearer = self.admin_token.as_ref();
        let bearer = bearer.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {web}\r\n{}Content-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            bearer.unwrap_or_default(),
            body.len()
        );
        let broken = |error| format!("the connection to {web} broke: {error}");
        stream.write_all(request.as_bytes()).map_err(broken)?;
        let mut answer = Vec::new();
        stream
            .take(ANSWER_MAX)
            .read_to_end(&mut answer)
            .map_err(broken)?;
        Ok(answer)
    }
}

/// What a member of a room that was created shows at the door.
fn token(created: &Value, player: PlayerId) -> String {
    let name = player.0.to_string();
    let own = |seat: &&Value| seat["player"].as_str() == Some(&name);
    let seat = created["seats"]
        .as_array()
        .and_then(|seats| seats.iter().find(own));
    let ticket = seat.and_then(|seat| seat["ticket"].as_str());
    let token = ticket.or(created["secret"].as_str());
    token.unwrap_or_default().to_owned()
}

/// What an answer that is no success says, in its own words.
fn reason(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let field = json["error"]["field"].as_str();
    match (field, json["error"]["reason"].as_str()) {
        (Some(field), Some(reason)) => format!("{field}: {reason}"),
        (None, Some(reason)) => reason.to_owned(),
        (_, None) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

/// Tries the addresses of a name one after another: `localhost` has two on many systems.
fn connect(web: &str) -> Result<TcpStream, String> {
    let addresses = web
        .to_socket_addrs()
        .map_err(|error| format!("--web {web}: {error}; HOST:PORT is right"))?;
    let mut failure = format!("--web {web}: this name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                let timeouts = stream
                    .set_read_timeout(Some(PATIENCE))
                    .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
                return timeouts.map(|()| stream).map_err(|error| error.to_string());
            }
            Err(error) => failure = format!("nothing answers on {address} (--web): {error}"),
        }
    }
    Err(failure)
}

/// The status and the body of an answer.
fn parse(answer: &[u8]) -> Result<(u16, &[u8]), String> {
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or("the server's answer is no HTTP, or it was cut off")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1."));
    let status = status.and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or("the server's answer is no HTTP")?;
    let mut body = &answer[end + 4..];
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.trim().parse::<usize>();
            let length = length.map_err(|_| "the server's Content-Length is no number")?;
            body = body
                .get(..length)
                .ok_or("the server's answer was cut off")?;
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("the server's answer comes in chunks, which is too much".to_owned());
        }
    }
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    #[test]
    fn an_answer_is_its_status_and_as_much_body_as_it_says() {
        let answer = b"HTTP/1.1 201 Created\r\ncontent-LENGTH: 2\r\nX: y\r\n\r\nabc";
        assert_eq!(parse(answer), Ok((201, &b"ab"[..])));
        assert_eq!(parse(b"HTTP/1.0 404 Not\r\n\r\nno"), Ok((404, &b"no"[..])));
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn a_reason_is_told_in_the_words_of_the_server() {
        let body = br#"{"error": {"field": "members", "reason": "must not be empty"}}"#;
        assert_eq!(reason(body), "members: must not be empty");
        assert_eq!(reason(b" no such page\n"), "no such page");
        assert_eq!(reason(b""), "");
    }

    #[test]
    fn a_member_shows_its_ticket_or_else_the_secret_of_the_room() {
        let body = json!({
            "secret": "s",
            "seats": [{"player": "1", "ticket": "t1"}, {"player": "2"}],
        });
        assert_eq!(token(&body, PlayerId(1)), "t1");
        assert_eq!(token(&body, PlayerId(2)), "s");
        assert_eq!(token(&json!({}), PlayerId(1)), "");
    }

    #[test]
    fn a_room_is_asked_for_and_what_the_server_says_is_passed_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Web {
            address: listener.local_addr().unwrap().to_string(),
            admin_token: Some("open sesame".to_owned()),
        };
        let server = std::thread::spawn(move || {
            let mut bodies = Vec::new();
            for answer in [
                "HTTP/1.1 503 Busy\r\n\r\n{\"error\": {\"field\": null, \"reason\": \"late\"}}",
                "HTTP/1.1 201 Created\r\n\r\n{\"hz\": 60, \"max_frames\": 5500, \"secret\": \"s\"}",
                "HTTP/1.1 409 Conflict\r\n\r\n{\"error\": {\"field\": null, \"reason\": \"it runs\"}}",
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(&stream);
                let mut length = 0;
                let mut guarded = false;
                loop {
                    let mut line = String::new();
                    lines.read_line(&mut line).unwrap();
                    if let Some(value) = line.strip_prefix("Content-Length: ") {
                        length = value.trim().parse().unwrap();
                    }
                    guarded |= line == "Authorization: Bearer open sesame\r\n";
                    if line == "\r\n" {
                        break;
                    }
                }
                assert!(guarded);
                let mut body = vec![0; length];
                lines.read_exact(&mut body).unwrap();
                bodies.push(String::from_utf8(body).unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            bodies
        });
        let members = [PlayerId(1), PlayerId(u64::MAX)];
        let wishes = Wishes {
            hz: Some(60),
            place: Some("auto".to_owned()),
            ..Wishes::default()
        };
        let created = web.create_room(RoomId(7), &members, &wishes).unwrap();
        let expected = Created {
            hz: Some(60),
            max_frames: Some(5500),
            tokens: vec!["s".to_owned(); 2],
            watch_token: String::new(),
        };
        assert_eq!(created, expected);
        let error = web
            .create_room(RoomId(7), &members, &Wishes::default())
            .unwrap_err();
        assert!(error.contains("409: it runs; choose"), "{error}");
        let bodies = server.join().unwrap();
        assert_eq!(bodies[0], bodies[1], "a busy server is asked again");
        assert_eq!(
            bodies[1],
            r#"{"hz":60,"members":["1","18446744073709551615"],"place":"auto","room":"7"}"#
        );
    }
}
