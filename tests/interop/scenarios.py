"""What clients of the lockstep server live through, played against a real server.

    python scenarios.py NAME --udp HOST:PORT --web HOST:PORT
    python scenarios.py --list

Each scenario is a function: it makes rooms of its own, plays, and checks. The exit code is
0 if the server kept the contract, and 1 with a message if it did not.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import http.client
import itertools
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import lockstep
from lockstep import (
    CHOPPED,
    CLOSE,
    ECHO,
    FRAME,
    HEARTBEAT,
    NO_PLAYER,
    NO_ROOM,
    OK,
    PROGRESS,
    READY,
    ROOM_STATE,
    START,
    STREAM,
    UNITY,
    UNITY_CONV,
    UNITY_HEARTBEAT_S,
    Address,
    Client,
    Habits,
    Input,
    JoinRoom,
    Relay,
    Violation,
    World,
)

#: Longer than any scenario takes; then all stacks are printed and the process ends.
WATCHDOG_S = 100


def require(condition: bool, what: str) -> None:
    """A claim about the server."""
    if not condition:
        raise Violation(what)


class Play:
    """One server, and what a scenario needs to play on it."""

    def __init__(self, udp: Address, web: Address, name: str, seed: int) -> None:
        self.udp, self.web = udp, web
        self.rng = random.Random(seed)
        self.world = World()
        # Scenarios that share a server must not share rooms.
        self.rooms = itertools.count(zlib.crc32(name.encode()) * 1000)

    # --- Rooms and clients ----------------------------------------------------------------

    def create_room(self, players: Sequence[int]) -> int:
        """Creates a room over HTTP, as a game's backend does."""
        room = next(self.rooms)
        members = ",".join(map(str, players))
        web = http.client.HTTPConnection(*self.web, timeout=5)
        web.request("GET", f"/create?room={room}&member={members}")
        answer = web.getresponse()
        text = answer.read().decode()
        web.close()
        require(answer.status == 200, f"/create answers {answer.status}: {text}")
        for part in (f"room.ID=[{room}]", f"room.Member=[{members}]"):
            require(part in text, f"/create answers {text!r}, which lacks {part}")
        return room

    def client(
        self,
        room: int,
        player: int,
        habits: Habits = Habits(),
        *,
        conv: int | None = None,
        port: int = 0,
        server: Address | None = None,
    ) -> Client:
        """A client that has said nothing yet."""
        rng = random.Random(self.rng.random())
        return self.world.add(
            Client(server or self.udp, player, room, habits=habits, conv=conv, port=port, rng=rng)
        )

    def restart(self, old: Client, gap_s: float, conv: int | None = None) -> Client:
        """Kills a client and starts it again on its address, with its old conv or another."""
        self.world.kill(old)
        self.world.run(gap_s)
        new = self.client(
            old.room,
            old.player,
            old.habits,
            conv=old.conv if conv is None else conv,
            port=old.port,
            server=old.server,
        )
        new.inherits_past = new.conv == old.conv
        # What the new process presses must not look like what the old one did.
        new.sent = list(old.sent)
        return new

    # --- Playing --------------------------------------------------------------------------

    def enter(self, client: Client) -> None:
        """Connect and JoinRoom, with their answers."""
        before = len(client.connects), len(client.joins)
        client.connect()
        self.world.until(
            f"player {client.player} gets an answer to Connect",
            lambda: len(client.connects) > before[0],
        )
        require(client.connects[-1] == OK, f"Connect is answered with {client.connects[-1]}")
        client.join()
        self.world.until(
            f"player {client.player} gets an answer to JoinRoom",
            lambda: len(client.joins) > before[1],
        )

    def start(self, clients: Sequence[Client]) -> None:
        """Takes clients that fill a room from nothing to the first frames."""
        for client in clients:
            self.enter(client)
        for seat, client in enumerate(clients, 1):
            join = client.joins[-1]
            require(join.seat == seat, f"member {seat} got seat {join.seat}")
            others = {other.player for other in clients} - {client.player}
            require(set(join.others) == others, f"others {join.others} of {others}")
            require(join.seed == clients[0].joins[-1].seed, "seeds differ")
        for client in clients:
            client.ready()
        self.await_start(clients)

    def await_start(self, clients: Sequence[Client], timeout: float = 5.0) -> None:
        """Everyone gets Start with the same stamp, and frames."""
        self.world.until("Ready is answered", lambda: all(c.readies for c in clients), timeout)
        self.world.until("Start and frames", lambda: all(c.head > 3 for c in clients), timeout)
        stamps = {client.streams[-1].stamp for client in clients}
        require(len(stamps) == 1, f"stamps of Start differ: {stamps}")
        require(abs(stamps.pop() - time.time()) < 60, "the stamp of Start is not Unix seconds")

    def press_for(self, seconds: float, clients: Sequence[Client], hz: float = 30.0) -> None:
        """Lets clients press, then waits for the last input to come around."""
        for client in clients:
            client.press_hz = hz
        self.world.run(seconds)
        for client in clients:
            client.press_hz = 0
        self.settle(clients)

    def settle(self, clients: Sequence[Client], timeout: float = 5.0) -> None:
        """Waits until everyone has seen all that everyone has sent, and a bit more."""

        def seen() -> bool:
            return all(
                sum(map(len, one.streams[-1].frames.values())) >= sum(len(c.sent) for c in clients)
                for one in clients
                if one.streams
            )

        try:
            self.world.until("all inputs come around", seen, timeout)
        finally:
            if not seen():
                for one in clients:
                    self.check_inputs(one, clients)
        target = max(client.head for client in clients) + 3
        self.world.until("frames go on", lambda: all(c.head >= target for c in clients))

    # --- Checking -------------------------------------------------------------------------

    def check_equal(self, clients: Sequence[Client]) -> None:
        """The frames that all have seen are the same for all; so are all their streams."""
        streams = [stream for client in clients for stream in client.streams]
        longest = max(streams, key=lambda stream: stream.head)
        for client in clients:
            for number, stream in enumerate(client.streams):
                for frame in range(stream.head):
                    mine, theirs = stream.frames.get(frame), longest.frames.get(frame)
                    require(
                        mine == theirs,
                        f"frame {frame} of player {client.player} (start {number}) holds "
                        f"{mine}, elsewhere {theirs}",
                    )

    def check_inputs(self, observer: Client, players: Iterable[Client]) -> None:
        """Every input of these players is there, exactly once, in the order of sending."""
        for player in players:
            got = observer.streams[-1].inputs_of(player.player)
            if got != player.sent:
                first = next(
                    (
                        i
                        for i, pair in enumerate(zip(got, player.sent, strict=False))
                        if pair[0] != pair[1]
                    ),
                    min(len(got), len(player.sent)),
                )
                raise Violation(
                    f"player {observer.player} sees {len(got)} of {len(player.sent)} inputs of "
                    f"player {player.player}; they differ from number {first} on: "
                    f"{got[first : first + 3]}, sent {player.sent[first : first + 3]}"
                )

    def check_no_repeat(self, observer: Client, player: Client) -> None:
        """What there is of a player who died in between is in order and there once."""
        got = observer.streams[-1].inputs_of(player.player)
        rest = iter(player.sent)
        require(
            all(command in rest for command in got),
            f"inputs of player {player.player} are repeated, invented or out of order",
        )

    def check_all(self, clients: Sequence[Client]) -> None:
        """Equal frames for all, and every input exactly once."""
        self.check_equal(clients)
        for client in clients:
            self.check_inputs(client, clients)

    def check_caught_up(
        self, client: Client, others: Sequence[Client], timeout: float = 5.0
    ) -> float:
        """One who came back gets Start, as it was, and all frames. Returns the seconds."""
        began = time.monotonic()
        target = max(other.head for other in others)
        self.world.until(
            f"player {client.player} catches up to frame {target}",
            lambda: client.head >= target,
            timeout,
        )
        took = time.monotonic() - began
        stamp = others[0].streams[-1].stamp
        for stream in client.streams:
            require(stream.stamp == stamp, f"Start says {stream.stamp}, at first {stamp}")
        require(len(client.streams) == 1, f"{len(client.streams)} Starts for one Ready")
        self.check_equal([client, *others])
        return took

    def come_back(self, client: Client) -> None:
        """Connect, JoinRoom, Ready, as after a loss of connection."""
        self.enter(client)
        client.ready()


