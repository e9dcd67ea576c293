//! What strangers do: forged datagrams from the address of a client, and floods from
//! addresses of nobody.
//!
//! A forger is not on the path between a client and the server. It may know addresses and
//! conversation numbers, and it guesses the rest. What it guesses is drawn here near to the
//! truth, so that each check of the server is met; what has hit by then is judged by
//! [`super::path::Path::is_hit`] when the datagram arrives.

use super::fault::Fault;
use super::network::Author;
use super::oracle::Conn;
use super::script::Act;
use super::world::{Device, Health, World};
use crate::engine::id::{Conv, PlayerId, RoomId};
use crate::engine::wire::message::{Uplink, Version};
use crate::engine::wire::segment::{Cmd, Segment, write};

/// Windows that a forger claims.
const WINDOWS: [u16; 5] = [0, 1, 32, 256, u16::MAX];
/// By how much a guess that is ahead of everything sent is ahead at least.
const AHEAD_MIN: u64 = 2_048;
/// By how much a guess is off at the most: less than half of KCP's numbers.
const OFF_MAX: u64 = 1_000_000_000;
/// Age in ms up to which the server believes an echo, less the way there.
const ECHO_AGE_MS: u64 = 50_000;

/// A number that is under 2^32.
fn u32_of(number: u64) -> u32 {
    u32::try_from(number).expect("it was drawn so")
}

/// A datagram of one segment after another.
#[derive(Default)]
struct Forgery(Vec<u8>);

impl Forgery {
    fn add(&mut self, conv: Conv, cmd: Cmd, wnd: u16, [ts, sn, una]: [u32; 3], data: &[u8]) {
        let segment = Segment {
            conv: conv.0,
            cmd,
            frg: 0,
            wnd,
            ts,
            sn,
            una,
            data,
        };
        write(&mut self.0, &segment);
    }
}

// --- Forged acknowledgements --------------------------------------------------------------

impl World {
    /// Somebody begins to forge datagrams from a client's address.
    pub(super) fn begin_forging(&mut self, device: usize) {
        if self.is_left_out(Fault::ForgedAck) {
            return;
        }
        let datagrams = u16::try_from(self.rng.within(5..=150)).expect("it is small");
        let lucky = self.rng.per_mille(200) && !self.is_left_out(Fault::LuckyAck);
        let conn = self.devices[device].conn;
        self.note(format!(
            "forged datagrams from {}",
            self.devices[device].addr
        ));
        self.begin_spying(device);
        self.forge(device, conn, lucky, datagrams);
    }

    /// One forged datagram, and `left - 1` to come. A client that was started again under its
    /// old number is spared until it has its seat: KCP cannot tell its two lives apart.
    pub(super) fn forge(&mut self, device: usize, conn: Conn, lucky: bool, left: u16) {
        let own = &self.devices[device];
        let lives = matches!(own.health, Health::Alive | Health::Frozen);
        if own.conn != conn || !lives {
            return;
        }
        if self.rng.per_mille(250) && !self.is_left_out(Fault::ForgedSignal) {
            self.forge_signal(device);
        } else if self.is_seated(device) || !own.reborn {
            let (author, bytes) = self.draw_forgery(device, lucky);
            let addr = self.devices[device].addr;
            self.inject(addr, author, &bytes);
        }
        if left > 1 {
            let wait = self.rng.millis(1..=60);
            self.after(wait, Act::Forge(device, conn, lucky, left - 1));
        }
    }

    fn draw_forgery(&mut self, device: usize, lucky: bool) -> (Author, Vec<u8>) {
        let said = self.devices[device].said.len();
        match self.rng.index(8) {
            0 if said > 0 && !self.is_left_out(Fault::Replay) => {
                let index = self.rng.index(said);
                (Author::Replayer, self.devices[device].said[index].clone())
            }
            1 => {
                let conv = Conv(self.rng.bits32());
                (Author::Forger, self.draw_connect(conv, [0; 3]))
            }
            _ => {
                let mut forgery = Forgery::default();
                for _ in 0..=self.rng.index(2) {
                    self.forge_segment(device, lucky, &mut forgery);
                }
                (Author::Forger, forgery.0)
            }
        }
    }

