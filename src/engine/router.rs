//! The way of a message from a session to its room, and of what the room wants done back to
//! sessions. The part of [`Server`] that knows both sides; it has no public face.

use std::time::Duration;

use super::auth::{Auth, Refusal};
use super::contain::contain;
use super::drops::{Disconnect, Drop};
use super::elsewhere::Wish;
use super::event::Event;
use super::id::{PlayerId, RoomId, Seat, Spot};
use super::outbox::{Effect, Outbox};
use super::room::{Now, Room};
use super::server::Server;
use super::session::{Claim, Place, Rival, RoomKey, Session, SessionKey};
use super::time::Time;
use super::view::OverReason;
use super::wire::frame::Input;
use super::wire::message::{ConnectCode, Downlink, Uplink, Version, WatchFrom, Welcome};
use super::wire::packet::{Packet, PacketReader};
use crate::cluster::node::Address;
use crate::limits::{
    DROPPABLE_BACKLOG_MAX, FETCHED_SEGMENTS_MAX, FRAME_SEGMENTS_IN_KCP_MAX, UPLINK_BODY_MAX,
};

/// What takes the place of a segment that may get lost: a heartbeat's answer, which every
/// client knows and none minds.
const FILLER: &[u8] = &[0, 0, 2];

impl Server {
    // --- From a session -------------------------------------------------------------------

    /// Reads what has arrived of a session's stream and carries it out. What follows a
    /// Connect that claims a seat waits in KCP until the address is proved.
    pub(super) fn read(&mut self, now: Time, key: SessionKey) {
        let mut reader = std::mem::take(&mut self.sessions[key].reader);
        let mut message = std::mem::take(&mut self.scratch.message);
        let end = self.read_all(now, key, &mut reader, &mut message);
        self.scratch.message = message;
        match end {
            Err(reason) => self.end(now, key, reason),
            Ok(()) => self.sessions[key].reader = reader,
        }
    }

    fn read_all(
        &mut self,
        now: Time,
        key: SessionKey,
        reader: &mut PacketReader,
        buffer: &mut [u8],
    ) -> Result<(), Disconnect> {
        loop {
            while self.sessions[key].may_be_read() {
                match reader.next(UPLINK_BODY_MAX) {
                    Ok(Some(packet)) => self.handle_packet(now, key, packet),
                    Ok(None) => break,
                    Err(_) => return Err(Disconnect::PacketTooLarge),
                }
            }
            if !self.sessions[key].may_be_read() {
                return Ok(());
            }
            match self.with_link(key, |session| session.recv(buffer))?? {
                Some(len) => reader.push(&buffer[..len]),
                None => return Ok(()),
            }
        }
    }

    fn handle_packet(&mut self, now: Time, key: SessionKey, packet: Packet<'_>) {
        self.counters.packets_in += 1;
        let affordable = self.sessions[key].budget.packet(now);
        let version = self.sessions[key].version;
        let decoded = affordable.and_then(|()| Uplink::decode_of(version, packet));
        let handled = decoded.and_then(|message| match message {
            Uplink::Connect {
                player,
                room,
                token,
                version,
            } => {
                self.sessions[key].version = version;
                let wish = Wish {
                    player,
                    room,
                    token,
                    watch: None,
                };
                self.connect(now, key, wish);
                Ok(())
            }
            Uplink::Watch {
                player,
                room,
                token,
                from,
            } => {
                self.sessions[key].version = Version::V2;
                let wish = Wish {
                    player,
                    room,
                    token,
                    watch: Some(from),
                };
                self.connect(now, key, wish);
                Ok(())
            }
            Uplink::Heartbeat => self.answer(now, key, &Downlink::Heartbeat),
            Uplink::Echo(body) => match self.sessions[key].place {
                Place::None => self.answer(now, key, &Downlink::Echo(body)),
                Place::Claims(..) | Place::Holds(..) => Err(Drop::EchoWithSeat),
            },
            Uplink::Inputs(inputs) => self.inputs(now, key, inputs),
            message => self.pass_on(now, key, &message),
        });
        if let Err(reason) = handled {
            self.counters.drop(reason);
        }
    }

