"""The driver's side of a device, whatever it is reached by: negotiation, queues, doorbells, interrupts, reset.

``BusSide`` is a busvm machine without a CPU, ``VhostSide`` a vhost-user front-end. ``begin`` does what a driver does up
to DRIVER_OK and may be done again; ``queues`` are then laid out in ``memory``.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from devproc.driver_queue import DriverQueue
from devproc.packed_driver_queue import PackedDriverQueue, lay_out
from devproc.virtio_spec import Feature, Status
from protocol.errors import PeerGone, ProtocolError, Refused
from protocol.memory import GuestMemory, Shared
from protocol.vhost_user.front_end import FrontEnd, event
from protocol.vhost_user.messages import LOG_ALL, PROTOCOL_FEATURES, ProtocolFeature, Request
from protocol.vhost_user.payloads import U64, Inflight, Region, VringState
from tests.conformance.driver import DRIVERS, Driver
from tests.conformance.fake_cpu import RAM_BASE, DeviceGone, FakeCpu
from tests.conformance.subject import PATIENCE_S, Process, check

RAM = 16 << 20
SHARE = 2 << 20  # of RAM, for the rings and buffers of one queue
UADDR = 0x7F12_3450_0000
VERSION_1 = int(Feature.VERSION_1)
_EVERY = ~ProtocolFeature(0)
_PACKED_BASE = 0x8000_8000  # both positions at 0, both wrap counters 1

Queue = DriverQueue | PackedDriverQueue


class Side:
    """What both have."""

    memory: GuestMemory
    process: Process

    def __init__(self) -> None:
        self.queues: list[Queue] = []
        self.features = 0
        self.keeps_requests = True
        """Whether requests under way outlive the process."""

    def offered(self) -> int:
        """Return the feature bits on offer, without the transport's own."""
        raise NotImplementedError

    def begin(self, features: int, *, queues: int = 1, size: int = 64, base: int = 0) -> None:
        """Reset, negotiate, set queues up, and set DRIVER_OK; ``base`` is the first index of the rings."""
        raise NotImplementedError

    def try_features(self, features: int) -> bool:
        """Reset, offer ``features`` to the device, and return whether it accepts them."""
        raise NotImplementedError

    def config(self, offset: int, size: int) -> bytes:
        """Return a part of the config space; empty where it cannot be had."""
        raise NotImplementedError

    def ring(self, index: int = 0) -> None:
        """Ring the doorbell."""
        raise NotImplementedError

    def wait(self, index: int, timeout_s: float) -> bool:
        """Return whether an interrupt of a queue came since the last call."""
        raise NotImplementedError

    def reset(self) -> None:
        """Stop everything, and return when the device uses no buffer any more."""
        raise NotImplementedError

    def again(self) -> None:
        """Go on with a process that was started anew: the same rings, and what was under way in them."""
        raise NotImplementedError

    def settle(self, sent: str) -> None:
        """Return when the device has done what was asked of it before, or has given up; fail if it has crashed."""
        raise NotImplementedError

    def close(self) -> None:
        """Give everything back."""
        raise NotImplementedError

    def place(self, index: int) -> int:
        """Return where the rings of a queue are."""
        return RAM_BASE + index * SHARE

    def _begin_at(self, queue: Queue, base: int) -> None:
        """Let a split ring, which is empty, begin at an index."""
        if base and isinstance(queue, DriverQueue):
            queue._avail_idx = queue._kicked = queue._used_idx = base
            queue.store(queue.avail + 2, 2, base)
            queue.store(queue.used + 2, 2, base)

    # what a driver does

    def kick(self, index: int = 0, *, always: bool = False) -> None:
        """Ring the doorbell if the device wants it."""
        if self.queues[index].kick() or always:
            self.ring(index)

    def collect(self, index: int = 0, *, count: int = 1, timeout_s: float = PATIENCE_S) -> list[tuple[int, int]]:
        """Wait on interrupts for ``count`` used chains; return what came in time."""
        queue, found = self.queues[index], []
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                found += queue.collect()
            except KeyError as error:
                check(
                    False, "virtio 1.2 §2.8.8", "requests", f"used descriptor with id {error}, which is not under way"
                )
            left = deadline - time.monotonic()
            if len(found) >= count or left <= 0:
                return found
            if queue.ask():
                self.wait(index, left)


