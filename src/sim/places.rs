//! Who lives at which address, and what was sent there before anybody proved to receive it.
//!
//! Devices have an address of their own, and may leave it for another. Strangers are
//! addresses that somebody else forges: whatever is sent there is lost.

use std::net::SocketAddr;

use super::oracle::Conn;
use crate::engine::wire::segment::{Cmd, Segments};
use crate::engine::wire::signal::{Signal, SignalKind};

/// The port of the first address of a device; the others follow.
const FIRST_PORT: u16 = 20_000;
/// The port of the first stranger; the others follow.
const FIRST_STRANGER_PORT: u16 = 40_000;
/// How many times the bytes that came from an address may go there before it is proved.
const UNPROVED_FACTOR: usize = 3;

/// What the server has heard from an address, and sent there until its proof.
#[derive(Debug, Default)]
pub(super) struct Purse {
    heard: usize,
    sent: usize,
    /// Time stamps that were really sent there, the last of them in this conversation.
    stamps: Vec<u32>,
    conv: u32,
    proved: bool,
    /// Bytes of signals: of these no more may go there than came, whatever is proved.
    signals_heard: usize,
    signals_sent: usize,
    /// Cookies that were really sent there.
    cookies: Vec<[u8; 16]>,
}

/// More was sent to an address than its proof allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overdrawn {
    pub(super) heard: usize,
    pub(super) sent: usize,
}

impl Purse {
    /// The server has got a datagram that names this address.
    pub(super) fn hear(&mut self, datagram: &[u8]) {
        self.heard += datagram.len();
        if Signal::is_one(datagram) {
            self.signals_heard += datagram.len();
            let signal = Signal::parse(datagram).ok();
            self.proved |= signal.is_some_and(|signal| {
                signal.kind == SignalKind::Move && self.cookies.contains(&signal.cookie)
            });
            return;
        }
        let echoes = |stamp: &u32| self.stamps.contains(stamp);
        self.proved |= Segments::of_output(datagram)
            .any(|segment| segment.cmd == Cmd::Ack && echoes(&segment.ts));
    }

    /// The server sends a datagram there.
    pub(super) fn send(&mut self, datagram: &[u8]) -> Result<(), Overdrawn> {
        if Signal::is_one(datagram) {
            self.send_signal(datagram)?;
        }
        if self.proved {
            return Ok(());
        }
        self.sent += datagram.len();
        for segment in Segments::of_output(datagram) {
            if segment.cmd == Cmd::Push {
                self.stamps.push(segment.ts);
                self.conv = segment.conv;
            }
        }
        let Purse { heard, sent, .. } = *self;
        if sent > UNPROVED_FACTOR * heard {
            return Err(Overdrawn { heard, sent });
        }
        Ok(())
    }

    fn send_signal(&mut self, datagram: &[u8]) -> Result<(), Overdrawn> {
        self.signals_sent += datagram.len();
        let signal = Signal::parse(datagram).ok();
        let challenge = signal.filter(|signal| signal.kind == SignalKind::Challenge);
        self.cookies.extend(challenge.map(|signal| signal.cookie));
        let (heard, sent) = (self.signals_heard, self.signals_sent);
        if sent > heard {
            return Err(Overdrawn { heard, sent });
        }
        Ok(())
    }

    /// A time stamp that was never sent there, just before one that was, and its
    /// conversation.
    pub(super) fn near_miss(&self) -> Option<(u32, u32)> {
        let mut ts = *self.stamps.last()?;
        while self.stamps.contains(&ts) {
            ts = ts.wrapping_sub(1);
        }
        Some((self.conv, ts))
    }

    /// Whether a time stamp that was really sent there has come back.
    pub(super) fn is_proved(&self) -> bool {
        self.proved
    }
}

/// An address of a device, now or once.
#[derive(Debug)]
struct Home {
    device: usize,
    /// The newest conversation that the device has had there.
    conn: Conn,
    purse: Purse,
}

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct Places {
    homes: Vec<Home>,
    strangers: Vec<(SocketAddr, Purse)>,
}

fn index_of(addr: SocketAddr, first_port: u16) -> Option<usize> {
    addr.port().checked_sub(first_port).map(usize::from)
}

fn nth_port(first_port: u16, index: usize) -> u16 {
    first_port + u16::try_from(index).expect("a world has few addresses")
}

impl Places {
    /// A new address for a device and its conversation.
    pub(super) fn settle(&mut self, device: usize, conn: Conn) -> SocketAddr {
        let port = nth_port(FIRST_PORT, self.homes.len());
        self.homes.push(Home {
            device,
            conn,
            purse: Purse::default(),
        });
        SocketAddr::from(([10, 0, 1, 1], port))
    }

