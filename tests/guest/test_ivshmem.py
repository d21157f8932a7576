"""Guests of ours with ivshmem-doorbell: 100 000 messages with doorbells by ``uio_pci_generic``, none lost.

Between two of ours, with QEMU's, with a program of the host; the server, a device's process or a peer is killed while
messages go, and the others keep memory and doorbells.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from devproc.ivshmem.client import ServerBack, ServerGone, connect
from protocol.ivshmem import Joined, Left
from protocol.names import Runtime
from tests.guest import ivshmem, network
from tests.guest.expect import Guest
from tests.unit.devproc.ivshmem.rig import Process

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

UIO = "--uio /dev/uio0"
MANY = f"--count 1000000000 --timeout 5 {UIO}"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ivshmem.disk(tmp_path_factory.mktemp("program"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path, "--vectors", "2", "--size", "1M")
    yield made
    made.close()


def exchange(sender: Guest, receiver: Guest, *, send: str = UIO, receive: str = UIO) -> ivshmem.Result:
    """Send all messages; return what the receiver saw, who saw them all."""
    ivshmem.start(receiver, f"receive {receive}")
    ivshmem.start(sender, f"send {send}")
    received, sent = ivshmem.result(receiver, 120), ivshmem.result(sender, 120)
    assert received.messages == sent.messages == (2000 if "2000" in send else ivshmem.MESSAGES)
    assert received.whole
    return received


def test_two_of_our_guests_and_a_host_program(debian: Path, program: Path, tmp_path: Path) -> None:
    socket = Runtime("shareone").ivshmem_socket("lan")
    service = ("[[service]]", 'id = "lan"', 'type = "ivshmem-server"', 'size = "1M"', "vectors = 2")
    with Guest(ivshmem.ours(tmp_path, "shareone", debian, program, "lan", *service)) as one:
        ivshmem.install(one, uio=True)
        with Guest(ivshmem.ours(tmp_path, "sharetwo", debian, program, "shareone/lan")) as two:
            ivshmem.install(two, uio=True)
            asleep = exchange(one, two)
            exchange(two, one, send="--poll", receive="--poll")
            small = exchange(two, one, send=f"{UIO} --order 9 --count 2000", receive=f"{UIO} --order 9 --count 2000")
            assert asleep.sleeps + small.sleeps > 0

            for verb, other in (("receive", "send"), ("send", "receive")):
                host = ivshmem.Program(ivshmem.PYTHON, other, "--socket", socket, "--timeout", "30")
                ivshmem.start(one, f"{verb} {UIO}")
                inside, outside = ivshmem.result(one, 120), host.result()
                assert inside.messages == outside.messages == ivshmem.MESSAGES
                assert inside.whole
                assert outside.whole
            assert network.end(two) == 0
        assert network.end(one) == 0


@pytest.mark.peer
def test_our_guest_and_qemus(debian: Path, program: Path, server: Process, tmp_path: Path) -> None:
    with Guest(ivshmem.ours(tmp_path, "sharemixed", debian, program, server.path)) as ours:
        ivshmem.install(ours, uio=True)
        with Guest(ivshmem.qemu(debian, program, server.path)) as theirs:
            ivshmem.install(theirs, uio=False)
            received = exchange(theirs, ours, send="--poll")
            exchange(ours, theirs, receive="--poll")
            small = exchange(
                theirs, ours, send="--poll --order 9 --count 2000", receive=f"{UIO} --order 9 --count 2000"
            )
            assert received.sleeps + small.sleeps > 0
            network.end(theirs)
        assert network.end(ours) == 0


def test_who_is_killed_while_messages_go(debian: Path, program: Path, server: Process, tmp_path: Path) -> None:
    with connect(server.path) as watcher, Guest(
        ivshmem.ours(tmp_path, "sharekill", debian, program, server.path)
    ) as guest:  # fmt: skip
        ivshmem.install(guest, uio=True)
        assert isinstance(watcher.wait_event(10), Joined)

        host = ivshmem.Program(ivshmem.PYTHON, "send", "--socket", server.path, "--count", "800000")
        assert isinstance(watcher.wait_event(10), Joined)
        ivshmem.start(guest, f"receive {UIO} --count 800000")
        ivshmem.wait_for_flow(watcher.memory)
        os.kill(ivshmem.process_of("sharekill", "shared"), signal.SIGKILL)
        ivshmem.wait_for_flow(watcher.memory)
        server.kill()
        ivshmem.wait_for_flow(watcher.memory)
        server.start()
        received = ivshmem.result(guest, 120)
        assert (received.messages, host.result().messages) == (800_000, 800_000)
        assert received.whole
        events = [watcher.wait_event(10) for _ in range(3)]
        assert events[:2] == [ServerGone(), ServerBack()]
        assert isinstance(events[2], Left)

        host = ivshmem.Program(ivshmem.PYTHON, "send", "--socket", server.path, "--count", "1000000000")
        joined = watcher.wait_event(10)
        assert isinstance(joined, Joined)
        ivshmem.start(guest, f"receive {MANY}")
        ivshmem.wait_for_flow(watcher.memory)
        host.kill()
        host.end()
        assert watcher.wait_event(10) == Left(joined.peer)
        assert "does nothing any more" in ivshmem.finish(guest)
        assert network.end(guest) == 0


def test_plain_and_flat_without_messages(debian: Path, program: Path, tmp_path: Path) -> None:
    """On a machine with a PLIC: a PCI device without doorbells, and one without PCI, have the same memory."""
    memory = tmp_path / "memory"
    service = ("[[service]]", 'id = "lan"', 'type = "ivshmem-server"', 'size = "1M"', f'memory = "{memory}"')
    plain = ("[[device]]", 'id = "plain"', 'type = "ivshmem-plain"', f'memory = "{memory}"', 'size = "1M"')
    command = ivshmem.ours(tmp_path, "shareflat", debian, program, "lan", *service, *plain)
    path = Path(command[-1])
    path.write_text(
        path.read_text().replace("ivshmem-doorbell", "ivshmem-flat").replace("[vm]\n", '[vm]\ninterrupts = "plic"\n')
    )
    socket = Runtime("shareflat").ivshmem_socket("lan")
    with Guest(command) as guest:
        ivshmem.install(guest, uio=False)
        places = guest.run("cd /sys/firmware/devicetree/base/soc/ivshmem-flat@4000000 && od -An -tx1 -w8 reg")
        registers, _, at, size = (int(word.replace(" ", ""), 16) for word in places.split("\n")[:4])
        assert (registers, size) == (0x400_0000, 1 << 20)
        flat = f"--poll --memory /dev/mem@{at:#x} --bytes {size} --registers /dev/mem@{registers:#x}"
        host = ivshmem.Program(ivshmem.PYTHON, "send", "--socket", socket)
        ivshmem.start(guest, f"receive {flat}")
        assert ivshmem.result(guest, 120).whole
        assert host.result().messages == ivshmem.MESSAGES

        host = ivshmem.Program(ivshmem.PYTHON, "receive", "--socket", socket)
        guest.run("echo 1 > /sys/bus/pci/devices/$(lspci -Dn -d 1af4:1110 | cut -d' ' -f1)/enable")
        ivshmem.start(guest, "send --poll")
        assert ivshmem.result(guest, 120).messages == ivshmem.MESSAGES
        assert host.result().whole
        assert network.end(guest) == 0
