"""What connects the guest with others past a device's process: doorbells by value, calls, and a descriptor to hold.

The process says what is connected; it is kept here, so that neither a ring nor an interrupt is lost while there is no
process. All changes happen while the harts stand still: no descriptor is closed that one of them is about to write.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import numpy as np

from protocol.errors import ProtocolError

VALUES_MAX = 1 << 16  # of doorbells by value
_VALUE_MAX = 0xFFFF_FFFF  # what a store of 4 bytes can say


class Doorbells:
    """Eventfds by the value that a guest stores, as compiled code looks for them (``engine.windows.match_of``)."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._table = np.zeros(1, np.int64)

    @property
    def host(self) -> int:
        """Where the table is; it changes with every change of what is in it."""
        return int(self._table.ctypes.data)

    def __len__(self) -> int:
        return len(self._fds)

    def fd(self, value: int) -> int | None:
        """Return the eventfd of a value."""
        return self._fds.get(value)

    def some(self, first: int, most: int) -> list[tuple[int, int]]:
        """Return up to ``most`` values from ``first`` on, in order, each with its eventfd."""
        return sorted((value, fd) for value, fd in self._fds.items() if value >= first)[:most]

    def change(self, connect: Mapping[int, int], forget: Collection[int]) -> None:
        """Take eventfds, which belong to this object then, and close those of other values."""
        for value in [*forget, *connect]:
            if value in self._fds:
                os.close(self._fds.pop(value))
        self._fds.update(connect)
        table = np.zeros(1 + 2 * len(self._fds), np.int64)
        table[0] = len(self._fds)
        for index, (value, fd) in enumerate(sorted(self._fds.items())):
            table[1 + 2 * index : 3 + 2 * index] = value, fd
        self._table = table

    def check(self, connect: Collection[int]) -> None:
        """Refuse what cannot be added.

        Raises:
            ProtocolError: a value is none, or there are too many.
        """
        if any(value > _VALUE_MAX for value in connect) or len(self._fds) + len(connect) > VALUES_MAX:
            raise ProtocolError(f"no doorbells of such values, or more than {VALUES_MAX}")

    def close(self) -> None:
        """Close all."""
        self.change({}, list(self._fds))
