"""How commands print: tables for people, JSON for programs, errors in one line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from protocol.errors import BusvmError
from protocol.names import VM_PATTERN, Runtime


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


def failed(error: BusvmError) -> int:
    """Print the one line about ``error``; return the exit status."""
    sys.stderr.write(f"error: {error.message}" + (f" ({error.hint})\n" if error.hint else "\n"))
    return error.exit_status


def runtime_of(parser: argparse.ArgumentParser, vm: str) -> Runtime:
    """Return where the VM is that ``--vm`` names; if that is no name, say so and end."""
    if not VM_PATTERN.match(vm):
        parser.error(f"--vm {vm!r}: letters, digits, _ . -, up to 31")
    return Runtime(vm)


def size(octets: int) -> str:
    """Write an amount of memory for people."""
    return f"{octets / (1 << 20):.1f} MB" if octets else "-"
