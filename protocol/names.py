"""Names by which the processes of a VM find each other: folders, sockets, bus names, object paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import HostError

MACHINE_NAME = "org.busvm.machine"
ROOT_PATH = "/org/busvm"
MACHINE_PATH = "/org/busvm/machine"
DEVICE_NAME_PREFIX = "org.busvm.device."
DEVICE_PATH_PREFIX = "/org/busvm/device/"
HUB_NAME_PREFIX = "org.busvm.hub."
HUB_PATH_PREFIX = "/org/busvm/hub/"
IVSHMEM_NAME_PREFIX = "org.busvm.ivshmem."
IVSHMEM_PATH_PREFIX = "/org/busvm/ivshmem/"

ID_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}\Z")  # what D-Bus allows in both names and paths
MEMORY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}\Z")  # of shared memory, in /dev/shm
VM_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}\Z")

_SOCKET_PATH_MAX = 107  # sun_path of AF_UNIX less its terminator


def hart_path(index: int) -> str:
    """Return the object path of hart ``index``."""
    return f"{MACHINE_PATH}/cpu/{index}"


def port_path(index: int) -> str:
    """Return the object path of root port ``index``."""
    return f"{MACHINE_PATH}/port/{index}"


def device_name(device_id: str) -> str:
    """Return the well-known bus name of a device."""
    return DEVICE_NAME_PREFIX + device_id


def device_path(device_id: str) -> str:
    """Return the object path of a device, the same on its own connection and on the machine's."""
    return DEVICE_PATH_PREFIX + device_id


def hub_name(hub_id: str) -> str:
    """Return the well-known bus name of a hub."""
    return HUB_NAME_PREFIX + hub_id


def hub_path(hub_id: str) -> str:
    """Return the object path of a hub."""
    return HUB_PATH_PREFIX + hub_id


def ivshmem_name(server_id: str) -> str:
    """Return the well-known bus name of an ivshmem server."""
    return IVSHMEM_NAME_PREFIX + server_id


def ivshmem_path(server_id: str) -> str:
    """Return the object path of an ivshmem server."""
    return IVSHMEM_PATH_PREFIX + server_id


def runtime_root() -> Path:
    """Return the folder with one folder per running VM: below ``XDG_RUNTIME_DIR``, else a private one in /tmp."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "busvm" if base else Path(f"/tmp/busvm-{os.getuid()}")


def state_root() -> Path:
    """Return the folder with the logs of each VM, which outlive it."""
    base = os.environ.get("XDG_STATE_HOME")
    return Path(base) / "busvm" if base else Path.home() / ".local" / "state" / "busvm"


def cache_root() -> Path:
    """Return the folder for what can be made again: compiled engines, downloaded packages."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "busvm" if base else Path.home() / ".cache" / "busvm"


def private_folder(path: Path) -> Path:
    """Make ``path`` a folder that only this user can enter, and return it.

    Raises:
        HostError: it exists and belongs to somebody else, or cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat(follow_symlinks=False)
    except OSError as error:
        raise HostError(f"cannot make folder {path}: {error.strerror}") from error
    if found.st_uid != os.getuid():
        raise HostError(f"{path} belongs to another user", hint="set XDG_RUNTIME_DIR to a folder of your own")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


@dataclass(frozen=True)
class Runtime:
    """The files of one running VM, all in one private folder."""

    vm: str

    @property
    def folder(self) -> Path:
        """The VM's folder."""
        return runtime_root() / self.vm

    @property
    def lock(self) -> Path:
        """Locked (``flock``) by whoever runs the VM."""
        return self.folder / "lock"

    @property
    def bus_socket(self) -> Path:
        """Socket of the private dbus-daemon."""
        return self.folder / "bus"

    @property
    def bus_address(self) -> str:
        """D-Bus address of the private bus."""
        return f"unix:path={self.bus_socket}"

    @property
    def console_socket(self) -> Path:
        """Stream socket of the guest's serial console; one client at a time writes, all see the output."""
        return self.folder / "console"

    @property
    def gdb_socket(self) -> Path:
        """Stream socket on which one debugger at a time speaks gdb's remote protocol."""
        return self.folder / "gdb"

    def back_end_socket(self, device_id: str) -> Path:
        """Return where the back-end of a vhost-user device listens that the VM starts itself."""
        return self.folder / f"vhost.{device_id}"

    def hub_socket(self, hub_id: str) -> Path:
        """Return where cards connect to a hub of the VM."""
        return self.folder / f"hub.{hub_id}"

    def ivshmem_socket(self, server_id: str) -> Path:
        """Return where peers of version 0 connect to an ivshmem server of the VM; ours: with ``.busvm`` behind it."""
        return self.folder / f"shm.{server_id}"

    @property
    def plan(self) -> Path:
        """What was started, as JSON: lets a later command find the processes."""
        return self.folder / "plan.json"

    @property
    def status(self) -> Path:
        """The guest's exit status, once it has ended: for who is not told it as the machine's parent."""
        return self.folder / "status"

    def link(self, device_id: str, epoch: int) -> str:
        """Return the ZeroMQ endpoint of one incarnation of a device.

        A new incarnation gets a new one, so that nothing queued for the old one can reach it.
        """
        return f"ipc://{self.folder / f'link.{device_id}.{epoch}'}"

    @property
    def logs(self) -> Path:
        """Folder of the log files, one per process."""
        return state_root() / self.vm

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            HostError: they cannot be private, or their path is too long for a socket.
        """
        private_folder(runtime_root())
        private_folder(self.folder)
        private_folder(self.logs)
        longest = str(self.folder / ("link." + "x" * 31 + ".9999"))  # no less than shm.ID.busvm
        if len(longest) > _SOCKET_PATH_MAX:
            raise HostError(
                f"the runtime folder's path is too long for a socket: {self.folder}",
                hint="set XDG_RUNTIME_DIR to a shorter path",
            )
