"""A disk in a snapshot: which content of the image it goes with, and the changes of a disk that forgets.

An image that the guest writes is not copied: a snapshot is good as long as nobody has written it since. With
``snapshot = true`` the image stays as it is and the changes are in the snapshot.
"""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO

import msgpack

from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.backing import Backing
from devproc.virtio_blk.overlay import Overlay
from protocol.errors import ConfigError, Malformed

_LENGTH = struct.Struct("<I")
_FACTS_MAX = 64 << 20


def save(disk: Backing, file: BinaryIO) -> None:
    """Write it.

    Raises:
        OSError: there is no room.
    """
    facts = _facts(disk)
    if isinstance(disk, Overlay):
        facts |= {"map": bytes(disk.map), "mortal": disk.mortal}
    packed = msgpack.packb(facts)
    file.write(_LENGTH.pack(len(packed)))
    file.write(packed)
    if isinstance(disk, Overlay):
        disk.save(file)


def load(disk: Backing, file: BinaryIO) -> None:
    """Take the changes over.

    Raises:
        ConfigError: the image is not as it was, or the disk forgets now and did not then.
        Malformed: the file is broken.
    """
    facts = _read(file)
    if ("map" in facts) is not isinstance(disk, Overlay):
        raise ConfigError("its key `snapshot` was another when it was saved")
    now = _facts(disk)
    if now["size"] != facts.get("size"):
        raise ConfigError(f"image {disk.path} has {now['size']} bytes, {facts.get('size')} when it was saved")
    if now["mtime_ns"] != facts.get("mtime_ns"):
        raise ConfigError(
            f"image {disk.path} was written after the snapshot was made",
            hint="bring back the image of then, with its time (cp -p); snapshot = true keeps images as they are",
        )
    if isinstance(disk, Overlay):
        disk.load(file, facts["map"], facts["mortal"])


def _facts(disk: Backing) -> dict[str, Any]:
    image = disk.base if isinstance(disk, Overlay) else disk
    assert isinstance(image, Image)
    found = os.fstat(image.fd)
    return {"size": image.size, "mtime_ns": found.st_mtime_ns}


def _read(file: BinaryIO) -> dict[str, Any]:
    head = file.read(_LENGTH.size)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
    packed = file.read(length) if length <= _FACTS_MAX else b""
    try:
        facts = msgpack.unpackb(packed)
        if not isinstance(facts, dict):
            raise TypeError
        return facts
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Malformed("what was saved of the disk is broken") from error
