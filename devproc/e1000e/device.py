"""The card: what its registers do, and where transmitter, receiver, PHY and NVM meet the wire.

The page is the card: registers, the NVM, the PHY, and how far the rings are done. A successor goes on from it, and
raises every cause once, because what its predecessor was about to say is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devproc.descriptors import Descriptors
from devproc.e1000e import nvm
from devproc.e1000e.interrupts import Interrupts
from devproc.e1000e.phy import SIZE as PHY_SIZE
from devproc.e1000e.phy import Phy
from devproc.e1000e.receive import Receiver
from devproc.e1000e.registers import RA, RegisterFile
from devproc.e1000e.spec import (
    EERD_DONE,
    EERD_START,
    NVM_WORDS,
    RAH_AV,
    SWSM_SMBI,
    Cause,
    Ctrl,
    Eecd,
    Mdic,
    Rctl,
    State,
    Status,
)
from devproc.e1000e.statistics import Tally
from devproc.e1000e.transmit import Transmitter
from devproc.network import segments
from devproc.network.backend import PLAIN, Buffer, Network, Nothing
from devproc.network.features import NetFeature
from devproc.network.frame import FRAME_MAX, HEADER, Flags
from protocol.layout import DevicePage

RX, TX = 0, 1  # what is waiting to be done: numbers as of doorbells

_OFFLOADS = NetFeature.CSUM | NetFeature.HOST_TSO4 | NetFeature.HOST_TSO6 | NetFeature.GUEST_CSUM
"""What the card asks of a network; of frames that arrive in one large piece it asks none: it had to cut them."""


@dataclass(frozen=True)
class Config:
    """The card's address."""

    mac: bytes = b"\x52\x54\x00\x12\x34\x56"


class E1000e(RegisterFile):
    """Intel 82574L, a gigabit network card."""

    state_version = 1

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

    # life cycle

    def state_size(self) -> int:
        """Add what is in no register."""
        return State.SIZE + PHY_SIZE + 2 * NVM_WORDS

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Find state, PHY and NVM in the page, and both rings."""
        super().declare(places)
        self.state = State(self.shared, DevicePage.STATE)
        self.phy = Phy(self.shared, DevicePage.STATE + State.SIZE)
        self.nvm_at = DevicePage.STATE + State.SIZE + PHY_SIZE
        self._transmitter = Transmitter(self, self.network, self.tally)
        self._receiver = Receiver(self, self.tally)

    def power_on(self) -> None:
        """Load the NVM, and find the cable as it was."""
        super().power_on()
        self.state.unplugged = int(not self.link)
        words = nvm.image(self.config.mac, self.vendor, type(self).device)
        for number, word in enumerate(words):
            self.shared.store(self.nvm_at + 2 * number, 2, word)
        self.phy.power_on()
        self._began_anew()

    def recover(self) -> None:
        """Finish what a predecessor was killed with."""
        super().recover()
        assert self._receiver
        assert self._transmitter
        self._receiver.recover()
        self._transmitter.recover()
        self._resumed = True
        self.link = not self.state.unplugged
        self._agree()

    def quiesce(self) -> None:
        """Take no more frames."""
        super().quiesce()
        self._listen()

    def resume(self) -> None:
        """Take frames again, and send what has been waiting."""
        super().resume()
        self.pending.update((RX, TX))
        self._listen()

    def drain(self) -> None:
        """Bring the statistics in the page up to date; frames are never under way between two events."""
        self.tally.store()

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

    # registers

    @RegisterFile.ctrl.on_write
    def _control(self, value: int) -> None:
        if value & Ctrl.RST:
            self._reset_mac()
            return
        if value & Ctrl.PHY_RST:
            self.phy.power_on()
        self.ctrl = value & ~Ctrl.PHY_RST
        self._show_link()

    def _reset_mac(self) -> None:
        """Reset everything but the PHY, the NVM and configuration space (82574 §4.6.1)."""
        self.tally.store()
        self.state.clear()
        self.state.unplugged = int(not self.link)
        for register in self.registers.all:
            if register.bar is self.bar0:
                register.__set__(self, register.reset)
        self.line(False)
        self._began_anew()

    def _began_anew(self) -> None:
        """Load from the NVM what is not zero after a reset (82574 §6.1.1)."""
        first = self.images[0] + RA
        self.shared.store(first, 4, self.nvm(1) << 16 | self.nvm(0))
        self.shared.store(first + 4, 4, RAH_AV | self.nvm(2))
        self._show_link()
        self.pending.clear()
        if self._transmitter is not None:
            self._transmitter.restart(0)
        self._agree()

    @RegisterFile.eecd.on_write
    def _nvm_control(self, value: int) -> None:
        granted = Eecd.GNT if value & Eecd.REQ else 0
        self.eecd = value & ~Eecd.GNT | granted | Eecd.PRES | Eecd.AUTO_RD

    @RegisterFile.eerd.on_write
    def _read_nvm(self, value: int) -> None:
        if value & EERD_START:
            number = value >> 2 & 0x3FFF
            word = self.nvm(number) if number < NVM_WORDS else 0xFFFF
            value = word << 16 | number << 2 | EERD_DONE
        self.eerd = value

    @RegisterFile.eewr.on_write
    def _write_nvm(self, value: int) -> None:
        number = value >> 2 & 0x3FFF
        if value & EERD_START and number < NVM_WORDS:
            self.shared.store(self.nvm_at + 2 * number, 2, value >> 16)
        self.eewr = value | EERD_DONE

    @RegisterFile.mdic.on_write
    def _phy_access(self, value: int) -> None:
        self.mdic = self.phy.command(value)
        self._show_link()
        if value & Mdic.INTERRUPT:
            self.interrupts.raise_(Cause.MDAC)

    @RegisterFile.icr.on_read
    def _read_causes(self) -> int:
        return self.interrupts.read()

    @RegisterFile.icr.on_write
    def _clear_causes(self, value: int) -> None:
        self.interrupts.acknowledge(value)

    @RegisterFile.ics.on_write
    def _set_causes(self, value: int) -> None:
        self.interrupts.raise_(value)

    @RegisterFile.ims.on_write
    def _unmask(self, value: int) -> None:
        self.interrupts.unmask(value)

    @RegisterFile.imc.on_write
    def _mask(self, value: int) -> None:
        self.interrupts.mask(value)

    @RegisterFile.swsm.on_read
    def _take_semaphore(self) -> int:
        value = self.swsm
        self.swsm = value | SWSM_SMBI
        return value

    @RegisterFile.rctl.on_write
    def _receive_control(self, _value: int) -> None:
        self.pending.add(RX)
        self._agree()

    @RegisterFile.tctl.on_write
    def _transmit_control(self, _value: int) -> None:
        self.pending.add(TX)

    @RegisterFile.rdt.on_write
    def _offered(self, _value: int) -> None:
        self.pending.add(RX)

    @RegisterFile.tdt.on_write
    def _to_send(self, _value: int) -> None:
        self.pending.add(TX)

    @RegisterFile.tdh.on_write
    def _rewound(self, value: int) -> None:
        if self._transmitter is not None:
            self._transmitter.restart(value)

    def count_up(self) -> int:
        """Bring statistics up to date: somebody reads one."""
        self.tally.store()
        return 0

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
        return self._transmitter is not None and self._transmitter.turn()

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
        self.interrupts.received()
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