class BusSide(Side):
    """A machine without a CPU, and one device on its bus."""

    def __init__(self, cpu: FakeCpu, process: Process) -> None:
        super().__init__()
        self.cpu = cpu
        self.process = process
        self.memory = cpu.ram
        cpu.attach()
        self.driver: Driver = DRIVERS[process.subject.transport](cpu)
        self.driver.find()
        self._words: dict[int, int] = {}

    def _restart(self) -> None:
        self.driver.reset()
        self.driver.status(Status.ACKNOWLEDGE)
        self.driver.status(Status.ACKNOWLEDGE | Status.DRIVER)

    def offered(self) -> int:
        driver, found = self.driver, 0
        for select_ in (0, 1):
            driver.set("device_feature_select", select_)
            found |= driver.get("device_feature") << 32 * select_
        return found

    def try_features(self, features: int) -> bool:
        driver = self.driver
        self._restart()
        for select_ in (0, 1):
            driver.set("driver_feature_select", select_)
            driver.set("driver_feature", features >> 32 * select_ & 0xFFFF_FFFF)
        driver.status(driver.status() | Status.FEATURES_OK)
        self.features = driver.features = features
        return bool(driver.status() & Status.FEATURES_OK)

    def begin(self, features: int, *, queues: int = 1, size: int = 64, base: int = 0) -> None:
        driver = self.driver
        accepted = self.try_features(features & self.offered())
        check(
            accepted, "virtio 1.2 §3.1.1 step 6", f"features {self.features:#x}, all offered", "FEATURES_OK was cleared"
        )
        driver.queues, driver._spare = [], []
        if driver.msix:
            driver.set("config_msix_vector", 0)
        driver.size = size
        for index in range(queues):
            driver.set_up(index, self.place(index))
        self.queues = driver.queues
        driver.status(driver.status() | Status.DRIVER_OK)
        self._words = {index: self.cpu.word(self._source(index)) for index in range(queues)}

    def config(self, offset: int, size: int) -> bytes:
        return self.driver.config(offset, size).to_bytes(size, "little")

    def ring(self, index: int = 0) -> None:
        self.driver.ring(index)

    def _source(self, index: int) -> int:
        return index + 2 if self.driver.msix else 0

    def wait(self, index: int, timeout_s: float) -> bool:
        source = self._source(index)
        try:
            if self.driver.msix:
                self._words[index] = self.cpu.wait_interrupt(source, self._words[index], timeout_s)
            else:
                if not self.cpu.word(0):
                    self.cpu.wait_interrupt(0, 0, timeout_s)
                self.driver.acknowledge()
        except DeviceGone:
            return False
        return True

    def reset(self) -> None:
        self.driver.reset()

    def again(self) -> None:
        self.cpu.forget_device()
        self.cpu.attach()

    def settle(self, sent: str) -> None:
        try:
            self.cpu.wait_processed()
            self.driver.status()
            time.sleep(0.01)
        finally:
            self.process.check_alive(sent)

    def close(self) -> None:
        self.process.close()


