"""What Linux's e1000e does before it has an interface, register by register, and interrupts."""

from __future__ import annotations

import pytest
from hypothesis import given

from devproc.e1000e import nvm
from devproc.e1000e.__main__ import PROGRAM
from devproc.e1000e.device import E1000e
from devproc.e1000e.spec import Cause, Ctrl, CtrlExt, Mdic, Status
from devproc.e1000e.wire import Config
from devproc.strategies import Access, accesses, exercise
from protocol.layout import ReadKind, WriteKind
from tests.unit.devproc.e1000e.driver import Nic
from tests.unit.devproc.virtio_net.rig import MAC, Wire

EERD_DONE = 2
MII = {"control": 0, "status": 1, "id1": 2, "id2": 3, "status_1000": 10, "specific": 17}


def read_nvm(nic: Nic, word: int) -> int:
    nic.set("eerd", word << 2 | 1)
    value = nic.get("eerd")
    assert value & EERD_DONE
    return value >> 16


def read_phy(nic: Nic, register: int, address: int = 1) -> int:
    nic.set("mdic", Mdic.READ | address << 21 | register << 16)
    value = nic.get("mdic")
    assert value & Mdic.READY
    return -1 if value & Mdic.ERROR else value & 0xFFFF


def write_phy(nic: Nic, register: int, value: int) -> None:
    nic.set("mdic", Mdic.WRITE | 1 << 21 | register << 16 | value)


def test_identity_and_capabilities(nic: Nic) -> None:
    config = bytes(nic.device.read(7, at, 1) for at in range(256))
    assert config[0:4] == b"\x86\x80\xd3\x10"
    found, at = {}, config[0x34]
    while at:
        found[config[at]] = at
        at = config[at + 1]
    assert found[0x10] == 0xE0  # PCI Express: drivers look for link and payload there
    assert config[0xE2] & 0xFF == 0x01
    assert 0x11 in found
    assert nic.device.page_size < 1 << 20


def test_nvm_has_the_address_and_adds_up(nic: Nic) -> None:
    words = [read_nvm(nic, word) for word in range(64)]
    assert b"".join(word.to_bytes(2, "little") for word in words[:3]) == MAC
    assert sum(words) & 0xFFFF == nvm.CHECKSUM
    assert words[3] & 1  # the checksum counts: the driver does not rewrite it
    assert words[0x0F] & 0x6000 == 0  # no manageability
    assert read_nvm(nic, 64) == 0xFFFF


def test_nvm_is_written_and_kept_over_a_reset(nic: Nic) -> None:
    nic.set("eewr", 0x1234 << 16 | 0x20 << 2 | 1)
    assert nic.get("eewr") & EERD_DONE
    nic.set("ctrl", Ctrl.RST)
    assert read_nvm(nic, 0x20) == 0x1234


def test_nvm_is_granted_to_who_asks(nic: Nic) -> None:
    assert nic.get("eecd") & 0x18300 == 0x300  # present, read, and no flash
    nic.set("eecd", 0x40)
    assert nic.get("eecd") & 0x3C0 == 0x3C0


def test_phy_is_the_one_that_drivers_take(nic: Nic) -> None:
    assert read_phy(nic, MII["id1"]) << 16 | read_phy(nic, MII["id2"]) == 0x0141_0CB1
    assert read_phy(nic, MII["status"]) & 0x24 == 0x24
    assert read_phy(nic, MII["status_1000"]) & 0x3800 == 0x3800
    assert read_phy(nic, MII["specific"]) & 0xC000 == 0x8000
    assert read_phy(nic, 2, address=2) == -1
    nic.set("mdic", 1 << 21)  # neither a read nor a write
    assert nic.get("mdic") & Mdic.ERROR


def test_phy_keeps_what_is_written_and_ends_commands_at_once(nic: Nic) -> None:
    write_phy(nic, 4, 0x0C61)
    assert read_phy(nic, 4) == 0x0C61
    write_phy(nic, MII["control"], 0x9340)  # reset, autonegotiation from the beginning
    assert read_phy(nic, MII["control"]) == 0x1140
    write_phy(nic, MII["id1"], 0)
    assert read_phy(nic, MII["id1"]) == 0x0141
    nic.set("ctrl", Ctrl.PHY_RST)
    assert not nic.get("ctrl") & Ctrl.PHY_RST
    assert read_phy(nic, 4) == 0x0DE1


def test_a_phy_that_sleeps_has_no_link(nic: Nic) -> None:
    write_phy(nic, MII["control"], 0x0800)
    assert not nic.get("status") & Status.LU
    write_phy(nic, MII["control"], 0x1140)
    assert nic.get("status") & Status.LU


def test_reset_brings_registers_back(nic: Nic) -> None:
    nic.set("ral_0", 0)
    nic.set("mta_5", 7)
    nic.set("ctrl", Ctrl.RST)
    assert nic.get("ral_0").to_bytes(4, "little") + nic.get("rah_0").to_bytes(4, "little")[:2] == MAC
    assert nic.get("rah_0") >> 31 == 1
    assert (nic.get("rctl"), nic.get("tctl"), nic.get("ims"), nic.get("mta_5"), nic.get("tdt")) == (0, 0, 0, 0, 0)
    assert not nic.get("ctrl") & Ctrl.RST
    assert nic.get("eemngctl") & 1 << 18


def test_bus_mastering_ends_when_it_is_told_to(nic: Nic) -> None:
    assert nic.get("status") & Status.MASTER_ENABLE
    nic.set("ctrl", nic.get("ctrl") | Ctrl.MASTER_DISABLE)
    assert not nic.get("status") & Status.MASTER_ENABLE


