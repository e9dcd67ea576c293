//! The way of a message from a session to its room, and of what the room wants done back to
//! sessions. The part of [`Server`] that knows both sides; it has no public face.

use super::auth::{Auth, Refusal};
use super::drops::{Disconnect, Drop};
use super::event::Event;
use super::id::{PlayerId, RoomId, Seat};
use super::outbox::{Effect, Outbox};
use super::room::{Now, Room};
use super::server::Server;
use super::session::{Place, RoomKey, SessionKey};
use super::time::Time;
use super::wire::message::{ConnectCode, Downlink, Uplink};
use super::wire::packet::{Packet, PacketReader};
use crate::limits::{DROPPABLE_BACKLOG_MAX, FRAME_SEGMENTS_IN_KCP_MAX, UPLINK_BODY_MAX};

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
            match self.sessions[key].recv(buffer)? {
                Some(len) => reader.push(&buffer[..len]),
                None => return Ok(()),
            }
        }
    }

    fn handle_packet(&mut self, now: Time, key: SessionKey, packet: Packet<'_>) {
        self.counters.packets_in += 1;
        let handled = Uplink::decode(packet).and_then(|message| match message {
            Uplink::Connect {
                player,
                room,
                token,
            } => {
                self.connect(now, key, player, room, &token);
                Ok(())
            }
            Uplink::Heartbeat => self.answer(now, key, &Downlink::Heartbeat),
            Uplink::Echo(body) => match self.sessions[key].place {
                Place::None => self.answer(now, key, &Downlink::Echo(body)),
                Place::Claims(..) | Place::Holds(..) => Err(Drop::EchoWithSeat),
            },
            message => {
                let Place::Holds(room, seat) = self.sessions[key].place else {
                    return Err(Drop::NoSeat);
                };
                self.in_room(now, room, |room, now, out| {
                    room.handle_message(now, seat, &message, out)
                })
            }
        });
        if let Err(reason) = handled {
            self.counters.drop(reason);
        }
    }

    /// Answers a Connect. One that is accepted moves the session to its seat, at once if
    /// the address is proved, and else with the proof.
    fn connect(&mut self, now: Time, key: SessionKey, player: PlayerId, id: RoomId, token: &str) {
        let found = self.admit(now, player, id, token);
        let code = found.map_or_else(|refusal| refusal.code, |_| ConnectCode::Ok);
        self.say(now, key, &Downlink::Connect(code));
        match found {
            Ok((room, seat)) => {
                self.leave_other_seat(now, key, room, seat);
                let match_id = self.rooms[room].room.match_id();
                self.sessions[key].place = Place::Claims(room, match_id, seat);
                if self.sessions[key].link().is_proved() {
                    self.take_seat(now, key, room, seat);
                }
            }
            Err(Refusal { code, ticket }) => {
                let addr = self.sessions[key].addr;
                self.tell(Event::Refused {
                    addr,
                    player,
                    room: id,
                    code,
                    ticket,
                });
            }
        }
    }

    /// The seat that a Connect is for, or the first reason that applies why it is refused.
    /// A ticket comes first: without one, nobody learns which rooms and players there are.
    fn admit(
        &self,
        now: Time,
        player: PlayerId,
        id: RoomId,
        token: &str,
    ) -> Result<(RoomKey, Seat), Refusal> {
        if let Auth::Ticket(secrets) = &self.config.auth {
            secrets.check(token, id, player, self.unix_us(now))?;
        }
        let (room, seat) = self.find_seat(player, id)?;
        if self.config.auth == Auth::Room && !self.rooms[room].room.secret().is(token) {
            return Err(ConnectCode::Token.into());
        }
        Ok((room, seat))
    }

    fn find_seat(&self, player: PlayerId, id: RoomId) -> Result<(RoomKey, Seat), ConnectCode> {
        let key = *self.by_room.get(&id).ok_or(ConnectCode::NoRoom)?;
        let room = &self.rooms[key].room;
        if room.is_over() {
            return Err(ConnectCode::RoomState);
        }
        let seat = room.seat_of(player).ok_or(ConnectCode::NoPlayer)?;
        Ok((key, seat))
    }

    /// A session that moves on to another seat leaves the one it holds.
    fn leave_other_seat(&mut self, now: Time, key: SessionKey, room: RoomKey, seat: Seat) {
        let Place::Holds(old_room, old_seat) = self.sessions[key].place else {
            return;
        };
        if (old_room, old_seat) != (room, seat) {
            self.sessions[key].place = Place::None;
            self.rooms[old_room].sessions[old_seat.index()] = None;
            self.in_room(now, old_room, |room, now, out| {
                room.leave_seat(now, old_seat, out)
            });
        }
    }

    /// The peer has proved its address: it gets what it claims and wins against its rival.
    pub(super) fn proved(&mut self, now: Time, key: SessionKey) {
        if let Place::Claims(room, match_id, seat) = self.sessions[key].place {
            self.sessions[key].place = Place::None;
            let granted = self.rooms.get(room).map(|slot| &slot.room);
            if granted.is_some_and(|room| room.match_id() == match_id && !room.is_over()) {
                self.take_seat(now, key, room, seat);
            } else {
                // It ended between the answer to Connect and the proof. Its room may have
                // been created anew, but that is another match, with members and a secret of
                // its own.
                self.say(now, key, &Downlink::Close);
            }
        }
        self.settle_rivalry(now, key);
        self.sessions[key].leave_the_past(now, FILLER);
        self.mark_dirty(key);
    }

    /// Gives a seat to a session; one that held it before ends without a word, since the
    /// Unity client's Close handler stops whichever client is current.
    fn take_seat(&mut self, now: Time, key: SessionKey, room: RoomKey, seat: Seat) {
        self.sessions[key].place = Place::Holds(room, seat);
        let before = self.rooms[room].sessions[seat.index()].replace(key);
        if let Some(before) = before.filter(|before| *before != key) {
            let restarted = self.sessions[key].rival.is_candidate_of(before);
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
        let player = self.rooms[room].room.player_at(seat);
        let id = self.rooms[room].room.id();
        self.tell(Event::SeatTaken {
            addr,
            player,
            room: id,
        });
        self.in_room(now, room, |room, now, out| room.take_seat(now, seat, out));
    }

    /// Tells a session's room that it has fallen silent, or speaks again.
    pub(super) fn report_online(&mut self, now: Time, key: SessionKey, online: bool) {
        if let Place::Holds(room, seat) = self.sessions[key].place {
            self.in_room(now, room, |room, now, out| {
                room.set_online(now, seat, online, out)
            });
        }
    }

    // --- From a room ----------------------------------------------------------------------

    /// Calls a room, carries out what it wants done, and sets its timer anew.
    pub(super) fn in_room<T>(
        &mut self,
        now: Time,
        key: RoomKey,
        call: impl FnOnce(&mut Room, Now, &mut Outbox) -> T,
    ) -> T {
        let mut out = std::mem::take(&mut self.scratch.outbox);
        let moment = self.now(now);
        let result = call(&mut self.rooms[key].room, moment, &mut out);
        for effect in out.effects() {
            self.carry_out(now, key, effect, &out);
        }
        out.clear();
        self.scratch.outbox = out;
        self.arm_room(key);
        result
    }

    fn carry_out(&mut self, now: Time, key: RoomKey, effect: &Effect, out: &Outbox) {
        let room = &self.rooms[key].room;
        let (id, match_id) = (room.id(), room.match_id());
        match effect {
            Effect::Send(seat, range) => {
                if let Some(session) = self.rooms[key].sessions[seat.index()] {
                    self.sessions[session].send(now, out.packet(range.clone()));
                    self.mark_dirty(session);
                }
            }
            Effect::Pump(seat) => {
                if let Some(session) = self.rooms[key].sessions[seat.index()] {
                    self.mark_dirty(session);
                }
            }
            Effect::Sealed(lateness) => {
                self.counters.frames += 1;
                self.counters.frame_late(*lateness);
            }
            Effect::Inputs(count) => self.counters.inputs += *count as u64,
            Effect::EpochRenewed(lateness) => {
                self.counters.epochs_renewed += 1;
                self.tell(Event::EpochRenewed {
                    room: id,
                    lateness: *lateness,
                });
            }
            Effect::Started => {
                self.counters.matches_started += 1;
                for index in 0..self.rooms[key].sessions.len() {
                    if let Some(session) = self.rooms[key].sessions[index] {
                        self.sessions[session].watch(now);
                        self.mark_dirty(session);
                    }
                }
                self.tell(Event::MatchStarted { room: id, match_id });
            }
            Effect::Over(reason) => {
                self.counters.matches_over += 1;
                self.rooms_over += 1;
                let frames = room.log().head();
                self.tell(Event::MatchOver {
                    room: id,
                    match_id,
                    reason: *reason,
                    frames,
                });
            }
        }
    }

    /// Whether a session's room has more for it than its link holds.
    pub(super) fn is_owed(&self, key: SessionKey) -> bool {
        match self.sessions[key].place {
            Place::Holds(room, seat) => self.rooms[room].room.owes(seat),
            Place::None | Place::Claims(..) => false,
        }
    }

    /// Moves what a session's seat is owed into its link, as far as that has room. The rest
    /// stays behind the seat's cursor.
    pub(super) fn pump(&mut self, now: Time, key: SessionKey) {
        let session = &mut self.sessions[key];
        let Place::Holds(room, seat) = session.place else {
            return;
        };
        let room = &mut self.rooms[room].room;
        if !session.takes_frames(now) {
            return;
        }
        while session.link().backlog() < FRAME_SEGMENTS_IN_KCP_MAX
            && room.next_packet(seat, |packet| session.send(now, packet))
        {}
        if room.take_close(seat) {
            self.say(now, key, &Downlink::Close);
        }
    }

    // --- To a session ---------------------------------------------------------------------

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
