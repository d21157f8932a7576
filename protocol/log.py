"""Log lines of every process: ``key=value`` on standard error, or JSON, always with ``vm=``, ``dev=`` and ``epoch=``.

Standard logging only; what this adds is the format, the fields that every line carries, and a limit for what a guest
can trigger.
"""

from __future__ import annotations

import json
import logging
import sys
import time

LEVELS = ("debug", "info", "warning", "error")


class Context:
    """The fields of every line; they change when a device attaches."""

    def __init__(self, **fields: str | int) -> None:
        self.fields: dict[str, str | int] = fields

    def set(self, **fields: str | int) -> None:
        """Add or change fields."""
        self.fields.update(fields)


def _quoted(text: str) -> str:
    """Return ``text`` as one value of a key=value line: one line whatever it holds."""
    plain = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)


class Formatter(logging.Formatter):
    """``time= level= vm= dev= epoch= name= msg=``, or the same as one JSON object."""

    def __init__(self, context: Context, *, as_json: bool = False) -> None:
        super().__init__()
        self._context = context
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, with the traceback folded into it if there is one."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        fields: dict[str, str | int] = {"time": stamp, "level": record.levelname.lower()}
        fields |= self._context.fields
        fields |= {"name": record.name, "msg": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(fields, ensure_ascii=False)
        return " ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())


def setup(*, level: str = "info", as_json: bool = False, **fields: str | int) -> Context:
    """Send all logging of this process to standard error, and return the fields to update later."""
    context = Context(**fields)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(context, as_json=as_json))
    send_to(handler, level)
    return context


def send_to(handler: logging.Handler, level: str) -> None:
    """Send all logging of this process to ``handler`` alone; what a full disk does not take is not complained of."""
    logging.raiseExceptions = False
    root = logging.getLogger()
    for old in root.handlers:
        old.close()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class RateLimit:
    """Lets ``burst`` lines through per second, for whatever a guest or a peer can trigger at will."""

    def __init__(self, burst: int = 5) -> None:
        self._burst = burst
        self._second = 0
        self._used = 0

    def allow(self) -> bool:
        """Tell whether one more line may be written now."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._used = second, 0
        self._used += 1
        return self._used <= self._burst
