"""Orders to a VM's supervisor that have an answer: a file in the VM's folder, SIGUSR1, and the answer beside it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import folder, report
from orchestrator.lock import CALL
from orchestrator.vms import Vm
from protocol.errors import BusvmError
from protocol.names import Runtime

logger = logging.getLogger(__name__)

_ORDER, _ANSWER = "order.", "answer."
_POLL_S = 0.02


@dataclass(frozen=True)
class Order:
    """One order: what to do, and with what."""

    verb: str
    body: dict[str, Any]
    place: Path

    @property
    def device(self) -> str:
        """The device that it is about."""
        return str(self.body["device"])

    async def carry_out(self, work: Awaitable[None]) -> None:
        """Do what was ordered, and tell who gave the order how it went."""
        error = None
        logger.info("asked to %s %s", self.verb, self.device)
        try:
            await work
        except BusvmError as refused:
            error = refused
        except TimeoutError:
            error = BusvmError("the machine does not answer")
        if error:
            logger.warning("cannot %s %s: %s", self.verb, self.device, error.message)
        self.answer(error)

    def answer(self, error: BusvmError | None) -> None:
        """Tell who gave it how it went."""
        try:
            answer = self.place.with_name(_ANSWER + self.place.name.removeprefix(_ORDER))
            folder.put(answer, json.dumps(report.failure(error)))
        except OSError as full:
            logger.warning("cannot answer: %s", full.strerror)


def give(vm: Vm, verb: str, body: dict[str, Any], *, timeout_s: float) -> None:
    """Give an order and return when it is done.

    Raises:
        BusvmError: it cannot be done, or nobody is there to do it.
    """
    if not vm.supervisor:
        raise BusvmError(f"nobody supervises {vm.name!r}", hint="`orchestrator up` of its file takes it over")
    number = f"{os.getpid()}.{time.monotonic_ns()}"
    order, answer = vm.runtime.folder / (_ORDER + number), vm.runtime.folder / (_ANSWER + number)
    with folder.writing(vm.runtime):
        folder.put(order, json.dumps({"verb": verb, "body": body}))
    try:
        os.kill(vm.supervisor, CALL)
        deadline = time.monotonic() + timeout_s
        while not answer.exists():
            if time.monotonic() > deadline or not order.parent.exists():
                raise BusvmError(
                    f"the supervisor of {vm.name!r} does not answer", hint=f"`orchestrator logs {vm.name}`"
                )
            time.sleep(_POLL_S)
        message = json.loads(answer.read_text())
    except ProcessLookupError as error:
        raise BusvmError(f"nobody supervises {vm.name!r} any more") from error
    finally:
        order.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
    if message:
        raise report.error_of(message)


def take(runtime: Runtime) -> list[Order]:
    """Return the orders that are there, and remove them."""
    found = []
    for path in sorted(runtime.folder.glob(f"{_ORDER}*")):
        try:
            given = json.loads(path.read_text())
            found.append(Order(given["verb"], given["body"], path))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # withdrawn, or not one of ours
        finally:
            path.unlink(missing_ok=True)
    return found
