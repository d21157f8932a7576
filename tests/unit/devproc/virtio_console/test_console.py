"""virtio-console: what driver and clients see, when they come and go, and when they are slow or mean."""

from __future__ import annotations

import argparse
import select
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.machine import Machine
from devproc.strategies import accesses, exercise
from devproc.virtio_console.__main__ import configure
from devproc.virtio_console.device import Config, ConsoleDevice
from devproc.virtio_console.port import KEPT, PortConfig
from devproc.virtio_console.spec import CONTROL, CONTROL_RECEIVEQ, CONTROL_TRANSMITQ, ConsoleFeature, Control
from devproc.virtio_driver import Driver
from devproc.virtio_spec import Feature
from protocol.errors import ConfigError, HostError

SIZE = (132, 43)
CONSOLE_IN, CONSOLE_OUT, AGENT_IN, AGENT_OUT = 0, 1, 4, 5
ROOM = 4096


class Rig:
    """A console with one named port, its driver, and its clients."""

    def __init__(self, folder: Path, transport: str = "pci", *, ready: bool = True) -> None:
        self.folder = folder
        ports = PortConfig(0, folder / "console"), PortConfig(1, folder / "agent", "org.test.agent")
        self.device = ConsoleDevice.over(transport)(Config(ports, *SIZE))
        self.machine = Machine.private(self.device.page_size, 4 << 20)
        self.device.attach(self.machine)
        self.start()
        self.clients: list[socket.socket] = []
        self.said: list[tuple[int, int, int, bytes]] = []
        if ready:
            self.say(0, Control.DEVICE_READY, 1)
            for number in (0, 1):
                self.say(number, Control.PORT_READY, 1)
            self.hear()

    def start(self) -> None:
        """Have a new driver begin with the device."""
        self.driver = Driver(self.device, size=8)
        self.driver.set_up()
        self.places = [queue.lend(ROOM) for queue in self.driver.queues]

    def settle(self) -> None:
        """Let the device look at its sockets until nothing happens."""
        (fd, handler), *_ = self.device.sources().items()
        while select.select([fd], [], [], 0.05)[0]:
            handler()

    def connect(self, name: str) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.folder / name))
        client.settimeout(2)
        self.clients.append(client)
        self.settle()
        return client

    def send(self, queue: int, data: bytes) -> int:
        """Send from the guest; return how many buffers came back."""
        self.machine.memory.write(self.places[queue], data)
        self.driver.queues[queue].add([(self.places[queue], len(data))], [])
        return len(self.driver.serve(queue))

    def offer(self, queue: int, size: int = ROOM) -> bytes | None:
        """Offer room; return what came into it at once."""
        self.driver.queues[queue].add([], [(self.places[queue], size)])
        return self.collect(queue)

    def collect(self, queue: int) -> bytes | None:
        found = self.driver.serve(queue)
        return self.machine.memory.read(self.places[queue], found[0][1]) if found else None

    def say(self, port: int, event: int, value: int, more: bytes = b"") -> None:
        self.send(CONTROL_TRANSMITQ, CONTROL.pack(port, event, value) + more)

    def hear(self) -> list[tuple[int, int, int, bytes]]:
        """Return what the device has to say, message by message."""
        self.said = []
        found = self.collect(CONTROL_RECEIVEQ) or self.offer(CONTROL_RECEIVEQ)
        while found is not None:
            self.said.append((*CONTROL.unpack(found[: CONTROL.size]), found[CONTROL.size :]))
            found = self.offer(CONTROL_RECEIVEQ)
        return self.said

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.device.detach()
        self.device.release()
        self.device.close()
        self.machine.close()


