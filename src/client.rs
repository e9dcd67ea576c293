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
//! With v2, [`Client::fetch`] asks for any frames that exist, for a replay or a check; they come
//! beside the frames of the match, as [`ClientEvent::Fetched`], and never instead of them.
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
//! # Another address, and a session that is gone
//!
//! When the client's address changes, because a phone goes from Wi-Fi to mobile or a router forgets
//! it, a session of v2 goes on: the client notices the silence and takes the session along. Bind a
//! new socket if the system has taken the old one away, and call [`Client::address_changed`] if you
//! know of the change, which spares the silence. Nothing is lost or repeated.
//!
//! [`ClientEvent::Reset`] says that the server knows the session no more: it was silent for too
//! long, or the server was started again. Call [`Client::reconnect`]; the match goes on where it was.
//!
//! # A room that is elsewhere
//!
//! Where several servers are one, a client of v2 may ask any of them: [`ClientEvent::Redirected`] says
//! where the room is. Open a new socket to that address and call [`Client::reconnect`]; what the client
//! holds of the match, and what it was asked to do, it keeps.
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
//! It never decides by itself that the server is gone: look at [`Client::silent_for`] and call
//! [`Client::reconnect`], from the same socket or a new one. It never leaves by itself
//! either: after [`ClientEvent::Closed`], poll once more so that the server learns that its
//! Close has come, then drop it. It is not `Send`: make it on the thread it lives on.

mod knocker;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::cluster::node::Address;
use crate::engine::drops::{Disconnect, Drop};
use crate::engine::id::{Conv, FrameId, MatchId, Percent, PlayerId, RoomId};
use crate::engine::link::Link;
use crate::engine::time::Time;
use crate::engine::transmit::{Sink, Transmits};
use crate::engine::wire::frame::{Command, Frame, Input, decode_frames};
use crate::engine::wire::message::{
    ConnectCode, Downlink, Fetch, Fetched, Follows, Held, Uplink, Version, WatchFrom, Welcome,
};
use crate::engine::wire::packet::{self, Packet, PacketReader};
use crate::engine::wire::pb::Id;
use crate::engine::wire::segment::Datagram;
use crate::engine::wire::signal::{SessionId, Signal};
use crate::limits::{
    BACKLOG_MAX, CLIENT_EVENTS_MAX, DATAGRAM_MAX, DOWNLINK_BODY_MAX, DROPPABLE_BACKLOG_MAX,
    FRAMES_PER_MESSAGE_MAX, FRAMES_RANGE, INPUT_DATA_RANGE, INPUTS_PER_PACKET_MAX, REDIRECTS_MAX,
    UPLINK_BODY_MAX,
};

use knocker::{Answer, Knocker};

/// Time between two heartbeats unless the configuration says otherwise, as the Unity client
/// is shipped.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);

/// Bytes of the largest message a server may send: one packet.
const MESSAGE_MAX: usize = DOWNLINK_BODY_MAX + packet::HEADER;

