//! What those are told who follow the rooms of a server ([`crate::io::feed`]), held against what
//! may be told: each match begins, ends once, and nothing happens in it before or after that may not.

use std::collections::BTreeMap;

use crate::engine::event::Event;
use crate::engine::id::{MatchId, PlayerId, RoomId};
use crate::io::feed::{RoomEvent, RoomEventKind};

/// One life of a server, as it is told.
#[derive(Debug, Default)]
pub(super) struct Chronicle {
    matches: BTreeMap<MatchId, Told>,
}

/// What was told of a match.
#[derive(Debug, Default)]
struct Told {
    started: bool,
    over: bool,
    seated: BTreeMap<PlayerId, bool>,
    results: BTreeMap<PlayerId, u64>,
}

impl Chronicle {
    /// Takes note of an event.
    ///
    /// # Errors
    /// What is told, if it may not be.
    pub(super) fn hear(&mut self, event: &Event) -> Result<(), RoomEvent> {
        match RoomEvent::of(event, 0) {
            Some(event) if !self.may_be(&event) => Err(event),
            _ => Ok(()),
        }
    }

    fn may_be(&mut self, event: &RoomEvent) -> bool {
        let begins = matches!(
            event.kind,
            RoomEventKind::Created { .. } | RoomEventKind::Restored { .. }
        );
        if begins {
            let before = self.matches.insert(event.match_id, Told::default());
            return before.is_none();
        }
        let Some(told) = self.matches.get_mut(&event.match_id) else {
            return false;
        };
        match event.kind {
            RoomEventKind::Created { .. } | RoomEventKind::Restored { .. } => false,
            RoomEventKind::Started => !std::mem::replace(&mut told.started, true) && !told.over,
            RoomEventKind::Over { .. } => !std::mem::replace(&mut told.over, true),
            RoomEventKind::Joined { player } => {
                told.seated.insert(player, true);
                !told.over
            }
            RoomEventKind::Left { player, .. } => told.seated.insert(player, false) == Some(true),
            RoomEventKind::Result { player, winner } => {
                let before = told.results.insert(player, winner);
                told.seated.get(&player) == Some(&true) && before != Some(winner)
            }
        }
    }

    /// Whether the matches that were told to have begun, and not to be over, are those of these
    /// rooms.
    pub(super) fn agrees(&self, rooms: &[(RoomId, MatchId)]) -> bool {
        let open = self.matches.iter().filter(|(_, told)| !told.over);
        let mut ids: Vec<MatchId> = rooms.iter().map(|(_, id)| *id).collect();
        ids.sort_unstable();
        open.map(|(id, _)| id).eq(&ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::view::OverReason;

    const OF: (RoomId, MatchId) = (RoomId(1), MatchId(7));

    fn created() -> Event {
        let (room, match_id) = OF;
        Event::RoomCreated {
            room,
            match_id,
            players: 2,
        }
    }

    fn over() -> Event {
        let (room, match_id) = OF;
        Event::MatchOver {
            room,
            match_id,
            reason: OverReason::Closed,
            frames: 0,
        }
    }

    fn joined() -> Event {
        let (room, match_id) = OF;
        Event::SeatTaken {
            addr: ([127, 0, 0, 1], 1).into(),
            player: PlayerId(1),
            room,
            match_id,
        }
    }

    fn result(winner: u64) -> Event {
        let (room, match_id) = OF;
        Event::ResultGiven {
            room,
            match_id,
            player: PlayerId(1),
            winner,
        }
    }

    /// The place of the first event that may not be told.
    fn wrong(events: &[Event]) -> Option<usize> {
        let mut chronicle = Chronicle::default();
        events
            .iter()
            .position(|event| chronicle.hear(event).is_err())
    }

    #[test]
    fn what_may_not_be_told_is_found() {
        assert_eq!(wrong(&[created(), joined(), result(1), over()]), None);
        assert_eq!(wrong(&[created(), joined(), over(), result(1)]), None);
        assert_eq!(wrong(&[over()]), Some(0));
        assert_eq!(wrong(&[created(), over(), over()]), Some(2));
        assert_eq!(wrong(&[created(), over(), joined()]), Some(2));
        assert_eq!(wrong(&[created(), created()]), Some(1));
        assert_eq!(wrong(&[created(), result(1)]), Some(1));
        let twice = [created(), joined(), result(1), result(2), result(2)];
        assert_eq!(wrong(&twice), Some(4));
    }

    #[test]
    fn a_match_whose_end_is_not_told_is_missed() {
        let mut chronicle = Chronicle::default();
        assert!(chronicle.agrees(&[]));
        chronicle.hear(&created()).unwrap();
        assert!(chronicle.agrees(&[OF]));
        assert!(!chronicle.agrees(&[]));
        chronicle.hear(&over()).unwrap();
        assert!(chronicle.agrees(&[]));
        assert!(!chronicle.agrees(&[OF]));
    }
}
