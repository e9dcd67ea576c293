//! The kinds of faults, and how often each has happened.
//!
//! A world counts a fault where it takes effect, not where the script plans it: a kind that
//! stays at 0 over many worlds is a fault of the simulator. A kind can be left out of a
//! world, which is how a failure is narrowed down to the kinds that it needs.
//! What the network does to single datagrams is counted in [`super::network::Tally`].

use std::fmt;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            /// All kinds, in the order of their counters.
            pub const ALL: &[Fault] = &[$(Fault::$variant,)*];

            /// The name under which it is counted and left out: lower case, with underscores.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$variant => $text,)* }
            }
        }
    };
}

faults! {
    /// A client's path was cut for a while, one way or both.
    Outage = "outage",
    /// A client's process stood still for a while.
    Freeze = "freeze",
    /// A crashed client came back on its address under its conversation number.
    RestartSame = "restart_same",
    /// A crashed client came back on its address under another number.
    RestartNewConv = "restart_new_conv",
    /// A crashed client came back on another address.
    RestartNewAddr = "restart_new_addr",
    /// Every client of every match ended at once.
    AllReplaced = "all_replaced",
    /// A player connected from elsewhere while the old client still lived.
    Takeover = "takeover",
    /// A client connected again for no reason, on its address or from another.
    Reconnect = "reconnect",
    /// A client asked for every frame again.
    StreamAgain = "stream_again",
    /// A client went for good, without a word.
    Vanish = "vanish",
    /// The address of a client changed, and the client did not notice.
    AddressChange = "address_change",
    /// The address of a client of v2 changed, and its session had to follow it.
    AddressMove = "address_move",
    /// A signal that was made up or copied reached the server and had to be harmless.
    ForgedSignal = "forged_signal",
    /// One that names the server reached a client and had to be harmless.
    ForgedAnswer = "forged_answer",
    /// A client advertised a window of 0 for a while.
    WindowShut = "window_shut",
    /// A client's game read no news for a while.
    NeverReads = "never_reads",
    /// A forged datagram from a client's address reached the server and had to be harmless.
    ForgedAck = "forged_ack",
    /// The same, but what it guessed was right, and its client may need a new conversation.
    LuckyAck = "lucky_ack",
    /// An earlier datagram of a client reached the server once more.
    Replay = "replay",
    /// A datagram of a flood from forged addresses reached the server.
    Flood = "flood",
    /// A burst of rooms was created and removed.
    RoomBurst = "room_burst",
    /// A running or waiting match was closed and its room created again at once.
    RoomReplaced = "room_replaced",
    /// The server's loop was busy for a while after a turn.
    LateTurn = "late_turn",
    /// The server's machine stood still for more than a second.
    Suspend = "suspend",
    /// The server was killed.
    ServerKilled = "server_killed",
    /// The server ended without a word, with everything written.
    ServerStopped = "server_stopped",
    /// The power of the server went.
    PowerCut = "power_cut",
    /// The server ended in the middle of a write.
    TornWrite = "torn_write",
    /// A power cut took something of what was not synced.
    LostTail = "lost_tail",
    /// A power cut has changed something of what was not synced.
    DamagedTail = "damaged_tail",
    /// A full disk has refused a write.
    DiskFull = "disk_full",
    /// A sync has failed.
    SyncFailed = "sync_failed",
}

impl Fault {
    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Fault> {
        Fault::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// How often each kind has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened([u64; Fault::ALL.len()]);

impl Happened {
    /// It has happened once more.
    pub fn count(&mut self, kind: Fault) {
        self.0[kind as usize] += 1;
    }

    /// How often it has happened.
    pub fn of(&self, kind: Fault) -> u64 {
        self.0[kind as usize]
    }

    /// Adds what has happened in another world.
    pub fn add(&mut self, other: &Happened) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    /// The kinds that have happened at all.
    pub fn kinds(&self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(|kind| self.of(*kind) > 0)
    }
}

impl fmt::Display for Happened {
    /// Every kind and its count, those that never happened too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, kind) in Fault::ALL.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{}={}", kind.name(), self.of(*kind))?;
        }
        Ok(())
    }
}
