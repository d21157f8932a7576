"""What the keys of memory that machines share mean together: servers, and the devices by which a guest has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from orchestrator import naming
from orchestrator.keys.ivshmem import SIZE_LEAST
from orchestrator.keys.types import IVSHMEM, PEERS
from orchestrator.naming import Ids, Path, Reader
from protocol.errors import ConfigError
from protocol.names import MEMORY_PATTERN, Runtime
from protocol.sizes import format_size

MODULE = "devproc.ivshmem.server"
DIALECT_SUFFIX = ".busvm"  # of the socket for peers of ours
_SOCKET_MAX = 107 - len(DIALECT_SUFFIX)  # sun_path of AF_UNIX


@dataclass(frozen=True)
class Service:
    """One ``[[service]]``; what is empty has its default."""

    id: str
    type: str
    size: int
    vectors: int = 1
    memory: str = ""
    socket: str = ""

    def place(self, runtime: Runtime) -> str:
        """Return where its peers connect."""
        return self.socket or str(runtime.ivshmem_socket(self.id))


def _check_size(reader: Reader, size: int, path: Path) -> None:
    if size < SIZE_LEAST or size & (size - 1):
        higher = max(SIZE_LEAST, 1 << max(0, size - 1).bit_length())
        hint = f"{format_size(higher)}: a PCI BAR has no other sizes"
        raise reader.error((*path, "size"), f"{format_size(size)} is no power of two from 4K on", hint)


def _check_memory(reader: Reader, memory: str, path: Path) -> None:
    if memory and "/" not in memory and not MEMORY_PATTERN.match(memory):
        hint = "letters, digits and _.-, or a path with a /"
        raise reader.error((*path, "memory"), f"{memory!r} is no name of memory", hint)


def services(
    reader: Reader, tables: list[dict[str, Any]], devices: Sequence[tuple[str, Any]], ids: Ids
) -> tuple[Service, ...]:
    """Return the services; ``devices`` are ids and options of the devices, of which some name services.

    Raises:
        ConfigError: a key is wrong, or a device names a service that is not there, or not as it is.
    """
    found: dict[str, Service] = {}
    for index, given in enumerate(tables):
        path: Path = ("service", index)
        values = reader.table(given, "service", path)
        _check_size(reader, values["size"], path)
        _check_memory(reader, values["memory"], path)
        socket = str(values["socket"] or "")
        if len(socket.encode()) > _SOCKET_MAX:
            raise reader.error((*path, "socket"), "the path is too long for a socket", f"{_SOCKET_MAX} bytes at most")
        ids.take(values["id"], (*path, "id"))
        found[values["id"]] = Service(**{**values, "socket": socket})
    for index, (_, pairs) in enumerate(devices):
        values = dict(pairs)
        name = values.get("server")
        if not isinstance(name, str) or not name:  # a network card's is a flag
            continue
        path = ("device", index)
        if "/" not in name:
            naming.check(reader, name, (*path, "server"), list(found), "service", "service")
        service = found.get(name)
        if service is not None and values.get("size") not in (None, service.size):
            raise reader.error((*path, "size"), f"service {name!r} has {format_size(service.size)}", "leave it out")
    return tuple(found.values())


def check_device(reader: Reader, values: dict[str, Any], path: Path, *, bus_given: bool) -> None:
    """Check a device that has shared memory, by itself; one without PCI is on the platform bus.

    Raises:
        ConfigError: naming the key.
    """
    kind = values["type"]
    if kind == "ivshmem-flat" and not bus_given:
        values["bus"] = "platform"
    buses = ("platform",) if kind == "ivshmem-flat" else ("pci", "pcie")
    if values["bus"] not in buses:
        raise reader.error((*path, "bus"), f"{kind} is no device of {values['bus']}", f"values: {', '.join(buses)}")
    if kind not in PEERS:
        _check_plain(reader, values, path)
    elif not values["server"]:
        raise reader.error((*path, "server"), "empty", "a service of this file, VM/ID, or a socket's path")
    if values["size"] is not None:
        _check_size(reader, values["size"], path)


def _check_plain(reader: Reader, values: dict[str, Any], path: Path) -> None:
    memory, server = values["memory"], values["server"]
    if memory and server:
        raise reader.error((*path, "memory"), "excludes server", "which has memory of its own")
    if not memory and not server:
        raise reader.error((*path, "memory"), "missing", "a name or a path, with size; or server")
    _check_memory(reader, memory, path)
    if memory and values["size"] is None:
        raise reader.error((*path, "size"), "missing", "memory without a server needs it")


def options(
    device_id: str, kind: str, values: dict[str, Any], runtime: Runtime, folder: File, declared: Sequence[Service]
) -> list[str]:
    """Return what a device's process is told beside its keys: where its server is, its name there, what there is.

    Raises:
        ConfigError: there is no such server.
    """
    name = values.get("server")
    if kind not in IVSHMEM or not name:
        return []
    service = next((service for service in declared if service.id == name), None)
    if service is not None:
        socket = service.place(runtime)
    elif naming.is_of_another(name):
        socket = str(naming.place(name, runtime, Runtime.ivshmem_socket))
    elif "/" in name:
        socket = str((folder / File(name).expanduser()).absolute())
    else:
        raise ConfigError(f"no service {name!r}", hint=", ".join(s.id for s in declared) or "[[service]] declares one")
    found = [f"--server={socket}", f"--name={runtime.vm}.{device_id}"]
    if service is not None:
        found += [f"--size={service.size}"] if values.get("size") is None else []
        found += [f"--vectors={service.vectors}"] if kind in PEERS and values.get("vectors") is None else []
    return found


def service_options(service: Service, runtime: Runtime) -> list[str]:
    """Return the arguments of a service's process."""
    found = ["--bus", runtime.bus_address, "--id", service.id, f"--socket={service.place(runtime)}"]
    found += [f"--size={service.size}", f"--vectors={service.vectors}"]
    found += [f"--link={runtime.ivshmem_socket(service.id)}"] if service.socket else []  # where VM/ID looks
    return found + ([f"--memory={service.memory}"] if service.memory else [])
