"""What a key of vm.toml is, and what its value may be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a value must be."""

    TEXT = "text"
    SIZE = "size"
    COUNT = "count"
    NUMBER = "number"
    FLAG = "true or false"
    FILE = "file"
    PATH = "path"
    WORDS = "list of texts"


@dataclass(frozen=True)
class DeviceType:
    """A type of device that comes with busvm: the module that runs it."""

    module: str
    doc: str
    exclusive: bool = False
    """Whether a second process cannot open what the first has of the host: addresses, connections."""


@dataclass(frozen=True)
class Key:
    """One key; ``table`` is empty for the top level, ``types`` for a key of every device."""

    table: str
    name: str
    kind: Kind
    doc: str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] | tuple[int, ...] = ()
    least: int = 0
    most: int | None = None
    types: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    """Of a network card's key: the back-ends that it is for; it is required of those alone."""
    option: str = ""
    """The option of the device process that the key becomes."""

    @property
    def path(self) -> str:
        """The key as people write it: ``vm.memory``."""
        return f"{self.table}.{self.name}" if self.table else self.name
