"""What a device sees of the machine it is attached to: memory, its page, its interrupts, and wires past its process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from protocol.layout import ClockPage, DevicePage, IrqPage
from protocol.memory import GuestMemory, Shared

if TYPE_CHECKING:
    from devproc.before import Before
    from devproc.faults.faults import Faults


class Machine:
    """What a device sees of the machine it is attached to: memory, its page, its interrupts."""

    def __init__(
        self,
        page: DevicePage,
        memory: GuestMemory,
        irq: IrqPage,
        irq_event: int,
        doorbells: tuple[int, ...] = (),
        calls: tuple[int, ...] = (),
        clock: ClockPage | None = None,
    ) -> None:
        self.page = page
        self.memory = memory
        self.irq = irq
        self._irq_event = irq_event
        self._base = page.irq_base
        self._count = page.irq_count - page.calls
        self.doorbells = doorbells
        """Eventfds that the guest's doorbells write, for a device that hands them on."""
        self.calls = calls
        """Eventfds that interrupt the guest when they are written (``DevicePage``)."""
        self.now_ns: Callable[[], int] = clock.guest_ns if clock else time.time_ns
        """Return guest time in nanoseconds; without a machine the host's."""
        self.before: Before | None = None
        """The page of the process before, to go on from, if there is a fresh one now."""
        self.faults: Faults | None = None
        """What interrupts have to get past, as of the device."""

    @classmethod
    def private(
        cls,
        page_size: int,
        ram_size: int = 0x10_0000,
        *,
        ram_base: int = 0x8000_0000,
        memory: GuestMemory | None = None,
    ) -> Machine:
        """Return a machine of this process alone, for tests and ``--poke``; ``close`` gives its memory back.

        With ``memory`` only the page is this process's: guest memory is somebody else's, who may exchange it.
        """

        def anonymous(size: int) -> Shared:
            fd = os.memfd_create("busvm", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
            return Shared(fd, size)

        page, irq = DevicePage(anonymous(page_size)), IrqPage(anonymous(IrqPage.SIZE))
        page.format()
        irq.format()
        page.epoch = 1
        page.irq_count = 256
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return cls(page, memory or GuestMemory(anonymous(ram_size), ram_base), irq, event)

    def message(self, vector: int) -> None:
        """Send one message of MSI-X ``vector``; table, masks and pending bits are ``cpu_proc``'s work."""
        if self.faults is None or self.faults.signals.message(vector, self._send):
            self._send(vector)

    def _send(self, vector: int) -> None:
        if vector + 1 < self._count:
            source = self._base + 1 + vector
            self._publish(source, self.irq.word(source) + 1)

    def line(self, level: bool) -> None:
        """Set the level of the wire: INTx of a PCI function."""
        if self.irq.word(self._base) != level:
            if self.faults is None or self.faults.signals.line(level, self._hold):
                self._hold(level)
        elif self.faults is not None and not level:
            self.faults.signals.line(level, self._hold)  # what was to be raised later is not wanted any more

    def _hold(self, level: bool) -> None:
        self._publish(self._base, int(level))

    def repeat(self) -> None:
        """Have the harts look at the words once more: a predecessor may have died between a word and its telling."""
        self._publish(self._base, self.irq.word(self._base))

    def _publish(self, source: int, word: int) -> None:
        self.irq.raise_(source, word)
        os.eventfd_write(self._irq_event, 1)

    def close(self) -> None:
        """Unmap everything and close the descriptors."""
        for shared in (self.page.shared, self.irq.shared, self.memory.ram):
            shared.close()
        if self._irq_event >= 0:
            os.close(self._irq_event)
            self._irq_event = -1


class Wiring:
    """Connects the guest with others, past the device's process, and beyond its life; here: with nobody.

    Descriptors stay the caller's. Called on the device loop, while attached.
    """

    def doorbells(self, connect: Mapping[int, int], forget: Collection[int] = ()) -> None:
        """Have stores of these values to a register that ``matches`` write these eventfds, and of others none."""

    def calls(self, fds: Sequence[int]) -> None:
        """Have these eventfds interrupt the guest, in place of those that did: its calls (``DevicePage``)."""

    def hold(self, fd: int) -> None:
        """Have the machine keep a descriptor until the device is taken out of it, or another is to be held."""

    def held(self) -> tuple[dict[int, int], list[int]]:
        """Return the doorbells and calls that a predecessor has connected: descriptors, now the caller's."""
        return {}, []
