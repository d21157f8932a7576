"""``--poke``: a prompt on a device with no machine: its page in private memory, its registers by name.

What a device adds comes in as more commands: of virtio devices a driver's side (``devproc.virtio_driver``). Reads and
writes go through the device's own dispatch, so hooks run as for a guest.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable

from devproc.device import Device
from devproc.host import Commands
from devproc.machine import Machine
from protocol.errors import BusvmError

_RAM_SIZE = 16 << 20


def _number(text: str) -> int:
    return int(text, 0)


def settle(device: Device, timeout_s: float = 5.0) -> None:
    """Serve what has rung, and wait until the host I/O it started is through."""
    while device.pending:
        index = device.pending.pop()
        if device.doorbell(index):
            device.pending.add(index)
    device.drain()
    for fd, handler in device.sources().items():
        if select.select([fd], [], [], 0)[0]:
            handler()
    if device.faults is not None:
        device.faults.settle()
        if device.pending:
            settle(device, timeout_s)


class Prompt:
    """The commands every device has."""

    def __init__(self, device: Device, more: Commands) -> None:
        self.device = device
        self.commands: Commands = {
            "registers": self._registers,
            "get": self._get,
            "set": self._set,
            "counters": self._counters,
            "reset": self._reset,
            **more,
            "help": self._help,
        }

    def _registers(self, _words: list[str]) -> str:
        lines = []
        for r in self.device.registers.all:
            bar, offset = self.device.registers.place(r)
            lines.append(f"{bar}:{offset:#06x} {r.width} {r.access:4} {r.name:26} {getattr(self.device, r.name):#x}")
        return "\n".join(lines)

    def _get(self, words: list[str]) -> str:
        return f"{self.device.get_register(words[0]):#x}"

    def _set(self, words: list[str]) -> str:
        self.device.set_register(words[0], _number(words[1]))
        settle(self.device)
        return ""

    def _counters(self, _words: list[str]) -> str:
        return "\n".join(f"{name} {value}" for name, value in sorted(self.device.counters.items()))

    def _reset(self, _words: list[str]) -> str:
        self.device.reset()
        return ""

    def _help(self, _words: list[str]) -> str:
        return "registers | get NAME | set NAME VALUE | " + " | ".join(
            name for name in self.commands if name not in ("registers", "get", "set")
        )

    def run(self, line: str) -> str:
        """Run one line and return what to print."""
        words = line.split()
        if not words:
            return ""
        command = self.commands.get(words[0])
        if command is None:
            return f"no command {words[0]!r}; try help"
        try:
            return command(words[1:])
        except KeyError as error:
            return f"no register {error.args[0]!r}"
        except IndexError:
            return f"{words[0]}: an argument is missing"
        except (ValueError, BusvmError) as error:
            return f"{words[0]}: {error}"


def poke(device: Device, more: Callable[[Device], Commands] | None = None) -> int:
    """Read commands from standard input until it ends; return the exit status."""
    machine = Machine.private(device.page_size, _RAM_SIZE)
    try:
        device.attach(machine)
        prompt = Prompt(device, more(device) if more else {})
        interactive = sys.stdin.isatty()
        while True:
            if interactive:
                sys.stdout.write("> ")
                sys.stdout.flush()
            line = sys.stdin.readline()
            if not line or line.strip() in ("quit", "exit"):
                return 0
            answer = prompt.run(line)
            if answer:
                sys.stdout.write(answer + "\n")
    finally:
        device.detach()
        device.release()
        device.close()
        machine.close()
