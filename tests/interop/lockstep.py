"""A client of the lockstep server that shares no code with it.

KCP is the C reference (ikcp.c, inside the PyPI package `kcp`); protobuf and the packets
are written by hand here, from the wire contract. So whatever the server and its own client
could get wrong together shows up against this one.

`Client` is one player on one UDP socket. It holds the server to the contract at every
datagram and message, and raises `Violation` at the first thing that is out of order.
`World` is the loop that runs clients. `Relay` is a network with delay between them and the
server.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kcp.extension import KCP

Address = tuple[str, int]

# --- Protobuf -----------------------------------------------------------------------------

VARINT = 0
BYTES = 2


class Violation(Exception):
    """The server broke the contract."""


def encode_varint(value: int) -> bytes:
    """A varint; a negative value takes ten bytes, as protobuf has it."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at `at`, and where it ends."""
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise Violation("a varint is cut off")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & ((1 << 64) - 1), at + index + 1
    raise Violation("a varint is longer than ten bytes")


def int32(value: int) -> int:
    """The int32 that a varint means."""
    value &= (1 << 32) - 1
    return value - (1 << 32) if value >= 1 << 31 else value


def encode(*fields: tuple[int, int | bytes]) -> bytes:
    """A message of these (number, value)."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            out += encode_varint(number << 3 | VARINT) + encode_varint(value)
        else:
            out += encode_varint(number << 3 | BYTES) + encode_varint(len(value)) + value
    return bytes(out)


def decode(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message, as (number, value)."""
    at = 0
    while at < len(data):
        tag, at = decode_varint(data, at)
        if tag & 7 == VARINT:
            value, at = decode_varint(data, at)
            yield tag >> 3, value
        elif tag & 7 == BYTES:
            length, at = decode_varint(data, at)
            if at + length > len(data):
                raise Violation("a field is cut off")
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise Violation(f"wire type {tag & 7} is not in the contract")


def decode_exactly(data: bytes, *numbers: int) -> list[int]:
    """The values of a message that must have exactly these fields, all varints.

    The original emits optional fields even when they are 0, and clients count on it.
    """
    fields = list(decode(data))
    if [number for number, _ in fields] != list(numbers):
        raise Violation(f"fields {[n for n, _ in fields]} where {list(numbers)} must be")
    values = []
    for number, value in fields:
        if not isinstance(value, int):
            raise Violation(f"field {number} is not a varint")
        values.append(value)
    return values


def decode_packed(data: int | bytes) -> list[int]:
    """The values of a packed repeated field."""
    if isinstance(data, int):
        raise Violation("a repeated field is not packed")
    values, at = [], 0
    while at < len(data):
        value, at = decode_varint(data, at)
        values.append(value)
    return values


# --- Messages -----------------------------------------------------------------------------

CONNECT, HEARTBEAT, JOIN_ROOM, PROGRESS, READY = 1, 2, 10, 20, 30
START, FRAME, INPUT, RESULT, CLOSE, ECHO = 40, 50, 60, 70, 100, 255

OK, NO_PLAYER, NO_ROOM, ROOM_STATE, TOKEN = range(5)

FRAMES_PER_MESSAGE = 60
INPUTS_PER_SEAT_AND_FRAME = 64
SEGMENT_PAYLOAD = 1376
HEADER = 24


class Input(NamedTuple):
    """One input of a frame."""

    player: int
    seat: int
    command: tuple[int, int, int]


class JoinRoom(NamedTuple):
    """The answer to a JoinRoom."""

    seat: int
    others: dict[int, int]
    seed: int


def packet(message_id: int, body: bytes = b"") -> bytes:
    """A packet: the length of the body alone, big-endian, the id, the body."""
    return struct.pack(">HB", len(body), message_id) + body


def split_packet(message: bytes) -> tuple[int, bytes]:
    """The one packet that a KCP message from the server must be."""
    if len(message) < 3:
        raise Violation(f"a KCP message of {len(message)} bytes is no packet")
    length, message_id = struct.unpack_from(">HB", message)
    if length != len(message) - 3:
        raise Violation(
            f"a KCP message of {len(message)} bytes holds a packet of {length} + 3 bytes"
        )
    return message_id, message[3:]


