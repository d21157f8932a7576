"""``python -m orchestrator.companion --vm NAME -- COMMAND…``: runs a stranger's program as long as a VM lasts.

The back-end of a vhost-user device knows nothing of the VM: not when its folder is there, nor when it ends. Where an
engine starts it rather than the supervisor, this one waits for the bus, starts it again whenever it ends, and ends with
the VM. Killed, it takes the program along, whose socket whoever is started in its place needs.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from orchestrator import output, spawn
from orchestrator.restart import Again, Policy
from protocol import log
from protocol.errors import HostError
from protocol.names import Runtime
from protocol.staying import await_bus

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_GRACE_S = 3.0
_PR_SET_PDEATHSIG = 1


class Companion:
    """One program and its VM."""

    def __init__(self, command: list[str], runtime: Runtime) -> None:
        self._command = command
        self._runtime = runtime
        self._stopping = False

    def stop(self, *_: object) -> None:
        """End soon; callable from a signal handler."""
        self._stopping = True

    def _goes_on(self) -> bool:
        return not self._stopping and self._runtime.folder.exists()

    def run(self) -> None:
        """Run the program until the VM has ended, or ``stop`` is called.

        Raises:
            OSError: there is no such program.
        """
        policy = Policy("always")
        tied = _end_with(os.getpid())
        while self._goes_on():
            began = time.monotonic()
            with subprocess.Popen(self._command, stdin=subprocess.DEVNULL, preexec_fn=tied) as process:  # noqa: PLW1509 - one thread
                while self._goes_on() and process.poll() is None:
                    time.sleep(_POLL_S)
                if process.poll() is None:
                    _end(process)
                    return
            decision = policy.ended(process.returncode, time.monotonic() - began)
            assert isinstance(decision, Again)
            logger.warning("%s %s", self._command[0], spawn.status_text(process.returncode))
            time.sleep(decision.delay_s)


def _end_with(parent: int) -> Callable[[], None]:
    """Return what a child calls so that it is told to end when its parent has, however that was: prctl(2)."""
    prctl = ctypes.CDLL(None).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it had ended before this was asked for
            os._exit(1)

    return tie


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return 0 when the VM has ended."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.companion", description="Run a program with a VM.")
    parser.add_argument("--vm", metavar="NAME", required=True, help="name of the VM")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the program, after --")
    options = parser.parse_args(arguments)
    runtime = output.runtime_of(parser, options.vm)
    log.setup(vm=options.vm, dev="-", epoch=0)
    companion = Companion(options.command, runtime)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, companion.stop)
    await_bus(runtime.bus_address)
    try:
        companion.run()
    except OSError as error:
        return output.failed(HostError(f"cannot start {options.command[0]}: {error.strerror}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
