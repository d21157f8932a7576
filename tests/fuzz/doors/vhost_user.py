"""The socket of a vhost-user back-end: front-ends that say anything, with descriptors of any kind, at any moment."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

from devproc.virtio_spec import Feature
from protocol.errors import BusvmError
from protocol.vhost_user.connection import HEADER
from protocol.vhost_user.front_end import FrontEnd
from protocol.vhost_user.messages import Flag, ProtocolFeature, Request
from tests.conformance.front_end import IN, OUT, Guest
from tests.fuzz.doors.place import Place

EPISODES, AT_ONCE = 20, 50
_WORDS = (0, 1, 2, 7, 8, 64, 255, 256, 4096, 1 << 30, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_FEATURES = int(Feature.VERSION_1 | Feature.RING_EVENT_IDX | Feature.RING_INDIRECT_DESC | Feature.RING_PACKED) | 1 << 30


class Stranger:
    """One connection, and what is said on it by chance."""

    def __init__(self, path: Path, chance: Random, stock: list[int]) -> None:
        self._chance, self._stock = chance, stock
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.socket.settimeout(0.5)
        if chance.random() < 0.6:  # what comes is looked at more closely by whoever has agreed on something
            for request, word in (
                (
                    Request.SET_PROTOCOL_FEATURES,
                    int(ProtocolFeature.CONFIG | ProtocolFeature.MQ) | chance.getrandbits(20),
                ),
                (Request.SET_OWNER, None),
                (Request.SET_FEATURES, _FEATURES & ~(chance.getrandbits(35) & Feature.RING_PACKED)),
            ):
                self.send(request, b"" if word is None else struct.pack("<Q", word))

    def send(self, request: int, payload: bytes, *, flags: int = 1, size: int | None = None, fds: int = 0) -> None:
        """Send a message; what the back-end says, or that it hangs up, is of no interest."""
        data = HEADER.pack(request, flags, len(payload) if size is None else size) + payload
        given = [self._chance.choice(self._stock) for _ in range(fds)]
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))] if given else []
        with suppress(OSError):
            self.socket.sendmsg([data], extra, socket.MSG_NOSIGNAL)
        with suppress(OSError):
            while select.select([self.socket], [], [], 0)[0] and self.socket.recv(65536):
                pass

    def say(self) -> None:
        """Say one thing."""
        chance = self._chance
        dice = chance.random()
        request = chance.choice(list(Request)) if dice < 0.9 else chance.choice((0, 45, 1000, 0xFFFF_FFFF))
        payload = self._payload(Request(request)) if dice < 0.9 else chance.randbytes(chance.randrange(64))
        if dice < 0.2:
            payload = payload[: chance.randrange(len(payload) + 1)]
        flags = Flag.VERSION & 1 | chance.choice((0, 0, Flag.NEED_REPLY, Flag.REPLY))
        wanted = request in (
            Request.SET_VRING_KICK,
            Request.SET_VRING_CALL,
            Request.SET_VRING_ERR,
            Request.SET_MEM_TABLE,
        )
        fds = chance.choice((1, 1, 1, 0, 2)) if wanted else chance.choice((0, 0, 0, 1, 8))
        if chance.random() < 0.01:
            flags = chance.getrandbits(32)
        size = chance.choice((0, len(payload) + 1, 1 << 31)) if chance.random() < 0.003 else None
        self.send(request, payload, flags=flags, size=size, fds=fds)

    def _payload(self, request: Request) -> bytes:
        chance, layout = self._chance, request.row.payload
        words = [chance.choice(_WORDS) if chance.random() < 0.8 else chance.getrandbits(64) for _ in range(34)]
        if layout.__name__ == "VringState":
            return struct.pack("<II", chance.choice((0, 0, 0, 1, 255)), words[0] & 0xFFFF_FFFF)
        if layout.__name__ == "MemTable":
            count = chance.choice((1, 1, 2, 8, 9, 0))
            size = chance.choice((1 << 20, 1 << 20, words[0]))
            regions = [
                word for at in range(min(count, 8)) for word in (at << 20, size, at << 20, chance.choice((0, words[1])))
            ]
            return struct.pack(f"<II{len(regions)}Q", count, 0, *regions)
        if layout.__name__ == "VringAddr":
            places = (chance.choice((0, 0x1000, 0x2000, word)) for word in words[:4])
            return struct.pack("<II4Q", 0, chance.choice((0, 1)), *places)
        if layout.__name__ == "U64":
            return struct.pack("<Q", chance.choice((0, 0x100, words[0])))
        return struct.pack("<34Q", *words)[: chance.choice((8, 12, 16, 32, 40, 272))]


def front_ends(place: Place, chance: Random) -> Iterator[int]:
    """Say it to a disk's back-end; yield how much, after one who behaves has written and read."""
    image, path = place.folder / "disk.img", place.folder / "vhost"
    image.write_bytes(bytes(1 << 20))
    place.start("disk", "devproc.virtio_blk", "--vhost-user", str(path), "--image", str(image))
    place.wait(path.exists)
    memory = os.memfd_create("door")
    os.ftruncate(memory, 8 << 20)
    pipe = os.pipe2(os.O_NONBLOCK)
    stock = [memory, memory, os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(1), os.open(os.devnull, os.O_RDWR), *pipe]
    try:
        while True:
            said = 0
            for _ in range(EPISODES):
                os.pwrite(memory, chance.randbytes(0x4000), 0)  # rings, perhaps
                stranger = Stranger(path, chance, stock)
                for _ in range(AT_ONCE):
                    stranger.say()
                    said += 1
                stranger.socket.close()
            _check(path, chance)
            place.check()
            yield said
    finally:
        for fd in set(stock):
            os.close(fd)


def _check(path: Path, chance: Random) -> None:
    data = chance.randbytes(512)
    with Guest() as guest:
        guest.connect(FrontEnd.connect(path, timeout_s=30))
        try:
            assert guest.do(OUT, 3, data)[0] == 0
            assert guest.do(IN, 3, length=512) == (0, data)
        except (BusvmError, KeyError) as error:
            raise AssertionError(f"who behaves is not served: {error!r}") from error