    /// Carries out what a session says to its room.
    fn pass_on(&mut self, now: Time, key: SessionKey, message: &Uplink<'_>) -> Result<(), Drop> {
        let Place::Holds(room, spot) = self.sessions[key].place else {
            return Err(Drop::NoSeat);
        };
        let handled = self.in_room(now, room, |room, now, out| {
            room.handle_message(now, spot, message, out)
        });
        // A room that failed has had its word.
        handled.unwrap_or(Ok(()))
    }

    /// Several inputs of one packet: each is paid for, carried out and, if need be, dropped as if
    /// it came by itself.
    fn inputs(&mut self, now: Time, key: SessionKey, inputs: Vec<Input>) -> Result<(), Drop> {
        for (index, input) in inputs.into_iter().enumerate() {
            if index > 0 {
                self.sessions[key].budget.packet(now)?;
            }
            if let Err(reason) = self.pass_on(now, key, &Uplink::Opaque(input)) {
                self.counters.drop(reason);
            }
        }
        Ok(())
    }

    /// Answers a Connect, perhaps of one who wants to watch, unless it has to wait.
    pub(super) fn connect(&mut self, now: Time, key: SessionKey, wish: Wish) {
        let found = self.admit(now, &wish);
        if self.must_wait(key, found.err()) {
            if let Ok((room, claim)) = found {
                // It takes the seat from its rival with the proof, and is told behind that.
                let match_id = self.rooms[room].room.match_id();
                self.sessions[key].place = Place::Claims(room, match_id, claim);
            }
            self.put_off(now, key, wish);
        } else {
            self.answer_connect(now, key, &wish, found, None);
        }
    }

    /// Answers a Connect that has waited, by how things stand now: the room may be here, or at this
    /// address.
    pub(super) fn connect_again(
        &mut self,
        now: Time,
        key: SessionKey,
        wish: &Wish,
        address: Option<&Address>,
    ) {
        let found = self.admit(now, wish);
        self.answer_connect(now, key, wish, found, address);
    }

    /// One that is accepted moves the session to its place, at once if the address is proved, and
    /// else with the proof. One whose room is not here is told the address, if there is one.
    fn answer_connect(
        &mut self,
        now: Time,
        key: SessionKey,
        wish: &Wish,
        found: Result<(RoomKey, Claim), Refusal>,
        address: Option<&Address>,
    ) {
        let missing = found.is_err_and(|refusal| refusal.code == ConnectCode::NoRoom);
        let elsewhere = address.filter(|_| missing);
        let answer = match found {
            Ok((room, claim)) if self.sessions[key].version == Version::V2 => {
                let room = &self.rooms[room].room;
                let welcome = match claim {
                    Claim::Seat(_) => room.welcome(),
                    Claim::Watch(..) => room.watch_welcome(),
                };
                Downlink::Welcome(Welcome {
                    pass: Some(self.pass_of(key)),
                    ..welcome
                })
            }
            Ok(_) => Downlink::Connect(ConnectCode::Ok),
            Err(refusal) => match elsewhere {
                Some(address) => Downlink::Elsewhere(address.clone()),
                None => Downlink::Connect(refusal.code),
            },
        };
        self.say(now, key, &answer);
        match found {
            Ok((room, claim)) => {
                self.leave_other_place(now, key, room, claim);
                let match_id = self.rooms[room].room.match_id();
                self.sessions[key].place = Place::Claims(room, match_id, claim);
                if self.rooms[room].room.is_over() {
                    // Its own leaving has ended the match.
                    self.turn_away(now, key);
                } else if self.sessions[key].link().is_proved() {
                    self.take_place(now, key, room, claim);
                }
            }
            Err(Refusal { code, ticket }) => {
                let addr = self.sessions[key].addr;
                self.counters.redirects += u64::from(elsewhere.is_some());
                self.tell(Event::Refused {
                    addr,
                    player: wish.player,
                    room: wish.room,
                    code,
                    ticket,
                    elsewhere: elsewhere.cloned(),
                });
            }
        }
    }

