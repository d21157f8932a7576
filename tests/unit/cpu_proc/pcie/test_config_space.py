"""Configuration space of a function in this process: each bit is what it was declared to be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from cpu_proc.pcie.config_space import CONFIG_BYTES, ConfigSpace


def test_bits_are_read_only_written_or_cleared_by_ones() -> None:
    space = ConfigSpace()
    space.declare(0x10, 2, 0xA5F0, writable=0x0F00, clearable=0x00F0)
    space.write(0x10, 2, 0x0330)
    assert space.get(0x10, 2) == 0xA3C0
    space.write(0x11, 1, 0xFF)
    assert space.get(0x10, 2) == 0xAFC0
    space.write(0x10, 4, 0)
    assert space.get(0x10, 4) == 0xA0C0
    space.reset()
    assert space.get(0x10, 2) == 0xA5F0


def test_capabilities_are_chained() -> None:
    space = ConfigSpace()
    space.capabilities(0x34, [0x40, 0x60])
    assert (space.get(0x34, 1), space.get(0x41, 1), space.get(0x61, 1)) == (0x40, 0x60, 0)


@given(some.lists(some.tuples(some.integers(0, 0xFFF), some.sampled_from([1, 2, 4, 8]), some.integers(0, 2**64 - 1))))
def test_no_access_leaves_it(accesses: list[tuple[int, int, int]]) -> None:
    space = ConfigSpace()
    space.declare(0, 8, writable=2**64 - 1)
    for offset, size, value in accesses:
        space.write(offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= space.get(offset, size) < 1 << 8 * size
    assert len(space.content) == CONFIG_BYTES
    assert not any(space.content[8:])
