"""Takes away what a VM leaves in the host: its processes, its folder, its names in /dev/shm. Nobody else's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from orchestrator import record, sandboxes
from orchestrator.record import Entry, Record
from protocol.memory import SHM, shm_name
from protocol.names import Runtime

TERM_GRACE_S = 3.0


def shared_names(runtime: Runtime) -> list[str]:
    """Return the VM's names in /dev/shm."""
    return sorted(path.name for path in SHM.glob(shm_name(runtime.vm, "*")) if _is_of(path.name, runtime.vm))


def _is_of(name: str, vm: str) -> bool:
    """Tell whether a name is of ``vm``, and not of a VM whose name begins alike (``a`` and ``a.b``)."""
    rest = name.removeprefix(shm_name(vm, ""))
    return rest in ("ram", "irq", "clock") or rest.startswith("dev.")


def abandoned_names(runtime: Runtime) -> list[str]:
    """Return the VM's names in /dev/shm that are ours and that no process has open.

    A VM of the same name may run with another ``XDG_RUNTIME_DIR``: its memory is not ours to unlink.
    """
    names = {name for name in shared_names(runtime) if _is_mine(SHM / name)}
    for folder in Path("/proc").glob("[0-9]*/fd") if names else ():
        with suppress(OSError):  # ended meanwhile, or not ours to look at
            for link in folder.iterdir():
                with suppress(OSError):
                    names.discard(os.readlink(link).removeprefix(f"{SHM}/"))
    return sorted(names)


def _is_mine(path: Path) -> bool:
    try:
        return path.stat(follow_symlinks=False).st_uid == os.getuid()
    except OSError:
        return False


def end_processes(runtime: Runtime, entries: Iterable[Entry], *, grace_s: float = TERM_GRACE_S) -> None:
    """End what runs of ``entries``: the machine, then the devices, the bus last, so that each can say goodbye."""
    left = [entry for entry in entries if entry.is_alive()]
    for stage in (("cpu",), None, ("bus",)):
        chosen = [e for e in left if (e.id in stage if stage else e.id not in ("cpu", "bus"))]
        record.end(chosen, grace_s=grace_s)


def remove_files(runtime: Runtime, sockets: Iterable[str] = ()) -> None:
    """Remove the VM's folder, its names in /dev/shm and sockets where nobody listens; the logs stay."""
    for path in sandboxes.abandoned(sockets):
        path.unlink(missing_ok=True)
    for name in abandoned_names(runtime):
        (SHM / name).unlink(missing_ok=True)
    shutil.rmtree(runtime.folder, ignore_errors=True)


def clean(runtime: Runtime, found: Record | None) -> list[str]:
    """Clean up after a VM that was killed, and return what there was; the caller holds its lock.

    The folder itself stays, for the lock is in it.
    """
    did: list[str] = []
    alive = found.alive() if found else []
    if found and alive:
        did += [f"{entry.id} (pid {entry.pid})" for entry in alive]
        end_processes(runtime, alive)
    for name in abandoned_names(runtime):
        did.append(str(SHM / name))
        (SHM / name).unlink(missing_ok=True)
    for path in sandboxes.abandoned(found.sockets) if found else ():
        did.append(str(path))
        path.unlink(missing_ok=True)
    for path in runtime.folder.iterdir() if runtime.folder.is_dir() else ():
        if path != runtime.lock:
            did.append(str(path))
            path.unlink(missing_ok=True)
    return did
