//! The network between the server and its clients: it loses, delays, repeats and reorders
//! datagrams, and cuts addresses off. All of it is drawn from the seed.
//!
//! Every datagram has one of two ends at the server, so a path is known by the client's
//! address and its direction. Datagrams come out in the order of (arrival, sequence).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::rng::Rng;
use crate::engine::time::Time;
use crate::engine::wire::segment::{HEADER, Segments};

/// The least time that a datagram is under way: nothing arrives in the moment it was sent.
const DELAY_MIN: Duration = Duration::from_micros(50);
/// Where a segment says how much its sender can still take: two bytes.
const WND_AT: usize = 6;

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Datagrams lost of a million.
    pub loss: u64,
    /// Datagrams that come twice of a million.
    pub twice: u64,
    /// Datagrams of a million that are held up by as much as `held_up_max`.
    pub held_up: u64,
    /// The longest that a datagram is held up, on top of delay and jitter.
    pub held_up_max: Duration,
    /// The time that every datagram is under way.
    pub delay: Duration,
    /// The most that is added to it, at random.
    pub jitter: Duration,
}

impl Faults {
    /// Draws a network: mild, middling or brutal.
    pub fn draw(rng: &mut Rng) -> Faults {
        let (loss, twice, held_up, held_up_ms, delay_ms, jitter_ms) = match rng.within(0..=9) {
            0..=3 => (20_000, 5_000, 1_000, 200, 20, 5),
            4..=7 => (100_000, 50_000, 10_000, 500, 80, 30),
            _ => (300_000, 150_000, 30_000, 1_500, 150, 100),
        };
        Faults {
            loss: rng.within(0..=loss),
            twice: rng.within(0..=twice),
            held_up: rng.within(0..=held_up),
            held_up_max: rng.millis(50..=held_up_ms),
            delay: rng.millis(0..=delay_ms),
            jitter: rng.millis(0..=jitter_ms),
        }
    }

    /// A network without faults that is as far as this one, up to a limit.
    fn healed(self) -> Faults {
        Faults {
            loss: 0,
            twice: 0,
            held_up: 0,
            held_up_max: Duration::ZERO,
            delay: self.delay.min(Duration::from_millis(60)),
            jitter: Duration::ZERO,
        }
    }

    /// The longest that a datagram can be under way.
    pub fn delay_max(&self) -> Duration {
        self.delay.max(DELAY_MIN) + self.jitter + self.held_up_max
    }
}

/// What the network did with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives(Time),
    /// It arrives, and once more.
    Twice(Time, Time),
    /// It is lost by chance.
    Lost,
    /// It is lost because its path is cut.
    Cut,
}

impl Fate {
    /// A number that stands for it in the trace's hash.
    pub fn code(self) -> u64 {
        match self {
            Fate::Arrives(at) => at.as_micros(),
            Fate::Twice(first, second) => first.as_micros() ^ second.as_micros().rotate_left(32),
            Fate::Lost => u64::MAX,
            Fate::Cut => u64::MAX - 1,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Arrives(at) => write!(f, "arrives {at}"),
            Fate::Twice(first, second) => write!(f, "arrives {first} and {second}"),
            Fate::Lost => f.write_str("LOST"),
            Fate::Cut => f.write_str("CUT"),
        }
    }
}

/// Which ways of a path are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// Both.
    Both,
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// A client's path that is cut for a while.
#[derive(Clone, Copy, Debug)]
struct Cut {
    client: SocketAddr,
    ways: Ways,
    until: Time,
}

/// Who really sent a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Whoever is at the address that it comes from.
    Sender,
    /// Somebody else, who made it up.
    Forger,
    /// Somebody else, who has seen it before: what it says was true then.
    Replayer,
}

/// A datagram that has come.
#[derive(Debug)]
pub struct Arrival {
    /// Whom it names as its sender.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Who really sent it.
    pub author: Author,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// One under way: when it arrives, its sequence number, and where it lies.
type UnderWay = Reverse<(Time, u64, usize)>;

/// What the network has done, in datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Given to it.
    pub sent: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost to a cut.
    pub cut: u64,
    /// Delivered twice.
    pub twice: u64,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    server: SocketAddr,
    faults: Faults,
    rng: Rng,
    cuts: Vec<Cut>,
    under_way: BinaryHeap<UnderWay>,
    datagrams: slab::Slab<Arrival>,
    sequence: u64,
    tally: Tally,
}

