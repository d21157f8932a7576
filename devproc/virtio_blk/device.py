"""The virtio block device (virtio 1.2 §5.2) over a raw image.

Serving a request twice is harmless, which replay after a crash needs: reads and writes go to fixed places, and a
flush is a flush. What the host refuses becomes ``VIRTIO_BLK_S_IOERR`` and a counter.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path

from devproc.registers import Register
from devproc.virtio import VirtioDevice
from devproc.virtio_blk.backend import SECTOR, Image, Job, Pool, Views
from devproc.virtqueue import Chain, Virtqueue
from protocol.log import RateLimit

logger = logging.getLogger(__name__)


class BlkFeature(IntEnum):
    """Feature bits (virtio 1.2 §5.2.3)."""

    SEG_MAX = 1 << 2
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


class Type(IntEnum):
    """Request types (virtio 1.2 §5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


S_OK, S_IOERR, S_UNSUPP = 0, 1, 2
_HEADER = 16
_ID_BYTES = 20
_RANGE_MAX = 1 << 22  # sectors of one discard or write-zeroes range: 2 GiB
_NOWAIT_MAX = 64 << 10  # larger copies are worth a thread


@dataclass(frozen=True)
class Config:
    """The command line of a block device."""

    image: Path
    readonly: bool = False
    queues: int = 1
    queue_size: int = 256
    threads: int = 4
    serial: str = ""
    direct: bool = False


class _Request:
    """A request under way: where its answer goes."""

    __slots__ = ("head", "queue", "status_at", "written")

    def __init__(self, queue: Virtqueue, head: int, status_at: int, written: int) -> None:
        self.queue = queue
        self.head = head
        self.status_at = status_at
        self.written = written


class BlockDevice(VirtioDevice):
    """A disk."""

    device_type = 2
    class_code = 0x01_0000
    config_size = 60

    _config = VirtioDevice.device_config
    capacity = Register(_config, 0x00, width=8, access="r", doc="Capacity in sectors of 512 bytes.")
    seg_max = Register(_config, 0x0C, access="r", doc="Data buffers in one request.")
    blk_size = Register(_config, 0x14, access="r", doc="Block size.")
    physical_block_exp = Register(_config, 0x18, width=1, access="r", doc="log2(physical block / block).")
    alignment_offset = Register(_config, 0x19, width=1, access="r", doc="Offset of the first aligned block.")
    min_io_size = Register(_config, 0x1A, width=2, access="r", doc="Smallest good transfer in blocks.")
    opt_io_size = Register(_config, 0x1C, access="r", doc="Best transfer in blocks.")
    writeback = Register(_config, 0x20, width=1, mask=1, store=False, doc="1: writes need a flush to be durable.")
    blk_num_queues = Register(_config, 0x22, width=2, access="r", doc="Request queues.")
    max_discard_sectors = Register(_config, 0x24, access="r", doc="Largest discard range.")
    max_discard_seg = Register(_config, 0x28, access="r", doc="Ranges in one discard.")
    discard_sector_alignment = Register(_config, 0x2C, access="r", doc="Alignment of a discard.")
    max_write_zeroes_sectors = Register(_config, 0x30, access="r", doc="Largest write-zeroes range.")
    max_write_zeroes_seg = Register(_config, 0x34, access="r", doc="Ranges in one write-zeroes.")
    write_zeroes_may_unmap = Register(_config, 0x38, width=1, access="r", doc="Write-zeroes may unmap.")

    def __init__(self, config: Config, image: Image) -> None:
        super().__init__(queue_count=config.queues, queue_size=config.queue_size)
        self.config = config
        self.image = image
        self.pool = Pool(image, config.threads)
        self._poll = select.poll()
        self._poll.register(self.pool.event, select.POLLIN)
        self._errors = RateLimit()
        self.features = BlkFeature.SEG_MAX | BlkFeature.BLK_SIZE | BlkFeature.TOPOLOGY | BlkFeature.FLUSH
        if config.queues > 1:
            self.features |= BlkFeature.MQ
        if config.readonly:
            self.features |= BlkFeature.RO
        else:
            self.features |= BlkFeature.CONFIG_WCE | BlkFeature.DISCARD | BlkFeature.WRITE_ZEROES

    def configuration(self) -> dict[str, str]:
        """Return the configuration, for people."""
        return {name: str(value) for name, value in vars(self.config).items()}

    def power_on(self) -> None:
        """Add the disk's config space."""
        super().power_on()
        self._describe()
        self.writeback = 1

    def recover(self) -> None:
        """Go on; the image may have another size than before."""
        before = self.capacity
        self._describe()
        super().recover()
        if self.capacity != before:
            self.config_changed()

    def _describe(self) -> None:
        self.capacity = self.image.sectors
        self.seg_max = self.queue_max - 2
        self.blk_size = SECTOR
        self.physical_block_exp = 3
        self.opt_io_size = 0
        self.min_io_size = 1
        self.blk_num_queues = self.queue_count
        writable = not self.config.readonly
        self.max_discard_sectors = self.max_write_zeroes_sectors = _RANGE_MAX if writable else 0
        self.max_discard_seg = self.max_write_zeroes_seg = int(writable)
        self.discard_sector_alignment = 4096 // SECTOR
        self.write_zeroes_may_unmap = int(writable)

    @writeback.on_write
    def _set_writeback(self, value: int) -> None:
        if self.negotiated & BlkFeature.CONFIG_WCE:
            self.writeback = value
            self.counters["cache_mode_changes"] += 1

    @property
    def durable(self) -> bool:
        """Whether a write is acknowledged only when it is on the medium (virtio 1.2 §5.2.6.2)."""
        return not (self.negotiated & BlkFeature.FLUSH and self.writeback)

    # requests

    def request(self, queue: Virtqueue, chain: Chain) -> None:
        """Start one request; header and status byte may be anywhere in the chain (virtio 1.2 §2.7.4)."""
        header = self._header(chain)
        if header is None or not chain.writable:
            queue.fail("block request without header or status byte")
            return
        kind, sector = header
        at, length = chain.writable[-1]
        if length == 0:
            queue.fail("block request with an empty status descriptor")
            return
        request = _Request(queue, chain.head, at + length - 1, 1)
        if length == 1:
            chain.writable.pop()
        else:
            chain.writable[-1] = (at, length - 1)
        self.counters["requests"] += 1
        if kind == Type.IN:
            self._read(request, chain, sector)
        elif kind == Type.OUT:
            self._write(request, chain, sector)
        elif kind == Type.FLUSH:
            self.pool.submit(Job(Image.flush, request))
        elif kind == Type.GET_ID:
            self._get_id(request, chain)
        elif kind in (Type.DISCARD, Type.WRITE_ZEROES) and not self.config.readonly:
            self._range(request, chain, kind)
        else:
            self._answer(request, S_UNSUPP)

    def _header(self, chain: Chain) -> tuple[int, int] | None:
        """Take the 16 bytes of the header off the readable part: type and sector."""
        data = b""
        ram = self.machine.memory.ram
        while len(data) < _HEADER and chain.readable:
            at, length = chain.readable[0]
            part = min(length, _HEADER - len(data))
            data += ram.bytes(at, part)
            if part == length:
                chain.readable.pop(0)
            else:
                chain.readable[0] = (at + part, length - part)
        if len(data) < _HEADER:
            return None
        return int.from_bytes(data[:4], "little"), int.from_bytes(data[8:], "little")

    def _place(self, sector: int, length: int) -> int | None:
        """Return the place in the image, or ``None`` when the range is not on the disk or no whole sectors."""
        if length % SECTOR or sector + length // SECTOR > self.image.sectors:
            self.guest_error("bad_ranges", f"sector {sector}, {length} bytes")
            return None
        return sector * SECTOR

    def _views(self, parts: list[tuple[int, int]]) -> Views:
        ram = self.machine.memory.ram.u8
        return [ram[at : at + length] for at, length in parts if length]

    def _read(self, request: _Request, chain: Chain, sector: int) -> None:
        length = chain.writable_size
        place = self._place(sector, length)
        if place is None:
            self._answer(request, S_IOERR)
            return
        views = self._views(chain.writable)
        request.written = length + 1
        if length <= _NOWAIT_MAX and self.image.read_nowait(views, place, length):
            self.counters["reads_at_once"] += 1
            self._answer(request, S_OK)
        else:
            self.pool.submit(Job(partial(Image.read, views=views, offset=place), request))

    def _write(self, request: _Request, chain: Chain, sector: int) -> None:
        place = self._place(sector, chain.readable_size)
        if place is None or self.config.readonly:
            self._answer(request, S_IOERR)
            return
        views = self._views(chain.readable)
        self.pool.submit(Job(partial(Image.write, views=views, offset=place, durable=self.durable), request))

    def _get_id(self, request: _Request, chain: Chain) -> None:
        """Return the serial number, padded with zeros to 20 bytes (virtio 1.2 §5.2.6)."""
        serial = self.config.serial.encode()[:_ID_BYTES].ljust(_ID_BYTES, b"\0")
        if chain.writable_size < _ID_BYTES:
            self._answer(request, S_IOERR)
            return
        for view in self._views(chain.writable):
            part, serial = serial[: len(view)], serial[len(view) :]
            view[: len(part)] = part
        request.written = _ID_BYTES + 1
        self._answer(request, S_OK)

    def _range(self, request: _Request, chain: Chain, kind: int) -> None:
        """Start a discard or write-zeroes of one range: sector, count, flags (virtio 1.2 §5.2.6)."""
        data = b"".join(bytes(view) for view in self._views(chain.readable)) if chain.readable_size == 16 else b""
        sector = int.from_bytes(data[:8], "little")
        count = int.from_bytes(data[8:12], "little")
        flags = int.from_bytes(data[12:16], "little")
        if not data or flags & ~1 or (kind == Type.DISCARD and flags):
            self._answer(request, S_UNSUPP)
            return
        place = self._place(sector, count * SECTOR)
        if place is None or count > _RANGE_MAX:
            self._answer(request, S_IOERR)
        elif kind == Type.DISCARD:
            self.pool.submit(Job(partial(Image.discard, offset=place, length=count * SECTOR), request))
        else:
            zero = partial(Image.write_zeroes, offset=place, length=count * SECTOR, durable=self.durable)
            self.pool.submit(Job(zero, request))

    def _answer(self, request: _Request, status: int) -> None:
        """Store the status byte and hand the chain back."""
        self.machine.memory.ram.u8[request.status_at] = status
        if status != S_OK:
            self.counters["failed_requests"] += 1
        self.finish(request.queue, request.head, request.written if status == S_OK else 1)

    # results

    def sources(self) -> dict[int, Callable[[], None]]:
        """Watch the pool's results."""
        return {self.pool.event: self._collect}

    def _collect(self) -> None:
        touched = set()
        for job in self.pool.finished():
            request = job.token
            if not isinstance(request, _Request):
                continue
            if job.error is not None:
                self.counters[f"host_error_{job.error.errno}"] += 1
                if self._errors.allow():
                    logger.warning("image %s: %s", self.image.path, job.error)
            self._answer(request, S_OK if job.error is None else S_IOERR)
            touched.add(request.queue.index)
        for index in touched:
            if (queue := self.queues.get(index)) is not None:
                self.publish(queue)

    def drain(self) -> None:
        """Wait for the image and return everything to the guest."""
        while self.pool.busy:
            self._poll.poll()
            self._collect()

    def close(self) -> None:
        """End the threads and close the image."""
        self.pool.close()
        self.image.close()


def open_device(config: Config, transport: str = "pci") -> BlockDevice:
    """Open the image and return the device over ``transport``.

    Raises:
        HostError: see ``Image``.
    """
    return BlockDevice.over(transport)(config, Image(config.image, readonly=config.readonly, direct=config.direct))
