"""Programs of Debian on busvm and on QEMU, at the same time in two guests that take turns.

Ratios are speeds: 1.5 x is half as fast again as QEMU. At the end of each line are the lowest and the highest ratio of
the rounds. Where only the hart works, time in which the host ran somebody else instead does not count
(`benchmarks.workloads.host_time`). In the environment:

- ``BUSVM_ROWS=coremark,fio``: only these rows;
- ``BUSVM_PEER=0``: without QEMU;
- ``BUSVM_ROUNDS``: how often each is measured, 3 if nothing is said;
- ``BUSVM_COREMARK``: CoreMark's sources; ``BUSVM_WORKLOADS``: where the image is kept (`benchmarks.workloads.image`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import Figure, at_least, at_most, median
from benchmarks.machines import qemu_available, run, scratch
from benchmarks.workloads.console import GuestError
from benchmarks.workloads.emulators import Busvm, Emulator, Guest, Qemu
from benchmarks.workloads.image import Image, prepare
from benchmarks.workloads.rows import ROWS, Row

BOOT, MEMORY = "boot", "memory"
_NAMES = (*(row.name for row in ROWS), MEMORY, BOOT)
_FIRST_LINE, _LOGIN = "busvm initramfs: up", "GNU/Linux 13 busvm ttyS0"  # the prompt itself ends no line
_ROW_S, _BOOT_S = 90.0, 240.0
_NOT_COUNTED = {"orchestrator", "bus"}  # in the listing of memory; QEMU has no such processes
_SPEED, _MEMORY = 1.0, 1.3  # goals: times QEMU


def measure() -> Iterator[Figure]:
    """Yield the figures, each as soon as it is known."""
    names = _selected()
    with scratch() as name:
        folder = Path(name)
        image = prepare(folder)
        emulators: list[Emulator] = [Busvm(image, folder)]
        if os.environ.get("BUSVM_PEER") != "0" and qemu_available():
            emulators.append(Qemu(image))
        guests = [Guest(emulator, image, folder) for emulator in emulators]
        try:
            for row in ROWS:
                if row.name in names:
                    yield _workload(row, guests, image.missing.get(row.name))
            if MEMORY in names:
                yield _memory(guests)
        finally:
            for guest in guests:
                guest.close()
        if BOOT in names:
            yield from _boot(emulators, image, folder)


def _selected() -> set[str]:
    names = {name for name in os.environ.get("BUSVM_ROWS", "").split(",") if name} or set(_NAMES)
    if unknown := names - set(_NAMES):
        raise SystemExit(f"BUSVM_ROWS: no {', '.join(sorted(unknown))}; there are {', '.join(_NAMES)}")
    return names


def _rounds() -> int:
    return int(os.environ.get("BUSVM_ROUNDS", "3"))


def _workload(row: Row, guests: Sequence[Guest], missing: str | None) -> Figure:
    if missing:
        return _failed(row.title, missing)
    found: list[list[float]] = [[] for _ in guests]
    for _ in range(_rounds()):
        for values, guest in zip(found, guests, strict=True):  # in turn: the host changes its speed
            try:
                done = guest.run(row.command, _ROW_S)
                values.append(row.figure(done.output) / (done.host_part if row.alone else 1))
            except (GuestError, LookupError) as error:
                return _failed(row.title, f"{guest.emulator.name}: {error}")
    return _compared(row.title, [guest.emulator for guest in guests], found, row.unit, row.goal)


def _memory(guests: Sequence[Guest]) -> Figure:
    title = "memory after these, of QEMU's"
    try:
        for guest in guests:
            guest.run("true", _ROW_S)  # one that no row has started, or that is gone
        parts = [guest.memory_mib() for guest in guests]
    except GuestError as error:
        return _failed(title, str(error))
    counted = [{name: mib for name, mib in part.items() if name not in _NOT_COUNTED} for part in parts]
    mine = ", ".join(f"{name} {mib:.0f}" for name, mib in parts[0].items())
    if len(guests) == 1:
        return Figure("memory after these", sum(counted[0].values()), "MiB", peer=mine)
    ours, theirs = (sum(part.values()) for part in counted)
    return at_most(title, ours / theirs, "x", _MEMORY, f"{ours:.0f} MiB, QEMU {theirs:.0f} MiB ({mine})")


def _boot(emulators: Sequence[Emulator], image: Image, folder: Path) -> Iterator[Figure]:
    marks = {"boot to the initramfs's first line": _FIRST_LINE, "boot to the login prompt": _LOGIN}
    seconds: dict[str, list[list[float]]] = {title: [[] for _ in emulators] for title in marks}
    for _ in range(_rounds()):
        for which, emulator in enumerate(emulators):
            disk = image.copy_of_disk(folder / "boot.ext4")
            command = emulator.command("console=ttyS0 root=/dev/vda rw", disk)
            found = run(command, until=_LOGIN, timeout_s=_BOOT_S)
            for title, text in marks.items():
                try:
                    seconds[title][which].append(found.seconds_to(text))
                except LookupError as error:
                    yield _failed(title, f"{emulator.name}: {str(error).splitlines()[-1]}")
                    return
    for title, each in seconds.items():
        yield _compared(title, emulators, each, "s", _SPEED, lower_is_better=True)


def _compared(
    title: str, emulators: Sequence[Emulator], found: Sequence[Sequence[float]], unit: str, goal: float,
    *, lower_is_better: bool = False,
) -> Figure:  # fmt: skip
    medians = [median(values) for values in found]
    if len(found) == 1:
        return Figure(title, medians[0], unit, peer=f"{emulators[0].name}, {min(found[0]):.4g} to {max(found[0]):.4g}")
    sign = -1 if lower_is_better else 1
    ratios = [(ours / theirs) ** sign for ours, theirs in zip(*found, strict=True)]
    each = ", ".join(f"{emulator.name} {value:.4g}" for emulator, value in zip(emulators, medians, strict=True))
    peer = f"{each} {unit}; {min(ratios):.2f} to {max(ratios):.2f}"
    return at_least(title, (medians[0] / medians[1]) ** sign, "x", goal, peer)


def _failed(title: str, reason: str) -> Figure:
    return Figure(title, float("nan"), "", met=False, peer=reason)
