"""org.busvm.Fault1: the rules of a device on the bus.

Rules are changed on the device loop, like everything of the device, also while a rule has it stand still.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from protocol.bus import BusError
from protocol.errors import BusvmError, NotFound

if TYPE_CHECKING:
    from devproc.faults.faults import Faults
    from devproc.faults.rules import Active
    from devproc.loop import DeviceLoop

FAULT1 = "org.busvm.Fault1"
_SIGNALS_S = 0.05

T = TypeVar("T")
Emit = Callable[[int, int, str], None]


class Fault1:
    """org.busvm.Fault1."""

    def __init__(self, loop: DeviceLoop, emit: Emit) -> None:
        """Show the faults of the loop's device; ``emit`` sends Fired, from any thread."""
        self._loop = loop
        self._emit = emit
        self._unsaid: dict[int, Active] = {}
        self._last_s = 0.0
        if loop.device.known_faults is not None:
            loop.device.known_faults.on_struck = self._struck

    @property
    def frozen(self) -> bool:
        """Whether the device stands still."""
        known = self._loop.device.known_faults
        return known is not None and known.frozen

    @property
    def queues(self) -> list[str]:
        """What queues are for."""
        from devproc.faults.declared import Declared

        return list(Declared.of(self._loop.device).roles)

    async def add(self, rule: dict[str, Any]) -> int:
        """Put a rule into force."""
        text = str(rule["rule"]) if "rule" in rule else text_of(rule)
        return await self._do(lambda faults: faults.add(text).id)

    async def remove(self, number: int) -> None:
        """Take a rule away."""
        await self._do(lambda faults: faults.remove(number))

    async def clear(self) -> None:
        """Take all away."""
        await self._do(lambda faults: faults.clear())

    async def thaw(self) -> None:
        """Let the device go on."""
        await self._do(lambda faults: faults.thaw())

    def list(self) -> list[tuple[int, str, int, int]]:
        """Return the rules."""
        known = self._loop.device.known_faults
        return [(active.id, active.text, active.seen, active.hits) for active in known.rules.all] if known else []

    async def _do(self, action: Callable[[Faults], T]) -> T:
        def on_loop() -> T:
            from devproc.faults.faults import Faults  # which few processes ever need

            faults = Faults.of(self._loop.device)
            faults.on_struck = self._struck
            return action(faults)

        try:
            known = self._loop.device.known_faults
            if known is None:
                return await asyncio.wrap_future(self._loop.call(on_loop))
            future = known.order(on_loop)
            self._loop.call(known.obey)  # unless it is obeyed by a loop that stands still
            return await asyncio.wrap_future(future)
        except NotFound as error:
            raise BusError("org.busvm.Error.NotFound", error.message) from error
        except BusvmError as error:
            raise BusError("org.freedesktop.DBus.Error.InvalidArgs", _line(error)) from error

    def _struck(self, active: Active) -> None:
        """Say so (on the device loop), for several at once if they come fast."""
        self._unsaid[active.id] = active
        now = time.monotonic()
        if now - self._last_s >= _SIGNALS_S or active.hits == 1:
            self._last_s = now
            self._say()
        elif len(self._unsaid) == 1:
            self._loop.device.known_faults.after(1000 * _SIGNALS_S, self._say)  # type: ignore[union-attr]

    def _say(self) -> None:
        unsaid, self._unsaid = self._unsaid, {}
        for active in unsaid.values():
            self._emit(active.id, active.hits, active.text)


def text_of(rule: dict[str, Any]) -> str:
    """Return the text of a rule that was given word by word.

    Raises:
        BusError: it has no kind, or a word of another type.
    """
    words = [str(rule.get("kind", ""))]
    if not words[0]:
        raise BusError("org.freedesktop.DBus.Error.InvalidArgs", "a rule without kind, or rule")
    for name, value in rule.items():
        if name == "kind" or value is False:
            continue
        if isinstance(value, bool):
            words.append(name)
        elif isinstance(value, int | float | str):
            words.append(f"{name}={value}")
        else:
            raise BusError("org.freedesktop.DBus.Error.InvalidArgs", f"{name}: a text, a number or true")
    return " ".join(words)


def _line(error: BusvmError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
