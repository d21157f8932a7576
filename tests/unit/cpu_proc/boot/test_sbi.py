"""The supervisor binary interface, function by function (RISC-V SBI 2.0)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cpu_proc.boot import sbi
from cpu_proc.boot.sbi import BASE, DBCN, HSM, IPI, RFENCE, SRST, TIME, Sbi
from cpu_proc.hart import STARTED, STOPPED
from tests.unit.cpu_proc.harness import (
    BUDGET,
    ECALL,
    MASK,
    NOP,
    RAM,
    RWX,
    S_MODE,
    SBI,
    Bench,
    U,
    load,
    signed,
)  # fmt: skip

S_OK = (0, 0)
INVALID, UNSUPPORTED = sbi.INVALID_PARAM & MASK, sbi.NOT_SUPPORTED & MASK


class Machine:
    """What SBI needs of the machine, recorded."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.harts = [bench.hart]
        self.out = bytearray()
        self.input = b""
        self.events: list[Any] = []
        self.sbi = Sbi(self)

    def console_write(self, data: bytes) -> None:
        """Note output."""
        self.out += data

    def console_read(self, limit: int) -> bytes:
        """Give input."""
        data, self.input = self.input[:limit], self.input[limit:]
        return data

    def ram_read(self, gpa: int, length: int) -> bytes | None:
        """Read guest RAM."""
        return self.bench.hart._memory.read(gpa, length)

    def ram_write(self, gpa: int, data: bytes) -> bool:
        """Write guest RAM."""
        return self.bench.hart._memory.write(gpa, data)

    def power_off(self, status: int) -> None:
        """Note it."""
        self.events.append(status)

    def request_reset(self) -> None:
        """Note it."""
        self.events.append("reset")

    def call(self, extension: int, function: int, *arguments: int) -> tuple[int, int]:
        """Call as a guest does, by an ecall; return (error, value), unsigned."""
        bench = self.bench
        for register in range(10, 16):
            bench.set_x(register, 0)
        for register, value in enumerate(arguments, 10):
            bench.set_x(register, value)
        bench.set_x(16, function)
        bench.set_x(17, extension)
        bench["PRIV"], bench["BUILTIN_SBI"] = S_MODE, 1
        assert bench.run([ECALL, NOP]) == SBI
        self.sbi.call(bench.hart)
        return bench.x(10), bench.x(11)


@pytest.fixture
def machine(bench: Bench) -> Machine:
    """Return a machine with the bench's hart."""
    return Machine(bench)


def test_base_says_what_it_is(machine: Machine) -> None:
    assert machine.call(BASE, 0) == (0, 2 << 24)
    assert machine.call(BASE, 1) == (0, sbi.IMPLEMENTATION_ID)
    assert machine.call(BASE, 2) == (0, sbi.IMPLEMENTATION_VERSION)
    for function in (4, 5, 6):
        assert machine.call(BASE, function) == S_OK
    assert machine.call(BASE, 7) == (UNSUPPORTED, 0)


@pytest.mark.parametrize("extension", [BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN])
def test_probe_finds_what_is_served(machine: Machine, extension: int) -> None:
    assert machine.call(BASE, 3, extension) == (0, 1)


@pytest.mark.parametrize("extension", [0, 1, 8, 0x504D55, 0x53555350, 0x7FFF_FFFF, 1 << 40 | BASE])
def test_probe_does_not_find_what_is_not(machine: Machine, extension: int) -> None:
    assert machine.call(BASE, 3, extension) == S_OK


@pytest.mark.parametrize("extension", [0, 1, 8, 0x504D55, 0x53555350])
def test_unknown_extension_is_not_supported(machine: Machine, extension: int) -> None:
    assert machine.call(extension, 0)[0] == UNSUPPORTED


@pytest.mark.parametrize("extension", [TIME, IPI, RFENCE, HSM, SRST, DBCN])
def test_unknown_function_is_not_supported(machine: Machine, extension: int) -> None:
    assert machine.call(extension, 99)[0] == UNSUPPORTED


