//! Why something of a peer's was refused: [`Drop`] for a datagram or a message that is
//! thrown away and counted, [`Disconnect`] for the end of a session.

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All reasons, in the order of their counters.
            pub const ALL: &[$name] = &[$($name::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = $name::ALL.len();

            /// The name under which it is counted: lower case, with underscores.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    /// Why a datagram or a message was dropped. Counted, never logged one by one.
    Drop {
        /// Under 24 bytes: no KCP segment.
        Runt = "runt",
        /// A KCP command that does not exist.
        UnknownCommand = "unknown_command",
        /// `frg` over 127.
        FragmentNumber = "fragment_number",
        /// A segment that claims more data than the datagram holds.
        SegmentLength = "segment_length",
        /// Segments of different conversations in one datagram.
        MixedConv = "mixed_conv",
        /// From an unknown address, and not the beginning of a conversation.
        Stranger = "stranger",
        /// From a known address under another conversation, and not its beginning.
        WrongConv = "wrong_conv",
        /// Acknowledges what was never sent.
        UnaAhead = "una_ahead",
        /// Echoes a time stamp that was not ours within the last minute.
        EchoedTime = "echoed_time",
        /// A copy of a first datagram that was acknowledged long ago.
        LateFirst = "late_first",
        /// The beginning of a conversation while every session there may be holds a seat.
        SessionsFull = "sessions_full",
        /// Data far into the stream of a peer that has not proved its address.
        BeforeProof = "before_proof",
        /// A signal of another length or kind than a client sends.
        SignalMalformed = "signal_malformed",
        /// A signal that was not made with the secret of its session, or without its cookie.
        SignalForged = "signal_forged",
        /// A signal whose number was used before, or that answers nothing.
        SignalReplayed = "signal_replayed",
        /// More signals of unknown senders than a second has room for.
        TooManySignals = "too_many_signals",
        /// A signal that would move a session to where another one holds a seat.
        MoveRefused = "move_refused",
        /// More datagrams of a session than a second has room for.
        TooManyDatagrams = "too_many_datagrams",
        /// More bytes of a session than a second has room for.
        TooManyBytes = "too_many_bytes",
        /// More packets of a session than a second has room for.
        TooManyPackets = "too_many_packets",
        /// The beginning of a conversation while the server stops.
        Stopping = "stopping",
        /// A message id that does not exist or only the server may send.
        UnknownMessage = "unknown_message",
        /// A body that is not the message it claims to be.
        MalformedBody = "malformed_body",
        /// A message that needs a seat, from a session without one.
        NoSeat = "no_seat",
        /// A message that only a player may send, from a spectator.
        Watches = "watches",
        /// A message that means nothing in the phase the room is in.
        OutOfPhase = "out_of_phase",
        /// An echo asked for while a seat is held.
        EchoWithSeat = "echo_with_seat",
        /// Ready in a running room more than once a second.
        ReadyTooSoon = "ready_too_soon",
        /// More inputs of one seat than wait for later frames, or more data of them.
        InputsWaiting = "inputs_waiting",
        /// An input with more data than its room takes, which may be none.
        InputTooLong = "input_too_long",
        /// More inputs in one packet than one may have.
        InputsInPacket = "inputs_in_packet",
        /// An answer that can be missed, to a peer that acknowledges too little.
        AnswerSkipped = "answer_skipped",
    }
}

reasons! {
    /// Why a session ended.
    Disconnect {
        /// No sign of life for the idle time-out.
        Idle = "idle",
        /// It speaks but acknowledges nothing for the idle time-out.
        Stalled = "stalled",
        /// It asks without acknowledging: too much waits for it.
        Backlog = "backlog",
        /// It took no seat in its time.
        NoSeatTaken = "no_seat_taken",
        /// It held no seat, and made way for one that came later.
        Crowded = "crowded",
        /// It held no seat, and a session that does has moved to its address.
        Displaced = "displaced",
        /// A panic while its datagrams were read or written: a bug of ours.
        Failed = "failed",
        /// A packet whose body is over 1024 bytes.
        PacketTooLarge = "packet_too_large",
        /// A KCP message over the bound.
        MessageTooLarge = "message_too_large",
        /// Its player connected again elsewhere.
        TakenOver = "taken_over",
        /// Its client was restarted on the same address.
        Restarted = "restarted",
        /// A candidate that proved nothing in its time, or whose rival turned out alive.
        CandidateLost = "candidate_lost",
        /// Its room is gone.
        RoomGone = "room_gone",
        /// The server stops.
        Stopping = "stopping",
    }
}
