"""Devices in this process that something goes wrong with, with no loop: what is put off is waited for by ``settle``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devproc.device import Device
from devproc.faults.faults import Faults
from devproc.machine import Machine
from devproc.template.clock import Clock
from devproc.template.device import Config, Rng
from devproc.virtio_blk.config import Config as DiskConfig
from devproc.virtio_blk.device import BlockDevice, open_device
from devproc.virtio_blk.prompt import Disk

MakeDisk = Callable[..., Disk]


def attached(device: Device) -> Iterator[Device]:
    """Attach a device to a machine of its own, and take it away."""
    machine = Machine.private(device.page_size)
    device.attach(machine)
    yield device
    device.detach()
    device.release()
    if device.known_faults is not None:
        device.known_faults.close()
    device.close()
    machine.close()


@pytest.fixture
def rng() -> Iterator[Device]:
    """Return a source of 1, 2, 3 …"""
    words = iter(range(1, 1000))
    yield from attached(Rng(Config(limit=5), source=lambda _bits: next(words)))


@pytest.fixture
def clock() -> Iterator[Device]:
    """Return a device on the platform bus."""
    yield from attached(Clock())


def image_in(folder: Path) -> Path:
    """Make an image of 64 KiB of which each sector is full of its number."""
    image = folder / "disk"
    image.write_bytes(b"".join(bytes([number]) * 512 for number in range(128)))
    return image


class Disks:
    """Makes ready disks over an image; the last is taken away when the next is made, for they lock it."""

    def __init__(self, image: Path) -> None:
        self._image = image
        self._last: tuple[BlockDevice, Machine] | None = None

    def __call__(self, *rules: str, transport: str = "pci", features: int = 0) -> Disk:
        """Return one with these rules."""
        self.close()
        device = open_device(DiskConfig(image=self._image, threads=1), transport)
        machine = Machine.private(device.page_size)
        self._last = device, machine
        for rule in rules:
            Faults.of(device).add(rule, started=True)
        device.attach(machine)
        disk = Disk(device, features, 32)
        disk.set_up()
        return disk

    def close(self) -> None:
        """Take the last away."""
        if self._last is not None:
            device, machine = self._last
            device.detach()
            device.release()
            if device.known_faults is not None:
                device.known_faults.close()
            device.close()
            machine.close()
            self._last = None


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Disks]:
    """Return a function that makes a ready disk of 64 KiB, of which each sector is full of its number."""
    disks = Disks(image_in(tmp_path))
    yield disks
    disks.close()
