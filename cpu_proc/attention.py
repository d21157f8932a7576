"""Whether devices attend to the guest: one whose process is stopped, or stands in a handler, stops guest time.

A hart that asks a device waits for it, and time stands still meanwhile (``cpu_proc.remote``). This is about all other
times: requests are under way, harts do something else, and the guest would see a timeout. A device loop counts its
turns in the page, odd while it is at work (``DevicePage.turns``). It does not attend if its process is stopped (a
signal, a debugger), if it is at work in the same turn as at the last look (a breakpoint, a sleep), or if it waits and
has left a doorbell where it was. A process that is gone is another matter: the guest sees a pause until its successor
is there.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cpu_proc.machine import RUNNING, STALLED, Machine
from cpu_proc.remote import Remote

logger = logging.getLogger(__name__)

LOOK_S = 0.25


@dataclass(frozen=True)
class _Seen:
    pid: int
    turns: int
    rung: bool


class Attention:
    """Watches the devices of one machine; belongs to the thread of the bus."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._seen: dict[str, _Seen] = {}

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            absent = self.look(self._machine.board.remotes)
            if absent and self._machine.state == RUNNING:
                self._machine.do(lambda device=absent[0]: self._hold(device))  # type: ignore[misc]
            elif not absent and self._machine.state == STALLED and self._machine.gate.held:
                self._machine.do(self._machine.let_go)

    def look(self, remotes: Iterable[Remote]) -> list[Remote]:
        """Return the devices that do not attend, by this look and the one before."""
        before, self._seen = self._seen, {}
        absent = []
        for remote in remotes:
            if not remote.connected:
                continue
            now = self._seen[remote.id] = _Seen(remote.pid, remote.page.turns, _is_rung(remote))
            hangs = now == before.get(remote.id) and bool(now.turns & 1 or now.rung)
            if hangs or is_stopped(remote.pid):
                absent.append(remote)
        return absent

    def _hold(self, device: Remote) -> None:
        """Have everything stand still, if the device is still absent now that the harts have come together."""
        seen = self._seen.get(device.id)
        if device.connected and seen and (is_stopped(device.pid) or device.page.turns == seen.turns):
            self._machine.hold(f"{device.id} does not answer")


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped, by a signal or a debugger."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in "tT"


def _is_rung(remote: Remote) -> bool:
    """Tell whether a doorbell waits to be heard by the device's own loop."""
    if remote.page.hands_on:
        return False
    poll = select.poll()
    for fd in remote.doorbells:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
