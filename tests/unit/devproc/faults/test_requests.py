"""Faults of a disk's requests, on both rings and both transports."""

from __future__ import annotations

import os
import signal
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.faults.faults import Faults
from devproc.faults.rule import Kind
from devproc.virtio_blk.prompt import Disk
from devproc.virtio_blk.spec import Type
from devproc.virtio_spec import Feature
from tests.unit.devproc.faults.conftest import MakeDisk

ANY = pytest.mark.parametrize(
    ("transport", "features"),
    [("pci", 0), ("pci", int(Feature.RING_PACKED)), ("mmio", 0), ("mmio", int(Feature.RING_PACKED))],
)
NO_ANSWER = "no answer; the device needs a reset"


def read(disk: Disk, sector: int) -> str:
    """Read a sector; return how that went, ``wrong`` if the data is not its own."""
    answer, data = disk.request(Type.IN, sector, size=512)
    return "wrong" if answer == "ok" and data != bytes([sector]) * 512 else answer


@ANY
def test_an_error_is_the_status_and_nothing_is_done(make: MakeDisk, transport: str, features: int) -> None:
    disk = make("error type=OUT nth=2", transport=transport, features=features)

    answers = [disk.request(Type.OUT, 3, out=bytes([letter]) * 512)[0] for letter in b"abc"]
    middle = disk.request(Type.IN, 3, size=512)[1]

    assert answers == ["ok", "i/o error", "ok"]
    assert middle == b"c" * 512
    assert disk.device.counters["failed_by_faults"] == 1
    assert disk.device.counters["requests"] == 3  # the device knows nothing of the other


@pytest.mark.parametrize(("status", "answer"), [("IOERR", "i/o error"), ("UNSUPP", "unsupported"), ("OK", "ok")])
def test_any_declared_status_is_answered(make: MakeDisk, status: str, answer: str) -> None:
    disk = make(f"error type=OUT status={status}")

    assert disk.request(Type.OUT, 1, out=b"x" * 512)[0] == answer
    assert read(disk, 1) == "ok"  # what was not written, also where the answer says it was


@pytest.mark.parametrize(
    ("rule", "failed"),
    [
        ("error type=IN", [1, 8, 9, 40]),
        ("error type=out", []),
        ("error sector>=8 sector<40", [8, 9]),
        ("error where=type=IN,sector!=9", [1, 8, 40]),
        ("error queue=0 sector>9", [40]),
        ("error sector<=1", [1]),
        ("error first=2", [1, 8]),
        ("error every=2", [8, 40]),
        ("error every=2 once", [8]),
        ("error count=3", [1, 8, 9]),
    ],
)
def test_which_requests(make: MakeDisk, rule: str, failed: list[int]) -> None:
    disk = make(rule)

    answers = {sector: read(disk, sector) for sector in (1, 8, 9, 40)}

    assert answers == {sector: "i/o error" if sector in failed else "ok" for sector in answers}


def test_the_same_seed_makes_the_same_faults(make: MakeDisk) -> None:
    disk = make()
    faults = Faults.of(disk.device)

    runs = []
    for seed in (9, 9, 10):
        faults.clear()
        faults.add(f"error probability=25% seed={seed}")
        runs.append([read(disk, sector) for sector in range(60)])

    assert runs[0] == runs[1] != runs[2]
    assert 5 < runs[0].count("i/o error") < 25


@ANY
def test_what_is_dropped_is_never_answered_and_the_queue_goes_on(make: MakeDisk, transport: str, features: int) -> None:
    disk = make("drop type=IN nth=1", transport=transport, features=features)

    assert read(disk, 1) == NO_ANSWER
    assert disk.device.queues[0].in_flight == 1
    assert read(disk, 2) == "ok"


