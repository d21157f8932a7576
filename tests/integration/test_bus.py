"""The bus with both libraries, over a real dbus-daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from xprocess import ProcessStarter


@pytest.fixture
def address(xprocess: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    socket = Path(os.environ["XDG_RUNTIME_DIR"]) / f"probe{os.getpid()}"
    name = f"probe{os.getpid()}"

    class Starter(ProcessStarter):  # type: ignore[misc]
        args = (
            "dbus-daemon",
            "--session",
            "--nofork",
            "--nopidfile",
            f"--address=unix:path={socket}",
            "--print-address",
        )
        pattern = "unix:path="
        timeout = 20

    xprocess.ensure(name, Starter)
    yield f"unix:path={socket}"
    xprocess.getinfo(name).terminate()
    socket.unlink(missing_ok=True)


@pytest.mark.parametrize("library", ["dbus_fast", "dbus_next"])
def test_a_conversation_goes_well_with(library: str, address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.bus_probe", address],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "BUSVM_DBUS": library},
    )  # fmt: skip
    assert f"conversation went well {library}" in done.stdout, done.stderr
