"""An entropy device: the smallest complete virtio device (virtio 1.2 §5.4), for our machine and for QEMU.

``docs/writing-a-device.md`` explains each line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

from devproc.virtio import VirtioDevice
from devproc.virtqueue import Chain, Virtqueue


@dataclass(frozen=True)
class Config:
    """The command line of the device."""

    most: Annotated[int, "bytes in one answer"] = 65536


class Entropy(VirtioDevice):
    """Fills every buffer that the driver offers with random bytes."""

    device_type = 4
    class_code = 0xFF_0000

    def __init__(self, config: Config) -> None:
        super().__init__(queue_count=1, queue_size=8)
        self.config = config

    def request(self, queue: Virtqueue, chain: Chain) -> None:
        """Answer at once; ``written`` tells the driver how much of its buffers is random."""
        memory, written = self.machine.memory.ram.u8, 0
        for offset, length in chain.writable:
            part = min(length, self.config.most - written)
            memory[offset : offset + part] = os.urandom(part)
            written += part
        self.finish(queue, chain.head, written)
