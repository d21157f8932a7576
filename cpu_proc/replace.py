"""Replacing the process behind a device while the guest goes on: by one of newer source, or of another type.

The newcomer is there already, beside the old process, and has tried the page. The harts stand still between two
instructions, so that nobody waits for an answer and nothing stores into the page; the old process finishes its
requests and lets go; the newcomer attaches to a page of its own, which it fills from the old one. If it does not, the
old process attaches again, to a page in which nothing has changed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cpu_proc.attach import Attacher
from cpu_proc.machine import PAUSED, RUNNING, Machine
from cpu_proc.offering import DEVICE1, Accepted, Offer, check_wishes
from cpu_proc.remote import Remote, new_calls
from cpu_proc.slots import ATTACHED, LOST, Slot
from protocol import names
from protocol.access import Parts
from protocol.bus import Bus, BusError, Fd, Variant
from protocol.errors import BusvmError
from protocol.layout import DevicePage, IrqPage

logger = logging.getLogger(__name__)

_FINISH_S = 60.0  # for requests that are under way


def _refuse(name: str, text: str) -> BusError:
    return BusError(f"org.busvm.Error.{name}", text)


@dataclass
class _Place:
    """What the newcomer gets in the place of what its predecessor has."""

    page: DevicePage
    calls: list[int]
    moved: bool
    """Its interrupt sources are others: there are more calls, or fewer."""


class Replacer:
    """Replaces processes of one machine; belongs to the thread of the bus."""

    def __init__(self, machine: Machine, attacher: Attacher, bus: Bus, parts: Parts) -> None:
        self._machine = machine
        self._attacher = attacher
        self._bus = bus
        self._parts = parts
        self._busy = False

    async def replace(self, slot: Slot, newcomer: str) -> None:
        """Have the process with the unique name ``newcomer`` go on in the place of the one that serves ``slot``.

        Raises:
            BusError: it does not; the one before serves on.
        """
        remote, old = slot.remote, self._attacher.owner(slot.id)
        if remote is None or slot.state != ATTACHED or slot.leaving or not old:
            raise _refuse("State", f"{slot.id} is {slot.state}")
        if self._busy or self._machine.state not in (RUNNING, PAUSED):
            raise _refuse(
                "State", "another is being replaced" if self._busy else f"the machine is {self._machine.state}"
            )
        self._busy = True
        try:
            wishes = await self._attacher.offers.wishes(newcomer, slot.id)
            self._check(remote, wishes)
            if not await self._parts.admit(slot.id, newcomer):
                raise _refuse("State", "the newcomer is another part of the VM")
            layout, saves = await self._bus.call(old, names.device_path(slot.id), DEVICE1, "Layout")
            page = [Fd(remote.shared.fd), remote.shared.size, layout]
            await self._bus.call(newcomer, names.device_path(slot.id), DEVICE1, "Consider", "hts", page)
            await self._while_paused(
                f"{slot.id} is being replaced",
                lambda: self._go_over(slot, remote, old, newcomer, wishes, str(layout), bool(saves)),
            )
        except (TimeoutError, KeyError) as error:
            raise _refuse("Failed", f"{slot.id} or its successor does not answer") from error
        except BusvmError as error:
            raise error if isinstance(error, BusError) else _refuse("Failed", error.message) from error
        finally:
            self._busy = False

    @staticmethod
    def _check(remote: Remote, wishes: dict[str, Any]) -> None:
        check_wishes(wishes)
        found = wishes["Transport"], wishes["Doorbells"], wishes["Vectors"]
        wanted = remote.transport, len(remote.doorbells), remote.page.msix_vectors
        for what, had, has in zip(("transport", "doorbells", "vectors"), wanted, found, strict=True):
            if had != has:
                raise _refuse("Shape", f"{what}: {has} where there were {had}: the guest would see another device")

    async def _while_paused(self, reason: str, work: Callable[[], Any]) -> None:
        """Do something while harts and guest time stand still."""
        was_running = self._machine.state == RUNNING
        if was_running:
            await self._do(lambda: self._machine.pause(reason))
        try:
            await work()
        finally:
            if was_running:
                await self._do(self._machine.resume)

    async def _do(self, work: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self._machine.do(work))

    async def _go_over(
        self, slot: Slot, remote: Remote, old: str, newcomer: str, wishes: dict[str, Any], layout: str, saves: bool
    ) -> None:
        path = names.device_path(slot.id)
        place: _Place | None = None
        saved, left = -1, False
        try:
            same = wishes["Type"] == slot.type
            await asyncio.wait_for(self._do(lambda: remote.barrier("quiesce" if same else "settle")), _FINISH_S)
            saved = await self._save(old, path) if saves and same else -1
            place = self._place(slot, remote, wishes)
            left = True
            await self._bus.call(old, path, DEVICE1, "Detach", timeout_s=_FINISH_S)
            remote.lose()
            accepted = await self._offer(slot, newcomer, remote, place, layout, saved)
        except BaseException:
            if place is not None:
                self._give_up(slot, place)
            if left:
                await self._back(slot, remote, old)
            else:
                self._machine.do(lambda: remote.barrier("resume"))
            raise
        finally:
            if saved >= 0:
                os.close(saved)
        await self._do(lambda: self._commit(slot, remote, place, accepted))
        slot.type = str(wishes["Type"])
        remote.connect(accepted.link, accepted.pid, slot.epoch)
        self._attacher.replaced(slot, newcomer)
        logger.info("dev=%s epoch=%d replaced, pid=%d", slot.id, slot.epoch, accepted.pid)

    async def _save(self, old: str, path: str) -> int:
        """Have the old process write what it has beside its page; return a descriptor of that."""
        fd = os.memfd_create("busvm", os.MFD_CLOEXEC)
        try:
            await self._bus.call(old, path, DEVICE1, "Save", "h", [Fd(fd)], timeout_s=_FINISH_S)
            os.lseek(fd, 0, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _place(self, slot: Slot, remote: Remote, wishes: dict[str, Any]) -> _Place:
        """Make a page, and interrupt sources if there are to be more or fewer; nobody knows of them yet.

        Raises:
            BusvmError: the host has no room, or there are no more sources.
        """
        old, calls = remote.page, int(wishes.get("Calls", 0))
        moved = calls != len(remote.calls)
        first_source = None if moved else old.irq_base
        page = self._attacher.offers.new_page(f"dev.{slot.id}.next", wishes, first_source)
        page.express, page.functions, page.posted = old.express, old.functions, old.posted
        if moved:
            words = self._machine.irq.shared.u64
            first, before = (IrqPage.WORDS >> 3) + page.irq_base, (IrqPage.WORDS >> 3) + old.irq_base
            kept = min(page.irq_count, 1 + old.msix_vectors)
            for index in range(page.irq_count):
                words[first + index] = words[before + index] if index < kept else 0
        return _Place(page, new_calls(calls) if moved else remote.calls, moved)

    def _give_up(self, slot: Slot, place: _Place) -> None:
        """Take back what nobody has come to use."""
        page = place.page
        if place.moved:
            slot.old_sources.append(slice(page.irq_base, page.irq_base + page.irq_count))
            for fd in place.calls:
                os.close(fd)
        page.shared.unlink()
        page.shared.close()

    async def _offer(
        self, slot: Slot, newcomer: str, remote: Remote, place: _Place, layout: str, saved: int
    ) -> Accepted:
        more = {
            "before": Variant("h", Fd(remote.shared.fd)),
            "before_size": Variant("t", remote.shared.size),
            "layout": Variant("s", layout),
        }
        if saved >= 0:
            more["saved"] = Variant("h", Fd(saved))
        slot.epoch = max(remote.page.epoch, slot.epoch) + 1
        offer = Offer(slot.epoch, place.page, place.calls, more)
        return await self._attacher.offers.make_offer(slot, newcomer, remote, offer)

    async def _back(self, slot: Slot, remote: Remote, old: str) -> None:
        """Have the old process go on."""
        try:
            slot.epoch += 1
            offer = Offer(slot.epoch, remote.page, remote.calls)
            accepted = await self._attacher.offers.make_offer(slot, old, remote, offer)
        except (BusvmError, TimeoutError) as error:
            logger.warning("dev=%s the process before does not attach again: %s", slot.id, error)
            slot.state = LOST  # until it, or another, is found on the bus
            remote.lose()
            return
        for memory in accepted.memory.values():
            memory.close()
        remote.connect(accepted.link, accepted.pid, slot.epoch)
        slot.state = ATTACHED

    def _commit(self, slot: Slot, remote: Remote, place: _Place, accepted: Accepted) -> None:
        """Have the harts know the new page (called while they stand still)."""
        old = remote.shared
        if place.moved:
            first, kept = remote.page.irq_base, 1 + remote.page.msix_vectors
            slot.old_sources.append(slice(first, first + remote.page.irq_count))
            self._machine.forget_calls(remote)
            for fd in remote.calls:
                os.close(fd)
            remote.last_words = [*remote.last_words[:kept], *[0] * len(place.calls)]
        remote.turn_to(place.page.shared, place.calls)
        self._machine.board.exchange(remote, accepted.memory)
        if place.moved:
            self._machine.take_calls(remote)
        name = old.name
        old.close()
        if name is not None:
            place.page.shared.rename(name)
