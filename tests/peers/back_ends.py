"""Somebody else's back-ends: qemu-storage-daemon and virtiofsd, of Debian 12 and of Debian testing."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.peers import testing_suite

DAEMON = "qemu-storage-daemon"


def blockdevs(kind: str, image: str) -> list[str]:
    """Return the arguments for an image; the node is ``top``."""
    file = f"driver=file,filename={image},node-name={'top' if kind == 'raw' else 'file'}"
    return ["--blockdev", file, *(["--blockdev", f"driver={kind},file=file,node-name=top"] if kind != "raw" else [])]


def export(socket: str, queues: int = 1) -> list[str]:
    """Return the arguments for an export of ``top``."""
    return ["--export", f"vhost-user-blk,id=e,node-name=top,addr.type=unix,addr.path={socket},writable=on,"
            f"num-queues={queues}"]  # fmt: skip


def program(name: str) -> str:
    """Return where a program is, which CI installs."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed (Debian 12: apt-get install qemu-system-common)")
    return found


def newer(path: str, name: str = "back-ends", packages: Sequence[str] = ("qemu-utils", "virtiofsd")) -> list[str]:
    """Return the words that start a program of Debian testing, with the C library of its own distribution."""
    root = testing_suite.unpacked(name, packages)
    loader = next(root.glob("usr/lib*/**/ld-linux-x86-64.so.2"))
    return [str(loader), "--library-path", f"{root}/usr/lib/x86_64-linux-gnu:{root}/usr/lib64", f"{root}/usr/{path}"]


def make(kind: str, path: Path, size: int = 16 << 20) -> Path:
    """Make an image that is all zeros."""
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, str(path), str(size)], check=True)
    return path


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
