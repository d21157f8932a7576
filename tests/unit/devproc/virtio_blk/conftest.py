"""A disk in one process: the device over a back-end that the test chooses, and a driver for one request at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devproc.machine import Machine
from devproc.virtio_blk.backing import Backing
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.device import BlockDevice, open_device
from devproc.virtio_blk.prompt import Disk

MakeDisk = Callable[..., Disk]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return an image of 64 KiB of zeros."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(65536))
    return path


@pytest.fixture
def make(image: Path) -> Iterator[MakeDisk]:
    """Return a function that makes a ready disk over ``image``, or over another back-end."""
    made: list[tuple[BlockDevice, Machine]] = []

    def build(
        backing: Backing | None = None,
        *,
        clock: Callable[[], float] | None = None,
        without: int = 0,
        transport: str = "pci",
        features: int = 0,
        **changes: object,
    ) -> Disk:
        config = Config(image=image, **({"threads": 1} | changes))  # type: ignore[arg-type]
        if backing is None and clock is None:
            device = open_device(config, transport)
        else:
            from devproc.virtio_blk.backend import Image

            clocks = {} if clock is None else {"clock": clock}
            device = BlockDevice.over(transport)(config, backing or Image(image), **clocks)
        machine = Machine.private(device.page_size)
        device.attach(machine)
        disk = Disk(device, features)
        disk.set_up(without)
        made.append((device, machine))
        return disk

    yield build
    for device, machine in made:
        device.detach()
        device.release()
        device.close()
        machine.close()


@pytest.fixture
def disk(make: MakeDisk) -> Disk:
    """Return a ready disk."""
    return make(serial="x" * 20)
