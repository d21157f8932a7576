"""Debian from ``up`` to its login prompt, with one container per process and with ``orchestrator up``, in turn."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.boot import images, toml
from benchmarks.figures import Figure, median
from benchmarks.machines import busvm, orchestrator_command, run, scratch
from tests.peers.containers import IMAGE, VARIABLE, Podman

_ROUNDS = 3
_LOGIN = "Debian GNU/Linux 13"
_CMDLINE = "console=ttyS0 root=/dev/vda rw loglevel=3"
_TIMEOUT_S = 180.0


def measure() -> list[Figure]:
    """Return the figures; none without an engine and the image."""
    podman, source = Podman.prepared(), images()
    if podman is None or not (source / "vmlinuz").exists():
        print(f"{VARIABLE} names no folder of `python -m tests.peers.containers`, or {source} has no Debian image")
        return []
    with scratch() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file in ("vmlinuz", "initrd.img", "root.ext4"):
            shutil.copyfile(source / file, folder / file)
            os.chown(folder / file, 1000, 1000)
        text = toml("login", folder, cmdline=_CMDLINE, disk=folder / "root.ext4")
        (folder / "vm.toml").write_text(text)
        command = orchestrator_command("render", "compose", str(folder / "vm.toml"), "--image", IMAGE)
        run([*command, "-o", str(folder / "compose.yaml")])
        contained, direct = [], []
        for _ in range(_ROUNDS):
            contained.append(_contained(podman, folder))
            direct.append(busvm(text, folder, until=_LOGIN, timeout_s=_TIMEOUT_S).seconds_to(_LOGIN))
        peer = f"orchestrator up {median(direct):.1f} s"
        return [
            Figure(
                "Debian in containers, to its login prompt", median(login for _, login in contained), "s", peer=peer
            ),
            Figure("of that, podman-compose up", median(up for up, _ in contained), "s"),
        ]


def _contained(podman: Podman, folder: Path) -> tuple[float, float]:
    """Return the seconds until the engine has started all, and until the prompt."""
    started = time.monotonic()
    try:
        podman.compose(folder, "up", "-d")
        up = time.monotonic() - started
        while time.monotonic() - started < _TIMEOUT_S:
            with suppress(AssertionError):  # not there yet
                printed = podman.run("exec", _cpu(podman), "sh", "-c", "cat $XDG_STATE_HOME/busvm/*/console.log")
                if _LOGIN in printed:
                    return up, time.monotonic() - started
            time.sleep(0.2)
        raise LookupError(f"{_LOGIN!r} was not printed")
    finally:
        podman.compose(folder, "down", "-v", "-t", "1")


def _cpu(podman: Podman) -> str:
    return next(name for name in podman.containers() if name.endswith("_cpu_1"))