def test_other_registers_stay(machine: Machine) -> None:
    machine.bench.set_x(5, 0x1234)
    machine.call(BASE, 0, 1, 2, 3, 4, 5, 6)
    assert [machine.bench.x(n) for n in (5, 12, 13, 14, 15)] == [0x1234, 3, 4, 5, 6]
    assert machine.bench["PC"] == RAM + 4


def test_timer(machine: Machine) -> None:
    machine.bench["MENVCFG"] = 1 << 63
    machine.bench["TIMER_DUE"] = 1 << 5
    assert machine.call(TIME, 0, MASK) == S_OK
    assert (machine.bench["STIMECMP"], machine.bench["TIMER_DUE"]) == (MASK, 0)


@pytest.mark.parametrize(("mask", "base"), [(1, 0), (0, MASK), (MASK, MASK), (0, 0)])
def test_interrupt_to_harts_that_exist(machine: Machine, mask: int, base: int) -> None:
    assert machine.call(IPI, 0, mask, base) == S_OK
    machine.bench.hart.pending_enabled()  # collects what was posted
    assert machine.bench["MIP"] == (2 if mask & 1 or base == MASK else 0)


@pytest.mark.parametrize(("mask", "base"), [(2, 0), (1, 1), (3, 0), (1, 1 << 40), (1, MASK - 1)])
@pytest.mark.parametrize("extension", [IPI, RFENCE])
def test_mask_of_harts_that_do_not_exist(machine: Machine, extension: int, mask: int, base: int) -> None:
    assert machine.call(extension, 0, mask, base) == (INVALID, 0)
    assert machine.bench["MIP"] == 0


@pytest.mark.parametrize("function", [0, 1, 2])
def test_remote_fence_forgets_translations(machine: Machine, function: int) -> None:
    bench = machine.bench
    bench.map(RAM, RAM, RWX)
    entry = bench.map(0x4000_0000, RAM + 0x8000, RWX)
    bench.store(RAM + 0x8000, 1)
    bench.store(RAM + 0x9000, 2)
    bench["PRIV"] = S_MODE
    bench.set_x(5, 0x4000_0000)
    bench.run([load("d", 6, 5)], at=RAM + 0x100)
    bench.store(entry, (RAM + 0x9000) >> 12 << 10 | RWX)
    assert machine.call(RFENCE, function, 1, 0, 0, MASK) == S_OK
    bench["PC"] = RAM + 0x100
    bench.set_x(5, 0x4000_0000)
    bench.step()
    assert bench.x(6) == 2
    _, number = bench.hart.fences.pop()
    assert bench.hart.has_seen(number)


@pytest.mark.parametrize("function", [3, 4, 5, 6])
def test_hypervisor_fences_are_not_supported(machine: Machine, function: int) -> None:
    assert machine.call(RFENCE, function, 1, 0)[0] == UNSUPPORTED


def test_hart_states(machine: Machine) -> None:
    assert machine.call(HSM, 2, 0) == S_OK  # started
    assert machine.call(HSM, 2, 1) == (INVALID, 0)
    assert machine.call(HSM, 0, 0)[0] == sbi.ALREADY_AVAILABLE & MASK
    assert machine.call(HSM, 0, 1) == (INVALID, 0)
    machine.call(HSM, 1)
    assert machine.bench.hart.condition == STOPPED
    assert machine.call(HSM, 2, 0) == (0, 1)
    assert machine.call(HSM, 0, 0, 0x1000, 0)[0] == sbi.INVALID_ADDRESS & MASK
    assert machine.call(HSM, 0, 0, RAM + 0x200, 0x77) == S_OK
    assert (machine.bench.hart.condition, machine.bench["PC"]) == (STARTED, RAM + 0x200)


def test_retentive_suspend_returns(machine: Machine) -> None:
    assert machine.call(HSM, 3, 0, 0x1234, 0x5678) == S_OK
    assert machine.bench["PC"] == RAM + 4


