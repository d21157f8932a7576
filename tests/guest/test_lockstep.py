"""Debian's kernel on both engines in lock-step; ``python -m tests.fuzz.lockstep boot`` goes all the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpu_proc.boot.config import BootConfig
from tests.fuzz.lockstep import Lockstep
from tests.fuzz.twins import Guest

pytestmark = [pytest.mark.boot]


def test_the_first_instructions_of_debian_are_alike(debian: Path, tmp_path: Path) -> None:
    boot = BootConfig(debian / "vmlinuz", debian / "initrd.img", "console=ttyS0 earlycon")
    run = Lockstep(Guest(boot, 192 << 20), tmp_path, seed=8, most=5000)
    assert run.run(150_000_000) == ""
    assert "riscv: base ISA extensions acdfim" in run.console
