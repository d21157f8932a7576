"""What the page of a device that is being replaced holds, by name: registers, words of records, tables.

The old process says where each name lies (``Layout``), for only its source knows; the new one reads the page through
that (``Before``), whatever its own source says of places and widths. What happens with the values is
``devproc.succession``'s part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from devproc.describe import digest
from devproc.state import Record
from protocol.errors import Malformed
from protocol.layout import BARS, CONFIG_BAR, CONFIG_SIZE, DevicePage

if TYPE_CHECKING:
    from devproc.device import Device


@dataclass(frozen=True)
class Layout:
    """Where a device has what, in its page."""

    device: str
    """Module and class."""
    version: int
    """Its ``state_version``."""
    schema: int
    registers: dict[str, list[int]]
    """By name: BAR, offset there, width."""
    words: dict[str, list[int]]
    """By ``record.word``, or ``records.number.word``: offset in the page, width."""
    tables: dict[str, list[int]]
    """By name: offset in the page, bytes."""
    bound: str
    """Why nothing but a process of the same class can go on from it; empty if that is not so."""

    @classmethod
    def of(cls, device: Device) -> Self:
        """Return that of an attached device."""
        words = {
            f"{name}.{word}": [record.offset + row.offset, row.width]
            for name, record in records(device).items()
            for word, row in record.words().items()
        }
        return cls(
            device=name_of(type(device)),
            version=device.state_version,
            schema=digest(device.registers, device.state_version),
            registers={r.name: [*device.registers.place(r), r.width] for r in device.registers.all},
            words=words,
            tables={name: list(place) for name, place in device.tables().items()},
            bound=device.bound(),
        )

    @property
    def name(self) -> str:
        """The class, for people."""
        return self.device.rpartition(":")[2]

    def to_text(self) -> str:
        """Return it for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return what ``to_text`` wrote.

        Raises:
            Malformed: it is none.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise Malformed("that is no layout of a device page") from error


def name_of(device: type) -> str:
    """Return how a class is called, whatever it is served over."""
    return f"{device.__module__}:{device.__qualname__}"


def records(device: Device) -> dict[str, Record]:
    """Return the records of an attached device by the names of its attributes, but for those that begin with ``_``."""
    found: dict[str, Record] = {}
    for name, value in vars(device).items():
        if name.startswith("_"):
            continue
        if isinstance(value, Record):
            found[name] = value
        elif isinstance(value, list):
            found |= {f"{name}.{number}": row for number, row in enumerate(value) if isinstance(row, Record)}
    return found


class Before(Mapping[str, int]):
    """The page of the process before: ``before["control"]`` is a register, ``before["state.count"]`` a word."""

    def __init__(self, page: DevicePage, layout: Layout) -> None:
        """Look at ``page`` through ``layout``.

        Raises:
            Malformed: something would lie outside of it.
        """
        self.page = page
        self.layout = layout
        self.version = layout.version
        self._places: dict[str, tuple[int, int]] = {}
        for name, (bar, offset, width) in layout.registers.items():
            if (start := self._image(bar)) is not None:
                self._places[name] = start + offset, width
        self._places |= {name: (at, width) for name, (at, width) in layout.words.items()}
        room = page.shared.size
        for name, (at, size) in {**self._places, **{n: (a, s) for n, (a, s) in layout.tables.items()}}.items():
            if not 0 <= at <= room - size:
                raise Malformed(f"{name} of the device before lies outside its page")

    def _image(self, bar: int) -> int | None:
        if bar == CONFIG_BAR:
            return DevicePage.CONFIG
        return (self.page.bar(bar).image or None) if bar < BARS else None

    def __getitem__(self, name: str) -> int:
        """Return a value as it was; ``KeyError`` if there was no such name."""
        at, width = self._places[name]
        return int.from_bytes(self.page.shared.bytes(at, width), "little")

    def __iter__(self) -> Iterator[str]:
        """Go through all names."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._places)

    def table(self, name: str) -> bytes | None:
        """Return the content of a table; ``None`` if there was none of that name."""
        place = self.layout.tables.get(name)
        return self.page.shared.bytes(*place) if place else None

    def bar(self, index: int) -> bytes:
        """Return the image of a BAR, or of configuration space."""
        start = self._image(index)
        size = CONFIG_SIZE if index == CONFIG_BAR else self.page.bar(index).size
        return b"" if start is None else self.page.shared.bytes(start, size)


def converts(*versions: int) -> Any:
    """Mark the method that turns a page of these older ``state_version`` into one of this class.

    It is called with ``Before`` when all names that both have were taken over already; the device is at a descriptor
    boundary. It stores into registers and records, and does nothing else: it is tried on a copy first.
    """

    def mark(method: Any) -> Any:
        method.converts = versions
        return method

    return mark
