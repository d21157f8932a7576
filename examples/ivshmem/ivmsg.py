#!/usr/bin/env python3
"""``ivmsg`` in Python, the same messages: on the host as a peer of the server, in a guest by sysfs and UIO.

ivmsg.py send|receive|echo --socket shared           # a peer on the host; devproc of busvm has to be importable
ivmsg.py send|receive|echo --uio /dev/uio0           # in a guest
ivmsg.py send|receive|echo --memory FILE --poll      # any file
"""

from __future__ import annotations

import argparse
import glob
import mmap
import os
import select
import struct
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

from ivqueue import Bad, Gone, Queue

_WORDS = struct.Struct("<III")
_PATTERN = bytes(range(256)) * 257
_GIVE_WAY_EVERY = 64
_A_MOMENT_S = 0.005


class File:
    """Memory without doorbells."""

    rings, position = False, 0

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.memory = memoryview(self._map)

    def ring(self, bell: int) -> None:
        """Ring nobody."""


class Device(File):
    """The first ivshmem device of a guest; see ``device.h``."""

    rings = True

    def __init__(self, uio: str) -> None:
        folder = next((f for f in glob.glob("/sys/bus/pci/devices/*") if _is_ivshmem(f)), None)
        if folder is None:
            raise OSError("there is no ivshmem device")
        self._config = os.open(f"{folder}/config", os.O_RDWR)
        command = int.from_bytes(os.pread(self._config, 2, 4), "little")
        self._command = (command & ~0x400 | 2).to_bytes(2, "little")  # memory, and the interrupt
        os.pwrite(self._config, self._command, 4)
        super().__init__(f"{folder}/resource2")
        with open(f"{folder}/resource0", "r+b") as file:
            self._registers = memoryview(mmap.mmap(file.fileno(), 256)).cast("I")
        self.position = self._registers[2]
        self._uio = os.open(uio, os.O_RDWR) if uio else -1
        if uio:
            self._registers[0] = 1
            self._arm()

    def _arm(self) -> None:
        _ = self._registers[1]  # reading lowers the wire
        os.pwrite(self._config, self._command, 4)  # UIO has switched the interrupt off until we looked

    def ring(self, bell: int) -> None:
        """Ring a peer."""
        self._registers[3] = bell

    def wait(self, seconds: float) -> bool:
        """Sleep until the device rings; False: not in time."""
        if not select.select([self._uio], [], [], seconds)[0]:
            return False
        os.read(self._uio, 4)
        self._arm()
        return True


class Peer:
    """A program on the host."""

    rings = True

    def __init__(self, socket: str) -> None:
        from devproc.ivshmem.client import connect
        from protocol.errors import NotFound

        self._not_found = NotFound
        self._client = connect(socket)
        self.memory, self.position = self._client.memory, self._client.id

    def ring(self, bell: int) -> None:
        """Ring a peer."""
        try:
            self._client.ring(bell >> 16, bell & 0xFFFF)
        except self._not_found:
            pass  # it has just left, or says what is not true

    def wait(self, seconds: float) -> bool:
        """Sleep until somebody rings; False: not in time."""
        return bool(self._client.wait(0, seconds))


def _is_ivshmem(folder: str) -> bool:
    with open(f"{folder}/modalias") as file:
        return file.read().startswith("pci:v00001AF4d00001110")


class Talk:
    """A queue on a transport, with waits."""

    def __init__(self, transport: Any, options: argparse.Namespace) -> None:
        self._transport, self._timeout_s = transport, options.timeout
        self._sleeps_if = transport.rings and not options.poll
        memory = transport.memory[options.offset :]
        random = int.from_bytes(os.urandom(4), "little")
        self.queue = Queue(
            memory, options.side, options.order, transport.position << 16, rings=transport.rings, random=random
        )
        self.rings = self.sleeps = 0
        self._heard = False
        self.ring()
        self._until(self._connect)

    def ring(self, *, for_room: bool = False) -> None:
        """Ring the other side if it waits for it."""
        bell = self.queue.must_ring(for_room=for_room)
        if bell is not None and self._transport.rings:
            self._transport.ring(bell)
            self.rings += 1

    def _connect(self) -> bool:
        seen = self.queue.seen
        done = self.queue.connect()
        if done or self.queue.seen != seen:
            self.ring()
        return done

    def put(self, data: bytes) -> None:
        """Send, when there is room."""
        self._until(lambda: self.queue.put(data))
        self.ring()

    def get(self) -> bytes:
        """Receive, when there is something."""
        data: bytes = self._until(self.queue.get)
        self.ring(for_room=True)
        return data

    def drain(self) -> None:
        """Wait until all was taken."""
        self._until(self.queue.drained)

    def leave(self) -> None:
        """Be gone."""
        self.queue.leave()
        self.ring()

    def _until(self, attempt: Callable[[], Any]) -> Any:
        """Return the first result that is something."""
        deadline, turn = 0.0, 0
        while (result := attempt()) is None or result is False:
            deadline = deadline or time.monotonic() + self._timeout_s
            if self._sleeps_if:
                result = self._sleep(attempt)
                if result is not None and result is not False:
                    return result
            turn += 1
            if turn % _GIVE_WAY_EVERY == 0:
                os.sched_yield()
            if (self._sleeps_if or turn % _GIVE_WAY_EVERY == 0) and time.monotonic() > deadline:
                other = "the other side does nothing any more" if self.queue.seen else "nobody is at the other side"
                raise TimeoutError(self.queue.error or other)
        return result

    def _sleep(self, attempt: Callable[[], Any]) -> Any:
        self.queue.sleep()
        try:
            result = attempt()
            if result is not None and result is not False:
                return result
            self.sleeps += 1
            # a ring to a peer that is not known yet is lost; once the other side has rung we rely on it
            relied = self._heard and self.queue.other_rings
            woken = self._transport.wait(self._timeout_s if relied else _A_MOMENT_S)
            self._heard |= woken
            if relied and not woken:
                result = attempt()
                if result is not None and result is not False:
                    raise TimeoutError("what was waited for was there, and nobody had rung")
        finally:
            self.queue.wake()
        return None