@pytest.fixture(params=["pci", "mmio"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, request.param)
    yield made
    made.close()


def test_the_driver_is_told_what_ports_there_are(rig: Rig) -> None:
    columns, rows = SIZE
    size = columns.to_bytes(2, "little") + rows.to_bytes(2, "little")
    assert rig.said == [
        (0, Control.DEVICE_ADD, 0, b""),
        (1, Control.DEVICE_ADD, 0, b""),
        (0, Control.CONSOLE_PORT, 1, b""),
        (0, Control.RESIZE, 0, size),
        (0, Control.PORT_OPEN, 1, b""),
        (1, Control.PORT_NAME, 1, b"org.test.agent"),
    ]
    assert [rig.device.get_register(name) for name in ("cols", "lines", "max_nr_ports")] == [132, 43, 2]


def test_bytes_go_both_ways(rig: Rig) -> None:
    client = rig.connect("agent")
    assert rig.hear() == [(1, Control.PORT_OPEN, 1, b"")]
    assert rig.send(AGENT_OUT, b"from the guest") == 1
    assert client.recv(100) == b"from the guest"
    assert rig.offer(AGENT_IN) is None
    client.sendall(b"from the host")
    rig.settle()
    assert rig.collect(AGENT_IN) == b"from the host"
    client.close()
    rig.settle()
    assert rig.hear() == [(1, Control.PORT_OPEN, 0, b"")]


def test_input_waits_for_room_and_comes_in_pieces(rig: Rig) -> None:
    client = rig.connect("console")
    client.sendall(bytes(range(100)))
    rig.settle()
    assert rig.offer(CONSOLE_IN, 60) == bytes(range(60))
    assert rig.offer(CONSOLE_IN, 60) == bytes(range(60, 100))


def test_a_console_never_waits_and_keeps_the_newest(rig: Rig) -> None:
    for index in range(40):
        assert rig.send(CONSOLE_OUT, bytes([index]) * ROOM) == 1
    assert rig.device.ports[0].waiting <= KEPT + ROOM
    client, found = rig.connect("console"), b""
    while len(found) < KEPT:
        found += client.recv(1 << 20)
        rig.settle()
    assert found[-ROOM:] == bytes([39]) * ROOM
    assert found[0] >= 40 - KEPT // ROOM - 1


def test_a_named_port_keeps_the_guest_until_its_client_has_it(rig: Rig) -> None:
    assert rig.send(AGENT_OUT, b"early") == 0  # nobody is there
    client = rig.connect("agent")
    assert client.recv(100) == b"early"
    assert len(rig.driver.queues[AGENT_OUT].collect()) == 1
    sent = 0
    while rig.send(AGENT_OUT, bytes(ROOM)) == 1:
        sent += ROOM
        assert sent < 64 << 20
    assert rig.device.ports[1].waiting <= ROOM
    got = 0
    while got < sent + ROOM:
        got += len(client.recv(1 << 20))
        rig.settle()
    assert len(rig.driver.queues[AGENT_OUT].collect()) == 1


def test_a_client_that_goes_lets_the_guest_go_on(rig: Rig) -> None:
    client = rig.connect("agent")
    while rig.send(AGENT_OUT, bytes(ROOM)) == 1:
        pass
    client.close()
    rig.settle()
    assert len(rig.driver.queues[AGENT_OUT].collect()) == 1


def test_one_client_at_a_time_and_only_the_user(rig: Rig) -> None:
    first, second = rig.connect("agent"), rig.connect("agent")
    assert second.recv(1) == b""
    first.close()
    rig.settle()
    third = rig.connect("agent")
    third.sendall(b"x")
    rig.settle()
    assert rig.offer(AGENT_IN) == b"x"
    assert stat.S_IMODE((rig.folder / "agent").stat().st_mode) == 0o600
    with pytest.raises(HostError, match="another process"):
        ConsoleDevice.over("pci")(Config((PortConfig(0, rig.folder / "agent"),)))


def test_a_resize_is_told(rig: Rig) -> None:
    rig.device.resize(80, 24)
    assert rig.hear() == [(0, Control.RESIZE, 0, (80).to_bytes(2, "little") + (24).to_bytes(2, "little"))]
    assert (rig.device.get_register("cols"), rig.device.get_register("lines")) == (80, 24)


def test_garbage_on_the_control_queue_is_counted(rig: Rig) -> None:
    for message in (b"", b"x" * 7, CONTROL.pack(9, 3, 1), CONTROL.pack(0, 77, 1), CONTROL.pack(1, 1, 1)):
        if message:
            rig.send(CONTROL_TRANSMITQ, message)
    assert rig.device.counters["bad_controls"] == 4
    assert rig.hear() == []


def test_an_emergency_byte_needs_no_queue(tmp_path: Path) -> None:
    early = Rig(tmp_path, ready=False)
    early.driver.write("device_status", 0)
    early.device.set_register("emerg_wr", ord("!"))
    assert early.connect("console").recv(10) == b"!"
    early.close()


def test_a_reset_forgets_the_guest_and_not_the_clients(rig: Rig) -> None:
    client = rig.connect("agent")
    rig.offer(AGENT_IN)
    rig.start()
    client.sendall(b"kept")
    rig.settle()
    rig.say(0, Control.DEVICE_READY, 1)
    rig.say(1, Control.PORT_READY, 1)
    assert (1, Control.PORT_OPEN, 1, b"") in rig.hear()
    assert rig.offer(AGENT_IN) == b"kept"


def test_a_driver_without_ports_has_the_console(tmp_path: Path) -> None:
    plain = Rig(tmp_path, ready=False)
    plain.driver.set_up(without=ConsoleFeature.MULTIPORT)
    assert not plain.device.negotiated & ConsoleFeature.MULTIPORT
    assert plain.device.negotiated & Feature.VERSION_1
    client = plain.connect("console")
    assert plain.send(CONSOLE_OUT, b"login: ") == 1
    assert client.recv(100) == b"login: "
    plain.close()


def arguments(*ports: str, size: str = "80x25", path: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(port=list(ports), size=size, socket=path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: arguments(size="80"), "is no size"),
        (lambda: arguments(size="0x25"), "is no size"),
        (lambda: arguments("agent"), "a name, '=' and a path"),
        (lambda: arguments("a=x", "a=y"), "two ports have one name"),
        (lambda: arguments("a=x", "b=x"), "two ports have one socket"),
        (lambda: arguments(*(f"p{i}=s{i}" for i in range(31))), "there can be 31"),
    ],
)
def test_wrong_arguments_are_said(given: Callable[[], argparse.Namespace], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(given())
    assert configure(arguments("a=x")).ports == (PortConfig(0), PortConfig(1, Path("x"), "a"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_any_accesses(data: st.DataObject, transport: str) -> None:
    kind = ConsoleDevice.over(transport)
    exercise(lambda: kind(Config((PortConfig(0), PortConfig(1, None, "x")))), data.draw(accesses(kind)))
