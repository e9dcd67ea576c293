//! The oracle: what must be true of every match, whatever the network does.
//!
//! It is told what a world does and what its server and clients say, and answers with a
//! [`Violation`] when that cannot be right. It computes deadlines by a formula of its own
//! and keeps a copy of every match, so that it shares no mistake with the engine. It knows
//! neither the network nor the script; [`crate::sim::world`] asks the questions.
//!
//! An input carries who sent it in its operands: `sid` is the conversation, `x` counts the
//! inputs of that conversation from 0, `y` is a check over both. The data beside it follows from
//! the same numbers and its length.

mod lives;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use self::lives::{Beyond, Lives};
use crate::client::{ClientEvent, ClientFault};
use crate::engine::counters::Counters;
use crate::engine::drops::{Disconnect, Drop};
use crate::engine::id::{FrameId, MatchId, Percent, PlayerId, RoomId, Seat};
use crate::engine::time::Time;
use crate::engine::view::{CreateError, OverReason, RoomView};
use crate::engine::wire::frame::{Command, Frame, FrameInput, Input, decode_frames};
use crate::engine::wire::frame::{encode_frame, encode_input};
use crate::engine::wire::message::{ConnectCode, Fetched, WatchFrom};
use crate::io::feed::RoomEvent;
use crate::limits::{
    FRAME_BYTES_MAX, INPUT_DATA_PER_SEAT_AND_FRAME_MAX, INPUTS_PER_SEAT_AND_FRAME_MAX, LATE_MAX,
};

pub use self::lives::End;

/// The number of a conversation, over the whole world.
pub type Conn = usize;
/// The number of a match, over the whole world.
pub type Match = usize;

/// What was violated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each text says what its fields are")]
pub enum Violation {
    #[error("match {of}: head is {head} at {now}, its clock says {due}")]
    Head {
        of: Match,
        now: Time,
        head: FrameId,
        due: FrameId,
    },
    #[error("match {of}: frame {frame} was due at {due} and sealed at {now}, on time as it seemed")]
    SealedLate {
        of: Match,
        frame: FrameId,
        due: Time,
        now: Time,
    },
    #[error("match {of}: a new epoch at {now} after a lateness of {lateness:?}")]
    Epoch {
        of: Match,
        now: Time,
        lateness: Duration,
    },
    #[error("match {of}: at {now} its clock is to wait for {wait:?}, longer than a frame")]
    Wait {
        of: Match,
        now: Time,
        wait: Duration,
    },
    #[error("conversation {conn}: it was resumed at frame {next}, which it does not hold")]
    Resumed { conn: Conn, next: FrameId },
    #[error("match {of}: it went on after its end: {head} frames")]
    FramesAfterEnd { of: Match, head: FrameId },
    #[error("match {of}: what was sealed has changed")]
    Rewritten { of: Match },
    #[error("match {of}: the log does not decode, or its ids do not ascend below the head")]
    LogBroken { of: Match },
    #[error("match {of}: frame {frame} is over a bound")]
    FrameTooLarge { of: Match, frame: FrameId },
    #[error("match {of}: frame {frame} holds an input that nobody sent: {input:?}")]
    Invented {
        of: Match,
        frame: FrameId,
        input: FrameInput,
    },
    #[error("match {of}: frame {frame} has input {counter} of conversation {conn} again or late")]
    Repeated {
        of: Match,
        frame: FrameId,
        conn: Conn,
        counter: u32,
    },
    #[error("{gaps} inputs are missing in the logs and {dropped} were dropped")]
    InputsLost { gaps: u64, dropped: u64 },
    #[error("conversation {conn}: {sent} inputs were sent, {logged} are in the log")]
    InputsMissing { conn: Conn, sent: u32, logged: u32 },
    #[error("conversation {conn}: the client says the server broke its contract: {fault:?}")]
    Fault { conn: Conn, fault: ClientFault },
    #[error("conversation {conn}: refused with {code:?}")]
    Refused { conn: Conn, code: ConnectCode },
    #[error("conversation {conn}: refused more often than it has connected")]
    RefusedTwice { conn: Conn },
    #[error("conversation {conn}: sent on to {address}, where its room is not")]
    SentAstray { conn: Conn, address: String },
    #[error("conversation {conn}: its Connect waits for its answer since {since}, at {now}")]
    Hangs { conn: Conn, since: Time, now: Time },
    #[error("room {room}: {what}")]
    Elsewhere { room: RoomId, what: &'static str },
    #[error("conversation {conn}: joined as {seat} beside {others:?}: no such match")]
    Joined {
        conn: Conn,
        seat: i32,
        others: Vec<(PlayerId, Percent)>,
    },
    #[error("conversation {conn}: Start says {got}, the match began at {expected:?}")]
    Stamp {
        conn: Conn,
        got: i64,
        expected: Option<i64>,
    },
    #[error("conversation {conn}: frame {frame} before Start")]
    FrameBeforeStart { conn: Conn, frame: FrameId },
    #[error("conversation {conn}: frame {got} after the one before {expected}")]
    FrameOrder {
        conn: Conn,
        expected: FrameId,
        got: FrameId,
    },
    #[error("conversation {conn}: frame {frame} differs from the room's")]
    FrameDiffers { conn: Conn, frame: FrameId },
    #[error("conversation {conn}: {covers:?} answers a request for {from}..{end:?}: {what}")]
    Fetched {
        conn: Conn,
        from: FrameId,
        end: Option<FrameId>,
        covers: Fetched,
        what: &'static str,
    },
    #[error("conversation {conn}: its request for frames waits since {since}, at {now}")]
    NotFetched { conn: Conn, since: Time, now: Time },
    #[error("conversation {conn}: frame {frame} was to be held back from spectators")]
    ShownEarly { conn: Conn, frame: FrameId },
    #[error("conversation {conn}: it watched to the end at {frames} and got {got} frames")]
    NotShown {
        conn: Conn,
        got: FrameId,
        frames: FrameId,
    },
    #[error("conversation {conn}: closed while its match runs")]
    ClosedEarly { conn: Conn },
    #[error("conversation {conn}: its match is over since {since} and Close has not come by {now}")]
    NoClose { conn: Conn, since: Time, now: Time },
    #[error("conversation {conn}: at {now}, long after the faults, at {got} of {needed}: {state}")]
    Behind {
        conn: Conn,
        now: Time,
        got: FrameId,
        needed: FrameId,
        state: String,
    },
    #[error("conversation {conn}: its session ended though nothing was wrong: {reason:?}")]
    SessionLost { conn: Conn, reason: Disconnect },
    #[error("room {room}: {what}")]
    Rooms { room: RoomId, what: String },
    #[error("those who follow rooms are told what may not be: {0:?}")]
    Told(RoomEvent),
    #[error("those who follow rooms were told of other matches than there are")]
    Untold,
    #[error("{addr} was given the seat of player {player} without a proof of address")]
    Unproved { addr: SocketAddr, player: PlayerId },
    #[error("the session of player {player} has moved to {to}, where its client is not")]
    Misled { to: SocketAddr, player: PlayerId },
    #[error("conversation {conn} was told that its session is gone, and it is not")]
    WrongReset { conn: Conn },
    #[error("{to} has proved nothing: {sent} bytes were sent there after {heard} were heard")]
    Amplified {
        to: SocketAddr,
        heard: usize,
        sent: usize,
    },
    #[error("conversation {conn}: it took nothing for {shut:?} and still has its session")]
    NotStalled { conn: Conn, shut: Duration },
    #[error("conversation {conn}: long after the faults it has no seat")]
    NoSeat { conn: Conn },
    #[error("left over at the end: {sessions} sessions, {rooms} rooms, {timers} timers")]
    LeftOver {
        sessions: u64,
        rooms: u64,
        timers: u64,
    },
    #[error("{what}: the server counts {counted}, the logs hold {held}")]
    Miscounted {
        what: &'static str,
        counted: u64,
        held: u64,
    },
    #[error("a frame was sealed {us} us late in a world that was never late")]
    Lateness { us: u64 },
    #[error("match {match_id} after a restart: {what}")]
    Restored { match_id: MatchId, what: String },
    #[error("match {match_id}: {seen} frames were seen by clients, a restart has left {head}")]
    Forgotten {
        match_id: MatchId,
        seen: FrameId,
        head: FrameId,
    },
    #[error("match {of}: frame {frame} was sent, and a restart has lost it")]
    FrameLost { of: Match, frame: FrameId },
    #[error("conversation {conn}: resumed at frame {next}, from {lost} on it holds lost ones")]
    TwoHistories {
        conn: Conn,
        next: FrameId,
        lost: FrameId,
    },
    #[error("the journal is owed records though its disk is well")]
    OwesRecords,
    #[error("{who} wants to be woken again and again at {now}")]
    Livelock { who: String, now: Time },
}

/// The turn of the loop in which a log is shown.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// It began when the server asked for it, or earlier.
    pub on_time: bool,
    /// The match ended in it.
    pub ended: bool,
}