def fill(number: int, length: int) -> bytes:
    """Make message ``number``."""
    start = number + _WORDS.size & 0xFF
    pattern = _PATTERN[start : start + length - _WORDS.size]
    crc = zlib.crc32(pattern)
    return _WORDS.pack(number, ~(number + crc) & 0xFFFF_FFFF, crc) + pattern


def number_of(data: bytes) -> int | None:
    """Return the number of a message, or None if it is not as ``fill`` made it."""
    if len(data) < _WORDS.size:
        return None
    number, check, crc = _WORDS.unpack_from(data)
    found = zlib.crc32(data[_WORDS.size :])
    return number if crc == found and check == ~(number + crc) & 0xFFFF_FFFF else None


def send(talk: Talk, options: argparse.Namespace) -> int:
    """Send all messages."""
    started = time.monotonic()
    for number in range(options.count):
        talk.put(fill(number, options.size))
    talk.drain()
    return report(talk, options.count, 0, 0, 0, time.monotonic() - started)


def receive(talk: Talk, options: argparse.Namespace) -> int:
    """Receive all messages."""
    expected = received = lost = repeated = corrupt = 0
    started = time.monotonic()
    while expected < options.count:
        try:
            number = number_of(talk.get())
        except Gone:
            if received < options.count:
                report(talk, received, options.count - received, repeated, corrupt, time.monotonic() - started)
            raise
        received += 1
        if number is None:
            corrupt += 1
        elif number < expected:
            repeated += 1
        else:
            lost, expected = lost + number - expected, number + 1
    return report(talk, received, max(lost - corrupt, 0), repeated, corrupt, time.monotonic() - started)


def report(talk: Talk, received: int, lost: int, repeated: int, corrupt: int, seconds: float) -> int:
    """Print the one line; return the exit status."""
    sys.stdout.write(
        f"messages={received} lost={lost} repeated={repeated} corrupt={corrupt} seconds={seconds:.3f} "
        f"rings={talk.rings} sleeps={talk.sleeps}\n"
    )
    sys.stdout.flush()
    return 1 if lost or repeated or corrupt else 0


def echo(talk: Talk, _options: argparse.Namespace) -> int:
    """Send back what comes, until the other side leaves."""
    try:
        while True:
            talk.put(talk.get())
    except Gone:
        return 0


def main() -> int:
    """Run a verb; return the exit status."""
    parser = argparse.ArgumentParser(prog="ivmsg.py", description="Messages through memory that machines share.")
    verbs = {"send": (send, 0), "receive": (receive, 1), "echo": (echo, 1)}
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("--socket", help="of the server; on the host")
    parser.add_argument("--memory", help="this file instead of a device")
    parser.add_argument("--uio", default="", help="sleep by this device; in a guest")
    parser.add_argument("--poll", action="store_true", help="look for messages again and again")
    parser.add_argument("--side", type=int, choices=(0, 1))
    parser.add_argument("--offset", type=lambda text: int(text, 0), default=0)
    parser.add_argument("--order", type=int, default=16)
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=10)
    options = parser.parse_args()
    run, side = verbs[options.verb]
    options.side = side if options.side is None else options.side
    options.poll |= not (options.socket or options.uio)
    try:
        if options.socket:
            transport: Any = Peer(options.socket)
        else:
            transport = File(options.memory) if options.memory else Device(options.uio)
        talk = Talk(transport, options)
        status = run(talk, options)
        talk.leave()
        return status
    except (OSError, ValueError, TimeoutError, Bad, Gone) as error:
        sys.stderr.write(f"ivmsg.py: {error}\n")
    except Exception as error:
        if not hasattr(error, "exit_status"):  # an error of busvm's own says one line, too
            raise
        sys.stderr.write(f"ivmsg.py: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
