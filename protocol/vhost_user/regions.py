"""The front-end's memory: its regions, mapped into one span of addresses, so that guest addresses are offsets in it.

A buffer may begin in one region and end in the next; in the span they are neighbours, as they are for the guest. What
lies between regions is mapped without access, and ``GuestMemory`` knows it as a hole. Addresses of the front-end's
process, in which rings are given, are translated by the table of regions.

The front-end owns the memory, and can make a region's file shorter than it said: see ``protocol.truncation``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from itertools import pairwise

from protocol.errors import HostError, Malformed
from protocol.memory import GuestMemory, Words
from protocol.truncation import Watch
from protocol.vhost_user.payloads import Region

ALIGN = 1 << 30  # the span keeps addresses congruent to the guest's, which huge pages need
SPAN_MAX = 1 << 44
_NORESERVE = 0x4000  # mmap.MAP_NORESERVE came with Python 3.14
_FIXED = 0x10
_NONE, _READ_WRITE = 0, mmap.PROT_READ | mmap.PROT_WRITE
_PAGE = mmap.PAGESIZE


def check(region: Region) -> None:
    """Refuse a region that cannot be.

    Raises:
        Malformed: it is empty, wraps around, or does not lie on pages.
    """
    last = 1 << 64
    if not region.size or max(region.gpa, region.uaddr, region.mmap_offset) + region.size > last:
        raise Malformed(f"region {region} is empty or wraps around")
    if (region.gpa | region.size | region.mmap_offset) & _PAGE - 1:
        raise Malformed(f"region {region} does not lie on pages of {_PAGE} bytes")


class _Span(Words):
    """Mapped regions, without what is between them."""

    def __init__(self, regions: list[tuple[Region, int]]) -> None:
        base = regions[0][0].gpa
        size = regions[-1][0].gpa + regions[-1][0].size - base
        if size > SPAN_MAX:
            raise Malformed(f"regions of guest memory over {size:#x} bytes, at most {SPAN_MAX:#x}")
        try:
            self._map = mmap.mmap(-1, size + ALIGN, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        except (OSError, ValueError) as error:
            raise HostError(f"cannot reserve {size:#x} bytes for guest memory: {error}") from error
        anchor = ctypes.c_char.from_buffer(self._map)
        start = ctypes.addressof(anchor)
        del anchor
        skip = (base - start) % ALIGN
        try:
            _protect(start, size + ALIGN)
            for region, fd in regions:
                _map(start + skip + region.gpa - base, region, fd)
        except BaseException:
            self._map.close()
            raise
        self.watch = Watch(self._map)
        super().__init__(memoryview(self._map)[skip : skip + size])

    def close(self) -> None:
        """Unmap everything."""
        self.watch.close()
        self.release()
        self._map.close()


def _protect(start: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), _NONE):
        raise HostError(f"mprotect: {os.strerror(ctypes.get_errno())}")


def _map(at: int, region: Region, fd: int) -> None:
    if os.fstat(fd).st_size < region.mmap_offset + region.size:
        raise Malformed(f"region {region} is longer than its descriptor")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    length, offset = ctypes.c_size_t(region.size), ctypes.c_int64(region.mmap_offset)
    if libc.mmap(ctypes.c_void_p(at), length, _READ_WRITE, mmap.MAP_SHARED | _FIXED, fd, offset) != at:
        raise Malformed(f"region {region} cannot be mapped: {os.strerror(ctypes.get_errno())}")


class Regions:
    """The regions a front-end has told of; ``memory`` is what they are together.

    A change makes a new ``memory`` and ends the old one: nobody may hold views of it then.
    """

    def __init__(self) -> None:
        self._regions: list[tuple[Region, int]] = []
        self.memory = GuestMemory(Words(memoryview(b"")), 0)

    @property
    def all(self) -> list[Region]:
        """The regions, by guest address."""
        return [region for region, _ in self._regions]

    @property
    def torn(self) -> bool:
        """Whether a part of the memory was found missing, because a region's file has become shorter."""
        views = self.memory.ram
        return isinstance(views, _Span) and views.watch.torn

    def set(self, regions: Iterable[tuple[Region, int]]) -> None:
        """Take these regions and their descriptors in the place of all others.

        Raises:
            Malformed: one cannot be, or they overlap; the descriptors are closed and the old regions stay.
            HostError: there is no room for them.
        """
        fresh = sorted(regions, key=lambda pair: pair[0].gpa)
        old = self._regions
        try:
            self._install(fresh)
        except BaseException:
            _close(fresh)
            raise
        _close(old)

    def add(self, region: Region, fd: int) -> None:
        """Take one more region and its descriptor; raises as ``set`` does."""
        fresh = sorted([*self._regions, (region, fd)], key=lambda pair: pair[0].gpa)
        try:
            self._install(fresh)
        except BaseException:
            os.close(fd)
            raise

    def remove(self, region: Region) -> None:
        """Give up the region with these addresses and this size.

        Raises:
            Malformed: there is none.
        """
        found = [pair for pair in self._regions if _same(pair[0], region)]
        if not found:
            raise Malformed(f"no region {region}")
        self._install([pair for pair in self._regions if pair not in found])
        _close(found)

    def _install(self, fresh: list[tuple[Region, int]]) -> None:
        for region, _ in fresh:
            check(region)
        for (low, _), (high, _) in pairwise(fresh):
            if low.gpa + low.size > high.gpa:
                raise Malformed(f"regions {low} and {high} overlap")
        views = _Span(fresh) if fresh else Words(memoryview(b""))
        base = fresh[0][0].gpa if fresh else 0
        holes = [
            (low.gpa + low.size - base, high.gpa - base)
            for (low, _), (high, _) in pairwise(fresh)
            if low.gpa + low.size < high.gpa
        ]
        self.memory.ram.close()
        self._regions = fresh
        self.memory = GuestMemory(views, base, holes)

    def translate(self, uaddr: int, length: int) -> int | None:
        """Return the guest address of ``length`` bytes at ``uaddr`` of the front-end's process, or ``None``."""
        for region, _ in self._regions:
            offset = uaddr - region.uaddr
            if offset >= 0 and offset + length <= region.size:
                return region.gpa + offset
        return None

    def close(self) -> None:
        """Unmap everything and close the descriptors."""
        self.set([])


def _same(one: Region, other: Region) -> bool:
    return (one.gpa, one.uaddr, one.size) == (other.gpa, other.uaddr, other.size)


def _close(regions: list[tuple[Region, int]]) -> None:
    for _, fd in regions:
        os.close(fd)