/// The clock of a match as the oracle computes it.
#[derive(Clone, Copy, Debug)]
struct Clock {
    epoch: Time,
    first: FrameId,
}

/// What is known of a match.
#[derive(Debug)]
struct MatchRecord {
    room: RoomId,
    match_id: MatchId,
    members: Vec<PlayerId>,
    hz: u32,
    max_frames: u32,
    input_bytes_max: u32,
    watchers_max: u32,
    watch_delay: u32,
    seed: i32,
    clock: Option<Clock>,
    started_unix: Option<i64>,
    over_since: Option<Time>,
    /// The room's log, as the server showed it.
    bytes: Vec<u8>,
    /// Where each frame ends in it; one without input ends where the one before does.
    ends: Vec<usize>,
    /// The turn of the last conversation of each seat of which an input was seen.
    last_turn: Vec<u64>,
    /// What must outlive the server.
    lives: Lives,
}

/// A request for frames.
#[derive(Clone, Copy, Debug)]
struct Asked {
    request: u32,
    from: FrameId,
    end: Option<FrameId>,
    /// The frames before this one existed when it was made.
    existed: FrameId,
    /// When it was made or answered last.
    since: Time,
    /// What came last.
    last: Option<Fetched>,
}

impl Asked {
    /// What is wrong with what the next answer covers.
    fn fault_of(&self, covers: Fetched) -> Option<&'static str> {
        let nothing = covers.from == covers.end;
        let right_from = match self.last {
            Some(last) => last.until == covers.from && last.end == covers.end,
            // It begins where it should, or tells that there is nothing so far.
            None if nothing && covers.from < self.from => covers.from >= self.existed,
            None => covers.from == self.from,
        };
        let most = self.end.map_or(FrameId::MAX, |end| end.max(self.from));
        let right_end = covers.end == most || (self.existed..most).contains(&covers.end);
        if covers.request != self.request {
            Some("it answers another")
        } else if !right_from {
            Some("it begins elsewhere")
        } else if !right_end {
            Some("it ends elsewhere")
        } else if covers.until == covers.from && !nothing {
            Some("it covers nothing")
        } else {
            None
        }
    }

    fn is_done(&self) -> bool {
        self.last.is_some_and(|last| last.until == last.end)
    }
}

/// An input that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Time,
    data_bytes: usize,
}

