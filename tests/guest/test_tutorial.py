"""The tutorial, followed to the letter in a fresh folder: its devices on our machine and under QEMU."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guest import elf_path

DOCUMENT = Path(__file__).parents[2] / "docs/writing-a-device.md"
ORCHESTRATOR = [sys.executable, "-m", "orchestrator"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the files that the document shows under their names."""
    text = DOCUMENT.read_text()
    for name, source in re.findall(r"`(\w+\.py)`[^\n]*:\n\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(source)
    assert {path.name for path in tmp_path.iterdir()} == {"rng.py", "entropy.py", "clock.py"}
    return tmp_path


def machine(which: str) -> str:
    """Return the document's vm.toml with the device ``which``, to report and power off."""
    (shown,) = (block for block in blocks("toml") if f'id = "{which}"' in block)
    return shown.replace('name = "mine"', f'name = "tutorial_{which}"') + '\n[boot]\ncmdline = "run=q 5"\n'


def up(folder: Path, which: str) -> str:
    (folder / "vm.toml").write_text(machine(which))
    done = subprocess.run([*ORCHESTRATOR, "up"], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 5, done.stdout + done.stderr
    return done.stdout


def test_devices_run_on_our_machine(folder: Path) -> None:
    assert re.search(r"^00:01\.0 1234:11e8 100000 ", up(folder, "rng0"), re.MULTILINE)
    clock = up(folder, "clock0")
    assert "rtc=0x4000000 " in clock  # found by its node in the device tree, and read
    assert re.search(rf"^rtc: date={time.strftime('%Y', time.gmtime())}-", clock, re.MULTILINE)
    text = machine("entropy0").replace('bus = "mmio"\n', "")  # this guest looks for devices on PCI only
    (folder / "vm.toml").write_text(text)
    done = subprocess.run([*ORCHESTRATOR, "up"], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert re.search(r"^rng: length=16 bytes=(?!0{32})[0-9a-f]{32}$", done.stdout, re.MULTILINE), done.stdout


def test_the_virtio_device_runs_under_qemu_too(folder: Path) -> None:
    qemu = shutil.which("qemu-system-riscv64")
    if qemu is None:
        pytest.skip("no qemu-system-riscv64 here (`.ci/run` installs it)")
    (start, boot) = re.search(  # type: ignore[union-attr]
        r"^\$ (orchestrator device [^\n]*entropy\.sock) &\n\$ qemu-system-riscv64 (.*?)^```", DOCUMENT.read_text(),
        re.MULTILINE | re.DOTALL,
    ).groups()  # fmt: skip
    device = subprocess.Popen([*ORCHESTRATOR, *start.split()[1:]], cwd=folder, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "entropy.sock").exists():
            assert device.poll() is None
            time.sleep(0.02)
        words = boot.replace("\\\n", " ").replace("-kernel Image", f"-kernel {elf_path()}").split()
        done = subprocess.run(
            [qemu, *words, "-append", "run=q 0"], cwd=folder, capture_output=True, text=True, timeout=100, check=False
        )
    finally:
        device.terminate()
        device.wait(10)
    assert re.search(r"^rng: length=16 bytes=(?!0{32})[0-9a-f]{32}\r?$", done.stdout, re.MULTILINE), done.stdout


def test_the_prompt_does_what_the_document_shows(folder: Path) -> None:
    typed = "".join(line.removeprefix("> ") + "\n" for line in blocks("console")[0].splitlines() if line[:2] == "> ")
    done = subprocess.run(
        [*ORCHESTRATOR, "device", "python:rng:Rng", "--poke"],
        cwd=folder, input=typed, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"0x[0-9a-f]+", lines[0])
    assert re.match(r"0:0x0000 4 r    data ", lines[1])
