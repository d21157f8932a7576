"""A virtio device: what a device declares, how its requests are served, and how it survives its process.

A device declares ``device_type``, ``features``, its queues and its config space (registers in ``device_config``), and
has one handler, ``request``, that gets a parsed chain. Negotiation, queues and interrupts are in
``devproc.virtio_transport``, registers in ``virtio_pci`` and ``virtio_mmio``, and what a vhost-user front-end sees in
``virtio_vhost_user``; nothing of it concerns a device, which is served ``over`` any of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

from devproc import rings, virtio_succession
from devproc.before import name_of
from devproc.registers import Register
from devproc.virtio_mmio import VirtioMmio
from devproc.virtio_pci import VirtioPci
from devproc.virtio_spec import Status
from devproc.virtio_transport import CONFIG_SPACE, VirtioTransport
from devproc.virtio_vhost_user import VirtioVhostUser
from devproc.virtqueue import Chain, Virtqueue
from protocol.errors import VersionMismatch

if TYPE_CHECKING:
    from devproc.before import Before

_BUDGET = 64  # requests served before the loop looks at the link again
_BATCH = 16  # used entries gathered before the guest sees them


TRANSPORTS: dict[str, type[VirtioTransport]] = {"pci": VirtioPci, "mmio": VirtioMmio}
VHOST_USER: dict[str, type[VirtioTransport]] = {"vhost-user": VirtioVhostUser}


class VirtioDevice(VirtioTransport):
    """Base of virtio devices."""

    @classmethod
    @functools.cache
    def over(cls, transport: str) -> type[Self]:
        """Return the class of this device over ``pci`` or ``mmio`` of a machine, or over ``vhost-user``."""
        body = {"__doc__": cls.__doc__, "__module__": cls.__module__}
        name = transport.title().replace("-", "")
        return type(f"{cls.__name__}Over{name}", (cls, (TRANSPORTS | VHOST_USER)[transport]), body)

    # life cycle

    def power_on(self) -> None:
        """Add the transport's state after power-on."""
        self.queues.clear()
        self._running = False
        super().power_on()
        self.state.version = self.state_version
        self.state.queue_count = self.queue_count
        self.reset_all()

    def recover(self) -> None:
        """Take over a predecessor's queues; replay is due, and both kinds of interrupt are raised once."""
        if self.state.version != self.state_version or self.state.queue_count != self.queue_count:
            raise VersionMismatch(f"private state of version {self.state.version}, this build has {self.state_version}")
        missing = self.negotiated & ~(self.offered | self.bears)
        if missing:
            raise VersionMismatch(f"the guest uses features {missing:#x}, gone from this build")
        for index, record in enumerate(self.records):
            if record.enabled:
                queue = self._make_queue(index)
                self.counters["replayed"] += queue.recover()
        self._show_features()
        self.show_queue()
        self._running = bool(self.device_status & Status.DRIVER_OK)
        if self._running:
            self.notify_config()
            for queue in self.queues.values():
                self.notify(queue)
        for queue in self.queues.values():
            if queue.broken:
                self.needs_reset(queue.broken)

    def resume(self) -> None:
        """Go on, and look at every queue: its doorbell may have rung meanwhile."""
        super().resume()
        self.pending.update(self.queues)

    def release(self) -> None:
        """Drop the queues and records too."""
        self.queues.clear()
        self.records = []
        self._running = False
        del self.state
        super().release()

    def queue_tables(self) -> list[dict[str, int]]:
        """Return one table per queue, for people; see org.busvm.Queues1."""
        tables = []
        for index, record in enumerate(self.records):
            table = {"index": index} | record.values()
            table["ready"] = table.pop("enabled")
            queue = self.queues.get(index)
            if queue is not None and not queue.broken:
                table |= queue.indices()
            tables.append(table)
        return tables

    # going on from another device (``devproc.virtio_succession``)

    def tables(self) -> dict[str, tuple[int, int]]:
        """Add what is in flight."""
        size = rings.stride(self.queue_max)
        mine = {f"inflight.{index}": (self._inflight_offset(index), size) for index in range(self.queue_count)}
        return super().tables() | mine

    def is_own(self, register: Register) -> bool:
        """Tell whether it is one of the config space."""
        return register.bar is CONFIG_SPACE

    def check_before(self, before: Before, *, same_class: bool) -> None:
        """Check features and rings; the class may be another."""
        virtio_succession.check(self, before)

    def compare(self, before: Before) -> None:
        """Compare config spaces."""
        virtio_succession.check_space(self, before)

    def adapt(self, before: Before) -> None:
        """Begin rings where another kind of device has left them, and store what the driver has set."""
        self.state.version = self.state_version
        virtio_succession.begin_rings(self, before)
        if before.layout.device != name_of(type(self)):
            for offset, value in virtio_succession.settings(self, before):
                self.set_space(offset, value)

    def set_space(self, offset: int, value: bytes) -> None:
        """Store what the driver of before had stored in the config space."""
        start = self.images[CONFIG_SPACE.index] + offset
        self.shared.u8[start : start + len(value)] = value

    def begin(self, index: int, position: int) -> None:
        """Have a queue begin at ``position`` of rings in which nothing is under way; ``recover`` goes on from there."""
        self._make_queue(index).start(position)
        del self.queues[index]

    # data

    def request(self, queue: Virtqueue, chain: Chain) -> None:
        """Serve one chain; ``finish`` it now or later. It may be a replay: serving it twice must be harmless."""
        self.finish(queue, chain.head, 0)

    def finish(self, queue: Virtqueue, head: int, written: int) -> None:
        """Return a chain of which ``written`` bytes were written; ``publish`` shows it to the guest."""
        self.finish_all(queue, ((head, written),))

    def finish_all(self, queue: Virtqueue, done: Iterable[tuple[int, int]]) -> None:
        """Return several chains: the head of each, and how many bytes were written."""
        if self.queues.get(queue.index) is not queue:
            return
        observer, order, push = self.observer, queue.order, queue.push
        for head, written in done:
            if observer:
                observer.done(self.machine.memory, queue.index, head, written)
            if order is None:
                push(head, written)
            else:
                for ready in order.returned(head, written):
                    push(*ready)

    def publish(self, queue: Virtqueue) -> None:
        """Show what was finished, and interrupt the guest if it wants that; a queue of before its reset has nothing."""
        if self.queues.get(queue.index) is queue and queue.publish():
            if self.observer:
                self.observer.interrupts(self.source(queue), queue.index)
            self.notify(queue)

    def take(self, queue: Virtqueue) -> Chain | None:
        """Take the next chain off a queue, or ``None``: none is there, or the queue is broken."""
        while (chain := queue.pop()) is not None:
            if self.observer:
                memory = self.machine.memory
                self.observer.taken(memory, queue.index, chain.head, chain.readable, chain.writable)
            if queue.order is not None:
                queue.order.took(chain.head)
            if self.faults is None or self.faults.requests.taken(queue, chain):
                break
        return chain

    def doorbell(self, index: int) -> bool:
        """Serve a queue until it is empty or stopped, or for so long that the link deserves a look."""
        queue = self.queues.get(index)
        if queue is None or queue.record.broken or not self._running or not self.bus_master:
            return False
        queue.quiet()
        for count in range(1, _BUDGET + 1):
            if index in self.stopped:
                break
            chain = self.take(queue)
            if chain is not None:
                self.request(queue, chain)
                if count % _BATCH == 0:
                    self.publish(queue)
                continue
            self.publish(queue)
            if queue.broken:
                self.needs_reset(queue.broken)
                return False
            if queue.listen():
                return False
        self.publish(queue)
        return index not in self.stopped
