"""A guest that lies: a disk in this process, over rings of both kinds in which any field may be anything.

``python -m tests.fuzz.rings --requests 1000000 --seed 1`` plays episodes: a ring is set up with features and a size by
chance, and requests are made available of which some fields are overwritten: of descriptors, rings, indirect tables,
event structures, headers. Between them registers are written, queues and device are reset, and the device's process
is succeeded by another. Nothing may raise, everything must come to an end, RAM has guard pages around it and in its
middle, and after each episode the disk works. An episode follows from the seed and its number; one that fails is
made shorter, and printed.
"""

from __future__ import annotations

import argparse
import faulthandler
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from devproc.driver_queue import DriverQueue
from devproc.virtio_blk.spec import Type
from devproc.virtio_spec import Feature, Status
from devproc.virtqueue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE
from tests.fuzz.ring_rig import BASE, HOLE, RAM, SECTORS, SLOT, Rig

REQUESTS = 48  # in an episode
PATIENCE_S = 60  # for an episode, which takes 10 ms
_RINGS = (Feature.RING_PACKED, Feature.RING_EVENT_IDX, Feature.RING_INDIRECT_DESC, Feature.RING_RESET)
_EDGES = (0, 1, 2, 3, 0x7FFF, 0x8000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1)
_PLACES = (BASE - 1, BASE, BASE + RAM - 1, BASE + RAM, BASE + HOLE[0] - 1, BASE + HOLE[0], BASE + HOLE[1])
_FLAGS = (0, DESC_NEXT, DESC_WRITE, DESC_INDIRECT, DESC_INDIRECT | DESC_NEXT, 0x80, 0x8000, 0x8080, 0x8082, 0x82, 0x84)
_LENGTHS = (0, 1, 15, 16, 17, 32, 512, 513, 4096, 16384, 16400, RAM, (1 << 32) - 1)
_KINDS = (Type.IN, Type.IN, Type.OUT, Type.OUT, Type.FLUSH, Type.GET_ID, Type.DISCARD, Type.WRITE_ZEROES, 10, 14, 99)

Action = tuple[str, tuple[int, ...]]


class Episode(NamedTuple):
    """What a guest does: nothing of it depends on what the device does."""

    over: str
    features: int
    size: int
    actions: list[Action]

    def __str__(self) -> str:
        head = f"over {self.over}, ring features {self.features:#x}, {self.size} descriptors"
        return "\n".join([head, *(f"  {name} {', '.join(map(hex, values))}" for name, values in self.actions)])


def episode(seed: int, number: int, over: str) -> Episode:
    """Return an episode."""
    chance = random.Random(f"{seed} {number}")
    features = sum(feature for feature in _RINGS if chance.random() < 0.6)
    size = chance.randint(1, 16) if features & Feature.RING_PACKED else chance.choice((2, 4, 8, 16))
    if over == "mmio":
        features |= Feature.IN_ORDER
    actions: list[Action] = []
    for _ in range(REQUESTS):
        actions.append(("add", _request(chance)))
        actions += [_mutation(chance) for _ in range(chance.choice((1, 1, 1, 2, 2, 4)))]
        dice = chance.random()
        if dice < 0.08:
            actions.append(("register", (chance.getrandbits(16), _value(chance))))
        elif dice < 0.12:
            width = chance.choice((1, 2, 4, 8))
            actions.append(("access", (chance.randrange(8), chance.randrange(0x4000) & -width, width, _value(chance))))
        elif dice < 0.18:
            actions.append(("die", ()))
        elif dice < 0.20:
            actions.append(("stop", (chance.randrange(2),)))
        elif dice < 0.21:
            actions.append(("reset", ()))
        actions.append(("ring", ()))
        if chance.random() < 0.25:
            actions.append(("finish", ()))
    return Episode(over, features, size, actions)


def _request(chance: random.Random) -> tuple[int, ...]:
    """Slot, type, sector, bytes, in how many parts, whether they are for the device to write, indirect or not."""
    kind = chance.choice(_KINDS)
    sector = chance.choice((chance.randrange(SECTORS), chance.randrange(SECTORS), chance.choice(_EDGES)))
    length = chance.choice((0, 1, 16, 20, 512, 512, 512))
    inwards = kind in (Type.IN, Type.GET_ID) if chance.random() < 0.95 else chance.random() < 0.5
    return chance.randrange(32), kind, sector, length, chance.choice((1, 1, 2, 3)), int(inwards), chance.randrange(2)


