//! What of a match must outlive its server.
//!
//! A world counts the lives of its server. At the end of each turn of which everything is in the
//! journal the oracle takes down how each match stands: the [`Promise`] for whatever life follows
//! if the process is killed, and, once the batch is synced, if the power goes. After a restart it
//! holds what was restored against that, and goes on from there. What was lost is kept in a
//! [`Tail`] for those clients that were there: what they were sent is still on its way.

use std::collections::HashMap;
use std::ops::Range;

use super::{Conn, Match, MatchRecord, Oracle, Violation};
use crate::engine::id::{FrameId, MatchId};
use crate::engine::time::Time;
use crate::engine::view::{OverReason, RoomView};
use crate::journal::restore::{FinishedMatch, Restored, RestoredRoom};
use crate::limits::OVER_LINGER;

/// How a match stood when all of it was in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Promise {
    /// Seats were owed the frames before this one.
    told: FrameId,
    started_unix: Option<i64>,
    over: bool,
    results: Vec<Option<u64>>,
}

/// What the match was, from a frame on, in lives up to this one.
#[derive(Debug)]
struct Tail {
    life: u32,
    from: FrameId,
    /// As the log held them.
    frames: Vec<Vec<u8>>,
    started_unix: Option<i64>,
    over: bool,
    /// Somebody may have been sent frames of it.
    may_be_known: bool,
}

/// What is known of a match that may outlive its server.
#[derive(Debug, Default)]
pub(super) struct Lives {
    created_unix: i64,
    broadcast_every: u32,
    /// Seats are owed the frames before this one, as the oracle computes it.
    told: FrameId,
    /// The frames before this one were seen by clients of this life.
    seen: FrameId,
    /// When it was started first.
    pub(super) plays_from: Option<Time>,
    reason: Option<OverReason>,
    results: Vec<Option<u64>>,
    /// Seats whose result a client knows to be taken.
    acked: Vec<bool>,
    written: Option<Promise>,
    synced: Option<Promise>,
    /// Its end may have gone down with a sync that failed.
    is_unsure: bool,
    /// It is to be written once more.
    is_written_anew: bool,
    /// A start has cut something of it, and has written nothing of it since: the next start finds
    /// the same damage.
    is_cut: bool,
    tails: Vec<Tail>,
    /// It was not restored: nothing of it may come again.
    is_gone: bool,
}

impl Lives {
    pub(super) fn of(view: &RoomView) -> Lives {
        Lives {
            created_unix: view.created_unix,
            broadcast_every: view.broadcast_every,
            results: vec![None; view.seats.len()],
            acked: vec![false; view.seats.len()],
            ..Lives::default()
        }
    }

    /// What a conversation of this life was sent of the start.
    pub(super) fn started_in(&self, life: u32, now: Option<i64>) -> Option<i64> {
        let tail = self.tails.iter().find(|tail| tail.life >= life);
        tail.map_or(now, |tail| tail.started_unix)
    }

    /// Whether the match had ended in this life, and has not now.
    pub(super) fn was_over_in(&self, life: u32) -> bool {
        self.tails.iter().any(|tail| tail.life >= life && tail.over)
    }

    pub(super) fn was_ever_over(&self) -> bool {
        self.was_over_in(0)
    }

    /// Clients of this life have seen the frames before this one.
    pub(super) fn saw(&mut self, frame: FrameId) {
        self.seen = self.seen.max(frame);
    }

    /// The tail that has this frame in the eyes of a conversation of this life.
    fn tail_of(&self, life: u32, frame: FrameId) -> Option<&Tail> {
        let later = self.tails.iter().filter(|tail| tail.life >= life);
        later.into_iter().find(|tail| frame >= tail.from)
    }

    /// The first frame that was lost at the end of one of these lives.
    fn first_lost(&self, lives: Range<u32>) -> Option<FrameId> {
        let ended = self.tails.iter().filter(|tail| lives.contains(&tail.life));
        ended.map(|tail| tail.from).min()
    }
}

/// How the last life of the server has ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The power went: only what was synced is there for sure.
    pub power: bool,
    /// Something was sent that was not in the journal, or not synced if the power went: it may be
    /// lost.
    pub may_lose: bool,
    /// No mark tells how far the journal was synced: a match may be lost as a whole.
    pub unmarked: bool,
    /// What a start finds is on the disk for sure from then on.
    pub is_synced: bool,
    /// Some of the journal was not read, or deleted: matches that had ended may be missing.
    pub partial: bool,
}