    /// What a Connect is for, or the first reason that applies why it is refused. A ticket
    /// comes first: without one, nobody learns which rooms and players there are.
    ///
    /// A ticket that names a room and a player lets that player watch there, be it a member or
    /// not. The secret of a room would also give its seats away; who may only watch has the one
    /// that is made from it.
    fn admit(&self, now: Time, wish: &Wish) -> Result<(RoomKey, Claim), Refusal> {
        let Wish {
            player,
            room: id,
            ref token,
            watch,
        } = *wish;
        if let Auth::Ticket(secrets) = &self.config.auth {
            secrets.check(token, id, player, self.unix_us(now))?;
        }
        let (room, claim) = self.find_place(player, id, watch)?;
        if self.config.auth == Auth::Room {
            let secret = self.rooms[room].room.secret();
            let watches = watch.is_some() && secret.for_watchers().is(token);
            if !watches && !secret.is(token) {
                return Err(ConnectCode::Token.into());
            }
        }
        Ok((room, claim))
    }

    fn find_place(
        &self,
        player: PlayerId,
        id: RoomId,
        watch: Option<WatchFrom>,
    ) -> Result<(RoomKey, Claim), ConnectCode> {
        let key = *self.by_room.get(&id).ok_or(ConnectCode::NoRoom)?;
        let room = &self.rooms[key].room;
        if room.is_over() {
            return Err(ConnectCode::RoomState);
        }
        let claim = match watch {
            Some(from) if room.may_watch(player) => Claim::Watch(player, from),
            Some(_) => return Err(ConnectCode::NoWatch),
            None => Claim::Seat(room.seat_of(player).ok_or(ConnectCode::NoPlayer)?),
        };
        Ok((key, claim))
    }

    /// A session that moves on to another place leaves the one it holds.
    fn leave_other_place(&mut self, now: Time, key: SessionKey, room: RoomKey, claim: Claim) {
        let Place::Holds(old_room, old_spot) = self.sessions[key].place else {
            return;
        };
        let same = match claim {
            Claim::Seat(seat) => Some(Spot::Seat(seat)),
            Claim::Watch(player, _) => {
                let watcher = self.rooms[room].room.watcher_of(player);
                watcher.map(Spot::Watcher)
            }
        };
        if old_room != room || same != Some(old_spot) {
            self.sessions[key].place = Place::None;
            self.vacate(now, old_room, old_spot);
        }
    }

    /// Nobody is at a spot any more.
    pub(super) fn vacate(&mut self, now: Time, room: RoomKey, spot: Spot) {
        *self.rooms[room].holder_mut(spot) = None;
        self.in_room(now, room, |room, now, out| match spot {
            Spot::Seat(seat) => room.leave_seat(now, seat, out),
            Spot::Watcher(id) => room.leave_gallery(id),
        });
        let slot = &mut self.rooms[room];
        if slot.room.watcher_count() == 0 {
            slot.watchers = Vec::new();
        }
    }

    /// The peer has proved its address: it gets what it claims and wins against its rival.
    pub(super) fn proved(&mut self, now: Time, key: SessionKey) {
        if let Place::Claims(room, match_id, claim) = self.sessions[key].place {
            self.sessions[key].place = Place::None;
            let granted = self.rooms.get(room).map(|slot| &slot.room);
            if granted.is_some_and(|room| room.match_id() == match_id && !room.is_over()) {
                self.take_place(now, key, room, claim);
            } else if self.sessions[key].waiting.is_none() {
                // It ended between the answer to Connect and the proof. Its room may have
                // been created anew, but that is another match, with members and a secret of
                // its own.
                self.say(now, key, &Downlink::Close);
            }
        }
        self.settle_rivalry(now, key);
        self.sessions[key].leave_the_past(now, FILLER);
        self.go_on(now, key);
        self.mark_dirty(key);
    }

