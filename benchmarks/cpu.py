"""Speed of both engines on a small CPU-bound guest program, and what an idle guest costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.figures import Figure, at_least, at_most, median
from benchmarks.machines import embedded, embedded_on_qemu, qemu_available, scratch

_ROUNDS = 3
_IDLE_S = 10.0


def measure() -> list[Figure]:
    """Return the figures."""
    with scratch() as name:
        slow, fast = ([embedded("b c", Path(name), engine=e) for _ in range(_ROUNDS)] for e in ("interp", "translate"))
    interpreted, translated = (median(run.value("cpu_mips") for run in runs) for runs in (slow, fast))
    peers = ["QEMU is not installed"] * 2
    if qemu_available():
        times = [embedded_on_qemu("b c").value("cpu_time") for _ in range(_ROUNDS)]
        theirs = slow[0].value("cpu_instret") / median(times)
        peers = [f"QEMU TCG {theirs:.0f} MIPS, {theirs / ours:.2f} times ours" for ours in (interpreted, translated)]
    return [
        at_least("CPU-bound guest program, interpreter", interpreted, "MIPS", 150, peers[0]),
        Figure("CPU-bound guest program, translator", translated, "MIPS", peer=peers[1]),
        _idle(),
    ]


def _idle() -> Figure:
    with scratch() as name:
        folder = Path(name)
        vm = f"idle{os.getpid()}"
        (folder / "vm.toml").write_text(f'[vm]\nname = "{vm}"\n')
        orchestrator = [sys.executable, "-m", "orchestrator"]
        subprocess.run([*orchestrator, "up", str(folder / "vm.toml"), "-d", "--wait"], check=True, capture_output=True)
        try:
            time.sleep(1)
            processes = [
                p
                for p in psutil.process_iter(["cmdline"])
                if "cpu_proc" in (p.info["cmdline"] or []) and vm in p.info["cmdline"]
            ]
            before = [sum(p.cpu_times()[:2]) for p in processes]
            time.sleep(_IDLE_S)
            used = sum(sum(p.cpu_times()[:2]) for p in processes) - sum(before)
        finally:
            subprocess.run([*orchestrator, "down", vm], check=True, capture_output=True)
    return at_most("idle guest, of one host core", 100 * used / _IDLE_S, "%", 3)
