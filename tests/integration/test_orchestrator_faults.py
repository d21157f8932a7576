"""Processes that die, and bad input: one line, the right exit status, nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from protocol.names import Runtime
from tests.conftest import VM, Cli
from tests.integration.test_orchestrator_up import DEVICE, WAIT_S, left_of, vm, wait_for


def processes(cli: Cli, name: str = VM) -> dict[str, dict[str, Any]]:
    """Return the processes of a VM by id."""
    done = cli.run("ps", name, "--json")
    shown = json.loads(done.stdout) if done.returncode == 0 else {"processes": []}
    return {process["id"]: process for process in shown["processes"]}


def supervisor(cli: Cli) -> int:
    return int(json.loads(cli.run("ps", VM, "--json").stdout)["supervisor"])


def up(cli: Cli) -> None:
    done = cli.run("up", "--wait")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("bus", "slot"), [("pci", "00:01.0"), ("mmio", "virtio_mmio@10001000")])
def test_a_killed_device_comes_back_with_the_next_epoch(cli: Cli, bus: str, slot: str) -> None:
    vm(cli, extra=f'bus = "{bus}"\n')
    up(cli)
    before = processes(cli)["disk0"]
    assert before["slot"] == slot

    os.kill(before["pid"], signal.SIGKILL)

    wait_for(lambda: processes(cli)["disk0"]["epoch"] == 2 and processes(cli)["disk0"]["state"] == "attached")
    after = processes(cli)["disk0"]
    assert after["restarts"] == 1
    assert after["pid"] != before["pid"]
    log = cli.run("logs", VM, "orchestrator").stdout
    assert "was killed by SIGKILL" in log


def test_a_terminal_that_was_stopped_holds_nobody_up(cli: Cli) -> None:
    vm(cli)
    machine = cli.start("up")
    wait_for(lambda: processes(cli).get("disk0", {}).get("state") == "attached")
    stopped = os.open(f"/proc/{machine.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)  # a pipe, full from now on
    with contextlib.suppress(BlockingIOError):
        while os.write(stopped, bytes(16)):
            pass
    os.close(stopped)

    os.kill(processes(cli)["disk0"]["pid"], signal.SIGKILL)
    wait_for(lambda: processes(cli)["disk0"]["epoch"] == 2 and processes(cli)["disk0"]["state"] == "attached")

    assert machine.stderr is not None
    assert b"disk0 was killed by SIGKILL; starting it again" in machine.stderr.readline()
    assert cli.run("down", "-t", "0").returncode == 0
    machine.communicate(timeout=WAIT_S)


def test_restart_replaces_the_process_and_returns_when_it_is_attached(cli: Cli) -> None:
    vm(cli)
    up(cli)
    before = processes(cli)["disk0"]

    assert cli.run("restart", "disk0").returncode == 0

    after = processes(cli)["disk0"]
    assert (after["state"], after["epoch"], after["restarts"]) == ("attached", 2, 1)
    assert after["pid"] != before["pid"]
    assert cli.run("restart", "disk1").returncode == 3
    assert cli.run("restart", "cpu").returncode == 1


def test_a_device_that_stays_down_is_said_and_can_be_started_again(cli: Cli) -> None:
    vm(cli, extra='restart = "no"\n')
    up(cli)

    os.kill(processes(cli)["disk0"]["pid"], signal.SIGKILL)

    wait_for(lambda: processes(cli)["disk0"]["state"] == "failed")
    text = cli.run("ps", VM).stdout
    assert 'disk0 was killed by SIGKILL and stays down: restart = "no"' in text
    assert cli.run("restart", "disk0").returncode == 0
    assert processes(cli)["disk0"]["state"] == "attached"


def test_the_vm_outlives_its_orchestrator_and_up_takes_it_over(cli: Cli) -> None:
    vm(cli)
    up(cli)
    cpu = processes(cli)["cpu"]["pid"]
    os.kill(supervisor(cli), signal.SIGKILL)
    wait_for(lambda: json.loads(cli.run("ps", VM, "--json").stdout)["supervisor"] is None)
    os.kill(processes(cli)["disk0"]["pid"], signal.SIGKILL)

    process = cli.start("up")

    assert process.stderr is not None
    assert b"taken over" in process.stderr.readline()
    wait_for(lambda: processes(cli)["disk0"]["state"] == "attached")
    assert processes(cli)["cpu"]["pid"] == cpu
    assert process.stdin is not None
    process.stdin.write(b"q 12\n")
    process.stdin.close()
    assert process.wait(WAIT_S) == 12
    assert left_of() == []


def test_down_works_without_an_orchestrator(cli: Cli) -> None:
    vm(cli)
    up(cli)
    os.kill(supervisor(cli), signal.SIGKILL)

    assert cli.run("down").returncode == 0

    assert left_of() == []


def test_down_ends_a_machine_that_does_not_answer(cli: Cli) -> None:
    vm(cli)
    up(cli)
    for process in processes(cli).values():
        os.kill(process["pid"], signal.SIGSTOP)

    assert cli.run("down", "-t", "1").returncode == 0

    assert left_of() == []


def test_a_killed_machine_ends_the_vm_with_an_error(cli: Cli) -> None:
    vm(cli)
    process = cli.start("up")
    wait_for(lambda: processes(cli).get("disk0", {}).get("state") == "attached")

    os.kill(processes(cli)["cpu"]["pid"], signal.SIGKILL)

    assert process.wait(WAIT_S) == 1
    assert process.stderr is not None
    assert b"error: the machine process was killed by SIGKILL" in process.stderr.read()
    assert left_of() == []


def test_up_cleans_what_a_killed_vm_left(cli: Cli) -> None:
    vm(cli, "run=q 3")
    cli.write("other.toml", f"[vm]\nname='{VM}'\n")
    assert cli.run("up", "other.toml", "--wait").returncode == 0
    for pid in (supervisor(cli), processes(cli)["cpu"]["pid"]):
        os.kill(pid, signal.SIGKILL)
    assert left_of() != []
    assert "dead" in cli.run("ps").stdout

    assert cli.run("up").returncode == 3

    assert left_of() == []


def test_a_vm_of_the_same_name_from_another_file_is_not_taken_over(cli: Cli) -> None:
    vm(cli)
    up(cli)
    cli.write("other.toml", f"[vm]\nname='{VM}'\n")
    os.kill(supervisor(cli), signal.SIGKILL)
    wait_for(lambda: json.loads(cli.run("ps", VM, "--json").stdout)["supervisor"] is None)

    done = cli.run("up", "other.toml")

    assert done.returncode == 4
    assert f"runs already, started from {cli.folder}/vm.toml" in done.stderr


# bad input (each with the exit status that says whose fault it is)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of standard error."""
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert left_of() == []
    return done.stderr