def encode_connect(player: int, room: int, token: str = "") -> bytes:
    """C2S_ConnectMsg."""
    return packet(CONNECT, encode((1, player), (2, room), (10, token.encode())))


def encode_input(sid: int, x: int, y: int, frame: int = 0) -> bytes:
    """C2S_InputMsg."""
    return packet(INPUT, encode((1, sid), (2, x), (3, y), (4, frame)))


def decode_join_room(body: bytes) -> JoinRoom:
    """S2C_JoinRoomMsg."""
    fields = dict(decode(body))
    if not {1, 4} <= set(fields) <= {1, 2, 3, 4}:
        raise Violation(f"JoinRoom has the fields {sorted(fields)}")
    others = decode_packed(fields.get(2, b""))
    pros = [int32(pro) for pro in decode_packed(fields.get(3, b""))]
    if len(others) != len(pros):
        raise Violation(f"JoinRoom has {len(others)} others and {len(pros)} pros")
    seat, seed = fields[1], fields[4]
    if not isinstance(seat, int) or not isinstance(seed, int):
        raise Violation("JoinRoom has bytes where a number must be")
    return JoinRoom(int32(seat), dict(zip(others, pros, strict=True)), int32(seed))


def decode_frames(body: bytes) -> list[tuple[int, list[Input]]]:
    """S2C_FrameMsg, as (frame id, inputs)."""
    frames = []
    for number, frame in decode(body):
        if number != 1 or isinstance(frame, int):
            raise Violation(f"S2C_FrameMsg has a field {number}")
        fields = list(decode(frame))
        if not fields or fields[0][0] != 1 or not isinstance(fields[0][1], int):
            raise Violation("a frame does not begin with its id")
        inputs = []
        for number, data in fields[1:]:
            if number != 2 or isinstance(data, int):
                raise Violation(f"FrameData has a field {number}")
            player, sid, x, y, seat = decode_exactly(data, 1, 2, 3, 4, 5)
            inputs.append(Input(player, int32(seat), (int32(sid), int32(x), int32(y))))
        frames.append((fields[0][1], inputs))
    return frames


# --- KCP's segments -----------------------------------------------------------------------

PUSH = 81


class Segment(NamedTuple):
    """The header of one segment of a datagram, and its length of data."""

    conv: int
    cmd: int
    frg: int
    wnd: int
    ts: int
    sn: int
    una: int
    len: int


def segments(datagram: bytes) -> Iterator[Segment]:
    """The segments of a datagram."""
    at = 0
    while len(datagram) - at >= HEADER:
        segment = Segment(*struct.unpack_from("<IBBHIIII", datagram, at))
        yield segment
        at += HEADER + segment.len


def narrow_window(datagram: bytes, by: int) -> bytes:
    """The datagram as a KCP whose receive window is smaller would have sent it."""
    out = bytearray(datagram)
    at = 0
    while len(out) - at >= HEADER:
        (wnd,) = struct.unpack_from("<H", out, at + 6)
        struct.pack_into("<H", out, at + 6, max(0, wnd - by))
        at += HEADER + struct.unpack_from("<I", out, at + 20)[0]
    return bytes(out)


# --- The client ---------------------------------------------------------------------------

#: ikcp.c raises a smaller receive window to this.
KCP_WINDOW_MIN = 128

MESSAGE, STREAM, CHOPPED = "message", "stream", "chopped"


