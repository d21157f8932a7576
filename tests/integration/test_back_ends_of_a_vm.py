"""Back-ends of vhost-user devices that are processes of the VM: started, shown, started again, ended."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import VM, Cli
from tests.integration.test_orchestrator_faults import processes, up
from tests.integration.test_orchestrator_up import left_of, wait_for

DISK = [sys.executable, "-P", "-m", "devproc.virtio_blk", "--vhost-user", "{socket}", "--image", "{folder}/disk.img"]


def vm(cli: Cli, command: list[str], more: str = "") -> Path:
    """Write a vm.toml with one disk that a back-end serves."""
    cli.disk()
    cli.env["PYTHONPATH"] = str(Path(__file__).parents[2])
    device = f'[[device]]\nid = "disk0"\ntype = "vhost-user"\ndevice = "blk"\ncommand = {json.dumps(command)}\n{more}'
    return cli.write("vm.toml", f"[vm]\nname = {json.dumps(VM)}\nmemory = '32M'\n{device}")


def test_it_is_started_shown_started_again_and_ended(cli: Cli) -> None:
    vm(cli, DISK)
    up(cli)
    first = processes(cli)["disk0.backend"]
    assert first["type"] == "vhost-user back-end"

    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: processes(cli)["disk0.backend"]["restarts"] == 1)
    assert cli.run("restart", "disk0.backend", "disk0").returncode == 0

    found = processes(cli)
    assert found["disk0.backend"]["restarts"] == 2
    assert (found["disk0"]["state"], found["disk0"]["epoch"]) == ("attached", 2)
    assert "front-end connected" in cli.run("logs", VM, "disk0.backend").stdout
    assert cli.run("down", "-t", "0").returncode == 0
    assert not left_of()


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        (["/no/such/program", "{socket}"], 4, "cannot start disk0.backend: /no/such/program: No such file"),
        ([sys.executable, "-c", "import sys; sys.exit('no {socket}')"], 4, "vm.toml:8: disk0.backend: "),
    ],
    ids=["absent", "fails"],
)
def test_one_that_does_not_start_is_said_in_one_line(cli: Cli, command: list[str], status: int, text: str) -> None:
    vm(cli, command)

    done = cli.run("up", "--wait")

    assert done.returncode == status
    assert text in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not left_of()
