//! Messages of v1 and v2 as typed values, in both directions.
//!
//! [`Uplink`] is what a client says and [`Downlink`] what the server says. Each encodes to
//! and decodes from a packet, because the server and [`crate::client`] stand at opposite
//! ends of both. `battleID` of the wire becomes a room here, and nowhere else.

use prost::Message as _;

use super::frame::{Command, Input};
use super::packet::{self, Packet};
use super::pb::{self, Id};
use super::signal::{Pass, SessionId, SessionSecret};
use crate::cluster::node::Address;
use crate::engine::drops::Drop;
use crate::engine::id::{FrameId, MatchId, Percent, PlayerId, RoomId};
use crate::limits::INPUTS_PER_PACKET_MAX;

/// The server's answer to a Connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCode {
    /// Welcome.
    Ok,
    /// The player is no member of the room.
    NoPlayer,
    /// There is no such room.
    NoRoom,
    /// The room is over.
    RoomState,
    /// The token was refused.
    Token,
    /// Only to who asks to watch: the room lets nobody, or all its places are taken.
    NoWatch,
}

impl From<ConnectCode> for pb::Errorcode {
    fn from(code: ConnectCode) -> pb::Errorcode {
        match code {
            ConnectCode::Ok => pb::Errorcode::ErrOk,
            ConnectCode::NoPlayer => pb::Errorcode::ErrNoPlayer,
            ConnectCode::NoRoom => pb::Errorcode::ErrNoRoom,
            ConnectCode::RoomState => pb::Errorcode::ErrRoomState,
            ConnectCode::Token => pb::Errorcode::ErrToken,
            ConnectCode::NoWatch => pb::Errorcode::ErrNoWatch,
        }
    }
}

impl From<pb::Errorcode> for ConnectCode {
    fn from(code: pb::Errorcode) -> ConnectCode {
        match code {
            pb::Errorcode::ErrOk => ConnectCode::Ok,
            pb::Errorcode::ErrNoPlayer => ConnectCode::NoPlayer,
            pb::Errorcode::ErrNoRoom => ConnectCode::NoRoom,
            pb::Errorcode::ErrRoomState => ConnectCode::RoomState,
            pb::Errorcode::ErrToken => ConnectCode::Token,
            pb::Errorcode::ErrNoWatch => ConnectCode::NoWatch,
        }
    }
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The original's.
    #[default]
    V1,
    /// With resume, requests for frames, and data beside inputs.
    V2,
}

impl Version {
    /// What is spoken with a client that announces this number, 0 if none.
    fn announced(number: u32) -> Version {
        if number >= 2 {
            Version::V2
        } else {
            Version::V1
        }
    }

    /// The number on the wire; v1 has none.
    fn on_wire(self) -> Option<u32> {
        (self == Version::V2).then_some(2)
    }
}

/// From where on a spectator sees a match, unless it comes back and holds some of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// From frame 0.
    Start,
    /// From the newest frame that is shown.
    Newest,
}

impl WatchFrom {
    /// What a client of v2 that announces this number wants; `None` to play. A number of
    /// another day is no reason to seat who wants to watch.
    fn announced(number: u32) -> Option<WatchFrom> {
        match number {
            0 => None,
            1 => Some(WatchFrom::Start),
            _ => Some(WatchFrom::Newest),
        }
    }

    /// The number on the wire.
    fn on_wire(self) -> u32 {
        match self {
            WatchFrom::Start => 1,
            WatchFrom::Newest => 2,
        }
    }
}

/// Frames of a match that a client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The match.
    pub match_id: MatchId,
    /// Which history of it: [`Welcome::history`].
    pub history: u32,
    /// It holds all frames before this one.
    pub next: FrameId,
}

/// What a client of v2 is told when it is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The match.
    pub match_id: MatchId,
    /// Which history of it: 0, or a number that says after which restart of the server. Frames that
    /// are not on the disk when the power goes are lost, and others take their ids.
    pub history: u32,
    /// Frames per second.
    pub hz: u32,
    /// Frames sealed so far; for a spectator, those that are shown.
    pub head: FrameId,
    /// For a spectator: as many frames are held back while the match is played.
    pub watch_delay: Option<FrameId>,
    /// By what the session goes on at another address; none from a server that cannot do it.
    pub pass: Option<Pass>,
    /// Bytes of data that an input may have; 0 if it may have none.
    pub input_bytes_max: u32,
}