@dataclass(frozen=True)
class Habits:
    """What differs between the clients out there."""

    mtu: int = 1400
    #: nodelay, interval in ms, fast resend, no congestion control.
    nodelay: tuple[bool, int, int, bool] = (True, 10, 2, True)
    send_window: int = 128
    #: Under 128 it is played to the server: ikcp.c knows no smaller one.
    receive_window: int = 128
    #: MESSAGE: a packet is a KCP message. STREAM: what ikcp.c in stream mode puts on the
    #: wire, segments that are filled up (the binding does not offer the mode itself).
    #: CHOPPED: the stream is cut into KCP messages at random bytes.
    uplink: str = MESSAGE
    #: How often each datagram is sent.
    copies: int = 1
    #: What KCP is told to be its clock, per second. It means milliseconds.
    clock_hz: int = 1000
    heartbeat_every_s: float | None = None


#: The original Unity client: its clock counts 100 ns where KCP means milliseconds, so that
#: every retransmission time-out is over at the next update.
UNITY_CONV = 121106
UNITY = Habits(mtu=512, send_window=4096, receive_window=4096, clock_hz=10_000_000)
UNITY_HEARTBEAT_S = 2.0

UPDATE_EVERY_S = 0.01


@dataclass
class Stream:
    """The frames of one Start, until the next."""

    stamp: int
    at: float
    frames: dict[int, list[Input]] = field(default_factory=dict)
    head: int = 0

    def inputs_of(self, player: int) -> list[tuple[int, int, int]]:
        """What this player did, in the order of the frames."""
        return [
            one.command
            for number in sorted(self.frames)
            for one in self.frames[number]
            if one.player == player
        ]


