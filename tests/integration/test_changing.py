"""``reload`` and ``swap``: another process for a device, while the embedded guest has requests under way."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

from protocol.memory import SHM, shm_name
from tests.conftest import VM, Cli
from tests.integration.test_back_ends_of_a_vm import DISK
from tests.integration.test_bus_death import attached
from tests.integration.test_orchestrator_bus import in_shell
from tests.integration.test_orchestrator_faults import processes, supervisor
from tests.integration.test_orchestrator_up import WAIT_S, left_of, wait_for

SOURCE = '''
from dataclasses import dataclass
from pathlib import Path
from devproc.before import converts
from devproc.registers import Register
from devproc.virtio import VirtioDevice
from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.config import Config as DiskConfig
from devproc.virtio_blk.device import BlockDevice

@dataclass(frozen=True)
class Config:
    image: Path = Path("disk.img")

class Disk(BlockDevice):
    """A disk of the user's own."""

    def __init__(self, config: Config) -> None:
        super().__init__(DiskConfig(image=config.image, iops=2000), Image(config.image, lock=False))
'''
EDITED = """
    state_version = 4
    generation = Register(VirtioDevice.device_config, 0x80, access="r")

    def state_size(self) -> int:
        return super().state_size() + 0x4000

    @converts(3)
    def _from_3(self, before) -> None:
        self.generation = before["blk.lost"] + 4
"""
OPENS_NOT = """
    def __init__(self, config: Config) -> None:
        raise ValueError("no")
"""
FAILS = """
    def recover(self) -> None:
        raise RuntimeError("not in this world")
"""
REFUSED = [  # what does not convert: tests/unit/devproc/test_succession.py
    ("x = (\n", "the new process ended: SyntaxError: '(' was never closed"),
    (OPENS_NOT, "the new process ended: ValueError: no"),
    ("    state_version = 4\n", "the page is of state_version 3, the source of 4 (a method with @converts(3)"),
    (FAILS, "RuntimeError: not in this world"),  # when the old one has let go already
]
"""Editions of the source, and what is said of them."""


def prepare(cli: Cli, devices: str) -> None:
    """Write a vm.toml with these devices, of whose first a guest reads at random, 32 at a time, again and again."""
    cli.disk()
    cli.env["PYTHONPATH"] = str(Path(__file__).parents[2])
    boot = f"[boot]\ncmdline = 'run={';'.join(['d s 5000 32'] * 38)}'\n"
    cli.write("vm.toml", f"[vm]\nname = '{VM}'\nmemory = '32M'\n{boot}{devices}")


def start(cli: Cli, devices: str) -> subprocess.Popen[bytes]:
    """Start such a guest."""
    prepare(cli, devices)
    machine = cli.start("up")
    wait_for(lambda: processes(cli).get("disk0", {}).get("state") == "attached")
    wait_for(lambda: rounds(cli))
    return machine


def rounds(cli: Cli) -> list[str]:
    """Return what the guest says of each round."""
    return re.findall(r"stress: .*", cli.run("logs", VM, "console").stdout)


def finish(cli: Cli) -> None:
    """Have another round end, and look what became of all."""
    count = len(rounds(cli))
    wait_for(lambda: len(rounds(cli)) > count)
    assert {"errors=0" in line for line in rounds(cli)} == {True}
    assert cli.run("down", "-t", "0").returncode == 0
    assert not left_of()
    assert not list(SHM.glob(shm_name(VM, "*")))


def register(cli: Cli, name: str) -> str:
    """Return a register of the disk."""
    call = "busctl --user call org.busvm.device.disk0 /org/busvm/device/disk0 org.busvm.Registers1 Read s "
    return in_shell(cli, call + name).strip()


def shown(cli: Cli) -> dict[str, Any]:
    """Return the disk as ``ps`` shows it."""
    return dict(processes(cli)["disk0"])


def test_an_edited_device_goes_on_and_a_broken_one_leaves_the_old(cli: Cli) -> None:
    cli.write("mine.py", SOURCE)
    start(cli, '[[device]]\nid = "disk0"\ntype = "python:mine:Disk"\nspare = true\n')
    first = shown(cli)["pid"]

    for more, text in REFUSED:
        cli.write("mine.py", SOURCE + more)
        done = cli.run("reload", "disk0")
        assert text in done.stderr
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert shown(cli)["pid"] == first
        assert shown(cli)["state"] == "attached"
    cli.write("mine.py", SOURCE + EDITED)
    assert cli.run("reload", VM, "disk0").returncode == 0

    assert register(cli, "generation") == "t 4"
    second = shown(cli)
    assert second["pid"] != first
    assert not Path(f"/proc/{first}").exists()
    wait_for(lambda: "standing by" in cli.run("logs", VM, "orchestrator").stdout.rpartition("goes on as")[2])
    os.kill(second["pid"], signal.SIGKILL)  # the spare that follows is of the new source, too
    wait_for(lambda: attached(cli, "disk0", second["epoch"] + 1))
    assert register(cli, "generation") == "t 4"
    finish(cli)


DECLARED = '[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "disk.img"\niops = 2000\n'
PLAIN = ["RING_PACKED", "NOTIFICATION_DATA", "IN_ORDER"]


def test_a_disk_is_swapped_for_another_type_and_back(cli: Cli) -> None:
    cli.disk("small.img", 1 << 19)
    served = ["swap", "disk0", "--type", "vhost-user", "--set", "device=blk", "--set"]
    machine = start(cli, f"{DECLARED}queue-size = 128\nwithout = {PLAIN}\n")

    command = [*DISK, "--handover", "--iops=2000"]  # ours, as a back-end, locks the image when its rings begin
    small = json.dumps([word.replace("disk.img", "small.img") for word in command])
    for words, text in (
        ([*served, f"command={small}"], "its capacity is 1024, the guest was told 2048"),
        ([*served, "command=['false', '{socket}']"], "disk0.backend ended: it said nothing"),
        (["swap", "disk0"], "disk0 is what vm.toml says"),
        (["swap", "disk0", "--type", "virtio-rng"], "it is a virtio device of type 4, the one of before was of 2"),
    ):
        done = cli.run(*words)
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert shown(cli)["epoch"] == 1
        assert "disk0.backend" not in processes(cli)

    assert cli.run(*served, f"command={json.dumps(command)}").returncode == 0
    found = processes(cli)
    assert (found["disk0"]["type"], found["disk0"]["epoch"]) == ("vhost-user", 2)
    assert found["disk0.backend"]["state"] == "running"
    os.kill(supervisor(cli), signal.SIGKILL)  # whoever takes over knows what the device is now
    machine.wait(WAIT_S)
    os.kill(found["disk0"]["pid"], signal.SIGKILL)
    cli.start("up")
    wait_for(lambda: attached(cli, "disk0", 3))
    assert processes(cli)["disk0"]["type"] == "vhost-user"
    assert cli.run("reload", "disk0").returncode == 0  # of which no second process can be: it follows the first
    assert cli.run("swap", "disk0").returncode == 0
    assert shown(cli)["type"] == "virtio-blk"
    assert "disk0.backend" not in processes(cli)
    finish(cli)


def state(cli: Cli) -> str:
    """Return that of the machine."""
    return str(json.loads(cli.run("ps", VM, "--json").stdout)["state"])


def test_a_breakpoint_and_a_stopped_process_stop_guest_time(cli: Cli) -> None:
    prepare(cli, DECLARED)
    machine = cli.start("up", "--debug", "disk0")
    assert machine.stderr is not None
    command = next(line for line in machine.stderr if b" -m pdb " in line).decode()
    disk = subprocess.Popen(
        shlex.split(command), cwd=cli.folder, env=cli.env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    cli.started.append(disk)
    assert disk.stdin is not None

    def type_(*lines: str) -> None:
        assert disk.stdin is not None
        disk.stdin.write("".join(f"{line}\n" for line in lines).encode())
        disk.stdin.flush()

    type_("import devproc.virtio_blk.device as d", "b d.BlockDevice.request", "c")
    wait_for(lambda: state(cli) == "stalled")  # no hart asks the disk anything: its requests are under way
    type_("clear 1", "c")
    wait_for(lambda: len(rounds(cli)) > 1)
    os.kill(disk.pid, signal.SIGSTOP)
    wait_for(lambda: state(cli) == "stalled")
    assert "disk0 was started by hand" in cli.run("reload", "disk0").stderr
    os.kill(disk.pid, signal.SIGCONT)
    wait_for(lambda: state(cli) == "running")
    finish(cli)
