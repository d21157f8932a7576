"""The serial console as a stream socket: every client sees the output, any client's input reaches the guest.

What is printed before the first client comes is held for it, so that nobody misses the beginning.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from protocol.tasks import Tasks

_HELD = 1 << 20
_FIRST_CLIENT_S = 2.0
_SLOW_CLIENT = 1 << 20  # output a client may be behind before it is cut off


class Console:
    """Belongs to the event loop; ``output`` alone may be called from the hart's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Path) -> None:
        self._loop = loop
        self._log = log.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._fresh = bytearray()
        self._held = bytearray()
        self._clients: set[asyncio.StreamWriter] = set()
        self._server: asyncio.AbstractServer | None = None
        self._on_input: Callable[[bytes], None] = lambda _data: None
        self._admits: Callable[[asyncio.StreamWriter], bool] = lambda _writer: True
        self._serving = Tasks()
        self._had_client = False
        self._joined = asyncio.Event()

    async def listen(
        self,
        path: Path,
        on_input: Callable[[bytes], None],
        admits: Callable[[asyncio.StreamWriter], bool] = lambda _writer: True,
    ) -> None:
        """Serve clients at ``path`` whom ``admits`` does not turn away; what they type goes to ``on_input``."""
        self._on_input, self._admits = on_input, admits
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, path)

    def output(self, data: bytes) -> None:
        """Take what the guest printed."""
        with self._lock:
            first = not self._fresh
            self._fresh += data
        if first:
            with suppress(RuntimeError):  # the loop has ended; the log was the last to know
                self._loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        """Pass on what was printed."""
        with self._lock:
            data, self._fresh = bytes(self._fresh), bytearray()
        if not data:
            return
        with suppress(OSError):  # a full disk must not stop the guest
            self._log.write(data)
        if not self._had_client:
            self._held += data
            del self._held[:-_HELD]
        for writer in list(self._clients):
            if writer.transport.get_write_buffer_size() > _SLOW_CLIENT:
                self._clients.discard(writer)
                writer.close()
            else:
                writer.write(data)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._admits(writer):
            return
        self._serving.start(self._client(reader, writer))

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._had_client:
            self._had_client = True
            writer.write(bytes(self._held))
            self._held.clear()
            self._joined.set()
        self._clients.add(writer)
        try:
            while data := await reader.read(4096):
                self._on_input(data)
        except ConnectionError:
            pass
        finally:
            self._clients.discard(writer)
            writer.close()

    async def close(self) -> None:
        """Give the clients the rest, then end; a guest that was quicker than its first client waits for it a moment."""
        self.flush()
        if self._held and not self._had_client:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._joined.wait(), _FIRST_CLIENT_S)
        for writer in list(self._clients):
            with suppress(ConnectionError, TimeoutError):
                await asyncio.wait_for(writer.drain(), 2)
            writer.close()
        if self._server is not None:
            self._server.close()
        await self._serving.wait(1)
        self._log.close()
