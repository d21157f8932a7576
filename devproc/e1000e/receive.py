"""Frames from the wire into the guest's buffers (82574 §7.1).

The page says what is under way, so that a successor finishes it: a frame's bytes go into its buffers first, then a
note of its descriptors into the page, then the descriptors, the first one last, and at last the note goes. Up to the
first one the guest has seen nothing, and the successor writes all of them again; after it everything is done but the
note. Which of the two it was, the descriptor itself tells: ``Rx.LAP``, a bit that drivers leave alone, is another
each time round.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

from devproc.e1000e import filters
from devproc.e1000e.registers import RX_RING
from devproc.e1000e.rings import Ring, Span
from devproc.e1000e.spec import DESCRIPTOR, RFCTL_EXSTEN, SHORTEST, Ctrl, Rctl, Rx
from devproc.network.backend import Buffer
from devproc.network.frame import ETHERNET, VLAN_TAG

if TYPE_CHECKING:
    from devproc.e1000e.registers import RegisterFile
    from devproc.e1000e.statistics import Tally

_LONGEST, _LONGEST_LPE = 1522, 16384  # with CRC (82574 §7.1.1)
_CRC = 4
_SIZES = {False: (2048, 1024, 512, 256), True: (2048, 16384, 8192, 4096)}  # RCTL.BSIZE, by RCTL.BSEX
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

    @classmethod
    def of(cls, device: RegisterFile, rctl: int) -> Shape:
        """Return what the guest has chosen (82574 §7.1.4 to §7.1.6)."""
        extended = bool(device.rfctl & RFCTL_EXSTEN)
        if extended and rctl & Rctl.DTYP == 1 << 10:
            control = device.psrctl
            kilobytes = [(control >> shift & 0x3F) << 10 for shift in (8, 16, 24)]
            return cls(True, (max(1, control & 0x7F) << 7, *kilobytes))
        flexible = rctl >> 27 & 0xF
        size = flexible << 10 if flexible else _SIZES[bool(rctl & Rctl.BSEX)][rctl >> 16 & 3]
        return cls(extended, (size,))


class Receiver:
    """Fills the guest's buffers."""

    def __init__(self, device: RegisterFile, tally: Tally) -> None:
        self._device = device
        self._tally = tally
        self._ring = Ring(device, RX_RING)

    def room(self, size: int) -> bool:
        """Return whether a frame of ``size`` bytes has room."""
        shape = Shape.of(self._device, self._device.rctl)
        span = self._ring.look(shape.descriptor)
        return span is not None and span.free * shape.room >= min(size, _LONGEST_LPE) + _CRC

    def put(self, frame: Buffer, *, checked: bool) -> bool:
        """Give a whole frame to the guest, or drop it if it is none or not for the guest; ``False``: no room."""
        device, length = self._device, len(frame)
        rctl = device.rctl
        if length < ETHERNET or not filters.wanted(device, frame, rctl):
            device.counters["frames_unwanted"] += 1
            return True
        status, tag = Rx.TCPCS | Rx.IPCS if checked else Rx.IXSM, 0
        if (frame[12] << 8 | frame[13]) == device.vet & 0xFFFF and length >= ETHERNET + VLAN_TAG:
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
        shape = Shape.of(device, rctl)
        span = self._ring.look(shape.descriptor)
        if span is None or span.free * shape.room < len(frame):
            self._tally.add("rnbc")
            device.counters["without_room"] += 1
            return False
        self._fill(span, shape, frame, status, tag if status & Rx.VP else 0)
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
        state.rx_first, state.rx_count, state.rx_length = span.head, count, len(view)
        lap = device.machine.memory.ram.u64[(span.place(span.head) >> 3) + 1]
        lap_bit = Rx.LAP if shape.extended else _LEGACY_LAP
        state.rx_status = status | (0 if lap & lap_bit else Rx.LAP)
        state.rx_vlan = tag
        state.receiving = 1
        self._publish(span, shape)

    def _publish(self, span: Span, shape: Shape) -> None:
        """Write back the descriptors of the frame in the page's note, the first one last."""
        state = self._device.state
        first, count, length = state.rx_first, state.rx_count, state.rx_length
        words = self._device.machine.memory.ram.u64
        for number in reversed(range(count)):
            if number == 0:
                self._ring.advance((first + count) % span.entries, span.size)
            here = min(length - number * shape.room, shape.room)
            last = number == count - 1
            status = state.rx_status | Rx.DD | Rx.EOP if last else Rx.DD | state.rx_status & Rx.LAP
            at = span.place(first + number) >> 3
            if shape.extended:
                lengths = _split(here, shape.sizes)
                if len(lengths) > 1:
                    words[at + 2] = lengths[1] << 16 | lengths[2] << 32 | lengths[3] << 48
                    words[at + 3] = 0
                words[at] = 0  # no receive hash
                words[at + 1] = status | lengths[0] << 32 | state.rx_vlan << 48
            else:
                lap = _LEGACY_LAP if status & Rx.LAP else 0
                words[at + 1] = here | lap | (status & 0xFF) << 32 | status >> 24 << 40 | state.rx_vlan << 48
        state.receiving = 0

    def recover(self) -> None:
        """Finish the frame that a predecessor was killed with."""
        device, state = self._device, self._device.state
        if not state.receiving:
            return
        shape = Shape.of(device, device.rctl)
        span = self._ring.look(shape.descriptor)
        if span is None or state.rx_first >= span.entries or not 0 < state.rx_count < span.entries:
            state.receiving = 0
            return
        word = device.machine.memory.ram.u64[(span.place(state.rx_first) >> 3) + 1]
        seen = bool(word & (Rx.LAP if shape.extended else _LEGACY_LAP))
        if seen == bool(state.rx_status & Rx.LAP):
            state.receiving = 0
        else:
            self._publish(span, shape)

    def release(self) -> None:
        """Let go of the page."""
        self._ring.release()


def _split(length: int, sizes: tuple[int, ...]) -> list[int]:
    """Return how many of ``length`` bytes are in each buffer."""
    lengths = []
    for size in sizes:
        lengths.append(min(length, size))
        length -= lengths[-1]
    return lengths