    /// An acknowledgement or a window of the client's, made up. Only a lucky one may name
    /// what is under way, by a time stamp that may be right.
    fn forge_segment(&mut self, device: usize, lucky: bool, forgery: &mut Forgery) {
        let Device { client, down, .. } = &self.devices[device];
        let (conv, una, next) = (client.conv(), down.una(), down.next());
        let clock = down.clock(self.now);
        let rng = &mut self.rng;
        let wnd = WINDOWS[rng.index(WINDOWS.len())];
        let behind = una.wrapping_sub(u32_of(rng.within(0..=u64::from(una.min(300)))));
        let under_way = una + u32_of(rng.within(0..=u64::from(next - una)));
        let ahead = next.wrapping_add(u32_of(rng.within(AHEAD_MIN..=OFF_MAX)));
        let random = rng.bits32();
        let old = u32_of(rng.within(0..=ECHO_AGE_MS));
        let plausible = clock.map_or(random, |clock| clock.wrapping_sub(old));
        // An ACK of what has arrived, as long as nothing has, is one that echoes nothing.
        let (known, seen) = match behind.checked_sub(1) {
            Some(known) => (known, plausible),
            None => (0, random),
        };
        let window = if rng.per_mille(500) {
            Cmd::Wins
        } else {
            Cmd::Wask
        };
        let (cmd, fields) = match rng.index(if lucky { 9 } else { 7 }) {
            0 => (window, [random, 0, ahead]),
            1 => (window, [random, 0, behind]),
            2 => (window, [random, 0, una]),
            3 => (Cmd::Ack, [random, under_way, under_way]),
            4 => (Cmd::Ack, [plausible, ahead, under_way]),
            5 => (Cmd::Ack, [seen, known, behind]),
            6 => (
                Cmd::Ack,
                [plausible.wrapping_add(random >> 1), under_way, una],
            ),
            7 => (window, [random, 0, under_way]),
            _ => (Cmd::Ack, [plausible, under_way, una]),
        };
        forgery.add(conv, cmd, wnd, fields, &[]);
    }

    /// A first datagram that names some player of some room.
    fn draw_connect(&mut self, conv: Conv, fields: [u32; 3]) -> Vec<u8> {
        let mut body = Vec::new();
        let named = self.rng.index(self.players.len());
        let (mut player, room) = (self.players[named].id, self.players[named].room);
        let mut room = self.rooms[room].spec.room;
        match self.rng.index(8) {
            0 => room = RoomId(self.rng.bits64()),
            1 => player = PlayerId(self.rng.bits64()),
            _ => {}
        }
        let token = "t".repeat(self.rng.index(20));
        let connect = Uplink::Connect {
            player,
            room,
            token,
            version: Version::V1,
        };
        connect.encode(&mut body);
        let mut forgery = Forgery::default();
        forgery.add(conv, Cmd::Push, 256, fields, &body);
        forgery.0
    }
}

/// What would take a seat if the time stamp were right, which it is not by a hair.
fn near_echo((conv, ts): (u32, u32)) -> Vec<u8> {
    let mut forgery = Forgery::default();
    forgery.add(Conv(conv), Cmd::Ack, 256, [ts, 0, 1], &[]);
    let mut body = Vec::new();
    Uplink::JoinRoom.encode(&mut body);
    forgery.add(Conv(conv), Cmd::Push, 256, [0, 1, 1], &body);
    forgery.0
}

// --- Floods -------------------------------------------------------------------------------

