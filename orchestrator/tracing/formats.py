"""What a trace looks like: lines for people, JSON lines, or a file for ui.perfetto.dev (JSON trace event format)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

from orchestrator.tracing.decode import Entry
from protocol.trace import Side


class Format(Protocol):
    """Writes entries."""

    def write(self, entry: Entry) -> None:
        """Write one."""

    def end(self) -> None:
        """Write what comes at the end."""


class Text:
    """A line per entry; times are seconds since the first."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._start: int | None = None

    def write(self, entry: Entry) -> None:
        """Write a line."""
        self._start = entry.time_ns if self._start is None else self._start
        number = f"#{entry.id}" if entry.id else ""
        took = "" if entry.duration_ns is None else f"  {entry.duration_ns / 1000:.1f} µs"
        self._out.write(
            f"{(entry.time_ns - self._start) / 1e9:12.6f} {entry.device:10} {number:9} {entry.event:9} "
            f"{_words(entry)}{took}\n"
        )

    def end(self) -> None:
        """Write nothing more."""


def _words(entry: Entry) -> str:
    details = dict(entry.details)
    if "register" in details:
        return f"{details['register']} = {details['value']:#x}"
    if "address" in details:
        return f"vector {details['vector']}: {details['data']:#x} to {details['address']:#x}"
    return " ".join(f"{name}={value}" for name, value in details.items())


class JsonLines:
    """A JSON object per line; ``time`` is host monotonic nanoseconds."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, entry: Entry) -> None:
        """Write a line."""
        shown: dict[str, Any] = {"time": entry.time_ns, "device": entry.device, "side": entry.side.name.lower()}
        shown |= {"event": entry.event, "id": entry.id} | entry.details
        if entry.duration_ns is not None:
            shown["ns"] = entry.duration_ns
        self._out.write(json.dumps(shown, ensure_ascii=False) + "\n")

    def end(self) -> None:
        """Write nothing more."""


_ACCESSES, _LOOP = 1, 2  # threads of a device's two processes


class Perfetto:
    """The array form of the format, so that a file without its end still opens.

    Each device is a process with two tracks, harts' accesses and the device loop, and one for its requests; arrows
    lead from a doorbell to the request it brought, and from there to the interrupt.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._processes: dict[str, int] = {}
        self._out.write("[\n")

    def write(self, entry: Entry) -> None:
        """Write the events that show it."""
        if entry.device not in self._processes:
            self._processes[entry.device] = len(self._processes) + 1
            for event in self._titles(entry.device):
                self._put(event, last=False)
        for event in self._events(entry):
            self._put({"pid": self._processes[entry.device]} | event, last=False)

    def _put(self, event: dict[str, Any], *, last: bool) -> None:
        self._out.write(json.dumps(event, ensure_ascii=False) + ("\n" if last else ",\n"))

    def _titles(self, device: str) -> Iterator[dict[str, Any]]:
        pid = self._processes[device]
        yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": device}}
        for tid, name in ((_ACCESSES, "harts"), (_LOOP, "device loop")):
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}

    def _events(self, entry: Entry) -> Iterator[dict[str, Any]]:
        at, took = entry.time_ns / 1000, (entry.duration_ns or 0) / 1000
        began = (entry.time_ns - (entry.duration_ns or 0)) / 1000
        details: dict[str, Any] = {"id": entry.id} | entry.details
        thread = _ACCESSES if entry.side is Side.CPU else _LOOP
        flow = {"cat": "work", "name": "work", "id": f"{entry.device}.{entry.id.split('.')[0]}", "tid": thread}
        slice_ = {"ph": "X", "tid": thread, "args": details}
        if entry.event in ("read", "write", "served", "answered"):
            yield slice_ | {"name": f"{entry.event} {entry.details['register']}", "ts": began, "dur": took}
        elif entry.event == "busy":
            yield slice_ | {"name": str(entry.details["for"]), "ts": began, "dur": took}
        elif entry.event in ("request", "done"):
            begins = entry.event == "request"
            name = next((str(v) for k, v in entry.details.items() if k not in ("queue", "bytes")), "request")
            request = {"cat": "request", "id": f"{entry.device}.{entry.details['queue']}.{entry.id}", "tid": thread}
            yield request | {"ph": "b" if begins else "e", "name": name if begins else "", "ts": at, "args": details}
            if begins and not entry.id.startswith("q"):
                yield flow | {"ph": "t", "bp": "e", "ts": at}
        else:
            yield slice_ | {"name": entry.event, "ts": at, "dur": 1.0}
            if entry.id:
                yield flow | {"ph": "s" if entry.event == "kick" else "f", "bp": "e", "ts": at}

    def end(self) -> None:
        """Close the array."""
        self._put({"ph": "M", "name": "trace_end", "pid": 0}, last=True)
        self._out.write("]\n")


FORMATS: dict[str, type[Text] | type[JsonLines] | type[Perfetto]] = {
    "text": Text,
    "json": JsonLines,
    "perfetto": Perfetto,
}