/// What is known of a conversation.
#[derive(Debug)]
struct ConnRecord {
    player: PlayerId,
    room: RoomId,
    /// It is a spectator's.
    watch: Option<WatchFrom>,
    /// The match that it has joined, if only to watch.
    plays: Option<Match>,
    /// Which of all that were given a seat it is; of two clients of one player, the one that
    /// proves its address last wins.
    turn: u64,
    sent: Vec<Sent>,
    /// The lowest counter that its next input in a log may have.
    logged: u32,
    /// The next frame, once it was told of the start.
    next_frame: Option<FrameId>,
    /// What the same client holds from its conversations before: a match, the next frame, and in
    /// which life of the server it got them.
    held: Option<(Match, FrameId, u32)>,
    /// The newest request for frames.
    asked: Option<Asked>,
    closed: bool,
    /// The life of the server that gave it a seat.
    life: Option<u32>,
    /// In which life it began.
    opened_in: u32,
    /// A server has refused it, perhaps another one.
    was_refused: bool,
    /// How often it has connected, and has been refused.
    connects: u32,
    refusals: u32,
    /// Two of them have spoken to it.
    is_mixed: bool,
}

impl ConnRecord {
    fn sent_count(&self) -> u32 {
        u32::try_from(self.sent.len()).expect("a conversation has few inputs")
    }
}

/// See the file's header.
#[derive(Debug, Default)]
pub struct Oracle {
    matches: Vec<MatchRecord>,
    /// The newest match of each room, to look it up.
    newest: HashMap<RoomId, Match>,
    by_id: HashMap<MatchId, Match>,
    conns: Vec<ConnRecord>,
    /// Inputs that are missing between others of their conversation.
    gaps: u64,
    /// Inputs in all logs.
    inputs: u64,
    /// How often a seat was given.
    turns: u64,
    /// Frames that were not sent again.
    resumed: u64,
    /// Frames that came on request, the empty ones too.
    fetched: u64,
    /// Bytes of data beside inputs in all logs.
    data_bytes: u64,
    /// Frames that spectators saw.
    watched: u64,
    /// The server was asked to stop.
    stopping: bool,
    beyond: Beyond,
    scratch: Vec<u8>,
}

/// The input number `counter` of a conversation.
pub fn command_of(conn: Conn, counter: u32) -> Command {
    let sid = i32::try_from(conn).expect("a world has few conversations");
    let x = i32::try_from(counter).expect("a conversation has few inputs");
    Command {
        sid,
        x,
        y: sid.wrapping_mul(0x0101_6b2d) ^ x.wrapping_mul(0x0001_93b1),
    }
}

/// The same with so many bytes of data.
pub fn input_of(conn: Conn, counter: u32, data_bytes: usize) -> Input {
    let command = command_of(conn, counter);
    let [first, step, ..] = command.y.to_le_bytes();
    let byte = |index: usize| first.wrapping_add(step.wrapping_mul(index.to_le_bytes()[0]));
    let data = (0..data_bytes).map(byte).collect();
    Input { command, data }
}

impl MatchRecord {
    fn head(&self) -> FrameId {
        FrameId::try_from(self.ends.len()).expect("frames are counted in 32 bits")
    }

    /// How many frames are sealed by `now`: those of which the deadline, `k * 1 s / hz`
    /// rounded down to the microsecond, is not after it.
    fn due(&self, now: Time) -> FrameId {
        let Some(clock) = self.clock else {
            // It rests after a restart of the server, or waits for the start.
            return self.head();
        };
        let us = u64::try_from(now.since(clock.epoch).as_micros()).expect("a world is short");
        let periods = ((us + 1) * u64::from(self.hz) - 1) / 1_000_000;
        let frames = u64::from(clock.first) + periods;
        FrameId::try_from(frames).map_or(self.max_frames, |due| due.min(self.max_frames))
    }

    fn deadline(&self, frame: FrameId) -> Option<Time> {
        let clock = self.clock?;
        let periods = u64::from(frame - clock.first) + 1;
        let us = periods * 1_000_000 / u64::from(self.hz);
        Some(clock.epoch + Duration::from_micros(us))
    }

    /// When a sealed frame was due: one from before the present epoch, long ago.
    fn sealed_at(&self, frame: FrameId, now: Time) -> Time {
        let clock = self.clock.filter(|clock| clock.first <= frame);
        let deadline = clock.and_then(|_| self.deadline(frame));
        deadline.map_or(Time::ZERO, |at| at.min(now))
    }

    fn frame_bytes(&self, frame: FrameId) -> Option<&[u8]> {
        self.bytes_of(frame, frame.checked_add(1)?)
    }

    /// The frames from one to before another; `None` if they do not exist.
    fn bytes_of(&self, from: FrameId, until: FrameId) -> Option<&[u8]> {
        let end = |frame: FrameId| match usize::try_from(frame).ok()?.checked_sub(1) {
            None => Some(0),
            Some(before) => self.ends.get(before).copied(),
        };
        self.bytes.get(end(from)?..end(until)?)
    }
}

/// A frame as the log holds it: nothing at all if it has no input.
fn encode_into(out: &mut Vec<u8>, frame: &Frame) {
    out.clear();
    if frame.inputs.is_empty() {
        return;
    }
    let mut inputs = Vec::new();
    for input in &frame.inputs {
        let index = usize::try_from(input.seat - 1).unwrap_or(0);
        encode_input(
            &mut inputs,
            input.player,
            Seat::from_index(index),
            input.command,
            &input.data,
        );
    }
    encode_frame(out, frame.id, &inputs);
}

// --- The server's side --------------------------------------------------------------------

impl Oracle {
    /// A room was created.
    ///
    /// # Errors
    /// If its number was taken.
    pub fn created(&mut self, view: &RoomView) -> Result<Match, Violation> {
        let of = self.matches.len();
        let before = self.newest.insert(view.room, of);
        if before.is_some_and(|of| self.matches[of].over_since.is_none()) {
            let (room, what) = (view.room, "created while its match runs".into());
            return Err(Violation::Rooms { room, what });
        }
        self.by_id.insert(view.match_id, of);
        self.beyond.begin(of);
        self.matches.push(MatchRecord {
            room: view.room,
            match_id: view.match_id,
            members: view.seats.iter().map(|seat| seat.player).collect(),
            hz: view.hz,
            max_frames: view.max_frames,
            input_bytes_max: view.input_bytes_max,
            watchers_max: view.watchers_max,
            watch_delay: view.watch_delay,
            seed: view.seed,
            clock: None,
            started_unix: None,
            over_since: None,
            bytes: Vec::new(),
            ends: Vec::new(),
            last_turn: vec![0; view.seats.len()],
            lives: Lives::of(view),
        });
        Ok(of)
    }

