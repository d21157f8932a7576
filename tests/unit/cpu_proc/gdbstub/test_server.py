"""The socket of the stub: clients that come, misbehave and vanish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cpu_proc.gdbstub import server as server_module
from cpu_proc.gdbstub.framing import frame
from cpu_proc.gdbstub.server import Server
from cpu_proc.machine import PAUSED, RUNNING, WAITING
from tests.unit.cpu_proc.gdbstub.conftest import Talk
from tests.unit.cpu_proc.harness import NOP, RAM, addi, jal

WAIT_S = 20.0


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> Client:
        return cls(*await asyncio.open_unix_connection(path))

    async def reply(self) -> bytes:
        """Return the next packet's payload, past acknowledgements."""
        text = await asyncio.wait_for(self.reader.readuntil(b"#"), WAIT_S)
        await self.reader.readexactly(2)
        return text[text.index(b"$") + 1 : -1]

    async def ask(self, payload: bytes) -> bytes:
        self.writer.write(frame(payload))
        return await self.reply()

    async def byte(self) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(1), WAIT_S)

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


Scenario = Callable[[Server, Path], Awaitable[None]]


def play(talk: Talk, folder: Path, scenario: Scenario) -> Server:
    """Serve the machine on a socket while ``scenario`` runs."""

    async def run() -> Server:
        server = Server(talk.machine)
        talk.machine.events.debug = server.hit
        talk.machine.events.state = lambda state, _reason: server.machine_state(state)
        path = folder / "gdb"
        await server.listen(path)
        await scenario(server, path)
        await server.close()
        return server

    before = talk.machine.events.debug, talk.machine.events.state
    talk.do(talk.control.detach)
    try:
        return asyncio.run(run())
    finally:
        talk.machine.events.debug, talk.machine.events.state = before
        talk.control.__init__(talk.machine, talk.replies.put)  # type: ignore[misc]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_conversation_and_a_client_that_vanishes(talk: Talk, tmp_path: Path) -> None:
    talk.put(RAM, addi(5, 5, 1), NOP, jal(0, -8))

    async def scenario(server: Server, path: Path) -> None:
        for _ in range(3):
            client = await Client.connect(path)
            assert await client.ask(b"?") == b"T05thread:1;"
            assert server.connected
            assert talk.machine.state == PAUSED
            assert await client.ask(b"QStartNoAckMode") == b"OK"
            assert await client.ask(b"Z0,%x,4" % (RAM + 4)) == b"OK"
            assert await client.ask(b"c") == b"T05thread:1;"
            client.writer.write(frame(b"z0,%x,4" % (RAM + 4)))
            client.writer.write(frame(b"Z2,%x,4" % (RAM + 64)))
            client.writer.write(frame(b"c"))
            assert [await client.reply(), await client.reply()] == [b"OK", b"OK"]
            client.writer.write(b"\x03")
            assert await client.reply() == b"T02thread:1;"
            client.writer.write(frame(b"Z0,%x,4" % RAM)[:-1])
            await client.leave()
            await until(lambda: not server.connected and talk.machine.state == RUNNING)
            assert all(hart["BREAKS"] == hart["WATCHES"] == 0 for hart in talk.machine.harts)

    assert play(talk, tmp_path, scenario).counters["connections"] == 3


def test_a_client_that_vanishes_while_the_harts_run(talk: Talk, tmp_path: Path) -> None:
    async def scenario(server: Server, path: Path) -> None:
        client = await Client.connect(path)
        assert await client.ask(b"?") == b"T05thread:1;"
        client.writer.write(frame(b"vCont;c:1"))
        await until(lambda: bool(server._control._waiting))
        await client.leave()
        await until(lambda: not server.connected and talk.machine.state == RUNNING)

    talk.put(RAM, addi(5, 5, 1), NOP, jal(0, -8))
    play(talk, tmp_path, scenario)


def test_what_is_wrong_is_refused_counted_and_ends_nothing(talk: Talk, tmp_path: Path) -> None:
    async def scenario(_server: Server, path: Path) -> None:
        client = await Client.connect(path)
        client.writer.write(b"garbage$g#00")
        assert await client.byte() == b"-"
        client.writer.write(b"$" + b"x" * 100_000 + b"#00")
        assert await client.byte() == b"-"
        assert await client.ask(b"p") == b"E22"
        assert await client.ask(b"vUnknown") == b""
        first = await client.ask(b"qC")
        client.writer.write(b"-")
        assert await client.reply() == first
        client.writer.write(b"\x03\x03\x03++")
        assert await client.ask(b"qC") == first
        await client.leave()

    counters = play(talk, tmp_path, scenario).counters

    assert (counters["bad_checksum"], counters["oversized"], counters["stray"]) == (1, 1, 7)
    assert (counters["malformed"], counters["unknown"], counters["nak"], counters["failures"]) == (1, 1, 1, 0)


def test_a_second_debugger_is_refused(talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_HANDOVER_S", 0.1)

    async def scenario(server: Server, path: Path) -> None:
        first = await Client.connect(path)
        assert await first.ask(b"?") == b"T05thread:1;"
        second = await Client.connect(path)
        assert await asyncio.wait_for(second.reader.read(), WAIT_S) == b""
        assert await first.ask(b"qC") == b"QC1"
        await second.leave()
        await first.leave()
        assert server.counters["refused"] == 1

    play(talk, tmp_path, scenario)


def test_a_client_that_does_not_read_holds_up_itself_alone(talk: Talk, tmp_path: Path) -> None:
    async def scenario(server: Server, path: Path) -> None:
        client = await Client.connect(path)
        request = frame(b"m%x,1ff0" % RAM)

        async def flood() -> None:
            while True:
                client.writer.write(request * 100)
                await client.writer.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood(), 2)
        assert server.counters["packets"] < 1000
        client.writer.transport.abort()
        await until(lambda: not server.connected)

    play(talk, tmp_path, scenario)


def test_a_failure_of_ours_is_an_answer_too(talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("ours")

    monkeypatch.setattr("cpu_proc.gdbstub.registers.read_all", fail)

    async def scenario(server: Server, path: Path) -> None:
        client = await Client.connect(path)
        assert await client.ask(b"g") == b"E01"
        assert await client.ask(b"qC") == b"QC1"
        await client.leave()
        assert server.counters["failures"] == 1

    play(talk, tmp_path, scenario)


def test_the_socket_is_the_owners_alone_and_nothing_waits(talk: Talk, tmp_path: Path) -> None:
    async def scenario(server: Server, path: Path) -> None:
        assert path.is_socket()
        assert not server.connected
        assert talk.machine.state != WAITING

    play(talk, tmp_path, scenario)
