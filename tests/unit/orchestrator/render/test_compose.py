"""compose.yaml is what ``render`` writes, and starts the processes with options they have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import __main__ as command_line
from orchestrator.render import inside

ROOT = Path(__file__).parents[4]
TEXT = (ROOT / "compose.yaml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]


def test_it_is_what_render_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example, images = tmp_path / "examples" / "containers", tmp_path / "images" / "debian"
    for folder in (example, images):
        folder.mkdir(parents=True)
    (example / "vm.toml").write_text((ROOT / "examples" / "containers" / "vm.toml").read_text())
    for name in ("vmlinuz", "initrd.img", "root.ext4"):
        (images / name).touch()
    monkeypatch.chdir(tmp_path)

    words = TEXT.splitlines()[0].removeprefix("# Written by: orchestrator ").split()
    assert command_line.main(words) == 0

    assert (tmp_path / "compose.yaml").read_text() == TEXT


def test_each_process_has_the_files_that_it_names_and_no_others() -> None:
    shared = ["runtime:/run/busvm", "memory:/run/memory"]
    assert SERVICES["bus"]["volumes"] == [*shared, "state:/var/lib/busvm"]
    assert SERVICES["net0"]["volumes"] == shared
    assert SERVICES["disk0"]["volumes"] == [*shared, "./images/debian/root.ext4:/files/root.ext4"]
    assert [v for v in SERVICES["cpu"]["volumes"] if v.startswith("./")] == [
        f"./images/debian/{name}:/files/{name}:ro" for name in ("initrd.img", "vmlinuz")
    ]


def test_the_bus_is_where_the_others_look_for_it() -> None:
    for name in ("cpu", "disk0", "net0"):
        command = SERVICES[name]["command"]
        assert command[command.index("--bus") + 1] == inside.Inside("demo").bus_address
        assert SERVICES[name]["pid"] == f"container:{SERVICES['bus']['container_name']}"


@pytest.mark.parametrize("service", SERVICES)
def test_every_option_is_one_of_the_programs(service: str) -> None:
    command = SERVICES[service]["command"]
    assert command[:3] == ["python", "-P", "-m"]
    options = {word.split("=")[0] for word in command[4:] if word.startswith("--")}

    done = subprocess.run([sys.executable, "-m", command[3], "--help"], capture_output=True, text=True, check=True)

    assert options <= set(re.findall(r"--[a-z-]+", done.stdout))
