"""What a virtio device is on every transport: negotiation, queues, reset and interrupts (virtio 1.2 §2, §3).

All of it works on state in the page: ``TransportState``, one ``QueueRecord`` and one in-flight table per queue, and
the registers that every transport has under one name. Registers behind a selector are kept up to date in the page at
every write, so that ``cpu_proc`` serves all reads from it. ``virtio_pci`` and ``virtio_mmio`` declare the registers;
requests are ``devproc.virtio``'s part.
"""

from __future__ import annotations

from typing import ClassVar

from devproc import rings
from devproc.device import Device
from devproc.in_order import InOrder
from devproc.registers import Part, Parts, Register
from devproc.state import Record, Word
from devproc.virtio_spec import ISR_CONFIG, ISR_QUEUE, TRANSPORT_FEATURES, Feature, Status
from devproc.virtqueue import NO_VECTOR, QUEUE_MAX, QueueRecord, Virtqueue
from protocol.layout import DevicePage

CONFIG_SPACE = Part(0xF00, index=6)  # the device's config space; a transport says where it is

_FEATURES_OK = int(Status.FEATURES_OK)  # plain: it is looked at for frames, and an enumeration's `&` is slow


class TransportState(Record):
    """What is neither a register nor part of a queue."""

    version = Word(4, "version of the whole private state")
    queue_count = Word(4)
    driver_features = Word(8, "as written by the driver; in force once FEATURES_OK is set")