    /// Gives a session what it claims; one that held it before ends without a word, since the
    /// Unity client's Close handler stops whichever client is current.
    fn take_place(&mut self, now: Time, key: SessionKey, room: RoomKey, claim: Claim) {
        let spot = match claim {
            Claim::Seat(seat) => Spot::Seat(seat),
            Claim::Watch(player, from) => {
                let enter = |room: &mut Room, _, _: &mut Outbox| room.enter_gallery(player, from);
                match self.in_room(now, room, enter).flatten() {
                    Some(id) => Spot::Watcher(id),
                    // Others were faster to prove where they are.
                    None => return self.turn_away(now, key),
                }
            }
        };
        self.sessions[key].place = Place::Holds(room, spot);
        self.leave_guests(key);
        let before = self.rooms[room].holder_mut(spot).replace(key);
        if let Some(before) = before.filter(|before| *before != key) {
            let restarted = self.sessions[key].rival.is_candidate_of(before);
            if !restarted {
                self.note_replaced(before, key);
            }
            // The seat goes from one to the other and is never empty in between.
            self.sessions[before].place = Place::None;
            self.end(
                now,
                before,
                if restarted {
                    Disconnect::Restarted
                } else {
                    Disconnect::TakenOver
                },
            );
        }
        let addr = self.sessions[key].addr;
        let id = self.rooms[room].room.id();
        let match_id = self.rooms[room].room.match_id();
        match claim {
            Claim::Seat(seat) => {
                let player = self.rooms[room].room.player_at(seat.into());
                self.tell(Event::SeatTaken {
                    addr,
                    player,
                    room: id,
                    match_id,
                });
                let version = self.sessions[key].version;
                self.in_room(now, room, |room, now, out| {
                    room.take_seat(now, seat, version, out)
                });
            }
            Claim::Watch(player, _) => self.tell(Event::WatcherCame {
                addr,
                player,
                room: id,
            }),
        }
    }

    /// Lets go of a session that finds no place any more where it was let in, or has lost it.
    fn turn_away(&mut self, now: Time, key: SessionKey) {
        self.sessions[key].lose_place(now);
        if !matches!(self.sessions[key].rival, Rival::Candidate { .. }) {
            self.enter_guests(key);
        }
        self.say(now, key, &Downlink::Close);
    }

    /// Tells a session's room that it has fallen silent, or speaks again. Nobody asks whether a
    /// spectator is there.
    pub(super) fn report_online(&mut self, now: Time, key: SessionKey, online: bool) {
        if let Place::Holds(room, Spot::Seat(seat)) = self.sessions[key].place {
            self.in_room(now, room, |room, now, out| {
                room.set_online(now, seat, online, out)
            });
        }
    }

    // --- From a room ----------------------------------------------------------------------

    /// Calls a room, carries out what it wants done, and sets its timer anew. `None` if the
    /// room failed: a panic was contained, and the match is over.
    pub(super) fn in_room<T>(
        &mut self,
        now: Time,
        key: RoomKey,
        call: impl FnOnce(&mut Room, Now, &mut Outbox) -> T,
    ) -> Option<T> {
        let mut out = std::mem::take(&mut self.scratch.outbox);
        let moment = self.now(now);
        let room = &mut self.rooms[key].room;
        let was_over = room.is_over();
        let result = contain(self.contains_panics, || call(room, moment, &mut out));
        match result {
            Ok(result) => {
                self.finish_call(now, key, out);
                Some(result)
            }
            Err(text) => {
                out.clear();
                self.scratch.outbox = out;
                self.fail_room(now, key, was_over, text);
                None
            }
        }
    }

    /// Carries out what a room wants done, and sets its timer anew.
    fn finish_call(&mut self, now: Time, key: RoomKey, mut out: Outbox) {
        for effect in out.effects() {
            self.carry_out(now, key, effect, &out);
        }
        out.clear();
        self.scratch.outbox = out;
        self.arm_room(key);
        self.list_for_records(key);
    }

    /// Ends the match of a room in which something panicked. What the room held cannot be
    /// trusted; an empty one of the same match takes its place and is over, so that its
    /// clients get Close and everything else goes its usual way. If that panics, too, nothing
    /// here can be trusted, and it goes on to the caller. `was_over`: the match had ended before the
    /// call that panicked, and that was told.
    fn fail_room(&mut self, now: Time, key: RoomKey, was_over: bool, text: String) {
        let emptied = self.rooms[key].room.emptied(self.now(now));
        let slot = &mut self.rooms[key];
        slot.room = emptied;
        let watchers = std::mem::take(&mut slot.watchers);
        let held: Vec<Seat> = (0..slot.sessions.len())
            .filter(|index| slot.sessions[*index].is_some())
            .map(Seat::from_index)
            .collect();
        self.counters.rooms_failed += 1;
        self.tell(Event::RoomFailed {
            room: self.rooms[key].room.id(),
            match_id: self.rooms[key].room.match_id(),
            text,
        });
        let mut out = std::mem::take(&mut self.scratch.outbox);
        let moment = self.now(now);
        let room = &mut self.rooms[key].room;
        for seat in held {
            room.take_seat(moment, seat, Version::V1, &mut out);
        }
        room.end(moment, OverReason::Failed, &mut out);
        if was_over {
            // That was counted, too.
            out.retain(|effect| !matches!(effect, Effect::Over(_)));
        }
        self.finish_call(now, key, out);
        for watcher in watchers.into_iter().flatten() {
            self.turn_away(now, watcher);
        }
    }

