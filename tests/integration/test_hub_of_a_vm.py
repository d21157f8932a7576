"""A hub is a process of the VM: on its bus, started again, joined by cards of other VMs; its cards come back to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import pytest

from protocol.names import Runtime
from tests.conftest import VM, Cli
from tests.integration.test_orchestrator_faults import processes, up
from tests.integration.test_orchestrator_up import left_of, wait_for

HUB = """
[vm]
memory = "32M"
[[hub]]
id = "lan"
listen = ["unix:streams"]
[[device]]
id = "net0"
type = "virtio-net"
backend = "hub"
hub = "lan"
"""


def ports() -> list[str]:
    """Return the names of the hub's ports."""
    place = ["org.busvm.hub.lan", "/org/busvm/hub/lan", "org.busvm.Hub1", "Ports"]
    command = ["busctl", f"--address={Runtime(VM).bus_address}", "get-property", *place]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return re.findall(r'"((?:card|stream)\d+)"', done.stdout)


def test_it_is_shown_started_again_and_ended(cli: Cli) -> None:
    cli.write("vm.toml", HUB.replace("[vm]", f"[vm]\nname = {json.dumps(VM)}"))
    up(cli)
    first = processes(cli)["lan"]
    assert first["type"] == "hub"
    wait_for(lambda: ports() == ["card1"])
    assert "nobody there" not in cli.run("link", VM, "net0").stdout

    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: processes(cli)["lan"]["restarts"] == 1)
    wait_for(lambda: ports() == ["card1"])
    os.kill(processes(cli)["net0"]["pid"], signal.SIGKILL)
    wait_for(lambda: ports() == ["card2"])
    assert cli.run("restart", "lan").returncode == 0
    wait_for(lambda: ports() == ["card1"])

    assert cli.run("down", "-t", "0").returncode == 0
    assert not left_of()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["disk9"], 3, "disk9"),
        (["lan"], 1, "lan is no network card"),
        (["net0", "up", "down"], 3, ""),
    ],
)
def test_the_link_of_what_is_no_card(cli: Cli, words: list[str], status: int, text: str) -> None:
    cli.write("vm.toml", HUB.replace("[vm]", f"[vm]\nname = {json.dumps(VM)}"))
    up(cli)
    done = cli.run("link", VM, *words)
    assert done.returncode == status
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert cli.run("link", VM, "net0", "down").returncode == 0
    assert "net0: down" in cli.run("link", VM, "net0").stdout
