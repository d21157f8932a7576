"""Declaring a floating-point operation once for all its precisions (RISC-V unprivileged §20.6, the fmt field)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cpu_proc.isa.table import FR2_EXACT, Format, Kind, Semantics, instruction

FMT = {"s": "00", "d": "01", "h": "10"}
WIDTH = {"s": 32, "d": 64, "h": 16}
FRACTION = {"s": 23, "d": 52, "h": 10}  # what the semantics call m


def each(
    extensions: dict[str, str], name: str, encoding: str, form: Format, *, files: str, exact: str = ""
) -> Callable[[Semantics], Semantics]:
    """Declare one row for each precision that ``extensions`` maps to the extension it belongs to.

    ``{p}`` in the name becomes the letter of the precision and ``{fmt}`` in the encoding its field; ``exact`` names
    the precisions in which the operation never rounds. The decorated function is the semantics of all.
    """

    def declare(semantics: Semantics) -> Semantics:
        for p, extension in extensions.items():
            options: dict[str, Any] = {
                "precision": p,
                "result": p if files[0] == "f" else "x",
                "files": files,
                "extension": extension,
            }
            row = name.format(p=p), encoding.format(fmt=FMT[p]), FR2_EXACT if p in exact else form, Kind.FLOAT
            instruction(*row, **options)(semantics)
        return semantics

    return declare
