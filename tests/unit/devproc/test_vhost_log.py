"""What a device writes into a front-end's memory is in the front-end's log of pages, while it asks for one."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from devproc.virtio_spec import Feature
from protocol.errors import PeerGone
from protocol.vhost_user.dirty_log import PAGE
from protocol.vhost_user.front_end import event
from protocol.vhost_user.messages import LOG_ALL, ProtocolFeature, Request
from protocol.vhost_user.payloads import U64, Log, VringAddr
from tests.conformance.front_end import BASE, GET_ID, IN, OUT, WANTED, Guest
from tests.unit.devproc.vhost_rig import Rig

FIRST = BASE // PAGE


class PageLog:
    """The front-end's end of the log."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.size = (BASE + guest.memory.size) // PAGE // 8
        self.fd = os.memfd_create("log", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)

    def share(self) -> None:
        self.guest.front.ask(Request.SET_LOG_BASE, Log(self.size, 0), [self.fd]).close()

    def begin(self) -> None:
        self._switch(LOG_ALL, 1)

    def end(self) -> None:
        self._switch(0, 0)

    def _switch(self, features: int, flags: int) -> None:
        guest, queue = self.guest, self.guest.queue
        guest.front.tell(Request.SET_FEATURES, U64(guest.front.features | features))
        places = [guest.uaddr(place) for place in (queue.desc, queue.used, queue.avail)]
        guest.front.tell(Request.SET_VRING_ADDR, VringAddr(0, flags, *places, queue.used))

    def fetch(self) -> set[int]:
        """Return the pages marked since the last time."""
        data = os.pread(self.fd, self.size, 0)
        os.pwrite(self.fd, bytes(self.size), 0)
        return {8 * at + bit - FIRST for at, byte in enumerate(data) if byte for bit in range(8) if byte >> bit & 1}


@pytest.fixture(params=[0, int(Feature.RING_PACKED)], ids=["split", "packed"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(features=WANTED | request.param) as guest:
        yield guest


@pytest.fixture
def log(rig: Rig, guest: Guest) -> Iterator[PageLog]:
    guest.connect(rig.connect())
    log = PageLog(guest)
    yield log
    os.close(log.fd)


def test_every_page_that_changes_is_marked_and_few_others(log: PageLog, guest: Guest) -> None:
    chance = random.Random(3)
    log.share()
    log.begin()
    for _ in range(40):
        for _ in range(chance.randrange(1, 20)):
            kind = chance.choice((IN, OUT, GET_ID, 99))
            data = os.urandom(512 * chance.randrange(1, 16)) if kind == OUT else b""
            length = {IN: 512 * chance.randrange(1, 16), GET_ID: 20}.get(kind, 0)
            guest.submit(kind, chance.randrange(2100), data, length)
        before = bytes(guest.memory.ram.u8)
        outstanding = guest.queue.outstanding
        os.eventfd_write(guest.kick, 1)
        while guest.queue.outstanding:  # the driver only looks
            for head, _ in guest.queue.collect():
                guest._slots.append(guest._under_way.pop(head)[0])
        guest.front.word(Request.GET_QUEUE_NUM)

        after = bytes(guest.memory.ram.u8)
        changed = {at // PAGE for at in range(0, len(after), PAGE) if after[at : at + PAGE] != before[at : at + PAGE]}
        marked = log.fetch()
        assert changed <= marked
        assert len(marked) <= 2 + 4 * outstanding


def test_nothing_is_marked_before_and_after(log: PageLog, guest: Guest) -> None:
    log.share()
    assert guest.do(IN, 1, length=512)[0] == 0
    assert log.fetch() == set()

    log.begin()
    assert guest.do(IN, 1, length=512)[0] == 0
    log.end()
    assert log.fetch()

    assert guest.do(IN, 1, length=512)[0] == 0
    assert log.fetch() == set()


def test_it_comes_while_requests_are_under_way(log: PageLog, guest: Guest) -> None:
    for _ in range(10):
        for n in range(30):
            guest.submit(OUT, n, bytes([n]) * 4096)
        guest.ring()
        log.share()  # one after the other
        log.begin()
        finished = guest.collect()
        while len(finished) < 30:
            finished |= guest.collect()
        assert {status for status, _ in finished.values()} == {0}
        log.end()


def test_an_event_tells_of_marks(log: PageLog, guest: Guest) -> None:
    told = event()
    guest.front.tell(Request.SET_LOG_FD, fds=[told])
    log.share()
    log.begin()
    guest.do(IN, 1, length=512)

    assert os.eventfd_read(told) > 0
    os.close(told)


def test_a_log_that_is_too_short_ends_the_connection(rig: Rig, log: PageLog, guest: Guest) -> None:
    with pytest.raises(PeerGone):
        guest.front.ask(Request.SET_LOG_BASE, Log(log.size + 1, 0), [log.fd])
    guest.front.close()
    again = rig.connect()
    guest.connect(again, protocol=~ProtocolFeature.REPLY_ACK)
    again.ask(Request.SET_LOG_BASE, Log(FIRST // 8, 0), [log.fd]).close()
    again.tell(Request.SET_FEATURES, U64(again.features | LOG_ALL))
    with pytest.raises(PeerGone):
        again.word(Request.GET_QUEUE_NUM)
