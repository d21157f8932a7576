"""org.qemu.VMState1: QEMU takes the state of our devices along when it migrates, and brings it to their successors."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from protocol.bus import BusError
from tests.conformance.conftest import _BUS_CONFIG
from tests.conformance.fake_cpu import FakeCpu
from tests.peers.vhost_user_qemu import Monitor, system_qemu

pytestmark = [pytest.mark.peer, pytest.mark.timeout(90)]

VMSTATE1 = "org.qemu.VMState1"


class Side:
    """A bus with two devices and a machine for each, and a QEMU."""

    def __init__(self, folder: Path, stack: ExitStack, image: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "bus.conf").write_text(_BUS_CONFIG.format(socket=folder / "bus"))
        self.address = f"unix:path={folder / 'bus'}"
        self.started = stack.enter_context(ExitStack())
        self.run("dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork")
        while not (folder / "bus").exists():
            time.sleep(0.01)
        self.run(sys.executable, "-m", "devproc.template", "--bus", self.address, "--id", "rng0")
        self.run(
            sys.executable, "-m", "devproc.virtio_blk", "--bus", self.address, "--id", "disk0",
            "--image", str(image), "--snapshot",
        )  # fmt: skip
        self.rng, self.disk = (FakeCpu(self.address, folder, device_id=name) for name in ("rng0", "disk0"))
        for machine in (self.rng, self.disk):
            self.started.callback(machine.close)
            machine.wait_for_device()

    def run(self, *command: str) -> None:
        """Start a process that ends with the test."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

        def end() -> None:
            process.terminate()
            process.wait(10)

        self.started.callback(end)

    @contextmanager
    def qemu(self, *options: str) -> Iterator[Monitor]:
        """Run a QEMU without a guest."""
        command = [
            *system_qemu().words, "-M", "virt", "-S", "-display", "none", "-serial", "none", "-bios", "none",
            "-object", f"dbus-vmstate,id=vms,addr={self.address}", *Monitor.option(self.folder / "qmp"), *options,
        ]  # fmt: skip
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            with Monitor(self.folder / "qmp") as monitor:
                yield monitor
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    with tempfile.TemporaryDirectory(prefix="bvq") as name, ExitStack() as stack:
        yield Side(Path(name) / "a", stack, image), Side(Path(name) / "b", stack, image)


def migrated(monitor: Monitor) -> str:
    """Return how a migration ended."""
    while (state := monitor.do("query-migrate").get("status", "")) not in ("completed", "failed"):
        time.sleep(0.02)
    return str(state)


def test_a_migration_takes_registers_along(sides: tuple[Side, Side]) -> None:
    first, second = sides
    first.rng.attach()
    first.disk.attach()
    first.rng.write(0, 8, 4, 3)
    first.rng.wait_processed()
    state = first.folder / "state"
    with first.qemu() as monitor:
        monitor.do("migrate", uri=f"exec:cat > {state}")
        assert migrated(monitor) == "completed"
    with second.qemu("-incoming", f"exec:cat {state}") as monitor:
        assert migrated(monitor) == "completed"
    assert second.rng.attach()["resumed"] == 1
    assert second.disk.attach()["resumed"] == 1
    assert second.rng.read(0, 8, 4) == first.rng.read(0, 8, 4) == 3
    second.rng.write(0, 8, 4, 1)
    assert second.rng.read(0, 8, 4) == 1


def test_what_has_no_state_says_so_and_goes_on(sides: tuple[Side, Side], capfd: pytest.CaptureFixture[str]) -> None:
    first, second = sides
    first.rng.attach()
    with first.qemu() as monitor:
        monitor.do("migrate", uri=f"exec:cat > {first.folder / 'state'}")
        migrated(monitor)  # QEMU 7.2 says "completed" all the same
    assert "it is attached to no machine, and has no state" in capfd.readouterr().err
    first.rng.write(0, 8, 4, 1)
    assert first.rng.read(0, 8, 4) == 1
    for machine, data in ((second.rng, b"garbage"), (second.rng, b""), (first.rng, b"attached")):
        with pytest.raises(BusError):
            machine.run(machine.bus.call(machine.bus_name, "/org/qemu/VMState1", VMSTATE1, "Load", "ay", [data]))


def test_it_is_not_loaded_into_another_type_of_device(sides: tuple[Side, Side]) -> None:
    first, second = sides
    first.rng.attach()
    call = first.rng.bus.call
    (data,) = first.rng.run(call(first.rng.bus_name, "/org/qemu/VMState1", VMSTATE1, "Save"))
    disk = second.disk
    with pytest.raises(BusError, match="state of a template"):
        disk.run(disk.bus.call(disk.bus_name, "/org/qemu/VMState1", VMSTATE1, "Load", "ay", [data]))
