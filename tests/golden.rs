//! The bytes of every v1 message, written out by hand from the wire contract: what clients
//! of the original server send, and what they must get, to the byte.

use lockstep_server::cluster::node::Address;
use lockstep_server::engine::drops::Drop;
use lockstep_server::engine::frame_log::{Cursor, FrameLog};
use lockstep_server::engine::id::{Percent, PlayerId, RoomId, Seat};
use lockstep_server::engine::wire::frame::Command;
use lockstep_server::engine::wire::message::{ConnectCode, Downlink, Uplink, Version};
use lockstep_server::engine::wire::packet::Packet;

/// Splits a hand-written packet into its id and body, and checks its length field.
fn packet(bytes: &[u8]) -> Packet<'_> {
    let length = usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    assert_eq!(
        length,
        bytes.len() - 3,
        "the hand-written length of {bytes:02x?}"
    );
    Packet {
        id: bytes[2],
        body: &bytes[3..],
    }
}

fn server_says(message: Downlink<'_>, bytes: &[u8]) {
    let mut out = Vec::new();
    message.encode(&mut out);
    assert_eq!(out, bytes, "{message:?}");
    assert_eq!(Downlink::decode(packet(bytes)), Ok(message));
}

fn client_says(bytes: &[u8], message: Uplink<'_>) {
    assert_eq!(Uplink::decode(packet(bytes)).as_ref(), Ok(&message));
}

#[test]
fn connect_as_clients_send_it() {
    let connect = |player, room, token: &str| Uplink::Connect {
        player: PlayerId(player),
        room: RoomId(room),
        token: token.into(),
        version: Version::V1,
    };
    client_says(
        &[
            0x00, 0x0a, 1, 0x08, 1, 0x10, 2, 0x52, 0x04, b'p', b'a', b's', b's',
        ],
        connect(1, 2, "pass"),
    );
    // Ids of ten bytes; no token at all; fields in another order; a field nobody knows.
    client_says(
        &[
            0x00, 0x0d, 1, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x10,
            0x01,
        ],
        connect(u64::MAX, 1, ""),
    );
    client_says(&[0x00, 0x04, 1, 0x10, 7, 0x08, 9], connect(9, 7, ""));
    client_says(
        &[0x00, 0x07, 1, 0x08, 3, 0x10, 4, 0xa0, 0x06, 1],
        connect(3, 4, ""),
    );
    // The ids are optional on the wire; what is left out is 0.
    client_says(&[0x00, 0x00, 1], connect(0, 0, ""));
}

#[test]
fn connect_is_answered_with_its_code_on_the_wire_even_if_it_is_0() {
    for (code, byte) in [
        (ConnectCode::Ok, 0),
        (ConnectCode::NoPlayer, 1),
        (ConnectCode::NoRoom, 2),
        (ConnectCode::RoomState, 3),
        (ConnectCode::Token, 4),
    ] {
        server_says(Downlink::Connect(code), &[0x00, 0x02, 1, 0x08, byte]);
    }
}

#[test]
fn who_is_sent_on_gets_the_code_and_the_address() {
    let address = Address::new("10.0.0.2:10086").expect("it is one");
    let mut bytes = vec![0x00, 0x13, 1, 0x08, 2, 0xe2, 0x08, 14];
    bytes.extend_from_slice(b"10.0.0.2:10086");
    server_says(Downlink::Elsewhere(address), &bytes);
    // What is no address, or stands beside another code, is passed over.
    let reads = |bytes: &[u8], code| {
        let read = Downlink::decode(packet(bytes));
        assert_eq!(read, Ok(Downlink::Connect(code)));
    };
    let mut no_port = bytes.clone();
    no_port[16] = b'-';
    reads(&no_port, ConnectCode::NoRoom);
    bytes[4] = 3;
    reads(&bytes, ConnectCode::RoomState);
}

#[test]
fn empty_messages_are_three_bytes() {
    client_says(&[0, 0, 2], Uplink::Heartbeat);
    client_says(&[0, 0, 10], Uplink::JoinRoom);
    client_says(&[0, 0, 30], Uplink::Ready);
    server_says(Downlink::Heartbeat, &[0, 0, 2]);
    server_says(Downlink::Ready, &[0, 0, 30]);
    server_says(Downlink::Result, &[0, 0, 70]);
    server_says(Downlink::Close, &[0, 0, 100]);
}

#[test]
fn join_room_lists_the_others_packed_and_says_zero() {
    server_says(
        Downlink::JoinRoom {
            seat: 2,
            others: vec![
                (PlayerId(1), Percent::clamped(0)),
                (PlayerId(300), Percent::FULL),
            ],
            seed: -1,
        },
        &[
            0x00, 0x16, 10, // 22 bytes
            0x08, 2, // roomseatid
            0x12, 3, 1, 0xac, 0x02, // others, packed
            0x1a, 2, 0, 100, // pros, packed
            0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, // randomSeed
        ],
    );
    // Alone in the room, with seed 0: the lists are absent, the seed is not.
    server_says(
        Downlink::JoinRoom {
            seat: 1,
            others: vec![],
            seed: 0,
        },
        &[0x00, 0x04, 10, 0x08, 1, 0x20, 0],
    );
}

