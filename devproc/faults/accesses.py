"""Faults of register accesses.

A register that no message reaches because ``cpu_proc`` serves it from the page is made one that is asked for, by its
kind byte, for as long as a rule is about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from devproc.faults.rule import Kind, Place
from devproc.faults.rules import Active
from protocol.layout import CONFIG_BAR, DevicePage, ReadKind, WriteKind
from protocol.messages import Read, Write

if TYPE_CHECKING:
    from devproc.faults.faults import Faults

_ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF


class Accesses:
    """Stands between accesses and the device's own dispatch."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._kinds: dict[int, bytes] = {}  # place in the page → kind bytes as the device declares them
        self.held = False
        """Whether a write is put off, so that nothing behind it on the link may be looked at."""

    # kind bytes

    def expose(self) -> None:
        """Have exactly those registers asked for that rules are about."""
        shared, device = self._faults.device.shared, self._faults.device
        for at, kinds in self._kinds.items():
            shared.u8[at : at + len(kinds)] = kinds
        self._kinds.clear()
        for place in (Place.READ, Place.WRITE):
            for active in self._faults.rules.at(place):
                register = device.registers.by_name[active.rule.register]
                bar, offset = device.registers.place(register)
                first = DevicePage.CONFIG_KINDS if bar == CONFIG_BAR else device.machine.page.bar(bar).kinds
                kinds = shared.bytes(first + offset, register.width)
                self._kinds.setdefault(first + offset, kinds)
                shared.u8[first + offset : first + offset + register.width] = bytes(
                    _asked(kind, place) for kind in kinds
                )

    def forget(self) -> None:
        """Begin with another page, or with kind bytes that were declared anew."""
        self._kinds.clear()
        self.held = False

    # accesses

    def _about(self, place: Place, bar: int, offset: int, size: int) -> Iterator[Active]:
        registers = self._faults.device.registers
        for active in self._faults.rules.at(place):
            register = registers.by_name[active.rule.register]
            where, at = registers.place(register)
            if where == bar and at < offset + size and offset < at + register.width:
                yield active

    def postpones(self, message: object, handle: Callable[[], None]) -> bool:
        """Return whether a message of the link is handled later, by ``handle``; of writes, with all behind them.

        Writes keep their order, for pages and doorbells count on it. A read keeps nobody waiting but who asked.
        """
        if not isinstance(message, Read | Write):
            return False
        place = Place.READ if isinstance(message, Read) else Place.WRITE
        ms = sum(
            active.rule.ms
            for active in self._about(place, message.bar, message.offset, message.size)
            if active.rule.kind is Kind.DELAY and self._faults.strikes(active)
        )
        if not ms:
            return False
        self.held = place is Place.WRITE
        self._faults.after(ms, partial(self._go_on, handle))
        return True

    def _go_on(self, handle: Callable[[], None]) -> None:
        self.held = False
        handle()

    def _struck(self, place: Place, bar: int, offset: int, size: int) -> list[Active]:
        """Return the rules that strike at an access."""
        struck = []
        for active in self._about(place, bar, offset, size):
            if active.rule.kind is Kind.DELAY:
                if self._faults.device.loop is None and self._faults.strikes(active):
                    time.sleep(active.rule.ms / 1000)  # at a prompt nothing else waits
            elif self._faults.strikes(active):
                struck.append(active)
        return struck

    def read(self, bar: int, offset: int, size: int, real: Callable[[int, int, int], int]) -> int:
        """Return what a load finds."""
        struck = self._struck(Place.READ, bar, offset, size)
        kinds = {active.rule.kind for active in struck}
        if Kind.DROP in kinds:
            return _ALL_ONES >> 64 - 8 * size
        value = real(bar, offset, size)
        if Kind.DUPLICATE in kinds:
            value = real(bar, offset, size)
        return value ^ _flips(struck, size)

    def write(self, bar: int, offset: int, size: int, value: int, real: Callable[[int, int, int, int], None]) -> None:
        """Do what a store does."""
        struck = self._struck(Place.WRITE, bar, offset, size)
        kinds = {active.rule.kind for active in struck}
        if Kind.DROP in kinds:
            return
        value ^= _flips(struck, size)
        real(bar, offset, size, value)
        if Kind.DUPLICATE in kinds:
            real(bar, offset, size, value)


def _asked(kind: int, place: Place) -> int:
    """Return a kind byte with which the device is asked."""
    if place is Place.READ:
        return kind & 0xF0 | ReadKind.MESSAGE
    return kind & 0x0F | WriteKind.POST << 4 if kind >> 4 == WriteKind.STORE else kind


def _flips(struck: list[Active], size: int) -> int:
    """Return the bits that corruption turns round."""
    bits = 0
    for active in struck:
        if active.rule.kind is Kind.CORRUPT:
            for at, octet in active.rule.flips(active.seen, size).items():
                bits ^= octet << 8 * at
    return bits
