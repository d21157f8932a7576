"""virtio-net (virtio 1.2 §5.1): frames between a guest and a network.

A frame that leaves is sent from where it is in guest memory; one that comes is copied once, into as many buffers as it
needs, or read straight into them. Frames that nobody has room for stay with the network, whose peer notices, as TCP
would have it; and what the network does not take stays in the guest's queue.
"""

from __future__ import annotations

from collections.abc import Callable

from devproc.descriptors import Descriptors
from devproc.network.backend import PLAIN, Buffer, Network
from devproc.network.features import GUEST, HOST, NetFeature
from devproc.network.frame import FRAME_MAX, HEADER, MAC_BYTES, MTU_DEFAULT, Header
from devproc.network.headers import checked
from devproc.registers import Register
from devproc.virtio import VirtioDevice
from devproc.virtio_net.coalescing import Coalescing
from devproc.virtio_net.config import Config
from devproc.virtio_net.control import Control
from devproc.virtio_net.filter import Filter
from devproc.virtio_net.receive import Receiver
from devproc.virtio_net.spec import ANNOUNCE, LINK_UP, TABLES_SIZE, CardState
from devproc.virtio_net.steering import START, Steering
from devproc.virtio_net.transmit import frame_of
from devproc.virtqueue import Chain, Virtqueue
from protocol.layout import DevicePage

_LOOKED_AT = 18  # bytes of a frame that the filter may need


