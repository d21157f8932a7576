"""QEMU from Debian testing, unpacked beside the system's own: AIA works there, and not in the release's 7.2.

The system's apt resolves and downloads into a private folder, nothing is installed, and the program runs with the C
library of its own distribution. ``BUSVM_QEMU`` names another one to use instead.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from orchestrator.image import sources
from protocol.names import cache_root

_SUITE = "testing"
_PACKAGES = ("qemu-system-riscv", "opensbi")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib64")


def command() -> list[str]:
    """Return the words that start it, without options."""
    given = os.environ.get("BUSVM_QEMU")
    if given:
        return [given]
    root = cache_root() / "tests" / "qemu"
    if not (root / "complete").exists():
        _unpack(root)
    loader = next(root.glob("usr/lib*/**/ld-linux-x86-64.so.2"))
    libraries = ":".join(str(root / folder) for folder in _LIBRARIES)
    return [
        "env", f"QEMU_MODULE_DIR={root}/usr/lib/x86_64-linux-gnu/qemu",
        str(loader), "--library-path", libraries, str(root / "usr/bin/qemu-system-riscv64"),
        "-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/lib/riscv64-linux-gnu/opensbi/generic"),
        "-bios", str(next(root.glob("usr/**/fw_dynamic.bin"))),
    ]  # fmt: skip


def version() -> tuple[int, ...]:
    """Return its version."""
    told = _run([*command(), "--version"])
    found = re.search(r"version (\d+)\.(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


def _run(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{' '.join(words[:6])} …: {done.stderr[-2000:]}"
    return done.stdout


def _unpack(root: Path) -> None:
    state = root / "apt"
    for folder in ("lists/partial", "archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    mirror = sources.debian_mirror(sources.read())
    (state / "sources.list").write_text(f"deb [arch=amd64 signed-by={sources.keyring()}] {mirror} {_SUITE} main\n")
    apt = [
        "apt-get", "-q", "-o", "APT::Architecture=amd64", "-o", "APT::Architectures::=amd64",
        "-o", f"Dir::State={state}", "-o", f"Dir::State::status={state / 'status'}",
        "-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state}",
        "-o", f"Dir::Cache::archives={state / 'archives'}", "-o", f"Dir::Etc::sourcelist={state / 'sources.list'}",
        "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::Etc::preferencesparts={state / 'etc/preferences.d'}",
        "-o", "APT::Install-Recommends=false", "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1",
    ]  # fmt: skip
    _run([*apt, "update"])
    _run([*apt, "install", "--download-only", "-y", *_PACKAGES])
    for package in sorted((state / "archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)])
        package.unlink()
    (root / "complete").touch()
