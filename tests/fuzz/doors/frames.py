"""What is no message of the link (DESIGN §7), or none for now."""

from __future__ import annotations

from random import Random
from typing import Any

import msgpack

from protocol import messages

_ODD: tuple[Any, ...] = (-1, 1 << 63, None, True, 1.5, b"", "x" * 257, [], {}, [[]], {1: 2})


def bad_frame(chance: Random, epoch: int, *, to_device: bool) -> bytes:
    """Return one: bytes, a message cut short or with a wrong byte or field, of another epoch, or for the other side."""
    kind = chance.randrange(8)
    if kind == 0:
        return chance.randbytes(chance.choice((0, 1, 2, 7, 64, messages.MAX_MESSAGE)))
    if kind == 1:
        return bytes([0x91]) * chance.choice((1, 16, messages.MAX_MESSAGE))  # arrays in arrays
    if kind == 2:
        return messages.encode(_untimely(chance, epoch, to_device=to_device))
    if kind == 3:
        return messages.encode(_any(chance, chance.choice((0, epoch - 1, epoch + 1, 1 << 63))))
    fields = msgpack.unpackb(messages.encode(_any(chance, epoch)))
    if kind == 4:
        fields[chance.randrange(len(fields))] = chance.choice(_ODD)
    elif kind == 5:
        fields = fields[: chance.randrange(len(fields))]
    elif kind == 6:
        fields.append(chance.choice(_ODD))
    else:
        data = bytearray(messages.encode(_any(chance, epoch + 2)))
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(data)
    return bytes(msgpack.packb(fields))


def _any(chance: Random, epoch: int) -> messages.Any:
    seq, value = chance.choice((0, 1, chance.getrandbits(64))), chance.getrandbits(64)
    bar, offset, size = chance.randrange(8), chance.choice((0, 0x10, chance.getrandbits(40))), chance.randrange(1, 9)
    return chance.choice(
        (
            messages.Write(epoch, seq, bar, offset, size, value),
            messages.Read(epoch, seq, bar, offset, size),
            messages.Barrier(epoch, seq, "reset"),
            messages.Value(epoch, seq, value),
            messages.Done(epoch, seq),
        )
    )


def _untimely(chance: Random, epoch: int, *, to_device: bool) -> messages.Any:
    """Return a good message that nobody waits for; what a device has to obey, such as a reset, is not among them."""
    seq, value = (chance.getrandbits(62) | 1 << 62), chance.getrandbits(64)
    answers = messages.Value(epoch, seq, value), messages.Done(epoch, seq), messages.Fault(epoch, seq, "no")
    if not to_device:
        return chance.choice((*answers, messages.Read(epoch, seq, 0, 0, 4), messages.Barrier(epoch, seq, "reset")))
    return chance.choice(
        (
            *answers,
            messages.Barrier(epoch, seq, chance.choice(("", "x", "Reset"))),
            messages.Write(epoch, 0, chance.randrange(8), chance.getrandbits(40), 4, value),  # done long ago
        )
    )
