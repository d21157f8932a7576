"""``gdb``: the command line that debugs a VM's guest, or the debugger itself on this terminal."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

from orchestrator import output, vms
from orchestrator.plan import CPU
from orchestrator.vms import Vm
from protocol.errors import ConfigError, HostError

_DEBUGGERS = ("gdb-multiarch", "riscv64-linux-gnu-gdb", "riscv64-unknown-elf-gdb")
_ELF = b"\x7fELF"


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "gdb",
        help="debug the guest",
        description="Print the command that debugs the guest of a running VM. While a debugger is connected the guest "
        "stands still, unless the debugger lets it go; when it leaves, the guest goes on.",
    )
    parser.add_argument("vm", nargs="?", metavar="VM", help="name, or its vm.toml")
    parser.add_argument("--symbols", metavar="FILE", type=Path, help="ELF file with symbols, instead of debug.symbols")
    parser.add_argument("--run", action="store_true", dest="start", help="start the debugger on this terminal")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    vm = vms.find(options.vm)
    if options.symbols is not None and not _is_elf(options.symbols):
        raise ConfigError(f"--symbols {options.symbols}: no ELF file that can be read")
    command = [_debugger(), *_arguments(vm, options.symbols)]
    if not options.start:
        output.line(shlex.join(command))
        return 0
    if shutil.which(command[0]) is None:
        raise HostError(f"{command[0]} is not installed", hint="apt install gdb-multiarch")
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise HostError(f"cannot start {command[0]}: {error.strerror}") from error


def _debugger() -> str:
    return next((name for name in _DEBUGGERS if shutil.which(name)), _DEBUGGERS[0])


def _arguments(vm: Vm, given: Path | None) -> list[str]:
    """Return what gdb is told: where the symbols are (a kernel that is an ELF file has its own), and the socket."""
    symbols = given.absolute() if given else _configured(vm)
    return [*([str(symbols)] if symbols else []), "-ex", f"target remote {vm.runtime.gdb_socket}"]


def _configured(vm: Vm) -> Path | None:
    if vm.record is None:
        return None
    if vm.record.plan.symbols:
        return Path(vm.record.plan.symbols)
    argv = vm.record.plan.process(CPU).argv
    kernel = Path(argv[argv.index("--kernel") + 1]) if "--kernel" in argv else None
    return kernel if kernel and _is_elf(kernel) else None


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_ELF)) == _ELF
    except OSError:
        return False
