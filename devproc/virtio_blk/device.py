"""The virtio block device (virtio 1.2 §5.2): its life, its limits, and what becomes of what the host refuses.

A request is started (``transfers``) at once or when the limits allow (``throttle``); its result comes back through
``_collect``. What the host refuses becomes a status and a counter, or pauses the machine.
"""

from __future__ import annotations

import errno
import logging
import select
import time
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

from devproc.throttle import Throttle, Waiting
from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.backing import CANNOT, NO_SPACE, Backing, Shorter
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.overlay import Overlay
from devproc.virtio_blk.requests import Request, take
from devproc.virtio_blk.spec import S_IOERR, S_OK, S_UNSUPP
from devproc.virtio_blk.transfers import BlkState, BlockTransfers
from devproc.virtqueue import Chain, Virtqueue
from protocol.errors import BusvmError, HostError
from protocol.layout import DevicePage
from protocol.log import RateLimit

logger = logging.getLogger(__name__)

VHOST_USER = "vhost-user"  # the transport


class BlockDevice(BlockTransfers):
    """A disk."""

    state_version = 3

    def __init__(self, config: Config, image: Backing, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(config, image)
        self.last_error = ""
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

    def settle(self) -> None:
        """Start what the limits hold back, too."""
        self.hurry()
        super().settle()

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
            self.measure()
            self.config_changed()

    @property
    def waiting(self) -> int:
        """Requests that wait for the limits, or for space on the host."""
        return len(self._stuck) + (len(self._waiting.requests) if self._waiting else 0)

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
            self.start(request)

    # limits

    def _let_go(self) -> None:
        """Start what the limits allow; a stopped device starts nothing."""
        if self._waiting and not self.quiesced:
            queues = set()
            for request in self._waiting.ready():
                self.start(request)
                queues.add(request.queue)
            for queue in queues:  # the one in hand is not the only one that may have waited
                self.publish(queue)

    def _rang(self) -> None:
        if self._waiting:
            self._waiting.alarm.acknowledge()
            self.counters["waits_for_limits"] += 1
            self._let_go()

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
            self.answer(request, status)
            touched.add(request.queue)
        for queue in touched:
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
        if self.durability.failure or self.config.on_error != "pause":
            return False
        if not self.ask_pause(f"{self.image.path}: {self.last_error}"):
            return False
        self.counters["waited_for_space"] += 1
        self._stuck.append(request)
        return True

    def refresh(self) -> None:
        """Look how long the image is now; that it became shorter is logged, and the disk stays as it was."""
        try:
            self.resize(0)
        except BusvmError as error:
            logger.warning("%s", error.message)

    def hurry(self) -> None:
        """Start what the limits hold back: a queue is about to be stopped, with all its requests done."""
        if self._waiting:
            held = list(self._waiting.requests)
            self._waiting.requests.clear()
            for request in held:
                self.start(request)
            for queue in {request.queue for request in held}:
                self.publish(queue)

    def claim(self) -> None:
        """Take the image, which another process may have had; it may be longer now.

        Raises:
            HostError: it has it still, or the image became shorter.
        """
        if self._file is None:
            return
        if self.transport != VHOST_USER:
            self._file.lock()
        elif self.config.handover:
            self._file.lock()
            self.resize(0)

    def unclaim(self) -> None:
        """Let another process have the image; a front-end's on another host, with everything that was written."""
        if self._file is None:
            return
        if self.transport != VHOST_USER:
            self._file.unlock(durable=False)
        elif self.config.handover:
            try:
                self._file.unlock()
            except OSError as error:
                self._refused(error)

    @property
    def _file(self) -> Image | None:
        """The image, where it is a file, which one process has at a time."""
        found = self.image.base if isinstance(self.image, Overlay) else self.image
        return found if isinstance(found, Image) else None

    def bound(self) -> str:
        """Return why no other type of disk can go on from this one."""
        return "its changes end with its process (snapshot = true)" if isinstance(self.image, Overlay) else ""

    def retry(self) -> None:
        """The machine goes on: try what had no space once more."""
        stuck, self._stuck = self._stuck, []
        for request in stuck:
            self.start(request)
        for queue in {request.queue for request in stuck}:
            self.publish(queue)

    def give_up(self) -> None:
        """The machine could not be paused: report what had no space."""
        stuck, self._stuck = self._stuck, []
        for request in stuck:
            self.answer(request, S_IOERR)
        for queue in {request.queue for request in stuck}:
            self.publish(queue)

    def drain(self) -> None:
        """Wait for the image and return everything to the guest."""
        while self.pool.busy:
            self._poll.poll()
            self._collect()

    @property
    def saves(self) -> bool:
        """Whether changes end with this process; what is in the image is there for another."""
        return isinstance(self.image, Overlay)

    def save(self, file: BinaryIO) -> None:
        """Write which content of the image the page goes with, and changes that end with this process."""
        from devproc.virtio_blk import saved

        saved.save(self.image, file)

    def load(self, file: BinaryIO) -> None:
        """Check the one and take over the others."""
        from devproc.virtio_blk import saved

        saved.load(self.image, file)

    def close(self) -> None:
        """End the threads and close the image."""
        self.pool.close()
        if self._waiting:
            self._waiting.alarm.close()
        self.image.close()


def open_device(config: Config, transport: str = "pci", *, lock: bool = True) -> BlockDevice:
    """Open the image and return the device over ``transport``; without ``lock`` another process has the image still.

    Raises:
        HostError: see ``Image`` and ``Overlay``.
        ConfigError: likewise.
    """
    image = Image(
        config.image,
        readonly=config.readonly or config.snapshot,
        direct=config.cache == "none",
        block=config.block_size,
        lock=lock and not config.handover,
    )
    return BlockDevice.over(transport)(config, Overlay(image) if config.snapshot else image)