#[test]
fn repeated_scalars_are_read_in_both_forms() {
    let unpacked = [
        0x00, 0x0c, 10, 0x08, 1, 0x10, 5, 0x10, 6, 0x18, 7, 0x18, 8, 0x20, 9,
    ];
    let message = Downlink::JoinRoom {
        seat: 1,
        others: vec![
            (PlayerId(5), Percent::clamped(7)),
            (PlayerId(6), Percent::clamped(8)),
        ],
        seed: 9,
    };
    assert_eq!(Downlink::decode(packet(&unpacked)), Ok(message));
}

#[test]
fn progress_in_both_directions() {
    client_says(
        &[0x00, 0x02, 20, 0x08, 50],
        Uplink::Progress(Percent::clamped(50)),
    );
    client_says(&[0x00, 0x00, 20], Uplink::Progress(Percent::clamped(0)));
    let far = [0x00, 0x03, 20, 0x08, 0xc8, 0x01];
    client_says(&far, Uplink::Progress(Percent::FULL));
    server_says(
        Downlink::Progress {
            player: PlayerId(1),
            percent: Percent::clamped(0),
        },
        &[0x00, 0x04, 20, 0x08, 1, 0x10, 0],
    );
}

#[test]
fn start_carries_unix_seconds() {
    server_says(
        Downlink::Start {
            unix_seconds: 1_700_000_000,
            follows: None,
        },
        &[0x00, 0x06, 40, 0x08, 0x80, 0xe2, 0xcf, 0xaa, 0x06],
    );
    server_says(
        Downlink::Start {
            unix_seconds: 0,
            follows: None,
        },
        &[0x00, 0x02, 40, 0x08, 0],
    );
}

#[test]
fn input_as_clients_send_it_with_its_frame_ignored() {
    let input = |sid, x, y| Uplink::Input(Command { sid, x, y });
    client_says(
        &[0x00, 0x08, 60, 0x08, 1, 0x10, 2, 0x18, 3, 0x20, 99],
        input(1, 2, 3),
    );
    client_says(
        &[
            0x00, 0x0b, 60, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ],
        input(0, -1, 0),
    );
}

#[test]
fn frames_carry_every_field_also_those_that_are_0() {
    let mut log = FrameLog::new(2);
    let player = PlayerId(1);
    for command in [
        Command { sid: 0, x: 0, y: 0 },
        Command { sid: 2, x: 3, y: 4 },
    ] {
        log.add_input(Seat::from_index(0), player, command, &[])
            .unwrap();
    }
    for _ in 0..3 {
        log.seal();
    }
    let mut body = Vec::new();
    log.write_batch(&mut Cursor::default(), 3, 1373, &mut body);
    let by_hand = [
        0x0a, 26, 0x08, 0, // frame 0
        0x12, 10, 0x08, 1, 0x10, 0, 0x18, 0, 0x20, 0, 0x28, 1, // id sid x y roomseatid
        0x12, 10, 0x08, 1, 0x10, 2, 0x18, 3, 0x20, 4, 0x28, 1, //
        0x0a, 2, 0x08, 2, // frame 2, the newest, empty; frame 1 is left out
    ];
    assert_eq!(body, by_hand);

    let mut packet = Vec::new();
    Downlink::Frames(&body).encode(&mut packet);
    assert_eq!(packet[..3], [0x00, 32, 50]);
    assert_eq!(packet[3..], by_hand);
}

#[test]
fn a_frame_0_without_input_is_not_an_empty_message() {
    let mut log = FrameLog::new(1);
    log.seal();
    let mut body = Vec::new();
    log.write_batch(&mut Cursor::default(), 1, 1373, &mut body);
    assert_eq!(body, [0x0a, 2, 0x08, 0]);
}

#[test]
fn result_names_the_winner() {
    client_says(&[0x00, 0x02, 70, 0x08, 7], Uplink::Result { winner: 7 });
    client_says(&[0x00, 0x00, 70], Uplink::Result { winner: 0 });
}

#[test]
fn an_echo_comes_back_as_it_came() {
    client_says(&[0x00, 0x03, 255, 1, 2, 3], Uplink::Echo(&[1, 2, 3]));
    server_says(Downlink::Echo(&[1, 2, 3]), &[0x00, 0x03, 255, 1, 2, 3]);
}

#[test]
fn what_only_the_server_says_is_unknown_from_a_client() {
    for id in [0, 3, 40, 50, 100, 103, 199, 254] {
        let packet = Packet { id, body: &[] };
        assert_eq!(
            Uplink::decode(packet),
            Err(Drop::UnknownMessage),
            "message {id}"
        );
    }
}

#[test]
fn a_body_that_is_not_its_message_is_malformed() {
    for (id, body) in [
        (1, &[0x08][..]),                // a varint is missing
        (1, &[0x52, 9, b'x']),           // a string is cut off
        (20, &[0x0d, 1, 2, 3, 4]),       // the wrong wire type
        (60, &[0x08, 0xff, 0xff, 0xff]), // a varint is cut off
        (70, &[0xff; 11]),
    ] {
        assert_eq!(
            Uplink::decode(Packet { id, body }),
            Err(Drop::MalformedBody),
            "message {id}"
        );
    }
}
