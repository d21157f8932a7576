"""Flattened device trees: a node as a value, and its bytes (Devicetree specification v0.4 §5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_MAGIC = 0xD00DFEED
_VERSION, _COMPATIBLE = 17, 16
_BEGIN, _END, _PROP, _FINISH = 1, 2, 3, 9

Value = int | str | bytes | list[int] | list[str] | None


@dataclass
class Node:
    """A node: properties by name, children by name. ``None`` is an empty property, an ``int`` one cell."""

    properties: dict[str, Value] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)

    def child(self, name: str, **properties: Value) -> Node:
        """Add and return a child; ``_`` in a property's keyword stands for ``-``, ``__`` for ``,``."""
        node = Node({_spelled(key): value for key, value in properties.items()})
        self.children[name] = node
        return node


def _spelled(keyword: str) -> str:
    """Return the property that a keyword stands for; ``device_type`` is the one with an underscore of its own."""
    return keyword if keyword == "device_type" else keyword.replace("__", ",").replace("_", "-")


def cells64(*numbers: int) -> list[int]:
    """Return each 64-bit number as two cells."""
    return [half for number in numbers for half in (number >> 32, number & 0xFFFF_FFFF)]


def _bytes(value: Value) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode() + b"\0"
    if isinstance(value, int):
        return struct.pack(">I", value)
    return b"".join(_bytes(item) for item in value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def flatten(root: Node, *, boot_hart: int = 0) -> bytes:
    """Return the blob of ``root``, with an empty reservation map."""
    strings = bytearray()
    offsets: dict[str, int] = {}

    def string(name: str) -> int:
        if name not in offsets:
            offsets[name] = len(strings)
            strings.extend(name.encode() + b"\0")
        return offsets[name]

    def emit(name: str, node: Node) -> bytes:
        parts = [struct.pack(">I", _BEGIN), _padded(name.encode() + b"\0")]
        for key, value in node.properties.items():
            data = _bytes(value)
            parts.append(struct.pack(">III", _PROP, len(data), string(key)) + _padded(data))
        parts.extend(emit(child, below) for child, below in node.children.items())
        parts.append(struct.pack(">I", _END))
        return b"".join(parts)

    structure = emit("", root) + struct.pack(">I", _FINISH)
    header_size, reservations = 40, bytes(16)
    structure_at = header_size + len(reservations)
    strings_at = structure_at + len(structure)
    total = strings_at + len(strings)
    header = struct.pack(
        ">10I",
        _MAGIC, total, structure_at, strings_at, header_size, _VERSION, _COMPATIBLE,
        boot_hart, len(strings), len(structure),
    )  # fmt: skip
    return header + reservations + structure + bytes(strings)
