"""The serial port, register by register, as a driver of the 16550 uses it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cpu_proc.platform.uart import (
    IER,
    IER_RX,
    IER_TX,
    IIR_FCR,
    IIR_NONE,
    IIR_RX,
    IIR_TIMEOUT,
    IIR_TX,
    LCR,
    LSR,
    LSR_BI,
    LSR_DR,
    MCR,
    MSR,
    RBR_THR,
    SCR,
    Uart,
)  # fmt: skip


class Port:
    """A UART with its two wires recorded."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.line = -1
        self.uart = Uart(self.out.append, self.set_line)

    def set_line(self, level: int) -> None:
        """Note the level."""
        self.line = int(level)

    def read(self, register: int) -> int:
        """Read one register."""
        return self.uart.read(register, 1)

    def write(self, register: int, value: int) -> None:
        """Write one register."""
        self.uart.write(register, 1, value)


@pytest.fixture
def port() -> Port:
    """Return a port after reset."""
    return Port()


def test_transmitted_bytes_come_out_in_order(port: Port) -> None:
    for byte in b"hello\0\xff":
        assert port.read(LSR) & 0x60 == 0x60
        port.write(RBR_THR, byte)
    assert port.out == b"hello\0\xff"


def test_received_bytes_are_read_in_order_however_many(port: Port) -> None:
    port.write(IIR_FCR, 1)
    data = bytes(range(256)) * 3
    port.uart.receive(data)
    seen = bytearray()
    while port.read(LSR) & LSR_DR:
        seen.append(port.read(RBR_THR))
    assert seen == data
    assert port.read(RBR_THR) == 0


def test_without_fifo_one_byte_at_a_time(port: Port) -> None:
    port.write(IER, IER_RX)
    port.uart.receive(b"ab")
    assert (port.line, port.read(IIR_FCR)) == (1, IIR_RX)
    assert port.read(RBR_THR) == ord("a")
    assert (port.line, port.read(RBR_THR), port.line) == (1, ord("b"), 0)


@pytest.mark.parametrize(("trigger", "level"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_trigger_level_tells_data_from_timeout(port: Port, trigger: int, level: int) -> None:
    port.write(IIR_FCR, 1 | trigger)
    port.write(IER, IER_RX)
    port.uart.receive(b"x" * (level - 1))
    assert port.read(IIR_FCR) == 0xC0 | (IIR_TIMEOUT if level > 1 else IIR_NONE)
    port.uart.receive(b"x")
    assert (port.line, port.read(IIR_FCR)) == (1, 0xC0 | IIR_RX)


def test_transmitter_interrupt_comes_when_enabled_and_after_each_byte(port: Port) -> None:
    port.write(IER, IER_TX)
    assert (port.line, port.read(IIR_FCR), port.line) == (1, IIR_TX, 0)
    assert port.read(IIR_FCR) == IIR_NONE
    port.write(RBR_THR, 65)
    assert (port.line, port.read(IIR_FCR), port.line) == (1, IIR_TX, 0)
    port.write(IER, IER_TX)  # no edge: nothing new
    assert port.line == 0
    port.write(IER, 0)
    port.write(IER, IER_TX)
    assert port.line == 1


def test_received_data_goes_before_the_transmitter(port: Port) -> None:
    port.write(IER, IER_TX | IER_RX)
    port.uart.receive(b"a")
    assert port.read(IIR_FCR) == IIR_RX
    port.read(RBR_THR)
    assert port.read(IIR_FCR) == IIR_TX


def test_divisor_hides_behind_its_bit(port: Port) -> None:
    port.write(IER, IER_RX)
    port.write(LCR, 0x83)
    port.write(RBR_THR, 0x34)
    port.write(IER, 0x12)
    assert (port.read(RBR_THR), port.read(IER), port.out) == (0x34, 0x12, b"")
    port.write(LCR, 3)
    assert (port.read(IER), port.read(LCR)) == (IER_RX, 3)


def test_scratch_and_modem_registers(port: Port) -> None:
    port.write(SCR, 0xA5)
    port.write(MCR, 0xFF)
    assert (port.read(SCR), port.read(MCR)) == (0xA5, 0x1F)


@pytest.mark.parametrize(("mcr", "msr"), [(0x10, 0), (0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80), (0, 0xB0)])
def test_loopback_wires_outputs_to_inputs(port: Port, mcr: int, msr: int) -> None:
    port.write(MCR, mcr)
    assert port.read(MSR) == msr


def test_loopback_returns_what_is_sent(port: Port) -> None:
    port.write(MCR, 0x10)
    port.write(RBR_THR, 0x5A)
    assert (port.out, port.read(LSR) & LSR_DR, port.read(RBR_THR)) == (b"", LSR_DR, 0x5A)


def test_clearing_the_fifo_drops_what_was_in_it(port: Port) -> None:
    port.write(IIR_FCR, 1)
    port.uart.receive(b"abc")
    port.write(IIR_FCR, 3)
    assert port.read(LSR) & LSR_DR == 0


def test_break_reads_as_a_zero_with_its_bit(port: Port) -> None:
    port.uart.receive_break(b"h")
    assert port.read(LSR) & (LSR_BI | LSR_DR) == LSR_BI | LSR_DR
    assert port.read(RBR_THR) == 0
    assert port.read(LSR) & LSR_BI == 0
    assert port.read(RBR_THR) == ord("h")


def test_reset_lowers_the_line(port: Port) -> None:
    port.write(IER, IER_RX)
    port.uart.receive(b"abc")
    assert port.line == 1
    port.uart.reset()
    assert (port.line, port.read(IER), port.read(IIR_FCR)) == (0, 0, IIR_NONE)


@given(
    some.lists(
        some.tuples(some.integers(0, 0x100), some.sampled_from([1, 2, 4, 8]), some.none() | some.integers(0, 255)),
        max_size=40,
    )
)
def test_any_access_is_answered(todo: list[tuple[int, int, int | None]]) -> None:
    port = Port()
    port.uart.receive(b"abc")
    for register, size, value in todo:
        if value is None:
            assert 0 <= port.uart.read(register, size) <= 255
        else:
            port.uart.write(register, size, value)
    assert port.line in (0, 1)