class NetworkCard(VirtioDevice):
    """A network card over any network."""

    device_type = 1
    class_code = 0x02_0000
    config_size = 12
    state_version = 1
    request_header = Header

    _config = VirtioDevice.device_config
    mac_low = Register(_config, 0x00, doc="Address, its first four bytes.")
    mac_high = Register(_config, 0x04, width=2, doc="Its last two.")
    net_status = Register(_config, 0x06, width=2, access="r", doc="Bit 0: link up. Bit 1: announce.")
    max_virtqueue_pairs = Register(_config, 0x08, width=2, access="r", doc="Pairs of queues there are.")
    mtu = Register(_config, 0x0A, width=2, access="r", doc="Largest packet of the wire.")

    def __init__(self, config: Config, network: Network) -> None:
        super().__init__(queue_count=2 * config.queues + 1, queue_size=config.queue_size)
        self.config = config
        self.network = network
        f = NetFeature
        self.features = f.MAC | f.MRG_RXBUF | f.STATUS | f.CTRL_VQ | f.CTRL_RX | f.CTRL_RX_EXTRA | f.CTRL_VLAN
        self.features |= f.CTRL_MAC_ADDR | f.GUEST_ANNOUNCE | f.NOTF_COAL | network.offloads & (HOST | GUEST)
        if network.offloads & GUEST:
            self.features |= f.CTRL_GUEST_OFFLOADS
        if config.mtu or network.mtu:
            self.features |= f.MTU
        if config.queues > 1:
            self.features |= f.MQ
        if config.standby:
            self.features |= f.STANDBY
        self.link = True
        self.said: CardState
        self.filter: Filter
        self._control = Control(self)
        self._steering = Steering()
        self._coalescing = Coalescing(self._limits, super().notify)
        self._receivers: dict[int, Receiver] = {}
        self._starving: set[int] = set()
        self._disabled: set[int] = set()
        self._held: dict[int, Chain] = {}  # transmit queue → a frame that the network did not take
        self._listens = self._wanted = True
        self._detour = False  # the room that was handed out last is our own
        self._waiting: tuple[bytes, int] | None = None  # what was read there and found no room
        self._scratch = bytearray(HEADER + FRAME_MAX)
        self._descriptors = Descriptors()
        network.start(self, self._descriptors)
        self._listen()

    def configuration(self) -> dict[str, str]:
        """Return the configuration, for people."""
        return {"mac": self.mac.hex(":"), "network": self.network.describe(), "link": "up" if self.link else "down"}

    # state

    def state_size(self) -> int:
        """Add what the driver has said."""
        return super().state_size() + CardState.SIZE + TABLES_SIZE

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Add it."""
        super().declare(places)
        self.said = CardState(self.shared, DevicePage.STATE + super().state_size())
        self.filter = Filter(self.shared, self.said)

    def power_on(self) -> None:
        """Fill the config space; the address is the card's again."""
        super().power_on()
        self.mac = self.config.mac
        self.net_status = LINK_UP * self.link
        self.max_virtqueue_pairs = self.config.queues
        self.mtu = self.config.mtu or self.network.mtu or MTU_DEFAULT

    def recover(self) -> None:
        """Go on with what the driver has said."""
        super().recover()
        self.link = bool(self.net_status & LINK_UP)
        self.refresh_filter()
        self.use(max(1, min(self.said.pairs, self.config.queues)))
        self._agree()
        self._listen()

    def reset_all(self) -> None:
        """Forget buffers, and what the driver said; the link stays as it is."""
        self._forget()
        self.said.clear()
        self.filter.clear()
        super().reset_all()
        self.mac = self.config.mac
        self.net_status = LINK_UP * self.link
        self.refresh_filter()
        self.use(1)
        self.network.agree(0)
        self._listen()

    def release(self) -> None:
        """Forget buffers: they are in the in-flight tables, for whoever goes on."""
        self._forget()
        super().release()
        self._listen()

    def _forget(self) -> None:
        self.network.flush()
        self._waiting = None
        self._receivers.clear()
        self._starving.clear()
        self._held.clear()
        self.stopped.clear()
        self._steering.forget()
        self._coalescing.forget()

    def quiesce(self) -> None:
        """Take no more frames; what cannot be sent stays in its queue."""
        super().quiesce()
        self._listen()

    def resume(self) -> None:
        """Take frames again, and send what the network may take by now."""
        super().resume()
        self._listen()
        self.writable()

    def stop_queue(self) -> None:
        """Forget its buffers too."""
        self._drop_queue(self.queue_select)
        super().stop_queue()

    def stop_ring(self, index: int) -> int:
        """Forget its buffers: those not used yet go back to the driver, who has them still."""
        self._drop_queue(index)
        return super().stop_ring(index)  # type: ignore[misc, no-any-return]

    @property
    def front_end_queues(self) -> int:
        """Pairs: what QEMU compares with the ``queues`` of its vhost-user network; its control queue is its own."""
        return self.config.queues

    def ring_enabled(self, index: int, enabled: bool) -> None:
        """Take a ring as in use, or no more: this is how a front-end says what VQ_PAIRS_SET has said to it."""
        if enabled:
            self._disabled.discard(index)
        else:
            self._disabled.add(index)
        self._spread()

    def _spread(self) -> None:
        if self.transport == "vhost-user":
            self.use(max(1, sum(index not in self._disabled for index in self._receivers)))

    def _drop_queue(self, index: int) -> None:
        self.network.flush()
        receiver = self._receivers.pop(index, None)
        if receiver is not None:
            receiver.give_back()
            self.publish(receiver.queue)
        self._starving.discard(index)
        self._held.pop(index, None)
        self.stopped.discard(index)
        self._listen()

    def close(self) -> None:
        """Unplug."""
        self.network.close()
        self._coalescing.close()
        self._descriptors.close()

    @property
    def mac(self) -> bytes:
        """The address, as the driver has it."""
        if not self.records:
            return self.config.mac
        return self.mac_low.to_bytes(4, "little") + self.mac_high.to_bytes(2, "little")

    @mac.setter
    def mac(self, address: bytes) -> None:
        self.mac_low = int.from_bytes(address[:4], "little")
        self.mac_high = int.from_bytes(address[4:MAC_BYTES], "little")

    # what the driver says

    @property
    def control_queue(self) -> int:
        """The number of the control queue: behind the pairs that the driver knows of (§5.1.2)."""
        return 2 * self.config.queues if self.negotiated & NetFeature.MQ else 2

    def refresh_filter(self) -> None:
        """Have the filter go by what the page says now."""
        self.filter.refresh(self.mac, by_vlan=bool(self.negotiated & NetFeature.CTRL_VLAN))

    def use(self, pairs: int) -> None:
        """Spread what is received over so many pairs."""
        self.said.pairs = self._steering.pairs = pairs
        self.network.use(pairs)

    def take_offloads(self, wanted: int) -> None:
        """Take what the driver wants to find in headers from now on."""
        self.said.offloads = wanted | 1 << 63  # told apart from nothing said
        self._agree()

    def _agree(self) -> None:
        agreed = self.negotiated & (HOST | GUEST)
        if self.said.offloads:
            agreed &= ~GUEST | self.said.offloads
        self.network.agree(agreed)

    def coalesce(self, *, sending: bool, packets: int, usecs: int) -> None:
        """Interrupt after so many frames, or so many microseconds after the first."""
        if sending:
            self.said.tx_packets, self.said.tx_usecs = packets, usecs
        else:
            self.said.rx_packets, self.said.rx_usecs = packets, usecs

    def _limits(self, queue: Virtqueue) -> tuple[int, int]:
        said = self.said
        if queue.index == self.control_queue:
            return 0, 0
        return (said.tx_packets, said.tx_usecs) if queue.index % 2 else (said.rx_packets, said.rx_usecs)

    def announced(self) -> None:
        """Note that the driver has made itself known."""
        self.net_status &= ~ANNOUNCE

    # what the operator says

    def set_link(self, *, up: bool) -> None:
        """Plug the cable in or out, and tell the guest."""
        if up != self.link:
            self.link = up
            if self.records:
                self.net_status = self.net_status & ~LINK_UP | LINK_UP * up
                self.config_changed()

    def announce(self) -> bool:
        """Ask the guest to make itself known on its wire, which may be another one now; ``False`` if it cannot."""
        if not self.records or not self.negotiated & NetFeature.GUEST_ANNOUNCE:
            return False
        self.net_status |= ANNOUNCE
        self.config_changed()
        return True

    # queues

    def sources(self) -> dict[int, Callable[[], None]]:
        """Watch the network, and the alarm of interrupts that wait."""
        return {self._descriptors.fd: self._heard, self._coalescing.alarm.fd: self._coalescing.rang}

    def doorbell(self, index: int) -> bool:
        """Serve a queue; one for receiving has buffers again, which are taken as frames come."""
        if index % 2:
            more = super().doorbell(index)
            self.network.answer()
            self._show()
            return more
        if index == self.control_queue:
            return super().doorbell(index)
        queue = self.queues.get(index)
        if queue is not None and self._running and self.bus_master:
            if index not in self._receivers or self._receivers[index].queue is not queue:
                self._receivers[index] = self._receiver(queue)
                self._agree()
                self._spread()
            queue.quiet()
            self._starving.discard(index)
            self._listen()
            waiting, self._waiting = self._waiting, None
            if waiting and not self.deliver(waiting[0][HEADER:], waiting[0][:HEADER], waiting[1]):
                self._waiting = waiting
            self._listen()
            self._show()
        return False

    def queue_role(self, index: int) -> str:
        """Return what a queue is for."""
        if index == (self.control_queue if self.records else self.queue_count - 1):
            return "control"
        return "tx" if index % 2 else "rx"

    def _receiver(self, queue: Virtqueue) -> Receiver:
        mergeable = bool(self.negotiated & NetFeature.MRG_RXBUF)
        ram = self.machine.memory.ram.u8
        return Receiver(queue, ram, mergeable=mergeable, take=self.take, finish=self.finish_all)

    def request(self, queue: Virtqueue, chain: Chain) -> None:
        """Send a frame, or do a command."""
        if not queue.index % 2:
            self.finish(queue, chain.head, self._control.serve(chain))
        elif self._send(queue.index // 2, chain):
            self._sent(queue, chain)
        else:
            self._held[queue.index] = chain
            self.stopped.add(queue.index)

    def _sent(self, queue: Virtqueue, chain: Chain) -> None:
        self.finish(queue, chain.head, 0)
        self._coalescing.finished(queue)

    def publish(self, queue: Virtqueue) -> None:
        """Have the network send before the guest gets its buffers back."""
        if queue.index % 2:
            self.network.flush()
        super().publish(queue)

    def notify(self, queue: Virtqueue) -> None:
        """Interrupt the guest, perhaps later."""
        self._coalescing.notify(queue)

    def now_ns(self) -> int:
        """Return guest time; before there is a guest, 0."""
        return self.machine.now_ns() if self.records else 0

    def goes_on(self) -> bool:
        """Tell whether this process goes on where another one ended."""
        return bool(self.records) and self.machine.page.epoch > 1

    def figures(self) -> dict[str, int]:
        """Add what the network counts."""
        return super().figures() | {f"network_{name}": value for name, value in self.network.counters().items()}

    # frames from the guest

    def _send(self, pair: int, chain: Chain) -> bool:
        """Send a frame; ``False`` if the network does not take it now."""
        found = frame_of(chain, self.machine.memory.ram.u8)
        size = chain.readable_size - HEADER
        header = None
        if found is not None:
            header = PLAIN if found[0] == PLAIN else checked(found[0], size, self.negotiated)
        if found is None or header is None:
            self.guest_error("bad_frames", f"a frame of {size} bytes, or its header lies")
            return True
        if not self.link:
            self.counters["frames_without_link"] += 1
            return True
        if self._steering.pairs > 1:
            self._steering.sent(pair, b"".join(found[1])[:START] if len(found[1][0]) < START else found[1][0][:START])
        if not self.network.send(pair, header, found[1]):
            return False
        self.counters["frames_out"] += 1
        self.counters["bytes_out"] += size
        return True

    def writable(self) -> None:
        """Send what the network did not take before, and go on."""
        if self.quiesced:
            return
        for index, chain in list(self._held.items()):
            if not self._send(index // 2, chain):
                continue
            del self._held[index]
            self.stopped.discard(index)
            queue = self.queues.get(index)
            if queue is not None:
                self._sent(queue, chain)
                self.publish(queue)
                self.pending.add(index)

    # frames to the guest

    def _heard(self) -> None:
        """Take what the network has, and show it to the guest."""
        self._descriptors.turn()
        self._show()

    def _show(self) -> None:
        for receiver in list(self._receivers.values()):
            if receiver.touched:
                receiver.touched = False
                self.publish(receiver.queue)

    def _hears(self) -> bool:
        return self._listens and self._running

    def _listen(self) -> None:
        """Hear the network while there is somebody to hear it."""
        self._listens = self._running and not self.quiesced and not self._starving and bool(self._receivers)
        wanted = self._listens and self._waiting is None
        if wanted != self._wanted:
            self._wanted = wanted
            self.network.listen(wanted=wanted)

    def _starve(self, receiver: Receiver, size: int) -> bool:
        """Ask for a doorbell, because a frame finds no room; return whether it is to be dropped instead."""
        queue = receiver.queue
        if queue.broken:
            self.needs_reset(queue.broken)
        elif receiver.hopeless(size):
            self.counters["frames_too_large"] += 1
            return True
        elif not queue.listen():
            return False  # buffers came meanwhile
        self.counters["without_room"] += 1
        self._starving.add(queue.index)
        self._listen()
        return False

    def deliver(self, frame: Buffer, header: Buffer = PLAIN, pair: int | None = None) -> bool:
        """Copy a frame to the guest, or drop one that it does not want; ``False``: there is no room."""
        if not self.link:
            self.counters["frames_without_link"] += 1
            return True
        if not self._hears():
            return False
        if not self.filter.wants(frame):
            self.counters["frames_unwanted"] += 1
            return True
        if pair is None:
            pair = self._steering.pair(frame[:START]) if self._steering.pairs > 1 else 0
        receiver = self._receivers.get(2 * pair) or self._receivers.get(0)
        if receiver is None or receiver.queue.index in self._disabled:
            self.counters["frames_unwanted"] += 1
            return True
        size = HEADER + len(frame)
        while not receiver.put(header, frame):
            if self._starve(receiver, size):
                return True
            if not self._hears():
                return False
        self._received(receiver, len(frame))
        return True

    def room(self, pair: int, size: int) -> list[memoryview] | None:
        """Return buffers of ``size`` bytes to read a header and a frame into; ``None``: there are none.

        If there are some, which may do for a smaller frame, it is read elsewhere and copied.
        """
        receiver = self._receivers.get(2 * pair)
        if receiver is None or 2 * pair in self._disabled:
            return None
        while self._hears():
            pieces = receiver.pieces(size)
            self._detour = pieces is None and receiver.has_some
            if self._detour:
                return [memoryview(self._scratch)[:size]]
            if pieces is not None:
                return pieces
            self._starve(receiver, size)
        return None

    def filled(self, pair: int, length: int) -> None:
        """Give the guest what was read into the room, if it wants it; otherwise the next frame gets the same room."""
        if self._detour:
            read = bytes(self._scratch[:length])
            if not self.deliver(read[HEADER:], read[:HEADER], pair):
                self._waiting = read, pair  # until there is room, for which a doorbell is awaited now
            return
        receiver = self._receivers[2 * pair]
        if not self.link:
            self.counters["frames_without_link"] += 1
        elif not self.filter.wants(receiver.start(_LOOKED_AT)):
            self.counters["frames_unwanted"] += 1
        else:
            receiver.filled(length)
            self._received(receiver, length - HEADER)

    def _received(self, receiver: Receiver, size: int) -> None:
        self._coalescing.finished(receiver.queue)
        self.counters["frames_in"] += 1
        self.counters["bytes_in"] += size
