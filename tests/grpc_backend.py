"""A game's backend that knows of a server its address and its token, and nothing else: it learns the
service from the server itself (reflection), without a .proto file or generated code, creates a
room, follows what happens to it, and closes it. Its test is in tests/grpc.rs; needs the packages
grpcio, grpcio-reflection and grpcio-health-checking, which ./scripts/test installs.

    grpc_backend.py HOST:PORT TOKEN
"""

import queue
import sys
import threading

try:
    import grpc
    from google.protobuf import descriptor_pool, message_factory
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )
except ImportError as error:
    sys.exit(f"{error}: run ./scripts/test, which installs what this needs")

SERVICE = "lockstep.v1.Lockstep"
# Longest wait for anything, in seconds.
AT_MOST = 60


class Token(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor,
            grpc.StreamStreamClientInterceptor):
    """Adds the token to each call."""

    def __init__(self, token):
        self.metadata = [("authorization", f"Bearer {token}")]

    def with_token(self, proceed, details, requests):
        details = Details(details.method, details.timeout, self.metadata)
        return proceed(details, requests)

    intercept_unary_unary = with_token
    intercept_unary_stream = with_token
    intercept_stream_stream = with_token


class Details(grpc.ClientCallDetails):
    def __init__(self, method, timeout, metadata):
        self.method, self.timeout, self.metadata = method, timeout, metadata
        self.credentials = self.wait_for_ready = self.compression = None


class Lockstep:
    """The service, as the server describes it."""

    def __init__(self, channel):
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services(), database.get_services()
        pool = descriptor_pool.DescriptorPool(database)
        self.methods = pool.FindServiceByName(SERVICE).methods_by_name
        self.channel = channel

    def call(self, name, **fields):
        """Calls a method: its answer, or an iterator over its answers."""
        method = self.methods[name]
        ask = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        kind = "unary_stream" if method.server_streaming else "unary_unary"
        stub = getattr(self.channel, kind)(
            f"/{SERVICE}/{name}",
            request_serializer=ask.SerializeToString,
            response_deserializer=answer.FromString,
        )
        timeout = None if method.server_streaming else AT_MOST
        return stub(ask(**fields), timeout=timeout)


def refusal(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    sys.exit("the call was not refused")


def follow(events):
    """Reads a stream on a thread of its own, so that a test that fails does not hang."""
    happened = queue.Queue()

    def read():
        try:
            for event in events:
                happened.put(event)
        except grpc.RpcError:
            pass  # It was cancelled.

    threading.Thread(target=read, daemon=True).start()
    return lambda: happened.get(timeout=AT_MOST)


def main(address, token):
    channel = grpc.insecure_channel(address)
    grpc.channel_ready_future(channel).result(timeout=AT_MOST)

    # Health is for everybody, the rest is not.
    health = health_pb2_grpc.HealthStub(channel)
    status = health.Check(health_pb2.HealthCheckRequest(), timeout=AT_MOST).status
    assert status == health_pb2.HealthCheckResponse.SERVING, status
    code, _ = refusal(lambda: channel.unary_unary(f"/{SERVICE}/GetNode")(b"", timeout=AT_MOST))
    assert code == grpc.StatusCode.UNAUTHENTICATED, code

    lockstep = Lockstep(grpc.intercept_channel(channel, Token(token)))
    events = lockstep.call("WatchRooms")
    # Whatever happens once these are there is told.
    position = dict(events.initial_metadata())["lockstep-position"]
    event = follow(events)

    created = lockstep.call("CreateRoom", room=7, members=[1, 2**64 - 1], hz=20, seed=-1)
    assert created.room.room == 7 and created.room.seed == -1, created
    assert [seat.player for seat in created.room.seats] == [1, 2**64 - 1], created
    assert len(created.secret) == 32, created
    told = event()
    assert told.WhichOneof("kind") == "created" and told.created.players == 2, told
    assert (told.room, told.match) == (7, created.room.match), told

    code, why = refusal(lambda: lockstep.call("CreateRoom", room=7, members=[1]))
    assert code == grpc.StatusCode.ALREADY_EXISTS and "room 7" in why, (code, why)
    code, why = refusal(lambda: lockstep.call("CreateRoom", room=8, members=[1], hz=0))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and why.startswith("hz: "), (code, why)

    shown = lockstep.call("GetRoom", room=7)
    assert shown == created.room, (shown, created)
    listed = lockstep.call("ListRooms", limit=10)
    assert listed.total == 1 and listed.rooms[0].hz == 20, listed
    node = lockstep.call("GetNode").node
    assert node.state == "ready" and node.rooms == 1, node

    closed = lockstep.call("CloseRoom", room=7)
    assert closed.over == "closed", closed
    told = event()
    assert told.WhichOneof("kind") == "over" and told.over.reason == "closed", told
    events.cancel()

    # Who comes back gets what happened since.
    again = lockstep.call("WatchRooms", position=position)
    event = follow(again)
    kinds = [event().WhichOneof("kind") for _ in range(2)]
    assert kinds == ["created", "over"], kinds
    again.cancel()
    code, why = refusal(lambda: lockstep.call("GetRoom", room=9))
    assert code == grpc.StatusCode.NOT_FOUND, (code, why)


if __name__ == "__main__":
    main(*sys.argv[1:])
