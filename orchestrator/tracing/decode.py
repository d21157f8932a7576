"""Events become entries: registers and headers by name, latencies, one id for what belongs together.

What the names are the device says on the bus, from its declarations; nothing here knows a type of device.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from protocol.layout import CONFIG_BAR
from protocol.trace import SOURCE, Event, Kind, Side

_KEPT = 4096  # work under way, and kicks, that are remembered

_CONFIG_HEADER = {  # PCI 3.0 §6.1
    0x00: "pci_vendor",
    0x02: "pci_device",
    0x08: "pci_revision",
    0x09: "pci_class",
    0x0E: "pci_header_type",
    **{0x10 + 4 * bar: f"pci_bar{bar}" for bar in range(6)},
    0x2C: "pci_subsystem_vendor",
    0x2E: "pci_subsystem",
    0x30: "pci_rom",
    0x34: "pci_capabilities",
    0x3D: "pci_interrupt_pin",
}

Fields = list[tuple[str, int, dict[int, str]]]
Row = tuple[str, str, dict[str, Any], int | None]  # event, id, details, duration


@dataclass(frozen=True)
class Names:
    """What a device says of itself."""

    registers: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    """BAR and offset → name and width."""
    request: Fields = field(default_factory=list)
    answer: Fields = field(default_factory=list)

    def register(self, bar: int, offset: int, size: int) -> str:
        """Return what lies there: a register, a part of one, or the place."""
        for at in range(offset, max(-1, offset - 8), -1):
            found = self.registers.get((bar, at))
            if found and at + found[1] > offset:
                name, width = found
                return name if (at, width) == (offset, size) else f"{name}[{offset - at}:{offset - at + size}]"
        if bar == CONFIG_BAR:
            return _CONFIG_HEADER.get(offset, f"config+{offset:#x}")
        return f"bar{bar}+{offset:#x}"


def fields_of(fields: Fields, data: bytes) -> dict[str, Any]:
    """Return the words of a header by name, values by theirs where they have one."""
    found: dict[str, Any] = {}
    at = 0
    for name, width, names in fields:
        at = -(-at // width) * width
        if at + width > len(data):
            break
        value = int.from_bytes(data[at : at + width], "little")
        found[name] = names.get(value, value)
        at += width
    return found


@dataclass(frozen=True)
class Entry:
    """One line of a trace."""

    time_ns: int
    device: str
    side: Side
    event: str
    id: str
    """``17`` a doorbell and its interrupt, ``17.2`` the second request taken for it, ``w5``, ``r5`` a message."""
    details: dict[str, Any]
    duration_ns: int | None = None
    """Of an access or hook, of a request from taking to returning it; from what came before to this otherwise."""


class Decoder:
    """Decodes the events of one device, in the order of their time."""

    def __init__(self, device: str, names: Names) -> None:
        self.device = device
        self.names = names
        self._kicks: OrderedDict[int, int] = OrderedDict()  # number → when
        self._under_way: OrderedDict[tuple[int, int], int] = OrderedDict()  # queue, head → when
        self._ended: OrderedDict[int, int] = OrderedDict()  # number → when its last request ended

    def __call__(self, event: Event, side: Side) -> Entry:
        """Return the entry of ``event``."""
        try:
            kind = Kind(event.kind)
        except ValueError:
            return Entry(event.time_ns, self.device, side, f"event {event.kind}", "", {})
        name, number, details, duration = getattr(self, f"_{kind.name.lower()}")(event)
        return Entry(event.time_ns, self.device, side, name, number, details, duration)

    def _access(self, name: str, event: Event) -> Row:
        register = self.names.register(event.where, event.a, event.size)
        number = f"{name[0]}{event.id}" if event.id else ""
        return name, number, {"register": register, "value": event.b}, event.duration_ns

    def _read(self, event: Event) -> Row:
        return self._access("read", event)

    def _write(self, event: Event) -> Row:
        return self._access("write", event)

    def _served(self, event: Event) -> Row:
        return "served", *self._access("write", event)[1:]

    def _answered(self, event: Event) -> Row:
        return "answered", *self._access("read", event)[1:]

    def _kick(self, event: Event) -> Row:
        _remember(self._kicks, event.id, event.time_ns)
        return "kick", str(event.id), {"queue": event.where}, None

    def _taken(self, event: Event) -> Row:
        _remember(self._under_way, (event.where, event.a), event.time_ns)
        details = {"queue": event.where} | fields_of(self.names.request, event.data) | {"bytes": event.b}
        kicked = self._kicks.get(event.id) if event.size == 1 else None  # the others had no doorbell of their own
        return "request", _request(event), details, None if kicked is None else event.time_ns - kicked

    def _done(self, event: Event) -> Row:
        _remember(self._ended, event.id, event.time_ns)
        taken = self._under_way.pop((event.where, event.a), None)
        size = sum(width for _, width, _ in self.names.answer)
        details = {"queue": event.where} | fields_of(self.names.answer, event.data[:size]) | {"written": event.b}
        return "done", _request(event), details, None if taken is None else event.time_ns - taken

    def _message(self, event: Event) -> Row:
        details = {"vector": event.where, "address": event.a, "data": event.b}
        return "interrupt", *self._told(event, details)

    def _line(self, event: Event) -> Row:
        return "line", *self._told(event, {"level": event.b})

    def _told(self, event: Event, details: dict[str, Any]) -> tuple[str, dict[str, Any], int | None]:
        done = self._ended.get(event.id) if event.id else None
        return str(event.id or ""), details, None if done is None else event.time_ns - done

    def _busy(self, event: Event) -> Row:
        return "busy", "", {"for": "host I/O" if event.where == SOURCE else f"queue {event.where}"}, event.b


def _request(event: Event) -> str:
    """Return the id of a request; without a doorbell's number it is its queue's."""
    return f"{event.id}.{event.size}" if event.id else f"q{event.where}.{event.size}"


def _remember(where: OrderedDict[Any, int], key: object, time_ns: int) -> None:
    where[key] = time_ns
    if len(where) > _KEPT:
        where.popitem(last=False)
