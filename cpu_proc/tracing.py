"""What harts do with a device of another process, and the interrupts it gets delivered, as events (protocol.trace).

While harts' accesses are traced, compiled code serves none of them: each comes to Python, which is slower but loses
nothing. Without them only doorbells come here. Everything runs with the machine's lock held; ``FunctionTrace`` is on
the thread of the bus.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from protocol.bus import BusError
from protocol.errors import Malformed
from protocol.trace import Kind, Side, TracePage, Writer, accept

if TYPE_CHECKING:
    from cpu_proc.machine import Machine
    from cpu_proc.slots import Slot


class Recorder:
    """Writes the CPU process's events of one device."""

    def __init__(self, page: TracePage, *, registers: bool) -> None:
        self.registers = registers
        """Whether accesses to registers are wanted."""
        self._page = page
        self._writer = Writer(page, Side.CPU)
        self._number = 0

    def access(self, kind: Kind, bar: int, place: tuple[int, int], value: int, number: int, started_ns: int) -> None:
        """Record a load or a store at ``place``, offset and size; ``number`` is that of its message, or 0."""
        if self.registers:
            offset, size = place
            took = time.monotonic_ns() - started_ns
            self._writer.put(kind, number, bar, size, offset, value, took.to_bytes(8, "little"))

    def kick(self, doorbell: int) -> None:
        """Record a doorbell that rings now, under a number of its own."""
        self._number += 1
        self._page.set_kick(doorbell, self._number)
        self._writer.put(Kind.KICK, self._number, doorbell, 0, 0, 0)

    def message(self, vector: int, address: int, data: int) -> None:
        """Record a message that is delivered."""
        self._writer.put(Kind.MESSAGE, self._page.answer(1 + vector), vector, 0, address, data)

    def line(self, before: list[int], after: list[int]) -> None:
        """Record the level of the wire if it has changed; both are the words of the device's sources."""
        level = after[:1]
        if level and level != (before[:1] or [0]):
            self._writer.put(Kind.LINE, self._page.answer(0), 0, 0, 0, level[0])

    def close(self) -> None:
        """Unmap the page."""
        self._page.shared.close()


class FunctionTrace:
    """org.busvm.Trace1 of a slot."""

    request: tuple[()] = ()
    answer: tuple[()] = ()

    def __init__(self, machine: Machine, slot: Slot) -> None:
        self._machine = machine
        self._slot = slot
        self._lifeline = -1

    @property
    def active(self) -> bool:
        """Whether somebody traces."""
        return self._lifeline >= 0

    async def start(self, page: int, lifeline: int, options: dict[str, Any]) -> None:
        """Record from now on."""
        if self.active:
            raise BusError("org.busvm.Error.Busy", "somebody traces this device already")
        if self._slot.remote is None:
            raise BusError("org.busvm.Error.NotAttached", "no device has come yet")
        kept = os.dup(lifeline)
        try:
            asyncio.get_running_loop().add_reader(kept, self._gone)
        except OSError as error:
            os.close(kept)
            raise BusError("org.busvm.Error.Malformed", f"the lifeline is none: {error.strerror}") from error
        self._lifeline = kept
        try:
            recorder = Recorder(accept(os.dup(page)), registers=bool(options.get("registers", True)))
        except Malformed as error:
            self._hang_up()
            raise BusError("org.busvm.Error.Malformed", error.message) from error
        await self._exchange(recorder)

    async def stop(self) -> None:
        """Record no more."""
        if self.active:
            self._hang_up()
            await self._exchange(None)

    def _gone(self) -> None:
        self._hang_up()
        self._task = asyncio.get_running_loop().create_task(self._exchange(None))

    def _hang_up(self) -> None:
        asyncio.get_running_loop().remove_reader(self._lifeline)
        os.close(self._lifeline)
        self._lifeline = -1

    async def _exchange(self, recorder: Recorder | None) -> None:
        """Put another recorder in place while all harts stand still."""
        remote = self._slot.remote
        if remote is None:
            return  # it has been unplugged, and its recorder closed

        def exchange() -> None:
            old, remote.trace = remote.trace, recorder
            self._machine.board.update_windows()
            if old is not None:
                old.close()

        await asyncio.wrap_future(self._machine.do(exchange))
