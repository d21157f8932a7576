"""A device in another process as a snapshot has it: its page and its interrupt sources.

The page is all of it that a guest can see. Its process was quiesced before: nothing is under way that the page does not
tell, everything posted was processed. What it has on the host beside (an overlay) it writes into a file of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cpu_proc.place import Place
from cpu_proc.remote import Remote
from protocol.errors import ProtocolError
from protocol.layout import IrqPage

HOST_SUFFIX = ".device"


@dataclass(frozen=True)
class SavedDevice:
    """One device; ``words`` are its sources, ``delivered`` how far they had been when it was saved."""

    id: str
    type: str
    place: Place
    page: bytes
    words: list[int]
    delivered: list[int]
    host: Path | None = None
    """What its process has beside the page."""

    @classmethod
    def of(cls, remote: Remote, kind: str, place: Place, irq: IrqPage, host: Path | None) -> Self:
        """Return a device of a machine that stands still."""
        page = remote.shared.bytes(0, remote.shared.size)
        return cls(remote.id, kind, place, page, remote.words(irq), list(remote.last_words), host)

    def to_plain(self) -> dict[str, Any]:
        """Return it for a file."""
        return {
            "id": self.id,
            "type": self.type,
            "place": list(self.place),
            "page": self.page,
            "words": self.words,
            "delivered": self.delivered,
            "host": self.host is not None,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any], folder: Path) -> Self:
        """Return it from a file in ``folder``; what is none raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        host = folder / f"{plain['id']}{HOST_SUFFIX}" if plain["host"] else None
        bus, *numbers = plain["place"]
        place = Place(str(bus), *(int(number) for number in numbers))
        words, delivered = [int(word) for word in plain["words"]], [int(word) for word in plain["delivered"]]
        return cls(str(plain["id"]), str(plain["type"]), place, bytes(plain["page"]), words, delivered, host)

    def put(self, remote: Remote, irq: IrqPage) -> None:
        """Fill the fresh page and the sources of ``remote``, before its process sees them.

        Raises:
            ProtocolError: it is a device of another shape.
        """
        page = remote.page
        if len(self.page) != remote.shared.size or len(self.words) != page.irq_count:
            raise ProtocolError(
                f"{self.id} has another shape than the one that was saved", hint="the same options as then"
            )
        page.adopt(self.page)
        first = (IrqPage.WORDS >> 3) + page.irq_base
        for index, word in enumerate(self.words):
            irq.shared.u64[first + index] = word
