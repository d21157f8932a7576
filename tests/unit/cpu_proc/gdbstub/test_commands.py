"""Commands of the protocol over two real harts: registers, memory, threads, and packets that mean nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpu_proc.gdbstub import description
from cpu_proc.gdbstub.framing import PACKET_MAX
from cpu_proc.isa.csr import numbers
from tests.unit.cpu_proc.gdbstub.conftest import RAM_SIZE, Talk
from tests.unit.cpu_proc.harness import RAM, RWX, TABLES, V

UART = 0x1000_0000


def little(value: int, size: int = 8) -> str:
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little").hex()


def csr(name: str) -> str:
    return f"{description.CSR0 + numbers()[name]:x}"


def test_the_description_has_every_register_under_gdbs_number() -> None:
    root = ET.fromstring(description.target_xml().decode().split("\n", 2)[2])
    features = {feature.get("name", ""): feature for feature in root.findall("feature")}
    found = {reg.get("name"): int(reg.get("regnum", "")) for reg in root.iter("reg")}

    assert list(features) == [f"org.gnu.gdb.riscv.{name}" for name in ("cpu", "fpu", "csr", "virtual")]
    assert (found["zero"], found["t6"], found["pc"], found["ft0"], found["priv"]) == (0, 31, 32, 33, 4161)
    assert {name: found[name] - 65 for name in numbers()} == numbers()
    assert len(found) == len(set(found.values()))


def test_the_description_comes_in_parts(talk: Talk) -> None:
    text, reply = "", "m"
    while reply[0] == "m":
        reply = talk(f"qXfer:features:read:target.xml:{len(text):x},200") or ""
        text += reply[1:]

    assert text.encode() == description.target_xml()
    assert talk("qXfer:features:read:other.xml:0,100") == "E00"


def test_what_is_supported_is_said(talk: Talk) -> None:
    reply = talk("qSupported:multiprocess+;swbreak+;hwbreak+") or ""

    assert f"PacketSize={PACKET_MAX:x}" in reply
    assert talk.commands.understood == ["swbreak", "hwbreak"]
    assert talk("vCont?") == "vCont;c;C;s;S;t"
    assert talk("vMustReplyEmpty") == ""
    assert talk.commands.acks
    assert talk("QStartNoAckMode") == "OK"
    assert not talk.commands.acks


def test_integer_and_floating_registers_and_pc(talk: Talk) -> None:
    assert talk("Pa=" + little(0x1234_5678_9ABC_DEF0)) == "OK"
    assert talk("pa") == little(0x1234_5678_9ABC_DEF0)
    assert talk("P0=" + little(5)) == "OK"
    assert talk("p0") == little(0)
    assert talk("P20=" + little(RAM + 0x101)) == "OK"
    assert talk.pc() == RAM + 0x100
    assert talk("P22=" + little(1 << 63)) == "OK"
    everything = talk("g") or ""
    assert len(everything) == 65 * 16
    assert everything[10 * 16 : 11 * 16] == little(0x1234_5678_9ABC_DEF0)
    assert everything[34 * 16 : 35 * 16] == little(1 << 63)
    assert talk("G" + little(0) + little(77)) == "OK"
    assert talk("p1") == little(77)


def test_csrs_obey_the_guests_rules(talk: Talk) -> None:
    assert talk(f"P{csr('mtvec')}=" + little(-1)) == "OK"
    assert talk(f"p{csr('mtvec')}") == little(~2)
    assert talk(f"P{csr('mhartid')}=" + little(9)) == "E01"  # read-only
    assert talk(f"p{csr('mhartid')}") == little(0)
    assert talk(f"p{description.CSR0 + 0x123:x}") == "E01"  # none of that number
    assert talk(f"P{csr('satp')}=" + little(15 << 60)) == "OK"  # no such mode: as it was
    assert talk(f"p{csr('satp')}") == little(0)
    assert talk(f"P{csr('fcsr')}=" + little(0xFFF, 4)) == "OK"  # whatever mstatus.FS says
    assert talk(f"p{csr('fflags')}") == little(31, 4)
    assert talk(f"p{csr('frm')}") == little(7, 4)
    assert talk(f"P{csr('minstret')}=" + little(100)) == "OK"
    assert talk(f"p{csr('minstret')}") == little(100)
    hart = talk.machine.harts[0]
    assert (hart["EXIT"], hart["PRIV"], hart["TRAPS"]) == (0, 3, hart["TRAPS"])


def test_the_privilege_level_can_be_set_to_one_that_exists(talk: Talk) -> None:
    number = f"{description.PRIV:x}"

    assert talk(f"p{number}") == little(3)
    assert talk(f"P{number}=" + little(1)) == "OK"
    assert talk.machine.harts[0]["PRIV"] == 1
    assert talk(f"P{number}=" + little(2)) == "E01"


def test_memory_in_hex_and_binary(talk: Talk) -> None:
    assert talk(f"M{RAM + 1:x},3:0a0b0c") == "OK"
    assert talk(f"m{RAM:x},5") == "000a0b0c00"
    assert talk(b"X%x,4:\x01}\x03}]\x02" % RAM) == "OK"
    assert bytes(talk.ram.u8[:4]) == b"\x01#}\x02"
    assert talk(f"x{RAM:x},4") == "b\x01#}\x02"
    assert talk(f"X{RAM:x},0:") == "OK"


def test_what_is_not_ram_is_refused_and_not_touched(talk: Talk) -> None:
    uart = talk.machine.board.uart
    uart.receive(b"a")

    assert talk(f"m{UART:x},1") == "E01"
    assert talk(f"M{UART:x},1:41") == "E01"
    assert talk("m0,8") == "E01"
    assert talk(f"m{RAM + RAM_SIZE - 2:x},8") == "0000"  # what there is of it
    assert talk(f"M{RAM + RAM_SIZE - 2:x},4:01020304") == "E01"
    assert bytes(talk.ram.u8[RAM_SIZE - 2 :]) == b"\0\0"  # all or nothing
    assert talk.printed == b""


def test_addresses_are_those_of_the_selected_hart_or_physical(talk: Talk) -> None:
    second = talk.machine.harts[1]
    root = (TABLES - RAM) // 8
    talk.ram.u64[root] = RAM >> 12 << 10 | RWX | V  # 1 GiB at virtual 0
    second["PRIV"], second["SATP"] = 1, 8 << 60 | TABLES >> 12
    talk(f"M{RAM:x},2:abcd")

    assert talk("m0,2") == "E01"
    assert talk("Hg2") == "OK"
    assert talk("m0,2") == "abcd"
    assert talk("qqemu.PhyMemMode") == "0"
    assert talk("Qqemu.PhyMemMode:1") == "OK"
    assert talk("qqemu.PhyMemMode") == "1"
    assert talk("m0,2") == "E01"
    assert talk(f"m{RAM:x},2") == "abcd"


def test_threads(talk: Talk) -> None:
    assert talk("qfThreadInfo") == "m1,2"
    assert talk("qsThreadInfo") == "l"
    assert talk("qC") == "QC1"
    assert [talk(f"T{thread}") for thread in ("1", "2", "3", "p1.2")] == ["OK", "OK", "E01", "OK"]
    assert bytes.fromhex(talk("qThreadExtraInfo,2") or "") == b"hart 1, started, M mode"
    assert talk("qThreadExtraInfo,9") == "E01"
    assert [talk(f"H{which}") for which in ("g2", "g0", "c-1", "g3", "x1")] == ["OK", "OK", "OK", "E01", "E22"]
    assert talk("qC") == "QC2"
    assert talk("qAttached") == "1"


def test_monitor(talk: Talk) -> None:
    def monitor(text: str) -> str:
        return bytes.fromhex(talk("qRcmd," + text.encode().hex()) or "").decode()

    assert "info harts" in monitor("help")
    assert monitor("info harts").count("pc=") == 2
    assert "uart0" in monitor("info map")
    assert monitor("info points") == "none\n"
    assert monitor(f"translate {RAM:#x}") == f"{RAM:#x}\n"
    assert monitor("translate x").startswith("translate which")
    assert monitor("quit 1000").startswith("quit with which")
    assert monitor("no such").startswith("no command 'no such'")


@pytest.mark.parametrize(
    "packet",
    ["p", "pzz", "P1", "P1=zz", "P1=0", "m", "m1", "m1,", "m-1,1", "m1,1_0", "M1,2:00", "M1,1:0", "X1,1:", "G0",
     "Hg", "H", "Tx", "Z0,zz,1", "Z0,1", "Z2,1,0", "vCont;x", "vCont;c:zz", "vCont;C", "qRcmd,z",
     "qXfer:features:read:", "qXfer:features:read:target.xml:0",
     "Qqemu.PhyMemMode:", "Qqemu.sstep=zz", "qThreadExtraInfo,", "cxyz",
     "m" + "1" * 40 + ",1"],
)  # fmt: skip
def test_malformed_packets_are_answered_with_an_error(talk: Talk, packet: str) -> None:
    assert (talk(packet) or "")[:1] == "E"


_PREFIXES = st.sampled_from(
    [*"?cCDgGHmMpPqQsSTvXxzZ!", "qSupported", "qXfer:features:read:", "qRcmd,", "vCont;", "vCont;s:", "vCont;c:",
     "Z0,", "Z1,", "Z2,", "Z3,", "Z4,", "z0,", "z4,", "Qqemu.", "qThreadExtraInfo,",
     f"m{RAM:x},", f"M{RAM:x},4:", "P20=", "Hc"]
)  # fmt: skip
_REST = st.binary(max_size=40) | st.text("0123456789abcdef,:;-.pcstCS=", max_size=40).map(str.encode)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_PREFIXES, _REST)
def test_no_packet_raises(talk: Talk, prefix: str, rest: bytes) -> None:
    payload = prefix.encode() + rest
    if not payload.startswith((b"k", b"vKill")):
        reply = talk(payload)
        assert reply is None or len(reply) <= PACKET_MAX
    talk.do(talk.control.attach)
