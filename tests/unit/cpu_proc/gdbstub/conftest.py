"""A machine of two harts that stands still at the start of its memory, and a conversation with its stub."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc.clock import GuestClock
from cpu_proc.gdbstub.commands import Commands
from cpu_proc.gdbstub.control import Control, Stop
from cpu_proc.machine import OFF, PAUSED, BootConfig, Events, Machine
from protocol.layout import ClockPage, IrqPage
from tests.unit.cpu_proc.harness import RAM, anonymous, engine

WAIT_S = 20.0
RAM_SIZE = 4 << 20


class Talk:
    """The stub's commands without a socket."""

    def __init__(self) -> None:
        self.ram = anonymous(RAM_SIZE)
        irq = IrqPage(anonymous(IrqPage.SIZE))
        irq.format()
        clock = GuestClock(ClockPage(anonymous(ClockPage.SIZE)))
        self.states: list[str] = []
        self.printed = bytearray()
        events = Events(self.printed.extend, self._state, debug=self._hit)
        self.machine = Machine(engine(), self.ram, irq, clock, BootConfig(Path("none")), events, cpus=2)
        self.replies: queue.Queue[Stop] = queue.Queue()
        self.control = Control(self.machine, self.replies.put)
        self.counters: Counter[str] = Counter()
        self.commands = Commands(self.control, self.counters)
        self.machine.pause()
        self.machine.start()
        self.do(self.control.attach)

    def _state(self, state: str, _reason: str) -> None:
        self.states.append(state)
        if state == PAUSED:
            self.control.paused()

    def _hit(self, hart: object) -> None:
        self.machine.do(lambda: self.control.hit(hart))  # type: ignore[arg-type]

    def do(self, work: object) -> object:
        return self.machine.do(work).result(WAIT_S)  # type: ignore[arg-type]

    def __call__(self, text: str | bytes) -> str | None:
        """Send a packet; return the reply."""
        payload = text.encode("latin-1") if isinstance(text, str) else text
        reply = self.machine.do(lambda: self.commands.execute(payload)).result(WAIT_S)
        return None if reply is None else reply.decode("latin-1")

    def stopped(self) -> str:
        """Return the stop reply that comes by itself."""
        return self.commands.stopped(self.replies.get(timeout=WAIT_S)).decode()

    def interrupt(self) -> str:
        """Press Ctrl-C."""
        self.do(self.control.interrupt)
        return self.stopped()

    def put(self, at: int, *words: int) -> None:
        """Place a program the way a debugger does."""
        data = b"".join((word & 0xFFFF_FFFF).to_bytes(4, "little") for word in words)
        assert self(f"M{at:x},{len(data):x}:{data.hex()}") == "OK"

    def start_at(self, *pcs: int) -> None:
        """Set the pc of each hart; one that is not named goes round in one place, out of the way."""
        self.put(RAM + 0x3F_F000, 0x6F)
        for index, hart in enumerate(self.machine.harts):
            hart["PC"] = pcs[index] if index < len(pcs) else RAM + 0x3F_F000

    def pc(self, hart: int = 0) -> int:
        """Return a program counter."""
        return self.machine.harts[hart]["PC"] & (1 << 64) - 1

    def forget(self) -> None:
        """Make the machine as it was."""
        self.do(self.control.detach)
        self.do(self.machine.pause)
        self.do(self.control.attach)
        while not self.replies.empty():
            self.replies.get()
        for hart in self.machine.harts:
            hart.reset()
            hart["PC"] = RAM
        self.ram.u8[:] = bytes(RAM_SIZE)
        self.commands = Commands(self.control, self.counters)
        self.counters.clear()
        self.start_at(RAM)

    def close(self) -> None:
        """End the machine."""
        self.machine.quit(0)
        self.machine.join()
        assert self.machine.state == OFF
        self.machine.close()


@pytest.fixture(scope="session")
def _one_talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.close()


@pytest.fixture
def talk(_one_talk: Talk) -> Talk:
    """Return the conversation, with everything as after power-on."""
    _one_talk.forget()
    return _one_talk
