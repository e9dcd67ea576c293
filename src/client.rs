//! The player's side of a match, without I/O: for games, bots, tests and the simulator.
//!
//! A [`Client`] has no socket, clock, thread, log or randomness of its own. Its driver, your
//! program, brings datagrams and the time, and carries away what is to be sent. The same
//! calls in the same order give the same datagrams, byte for byte.
//!
//! # The order of calls
//!
//! In each turn of your loop:
//!
//! 1. hand over what has happened: [`Client::handle_datagram`] for each datagram that the
//!    socket holds, [`Client::handle_timeout`] when the moment of the last
//!    [`Client::poll_timeout`] has come;
//! 2. take the news: [`Client::poll_event`] until it returns `None`, and answer with
//!    commands such as [`Client::input`];
//! 3. send: [`Client::poll_transmit`] once, then every datagram of the batch, to the server;
//! 4. wait for a datagram, but not beyond [`Client::poll_timeout`].
//!
//! # The way through a match
//!
//! ```text
//!  new ──▶ Connecting ──▶ Connected ──▶ Joined ──▶ Ready ──▶ Playing ──▶ Closed
//!              │  ▲                 join()    ready()    (Start, then frames)
//!              ▼  │ connect()
//!            Refused                       reconnect(): from anywhere back to Connecting
//! ```
//!
//! The client connects by itself. [`Client::join`] and [`Client::ready`] may be called at
//! any time: they are remembered until their turn comes, and [`Client::reconnect`] repeats
//! those that were called. A game that has nothing to load calls both at once.
//!
//! Every frame of the match is delivered once and in order, from 0: the empty ones too,
//! which the wire leaves out. Advance your game by one step for each [`ClientEvent::Frame`]
//! and by nothing else, draw your random numbers from the seed of [`ClientEvent::Joined`],
//! and all players see the same match. Own inputs have happened when they come back in a
//! frame, not before.
//!
//! # Example
//!
//! ```no_run
//! use std::io::ErrorKind::{TimedOut, WouldBlock};
//! use std::net::UdpSocket;
//! use std::time::{Duration, Instant};
//!
//! use lockstep_server::client::{Client, ClientConfig, ClientEvent};
//! use lockstep_server::engine::id::{Conv, PlayerId, RoomId};
//! use lockstep_server::engine::time::Time;
//! use lockstep_server::engine::transmit::Transmits;
//! use lockstep_server::engine::wire::frame::Command;
//! use lockstep_server::limits::DATAGRAM_MAX;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let socket = UdpSocket::bind("0.0.0.0:0")?;
//! socket.connect("127.0.0.1:10086")?;
//! let origin = Instant::now();
//! let now = || Time::since_origin(origin.elapsed());
//!
//! let mut config = ClientConfig::new(PlayerId(1), RoomId(1));
//! config.conv = Conv(getrandom::u32()?);
//! let mut client = Client::new(now(), config);
//! client.join();
//! client.ready();
//!
//! let mut buffer = [0; DATAGRAM_MAX];
//! let mut batch = Transmits::default();
//! loop {
//!     while let Some(event) = client.poll_event() {
//!         match event {
//!             ClientEvent::Frame(frame) => {
//!                 // Advance the game by `frame.inputs` here.
//!                 if frame.id % 30 == 0 {
//!                     client.input(Command { sid: 1, x: 2, y: 3 });
//!                 }
//!             }
//!             ClientEvent::Closed => return Ok(()),
//!             other => println!("{other:?}"),
//!         }
//!     }
//!
//!     client.poll_transmit(now(), &mut batch);
//!     for (_, datagram) in batch.iter() {
//!         socket.send(datagram)?;
//!     }
//!
//!     let wait = client.poll_timeout(now()).map_or(Duration::from_secs(1), |at| at.since(now()));
//!     socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
//!     match socket.recv(&mut buffer) {
//!         Ok(len) => client.handle_datagram(now(), &mut buffer[..len]),
//!         Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => {}
//!         Err(error) => return Err(error.into()),
//!     }
//!     client.handle_timeout(now());
//! }
//! # }
//! ```
//!
//! `examples/play.rs` is a whole game on the same ground.
//!
//! # Watching
//!
//! With [`ClientConfig::watch`] the same client is a spectator's: it takes no seat
//! ([`ClientEvent::Joined`] says seat 0), all players are its others, and after `join` and `ready`
//! the frames come as they do to a player, [`Client::watch_delay`] frames late, and all that were
//! held back when the match is over. What only players say it does not send.
//!
//! # What it does not do
//!
//! It never decides that the server is gone: look at [`Client::silent_for`] and call
//! [`Client::reconnect`], from the same socket or a new one. It never leaves by itself
//! either: after [`ClientEvent::Closed`], poll once more so that the server learns that its
//! Close has come, then drop it. It is not `Send`: make it on the thread it lives on.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::engine::drops::{Disconnect, Drop};
use crate::engine::id::{Conv, FrameId, MatchId, Percent, PlayerId, RoomId};
use crate::engine::link::Link;
use crate::engine::time::Time;
use crate::engine::transmit::{Sink, Transmits};
use crate::engine::wire::frame::{Command, Frame, decode_frames};
use crate::engine::wire::message::{
    ConnectCode, Downlink, Follows, Held, Uplink, Version, WatchFrom, Welcome,
};
use crate::engine::wire::packet::{self, Packet, PacketReader};
use crate::engine::wire::segment::Datagram;
use crate::limits::{
    BACKLOG_MAX, CLIENT_EVENTS_MAX, DATAGRAM_MAX, DOWNLINK_BODY_MAX, DROPPABLE_BACKLOG_MAX,
    FRAMES_PER_MESSAGE_MAX, FRAMES_RANGE, UPLINK_BODY_MAX,
};

/// Time between two heartbeats unless the configuration says otherwise, as the Unity client
/// is shipped.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);

/// Bytes of the largest message a server may send: one packet.
const MESSAGE_MAX: usize = DOWNLINK_BODY_MAX + packet::HEADER;

