"""Strangers at an ivshmem server: anything may come on both of its sockets, and from a server to a client.

``python -m tests.fuzz.ivshmem --messages 1000000 --seed 1`` plays episodes. In each some connect to a server in this
process and say things by chance: words that are nearly right, bytes, descriptors of all kinds, lifelines that hang up;
they stop reading, come back by name, and go. A client's session is told such words, too. Nothing may raise but
protocol errors; after each episode a peer of each kind joins, they know each other and are rung, and when they have
left nobody is there and no descriptor. Memory is looked at after each 1000 episodes. An episode follows from the seed
and its number.
"""

from __future__ import annotations

import argparse
import array
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from devproc.ivshmem.config import Config
from devproc.ivshmem.service import Service
from protocol import log
from protocol.errors import ProtocolError
from protocol.ivshmem import Message, Receiver, Session, encode
from protocol.ivshmem_hello import MAGIC, Hello
from protocol.memory import sealed

VECTORS = 2
PATIENCE_S = 60  # for an episode
WARM = 300  # episodes until memory is what it will be
_WORDS = (0, -1, 1, 2, 3, -2, MAGIC, 255, 65535, 65536, 1 << 62, -(1 << 63))
_NAMES = ("", "a", "b", "x" * 64)
_KINDS = ("", "", "", "eventfd", "eventfd", "pipe", "write end", "socket", "memory", "null", "two")


class Stranger:
    """Who connects, and says something by chance."""

    def __init__(self, path: Path, chance: random.Random, stock: Stock) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self._chance, self._stock = chance, stock
        self._receiver = Receiver(self.socket)

    def say(self) -> None:
        """Say one thing."""
        dice = self._chance.random()
        if dice < 0.2:
            self.send(self._chance.randbytes(self._chance.choice((1, 3, 7, 8, 9, 64))))
        elif dice < 0.45:
            self.hello()
        else:
            word = self._chance.choice(_WORDS) if dice < 0.9 else self._chance.getrandbits(63)
            self.send(encode(word), self._stock.some(self._chance.choice(_KINDS)))

    def hello(self) -> None:
        """Say a hello, of which parts may be wrong or missing."""
        chance, stock = self._chance, self._stock
        if chance.random() < 0.4:
            known = {n: [stock.eventfd] * VECTORS for n in range(4) if chance.random() < 0.2}
            for value, fd in Hello(-1, chance.choice("ab"), known, lifeline=chance.choice((stock.pipe, None))).words():
                self.send(encode(value), [] if fd is None else [fd])
            return
        known = {n: [stock.eventfd for _ in range(chance.choice((2, 2, 1, 3)))] for n in range(chance.randrange(3))}
        lifeline = chance.choice((None, None, stock.pipe, stock.write_end, stock.socket))
        hello = Hello(chance.choice((-1, 0, 1, 2)), chance.choice(_NAMES), known, chance.random() < 0.3, lifeline)
        words = hello.words()
        if chance.random() < 0.4:
            words[chance.randrange(len(words))] = (
                chance.choice(_WORDS),
                next(iter(stock.some(chance.choice(_KINDS[:-1]))), None),
            )
        for value, fd in words[: chance.choice((len(words), len(words), chance.randrange(len(words))))]:
            self.send(encode(value), [] if fd is None else [fd])

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        """Send it, if there is somebody who takes it."""
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with suppress(OSError):
            self.socket.sendmsg([data], extra, socket.MSG_NOSIGNAL)

    def read(self) -> None:
        """Take what has come, whatever it is."""
        with suppress(ProtocolError):
            while (message := self._receiver.receive()) is not None:
                message.drop()

    def close(self) -> None:
        """Hang up."""
        self._receiver.close()
        self.socket.close()


class Stock:
    """One descriptor of each kind."""

    def __init__(self) -> None:
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        self.memory = sealed("fuzz", 4096)
        self.null = os.open("/dev/null", os.O_RDWR)
        self.lines()

    def lines(self) -> None:
        """Make lifelines."""
        self.pipe, self.write_end = os.pipe()
        self._here, self._there = socket.socketpair()
        self.socket = self._there.fileno()

    def hang_up(self) -> None:
        """Have all lifelines of before hang up."""
        self.cut()
        self.lines()

    def cut(self) -> None:
        """End them."""
        os.close(self.pipe)
        os.close(self.write_end)
        self._here.close()
        self._there.close()

    def some(self, kind: str) -> list[int]:
        """Return descriptors of a kind."""
        if kind == "two":
            return [self.eventfd, self.memory]
        return [getattr(self, kind.replace(" ", "_"))] if kind else []

    def close(self) -> None:
        """Close them."""
        self.cut()
        for fd in (self.eventfd, self.memory, self.null):
            os.close(fd)


