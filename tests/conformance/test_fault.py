"""Faults of device processes: given on the bus and on the command line, struck in a process, found by its successor."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from protocol.bus import BusError, Variant
from tests.conformance.conftest import Start
from tests.conformance.driver import IN, OUT, Driver
from tests.conformance.fake_cpu import FakeCpu
from tests.conformance.test_death import wait_gone

FAULT1 = "org.busvm.Fault1"
SCRATCH = 0, 0x14, 4


def add(cpu: FakeCpu, text: str) -> int:
    """Put a rule into force; return its number."""
    return int(cpu.call(FAULT1, "Add", "a{sv}", {"rule": Variant("s", text)})[0])


def rules(cpu: FakeCpu) -> list[tuple[Any, ...]]:
    """Return the rules of the device."""
    return [tuple(row) for row in cpu.call(FAULT1, "List")[0]]


def test_rules_are_given_listed_and_taken_away_on_the_bus(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image))
    cpu.wait_for_device()
    before = add(cpu, "error type=OUT nth=1")  # there is no machine yet
    cpu.attach()
    driver = Driver(cpu)
    driver.probe()
    words = {
        "kind": Variant("s", "error"),
        "queue": Variant("u", 0),
        "where": Variant("s", "type=IN,sector>=8"),
        "status": Variant("s", "UNSUPP"),
        "once": Variant("b", True),
    }
    number = cpu.call(FAULT1, "Add", "a{sv}", words)[0]

    answers = [driver.do(IN, 8, 512)[0] for _ in range(2)], [driver.do(OUT, 8, b"x" * 512)[0] for _ in range(2)]

    assert (before, number) == (1, 2)
    assert answers == ([2, 0], [1, 0])
    assert rules(cpu) == [
        (1, "error request type=OUT nth=1", 2, 1),
        (2, "error queue=0 type=IN sector>=8 once status=UNSUPP", 2, 1),
    ]
    cpu.call(FAULT1, "Remove", "u", 1)
    assert [row[0] for row in rules(cpu)] == [2]
    cpu.call(FAULT1, "Clear")
    assert rules(cpu) == []
    assert cpu.get("Counters")["failed_by_faults"] == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"rule": Variant("s", "error type=OTU")}, "no type 'OTU' (did you mean OUT?)"),
        ({"rule": Variant("s", "drop write=queue_selct")}, "(did you mean queue_select?)"),
        ({"queue": Variant("u", 0)}, "without kind"),
        ({"kind": Variant("s", "drop"), "queue": Variant("as", ["0"])}, "queue: a text, a number or true"),
    ],
)
def test_a_wrong_rule_is_answered_with_what_is_right(
    cpu: FakeCpu, start: Start, image: Path, body: dict[str, Variant], said: str
) -> None:
    start("--image", str(image))
    cpu.wait_for_device()

    with pytest.raises(BusError) as error:
        cpu.call(FAULT1, "Add", "a{sv}", body)

    assert said in error.value.message
    with pytest.raises(BusError, match="no rule 9"):
        cpu.call(FAULT1, "Remove", "u", 9)


def test_a_kill_strikes_once_and_its_successor_goes_on(cpu: FakeCpu, start: Start, image: Path) -> None:
    arguments = "--image", str(image), "--fault", "kill type=OUT nth=3"
    process = start(*arguments)
    cpu.attach()
    driver = Driver(cpu)
    driver.probe()
    requests = [driver.submit(OUT, 8 * index, bytes([65 + index]) * 4096) for index in range(6)]
    driver.kick()
    assert process.wait() == -9
    wait_gone(cpu)

    start(*arguments)  # as whoever restarts it does
    assert cpu.attach()["resumed"] == 1
    done: list[tuple[int, int]] = []
    while len(done) < len(requests):
        done += driver.wait()

    assert sorted(head for head, _ in done) == sorted(request.head for request in requests)
    assert image.read_bytes()[: 6 * 4096] == b"".join(bytes([65 + index]) * 4096 for index in range(6))
    assert rules(cpu)[0][1] == "kill request type=OUT nth=3"
    assert rules(cpu)[0][3] == 1


def test_a_frozen_process_answers_nobody_but_the_bus(cpu: FakeCpu, start: Start) -> None:
    start(module="devproc.template")
    cpu.attach()
    add(cpu, "freeze read=scratch first=2")
    other = add(cpu, "drop read=status")

    asked: list[int] = []
    hart = threading.Thread(target=lambda: asked.append(cpu.ask(*SCRATCH)))
    hart.start()
    deadline = time.monotonic() + 10
    while not cpu.get("Frozen", FAULT1):
        assert time.monotonic() < deadline
    cpu.call(FAULT1, "Remove", "u", other)
    assert asked == []
    assert [row[2:] for row in rules(cpu)] == [(1, 1)]
    cpu.call(FAULT1, "Thaw")
    hart.join(10)

    assert asked == [0]
    assert not cpu.get("Frozen", FAULT1)
    hart = threading.Thread(target=lambda: asked.append(cpu.ask(*SCRATCH)))
    hart.start()
    while not cpu.get("Frozen", FAULT1):
        assert time.monotonic() < deadline
    cpu.call(FAULT1, "Clear")
    hart.join(10)
    assert asked == [0, 0]


def test_a_frozen_process_ends_when_it_is_told_to(cpu: FakeCpu, start: Start) -> None:
    process = start("--fault", "freeze write=control", module="devproc.template")
    cpu.attach()
    cpu.post(0, 0x08, 4, 1)
    deadline = time.monotonic() + 10
    while not cpu.get("Frozen", FAULT1):
        assert time.monotonic() < deadline

    assert process.terminate() == 0


def test_registers_of_the_page_are_faulty_for_harts(cpu: FakeCpu, start: Start) -> None:
    start(module="devproc.template")
    cpu.attach()
    cpu.write(*SCRATCH, 5)

    add(cpu, "drop read=scratch nth=1")
    add(cpu, "delay write=scratch ms=150 nth=1")

    assert [cpu.read(*SCRATCH), cpu.read(*SCRATCH)] == [0xFFFF_FFFF, 5]
    started = time.monotonic()
    cpu.write(*SCRATCH, 6)
    assert cpu.read(*SCRATCH) == 6
    assert time.monotonic() - started >= 0.15


def test_a_delayed_read_keeps_no_request_waiting(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image))
    cpu.attach()
    driver = Driver(cpu)
    driver.probe()
    add(cpu, "delay read=num_queues ms=600")
    answers: list[int] = []
    hart = threading.Thread(target=lambda: answers.append(cpu.ask(4, 0x12, 2)))
    started = time.monotonic()
    hart.start()
    while not rules(cpu)[0][3]:
        assert time.monotonic() < started + 10

    assert driver.do(IN, 8, 512)[0] == 0
    assert answers == []
    hart.join(10)

    assert time.monotonic() - started >= 0.6
    assert answers == [1]


def test_what_strikes_is_told_on_the_bus(cpu: FakeCpu, start: Start, image: Path, bus_address: str) -> None:
    start("--image", str(image))
    cpu.attach()
    driver = Driver(cpu)
    driver.probe()
    match = f"type='signal',interface='{FAULT1}',member='Fired'"
    monitor = subprocess.Popen(["dbus-monitor", "--address", bus_address, match], stdout=subprocess.PIPE, text=True)
    assert monitor.stdout is not None
    monitor.stdout.readline()
    add(cpu, "error type=IN")
    try:
        for _ in range(200):
            assert driver.do(IN, 8, 512)[0] == 1
        seen: list[int] = []
        while not seen or seen[-1] < 200:
            line = monitor.stdout.readline().split()
            seen += [int(line[1])] if line[:1] == ["uint64"] else []
    finally:
        monitor.kill()
        monitor.wait()
        monitor.stdout.close()

    assert seen[0] == 1
    assert len(seen) < 100  # several in one signal


def test_faults_without_a_machine(image: Path) -> None:
    def poke(*faults: str) -> subprocess.CompletedProcess[str]:
        options = [word for fault in faults for word in ("--fault", fault)]
        return subprocess.run(
            [sys.executable, "-m", "devproc.virtio_blk", "--poke", "--image", str(image), *options],
            input="write 1 x\nwrite 1 y\nget num_queues\n", capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    assert poke("error type=OUT nth=2", "corrupt read=num_queues bytes=1").stdout.splitlines()[:2] == [
        "ok",
        "i/o error",
    ]
    done = poke("error typ=OUT")
    assert done.returncode == 2
    assert done.stderr == "python -m devproc.virtio_blk: error: no word 'typ' (did you mean type?)\n"