/// Who connects, to which room, and how.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The player's account.
    pub player: PlayerId,
    /// The room, which someone has created with this player as a member.
    pub room: RoomId,
    /// Whatever the game's backend handed out; empty where the server asks for none.
    pub token: String,
    /// KCP's conversation. Any number is legal, but draw a random one if the same address
    /// may be used twice: it tells late datagrams of an old conversation from new ones.
    pub conv: Conv,
    /// KCP's clock at the origin of [`Time`], in ms. Any number is legal.
    pub clock_base: u32,
    /// The newest version of the protocol to speak: an older server answers in its own.
    pub version: Version,
    /// To watch and not to play, and from where on: needs a server that speaks v2, and a room
    /// that lets spectators in.
    pub watch: Option<WatchFrom>,
    /// Time between two heartbeats, `None` for none. This server needs none, the original
    /// one does.
    pub heartbeat_every: Option<Duration>,
}

impl ClientConfig {
    /// A player of a room, with no token, conversation 0, v2 and a heartbeat every 2 s.
    pub fn new(player: PlayerId, room: RoomId) -> ClientConfig {
        ClientConfig {
            player,
            room,
            token: String::new(),
            conv: Conv(0),
            clock_base: 0,
            version: Version::V2,
            watch: None,
            heartbeat_every: Some(HEARTBEAT_EVERY),
        }
    }
}

/// How far the client has come. Later phases are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientState {
    /// The server has not answered the Connect yet.
    Connecting,
    /// The server has refused the Connect; [`Client::connect`] tries again.
    Refused,
    /// The server knows the player.
    Connected,
    /// The seat is taken.
    Joined,
    /// The server knows that the player is ready.
    Ready,
    /// The match has started.
    Playing,
    /// The room is over.
    Closed,
}

/// What has happened, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The server knows the player.
    Connected,
    /// The server refused the Connect; [`Client::connect`] tries again.
    Refused(ConnectCode),
    /// The seat is taken.
    Joined {
        /// Own seat, counted from 1; 0 for a spectator.
        seat: i32,
        /// The other players and their progress, in the order of their seats.
        others: Vec<(PlayerId, Percent)>,
        /// The seed that everyone in the match gets.
        seed: i32,
    },
    /// Another player has loaded more.
    Progress {
        /// Who.
        player: PlayerId,
        /// How much is loaded.
        percent: Percent,
    },
    /// The server knows that the player is ready.
    Ready,
    /// The match begins, or is told again after a reconnect. In v2 it then goes on where it was:
    /// `next` is the frame after the last one that was delivered. In v1, and where another match
    /// is played in the room by now, `next` is 0, and a game that has played some of it
    /// begins anew or skips what it has seen. A spectator who wants the newest begins anywhere.
    Started {
        /// When the match began, in Unix seconds.
        unix_seconds: i64,
        /// The next frame.
        next: FrameId,
        /// Frames that the server has sealed so far, to show how much is to be caught up on;
        /// `next` where the server does not say.
        head: FrameId,
    },
    /// The next frame. After a [`ClientEvent::Started`] the ids are `next`, `next + 1` and so on,
    /// without a gap or a repeat; what the wire left out comes as a frame without inputs.
    Frame(Frame),
    /// The server has noted the result.
    ResultAcknowledged,
    /// The room is over: leave.
    Closed,
    /// An echo has come back.
    Echo(Vec<u8>),
    /// A heartbeat has been answered.
    HeartbeatAnswered,
    /// The server has broken its contract. What was wrong has been left out.
    Fault(ClientFault),
}

/// How a server broke its contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// A message that does not exist or only clients send.
    UnknownMessage {
        /// Its id.
        id: u8,
    },
    /// A body that is not the message it claims to be.
    Malformed {
        /// The id of the message.
        id: u8,
    },
    /// A message that should not have come yet: the answer to a question nobody asked, a
    /// progress before the seat, a frame before the Start.
    OutOfPlace {
        /// The id of the message.
        id: u8,
    },
    /// Progress of a player who is not in the room.
    UnknownPlayer(PlayerId),
    /// A frame that was there already.
    FrameWentBack {
        /// The lowest id that could have come.
        expected: FrameId,
        /// The id that came.
        got: FrameId,
    },
    /// A frame further ahead than a match can last.
    FrameFarAhead {
        /// The lowest id that could have come.
        expected: FrameId,
        /// The id that came.
        got: FrameId,
    },
    /// More than 60 frames in one message. They are delivered nevertheless.
    TooManyFrames(usize),
    /// A KCP message that is not exactly one packet. The packets are put together
    /// nevertheless, but the Unity client loses some of them.
    NotOnePacket,
    /// A KCP message over 64 KiB. Nothing behind it can be read: only
    /// [`Client::reconnect`] helps.
    MessageTooLarge,
}

/// What the game has asked for, and a reconnect asks for again.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    join: bool,
    ready: bool,
}

/// One player's side of a match.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    link: Link,
    sink: Sink,
    reader: PacketReader,
    /// For messages that come out of KCP. It grows to what the largest one needs.
    buffer: Vec<u8>,
    /// Nothing more can be read from this conversation.
    stuck: bool,
    /// Events are waiting in such numbers that messages were left inside KCP.
    held_back: bool,
    /// Those have been read: the server must hear that KCP's window is open again.
    tell_window: bool,

    state: ClientState,
    wishes: Wishes,
    seat: Option<i32>,
    others: Vec<(PlayerId, Percent)>,
    seed: Option<i32>,
    /// The match of this conversation, in v2.
    match_id: Option<MatchId>,
    /// Frames that are held back from a spectator.
    watch_delay: Option<FrameId>,
    /// What the conversations before have brought of a match.
    held: Option<Held>,
    /// The lowest id that the next frame of the wire may have, `None` before the Start.
    /// It runs ahead of `next_frame` by what waits in `events`.
    frame_expected: Option<FrameId>,

    /// Events that wait. A frame here stands for the empty ones skipped before it, too.
    events: VecDeque<ClientEvent>,
    /// The id of the next frame that is delivered.
    next_frame: FrameId,

    heartbeat_at: Option<Time>,
    heard_at: Time,
    dropped: u64,
}

