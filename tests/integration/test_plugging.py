"""Devices that come and go while the VM runs: orders, what the bus shows, deaths, takeover, the end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from protocol.memory import SHM, shm_name
from tests.conftest import VM, Cli
from tests.integration.test_back_ends_of_a_vm import DISK
from tests.integration.test_orchestrator_bus import in_shell
from tests.integration.test_orchestrator_faults import processes, supervisor, up
from tests.integration.test_orchestrator_up import left_of, wait_for

DECLARED = """\
[[device]]
id = "disk0"
type = "virtio-blk"
image = "disk.img"
bus = "pcie"
plugged = false
[[device]]
id = "fixed"
type = "virtio-rng"
"""
REFUSALS = [
    (["attach", "disk7"], 3, "no device 'disk7' in this VM (--type describes one"),
    (["attach", "fixed"], 1, "fixed is plugged in already"),
    (["attach", "disk0", "--type", "virtio-rng"], 1, "vm.toml describes disk0 already"),
    (["attach", "disk0", "--set", "image=x"], 2, "--set describes a device together with --type"),
    (["attach", "new", "--type", "virtio-bkl"], 2, "device.type: unknown type 'virtio-bkl' (did you mean"),
    (["attach", "new", "--type", "virtio-blk"], 2, "device.image: missing"),
    (["attach", "new", "--type", "virtio-blk", "--set", "image=no.img"], 2, "device.image: no such file"),
    (["attach", "new", "--type", "virtio-rng", "--set", "id=x"], 2, "--set id=x: not KEY=VALUE"),
    (["attach", "new", "--type", "python:no_such_module"], 1, "new ended before it joined the machine"),
    (["attach", "new", "--type", "virtio-rng"], 1, "no hot-plug port is free"),
    (["detach", "fixed"], 1, "fixed at 00:01.0 is not behind a hot-plug port"),
    (["detach", "disk0"], 1, "disk0 is not plugged in"),
    (["detach", "new"], 3, "no device 'new' in this VM"),
    (["restart", "disk0"], 1, "disk0 is not plugged in (`orchestrator attach"),
]


def vm(cli: Cli, ports: int = 1) -> None:
    """Write a vm.toml with a device to be plugged in, one that cannot be, and empty ports."""
    cli.disk()
    cli.disk("more.img")
    cli.env["PYTHONPATH"] = str(Path(__file__).parents[2])
    cli.write("vm.toml", f"[vm]\nname = '{VM}'\nmemory = '32M'\nhotplug-ports = {ports}\n{DECLARED}")


def did(cli: Cli, *words: str) -> str:
    """Run a command that succeeds; return what it says beside its output."""
    done = cli.run(*words)
    assert done.returncode == 0, done.stderr
    return done.stderr


def state(cli: Cli, name: str) -> tuple[Any, ...]:
    """Return state, slot and epoch of a device."""
    shown = processes(cli)[name]
    return shown["state"], shown["slot"], shown["epoch"]


def port(cli: Cli, index: int) -> dict[str, Any]:
    """Return Port1 of a port as the bus shows it."""
    words = f"busctl --user --json=short call org.busvm.machine /org/busvm/machine/port/{index} "
    shown = in_shell(cli, words + "org.freedesktop.DBus.Properties GetAll s org.busvm.Port1")
    return {name: value["data"] for name, value in json.loads(shown)["data"][0].items()}


def test_what_vm_toml_declares_comes_and_goes(cli: Cli) -> None:
    vm(cli)
    up(cli)
    assert state(cli, "disk0") == ("unplugged", "00:10.0/00.0", 0)
    assert state(cli, "fixed")[0] == "attached"

    for epoch in (1, 2, 3):
        assert "echo 1 > /sys/bus/pci/rescan" in did(cli, "attach", "disk0")
        assert state(cli, "disk0") == ("attached", "00:10.0/00.0", epoch)
        assert port(cli, 0) | {"Device": "disk0", "Power": True, "Link": True, "Driver": False} == port(cli, 0)
        did(cli, "detach", VM, "disk0")
        assert state(cli, "disk0") == ("unplugged", "00:10.0/00.0", 0)
        assert not port(cli, 0)["Device"]
        assert not (SHM / shm_name(VM, "dev.disk0")).exists()

    assert cli.run("down", "-t", "0").returncode == 0
    assert not left_of()


def test_what_is_described_stays_until_it_is_detached(cli: Cli) -> None:
    vm(cli)
    up(cli)
    did(cli, "attach", VM, "more", "--type", "virtio-blk", "--set", "image=more.img")
    assert state(cli, "more") == ("attached", "00:11.0/00.0", 1)

    os.kill(processes(cli)["more"]["pid"], signal.SIGKILL)
    wait_for(lambda: state(cli, "more") == ("attached", "00:11.0/00.0", 2))
    os.kill(supervisor(cli), signal.SIGKILL)
    wait_for(lambda: json.loads(cli.run("ps", VM, "--json").stdout)["supervisor"] is None)
    assert "nobody supervises" in cli.run("detach", "more").stderr
    os.kill(processes(cli)["more"]["pid"], signal.SIGKILL)
    assert "configuration has changed" not in did(cli, "up", "-d")
    wait_for(lambda: state(cli, "more") == ("attached", "00:11.0/00.0", 3))
    assert state(cli, "disk0")[0] == "unplugged"
    did(cli, "restart", "more")
    assert state(cli, "more")[2] == 4
    did(cli, "detach", "more")
    assert "more" not in processes(cli)
    assert "/org/busvm/device/more" not in in_shell(cli, "busctl --user tree org.busvm.machine --list")

    did(cli, "attach", "more", "--type", "virtio-rng")
    assert processes(cli)["more"]["type"] == "virtio-rng"
    assert cli.run("down", "-t", "0").returncode == 0
    assert not left_of()


def test_a_guest_that_keeps_it_and_one_that_is_not_asked(cli: Cli) -> None:
    vm(cli)
    up(cli)
    did(cli, "attach", "disk0")
    mastering = "busctl --user call org.busvm.device.disk0 /org/busvm/device/disk0 org.busvm.Registers1 Write st"
    in_shell(cli, f"{mastering} pci_command 6")  # as a driver would

    kept = cli.run("detach", "disk0", "--timeout", "0.2")
    assert kept.returncode == 1
    assert kept.stderr.startswith("error: the guest has not let go of disk0 in 0.2 s (a guest without")
    assert len(kept.stderr.splitlines()) == 1
    assert state(cli, "disk0")[0] == "attached"
    did(cli, "detach", "disk0", "--force")
    assert state(cli, "disk0")[0] == "unplugged"


def test_one_that_dies_while_its_guest_is_asked_comes_back_and_then_goes(cli: Cli) -> None:
    vm(cli)
    up(cli)
    did(cli, "attach", "disk0")
    write = "busctl --user call org.busvm.device.disk0 /org/busvm/device/disk0 org.busvm.Registers1 Write st"
    in_shell(cli, f"{write} pci_command 6")

    asking = cli.start("detach", "disk0")
    wait_for(lambda: "asked to detach disk0" in cli.run("logs", VM, "orchestrator").stdout)
    os.kill(processes(cli)["disk0"]["pid"], signal.SIGKILL)
    wait_for(lambda: state(cli, "disk0")[::2] == ("attached", 2))
    assert asking.poll() is None
    in_shell(cli, f"{write} pci_command 2")

    assert asking.wait(20) == 0
    assert state(cli, "disk0")[0] == "unplugged"


def test_a_dead_device_that_the_guest_waits_for_can_be_pulled(cli: Cli) -> None:
    vm(cli)
    up(cli)
    did(cli, "attach", "disk0")
    os.kill(processes(cli)["disk0"]["pid"], signal.SIGSTOP)
    did(cli, "detach", "disk0", "--force")
    assert state(cli, "disk0")[0] == "unplugged"
    did(cli, "attach", "disk0")
    assert state(cli, "disk0")[0] == "attached"


def test_refusals_are_one_line_and_change_nothing(cli: Cli) -> None:
    vm(cli, ports=0)
    up(cli)
    for words, status, text in REFUSALS:
        done = cli.run(*words)
        assert text in done.stderr
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == 1
        assert set(processes(cli)) == {"bus", "cpu", "disk0", "fixed"}
        assert state(cli, "disk0")[0] == "unplugged"


def test_a_back_end_comes_and_goes_with_its_device(cli: Cli) -> None:
    vm(cli)
    up(cli)
    described = ["--type", "vhost-user", "--set", "device=blk", "--set", f"command={json.dumps(DISK)}"]
    did(cli, "attach", "served", *described)
    assert state(cli, "served")[0] == "attached"
    pid = processes(cli)["served.backend"]["pid"]
    did(cli, "detach", "served")
    assert {"served", "served.backend"}.isdisjoint(processes(cli))
    assert not Path(f"/proc/{pid}").exists()


def test_who_is_started_by_hand_is_plugged_into_an_empty_port(cli: Cli) -> None:
    vm(cli)
    up(cli)
    address = cli.run("env").stdout.split("'")[1]
    by_hand = cli.start("device", "virtio-rng", "--bus", address, "--id", "mine")
    wait_for(lambda: "mine" in processes(cli) and state(cli, "mine")[0] == "attached")
    assert state(cli, "mine")[1] == "00:11.0/00.0"
    did(cli, "detach", "mine")
    assert by_hand.poll() is None  # whoever has started it ends it
    by_hand.terminate()
    by_hand.wait(10)
    wait_for(lambda: "mine" not in processes(cli))
