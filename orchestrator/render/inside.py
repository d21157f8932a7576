"""Where things are in the image that the Containerfile builds: what the plan of a VM in containers is made for.

``tests/unit/orchestrator/render/test_image.py`` compares it with the Containerfile.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protocol.names import Runtime
from protocol.staying import WAIT_VARIABLE

RUNTIME, MEMORY, STATE, CACHE = (
    Path(path) for path in ("/run/busvm", "/run/memory", "/var/lib/busvm", "/var/cache/busvm")
)
GUEST = Path("/opt/busvm/guest.elf")
FOLDER = Path("/vm")
"""What vm.toml's folder is: its files have the names that they have there."""
ELSEWHERE = Path("/files")
"""Below it are files of other folders."""
PYTHON = "python"
USER = 1000

ENVIRONMENT = {
    "XDG_RUNTIME_DIR": str(RUNTIME),
    "XDG_STATE_HOME": str(STATE),
    "XDG_CACHE_HOME": str(CACHE),
    "BUSVM_SHM": str(MEMORY),
}
WAIT = {WAIT_VARIABLE: "120"}


@dataclass(frozen=True)
class Inside(Runtime):
    """The files of a running VM as its containers see them."""

    @property
    def folder(self) -> Path:
        """The VM's folder."""
        return RUNTIME / "busvm" / self.vm

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return STATE / "busvm" / self.vm