    /// A new address of nobody's, in this network.
    pub(super) fn add_stranger(&mut self, [a, b, c, d]: [u8; 4]) -> SocketAddr {
        let port = nth_port(FIRST_STRANGER_PORT, self.strangers.len());
        let addr = SocketAddr::from(([a, b, c, d], port));
        self.strangers.push((addr, Purse::default()));
        addr
    }

    /// Where a stranger of this network is, if there is one.
    pub(super) fn strangers_of(&self, network: [u8; 4]) -> Option<SocketAddr> {
        let mut all = self.strangers.iter().map(|(addr, _)| *addr);
        all.find(|addr| addr.ip() == std::net::IpAddr::from(network))
    }

    /// Another address at which a device has had this conversation.
    pub(super) fn earlier(
        &self,
        device: usize,
        conn: Conn,
        now_at: SocketAddr,
    ) -> Option<SocketAddr> {
        let mut homes = self.homes.iter().enumerate();
        let index = homes.find_map(|(index, home)| {
            let own = home.device == device && home.conn == conn;
            (own && nth_port(FIRST_PORT, index) != now_at.port()).then_some(index)
        })?;
        Some(SocketAddr::from((
            [10, 0, 1, 1],
            nth_port(FIRST_PORT, index),
        )))
    }

    /// Whether one of these devices has proved an address.
    pub(super) fn has_proved(&self, is_one: impl Fn(usize) -> bool) -> bool {
        let mut homes = self.homes.iter();
        homes.any(|home| home.purse.is_proved() && is_one(home.device))
    }

    /// The addresses of strangers.
    pub(super) fn strangers(&self) -> &[(SocketAddr, Purse)] {
        &self.strangers
    }

    /// A device begins a conversation at its address.
    pub(super) fn begin(&mut self, addr: SocketAddr, conn: Conn) {
        let index = index_of(addr, FIRST_PORT).expect("a device's address");
        self.homes[index].conn = conn;
    }

    /// The device that an address belongs to, or once did, and the newest conversation that
    /// it has had there. `None` for a stranger's.
    pub(super) fn owner(&self, addr: SocketAddr) -> Option<(usize, Conn)> {
        let home = self.homes.get(index_of(addr, FIRST_PORT)?)?;
        Some((home.device, home.conn))
    }

    /// A new server knows nobody.
    pub(super) fn forget_proofs(&mut self) {
        let homes = self.homes.iter_mut().map(|home| &mut home.purse);
        let strangers = self.strangers.iter_mut().map(|(_, purse)| purse);
        homes
            .chain(strangers)
            .for_each(|purse| *purse = Purse::default());
    }

    /// What was heard from an address and sent there.
    pub(super) fn purse(&mut self, addr: SocketAddr) -> &mut Purse {
        if let Some(index) = index_of(addr, FIRST_STRANGER_PORT) {
            return &mut self.strangers[index].1;
        }
        let index = index_of(addr, FIRST_PORT).expect("nobody else is in the world");
        &mut self.homes[index].purse
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire::segment::{Segment, write};

    fn datagram(cmd: Cmd, ts: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let segment = Segment {
            conv: 7,
            cmd,
            frg: 0,
            wnd: 32,
            ts,
            sn: 0,
            una: 0,
            data: &[],
        };
        write(&mut bytes, &segment);
        bytes
    }

    #[test]
    fn more_than_three_times_what_was_heard_is_found_until_the_proof() {
        let mut purse = Purse::default();
        purse.hear(&datagram(Cmd::Push, 5));
        for ts in 0..3 {
            purse.send(&datagram(Cmd::Push, ts)).unwrap();
        }
        let overdrawn = purse.send(&datagram(Cmd::Push, 3)).unwrap_err();
        assert_eq!((overdrawn.heard, overdrawn.sent), (24, 96));
    }

    #[test]
    fn only_the_echo_of_what_was_really_sent_is_a_proof() {
        let mut purse = Purse::default();
        purse.hear(&datagram(Cmd::Push, 5));
        purse.send(&datagram(Cmd::Push, 100)).unwrap();
        assert_eq!(purse.near_miss(), Some((7, 99)));
        purse.hear(&datagram(Cmd::Ack, 99));
        purse.hear(&datagram(Cmd::Push, 100));
        assert!(!purse.is_proved());
        purse.hear(&datagram(Cmd::Ack, 100));
        assert!(purse.is_proved());
        for _ in 0..9 {
            purse.send(&datagram(Cmd::Push, 0)).unwrap();
        }
    }
}