def _value(chance: random.Random) -> int:
    return chance.choice((
        chance.choice(_EDGES), chance.choice(_PLACES), chance.choice(_FLAGS), chance.choice(_LENGTHS),
        BASE + chance.randrange(RAM), chance.randrange(20), chance.getrandbits(64),
    ))  # fmt: skip


def _mutation(chance: random.Random) -> Action:
    """Say which field gets which value; what there is of an area is taken modulo its size."""
    area = chance.choice(("descriptor", "descriptor", "driver", "device", "table", "header", "anywhere"))
    if area in ("descriptor", "table"):
        field, width, values = chance.choice((
            (0, 8, _PLACES), (0, 8, ()), (8, 4, _LENGTHS), (12, 2, _FLAGS), (14, 2, _FLAGS), (12, 2, ()), (14, 2, ()),
        ))  # fmt: skip
        value = chance.choice(values) if values and chance.random() < 0.7 else _value(chance)
        return area, (chance.randrange(1024) if area == "table" else chance.randrange(16), field, width, value)
    width = chance.choice((2, 2, 4, 8))
    return area, (chance.getrandbits(18) & -width, width, _value(chance))


class Player:
    """Plays episodes on a rig."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.served = 0
        self._names = sorted(rig.device.registers.by_name)

    def play(self, plan: Episode) -> None:
        """Play one; raises whatever the device raises."""
        rig = self.rig
        rig.features, rig.size = plan.features, plan.size
        rig.probe()
        for name, values in plan.actions:
            if not rig.serving and name in ("add", "stop"):
                rig.device.drain()
                rig.probe()
            getattr(self, f"_{name}")(*values)
        rig.check()

    # actions of the guest

    def _add(self, slot: int, kind: int, sector: int, length: int, parts: int, inwards: int, indirect: int) -> None:
        queue = self.rig.disk.queue
        queue.indirect = bool(indirect and self.rig.features & Feature.RING_INDIRECT_DESC)
        place = self.rig.slots[slot]
        self.rig.memory.write(place, struct.pack("<IIQ", kind, 0, sector))
        self.rig.memory.write(place + 16, struct.pack("<QII", sector, length // 16, indirect))
        step = -(-length // parts) if length else 0
        data = [(place + 16 + at, min(step, length - at)) for at in range(0, length, step)] if length else []
        readable, writable = [(place, 16)], [(place + SLOT - 1, 1)]
        try:
            queue.add(readable + ([] if inwards else data), (data if inwards else []) + writable)
        except IndexError:
            pass  # the ring is full of what the device has not returned

    def _poke(self, address: int, width: int, value: int) -> None:
        self.rig.memory.store(address & -width, width, value)

    def _descriptor(self, index: int, field: int, width: int, value: int) -> None:
        self._poke(self.rig.disk.queue.desc + 16 * (index % self.rig.size) + field, width, value)

    def _table(self, index: int, field: int, width: int, value: int) -> None:
        queue = self.rig.disk.queue
        self._poke(queue.scratch + 16 * (index % (64 * self.rig.size)) + field, width, value)

    def _driver(self, offset: int, width: int, value: int) -> None:
        queue = self.rig.disk.queue
        self._poke(queue.avail + offset % (queue.used - queue.avail), width, value)

    def _device(self, offset: int, width: int, value: int) -> None:
        queue = self.rig.disk.queue
        self._poke(queue.used + offset % (8 + 8 * self.rig.size), width, value)

    def _header(self, offset: int, width: int, value: int) -> None:
        self._poke(self.rig.slots[offset >> 4 & 31] + (offset & 63), width, value)

    def _anywhere(self, offset: int, width: int, value: int) -> None:
        if not HOLE[0] - width < offset < HOLE[1]:
            self._poke(BASE + offset, width, value)

    def _register(self, which: int, value: int) -> None:
        device = self.rig.device
        register = device.registers.by_name[self._names[which % len(self._names)]]
        bar, offset = device.registers.place(register)
        device.write(bar, offset, register.width, value & (1 << 8 * register.width) - 1)
        device.read(bar, offset, register.width)

    def _access(self, bar: int, offset: int, size: int, value: int) -> None:
        self.rig.device.write(bar, offset, size, value & (1 << 8 * size) - 1)
        self.rig.device.read(bar, offset, size)

    def _ring(self) -> None:
        self.rig.ring()
        self.served += 1
        queue = self.rig.disk.queue
        if isinstance(queue, DriverQueue) and queue.load(queue.used + 2, 2) - queue._used_idx & 0xFFFF > queue.size:
            return  # an index of the mutation's, not of the device's
        try:
            queue.collect()
        except KeyError:
            pass  # a driver that has lied to itself about its ids

    def _finish(self) -> None:
        self.rig.device.drain()

    def _die(self) -> None:
        self.rig.die()

    def _stop(self, again: int) -> None:
        self.rig.disk.write("queue_select", 0)
        self.rig.disk.write("queue_reset", 1)
        if again:
            self.rig.disk.enable()

    def _reset(self) -> None:
        self.rig.disk.write("device_status", int(Status(0)))


@contextmanager
def players() -> Iterator[dict[str, Player]]:
    """Provide a player over each transport; that over MMIO has to keep requests in order."""
    with tempfile.TemporaryDirectory(prefix="bv") as folder:
        rigs = {over: Rig(Path(folder), over, in_order=over == "mmio") for over in ("pci", "mmio")}
        try:
            yield {over: Player(rig) for over, rig in rigs.items()}
        finally:
            for rig in rigs.values():
                rig.close()


def shorter(plan: Episode, fails: Callable[[Episode], bool]) -> Episode:
    """Leave out what is not needed for the failure."""
    step = len(plan.actions) // 2
    while step:
        at = 0
        while at < len(plan.actions):
            less = plan._replace(actions=plan.actions[:at] + plan.actions[at + step :])
            if fails(less):
                plan = less
            else:
                at += step
        step //= 2
    return plan


def failure(plan: Episode) -> str:
    """Return what an episode ends with on a fresh device, or nothing."""
    with players() as fresh:
        try:
            fresh[plan.over].play(plan)
        except Exception:
            return traceback.format_exc()
    return ""


def run(requests: int, seed: int, first: int, note: Callable[[int], None]) -> Counter[str]:
    """Play until ``requests`` doorbells have rung; return counters. The first failure is printed, and raised."""
    counted: Counter[str] = Counter()
    number = first
    with players() as found:
        while sum(player.served for player in found.values()) < requests:
            note(number)
            plan = episode(seed, number, ("pci", "mmio")[number % 2])
            try:
                found[plan.over].play(plan)
            except Exception:
                print(f"seed {seed}, episode {number}: {traceback.format_exc()}")
                print(shorter(plan, lambda less: bool(failure(less))))
                raise
            number += 1
        for player in found.values():
            counted.update(player.rig.device.counters)
            counted["served"] += player.served
    counted["episodes"] = number - first
    return counted


def main(argv: list[str]) -> int:
    """Run in a child, so that one that is ended by a guard page has told how far it was."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.rings", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000, metavar="N", help="how many (default: 100000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="what follows from it is the same again")
    parser.add_argument("--episode", type=int, default=0, metavar="N", help="begin with this one (default: 0)")
    parser.add_argument("--no-child", action="store_true", help="run in this process, for coverage")
    options = parser.parse_args(argv)
    with mmap.mmap(-1, 8) as shared, memoryview(shared).cast("Q") as reached:
        if options.no_child:
            return _child(options, reached)
        child = os.fork()
        if child == 0:
            os._exit(_child(options, reached))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            name = signal.Signals(-code).name
            print(
                f"seed {options.seed}, episode {reached[0]}: {name}; SIGSEGV is a guard page, SIGALRM no end in sight"
            )
        return int(code != 0)


def _child(options: argparse.Namespace, reached: memoryview) -> int:
    faulthandler.enable()

    def note(number: int) -> None:
        reached[0] = number
        signal.alarm(PATIENCE_S)

    started = time.monotonic()
    try:
        counted = run(options.requests, options.seed, options.episode, note)
    except Exception:
        return 1
    finally:
        signal.alarm(0)
    seconds = time.monotonic() - started
    served = counted["served"]
    print(f"seed {options.seed}: {served} requests in {counted['episodes']} episodes, {served / seconds:.0f} a second")
    print(", ".join(f"{name} {count}" for name, count in sorted(counted.items())))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