impl Client {
    /// A client that begins to connect at once.
    pub fn new(now: Time, config: ClientConfig) -> Client {
        // Where the datagrams go is the driver's business; the sink wants some address.
        let sink = Sink::new(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)));
        let link = Link::trusting(config.conv, config.clock_base, sink.clone());
        let mut client = Client {
            heartbeat_at: config.heartbeat_every.map(|every| now + every),
            config,
            link,
            sink,
            reader: PacketReader::default(),
            buffer: vec![0; DATAGRAM_MAX],
            stuck: false,
            held_back: false,
            tell_window: false,
            state: ClientState::Connecting,
            wishes: Wishes::default(),
            seat: None,
            others: Vec::new(),
            seed: None,
            match_id: None,
            watch_delay: None,
            held: None,
            frame_expected: None,
            events: VecDeque::new(),
            next_frame: 0,
            heard_at: now,
            dropped: 0,
        };
        client.say_connect();
        client
    }

    // --- Getters --------------------------------------------------------------------------

    /// How far the client has come, by what has arrived: events may still wait.
    pub fn state(&self) -> ClientState {
        self.state
    }

    /// The player.
    pub fn player(&self) -> PlayerId {
        self.config.player
    }

    /// The room.
    pub fn room(&self) -> RoomId {
        self.config.room
    }

    /// KCP's conversation.
    pub fn conv(&self) -> Conv {
        self.link.conv()
    }

    /// Own seat, counted from 1; `None` before the first answer to a JoinRoom.
    pub fn seat(&self) -> Option<i32> {
        self.seat
    }

    /// The other players and their newest progress, in the order of their seats.
    pub fn others(&self) -> &[(PlayerId, Percent)] {
        &self.others
    }

    /// The seed that everyone in the match gets; `None` before the first answer to a
    /// JoinRoom.
    pub fn seed(&self) -> Option<i32> {
        self.seed
    }

    /// Frames by which a spectator sees the match late; `None` for a player, and before the answer
    /// to the Connect.
    pub fn watch_delay(&self) -> Option<FrameId> {
        self.watch_delay
    }

    /// The id of the next frame that [`Client::poll_event`] delivers.
    pub fn next_frame(&self) -> FrameId {
        self.next_frame
    }

    /// The smoothed round trip, `None` before the first acknowledgement.
    pub fn rtt(&self) -> Option<Duration> {
        self.link.srtt()
    }

    /// Messages that wait to be sent or acknowledged.
    pub fn backlog(&self) -> usize {
        self.link.backlog()
    }

    /// The time since the last datagram that was the server's, or since the beginning of
    /// the conversation.
    pub fn silent_for(&self, now: Time) -> Duration {
        now.since(self.heard_at)
    }

    /// Datagrams that were thrown away because they were not of this conversation.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    // --- Handle ---------------------------------------------------------------------------

    /// Takes in a datagram that came from the server's address. What is not of this
    /// conversation is thrown away and counted.
    pub fn handle_datagram(&mut self, now: Time, datagram: &mut [u8]) {
        let heard = Datagram::parse(datagram).and_then(|mut datagram| {
            if datagram.first().conv == self.link.conv().0 {
                self.link.input(now, &mut datagram)
            } else {
                Err(Drop::WrongConv)
            }
        });
        match heard {
            Ok(_) => {
                self.heard_at = now;
                self.receive();
            }
            Err(_) => self.dropped += 1,
        }
    }

    /// Does what is due: call it when the moment that [`Client::poll_timeout`] named has
    /// come. Earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.heartbeat_at.is_none_or(|at| at > now) {
            return;
        }
        if self.state >= ClientState::Connected && self.link.backlog() < DROPPABLE_BACKLOG_MAX {
            self.heartbeat();
        }
        self.heartbeat_at = self.config.heartbeat_every.map(|every| now + every);
    }

    // --- Poll -----------------------------------------------------------------------------

    /// The next event, `None` if there is none for now.
    ///
    /// Take them all in every turn: about a thousand are kept, and then the client reads no
    /// more, which in the end holds the server back.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        if self.events.is_empty() {
            self.tell_window |= std::mem::take(&mut self.held_back);
            self.receive();
        }
        match self.events.front()? {
            ClientEvent::Frame(frame) => {
                let id = self.next_frame;
                let skipped = id < frame.id;
                self.next_frame = id.wrapping_add(1);
                if skipped {
                    let inputs = Vec::new();
                    return Some(ClientEvent::Frame(Frame { id, inputs }));
                }
            }
            ClientEvent::Started { next, .. } => self.next_frame = *next,
            _ => {}
        }
        self.events.pop_front()
    }

    /// Flushes once and exchanges what is to be sent for `batch`, whose content is thrown
    /// away. Send all of it to the server; the addresses in the batch mean nothing.
    pub fn poll_transmit(&mut self, now: Time, batch: &mut Transmits) {
        batch.clear();
        if self.wants_flush(now) {
            self.link.flush(now);
            self.tell_window = false;
        }
        self.sink.swap(batch);
    }

    /// When [`Client::handle_timeout`] and [`Client::poll_transmit`] must be called though
    /// nothing happens; a moment that is not in the future means now.
    pub fn poll_timeout(&self, now: Time) -> Option<Time> {
        if self.wants_flush(now) || !self.sink.is_empty() {
            return Some(now);
        }
        let beat = self.heartbeat_at;
        [self.link.next_flush(now), beat]
            .into_iter()
            .flatten()
            .min()
    }

    fn wants_flush(&self, now: Time) -> bool {
        let due = || self.link.next_flush(now).is_some_and(|at| at <= now);
        self.link.wants_flush() || self.link.owes_ack() || self.tell_window || due()
    }

    // --- Commands -------------------------------------------------------------------------
    //
    // Each says whether it was sent or, for `join` and `ready`, remembered. It was not if it
    // makes no sense in the present state, or if so much waits that the server must be gone.

    /// Asks once more, after a refusal: the room may exist by now.
    pub fn connect(&mut self) -> bool {
        if self.state != ClientState::Refused {
            return false;
        }
        self.state = ClientState::Connecting;
        self.say_connect()
    }

    /// Takes the seat: at once when connected, else as soon as that has happened.
    pub fn join(&mut self) -> bool {
        self.wishes.join = true;
        self.state < ClientState::Connected || self.say_in_room(&Uplink::JoinRoom)
    }

    /// Tells how much of the game is loaded; the other players get to know it. It makes sense
    /// once the seat is taken.
    pub fn progress(&mut self, percent: Percent) -> bool {
        self.state >= ClientState::Joined
            && self.plays()
            && self.say_in_room(&Uplink::Progress(percent))
    }

    /// Asks for the match to start, at once when the seat is taken, else as soon as that has
    /// happened. In a match that runs it fetches everything again from frame 0, at most once a
    /// second.
    pub fn ready(&mut self) -> bool {
        self.wishes.ready = true;
        match self.state {
            ClientState::Closed => false,
            ClientState::Joined => self.say_ready(),
            state => state < ClientState::Joined || self.say_in_room(&Uplink::Ready),
        }
    }

    /// Does something in the game. It happens, for everyone, in the frame that brings it
    /// back. It makes sense while the match runs.
    pub fn input(&mut self, command: Command) -> bool {
        self.state == ClientState::Playing && self.plays() && self.say(&Uplink::Input(command))
    }

    /// Tells who has won, by this player's account. It makes sense while the match runs.
    pub fn result(&mut self, winner: u64) -> bool {
        self.state == ClientState::Playing && self.plays() && self.say(&Uplink::Result { winner })
    }

    /// Gives a sign of life besides the regular ones.
    pub fn heartbeat(&mut self) -> bool {
        self.state != ClientState::Closed && self.say(&Uplink::Heartbeat)
    }

    /// Asks for up to 1024 bytes to be sent back, which the server does until the seat is
    /// taken.
    pub fn echo(&mut self, bytes: &[u8]) -> bool {
        bytes.len() <= UPLINK_BODY_MAX && self.say(&Uplink::Echo(bytes))
    }

    /// Says anything in any state, whether it makes sense or not: for tests of servers.
    pub fn say(&mut self, message: &Uplink<'_>) -> bool {
        if self.link.backlog() >= BACKLOG_MAX {
            return false;
        }
        let mut bytes = Vec::with_capacity(64);
        message.encode(&mut bytes);
        self.link.send(&bytes);
        true
    }

    /// Begins a new conversation, after a silence or on a new socket: it connects, and joins
    /// and is ready if that had been asked for. A [`ClientEvent::Started`] follows, and in v2 the
    /// frames after those that came before, in v1 all from 0. Events that wait are still delivered; what was not sent yet is not.
    pub fn reconnect(&mut self, now: Time, conv: Conv, clock_base: u32) {
        self.config.conv = conv;
        self.config.clock_base = clock_base;
        self.sink.swap(&mut Transmits::default());
        self.link = Link::trusting(conv, clock_base, self.sink.clone());
        self.reader = PacketReader::default();
        self.stuck = false;
        self.held_back = false;
        self.state = ClientState::Connecting;
        if let (Some(match_id), Some(next)) = (self.match_id, self.frame_expected) {
            self.held = Some(Held { match_id, next });
        }
        self.match_id = None;
        self.frame_expected = None;
        self.heard_at = now;
        self.heartbeat_at = self.config.heartbeat_every.map(|every| now + every);
        self.say_connect();
    }

    // --- Inside ---------------------------------------------------------------------------

    fn say_connect(&mut self) -> bool {
        let (player, room) = (self.config.player, self.config.room);
        let token = self.config.token.clone();
        let message = match self.config.watch {
            Some(from) => Uplink::Watch {
                player,
                room,
                token,
                from,
            },
            None => Uplink::Connect {
                player,
                room,
                token,
                version: self.config.version,
            },
        };
        let mut bytes = Vec::with_capacity(64);
        // A token that no packet holds gets the answer that it would get from a server.
        if self.config.token.len() < UPLINK_BODY_MAX {
            message.encode(&mut bytes);
        }
        if bytes.is_empty() || bytes.len() > UPLINK_BODY_MAX + packet::HEADER {
            self.refused(ConnectCode::Token);
            return false;
        }
        self.link.send(&bytes);
        true
    }

    fn plays(&self) -> bool {
        self.config.watch.is_none()
    }

    fn say_in_room(&mut self, message: &Uplink<'_>) -> bool {
        self.state != ClientState::Closed && self.say(message)
    }

    /// Reads what KCP has put together, as long as there is room for events.
    fn receive(&mut self) {
        while !self.stuck {
            if self.events.len() >= CLIENT_EVENTS_MAX {
                self.held_back = true;
                return;
            }
            match self.link.recv(&mut self.buffer) {
                Ok(None) => return,
                Ok(Some(len)) => self.read_message(len),
                Err(Disconnect::MessageTooLarge) if self.buffer.len() < MESSAGE_MAX => {
                    let larger = (self.buffer.len() * 2).min(MESSAGE_MAX);
                    self.buffer.resize(larger, 0);
                }
                Err(_) => {
                    self.stuck = true;
                    self.fault(ClientFault::MessageTooLarge);
                }
            }
        }
    }

    /// Reads the packets of a message, which should be one.
    fn read_message(&mut self, len: usize) {
        let mut reader = std::mem::take(&mut self.reader);
        let mut whole = reader.waiting() == 0;
        reader.push(&self.buffer[..len]);
        let mut packets = 0;
        while let Some(packet) = reader
            .next(DOWNLINK_BODY_MAX)
            .expect("no length field says more than the bound")
        {
            packets += 1;
            self.read_packet(packet);
        }
        whole &= packets == 1 && reader.waiting() == 0;
        self.reader = reader;
        if !whole {
            self.fault(ClientFault::NotOnePacket);
        }
    }

    fn read_packet(&mut self, packet: Packet<'_>) {
        let id = packet.id;
        if self.state == ClientState::Closed {
            return;
        }
        let message = match Downlink::decode(packet) {
            Ok(message) => message,
            Err(Drop::UnknownMessage) => return self.fault(ClientFault::UnknownMessage { id }),
            Err(_) => return self.fault(ClientFault::Malformed { id }),
        };
        if self.state < earliest(&message) {
            return self.fault(ClientFault::OutOfPlace { id });
        }
        match message {
            // A server that knows of no spectators has given a seat.
            Downlink::Connect(ConnectCode::Ok)
            | Downlink::Welcome(Welcome {
                watch_delay: None, ..
            }) if !self.plays() => self.refused(ConnectCode::NoWatch),
            Downlink::Connect(ConnectCode::Ok) => self.connected(),
            Downlink::Connect(code) => self.refused(code),
            Downlink::Welcome(welcome) => {
                self.match_id = Some(welcome.match_id);
                self.watch_delay = welcome.watch_delay;
                self.held = self.held.filter(|held| held.match_id == welcome.match_id);
                self.connected();
            }
            Downlink::Heartbeat => self.events.push_back(ClientEvent::HeartbeatAnswered),
            Downlink::JoinRoom { seat, others, seed } => self.joined(seat, others, seed),
            Downlink::Progress { player, percent } => self.progressed(player, percent),
            Downlink::Ready => self.advance(ClientState::Ready, ClientEvent::Ready),
            Downlink::Start {
                unix_seconds,
                follows,
            } => self.started(id, unix_seconds, follows),
            Downlink::Frames(body) => self.frames(id, body),
            Downlink::Result => self.events.push_back(ClientEvent::ResultAcknowledged),
            Downlink::Close => self.advance(ClientState::Closed, ClientEvent::Closed),
            Downlink::Echo(body) => self.events.push_back(ClientEvent::Echo(body.to_vec())),
        }
    }

    fn connected(&mut self) {
        self.advance(ClientState::Connected, ClientEvent::Connected);
        if self.wishes.join {
            self.say(&Uplink::JoinRoom);
        }
    }

    fn refused(&mut self, code: ConnectCode) {
        if self.state < ClientState::Connected {
            self.state = ClientState::Refused;
        }
        self.events.push_back(ClientEvent::Refused(code));
    }

    fn joined(&mut self, seat: i32, others: Vec<(PlayerId, Percent)>, seed: i32) {
        let first = self.state < ClientState::Joined;
        self.seat = Some(seat);
        self.seed = Some(seed);
        self.others.clone_from(&others);
        self.advance(
            ClientState::Joined,
            ClientEvent::Joined { seat, others, seed },
        );
        if first && self.wishes.ready {
            self.say_ready();
        }
    }

    /// Ready, and how much of the match is there already.
    fn say_ready(&mut self) -> bool {
        let message = match self.held {
            Some(held) if self.match_id == Some(held.match_id) => Uplink::Resume(held),
            _ => Uplink::Ready,
        };
        self.say(&message)
    }

    fn started(&mut self, message_id: u8, unix_seconds: i64, follows: Option<Follows>) {
        let Follows { next, head } = follows.unwrap_or(Follows { next: 0, head: 0 });
        let anywhere = self.config.watch == Some(WatchFrom::Newest);
        if next > 0 && !anywhere && self.held.is_none_or(|held| held.next != next) {
            // Nobody has asked for these.
            return self.fault(ClientFault::OutOfPlace { id: message_id });
        }
        self.frame_expected = Some(next);
        let event = ClientEvent::Started {
            unix_seconds,
            next,
            head,
        };
        self.advance(ClientState::Playing, event);
    }

    fn progressed(&mut self, player: PlayerId, percent: Percent) {
        let Some(other) = self.others.iter_mut().find(|(id, _)| *id == player) else {
            return self.fault(ClientFault::UnknownPlayer(player));
        };
        other.1 = percent;
        self.events
            .push_back(ClientEvent::Progress { player, percent });
    }

    fn frames(&mut self, message_id: u8, body: &[u8]) {
        let Ok(frames) = decode_frames(body) else {
            return self.fault(ClientFault::Malformed { id: message_id });
        };
        if frames.len() > FRAMES_PER_MESSAGE_MAX {
            self.fault(ClientFault::TooManyFrames(frames.len()));
        }
        for frame in frames {
            self.frame(message_id, frame);
        }
    }

    fn frame(&mut self, message_id: u8, frame: Frame) {
        let got = frame.id;
        let Some(expected) = self.frame_expected else {
            return self.fault(ClientFault::OutOfPlace { id: message_id });
        };
        if got < expected {
            return self.fault(ClientFault::FrameWentBack { expected, got });
        }
        if got >= *FRAMES_RANGE.end() {
            return self.fault(ClientFault::FrameFarAhead { expected, got });
        }
        self.frame_expected = Some(got + 1);
        self.events.push_back(ClientEvent::Frame(frame));
    }

    /// Tells what has happened, and goes on to `state` unless the client is further already.
    fn advance(&mut self, state: ClientState, event: ClientEvent) {
        self.state = self.state.max(state);
        self.events.push_back(event);
    }

    fn fault(&mut self, fault: ClientFault) {
        self.events.push_back(ClientEvent::Fault(fault));
    }
}

