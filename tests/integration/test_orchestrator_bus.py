"""What a user sees of a running VM: bus tools, inspect, pause and resume, logs."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc.perf_map import path_of
from tests.conftest import VM, Cli
from tests.integration.test_orchestrator_up import vm


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Return the command line in the folder of a VM whose hart interprets."""
    cli = Cli(tmp_path_factory.mktemp("vm"))
    vm(cli)
    done = cli.run("up", "--wait", "--set", "vm.engine=interp")
    assert done.returncode == 0, done.stderr
    yield cli
    cli.close()


def in_shell(cli: Cli, command: str) -> str:
    """Run a command as a user would, with the VM's environment."""
    environment = cli.run("env").stdout.strip()
    done = subprocess.run(
        ["sh", "-c", f"{environment}; {command}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("busctl") is None, reason="no busctl")
def test_busctl_shows_the_tree_and_reads_properties(running: Cli) -> None:
    tree = in_shell(running, "busctl --user tree org.busvm.machine --list")
    assert {"/org/busvm/machine", "/org/busvm/machine/cpu/0", "/org/busvm/device/disk0"} <= set(tree.split())
    assert (
        in_shell(running, "busctl --user get-property org.busvm.machine /org/busvm/machine org.busvm.Machine1 State")
        == 's "running"\n'
    )
    assert "queue_size" in in_shell(
        running,
        "busctl --user call org.busvm.device.disk0 /org/busvm/device/disk0 org.busvm.Registers1 List",
    )


@pytest.mark.skipif(shutil.which("gdbus") is None, reason="no gdbus")
def test_gdbus_introspects_the_device(running: Cli) -> None:
    shown = in_shell(
        running, "gdbus introspect --session --dest org.busvm.device.disk0 --object-path /org/busvm/device/disk0"
    )

    assert "interface org.busvm.Device1" in shown
    assert "in  a{sv} offer" in shown


def test_inspect_shows_machine_and_device(running: Cli) -> None:
    machine = json.loads(running.run("inspect", "--json").stdout)
    assert machine["machine"]["State"] == "running"
    assert machine["machine"]["MemorySize"] == 32 << 20
    assert {"ram", "uart0"} <= {region["name"] for region in machine["memory_map"]}
    assert {"pc", "sp", "mstatus"} <= set(machine["harts"][0]["Registers"])
    assert machine["devices"][0]["Slot"] == "00:01.0"
    assert "hart 0" in running.run("inspect", VM).stdout
    for words in (["disk0"], [VM, "disk0"]):
        device = json.loads(running.run("inspect", *words, "--json").stdout)
        assert device["device"]["Type"] == "virtio-blk"
        assert "queue_size" in {register["name"] for register in device["registers"]}
        assert device["queues"][0]["ready"] == 1
    assert "REGISTER" in running.run("inspect", "disk0").stdout
    assert running.run("inspect", VM, "disk7").returncode == 3


@pytest.fixture(scope="module")
def translating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Return the command line in the folder of a VM whose hart translates."""
    cli = Cli(tmp_path_factory.mktemp("translating"))
    cli.write("vm.toml", f'[vm]\nname = "{VM}x"\nmemory = "32M"\nengine = "translate"\nperf_map = true\n')
    done = cli.run("up", "--wait")
    assert done.returncode == 0, done.stderr
    processes = json.loads(cli.run("ps", f"{VM}x", "--json").stdout)["processes"]
    yield cli
    cli.close()
    for process in processes:
        path_of(process["pid"]).unlink(missing_ok=True)


def test_inspect_shows_what_an_engine_has_done(running: Cli, translating: Cli) -> None:
    hart = json.loads(running.run("inspect", VM, "--json").stdout)["harts"][0]
    assert hart["Engine"] == "interpreter"
    assert hart["Translator"] == {}
    assert hart["Mips"] >= 0
    assert "Translator" not in running.run("inspect", VM).stdout
    hart = json.loads(translating.run("inspect", "--json").stdout)["harts"][0]
    assert hart["Engine"] == "translator"
    assert hart["Translator"]["blocks"] > 100
    assert hart["Translator"]["code_bytes"] > 10_000
    shown = translating.run("inspect").stdout
    (line,) = (line for line in shown.splitlines() if line.startswith("  Translator: "))
    assert " blocks, 0." in line
    assert " MB of code, " in line
    assert " 0 flushes, " in line
    assert line.endswith(" % of instructions interpreted")
    assert "\n  Mips: " in shown


def test_inspect_writes_the_device_tree(running: Cli) -> None:
    assert running.run("inspect", "--dtb", "machine.dtb").returncode == 0

    assert (running.folder / "machine.dtb").read_bytes()[:4] == b"\xd0\x0d\xfe\xed"


def test_pause_stops_guest_time_and_resume_goes_on(running: Cli) -> None:
    def instructions() -> int:
        return int(json.loads(running.run("inspect", "--json").stdout)["machine"]["Clock"])

    assert running.run("pause").returncode == 0
    assert json.loads(running.run("ps", "--json").stdout)[0]["state"] == "paused"
    first = instructions()
    assert instructions() == first
    assert running.run("resume").returncode == 0
    assert json.loads(running.run("ps", "--json").stdout)[0]["state"] == "running"
    assert instructions() > first


def test_logs_show_all_processes_and_the_console_when_named(running: Cli) -> None:
    lines = running.run("logs").stdout.splitlines()

    assert {"cpu", "disk0", "orchestrator"} <= {line.split()[0] for line in lines}
    assert any("report: 2 functions" in line for line in running.run("logs", "console").stdout.splitlines())
    assert len(running.run("logs", VM, "-n", "2", "--json").stdout.splitlines()) == 2


def test_doctor_finds_this_host_fit(running: Cli) -> None:
    done = running.run("doctor", "--json")

    assert done.returncode == 0
    levels = {check["name"]: check["level"] for check in json.loads(done.stdout)}
    assert levels["dbus-daemon"] == levels["compiled CPU"] == "ok"
    assert levels["translator"] == ("ok" if platform.machine() == "x86_64" else "missing")
    assert "dbus-daemon" in running.run("doctor").stdout


def test_a_perf_map_is_written_on_request_and_at_the_end(running: Cli, translating: Cli) -> None:
    done = running.run("inspect", VM, "--perf-map")
    assert done.returncode == 1
    assert "no translated code to name: the interpreter executes" in done.stderr
    done = translating.run("inspect", "--perf-map")
    path = Path(done.stdout.split(":")[0])
    lines = path.read_text().splitlines()
    assert done.stdout == f"{path}: {len(lines)} blocks\n"
    assert all(re.fullmatch("[0-9a-f]+ [0-9a-f]+ guest:0x8[0-9a-f]{7}", line) for line in lines)
    path.unlink()
    assert translating.run("down").returncode == 0
    assert len(path.read_text().splitlines()) >= len(lines)
