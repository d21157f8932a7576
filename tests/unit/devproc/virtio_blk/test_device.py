"""The block device in one process: requests, what the host refuses, pauses, limits, sizes."""

from __future__ import annotations

import errno
import select
from pathlib import Path

import pytest

from devproc.machine import Machine
from devproc.poke import settle
from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.backing import Shorter
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.device import BlockDevice, open_device
from devproc.virtio_blk.prompt import Disk
from devproc.virtio_blk.spec import FLAG_UNMAP, BlkFeature, Type
from protocol.errors import ConfigError, HostError
from tests.unit.devproc.virtio_blk.conftest import MakeDisk
from tests.unit.devproc.virtio_blk.platter import Platter

DATA = b"q" * 512


def segment(sector: int, sectors: int, flags: int = 0) -> bytes:
    """Return a range of a discard or write-zeroes."""
    return sector.to_bytes(8, "little") + sectors.to_bytes(4, "little") + flags.to_bytes(4, "little")


def test_requests(disk: Disk) -> None:
    assert disk.request(Type.OUT, 1, out=DATA) == ("ok", b"")
    assert disk.request(Type.IN, 1, size=512) == ("ok", DATA)
    assert disk.request(Type.FLUSH) == ("ok", b"")
    assert disk.request(Type.GET_ID, size=20) == ("ok", b"x" * 20)
    assert disk.request(Type.GET_ID, size=4)[0] == "i/o error"
    assert disk.device.counters["failed_requests"] == 1


@pytest.mark.parametrize(
    ("kind", "data", "answer"),
    [
        (Type.DISCARD, segment(0, 8), "ok"),
        (Type.DISCARD, segment(0, 8) + segment(16, 8) + segment(3, 0), "ok"),
        (Type.DISCARD, segment(0, 1) * 32, "ok"),
        (Type.DISCARD, segment(0, 1) * 33, "unsupported"),
        (Type.DISCARD, bytes(15), "unsupported"),
        (Type.DISCARD, b"", "unsupported"),
        (Type.DISCARD, segment(0, 8, FLAG_UNMAP), "unsupported"),  # virtio 1.2 §5.2.6.2
        (Type.DISCARD, segment(0, 8) + segment(0, 8, 2), "unsupported"),
        (Type.DISCARD, segment(0, 8) + segment(127, 2), "i/o error"),
        (Type.DISCARD, segment((1 << 64) - 1, 2), "i/o error"),
        (Type.WRITE_ZEROES, segment(0, 8), "ok"),
        (Type.WRITE_ZEROES, segment(0, 0), "ok"),
        (Type.WRITE_ZEROES, segment(0, 8, FLAG_UNMAP), "ok"),
        (Type.WRITE_ZEROES, segment(0, 8, 2), "unsupported"),
        (Type.WRITE_ZEROES, segment(0, 8) * 2, "unsupported"),
        (Type.WRITE_ZEROES, segment(0, 129), "i/o error"),
        (Type.WRITE_ZEROES, segment(0, 0xFFFF_FFFF), "i/o error"),
        (Type.SECURE_ERASE, segment(0, 8), "unsupported"),
        (Type.GET_LIFETIME, b"", "unsupported"),
        (99, b"", "unsupported"),
    ],
)
def test_ranges_and_types_are_checked_before_anything_is_done(
    make: MakeDisk, kind: Type, data: bytes, answer: str
) -> None:
    platter = Platter()
    disk = make(platter)

    assert disk.request(kind, out=data)[0] == answer
    assert bool(platter.events) == (answer == "ok" and segment(0, 0) != data)


def test_ranges_reach_the_host_as_they_are(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter)

    disk.request(Type.DISCARD, out=segment(8, 16) + segment(64, 8))
    disk.request(Type.WRITE_ZEROES, out=segment(8, 16, FLAG_UNMAP))

    assert platter.events == ["discard 8 16", "discard 64 8", "unmap"]


