"""A short run of deaths after every store, and that it would notice what successors once forgot."""

from __future__ import annotations

import pytest

from devproc.device import Device
from devproc.machine import Machine
from devproc.split_queue import SplitQueue
from devproc.virtio_transport import VirtioTransport
from tests.fuzz import deaths
from tests.fuzz.death_rig import Failed
from tests.fuzz.deaths import EVENT_IDX, IN_ORDER, INDIRECT, PACKED, Case

CASES = (  # every scenario, ring, transport and feature once; the command has all that go together
    Case("requests", "pci", True, INDIRECT | EVENT_IDX, 16),
    Case("requests", "mmio", False, PACKED | IN_ORDER, 11),
    Case("probe", "pci", True, PACKED, 8),
    Case("resets", "mmio", False, 0, 8),
    Case("machine", "mmio", False, PACKED, 8),
    Case("mistake", "mmio", False, 0, 8),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_death_after_every_store_leaves_each_request_done_once(case: Case) -> None:
    assert deaths.die(case) > 400


def test_the_command_plays_what_its_words_say(capfd: pytest.CaptureFixture[str]) -> None:
    assert deaths.main(["requests", "mmio", "split:16", "event-idx", "in-order", "--lives", "40,10"]) == 0

    assert "4 deaths in 2 cases, 0 failed" in capfd.readouterr().out


def test_an_interrupt_that_nobody_heard_of_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "repeat", lambda _machine: None)

    with pytest.raises(Failed, match="asleep for ever"):
        deaths.die(Case("requests", "mmio", False, 0, 16))


def test_a_reset_that_was_cut_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(device: Device) -> None:
        device.drain()
        device.power_on()

    monkeypatch.setattr(Device, "reset", reset)

    with pytest.raises(Exception, match="private state of version 0"):
        deaths.die(Case("machine", "mmio", False, 0, 8))


def test_a_mistake_that_nobody_told_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    told = VirtioTransport.needs_reset

    def needs_reset(device: VirtioTransport, reason: str) -> None:
        if reason != "broken before the restart":
            told(device, reason)

    monkeypatch.setattr(VirtioTransport, "needs_reset", needs_reset)

    with pytest.raises(Failed, match="nobody says that the ring is broken"):
        deaths.die(Case("mistake", "mmio", False, 0, 8))


def test_a_mark_that_comes_too_late_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    published = SplitQueue.publish

    def publish(queue: SplitQueue) -> bool:
        for head in queue._batch:
            queue.inflight._u8[queue.inflight._mark + head * 16] = 0  # before the used index says so
        return published(queue)

    monkeypatch.setattr(SplitQueue, "publish", publish)

    with pytest.raises((Failed, KeyError)):
        deaths.die(Case("requests", "mmio", False, 0, 16))
