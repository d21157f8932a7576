"""Conformance of any virtio device: what is offered, what is accepted, status and config space (virtio 1.2 §2, §3)."""

from __future__ import annotations

from devproc.virtio_spec import Feature, Status
from tests.conformance.sides import VERSION_1, BusSide, Side, VhostSide
from tests.conformance.subject import check

_RESERVED = range(43, 50)  # §6: reserved for future extensions


def test_it_is_a_virtio_1_device(virtio: Side) -> None:
    offered = virtio.offered()

    check(offered & VERSION_1, "virtio 1.2 §6.2: MUST offer VIRTIO_F_VERSION_1", "nothing", f"features {offered:#x}")


def test_it_offers_the_same_features_again(virtio: Side) -> None:
    first = virtio.offered()
    virtio.begin(VERSION_1)
    virtio.reset()

    check(virtio.offered() == first, "virtio 1.2 §2.2", "a reset", f"{virtio.offered():#x} after {first:#x}")


def test_any_set_of_features_with_version_1_is_accepted_one_by_one(virtio: Side) -> None:
    offered = virtio.offered()
    for bit in range(64):
        wanted = VERSION_1 | 1 << bit
        if offered >> bit & 1:
            accepted = virtio.try_features(wanted)
            check(accepted, "virtio 1.2 §3.1.1 step 6", f"features {wanted:#x}, which are offered", "refused")


def test_features_that_are_not_offered_are_not_accepted(virtio: Side) -> None:
    offered = virtio.offered()
    for bit in _RESERVED:
        if not offered >> bit & 1:
            accepted = virtio.try_features(VERSION_1 | 1 << bit)
            virtio.process.check_alive(f"feature {bit}, which is not offered")
            if isinstance(virtio, BusSide):  # vhost-user has no way to say no
                check(not accepted, "virtio 1.2 §2.2.2", f"feature {bit}, which is not offered", "FEATURES_OK")
    virtio.begin(VERSION_1)


def test_the_config_space_holds_still(virtio: Side) -> None:
    virtio.begin(VERSION_1)
    first = [virtio.config(offset, 4) for offset in range(0, 32, 4)]
    if not any(first):
        virtio.process.subject.lacks("a config space that can be read")
    again = [virtio.config(offset, 4) for offset in range(0, 32, 4)]

    check(first == again, "virtio 1.2 §2.5", "config space read twice", f"{first} and {again}")


def test_status_is_what_was_written_and_zero_after_a_reset(registers: BusSide, virtio: Side) -> None:
    virtio.begin(VERSION_1)
    status = registers.driver.status()
    expected = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
    check(status == expected, "virtio 1.2 §2.1", "initialisation up to DRIVER_OK", f"status {status:#x}")

    virtio.reset()
    check(registers.driver.status() == 0, "virtio 1.2 §2.1.2", "status 0", f"status {registers.driver.status():#x}")


def test_features_are_closed_after_features_ok(registers: BusSide, virtio: Side) -> None:
    driver = registers.driver
    virtio.begin(VERSION_1)
    driver.set("driver_feature_select", 0)
    driver.set("driver_feature", int(Feature.RING_INDIRECT_DESC))

    check(
        driver.status() & Status.FEATURES_OK, "virtio 1.2 §3.1.1", "features after FEATURES_OK", f"{driver.status():#x}"
    )


def test_queues_that_are_not_there_have_no_size(registers: BusSide, virtio: Side) -> None:
    driver = registers.driver
    driver.set("queue_select", 0)
    size = driver.get("queue_max")
    check(size and not size & (size - 1), "virtio 1.2 §2.7", "queue_select 0", f"a queue of {size}")
    driver.set("queue_select", 0xFFF0)
    check(
        driver.get("queue_max") == 0, "virtio 1.2 §4.1.4.3.2, §4.2.2.2", "queue_select 0xfff0", driver.get("queue_max")
    )


def test_a_queue_that_is_set_up_can_be_set_up_again(virtio: Side) -> None:
    for _ in range(5):
        virtio.begin(VERSION_1)
        virtio.reset()


def test_config_space_is_read_from_any_offset(vhost: VhostSide, virtio: Side) -> None:
    virtio.begin(VERSION_1)
    whole = virtio.config(0, 32)
    if not any(whole):
        virtio.process.subject.lacks("a config space that can be read")
    for offset in (4, 8, 12, 20):
        part = vhost.front.config(4, offset)
        sent = f"4 bytes at {offset} of {whole.hex()}"
        check(part == whole[offset : offset + 4], "vhost-user GET_CONFIG: offset", sent, part.hex())
