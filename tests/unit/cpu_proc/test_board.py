"""The board: either set of interrupt controllers reaches the harts, and what is fitted is where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpu_proc import memory_map as mm
from cpu_proc.board import Board, Fitting, Wiring
from cpu_proc.platform import aia, plic
from cpu_proc.platform.flash import BANK
from protocol.errors import ConfigError
from protocol.memory import GuestMemory
from tests.unit.cpu_proc.harness import RAM, Bench

_WIRING = Wiring(lambda data: None, lambda status: None, lambda: None, lambda rows: None)


def board(bench: Bench, fitting: Fitting) -> Board:
    """Return a board around the bench's hart."""
    return Board([bench.hart], GuestMemory(bench.ram, RAM), bench.irq, bench.clock, _WIRING, fitting)


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


def test_fw_cfg_has_the_users_files(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"abc")
    fitted = board(bench, Fitting(files=(("opt/a", tmp_path / "content"), ("opt/b", "text"))))
    for key, expected in ((0x20, b"abc"), (0x21, b"text")):
        fitted.space.write(mm.FW_CFG.base + 8, 2, int.from_bytes(key.to_bytes(2, "big"), "little"))
        assert bytes(fitted.space.read(mm.FW_CFG.base, 1) or 0 for _ in expected) == expected
    with pytest.raises(ConfigError, match="fw_cfg opt/c"):
        board(bench, Fitting(files=(("opt/c", tmp_path / "none"),)))
