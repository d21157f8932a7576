"""A disk that another kind of virtio disk goes on from, and the other way round: what the driver was told must hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devproc.before import Before, Layout
from devproc.machine import Machine
from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.device import BlockDevice
from devproc.virtio_blk.prompt import Disk
from devproc.virtio_blk.spec import BlkFeature, Type
from devproc.virtio_spec import Feature
from protocol.errors import ConfigError, HostError, VersionMismatch
from tests.unit.devproc.virtio_blk.conftest import MakeDisk

DATA = b"q" * 512


class OtherDisk(BlockDevice):
    """A disk of another class."""


@pytest.fixture
def others(image: Path) -> Iterator[type]:
    """Return what makes disks of the other class."""
    made: list[BlockDevice] = []

    def other(**changes: object) -> BlockDevice:
        config = Config(image=image, **({"threads": 1} | changes))  # type: ignore[arg-type]
        made.append(OtherDisk.over("pci")(config, Image(image, lock=False)))
        return made[-1]

    yield other  # type: ignore[misc]
    for device in made:
        device.close()


def before(disk: Disk) -> Before:
    """Return what another process sees of a disk."""
    return Before(disk.device.machine.page, Layout.of(disk.device))


@pytest.mark.parametrize("tables", [True, False], ids=["ours", "of-a-back-end"])
@pytest.mark.parametrize("packed", [0, Feature.RING_PACKED], ids=["split", "packed"])
def test_rings_features_and_settings_go_over(make: MakeDisk, others: type, packed: int, tables: bool) -> None:
    disk = make(features=packed)
    assert disk.request(Type.OUT, 3, out=DATA) == ("ok", b"")
    disk.device.set_register("writeback", 0)
    here, there = disk.device, others()
    here.quiesce()
    machine = Machine.private(there.page_size, memory=here.machine.memory)
    machine.before = before(disk)
    if not tables:
        machine.before.layout.tables.clear()
    if packed and not tables:
        with pytest.raises(VersionMismatch, match="queue 0 is packed"):  # nothing else tells where it goes on
            there.attach(machine)
        return

    there.attach(machine)

    disk.device = there
    assert disk.request(Type.IN, 3, size=512) == ("ok", DATA)
    assert there.writeback == 0
    assert there.negotiated == here.negotiated
    disk.device = here
    there.release()
    here.resume()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"without": BlkFeature.DISCARD | Feature.RING_EVENT_IDX}, r"not offer: DISCARD \(bit 13\), RING_EVENT_IDX"),
        ({"queue_size": 2}, "queue 0 has 4 descriptors, it takes 2"),
        ({"queues": 2}, "2 queues where there were 1"),
        ({"queue_size": 128}, "its seg_max is 126, the guest was told 254"),
        ({"block_size": 4096}, "its blk_size is 4096, the guest was told 512"),
    ],
    ids=["features", "size", "queues", "seg-max", "block-size"],
)
def test_what_the_driver_was_told_must_hold(
    make: MakeDisk, others: type, changes: dict[str, object], text: str
) -> None:
    disk = make(features=Feature.RING_EVENT_IDX)
    with pytest.raises(VersionMismatch, match=text):
        others(**changes).consider(before(disk))


def test_the_disk_must_be_as_large(make: MakeDisk, others: type, image: Path) -> None:
    disk = make()
    with image.open("ab") as file:
        file.truncate(1 << 20)
    with pytest.raises(VersionMismatch, match="its capacity is 2048, the guest was told 128"):
        others().consider(before(disk))


def test_changes_that_end_with_their_process_keep_others_out(make: MakeDisk, others: type) -> None:
    with pytest.raises(VersionMismatch, match="its changes end with its process"):
        others().consider(before(make(snapshot=True)))


def test_the_lock_is_the_one_who_serves(make: MakeDisk, others: type) -> None:
    disk, other = make(), others()
    with pytest.raises(HostError, match="is locked by process"):
        other.claim()
    disk.device.unclaim()
    other.claim()
    with pytest.raises(HostError, match="is locked by process"):
        disk.device.claim()


def test_a_feature_that_is_kept_from_the_guest_has_a_name() -> None:
    from devproc.virtio_blk.config import withheld

    assert withheld(["RING_PACKED", "DISCARD"]) == 1 << 34 | 1 << 13
    with pytest.raises(ConfigError, match="--without PACKED: no such feature"):
        withheld(["PACKED"])
