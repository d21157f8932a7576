"""Conformance of any virtio device: garbage in rings and messages ends no process and reaches no memory that is not a
buffer (virtio 1.2 §2.7; what a device does instead is its own choice: it may give up until it is reset).
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.driver_queue import DriverQueue
from devproc.packed_queue import DESC_AVAIL
from devproc.virtio_spec import Feature
from devproc.virtqueue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE
from protocol.errors import ProtocolError
from protocol.vhost_user.connection import HEADER
from protocol.vhost_user.front_end import event
from protocol.vhost_user.messages import FRONT_END, Request
from protocol.vhost_user.payloads import U64, VringAddr, VringState
from tests.conformance.disk import Disk, sector
from tests.conformance.fake_cpu import RAM_BASE
from tests.conformance.sides import RAM, UADDR, VERSION_1, Queue, Side, VhostSide
from tests.conformance.subject import check
from tests.conformance.test_kit_disk import read

INDIRECT, PACKED = int(Feature.RING_INDIRECT_DESC), int(Feature.RING_PACKED)
ARENA = RAM_BASE + (4 << 20)  # where garbage may point to
CANARY = RAM_BASE + (8 << 20)  # where it does not
SIZE = 16
_CANARIES = bytes(range(251)) * ((RAM_BASE + RAM - CANARY) // 251)

Descriptor = tuple[int, int, int, int]
BAD: dict[str, list[Descriptor]] = {
    "a buffer below memory": [(0x1000, 16, 0, 0)],
    "a buffer over the end of memory": [(RAM_BASE + RAM - 8, 16, 0, 0)],
    "a buffer around the top": [((1 << 64) - 8, 16, DESC_WRITE, 0)],
    "a huge length": [(ARENA, 0xFFFF_FFFF, DESC_WRITE, 0)],
    "a loop": [(ARENA, 16, DESC_NEXT, 1), (ARENA, 16, DESC_NEXT, 0)],
    "a next descriptor outside of the table": [(ARENA, 16, DESC_NEXT, 999)],
    "readable after writable": [(ARENA, 16, DESC_WRITE | DESC_NEXT, 1), (ARENA, 16, 0, 0)],
    "only readable": [(ARENA, 16, 0, 0)],
    "only writable": [(ARENA, 16, DESC_WRITE, 0)],
    "nothing": [(ARENA, 0, 0, 0)],
    "an indirect table outside of memory": [(0x10, 32, DESC_INDIRECT, 0)],
    "an indirect table of 17 bytes": [(ARENA, 17, DESC_INDIRECT, 0)],
    "an indirect table of nothing": [(ARENA, 0, DESC_INDIRECT, 0)],
    "an indirect table with a next descriptor": [(ARENA, 16, DESC_INDIRECT | DESC_NEXT, 1), (ARENA, 16, 0, 0)],
}
Attack = Callable[[Queue], None]


def offer(queue: Queue, descriptors: list[Descriptor]) -> None:
    """Write descriptors from 0 on, and offer the first; in a packed ring, one after the other."""
    if not isinstance(queue, DriverQueue):
        return queue.offer(0, [(address, length, flags & ~DESC_NEXT) for address, length, flags, _ in descriptors])
    for index, (address, length, flags, following) in enumerate(descriptors):
        queue.describe(queue.desc + 16 * index, address, length, flags, following)
    return queue.offer(0)


def far_ahead(queue: Queue) -> None:
    """Say that more is available than the ring can hold."""
    assert isinstance(queue, DriverQueue)
    queue.store(queue.avail + 2, 2, 0x4000)


def no_such_head(queue: Queue) -> None:
    """Offer a head that is no descriptor."""
    assert isinstance(queue, DriverQueue)
    queue.offer(4000)


ATTACKS: dict[str, Attack] = {what: partial(offer, descriptors=table) for what, table in BAD.items()} | {
    "an available index far ahead": far_ahead,
    "a head outside of the table": no_such_head,
}


def endless(queue: Queue) -> None:
    """Make all descriptors of a packed ring available as one chain that never ends."""
    for index in range(queue.size):
        queue.store(queue.desc + 16 * index, 8, ARENA)
        queue.store(queue.desc + 16 * index + 8, 8, 16 | (DESC_NEXT | DESC_AVAIL) << 48)


PACKED_ATTACKS: dict[str, Attack] = {
    what: attack for what, attack in ATTACKS.items() if attack not in (far_ahead, no_such_head)
} | {"a chain without an end": endless}


def survives(side: Side, attack: Attack, what: str, *, packed: int = 0) -> None:
    """Do something bad to a fresh queue; look at the process, at the canaries, and whether it works after a reset."""
    side.begin(VERSION_1 | INDIRECT | packed, size=SIZE)
    side.memory.write(CANARY, _CANARIES)
    side.memory.write(ARENA, b"\x11" * 4096)
    attack(side.queues[0])
    side.ring()
    side.settle(what)
    intact = side.memory.read(CANARY, len(_CANARIES)) == _CANARIES
    check(intact, "virtio 1.2 §2.7.5: only buffers are written", what, "a write to memory that is no buffer")


def works(side: Side, what: str) -> None:
    """Reset, and do something sensible."""
    side.begin(VERSION_1, size=SIZE)
    if side.process.subject.is_disk:
        check(read(Disk(side), 3) == sector(3), "virtio 1.2 §2.4", f"{what}, then a reset", "other data")


@pytest.mark.parametrize("what", ATTACKS)
def test_a_bad_ring_harms_nobody(virtio: Side, what: str) -> None:
    survives(virtio, ATTACKS[what], what)
    works(virtio, what)


@pytest.mark.parametrize("what", PACKED_ATTACKS)
def test_a_bad_packed_ring_harms_nobody(virtio: Side, what: str) -> None:
    if not virtio.offered() & PACKED:
        virtio.process.subject.lacks("VIRTIO_F_RING_PACKED")
    survives(virtio, PACKED_ATTACKS[what], what, packed=PACKED)
    works(virtio, what)


def test_descriptors_at_random(virtio: Side) -> None:
    chance = random.Random(11)
    places = [ARENA, ARENA + 4080, RAM_BASE + RAM - 16, 0, (1 << 64) - 16]
    for number in range(60):
        table = [
            (
                chance.choice(places) + chance.randrange(16),
                chance.choice((0, 1, 16, 512, 0xFFFF_FFFF)) if chance.random() < 0.3 else chance.randrange(64),
                chance.choice((0, 1, 2, 3, 3, 1, 4, 5, 0xFFFF)),
                chance.randrange(SIZE + 2),
            )
            for _ in range(SIZE)
        ]
        table = [(a, n, f, x) if a < RAM_BASE + RAM - 16 or n <= 16 else (a, 8, f, x) for a, n, f, x in table]
        inside = [(a, min(n, CANARY - a) if ARENA <= a < CANARY else n, f, x) for a, n, f, x in table]
        survives(virtio, partial(offer, descriptors=inside), f"table {number}")
    works(virtio, "sixty tables at random")


def test_rings_in_places_that_are_none(vhost: VhostSide, virtio: Side) -> None:
    for desc, avail, used in (
        (UADDR - 4096, UADDR, UADDR + 4096),
        (UADDR, UADDR + RAM - 2, UADDR + 4096),
        (UADDR, UADDR + 4096, (1 << 64) - 64),
        (UADDR + 8, UADDR + 4097, UADDR + 8194),
        (0, 0, 0),
    ):
        vhost.begin(VERSION_1, size=SIZE)
        kick = event()
        try:
            vhost.stop(0)
            vhost.front.tell(Request.SET_VRING_NUM, VringState(0, SIZE))
            vhost.front.tell(Request.SET_VRING_ADDR, VringAddr(0, 0, desc, used, avail, 0))
            vhost.front.tell(Request.SET_VRING_KICK, U64(0), [kick])
            os.eventfd_write(kick, 1)
        except ProtocolError:
            pass  # it may refuse, or hang up
        finally:
            os.close(kick)
        vhost.settle(f"rings at {desc:#x}, {avail:#x}, {used:#x}")
    works(vhost, "rings in places that are none")


def send(vhost: VhostSide, messages: list[bytes], fds: int) -> None:
    """Send bytes on a new connection, each with descriptors; close, and see whether the process lives."""
    vhost._anew()
    sock, fd = vhost.front.connection.socket, event()
    sock.settimeout(1.0)
    try:
        for data in messages:
            socket.send_fds(sock, [data], [fd] * fds)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    except OSError:
        pass
    finally:
        os.close(fd)
    told = [f"{Request(data[0]).name if data[0] in FRONT_END else data[0]} {data[4:].hex()}" for data in messages]
    vhost.probe(f"{', '.join(told)}, each with {fds} descriptors")


def test_any_bytes_on_the_socket(vhost: VhostSide) -> None:
    number = st.one_of(st.sampled_from(sorted(map(int, Request))), st.integers(0, 60))
    message = st.builds(
        lambda n, flags, body: HEADER.pack(n, flags | 1, len(body)) + body,
        number,
        st.sampled_from([0, 8, 4]),
        st.one_of(st.binary(max_size=48), st.integers(0, 1 << 9).map(lambda n: n.to_bytes(8, "little"))),
    )
    bad: list[tuple[list[bytes], int]] = []

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(st.lists(message, max_size=6), st.binary(min_size=1, max_size=20), st.integers(0, 2))
    def attack(messages: list[bytes], tail: bytes, fds: int) -> None:
        if bad:
            return
        try:
            send(vhost, [*messages, tail], fds)
        except pytest.fail.Exception:
            bad.append(([*messages, tail], fds))

    attack()
    for messages, fds in bad:
        for alone in messages:  # most often one of them suffices
            send(vhost, [alone], fds)
        send(vhost, messages, fds)
        check(False, "a peer must not end the process", f"{messages}", "a crash, once")
    works(vhost, "messages at random")


def test_a_message_in_pieces(vhost: VhostSide, virtio: Side) -> None:
    vhost._anew()
    sock = vhost.front.connection.socket
    data = HEADER.pack(Request.GET_FEATURES, 1, 0)
    for byte in data:
        sock.send(bytes([byte]))
    answer = b""
    try:
        while len(answer) < 20 and (part := sock.recv(20)):
            answer += part
    except TimeoutError:
        pass
    check(len(answer) == 20, "vhost-user: a stream has no records", "GET_FEATURES byte by byte", f"{len(answer)} bytes")