def test_each_tail_has_its_doorbell(nic: Nic) -> None:
    page = nic.machine.page
    for name, bell in (("rdt", 0), ("tdt", 1)):
        bar, offset = E1000e.registers.place(E1000e.registers.by_name[name])
        assert bar == page.doorbell_bar
        assert (offset - page.doorbell_offset) // page.doorbell_stride == bell
    kinds = page.bar(0).kinds
    assert nic.device.shared.u8[kinds + 0x3000] == ReadKind.ZERO | WriteKind.DROP << 4  # nothing between them


def test_semaphores(nic: Nic) -> None:
    nic.set("extcnf_ctrl", 0x20)
    assert nic.get("extcnf_ctrl") & 0x20
    assert nic.get("swsm") & 1 == 0
    assert nic.get("swsm") & 1 == 1
    nic.set("swsm", 0)
    assert nic.get("swsm") & 1 == 0


def test_only_reads_with_an_effect_ask_the_device() -> None:
    asked = {r.name for r in E1000e.registers.all if r.read_kind is ReadKind.MESSAGE}
    assert {"icr", "swsm", "gprc", "gotcl"} <= asked
    ringing = {r.name for r in E1000e.registers.all if r.write_kind is WriteKind.RING}
    assert ringing == {"rdt", "tdt"}
    assert not asked & {"status", "ims", "tdh", "rdt", "crcerrs", "mdic", "eerd", "ctrl", "systiml"}


# interrupts


def test_a_message_is_sent_once_and_masks_itself() -> None:
    nic = Nic()
    nic.set("ics", Cause.RXQ0)
    nic.set("ics", Cause.RXQ0)
    assert nic.messages() == [1, 0, 0]
    assert nic.get("ims") & Cause.RXQ0 == 0
    nic.set("ims", Cause.RXQ0)  # the poll is over, and there is more
    assert nic.messages() == [2, 0, 0]
    nic.set("ims", Cause.RXQ0)
    assert nic.messages() == [2, 0, 0]


def test_other_causes_stay_until_they_are_read() -> None:
    nic = Nic()
    nic.set("ics", Cause.LSC)
    assert nic.messages() == [0, 0, 1]
    assert nic.get("icr") == Cause.INT_ASSERTED | Cause.LSC | Cause.OTHER
    assert nic.get("icr") == 0
    nic.set("ics", Cause.LSC)
    assert nic.messages() == [0, 0, 2]


def test_masked_causes_wait() -> None:
    nic = Nic()
    nic.set("imc", 0xFFFF_FFFF)
    nic.set("ics", Cause.LSC)
    assert nic.messages() == [0, 0, 0]
    nic.set("ims", Cause.OTHER)
    assert nic.messages() == [0, 0, 1]


def test_auto_mask_with_a_message() -> None:
    nic = Nic()
    nic.set("ctrl_ext", CtrlExt.EIAME)
    nic.set("iam", Cause.OTHER)
    nic.set("ics", Cause.LSC)
    assert nic.get("ims") & Cause.OTHER == 0


def test_a_cause_without_a_message_sends_none() -> None:
    nic = Nic()
    nic.set("ivar", 0)
    nic.set("ics", Cause.RXQ0)
    assert nic.messages() == [0, 0, 0]


def test_the_wire_is_held_until_causes_are_read() -> None:
    nic = Nic(msix=False)
    nic.set("ics", Cause.LSC)
    assert nic.machine.irq.word(0) == 1
    assert nic.get("icr") == Cause.INT_ASSERTED | Cause.LSC
    assert nic.machine.irq.word(0) == 0


def test_reading_masks_by_itself_if_that_is_wanted() -> None:
    nic = Nic(msix=False)
    nic.set("ctrl_ext", CtrlExt.IAME)
    nic.set("iam", 0xFFFF_FFFF)
    nic.set("ics", Cause.TXDW)
    nic.get("icr")
    assert nic.get("ims") == 0
    nic.set("ics", Cause.TXDW)
    assert nic.machine.irq.word(0) == 0


def test_causes_that_interrupt_nobody_are_read_but_stay() -> None:
    nic = Nic(msix=False)
    nic.set("ics", Cause.RXO)
    assert nic.get("icr") == Cause.RXO
    assert nic.get("icr") == Cause.RXO
    nic.set("icr", Cause.RXO)
    assert nic.get("icr") == 0


def test_the_cable_is_pulled_and_found_so_by_a_successor() -> None:
    nic = Nic()
    nic.device.set_link(up=False)
    assert not nic.get("status") & Status.LU
    assert read_phy(nic, MII["status"]) & 4 == 0
    assert nic.messages() == [0, 0, 1]
    nic.die()
    assert not nic.device.link
    nic.set("ctrl", Ctrl.RST)
    assert not nic.get("status") & Status.LU
    nic.device.set_link(up=True)
    assert nic.get("status") & Status.LU
    assert nic.device.configuration()["link"] == "up"


def test_the_cable_of_a_card_in_no_machine() -> None:
    card = E1000e(Config(MAC), Wire())
    card.set_link(up=False)
    assert not card.link
    assert not card.announce()
    assert (card.now_ns(), card.goes_on()) == (0, False)
    card.close()


@given(accesses(E1000e))
def test_any_accesses(found: list[Access]) -> None:
    exercise(lambda: E1000e(Config(MAC), Wire()), found)


@pytest.mark.parametrize("name", ["mta_127", "vfta_0", "rah_15", "reta_31", "rssrk_9", "eitr_4"])
def test_tables_are_storage(nic: Nic, name: str) -> None:
    nic.set(name, 0xDEAD_BEEF)
    assert nic.get(name) == 0xDEAD_BEEF


def test_program() -> None:
    assert PROGRAM.type == "e1000e"
    assert PROGRAM.device is E1000e
