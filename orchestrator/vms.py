"""The VMs of this user: which there are, and which one a command means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import config
from orchestrator.lock import holder
from orchestrator.record import Record
from protocol.errors import ConfigError, NotFound
from protocol.names import VM_PATTERN, Runtime, runtime_root


@dataclass(frozen=True)
class Vm:
    """A VM that runs, or of which something is left."""

    name: str
    runtime: Runtime
    record: Record | None
    supervisor: int | None
    """Pid of its supervisor."""

    @property
    def runs(self) -> bool:
        """Tell whether its machine runs, or is being started."""
        if self.supervisor is not None:
            return True
        cpu = self.record.entries.get("cpu") if self.record else None
        return cpu is not None and cpu.is_alive()


def look(name: str) -> Vm:
    """Return what there is of the VM ``name``."""
    runtime = Runtime(name)
    return Vm(name, runtime, Record.read(runtime), holder(runtime))


def all_vms() -> list[Vm]:
    """Return all VMs of which there is anything."""
    root = runtime_root()
    names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [look(name) for name in names if VM_PATTERN.match(name)]


def running() -> list[Vm]:
    """Return the VMs that run."""
    return [vm for vm in all_vms() if vm.runs]


def name_of(word: str) -> str:
    """Return the VM name that ``word`` stands for: a name, a vm.toml, or a folder with one.

    Raises:
        ConfigError: it is none of them.
    """
    path = Path(word)
    if path.suffix == ".toml" or "/" in word:
        return config.load(path / config.FILE_NAME if path.is_dir() else path).name
    if not VM_PATTERN.match(word):
        raise ConfigError(f"{word!r} is no name of a VM")
    return word


def default_name() -> str:
    """Return the VM meant when none is named: vm.toml's in this folder, else the only one that runs.

    Raises:
        NotFound: none runs.
        ConfigError: several run.
    """
    if Path(config.FILE_NAME).is_file():
        return config.load(Path(config.FILE_NAME)).name
    found = running()
    if len(found) == 1:
        return found[0].name
    if not found:
        raise NotFound("no VM runs", hint="`orchestrator up` starts one")
    raise ConfigError(f"{len(found)} VMs run: {', '.join(vm.name for vm in found)}", hint="name the one you mean")


def find(word: str | None) -> Vm:
    """Return the running VM that ``word`` names, or the default one.

    Raises:
        NotFound: it does not run.
    """
    vm = look(name_of(word) if word is not None else default_name())
    if not vm.runs:
        raise NotFound(f"no VM named {vm.name!r} runs", hint=_others())
    return vm


def split(words: Sequence[str]) -> tuple[Vm, list[str]]:
    """Return the VM and the rest of ``[VM] [DEVICE…]``: the first word is a VM if one of that name runs."""
    if words and VM_PATTERN.match(words[0]) and look(words[0]).runs:
        return look(words[0]), list(words[1:])
    if words and ("/" in words[0] or words[0].endswith(".toml")):
        return find(words[0]), list(words[1:])
    try:
        return find(None), list(words)
    except NotFound:
        if words:
            return find(words[0]), list(words[1:])
        raise


def device_of(vm: Vm, word: str) -> str:
    """Return ``word`` if it is a process of the VM.

    Raises:
        NotFound: it is not.
    """
    known = list(vm.record.entries) if vm.record else []
    if word not in known:
        raise NotFound(f"VM {vm.name!r} has no process {word!r}", hint=f"it has: {', '.join(known)}")
    return word


def _others() -> str:
    names = [vm.name for vm in running()]
    return f"running: {', '.join(names)}" if names else "none does; `orchestrator up` starts one"