@pytest.mark.parametrize("detached", [[], ["-d", "--wait"]])
def test_a_kernel_that_is_none_is_named_with_line_and_key(cli: Cli, detached: list[str]) -> None:
    vm(cli)
    cli.write("Image", "not a kernel at all, but long enough to be looked at" * 100)
    done = cli.run("up", *detached, "--set", "boot.kernel=Image")
    assert (done.returncode, "boot.kernel: " in one_line(done)) == (2, True)
    cli.write("vm.toml", f"[vm]\nname='{VM}'\n[boot]\nkernel='Image'\n")

    done = cli.run("up", *detached)

    assert done.returncode == 2
    assert one_line(done).startswith("error: vm.toml:4: boot.kernel: ")


def test_a_locked_image_is_named_with_line_key_and_holder(cli: Cli) -> None:
    vm(cli)
    with (cli.folder / "disk.img").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)

        done = cli.run("up")

        assert done.returncode == 4
        line = one_line(done)
        assert line.startswith("error: vm.toml:9: disk0.image: ")
        assert "locked" in line


def test_a_device_that_dies_at_once_is_named_with_its_last_words(cli: Cli) -> None:
    cli.write("mydevice.py", "import sys\nraise RuntimeError('no luck')\n")
    cli.write("vm.toml", f"[vm]\nname='{VM}'\n[[device]]\nid='mine'\ntype='python:mydevice'\n")

    done = cli.run("up")

    assert done.returncode == 4
    assert one_line(done).startswith(
        "error: vm.toml:4: mine: ended with status 1 before the VM ran: RuntimeError: no luck"
    )


