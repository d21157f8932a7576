"""The socket of the stub: one client at a time, served on the event loop; its commands run between two instructions.

Nothing is kept for a client but one packet and one reply: what it does not read holds up what it sends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cpu_proc.gdbstub.commands import REFUSED, Commands
from cpu_proc.gdbstub.control import Control, Stop
from cpu_proc.gdbstub.framing import Framer, Packet, Sign, frame
from cpu_proc.hart import Hart
from cpu_proc.machine import OFF, PAUSED, Machine
from protocol.tasks import Tasks

logger = logging.getLogger(__name__)

_CHUNK = 65536
_HANDOVER_S = 2.0  # a client may come before the loop has noticed that the one before has gone


class Server:
    """Belongs to the event loop; ``machine_state`` and ``hit`` are called on the harts' threads."""

    def __init__(self, machine: Machine, changed: Callable[[], None] = lambda: None) -> None:
        self.counters: Counter[str] = Counter()
        self._machine = machine
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._control = Control(machine, self._send_stop)
        self._server: asyncio.AbstractServer | None = None
        self._admits: Callable[[asyncio.StreamWriter], bool] = lambda _writer: True
        self._sessions = Tasks()
        self._turn = asyncio.Lock()
        self._session: Session | None = None

    async def listen(self, path: Path, admits: Callable[[asyncio.StreamWriter], bool] = lambda _writer: True) -> None:
        """Serve clients at ``path`` whom ``admits`` does not turn away."""
        self._admits = admits
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, path)

    @property
    def connected(self) -> bool:
        """Tell whether a client is connected."""
        return self._session is not None

    def machine_state(self, state: str) -> None:
        """Take note of the machine's state, while all harts stand still."""
        if state == PAUSED:
            self._control.paused()
        elif state == OFF and self._control.ended():
            self._post(lambda session: session.ended(self._machine.exit_status))

    def hit(self, hart: Hart) -> None:
        """Stop for a hart that stands before a point."""
        self._machine.do(lambda: self._control.hit(hart))

    def _send_stop(self, stop: Stop) -> None:
        self._post(lambda session: session.stopped(stop))

    def _post(self, action: Callable[[Session], None]) -> None:
        def act() -> None:
            if self._session is not None:
                action(self._session)

        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(act)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._admits(writer):
            self.counters["refused"] += 1
            return
        self._sessions.start(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counters["connections"] += 1
        try:
            await asyncio.wait_for(self._turn.acquire(), _HANDOVER_S)
        except TimeoutError:
            self.counters["refused"] += 1
            logger.warning("a second debugger was refused: there is one already")
            writer.close()
            return
        try:
            await self._do(self._control.attach)
            self._session = Session(writer, Commands(self._control, self.counters), self.counters, self._do)
            logger.info("debugger connected")
            self._changed()
            await self._session.serve(reader)
        except (ConnectionError, asyncio.CancelledError):
            pass
        except Exception:
            self.counters["failures"] += 1
            logger.exception("the gdb stub failed; its client is let go")
        finally:
            self._session = None
            writer.close()
            try:
                await self._do(self._control.detach)
            finally:
                logger.info("debugger gone")
                self._turn.release()
                self._changed()

    async def _do(self, work: Callable[[], Any]) -> Any:
        return await asyncio.shield(asyncio.wrap_future(self._machine.do(work)))

    async def close(self) -> None:
        """Give the client its last word and end."""
        if self._server is not None:
            self._server.close()
        self._sessions.cancel()
        await self._sessions.wait(1)


class Session:
    """One client."""

    def __init__(
        self, writer: asyncio.StreamWriter, commands: Commands, counters: Counter[str], do: Callable[..., Any]
    ) -> None:
        self._writer = writer
        self._commands = commands
        self._counters = counters
        self._do = do
        self._last = b""

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer until the client goes."""
        framer = Framer()
        while data := await reader.read(_CHUNK):
            for event in framer.feed(data):
                if isinstance(event, Packet):
                    await self._packet(event.payload)
                else:
                    await self._sign(event)
                await self._writer.drain()

    def stopped(self, stop: Stop) -> None:
        """Send the stop reply that the client waits for."""
        self._send(self._commands.stopped(stop))

    def ended(self, status: int) -> None:
        """Tell that the VM has ended."""
        self._send(b"W%02x" % (status & 0xFF))

    async def _packet(self, payload: bytes) -> None:
        self._counters["packets"] += 1
        if self._commands.acks:
            self._writer.write(b"+")
        try:
            reply = await self._do(lambda: self._commands.execute(payload))
        except Exception:
            self._counters["failures"] += 1
            logger.exception("the gdb stub failed in %r", payload[:80])
            reply = REFUSED
        if reply is not None:
            self._send(reply)

    async def _sign(self, sign: Sign) -> None:
        if sign is Sign.INTERRUPT:
            await self._do(self._commands.interrupt)
            return
        if sign is Sign.ACK:
            return
        self._counters[sign.value] += 1
        if sign is Sign.NAK and self._commands.acks:
            self._writer.write(self._last)
        elif sign in (Sign.BAD_CHECKSUM, Sign.OVERSIZED) and self._commands.acks:
            self._writer.write(b"-")

    def _send(self, reply: bytes) -> None:
        self._last = frame(reply)
        self._writer.write(self._last)
