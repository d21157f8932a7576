"""Faults of interrupts and doorbells.

A wire has a level: dropping it means that it is not raised this time, delaying that it is raised later if the device
still wants it then. That it falls is never in the way of a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from devproc.faults.rule import WIRE, Kind, Place

if TYPE_CHECKING:
    from devproc.faults.faults import Faults


class Signals:
    """Says whether a signal goes through now; what goes through later or again it sends itself."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._wanted = False
        self._raising = 0  # how many times the wire has fallen: a raise that was put off is for its own time alone

    def message(self, vector: int, send: Callable[[int], None]) -> bool:
        """Return whether message ``vector`` goes out now."""
        return self._through(Place.INTERRUPT, vector, partial(send, vector))

    def line(self, level: bool, hold: Callable[[bool], None]) -> bool:
        """Return whether the wire takes this level now; it has the other."""
        self._wanted = level
        if not level:
            self._raising += 1
            return True
        return self._through(Place.INTERRUPT, WIRE, partial(self._raise, self._raising, hold))

    def _raise(self, then: int, hold: Callable[[bool], None]) -> None:
        if self._wanted and then == self._raising:
            hold(True)

    def rung(self, index: int) -> bool:
        """Return whether a doorbell is heard now."""
        return self._through(Place.DOORBELL, index, partial(self._faults.device.pending.add, index))

    def _through(self, place: Place, number: int, again: Callable[[], None]) -> bool:
        now, ms, twice = True, 0.0, False
        for active in self._faults.rules.at(place):
            rule = active.rule
            if rule.number not in (None, number) or (rule.kind is Kind.DUPLICATE and number == WIRE):
                continue
            if not self._faults.strikes(active):
                continue
            now &= rule.kind is not Kind.DROP
            ms += rule.ms if rule.kind is Kind.DELAY else 0
            twice |= rule.kind is Kind.DUPLICATE
        if not now:
            return False
        if ms:
            self._faults.after(ms, again)
        if twice:
            self._faults.after(ms, again)
        return not ms

    def forget(self) -> None:
        """Begin with another machine."""
        self._wanted = False
