//! The claims of this node: for each room, what we want of its key and what we know of it. Pure:
//! the supervisor carries the work out and says how it went.
//!
//! One piece of work at a time is under way for a room, so that no answer of etcd's is about
//! something that has changed since in an order that we do not know. What may have been done but
//! was not answered counts as [`Have::Perhaps`], and both putting and erasing are right for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use crate::cluster::node::NodeId;
use crate::cluster::{Claim, Claimed, Holder, RequestKey};
use crate::engine::id::{MatchId, RoomId};
use crate::limits::{CLAIM_AWAITED, CLAIMS_KNOWN_MAX};

/// What we want of a room's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// Somebody creates a room; its match is awaited.
    Awaited(Instant),
    /// It is to be ours: the match runs here.
    Running(MatchId),
    /// It is to be gone.
    Gone,
}

/// What we know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Have {
    /// It is not ours.
    Nothing,
    /// It may be ours.
    Perhaps,
    /// It is ours.
    Held,
    /// It is another node's.
    Others(Holder),
}

#[derive(Debug)]
struct Entry {
    want: Want,
    have: Have,
    nonce: u64,
    request: Option<RequestKey>,
    /// Work is under way.
    is_busy: bool,
    /// Who waits for the claim.
    asker: Option<SyncSender<Claimed>>,
    /// Who came after them, waits for what becomes of their claim, and is told this if it is ours.
    also: Vec<(SyncSender<Claimed>, Holder)>,
    /// Who waited has it, and creates the room or releases it.
    is_handed: bool,
}

/// What is to be done with a room's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) room: RoomId,
    pub(super) nonce: u64,
    pub(super) request: Option<RequestKey>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Write our claim, unless it is another node's.
    Put,
    /// Delete it, if it is ours.
    Erase,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// The claim is there, or gone, as wanted.
    Well,
    /// It is another node's.
    Taken(Holder),
    /// Nobody knows.
    Failed,
}

/// Our match runs under a number that another node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contested {
    pub(super) room: RoomId,
    pub(super) match_id: MatchId,
    pub(super) node: NodeId,
}

/// The answer to who wants to create a room.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// At once.
    Answer(Claimed),
    /// It comes to the asker, about the claim with this number.
    Wait(u64),
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Claims {
    rooms: HashMap<RoomId, Entry>,
    /// For which somebody waits.
    urgent: VecDeque<RoomId>,
    /// That may have work.
    todo: BTreeSet<RoomId>,
    /// Whose work failed, and is tried again after a moment.
    later: BTreeSet<RoomId>,
    next_nonce: u64,
}

impl Claims {
    /// None yet. Nonces are counted from `nonce` on, which must be drawn, so that those of an
    /// earlier life with the same instance do not come again.
    pub(super) fn new(nonce: u64) -> Claims {
        Claims {
            rooms: HashMap::new(),
            urgent: VecDeque::new(),
            todo: BTreeSet::new(),
            later: BTreeSet::new(),
            next_nonce: nonce,
        }
    }

    // --- Who creates rooms ----------------------------------------------------------------

