"""Where the time of requests goes: in figures, from the entries of a trace."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from orchestrator.tracing.decode import Entry

_STEPS = {"request": "waited", "done": "served", "interrupt": "told", "line": "told"}


@dataclass
class _Figures:
    """What is counted of one device."""

    first_ns: int = 0
    last_ns: int = 0
    events: int = 0
    busy_ns: int = 0
    requests: int = 0
    steps: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


class Summary:
    """Counts entries; ``table`` has a row per device."""

    HEADS = ("DEVICE", "EVENTS", "REQUESTS", "EACH", "DEVICE PART", "WAITED", "SERVED", "TOLD")

    def __init__(self) -> None:
        self._devices: dict[str, _Figures] = {}

    def write(self, entry: Entry) -> None:
        """Count one."""
        figures = self._devices.setdefault(entry.device, _Figures(first_ns=entry.time_ns))
        figures.last_ns = entry.time_ns
        figures.events += 1
        if entry.event in ("busy", "served", "answered"):
            figures.busy_ns += entry.duration_ns or 0
        elif entry.event in _STEPS and entry.duration_ns is not None:
            figures.steps[_STEPS[entry.event]].append(entry.duration_ns)
        figures.requests += entry.event == "done"

    def end(self) -> None:
        """Do nothing more."""

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return for each device, times in ns.

        ``each_ns`` is the time of the trace per request, ``device_ns`` what the device loop worked in it, and
        ``share`` their ratio; ``waited`` from the doorbell to the taking, ``served`` to the return, ``told`` to the
        interrupt: medians and 99th percentiles.
        """
        found = {}
        for device, figures in self._devices.items():
            requests = max(1, figures.requests)
            each = (figures.last_ns - figures.first_ns) / requests
            shown: dict[str, Any] = {"events": figures.events, "requests": figures.requests, "each_ns": round(each)}
            shown["device_ns"] = round(figures.busy_ns / requests)
            shown["share"] = round(figures.busy_ns / requests / each, 4) if each else 0.0
            for step in dict.fromkeys(_STEPS.values()):
                shown[step] = _spread(figures.steps[step])
            found[device] = shown
        return found

    def table(self) -> list[list[str]]:
        """Return the rows."""
        rows = []
        for device, shown in self.figures().items():
            steps = [_shown(shown[step]) for step in dict.fromkeys(_STEPS.values())]
            each = f"{shown['each_ns'] / 1000:.1f} µs" if shown["requests"] else "-"
            part = f"{shown['device_ns'] / 1000:.1f} µs, {shown['share']:.0%}" if shown["requests"] else "-"
            rows.append([device, str(shown["events"]), str(shown["requests"]), each, part, *steps])
        return rows


def _spread(values: list[int]) -> dict[str, int] | None:
    if len(values) < 2:
        return {"p50": values[0], "p99": values[0]} if values else None
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49]), "p99": round(cuts[98])}


def _shown(spread: dict[str, int] | None) -> str:
    return "-" if spread is None else f"{spread['p50'] / 1000:.1f}, p99 {spread['p99'] / 1000:.1f} µs"
