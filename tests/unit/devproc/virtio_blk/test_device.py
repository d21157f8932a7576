"""The block device in one process: requests through a driver-side queue, host errors, cache mode."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from devproc.device import Machine
from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.device import BlkFeature, BlockDevice, Config, Type, open_device
from devproc.virtio_blk.prompt import Disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a ready disk of 8 sectors."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    device = open_device(Config(image=path, serial="x" * 20, threads=1))
    machine = Machine.private(device.page_size)
    device.attach(machine)
    disk = Disk(device)
    disk.set_up()
    yield disk
    device.detach()
    device.release()
    device.close()
    machine.close()


def test_requests(disk: Disk) -> None:
    assert disk.request(Type.OUT, 1, out=b"q" * 512) == ("ok", b"")
    assert disk.request(Type.IN, 1, size=512) == ("ok", b"q" * 512)
    assert disk.request(Type.FLUSH) == ("ok", b"")
    assert disk.request(Type.GET_ID, size=20) == ("ok", b"x" * 20)
    assert disk.request(Type.GET_ID, size=4)[0] == "i/o error"
    assert disk.request(Type.DISCARD, out=bytes(8) + b"\x08" + bytes(7))[0] == "ok"
    assert disk.request(Type.DISCARD, out=bytes(15))[0] == "unsupported"
    assert disk.request(Type.WRITE_ZEROES, out=bytes(8) + b"\x09" + bytes(7))[0] == "i/o error"
    assert disk.device.counters["failed_requests"] == 3


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_what_the_host_refuses_is_an_io_error_and_counted(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(Image, "write", refuse)

    assert disk.request(Type.OUT, 0, out=b"q" * 512)[0] == "i/o error"
    assert disk.device.counters[f"host_error_{number}"] == 1


def test_cache_mode_decides_when_a_write_is_durable(disk: Disk) -> None:
    device = disk.device
    assert device.negotiated & BlkFeature.CONFIG_WCE
    assert not device.durable
    device.write(4, 0x2020, 1, 0)
    assert device.durable
    device.state.driver_features &= ~int(BlkFeature.FLUSH)
    device.writeback = 1
    assert device.durable  # virtio 1.2 §5.2.6.2: without FLUSH every write is


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
