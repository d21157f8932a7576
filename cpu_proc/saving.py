"""The state of a machine in a folder: ``state`` (MessagePack) and ``ram`` (a sparse copy), saved and loaded exactly.

Saved is what a guest could tell apart: architectural registers, levels of wires, registers of devices, guest time.
What follows from it (translations, decoded code) is made anew. A hart is saved between two instructions; an access
that Python has served but the instruction not yet taken is part of its state.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

import msgpack

from cpu_proc.engine import state as st
from cpu_proc.hart import Hart
from cpu_proc.machine import Machine
from protocol.errors import ConfigError, HostError

VERSION = 1
_BLOCK = 1 << 16
_STATE, _RAM = "state", "ram"


def save(machine: Machine, folder: Path) -> None:
    """Write the state of a machine that stands still.

    Raises:
        ConfigError: it has devices in other processes, whose state is not ours to save.
        HostError: the folder cannot be written.
    """
    if machine.board.remotes:
        others = ", ".join(remote.id for remote in machine.board.remotes)
        raise ConfigError(f"devices in other processes cannot be saved yet: {others}")
    state = {
        "version": VERSION,
        "machine": _shape(machine),
        "time_ns": machine.clock.now_ns(),
        "blob": machine.blob,
        "rom": machine.board.rom.data,
        "harts": [_hart(hart) for hart in machine.harts],
        "devices": {name: _fields(device) for name, device in machine.board.stateful().items()},
    }
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_ram(machine, folder / _RAM)
        (folder / _STATE).write_bytes(msgpack.packb(state))
    except OSError as error:
        raise HostError(f"cannot save to {folder}: {error.strerror}") from error


def load(machine: Machine, folder: Path) -> None:
    """Put a machine that has not started into the state of ``folder``.

    Raises:
        ConfigError: there is no state, or it is of another kind of machine.
    """
    try:
        state = msgpack.unpackb((folder / _STATE).read_bytes(), strict_map_key=False)
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise ConfigError(f"{folder} holds no state of version {VERSION}")
        if state["machine"] != _shape(machine):
            raise ConfigError(f"{folder} is of another machine: {state['machine']}, this one is {_shape(machine)}")
        _read_ram(machine, folder / _RAM)
        machine.blob, machine.board.rom.data = state["blob"], state["rom"]
        machine.clock.set_ticks(state["time_ns"] // st.TICK_NS)  # where instructions are the clock, the hart's count
        for hart, values in zip(machine.harts, state["harts"], strict=True):
            _set_hart(hart, values)
        for name, device in machine.board.stateful().items():
            _set_fields(device, state["devices"][name])
        machine.board.update_windows()
    except OSError as error:
        raise ConfigError(f"cannot read the state in {folder}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
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
        "slots": {name: hart[name] for name in st.SAVED},
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


def _write_ram(machine: Machine, path: Path) -> None:
    nothing = bytes(_BLOCK)
    with path.open("wb") as file:
        for offset in range(0, machine.ram.size, _BLOCK):
            block = bytes(machine.ram.u8[offset : offset + _BLOCK])
            if block != nothing:
                os.pwrite(file.fileno(), block, offset)
        file.truncate(machine.ram.size)


def _read_ram(machine: Machine, path: Path) -> None:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != machine.ram.size:
            raise ConfigError(f"{path} is cut off")
        for offset in range(0, machine.ram.size, _BLOCK):
            block, place = file.read(_BLOCK), machine.ram.u8[offset : offset + _BLOCK]
            if block != bytes(place):  # what is as it was stays untouched: most is empty, in both
                place[:] = block
