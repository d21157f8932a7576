"""Messages of the link between ``cpu_proc`` and one device (DESIGN §7).

Wire: MessagePack arrays, ``[type, epoch, seq, …]``. ``msgpack`` makes the bytes, ``msgspec`` checks types, lengths
and ranges; whatever fails is ``Malformed``. Register accesses and life-cycle barriers only: data never travels here.
"""

from __future__ import annotations

from typing import Annotated

import msgpack
import msgspec

from protocol.errors import Malformed

U64 = Annotated[int, msgspec.Meta(ge=0)]  # MessagePack itself ends at 2**64 - 1
Bar = Annotated[int, msgspec.Meta(ge=0, le=7)]
Offset = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
Size = Annotated[int, msgspec.Meta(ge=1, le=8)]
Text = Annotated[str, msgspec.Meta(max_length=256)]

MAX_MESSAGE = 512


class Message(msgspec.Struct, array_like=True, frozen=True, tag_field="type"):
    """Base of all: ``epoch`` names the incarnation of the device, ``seq`` the place in its order."""

    epoch: U64
    seq: U64


class Write(Message, tag="w", array_like=True, frozen=True):
    """cpu → device, posted: ``seq`` is the count of posted writes including this one."""

    bar: Bar
    offset: Offset
    size: Size
    value: U64


class Read(Message, tag="r", array_like=True, frozen=True):
    """cpu → device: a read with a side effect, or one that must flush posted writes. Answered by ``Value``."""

    bar: Bar
    offset: Offset
    size: Size


class Barrier(Message, tag="b", array_like=True, frozen=True):
    """cpu → device: do everything sent before, then act. Answered by ``Done``.

    ``what`` is ``flush`` (nothing more), ``reset`` (power-on state of the function), ``quiesce`` (stop at a
    descriptor boundary), ``resume``.
    """

    what: Text


class Value(Message, tag="v", array_like=True, frozen=True):
    """device → cpu: what the ``Read`` of the same ``seq`` found."""

    value: U64


class Done(Message, tag="d", array_like=True, frozen=True):
    """device → cpu: the ``Barrier`` of the same ``seq`` is through."""


class Fault(Message, tag="f", array_like=True, frozen=True):
    """Either way: the message of ``seq`` was refused, and why. Never answered."""

    reason: Text


Any = Write | Read | Barrier | Value | Done | Fault


def encode(message: Any) -> bytes:
    """Return the bytes of ``message``."""
    data: bytes = msgpack.packb(msgspec.to_builtins(message), use_bin_type=True)
    return data


def decode(data: bytes | memoryview) -> Any:
    """Return the message in ``data``.

    Raises:
        Malformed: not MessagePack, too long, an unknown type, a field too many or out of range.
    """
    if len(data) > MAX_MESSAGE:
        raise Malformed(f"message of {len(data)} bytes")
    try:
        raw = msgpack.unpackb(data, max_array_len=16, max_map_len=0, max_str_len=256, max_bin_len=0)
    except Exception as error:
        # msgpack raises ValueError, its own classes and more; all of them mean the same here
        raise Malformed(f"not MessagePack: {type(error).__name__}") from error
    try:
        message = msgspec.convert(raw, type=Any)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from error
    if len(raw) != len(message.__struct_fields__) + 1:
        raise Malformed(f"{raw[0]!r} with {len(raw)} items")
    return message  # type: ignore[no-any-return]
