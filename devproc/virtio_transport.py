"""The registers of a modern virtio device over PCI (virtio 1.2 §4.1), at the offsets QEMU's functions have.

Negotiation, queue set-up, interrupts and reset, all of it on state in the page: ``TransportState``, one
``QueueRecord`` and one in-flight table per queue, and the register images. Registers behind a selector are kept up to
date in the page at every write, so that ``cpu_proc`` serves all reads from it; the interrupt status, which a read
clears, is the one exception. Requests are ``devproc.virtio``'s part.
"""

from __future__ import annotations

from devproc.inflight import InflightTable
from devproc.pci import PciDevice
from devproc.registers import CONFIG, Bar, Register
from devproc.state import Record, Word
from devproc.virtio_spec import (
    ISR_CONFIG,
    ISR_QUEUE,
    NOTIFY_MULTIPLIER,
    TRANSPORT_FEATURES,
    CapType,
    Feature,
    Status,
    capability,
)
from devproc.virtqueue import NO_VECTOR, QUEUE_MAX, QueueRecord, Virtqueue
from protocol.layout import DevicePage

NOTIFY = 0x3000
_COMMON, _ISR, _DEVICE, _WINDOW = 0x0000, 0x1000, 0x2000, 0x1000
_PCI_CAP = 0x40


class TransportState(Record):
    """What is neither a register nor part of a queue."""

    version = Word(4, "version of the whole private state")
    queue_count = Word(4)
    driver_features = Word(8, "as written by the driver; in force once FEATURES_OK is set")


