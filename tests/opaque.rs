//! Data beside inputs, and several inputs in a packet, as claims: what arrives is what was sent,
//! within bounds, and a client of v1 is spared both.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::config::Config;
use lockstep_server::engine::drops::Drop;
use lockstep_server::engine::id::{MatchId, PlayerId};
use lockstep_server::engine::view::CreateError;
use lockstep_server::engine::wire::frame::{Command, FrameInput, Input};
use lockstep_server::engine::wire::message::{Downlink, Uplink, Version, Welcome};
use lockstep_server::engine::wire::packet::Packet;
use lockstep_server::limits::{
    FRAME_BYTES_MAX, INPUT_DATA_PER_SEAT_AND_FRAME_MAX, INPUTS_PER_PACKET_MAX, UPLINK_BODY_MAX,
};
use support::*;

fn command(x: i32) -> Command {
    Command { sid: 1, x, y: 0 }
}

fn input(x: i32, data: &[u8]) -> Input {
    let (command, data) = (command(x), data.to_vec());
    Input { command, data }
}

/// A match of these players in a room that takes so many bytes, all of v2 but the first.
fn match_of(players: &[u64], input_bytes_max: u32) -> (World, Vec<usize>) {
    let mut world = World::new(Config::default());
    let mut room = spec(players);
    room.input_bytes_max = Some(input_bytes_max);
    world.server.create_room(world.now, room).unwrap();
    let peers: Vec<usize> = players.iter().map(|_| world.peer(77)).collect();
    for (index, (peer, player)) in peers.iter().zip(players).enumerate() {
        let version = if index == 0 { Version::V1 } else { Version::V2 };
        let connect = Uplink::Connect {
            player: PlayerId(*player),
            room: ROOM,
            token: String::new(),
            version,
        };
        for message in [&connect, &Uplink::JoinRoom, &Uplink::Ready] {
            world.say(*peer, message);
        }
    }
    world.run_ms(100);
    for peer in &peers {
        world.take(*peer);
    }
    (world, peers)
}

/// Every input among what a peer was told.
fn inputs(world: &mut World, peer: usize) -> Vec<FrameInput> {
    let frames = world.take_frames(peer).into_iter();
    frames.flat_map(|frame| frame.inputs).collect()
}

fn dropped(world: &World, reason: Drop) -> u64 {
    world.server.counters().drops(reason)
}

#[test]
fn data_comes_back_as_it_was_sent_to_players_of_both_versions() {
    let (mut world, peers) = match_of(&[1, 2], 300);
    let long: Vec<u8> = (0..300_u16).map(|byte| byte.to_le_bytes()[0]).collect();
    for (x, data) in (0..).zip([&[0][..], b"\xff\x00\n", &long]) {
        world.say(peers[1], &Uplink::Opaque(input(x, data)));
    }
    world.press(peers[0], 9);
    world.run_ms(100);
    let of_v1 = inputs(&mut world, peers[0]);
    let sent = of_v1.iter().filter(|input| input.player == PlayerId(2));
    let data: Vec<_> = sent
        .map(|input| (input.command.x, &input.data[..]))
        .collect();
    assert_eq!(data, [(0, &[0][..]), (1, b"\xff\x00\n"), (2, &long)]);
    let own = of_v1.iter().find(|input| input.player == PlayerId(1));
    assert!(own.unwrap().data.is_empty());
    assert_eq!(inputs(&mut world, peers[1]), of_v1);
}

