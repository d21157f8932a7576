"""A private bus, device processes on it, and a check that nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from xprocess import ProcessStarter

from protocol.memory import SHM
from tests.conformance.fake_cpu import FakeCpu

_BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


@pytest.fixture(scope="session")
def runtime() -> Iterator[Path]:
    """Return a private folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="bv") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def bus_address(xprocess: Any, runtime: Path) -> Iterator[str]:
    """Return the address of a private dbus-daemon."""
    socket = runtime / "bus"
    config = runtime / "bus.conf"
    config.write_text(_BUS_CONFIG.format(socket=socket))
    name = f"bus{os.getpid()}"

    class Starter(ProcessStarter):  # type: ignore[misc]
        args = ("dbus-daemon", f"--config-file={config}", "--nofork", "--print-address")
        pattern = "unix:path="
        timeout = 20

    xprocess.ensure(name, Starter)
    yield f"unix:path={socket}"
    xprocess.getinfo(name).terminate()


class DeviceProcess:
    """A device process under test: ``python -m MODULE --bus … --id …``."""

    def __init__(self, module: str, address: str, device_id: str, arguments: list[str], log: Path) -> None:
        self.log_path = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, "--bus", address, "--id", device_id, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.pid = self._popen.pid

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return self.log_path.read_text()

    @property
    def running(self) -> bool:
        """Whether it is alive."""
        return self._popen.poll() is None

    def terminate(self, timeout_s: float = 10.0) -> int:
        """Send SIGTERM and return the exit status."""
        self._popen.terminate()
        return self._popen.wait(timeout_s)

    def wait(self, timeout_s: float = 10.0) -> int:
        """Return the exit status."""
        return self._popen.wait(timeout_s)

    def kill(self) -> None:
        """Send SIGKILL and wait until it is gone."""
        self._popen.kill()
        self._popen.wait(10)


Start = Callable[..., DeviceProcess]


@pytest.fixture(params=["pci", "mmio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Return what the device is connected to: each in its turn."""
    return str(request.param)


@pytest.fixture
def start(bus_address: str, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a device process; what still runs at the end is killed."""
    started: list[DeviceProcess] = []

    def run(
        *arguments: str, module: str = "devproc.virtio_blk", device_id: str = "disk0", bus: str | None = None
    ) -> DeviceProcess:
        log = tmp_path / f"{device_id}.log"
        process = DeviceProcess(module, bus or bus_address, device_id, list(arguments), log)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.running:
            process.kill()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a disk image of 4 MiB in which every sector says its number."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"".join(sector.to_bytes(4, "little") * 128 for sector in range(8192)))
    return path


@pytest.fixture
def cpu(bus_address: str, runtime: Path) -> Iterator[FakeCpu]:
    """Return a machine without a CPU."""
    with FakeCpu(bus_address, runtime) as machine:
        yield machine


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail the run if it leaves shared memory or processes of a VM behind."""
    yield
    left = [path.name for path in SHM.glob(f"busvm.fake{os.getpid()}x*")]
    left += [f"{p.pid} {p.name()}" for p in psutil.Process().children() if "devproc" in " ".join(p.cmdline())]
    assert not left
