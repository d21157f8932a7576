"""How a virtio device goes on from another that served the same driver: features, rings, config space (virtio 1.2 §2).

The driver has chosen features, made rings and read config space; all of that was with the device of before, and must
hold for the one that comes. Requests are not under way in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from devproc.before import Before
from devproc.virtio_spec import Feature, Status
from devproc.virtio_transport import CONFIG_SPACE
from protocol.errors import VersionMismatch
from protocol.layout import CONFIG_BAR

if TYPE_CHECKING:
    from devproc.virtio import VirtioDevice


@dataclass(frozen=True)
class Limit:
    """A field of the config space that the driver keeps to: it must not have got smaller, or with ``exact`` differ."""

    name: str
    offset: int
    width: int
    features: int = 0
    """It counts if one of these is in force; 0: always."""
    exact: bool = False


_FIRST_ID = 0x1040
_BLK_DISCARD, _BLK_ZEROES, _BLK_SECURE = 1 << 13, 1 << 14, 1 << 16
LIMITS: dict[int, tuple[Limit, ...]] = {
    2: (  # §5.2.4; topology is advice, geometry is nobody's
        Limit("capacity", 0x00, 8, exact=True),
        Limit("size_max", 0x08, 4, 1 << 1),
        Limit("seg_max", 0x0C, 4, 1 << 2),
        Limit("blk_size", 0x14, 4, 1 << 6, exact=True),
        Limit("num_queues", 0x22, 2, 1 << 12),
        Limit("max_discard_sectors", 0x24, 4, _BLK_DISCARD),
        Limit("max_discard_seg", 0x28, 4, _BLK_DISCARD),
        Limit("max_write_zeroes_sectors", 0x30, 4, _BLK_ZEROES),
        Limit("max_write_zeroes_seg", 0x34, 4, _BLK_ZEROES),
    ),
}
"""By type of device. Of other types the whole config space must be the same."""
SETTINGS: dict[int, tuple[Limit, ...]] = {2: (Limit("writeback", 0x20, 1, 1 << 11),)}
"""By type of device, what the driver itself has stored in the config space."""
NAMES = {
    2: {1: "SIZE_MAX", 2: "SEG_MAX", 4: "GEOMETRY", 5: "RO", 6: "BLK_SIZE", 9: "FLUSH", 10: "TOPOLOGY",
        11: "CONFIG_WCE", 12: "MQ", 13: "DISCARD", 14: "WRITE_ZEROES", 16: "SECURE_ERASE"},
}  # fmt: skip


def feature_names(bits: int, device_type: int) -> str:
    """Return the names of features, for people."""
    own = NAMES.get(device_type, {})
    common = {feature.value.bit_length() - 1: str(feature.name) for feature in Feature}
    found = [bit for bit in range(64) if bits >> bit & 1]
    return ", ".join(f"{own.get(bit) or common.get(bit) or 'feature'} (bit {bit})" for bit in found)


def _type_of(device: VirtioDevice, before: Before) -> int:
    """Return the type that the driver knows: a register, or part of the PCI function's identity (§4.1.2.1)."""
    if device.transport == "pci":
        return int.from_bytes(before.bar(CONFIG_BAR)[2:4], "little") - _FIRST_ID
    return before["device_id"]


def in_force(before: Before) -> int:
    """Return the features that the driver and the device of before have agreed on."""
    return before["state.driver_features"] if before["device_status"] & Status.FEATURES_OK else 0


def check(device: VirtioDevice, before: Before) -> None:
    """Say whether a virtio device of another class can go on.

    Raises:
        VersionMismatch: it cannot; the message says why.
    """
    if "state.driver_features" not in before or "device_status" not in before:
        raise VersionMismatch("a virtio device cannot go on from one that is none")
    had = _type_of(device, before)
    if had != device.device_type:
        raise VersionMismatch(f"it is a virtio device of type {device.device_type}, the one of before was of {had}")
    if before["state.queue_count"] != device.queue_count:
        raise VersionMismatch(
            f"it has {device.queue_count} queues where there were {before['state.queue_count']}", hint="--set queues=N"
        )
    missing = in_force(before) & ~(device.offered | device.bears)
    if missing:
        raise VersionMismatch(
            f"the guest uses what it does not offer: {feature_names(missing, device.device_type)}",
            hint="the key `without` keeps features from the guest, for a device that is to be swapped",
        )
    for index in range(device.queue_count):
        size = before[f"records.{index}.size"]
        if size > device.queue_max:
            raise VersionMismatch(
                f"queue {index} has {size} descriptors, it takes {device.queue_max}", hint=f"--set queue-size={size}"
            )


def check_space(device: VirtioDevice, before: Before) -> None:
    """Compare the config space that the driver has read with the one that ``device`` shows in its page.

    Raises:
        VersionMismatch: the driver would have to know.
    """
    had, has = _space(device, before), device.shared.bytes(device.images[CONFIG_SPACE.index], device.config_size)
    limits = LIMITS.get(device.device_type)
    if limits is None:
        if had[: len(has)] != has:
            raise VersionMismatch("its config space is another")
        return
    features = in_force(before)
    for limit in limits:
        if limit.features and not features & limit.features:
            continue
        at = slice(limit.offset, limit.offset + limit.width)
        old, new = (int.from_bytes(space[at], "little") for space in (had, has))
        if old != new and (limit.exact or old > new):
            raise VersionMismatch(f"its {limit.name} is {new}, the guest was told {old}")


def settings(device: VirtioDevice, before: Before) -> list[tuple[int, bytes]]:
    """Return what the driver has stored in the config space: offsets and bytes."""
    had, features = _space(device, before), in_force(before)
    rows = [row for row in SETTINGS.get(device.device_type, ()) if features & row.features]
    return [(row.offset, had[row.offset : row.offset + row.width]) for row in rows]


def _space(device: VirtioDevice, before: Before) -> bytes:
    window = device.places[CONFIG_SPACE]
    return before.bar(window.bar.index)[window.base :][:0x100]


def begin_rings(device: VirtioDevice, before: Before) -> None:
    """Have queues go on where another kind of device has left the rings, in which nothing is under way.

    Raises:
        VersionMismatch: there is something.
    """
    tables = device.tables()
    for index, record in enumerate(device.records):
        if not record.enabled:
            continue
        name = f"inflight.{index}"
        content = before.table(name)
        if content is not None and name in tables and len(content) == tables[name][1]:
            continue  # it was taken over
        if in_force(before) & Feature.RING_PACKED:
            raise VersionMismatch(f"queue {index} is packed, and only a table of the same size tells where it goes on")
        if device.machine.memory.load(record.device + 2, 2) != record.last_avail:
            raise VersionMismatch(f"queue {index} has requests under way")
        if name in tables:
            device.begin(index, record.last_avail)
