//! Rooms that are elsewhere, in a world: what the server is told when it asks where one is, and what
//! must be true of it.
//!
//! In some worlds the server asks. Some of their rooms are never created, and players come for them
//! nevertheless; others are asked for before they are created. Each question is answered with the
//! address of the room, with none, too late or never. Nobody lives at those addresses: whoever is sent
//! there comes back and asks again, as one does who is refused.
//!
//! All of it is drawn from a stream of its own, so that the other worlds are as they were.

use std::collections::BTreeMap;
use std::time::Duration;

use super::oracle::Violation;
use super::rng::Rng;
use super::script::{Act, RoomPlan};
use super::world::{Health, World};
use crate::client::ClientState;
use crate::cluster::node::Address;
use crate::engine::auth::RoomSecret;
use crate::engine::id::RoomId;
use crate::engine::time::Time;
use crate::engine::view::RoomSpec;
use crate::engine::wire::message::{ConnectCode, WatchFrom};
use crate::limits::{QUESTION_LIFE, QUESTIONS_OPEN_MAX};

/// What these worlds are drawn from besides the seed.
const ELSEWHERE_SEED: u64 = 0x656c_7365_7768_6572;
/// Of a thousand worlds, so many ask.
const ASK: u64 = 250;
/// The number of the first room that is never created.
const FIRST_ROOM: u64 = 500;
/// The longest that a question takes, in ms: some answers come too late.
const ANSWER_MS_MAX: u64 = 1_400;
/// What a Connect may take in a healed world: the question, the ways, and a repetition.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// By which a time-out may be later than it says: it is carried out on the next beat.
const BEAT: Duration = Duration::from_millis(3);

/// What is known of the server's questions.
pub(super) struct Elsewhere {
    /// Nothing if it asks nobody.
    rng: Option<Rng>,
    /// When each question was asked that has had no answer.
    open: BTreeMap<RoomId, Time>,
    /// The answer that is being given.
    given: Option<(RoomId, Option<Address>)>,
}

impl Elsewhere {
    pub(super) fn draw(seed: u64) -> Elsewhere {
        let mut rng = Rng::new(seed ^ ELSEWHERE_SEED);
        let asks = rng.per_mille(ASK);
        Elsewhere {
            rng: asks.then_some(rng),
            open: BTreeMap::new(),
            given: None,
        }
    }
}

/// Where a room is.
fn address_of(room: RoomId) -> Address {
    let text = format!("room-{room}.example.org:10086");
    Address::new(&text).expect("it is one")
}

// --- The plan -----------------------------------------------------------------------------

impl World {
    /// A server has begun to live.
    pub(super) fn let_ask(&mut self) {
        self.elsewhere.open.clear();
        if self.elsewhere.rng.is_some() {
            self.server.ask_elsewhere();
        }
    }

    /// Players of rooms that are never created.
    pub(super) fn plan_elsewhere(&mut self) {
        let Some(mut rng) = self.elsewhere.rng.take() else {
            return;
        };
        for number in 0..rng.within(0..=2) {
            let (room, first) = (self.rooms.len(), self.players.len());
            for _ in 0..=rng.index(3) {
                let watches = rng.per_mille(200).then_some(WatchFrom::Start);
                self.plan_player(room, watches);
            }
            let members = self.players[first..].iter().map(|player| player.id);
            self.rooms.push(RoomPlan {
                spec: RoomSpec {
                    room: RoomId(FIRST_ROOM + number),
                    members: members.collect(),
                    seed: rng.bits32().cast_signed(),
                    hz: None,
                    broadcast_every: None,
                    max_frames: None,
                    input_bytes_max: None,
                    watchers_max: Some(4),
                    watch_delay: None,
                    secret: RoomSecret::from_bytes([0; 16]),
                },
                hz: 30,
                broadcast_every: 3,
                again: false,
                result_at: None,
            });
        }
        self.elsewhere.rng = Some(rng);
    }
}

// --- Questions and answers ----------------------------------------------------------------

