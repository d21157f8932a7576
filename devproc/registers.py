"""Declared registers: typed views of the BAR images in a device page (DESIGN §9).

From a declaration follow dispatch, the overlap check, the power-on value, the list on the bus, and the kind bytes
that tell ``cpu_proc`` which accesses need the device at all: a register without a read hook is served from the page,
plain storage is stored by ``cpu_proc`` itself. A register has no copy in the process: every store is durable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, Self, TypeVar, overload

from protocol.layout import CONFIG_BAR, CONFIG_SIZE, ReadKind, WriteKind, kind
from protocol.memory import Shared

Access = Literal["r", "rw", "w", "rw1c"]
Hook = TypeVar("Hook", bound=Callable[..., Any])


_PAGE = 4096  # of the guest


class Images(Protocol):
    """What a register needs of its device: the page, and where in it each BAR's image starts."""

    shared: Shared
    images: dict[int, int]


class Bar:
    """A memory BAR; an attribute called ``bar4`` is BAR 4."""

    def __init__(
        self,
        size: int,
        *,
        index: int | None = None,
        bits64: bool = False,
        prefetchable: bool = False,
        memory: bool = False,
    ) -> None:
        """With ``memory`` it has no registers: it is what ``Device.memories`` hands over, at the speed of RAM."""
        least = _PAGE if memory else 16
        if size < least or size & (size - 1):
            raise TypeError(f"a BAR decodes a power of two of at least {least} bytes, not {size}")
        self.memory = memory
        self.size = size
        self.bits64 = bits64
        self.prefetchable = prefetchable
        self._index = index

    def __set_name__(self, _owner: type, name: str) -> None:
        found = re.search(r"([0-5])\Z", name)
        if self._index is None and found:
            self._index = int(found[1])

    @property
    def index(self) -> int:
        """Number of the BAR."""
        if self._index is None:
            raise TypeError("name a BAR bar0 … bar5, or give it an index")
        return self._index

    def window(self, base: int, size: int) -> Window:
        """Return the part of this BAR that starts at ``base``; its registers count offsets from there."""
        return Window(self, base, size)


@dataclass(frozen=True)
class Window:
    """A part of a BAR."""

    bar: Bar
    base: int
    size: int


CONFIG = Bar(CONFIG_SIZE, index=CONFIG_BAR)


class Part(Bar):
    """Registers whose place a transport decides: it says so with an attribute ``places`` (a part → its window)."""

    def __init__(self, size: int, *, index: int) -> None:
        self.size = size
        self.bits64 = self.prefetchable = self.memory = False
        self._index = index


Parts = Mapping[Part, Window]


class Register:
    """A register of 1, 2, 4 or 8 bytes at ``offset`` in a BAR, or in a window of one.

    ``access`` is ``r``, ``rw``, ``w`` or ``rw1c`` (write one to clear). ``mask`` has the bits a write reaches.
    ``shadow=True`` insists that reads are free of side effects. With ``store=False`` the write hook decides alone what
    is kept; otherwise the new value is in the page before the hook runs. ``sync=True`` holds the hart until a write
    has had its effect. A store to a ``doorbell`` register rings the doorbell whose number it carries; a register that
    ``rings`` is plain storage, and a store also rings the doorbell of its place. In configuration
    space that is the first. A store to a register that ``matches``
    writes the eventfd that was connected to the value (``Device.connect``).
    """

    def __init__(
        self,
        where: Bar | Window,
        offset: int,
        *,
        width: int = 4,
        access: Access | None = None,
        mask: int | None = None,
        reset: int = 0,
        shadow: bool = False,
        store: bool = True,
        sync: bool = False,
        doorbell: bool = False,
        rings: bool = False,
        matches: bool = False,
        doc: str = "",
    ) -> None:
        window = where if isinstance(where, Window) else Window(where, 0, where.size)
        if width not in (1, 2, 4, 8):
            raise TypeError(f"a register has 1, 2, 4 or 8 bytes, not {width}")
        if not 0 <= offset <= window.size - width or (window.base + offset) % width:
            raise TypeError(f"a register at {offset:#x} of {width} bytes is misaligned or outside its window")
        self.bar = window.bar
        self.offset = window.base + offset
        self.width = width
        self.access: Access = access or "rw"
        self.full = (1 << width * 8) - 1
        self.mask = self.full if mask is None else mask & self.full
        self.reset = reset & self.full
        self.shadow = shadow
        self.keep = store
        self.sync = sync
        self.is_doorbell = doorbell
        self.rings = rings
        self.matches = matches
        self.doc = doc
        self.name = ""
        self.read_hook: str | None = None
        self.write_hook: str | None = None

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, device: None, owner: type) -> Self: ...

    @overload
    def __get__(self, device: Images, owner: type) -> int: ...

    def __get__(self, device: Images | None, owner: type) -> Self | int:
        if device is None:
            return self
        return device.shared.load(device.images[self.bar.index] + self.offset, self.width)

    def __set__(self, device: Images, value: int) -> None:
        device.shared.store(device.images[self.bar.index] + self.offset, self.width, value)

    def on_read(self, method: Hook) -> Hook:
        """Ask ``method(self)`` for the value at each read: reading has a side effect."""
        if self.shadow or self.access == "w":
            raise TypeError("a shadow or write-only register has no read hook")
        self.read_hook = method.__name__
        return method

    def on_write(self, method: Hook) -> Hook:
        """Call ``method(self, value)`` at each write, with the new value of the whole register.

        A write may be repeated after a crash (DESIGN §7), so the hook must bear being run again.
        """
        if self.access == "r":
            raise TypeError("a read-only register has no write hook")
        self.write_hook = method.__name__
        return method

    @property
    def read_kind(self) -> ReadKind:
        """How ``cpu_proc`` serves a load."""
        if self.read_hook is not None:
            return ReadKind.MESSAGE
        return ReadKind.ZERO if self.access == "w" else ReadKind.PAGE

    @property
    def write_kind(self) -> WriteKind:
        """What ``cpu_proc`` does with a store; only configuration space has write masks."""
        if self.access == "r":
            return WriteKind.DROP
        if self.is_doorbell:
            return WriteKind.DOORBELL
        if self.rings:
            return WriteKind.RING
        if self.matches:
            return WriteKind.MATCH
        if self.sync:
            return WriteKind.SYNC
        plain = self.access != "rw1c" and self.write_hook is None
        if plain and (self.mask == self.full or self.bar is CONFIG):
            return WriteKind.STORE
        return WriteKind.POST

    def read(self, device: Images) -> int:
        """Return what the guest reads."""
        if self.read_hook is not None:
            return int(getattr(device, self.read_hook)()) & self.full
        return 0 if self.access == "w" else self.__get__(device, type(device))

    def write(self, device: Images, value: int, written: int) -> None:
        """Do what a guest's write of the bits ``written`` does."""
        old = self.__get__(device, type(device))
        reached = self.mask & written
        new = old & ~(value & reached) if self.access == "rw1c" else old & ~reached | value & reached
        if self.keep:
            self.__set__(device, new)
        if self.write_hook is not None:
            getattr(device, self.write_hook)(new)


