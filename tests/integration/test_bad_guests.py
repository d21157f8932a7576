"""Guests that go wrong: what they do is defined, the bus shows it, and the CPU process goes on."""

from __future__ import annotations

import json
import random
import time

import pytest

from tests.conftest import Cli
from tests.unit.cpu_proc.boot.files import elf
from tests.unit.cpu_proc.harness import ECALL, MASK, RAM, addi, csrrw, jal, jalr, li

ENTRY = RAM + (2 << 20)
HSM = 0x48534D


def code(*words: int) -> bytes:
    """Return instruction words as bytes."""
    return b"".join(word.to_bytes(4, "little") for word in words)


GARBAGE = random.Random(5).randbytes(65536)
GUESTS = {
    # (code, where the hart then is, the cause of its last trap)
    "jump-to-nothing": (code(*li(5, 0x7000_0000), jalr(0, 5)), 0, 1),
    "jump-to-a-device": (code(*li(5, 0x1000_0000), jalr(0, 5)), 0, 1),
    "jump-beyond-memory": (code(*li(5, MASK - 1), jalr(0, 5)), 0, 1),
    "load-from-nothing": (code(*li(5, 0x7000_0000), 0x0002_B303), 0, 1),
    "handler-in-nothing": (code(*li(5, 0x6000_0000), csrrw(0, "stvec", 5), 0), 0x6000_0000, 1),
    "garbage": (GARBAGE, None, None),
}


def start(cli: Cli, guest: bytes, cpus: int = 1) -> None:
    """Boot ``guest`` in S mode."""
    (cli.folder / "guest").write_bytes(elf(entry=ENTRY, segments=((ENTRY, ENTRY, guest, len(guest)),)))
    cli.write("vm.toml", f'[vm]\nname = "bad"\nmemory = "32M"\ncpus = {cpus}\n[boot]\nkernel = "guest"\n')
    done = cli.run("up", "-d", "--wait")
    assert done.returncode == 0, done.stderr


def look(cli: Cli) -> dict[str, object]:
    """Return what ``inspect`` shows."""
    done = cli.run("inspect", "--json")
    assert done.returncode == 0, done.stderr
    shown: dict[str, object] = json.loads(done.stdout)
    return shown


@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_without_a_handler_is_seen_to_trap(cli: Cli, name: str) -> None:
    guest, pc, cause = GUESTS[name]
    start(cli, guest)
    time.sleep(0.3)
    shown = look(cli)
    assert shown["machine"]["State"] == "running"  # type: ignore[index]
    (hart,) = shown["harts"]  # type: ignore[misc]
    if cause is not None:
        assert (hart["Registers"]["pc"], hart["Registers"]["scause"]) == (pc, cause)
        assert hart["Exits"]["traps"] > 1000
    assert cli.run("reset").returncode == 0
    assert look(cli)["machine"]["State"] == "running"  # type: ignore[index]
    assert cli.run("down", "--timeout", "0.1").returncode == 0  # it would not hear of it


def test_a_guest_may_stop_all_its_harts(cli: Cli) -> None:
    start(cli, code(*li(17, HSM), addi(16, 0, 1), ECALL, jal(0, 0)), cpus=2)
    deadline = time.monotonic() + 10
    while [hart["State"] for hart in look(cli)["harts"]] != ["stopped", "stopped"]:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
    assert look(cli)["machine"]["State"] == "running"  # type: ignore[index]
    assert cli.run("reset").returncode == 0
    assert cli.run("down", "--timeout", "0.1").returncode == 0
