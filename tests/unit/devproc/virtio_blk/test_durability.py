"""What the guest was told is durable is on the medium, over a back-end that fails and lies."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.prompt import Disk
from devproc.virtio_blk.spec import BlkFeature, Type
from tests.unit.devproc.virtio_blk.conftest import MakeDisk
from tests.unit.devproc.virtio_blk.platter import Platter

DATA = b"q" * 512
BOTH = int(BlkFeature.FLUSH | BlkFeature.CONFIG_WCE)


def test_a_write_is_stable_after_the_flush_and_not_before(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter)

    disk.request(Type.OUT, 1, out=DATA)
    before = platter.stable[512:1024]
    answer, _ = disk.request(Type.FLUSH)

    assert (before, answer, platter.stable[512:1024]) == (bytes(512), "ok", DATA)


def test_a_flush_completes_only_after_the_host_has_synced(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter)
    platter.gate.clear()
    answers: list[str] = []
    seen: list[list[str]] = []

    def sync() -> None:
        seen.append(list(answers))
        platter.gate.set()

    later = threading.Timer(0.1, sync)
    later.start()
    answers.append(disk.request(Type.FLUSH)[0])
    later.join()

    assert (seen, answers) == ([[]], ["ok"])


def test_after_a_failed_flush_none_succeeds_until_the_driver_resets(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter)
    disk.request(Type.OUT, 1, out=DATA)
    platter.errors["flush"] = errno.EIO
    first = disk.request(Type.FLUSH)[0]
    platter.errors.clear()

    second = disk.request(Type.FLUSH)[0]
    lost = disk.device.blk.lost
    disk.device.reset()
    disk = Disk(disk.device)
    disk.set_up()

    assert (first, second, lost) == ("i/o error", "i/o error", errno.EIO)
    assert platter.events.count("flush") == 1  # the second was not even tried: it would have lied
    assert disk.request(Type.FLUSH)[0] == "ok"
    assert disk.device.blk.lost == 0


def test_a_successor_knows_that_a_flush_has_failed(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter)
    device = disk.device
    platter.errors["flush"] = errno.EIO
    disk.request(Type.FLUSH)
    platter.errors.clear()
    device.detach()
    device.durability.failure = 0  # as in a new process

    device.attach(device.machine)

    assert disk.request(Type.FLUSH)[0] == "i/o error"


@pytest.mark.parametrize("how", ["configured", "chosen by the driver", "without FLUSH and CONFIG_WCE"])
def test_write_through_has_each_write_on_the_medium_when_it_completes(make: MakeDisk, how: str) -> None:
    platter = Platter()
    disk = make(
        platter,
        cache="writethrough" if how == "configured" else "writeback",
        without=BOTH if how.startswith("without") else 0,
    )
    if how.startswith("chosen"):
        disk.device.set_register("writeback", 0)

    answers = [
        disk.request(Type.OUT, 1, out=DATA)[0],
        disk.request(Type.WRITE_ZEROES, out=(2).to_bytes(8, "little") + b"\1" + bytes(7))[0],
    ]

    assert answers == ["ok", "ok"]
    assert platter.stable[512:1024] == DATA
    assert platter.events[-3:] == ["write durably", "zero", "flush"]
    platter.errors["write durably"] = errno.EIO
    assert disk.request(Type.OUT, 1, out=DATA)[0] == "i/o error"


def test_change_to_write_through_syncs_what_was_written_before(make: MakeDisk) -> None:
    platter = Platter()
    disk = make(platter)
    disk.request(Type.OUT, 1, out=DATA)

    disk.device.set_register("writeback", 0)
    disk.device.drain()

    assert platter.stable[512:1024] == DATA
    assert disk.device.cache_mode == "writethrough"
    disk.device.set_register("writeback", 1)
    assert disk.device.cache_mode == "writeback"


def test_the_cache_mode_is_the_configured_one_again_after_a_reset(make: MakeDisk) -> None:
    disk = make(cache="writethrough")
    disk.device.set_register("writeback", 1)
    assert disk.device.cache_mode == "writeback"

    disk.device.set_register("device_status", 0)

    assert disk.device.writeback == 0


def test_a_real_image_is_synced_by_the_host(make: MakeDisk, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, write = os.fdatasync, os.pwritev

    def fdatasync(fd: int) -> None:
        calls.append("fdatasync")
        sync(fd)

    def pwritev(fd: int, views: list[memoryview], offset: int, flags: int) -> int:
        calls.append("dsync" if flags & os.RWF_DSYNC else "write")
        return write(fd, views, offset, flags)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "pwritev", pwritev)
    disk = make(Image(image))

    disk.request(Type.OUT, 1, out=DATA)
    disk.request(Type.FLUSH)
    disk.device.set_register("writeback", 0)
    disk.request(Type.OUT, 1, out=DATA)

    assert calls == ["write", "fdatasync", "fdatasync", "dsync"]