class VirtioTransport(Device):
    """A virtio device without requests, and without a place for its registers."""

    device_type: int = 0
    features: int = 0
    """Device-specific feature bits on offer; the transport's own are added."""
    withheld: int = 0
    """Features that are not offered, though the device and the transport have them."""
    bears: int = 0
    """Features that are not offered, and yet change nothing if a driver brings them from another device."""
    config_size: int = 0
    """Bytes of the device's config space."""
    device_config = CONFIG_SPACE
    places: ClassVar[Parts] = {}

    # of each transport, by these names
    device_feature_select: Register
    device_feature: Register
    driver_feature_select: Register
    driver_feature: Register
    device_status: Register
    config_generation: Register
    queue_select: Register
    isr_status: Register

    def __init__(self, *, queue_count: int, queue_size: int) -> None:
        super().__init__()
        if not self.places:
            raise TypeError(f"{type(self).__name__} is served over a transport: see VirtioDevice.over")
        if queue_size & (queue_size - 1) or not 2 <= queue_size <= QUEUE_MAX:
            raise ValueError(f"queue size {queue_size} is no power of two up to {QUEUE_MAX}")
        self.queue_count = self.doorbells = queue_count
        self.queue_max = queue_size
        self.queues: dict[int, Virtqueue] = {}
        self.stopped: set[int] = set()
        """Queues of which no request is taken now: what the host takes is full. Whoever goes on sets ``pending``."""
        self.records: list[QueueRecord] = []
        self.state: TransportState
        self._running = False
        self.fit()

    # what a transport adds

    def queue_role(self, index: int) -> str:
        """Return what a queue is for, in a word: rules of faults may say it in the place of numbers."""
        return ""

    def fit(self) -> None:
        """Derive the shape of the transport from the number of queues."""

    def show_queue(self) -> None:
        """Show the selected queue's record in the registers."""
        raise NotImplementedError

    def reset_transport(self) -> None:
        """Return the transport's own state to what it is after a reset."""

    def notify(self, queue: Virtqueue) -> None:
        """Interrupt the guest about used buffers."""
        self.raise_isr(ISR_QUEUE)

    def source(self, queue: Virtqueue) -> int:
        """Return which of the function's interrupts is the queue's: 0 the wire, 1 + vector."""
        return 0

    def notify_config(self) -> None:
        """Interrupt the guest about its config space."""
        self.raise_isr(ISR_CONFIG)

    @property
    def bus_master(self) -> bool:
        """Whether the guest lets the device reach memory."""
        return True

    # layout

    def _queue_offset(self, index: int) -> int:
        return DevicePage.STATE + 64 * (1 + index)

    def _inflight_offset(self, index: int) -> int:
        return self._queue_offset(self.queue_count) + index * rings.stride(self.queue_max)

    def state_size(self) -> int:
        """Return the bytes for transport state, queue records and in-flight tables."""
        return self._inflight_offset(self.queue_count) - DevicePage.STATE

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Add state and queue records."""
        super().declare(places)
        page = self.machine.page
        self.state = TransportState(page.shared, DevicePage.STATE)
        self.records = [QueueRecord(page.shared, self._queue_offset(i)) for i in range(self.queue_count)]

    # negotiation

    @property
    def offered(self) -> int:
        """All feature bits on offer."""
        return int(self.features | TRANSPORT_FEATURES) & ~self.withheld

    @property
    def negotiated(self) -> int:
        """Feature bits in force."""
        return self.state.driver_features if self.device_status & _FEATURES_OK else 0

    def select_features(self, _value: int) -> None:
        """Show other feature bits."""
        self._show_features()

    def _show_features(self) -> None:
        select, theirs = self.device_feature_select, self.driver_feature_select
        self.device_feature = self.offered >> 32 * select if select < 2 else 0
        self.driver_feature = self.state.driver_features >> 32 * theirs if theirs < 2 else 0

    def accept_features(self, value: int) -> None:
        """Take 32 of the bits that the driver accepts."""
        select = self.driver_feature_select
        if select >= 2 or self.device_status & Status.FEATURES_OK:
            self.guest_error("bad_accesses", "driver_feature written too late or beyond bit 63")
            return
        kept = self.state.driver_features & ~(0xFFFF_FFFF << 32 * select)
        self.state.driver_features = kept | value << 32 * select
        self._show_features()

    def write_status(self, value: int) -> None:
        """Go on with initialisation, as far as the device agrees (virtio 1.2 §3.1), or reset."""
        if value == 0:
            self.drain()
            self.reset_all()
            return
        before = Status(self.device_status)
        after = Status(value) | before & Status.NEEDS_RESET
        if after & Status.FEATURES_OK and not before & Status.FEATURES_OK and not self._features_acceptable():
            after &= ~Status.FEATURES_OK  # §3.1.1 step 6: the driver reads it back
        if not after & Status.FEATURES_OK:
            after &= ~Status.DRIVER_OK
        self.device_status = after
        if after & Status.DRIVER_OK and not self._running:
            self._running = True
            for queue in self.queues.values():
                self._set_up(queue)
            self.pending.update(self.queues)
        elif not after & Status.DRIVER_OK:
            self._running = False

    def _features_acceptable(self) -> bool:
        chosen = self.state.driver_features
        return bool(chosen & Feature.VERSION_1) and not chosen & ~self.offered

    def reset_all(self) -> None:
        """Do what a status of 0 asks for (virtio 1.2 §2.4); no host I/O is under way."""
        self._running = False
        self.queues.clear()
        self.pending.clear()
        for record in self.records:
            self._reset_queue(record)
        self.state.driver_features = 0
        self.device_feature_select = self.driver_feature_select = self.queue_select = 0
        self.reset_transport()
        self._show_features()
        self.show_queue()
        self.isr_status = 0
        self.line(False)
        self.device_status = 0  # last: a killed reset is done again, because the write is sent again

    def _reset_queue(self, record: QueueRecord) -> None:
        record.clear()
        record.size = self.queue_max
        record.vector = NO_VECTOR

    # queues

    def select_queue(self, _value: int) -> None:
        """Show another queue."""
        self.show_queue()

    def selected(self) -> QueueRecord | None:
        """Return the record of the selected queue."""
        index = self.queue_select
        return self.records[index] if index < self.queue_count else None

    def configurable(self) -> QueueRecord | None:
        """Return it while the queue is not enabled; otherwise the write is the guest's mistake."""
        record = self.selected()
        if record is None or record.enabled:
            self.guest_error("bad_accesses", "queue register written for no queue or an enabled one")
            return None
        return record

    def set_queue_size(self, value: int) -> None:
        """Take the number of descriptors."""
        record = self.configurable()
        if record and value <= self.queue_max and rings.kind(self.negotiated).fits(value):
            record.size = value
        self.show_queue()

    def start_queue(self) -> None:
        """Enable the selected queue."""
        index, record = self.queue_select, self.configurable()
        if record is None:
            return
        queue = self._make_queue(index)
        queue.start()
        record.enabled = 1
        self.show_queue()
        if queue.broken:
            self.needs_reset(queue.broken)
        elif self._running:
            self.pending.add(index)

    def stop_queue(self) -> None:
        """Disable the selected queue and forget its rings; no host I/O is under way in it afterwards."""
        record = self.selected()
        if record:
            self.drain()
            self.queues.pop(self.queue_select, None)
            self._reset_queue(record)
        self.show_queue()

    def write_queue_reset(self, value: int) -> None:
        """Reset a queue (virtio 1.2 §2.6.1)."""
        if value == 1 and self.negotiated & Feature.RING_RESET:
            self.stop_queue()
        else:
            self.show_queue()

    def _make_queue(self, index: int) -> Virtqueue:
        table = self.shared, self._inflight_offset(index)
        queue = rings.make_queue(self.negotiated, index, self.machine.memory, self.records[index], table)
        self._set_up(queue)
        self.queues[index] = queue
        return queue

    def _set_up(self, queue: Virtqueue) -> None:
        queue.event_idx = bool(self.negotiated & Feature.RING_EVENT_IDX)
        queue.indirect = bool(self.negotiated & Feature.RING_INDIRECT_DESC)
        if self.negotiated & Feature.IN_ORDER and queue.order is None:
            queue.order = InOrder()

    # interrupts

    def raise_isr(self, bits: int) -> None:
        """Set bits of the interrupt status, and hold the wire."""
        self.isr_status |= bits
        self.line(True)

    def lower_isr(self, bits: int) -> None:
        """Clear bits of the interrupt status; without any the wire goes down."""
        self.isr_status &= ~bits
        self.line(bool(self.isr_status))

    def config_changed(self) -> None:
        """Tell the driver that the config space has changed (virtio 1.2 §2.5)."""
        self.config_generation = self.config_generation + 1
        if self._running:
            self.notify_config()

    def needs_reset(self, reason: str) -> None:
        """Give up until the driver resets the device (virtio 1.2 §2.1.2)."""
        self.guest_error("bad_rings", reason)
        if not self.device_status & Status.NEEDS_RESET:
            self.device_status |= Status.NEEDS_RESET
            if self._running:
                self.notify_config()
