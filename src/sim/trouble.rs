//! What goes wrong with people's devices: they are cut off, stand still, crash, change their
//! address, stop reading, or are attacked. All of it is drawn from the seed, and each kind is
//! counted where it takes effect.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::fault::Fault;
use super::network::Ways;
use super::oracle::{Conn, Violation};
use super::script::{Act, Restart};
use super::world::{Device, Health, World};
use crate::client::ClientState;
use crate::engine::time::Time;
use crate::limits::QUIET_AFTER;

/// Time between two outages of one device: KCP must have recovered from the first.
pub(super) const OUTAGE_GAP: Duration = Duration::from_secs(10);
/// The longest time for which a client takes nothing and must not lose its session.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Time after which a client that takes nothing has lost its session, whatever was still on
/// its way: the idle limit, and as long again as a bad network may hold up a segment.
const STALLED_WITHIN: Duration = Duration::from_secs(25);

/// A time in which a client takes nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    /// [`Fault::WindowShut`] or [`Fault::NeverReads`].
    pub(super) kind: Fault,
    pub(super) begin: Time,
    pub(super) end: Time,
}

impl World {
    /// Something happens to a player's device.
    pub(super) fn trouble(&mut self, player: usize) -> Result<(), Violation> {
        let pause = self.rng.millis(1_000..=8_000);
        let mut lasts = Duration::ZERO;
        let alive = |device: &usize| self.devices[*device].health == Health::Alive;
        if let Some(device) = self.players[player].device.filter(alive) {
            lasts = self.befall(player, device)?;
        }
        self.after(lasts + pause, Act::Trouble(player));
        Ok(())
    }

    /// Something happens to this device; returns for how long.
    fn befall(&mut self, player: usize, device: usize) -> Result<Duration, Violation> {
        match self.rng.index(20) {
            0..=3 => return Ok(self.outage(device, 200..=8_000)),
            4 => return Ok(self.outage(device, 8_500..=20_000)),
            5 => return Ok(self.freeze(device)),
            6..=8 => return Ok(self.crash(device)),
            9 => return self.take_over(player, device),
            10 if self.happens(Fault::Reconnect) => self.reconnect(device, false)?,
            11 if self.happens(Fault::Reconnect) => self.reconnect(device, true)?,
            12 if self.happens(Fault::StreamAgain) => self.stream_again(device)?,
            13 => self.leave(device),
            14 | 15 => self.change_address(device)?,
            16 => return Ok(self.pause(device, Fault::WindowShut)),
            17 => return Ok(self.pause(device, Fault::NeverReads)),
            18.. => self.begin_forging(device),
            _ => {}
        }
        Ok(Duration::ZERO)
    }

    /// Whether the device's last outage is long enough ago for another.
    fn may_go_out(&self, device: usize) -> bool {
        let Device { outage, pause, .. } = &self.devices[device];
        let ends = [outage.map(|(_, end)| end), pause.map(|pause| pause.end)];
        let recent = |end: Time| end + OUTAGE_GAP > self.now;
        !ends.into_iter().flatten().any(recent)
    }

    fn outage(&mut self, device: usize, ms: RangeInclusive<u64>) -> Duration {
        if !self.may_go_out(device) || !self.happens(Fault::Outage) {
            return Duration::ZERO;
        }
        let lasts = self.rng.millis(ms);
        let ways = [Ways::Both, Ways::Both, Ways::Up, Ways::Down][self.rng.index(4)];
        let own = &mut self.devices[device];
        let until = self.now + lasts;
        own.outage = Some((self.now, until));
        let addr = own.addr;
        self.note(format!("outage of {addr}: {ways:?} until {until}"));
        self.network.cut(addr, ways, until);
        lasts
    }

    fn freeze(&mut self, device: usize) -> Duration {
        if !self.may_go_out(device) || !self.happens(Fault::Freeze) {
            return Duration::ZERO;
        }
        let lasts = self.rng.millis(300..=6_000);
        let own = &mut self.devices[device];
        own.outage = Some((self.now, self.now + lasts));
        own.health = Health::Frozen;
        own.wake = None;
        self.after(lasts, Act::Thaw(device));
        lasts
    }

    /// The client's process ends, and comes back after a while.
    ///
    /// On the same address with the same number it must stay away until everything of the
    /// old conversation is off the network: KCP itself cannot tell the two apart. That is
    /// one way for its last datagram, the time after which the server falls silent, and one
    /// way for the server's last. And it must have had an answer: without one the server
    /// takes the new client for the old one, which is as it should be, but has waited for so
    /// long that the answer comes again late, or its patience ends.
    fn crash(&mut self, device: usize) -> Duration {
        let away = self.rng.millis(0..=5_000);
        let how = [Restart::Same, Restart::NewConv, Restart::NewAddr][self.rng.index(3)];
        self.end_process(device, how, away)
    }

    fn end_process(&mut self, device: usize, how: Restart, away: Duration) -> Duration {
        let margin = Duration::from_millis(200);
        let drained = self.network.faults().delay_max() * 2 + QUIET_AFTER + margin;
        let own = &self.devices[device];
        // A frozen client may have its answer in its hands, and has not read it.
        let answered = own.client.state() > ClientState::Connecting;
        let (how, away) = match how {
            Restart::Same if answered && !self.tempo.suspends => (how, away + drained),
            Restart::Same => (Restart::NewAddr, away),
            _ => (how, away),
        };
        if self.is_left_out(how.fault()) {
            return Duration::ZERO;
        }
        let own = &mut self.devices[device];
        own.health = Health::Dead;
        own.wake = None;
        own.held.clear();
        self.after(away, Act::Restart(device, how));
        away
    }

