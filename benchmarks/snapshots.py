"""Snapshots of an idle Debian of 1 GiB, beside QEMU's migration of the same guest to a file and back; and round trips.

* save: from the command to its end, of which the guest stands still for a part, which the command says.
* restore: from the command to the guest's answer to a key.
* QEMU's is ``migrate`` to a file and ``-incoming`` from it, without compression.
* round trips: an embedded guest writes a pattern, is put away, goes on in new processes and compares it.
  ``BUSVM_ROUNDS`` says how many, 10 if it does not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.boot import images
from benchmarks.figures import Figure, at_least, at_most, median
from benchmarks.machines import QEMU, scratch
from tests.guest.expect import Guest
from tests.guest.network import SHELL, qemu_guest, shell
from tests.peers.vhost_user_qemu import Monitor

_TIMES = 3
_BUDGET_S = 3.0
_ORCHESTRATOR = (sys.executable, "-m", "orchestrator")


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    folder = images()
    with scratch() as name:
        if (folder / "vmlinuz").exists():
            yield from _debian(Path(name), folder)
        else:
            print("snapshots: no Debian image; `make run` builds it, BUSVM_IMAGES names it")
        yield _round_trips(Path(name), int(os.environ.get("BUSVM_ROUNDS", "10")))


def _debian(scratch_folder: Path, image: Path) -> Iterator[Figure]:
    path, saved = scratch_folder / "vm.toml", scratch_folder / "saved"
    vm = f"snap{os.getpid()}"
    path.write_text(
        f'[vm]\nname = "{vm}"\nmemory = "1G"\n[boot]\nkernel = "{image}/vmlinuz"\ninitrd = "{image}/initrd.img"\n'
        f'cmdline = "console=ttyS0 root=/dev/vda rw {SHELL}"\n'
        f'[[device]]\nid = "root"\ntype = "virtio-blk"\nimage = "{image}/root.ext4"\nsnapshot = true\n'
    )
    saves, stands, restores = list[float](), list[float](), list[float]()
    with Guest([*_ORCHESTRATOR, "up", str(path)]) as guest:
        shell(guest, "virtio_blk")
        for _ in range(_TIMES):
            took, said = _timed(lambda: _run("snapshot", "save", vm, str(saved), "--replace"))
            saves.append(took)
            found = re.search(r"for ([\d.]+) s", said)
            stands.append(float(found[1]) if found else 0.0)
        _run("down", vm, "-t", "0")
        guest.status()
    for _ in range(_TIMES):
        restores.append(_until_answer([*_ORCHESTRATOR, "up", str(path), "--restore", str(saved)], vm))
    theirs = _qemu(scratch_folder, image) if shutil.which(QEMU) else None
    peer = [f"QEMU {median(each):.2f}" if theirs else "" for each in (theirs or ((), ()))]
    size = sum(file.stat().st_size for file in saved.iterdir()) / (1 << 20)
    yield at_most("save 1 GiB, idle", median(saves), "s", _BUDGET_S, peer[0])
    yield at_most("  the guest stands still", median(stands), "s", _BUDGET_S)
    yield at_most("restore it, to its answer", median(restores), "s", _BUDGET_S, peer[1])
    yield Figure("  the snapshot", size, "MiB")


def _timed(action: Callable[[], str]) -> tuple[float, str]:
    started = time.monotonic()
    said = action()
    return time.monotonic() - started, said


def _run(*words: str) -> str:
    done = subprocess.run([*_ORCHESTRATOR, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def _until_answer(command: list[str], vm: str) -> float:
    started = time.monotonic()
    with Guest(command) as guest:
        guest.type("echo he''re")
        guest.wait_for("here\n", 60)
        took = time.monotonic() - started
        _run("down", vm, "-t", "0")
        guest.status()
    return took


def _qemu(folder: Path, image: Path) -> tuple[list[float], list[float]]:
    """Return the times of QEMU: to save, and from its command to the guest's answer."""
    state = folder / "qemu"
    command = [word if word != "512M" else "1G" for word in qemu_guest(image, init=SHELL)]
    saves, restores = [], []
    for _ in range(_TIMES):
        with Guest([*command, *Monitor.option(folder / "qmp")]) as guest:
            shell(guest, "virtio_blk")
            with Monitor(folder / "qmp") as monitor:
                monitor.do("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
                started = time.monotonic()
                monitor.do("stop")
                monitor.do("migrate", uri=f"exec:cat > {state}")
                while monitor.do("query-migrate").get("status") != "completed":
                    time.sleep(0.01)
                saves.append(time.monotonic() - started)
                monitor.do("quit")
        (folder / "qmp").unlink(missing_ok=True)
        started = time.monotonic()
        incoming = [*command, "-incoming", f"exec:cat {state}", *Monitor.option(folder / "qmp")]
        with Guest(incoming) as guest, Monitor(folder / "qmp") as monitor:
            while monitor.do("query-status")["status"] == "inmigrate":
                time.sleep(0.01)
            monitor.do("cont")
            guest.type("echo he''re")
            guest.wait_for("here\n", 60)
            restores.append(time.monotonic() - started)
            monitor.do("quit")
        (folder / "qmp").unlink(missing_ok=True)
    return saves, restores


def _round_trips(folder: Path, rounds: int) -> Figure:
    """Return how many round trips left everything as it was."""
    path, saved, vm = folder / "trips.toml", folder / "trips", f"trips{os.getpid()}"
    (folder / "disk.raw").write_bytes(bytes(4 << 20))
    path.write_text(
        f'[vm]\nname = "{vm}"\nmemory = "64M"\n'
        f'[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "disk.raw"\nqueues = 2\n'
        '[[device]]\nid = "rng0"\ntype = "virtio-rng"\n'
    )
    good = 0
    words = [*_ORCHESTRATOR, "up", str(path)]
    for number in range(rounds + 1):
        with Guest([*words, *(("--restore", str(saved)) if number else ())]) as guest:
            guest.type("")
            guest.wait_for("busvm> ", 60)
            if number:
                guest.type(f"d v 0 512 {number - 1}; i")
                said = guest.wait_for("busvm> ", 60)
                good += "errors=0 result=ok" in said and "lost=0" in said
            guest.type(f"d w 0 512 {number}")
            guest.wait_for("busvm> ", 60)
            _run("snapshot", "save", vm, str(saved), "--replace", "--stop")
            guest.status()
    return at_least("round trips with the guest's checksum intact", good, f"of {rounds}", rounds)
