"""The registers of a virtio device over MMIO (virtio 1.2 §4.2.2), version 2, for machines and kernels without PCI.

BAR 0 is the slot's 4 KiB. All reads are served from the page. Two writes hold the hart until they have had their
effect, which drivers take for granted: of the status, since nothing is read back after a reset, and of the
acknowledgement, since a buffer used after it must raise the wire again.
"""

from __future__ import annotations

from typing import ClassVar

from devproc.registers import Bar, Parts, Register
from devproc.virtio_transport import CONFIG_SPACE, VirtioTransport

MAGIC, VERSION = 0x7472_6976, 2  # "virt"
VENDOR = 0x554D_4551  # QEMU's, which drivers print and do not look at
_CONFIG = 0x100
_LOW = 0xFFFF_FFFF


class VirtioMmio(VirtioTransport):
    """A virtio device on virtio-mmio without requests."""

    transport = "mmio"

    bar0 = Bar(0x1000)
    places: ClassVar[Parts] = {CONFIG_SPACE: bar0.window(_CONFIG, 0x1000 - _CONFIG)}

    magic_value = Register(bar0, 0x00, access="r", reset=MAGIC, doc='"virt".')
    version = Register(bar0, 0x04, access="r", reset=VERSION, doc="Version of the registers.")
    device_id = Register(bar0, 0x08, access="r", doc="Type of the device.")
    vendor_id = Register(bar0, 0x0C, access="r", reset=VENDOR, doc="Vendor.")
    device_feature = Register(bar0, 0x10, access="r", doc="Feature bits on offer.")
    device_feature_select = Register(bar0, 0x14, access="w", doc="Which 32 bits `device_feature` shows.")
    driver_feature = Register(bar0, 0x20, access="w", store=False, doc="Feature bits the driver accepts.")
    driver_feature_select = Register(bar0, 0x24, access="w", doc="Which 32 bits `driver_feature` takes.")
    queue_select = Register(bar0, 0x30, access="w", doc="Queue the following registers are about.")
    queue_num_max = Register(bar0, 0x34, access="r", doc="Most descriptors; 0 when there is no such queue.")
    queue_num = Register(bar0, 0x38, access="w", store=False, doc="Descriptors.")
    queue_ready = Register(bar0, 0x44, store=False, doc="1 starts the queue, 0 stops it.")
    queue_notify = Register(bar0, 0x50, access="w", store=False, doorbell=True, doc="Bits 0 to 15: queue to look at.")
    isr_status = Register(bar0, 0x60, access="r", doc="InterruptStatus. Bit 0 queue, bit 1 config.")
    interrupt_ack = Register(bar0, 0x64, access="w", store=False, sync=True, doc="Clears bits of `isr_status`.")
    device_status = Register(bar0, 0x70, store=False, sync=True, doc="Status; writing 0 resets.")
    queue_desc_low = Register(bar0, 0x80, access="w", store=False, doc="Descriptor table.")
    queue_desc_high = Register(bar0, 0x84, access="w", store=False, doc="Its upper half.")
    queue_driver_low = Register(bar0, 0x90, access="w", store=False, doc="Available ring.")
    queue_driver_high = Register(bar0, 0x94, access="w", store=False, doc="Its upper half.")
    queue_device_low = Register(bar0, 0xA0, access="w", store=False, doc="Used ring.")
    queue_device_high = Register(bar0, 0xA4, access="w", store=False, doc="Its upper half.")
    shm_sel = Register(bar0, 0xAC, access="w", doc="Shared memory region the following registers show.")
    shm_len_low = Register(bar0, 0xB0, access="r", reset=_LOW, doc="Its length: there is none (§4.2.2).")
    shm_len_high = Register(bar0, 0xB4, access="r", reset=_LOW, doc="Upper half.")
    shm_base_low = Register(bar0, 0xB8, access="r", reset=_LOW, doc="Its address.")
    shm_base_high = Register(bar0, 0xBC, access="r", reset=_LOW, doc="Upper half.")
    queue_reset = Register(bar0, 0xC0, store=False, doc="Write 1 to reset the queue.")
    config_generation = Register(bar0, 0xFC, access="r", doc="Changes with the config space.")

    device_feature_select.on_write(VirtioTransport.select_features)
    driver_feature_select.on_write(VirtioTransport.select_features)
    driver_feature.on_write(VirtioTransport.accept_features)
    device_status.on_write(VirtioTransport.write_status)
    queue_select.on_write(VirtioTransport.select_queue)
    queue_num.on_write(VirtioTransport.set_queue_size)
    queue_reset.on_write(VirtioTransport.write_queue_reset)
    interrupt_ack.on_write(VirtioTransport.lower_isr)

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Add the doorbell: one register, whose value says which queue."""
        page = self.machine.page
        page.doorbell_bar, page.doorbell_offset = self.registers.place(type(self).queue_notify)
        page.doorbell_stride = 0
        super().declare(places)

    def power_on(self) -> None:
        """Add the type."""
        super().power_on()
        self.device_id = self.device_type

    def show_queue(self) -> None:
        """Show the selected queue's record in the registers."""
        record = self.selected()
        self.queue_num_max = self.queue_max if record else 0
        self.queue_ready = record.enabled if record else 0
        self.queue_reset = 0

    @queue_ready.on_write
    def _set_ready(self, value: int) -> None:
        if value == 1:
            self.start_queue()
        else:
            self.stop_queue()

    @queue_notify.on_write
    def _notified(self, value: int) -> None:
        """Serve a doorbell that came as a write: from the bus, or by hand. Its upper half is NOTIFICATION_DATA's."""
        if value & 0xFFFF < self.queue_count:
            self.ring(value & 0xFFFF)

    @queue_desc_low.on_write
    def _desc_low(self, value: int) -> None:
        if record := self.configurable():
            record.desc = record.desc & ~_LOW | value

    @queue_desc_high.on_write
    def _desc_high(self, value: int) -> None:
        if record := self.configurable():
            record.desc = record.desc & _LOW | value << 32

    @queue_driver_low.on_write
    def _driver_low(self, value: int) -> None:
        if record := self.configurable():
            record.driver = record.driver & ~_LOW | value

    @queue_driver_high.on_write
    def _driver_high(self, value: int) -> None:
        if record := self.configurable():
            record.driver = record.driver & _LOW | value << 32

    @queue_device_low.on_write
    def _device_low(self, value: int) -> None:
        if record := self.configurable():
            record.device = record.device & ~_LOW | value

    @queue_device_high.on_write
    def _device_high(self, value: int) -> None:
        if record := self.configurable():
            record.device = record.device & _LOW | value << 32