    /// Every client of every match ends at once, as after the outage of a venue's network,
    /// and all come back at about the same time: all in one way, or each in its own.
    pub(super) fn replace_all(&mut self) {
        if !self.happens(Fault::AllReplaced) {
            return;
        }
        let ways = [Restart::Same, Restart::NewConv, Restart::NewAddr];
        let common = self.rng.index(4);
        let away = self.rng.millis(0..=3_000);
        for device in 0..self.devices.len() {
            let lives = matches!(self.devices[device].health, Health::Alive | Health::Frozen);
            let each = self.rng.index(3);
            let late = self.rng.millis(0..=200);
            if lives && self.is_current(device) {
                let how = ways.get(common).copied().unwrap_or(ways[each]);
                self.end_process(device, how, away + late);
            }
        }
    }

    /// The address of a client changes: what is on its way to the old one is lost, and nobody knows
    /// the new one. In v2 its session must follow; else its player connects again after a while.
    fn change_address(&mut self, device: usize) -> Result<(), Violation> {
        let follows = self.is_followed(device);
        let kind = if follows {
            Fault::AddressMove
        } else {
            Fault::AddressChange
        };
        if !self.happens(kind) {
            return Ok(());
        }
        let Device { conn, addr, .. } = self.devices[device];
        let back = self.places.earlier(device, conn, addr);
        let back = back.filter(|_| follows && self.rng.per_mille(300));
        let addr = back.unwrap_or_else(|| self.places.settle(device, conn));
        let own = &mut self.devices[device];
        let before = std::mem::replace(&mut own.addr, addr);
        own.moved = true;
        self.note(format!("the client at {before} is at {addr} now"));
        if follows {
            if self.rng.per_mille(400) {
                self.devices[device].client.address_changed();
            }
        } else {
            let notices = self.rng.millis(100..=10_000);
            self.after(notices, Act::Return(device, conn));
        }
        self.device_turn(device)
    }

    /// A client that was moved connects again, if it has got nowhere by itself.
    pub(super) fn come_back(&mut self, device: usize, conn: Conn) -> Result<(), Violation> {
        let own = &self.devices[device];
        if own.conn != conn || own.health != Health::Alive || self.is_seated(device) {
            return Ok(());
        }
        self.reconnect(device, false)
    }

    /// A client takes nothing for a while: it advertises a window of 0, or its game does not
    /// read. Within [`PAUSE_MAX`] its session stays, and it must catch up by itself.
    fn pause(&mut self, device: usize, kind: Fault) -> Duration {
        if !self.may_go_out(device) || !self.happens(kind) {
            return Duration::ZERO;
        }
        let long = self.rng.per_mille(400);
        let lasts = if long {
            self.rng.millis(16_000..=40_000)
        } else {
            let most = u64::try_from(PAUSE_MAX.as_millis()).expect("it is short");
            self.rng.millis(300..=most)
        };
        let (begin, end) = (self.now, self.now + lasts);
        let own = &mut self.devices[device];
        own.pause = Some(Pause { kind, begin, end });
        if long && kind == Fault::WindowShut {
            own.outage = Some((begin, end));
        }
        let (addr, conn) = (own.addr, own.conn);
        self.note(format!("{} of {addr} until {end}", kind.name()));
        self.after(lasts, Act::Resume(device, conn));
        lasts.min(PAUSE_MAX)
    }

    /// A client that took nothing for much longer than the idle limit, while its match had
    /// something for it all the time, must have lost its session.
    fn judge_pause(&self, device: usize, pause: Pause) -> Result<(), Violation> {
        let own = &self.devices[device];
        let seated = self.players[own.player].seated;
        let before = seated.is_some_and(|(at, when)| at == own.addr && when <= pause.begin);
        let plays = self.oracle.plays(own.conn);
        let fed = plays.is_some_and(|of| self.oracle.plays_since(of, pause.begin));
        // Somebody else may have told the server of another window, and the client
        // acknowledges what it gets through that.
        let forged = own.forged_at.is_some_and(|at| at >= pause.begin);
        let lost = own.ended || forged || self.is_displaced(device);
        let should_end = pause.kind == Fault::WindowShut
            && pause.end.since(pause.begin) > STALLED_WITHIN
            && (before && fed && !lost)
            && own.client.state() == ClientState::Playing
            && self.is_current(device);
        if should_end {
            let conn = own.conn;
            let shut = pause.end.since(pause.begin);
            return Err(Violation::NotStalled { conn, shut });
        }
        Ok(())
    }

    /// A client takes what comes again.
    pub(super) fn resume(&mut self, device: usize) -> Result<(), Violation> {
        let Some(pause) = &mut self.devices[device].pause else {
            return Ok(());
        };
        if self.now < pause.end {
            pause.end = self.now;
        }
        let pause = *pause;
        if let Some((begin, end)) = &mut self.devices[device].outage
            && *begin == pause.begin
        {
            *end = pause.end;
        }
        self.judge_pause(device, pause)?;
        self.device_turn(device)
    }

    /// The player connects from elsewhere while the old client still lives.
    fn take_over(&mut self, player: usize, old: usize) -> Result<Duration, Violation> {
        if !self.happens(Fault::Takeover) {
            return Ok(Duration::ZERO);
        }
        let lives = self.rng.millis(500..=10_000);
        self.after(lives, Act::Vanish(old));
        self.new_device(player)?;
        Ok(lives)
    }

    /// Ready in play: Start and every frame again, on the same conversation.
    fn stream_again(&mut self, device: usize) -> Result<(), Violation> {
        self.devices[device].client.ready();
        self.device_turn(device)
    }

    fn leave(&mut self, device: usize) {
        if self.rng.per_mille(300) && self.happens(Fault::Vanish) {
            self.vanish(device);
        }
    }
}
