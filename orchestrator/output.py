"""How commands print: tables for people, JSON for programs, errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from protocol.errors import BusvmError


def line(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def as_json(value: Any) -> None:
    """Print JSON."""
    line(json.dumps(value, indent=2, ensure_ascii=False))


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print columns, each as wide as its widest cell."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def error_text(error: BusvmError) -> str:
    """Return the one line about ``error``."""
    return f"error: {error.message}" + (f" ({error.hint})" if error.hint else "")


def size(octets: int) -> str:
    """Write an amount of memory for people."""
    return f"{octets / (1 << 20):.1f} MB" if octets else "-"
