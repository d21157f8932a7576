"""From the command to the guest: with nothing cached, and the second time."""

from __future__ import annotations

from pathlib import Path

from benchmarks.boot import images, toml
from benchmarks.figures import Figure, at_most, median
from benchmarks.machines import busvm, embedded, scratch

_ROUNDS = 5


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
    return figures
