"""A private bus, device processes on it, and a check that nothing is left behind."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from xprocess import ProcessStarter

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
    """A device process under test; its log is read through xprocess."""

    def __init__(self, xprocess: Any, name: str, arguments: list[str]) -> None:
        self._xprocess = xprocess
        self.name = name
        self._arguments = arguments
        self.pid = 0

    def start(self) -> None:
        """Start it, without waiting for anything; the bus tells when it is there."""
        arguments = [sys.executable, *self._arguments]

        class Starter(ProcessStarter):  # type: ignore[misc]
            args = arguments
            pattern = ""
            timeout = 20
            terminate_on_interrupt = True
            env = dict(os.environ, PYTHONUNBUFFERED="1")  # noqa: RUF012

            def wait(self, _log: Any) -> bool:
                return True

        self.pid, _ = self._xprocess.ensure(self.name, Starter, restart=True)

    def wait(self, timeout_s: float = 10.0) -> int | None:
        """Wait for the end of the process and return its status."""
        info = self._xprocess.getinfo(self.name)
        process = info._popen if hasattr(info, "_popen") else None
        if process is None:
            for popen in psutil.wait_procs([psutil.Process(self.pid)], timeout=timeout_s)[0]:
                return popen.returncode  # type: ignore[no-any-return]
        return None

    @property
    def log(self) -> str:
        """What it wrote."""
        return str(Path(self._xprocess.getinfo(self.name).logpath).read_text())
