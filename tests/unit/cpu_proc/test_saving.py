"""State saved and loaded is exact, and instructions are a clock that two runs agree on."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import msgpack
import pytest
import zstandard

from cpu_proc import saving
from cpu_proc.machine import Machine
from protocol.errors import ConfigError
from tests.unit.cpu_proc import clockwork

ROOT = Path(__file__).parents[3]


def elsewhere(folder: Path, *options: str) -> tuple[int, str]:
    """Run the guest in a process of its own."""
    command = [sys.executable, "-m", "tests.unit.cpu_proc.clockwork", str(folder), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=200)
    instructions, digest = done.stdout.split()
    return int(instructions), digest


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """Return the guest as a file."""
    path = tmp_path / "clockwork"
    path.write_bytes(clockwork.program())
    return path


def saved_after(kernel: Path, instructions: int, folder: Path) -> tuple[int, tuple[int, str]]:
    """Save a running machine once that much is retired, let it go on; return when that was, and its result."""
    off = threading.Event()
    machine = clockwork.machine(kernel, off.set)
    machine.harts[0]["BUDGET"] = instructions
    machine.start()
    while machine.harts[0]["INSTRET"] < instructions and not off.is_set():
        off.wait(0.001)

    def save() -> int:
        saving.save(machine, folder)
        return machine.harts[0]["INSTRET"]

    at = machine.do(save).result(60)
    for _ in range(10_000):  # whoever looks changes nothing
        machine.do(lambda: None)
        if off.wait(0.002):
            break
    assert off.wait(120)
    machine.join()
    found = clockwork.result(machine)
    machine.close()
    for shared in (machine.ram, machine.irq.shared, machine.clock.page.shared):
        shared.close()
    return at, found


def test_two_runs_are_the_same_and_a_saved_one_goes_on_the_same_in_another_process(
    kernel: Path, tmp_path: Path
) -> None:
    at, here = saved_after(kernel, 300_000, tmp_path / "state")
    assert 300_000 <= at < here[0]
    assert elsewhere(tmp_path) == here
    assert elsewhere(tmp_path, "--state", str(tmp_path / "state")) == here


def test_what_is_saved_is_what_is_loaded(kernel: Path, tmp_path: Path) -> None:
    saved_after(kernel, 500_000, tmp_path / "one")
    loaded = clockwork.machine(kernel, lambda: None)
    saving.load(loaded, tmp_path / "one")
    saving.save(loaded, tmp_path / "two")
    close(loaded)
    for name in ("state", "ram"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_memory_that_the_guest_cleared_is_clear_in_the_loaded_machine(kernel: Path, tmp_path: Path) -> None:
    """A machine is loaded after its kernel was placed: what was placed must not shine through."""
    saved = clockwork.machine(kernel, lambda: None)
    offset = clockwork.ENTRY - clockwork.RAM
    assert any(saved.ram.u8[offset : offset + 4096])
    saved.ram.u8[:] = bytes(saved.ram.size)
    saved.ram.u64[100] = 7
    saving.save(saved, tmp_path / "state")
    close(saved)
    loaded = clockwork.machine(kernel, lambda: None)
    saving.load(loaded, tmp_path / "state")
    assert loaded.ram.u64[100] == 7
    loaded.ram.u64[100] = 0
    clear = bytes(loaded.ram.u8) == bytes(loaded.ram.size)
    close(loaded)
    assert clear


def packed(state: object) -> bytes:
    """Return what a file of that state holds."""
    return zstandard.ZstdCompressor().compress(msgpack.packb(state))


def flip(path: Path, at: int) -> None:
    """Change a bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def close(machine: Machine) -> None:
    machine.close()
    for shared in (machine.ram, machine.irq.shared, machine.clock.page.shared):
        shared.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "state").unlink(), "cannot read the state"),
        (lambda folder: (folder / "ram").unlink(), "cannot read the state"),
        (lambda folder: (folder / "ram").write_bytes(b"short"), "is cut off"),
        (lambda folder: (folder / "state").write_bytes(b"\xc1garbage"), "is broken"),
        (lambda folder: (folder / "state").write_bytes(b""), "is broken"),
        (lambda folder: (folder / "state").write_bytes(packed([1])), "no state of version"),
        (lambda folder: (folder / "state").write_bytes(packed({"version": 99})), "no state of version"),
        (lambda folder: (folder / "state").write_bytes(packed({"version": saving.VERSION})), "is broken"),
        (
            lambda folder: (folder / "state").write_bytes(packed({"version": saving.VERSION, "machine": {"harts": 2}})),
            "is of another machine",
        ),
        (lambda folder: flip(folder / "ram", 60), "damaged"),
        (lambda folder: flip(folder / "state", 30), "is broken"),
        (lambda folder: (folder / "ram").write_bytes((folder / "ram").read_bytes()[:-16]), "is cut off"),
    ],
)
def test_a_state_that_is_none_is_named(kernel: Path, tmp_path: Path, spoil: object, message: str) -> None:
    machine = clockwork.machine(kernel, lambda: None)
    saving.save(machine, tmp_path / "state")
    spoil(tmp_path / "state")  # type: ignore[operator]
    with pytest.raises(ConfigError, match=message):
        saving.load(machine, tmp_path / "state")
    close(machine)
