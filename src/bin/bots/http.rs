//! Just enough of HTTP/1.1 to create rooms: one request a connection, read to its end.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use lockstep_server::engine::id::{PlayerId, RoomId};
use serde_json::{Value, json};

/// Time for each step of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer at the most: a room with 256 seats takes some 40 kB.
const ANSWER_MAX: u64 = 1024 * 1024;

/// What the server says of a room that it has created, as far as it says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Created {
    /// Frames per second.
    pub(crate) hz: Option<u32>,
    /// Frames after which the match is over.
    pub(crate) max_frames: Option<u32>,
}

/// Creates a room.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn create_room(
    web: &str,
    room: RoomId,
    members: &[PlayerId],
    hz: Option<u32>,
) -> Result<Created, String> {
    let members: Vec<_> = members.iter().map(|player| player.0.to_string()).collect();
    let mut body = json!({ "room": room.0.to_string(), "members": members });
    if let Some(hz) = hz {
        body["hz"] = hz.into();
    }
    let answer = post(web, "/api/rooms", &body.to_string())?;
    let (status, body) = parse(&answer)?;
    if status != 201 {
        let hint = match status {
            409 => "; choose another --first-room or wait until it is over",
            _ => "",
        };
        let reason = reason(body);
        return Err(format!("the server says {status}: {reason}{hint}"));
    }
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| format!("the server's answer is not JSON: {error}"))?;
    let number = |name: &str| body[name].as_u64().and_then(|n| u32::try_from(n).ok());
    Ok(Created {
        hz: number("hz").filter(|hz| *hz > 0),
        max_frames: number("max_frames"),
    })
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

fn post(web: &str, path: &str, body: &str) -> Result<Vec<u8>, String> {
    let mut stream = connect(web)?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {web}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
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
    fn a_room_is_asked_for_and_what_the_server_says_is_passed_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let mut bodies = Vec::new();
            for answer in [
                "HTTP/1.1 201 Created\r\n\r\n{\"hz\": 60, \"max_frames\": 5500}",
                "HTTP/1.1 409 Conflict\r\n\r\n{\"error\": {\"field\": null, \"reason\": \"it runs\"}}",
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(&stream);
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    lines.read_line(&mut line).unwrap();
                    if let Some(value) = line.strip_prefix("Content-Length: ") {
                        length = value.trim().parse().unwrap();
                    }
                    if line == "\r\n" {
                        break;
                    }
                }
                let mut body = vec![0; length];
                lines.read_exact(&mut body).unwrap();
                bodies.push(String::from_utf8(body).unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            bodies
        });
        let members = [PlayerId(1), PlayerId(u64::MAX)];
        let created = create_room(&web, RoomId(7), &members, Some(60)).unwrap();
        let expected = Created {
            hz: Some(60),
            max_frames: Some(5500),
        };
        assert_eq!(created, expected);
        let error = create_room(&web, RoomId(7), &members, None).unwrap_err();
        assert!(error.contains("409: it runs; choose"), "{error}");
        let bodies = server.join().unwrap();
        assert_eq!(
            bodies[0],
            r#"{"hz":60,"members":["1","18446744073709551615"],"room":"7"}"#
        );
    }
}