#[test]
fn these_are_the_bytes_of_v2() {
    let says = |message: &Uplink<'_>, bytes: &[u8]| {
        let mut packet = Vec::new();
        message.encode(&mut packet);
        assert_eq!(packet, bytes);
        let [_, _, id, body @ ..] = bytes else {
            panic!("no packet")
        };
        assert_eq!(
            Uplink::decode(Packet { id: *id, body }).as_ref(),
            Ok(message)
        );
    };
    let one = input(2, &[7, 8]);
    let bytes = [0, 11, 60, 8, 1, 16, 2, 24, 0, 0xa2, 6, 2, 7, 8];
    says(&Uplink::Opaque(one.clone()), &bytes);
    let mut both = vec![0, 21, 102, 10, 11];
    both.extend(&bytes[3..]);
    both.extend([10, 6, 8, 1, 16, 3, 24, 0]);
    says(&Uplink::Inputs(vec![one, input(3, &[])]), &both);

    let welcome = Downlink::Welcome(Welcome {
        match_id: MatchId(1),
        history: 0,
        hz: 30,
        head: 0,
        input_bytes_max: 256,
        watch_delay: None,
        pass: None,
    });
    let mut packet = Vec::new();
    welcome.encode(&mut packet);
    let tail = [
        0xb0, 6, 30, 0xb8, 6, 0, 0xc0, 6, 0x80, 2, 0x95, 8, 0, 0, 0, 0,
    ];
    assert!(packet.ends_with(&tail), "{packet:x?}");
}

#[test]
fn data_over_what_the_room_takes_drops_its_input_whole() {
    let (mut world, peers) = match_of(&[1, 2], 16);
    for (x, len) in [(0, 16), (1, 17), (2, 900), (3, 0)] {
        world.say(peers[1], &Uplink::Opaque(input(x, &vec![5; len])));
    }
    world.run_ms(100);
    let got = inputs(&mut world, peers[0]);
    let xs: Vec<_> = got.iter().map(|input| input.command.x).collect();
    assert_eq!(xs, [0, 3]);
    assert_eq!(dropped(&world, Drop::InputTooLong), 2);

    let (mut world, peers) = match_of(&[1, 2], 0);
    world.say(peers[1], &Uplink::Opaque(input(0, &[5])));
    world.say(peers[1], &Uplink::Opaque(input(1, &[])));
    world.run_ms(100);
    assert_eq!(inputs(&mut world, peers[0]).len(), 1);
    assert_eq!(dropped(&world, Drop::InputTooLong), 1);
}

#[test]
fn a_client_is_told_what_its_room_takes_and_a_room_takes_what_a_packet_holds() {
    for (asked, told) in [(None, 256), (Some(0), 0), (Some(960), 960)] {
        let mut world = World::new(Config::default());
        let mut room = spec(&[1]);
        room.input_bytes_max = asked;
        let view = world.server.create_room(world.now, room).unwrap();
        assert_eq!(view.input_bytes_max, told);
        let peer = world.peer(77);
        let connect = Uplink::Connect {
            player: PlayerId(1),
            room: ROOM,
            token: String::new(),
            version: Version::V2,
        };
        world.say(peer, &connect);
        world.run_ms(50);
        let said = world.take(peer);
        let right = matches!(said[0], Said::Welcome(welcome) if welcome.input_bytes_max == told);
        assert!(right, "{said:?}");
    }
    let mut world = World::new(Config::default());
    let mut room = spec(&[1]);
    room.input_bytes_max = Some(961);
    let refused = world.server.create_room(world.now, room);
    let field = "input_bytes";
    assert!(matches!(refused, Err(CreateError::Invalid { field: f, .. }) if f == field));
    // The longest of all fits a packet, beside whatever numbers.
    let command = Command {
        sid: -1,
        x: -1,
        y: -1,
    };
    let data = vec![0; 960];
    let mut packet = Vec::new();
    Uplink::Inputs(vec![Input { command, data }]).encode(&mut packet);
    assert!(packet.len() <= UPLINK_BODY_MAX + 3, "{}", packet.len());
}

