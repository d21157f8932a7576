"""The template device as a process, and how any device process ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.conformance.conftest import Start
from tests.conformance.fake_cpu import FakeCpu


def test_registers_are_served_as_declared(cpu: FakeCpu, start: Start) -> None:
    process = start("--limit", "3", module="devproc.template")
    cpu.attach()
    sent = cpu.counters["messages"]

    cpu.write(0, 0x14, 4, 77)
    assert cpu.read(0, 0x14, 4) == 77
    assert cpu.read(0, 0x04, 4) == 1
    assert cpu.counters["messages"] == sent  # storage and plain reads need no message

    cpu.write(0, 0x08, 4, 0xFF)
    assert cpu.read(0, 0x08, 4) == 3
    words = {cpu.read(0, 0x00, 4) for _ in range(3)}
    assert len(words) == 3
    assert cpu.read(0, 0x0C, 4) == 3
    assert cpu.word(0) == 1
    assert process.terminate() == 0


def test_state_survives_a_kill(cpu: FakeCpu, start: Start) -> None:
    process = start(module="devproc.template")
    cpu.attach()
    cpu.write(0, 0x08, 4, 1)
    cpu.read(0, 0x00, 4)
    process.kill()
    while cpu.run(cpu.bus.name_owner(cpu.bus_name)):
        time.sleep(0.005)
    cpu._owners[cpu.bus_name] = ""
    start(module="devproc.template")

    assert cpu.attach()["resumed"] == 1

    assert cpu.read(0, 0x08, 4) == 1
    assert cpu.read(0, 0x0C, 4) == 1
    assert cpu.read(0, 0x00, 4) != 0


def test_process_runs_under_a_debugger(cpu: FakeCpu, bus_address: str) -> None:
    command = [sys.executable, "-m", "pdb", "-c", "continue", "-m", "devproc.template"]
    process = subprocess.Popen(
        [*command, "--bus", bus_address, "--id", "disk0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert cpu.attach()["epoch"] == 1
        assert cpu.read(0, 0x04, 4) == 1
    finally:
        process.kill()
        process.wait()


def test_process_ends_when_the_bus_does(start: Start, runtime: Path) -> None:
    socket = runtime / "bus2"
    config = runtime / "bus2.conf"
    config.write_text((runtime / "bus.conf").read_text().replace(str(runtime / "bus"), str(socket)))
    daemon = subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork"], stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.01)
        with FakeCpu(f"unix:path={socket}", runtime) as cpu:
            process = start(module="devproc.template", bus=f"unix:path={socket}")
            cpu.attach()
            daemon.terminate()  # killed, it would leave its socket, and be waited for
            daemon.wait()

            assert process.wait() == 1

        assert "the bus is gone" in process.log
    finally:
        daemon.terminate()  # killed, it would leave its socket, and be waited for
        daemon.wait()
