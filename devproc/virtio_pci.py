"""The registers of a modern virtio device over PCI (virtio 1.2 §4.1), at the offsets QEMU's functions have.

``cpu_proc`` serves all reads from the page; the interrupt status, which a read clears, is the one exception.
"""

from __future__ import annotations

from typing import ClassVar

from devproc.pci import PciDevice
from devproc.registers import CONFIG, Bar, Parts, Register
from devproc.virtio_spec import NOTIFY_MULTIPLIER, CapType, capability
from devproc.virtio_transport import CONFIG_SPACE, VirtioTransport
from devproc.virtqueue import NO_VECTOR, Virtqueue

_COMMON, _ISR, _DEVICE, _NOTIFY, _WINDOW = 0x0000, 0x1000, 0x2000, 0x3000, 0x1000
_PCI_CAP = 0x40


class VirtioPci(PciDevice, VirtioTransport):
    """A virtio function without requests."""

    vendor = 0x1AF4
    revision = 1

    bar4 = Bar(0x4000, bits64=True, prefetchable=True)
    common = bar4.window(_COMMON, _WINDOW)
    places: ClassVar[Parts] = {CONFIG_SPACE: bar4.window(_DEVICE, _WINDOW)}

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

    device_feature_select.on_write(VirtioTransport.select_features)
    driver_feature_select.on_write(VirtioTransport.select_features)
    driver_feature.on_write(VirtioTransport.accept_features)
    device_status.on_write(VirtioTransport.write_status)
    queue_select.on_write(VirtioTransport.select_queue)
    queue_size.on_write(VirtioTransport.set_queue_size)
    queue_reset.on_write(VirtioTransport.write_queue_reset)

    def fit(self) -> None:
        """Derive identity and vectors."""
        self.device = 0x1040 + self.device_type
        self.subsystem = (self.vendor, 0x1100)  # QEMU's; of no meaning to a modern driver (§4.1.2.1)
        self.vectors = self.queue_count + 1

    def capabilities(self) -> dict[int, bytes]:
        """Add the vendor capabilities (virtio 1.2 §4.1.4); the access window comes first, it has registers."""
        window = capability(CapType.PCI, 0, 0, bytes(4))
        notify = capability(CapType.NOTIFY, _NOTIFY, _WINDOW, NOTIFY_MULTIPLIER.to_bytes(4, "little"))
        return super().capabilities() | {
            _PCI_CAP: window,
            0x54: capability(CapType.COMMON, _COMMON, _WINDOW),
            0x64: capability(CapType.ISR, _ISR, _WINDOW),
            0x74: capability(CapType.DEVICE, _DEVICE, _WINDOW),
            0x84: notify,
        }

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Add the doorbells: one per queue in the notify region."""
        page = self.machine.page
        page.doorbell_bar, page.doorbell_offset, page.doorbell_stride = self.bar4.index, _NOTIFY, NOTIFY_MULTIPLIER
        super().declare(places)

    def power_on(self) -> None:
        """Add the number of queues."""
        super().power_on()
        self.num_queues = self.queue_count

    def reset_transport(self) -> None:
        """Take back the vector of configuration changes."""
        self.config_msix_vector = NO_VECTOR

    # queues

    def show_queue(self) -> None:
        """Show the selected queue's record in the registers."""
        record = self.selected()
        self.queue_size = record.size if record else 0
        self.queue_msix_vector = record.vector if record else NO_VECTOR
        self.queue_enable = record.enabled if record else 0
        self.queue_notify_off = self.queue_select if record else 0
        self.queue_desc = record.desc if record else 0
        self.queue_driver = record.driver if record else 0
        self.queue_device = record.device if record else 0
        self.queue_reset = 0

    @queue_msix_vector.on_write
    def _set_queue_vector(self, value: int) -> None:
        record = self.selected()
        if record:
            record.vector = value if value < self.vectors else NO_VECTOR  # §4.1.5.1.2.1: reads back NO_VECTOR
        self.show_queue()

    @config_msix_vector.on_write
    def _set_config_vector(self, value: int) -> None:
        self.config_msix_vector = value if value < self.vectors else NO_VECTOR

    @queue_desc.on_write
    def _set_queue_desc(self, value: int) -> None:
        if record := self.configurable():
            record.desc = value
        self.show_queue()

    @queue_driver.on_write
    def _set_queue_driver(self, value: int) -> None:
        if record := self.configurable():
            record.driver = value
        self.show_queue()

    @queue_device.on_write
    def _set_queue_device(self, value: int) -> None:
        if record := self.configurable():
            record.device = value
        self.show_queue()

    @queue_enable.on_write
    def _enable_queue(self, value: int) -> None:
        if value == 1:  # §4.1.4.3.2: the driver must not write 0
            self.start_queue()

    # interrupts

    def notify(self, queue: Virtqueue) -> None:
        """Send the queue's message, or without MSI-X hold the line."""
        if not self.msix_enabled:
            super().notify(queue)
        elif queue.record.vector != NO_VECTOR:
            self.machine.message(queue.record.vector)

    def source(self, queue: Virtqueue) -> int:
        """Return the queue's vector + 1, or without MSI-X 0."""
        return (queue.record.vector + 1) & 0xFFFF if self.msix_enabled else 0

    def notify_config(self) -> None:
        """Send the message of configuration changes, or without MSI-X hold the line."""
        if not self.msix_enabled:
            super().notify_config()
        elif self.config_msix_vector != NO_VECTOR:
            self.machine.message(self.config_msix_vector)

    @isr_status.on_read
    def _read_isr(self) -> int:
        value = self.isr_status
        self.lower_isr(value)
        return value

    # the access window in configuration space (virtio 1.2 §4.1.4.9)

    def _window(self) -> tuple[int, int] | None:
        offset, size = self.pci_cfg_offset, self.pci_cfg_length
        bar = self.bar4
        if self.pci_cfg_bar != bar.index or size not in (1, 2, 4) or offset % size or offset + size > bar.size:
            self.guest_error("bad_accesses", f"window to bar={self.pci_cfg_bar} offset={offset:#x} size={size}")
            return None
        return offset, size

    @pci_cfg_data.on_read
    def _read_window(self) -> int:
        place = self._window()
        return self.read(self.bar4.index, *place) if place else 0xFFFF_FFFF

    @pci_cfg_data.on_write
    def _write_window(self, value: int) -> None:
        place = self._window()
        if place is None:
            return
        offset, size = place
        if offset >= _NOTIFY:
            self.ring((offset - _NOTIFY) // NOTIFY_MULTIPLIER)
        else:
            self.write(self.bar4.index, offset, size, value & (1 << 8 * size) - 1)
