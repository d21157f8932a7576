"""Linux's disk is reloaded, goes to qemu-storage-daemon and comes back while it is written, read back and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest
from tests.peers.back_ends import DAEMON, export, program

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

_MIB = 64
_DATA = """\
[[device]]
id = "data"
type = "virtio-blk"
image = "data.img"
queue-size = 128
without = ["RING_PACKED", "NOTIFICATION_DATA", "DISCARD", "WRITE_ZEROES"]
"""
_FIO = (
    f"fio --name=job --filename=/dev/vdb --ioengine=libaio --direct=1 --size={_MIB}M --rw=randwrite --bsrange=512-16k "
    "--blockalign=512 --iodepth=16 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --time_based --runtime=3"
)
_DD = (
    "dd if=/dev/urandom of=/tmp/a bs=1M count=4 && dd if=/tmp/a of=/dev/vdb bs=16k oflag=direct && "
    "dd if=/dev/vdb of=/tmp/b bs=16k count=256 iflag=direct && cmp /tmp/a /tmp/b"
)
"""Where the image has no fio: BUSVM_WORKLOADS names those that have (benchmarks.workloads)."""


def image(debian: Path) -> Path:
    """Return the folder of an image with fio if there is one."""
    place = Path(os.environ.get("BUSVM_WORKLOADS") or "/nowhere")
    return next((path for path in sorted(place.glob("debian-*")) if (path / "root.ext4").exists()), debian)


def orchestrator(*arguments: str) -> str:
    """Run a command about the machine."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_disk_is_reloaded_and_swapped_both_ways_while_it_is_written(debian: Path, tmp_path: Path) -> None:
    with (tmp_path / "data.img").open("wb") as file:
        file.truncate(_MIB << 20)
    (tmp_path / "vm.toml").write_text((on_a_snapshot("change") + _DATA).format(image=image(debian)))
    daemon = [program(DAEMON), "--blockdev", f"driver=file,filename={tmp_path}/data.img,node-name=top"]
    served = json.dumps([*daemon, *export("{socket}")])
    other = ["--type", "vhost-user", "--set", "device=blk", "--set", f"command={served}"]
    with Guest([sys.executable, "-m", "orchestrator", "up", str(tmp_path / "vm.toml")]) as guest:
        guest.login("busvm")
        work = f"if command -v fio; then {_FIO}; else {_DD}; fi"
        rounds = f"while [ ! -e /tmp/enough ]; do {work} || break; echo round; done; echo ended"
        guest.run(f"(({rounds}) >/tmp/log 2>&1 &)")
        orchestrator("reload", "change", "root")  # whose changes only its process has
        orchestrator("reload", "change", "data")
        orchestrator("swap", "change", "data", *other)
        assert "data.backend" in orchestrator("ps", "change")
        orchestrator("reload", "change", "data")
        orchestrator("swap", "change", "data")
        assert "data.backend" not in orchestrator("ps", "change")
        log = guest.run("touch /tmp/enough; until grep ended /tmp/log; do sleep 0.2; done; tail -n 5 /tmp/log", 60)
        assert log.endswith("round\nended\n")  # it went on all the time
        errors = guest.run("dmesg | grep -iE 'I/O error|blk_update|needs reset|blocked for|soft lockup'; true")
        assert not errors
        guest.type("poweroff -f")
        assert guest.status(60) == 0
