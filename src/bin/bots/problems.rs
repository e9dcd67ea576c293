//! What should not have happened.

use std::collections::BTreeMap;

use lockstep_server::engine::id::{PlayerId, RoomId};

/// Problems of which the text is kept.
const EXAMPLES_MAX: usize = 10;

/// What should not have happened: counted by kind, the first ones with their text.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// How often each kind came.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// The first ones.
    pub(crate) examples: Vec<String>,
}

impl Problems {
    /// Notes one, and who met it.
    pub(crate) fn add(&mut self, kind: &'static str, who: (RoomId, PlayerId), text: &str) {
        let (room, player) = who;
        self.add_text(kind, &format!("room {room}, player {player}: {text}"));
    }

    /// Notes one that no player met.
    pub(crate) fn add_text(&mut self, kind: &'static str, text: &str) {
        *self.counts.entry(kind).or_default() += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{kind}: {text}"));
        }
    }

    /// How often a kind came.
    pub(crate) fn of(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or(0)
    }
}

/// The kinds of problems that the report shows by themselves.
pub(crate) mod kind {
    /// A frame that was there already.
    pub(crate) const DUPLICATE: &str = "duplicate frames";
    /// A frame that is missing.
    pub(crate) const GAP: &str = "gaps";
    /// A frame of which another player of the room saw something else.
    pub(crate) const DIFFERENT: &str = "different frames";
    /// An own input that never came back.
    pub(crate) const MISSING: &str = "missing inputs";
}