/// What the oracle knows beyond one life of the server.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    /// The present life.
    life: u32,
    /// Matches of which something may still be written.
    active: Vec<Match>,
    /// What will be synced with a batch.
    pending: Vec<(u64, Match, Promise)>,
    /// Frames that were sealed and are no more.
    pub(super) undone: u64,
    /// Restores that lost frames which somebody may have been sent.
    forks: u64,
}

impl Beyond {
    pub(super) fn life(&self) -> u32 {
        self.life
    }

    pub(super) fn begin(&mut self, of: Match) {
        self.active.push(of);
    }
}

impl MatchRecord {
    fn promise(&self) -> Promise {
        Promise {
            told: self.lives.told,
            started_unix: self.started_unix,
            over: self.over_since.is_some(),
            results: self.lives.results.clone(),
        }
    }

    /// Frames from `before` on have been sealed: which of them are seats owed?
    pub(super) fn count_told(&mut self, before: FrameId) {
        for frame in before..self.head() {
            let is_empty = self.frame_bytes(frame).is_none_or(<[u8]>::is_empty);
            if !is_empty || frame + 1 - self.lives.told >= self.lives.broadcast_every {
                self.lives.told = frame + 1;
            }
        }
    }

    pub(super) fn told_end(&mut self, reason: OverReason) {
        self.lives.told = self.head();
        self.lives.reason = Some(reason);
    }

    fn broken(&self, what: impl Into<String>) -> Violation {
        let (match_id, what) = (self.match_id, what.into());
        Violation::Restored { match_id, what }
    }

    /// Bytes of the frames before this one.
    fn bytes_before(&self, frame: FrameId) -> &[u8] {
        let before = usize::try_from(frame).expect("an index").checked_sub(1);
        &self.bytes[..before.map_or(0, |before| self.ends[before])]
    }
}

// --- While the server lives ---------------------------------------------------------------

impl Oracle {
    /// Everything that has happened is in the journal, in batches up to this one.
    pub fn written(&mut self, now: Time, batch: u64) {
        let Oracle {
            matches, beyond, ..
        } = self;
        beyond.active.retain(|of| {
            let known = &mut matches[*of];
            known.lives.is_cut = false;
            let promise = known.promise();
            let is_again = std::mem::take(&mut known.lives.is_written_anew);
            if is_again || known.lives.written.as_ref() != Some(&promise) {
                beyond.pending.push((batch, *of, promise.clone()));
                known.lives.written = Some(promise);
            }
            // Late results may follow an end.
            let lingers = |over: Time| now < over + OVER_LINGER;
            !known.lives.is_gone && known.over_since.is_none_or(lingers)
        });
    }

    /// Batches up to this one are on the disk for sure.
    pub fn synced(&mut self, batch: u64) {
        let Oracle {
            matches, beyond, ..
        } = self;
        beyond.pending.retain(|(of_batch, of, promise)| {
            let is_synced = *of_batch <= batch;
            if is_synced && !matches[*of].lives.is_unsure {
                matches[*of].lives.synced = Some(promise.clone());
            }
            !is_synced
        });
    }

    /// A sync has failed: what was written since the last one may be lost, of matches that have
    /// ended for good.
    pub fn sync_failed(&mut self) {
        for (_, of, promise) in self.beyond.pending.drain(..) {
            let lives = &mut self.matches[of].lives;
            lives.is_unsure |= promise.over;
            lives.is_written_anew = true;
            if promise.over {
                // A start reads from where the matches in memory begin. What was synced of this one
                // may stand before, and its end was in what is lost.
                lives.synced = None;
            }
        }
        // Each match in memory is written once more from its creation on, and until that is done and
        // synced a crash may leave a part of it, which replaces what was there before.
        for of in &self.beyond.active {
            let lives = &mut self.matches[*of].lives;
            lives.is_written_anew = true;
            lives.written = None;
            lives.synced = None;
        }
    }

    /// Matches that have just ended, of which late results may come.
    pub fn lingering(&self) -> Vec<MatchId> {
        let active = self.beyond.active.iter().map(|of| &self.matches[*of]);
        let over = active.filter(|known| known.over_since.is_some());
        over.map(|known| known.match_id).collect()
    }

