//! Tickets: signed words of the game's backend that say which player may take a seat in
//! which room, and until when. The engine checks them and room creation makes them.
//!
//! A ticket is a JSON Web Token (RFC 7519) in compact form, signed with HMAC SHA-256:
//!
//! ```text
//! BASE64URL(header) . BASE64URL(claims) . BASE64URL(HMAC-SHA256(secret, all before))
//!
//! header   {"alg":"HS256", ...}           no other algorithm, no "crit"
//! claims   {"room":  1 or "1",            a u64, as digits where numbers have 53 bits
//!           "player":1 or "1",            the same
//!           "exp":   1700000000,          Unix seconds, perhaps with a fraction: valid before
//!           "nbf":   1699999000,          may be left out: valid from then on
//!           ...}                          whatever else it claims means nothing here
//! ```
//!
//! There is no leeway: the clocks of backend and server are kept by their systems, and a
//! backend that wants some writes another `nbf`. The signature comes first, so that nothing
//! is parsed that was not signed. A name that comes twice is refused, since another reader
//! may take the other one of the two.
//!
//! Pure: the time is an argument. Nothing here may show a secret or a ticket: not in an
//! error, and not in a `Debug` text.

use std::fmt;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::engine::id::{PlayerId, RoomId};
use crate::fields::Fields;
use crate::limits::{TICKET_SECRET_BYTES_MIN, UPLINK_BODY_MAX};

/// What each ticket made here begins with.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// A secret that signs tickets. Its `Debug` shows nothing of it, and two are compared in
/// constant time.
#[derive(Clone)]
pub struct TicketSecret(Vec<u8>);

impl TicketSecret {
    /// The secret of these bytes; `None` if they are fewer than
    /// [`TICKET_SECRET_BYTES_MIN`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<TicketSecret> {
        let bytes = bytes.into();
        (bytes.len() >= TICKET_SECRET_BYTES_MIN).then_some(TicketSecret(bytes))
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes every key");
        mac.update(signed.as_bytes());
        mac
    }
}

impl PartialEq for TicketSecret {
    fn eq(&self, other: &TicketSecret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TicketSecret {}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(..)")
    }
}

/// The secrets that are accepted: while an old one is given up, there are two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketSecrets {
    signing: TicketSecret,
    old: Option<TicketSecret>,
}

/// Why a ticket was refused. For the operator alone: the client gets one code for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TicketFault {
    /// There is none.
    #[error("no ticket")]
    Missing,
    /// It is not three parts with a dot between them, or the last is no signature.
    #[error("not a ticket")]
    Malformed,
    /// No accepted secret signed it.
    #[error("signed with another secret, or changed")]
    Signature,
    /// Another algorithm than HS256, something that must be understood, or no JSON.
    #[error("its header is not one of HS256")]
    Header,
    /// A claim is missing, given twice, or not what it should be.
    #[error("its claims are not those of a ticket")]
    Claims,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// Its time has not come.
    #[error("not valid yet")]
    NotYet,
    /// It is for another room.
    #[error("for another room")]
    OtherRoom,
    /// It is for another player.
    #[error("for another player")]
    OtherPlayer,
}

impl TicketSecrets {
    /// `signing` signs; both are accepted.
    pub fn new(signing: TicketSecret, old: Option<TicketSecret>) -> TicketSecrets {
        TicketSecrets { signing, old }
    }

    /// A ticket for this player and room that is valid before `expires`, in Unix seconds.
    pub fn sign(&self, room: RoomId, player: PlayerId, expires: i64) -> String {
        let claims = json!({
            "room": room.to_string(),
            "player": player.to_string(),
            "exp": expires,
        });
        let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        let mut ticket = format!("{}.{}", encode(HEADER), encode(&claims.to_string()));
        let signature = self.signing.mac(&ticket).finalize().into_bytes();
        ticket.push('.');
        ticket.push_str(&Base64UrlUnpadded::encode_string(&signature));
        ticket
    }