/// A request for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The client's number for it, which comes back in the answers.
    pub request: u32,
    /// The first frame that is wanted.
    pub from: FrameId,
    /// The frame after the last one that is wanted; `None` for all there are.
    pub end: Option<FrameId>,
}

/// What one of the answers to a [`Fetch`] covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The number of the request.
    pub request: u32,
    /// It covers the frames from this one,
    pub from: FrameId,
    /// and before this one. Of those, the ones that are not in it were empty.
    pub until: FrameId,
    /// The frame before which the last answer ends.
    pub end: FrameId,
    /// Frames sealed so far.
    pub head: FrameId,
}

impl Fetched {
    /// Bytes that it takes in a message at the most, besides the frames: five fields of a tag of one
    /// byte and a varint of up to five.
    pub const BYTES_MAX: usize = 5 * 6;

    /// Whether it can be: what it covers lies within the answer, and that within the match.
    fn is_sane(&self) -> bool {
        self.from <= self.until && self.until <= self.end && self.end <= self.head
    }
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplink<'a> {
    /// "I am this player, of this room."
    Connect {
        /// The player's account.
        player: PlayerId,
        /// `battleID` on the wire.
        room: RoomId,
        /// Whatever the game's backend handed out.
        token: String,
        /// The newest version it speaks.
        version: Version,
    },
    /// "I want to watch this room": a Connect of v2.
    Watch {
        /// The spectator's account.
        player: PlayerId,
        /// `battleID` on the wire.
        room: RoomId,
        /// Whatever the game's backend handed out.
        token: String,
        /// From where on.
        from: WatchFrom,
    },
    /// "I am here."
    Heartbeat,
    /// "Who else is in the room?"
    JoinRoom,
    /// "So much of the game is loaded."
    Progress(Percent),
    /// "Start, or send me the frames."
    Ready,
    /// "Start, or send me the frames that I do not hold": a Ready of v2.
    Resume(Held),
    /// What the player did.
    Input(Command),
    /// The same with data beside it: an Input of v2.
    Opaque(Input),
    /// What the player did, several times, in order, each as if it came by itself; of v2.
    Inputs(Vec<Input>),
    /// "Send me these frames", of v2.
    Fetch(Fetch),
    /// "The match ended, and this player won."
    Result {
        /// The winner, by this client's account.
        winner: u64,
    },
    /// "Send me this back."
    Echo(&'a [u8]),
}

impl<'a> Uplink<'a> {
    /// Reads a packet that came from a client of this version: for one of v1 there are no messages
    /// of v2, and their fields are passed over whatever they hold.
    ///
    /// # Errors
    /// As [`Uplink::decode`].
    pub fn decode_of(version: Version, packet: Packet<'a>) -> Result<Uplink<'a>, Drop> {
        let id = Id::try_from(i32::from(packet.id));
        match (version, id) {
            (Version::V1, Ok(Id::MsgInputs | Id::MsgFetchFrames)) => Err(Drop::UnknownMessage),
            (Version::V1, Ok(Id::MsgInput)) => {
                let InputOfV1 { sid, x, y } = decode(packet.body)?;
                Ok(Uplink::Input(Command { sid, x, y }))
            }
            _ => Uplink::decode(packet),
        }
    }

    /// Reads a packet that came from a client.
    ///
    /// # Errors
    /// [`Drop::UnknownMessage`], [`Drop::MalformedBody`] or [`Drop::InputsInPacket`]; the stream
    /// goes on behind it.
    pub fn decode(packet: Packet<'a>) -> Result<Uplink<'a>, Drop> {
        let body = packet.body;
        Ok(match Id::try_from(i32::from(packet.id)) {
            Ok(Id::MsgConnect) => {
                let message = decode::<pb::C2sConnectMsg>(body)?;
                let player = PlayerId(message.player_id());
                let room = RoomId(message.battle_id());
                let version = Version::announced(message.version());
                let from = WatchFrom::announced(message.watch());
                let token = message.token.unwrap_or_default();
                match from.filter(|_| version >= Version::V2) {
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
                        version,
                    },
                }
            }
            Ok(Id::MsgHeartbeat) => Uplink::Heartbeat,
            Ok(Id::MsgJoinRoom) => Uplink::JoinRoom,
            Ok(Id::MsgProgress) => {
                let message = decode::<pb::C2sProgressMsg>(body)?;
                Uplink::Progress(Percent::clamped(message.pro()))
            }
            // What v1 says in its body is ignored, as the original does.
            Ok(Id::MsgReady) => match decode::<pb::C2sReadyMsg>(body) {
                Ok(pb::C2sReadyMsg {
                    match_id: Some(match_id),
                    next_frame: Some(next),
                    history,
                }) => Uplink::Resume(Held {
                    match_id: MatchId(match_id),
                    history: history.unwrap_or(0),
                    next,
                }),
                Ok(_) | Err(_) => Uplink::Ready,
            },
            Ok(Id::MsgInput) => {
                let Input { command, data } = decode::<pb::C2sInputMsg>(body)?.into();
                if data.is_empty() {
                    Uplink::Input(command)
                } else {
                    Uplink::Opaque(Input { command, data })
                }
            }
            Ok(Id::MsgInputs) => {
                let inputs = decode::<pb::C2sInputsMsg>(body)?.inputs;
                if inputs.len() > INPUTS_PER_PACKET_MAX {
                    return Err(Drop::InputsInPacket);
                }
                Uplink::Inputs(inputs.into_iter().map(Input::from).collect())
            }
            Ok(Id::MsgFetchFrames) => {
                let message = decode::<pb::C2sFetchFramesMsg>(body)?;
                Uplink::Fetch(Fetch {
                    request: message.request(),
                    from: message.from_frame(),
                    end: message.end_frame,
                })
            }
            Ok(Id::MsgResult) => Uplink::Result {
                winner: decode::<pb::C2sResultMsg>(body)?.winner_id(),
            },
            Ok(Id::MsgEnd) => Uplink::Echo(body),
            Ok(Id::MsgBegin | Id::MsgStart | Id::MsgFrame | Id::MsgClose | Id::MsgFetched)
            | Err(_) => {
                return Err(Drop::UnknownMessage);
            }
        })
    }

    /// Appends the message as a packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Uplink::Connect {
                player,
                room,
                token,
                version,
            } => {
                let message = pb::C2sConnectMsg {
                    player_id: Some(player.0),
                    battle_id: Some(room.0),
                    token: Some(token.clone()),
                    version: version.on_wire(),
                    watch: None,
                };
                write(out, Id::MsgConnect, &message);
            }
            Uplink::Watch {
                player,
                room,
                token,
                from,
            } => {
                let message = pb::C2sConnectMsg {
                    player_id: Some(player.0),
                    battle_id: Some(room.0),
                    token: Some(token.clone()),
                    version: Version::V2.on_wire(),
                    watch: Some(from.on_wire()),
                };
                write(out, Id::MsgConnect, &message);
            }
            Uplink::Heartbeat => write_empty(out, Id::MsgHeartbeat),
            Uplink::JoinRoom => write_empty(out, Id::MsgJoinRoom),
            Uplink::Progress(percent) => {
                let message = pb::C2sProgressMsg {
                    pro: Some(percent.on_wire()),
                };
                write(out, Id::MsgProgress, &message);
            }
            Uplink::Ready => write_empty(out, Id::MsgReady),
            Uplink::Resume(held) => {
                let message = pb::C2sReadyMsg {
                    match_id: Some(held.match_id.0),
                    next_frame: Some(held.next),
                    history: Some(held.history),
                };
                write(out, Id::MsgReady, &message);
            }
            Uplink::Input(command) => {
                let data = Vec::new();
                let command = *command;
                write(
                    out,
                    Id::MsgInput,
                    &pb::C2sInputMsg::from(Input { command, data }),
                );
            }
            Uplink::Opaque(input) => {
                write(out, Id::MsgInput, &pb::C2sInputMsg::from(input.clone()));
            }
            Uplink::Inputs(inputs) => {
                let inputs = inputs.iter().cloned().map(pb::C2sInputMsg::from).collect();
                write(out, Id::MsgInputs, &pb::C2sInputsMsg { inputs });
            }
            Uplink::Fetch(fetch) => {
                let message = pb::C2sFetchFramesMsg {
                    request: Some(fetch.request),
                    from_frame: Some(fetch.from),
                    end_frame: fetch.end,
                };
                write(out, Id::MsgFetchFrames, &message);
            }
            Uplink::Result { winner } => {
                write(
                    out,
                    Id::MsgResult,
                    &pb::C2sResultMsg {
                        winner_id: Some(*winner),
                    },
                );
            }
            Uplink::Echo(body) => write_bytes(out, Id::MsgEnd, body),
        }
    }
}

