"""Throughput of two harts against one: the same bare-metal work on each, here and on QEMU's multi-threaded TCG."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.figures import Figure, at_least, median
from benchmarks.machines import busvm, qemu, qemu_available, scratch
from tests.unit.cpu_proc.harness import (
    RAM,
    addi,
    amo,
    b_type,
    csrrs,
    i_type,
    jal,
    li,
    load,
    r_type,
    store,
)

_ROUNDS = 3
_ITERATIONS = 12_000_000  # of seven instructions, on each hart
_UART, _FINISHER = 0x1000_0000, 0x10_0000
_COUNTER = RAM + 0x10_0000
_ADD, _DIVU, _REMU = (r_type(0x33, 0, 0), r_type(0x33, 5, 1), r_type(0x33, 7, 1))


def _print(text: bytes) -> list[int]:
    words = []
    for byte in text:
        words += [addi(6, 0, byte), store("b", 6, 9)]
    return words


def image(harts: int) -> bytes:
    """Return a program for all harts of the machine; hart 0 prints how long all of them took."""
    work = [
        addi(10, 10, 1601), r_type(0x33, 0, 1, 10, 10, 11), i_type(0x13, 5, 12, 10, 17), load("d", 13, 8),
        r_type(0x33, 4, 0, 13, 13, 12), store("d", 13, 8), addi(7, 7, -1),
    ]  # fmt: skip
    words = [
        csrrs(20, "time"), csrrs(21, "mhartid"),
        *li(8, _COUNTER), i_type(0x13, 1, 12, 21, 12), r_type(0x33, 0, 0, 8, 8, 12), addi(8, 8, 64),
        *li(7, _ITERATIONS), *li(11, 0x5DEE_CE66D), addi(10, 21, 3),
        *work, b_type(1, 7, 0, -4 * len(work)),
        *li(8, _COUNTER), addi(12, 0, 1), amo(0, 8, 0, 8, 12),
        b_type(1, 21, 0, 0),  # the others stay here
        *li(12, harts), load("d", 13, 8), b_type(1, 13, 12, -4),
        csrrs(22, "time"), r_type(0x33, 0, 0x20, 22, 22, 20),
        *li(9, _UART), *_print(b"bench ticks "),
    ]  # fmt: skip
    words += [addi(14, 0, 10), *li(15, 1_000_000_000)]
    digit = [
        _DIVU | 16 << 7 | 22 << 15 | 15 << 20, _REMU | 16 << 7 | 16 << 15 | 14 << 20, addi(16, 16, 48),
        store("b", 16, 9), _DIVU | 15 << 7 | 15 << 15 | 14 << 20,
    ]  # fmt: skip
    words += [*digit, b_type(1, 15, 0, -4 * len(digit)), *_print(b"\n")]
    words += [*li(9, _FINISHER), *li(12, 0x5555), store("w", 12, 9), jal(0, 0)]
    return b"".join(word.to_bytes(4, "little") for word in words)


def measure() -> list[Figure]:
    """Return the ratio of the work done by two harts and by one in the same time."""
    with scratch() as name:
        folder = Path(name)
        ours = _scaling(lambda harts: _here(folder, harts))
        peer = "QEMU is not installed"
        if qemu_available():
            peer = f"QEMU TCG {_scaling(lambda harts: _there(folder, harts)):.2f} times"
    return [at_least("two harts, of one hart's throughput", ours, "times", 1.7, peer)]


def _scaling(ticks: object) -> float:
    ratios = []
    for _ in range(_ROUNDS):
        alone, both = ticks(1), ticks(2)  # type: ignore[operator]  # in turn: the host changes its speed
        ratios.append(2 * alone / both)
    return median(ratios)


def _here(folder: Path, harts: int) -> float:
    path = folder / f"harts{harts}.bin"
    path.write_bytes(image(harts))
    toml = f'[vm]\nname = "harts{os.getpid()}"\ncpus = {harts}\n[boot]\nfirmware = "{path}"\n'
    return busvm(toml, folder).value("ticks")


def _there(folder: Path, harts: int) -> float:
    path = folder / f"harts{harts}.bin"
    path.write_bytes(image(harts))
    return qemu("-bios", str(path), "-smp", str(harts), "-accel", "tcg,thread=multi").value("ticks")
