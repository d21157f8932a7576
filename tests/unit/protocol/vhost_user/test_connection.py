"""Framing, descriptors, and what peers can do wrong."""

from __future__ import annotations

import os
import socket
import struct

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocol.errors import Malformed, PeerGone, Refused
from protocol.vhost_user.connection import FDS_MAX, HEADER, PAYLOAD_MAX, BadFrame, BadMessage, Connection
from protocol.vhost_user.messages import FRONT_END, Flag, Request
from protocol.vhost_user.payloads import U64, MemTable, Region, VringState
from tests.unit.protocol.vhost_user.conftest import Pair, memory, open_fds


def raw(number: int, body: bytes = b"", flags: int = 1, size: int | None = None) -> bytes:
    """Return a message as bytes."""
    return HEADER.pack(number, flags, len(body) if size is None else size) + body


def test_messages_arrive_whole_however_they_are_cut(pair: Pair) -> None:
    theirs, ours = pair
    connection = Connection(ours)
    stream = raw(Request.SET_VRING_NUM, VringState(1, 256).pack(), flags=9) + raw(Request.GET_FEATURES)
    found = []
    for byte in stream:
        theirs.send(bytes([byte]))
        if (message := connection.receive()) is not None:
            found.append((message.kind, message.payload, message.wants_ack))

    assert found[0] == (Request.SET_VRING_NUM, VringState(1, 256), True)
    assert found[1][0] is Request.GET_FEATURES
    assert len(found) == 2


def test_descriptors_belong_to_their_message(pair: Pair) -> None:
    theirs, ours = pair
    sender, connection = Connection(theirs), Connection(ours)
    fds = [memory(size) for size in (4096, 8192, 12288)]
    regions = tuple(Region(n << 20, 4096, 0, 0) for n in range(2))
    sender.send(Request.SET_MEM_TABLE, MemTable(regions), fds[:2])
    sender.send(Request.SET_VRING_KICK, U64(0), fds[2:])
    for fd in fds:
        os.close(fd)

    first, second = connection.receive(), connection.receive()

    assert first is not None
    assert second is not None
    assert [os.fstat(fd).st_size for fd in first.fds] == [4096, 8192]
    taken = second.take_fd()
    assert os.fstat(taken).st_size == 12288
    assert not os.get_inheritable(taken)
    assert second.take_fd() == -1
    os.close(taken)
    first.close()
    second.close()


def test_descriptors_nobody_asked_for_are_closed(pair: Pair) -> None:
    theirs, ours = pair
    connection = Connection(ours)
    fd = memory(4096)
    socket.send_fds(theirs, [raw(Request.GET_FEATURES)], [fd])
    os.close(fd)
    before = open_fds()

    message = connection.receive()

    assert message is not None
    assert message.fds == []
    assert connection.stray_fds == 1
    assert open_fds() == before


@pytest.mark.parametrize(
    ("data", "fds"),
    [
        (raw(99), 0),
        (raw(0), 0),
        (raw(Request.GET_FEATURES, flags=5), 0),
        (raw(Request.SET_FEATURES, b"1234"), 0),
        (raw(Request.SET_MEM_TABLE, struct.pack("=II", 9, 0) + bytes(288)), 1),
        (raw(Request.SET_MEM_TABLE, MemTable((Region(0, 1, 2, 3),)).pack()), 0),
        (raw(Request.SET_MEM_TABLE, MemTable((Region(0, 1, 2, 3),)).pack()), 2),
        (raw(Request.SET_VRING_KICK, bytes(8)), 0),
        (raw(Request.SET_VRING_CALL, bytes(8)), 2),
        (raw(Request.SET_BACKEND_REQ_FD), 0),
        (raw(Request.GET_CONFIG, struct.pack("=III", 0, 10, 0) + bytes(9)), 0),
        (raw(Request.GET_CONFIG, struct.pack("=III", 250, 10, 0) + bytes(10)), 0),
    ],
)
def test_a_wrong_message_is_an_error_with_a_type_and_the_next_is_read(pair: Pair, data: bytes, fds: int) -> None:
    theirs, ours = pair
    connection = Connection(ours)
    sent = [memory(4096) for _ in range(fds)]
    socket.send_fds(theirs, [data], sent)
    for fd in sent:
        os.close(fd)
    theirs.send(raw(Request.GET_FEATURES))
    before = open_fds()

    with pytest.raises(BadMessage) as caught:
        connection.receive()

    assert caught.value.number == data[0]
    assert open_fds() == before
    message = connection.receive()
    assert message is not None
    assert message.kind is Request.GET_FEATURES