/// The first state in which a message may come.
fn earliest(message: &Downlink<'_>) -> ClientState {
    match message {
        Downlink::Connect(_)
        | Downlink::Welcome(_)
        | Downlink::Heartbeat
        | Downlink::Echo(_)
        | Downlink::Close => ClientState::Connecting,
        Downlink::JoinRoom { .. } => ClientState::Connected,
        // The match also starts without the player's being ready, when the time is up.
        Downlink::Progress { .. } | Downlink::Ready | Downlink::Start { .. } => ClientState::Joined,
        Downlink::Frames(_) | Downlink::Result => ClientState::Playing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::id::Seat;
    use crate::engine::wire::frame::{FrameInput, encode_frame, encode_input};
    use crate::engine::wire::message::may_begin_connect;
    use crate::engine::wire::segment::Segments;

    /// A client, and a server that says what the test wants it to.
    struct Match {
        client: Client,
        server: Link,
        sink: Sink,
        now: Time,
    }

    fn sink() -> Sink {
        Sink::new("127.0.0.1:1".parse().unwrap())
    }

    fn config() -> ClientConfig {
        ClientConfig {
            conv: Conv(7),
            clock_base: u32::MAX - 3,
            ..ClientConfig::new(PlayerId(1), RoomId(9))
        }
    }

    impl Match {
        fn new() -> Match {
            Match::with(config())
        }

        fn with(config: ClientConfig) -> Match {
            let now = Time::from_millis(1);
            let sink = sink();
            Match {
                server: Link::new(config.conv, 99, sink.clone()),
                client: Client::new(now, config),
                sink,
                now,
            }
        }

        /// A match in which the client has come as far as the Start.
        fn started() -> Match {
            let mut all = Match::new();
            all.client.join();
            all.client.ready();
            all.up();
            all.tell(&Downlink::Connect(ConnectCode::Ok));
            all.up();
            all.tell(&joined());
            all.up();
            all.tell(&Downlink::Ready);
            all.tell(&Downlink::Start {
                unix_seconds: 5,
                follows: None,
            });
            assert_eq!(all.client.state(), ClientState::Playing);
            while all.client.poll_event().is_some() {}
            all
        }

        fn pass(&mut self, ms: u64) {
            self.now = self.now + Duration::from_millis(ms);
            self.client.handle_timeout(self.now);
        }

        fn datagrams(&mut self) -> Vec<Vec<u8>> {
            let mut batch = Transmits::default();
            self.client.poll_transmit(self.now, &mut batch);
            batch.iter().map(|(_, bytes)| bytes.to_vec()).collect()
        }

        /// Carries the client's datagrams to the server and returns its messages.
        fn up(&mut self) -> Vec<Vec<u8>> {
            for mut bytes in self.datagrams() {
                let mut datagram = Datagram::parse(&mut bytes).unwrap();
                self.server.input(self.now, &mut datagram).unwrap();
            }
            let mut buffer = [0; 4096];
            let mut all = Vec::new();
            while let Some(len) = self.server.recv(&mut buffer).unwrap() {
                all.push(buffer[..len].to_vec());
            }
            all
        }

        /// Carries the server's datagrams to the client.
        fn down(&mut self) {
            self.server.flush(self.now);
            let mut batch = Transmits::default();
            self.sink.swap(&mut batch);
            for (_, datagram) in batch.iter() {
                self.client
                    .handle_datagram(self.now, &mut datagram.to_vec());
            }
        }

        fn send(&mut self, message: &[u8]) {
            self.server.send(message);
            self.down();
        }

        fn tell(&mut self, message: &Downlink<'_>) {
            self.send(&packet_of(message));
        }

        fn events(&mut self) -> Vec<ClientEvent> {
            std::iter::from_fn(|| self.client.poll_event()).collect()
        }

        fn faults(&mut self) -> Vec<ClientFault> {
            let fault = |event| match event {
                ClientEvent::Fault(fault) => Some(fault),
                _ => None,
            };
            self.events().into_iter().filter_map(fault).collect()
        }
    }

    fn packet_of(message: &Downlink<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    fn said(message: &Uplink<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    fn joined() -> Downlink<'static> {
        Downlink::JoinRoom {
            seat: 2,
            others: vec![(PlayerId(4), Percent::clamped(30))],
            seed: -5,
        }
    }

    fn command(x: i32) -> Command {
        Command { sid: 1, x, y: 0 }
    }

    /// The packet of a batch of frames, each with as many inputs as is said.
    fn batch(frames: &[(FrameId, i32)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (id, count) in frames {
            let mut inputs = Vec::new();
            for x in 0..*count {
                encode_input(&mut inputs, PlayerId(4), Seat::from_index(0), command(x));
            }
            encode_frame(&mut body, *id, &inputs);
        }
        packet_of(&Downlink::Frames(&body))
    }

    fn frame(id: FrameId, count: i32) -> ClientEvent {
        let input = |x| FrameInput {
            player: PlayerId(4),
            seat: 1,
            command: command(x),
        };
        let inputs = (0..count).map(input).collect();
        ClientEvent::Frame(Frame { id, inputs })
    }

    #[test]
    fn a_connect_leaves_at_once_and_may_begin_a_conversation() {
        let mut all = Match::new();
        assert_eq!(all.client.poll_timeout(all.now), Some(all.now));
        let datagrams = all.datagrams();
        assert_eq!(datagrams.len(), 1);
        let first = Segments::of_output(&datagrams[0]).next().unwrap();
        assert_eq!((first.conv, first.sn, first.una), (7, 0, 0));
        assert!(may_begin_connect(first.data, UPLINK_BODY_MAX));
        assert!(all.client.poll_timeout(all.now) > Some(all.now));
    }

    #[test]
    fn the_same_calls_give_the_same_bytes() {
        let run = || {
            let mut all = Match::started();
            all.client.input(command(3));
            all.pass(2000);
            all.send(&batch(&[(0, 1)]));
            all.datagrams()
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn join_and_ready_wait_for_their_turn() {
        let mut all = Match::new();
        assert!(all.client.ready() && all.client.join());
        let connect = said(&Uplink::Connect {
            player: PlayerId(1),
            room: RoomId(9),
            token: String::new(),
            version: Version::V2,
        });
        assert_eq!(all.up(), [connect]);
        all.tell(&Downlink::Connect(ConnectCode::Ok));
        assert_eq!(all.up(), [said(&Uplink::JoinRoom)]);
        all.tell(&joined());
        assert_eq!(all.up(), [said(&Uplink::Ready)]);
        assert_eq!((all.client.seat(), all.client.seed()), (Some(2), Some(-5)));
        all.tell(&Downlink::Ready);
        assert_eq!(all.client.state(), ClientState::Ready);
        let others = vec![(PlayerId(4), Percent::clamped(30))];
        let expected = [
            ClientEvent::Connected,
            ClientEvent::Joined {
                seat: 2,
                others,
                seed: -5,
            },
            ClientEvent::Ready,
        ];
        assert_eq!(all.events(), expected);
    }

    #[test]
    fn what_makes_no_sense_yet_is_not_sent() {
        let mut all = Match::new();
        all.up();
        assert!(!all.client.input(command(1)));
        assert!(!all.client.progress(Percent::FULL));
        assert!(!all.client.result(1));
        assert!(!all.client.connect());
        assert!(!all.client.echo(&[0; UPLINK_BODY_MAX + 1]));
        assert_eq!(all.up(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn after_a_refusal_it_can_ask_again() {
        let mut all = Match::new();
        all.client.join();
        all.up();
        all.tell(&Downlink::Connect(ConnectCode::NoRoom));
        assert_eq!(all.events(), [ClientEvent::Refused(ConnectCode::NoRoom)]);
        assert_eq!(all.client.state(), ClientState::Refused);
        assert!(all.client.connect());
        assert_eq!(all.up().len(), 1);
        all.tell(&Downlink::Connect(ConnectCode::Ok));
        assert_eq!(all.events(), [ClientEvent::Connected]);
        assert_eq!(all.up(), [said(&Uplink::JoinRoom)]);
    }

    #[test]
    fn a_token_that_no_packet_holds_is_refused_without_a_server() {
        let mut config = config();
        for (len, fits) in [(1000, true), (UPLINK_BODY_MAX - 4, false), (100_000, false)] {
            config.token = "t".repeat(len);
            let mut all = Match::with(config.clone());
            assert_eq!(all.up().len(), usize::from(fits), "{len} bytes");
            assert_eq!(all.events().len(), usize::from(!fits));
        }
    }

    #[test]
    fn a_spectator_says_what_it_wants_and_nothing_that_players_say() {
        let watch = Some(WatchFrom::Newest);
        let mut all = Match::with(ClientConfig { watch, ..config() });
        all.client.join();
        all.client.ready();
        let connect = said(&Uplink::Watch {
            player: PlayerId(1),
            room: RoomId(9),
            token: String::new(),
            from: WatchFrom::Newest,
        });
        assert_eq!(all.up(), [connect]);
        all.tell(&Downlink::Welcome(Welcome {
            match_id: MatchId(5),
            hz: 30,
            head: 70,
            watch_delay: Some(90),
        }));
        assert_eq!(all.client.watch_delay(), Some(90));
        assert_eq!(all.up(), [said(&Uplink::JoinRoom)]);
        all.tell(&joined());
        assert_eq!(all.up(), [said(&Uplink::Ready)]);
        let follows = Some(Follows { next: 70, head: 70 });
        all.tell(&Downlink::Start {
            unix_seconds: 5,
            follows,
        });
        all.send(&batch(&[(70, 1), (72, 0)]));
        let frames = all.events().split_off(3);
        assert_eq!(frames, [frame(70, 1), frame(71, 0), frame(72, 0)]);
        assert!(!all.client.input(command(1)) && !all.client.result(1));
        assert!(!all.client.progress(Percent::FULL));
        assert_eq!(all.up(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_spectator_wants_no_seat_from_a_server_that_knows_of_none() {
        let watch = Some(WatchFrom::Start);
        let welcome = Welcome {
            match_id: MatchId(5),
            hz: 30,
            head: 0,
            watch_delay: None,
        };
        for answer in [
            Downlink::Connect(ConnectCode::Ok),
            Downlink::Welcome(welcome),
        ] {
            let mut all = Match::with(ClientConfig { watch, ..config() });
            all.client.join();
            all.up();
            all.tell(&answer);
            assert_eq!(all.events(), [ClientEvent::Refused(ConnectCode::NoWatch)]);
            assert_eq!(all.up(), Vec::<Vec<u8>>::new(), "and does not join");
        }
    }

    #[test]
    fn progress_of_others_is_told_and_kept() {
        let mut all = Match::started();
        let (player, percent) = (PlayerId(4), Percent::clamped(70));
        all.tell(&Downlink::Progress { player, percent });
        assert_eq!(all.events(), [ClientEvent::Progress { player, percent }]);
        assert_eq!(all.client.others(), [(player, percent)]);
    }

    #[test]
    fn skipped_ids_are_delivered_as_empty_frames() {
        let mut all = Match::started();
        all.send(&batch(&[(2, 0)]));
        all.send(&batch(&[(3, 1), (5, 2)]));
        assert_eq!(all.client.next_frame(), 0);
        let expected = [0, 0, 0, 1, 0, 2].into_iter().zip(0..);
        let expected: Vec<_> = expected.map(|(inputs, id)| frame(id, inputs)).collect();
        assert_eq!(all.events(), expected);
        assert_eq!(all.client.next_frame(), 6);
    }

    #[test]
    fn a_second_start_begins_the_frames_anew() {
        let mut all = Match::started();
        all.send(&batch(&[(0, 1), (1, 0)]));
        assert!(all.client.ready());
        assert_eq!(all.up(), [said(&Uplink::Ready)]);
        all.send(&batch(&[(2, 1)]));
        all.tell(&Downlink::Start {
            unix_seconds: 5,
            follows: None,
        });
        all.send(&batch(&[(0, 1)]));
        let start = ClientEvent::Started {
            unix_seconds: 5,
            next: 0,
            head: 0,
        };
        let expected = [frame(0, 1), frame(1, 0), frame(2, 1), start, frame(0, 1)];
        assert_eq!(all.events(), expected);
    }

    #[test]
    fn a_reconnect_goes_the_whole_way_again_and_forgets_the_old_conversation() {
        let mut all = Match::started();
        all.send(&batch(&[(0, 1), (1, 0)]));
        all.client.input(command(1));
        all.server.send(&batch(&[(2, 0)]));
        all.server.flush(all.now);
        let mut late = Transmits::default();
        all.sink.swap(&mut late);

        all.client.reconnect(all.now, Conv(8), 0);
        all.server = Link::new(Conv(8), 1, all.sink.clone());
        for (_, datagram) in late.iter() {
            all.client.handle_datagram(all.now, &mut datagram.to_vec());
        }
        assert_eq!(all.client.dropped(), 1);
        assert_eq!(all.up().len(), 1, "the Connect alone");
        all.tell(&Downlink::Connect(ConnectCode::Ok));
        assert_eq!(all.up(), [said(&Uplink::JoinRoom)]);
        all.tell(&joined());
        assert_eq!(all.up(), [said(&Uplink::Ready)]);
        all.tell(&Downlink::Ready);
        all.tell(&Downlink::Start {
            unix_seconds: 5,
            follows: None,
        });
        all.send(&batch(&[(0, 1), (1, 0), (2, 0)]));
        let mut events = all.events();
        assert_eq!(
            events[..2],
            [frame(0, 1), frame(1, 0)],
            "what had come before"
        );
        events.drain(..2);
        assert_eq!(events[4..], [frame(0, 1), frame(1, 0), frame(2, 0)]);
    }

    #[test]
    fn result_close_and_echo_come_through_and_nothing_after_close() {
        let mut all = Match::started();
        all.up();
        assert!(all.client.result(4));
        assert_eq!(all.up(), [said(&Uplink::Result { winner: 4 })]);
        all.tell(&Downlink::Echo(b"abc"));
        all.tell(&Downlink::Result);
        all.tell(&Downlink::Close);
        all.send(&batch(&[(0, 0)]));
        let echo = ClientEvent::Echo(b"abc".to_vec());
        let expected = [echo, ClientEvent::ResultAcknowledged, ClientEvent::Closed];
        assert_eq!(all.events(), expected);
        assert!(!all.client.input(command(1)) && !all.client.ready());
        assert!(!all.datagrams().is_empty(), "Close is acknowledged");
    }

    #[test]
    fn heartbeats_come_by_the_clock_unless_nobody_takes_them() {
        let mut all = Match::started();
        all.up();
        let beat = all.client.poll_timeout(all.now).unwrap();
        assert_eq!(beat, Time::from_millis(2001));
        all.pass(1999);
        assert!(all.up().is_empty());
        all.pass(1);
        assert_eq!(all.up(), [said(&Uplink::Heartbeat)]);
        all.tell(&Downlink::Heartbeat);
        assert_eq!(all.events(), [ClientEvent::HeartbeatAnswered]);
        for _ in 0..1000 {
            all.pass(2000);
        }
        assert_eq!(all.client.backlog(), DROPPABLE_BACKLOG_MAX);
        while all.client.input(command(1)) {}
        assert_eq!(all.client.backlog(), BACKLOG_MAX);
        assert_eq!(all.client.silent_for(all.now), Duration::from_secs(2000));
    }

    #[test]
    fn every_breach_of_the_contract_is_told() {
        let unseated = |message: &[u8]| {
            let mut all = Match::new();
            all.up();
            all.send(message);
            all.faults()
        };
        let playing = |message: &[u8]| {
            let mut all = Match::started();
            all.send(&batch(&[(4, 0)]));
            all.send(message);
            all.faults()
        };
        let out_of_place = |id| [ClientFault::OutOfPlace { id }];
        let progress = packet_of(&Downlink::Progress {
            player: PlayerId(3),
            percent: Percent::FULL,
        });
        assert_eq!(unseated(&packet_of(&joined())), out_of_place(10));
        assert_eq!(unseated(&progress), out_of_place(20));
        assert_eq!(unseated(&batch(&[(0, 0)])), out_of_place(50));
        assert_eq!(
            unseated(&[0, 0, 60]),
            [ClientFault::UnknownMessage { id: 60 }]
        );
        assert_eq!(
            playing(&progress),
            [ClientFault::UnknownPlayer(PlayerId(3))]
        );
        assert_eq!(
            playing(&[0, 1, 50, 0xff]),
            [ClientFault::Malformed { id: 50 }]
        );
        let back = ClientFault::FrameWentBack {
            expected: 5,
            got: 4,
        };
        assert_eq!(playing(&batch(&[(4, 0)])), [back]);
        let (expected, got) = (5, u32::MAX);
        let ahead = ClientFault::FrameFarAhead { expected, got };
        assert_eq!(playing(&batch(&[(got, 0)])), [ahead]);
        let many: Vec<_> = (5..66).map(|id| (id, 0)).collect();
        assert_eq!(playing(&batch(&many)), [ClientFault::TooManyFrames(61)]);
        assert_eq!(playing(&[0, 0, 30, 0, 0, 30]), [ClientFault::NotOnePacket]);
        assert_eq!(playing(&[0, 1]), [ClientFault::NotOnePacket]);
        assert_eq!(playing(&vec![0; 70_000]), [ClientFault::MessageTooLarge]);
    }

    #[test]
    fn a_large_message_makes_the_buffer_grow() {
        let mut all = Match::started();
        all.send(&batch(&[(0, 2000)]));
        assert_eq!(all.events(), [frame(0, 2000)]);
    }

    #[test]
    fn a_driver_that_takes_no_events_holds_the_server_back_and_loses_nothing() {
        let mut all = Match::started();
        let ping = packet_of(&Downlink::Heartbeat);
        let total = 4 * CLIENT_EVENTS_MAX;
        (0..total).for_each(|_| all.server.send(&ping));
        for _ in 0..200 {
            all.down();
            all.up();
            all.pass(100);
        }
        assert_eq!(all.client.events.len(), CLIENT_EVENTS_MAX);
        assert!(all.server.backlog() > total / 2);
        let mut taken = 0;
        for _ in 0..200 {
            taken += all.events().len();
            all.up();
            all.down();
            all.pass(10);
        }
        assert_eq!(taken, total);
        assert_eq!(all.server.backlog(), 0);
    }
}