class Client:
    """One player on one UDP socket, who takes the server at its word."""

    def __init__(
        self,
        server: Address,
        player: int,
        room: int,
        *,
        habits: Habits = Habits(),
        conv: int | None = None,
        port: int = 0,
        rng: random.Random | None = None,
    ) -> None:
        self.server, self.player, self.room, self.habits = server, player, room, habits
        self.rng = rng or random.Random(player)
        self.conv = self.rng.randrange(1, 1 << 32) if conv is None else conv
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]
        self.kcp = self._new_kcp()
        self.uplink = bytearray()
        self.born = time.monotonic()
        self.next_update = 0.0
        self.next_heartbeat = 0.0
        self.una_sent = 0
        # What the server has said.
        self.connects: list[int] = []
        self.joins: list[JoinRoom] = []
        self.progress: list[tuple[int, int]] = []
        self.echoes: list[bytes] = []
        self.heartbeats = self.readies = self.results = self.closes = 0
        self.streams: list[Stream] = []
        #: The id of every message, in order.
        self.log: list[int] = []
        self.messages = self.datagrams = self.foreign_datagrams = 0
        #: It was started again on its address with the same conv: until its Start it may hear
        #: what was meant for the process before it. Clients clear their frames at Start.
        self.inherits_past = False
        self.stale_messages = 0
        #: What it sent first, and how much in all.
        self.first_datagram = b""
        self.bytes_sent = 0
        #: How often each sequence number was sent, copies aside.
        self.pushes: dict[int, int] = {}
        # What this player does.
        self.sent: list[tuple[int, int, int]] = []
        self.press_hz = 0.0
        self.next_press = 0.0
        #: When each S2C_FrameMsg came.
        self.frame_messages_at: list[float] = []

    def _new_kcp(self) -> KCP:
        habits = self.habits
        # The binding takes a C int.
        kcp = KCP(int32(self.conv), max_transmission=habits.mtu)
        kcp.set_performance_options(*habits.nodelay)
        kcp.set_window_size(habits.send_window, max(habits.receive_window, KCP_WINDOW_MIN))
        kcp.include_outbound_handler(self._transmit)
        return kcp

    # --- What the player does -------------------------------------------------------------

    def say(self, data: bytes) -> None:
        """Queues a packet."""
        if self.habits.uplink == MESSAGE:
            self.kcp.enqueue(data)
        else:
            self.uplink += data

    def say_in_one_message(self, data: bytes) -> None:
        """Queues bytes as one KCP message, in as many fragments as that takes."""
        self.kcp.enqueue(data)

    def connect(self, room: int | None = None, player: int | None = None) -> None:
        """Says Connect."""
        self.say(
            encode_connect(
                self.player if player is None else player, self.room if room is None else room
            )
        )

    def join(self) -> None:
        """Says JoinRoom."""
        self.say(packet(JOIN_ROOM))

    def ready(self) -> None:
        """Says Ready."""
        self.say(packet(READY))

    def load(self, percent: int) -> None:
        """Says Progress."""
        self.say(packet(PROGRESS, encode((1, percent))))

    def new_input(self) -> bytes:
        """An input that no other of this player equals."""
        sid, y = self.rng.randrange(-3, 200), self.rng.randrange(-(1 << 31), 1 << 31)
        command = (sid, len(self.sent), y)
        self.sent.append(command)
        return encode_input(*command, frame=self.rng.randrange(1 << 32))

    def press(self, times: int = 1) -> None:
        """Says Input, each one unlike all others of this player."""
        for _ in range(times):
            self.say(self.new_input())

    def result(self, winner: int) -> None:
        """Says Result."""
        self.say(packet(RESULT, encode((1, winner))))

    def close(self) -> None:
        """Dies without a word, as a killed process does."""
        self.socket.close()

    # --- What it has seen -----------------------------------------------------------------

    @property
    def stream(self) -> Stream | None:
        """The frames since the last Start."""
        return self.streams[-1] if self.streams else None

    @property
    def head(self) -> int:
        """The frame after the newest one."""
        return self.streams[-1].head if self.streams else 0

    def __str__(self) -> str:
        return (
            f"player {self.player} conv {self.conv} port {self.port}: connects "
            f"{self.connects}, {len(self.joins)} joins, {self.readies} readies, "
            f"{len(self.streams)} starts, head {self.head}, {self.closes} closes, "
            f"{self.messages} messages in {self.datagrams} datagrams"
            f" (+{self.foreign_datagrams} of another conv), {len(self.sent)} inputs"
        )

    # --- The loop calls these -------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Does what is due: input, heartbeat, KCP's update."""
        if self.press_hz and self.streams and now >= self.next_press:
            self.next_press = max(self.next_press, now - 1) + 1 / self.press_hz
            self.press()
        beat = self.habits.heartbeat_every_s
        if beat is not None and self.connects and now >= self.next_heartbeat:
            self.next_heartbeat = now + beat
            self.say(packet(HEARTBEAT))
        if now >= self.next_update:
            self.next_update = now + UPDATE_EVERY_S
            self._cut_uplink()
            self.kcp.update(int((now - self.born) * self.habits.clock_hz) & 0xFFFF_FFFF)

    def read(self) -> None:
        """Reads what has come."""
        for datagram in self.read_raw():
            self.datagrams += 1
            if self._is_mine(datagram):
                self.kcp.receive(datagram)
                for message in self.kcp.get_all_received():
                    self._hear(bytes(message))

    def read_raw(self) -> list[bytes]:
        """Takes the datagrams that have come past KCP: nothing is acknowledged."""
        datagrams = []
        while True:
            try:
                datagrams.append(self.socket.recv(65536))
            except (BlockingIOError, InterruptedError):
                return datagrams
            except ConnectionError:
                continue  # Windows: nobody listened at the other end.

    def _cut_uplink(self) -> None:
        mss = self.habits.mtu - HEADER
        while self.uplink:
            most = self.rng.choice((1, 2, 5, 40, 200)) if self.habits.uplink == CHOPPED else mss
            self.kcp.enqueue(bytes(self.uplink[:most]))
            del self.uplink[:most]

    def _transmit(self, _kcp: KCP, datagram: bytes) -> None:
        if self.habits.receive_window < KCP_WINDOW_MIN:
            datagram = narrow_window(datagram, KCP_WINDOW_MIN - self.habits.receive_window)
        self.first_datagram = self.first_datagram or datagram
        self.bytes_sent += len(datagram) * self.habits.copies
        for segment in segments(datagram):
            self.una_sent = max(self.una_sent, segment.una)
            if segment.cmd == PUSH:
                self.pushes[segment.sn] = self.pushes.get(segment.sn, 0) + 1
        for _ in range(self.habits.copies):
            try:
                self.socket.sendto(datagram, self.server)
            except (BlockingIOError, ConnectionError):
                pass  # A datagram may be lost.

    def _is_mine(self, datagram: bytes) -> bool:
        if len(datagram) > 1400:
            raise Violation(f"a datagram of {len(datagram)} bytes")
        for segment in segments(datagram):
            if segment.conv != self.conv:
                self.foreign_datagrams += 1
                return False
            if segment.cmd != PUSH:
                continue
            if segment.len == 0:
                raise Violation("a PUSH of length 0")
            window = self.habits.receive_window
            if window < KCP_WINDOW_MIN and segment.sn >= self.una_sent + window:
                # A KCP of that window would drop it; ikcp.c drops what is outside its own.
                raise Violation(
                    f"sn {segment.sn} is outside the window of {window} at {self.una_sent}"
                )
        return True

    # --- What the server says -------------------------------------------------------------

    def _hear(self, message: bytes) -> None:
        self.messages += 1
        message_id, body = split_packet(message)
        self.log.append(message_id)
        if message_id != ECHO and message_id != CONNECT and OK not in self.connects:
            raise Violation(f"message {message_id} before a Connect that was answered with Ok")
        handler = self._HANDLERS.get(message_id)
        if handler is None:
            raise Violation(f"message {message_id} is not in the contract")
        handler(self, body)

    def _hear_connect(self, body: bytes) -> None:
        self.connects.extend(decode_exactly(body, 1))

    def _hear_heartbeat(self, body: bytes) -> None:
        decode_exactly(body)
        self.heartbeats += 1

    def _hear_join_room(self, body: bytes) -> None:
        answer = decode_join_room(body)
        if self.player in answer.others or answer.seat < 1:
            raise Violation(f"JoinRoom answers {answer}")
        self.joins.append(answer)

    def _hear_progress(self, body: bytes) -> None:
        player, percent = decode_exactly(body, 1, 2)
        if not self.joins or player not in self.joins[-1].others:
            raise Violation(f"progress of {player} before JoinRoom named it")
        if self.streams:
            raise Violation("progress after Start")
        self.progress.append((player, int32(percent)))

    def _hear_ready(self, body: bytes) -> None:
        decode_exactly(body)
        self.readies += 1

    def _hear_start(self, body: bytes) -> None:
        (stamp,) = decode_exactly(body, 1)
        if not self.joins:
            raise Violation("Start before JoinRoom's answer")
        self.streams.append(Stream(stamp, time.monotonic()))

    def _hear_frames(self, body: bytes) -> None:
        if not self.streams:
            if self.inherits_past:
                # Sent to the process before this one, and still on its way.
                self.stale_messages += 1
                return
            raise Violation("a frame before Start")
        frames = decode_frames(body)
        if not 1 <= len(frames) <= FRAMES_PER_MESSAGE:
            raise Violation(f"{len(frames)} frames in one message")
        if len(frames) > 1 and len(body) + 3 > SEGMENT_PAYLOAD:
            raise Violation(f"{len(frames)} frames in a message of {len(body) + 3} bytes")
        self.frame_messages_at.append(time.monotonic())
        for number, inputs in frames:
            self._hear_frame(self.streams[-1], number, inputs)

    def _hear_frame(self, stream: Stream, number: int, inputs: list[Input]) -> None:
        if number < stream.head:
            raise Violation(f"frame {number} after frame {stream.head - 1}")
        stream.head = number + 1
        if inputs:
            stream.frames[number] = inputs
        for player in {one.player for one in inputs}:
            count = sum(one.player == player for one in inputs)
            if count > INPUTS_PER_SEAT_AND_FRAME:
                raise Violation(f"{count} inputs of player {player} in frame {number}")

    def _hear_result(self, body: bytes) -> None:
        decode_exactly(body)
        self.results += 1

    def _hear_close(self, body: bytes) -> None:
        decode_exactly(body)
        self.closes += 1

    def _hear_echo(self, body: bytes) -> None:
        self.echoes.append(body)

    _HANDLERS: dict[int, Callable[[Client, bytes], None]] = {
        CONNECT: _hear_connect,
        HEARTBEAT: _hear_heartbeat,
        JOIN_ROOM: _hear_join_room,
        PROGRESS: _hear_progress,
        READY: _hear_ready,
        START: _hear_start,
        FRAME: _hear_frames,
        RESULT: _hear_result,
        CLOSE: _hear_close,
        ECHO: _hear_echo,
    }


