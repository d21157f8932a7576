"""ivshmem's messages: framing with descriptors, a client's session, the hello of our own peers, garbage from either."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import ivshmem
from protocol.errors import Malformed, PeerGone, ProtocolError, Refused, VersionMismatch
from protocol.ivshmem import Joined, Left, Message, Receiver, Refusal, Session
from protocol.ivshmem_hello import MAGIC, Hello, hung_up
from protocol.memory import sealed

Pair = tuple[socket.socket, socket.socket]


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = open_fds()
    server, client = socket.socketpair()
    client.setblocking(False)
    yield server, client
    server.close()
    client.close()
    assert open_fds() == before


def eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC)


def begun(**options: object) -> Session:
    """Return a session of peer 3 that has its memory."""
    session = Session(**options)  # type: ignore[arg-type]
    for message in [Message(0), *([Message(2)] if session.dialect else []), Message(3), Message(-1, sealed("x", 4096))]:
        session.take(message)
    return session


def test_words_and_descriptors_arrive_one_by_one(pair: Pair) -> None:
    server, client = pair
    fd = eventfd()
    for value, extra in [(0, None), (7, None), (-1, fd), (7, fd), (65535, None)]:
        ivshmem.send(server, value, extra)
    os.close(fd)
    receiver = Receiver(client)
    got = [receiver.receive() for _ in range(6)]
    assert [m and m.value for m in got] == [0, 7, -1, 7, 65535, None]
    assert [m is not None and m.fd is not None for m in got] == [False, False, True, True, False, False]
    for message in got:
        if message:
            message.drop()


def test_a_word_may_come_in_pieces_and_its_end_is_not_missed(pair: Pair) -> None:
    server, client = pair
    receiver = Receiver(client)
    server.send(ivshmem.encode(-1)[:3])
    assert receiver.receive() is None
    server.send(ivshmem.encode(-1)[3:] + b"x")
    assert receiver.receive() == Message(-1)
    server.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerGone, match="inside a message"):
        receiver.receive()


def test_two_descriptors_with_a_word_are_refused_and_closed(pair: Pair) -> None:
    server, client = pair
    fd = eventfd()
    socket.send_fds(server, [ivshmem.encode(1)], [fd, fd])
    os.close(fd)
    with pytest.raises(Malformed, match="more than one"):
        Receiver(client).receive()


def test_a_session_knows_who_is_there() -> None:
    session = begun()
    assert session.id == 3
    assert session.take(Message(1, eventfd())) == Joined(1)
    assert session.take(Message(1, eventfd())) is None
    assert not session.complete
    assert session.take(Message(3, eventfd())) is None
    assert session.complete
    assert {peer: len(fds) for peer, fds in session.peers.items()} == {1: 2}
    assert session.take(Message(1)) == Left(1)
    session.close()


def test_with_the_number_of_vectors_a_peer_joins_when_all_are_there() -> None:
    session = begun(dialect=True)
    assert session.vectors == 2
    assert session.take(Message(1, eventfd())) is None
    assert session.take(Message(1, eventfd())) == Joined(1)
    with pytest.raises(Malformed, match="more than 2 vectors"):
        session.take(Message(1, eventfd()))
    session.close()


@pytest.mark.parametrize(
    ("value", "descriptor", "message"),
    [
        (65536, "eventfd", "65536 is no id"),
        (-1, "eventfd", "-1 is no id"),
        (5, None, "peer 5 leaves, which never came"),
        (3, None, "peer 3 leaves"),
        (5, "file", "no eventfd"),
    ],
)
def test_what_is_wrong_is_said_and_its_descriptor_closed(value: int, descriptor: str | None, message: str) -> None:
    session = begun()
    before = open_fds()
    fd = None if descriptor is None else eventfd() if descriptor == "eventfd" else os.open("/dev/null", os.O_RDWR)
    with pytest.raises(Malformed, match=message):
        session.take(Message(value, fd))
    assert open_fds() == before
    session.close()


def test_who_rings_never_waits_whatever_a_server_hands_out() -> None:
    session = begun()
    session.take(Message(1, eventfd()))
    assert not os.get_blocking(session.peers[1][0])
    os.eventfd_write(session.peers[1][0], (1 << 64) - 2)
    with pytest.raises(BlockingIOError):
        os.eventfd_write(session.peers[1][0], 1)
    session.close()


def test_doorbells_are_the_same_by_what_they_are() -> None:
    fds = [eventfd(), eventfd()]
    copies = [os.dup(fd) for fd in fds]
    null = os.open("/dev/null", os.O_RDONLY)
    assert ivshmem.same_doorbells(fds, copies)
    assert not ivshmem.same_doorbells(fds, copies[::-1])
    assert not ivshmem.same_doorbells(fds, copies[:1])
    assert not ivshmem.same_doorbells([null], [null])
    for fd in (*fds, *copies, null):
        os.close(fd)


def test_what_is_no_memory_is_refused() -> None:
    for fd, value in ((os.memfd_create("empty"), -1), (eventfd(), -1), (sealed("x", 4096), 5)):
        session = Session()
        session.take(Message(0))
        session.take(Message(3))
        with pytest.raises(Malformed):
            session.take(Message(value, fd))


def test_flags_that_are_not_known_are_refused() -> None:
    heard = Hello()
    words = Hello(readonly=True).words()
    for value, _ in words[:-2]:
        heard.take(Message(value))
    with pytest.raises(Malformed, match="flags 0x5"):
        heard.take(Message(5))


def test_another_version_and_a_refusal_are_told_apart() -> None:
    with pytest.raises(VersionMismatch, match="version 1"):
        Session().take(Message(1))
    with pytest.raises(VersionMismatch):
        Session().take(Message(Refusal.FULL))
    with pytest.raises(Refused, match="name taken"):
        Session(dialect=True).take(Message(Refusal.NAME_TAKEN))


def test_a_hello_says_the_same_at_the_other_end() -> None:
    fds = [eventfd() for _ in range(4)]
    line, end = os.pipe()
    said = Hello(7, "net.vm1", {7: fds[:2], 65535: fds[2:]}, readonly=True, lifeline=line)
    heard = Hello()
    for value, fd in said.words():
        heard.take(Message(value, fd), 2)
    assert (heard.id, heard.name, heard.known, heard.complete) == (7, "net.vm1", said.known, True)
    assert (heard.readonly, heard.lifeline, hung_up(line)) == (True, line, False)
    os.close(end)
    assert hung_up(line)
    heard.close()


def drain(receiver: Receiver, taker: Session | Hello) -> None:
    while (message := receiver.receive()) is not None:
        taker.take(message)


MESSAGES = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([0, -1, 1, 2, 3, MAGIC, 65535, 65536]), st.integers(-(1 << 63), (1 << 63) - 1)),
        st.sampled_from(["", "eventfd", "file"]),
    ),
    max_size=20,
)


@given(MESSAGES, st.sampled_from(["plain", "dialect", "hello"]), st.binary(max_size=9))
@settings(max_examples=150, deadline=None)
def test_garbage_is_refused_in_words_and_leaves_no_descriptor(
    messages: list[tuple[int, str]], side: str, rest: bytes
) -> None:
    before = open_fds()
    server, client = socket.socketpair()
    client.setblocking(False)
    taker: Session | Hello = Hello() if side == "hello" else Session(side == "dialect")
    receiver = Receiver(client)
    for value, kind in messages:
        fd = eventfd() if kind == "eventfd" else os.open("/dev/null", os.O_RDONLY) if kind else None
        extra = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        server.sendmsg([ivshmem.encode(value)], extra)
        if fd is not None:
            os.close(fd)
    server.sendall(rest)
    server.close()
    with pytest.raises(ProtocolError):
        drain(receiver, taker)
    receiver.close()
    taker.close()
    client.close()
    assert open_fds() == before
