"""State in one piece of bytes: MessagePack in a zstd frame with its checksum."""

from __future__ import annotations

from typing import Any

import msgpack

from protocol.errors import Malformed


def pack(plain: Any, *, level: int) -> bytes:
    """Return plain values as bytes, compressed at zstd's ``level``."""
    import zstandard  # seldom needed

    return zstandard.ZstdCompressor(level=level, write_checksum=True).compress(msgpack.packb(plain))


def unpack(data: bytes, *, expanded_max: int) -> Any:
    """Return what was packed, which has at most ``expanded_max`` bytes before compression.

    Raises:
        Malformed: it is none, or damaged.
    """
    import zstandard

    try:
        said = zstandard.frame_content_size(data)
        if said > expanded_max:  # a frame that says its size would get it, whatever max_output_size
            raise Malformed(f"{said} bytes are more than {expanded_max}")
        plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=expanded_max)
        return msgpack.unpackb(plain, strict_map_key=False)
    except (zstandard.ZstdError, msgpack.UnpackException, ValueError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from error
