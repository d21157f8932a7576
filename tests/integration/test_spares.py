"""``spare = true``: a second process takes over when the first dies, and none outlives its supervisor."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.conftest import VM, Cli
from tests.integration.test_bus_death import attached
from tests.integration.test_orchestrator_faults import processes, supervisor, up
from tests.integration.test_orchestrator_up import left_of, vm, wait_for


def spares(cli: Cli) -> list[int]:
    """Return the processes that have stood by so far, those that have taken over as well."""
    return [
        int(pid) for pid in re.findall(r"disk0 has pid (\d+) standing by", cli.run("logs", VM, "orchestrator").stdout)
    ]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_the_spare_takes_over_and_has_another_behind_it(cli: Cli) -> None:
    vm(cli, extra="spare = true\n")
    up(cli)
    for epoch in (2, 3):
        wait_for(lambda epoch=epoch: len(spares(cli)) == epoch - 1)  # type: ignore[misc]
        os.kill(processes(cli)["disk0"]["pid"], signal.SIGKILL)
        wait_for(lambda epoch=epoch: attached(cli, "disk0", epoch))  # type: ignore[misc]
        assert processes(cli)["disk0"]["pid"] == spares(cli)[epoch - 2]
    assert "sandbox" not in cli.run("logs", VM, "disk0").stdout  # which says what is outside of it
    assert cli.run("down", "-t", "0").returncode == 0
    assert not any(is_alive(pid) for pid in spares(cli))
    assert left_of() == []


def test_a_restart_by_hand_loads_the_device_anew_and_a_dead_spare_is_replaced(cli: Cli) -> None:
    vm(cli, extra="spare = true\n")
    up(cli)
    wait_for(lambda: len(spares(cli)) == 1)
    first = spares(cli)[0]

    assert cli.run("restart", "disk0").returncode == 0

    assert processes(cli)["disk0"]["pid"] != first
    assert not is_alive(first)
    wait_for(lambda: len(spares(cli)) == 2)
    os.kill(spares(cli)[1], signal.SIGKILL)
    os.kill(processes(cli)["disk0"]["pid"], signal.SIGKILL)
    wait_for(lambda: attached(cli, "disk0", 3))
    wait_for(lambda: len(spares(cli)) == 3)


def test_a_spare_ends_with_its_supervisor_and_the_next_one_has_its_own(cli: Cli) -> None:
    vm(cli, extra="spare = true\n")
    up(cli)
    wait_for(lambda: len(spares(cli)) == 1)
    first = spares(cli)[0]

    os.kill(supervisor(cli), signal.SIGKILL)

    wait_for(lambda: not is_alive(first))
    assert attached(cli, "disk0")
    assert cli.run("up", "-d").returncode == 0
    wait_for(lambda: len(spares(cli)) == 2)
    assert is_alive(spares(cli)[1])
