"""What the requests of a disk do (virtio 1.2 §5.2.6): each is checked, then answered or handed to the pool.

Serving a request twice is harmless, which replay after a crash needs: reads and writes go to fixed places, and a
flush is a flush.
"""

from __future__ import annotations

from devproc.state import Record, Word
from devproc.virtio_blk.backing import Backing, Views
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.config_space import DISCARDS_MAX, RANGE_MAX, BlockConfigSpace
from devproc.virtio_blk.durability import Durability
from devproc.virtio_blk.pool import Job, Pool
from devproc.virtio_blk.requests import Request
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

_NOWAIT_MAX = 64 << 10  # larger copies are worth a thread
_CHANGING = (Type.OUT, Type.DISCARD, Type.WRITE_ZEROES)
_IN = int(Type.IN)


class BlkState(Record):
    """What a successor must know beside the transport's state."""

    mortal = Word(8, "identity of the overlay that the guest has written to")
    lost = Word(4, "errno of a flush that failed: what was written before is lost")


class BlockTransfers(BlockConfigSpace):
    """A disk with its requests; ``BlockDevice`` says when they start and what becomes of their results."""

    def __init__(self, config: Config, image: Backing) -> None:
        super().__init__(config, image)
        self.pool = Pool(image, config.threads)
        self.durability = Durability()
        self.blk: BlkState

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
    def durable(self) -> bool:
        """Whether a write is acknowledged only when it is on the medium (virtio 1.2 §5.2.6.2)."""
        return not (self.negotiated & BlkFeature.FLUSH and self.writeback)

    # requests

    def start(self, request: Request) -> None:
        """Do it, or hand it to the pool. It may be done again after the host had no space."""
        kind = request.kind
        if kind == _IN:
            self._read(request)
            return
        if kind in _CHANGING and self.image.mortal:
            self.blk.mortal = self.image.mortal
        if kind == Type.OUT:
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
            self.answer(request, S_UNSUPP)

    def _place(self, sector: int, length: int) -> int | None:
        """Return the place in the image, or ``None`` when the range is not on the disk or no whole blocks."""
        block = self.config.block_size
        place = sector * SECTOR
        if length % block or place % block or sector + length // SECTOR > self.sectors:
            self.guest_error("bad_ranges", f"sector {sector}, {length} bytes")
            return None
        return place

    def _views(self, parts: list[tuple[int, int]]) -> Views:
        ram = self.machine.memory.ram.u8
        if len(parts) == 1:
            at, length = parts[0]
            return [ram[at : at + length]]
        return [ram[at : at + length] for at, length in parts if length]

    def _read(self, request: Request) -> None:
        length = request.size
        place = self._place(request.sector, length)
        if place is None:
            self.answer(request, S_IOERR)
            return
        views = self._views(request.chain.writable)
        request.written = length + 1
        if length <= _NOWAIT_MAX and self.image.read_nowait(views, place, length):
            self.counters["reads_at_once"] += 1
            self.answer(request, S_OK)
        else:
            self.pool.submit(Job(lambda image: image.read(views, place), request))

    def _write(self, request: Request) -> None:
        place = self._place(request.sector, request.size)
        if place is None or self.config.readonly:
            self.answer(request, S_IOERR)
            return
        views, durable = self._views(request.chain.readable), self.durable
        self.pool.submit(Job(lambda image: image.write(views, place, durable=durable), request))

    def _get_id(self, request: Request) -> None:
        """Return the serial number, padded with zeros to 20 bytes (virtio 1.2 §5.2.6)."""
        serial = self.config.serial.encode()[:ID_BYTES].ljust(ID_BYTES, b"\0")
        if request.chain.writable_size < ID_BYTES:
            self.answer(request, S_IOERR)
            return
        for view in self._views(request.chain.writable):
            part, serial = serial[: len(view)], serial[len(view) :]
            view[: len(part)] = part
        request.written = ID_BYTES + 1
        self.answer(request, S_OK)

    def _segments(self, request: Request, most: int, flags: int) -> list[Segment] | None:
        """Return the ranges of a request, all of them checked; otherwise it is answered (virtio 1.2 §5.2.6.2)."""
        size = request.chain.readable_size
        data = b"".join(bytes(view) for view in self._views(request.chain.readable)) if size <= 16 * most else b""
        found = segments(data, most)
        if found is None or any(segment.flags & ~flags for segment in found):
            self.answer(request, S_UNSUPP)
            return None
        if any(s.sectors > RANGE_MAX or self._place(s.sector, s.sectors * SECTOR) is None for s in found):
            self.answer(request, S_IOERR)
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

    def answer(self, request: Request, status: int) -> None:
        """Store the status byte and hand the chain back."""
        if self.queues.get(request.queue.index) is not request.queue:
            return  # the queue was reset: its buffers are the guest's again
        self.machine.memory.ram.u8[request.status_at] = status
        if status != S_OK:
            self.counters["failed_requests"] += 1
        self.finish(request.queue, request.chain.head, request.written if status == S_OK else 1)
