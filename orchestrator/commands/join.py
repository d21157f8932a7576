"""``console``: join this terminal to a VM's serial console."""

from __future__ import annotations

import argparse
import signal
import threading
from types import FrameType

from orchestrator import vms
from orchestrator.console import Console, Terminal


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "console",
        help="join a VM's console",
        description="Join this terminal to a VM's serial console. Ctrl-] leaves; the VM goes on.",
    )
    parser.add_argument("vm", nargs="?", metavar="VM", help="name, or its vm.toml")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    vm = vms.find(options.vm)
    terminal = Terminal()
    done = threading.Event()
    left = threading.Event()

    def leave() -> None:
        left.set()
        done.set()

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        leave()

    console = Console(vm.runtime.console_socket, terminal, on_escape=leave, on_closed=done.set, on_broken=leave)
    before = {number: signal.signal(number, interrupted) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    if terminal.is_interactive:
        terminal.say(f"console of {vm.name}; Ctrl-] leaves it")
    try:
        terminal.raw()
        console.start()
        done.wait()
        console.stop()
    finally:
        terminal.restore()
        for number, handler in before.items():
            signal.signal(number, handler)
    if terminal.is_interactive:
        terminal.say(f"\nleft the console; {vm.name} goes on" if left.is_set() else f"\n{vm.name} has ended")
    return 0