@pytest.mark.parametrize("kind", [1, 0x1000_0000, 0x8000_0001, 0xFFFF_FFFF])
def test_unknown_suspend_type_is_invalid(machine: Machine, kind: int) -> None:
    assert machine.call(HSM, 3, kind) == (INVALID, 0)


def test_non_retentive_suspend_resumes_as_a_started_hart(machine: Machine) -> None:
    """SBI §9.4: at the given address, without translation and interrupts, a0 the hart, a1 what the caller gave."""
    bench = machine.bench
    bench.map(RAM, RAM, RWX)
    bench.map(RAM + 0x4000, RAM + 0x8000, RWX | U)
    bench["MSTATUS"] = 2
    bench["PRIV"] = S_MODE
    bench.set_x(5, RAM + 0x4000)
    bench.store(RAM + 0x4000, 0x44)
    machine.call(HSM, 3, 0x8000_0000, RAM + 0x100, MASK - 1)
    assert (bench.x(10), bench.x(11), bench["PC"]) == (0, MASK - 1, RAM + 0x100)
    assert (bench["SATP"], bench["MSTATUS"] & 2, bench["PRIV"]) == (0, 0, S_MODE)
    bench.words(RAM + 0x100, load("d", 6, 5))
    assert bench.step() == BUDGET
    assert bench.x(6) == 0x44


@pytest.mark.parametrize(
    ("kind", "reason", "event"), [(0, 0, 0), (0, 1, 1), (1, 0, "reset"), (2, 0, "reset"), (1 << 32, 0, 0)]
)
def test_system_reset(machine: Machine, kind: int, reason: int, event: int | str) -> None:
    assert machine.call(SRST, 0, kind, reason) == S_OK
    assert machine.events == [event]


def test_unknown_reset_type_is_invalid(machine: Machine) -> None:
    assert machine.call(SRST, 0, 3) == (INVALID, 0)
    assert machine.events == []


def test_console_write(machine: Machine) -> None:
    machine.bench.bytes(RAM + 0x1000, b"hello")
    assert machine.call(DBCN, 0, 5, RAM + 0x1000, 0) == (0, 5)
    assert machine.call(DBCN, 2, 0x1_21) == S_OK
    assert machine.out == b"hello!"


def test_console_write_may_be_partial(machine: Machine) -> None:
    error, count = machine.call(DBCN, 0, 1 << 20, RAM, 0)
    assert error == 0
    assert 0 < count == len(machine.out)


def test_console_read(machine: Machine) -> None:
    machine.input = b"abcdef"
    assert machine.call(DBCN, 1, 4, RAM + 0x1000, 0) == (0, 4)
    assert machine.call(DBCN, 1, 4, RAM + 0x1004, 0) == (0, 2)
    assert machine.call(DBCN, 1, 4, RAM + 0x1006, 0) == S_OK
    assert bytes(machine.bench.ram.u8[0x1000:0x1008]) == b"abcdef\0\0"


@pytest.mark.parametrize("function", [0, 1])
@pytest.mark.parametrize(("low", "high"), [(0x1000, 0), (RAM, 1), (RAM + (4 << 20) - 1, 0), (MASK, 0), (MASK, MASK)])
def test_console_memory_must_be_ram(machine: Machine, function: int, low: int, high: int) -> None:
    machine.input = b"keep"
    assert machine.call(DBCN, function, 2, low, high) == (INVALID, 0)
    assert (machine.out, machine.input) == (b"", b"keep")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.sampled_from([BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN]) | some.integers(0, MASK),
    some.integers(0, 8) | some.integers(0, MASK),
    some.lists(some.sampled_from([0, 1, 2, RAM, MASK]) | some.integers(0, MASK), min_size=6, max_size=6),
)
def test_any_call_is_answered(machine: Machine, extension: int, function: int, arguments: list[int]) -> None:
    machine.call(extension, function, *arguments)
    assert signed(machine.bench.x(10)) <= 0 or extension & 0xFFFF_FFFF == HSM