class VhostSide(Side):
    """A front-end with memory of its own."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        fd = os.memfd_create("conformance", os.MFD_CLOEXEC)
        os.ftruncate(fd, RAM)
        self._shared = Shared(fd, RAM)
        self.memory = GuestMemory(self._shared, RAM_BASE)
        self._region = Region(RAM_BASE, RAM, UADDR, 0)
        self._kicks: list[int] = []
        self._calls: list[int] = []
        self._tables: tuple[Inflight, int] | None = None
        self.front: FrontEnd
        self._connected = False
        self._connect()

    def _connect(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.front = FrontEnd.connect(self.process.socket, timeout_s=PATIENCE_S)
                break
            except PeerGone:
                check(time.monotonic() < deadline, "vhost-user: a daemon listens at its socket", "connect", "refused")
                self.process.revive()
        self._connected = True
        self._shared_with = False

    def _hang_up(self) -> None:
        if self._connected:
            self.front.close()
            self._connected = False

    def offered(self) -> int:
        return self.front.word(Request.GET_FEATURES) & ~(PROTOCOL_FEATURES | LOG_ALL)

    def _anew(self) -> None:
        """Begin with a new connection, as a front-end with another guest does."""
        self._hang_up()
        self.process.revive()
        self._connect()
        if self._tables:
            os.close(self._tables[1])
            self._tables = None

    def try_features(self, features: int) -> bool:
        self._anew()
        try:
            offered = self.front.word(Request.GET_FEATURES)
            self.front.negotiate(features | LOG_ALL, _EVERY)
            extra = features & ~offered
            if extra:
                self.front.tell(Request.SET_FEATURES, U64(self.front.features | extra))
            self.front.word(Request.GET_FEATURES)
        except (Refused, PeerGone):
            return False
        return True

    def begin(self, features: int, *, queues: int = 1, size: int = 64, base: int = 0) -> None:
        self._anew()
        self.features = features & self.offered()
        self._negotiate()
        while len(self._kicks) < queues:
            self._kicks.append(event())
            self._calls.append(event())
        has_tables = ProtocolFeature.INFLIGHT_SHMFD in self.front.protocol_features
        self.keeps_requests = has_tables
        if has_tables:
            self._tables = self.front.inflight(queues, size)
            self.front.tell(Request.SET_INFLIGHT_FD, self._tables[0], [self._tables[1]])
        self.queues = []
        for index in range(queues):
            queue = lay_out(self.memory, self.place(index), size, self.features)
            self._begin_at(queue, base)
            self.queues.append(queue)
            self._start(index, base if isinstance(queue, DriverQueue) else _PACKED_BASE)

    def _negotiate(self) -> None:
        self.front.negotiate(self.features, _EVERY)
        if ProtocolFeature.CONFIGURE_MEM_SLOTS in self.front.protocol_features:
            self.front.add_region(self._region, self._shared.fd)
        else:
            self.front.share([(self._region, self._shared.fd)])

    def _start(self, index: int, base: int) -> None:
        queue = self.queues[index]
        rings = [place - RAM_BASE + UADDR for place in (queue.desc, queue.avail, queue.used)]
        self.front.start_ring(
            index, queue.size, (rings[0], rings[1], rings[2]), self._kicks[index], self._calls[index], base
        )

    def stop(self, index: int) -> int:
        """Stop a ring and return its position."""
        if self.front.features & PROTOCOL_FEATURES:
            self.front.tell(Request.SET_VRING_ENABLE, VringState(index, 0))
        return self.front.stop_ring(index)

    def start(self, index: int, base: int) -> None:
        """Start a ring again at ``base``."""
        self._start(index, base)

    def config(self, offset: int, size: int) -> bytes:
        return self.front.config(offset + size)[offset:]  # QEMU, too, always begins at 0

    def ring(self, index: int = 0) -> None:
        os.eventfd_write(self._kicks[index], 1)

    def wait(self, index: int, timeout_s: float) -> bool:
        if not select.select([self._calls[index]], [], [], timeout_s)[0]:
            return False
        os.eventfd_read(self._calls[index])
        return True

    def reset(self) -> None:
        for index in range(len(self.queues)):
            self.stop(index)

    def again(self) -> None:
        self._hang_up()
        self._connect()
        self._negotiate()
        if self._tables is not None:
            self.front.tell(Request.SET_INFLIGHT_FD, self._tables[0], [self._tables[1]])
        for index, queue in enumerate(self.queues):
            split = isinstance(queue, DriverQueue)  # a packed ring goes on where its in-flight table ends
            self._start(index, queue.load(queue.used + 2, 2) if split else _PACKED_BASE)

    def settle(self, sent: str) -> None:
        try:
            self.front.word(Request.GET_FEATURES)
            time.sleep(0.01)
            self.front.word(Request.GET_FEATURES)
        except ProtocolError:  # it hung up: allowed, as long as it lives
            self.probe(sent)

    def probe(self, sent: str) -> None:
        """Hang up, and see whether it answers somebody else or has ended in order; fail if it has crashed."""
        self._hang_up()
        try:
            with FrontEnd.connect(self.process.socket, timeout_s=2.0) as other:
                other.word(Request.GET_FEATURES)
        except ProtocolError:
            self.process.wait(2.0)
        self.process.check_alive(sent)

    def close(self) -> None:
        self._hang_up()
        self.process.close()
        self._shared.close()
        for fd in [*self._kicks, *self._calls, *([self._tables[1]] if self._tables else [])]:
            os.close(fd)


@contextmanager
def side(process: Process, runtime: Path) -> Iterator[Side]:
    """Return the driver's side of a process; the process ends with it."""
    if process.subject.is_vhost_user:
        with closing(VhostSide(process)) as vhost:
            yield vhost
    else:
        with FakeCpu(process.bus, runtime, device_id=process.device_id) as cpu, closing(BusSide(cpu, process)) as found:
            yield found