/// Bytes of the largest packet that a client may send.
const PACKET_MAX: usize = UPLINK_BODY_MAX + packet::HEADER;

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
    /// The server refused the Connect because its room is on another one, in v2: call
    /// [`Client::reconnect`] and speak through a new socket to this address. It comes in place of a
    /// refusal with [`ConnectCode::NoRoom`], and at most [`REDIRECTS_MAX`] times until a server has let
    /// the client in.
    Redirected {
        /// A host, which is a name, an IPv4 address or an IPv6 address in brackets, a colon and a port.
        address: String,
    },
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
    /// Some of the frames that [`Client::fetch`] has asked for: of those from `covers.from` to before
    /// `covers.until`, the ones with input. They come in order, and the last time `covers.until` is
    /// `covers.end`. That is less than was asked for if fewer exist.
    Fetched {
        /// What it covers.
        covers: Fetched,
        /// The frames with input among those; the others are empty.
        frames: Vec<Frame>,
    },
    /// The server has noted the result.
    ResultAcknowledged,
    /// The room is over: leave.
    Closed,
    /// An echo has come back.
    Echo(Vec<u8>),
    /// A heartbeat has been answered.
    HeartbeatAnswered,
    /// The server knows this session no more, and nothing else will come of it: call
    /// [`Client::reconnect`].
    Reset,
    /// Another client of the player has its seat, and nothing else will come. Do not reconnect by
    /// yourself, or the two take the seat from each other for ever.
    Replaced,
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
    /// Which history of it.
    history: u32,
    /// Bytes of data that an input may have.
    input_bytes_max: u32,
    /// How often frames were asked for: the number of the newest request.
    fetches: u32,
    /// The next frame that an answer to it may cover; `None` if it has none to come.
    fetch_expected: Option<FrameId>,
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
    /// Since when something waits for its acknowledgement.
    owed_since: Option<Time>,
    /// Asks the server about the session, in v2.
    knocker: Option<Knocker>,
    /// What a client that comes back has to say is said, without a wait for answers.
    said_all: bool,
    /// It was, in this conversation.
    spoke_ahead: bool,
    /// How often it was sent on since a server has let it in.
    redirects: u32,
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
            history: 0,
            input_bytes_max: 0,
            fetches: 0,
            fetch_expected: None,
            watch_delay: None,
            held: None,
            frame_expected: None,
            events: VecDeque::new(),
            next_frame: 0,
            heard_at: now,
            owed_since: None,
            knocker: None,
            said_all: false,
            spoke_ahead: false,
            redirects: 0,
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

    /// The name of the session, in v2; `None` before the server has let the client in, and once the
    /// session is known to be gone.
    pub fn session(&self) -> Option<SessionId> {
        Some(self.knocker.as_ref()?.pass().session)
    }

    /// Bytes of data that an input may have in this room; 0 if it may have none, as in v1.
    pub fn input_bytes_max(&self) -> u32 {
        self.input_bytes_max
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
        if Signal::is_one(datagram) {
            return self.handle_signal(now, datagram);
        }
        let heard = Datagram::parse(datagram).and_then(|mut datagram| {
            if datagram.first().conv == self.link.conv().0 {
                self.link.input(now, &mut datagram)
            } else {
                Err(Drop::WrongConv)
            }
        });
        match heard {
            Ok(_) => {
                self.heard(now);
                self.receive();
            }
            Err(_) => self.dropped += 1,
        }
    }

    /// Does what is due: call it when the moment that [`Client::poll_timeout`] named has
    /// come. Earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.knock_due().is_some_and(|at| at <= now) {
            self.knock(now);
        }
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
        self.owed_since = match self.link.backlog() {
            0 => None,
            _ => self.owed_since.or(Some(now)),
        };
        self.sink.swap(batch);
    }

    /// When [`Client::handle_timeout`] and [`Client::poll_transmit`] must be called though
    /// nothing happens; a moment that is not in the future means now.
    pub fn poll_timeout(&self, now: Time) -> Option<Time> {
        if self.wants_flush(now) || !self.sink.is_empty() {
            return Some(now);
        }
        let beat = self.heartbeat_at;
        [self.link.next_flush(now), beat, self.knock_due()]
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
        self.redirects = 0;
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

    /// The same with bytes beside it, for what the three numbers do not hold. It is refused if they
    /// are more than [`Client::input_bytes_max`].
    pub fn input_with(&mut self, command: Command, data: &[u8]) -> bool {
        let data = data.to_vec();
        let input = Input { command, data };
        self.may_input(&input) && self.say(&Uplink::Opaque(input))
    }

    /// Several inputs in one packet: they arrive together, in this order, and cost less. All or none
    /// are sent. It takes v2; 64 inputs and 1024 bytes are the most.
    pub fn inputs(&mut self, inputs: &[Input]) -> bool {
        let message = Uplink::Inputs(inputs.to_vec());
        let sane = (1..=INPUTS_PER_PACKET_MAX).contains(&inputs.len())
            && inputs.iter().all(|input| self.may_input(input));
        sane && self.match_id.is_some()
            && encoded(&message).len() <= PACKET_MAX
            && self.say(&message)
    }

    fn may_input(&self, input: &Input) -> bool {
        let fits = u32::try_from(input.data.len()).is_ok_and(|len| len <= self.input_bytes_max);
        self.state == ClientState::Playing && fits
    }

    /// Asks for the frames from `from` to before `end`, or for all from there on that exist:
    /// [`ClientEvent::Fetched`] brings them. It takes v2 and a match that has started; while a room
    /// that is over lingers, it still works. A request before that is not done is given up. Returns
    /// the number of the request, `None` if it was not sent.
    ///
    /// After [`Client::reconnect`], ask again.
    pub fn fetch(&mut self, from: FrameId, end: Option<FrameId>) -> Option<u32> {
        if self.state < ClientState::Playing || self.match_id.is_none() {
            return None;
        }
        let request = self.fetches.wrapping_add(1);
        let sent = self.say(&Uplink::Fetch(Fetch { request, from, end }));
        if sent {
            self.fetches = request;
            self.fetch_expected = Some(from);
        }
        sent.then_some(request)
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
        self.link.send(&encoded(message));
        true
    }

    /// Tells it that its address may have changed: the socket was bound anew, or the system says
    /// that the network is another one. It asks the server at once, where it would else do so after
    /// half a second of silence. False if it has no session that could go on.
    pub fn address_changed(&mut self) -> bool {
        let knocker = self.knocker.as_mut();
        knocker.map(Knocker::ask).is_some() && self.state != ClientState::Closed
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
            self.held = Some(Held {
                match_id,
                history: self.history,
                next,
            });
        }
        self.match_id = None;
        self.input_bytes_max = 0;
        self.fetch_expected = None;
        self.frame_expected = None;
        self.heard_at = now;
        self.owed_since = None;
        self.knocker = None;
        self.heartbeat_at = self.config.heartbeat_every.map(|every| now + every);
        let asked = self.say_connect();
        // Who has frames to go on from takes the seat and asks for the rest in the same breath: a
        // round trip instead of three, and one for the proof of its address.
        let held = self
            .held
            .filter(|_| asked && self.wishes.join && self.wishes.ready);
        self.said_all = held.is_some();
        self.spoke_ahead = self.said_all;
        if let Some(held) = held {
            self.say(&Uplink::JoinRoom);
            self.say(&Uplink::Resume(held));
        }
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
        let mut bytes = Vec::new();
        // A token that no packet holds gets the answer that it would get from a server.
        if self.config.token.len() < UPLINK_BODY_MAX {
            bytes = encoded(&message);
        }
        if bytes.is_empty() || bytes.len() > PACKET_MAX {
            self.refused(ConnectCode::Token);
            return false;
        }
        self.link.send(&bytes);
        true
    }

    fn plays(&self) -> bool {
        self.config.watch.is_none()
    }

    fn heard(&mut self, now: Time) {
        self.heard_at = now;
        self.knocker.iter_mut().for_each(Knocker::calm);
    }

    /// When the client asks the server whether it still knows it, if it can.
    fn knock_due(&self) -> Option<Time> {
        let knocker = self.knocker.as_ref();
        let knocker = knocker.filter(|_| self.state != ClientState::Closed)?;
        // To a spectator nothing is shown yet of a match that is younger than its delay.
        let shown = self.plays() || self.frame_expected > Some(0);
        let awaited = match self.state {
            ClientState::Playing if shown => Some(self.heard_at),
            _ => self.owed_since,
        };
        Some(knocker.due(self.heard_at, awaited, self.rtt().unwrap_or_default()))
    }

    fn knock(&mut self, now: Time) {
        let rtt = self.rtt().unwrap_or_default();
        if let Some(knocker) = &mut self.knocker {
            self.sink.push(&knocker.knock(now, rtt).to_bytes());
        }
    }

    fn handle_signal(&mut self, now: Time, datagram: &[u8]) {
        let signal = Signal::parse(datagram).ok();
        let knocker = self.knocker.as_mut();
        let answer = knocker
            .zip(signal)
            .and_then(|(own, signal)| own.hear(&signal));
        match answer {
            Some(Answer::Alive) => self.heard(now),
            Some(Answer::TakeAlong(answer)) => self.sink.push(&answer.to_bytes()),
            Some(Answer::Reset) => self.lost(ClientEvent::Reset),
            Some(Answer::Replaced) => self.lost(ClientEvent::Replaced),
            None => self.dropped += 1,
        }
    }

    /// The session is gone: it need not be asked about any more.
    fn lost(&mut self, event: ClientEvent) {
        self.knocker = None;
        self.events.push_back(event);
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
        // Of a room that is over, only history is of interest.
        let history = i32::from(id) == i32::from(Id::MsgFetched);
        if self.state == ClientState::Closed && !history {
            return;
        }
        let message = match Downlink::decode(packet) {
            Ok(message) => message,
            Err(Drop::UnknownMessage) => return self.fault(ClientFault::UnknownMessage { id }),
            Err(_) => return self.fault(ClientFault::Malformed { id }),
        };
        if self.state < earliest(&message) {
            if self.spoke_ahead {
                // The server forgot the session that had refused it, and lets it in now: KCP takes
                // the new Welcome for the refusal, and hands out only what follows. It asks again.
                self.dropped += 1;
                return;
            }
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
            Downlink::Elsewhere(address) => self.redirected(id, &address),
            Downlink::Welcome(welcome) => {
                self.match_id = Some(welcome.match_id);
                self.history = welcome.history;
                // No server of this contract says more, and no packet takes it.
                self.input_bytes_max = welcome.input_bytes_max.min(*INPUT_DATA_RANGE.end());
                self.watch_delay = welcome.watch_delay;
                self.held = self.held.filter(|held| held.match_id == welcome.match_id);
                let known = self.knocker.as_ref().map(Knocker::pass);
                if known != welcome.pass {
                    let conv = self.link.conv();
                    let knocker = |pass| Knocker::new(pass, conv, welcome.hz);
                    self.knocker = welcome.pass.map(knocker);
                }
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
            Downlink::Fetched(covers, body) => self.fetched(id, covers, body),
            Downlink::Result => self.events.push_back(ClientEvent::ResultAcknowledged),
            Downlink::Close => self.advance(ClientState::Closed, ClientEvent::Closed),
            Downlink::Echo(body) => self.events.push_back(ClientEvent::Echo(body.to_vec())),
        }
    }

    fn connected(&mut self) {
        self.redirects = 0;
        self.advance(ClientState::Connected, ClientEvent::Connected);
        if self.wishes.join && !self.said_all {
            self.say(&Uplink::JoinRoom);
        }
    }

    fn refused(&mut self, code: ConnectCode) {
        self.turned_away(ClientEvent::Refused(code));
    }

    /// Servers that send a client on to each other for ever are none that have its room.
    fn redirected(&mut self, message_id: u8, address: &Address) {
        let asked = self.config.version >= Version::V2 || !self.plays();
        if !asked {
            self.fault(ClientFault::OutOfPlace { id: message_id });
        }
        if !asked || self.redirects >= REDIRECTS_MAX {
            return self.refused(ConnectCode::NoRoom);
        }
        self.redirects += 1;
        let address = address.as_str().to_owned();
        self.turned_away(ClientEvent::Redirected { address });
    }

    fn turned_away(&mut self, event: ClientEvent) {
        if self.state == ClientState::Refused {
            // The server forgot the session that had said so, and answers the same Connect again.
            self.dropped += 1;
            return;
        }
        self.said_all = false;
        if self.state < ClientState::Connected {
            self.state = ClientState::Refused;
        }
        self.events.push_back(event);
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
        if first && self.wishes.ready && !self.said_all {
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

    fn fetched(&mut self, message_id: u8, covers: Fetched, body: &[u8]) {
        let older = self.fetches.wrapping_sub(covers.request);
        if (1..self.fetches).contains(&older) {
            // Another request has taken its place.
            return;
        }
        let Some(expected) = self.fetch_expected.filter(|_| older == 0) else {
            return self.fault(ClientFault::OutOfPlace { id: message_id });
        };
        let Ok(frames) = decode_frames(body) else {
            return self.fault(ClientFault::Malformed { id: message_id });
        };
        // Beyond the head there was nothing, and the answer says how far that was.
        let nothing = covers.from == covers.end && covers.from < expected;
        let begins = covers.from == expected || nothing;
        let within = |frame: &Frame| (covers.from..covers.until).contains(&frame.id);
        let ascending = frames.windows(2).all(|pair| pair[0].id < pair[1].id);
        if !begins || !frames.iter().all(within) || !ascending {
            return self.fault(ClientFault::Malformed { id: message_id });
        }
        self.fetch_expected = Some(covers.until).filter(|until| *until < covers.end);
        self.events
            .push_back(ClientEvent::Fetched { covers, frames });
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

/// A message as a packet.
fn encoded(message: &Uplink<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    message.encode(&mut bytes);
    bytes
}

/// The first state in which a message may come.
fn earliest(message: &Downlink<'_>) -> ClientState {
    match message {
        Downlink::Connect(_)
        | Downlink::Elsewhere(_)
        | Downlink::Welcome(_)
        | Downlink::Heartbeat
        | Downlink::Echo(_)
        | Downlink::Close => ClientState::Connecting,
        Downlink::JoinRoom { .. } | Downlink::Fetched(..) => ClientState::Connected,
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
    use crate::engine::wire::message::{Welcome, may_begin_connect};
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
                let (player, seat) = (PlayerId(4), Seat::from_index(0));
                encode_input(&mut inputs, player, seat, command(x), &[]);
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
            data: Vec::new(),
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
            history: 0,
            input_bytes_max: 0,
            pass: None,
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
            history: 0,
            input_bytes_max: 0,
            pass: None,
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

    /// A match of v2 that has started.
    fn started_in_v2() -> Match {
        let mut all = Match::new();
        all.client.join();
        all.client.ready();
        all.up();
        all.tell(&Downlink::Welcome(Welcome {
            watch_delay: None,
            history: 0,
            pass: None,
            match_id: MatchId(5),
            hz: 30,
            head: 100,
            input_bytes_max: u32::MAX,
        }));
        all.up();
        all.tell(&joined());
        all.up();
        let follows = Some(Follows { next: 0, head: 100 });
        all.tell(&Downlink::Start {
            unix_seconds: 5,
            follows,
        });
        all.events();
        all
    }

    fn fetched(request: u32, from: FrameId, until: FrameId, end: FrameId) -> Fetched {
        let head = 100;
        Fetched {
            request,
            from,
            until,
            end,
            head,
        }
    }

    #[test]
    fn frames_that_were_asked_for_come_beside_those_of_the_match() {
        let mut all = started_in_v2();
        assert_eq!(all.client.fetch(10, Some(14)), Some(1));
        let (request, from, end) = (1, 10, Some(14));
        assert_eq!(
            all.up(),
            [said(&Uplink::Fetch(Fetch { request, from, end }))]
        );
        let body = |message: &[u8]| message[packet::HEADER..].to_vec();
        let first = fetched(1, 10, 13, 14);
        all.tell(&Downlink::Fetched(
            first,
            &body(&batch(&[(10, 1), (12, 1)])),
        ));
        all.send(&batch(&[(0, 1)]));
        let last = fetched(1, 13, 14, 14);
        all.tell(&Downlink::Fetched(last, &[]));
        let event = |covers, ids: &[FrameId]| ClientEvent::Fetched {
            covers,
            frames: ids
                .iter()
                .map(|id| match frame(*id, 1) {
                    ClientEvent::Frame(frame) => frame,
                    _ => unreachable!("it is one"),
                })
                .collect(),
        };
        let expected = [event(first, &[10, 12]), frame(0, 1), event(last, &[])];
        assert_eq!(all.events(), expected);
    }

    #[test]
    fn answers_that_nobody_waits_for_are_passed_over_or_told() {
        let mut all = started_in_v2();
        let answer = |covers| packet_of(&Downlink::Fetched(covers, &[]));
        let out_of_place = [ClientFault::OutOfPlace { id: 103 }];
        let malformed = [ClientFault::Malformed { id: 103 }];
        all.send(&answer(fetched(1, 0, 1, 1)));
        assert_eq!(all.faults(), out_of_place);
        assert_eq!(all.client.fetch(0, None), Some(1));
        assert_eq!(all.client.fetch(50, None), Some(2));
        all.send(&answer(fetched(1, 0, 9, 100)));
        assert_eq!(all.events(), [], "another has taken its place");
        for wrong in [
            fetched(2, 49, 60, 100),
            fetched(2, 51, 60, 100),
            fetched(2, 60, 50, 100),
            fetched(2, 50, 60, 101),
        ] {
            all.send(&answer(wrong));
            assert_eq!(all.faults(), malformed, "{wrong:?}");
        }
        let mut outside = packet_of(&Downlink::Fetched(fetched(2, 50, 60, 100), &[]));
        outside.splice(packet::HEADER..packet::HEADER, [0x0a, 2, 8, 60]);
        outside[1] += 4;
        all.send(&outside);
        assert_eq!(all.faults(), malformed);
        all.send(&answer(fetched(2, 50, 100, 100)));
        assert_eq!(all.events().len(), 1);
        all.send(&answer(fetched(2, 100, 100, 100)));
        assert_eq!(all.faults(), out_of_place, "it was done");
        assert_eq!(all.client.fetch(500, None), Some(3));
        all.send(&answer(fetched(3, 99, 99, 99)));
        assert_eq!(all.events().len(), 1, "it does not exist");
    }

    #[test]
    fn what_v1_has_not_is_not_sent_in_v1() {
        let mut all = Match::started();
        all.up();
        let input = |data: &[u8]| Input {
            command: command(1),
            data: data.to_vec(),
        };
        assert_eq!(all.client.fetch(0, None), None);
        assert!(!all.client.inputs(&[input(&[])]));
        assert!(!all.client.input_with(command(1), &[1]));
        assert!(all.client.input_with(command(1), &[]));
        assert_eq!(all.up(), [said(&Uplink::Input(command(1)))]);
        // What no server of the contract says is not believed.
        let all = started_in_v2();
        assert_eq!(all.client.input_bytes_max(), *INPUT_DATA_RANGE.end());
    }

    #[test]
    fn history_comes_also_after_the_close() {
        let mut all = started_in_v2();
        all.tell(&Downlink::Close);
        assert_eq!(all.events(), [ClientEvent::Closed]);
        assert_eq!(all.client.fetch(99, None), Some(1));
        let covers = fetched(1, 99, 100, 100);
        all.tell(&Downlink::Fetched(covers, &[]));
        let frames = Vec::new();
        assert_eq!(all.events(), [ClientEvent::Fetched { covers, frames }]);
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
