"""From the command to the guest: with nothing cached, and the second time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.boot import images, toml
from benchmarks.figures import Figure, at_most, median
from benchmarks.machines import busvm, embedded, scratch

_ROUNDS = 5
_IMPORTS = 11
_KIT = "import devproc.classes, devproc.pci, devproc.platform, devproc.virtio"


def measure() -> list[Figure]:
    """Return the figures."""
    figures = []
    with scratch() as name:
        folder = images()
        if (folder / "vmlinuz").exists():
            text = toml("first", folder, cmdline="earlycon=sbi console=ttyS0")
            cold = busvm(text, Path(name), until="Linux version", env={"XDG_CACHE_HOME": str(Path(name) / "cache")})
            figures.append(
                at_most("first start, nothing cached, to kernel's line", cold.seconds_to("Linux version"), "s", 40)
            )
        # the banner is the guest's first act: an upper bound for its first instruction
        warm = [embedded("?", Path(name)).seconds_to("embedded guest") for _ in range(_ROUNDS)]
        figures.append(at_most("second start, to the guest's first line", median(warm), "s", 1.5))
    bare, kit = (median(_python(script) for _ in range(_IMPORTS)) for script in ("pass", _KIT))
    figures.append(at_most("import of the device kit", kit - bare, "s", 0.15, f"Python alone {bare:.3f} s"))
    return figures


def _python(script: str) -> float:
    """Return the seconds that Python takes for ``script``."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", script], check=True)
    return time.monotonic() - started
