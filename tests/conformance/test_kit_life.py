"""Conformance of any device: how its process ends, and comes again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devproc.virtio_spec import Feature
from protocol.bus import BusError
from tests.conformance.disk import IN, OK, OUT, SECTOR, Disk, sector
from tests.conformance.fake_cpu import DEVICE1, FakeCpu
from tests.conformance.sides import VERSION_1, Side, VhostSide
from tests.conformance.subject import Process, Subject, check
from tests.conformance.test_kit_disk import read


def test_sigterm_ends_it_in_order(process: Process, subject: Subject, runtime: Path) -> None:
    if not subject.is_vhost_user:
        with FakeCpu(process.bus, runtime, device_id=process.device_id) as cpu:
            cpu.wait_for_device()
    status = process.terminate()

    clause = "QEMU's back-end conventions: SIGTERM ends it, with status 0"
    check(status == 0, clause, "SIGTERM", "it goes on" if status is None else f"status {status}")


def test_front_ends_come_and_go(vhost: VhostSide, virtio: Side) -> None:
    for _ in range(3):
        vhost.begin(VERSION_1)
        vhost.offered()
    vhost._hang_up()
    vhost._connect()
    check(
        vhost.offered() & VERSION_1, "vhost-user: one front-end after the other", "a fourth connection", "no features"
    )


def test_a_disk_that_was_killed_comes_again(disk: Side, scratch: Path) -> None:
    disk.begin(VERSION_1, size=16)
    drive = Disk(disk)
    check(read(drive, 5) == sector(5), "virtio 1.2 §5.2.6.2", "a read", "other data")
    for number in range(4):
        drive.submit(OUT, 20 + number, bytes([number + 1]) * SECTOR)
    if disk.keeps_requests:
        disk.kick(always=True)
    disk.process.kill()
    disk.process.start()
    disk.again()
    if not disk.keeps_requests:
        disk.kick(always=True)  # it takes what was not offered to its predecessor

    answers = drive.finished(count=4)
    check(
        len(answers) == 4,
        "vhost-user inflight I/O tracking",
        "4 writes, SIGKILL, a new process",
        f"{len(answers)} back",
    )
    check(all(a.status == OK for a in answers.values()), "virtio 1.2 §5.2.6.2", "4 writes", "not all OK")
    content = scratch.read_bytes()[20 * SECTOR : 24 * SECTOR]
    check(
        content == b"".join(bytes([n + 1]) * SECTOR for n in range(4)), "inflight I/O", "4 writes", "not in the image"
    )
    check(read(drive, 5) == sector(5), "virtio 1.2 §5.2.6.2", "a read thereafter", "other data")


@pytest.mark.parametrize("packed", [0, int(Feature.RING_PACKED)], ids=["split", "packed"])
def test_requests_under_way_outlive_it(disk: Side, packed: int) -> None:
    if packed & ~disk.offered():
        disk.process.subject.lacks("VIRTIO_F_RING_PACKED")
    disk.begin(VERSION_1 | packed, size=16)
    if not disk.keeps_requests:
        disk.process.subject.lacks("VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD")
    drive = Disk(disk)
    for life in range(4):
        for number in range(4):
            drive.submit(IN, 10 * life + number, length=SECTOR)
        disk.kick(always=True)
        time.sleep(0.0005 * life)
        disk.process.kill()
        disk.process.start()
        disk.again()
        answers = drive.finished(count=4)
        check(len(answers) == 4, "inflight I/O tracking", "4 reads and SIGKILL", f"{len(answers)} came back")


@pytest.fixture
def machine(subject: Subject, process: Process, bus_address: str, runtime: Path) -> Iterator[FakeCpu]:
    """Return a machine for a device of the bus, not attached yet."""
    with FakeCpu(bus_address, runtime, device_id=process.device_id) as cpu:
        yield cpu


def test_an_offer_that_cannot_be_is_refused_and_the_next_is_taken(machine: FakeCpu, subject: Subject) -> None:
    machine.wait_for_device()
    machine.prepare()
    offers: dict[str, dict[str, object]] = {
        "another version": {"version": 99},
        "no memory": {"ram": None},
        "a page that is larger than its object": {"page_size": 1 << 40},
        "no doorbells": {"doorbells": []} if machine._doorbells else {"link": None},
    }
    for what, changes in offers.items():
        refused = False
        try:
            machine.call(DEVICE1, "Attach", "a{sv}", machine.offer(**changes))
        except BusError:
            refused = True
        check(refused, "protocol.md Attach", what, "it was taken")
    machine.call(DEVICE1, "Attach", "a{sv}", machine.offer())
    check(machine.get("State") == "attached", "org.busvm.Device1.State", "a sound offer", machine.get("State"))


def test_what_the_page_holds_outlives_it(machine: FakeCpu, process: Process) -> None:
    machine.attach()
    before = machine.page.shared.bytes(0, machine.page.shared.size)
    process.kill()
    process.start()
    machine.forget_device()
    machine.attach()
    kinds = machine.page.bar(0).kinds or machine.page.bar(4).kinds
    after = machine.page.shared.bytes(0, machine.page.shared.size)
    check(
        before[kinds : kinds + 64] == after[kinds : kinds + 64], "protocol.md: registers", "SIGKILL, Attach", "others"
    )
