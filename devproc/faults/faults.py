"""The faults of one device: its rules, and the three places where they act.

``Device.faults`` is this while there are rules or something that they have put off; without, a device spends a
comparison on it. All of it belongs to the device loop, but ``order``.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from devproc.events import fulfil
from devproc.faults.accesses import Accesses
from devproc.faults.declared import Declared
from devproc.faults.kept import Table
from devproc.faults.later import Later
from devproc.faults.requests import Requests
from devproc.faults.rule import Kind
from devproc.faults.rules import Active, Rules
from devproc.faults.signals import Signals
from protocol.log import RateLimit

if TYPE_CHECKING:
    from devproc.device import Device

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_S = 0.05  # how often a frozen process looks whether it has been told to end


class Faults:
    """What goes wrong with one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.rules = Rules(Declared.of(device))
        self.frozen = False
        """Whether the device loop stands still now."""
        self.freezer = 0
        """The rule that has done it."""
        self.on_struck: Callable[[Active], None] = lambda _active: None
        self.accesses = Accesses(self)
        self.requests = Requests(self)
        self.signals = Signals(self)
        self._later: Later | None = None
        self._orders: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Event()  # of a frozen loop
        self._loud = RateLimit()

    @classmethod
    def of(cls, device: Device) -> Faults:
        """Return the faults of ``device``, which may have none yet."""
        if device.known_faults is None:
            device.known_faults = cls(device)
            if hasattr(device, "machine"):
                device.known_faults.attach(device.layout()[1])
        return device.known_faults

    # rules

    def add(self, text: str, *, started: bool = False) -> Active:
        """Put a rule into force. Raises ``ConfigError``."""
        active = self.rules.add(text, started=started)
        self._hook()
        logger.info("fault %s: %s", active.id, active.text)
        return active

    def remove(self, number: int) -> None:
        """Take a rule away; what it has put off comes when it is due. Raises ``NotFound``."""
        self.rules.remove(number)
        self.frozen &= number != self.freezer
        self._hook()

    def clear(self) -> None:
        """Take all away."""
        for active in self.rules.all:
            self.rules.remove(active.id)
        self.frozen = False
        self._hook()

    def _hook(self) -> None:
        """Be in the way of the device, or not."""
        device = self.device
        wanted = bool(self.rules.all or self._later or self.requests.marked)
        device.faults = self if wanted else None
        if hasattr(device, "machine"):
            device.machine.faults = device.faults
            self.accesses.expose()

    def rest(self) -> None:
        """Get out of the way if that was the last that there was to do."""
        if not self.rules.all:
            self._hook()

    # life of the device

    def attach(self, end: int) -> None:
        """Join the machine that the device joins: its page may have rules, at ``end``."""
        self.rules.keep_in(Table(self.device.shared, end))
        self.accesses.forget()
        self._hook()

    def leave(self) -> None:
        """Let go of the machine's memory."""
        if self._later is not None:
            self._later.forget()
        self.requests.forget()
        self.accesses.forget()
        self.signals.forget()
        self.rules.leave()

    # what rules do

    def strikes(self, active: Active) -> bool:
        """Count an occasion of a rule; return whether something is to go wrong. It may be the end of the process."""
        if not active.met():
            return False
        if self._loud.allow():
            logger.warning("fault %s strikes (%s of %s): %s", active.id, active.hits, active.seen, active.text)
        self.on_struck(active)
        if not active.rule.done:
            self.stop(active)
        return True

    def stop(self, active: Active) -> None:
        """Freeze, or die, if that is what the rule is about."""
        if active.rule.kind is Kind.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif active.rule.kind is Kind.FREEZE:
            self.freezer = active.id
            self._freeze(active.rule.ms)

    def _freeze(self, ms: float) -> None:
        """Stand still; only orders about faults are obeyed."""
        end = time.monotonic() + (ms / 1000 if ms else math.inf)
        loop = self.device.loop
        self.frozen = True
        while self.frozen and not (loop and loop.stopping) and (left := end - time.monotonic()) > 0:
            self._wake.wait(min(_LOOK_S, left))
            self._wake.clear()
            self.obey()
        self.frozen = False

    def thaw(self) -> None:
        """End a freeze."""
        self.frozen = False

    def order(self, action: Callable[[], T]) -> Future[T]:
        """Have ``obey`` do something, also while the device stands still; from any thread."""
        future: Future[T] = Future()
        self._orders.append((action, future))
        self._wake.set()
        return future

    def obey(self) -> None:
        """Do what was ordered."""
        while self._orders:
            fulfil(*self._orders.popleft())

    def after(self, ms: float, action: Callable[[], None]) -> None:
        """Do something after ``ms`` milliseconds, unless the device has left the machine by then."""
        if self._later is None:
            self._later = Later()
            if self.device.loop is not None:
                self.device.loop.watch(self._later.fd, self._run_later)
        self._later.after(ms / 1000, action)

    def _run_later(self) -> None:
        assert self._later is not None
        self._later.run()
        self.rest()

    def settle(self) -> None:
        """Wait for what was put off, where no loop does."""
        if self._later:
            self._later.settle()
            self.rest()

    def close(self) -> None:
        """Give up the alarm."""
        if self._later is not None:
            self._later.close()
            self._later = None