    /// The results of a match.
    pub fn note_results(&mut self, view: &RoomView) {
        if let Some(of) = self.find(view.match_id) {
            let results = view.seats.iter().map(|seat| seat.result);
            self.matches[of].lives.results = results.collect();
        }
    }

    /// A client knows that its result was taken.
    pub(super) fn result_acked(&mut self, conn: Conn) {
        let own = &self.conns[conn];
        let (Some(of), true) = (own.plays, own.life == Some(self.beyond.life)) else {
            return;
        };
        let known = &mut self.matches[of];
        let seat = known.members.iter().position(|id| *id == own.player);
        known.lives.acked[seat.expect("it has joined")] = true;
    }

    /// Whether a conversation is with the server that lives, as far as is known.
    pub(super) fn is_of_this_life(&self, conn: Conn) -> bool {
        let life = self.conns[conn].life;
        life.is_none_or(|life| life == self.beyond.life)
    }

    /// A frame as it was when a conversation was sent it.
    ///
    /// # Errors
    /// If it is lost, and was not to be.
    pub(super) fn frame_as_sent(
        &mut self,
        conn: Conn,
        of: Match,
        frame: FrameId,
    ) -> Result<Option<&[u8]>, Violation> {
        let life = self.conns[conn].life.unwrap_or(self.beyond.life);
        if life == self.beyond.life {
            self.matches[of].lives.saw(frame + 1);
        }
        let known = &self.matches[of];
        let Some(tail) = known.lives.tail_of(life, frame) else {
            return Ok(known.frame_bytes(frame));
        };
        if !tail.may_be_known {
            return Err(Violation::FrameLost { of, frame });
        }
        let index = usize::try_from(frame - tail.from).expect("an index");
        Ok(tail.frames.get(index).map(Vec::as_slice))
    }

    /// A conversation goes on with frames of its client's from an earlier life, up to `next`.
    ///
    /// # Errors
    /// If some of them are others now.
    pub(super) fn must_be_one_history(
        &self,
        conn: Conn,
        of: Match,
        next: FrameId,
        (held_of, life): (u32, u32),
    ) -> Result<(), Violation> {
        let lost = self.matches[of].lives.first_lost(held_of..life);
        match lost.filter(|lost| next > *lost) {
            Some(lost) => Err(Violation::TwoHistories { conn, next, lost }),
            None => Ok(()),
        }
    }

    /// Restores after which frames were others than somebody may have been sent.
    pub fn forks(&self) -> u64 {
        self.beyond.forks
    }

    /// How many conversations have had a seat of two servers.
    pub fn mixed(&self) -> u64 {
        self.conns.iter().filter(|conn| conn.is_mixed).count() as u64
    }

    /// Whether a conversation has had a seat of two servers: KCP cannot tell one from the other.
    pub fn is_mixed(&self, conn: Conn) -> bool {
        self.conns[conn].is_mixed
    }
}

// --- Restarts -----------------------------------------------------------------------------

