"""``down``: end a VM: the guest powers down, or after a while its machine is ended; nothing of it stays."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from orchestrator import leftovers, record, vms
from orchestrator.vms import Vm
from protocol.errors import BusvmError, NotFound
from protocol.names import Runtime

GRACE_S = 10.0
_QUIT_S = 5.0
_CLEANUP_S = 15.0
_POLL_S = 0.05


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "down",
        help="power a VM down and clean up",
        description="Ask the guest to power down, end the machine if it does not, and take away what is left. "
        "Succeeds if the VM does not run.",
    )
    parser.add_argument("vm", nargs="?", metavar="VM", help="name, or its vm.toml")
    parser.add_argument("-t", "--timeout", metavar="SECS", type=float, default=GRACE_S, help="default: %(default)s")
    parser.add_argument("--all", action="store_true", help="all VMs of this user")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.all:
        names = [vm.name for vm in vms.all_vms()]
    else:
        try:
            names = [vms.name_of(options.vm) if options.vm is not None else vms.default_name()]
        except NotFound:
            names = []
    for name in names:
        end(vms.look(name), options.timeout)
    return 0


def end(vm: Vm, timeout_s: float) -> None:
    """End one VM and everything of it."""
    if vm.runs and vm.record is not None:
        _end_machine(vm, timeout_s)
    # the supervisor sees the machine's end and cleans up; where there is none, or it hangs, that is for us
    if not _until(lambda: vms.look(vm.name).supervisor is None, _CLEANUP_S):
        sys.stderr.write(f"the supervisor of {vm.name!r} does not end; ending it\n")
        if vm.record is not None:
            record.end([vm.record.orchestrator], grace_s=_QUIT_S)
    _sweep(vm.runtime)


def _end_machine(vm: Vm, timeout_s: float) -> None:
    assert vm.record is not None
    cpu = vm.record.entries.get("cpu")
    if cpu is None or not cpu.is_alive():
        return  # on its way up, or down
    from orchestrator import client

    async def press(connected: client.Client) -> bool:
        return await client.PowerOff(connected).ask_guest()

    async def quit_now(connected: client.Client) -> bool:
        return await client.PowerOff(connected).quit()

    def tell(action: Callable[..., object]) -> bool:
        try:
            return bool(client.ask(vm.runtime, action))  # type: ignore[arg-type]
        except BusvmError:
            return False

    listens = timeout_s > 0 and not vm.record.plan.embedded
    if listens and tell(press) and _until(lambda: not cpu.is_alive(), timeout_s):
        return
    if tell(quit_now) and _until(lambda: not cpu.is_alive(), _QUIT_S):
        return
    record.end([cpu], grace_s=2.0)


def _sweep(runtime: Runtime) -> None:
    """Take away what is left of a VM that nobody supervises."""
    from orchestrator.lock import Lock

    if not runtime.folder.exists() and not leftovers.abandoned_names(runtime):
        return
    os.umask(0o077)
    try:
        held = Lock.take(runtime)
    except BusvmError:
        return  # somebody has just started it anew
    found = record.Record.read(runtime)
    leftovers.clean(runtime, found)
    leftovers.remove_files(runtime)
    held.release()


def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
