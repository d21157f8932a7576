"""The virtio block device (virtio 1.2 §5.2).

Serving a request twice is harmless, which replay after a crash needs: reads and writes go to fixed places, and a
flush is a flush. A request is started, at once or when the limits allow (``throttle``), on the ``pool``; its answer
comes back through ``_collect``. What the host refuses becomes a status and a counter, or pauses the machine.
"""

from __future__ import annotations

import errno
import logging
import select
import time
from collections import deque
from collections.abc import Callable

from devproc.state import Record, Word
from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.backing import CANNOT, NO_SPACE, Backing, Shorter, Views
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.config_space import DISCARDS_MAX, RANGE_MAX, BlockConfigSpace
from devproc.virtio_blk.durability import Durability
from devproc.virtio_blk.overlay import Overlay
from devproc.virtio_blk.pool import Job, Pool
from devproc.virtio_blk.requests import Request, take
from devproc.virtio_blk.spec import (
    FLAG_UNMAP,
    ID_BYTES,
    S_IOERR,
    S_OK,
    S_UNSUPP,
    SECTOR,
    BlkFeature,
    Segment,
    Type,
    segments,
)
from devproc.virtio_blk.throttle import Throttle, Waiting
from devproc.virtqueue import Chain, Virtqueue
from protocol.errors import HostError
from protocol.layout import DevicePage
from protocol.log import RateLimit

logger = logging.getLogger(__name__)

_NOWAIT_MAX = 64 << 10  # larger copies are worth a thread
_CHANGING = (Type.OUT, Type.DISCARD, Type.WRITE_ZEROES)


class BlkState(Record):
    """What a successor must know beside the transport's state."""

    mortal = Word(8, "identity of the overlay that the guest has written to")
    lost = Word(4, "errno of a flush that failed: what was written before is lost")


