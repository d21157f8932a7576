"""``up`` with real processes: exit statuses, console, start by hand, two VMs, an ordinary user."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.memory import SHM, shm_name
from protocol.names import Runtime
from tests.conftest import VM, Cli

WAIT_S = 60.0


def vm(cli: Cli, cmdline: str = "", *, name: str = VM, extra: str = "", disk: bool = True) -> Path:
    """Write a vm.toml of the embedded guest."""
    cli.disk()
    device = f'[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "disk.img"\n{extra}' if disk else ""
    return cli.write(
        "vm.toml", f"[vm]\nname = {json.dumps(name)}\nmemory = '32M'\n[boot]\ncmdline = {json.dumps(cmdline)}\n{device}"
    )


def wait_for(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def left_of(name: str = VM) -> list[str]:
    """Return what a VM has left behind."""
    runtime = Runtime(name)
    found = [str(path) for path in SHM.glob(shm_name(name, "*"))]
    return found + ([str(runtime.folder)] if runtime.folder.exists() else [])


class Keyboard:
    """A command on a terminal of its own."""

    def __init__(self, cli: Cli, *arguments: str) -> None:
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cli.folder)
            os.execve(sys.executable, cli.command(*arguments), cli.env)

    def expect(self, text: bytes) -> None:
        """Wait until ``text`` has been printed."""
        deadline = time.monotonic() + WAIT_S
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.fd], [], [], 0.2)[0]:
                self.seen += os.read(self.fd, 65536)

    def type(self, data: bytes) -> None:
        """Press keys."""
        os.write(self.fd, data)

    def end(self) -> int:
        """Read to the end and return the exit status."""
        while True:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                break
            if not data:
                break
            self.seen += data
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.parametrize("status", [0, 7])
def test_up_ends_with_the_guests_status_and_stdout_has_the_console_alone(cli: Cli, status: int) -> None:
    vm(cli, f"run=d r 0;q {status}")

    done = cli.run("up")

    assert done.returncode == status
    assert done.stdout.lstrip().startswith("busvm embedded guest")
    assert "read: disk=0 sector=0 count=1 status=0" in done.stdout
    assert done.stderr == ""
    assert left_of() == []


def test_without_any_file_the_embedded_guest_boots(cli: Cli) -> None:
    done = cli.run("up", "--name", VM, "--set", "boot.cmdline=run=q 5")

    assert done.returncode == 5
    assert "report: 1 functions" in done.stdout


def test_standard_input_reaches_the_guest_and_its_end_ends_nothing(cli: Cli) -> None:
    vm(cli)
    process = cli.start("up")
    assert process.stdin is not None
    assert process.stdout is not None
    while b"report:" not in process.stdout.readline():
        pass
    process.stdin.write(b"q 6\n")
    process.stdin.close()

    assert process.wait(WAIT_S) == 6


def test_detached_it_runs_until_down_which_may_be_repeated(cli: Cli) -> None:
    vm(cli)

    assert cli.run("up", "-d", "--wait").returncode == 0

    shown = json.loads(cli.run("ps", VM, "--json").stdout)
    assert shown["name"] == VM
    assert shown["state"] == "running"
    assert shown["bus"] == Runtime(VM).bus_address
    assert [p["id"] for p in shown["processes"]] == ["bus", "cpu", "disk0"]
    disk = shown["processes"][2]
    assert disk | {"pid": 0, "rss": 0} == {
        "id": "disk0",
        "type": "virtio-blk",
        "pid": 0,
        "state": "attached",
        "slot": "00:01.0",
        "epoch": 1,
        "restarts": 0,
        "rss": 0,
        "note": "",
    }
    assert all(p["pid"] > 0 and p["rss"] > 1 << 20 for p in shown["processes"])
    assert cli.run("ps", "-q").stdout == f"{VM}\n"
    assert "running" in cli.run("ps").stdout
    for _ in range(2):
        assert cli.run("down").returncode == 0
    assert cli.run("ps", "-q").stdout == ""
    assert left_of() == []


def test_folders_and_sockets_are_private(cli: Cli) -> None:
    vm(cli)
    assert cli.run("up", "--wait").returncode == 0

    folder = Runtime(VM).folder
    modes = {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.iterdir()]}

    assert all(mode & 0o077 == 0 for mode in modes.values()), modes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_takes_the_vm_down(cli: Cli, number: int) -> None:
    vm(cli)
    process = cli.start("up")
    assert process.stdout is not None
    while b"report:" not in process.stdout.readline():
        pass

    process.send_signal(number)

    assert process.wait(WAIT_S) == 128 + number
    assert left_of() == []


def test_a_signal_during_the_start_leaves_nothing(cli: Cli) -> None:
    vm(cli)
    process = cli.start("up")
    wait_for(Runtime(VM).plan.exists)

    process.send_signal(signal.SIGTERM)

    process.wait(WAIT_S)
    assert left_of() == []


def test_on_a_terminal_ctrl_c_reaches_the_guest_and_ctrl_bracket_ends_the_vm(cli: Cli) -> None:
    vm(cli)
    keyboard = Keyboard(cli, "up")
    keyboard.expect(b"busvm> ")
    keyboard.type(b"\x03")
    keyboard.type(b"\rd\r")
    keyboard.expect(b"kicks_saved")

    keyboard.type(b"\x1d")

    assert keyboard.end() == 0
    assert left_of() == []


def test_console_joins_and_leaves_a_running_vm(cli: Cli) -> None:
    vm(cli)
    assert cli.run("up", "--wait").returncode == 0
    keyboard = Keyboard(cli, "console")
    keyboard.expect(b"busvm> ")

    keyboard.type(b"\x1d")

    assert keyboard.end() == 0
    assert f"{VM} goes on".encode() in keyboard.seen
    assert cli.run("ps", "-q").stdout == f"{VM}\n"
    assert cli.run("console", stdin="q 0\n").returncode == 0
    wait_for(lambda: left_of() == [])


def test_a_reader_that_goes_away_takes_the_vm_down(cli: Cli) -> None:
    vm(cli)
    process = cli.start("up")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()

    process.wait(WAIT_S)

    wait_for(lambda: left_of() == [])


def test_two_vms_at_once_and_commands_that_need_a_name_then(cli: Cli) -> None:
    vm(cli, disk=False)
    file = cli.folder / "vm.toml"
    other = file.rename(cli.folder / "other.toml")
    for name in (f"{VM}a", f"{VM}b"):
        assert cli.run("up", str(other), "--name", name, "--wait").returncode == 0

    assert cli.run("ps", "-q").stdout == f"{VM}a\n{VM}b\n"
    said = cli.run("pause")
    assert (said.returncode, said.stderr) == (2, f"error: 2 VMs run: {VM}a, {VM}b (name the one you mean)\n")
    assert cli.run("down", f"{VM}a").returncode == 0
    assert cli.run("pause").returncode == 0
    assert left_of(f"{VM}a") == []
    assert cli.run("down", "--all").returncode == 0
    assert left_of(f"{VM}b") == []


def test_a_second_vm_of_the_same_name_is_refused(cli: Cli) -> None:
    vm(cli)
    assert cli.run("up", "--wait").returncode == 0
    supervisor = json.loads(cli.run("ps", VM, "--json").stdout)["supervisor"]

    again = cli.run("up")

    assert again.returncode == 4
    assert again.stderr.startswith(f"error: a VM named '{VM}' is running already, under process {supervisor} (")
    assert again.stderr.count("\n") == 1
    assert cli.run("ps", "-q").stdout == f"{VM}\n"


def test_a_device_started_by_hand_joins(cli: Cli) -> None:
    vm(cli, "run=d r 0;q 9", extra='start = "attach"\n')
    process = cli.start("up")
    assert process.stderr is not None
    announced = [process.stderr.readline().decode() for _ in range(2)]
    assert announced[0].startswith("disk0 is yours to start")
    assert "-m devproc.virtio_blk --bus unix:path=" in announced[1]

    device = subprocess.Popen(announced[1], shell=True, cwd=cli.folder, env=cli.env, stderr=subprocess.PIPE)

    assert process.wait(WAIT_S) == 9
    _, said = device.communicate(timeout=WAIT_S)
    assert b"attached" in said
    assert left_of() == []


def test_wait_gives_up_after_its_timeout(cli: Cli) -> None:
    vm(cli, extra='start = "attach"\n')

    done = cli.run("up", "--wait", "--wait-timeout", "1")

    assert done.returncode == 124
    assert "does not run yet" in done.stderr
    assert cli.run("down").returncode == 0
    assert left_of() == []


DEVICE = """\
import sys
from devproc.template.device import *
from devproc.template.__main__ import PROGRAM
from devproc.host import main
sys.exit(main(PROGRAM))
"""


def test_a_device_of_ones_own_runs_beside_the_file(cli: Cli) -> None:
    cli.write("mydevice.py", DEVICE)
    cli.write(
        "vm.toml", f"[vm]\nname='{VM}'\n[boot]\ncmdline='run=p;q 0'\n[[device]]\nid='mine'\ntype='python:mydevice'\n"
    )

    done = cli.run("up")

    assert done.returncode == 0, done.stderr
    assert "report: 2 functions" in done.stdout


def ordinary_user(folder: Path) -> list[str] | None:
    """Return the start of a command that runs as nobody with a Python that nobody may run, or ``None``."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return None
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        tried = subprocess.run(
            [*drop, "env", "-C", str(folder), python, "-c", "import orchestrator.__main__, zmq, dbus_fast, numba"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            check=False,
        )
        if tried.returncode == 0:
            return [*drop, python]
    return None


def test_an_ordinary_user_needs_no_privilege() -> None:
    with tempfile.TemporaryDirectory(prefix="bvu", dir="/tmp") as name:
        home = Path(name)
        cli = Cli(home)
        os.chown(home, 65534, 65534) if os.geteuid() == 0 else None
        python = ordinary_user(home) if os.geteuid() == 0 else [sys.executable]
        if python is None:
            pytest.skip("no Python that an ordinary user of this host may run")
        for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
            cli.env.pop(variable, None)
        cli.env |= {"HOME": name, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        vm(cli, "run=d w 0 8 1;q 4")
        if os.geteuid() == 0:
            os.chown(home / "disk.img", 65534, 65534)

        done = subprocess.run(
            [*python, "-m", "orchestrator", "up"],
            cwd=home,
            env=cli.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

        assert done.returncode == 4, done.stderr + done.stdout
        assert "compiling the CPU" in done.stderr
        assert re.search(r"write: disk=0 .* errors=0 result=ok", done.stdout)
