"""A device whose process has been taken over: when its register is written, it tries all it should not be able to do.

The worst case of docs/security.md: whatever a guest can do to a device, it is this process that does it afterwards.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devproc.device import Device
from devproc.registers import Bar, Register
from protocol import names
from protocol.bus import Bus, BusError
from protocol.memory import SHM, shm_name

logger = logging.getLogger(__name__)

FOLDER = Path("vm.toml").absolute().parent
VM = os.environ.get("HOSTILE_VM", "")
RUNTIME = names.Runtime(VM)


def _connected(path: Path) -> str:
    """Return what comes of a connection to a socket: something is said, or it is hung up on."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect(str(path))
        try:
            sock.sendall(b"$?#3f")
            return "answered" if sock.recv(64) else "hung up"
        except (BrokenPipeError, ConnectionResetError):
            return "hung up"


def _made(path: Path) -> None:
    """Make a file; without the sandbox it is there, and nobody else would take it away."""
    path.touch(exist_ok=False)
    path.unlink()


def _process(entry: str) -> int:
    """Return the process of another part, as the test says it."""
    return int(Path(FOLDER / "pids" / entry).read_text())


LOCAL: dict[str, Callable[[], object]] = {
    "read another's image": Path(os.environ.get("HOSTILE_SECRET", "")).read_bytes,
    "write the configuration": lambda: (FOLDER / "vm.toml").open("a"),
    "read the plan": RUNTIME.plan.read_text,
    "take away the bus": RUNTIME.bus_socket.unlink,
    "open memory by name": (SHM / shm_name(VM, "ram")).read_bytes,
    "make memory": lambda: _made(SHM / f"{VM}.hostile"),
    "read the home folder": lambda: os.listdir(Path.home()),
    "look at another process": lambda: Path(f"/proc/{_process('rng0')}/maps").read_text(),
    "end another process": lambda: os.kill(_process("rng0"), signal.SIGKILL),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "reach the network": lambda: socket.create_connection(("127.0.0.1", 9), 1),
    "join the console": lambda: _connected(RUNTIME.console_socket),
    "debug the guest": lambda: _connected(RUNTIME.gdb_socket),
}

_MACHINE = names.MACHINE_NAME, names.MACHINE_PATH, "org.busvm.Machine1"
_DBUS = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_OTHER = names.device_name("rng0"), names.device_path("rng0")
CALLS: dict[str, tuple[Any, ...]] = {
    "end the machine": (*_MACHINE, "Quit", "i", [7]),
    "pause the machine": (*_MACHINE, "Pause"),
    "read memory by the machine": (*_MACHINE, "ReadMemory", "tu", [0x8000_0000, 16]),
    "save the machine": (*_MACHINE, "SaveState", "s", [str(FOLDER / "saved")]),
    "see all objects": (names.MACHINE_NAME, "/org/busvm", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"),
    "read registers of a hart": (names.MACHINE_NAME, names.hart_path(0), "org.busvm.Hart1", "ReadRegisters"),
    "eject another device": (names.MACHINE_NAME, _OTHER[1], "org.busvm.Function1", "Eject", "bd", [True, 0.0]),
    "take another's descriptors": (names.MACHINE_NAME, _OTHER[1], "org.busvm.Wiring1", "Held", "u", [0]),
    "detach another device": (*_OTHER, "org.busvm.Device1", "Detach"),
    "write another's registers": (*_OTHER, "org.busvm.Registers1", "Write", "st", ["device_status", 0]),
    "listen to the bus": (*_DBUS, "org.freedesktop.DBus.Monitoring", "BecomeMonitor", "asu", [[], 0]),
    "configure the bus": (*_DBUS, "org.freedesktop.DBus", "ReloadConfig"),
    "read the machine's state": (*_MACHINE[:2], "org.freedesktop.DBus.Properties", "Get", "ss", [_MACHINE[2], "State"]),
}
NAMES = {
    "be the machine": names.MACHINE_NAME,
    "be another device": _OTHER[0],
    "be anything": "org.example.anything",
    "be a device that is away": names.device_name("away"),
}


def _tried(attempt: Callable[[], object]) -> str:
    try:
        found = attempt()
    except OSError as error:
        return type(error).__name__
    return found if isinstance(found, str) and found in ("answered", "hung up") else "done"


async def _on_bus() -> dict[str, str]:
    """Try it from another connection than the device's own, which nobody has heard of."""
    bus = await Bus.connect(f"unix:path={RUNTIME.bus_socket}")
    found = {}
    for what, call in CALLS.items():
        try:
            await bus.call(*call, timeout_s=5)
            found[what] = "done"
        except BusError as error:
            found[what] = error.name.rpartition(".")[2]
        except TimeoutError:
            found[what] = "no answer"
    for what, name in NAMES.items():
        try:
            await bus.request_name(name)
            found[what] = "done"
        except Exception as error:
            found[what] = type(error).__name__
    await asyncio.sleep(0.5)  # for the machine to have a look at who has a name now
    bus.close()
    return found


def attack() -> None:
    """Try everything, and say what came of it."""
    found = {what: _tried(attempt) for what, attempt in LOCAL.items()}
    found |= asyncio.run(_on_bus())
    logger.info("tried %s", json.dumps(found))


class Hostile(Device):
    """What a device is once somebody else has it."""

    bar0 = Bar(size=0x1000)
    order = Register(bar0, 0x00, doc="1: try everything; 2: do what no device does.")

    @order.on_write
    def _ordered(self, value: int) -> None:
        if value == 1:
            threading.Thread(target=attack, daemon=True).start()
        elif value == 2:
            ctypes.CDLL(None).ptrace(0, 0, 0, 0)