    fn carry_out(&mut self, now: Time, key: RoomKey, effect: &Effect, out: &Outbox) {
        let room = &self.rooms[key].room;
        let (id, match_id) = (room.id(), room.match_id());
        match effect {
            Effect::Send(spot, range) => {
                if let Some(session) = self.rooms[key].holder(*spot) {
                    self.sessions[session].send(now, out.packet(range.clone()));
                    self.mark_dirty(session);
                }
            }
            Effect::Pump(seat) => {
                if let Some(session) = self.rooms[key].sessions[seat.index()] {
                    self.mark_dirty(session);
                }
            }
            Effect::PumpGallery => {
                for index in 0..self.rooms[key].watchers.len() {
                    if let Some(session) = self.rooms[key].watchers[index] {
                        self.mark_dirty(session);
                    }
                }
            }
            Effect::Sealed(lateness) => {
                self.counters.frames += 1;
                self.counters.frame_late(*lateness);
            }
            Effect::Inputs(count) => self.counters.inputs += *count as u64,
            Effect::EpochRenewed(lateness) => {
                let wait = self.put_on_beat(now, key);
                // What waited for the frame that was due waits no longer.
                for index in 0..self.rooms[key].spot_count() {
                    if let Some(session) = self.rooms[key].holder_at(index) {
                        self.mark_dirty(session);
                    }
                }
                self.counters.epochs_renewed += 1;
                self.tell(Event::EpochRenewed {
                    room: id,
                    lateness: *lateness,
                    wait,
                });
            }
            Effect::WoundUp => {
                let wait = self.put_on_beat(now, key);
                self.watch_all(now, key);
                self.tell(Event::MatchResumed {
                    room: id,
                    match_id,
                    wait,
                });
            }
            Effect::Started => {
                let wait = self.put_on_beat(now, key);
                self.counters.matches_started += 1;
                self.watch_all(now, key);
                self.tell(Event::MatchStarted {
                    room: id,
                    match_id,
                    wait,
                });
            }
            Effect::Result(seat, winner) => {
                let player = room.player_at((*seat).into());
                self.tell(Event::ResultGiven {
                    room: id,
                    match_id,
                    player,
                    winner: *winner,
                });
            }
            Effect::Over(reason) => {
                let frames = room.log().head();
                self.take_off_beat(key);
                self.counters.matches_over += 1;
                self.rooms_over += 1;
                self.tell(Event::MatchOver {
                    room: id,
                    match_id,
                    reason: *reason,
                    frames,
                });
            }
        }
    }

    /// From now on frames are due to all sessions of a room.
    fn watch_all(&mut self, now: Time, key: RoomKey) {
        for index in 0..self.rooms[key].sessions.len() {
            if let Some(session) = self.rooms[key].sessions[index] {
                self.sessions[session].watch(now);
                self.mark_dirty(session);
            }
        }
    }

    /// Gives a match that starts, or whose clock does, its place among those that are played.
    /// Returns how long its clock waits for it.
    fn put_on_beat(&mut self, now: Time, key: RoomKey) -> Duration {
        self.take_off_beat(key);
        let slot = &mut self.rooms[key];
        if !slot.room.is_ticking() {
            return Duration::ZERO;
        }
        let (beat, wait) = self.beats.take(now, slot.room.hz(), slot.sessions.len());
        slot.room.postpone(wait);
        slot.beat = Some(beat);
        wait
    }

