//! The gallery of a room: those who watch its match.
//!
//! A spectator is a seat beside the seats ([`SeatState`]), with a cursor and a stage of its own,
//! and [`super::room`] lets it join, streams to it and closes it as any seat. But it plays
//! nothing: it counts in no start, no result and no grace, and it sees what was broadcast so many
//! frames ago, so that nobody helps a player by watching.
//!
//! All of them stand at the same place, or soon will. So they get the same bytes, made once, and
//! each costs no more than its sends. A room without spectators has no gallery.

use std::collections::BTreeMap;

use slab::Slab;

use super::broadcast::Broadcast;
use super::frame_log::FrameLog;
use super::id::{FrameId, Percent, PlayerId, Seat, Spot, WatcherId};
use super::seat::SeatState;
use super::wire::message::{Version, WatchFrom};

/// One spectator.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Where its frames begin unless it holds some.
    pub(super) from: WatchFrom,
    /// How far its client is, and what it is owed.
    pub(super) state: SeatState,
}

/// The spectators of one room.
#[derive(Debug)]
pub(super) struct Gallery {
    watchers: Slab<Watcher>,
    /// One for each player, so that whoever comes back needs no second place, and nobody takes
    /// them all with one ticket.
    by_player: BTreeMap<PlayerId, WatcherId>,
    /// How much of each seat's loading they were told at the most.
    told: Vec<Percent>,
    /// Theirs apart from the seats': behind a delay they stand at another place.
    broadcast: Broadcast,
}

impl Gallery {
    /// An empty one, for a room of so many seats.
    pub(super) fn new(seats: usize) -> Gallery {
        Gallery {
            watchers: Slab::new(),
            by_player: BTreeMap::new(),
            told: vec![Percent::default(); seats],
            broadcast: Broadcast::default(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.watchers.len()
    }

    /// The place of a player.
    pub(super) fn find(&self, player: PlayerId) -> Option<WatcherId> {
        self.by_player.get(&player).copied()
    }

    /// Somebody comes, or comes again: the flow begins anew.
    pub(super) fn enter(&mut self, player: PlayerId, from: WatchFrom) -> WatcherId {
        let watchers = &mut self.watchers;
        let id = *self.by_player.entry(player).or_insert_with(|| {
            let state = SeatState::new(player);
            WatcherId(watchers.insert(Watcher { from, state }))
        });
        let watcher = self.at_mut(id);
        watcher.from = from;
        watcher.state.take(Version::V2);
        watcher.state.ready = false;
        id
    }

    /// Somebody goes.
    pub(super) fn leave(&mut self, id: WatcherId) {
        let watcher = self.watchers.remove(id.0);
        self.by_player.remove(&watcher.state.player);
    }

    /// Who is at a place.
    pub(super) fn at(&self, id: WatcherId) -> &Watcher {
        &self.watchers[id.0]
    }

    /// The same, to be changed.
    pub(super) fn at_mut(&mut self, id: WatcherId) -> &mut Watcher {
        &mut self.watchers[id.0]
    }

    /// All places that are taken.
    pub(super) fn ids(&self) -> Vec<WatcherId> {
        self.watchers
            .iter()
            .map(|(key, _)| WatcherId(key))
            .collect()
    }

    /// All who are there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Spot, &SeatState)> {
        let watchers = self.watchers.iter();
        watchers.map(|(key, watcher)| (Spot::Watcher(WatcherId(key)), &watcher.state))
    }

    /// A seat has loaded so much; whether anybody is to be told. Only of more than ever: a
    /// member who goes back and forth would have the server speak to thousands each time.
    pub(super) fn owe_progress(&mut self, of: Seat, percent: Percent) -> bool {
        let told = &mut self.told[of.index()];
        if percent <= *told {
            return false;
        }
        *told = percent;
        for (_, watcher) in &mut self.watchers {
            watcher.state.owe_progress(of);
        }
        true
    }

    /// The match is over: each is to be told once it has all frames.
    pub(super) fn close(&mut self) {
        for (_, watcher) in &mut self.watchers {
            watcher.state.progress_owed.clear();
            watcher.state.close_owed = true;
        }
    }

    /// The next packet for one whose cursor is behind `until`; moves the cursor.
    pub(super) fn packet(&mut self, log: &FrameLog, id: WatcherId, until: FrameId) -> &[u8] {
        let cursor = &mut self.watchers[id.0].state.cursor;
        self.broadcast.packet(log, cursor, until)
    }
}