impl Oracle {
    /// A server has read the journal after the last one ended.
    ///
    /// # Errors
    /// If it is not what was promised.
    pub fn read_after(&mut self, end: End, restored: &Restored) -> Result<(), Violation> {
        self.beyond.life += 1;
        self.beyond.pending.clear();
        let mut rooms: HashMap<MatchId, &RestoredRoom> = HashMap::new();
        rooms.extend(restored.rooms.iter().map(|room| (room.match_id, room)));
        let mut finished: HashMap<MatchId, &FinishedMatch> = HashMap::new();
        finished.extend(restored.finished.iter().map(|of| (of.match_id, of)));
        let strange = rooms.keys().chain(finished.keys());
        for match_id in strange {
            self.by_id
                .get(match_id)
                .ok_or_else(|| Violation::Restored {
                    match_id: *match_id,
                    what: "nobody has created it".into(),
                })?;
        }
        for known in &mut self.matches {
            let (synced, written) = (known.lives.synced.take(), known.lives.written.take());
            let promise = if end.power { synced } else { written };
            let lost = restored.lost.iter().find(|l| l.match_id == known.match_id);
            match (rooms.get(&known.match_id), finished.get(&known.match_id)) {
                (Some(room), _) => known.judge_room(room, promise.as_ref(), end)?,
                (None, Some(of)) => known.judge_finished(of, promise, end)?,
                (None, None) => {
                    let may_be_lost = end.power && end.unmarked;
                    if let Some(lost) = lost.filter(|_| !may_be_lost && !known.lives.is_gone) {
                        return Err(known.broken(format!("it is lost: {}", lost.lack)));
                    }
                    let has_ended = known.over_since.is_some();
                    let lives = &mut known.lives;
                    if has_ended && end.partial {
                        // A start passes over what was written of it, also if the word of its
                        // end went down with a sync that failed.
                        let promise = promise.filter(|promise| promise.over && !may_be_lost);
                        lives.written.clone_from(&promise);
                        lives.synced = promise;
                    } else if promise.is_some() && !may_be_lost && !lives.is_gone {
                        return Err(known.broken("nothing is left of it"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A room of the journal goes on.
    ///
    /// # Errors
    /// If it must not.
    pub fn restored(&mut self, end: End, room: &RestoredRoom) -> Result<(), Violation> {
        let life = self.beyond.life - 1;
        let of = self.by_id[&room.match_id];
        let known = &mut self.matches[of];
        if known.lives.is_gone {
            return Err(known.broken("it comes back though it had been given up"));
        }
        let head = known.head();
        let frames = (room.head..head).map(|frame| known.frame_bytes(frame));
        let may_be_known = end.may_lose || known.lives.is_unsure;
        self.beyond.forks += u64::from(may_be_known && room.head < known.lives.told);
        let tail = Tail {
            life,
            from: room.head,
            frames: frames.map(|f| f.unwrap_or_default().to_vec()).collect(),
            started_unix: known.started_unix,
            over: known.over_since.is_some(),
            may_be_known,
        };
        self.beyond.undone += u64::from(head - room.head);
        let index = usize::try_from(room.head).expect("an index");
        let kept = known.bytes_before(room.head).len();
        known.bytes.truncate(kept);
        known.ends.truncate(index);
        known.clock = None;
        known.over_since = None;
        known.started_unix = room.started_unix;
        let promise = Promise {
            told: room.head,
            started_unix: room.started_unix,
            over: false,
            results: room.results.clone(),
        };
        let lives = &mut known.lives;
        lives.tails.push(tail);
        lives.told = room.head;
        lives.seen = lives.seen.min(room.head);
        lives.plays_from = lives.plays_from.filter(|_| room.started_unix.is_some());
        lives.reason = None;
        lives.results.clone_from(&room.results);
        for (acked, result) in lives.acked.iter_mut().zip(&room.results) {
            *acked &= result.is_some();
        }
        lives.is_unsure = false;
        lives.is_cut = room.cut.is_some();
        lives.written = Some(promise.clone());
        lives.synced = Some(promise).filter(|_| end.is_synced);
        self.newest.insert(known.room, of);
        if !self.beyond.active.contains(&of) {
            self.beyond.active.push(of);
        }
        Ok(())
    }

    /// All rooms that go on are restored: the other matches are gone. Returns those that were
    /// running.
    pub fn begin_life(&mut self, now: Time, restored: &[MatchId]) -> Vec<Match> {
        let mut gone = Vec::new();
        for (of, known) in self.matches.iter_mut().enumerate() {
            let is_there = known.lives.written.is_some() || restored.contains(&known.match_id);
            if is_there || known.lives.is_gone {
                continue;
            }
            known.lives.is_gone = true;
            if known.over_since.is_none() {
                known.over_since = Some(now);
                gone.push(of);
            }
        }
        gone
    }

    /// The room of a match.
    pub fn room_of(&self, of: Match) -> crate::engine::id::RoomId {
        self.matches[of].room
    }

    /// At the end of a world: every match is in the journal as it ended.
    ///
    /// # Errors
    /// If one is not.
    pub fn must_be_recorded(&self, restored: &Restored) -> Result<(), Violation> {
        for known in &self.matches {
            let lives = &known.lives;
            let Some(promise) = lives.written.as_ref().filter(|_| !lives.is_gone) else {
                continue;
            };
            if !promise.over {
                return Err(known.broken("its end is not in the journal"));
            }
            let of = |finished: &&FinishedMatch| finished.match_id == known.match_id;
            match restored.finished.iter().find(of) {
                Some(finished) => known.must_be_whole(finished, promise)?,
                None => return Err(known.broken("it has no recording")),
            }
        }
        Ok(())
    }
}

impl MatchRecord {
    /// A match that the journal has as one that goes on.
    fn judge_room(
        &self,
        room: &RestoredRoom,
        promise: Option<&Promise>,
        end: End,
    ) -> Result<(), Violation> {
        let created = &room.created;
        let is_same = created.room == self.room
            && created.members == self.members
            && (created.hz, created.max_frames) == (self.hz, self.max_frames)
            && created.seed == self.seed
            && created.broadcast_every == self.lives.broadcast_every
            && created.created_unix_us == self.lives.created_unix * 1_000_000;
        if !is_same {
            return Err(self.broken("it was made of something else"));
        }
        if self.lives.is_gone {
            // Another match has its room: whether it comes back all the same is seen then.
            return Ok(());
        }
        if promise.is_some_and(|promise| promise.over) {
            return Err(self.broken("it goes on though it was over"));
        }
        let (told, head) = (promise.map_or(0, |promise| promise.told), self.head());
        if room.head < told || room.head > head {
            let what = format!("{} frames are left of {told} to {head}", room.head);
            return Err(self.broken(what));
        }
        if room.frames != self.bytes_before(room.head) {
            return Err(self.broken("its frames are others"));
        }
        let started = promise.and_then(|promise| promise.started_unix);
        let is_started = room.started_unix.is_some();
        if is_started && room.started_unix != self.started_unix || !is_started && started.is_some()
        {
            return Err(self.broken("its start is another"));
        }
        if room.cut.is_some() && !end.power && !end.may_lose && !self.lives.is_cut {
            return Err(self.broken("something was cut though no power cut was there"));
        }
        if !end.may_lose && !self.lives.is_unsure {
            if room.head < self.lives.seen {
                let (match_id, seen, head) = (self.match_id, self.lives.seen, room.head);
                return Err(Violation::Forgotten {
                    match_id,
                    seen,
                    head,
                });
            }
            let kept = |(acked, result): (&bool, &Option<u64>)| !acked || result.is_some();
            if !self.lives.acked.iter().zip(&room.results).all(kept) {
                return Err(self.broken("a result is lost that was acknowledged"));
            }
        }
        Ok(())
    }

    /// A match that the journal has as one that has ended.
    fn judge_finished(
        &mut self,
        of: &FinishedMatch,
        promise: Option<Promise>,
        end: End,
    ) -> Result<(), Violation> {
        if self.over_since.is_none() && !self.lives.is_gone {
            return Err(self.broken("it is over in the journal, and was not"));
        }
        if self.lives.is_gone {
            return Ok(());
        }
        let is_promised = promise.as_ref().is_some_and(|promise| promise.over);
        if of.lack.is_some() {
            if is_promised && !(end.power && end.unmarked) {
                return Err(self.broken("its recording has a hole"));
            }
            // From now on nothing is asked of it.
            return Ok(());
        }
        let promise = promise.unwrap_or_default();
        self.must_be_whole(of, &promise)?;
        self.lives.results.clone_from(&of.results);
        let promise = Promise {
            results: of.results.clone(),
            ..self.promise()
        };
        self.lives.written = Some(promise.clone());
        self.lives.synced = Some(promise).filter(|_| end.is_synced);
        Ok(())
    }

    /// Holds a recording against the match.
    fn must_be_whole(&self, of: &FinishedMatch, promise: &Promise) -> Result<(), Violation> {
        if of.lack.is_some() {
            return Err(self.broken("its recording has a hole"));
        }
        if of.log != self.bytes || of.frames != self.head() {
            return Err(self.broken("its recording has other frames"));
        }
        if of.started_unix != self.started_unix || Some(of.reason) != self.lives.reason {
            return Err(self.broken("its recording has another start or end"));
        }
        // Later ones may have come.
        let kept = |(promised, result): (&Option<u64>, &Option<u64>)| {
            promised.is_none() || promised == result
        };
        if !promise.results.iter().zip(&of.results).all(kept) {
            return Err(self.broken("its recording has other results"));
        }
        Ok(())
    }
}
