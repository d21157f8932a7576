"""Several harts over one memory, each on a thread of its own, without a machine around them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from cpu_proc.clock import GuestClock
from cpu_proc.hart import Hart
from protocol.layout import ClockPage, IrqPage
from tests.unit.cpu_proc.harness import ECALL, MASK, RAM, S_MODE, WFI, anonymous, engine, signed

CODE_STEP = 0x1000  # between the programs of two harts
SHARED = RAM + 0x10_0000  # where programs keep what they share, a cache line each
LINE = 64
STOP = SHARED  # programs that run until told end when this is not zero
RESULTS = RAM + 0x20_0000
RESULT_BYTES = 0x8_0000  # of one hart
ENOUGH = 1 << 40  # instructions


def to(label: str, word: Callable[[int], int]) -> tuple[str, Callable[[int], int]]:
    """Return a jump or branch to a label: ``word`` takes the offset."""
    return label, word


def assemble(*items: int | str | tuple[str, Callable[[int], int]]) -> list[int]:
    """Return the words of a program in which strings are labels."""
    labels: dict[str, int] = {}
    at = 0
    for item in items:
        if isinstance(item, str):
            labels[item] = at
        else:
            at += 4
    words: list[int] = []
    for item in items:
        if isinstance(item, tuple):
            words.append(item[1](labels[item[0]] - 4 * len(words)))
        elif isinstance(item, int):
            words.append(item)
    return words


class Gang:
    """Harts in S mode; an ``ecall`` ends a program."""

    def __init__(self, count: int, ram_size: int = 4 << 20) -> None:
        self.ram = anonymous(ram_size)
        self.irq = IrqPage(anonymous(IrqPage.SIZE))
        self.irq.format()
        self.clock = GuestClock(ClockPage(anonymous(ClockPage.SIZE)))
        self.clock.start()
        self.watch = np.zeros(1, np.int64)
        self.harts = [Hart(n, engine(), self.ram, RAM, self.irq, self.clock.page) for n in range(count)]
        self.threads: list[threading.Thread] = []
        for hart in self.harts:
            hart.connect(self.harts, self.watch, -1)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.ram.u8[:] = bytes(self.ram.size)
        for hart in self.harts:
            hart.reset()
            hart["STOP_REQUEST"] = 0
            hart["IMSIC_PRESENT"] = 1
            hart["SLEEP_NS"] = 1_000_000_000
            hart.enter_supervisor(RAM + CODE_STEP * hart.index, hart.index, 0)

    def load(self, at: int, size: int = 8) -> int:
        """Return one number from memory."""
        return int.from_bytes(self.ram.u8[at - RAM : at - RAM + size], "little")

    def store(self, at: int, value: int) -> None:
        """Store one aligned 64-bit number, in one piece."""
        self.ram.u64[(at - RAM) // 8] = value & MASK

    def words(self, at: int, words: Iterable[int]) -> None:
        """Store instructions."""
        for index, word in enumerate(words):
            self.ram.u32[(at - RAM) // 4 + index] = word

    def results(self, index: int, count: int) -> Any:
        """Return the first ``count`` of a hart's results."""
        first = (RESULTS + RESULT_BYTES * index - RAM) // 8
        return np.array(self.ram.u64[first : first + count], np.int64)

    def program(self, index: int, words: Iterable[int], **registers: int) -> Hart:
        """Give a hart its program, which ends with an ``ecall``, and registers by number (``x5``)."""
        hart = self.harts[index]
        self.words(RAM + CODE_STEP * index, [*words, ECALL])
        hart["PC"] = RAM + CODE_STEP * index
        for name, value in registers.items():
            hart.x[int(name[1:])] = signed(value)
        return hart

    def start(self, *indices: int) -> None:
        """Start harts, all of them unless some are named."""
        self.threads = [
            threading.Thread(target=self._run, args=(self.harts[index],)) for index in indices or range(len(self.harts))
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, hart: Hart) -> None:
        hart["BUDGET"] = ENOUGH
        while hart.run() == WFI:  # it has slept for long: nobody is here to look after it
            pass

    def finish(self, after_s: float = 0.0, timeout_s: float = 30.0) -> None:
        """Tell programs to end after a while, and wait for them."""
        time.sleep(after_s)
        self.store(STOP, 1)
        deadline = time.monotonic() + timeout_s
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [thread for thread in self.threads if thread.is_alive()]
        for hart in self.harts:
            hart.stop()
            hart.wake()
        for thread in stuck:
            thread.join()
        assert not stuck, [hex(hart["PC"]) for hart in self.harts]
        for hart in self.harts:
            hart["STOP_REQUEST"] = 0
            assert hart["PRIV"] == S_MODE

    def close(self) -> None:
        """Give the memory back."""
        for hart in self.harts:
            hart.close()
        for shared in (self.ram, self.irq.shared, self.clock.page.shared):
            shared.close()