    fn take_off_beat(&mut self, key: RoomKey) {
        if let Some(beat) = self.rooms[key].beat.take() {
            self.beats.give_back(beat);
        }
    }

    /// Whether a session's room has more for it than its link holds.
    pub(super) fn is_owed(&self, key: SessionKey) -> bool {
        match self.sessions[key].place {
            Place::Holds(room, spot) => self.rooms[room].room.owes(spot),
            Place::None | Place::Claims(..) => false,
        }
    }

    /// When a session's room seals its next frame.
    pub(super) fn next_tick(&self, key: SessionKey) -> Option<Time> {
        match self.sessions[key].place {
            Place::Holds(room, _) => self.rooms[room].room.next_tick(),
            Place::None | Place::Claims(..) => None,
        }
    }

    /// When a session's room has the next packet for it, if that is certain.
    pub(super) fn next_packet(&self, key: SessionKey) -> Option<Time> {
        match self.sessions[key].place {
            Place::Holds(room, spot) => self.rooms[room].room.next_broadcast(spot),
            Place::None | Place::Claims(..) => None,
        }
    }

    /// Moves what a session's seat is owed into its link, as far as that has room. The rest
    /// stays behind the seat's cursor.
    pub(super) fn pump(&mut self, now: Time, key: SessionKey) {
        let session = &mut self.sessions[key];
        let Place::Holds(room_key, spot) = session.place else {
            return;
        };
        let room = &mut self.rooms[room_key].room;
        if !session.takes_frames(now) {
            return;
        }
        let was_over = room.is_over();
        let pumped = contain(self.contains_panics, || {
            while session.link().backlog() < FRAME_SEGMENTS_IN_KCP_MAX
                && room.next_packet(spot, |packet| session.send(now, packet))
            {}
            room.take_close(spot)
        });
        match pumped {
            Ok(true) => self.say(now, key, &Downlink::Close),
            Ok(false) => {}
            Err(text) => return self.fail_room(now, room_key, was_over, text),
        }
        self.pump_fetched(now, key, room_key, spot);
    }

    /// The same with frames that were asked for, once nothing else is left.
    fn pump_fetched(&mut self, now: Time, key: SessionKey, room_key: RoomKey, spot: Spot) {
        let room = &mut self.rooms[room_key].room;
        let session = &mut self.sessions[key];
        if !room.may_send_fetched(spot) || !session.takes_fetched() {
            return;
        }
        let was_over = room.is_over();
        let pumped = contain(self.contains_panics, || {
            let most = session.link().backlog() + FETCHED_SEGMENTS_MAX;
            while session.link().backlog() < most
                && room.next_fetched(spot, |packet| session.send(now, packet))
            {}
            session.has_fetched();
        });
        if let Err(text) = pumped {
            self.fail_room(now, room_key, was_over, text);
        }
    }

    // --- To a session ---------------------------------------------------------------------

    /// Does with a session's link what bytes from outside steer.
    ///
    /// # Errors
    /// [`Disconnect::Failed`] if it panicked: the session must end.
    pub(super) fn with_link<T>(
        &mut self,
        key: SessionKey,
        call: impl FnOnce(&mut Session) -> T,
    ) -> Result<T, Disconnect> {
        let session = &mut self.sessions[key];
        let addr = session.addr;
        contain(self.contains_panics, || call(session)).map_err(|text| {
            self.tell(Event::SessionFailed { addr, text });
            Disconnect::Failed
        })
    }

    /// Says something that must arrive.
    pub(super) fn say(&mut self, now: Time, key: SessionKey, message: &Downlink<'_>) {
        self.scratch.packet.clear();
        message.encode(&mut self.scratch.packet);
        self.sessions[key].send(now, &self.scratch.packet);
        self.mark_dirty(key);
    }

