"""How a command asks the supervisor of a VM to restart a device: a file in the VM's folder, and SIGUSR1."""

from __future__ import annotations

from protocol.errors import HostError
from protocol.names import Runtime

_PREFIX = "restart."


def leave(runtime: Runtime, device_id: str) -> None:
    """Leave a request; SIGUSR1 makes the supervisor look.

    Raises:
        HostError: that does not go.
    """
    try:
        (runtime.folder / f"{_PREFIX}{device_id}").touch()
    except OSError as error:
        raise HostError(f"cannot write to {runtime.folder}: {error.strerror}") from error


def take(runtime: Runtime) -> list[str]:
    """Return the devices that requests are there for, and remove the requests."""
    found = []
    for path in sorted(runtime.folder.glob(f"{_PREFIX}*")):
        found.append(path.name.removeprefix(_PREFIX))
        path.unlink(missing_ok=True)
    return found