class VirtioTransport(PciDevice):
    """A virtio function without requests."""

    device_type: int = 0
    features: int = 0
    """Device-specific feature bits on offer; the transport's own are added."""
    config_size: int = 0
    """Bytes of the device's config space."""

    vendor = 0x1AF4
    revision = 1

    bar4 = Bar(0x4000, bits64=True, prefetchable=True)
    common = bar4.window(_COMMON, _WINDOW)
    device_config = bar4.window(_DEVICE, _WINDOW)

    device_feature_select = Register(common, 0x00, doc="Which 32 bits `device_feature` shows.")
    device_feature = Register(common, 0x04, access="r", doc="Feature bits on offer.")
    driver_feature_select = Register(common, 0x08, doc="Which 32 bits `driver_feature` shows.")
    driver_feature = Register(common, 0x0C, store=False, doc="Feature bits the driver accepts.")
    config_msix_vector = Register(common, 0x10, width=2, store=False, reset=NO_VECTOR, doc="Config-change vector.")
    num_queues = Register(common, 0x12, width=2, access="r", doc="Queues.")
    device_status = Register(common, 0x14, width=1, store=False, doc="Status; writing 0 resets.")
    config_generation = Register(common, 0x15, width=1, access="r", doc="Changes with the config space.")
    queue_select = Register(common, 0x16, width=2, doc="Queue the following registers show.")
    queue_size = Register(common, 0x18, width=2, store=False, doc="Descriptors; 0 when there is no such queue.")
    queue_msix_vector = Register(common, 0x1A, width=2, store=False, doc="Vector of the queue.")
    queue_enable = Register(common, 0x1C, width=2, store=False, doc="Write 1 to start the queue.")
    queue_notify_off = Register(common, 0x1E, width=2, access="r", doc="Doorbell of the queue.")
    queue_desc = Register(common, 0x20, width=8, store=False, doc="Descriptor table.")
    queue_driver = Register(common, 0x28, width=8, store=False, doc="Available ring.")
    queue_device = Register(common, 0x30, width=8, store=False, doc="Used ring.")
    queue_notify_data = Register(common, 0x38, width=2, access="r", doc="Without NOTIF_CONFIG_DATA: 0.")
    queue_reset = Register(common, 0x3A, width=2, store=False, doc="Write 1 to reset the queue.")
    isr_status = Register(bar4, _ISR, width=1, access="r", doc="Bit 0 queue, bit 1 config. Reading clears.")

    pci_cfg_bar = Register(CONFIG, _PCI_CAP + 4, width=1, doc="Window: BAR.")
    pci_cfg_offset = Register(CONFIG, _PCI_CAP + 8, doc="Window: offset.")
    pci_cfg_length = Register(CONFIG, _PCI_CAP + 12, doc="Window: size of the access.")
    pci_cfg_data = Register(CONFIG, _PCI_CAP + 16, store=False, doc="Window: the access.")

    def __init__(self, *, queue_count: int, queue_size: int) -> None:
        super().__init__()
        if queue_size & (queue_size - 1) or not 2 <= queue_size <= QUEUE_MAX:
            raise ValueError(f"queue size {queue_size} is no power of two up to {QUEUE_MAX}")
        self.device = 0x1040 + self.device_type
        self.subsystem = (self.vendor, 0x1100)  # QEMU's; of no meaning to a modern driver (§4.1.2.1)
        self.queue_count = self.doorbells = queue_count
        self.queue_max = queue_size
        self.vectors = queue_count + 1
        self.queues: dict[int, Virtqueue] = {}
        self.records: list[QueueRecord] = []
        self.state: TransportState
        self._running = False

    # layout

    def capabilities(self) -> dict[int, bytes]:
        """Add the vendor capabilities (virtio 1.2 §4.1.4); the access window comes first, it has registers."""
        window = capability(CapType.PCI, 0, 0, bytes(4))
        notify = capability(CapType.NOTIFY, NOTIFY, _WINDOW, NOTIFY_MULTIPLIER.to_bytes(4, "little"))
        return super().capabilities() | {
            _PCI_CAP: window,
            0x54: capability(CapType.COMMON, _COMMON, _WINDOW),
            0x64: capability(CapType.ISR, _ISR, _WINDOW),
            0x74: capability(CapType.DEVICE, _DEVICE, _WINDOW),
            0x84: notify,
        }

    def _queue_offset(self, index: int) -> int:
        return DevicePage.STATE + 64 * (1 + index)

    def _inflight_offset(self, index: int) -> int:
        stride = -(-InflightTable.size(self.queue_max) // 64) * 64
        return self._queue_offset(self.queue_count) + index * stride

    def state_size(self) -> int:
        """Return the bytes for transport state, queue records and in-flight tables."""
        return self._inflight_offset(self.queue_count) - DevicePage.STATE

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Add the doorbells: one per queue in the notify region."""
        page = self.machine.page
        page.doorbell_bar, page.doorbell_offset, page.doorbell_stride = 4, NOTIFY, NOTIFY_MULTIPLIER
        super().declare(places)
        self.state = TransportState(page.shared, DevicePage.STATE)
        self.records = [QueueRecord(page.shared, self._queue_offset(i)) for i in range(self.queue_count)]

    # negotiation

    @property
    def offered(self) -> int:
        """All feature bits on offer."""
        return int(self.features | TRANSPORT_FEATURES)

    @property
    def negotiated(self) -> int:
        """Feature bits in force."""
        return self.state.driver_features if self.device_status & Status.FEATURES_OK else 0

    @device_feature_select.on_write
    @driver_feature_select.on_write
    def _select_features(self, _value: int) -> None:
        self._show_features()

    def _show_features(self) -> None:
        select, theirs = self.device_feature_select, self.driver_feature_select
        self.device_feature = self.offered >> 32 * select if select < 2 else 0
        self.driver_feature = self.state.driver_features >> 32 * theirs if theirs < 2 else 0

    @driver_feature.on_write
    def _accept_features(self, value: int) -> None:
        select = self.driver_feature_select
        if select >= 2 or self.device_status & Status.FEATURES_OK:
            self.guest_error("bad_accesses", "driver_feature written too late or beyond bit 63")
            return
        kept = self.state.driver_features & ~(0xFFFF_FFFF << 32 * select)
        self.state.driver_features = kept | value << 32 * select
        self._show_features()

    @device_status.on_write
    def _set_status(self, value: int) -> None:
        if value == 0:
            self.drain()
            self._reset_transport()
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

    def _reset_transport(self) -> None:
        """Do what a status of 0 asks for (virtio 1.2 §2.4); no host I/O is under way."""
        self._running = False
        self.queues.clear()
        self.pending.clear()
        for record in self.records:
            self._reset_queue(record)
        self.state.driver_features = 0
        self.device_feature_select = self.driver_feature_select = self.queue_select = 0
        self.config_msix_vector = NO_VECTOR
        self._show_features()
        self._show_queue()
        self.isr_status = 0
        self.line(False)
        self.device_status = 0  # last: a killed reset is done again, because the write is sent again

    def _reset_queue(self, record: QueueRecord) -> None:
        record.clear()
        record.size = self.queue_max
        record.vector = NO_VECTOR

    # queues

    @queue_select.on_write
    def _select_queue(self, _value: int) -> None:
        self._show_queue()

    def _selected(self) -> QueueRecord | None:
        index = self.queue_select
        return self.records[index] if index < self.queue_count else None

    def _show_queue(self) -> None:
        """Show the selected queue's record in the registers."""
        record = self._selected()
        self.queue_size = record.size if record else 0
        self.queue_msix_vector = record.vector if record else NO_VECTOR
        self.queue_enable = record.enabled if record else 0
        self.queue_notify_off = self.queue_select if record else 0
        self.queue_desc = record.desc if record else 0
        self.queue_driver = record.driver if record else 0
        self.queue_device = record.device if record else 0
        self.queue_reset = 0

    def _configurable(self) -> QueueRecord | None:
        record = self._selected()
        if record is None or record.enabled:
            self.guest_error("bad_accesses", "queue register written for no queue or an enabled one")
            return None
        return record

    @queue_size.on_write
    def _set_queue_size(self, value: int) -> None:
        record = self._configurable()
        if record and value & (value - 1) == 0 and 2 <= value <= self.queue_max:
            record.size = value
        self._show_queue()

    @queue_msix_vector.on_write
    def _set_queue_vector(self, value: int) -> None:
        record = self._selected()
        if record:
            record.vector = value if value < self.vectors else NO_VECTOR  # §4.1.5.1.2.1: reads back NO_VECTOR
        self._show_queue()

    @config_msix_vector.on_write
    def _set_config_vector(self, value: int) -> None:
        self.config_msix_vector = value if value < self.vectors else NO_VECTOR

    @queue_desc.on_write
    def _set_queue_desc(self, value: int) -> None:
        if record := self._configurable():
            record.desc = value
        self._show_queue()

    @queue_driver.on_write
    def _set_queue_driver(self, value: int) -> None:
        if record := self._configurable():
            record.driver = value
        self._show_queue()

    @queue_device.on_write
    def _set_queue_device(self, value: int) -> None:
        if record := self._configurable():
            record.device = value
        self._show_queue()

    @queue_enable.on_write
    def _enable_queue(self, value: int) -> None:
        index, record = self.queue_select, self._configurable()
        if record is None or value != 1:  # §4.1.4.3.2: the driver must not write 0
            return
        queue = self._make_queue(index)
        queue.start()
        record.enabled = 1
        self._show_queue()
        if queue.broken:
            self.needs_reset(queue.broken)
        elif self._running:
            self.pending.add(index)

    @queue_reset.on_write
    def _queue_reset(self, value: int) -> None:
        record = self._selected()
        if record and value == 1 and self.negotiated & Feature.RING_RESET:
            self.drain()
            self.queues.pop(self.queue_select, None)
            self._reset_queue(record)
        self._show_queue()

    def _make_queue(self, index: int) -> Virtqueue:
        inflight = InflightTable(self.shared, self._inflight_offset(index))
        queue = Virtqueue(index, self.machine.memory, self.records[index], inflight)
        self._set_up(queue)
        self.queues[index] = queue
        return queue

    def _set_up(self, queue: Virtqueue) -> None:
        queue.event_idx = bool(self.negotiated & Feature.RING_EVENT_IDX)
        queue.indirect = bool(self.negotiated & Feature.RING_INDIRECT_DESC)

    # interrupts

    def _notify(self, queue: Virtqueue) -> None:
        if self.msix_enabled:
            vector = queue.record.vector
            if vector != NO_VECTOR:
                self.machine.message(vector)
        else:
            self._raise_isr(ISR_QUEUE)

    def _notify_config(self) -> None:
        if self.msix_enabled:
            if self.config_msix_vector != NO_VECTOR:
                self.machine.message(self.config_msix_vector)
        else:
            self._raise_isr(ISR_CONFIG)

    def _raise_isr(self, bits: int) -> None:
        self.isr_status |= bits
        self.line(True)

    @isr_status.on_read
    def _read_isr(self) -> int:
        value = self.isr_status
        self.isr_status = 0
        self.line(False)
        return value

    def config_changed(self) -> None:
        """Tell the driver that the config space has changed (virtio 1.2 §2.5)."""
        self.config_generation = self.config_generation + 1
        if self._running:
            self._notify_config()

    def needs_reset(self, reason: str) -> None:
        """Give up until the driver resets the device (virtio 1.2 §2.1.2)."""
        self.guest_error("bad_rings", reason)
        if not self.device_status & Status.NEEDS_RESET:
            self.device_status |= Status.NEEDS_RESET
            if self._running:
                self._notify_config()