/// What v1 knows of a `C2S_InputMsg`, but for its frame, which means nothing.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct InputOfV1 {
    #[prost(int32, tag = "1")]
    sid: i32,
    #[prost(int32, tag = "2")]
    x: i32,
    #[prost(int32, tag = "3")]
    y: i32,
}

impl From<pb::C2sInputMsg> for Input {
    fn from(message: pb::C2sInputMsg) -> Input {
        let command = Command {
            sid: message.sid(),
            x: message.x(),
            y: message.y(),
        };
        let data = message.data.unwrap_or_default();
        Input { command, data }
    }
}

impl From<Input> for pb::C2sInputMsg {
    fn from(Input { command, data }: Input) -> pb::C2sInputMsg {
        pb::C2sInputMsg {
            sid: Some(command.sid),
            x: Some(command.x),
            y: Some(command.y),
            frame_id: None,
            data: Some(data).filter(|data| !data.is_empty()),
        }
    }
}

/// The frames that follow a Start of v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follows {
    /// The first one.
    pub next: FrameId,
    /// Frames sealed so far.
    pub head: FrameId,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Downlink<'a> {
    /// The answer to a Connect: in v2 only if it is a refusal.
    Connect(ConnectCode),
    /// The answer of v2 that there is no such room here, and where it is.
    Elsewhere(Address),
    /// The answer of v2 to a Connect that is accepted.
    Welcome(Welcome),
    /// The answer to a Heartbeat.
    Heartbeat,
    /// The answer to a JoinRoom.
    JoinRoom {
        /// Own seat, counted from 1; 0 for a spectator.
        seat: i32,
        /// The other players and their progress, in the order of their seats.
        others: Vec<(PlayerId, Percent)>,
        /// The seed that everyone in the match gets.
        seed: i32,
    },
    /// Another player's progress.
    Progress {
        /// Whose.
        player: PlayerId,
        /// How much is loaded.
        percent: Percent,
    },
    /// The answer to a Ready.
    Ready,
    /// The match has started.
    Start {
        /// When, in Unix seconds.
        unix_seconds: i64,
        /// In v2, what follows.
        follows: Option<Follows>,
    },
    /// Frames: the body of an S2C_FrameMsg, for [`super::frame::decode_frames`].
    Frames(&'a [u8]),
    /// Frames that were asked for, in v2: what it covers, and the same as in [`Downlink::Frames`].
    Fetched(Fetched, &'a [u8]),
    /// A result has arrived.
    Result,
    /// The room is over.
    Close,
    /// What was to be sent back.
    Echo(&'a [u8]),
}

impl<'a> Downlink<'a> {
    /// Appends the message as a packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Downlink::Connect(code) => {
                let code = i32::from(pb::Errorcode::from(*code));
                write(
                    out,
                    Id::MsgConnect,
                    &pb::S2cConnectMsg {
                        error_code: Some(code),
                        ..pb::S2cConnectMsg::default()
                    },
                );
            }
            Downlink::Elsewhere(address) => {
                let message = pb::S2cConnectMsg {
                    error_code: Some(i32::from(pb::Errorcode::ErrNoRoom)),
                    redirect: Some(address.as_str().to_owned()),
                    ..pb::S2cConnectMsg::default()
                };
                write(out, Id::MsgConnect, &message);
            }
            Downlink::Welcome(welcome) => {
                let message = pb::S2cConnectMsg {
                    error_code: Some(i32::from(pb::Errorcode::ErrOk)),
                    version: Version::V2.on_wire(),
                    match_id: Some(welcome.match_id.0),
                    hz: Some(welcome.hz),
                    head: Some(welcome.head),
                    session: welcome.pass.map(|pass| pass.session.0),
                    secret: welcome.pass.map(|pass| pass.secret.to_bytes().to_vec()),
                    history: Some(welcome.history),
                    input_bytes: Some(welcome.input_bytes_max),
                    watch_delay: welcome.watch_delay,
                    redirect: None,
                };
                write(out, Id::MsgConnect, &message);
            }
            Downlink::Heartbeat => write_empty(out, Id::MsgHeartbeat),
            Downlink::JoinRoom { seat, others, seed } => {
                let message = pb::S2cJoinRoomMsg {
                    roomseatid: Some(*seat),
                    others: others.iter().map(|(player, _)| player.0).collect(),
                    pros: others
                        .iter()
                        .map(|(_, percent)| percent.on_wire())
                        .collect(),
                    random_seed: Some(*seed),
                };
                write(out, Id::MsgJoinRoom, &message);
            }
            Downlink::Progress { player, percent } => {
                let message = pb::S2cProgressMsg {
                    id: Some(player.0),
                    pro: Some(percent.on_wire()),
                };
                write(out, Id::MsgProgress, &message);
            }
            Downlink::Ready => write_empty(out, Id::MsgReady),
            Downlink::Start {
                unix_seconds,
                follows,
            } => {
                let message = pb::S2cStartMsg {
                    time_stamp: Some(*unix_seconds),
                    next_frame: follows.map(|follows| follows.next),
                    head: follows.map(|follows| follows.head),
                };
                write(out, Id::MsgStart, &message);
            }
            Downlink::Frames(body) => write_bytes(out, Id::MsgFrame, body),
            Downlink::Fetched(covers, frames) => {
                let covers = pb::S2cFetchedMsg {
                    // They stand before the rest, encoded already.
                    frames: Vec::new(),
                    request: Some(covers.request),
                    from_frame: Some(covers.from),
                    until_frame: Some(covers.until),
                    end_frame: Some(covers.end),
                    head: Some(covers.head),
                };
                packet::write(out, id_byte(Id::MsgFetched), |out| {
                    out.extend_from_slice(frames);
                    covers.encode_raw(out);
                });
            }
            Downlink::Result => write_empty(out, Id::MsgResult),
            Downlink::Close => write_empty(out, Id::MsgClose),
            Downlink::Echo(body) => write_bytes(out, Id::MsgEnd, body),
        }
    }

    /// Reads a packet that came from a server.
    ///
    /// # Errors
    /// [`Drop::UnknownMessage`] or [`Drop::MalformedBody`]; the stream goes on behind it.
    pub fn decode(packet: Packet<'a>) -> Result<Downlink<'a>, Drop> {
        let body = packet.body;
        Ok(match Id::try_from(i32::from(packet.id)) {
            Ok(Id::MsgConnect) => {
                let message = decode::<pb::S2cConnectMsg>(body)?;
                match Version::announced(message.version()) {
                    Version::V2 if message.error_code() == pb::Errorcode::ErrOk => {
                        Downlink::Welcome(Welcome {
                            match_id: MatchId(message.match_id()),
                            history: message.history(),
                            hz: message.hz(),
                            head: message.head(),
                            pass: pass_in(&message),
                            input_bytes_max: message.input_bytes(),
                            watch_delay: message.watch_delay,
                        })
                    }
                    // What is no address is none.
                    _ => match message.redirect.as_deref().and_then(Address::new) {
                        Some(address) if message.error_code() == pb::Errorcode::ErrNoRoom => {
                            Downlink::Elsewhere(address)
                        }
                        _ => Downlink::Connect(message.error_code().into()),
                    },
                }
            }
            Ok(Id::MsgHeartbeat) => Downlink::Heartbeat,
            Ok(Id::MsgJoinRoom) => {
                let message = decode::<pb::S2cJoinRoomMsg>(body)?;
                if message.others.len() != message.pros.len() {
                    return Err(Drop::MalformedBody);
                }
                let players = message.others.iter().map(|id| PlayerId(*id));
                let percents = message.pros.iter().map(|pro| Percent::clamped(*pro));
                Downlink::JoinRoom {
                    seat: message.roomseatid(),
                    others: players.zip(percents).collect(),
                    seed: message.random_seed(),
                }
            }
            Ok(Id::MsgProgress) => {
                let message = decode::<pb::S2cProgressMsg>(body)?;
                Downlink::Progress {
                    player: PlayerId(message.id()),
                    percent: Percent::clamped(message.pro()),
                }
            }
            Ok(Id::MsgReady) => Downlink::Ready,
            Ok(Id::MsgStart) => {
                let message = decode::<pb::S2cStartMsg>(body)?;
                let follows = message.next_frame.map(|next| Follows {
                    next,
                    head: message.head().max(next),
                });
                Downlink::Start {
                    unix_seconds: message.time_stamp(),
                    follows,
                }
            }
            Ok(Id::MsgFrame) => Downlink::Frames(body),
            Ok(Id::MsgFetched) => {
                let message = decode::<pb::S2cFetchedMsg>(body)?;
                let covers = Fetched {
                    request: message.request(),
                    from: message.from_frame(),
                    until: message.until_frame(),
                    end: message.end_frame(),
                    head: message.head(),
                };
                if !covers.is_sane() {
                    return Err(Drop::MalformedBody);
                }
                // Its frames have the number that those of an S2C_FrameMsg have.
                Downlink::Fetched(covers, body)
            }
            Ok(Id::MsgResult) => Downlink::Result,
            Ok(Id::MsgClose) => Downlink::Close,
            Ok(Id::MsgEnd) => Downlink::Echo(body),
            Ok(Id::MsgBegin | Id::MsgInput | Id::MsgInputs | Id::MsgFetchFrames) | Err(_) => {
                return Err(Drop::UnknownMessage);
            }
        })
    }
}

