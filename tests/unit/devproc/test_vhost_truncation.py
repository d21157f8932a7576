"""A front-end that makes shared memory shorter loses its connection; the process serves the next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import PeerGone
from protocol.vhost_user.messages import LOG_ALL, Request
from protocol.vhost_user.payloads import U64, Log
from tests.conformance.front_end import BASE, IN, OUT, Guest
from tests.unit.devproc.vhost_rig import Rig


def next_one_is_served(rig: Rig) -> bool:
    with Guest() as guest:
        guest.connect(rig.connect())
        return guest.do(IN, 9, length=512)[1][:4] == b"\x09\0\0\0"


def answers(guest: Guest) -> bool:
    try:
        return guest.front.word(Request.GET_QUEUE_NUM) > 0
    except PeerGone:
        return False


@pytest.mark.parametrize("left", [0, 4096])
def test_memory(rig: Rig, left: int) -> None:
    before = rig.image.read_bytes()
    guest = Guest()
    guest.connect(rig.connect())
    for n in range(20):
        guest.submit(OUT, n, b"x" * 512)
    os.ftruncate(guest.shared.fd, left)  # the rings' page may stay, header and data go

    os.eventfd_write(guest.kick, 1)

    while answers(guest):
        pass
    guest.front.close()
    assert rig.image.read_bytes() == before
    assert next_one_is_served(rig)
    os.ftruncate(guest.shared.fd, guest.shared.size)
    guest.close()


def test_a_transfer_to_what_is_gone_fails(rig: Rig) -> None:
    with Guest() as guest:
        guest.connect(rig.connect())
        far = BASE + guest.memory.size - 4096
        header, status = guest.queue.lend(16), guest.queue.lend(1)
        guest.memory.write(header, bytes(16))
        guest.queue.add([(header, 16)], [(far, 512), (status, 1)])
        os.ftruncate(guest.shared.fd, guest.memory.size - 4096)
        guest.ring()
        while not guest.queue.collect():
            assert answers(guest)

        assert guest.memory.read(status, 1) == b"\1"
        assert rig.device.counters["host_error_EFAULT"] == 1


def test_the_log(rig: Rig) -> None:
    with Guest() as guest:
        guest.connect(rig.connect())
        size = (BASE + guest.memory.size) // 4096 // 8
        fd = os.memfd_create("log")
        os.ftruncate(fd, size)
        guest.front.ask(Request.SET_LOG_BASE, Log(size, 0), [fd]).close()
        guest.front.tell(Request.SET_FEATURES, U64(guest.front.features | LOG_ALL))
        os.ftruncate(fd, 0)
        os.close(fd)
        guest.submit(IN, 1, length=512)
        guest.ring()

        while answers(guest):
            pass
    assert next_one_is_served(rig)


def test_another_s_fault_is_what_it_was(tmp_path: Path) -> None:
    program = """
import mmap, os
from protocol.truncation import survival
fd = os.memfd_create("x")
os.ftruncate(fd, 4096)
memory = mmap.mmap(fd, 4096)
os.ftruncate(fd, 0)
with survival():
    memory[0]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=30)

    assert done.returncode == -7