@ANY
def test_a_delay_answers_later_and_others_at_once(make: MakeDisk, transport: str, features: int) -> None:
    disk = make(transport=transport, features=features)
    device, queue, memory = disk.device, disk.queue, disk.device.machine.memory
    Faults.of(device).add("delay sector=5 ms=120")
    places = []
    for sector in (5, 6):
        header, status, data = queue.lend(16, 8), queue.lend(1), queue.lend(512)
        memory.write(header, bytes(8) + sector.to_bytes(8, "little"))
        places.append(queue.add([(header, 16)], [(data, 512), (status, 1)]))
    started = time.monotonic()

    device.ring(0)
    device.doorbell(0)
    device.pending.clear()
    at_once = queue.collect()
    Faults.of(device).settle()
    late = queue.collect()

    assert (len(at_once), len(late)) == (1, 1)
    assert time.monotonic() - started >= 0.12
    assert late[0][1] == at_once[0][1] == 513


def test_a_delay_waits_while_the_device_is_stopped_and_ends_with_its_queue(make: MakeDisk) -> None:
    disk = make("delay ms=1")
    device = disk.device
    device.machine.memory.write(disk._header, bytes(16))
    disk.queue.add([(disk._header, 16)], [(disk._data, 512), (disk._status, 1)])
    device.ring(0)
    device.doorbell(0)

    device.quiesce()
    time.sleep(0.01)
    Faults.of(device)._run_later()
    stopped = disk.queue.collect()
    device.resume()
    disk.write("device_status", 0)
    Faults.of(device).settle()

    assert stopped == []
    assert disk.queue.collect() == []


@ANY
@pytest.mark.parametrize("amount", ["bits=3", "bytes=3"])
def test_what_the_guest_reads_is_corrupted(make: MakeDisk, transport: str, features: int, amount: str) -> None:
    disk = make(f"corrupt type=IN {amount} seed=4 nth=1", transport=transport, features=features)

    answer, data = disk.request(Type.IN, 7, size=512)

    changed = [octet ^ 7 for octet in data if octet != 7]
    assert answer == "ok"
    assert 0 < len(changed) <= 3
    assert sum(octet.bit_count() for octet in changed) == 3 or amount == "bytes=3"
    assert read(disk, 7) == "ok"


def test_what_the_device_reads_is_corrupted_and_the_guests_own_data_is_not(make: MakeDisk) -> None:
    disk = make("corrupt type=OUT bytes=2 once")

    assert disk.request(Type.OUT, 2, out=b"w" * 512)[0] == "ok"

    assert disk.device.machine.memory.read(disk._data, 512) == b"w" * 512
    stored = disk.request(Type.IN, 2, size=512)[1]
    assert sum(octet != ord("w") for octet in stored) == 2


def test_what_has_no_data_is_left_alone(make: MakeDisk) -> None:
    disk = make("corrupt bytes=64", "corrupt bytes=64 of=read", "corrupt bytes=64 of=written")

    assert disk.request(Type.FLUSH)[0] == "ok"


def test_a_duplicate_is_one_interrupt_more_and_no_used_entry(make: MakeDisk) -> None:
    disk = make()
    device, sent = disk.device, []
    device.notify = lambda queue: sent.append(queue.index)  # type: ignore[method-assign]
    device.records[0].vector = 0
    assert read(disk, 1) == "ok"
    Faults.of(device).add("duplicate type=IN once")

    assert read(disk, 2) == "ok"
    assert read(disk, 3) == "ok"

    assert len(sent) == 4
    assert disk.queue.collect() == []


