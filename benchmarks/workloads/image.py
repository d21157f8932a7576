"""The disk of the guest that measures: Debian with the programs, and beside them what is not Debian's.

The image is built once, in ``BUSVM_WORKLOADS`` or images/workloads; every boot gets a copy of its disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads.rows import COREMARK, PACKAGES

_OPTIONS = ("--include", *PACKAGES, "--size", "2G")
_GUEST = Path(__file__).parent / "guest"
_FOLDER = "/usr/local/bin"
INIT = f"{_FOLDER}/init"
COMPILER = "riscv64-linux-gnu-gcc"


@dataclass(frozen=True)
class Image:
    """A kernel, its RAM disk, and a disk that nobody writes; ``missing`` says for rows why they cannot run."""

    kernel: Path
    initrd: Path
    disk: Path
    missing: dict[str, str]

    def copy_of_disk(self, path: Path) -> Path:
        """Return ``path``, a copy of the disk; holes stay holes."""
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.disk, path], check=True)
        return path


def results() -> Path:
    """Return the folder in which the image and the guests' consoles are kept."""
    return Path(os.environ.get("BUSVM_WORKLOADS", "images/workloads")).resolve()


def prepare(scratch: Path, built: Path | None = None) -> Image:
    """Return the image with this run's own programs in its disk below ``scratch``; ``built`` if it is one already."""
    folder = built or _build()
    image = Image(folder / "vmlinuz", folder / "initrd.img", scratch / "pristine.ext4", {})
    Image(image.kernel, image.initrd, folder / "root.ext4", {}).copy_of_disk(image.disk)
    programs = sorted(_GUEST.iterdir())
    binary, reason = _coremark(scratch)
    if binary:
        programs.append(binary)
    else:
        image.missing[COREMARK] = reason
    _add(programs, image.disk)
    return image


def _build() -> Path:
    recipe = hashlib.sha256(repr(_OPTIONS).encode()).hexdigest()[:8]
    folder = results() / f"debian-{recipe}"
    if not (folder / "vm.toml").exists():
        command = [sys.executable, "-m", "orchestrator", "image", "debian", "-o", str(folder), *_OPTIONS]
        subprocess.run(command, check=True)
    return folder


def _add(programs: list[Path], disk: Path) -> None:
    """Put executables into the image with e2fsprogs' debugfs, which needs no mount."""
    commands = f"cd {_FOLDER}\n"
    for path in programs:
        commands += f"write {path} {path.name}\nset_inode_field {path.name} mode 0100755\n"
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    debugfs = shutil.which("debugfs", path=search) or "debugfs"
    subprocess.run([debugfs, "-w", "-f", "-", disk], input=commands, text=True, capture_output=True, check=True)


def _coremark(scratch: Path) -> tuple[Path | None, str]:
    """Return CoreMark, cross-compiled from ``BUSVM_COREMARK``, or None and why not."""
    given = os.environ.get("BUSVM_COREMARK", "")
    if not given:
        return None, "BUSVM_COREMARK has to be a folder or git repository of CoreMark's sources (eembc/coremark)"
    sources = Path(given)
    if not (sources / "coremark.h").exists():
        sources = scratch / "coremark-sources"
        sources.mkdir()
        archive = subprocess.run(["git", "-C", given, "archive", "HEAD"], capture_output=True, check=False)
        if archive.returncode:
            return None, f"BUSVM_COREMARK: {given} has neither coremark.h nor a git repository"
        subprocess.run(["tar", "-x", "-C", sources], input=archive.stdout, check=True)
    if shutil.which(COMPILER) is None:
        return None, f"{COMPILER} is not installed (Debian: gcc-riscv64-linux-gnu)"
    binary = scratch / "coremark"
    flags = ["-O2", "-static"]
    command = [
        COMPILER, *flags, f'-DFLAGS_STR="{" ".join(flags)}"', "-DPERFORMANCE_RUN=1", "-DITERATIONS=0",
        f"-I{sources}", f"-I{sources / 'posix'}", "-o", str(binary),
        *map(str, sorted(sources.glob("core_*.c"))), str(sources / "posix" / "core_portme.c"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None, f"CoreMark does not compile: {done.stderr.strip().splitlines()[-1]}"
    return binary, ""
