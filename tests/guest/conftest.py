"""The Debian images that guests boot, built once and kept in the user's cache beside apt's downloads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.names import cache_root


def build(name: str, *options: str) -> Path:
    """Return the folder of an image, built by ``orchestrator image`` unless ``BUSVM_IMAGES`` has it."""
    given = os.environ.get("BUSVM_IMAGES")
    if given and not options:
        return Path(given)
    recipe = hashlib.sha256(repr(options).encode())
    for path in sorted((Path(__file__).parents[2] / "orchestrator" / "image").glob("*.py")):
        recipe.update(path.read_bytes())
    folder = cache_root() / "tests" / f"{name}-{recipe.hexdigest()[:12]}"
    if (folder / "vm.toml").exists():  # guests get copies of its disk
        return folder
    command = [sys.executable, "-m", "orchestrator", "image", "debian", "-o", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def on_a_snapshot(name: str) -> str:
    """Return a vm.toml of a Debian whose root forgets, ``{image}`` being its folder; more devices may follow."""
    return f"""
[vm]
name = "{name}"
memory = "512M"
[boot]
kernel = "{{image}}/vmlinuz"
initrd = "{{image}}/initrd.img"
cmdline = "console=ttyS0 root=/dev/vda rw"
[[device]]
id = "root"
type = "virtio-blk"
image = "{{image}}/root.ext4"
snapshot = true
"""


@pytest.fixture(scope="session")
def debian() -> Path:
    """Return the folder of the image that ``make run`` builds."""
    return build("debian")


@pytest.fixture(scope="session")
def other_debian() -> Path:
    """Return an image of another size with other packages, among them what tests load a guest with."""
    return build("other", "--include", "bc", "--include", "fio", "--include", "iperf3", "--size", "1500M")
