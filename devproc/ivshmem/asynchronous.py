"""A peer in an asyncio program: ``Client``, with waits that let others run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Self

from devproc.ivshmem.client import Client, Event


class AsyncClient:
    """Waits for a ``client``, whose other members are used as they are: they do not wait."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @classmethod
    async def connect(cls, path: Path, *, name: str, timeout_s: float, readonly: bool) -> Self:
        """Connect, on a thread; raises as ``Client`` does."""
        return cls(await asyncio.to_thread(lambda: Client(path, name=name, timeout_s=timeout_s, readonly=readonly)))

    @property
    def id(self) -> int:
        """The id by which others ring this one."""
        return self.client.id

    @property
    def peers(self) -> dict[int, int]:
        """How many vectors each other peer has, by id."""
        return self.client.peers

    @property
    def memory(self) -> memoryview:
        """The shared memory."""
        return self.client.memory

    def ring(self, peer: int, vector: int = 0) -> None:
        """Ring a peer, or oneself."""
        self.client.ring(peer, vector)

    async def wait(self, vector: int = 0) -> int:
        """Return how often this vector was rung since the last time; at least once."""
        while True:
            fd = self.client.doorbell(vector)
            try:
                return os.eventfd_read(fd)
            except BlockingIOError:
                await self._readable(fd)
                self.client.process()

    async def event(self) -> Event:
        """Return who came or went next."""
        while (event := self.client.wait_event(0)) is None:
            await self._readable()
        return event

    async def _readable(self, *fds: int) -> None:
        """Wait for one of ``fds`` or the server; without a server, until it is time to look for it."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        # epoll copies: two waits for one descriptor are two registrations
        copies = [os.dup(fd) for fd in (*fds, self.client.fileno()) if fd >= 0]
        try:
            for fd in copies:
                loop.add_reader(fd, woken.set)
            async with asyncio.timeout(self.client.wake_s):
                await woken.wait()
        except TimeoutError:
            pass
        finally:
            for fd in copies:
                loop.remove_reader(fd)
                os.close(fd)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.close()
