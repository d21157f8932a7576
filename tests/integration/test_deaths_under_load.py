"""Orchestrator and machine are killed while the guest works: the one is not missed, the other ends everything."""

from __future__ import annotations

import json
import os
import signal

import psutil

from protocol.names import Runtime
from tests.conftest import VM, Cli
from tests.integration.test_bus_death import HUB, STRESS, attached, read_until, say, started
from tests.integration.test_orchestrator_faults import processes, supervisor, up
from tests.integration.test_orchestrator_up import WAIT_S, left_of, vm, wait_for


def test_a_vm_whose_orchestrator_is_killed_works_on_and_is_taken_over(cli: Cli) -> None:
    vm(cli)
    up(cli)
    console = cli.start("console")
    say(console, b"m\n")
    read_until(console, b"result=ok")
    before = processes(cli)
    say(console, STRESS)

    os.kill(supervisor(cli), signal.SIGKILL)
    os.kill(before["disk0"]["pid"], signal.SIGKILL)
    assert cli.run("up", "-d").returncode == 0

    assert "errors=0" in read_until(console, b"stress:")
    after = processes(cli)
    assert after["cpu"]["pid"] == before["cpu"]["pid"]
    assert attached(cli, "disk0", 2)


def test_a_device_that_an_orchestrator_started_and_could_not_record_is_taken_over_too(cli: Cli) -> None:
    vm(cli)
    up(cli)
    before = processes(cli)

    os.kill(supervisor(cli), signal.SIGKILL)
    plan = Runtime(VM).plan
    record = json.loads(plan.read_text())
    next(entry for entry in record["entries"] if entry["id"] == "disk0").update(pid=0, state="restarting")
    plan.write_text(json.dumps(record))
    assert cli.run("up", "-d").returncode == 0

    after = processes(cli)
    assert after["disk0"]["pid"] == before["disk0"]["pid"]
    assert attached(cli, "disk0", 1)
    assert cli.run("down", "-t", "0").returncode == 0
    assert left_of() == []


def test_a_machine_that_is_killed_is_said_and_nothing_of_its_vm_stays(cli: Cli) -> None:
    vm(cli, extra="spare = true\n" + HUB)
    process = started(cli)
    wait_for(lambda: attached(cli, "net0"))
    family = [*psutil.Process(process.pid).children(recursive=True)]
    say(process, STRESS)

    os.kill(processes(cli)["cpu"]["pid"], signal.SIGKILL)

    assert process.wait(WAIT_S) == 1
    assert process.stderr is not None
    assert process.stderr.read().count(b"error: the machine process was killed by SIGKILL") == 1
    assert len(family) >= 5
    assert not [one for one in family if one.is_running()]
    assert left_of() == []
    assert cli.run("ps", VM).returncode == 3


def test_ps_prints_one_pid(cli: Cli) -> None:
    vm(cli)
    up(cli)

    assert cli.run("ps", VM, "--pid", "disk0").stdout == f"{processes(cli)['disk0']['pid']}\n"
    assert cli.run("ps", VM, "--pid", "disk7").returncode == 3
    assert cli.run("ps", "--pid", "disk0").returncode == 2
