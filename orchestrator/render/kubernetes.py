"""A VM as one Pod: a container per process, which share processes and volumes in memory; nothing privileged.

The Pod ends when the machine has ended with status 0; after a failure its restart policy starts all of it again. Before
a Pod that is deleted ends its containers, the guest is asked to power down, and its devices stay until it has.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from orchestrator.plan import BUS, CPU
from orchestrator.render import inside
from orchestrator.render.contained import Contained, Container, Mount

_GRACE_S, _GUEST_S = 40, 30
_PROCESS_MEMORY = 64 << 20
_CPU_MEMORY = 512 << 20
_MIB = 1 << 20
_RUNTIME = 64 << 20


def pod(contained: Contained, *, image: str, user: int, claim: str | None) -> dict[str, Any]:
    """Return a Pod; files are of the node (``hostPath``), or with ``claim`` of that PersistentVolumeClaim."""
    names = _names(contained)
    files = _files(contained, claim)
    again = any(c.process.restart != "no" for c in contained.containers if c.id not in (BUS, CPU))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": _label(contained.vm),
            "labels": {"app.kubernetes.io/name": "busvm", "app.kubernetes.io/instance": _label(contained.vm)},
        },
        "spec": {
            "restartPolicy": "OnFailure" if again else "Never",
            "shareProcessNamespace": True,
            "terminationGracePeriodSeconds": _GRACE_S,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "runAsGroup": user,
                "fsGroup": user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                _container(container, contained, names[container.id], image, files, claim, again=again)
                for container in contained.containers
            ],
            "volumes": [
                _in_memory("runtime", _RUNTIME),
                _in_memory("memory", contained.shared),
                {"name": "state", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {}},
                *_volumes(files, claim),
            ],
        },
    }


def _label(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "vm"


def _names(contained: Contained) -> dict[str, str]:
    """Return a name for each container: letters, digits and ``-``, each once."""
    found: dict[str, str] = {}
    for container in contained.containers:
        name = wanted = _label(container.id)
        number = 1
        while name in found.values():
            number += 1
            name = f"{wanted}-{number}"
        found[container.id] = name
    return found


def _in_memory(name: str, size: int) -> dict[str, Any]:
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": f"{-(-size // _MIB)}Mi"}}


def _files(contained: Contained, claim: str | None) -> dict[Mount, str]:
    """Return the name of the volume that each file or folder is in."""
    mounts = dict.fromkeys(mount for container in contained.containers for mount in container.mounts)
    return {mount: "images" if claim else f"file-{number}" for number, mount in enumerate(mounts)}


def _volumes(files: dict[Mount, str], claim: str | None) -> list[dict[str, Any]]:
    if claim:
        return [{"name": "images", "persistentVolumeClaim": {"claimName": claim}}] if files else []
    return [
        {"name": name, "hostPath": {"path": str(mount.host), "type": "Directory" if mount.folder else "File"}}
        for mount, name in files.items()
    ]


def _mount(mount: Mount, name: str, claim: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "mountPath": str(mount.place)}
    if claim and mount.place != inside.FOLDER:
        below = PurePosixPath(mount.place)
        root = inside.FOLDER if below.is_relative_to(inside.FOLDER) else PurePosixPath("/")
        found["subPath"] = str(below.relative_to(root))
    return found | ({} if mount.writable else {"readOnly": True})


def _container(
    container: Container,
    contained: Contained,
    name: str,
    image: str,
    files: dict[Mount, str],
    claim: str | None,
    *,
    again: bool,
) -> dict[str, Any]:
    argv = list(container.argv)
    if container.id == BUS and again:
        argv.append("--fail-together")
    is_cpu = container.id == CPU
    places = {"runtime": inside.RUNTIME, "memory": inside.MEMORY, "tmp": "/tmp"}
    places |= {"state": inside.STATE} if container.id in (BUS, CPU) else {}
    found: dict[str, Any] = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [word.replace("$(", "$$(") for word in argv],
        "env": [{"name": key, "value": value} for key, value in container.environment.items()],
        "resources": {
            "requests": {
                "memory": f"{(contained.plan.memory + _CPU_MEMORY if is_cpu else _PROCESS_MEMORY) // _MIB}Mi",
                "cpu": str(contained.cpus) if is_cpu else "50m",
            }
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": not is_cpu,  # the compiled CPU of the image is used where it is
        },
        "volumeMounts": [
            *({"name": volume, "mountPath": str(place)} for volume, place in places.items()),
            *(_mount(mount, files[mount], claim) for mount in container.mounts),
        ],
        "lifecycle": {"preStop": {"exec": {"command": _before_end(contained, is_cpu=is_cpu)}}},
    }
    if any(mount.place == inside.FOLDER for mount in container.mounts):
        found["workingDir"] = str(inside.FOLDER)
    return found


def _before_end(contained: Contained, *, is_cpu: bool) -> list[str]:
    if is_cpu:
        return ["orchestrator", "down", "--timeout", "0" if contained.plan.embedded else str(_GUEST_S), contained.vm]
    console = inside.Inside(contained.vm).console_socket
    return ["sh", "-c", f"while test -S {console}; do sleep 0.2; done"]