    /// A room was not created, by a server that held so many rooms, those that are over
    /// included, of which `max` may run.
    ///
    /// # Errors
    /// If it should have been.
    pub fn not_created(
        &self,
        room: RoomId,
        error: &CreateError,
        held: u64,
        max: usize,
    ) -> Result<(), Violation> {
        let runs = |known: &&MatchRecord| known.over_since.is_none();
        let right = match error {
            CreateError::Exists { match_id, .. } => {
                let newest = self.newest(room).map(|of| &self.matches[of]);
                newest.is_some_and(|known| runs(&known) && known.match_id == *match_id)
            }
            CreateError::Full { .. } => {
                let running = self.matches.iter().filter(runs).count();
                running >= max || held >= 2 * max as u64
            }
            CreateError::Invalid { .. }
            | CreateError::Late
            | CreateError::Draining
            | CreateError::Stopping => false,
        };
        let what = || format!("not created: {error}");
        right
            .then_some(())
            .ok_or_else(|| Violation::Rooms { room, what: what() })
    }

    /// The match of this id.
    pub fn find(&self, id: MatchId) -> Option<Match> {
        self.by_id.get(&id).copied()
    }

    /// The newest match of a room.
    pub fn newest(&self, room: RoomId) -> Option<Match> {
        self.newest.get(&room).copied()
    }

    /// Whether a match has started and is not over.
    pub fn is_playing(&self, of: Match) -> bool {
        self.matches[of].started_unix.is_some() && self.matches[of].over_since.is_none()
    }

    /// Whether a match was running at this moment and is still.
    pub fn plays_since(&self, of: Match, moment: Time) -> bool {
        let from = self.matches[of].lives.plays_from;
        self.is_playing(of) && from.is_some_and(|from| from <= moment)
    }

    /// Since when a match is over.
    pub fn over_since(&self, of: Match) -> Option<Time> {
        self.matches[of].over_since
    }

    /// Whether a player is a member of a match.
    pub fn is_member(&self, of: Match, player: PlayerId) -> bool {
        self.matches[of].members.contains(&player)
    }

    /// Whether a log must have grown by now.
    pub fn has_frames_due(&self, of: Match, now: Time) -> bool {
        self.is_playing(of) && self.matches[of].due(now) != self.matches[of].head()
    }

    /// Bytes of a match's log, as far as it is known.
    pub fn log_len(&self, of: Match) -> usize {
        self.matches[of].bytes.len()
    }

    /// The server was asked to stop.
    pub fn stops(&mut self) {
        self.stopping = true;
    }

    /// A match has started, and its clock begins after a wait.
    ///
    /// # Errors
    /// If that is longer than a frame.
    pub fn started(
        &mut self,
        of: Match,
        now: Time,
        wait: Duration,
        unix_seconds: i64,
    ) -> Result<(), Violation> {
        self.set_clock(of, now, wait, 0)?;
        self.matches[of].started_unix = Some(unix_seconds);
        self.matches[of].lives.plays_from = Some(now + wait);
        Ok(())
    }

    /// The clock of a match that has rested goes on after a wait.
    ///
    /// # Errors
    /// If that is longer than a frame, or it did not rest.
    pub fn resumed_clock(&mut self, of: Match, now: Time, wait: Duration) -> Result<(), Violation> {
        if self.matches[of].clock.is_some() || !self.is_playing(of) {
            return Err(Violation::Wait { of, now, wait });
        }
        let head = self.matches[of].head();
        self.set_clock(of, now, wait, head)
    }

    fn set_clock(
        &mut self,
        of: Match,
        now: Time,
        wait: Duration,
        first: FrameId,
    ) -> Result<(), Violation> {
        let known = &mut self.matches[of];
        if wait * known.hz > Duration::from_secs(1) + Duration::from_micros(known.hz.into()) {
            return Err(Violation::Wait { of, now, wait });
        }
        let epoch = now + wait;
        known.clock = Some(Clock { epoch, first });
        Ok(())
    }

    /// A room says that it was so late that it took a new epoch.
    ///
    /// # Errors
    /// If it was not.
    pub fn epoch_renewed(
        &mut self,
        of: Match,
        now: Time,
        lateness: Duration,
        wait: Duration,
    ) -> Result<(), Violation> {
        let known = &self.matches[of];
        let head = known.head();
        let late = known.deadline(head).map(|at| now.since(at));
        if late != Some(lateness) || lateness <= LATE_MAX {
            return Err(Violation::Epoch { of, now, lateness });
        }
        self.set_clock(of, now, wait, head)
    }

    /// A room's log, at the end of a turn of the loop that was on time or not, or in the turn
    /// in which its match `ended`: then a time-out that was due earlier than some frames of
    /// the same turn comes before them.
    ///
    /// # Errors
    /// If frames were sealed at another moment than their deadlines, what was sealed has
    /// changed, or an input is not as it was sent.
    pub fn log(
        &mut self,
        of: Match,
        now: Time,
        Turn { on_time, ended }: Turn,
        head: FrameId,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let known = &self.matches[of];
        let before = known.head();
        if known.over_since.is_some() && (head != before || bytes.len() != known.bytes.len()) {
            return Err(Violation::FramesAfterEnd { of, head });
        }
        let due = known.due(now);
        let cut_short = ended && (before..due).contains(&head);
        let cut_short = cut_short && (!on_time || known.deadline(head) == Some(now));
        if known.over_since.is_none() && head != due && !cut_short {
            return Err(Violation::Head { of, now, head, due });
        }
        let deadline = known.deadline(before);
        if let Some(due) = deadline.filter(|due| on_time && head > before && *due != now) {
            let frame = before;
            return Err(Violation::SealedLate {
                of,
                frame,
                due,
                now,
            });
        }
        if !bytes.starts_with(&known.bytes) {
            return Err(Violation::Rewritten { of });
        }
        let from = known.bytes.len();
        self.append(of, head, &bytes[from..])?;
        self.matches[of].count_told(before);
        Ok(())
    }

