"""Rules where they outlive the process: a table at the end of the device page, with how often each was met and struck.

A rule that kills the process must not begin anew in its successor, so the counts are stored before anything is done.
A row is valid once its id is there, which is stored last.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocol.memory import Shared

SIZE = 0x2000
_MAGIC = int.from_bytes(b"FAULTS01", "little")
_ROW, _ROWS = 256, 31
_ID, _STARTED, _SEEN, _HITS, _LENGTH, _TEXT = 0x00, 0x08, 0x10, 0x18, 0x20, 0x28
FULL = _ROWS
"""Rules that there can be."""


class Row:
    """One rule in the page."""

    def __init__(self, shared: Shared, offset: int) -> None:
        self._shared = shared
        self._at = offset

    @property
    def number(self) -> int:
        """Of the rule; 0: none is here."""
        return self._shared.load(self._at + _ID, 8)

    @number.setter
    def number(self, value: int) -> None:
        self._shared.store(self._at + _ID, 8, value)

    @property
    def removed(self) -> bool:
        """Whether it was taken away, and is here so that the command line does not bring it back."""
        return self._shared.load(self._at + _STARTED, 8) == 2

    @property
    def started(self) -> bool:
        """Whether it came by the command line."""
        return self._shared.load(self._at + _STARTED, 8) > 0

    def set_started(self, *, removed: bool) -> None:
        """Note that it came by the command line."""
        self._shared.store(self._at + _STARTED, 8, 2 if removed else 1)

    @property
    def seen(self) -> int:
        """Occasions so far."""
        return self._shared.load(self._at + _SEEN, 8)

    @property
    def hits(self) -> int:
        """Faults so far."""
        return self._shared.load(self._at + _HITS, 8)

    def count(self, seen: int, hits: int) -> None:
        """Store both."""
        self._shared.store(self._at + _HITS, 8, hits)
        self._shared.store(self._at + _SEEN, 8, seen)

    @property
    def text(self) -> str:
        """The rule."""
        length = min(self._shared.load(self._at + _LENGTH, 8), _ROW - _TEXT)
        return self._shared.bytes(self._at + _TEXT, length).decode("ascii", "replace")

    def fill(self, number: int, text: str, *, started: bool) -> None:
        """Store a rule that nothing has happened to."""
        data = text.encode()
        self._shared.u8[self._at + _TEXT : self._at + _TEXT + len(data)] = data
        self._shared.store(self._at + _LENGTH, 8, len(data))
        self._shared.store(self._at + _STARTED, 8, int(started))
        self.count(0, 0)
        self.number = number


class Table:
    """The rows in a page, from ``offset`` on."""

    def __init__(self, shared: Shared, offset: int) -> None:
        self._shared = shared
        self._at = offset

    @property
    def in_use(self) -> bool:
        """Whether there were ever rules."""
        return self._shared.load(self._at, 8) == _MAGIC

    def begin(self) -> None:
        """Have it be in use."""
        if not self.in_use:
            self._shared.u8[self._at : self._at + SIZE] = bytes(SIZE)
            self._shared.store(self._at, 8, _MAGIC)

    @property
    def last_id(self) -> int:
        """The highest number that a rule has had."""
        return self._shared.load(self._at + 8, 8)

    @last_id.setter
    def last_id(self, value: int) -> None:
        self._shared.store(self._at + 8, 8, value)

    def _all(self) -> Iterator[Row]:
        return (Row(self._shared, self._at + _ROW * (1 + index)) for index in range(_ROWS))

    def rows(self) -> list[Row]:
        """Return those with a rule, the oldest first."""
        return sorted((row for row in self._all() if row.number), key=lambda row: row.number)

    def free(self) -> Row | None:
        """Return one without, or ``None``."""
        return next((row for row in self._all() if not row.number), None)
