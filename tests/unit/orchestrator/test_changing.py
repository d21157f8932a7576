"""What ``reload`` asks of an edited source before its process follows the one that serves."""

from __future__ import annotations

import asyncio
import sys

import psutil
import pytest

from devproc.describe import digest
from devproc.virtio_console.device import ConsoleDevice
from orchestrator import changing
from orchestrator.plan import Process
from protocol.errors import BusvmError

CONSOLE = ("-m", "devproc.virtio_console", "--id", "console0")


def declared(*words: str) -> int:
    """Return what a source declares, of a process with these words after ``python``."""
    return asyncio.run(changing.declared(Process("console0", "virtio-console", (sys.executable, *words), "")))


def test_a_source_declares_its_registers() -> None:
    console = ConsoleDevice.over("pci")

    assert declared(*CONSOLE) == digest(console.registers, console.state_version)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = (", r"does not load: SyntaxError: '\(' was never closed"),
        ("import sys; sys.exit('error: no terminal\\n  hint: open one')", r"does not load: no terminal \(open one\)"),
        ("import os; os.abort()", "does not load: .*SIGABRT"),
        ("print('hello')", "does not say what it declares"),
    ],
)
def test_one_that_does_not_load_is_refused(source: str, text: str) -> None:
    with pytest.raises(BusvmError, match=text):
        declared("-c", source)


def test_one_that_goes_on_loading_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    before = psutil.Process().children()
    monkeypatch.setattr(changing, "READY_S", 1.0)

    with pytest.raises(BusvmError, match="does not load: not within 1 s"):
        declared("-c", "import time; time.sleep(60)")

    assert psutil.Process().children() == before