    /// A match is over, at the end of what [`Oracle::log`] was last told.
    ///
    /// # Errors
    /// If its number of frames is another.
    pub fn over(
        &mut self,
        of: Match,
        now: Time,
        reason: OverReason,
        frames: FrameId,
    ) -> Result<(), Violation> {
        let known = &mut self.matches[of];
        let at_last = frames == known.max_frames;
        if known.head() != frames || at_last != (reason == OverReason::MaxFrames) {
            return Err(Violation::FramesAfterEnd { of, head: frames });
        }
        known.over_since = Some(now);
        known.told_end(reason);
        Ok(())
    }

    fn append(&mut self, of: Match, head: FrameId, bytes: &[u8]) -> Result<(), Violation> {
        let broken = || Violation::LogBroken { of };
        let frames = decode_frames(bytes).map_err(|_| broken())?;
        for frame in &frames {
            if frame.id < self.matches[of].head() || frame.id >= head || frame.inputs.is_empty() {
                return Err(broken());
            }
            self.check_inputs(of, frame)?;
            let mut encoded = std::mem::take(&mut self.scratch);
            encode_into(&mut encoded, frame);
            let known = &mut self.matches[of];
            let index = usize::try_from(frame.id).expect("an index");
            known.ends.resize(index, known.bytes.len());
            known.bytes.extend_from_slice(&encoded);
            known.ends.push(known.bytes.len());
            let len = encoded.len();
            self.scratch = encoded;
            if len > FRAME_BYTES_MAX {
                let frame = frame.id;
                return Err(Violation::FrameTooLarge { of, frame });
            }
        }
        let known = &mut self.matches[of];
        let index = usize::try_from(head).expect("an index");
        known.ends.resize(index, known.bytes.len());
        // The log is the same bytes that prost's reading of it gives again.
        if known.bytes.ends_with(bytes) {
            Ok(())
        } else {
            Err(broken())
        }
    }

    fn check_inputs(&mut self, of: Match, frame: &Frame) -> Result<(), Violation> {
        let mut counts = vec![(0, 0); self.matches[of].members.len()];
        for input in &frame.inputs {
            let seat = self.check_input(of, frame.id, input)?;
            let (inputs, data_bytes) = &mut counts[seat];
            *inputs += 1;
            *data_bytes += input.data.len();
            self.data_bytes += input.data.len() as u64;
            if *inputs > INPUTS_PER_SEAT_AND_FRAME_MAX
                || *data_bytes > INPUT_DATA_PER_SEAT_AND_FRAME_MAX
            {
                let frame = frame.id;
                return Err(Violation::FrameTooLarge { of, frame });
            }
        }
        self.inputs += frame.inputs.len() as u64;
        Ok(())
    }

    /// Holds one input against what its conversation has sent; returns its seat's index.
    fn check_input(
        &mut self,
        of: Match,
        frame: FrameId,
        input: &FrameInput,
    ) -> Result<usize, Violation> {
        let invented = || Violation::Invented {
            of,
            frame,
            input: input.clone(),
        };
        let conn = Conn::try_from(input.command.sid).map_err(|_| invented())?;
        let counter = u32::try_from(input.command.x).map_err(|_| invented())?;
        let seat = usize::try_from(input.seat - 1).map_err(|_| invented())?;
        let known = &mut self.matches[of];
        let sender = self.conns.get_mut(conn).ok_or_else(invented)?;
        let index = usize::try_from(counter).map_err(|_| invented())?;
        let expected = sender
            .sent
            .get(index)
            .map(|sent| input_of(conn, counter, sent.data_bytes));
        let expected = expected.ok_or_else(invented)?;
        let honest = known.members.get(seat) == Some(&input.player)
            && sender.player == input.player
            && sender.plays == Some(of)
            && input.command == expected.command
            && input.data == expected.data
            && expected.data.len() as u64 <= u64::from(known.input_bytes_max);
        if !honest {
            return Err(invented());
        }
        // A player's conversations follow one another, and so do the inputs of each.
        if counter < sender.logged || sender.turn < known.last_turn[seat] {
            return Err(Violation::Repeated {
                of,
                frame,
                conn,
                counter,
            });
        }
        self.gaps += u64::from(counter - sender.logged);
        sender.logged = counter + 1;
        known.last_turn[seat] = sender.turn;
        Ok(seat)
    }
}

// --- The clients' side --------------------------------------------------------------------

impl Oracle {
    /// A client begins a conversation.
    pub fn opened(&mut self, player: PlayerId, room: RoomId) -> Conn {
        self.conns.push(ConnRecord {
            player,
            room,
            watch: None,
            plays: None,
            turn: 0,
            sent: Vec::new(),
            logged: 0,
            next_frame: None,
            held: None,
            asked: None,
            closed: false,
            life: None,
            opened_in: self.beyond.life(),
            was_refused: false,
            connects: 1,
            refusals: 0,
            is_mixed: false,
        });
        self.conns.len() - 1
    }

    /// A client that was refused asks once more.
    pub fn connects_again(&mut self, conn: Conn) {
        self.conns[conn].connects += 1;
    }

    /// A client begins a conversation to watch.
    pub fn opened_to_watch(&mut self, player: PlayerId, room: RoomId, from: WatchFrom) -> Conn {
        let conn = self.opened(player, room);
        self.conns[conn].watch = Some(from);
        conn
    }

    /// Frames that spectators saw.
    pub fn watched(&self) -> u64 {
        self.watched
    }

    /// Whether all who ever wanted to watch a match could do so at once.
    pub fn has_room_for_all(&self, of: Match) -> bool {
        let known = &self.matches[of];
        let watch = |own: &&ConnRecord| own.watch.is_some() && own.room == known.room;
        let mut players: Vec<_> = self.conns.iter().filter(watch).collect();
        players.sort_unstable_by_key(|own| own.player);
        players.dedup_by_key(|own| own.player);
        u64::from(known.watchers_max) >= players.len() as u64
    }

