"""Which kind of virtqueue has been agreed on, and what both kinds need in a device's page."""

from __future__ import annotations

from devproc.inflight import InflightTable
from devproc.packed_inflight import PackedInflight
from devproc.packed_queue import PackedQueue
from devproc.split_queue import SplitQueue
from devproc.virtio_spec import Feature
from devproc.virtqueue import QueueRecord, Virtqueue
from protocol.memory import GuestMemory, Shared

RingKind = type[SplitQueue] | type[PackedQueue]


def kind(features: int) -> RingKind:
    """Return the kind of all queues of a device with these features in force."""
    return PackedQueue if features & Feature.RING_PACKED else SplitQueue


def stride(entries: int) -> int:
    """Return the distance of in-flight tables of which nobody knows yet of what kind they will be."""
    return -(-max(InflightTable.size(entries), PackedInflight.size(entries)) // 64) * 64


def make_queue(
    features: int, index: int, memory: GuestMemory, record: QueueRecord, table: tuple[Shared, int]
) -> Virtqueue:
    """Return a queue whose in-flight table is at an offset of shared memory."""
    if features & Feature.RING_PACKED:
        return PackedQueue(index, memory, record, PackedInflight(*table))
    return SplitQueue(index, memory, record, InflightTable(*table))