@pytest.mark.parametrize("at", ["taken", "done"])
def test_a_kill_is_at_its_place_and_counted_before(make: MakeDisk, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        raise Killed

    monkeypatch.setattr(os, "kill", kill)
    disk = make(f"kill type=OUT nth=1 at={at}")
    with pytest.raises(Killed):
        disk.request(Type.OUT, 9, out=b"k" * 512)

    (active,) = Faults.of(disk.device).rules.all
    assert active.row is not None
    assert (active.row.seen, active.row.hits) == (1, 1)
    assert disk.queue.collect() == []
    stored = disk.device.image.path.read_bytes()[9 * 512 : 10 * 512]  # type: ignore[attr-defined]
    assert stored == (b"k" if at == "done" else b"\x09") * 512


def test_a_freeze_stands_still_for_its_time(make: MakeDisk) -> None:
    disk = make("freeze type=IN ms=80")
    started = time.monotonic()

    assert read(disk, 1) == "ok"
    took, started = time.monotonic() - started, time.monotonic()
    assert read(disk, 2) == "ok"  # it is once, if nothing else is said

    assert took >= 0.08
    assert time.monotonic() - started < 0.08


def test_without_rules_the_device_is_out_of_the_way(make: MakeDisk) -> None:
    disk = make("error", "delay ms=1")
    before = read(disk, 1)

    Faults.of(disk.device).clear()

    assert before == "i/o error"

    assert disk.device.faults is None
    assert disk.device.machine.faults is None
    assert read(disk, 1) == "ok"


def test_each_rule_counts_its_occasions_and_an_error_may_be_late(make: MakeDisk) -> None:
    disk = make("error type=IN nth=2", "error type=IN nth=3", "delay type=IN nth=3 ms=30", "corrupt nth=2")
    started = time.monotonic()

    assert [read(disk, 1) for _ in range(4)] == ["ok", "i/o error", "i/o error", "ok"]
    assert time.monotonic() - started >= 0.03
    assert [active.seen for active in Faults.of(disk.device).rules.all] == [4] * 4


def test_requests_in_order_stay_in_order(make: MakeDisk) -> None:
    disk = make("delay sector=1 ms=20")
    disk.device.features |= Feature.IN_ORDER
    disk.set_up()

    assert [read(disk, sector) for sector in (1, 2)] == ["ok", "ok"]


_RULES = st.lists(
    st.builds(
        " ".join,
        st.tuples(
            st.sampled_from(["drop", "error", "delay ms=1", "corrupt bytes=3", "corrupt of=read bits=9", "duplicate"]),
            st.sampled_from(["request", "type=OUT", "type=IN", "sector>=4", "queue=0"]),
            st.sampled_from(["", "nth=2", "every=3", "first=4", "probability=40% seed=3", "once"]),
        ),
    ),
    max_size=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rules=_RULES, kinds=st.lists(st.sampled_from([Type.IN, Type.OUT]), min_size=1, max_size=8), packed=st.booleans())
def test_whatever_the_rules_no_request_is_answered_twice_and_none_is_lost_but_those_dropped(
    make: MakeDisk, rules: list[str], kinds: list[Type], packed: bool
) -> None:
    disk = make(features=int(Feature.RING_PACKED) if packed else 0)
    device, queue, memory = disk.device, disk.queue, disk.device.machine.memory
    faults = Faults.of(device)
    for rule in rules:
        faults.add(rule)
    sent: dict[int, tuple[Type, int]] = {}
    for sector, kind in enumerate(kinds):
        header, status, data = queue.lend(16, 8), queue.lend(1), queue.lend(512)
        memory.write(header, int(kind).to_bytes(8, "little") + sector.to_bytes(8, "little"))
        memory.write(data, b"d" * 512)
        out, back = ([(data, 512)], []) if kind is Type.OUT else ([], [(data, 512)])
        sent[queue.add([(header, 16), *out], [*back, (status, 1)])] = kind, data

    answered = [head for head, _ in disk.serve()]

    dropped = sum(active.hits for active in faults.rules.all if active.rule.kind is Kind.DROP)
    errs = any(
        active.rule.kind is Kind.ERROR for active in faults.rules.all
    )  # where both strike, the first rule decides
    assert len(answered) == len(set(answered))
    assert set(answered) <= set(sent)
    assert len(sent) - dropped <= len(answered) <= len(sent) - (dropped > 0 and not errs)
    for head in answered:
        kind, data = sent[head]
        assert kind is not Type.OUT or memory.read(data, 512) == b"d" * 512
    assert not faults.requests.marked
    assert device.queues[0].order is None
