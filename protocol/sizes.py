"""Sizes as people write them: ``512M``, ``1.5G``, ``4096``."""

from __future__ import annotations

import re
from fractions import Fraction

from protocol.errors import ConfigError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\Z", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` says; units are powers of 1024.

    Raises:
        ConfigError: it is no size.
    """
    found = _SIZE.match(text.strip())
    if not found:
        raise ConfigError(f"{text!r} is no size", hint="write 512M, 1G or a number of bytes")
    return int(Fraction(found[1]) * _UNITS[found[2].upper()])


def format_size(size: int) -> str:
    """Return ``size`` in the largest unit that divides it."""
    for unit in "TGMK":
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)
