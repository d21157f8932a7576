"""``up -d``: the supervisor goes on in a process of its own, and this one waits for its word."""

from __future__ import annotations

import logging
import os

from orchestrator import report
from orchestrator.config import Config
from orchestrator.console import Terminal
from orchestrator.lock import Lock
from orchestrator.plan import Plan
from protocol.errors import BusvmError
from protocol.names import Runtime

logger = logging.getLogger(__name__)


def detach(config: Config, planned: Plan, runtime: Runtime, held: Lock, *, wait: bool, timeout_s: float) -> int:
    """Start the VM in the background; return when its processes have started, or with ``wait`` when it runs.

    Raises:
        BusvmError: it did not come up.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:  # one thread so far, and nothing opened that a child must not share
        os.close(reader)
        _become_daemon()
        held.claim()
        _exit(config, planned, runtime, held, report.Piped(writer))
    os.close(writer)
    held.release()  # the child has it
    return report.listen(reader, Terminal().say, wait=wait, timeout_s=timeout_s)


def _become_daemon() -> None:
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)


def _exit(config: Config, planned: Plan, runtime: Runtime, held: Lock, audience: report.Piped) -> None:
    """Supervise until the end of the VM, and end this process without running the parent's clean-up."""
    status = 1
    try:
        status = _supervise(config, planned, runtime, held, audience)
        audience.ended(status)
    except BusvmError as error:
        logger.error("%s", error.message)
        audience.failed(error)
        status = error.exit_status
    except BaseException as error:
        logger.exception("the supervisor failed")
        audience.failed(BusvmError(f"the supervisor failed: {type(error).__name__}: {error}"))
    finally:
        os._exit(status)


def _supervise(config: Config, planned: Plan, runtime: Runtime, held: Lock, audience: report.Piped) -> int:
    from orchestrator.commands.up import bring_up

    running = bring_up(config, planned, runtime, held, audience)
    try:
        audience.started()
        import asyncio

        from orchestrator.supervise import Supervisor

        return asyncio.run(Supervisor(running, config, audience).run())
    finally:
        running.end()
