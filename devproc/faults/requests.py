"""Faults of virtio requests: where chains are taken off a queue, and where they are given back.

Data that the device reads is changed in the guest's own memory for as long as the request takes, and changed back
before the guest has it again: there is no other place that every device reads from.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

from devproc.faults.rule import COMPARISONS, Kind, Place, Rule
from devproc.faults.rules import Active
from devproc.in_order import InOrder
from devproc.tracing import Places, leading
from devproc.virtqueue import Chain, Virtqueue

if TYPE_CHECKING:
    from devproc.faults.faults import Faults
    from devproc.virtio import VirtioDevice

_PAUSED_MS = 10.0  # how soon to look again whether a paused device goes on


class Mark:
    """What is to happen to a request when it is done."""

    def __init__(self, chain: Chain) -> None:
        self.writable = list(chain.writable)
        self.delay_ms = 0.0
        self.twice = False
        self.flipped: list[tuple[int, int]] = []
        """Bytes of what the device reads that are other than the guest wrote them: place in RAM, bits."""
        self.corrupt: list[tuple[Rule, int]] = []
        """Rules about what the device writes, and the number of the occasion."""
        self.stop: list[Active] = []
        self.plain = True
        """Whether nothing is."""


class Detour(InOrder):
    """Stands in the place of a queue's order while something is to happen to requests of the queue."""

    def __init__(self, requests: Requests, queue: Virtqueue) -> None:
        super().__init__()
        self._requests = requests
        self._queue = queue
        self.before = queue.order

    def took(self, head: int) -> None:
        """Note that ``head`` was taken."""
        if self.before is not None:
            self.before.took(head)

    def returned(self, head: int, written: int) -> Iterator[tuple[int, int]]:
        """Note that ``head`` is done, and give out what may go back to the guest now."""
        if not self._requests.finished(self._queue, head, written):
            return
        if self.before is None:
            yield head, written
        else:
            yield from self.before.returned(head, written)


