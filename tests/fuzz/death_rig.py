"""A machine in this process whose device dies after a given store: page, memory, interrupts and link outlive it.

The device and its loop are the real ones; only what ``cpu_proc`` is to them is played here. A process ends by ``Crash``
in the middle of whatever it does, and nothing of it is used again; what it had given to its pool is never done. Its
successor is attached at once, with the writes that were not processed sent again, as ``cpu_proc.remote`` does.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from devproc.loop import DeviceLoop
from devproc.machine import Machine
from devproc.virtio_blk import transfers
from devproc.virtio_blk.backing import Backing, Views
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.device import BlockDevice
from devproc.virtio_blk.pool import Job, Pool
from devproc.virtio_blk.spec import SECTOR
from protocol import messages
from protocol.layout import CONFIG_BAR, DevicePage, IrqPage, ReadKind, WriteKind
from protocol.memory import GuestMemory
from tests.unit.devproc.memory import Budget, Crash, Dying, private

BASE, RAM_SIZE = 0x8000_0000, 0x4_0000
SECTORS = 64
SOURCES = 16
TURNS = 1000  # of a loop that comes to no end
FOR_EVER = -1


class Failed(Exception):
    """The device, or its successor, did what it must not do."""


class Content:
    """A disk's content in memory; it outlives the processes."""

    path, readonly, mortal, written, sectors = Path("memory"), False, 0, False, SECTORS

    def __init__(self) -> None:
        self.data = bytearray(SECTORS * SECTOR)
        self.flushes = 0

    def read_nowait(self, views: Views, offset: int, length: int) -> bool:
        """Read some sectors at once, so that both ways are gone."""
        if offset // SECTOR % 2:
            return False
        self.read(views, offset)
        return True

    def read(self, views: Views, offset: int) -> None:
        """Fill ``views``."""
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def write(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write ``views``."""
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)
        self.flushes += durable

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = False) -> None:
        """Write zeros."""
        self.data[offset : offset + length] = bytes(length)

    def discard(self, offset: int, length: int) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Count it."""
        self.flushes += 1

    def resize(self, size: int) -> None:
        """Stay as long as it is."""

    def close(self) -> None:
        """Stay open."""


class LazyPool(Pool):
    """A pool that does its jobs when their results are asked for, the last one first."""

    def __init__(self, image: Backing, _threads: int) -> None:
        super().__init__(image, 0)

    def submit(self, job: Job) -> None:
        """Keep a job."""
        self.busy += 1
        self._jobs.put(job)
        os.eventfd_write(self.event, 1)

    def forget(self) -> list[Job]:
        """Take away what was submitted; only who returns it has views of guest memory left."""
        jobs = []
        while not self._jobs.empty():
            job = self._jobs.get()
            assert job is not None
            jobs.append(job)
        return jobs

    def finished(self) -> list[Job]:
        """Do what was submitted."""
        jobs = self.forget()
        for job in jobs:
            job.run(self._image)
        self._done.extend(reversed(jobs))
        return super().finished()


class Pipe:
    """The link of one incarnation, as the device has it."""

    def __init__(self, epoch: int, budget: Budget) -> None:
        self.epoch = epoch
        self.counters = SimpleNamespace()
        self.inbox: deque[messages.Any] = deque()
        self.answers: dict[int, int] = {}
        self.fd = fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.socket = SimpleNamespace(fileno=lambda: fd)
        self._budget = budget

    def receive(self) -> messages.Any | None:
        """Return the next message; what was received is with the process."""
        return self.inbox.popleft() if self.inbox else None

    def send(self, message: messages.Any) -> None:
        """Answer."""
        self._budget.spend()
        if isinstance(message, messages.Fault):
            raise Failed(f"the device says {message.reason}")
        self.answers[message.seq] = message.value if isinstance(message, messages.Value) else 0

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


class Attached:
    """What ``devproc.attachment`` makes of an offer: here the offer has it all."""

    def __init__(self, offer: Any, *, page_size: int, doorbells: int, calls: int) -> None:
        self.offer, self.machine, self.link = offer, offer.machine, offer.link
        self.doorbells, self.calls = offer.doorbells[:doorbells], [0] * calls

    def forget_before(self) -> None:
        """There is nobody to go on in whose place."""

    def close(self) -> None:
        """Leave everything open: it is the machine's."""


class Computer:
    """The machine and the processes of its disk, one after the other.

    ``lives`` says after how many stores each dies; who comes after those lives for ever.
    """

    def __init__(self, transport: str, lives: list[int], **config: Any) -> None:
        self.transport = transport
        self.lives = lives
        self.deaths = 0
        self.content = Content()
        self.meanwhile: Callable[[], None] = lambda: None
        """What the guest does while there is no device."""
        self._config = Config(image=self.content.path, threads=1, **config)
        sample = self._make()
        sample.close()
        self._page = private(sample.page_size)
        self._ram, self._irq = private(RAM_SIZE), private(IrqPage.SIZE)
        self.page, self.irq, self.memory = DevicePage(self._page), IrqPage(self._irq), GuestMemory(self._ram, BASE)
        self.irq.format()
        self.irq_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.doorbells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(self._config.queues)]
        self.budget = Budget(FOR_EVER)
        self.device: BlockDevice
        self._loop: DeviceLoop | None = None
        self._link: Pipe
        self._unacknowledged: deque[messages.Write] = deque()
        self._requests = 0
        self._seen = [0] * SOURCES
        self._settled = False
        self._fresh()

    def _make(self) -> BlockDevice:
        return BlockDevice.over(self.transport)(self._config, self.content)

    def _fresh(self) -> None:
        """Do as ``cpu_proc`` does before the first attachment, and after one that did not come to its end."""
        self._page.u8[:] = bytes(self._page.size)
        self.page.format()
        self.page.irq_count = SOURCES

    # the processes

    def _begin(self) -> None:
        self.budget = budget = Budget(self.lives.pop(0) if self.lives else FOR_EVER)
        self.page.epoch = self.page.epoch + 1
        self.device = device = self._make()
        self._loop = loop = DeviceLoop(device, mock.Mock())
        self._link = Pipe(self.page.epoch, budget)
        machine = Machine(
            DevicePage(Dying(self._page, budget)),
            GuestMemory(Dying(self._ram, budget), BASE),
            IrqPage(Dying(self._irq, budget)),
            self.irq_event,
        )
        with mock.patch("devproc.loop.Attachment", Attached):
            loop.attach(SimpleNamespace(
                version=1, saved=-1, vm="dying", epoch=self.page.epoch, machine=machine, link=self._link,
                doorbells=self.doorbells,
            ))  # type: ignore[arg-type]  # fmt: skip
        self._settled = True
        while self._unacknowledged and self._unacknowledged[0].seq <= self.page.processed:
            self._unacknowledged.popleft()
        self._link.inbox.extend(self._unacknowledged)

    def _bury(self) -> None:
        """Take away what is left of a process; nothing that it had begun goes on."""
        self.deaths += 1
        self.budget.left = FOR_EVER
        if self._loop is not None:
            self._loop.close()
            self._link.close()
            self.device.pool.forget()  # type: ignore[attr-defined]
            self.device.pool.close()
        self._loop = None

    def run(self) -> None:
        """Let the device, and its successors, work until there is nothing to do."""
        while True:
            try:
                if self._loop is None:
                    self._begin()
                self._work()
            except Crash:
                self._bury()
                if not self._settled:
                    self._fresh()
                else:
                    self.meanwhile()
            else:
                return

    def _work(self) -> None:
        loop = self._loop
        assert loop is not None
        for _ in range(TURNS):
            loop.turn(0)
            busy = loop._serve()
            loop._drain_link()
            busy |= loop._serve()
            if not busy and not loop._epoll.poll(0):
                return
        raise Failed("the loop comes to no end")

    def close(self) -> None:
        """End."""
        self._bury()
        for fd in (self.irq_event, *self.doorbells):
            os.close(fd)
        for shared in (self._page, self._ram, self._irq):
            shared.close()

    # accesses of the guest, served as ``cpu_proc.remote`` serves them

    def _place(self, name: str) -> tuple[int, int, int, int, int]:
        """Return BAR, offset and width of a register, and where its image and kind bytes are."""
        registers = self.device.registers
        register = registers.by_name[name]
        bar, offset = registers.place(register)
        if bar == CONFIG_BAR:
            return bar, offset, register.width, DevicePage.CONFIG, DevicePage.CONFIG_KINDS
        entry = self.page.bar(bar)
        return bar, offset, register.width, entry.image, entry.kinds

    def has(self, name: str) -> bool:
        """Return whether there is such a register on this transport."""
        return name in self.device.registers.by_name

    def read(self, name: str) -> int:
        """Load from a register."""
        bar, offset, width, image, kinds = self._place(name)
        if self._page.u8[kinds + offset] & 15 == ReadKind.MESSAGE:
            return self._ask(lambda epoch, seq: messages.Read(epoch, seq, bar, offset, width))
        if self.page.posted != self.page.processed:
            self.barrier("flush")
        return self._page.load(image + offset, width)

    def write(self, name: str, value: int) -> None:
        """Store to a register."""
        bar, offset, width, image, kinds = self._place(name)
        how = self._page.u8[kinds + offset] >> 4
        if how == WriteKind.STORE:
            self._page.store(image + offset, width, value)
        elif how == WriteKind.DOORBELL:
            os.eventfd_write(self.doorbells[value], 1)
        elif how in (WriteKind.POST, WriteKind.SYNC):
            self.page.posted = seq = self.page.posted + 1
            self._unacknowledged.append(messages.Write(self.page.epoch, seq, bar, offset, width, value))
            self._link.inbox.append(self._unacknowledged[-1])
            if how == WriteKind.SYNC:
                self.barrier("flush")
        else:
            raise Failed(f"{name} cannot be written")

    def ring(self, index: int) -> None:
        """Store to a doorbell; nothing of it waits for the device."""
        os.eventfd_write(self.doorbells[index], 1)

    def barrier(self, what: str) -> None:
        """Have the device act on everything sent so far."""
        self._ask(lambda epoch, seq: messages.Barrier(epoch, seq, what))

    def _ask(self, make: Callable[[int, int], messages.Any]) -> int:
        self._requests += 1
        seq = self._requests
        while True:
            link = self._link
            link.inbox.append(make(link.epoch, seq))
            self.run()
            if self.page.reply_seq == seq:  # found by a look, or by its message: that is the same by now
                return self.page.reply_value
            if seq in link.answers:
                return link.answers[seq]
            if link is self._link:
                raise Failed("the device answers nothing")

    def interrupts(self) -> set[int]:
        """Sleep until an interrupt, and return the sources that ask for one: the wire is 0, then the vectors."""
        self.run()
        try:
            os.eventfd_read(self.irq_event)
        except BlockingIOError:
            return set()  # asleep: nobody looks at the words
        if not self._irq.u8[IrqPage.LOOK]:
            return set()
        self._irq.u8[IrqPage.LOOK] = 0
        words = [self.irq.word(source) for source in range(SOURCES)]
        messages_of = {source for source in range(1, SOURCES) if words[source] != self._seen[source]}
        self._seen = words
        return messages_of | ({0} if words[0] else set())


@contextmanager
def dying(transport: str, lives: list[int], **config: Any) -> Iterator[Computer]:
    """Provide a machine; a store to its interrupt eventfd is one like any other."""
    write = os.eventfd_write
    with mock.patch.object(transfers, "Pool", LazyPool):
        computer = Computer(transport, lives, **config)

        def counted(fd: int, value: int) -> None:
            if fd == computer.irq_event:
                computer.budget.spend()
            write(fd, value)

        try:
            with mock.patch.object(os, "eventfd_write", counted):
                computer.run()
                yield computer
        finally:
            computer.close()