class BlockDevice(BlockConfigSpace):
    """A disk."""

    state_version = 2

    def __init__(self, config: Config, image: Backing, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(config, image)
        self.pool = Pool(image, config.threads)
        self.durability = Durability()
        self.last_error = ""
        self.blk: BlkState
        self._poll = select.poll()
        self._poll.register(self.pool.event, select.POLLIN)
        self._errors = RateLimit()
        self._waiting: Waiting[Request] | None = None
        if config.iops or config.bytes_per_second:
            self._waiting = Waiting(Throttle(config.iops, config.bytes_per_second, clock()), clock)
        self._stuck: list[Request] = []  # until the machine goes on

    def configuration(self) -> dict[str, str]:
        """Return the configuration, for people."""
        return {name: str(value) for name, value in vars(self.config).items()}

    # life cycle

    def state_size(self) -> int:
        """Return the bytes of private state: the transport's, and ``BlkState``."""
        return super().state_size() + 64

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Add the disk's state."""
        super().declare(places)
        self.blk = BlkState(self.machine.page.shared, DevicePage.STATE + super().state_size())

    def power_on(self) -> None:
        """Add the disk's config space."""
        super().power_on()
        self.blk.mortal = self.image.mortal if self.image.written else 0
        self.describe()

    def recover(self) -> None:
        """Go on; the image may have another size than before."""
        if self.blk.mortal not in (0, self.image.mortal):
            self.release()
            raise HostError(
                "what the guest has written ended with the process that kept it (snapshot = true)",
                hint="start the VM anew",
            )
        self.durability.failure = self.blk.lost
        before = self.capacity
        self.describe()
        super().recover()
        if self.capacity != before:
            self.config_changed()

    def reset_all(self) -> None:
        """Reset; the cache mode is the configured one again, and a new driver counts on nothing written before."""
        self._drop(None)
        self.durability.failure = self.blk.lost = 0
        self.writeback = int(self.config.cache != "writethrough")
        super().reset_all()

    def stop_queue(self) -> None:
        """Stop a queue; requests that wait are not done any more."""
        self._drop(self.queue_select)
        super().stop_queue()
        self._drop(self.queue_select)

    def resume(self) -> None:
        """Go on with what the limits held back, too."""
        super().resume()
        self._let_go()

    def release(self) -> None:
        """Forget what waits: it is in the in-flight table, for whoever goes on."""
        self._drop(None)
        del self.blk
        super().release()

    def _drop(self, index: int | None) -> None:
        """Forget requests that wait: of one queue, or all."""
        self._stuck = [r for r in self._stuck if index is not None and r.queue.index != index]
        if self._waiting:
            waiting = self._waiting.requests
            self._waiting.requests = deque(r for r in waiting if index is not None and r.queue.index != index)

    def resize(self, size: int) -> None:
        """Make the disk longer, or with 0 as long as its image is now, and tell the guest.

        Raises:
            ConfigError: see ``Backing.resize``.
            HostError: likewise.
        """
        self.image.resize(size)
        if self.records and self.capacity != self.image.sectors:
            self.capacity = self.image.sectors
            self.config_changed()

    # cache mode

    def set_writeback(self, value: int) -> None:
        """Change the cache mode, as the driver asks for."""
        if not self.negotiated & BlkFeature.CONFIG_WCE:
            return
        if self.writeback and not value:
            self.pool.submit(Job(self.durability.flush, None))  # nobody flushes later what was written before
        self.writeback = value
        self.counters["cache_mode_changes"] += 1

    @property
    def cache_mode(self) -> str:
        """The cache mode in force; without a driver, the one that it will find."""
        durable = self.durable if self.records and self.negotiated else self.config.cache == "writethrough"
        return "writethrough" if durable else "writeback"

    @property
    def waiting(self) -> int:
        """Requests that wait for the limits, or for space on the host."""
        return len(self._stuck) + (len(self._waiting.requests) if self._waiting else 0)

    @property
    def durable(self) -> bool:
        """Whether a write is acknowledged only when it is on the medium (virtio 1.2 §5.2.6.2)."""
        return not (self.negotiated & BlkFeature.FLUSH and self.writeback)

    # requests

    def request(self, queue: Virtqueue, chain: Chain) -> None:
        """Take one request; header and status byte may be anywhere in the chain (virtio 1.2 §2.7.4)."""
        request = take(self.machine.memory, queue, chain)
        if request is None:
            return
        self.counters["requests"] += 1
        if self._waiting:
            self._waiting.requests.append(request)
            self._let_go()
        else:
            self._start(request)

    def _start(self, request: Request) -> None:
        """Do it, or hand it to the pool. It may be done again after the host had no space."""
        kind = request.kind
        if kind in _CHANGING and self.image.mortal:
            self.blk.mortal = self.image.mortal
        if kind == Type.IN:
            self._read(request)
        elif kind == Type.OUT:
            self._write(request)
        elif kind == Type.FLUSH:
            self.pool.submit(Job(self.durability.flush, request))
        elif kind == Type.GET_ID:
            self._get_id(request)
        elif kind == Type.DISCARD and self.features & BlkFeature.DISCARD:
            self._discard(request)
        elif kind == Type.WRITE_ZEROES and self.features & BlkFeature.WRITE_ZEROES:
            self._write_zeroes(request)
        else:
            self._answer(request, S_UNSUPP)

    def _place(self, sector: int, length: int) -> int | None:
        """Return the place in the image, or ``None`` when the range is not on the disk or no whole blocks."""
        block = self.config.block_size
        if length % block or sector * SECTOR % block or sector + length // SECTOR > self.image.sectors:
            self.guest_error("bad_ranges", f"sector {sector}, {length} bytes")
            return None
        return sector * SECTOR

    def _views(self, parts: list[tuple[int, int]]) -> Views:
        ram = self.machine.memory.ram.u8
        return [ram[at : at + length] for at, length in parts if length]

    def _read(self, request: Request) -> None:
        length = request.size
        place = self._place(request.sector, length)
        if place is None:
            self._answer(request, S_IOERR)
            return
        views = self._views(request.chain.writable)
        request.written = length + 1
        if length <= _NOWAIT_MAX and self.image.read_nowait(views, place, length):
            self.counters["reads_at_once"] += 1
            self._answer(request, S_OK)
        else:
            self.pool.submit(Job(lambda image: image.read(views, place), request))

    def _write(self, request: Request) -> None:
        place = self._place(request.sector, request.size)
        if place is None or self.config.readonly:
            self._answer(request, S_IOERR)
            return
        views, durable = self._views(request.chain.readable), self.durable
        self.pool.submit(Job(lambda image: image.write(views, place, durable=durable), request))

    def _get_id(self, request: Request) -> None:
        """Return the serial number, padded with zeros to 20 bytes (virtio 1.2 §5.2.6)."""
        serial = self.config.serial.encode()[:ID_BYTES].ljust(ID_BYTES, b"\0")
        if request.chain.writable_size < ID_BYTES:
            self._answer(request, S_IOERR)
            return
        for view in self._views(request.chain.writable):
            part, serial = serial[: len(view)], serial[len(view) :]
            view[: len(part)] = part
        request.written = ID_BYTES + 1
        self._answer(request, S_OK)

    def _segments(self, request: Request, most: int, flags: int) -> list[Segment] | None:
        """Return the ranges of a request, all of them checked; otherwise it is answered (virtio 1.2 §5.2.6.2)."""
        size = request.chain.readable_size
        data = b"".join(bytes(view) for view in self._views(request.chain.readable)) if size <= 16 * most else b""
        found = segments(data, most)
        if found is None or any(segment.flags & ~flags for segment in found):
            self._answer(request, S_UNSUPP)
            return None
        if any(s.sectors > RANGE_MAX or self._place(s.sector, s.sectors * SECTOR) is None for s in found):
            self._answer(request, S_IOERR)
            return None
        return found

    def _discard(self, request: Request) -> None:
        found = self._segments(request, DISCARDS_MAX, flags=0)

        def work(image: Backing) -> None:
            for segment in found or ():
                if segment.sectors:
                    image.discard(segment.sector * SECTOR, segment.sectors * SECTOR)

        if found is not None:
            self.pool.submit(Job(work, request))

    def _write_zeroes(self, request: Request) -> None:
        found = self._segments(request, 1, flags=FLAG_UNMAP)
        durable = self.durable

        def work(image: Backing) -> None:
            for sector, count, flags in found or ():
                if count:
                    unmap = bool(flags & FLAG_UNMAP) and self.unmaps
                    image.write_zeroes(sector * SECTOR, count * SECTOR, unmap=unmap)
            if durable:
                self.durability.flush(image)

        if found is not None:
            self.pool.submit(Job(work, request))

    def _answer(self, request: Request, status: int) -> None:
        """Store the status byte and hand the chain back."""
        if self.queues.get(request.queue.index) is not request.queue:
            return  # the queue was reset: its buffers are the guest's again
        self.machine.memory.ram.u8[request.status_at] = status
        if status != S_OK:
            self.counters["failed_requests"] += 1
        self.finish(request.queue, request.chain.head, request.written if status == S_OK else 1)

    # limits

    def _let_go(self) -> None:
        """Start what the limits allow; a stopped device starts nothing."""
        if self._waiting and not self.quiesced:
            for request in self._waiting.ready():
                self._start(request)

    def _rang(self) -> None:
        if self._waiting:
            self._waiting.alarm.acknowledge()
            queues = {request.queue for request in self._waiting.requests}
            self._let_go()
            self.counters["waits_for_limits"] += 1
            for queue in queues:
                self._publish_current(queue)

    # results

    def sources(self) -> dict[int, Callable[[], None]]:
        """Watch the pool's results, and the alarm."""
        found = {self.pool.event: self._collect}
        return found | ({self._waiting.alarm.fd: self._rang} if self._waiting else {})

    def _collect(self) -> None:
        touched = set()
        for job in self.pool.finished():
            request = job.token if isinstance(job.token, Request) else None
            status = S_OK if job.error is None else self._refused(job.error)
            self.blk.lost = self.durability.failure
            if request is None:
                continue
            if job.error is not None and job.error.errno in NO_SPACE and self._wait_for_space(request):
                continue
            self._answer(request, status)
            touched.add(request.queue)
        for queue in touched:
            self._publish_current(queue)

    def _publish_current(self, queue: Virtqueue) -> None:
        if self.queues.get(queue.index) is queue:
            self.publish(queue)

    def _refused(self, error: OSError) -> int:
        """Count and log what the host refused; return the status that says so."""
        number = error.errno or 0
        name = errno.errorcode.get(number, str(number))
        self.counters["image_shorter" if isinstance(error, Shorter) else f"host_error_{name}"] += 1
        self.last_error = f"{name}: {error.strerror}"
        if self._errors.allow():
            logger.warning("image %s: %s", self.image.path, error)
        return S_UNSUPP if number in CANNOT else S_IOERR

    def _wait_for_space(self, request: Request) -> bool:
        """Pause the machine if that is the policy and somebody can; ``retry`` comes when it goes on.

        After a flush that failed for want of space the data is gone, and no trying again brings it back.
        """
        if (
            self.durability.failure
            or self.config.on_error != "pause"
            or not self.ask_pause(f"{self.image.path}: {self.last_error}")
        ):
            return False
        self.counters["waited_for_space"] += 1
        self._stuck.append(request)
        return True

    def retry(self) -> None:
        """The machine goes on: try what had no space once more."""
        stuck, self._stuck = self._stuck, []
        for request in stuck:
            self._start(request)

    def give_up(self) -> None:
        """The machine could not be paused: report what had no space."""
        stuck, self._stuck = self._stuck, []
        for request in stuck:
            self._answer(request, S_IOERR)
        for queue in {request.queue for request in stuck}:
            self._publish_current(queue)

    def drain(self) -> None:
        """Wait for the image and return everything to the guest."""
        while self.pool.busy:
            self._poll.poll()
            self._collect()

    def close(self) -> None:
        """End the threads and close the image."""
        self.pool.close()
        if self._waiting:
            self._waiting.alarm.close()
        self.image.close()


def open_device(config: Config, transport: str = "pci") -> BlockDevice:
    """Open the image and return the device over ``transport``.

    Raises:
        HostError: see ``Image`` and ``Overlay``.
        ConfigError: likewise.
    """
    image = Image(
        config.image,
        readonly=config.readonly or config.snapshot,
        direct=config.cache == "none",
        block=config.block_size,
    )
    return BlockDevice.over(transport)(config, Overlay(image) if config.snapshot else image)
