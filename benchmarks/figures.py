"""A figure, and how figures are printed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured value; ``limit`` is the budget (DESIGN §12), ``peer`` the same thing measured on a peer."""

    name: str
    value: float
    unit: str
    limit: str = ""
    met: bool | None = None
    peer: str = ""

    def line(self) -> str:
        """Return one row."""
        verdict = "" if self.met is None else ("met" if self.met else "MISSED")
        return f"{self.name:<46} {self.value:>10.2f} {self.unit:<6} {self.limit:<26} {verdict:<7} {self.peer}"


def at_most(name: str, value: float, unit: str, limit: float, peer: str = "") -> Figure:
    """Return a figure whose budget is an upper bound."""
    return Figure(name, value, unit, f"budget <= {limit:g} {unit}", value <= limit, peer)


def at_least(name: str, value: float, unit: str, limit: float, peer: str = "") -> Figure:
    """Return a figure whose budget is a lower bound."""
    return Figure(name, value, unit, f"budget >= {limit:g} {unit}", value >= limit, peer)


def median(values: Iterable[float]) -> float:
    """Return the median, the only average used here: machines are noisy."""
    return statistics.median(values)


def percentile(values: list[float], fraction: float) -> float:
    """Return the value below which ``fraction`` of ``values`` lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * fraction))]
