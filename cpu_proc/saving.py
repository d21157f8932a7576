"""The state of a machine in a folder: ``state`` (MessagePack in a zstd frame) and ``ram`` (``protocol.chunks``).

Saved is what a guest could tell apart: architectural registers, levels of wires, registers of devices, guest time.
What follows from it (translations, decoded code) is made anew. A hart is saved between two instructions; an access
that Python has served but the instruction not yet taken is part of its state, and so are interrupts posted to it.
Devices in other processes are their pages (``cpu_proc.saved_device``), which they have finished before.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu_proc.engine import state as st
from cpu_proc.hart import Hart
from cpu_proc.machine import Machine
from cpu_proc.saved_device import SavedDevice
from protocol import chunks, packed
from protocol.errors import ConfigError, HostError, Malformed

VERSION = 3
STATE, RAM = "state", "ram"
_STATE_MAX = 256 << 20
_POSTED = {  # slots, and where others leave what is to come there
    "MIP": "POSTED_MIP",
    **{f"{file}_EIP{word}": f"POSTED_{file}{word}" for file in ("MI", "SI") for word in range(4)},
}


def save(machine: Machine, folder: Path, remotes: Sequence[SavedDevice] = ()) -> None:
    """Write the state of a machine that stands still, with that of its devices in other processes.

    Raises:
        HostError: the folder cannot be written.
    """
    state = {
        "version": VERSION,
        "machine": _shape(machine),
        "time_ns": machine.clock.now_ns(),
        "blob": machine.blob,
        "rom": machine.board.rom.data,
        "harts": [_hart(hart) for hart in machine.harts],
        "devices": {name: _fields(device) for name, device in machine.board.stateful().items()},
        "remotes": [remote.to_plain() for remote in remotes],
    }
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ram = machine.ram
        with (folder / RAM).open("wb") as file:
            chunks.write(file, ram.size, chunks.data_in(ram.fd, ram.size), lambda at, n: ram.u8[at : at + n])
        (folder / STATE).write_bytes(packed.pack(state, level=1))
    except OSError as error:
        raise HostError(f"cannot save to {folder}: {error.strerror}") from error


def load(machine: Machine, folder: Path) -> list[SavedDevice]:
    """Put a machine that has not started into the state of ``folder``; return its devices in other processes.

    Raises:
        ConfigError: there is no state, or it is of another kind of machine.
    """
    try:
        state = packed.unpack((folder / STATE).read_bytes(), expanded_max=_STATE_MAX)
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise ConfigError(f"{folder} holds no state of version {VERSION}")
        if state["machine"] != _shape(machine):
            raise ConfigError(f"{folder} is of another machine: {state['machine']}, this one is {_shape(machine)}")
        _read_ram(machine, folder / RAM)
        machine.blob, machine.board.rom.data = state["blob"], state["rom"]
        machine.clock.set_ticks(state["time_ns"] // st.TICK_NS)  # where instructions are the clock, the hart's count
        for hart, values in zip(machine.harts, state["harts"], strict=True):
            _set_hart(hart, values)
        for name, device in machine.board.stateful().items():
            _set_fields(device, state["devices"][name])
        machine.board.update_windows()
        return [SavedDevice.from_plain(remote, folder) for remote in state["remotes"]]
    except OSError as error:
        raise ConfigError(f"cannot read the state in {folder}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, Malformed) as error:
        raise ConfigError(f"the state in {folder} is broken: {type(error).__name__}: {error}") from error


def _shape(machine: Machine) -> dict[str, Any]:
    ports = {"ports": len(machine.board.root.ports)} if machine.board.root.ports else {}
    return ports | {
        "memory": machine.ram.size,
        "harts": len(machine.harts),
        "interrupts": machine.interrupts,
        "clock": machine.clock.source,
    }


def _hart(hart: Hart) -> dict[str, Any]:
    return {
        "slots": {name: hart[name] | (hart[_POSTED[name]] if name in _POSTED else 0) for name in st.SAVED},
        "x": hart.x.tobytes(),
        "f": hart.f.tobytes(),
        "condition": hart.condition,
        "waiting": hart.waiting,
    }


def _set_hart(hart: Hart, values: dict[str, Any]) -> None:
    for name in st.SAVED:
        hart[name] = values["slots"][name]
    for register_file, data in ((hart.x, values["x"]), (hart.f, values["f"])):
        register_file.view("u1")[:] = bytearray(data)
    hart.condition, hart.waiting = values["condition"], values["waiting"]
    hart.flush_translations()


def _fields(device: Any) -> dict[str, Any]:
    return {name: _plain(getattr(device, name)) for name in device.SAVED}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (deque, set)) else value


def _set_fields(device: Any, values: dict[str, Any]) -> None:
    for name in device.SAVED:
        present = getattr(device, name)
        if isinstance(present, deque):
            present.clear()
            present.extend(values[name])
        else:
            setattr(device, name, set(values[name]) if isinstance(present, set) else values[name])


def _read_ram(machine: Machine, path: Path) -> None:
    ram = machine.ram
    ram.map.madvise(mmap.MADV_REMOVE)  # what was placed there must not shine through

    def put(at: int, data: bytes) -> None:
        ram.u8[at : at + len(data)] = data

    try:
        with path.open("rb") as file:
            chunks.read(file, ram.size, put)
    except Malformed as error:
        raise ConfigError(f"{path}: {error.message}") from error
