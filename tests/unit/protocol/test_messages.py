"""Link messages: what is sent is what arrives, and nothing else gets through."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as some

from protocol import messages as m
from protocol.errors import Malformed

U64 = some.integers(0, 2**64 - 1)
MESSAGES = some.one_of(
    some.builds(m.Write, U64, U64, some.integers(0, 7), some.integers(0, 2**40 - 1), some.integers(1, 8), U64),
    some.builds(m.Read, U64, U64, some.integers(0, 7), some.integers(0, 2**40 - 1), some.integers(1, 8)),
    some.builds(m.Barrier, U64, U64, some.text(max_size=60)),
    some.builds(m.Value, U64, U64, U64),
    some.builds(m.Done, U64, U64),
    some.builds(m.Fault, U64, U64, some.text(max_size=60)),
)


@given(MESSAGES)
def test_every_message_survives_the_wire(message: m.Any) -> None:
    assert m.decode(m.encode(message)) == message


@given(some.binary(max_size=600))
def test_random_bytes_are_malformed_or_a_message(data: bytes) -> None:
    try:
        assert isinstance(m.decode(data), m.Message)
    except Malformed:
        pass


@pytest.mark.parametrize(
    "raw",
    [
        ["w", 1, 2, 0, 0, 4],  # a field short
        ["w", 1, 2, 0, 0, 4, 5, 6],  # a field too many
        ["x", 1, 2],  # no such type
        ["r", 1, 2, 8, 0, 4],  # no such BAR
        ["r", 1, 2, 0, 0, 9],  # no such size
        ["r", 1, 2, 0, -1, 4],  # a negative offset
        ["r", "1", 2, 0, 0, 4],  # a string for a number
        ["d", 1.5, 2],
        {"type": "d", "epoch": 1, "seq": 2},
        [],
        None,
    ],
)
def test_wrong_fields_are_malformed(raw: object) -> None:
    with pytest.raises(Malformed):
        m.decode(msgpack.packb(raw))


def test_a_long_message_is_malformed() -> None:
    with pytest.raises(Malformed, match="bytes"):
        m.decode(bytes(m.MAX_MESSAGE + 1))
