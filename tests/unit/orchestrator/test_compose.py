"""compose.yaml starts the processes with options they have."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protocol.names import Runtime

TEXT = (Path(__file__).parents[3] / "compose.yaml").read_text()


def commands() -> dict[str, list[str]]:
    """Return the command of each service; they are written as lists, which are JSON."""
    found = {}
    for service, body in re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", TEXT, re.MULTILINE):
        command = re.search(r"command: (\[.*?\])", body, re.DOTALL)
        if command is not None:
            found[service] = json.loads(command[1])
    return found


def test_it_has_bus_cpu_and_disk() -> None:
    assert set(commands()) == {"bus", "cpu", "disk0"}


def test_the_bus_is_where_the_others_look_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/busvm")
    found = commands()

    for service in ("cpu", "disk0"):
        assert found[service][found[service].index("--bus") + 1] == Runtime("demo").bus_address
    assert str(Runtime("demo").bus_socket) in TEXT


@pytest.mark.parametrize("service", ["bus", "cpu", "disk0"])
def test_every_option_is_one_of_the_programs(service: str) -> None:
    command = commands()[service]
    assert command[:2] == ["python", "-m"]
    options = {word.split("=")[0] for word in command[3:] if word.startswith("--")}

    done = subprocess.run([sys.executable, "-m", command[2], "--help"], capture_output=True, text=True, check=True)

    assert options <= set(re.findall(r"--[a-z-]+", done.stdout))


def test_it_is_yaml_with_the_same_commands() -> None:
    yaml: Any = pytest.importorskip("yaml")
    services = yaml.safe_load(TEXT)["services"]

    assert {name: service["command"] for name, service in services.items()} == commands()
    for name in ("cpu", "disk0"):
        assert services[name]["ipc"] == services[name]["pid"] == "service:bus"
        assert services[name]["volumes"] == services["bus"]["volumes"]
