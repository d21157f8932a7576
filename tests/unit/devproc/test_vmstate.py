"""What is not the state of a device is refused before anything of it is used."""

from __future__ import annotations

from typing import Any

import pytest

from devproc.vmstate import unpack
from protocol.errors import Malformed
from protocol.packed import pack

STATE: dict[str, Any] = {"version": 1, "type": "rng", "page": b"page", "host": b"host"}


def test_the_state_of_its_type_is_taken() -> None:
    assert unpack(pack(STATE, level=1), "rng") == {"page": b"page", "host": b"host"}


@pytest.mark.parametrize(
    "other",
    [
        7,
        [],
        {},
        {**STATE, "type": "disk"},
        {**STATE, "version": 2},
        {**STATE, "page": 1 << 50},
        {**STATE, "host": None},
    ],
)
def test_what_is_none_is_refused(other: object) -> None:
    with pytest.raises(Malformed):
        unpack(pack(other, level=1), "rng")
