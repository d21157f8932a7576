"""The bus of a running VM dies: data flows on, and everybody is back on the next one at the same address."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from typing import Any

from protocol.names import Runtime
from tests.conftest import VM, Cli
from tests.integration.test_orchestrator_faults import processes, supervisor, up
from tests.integration.test_orchestrator_up import WAIT_S, left_of, vm, wait_for

STRESS = b"d s 40000 8\n"
HUB = """
[[hub]]
id = "lan"
[[device]]
id = "net0"
type = "virtio-net"
backend = "hub"
hub = "lan"
"""


def started(cli: Cli) -> subprocess.Popen[bytes]:
    """Start the VM with its console on pipes, and return when the guest takes commands."""
    process = cli.start("up")
    read_until(process, b"report:")
    wait_for(lambda: attached(cli, "disk0"))
    return process


def read_until(process: subprocess.Popen[bytes], text: bytes) -> str:
    """Return the console's line with ``text``."""
    assert process.stdout is not None
    while text not in (line := process.stdout.readline()):
        assert line, "the console has ended"
    return line.decode()


def say(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Type a line on the guest's console."""
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def attached(cli: Cli, name: str, epoch: int = 1) -> bool:
    shown: dict[str, Any] = processes(cli).get(name, {})
    return shown.get("state") == "attached" and shown.get("epoch") == epoch


def names_on_bus() -> set[str]:
    """Return the well-known names of the VM's bus."""
    command = ["busctl", f"--address={Runtime(VM).bus_address}", "list", "--acquired", "--no-legend"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return set(re.findall(r"^(org\.busvm\.\S+)", done.stdout, re.MULTILINE))


def test_everybody_comes_back_as_it_was_and_the_guest_notices_nothing(cli: Cli) -> None:
    vm(cli, extra=HUB)
    process = started(cli)
    wait_for(lambda: attached(cli, "net0"))
    names = names_on_bus()
    assert {"org.busvm.hub.lan", "org.busvm.device.disk0", "org.busvm.device.net0"} < names
    before = processes(cli)
    say(process, STRESS)

    for death in (1, 2, 3):
        os.kill(processes(cli)["bus"]["pid"], signal.SIGKILL)
        wait_for(lambda: names_on_bus() == names)
        wait_for(lambda death=death: processes(cli)["bus"]["restarts"] == death)  # type: ignore[misc]

    stress = read_until(process, b"stress:")
    after = processes(cli)
    for name in ("cpu", "disk0", "net0", "lan"):
        kept = {key: (before[name].get(key), after[name].get(key)) for key in ("pid", "epoch", "restarts", "state")}
        assert all(one == other for one, other in kept.values()), (name, kept)
    assert "errors=0" in stress
    assert cli.run("pause").returncode == 0
    assert cli.run("resume").returncode == 0
    assert cli.run("restart", "disk0").returncode == 0
    say(process, b"q 5\n")
    assert process.wait(WAIT_S) == 5
    assert left_of() == []


def test_without_a_bus_data_flows_and_who_dies_then_attaches_when_it_is_back(cli: Cli) -> None:
    vm(cli)
    process = started(cli)
    before = processes(cli)
    os.kill(process.pid, signal.SIGSTOP)  # nobody starts the bus again
    os.kill(before["bus"]["pid"], signal.SIGKILL)
    say(process, STRESS)
    time.sleep(1.0)
    os.kill(before["disk0"]["pid"], signal.SIGKILL)
    os.kill(process.pid, signal.SIGCONT)

    assert "errors=0" in read_until(process, b"stress:")

    wait_for(lambda: attached(cli, "disk0", 2))
    say(process, b"d w 0 2000 7;d v 0 2000 7;q 6\n")
    assert "errors=0" in read_until(process, b"verify:")
    assert process.wait(WAIT_S) == 6


def test_the_next_command_takes_over_what_has_neither_bus_nor_orchestrator(cli: Cli) -> None:
    vm(cli)
    up(cli)
    before = processes(cli)
    os.kill(supervisor(cli), signal.SIGKILL)
    wait_for(lambda: json.loads(cli.run("ps", VM, "--json").stdout)["supervisor"] is None)
    for name in ("bus", "disk0"):
        os.kill(before[name]["pid"], signal.SIGKILL)

    assert cli.run("up", "-d").returncode == 0

    wait_for(lambda: attached(cli, "disk0", 2))
    assert processes(cli)["cpu"]["pid"] == before["cpu"]["pid"]
    assert cli.run("down", "-t", "0").returncode == 0
    assert left_of() == []


def test_down_works_without_a_bus(cli: Cli) -> None:
    vm(cli)
    up(cli)
    os.kill(supervisor(cli), signal.SIGKILL)
    os.kill(processes(cli)["bus"]["pid"], signal.SIGKILL)

    assert cli.run("down", "-t", "1").returncode == 0

    assert left_of() == []