def test_discard_ignored_is_not_offered_and_nothing_is_unmapped(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter, discard="ignore")
    device = disk.device

    assert not device.features & BlkFeature.DISCARD
    assert (device.max_discard_sectors, device.max_discard_seg, device.write_zeroes_may_unmap) == (0, 0, 0)
    assert disk.request(Type.DISCARD, out=segment(0, 8))[0] == "unsupported"
    assert disk.request(Type.WRITE_ZEROES, out=segment(0, 8, FLAG_UNMAP))[0] == "ok"
    assert platter.events == ["zero"]


def test_requests_are_whole_blocks(make: MakeDisk) -> None:
    disk = make(block_size=4096)

    assert (disk.device.blk_size, disk.device.physical_block_exp) == (4096, 0)
    assert disk.request(Type.OUT, 8, out=DATA * 8)[0] == "ok"
    assert disk.request(Type.OUT, 8, out=DATA)[0] == "i/o error"
    assert disk.request(Type.IN, 4, size=4096)[0] == "i/o error"
    assert disk.device.counters["bad_ranges"] == 2


@pytest.mark.parametrize(
    ("number", "answer"), [(errno.EIO, "i/o error"), (errno.ENOSPC, "i/o error"), (errno.EOPNOTSUPP, "unsupported")]
)
def test_what_the_host_refuses_is_a_status_and_counted(make: MakeDisk, number: int, answer: str) -> None:
    platter = Platter()
    disk = make(platter)
    platter.errors["write"] = number

    assert disk.request(Type.OUT, 0, out=DATA)[0] == answer
    assert disk.device.counters[f"host_error_{errno.errorcode[number]}"] == 1
    assert disk.device.last_error == f"{errno.errorcode[number]}: write failed"


def test_image_that_was_cut_off_is_an_error_by_name(make: MakeDisk, image: Path) -> None:
    disk = make()
    image.write_bytes(bytes(512))

    assert disk.request(Type.IN, 1, size=512)[0] == "i/o error"
    assert disk.request(Type.IN, 0, size=512)[0] == "ok"
    assert disk.device.counters["image_shorter"] == 1
    assert "shorter" in disk.device.last_error
    assert isinstance(Shorter(), OSError)


