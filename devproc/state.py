"""Records: a device's private state as typed words of its page (DESIGN §6).

The same declaration describes what is only looked at: the header of a request, say, with the names of its values.
A record has no copy in the process. Reading an attribute loads it from the page, assigning stores it there in one
host access, so that what a killed process had stored is exactly what its successor finds.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self, overload

from protocol.memory import Shared


class Word:
    """One naturally aligned integer of a record; offsets follow from the order of declaration."""

    def __init__(self, width: int, doc: str = "", *, names: type[IntEnum] | None = None) -> None:
        self.width = width
        self.doc = doc
        self.names = names
        self.offset = -1

    @overload
    def __get__(self, record: None, owner: type) -> Self: ...

    @overload
    def __get__(self, record: Record, owner: type) -> int: ...

    def __get__(self, record: Record | None, owner: type) -> Self | int:
        if record is None:
            return self
        return record.shared.load(record.offset + self.offset, self.width)

    def __set__(self, record: Record, value: int) -> None:
        record.shared.store(record.offset + self.offset, self.width, value)


class Record:
    """A view of ``SIZE`` bytes of a shared object."""

    SIZE: ClassVar[int] = 0
    """Rounded up to 8 bytes."""
    LENGTH: ClassVar[int] = 0
    """Up to the end of the last word."""

    def __init_subclass__(cls) -> None:
        offset = 0
        for word in vars(cls).values():
            if isinstance(word, Word):
                offset = -(-offset // word.width) * word.width
                word.offset = offset
                offset += word.width
        cls.LENGTH = offset
        cls.SIZE = -(-offset // 8) * 8

    def __init__(self, shared: Shared, offset: int) -> None:
        self.shared = shared
        self.offset = offset

    def clear(self) -> None:
        """Store zero in every word."""
        for word in range(self.offset, self.offset + self.SIZE, 8):
            self.shared.store(word, 8, 0)

    @classmethod
    def words(cls) -> dict[str, Word]:
        """Return the declared words by name, in their order."""
        return {name: word for name, word in vars(cls).items() if isinstance(word, Word)}

    def values(self) -> dict[str, int]:
        """Return every word by name, for people."""
        return {name: getattr(self, name) for name in self.words()}
