"""Wiring1 on the bus: a device's process connects eventfds of others with the guest, and may go."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from cpu_proc.machine import Machine
from cpu_proc.remote import Remote
from cpu_proc.slots import Slot
from protocol.bus import BusError, Fd
from protocol.errors import ProtocolError
from protocol.eventfd import accept

WIRING1 = "org.busvm.Wiring1"
_MOST = 250  # a message of a UNIX socket carries 253 descriptors (unix(7), SCM_MAX_FD)


class Wiring1:
    """org.busvm.Wiring1 of one slot; what it changes is changed while the harts stand still."""

    def __init__(self, machine: Machine, slot: Slot) -> None:
        self._machine = machine
        self._slot = slot

    async def connect_doorbells(self, connect: list[tuple[int, int]], forget: list[int]) -> None:
        """Have values ring eventfds."""
        values = [value for value, _ in connect]

        def change(remote: Remote, fds: list[int]) -> None:
            remote.matches.check(values)
            remote.matches.change(dict(zip(values, fds, strict=True)), forget)
            self._machine.board.update_windows()

        if len(set(values)) < len(connect):
            raise BusError("org.busvm.Error.Malformed", "a value twice")
        await self._change([fd for _, fd in connect], change)

    async def connect_calls(self, calls: list[int]) -> None:
        """Have eventfds interrupt the guest."""

        def change(remote: Remote, fds: list[int]) -> None:
            if len(calls) not in (0, len(remote.calls)):
                raise ProtocolError(f"{len(calls)} calls, the device has {len(remote.calls)}")
            self._machine.forget_calls(remote)
            _close(fd for fd in remote.calls if fd >= 0)
            remote.calls = fds or [-1] * len(remote.calls)
            self._machine.take_calls(remote)

        await self._change(calls, change)

    async def hold(self, descriptor: int) -> None:
        """Keep it."""

        def change(remote: Remote, fds: list[int]) -> None:
            old, remote.held = remote.held, fds[0]
            _close([old] if old >= 0 else [])

        await self._change([descriptor], change, eventfds=False)

    def held(self, first: int) -> tuple[list[tuple[int, Fd]], list[Fd]]:
        """Return what is connected."""
        remote = self._remote()
        doorbells = [(value, Fd(fd)) for value, fd in remote.matches.some(first, _MOST)]
        calls = [] if first or -1 in remote.calls else [Fd(fd) for fd in remote.calls[: _MOST - len(doorbells)]]
        return doorbells, calls

    def _remote(self) -> Remote:
        remote = self._slot.remote
        if remote is None:
            raise BusError("org.busvm.Error.NotAttached", f"{self._slot.id} is not attached")
        return remote

    async def _change(
        self, given: list[int], change: Callable[[Remote, list[int]], None], *, eventfds: bool = True
    ) -> None:
        """Do it between two instructions; copies of the descriptors belong to the device's proxy then."""
        if eventfds and not all(accept(fd) for fd in given):
            raise BusError("org.busvm.Error.Malformed", "a descriptor is no eventfd")
        remote = self._remote()
        fds: list[int] = []
        try:
            fds.extend(os.dup(fd) for fd in given)
            await asyncio.wrap_future(self._machine.do(lambda: change(remote, fds)))
        except ProtocolError as error:
            _close(fds)
            raise BusError("org.busvm.Error.Refused", error.message) from error
        except BaseException:
            _close(fds)
            raise


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
