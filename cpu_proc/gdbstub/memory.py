"""Guest memory as a debugger sees it: RAM alone, by physical addresses or through a hart's page tables.

Reading a device's register can change the device, so what is not RAM is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from cpu_proc.hart import Hart
from protocol.memory import GuestMemory

_PAGE = 4096
_ADDRESSES = 1 << 64


class Memory:
    """Memory behind all harts."""

    def __init__(self, ram: GuestMemory, harts: list[Hart]) -> None:
        self._ram = ram
        self._harts = harts
        self.physical = False
        """Take addresses as physical ones."""

    def read(self, hart: Hart, address: int, length: int) -> bytes:
        """Return what can be read from the start of the range."""
        found = bytearray()
        for at, size in _pieces(address, length):
            pa = self._translate(hart, at)
            data = None if pa is None else self._ram.read(pa, size)
            if data is None:
                break
            found += data
        return bytes(found)

    def write(self, hart: Hart, address: int, data: bytes) -> bool:
        """Store ``data`` if all of it goes to RAM; tell whether it did."""
        places = []
        for at, size in _pieces(address, len(data)):
            pa = self._translate(hart, at)
            if pa is None or self._ram.offset(pa, size) is None:
                return False
            places.append((pa, size))
        done = 0
        for pa, size in places:
            self._ram.write(pa, data[done : done + size])
            done += size
        for each in self._harts:  # it may have been code, or page tables
            each.flush_translations()
        return True

    def _translate(self, hart: Hart, address: int) -> int | None:
        return address if self.physical else hart.translate(address)


def _pieces(address: int, length: int) -> Iterator[tuple[int, int]]:
    """Cut a range at the pages' boundaries."""
    while length > 0:
        address %= _ADDRESSES
        size = min(length, _PAGE - address % _PAGE)
        yield address, size
        address, length = address + size, length - size
