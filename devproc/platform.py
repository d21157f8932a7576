"""A plain memory-mapped device: registers at a place, one wire, and a node in the device tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from devproc.device import Device, Property


class PlatformDevice(Device):
    """Base of such devices: declare ``compatible``, ``bar0`` of up to 1 MiB and its registers."""

    transport = "platform"

    compatible: ClassVar[tuple[str, ...]] = ()
    """What drivers look for, the most specific first: ``("acme,timer-2", "acme,timer")``."""
    properties: ClassVar[Mapping[str, Property]] = {}
    """What else the driver wants to find in the node."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.compatible:
            raise TypeError(f"{cls.__name__} has no compatible: no driver would find it")
        if 0 not in {bar.index for bar in cls.registers.bars()}:
            raise TypeError(f"{cls.__name__} has no register in a bar0")

    def device_tree(self) -> dict[str, Property]:
        """Return its node, less what the machine decides: place and interrupt."""
        return {"compatible": list(self.compatible), **self.properties}