    /// Frames that are held back from a conversation while its match is played.
    fn held_back(&self, conn: Conn, of: Match) -> FrameId {
        let watches = self.conns[conn].watch.is_some();
        let delay = self.matches[of].watch_delay;
        if watches { delay } else { 0 }
    }

    /// A conversation goes on with what the same client has from the one before.
    pub fn continues(&mut self, conn: Conn, before: Conn) {
        let before = &self.conns[before];
        let life = before.life.unwrap_or(self.beyond.life());
        let own = before.plays.zip(before.next_frame);
        let own = own.map(|(of, next)| (of, next, life));
        self.conns[conn].held = own.or(before.held);
    }

    /// Frames that clients did not need again because they held them.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// A conversation was given its seat.
    pub fn seated(&mut self, conn: Conn) {
        self.turns += 1;
        let own = &mut self.conns[conn];
        own.turn = self.turns;
        let life = self.beyond.life();
        own.is_mixed |= own.life.replace(life).is_some_and(|before| before != life);
        // KCP holds the answers of the second for what the first has said.
        own.is_mixed |= own.was_refused && own.opened_in != life;
    }

    /// The match that a conversation has joined.
    pub fn plays(&self, conn: Conn) -> Option<Match> {
        self.conns[conn].plays
    }

    /// How many inputs a conversation has sent.
    pub fn sent(&self, conn: Conn) -> u32 {
        self.conns[conn].sent_count()
    }

    /// When the oldest input of a conversation that is not in the log was sent.
    pub fn input_waits_since(&self, conn: Conn) -> Option<Time> {
        let own = &self.conns[conn];
        let index = usize::try_from(own.logged).expect("an index");
        own.sent.get(index).map(|sent| sent.at)
    }

    /// When the oldest frame that a conversation has yet to get was sealed.
    pub fn frame_owed_since(&self, conn: Conn, now: Time) -> Option<Time> {
        let own = &self.conns[conn];
        let of = own.plays.or_else(|| self.newest(own.room))?;
        let next = own.next_frame.unwrap_or(0) + self.held_back(conn, of);
        let known = &self.matches[of];
        (self.is_playing(of) && next < known.due(now)).then(|| known.sealed_at(next, now))
    }

    /// The next input of a conversation, with so many bytes of data, which the client has taken.
    pub fn pressed(&mut self, conn: Conn, now: Time, data_bytes: usize) {
        let sent = Sent {
            at: now,
            data_bytes,
        };
        self.conns[conn].sent.push(sent);
    }

    /// The next input of a conversation.
    pub fn next_command(&self, conn: Conn) -> Command {
        command_of(conn, self.sent(conn))
    }

    /// Whether a conversation has been told of the start of its match.
    pub fn has_started(&self, conn: Conn) -> bool {
        self.conns[conn].next_frame.is_some()
    }

    /// A conversation has asked for frames.
    pub fn asked(
        &mut self,
        conn: Conn,
        now: Time,
        request: u32,
        from: FrameId,
        end: Option<FrameId>,
    ) {
        let own = &mut self.conns[conn];
        own.asked = Some(Asked {
            request,
            from,
            end,
            existed: own.next_frame.unwrap_or(0),
            since: now,
            last: None,
        });
    }

    /// Frames that clients got because they had asked for them.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    /// Bytes of data beside the inputs in all logs.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// A client says what has happened.
    ///
    /// # Errors
    /// If it cannot have.
    pub fn heard(&mut self, conn: Conn, now: Time, event: &ClientEvent) -> Result<(), Violation> {
        match event {
            ClientEvent::Fault(fault) => Err(Violation::Fault {
                conn,
                fault: *fault,
            }),
            ClientEvent::Refused(code) => {
                self.count_refusal(conn)?;
                self.refused(conn, *code)
            }
            ClientEvent::Redirected { .. } => self.count_refusal(conn),
            ClientEvent::Joined { seat, others, seed } => self.joined(conn, *seat, others, *seed),
            ClientEvent::Started {
                unix_seconds, next, ..
            } => self.told_start(conn, *unix_seconds, *next),
            ClientEvent::Frame(frame) => self.delivered(conn, frame),
            ClientEvent::Fetched { covers, frames } => self.got(conn, now, *covers, frames),
            ClientEvent::Closed => self.closed(conn),
            ClientEvent::ResultAcknowledged => {
                self.result_acked(conn);
                Ok(())
            }
            ClientEvent::Connected
            | ClientEvent::Progress { .. }
            | ClientEvent::Ready
            | ClientEvent::Echo(_)
            | ClientEvent::HeartbeatAnswered
            | ClientEvent::Reset
            | ClientEvent::Replaced => Ok(()),
        }
    }

    fn count_refusal(&mut self, conn: Conn) -> Result<(), Violation> {
        let own = &mut self.conns[conn];
        own.was_refused = true;
        own.refusals += 1;
        let twice = own.refusals > own.connects;
        (!twice)
            .then_some(())
            .ok_or(Violation::RefusedTwice { conn })
    }

    fn refused(&self, conn: Conn, code: ConnectCode) -> Result<(), Violation> {
        let ConnRecord {
            player,
            room,
            watch,
            ..
        } = &self.conns[conn];
        let mut matches = self.matches.iter().filter(|known| known.room == *room);
        let possible = match code {
            ConnectCode::NoRoom => true,
            ConnectCode::RoomState => {
                matches.any(|known| known.over_since.is_some() || known.lives.was_ever_over())
            }
            ConnectCode::NoPlayer => {
                watch.is_none() && matches.any(|known| !known.members.contains(player))
            }
            ConnectCode::NoWatch => watch.is_some() && self.may_be_crowded(*room),
            ConnectCode::Token | ConnectCode::Ok => false,
        };
        possible
            .then_some(())
            .ok_or(Violation::Refused { conn, code })
    }

