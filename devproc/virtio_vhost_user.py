"""A virtio device over vhost-user: the front-end, in another process, has the registers, and this is what is left.

The page is this process's own and holds config space and queue records; the front-end tells where rings and memory
are. ``devproc.vhost_session`` understands the messages and calls the methods here; notifications go out by ``on_used``,
``on_config`` and ``on_broken``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from devproc import rings
from devproc.registers import Bar, Parts, Register
from devproc.virtio_spec import Feature, Status
from devproc.virtio_transport import CONFIG_SPACE, VirtioTransport
from devproc.virtqueue import QUEUE_MAX, QueueRecord, Virtqueue
from protocol.errors import Malformed
from protocol.layout import DevicePage
from protocol.memory import GuestMemory, Shared

_CONFIG, _STATE = 0x0000, 0x1000
QueueMaker = Callable[[int, int, GuestMemory, QueueRecord, tuple[Shared, int]], Virtqueue]


class VirtioVhostUser(VirtioTransport):
    """A virtio device without requests, and without registers that a guest could reach."""

    transport = "vhost-user"

    bar0 = Bar(0x2000)
    places: ClassVar[Parts] = {CONFIG_SPACE: bar0.window(_CONFIG, 0x1000)}

    device_feature_select = Register(bar0, _STATE + 0x00, doc="Of no meaning here, as all but status and generation.")
    device_feature = Register(bar0, _STATE + 0x04, access="r", doc="Feature bits on offer.")
    driver_feature_select = Register(bar0, _STATE + 0x08, doc="Which 32 bits are shown.")
    driver_feature = Register(bar0, _STATE + 0x0C, access="r", doc="Feature bits accepted.")
    device_status = Register(bar0, _STATE + 0x10, access="r", doc="Status.")
    config_generation = Register(bar0, _STATE + 0x14, access="r", doc="Changes with the config space.")
    queue_select = Register(bar0, _STATE + 0x18, doc="Queue that is shown.")
    isr_status = Register(bar0, _STATE + 0x1C, access="r", doc="Interrupt status.")

    on_used: Callable[[int], None]
    """Tells the front-end that a queue has used buffers."""
    on_config: Callable[[], None]
    """Tells it that the config space has changed."""
    on_broken: Callable[[int], None]
    """Tells it that a queue is of no more use."""

    def fit(self) -> None:
        """Begin with nobody to tell anything."""
        self.on_used = lambda _index: None
        self.on_config = lambda: None
        self.on_broken = lambda _index: None

    def _inflight_offset(self, index: int) -> int:
        """Leave room for the longest ring: it is the front-end that decides."""
        first = DevicePage.STATE + 64 * (1 + self.queue_count)
        return first + index * rings.stride(QUEUE_MAX)

    @property
    def offered(self) -> int:
        """All feature bits on offer, but two: the front-end resets queues by stopping them, and a kick has no data."""
        return super().offered & ~int(Feature.RING_RESET | Feature.NOTIFICATION_DATA)

    def show_queue(self) -> None:
        """Show nothing: nobody looks."""

    # what the front-end asks for

    def accept(self, features: int) -> None:
        """Take the features that the driver has accepted.

        Raises:
            Malformed: there are others among them than were offered.
        """
        if features & ~self.offered:
            raise Malformed(f"features {features & ~self.offered:#x} were not offered")
        self.state.driver_features = features
        self.device_status |= Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
        for queue in self.queues.values():
            self._set_up(queue)

    def start_ring(
        self,
        index: int,
        size: int,
        places: tuple[int, int, int],
        base: int,
        table: tuple[Shared, int] | None,
        make: QueueMaker = rings.make_queue,
    ) -> None:
        """Serve a ring from position ``base`` on; or go on from the in-flight table that a predecessor left.

        ``places`` are the guest addresses of descriptor, driver and device area; ``table`` is where in memory of the
        front-end the in-flight table is. The queue is what ``make`` returns.
        """
        record = self.records[index]
        record.clear()
        record.size = size
        record.desc, record.driver, record.device = places
        own = self.shared, self._inflight_offset(index)  # which ends with the process
        queue = make(self.negotiated, index, self.machine.memory, record, table or own)
        self._set_up(queue)
        self.queues[index] = queue
        record.enabled = 1
        self._running = True
        if table is not None and queue.left_behind:
            self.counters["replayed"] += queue.recover()
        else:
            queue.start(base)
        if queue.broken:
            self.needs_reset(queue.broken)
            self.on_broken(index)

    def stop_ring(self, index: int) -> int:
        """Finish what is under way and forget the ring; return the next position in its available ring."""
        self.hurry()
        self.drain()
        if self.faults is not None and index in self.queues:
            self.faults.requests.hurry(self.queues[index])
        base = self.queues.pop(index).position
        self._reset_queue(self.records[index])
        return base

    def refresh(self) -> None:
        """Look again at what the host provides."""

    @property
    def front_end_queues(self) -> int:
        """What is answered to the question how many queues there are."""
        return self.queue_count

    def ring_enabled(self, index: int, enabled: bool) -> None:
        """Note that the front-end lets a ring be served, or not: nothing is put into it on the device's own account."""

    def hurry(self) -> None:
        """Start what the device holds back for a policy of its own."""

    def claim(self) -> None:
        """Take what only one process may use: a ring is about to start. Raises ``HostError``."""

    def unclaim(self) -> None:
        """Give it up: no ring runs any more."""

    def set_status(self, value: int) -> None:
        """Take the driver's status; 0 is a reset."""
        if value == 0:
            self.drain()
            self.reset_all()
        else:
            kept = self.device_status & (Status.NEEDS_RESET | Status.FEATURES_OK)
            self.device_status = value & 0xFF & ~Status.FEATURES_OK | kept

    # what it is told

    def notify(self, queue: Virtqueue) -> None:
        """Tell that buffers are used."""
        if self.faults is None or self.faults.signals.message(queue.index, self.on_used):
            self.on_used(queue.index)

    def notify_config(self) -> None:
        """Tell that the config space has changed."""
        self.on_config()

    def needs_reset(self, reason: str) -> None:
        """Give up until the front-end stops the rings that are broken."""
        self.guest_error("bad_rings", reason)
        for index, queue in self.queues.items():
            if queue.broken:
                self.on_broken(index)
