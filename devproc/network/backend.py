"""What a network card and its wire need of each other: ``Network`` is the host's side, ``Card`` the device's.

Frames leave from where they are in guest memory and arrive in the guest's own buffers: a network that can read into
them asks for ``room``, one that has the frame in memory already ``deliver``\\ s it. Each frame has a header, that of
virtio-net (virtio 1.2 §5.1.6), which says what is left to do to it; a network without ``offloads`` gets and gives
whole frames, with a header of zeros. All of it runs on the thread of the device loop; nothing waits or raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from devproc.descriptors import Descriptors
from devproc.network.frame import HEADER

Pieces = Sequence[memoryview]
"""A frame, in as many pieces as it has in memory."""
Buffer = bytes | bytearray | memoryview
PLAIN = bytes(HEADER)
"""The header of a frame that is whole."""


class Card(Protocol):
    """A network card, as its wire sees it."""

    def deliver(self, frame: Buffer, header: Buffer = PLAIN, pair: int | None = None) -> bool:
        """Copy a frame to the guest, or drop one that it does not want.

        ``False``: the guest has no room. The network keeps the frame, or drops and counts it; after the ``listen``
        that says so it is worth trying again. ``pair`` is the pair of queues, where the wire knows it.
        """

    def room(self, pair: int, size: int) -> list[memoryview] | None:
        """Return writable pieces, of ``size`` bytes at least, for a header and a frame, to be ``filled``.

        ``None``: none now; ``listen`` tells when there is. The pieces are only good until the handler returns.
        """

    def filled(self, pair: int, length: int) -> None:
        """Give the guest the ``length`` bytes, header included, that were put into the ``room``."""

    def writable(self) -> None:
        """Say that sending, refused before, is worth another try."""

    def now_ns(self) -> int:
        """Return guest time, in nanoseconds."""

    def goes_on(self) -> bool:
        """Tell whether this process goes on where another one ended."""


class Network(Protocol):
    """The other end of a wire."""

    offloads: int
    """Bits of ``NetFeature``, CSUM and HOST_*, GUEST_CSUM and GUEST_*: what headers to and from it may say."""
    mtu: int
    """The largest packet, which the card tells the guest; 0: it tells nothing, and 1500 is meant."""

    def start(self, card: Card, descriptors: Descriptors) -> None:
        """Watch from now on, through ``descriptors``; frames may arrive while a handler of theirs runs."""

    def send(self, pair: int, header: Buffer, frame: Pieces) -> bool:
        """Send a frame, or lose it as a wire does; ``False`` asks to try again when the card is told ``writable``.

        The pieces may be kept until ``flush`` and no longer.
        """

    def flush(self) -> None:
        """A burst is over: send what ``send`` has kept; the guest's memory is the guest's again after this."""

    def answer(self) -> None:
        """The card is at rest after bursts of the guest: deliver what there is for them, as a handler does."""

    def listen(self, *, wanted: bool) -> None:
        """Say whether frames can be taken: without a driver, room or a running guest they stay where they are."""

    def agree(self, features: int) -> None:
        """Say which of ``offloads`` the driver has accepted; 0 after a reset."""

    def use(self, pairs: int) -> None:
        """Say how many pairs of queues are in use."""

    def counters(self) -> dict[str, int]:
        """Return what was lost, and why."""

    def describe(self) -> str:
        """Say in words where the wire leads, and who is there."""

    def close(self) -> None:
        """Unplug, and leave nothing behind."""


class Base:
    """What most networks answer: no offloads, nothing to do."""

    offloads = 0
    mtu = 0

    def flush(self) -> None:
        """Nothing is kept."""

    def answer(self) -> None:
        """Nothing comes of it at once."""

    def listen(self, *, wanted: bool) -> None:
        """Nothing is heard."""

    def agree(self, features: int) -> None:
        """Nothing to agree on."""

    def use(self, pairs: int) -> None:
        """One pair."""

    def counters(self) -> dict[str, int]:
        """Nothing was lost."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


class Nothing(Base):
    """A wire that ends in the air."""

    def start(self, card: Card, descriptors: Descriptors) -> None:
        """Watch nothing."""

    def send(self, pair: int, header: Buffer, frame: Pieces) -> bool:
        """Lose it."""
        return True

    def describe(self) -> str:
        """Say so."""
        return "none"
