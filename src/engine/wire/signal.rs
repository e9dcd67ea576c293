//! Signals: the datagrams of version 2 that stand beside KCP. By them a client finds out whether
//! the server still knows its session, and takes the session along to a new address.
//!
//! ```text
//!  0       4   5       8               16              24                      40                      56
//! +-------+---+-------+---------------+---------------+-----------------------+-----------------------+
//! | conv  | E?| 0 0 0 |    session    |    counter    |        cookie         |          mac          |
//! +-------+---+-------+---------------+---------------+-----------------------+-----------------------+
//! ```
//!
//! Where KCP has its command, a signal has 0xE0 to 0xE5. All have one length, so no answer is longer
//! than what it answers. Numbers are little-endian. `mac` is HMAC-SHA256 of what stands before it
//! under the secret of the session, cut to 16 bytes, but for a reset: whoever sends one knows no
//! secret, and gives back the `mac` of the knock. Nobody can guess that who has not seen it.
//!
//! Which signal is right when, the server decides in `engine::moving`, the client in
//! `client::knocker`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::engine::drops::Drop;
use crate::engine::id::Conv;

/// Bytes of every signal.
pub const SIGNAL_BYTES: usize = 56;

const KIND_AT: usize = 4;
const KIND_END: usize = 5;
const SESSION_AT: usize = 8;
const COUNTER_AT: usize = 16;
const COOKIE_AT: usize = 24;
const MAC_AT: usize = 40;

/// HMAC-SHA256 of some parts, one after another, cut to 16 bytes.
pub(in crate::engine) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes every key");
    for part in parts {
        mac.update(part);
    }
    let whole = mac.finalize().into_bytes();
    *whole.first_chunk().expect("32 bytes are more than 16")
}

/// The name of a session, which its client is told in the answer to its Connect. Drawn so that it
/// comes only once, and not again after a start of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// What only a session's two ends know, and whoever read the answer to the Connect. Its `Debug`
/// shows nothing of it, and two are compared in constant time.
#[derive(Clone, Copy)]
pub struct SessionSecret([u8; 16]);

impl SessionSecret {
    /// The secret of these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> SessionSecret {
        SessionSecret(bytes)
    }

    /// Its bytes, for the wire.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl PartialEq for SessionSecret {
    fn eq(&self, other: &SessionSecret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SessionSecret {}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(..)")
    }
}

/// What a client shows to be taken for the one that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The session.
    pub session: SessionId,
    /// Its secret.
    pub secret: SessionSecret,
}

/// What a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalKind {
    /// Client: "Do you know me, here?"
    Knock,
    /// Server: "I know no such session."
    Reset,
    /// Server: "The session is here."
    Alive,
    /// Server: "The session is elsewhere. Give me this cookie back, and it moves."
    Challenge,
    /// Client: "Here is the cookie."
    Move,
    /// Server: "Another client of the player has its seat."
    Replaced,
}

impl SignalKind {
    const ALL: [SignalKind; 6] = [
        SignalKind::Knock,
        SignalKind::Reset,
        SignalKind::Alive,
        SignalKind::Challenge,
        SignalKind::Move,
        SignalKind::Replaced,
    ];

    fn byte(self) -> u8 {
        match self {
            SignalKind::Knock => 0xe0,
            SignalKind::Reset => 0xe1,
            SignalKind::Alive => 0xe2,
            SignalKind::Challenge => 0xe3,
            SignalKind::Move => 0xe4,
            SignalKind::Replaced => 0xe5,
        }
    }
}

/// One signal.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// KCP's conversation.
    pub conv: Conv,
    /// What it is for.
    pub kind: SignalKind,
    /// The session.
    pub session: SessionId,
    /// The number of the knock that it is, or that it belongs to: each session counts from 1.
    pub counter: u64,
    /// What a challenge asks back; else 0.
    pub cookie: [u8; 16],
    mac: [u8; 16],
}

impl Signal {
    /// Whether a datagram is a signal, and none of KCP's, whose commands are 81 to 84.
    pub fn is_one(datagram: &[u8]) -> bool {
        let kind = datagram.get(KIND_AT);
        kind.is_some_and(|kind| (0xe0..=0xef).contains(kind))
    }

    /// Reads a datagram that is one.
    ///
    /// # Errors
    /// [`Drop::SignalMalformed`].
    pub fn parse(datagram: &[u8]) -> Result<Signal, Drop> {
        let whole: &[u8; SIGNAL_BYTES] = datagram.try_into().map_err(|_| Drop::SignalMalformed)?;
        let kind = SignalKind::ALL
            .into_iter()
            .find(|kind| kind.byte() == whole[KIND_AT])
            .filter(|_| whole[KIND_END..SESSION_AT] == [0; 3])
            .ok_or(Drop::SignalMalformed)?;
        Ok(Signal {
            conv: Conv(u32::from_le_bytes(part(whole, 0))),
            kind,
            session: SessionId(u64::from_le_bytes(part(whole, SESSION_AT))),
            counter: u64::from_le_bytes(part(whole, COUNTER_AT)),
            cookie: part(whole, COOKIE_AT),
            mac: part(whole, MAC_AT),
        })
    }

    /// A signal of a session under its secret, without a cookie.
    pub fn sealed(kind: SignalKind, conv: Conv, pass: &Pass, counter: u64) -> Signal {
        Signal::with_cookie(kind, conv, pass, counter, [0; 16])
    }

