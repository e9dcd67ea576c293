//! Rooms that are elsewhere: the part of [`Server`] that asks where, for clients of version 2, and
//! answers them. Of its public face only the driver's questions are here; who is let in is decided in
//! `router`.
//!
//! The engine knows no other server. It hands out a question ([`Server::poll_question`]), whoever
//! drives it finds the answer wherever there is one ([`Server::handle_located`]), and the Connects
//! that wait for it are then judged once more: the room may have been created here meanwhile.
//!
//! One forged datagram makes a session, so nobody is asked for one that has not proved its address. The
//! proof is an echo of something that we have sent, and the answer is not there yet: so a heartbeat's
//! answer goes ahead of it, which every client knows and none minds. Of those who are proved, each
//! range of addresses has its share of the questions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::auth::Refusal;
use super::beats::on_beat;
use super::budget::RangeBudget;
use super::guests::Range;
use super::hash::KeyedHash;
use super::id::{PlayerId, RoomId};
use super::server::Server;
use super::session::{Session, SessionKey};
use super::time::Time;
use super::wire::message::{ConnectCode, Downlink, Version, WatchFrom};
use crate::cluster::node::Address;
use crate::limits::{
    QUESTION_LIFE, QUESTIONS_OPEN_MAX, QUESTIONS_PER_RANGE_AND_SECOND, QUESTIONS_PER_SECOND,
    WAITING_PER_QUESTION_MAX,
};

/// What a Connect asks for.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) player: PlayerId,
    pub(super) room: RoomId,
    pub(super) token: String,
    /// To watch and not to play, from there on.
    pub(super) watch: Option<WatchFrom>,
}

/// The number of a question: two for the same room have different ones.
pub(super) type QuestionId = u64;

/// A question that waits for its answer.
#[derive(Debug)]
struct Question {
    id: QuestionId,
    /// Who gets the answer.
    waiting: BTreeSet<SessionKey>,
}

/// All questions.
#[derive(Debug)]
pub(super) struct Elsewhere {
    open: BTreeMap<RoomId, Question>,
    /// Those that the driver has not taken yet.
    untold: VecDeque<RoomId>,
    opened: QuestionId,
    budget: RangeBudget,
}

/// Why nobody is asked for a session.
#[derive(Clone, Copy, Debug)]
enum Unasked {
    TooOften,
    Full,
}

impl Elsewhere {
    fn new(hash: KeyedHash) -> Elsewhere {
        Elsewhere {
            open: BTreeMap::new(),
            untold: VecDeque::new(),
            opened: 0,
            budget: RangeBudget::new(hash, QUESTIONS_PER_RANGE_AND_SECOND, QUESTIONS_PER_SECOND),
        }
    }

    /// A session waits for the word where a room is. Returns the question, if it is a new one.
    fn wait(
        &mut self,
        now: Time,
        session: SessionKey,
        range: Range,
        room: RoomId,
    ) -> Result<Option<QuestionId>, Unasked> {
        if let Some(question) = self.open.get_mut(&room) {
            if question.waiting.len() >= WAITING_PER_QUESTION_MAX {
                return Err(Unasked::Full);
            }
            question.waiting.insert(session);
            return Ok(None);
        }
        if self.open.len() >= QUESTIONS_OPEN_MAX {
            return Err(Unasked::Full);
        }
        if !self.budget.pay(now, range) {
            return Err(Unasked::TooOften);
        }
        self.opened += 1;
        let (id, waiting) = (self.opened, BTreeSet::from([session]));
        self.open.insert(room, Question { id, waiting });
        self.untold.push_back(room);
        Ok(Some(id))
    }

    /// The question for a room is answered, or waits no longer.
    fn close(&mut self, room: RoomId) -> Option<Question> {
        let question = self.open.remove(&room)?;
        self.untold.retain(|untold| *untold != room);
        Some(question)
    }
}

impl Server {
    // --- The driver's side ----------------------------------------------------------------

    /// From now on a Connect of version 2 to a room that is not here is not refused at once: the
    /// driver is asked where the room is, by [`Server::poll_question`].
    pub fn ask_elsewhere(&mut self) {
        let hash = KeyedHash::new(self.secrets.hash_key);
        self.elsewhere.get_or_insert_with(|| Elsewhere::new(hash));
    }

    /// The next room of which somebody has to be told where it is. Each question is handed out once,
    /// and then waits for [`Server::handle_located`], for [`QUESTION_LIFE`] since it was asked.
    pub fn poll_question(&mut self) -> Option<RoomId> {
        self.elsewhere.as_mut()?.untold.pop_front()
    }

    /// The answer to a question: where the players of a room connect; `None` if nobody has it. All who
    /// wait for it are answered. One that comes late, or that nobody has asked for, does nothing.
    pub fn handle_located(&mut self, now: Time, room: RoomId, address: Option<&Address>) {
        let question = self.elsewhere.as_mut().and_then(|all| all.close(room));
        if let Some(question) = question {
            self.counters.questions_located += u64::from(address.is_some());
            self.answer_all(now, question, address);
        }
        self.check_invariants();
    }

