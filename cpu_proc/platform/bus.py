"""The platform bus: plain memory-mapped devices of other processes, where QEMU's ``virt`` has its own for such.

Nothing finds these by looking; each has a node in the device tree, made of what its class declares.
"""

from __future__ import annotations

import logging

from cpu_proc import memory_map as mm
from cpu_proc.boot.fdt import Node, Value
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.platform.wired import WiredDevice
from protocol.errors import ProtocolError

logger = logging.getLogger(__name__)

EDGE_RISING = 1  # IRQ_TYPE_EDGE_RISING of device trees
SLOTS = [(mm.platform_slot(index), f"platform{index}") for index in range(mm.PLATFORM_SLOTS)]
_PROPERTIES_MAX = 64
_NAME_MAX = 31  # devicetree specification 0.4 §2.2.4.1
_MEMORY_BAR = 1
_TAKEN = {"reg", "interrupts", "interrupt-parent", "phandle"}  # the machine's to say


class PlatformDevice(WiredDevice):
    """A plain memory-mapped device of another process."""

    transport = "platform"
    place_of = staticmethod(mm.platform_slot)
    memory_at = 0
    """Where BAR 1 is if it is memory: what such a device has beside registers."""

    def bar_address(self, index: int) -> int:
        """Add the memory."""
        place = self._places.get(index)
        return self.memory_at if index == _MEMORY_BAR and place and place.memory else super().bar_address(index)

    node: dict[str, Value]
    """Properties of its node: ``compatible``, and whatever its driver wants to know."""


class Memories:
    """Where the memory of such devices is, beside that of their registers; stores that none takes are dropped."""

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._free = mm.PLATFORM_MEMORY.base

    def place(self, device: PlatformDevice) -> None:
        """Give memory of ``device`` its place, once; that which does not fit any more is nowhere."""
        memory = device.memory.get(_MEMORY_BAR)
        if memory is None or device.memory_at:
            return
        at = -(-self._free // memory.size) * memory.size
        if at + memory.size > mm.PLATFORM_MEMORY.base + mm.PLATFORM_MEMORY.size:
            logger.warning("dev=%s no room for its memory of %d bytes", device.id, memory.size)
            return
        self._free = at + memory.size
        device.memory_at = at
        self._space.add(mm.Region(at, memory.size), self, f"{device.id}-memory")

    def read(self, _offset: int, _size: int) -> int:
        """Read nothing: what there is, harts read by themselves."""
        return 0

    def write(self, _offset: int, _size: int, _value: int) -> None:
        """Drop it: the memory only reads."""


def properties(node: dict[str, object]) -> dict[str, Value]:
    """Return the properties that a device says, checked: texts, cells, lists of them, bytes; ``True`` is an empty one.

    Raises:
        ProtocolError: one cannot be in a device tree.
    """
    if len(node) > _PROPERTIES_MAX or not node.get("compatible"):
        raise ProtocolError("its node has no compatible, or too much else")
    found: dict[str, Value] = {}
    for name, value in node.items():
        if not 1 <= len(name) <= _NAME_MAX or not name.isascii() or not name.isprintable() or name in _TAKEN:
            raise ProtocolError(f"its node cannot have a property {name!r}")
        items = value if isinstance(value, list) else [value]
        good = all(
            (isinstance(item, int) and 0 <= item < 1 << 32) or (isinstance(item, str) and "\0" not in item)
            for item in items
        )
        if not good and not isinstance(value, bytes):
            raise ProtocolError(f"property {name!r} of its node is no text, cell, list of them, or bytes")
        found[name] = None if value is True else value  # type: ignore[assignment]
    return found


def add_nodes(soc: Node, devices: list[PlatformDevice], controller: int, kind: tuple[int, ...]) -> None:
    """Add a node for each device; ``controller`` and ``kind`` are as in other nodes' interrupts."""
    for device in devices:
        name = str(_first(device.node["compatible"])).rpartition(",")[2] or device.id
        node = soc.child(f"{name}@{device.region.base:x}")
        node.properties.update(device.node)
        places = [(address, size) for _, address, size in device.bars() if address] or [device.region]
        node.properties["reg"] = [word for address, size in places for word in (0, address, 0, size)]
        sense = (EDGE_RISING,) if device.calls else kind  # where the controller is told what a wire is like
        node.properties["interrupts"] = [mm.PLATFORM_IRQ + device.slot, *sense[: len(kind)]]
        node.properties["interrupt-parent"] = controller


def _first(value: Value) -> Value:
    return value[0] if isinstance(value, list) else value
