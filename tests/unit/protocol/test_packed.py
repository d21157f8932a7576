"""State in one piece of bytes, and what is none."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Malformed
from protocol.packed import pack, unpack

MAX = 1 << 20


@given(
    st.recursive(st.none() | st.binary() | st.text() | st.integers(-(1 << 63), (1 << 64) - 1), st.lists, max_leaves=9)
)
def test_what_is_packed_comes_back(plain: object) -> None:
    assert unpack(pack(plain, level=1), expanded_max=MAX) == plain


@given(st.binary(max_size=64))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(data, expanded_max=MAX)


def test_a_flipped_bit_is_found() -> None:
    data = bytearray(pack(["state"] * 100, level=1))
    data[len(data) // 2] ^= 1
    with pytest.raises(Malformed):
        unpack(bytes(data), expanded_max=MAX)


@pytest.mark.parametrize("says_its_size", [True, False])
def test_a_small_frame_of_something_large_is_refused_before_it_is_unpacked(says_its_size: bool) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=says_its_size).compress(bytes(64 << 20))
    assert len(bomb) < 1 << 16
    with pytest.raises(Malformed):
        unpack(bomb, expanded_max=MAX)
