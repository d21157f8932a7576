"""Run a guest on busvm or on QEMU, and note when each line of its console appeared."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guest import elf_path

QEMU = "qemu-system-riscv64"


@dataclass
class Run:
    """What a guest printed, with seconds since the start of the process."""

    lines: list[tuple[float, str]] = field(default_factory=list)
    status: int | None = None

    def seconds_to(self, text: str) -> float:
        """Return when the first line with ``text`` was there; raises LookupError with the tail if it never was."""
        for seconds, line in self.lines:
            if text in line:
                return seconds
        tail = "\n".join(line for _, line in self.lines[-15:])
        raise LookupError(f"{text!r} was not printed; the end was:\n{tail}")

    def value(self, name: str) -> float:
        """Return the number in a line ``bench NAME VALUE UNIT`` of the embedded guest."""
        for _, line in self.lines:
            found = re.match(rf"bench {name} (\d+)", line)
            if found:
                return float(found[1])
        raise LookupError(f"bench {name} was not printed")


def run(command: Sequence[str], *, until: str | None = None, timeout_s: float = 120, env: dict[str, str] | None = None,
        stdin: bytes = b"") -> Run:  # fmt: skip
    """Run ``command`` to its end, or end it after the line with ``until`` or after ``timeout_s``."""
    result = Run()
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(stdin)
    process.stdin.flush()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() - started < timeout_s:
            if not selector.select(0.1):
                continue
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                break
            *whole, rest = (rest + data).split(b"\n")
            now = time.monotonic() - started
            result.lines += [(now, line.decode(errors="replace").strip()) for line in whole]
            if until and any(until in line for _, line in result.lines[-len(whole) - 1 :]):
                break
    result.status = end(process)
    process.stdin.close()
    process.stdout.close()
    return result


def end(process: subprocess.Popen[bytes]) -> int | None:
    """End a process that may have ended; return its status, or ``None`` if it had to be killed."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def engine() -> str:
    """Return the engine that ``--engine`` asks for, or nothing."""
    return os.environ.get("BUSVM_ENGINE", "")


def orchestrator_command(*arguments: str) -> list[str]:
    """Return a command line of the orchestrator."""
    return [sys.executable, "-m", "orchestrator", *arguments]


def busvm(toml: str, folder: Path, **options: object) -> Run:
    """Run ``orchestrator up`` with this vm.toml in ``folder``."""
    path = folder / "vm.toml"
    path.write_text(toml)
    chosen = ["--set", f"vm.engine={engine()}"] if engine() else []
    return run(orchestrator_command("up", str(path), *chosen), **options)  # type: ignore[arg-type]


def qemu_available() -> bool:
    """Tell whether QEMU is installed."""
    return shutil.which(QEMU) is not None


def qemu_command(*options: str, machine: str = "virt") -> list[str]:
    """Return a command line of QEMU: plain ``virt``, no display. AIA does not carry Linux's console in QEMU 7.2."""
    return [QEMU, "-M", machine, "-m", "512M", "-nographic", "-no-reboot", *options]


def disk_options(disk: Path) -> list[str]:
    """Return the options that give QEMU's machine a virtio disk on PCI."""
    drive = f"file={disk},format=raw,if=none,id=d"
    return ["-drive", drive, "-device", "virtio-blk-pci,drive=d,disable-legacy=on"]


def qemu(*options: str, machine: str = "virt", **more: object) -> Run:
    """Run QEMU."""
    return run(qemu_command(*options, machine=machine), **more)  # type: ignore[arg-type]


def embedded(commands: str, folder: Path, *, disk: Path | None = None, engine: str = "auto") -> Run:
    """Run ``commands`` on the embedded guest."""
    toml = f'[vm]\nname = "bench{os.getpid()}"\nengine = "{engine}"\n[boot]\ncmdline = "run={commands};q 0"\n'
    if disk:
        toml += f'[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "{disk}"\n'
    return busvm(toml, folder)


def embedded_on_qemu(commands: str, *, disk: Path | None = None) -> Run:
    """Run ``commands`` on the embedded guest under QEMU."""
    drive = disk_options(disk) if disk else []
    return qemu("-kernel", str(elf_path()), "-append", f"run={commands};q 0", *drive)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for one benchmark, with a short path."""
    return tempfile.TemporaryDirectory(prefix="bvb")