    /// A room is about to be created. `own` is what a claim of ours looks like to others.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        room: RoomId,
        own: Holder,
        is_connected: bool,
        asker: SyncSender<Claimed>,
    ) -> Asked {
        let request = own.request.clone();
        let mut fresh = Entry {
            want: Want::Awaited(now),
            have: Have::Nothing,
            nonce: self.draw(),
            request,
            is_busy: false,
            asker: None,
            also: Vec::new(),
            is_handed: false,
        };
        if let Some(old) = self.rooms.get_mut(&room) {
            let ours = |request: &Option<RequestKey>| Holder {
                request: request.clone(),
                ..own
            };
            match (&old.want, &old.have) {
                // The loop knows whether it still runs.
                (Want::Running(_), _) if !is_connected => {
                    return Asked::Answer(Claimed::Unclaimed);
                }
                (Want::Running(_), Have::Others(holder)) => {
                    return Asked::Answer(Claimed::Taken(holder.clone()));
                }
                (Want::Running(_), _) => {
                    return Asked::Answer(Claimed::Taken(ours(&old.request)));
                }
                // Another asker is about to create it.
                (Want::Awaited(_), _) if old.is_handed => {
                    return Asked::Answer(Claimed::Taken(ours(&old.request)));
                }
                // Another asker waits. Whether the number is ours is not known before that one
                // knows: a room that was made at once would have another node's number, perhaps.
                (Want::Awaited(_), _) if old.asker.is_some() => {
                    old.also.push((asker, ours(&old.request)));
                    return Asked::Wait(fresh.nonce);
                }
                // Another asker was told to create it unclaimed. Which of the two does nobody
                // knows, unless they are the same request.
                (Want::Awaited(_), _) if old.request != fresh.request => fresh.request = None,
                (Want::Awaited(_) | Want::Gone, _) => {}
            }
            fresh.is_busy = old.is_busy;
            if matches!(old.have, Have::Held | Have::Perhaps) || old.is_busy {
                fresh.have = Have::Perhaps;
            }
        }
        let nonce = fresh.nonce;
        if !is_connected {
            // Only the name of its request is worth remembering: the loop tells of the match. Who
            // asks for rooms that never come must not fill the memory.
            let is_known = self.rooms.contains_key(&room);
            if is_known || (fresh.request.is_some() && self.rooms.len() < CLAIMS_KNOWN_MAX) {
                self.rooms.insert(room, fresh);
            }
            return Asked::Answer(Claimed::Unclaimed);
        }
        fresh.asker = Some(asker);
        self.rooms.insert(room, fresh);
        self.urgent.push_back(room);
        Asked::Wait(nonce)
    }

    /// The asker waits no longer, and makes its room unclaimed.
    pub(super) fn give_up(&mut self, claim: Claim) {
        if let Some(entry) = self.rooms.get_mut(&claim.room)
            && entry.nonce == claim.nonce
        {
            entry.asker = None;
        }
    }

    /// No match came of a claim.
    pub(super) fn release(&mut self, claim: Claim) {
        if let Some(entry) = self.rooms.get_mut(&claim.room)
            && entry.nonce == claim.nonce
            && matches!(entry.want, Want::Awaited(_))
        {
            entry.want = Want::Gone;
            self.settle(claim.room);
        }
    }

    // --- What the loop says ---------------------------------------------------------------

    /// A match runs.
    pub(super) fn runs(&mut self, room: RoomId, match_id: MatchId) {
        let nonce = self.draw();
        let entry = self.rooms.entry(room).or_insert(Entry {
            want: Want::Running(match_id),
            have: Have::Nothing,
            nonce,
            request: None,
            is_busy: false,
            asker: None,
            also: Vec::new(),
            is_handed: false,
        });
        match entry.want {
            Want::Running(known) if known == match_id => {}
            // What was held for it. That another node has it is said again, of this match.
            Want::Awaited(_) => {
                if let Have::Others(_) = entry.have {
                    entry.have = Have::Perhaps;
                }
            }
            // Nobody claimed this one: what the key says is of the match before.
            Want::Running(_) | Want::Gone => {
                entry.have = Have::Perhaps;
                entry.nonce = nonce;
                entry.request = None;
            }
        }
        entry.want = Want::Running(match_id);
        self.settle(room);
    }

    /// A match is over.
    pub(super) fn over(&mut self, room: RoomId, match_id: MatchId) {
        if let Some(entry) = self.rooms.get_mut(&room)
            && entry.want == Want::Running(match_id)
        {
            entry.want = Want::Gone;
            self.settle(room);
        }
    }

    /// These are all the matches that run.
    pub(super) fn all(&mut self, running: &[(RoomId, MatchId)]) {
        let listed: HashMap<RoomId, MatchId> = running.iter().copied().collect();
        let gone: Vec<(RoomId, MatchId)> = self
            .rooms
            .iter()
            .filter_map(|(room, entry)| match entry.want {
                Want::Running(match_id) if !listed.contains_key(room) => Some((*room, match_id)),
                _ => None,
            })
            .collect();
        for (room, match_id) in gone {
            self.over(room, match_id);
        }
        for (room, match_id) in running {
            self.runs(*room, *match_id);
        }
    }

    // --- What etcd says -------------------------------------------------------------------

    /// There is a connection. With a new lease nothing is left of what was held under the old one.
    pub(super) fn begin(&mut self, is_new_lease: bool) {
        let rooms: Vec<RoomId> = self.rooms.keys().copied().collect();
        for room in rooms {
            if let Some(entry) = self.rooms.get_mut(&room)
                && is_new_lease
                && matches!(entry.have, Have::Held | Have::Perhaps)
            {
                entry.have = Have::Nothing;
            }
            self.settle(room);
        }
    }

    /// The connection is gone, and what was under way with it.
    pub(super) fn end(&mut self) {
        for entry in self.rooms.values_mut() {
            // Who waits is told by its end of the channel.
            entry.asker = None;
            entry.also.clear();
            if std::mem::take(&mut entry.is_busy) && !matches!(entry.have, Have::Others(_)) {
                entry.have = Have::Perhaps;
            }
        }
        self.urgent.clear();
    }

    /// What is to be done next; it counts as under way from now on.
    pub(super) fn next(&mut self) -> Option<Work> {
        while let Some(room) = self.urgent.pop_front().or_else(|| self.todo.pop_first()) {
            let Some(entry) = self.rooms.get_mut(&room) else {
                continue;
            };
            let Some(kind) = entry.work() else { continue };
            if entry.is_busy {
                // Its end puts it back.
                continue;
            }
            entry.is_busy = true;
            return Some(Work {
                room,
                nonce: entry.nonce,
                request: entry.request.clone(),
                kind,
            });
        }
        None
    }

    /// Work has been carried out, with this result. Says so if a match has become contested.
    pub(super) fn done(&mut self, work: &Work, done: Done) -> Option<Contested> {
        let room = work.room;
        let entry = self.rooms.get_mut(&room)?;
        entry.is_busy = false;
        if entry.nonce != work.nonce {
            // Somebody has claimed it since: what is there now is not known.
            entry.have = Have::Perhaps;
            self.settle(room);
            return None;
        }
        let mut contested = None;
        match (work.kind, done) {
            (_, Done::Failed) => {
                entry.asker = None;
                entry.also.clear();
                if !matches!(entry.have, Have::Others(_)) {
                    entry.have = Have::Perhaps;
                }
                self.later.insert(room);
                return None;
            }
            (Kind::Put, Done::Taken(holder)) => {
                if let Want::Running(match_id) = entry.want
                    && entry.have != Have::Others(holder.clone())
                {
                    let node = holder.node.clone();
                    contested = Some(Contested {
                        room,
                        match_id,
                        node,
                    });
                }
                if entry.asker.is_some() && matches!(entry.want, Want::Awaited(_)) {
                    entry.want = Want::Gone;
                }
                let also = entry.also.drain(..).map(|(asker, _)| asker);
                for asker in entry.asker.take().into_iter().chain(also) {
                    let _ = asker.try_send(Claimed::Taken(holder.clone()));
                }
                entry.have = Have::Others(holder);
            }
            (Kind::Put, Done::Well) => {
                entry.have = Have::Held;
                if let Some(asker) = entry.asker.take() {
                    let nonce = work.nonce;
                    let held = Claimed::Held(Claim { room, nonce });
                    entry.is_handed = asker.try_send(held).is_ok();
                }
                for (asker, own) in entry.also.drain(..) {
                    let _ = asker.try_send(Claimed::Taken(own));
                }
            }
            (Kind::Erase, Done::Well | Done::Taken(_)) => entry.have = Have::Nothing,
        }
        // A match whose room is another node's waits for its time.
        if entry.want == Want::Gone || !matches!(entry.have, Have::Others(_)) {
            self.settle(room);
        }
        contested
    }

    // --- Time -----------------------------------------------------------------------------

    /// A moment has passed: what failed may be tried again.
    pub(super) fn retry(&mut self) {
        let rooms = std::mem::take(&mut self.later);
        for room in rooms {
            self.settle(room);
        }
    }

    /// A while has passed: numbers that others hold are asked for again, and claims of which
    /// nothing came are given up.
    pub(super) fn sweep(&mut self, now: Instant) {
        let due = |entry: &Entry| match entry.want {
            Want::Awaited(since) => now.duration_since(since) >= CLAIM_AWAITED,
            Want::Running(_) => matches!(entry.have, Have::Others(_)),
            Want::Gone => false,
        };
        let rooms = self.rooms.iter().filter(|(_, entry)| due(entry));
        let rooms: Vec<RoomId> = rooms.map(|(room, _)| *room).collect();
        for room in rooms {
            if let Some(entry) = self.rooms.get_mut(&room)
                && matches!(entry.want, Want::Awaited(_))
            {
                entry.want = Want::Gone;
            }
            self.settle(room);
        }
    }

    // --- What is shown --------------------------------------------------------------------

    /// Matches that run here under numbers that others hold.
    pub(super) fn contested(&self) -> Vec<Contested> {
        let mut found: Vec<Contested> = self
            .rooms
            .iter()
            .filter_map(|(room, entry)| match (&entry.want, &entry.have) {
                (Want::Running(match_id), Have::Others(holder)) => Some(Contested {
                    room: *room,
                    match_id: *match_id,
                    node: holder.node.clone(),
                }),
                _ => None,
            })
            .collect();
        found.sort_by_key(|contested| contested.room);
        found
    }

    /// How many are held, and how many are to be.
    pub(super) fn counts(&self) -> (usize, usize) {
        let wanted = |entry: &&Entry| matches!(entry.want, Want::Running(_));
        let held = |entry: &&Entry| entry.have == Have::Held;
        let wanted = self.rooms.values().filter(wanted);
        let held = wanted.clone().filter(held).count();
        (held, wanted.count() - held)
    }

    // --- Inside ---------------------------------------------------------------------------

    fn draw(&mut self) -> u64 {
        self.next_nonce = self.next_nonce.wrapping_add(1);
        self.next_nonce
    }

    /// Sees what is to be done with a room: at the next call of [`Self::next`], or nothing ever.
    fn settle(&mut self, room: RoomId) {
        let Some(entry) = self.rooms.get(&room) else {
            return;
        };
        if entry.is_busy {
            return;
        }
        if entry.work().is_some() {
            if entry.asker.is_some() {
                self.urgent.push_back(room);
            } else {
                self.todo.insert(room);
            }
        } else if entry.want == Want::Gone {
            self.rooms.remove(&room);
            self.todo.remove(&room);
        }
    }
}

