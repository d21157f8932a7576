"""A guest by hand: ARP, DHCP, UDP and as much of TCP as a test needs, out of bytes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from devproc.descriptors import Descriptors
from devproc.network.backend import PLAIN, Network
from tests.unit.devproc.network.cards import ScriptedCard, turn_until

MAC = bytes.fromhex("525400123456")
SYN, ACK, FIN, RST, PSH = 2, 16, 1, 4, 8
WINDOW = 65535


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(kind: int, body: bytes, to: bytes = b"\xff" * 6) -> bytes:
    return to + MAC + struct.pack(">H", kind) + body


def ipv4(source: str, target: str, protocol: int, body: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def pseudo(source: str, target: str, protocol: int, size: int) -> bytes:
    return socket.inet_aton(source) + socket.inet_aton(target) + struct.pack(">BBH", 0, protocol, size)


def udp(source: str, sport: int, target: str, dport: int, body: bytes) -> bytes:
    head = struct.pack(">HHH", sport, dport, 8 + len(body))
    check = checksum(pseudo(source, target, 17, 8 + len(body)) + head + b"\0\0" + body)
    return ethernet(0x800, ipv4(source, target, 17, head + struct.pack(">H", check) + body))


def tcp(
    source: str, sport: int, target: str, dport: int, seq: int, ack: int, flags: int, body: bytes = b"", mss: int = 0
) -> bytes:
    options = struct.pack(">BBH", 2, 4, mss) if mss else b""
    head = struct.pack(">HHIIBBH", sport, dport, seq, ack, (20 + len(options)) // 4 << 4, flags, WINDOW)
    check = checksum(pseudo(source, target, 6, 20 + len(options) + len(body)) + head + bytes(4) + options + body)
    return ethernet(0x800, ipv4(source, target, 6, head + struct.pack(">HH", check, 0) + options + body))


def arp(operation: int, source: str, target: str, to: bytes = bytes(6)) -> bytes:
    body = (
        struct.pack(">HHBBH", 1, 0x800, 6, 4, operation)
        + MAC
        + socket.inet_aton(source)
        + to
        + socket.inet_aton(target)
    )
    return ethernet(0x806, body)


def dhcp(kind: int, *options: bytes) -> bytes:
    head = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x1234_5678, 0, 0x8000) + bytes(16) + MAC.ljust(16, b"\0") + bytes(192)
    body = head + bytes.fromhex("63825363") + bytes([53, 1, kind]) + b"".join(options) + b"\xff"
    return udp("0.0.0.0", 68, "255.255.255.255", 67, body)


def dhcp_options(body: bytes) -> dict[int, bytes]:
    found, at = {}, 240
    while body[at] != 255:
        if body[at]:
            found[body[at]] = body[at + 2 : at + 2 + body[at + 1]]
            at += body[at + 1] + 1
        at += 1
    return found


@dataclass
class Segment:
    """A TCP segment, or a UDP datagram."""

    source: str
    sport: int
    target: str
    dport: int
    seq: int = 0
    ack: int = 0
    flags: int = 0
    body: bytes = b""


def parse(frame: bytes, protocol: int) -> Segment | None:
    """Return the segment in a frame, its checksum verified."""
    if frame[12:14] != b"\x08\x00" or frame[23] != protocol:
        return None
    packet = frame[14 : 14 + int.from_bytes(frame[16:18], "big")]
    assert checksum(packet[:20]) == 0
    source, target, rest = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), packet[20:]
    sport, dport = struct.unpack_from(">HH", rest)
    if protocol == 17:
        return Segment(source, sport, target, dport, body=rest[8:])
    assert checksum(pseudo(source, target, 6, len(rest)) + rest) == 0
    seq, ack, offset, flags = struct.unpack_from(">IIBB", rest, 4)
    return Segment(source, sport, target, dport, seq, ack, flags, rest[offset >> 4 << 2 :])


class HandGuest:
    """A guest on a network; it answers ARP by itself."""

    def __init__(self, network: Network, address: str = "10.0.2.15", free: int = 1 << 30) -> None:
        self.network, self.address = network, address
        self.descriptors = Descriptors()
        self.card = ScriptedCard(free)
        self.seen = 0
        network.start(self.card, self.descriptors)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            assert self.network.send(0, PLAIN, [memoryview(frame)])
        self.network.flush()
        self.network.answer()

    def until(self, done: Callable[[], object], seconds: float = 5.0) -> None:
        turn_until(self.descriptors, lambda: self.answered() and done(), seconds)

    def answered(self) -> bool:
        """Answer ARP requests for our address."""
        for frame in self.card.frames[self.seen :]:
            self.seen += 1
            if frame[12:14] == b"\x08\x06" and frame[21] == 1 and frame[38:42] == socket.inet_aton(self.address):
                self.send(arp(2, self.address, socket.inet_ntoa(frame[28:32]), frame[22:28]))
        return True

    def segments(self, protocol: int = 6) -> list[Segment]:
        return [found for frame in self.card.frames if (found := parse(frame, protocol))]

    def ask(self, target: str, port: int, body: bytes, sport: int = 5000) -> bytes:
        """Return the answer to a datagram."""
        self.send(udp(self.address, sport, target, port, body))
        self.until(lambda: any(each.dport == sport for each in self.segments(17)))
        return next(each.body for each in self.segments(17) if each.dport == sport)

    def close(self) -> None:
        self.network.close()
        self.descriptors.close()


class Connection:
    """A TCP connection of a guest: everything arrives, for this is no network."""

    def __init__(self, guest: HandGuest, target: str, port: int, sport: int, mss: int = 1460) -> None:
        self.guest, self.target, self.port, self.sport, self.mss = guest, target, port, sport, mss
        self.seq, self.ack, self.received, self.flags, self.acked = 1000, 0, bytearray(), 0, 0
        self._seen = len(guest.card.frames)

    def connect(self) -> Connection:
        self.put(SYN, mss=self.mss)
        self.seq += 1
        self.until(lambda: self.flags & (SYN | RST))
        return self

    def accept(self) -> Connection:
        """Wait for a connection to our port, whoever it comes from."""

        def came() -> bool:
            for found in self.guest.segments():
                if found.dport == self.sport and found.flags & SYN:
                    self.target, self.port = found.source, found.sport
            return bool(self.port)

        self.guest.until(came)
        self.until(lambda: self.flags & SYN)
        self.put(SYN | ACK, mss=self.mss)
        self.seq += 1
        return self

    def put(self, flags: int, body: bytes = b"", mss: int = 0) -> None:
        self.guest.send(
            tcp(self.guest.address, self.sport, self.target, self.port, self.seq, self.ack, flags, body, mss)
        )

    def write(self, data: bytes) -> None:
        """Send data, as much at once as the network takes without an answer."""
        for at in range(0, len(data), self.mss):
            body = data[at : at + self.mss]
            self.put(ACK | PSH, body)
            self.seq += len(body)
            self.until(lambda: self.acked >= self.seq)

    def finish(self) -> None:
        self.put(FIN | ACK)
        self.seq += 1

    def until(self, done: Callable[[], object]) -> None:
        self.guest.until(lambda: self.look() and done())

    def look(self) -> bool:
        """Take what has arrived, and acknowledge it."""
        frames = self.guest.card.frames
        answer = False
        while self._seen < len(frames):
            found = parse(frames[self._seen], 6)
            self._seen += 1
            if found is None or (found.dport, found.source, found.sport) != (self.sport, self.target, self.port):
                continue
            self.flags |= found.flags
            if found.flags & ACK:
                self.acked = max(self.acked, found.ack)
            if found.flags & SYN:
                self.ack = found.seq + 1
                answer = bool(found.flags & ACK)
                continue
            if found.seq != self.ack:
                answer = True  # seen before
                continue
            self.received += found.body
            self.ack += len(found.body) + bool(found.flags & FIN)
            answer = answer or bool(found.body or found.flags & FIN)
        if answer:
            self.put(ACK)
        return True
