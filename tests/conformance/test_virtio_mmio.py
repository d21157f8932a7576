"""What is virtio-mmio's own (virtio 1.2 §4.2): identity, the doorbell by value, acknowledging, stopping a queue."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from devproc.virtio_spec import Feature, Status
from protocol.layout import WriteKind
from tests.conformance.conftest import Start
from tests.conformance.driver import IN, MmioDriver
from tests.conformance.fake_cpu import FakeCpu
from tests.conformance.test_death import wait_gone


@pytest.fixture
def driver(cpu: FakeCpu, start: Start, image: Path) -> MmioDriver:
    """Return a driver whose disk is ready."""
    start("--image", str(image), "--transport", "mmio", "--queues", "2")
    cpu.attach()
    driver = MmioDriver(cpu, queues=2, size=16, features=Feature.RING_RESET)
    driver.probe()
    return driver


def test_registers_as_the_specification_has_them(driver: MmioDriver) -> None:
    cpu = driver.cpu
    assert cpu.get("Transport") == "mmio"
    assert (cpu.get("Vectors"), cpu.get("Doorbells")) == (0, 2)
    assert (cpu.page.bar(0).size, [cpu.page.bar(index).size for index in range(1, 6)]) == (0x1000, [0] * 5)
    assert [driver.get(name) for name in ("magic", "version", "device", "vendor")] == [
        0x7472_6976, 2, 2, 0x554D_4551,
    ]  # fmt: skip
    assert [driver.get(name) for name in ("shm_len", "shm_base")] == [(1 << 64) - 1] * 2
    assert driver.config(0, 8) == 8192
    for name in ("driver_feature", "queue_size", "queue_desc", "notify", "interrupt_ack"):
        assert driver.get(name) == 0  # write-only
    driver.set("queue_select", 2)
    assert (driver.get("queue_max"), driver.get("queue_ready")) == (0, 0)
    sent = cpu.counters["messages"]
    for name in ("magic", "status", "interrupt_status", "config_generation"):
        driver.get(name)
    assert cpu.counters["messages"] == sent  # all reads come from the page


def test_the_wire_is_up_until_the_status_is_acknowledged(driver: MmioDriver) -> None:
    cpu = driver.cpu
    driver.submit(IN, 1, 512)
    driver.kick()
    cpu.wait_interrupt(0, 0)
    assert driver.get("interrupt_status") == 1

    driver.set("interrupt_ack", 2)
    assert (cpu.word(0), driver.get("interrupt_status")) == (1, 1)
    driver.set("interrupt_ack", 1)

    assert cpu.word(0) == 0  # at once: the write holds the hart until the device has done it
    assert driver.get("interrupt_status") == 0


def test_a_buffer_used_after_the_acknowledgement_raises_the_wire_again(driver: MmioDriver) -> None:
    for number in range(200):
        assert driver.do(IN, number, 512)[0] == 0


def test_a_doorbell_of_no_queue_rings_nothing(driver: MmioDriver) -> None:
    cpu = driver.cpu
    _bar, offset, _size = driver.place("notify")
    kinds = cpu.page.bar(0).kinds + offset
    assert {kind >> 4 for kind in cpu.page.shared.u8[kinds : kinds + 4]} == {WriteKind.DOORBELL}
    assert cpu.page.doorbell_stride == 0
    for value in (2, 99, 0xFFFF_FFFF):
        driver.set("notify", value)

    assert driver.do(IN, 3, 512, index=1)[0] == 0
    request = driver.submit(IN, 3, 512, index=1)
    driver.set("notify", 0x0001_0001)  # NOTIFICATION_DATA in the upper half
    assert [head for head, _ in driver.wait(index=1)] == [request.head]


@pytest.mark.parametrize("register", ["queue_ready", "queue_reset"])
def test_a_stopped_queue_takes_no_requests_and_may_be_set_up_anew(driver: MmioDriver, register: str) -> None:
    driver.set("queue_select", 1)
    driver.set(register, int(register == "queue_reset"))
    assert driver.get("queue_ready") == 0
    driver.submit(IN, 5, 512, index=1)
    driver.kick(1, always=True)
    time.sleep(0.05)
    assert not driver.queues[1].collect()

    del driver.queues[1]
    driver.set_up(1)

    assert driver.do(IN, 5, 512, index=1)[0] == 0
    assert driver.do(IN, 6, 512, index=0)[0] == 0


def test_both_causes_are_pending_on_return(driver: MmioDriver, start: Start, image: Path) -> None:
    cpu = driver.cpu
    driver.set("interrupt_ack", 3)
    os.kill(cpu.get("Pid"), 9)
    wait_gone(cpu)
    start("--image", str(image), "--transport", "mmio", "--queues", "2")
    cpu.attach()

    assert driver.get("interrupt_status") == 3
    assert cpu.word(0) == 1


def test_status_zero_takes_the_wire_down_before_the_hart_goes_on(driver: MmioDriver) -> None:
    cpu = driver.cpu
    driver.submit(IN, 1, 512)
    driver.kick()
    cpu.wait_interrupt(0, 0)

    driver.status(0)

    assert (cpu.word(0), driver.get("interrupt_status"), driver.status()) == (0, 0, 0)
    driver.status(Status.ACKNOWLEDGE)
    assert driver.status() == Status.ACKNOWLEDGE


def test_another_transport_than_before_is_refused(driver: MmioDriver, start: Start, image: Path) -> None:
    cpu = driver.cpu
    os.kill(cpu.get("Pid"), 9)
    wait_gone(cpu)
    start("--image", str(image), "--queues", "2")
    cpu.wait_for_device()
    cpu.prepare()

    with pytest.raises(Exception, match=r"other BARs|shared object has \d+ bytes"):
        cpu.call("org.busvm.Device1", "Attach", "a{sv}", cpu.offer())
