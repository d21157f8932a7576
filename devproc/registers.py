"""Declared registers: typed views of the BAR images in a device page (DESIGN §9).

From a declaration follow dispatch, the overlap check, the power-on value, the list on the bus, and the kind bytes
that tell ``cpu_proc`` which accesses need the device at all: a register without a read hook is served from the page,
plain storage is stored by ``cpu_proc`` itself. A register has no copy in the process: every store is durable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeVar, overload

from protocol.layout import CONFIG_BAR, CONFIG_SIZE, ReadKind, WriteKind, kind
from protocol.memory import Shared

Access = Literal["r", "rw", "w", "rw1c"]
Hook = TypeVar("Hook", bound=Callable[..., Any])


class Images(Protocol):
    """What a register needs of its device: the page, and where in it each BAR's image starts."""

    shared: Shared
    images: dict[int, int]


class Bar:
    """A memory BAR; an attribute called ``bar4`` is BAR 4."""

    def __init__(
        self, size: int, *, index: int | None = None, bits64: bool = False, prefetchable: bool = False
    ) -> None:
        if size < 16 or size & (size - 1):
            raise TypeError(f"a BAR decodes a power of two of at least 16 bytes, not {size}")
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


class Register:
    """A register of 1, 2, 4 or 8 bytes at ``offset`` in a BAR, or in a window of one.

    ``access`` is ``r``, ``rw``, ``w`` or ``rw1c`` (write one to clear). ``mask`` has the bits a write reaches.
    ``shadow=True`` insists that reads are free of side effects. With ``store=False`` the write hook decides alone what
    is kept; otherwise the new value is in the page before the hook runs.
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

    def __init__(self, registers: Iterable[Register]) -> None:
        """Collect them.

        Raises:
            TypeError: two overlap.
        """
        self.all = sorted(registers, key=lambda r: (r.bar.index, r.offset))
        for low, high in zip(self.all, self.all[1:], strict=False):
            if low.bar is high.bar and low.offset + low.width > high.offset:
                raise TypeError(f"registers {low.name} and {high.name} overlap")
        self.by_name = {r.name: r for r in self.all}
        self._exact = {(r.bar.index, r.offset, r.width): r for r in self.all}

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
        return cls(found.values())

    def at(self, bar: int, offset: int, size: int) -> Register | None:
        """Return the register that lies exactly there."""
        return self._exact.get((bar, offset, size))

    def touching(self, bar: int, offset: int, size: int) -> list[Register]:
        """Return the registers with a byte in the range."""
        return [r for r in self.all if r.bar.index == bar and r.offset < offset + size and offset < r.offset + r.width]

    def kinds(self, bar: Bar) -> bytearray:
        """Return the kind bytes of a BAR; where nothing is declared, configuration space reads from the page."""
        nothing = ReadKind.PAGE if bar is CONFIG else ReadKind.ZERO
        kinds = bytearray([kind(nothing, WriteKind.DROP)]) * bar.size
        for register in self.all:
            if register.bar is bar:
                byte = kind(register.read_kind, register.write_kind)
                kinds[register.offset : register.offset + register.width] = bytes([byte]) * register.width
        return kinds
