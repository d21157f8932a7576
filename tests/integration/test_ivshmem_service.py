"""A server of shared memory is a process of the VM: on its bus, started again, joined by programs, and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess

from devproc.ivshmem.client import Left, ServerBack, ServerGone, connect
from protocol.ivshmem import Joined
from protocol.names import Runtime
from tests.conftest import VM, Cli
from tests.integration.test_orchestrator_faults import processes, up
from tests.integration.test_orchestrator_up import left_of, wait_for

SERVICE = """
[vm]
memory = "32M"
[[service]]
id = "lan"
type = "ivshmem-server"
size = "64K"
vectors = 2
"""


def shown(member: str) -> str:
    """Return a property of the server."""
    place = ["org.busvm.ivshmem.lan", "/org/busvm/ivshmem/lan", "org.busvm.Ivshmem1", member]
    command = ["busctl", f"--address={Runtime(VM).bus_address}", "get-property", *place]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()


def test_it_is_shown_started_again_and_ended(cli: Cli) -> None:
    cli.write("vm.toml", SERVICE.replace("[vm]", f"[vm]\nname = {json.dumps(VM)}"))
    up(cli)
    first = processes(cli)["lan"]
    assert first["type"] == "ivshmem-server"
    wait_for(lambda: shown("Size") == "t 65536")
    socket = Runtime(VM).ivshmem_socket("lan")
    with connect(socket, name="a") as a, connect(socket) as b:
        assert a.wait_event(2) == Joined(1)
        a.memory[0:4] = b"kept"
        os.kill(first["pid"], signal.SIGKILL)
        assert [a.wait_event(5), a.wait_event(10)] == [ServerGone(), ServerBack()]
        wait_for(lambda: processes(cli)["lan"]["restarts"] == 1)
        assert (a.id, bytes(a.memory[0:4]), a.wait_event(0.2)) == (0, b"kept", None)
        assert [b.wait_event(5), b.wait_event(10)] == [ServerGone(), ServerBack()]
        wait_for(lambda: shown("Peers").count('"busvm"') == 2)
        b.close()
        assert a.wait_event(2) == Left(1)
        assert cli.run("down", "-t", "0").returncode == 0
        assert a.wait_event(5) == ServerGone()
    assert "peer 0 joined" in cli.run("logs", VM, "lan").stdout
    assert not left_of()


DEVICES = """
[[device]]
id = "shm0"
type = "ivshmem-doorbell"
server = "lan"
[[device]]
id = "shm1"
type = "ivshmem-flat"
server = "lan"
"""


def test_who_serves_a_guest_may_be_killed_and_nobody_notices(cli: Cli) -> None:
    cli.write("vm.toml", SERVICE.replace("[vm]", f"[vm]\nname = {json.dumps(VM)}") + DEVICES)
    up(cli)
    with connect(Runtime(VM).ivshmem_socket("lan")) as me:
        assert me.peers == {0: 2, 1: 2}
        assert f'"{VM}.shm0"' in shown("Peers")
        for name in ("shm0", "shm1"):
            os.kill(processes(cli)[name]["pid"], signal.SIGKILL)
            wait_for(lambda name=name: processes(cli)[name]["restarts"] == 1)  # type: ignore[misc]
        wait_for(lambda: '"away" 2' in shown("Counters") and '"resumed" 2' in shown("Counters"))
        assert me.wait_event(0.2) is None
        for pid in [processes(cli)[name]["pid"] for name in ("lan", "shm0")]:
            os.kill(pid, signal.SIGKILL)
        assert [me.wait_event(5), me.wait_event(10)] == [ServerGone(), ServerBack()]
        wait_for(lambda: processes(cli)["shm0"]["restarts"] == 2)
        wait_for(lambda: shown("Peers").count('"busvm" false') == 3)
        assert (me.wait_event(0.2), me.peers) == (None, {0: 2, 1: 2})
        assert cli.run("down", "-t", "0").returncode == 0
    assert not left_of()