impl Network {
    /// A network around this server.
    pub fn new(server: SocketAddr, faults: Faults, rng: Rng) -> Network {
        Network {
            server,
            faults,
            rng,
            cuts: Vec::new(),
            under_way: BinaryHeap::new(),
            datagrams: slab::Slab::new(),
            sequence: 0,
            tally: Tally::default(),
        }
    }

    /// How bad it is now.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// What it has done.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Cuts a client's path.
    pub fn cut(&mut self, client: SocketAddr, ways: Ways, until: Time) {
        self.cuts.push(Cut {
            client,
            ways,
            until,
        });
    }

    /// Ends all faults. What is under way still arrives when it would have, if its sender has
    /// sent it; what somebody made up is gone, or the chaos would reach into the time after.
    pub fn heal(&mut self) {
        self.faults = self.faults.healed();
        self.cuts.clear();
        let datagrams = &mut self.datagrams;
        self.under_way.retain(|Reverse((_, _, key))| {
            let stays = datagrams[*key].author == Author::Sender;
            if !stays {
                datagrams.remove(*key);
            }
            stays
        });
    }

    /// Takes a datagram. A forger is elsewhere than the address that the datagram names: no
    /// cut of that address is in the way.
    pub fn send(
        &mut self,
        now: Time,
        (from, to): (SocketAddr, SocketAddr),
        author: Author,
        bytes: &[u8],
    ) -> Fate {
        self.tally.sent += 1;
        let fate = if author == Author::Sender && self.is_cut(now, from, to) {
            Fate::Cut
        } else {
            self.fate(now)
        };
        let mut deliver = |at| self.deliver_at(at, (from, to), author, bytes);
        match fate {
            Fate::Arrives(at) => deliver(at),
            Fate::Twice(first, second) => {
                deliver(first);
                deliver(second);
                self.tally.twice += 1;
            }
            Fate::Lost => self.tally.lost += 1,
            Fate::Cut => self.tally.cut += 1,
        }
        fate
    }

    fn is_cut(&mut self, now: Time, from: SocketAddr, to: SocketAddr) -> bool {
        let (client, against) = if from == self.server {
            (to, Ways::Up)
        } else {
            (from, Ways::Down)
        };
        self.cuts.retain(|cut| cut.until > now);
        let cuts = |cut: &Cut| cut.client == client && cut.ways != against;
        self.cuts.iter().any(cuts)
    }

    fn fate(&mut self, now: Time) -> Fate {
        if self.rng.per_million(self.faults.loss) {
            Fate::Lost
        } else if self.rng.per_million(self.faults.twice) {
            Fate::Twice(self.arrival(now), self.arrival(now))
        } else {
            Fate::Arrives(self.arrival(now))
        }
    }

    fn arrival(&mut self, now: Time) -> Time {
        let up_to = |rng: &mut Rng, most: Duration| {
            let us = u64::try_from(most.as_micros()).expect("the bounds are short");
            Duration::from_micros(rng.within(0..=us))
        };
        let mut delay = self.faults.delay.max(DELAY_MIN);
        delay += up_to(&mut self.rng, self.faults.jitter);
        if self.rng.per_million(self.faults.held_up) {
            delay += up_to(&mut self.rng, self.faults.held_up_max);
        }
        now + delay
    }

    fn deliver_at(
        &mut self,
        at: Time,
        (from, to): (SocketAddr, SocketAddr),
        author: Author,
        bytes: &[u8],
    ) {
        self.sequence += 1;
        let key = self.datagrams.insert(Arrival {
            from,
            to,
            author,
            bytes: bytes.to_vec(),
        });
        self.under_way.push(Reverse((at, self.sequence, key)));
    }