impl World {
    /// What the server asks, at the end of a turn.
    pub(super) fn take_questions(&mut self) -> Result<(), Violation> {
        while let Some(room) = self.server.poll_question() {
            self.note(format!("the server asks where room {room} is"));
            self.judge_question(room)?;
            let Some(rng) = &mut self.elsewhere.rng else {
                let what = "asked for, though nobody can say where it is";
                return Err(Violation::Elsewhere { room, what });
            };
            let is_known = rng.per_mille(600);
            let longest = [2, 20, ANSWER_MS_MAX][rng.index(3)];
            let wait = rng.millis(0..=longest);
            if !rng.per_mille(150) {
                self.after(wait, Act::Locate(room, is_known));
            }
        }
        Ok(())
    }

    /// One at a time for each room, not too many, and only for who has proved where they are.
    fn judge_question(&mut self, room: RoomId) -> Result<(), Violation> {
        let wrong = |what| Err(Violation::Elsewhere { room, what });
        let before = self.elsewhere.open.insert(room, self.now);
        if before.is_some_and(|at| self.now < at + QUESTION_LIFE) {
            return wrong("asked for again while the question is open");
        }
        if self.server.open_questions() > QUESTIONS_OPEN_MAX {
            return wrong("asked for while too many questions are open");
        }
        let comes_for = |device: usize| {
            let player = &self.players[self.devices[device].player];
            self.rooms[player.room].spec.room == room
        };
        if !self.places.has_proved(comes_for) {
            return wrong("asked for, and nobody has proved where they are who want it");
        }
        Ok(())
    }

    /// The answer to a question comes, perhaps too late.
    pub(super) fn locate(
        &mut self,
        room: RoomId,
        is_known: bool,
        on_time: bool,
    ) -> Result<(), Violation> {
        self.note(format!("room {room} is elsewhere: {is_known}"));
        let address = is_known.then(|| address_of(room));
        let located = self.server.counters().questions_located;
        self.elsewhere.given = Some((room, address.clone()));
        self.server.handle_located(self.now, room, address.as_ref());
        self.server_events(on_time)?;
        self.elsewhere.given = None;
        let counted = self.server.counters().questions_located > located;
        let age = self.elsewhere.open.remove(&room);
        let age = age.map(|at| self.now.since(at));
        let is_open = age.is_some_and(|age| age < QUESTION_LIFE);
        let may_be_open = age.is_some_and(|age| age < QUESTION_LIFE + BEAT) || !on_time;
        let what = "its address came in time and was not used, or too late and was";
        let right = (!is_known || !is_open || counted) && (!counted || may_be_open);
        right
            .then_some(())
            .ok_or(Violation::Elsewhere { room, what })
    }

    /// The server refuses a Connect: with the address that is just being told, and with no other.
    pub(super) fn judge_refusal(
        &self,
        room: RoomId,
        code: ConnectCode,
        elsewhere: Option<&Address>,
    ) -> Result<(), Violation> {
        let given = self.elsewhere.given.as_ref().filter(|of| of.0 == room);
        let told = given.and_then(|(_, address)| address.as_ref());
        let expected = told.filter(|_| code == ConnectCode::NoRoom);
        let what = "somebody is told where it is without an answer, or is not in spite of one";
        (elsewhere == expected)
            .then_some(())
            .ok_or(Violation::Elsewhere { room, what })
    }

    /// A client is sent on: to where its room is.
    pub(super) fn judge_redirect(&self, device: usize, address: &str) -> Result<(), Violation> {
        let own = &self.devices[device];
        if address == address_of(own.client.room()).as_str() {
            return Ok(());
        }
        let (conn, address) = (own.conn, address.to_owned());
        Err(Violation::SentAstray { conn, address })
    }

    /// Some time after the heal every Connect has been answered.
    pub(super) fn must_not_hang(&self) -> Result<(), Violation> {
        if self.elsewhere.rng.is_none() {
            return Ok(());
        }
        for (index, device) in self.devices.iter().enumerate() {
            let waits = device.client.state() == ClientState::Connecting;
            let judged = device.health == Health::Alive && self.is_current(index);
            let (conn, since, now) = (device.conn, device.asked_at, self.now);
            if judged && waits && now.since(since) > ANSWERED_WITHIN && !device.harmed {
                return Err(Violation::Hangs { conn, since, now });
            }
        }
        Ok(())
    }
}
