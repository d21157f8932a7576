"""More devices than PCI has slots: they share slots, all work, and many die at once."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

from orchestrator.record import Record
from protocol.names import Runtime
from tests.guest.expect import Guest

COUNT, DISKS, DEAD = 40, 6, 12
NAME = "many"


def machine(folder: Path) -> Path:
    text = f'[vm]\nname = "{NAME}"\nmemory = "64M"\n'
    for number in range(COUNT):
        text += f'[[device]]\nid = "d{number}"\n'
        if number < COUNT - DISKS:
            text += 'type = "virtio-rng"\n'
            continue
        (folder / f"{number}.img").write_bytes(bytes(1 << 20))
        text += f'type = "virtio-blk"\nimage = "{number}.img"\n'
    path = folder / "vm.toml"
    path.write_text(text)
    return path


def pids() -> dict[str, int]:
    record = Record.read(Runtime(NAME))
    assert record is not None
    return {name: entry.pid for name, entry in record.entries.items()}


def test_forty_devices_work_and_twelve_of_them_die_at_once(tmp_path: Path) -> None:
    with Guest([sys.executable, "-m", "orchestrator", "up", str(machine(tmp_path))]) as guest:
        guest.wait_for(f"report: {COUNT + 1} functions, {COUNT} devices exercised, 0 failures", 200)
        guest.wait_for("busvm> ")
        found = re.findall(r"^00:([0-9a-f]{2})\.([0-7]) ", guest.output, re.MULTILINE)
        assert len({slot for slot, _ in found}) == 32
        assert sum(function != "0" for _, function in found) == COUNT - 31

        before = pids()
        dead = [f"d{number}" for number in range(COUNT - DEAD, COUNT)]
        for name in dead:
            os.kill(before[name], signal.SIGKILL)
        for number in range(DISKS):  # who is not there is waited for
            guest.type(f"d @{number};d w 0 200 {number};d v 0 200 {number}")
            guest.wait_for(f"verify: disk={number} sector=0 count=200", 60)
            assert "errors=0 result=ok" in guest.wait_for("\n", 60)
            guest.wait_for("busvm> ")
        deadline = time.monotonic() + 60
        while any(pids()[name] in (0, before[name]) for name in dead):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert all(pids()[name] == pid for name, pid in before.items() if name not in dead)
        guest.type("q 3")
        assert guest.status() == 3
