"""A back-end and a front-end of the library, talking."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from protocol.errors import Malformed, PeerGone, ProtocolError, Refused
from protocol.vhost_user.back_end import Answer, BackEnd, Serve
from protocol.vhost_user.connection import Connection, Message
from protocol.vhost_user.front_end import FrontEnd
from protocol.vhost_user.messages import PROTOCOL_FEATURES, ProtocolFeature, Request
from protocol.vhost_user.payloads import NOTHING, U64, ConfigSpace, Inflight, Payload, VringState
from tests.unit.protocol.vhost_user.conftest import Pair, memory

P = ProtocolFeature
ALL = P.REPLY_ACK | P.CONFIG | P.MQ | P.INFLIGHT_SHMFD | P.BACKEND_REQ


@contextmanager
def talking(pair: Pair, handlers: dict[Request, Serve], offered: P = ALL) -> Iterator[tuple[FrontEnd, list[Exception]]]:
    """Serve in a thread; what ends the conversation is in the list."""
    theirs, ours = pair
    ours.setblocking(True)
    back = BackEnd(Connection(ours), handlers, features=lambda: 1 << 32, protocol_features=offered)
    ended: list[Exception] = []

    def serve() -> None:
        try:
            while back.step():
                pass
        except ProtocolError as error:
            ended.append(error)
        back.connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with FrontEnd(theirs) as front:
        yield front, ended
    thread.join()


def refuse(_message: Message) -> Payload:
    raise Malformed("no")


def test_features_are_agreed_on_and_requests_answered(pair: Pair) -> None:
    seen: list[int] = []

    def set_features(message: Message) -> None:
        assert isinstance(message.payload, U64)
        seen.append(message.payload.value)

    handlers: dict[Request, Serve] = {
        Request.SET_FEATURES: set_features,
        Request.SET_OWNER: lambda _message: None,
        Request.GET_QUEUE_NUM: lambda _message: U64(3),
        Request.GET_CONFIG: lambda message: message.payload,
    }
    with talking(pair, handlers) as (front, ended):
        front.negotiate(1 << 32 | 1, ~P(0))
        assert front.word(Request.GET_QUEUE_NUM) == 3
        assert front.config(8, 4) == bytes(8)
        assert front.protocol_features == ALL

    assert seen == [1 << 32 | PROTOCOL_FEATURES]
    assert isinstance(ended[0], PeerGone)


def test_refusals_are_told_when_somebody_waits(pair: Pair) -> None:
    handlers: dict[Request, Serve] = {
        Request.SET_OWNER: lambda _message: None,
        Request.SET_FEATURES: lambda _message: None,
        Request.SET_VRING_NUM: refuse,
        Request.GET_CONFIG: refuse,
    }
    with talking(pair, handlers) as (front, _):
        front.negotiate(0, ~P(0))
        with pytest.raises(Refused, match="SET_VRING_NUM"):
            front.tell(Request.SET_VRING_NUM, VringState(0, 1))
        with pytest.raises(Refused):
            front.tell(Request.SET_STATUS, U64(1))  # not served, and not agreed on
        with pytest.raises(Refused):
            front.tell(Request.SET_VRING_KICK, U64(0))  # without its descriptor
        assert front.config(8) == b""
        front.tell(Request.SET_OWNER)


@pytest.mark.parametrize("ask", [lambda f: f.tell(Request.SET_VRING_NUM, VringState(0, 1)), lambda f: f.config(4)])
def test_a_refusal_nobody_waits_for_ends_the_conversation(pair: Pair, ask: Callable[[FrontEnd], object]) -> None:
    with talking(pair, {Request.SET_VRING_NUM: refuse}, P.MQ) as (front, ended):
        if ask(front) != b"":
            with pytest.raises(PeerGone):
                front.word(Request.GET_FEATURES)
            assert isinstance(ended[0], Malformed)


def test_protocol_features_that_were_not_offered_are_refused(pair: Pair) -> None:
    with talking(pair, {}, P.MQ) as (front, ended):
        front.tell(Request.SET_PROTOCOL_FEATURES, U64(int(P.CONFIG)))
        with pytest.raises(PeerGone):
            front.word(Request.GET_FEATURES)
        assert "not offered" in str(ended[0])


def test_descriptors_travel_with_answers(pair: Pair) -> None:
    def tables(message: Message) -> Answer:
        assert isinstance(message.payload, Inflight)
        fd = memory(8192)
        return Answer(Inflight(8192, 0, message.payload.num_queues, 4), (fd,), lambda: os.close(fd))

    handlers: dict[Request, Serve] = {
        Request.SET_OWNER: lambda _message: None,
        Request.SET_FEATURES: lambda _message: None,
        Request.GET_INFLIGHT_FD: tables,
    }
    with talking(pair, handlers) as (front, _):
        front.negotiate(0, ~P(0))
        payload, fd = front.inflight(2, 4)
        assert payload == Inflight(8192, 0, 2, 4)
        assert os.fstat(fd).st_size == 8192
        os.close(fd)


def test_a_channel_back(pair: Pair) -> None:
    kept: list[int] = []
    handlers: dict[Request, Serve] = {
        Request.SET_OWNER: lambda _message: None,
        Request.SET_FEATURES: lambda _message: None,
        Request.SET_BACKEND_REQ_FD: lambda message: kept.append(message.take_fd()),
    }
    with talking(pair, handlers) as (front, _):
        front.negotiate(0, ~P(0))
        channel = front.back_channel()
        os.close(kept[0])
        with pytest.raises(PeerGone):
            channel.receive()
        channel.close()


def test_the_answer_no_is_an_empty_config() -> None:
    assert ConfigSpace.unpack(ConfigSpace(0, 0, b"").pack()).data == b""
    assert NOTHING.pack() == b""
