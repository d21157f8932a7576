"""Frames from the guest's memory to the wire (82574 §7.2).

A burst is read from the ring, sent, and flushed; then one store in the page says how far the card has come and which
context is in force there, TDH follows, and the descriptors are written back. A process that is killed before the store
has its successor send the burst again, as a wire may; one that is killed after it has it write the descriptors back,
but for those that the guest has filled again: of these it had heard.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from devproc.e1000e.frames import Context, Gathered, build
from devproc.e1000e.registers import TX_RING
from devproc.e1000e.rings import Ring, Span
from devproc.e1000e.spec import TX_DTYP, Ctrl, Tctl, Tx
from devproc.network.backend import PLAIN, Buffer, Network
from devproc.network.frame import FRAME_MAX

if TYPE_CHECKING:
    from devproc.e1000e.registers import RegisterFile
    from devproc.e1000e.statistics import Tally

_BURST = 64  # frames between two looks at everything else
_STATUS = 12  # byte of a descriptor
_DD = 1


class Transmitter:
    """Sends what the guest has put into the ring."""

    def __init__(self, device: RegisterFile, network: Network, tally: Tally) -> None:
        self._device = device
        self._network = network
        self._tally = tally
        self._ring = Ring(device, TX_RING)
        self._context = self._load_context()
        self._rest: deque[Buffer] = deque()  # segments of the last frame that the network has not taken
        self.blocked = False

    def restart(self, head: int) -> None:
        """Begin anew at a descriptor: the driver has written TDH, or the card was reset."""
        state = self._device.state
        state.sent = state.sent >> 32 << 32 | head
        state.transmitted = head
        self._rest.clear()
        self._context = self._load_context()

    def turn(self) -> bool:
        """Send some frames; return whether there are more that can be sent now."""
        self.blocked = False
        span = self._ring.look() if self._device.tctl & Tctl.EN else None
        if span is None:
            return False
        self._send_rest()
        head, frames = span.head, 0
        while head != span.tail and frames < _BURST and not self.blocked:
            after = self._one(span, head)
            if after is None:
                break
            head = after
            frames += 1
        self._network.flush()
        if head == span.head:
            return False
        self._commit(head)
        if self._write_back(span, span.head, head):
            self._device.interrupts.transmitted()
        return head != span.tail and frames == _BURST

    def _one(self, span: Span, head: int) -> int | None:
        """Send the frame at ``head``, or take its context; return where the next is, ``None`` if it has to wait."""
        words = self._device.machine.memory.ram.u64
        pieces: list[tuple[int, int]] = []
        total, first, bad, at = 0, None, False, head
        while at != span.tail:
            place = span.place(at) >> 3
            low, high = words[place], words[place + 1]
            at = (at + 1) % span.entries
            if high & Tx.DEXT and not high & TX_DTYP:
                self._context = Context(low, high)
                if first is None:
                    return at
                continue
            first = high if first is None else first
            length = high & (0xF_FFFF if high & Tx.DEXT else 0xFFFF)
            offset = self._device.machine.memory.offset(low, length)
            total += length
            bad = bad or offset is None or total > FRAME_MAX
            if offset is not None and length and not bad:
                pieces.append((offset, length))
            if high & Tx.EOP:
                if bad:
                    self._device.guest_error("bad_buffers", f"frame of {total} bytes, or in no memory")
                elif not self._send(Gathered(pieces, total, first, high)):
                    return None
                return at
        # the end of the frame is not there yet; what will never be one, or cannot get one, is dropped
        return at if bad or (at + 1) % span.entries == head else None

    def _send(self, frame: Gathered) -> bool:
        device = self._device
        tag = None
        if frame.last & Tx.VLE and device.ctrl & Ctrl.VME:
            tag = (device.vet & 0xFFFF) << 16 | frame.last >> 48
        if not device.link:
            device.counters["frames_without_link"] += 1
            return True
        memory = device.machine.memory.ram.u8
        out = build(memory, frame, self._context, tag=tag, pad=bool(device.tctl & Tctl.PSP))
        large = bool(frame.first & Tx.DEXT and frame.first & Tx.TSE)
        if out is None:
            device.guest_error("bad_frames", f"frame of {frame.length} bytes cannot be made")
            if large:
                self._tally.add("tsctfc")
            return True
        first = out.pieces[0][0]
        if out.fits(self._network.offloads):
            if not self._network.send(0, out.header, out.pieces):
                self.blocked = True
                return False
        else:
            whole = out.whole()
            if whole is None:
                device.guest_error("bad_frames", f"frame of {frame.length} bytes cannot be cut")
                return True
            self._rest.extend(whole)
            if not self._send_rest():  # nothing of it has left: it waits in the ring
                self._rest.clear()
                return False
        device.counters["frames_out"] += 1
        device.counters["bytes_out"] += frame.length
        self._tally.frame("t", frame.length, first)
        if large:
            self._tally.add("tsctc")
        return True

    def _send_rest(self) -> int:
        """Send what is left of a frame that was cut; return how many pieces the network took."""
        sent = 0
        while self._rest and not self.blocked:
            if self._network.send(0, PLAIN, (memoryview(self._rest[0]),)):
                self._rest.popleft()
                sent += 1
            else:
                self.blocked = True
        return sent

    # where the card stands

    def _load_context(self) -> Context:
        state = self._device.state
        if state.sent >> 32:
            return Context(state.context1_low, state.context1_high)
        return Context(state.context0_low, state.context0_high)

    def _commit(self, head: int) -> None:
        """Take everything before ``head`` as sent."""
        state = self._device.state
        slot = state.sent >> 32
        if self._context != self._load_context():
            slot ^= 1
            if slot:
                state.context1_low, state.context1_high = self._context
            else:
                state.context0_low, state.context0_high = self._context
        state.sent = slot << 32 | head
        self._ring.advance(head)

    def _write_back(self, span: Span, start: int, end: int, *, spare: int = 0) -> bool:
        """Tell the guest of descriptors that are done; ``spare`` of them it has in use again. Return if it asked."""
        memory = self._device.machine.memory.ram
        asked = False
        for at in range(start, start + (end - start) % span.entries):
            place = span.place(at)
            if memory.u64[(place >> 3) + 1] & Tx.RS and (at - end) % span.entries >= spare:
                memory.u8[place + _STATUS] |= _DD
                asked = True
        self._device.state.transmitted = end
        return asked

    def recover(self) -> None:
        """Go on where a predecessor stopped."""
        state = self._device.state
        head = state.sent & 0xFFFF
        self._ring.advance(head)
        span = self._ring.look()
        if span is not None and state.transmitted < span.entries:
            self._write_back(span, state.transmitted, head, spare=span.free)

    def release(self) -> None:
        """Let go of the page."""
        self._ring.release()
