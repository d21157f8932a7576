"""``doctor``: what this host has, and what is missing for which feature."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass

from orchestrator import output
from protocol.errors import BusvmError
from protocol.memory import SHM
from protocol.names import cache_root, private_folder, runtime_root

_ROOM = 512 << 20
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# program, package, what for, whether VMs run without it
_PROGRAMS = (
    ("dbus-daemon", "dbus", "the bus of every VM", True),
    ("busctl", "systemd", "looking at the bus", False),
    ("gdbus", "libglib2.0-bin", "looking at the bus", False),
    ("apt-get", "apt", "orchestrator image debian", False),
    ("dpkg-deb", "dpkg", "orchestrator image debian", False),
    ("mke2fs", "e2fsprogs", "orchestrator image debian", False),
    ("dtc", "device-tree-compiler", "reading device trees; tests", False),
    ("qemu-system-riscv64", "qemu-system-misc", "comparison with QEMU; tests", False),
    ("gdb-multiarch", "gdb-multiarch", "orchestrator gdb; tests", False),
    ("riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu", "rebuilding the embedded guest; tests", False),
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``level`` is ok, missing (VMs run without it) or error."""

    name: str
    level: str
    text: str


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="check this host",
        description="Check what this host has for busvm. Exit status 4 if a VM cannot run.",
    )
    parser.add_argument("--warm", action="store_true", help="compile the CPU for this host now, not at the first start")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.warm:
        done = subprocess.run([sys.executable, "-m", "cpu_proc", "--warm"], stdout=sys.stderr, check=False)
        if done.returncode:
            raise BusvmError(f"the CPU could not be compiled: status {done.returncode}")
    checks = look()
    if options.json:
        output.as_json([asdict(check) for check in checks])
    else:
        output.table(["CHECK", "", ""], [[check.name, check.level, check.text] for check in checks])
    return 4 if any(check.level == "error" for check in checks) else 0


def look() -> list[Check]:
    """Look at everything."""
    return [_python(), *(_program(*row) for row in _PROGRAMS), _shm(), _folder(), _engine(), _translator(), *_sandbox()]


def _python() -> Check:
    level = "ok" if sys.version_info >= (3, 11) else "error"
    return Check("Python", level, sys.version.split()[0])


def _program(name: str, package: str, purpose: str, needed: bool) -> Check:
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS]))
    if path:
        return Check(name, "ok", path)
    return Check(name, "error" if needed else "missing", f"for {purpose}: apt install {package}")


def _shm() -> Check:
    try:
        room = os.statvfs(SHM)
    except OSError as error:
        return Check(str(SHM), "error", str(error.strerror))
    free = room.f_bavail * room.f_frsize
    level = "ok" if free >= _ROOM and os.access(SHM, os.W_OK) else "error"
    return Check(str(SHM), level, f"{free >> 20} MiB free: the memory of VMs")


def _folder() -> Check:
    try:
        return Check("runtime folder", "ok", str(private_folder(runtime_root())))
    except BusvmError as error:
        return Check("runtime folder", "error", error.message)


def _ask_cpu(option: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cpu_proc", option]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def _engine() -> Check:
    done = _ask_cpu("--check-cache")
    if done.returncode == 0:
        return Check("compiled CPU", "ok", str(cache_root() / "engine"))
    if done.stderr.strip():
        return Check("compiled CPU", "error", done.stderr.strip().splitlines()[-1])
    return Check("compiled CPU", "missing", "the first start compiles it, or `orchestrator doctor --warm`")


def _sandbox() -> list[Check]:
    done = subprocess.run([sys.executable, "-m", "devproc.sandbox"], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return [Check("sandbox", "error", (done.stderr.strip().splitlines() or ["it ended without a word"])[-1])]
    landlock, seccomp = found["landlock"], found["seccomp"]
    lacks = "devices may open every file of this user: Linux 5.13 or later, with landlock in lsm= (docs/security.md)"
    calls = "devices may make every system call: apt install libseccomp2"
    return [
        Check("landlock", "ok" if landlock else "missing", f"version {landlock}" if landlock else lacks),
        Check("libseccomp", "ok" if seccomp else "missing", "devices' system calls" if seccomp else calls),
    ]


def _translator() -> Check:
    done = _ask_cpu("--check-translator")
    if done.returncode == 0:
        return Check("translator", "ok", 'vm.engine = "translate" or "auto"')
    if done.stdout:
        return Check("translator", "missing", f'for vm.engine = "translate": {done.stdout.strip()}')
    return Check("translator", "error", (done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