    /// Questions that wait for their answers.
    pub fn open_questions(&self) -> usize {
        self.elsewhere.as_ref().map_or(0, |all| all.open.len())
    }

    // --- The sessions' side ---------------------------------------------------------------

    /// Whether a Connect is not answered at once, which would be refused for this reason. It waits
    /// if its room may be elsewhere. It also waits for the proof if its client may have another first
    /// answer than this one, from a session that has ended: KCP would take this one for a copy.
    pub(super) fn must_wait(&self, key: SessionKey, refusal: Option<Refusal>) -> bool {
        let session = &self.sessions[key];
        let asks = self.elsewhere.is_some() && !self.stopping && session.version == Version::V2;
        let missing = refusal.is_some_and(|refusal| refusal.code == ConnectCode::NoRoom);
        asks && (missing || session.conceded && !session.link().is_proved())
    }

    /// Lets a Connect wait, first for the proof.
    pub(super) fn put_off(&mut self, now: Time, key: SessionKey, wish: Wish) {
        let session = &mut self.sessions[key];
        let is_proved = session.link().is_proved();
        let has_spoken = session.link().queued() > 0;
        session.waiting = Some(Box::new(wish));
        if is_proved {
            self.ask(now, key);
        } else if !has_spoken {
            self.say(now, key, &Downlink::Heartbeat);
        }
    }

    /// A session has proved its address: its Connect may go on, if it waits.
    pub(super) fn go_on(&mut self, now: Time, key: SessionKey) {
        if let Some(wish) = self.sessions[key].waiting.take() {
            self.connect(now, key, *wish);
        }
    }

    /// A session ends while it waits, for its proof or for an answer.
    pub(super) fn stop_waiting(&mut self, key: SessionKey, room: RoomId) {
        let all = self.elsewhere.as_mut();
        if let Some(question) = all.and_then(|all| all.open.get_mut(&room)) {
            question.waiting.remove(&key);
        }
    }

    /// Asks for a session where its room is, or answers it if that may not be.
    fn ask(&mut self, now: Time, key: SessionKey) {
        let session = &self.sessions[key];
        let range = Range::of(session.addr);
        let room = session.waiting.as_ref().expect("it waits").room;
        let all = self.elsewhere.as_mut().expect("it may ask");
        match all.wait(now, key, range, room) {
            Ok(Some(id)) => {
                self.counters.questions += 1;
                self.arm_question(on_beat(now + QUESTION_LIFE), room, id);
            }
            Ok(None) => {}
            Err(why) => {
                match why {
                    Unasked::TooOften => self.counters.questions_too_often += 1,
                    Unasked::Full => self.counters.questions_full += 1,
                }
                self.answer_waiting(now, key, None);
            }
        }
    }

    /// Time is up for a question, unless it has been answered.
    pub(super) fn question_timer(&mut self, now: Time, room: RoomId, id: QuestionId) {
        let Some(all) = &mut self.elsewhere else {
            return;
        };
        if all.open.get(&room).is_none_or(|question| question.id != id) {
            return;
        }
        let question = all.close(room).expect("it is open");
        self.counters.questions_late += 1;
        self.answer_all(now, question, None);
    }

    fn answer_all(&mut self, now: Time, question: Question, address: Option<&Address>) {
        for key in question.waiting {
            // The answer to another one may have ended it.
            let waits = |session: &Session| session.waiting.is_some();
            if self.sessions.get(key).is_some_and(waits) {
                self.answer_waiting(now, key, address);
                // What it has said since waits in KCP.
                self.read(now, key);
            }
        }
    }

    fn answer_waiting(&mut self, now: Time, key: SessionKey, address: Option<&Address>) {
        let wish = self.sessions[key].waiting.take().expect("it waits");
        self.connect_again(now, key, &wish, address);
    }

    // --- Invariants -----------------------------------------------------------------------

    /// Holds those who wait against the questions.
    ///
    /// # Panics
    /// If somebody waits for nothing.
    pub(super) fn assert_waiting(&self) {
        let mut asked = 0;
        for (key, session) in &self.sessions {
            let Some(wish) = &session.waiting else {
                continue;
            };
            let all = self.elsewhere.as_ref().expect("else nobody waits");
            let question = all.open.get(&wish.room);
            let waits = question.is_some_and(|question| question.waiting.contains(&key));
            assert_eq!(waits, session.link().is_proved(), "it waits for nothing");
            asked += usize::from(waits);
        }
        let Some(all) = &self.elsewhere else { return };
        assert!(all.open.len() <= QUESTIONS_OPEN_MAX);
        assert!(all.untold.iter().all(|room| all.open.contains_key(room)));
        let waiting = all.open.values().map(|question| question.waiting.len());
        assert_eq!(
            waiting.sum::<usize>(),
            asked,
            "a session has ended and waits"
        );
    }
}
