"""virtio-console (virtio 1.2 §5.3): a terminal, and named ports to programs on the host, each on its own socket."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from devproc.descriptors import GONE, READ, WRITE, Descriptors
from devproc.registers import Register
from devproc.tracing import leading
from devproc.virtio import VirtioDevice
from devproc.virtio_console.control import Conversation
from devproc.virtio_console.port import Port, PortConfig
from devproc.virtio_console.spec import (
    CONTROL,
    CONTROL_RECEIVEQ,
    CONTROL_TRANSMITQ,
    ConsoleFeature,
    Control,
    PortState,
    receiveq,
)
from devproc.virtqueue import Chain, Virtqueue
from protocol.layout import DevicePage

logger = logging.getLogger(__name__)

_PIECE = 1 << 16  # bytes of one transmitted buffer that are copied at once

Kept = dict[int, tuple[Virtqueue, list[Chain]]]


@dataclass(frozen=True)
class Config:
    """The ports, the console first, and the size of its terminal."""

    ports: tuple[PortConfig, ...]
    columns: int = 80
    rows: int = 25


class ConsoleDevice(VirtioDevice):
    """A terminal, and named ports."""

    device_type = 3
    class_code = 0x07_8000
    config_size = 12
    features = ConsoleFeature.SIZE | ConsoleFeature.MULTIPORT | ConsoleFeature.EMERG_WRITE

    _config = VirtioDevice.device_config
    cols = Register(_config, 0x00, width=2, access="r", doc="Columns of the terminal.")
    lines = Register(_config, 0x02, width=2, access="r", doc="Rows of the terminal.")
    max_nr_ports = Register(_config, 0x04, access="r", doc="Ports there can be.")
    emerg_wr = Register(_config, 0x08, access="w", store=False, doc="A byte for the console before there are queues.")

    def __init__(self, config: Config, ports: Sequence[Port] | None = None) -> None:
        super().__init__(queue_count=2 * len(config.ports) + 2, queue_size=128)
        self.config = config
        self.ports = [Port(port) for port in config.ports] if ports is None else list(ports)
        self.size = config.columns, config.rows
        self.said = Conversation()
        self.states: list[PortState] = []
        self._room: Kept = {}  # receive queue → what the guest has offered
        self._held: Kept = {}  # transmit queue → what its client has not taken
        self._clients = Descriptors()
        for port in self.ports:
            if port.listener:
                self._clients.watch(port.listener.socket.fileno(), partial(self._connected, port))

    def configuration(self) -> dict[str, str]:
        """Return where each port is."""
        return {port.config.name or "console": str(port.config.path or "-") for port in self.ports}

    def queue_role(self, index: int) -> str:
        """Return what a queue is for (virtio 1.2 §5.3.2)."""
        return "control" if index in (2, 3) else "tx" if index % 2 else "rx"

    # state

    def state_size(self) -> int:
        """Add a record per port."""
        return super().state_size() + PortState.SIZE * len(self.config.ports)

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Add them."""
        super().declare(places)
        first = DevicePage.STATE + super().state_size()
        self.states = [PortState(self.shared, first + index * PortState.SIZE) for index in range(len(self.ports))]

    def power_on(self) -> None:
        """Fill the config space."""
        super().power_on()
        self.cols, self.lines = self.size
        self.max_nr_ports = len(self.ports)

    def recover(self) -> None:
        """Tell the driver anew who is there: clients have lost their connection."""
        super().recover()
        for port, state in zip(self.ports, self.states, strict=True):
            if state.ready and not port.config.is_console:
                self.said.say(port.config.number, Control.PORT_OPEN, 0)

    def reset_all(self) -> None:
        """Forget what the guest has offered, said and opened; clients stay."""
        self._forget()
        for state in self.states:
            state.clear()
        super().reset_all()

    def release(self) -> None:
        """Forget what waits: it is in the in-flight tables, for whoever goes on."""
        self._forget()
        self.states = []
        super().release()

    def _forget(self) -> None:
        self._room.clear()
        self._held.clear()
        self.said.clear()

    def close(self) -> None:
        """Close all sockets."""
        for port in self.ports:
            port.close()
        self._clients.close()

    # clients

    def sources(self) -> dict[int, Callable[[], None]]:
        """Watch listeners and clients, which come and go behind one descriptor."""
        return {self._clients.fd: self._clients.turn}

    def _connected(self, port: Port, _events: int) -> None:
        client = port.accept()
        if client is None:
            self.counters["turned_away"] += 1
            return
        self._clients.watch(client.fileno(), partial(self._client, port))
        self.counters["clients"] += 1
        port.flush()
        self._go_on(port)
        self._interest(port)
        self._tell(port, Control.PORT_OPEN, 1)

    def _client(self, port: Port, events: int) -> None:
        there = True
        if events & WRITE:
            there = port.flush()
            self._go_on(port)
        if there and events & (READ | GONE):
            there = port.fill()
            self._deliver(port)
        if there:
            self._interest(port)
        else:
            self._lose(port)

    def _lose(self, port: Port) -> None:
        assert port.client is not None
        self._clients.unwatch(port.client.fileno())
        port.hang_up()
        self._go_on(port)
        self._tell(port, Control.PORT_OPEN, 0)

    def _interest(self, port: Port) -> None:
        """Look for input while the guest has room for it, and for room while output waits."""
        if port.client is None:
            return
        wanted = 0 if port.input else READ
        self._clients.want(port.client.fileno(), wanted | (WRITE if port.waiting else 0))

    def _tell(self, port: Port, event: Control, value: int) -> None:
        """Tell the driver about a port it has; a terminal is always open."""
        number = port.config.number
        if not port.config.is_console and self.states and self.states[number].ready:
            self.said.say(number, event, value)
            self._speak()

    # queues

    def request(self, queue: Virtqueue, chain: Chain) -> None:
        """Take what the guest sends, or keep the room that it offers."""
        if queue.index == CONTROL_TRANSMITQ:
            self._heard(leading(self.machine.memory, chain.readable, CONTROL.size))
            self.finish(queue, chain.head, 0)
        elif queue.index == CONTROL_RECEIVEQ:
            _kept(self._room, queue).append(chain)
            self._speak()
        else:
            port = self.ports[queue.index // 2 - 1 if queue.index > CONTROL_TRANSMITQ else 0]
            if queue.index % 2:
                self._send(port, queue, chain)
            else:
                _kept(self._room, queue).append(chain)
                self._deliver(port)

    def _send(self, port: Port, queue: Virtqueue, chain: Chain) -> None:
        held = _kept(self._held, queue)
        if held or port.must_wait():
            held.append(chain)
            return
        for offset, length in chain.readable:
            for start in range(offset, offset + length, _PIECE):
                port.put(self.machine.memory.ram.bytes(start, min(_PIECE, offset + length - start)))
        self.counters["bytes_out"] += chain.readable_size
        self._interest(port)
        if port.must_wait():
            held.append(chain)
        else:
            self.finish(queue, chain.head, 0)

    def _go_on(self, port: Port) -> None:
        """Return the buffer that its client has taken at last, and send the next ones."""
        index = receiveq(port.config.number) + 1
        if index not in self._held or port.must_wait() or self.quiesced:
            return
        queue, held = self._held.pop(index)
        if held:
            self.finish(queue, held[0].head, 0)
            for chain in held[1:]:
                self._send(port, queue, chain)
            self.publish(queue)

    def _deliver(self, port: Port) -> None:
        """Give the guest what its client has said, as far as there is room."""
        index = receiveq(port.config.number)
        queue, room = self._room.get(index, (None, []))
        if queue is None or self.quiesced:
            return
        while room and port.input:
            chain = room.pop(0)
            written = self._fill(chain, port.take(chain.writable_size))
            self.counters["bytes_in"] += written
            self.finish(queue, chain.head, written)
            if not port.input:
                port.fill()
        self._interest(port)
        self.publish(queue)

    def _fill(self, chain: Chain, data: bytes) -> int:
        written = 0
        for offset, length in chain.writable:
            part = data[written : written + length]
            self.machine.memory.ram.u8[offset : offset + len(part)] = part
            written += len(part)
        return written

    # control

    def _heard(self, message: bytes) -> None:
        """Act on a message of the driver."""
        if len(message) < CONTROL.size:
            self.guest_error("bad_controls", f"control message of {len(message)} bytes")
            return
        number, event, value = CONTROL.unpack(message)
        if event == Control.DEVICE_READY:
            for port in self.ports if value == 1 else ():
                self.said.say(port.config.number, Control.DEVICE_ADD)
        elif number >= len(self.ports):
            self.guest_error("bad_controls", f"port {number}, there are {len(self.ports)}")
        elif event == Control.PORT_READY:
            self.states[number].ready = int(value == 1)
            if value == 1:
                self.said.introduce(self.ports[number], self.size)
        elif event == Control.PORT_OPEN:
            self.states[number].guest_open = int(value == 1)
        else:
            self.guest_error("bad_controls", f"event {event} is not for a device")
        self._speak()

    def _speak(self) -> None:
        """Give the driver what is to be said, as far as it has offered room."""
        queue, room = self._room.get(CONTROL_RECEIVEQ, (None, []))
        if queue is None or self.quiesced:
            return
        while room and self.said.waiting:
            chain, message = room.pop(0), self.said.waiting.popleft()
            self.finish(queue, chain.head, self._fill(chain, message))
        self.publish(queue)

    def resume(self) -> None:
        """Go on with what came meanwhile."""
        super().resume()
        self._speak()
        for port in self.ports:
            self._deliver(port)
            self._go_on(port)

    def resize(self, columns: int, rows: int) -> None:
        """Make the terminal another size, and tell the guest."""
        self.size = columns, rows
        if self.states:
            self.cols, self.lines = columns, rows
            for port, state in zip(self.ports, self.states, strict=True):
                if port.config.is_console and state.ready:
                    self.said.resize(port.config.number, self.size)
            self._speak()
            self.config_changed()

    @emerg_wr.on_write
    def _emergency(self, value: int) -> None:
        self.ports[0].put(bytes([value & 0xFF]))
        self._interest(self.ports[0])


def _kept(where: Kept, queue: Virtqueue) -> list[Chain]:
    """Return what is kept of a queue; what was of one before its reset is forgotten."""
    found = where.get(queue.index)
    if found is None or found[0] is not queue:
        found = where[queue.index] = (queue, [])
    return found[1]
