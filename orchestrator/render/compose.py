"""A VM as a Compose file: one container per process, restarted by the engine, and nothing privileged.

All share one process namespace, the bus's, for each looks who is at the other end of a socket. They wait for the bus by
themselves, so that ``depends_on`` only says who is there first and goes last.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from orchestrator.plan import BUS, CPU
from orchestrator.render import inside
from orchestrator.render.contained import Contained, Container, Mount

_BLOCK = 4096
_RUNTIME = 64 << 20
_GRACE = "30s"
_SHARED = {"runtime": inside.RUNTIME, "memory": inside.MEMORY}
_CACHE_NAME = "busvm-cache"


def compose(contained: Contained, *, image: str, user: int, folder: Path) -> dict[str, Any]:
    """Return the content of a Compose file that is in ``folder``."""
    services = {c.id: _service(c, contained, image, user, folder) for c in contained.containers}
    return {
        "name": _project(contained),
        "services": services,
        "volumes": {
            "runtime": _in_memory(_RUNTIME, user),
            "memory": _in_memory(contained.shared, user),
            "state": {},
            "cache": {"name": _CACHE_NAME},
        },
    }


def _project(contained: Contained) -> str:
    return "busvm-" + re.sub(r"[^a-z0-9_-]", "-", contained.vm.lower())


def _in_memory(size: int, user: int) -> dict[str, Any]:
    # nr_blocks rather than size, which podman 4 takes for a quota of the disk
    options = f"nr_blocks={-(-size // _BLOCK)},uid={user},gid={user},mode=0700,nosuid,nodev,noexec"
    return {"driver": "local", "driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": options}}


def _service(container: Container, contained: Contained, image: str, user: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"container_name": f"{_project(contained)}-{BUS}"} if container.id == BUS else {}
    found |= {
        "image": image,
        "user": f"{user}:{user}",
        "command": [word.replace("$", "$$") for word in container.argv],
        "environment": container.environment,
        "volumes": _volumes(container, folder),
        "tmpfs": ["/tmp"],
    }
    if any(mount.place == inside.FOLDER for mount in container.mounts):
        found["working_dir"] = str(inside.FOLDER)
    if container.id != BUS:
        found["pid"] = f"container:{_project(contained)}-{BUS}"  # service: is nothing that podman-compose knows
        others = [c.id for c in contained.containers if c.id != CPU] if container.id == CPU else [BUS]
        found["depends_on"] = others
    if container.ports:
        found["ports"] = [f"{port.address}:{port.number}:{port.number}/{port.protocol}" for port in container.ports]
    if not container.network:
        found["network_mode"] = "none"
    found["stop_signal"] = _stop_signal(container, contained)
    found["stop_grace_period"] = _GRACE
    found |= {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
    found["restart"] = "no" if container.id in (BUS, CPU) else container.process.restart
    return found


def _stop_signal(container: Container, contained: Contained) -> str:
    if container.id != CPU:
        return "SIGCONT"  # which is nothing: engines stop all at once, and the guest needs these until it has ended
    return "SIGTERM" if contained.plan.embedded else "SIGPWR"  # at which the guest is asked to power down


def _volumes(container: Container, folder: Path) -> list[str]:
    own = [f"{name}:{place}" for name, place in _SHARED.items()]
    if container.id in (BUS, CPU):
        own.append(f"state:{inside.STATE}")
    if container.id == CPU:
        own.append(f"cache:{inside.CACHE}")
    return own + [_bind(mount, folder) for mount in container.mounts]


def _bind(mount: Mount, folder: Path) -> str:
    host = f"./{mount.host.relative_to(folder)}" if mount.host.is_relative_to(folder) else str(mount.host)
    return f"{host}:{mount.place}" + ("" if mount.writable else ":ro")


def folder_of(output: Path | None) -> Path:
    """Return the folder that relative paths are relative to: the file's, else the working folder."""
    return Path(os.path.abspath(output)).parent if output is not None else Path.cwd()