    /// A challenge, or the answer to one.
    pub fn with_cookie(
        kind: SignalKind,
        conv: Conv,
        pass: &Pass,
        counter: u64,
        cookie: [u8; 16],
    ) -> Signal {
        let mut signal = Signal {
            conv,
            kind,
            session: pass.session,
            counter,
            cookie,
            mac: [0; 16],
        };
        signal.mac = signal.mac_by(pass.secret);
        signal
    }

    /// The reset that answers a knock.
    pub fn reset(knock: &Signal) -> Signal {
        Signal {
            kind: SignalKind::Reset,
            cookie: [0; 16],
            ..*knock
        }
    }

    /// Whether it was made with this secret.
    pub fn is_of(&self, secret: SessionSecret) -> bool {
        self.mac.ct_eq(&self.mac_by(secret)).into()
    }

    /// Whether a reset answers this knock.
    pub fn resets(&self, knock: &Signal) -> bool {
        let same = self.counter == knock.counter && self.kind == SignalKind::Reset;
        same && bool::from(self.mac.ct_eq(&knock.mac))
    }

    /// Whether the cookie is this one.
    pub fn brings(&self, cookie: [u8; 16]) -> bool {
        self.cookie.ct_eq(&cookie).into()
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; SIGNAL_BYTES] {
        let mut bytes = [0; SIGNAL_BYTES];
        bytes[..KIND_AT].copy_from_slice(&self.conv.0.to_le_bytes());
        bytes[KIND_AT] = self.kind.byte();
        bytes[SESSION_AT..COUNTER_AT].copy_from_slice(&self.session.0.to_le_bytes());
        bytes[COUNTER_AT..COOKIE_AT].copy_from_slice(&self.counter.to_le_bytes());
        bytes[COOKIE_AT..MAC_AT].copy_from_slice(&self.cookie);
        bytes[MAC_AT..].copy_from_slice(&self.mac);
        bytes
    }

    fn mac_by(&self, secret: SessionSecret) -> [u8; 16] {
        hmac(&secret.0, &[&self.to_bytes()[..MAC_AT]])
    }
}

fn part<const N: usize>(bytes: &[u8; SIGNAL_BYTES], at: usize) -> [u8; N] {
    let field = bytes[at..].first_chunk();
    *field.expect("every field lies within a signal")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASS: Pass = Pass {
        session: SessionId(0x0102_0304_0506_0708),
        secret: SessionSecret(*b"only two know it"),
    };

    fn knock() -> Signal {
        Signal::sealed(SignalKind::Knock, Conv(0x1122_3344), &PASS, 9)
    }

    #[test]
    fn every_field_has_its_place() {
        let cookie = *b"bring it me back";
        let signal = Signal::with_cookie(SignalKind::Move, Conv(0x1122_3344), &PASS, 9, cookie);
        let bytes = signal.to_bytes();
        let head = [0x44, 0x33, 0x22, 0x11, 0xe4, 0, 0, 0];
        assert_eq!(bytes[..8], head);
        assert_eq!(bytes[8..16], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[16..24], [9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..40], cookie);
        let read = Signal::parse(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{signal:?}"));
        assert!(read.is_of(PASS.secret) && read.brings(cookie));
    }

    #[test]
    fn the_mac_is_hmac_sha256_as_others_compute_it() {
        // python3: hmac.new(b"only two know it", bytes, "sha256").digest()[:16], the bytes being
        // those of `every_field_has_its_place` for a knock without a cookie.
        let mac = u128::from_be_bytes(knock().to_bytes()[40..].try_into().unwrap());
        assert_eq!(mac, 0x40ad_246d_b47d_5f96_2901_ef39_49cb_e8ff);
    }

    #[test]
    fn a_signal_with_one_bit_changed_is_none_of_the_session() {
        let bytes = knock().to_bytes();
        for bit in 0..8 * SIGNAL_BYTES {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = Signal::parse(&changed);
            assert!(!read.is_ok_and(|read| read.is_of(PASS.secret)), "bit {bit}");
        }
        assert!(!knock().is_of(SessionSecret([0; 16])));
    }

    #[test]
    fn other_lengths_kinds_and_bytes_in_between_are_refused() {
        let bytes = knock().to_bytes();
        let malformed = |bytes: &[u8]| Signal::parse(bytes).err() == Some(Drop::SignalMalformed);
        assert!(malformed(&bytes[..55]) && malformed(&[&bytes[..], &[0]].concat()));
        for (at, value) in [(4, 0xe6), (4, 0xef), (5, 1), (6, 1), (7, 1)] {
            let mut changed = bytes;
            changed[at] = value;
            assert!(malformed(&changed), "byte {at}");
        }
        assert!(Signal::is_one(&bytes) && !Signal::is_one(&bytes[..4]));
        assert!(!Signal::is_one(&[0, 0, 0, 0, 81]));
    }

    #[test]
    fn a_reset_answers_the_knock_whose_mac_it_gives_back_and_no_other() {
        let reset = Signal::parse(&Signal::reset(&knock()).to_bytes()).unwrap();
        assert!(reset.resets(&knock()));
        let next = Signal::sealed(SignalKind::Knock, Conv(0x1122_3344), &PASS, 10);
        assert!(!reset.resets(&next) && !knock().resets(&knock()));
    }

    #[test]
    fn a_secret_shows_nothing_of_itself() {
        assert!(!format!("{PASS:?}").contains("111"), "{PASS:?}");
    }
}
