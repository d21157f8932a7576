"""The device that newcomers copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devproc.machine import Machine
from devproc.template.__main__ import PROGRAM
from devproc.template.device import Config, Rng

ROOT = Path(__file__).parents[3]


@pytest.fixture
def rng() -> Iterator[Rng]:
    """Return a source of the number 7 that runs dry after two words."""
    device = Rng(Config(limit=2), source=lambda _bits: 7)
    machine = Machine.private(device.page_size)
    device.attach(machine)
    yield device
    device.release()
    machine.close()


def test_words_need_enabling(rng: Rng) -> None:
    assert rng.read(0, 0, 4) == 0
    rng.write(0, 8, 4, 1)
    assert rng.read(0, 0, 4) == 7
    assert rng.read(0, 0x0C, 4) == 1


def test_running_dry_interrupts_until_cleared(rng: Rng) -> None:
    rng.write(0, 8, 4, 3)
    rng.read(0, 0, 4)
    rng.read(0, 0, 4)

    assert rng.read(0, 0x04, 4) == 0
    assert rng.read(0, 0x00, 4) == 0
    assert rng.machine.irq.word(0) == 1
    rng.write(0, 0x10, 4, 1)
    assert rng.machine.irq.word(0) == 0


def test_running_dry_with_msix_sends_one_message(rng: Rng) -> None:
    rng.pci_msix_control |= 0x8000
    rng.write(0, 8, 4, 3)
    rng.read(0, 0, 4)
    rng.read(0, 0, 4)

    assert (rng.machine.irq.word(0), rng.machine.irq.word(1)) == (0, 1)


def test_program_says_what_it_is() -> None:
    assert PROGRAM.type == "template"
    assert Rng(Config(limit=3)).configuration() == {"limit": "3"}


@pytest.mark.parametrize("name", ["device", "entropy", "clock"])
def test_tutorial_shows_the_tested_file(name: str) -> None:
    source = (ROOT / f"devproc/template/{name}.py").read_text()
    tutorial = (ROOT / "docs/writing-a-device.md").read_text()

    assert f"```python\n{source[source.index('from __future__') :]}```\n" in tutorial
