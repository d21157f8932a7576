"""The board: either set of interrupt controllers reaches the harts, and what is fitted is where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc import memory_map as mm
from cpu_proc.board import Board, Fitting, Wiring
from cpu_proc.platform import aia, plic
from cpu_proc.platform.flash import BANK
from protocol.errors import ConfigError
from protocol.memory import GuestMemory
from tests.unit.cpu_proc.harness import BUDGET, MMIO, RAM, Bench, load, store


def wiring(bench: Bench) -> Wiring:
    """Return the wiring of a board around the bench's hart, which nothing else listens to."""

    def set_windows(rows: list[list[int]]) -> None:
        bench.hart.set_windows(rows)

    return Wiring(lambda data: None, lambda status: None, lambda: None, set_windows)


def board(bench: Bench, fitting: Fitting) -> Board:
    """Return a board around the bench's hart."""
    return Board([bench.hart], GuestMemory(bench.ram, RAM), bench.irq, bench.clock, wiring(bench), fitting)


@pytest.fixture(autouse=True)
def no_windows(bench: Bench) -> Iterator[None]:
    """Take the board's memory away from the hart, which outlives it."""
    yield
    bench.hart.set_windows([])


def ring(board: Board) -> None:
    """Raise the wire of the UART: an enabled receive interrupt, and a byte."""
    board.space.write(mm.UART0.base + 1, 1, 1)
    board.uart.receive(b"x")


@pytest.mark.parametrize(("context", "bit"), [(0, 11), (1, 9)])
def test_the_plic_drives_the_external_lines(bench: Bench, context: int, bit: int) -> None:
    fitted = board(bench, Fitting("plic"))
    base = mm.PLIC.base
    fitted.space.write(base + 4 * mm.UART0_IRQ, 4, 1)
    fitted.space.write(base + plic.ENABLE + plic.ENABLE_STRIDE * context, 4, 1 << mm.UART0_IRQ)
    ring(fitted)
    assert bench["LINES"] == 1 << bit
    assert fitted.space.read(base + plic.CONTEXT + plic.CONTEXT_STRIDE * context + plic.CLAIM, 4) == mm.UART0_IRQ
    assert bench["LINES"] == 0
    assert bench["IMSIC_PRESENT"] == 0
    assert fitted.space.find(mm.IMSIC_S.base) is None


def test_sources_belong_to_m_mode_until_firmware_hands_them_down(bench: Bench) -> None:
    fitted = board(bench, Fitting("aia"))
    assert bench["IMSIC_PRESENT"] == 1
    config, target = aia.SOURCECFG + 4 * (mm.UART0_IRQ - 1), aia.TARGET + 4 * (mm.UART0_IRQ - 1)
    for base, file in ((mm.APLIC_M.base, "MI"), (mm.APLIC_S.base, "SI")):
        for offset, value in (
            (aia.DOMAINCFG, aia.DOMAINCFG_IE),
            (config, aia.LEVEL1),
            (target, 33),
            (aia.SETIENUM, 10),
        ):
            fitted.space.write(base + offset, 4, value)
        ring(fitted)
        assert bench[f"POSTED_{file}0"] >> 33 & 1
        fitted.reset()
        bench.hart.reset()
        fitted.stand_in_for_firmware()


def test_flash_is_there_when_a_file_is(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "flash1"
    with path.open("wb") as file:
        file.truncate(BANK)
    assert board(bench, Fitting()).space.find(mm.FLASH.base) is None
    fitted = board(bench, Fitting(flash=(None, path)))
    assert fitted.space.read(mm.FLASH.base, 4) == 0xFFFF_FFFF
    assert fitted.space.read(mm.FLASH.base + BANK, 4) == 0
    fitted.close()


@pytest.fixture
def flash(bench: Bench, tmp_path: Path) -> Iterator[Board]:
    """Return a board with code in the first bank: a0 = the word at its own start, then a jump to itself."""
    path = tmp_path / "flash0"
    code = [0x0000_0517, 0x0005_2503, 0x0000_006F]  # auipc a0, 0; lw a0, 0(a0); j .
    with path.open("wb") as file:
        file.write(b"".join(word.to_bytes(4, "little") for word in code))
        file.truncate(BANK)
    fitted = board(bench, Fitting(flash=(path, None)))
    bench.hart["MTVEC"] = RAM
    yield fitted
    fitted.close()


def test_code_in_flash_runs_where_it_is(bench: Bench, flash: Board) -> None:
    before = bench.hart.exits["mmio"]
    bench["PC"] = mm.FLASH.base
    bench["BUDGET"] = 5
    assert bench.hart.run() == BUDGET
    assert (bench.x(10), bench["PC"], bench["MCAUSE"]) == (0x0000_0517, mm.FLASH.base + 8, 0)
    assert bench.hart.exits["mmio"] == before


def test_flash_that_answers_a_command_is_neither_read_nor_executed(bench: Bench, flash: Board) -> None:
    flash.space.write(mm.FLASH.base, 4, 0x0070_0070)
    bench["PC"] = mm.FLASH.base
    bench["BUDGET"] = 1
    bench.hart.run()
    assert (bench["MCAUSE"], bench["MEPC"]) == (1, mm.FLASH.base)  # instruction access fault
    bench.set_x(5, mm.FLASH.base)
    assert bench.run([load("w", 6, 5)]) == MMIO
    bench["MMIO_DONE"] = bench["MCAUSE"] = 0
    flash.space.write(mm.FLASH.base, 4, 0x00FF_00FF)
    assert bench.run([load("w", 6, 5)], count=1) == BUDGET
    assert bench.x(6) == 0x0000_0517


def test_what_is_programmed_is_executed(bench: Bench, flash: Board) -> None:
    for value in (0x0040_0040, 0x0010_0513, 0x00FF_00FF):  # li a0, 1
        flash.space.write(mm.FLASH.base, 4, value)
    bench["PC"] = mm.FLASH.base
    bench["BUDGET"] = 1
    bench.hart.run()
    assert bench.x(10) == 1


def test_stores_to_flash_and_rom_come_to_python(bench: Bench, flash: Board) -> None:
    for base in (mm.FLASH.base, mm.MROM.base):
        bench.set_x(5, base)
        assert bench.run([store("w", 0, 5)]) == MMIO
        bench["MMIO_DONE"] = 0


def test_a_bank_is_saved_with_its_command(flash: Board) -> None:
    (bank,) = flash.flash[:1]
    flash.space.write(mm.FLASH.base, 4, 0x0020_0020)
    assert [getattr(bank, name) for name in bank.SAVED][:2] == [0x70, 0x20]


def test_fw_cfg_has_the_users_files(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"abc")
    fitted = board(bench, Fitting(files=(("opt/a", tmp_path / "content"), ("opt/b", "text"))))
    for key, expected in ((0x20, b"abc"), (0x21, b"text")):
        fitted.space.write(mm.FW_CFG.base + 8, 2, int.from_bytes(key.to_bytes(2, "big"), "little"))
        assert bytes(fitted.space.read(mm.FW_CFG.base, 1) or 0 for _ in expected) == expected
    with pytest.raises(ConfigError, match="fw_cfg opt/c"):
        board(bench, Fitting(files=(("opt/c", tmp_path / "none"),)))
