"""ivshmem between two guests of ours, and two of QEMU's at the same server of ours, which take turns.

The guest has no operating system (``ivshmem_guest.c``), so that QEMU's has interrupts, too: no driver of Linux hands
MSI-X of this device to a program.

* doorbell, guest to guest: half of a round trip by two doorbells and two interrupts (MSI-X, IMSIC); both are asleep by
  wfi until they are rung.
* doorbell, guest to host: a round trip whose way back is one word of the shared memory that the guest looks at, and
  the host is a Python program that sleeps in poll(2).
* copy: memory to shared memory and back to memory, so what guest→guest costs; beside it what share of a copy between
  plain memory of the same guest that is, which is the engine's.
* queue: messages of 64 bytes a second by examples/ivshmem/queue.h, looking or asleep until rung.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import ivshmem_machines as machines
from benchmarks.figures import Figure, at_least, at_most, median
from benchmarks.machines import QEMU, scratch
from benchmarks.workloads.image import COMPILER
from protocol.errors import BusvmError
from tests.peers import newer_qemu

_ROUNDS = 3
_RINGS, _MESSAGES = 2000, 200_000
_TICK_US = 0.1

Row = dict[str, float]


def measure() -> Iterator[Figure]:
    """Yield the figures: ours, beside those of each QEMU."""
    missing = [name for name in (QEMU, COMPILER) if not shutil.which(name)]
    if missing:
        print(f"ivshmem: skipped, there is no {missing[0]}")
        return
    with scratch() as name:
        folder = Path(name)
        elf = machines.compiled(folder)
        pairs: dict[str, Callable[[Path, str], list[str]]] = {
            "ours": lambda socket, one: machines.ours(one, elf, socket, socket.parent),
            "QEMU": lambda socket, _: machines.qemu(elf, socket),
        }
        try:
            newer = newer_qemu.command()
            pairs[f"QEMU {newer_qemu.version()[0]}"] = lambda socket, _: machines.qemu(elf, socket, newer)
        except (OSError, BusvmError, AssertionError) as error:
            print(f"ivshmem: without a newer QEMU: {error}")
        rounds: dict[str, list[Row]] = {pair: [] for pair in pairs}
        for number in range(_ROUNDS):
            for pair, command in pairs.items():
                place = folder / f"{number}{pair.replace(' ', '')}"
                place.mkdir()
                rounds[pair].append(_round(place, command))
    found = {pair: {key: median(row[key] for row in rows) for key in rows[0]} for pair, rows in rounds.items()}
    yield from _figures(found)


def _round(place: Path, command: Callable[[Path, str], list[str]]) -> Row:
    """Measure everything once, on two fresh machines."""
    with ExitStack() as stack:
        server = machines.Server(place)
        stack.callback(server.close)
        one, two = (stack.enter_context(machines.Machine(command(server.path, name))) for name in ("one", "two"))
        host = stack.enter_context(machines.Host(server.path))
        row: Row = {}
        two.type(f"pong {one.id} 0")
        between = one.ask(f"ping {two.id} {_RINGS} 0")
        host.stop(two)
        to_host = one.ask(f"answer {host.client.id} {_RINGS}")
        for part in ("p50", "p99"):
            row[f"guest {part}"] = between[part] * _TICK_US / 2
            row[f"host {part}"] = to_host[part] * _TICK_US
        copied = one.ask("copy")
        row["ram"] = copied["ram"]
        row["copy"] = 1 / (1 / copied["into"] + 1 / copied["out"])
        for name, sleeps in (("looking", 0), ("asleep", 1)):
            two.type(f"receive {_MESSAGES} {one.id} {sleeps}")
            one.ask(f"send {_MESSAGES} {two.id} {sleeps}")
            received = two.told()
            if received["bad"]:
                raise ValueError(f"{received['bad']} messages were damaged")
            row[name] = received["rate"] / 1e3
    return row


def _figures(found: dict[str, Row]) -> Iterator[Figure]:
    ours = found["ours"]
    peers = {pair: row for pair, row in found.items() if pair != "ours"}

    def words(key: str, digits: int = 1) -> str:
        return ", ".join(f"{pair} {row[key]:.{digits}f}" for pair, row in peers.items())

    def best(key: str, choose: Callable[[list[float]], float]) -> float:
        return choose([row[key] for row in peers.values()])

    for part in ("p50", "p99"):
        for key, name in ((f"guest {part}", "guest to guest"), (f"host {part}", "guest to host")):
            yield at_most(f"doorbell, {name}, {part}", ours[key], "µs", round(best(key, min), 1), words(key))
    share = words_of_share(found)
    yield at_least(
        "copy guest to guest", ours["copy"], "MiB/s", round(best("copy", max)), f"{words('copy', 0)}; {share}"
    )
    for key in ("looking", "asleep"):
        yield at_least(f"queue, {key}", ours[key], "k/s", round(best(key, max)), words(key, 0))


def words_of_share(found: dict[str, Row]) -> str:
    """Say what part of a copy into plain memory and back a copy through the shared memory is, of each engine."""
    return "of plain memory: " + ", ".join(
        f"{pair} {row['copy'] * 2 / row['ram']:.2f} of {row['ram']:.0f}" for pair, row in found.items()
    )
