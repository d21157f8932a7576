"""Flattened device trees: a node as a value, and its bytes, both ways (Devicetree specification v0.4 §5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_MAGIC = 0xD00DFEED
_VERSION, _COMPATIBLE = 17, 16
_BEGIN, _END, _PROP, _NOP, _FINISH = 1, 2, 3, 4, 9
_HEADER = struct.Struct(">10I")
_DEEPEST = 64  # nodes within nodes

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


@dataclass
class Tree:
    """A whole blob: its root, the memory it reserves as (address, size), and the hart that boots."""

    root: Node
    reservations: tuple[tuple[int, int], ...] = ()
    boot_hart: int = 0

    def flatten(self) -> bytes:
        """Return the blob."""
        return flatten(self.root, boot_hart=self.boot_hart, reservations=self.reservations)


class BrokenTree(ValueError):
    """Bytes that are no device tree; the message says why."""


def parse(blob: bytes) -> Tree:
    """Return the tree of a blob; property values stay bytes.

    Raises:
        BrokenTree: it is none, or is damaged.
    """
    if len(blob) < _HEADER.size:
        raise BrokenTree(f"{len(blob)} bytes are no device tree")
    magic, total, structure_at, strings_at, reservations_at, version, compatible, boot_hart, *sizes = (
        _HEADER.unpack_from(blob)
    )
    strings_size, structure_size = sizes
    if magic != _MAGIC:
        raise BrokenTree(f"no device tree: it begins with {magic:#010x}, not {_MAGIC:#010x}")
    if version < _VERSION or compatible > _VERSION:
        raise BrokenTree(f"device tree version {version} is not known, {_VERSION} is")
    if total > len(blob):
        raise BrokenTree(f"truncated: its header says {total} bytes, the file has {len(blob)}")
    if structure_at + structure_size > total or strings_at + strings_size > total or structure_at % 4:
        raise BrokenTree("its blocks lie outside of it")
    reader = _Reader(blob[structure_at : structure_at + structure_size], blob[strings_at : strings_at + strings_size])
    return Tree(reader.root(), _reservations(blob[reservations_at:total]), boot_hart)


def _reservations(block: bytes) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for at in range(0, len(block) - 15, 16):
        entry: tuple[int, int] = struct.unpack_from(">QQ", block, at)
        if entry == (0, 0):
            return tuple(found)
        found.append(entry)
    raise BrokenTree("its reservation map has no end")


class _Reader:
    """Walks the structure block."""

    def __init__(self, structure: bytes, strings: bytes) -> None:
        self._structure = structure
        self._strings = strings
        self._at = 0

    def root(self) -> Node:
        """Return the root with all below it."""
        if self._token() != _BEGIN or self._name():
            raise BrokenTree("it does not begin with a root node")
        path = [root := Node()]
        while path:
            token = self._token()
            if token == _BEGIN:
                name = self._name()
                if name in path[-1].children or len(path) == _DEEPEST:
                    raise BrokenTree(f"node {name!r} is there twice, or too deep")
                path.append(path[-1].child(name))
            elif token == _END:
                path.pop()
            elif token == _PROP:
                length, name_at = self._word(), self._word()
                value = self._take(length)
                self._at = (self._at + 3) & -4
                path[-1].properties[_text(self._strings, name_at)] = value
            else:
                raise BrokenTree(f"unknown token {token:#x} in its structure")
        if self._token() != _FINISH:
            raise BrokenTree("something follows its root node")
        return root

    def _token(self) -> int:
        while (token := self._word()) == _NOP:
            pass
        return token

    def _word(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def _take(self, length: int) -> bytes:
        taken = self._structure[self._at : self._at + length]
        if len(taken) < length:
            raise BrokenTree("its structure ends in the middle")
        self._at += length
        return taken

    def _name(self) -> str:
        name = _text(self._structure, self._at)
        self._at = (self._at + len(name) + 4) & -4
        return name


def _text(block: bytes, at: int) -> str:
    """Return the string that begins at ``at`` and ends with a zero."""
    end = block.find(b"\0", at)
    if end < 0:
        raise BrokenTree("a name in it has no end")
    try:
        return block[at:end].decode("ascii")
    except UnicodeDecodeError as error:
        raise BrokenTree("a name in it is no text") from error


def flatten(root: Node, *, boot_hart: int = 0, reservations: tuple[tuple[int, int], ...] = ()) -> bytes:
    """Return the blob of ``root``; ``reservations`` are (address, size) of memory to keep away from."""
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
    reserved = b"".join(struct.pack(">QQ", *entry) for entry in (*reservations, (0, 0)))
    structure_at = _HEADER.size + len(reserved)
    strings_at = structure_at + len(structure)
    total = strings_at + len(strings)
    header = _HEADER.pack(
        _MAGIC, total, structure_at, strings_at, _HEADER.size, _VERSION, _COMPATIBLE,
        boot_hart, len(strings), len(structure),
    )  # fmt: skip
    return header + reserved + structure + bytes(strings)
