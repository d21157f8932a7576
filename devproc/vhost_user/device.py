"""A virtio device of our machine whose rings a vhost-user back-end serves.

The registers are the transport's, as of any virtio device. When the driver is ready the back-end is told where guest
memory and the rings are, and gets the doorbell that the guest writes and the call that interrupts it, so that this
process is on the path of no request. The config space is the back-end's, or follows from the arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, ClassVar

from devproc.machine import Machine
from devproc.registers import Bar
from devproc.vhost_user.config import Config
from devproc.vhost_user.peer import BackEnd, Peer
from devproc.vhost_user.rings import RingLender
from devproc.virtio_spec import Feature, Status
from devproc.virtio_transport import CONFIG_SPACE
from devproc.virtqueue import NO_VECTOR
from protocol.errors import ConfigError, Malformed, VersionMismatch
from protocol.layout import ReadKind, WriteKind, kind
from protocol.vhost_user.messages import ProtocolFeature

if TYPE_CHECKING:
    from devproc.before import Before

# What is between driver and device alone (virtio 1.2 §6): rings and their content. Not the platform's bits, and not
# packed rings, whose position after a back-end's death nothing in guest memory tells.
_DEVICE_BITS = (1 << 24) - 1 | ~((1 << 50) - 1) & (1 << 64) - 1
_IN_ORDER, _ORDER_PLATFORM = 1 << 35, 1 << 36
_RINGS = int(Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX | Feature.VERSION_1)
PASSED = _DEVICE_BITS | _RINGS | _IN_ORDER | _ORDER_PLATFORM


class VhostUserDevice(RingLender):
    """A device served by another process."""

    hands_on_doorbells: ClassVar[bool] = True

    def __init__(self, config: Config, peer: Peer, met: BackEnd) -> None:
        """Take the shape that the arguments and the back-end give the device.

        Raises:
            ConfigError: they do not agree.
            HostError: the back-end does not do what it has agreed to.
        """
        row = config.kind
        self.config = config
        self.device_type, self.class_code = config.number, row.class_code
        self._own_config, self._own_features = config.own_space()
        self._theirs, self._space = 0, b""
        queues = row.fixed + row.each * config.queues + int(bool(met.features & row.control))
        self._check(met, queues)
        self._adopt(met)
        self.config_size = len(self._space)
        super().__init__(peer, met, queue_count=queues, queue_size=config.queue_size)
        if self.transport == "pci":
            self.calls = queues

    # what the back-end says of itself

    def _check(self, met: BackEnd, queues: int) -> None:
        """Refuse a back-end that cannot serve this device."""
        where = self.config.socket
        if not met.features & Feature.VERSION_1:
            raise ConfigError(f"{where}: the back-end serves legacy drivers only")
        if met.queues and met.queues < queues:
            raise ConfigError(
                f"{where}: the back-end has {met.queues} queues, {queues} are wanted",
                hint="--queues of this device and of the back-end must agree",
            )
        if self.config.device == "fs" and not self._own_config and not met.config:
            raise ConfigError("--tag is missing", hint="the back-end does not say under which tag the guest mounts it")

    def _adopt(self, met: BackEnd) -> None:
        """Take features and config space of a back-end."""
        row = self.config.kind
        self._theirs = met.features & PASSED
        space = bytearray(self._own_config or met.config)
        if not space:
            self._theirs &= ~row.needs_config
        if self.config.queues == 1:
            self._theirs &= ~row.several
        at, width = row.count
        if width and row.several and at + width <= len(space):  # the driver takes as many queues as stand here
            space[at : at + width] = self.config.queues.to_bytes(width, "little")
        self._space = bytes(space)

    @property
    def offered(self) -> int:
        """All feature bits on offer; a ring is reset by taking it back, whatever the back-end thinks of it."""
        return self._theirs | self._own_features | int(Feature.RING_RESET)

    @property
    def returns_in_order(self) -> bool:
        """Whether the type's buffers are a stream, or the driver and the back-end have agreed on it."""
        return self.config.kind.stream or bool(self.negotiated & _IN_ORDER)

    def back_end_came(self, met: BackEnd) -> None:
        """Give the rings to a back-end that has come in the place of another."""
        try:
            self._check(met, self.queue_count)
        except ConfigError as error:
            raise Malformed(error.message) from error
        self._adopt(met)
        if not self._attached:
            return
        if self.negotiated & ~self.offered:
            raise Malformed(f"the guest uses features {self.negotiated & ~self.offered:#x}, which it does not have")
        self._show_features()
        self._show_space()
        self.give_all()

    def back_end_changed(self, met: BackEnd) -> None:
        """Take the config space again."""
        if not self._own_config:
            self._read_space(met)
            if self._attached:
                self._show_space()

    @property
    def _attached(self) -> bool:
        return hasattr(self, "machine")

    # the config space: in the page, between a transport's registers

    def kinds(self, index: int, bar: Bar) -> bytearray:
        """Add the config space: read from the page, written to the back-end."""
        kinds = super().kinds(index, bar)
        window = self.places[CONFIG_SPACE]
        if index == window.bar.index:
            byte = kind(ReadKind.PAGE, WriteKind.POST)
            kinds[window.base : window.base + self.config_size] = bytes([byte]) * self.config_size
        return kinds

    def _read_space(self, met: BackEnd) -> None:
        met.config = met.read_config((self.config_size,))
        if len(met.config) != self.config_size:
            raise Malformed("it does not tell its config space any more")
        self._adopt(met)

    def _store_space(self) -> bool:
        """Bring the page up to date; tell whether that changes anything."""
        start, size = self.images[CONFIG_SPACE.index], self.config_size
        fresh = self._space[:size].ljust(size, b"\0")  # of another length only if another back-end has come
        if self.shared.bytes(start, size) == fresh:
            return False
        self.shared.u8[start : start + size] = fresh
        return True

    def _show_space(self) -> None:
        if self._store_space():
            self.counters["config_changes"] += 1
            self.config_changed()

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Pass a write of the config space on to the back-end, and look what has become of it."""
        window = self.places[CONFIG_SPACE]
        place = offset - window.base
        if bar != window.bar.index or not 0 <= place <= self.config_size - size:
            super().write(bar, offset, size, value)
            return
        met = self.met
        if met is None or self._own_config or not met.has(ProtocolFeature.CONFIG):
            self.counters["lost_config_writes"] += 1
            return
        with self.conversation():
            met.front.set_config(place, value.to_bytes(size, "little"))
            self._read_space(met)
            self._store_space()

    # life cycle

    def attach(self, machine: Machine) -> bool:
        """Join; if the page says that a back-end had rings, this one gets them."""
        resumed = super().attach(machine)
        if self.met is None:
            self.peer.seek()
        self.give_all()
        return resumed

    def power_on(self) -> None:
        """Add the config space."""
        super().power_on()
        self._store_space()

    def recover(self) -> None:
        """Go on from the page; the rings are given by ``attach``."""
        if self.state.version != self.state_version or self.state.queue_count != self.queue_count:
            raise VersionMismatch(f"private state of version {self.state.version}, this build has {self.state_version}")
        if self.negotiated & ~self.offered:
            missing = self.negotiated & ~self.offered
            raise VersionMismatch(f"the guest uses features {missing:#x}, gone from the back-end")
        self._running = bool(self.device_status & Status.DRIVER_OK)
        self._show_features()
        self.show_queue()
        self._store_space()
        if self._running:
            self.notify_config()

    def adapt(self, before: Before) -> None:
        """Say of which vectors the queues' calls are messages."""
        super().adapt(before)
        for index, record in enumerate(self.records[: self.calls]):
            self.machine.page.set_call_vector(index, record.vector)

    def tables(self) -> dict[str, tuple[int, int]]:
        """Return none: those in the page are the back-end's."""
        return {}

    def set_space(self, offset: int, value: bytes) -> None:
        """Tell the back-end too."""
        super().set_space(offset, value)
        met = self.met
        if met is not None and met.has(ProtocolFeature.CONFIG):
            with self.conversation():
                met.front.set_config(offset, value)

    def bound(self) -> str:
        """Return what keeps others from going on: requests under way which nobody will finish."""
        return "" if self.met is not None else "its back-end is gone"

    @property
    def saves(self) -> bool:
        """Nothing: the back-end has it, whoever is in front."""
        return False

    def save(self, file: BinaryIO) -> None:
        """Refuse: what the back-end has is not ours to save."""
        raise ConfigError("what its back-end has cannot be saved", hint="detach the device first")

    def drain(self) -> None:
        """Take all rings back."""
        self.take_all_back()

    def resume(self) -> None:
        """Give the rings again."""
        super().resume()
        self.give_all()

    def write_status(self, value: int) -> None:
        """Give the back-end the rings once the driver is ready."""
        before = self._running
        super().write_status(value)
        if self._running and not before:
            self.give_all()
        elif before and not self._running and value:
            self.take_all_back()

    def reset_all(self) -> None:
        """Reset the back-end too."""
        super().reset_all()
        for index in range(self.calls):
            self.machine.page.set_call_vector(index, NO_VECTOR)
        self.reset_back_end()
        self.begin_anew()

    def release(self) -> None:
        """Take guest memory back from the back-end, which only the end of the connection does for certain."""
        self.drop()
        super().release()

    # queues

    def start_queue(self) -> None:
        """Enable the selected queue."""
        record = self.configurable()
        if record is None:
            return
        record.enabled = 1
        self.show_queue()
        self.give_all()

    def stop_queue(self) -> None:
        """Disable the selected queue."""
        record = self.selected()
        if record:
            self.take_back(self.queue_select)
            self.let_go(self.queue_select)
            self._reset_queue(record)
        self.show_queue()

    def show_queue(self) -> None:
        """Say too of which vector the queue's call is a message; the driver may change it at any time."""
        super().show_queue()
        record = self.selected()
        if record is not None and self.calls:
            self.machine.page.set_call_vector(self.queue_select, record.vector)

    def doorbell(self, index: int) -> bool:
        """Serve none: the back-end does."""
        return False

    def configuration(self) -> dict[str, str]:
        """Return the configuration, for people."""
        return {
            "socket": str(self.config.socket),
            "device": self.config.device,
            "queues": str(self.config.queues),
            "queue_size": str(self.config.queue_size),
        }
