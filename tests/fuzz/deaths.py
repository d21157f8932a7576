"""The device dies after every single store that it makes, and each request is done exactly once.

``python -m tests.fuzz.deaths`` plays each scenario again and again: first the process dies before its first store, then
before its second, until it comes through. A store is one to the device page, to the interrupt page, to rings and status
bytes in guest memory, to the interrupt eventfd, and each message on the link, so that the moment between a posted
write's effect and its number in ``processed`` is among them. With ``--twice`` the successor dies as well, after every
store of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

from devproc.virtio_spec import Feature, Status
from tests.fuzz.death_guest import SERIAL, Guest
from tests.fuzz.death_rig import FOR_EVER, Computer, Failed, dying

INDIRECT, EVENT_IDX, PACKED, IN_ORDER = (
    int(f) for f in (Feature.RING_INDIRECT_DESC, Feature.RING_EVENT_IDX, Feature.RING_PACKED, Feature.IN_ORDER)
)


class Case(NamedTuple):
    """What is played, and on what."""

    scenario: str
    transport: str
    msix: bool
    features: int
    size: int

    def __str__(self) -> str:
        names = {INDIRECT: "indirect", EVENT_IDX: "event-idx", IN_ORDER: "in-order"}
        kind = "packed" if self.features & PACKED else "split"
        more = [name for bit, name in names.items() if self.features & bit]
        interrupts = "msix" if self.msix else "wire"
        return " ".join([self.scenario, self.transport, interrupts, f"{kind}:{self.size}", *more])


def _requests(guest: Guest, arm: Callable[[], None]) -> None:
    """Requests of all kinds, in batches, on a ring that was round before; the guest goes on while nobody serves."""
    guest.set_up()
    guest.work(3, 4)
    arm()
    guest.work(3, 3, meanwhile=2)
    guest.check()


def _probe(guest: Guest, arm: Callable[[], None]) -> None:
    """From power-on on: registers, features, queues, and the first requests."""
    arm()
    guest.set_up()
    guest.work(1, 1)
    guest.check()


def _resets(guest: Guest, arm: Callable[[], None]) -> None:
    """One queue is reset and begins anew, then the device is reset."""
    guest.set_up()
    guest.work(1, 2)
    arm()
    guest.stop(1)
    guest.lanes[1] = guest.enable(1)
    guest.work(1, 1)
    guest.reset()
    guest.set_up()
    guest.check()


def _machine(guest: Guest, arm: Callable[[], None]) -> None:
    """The machine is reset, and the guest begins anew."""
    guest.set_up()
    guest.work(1, 2)
    arm()
    guest.computer.barrier("reset")
    guest.expect("device_status", 0)
    guest.set_up()
    guest.check()


def _mistake(guest: Guest, arm: Callable[[], None]) -> None:
    """A ring that breaks the rules: the guest is told, resets the device, and goes on."""
    guest.set_up()
    guest.work(1, 3)
    arm()
    before = guest.config_interrupts
    guest.break_ring()
    while guest.config_interrupts == before or not guest.computer.read("device_status") & Status.NEEDS_RESET:
        if not guest.wake():
            raise Failed("nobody says that the ring is broken")
    guest.set_up()
    guest.work(1, 3)
    guest.check()


SCENARIOS = {"requests": _requests, "probe": _probe, "resets": _resets, "machine": _machine, "mistake": _mistake}
QUEUES = 2


def play(case: Case, lives: list[int]) -> Computer:
    """Play a case in which processes die after so many stores each, and return the machine, which has ended."""
    config = {"queues": QUEUES, "queue_size": 16, "serial": SERIAL.decode(), "in_order": bool(case.features & IN_ORDER)}
    at_once = case.scenario == "probe"
    with dying(case.transport, list(lives) if at_once else [], **config) as computer:
        guest = Guest(computer, case.features, size=case.size, msix=case.msix)

        def arm() -> None:
            if not at_once:
                computer.budget.left, computer.lives = lives[0], lives[1:]

        SCENARIOS[case.scenario](guest, arm)
        computer.budget.left = FOR_EVER
        return computer


def cases() -> Iterator[Case]:
    """Return every case there is."""
    for transport, msix in (("pci", True), ("pci", False), ("mmio", False)):
        for packed, event_idx, indirect, in_order in product((0, PACKED), (0, EVENT_IDX), (0, INDIRECT), (0, IN_ORDER)):
            for size in (16, 11) if packed else (16,):
                yield Case("requests", transport, msix, packed | event_idx | indirect | in_order, size)
        for packed in (0, PACKED):
            for scenario in list(SCENARIOS)[1:]:
                yield Case(scenario, transport, msix, packed, 8)


def die(case: Case, *, twice: bool = False) -> int:
    """Play a case with a death after every store; return how many deaths there were.

    Raises:
        Failed: a successor did what it must not do; ``lives`` is in its notes.
    """
    deaths = first = 0
    while True:
        second = 0 if twice else first * 7 % 61  # the successor dies too, somewhere
        while True:
            lives = [first, second]
            try:
                died = play(case, [first, second]).deaths - 1  # the last one is the end of the machine
            except Exception as error:
                error.add_note(f"{case}: deaths after {lives} stores")
                raise
            deaths += died
            if not twice or died < 2:
                break
            second += 1
        if died == 0:
            return deaths
        first += 1


def main(argv: list[str]) -> int:
    """Play all cases, or some; return 1 if one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.deaths", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="play cases with all these in their name")
    parser.add_argument("--twice", action="store_true", help="have the successor die after every store of its own too")
    parser.add_argument("--lives", metavar="N,N", help="play one run, with deaths after so many stores")
    options = parser.parse_args(argv)
    chosen = [case for case in cases() if all(word in str(case).split() for word in options.words)]
    failed = total = 0
    for case in chosen:
        started = time.monotonic()
        try:
            if options.lives:
                deaths = play(case, [int(text) for text in options.lives.split(",")]).deaths - 1
            else:
                deaths = die(case, twice=options.twice)
            total += deaths
            print(f"{case}: {deaths} deaths, {time.monotonic() - started:.1f} s", flush=True)
        except Exception:
            traceback.print_exc()
            failed += 1
    print(f"{total} deaths in {len(chosen)} cases, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
