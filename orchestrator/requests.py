"""How a command asks the supervisor of a VM to restart a device: a file in the VM's folder, and SIGUSR1."""

from __future__ import annotations

from orchestrator import folder
from protocol.names import Runtime

_PREFIX = "restart."


def leave(runtime: Runtime, device_id: str) -> None:
    """Leave a request; SIGUSR1 makes the supervisor look.

    Raises:
        HostError: that does not go.
    """
    with folder.writing(runtime):
        (runtime.folder / f"{_PREFIX}{device_id}").touch()


def take(runtime: Runtime) -> list[str]:
    """Return the devices that requests are there for, and remove the requests."""
    found = []
    for path in sorted(runtime.folder.glob(f"{_PREFIX}*")):
        found.append(path.name.removeprefix(_PREFIX))
        path.unlink(missing_ok=True)
    return found
