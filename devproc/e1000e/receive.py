"""Frames from the wire into the guest's buffers (82574 §7.1).

The page says what is under way, so that a successor finishes it: a frame's bytes go into its buffers first, then a
note of its descriptors into the page, then the descriptors, the first one last, and at last the note goes. Up to the
first one the guest has seen nothing, and the successor writes all of them again; after it everything is done but the
note. Which of the two it was, the descriptor itself tells: ``Rx.LAP``, a bit that drivers leave alone, is another
each time round.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from devproc.e1000e import filters
from devproc.e1000e.registers import RX_RING, RegisterFile
from devproc.e1000e.rings import Ring, Span
from devproc.e1000e.spec import DESCRIPTOR, RFCTL_EXSTEN, SHORTEST, Ctrl, Rctl, Rx
from devproc.network.backend import Buffer
from devproc.network.frame import ETHERNET, VLAN_TAG

if TYPE_CHECKING:
    from devproc.e1000e.statistics import Tally

_LONGEST, _LONGEST_LPE = 1522, 16384  # with CRC (82574 §7.1.1)
_CRC = 4
_SIZES = {False: (2048, 1024, 512, 256), True: (2048, 16384, 8192, 4096)}  # RCTL.BSIZE, by RCTL.BSEX
_RCTL, _RFCTL, _PSRCTL, _VET = (
    register.offset >> 2 for register in (RegisterFile.rctl, RegisterFile.rfctl, RegisterFile.psrctl, RegisterFile.vet)
)
_LEGACY_LAP = 1 << 16  # in the packet checksum, which a driver only looks at without IXSM


class Shape(NamedTuple):
    """What descriptors look like."""

    extended: bool
    sizes: tuple[int, ...]
    """Of the buffers of one: four when frames are split, else one."""

    @property
    def descriptor(self) -> int:
        """Bytes of a descriptor."""
        return DESCRIPTOR if len(self.sizes) == 1 else 2 * DESCRIPTOR

    @property
    def room(self) -> int:
        """Bytes of a frame that one takes."""
        return sum(self.sizes)


@lru_cache(maxsize=8)
def shape_of(rctl: int, rfctl: int, psrctl: int) -> Shape:
    """Return what the guest has chosen (82574 §7.1.4 to §7.1.6)."""
    extended = bool(rfctl & RFCTL_EXSTEN)
    if extended and rctl & Rctl.DTYP == 1 << 10:
        kilobytes = [(psrctl >> shift & 0x3F) << 10 for shift in (8, 16, 24)]
        return Shape(True, (max(1, psrctl & 0x7F) << 7, *kilobytes))
    flexible = rctl >> 27 & 0xF
    size = flexible << 10 if flexible else _SIZES[bool(rctl & Rctl.BSEX)][rctl >> 16 & 3]
    return Shape(extended, (size,))


class Note(NamedTuple):
    """A frame whose bytes are in its buffers."""

    first: int
    descriptors: int
    length: int
    status: int
    tag: int


class Receiver:
    """Fills the guest's buffers."""

    def __init__(self, device: RegisterFile, tally: Tally) -> None:
        self._device = device
        self._tally = tally
        self._ring = Ring(device, RX_RING)
        self._words = device.shared.u32  # a load takes a quarter of what it takes by a register's name
        self._base = device.images[0] >> 2

    def _shape(self) -> Shape:
        words, base = self._words, self._base
        return shape_of(words[base + _RCTL], words[base + _RFCTL], words[base + _PSRCTL])

    def room(self, size: int) -> bool:
        """Return whether a frame of ``size`` bytes has room."""
        shape = self._shape()
        span = self._ring.look(shape.descriptor)
        return span is not None and span.free * shape.room >= min(size, _LONGEST_LPE) + _CRC

    def put(self, frame: Buffer, *, checked: bool) -> bool:
        """Give a whole frame to the guest, or drop it if it is none or not for the guest; ``False``: no room."""
        device, length = self._device, len(frame)
        rctl = self._words[self._base + _RCTL]
        if length < ETHERNET or not filters.wanted(device, frame, rctl):
            device.counters["frames_unwanted"] += 1
            return True
        status, tag = Rx.TCPCS | Rx.IPCS if checked else Rx.IXSM, 0
        if (frame[12] << 8 | frame[13]) == self._words[self._base + _VET] & 0xFFFF and length >= ETHERNET + VLAN_TAG:
            tag = frame[14] << 8 | frame[15]
            if not filters.vlan_wanted(device, tag, rctl):
                device.counters["frames_unwanted"] += 1
                return True
            if device.ctrl & Ctrl.VME:
                frame = b"".join((frame[:12], frame[16:]))
                status |= Rx.VP
        if length + _CRC > (_LONGEST_LPE if rctl & Rctl.LPE else _LONGEST):
            self._tally.add("roc")
            device.counters["frames_too_large"] += 1
            return True
        frame = self._as_on_the_wire(frame, rctl)
        shape = self._shape()
        span = self._ring.look(shape.descriptor)
        if span is None or span.free * shape.room < len(frame):
            self._tally.add("rnbc")
            device.counters["without_room"] += 1
            return False
        self._fill(span, shape, frame, status, tag if status & Rx.VP else 0)
        device.interrupts.received()
        device.counters["frames_in"] += 1
        device.counters["bytes_in"] += length
        self._tally.frame("r", max(length, SHORTEST), frame[0])
        return True

    def _as_on_the_wire(self, frame: Buffer, rctl: int) -> Buffer:
        if len(frame) < SHORTEST:
            frame = bytes(frame) + bytes(SHORTEST - len(frame))
        return frame if rctl & Rctl.SECRC else bytes(frame) + zlib.crc32(frame).to_bytes(_CRC, "little")

    def _fill(self, span: Span, shape: Shape, frame: Buffer, status: int, tag: int) -> None:
        device, state = self._device, self._device.state
        view, start, count = memoryview(frame), 0, 0
        while start < len(view):
            place = span.place(span.head + count)
            for number, size in enumerate(shape.sizes):
                part = view[start : start + size]
                address = device.machine.memory.ram.u64[(place >> 3) + number]
                if part and not device.machine.memory.write(address, part):
                    device.guest_error("bad_buffers", f"receive buffer at {address:#x}")
                    status |= Rx.RXE
                start += len(part)
            count += 1
        lap = device.machine.memory.ram.u64[(span.place(span.head) >> 3) + 1]
        status |= 0 if lap & (Rx.LAP if shape.extended else _LEGACY_LAP) else Rx.LAP
        state.rx_where = span.head | count << 16 | len(view) << 32
        state.rx_what = status | tag << 32
        state.receiving = 1
        self._publish(span, shape, Note(span.head, count, len(view), status, tag))

    def _publish(self, span: Span, shape: Shape, note: Note) -> None:
        """Write back the descriptors of a frame, the first one last."""
        first, count, length, whole, tag = note
        words = self._device.machine.memory.ram.u64
        for number in reversed(range(count)):
            if number == 0:
                self._ring.advance((first + count) % span.entries, span.size)
            here = max(0, min(length - number * shape.room, shape.room))
            last = number == count - 1
            status = whole | Rx.DD | Rx.EOP if last else Rx.DD | whole & Rx.LAP
            at = span.place(first + number) >> 3
            if shape.extended:
                lengths = _split(here, shape.sizes)
                if len(lengths) > 1:
                    words[at + 2] = lengths[1] << 16 | lengths[2] << 32 | lengths[3] << 48
                    words[at + 3] = 0
                words[at] = 0  # no receive hash
                words[at + 1] = status | lengths[0] << 32 | tag << 48
            else:
                lap = _LEGACY_LAP if status & Rx.LAP else 0
                words[at + 1] = here | lap | (status & 0xFF) << 32 | status >> 24 << 40 | tag << 48
        self._device.state.receiving = 0

    def recover(self) -> None:
        """Finish the frame that a predecessor was killed with."""
        device, state = self._device, self._device.state
        if not state.receiving:
            return
        shape = self._shape()
        span = self._ring.look(shape.descriptor)
        where, what = state.rx_where, state.rx_what
        note = Note(where & 0xFFFF, where >> 16 & 0xFFFF, where >> 32, what & 0xFFFF_FFFF, what >> 32)
        if span is None or note.first >= span.entries or not 0 < note.descriptors < span.entries:
            state.receiving = 0
            return
        word = device.machine.memory.ram.u64[(span.place(note.first) >> 3) + 1]
        seen = bool(word & (Rx.LAP if shape.extended else _LEGACY_LAP))
        if seen == bool(note.status & Rx.LAP):
            state.receiving = 0
        else:
            self._publish(span, shape, note)

    def release(self) -> None:
        """Let go of the page."""
        self._ring.release()
        del self._words


def _split(length: int, sizes: tuple[int, ...]) -> list[int]:
    """Return how many of ``length`` bytes are in each buffer."""
    lengths = []
    for size in sizes:
        lengths.append(min(length, size))
        length -= lengths[-1]
    return lengths
