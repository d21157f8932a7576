"""A device page without a process behind it, and a link that answers at once."""

from __future__ import annotations

from collections import deque
from typing import Any

from protocol import messages
from protocol.layout import DevicePage, ReadKind, WriteKind, kind
from protocol.memory import Shared
from tests.unit.cpu_proc.harness import anonymous

SIZE = 0x2_0000
VECTORS = 4
PLAIN = kind(ReadKind.PAGE, WriteKind.STORE)
READ_ONLY = kind(ReadKind.PAGE, WriteKind.DROP)
MESSAGE = kind(ReadKind.MESSAGE, WriteKind.POST)
NOTHING = kind(ReadKind.ZERO, WriteKind.DROP)
BELL = kind(ReadKind.ZERO, WriteKind.DOORBELL)
RING = kind(ReadKind.PAGE, WriteKind.RING)

BAR0_SIZE, BAR0_IMAGE, BAR0_KINDS = 0x1000, 0x8000, 0x9000  # registers, a message each; doorbells at 0x800
BAR1_SIZE, BAR1_IMAGE, BAR1_KINDS = 0x1000, 0xA000, 0xB000  # MSI-X: table at 0, pending bits at 0x800
BAR4_SIZE, BAR4_IMAGE, BAR4_KINDS = 0x4000, 0xC000, 0x1_0000  # 64 bit, plain storage
MSIX_CAP = 0x40
DOORBELLS, STRIDE = 3, 4


def make_page(irq_base: int = 0) -> Shared:
    """Return the page of a device with three BARs, four vectors and three doorbells."""
    shared = anonymous(SIZE, "device")
    page = DevicePage(shared)
    page.format()
    config = DevicePage.CONFIG
    shared.store(config, 4, 0x11E8_1234)
    shared.store(config + 0x06, 2, 0x0010)
    shared.store(config + 0x34, 1, MSIX_CAP)
    shared.store(config + 0x3D, 1, 1)
    shared.store(config + MSIX_CAP, 4, (VECTORS - 1) << 16 | 0x11)
    shared.store(config + 0x20, 4, 0x4)
    shared.u8[DevicePage.CONFIG_KINDS : DevicePage.CONFIG_KINDS + 0x1000] = bytes([PLAIN]) * 0x1000
    mask = DevicePage.CONFIG_MASK
    shared.store(mask + 0x04, 2, 0x0406)
    for index, size in ((0, BAR0_SIZE), (1, BAR1_SIZE)):
        shared.store(mask + 0x10 + 4 * index, 4, -size)
    shared.store(mask + 0x20, 8, -BAR4_SIZE)
    shared.store(mask + MSIX_CAP + 2, 2, 0xC000)
    page.bar(0).set(BAR0_SIZE, BAR0_IMAGE, BAR0_KINDS, 0)
    page.bar(1).set(BAR1_SIZE, BAR1_IMAGE, BAR1_KINDS, 0)
    page.bar(4).set(BAR4_SIZE, BAR4_IMAGE, BAR4_KINDS, 4)
    shared.u8[BAR0_KINDS : BAR0_KINDS + 0x800] = bytes([MESSAGE]) * 0x800
    shared.u8[BAR0_KINDS + 0x800 : BAR0_KINDS + 0x810] = bytes([BELL]) * 0x10
    shared.u8[BAR0_KINDS + 0x808 : BAR0_KINDS + 0x80C] = bytes([RING]) * 4
    shared.u8[BAR0_KINDS + 0x810 : BAR0_KINDS + BAR0_SIZE] = bytes([NOTHING]) * (BAR0_SIZE - 0x810)
    shared.u8[BAR1_KINDS : BAR1_KINDS + 0x800] = bytes([PLAIN]) * 0x800
    shared.u8[BAR1_KINDS + 0x800 : BAR1_KINDS + BAR1_SIZE] = bytes([READ_ONLY]) * 0x800
    shared.u8[BAR4_KINDS : BAR4_KINDS + BAR4_SIZE] = bytes([PLAIN]) * BAR4_SIZE
    for vector in range(VECTORS):
        shared.store(BAR1_IMAGE + 16 * vector + 12, 4, 1)
    page.msix_vectors, page.msix_bar, page.msix_table, page.msix_pba, page.msix_cap = VECTORS, 1, 0, 0x800, MSIX_CAP
    page.doorbells, page.doorbell_bar, page.doorbell_offset, page.doorbell_stride = DOORBELLS, 0, 0x800, STRIDE
    page.irq_base, page.irq_count = irq_base, 1 + VECTORS
    page.initialised = 1
    return shared


class FakeLink:
    """The device's end of a link: it acts on what is sent at once and remembers it."""

    def __init__(self, page: DevicePage) -> None:
        self.page = page
        self.sent: list[Any] = []
        self.value = 0x1122_3344_5566_7788
        self._answers: deque[Any] = deque()

    def send(self, message: Any) -> None:
        """Take a message of the CPU process."""
        self.sent.append(message)
        if isinstance(message, messages.Write):
            self.page.processed = message.seq
        elif isinstance(message, messages.Read):
            self._answers.append(messages.Value(message.epoch, message.seq, self.value & (1 << 8 * message.size) - 1))
        else:
            self._answers.append(messages.Done(message.epoch, message.seq))

    def receive(self, timeout_s: float = 0) -> Any:
        """Return the next answer."""
        return self._answers.popleft() if self._answers else None

    def flush(self) -> bool:
        """Say that nothing waits."""
        return True

    def close(self) -> None:
        """End."""