    fn may_be_crowded(&self, room: RoomId) -> bool {
        let mut matches = (0..self.matches.len()).filter(|of| self.matches[*of].room == room);
        matches.any(|of| !self.has_room_for_all(of))
    }

    fn joined(
        &mut self,
        conn: Conn,
        seat: i32,
        others: &[(PlayerId, Percent)],
        seed: i32,
    ) -> Result<(), Violation> {
        let ConnRecord {
            player,
            room,
            watch,
            ..
        } = self.conns[conn];
        // Of two that were created in one turn nobody has joined the first.
        let of = self
            .matches
            .iter()
            .rposition(|known| known.room == room && known.seed == seed);
        let right = of.filter(|of| {
            let members = &self.matches[*of].members;
            if watch.is_some() {
                return seat == 0 && members.iter().eq(others.iter().map(|(id, _)| id));
            }
            let index = usize::try_from(seat - 1).unwrap_or(usize::MAX);
            let rest = members.iter().filter(|member| **member != player);
            members.get(index) == Some(&player) && rest.eq(others.iter().map(|(id, _)| id))
        });
        let others = || others.to_vec();
        if right.is_none() {
            let others = others();
            return Err(Violation::Joined { conn, seat, others });
        }
        self.conns[conn].plays = of;
        Ok(())
    }

    fn told_start(&mut self, conn: Conn, got: i64, next: FrameId) -> Result<(), Violation> {
        let life = self.conns[conn].life.unwrap_or(self.beyond.life());
        let own = &self.conns[conn];
        let expected = own.plays.and_then(|of| {
            let known = &self.matches[of];
            known.lives.started_in(life, known.started_unix)
        });
        if expected != Some(got) {
            return Err(Violation::Stamp {
                conn,
                got,
                expected,
            });
        }
        let held = own
            .held
            .filter(|(of, held, _)| own.plays == Some(*of) && *held == next);
        let resumes = held.is_some();
        let anywhere = own.watch == Some(WatchFrom::Newest);
        // From 0, or behind what it holds of the same match.
        if next > 0 && !anywhere {
            let Some((of, _, held_of)) = held else {
                return Err(Violation::Resumed { conn, next });
            };
            self.must_be_one_history(conn, of, next, (held_of, life))?;
        }
        let own = &mut self.conns[conn];
        own.next_frame = Some(next);
        self.resumed += if resumes { u64::from(next) } else { 0 };
        // A frame more than there may be would be shown already.
        next.checked_sub(1)
            .map_or(Ok(()), |last| self.must_be_shown(conn, last))
    }

    /// Whether a frame may have come to a conversation: from a spectator some are held back
    /// while the match is played.
    fn must_be_shown(&self, conn: Conn, frame: FrameId) -> Result<(), Violation> {
        if !self.is_of_this_life(conn) {
            // How far the match was then is not kept.
            return Ok(());
        }
        let of = self.conns[conn].plays.expect("it was told of a start");
        let known = &self.matches[of];
        let shown = frame + self.held_back(conn, of) < known.head();
        if shown || known.over_since.is_some() {
            return Ok(());
        }
        Err(Violation::ShownEarly { conn, frame })
    }

    fn delivered(&mut self, conn: Conn, frame: &Frame) -> Result<(), Violation> {
        let own = &mut self.conns[conn];
        let got = frame.id;
        let (Some(expected), Some(of)) = (own.next_frame, own.plays) else {
            return Err(Violation::FrameBeforeStart { conn, frame: got });
        };
        if got != expected {
            return Err(Violation::FrameOrder {
                conn,
                expected,
                got,
            });
        }
        own.next_frame = Some(got + 1);
        let mut encoded = std::mem::take(&mut self.scratch);
        encode_into(&mut encoded, frame);
        let is_right = self.frame_as_sent(conn, of, got)? == Some(&encoded[..]);
        self.scratch = encoded;
        if !is_right {
            return Err(Violation::FrameDiffers { conn, frame: got });
        }
        self.watched += u64::from(self.conns[conn].watch.is_some());
        self.must_be_shown(conn, got)
    }

    /// What was asked for: it must be what the log holds of it, all of it and nothing else.
    fn got(
        &mut self,
        conn: Conn,
        now: Time,
        covers: Fetched,
        frames: &[Frame],
    ) -> Result<(), Violation> {
        let (Some(asked), Some(of)) = (self.conns[conn].asked, self.conns[conn].plays) else {
            let frame = covers.from;
            return Err(Violation::FrameBeforeStart { conn, frame });
        };
        let Asked { from, end, .. } = asked;
        let wrong = |what| Violation::Fetched {
            conn,
            from,
            end,
            covers,
            what,
        };
        // A game that reads late may find an answer to a request that it has replaced since.
        let is_late = covers.request < asked.request;
        if let Some(what) = asked.fault_of(covers).filter(|_| !is_late) {
            return Err(wrong(what));
        }
        if !is_late {
            self.conns[conn].asked = Some(Asked {
                since: now,
                last: Some(covers),
                ..asked
            });
        }
        if !self.is_of_this_life(conn) {
            return self.got_before(conn, of, frames);
        }
        let (mut bytes, mut encoded) = (Vec::new(), Vec::new());
        for frame in frames {
            encode_into(&mut encoded, frame);
            bytes.extend_from_slice(&encoded);
        }
        let known = &self.matches[of];
        if covers.head > known.head() || covers.end > covers.head {
            return Err(wrong("it is ahead of the match"));
        }
        if known.bytes_of(covers.from, covers.until) != Some(&bytes[..]) {
            return Err(wrong("its frames differ from the room's"));
        }
        self.matches[of].lives.saw(covers.until);
        self.fetched += u64::from(covers.until - covers.from);
        Ok(())
    }

