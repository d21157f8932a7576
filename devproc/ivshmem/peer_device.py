"""What devices that are peers of a server have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from devproc.device import Device
from devproc.ivshmem.guest_peer import GuestPeer
from protocol.errors import ConfigError


class PeerDevice(Device):
    """A device with a ``peer``, the memory of whose server is BAR ``memory_bar``."""

    peer: GuestPeer
    memory_bar: int

    def memories(self) -> dict[int, tuple[int, bool]]:
        """Return the server's memory, if the server is there; else the machine has it."""
        memory = self.peer.memory
        return {self.memory_bar: memory} if memory else {}

    def release(self) -> None:
        """Let go of the machine; what it holds goes on working."""
        self.peer.leave()
        super().release()

    def close(self) -> None:
        """Leave the server."""
        self.peer.close()

    def sources(self) -> dict[int, Callable[[], None]]:
        """Watch the server, and our eventfds while they are ours."""
        return {self.peer.fd: self.peer.turn}

    def save(self, file: BinaryIO) -> None:
        """Refuse: the memory is others' too, who go on."""
        raise ConfigError("memory that is shared with others cannot be saved", hint="detach the device first")

    def figures(self) -> dict[str, int]:
        """Add who is there."""
        return super().figures() | self.peer.counters