class Player:
    """Plays episodes at one server."""

    def __init__(self, folder: Path) -> None:
        self.said = 0
        self._path = folder / "s"
        self._now = 1.0
        self.service = Service(Config(self._path, 4096, VECTORS, patience_s=5.0), lambda: self._now)
        assert self.service.memory is not None
        assert self.service.memory.readonly >= 0  # which is opened when it is first asked for
        self._stock = Stock()
        self._fds = open_fds()

    def play(self, seed: int, number: int) -> None:
        """Play one; raises what should not have been."""
        chance = random.Random(f"{seed} {number}")
        strangers: list[Stranger] = []
        for _ in range(60):
            dice = chance.random()
            if not strangers or (dice < 0.1 and len(strangers) < 8):
                path = self._path.with_name(chance.choice(("s", "s.busvm", "s.busvm")))
                strangers.append(Stranger(path, chance, self._stock))
            elif dice < 0.15:
                strangers.pop(chance.randrange(len(strangers))).close()
            elif dice < 0.25:
                chance.choice(strangers).read()
            elif dice < 0.28:
                self._later()
            elif dice < 0.30:
                self._stock.hang_up()
            else:
                chance.choice(strangers).say()
                self.said += 1
            if chance.random() < 0.7:
                self._turn()
        self._client(chance)
        for stranger in strangers:
            stranger.close()
        self._check()

    def _turn(self) -> None:
        for _ in range(4):
            self.service.turn()

    def _later(self) -> None:
        """Have time pass, so that the server's patience ends."""
        self._now += 3.0
        self.service._rang(0)
        self.service._sweep()

    def _client(self, chance: random.Random) -> None:
        """Tell a client what no server says."""
        session = Session(chance.random() < 0.5)
        begin = [(0, ""), *([(VECTORS, "")] if session.dialect else []), (3, ""), (-1, "memory")]
        words = begin[: chance.choice((len(begin), chance.randrange(len(begin))))]
        words += [(chance.choice(_WORDS), chance.choice(_KINDS[:-1])) for _ in range(chance.randrange(12))]
        with ExitStack() as stack:
            stack.callback(session.close)
            stack.enter_context(suppress(ProtocolError))
            for value, kind in words:
                self.said += 1
                session.take(Message(value, os.dup(self._stock.some(kind)[0]) if kind else None))

    def _check(self) -> None:
        """Let two who behave join and leave."""
        self._stock.hang_up()
        self._settle()
        for _ in range(3):
            self._later()
        self._settle()
        assert not self.service.peers, f"still there: {list(self.service.peers.values())}"
        ours, plain = self._good(Hello(name="good"), "s.busvm"), self._good(None, "s")
        for _ in range(2):
            for session, receiver, _sock in (ours, plain):
                while (message := receiver.receive()) is not None:
                    session.take(message)
        assert list(ours[0].peers) == [plain[0].id], "the peers do not know each other"
        os.eventfd_write(ours[0].peers[plain[0].id][1], 1)
        assert os.eventfd_read(plain[0].own[1]) == 1
        for session, receiver, sock in (ours, plain):
            receiver.close()
            sock.close()
            session.close()
        self._settle()
        assert open_fds() == self._fds, f"{open_fds()} descriptors, not {self._fds}"

    def _good(self, hello: Hello | None, name: str) -> tuple[Session, Receiver, socket.socket]:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self._path.with_name(name)))
        for value, _ in hello.words() if hello else ():
            sock.send(encode(value))
        sock.setblocking(False)
        self._settle()
        return Session(hello is not None), Receiver(sock), sock

    def _settle(self) -> None:
        for _ in range(12):
            self.service.turn()

    def close(self) -> None:
        """End the server."""
        self.service.close()
        self._stock.close()


def open_fds() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def run(messages: int, seed: int, first: int = 0) -> Counter[str]:
    """Play until so much was said; return figures. What should not be is printed with its episode, and raised."""
    number, warm = first, 0
    with tempfile.TemporaryDirectory(prefix="bv") as folder:
        player = Player(Path(folder))
        try:
            while player.said < messages:
                signal.alarm(PATIENCE_S)
                try:
                    player.play(seed, number)
                except Exception:
                    print(f"seed {seed}, episode {number}: {traceback.format_exc()}")
                    raise
                number += 1
                if number == first + WARM:
                    warm = resident()
            figures = Counter(player.service.counters)
        finally:
            signal.alarm(0)
            player.close()
    figures.update(said=player.said, episodes=number - first)
    if warm:
        figures["grown_bytes"] = resident() - warm
    return figures


def main(argv: list[str]) -> int:
    """Print the figures; status 1: something should not have been."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.ivshmem", description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000, metavar="N", help="how many (default: 100000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="what follows from it is the same again")
    parser.add_argument("--episode", type=int, default=0, metavar="N", help="begin with this one (default: 0)")
    options = parser.parse_args(argv)
    log.setup(level="error", as_json=False, vm="-", dev="-", epoch=0)
    started = time.monotonic()
    try:
        figures = run(options.messages, options.seed, options.episode)
    except Exception:
        return 1
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s:")
    print(", ".join(f"{name} {count}" for name, count in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
