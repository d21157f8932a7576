"""Random accesses from a device's declaration, and what holds for every device whatever a guest does.

It needs Hypothesis, which the rest of the kit does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from devproc.device import Device
from devproc.machine import Machine
from devproc.poke import settle
from protocol.layout import CONFIG_BAR, CONFIG_SIZE

_RAM = 1 << 20
_NEAR = 16  # values close to what a register holds or takes are tried more often than any others


class Access(NamedTuple):
    """A load, or with a ``value`` a store."""

    bar: int
    offset: int
    size: int
    value: int | None


def accesses(device: type[Device], most: int = 40) -> st.SearchStrategy[list[Access]]:
    """Return lists of accesses: to registers, parts of them and what is between, in and around each BAR."""
    return st.lists(_access(device), max_size=most)


def _access(device: type[Device]) -> st.SearchStrategy[Access]:
    places = [(*device.registers.place(r), r.width) for r in device.registers.all]
    sizes = {bar.index: bar.size for bar in device.registers.bars() if bar.index <= CONFIG_BAR}
    bars = sorted({bar for bar, _, _ in places} | set(sizes))
    exact = st.sampled_from(places)
    anywhere = st.tuples(
        st.sampled_from(bars), st.integers(0, max([CONFIG_SIZE, *sizes.values()]) + 8), st.sampled_from((1, 2, 4, 8))
    ).map(lambda place: (place[0], place[1] & -place[2], place[2]))  # a hart's accesses are aligned by then
    value = st.none() | st.integers(0, _NEAR) | st.integers(0, (1 << 64) - 1)
    places_of_all = exact | exact | anywhere  # twice as often where something is
    return st.builds(lambda place, word: Access(place[0], place[1], place[2], word), places_of_all, value)


def exercise(make: Callable[[], Device], found: Sequence[Access]) -> None:
    """Do the accesses to a new device in a machine of its own, then have a successor go on from its page.

    Raises:
        AssertionError: a value is wider than the access, or the successor has other registers.
    """
    device = make()
    machine = Machine.private(device.page_size, _RAM)
    try:
        device.attach(machine)
        for access in found:
            _do(device, access)
        device.drain()
        before = _stored(device)
        device.detach()
        device.close()
        device = make()
        assert device.attach(machine), "the successor did not go on from the page"
        after = _stored(device)
        assert after == before, f"changed by a restart: {sorted(n for n in after if after[n] != before[n])}"
    finally:
        device.detach()
        device.release()
        device.close()
        machine.close()


def _do(device: Device, access: Access) -> None:
    bar, offset, size, value = access
    bits = (1 << 8 * size) - 1
    if value is None:
        assert 0 <= device.read(bar, offset, size) <= bits
    else:
        device.write(bar, offset, size, value & bits)
        settle(device)


def _stored(device: Device) -> dict[str, int]:
    return {r.name: int(getattr(device, r.name)) for r in device.registers.all}
