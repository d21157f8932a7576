"""The command line of a network card."""

from __future__ import annotations

from dataclasses import dataclass

from devproc.network.frame import MTU_LEAST, MTU_MOST

PAIRS_MAX = 16


@dataclass(frozen=True)
class Config:
    """A card."""

    mac: bytes
    mtu: int = 0
    """What the driver is told; 0: what the network has."""
    queues: int = 1
    """Pairs of queues."""
    queue_size: int = 256
    standby: bool = False
    """The card is the standby of a pair whose primary has the same address."""

    def __post_init__(self) -> None:
        if self.mtu and not MTU_LEAST <= self.mtu <= MTU_MOST:
            raise ValueError(f"--mtu {self.mtu}: {MTU_LEAST} to {MTU_MOST}")
        if not 1 <= self.queues <= PAIRS_MAX:
            raise ValueError(f"--queues {self.queues}: 1 to {PAIRS_MAX}")
