//! Frames as they stand in an S2C_FrameMsg.
//!
//! That message is one repeated field, so its body is encoded frames one after another,
//! and any run of them is a body too:
//!
//! ```text
//! 0a <length> 08 <frame id>  12 <length> <InputData>  12 <length> <InputData> ...
//! 0a <length> 08 <frame id>  ...
//! ```
//!
//! The server encodes each input once, when it arrives, and each frame once, when it is
//! sealed. The client reads them back with [`decode_frames`].

use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::pb;
use crate::engine::id::{FrameId, PlayerId, Seat};

/// Tag of `S2C_FrameMsg.frames` (field 1, length-delimited).
const FRAMES_TAG: u8 = 0x0a;
/// Tag of `FrameData.frameID` (field 1, varint).
const FRAME_ID_TAG: u8 = 0x08;
/// Tag of `FrameData.input` (field 2, length-delimited).
const INPUT_TAG: u8 = 0x12;

/// Tag of `InputData.data` (field 100, length-delimited).
const DATA_TAG: u64 = 100 << 3 | 2;

/// Bytes that the frame around the inputs takes at the most: two tags, the length and the id.
pub const FRAME_OVERHEAD_MAX: usize = 1 + 3 + 1 + 5;

/// What a player did, as the client sent it. The server gives it no meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The kind of the input, by the game's own numbering.
    pub sid: i32,
    /// First operand.
    pub x: i32,
    /// Second operand.
    pub y: i32,
}

/// What a player did, and bytes beside it, in a room that takes them. The server gives neither a
/// meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// What the player did.
    pub command: Command,
    /// What else; empty if nothing.
    pub data: Vec<u8>,
}

/// One input of a sealed frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameInput {
    /// Whose input.
    pub player: PlayerId,
    /// `roomseatid`, counted from 1.
    pub seat: i32,
    /// What the player did.
    pub command: Command,
    /// The bytes that were sent beside it; empty if none were.
    pub data: Vec<u8>,
}

/// One sealed frame, as a client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its number.
    pub id: FrameId,
    /// The inputs in the order of their arrival at the server.
    pub inputs: Vec<FrameInput>,
}

/// Appends one input as a field of FrameData. Without data it is what v1 has.
pub fn encode_input(
    out: &mut Vec<u8>,
    player: PlayerId,
    seat: Seat,
    command: Command,
    data: &[u8],
) {
    let input = pb::InputData {
        id: Some(player.0),
        sid: Some(command.sid),
        x: Some(command.x),
        y: Some(command.y),
        roomseatid: Some(seat.on_wire()),
        // Appended by hand below, so that it need not be copied into a vector first.
        data: None,
    };
    out.push(INPUT_TAG);
    if data.is_empty() {
        encode_varint(input.encoded_len() as u64, out);
        input.encode_raw(out);
        return;
    }
    let (len, data_len) = (input.encoded_len(), data.len() as u64);
    let around = encoded_len_varint(DATA_TAG) + encoded_len_varint(data_len);
    encode_varint((len + around + data.len()) as u64, out);
    input.encode_raw(out);
    encode_varint(DATA_TAG, out);
    encode_varint(data_len, out);
    out.extend_from_slice(data);
}

/// Appends a frame whose inputs are already encoded, one after another.
pub fn encode_frame(out: &mut Vec<u8>, id: FrameId, inputs: &[u8]) {
    out.push(FRAMES_TAG);
    encode_varint(
        (1 + encoded_len_varint(u64::from(id)) + inputs.len()) as u64,
        out,
    );
    out.push(FRAME_ID_TAG);
    encode_varint(u64::from(id), out);
    out.extend_from_slice(inputs);
}

/// Bytes of a frame without inputs.
pub fn empty_frame_len(id: FrameId) -> usize {
    // The length is under 128 and takes one byte.
    1 + 1 + 1 + encoded_len_varint(u64::from(id))
}

/// Reads the body of an S2C_FrameMsg.
///
/// # Errors
/// If the body is not that message.
pub fn decode_frames(body: &[u8]) -> Result<Vec<Frame>, prost::DecodeError> {
    let message = pb::S2cFrameMsg::decode(body)?;
    Ok(message.frames.into_iter().map(Frame::from).collect())
}

impl From<pb::FrameData> for Frame {
    fn from(frame: pb::FrameData) -> Frame {
        Frame {
            id: frame.frame_id(),
            inputs: frame
                .input
                .into_iter()
                .map(|input| FrameInput {
                    player: PlayerId(input.id()),
                    seat: input.roomseatid(),
                    command: Command {
                        sid: input.sid(),
                        x: input.x(),
                        y: input.y(),
                    },
                    data: input.data.unwrap_or_default(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{INPUT_BYTES_MAX, INPUT_DATA_OVERHEAD, INPUT_DATA_RANGE};

    #[test]
    fn frames_by_hand_are_what_prost_writes() {
        let input = |id, sid, data: &[u8]| pb::InputData {
            id: Some(id),
            sid: Some(sid),
            x: Some(-1),
            y: Some(0),
            roomseatid: Some(2),
            data: Some(data.to_vec()).filter(|data| !data.is_empty()),
        };
        let long = [7; 300];
        for id in [0, 1, 127, 128, 5499, u32::MAX] {
            let message = pb::S2cFrameMsg {
                frames: vec![pb::FrameData {
                    frame_id: Some(id),
                    input: vec![
                        input(7, 1, &[]),
                        input(u64::MAX, i32::MIN, &[0xff]),
                        input(7, 2, &long),
                    ],
                }],
            };
            let mut inputs = Vec::new();
            for (player, sid, data) in [
                (7, 1, &[][..]),
                (u64::MAX, i32::MIN, &[0xff]),
                (7, 2, &long),
            ] {
                let (player, command) = (PlayerId(player), Command { sid, x: -1, y: 0 });
                encode_input(&mut inputs, player, Seat::from_index(1), command, data);
            }
            let mut frame = Vec::new();
            encode_frame(&mut frame, id, &inputs);
            assert_eq!(frame, message.encode_to_vec());

            let mut empty = Vec::new();
            encode_frame(&mut empty, id, &[]);
            assert_eq!(empty.len(), empty_frame_len(id));
        }
    }

    #[test]
    fn the_largest_input_keeps_its_bound() {
        let (player, seat) = (PlayerId(u64::MAX), Seat::from_index(255));
        let command = Command {
            sid: -1,
            x: -1,
            y: -1,
        };
        let mut out = Vec::new();
        encode_input(&mut out, player, seat, command, &[]);
        assert!(out.len() <= INPUT_BYTES_MAX, "{} bytes", out.len());
        let data = vec![0; usize::try_from(*INPUT_DATA_RANGE.end()).unwrap()];
        out.clear();
        encode_input(&mut out, player, seat, command, &data);
        let most = INPUT_BYTES_MAX + INPUT_DATA_OVERHEAD + data.len();
        assert!(out.len() <= most, "{} bytes", out.len());
    }
}
