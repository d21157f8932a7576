"""``orchestrator trace`` on a machine that runs: what a guest does is seen, by name and with one number."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.expect import Guest

ORCHESTRATOR = [sys.executable, "-m", "orchestrator"]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "disk.raw").write_bytes(bytes(4 << 20))
    (folder / "vm.toml").write_text(
        '[vm]\nname = "traced"\n[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "disk.raw"\n'
        'restart = "on-failure"\n[[device]]\nid = "rng0"\ntype = "python:devproc.template"\n'
    )
    with Guest([*ORCHESTRATOR, "up", str(folder / "vm.toml")]) as guest:
        guest.wait_for("busvm> ")
        yield guest
        guest.type("q 0")
        assert guest.status() == 0


class Tracer:
    """A trace of the machine that runs."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*ORCHESTRATOR, "trace", "traced", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 20
        while not active():
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.02)

    def end(self) -> str:
        """Interrupt it, and return what it printed."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        assert (self.process.returncode, err) == (0, "")
        return out


def active() -> bool:
    """Return whether disk0 is traced, as both processes say."""
    from orchestrator import client
    from orchestrator.client import Client
    from protocol import names
    from protocol.names import Runtime

    async def ask(connected: Client) -> bool:
        path = names.device_path("disk0")
        owners = names.MACHINE_NAME, names.device_name("disk0")
        shown = [await connected.properties(owner, path, "org.busvm.Trace1") for owner in owners]
        return all(properties["Active"] for properties in shown)

    return client.ask(Runtime("traced"), ask)


def numbers(text: str, event: str) -> list[str]:
    return re.findall(rf"#(\S+) +{event} ", text)


def test_text_shows_registers_requests_and_interrupts(guest: Guest) -> None:
    tracer = Tracer()
    guest.type("r")
    guest.wait_for("report: ")
    guest.wait_for("busvm> ")
    guest.type("d w 16 8 3")
    guest.wait_for("result=ok")
    time.sleep(0.2)
    text = tracer.end()

    assert re.search(r"disk0 .*write +device_status = 0xf", text)
    assert re.search(r"disk0 .*read +pci_vendor = 0x1af4", text)
    assert re.search(r"rng0 .*#r\d+ +read +data = ", text)
    assert re.search(r"type=out reserved=0 sector=16 ", text)
    assert "status=ok" in text
    written = numbers(text, "served")
    assert written
    assert set(written) <= set(numbers(text, "write"))
    kicks = set(numbers(text, "kick"))
    assert kicks
    assert {number.split(".")[0] for number in numbers(text, "request")} <= kicks
    assert set(numbers(text, "interrupt")) <= kicks
    assert sorted(numbers(text, "request")) == sorted(numbers(text, "done"))
    assert not active()


def test_a_device_that_dies_is_traced_again_when_it_is_back(guest: Guest) -> None:
    tracer = Tracer("disk0", "--format", "json", "--events", "requests")
    subprocess.run([*ORCHESTRATOR, "restart", "traced", "disk0"], check=True, capture_output=True, timeout=30)
    deadline = time.monotonic() + 20
    while not active():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    guest.type("d r 0 1")
    guest.wait_for("status=0")
    time.sleep(0.2)
    found = [json.loads(line) for line in tracer.end().splitlines()]
    assert {entry["event"] for entry in found} >= {"kick", "request", "done"}
    assert {entry["device"] for entry in found} == {"disk0"}


def test_a_second_tracer_is_refused_and_a_killed_one_leaves_nothing(guest: Guest, tmp_path: Path) -> None:
    tracer = Tracer("--format", "perfetto", "--output", str(tmp_path / "trace.json"))
    second = subprocess.run(
        [*ORCHESTRATOR, "trace", "traced", "disk0", "--for", "1"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == "error: disk0 cannot be traced: somebody traces this device already\n"
    guest.type("d s 50 4")
    guest.wait_for("errors=0")
    time.sleep(0.3)
    tracer.process.kill()
    tracer.process.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while active():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    guest.type("d r 0 1")
    guest.wait_for("status=0")


def test_summary_is_a_table_of_where_the_time_goes(guest: Guest) -> None:
    tracer = Tracer("disk0", "--summary", "--events", "requests,interrupts", "--format", "json")
    guest.type("d s 200 8")
    guest.wait_for("errors=0")
    figures = json.loads(tracer.end())["disk0"]
    assert figures["requests"] == 200
    assert 0 < figures["share"] <= 1
    assert 0 < figures["served"]["p50"] <= figures["served"]["p99"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--events", "magic"], "error: --events: there is no 'magic' (some of registers, requests, interrupts)\n"),
        (["disk9"], "error: no device 'disk9' in this VM (it has: disk0, rng0)\n"),
        (["--for", "0"], "error: --for 0: more than 0\n"),
        (["--output", "/nowhere/x"], "error: cannot write /nowhere/x: No such file or directory\n"),
    ],
)
def test_bad_arguments_are_one_line(guest: Guest, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [*ORCHESTRATOR, "trace", "traced", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("", message)
