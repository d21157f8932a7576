"""Packages of Debian testing, unpacked into a private folder beside the system: nothing is installed.

The system's apt resolves and downloads; what was unpacked once is kept in the user's cache.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from orchestrator.image import sources
from protocol.names import cache_root

_SUITE = "testing"


def unpacked(name: str, packages: Sequence[str], *, alone: bool = False) -> Path:
    """Return the folder with ``packages`` and, unless they are wanted ``alone``, what they depend on."""
    root = cache_root() / "tests" / name
    if not (root / "complete").exists():
        _unpack(root, packages, alone=alone)
    return root


def run(words: Sequence[str]) -> str:
    """Return what a command prints; it has to succeed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{' '.join(words[:6])} …: {done.stderr[-2000:]}"
    return done.stdout


def _unpack(root: Path, packages: Sequence[str], *, alone: bool) -> None:
    state = root / "apt"
    archives = state / "archives"
    for folder in ("lists/partial", "archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    mirror = sources.debian_mirror(sources.read())
    (state / "sources.list").write_text(f"deb [arch=amd64 signed-by={sources.keyring()}] {mirror} {_SUITE} main\n")
    apt = [
        "apt-get", "-q", "-o", "APT::Architecture=amd64", "-o", "APT::Architectures::=amd64",
        "-o", f"Dir::State={state}", "-o", f"Dir::State::status={state / 'status'}",
        "-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state}",
        "-o", f"Dir::Cache::archives={archives}", "-o", f"Dir::Etc::sourcelist={state / 'sources.list'}",
        "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::Etc::preferencesparts={state / 'etc/preferences.d'}",
        "-o", "APT::Install-Recommends=false", "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1",
    ]  # fmt: skip
    run([*apt, "update"])
    if alone:
        subprocess.run([*apt, "download", *packages], cwd=archives, check=True, capture_output=True, timeout=900)
    else:
        run([*apt, "install", "--download-only", "-y", *packages])
    for package in sorted(archives.glob("*.deb")):
        run(["dpkg-deb", "-x", str(package), str(root)])
        package.unlink()
    (root / "complete").touch()
