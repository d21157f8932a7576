"""What a server is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devproc.ivshmem.memory import checked_size, path_of
from protocol.errors import ConfigError

VECTORS_MAX = 64  # as QEMU's own server


@dataclass(frozen=True)
class Config:
    """Where, how much, how many; ``memory`` is a name or path, empty for sealed memory."""

    socket: Path
    size: int = 4 << 20
    vectors: int = 1
    memory: str = ""
    patience_s: float = 5.0
    link: Path | None = None

    def check(self) -> None:
        """Check it.

        Raises:
            ConfigError: a value is wrong.
        """
        checked_size(self.size)
        if not 0 < self.vectors <= VECTORS_MAX:
            raise ConfigError(f"{self.vectors} vectors", hint=f"1 to {VECTORS_MAX}")
        if self.memory:
            path_of(self.memory)
