"""Conformance of a block device: requests on every kind of ring, against the image (virtio 1.2 §2.7, §5.2)."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.driver_queue import DriverQueue
from devproc.virtio_spec import Feature
from tests.conformance.disk import F_FLUSH, F_MQ, GET_ID, IN, IOERR, OK, OUT, SECTOR, UNSUPP, Answer, Disk, sector
from tests.conformance.sides import VERSION_1, Side, VhostSide
from tests.conformance.subject import SECTORS, Subject, check

INDIRECT, EVENT_IDX = int(Feature.RING_INDIRECT_DESC), int(Feature.RING_EVENT_IDX)
PACKED = int(Feature.RING_PACKED)
RINGS = {
    "split": 0,
    "indirect": INDIRECT,
    "event_idx": EVENT_IDX,
    "indirect-event_idx": INDIRECT | EVENT_IDX,
    "packed": PACKED,
    "packed-indirect-event_idx": PACKED | INDIRECT | EVENT_IDX,
}


@pytest.fixture(params=RINGS)
def rings(request: pytest.FixtureRequest, disk: Side) -> int:
    """Return the features of one kind of ring, if the device offers them."""
    wanted = RINGS[request.param]
    if wanted & ~disk.offered():
        disk.process.subject.lacks(request.param)
    return VERSION_1 | F_FLUSH | wanted


def read(disk: Disk, number: int, count: int = 1, cuts: tuple[int, ...] = ()) -> bytes:
    """Return sectors, which must be readable."""
    answer = disk.do(IN, number, length=count * SECTOR, cuts=cuts)
    check(answer.status == OK, "virtio 1.2 §5.2.6.2", f"read of {count} at sector {number}", f"status {answer.status}")
    expected = count * SECTOR + 1
    check(answer.written == expected, "virtio 1.2 §2.7.8.2: len", f"read of {count}", f"{answer.written} bytes written")
    return answer.data


def test_the_capacity_is_the_image_s(disk: Side) -> None:
    disk.begin(VERSION_1)
    found = int.from_bytes(disk.config(0, 8) or disk.config(0, 4) + disk.config(4, 4), "little")

    check(found == SECTORS, "virtio 1.2 §5.2.4 capacity", f"an image of {SECTORS} sectors", found)


def test_reads_and_writes_reach_the_image(disk: Side, rings: int, scratch: Path) -> None:
    disk.begin(rings)
    drive = Disk(disk)
    data = os.urandom(5 * SECTOR)

    check(read(drive, 7) == sector(7), "virtio 1.2 §5.2.6.2", "read of sector 7", "something else")
    answer = drive.do(OUT, 100, data)
    check(answer.status == OK, "virtio 1.2 §5.2.6.2", "write at sector 100", f"status {answer.status}")
    check(answer.written == 1, "virtio 1.2 §2.7.8.2: len", "write", f"{answer.written} bytes written")
    check(
        read(drive, 99, 7) == sector(99) + data + sector(105), "virtio 1.2 §5.2.6.2", "read after write", "other data"
    )
    check(drive.do(4).status == OK, "virtio 1.2 §5.2.6.2 VIRTIO_BLK_T_FLUSH", "flush", "not OK")
    check(
        scratch.read_bytes()[100 * SECTOR : 105 * SECTOR] == data,
        "virtio 1.2 §5.2.6.2",
        "write, flush",
        "not in the image",
    )


def test_buffers_in_many_pieces(disk: Side, rings: int) -> None:
    disk.begin(rings)
    drive = Disk(disk)
    data = os.urandom(4 * SECTOR)
    cuts = (1, 17, 512, 600, 1300, 1301)

    check(drive.do(OUT, 50, data, cuts=cuts).status == OK, "virtio 1.2 §2.7.4.2", f"write cut at {cuts}", "not OK")
    check(read(drive, 50, 4, cuts=(3, 511, 1025)) == data, "virtio 1.2 §2.7.4.2", "read in pieces", "other data")


def test_identity_is_twenty_bytes(disk: Side) -> None:
    disk.begin(VERSION_1)
    answer = Disk(disk).do(GET_ID, length=20)

    check(answer.status in (OK, UNSUPP), "virtio 1.2 §5.2.6.2 VIRTIO_BLK_T_GET_ID", "GET_ID", f"status {answer.status}")


def test_what_is_not_on_the_disk_is_refused(disk: Side, scratch: Path) -> None:
    disk.begin(VERSION_1)
    drive = Disk(disk)
    before = scratch.read_bytes()
    for kind in (IN, OUT):
        for place in (SECTORS, SECTORS - 1, (1 << 63) // SECTOR, (1 << 64) - 1):
            data = bytes(2 * SECTOR)
            answer = drive.do(kind, place, data if kind == OUT else b"", 0 if kind == OUT else 2 * SECTOR)
            sent = f"{'write' if kind == OUT else 'read'} of 2 at sector {place:#x} of {SECTORS}"
            check(answer.status == IOERR, "virtio 1.2 §5.2.6.2: beyond capacity", sent, f"status {answer.status}")
    check(drive.do(0x7777).status == UNSUPP, "virtio 1.2 §5.2.6.2: unknown type", "type 0x7777", "not UNSUPP")

    check(read(drive, SECTORS - 1) == sector(SECTORS - 1), "virtio 1.2 §5.2.6.2", "the last sector", "other data")
    check(scratch.read_bytes() == before, "virtio 1.2 §5.2.6.2", "writes beyond the end", "a changed image")


def test_rings_go_round(disk: Side, rings: int) -> None:
    disk.begin(rings, size=8)
    drive = Disk(disk)
    for number in range(100):
        check(
            read(drive, number) == sector(number), "virtio 1.2 §2.7", f"request {number} of a ring of 8", "other data"
        )


def test_indices_wrap_at_65536(vhost: VhostSide, disk: Side) -> None:
    vhost.begin(VERSION_1, size=16, base=0xFFF0)
    drive = Disk(vhost)
    for number in range(50):
        check(read(drive, number) == sector(number), "virtio 1.2 §2.7.6", f"index {0xFFF0 + number:#x}", "other data")
    position = vhost.stop(0)
    check(position == (0xFFF0 + 50) & 0xFFFF, "vhost-user GET_VRING_BASE", "50 requests from 0xfff0", f"{position:#x}")


def test_a_full_ring_and_a_slow_driver(disk: Side, rings: int) -> None:
    disk.begin(rings, size=16)
    drive = Disk(disk)
    heads: dict[int, int] = {}
    while (head := drive.submit(IN, len(heads), length=SECTOR)) is not None:
        heads[head] = len(heads)
        if len(heads) == drive.queue.size:
            break
    disk.kick()
    time.sleep(0.2)

    answers = drive.finished(count=len(heads))
    check(
        set(answers) == set(heads),
        "virtio 1.2 §2.7.8",
        f"{len(heads)} requests at once",
        f"{len(answers)} used entries",
    )
    for head, answer in answers.items():
        check(answer.data == sector(heads[head]), "virtio 1.2 §5.2.6.2", f"sector {heads[head]}", "other data")


def test_the_driver_is_told_when_it_asked_to_be(disk: Side) -> None:
    if not disk.offered() & EVENT_IDX:
        disk.process.subject.lacks("VIRTIO_F_EVENT_IDX")
    disk.begin(VERSION_1 | EVENT_IDX)
    drive = Disk(disk)
    queue = drive.queue
    assert isinstance(queue, DriverQueue)
    for ahead in (1, 3, 7):
        while disk.wait(0, 0):
            pass
        used = queue.load(queue.used + 2, 2)
        queue.store(queue.avail + 4 + 2 * queue.size, 2, used + ahead - 1 & 0xFFFF)  # used_event
        for number in range(ahead):
            drive.submit(IN, number, length=SECTOR)
        disk.kick(always=True)
        told = disk.wait(0, 5.0)
        check(told, "virtio 1.2 §2.7.7.2", f"used_event {ahead - 1} ahead, {ahead} requests", "no notification in 5 s")
        drive.finished(count=ahead)


def test_all_queues_serve(disk: Side) -> None:
    offered = disk.offered()
    disk.begin(VERSION_1 | F_MQ)
    count = int.from_bytes(disk.config(34, 2), "little") if offered & F_MQ else 1
    count = min(count, 4)
    disk.begin(VERSION_1 | F_MQ, queues=count)
    drives = [Disk(disk, index) for index in range(count)]
    for number, drive in enumerate(drives):
        check(read(drive, number) == sector(number), "virtio 1.2 §5.2.2", f"a read on queue {number}", "other data")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 63), st.integers(1, 8), st.lists(st.integers(1, 4096), max_size=3)),
        st.tuples(st.just("write"), st.integers(0, 63), st.integers(1, 8), st.lists(st.integers(1, 4096), max_size=3)),
        st.tuples(st.just("kick")),
        st.tuples(st.just("collect")),
        st.tuples(st.just("sleep")),
        st.tuples(st.just("reset")),
    ),
    max_size=25,
)


def test_any_sequence_of_requests_is_what_one_after_the_other_would_be(disk: Side, rings: int, scratch: Path) -> None:
    seeds = random.Random(1)
    model = {number: sector(number) for number in range(80)}

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(STEPS)
    def run(steps: list[tuple]) -> None:  # type: ignore[type-arg]
        disk.begin(rings, size=16)
        drive = Disk(disk)
        expected: dict[int, bytes | None] = {}
        busy: dict[int, set[int]] = {}

        def settle(answers: dict[int, Answer]) -> None:
            for head, answer in answers.items():
                want = expected.pop(head)
                busy.pop(head)
                check(answer.status == OK, "virtio 1.2 §5.2.6.2", f"one of {steps}", f"status {answer.status}")
                check(want is None or answer.data == want, "virtio 1.2 §5.2.6.2", f"a read in {steps}", "other data")

        def finish() -> None:
            while expected:
                disk.kick(always=True)
                answers = drive.finished()
                check(answers, "virtio 1.2 §2.7.8", f"{steps}", f"{len(expected)} requests never came back")
                settle(answers)

        for step, *rest in steps:
            if step in ("read", "write"):
                place, count, cuts = rest
                sectors = set(range(place, place + count))
                if any(sectors & other for other in busy.values()):
                    finish()
                data = seeds.randbytes(count * SECTOR) if step == "write" else b""
                head = drive.submit(OUT if data else IN, place, data, 0 if data else count * SECTOR, cuts)
                if head is None:
                    finish()
                    continue
                busy[head] = sectors
                expected[head] = None if data else b"".join(model[number] for number in sorted(sectors))
                for number in sectors if data else ():
                    model[number] = data[(number - place) * SECTOR : (number - place + 1) * SECTOR]
            elif step == "kick":
                disk.kick()
            elif step == "collect":
                settle(drive.finished(count=0, timeout_s=0))
            elif step == "sleep":
                time.sleep(0.002)
            else:
                finish()
                disk.begin(rings, size=16)
                drive = Disk(disk)
        finish()

    run()
    disk.reset()
    content = scratch.read_bytes()
    check(
        content[: 80 * SECTOR] == b"".join(model.values()), "virtio 1.2 §5.2.6.2", "all those writes", "another image"
    )


def test_a_reset_under_load_ends_all_access_to_memory(disk: Side, subject: Subject) -> None:
    for size in (16, 64):
        disk.begin(VERSION_1, size=size)
        drive = Disk(disk)
        for number in range(size // 4):
            drive.submit(IN, number, length=SECTOR)
        disk.kick(always=True)
        disk.reset()
        base, end = drive.queue.desc, disk.place(1)
        disk.memory.write(base, b"\x5a" * (end - base))
        time.sleep(0.1)

        found = disk.memory.read(base, end - base) or b""
        at = next((at for at, byte in enumerate(found) if byte != 0x5A), None)
        check(at is None, "virtio 1.2 §2.4.1", f"a reset with {size // 4} reads under way", f"a write at {at} after it")
    disk.begin(VERSION_1)
    check(read(Disk(disk), 3) == sector(3), "virtio 1.2 §2.4", "a reset under load", "other data thereafter")
