"""The proxy of a device whose process is late."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cpu_proc.platform.virtio_mmio import MmioDevice
from protocol import messages
from protocol.layout import DevicePage
from protocol.link import Link
from tests.unit.cpu_proc.pcie.fake_device import anonymous


def test_a_posted_write_reaches_a_device_that_connects_late(tmp_path: Path) -> None:
    page = DevicePage(anonymous(0x6000, "device"))
    page.format()
    remote = MmioDevice("late0", 0, page.shared, 0, lambda _who: None)
    endpoint = f"ipc://{tmp_path}/link"
    remote.connect(Link(endpoint, epoch=1, bind=True), os.getpid(), 1)

    remote.post(0, 8, 4, 77)  # nobody is there, and nothing comes after it
    time.sleep(0.15)
    device = Link(endpoint, epoch=1, bind=False)

    assert device.receive(5.0) == messages.Write(1, 1, 0, 8, 4, 77)
    device.close()
    remote.close()
    remote.release()
