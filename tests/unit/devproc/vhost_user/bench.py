"""A vhost-user device on a machine of its own, and a back-end that does as it is told, in threads of this process."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from devproc.driver_queue import DriverQueue
from devproc.machine import Machine
from devproc.vhost_user.config import Config
from devproc.vhost_user.device import VhostUserDevice
from devproc.vhost_user.kinds import find
from devproc.vhost_user.peer import Peer
from devproc.virtio_spec import Feature, Status
from protocol.errors import HostError, ProtocolError
from protocol.vhost_user.back_end import Answer, BackEnd, Serve
from protocol.vhost_user.connection import Connection, Message
from protocol.vhost_user.messages import BACK_END, BackendRequest, ProtocolFeature, Request
from protocol.vhost_user.payloads import U64, ConfigSpace, Inflight, Payload, VringState

P = ProtocolFeature
EVERY = P.MQ | P.REPLY_ACK | P.BACKEND_REQ | P.CONFIG | P.INFLIGHT_SHMFD | P.CONFIGURE_MEM_SLOTS | P.STATUS
FEATURES = int(Feature.VERSION_1 | Feature.RING_INDIRECT_DESC) | 1 << 9
RAM = 0x8000_0000
SIZE = 16


class Scripted(threading.Thread):
    """A back-end that notes what it is asked; ``changes`` are answers other than the usual ones."""

    def __init__(
        self, path: Path, *, offered: P = EVERY, features: int = FEATURES, queues: int = 1, config: bytes = bytes(60)
    ) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.offered, self.features, self.queues = offered, features, queues
        self.config = bytearray(config)
        self.seen: list[tuple[str, object]] = []
        self.changes: dict[Request, Callable[[socket.socket, Message], Payload | Answer | None]] = {}
        self.channel: Connection | None = None
        self.connections = 0
        self._bases: dict[int, int] = {}
        self.fault: BaseException | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._current: socket.socket | None = None
        self._ending = False
        self.start()

    def run(self) -> None:
        """Serve one front-end after the other."""
        while not self._ending:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            self._current = sock
            self.connections += 1
            back = BackEnd(
                Connection(sock), self._handlers(sock), features=lambda: self.features, protocol_features=self.offered
            )
            try:
                while back.step():
                    pass
            except (ProtocolError, HostError):
                pass
            except BaseException as error:
                self.fault = error
            back.connection.close()

    def _handlers(self, sock: socket.socket) -> dict[Request, Serve]:
        usual: dict[Request, Callable[[Message], Payload | Answer | None]] = {
            Request.GET_QUEUE_NUM: lambda _message: U64(self.queues),
            Request.GET_CONFIG: self._get_config,
            Request.SET_CONFIG: self._set_config,
            Request.SET_VRING_BASE: self._set_base,
            Request.GET_VRING_BASE: self._get_base,
            Request.GET_INFLIGHT_FD: self._inflight,
            Request.SET_BACKEND_REQ_FD: self._channel,
        }

        def serve(request: Request) -> Serve:
            def handler(message: Message) -> Payload | Answer | None:
                self.seen.append((request.name, message.payload))
                change = self.changes.get(request)
                if change is not None:
                    return change(sock, message)
                return usual.get(request, lambda _message: None)(message)

            return handler

        own = (Request.GET_FEATURES, Request.GET_PROTOCOL_FEATURES, Request.SET_PROTOCOL_FEATURES)
        return {request: serve(request) for request in Request if request not in own or request in self.changes}

    def _set_base(self, message: Message) -> None:
        state = message.get(VringState)
        self._bases[state.index] = state.num

    def _get_base(self, message: Message) -> VringState:
        """Return where the ring was begun: it has taken nothing since."""
        index = message.get(VringState).index
        return VringState(index, self._bases.get(index, 0))

    def _get_config(self, message: Message) -> ConfigSpace:
        wanted = message.get(ConfigSpace)
        end = wanted.offset + len(wanted.data)
        if end > len(self.config):
            return ConfigSpace(0, 0, b"")
        return ConfigSpace(wanted.offset, 0, bytes(self.config[wanted.offset : end]))

    def _set_config(self, message: Message) -> None:
        part = message.get(ConfigSpace)
        self.config[part.offset : part.offset + len(part.data)] = part.data

    def _inflight(self, message: Message) -> Answer:
        wanted = message.get(Inflight)
        size = wanted.num_queues * 4096
        fd = os.memfd_create("tables")
        os.ftruncate(fd, size)
        return Answer(Inflight(size, 0, wanted.num_queues, wanted.queue_size), (fd,), lambda: os.close(fd))

    def _channel(self, message: Message) -> None:
        if self.channel is not None:
            self.channel.close()
        self.channel = Connection(socket.socket(fileno=message.take_fd()), BACK_END)

    def tell_config(self) -> None:
        """Say that the config space has changed."""
        assert self.channel is not None
        self.channel.send(BackendRequest.CONFIG_CHANGE_MSG)

    def of(self, name: str) -> list[object]:
        """Return the payloads of the requests of this name."""
        return [payload for seen, payload in self.seen if seen == name]

    def hang_up(self) -> None:
        """End the conversation; the next one can come."""
        with suppress(OSError):  # it has ended already
            if self._current is not None:
                self._current.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End."""
        self._ending = True
        self._server.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        self.join(5)
        assert not self.is_alive()
        self._server.close()
        if self.channel is not None:
            self.channel.close()
        self.path.unlink()
        assert self.fault is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bench:
    """A device that is attached, and the little that a driver does."""

    def __init__(self, path: Path, device: str = "blk", *, transport: str = "pci", queues: int = 1) -> None:
        name, number, kind = find(device)
        config = Config(path, name, number, kind, queues, 128)
        config.check()
        peer = Peer(path, config.kind.config)
        met = None
        try:
            met = peer.first(0)
            self.device: VhostUserDevice = VhostUserDevice.over(transport)(config, peer, met)
        except BaseException:
            if met is not None:
                met.front.close()
            peer.close()
            raise
        self.machine = Machine.private(self.device.page_size)
        self.machine.doorbells = tuple(_event() for _ in range(self.device.doorbells))
        self.machine.calls = tuple(_event() for _ in range(self.device.calls))
        self.device.attach(self.machine)
        self.queue: DriverQueue

    def probe(self) -> None:
        """Do what a driver does until the device is ready."""
        device = self.device
        device.set_register("device_status", 0)
        device.set_register("device_status", Status.ACKNOWLEDGE | Status.DRIVER)
        if device.transport == "pci":
            device.set_register("pci_msix_control", 0x8000)
        for select_ in (0, 1):
            device.set_register("driver_feature_select", select_)
            device.set_register("driver_feature", (device.offered & FEATURES) >> 32 * select_ & 0xFFFF_FFFF)
        device.set_register("device_status", Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        assert device.device_status & Status.FEATURES_OK
        self.queue = DriverQueue(self.machine.memory, RAM, SIZE)
        self.set_up(0)
        self.ready()

    def set_up(self, index: int, vector: int = 1) -> None:
        """Enable a queue."""
        device, queue = self.device, self.queue
        device.set_register("queue_select", index)
        if device.transport == "pci":
            for name, value in (
                ("queue_size", SIZE), ("queue_msix_vector", vector), ("queue_desc", queue.desc),
                ("queue_driver", queue.avail), ("queue_device", queue.used), ("queue_enable", 1),
            ):  # fmt: skip
                device.set_register(name, value)
            return
        device.set_register("queue_num", SIZE)
        for name, value in (("desc", queue.desc), ("driver", queue.avail), ("device", queue.used)):
            device.set_register(f"queue_{name}_low", value)
        device.set_register("queue_ready", 1)

    def ready(self) -> None:
        """Tell that the driver is ready."""
        self.device.set_register("device_status", self.device.device_status | Status.DRIVER_OK)

    def until(self, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        """Do what the loop does until something is so."""
        deadline = time.monotonic() + timeout_s
        ((fd, handler),) = self.device.sources().items()
        while not condition():
            assert time.monotonic() < deadline
            if select.select([fd], [], [], 0.02)[0]:
                handler()

    @property
    def broken(self) -> bool:
        """Whether the device asks for a reset."""
        return bool(self.device.device_status & Status.NEEDS_RESET)

    def close(self) -> None:
        """Give everything back."""
        self.device.detach()
        self.device.release()
        for fd in (*self.machine.doorbells, *self.machine.calls):
            os.close(fd)
        self.machine.close()
        self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _event() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