    /// When the next datagram arrives.
    pub fn next_arrival(&self) -> Option<Time> {
        self.under_way.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next datagram that has arrived by now.
    pub fn receive(&mut self, now: Time) -> Option<Arrival> {
        let Reverse((at, _, key)) = self.under_way.peek()?;
        if *at > now {
            return None;
        }
        let key = *key;
        self.under_way.pop();
        Some(self.datagrams.remove(key))
    }
}

/// Makes every segment of a datagram that KCP has written say that its sender can take
/// nothing more.
pub fn shut_window(datagram: &mut [u8]) {
    let lengths: Vec<usize> = Segments::of_output(datagram)
        .map(|segment| HEADER + segment.data.len())
        .collect();
    let mut at = 0;
    for length in lengths {
        datagram[at + WND_AT..at + WND_AT + 2].fill(0);
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire::segment::{Cmd, Segment, write};

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn network(faults: Faults) -> Network {
        Network::new(addr(1), faults, Rng::new(7))
    }

    fn perfect() -> Faults {
        Faults {
            loss: 0,
            twice: 0,
            held_up: 0,
            held_up_max: Duration::ZERO,
            delay: Duration::from_millis(5),
            jitter: Duration::ZERO,
        }
    }

    #[test]
    fn without_faults_everything_arrives_in_order_after_the_delay() {
        let mut network = network(perfect());
        for byte in 0..100u8 {
            network.send(Time::ZERO, (addr(2), addr(1)), Author::Sender, &[byte]);
        }
        assert_eq!(network.next_arrival(), Some(Time::from_millis(5)));
        assert!(network.receive(Time::from_micros(4_999)).is_none());
        for byte in 0..100u8 {
            let arrival = network.receive(Time::from_millis(5)).unwrap();
            assert_eq!(arrival.bytes, [byte]);
        }
        assert!(network.next_arrival().is_none());
    }

    #[test]
    fn faults_lose_repeat_and_reorder() {
        let mut network = network(Faults {
            loss: 300_000,
            twice: 300_000,
            held_up: 100_000,
            held_up_max: Duration::from_secs(1),
            jitter: Duration::from_millis(10),
            ..perfect()
        });
        for byte in 0..200u8 {
            network.send(Time::ZERO, (addr(2), addr(1)), Author::Sender, &[byte]);
        }
        let mut got = Vec::new();
        while let Some(arrival) = network.receive(Time::from_millis(2_000)) {
            got.push(arrival.bytes[0]);
        }
        let tally = network.tally();
        assert!(tally.lost > 30 && tally.twice > 20);
        assert_eq!(got.len() as u64, 200 - tally.lost + tally.twice);
        assert!(!got.is_sorted());
    }

    #[test]
    fn a_cut_goes_the_way_it_says_for_as_long_as_it_says() {
        let (client, other, server) = (addr(2), addr(3), addr(1));
        for (ways, up, down) in [
            (Ways::Both, true, true),
            (Ways::Up, true, false),
            (Ways::Down, false, true),
        ] {
            let mut network = network(perfect());
            network.cut(client, ways, Time::from_millis(10));
            let mut is_cut = |at, from, to, author| {
                network.send(Time::from_millis(at), (from, to), author, b"") == Fate::Cut
            };
            assert_eq!(is_cut(9, client, server, Author::Sender), up);
            assert_eq!(is_cut(9, server, client, Author::Sender), down);
            assert!(!is_cut(9, server, other, Author::Sender));
            assert!(!is_cut(9, client, server, Author::Forger));
            assert!(!is_cut(10, client, server, Author::Sender));
            assert!(!is_cut(10, server, client, Author::Sender));
        }
    }

    #[test]
    fn what_a_forger_has_under_way_ends_with_the_faults() {
        let mut network = network(perfect());
        let way = (addr(2), addr(1));
        network.send(Time::ZERO, way, Author::Forger, b"forged");
        network.send(Time::ZERO, way, Author::Sender, b"true");
        network.heal();
        let arrival = network.receive(Time::from_millis(5)).unwrap();
        assert_eq!(arrival.bytes, b"true");
        assert!(network.receive(Time::from_millis(5)).is_none());
    }

    #[test]
    fn a_shut_window_is_0_in_every_segment_and_nothing_else_changes() {
        let segment = |wnd, data| Segment {
            conv: 7,
            cmd: Cmd::Push,
            frg: 0,
            wnd,
            ts: 1,
            sn: 2,
            una: 3,
            data,
        };
        let datagram = |wnds: [u16; 2]| {
            let mut bytes = Vec::new();
            write(&mut bytes, &segment(wnds[0], b"abc"));
            write(&mut bytes, &segment(wnds[1], b""));
            bytes
        };
        let mut bytes = datagram([256, 0x1234]);
        shut_window(&mut bytes);
        assert_eq!(bytes, datagram([0, 0]));
    }
}
