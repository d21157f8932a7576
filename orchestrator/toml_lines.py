"""Where in a TOML text each key stands: tomllib gives values without lines.

It reads the text line by line, enough for vm.toml: table headers, arrays of tables, dotted and quoted keys, strings
and arrays over several lines. What it cannot place (a key in an inline table) gets the line of what holds it.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=(.*)$"""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'')


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


class Lines:
    """The lines of one text; a path is ``("vm", "memory")`` or ``("device", 0, "image")``."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        self._scan(text.splitlines())

    def find(self, *path: str | int) -> int:
        """Return the line of ``path``, or of the nearest thing around it; 1 when there is nothing."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 1

    def _scan(self, lines: list[str]) -> None:
        table: Path = ()
        counts: dict[tuple[str, ...], int] = {}
        number = 0
        while number < len(lines):
            line = lines[number]
            number += 1
            if header := _HEADER.match(line):
                parts = _parts(header[2])
                table = parts
                if header[1] == "[[":
                    counts[parts] = counts.get(parts, -1) + 1
                    table = (*parts, counts[parts])
                self._lines.setdefault(table, number)
            elif key := _KEY.match(line):
                self._place(table, _parts(key[1]), number)
                number += self._continued(key[2], lines[number:])

    def _place(self, table: Path, parts: tuple[str, ...], number: int) -> None:
        for length in range(1, len(parts) + 1):
            self._lines.setdefault((*table, *parts[:length]), number)

    @staticmethod
    def _continued(value: str, following: list[str]) -> int:
        """Return how many of the ``following`` lines belong to ``value``."""
        value = value.strip()
        for quotes in ('"""', "'''"):
            if value.startswith(quotes):
                if quotes in value[3:]:
                    return 0
                ends = (index for index, line in enumerate(following, 1) if quotes in line)
                return next(ends, len(following))
        depth = _depth(value)
        for index, line in enumerate(following):
            if depth <= 0:
                return index
            depth += _depth(line)
        return 0 if depth <= 0 and not following else len(following)


def _depth(text: str) -> int:
    """Return how many brackets ``text`` opens more than it closes."""
    bare = _STRING.sub("", text).split("#")[0]
    return bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")