def test_image_of_another_size_on_return_is_a_config_change(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    config = Config(image=path)
    first = open_device(config)
    machine = Machine.private(first.page_size)
    first.attach(machine)
    Disk(first).set_up()
    first.detach()
    first.release()
    first.close()
    path.write_bytes(bytes(8192))

    second = BlockDevice.over("pci")(config, Image(path))
    second.attach(machine)

    assert (second.capacity, second.config_generation) == (16, 1)
    second.release()
    second.close()
    machine.close()


def test_resize_changes_capacity_and_tells_the_driver(disk: Disk, image: Path) -> None:
    device = disk.device
    device.resize(131072)

    assert (device.capacity, device.config_generation, device.isr_status & 2) == (256, 1, 2)
    assert image.stat().st_size == 131072
    assert disk.request(Type.OUT, 255, out=DATA)[0] == "ok"
    with pytest.raises(ConfigError, match="cut it off"):
        device.resize(512)
    with pytest.raises(ConfigError, match="multiple of 512"):
        device.resize(131073)
    image.write_bytes(bytes(4096))
    device.resize(0)
    assert (device.capacity, device.config_generation) == (8, 2)
    assert disk.request(Type.IN, 8, size=512)[0] == "i/o error"


# no space


def test_a_full_host_pauses_and_the_request_is_tried_again(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter, on_error="pause")
    reasons: list[str] = []

    def ask(reason: str) -> bool:
        reasons.append(reason)
        return True

    disk.device.ask_pause = ask
    platter.errors["write"] = errno.ENOSPC
    assert disk.request(Type.OUT, 1, out=DATA)[0].startswith("no answer")
    assert disk.device.waiting == 1

    platter.errors.clear()
    disk.device.retry()
    settle(disk.device)

    assert disk.queue.collect()
    assert platter.content[512:1024] == DATA
    assert (disk.device.waiting, len(reasons)) == (0, 1)
    assert disk.device.counters["failed_requests"] == 0
    assert disk.device.counters["host_error_ENOSPC"] == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_without_anybody_to_pause_errors_are_reported(make: MakeDisk, number: int) -> None:
    platter = Platter()
    disk = make(platter, on_error="pause")
    platter.errors["write"] = number
    assert disk.request(Type.OUT, 1, out=DATA)[0] == "i/o error"

    disk.device.ask_pause = lambda _reason: True
    if number == errno.ENOSPC:
        assert disk.request(Type.OUT, 1, out=DATA)[0].startswith("no answer")
        disk.device.give_up()
        assert disk.queue.collect()
    else:
        assert disk.request(Type.OUT, 1, out=DATA)[0] == "i/o error"
    assert disk.device.counters["failed_requests"] == 2


def test_a_flush_without_space_is_reported(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter, on_error="pause")
    disk.device.ask_pause = lambda _reason: True
    platter.errors["flush"] = errno.ENOSPC

    assert [disk.request(Type.FLUSH)[0] for _ in range(2)] == ["i/o error", "i/o error"]


def test_a_reset_forgets_what_waits_for_space(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter, on_error="pause")
    disk.device.ask_pause = lambda _reason: True
    platter.errors["write"] = errno.ENOSPC
    disk.request(Type.OUT, 1, out=DATA)
    platter.errors.clear()

    disk.device.set_register("device_status", 0)
    disk.device.retry()

    assert platter.events == ["write"]


# limits


def test_limits_hold_requests_back_and_the_loop_goes_on(make: MakeDisk) -> None:
    now = [100.0]
    disk = make(clock=lambda: now[0], iops=2)
    device = disk.device

    answers = [disk.request(Type.OUT, 1, out=DATA)[0] for _ in range(2)]
    held = disk.request(Type.IN, 1, size=512)[0]
    waiting = device.waiting
    alarm = next(fd for fd in device.sources() if fd != device.pool.event)
    assert select.select([alarm], [], [], 5)[0]  # after half a second of the host's
    now[0] += 0.6
    settle(device)
    settle(device)

    assert answers == ["ok", "ok"]
    assert (held.startswith("no answer"), waiting, device.waiting) == (True, 1, 0)
    assert disk.queue.collect()
    assert device.counters["waits_for_limits"] >= 1


def test_a_stopped_device_starts_nothing_that_waits(make: MakeDisk) -> None:
    now = [100.0]
    platter = Platter()
    disk = make(platter, clock=lambda: now[0], bytes_per_second=512)
    disk.request(Type.OUT, 1, out=DATA)
    disk.request(Type.OUT, 1, out=DATA)
    disk.device.quiesce()
    now[0] += 10
    disk.device._rang()
    assert platter.events == ["write"]

    disk.device.resume()
    settle(disk.device)

    assert platter.events == ["write", "write"]


def test_a_reset_queue_forgets_what_waits_for_the_limits(make: MakeDisk) -> None:
    now = [100.0]
    platter = Platter()
    disk = make(platter, clock=lambda: now[0], iops=1)
    for _ in range(2):
        disk.request(Type.OUT, 1, out=DATA)

    disk.device.queue_select = 0
    disk.device.stop_queue()
    now[0] += 10
    disk.device._rang()

    assert platter.events == ["write"]
    assert disk.device.waiting == 0


# snapshot


def test_a_snapshot_leaves_the_image_and_does_not_survive_its_process(make: MakeDisk, image: Path) -> None:
    disk = make(snapshot=True)
    device = disk.device

    assert disk.request(Type.OUT, 1, out=DATA)[0] == "ok"
    assert disk.request(Type.IN, 1, size=512) == ("ok", DATA)
    assert image.read_bytes() == bytes(65536)
    device.detach()
    device.attach(device.machine)  # the same process may go on
    assert disk.request(Type.IN, 1, size=512) == ("ok", DATA)

    device.detach()
    successor = open_device(device.config)
    with pytest.raises(HostError, match="ended with the process"):
        successor.attach(device.machine)
    successor.close()
    device.attach(device.machine)


def test_a_snapshot_that_nobody_wrote_to_can_be_taken_over(make: MakeDisk) -> None:
    disk = make(snapshot=True)
    disk.request(Type.IN, 1, size=512)
    disk.device.detach()

    successor = open_device(disk.device.config)
    assert successor.attach(disk.device.machine)

    successor.close()
    disk.device.attach(disk.device.machine)