/// Whether `data`, the first of a conversation, can begin one: with a Connect, a Heartbeat
/// or an echo of legal length, of which perhaps not everything has arrived.
pub fn may_begin_conversation(data: &[u8], body_max: usize) -> bool {
    let Some(hi) = data.first() else { return false };
    let lo = data.get(1).unwrap_or(&0);
    let body_bytes = usize::from(u16::from_be_bytes([*hi, *lo]));
    if body_bytes > body_max {
        return false;
    }
    match data.get(2).map(|id| Id::try_from(i32::from(*id))) {
        None | Some(Ok(Id::MsgConnect | Id::MsgEnd)) => true,
        Some(Ok(Id::MsgHeartbeat)) => body_bytes == 0,
        Some(_) => false,
    }
}

/// Whether `data`, the first of a conversation, begins a Connect, as far as it has arrived.
pub fn may_begin_connect(data: &[u8], body_max: usize) -> bool {
    let id = data.get(2).map(|id| Id::try_from(i32::from(*id)));
    may_begin_conversation(data, body_max) && matches!(id, None | Some(Ok(Id::MsgConnect)))
}

/// The pass that an answer to a Connect brings, if it is one.
fn pass_in(message: &pb::S2cConnectMsg) -> Option<Pass> {
    let secret = message.secret.as_deref()?.try_into().ok()?;
    Some(Pass {
        session: SessionId(message.session?),
        secret: SessionSecret::from_bytes(secret),
    })
}

fn decode<M: prost::Message + Default>(body: &[u8]) -> Result<M, Drop> {
    M::decode(body).map_err(|_| Drop::MalformedBody)
}

fn write(out: &mut Vec<u8>, id: Id, message: &impl prost::Message) {
    packet::write(out, id_byte(id), |out| message.encode_raw(out));
}

fn write_empty(out: &mut Vec<u8>, id: Id) {
    write_bytes(out, id, &[]);
}

fn write_bytes(out: &mut Vec<u8>, id: Id, body: &[u8]) {
    packet::write(out, id_byte(id), |out| out.extend_from_slice(body));
}

fn id_byte(id: Id) -> u8 {
    u8::try_from(i32::from(id)).expect("the ids of the contract fit a byte")
}
