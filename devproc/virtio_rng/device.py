"""The entropy device (virtio 1.2 §5.4): every buffer the driver offers comes back with random bytes in it.

The bytes are the host kernel's, or those of a file or character device such as ``/dev/hwrng``. A limit makes buffers
wait, as QEMU's ``max-bytes`` does: a guest cannot drain a source that others need too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from devproc.throttle import Throttle, Waiting
from devproc.virtio import VirtioDevice
from devproc.virtio_rng.source import Kernel, Source, open_source
from devproc.virtqueue import Chain, Virtqueue

_MOST = 0x1_0000  # bytes at once, so that one buffer does not hold the loop
_DRY_S = 0.05  # until a source that had nothing is asked again


@dataclass(frozen=True)
class Config:
    """The command line of the device."""

    source: Annotated[Path | None, "file or character device to read instead of asking the host's kernel"] = None
    bytes_per_second: Annotated[int, "limit, 0 for none"] = 0

    def __post_init__(self) -> None:
        if self.bytes_per_second < 0:
            raise ValueError(f"--bytes-per-second {self.bytes_per_second}: 1 or more, or 0 for no limit")


class Wanted:
    """A buffer that waits for its bytes."""

    def __init__(self, queue: Virtqueue, chain: Chain) -> None:
        self.queue = queue
        self.chain = chain
        self.size = min(_MOST, chain.writable_size)


class EntropyDevice(VirtioDevice):
    """Random numbers for the guest's kernel."""

    device_type = 4
    class_code = 0xFF_0000

    def __init__(
        self, config: Config, source: Source | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(queue_count=1, queue_size=64)
        self.config = config
        self.entropy: Source = source or (open_source(config.source) if config.source else Kernel())
        self._waiting: Waiting[Wanted] | None = None
        if config.bytes_per_second or not isinstance(self.entropy, Kernel):
            self._waiting = Waiting(Throttle(0, config.bytes_per_second, clock()), clock)

    def request(self, queue: Virtqueue, chain: Chain) -> None:
        """Fill one buffer, now or when the limit allows."""
        wanted = Wanted(queue, chain)
        if self._waiting is None:
            self._fill(wanted)
        else:
            self._waiting.requests.append(wanted)
            self._let_go()

    def _let_go(self) -> None:
        if self._waiting and not self.quiesced:
            for wanted in self._waiting.ready():
                if not self._fill(wanted):
                    self._waiting.requests.appendleft(wanted)
                    self._waiting.alarm.set(_DRY_S)
                    return
                self.publish(wanted.queue)

    def _fill(self, wanted: Wanted) -> bool:
        """Return the buffer with what the source has now, or tell that it has nothing: an empty one means nothing."""
        memory, written = self.machine.memory.ram.u8, 0
        for offset, length in wanted.chain.writable:
            part = self.entropy.read(min(length, wanted.size - written))
            memory[offset : offset + len(part)] = part
            written += len(part)
            if len(part) < length:
                break
        if not written and wanted.size:
            self.counters["source_dry"] += 1
            return False
        self.counters["requests"] += 1
        self.counters["bytes"] += written
        self.finish(wanted.queue, wanted.chain.head, written)
        return True

    def _rang(self) -> None:
        if self._waiting:
            self._waiting.alarm.acknowledge()
            self._let_go()

    def sources(self) -> dict[int, Callable[[], None]]:
        """Watch the alarm of the limit."""
        return {self._waiting.alarm.fd: self._rang} if self._waiting else {}

    def resume(self) -> None:
        """Let go what has become due meanwhile."""
        super().resume()
        self._let_go()

    def reset_all(self) -> None:
        """Forget buffers that wait."""
        if self._waiting:
            self._waiting.requests.clear()
        super().reset_all()

    def release(self) -> None:
        """Forget them too: they are in the in-flight table, for whoever goes on."""
        if self._waiting:
            self._waiting.requests.clear()
        super().release()

    def close(self) -> None:
        """Close source and alarm."""
        self.entropy.close()
        if self._waiting:
            self._waiting.alarm.close()
