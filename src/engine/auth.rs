//! Who may take a seat: what the token of a Connect must be. The engine's side of
//! [`crate::ticket`]; which seat it is, and whether there is one, is the router's to find.

use std::fmt::{self, Write as _};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::wire::message::ConnectCode;
use crate::ticket::{TicketFault, TicketSecrets};

/// What the token of a Connect must be (`--auth`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Anything: whoever knows the numbers of room and player is that player.
    #[default]
    Open,
    /// The secret of the room.
    Room,
    /// A ticket for the room and the player that one of these secrets signed.
    Ticket(TicketSecrets),
}

impl Auth {
    /// The value of the setting.
    pub fn name(&self) -> &'static str {
        match self {
            Auth::Open => "open",
            Auth::Room => "room",
            Auth::Ticket(_) => "ticket",
        }
    }
}

/// The secret of one room, drawn by whoever creates it: 128 bits, in 32 hexadecimal digits
/// where it is told. Its `Debug` shows nothing of it, and two are compared in constant time.
#[derive(Clone, Copy)]
pub struct RoomSecret([u8; 16]);

impl RoomSecret {
    /// The secret of these random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> RoomSecret {
        RoomSecret(bytes)
    }

    /// Its bytes, for the journal.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Its 32 digits, in lower case.
    pub fn to_hex(self) -> String {
        let mut hex = String::with_capacity(32);
        for byte in self.0 {
            write!(hex, "{byte:02x}").expect("a string takes everything");
        }
        hex
    }

    /// The secret of those who may only watch: whoever knows the room's can make it, and nobody
    /// the other way round.
    #[must_use]
    pub fn for_watchers(self) -> RoomSecret {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes every key");
        mac.update(b"watch");
        let mut half = [0; 16];
        half.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        RoomSecret(half)
    }

    /// Whether a token is its digits.
    pub(super) fn is(self, token: &str) -> bool {
        // A length that differs is seen at once, and is no secret.
        self.to_hex().as_bytes().ct_eq(token.as_bytes()).into()
    }
}

impl PartialEq for RoomSecret {
    fn eq(&self, other: &RoomSecret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for RoomSecret {}

impl fmt::Debug for RoomSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomSecret(..)")
    }
}

/// Why a Connect is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the client is told.
    pub(super) code: ConnectCode,
    /// What is wrong with its ticket: told to the operator alone.
    pub(super) ticket: Option<TicketFault>,
}

impl From<ConnectCode> for Refusal {
    fn from(code: ConnectCode) -> Refusal {
        Refusal { code, ticket: None }
    }
}

impl From<TicketFault> for Refusal {
    fn from(fault: TicketFault) -> Refusal {
        Refusal {
            code: ConnectCode::Token,
            ticket: Some(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_secret_is_its_digits_and_shows_none_of_them() {
        let secret = RoomSecret::from_bytes(*b"\x00\x01\xfe\xff0123456789ab");
        let hex = "0001feff303132333435363738396162";
        assert_eq!(secret.to_hex(), hex);
        assert!(secret.is(hex));
        let upper = hex.to_uppercase();
        for other in [
            "",
            &hex[1..],
            &format!("{hex}0"),
            &hex.replace('f', "e"),
            &upper,
        ] {
            assert!(!secret.is(other), "{other}");
        }
        assert_eq!(format!("{secret:?}"), "RoomSecret(..)");
    }
}