impl World {
    /// A flood of first datagrams begins, from many addresses: of many networks, of one, or
    /// of the one in which the clients are.
    pub(super) fn begin_flood(&mut self) {
        if self.is_left_out(Fault::Flood) {
            return;
        }
        let networks = [1, 1, 4, 50][self.rng.index(4)];
        let near = networks == 1 && self.rng.per_mille(500);
        for index in 0..self.rng.within(50..=250) {
            let byte = |number: u64| u8::try_from(number).expect("it is below 251");
            let network = byte(index % networks);
            let host = byte(2 + index / networks % 249);
            let addr = if near {
                [10, 0, 1, host]
            } else {
                [10, 66, network, host]
            };
            self.places.add_stranger(addr);
        }
        self.flooded = true;
        let batches = u16::try_from(self.rng.within(40..=250)).expect("it is small");
        self.note(format!("a flood of {batches} batches begins"));
        self.flood(batches);
    }

    /// Some datagrams of a flood, and `left - 1` times as many to come.
    pub(super) fn flood(&mut self, left: u16) {
        for _ in 0..=self.rng.index(12) {
            let index = self.rng.index(self.places.strangers().len());
            let (from, purse) = &self.places.strangers()[index];
            let (from, near) = (*from, purse.near_miss());
            let bytes = match near.filter(|_| self.rng.per_mille(200)) {
                Some(near) => near_echo(near),
                None => self.draw_of_flood(),
            };
            self.inject(from, Author::Forger, &bytes);
        }
        if left > 1 {
            let wait = self.rng.millis(1..=15);
            self.after(wait, Act::Flood(left - 1));
        }
    }

    fn draw_of_flood(&mut self) -> Vec<u8> {
        let conv = self.draw_conv();
        match self.rng.index(8) {
            0..=3 => self.draw_connect(conv, [0; 3]),
            4 => self.draw_hasty_client(conv),
            5 => self.draw_garbage(conv),
            6 => {
                let mut echo = Forgery::default();
                let mut body = Vec::new();
                Uplink::Echo(&[7; 200]).encode(&mut body);
                echo.add(conv, Cmd::Push, 256, [0; 3], &body);
                echo.0
            }
            _ => self.draw_recorded().unwrap_or_default(),
        }
    }

    /// All that a client says until the match begins, and the echo of a guess.
    fn draw_hasty_client(&mut self, conv: Conv) -> Vec<u8> {
        let mut forgery = Forgery(self.draw_connect(conv, [0; 3]));
        for (sn, message) in [(1, Uplink::JoinRoom), (2, Uplink::Ready)] {
            let mut body = Vec::new();
            message.encode(&mut body);
            forgery.add(conv, Cmd::Push, 256, [0, sn, 0], &body);
        }
        if self.rng.per_mille(500) {
            let ts = self.rng.bits32();
            forgery.add(conv, Cmd::Ack, 256, [ts, 0, 1], &[]);
        }
        forgery.0
    }

    /// Nothing that means anything, with or without a header in front.
    fn draw_garbage(&mut self, conv: Conv) -> Vec<u8> {
        let len = self.rng.index(120);
        let data: Vec<u8> = (0..len)
            .map(|_| u8::try_from(self.rng.within(0..=255)).expect("a byte"))
            .collect();
        if self.rng.per_mille(500) {
            return data;
        }
        let mut forgery = Forgery::default();
        let cmd = [Cmd::Push, Cmd::Ack, Cmd::Wask, Cmd::Wins][self.rng.index(4)];
        let fields = [(); 3].map(|()| u32_of(self.rng.within(0..=3)));
        forgery.add(conv, cmd, 0, fields, &data);
        forgery.0
    }

    /// What some client has said.
    fn draw_recorded(&mut self) -> Option<Vec<u8>> {
        if self.devices.is_empty() {
            return None;
        }
        let device = self.rng.index(self.devices.len());
        let said = self.devices[device].said.len();
        let index = (said > 0).then(|| self.rng.index(said))?;
        Some(self.devices[device].said[index].clone())
    }
}