@pytest.mark.parametrize(
    "data",
    [raw(1, flags=0), raw(1, flags=2), raw(24, size=PAYLOAD_MAX + 1), raw(24, size=0xFFFF_FFFF)],
)
def test_a_stream_that_is_none_is_given_up(pair: Pair, data: bytes) -> None:
    theirs, ours = pair
    theirs.send(data)

    with pytest.raises(BadFrame):
        Connection(ours).receive()


def test_too_many_descriptors_and_late_ones(pair: Pair) -> None:
    theirs, ours = pair
    connection = Connection(ours)
    fd = memory(4096)
    socket.send_fds(theirs, [raw(Request.SET_MEM_TABLE, bytes(8))], [fd] * (FDS_MAX + 1))
    with pytest.raises(BadFrame):
        connection.receive()
    connection.close()

    theirs, ours = socket.socketpair()
    theirs.send(raw(Request.SET_VRING_KICK, bytes(8))[:4])
    connection = Connection(ours)
    ours.setblocking(False)
    assert connection.receive() is None
    socket.send_fds(theirs, [raw(Request.SET_VRING_KICK, bytes(8))[4:]], [fd])
    with pytest.raises(BadFrame):
        connection.receive()
    connection.close()
    theirs.close()
    os.close(fd)


def test_the_end_of_a_connection_is_an_error_with_a_type(pair: Pair) -> None:
    theirs, ours = pair
    fd = memory(4096)
    socket.send_fds(theirs, [raw(Request.SET_VRING_KICK, bytes(8))[:14]], [fd])
    os.close(fd)
    theirs.close()
    connection = Connection(ours)

    with pytest.raises(PeerGone, match="within a message"):
        connection.receive()
    connection.close()


def test_a_peer_that_does_not_read_is_gone(pair: Pair) -> None:
    _, ours = pair
    connection = Connection(ours)

    def fill() -> None:
        for _ in range(100_000):
            connection.send(Request.GET_FEATURES, U64(0), flags=Flag.REPLY)

    with pytest.raises(PeerGone):
        fill()


def test_answers_and_acknowledgements(pair: Pair) -> None:
    theirs, ours = pair
    front, back = Connection(theirs), Connection(ours)
    back.send(Request.GET_FEATURES, U64(77), flags=Flag.REPLY)
    back.acknowledge(Request.SET_FEATURES, done=True)
    back.acknowledge(Request.SET_OWNER, done=False)
    back.send(Request.GET_QUEUE_NUM, U64(1), flags=Flag.REPLY)
    back.send(Request.GET_QUEUE_NUM, U64(1))

    assert front.receive_reply(Request.GET_FEATURES).payload == U64(77)
    front.receive_reply(Request.SET_FEATURES, ack=True)
    with pytest.raises(Refused, match="SET_OWNER"):
        front.receive_reply(Request.SET_OWNER, ack=True)
    for _ in range(2):
        with pytest.raises(BadMessage):
            front.receive_reply(Request.GET_FEATURES)
    theirs.settimeout(0.01)
    with pytest.raises(PeerGone):
        front.receive_reply(Request.GET_FEATURES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=600), st.integers(0, 3))
@example(raw(5, MemTable((Region(0, 1, 2, 3),)).pack()), 1)
def test_any_bytes_give_messages_or_typed_errors_and_leak_nothing(data: bytes, fds: int) -> None:
    run(data, fds)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(raw, st.sampled_from(sorted(FRONT_END)), st.binary(max_size=60), st.integers(0, 15)), max_size=5
    ),
    st.integers(0, 9),
)
def test_any_messages_give_messages_or_typed_errors_and_leak_nothing(parts: list[bytes], fds: int) -> None:
    run(b"".join(parts), fds)


def run(data: bytes, fds: int) -> None:
    """Send ``data`` with descriptors, receive until the end, and look for what is left."""
    before = open_fds()
    theirs, ours = socket.socketpair()
    event = os.eventfd(0)
    connection = Connection(ours)
    if data:
        socket.send_fds(theirs, [data], [event] * fds)
    theirs.close()
    while True:
        try:
            message = connection.receive()
        except BadMessage:
            continue
        except (Malformed, PeerGone):
            break
        if message is not None:
            message.close()
    connection.close()
    os.close(event)
    assert open_fds() == before
