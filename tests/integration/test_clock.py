"""A VM whose clock is its instructions: the bus and ``inspect`` say so, and its state can be saved."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Cli
from tests.integration.test_orchestrator_bus import in_shell

CALL = "busctl --user call org.busvm.machine /org/busvm/machine org.busvm.Machine1"


def test_instructions_as_the_clock(cli: Cli, tmp_path: Path) -> None:
    cli.write("vm.toml", '[vm]\nname = "counted"\nclock = "icount"\n')
    assert cli.run("up", "-d", "--wait").returncode == 0
    shown = json.loads(cli.run("inspect", "--json").stdout)
    assert shown["machine"]["ClockSource"] == "icount"
    assert [hart["ClockSource"] for hart in shown["harts"]] == ["icount"]
    cli.run("pause")
    before, after = (json.loads(cli.run("inspect", "--json").stdout) for _ in range(2))
    assert before["machine"]["Clock"] == after["machine"]["Clock"]
    assert before["harts"][0]["Instructions"] == after["harts"][0]["Instructions"]
    folder = tmp_path / "state"
    in_shell(cli, f"{CALL} SaveState s {folder}")
    assert {path.name for path in folder.iterdir()} == {"state", "ram"}
    assert cli.run("down").returncode == 0


def test_instructions_of_several_harts_are_no_clock(cli: Cli) -> None:
    cli.write("vm.toml", '[vm]\nclock = "icount"\ncpus = 2\n')
    done = cli.run("validate")
    assert done.returncode == 2
    assert "vm.toml:2: vm.clock: icount counts the instructions of one hart" in done.stderr