#[test]
fn for_a_client_of_v1_there_is_no_field_100_whatever_it_holds() {
    let (mut world, peers) = match_of(&[1, 2], 16);
    let field: [&[u8]; 4] = [
        &[0xa2, 6, 1, 7],
        &[0xa0, 6, 1],
        &[0xa5, 6, 1, 2, 3, 4],
        &[
            0xa2, 6, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    ];
    for (x, field) in (0..).zip(field) {
        let mut body = vec![8, 1, 16, x, 24, 0];
        body.extend(field);
        let mut packet = vec![0, u8::try_from(body.len()).unwrap(), 60];
        packet.extend(body);
        world.say_bytes(peers[0], &packet);
    }
    world.run_ms(100);
    let got = inputs(&mut world, peers[1]);
    let expected = (0..4).map(|x| FrameInput {
        player: PlayerId(1),
        seat: 1,
        command: command(x),
        data: Vec::new(),
    });
    assert!(got.into_iter().eq(expected));
    assert_eq!(dropped(&world, Drop::MalformedBody), 0);
}

#[test]
fn messages_of_v2_do_not_exist_for_a_client_of_v1() {
    let (mut world, peers) = match_of(&[1, 2], 16);
    world.say(peers[0], &Uplink::Inputs(vec![input(1, &[])]));
    world.say_bytes(peers[0], &[0, 0, 101]);
    world.run_ms(100);
    assert_eq!(inputs(&mut world, peers[1]), []);
    assert_eq!(dropped(&world, Drop::UnknownMessage), 2);
}

#[test]
fn inputs_of_one_packet_are_as_if_each_came_by_itself() {
    let (mut world, peers) = match_of(&[1, 2], 16);
    let long = input(1, &[0; 17]);
    let several = vec![input(0, &[3]), long, input(2, &[]), input(3, &[4; 16])];
    world.say(peers[1], &Uplink::Inputs(several));
    world.say(peers[1], &Uplink::Inputs(Vec::new()));
    world.run_ms(100);
    let got = inputs(&mut world, peers[0]);
    let got: Vec<_> = got
        .iter()
        .map(|input| (input.command.x, input.data.len()))
        .collect();
    assert_eq!(got, [(0, 1), (2, 0), (3, 16)]);
    assert_eq!(dropped(&world, Drop::InputTooLong), 1);

    // Before the seat, each is one too many.
    let peer = world.peer(5);
    let connect = Uplink::Connect {
        player: PlayerId(99),
        room: ROOM,
        token: String::new(),
        version: Version::V2,
    };
    world.say(peer, &connect);
    world.say(peer, &Uplink::Inputs(vec![input(0, &[]); 5]));
    world.run_ms(100);
    assert_eq!(dropped(&world, Drop::NoSeat), 5);
}

#[test]
fn a_packet_of_too_many_inputs_or_of_a_malformed_one_has_none() {
    let (mut world, peers) = match_of(&[1, 2], 16);
    let most = vec![input(0, &[]); INPUTS_PER_PACKET_MAX];
    world.say(peers[1], &Uplink::Inputs(most.clone()));
    world.run_ms(100);
    assert_eq!(inputs(&mut world, peers[0]).len(), INPUTS_PER_PACKET_MAX);
    world.say(peers[1], &Uplink::Inputs([&most[..], &most[..1]].concat()));
    world.say_bytes(peers[1], &[0, 6, 102, 10, 2, 8, 1, 10, 9]);
    world.run_ms(100);
    assert_eq!(inputs(&mut world, peers[0]), []);
    assert_eq!(dropped(&world, Drop::InputsInPacket), 1);
    assert_eq!(dropped(&world, Drop::MalformedBody), 1);
}

#[test]
fn inputs_of_one_packet_are_paid_for_one_by_one() {
    let (mut world, peers) = match_of(&[1, 2], 0);
    for _ in 0..300 {
        world.say(peers[1], &Uplink::Inputs(vec![input(0, &[]); 64]));
    }
    world.run_ms(400);
    assert!(dropped(&world, Drop::TooManyPackets) > 0);
}

#[test]
fn who_sends_much_data_holds_up_nobody_else() {
    let (mut world, peers) = match_of(&[1, 2, 3], 960);
    for x in 0..12 {
        world.say(peers[1], &Uplink::Opaque(input(x, &[1; 900])));
    }
    world.run_ms(1);
    let before = world.room().frame;
    world.say(peers[2], &Uplink::Opaque(input(77, &[2; 900])));
    world.run_ms(1000);
    let frames = world.take_frames(peers[0]);
    let of = |player, frame: &u32| {
        let frame = frames.iter().find(|known| known.id == *frame);
        let inputs = frame.into_iter().flat_map(|frame| &frame.inputs);
        let own = inputs.filter(|input| input.player == PlayerId(player));
        own.map(|input| input.data.len()).collect::<Vec<_>>()
    };
    // The other's is in the first frame or the next one, and each frame has a share of the first.
    let soon = (before..before + 3).filter(|frame| of(3, frame) == [900]);
    assert_eq!(soon.count(), 1);
    let all: Vec<usize> = (0..world.room().frame)
        .flat_map(|frame| of(2, &frame))
        .collect();
    let dropped = usize::try_from(dropped(&world, Drop::InputsWaiting)).unwrap();
    assert!(dropped > 0 && all.len() + dropped == 12, "{}", all.len());
    for frame in 0..world.room().frame {
        let bytes: usize = of(2, &frame).iter().sum();
        assert!(bytes <= INPUT_DATA_PER_SEAT_AND_FRAME_MAX);
    }
}

#[test]
fn a_frame_of_many_seats_with_data_keeps_its_bound_and_loses_nothing() {
    let players: Vec<u64> = (1..=40).collect();
    let (mut world, peers) = match_of(&players, 960);
    for peer in &peers[1..] {
        world.say(*peer, &Uplink::Opaque(input(1, &[9; 960])));
    }
    world.run_ms(500);
    let log = world.server.frames(ROOM).unwrap();
    assert!(log.len() > 2 * FRAME_BYTES_MAX);
    let frames = world.take_frames(peers[0]);
    let sizes = frames.iter().map(|frame| {
        let data = frame.inputs.iter().map(|input| input.data.len());
        data.sum::<usize>()
    });
    assert!(sizes.clone().all(|bytes| bytes < FRAME_BYTES_MAX));
    assert_eq!(sizes.sum::<usize>(), 39 * 960);
}

/// A client in a match, its datagrams carried by hand, and the server.
fn client_in(world: &mut World) -> Client {
    let mut config = ClientConfig::new(PlayerId(1), ROOM);
    config.heartbeat_every = None;
    let mut client = Client::new(world.now, config);
    client.join();
    client.ready();
    client
}

#[test]
fn a_client_sends_what_the_room_takes_and_refuses_the_rest() {
    let mut world = World::with_room(&[1]);
    let mut client = client_in(&mut world);
    let addr = "127.0.0.1:9".parse().unwrap();
    let mut batch = lockstep_server::engine::transmit::Transmits::default();
    let mut got = Vec::new();
    for ms in 0..400 {
        world.now = world.now + std::time::Duration::from_millis(1);
        client.handle_timeout(world.now);
        if ms == 200 {
            assert_eq!(client.input_bytes_max(), 256);
            assert!(client.input_with(command(1), &[1; 256]));
            assert!(!client.input_with(command(2), &[1; 257]));
            assert!(client.inputs(&[input(3, &[]), input(4, &[2; 200])]));
            assert!(!client.inputs(&[]));
            assert!(!client.inputs(&[input(5, &[]), input(6, &[2; 257])]));
            assert!(
                !client.inputs(&vec![input(7, &[2; 200]); 6]),
                "over 1024 bytes"
            );
            assert!(!client.inputs(&vec![input(8, &[]); 65]));
        }
        client.poll_transmit(world.now, &mut batch);
        for (_, datagram) in batch.iter() {
            let mut datagram = datagram.to_vec();
            world.server.handle_datagram(world.now, addr, &mut datagram);
        }
        world.server.handle_timeout(world.now);
        world.server.poll_transmit(world.now, &mut batch);
        for (_, datagram) in batch.iter() {
            client.handle_datagram(world.now, &mut datagram.to_vec());
        }
        while let Some(event) = client.poll_event() {
            if let ClientEvent::Frame(frame) = event {
                got.extend(frame.inputs);
            }
        }
    }
    let got: Vec<_> = got
        .iter()
        .map(|input| (input.command.x, input.data.len()))
        .collect();
    assert_eq!(got, [(1, 256), (3, 0), (4, 200)]);
}