class World:
    """The clients that are alive, and the loop that runs them."""

    def __init__(self) -> None:
        self.clients: list[Client] = []

    def add(self, client: Client) -> Client:
        """Lets a client live."""
        self.clients.append(client)
        return client

    def kill(self, client: Client) -> None:
        """Takes a client away without a word."""
        self.clients.remove(client)
        client.close()

    def step(self) -> None:
        """One turn: wait for a datagram or the next update, whichever comes first."""
        now = time.monotonic()
        for client in self.clients:
            client.tick(now)
        wake = min((client.next_update for client in self.clients), default=now + 0.01)
        wait = max(0.0, wake - time.monotonic())
        if not self.clients:
            time.sleep(wait)
            return
        readable, _, _ = select.select([c.socket for c in self.clients], [], [], wait)
        for client in self.clients:
            if client.socket in readable:
                client.read()

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def until(self, what: str, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Lets time pass until the condition holds; that it does is a claim."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise Violation(f"not within {timeout} s: {what}")
            self.step()


# --- The network --------------------------------------------------------------------------


class Relay(threading.Thread):
    """A network of its own thread: delays, repeats and reorders datagrams, both ways.

    To the server, each client comes from a port of its own, always the same one for the
    same port of the client.
    """

    def __init__(
        self,
        server: Address,
        rng: random.Random,
        *,
        delay_s: float,
        jitter_s: float = 0.0,
        repeat: float = 0.0,
        lose: float = 0.0,
    ) -> None:
        super().__init__(daemon=True)
        self.server, self.rng = server, rng
        self.delay_s, self.jitter_s, self.repeat, self.lose = delay_s, jitter_s, repeat, lose
        self.front = self._socket()
        self.address: Address = self.front.getsockname()
        self.behind: dict[Address, socket.socket] = {}
        self.client_of: dict[socket.socket, Address] = {}
        self.under_way: list[tuple[float, int, socket.socket, Address, bytes]] = []
        self.count = 0
        self.start()

    @staticmethod
    def _socket() -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        one.bind(("127.0.0.1", 0))
        one.setblocking(False)
        return one

    def run(self) -> None:
        """Never ends: the process does."""
        while True:
            now = time.monotonic()
            while self.under_way and self.under_way[0][0] <= now:
                _, _, out, to, datagram = heapq.heappop(self.under_way)
                try:
                    out.sendto(datagram, to)
                except (BlockingIOError, ConnectionError):
                    pass  # A datagram may be lost.
            wait = self.under_way[0][0] - now if self.under_way else 0.05
            readable, _, _ = select.select([self.front, *self.client_of], [], [], wait)
            for one in readable:
                self._drain(one)

    def _drain(self, one: socket.socket) -> None:
        while True:
            try:
                datagram, sender = one.recvfrom(65536)
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # Nobody listens there now.
            if one is self.front:
                self._carry(self._behind(sender), self.server, datagram)
            else:
                self._carry(self.front, self.client_of[one], datagram)

    def _behind(self, client: Address) -> socket.socket:
        if client not in self.behind:
            self.behind[client] = self._socket()
            self.client_of[self.behind[client]] = client
        return self.behind[client]

    def _carry(self, out: socket.socket, to: Address, datagram: bytes) -> None:
        if self.rng.random() < self.lose:
            return
        for _ in range(2 if self.rng.random() < self.repeat else 1):
            due = time.monotonic() + self.delay_s + self.rng.random() * self.jitter_s
            self.count += 1
            heapq.heappush(self.under_way, (due, self.count, out, to, datagram))
