"""Faults as Debian's drivers meet them: the examples of docs/faults.md."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.guest import network
from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest
from tests.guest.network import SHELL, shell

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

MIB = 16
NAME = "faulty"
VM = (
    on_a_snapshot(NAME).replace("root=/dev/vda rw", f"root=/dev/vda rw {SHELL}")
    + """\
[[device]]
id = "data"
type = "virtio-blk"
image = "data.img"
"""
)


def orchestrator(*words: str, status: int = 0) -> str:
    """Run a command; return what it said, on the stream that its status belongs to."""
    command = [sys.executable, "-m", "orchestrator", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def fault(*words: str) -> str:
    """Run ``orchestrator fault`` on the disk."""
    return orchestrator("fault", NAME, "data", *words)


def hits() -> dict[str, int]:
    """Return how often each rule has struck, by its text."""
    rows = json.loads(orchestrator("fault", "--json", NAME, "data"))
    return {row["rule"]: row["hits"] for row in rows}


def process() -> dict[str, Any]:
    """Return what ``ps`` says of the disk's process."""
    shown = json.loads(orchestrator("ps", NAME, "--json"))
    return next(found for found in shown["processes"] if found["id"] == "data")


def until(condition: Any, seconds: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_linux_meets_faults_of_a_disk(debian: Path, tmp_path: Path) -> None:
    content = bytes(hashlib.shake_256(b"faults").digest(MIB << 20))
    (tmp_path / "data.img").write_bytes(content)
    (tmp_path / "vm.toml").write_text(VM.format(image=debian))
    with Guest([sys.executable, "-m", "orchestrator", "up", str(tmp_path / "vm.toml")]) as guest:
        shell(guest, "virtio_blk")
        _takes_its_error_path(guest)
        _waits_for_an_interrupt_that_is_lost(guest)
        _notices_no_death(guest, tmp_path / "data.img")
        _stands_still(guest)
        guest.type("poweroff -ff")
        assert guest.status(60) == 0


def _takes_its_error_path(guest: Guest) -> None:
    guest.run("dmesg -C")
    wrong = orchestrator("fault", NAME, "data", "add", "error", "type=INN", status=2)
    assert wrong == "error: data: no type 'INN' (did you mean IN?)\n"
    assert "no rule 7" in orchestrator("fault", NAME, "data", "remove", "7", status=3)
    assert "no action 'ad'" in orchestrator("fault", NAME, "data", "ad", "error", status=2)
    read = "dd if=/dev/vdb of=/dev/null bs=4k count=1 skip=512 iflag=direct 2>&1; echo status $?"

    number = fault("add", "error", "type=IN", "sector>=4096", "sector<4104").strip()
    assert "Input/output error" in guest.run(read)
    said = guest.run("dmesg")

    assert "I/O error, dev vdb, sector 4096 op 0x0:(READ)" in said
    assert hits() == {"error request type=IN sector>=4096 sector<4104": 1}
    assert "status 0" in guest.run(read.replace("skip=512", "skip=511"))  # beside it all is well
    fault("remove", number)
    assert "status 0" in guest.run(read)


def _waits_for_an_interrupt_that_is_lost(guest: Guest) -> None:
    """virtio_blk has no timeout: it waits until it is told, which a restarted device does."""
    vector = "1"
    fault("add", "drop", f"interrupt={vector}", "once")
    guest.run("dd if=/dev/vdb of=/dev/null bs=4k count=1 skip=9 iflag=direct 2> /tmp/said && touch /tmp/done & :")
    until(lambda: 1 in hits().values())
    assert "waits" in guest.run("sleep 2; [ -e /tmp/done ] || echo waits")
    orchestrator("restart", NAME, "data")
    assert "1+0 records in" in guest.run("wait; cat /tmp/said")
    fault("clear")


def _notices_no_death(guest: Guest, image: Path) -> None:
    before = process()
    guest.run("dmesg -C")
    fault("add", "kill", "type=OUT", "nth=3")
    guest.run("head -c 16M /dev/urandom > /tmp/blob")
    guest.run("dd if=/tmp/blob of=/dev/vdb bs=64k oflag=direct", 60)
    wanted = guest.run("sha256sum < /tmp/blob").split()[0]
    guest.run("echo 3 > /proc/sys/vm/drop_caches")
    assert guest.run("sha256sum < /dev/vdb", 60).split()[0] == wanted
    assert hashlib.sha256(image.read_bytes()).hexdigest() == wanted
    after = process()
    assert after["epoch"] == before["epoch"] + 1
    assert hits() == {"kill request type=OUT nth=3": 1}  # the successor has it, and has not died of it
    assert "error" not in guest.run("dmesg | grep vdb")
    fault("clear")


def _stands_still(guest: Guest) -> None:
    """Taking the driver away resets the disk, and waits until the status says so: a register that is asked for."""
    fault("add", "freeze", "read=device_status")
    disk = guest.run("basename $(readlink /sys/block/vdb/device)").strip()
    guest.type(f"date +%s; echo {disk} > /sys/bus/virtio/drivers/virtio_blk/unbind; date +%s; echo ga''ve")
    until(lambda: json.loads(orchestrator("ps", NAME, "--json"))["state"] == "stalled")
    time.sleep(5)
    fault("thaw")
    began, ended = (int(word) for word in re.findall(r"^\d+$", guest.wait_for("gave\n"), re.MULTILINE))
    assert ended - began <= 3  # it did not see the five seconds
    assert list(hits().values()) == [1]


def test_linux_resets_a_card_whose_interrupts_are_lost(debian: Path, tmp_path: Path) -> None:
    card = network.with_card("faulty_card", debian, 'backend = "user"', init=SHELL)
    (tmp_path / "vm.toml").write_text(card.replace('"virtio-net"', '"e1000e"'))
    with Guest([sys.executable, "-m", "orchestrator", "up", str(tmp_path / "vm.toml")]) as guest:
        shell(guest, "e1000e")
        name = network.card_of(guest)
        guest.run(f"ip addr add 10.0.2.15/24 dev {name}; ip link set {name} up")
        guest.run("for i in $(seq 50); do ping -c 1 -W 1 10.0.2.2 > /dev/null && break; done")
        assert network.ping(guest, "10.0.2.2") == 3
        guest.run("dmesg -C")

        orchestrator("fault", "faulty_card", "net0", "add", "drop", "interrupt", "first=2")

        assert network.ping(guest, "10.0.2.2") < 3
        said = guest.run("for i in $(seq 40); do dmesg | grep -i 'reset adapter' && break; sleep 0.5; done")
        assert "Reset adapter unexpectedly" in said
        guest.run("for i in $(seq 50); do ping -c 1 -W 1 10.0.2.2 > /dev/null && break; done")
        assert network.ping(guest, "10.0.2.2") == 3
        assert network.end(guest) == 0
