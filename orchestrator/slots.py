"""Which slot of its bus each device gets: pure, and the same whenever the same file is read.

A slot of PCI has eight functions. Devices without an address have slots of their own, in the order of the file, as long
as there are enough; when there are not, the last of them share slots, so that those before stay where they are and a
guest still finds all in the order of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from orchestrator import schema

_ADDRESS = re.compile(r"(?:00:)?([0-9a-f]{1,2})(?:\.([0-7]))?", re.IGNORECASE)
_Function = tuple[int, int]


class Placed(Protocol):
    """What is put somewhere; ``addr`` is empty where that is left to us."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def bus(self) -> str:
        """One of ``schema.SLOTS``."""

    @property
    def addr(self) -> str:
        """Slot and function, in hexadecimal."""


class Misplaced(Exception):
    """Device ``index`` cannot be where it is to be; ``key`` says so, or nothing does."""

    def __init__(self, index: int, key: str, text: str, hint: str | None = None) -> None:
        super().__init__(text)
        self.index, self.key, self.text, self.hint = index, key, text, hint


def assign(devices: Sequence[Placed], ports: int) -> list[str]:
    """Return the slot of each device, as ``cpu_proc --device`` takes it; ``ports`` have slots of PCI too.

    Raises:
        Misplaced: an address is none or not free, or there is no slot left.
    """
    asked = _asked(devices, range(schema.FIRST_PORT, schema.FIRST_PORT + ports))
    taken = {slot for slot, _ in asked.values()}
    kept = range(schema.FIRST_PORT, schema.FIRST_PORT + ports)
    free = [slot for slot in schema.SLOTS["pci"] if slot not in taken and slot not in kept]
    left = sum(device.bus == "pci" for device in devices) - len(asked)
    functions = _spread(free, left)
    others = {bus: iter(slots) for bus, slots in schema.SLOTS.items()}
    found = []
    for index, device in enumerate(devices):
        if device.bus == "pci":
            place = asked.get(index) or next(functions, None)
            text = "" if place is None else f"{place[0]}.{place[1]}" if place[1] else str(place[0])
        else:
            number = next(others[device.bus], None)
            text = "" if number is None else f"{device.bus}{number}"
        if not text:
            raise Misplaced(index, "", _no_slot_left(device.bus, len(free), len(asked), ports))
        found.append(text)
    return found


def _no_slot_left(bus: str, free: int, asked: int, ports: int) -> str:
    if bus != "pci":
        return f"no slot left: {len(schema.SLOTS[bus])} devices on {bus} at most"
    beside = [f"{asked} with addr"] * bool(asked) + [f"{ports} ports"] * bool(ports)
    text = f"no slot left: {free * schema.FUNCTIONS} devices on pci at most"
    return f"{text} beside {' and '.join(beside)}" if beside else text


def _asked(devices: Sequence[Placed], ports: range) -> dict[int, _Function]:
    """Return the functions that addresses name, by the index of the device."""
    found: dict[int, _Function] = {}
    owners: dict[_Function, str] = {}
    for index, device in enumerate(devices):
        if not device.addr:
            continue
        if device.bus != "pci":
            raise Misplaced(index, "addr", f"is of PCI bus 0, and the device is on {device.bus}", 'bus = "pci"')
        matched = _ADDRESS.fullmatch(device.addr)
        place = (int(matched[1], 16), int(matched[2] or 0)) if matched else (0, 0)
        if place[0] not in schema.SLOTS["pci"]:
            raise Misplaced(
                index, "addr", f"{device.addr!r} is no place", "a slot from 1 to 1f, or with function: 1f.7"
            )
        if place[0] in ports:
            raise Misplaced(
                index, "addr", f"{device.addr!r} is where port {place[0] - ports[0]} is", "vm.hotplug-ports"
            )
        if place in owners:
            raise Misplaced(index, "addr", f"{device.addr!r} is taken", f"{owners[place]} is there")
        found[index], owners[place] = place, device.id
    for index, (slot, _) in found.items():
        if (slot, 0) not in owners:
            text = f"nobody is at {slot:x}.0, without which no guest looks for others in its slot"
            raise Misplaced(index, "addr", text, f'addr = "{slot:x}"')
    return found


def _spread(free: list[int], count: int) -> Iterator[_Function]:
    """Yield a function for each of ``count`` devices, as long as there are any."""
    alone = (
        len(free) if count <= len(free) else max(0, (schema.FUNCTIONS * len(free) - count) // (schema.FUNCTIONS - 1))
    )
    for slot in free[:alone]:
        yield slot, 0
    for slot in free[alone:]:
        for function in range(schema.FUNCTIONS):
            yield slot, function
