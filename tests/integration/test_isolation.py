"""What a device process that was taken over, and another user of the host, cannot do (docs/security.md)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devproc.sandbox import landlock, seccomp
from orchestrator.client import ask
from protocol import names
from protocol.bus import Bus
from protocol.names import Runtime
from tests.conftest import VM, Cli
from tests.integration.test_orchestrator_faults import processes, up
from tests.integration.test_orchestrator_up import wait_for

HOSTILE = Path(__file__).with_name("hostile.py")
DEVICES = """
[vm]
name = "{vm}"
memory = "32M"
[[device]]
id = "bad"
type = "python:hostile:Hostile"
[[device]]
id = "rng0"
type = "virtio-rng"
[[device]]
id = "con"
type = "virtio-console"
socket = "con.sock"
"""
pytestmark = pytest.mark.skipif(
    not landlock.version(landlock.libc_syscall()) or seccomp.library() is None,
    reason="this host has no Landlock or no libseccomp",
)


def order(value: int) -> None:
    """Have the device do something."""
    place = names.device_name("bad"), names.device_path("bad"), "org.busvm.Registers1", "Write", "st", ["order", value]
    ask(Runtime(VM), lambda client: client.bus.call(*place, timeout_s=5.0))


@pytest.fixture
def running(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Run a VM with a device that is about to be taken over."""
    secret = tmp_path_factory.mktemp("other") / "secret.img"
    secret.write_bytes(bytes(512))
    cli.env |= {"HOSTILE_VM": VM, "HOSTILE_SECRET": str(secret)}
    shutil.copy(HOSTILE, cli.folder)
    cli.write("vm.toml", DEVICES.format(vm=VM))
    (cli.folder / "pids").mkdir()
    up(cli)
    for name, shown in processes(cli).items():
        (cli.folder / "pids" / name).write_text(str(shown["pid"]))
    return cli


def said(cli: Cli, what: str) -> str:
    """Return the line of a process's log with ``what`` in it, once it is there."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [line for line in cli.run("logs", VM).stdout.splitlines() if what in line]
        return bool(found)

    wait_for(look)
    return found[0]


def test_a_device_that_was_taken_over_keeps_to_itself(running: Cli) -> None:
    before = processes(running)
    order(1)
    line = said(running, "tried {")
    tried: dict[str, Any] = json.loads(line[line.index("{") : line.rindex("}") + 1].replace('\\"', '"'))
    assert tried.pop("read the machine's state") == "done"
    assert tried.pop("be a device that is away") == "done"  # the bus lets it, the machine does not
    assert "takes the name of another device" in said(running, "dev=away attach failed")
    assert tried.pop("join the console") == "hung up"
    assert tried.pop("debug the guest") == "hung up"
    refused = {"PermissionError", "AccessDenied", "BusError", "HostError"}
    assert {what: came for what, came in tried.items() if came not in refused} == {}
    assert len(tried) >= 25
    after = processes(running)
    assert {name: shown["pid"] for name, shown in after.items()} == {
        name: shown["pid"] for name, shown in before.items()
    }
    assert "turned away at the console" in said(running, "turned away at the console")
    assert "refused org.busvm." in said(running, "refused org.busvm.")


def test_a_call_that_no_device_makes_ends_it_and_it_is_started_again(running: Cli) -> None:
    pid = processes(running)["bad"]["pid"]
    with pytest.raises(Exception, match=r".*"):
        order(2)
    wait_for(lambda: processes(running)["bad"]["pid"] not in (0, pid))
    assert "was killed by SIGSYS, for it made a system call that its sandbox forbids" in said(running, "SIGSYS")


def test_people_may_call_everything(running: Cli) -> None:
    async def story() -> list[Any]:
        bus = await Bus.connect(Runtime(VM).bus_address)
        machine = names.MACHINE_NAME, names.MACHINE_PATH, "org.busvm.Machine1"
        found = await bus.call(*machine, "ReadMemory", "tu", [0x8000_0000, 4])
        found += await bus.call(*machine, "PartOf", "u", [os.getpid()])
        found += await bus.call(*machine, "PartOf", "u", [processes(running)["rng0"]["pid"]])
        bus.close()
        return found

    found = asyncio.run(story())
    assert (len(found[0]), found[1:]) == (4, ["", "rng0"])


def test_sockets_are_the_users_alone_and_go_with_the_vm(running: Cli) -> None:
    folder = Runtime(VM).folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    sockets = [path for path in [*folder.iterdir(), running.folder / "con.sock"] if path.is_socket()]
    assert {re.sub(r"\.\w+\.\d+$", "", path.name) for path in sockets} == {"bus", "console", "gdb", "link", "con.sock"}
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in sockets} == {0}
    assert running.run("down", "-t", "0").returncode == 0
    assert not (running.folder / "con.sock").exists()


STRANGER = """
import socket, sys
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        try:
            sock.connect(path)
            sock.sendall(b"$?#3f")
            print("answered" if sock.recv(8) else "hung up")
        except (ConnectionResetError, BrokenPipeError):
            print("hung up")
        except OSError as error:
            print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can be somebody else")
def test_another_user_is_turned_away_even_where_modes_let_them_in(running: Cli) -> None:
    folder = Runtime(VM).folder
    paths = [folder / "console", folder / "gdb", running.folder / "con.sock"]
    somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/env", "-C", "/"]

    def tried() -> list[str]:
        script = [shutil.which("python3", path="/usr/bin") or sys.executable, "-c", STRANGER, *map(str, paths)]
        done = subprocess.run([*somebody, *script], capture_output=True, text=True, check=False)
        return done.stdout.splitlines()

    def on_bus() -> int:
        command = [*somebody, "busctl", f"--address={Runtime(VM).bus_address}", "list"]
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode

    assert tried() == ["PermissionError"] * 3
    opened = [path for path in (folder, *folder.parents, *running.folder.parents, running.folder) if path != Path("/")]
    modes = {path: path.stat().st_mode for path in [*opened, *paths, folder / "bus"]}
    try:
        for path in modes:
            path.chmod(0o777)
        assert tried() == ["hung up"] * 3
        assert on_bus() != 0
    finally:
        for path, mode in modes.items():
            path.chmod(stat.S_IMODE(mode))


def test_a_key_leaves_a_device_alone(running: Cli) -> None:
    running.write("vm.toml", DEVICES.format(vm=VM).replace('"python:hostile:Hostile"', '"virtio-rng"\nsandbox = false'))
    assert running.run("down", "-t", "0").returncode == 0
    up(running)
    status = {name: Path(f"/proc/{processes(running)[name]['pid']}/status").read_text() for name in ("bad", "rng0")}
    assert re.findall(r"Seccomp:\s(\d)", status["bad"] + status["rng0"]) == ["0", "2"]
