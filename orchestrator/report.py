"""What a supervisor tells whoever started it: on this terminal, or through a pipe to the ``up -d`` that waits."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import time
from collections.abc import Callable
from typing import Protocol

from protocol import log
from protocol.errors import BusvmError, ConfigError, HostError, NotFound
from protocol.names import Runtime

WAIT_TIMEOUT = 124  # as of timeout(1)


class Report(Protocol):
    """The audience."""

    def say(self, text: str) -> None:
        """Tell people something."""

    def ran(self) -> None:
        """The guest runs."""


class Spoken:
    """Says it with ``say``, and calls ``on_ran``."""

    def __init__(self, say: Callable[[str], None], on_ran: Callable[[], None] = lambda: None) -> None:
        self.say = say
        self.ran = on_ran


class Piped:
    """Writes it into a pipe as JSON lines; nobody needs to read them any more."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)  # whoever waits may have been stopped

    def _send(self, **message: object) -> None:
        with contextlib.suppress(OSError):
            os.write(self._fd, json.dumps(message).encode() + b"\n")

    def say(self, text: str) -> None:
        """Tell people something."""
        self._send(say=text)

    def started(self) -> None:
        """All processes have been started."""
        self._send(started=True)

    def ran(self) -> None:
        """The guest runs."""
        self._send(ran=True)

    def failed(self, error: BusvmError) -> None:
        """It did not come up."""
        self._send(**failure(error))

    def ended(self, status: int) -> None:
        """The guest has ended."""
        self._send(ended=status)


def listen(fd: int, say: Callable[[str], None], *, wait: bool, timeout_s: float) -> int:
    """Follow a ``Piped`` until the VM has started, or with ``wait`` until it runs; return the exit status.

    Raises:
        BusvmError: it did not come up.
    """
    deadline = time.monotonic() + timeout_s
    pending = b""
    while True:
        left = deadline - time.monotonic()
        if not select.select([fd], [], [], max(0.0, left))[0]:
            say(f"the VM does not run yet after {timeout_s:.0f} s; it goes on starting in the background")
            return WAIT_TIMEOUT
        data = os.read(fd, 65536)
        if not data:
            raise BusvmError("the supervisor ended without a word", hint="see orchestrator.log in the VM's log folder")
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            status = _heard(json.loads(line), say, wait=wait)
            if status is not None:
                return status


def _heard(message: dict[str, object], say: Callable[[str], None], *, wait: bool) -> int | None:
    if "say" in message:
        say(str(message["say"]))
    elif "failed" in message:
        raise error_of(message)
    elif "ran" in message or ("started" in message and not wait):
        return 0
    elif "ended" in message:
        say(f"the guest has ended with status {message['ended']}")
        return int(str(message["ended"]))
    return None


def failure(error: BusvmError | None) -> dict[str, object]:
    """Return an error as a message; without one it is empty."""
    return {"failed": error.message, "hint": error.hint, "status": error.exit_status} if error else {}


def error_of(message: dict[str, object]) -> BusvmError:
    """Return the error that ``failure`` made a message of."""
    kinds = {kind.exit_status: kind for kind in (ConfigError, NotFound, HostError)}
    kind = kinds.get(int(str(message["status"])), BusvmError)
    hint = message["hint"]
    return kind(str(message["failed"]), hint=str(hint) if hint else None)


def log_to_file(runtime: Runtime, level: str = "info") -> None:
    """Send this process's log to ``orchestrator.log`` of the VM: the terminal belongs to the guest."""
    handler = logging.FileHandler(runtime.logs / "orchestrator.log", encoding="utf-8")
    handler.setFormatter(log.Formatter(log.Context(vm=runtime.vm, dev="-", epoch=0)))
    log.send_to(handler, level)