    /// Whether a ticket lets this player into this room at `now_us`, in Unix microseconds.
    ///
    /// # Errors
    /// The first [`TicketFault`] in the order of their list.
    pub fn check(
        &self,
        ticket: &str,
        room: RoomId,
        player: PlayerId,
        now_us: i64,
    ) -> Result<(), TicketFault> {
        let claims = self.claims(ticket)?;
        if claims.expires_us <= now_us {
            return Err(TicketFault::Expired);
        }
        if claims.begins_us.is_some_and(|begins| begins > now_us) {
            return Err(TicketFault::NotYet);
        }
        if claims.room != room {
            return Err(TicketFault::OtherRoom);
        }
        if claims.player != player {
            return Err(TicketFault::OtherPlayer);
        }
        Ok(())
    }

    /// What a ticket claims, once its signature is found to be right.
    fn claims(&self, ticket: &str) -> Result<Claims, TicketFault> {
        if ticket.is_empty() {
            return Err(TicketFault::Missing);
        }
        // None that is longer fits a packet.
        if ticket.len() > UPLINK_BODY_MAX {
            return Err(TicketFault::Malformed);
        }
        let (signed, signature) = ticket.rsplit_once('.').ok_or(TicketFault::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TicketFault::Malformed)?;
        let signature =
            Base64UrlUnpadded::decode_vec(signature).map_err(|_| TicketFault::Malformed)?;
        if !self.signed(signed, &signature) {
            return Err(TicketFault::Signature);
        }
        if !is_hs256(header) {
            return Err(TicketFault::Header);
        }
        Claims::read(claims).ok_or(TicketFault::Claims)
    }

    /// Whether one of the secrets signed it.
    fn signed(&self, signed: &str, signature: &[u8]) -> bool {
        let by = |secret: &TicketSecret| secret.mac(signed).verify_slice(signature).is_ok();
        by(&self.signing) || self.old.as_ref().is_some_and(by)
    }
}

// --- Header and claims --------------------------------------------------------------------

/// The claims that count.
struct Claims {
    room: RoomId,
    player: PlayerId,
    expires_us: i64,
    begins_us: Option<i64>,
}

impl Claims {
    fn read(part: &str) -> Option<Claims> {
        let Fields(fields) = object(part)?;
        let value = |name| find(&fields, name);
        Some(Claims {
            room: RoomId(id(value("room")?)?),
            player: PlayerId(id(value("player")?)?),
            expires_us: date_us(value("exp")?)?,
            begins_us: match value("nbf") {
                Some(begins) => Some(date_us(begins)?),
                None => None,
            },
        })
    }
}

/// Whether a header is one of HS256 and asks for nothing that we do not know.
fn is_hs256(part: &str) -> bool {
    object(part).is_some_and(|Fields(fields)| {
        find(&fields, "alg").is_some_and(|alg| alg == "HS256") && find(&fields, "crit").is_none()
    })
}

/// The JSON object of a part, unless it names something twice.
fn object(part: &str) -> Option<Fields> {
    let json = Base64UrlUnpadded::decode_vec(part).ok()?;
    let fields: Fields = serde_json::from_slice(&json).ok()?;
    (!fields.any_twice()).then_some(fields)
}

fn find<'a>(fields: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    let field = fields.iter().find(|(known, _)| known == name);
    field.map(|(_, value)| value)
}

