"""The card: what its registers do, and where transmitter, receiver, PHY and NVM meet the wire.

The page is the card: registers, the NVM, the PHY, and how far the rings are done. A successor goes on from it, and
raises every cause once, because what its predecessor was about to say is not known.
"""

from __future__ import annotations

from devproc.e1000e import nvm
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
    State,
)
from devproc.e1000e.transmit import Transmitter
from devproc.e1000e.wire import RX, TX, WiredCard
from protocol.layout import DevicePage


class E1000e(WiredCard):
    """Intel 82574L, a gigabit network card."""

    state_version = 1

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
