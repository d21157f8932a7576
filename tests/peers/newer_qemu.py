"""QEMU from Debian testing, unpacked beside the system's own: AIA works there, and not in the release's 7.2.

It runs with the C library of its own distribution. ``BUSVM_QEMU`` names another one to use instead.
"""

from __future__ import annotations

import os
import re

from tests.peers import testing_suite

_PACKAGES = ("qemu-system-riscv", "opensbi")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib64")


def command() -> list[str]:
    """Return the words that start it, without options."""
    given = os.environ.get("BUSVM_QEMU")
    if given:
        return [given]
    root = testing_suite.unpacked("qemu", _PACKAGES)
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
    told = testing_suite.run([*command(), "--version"])
    found = re.search(r"version (\d+)\.(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])