/// An id: a whole number, or the digits of one.
fn id(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        // `parse` alone would take a plus sign.
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// A NumericDate in Unix microseconds, within what an i64 holds: what lies beyond is as good
/// as at its end.
fn date_us(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    if let Some(seconds) = number.as_i64() {
        return Some(seconds.saturating_mul(1_000_000));
    }
    let seconds = number.as_f64()?;
    if seconds < 0.0 {
        // Before 1970, and so in the past.
        return Some(0);
    }
    let us = Duration::try_from_secs_f64(seconds).map_or(u128::MAX, |time| time.as_micros());
    Some(i64::try_from(us).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "thirty-two bytes or a little more";
    const NOW: i64 = 1_700_000_000;
    const ROOM: RoomId = RoomId(7);
    const PLAYER: PlayerId = PlayerId(1);

    fn secret(text: &str) -> TicketSecret {
        TicketSecret::new(text).expect("it is long enough")
    }

    fn secrets() -> TicketSecrets {
        TicketSecrets::new(secret(SECRET), None)
    }

    /// A ticket with this header and these claims, signed as one should be.
    fn ticket(header: &str, claims: &str) -> String {
        let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = secret(SECRET).mac(&signed).finalize().into_bytes();
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature))
    }

    fn check_at(ticket: &str, now_us: i64) -> Result<(), TicketFault> {
        secrets().check(ticket, ROOM, PLAYER, now_us)
    }

    fn check(ticket: &str) -> Result<(), TicketFault> {
        check_at(ticket, NOW * 1_000_000)
    }

    /// What a ticket with these claims comes to.
    fn claims(claims: &str) -> Result<(), TicketFault> {
        check(&ticket(HEADER, claims))
    }

    // Made with PyJWT 2.15.1: jwt.encode(claims, SECRET, algorithm=..., headers=...).
    /// {"room": 7, "player": 1, "exp": 1700000060}
    const PYJWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb29tIjo3LCJwbGF5ZXIiOjEsImV4cCI\
        6MTcwMDAwMDA2MH0.TIEDm5J5hQrIDG2XXUC6d_UduHvoSxzYApq555CktTA";
    /// {"room": "18446744073709551615", "player": "18446744073709551614",
    /// "nbf": 1700000000.25, "exp": 1700000060.5, "iss": "lobby", "aud": ["game"]}, with "kid".
    const PYJWT_MORE: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImEiLCJ0eXAiOiJKV1QifQ.eyJyb29tIjoiMTg0\
        NDY3NDQwNzM3MDk1NTE2MTUiLCJwbGF5ZXIiOiIxODQ0Njc0NDA3MzcwOTU1MTYxNCIsIm5iZiI6MTcwMDAwMDAw\
        MC4yNSwiZXhwIjoxNzAwMDAwMDYwLjUsImlzcyI6ImxvYmJ5IiwiYXVkIjpbImdhbWUiXX0.2MXkucXAExjgraMb\
        05kBU6pGPtAFAyYTPmOWzFudLpU";
    /// The first, with algorithm="HS512".
    const PYJWT_HS512: &str = "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.eyJyb29tIjo3LCJwbGF5ZXIiOjEsI\
        mV4cCI6MTcwMDAwMDA2MH0.s6qJ26QYrL4ioRnCVOrjyMSbFoePGI_GOb6PM8uMtdS2tX6TDMtrX8M7dGuRp7Yot\
        V1CGdK0-7zLgY12jWM8XA";
    /// The first, with algorithm="none".
    const PYJWT_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJyb29tIjo3LCJwbGF5ZXIiOjEsImV\
        4cCI6MTcwMDAwMDA2MH0.";

    #[test]
    fn tickets_of_another_library_are_read() {
        assert_eq!(check(PYJWT), Ok(()));
        let more = |now_us| {
            let (room, player) = (RoomId(u64::MAX), PlayerId(u64::MAX - 1));
            secrets().check(PYJWT_MORE, room, player, now_us)
        };
        let second = 1_000_000;
        assert_eq!(
            more(NOW * second + 249_999),
            Err(TicketFault::NotYet),
            "a fraction counts"
        );
        assert_eq!(more(NOW * second + 250_000), Ok(()));
        assert_eq!(more((NOW + 60) * second + 499_999), Ok(()));
        assert_eq!(
            more((NOW + 60) * second + 500_000),
            Err(TicketFault::Expired)
        );
        assert_eq!(check(PYJWT_HS512), Err(TicketFault::Signature));
        assert_eq!(check(PYJWT_NONE), Err(TicketFault::Signature));
    }

    #[test]
    fn the_signature_of_rfc_7515_a_1_is_right() {
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAz\
                   Zr1Z9CAow";
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMD\
                     A4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-m\
                     B92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let key = Base64UrlUnpadded::decode_vec(key).unwrap();
        let secrets = TicketSecrets::new(TicketSecret::new(key).unwrap(), None);
        // It names no room: that is found only behind the signature.
        assert_eq!(
            secrets.check(token, ROOM, PLAYER, 0),
            Err(TicketFault::Claims)
        );
    }

    #[test]
    fn what_is_signed_here_is_taken_here() {
        let ends = u64::MAX;
        for (room, player) in [(7, 1), (0, 0), (ends, ends)] {
            let (room, player) = (RoomId(room), PlayerId(player));
            let ticket = secrets().sign(room, player, NOW + 60);
            assert!(ticket.len() < 250, "{} bytes", ticket.len());
            let check = |room, player, at| secrets().check(&ticket, room, player, at * 1_000_000);
            assert_eq!(check(room, player, NOW + 59), Ok(()));
            assert_eq!(check(room, player, NOW + 60), Err(TicketFault::Expired));
            assert_eq!(check(RoomId(9), player, NOW), Err(TicketFault::OtherRoom));
            assert_eq!(check(room, PlayerId(9), NOW), Err(TicketFault::OtherPlayer));
        }
    }

    #[test]
    fn the_old_secret_is_taken_until_it_is_left_out_and_never_signs() {
        let old = "the secret of last month, also long enough";
        let before = TicketSecrets::new(secret(old), None);
        let between = TicketSecrets::new(secret(SECRET), Some(secret(old)));
        let ticket = before.sign(ROOM, PLAYER, NOW + 60);
        let now_us = NOW * 1_000_000;
        assert_eq!(between.check(&ticket, ROOM, PLAYER, now_us), Ok(()));
        assert_eq!(check(&ticket), Err(TicketFault::Signature));
        assert_eq!(check(&between.sign(ROOM, PLAYER, NOW + 60)), Ok(()));
    }

    #[test]
    fn a_header_must_be_one_of_hs256() {
        let fine = r#"{"room":7,"player":1,"exp":1700000060}"#;
        for header in [
            r#"{"alg":"HS256"}"#,
            r#"{"typ":"at+jwt","alg":"HS256","kid":"1"}"#,
            r#"{"\u0061lg":"HS256"}"#,
        ] {
            assert_eq!(check(&ticket(header, fine)), Ok(()), "{header}");
        }
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"alg":"HS512"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":"HS256","crit":["exp"]}"#,
            r#"{"alg":"HS256","crit":null}"#,
            r#"{"alg":"HS256","alg":"none"}"#,
            r#"{"alg":"HS256","kid":1,"kid":2}"#,
            r#"{"typ":"JWT"}"#,
            r#"["HS256"]"#,
            r#""HS256""#,
            r#"{"alg":"HS256"} "x""#,
            "{}",
            "",
        ] {
            let fault = Err(TicketFault::Header);
            assert_eq!(check(&ticket(header, fine)), fault, "{header}");
        }
    }

    #[test]
    fn ids_are_whole_numbers_or_digits_and_nothing_else() {
        for room in ["7", r#""7""#, r#""007""#] {
            let text = format!(r#"{{"room":{room},"player":"1","exp":1700000060}}"#);
            assert_eq!(claims(&text), Ok(()), "{text}");
        }
        for room in [
            "7.0",
            "7e0",
            "-7",
            "-0",
            "18446744073709551623",
            r#""18446744073709551623""#,
            r#""""#,
            r#"" 7""#,
            r#""+7""#,
            r#""7.0""#,
            r#""٧""#,
            "true",
            "null",
            "[7]",
            r#"{"id":7}"#,
        ] {
            let text = format!(r#"{{"room":{room},"player":1,"exp":1700000060}}"#);
            assert_eq!(claims(&text), Err(TicketFault::Claims), "{text}");
            let text = format!(r#"{{"room":7,"player":{room},"exp":1700000060}}"#);
            assert_eq!(claims(&text), Err(TicketFault::Claims), "{text}");
        }
    }

    #[test]
    fn a_ticket_is_valid_from_nbf_to_before_exp() {
        let at = |dates: &str| claims(&format!(r#"{{"room":7,"player":1,{dates}}}"#));
        for dates in [
            r#""exp":1700000001"#,
            r#""exp":1700000000.5"#,
            r#""exp":1.7000001e9"#,
            r#""exp":1e300"#,
            r#""exp":18446744073709551615"#,
            r#""exp":1700000001,"nbf":1700000000"#,
            r#""exp":1700000001,"nbf":-5.5"#,
            r#""exp":1700000001,"nbf":-9223372036854775808"#,
        ] {
            assert_eq!(at(dates), Ok(()), "{dates}");
        }
        for dates in [
            r#""exp":1700000000"#,
            r#""exp":1699999999.9"#,
            r#""exp":0"#,
            r#""exp":-1"#,
            r#""exp":-1e300"#,
        ] {
            assert_eq!(at(dates), Err(TicketFault::Expired), "{dates}");
        }
        for begins in ["1700000001", "1700000000.1", "1e300"] {
            let dates = format!(r#""exp":1e301,"nbf":{begins}"#);
            // The end of time is one moment, however far away it was said to be.
            assert_eq!(at(&dates), Err(TicketFault::NotYet), "{dates}");
        }
        for dates in [
            r#""nbf":1"#,
            r#""exp":"1700000001""#,
            r#""exp":null"#,
            r#""exp":true"#,
            r#""exp":1e999"#,
            r#""exp":NaN"#,
            r#""exp":1700000001,"nbf":null"#,
            r#""exp":1700000001,"nbf":"1""#,
        ] {
            assert_eq!(at(dates), Err(TicketFault::Claims), "{dates}");
        }
    }

    #[test]
    fn claims_must_be_one_object_without_a_name_twice() {
        let fine = r#""room":7,"player":1,"exp":1700000060"#;
        assert_eq!(claims(&format!(r#"{{{fine},"sub":{{"a":[1]}}}}"#)), Ok(()));
        for text in [
            format!(r#"{{{fine},"room":7}}"#),
            format!(r#"{{{fine},"r\u006fom":8}}"#),
            format!(r#"{{{fine},"exp":1800000000}}"#),
            format!(r#"{{{fine},"sub":1,"sub":1}}"#),
            format!(r#"[{{{fine}}}]"#),
            format!(r#"{{{fine}}}{{}}"#),
            format!(r#"{{{fine},}}"#),
            "[7,1,1700000060]".to_owned(),
            r#"{"player":1,"exp":1700000060}"#.to_owned(),
            r#"{"room":7,"exp":1700000060}"#.to_owned(),
            r#"{"ROOM":7,"player":1,"exp":1700000060}"#.to_owned(),
            String::new(),
        ] {
            assert_eq!(claims(&text), Err(TicketFault::Claims), "{text}");
        }
        let deep = format!(r#"{{{fine},"x":{}"#, "[".repeat(700));
        assert_eq!(claims(&deep), Err(TicketFault::Malformed), "{}", deep.len());
        let deep = format!(r#"{{{fine},"x":{}"#, "[".repeat(600));
        assert_eq!(claims(&deep), Err(TicketFault::Claims));
    }

    #[test]
    fn only_the_compact_form_is_read() {
        assert_eq!(check(""), Err(TicketFault::Missing));
        let (signed, signature) = PYJWT.rsplit_once('.').unwrap();
        // Base64 has spare bits in its last letter: only one spelling is right.
        let respelled = format!("{signed}.{}B", &signature[..signature.len() - 1]);
        for text in [
            "any",
            "a.b",
            "..",
            &format!("{signed}.{signature}="),
            &format!("{signed}.{signature} "),
            &format!("{signed}.{signature}\n"),
            &respelled,
            &format!("{signed}."),
            &format!("{signed}.{}", &signature[..40]),
            &format!("{PYJWT}.{signature}"),
            &format!("{PYJWT}.e30.e30"),
            &PYJWT.replace('.', ","),
            &"a.".repeat(512),
            &"a".repeat(100_000),
        ] {
            let fault = check(text).unwrap_err();
            let refused = matches!(fault, TicketFault::Malformed | TicketFault::Signature);
            assert!(refused, "{text}: {fault:?}");
        }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let shown = format!("{:?} {:#?}", secrets(), secret(SECRET));
        assert!(!shown.contains("thirty"), "{shown}");
        assert_eq!(TicketSecret::new("31 bytes are too few for HS256."), None);
    }

    proptest! {
        #[test]
        fn no_text_is_taken_for_a_ticket_and_none_panics(text in ".{0,300}") {
            prop_assert!(check(&text).is_err());
        }

        #[test]
        fn no_header_and_claims_panic(header in ".{0,60}", claims in ".{0,300}") {
            prop_assert!(check(&ticket(&header, &claims)).is_err());
            let _ = check(&ticket(HEADER, &claims));
        }

        #[test]
        fn one_changed_byte_is_too_much(at in 0..PYJWT.len(), byte in 33_u8..127) {
            let mut bytes = PYJWT.as_bytes().to_vec();
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            prop_assert!(check(std::str::from_utf8(&bytes).unwrap()).is_err());
        }
    }
}