Scenario = Callable[[Play], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Makes a function known to the command line by its name."""
    SCENARIOS[function.__name__] = function
    return function


# --- The client itself --------------------------------------------------------------------


@scenario
def codec(_play: Play) -> None:
    """The client's own encoding, against bytes written down from the contract."""

    def same(got: object, expected: object) -> None:
        require(got == expected, f"{got!r} is not {expected!r}")

    same(lockstep.encode_varint(300), b"\xac\x02")
    same(lockstep.encode_varint(-1), b"\xff" * 9 + b"\x01")
    same(lockstep.decode_varint(b"\x00\xac\x02", 1), (300, 3))
    same(lockstep.int32(2**64 - 1), -1)
    same(lockstep.encode_connect(7, 300, "t"), bytes.fromhex("000801 0807 10ac02 520174"))
    same(lockstep.encode_input(1, 2, -1, 0)[:9], bytes.fromhex("00113c 0801 1002 18ff"))
    join = lockstep.decode_join_room(bytes.fromhex("0802 120105 1a0163 2000"))
    same(join, JoinRoom(2, {5: 99}, 0))
    frame = bytes.fromhex("0a0e 0807 120a 0805 1001 1802 2003 2802")
    same(lockstep.decode_frames(frame), [(7, [Input(5, 2, (1, 2, 3))])])
    same(lockstep.split_packet(b"\x00\x01\x46x"), (70, b"x"))
    for broken in (b"\x00\x02\x46x", b"\x00\x00\x46\x00\x00\x46", b"\x00\x00"):
        try:
            lockstep.split_packet(broken)
        except Violation:
            continue
        raise Violation(f"{broken!r} was taken for one packet")


# --- Ways to speak KCP --------------------------------------------------------------------


@scenario
def message_mode(play: Play) -> None:
    """One packet in each KCP message, and the rhythm of the frames."""
    room = play.create_room([11, 12])
    clients = [play.client(room, 11), play.client(room, 12)]
    began = time.time()
    play.start(clients)
    stamp = clients[0].streams[-1].stamp
    require(began - 2 < stamp < time.time() + 2, f"Start says {stamp}, it is {time.time()}")

    # Nobody presses: something is sent every third frame all the same.
    messages, head = len(clients[0].frame_messages_at), clients[0].head
    play.world.run(2)
    messages, head = len(clients[0].frame_messages_at) - messages, clients[0].head - head
    require(52 <= head <= 68, f"{head} frames in 2 s")
    require(17 <= messages <= 24, f"{messages} messages in 2 s in which nothing happens")

    play.press_for(2, clients)
    for client in clients:
        age = time.monotonic() - client.streams[-1].at
        late = age * 30 - client.head
        require(-3 < late < 12, f"{client.head} frames {age:.2f} s after Start")
    play.check_all(clients)


@scenario
def stream_mode(play: Play) -> None:
    """The uplink as KCP's stream mode sends it: segments that are filled up."""
    room = play.create_room([1, 2])
    clients = [play.client(room, p, Habits(uplink=STREAM)) for p in (1, 2)]
    play.start(clients)
    for _ in range(5):
        # More than a segment in one turn: a packet lies across the border of two.
        for client in clients:
            client.press(60)
        play.press_for(0.3, clients)
    play.check_all(clients)


@scenario
def packets_across_messages(play: Play) -> None:
    """Packets cut at arbitrary bytes, several in one message, a message in fragments."""
    room = play.create_room([1, 2])
    chopped = play.client(room, 1, Habits(uplink=CHOPPED))
    whole = play.client(room, 2)
    play.start([chopped, whole])
    play.press_for(1.5, [chopped, whole], hz=60)
    for several in (2, 3, 40):
        whole.say_in_one_message(b"".join(whole.new_input() for _ in range(several)))
        play.world.run(0.2)
    # 120 inputs are over 3 kB: KCP carries them in fragments.
    whole.say_in_one_message(b"".join(whole.new_input() for _ in range(120)))
    play.settle([chopped, whole])
    play.check_all([chopped, whole])


@scenario
def conv_zero(play: Play) -> None:
    """Conv 0 is a conv like any other; so are the highest ones."""
    room = play.create_room([1, 2])
    clients = [play.client(room, 1, conv=0), play.client(room, 2, conv=0xFFFF_FFFF)]
    play.start(clients)
    play.press_for(1, clients)
    play.check_all(clients)


@scenario
def one_conv_for_all(play: Play) -> None:
    """All clients of two rooms share one conv: a session is known by its address."""
    rooms = [play.create_room([1, 2, 3]), play.create_room([1, 2, 3])]
    tables = [[play.client(room, p, conv=UNITY_CONV) for p in (1, 2, 3)] for room in rooms]
    for table in tables:
        play.start(table)
    for client in (*tables[0], *tables[1]):
        client.press_hz = 30
    play.world.run(1)
    for table in tables:
        play.press_for(0.2, table)
    for table in tables:
        play.check_all(table)


@scenario
def unity_habits(play: Play) -> None:
    """Unity's client: a clock of 100 ns, so everything is sent again and again."""
    room = play.create_room([1, 2])
    relay = Relay(play.udp, play.rng, delay_s=0.04, jitter_s=0.01)
    habits = replace(UNITY, heartbeat_every_s=UNITY_HEARTBEAT_S)
    clients = [play.client(room, p, habits, conv=UNITY_CONV, server=relay.address) for p in (1, 2)]
    play.start(clients)
    play.press_for(2.5, clients)
    play.check_all(clients)
    require(all(client.heartbeats for client in clients), "heartbeats are not answered")
    for client in clients:
        times = sum(client.pushes.values()) / len(client.pushes)
        require(times > 4, f"each segment was sent {times:.1f} times: this is not Unity's client")


@scenario
def five_copies_of_each_datagram(play: Play) -> None:
    """A client at MTU 512 that sends every datagram five times."""
    room = play.create_room([1, 2])
    clients = [
        play.client(room, 1, replace(UNITY, copies=5), conv=UNITY_CONV),
        play.client(room, 2),
    ]
    play.start(clients)
    play.press_for(2, clients)
    # Over two segments of MTU 512 in one message.
    clients[0].say_in_one_message(b"".join(clients[0].new_input() for _ in range(50)))
    play.settle(clients)
    play.check_all(clients)


@scenario
def bad_network(play: Play) -> None:
    """Loss, repeats and reordering are KCP's to mend: nobody sees them in the frames."""
    room = play.create_room([1, 2])
    relay = Relay(play.udp, play.rng, delay_s=0.02, jitter_s=0.03, repeat=0.1, lose=0.1)
    clients = [play.client(room, p, server=relay.address) for p in (1, 2)]
    play.start(clients)
    play.press_for(4, clients)
    play.check_all(clients)


# --- Entering a room ----------------------------------------------------------------------


@scenario
def error_codes(play: Play) -> None:
    """Connect says what is wrong, and the same connection may try again."""
    room, strange = play.create_room([1, 2]), 4_000_000_000
    client = play.client(room, 1)

    def expect(code: int, name: str) -> None:
        count = len(client.connects)
        play.world.until("Connect is answered", lambda: len(client.connects) > count)
        got = client.connects[-1]
        require(got == code, f"Connect is answered with {got}, not with {name} ({code})")

    client.connect(room=strange)
    expect(NO_ROOM, "NoRoom")
    client.connect(room=strange, player=99)
    expect(NO_ROOM, "NoRoom")
    client.connect(player=99)
    expect(NO_PLAYER, "NoPlayer")
    play.world.run(1)
    client.connect()
    expect(OK, "Ok")
    other = play.client(room, 2)
    play.enter(other)
    client.join()
    play.world.until("JoinRoom is answered", lambda: bool(client.joins))
    client.ready()
    other.ready()
    play.await_start([client, other])
    play.press_for(0.5, [client, other])
    play.check_all([client, other])


@scenario
def echo_without_a_seat(play: Play) -> None:
    """Message 255 comes back as it is while no seat is held."""
    room = play.create_room([1, 2])
    client = play.client(room, 1)
    bodies = [b"", b"\x00", bytes(range(256)), play.rng.randbytes(1024)]
    for body in bodies:
        client.say(lockstep.packet(ECHO, body))
    play.world.until("four echoes", lambda: len(client.echoes) == 4)
    require(client.echoes == bodies, "an echo differs from what was said")
    client.connect(player=99)
    client.say(lockstep.packet(ECHO, b"refused"))
    play.world.until("an echo after a refusal", lambda: len(client.echoes) == 5)
    require(client.connects == [NO_PLAYER], f"Connect is answered with {client.connects}")
    play.enter(client)


@scenario
def heartbeats_are_answered(play: Play) -> None:
    """Each Heartbeat has its answer, in the lobby and in the match."""
    room = play.create_room([1])
    client = play.client(room, 1)
    play.enter(client)
    for _ in range(3):
        client.say(lockstep.packet(HEARTBEAT))
    play.world.until("three answers", lambda: client.heartbeats == 3)
    client.ready()
    play.await_start([client])
    client.say(lockstep.packet(HEARTBEAT))
    play.world.until("an answer in the match", lambda: client.heartbeats == 4)


@scenario
def progress_reaches_those_who_joined(play: Play) -> None:
    """Progress goes to the other seats, and only once they have their JoinRoom."""
    room = play.create_room([1, 2, 3])
    first, second, third = (play.client(room, p) for p in (1, 2, 3))
    play.enter(first)
    play.enter(second)
    third.connect()
    play.world.until("Connect is answered", lambda: bool(third.connects))
    for percent in (0, 30, 60):
        first.load(percent)
        play.world.run(0.1)
    play.world.until("progress", lambda: second.progress[-1:] == [(1, 60)])
    require(not first.progress, "progress came back to its sender")
    require(PROGRESS not in third.log, "progress reached one that has not joined")
    third.join()
    play.world.until("JoinRoom is answered", lambda: bool(third.joins))
    require(third.joins[-1].others == {1: 60, 2: 0}, f"others are {third.joins[-1].others}")
    second.load(100)
    play.world.until("progress", lambda: {(2, 100)} <= set(first.progress) & set(third.progress))
    for client in (first, second, third):
        client.ready()
    play.await_start([first, second, third])
    first.load(70)
    play.press_for(0.5, [first, second, third])
    play.check_all([first, second, third])


@scenario
def a_silent_client_waits_while_another_loads(play: Play) -> None:
    """One is ready and says nothing for 20 s; the other never gets ready."""
    room = play.create_room([1, 2])
    silent, loading = play.client(room, 1), play.client(room, 2)
    began = time.monotonic()
    play.enter(silent)
    silent.ready()
    play.world.until("Ready is answered", lambda: silent.readies == 1)
    play.enter(loading)
    loading.habits = replace(loading.habits, heartbeat_every_s=2)
    for percent in range(0, 90, 10):
        loading.load(percent)
        play.world.run(1.9)
    clients = [silent, loading]
    play.world.until("Start after 20 s", lambda: all(c.streams for c in clients), 6)
    took = time.monotonic() - began
    require(19 < took < 21.5, f"Start after {took:.1f} s")
    play.world.until("frames", lambda: all(c.head > 3 for c in clients))
    play.press_for(1.5, clients)
    play.check_all(clients)


# --- Coming back --------------------------------------------------------------------------


def restarts(play: Play, conv: Callable[[Client], int], habits: Habits = Habits()) -> None:
    """One of two players is killed in the match and starts again on its address, twice."""
    room = play.create_room([1, 2])
    steady, mortal = play.client(room, 1, habits), play.client(room, 2, habits)
    play.start([steady, mortal])
    steady.press_hz = 30
    for gap in (0.6, 1.2):
        mortal.press_hz = 30
        play.world.run(1.2)
        mortal = play.restart(mortal, gap, conv(mortal))
        play.come_back(mortal)
        play.check_caught_up(mortal, [steady], 3)
        require(mortal.joins[-1].seat == 2, f"seat {mortal.joins[-1].seat} after a restart")
    steady.press_hz = 0
    mortal.sent = mortal.streams[-1].inputs_of(2)
    play.press_for(0.5, [steady, mortal])
    play.check_all([steady, mortal])


@scenario
def restart_with_the_same_conv(play: Play) -> None:
    """As Unity's client does."""
    restarts(play, lambda old: old.conv, replace(UNITY, heartbeat_every_s=2))


@scenario
def restart_with_a_new_conv(play: Play) -> None:
    """As kcp-go does."""
    restarts(play, lambda old: old.conv ^ 0x5555)


@scenario
def restarts_over_a_slow_network(play: Play) -> None:
    """What the old incarnation was owed is under way when the new one says Connect."""
    room = play.create_room([1, 2])
    relay = Relay(play.udp, play.rng, delay_s=0.02, jitter_s=0.004, repeat=0.05)
    steady = play.client(room, 1, server=relay.address)
    mortal = play.client(room, 2, conv=UNITY_CONV, server=relay.address)
    play.start([steady, mortal])
    steady.press_hz = 30
    play.world.run(0.7)
    for conv in (None, None, play.rng.randrange(1 << 32)):
        mortal.press_hz = 30
        play.world.run(play.rng.uniform(0.1, 0.4))
        old, mortal = mortal, play.restart(mortal, play.rng.uniform(0.6, 1.0), conv)
        play.come_back(mortal)
        play.check_caught_up(mortal, [steady], 3)
        if conv is None:
            play.world.until("a longer life", functools.partial(outlives, mortal, old), 10)
        play.check_no_repeat(steady, mortal)
    steady.press_hz = 0
    play.world.run(0.3)
    play.check_equal([steady, mortal])
    play.check_inputs(mortal, [steady])


def outlives(new: Client, old: Client) -> bool:
    """Whether a client has had more messages than the server had sent to the one before.

    A late segment of the old incarnation takes a sequence number of the new one, and shows
    up as a frame out of order when the server has come to it. Each message takes a number;
    at 30 Hz the old one was sent 15 more in the half second in which it was not missed.
    """
    return new.messages > old.messages + 20


@scenario
def restart_in_the_first_second(play: Play) -> None:
    """A client that is started again, same conv, before its session is a second old.

    The old session's next segments carry its una, which acknowledges the new client's
    Connect (sn 0): the client never repeats it, and waits for ever.
    """
    room = play.create_room([1, 2])
    steady, mortal = play.client(room, 1), play.client(room, 2)
    play.start([steady, mortal])
    play.world.run(0.2)
    mortal = play.restart(mortal, 0.01)
    play.come_back(mortal)
    play.check_caught_up(mortal, [steady], 3)


@scenario
def quick_restart_over_a_slow_network(play: Play) -> None:
    """Started again, same conv, before the server has noticed the silence (500 ms).

    Segments of the old session, under way or sent before the new Connect arrives, take the
    same numbers of the new one: stale frames there, and the frames that the server sends
    under these numbers are lost for good.
    """
    room = play.create_room([1, 2])
    relay = Relay(play.udp, play.rng, delay_s=0.02)
    steady = play.client(room, 1, server=relay.address)
    old = play.client(room, 2, server=relay.address)
    play.start([steady, old])
    steady.press_hz = 30
    play.world.run(1.2)
    new = play.restart(old, 0.2)
    play.come_back(new)
    play.check_caught_up(new, [steady], 3)
    play.world.until("a longer life", functools.partial(outlives, new, old), 10)
    play.world.run(0.3)
    play.check_equal([steady, new])


@scenario
def the_second_connection_takes_the_seat(play: Play) -> None:
    """The first one is dropped without a word: a Close would stop the client in Unity."""
    room = play.create_room([1, 2])
    other, first = play.client(room, 1), play.client(room, 2)
    play.start([other, first])
    play.press_for(1, [other, first])
    second = play.client(room, 2)
    second.sent = list(first.sent)
    play.come_back(second)
    play.check_caught_up(second, [other])
    messages = first.messages
    play.world.run(0.3)
    datagrams = first.datagrams
    # Whatever the first still says is no longer the player's.
    first.press(3)
    play.press_for(1.5, [other, second])
    require(first.messages == messages, f"the first one still hears {first.log[messages:]}")
    require(CLOSE not in first.log, "the first one got a Close")
    require(first.datagrams == datagrams, "the first one still gets datagrams")
    play.check_all([other, second])


@scenario
def forged_connects_change_nothing(play: Play) -> None:
    """A late copy of the own Connect, and one from an address that answers nothing."""
    room = play.create_room([1, 2])
    clients = [play.client(room, 1), play.client(room, 2)]
    play.start(clients)
    deaf = play.client(room, 2)
    play.world.clients.remove(deaf)
    deaf.connect()
    deaf.join()
    deaf.ready()
    for client in clients:
        client.press_hz = 30
    end = time.monotonic() + 2.5
    next_copy = time.monotonic() + 1.2
    while time.monotonic() < end:
        deaf.tick(time.monotonic())
        play.world.step()
        if time.monotonic() > next_copy:
            next_copy += 0.4
            clients[0].socket.sendto(clients[0].first_datagram, clients[0].server)
    play.press_for(0.2, clients)
    play.check_all(clients)
    for client in clients:
        require(len(client.connects) == 1, "the forged Connect reached the seat")
        at = client.frame_messages_at
        gap = max(b - a for a, b in itertools.pairwise(at))
        require(gap < 0.7, f"no frames for {gap:.2f} s")
    answers = deaf.read_raw()
    require(sum(map(len, answers)) < 3 * deaf.bytes_sent, "an echo chamber for forged addresses")


def long_match(play: Play, seconds: float, hz: float = 30.0) -> list[Client]:
    """Four players who press for so long, and three of them go on."""
    room = play.create_room([1, 2, 3, 4])
    clients = [play.client(room, p) for p in (1, 2, 3, 4)]
    play.start(clients)
    play.press_for(seconds, clients, hz)
    play.check_all(clients)
    for client in clients[:3]:
        client.press_hz = 30
    return clients


@scenario
def catch_up_of_a_long_match(play: Play) -> None:
    """Over 300 frames of four players: no gap, no repeat, no frame before Start."""
    *others, lost = long_match(play, 11)
    require(lost.head > 300, f"only {lost.head} frames so far")
    for habits in (Habits(), replace(UNITY, heartbeat_every_s=2)):
        play.world.kill(lost)
        sent = lost.sent
        lost = play.client(others[0].room, 4, habits)
        lost.sent = sent
        play.come_back(lost)
        took = play.check_caught_up(lost, others)
        require(took < 2, f"catching up took {took:.2f} s")
        play.check_inputs(lost, [lost])


@scenario
def a_window_of_32_catches_up(play: Play) -> None:
    """kcp-go's receive window, unless set otherwise: the server keeps within it."""
    # About 25 kB of frames a second: twice what the window holds, in three seconds.
    *others, lost = long_match(play, 3.5, hz=240)
    play.world.kill(lost)
    back = play.client(others[0].room, 4, Habits(receive_window=32))
    back.sent = lost.sent
    play.come_back(back)
    play.check_caught_up(back, others)
    play.press_for(1, [back])
    play.check_inputs(others[0], [back])


@scenario
def ready_again_restarts_the_stream(play: Play) -> None:
    """On the same connection, at most once a second."""
    room = play.create_room([1, 2])
    clients = [play.client(room, 1), play.client(room, 2)]
    play.start(clients)
    play.press_for(2, clients)
    again, other = clients
    other.press_hz = 30
    for starts in (2, 3):
        log = len(again.log)
        again.ready()
        play.world.until("Start again", lambda: len(again.streams) == starts, 2)
        target = other.head
        play.world.until("frames from 0", lambda: again.head >= target)
        news = again.log[log:]
        ready, start = news.index(READY), news.index(START)
        require(FRAME not in news[ready:start], "a frame between Ready and Start")
        require(again.streams[-1].stamp == again.streams[0].stamp, "another time stamp")
        play.check_equal(clients)
        play.world.run(1.2)
    # Too often: the stream must not be restarted each time.
    for _ in range(10):
        again.ready()
        play.world.run(0.1)
    play.world.run(0.5)
    at = [stream.at for stream in again.streams]
    require(len(at) <= 5, f"{len(at) - 3} Starts for ten Readys in one second")
    require(min(b - a for a, b in itertools.pairwise(at)) > 0.8, "Starts in quick succession")
    other.press_hz = 0
    play.settle(clients)
    play.check_all(clients)


# --- Playing ------------------------------------------------------------------------------


@scenario
def all_inputs_of_a_frame_are_kept(play: Play) -> None:
    """Several inputs of one player in one frame, in the order of their arrival."""
    room = play.create_room([1, 2])
    clients = [play.client(room, 1), play.client(room, 2)]
    play.start(clients)
    for _ in range(10):
        clients[0].press(10)
        clients[1].press(3)
        play.world.run(0.1)
    # Over the bound of a frame: the rest goes, in order, into the next ones.
    clients[0].press(150)
    play.settle(clients)
    play.check_all(clients)
    frames = clients[1].streams[-1].frames.values()
    most = max(sum(one.player == 1 for one in frame) for frame in frames)
    require(most == lockstep.INPUTS_PER_SEAT_AND_FRAME, f"at most {most} inputs in a frame")


@scenario
def results_end_the_room(play: Play) -> None:
    """Each Result is acknowledged; the last one closes the room for all."""
    room = play.create_room([1, 2, 3])
    clients = [play.client(room, p) for p in (1, 2, 3)]
    play.start(clients)
    play.press_for(0.5, clients)
    for number, client in enumerate(clients):
        require(not any(one.closes for one in clients), f"Close after {number} results")
        client.result(1)
        play.world.until("Result is acknowledged", lambda: client.results == 1)
        if number < 2:
            play.world.run(0.4)
    play.world.until("Close for all", lambda: all(one.closes == 1 for one in clients))
    play.check_all(clients)
    for code in (ROOM_STATE, NO_ROOM):
        late = play.client(room, 1)
        late.connect()
        play.world.until("Connect is answered", lambda: bool(late.connects))
        require(late.connects == [code], f"Connect to a room that is over: {late.connects}")
        play.world.run(3.5 if code == ROOM_STATE else 0)
    require(all(one.closes == 1 for one in clients), "Close came twice")


@scenario
def results_do_not_wait_for_the_offline(play: Play) -> None:
    """One of three has been silent for 5 s: the results of the other two are enough."""
    room = play.create_room([1, 2, 3])
    first, second, gone = clients = [play.client(room, p) for p in (1, 2, 3)]
    play.start(clients)
    play.press_for(0.5, clients)
    play.world.kill(gone)
    play.world.run(6.5)
    first.result(2)
    play.world.until("Result is acknowledged", lambda: first.results == 1)
    second.result(2)
    play.world.until("Close", lambda: first.closes == second.closes == 1)
    play.check_equal([first, second])


# --- The command line ---------------------------------------------------------------------


def address(text: str) -> Address:
    """HOST:PORT."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> int:
    """Runs one scenario, or lists them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=SCENARIOS)
    parser.add_argument("--list", action="store_true", help="print the names of all scenarios")
    parser.add_argument("--udp", type=address, metavar="HOST:PORT", default=("127.0.0.1", 10086))
    parser.add_argument("--web", type=address, metavar="HOST:PORT", default=("127.0.0.1", 10002))
    parser.add_argument("--seed", type=int, help="of all that is random, by default the name's")
    args = parser.parse_args()
    if args.list:
        print("\n".join(SCENARIOS))
        return 0
    if args.name is None:
        parser.error("name a scenario, or --list")
    faulthandler.dump_traceback_later(WATCHDOG_S, exit=True)
    seed = zlib.crc32(args.name.encode()) if args.seed is None else args.seed
    began = time.monotonic()
    play = Play(args.udp, args.web, args.name, seed)
    try:
        SCENARIOS[args.name](play)
    except Violation as violation:
        print(f"{args.name} (seed {seed}): {violation}", file=sys.stderr)
        for client in play.world.clients:
            print(f"  {client}", file=sys.stderr)
        return 1
    print(f"{args.name}: kept, in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