    /// Answers what can be asked again: not to a peer that acknowledges too little.
    fn answer(&mut self, now: Time, key: SessionKey, message: &Downlink<'_>) -> Result<(), Drop> {
        if self.sessions[key].link().backlog() >= DROPPABLE_BACKLOG_MAX {
            return Err(Drop::AnswerSkipped);
        }
        self.say(now, key, message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::client::{Client, ClientConfig, ClientEvent};
    use crate::engine::auth::RoomSecret;
    use crate::engine::config::{Config, Secrets};
    use crate::engine::transmit::Transmits;
    use crate::engine::view::{Phase, RoomSpec};
    use crate::limits::SEATLESS_LIFE;

    /// A server that contains panics, and one player in each of two rooms.
    struct Rig {
        server: Server,
        now: Time,
        clients: Vec<(SocketAddr, Client)>,
    }

    impl Rig {
        fn playing() -> Rig {
            let secrets = Secrets {
                hash_key: (1, 2),
                clock_key: (3, 4),
                pass_key: [5; 32],
                first_match: 100,
            };
            let now = Time::ZERO;
            let mut rig = Rig {
                server: Server::new(Config::default(), secrets, 0),
                now,
                clients: Vec::new(),
            };
            rig.server.contain_panics();
            for number in [1, 2] {
                let spec = RoomSpec {
                    room: RoomId(number),
                    members: vec![PlayerId(number)],
                    seed: 1,
                    hz: None,
                    broadcast_every: None,
                    max_frames: None,
                    input_bytes_max: None,
                    watchers_max: Some(2),
                    watch_delay: None,
                    secret: RoomSecret::from_bytes([0; 16]),
                };
                rig.server.create_room(now, spec).unwrap();
                let config = ClientConfig::new(PlayerId(number), RoomId(number));
                let mut client = Client::new(now, config);
                client.join();
                client.ready();
                let port = 1000 + u16::try_from(number).unwrap();
                rig.clients
                    .push((SocketAddr::from(([127, 0, 0, 1], port)), client));
            }
            rig.run(500);
            for room in [1, 2] {
                assert_eq!(rig.phase(room), Some(Phase::Playing));
            }
            rig
        }

        fn phase(&self, room: u64) -> Option<Phase> {
            self.server.room(RoomId(room)).map(|view| view.phase)
        }

        fn key(&self, room: u64) -> RoomKey {
            self.server.by_room[&RoomId(room)]
        }

        fn run(&mut self, ms: u64) {
            self.run_by(1, ms);
        }

        /// Runs so many steps of so many milliseconds.
        fn run_by(&mut self, ms: u64, steps: u64) {
            for _ in 0..steps {
                self.now = self.now + Duration::from_millis(ms);
                let (now, mut batch) = (self.now, Transmits::default());
                for (addr, client) in &mut self.clients {
                    client.handle_timeout(now);
                    client.poll_transmit(now, &mut batch);
                    for (_, datagram) in batch.iter() {
                        self.server
                            .handle_datagram(now, *addr, &mut datagram.to_vec());
                    }
                    batch.clear();
                }
                self.server.handle_timeout(now);
                self.server.poll_transmit(now, &mut batch);
                for (to, datagram) in batch.iter() {
                    let mut at = self.clients.iter_mut().filter(|(addr, _)| *addr == to);
                    let (_, client) = at.next().expect("nobody else was heard of");
                    client.handle_datagram(now, &mut datagram.to_vec());
                }
            }
        }

        /// The frames a client has got, and whether it was told Close.
        fn heard(&mut self, index: usize) -> (Vec<u32>, bool) {
            let (mut frames, mut closed) = (Vec::new(), false);
            while let Some(event) = self.clients[index].1.poll_event() {
                match event {
                    ClientEvent::Frame(frame) => frames.push(frame.id),
                    ClientEvent::Closed => closed = true,
                    _ => {}
                }
            }
            (frames, closed)
        }

        /// What has failed, by what it said.
        fn failures(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.server.poll_event())
                .filter_map(|event| match event {
                    Event::RoomFailed { text, .. } | Event::SessionFailed { text, .. } => {
                        Some(text)
                    }
                    _ => None,
                })
                .collect()
        }
    }

    #[test]
    fn a_panic_in_a_room_closes_it_and_no_other() {
        let mut rig = Rig::playing();
        let (key, now) = (rig.key(1), rig.now);
        let done = rig
            .server
            .in_room(now, key, |_, _, _| -> () { panic!("frame 9 of 8") });
        assert_eq!(done, None);
        rig.server.assert_invariants();
        rig.run(1000);
        assert_eq!(rig.failures(), ["frame 9 of 8"]);
        assert_eq!(rig.phase(1), Some(Phase::Over(OverReason::Failed)));
        assert!(rig.heard(0).1, "its player was told Close");
        let (frames, closed) = rig.heard(1);
        assert!(frames.len() > 40 && !closed, "the other room plays on");
        let ids: Vec<u32> = (0..).take(frames.len()).collect();
        assert_eq!(frames, ids, "and nothing is missing");
        // It goes as every room that is over, and its number is free again.
        rig.run(3000);
        assert_eq!(rig.phase(1), None);
        let counters = rig.server.counters();
        assert_eq!((counters.rooms_failed, counters.rooms), (1, 1));
        assert_eq!(counters.disconnects(Disconnect::RoomGone), 1);
        rig.server.assert_invariants();
    }

    #[test]
    fn a_panic_in_a_room_lets_its_spectators_go() {
        let mut rig = Rig::playing();
        let mut config = ClientConfig::new(PlayerId(9), RoomId(1));
        config.watch = Some(WatchFrom::Start);
        let mut client = Client::new(rig.now, config);
        client.join();
        client.ready();
        let addr = SocketAddr::from(([127, 0, 0, 1], 1009));
        rig.clients.push((addr, client));
        rig.run(500);
        // Longer than a session may be without a place.
        let steps = u64::try_from(SEATLESS_LIFE.as_millis() / 10).unwrap();
        rig.run_by(10, steps + 100);
        assert_eq!(rig.server.room(RoomId(1)).unwrap().watchers, 1);
        let (key, now) = (rig.key(1), rig.now);
        rig.server
            .in_room(now, key, |_, _, _| -> () { panic!("late") });
        rig.server.assert_invariants();
        rig.run(500);
        let (frames, closed) = rig.heard(2);
        assert!(frames.len() > 10 && closed, "{frames:?}");
        rig.run(4000);
        assert_eq!(rig.phase(1), None);
        rig.server.assert_invariants();
    }

    #[test]
    fn a_panic_in_a_room_that_is_over_is_counted_over_once() {
        let mut rig = Rig::playing();
        let (key, now) = (rig.key(1), rig.now);
        rig.server.close_room(now, RoomId(1));
        rig.server
            .in_room(now, key, |_, _, _| -> () { panic!("late") });
        rig.server.assert_invariants();
        rig.run(4000);
        let counters = rig.server.counters();
        assert_eq!((counters.rooms, counters.matches_over), (1, 1));
        rig.server.assert_invariants();
    }

    #[test]
    fn a_panic_in_the_call_that_ends_a_match_is_counted_and_told_over_once() {
        let mut rig = Rig::playing();
        let (key, now) = (rig.key(1), rig.now);
        rig.server.in_room(now, key, |room, now, out| -> () {
            room.end(now, OverReason::Closed, out);
            panic!("half-way")
        });
        rig.server.assert_invariants();
        rig.run(4000);
        let counters = rig.server.counters();
        assert_eq!((counters.rooms, counters.matches_over), (1, 1));
        let events = std::iter::from_fn(|| rig.server.poll_event());
        let over: Vec<Event> = events
            .filter(|event| matches!(event, Event::MatchOver { .. }))
            .collect();
        assert!(
            matches!(
                over[..],
                [Event::MatchOver {
                    room: RoomId(1),
                    reason: OverReason::Failed,
                    ..
                }]
            ),
            "{over:?}"
        );
    }

    #[test]
    fn a_panic_while_a_session_is_read_ends_that_session_alone() {
        let mut rig = Rig::playing();
        let (now, addr) = (rig.now, rig.clients[0].0);
        let key = rig.server.by_addr[&addr];
        let failed = rig.server.with_link(key, |_| -> () { panic!("window") });
        assert_eq!(failed, Err(Disconnect::Failed));
        rig.server.end(now, key, Disconnect::Failed);
        rig.server.assert_invariants();
        rig.run(500);
        assert_eq!(rig.failures(), ["window"]);
        assert_eq!(rig.phase(1), Some(Phase::Playing), "its player may return");
        let (frames, closed) = rig.heard(1);
        assert!(frames.len() > 25 && !closed);
    }
}
