"""A rule: what goes wrong, where, and at which of the occasions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

_MASK = (1 << 64) - 1


class Kind(StrEnum):
    """What goes wrong."""

    DELAY = "delay"  # it happens later
    DROP = "drop"  # it does not happen; a register reads as all ones
    ERROR = "error"  # a request is answered with a status, and not done
    CORRUPT = "corrupt"  # data is changed on its way
    DUPLICATE = "duplicate"  # an access, interrupt or doorbell comes twice; of a request, the interrupt about it
    FREEZE = "freeze"  # the process stops answering
    KILL = "kill"  # the process ends itself by SIGKILL


class Place(StrEnum):
    """Where."""

    REQUEST = "request"
    READ = "read"
    WRITE = "write"
    INTERRUPT = "interrupt"
    DOORBELL = "doorbell"


WIRE = -1
"""The number of the wire among interrupts."""

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Condition(NamedTuple):
    """A word of a request's header, compared."""

    field: str
    comparison: str
    value: int


@dataclass(frozen=True)
class Rule:
    """One rule; ``devproc.faults.words`` reads and writes it as text."""

    kind: Kind
    place: Place = Place.REQUEST
    register: str = ""
    number: int | None = None
    """Of an interrupt (a vector, or ``WIRE``) or a doorbell; ``None`` stands for all."""
    queue: int | str | None = None
    """A number, or what queues are for; ``None`` stands for all."""
    where: tuple[Condition, ...] = ()
    # which of the occasions
    nth: int = 0
    every: int = 0
    first: int = 0
    probability: float = 1.0
    seed: int = 0
    count: int = 0
    """At most so many; 0 is no limit."""
    # what exactly
    ms: float = 0.0
    status: int | None = None
    bits: int = 0
    octets: int = 0
    of: str = ""
    """Whether data is corrupted that the device reads, or what it has written; empty: whichever the request has."""
    done: bool = False
    """Freeze or die when the request is done and the guest has not been told, not when it is taken."""

    def strikes(self, seen: int, hits: int) -> bool:
        """Return whether the occasion of number ``seen``, from 1, is one; ``hits`` were before it."""
        if self.count and hits >= self.count:
            return False
        if self.nth:
            return seen == self.nth
        if self.every and seen % self.every:
            return False
        if self.first and seen > self.first:
            return False
        return self.probability >= 1.0 or scrambled(self.seed, seen) < self.probability * (1 << 64)

    def flips(self, seen: int, size: int) -> dict[int, int]:
        """Return what to do to ``size`` bytes: offset → the bits to turn round."""
        found: dict[int, int] = {}
        if size <= 0:
            return found
        draws = _draws(scrambled(self.seed, seen))
        wanted = min(self.octets or self.bits or 1, size * (1 if self.octets else 8))
        while wanted:
            at, what = next(draws) % size, next(draws)
            bit = 1 << what % 8
            if self.octets and at not in found:
                found[at] = what % 255 + 1
                wanted -= 1
            elif not self.octets and not found.get(at, 0) & bit:
                found[at] = found.get(at, 0) | bit
                wanted -= 1
        return found


def scrambled(seed: int, number: int) -> int:
    """Return 64 bits that look random: of the occasion, not of what was drawn before, so that successors agree."""
    word = (seed * 0x9E37_79B9_7F4A_7C15 + number * 0xD1B5_4A32_D192_ED03 + 0x632B_E59B_D9B4_E019) & _MASK
    for shift, factor in ((30, 0xBF58_476D_1CE4_E5B9), (27, 0x94D0_49BB_1331_11EB)):  # as SplitMix64 ends
        word = (word ^ word >> shift) * factor & _MASK
    return word ^ word >> 31


def _draws(seed: int) -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield scrambled(seed, number) >> 8
