"""Constants and structures of the virtio 1.2 specification, by its names."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Status(IntFlag):
    """Device status bits (virtio 1.2 §2.1)."""

    ACKNOWLEDGE = 1  # the guest has found the device
    DRIVER = 2  # it knows how to drive it
    DRIVER_OK = 4  # the driver is ready
    FEATURES_OK = 8  # the device accepts the driver's choice of features
    NEEDS_RESET = 64  # the device gave up
    FAILED = 128  # the driver gave up


class Feature(IntFlag):
    """Feature bits of every device (virtio 1.2 §6)."""

    RING_INDIRECT_DESC = 1 << 28
    RING_EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    NOTIFICATION_DATA = 1 << 38
    RING_RESET = 1 << 40


class CapType(IntEnum):
    """Types of the vendor capabilities (virtio 1.2 §4.1.4)."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5


ISR_QUEUE, ISR_CONFIG = 1, 2  # §4.1.4.5
NOTIFY_MULTIPLIER = 4

TRANSPORT_FEATURES = int(  # a plain int: ~ of an IntFlag knows only the flag's own bits
    Feature.RING_INDIRECT_DESC
    | Feature.RING_EVENT_IDX
    | Feature.VERSION_1
    | Feature.RING_PACKED
    | Feature.NOTIFICATION_DATA
    | Feature.RING_RESET
)


def capability(kind: CapType, offset: int, length: int, extra: bytes = b"") -> bytes:
    """Return ``struct virtio_pci_cap`` (virtio 1.2 §4.1.4)."""
    bar = 0 if kind is CapType.PCI else 4
    head = bytes([0x09, 0, 16 + len(extra), kind, bar, 0, 0, 0])
    return head + offset.to_bytes(4, "little") + length.to_bytes(4, "little") + extra
