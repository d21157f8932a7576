"""Taking a device out of its port: with the guest's consent, or by force.

A guest with a hot-plug driver (pciehp) is asked by the attention button, and consents by switching the slot off, power
indicator included (PCIe 5.0 §6.7.1.5). One without is not asked, as nobody would hear it: its consent is that no driver
has the function any more. What Linux leaves behind when a device is removed through sysfs is a function that masters
no bus and has MSI-X off; memory decoding it leaves on, so that says nothing. A function that no driver has bound yet
looks the same, and may go as well.
"""

from __future__ import annotations

import asyncio
import logging
import time

from cpu_proc.attach import Attacher
from cpu_proc.machine import Machine
from cpu_proc.pcie.port import Card
from cpu_proc.slots import ATTACHED, ATTACHING, Slot
from protocol import names
from protocol.bus import Bus, BusError
from protocol.errors import BusvmError

logger = logging.getLogger(__name__)

POLL_S = 0.02
_LEAVE_S = 2.0
LONGEST_WAIT_S = 3600.0


def _refuse(name: str, text: str) -> BusError:
    return BusError(f"org.busvm.Error.{name}", text)


class Ejector:
    """Ejects devices of one machine; belongs to the thread of the bus."""

    def __init__(self, machine: Machine, attacher: Attacher, bus: Bus) -> None:
        self._machine = machine
        self._attacher = attacher
        self._bus = bus

    async def eject(self, slot: Slot, *, force: bool, timeout_s: float) -> None:
        """Take the device in ``slot`` out; with ``force`` without asking: from then on the guest reads all ones.

        Raises:
            BusError: it cannot be taken out, or the guest keeps it; it stays then.
        """
        card = slot.remote
        if card is None:
            raise _refuse("NotPlugged", f"{slot.id} is not plugged in")
        if not isinstance(card, Card):
            raise _refuse("NotRemovable", f"{slot.id} at {slot.shown} is not behind a hot-plug port")
        if slot.leaving or slot.state == ATTACHING or (slot.asked and not force):
            raise _refuse("Busy", f"{slot.id} is {'just coming' if slot.state == ATTACHING else 'leaving already'}")
        if not force:
            slot.asked = True
            try:
                await self._ask(slot, card, min(max(0.0, timeout_s), LONGEST_WAIT_S))
            finally:
                slot.asked = False
        slot.leaving = True
        try:
            was_attached = slot.state == ATTACHED
            card.close()  # a hart that waits for it goes on, with all ones
            await self._stand_still(lambda: self._machine.board.root.remove(card))
            logger.info("dev=%s ejected from %s%s", slot.id, slot.shown, " by force" if force else "")
            if was_attached:
                await self._dismiss(slot)
            self._attacher.release(slot, card)
            self._attacher.forget(slot)
        finally:
            slot.leaving = False

    async def _stand_still(self, work: object) -> None:
        await asyncio.wrap_future(self._machine.do(work))  # type: ignore[arg-type]

    async def _ask(self, slot: Slot, card: Card, timeout_s: float) -> None:
        """Return when the guest has let go of the device."""
        port = card.port
        if port.hot_plug.driven and port.hot_plug.powered:
            await self._stand_still(lambda: self._machine.board.root.press(port))
        deadline = time.monotonic() + timeout_s
        while slot.state == ATTACHING or not _has_let_go(card):
            if slot.remote is not card:
                raise _refuse("NotPlugged", f"{slot.id} was pulled out meanwhile")
            if time.monotonic() > deadline:
                if port.hot_plug.driven and port.hot_plug.indicator == "blinking":
                    # within five seconds a second press takes back the first (PCIe 5.0 §6.7.1.5)
                    await self._stand_still(lambda: self._machine.board.root.press(port))
                raise _refuse("Busy", f"the guest has not let go of {slot.id} in {timeout_s:g} s")
            await asyncio.sleep(POLL_S)

    async def _dismiss(self, slot: Slot) -> None:
        """Have the process let go of the machine, so that nothing of it writes there any more."""
        name, path = names.device_name(slot.id), names.device_path(slot.id)
        try:
            await self._bus.call(name, path, "org.busvm.Device1", "Detach", timeout_s=_LEAVE_S)
        except (BusvmError, TimeoutError) as error:
            logger.info("dev=%s did not detach: %s", slot.id, error)


def _has_let_go(card: Card) -> bool:
    slot = card.port.hot_plug
    return slot.let_go if slot.driven else not slot.powered or card.unused