def test_a_device_that_dies_while_attaching_is_named(cli: Cli) -> None:
    cli.write(
        "mydevice.py",
        "import os\nfrom devproc.template.device import *\nimport devproc.loop\n"
        "devproc.loop.DeviceLoop.attach = lambda *_: os._exit(11)\n" + DEVICE,
    )
    cli.write("vm.toml", f"[vm]\nname='{VM}'\n[[device]]\nid='mine'\ntype='python:mydevice'\n")

    done = cli.run("up")

    assert done.returncode == 4
    assert one_line(done).startswith("error: vm.toml:4: mine: ended with status 11 before the VM ran")


def test_a_device_option_that_is_wrong_is_a_configuration_error(cli: Cli) -> None:
    vm(cli, extra='args = ["--nonsense"]\n')

    done = cli.run("up")

    assert done.returncode == 2
    assert one_line(done).startswith("error: vm.toml:7: disk0: unrecognized arguments: --nonsense")


def test_a_missing_dbus_daemon_is_named_with_its_package(cli: Cli, tmp_path: Path) -> None:
    vm(cli)
    cli.env["PATH"] = str(tmp_path)

    done = cli.run("up")

    assert done.returncode == 4
    assert one_line(done) == ("error: the program dbus-daemon is missing (on Debian and Ubuntu: apt install dbus)\n")


def test_more_memory_than_dev_shm_has(cli: Cli) -> None:
    vm(cli)

    done = cli.run("up", "--set", "vm.memory=512T")

    assert done.returncode == 4
    assert one_line(done).startswith("error: no space in /dev/shm: the VM's memory is 512T")


def test_a_runtime_folder_with_a_path_too_long(cli: Cli) -> None:
    vm(cli)
    cli.env["XDG_RUNTIME_DIR"] = str(cli.folder / ("x" * 100))

    done = cli.run("up")

    assert done.returncode == 4
    assert "too long for a socket" in one_line(done)


def test_logs_of_a_vm_that_failed_can_be_read(cli: Cli) -> None:
    cli.write("mydevice.py", "raise SystemExit('bye')\n")
    cli.write("vm.toml", f"[vm]\nname='{VM}'\n[[device]]\nid='mine'\ntype='python:mydevice'\n")
    cli.run("up")

    assert "mine         | bye" in cli.run("logs", VM, "mine").stdout


def test_a_socket_left_by_a_dead_bus_is_no_obstacle(cli: Cli) -> None:
    vm(cli, "run=q 2")
    runtime = Runtime(VM)
    runtime.prepare()
    runtime.bus_socket.touch()
    runtime.console_socket.touch()

    assert cli.run("up").returncode == 2

    assert left_of() == []


def test_a_stopped_device_stops_guest_time_and_nothing_times_out(cli: Cli) -> None:
    vm(cli)
    process = cli.start("up")
    wait_for(lambda: processes(cli).get("disk0", {}).get("state") == "attached")
    disk = processes(cli)["disk0"]["pid"]
    os.kill(disk, signal.SIGSTOP)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"b r\n")
    process.stdin.flush()

    assert b"guest time stands still: disk0 does not answer" in process.stderr.readline()
    assert processes(cli)["disk0"]["state"] == "stopped"
    assert json.loads(cli.run("ps", VM, "--json").stdout)["state"] == "stalled"
    os.kill(disk, signal.SIGCONT)
    wait_for(lambda: json.loads(cli.run("ps", VM, "--json").stdout)["state"] == "running")
    process.stdin.write(b"q 8\n")
    process.stdin.close()
    assert process.wait(WAIT_S) == 8