impl Entry {
    fn work(&self) -> Option<Kind> {
        match (&self.want, &self.have) {
            (Want::Running(_), Have::Held) => None,
            (Want::Running(_), _) => Some(Kind::Put),
            // Nobody puts a key for a room that may not come.
            (Want::Awaited(_), Have::Nothing | Have::Perhaps) if self.asker.is_some() => {
                Some(Kind::Put)
            }
            (Want::Gone, Have::Held | Have::Perhaps) => Some(Kind::Erase),
            (Want::Awaited(_) | Want::Gone, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

    use super::*;
    use crate::cluster::node::Instance;

    const ROOM: RoomId = RoomId(7);
    const FIRST: MatchId = MatchId(1);
    const SECOND: MatchId = MatchId(2);

    fn holder(node: &str, request: Option<&str>) -> Holder {
        Holder {
            node: NodeId::new(node).unwrap(),
            instance: Instance(1),
            request: request.and_then(RequestKey::new),
        }
    }

    fn ask(claims: &mut Claims, request: Option<&str>) -> (Asked, Receiver<Claimed>) {
        let (sender, receiver) = sync_channel(1);
        let own = holder("a", request);
        (
            claims.ask(Instant::now(), ROOM, own, true, sender),
            receiver,
        )
    }

    /// Carries out what there is to do, each piece with the next of these results.
    fn work(claims: &mut Claims, results: &[Done]) -> Vec<Kind> {
        let mut results = results.iter().cloned();
        let mut kinds = Vec::new();
        while let Some(work) = claims.next() {
            kinds.push(work.kind);
            claims.done(&work, results.next().expect("a result for each piece"));
        }
        kinds
    }

    fn held(claims: &mut Claims) -> Claim {
        let (asked, answer) = ask(claims, None);
        let Asked::Wait(nonce) = asked else {
            panic!("{asked:?}")
        };
        assert_eq!(work(claims, &[Done::Well]), [Kind::Put]);
        let claim = Claim { room: ROOM, nonce };
        assert_eq!(answer.try_recv(), Ok(Claimed::Held(claim)));
        claim
    }

    #[test]
    fn the_end_of_a_match_erases_its_claim() {
        let mut claims = Claims::new(0);
        let claim = held(&mut claims);
        claims.runs(ROOM, FIRST);
        claims.release(claim);
        assert_eq!(work(&mut claims, &[]), [], "a match came of it");
        claims.over(ROOM, SECOND);
        assert_eq!(work(&mut claims, &[]), [], "another one ended");
        claims.over(ROOM, FIRST);
        assert_eq!(work(&mut claims, &[Done::Well]), [Kind::Erase]);
        assert!(claims.rooms.is_empty());
    }

    #[test]
    fn a_claim_of_which_nothing_came_is_erased() {
        let mut claims = Claims::new(0);
        let claim = held(&mut claims);
        claims.release(claim);
        assert_eq!(work(&mut claims, &[Done::Well]), [Kind::Erase]);
        let _ = held(&mut claims);
        claims.sweep(Instant::now() + CLAIM_AWAITED);
        assert_eq!(work(&mut claims, &[Done::Well]), [Kind::Erase]);
        assert!(claims.rooms.is_empty());
    }

    #[test]
    fn a_newer_claim_survives_what_is_left_of_the_older() {
        let mut claims = Claims::new(0);
        let old = held(&mut claims);
        claims.runs(ROOM, FIRST);
        claims.over(ROOM, FIRST);
        let erasing = claims.next().unwrap();
        assert_eq!(erasing.kind, Kind::Erase);
        let (asked, answer) = ask(&mut claims, Some("r"));
        assert!(matches!(asked, Asked::Wait(_)), "{asked:?}");
        assert_eq!(claims.next(), None, "one piece at a time");
        claims.done(&erasing, Done::Well);
        assert_eq!(work(&mut claims, &[Done::Well]), [Kind::Put]);
        assert!(matches!(answer.try_recv(), Ok(Claimed::Held(_))));
        claims.release(old);
        claims.over(ROOM, FIRST);
        assert_eq!(work(&mut claims, &[]), []);
    }

    #[test]
    fn a_number_in_use_here_is_taken_by_ourselves() {
        let mut claims = Claims::new(0);
        let (_, _answer) = ask(&mut claims, Some("r"));
        let own = Claimed::Taken(holder("a", Some("r")));
        let (asked, also) = ask(&mut claims, None);
        assert!(matches!(asked, Asked::Wait(_)), "it is not ours yet");
        work(&mut claims, &[Done::Well]);
        assert_eq!(also.try_recv(), Ok(own.clone()));
        assert_eq!(ask(&mut claims, None).0, Asked::Answer(own.clone()));
        claims.runs(ROOM, FIRST);
        assert_eq!(ask(&mut claims, None).0, Asked::Answer(own));
    }

    #[test]
    fn nobody_creates_a_room_whose_claim_another_asker_may_yet_lose() {
        let mut claims = Claims::new(0);
        let (_, first) = ask(&mut claims, None);
        let (asked, second) = ask(&mut claims, None);
        assert!(matches!(asked, Asked::Wait(_)), "{asked:?}");
        let other = holder("b", None);
        work(&mut claims, &[Done::Taken(other.clone())]);
        for answer in [first, second] {
            assert_eq!(answer.try_recv(), Ok(Claimed::Taken(other.clone())));
        }
        assert!(claims.rooms.is_empty());
    }

    #[test]
    fn who_waits_for_the_claim_of_another_asker_waits_no_longer_than_that_one_can() {
        let mut claims = Claims::new(0);
        let (_, first) = ask(&mut claims, None);
        let (asked, second) = ask(&mut claims, None);
        let Asked::Wait(nonce) = asked else {
            panic!("{asked:?}")
        };
        claims.give_up(Claim { room: ROOM, nonce });
        let put = claims.next().unwrap();
        claims.done(&put, Done::Failed);
        for answer in [first, second] {
            assert_eq!(answer.try_recv(), Err(TryRecvError::Disconnected));
        }
    }

    #[test]
    fn a_match_that_runs_already_is_not_forgotten_with_the_claim_of_who_asks_again() {
        let mut claims = Claims::new(0);
        let (sender, _unclaimed) = sync_channel(1);
        let own = holder("a", Some("r"));
        claims.ask(Instant::now(), ROOM, own, false, sender);
        let (_, answer) = ask(&mut claims, Some("r"));
        let put = claims.next().unwrap();
        claims.runs(ROOM, FIRST);
        let other = holder("b", None);
        let contested = claims.done(&put, Done::Taken(other.clone()));
        assert_eq!(contested.unwrap().match_id, FIRST);
        assert_eq!(answer.try_recv(), Ok(Claimed::Taken(other)));
        assert_eq!(claims.contested().len(), 1);
        claims.sweep(Instant::now());
        assert_eq!(work(&mut claims, &[Done::Well]), [Kind::Put]);
        assert_eq!((claims.contested().len(), claims.counts()), (0, (1, 0)));
    }

    #[test]
    fn a_number_of_another_node_is_asked_for_and_forgotten() {
        let mut claims = Claims::new(0);
        let (_, answer) = ask(&mut claims, None);
        let other = holder("b", Some("r"));
        work(&mut claims, &[Done::Taken(other.clone())]);
        assert_eq!(answer.try_recv(), Ok(Claimed::Taken(other)));
        assert!(claims.rooms.is_empty());
    }

    #[test]
    fn a_room_made_without_etcd_is_claimed_with_its_request_later() {
        let mut claims = Claims::new(0);
        let (sender, _answer) = sync_channel(1);
        let own = holder("a", Some("r"));
        let asked = claims.ask(Instant::now(), ROOM, own, false, sender);
        assert_eq!(asked, Asked::Answer(Claimed::Unclaimed));
        claims.begin(true);
        assert_eq!(claims.next(), None, "it may never come");
        claims.runs(ROOM, FIRST);
        let work = claims.next().unwrap();
        assert_eq!((work.kind, work.request), (Kind::Put, RequestKey::new("r")));
    }

    #[test]
    fn rooms_that_never_come_do_not_fill_the_memory() {
        let mut claims = Claims::new(0);
        for room in 0..2 * CLAIMS_KNOWN_MAX as u64 {
            let request = (room % 2 == 0).then_some("r");
            let (sender, _answer) = sync_channel(1);
            let own = holder("a", request);
            let asked = claims.ask(Instant::now(), RoomId(room), own, false, sender);
            assert_eq!(asked, Asked::Answer(Claimed::Unclaimed));
            assert!(request.is_some() || !claims.rooms.contains_key(&RoomId(room)));
        }
        let more = RoomId(4 * CLAIMS_KNOWN_MAX as u64);
        let (sender, _answer) = sync_channel(1);
        claims.ask(Instant::now(), more, holder("a", Some("r")), false, sender);
        assert_eq!(claims.rooms.len(), CLAIMS_KNOWN_MAX);
        claims.sweep(Instant::now() + CLAIM_AWAITED);
        assert!(claims.rooms.is_empty());
    }

    #[test]
    fn two_unclaimed_requests_for_one_room_lose_their_names() {
        let mut claims = Claims::new(0);
        for request in ["r", "s"] {
            let (sender, _answer) = sync_channel(1);
            let own = holder("a", Some(request));
            claims.ask(Instant::now(), ROOM, own, false, sender);
        }
        claims.runs(ROOM, FIRST);
        assert_eq!(claims.next().unwrap().request, None);
    }

    #[test]
    fn a_contested_room_is_told_of_once_and_asked_for_until_it_is_ours() {
        let mut claims = Claims::new(0);
        claims.runs(ROOM, FIRST);
        let other = Done::Taken(holder("b", None));
        let put = claims.next().unwrap();
        let contested = claims.done(&put, other.clone()).unwrap();
        assert_eq!((contested.room, contested.match_id), (ROOM, FIRST));
        assert_eq!(claims.next(), None, "not at once");
        claims.sweep(Instant::now());
        let put = claims.next().unwrap();
        assert_eq!(claims.done(&put, other), None);
        assert_eq!(claims.contested().len(), 1);
        claims.sweep(Instant::now());
        assert_eq!(work(&mut claims, &[Done::Well]), [Kind::Put]);
        assert_eq!((claims.contested().len(), claims.counts()), (0, (1, 0)));
    }

    #[test]
    fn a_claim_that_was_given_up_and_turns_out_taken_is_contested() {
        let mut claims = Claims::new(0);
        let (asked, _answer) = ask(&mut claims, None);
        let Asked::Wait(nonce) = asked else {
            panic!("{asked:?}")
        };
        let put = claims.next().unwrap();
        claims.give_up(Claim { room: ROOM, nonce });
        claims.done(&put, Done::Taken(holder("b", None)));
        claims.runs(ROOM, FIRST);
        let put = claims.next().unwrap();
        let contested = claims.done(&put, Done::Taken(holder("b", None)));
        assert!(contested.is_some());
    }

    #[test]
    fn a_claim_that_came_too_late_is_in_nobodys_way() {
        let mut claims = Claims::new(0);
        let (asked, _answer) = ask(&mut claims, None);
        let Asked::Wait(nonce) = asked else {
            panic!("{asked:?}")
        };
        let put = claims.next().unwrap();
        claims.give_up(Claim { room: ROOM, nonce });
        claims.done(&put, Done::Well);
        held(&mut claims);
    }

    #[test]
    fn a_new_lease_puts_everything_anew_and_an_old_one_only_what_is_in_doubt() {
        let mut claims = Claims::new(0);
        held(&mut claims);
        claims.runs(ROOM, FIRST);
        claims.end();
        claims.begin(false);
        assert_eq!(work(&mut claims, &[]), []);
        claims.end();
        claims.begin(true);
        let _under_way = claims.next().unwrap();
        claims.end();
        claims.begin(false);
        assert_eq!(work(&mut claims, &[Done::Well]), [Kind::Put]);
    }

    #[test]
    fn what_ended_while_etcd_was_away_is_erased_under_an_old_lease_alone() {
        for (is_new_lease, expected) in [(false, vec![Kind::Erase]), (true, vec![])] {
            let mut claims = Claims::new(0);
            held(&mut claims);
            claims.runs(ROOM, FIRST);
            claims.end();
            claims.over(ROOM, FIRST);
            claims.begin(is_new_lease);
            assert_eq!(work(&mut claims, &[Done::Well]), expected);
            assert!(claims.rooms.is_empty());
        }
    }

    #[test]
    fn what_failed_is_tried_again_after_a_moment() {
        let mut claims = Claims::new(0);
        claims.runs(ROOM, FIRST);
        assert_eq!(work(&mut claims, &[Done::Failed]), [Kind::Put]);
        claims.retry();
        assert_eq!(work(&mut claims, &[Done::Well]), [Kind::Put]);
    }

    #[test]
    fn the_list_of_the_loop_ends_what_it_does_not_name() {
        let mut claims = Claims::new(0);
        claims.runs(ROOM, FIRST);
        work(&mut claims, &[Done::Well]);
        claims.all(&[(RoomId(8), SECOND)]);
        assert_eq!(
            work(&mut claims, &[Done::Well, Done::Well]),
            [Kind::Erase, Kind::Put]
        );
        assert_eq!(claims.counts(), (1, 0));
    }
}