    /// What a server sent that is no more, on request.
    fn got_before(&mut self, conn: Conn, of: Match, frames: &[Frame]) -> Result<(), Violation> {
        let mut encoded = Vec::new();
        for frame in frames {
            encode_into(&mut encoded, frame);
            if self.frame_as_sent(conn, of, frame.id)? != Some(&encoded[..]) {
                let frame = frame.id;
                return Err(Violation::FrameDiffers { conn, frame });
            }
        }
        Ok(())
    }

    fn closed(&mut self, conn: Conn) -> Result<(), Violation> {
        let life = self.conns[conn].life.unwrap_or(self.beyond.life());
        let own = &self.conns[conn];
        let crowded = own.watch.is_some() && self.may_be_crowded(own.room);
        let own = &mut self.conns[conn];
        let room = own.room;
        let is_over = |of: &Match| {
            let known = &self.matches[*of];
            known.over_since.is_some() || known.lives.was_over_in(life)
        };
        let played = own.plays.is_some();
        let ended_before = |of: &Match| self.matches[*of].room == room && is_over(of);
        let of = match own.plays {
            Some(of) => Some(of).filter(is_over),
            // Its room ended between the answer to its Connect and its next message.
            None => (0..self.matches.len()).rev().find(ended_before),
        };
        own.plays = of;
        own.closed = true;
        // A server that stops says so to whoever has found no room, too, and others may be
        // faster to take a place from which to watch.
        let found = of.is_some() || ((self.stopping || crowded) && !played);
        if !found {
            return Err(Violation::ClosedEarly { conn });
        }
        self.must_have_seen_all(conn)
    }

    /// A spectator who has come as far as the end has been shown the whole match.
    fn must_have_seen_all(&self, conn: Conn) -> Result<(), Violation> {
        let own = &self.conns[conn];
        let watched = own
            .plays
            .filter(|_| own.watch.is_some() && self.is_of_this_life(conn));
        let (Some(of), Some(got)) = (watched, own.next_frame) else {
            return Ok(());
        };
        let frames = self.matches[of].head();
        if got == frames {
            return Ok(());
        }
        Err(Violation::NotShown { conn, got, frames })
    }
}

// --- Questions at certain moments ---------------------------------------------------------

impl Oracle {
    /// Some time after the last fault: is this client at the head, give or take `lag`?
    ///
    /// # Errors
    /// If it is not.
    pub fn must_be_at_head(
        &self,
        conn: Conn,
        now: Time,
        lag: Duration,
        state: String,
    ) -> Result<(), Violation> {
        let own = &self.conns[conn];
        let newest = self
            .newest(own.room)
            .expect("somebody asks about its match");
        let due = self.matches[newest].due(now - lag);
        let needed = due.saturating_sub(self.held_back(conn, newest));
        let got = own.next_frame.unwrap_or(0);
        if own.plays != Some(newest) || got < needed || own.next_frame.is_none() {
            return Err(Violation::Behind {
                conn,
                now,
                got,
                needed,
                state,
            });
        }
        Ok(())
    }

    /// Some time after the last fault: has a request from before been answered since, if it was not
    /// before?
    ///
    /// # Errors
    /// If it has not.
    pub fn must_be_answered(
        &self,
        conn: Conn,
        healed_at: Time,
        now: Time,
    ) -> Result<(), Violation> {
        match self.conns[conn].asked {
            Some(asked) if !asked.is_done() && asked.since < healed_at => {
                let since = asked.since;
                Err(Violation::NotFetched { conn, since, now })
            }
            _ => Ok(()),
        }
    }

    /// Some time after the last fault: is everything that this client had sent in the log?
    ///
    /// # Errors
    /// If it is not.
    pub fn must_have_inputs(
        &self,
        conn: Conn,
        sent: u32,
        counters: &Counters,
    ) -> Result<(), Violation> {
        let dropped = counters
            .drops(Drop::InputsWaiting)
            .saturating_sub(self.gaps);
        let logged = self.conns[conn].logged;
        if u64::from(logged) + dropped < u64::from(sent) {
            return Err(Violation::InputsMissing { conn, sent, logged });
        }
        Ok(())
    }

    /// A while after a match's end: has this client been told?
    ///
    /// # Errors
    /// If it has not.
    pub fn must_be_closed(&self, conn: Conn, now: Time) -> Result<(), Violation> {
        let own = &self.conns[conn];
        let since = own.plays.and_then(|of| self.matches[of].over_since);
        match since {
            Some(since) if !own.closed => Err(Violation::NoClose { conn, since, now }),
            _ => Ok(()),
        }
    }

    /// Holds what is missing in the logs against what the server says it dropped.
    ///
    /// # Errors
    /// If more is missing.
    pub fn must_account_for_gaps(&self, counters: &Counters) -> Result<(), Violation> {
        let dropped = counters.drops(Drop::InputsWaiting);
        let gaps = self.gaps;
        if gaps > dropped {
            return Err(Violation::InputsLost { gaps, dropped });
        }
        Ok(())
    }

    /// Inputs that are missing in the logs.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// When all limits have passed: is everything gone, and was it counted right?
    ///
    /// # Errors
    /// If not.
    pub fn must_be_empty(&self, counters: &Counters, ever_late: bool) -> Result<(), Violation> {
        let Counters {
            sessions,
            rooms,
            timers,
            ..
        } = *counters;
        if sessions + rooms + timers > 0 {
            return Err(Violation::LeftOver {
                sessions,
                rooms,
                timers,
            });
        }
        let frames = self.matches.iter().map(|known| u64::from(known.head()));
        for (what, counted, held) in [
            (
                "frames",
                counters.frames,
                frames.sum::<u64>() + self.beyond.undone,
            ),
            ("inputs", counters.inputs, self.inputs),
        ] {
            if counted != held {
                return Err(Violation::Miscounted {
                    what,
                    counted,
                    held,
                });
            }
        }
        let us = counters.frame_lateness_us.max();
        if !ever_late && us > 0 {
            return Err(Violation::Lateness { us });
        }
        self.must_account_for_gaps(counters)
    }
}
