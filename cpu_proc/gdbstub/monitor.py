"""``monitor …`` of gdb: a few commands about what gdb itself cannot ask."""

from __future__ import annotations

from collections.abc import Callable

from cpu_proc.gdbstub.control import Control
from cpu_proc.hart import PRIVILEGES, Hart
from cpu_proc.memory_map import DRAM_BASE

_ANSWER_MAX = 4000  # characters


class Monitor:
    """Answers with text."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._machine = control.machine
        self._commands: dict[str, tuple[str, Callable[[Hart, str], str]]] = {
            "help": ("this list", self._help),
            "info harts": ("state, privilege and pc of every hart", self._harts),
            "info map": ("physical address space", self._map),
            "info points": ("breakpoints and watchpoints that are set", self._points),
            "translate": ("ADDRESS: the physical address for the selected hart", self._translate),
            "reset": ("cold reset of the machine", self._reset),
            "quit": ("[STATUS]: end the VM with this exit status", self._quit),
        }

    def answer(self, hart: Hart, line: str) -> str:
        """Return what there is to say; ``hart`` is the selected one."""
        for name, (_, command) in self._commands.items():
            if line == name or line.startswith(name + " "):
                return command(hart, line[len(name) :].strip())[:_ANSWER_MAX]
        return f"no command {line[:40]!r}; `monitor help` lists them\n"

    def _help(self, _hart: Hart, _rest: str) -> str:
        return "".join(f"{name:12} {text}\n" for name, (text, _) in self._commands.items())

    def _harts(self, _hart: Hart, _rest: str) -> str:
        return "".join(
            f"{hart.index:3} {hart.condition:9} {PRIVILEGES[hart['PRIV']]} pc={hart['PC'] & (1 << 64) - 1:#x} "
            f"instructions={max(0, hart['INSTRET'])}\n"
            for hart in self._machine.harts
        )

    def _map(self, _hart: Hart, _rest: str) -> str:
        regions = sorted([*self._machine.board.space.regions(), (DRAM_BASE, self._machine.ram.size, "ram")])
        return "".join(f"{base:#014x} {size:#12x} {name}\n" for base, size, name in regions)

    def _points(self, _hart: Hart, _rest: str) -> str:
        words = ("software break", "hardware break", "write", "read", "access")
        lines = [f"{point.address:#x} {words[point.type]} {point.size or ''}" for point in self._control.points.all()]
        return "\n".join([*lines, ""]) or "none\n"

    def _translate(self, hart: Hart, rest: str) -> str:
        try:
            address = int(rest, 0)
        except ValueError:
            return "translate which address?\n"
        physical = hart.translate(address)
        return "not mapped\n" if physical is None else f"{physical:#x}\n"

    def _reset(self, _hart: Hart, _rest: str) -> str:
        self._machine.request_reset()
        return "reset\n"

    def _quit(self, _hart: Hart, rest: str) -> str:
        if rest and not (rest.isascii() and rest.isdigit() and int(rest) < 256):
            return "quit with which status? 0 to 255\n"
        self._machine.quit(int(rest or 0))
        return "the VM ends\n"
