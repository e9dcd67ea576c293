//! Ids and other small values that must not be mixed up, as newtypes.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A room's number, chosen by who creates it; `battleID` on the wire. It comes again:
    /// when a match is over, the same room can be created anew.
    RoomId(u64)
}
id! {
    /// A player's account; `playerID` and `id` on the wire.
    PlayerId(u64)
}
id! {
    /// One match, unique for the life of the server and, with a random base, beyond it.
    MatchId(u64)
}
id! {
    /// KCP's conversation number. Clients share it freely; it identifies nobody.
    Conv(u32)
}

/// A place in a room, counted from 0 here and from 1 on the wire (`roomseatid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(u16);

impl Seat {
    /// The seat with this index, counted from 0, below
    /// [`crate::limits::PLAYERS_PER_ROOM_RANGE`]'s end.
    pub fn from_index(index: usize) -> Seat {
        Seat(u16::try_from(index).expect("a room has at most 256 seats"))
    }

    /// The index, counted from 0.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// `roomseatid`, counted from 1.
    pub fn on_wire(self) -> i32 {
        i32::from(self.0) + 1
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.on_wire().fmt(f)
    }
}

/// A spectator's place in a room: small, and free again when it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatcherId(pub usize);

/// Where a client is in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// At a seat: it plays.
    Seat(Seat),
    /// Among the spectators.
    Watcher(WatcherId),
}

impl From<Seat> for Spot {
    fn from(seat: Seat) -> Spot {
        Spot::Seat(seat)
    }
}

/// The number of a frame: the first of a match is 0.
pub type FrameId = u32;

/// Loading progress, 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// Loaded.
    pub const FULL: Percent = Percent(100);

    /// The progress nearest to `value`: clients of the original may send anything.
    pub fn clamped(value: i32) -> Percent {
        Percent(u8::try_from(value.clamp(0, 100)).expect("0..=100 fits"))
    }

    /// The progress as the wire has it.
    pub fn on_wire(self) -> i32 {
        i32::from(self.0)
    }
}
