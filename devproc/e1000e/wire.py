"""The card's end of the wire: what a network asks of it, and the cable that is in or out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devproc.descriptors import Descriptors
from devproc.e1000e.interrupts import Interrupts
from devproc.e1000e.phy import Phy
from devproc.e1000e.receive import Receiver
from devproc.e1000e.registers import RegisterFile
from devproc.e1000e.spec import Cause, Ctrl, Rctl, Status
from devproc.e1000e.statistics import Tally
from devproc.e1000e.transmit import Transmitter
from devproc.network import segments
from devproc.network.backend import PLAIN, Buffer, Network, Nothing
from devproc.network.features import NetFeature
from devproc.network.frame import FRAME_MAX, HEADER, Flags

RX, TX = 0, 1  # what is waiting to be done: numbers as of doorbells

_OFFLOADS = NetFeature.CSUM | NetFeature.HOST_TSO4 | NetFeature.HOST_TSO6 | NetFeature.GUEST_CSUM
"""What the card asks of a network; of frames that arrive in one large piece it asks none: it had to cut them."""


@dataclass(frozen=True)
class Config:
    """The card's address."""

    mac: bytes = b"\x52\x54\x00\x12\x34\x56"


class WiredCard(RegisterFile):
    """A register file on a network; ``device`` says what the registers do."""

    def __init__(self, config: Config, network: Network | None = None) -> None:
        super().__init__()
        self.config = config
        self.network: Network = network or Nothing()
        self.interrupts = Interrupts(self)
        self.tally = Tally(self)
        self.phy: Phy
        self._transmitter: Transmitter | None = None
        self._receiver: Receiver | None = None
        self._scratch = bytearray(HEADER + FRAME_MAX)
        self._listening = True
        self._resumed = False
        self.link = True
        """Whether the cable is in."""
        self._descriptors = Descriptors()
        self.network.start(self, self._descriptors)
        self._say_listen(wanted=False)

    def configuration(self) -> dict[str, str]:
        """Return the address, and where the wire leads."""
        return {"mac": self.mac.hex(":"), "network": self.network.describe(), "link": "up" if self.link else "down"}

    def release(self) -> None:
        """Drop every view of the page."""
        self._say_listen(wanted=False)
        for part in (self._transmitter, self._receiver):
            if part is not None:
                part.release()
        self._transmitter = self._receiver = None
        super().release()

    def close(self) -> None:
        """Unplug the network."""
        self.network.close()
        self._descriptors.close()

    # the link

    @property
    def mac(self) -> bytes:
        """The card's address."""
        return self.config.mac

    def announce(self) -> bool:
        """Nothing in this card asks a guest to make itself known."""
        return False

    def figures(self) -> dict[str, int]:
        """Add what the network counts."""
        return super().figures() | {f"network_{name}": value for name, value in self.network.counters().items()}

    def now_ns(self) -> int:
        """Return guest time; 0 without a machine."""
        return self.machine.now_ns() if self._receiver else 0

    def goes_on(self) -> bool:
        """Tell whether this process goes on where another one ended."""
        return bool(self._receiver) and self.machine.page.epoch > 1

    def set_link(self, *, up: bool) -> None:
        """Plug the cable in or out."""
        self.link = up
        if not hasattr(self, "shared"):
            return
        self.state.unplugged = int(not up)
        if self._show_link():
            self.interrupts.raise_(Cause.LSC)
        self._listen()

    def _show_link(self) -> bool:
        """Have STATUS and PHY say what follows from the cable; return whether it is news."""
        up = not self.state.unplugged and self.phy.powered
        status = Status.FD | Status.SPEED_1000 | Status.ASDV_1000
        status |= (Status.LU if up else 0) | (0 if self.ctrl & Ctrl.MASTER_DISABLE else Status.MASTER_ENABLE)
        changed = bool((self.status ^ status) & Status.LU)
        if self.status != status:
            self.status = status
        self.phy.link(up=up)
        return changed

    # the wire

    def sources(self) -> dict[int, Callable[[], None]]:
        """Watch what the network watches."""
        return {self._descriptors.fd: self._descriptors.turn}

    def doorbell(self, index: int) -> bool:
        """Send, or look for room."""
        if self._resumed:
            self._resumed = False
            self.interrupts.received()
            self.interrupts.transmitted()
            self.interrupts.raise_(Cause.LSC)
        if index == RX:
            self._listen()
            return False
        more = self._transmitter is not None and self._transmitter.turn()
        self.network.answer()
        return more

    @property
    def _receiving(self) -> bool:
        return self._receiver is not None and not self.quiesced and bool(self.rctl & Rctl.EN)

    def _agree(self) -> None:
        self.network.agree(self.network.offloads & _OFFLOADS if self.rctl & Rctl.EN else 0)
        self._listen()

    def _listen(self) -> None:
        """Tell the network whether a frame of a usual size can be taken; with the cable out it is lost."""
        wanted = self._receiving and (not self.link or self._has_room(0))
        self._say_listen(wanted=wanted)

    def _say_listen(self, *, wanted: bool) -> None:
        if wanted != self._listening:
            self._listening = wanted
            self.network.listen(wanted=wanted)

    def _has_room(self, size: int) -> bool:
        return self._receiver is not None and self._receiver.room(size)

    def deliver(self, frame: Buffer, header: Buffer = PLAIN, pair: int | None = None) -> bool:
        """Give the guest a frame, or drop it."""
        if not self._receiving:
            self._say_listen(wanted=False)
            return False
        assert self._receiver is not None
        if not self.link:
            self.counters["frames_without_link"] += 1
            return True
        checked, frames = False, iter((frame,))
        if header != PLAIN:
            found = segments.whole(header, frame)
            if found is None:
                self.counters["frames_unwanted"] += 1
                return True
            checked, frames = bool(header[0] & (Flags.NEEDS_CSUM | Flags.DATA_VALID)), found
        for number, one in enumerate(frames):
            if not self._receiver.put(one, checked=checked):
                self._say_listen(wanted=False)
                if not number:
                    return False
                self.counters["without_room"] += 1
                break
        return True

    def room(self, pair: int, size: int) -> list[memoryview] | None:
        """Offer memory of this process: which of the guest's buffers a frame fits, its length decides."""
        if self._receiving and (not self.link or self._has_room(size - HEADER)) and size <= len(self._scratch):
            return [memoryview(self._scratch)]
        self._say_listen(wanted=False)
        return None

    def filled(self, pair: int, length: int) -> None:
        """Pass on what was put there."""
        view = memoryview(self._scratch)
        if not self.deliver(view[HEADER:length], bytes(view[:HEADER])):
            self.counters["without_room"] += 1

    def writable(self) -> None:
        """Go on sending."""
        self.pending.add(TX)
