//! Who may ask what over HTTP: the check that comes before everything else of a request.
//!
//! What changes something or shows players is for whoever has the admin token. Without one,
//! it is for those who reach the address, which [`crate::config`] lets be this machine alone
//! unless the operator says otherwise. There remains the browser on this machine, which
//! another site can make ask us under a name of its own, as long as that name leads here (DNS
//! rebinding): so names are refused. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use subtle::ConstantTimeEq;

use super::routes::Head;
use crate::limits::ADMIN_TOKEN_BYTES_MIN;

/// The operator's token. Its `Debug` shows nothing of it, and two are compared in constant
/// time.
#[derive(Clone)]
pub struct AdminToken(String);

impl AdminToken {
    /// The token of this text; `None` if it is shorter than [`ADMIN_TOKEN_BYTES_MIN`] or
    /// does not fit the header (b64token of RFC 6750, 2.1).
    pub fn new(text: &str) -> Option<AdminToken> {
        let letters = text.trim_end_matches('=');
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
        let right = !letters.is_empty() && letters.bytes().all(fits);
        (right && text.len() >= ADMIN_TOKEN_BYTES_MIN).then(|| AdminToken(text.to_owned()))
    }

    /// The `Authorization` that carries it.
    #[cfg(feature = "cluster")]
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether an `Authorization` carries it.
    pub(crate) fn is_in(&self, authorization: &str) -> bool {
        let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
        let token = token.trim_matches(' ');
        // A length that differs is seen at once, and is no secret.
        scheme.eq_ignore_ascii_case("Bearer")
            && bool::from(self.0.as_bytes().ct_eq(token.as_bytes()))
    }
}

impl PartialEq for AdminToken {
    fn eq(&self, other: &AdminToken) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for AdminToken {}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

/// What protects the HTTP side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The token.
    Token(AdminToken),
    /// Its address: only this machine reaches it.
    Loopback,
    /// Something in front of it, or nothing (`--web-unprotected`).
    Unprotected,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Without the token, or with another one.
    Unauthorized,
    /// Under a name that may be another site's.
    Name,
}

impl Guard {
    /// Whether whoever sent this head may have what is guarded.
    pub(super) fn check(&self, head: &Head<'_>) -> Result<(), Stop> {
        match self {
            Guard::Token(token) => match head.authorization {
                Some(authorization) if token.is_in(authorization) => Ok(()),
                _ => Err(Stop::Unauthorized),
            },
            Guard::Loopback if head.host.is_none_or(is_no_name) => Ok(()),
            Guard::Loopback => Err(Stop::Name),
            Guard::Unprotected => Ok(()),
        }
    }
}

/// Whether a `Host` is an address or `localhost`, with or without a port: no other site can
/// have these. Empty is what a program sends that knows none.
fn is_no_name(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // The last colon of "[::1]" belongs to the address.
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let inner = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_address = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    host.is_empty() || (is_port && (is_address || name.eq_ignore_ascii_case("localhost")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_fits_a_header() {
        for fine in ["0123456789abcdef", "AZaz09-._~+/1234", "0123456789abcd=="] {
            assert!(AdminToken::new(fine).is_some(), "{fine}");
        }
        for wrong in [
            "",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789=abcdef",
            "================",
            "0123456789abcdéf",
            "0123456789abcdef\n",
            "0123456789abcdef,",
        ] {
            assert!(AdminToken::new(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn only_the_same_token_is_let_in() {
        let token = AdminToken::new("0123456789abcdef").unwrap();
        for fine in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef"] {
            assert!(token.is_in(fine), "{fine}");
        }
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789ABCDEF",
            "Bearer 0123456789abcdef x",
            "Bearer=0123456789abcdef",
        ] {
            assert!(!token.is_in(wrong), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "AdminToken(..)");
    }

    #[test]
    fn names_other_than_localhost_may_be_another_sites() {
        for fine in [
            "",
            "localhost",
            "LOCALHOST:10002",
            "127.0.0.1",
            "127.0.0.1:10002",
            "10.0.0.1:80",
            "[::1]",
            "[::1]:10002",
            "localhost:",
        ] {
            assert!(is_no_name(fine), "{fine}");
        }
        for name in [
            "example.org",
            "example.org:10002",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "xlocalhost",
            "localhost:10002.example.org",
            "127.0.0.1@example.org",
            "[example.org]",
            "[::1].example.org",
            "[127.0.0.1]",
            "[::1",
            "::1]",
            "localhost.",
            " ",
            ":10002",
            "2130706433",
            "0x7f.1",
        ] {
            assert!(!is_no_name(name), "{name}");
        }
    }
}