class RegisterMap:
    """All registers of a device class, by place and by name."""

    def __init__(self, registers: Iterable[Register], parts: Parts | None = None) -> None:
        """Collect them; ``parts`` says where the transport has the registers of a part.

        Raises:
            TypeError: two overlap.
        """
        self._parts = parts or {}
        found = sorted(((*self.place(r), r) for r in registers), key=lambda entry: entry[:2])
        for (bar, offset, low), (other, start, high) in pairwise(found):
            if bar == other and offset + low.width > start:
                raise TypeError(f"registers {low.name} and {high.name} overlap")
        self._found = found
        self.all = [register for _, _, register in found]
        self.by_name = {r.name: r for r in self.all}
        self._exact = {(bar, offset, r.width): r for bar, offset, r in found}

    @classmethod
    def of(cls, owner: type) -> RegisterMap:
        """Return the map of the registers that ``owner`` declares or inherits; a redeclared name replaces."""
        found: dict[str, Register] = {}
        for ancestor in reversed(owner.__mro__):
            for name, value in vars(ancestor).items():
                if isinstance(value, Register):
                    found[name] = value
                else:
                    found.pop(name, None)
        return cls(found.values(), getattr(owner, "places", None))

    def bars(self) -> set[Bar]:
        """Return the BARs that registers are in."""
        return {register.bar for register in self.all}

    def place(self, register: Register) -> tuple[int, int]:
        """Return the number of the BAR where a register is, and its offset there."""
        window = self._parts.get(register.bar) if isinstance(register.bar, Part) else None
        if window is None:
            return register.bar.index, register.offset
        return window.bar.index, window.base + register.offset

    def images(self, images: Mapping[int, int]) -> dict[int, int]:
        """Return where the image of each part is, given those of the BARs."""
        return {part.index: images[window.bar.index] + window.base for part, window in self._parts.items()}

    def at(self, bar: int, offset: int, size: int) -> Register | None:
        """Return the register that lies exactly there."""
        return self._exact.get((bar, offset, size))

    def touching(self, bar: int, offset: int, size: int) -> list[tuple[int, Register]]:
        """Return the registers with a byte in the range, each with its offset."""
        return [
            (at, r) for index, at, r in self._found if index == bar and at < offset + size and offset < at + r.width
        ]

    def kinds(self, bar: Bar) -> bytearray:
        """Return the kind bytes of a BAR; where nothing is declared, configuration space reads from the page."""
        nothing = ReadKind.PAGE if bar is CONFIG else ReadKind.ZERO
        kinds = bytearray([kind(nothing, WriteKind.DROP)]) * bar.size
        for index, offset, register in self._found:
            if index == bar.index:
                byte = kind(register.read_kind, register.write_kind)
                kinds[offset : offset + register.width] = bytes([byte]) * register.width
        return kinds