class Requests:
    """Stands between queues and device."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._marks: dict[Virtqueue, dict[int, Mark]] = {}
        self._late: dict[tuple[Virtqueue, int], int] = {}  # done, and put off: the bytes that were written

    @property
    def marked(self) -> bool:
        """Whether requests are under way that something is to happen to."""
        return any(self._marks.values())

    @property
    def _device(self) -> VirtioDevice:
        return cast("VirtioDevice", self._faults.device)

    def forget(self) -> None:
        """Begin with another machine; what the device reads is again what the guest wrote."""
        for marks in self._marks.values():
            for mark in marks.values():
                self._flip(mark.flipped)
        self._marks.clear()
        self._late.clear()

    # taking

    def taken(self, queue: Virtqueue, chain: Chain) -> bool:
        """Return whether the device gets a chain that was taken off a queue."""
        rules = self._faults.rules
        header = leading(self._device.machine.memory, chain.readable, rules.declared.header)
        about = [active for active in rules.at(Place.REQUEST) if self._about(active.rule, queue.index, header)]
        struck = [active for active in about if self._faults.strikes(active)]
        end = next((active.rule for active in struck if active.rule.kind in (Kind.DROP, Kind.ERROR)), None)
        if end is not None and end.kind is Kind.DROP:
            return False
        mark = Mark(chain)
        for active in struck:
            if end is None or active.rule.kind is not Kind.CORRUPT:
                self._note(mark, active, chain)
        if not mark.plain:
            self._purge()
            self._marks.setdefault(queue, {})[chain.head] = mark
            if not isinstance(queue.order, Detour):
                queue.order = Detour(self, queue)  # which costs nothing where it is not
        if end is not None:
            self._answer(queue, chain, end)
        return end is None

    def _about(self, rule: Rule, index: int, header: bytes) -> bool:
        declared = self._faults.rules.declared
        if rule.queue is not None and rule.queue not in (index, self._device.queue_role(index)):
            return False
        for name, comparison, wanted in rule.where:
            word = declared.fields[name]
            if word.offset + word.width > len(header):
                return False
            value = int.from_bytes(header[word.offset : word.offset + word.width], "little")
            if not COMPARISONS[comparison](value, wanted):
                return False
        return True

    def _note(self, mark: Mark, active: Active, chain: Chain) -> None:
        rule = active.rule
        if rule.kind is Kind.DELAY:
            mark.delay_ms += rule.ms
        elif rule.kind is Kind.DUPLICATE:
            mark.twice = True
        elif rule.kind is Kind.CORRUPT:
            size = chain.readable_size - self._faults.rules.declared.header
            if rule.of == "read" or (not rule.of and size > 0):
                flips = _places(chain.readable, self._faults.rules.declared.header, rule.flips(active.seen, size))
                self._flip(flips)
                mark.flipped += flips
            else:
                mark.corrupt.append((rule, active.seen))
        elif rule.done:
            mark.stop.append(active)
        else:
            return  # it has frozen, and goes on; or it is an error, for which nothing is to be kept in mind
        mark.plain = False

    def _answer(self, queue: Virtqueue, chain: Chain, rule: Rule) -> None:
        """Return a request that was not done, with a status at the end of its answer."""
        declared, device = self._faults.rules.declared, self._device
        word = declared.status()
        assert word is not None
        status = rule.status
        if status is None:
            status = next(int(member) for member in word.names or () if int(member))
        start = chain.writable_size - declared.answer
        if start >= 0:
            answer = dict(enumerate(status.to_bytes(word.width, "little")))
            for at, value in _places(chain.writable, start + word.offset, answer):
                device.machine.memory.ram.u8[at] = value
        device.counters["failed_by_faults"] += 1
        device.finish(queue, chain.head, min(chain.writable_size, declared.answer))

    # giving back

    def finished(self, queue: Virtqueue, head: int, written: int) -> bool:
        """Return whether a request that the device has done goes back to the guest now; otherwise it does later."""
        mark = self._marks.get(queue, {}).pop(head, None)
        if mark is None:
            return True
        self._flip(mark.flipped)
        self._corrupt(mark, written)
        for active in mark.stop:
            self._faults.stop(active)
        if mark.twice:
            self._faults.after(mark.delay_ms, partial(self._again, queue))
        if mark.delay_ms:
            self._late[queue, head] = written
            self._faults.after(mark.delay_ms, partial(self._give_back, queue, head))
        if isinstance(queue.order, Detour) and not self._marks[queue]:
            queue.order = queue.order.before
            self._faults.rest()
        return not mark.delay_ms

    def _corrupt(self, mark: Mark, written: int) -> None:
        size = min(written, sum(length for _, length in mark.writable)) - self._faults.rules.declared.answer
        for rule, seen in mark.corrupt:
            self._flip(_places(mark.writable, 0, rule.flips(seen, size)))

    def hurry(self, queue: Virtqueue) -> None:
        """Give back now what was to come later: the queue is about to be stopped."""
        for other, head in list(self._late):
            if other is queue:
                self._give_back(queue, head)

    def _give_back(self, queue: Virtqueue, head: int) -> None:
        device = self._device
        if device.quiesced:
            self._faults.after(_PAUSED_MS, partial(self._give_back, queue, head))
            return
        written = self._late.pop((queue, head), None)
        if written is None or device.queues.get(queue.index) is not queue:
            return
        order = queue.order.before if isinstance(queue.order, Detour) else queue.order
        for ready in ((head, written),) if order is None else order.returned(head, written):
            queue.push(*ready)
        device.publish(queue)

    def _again(self, queue: Virtqueue) -> None:
        if self._device.queues.get(queue.index) is queue:
            self._device.notify(queue)

    # memory

    def _flip(self, places: list[tuple[int, int]]) -> None:
        memory = self._device.machine.memory.ram.u8
        for at, bits in places:
            memory[at] ^= bits

    def _purge(self) -> None:
        """Forget requests of queues that were reset."""
        gone = [queue for queue in self._marks if self._device.queues.get(queue.index) is not queue]
        for queue in gone:
            del self._marks[queue]


def _places(buffers: Places, start: int, values: dict[int, int]) -> list[tuple[int, int]]:
    """Return where in RAM bytes of these buffers are, counted from ``start`` on: place and value."""
    found = []
    for index, value in values.items():
        offset = start + index
        for at, length in buffers:
            if offset < length:
                found.append((at + offset, value))
                break
            offset -= length
    return found
